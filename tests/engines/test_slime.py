"""`mpo_nb.slime.block_loss` on packed logits: a loop over single numbers. Through slime's own functions where slime and
Megatron are installed, and through a stand-in of the same calls always."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from batches import close, generator, leaf
from engine_loops import OPTIONS, SENTENCES, log_ratios, loss_of_sample, name

from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.slime import block_loss, slime_settings, slime_texts

CLIP = (0.2, 0.28)
ANSWERS = ("7+5=12;12-3=9#9", "2+2=4#4", "1+1=2;2+2=4;4+4=8#8")
MASKS = ([1] * 15, [1] * 7, [1] * 6 + [0] * 3 + [1] * 10)
PROMPT = 3
NAMES = ("action_space", "k", "future", "reduce", "gaps")
METRICS = {
    "loss",
    "pg_loss",
    "entropy_loss",
    "pg_clipfrac",
    "ppo_kl",
    "mpo_abs_log_ratio",
    "mpo_abs_token_log_ratio",
}


def arguments(**options):
    "slime's arguments, as far as a policy loss reads them."
    plain = dict(
        eps_clip=CLIP[0],
        eps_clip_high=CLIP[1],
        eps_clip_c=None,
        entropy_coef=0.0,
        use_kl_loss=False,
        use_unbiased_kl=False,
        kl_loss_type="k3",
        kl_loss_coef=0.0,
        use_rollout_logprobs=False,
        advantage_estimator="grpo",
        hf_checkpoint=tiny_model_path(),
        rollout_temperature=1.0,
        log_probs_chunk_size=-1,
        allgather_cp=False,
        calculate_per_token_loss=False,
        context_parallel_size=1,
        rollout_top_p=1.0,
    )
    return SimpleNamespace(**plain | {f"mpo_{k}" if k in NAMES else k: v for k, v in options.items()})


class StandIn:
    "What `block_loss` calls of slime, in plain torch."

    exact = 1e-12
    dtype = torch.double

    def modules(self):
        def get_log_probs_and_entropy(
            logits, *, args, unconcat_tokens, total_lengths, response_lengths, with_entropy=False
        ):
            logps = logits[0].log_softmax(-1)
            start, found, entropy = 0, [], []
            for ids, total, n in zip(unconcat_tokens, total_lengths, response_lengths):
                places = torch.arange(start + total - n - 1, start + total - 1)
                found.append(logps[places, ids[total - n :]])
                entropy.append(-(logps[places].exp() * logps[places]).sum(-1))
                start += total
            return torch.empty(0), {"log_probs": found, "entropy": entropy}

        def compute_policy_loss(ppo_kl, advantages, eps_clip, eps_clip_high, eps_clip_c=None):
            ratio = (-ppo_kl).exp()
            plain, held = ratio * advantages, ratio.clamp(1 - eps_clip, 1 + eps_clip_high) * advantages
            value = torch.minimum(plain, held)
            if eps_clip_c is not None:
                value = torch.where(advantages < 0, torch.maximum(value, eps_clip_c * advantages), value)
            return -value, (held < plain).float()

        def compute_approx_kl(log_probs, log_probs_base, kl_loss_type, importance_ratio=None):
            assert kl_loss_type == "k3"
            x = log_probs_base - log_probs
            return (x.exp() - 1 - x) * (1 if importance_ratio is None else importance_ratio)

        losses, terms = ModuleType("slime.backends.megatron_utils.loss"), ModuleType("slime.utils.ppo_utils")
        losses.get_log_probs_and_entropy = get_log_probs_and_entropy
        losses.get_rollout_top_p_logprob_kwargs = lambda args, batch: {}
        terms.compute_policy_loss = compute_policy_loss
        terms.compute_approx_kl = compute_approx_kl
        return losses, terms

    def reducer(self, batch, per_token=False):
        def reduce(x):
            parts = zip(x.split(batch["response_lengths"]), batch["loss_masks"], batch["rollout_mask_sums"])
            return sum((a * m).sum() / (1 if per_token else total) for a, m, total in parts)

        return reduce


class Real:
    exact = 2e-5  # slime takes logits of float32 only
    dtype = torch.float

    def modules(self):
        return ()

    def reducer(self, batch, per_token=False):
        parts = importlib.import_module("slime.backends.megatron_utils.cp_utils")
        return parts.get_sum_of_sample_mean(
            batch["total_lengths"],
            batch["response_lengths"],
            batch["loss_masks"],
            batch["rollout_mask_sums"],
            per_token,
        )


@pytest.fixture(params=["stand-in", "slime"])
def engine(request, monkeypatch):
    if request.param == "stand-in":
        made = StandIn()
    elif find_spec("slime") is None or find_spec("megatron") is None:
        pytest.skip("slime and Megatron are not installed")
    else:
        made = Real()
    for module in made.modules():
        parent = module.__name__
        while parent := parent.rpartition(".")[0]:
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def batch_of(seed, dtype, dropped=()):
    "Three samples in one row: logits (1, T, V) and the micro-batch."
    g = generator(seed)
    tokenizer = slime_texts(tiny_model_path()).tokenizer
    answers = [tokenizer(a, add_special_tokens=False, return_tensors="pt")["input_ids"][0] for a in ANSWERS]
    tokens = [torch.cat([torch.full((PROMPT,), 5), ids]) for ids in answers]
    masks = [torch.tensor(m, dtype=dtype) for m in MASKS]
    total = sum(map(len, tokens))
    logits = torch.randn(1, total, len(tokenizer), generator=g, dtype=torch.double).to(dtype)
    start, new = 0, []
    for ids, answer in zip(tokens, answers):
        places = torch.arange(start + PROMPT - 1, start + len(ids) - 1)
        new.append(logits[0].double().log_softmax(-1)[places, answer])
        start += len(ids)
    old = [x + 0.4 * torch.randn(len(x), generator=g, dtype=torch.double) for x in new]
    batch = dict(
        unconcat_tokens=tokens,
        total_lengths=[len(ids) for ids in tokens],
        response_lengths=[len(ids) for ids in answers],
        loss_masks=masks,
        rollout_mask_sums=[m.sum() for m in masks],
        advantages=[torch.randn(len(x), generator=g, dtype=torch.double).to(dtype) for x in new],
        log_probs=[x.to(dtype) for x in old],
        rollout_log_probs=[(x + 0.1).to(dtype) for x in old],
        ref_log_probs=[(x - 0.3).to(dtype) for x in old],
    )
    return logits, {key: value for key, value in batch.items() if key not in dropped}


def logps_of(logits, batch):
    "log pi_theta of each response, by hand."
    start, found = 0, []
    for ids, n in zip(batch["unconcat_tokens"], batch["response_lengths"]):
        rows = logits[0, start + len(ids) - n - 1 : start + len(ids) - 1].log_softmax(-1)
        found.append(rows[torch.arange(n), ids[-n:]])
        start += len(ids)
    return found


def by_loop(logits, batch, options, dual_clip=None, per_token=False):
    total = 0
    parts = zip(logps_of(logits, batch), batch["log_probs"], batch["advantages"], MASKS, ANSWERS)
    for new, old, A, mask, text in parts:
        one = loss_of_sample(new, old.double(), A.double(), mask, options, CLIP, dual_clip, texts=list(text))
        total = total + one / (1 if per_token else sum(mask))
    return total


@pytest.mark.parametrize("options", OPTIONS + SENTENCES, ids=name)
@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("per_token", [False, True])
def test_packed_logits_are_the_loop(engine, options, dual_clip, per_token):
    logits, batch = batch_of(1, engine.dtype)
    x, y = leaf(logits), leaf(logits.double())
    loss, metrics = block_loss(arguments(**options, eps_clip_c=dual_clip), batch, x, engine.reducer(batch, per_token))
    wanted = by_loop(y, batch, options, dual_clip, per_token)
    close(loss.double(), wanted, tol=engine.exact)
    (a,), (b,) = torch.autograd.grad(loss, x), torch.autograd.grad(wanted, y)
    close(a.double(), b, tol=engine.exact)
    assert metrics.keys() == METRICS and not any(value.requires_grad for value in metrics.values())


def test_metrics_are_means_by_the_reducer(engine):
    logits, batch = batch_of(2, engine.dtype)
    options = dict(action_space="block", k=3)
    _, metrics = block_loss(arguments(**options), batch, logits, engine.reducer(batch))
    wanted = dict.fromkeys(("ppo_kl", "mpo_abs_log_ratio", "mpo_abs_token_log_ratio"), 0.0)
    for new, old, mask in zip(logps_of(logits.double(), batch), batch["log_probs"], MASKS):
        delta = new - old.double()
        ratios = log_ratios(delta, mask, options)
        for t, r in ratios.items():
            for key, value in zip(wanted, (-delta[t], r.abs(), delta[t].abs())):
                wanted[key] += float(value) / sum(mask)
    assert {key: float(metrics[key]) for key in wanted} == pytest.approx(wanted, rel=1e-4)


def test_entropy_and_kl_are_slimes_terms(engine):
    logits, batch = batch_of(3, engine.dtype)
    options = dict(action_space="window", k=2)
    reduce = engine.reducer(batch)
    plain, known = block_loss(arguments(**options), batch, logits, reduce)
    more = dict(entropy_coef=0.1, use_kl_loss=True, kl_loss_coef=0.2)
    loss, metrics = block_loss(arguments(**options, **more), batch, logits, reduce)
    x = torch.cat(batch["ref_log_probs"]).double() - torch.cat(logps_of(logits.double(), batch))
    close(metrics["kl_loss"].double(), reduce(x.exp() - 1 - x).double(), tol=max(1e-6, engine.exact))
    close(loss, plain - 0.1 * known["entropy_loss"] + 0.2 * metrics["kl_loss"], tol=max(1e-6, engine.exact))


def test_whose_old_log_probabilities(engine):
    options = dict(action_space="block", k=3)
    logits, batch = batch_of(4, engine.dtype)
    found, _ = block_loss(arguments(**options, use_rollout_logprobs=True), batch, logits, engine.reducer(batch))
    swapped = batch | {"log_probs": batch["rollout_log_probs"]}
    close(found.double(), by_loop(logits.double(), swapped, options), tol=engine.exact)
    _, bare = batch_of(4, engine.dtype, dropped=("log_probs", "rollout_log_probs"))
    _, metrics = block_loss(arguments(**options), bare, logits, engine.reducer(bare))
    assert metrics["mpo_abs_log_ratio"] == metrics["pg_clipfrac"] == 0
    with pytest.raises(ValueError, match="use_rollout_logprobs=True, and the batch has no rollout_log_probs"):
        block_loss(arguments(**options, use_rollout_logprobs=True), bare, logits, engine.reducer(bare))


def test_token_level_is_slimes_policy_loss(engine):
    if isinstance(engine, StandIn):
        pytest.skip("the stand-in has no policy loss of its own")
    losses = importlib.import_module("slime.backends.megatron_utils.loss")
    logits, batch = batch_of(5, engine.dtype)
    args = arguments(action_space="token", entropy_coef=0.05, use_kl_loss=True, kl_loss_coef=0.1)
    for absent in ("use_opsm", "use_tis", "get_mismatch_metrics"):
        setattr(args, absent, False)
    found = []
    for loss_fn in (losses.policy_loss_function, block_loss):
        x = leaf(logits)
        loss, metrics = loss_fn(args, batch, x, engine.reducer(batch))
        found.append((loss.detach(), torch.autograd.grad(loss, x)[0], metrics))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    for key in METRICS & found[0][2].keys():
        assert torch.equal(found[0][2][key], found[1][2][key]), key


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "mpo_action_space is not set; write it into the file of --custom-config-path"),
        (dict(action_space="block", mpo_size=3), "mpo_size=3; mpo_nb.slime reads mpo_action_space, mpo_k"),
        (dict(action_space="block"), "k=None; action_space='block' needs"),
        (dict(action_space="sentence", k=4), "k=4 means nothing to action_space='sentence'"),
        (dict(action_space="turn", use_tis=True), "use_tis=True: .* take --use-rollout-logprobs"),
        (dict(action_space="turn", use_opsm=True), "use_opsm=True: .* leave it out"),
        (dict(action_space="turn", use_score_centering=True), "use_score_centering=True: .* leave it out"),
        (dict(action_space="turn", pg_loss_type="reinforce"), "pg_loss_type='reinforce' is another loss"),
        (dict(action_space="turn", get_mismatch_metrics=True), "get_mismatch_metrics=True"),
        (dict(action_space="turn", custom_pg_loss_reducer_function_path="a.b"), "reducer_function_path='a.b'"),
        (dict(action_space="turn", context_parallel_size=2), "context_parallel_size=2: a rank holds parts"),
        (dict(action_space="turn", advantage_estimator="cispo"), "advantage_estimator='cispo' is a loss of its own"),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
def test_what_cannot_be_done_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        slime_settings(arguments(**options))
