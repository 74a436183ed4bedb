"""The page on programs that read one another: its own functions against the theory of games, and its figure."""

import json
from itertools import product

import nbformat
import numpy as np
import pytest

COMMON = ("climbing", "penalty", "coordination")
MIRROR = "if opponent_source == my_source:\n    return 0\nreturn 1"


@pytest.fixture(scope="module")
def page(root) -> dict:
    "What the page's cells define, up to its figure."
    names: dict = {}
    for cell in nbformat.read(root / "nbs" / "papers" / "programs_as_policies.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("!pip", "pass  #"), names)
            if "view_html(" in cell.source and "import" not in cell.source:
                return names
    raise AssertionError("no cell makes the figure")


def pure_equilibria(row: np.ndarray, column: np.ndarray) -> set:
    "By trying every deviation."
    cells = product(range(row.shape[0]), range(row.shape[1]))
    return {(a, b) for a, b in cells if row[a, b] >= row[:, b].max() and column[a, b] >= column[a].max()}


def played_at_fixed_points(page, earned, actions) -> set:
    return {(int(actions[p, q]), int(actions[q, p])) for p, q in zip(*np.nonzero(page["fixed_points"](earned)))}


@pytest.mark.parametrize("name", ["climbing", "penalty", "coordination", "dilemma"])
def test_without_sources_fixed_points_are_the_pure_equilibria(page, name):
    "Those of the constants, those of the whole language, and every end of a walk."
    row, column = page["games"][name]
    equilibria = pure_equilibria(row, column)
    hidden = page["hidden"][len(row)]
    assert played_at_fixed_points(page, page["unseen"][name], hidden) == equilibria
    constants = page["constants"][name]
    assert {tuple(map(int, pair)) for pair in np.argwhere(page["fixed_points"](constants))} == equilibria
    ends = {page["alternate"](constants, *start)[-1] for start in product(range(len(row)), repeat=2)}
    assert ends <= equilibria


@pytest.mark.parametrize("name", ["climbing", "penalty", "coordination", "dilemma"])
@pytest.mark.filterwarnings("ignore")  # nashpy's, on degenerate games
def test_the_pure_equilibria_are_those_of_nashpy(page, name):
    nashpy = pytest.importorskip("nashpy", reason="pip install nashpy")
    row, column = page["games"][name]
    found = nashpy.Game(row, column).support_enumeration()
    pure = {(int(a.argmax()), int(b.argmax())) for a, b in found if a.max() == 1 and b.max() == 1}
    assert pure == pure_equilibria(row, column)


def test_best_response_over_constants_misses_the_optimum(page):
    "The control: 7 and not 11 from six of nine starts; 2 and not 10 where the column player starts in the middle."
    ends = {}
    for name in ("climbing", "penalty"):
        earned = page["constants"][name]
        for p, q in product(range(3), repeat=2):
            ends[name, p, q] = earned[0][page["alternate"](earned, p, q)[-1]]
    assert [ends["climbing", p, q] for p in range(3) for q in range(3)] == [11, 7, 7] * 3
    assert [ends["penalty", p, q] for p in range(3) for q in range(3)] == [10, 2, 10] * 3


@pytest.mark.parametrize("name", COMMON)
def test_a_common_payoff_never_falls(page, name):
    earned = page["seen"][name]
    assert np.array_equal(earned[0], earned[1])
    for start in product(range(0, 90, 4), repeat=2):
        for choose in (min, max):
            walk = [earned[0, p, q] for p, q in page["alternate"](earned, *start, choose)]
            assert walk == sorted(walk), start


def test_two_mirrors_cooperate_and_no_program_gains_by_leaving(page):
    "An equilibrium over the whole language, which it is not where sources are hidden."
    sources, seen, unseen = page["sources"]["dilemma"], page["seen"]["dilemma"], page["unseen"]["dilemma"]
    m = sources.index(MIRROR)
    assert seen[:, m, m].tolist() == unseen[:, m, m].tolist() == [3, 3]
    assert seen[0, :, m].max() == seen[1, m, :].max() == 3
    assert unseen[0, :, m].max() == 5 and not page["fixed_points"](unseen)[m, m]
    assert page["fixed_points"](seen)[m, m]
    unguarded = MIRROR.replace("return 1", "return 0")  # the line that never ran, taken away
    assert page["run"](unguarded, unguarded)[0] == page["run"](MIRROR, MIRROR)[0] == 0
    assert page["run"](unguarded, "return 1")[0] == 0, "so who leaves is paid 5"


def test_a_program_that_fails_its_unit_test_is_never_selected(page):
    "Not even where all that pass earn less than anything."
    failing = ["return 7", "return -1", "return nothing", "return opponent(", "return None", "return 1 / 0"]
    candidates = failing + page["sources"]["climbing"]
    actions = page["played"](candidates, 3)
    assert (actions[: len(failing)] == page["FAILED"]).all()
    earned = page["utilities"]("climbing", actions)
    for q in range(len(failing), len(candidates)):
        for present in (0, len(candidates) - 1):
            assert page["best_response"](earned[0, :, q], present) >= len(failing)
            assert page["best_response"](earned[1, q, :] - 1e9, present) >= len(failing)
    with pytest.raises(ValueError, match="no program passes its unit test"):
        page["best_response"](earned[0, :, 0], 0)


def test_identical_opponents_get_identical_responses(page):
    "The same source twice, and the same source in another place of the list."
    sources = page["sources"]["climbing"]
    doubled = sources + sources
    earned = page["utilities"]("climbing", page["played"](doubled, 3))
    for q in range(len(sources)):
        responses = [page["best_response"](earned[0, :, at], 0) for at in (q, q + len(sources))]
        assert doubled[responses[0]] == doubled[responses[1]]


def test_calls_end(page):
    "Programs that ask one another for ever get the number that the last call names."
    run = page["run"]
    assert [run(f"return opponent({i})", f"return opponent({i})")[0] for i in range(3)] == [0, 1, 2]
    assert run("return opponent(0)", "return 2") == (2, 0)
    assert run(MIRROR, MIRROR) == (0, 1) and run(MIRROR, "return 0") == (1, 2)


@pytest.mark.browser
def test_the_figure_walks_as_python_does(page, browser):
    "By keyboard, on a narrow page, from the start that it shows and from others; nothing is wider than the page."
    tab = browser.new_page(viewport=dict(width=420, height=900))
    trouble = []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.set_content('<!doctype html><meta charset="utf-8">' + page["figure"])
    root = tab.locator(".mpo-programs")
    kinds = {"constants": page["constants"], "hidden": page["unseen"], "programs": page["seen"]}
    cases = [(None, "constants", 2, 2), ("penalty", "constants", 0, 1), ("climbing", "programs", 3, 30)]
    cases += [("dilemma", "programs", 0, 4), ("dilemma", "hidden", 4, 4)]
    for game, kind, p, q in cases:
        if game is not None:
            tab.select_option('[data-control="game"]', game)
            tab.select_option('[data-control="kind"]', kind)
            tab.select_option('[data-control="row"]', str(p))
            tab.select_option('[data-control="column"]', str(q))
        name = game or "climbing"
        earned = kinds[kind][name]
        path = page["alternate"](earned, p, q)
        tab.focus(".mpo-programs-step")
        for at, pair in enumerate(path):
            state = json.loads(root.get_attribute("data-state"))
            assert tuple(state["pair"]) == pair, (game, kind, at)
            assert state["utilities"] == earned[:, pair[0], pair[1]].tolist()
            assert state["ended"] == (at == len(path) - 1)
            tab.keyboard.press("Enter")
        assert "A fixed point" in tab.inner_text(".mpo-programs-words")
        assert tab.locator(".mpo-programs-matrix td[aria-current]").count() == 1
        assert tab.locator(".mpo-programs-source li.ran").count() == 2
        assert tab.evaluate("document.documentElement.scrollWidth") <= 420
    assert trouble == []
    tab.close()
