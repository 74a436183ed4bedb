"""The gradient lab: the browser's sums are Python's at random settings, its words and controls too, and every control
moves the picture by keyboard, on a page with no kernel and no network."""

import json
import random

import pytest
from offline_pages import offline_pages
from page_controls import CONTROLS, MOVE

from mpo_nb.drawing.assets import joined_script
from mpo_nb.enumeration import numbered_case
from mpo_nb.widgets import GradientLab
from mpo_nb.widgets.gradient_lab import arrow_place

# Runs the module that computes: settings -> measures of every kind.
COMPUTED = """([source, settings]) => {
  const { method, enumeration } = new Function(source + `
    return { method: modules["method.js"], enumeration: modules["enumeration.js"] };
  `)();
  return settings.map((values) => enumeration.compareEstimates(values, method));
}"""


def drawn_settings(count: int, seed: int) -> list[dict]:
    "Settings of all controls, by lot."
    rng = random.Random(seed)
    controls = GradientLab().controls
    chosen = []
    for _ in range(count):
        values = {}
        for name, control in controls.items():
            if control.kind == "choice":
                values[name] = rng.choice(control.choices)
            elif control.kind == "switch":
                values[name] = rng.random() < 0.3
            elif control.kind == "whole":
                values[name] = rng.randint(int(control.low), int(control.high))
            else:
                values[name] = round(rng.uniform(control.low, control.high), 2)
        chosen.append(values | dict(kl=rng.choice([0.0, values["kl"]])))
    return chosen


@pytest.mark.browser
def test_the_browsers_sums_are_pythons(browser):
    settings = drawn_settings(24, seed=3)
    settings += [
        dict(settings[0], clip=clip, credit=credit) for clip in ("same", "equal") for credit in ("group", "critic")
    ]
    page = browser.new_page()
    source = joined_script("method.js", "gradient_lab.js", "live_view.js")
    for values, theirs in zip(settings, page.evaluate(COMPUTED, [source, settings])):
        ours = GradientLab(**values).estimates()
        assert list(theirs) == list(ours)
        for kind, e in ours.items():
            along, off = arrow_place(e)
            wanted = dict(
                bias=e.bias,
                variance=e.variance,
                noise=max(0.0, e.variance / values["batch"]) ** 0.5,
                cosine=e.cosine,
                gain=e.gain(values["batch"]),
                along=along,
                off=off,
                clipFraction=e.clip_fraction,
            )
            got = {name: theirs[kind][name] for name in wanted}
            assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True), (kind, values)
    page.close()


@pytest.fixture
def opened(browser, tmp_path):
    "Opens a lab's page with the network off; what it stumbles over is the page's `trouble`."
    with offline_pages(browser, tmp_path / "page.html", ".mpo-gradients") as open_page:
        yield open_page


def shown_numbers(page) -> list[list[str]]:
    return page.evaluate(
        "() => [...document.querySelectorAll('.mpo-gradients tbody tr')].map((row) =>"
        " [row.querySelector('button').textContent, ...[...row.querySelectorAll('td')].map((c) => c.textContent)])"
    )


def table_numbers(lab) -> list[list[str]]:
    "Python's table, as text."
    rows = lab.picture().extra.split("<tbody>")[1].split("<tr>")[1:]
    cells = [[cell.split("<")[0] for cell in row.replace("<th", "<td").split("<td")[1:]] for row in rows]
    return [[cell.partition(">")[2] for cell in row] for row in cells]


@pytest.mark.browser
def test_a_page_says_what_python_says(opened):
    lab = GradientLab()
    page = opened(lab)
    moves = [
        ("kl", "8", dict(kl=0.5)),
        ("drift", "random", dict(drift="random")),
        ("clip", "equal", dict(clip="equal")),
    ]
    moves += [("pair", "7", dict(pair=7)), ("credit", "critic", dict(credit="critic")), ("lam", "0", dict(lam=0.0))]
    moves += [("length", "8", dict(length=8)), ("k", "3", dict(k=3)), ("inner", False, dict(inner=False))]
    for name, value, settings in [("k", "4", {}), *moves]:
        page.evaluate(MOVE, [name, value])
        lab.set(**settings)
        assert page.inner_text(".mpo-gradients .mpo-words") == lab.picture().summary
        theirs, ours = shown_numbers(page), table_numbers(lab)
        assert [[row[0].lower(), *row[1:]] for row in theirs] == ours
    assert "All 256 responses of pair 7, 0.50 nats" in lab.picture().summary


@pytest.mark.browser
def test_python_and_the_browser_have_the_same_controls(opened):
    lab = GradientLab(credit="critic")
    shown = opened(lab).evaluate(CONTROLS)
    assert list(shown) == list(lab.controls)
    for name, control in lab.controls.items():
        there = shown[name]
        assert there["text"] == control.label and not there["hidden"]
        if control.kind == "choice":
            assert [tuple(option) for option in there["options"]] == list(control.options.items())
        elif name not in ("kl", "batch", "inner"):
            assert (there["low"], there["high"]) == (f"{control.low:g}", f"{control.high:g}")
    hidden = {name for name, each in opened(GradientLab(clip="none")).evaluate(CONTROLS).items() if each["hidden"]}
    assert (
        hidden == {"epsilon", "lam"} == set(lab.controls) - lab.applies(lab.values | dict(clip="none", credit="group"))
    )


@pytest.mark.browser
def test_a_keyboard_moves_controls_and_points_at_a_kind(opened):
    page = opened(GradientLab(length=8), viewport=dict(width=420, height=900))
    before = page.inner_text(".mpo-gradients .mpo-words")
    page.locator("[data-control=kl]").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".mpo-gradients .mpo-words") != before
    assert page.get_attribute("[data-control=kl]", "aria-valuetext") == "0.30"
    button = page.locator("tr[data-kind='block joint'] button")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator(".fan .now").get_attribute("data-kind") == "block joint"
    page.evaluate(MOVE, ["k", "2"])
    assert page.evaluate("document.activeElement.closest('tr').dataset.kind") == "block joint", "focus stays"
    assert page.locator(".trade .now").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".one-kind").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_what_is_stored_is_small_and_code_moves_the_live_lab():
    lab = GradientLab(pair=5)
    live = lab.widget
    assert dict(live.data) == {} and json.loads(json.dumps(live.values)) == lab.values
    assert lab.set(k=2).widget.values["k"] == 2
    live.values = {**live.values, "future": 0.4}  # what the browser sends when a hand moves a control
    assert lab.values["future"] == 0.4
    live.values = {**live.values, "pair": 99}
    assert live.values == lab.values and lab.values["pair"] == 5
    assert len(lab.figure(length=6).data) == 9
    with pytest.raises(ValueError, match="^pair=40; pass a whole number from 0 to 39"):
        GradientLab(pair=40)


@pytest.mark.parametrize("drift", ["uphill", "random"])
def test_no_setting_asks_for_a_drift_out_of_reach(drift):
    "The farthest that the slider goes, for the shortest responses."
    for pair in range(40):
        assert numbered_case(pair, length=6, kl=0.6, drift=drift).kl == pytest.approx(0.6)
