"""The page on formalising and solving: its edits and cores, what its tables say, and its figure."""

import itertools
import json

import nbformat
import pandas as pd
import pytest

pytest.importorskip("z3", reason="pip install 'mpo_nb[papers]'")
pytest.importorskip("reasoning_gym", reason="pip install 'mpo_nb[gym]'")

from reasoning_gym.logic.knights_knaves import KnightsKnavesDataset  # noqa: E402

ENDS = ["still the right model", "unsatisfiable", "several models", "one wrong model"]
PAGE = "nbs/papers/formalise_then_solve.ipynb"


@pytest.fixture(scope="module")
def cells(root) -> dict:
    return {cell.id: cell for cell in nbformat.read(root / PAGE, as_version=4).cells}


@pytest.fixture(scope="module")
def page(cells) -> dict:
    "What the page's cells define, up to its figure, of a few riddles."
    names: dict = {}
    for name in ("fs002", "fs003", "fs004"):
        source = cells[name].source.replace("!pip", "pass  #").replace("riddles(3, 100)", "riddles(3, 25)")
        exec(source, names)
    return names


def models(statements) -> list[tuple]:
    "By reasoning-gym's own search."
    return KnightsKnavesDataset.find_solution(statements)


def changed_places(one, other) -> int:
    "How many nodes of two statements differ, where a negation more or less is one."
    if one == other:
        return 0
    if one == ("not", other) or other == ("not", one):
        return 1
    if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
        return 1
    if one[0] == other[0] == "->" and (one[1], one[2]) == (other[2], other[1]):
        return 1
    return sum(changed_places(a, b) for a, b in zip(one, other))


def test_an_edit_changes_one_place(page):
    for riddle, made in zip(page["three"], page["tried"]):
        for edit in made:
            assert changed_places(riddle["statements"][edit["speaker"]], edit["changed"]) == 1


def test_each_end_is_what_a_search_says(page):
    "Of every edit of ten riddles: no model, several, the right one or a wrong one."
    for riddle, made in zip(page["three"][:10], page["tried"]):
        right = tuple(riddle["right"].values())
        for edit in made:
            said = list(riddle["statements"])
            said[edit["speaker"]] = edit["changed"]
            found = models(tuple(said))
            wanted = ["unsatisfiable", "", "several models"][min(len(found), 2)]
            wanted = "wrong model" if len(found) == 1 and found[0] != right else wanted
            assert edit["failure"] == wanted


def test_a_core_holds_the_edited_statement_or_one_that_it_contradicts(page):
    "No more than that is claimed of cores in general; they have no model among themselves."
    seen = 0
    for riddle, made in zip(page["three"], page["tried"]):
        for edit in made:
            core = edit["solution"].core
            assert bool(core) == (edit["failure"] == "unsatisfiable")
            if not core:
                continue
            seen += 1
            said = list(riddle["statements"])
            said[edit["speaker"]] = edit["changed"]
            silent = tuple(s if i in core else ("telling-truth", i) for i, s in enumerate(said))
            assert models(silent) == []
            pairs = [(j, edit["speaker"]) for j in core]
            alone = [[s if i in two else ("telling-truth", i) for i, s in enumerate(said)] for two in pairs]
            contradicted = any(models(tuple(two)) == [] for two in alone)
            assert edit["speaker"] in core or contradicted
            assert edit["speaker"] in core, "with one edit: what is left of the right formalisation has a model"
    assert seen > 50


def test_clauses_stand_beside_their_own_constraints(page):
    "Whoever a constraint names is named by its clause, its speaker too, and nobody else."
    for riddle in page["three"]:
        for i, clause in enumerate(riddle["clauses"]):
            text = page["constraint_text"](i, riddle["statements"][i], riddle["names"])
            for name in riddle["names"]:
                assert (name in clause) == (name in text), (clause, text)


def test_formulas_are_read_back_as_the_statement(page):
    "As Python reads them over 0 and 1, under every assignment."
    python = {"¬¬": "", "¬": "1-", " ∧ ": " and ", " ∨ ": " or ", " ⇔ ": " == ", " ⇒ ": " <= "}
    names = ["a", "b", "c"]
    for riddle, made in zip(page["three"], page["tried"]):
        said = [(i, statement) for i, statement in enumerate(riddle["statements"])]
        said += [(edit["speaker"], edit["changed"]) for edit in made]
        for speaker, statement in said:
            text = page["constraint_text"](speaker, statement, names)
            for sign, word in python.items():
                text = text.replace(sign, word)
            whole = ("<=>", ("telling-truth", speaker), statement)
            for values in itertools.product([1, 0], repeat=3):
                wanted = KnightsKnavesDataset.test_satisfiability(whole, values)
                assert bool(eval(text, dict(zip(names, values)))) == bool(wanted), text


def test_what_the_tables_say_is_in_the_files(root, cells):
    "The stored words, from the committed numbers."
    measures = pd.read_csv(root / "nbs" / "papers" / "formalise_then_solve.csv")
    plain = measures[(measures.arm == "packaged") & (measures.temperature == 1)].iloc[0]
    base = measures[measures.arm == "misreading"].iloc[0]
    text = cells["fs019"].outputs[0].data["text/markdown"]
    assert plain.stated > 0.98 and f"states {plain.stated:.1%} of the problems" in text
    assert f"states {base.stated:.1%} rightly" in text
    text = cells["fs022"].outputs[0].data["text/markdown"]
    runs = measures[~measures.arm.isin(["packaged", "misreading"])]
    assert runs.groupby("arm").seed.apply(sorted).map(tuple).nunique() == 1, "the same seeds for all arms"
    for arm, rows in runs.groupby("arm"):
        gained = 100 * (rows.stated.mean() - base.stated)
        assert f"| {arm} | {gained:+.1f} ".replace("-", "−") in text.replace("-", "−")
    credit = pd.read_csv(root / "nbs" / "papers" / "formalise_then_solve_credit.csv").set_index(["reward", "block"])
    below = credit.loc["solver below"]
    assert abs(below.squared["result"]) < 2 * below.error["result"]
    assert below.squared["operation"] > 4 * below.error["operation"]


@pytest.mark.browser
def test_the_figure_follows_the_solver(page, browser):
    "By keyboard, on a narrow page: what it marks is what the solver said, and nothing is wider than the page."
    tab = browser.new_page(viewport=dict(width=420, height=900))
    trouble = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.set_content('<!doctype html><meta charset="utf-8">' + page["figure"])
    root = tab.locator(".mpo-formal")
    kinds = ["right", "unsat", "several", "wrong"]
    seen = set()
    for number in (0, 2):
        if number:
            tab.select_option('[data-control="problem"]', str(number))
        problem = page["data"]["problems"][number]
        tab.select_option('[data-control="edit"]', "0")
        tab.focus('[data-control="edit"]')
        for at, edit in enumerate(problem["edits"]):
            state = json.loads(root.get_attribute("data-state"))
            assert (state["problem"], state["edit"], state["kind"]) == (number, at, kinds[edit["kind"]])
            rows = tab.locator(".mpo-formal-rows li")
            marked = [i for i in range(3) if "core" in (rows.nth(i).get_attribute("class") or "")]
            assert marked == state["core"] == edit["core"]
            row = rows.nth(edit["speaker"])
            if edit["what"]:
                assert edit["constraint"] in row.inner_text() and f"edited: {edit['what']}" in row.inner_text()
            assert tab.locator(".mpo-formal-bar.now").count() == bool(edit["what"])
            seen.add(state["kind"])
            tab.keyboard.press("ArrowDown")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 420
    assert seen == set(kinds) and trouble == []
    shown = tab.locator(".mpo-formal-stack").last.get_attribute("aria-label")
    total = page["bars"][-1]["counts"]
    assert shown.endswith(", ".join(f"{name} {n}" for name, n in zip(ENDS, total)))
    tab.close()
