"""Policy improvement in closed form: its ends, its optimum, draws beside a set, log-odds, and blocks on a tree."""

import math
from itertools import product

import pytest
import torch

from mpo_nb.blocks import blocks_from_starts, fixed_blocks
from mpo_nb.enumeration import numbered_case
from mpo_nb.improvement import blockwise_policy, distinct_actions, log_odds, tilted_policy
from mpo_nb.soft_q import exact_soft_q, soft_policy, soft_values

EXACT = dict(rtol=0, atol=4e-15)
PI = torch.tensor([0.6, 0.3, 0.1]).double()
Q = torch.tensor([0.0, 1.0, 2.0]).double()


def drawn(*shape, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_alpha_0_is_the_renormalised_prior_to_the_bit():
    prior = drawn(50, 7)
    assert torch.equal(tilted_policy(drawn(50, 7, seed=1), prior, 0), prior.log_softmax(-1))
    assert torch.equal(tilted_policy(1e300 * drawn(50, 7, seed=1), prior, 0.0), prior.log_softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1e39, 1e308])
def test_what_overflows_is_the_critic_alone(alpha, dtype):
    prior = torch.tensor([0.75, 0.25], dtype=dtype).log()
    new = tilted_policy(torch.tensor([1.0, 2.0], dtype=dtype), prior, alpha)
    assert new.exp().tolist() == [0, 1] == tilted_policy(torch.tensor([1.0, 2.0]), prior, math.inf).exp().tolist()


@pytest.mark.parametrize("large, dtype", [(3e38, torch.float32), (1.7e308, torch.float64)])
def test_a_gap_beyond_the_range_of_numbers(large, dtype):
    "At alpha 0 the prior to the bit; at a small alpha the exact tilt, although the gap itself overflows."
    prior, q = torch.tensor([0.75, 0.25], dtype=dtype).log(), torch.tensor([large, -large], dtype=dtype)
    assert torch.equal(tilted_policy(q, prior, 0.0), prior.log_softmax(-1))
    wanted = (prior + torch.tensor([1.0, -1.0], dtype=dtype)).log_softmax(-1)
    torch.testing.assert_close(tilted_policy(q, prior, 1 / float(q[0])), wanted, rtol=1e-6, atol=0)


def test_a_large_alpha_chooses_by_value():
    "Beyond the largest gap of the prior over the smallest gap of the values, and not before it on an example."
    prior, q = drawn(200, 5), drawn(200, 5, seed=1)
    gaps = q.sort(-1).values.diff(dim=-1).amin(-1)
    for row in range(200):
        enough = float((prior[row].max() - prior[row].min()) / gaps[row])
        assert tilted_policy(q[row], prior[row], 1.0001 * enough).argmax() == q[row].argmax()
    two, worth = torch.tensor([0.8, 0.2]).double().log(), torch.tensor([0.0, 1.0]).double()
    turn = math.log(4)
    assert tilted_policy(worth, two, turn - 1e-9).argmax() == 0 and tilted_policy(worth, two, turn + 1e-9).argmax() == 1


def test_the_critic_alone_keeps_the_prior_among_the_best():
    q = torch.tensor([1.0, 3.0, 3.0]).double()
    torch.testing.assert_close(tilted_policy(q, PI.log(), math.inf).exp(), torch.tensor([0, 0.75, 0.25]).double())
    torch.testing.assert_close(tilted_policy(q, PI.log(), 1e15).exp(), torch.tensor([0, 0.75, 0.25]).double())


@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.0])
def test_no_other_point_of_the_simplex_attains_more(alpha):
    prior, q = drawn(6).log_softmax(0), drawn(6, seed=1)
    best = ((prior + alpha * q).exp().sum()).log() / alpha
    new = tilted_policy(q, prior, alpha)

    def attained(logps):
        return (logps.exp() * (q - (logps - prior) / alpha)).sum(-1)

    torch.testing.assert_close(attained(new), best, **EXACT)
    torch.testing.assert_close(soft_values(q, prior, 1 / alpha), best, **EXACT)
    others = drawn(5000, 6, seed=2).log_softmax(-1)
    near = (new + 0.01 * drawn(5000, 6, seed=3)).log_softmax(-1)
    assert (attained(others) < best).all() and (attained(near) < best + 1e-15).all()
    assert (best - attained(near)).max() < 1e-3 / alpha, (
        "what is near is nearly as good: the test looks where it should"
    )


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_a_constant_changes_nothing_and_beta_is_its_inverse(alpha):
    prior, q = drawn(20, 4).log_softmax(-1), drawn(20, 4, seed=1)
    new = tilted_policy(q, prior, alpha)
    torch.testing.assert_close(tilted_policy(q - 2.0**7, prior, alpha), new, rtol=0, atol=1e-12)
    torch.testing.assert_close(tilted_policy(q, prior + 5, alpha), new, **EXACT)
    torch.testing.assert_close(soft_policy(q, prior, 1 / alpha), new, **EXACT)


def expected_over_draws(n: int, weight) -> torch.Tensor:
    "What n draws from PI become, weighted and normalised, on average over all 3 ** n sequences."
    total = torch.zeros(3).double()
    for draws in product(range(3), repeat=n):
        actions, counts = distinct_actions(draws)
        chance = PI[list(draws)].prod()
        total[actions] += chance * weight(actions, counts).exp()
    return total


def test_draws_that_are_weighted_by_the_prior_count_it_twice():
    "By hand: with alpha 1, five draws by pi e^Q go to pi^2 e^Q; by their counts to pi e^Q, as n grows."
    wanted = tilted_policy(Q, PI.log(), 1.0).exp()
    twice = tilted_policy(Q, 2 * PI.log(), 1.0).exp()
    torch.testing.assert_close(wanted, torch.tensor([0.279, 0.379, 0.343]).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(twice, torch.tensor([0.531, 0.361, 0.109]).double(), rtol=0, atol=1e-3)

    def by_counts(actions, counts):
        return tilted_policy(Q[actions], counts.double().log(), 1.0)

    def by_both(actions, counts):
        return tilted_policy(Q[actions], counts.double().log() + PI[actions].log(), 1.0)

    def as_set(actions, counts):
        return tilted_policy(Q[actions], PI[actions].log(), 1.0)

    five = [expected_over_draws(5, weight) for weight in (by_counts, by_both, as_set)]
    torch.testing.assert_close(five[0], torch.tensor([0.359, 0.398, 0.243]).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(five[1], torch.tensor([0.545, 0.347, 0.108]).double(), rtol=0, atol=1e-3)
    eight = [expected_over_draws(8, weight) for weight in (by_counts, by_both, as_set)]
    for right in (0, 2):
        assert (eight[right] - wanted).abs().max() < (five[right] - wanted).abs().max()
    assert (eight[1] - twice).abs().max() < 0.02 < 0.1 < (eight[1] - wanted).abs().max()


def test_distinct_ones_in_order():
    actions, counts = distinct_actions(["b", "a", "b", "b"])
    assert actions == ["b", "a"] and counts.tolist() == [3, 1]
    with pytest.raises(ValueError, match="draws is empty"):
        distinct_actions([])


def test_log_odds():
    s, f = torch.tensor([0, 3, 8]), torch.tensor([8, 5, 0])
    torch.testing.assert_close(log_odds(s, f).double(), torch.tensor([1 / 17, 7 / 11, 17]).double().log())
    # sigma of a difference of log-probabilities is the share of the first: LAC's reading of its critic
    logps = drawn(30, 9).log_softmax(-1)
    good, bad = logps[:, 2], logps[:, 5]
    torch.testing.assert_close((good - bad).sigmoid(), good.exp() / (good.exp() + bad.exp()), **EXACT)
    torch.testing.assert_close(log_odds(s, f, 1e-12)[1].exp(), torch.tensor(3 / 5))


PARTITIONS = [tuple(starts) for starts in product([True], *[[False, True]] * 3)]  # every way to cut four tokens


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_soft_q_block_by_block_is_the_tilt_of_the_whole(alpha):
    "LAC with ETPO's values is ETPO's actor, by the chain rule, wherever the blocks end."
    case = numbered_case(1, vocabulary=3, length=4, reach=3)
    q, _ = exact_soft_q(case, 1 / alpha)
    worth = q.gather(-1, case.tokens[..., None])[..., 0]
    whole = (case.old_logps.sum(1) + alpha * case.rewards).log_softmax(0)
    for starts in PARTITIONS:
        ids = blocks_from_starts(torch.tensor([starts]), case.mask[:1])
        improved = blockwise_policy(case, worth, alpha, ids)
        torch.testing.assert_close(improved.exp(), whole.exp(), rtol=0, atol=2e-15)
        torch.testing.assert_close(improved.exp().sum(), torch.tensor(1.0).double(), **EXACT)


def test_with_another_value_it_matters_where_blocks_end():
    case = numbered_case(1, vocabulary=3, length=4, reach=3)
    other = drawn(81)[:, None] * torch.ones(1, 4).double()
    other[:, :-1] = 0  # worth nothing before the end
    policies = [blockwise_policy(case, other, 2.0, fixed_blocks(case.mask[:1], k)).exp() for k in (1, 4)]
    assert (policies[0] - policies[1]).abs().max() > 0.01
    at_zero = blockwise_policy(case, other, 0, fixed_blocks(case.mask[:1], 2))
    torch.testing.assert_close(at_zero, case.old_logps.sum(1), **EXACT)


def test_whole_numbers_are_numbers():
    q, prior = torch.tensor([0, 1]), torch.tensor([-1, -2])
    for alpha in (0, 0.5, math.inf):
        assert torch.equal(tilted_policy(q, prior, alpha), tilted_policy(q.float(), prior.float(), alpha))


def test_padding_is_no_candidate():
    q = torch.tensor([[0.0, 1.0, math.nan], [2.0, 0.0, 1.0]]).double()
    prior = torch.tensor([[-1.0, -2.0, -math.inf], [-1.0, -1.0, -1.0]]).double()
    new = tilted_policy(q, prior, 2.0)
    assert new[0, 2] == -math.inf and new.exp().sum(-1).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(new[0, :2], tilted_policy(q[0, :2], prior[0, :2], 2.0), **EXACT)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: tilted_policy(Q, PI.log(), -1), "alpha=-1; it must be a number of at least 0"),
        (lambda: tilted_policy(Q, PI.log(), math.nan), "alpha=nan"),
        (lambda: tilted_policy(Q, PI.log(), True), "alpha=True"),
        (lambda: tilted_policy(Q, PI.log(), "1"), "alpha='1'"),
        (lambda: tilted_policy(Q[:0], PI[:0], 1), "there is no candidate"),
        (lambda: tilted_policy(torch.tensor(1.0), torch.tensor(1.0), 1), "there is no candidate"),
        (lambda: tilted_policy(Q, PI[:2], 1), r"q has shape \(3,\) but prior has \(2,\)"),
        (lambda: tilted_policy([1, 2], PI, 1), "q=.*pass a tensor"),
        (lambda: tilted_policy(Q / 0, PI.log(), 1), "q is not finite"),
        (lambda: tilted_policy(Q, PI.log() - math.inf, 1), "prior must be finite"),
        (lambda: tilted_policy(Q, PI.log() * math.nan, 1), "prior must be finite"),
        (lambda: log_odds(torch.tensor([1]), torch.tensor([-1])), "none of them can be negative"),
        (lambda: log_odds(torch.tensor([1]), torch.tensor([1, 2])), "count both"),
        (lambda: log_odds(torch.tensor([1]), torch.tensor([1]), 0), "extra=0"),
        (lambda: log_odds(torch.tensor([math.nan]), torch.tensor([1.0])), "successes holds nan"),
        (lambda: log_odds(torch.tensor([1.0]), torch.tensor([math.inf])), "failures holds inf"),
        (lambda: distinct_actions(None), "draws=None is of type NoneType"),
        (lambda: distinct_actions(torch.tensor([1, 1])), "is of type Tensor; pass a list"),
        (lambda: distinct_actions(list(torch.tensor([1, 1]))), r"draws\[0\]=tensor"),
        (lambda: distinct_actions([(1,), [1]]), r"draws\[1\]=\[1\] is of type list"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_tree_names_what_does_not_fit():
    case = numbered_case(0, vocabulary=2, length=3, reach=2)
    worth = torch.zeros(8, 3).double()
    with pytest.raises(ValueError, match="belong to no block"):
        blockwise_policy(case, worth, 1.0, torch.tensor([[0, 0, -1]]))
    with pytest.raises(ValueError, match="ids has shape"):
        blockwise_policy(case, worth, 1.0, torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match="q has shape"):
        blockwise_policy(case, worth[:, :2], 1.0, fixed_blocks(case.mask[:1], 1))
