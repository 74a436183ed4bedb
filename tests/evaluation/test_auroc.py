"""Area under the ROC curve: against every pair, with ties; its interval follows the groups; bad input is named."""

from itertools import product

import numpy as np
import pytest

from mpo_nb.evaluation import auroc


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 40), rng.random(40) < 0.4
    pairs = product(scores[positive], scores[~positive])
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
    assert auroc(scores, positive, draws=10)[0] == pytest.approx(np.mean(wins), rel=0, abs=1e-15)
    assert auroc(-scores, positive, draws=10)[0] == pytest.approx(1 - np.mean(wins), rel=0, abs=1e-15)


def test_copies_of_a_case_are_no_new_cases():
    rng = np.random.default_rng(0)
    positive = rng.random(40) < 0.5
    scores = positive + rng.normal(size=40)
    one, held, free = (
        auroc(scores, positive),
        auroc(np.repeat(scores, 9), np.repeat(positive, 9), np.repeat(np.arange(40), 9)),
        auroc(np.repeat(scores, 9), np.repeat(positive, 9)),
    )
    width = [high - low for _, low, high in (one, held, free)]
    assert width[1] == pytest.approx(width[0], rel=0.1) and width[2] < 0.5 * width[0]
    assert one[1] < one[0] < one[2]


@pytest.mark.parametrize(
    "scores, positive, groups, words",
    [
        ([1, 2], [1], None, "give one of each"),
        ([1, 2], [1, 0], [0], "give one of each"),
        ([1, 2], [1, 1], None, "2 of 2 cases are positive"),
        ([1, float("nan")], [1, 0], None, "some scores may be NaN"),
        ([1, 2], [1, -1], None, r"positive\[1\]=-1; each must be True or 1 .* pass \[x > 0 for x in positive\]"),
        ([1, 2], [0.5, 0], None, r"positive\[0\]=0.5"),
        ([1, 2], [1, float("nan")], None, r"positive\[1\]=nan"),
        ([1, 2], ["yes", "no"], None, r"positive\[0\]='yes'"),
        ([1, 2], [1, 0], [0, float("nan")], r"groups\[1\]=nan; name the group of every case"),
        ([1, 2], [1, 0], [None, "a"], r"groups\[0\]=None"),
    ],
)
def test_bad_input_is_named(scores, positive, groups, words):
    with pytest.raises(ValueError, match=words):
        auroc(scores, positive, groups)


@pytest.mark.parametrize("draws", [1, 0, -1, 2.0, True])
def test_an_interval_takes_draws(draws):
    with pytest.raises(ValueError, match=f"draws={draws}; it must be a whole number of at least 2"):
        auroc([1, 2], [1, 0], draws=draws)


def test_kinds_may_be_truth_values_or_0_and_1():
    alike = {auroc([3, 1, 2], kinds, draws=20) for kinds in ([True, False, False], [1, 0, 0], np.array([1.0, 0, 0]))}
    assert len(alike) == 1
