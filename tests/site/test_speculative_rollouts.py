"""What the page of self-speculative rollouts says is what its table holds, and the first prediction held."""

import csv
import math
import re

import nbformat
import pytest


@pytest.fixture(scope="module")
def rows(root) -> list[dict]:
    with (root / "benchmarks" / "speculation.csv").open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shown(root) -> str:
    cells = nbformat.read(root / "nbs" / "learn" / "speculative_rollouts.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(output["data"].get("text/markdown", "") for output in outputs if "data" in output)


def by_case(rows: list[dict], part: str) -> dict:
    found: dict = {}
    for row in rows:
        if row["part"] == part:
            found.setdefault((row["model"], row["modules"]), []).append(row)
    return found


def test_counted_acceptance_is_the_expected_one(rows):
    "Within four standard errors of a share, at every depth, for every model and form."
    expected, counted = by_case(rows, "expected"), by_case(rows, "accepted")
    assert len(expected) >= 2
    for case, drafts in expected.items():
        for e, c in zip(drafts, counted[case], strict=True):
            p, n = float(e["value"]), int(e["count"])
            assert e["at"] == c["at"] and e["count"] == c["count"]
            assert abs(float(c["value"]) - p) < 4 * math.sqrt(p * (1 - p) / n), (case, e, c)


def test_the_page_shows_every_depth(rows, shown):
    for (model, modules), drafts in by_case(rows, "expected").items():
        for e in drafts:
            line = f"| {model} | {modules} | {e['at']} | {int(e['count']):,} | {float(e['value']):.3f} |"
            assert line in shown


def test_the_page_shows_gains_and_iterations(rows, shown):
    for (model, modules), gains in by_case(rows, "gain").items():
        best = max(gains, key=lambda row: float(row["value"]))
        assert f"| {float(gains[0]['value']):.2f} | {float(best['value']):.2f} at {best['at']} |" in shown
    for (model, _), iterations in by_case(rows, "iteration").items():
        for row in iterations:
            value, low, high = (f"{float(row[key]):.2f}" for key in ("value", "low", "high"))
            assert f"| {model} | {row['at']} | {value} [{low}, {high}] |" in shown


def test_a_pass_gives_no_more_than_it_can(rows):
    for row in rows:
        if row["part"] == "tokens":
            assert 1 <= float(row["low"]) <= float(row["value"]) <= float(row["high"]) <= 4


def test_predictions_stand_before_the_tables(root):
    cells = nbformat.read(root / "nbs" / "learn" / "speculative_rollouts.ipynb", as_version=4).cells
    text = [cell.source for cell in cells]
    first = next(i for i, source in enumerate(text) if "## What would change our mind" in source)
    assert first < next(i for i, source in enumerate(text) if "speculation.csv" in source)
    assert len(re.findall(r"^\d\. \*", text[first], re.MULTILINE)) == 4


def test_the_page_shows_what_a_pass_costs(rows, shown):
    "And says truly which of them no drafts can pay for: a pass gives four tokens at most."
    costs = by_case(rows, "pass")
    assert {model for model, _ in costs} == {"tiny, 0.86M", "SmolLM2, 135M"}
    for passes in costs.values():
        for row in passes:
            value, low, high = (f"{float(row[key]):.2f}" for key in ("value", "low", "high"))
            assert f" {value} [{low}, {high}] |" in shown
    large = {row["at"]: float(row["value"]) for row in costs["SmolLM2, 135M", "chained"]}
    small = {row["at"]: float(row["value"]) for row in costs["tiny, 0.86M", "chained"]}
    assert large["32"] > 4 and [f"{large[n]:.1f}" for n in ("1", "8", "32")] == ["1.7", "2.6", "4.2"]
    assert f"{4 / large['8']:.1f}" == "1.5" and f"{small['1']:.1f}" == "3.4"


def test_the_library_page_says_what_was_lost(root, rows):
    "The numbers of the sentence on `speculate='on'` are the table's."
    cells = nbformat.read(root / "nbs" / "lib" / "sampling" / "speculating.ipynb", as_version=4).cells
    gains = [float(r["value"]) for r in by_case(rows, "gain")["tiny, 0.86M", "chained"]]
    tokens = sorted(float(r["value"]) for r in by_case(rows, "tokens")["tiny, 0.86M", "chained"])
    said = cells[-1].source
    assert f"{min(gains):.2f} to {max(gains):.2f} of those without drafts" in said
    assert f"{tokens[len(tokens) // 2]:.1f} tokens a pass" in said
