"What a cell shows: words where there is no picture yet, text that stays text, and a widget that Colab is told of."

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest
from anywidget._util import enable_custom_widget_manager_once
from plotly.subplots import make_subplots
from surfaces import PLOTLY, outputs, sanitised

import mpo_nb
from mpo_nb.drawing import Figure, figure_html, live_html, token_strip
from mpo_nb.drawing.outputs import figure_words
from mpo_nb.runs import Trace
from mpo_nb.widgets.controls import Control
from mpo_nb.widgets.explorer import Explorer
from mpo_nb.widgets.panel import View


class Number(Explorer):
    "A widget with nothing to see."

    title = "A number"

    def __init__(self):
        super().__init__(Control("k", "K", 4, low=1, high=8))

    def view(self, values):
        return View(summary=str(values["k"]))


def test_a_figure_says_what_it_shows():
    figure = go.Figure(go.Scatter(y=[1, 2]))
    assert figure_words(figure) == "A figure."
    figure.update_layout(xaxis_title="step", yaxis_title="loss, nats")
    assert figure_words(figure) == "Figure: loss, nats, against step."
    assert figure_words(make_subplots(1, 2, subplot_titles=["<b>one</b>", "two"])) == "Figure: one; two."
    figure.update_layout(title="Loss<br>while training")
    assert figure_words(figure) == "Loss while training." == Figure(figure).label
    assert Figure(figure, "In my words.")._repr_mimebundle_()["text/plain"] == "In my words."


@pytest.mark.parametrize(
    "html",
    [
        live_html("<style>b { color: red }</style><b>7</b><script>1</script>", "Seven & more <b>."),
        figure_html(go.Figure(go.Scatter(y=[1])), "Seven & more <b>."),
        live_html("<p>7</p>", "Seven & more \u202e<b>.", plotly=True),
    ],
)
def test_words_are_all_that_is_left_without_a_script(html):
    text, images = sanitised(html)
    assert text.replace("  ", " ") == "Seven & more <b>." and images == []


def test_a_strip_without_a_script_is_its_text():
    text, _ = sanitised(token_strip(Trace(["7", "+", "<script>", "\u202e"]), [1, 2, 3, 4])._repr_html_())
    assert text.endswith("7+<script>") and "\u202e" not in text


def test_an_exported_widget_stands_in_a_box():
    text, _ = sanitised(Number().html())
    assert text == "A number."


@pytest.mark.parametrize("there", [True, False])
def test_colab_is_asked_to_show_widgets_by_the_first_one(monkeypatch, there):
    "By anywidget, so that no notebook needs a cell for it."
    asked = []
    output = SimpleNamespace(enable_custom_widget_manager=lambda: asked.append("widgets"))
    for name in ("google", "google.colab", "google.colab.output") if there else ():
        monkeypatch.setitem(sys.modules, name, output)
    enable_custom_widget_manager_once.cache_clear()
    assert Number().widget and Number().widget
    assert asked == ["widgets"] * there
    enable_custom_widget_manager_once.cache_clear()


def test_no_line_goes_through_the_name_of_a_row(root):
    "Names that begin at the left edge, above rows of marks, lie where no line is drawn."
    seen = 0
    for output in outputs(root):
        figure = output.data.get(PLOTLY)
        names = [note for note in (figure or {}).get("layout", {}).get("annotations", []) if begins_a_row(note)]
        for shape in figure["layout"].get("shapes", []) if len(names) > 2 else []:
            assert shape["type"] != "line" or "domain" not in shape["yref"], f"{output.place}: a line over all rows"
            low, high = sorted((shape["y0"], shape["y1"]))
            across = [n["text"] for n in names if n["yref"] == shape["yref"] and low - 0.1 < n["y"] < high + 0.1]
            assert not across, f"{output.place}: {across}"
            seen += 1
    assert seen > 20


def begins_a_row(note: dict) -> bool:
    "Whether words begin at the left edge of the paper, at a height that an axis gives."
    yref = note.get("yref", "y")
    return note.get("xref") == "paper" and note.get("x") == 0 and yref[0] == "y" and "domain" not in yref


def test_jupyter_styles_none_of_our_tables():
    "Jupyter aligns the cells of every table in an output to the right, by a rule of two classes: ours have as many."
    weak = []
    for sheet in (Path(mpo_nb.__file__).parent / "assets" / "web").glob("*.css"):
        if sheet.name in ("document.css", "page.css"):  # of whole pages, which Jupyter has no part in
            continue
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.DOTALL)
        selectors = [s.strip() for rule in re.findall(r"([^{}]*)\{", text) for s in rule.split(",")]
        of_tables = [s for s in selectors if re.search(r"(^| )(table|t[hrd]|thead|tbody)[^ ]*$", s)]
        weak += [f"{sheet.name}: {s}" for s in of_tables if len(re.findall(r"[.:\[]", s)) < 2]
    assert not weak
