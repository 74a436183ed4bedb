"What the page of the study of drift says is what its file holds."

import nbformat
import pandas as pd
import pytest

PLACES = ("frontiers =", "def frontier", "#| hide\nimport importlib")


@pytest.fixture(scope="module")
def study(root):
    "The page's text, and what its cells work out, figures left out."
    notebook = nbformat.read(root / "nbs" / "studies" / "same_drift.ipynb", as_version=4)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "nbs" / "studies")
        for cell in notebook.cells:
            if cell.cell_type == "code" and any(place in cell.source for place in PLACES):
                exec(cell.source, names)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"), names


def points(row, *names) -> list[str]:
    return [f"{100 * row[name]:.1f}" for name in names]


def differences(names, frame, regime):
    table = names["seed_differences"](frame, "token", within=("regime",))
    return {row["method"]: row for _, row in table[table.regime == regime].iterrows()}


def test_differences_at_one_range_and_at_one_drift(study):
    text, names = study
    runs = names["runs"]
    at_one = runs[(runs.range == 1) & (runs.regime != "lag 0")]
    found = differences(names, at_one, "lag 16")
    for unit, said in zip(
        names["methods"][1:],
        (
            "Windows of four end {} points above it ({} to {})",
            "plain means {} ({} to {})",
            "blocks of seven {} ({} to {})",
            "the whole response {} ({} to {})",
        ),
    ):
        assert said.format(*points(found[unit], "mean", "low", "high")) in text
    table = names["seed_differences"](at_one, "token", within=("regime",))
    assert f"the smallest *p* is {table.p_holm.min():.2f}" in text
    low, high = (f(differences(names, at_one, "lag 4")[unit]["mean"] for unit in found) for f in (min, max))
    assert f"by {100 * low:.1f} to +{100 * high:.1f} points" in text
    decided = {regime: differences(names, names["frontiers"], regime) for regime in names["regimes"]}
    signs = [f"{100 * decided['lag 16'][unit]['mean']:+.1f}" for unit in found]
    assert f"the differences are {', '.join(signs[:3])} and {signs[3]} points" in text
    for regime, said in (
        ("lag 16", "no interval reaches above {}. (Corrected"),
        ("lag 4", "at one drift no interval reaches above {}."),
    ):
        assert said.format(f"{100 * max(row['high'] for row in decided[regime].values()):.1f}") in text
    same = [
        (regime, unit)
        for regime in decided
        for unit, row in decided[regime].items()
        if -0.03 < row["low"] and row["high"] < 0.03
    ]
    assert same == [
        ("lag 4", "window, plain mean"),
        ("lag 16", "window, plain mean"),
        ("8 passes", "window, 20% future"),
    ]
    assert not [row for table in decided.values() for row in table.values() if row["p_holm"] < 0.05]


def test_points_that_the_text_names(study):
    text, names = study
    runs, start = names["runs"], names["start"]
    means = runs.groupby(["regime", "method", "range"])[names["measures"]].mean()
    lag = means.loc["lag 16"]
    assert f"at {100 * lag.accuracy_sampled['token', float('inf')]:.1f}%. The best window ends at" in text
    best = max(lag.accuracy_sampled[unit].max() for unit in names["methods"] if "window" in unit)
    assert f"The best window ends at {100 * best:.1f}%" in text
    ratios = [lag.exact_kl[unit, 1.0] / lag.exact_kl["token", 1.0] for unit in names["methods"][1:]]
    assert f"drifted {min(ratios):.1f} to {max(ratios):.1f} times as far" in text
    greedy = lag.accuracy_greedy
    said = (
        start.accuracy_greedy.mean(),
        greedy["token", 1.0],
        greedy["token", float("inf")],
        greedy["whole response", float("inf")],
    )
    sentence = (
        "{:.1f}% before training, and falls with drift for every unit: at lag 16 to {:.1f}% with the token at its usual"
        " range, {:.1f}% without clipping, and {:.1f}%"
    )
    assert sentence.format(*(100 * x for x in said)) in text
    assert (
        lag.pass_at_8.max() <= start.pass_at_8.mean() + 1e-4
        and f"pass@8 is {100 * start.pass_at_8.mean():.1f}%" in text
    )
    assert f"below the first policy's {100 * start.accuracy_sampled.mean():.1f}%" in text
    passes = means.loc["8 passes"].accuracy_sampled
    assert (passes > start.accuracy_sampled.mean()).sum() == 1
    assert all(passes[unit].loc[1.0:].is_monotonic_decreasing for unit in names["methods"])
    budget, narrow = names["budgets"], means.exact_kl.xs(0.25, level="range")
    for regime in names["regimes"]:
        assert all(narrow[regime, unit] > budget[regime] for unit in ("blocks of 7", "whole response"))


def test_the_control_on_fresh_data(study):
    _, names = study
    fresh = names["runs"][names["runs"].regime == "lag 0"].set_index(["method", "seed"])[names["measures"]]
    for unit in ("blocks of 7", "whole response"):
        pd.testing.assert_frame_equal(fresh.loc[unit], fresh.loc["token"], rtol=1e-3)
        assert fresh.loc[unit].accuracy_sampled.equals(fresh.loc["token"].accuracy_sampled)
    apart = (fresh.groupby("method").accuracy_sampled.mean() - fresh.loc["token"].accuracy_sampled.mean()).abs()
    assert 0 < apart.max() < 0.01
