"""The widgets in a real browser: live in JupyterLab with a kernel, and as pages with the network off.

What the page shows is compared with what the library computes for the same settings: the strip token by token, the
figure number by number."""

import json
import os
from pathlib import Path

import pytest
from colours import contrast
from lab import lab_server, run_notebook, watched, write_notebook
from strip_explorer import StripExplorer

from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import BlockExplorer, CreditExplorer
from mpo_nb.widgets.panel import painted_strip

pytestmark = pytest.mark.browser

NASTY = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=2>",
    " </script>",
    "\u202e",
    "思",
    "",
    "🙂",
    "\n",
]
SETUP = f"""import json
import sys
from pathlib import Path
sys.path.append({str(Path(__file__).parent.parent / "helpers")!r})
from strip_explorer import StripExplorer
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.widgets import BlockExplorer, CreditExplorer
trace = load_traces('traces.jsonl')[0]"""

SAME = """([root, n, html]) => {
  const made = document.createElement('template')
  made.innerHTML = html
  const read = token => {
    const style = token.firstElementChild.style
    const classes = [...token.classList].filter(c => c !== 'mpo-same').sort().join(' ')
    const colours = [style.backgroundColor, style.borderBottomColor, style.borderBottomStyle]
    return [classes, token.getAttribute('aria-label'), token.dataset.block, token.textContent, ...colours].join(' | ')
  }
  const strip = document.querySelector(root).querySelectorAll('.mpo-strip')[n]
  const shown = [...strip.querySelectorAll('.mpo-token')].map(read)
  const wanted = [...made.content.querySelectorAll('.mpo-token')].map(read)
  if (shown.length !== wanted.length) return [shown.length, wanted.length]
  return shown.map((s, i) => [s, wanted[i]]).filter(([a, b]) => a !== b)
}"""
FIGURE = "([plot, i]) => Array.from(document.querySelectorAll(plot)[0]._fullData[i].y)"
AXES_HOLD_DATA = """selector => {
  const plot = document.querySelector(selector)
  return plot._fullData.every(t => {
    const axis = plot._fullLayout['yaxis' + t.yaxis.slice(1)]
    const [low, high] = axis.range
    const slack = 1e-6 * Math.abs(high - low)
    const heights = [...t.y].filter(Number.isFinite).map(y => axis.type === 'log' ? Math.log10(y) : y)
    return heights.every(y => y >= low - slack && y <= high + slack)
  })
}"""


def nasty_trace() -> Trace:
    "A response that would like to be a page."
    plain = Trace.from_text("First, 7 + 5 = 12.\nThen 12 - 3 = 8; so it is 8.", moved=0.25)
    n = len(NASTY)
    rest = {name: [-0.5 - 0.1 * i for i in range(n)] + getattr(plain, name) for name in ("logps", "old_logps")}
    rest["logps"][2] -= 0.4
    return Trace(
        NASTY + plain.tokens,
        entropies=[0.3] * n + plain.entropies,
        prompt="".join(NASTY),
        note=NASTY[0],
        advantage=-0.8,
        reward=0.0,
        **rest,
    )


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Trace:
    "As it comes back from a file: six significant digits."
    return Trace.from_dict(json.loads(json.dumps(nasty_trace().to_dict())))


@pytest.fixture(scope="module")
def lab(browser, trace, tmp_path_factory):
    "A notebook with both explorers and one that Python draws, run in JupyterLab."
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("notebooks")
    config = tmp_path_factory.mktemp("lab")
    (folder / "traces.jsonl").write_text(json.dumps(trace.to_dict()) + "\n")
    cells = (
        "StripExplorer(trace)",
        "blocks = BlockExplorer(trace)\nblocks",
        "credit = CreditExplorer(trace)\ncredit",
        "",
    )
    write_notebook(folder / "widgets.ipynb", SETUP, *cells)
    with lab_server(folder, config) as address:
        page = watched(browser.new_page(viewport=dict(width=1400, height=2400)), address, address.replace("http", "ws"))
        run_notebook(page, address, "widgets.ipynb")
        page.wait_for_function(
            "document.querySelectorAll('.mpo-lane-view').length === 2 && document.querySelectorAll('.mpo-widget"
            " .js-plotly-plot .main-svg').length >= 1",
            timeout=60_000,
        )
        page.evaluate("document.querySelectorAll('.mpo-widget').forEach((w, i) => w.id = 'widget-' + i)")
        yield page
        page.close()


def check(page, root: str, figure: dict[int, int], explorer):
    "The page shows what the explorer computes: both strips, and the figure's traces by number."
    view = explorer.picture()
    page.wait_for_function(
        "([root, values]) => { const e = document.querySelector(root), d = e.dataset.values ||"
        " e.querySelector('[data-values]').dataset.values, now = JSON.parse(d); return"
        " Object.entries(values).every(([k, v]) => !(k in now) || now[k] === v) }",
        arg=[root, explorer.values],
        timeout=20_000,
    )
    for n, state in enumerate(view.strips):
        assert page.evaluate(SAME, [root, n, painted_strip(explorer.trace, state, 10_000).html]) == []
    for i in figure:
        wanted = [None if y != y else y for y in view.data[i]["y"].tolist()]
        page.wait_for_function(
            "([plot, i, n]) => document.querySelectorAll(plot)[0]._fullData?.[i]?.y?.length === n",
            arg=[f"{root} .js-plotly-plot", i, len(wanted)],
            timeout=20_000,
        )
        for _ in range(40):
            if (shown := page.evaluate(FIGURE, [f"{root} .js-plotly-plot", i])) == pytest.approx(
                wanted, rel=2e-4, abs=1e-6
            ):
                break
            page.wait_for_timeout(100)
        assert shown == pytest.approx(wanted, rel=2e-4, abs=1e-6)
    page.wait_for_function(AXES_HOLD_DATA, arg=f"{root} .js-plotly-plot", timeout=5000)


def press(page, selector: str, *keys: str):
    "Keys on one element, as a hand would."
    page.locator(selector).first.focus()
    for key in keys:
        page.keyboard.press(key)


def test_strips_and_a_figure_live(lab, trace):
    explorer = StripExplorer(trace)
    root = "#widget-0"
    check(lab, root, (3, 5), explorer)
    press(lab, f"{root} .noUi-handle[aria-label='tokens per action, K']", "ArrowRight", "ArrowRight")
    check(lab, root, (1, 3, 5, 7), explorer.set(k=6))
    press(lab, f"{root} select", "ArrowDown")
    check(lab, root, (5, 7), explorer.set(right="joint"))
    lab.locator(f"{root} select").select_option(label="blocks of K, mean")
    check(lab, root, (5, 7, 9), explorer.set(right="block"))
    press(lab, f"{root} .noUi-handle[aria-label='how far the policy has moved']", "Home")
    check(lab, root, (3, 5), explorer.set(moved=0.0, right="block"))
    assert "On-policy" in lab.locator(f"{root} .mpo-summary").inner_text()


IN_KERNEL = """async (code) => {
  const panel = window.jupyterapp.shell.currentWidget
  const future = panel.sessionContext.session.kernel.requestExecute({ code, store_history: false })
  let text = ''
  future.onIOPub = (message) => (text += message.content.text ?? '')
  await future.done
  return text
}"""


def told_kernel(page, values: dict):
    "Waits until the kernel knows what the controls hold: the browser tells it as fast as it listens, not at once."
    for _ in range(100):
        there = json.loads(page.evaluate(IN_KERNEL, "print(json.dumps(blocks.values), end='')"))
        if values.items() <= there.items():
            return
        page.wait_for_timeout(200)
    assert there == values


def words_of(page, explorer, view="mpo-blocks"):
    "Waits until the live picture says what Python works out."
    page.wait_for_function(
        "([view, words]) => document.querySelector(`.${view} .mpo-words`).textContent === words",
        arg=[view, explorer.picture().summary],
        timeout=60_000,
    )


def test_block_explorer_live(lab, trace):
    "Both sides move the controls; a hand waits for no kernel."
    explorer = BlockExplorer(trace)
    words_of(lab, explorer)
    slider = ".mpo-blocks [data-control=k]"
    press(lab, slider, "ArrowLeft")
    words_of(lab, explorer.set(k=3))
    lab.locator(".mpo-blocks [data-control=rule_2]").select_option("surprise")
    words_of(lab, explorer.set(rule_2="surprise"))
    assert lab.locator(".mpo-blocks [data-control=threshold_2]").is_visible()
    told_kernel(lab, explorer.values)
    lab.evaluate(IN_KERNEL, "blocks.set(k=12, rule_2='sequence');")
    words_of(lab, explorer.set(k=12, rule_2="sequence"))
    assert lab.locator(f"{slider} + output").inner_text() == "12"


def test_credit_explorer_live(lab, trace):
    "As the blocks: a hand, and code in the kernel."
    explorer = CreditExplorer(trace)
    words_of(lab, explorer, "mpo-credit")
    press(lab, ".mpo-credit [data-control=k]", "ArrowRight", "ArrowRight")
    words_of(lab, explorer.set(k=6), "mpo-credit")
    lab.locator(".mpo-credit [data-control=right]").select_option("block")
    lab.locator(".mpo-credit [data-control=difference]").uncheck()
    words_of(lab, explorer.set(right="block", difference=False), "mpo-credit")
    there = json.loads(lab.evaluate(IN_KERNEL, "print(json.dumps(credit.values), end='')"))
    assert there == explorer.values
    lab.evaluate(IN_KERNEL, "credit.set(moved=0.0, right='window', difference=True);")
    words_of(lab, explorer.set(moved=0.0, right="window", difference=True), "mpo-credit")
    assert "On-policy" in lab.locator(".mpo-credit .mpo-words").inner_text()


def test_a_slider_moves_the_picture_while_it_is_dragged_and_the_kernel_is_busy(lab, trace):
    lab.evaluate(f"code => {{ window.napping = ({IN_KERNEL})(code) }}", "import time; time.sleep(15)")
    box = lab.locator(".mpo-blocks [data-control=k]").bounding_box()
    height = box["y"] + box["height"] / 2
    lab.mouse.move(box["x"] + box["width"] / 2, height)
    lab.mouse.down()
    seen = []
    for part in (0.02, 0.3, 0.6, 0.98):
        lab.mouse.move(box["x"] + part * box["width"], height)
        k = lab.evaluate("JSON.parse(document.querySelector('.mpo-blocks .mpo-row').dataset.values).k")
        words_of(lab, BlockExplorer(trace, k=k, rule_2="sequence"))
        seen.append(k)
    busy = lab.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status")
    lab.mouse.up()
    assert seen == sorted(set(seen)) and (seen[0], seen[-1]) == (1, len(trace.tokens)) and busy == "busy"
    lab.evaluate("window.napping")
    told_kernel(lab, {"k": seen[-1]})


def test_tokens_by_keyboard_live(lab):
    lab.locator(".mpo-blocks .mpo-lanes li").first.focus()
    lab.keyboard.press("ArrowRight")
    assert "Token 2," in lab.locator(".mpo-blocks .mpo-detail").inner_text()
    assert lab.locator(".jp-Notebook.jp-mod-commandMode").count() == 1, "no key of ours is a command of the notebook's"
    lab.locator("#widget-0 .mpo-strip").first.locator(".mpo-token").first.focus()
    lab.keyboard.press("ArrowRight")
    assert lab.evaluate("document.activeElement.dataset.token") == "1"
    info = lab.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert "token 2" in info and "log-probability" in info and "entropy" in info and "ratio" in info and "block" in info
    assert lab.locator("#widget-0 .mpo-same").count() == 1
    lab.keyboard.press("Tab")
    assert lab.evaluate(
        "document.activeElement.closest('.mpo-strip') === document.querySelectorAll('#widget-0 .mpo-strip')[1]"
    )


def test_nothing_is_executed_and_nothing_asked_for_live(lab):
    assert lab.evaluate("window.hit") is None and lab.trouble == []
    assert lab.locator("#widget-0 .mpo-tokens img, #widget-0 .mpo-tokens script").count() == 0
    assert "U+202E" in lab.locator("#widget-0 .mpo-tokens").first.inner_text()
    assert all(
        label
        for label in lab.locator(".mpo-widget .js-plotly-plot").evaluate_all(
            "plots => plots.map(p => p.getAttribute('aria-label'))"
        )
    )


CLIPPED = """root => {
  const outside = []
  for (const plot of document.querySelectorAll(root + ' .js-plotly-plot')) {
    const box = plot.getBoundingClientRect()
    for (const text of plot.querySelectorAll('.main-svg text')) {
      const r = text.getBoundingClientRect()
      const beside = r.left < box.left - 1 || r.right > box.right + 1
      const beyond = r.top < box.top - 1 || r.bottom > box.bottom + 1
      if (r.width && (beside || beyond)) outside.push(text.textContent)
    }
  }
  const texts = ['.widget-label', 'label', '.mpo-summary'].map(name => root + ' ' + name).join(', ')
  for (const e of document.querySelectorAll(texts)) {
    if (e.offsetParent && e.scrollWidth > e.clientWidth + 1) outside.push(e.textContent)
  }
  return outside
}"""


def shot(page, name: str, **options):
    if folder := os.environ.get("MPO_NB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", **options)


def test_both_widths_and_themes_live(lab):
    for width, theme in ((1400, "Light"), (1400, "Dark"), (700, "Dark"), (700, "Light")):
        lab.set_viewport_size(dict(width=width, height=2800))
        lab.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab ' + theme})",
            theme,
        )
        lab.evaluate("window.jupyterapp.shell.collapseLeft()")
        lab.wait_for_function(
            "theme => document.body.dataset.jpThemeName === 'JupyterLab ' + theme &&"
            " !document.querySelector('#jupyterlab-splash')",
            arg=theme,
        )
        lab.wait_for_function(
            "[...document.querySelectorAll('.mpo-widget .js-plotly-plot')].every(p =>"
            " Math.abs(p.querySelector('.main-svg').getBoundingClientRect().width - p.clientWidth) < 4)"
        )
        assert lab.evaluate(CLIPPED, ".mpo-widget") == [], f"{width} px, {theme}"
        ink, paper = lab.evaluate(
            "[getComputedStyle(document.querySelector('.mpo-widget .ytick text')).fill,"
            " getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor]"
        )
        assert contrast(ink, paper) > 4.5, f"{theme}: {ink} on {paper}"
        shot(lab, f"lab-{width}-{theme.lower()}")


@pytest.fixture
def offline(browser, tmp_path):
    "Opens a widget's page with the network off."
    contexts = []

    def open_page(explorer, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = watched(context.new_page(), "file:")
        page.on("console", lambda m: m.type in ("error", "warning") and page.trouble.append(m.text))
        page.goto(explorer.to_html(tmp_path / "page.html").as_uri())
        if explorer.trace.tokens:
            page.wait_for_function("document.querySelectorAll('.mpo-plot .main-svg').length")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_a_page_of_states(offline, trace):
    explorer = StripExplorer(trace)
    root = ".mpo-widget"
    page = offline(explorer)
    check(page, root, (1, 3, 5), explorer)
    press(page, "[data-axis=k]", "ArrowRight")
    check(page, root, (3, 5, 7), explorer.set(k=5))
    press(page, "[data-axis=right]", "ArrowDown")
    check(page, root, (5, 7, 9), explorer.set(right="joint"))
    press(page, "[data-axis=moved]", "Home")
    check(page, root, (3, 5), explorer.set(moved=0.0))
    page.locator("[data-axis=right]").select_option(label="whole response, mean (GSPO)")
    assert page.locator("[data-axis=k]").is_hidden()
    check(page, root, (5, 7), explorer.set(right="sequence"))
    assert page.evaluate("window.hit") is None and page.trouble == []


def test_page_fits_every_width_and_theme(offline, trace):
    page = offline(StripExplorer(trace))
    for width, scheme in ((1400, "light"), (1400, "dark"), (700, "dark"), (700, "light"), (420, "light")):
        page.set_viewport_size(dict(width=width, height=900))
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "Math.abs(document.querySelector('.mpo-plot .main-svg').getBoundingClientRect().width -"
            " document.querySelector('.mpo-plot').clientWidth) < 4"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
            f"{width} px scrolls sideways"
        )
        assert page.evaluate(CLIPPED, ".mpo-widget") == [], f"{width} px"
        ink, paper = page.evaluate(
            "[getComputedStyle(document.querySelector('.ytick text')).fill,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        assert contrast(ink, paper) > 4.5
        shot(page, f"page-strips-{width}-{scheme}", full_page=True)


@pytest.mark.parametrize(
    "odd",
    [
        Trace([]),
        Trace(["a"]),
        Trace(list("abc"), mask=[0, 0, 0]),
        Trace(list("ab"), logps=[-1.0, float("nan")], advantage=1.0),
    ],
)
def test_odd_pages(offline, odd):
    page = offline(StripExplorer(odd))
    assert page.locator(".mpo-summary").inner_text() and page.trouble == []


def test_without_a_script_the_strips_are_there(browser, tmp_path, trace):
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(StripExplorer(trace).to_html(tmp_path / "page.html").as_uri())
    assert page.locator(".mpo-token").count() == 2 * len(trace.tokens) and page.locator(".mpo-controls").is_hidden()
    context.close()
