"""`policy_loss` equals the loss of TRL's GRPOTrainer on the same tensors: its own `_compute_loss`, run on
log-probabilities of ours."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from batches import close, draw_batch, generator, leaf
from hypothesis import given
from hypothesis import strategies as st

from mpo_nb.actions import SequenceActions, TokenActions
from mpo_nb.losses import kl_penalty, policy_loss
from mpo_nb.recipes import recipe

trl = pytest.importorskip("trl", reason="trl is not installed: pip install mpo_nb[trl]")
if tuple(map(int, trl.__version__.split(".")[:2])) < (1, 16):
    pytest.skip(
        f"trl {trl.__version__} is older than 1.16, whose _compute_loss this file calls", allow_module_level=True
    )

LEVELS = {"token": TokenActions(), "sequence": SequenceActions()}
AGGREGATES = {
    "grpo": "seq-mean-token-mean",
    "bnpo": "token-mean",
    "dapo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
LONGEST = 16
CLIP = (0.2, 0.28)


class OneProcess:
    "What `_compute_loss` asks of accelerate, with one process."

    num_processes = 1
    sync_gradients = True

    def gather(self, x):
        return x

    def reduce(self, x, reduction="sum"):
        return x


def trl_loss(logps, batch, loss_type, level="token", clip=CLIP, beta=0.0, delta=None, steps=1, items=None):
    """The loss and the metrics that TRL logs; `steps` is the number of accumulation steps, `items` the tokens in all of
    them."""
    trainer = SimpleNamespace(
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        beta=beta,
        max_completion_length=LONGEST,
        current_gradient_accumulation_steps=steps,
        accelerator=OneProcess(),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=steps),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, torch.zeros_like(logps.detach()), None),
    )
    mask = batch["mask"]
    prompt = torch.ones(len(mask), 2, dtype=torch.long)
    inputs = dict(
        prompt_ids=prompt,
        prompt_mask=prompt,
        completion_ids=torch.ones_like(mask, dtype=torch.long),
        completion_mask=mask,
        advantages=batch["advantages"],
        old_per_token_logps=batch["old_logps"],
        ref_per_token_logps=batch["ref_logps"],
        num_items_in_batch=torch.tensor(items if items else mask.sum().item()),
    )
    return trl.GRPOTrainer._compute_loss(trainer, None, inputs), {
        name: values[-1] for name, values in trainer._metrics["train"].items()
    }


def draw(mask, seed, per_token, dtype=torch.double, scale=0.4):
    "A batch without NaN under the mask: TRL multiplies by the mask, so there a NaN would reach its loss."
    new, old, A = (torch.nan_to_num(x, 0.0, 0.0, 0.0).to(dtype) for x in draw_batch(mask, seed, scale, per_token))
    reference = -torch.rand(mask.shape, generator=generator(seed + 1), dtype=torch.double).to(dtype)
    return dict(logps=new, old_logps=old, advantages=A, ref_logps=reference, mask=mask)


def ours(logps, batch, loss_type, level="token", clip=CLIP, beta=0.0, **options):
    aggregate = "token-mean" if loss_type == "cispo" else AGGREGATES[loss_type]
    out = policy_loss(
        logps,
        batch["old_logps"],
        batch["advantages"],
        batch["mask"],
        LEVELS[level],
        clip,
        aggregate=aggregate,
        max_length=LONGEST,
        **options,
    )
    if beta:
        out.loss = out.loss + beta * kl_penalty(logps, batch["ref_logps"], batch["mask"], "k3", aggregate, LONGEST)
    return out


def both(batch, loss_type, level, ours_options=None, **trl_options):
    "(ours, TRL's), each (loss, gradient, what it reports)."
    x = leaf(batch["logps"])
    y = leaf(batch["logps"])
    mine = ours(x, batch, loss_type, level, **(ours_options or {}))
    theirs, metrics = trl_loss(y, batch, loss_type, level, **trl_options)
    return (mine.loss, torch.autograd.grad(mine.loss, x)[0], mine), (theirs, torch.autograd.grad(theirs, y)[0], metrics)


@st.composite
def completions(draw, empty=True):
    "Padded on the right, with a tool's tokens taken out of the middle; perhaps a response without a token."
    T = draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0 if empty else 1, T), min_size=2, max_size=5))
    mask = (torch.arange(T) < torch.tensor(lengths)[:, None]).long()
    if draw(st.booleans()):
        mask[:, T // 2] = 0
    return mask if empty else torch.where(mask.any(1, keepdim=True), mask, (torch.arange(T) == 0).long())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", AGGREGATES)
@given(mask=completions(), seed=st.integers(0, 9999), per_token=st.booleans())
def test_loss_and_gradient(loss_type, level, mask, seed, per_token):
    (mine, grad, out), (theirs, wanted, metrics) = both(draw(mask, seed, per_token), loss_type, level)
    close(mine, theirs, tol=1e-12)
    close(grad, wanted, tol=1e-12)
    close(out.credit, -wanted, tol=1e-12)
    if mask.shape[1] > 1 and (
        level == "token" or not per_token
    ):  # TRL takes a width of 1 for its sequence level, and counts sequences there
        counted = out.clipped.double() if level == "token" else (out.clipped.any(1)).double()
        share = counted.sum() / max(1, mask.sum().item() if level == "token" else len(mask))
        assert metrics["clip_ratio/region_mean"] == pytest.approx(share.item(), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows, T", [(1, 1), (3, 7), (8, 64), (32, 200)])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", AGGREGATES)
def test_to_the_last_bit(loss_type, level, rows, T, dtype):
    """Token level: the same gradient, bit for bit. The loss sums in another order (weights first), sequences average in
    another: a few roundings."""
    mask = (torch.arange(T) < torch.randint(1, T + 1, (rows, 1), generator=generator(T))).long()
    (mine, grad, _), (theirs, wanted, _) = both(draw(mask, rows, False, dtype), loss_type, level)
    assert mine.dtype == theirs.dtype == grad.dtype == dtype and grad.any()
    few = 8 * torch.finfo(dtype).eps
    assert abs(mine - theirs) <= few * max(1, abs(theirs.item()))
    assert torch.equal(grad, wanted) if level == "token" else (grad - wanted).abs().max() <= few * wanted.abs().max()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", AGGREGATES)
@given(mask=completions(), seed=st.integers(0, 9999))
def test_with_a_kl_penalty(loss_type, level, mask, seed):
    "TRL adds beta * k3 to each token before it aggregates, so the penalty has the policy term's weights."
    batch = draw(mask, seed, False)
    (mine, grad, _), (theirs, wanted, metrics) = both(batch, loss_type, level, dict(beta=0.1), beta=0.1)
    close(mine, theirs, tol=1e-12)
    close(grad, wanted, tol=1e-12)
    if mask.shape[1] > 1:
        assert kl_penalty(batch["logps"], batch["ref_logps"], mask).item() == pytest.approx(
            metrics["kl"], rel=1e-5, abs=1e-6
        )


@given(mask=completions(), seed=st.integers(0, 9999), scale=st.sampled_from([0.4, 2.0]))
def test_cispo(mask, seed, scale):
    "TRL's epsilon_high is the cap itself and there is no lower bound: (1, 4) here is 5 there."
    (mine, grad, out), (theirs, wanted, metrics) = both(
        draw(mask, seed, True, scale=scale), "cispo", "token", dict(clip=(1.0, 4.0), surrogate="cispo"), clip=(0.2, 5.0)
    )
    close(mine, theirs, tol=1e-12)
    close(grad, wanted, tol=1e-12)


@given(mask=completions(empty=False), seed=st.integers(0, 9999), scale=st.sampled_from([2e-3, 0.1]))
def test_luspo(mask, seed, scale):
    "The recipe against TRL's loss of that name at its sequence level: each response's loss times its length."
    batch = draw(mask, seed, False, scale=scale)
    x = leaf(batch["logps"])
    y = leaf(batch["logps"])
    mine = recipe("luspo").loss(batch | dict(logps=x)).loss
    theirs, _ = trl_loss(y, batch, "luspo", "sequence", recipe("luspo").clip)
    close(mine, theirs, tol=1e-12)
    close(torch.autograd.grad(mine, x)[0], torch.autograd.grad(theirs, y)[0], tol=1e-12)


@pytest.mark.parametrize("loss_type", AGGREGATES)
@given(mask=completions(), seed=st.integers(0, 9999))
def test_two_sided_clip_is_the_dual_clip(loss_type, mask, seed):
    "TRL's delta caps the ratio where a negative advantage would let it grow: our dual_clip."
    (mine, grad, _), (theirs, wanted, _) = both(
        draw(mask, seed, False, scale=1.0), loss_type, "token", dict(dual_clip=1.5), delta=1.5
    )
    close(mine, theirs, tol=1e-12)
    close(grad, wanted, tol=1e-12)


@given(mask=completions(), seed=st.integers(0, 9999))
def test_micro_batches_of_dapo(mask, seed):
    "TRL divides DAPO's sums by the tokens of the whole accumulation window: `normalizer` here."
    batch = draw(mask, seed, False)
    n = int(mask.sum())
    for rows in (slice(1), slice(1, None)):
        part = {k: v[rows] for k, v in batch.items()}
        (mine, grad, _), (theirs, wanted, _) = both(part, "dapo", "token", dict(normalizer=max(1, n)), steps=2, items=n)
        close(mine, theirs, tol=1e-12)
        close(grad, wanted, tol=1e-12)


def test_the_stub_calls_trl():
    """A stand-in that fed our loss back to us would pass everything above: TRL's loss has to move with each of its own
    settings."""
    batch = draw(torch.ones(3, 4, dtype=torch.long).tril(1), 0, False)

    def value(**options):
        return trl_loss(batch["logps"], batch, **(dict(loss_type="grpo") | options))[0].item()

    changed = [
        value(),
        value(loss_type="bnpo"),
        value(loss_type="dr_grpo"),
        value(level="sequence"),
        value(clip=(0.01, 0.01)),
        value(beta=0.1),
        value(loss_type="cispo", clip=(0.2, 5.0)),
    ]
    assert len({round(v, 9) for v in changed}) == len(changed)
    with pytest.raises(ValueError, match="Unknown loss type"):
        value(loss_type="no such loss")
