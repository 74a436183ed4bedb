"""Credit, the sliding window and W as pictures: what a browser draws is what the library computes, the facts of a
response are in sight, colours stay where they are, and hands, keys and code move the same picture."""

import json
import math
import random
import re

import pytest
import torch
from machine import PageClock
from page_controls import CONTROLS, MOVE

from mpo_nb.actions import WindowActions, weight_matrix
from mpo_nb.drawing.assets import joined_script
from mpo_nb.drawing.strip import action_blocks, credit_strip
from mpo_nb.recipes import recipe
from mpo_nb.runs import sample_traces
from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import CreditExplorer, credit_view, weight_map, window_slides
from mpo_nb.widgets.credit_explorer import made_up_movement, moved_log_ratios, spaces

ODD = [
    Trace([]),
    Trace(["a"]),
    Trace(list("abc"), mask=[0, 0, 0]),
    Trace(list("abc"), mask=[1, 0, 1], logps=[-1.0, math.nan, -2.0], advantage=-1.0),
    Trace(list("abc"), logps=[-1.0, -math.inf, -1.0], old_logps=[-1.0] * 3, advantage=1.0),
    Trace(list("abc"), logps=[-1.0] * 3, advantage=0.0, reward=1.0),
    Trace(["", "中", "\n", "<script>window.hit=1</script>"], logps=[-0.1] * 4, advantage=math.nan),
]
STAYS = Trace(list("7+5=12#12"), logps=[-0.5] * 9, prompt="7+5?", answer="12", correct=True, advantage=1.0, reward=1.0)


def long_response(T: int) -> Trace:
    "A response of T tokens with a movement."
    one = sample_traces("word_problems")[1]
    cut = {name: (getattr(one, name) * (T // len(one.tokens) + 1))[:T] for name in ("tokens", "logps", "old_logps")}
    return Trace(**cut, prompt=one.prompt, advantage=one.advantage, answer=one.answer, correct=False)


@pytest.fixture(scope="module")
def wrong_sum() -> Trace:
    return sample_traces("tiny")[20]  # 8+4+7+7?: 19+7=28


# Without a browser


def test_windows_are_drawn_without_blocks(wrong_sum):
    "They overlap; groups of K would show what is not there."
    assert action_blocks(WindowActions(3), torch.tensor([[1, 1, 0, 1, 1]])).tolist() == [[-1] * 5]
    html = credit_strip(wrong_sum, recipe("mpo", k=4)).html
    assert "mpo-first" not in html and "next block" not in html and "block 1" not in html
    assert "next block" in credit_strip(wrong_sum, recipe("lpo")).html
    strip = CreditExplorer(wrong_sum, k=4).picture().strips[1]
    assert set(strip["blocks"]) == {-1} and "next block" not in strip["legend"]


def test_a_response_that_has_not_moved_can_be_given_a_movement():
    explorer = CreditExplorer(STAYS)
    assert explorer.applies(explorer.values) & {"made", "moved"} == {"made"}
    assert "every ratio is 1" in explorer.picture().summary
    explorer.set(made=True, epsilon=0.05)
    assert explorer.applies(explorer.values) >= {"made", "moved"} and explorer.loss("left")[0].clipped.any()
    assert moved_log_ratios(STAYS, 2.0, made=True)[0].tolist() == [2 * x for x in made_up_movement(9)]
    moves = CreditExplorer(sample_traces("tiny")[20])
    before = moves.loss("left")[0].credit
    assert torch.equal(before, moves.set(made=True).loss("left")[0].credit)  # its own movement stays


def test_the_tail_is_the_recipes(wrong_sum):
    "What the widget shows at first is what `recipe('mpo')` gives."
    credit = recipe("mpo", k=4, aggregate="seq-mean-token-sum").loss(wrong_sum.batch()).credit
    assert torch.allclose(CreditExplorer(wrong_sum).loss("right")[0].credit, credit)


def test_code_moves_the_widget_and_a_hand_the_explorer(wrong_sum):
    explorer = CreditExplorer(wrong_sum, k=3)
    live = explorer.widget
    assert live is explorer.widget and live.values == explorer.values and live.data["wrong"] == list(range(15, 22))
    assert explorer.set(k=8, right="block").widget.values["k"] == 8
    live.values = {**live.values, "moved": 2, "difference": False}  # what the browser sends
    assert explorer.values["moved"] == 2.0 and explorer.values["difference"] is False
    live.values = {**live.values, "right": "words"}
    assert live.values == explorer.values and explorer.values["right"] == "block"


@pytest.mark.parametrize(
    "values, said",
    [
        (dict(left="words"), "left='words'; choose one of token, window"),
        (dict(made=2), "made=2; choose one of True, False"),
        (dict(k="four"), "k='four'; pass a number"),
        (dict(k=0), "k=0"),
        (dict(epsilon=3), "epsilon=3"),
        (dict(advantage=math.nan), "advantage=nan; pass a number"),
        (dict(size=3), "control='size'; choose one of left"),
        (dict(wrong=[26]), "wrong=[26]; name positions of the response, a list of whole numbers from 0 to 25"),
    ],
)
def test_what_no_control_takes_is_said(wrong_sum, values, said):
    with pytest.raises(ValueError) as error:
        credit_view(wrong_sum, **values)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("odd", range(len(ODD)))
def test_odd_responses_have_a_picture(odd, tmp_path):
    explorer = CreditExplorer(ODD[odd], k=7)
    view = explorer.picture()
    assert view.summary and len(view.strips) == 2 and bool(view.data) == bool(ODD[odd].tokens)
    json.dumps(dict(explorer.widget.data), allow_nan=False)
    assert explorer.figure() is not None and set(explorer._repr_mimebundle_()) >= {"text/plain", "text/html"}
    assert "<script>window" not in explorer.to_html(tmp_path / "page.html").read_text()


# In a browser

SET = """(values) => {
  window.view.set(values)
  const { left, right } = window.view.numbers()
  const words = document.querySelector('.mpo-words').textContent
  return { words, left: left.loss, right: right.loss }
}"""


@pytest.fixture
def open_page(browser):
    "A picture or a widget in a page with nothing else; what it stumbles over is the page's `trouble`."
    pages = []

    def open_one(html: str, **options):
        page = browser.new_context(offline=True, **options).new_page()
        page.trouble = []
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.set_content(f'<!doctype html><meta charset="utf-8"><body>{html}')
        pages.append(page)
        return page

    yield open_one
    for page in pages:
        assert page.trouble == [] and page.evaluate("window.hit") is None
        page.context.close()


def mounted(open_page, name: str, data: dict):
    "A view of its own, whose handle is `window.view`."
    page = open_page('<div id="here"></div>')
    script = joined_script("method.js", name)
    start = f"window.view = mount(document.getElementById('here'), {json.dumps(data)}, modules['method.js'])"
    page.add_script_tag(content=f"(() => {{\n{script}\n{start}\n}})()")
    return page


def check_credit(shown: dict, explorer: CreditExplorer):
    "Words, credit, ratios and clipping are Python's."
    for here, there in zip(explorer.picture().summary.split(), shown["words"].split(), strict=True):
        if here != there:  # a sum that lies between two hundredths
            assert float(here.replace("\u2212", "-")) == pytest.approx(float(there.replace("\u2212", "-")), abs=0.011)
    mask = explorer.trace.mask_tensor[0]
    for side in ("left", "right"):
        out, _ = explorer.loss(side)
        for name in ("credit", "ratio"):
            there = torch.tensor(shown[side][name], dtype=torch.double)
            assert torch.allclose(there[mask], getattr(out, name)[0][mask].double(), rtol=1e-9, atol=1e-9), name
        assert shown[side]["clipped"] == out.clipped[0].tolist()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["sum", "jump", "still"])
def test_every_setting_is_the_librarys(open_page, wrong_sum, name):
    jump = Trace(list("abcdefghijkl"), logps=[-1.0] * 6 + [-0.5] + [-1.0] * 5, old_logps=[-1.0] * 12, advantage=1.0)
    explorer = CreditExplorer({"sum": wrong_sum, "jump": jump, "still": STAYS}[name])
    page = mounted(open_page, "credit_view.js", dict(explorer.view_data()))
    rng = random.Random(name)
    for left, right in [*zip(spaces.values(), [*spaces.values()][1:]), ("token", "sequence-token")] * 3:
        wanted = dict(left=left, right=right, k=rng.choice([1, 2, 3, 5, 20]), future=rng.randint(0, 19) / 20)
        wanted |= dict(moved=rng.randint(0, 100) / 20, epsilon=rng.randint(0, 100) / 100)
        wanted |= dict(advantage=rng.choice([-1.0, 0.0, 1.0, 2.35]), tail=rng.choice(["renormalise", "truncate"]))
        wanted |= dict(made=rng.random() < 0.7)
        check_credit(page.evaluate(SET, wanted), explorer.set(**wanted))


@pytest.mark.browser
def test_the_facts_of_a_response_are_in_sight(open_page):
    page = open_page(CreditExplorer(sample_traces("word_problems")[1]).html())
    top = page.locator(".mpo-lane-view").inner_text().split("The two sides")[0]
    for fact in ("A baker fills 6 trays", "right answer 29", "this response is wrong", "“6 * 8 = 46” (tokens 9 to 16)"):
        assert fact in top
    marked = page.eval_on_selector_all(".mpo-lanes li.wrong b", "tokens => tokens.map(t => t.textContent).join('')")
    assert marked == "6·*·8·=·46" and page.locator(".mpo-notice").is_hidden()
    page = open_page(CreditExplorer(Trace(list("so 17"), logps=[-1.0] * 5, correct=False)).html())
    assert "first wrong step" not in page.locator(".mpo-lane-view").inner_text()  # nobody knows it


@pytest.mark.browser
def test_a_response_without_movement_offers_one(open_page):
    page = open_page(CreditExplorer(STAYS, epsilon=0.05).html())
    assert "carries no movement" in page.locator(".mpo-notice").inner_text()
    assert page.locator("[data-control=moved]").is_hidden()
    page.locator(".mpo-notice button").click()
    assert page.locator(".mpo-notice").is_hidden() and page.locator("[data-control=moved]").is_visible()
    assert page.locator("[data-control=made]").is_checked() and page.locator(".mpo-lanes i.cut").count()


SCALE = "bars => bars.map(b => b.style.backgroundImage + [...b.children].map(t => t.textContent + t.style.left).join())"


@pytest.mark.browser
def test_colours_stay_where_they_are(open_page, wrong_sum):
    "No slider but the advantage's own moves a scale, and that one changes its numbers, not its colours."
    page = open_page(CreditExplorer(wrong_sum).html())
    before = page.eval_on_selector_all(".mpo-scale-bar", SCALE)
    assert len(before) == 2 and "+1.21" in before[0] and "T = 26" in page.locator(".mpo-legend").inner_text()
    for name, value in (("k", 7), ("moved", 5), ("epsilon", 0.9), ("future", 0.8), ("right", "joint")):
        page.evaluate(MOVE, [name, str(value)])
        assert page.eval_on_selector_all(".mpo-scale-bar", SCALE) == before, name
    page.evaluate(MOVE, ["moved", "0"])
    cells = "cells => cells.map(c => c.style.backgroundColor)"
    first = page.eval_on_selector_all(".mpo-lanes i:nth-of-type(1)", cells)
    page.evaluate(MOVE, ["advantage", "-2.5"])
    assert page.eval_on_selector_all(".mpo-lanes i:nth-of-type(1)", cells) == first
    assert "−2.50" in page.eval_on_selector_all(".mpo-scale-bar", SCALE)[0]
    page.evaluate(MOVE, ["difference", False])
    assert page.locator(".mpo-scale-bar").count() == 1 and page.locator(".mpo-lanes i:nth-of-type(3)").first.is_hidden()


@pytest.mark.browser
def test_python_and_the_browser_have_the_same_controls(open_page, wrong_sum):
    for explorer in (CreditExplorer(wrong_sum), CreditExplorer(STAYS, right="sentence")):
        shown = open_page(explorer.html()).evaluate(CONTROLS)
        assert set(shown) == set(explorer.controls)
        for name, control in explorer.controls.items():
            there = shown[name]
            assert there["text"] == control.label and there["hidden"] == (name not in explorer.applies(explorer.values))
            if control.kind == "choice":
                assert [tuple(option) for option in there["options"]] == list(control.options.items())
            elif control.kind == "number":
                assert (float(there["low"]), float(there["high"])) == (control.low, control.high)


@pytest.mark.browser
@pytest.mark.parametrize("T, bound", [(512, 50), (4096, 100)])
def test_a_slider_moves_the_picture_soon_enough(open_page, T, bound):
    """From a key to the finished picture, median, in time that the page's own thread spends: what a wait is on an idle
    machine of ordinary speed."""
    html = CreditExplorer(long_response(T)).html()
    assert len(html.encode()) < 1.5e6
    page = open_page(html, viewport=dict(width=1400, height=900))
    clock = PageClock(page)
    spent = []
    for value in ("3", "1", "4", "2", "5", "0", "6"):
        page.evaluate(MOVE, ["moved", value])
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        spent.append(clock.now())
    times = sorted(b - a for a, b in zip(spent, spent[1:]))
    slow = clock.slowness()
    assert times[len(times) // 2] < bound * slow, (times, slow)


@pytest.mark.browser
@pytest.mark.parametrize("view", [credit_view, weight_map, window_slides], ids=lambda view: view.__name__)
def test_a_page_fits_both_widths(open_page, wrong_sum, view):
    page = open_page(view(wrong_sum).html())
    for width in (1400, 420):
        page.set_viewport_size(dict(width=width, height=900))
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width


# The window that slides

CREDIT = (
    """() => [...document.querySelectorAll('.mpo-slides-credit')].map((bar) => Number(bar.getAttribute('height')))"""
)


@pytest.mark.browser
def test_the_last_window_leaves_the_losses_credit(open_page, wrong_sum):
    page = open_page(window_slides(wrong_sum, k=4, at=21).html())
    words = page.locator(".mpo-slides-words").inner_text()
    assert "Ratio 0.49" in words and "pays nothing" in words and page.locator(".mpo-slides-ratio.beyond").count() == 1
    page.evaluate(MOVE, ["index", "25"])
    out = WindowActions(4)
    credit = recipe("mpo", k=4, aggregate="seq-mean-token-sum").loss(wrong_sum.batch()).credit[0].abs()
    bars = page.eval_on_selector_all(
        ".mpo-slides-credit:not(.fresh)", "bars => bars.map(b => Number(b.getAttribute('height')))"
    )
    fresh = page.eval_on_selector_all(".mpo-slides-credit.fresh", "b => b.map(x => Number(x.getAttribute('height')))")
    bars[-1] += sum(fresh)  # the last window pays its own token
    drawn = torch.tensor(bars, dtype=torch.double)
    assert torch.allclose(drawn / drawn.max(), credit / credit.max(), atol=1e-9) and out.k == 4


@pytest.mark.browser
def test_a_window_plays_pauses_and_steps(open_page, wrong_sum):
    page = open_page("")
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.set_content(window_slides(wrong_sum).html())
    slides = page.locator(".mpo-slides")
    at = lambda: int(slides.get_attribute("data-index"))  # noqa: E731
    assert at() == -1
    page.locator(".mpo-slides-play").click()
    page.clock.run_for(4000)
    assert 0 < at() < 25 and page.inner_text(".mpo-slides-play") == "Pause"
    page.locator(".mpo-slides-play").click()
    paused = at()
    page.clock.run_for(4000)
    assert at() == paused and page.inner_text(".mpo-slides-play") == "Play"
    slides.focus()
    for key, moved in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert at() == paused + moved
    page.keyboard.press("End")
    assert at() == 25
    page.locator(".mpo-slides-token").nth(7).click()
    assert at() == 7
    page.keyboard.press(" ")
    page.clock.run_for(60_000)
    assert at() == 25 and page.inner_text(".mpo-slides-play") == "Play"  # it stops at the end
    page.locator("[data-control=k]").focus()
    page.keyboard.press("ArrowRight")
    assert at() == 25 and page.locator("[data-control=k] + output").inner_text() == "5"


@pytest.mark.browser
def test_a_ratio_fills_while_the_window_comes(open_page, wrong_sum):
    "Moments of one step: the ratio moves from 1 to its value, and only then is it cut."
    page = open_page("")
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.set_content(window_slides(wrong_sum, at=20).html())
    page.locator(".mpo-slides").focus()
    page.keyboard.press("ArrowRight")
    seen = []
    for _ in range(18):
        page.clock.run_for(80)
        texts = page.locator(".mpo-slides-value").all_text_contents()
        seen += [text for text in texts if text not in seen]
    values = [float(text.split()[0]) for text in seen]
    assert values[0] > 0.8 and values == sorted(values, reverse=True) and len(seen) > 3
    assert seen[-2:] == ["0.49", "0.49 cut"]
    assert page.locator(".mpo-slides-flow.down").count() == 0  # nothing flows back


@pytest.mark.browser
def test_a_window_is_still_where_less_motion_is_wished_for(open_page, wrong_sum):
    page = open_page(window_slides(wrong_sum, play=True).html(), reduced_motion="reduce")
    at = "document.querySelector('.mpo-slides').dataset.index"
    assert page.evaluate(at) == "21"  # where there is most to see
    page.wait_for_timeout(300)
    assert page.evaluate(at) == "21" and page.inner_text(".mpo-slides-play") == "Play"
    page.locator(".mpo-slides").focus()
    page.keyboard.press("ArrowLeft")
    assert "0.94" in page.locator(".mpo-slides-value").text_content()  # at once


@pytest.mark.browser
def test_a_long_response_moves_under_the_window(open_page):
    page = open_page(window_slides(long_response(4096), at=2000).html())
    tokens = page.locator(".mpo-slides-token")
    shown = [int(t) for t in tokens.evaluate_all("tokens => tokens.map(t => t.dataset.t)")]
    assert len(shown) < 80 and shown[0] < 2000 < shown[-1]
    assert "Window 2,001 of 4,096" in page.locator(".mpo-slides-words").inner_text()


# W as a map


@pytest.mark.browser
def test_a_token_shows_its_row_and_its_column(open_page, wrong_sum):
    "By the pointer in the line, in the map and in the curves, and by the keyboard."
    page = open_page(weight_map(wrong_sum, k=4, at=20).html(), viewport=dict(width=1000, height=900))
    W = weight_matrix(WindowActions(4), wrong_sum.mask_tensor)

    def part(name: str) -> list[float]:
        read = f"tokens => tokens.map(t => Number(t.style.getPropertyValue('--{name}') || 0))"
        return page.eval_on_selector_all(".mpo-map-tokens li", read)

    def check(t: int):
        assert f"Token {t + 1}," in page.locator(".mpo-map-words").inner_text()
        most = max(float(W[t].max()), float(W[:, t].max()))
        for name, weights in (("row", W[t]), ("column", W[:, t])):
            assert part(name) == pytest.approx((weights / most).tolist(), abs=1e-3), name

    check(20)
    page.locator(".mpo-map-tokens li").nth(5).hover()
    check(5)
    page.locator(".mpo-map-tokens li").nth(5).focus()
    page.keyboard.press("ArrowRight")
    check(6)
    page.keyboard.press("End")
    check(25)
    canvas = page.locator(".mpo-map-canvas").bounding_box()
    names, side = 46, canvas["width"] - 46
    page.mouse.move(canvas["x"] + names + side / 2, canvas["y"] + names + side * 10.5 / 26)
    check(10)
    curve = page.locator(".mpo-curves svg").first.bounding_box()
    page.mouse.move(curve["x"] + 54 + (curve["width"] - 62) * 15.5 / 26, curve["y"] + 60)
    check(15)
    member = page.locator(".mpo-curves .span.member").first
    assert float(member.get_attribute("width")) == pytest.approx(4 * (curve["width"] - 62) / 26, abs=0.2)
    page.evaluate(MOVE, ["space", "sequence"])
    assert part("row") == [1.0] * 26 and page.locator("[data-control=k]").is_hidden()


@pytest.mark.browser
def test_what_the_columns_sum_to_is_said(open_page, wrong_sum):
    page = open_page(weight_map(wrong_sum, k=4, at=0).html())
    sums = weight_matrix(WindowActions(4), wrong_sum.mask_tensor).sum(0)
    for t in (0, 1, 12, 25):
        page.locator(".mpo-map-tokens li").nth(t).focus()
        said = re.search(r"together (\S+) of a plain share", page.locator(".mpo-map-words").inner_text())
        assert float(said[1]) == pytest.approx(float(sums[t]), abs=0.005)
