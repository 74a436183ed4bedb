"Two runs side by side, and attempts before and after training: what is drawn is what the runs hold."

import json
import random
from difflib import SequenceMatcher

import pytest

from mpo_nb.cli import tour_config
from mpo_nb.drawing.assets import joined_script
from mpo_nb.recipes import recipe
from mpo_nb.runs.ratios import trace_loss
from mpo_nb.runs.reading import made_up_run
from mpo_nb.runs.traces import Trace
from mpo_nb.training.setup import check_start
from mpo_nb.widgets import SideBySide
from mpo_nb.widgets.responses import recipe_data, response_data

NASTY = "<script>window.hit=1</script><img src=x onerror='window.hit=2'> </script><b>\u202e"
ALIGN = """([script, cases]) => {
  const align = new Function(`${script} return align;`)();
  return cases.map(([a, b]) => align(a, b));
}"""
LOSSES = """([script, cases]) => {
  const run = new Function(`${script} return [recipeLoss, modules["method.js"]];`);
  const [recipeLoss, method] = run();
  return cases.map(([spec, response]) => recipeLoss(spec, response, method));
}"""
RECIPES = {
    "grpo": recipe("grpo"),
    "mpo": recipe("mpo", k=3, future=0.3),
    "truncated": recipe("mpo", k=4, clip=(0.05, 0.1)),
    "lpo": recipe("lpo"),
    "gspo": recipe("gspo", clip=(0.05, 0.05)),
    "gspo_token": recipe("gspo_token"),
    "cispo": recipe("cispo"),
    "gmpo": recipe("gmpo"),
    "blocks": recipe("grpo", actions=5),
    "surprise": recipe("grpo", actions="surprise"),
}


def chain(wrong: bool, **more) -> Trace:
    text = "7+5=12;12-3=8;8+8=16#16" if wrong else "7+5=12;12-3=9;9+8=17#17"
    return Trace(list(text), prompt="7+5-3+8?", answer="17", correct=not wrong, reward=float(not wrong), **more)


def nasty(step: int = 1) -> Trace:
    return Trace([NASTY, "\n", "", "`${1}`"], prompt=NASTY, answer=NASTY, step=step, correct=False)


def test_the_tours_runs_meet_the_same_problems(tmp_path):
    "At every step, so that they can be put side by side."
    grpo, mpo = (check_start(tour_config(name, str(tmp_path), 25, 3)) for name in ("grpo", "mpo"))
    for step in (1, 2, 25):
        assert grpo.problems(step).problems == mpo.problems(step).problems


def test_two_runs_share_what_they_share():
    a = [chain(False, step=s, index=i) for s in (1, 2) for i in range(2)] + [Trace(["x"], prompt="only a", step=2)]
    b = [chain(True, step=s, index=i) for s in (2, 3) for i in range(3)]
    view = SideBySide(a, b)
    ((step, (problem,)),) = view.moments.items()
    assert step == 2 and problem.prompt == "7+5-3+8?" and list(map(len, problem.sides)) == [2, 3]
    assert view.values == dict(step=2, problem=1, a=1, b=1, colour="none")
    wrong = view.view_data()["moments"][0]["problems"][0]["sides"][1][0]["wrong"]
    assert "".join(problem.sides[1][0].tokens[t] for t in wrong) == "12-3=8"


def test_one_run_shows_a_problem_at_two_steps():
    run = [chain(step < 5, step=step) for step in (1, 5, 9)] + [Trace(["x"], prompt="once", step=1)]
    view = SideBySide(run)
    assert {step: [p.steps for p in ps] for step, ps in view.moments.items()} == {5: [(1, 5)], 9: [(1, 9)]}
    assert "came up at two steps" in SideBySide(run[-1]).note
    assert "share no problem" in SideBySide(run, [Trace(["x"], prompt="other", step=1)]).note


def test_a_long_run_is_held_in_part_and_says_so(tmp_path):
    runs = [made_up_run(tmp_path / name, name, steps=12, planned=12) for name in ("grpo", "mpo")]
    view = SideBySide(*runs, most=600)
    assert list(view.moments)[0] == 1 and list(view.moments)[-1] == 12 and len(view.moments) < 5
    assert "of 12 steps" in view.note and list(SideBySide(*runs, steps=[3]).moments) == [3]
    with pytest.raises(ValueError, match="steps="):
        SideBySide(*runs, steps=[13])


@pytest.mark.parametrize("wrong", [3, ["7+5"], None])
def test_what_is_no_run_is_said(wrong):
    with pytest.raises(ValueError, match="run"):
        SideBySide(wrong, wrong if wrong is None else [chain(True)])


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.goto("about:blank")
    return page


@pytest.mark.browser
def test_an_alignment_holds_both_responses_whole_and_as_much_in_common_as_there_is(page):
    rng = random.Random(0)
    cases = [[[rng.choice("ab;#\n") for _ in range(rng.randint(0, 12))] for _ in "ab"] for _ in range(300)]
    line = [[rng.choice("abc") for _ in range(rng.randint(0, 9))] for _ in range(300)]
    cases += [[line[i], line[i + 1]] for i in range(0, 300, 2)]
    for (a, b), rows in zip(cases, page.evaluate(ALIGN, [joined_script("align.js"), cases]), strict=True):
        places = [place for row in rows for place in row]
        assert [i for i, _ in places if i is not None] == list(range(len(a)))
        assert [j for _, j in places if j is not None] == list(range(len(b)))
        if not set(a + b) & set(";#\n"):
            same = sum(i is not None and j is not None and a[i] == b[j] for i, j in places)
            assert same >= sum(block.size for block in SequenceMatcher(None, a, b, False).get_matching_blocks())


@pytest.mark.browser
def test_credit_in_the_browser_is_the_recipes(page):
    rng = random.Random(1)
    cases, wanted = [], []
    for name, r in RECIPES.items():
        for advantage in (1.5, -0.7):
            T = rng.choice([1, 7, 24])
            old = [round(-abs(rng.gauss(0, 1)), 4) for _ in range(T)]
            logps = [x + round(rng.gauss(0, 0.2), 5) for x in old]
            mask = [int(rng.random() < 0.9) for _ in range(T - 1)] + [1]
            tokens = [rng.choice(["a", "b.", "\n", "7"]) for _ in range(T)]
            trace = Trace(tokens, mask=mask, logps=logps, old_logps=old, advantage=advantage)
            cases.append([recipe_data(r), response_data(trace)])
            wanted.append((name, trace_loss(trace, r)[0]))
    for (name, loss), out in zip(wanted, page.evaluate(LOSSES, [script(), cases]), strict=True):
        assert out["credit"] == pytest.approx(loss.credit[0].tolist(), abs=1e-7), name
        assert out["clipped"] == loss.clipped[0].tolist(), name


def script() -> str:
    return joined_script("method.js", "recipe_loss.js")


@pytest.mark.browser
def test_a_page_moves_and_runs_nothing_that_a_response_says(browser, tmp_path):
    a = [chain(False, step=s, index=i) for s in (1, 2) for i in range(2)] + [
        nasty(2),
        Trace([], prompt="empty", step=2),
    ]
    b = [chain(True, step=s, index=i) for s in (1, 2) for i in range(2)] + [nasty(2), Trace([], prompt="empty", step=2)]
    file = SideBySide(a, b, step=1).to_html(tmp_path / "two")
    page = browser.new_page(viewport=dict(width=420, height=900))
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(file.as_uri())
    values = "JSON.parse(document.querySelector('.mpo-side-by-side').dataset.values)"
    assert page.locator(".mpo-pairs li.differs").count() == 4  # 9 and 8 twice, 17 and 16 twice
    assert "".join(page.locator(".mpo-pairs b.wrong").all_inner_texts()) == "12-3=8"
    page.locator("[data-control=step]").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(values)["step"] == 2
    page.locator(".mpo-side-row button").nth(3).click()
    assert page.evaluate(values)["b"] == 2 and page.evaluate("document.activeElement.value") == "2"
    page.locator(".mpo-pairs li[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".mpo-detail").inner_text().startswith("A, token 2")
    for number in ("2", "3"):
        page.locator("[data-control=problem]").select_option(number)
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert "Both responses are empty" in page.locator(".mpo-words").inner_text()
    assert trouble == [] and page.evaluate("window.hit") is None
    page.close()


def test_what_a_live_widget_says_is_heard(tmp_path):
    view = SideBySide(*[made_up_run(tmp_path / name, name) for name in ("grpo", "mpo")])
    live = view.widget
    live.values = dict(live.values) | dict(step=3, a=2)
    assert view.values["step"] == 3 and view.values["a"] == 2
    view.set(step=5)
    assert live.values["step"] == 5 and json.dumps(live.data)
