"""The page on LAC: what its cells show is what the files of its study say, by counts of this test's own."""

import csv
import json
from itertools import product
from math import comb

import nbformat
import pytest

FOLDER = "nbs/papers"
PAGE = "actor_critic_at_inference.ipynb"


@pytest.fixture(scope="module")
def page(root):
    return nbformat.read(root / FOLDER / PAGE, as_version=4)


@pytest.fixture(scope="module")
def files(root) -> dict:
    names = ("at_inference", "samples", "head", "verdicts")
    return {n: list(csv.DictReader((root / FOLDER / f"actor_critic_{n}.csv").open())) for n in names}


@pytest.fixture(scope="module")
def shown(page, root) -> dict:
    "What the cells that read the files define, and what they display, by cell id."
    names: dict = {}
    cells = {cell.id: cell for cell in page.cells}
    setup = cells["lac0002"].source.replace("!pip", "pass  #").partition("\nlongest")[0]
    exec(setup, names)
    names["actions"] = dict.fromkeys(["4 tokens", "one step", "the whole response"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / FOLDER)
        names["verdicts"] = {"GOOD or BAD": None, "SUCCESS or FAILURE": None}
        for name in ("lac0026", "lac0027"):
            exec(cells[name].source, names)
        for name in ("lac0030", "lac0032", "lac0033", "lac0035", "lac0036"):
            *body, last = cells[name].source.split("Markdown(")
            exec("Markdown(".join(body), names)
            names[name] = eval(f"Markdown({last}", names).data
    return names


def percent(row: dict) -> float:
    right = [int(x) for x in row["right"].split()]
    return sum(right) / len(right)


def test_stored_texts_are_those_of_the_files(page, shown):
    for cell in page.cells:
        if cell.id in ("lac0030", "lac0032", "lac0033", "lac0035", "lac0036"):
            assert cell.outputs[0].data["text/markdown"] == shown[cell.id], f"{cell.id}: run the page again"


def test_every_setting_is_there_once(files):
    rows = files["at_inference"]
    keys = [tuple(row[n] for n in ("critic", "action", "alpha", "weights", "reduce", "choose")) for row in rows]
    assert len(set(keys)) == len(keys) == 3 * 6 * (4 + 2)
    assert {len(row["right"].split()) for row in rows} == {len(files["samples"])} == {48}
    assert {len(row["answers"].split()) for row in files["samples"]} == {64}


def test_the_likeliest_at_the_priors_end_hears_no_critic(files):
    "Both critics: the same responses, at another price."
    rows = [r for r in files["at_inference"] if r["alpha"] == "0" and (r["weights"], r["reduce"]) == ("policy", "sum")]
    for action, choose in product({r["action"] for r in rows}, ("likeliest", "draw")):
        a, b = (r for r in rows if (r["action"], r["choose"]) == (action, choose))
        assert a["right"] == b["right"] and a["critic"] != b["critic"]
        assert float(a["tokens"]) >= float(b["tokens"])


def test_baselines_by_counting(files, shown):
    "Best of n from binomial coefficients; a majority of one is a plain sample, one of all is the vote."
    counts = [row["answers"].split().count(row["answer"]) for row in files["samples"]]
    for n in (1, 5, 30):
        expected = [1 - comb(64 - c, n) / comb(64, n) for c in counts]
        assert shown["best_of"](n) == pytest.approx(expected)
    assert sum(shown["majority"](1)) / 48 == pytest.approx(sum(counts) / 64 / 48, abs=0.02)
    for row, share in zip(files["samples"], shown["majority"](64)):
        votes = row["answers"].split()
        most = max(map(votes.count, votes))
        top = {a for a in votes if votes.count(a) == most}
        assert share == pytest.approx((row["answer"] in top) / len(top))


def test_the_table_takes_the_best_alpha_and_its_tokens(files, shown):
    length = sum(float(row["length"]) for row in files["samples"]) / 48
    for critic, action, row, n, _ in shown["compared"]:
        rows = [r for r in files["at_inference"] if (r["critic"], r["action"]) == (critic, action)]
        rows = [r for r in rows if (r["choose"], r["weights"], r["reduce"]) == ("likeliest", "policy", "sum")]
        assert len(rows) == 6 and percent(row) == max(map(percent, rows))
        assert n == max(1, min(64, int(float(row["tokens"]) / length)))
        assert f"{percent(row):.0f}% at α" in shown["lac0032"]


def test_what_the_comparison_says(files, shown):
    "Nothing above best of n or above no critic, all above a majority: the sentences are of this kind of table."
    gains = list(zip(*([low > 0 for _, low, _ in differences] for *_, differences in shown["compared"])))
    assert [sum(column) for column in gains] == [0, 6, 0]
    assert "0 of 6 intervals lie above 0; against a majority of plain samples, 6." in shown["lac0033"]
    for (_, _, row, n, differences), action in zip(
        shown["compared"], ["4 tokens", "one step", "the whole response"] * 2
    ):
        assert row["action"] == action
        best = sum(shown["best_of"](n)) / 48
        assert differences[0][0] == pytest.approx(percent(row) / 100 - best)


def area(rows: list[dict], column: str) -> float:
    "By comparing every pair."
    pairs = product(*([float(r[column]) for r in rows if r["right"] == kind] for kind in "10"))
    wins = [(a > b) + (a == b) / 2 for a, b in pairs]
    return sum(wins) / len(wins)


def test_areas_by_pairs(files, shown):
    table = shown["lac0035"]
    whole = [row for row in files["verdicts"] if row["part"] == row["parts"]]
    assert len(whole) == 24 and sum(row["right"] == "1" for row in whole) == 12
    for column in ("GOOD or BAD", "SUCCESS or FAILURE"):
        for rows in (whole, files["verdicts"]):
            assert f"| {len(rows)} | {area(rows, column):.2f} (" in table
    assert f"| {len(files['head'])} | {area(files['head'], 'q'):.2f} (" in table
    assert f"with probability {area(files['verdicts'], 'GOOD or BAD'):.2f};" in shown["lac0036"]


def test_numbers_of_the_summary(files, shown):
    def of(critic, alpha, choose, weights="policy"):
        rows = [
            r for r in files["at_inference"] if (r["critic"], r["action"], r["alpha"]) == (critic, "one step", alpha)
        ]
        (row,) = (r for r in rows if (r["choose"], r["weights"], r["reduce"]) == (choose, weights, "sum"))
        return percent(row)

    text = shown["lac0030"]
    single = sum(r["answers"].split().count(r["answer"]) for r in files["samples"]) / 64 / 48
    prior, one, head = (
        of("continuations", "0", "draw"),
        of("continuations", "1", "draw"),
        of("head", "inf", "likeliest"),
    )
    by_draws, first = of("continuations", "0", "draw", "draws"), of("continuations", "0", "likeliest")
    assert (
        f"from {prior:.0f}% at the prior's end to {one:.0f}% at α = 1. A plain sample has {100 * single:.0f}%" in text
    )
    # what the sentences say beside the numbers
    assert one > prior > 100 * single and abs(by_draws - 100 * single) < 10
    assert first > 90 and head < 100 * single


def test_the_figure_has_what_the_file_has(page, files):
    (cell,) = (cell for cell in page.cells if cell.id == "lac0028")
    html = cell.outputs[0].data["text/html"]
    row = next(r for r in files["at_inference"] if r["choose"] == "draw" and r["action"] == "one step")
    assert json.dumps(float(row["tokens"])) in html and "critic only" in html and "prior" in html


def test_run_all_makes_nothing(page):
    sources = [cell.source for cell in page.cells if cell.cell_type == "code"]
    assert sum("make_again = False" in source for source in sources) == 1
    for source in sources:
        for call in ("write_rows(", "fitted_head(", "load(str("):
            lines = [x for x in source.split("\n") if call in x and not x.startswith("def ")]
            assert all(line.startswith("    ") for line in lines), "outside the switch"
