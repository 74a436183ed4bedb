"""`mpo_nb.prime_rl.block_loss` on packed rows: a loop over single numbers, in float64. Through prime-rl's own
`compute_loss` where prime-rl is installed, which takes Python 3.12, and through a stand-in of the same call always."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from batches import close, leaf
from engine_loops import OPTIONS, WRITTEN, draw_samples, loss_of_sample, name

from mpo_nb.prime_rl import BlockLossOutputs, block_loss

CLIP = (0.2, 0.28)
LENGTHS = [len(w) for w in WRITTEN]
MASK = torch.tensor([one for w in WRITTEN for one in w]).bool()
METRICS = {"actions/mean_length", "actions/log_ratio_rms", "actions/token_log_ratio_rms", "clip_fraction", "approx_kl"}


@dataclass
class Inputs:
    "What prime-rl's custom losses get, by its documentation."

    trainer_logprobs: torch.Tensor
    inference_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    loss_mask: torch.Tensor
    loss_weights: torch.Tensor | None = None


class StandIn:
    "One packed row through a loss, as the documentation tells it: sequence by sequence, summed, over all tokens."

    def row(self, logps, old, advantages, weights, options):
        outputs = []
        for i, (a, b, c, m) in enumerate(zip(*(x.split(LENGTHS) for x in (logps, old, advantages, MASK)))):
            w = None if weights is None else weights.split(LENGTHS)[i]
            if w is not None:
                m = m & (w != 0)
            if w is None or m.any():
                outputs.append(block_loss(Inputs(a, b, None, c, m, w), **options))
        metrics = {key: torch.stack([out.metrics[key] for out in outputs]) for key in outputs[0].metrics}
        return sum(out.loss for out in outputs) / int(MASK.sum()), metrics


class Real:
    "The same through prime-rl: its configuration names the loss, its `compute_loss` calls it."

    def __init__(self):
        self.module = import_module("prime_rl.trainer.rl.loss")
        self.config = import_module("prime_rl.configs.trainer").CustomLossConfig

    def row(self, logps, old, advantages, weights, options):
        config = self.config(import_path="mpo_nb.prime_rl.block_loss", kwargs=options)
        parts = (x.split(LENGTHS) for x in (logps, old, advantages, MASK))
        a, b, c, m = map(list, parts)
        return self.module.compute_loss(
            trainer_logprobs=a,
            inference_logprobs=b,
            ref_logprobs=None,
            advantages=c,
            loss_mask=m,
            rl_weights=None if weights is None else list(weights.split(LENGTHS)),
            ce_weights=None,
            ref_kl_weights=None,
            rl_loss_fn=self.module.setup_rl_loss_fn(config),
            rl_scale=int(MASK.sum()),
            ce_scale=1,
            ref_kl_scale=1,
        )


@pytest.fixture(scope="module", params=["stand-in", "prime-rl"])
def engine(request):
    if request.param == "stand-in":
        return StandIn()
    if find_spec("prime_rl") is None:
        pytest.skip("prime-rl is not installed: it takes Python 3.12 and its repository")
    return Real()


def by_loop(x, old, A, weights, options, dual_clip=None):
    total = 0
    for w, a, b, c, v in zip(WRITTEN, x.split(LENGTHS), old, A, weights or [None] * len(WRITTEN)):
        total = total + loss_of_sample(a, b, c, w, options, CLIP, dual_clip, v)
    return total / sum(map(sum, WRITTEN))


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_packed_row_is_the_loop(engine, options, weighted, dual_clip):
    new, old, A, weights = draw_samples(7)
    weights = weights if weighted else None
    x, y = leaf(torch.cat(new)), leaf(torch.cat(new))
    handed = options | dict(clip=list(CLIP), dual_clip=dual_clip)  # a list, as TOML has it
    loss, metrics = engine.row(x, torch.cat(old), torch.cat(A), torch.cat(weights) if weights else None, handed)
    wanted = by_loop(y, old, A, weights, options, dual_clip)
    close(loss, wanted, tol=1e-12)
    close(*(torch.autograd.grad(value, z)[0] for value, z in ((loss, x), (wanted, y))), tol=1e-12)
    assert metrics.keys() == METRICS and not any(value.requires_grad for value in metrics.values())


def test_what_stands_under_the_mask_is_not_read(engine):
    new, old, A, _ = draw_samples(3)
    a, b, c = (torch.cat(values) for values in (new, old, A))
    options = dict(action_space="window", k=3, kl_tau=0.1)
    clean, _ = engine.row(a, b, c, None, options)
    x = leaf(torch.where(MASK, a, -7.0))
    poisoned, _ = engine.row(x, torch.where(MASK, b, torch.nan), torch.where(MASK, c, torch.nan), None, options)
    close(poisoned, clean, tol=1e-12)
    (pull,) = torch.autograd.grad(poisoned, x)
    assert not pull[~MASK].any() and pull[MASK].all()
    weights = torch.where(MASK, 1.0, torch.nan).double()
    weighted = sum(
        block_loss(Inputs(i, j, None, k, m, w), **options).loss
        for i, j, k, m, w in zip(*(x.split(LENGTHS) for x in (a, b, c, MASK, weights)))
    )
    close(weighted / MASK.sum(), clean, tol=1e-12)


def test_a_joint_ratio_too_small_for_a_number_has_its_logarithm():
    old, mask = torch.zeros(4), torch.ones(4).bool()
    out = block_loss(Inputs(old - 60, old, None, torch.ones(4), mask), "block", k=4, reduce="sum")
    assert out.metrics["actions/log_ratio_rms"] == 240


def test_the_regulariser_is_the_squared_token_log_ratio(engine):
    new, old, A, weights = draw_samples(5)
    flat = [torch.cat(values) for values in (new, old, A, weights)]
    options = dict(action_space="block", k=2)
    plain, _ = engine.row(*flat, options)
    held, _ = engine.row(*flat, options | dict(kl_tau=0.01))
    squares = (flat[3] * (flat[0] - flat[1]).square())[MASK].sum() / MASK.sum()
    close(held - plain, 0.01 * squares, tol=1e-12)


def test_a_sequence_without_a_token_brings_nothing():
    zeros = torch.zeros(3, dtype=torch.double)
    out = block_loss(Inputs(leaf(zeros), zeros, None, zeros, zeros.bool()), "block", k=2)
    assert isinstance(out, BlockLossOutputs) and out.loss == 0 and out.loss.requires_grad
    assert all(torch.isfinite(value) for value in out.metrics.values())


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(action_space="sentence"), "prime-rl hands its losses neither texts nor token ids; choose 'block'"),
        (dict(action_space="block"), "k=None; action_space='block' needs"),
        (dict(action_space="sequence", k=4), "k=4 means nothing to action_space='sequence'"),
        (dict(action_space="block", k=4, clip=[0.2, 0.2, 0.2]), "clip="),
        (dict(action_space="block", k=4, kl_tau=-1), "kl_tau=-1"),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
def test_what_cannot_be_done_is_refused(options, message):
    ones = torch.ones(3, dtype=torch.double)
    with pytest.raises(ValueError, match=message):
        block_loss(Inputs(ones, ones, None, ones, ones.bool()), **options)


def test_negative_weights_are_refused():
    ones = torch.ones(3, dtype=torch.double)
    with pytest.raises(ValueError, match="loss_weights holds -1.0; the clipped loss has no form"):
        block_loss(Inputs(ones, ones, None, ones, ones.bool(), -ones), "block", k=2)


def test_prime_rl_gets_its_own_class(engine):
    if isinstance(engine, StandIn):
        pytest.skip("the stand-in has no class of its own")
    ones = torch.ones(3)
    inputs = engine.module.LossInputs(ones, ones, None, ones, ones.bool())
    assert type(block_loss(inputs, "turn")) is engine.module.LossOutputs
