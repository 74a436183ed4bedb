"""Student's distribution and the power of its test against integrals in 30 digits, Holm's correction against its
definition, and refusals."""

import itertools
import math
import random

import mpmath
import pandas as pd
import pytest

from mpo_nb.evaluation import (
    corrected_together,
    detectable,
    detectable_effect,
    detection_power,
    difference_table,
    holm,
    power_line,
    seed_differences,
    simultaneous,
    student_p,
    student_quantile,
    student_share,
    student_t,
)


def density(t: float, freedom: int) -> mpmath.mpf:
    scale = mpmath.gamma((freedom + 1) / 2) / mpmath.gamma(freedom / 2) / mpmath.sqrt(freedom * mpmath.pi)
    return scale * (1 + t**2 / mpmath.mpf(freedom)) ** (-(freedom + 1) / 2)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 16, 29])
def test_student_is_its_integral(freedom):
    for t in (0.0, 0.3, 1.7, 4.0, 12.0):
        wanted = 2 * mpmath.quad(lambda x: density(x, freedom), [0, t / 2, t]) if t else 0
        assert student_share(-t, freedom) == pytest.approx(float(wanted), abs=1e-12)
    assert student_share(student_quantile(0.9975, freedom), freedom) == pytest.approx(0.9975, abs=1e-12)
    assert student_quantile(0.95, freedom) == pytest.approx(student_t(freedom + 1), abs=6e-4)


@pytest.mark.parametrize("n, alpha", [(2, 0.05), (5, 0.05), (5, 0.0025), (12, 0.01)])
def test_power_is_that_of_the_noncentral_t(n, alpha):
    freedom = n - 1
    c = student_quantile(1 - alpha, freedom)
    for effect in (0.0, 0.7, 1.6):
        shift = effect * math.sqrt(n)

        def called(w):  # w is a chi-square
            s = mpmath.sqrt(w / freedom)
            tails = mpmath.ncdf(shift - c * s) + mpmath.ncdf(-shift - c * s)
            return (
                tails * w ** (freedom / 2 - 1) * mpmath.exp(-w / 2) / (2 ** (freedom / 2) * mpmath.gamma(freedom / 2))
            )

        wanted = mpmath.quad(called, [0, 0.01, 1, 5, 20, 60, 200])
        assert detection_power(effect, n, alpha) == pytest.approx(float(wanted), abs=2e-4)


def test_detectable_effect_has_the_power():
    for n, power, alpha in itertools.product((3, 5, 8), (0.5, 0.8), (0.05, 0.004)):
        assert detection_power(detectable_effect(n, power, alpha), n, alpha) == pytest.approx(power, abs=1e-6)
    assert detectable_effect(5, 0.8, 0.05) < detectable_effect(5, 0.9, 0.05) < detectable_effect(5, 0.9, 0.01)


def test_holm_is_its_definition():
    "The corrected p-value is the smallest level at which Holm's steps reject."
    rng = random.Random(0)
    for _ in range(40):
        p = [rng.random() ** 3 for _ in range(rng.randint(1, 7))]
        for value, corrected in zip(p, holm(p)):

            def rejects(level):
                rejected = set()
                for rank, other in enumerate(sorted(p)):
                    if other > level / (len(p) - rank):
                        break
                    rejected.add(other)
                return value in rejected

            assert corrected == 1 or (rejects(corrected * (1 + 1e-9)) and not rejects(corrected * (1 - 1e-9)))
    assert holm([0.02, math.nan, 0.01])[0] == 0.02 and math.isnan(holm([math.nan])[0])


def frame(effect: float, arms: int = 4, seeds: int = 5) -> pd.DataFrame:
    rng = random.Random(1)
    rows = []
    for seed, arm in itertools.product(range(seeds), range(arms)):
        shift = effect * (arm == 1)
        rows.append(dict(method=f"m{arm}", seed=seed, accuracy_sampled=0.5 + shift + 0.02 * rng.gauss(0, 1)))
    return pd.DataFrame(rows)


def test_a_table_marks_what_survives_and_nothing_else():
    found = seed_differences(frame(0.3), "m0")
    assert found["p_holm"].tolist() == holm(found["p"].tolist())
    text = difference_table(found)
    assert text.count(" *") == int((found.p_holm < 0.05).sum()) == 1 and "over 3 comparisons: 1 of 3 here" in text
    bare = found.assign(p=0.03, p_holm=holm([0.03] * 3), low=0.01)  # each interval leaves out 0, none survives
    assert " *" not in difference_table(bare) and "none here" in difference_table(bare)
    with pytest.raises(ValueError, match="no column 'p_holm'"):
        difference_table(found.drop(columns="p_holm"))


def test_one_page_is_corrected_together():
    tables = [seed_differences(frame(effect), "m0") for effect in (0.3, 0.0)]
    together = corrected_together(*tables)
    assert pd.concat(together).p_holm.tolist() == holm(pd.concat(tables).p.tolist())
    assert together[0].p_holm.min() == pytest.approx(2 * tables[0].p_holm.min())


def test_simultaneous_intervals_hold_all_at_once():
    rng = random.Random(2)
    missed = 0
    for _ in range(400):
        rows = [dict(method=f"m{a}", seed=s, accuracy_sampled=rng.gauss(0, 1)) for s in range(5) for a in range(7)]
        found = simultaneous(seed_differences(pd.DataFrame(rows), "m0"))
        missed += bool(((found.low > 0) | (found.high < 0)).any())
    assert missed / 400 < 0.08  # each for itself would miss about 0.2


def test_power_line_says_the_rows_own_numbers():
    found = seed_differences(frame(0.0), "m0")
    least = detectable(found)
    assert least.tolist() == pytest.approx([detectable_effect(5) * s for s in found.deviation])
    line = power_line(found)
    assert f"{100 * least.median():.2g} points (median; {100 * least.min():.2g} to {100 * least.max():.2g})" in line
    assert f"{100 * detectable(found, comparisons=3).median():.2g} points" in line and line.startswith("With 5 seeds")
    assert "corrected" not in power_line(found, comparisons=1)
    still = found.assign(deviation=[0.0, *found.deviation[1:]])
    assert detectable(still).isna().tolist() == [True] + [False] * (len(found) - 1)
    assert power_line(still).startswith(power_line(found[1:], comparisons=len(found))[:-1])
    assert power_line(still).endswith(f"; 1 of {len(found)} rows do not vary and say nothing of it.")
    assert "cannot be told" in power_line(found.assign(deviation=0.0))


def test_what_cannot_be_is_refused():
    for call, words in (
        (lambda: holm([1.2]), "p_values holds 1.2"),
        (lambda: holm([None]), "p_values holds None"),
        (lambda: holm(0.05), "p_values=0.05; pass a list"),
        (lambda: detectable_effect(5, alpha="a"), "alpha='a'"),
        (lambda: power_line(seed_differences(frame(0), "m0").iloc[:0]), "differences has no row"),
        (lambda: power_line(seed_differences(frame(0), "m0").assign(deviation=math.nan)), "NaN deviation"),
        (lambda: difference_table(seed_differences(frame(0), "m0").iloc[:0]), "differences has no row"),
        (lambda: student_p([]), "differences is empty"),
        (lambda: student_share(1.0, 0), "freedom=0"),
        (lambda: student_quantile(1.0, 3), "share=1.0"),
        (lambda: detection_power(1.0, 1), "n=1"),
        (lambda: detectable_effect(5, power=0.04), "power=0.04, alpha=0.05"),
        (lambda: power_line(seed_differences(frame(0, seeds=1), "m0")), "single seed"),
        (lambda: simultaneous(seed_differences(frame(0), "m0"), 0), "comparisons=0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert math.isnan(student_p([0.1])) and student_p([0.0, 0.0]) == 1 and student_p([0.1, 0.1]) < 1e-12


def test_a_run_without_a_number_is_no_finding():
    "A NaN among the differences, as of a run that diverged, is no test; it was a p-value of 0."
    for broken in (math.nan, math.inf):
        assert math.isnan(student_p([0.1, broken, 0.2]))


def test_a_power_near_one_is_not_rounded_to_it():
    assert "99.9% of such" in power_line(seed_differences(frame(0), "m0"), power=0.999)
