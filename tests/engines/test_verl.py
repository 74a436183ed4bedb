"""`policy_loss` and the losses that `mpo_nb.verl` registers equal verl's own, on the same tensors; and verl's
configuration finds them.

verl runs in a process of its own: see `verl_process`.
"""

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from batches import AWKWARD, close, draw_batch, generator, leaf, masks, seeds
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from verl_process import WHY_NOT, Verl, find_verl

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, TokenGradient, WindowActions
from mpo_nb.blocks import sentence_blocks, turn_blocks
from mpo_nb.losses import policy_loss
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.recipes import recipe

MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
NAMES = {"actor/pg_clipfrac", "actor/ppo_kl", "actor/pg_clipfrac_lower"}
OFF = 1e30  # a dual clip that is never reached: verl has no way to turn it off
CLIP = dict(clip_ratio_low=0.2, clip_ratio_high=0.28)


@pytest.fixture(scope="module")
def verl():
    folder = find_verl()
    if folder is None:
        pytest.skip(WHY_NOT)
    process = Verl(folder)
    process.version()  # it has imported verl
    yield process
    process.close()


@pytest.fixture(scope="module")
def mode(verl, request):
    "An aggregation that this release of verl has."
    if request.param == "token-sum" and older(verl, "0.9"):
        pytest.skip(f"verl {verl.version()} has no token-sum")
    return request.param


all_modes = pytest.mark.parametrize("mode", MODES, indirect=True)


def draw(mask, seed, per_token=True, spread=0.4):
    """old, new, advantages, mask in float64; 0 where the mask is 0: verl multiplies by it, so there a NaN would reach
    its loss."""
    new, old, A = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in draw_batch(mask, seed, spread, per_token))
    A = A if per_token else A[:, None].expand(mask.shape)
    return old, new, torch.where(mask.bool(), A, 0), mask.bool()


def ours(
    old, new, A, mask, mode, actions=TokenActions(), surrogate="ppo", clip=(0.2, 0.28), dual_clip=None, weights=None
):
    """`policy_loss` by hand: (loss, gradient, PolicyLoss); the denominators written out once more, with verl's 1e-8 on
    a response's length."""
    x = leaf(new)
    lengths = mask.sum(1, keepdim=True)
    if mode == "seq-mean-token-mean":
        A = A * lengths / (lengths + 1e-8)
    rows = max(1, int(mask.any(1).sum()))
    total = {
        "token-mean": max(1, int(mask.sum())),
        "token-sum": 1,
        "seq-mean-token-sum-norm": rows * mask.shape[1],
    }.get(mode, rows)
    aggregate = "seq-mean-token-mean" if mode == "seq-mean-token-mean" else "token-mean"
    out = policy_loss(
        x,
        old,
        A if weights is None else A * weights,
        mask,
        actions,
        clip,
        surrogate,
        aggregate,
        dual_clip,
        normalizer=total,
    )
    return out.loss.detach(), torch.autograd.grad(out.loss, x)[0], out


def older(verl, version):
    return Version(verl.version()) < Version(version)


def same(a, b, tol=1e-12):
    close(a[0], b[0], tol=tol)
    close(a[1], b[1], tol=tol)


some = masks().filter(lambda m: bool(m.any()))  # a piece without a token is nan in verl


# verl's losses


@all_modes
@given(mask=some, seed=seeds, dual=st.sampled_from([OFF, 3.0, 1.5]), spread=st.sampled_from([0.4, 1.5]))
def test_vanilla(verl, mode, mask, seed, dual, spread):
    batch = draw(mask, seed, spread=spread)
    theirs = verl.loss("vanilla", *batch, mode, clip_ratio_c=dual, **CLIP)
    mine = ours(*batch, mode, dual_clip=None if dual == OFF else dual)
    same(mine, theirs)
    assert theirs[2].keys() == NAMES
    assert mine[2].clip_fraction.item() == pytest.approx(
        theirs[2]["actor/pg_clipfrac"] + theirs[2]["actor/pg_clipfrac_lower"], abs=1e-6
    )


@all_modes
@given(mask=some, seed=seeds, per_token=st.booleans())
def test_gspo(verl, mode, mask, seed, per_token):
    "verl's GSPO is GSPO-token; with one advantage for a response it is GSPO too."
    mode = "seq-mean-token-mean" if older(verl, "0.9.1") else mode
    batch = draw(mask, seed, per_token, spread=0.1)
    tight = dict(clip_ratio_low=3e-4, clip_ratio_high=4e-4) if seed % 2 else CLIP
    theirs = verl.loss("gspo", *batch, mode, **tight)
    for actions in (TokenGradient(SequenceActions()), *([] if per_token else [SequenceActions(), BlockActions(50)])):
        same(ours(*batch, mode, actions, clip=tuple(tight.values())), theirs)
    assert ours(*batch, mode, SequenceActions(), clip=tuple(tight.values()))[2].clip_fraction.item() == pytest.approx(
        theirs[2]["actor/pg_clipfrac"], abs=1e-6
    )


@given(mask=masks(), seed=seeds, per_token=st.booleans())
def test_geo_mean(verl, mask, seed, per_token):
    """GMPO. verl adds 1e-8 to a response's length in the exponent, so the two agree to that; it divides by all
    responses, empty ones too."""
    old, new, A, m = draw(mask, seed, per_token, spread=0.6)
    theirs = verl.loss("geo_mean", old, new, A, m, clip_ratio_low=0.4, clip_ratio_high=0.4)
    x = leaf(new)
    r = recipe("gmpo")
    out = policy_loss(x, old, A, m, r.actions, r.clip, r.surrogate, r.aggregate, normalizer=len(m))
    same((out.loss.detach(), torch.autograd.grad(out.loss, x)[0]), theirs, tol=1e-7)
    outside = m & ((new - old).abs() > 0.4)  # verl's clip fractions count both sides; only one of them is limited
    assert (outside.sum() / max(1, m.sum())).item() == pytest.approx(
        theirs[2]["actor/pg_clipfrac"] + theirs[2]["actor/pg_clipfrac_lower"], abs=1e-6
    )


@all_modes
@given(mask=some, seed=seeds, spread=st.sampled_from([0.4, 2.0]))
def test_cispo(verl, mode, mask, seed, spread):
    "verl's bounds are 1 - low and 1 + high, as ours; TRL's upper one is the cap itself."
    batch = draw(mask, seed, spread=spread)
    theirs = verl.loss("cispo", *batch, mode, clip_ratio_low=1.0, clip_ratio_high=4.0)
    mine = ours(*batch, mode, surrogate="cispo", clip=recipe("cispo").clip)
    same(mine, theirs)
    assert mine[2].clip_fraction.item() == pytest.approx(theirs[2]["actor/pg_clipfrac"], abs=1e-6)


# The losses that are registered


@all_modes
@given(
    mask=some,
    seed=seeds,
    dual=st.sampled_from([OFF, 3.0]),
    weighted=st.booleans(),
    parts=st.sampled_from([None, 1, 4]),
    spread=st.sampled_from([0.4, 12.0]),
)
def test_mpo_with_k_1_is_vanilla(verl, mode, mask, seed, dual, weighted, parts, spread):
    """With rollout weights, pieces of a batch over processes, and log-ratios beyond 20, where verl holds them; metrics
    too."""
    batch = draw(mask, seed, spread=spread)
    weights = (
        (2 * torch.rand(mask.shape, generator=generator(seed), dtype=torch.double) - 0.3).clamp(min=0)
        if weighted
        else None
    )
    info = {} if parts is None else dict(dp_size=parts, batch_num_tokens=40, global_batch_size=9, loss_scale_factor=13)
    config = dict(mode=mode, weights=weights, clip_ratio_c=dual, global_batch_info=info, **CLIP)
    mine = verl.loss("mpo", *batch, policy_loss=dict(loss_mode="mpo", k=1), **config)
    theirs = verl.loss("vanilla", *batch, **config)
    tol = 1e-7 if mode == "seq-mean-token-mean" else 1e-12
    same(mine, theirs, tol=tol * max(1.0, theirs[0].abs().item(), theirs[1].abs().max().item()))
    assert mine[2] == pytest.approx(theirs[2], abs=1e-6)


@given(mask=some, seed=seeds)
def test_a_block_that_holds_all_is_gspo(verl, mask, seed):
    batch = draw(mask, seed, per_token=False)
    for mode in ["seq-mean-token-mean"] if older(verl, "0.9.1") else MODES:
        mine = verl.loss(
            "mpo_block",
            *batch,
            mode,
            policy_loss=dict(loss_mode="mpo_block", k=mask.shape[1], gaps="skip"),
            clip_ratio_c=OFF,
            **CLIP,
        )
        theirs = verl.loss("gspo", *batch, mode, **CLIP)
        same(mine, theirs, tol=1e-7 if mode == "seq-mean-token-mean" else 1e-12)
    assert mine[2] == pytest.approx(theirs[2], abs=1e-6)


WINDOWS = {
    "mpo": (dict(k=3, future=0.3), WindowActions(3, 0.3, gaps="end")),
    "mpo joint": (dict(k=2, joint=True), WindowActions(2, joint=True, gaps="end")),
    "mpo defaults": ({}, WindowActions(4, 0.2, gaps="end")),
    "mpo across": (dict(k=3, gaps="skip"), WindowActions(3)),
    "mpo_block": (dict(k=2, reduce="sum"), BlockActions(2, "sum", "end")),
    "mpo_block defaults": ({}, BlockActions(4, gaps="end")),
    "mpo_block across": (dict(k=2, gaps="skip"), BlockActions(2)),
    "mpo_turn": (dict(reduce="sum"), BlockActions(turn_blocks(AWKWARD), "sum")),
    "mpo_turn defaults": ({}, BlockActions(turn_blocks(AWKWARD))),
}


@all_modes
@pytest.mark.parametrize("name", WINDOWS)
def test_registered_losses_are_policy_loss(verl, name, mode):
    options, actions = WINDOWS[name]
    batch = draw(AWKWARD, 3, spread=1.0)
    loss_mode = name.split()[0]
    theirs = verl.loss(loss_mode, *batch, mode, policy_loss=dict(loss_mode=loss_mode) | options, **CLIP)
    same(ours(*batch, mode, actions, dual_clip=3.0), theirs, tol=1e-7 if mode == "seq-mean-token-mean" else 1e-12)
    assert theirs[2].keys() == NAMES and all(type(v) is float for v in theirs[2].values())


def test_values_under_the_mask_do_not_matter(verl):
    new, old, A = draw_batch(AWKWARD, 5)
    old, new, A, m = *(torch.nan_to_num(x, 7.0, 9.0, -9.0) for x in (old, new, A)), AWKWARD.bool()
    zeros = [torch.where(m, x, 0) for x in (old, new, A)]
    same(
        verl.loss("mpo", old, new, A, m, weights=torch.where(m, 1.5, 4.0)),
        verl.loss("mpo", *zeros, m, weights=torch.where(m, 1.5, 4.0)),
        tol=0,
    )


def test_float32_is_as_near_as_roundings_allow(verl):
    batch = draw((torch.arange(200) < torch.tensor([[200], [7], [90], [1]])).long(), 1, spread=0.5)
    single = [x.float() for x in batch[:3]]
    mine = verl.loss("mpo", *single, batch[3], policy_loss=dict(loss_mode="mpo", k=1))
    theirs = verl.loss("vanilla", *single, batch[3])
    assert (
        mine[0].dtype == torch.float32 and abs(mine[0] - theirs[0]) < 1e-6 and (mine[1] - theirs[1]).abs().max() < 1e-8
    )


# Sentences

IDS = ("7+5=12;12-3=9#9", "7-2=5!5#5", "3")


def sentence_batch(seed=0):
    "Three responses of characters, a tool's tokens in the first one's middle."
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    g = generator(seed)
    ids = [tokenizer(t.replace("!", ";"), add_special_tokens=False)["input_ids"] for t in IDS]
    kept = [[int(not (i == 0 and t in (4, 5))) for t in range(len(r))] for i, r in enumerate(ids)]
    old, new, A = ([torch.randn(len(r), generator=g, dtype=torch.double) * s for r in ids] for s in (1.0, 1.0, 1.0))

    def pad(rows):
        return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(r) for r in rows], batch_first=True)

    mask = pad(kept).bool()
    return (
        dict(ids=ids, masks=kept, old=old, advantages=A, log_probs=new),
        mask,
        [pad(x) for x in (old, new, A)],
        sentence_blocks(mask, [list(t.replace("!", ";")) for t in IDS], "end"),
    )


def test_sentences_through_ppo_loss(verl):
    rows, mask, (old, new, A), ids = sentence_batch()
    assert ids.max() == 2  # a reply that the policy did not write ends a sentence
    value, grads, metrics = verl.update(dict(loss_mode="lpo"), **rows, tokenizer=str(tiny_model_path()))
    loss, grad, _ = ours(old, new, A, mask, "token-mean", BlockActions(ids), clip=(0.2, 0.2), dual_clip=3.0)
    close(value, loss, tol=1e-12)
    for row, wanted in zip(grads, grad):
        close(row, wanted[: len(row)], tol=1e-12)
    assert NAMES | {"actor/pg_loss"} <= metrics.keys()


@pytest.mark.parametrize(
    "loss_mode, actions", [("mpo", WindowActions(3, gaps="end")), ("mpo_block", BlockActions(3, gaps="end"))]
)
def test_the_other_losses_through_ppo_loss(verl, loss_mode, actions):
    rows, mask, (old, new, A), _ = sentence_batch(1)
    value, grads, _ = verl.update(dict(loss_mode=loss_mode, k=3), **rows, tokenizer=str(tiny_model_path()))
    loss, grad, _ = ours(old, new, A, mask, "token-mean", actions, clip=(0.2, 0.2), dual_clip=3.0)
    close(value, loss, tol=1e-12)
    for row, wanted in zip(grads, grad):
        close(row, wanted[: len(row)], tol=1e-12)


def test_sentences_are_not_made_up(verl):
    rows, *_ = sentence_batch()
    with pytest.raises(RuntimeError, match="hands its policy losses no tokens"):
        verl.update(dict(loss_mode="lpo"), **rows, tokenizer=str(tiny_model_path()), patched=False)


def test_workers_look_up_what_is_replaced():
    "`use_sentences` counts on these lines of verl; when they change, so must it."
    folder = find_verl()
    if folder is None:
        pytest.skip(WHY_NOT)
    where = Path(importlib.util.find_spec("verl").origin).parent if folder == Path() else folder / "verl"
    text = (where / "workers" / "engine_workers.py").read_text()
    assert "from verl.workers.utils.losses import ppo_loss\n" in text
    made = text.index("actor_config: ActorConfig = omega_conf_to_dataclass(self.config.actor)")
    picked = text.index("self.loss_fn = partial(ppo_loss, config=actor_config)")
    assert made < text.index("actor_config.model_config = model_config") < picked
    assert (
        "from verl.workers.utils.losses import ppo_loss\n"
        in (where / "trainer" / "distillation" / "losses.py").read_text()
    )


# Configuration

ACTOR = "actor_rollout_ref.actor.policy_loss."


def test_importing_verl_with_the_variable_set_registers(verl):
    assert {"mpo", "mpo_block", "lpo", "mpo_turn", "vanilla"} <= set(verl.losses())


def test_command_line(verl):
    name, made = verl.command_line(
        f"{ACTOR}_target_=mpo_nb.verl.BlockLossConfig", f"{ACTOR}loss_mode=mpo", f"+{ACTOR}k=3", f"+{ACTOR}future=0.3"
    )
    assert (
        name == "mpo_nb.verl.BlockLossConfig"
        and made["loss_mode"] == "mpo"
        and made["k"] == 3
        and made["future"] == 0.3
        and made["clip_cov_ub"] == 5.0
    )
    assert verl.command_line(f"{ACTOR}loss_mode=mpo")[0].startswith("verl.")
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'k'"):
        verl.command_line(f"{ACTOR}loss_mode=mpo", f"+{ACTOR}k=3")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(loss_mode="mpo", k=0), "k=0"),
        (dict(loss_mode="mpo", reduce="sum"), "policy_loss.reduce='sum' means nothing to loss_mode='mpo'"),
        (dict(loss_mode="lpo", k=4), "mpo or mpo_block"),
        (dict(loss_mode="mpo_turn", gaps="skip"), "mpo or mpo_block or lpo"),
        (dict(loss_mode="vanilla", k=4), "no option of blocks"),
        (dict(loss_mode="mpo_block", reduce="max"), "reduce='max'"),
        (dict(loss_mode="mpo", tail="drop"), "tail='drop'"),
    ],
)
def test_wrong_options_are_refused_when_the_configuration_is_made(verl, options, message):
    with pytest.raises(RuntimeError, match=message):
        verl.command_line(
            f"{ACTOR}_target_=mpo_nb.verl.BlockLossConfig",
            *(f"{'' if k == 'loss_mode' else '+'}{ACTOR}{k}={v}" for k, v in options.items()),
        )


# What the notebook says of verl


def test_known_differences(verl):
    if older(verl, "0.9.1"):
        pytest.skip(f"verl {verl.version()}; the page tells of 0.9.1")
    batch = draw(torch.tensor([[1, 1, 1], [0, 0, 0]]), 0)
    assert math.isnan(verl.loss("vanilla", *batch[:3], torch.zeros(2, 3, dtype=torch.bool))[0])
    assert verl.loss("mpo", *batch[:3], torch.zeros(2, 3, dtype=torch.bool))[0] == 0
    assert (
        len(
            {
                verl.loss("geo_mean", *batch, mode, global_batch_info=info)[0].item()
                for mode in MODES
                for info in ({}, dict(dp_size=2, batch_num_tokens=9, global_batch_size=4))
            }
        )
        == 1
    )
    assert len({round(verl.loss("gspo", *batch, mode)[0].item(), 9) for mode in MODES}) > 1
    old = torch.zeros(1, 1, dtype=torch.double)
    new = torch.full((1, 1), 12.0, dtype=torch.double)
    A = torch.full((1, 1), -1.0, dtype=torch.double)
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert (
        verl.loss("gspo", old, new, A, mask)[0].item() == pytest.approx(math.exp(10))
        and verl.loss("mpo_block", old, new, A, mask)[0].item() == 3
    )
    assert verl.loss("vanilla", old, new, A, mask, clip_ratio_c=1.1)[0].item() == pytest.approx(1.1)
    with pytest.raises(RuntimeError, match="clip_ratio_c=1.1 must exceed"):
        verl.loss("mpo", old, new, A, mask, clip_ratio_c=1.1)


def test_the_notebook_runs_with_verl(verl, root):
    assert verl.run_notebook(str(root / "nbs" / "lib" / "verl.ipynb")) is True


# Without verl


def test_without_verl(monkeypatch):
    for name in [n for n in sys.modules if n == "verl" or n.startswith("verl.") or n == "mpo_nb.verl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "verl", None)
    module = importlib.import_module("mpo_nb.verl")
    for need in (module.register, lambda: module.BlockLossConfig(k=2)):
        with pytest.raises(ImportError, match="pip install verl"):
            need()
    config = SimpleNamespace(
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        clip_ratio_c=3.0,
        policy_loss=SimpleNamespace(loss_mode="mpo", k=3),
    )
    old, new, A, m = draw(AWKWARD, 0)
    same(
        (module.policy_losses["mpo"](old, new, A, m, config=config)[0], torch.zeros(1)),
        (ours(old, new, A, m, "token-mean", WindowActions(3, gaps="end"), dual_clip=3.0)[0], torch.zeros(1)),
    )
    for wrong, message in (
        (dict(config=None), "ActorConfig"),
        (dict(config=config, loss_agg_mode="block-mean"), "block-mean"),
    ):
        with pytest.raises(ValueError, match=message):
            module.policy_losses["mpo"](old, new, A, m, **wrong)
    monkeypatch.delitem(sys.modules, "mpo_nb.verl")
