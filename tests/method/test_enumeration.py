"""Every response of a small policy: gradients agree with automatic differentiation and with sampled rollouts, what
theory says of estimators holds to rounding, and a case by its number is the same everywhere."""

import math
from dataclasses import replace

import pytest
import torch

from mpo_nb.actions import WindowActions
from mpo_nb.enumeration import (
    Granularity,
    all_responses,
    collect_credit,
    compare_estimates,
    equal_share_clip,
    estimate,
    exact_advantages,
    exact_values,
    expected_reward,
    granularities,
    interacting_rewards,
    numbered_case,
    numbered_normals,
    reward_gradient,
    rollout_loss,
    step_nats,
    table_rows,
)
from mpo_nb.losses import policy_loss

CASES = [
    dict(seed=0, length=6),
    dict(seed=1, length=6, drift="random", kl=0.5, binary=True),
    dict(seed=2, vocabulary=3, length=4, reach=2),
    dict(seed=3, length=6, memory=2, sharpness=2.0),
]


@pytest.fixture(scope="module", params=range(len(CASES)))
def case(request):
    return numbered_case(**CASES[request.param])


def test_the_gradient_of_the_sum_is_autograds(case):
    leaf = case.logits.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(expected_reward(case, leaf), leaf)
    torch.testing.assert_close(reward_gradient(case), by_autograd, rtol=0, atol=1e-13)


@pytest.mark.parametrize("clip", [None, (0.2, 0.2)])
@pytest.mark.parametrize("lam", [None, 0.95])
def test_the_expected_gradient_is_autograds_of_the_loss(case, clip, lam):
    "The mean of the library's own loss over all responses, each as likely as the rollouts have it."
    for kind in granularities(3, 0.3).values():
        leaf = case.logits.clone().requires_grad_()
        advantages = exact_advantages(case, lam)
        total = 0.0
        surrogate = "none" if clip is None else "ppo"
        for n in range(0, len(case.rewards), 7):  # every seventh response, by itself
            one = policy_loss(
                case.logps_of(leaf)[n : n + 1],
                case.old_logps[n : n + 1],
                advantages[n : n + 1],
                case.mask[n : n + 1],
                kind.actions,
                clip or (0.2, 0.2),
                surrogate,
                kind.aggregate,
                normalizer=kind.divide,
            )
            total = total - case.drawn[n] * one.loss
        (by_autograd,) = torch.autograd.grad(total, leaf)
        some = torch.zeros_like(case.drawn)
        some[::7] = case.drawn[::7]
        mine = collect_credit(case, rollout_loss(case, kind, clip, lam).credit, some)
        torch.testing.assert_close(mine, by_autograd, rtol=0, atol=1e-12)


def test_without_drift_the_token_is_exact_and_only_edges_tell_others_apart(case):
    fresh = replace(case, old_logits=case.logits)
    edge = 2
    inner = range(edge, case.length - edge)
    for name, kind in granularities(edge + 1).items():
        assert name.startswith("window") or estimate(fresh, kind).bias < 1e-12, name
        if inner:
            assert estimate(fresh, kind, positions=inner).bias < 1e-12, name
    assert estimate(fresh, granularities(3)["window mean"]).bias > 0.05


@pytest.mark.parametrize("drift", ["uphill", "random"])
def test_the_joint_ratio_of_a_response_is_unbiased_at_any_drift(drift):
    for kl in (0.01, 0.2, 1.0):
        free = compare_estimates(numbered_case(4, length=7, kl=kl, drift=drift), k=7, clip=None)
        assert free["sequence joint"].bias < 1e-11 and free["block joint"].bias < 1e-11
        assert min(free[name].bias for name in ("token", "block mean", "sequence mean")) > 0.01


@pytest.mark.parametrize("lam, factor", [(0.0, 0.8), (0.95, None), (1.0, 1.0)])
def test_on_fresh_rollouts_a_critic_scales_windows_by_one_number(lam, factor):
    "In the interior E[MPO] = (sum of beta_n lambda^n) E[PPO]: 1 - p at lambda 0."
    k = 4
    case = numbered_case(5, length=9, kl=0.0)
    beta = WindowActions(k, 0.2).weights
    scale = sum(b * lam**n for n, b in enumerate(beta))
    assert factor is None or math.isclose(scale, factor)
    assert lam != 0.95 or round(scale, 2) == 0.98
    inner = range(k - 1, case.length - k + 1)
    kinds = granularities(k, 0.2)
    token, window = (estimate(case, kinds[name], None, lam, inner) for name in ("token", "window"))
    torch.testing.assert_close(window.gradient, scale * token.gradient, rtol=0, atol=1e-12)
    assert token.bias < 1e-12 and math.isclose(window.bias, 1 - scale, abs_tol=1e-9)


def test_sampled_rollouts_agree_within_their_interval():
    "Mean, squared length and clip fraction of 20,000 responses that were drawn, not enumerated."
    case = numbered_case(6, length=5, kl=0.3)
    rows, draws = case.rows, 20_000
    drawn = torch.multinomial(case.drawn, draws, True, generator=torch.Generator().manual_seed(0))
    for kind in granularities(2).values():
        exact = estimate(case, kind)
        loss = rollout_loss(case, kind)
        score = torch.zeros(len(rows), *case.logits.shape).double()  # (N, R, V): one response's gradient
        for t in range(case.length):
            n = torch.arange(len(rows))
            each = torch.nn.functional.one_hot(case.tokens[:, t], 2).double() - case.logits.softmax(1)[rows[:, t]]
            score[n, rows[:, t]] += loss.credit[:, t, None] * each
        sample = score[drawn]  # (draws, R, V)
        error = sample.std(0) / math.sqrt(draws)
        assert ((sample.mean(0) - exact.gradient).abs() <= 5 * error + 1e-12).all()
        lengths = sample.square().sum((1, 2))
        assert abs(lengths.mean() - exact.square) < 5 * lengths.std() / math.sqrt(draws)
        steps = step_nats(case, sample).sum(1)
        assert abs(steps.mean() - exact.nats[1]) < 5 * steps.std() / math.sqrt(draws)
        cut = loss.clipped.double().mean(1)[drawn]
        assert abs(cut.mean() - exact.clip_fraction) <= 5 * cut.std() / math.sqrt(draws)


def test_the_gain_is_that_of_a_small_step(case):
    "A step of few nats along the expectation, taken and measured, beside one along the true gradient."
    exact = estimate(case, granularities()["token"])

    def gained(step):
        moved = case.logits + 1e-4 * step / step_nats(case, step).sum().sqrt()
        return float(expected_reward(case, moved) - expected_reward(case))

    assert math.isclose(gained(exact.gradient) / gained(exact.truth), exact.gain(), rel_tol=1e-3)
    assert exact.gain(8) < exact.gain(64) < exact.gain()


def test_values_are_means_of_what_follows(case):
    values = exact_values(case)
    for t in (0, 2, case.length - 1):
        row = case.rows[17, t]
        if case.memory is None:
            alike = case.rows[:, t] == row
            mean = (case.drawn * case.rewards)[alike].sum() / case.drawn[alike].sum()
            assert math.isclose(values[17, t], mean, abs_tol=1e-12)
    assert torch.allclose((case.drawn * values[:, -1]).sum(), (case.drawn * case.rewards).sum())


def test_drift_and_share_are_what_was_asked_for(case):
    asked = [settings.get("kl", 0.1) for settings in CASES]
    assert min(abs(case.kl - kl) for kl in asked) < 1e-12 and float(case.drawn.sum()) == pytest.approx(1)
    for kind in granularities(2).values():
        for share in (0.05, 0.3):
            clip = equal_share_clip(case, kind, share)
            assert abs(estimate(case, kind, clip).clip_fraction - share) < max(0.05, float(case.drawn.max()))


@pytest.mark.parametrize("seed", range(5))
def test_uphill_is_where_the_reward_grows(seed):
    "At the same KL no random direction gains as much."
    cases = [numbered_case(seed, length=6, kl=0.2, drift=drift) for drift in ("uphill", "random")]
    up, sideways = (float(expected_reward(case) - expected_reward(case, case.old_logits)) for case in cases)
    assert up > abs(sideways) and up > 0.3


def test_a_case_by_its_number_stays_what_it_is():
    "The numbers a browser makes too: a change here would make every stored study another one."
    assert numbered_normals(0, 1, 3).tolist() == pytest.approx(GOLDEN, abs=1e-12)
    rewards = interacting_rewards(0, 2, 6, 3)
    assert abs(rewards.mean()) < 1e-12 and abs(rewards.square().mean() - 1) < 1e-12
    assert set(interacting_rewards(0, 2, 6, binary=True).tolist()) == {0.0, 1.0}
    alone = interacting_rewards(0, 2, 6, 1).view(2, 32)
    assert torch.allclose(alone[1] - alone[0], (alone[1] - alone[0])[:1].expand(32)), "tokens do not interact"


GOLDEN = [-0.4860772809073031, -0.7080011215846868, -1.1968996527892148]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: all_responses(2, 17), "make 131,072 responses; at most 65,536"),
        (lambda: all_responses(1, 3), "vocabulary=1"),
        (lambda: table_rows(2, 3, memory=-1), "memory=-1"),
        (lambda: numbered_case(0, drift="down"), "drift='down'"),
        (lambda: numbered_case(0, kl=-1), "kl=-1"),
        (lambda: numbered_case(0, length=4, kl=1e6), "kl=1000000.0; this direction does not lead so far"),
        (lambda: numbered_case(0, length=4, reach=5), "reach=5"),
        (lambda: numbered_case(0, length=4, sharpness=0), "sharpness=0"),
        (lambda: numbered_case(-1, length=4), "seed=-1"),
        (
            lambda: estimate(numbered_case(0, length=4), Granularity(WindowActions(2)), positions=range(3, 6)),
            "range(3, 6)",
        ),
        (lambda: estimate(numbered_case(0, length=4), Granularity(WindowActions(2)), lam=2), "lam=2"),
    ],
)
def test_what_cannot_be_is_said(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)


def test_a_reward_that_never_differs_has_no_gradient():
    case = numbered_case(0, length=4)
    with pytest.raises(ValueError, match="^rewards: the expected reward has no gradient"):
        estimate(replace(case, rewards=torch.ones_like(case.rewards)), granularities()["token"])
