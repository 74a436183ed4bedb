"The vLLM sampler against a stand-in: what it asks for, what it makes of the answer, whether the weights arrive."

import os
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from mpo_nb.config import TrainConfig
from mpo_nb.models.logprobs import response_logps
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.sampling.vllm import VLLMSampler, sampler_mismatch
from mpo_nb.tasks.prompts import render_prompt
from mpo_nb.tasks.sums import chain_sum
from mpo_nb.tasks.task import Task
from mpo_nb.training.trainer import Trainer

# The stand-in knows these arguments and no others, so that a wrong name is a TypeError. The names are those of vLLM's
# own signatures.


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self):
        assert (
            self.n >= 1
            and self.temperature >= 0
            and 0 < self.top_p <= 1
            and self.top_k >= -1
            and not isinstance(self.stop, str)
        )


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    """The tiny model behind vLLM's interface. Keeps an adapter that it knows, refuses to work asleep or with a stale
    prefix cache, and notices stop strings `late` tokens late."""

    made = []
    late = 2

    def __init__(
        self,
        model,
        *,
        dtype="auto",
        seed=None,
        gpu_memory_utilization=0.9,
        max_model_len=None,
        enable_sleep_mode=False,
        logprobs_mode="raw_logprobs",
        enable_lora=False,
        max_loras=1,
        max_lora_rank=16,
        enforce_eager=False,
        distributed_executor_backend=None,
        tensor_parallel_size=1,
    ):
        assert distributed_executor_backend in (None, "mp", "uni", "ray", "external_launcher")
        assert logprobs_mode in ("raw_logprobs", "processed_logprobs") and max_lora_rank in (
            1,
            8,
            16,
            32,
            64,
            128,
            256,
            320,
            512,
        )
        self.model, self.tokenizer = (
            AutoModelForCausalLM.from_pretrained(model).eval(),
            AutoTokenizer.from_pretrained(model),
        )
        self.mode = logprobs_mode
        self.enable_lora = enable_lora
        self.max_lora_rank = max_lora_rank
        self.sleep_mode = enable_sleep_mode
        self.adapters = {}
        # Tensors can be handed over where the engine lives in this process, which these two bring about.
        here = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") == "0"
        self.in_process = here or distributed_executor_backend == "external_launcher"
        self.backend = distributed_executor_backend
        self.sleeping = set()
        self.stale = False
        self.naps = 0
        self.log = []
        self.max_model_len = max_model_len
        LLM.made.append(self)

    @property
    def asleep(self):
        return bool(self.sleeping)

    def sleep(self, level=1):
        assert self.sleep_mode and self.sleeping != {"weights", "kv_cache"} and level in (1, 2)
        self.sleeping, self.naps = {"weights", "kv_cache"}, self.naps + 1
        self.log.append(f"sleep {level}")
        if level == 2:
            self.model = None  # dropped

    def wake_up(self, tags=None):
        tags = ["weights", "kv_cache"] if tags is None else tags
        assert self.sleep_mode and set(tags) <= {"weights", "kv_cache"} and set(tags) <= self.sleeping
        self.sleeping -= set(tags)
        self.log += [f"wake {tag}" for tag in tags]

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        assert "weights" not in self.sleeping
        handed = [*args, *(kwargs or {}).values()]
        assert self.in_process or all(isinstance(x, str | bool | None) for x in handed), "tensors do not travel"
        return [getattr(self, method)(*args, **(kwargs or {}))]

    def reload_weights(self, weights_iterator=None, weights_path=None, is_checkpoint_format=True):
        self.log.append("reload")
        if weights_iterator is None:
            self.model = AutoModelForCausalLM.from_pretrained(weights_path).eval()
        else:
            self.model = AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval()
            known = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, tensor in weights_iterator:
                    known.pop(name).copy_(tensor)
            assert not known, "every weight comes"
        self.stale = True

    def reset_prefix_cache(self):
        self.stale = False
        return True

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        assert not self.asleep and not self.stale and len(prompts) == len(sampling_params)
        model = self.model
        self.asked = sampling_params
        if lora_request:
            assert self.enable_lora and lora_request.lora_int_id > 0
            if lora_request.lora_int_id not in self.adapters:
                found = PeftModel.from_pretrained(
                    AutoModelForCausalLM.from_pretrained(tiny_model_path()), lora_request.lora_path
                ).eval()
                assert found.peft_config["default"].r <= self.max_lora_rank
                self.adapters[lora_request.lora_int_id] = found
            model = self.adapters[lora_request.lora_int_id]
        return [
            RequestOutput([self._sample(model, p["prompt_token_ids"], how, i) for i in range(how.n)][::-1])
            for p, how in zip(prompts, sampling_params)
        ]

    @torch.no_grad()
    def _sample(self, model, prompt, how, index):
        assert how.logprobs == 0 and len(prompt) + how.max_tokens <= (self.max_model_len or 256)
        g = torch.Generator().manual_seed(how.seed + index)
        ids = []
        logprobs = []
        left = None
        while len(ids) < how.max_tokens and left != 0:
            raw = model(torch.tensor([[*prompt, *ids]])).logits[:, -1]
            scores = raw / (how.temperature or 1.0)
            if how.top_k > 0:
                scores = TopKLogitsWarper(how.top_k)(None, scores)
            if how.top_p < 1:
                scores = TopPLogitsWarper(how.top_p)(None, scores)
            token = (
                int(scores.argmax())
                if how.temperature == 0
                else int(torch.multinomial(scores.softmax(-1), 1, generator=g))
            )
            ids.append(token)
            logprobs.append(
                {token: Logprob(float((raw if self.mode == "raw_logprobs" else scores).log_softmax(-1)[0, token]))}
            )
            if left is not None:
                left -= 1
            elif token == self.tokenizer.eos_token_id or token in (how.stop_token_ids or []):
                break
            elif any(
                s in self.tokenizer.decode(ids, skip_special_tokens=how.skip_special_tokens) for s in how.stop or []
            ):
                left = self.late
        return CompletionOutput(index, ids, logprobs)


@pytest.fixture
def vllm(monkeypatch):
    "A module named vllm, for the length of a test."
    package = types.ModuleType("vllm")
    lora = types.ModuleType("vllm.lora")
    request = types.ModuleType("vllm.lora.request")
    package.LLM = LLM
    package.SamplingParams = SamplingParams
    request.LoRARequest = LoRARequest
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    for module in (package, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    LLM.made.clear()
    return package


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval(), AutoTokenizer.from_pretrained(
        tiny_model_path()
    )


@pytest.fixture(scope="module")
def prompts():
    return [p["prompt"] for p in chain_sum(16, 4).train][:3] + ["1+1?"]


def recomputed(model, r, temperature=1.0):
    with torch.no_grad():
        return response_logps(model, r.prompt_ids, r.prompt_mask, r.ids, r.mask, temperature)[0]


def moved(model, scale=0.05):
    "The model's weights, moved a little, in a model of its own."
    new = AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval()
    g = torch.Generator().manual_seed(0)
    for p in new.parameters():
        p.data += scale * p.data.std() * torch.randn(p.shape, generator=g)
    return new


# What comes back


def test_a_rollout_like_any_other(vllm, tiny, prompts):
    model, tokenizer = tiny
    sampler = VLLMSampler(tiny_model_path(), tokenizer)
    sampler.sync(model)
    r = sampler(prompts, 3, 40, seed=1)
    reference = rollout(model, tokenizer, prompts, 3, 40, seed=1)
    assert torch.equal(r.prompt_ids, reference.prompt_ids) and torch.equal(r.prompt_mask, reference.prompt_mask)
    assert [(x.dtype, x.dim()) for x in (r.ids, r.mask, r.logps, r.finished)] == [
        (x.dtype, x.dim()) for x in (reference.ids, reference.mask, reference.logps, reference.finished)
    ]
    assert (
        r.mask.shape[1] == r.lengths.max()
        and (r.logps[~r.mask] == 0).all()
        and (r.ids[~r.mask] == tokenizer.pad_token_id).all()
    )
    for i in range(len(r.ids)):
        ids = r.ids[i, : r.lengths[i]].tolist()
        assert (
            r.texts[i] == tokenizer.decode(ids, skip_special_tokens=True)
            and bool(r.finished[i]) == (ids[-1] == tokenizer.eos_token_id)
            and tokenizer.eos_token_id not in ids[:-1]
        )
    found = sampler_mismatch(r.logps, recomputed(model, r), r.mask)
    assert sampler.comparable and found["mismatch_max"] < 1e-4 and found["mismatch_beyond"] == 0


def test_groups_stay_together_and_members_differ(vllm, tiny, prompts):
    sampler = VLLMSampler(tiny_model_path(), tiny[1])
    r = sampler([prompts[0], prompts[0]], 6, 40, seed=1)
    a = r.texts[:6]
    b = r.texts[6:]
    assert len(set(a)) > 1 and a != b, "the same prompt twice has random numbers of its own"
    assert (
        sampler([prompts[0], prompts[0]], 6, 40, seed=1).texts
        == r.texts
        != sampler([prompts[0], prompts[0]], 6, 40, seed=2).texts
    )
    assert sampler([prompts[0], prompts[0]], 2, 40, seed=1).texts == a[:2] + b[:2], (
        "members come in the order of their numbers"
    )
    singles = sampler([prompts[0], prompts[3]], 1, 40, greedy=True)
    assert singles.texts == rollout(*tiny, [prompts[0], prompts[3]], 1, 40, greedy=True).texts


@pytest.mark.parametrize("stop", [[";"], ["12;1", "#"], ["nothing"]], ids=str)
def test_responses_end_where_ours_end(vllm, tiny, prompts, stop):
    sampler = VLLMSampler(tiny_model_path(), tiny[1])
    free = sampler(prompts, 4, 40, seed=3)
    r = sampler(prompts, 4, 40, seed=3, stop=stop)
    for i in range(len(r.ids)):
        ids = free.ids[i, : free.lengths[i]].tolist()
        n = next((n for n in range(1, len(ids) + 1) if any(s in tiny[1].decode(ids[:n]) for s in stop)), None)
        assert r.ids[i, : r.lengths[i]].tolist() == ids[:n] and bool(r.finished[i]) == (
            n is not None or bool(free.finished[i])
        )
    assert stop == ["nothing"] or r.finished.all() and (r.lengths < free.lengths).any()


def test_end_tokens_of_the_generation_config_end_responses(vllm, prompts):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    hash_id = tokenizer.convert_tokens_to_ids("#")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, hash_id]
    sampler = VLLMSampler(tiny_model_path(), tokenizer)
    sampler.sync(model)
    r = sampler(prompts, 4, 40, seed=3)
    assert all(how.stop_token_ids == sorted((hash_id, tokenizer.eos_token_id)) for how in LLM.made[0].asked), (
        "the engine would go on"
    )
    assert r.finished.any() and all(
        r.ids[i, r.lengths[i] - 1] in (hash_id, tokenizer.eos_token_id) for i in r.finished.nonzero()[:, 0]
    )


def test_a_chat_keeps_its_ids_and_its_turns_end(vllm, tiny, prompts):
    model = tiny[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<unk>{% endfor %}"
    sampler = VLLMSampler(tiny_model_path(), tokenizer)
    chat = render_prompt(tokenizer, chain_sum(2, 2), dict(prompt="1+1?"))
    for sync in (False, True):
        if sync:
            sampler.sync(model)
        r = sampler([chat], 1, 8, stop=["<unk>1"])
        assert r.prompt_ids.tolist() == [tokenizer("1+1?<unk>", add_special_tokens=False)["input_ids"]]
        (asked,) = LLM.made[0].asked
        assert (
            asked.stop_token_ids == [tokenizer.eos_token_id, tokenizer.unk_token_id] and not asked.skip_special_tokens
        )
    with pytest.raises(ValueError, match="prompts='1+1' is one text".replace("+", r"\+")):
        sampler("1+1")
    with pytest.raises(ValueError, match="stop='#' is one"):
        sampler([chat], 1, 8, stop="#")


# Log-probabilities


@pytest.mark.parametrize(
    "options, comparable",
    [
        (dict(), True),
        (dict(temperature=0.7), True),
        (dict(top_p=0.7), True),
        (dict(top_k=3), True),
        (dict(temperature=0.7, top_p=0.7), False),
    ],
    ids=str,
)
def test_log_probabilities_are_comparable_wherever_they_can_be(vllm, tiny, prompts, options, comparable):
    model, tokenizer = tiny
    sampler = VLLMSampler(tiny_model_path(), tokenizer, **options)
    r = sampler(prompts, 6, 40, seed=1)
    found = sampler_mismatch(r.logps, recomputed(model, r, options.get("temperature", 1.0)), r.mask)
    assert sampler.comparable == comparable
    if comparable:
        assert found["mismatch_max"] < 1e-4
    else:
        assert 1e-3 < found["mismatch_max"] <= -torch.tensor(0.7).log() + 1e-4 and found["mismatch_k1"] > 1e-3, (
            "too high by the mass that was cut, at most -log(top_p)"
        )


def test_mismatch_by_hand():
    theirs = torch.tensor([[-1.0, -2.0], [-3.0, 7.0]])
    ours = torch.tensor([[-1.5, -2.0], [-2.0, float("nan")]])
    found = sampler_mismatch(theirs, ours, torch.tensor([[1, 1], [1, 0]]), bound=0.5)
    d = torch.tensor([-0.5, 0.0, 1.0])
    assert found == pytest.approx(
        dict(
            mismatch_max=1.0,
            mismatch_k1=float(-d.mean()),
            mismatch_k3=float((d.exp() - d - 1).mean()),
            mismatch_beyond=1 / 3,
        )
    )


def test_mismatch_estimates_the_divergence():
    g = torch.Generator().manual_seed(0)
    mu, pi = (torch.randn(12, generator=g).log_softmax(-1) for _ in range(2))
    tokens = torch.multinomial(mu.exp(), 200_000, replacement=True, generator=g)[None]
    found = sampler_mismatch(mu[tokens], pi[tokens], torch.ones_like(tokens))
    exact = float((mu.exp() * (mu - pi)).sum())
    assert found["mismatch_k1"] == pytest.approx(exact, rel=0.02) and found["mismatch_k3"] == pytest.approx(
        exact, rel=0.02
    )


def test_mismatch_counts_what_is_no_number_and_wants_tokens():
    one = torch.ones(1, 2)
    assert sampler_mismatch(-one, torch.tensor([[-1.0, float("nan")]]), one)["mismatch_beyond"] == 0.5
    with pytest.raises(ValueError, match="mask keeps no token"):
        sampler_mismatch(-one, -one, 0 * one)
    with pytest.raises(ValueError, match="shape"):
        sampler_mismatch(-one, -torch.ones(1, 3), one)


# Weights


@pytest.mark.parametrize("weights", ["memory", "disk"])
@pytest.mark.parametrize("sleep", [True, False])
def test_all_weights_follow_the_policy(vllm, tiny, prompts, sleep, weights):
    tokenizer = tiny[1]
    new = moved(tiny[0])
    sampler = VLLMSampler(tiny_model_path(), tokenizer, sleep=sleep, weights=weights)
    before = sampler(prompts, 4, 40, seed=1)
    assert sampler_mismatch(before.logps, recomputed(new, before), before.mask)["mismatch_max"] > 0.01, (
        "the weights did not move"
    )
    sampler.sync(new)
    r = sampler(prompts, 4, 40, seed=1)
    assert sampler_mismatch(r.logps, recomputed(new, r), r.mask)["mismatch_max"] < 1e-4
    assert LLM.made[0].asleep == sleep and (LLM.made[0].naps > 0) == sleep


def test_weights_in_memory_touch_no_disk_and_wake_part_by_part(vllm, tiny, prompts, monkeypatch):
    new = moved(tiny[0])
    monkeypatch.setattr(type(new), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    sampler = VLLMSampler(tiny_model_path(), tiny[1])
    engine = LLM.made[0]
    sampler.sync(new)
    sampler(prompts, 1, 8)
    assert engine.log == ["sleep 1", "wake weights", "reload", "wake kv_cache", "sleep 1"]
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    sampler(prompts, 1, 8)
    assert engine.log[5:] == ["wake weights", "wake kv_cache", "sleep 1"]  # they were kept


def test_weights_that_were_dropped_come_back(vllm, tiny, prompts):
    "At level 2 the policy is the only copy, as it is when the engine wakes."
    policy = moved(tiny[0])
    sampler = VLLMSampler(tiny_model_path(), tiny[1], sleep_level=2)
    sampler.sync(policy)
    for _ in range(2):
        r = sampler(prompts, 2, 24, seed=1)
        assert LLM.made[0].model is None
        assert sampler_mismatch(r.logps, recomputed(policy, r), r.mask)["mismatch_max"] < 1e-4
        with torch.no_grad():
            for p in policy.parameters():
                p += 0.05 * p.std()


def test_each_process_has_an_engine_and_its_share(vllm, tiny, prompts):
    whole = VLLMSampler(tiny_model_path(), tiny[1], processes=2)
    assert LLM.made[0].backend == "external_launcher"
    together = whole(prompts, 2, 24, seed=5)
    for places in ([0, 2], [1, 3]):
        part = whole([prompts[i] for i in places], 2, 24, seed=5, places=places)
        assert part.texts == [together.texts[2 * i + j] for i in places for j in range(2)]
    with pytest.raises(ValueError, match="places has 1 entries for 4 prompts"):
        whole(prompts, 2, 24, places=[0])


def test_an_engine_in_another_process_is_refused_memory(vllm, tiny, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(ValueError, match="weights='memory' with VLLM_ENABLE_V1_MULTIPROCESSING=1.*weights='disk'"):
        VLLMSampler(tiny_model_path(), tiny[1])
    sampler = VLLMSampler(tiny_model_path(), tiny[1], weights="disk")
    sampler.sync(moved(tiny[0]))  # no tensor goes over


def test_a_model_that_transformers_converts_goes_by_disk(vllm, tiny, prompts, monkeypatch):
    new = moved(tiny[0])
    monkeypatch.setattr("mpo_nb.sampling.vllm.converted_on_loading", lambda model: True)
    sampler = VLLMSampler(tiny_model_path(), tiny[1])
    with pytest.warns(UserWarning, match="renames or fuses the weights of 'llama'"):
        sampler.sync(new)
    r = sampler(prompts, 2, 24, seed=1)
    assert sampler.folder and sampler_mismatch(r.logps, recomputed(new, r), r.mask)["mismatch_max"] < 1e-4


def test_adapters_follow_the_policy(vllm, tiny, prompts):
    tokenizer = tiny[1]
    policy = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval(), LoraConfig(r=9, target_modules="all-linear")
    )
    sampler = VLLMSampler(tiny_model_path(), tokenizer, lora_rank=9)
    folders = []
    assert LLM.made[0].max_lora_rank == 16
    for scale in (0.0, 0.05, 0.1):
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                (
                    torch.nn.init.normal_(p.data, std=scale, generator=torch.Generator().manual_seed(2))
                    if scale
                    else p.data.zero_()
                )
        sampler.sync(policy)
        folders.append(Path(sampler.folder.name))
        for _ in range(2):
            r = sampler(prompts, 4, 40, seed=1)
            assert sampler_mismatch(r.logps, recomputed(policy, r), r.mask)["mismatch_max"] < 1e-4
    assert len(LLM.made[0].adapters) == 3 and [f.exists() for f in folders] == [
        False,
        False,
        True,
    ], "old weights are deleted"


def test_adapters_need_room(vllm, tiny):
    model, tokenizer = tiny
    policy = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_path()), LoraConfig(r=2, target_modules="all-linear")
    )
    with pytest.raises(
        ValueError, match="lora_rank=0, but the policy has adapters; build the sampler with the policy's lora_rank"
    ):
        VLLMSampler(tiny_model_path(), tokenizer).sync(policy)
    with pytest.raises(ValueError, match="lora_rank=2, but the policy has none"):
        VLLMSampler(tiny_model_path(), tokenizer, lora_rank=2).sync(model)


def test_the_engine_sleeps_again_when_sampling_fails(vllm, tiny, monkeypatch):
    sampler = VLLMSampler(tiny_model_path(), tiny[1])
    monkeypatch.setattr(LLM, "_sample", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler(["1+1?"], 1, 8)
    assert LLM.made[0].asleep


# Bad input


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), r"temperature=0\.0; it must be positive"),
        (dict(top_p=0.0), r"top_p=0\.0"),
        (dict(top_k=-1), "top_k=-1"),
        (dict(lora_rank=1000), "lora_rank=1000; vLLM takes at most 512"),
    ],
)
def test_bad_options_are_refused_before_the_engine_is_built(vllm, tiny, options, message):
    with pytest.raises(ValueError, match=message):
        VLLMSampler(tiny_model_path(), tiny[1], **options)
    assert not LLM.made


def test_bad_calls(vllm, tiny, tmp_path):
    sampler = VLLMSampler(tiny_model_path(), tiny[1], max_length=20)
    for kwargs, message in (
        (dict(group_size=0), "group_size=0"),
        (dict(max_new_tokens=0), "max_new_tokens=0"),
        (dict(stop=[""]), "stop="),
        (dict(max_new_tokens=18), "more than the model's context of 20"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler(["1+1?"], **dict(max_new_tokens=8) | kwargs)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a GGUF file; vLLM needs a hub name or a folder"):
        VLLMSampler(str(tmp_path / "m.gguf"), tiny[1])


def test_without_vllm_the_error_says_what_to_do(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        ImportError,
        match=(
            "needs the package vllm, which needs Linux and a GPU: pip install vllm .* sampler='transformers' needs"
            " nothing more"
        ),
    ):
        VLLMSampler(tiny_model_path(), tiny[1])


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("follows", [True, False])
def test_a_run_samples_from_weights_that_follow_it(vllm, follows, lora_rank, tmp_path):
    "The engine is given the weights before each step's responses, once; the control never says that they moved."
    trainer = Trainer(
        TrainConfig(
            output=str(tmp_path),
            sampler="vllm",
            steps=2,
            prompts_per_step=2,
            group_size=4,
            max_new_tokens=24,
            lr=1e-2,
            lora_rank=lora_rank,
            precision="float32",
            eval_every=0,
            progress=False,
        ),
        task=Task(
            "digits",
            [dict(prompt="7+5-3?", answer=""), dict(prompt="1+1?", answer="")],
            [dict(prompt="2+2?", answer="")],
            lambda problem, response: float(sum(map(ord, response)) % 7),
        ),
    )
    engine, synced = trainer.sampler.engine, []
    sync = engine.sync

    def counted(model):
        synced.append(trainer.done)
        sync(model)

    engine.sync = counted
    if not follows:
        trainer.sampler.refresh = lambda: None
    first, second = (row["mismatch_max"] for row in trainer.fit())
    assert first < 1e-4 and (second < 1e-4) == follows
    assert synced == ([-1, 1] if follows else [-1])
