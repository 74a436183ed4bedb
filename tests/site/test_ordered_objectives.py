"""The page on objectives in an order: its exact figure, and what it says of its runs, worked out again."""

import csv
import re
from statistics import mean

import nbformat
import pytest

FOLDER = ("nbs", "papers")
SLACKS = ("0.05", "0.2")


@pytest.fixture(scope="module")
def notebook(root):
    return nbformat.read(root.joinpath(*FOLDER, "ordered_objectives.ipynb"), as_version=4)


@pytest.fixture(scope="module")
def page(notebook) -> dict:
    "What the page's cells define, up to its figure."
    names: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("!pip", "pass  #"), names)
            if "def learnt(" in cell.source:
                return names
    raise AssertionError("no cell defines the orders")


@pytest.fixture(scope="module")
def said(notebook) -> str:
    "All that the page's cells say in words."
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))


@pytest.fixture(scope="module")
def ends(root) -> dict:
    "(runs, arm) -> the held-out rows of its seeds."
    found: dict = {}
    with open(root.joinpath(*FOLDER, "ordered_objectives.csv"), encoding="utf8") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["runs"], row["arm"]), []).append(row)
    return found


def test_the_slack_is_what_the_exact_policy_gives_away(page):
    "Being right and being even exclude each other on this problem; so the shares are known without any program."
    for slack in page["slack_values"]:
        policy = page["exact"]("right > even", slack)[3]
        for name, share in (("correctness", 1 - slack), ("even_answer", slack)):
            assert float(policy @ page["returns"][name]) == pytest.approx(share, abs=1e-12)
        apart = page["exact"]("right > length, even > length", slack)[3]
        assert (apart is None) == (2 * (1 - slack) > 1)


def test_the_page_s_policy_gradient_comes_near(page):
    for order in ("right > even", "right > form > length"):
        exact, mean_policy = page["exact"](order, 0.1)[3], page["learnt"](order, 0.1)[1]
        assert (exact - mean_policy).abs().max() < 0.02


def test_what_the_page_says_of_its_runs_is_what_the_table_holds(ends, said):
    seeds = {key: sorted(rows, key=lambda row: row["seed"]) for key, rows in ends.items()}
    right = {key: [float(row["correctness"]) for row in rows] for key, rows in seeds.items()}
    both = {key: [float(r["correctness"]) + float(r["even_answer"]) for r in rows] for key, rows in seeds.items()}
    start = right["planned", "start"]
    assert all(len(rows) == 3 for rows in right.values())
    lost = [a - b for a, b in zip(start, right["planned", "even alone"])]
    conflict = "yes" if min(lost) >= 0.1 else "given up"
    assert f"The conflict is there: {conflict}." in said and ", ".join(f"{one:.2f}" for one in lost) in said
    margins = [mean(right["planned", f"ordered, slack {d}"]) - (mean(start) - float(d)) for d in SLACKS]
    promise = ", ".join(f"{one:+.2f} at a slack of {d}" for one, d in zip(margins, SLACKS)).replace("-", "−")
    assert promise in said
    assert ("promise is kept: yes" in said) == all(margin >= -0.05 for margin in margins)
    fixed = max(("sum of rewards", "GDPO"), key=lambda arm: mean(both["planned", arm]))
    gains = [[a - b for a, b in zip(both["planned", f"ordered, slack {d}"], both["planned", fixed])] for d in SLACKS]
    text = ", ".join(f"{mean(one):+.2f} ({min(one):+.2f} to {max(one):+.2f})" for one in gains).replace("-", "−")
    assert text in said and ("More than a weight: yes" in said) == any(min(one) > 0 for one in gains)
    for d in SLACKS:
        assert re.search(rf"ended at .*{mean(right['same problems', f'ordered, slack {d}']):.2f}", said)
