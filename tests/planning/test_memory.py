"What a plan says against what real models, real steps and the committed measurements need."

import copy
import csv
import json
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    FalconH1Config,
    Gemma2Config,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    T5Config,
)

from mpo_nb.config import TrainConfig
from mpo_nb.models.loading import add_lora, dtypes
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.planning import ledger, phases, rehearsal
from mpo_nb.planning import plan as memory
from mpo_nb.planning.ledger import Ledger
from mpo_nb.planning.phases import fixed, prompts_among, step_phases, ways, work
from mpo_nb.planning.plan import MemoryPlan, Verdict, halvings, in_words, levers, plan_memory, remedy
from mpo_nb.planning.rehearsal import Work, along, outline, rehearse_sampling, rehearse_training
from mpo_nb.sampling.decoding import DynamicDecoder
from mpo_nb.tasks.task import Task, load_task
from mpo_nb.training.queue import batch_tensors
from mpo_nb.training.trainer import Trainer

PROMPT = 8
MIB = 2**20
GIB = 2**30
LLAMA = LlamaConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)
QWEN = Qwen2Config(
    vocab_size=768,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LARGE = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
STEP = TrainConfig(
    recipe="grpo",
    prompts_per_step=4,
    group_size=4,
    epochs=1,
    minibatches=2,
    micro_batch_tokens=4 * 48,
    max_new_tokens=40,
    precision="float32",
    eval_every=0,
    checkpoint_every=10**6,
    steps=10**6,
    progress=False,
)
EXPERTS = MixtralConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=4,
    num_experts_per_tok=2,
)
CAPPED = Gemma2Config(  # transformers has no fused attention for it
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    query_pre_attn_scalar=32,
    sliding_window=4096,
)
HYBRID = Lfm2Config(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    block_auto_adjust_ff_dim=False,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    layer_types=["conv", "conv", "full_attention", "conv"],
)
SIZES = dict(micro_batch_tokens=21504, max_new_tokens=512, precision="bfloat16", eval_every=0)


def total(config, shape=QWEN, prompt=PROMPT, gpu=False) -> int:
    return max(found.total() for found in step_phases(config, shape, prompt, gpu).values())


def outline_of(shape=QWEN, **how):
    return outline(replace(STEP, **how), shape)


def bytes_of(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def real_model(shape, config):
    "A model with random weights, in the types that the trainer keeps."
    attention = "eager" if config.attention == "eager" else None
    return AutoModelForCausalLM.from_config(
        copy.deepcopy(shape),
        dtype=dtypes[config.precision] if config.lora_rank else torch.float32,
        attn_implementation=attention,
    )


@pytest.mark.parametrize("shape", [LLAMA, QWEN], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "how",
    [{}, dict(lora_rank=8), dict(lora_rank=8, precision="bfloat16"), dict(lora_rank=4, lora_targets="q_proj,v_proj")],
    ids=str,
)
def test_weights_are_counted_exactly(shape, how):
    config = replace(STEP, **how)
    model = real_model(shape, config)
    if config.lora_rank:
        model = add_lora(model, config.lora_rank, 0, config.lora_targets)
    found = fixed(outline(config, shape))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert found.weights == bytes_of([*model.parameters(), *model.buffers()])
    assert (found.trained, found.largest) == (sum(p.numel() for p in trained), max(p.numel() for p in trained))


@pytest.mark.parametrize("shape", [LLAMA, QWEN], ids=["untied", "grouped"])
@pytest.mark.parametrize("response", [2, 6, 80])
def test_the_cache_is_counted_exactly(shape, response):
    w = Work(prompt=7, response=response, rows=1, different=0, read=3, sampled=6)
    prompts = torch.ones(3, 7, dtype=torch.long)
    with torch.no_grad():
        decoder = DynamicDecoder(real_model(shape, STEP), prompts, prompts.bool(), 2, response)
        for _ in range(response - 1):
            decoder.step(torch.ones(6, dtype=torch.long))
    held = sum(x.untyped_storage().nbytes() for layer in decoder.cache.layers for x in (layer.keys, layer.values))
    assert (
        along(lambda n: rehearse_sampling(outline_of(shape), n, w), shape.num_hidden_layers)["decoding"][
            "key-value cache"
        ]
        == held
    )
    assert held == 2 * shape.num_hidden_layers * 6 * shape.num_key_value_heads * (7 + response - 1) * 32 * 4


@pytest.mark.parametrize("foreach", [False, True], ids=["weight by weight", "all at once"])
def test_adam_needs_what_is_planned(foreach):
    with Ledger() as run:
        run.enter("", "standing")
        model = real_model(LLAMA, STEP)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        adam = torch.optim.AdamW(model.parameters(), foreach=foreach)
        adam.step()
        run.enter("step", "temporaries")
        adam.step()
    update = step_phases(STEP, LLAMA, PROMPT, foreach)["update"]
    assert update["logits and temporaries"] == pytest.approx(run.peaks["step"]["temporaries"], rel=0.01)
    assert update["Adam's means"] == pytest.approx(
        bytes_of(t for state in adam.state.values() for t in (state["exp_avg"], state["exp_avg_sq"]))
    )


CASES = {
    "micro-batches": (LLAMA, {}),
    "one micro-batch": (LLAMA, dict(prompts_per_step=8, group_size=2, micro_batch_tokens=4096)),
    "a short second micro-batch": (QWEN, dict(micro_batch_tokens=7 * 48)),
    "shared prompts": (QWEN, dict(prompts_per_step=2, group_size=8, micro_batch_tokens=4096)),
    "checkpointing": (LLAMA, dict(gradient_checkpointing=True)),
    "bfloat16": (LLAMA, dict(precision="bfloat16")),
    "eager": (LLAMA, dict(attention="eager")),
    "penalty": (LLAMA, dict(recipe_options={"kl": 0.04})),
    "entropy": (LLAMA, dict(recipe_options={"entropy": 0.01})),
    "small chunks": (LLAMA, dict(chunk_elements=2**14)),
    "adapters": (QWEN, dict(lora_rank=8)),
    "adapters, bfloat16": (QWEN, dict(lora_rank=8, precision="bfloat16")),
    "adapters, bfloat16, checkpointing": (
        QWEN,
        dict(lora_rank=8, precision="bfloat16", gradient_checkpointing=True, micro_batch_tokens=4096),
    ),
    "sampling": (QWEN, dict(group_size=32, minibatches=64, lora_rank=4)),
    "modules side by side": (LLAMA, dict(recipe="mpo", k=3, source="mtp", mtp_warmup_steps=0)),
    "modules in a chain, one micro-batch": (
        QWEN,
        dict(
            recipe="mpo",
            k=3,
            source="mtp",
            mtp_head="shared",
            mtp_merge="eh_proj",
            mtp_warmup_steps=0,
            prompts_per_step=8,
            group_size=2,
            micro_batch_tokens=4096,
        ),
    ),
    "modules, adapters": (QWEN, dict(recipe="mpo", k=2, source="mtp", mtp_warmup_steps=0, lora_rank=8)),
    "a critic on the trunk": (LLAMA, dict(recipe="ppo", recipe_options={"critic": "shared"})),
    "a critic of its own, one micro-batch": (
        QWEN,
        dict(
            recipe="ppo",
            recipe_options={"critic": "separate"},
            prompts_per_step=8,
            group_size=2,
            micro_batch_tokens=4096,
        ),
    ),
    "a critic of its own, adapters": (
        QWEN,
        dict(recipe="ppo", recipe_options={"critic": "separate"}, lora_rank=8, precision="bfloat16"),
    ),
    "a soft Q": (LLAMA, dict(recipe="etpo")),
    "a soft Q in small chunks": (QWEN, dict(recipe="etpo", chunk_elements=2**15)),
    "a soft Q, adapters": (QWEN, dict(recipe="etpo", lora_rank=8, precision="bfloat16")),
    "a hybrid": (HYBRID, {}),
    "experts": (EXPERTS, {}),
    "experts, adapters": (EXPERTS, dict(lora_rank=8)),
    "no fused attention": (CAPPED, {}),
    "few rows": (QWEN, dict(group_size=32, minibatches=64, max_rows=16, lora_rank=4)),
    "top-p": (QWEN, dict(group_size=32, minibatches=64, lora_rank=4, top_p=0.9)),
}


def run_two_steps(config, shape, folder) -> int:
    "The highest total of a ledger over two real steps, responses of full length."
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    problems = [
        {"prompt": f"{i:03}" + "7" * (PROMPT - 4 - i % 2), "answer": "0"} for i in range(config.prompts_per_step)
    ]
    with Ledger() as run:
        run.enter("run", "")
        model = real_model(shape, config)

        def never_ends(module, args, kwargs, output):
            output.logits[..., tokenizer.eos_token_id] = -1e4

        model.register_forward_hook(never_ends, with_kwargs=True)
        trainer = Trainer(
            replace(config, output=str(folder)),
            model=model,
            tokenizer=tokenizer,
            task=Task("synthetic", problems, problems, lambda problem, response: float(len(set(response)) % 3)),
        )
        for step in (1, 2):
            trainer.step(step)
    return run.peaks["run"].total()


@pytest.mark.filterwarnings("ignore:the training forward's log-probabilities")
@pytest.mark.parametrize("name", CASES)
def test_a_real_step_needs_what_is_planned(name, tmp_path, monkeypatch):
    "Every text whole: a plan is made for a GPU, where no beginnings are shared in training."
    monkeypatch.setattr("mpo_nb.models.logprobs.reads_trees", lambda decoder: False)
    shape, how = CASES[name]
    config = replace(STEP, **how)
    assert total(config, shape) == pytest.approx(run_two_steps(config, shape, tmp_path), rel=0.03)


def test_a_head_for_soft_q_is_counted_with_its_copy():
    "Weights and biases of head and copy, of which the head is trained; and the reference, the size of the model."
    kinds = {name: replace(STEP, recipe=name) for name in ("grpo", "etpo")}
    plain, soft = (fixed(outline(config, QWEN)) for config in kinds.values())
    head = 768 * (128 + 1)
    assert (soft.beside, soft.beside_trained, soft.trained - plain.trained) == (2 * 4 * head, head, head)
    update = {name: step_phases(config, QWEN, PROMPT, False)["update"] for name, config in kinds.items()}
    assert update["etpo"]["modules and critic"] == 8 * head and update["etpo"]["reference"] == plain.weights
    assert update["grpo"]["reference"] == update["grpo"]["modules and critic"] == 0
    penalty = step_phases(replace(STEP, recipe="ppo", recipe_options={"reward_kl": 0.05}), QWEN, PROMPT, False)
    assert penalty["update"]["reference"] == plain.weights  # a penalty in the rewards asks for it too


def storage_bytes(tensors) -> int:
    "Bytes of the memory behind tensors; what is shared counts once."
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("recipe", ["grpo", "ppo"])
def test_a_lag_is_counted_as_a_real_queue_holds_it(lag, recipe, tmp_path):
    """What stands in the queue beside the batch that is trained on, every response of full length. The plan counts old
    log-probabilities beside the sampler's, which a run that does not compute them again holds once."""
    config = replace(STEP, recipe=recipe, lag=lag, old_logps="recompute", output=str(tmp_path))
    problems = [{"prompt": f"{i:03}" + "7" * (PROMPT - 3), "answer": "0"} for i in range(4 * (lag + 1))]
    model = real_model(LLAMA, config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())

    def never_ends(module, args, kwargs, output):
        output.logits[..., tokenizer.eos_token_id] = -1e4

    model.register_forward_hook(never_ends, with_kwargs=True)
    task = Task("synthetic", problems, problems, lambda problem, response: float(len(set(response)) % 3))
    trainer = Trainer(config, model=model, tokenizer=tokenizer, task=task)
    trainer.queue.batch(1, trainer.collect)
    waiting = trainer.queue.after(1)
    assert sorted(waiting) == list(range(2, lag + 2))
    held = storage_bytes(t for one in waiting.values() for t in batch_tensors(one.batch).values())
    w = Work(prompt=PROMPT, response=40, rows=4, different=0, read=4, sampled=16)
    planned = phases.response_bytes(config, w) - phases.response_bytes(replace(config, lag=0), w)
    assert planned == pytest.approx(held, rel=0.05)


@pytest.mark.parametrize(
    "how",
    [
        {},
        dict(precision="bfloat16"),
        dict(gradient_checkpointing=True),
        dict(lora_rank=8, precision="bfloat16"),
        dict(lora_rank=8, precision="bfloat16", gradient_checkpointing=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("different", [0, 2])
def test_layers_add_up_in_a_straight_line(how, different):
    if different and how.get("gradient_checkpointing"):
        pytest.skip("checkpointing reads every prompt with its response")
    deep = copy.deepcopy(LLAMA)
    deep.num_hidden_layers = 7
    kind = outline(replace(STEP, **how), deep)
    w = Work(16, 24, 6, different, 2, 6)

    def train(n):
        return rehearse_training(kind, n, w, how.get("gradient_checkpointing", False))

    for rehearse in (train, lambda n: rehearse_sampling(kind, n, w)):
        line = along(rehearse, 7)
        whole = along(rehearse, 7, alike=False)
        assert {phase: +found for phase, found in line.items()} == {phase: +found for phase, found in whole.items()}


def test_layers_that_differ_are_all_rehearsed():
    mixed = Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=3,
    )
    assert not fixed(outline_of(mixed)).alike and fixed(outline_of(LLAMA)).alike
    # a window of 8 tokens
    full_layers = 3
    short = 2
    per_token = 2 * 16 * 2 * 16 * 4
    held = step_phases(STEP, mixed, PROMPT, False)["decoding"]["key-value cache"]
    assert held == per_token * (full_layers * (PROMPT + 40 - 1) + short * 8)


@pytest.mark.parametrize(
    "name, values",
    [
        ("micro_batch_tokens", (48, 96, 192, 384)),
        ("max_new_tokens", (8, 24, 48, 96)),
        ("max_rows", (1, 4, 16)),
        ("prompts_per_step", (1, 2, 8)),
        ("lora_rank", (1, 8, 64)),
    ],
)
def test_more_of_anything_needs_no_less(name, values):
    found = [
        [
            p.total()
            for p in step_phases(
                replace(STEP, micro_batch_tokens=4096) if name != "micro_batch_tokens" else STEP, QWEN, PROMPT, True
            ).values()
        ]
    ] and [total(replace(STEP, **({"micro_batch_tokens": 4096, "minibatches": 1} | {name: value}))) for value in values]
    assert found == sorted(found) and found[0] < found[-1] or name == "max_rows"
    if name == "max_rows":
        sampling = [
            step_phases(replace(STEP, max_rows=value), QWEN, PROMPT, False)["decoding"].total() for value in values
        ]
        assert sampling == sorted(set(sampling))


@pytest.mark.parametrize(
    "less, more",
    [
        (dict(lora_rank=16), {}),
        (dict(gradient_checkpointing=True), {}),
        (dict(lora_rank=16, quantization="4bit"), dict(lora_rank=16, quantization="8bit")),
        (dict(lora_rank=16, quantization="8bit"), dict(lora_rank=16)),
        ({}, dict(recipe_options={"kl": 0.1})),
        ({}, dict(attention="eager")),
        ({}, dict(precision="float32")),
    ],
    ids=str,
)
def test_what_saves_memory(less, more):
    config = TrainConfig(**SIZES)
    assert total(replace(config, **less), LARGE, 256, True) < total(replace(config, **more), LARGE, 256, True)


def test_prompts_that_rows_share():
    rows = [len({i // 3 for i in picked}) for picked in combinations(range(12), 4)]
    assert {d: p for d, p in prompts_among(4, 4, 3).items() if p} == pytest.approx(
        {d: rows.count(d) / len(rows) for d in set(rows)}
    )
    often = replace(STEP, prompts_per_step=2, group_size=8, micro_batch_tokens=4096)
    w, second = work(often, 24)
    assert (w.rows, second, [way.different for way in ways(often, w)]) == (8, 0, [2])
    assert ways(replace(often, gradient_checkpointing=True), w) == [w] and ways(
        replace(often, prompts_per_step=100), w
    ) == [w]
    even = replace(STEP, max_new_tokens=24)
    assert [way.different for way in ways(even, work(even, 24)[0])] == [0, 3] and [
        way.different for way in ways(STEP, work(STEP, PROMPT)[0])
    ] == [0]
    assert (
        work(replace(STEP, micro_batch_tokens=5 * 48), PROMPT)[1] == 3
        and work(replace(STEP, micro_batch_tokens=1), PROMPT)[0].rows == 1
    )


def test_evaluation_reads_a_prompt_in_every_row():
    assert (
        work(replace(STEP, eval_every=1, eval_problems=40), PROMPT)[0].read == 40
        and work(replace(STEP, eval_every=1, eval_problems=40, max_rows=24), PROMPT)[0].sampled == 24
    )
    several = work(replace(STEP, eval_every=1, eval_problems=40, eval_samples=8, max_rows=256), PROMPT)[0]
    assert (several.sampled, several.read) == (256, 40)
    assert work(replace(STEP, max_rows=3), PROMPT)[0].sampled == 3


@pytest.mark.parametrize("capacity", [6, 11, 20, 40, 70])
def test_advice_that_is_taken_fits_and_asks_for_nothing_needless(capacity):
    config = TrainConfig(**SIZES)

    def needed(c):
        return total(c, LARGE, 256, True)

    assert needed(config) > capacity * GIB
    changes = remedy(config, 256, lambda c: needed(c) <= capacity * GIB)
    assert needed(replace(config, **changes)) <= capacity * GIB
    for name in changes:
        others = {k: v for k, v in changes.items() if k != name}
        if name == "lora_rank" and "quantization" in others:
            continue  # packed weights cannot be trained
        assert needed(replace(config, **others)) > capacity * GIB, f"{name} is not needed"
    free, costly = levers(config, 256)
    if any(name in costly for name in changes):
        assert needed(replace(config, **{name: values[-1] for name, values in free.items()})) > capacity * GIB


def test_no_advice_where_nothing_is_enough():
    assert remedy(TrainConfig(**SIZES), 256, lambda c: False) is None
    said = str(Verdict("a card", 2 * GIB, 9 * GIB, None))
    assert "does not fit, 7.00 GiB too much" in said and "no change" in said
    assert halvings(100, 30) == [50, 30] and halvings(8, 8) == []


def test_the_plan_prints_every_part_and_every_card(monkeypatch):
    monkeypatch.setattr(memory, "present_device", lambda device: ("this machine's CPU", 10**15))
    plan = plan_memory(replace(TrainConfig(**SIZES), precision="auto"), LARGE, device="cpu", prompt_tokens=256)
    said = str(plan)
    for word in (
        "weights",
        "gradients",
        "Adam's means",
        "low-precision copies",
        "activations",
        "key-value cache",
        "T4",
        "L4",
        "A100 40 GB",
        "A100 80 GB",
        "H100",
        "this machine's CPU",
    ):
        assert word in said or (word == "low-precision copies" and plan.config.precision == "float32")
    assert (
        isinstance(plan, MemoryPlan)
        and plan.peak == plan.phases[plan.phase].total() == max(p.total() for p in plan.phases.values())
        and in_words(plan.peak) in said
    )
    t4 = next(v for v in plan.verdicts if v.device == "T4")
    assert not t4.fits and "float16" in t4.note and t4.changed <= t4.capacity < t4.need
    assert "use precision='float16'" in str(
        plan_memory(TrainConfig(**SIZES), LARGE, prompt_tokens=256, cards={"T4": (1000.0, False)})
    )


def test_a_large_model_takes_no_memory(monkeypatch):
    monkeypatch.setattr(memory, "present_device", lambda device: ("a machine that needs no advice", 10**15))
    psutil = pytest.importorskip("psutil")
    seven = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    before = psutil.Process().memory_info().rss
    plan = plan_memory(TrainConfig(**SIZES), seven, cards={}, prompt_tokens=64)
    assert (
        plan.phases["training"]["weights"] >= 4 * 6_738_415_616
        and psutil.Process().memory_info().rss - before < 500 * MIB
    )


def test_what_is_left_open_is_decided_by_the_task():
    task = load_task("chain_sum")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    plan = plan_memory(TrainConfig(max_new_tokens=0, precision="float32"), task=task, tokenizer=tokenizer, cards={})
    longest = max(len(tokenizer(p["prompt"])["input_ids"]) for split in (task.train, task.test) for p in split)
    assert (plan.work.prompt, plan.work.response) == (longest, getattr(task, "max_new_tokens", None) or 48)
    assert plan_memory(TrainConfig(precision="float32"), cards={}).work.prompt == 256


def test_a_gguf_file_is_planned_for_by_its_header(smollm2):
    plan = plan_memory(TrainConfig(model=str(smollm2), lora_rank=8, precision="bfloat16", max_new_tokens=64), cards={})
    assert plan.phases["training"]["weights"] == pytest.approx(2 * 134_515_008, rel=0.05)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="shape=T5Config cannot be planned for"):
        plan_memory(STEP, T5Config(), cards={})
    with pytest.raises(FileNotFoundError, match="model="):
        plan_memory(replace(STEP, model="./nowhere"), cards={})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises((OSError, ValueError), match="unheard_of|cannot be opened"):
        plan_memory(replace(STEP, model=str(tmp_path)), cards={})
    with pytest.raises(ValueError, match="device='warp' is no device"):
        plan_memory(STEP, QWEN, device="warp", cards={})
    with pytest.raises(ValueError, match="lora_targets='nowhere'"):
        plan_memory(replace(STEP, lora_rank=4, lora_targets="nowhere"), QWEN, cards={})


@pytest.mark.parametrize(
    "shape",
    [
        JambaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            mamba_dt_rank=4,
        ),
        FalconH1Config(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            mamba_d_ssm=64,
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=8,
        ),
    ],
    ids=lambda shape: shape.model_type,
)
def test_a_shape_that_works_out_its_kinds_of_layers_is_planned_for(shape):
    plan = plan_memory(replace(STEP, max_new_tokens=4), shape, prompt_tokens=4, cards={})
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())
    assert plan.phases["training"]["weights"] == pytest.approx(4 * weights, rel=0.01)


def test_attention_that_a_family_has_not_is_an_error_and_auto_takes_another():
    with pytest.raises(ValueError, match="attention='sdpa'.*no such attention for Gemma2; use attention='auto'"):
        plan_memory(replace(STEP, attention="sdpa"), CAPPED, cards={})
    auto, eager = (plan_memory(replace(STEP, attention=how), CAPPED, cards={}) for how in ("auto", "eager"))
    assert auto.phases == eager.phases


@pytest.mark.parametrize(
    "options, how, message",
    [
        (dict(max_new_tokens=5000), {}, "max_new_tokens=5000: the model reads 256 tokens"),
        (dict(max_new_tokens=200), dict(prompt_tokens=100), "max_new_tokens=200 after prompt_tokens=100"),
        ({}, dict(prompt_tokens=256), "after prompt_tokens=256"),
        ({}, dict(cards={"x": (-3.0, True)}), "cards="),
        ({}, dict(cards={"x": (float("nan"), True)}), "cards="),
        ({}, dict(shape=LlamaConfig(vocab_size=0)), "shape.vocab_size=0"),
        ({}, dict(shape=LlamaConfig(num_hidden_layers=0)), "shape.num_hidden_layers=0"),
    ],
)
def test_what_cannot_be_is_not_planned(options, how, message):
    with pytest.raises(ValueError, match=message):
        plan_memory(TrainConfig(precision="float32", **options), **{"cards": {}, **how})


def test_a_value_of_another_kind_in_a_models_file_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA.to_dict() | {"hidden_size": "big"}))
    with pytest.raises(ValueError, match="model='.*': its config.json cannot be: .*hidden_size"):
        plan_memory(replace(STEP, model=str(tmp_path)), cards={})


def test_a_model_that_cannot_run_without_data_is_an_error(monkeypatch):
    def fails(*_):
        raise NotImplementedError("data-dependent")

    monkeypatch.setattr(phases, "rehearse_sampling", fails)
    with pytest.raises(ValueError, match="does not run without data.*measure a short run"):
        plan_memory(STEP, QWEN, cards={})


def test_the_committed_measurements_are_within_a_fifth(root):
    with open(root / "benchmarks" / "memory.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) >= 12
    for row in rows:
        assert abs(float(row["planned_mib"]) / float(row["measured_mib"]) - 1) < 0.2, row["case"]
        if row["second_mib"]:
            assert abs(float(row["planned_mib"]) / float(row["second_mib"]) - 1) < 0.2, row["case"]


@pytest.mark.parametrize(
    "how", [{}, dict(lora_rank=4, gradient_checkpointing=True, precision="bfloat16")], ids=["full", "adapters"]
)
def test_a_plan_between_two_others_is_the_one_that_would_be_rehearsed(how, monkeypatch):
    "To the byte, for rows of a training pass and of a sampler; none where a chunk of logits more is needed."
    kind = outline_of(LLAMA, **how)
    options = (how.get("gradient_checkpointing", False), 2**16)
    train = [Work(8, 12, rows, 0, 0, 0) for rows in (9, 5, 3)]
    sample = [Work(8, 12, 0, 0, read, 2 * read) for read in (9, 5, 3)]
    direct = []
    for name, works in (("rehearse_training", train), ("rehearse_sampling", sample)):
        for w in works:
            monkeypatch.setattr(ledger, "_accounts", {})
            rehearse = getattr(rehearsal, name).__wrapped__
            direct.append(rehearse(kind, 2, w, *options) if w.rows else rehearse(kind, 2, w))
    monkeypatch.setattr(ledger, "_accounts", {})
    worked_out = []
    between = ledger.between
    monkeypatch.setattr(ledger, "between", lambda *known: worked_out.append(between(*known)) or worked_out[-1])
    found = [rehearse_training.__wrapped__(kind, 2, w, *options) for w in train]
    found += [rehearse_sampling.__wrapped__(kind, 2, w) for w in sample]
    assert found == direct and len(worked_out) == 4 and None not in worked_out
    kept = rehearsal._train(kind, 2, replace(train[0], rows=2), False, 128 * 512, False, False, False)
    more = rehearsal._train(kind, 2, train[0], False, 128 * 512, False, False, False)
    fewer = rehearsal._train(kind, 2, train[0], False, 32 * 512, False, False, False)
    assert ledger.between(kept, more, Fraction(1, 7)) and ledger.between(kept, fewer, Fraction(1, 7)) is None


def test_both_half_precisions_take_the_same_room():
    "So one stands for both in an outline, with adapters too."
    kind = outline_of(LLAMA, lora_rank=4, precision="bfloat16")
    assert outline_of(LLAMA, lora_rank=4, precision="float16") == kind
    half = replace(kind, precision="float16")
    w = Work(8, 12, 3, 0, 3, 6)
    assert rehearse_training(half, 2, w) == rehearse_training(kind, 2, w)
    assert rehearse_training(half, 2, w, frozen=True) == rehearse_training(kind, 2, w, True, frozen=True)
    assert rehearse_sampling(half, 2, w) == rehearse_sampling(kind, 2, w) and fixed(half) == fixed(kind)
