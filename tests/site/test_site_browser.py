"The built site as a reader meets it: served from its folder, in headless Chromium, light and dark, wide and narrow."

import functools
import http.server
import os
import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from colours import contrast

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("quarto") or find_spec("smalldocs")),
        reason="neither quarto nor smalldocs (Python 3.11 and newer) is here",
    ),
]
BASE = "/mpo_nb"


class Pages(http.server.SimpleHTTPRequestHandler):
    "As GitHub Pages does it: below the project's name, and 404.html for whatever is not there."

    def translate_path(self, path):
        return super().translate_path(path.removeprefix(BASE) or "/")

    def send_error(self, code, message=None, explain=None):
        if code != 404:
            return super().send_error(code, message, explain)
        body = (Path(self.directory) / "404.html").read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{BASE}"
    server.shutdown()


@pytest.fixture
def visit(browser, address):
    """Opens a page of the site and collects what went wrong on it: errors, requests that failed, and requests to any
    other host."""
    contexts = []

    def open_page(name: str = "", width: int = 1400, scheme: str = "light"):
        contexts.append(browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme))
        page = contexts[-1].new_page()
        page.trouble = []
        page.on("console", lambda m: page.trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: page.trouble.append(str(e)))
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith((address, "data:", "blob:")) else page.trouble.append(f"asked for {r.url}")
            ),
        )
        page.on("response", lambda r: page.trouble.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(f"{address}/{name}", wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()


WAITING = "[...document.querySelectorAll('.plotly-graph-div')].every(plot => plot.querySelector('.main-svg'))"
LOOK = r"""() => {
  const shown = e => e.getClientRects().length, folded = e => e.closest('details:not([open])')
  const formulas = [...document.querySelectorAll('main math')].filter(e => !folded(e))
  const prose = e => {
    const copy = e.cloneNode(true)
    copy.querySelectorAll('code, pre, script, math, annotation').forEach(x => x.remove())
    return copy.textContent
  }
  const words = [...document.querySelectorAll('main p, main li, main td')].map(prose)
  const drawn = '.main-svg .trace, .main-svg .points, .main-svg .bars, .main-svg path'
  const plots = [...document.querySelectorAll('.js-plotly-plot')].filter(p => !folded(p) && shown(p))
  // Past the window's edge, with no box of its own to scroll in.
  const boxed = e => { for (e = e.parentElement; e; e = e.parentElement) {
    if (e.tagName === 'MAIN') return false
    if (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX)) return true } return false }
  const over = [...document.querySelectorAll('main *:not(.anchorjs-link)')].filter(e => shown(e) && !folded(e) &&
    e.getBoundingClientRect().right > innerWidth + 1 && e.getBoundingClientRect().width > 1 && !boxed(e))
  // A box that hides what is too wide for it hides text, unless it says so with an ellipsis.
  const hides = e => getComputedStyle(e).overflowX === 'hidden' && getComputedStyle(e).textOverflow !== 'ellipsis'
  const cut = [...document.querySelectorAll('main pre, main table, main p, main li, main math, main div')].filter(e =>
    shown(e) && !folded(e) && !e.closest('.js-plotly-plot, svg') && hides(e) && e.scrollWidth > e.clientWidth + 2)
  return {
    over: over.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
    cut: cut.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    pictures: [...document.images].filter(i => i.loading !== 'lazy' && !i.naturalWidth).map(i => i.src),
    formulas: formulas.filter(e => { const b = e.getBoundingClientRect(); return b.width < 2 || b.height < 2 }).length,
    tex: words.filter(t => /\\\(|\\\[|\$\$|\\frac|\\sum|\\delta/.test(t)),
    plots: plots.filter(p => !p.querySelector(drawn)).length,
  }
}"""


def test_every_page_at_two_widths(visit, site):
    """Nothing fails, nothing leaves the site, formulas and figures are drawn, and no page is wider than its window.
    Each is opened narrow and then made wide, as a tablet is turned."""
    found = {}
    shots = os.environ.get("MPO_NB_SCREENSHOTS")
    page = visit("", 420, "dark")
    home = page.url
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        for width, scheme in ((420, "dark"), (1400, "light")):
            page.trouble = []
            page.set_viewport_size(dict(width=width, height=900))
            page.emulate_media(color_scheme=scheme)
            if width == 420:
                page.goto(home + name, wait_until="load")
            page.wait_for_function(WAITING, timeout=20_000)
            wrong = {what: value for what, value in page.evaluate(LOOK).items() if value} | (
                {"trouble": page.trouble} if page.trouble else {}
            )
            if wrong:
                found[f"{name} at {width}, {scheme}"] = wrong
            if shots:
                Path(shots).mkdir(parents=True, exist_ok=True)
                page.screenshot(
                    path=Path(shots) / f"site-{name.replace('/', '-').removesuffix('.html')}-{width}-{scheme}.png",
                    full_page=True,
                )
    assert not found, "\n".join(f"{where}: {what}" for where, what in found.items())


COLOURS = r"""() => {
  // A veil lets through what is behind it.
  const solid = c => !(parseFloat((c.match(/rgba\(.*, ([\d.]+)\)/) || [0, 1])[1]) < 0.2)
  const paper = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor
      if (solid(c)) return c
    }
    return 'rgb(255, 255, 255)'
  }
  const ink = e => e.tagName === 'text' ? getComputedStyle(e).fill : getComputedStyle(e).color
  return ['main p', 'main p a', 'main h2', 'main code', 'main pre code', '#quarto-sidebar .menu-text', '#TOC a',
    '.navbar .nav-link', '.navbar-title', 'main td', '.ytick text', '.mpo-widget .mpo-summary']
    .map(s => [s, document.querySelector(s)]).filter(([, e]) => e && e.getClientRects().length)
    .map(([s, e]) => [s, ink(e), paper(e)])
}"""


@pytest.mark.parametrize(
    "name",
    ["index.html", "learn/ratios_and_clipping.html", "lib/losses.html", "studies/off_policy.html", "reference.html"],
)
def test_text_is_readable_in_both_themes(visit, name):
    "WCAG's 4.5 to 1, by the reader's setting and by the switch; the switch is remembered from page to page."
    papers = []
    for scheme in ("light", "dark"):
        page = visit(name, scheme=scheme)
        page.wait_for_function(WAITING)
        for turn in ("as it opens", "after the switch"):
            page.wait_for_timeout(400)  # colours fade from one theme to the other
            found = page.evaluate(COLOURS)
            assert len(found) >= 6
            pale = [
                (what, ink, paper, round(contrast(ink, paper), 1))
                for what, ink, paper in found
                if contrast(ink, paper) < 4.5
            ]
            assert not pale, f"{name}, {scheme}, {turn}: {pale}"
            papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.locator(".quarto-color-scheme-toggle").first.click()
        page.locator(".quarto-color-scheme-toggle").first.click()
        page.reload()
        page.wait_for_function("paper => getComputedStyle(document.body).backgroundColor === paper", arg=papers[-1])
        assert page.trouble == []
    assert papers[0] == papers[3] != papers[1] == papers[2]


FOUND = """() => [".search-result-title", ".search-result-section", ".search-result-text", ".search-result-text mark",
  "#quarto-search input"].map(s => document.querySelector(s)).filter(Boolean).map(e => {
  const paper = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor
    if (!/rgba\\(.*, (0|0\\.[0-4]\\d*)\\)/.test(c)) return c } return "rgb(255, 255, 255)" }
  return [e.className, getComputedStyle(e).color, paper(e)] })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_search_finds_what_people_call_things_and_can_be_read(visit, scheme):
    page = visit("learn/faq.html", scheme=scheme)
    box = page.locator("#quarto-search input").first
    wanted = {
        "my own model": "learn/faq.html#can-i-train-my-own-model",
        "entropy collapse": "learn/",
        "my own reward": "learn/",
        "length bias": "learn/",
        "resume": "learn/faq.html",
        "policy_loss": "lib/losses.html#policy_loss",
    }
    papers = set()
    for words, place in wanted.items():
        box.fill(words)
        mark = page.locator(".search-result", has_text=words).first
        mark.wait_for(timeout=20_000)
        first = page.locator(".search-result, .aa-Item a").first.get_attribute("href")
        assert place in first, f"{words}: {first}"
        found = page.evaluate(FOUND)
        assert len(found) >= 4
        papers.add(found[0][2])
        pale = [(what, ink, paper) for what, ink, paper in found if contrast(ink, paper) < 4.5]
        assert not pale, f"{words}, {scheme}: {pale}"
    assert len(papers) == 1 and (contrast(papers.pop(), "rgb(255, 255, 255)") < 2) == (scheme == "light")
    box.fill("dual clip")
    result = page.locator(".search-result", has_text="dual").first
    result.wait_for(timeout=20_000)
    result.click()
    page.wait_for_load_state()
    assert "dual clip" in page.locator("main").inner_text().lower()
    assert [t for t in page.trouble if "passive" not in t] == []


def test_the_sidebar_is_open_where_one_is(visit):
    for name, section in (("lib/losses.html", "The method"), ("lib/runs/live.html", "Runs and traces")):
        page = visit(name)
        opened = page.locator("#quarto-sidebar .sidebar-item-section:has(> ul.show) > .sidebar-item-container")
        assert [text.strip() for text in opened.all_inner_texts()] == [section]
    page.locator("#quarto-sidebar a", has_text="Studies").first.click()
    page.locator("#quarto-sidebar a", has_text="Boundaries").first.wait_for()


def test_formulas_are_set_in_the_site_s_own_font(visit):
    page = visit("lib/losses.html")
    page.wait_for_function("document.fonts.check('16px \"mpo mathematics\"')")
    faces = page.evaluate("[...document.fonts].map(face => [face.family.replaceAll('\"', ''), face.status])")
    assert ["mpo mathematics", "loaded"] in faces
    assert "mpo mathematics" in page.evaluate("getComputedStyle(document.querySelector('main math')).fontFamily")


def test_one_s_own_text_on_the_site(visit, address):
    "It works below the page's own rule that nothing may leave, and the rule holds."
    page = visit("learn/your_own_text.html", scheme="dark")
    page.locator(".mpo-reader textarea").fill("One step. And another; then the end.")
    page.get_by_text("10 tokens of your text").wait_for()
    line = '{"tokens": ["4", "2"], "logps": [-0.5, -0.1], "old_logps": [-0.4, -0.2], "advantage": 1.5}\n'
    file = dict(name="traces.jsonl", mimeType="application/json", buffer=line.encode())
    page.locator(".mpo-drop input").set_input_files(file)
    page.get_by_text("1 response read from traces.jsonl").wait_for()
    page.locator("[data-view=credit]").click()
    assert page.locator(".mpo-lane-view").is_visible() and page.trouble == []
    asked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', error => String(error))")
    assert "sent" not in asked and any("Content Security Policy" in said for said in page.trouble)


def test_an_address_that_is_not_there(visit, address):
    page = visit("learn/nothing/of_the_kind.html")
    assert page.locator("h1").first.inner_text() == "There is no such page"
    assert [t for t in page.trouble if "of_the_kind" not in t and "404" not in t] == []
    assert page.evaluate("getComputedStyle(document.querySelector('.navbar')).backgroundColor") != "rgba(0, 0, 0, 0)", (
        "its style is not loaded"
    )
    page.locator("main a", has_text="the first lesson").click()
    page.wait_for_url(f"{address}/learn/one_action.html")


def test_a_telephone_reaches_the_contents(visit, address):
    "By the button: the sidebar, and in it another page."
    page = visit("learn/one_action.html", width=420)
    link = page.locator("#quarto-sidebar a", has_text="Where the advantage goes").first
    in_sight = (
        "link => { const b = link.getBoundingClientRect(); return b.width > 0 && b.right > 0 && b.left < innerWidth &&"
        " link.contains(document.elementFromPoint(b.left + 5, b.top + b.height / 2)) }"
    )
    assert not link.evaluate(in_sight)
    page.locator(".quarto-btn-toggle").first.click()
    link.click()
    page.wait_for_url(f"{address}/learn/where_advantage_goes.html")
    assert page.trouble == []


SHARE = "share of later tokens"
FIRST = {
    "index": SHARE,
    "learn/one_action": SHARE,
    "learn/ratios_and_clipping": "tokens per window",  # it opens with single tokens, which share nothing
    "learn/where_advantage_goes": SHARE,
}


@pytest.mark.parametrize(["name", "control"], FIRST.items())
def test_the_first_picture_of_a_page_answers(visit, name, control):
    "By keyboard: what it says in words, and what it draws, follow the control, and come back with it."
    page = visit(f"{name}.html")
    page.wait_for_function(WAITING)
    picture = page.locator(".mpo-output").first
    slider = picture.locator("label", has_text=control).locator("input[type=range]")
    slider.wait_for()
    if (pause := picture.get_by_role("button", name="Pause")).count():  # it moves by itself on the home page
        pause.click()

    def state():
        return picture.locator("[aria-live=polite]").first.inner_text(), picture.inner_html()

    before = state()
    at_first = slider.input_value()
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    after = state()
    assert slider.input_value() != at_first and all(a != b for a, b in zip(before, after))
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert slider.input_value() == at_first and state()[0] == before[0] and page.trouble == []


def test_a_word_of_the_glossary_says_what_it_means(visit, address):
    "Its meaning is there for whoever points at it, by keyboard it leads to its row."
    page = visit("learn/one_action.html")
    word = page.locator("main a:has(> abbr[title])", has_text="clip range").first
    assert word.locator("abbr").get_attribute("title").startswith("The ratios at which an action still learns")
    word.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/learn/glossary.html#clip-range")
    assert page.locator("tr:has(#clip-range)").first.inner_text().startswith("clip range") and page.trouble == []


@pytest.mark.parametrize("name", ["learn/index.html", "studies/index.html"])
def test_a_landing_page_shows_each_page_it_leads_to(visit, name):
    page = visit(name, width=420)
    pictures = page.locator("main td img")
    assert pictures.count() >= 7 and pictures.evaluate_all("all => all.every(i => i.naturalWidth && i.alt.length > 10)")
    assert page.locator("main td a:has(img)").count() == pictures.count()
