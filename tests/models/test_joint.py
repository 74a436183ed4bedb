"""Modules that look ahead while the policy learns: pairs with the backbone, a loss of their own, the calibrated share
of their gradient (OCC, arXiv 2605.28184), and how far they agree."""

import pytest
import torch
from small_runs import computed, small
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig

from mpo_nb.models.joint import (
    Shifts,
    calibrated_share,
    column_agreement,
    later_cross_entropy,
    pair_count,
    paired_shifts,
    pairs,
)
from mpo_nb.models.mtp import MTPModules
from mpo_nb.training.learner import Denominators, denominators
from mpo_nb.training.trainer import Trainer

SHAPE = LlamaConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=64,
)
FORMS = {"parallel": {}, "chained": dict(head="shared", merge="eh_proj")}


def columns(k=4, rows=5, width=11, seed=0):
    "Random columns and a mask of responses with holes."
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, k, generator=g, dtype=torch.double), torch.rand(rows, width, generator=g) < 0.8


def looking_ahead(form="chained", k=3):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPE).eval()
    mtp = MTPModules(model, k, start="random", **FORMS[form])
    ids = torch.randint(3, 40, (4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[:, :4] = 0  # a prompt
    mask[1, 9:] = 0
    return model, mtp, ids, mask


# Pairs and sums


def test_a_pair_is_the_backbone_and_a_module_on_the_same_token():
    x, mask = columns()
    own, modules = pairs(x, mask)
    expected = [
        (float(x[b, t + n, 0]), float(x[b, t, n]))
        for n in range(1, 4)
        for b in range(5)
        for t in range(11 - n)
        if mask[b, t] and mask[b, t + n]
    ]
    assert list(zip(own.tolist(), modules.tolist())) == expected
    assert pair_count(mask, 4) == len(expected)


def test_the_share_is_plus_where_both_moved_alike_and_nothing_at_right_angles():
    x, mask = columns()
    backbone = x[..., 0]
    alike = torch.stack([torch.cat([backbone[:, n:], torch.zeros(5, n)], 1) for n in range(4)], -1)
    still = torch.zeros_like(alike)
    for plus in (1.0, 0.3, 0.0):
        assert calibrated_share(paired_shifts(alike, still, mask), plus) == pytest.approx(plus, abs=1e-6)
    opposite = alike * torch.tensor([1.0, -2.0, -2.0, -2.0])
    assert calibrated_share(paired_shifts(opposite, still, mask)) == pytest.approx(-0.5, abs=1e-6)
    own, modules = pairs(x, mask)
    straight = x.clone()
    straight[..., 1:] -= alike[..., 1:] * (own @ modules) / (own @ own)  # what is along the backbone is taken out
    assert abs(calibrated_share(paired_shifts(straight, still, mask))) < 1e-6
    assert calibrated_share(paired_shifts(x, x, mask)) == 0


def test_shifts_of_parts_add_up_and_what_is_no_pair_does_not_count():
    x, mask = columns()
    old = torch.zeros_like(x)
    whole = paired_shifts(x, old, mask)
    parts = sum((paired_shifts(x[i : i + 2], old[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)), Shifts())
    assert parts == pytest.approx(whole)
    spoilt = x.clone()
    spoilt[~mask] = float("nan")
    assert paired_shifts(spoilt, old, mask) == pytest.approx(whole)
    assert paired_shifts(x[..., :1], old[..., :1], mask) == Shifts(0.0, 0.0)


def test_a_negative_plus_is_refused():
    with pytest.raises(ValueError, match="plus=-1.0"):
        calibrated_share(Shifts(1.0, 1.0), -1.0)


# Their cross-entropy


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_cross_entropy_is_that_of_the_later_tokens_and_goes_where_it_should(form, share):
    model, mtp, ids, mask = looking_ahead(form)
    mtp.trunk_gradient = share
    hidden = model.model(ids).last_hidden_state
    loss = later_cross_entropy(mtp.future_logps(hidden, ids, mask=mask), mask)
    states = list(mtp.states(hidden[:, :-1], ids, torch.ones_like(ids)))
    expected = []
    for n, depth in enumerate(mtp.depths, 1):
        head = depth.head if form == "parallel" else model.lm_head
        logits = head(states[n - 1])
        expected += [
            cross_entropy(logits[b, t - 1], ids[b, t + n])
            for b in range(4)
            for t in range(1, 12 - n)
            if mask[b, t] and mask[b, t + n]
        ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert all(p.grad.any() for p in mtp.parameters())
    reached = {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}
    if form == "parallel":
        assert not reached.pop("lm_head.weight"), "modules with heads of their own leave the backbone's alone"
    assert all(reached.values()) if share else not any(reached.values())


def test_the_backbones_own_column_has_no_part_in_it():
    x, mask = columns()
    x.requires_grad_()
    later_cross_entropy(x, mask).backward()
    assert not x.grad[..., 0].any() and x.grad[..., 1:].any()
    assert later_cross_entropy(x[..., :1], mask) == 0


# How good they are


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1024, 3])
def test_agreement_is_what_a_plain_loop_finds(form, rows):
    model, mtp, ids, mask = looking_ahead(form)
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
        found = column_agreement(mtp, hidden, ids, mask=mask, temperature=0.7, rows=rows)
        states = [hidden[:, :-1], *mtp.states(hidden[:, :-1], ids, torch.ones_like(ids))]
        backbone = (model.lm_head(hidden) / 0.7).softmax(-1)
        for n, one in enumerate(found):
            own = mtp.depths[n - 1].head if n and form == "parallel" else model.lm_head
            q = (own(states[n]) / 0.7).softmax(-1)
            places = [(b, t) for b in range(4) for t in range(1, 12 - n) if mask[b, t] and mask[b, t + n]]
            assert one.tokens == len(places)
            assert one.right == sum(int(q[b, t - 1].argmax() == ids[b, t + n]) for b, t in places)
            shared = sum(float(torch.minimum(q[b, t - 1], backbone[b, t + n - 1]).sum()) for b, t in places)
            assert one.overlap == pytest.approx(shared, rel=1e-5)
    assert found[0].shares[1] == pytest.approx(1, abs=1e-5)


# In a run

LOOKING = dict(
    k=3, source="mtp", mtp_head="shared", mtp_merge="eh_proj", mtp_start="random", mtp_warmup_steps=2, lr=1e-3
)


def trainer(folder, **options):
    return Trainer(small(folder, **LOOKING | dict(mtp_warmup_problems=4) | options))


def gradients(made, batch, tokens=None):
    rows = torch.arange(len(batch.problems))
    over = denominators(batch, rows, made.recipe, made.config.max_new_tokens, made.processes)
    micros = made.learner.accumulate(batch, rows, 1, tokens, over)
    return micros, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in made.policy.trained]


def test_the_weight_adds_that_many_times_the_cross_entropys_gradient(tmp_path):
    plain = trainer(tmp_path / "plain", mtp_warmup_steps=0)
    batch = plain.collect(1)
    (one,), without = gradients(plain, batch)
    plain.config.mtp_cross_entropy = 0.5
    (two,), weighed = gradients(plain, batch)
    assert float(two.out.loss.detach()) == pytest.approx(float(one.out.loss.detach()) + 0.5 * one.later, rel=1e-5)
    plain.learner.optimizer.zero_grad(set_to_none=True)
    scores = plain.policy.scores(batch.rollout)
    later_cross_entropy(scores.logps, batch.rollout.mask[:, : scores.own.shape[1]]).backward()
    for a, b, p in zip(weighed, without, plain.policy.trained):
        torch.testing.assert_close(a - b, 0.5 * p.grad, rtol=1e-3, atol=1e-5)


def test_micro_batches_leave_the_cross_entropy_and_the_shifts_as_they_are(tmp_path):
    made = trainer(tmp_path, mtp_cross_entropy=0.5)
    batch = made.collect(1)
    noise = torch.randn(batch.old_logps.shape, generator=torch.Generator().manual_seed(0))
    batch.old_logps = batch.old_logps + 0.1 * noise
    whole, parts = gradients(made, batch), gradients(made, batch, tokens=64)
    assert len(whole[0]) == 1 < len(parts[0])
    for a, b in zip(whole[1], parts[1]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert sum(m.later for m in parts[0]) == pytest.approx(whole[0][0].later, rel=1e-5)
    assert sum((m.shifts for m in parts[0]), Shifts()) == pytest.approx(whole[0][0].shifts, rel=1e-4)


def test_a_calibrated_run_starts_detached_and_then_follows_the_shifts(tmp_path):
    made = trainer(tmp_path, mtp_calibration="occ", mtp_trunk_gradient=0.5)
    assert made.policy.mtp.trunk_gradient == 0.0
    batch = made.collect(1)
    made.learner.calibrate(gradients(made, batch)[0])
    assert made.policy.mtp.trunk_gradient == 0.0, "nothing has moved"
    noise = torch.randn(batch.old_logps.shape, generator=torch.Generator().manual_seed(0))
    batch.old_logps = batch.old_logps + 0.1 * noise
    made.learner.calibrate(gradients(made, batch)[0])
    shifts = paired_shifts(made.policy.frozen(batch.rollout).logps, batch.old_logps, batch.rollout.mask)
    assert made.policy.mtp.trunk_gradient == pytest.approx(calibrated_share(shifts, 0.5), rel=1e-3) != 0


def test_a_fixed_share_stays_fixed_and_its_metrics_are_written(tmp_path):
    made = trainer(tmp_path, mtp_trunk_gradient=0.25, eval_every=2, eval_problems=8)
    rows = made.fit()
    assert made.policy.mtp.trunk_gradient == 0.25
    assert {row["mtp_trunk_gradient"] for row in rows[1:]} == {0.25}
    assert all(row["mtp_cross_entropy"] > 0 for row in rows[1:])
    names = {f"mtp_{what}_{n}" for what in ("right", "overlap") for n in (1, 2)}
    for row in (rows[0], rows[2]):
        assert names <= row.keys() and all(0 <= row[name] <= 1 for name in names)
    assert not names & rows[1].keys()


def test_a_calibrated_run_that_goes_on_ends_where_one_that_was_never_stopped_does(tmp_path):
    options = dict(mtp_calibration="occ", mtp_cross_entropy=0.1)
    whole = trainer(tmp_path / "whole", steps=3, checkpoint_every=1, **options).fit()
    trainer(tmp_path / "parts", steps=2, checkpoint_every=1, **options).fit()
    again = trainer(tmp_path / "parts", steps=3, checkpoint_every=1, **options).fit()
    assert computed(again) == computed(whole)
    assert len({row["mtp_trunk_gradient"] for row in whole}) == 3, "the share moves"


def test_without_modules_nothing_is_said_of_them(tmp_path):
    rows = Trainer(small(tmp_path, steps=1, eval_every=1, eval_problems=4)).fit()
    assert not [name for row in rows for name in row if name.startswith("mtp_")]
    assert Denominators(1.0, 1.0, 1.0).later == 0
