"""The page with the map of policies: its numbers from its files by plain loops, its plan, and its figure."""

import json
import math
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from mpo_nb.evaluation import holm, student_p
from mpo_nb.tasks import demonstration, load_task

METHODS = ("K=1", "K=2", "K=4", "whole")
STEPS = (2, 4, 6, 8)


@pytest.fixture(scope="module")
def cells(root) -> dict:
    return {c["id"]: c for c in nbformat.read(root / "nbs" / "papers" / "map_of_policies.ipynb", as_version=4).cells}


@pytest.fixture(scope="module")
def page(root, cells) -> dict:
    "What the page's cells define up to the comparisons; nothing is trained."
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "nbs" / "papers")
        for cell in cells.values():
            if cell.cell_type == "code" and "HTML(figure)" not in cell.source:
                exec(cell.source.replace("!pip", "pass  #"), names)
            if "assert number == 8" in cell.source:
                return names
    raise AssertionError("no cell makes the comparisons")


@pytest.fixture(scope="module")
def halves(root) -> list[dict]:
    "psi of both halves in units, by (method, seed, step); read without the page."
    folder = root / "nbs" / "papers"
    unit = pd.read_csv(folder / "map_of_policies_units.csv").set_index("feature")["unit"]
    table = pd.read_csv(folder / "map_of_policies.csv")
    found = []
    for half in (0, 1):
        rows = table[table.half == half]
        scaled = {
            tuple(r[["method", "seed", "step"]]): (r[unit.index] / 256 / unit).to_numpy(float)
            for _, r in rows.iterrows()
        }
        found.append(scaled)
    return found


@pytest.fixture(scope="module")
def seeds(halves) -> list[int]:
    return sorted({seed for method, seed, _ in halves[0] if method != "start"})


def test_every_run_and_every_checkpoint_is_there(halves, seeds):
    wanted = {("start", 0, 0)} | {(m, s, t) for m in METHODS for s in seeds for t in STEPS}
    assert [set(half) for half in halves] == [wanted, wanted] and len(seeds) >= 4


def test_the_comparisons_by_plain_loops(page, halves, seeds):
    "Progress, the distance off the path at equal progress, and Holm over all eight."
    halves = [{key: value - half["start", 0, 0] for key, value in half.items()} for half in halves]
    mean = {key: (halves[0][key] + halves[1][key]) / 2 for key in halves[0]}
    forward = sum(mean[m, s, 8] for m in METHODS for s in seeds)
    forward = forward / math.sqrt(forward @ forward)

    def gone(m, s) -> list[float]:
        return [0.0] + [float(mean[m, s, t] @ forward) for t in STEPS]

    level = min(gone(m, s)[-1] for m in METHODS for s in seeds)
    assert level > 0

    def at_level(half, m, s):
        run = gone(m, s)
        for k in range(1, 5):
            if run[k] >= level:
                part = (level - run[k - 1]) / (run[k] - run[k - 1])
                before = half[m, s, STEPS[k - 2]] if k > 1 else 0 * half[m, s, 2]
                return (1 - part) * before + part * half[m, s, STEPS[k - 1]]

    def off(m, s) -> float:
        product = 1
        for half in halves:
            others = [at_level(half, "K=1", other) for other in seeds if other != s]
            product = product * (at_level(half, m, s) - sum(others) / len(others))
        return float(product.sum()) / level**2

    speed, path, *mixtures = page["compared"]
    p_values = []
    for table, number in ((speed, lambda m, s: gone(m, s)[-1]), (path, off)):
        assert table.method.tolist() == list(METHODS[1:])
        for _, row in table.iterrows():
            differences = [number(row.method, s) - number("K=1", s) for s in seeds]
            assert abs(row["mean"] - np.mean(differences)) < 1e-9 and abs(row.p - student_p(differences)) < 1e-9
            p_values.append(student_p(differences))
    p_values += [float(p) for table in mixtures for p in table.p]
    corrected = [float(p) for table in page["compared"] for p in table.p_holm]
    np.testing.assert_allclose(corrected, holm(p_values), rtol=0, atol=1e-9)


def test_a_run_that_goes_elsewhere_is_seen(page, seeds):
    """The measure can tell: K=4 is led away from the common direction, in step with its progress, to either side. The
    mean of the two excesses is the square of the shift, exactly."""
    away = np.zeros_like(page["forward"])
    away[0] = 1.0
    away -= page["forward"] * (away @ page["forward"])
    away *= 0.3 * page["level"] / math.sqrt(away @ away)

    def led(direction: np.ndarray) -> np.ndarray:
        moved = [half.copy() for half in page["psi"]]
        for seed in seeds:
            for step, gone in zip(STEPS, page["progress"]["K=4", seed][1:]):
                for half in moved:
                    half.loc[("K=4", seed, step)] += gone / page["level"] * direction * page["unit"]
        kept, page["psi"] = page["psi"], moved
        try:
            return np.array([page["off_path"]("K=4", seed) for seed in seeds])
        finally:
            page["psi"] = kept

    excess = (led(away) + led(-away)) / 2 - led(0 * away)
    np.testing.assert_allclose(excess, 0.3**2, rtol=0, atol=1e-9)


def test_the_mixture_is_chosen_without_the_problems_that_judge_it(page, root):
    blends = pd.read_csv(root / "nbs" / "papers" / "map_of_policies_mixtures.csv")
    grouped = blends.groupby(["start", "one", "four"])
    right, tokens = grouped.correct.mean() / 256, grouped.length.mean() / 256
    lengths = [len(demonstration(problem)) + 1 for problem in load_task("chain_sum", terms=(4, 5)).test[:256]]
    longest = np.mean(lengths) + 1
    sums_to_one = [z for z in right.index if abs(sum(z) - 1) < 1e-9 and tokens[z] <= longest]
    one_policy = [z for z in right.index if z[0] == z[2] == 0 and tokens[z] <= longest]
    assert right[page["chosen"]["mixture"]] == right[sums_to_one].max()
    assert right[page["chosen"]["temperature"]] == right[one_policy].max()
    for name in ("mixture", "temperature", "end"):
        start, one, four = page["chosen"][name]
        rows = blends[(blends.start == start) & (blends.one == one) & (blends.four == four)]
        kept = page["judged"][page["judged"].method == name]
        assert sorted(kept.judged) == sorted(rows.judged)


def test_halves_of_a_policy_are_nearer_than_policies_of_different_k(halves, seeds):
    "At the end of training, by the plain distance between one half and the other, over all pairs of runs."

    def apart(one, other) -> float:
        difference = halves[0][one] - halves[1][other]
        return float(difference @ difference)

    ends = [(m, s, 8) for m in METHODS for s in seeds]
    own = np.mean([apart(end, end) for end in ends])
    different = [apart(a, b) for a in ends for b in ends if a[0] != b[0]]
    assert own < np.mean(different)
    assert np.mean([apart(end, end) < np.median(different) for end in ends]) > 0.5


def test_value_is_w_times_psi(page, root):
    "Accuracy, a linear reward, comes out of the sums as it does out of the figure's words."
    mean = page["mean"]
    for run in page["data"]["runs"]:
        for step, point in zip((0, *STEPS), run["points"]):
            key = (METHODS[run["method"]], run["seed"], step) if step else ("start", 0, 0)
            assert point["facts"].startswith(f"{mean.loc[key, 'correct']:.0%} right")


def test_the_numbers_in_the_stored_text_are_the_files(page, cells):
    "The finding that the page stores says what the comparisons say."
    said = "".join("".join(o.data.get("text/markdown", "")) for o in cells["mapp0041"].outputs if "data" in o)
    assert said
    names = dict(page)
    exec(cells["mapp0041"].source, names | {"Markdown": lambda text: names.update(text=text)})
    fresh = {}
    exec(cells["mapp0041"].source.replace("Markdown(", "said = str("), names | fresh, fresh)
    assert re.sub(r"\s+", " ", fresh["said"]).strip() == re.sub(r"\s+", " ", said).strip()


@pytest.mark.browser
def test_the_figure_by_click_keyboard_and_slider(page, browser):
    "On a narrow page: nothing is wider than it, a click and arrow keys open a policy, the slider moves the mixture."
    tab = browser.new_page(viewport=dict(width=420, height=900))
    trouble = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.set_content('<!doctype html><meta charset="utf-8">' + page["figure"])
    data = page["data"]
    root = tab.locator(".mpo-policies")

    def state() -> dict:
        return json.loads(root.get_attribute("data-state"))

    assert tab.evaluate("document.documentElement.scrollWidth") <= 420
    marks = tab.locator(".mpo-policies .policy")
    assert marks.count() == len(data["runs"]) * len(STEPS)
    marks.nth(2).dispatch_event("click")
    assert (state()["run"], state()["step"]) == (0, 3)
    assert data["runs"][0]["points"][3]["label"] in tab.inner_text(".mpo-policies-title")
    tab.focus(".mpo-policies-picture svg")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert (state()["run"], state()["step"]) == (1, 4)
    assert len(tab.locator(".mpo-policies-samples li").all()) == len(data["runs"][1]["points"][4]["samples"])
    tab.focus('[data-control="total"]')
    seen = []
    for point in data["mixtures"][0]["points"]:
        tab.evaluate(
            "z => { const s = document.querySelector('[data-control=total]'); s.value = z;"
            " s.dispatchEvent(new Event('input')) }",
            data["mixtures"][0]["points"].index(point),
        )
        assert state()["total"] == point["total"] and state()["x"] == point["x"]
        assert point["facts"] in tab.inner_text(".mpo-policies-title")
        seen.append(state()["y"])
    assert len(set(seen)) > 1
    tab.select_option('[data-control="seed"]', str(data["seeds"][-1]))
    assert tab.locator(".mpo-policies .policy").count() == len(METHODS) * len(STEPS)
    assert trouble == []
    tab.close()
