"""The style sheets and scripts of mpo_nb/assets/web: formatted, linted, in step with Python, and their pure functions
tried with numbers in a browser."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpo_nb.drawing.assets import asset_text, joined_script, module_order
from mpo_nb.drawing.strip import value_style
from mpo_nb.drawing.style import down_colour, palette, signed, up_colour
from mpo_nb.runs.traces import Trace
from mpo_nb.widgets.page import PartPool
from mpo_nb.widgets.panel import painted_strip, strip_state, strip_template

# The names of the browser that each script may use; whatever else it draws with comes from dom.js or from its caller.
BROWSER_NAMES = {
    "tokens.js": set(),
    "states.js": set(),
    "markup.js": {"document"},
    "box.js": {"document"},
    "strip.js": set(),
    "widget.js": {"document"},
    "panel.js": {"ResizeObserver"},
    "page.js": set(),
    "report.js": {"document"},
    "method.js": set(),
    "live_view.js": set(),
    "dom.js": {"document"},
    "inputs.js": set(),
    "lanes.js": {"IntersectionObserver"},
    "curves.js": {"ResizeObserver"},
    "credit_numbers.js": set(),
    "credit_view.js": set(),
    "block_view.js": set(),
    "align.js": set(),
    "recipe_loss.js": set(),
    "responses.js": set(),
    "rollout_view.js": {"document"},
    "side_by_side.js": {"document"},
    "charts.js": {"ResizeObserver", "document", "matchMedia"},
    "monitor_view.js": {"getComputedStyle"},
    "ratio_view.js": {"ResizeObserver"},
    "programs_view.js": set(),
    "formal_view.js": set(),
    "map_view.js": {"ResizeObserver"},
    "enumeration.js": set(),
    "gradient_lab.js": {"ResizeObserver"},
    "live_monitor.js": {"requestAnimationFrame"},
    "weight_map.js": {"ResizeObserver"},
    "slide_numbers.js": set(),
    "slide_picture.js": set(),
    "window_slides.js": {
        "IntersectionObserver",
        "ResizeObserver",
        "cancelAnimationFrame",
        "requestAnimationFrame",
    },
    "log_files.js": set(),
    "reader_view.js": set(),
    "hyparquet.js": set(),  # not ours, and not linted
}
VIEWS = [
    "monitor_view.js",
    "ratio_view.js",
    "gradient_lab.js",
    "credit_view.js",
    "block_view.js",
    "weight_map.js",
    "window_slides.js",
    "side_by_side.js",
    "programs_view.js",
    "formal_view.js",
    "map_view.js",
    "rollout_view.js",
    "reader_view.js",
]
ENTRIES = ["panel.js", "page.js", "report.js", "live_monitor.js", "method.js", "live_view.js", "box.js", *VIEWS]


@pytest.fixture(scope="module")
def web(root) -> Path:
    "The folder of the files."
    return root / "mpo_nb" / "assets" / "web"


@pytest.fixture(scope="module")
def deno() -> str:
    "The formatter and linter, which pip installs beside Python."
    found = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")
    if found is None:
        pytest.skip("no deno beside this Python or on the PATH: pip install deno")
    return found


def run(deno: str, root: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([deno, *arguments], cwd=root, capture_output=True, text=True, env={"NO_COLOR": "1"})


def test_the_formatter_has_nothing_to_do(deno, root):
    done = run(deno, root, "fmt", "--check")
    assert done.returncode == 0, f"make export formats them:\n{done.stdout}{done.stderr}"


def test_the_linter_finds_nothing(deno, root):
    done = run(deno, root, "lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_script_uses_the_names_that_it_may(deno, root, web):
    "A name that no module defines and that is not the browser's is a slip; so is a new dependence on the document."
    done = run(deno, root, "lint", "--rules-include=no-undef", "--json")
    used = {file.name: set() for file in web.glob("*.js")}
    for finding in json.loads(done.stdout)["diagnostics"]:
        assert finding["code"] == "no-undef", finding
        used[Path(finding["filename"]).name].add(finding["message"].split()[0])
    assert used == BROWSER_NAMES


def test_every_file_is_read_by_something(web):
    """A script belongs to an entry, and an entry is named in Python: the package's, or that of a page on another paper.
    So is every style sheet and template."""
    scripts = {file.name for file in web.glob("*.js")}
    assert scripts == {module for entry in ENTRIES for module in module_order(entry)}
    package = web.parent.parent
    pages = (package.parent / "nbs" / "papers").glob("*.ipynb")
    cells = [cell for page in pages for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]]
    python = "".join(file.read_text(encoding="utf-8") for file in package.rglob("*.py"))
    python += "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for name in [*ENTRIES, *(file.name for file in web.iterdir() if file.suffix != ".js")]:
        assert f'"{name}"' in python, f"nothing reads {name}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_joined_script_keeps_its_modules_apart(entry):
    "Each stands in a function of its own, after those it needs, and reads from them what it imported."
    text = joined_script(entry)
    *before, last = module_order(entry)
    assert [text.count(f'modules["{name}"] = ') for name in before] == [1] * len(before)
    assert not re.search(r"^import |^export (?!default)", text, re.MULTILINE)
    for name in re.findall(r'^const \{[^}]*\} = modules\["([\w.]+)"\];', text, re.MULTILINE):
        assert name in before
    assert f'modules["{last}"]' not in text


def test_nothing_ends_its_element_early(web):
    "A script or a style sheet stands inside an element of a page."
    for file in [*web.glob("*.js"), *web.glob("*.css")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), file.name
        assert text.isascii(), f"{file.name}: a page may come without its encoding; write the code point"


def test_text_becomes_elements_in_one_place(web):
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b"
    places = {file.name: len(re.findall(makers, file.read_text(encoding="utf-8"))) for file in web.glob("*.js")}
    assert {name: n for name, n in places.items() if n} == {"markup.js": 1}
    calls = re.findall(r"elementsOf\((.+?)\)[,;)]", "".join(asset_text(file.name) for file in web.glob("*.js")))
    # What Python has written and escaped: the tokens, the legend, further HTML, what fills a box; and a text of the
    # panel's own.
    assert sorted(calls) == [
        "BODY",
        "data.table",
        "html",
        "html",
        "state.legend || '<div class=\"mpo-legend\"></div>'",
        "template",
    ]


def test_colours_are_those_that_python_draws_with(web):
    "Apart from greys: the two of the strip, and the palette's orange for marks."
    text = "".join(file.read_text(encoding="utf-8") for file in web.iterdir() if file.suffix in (".js", ".css"))
    used = (up_colour, down_colour, palette[4])
    triples = {tuple(map(int, t)) for t in re.findall(r"(?:rgba?\(|\")(\d{1,3}), ?(\d{1,3}), ?(\d{1,3})\b", text)}
    colours = {name: tuple(map(int, colour.split(","))) for name, colour in zip("up down orange".split(), used)}
    assert {t for t in triples if len(set(t)) > 1} == set(colours.values())
    for name in ("up", "down"):
        assert f'const {name.upper()} = "{", ".join(map(str, colours[name]))}"' in asset_text("tokens.js")


# In a browser


@pytest.fixture(scope="module")
def modules(browser, web):
    """A blank page that may import the scripts as the modules they are; an address of its own, answered from the
    folder, stands for a server."""
    context = browser.new_context()
    page = context.new_page()

    def answer(route):
        name = route.request.url.rsplit("/", 1)[1]
        if name.endswith(".js"):
            route.fulfill(path=web / name, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")

    page.route("**/*", answer)
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.goto("http://assets.test/blank")
    yield page
    assert page.trouble == []
    context.close()


def call(page, module: str, function: str, *arguments):
    "What a function of a module gives for these arguments."
    script = "async ([module, name, given]) => (await import('./' + module))[name](...given)"
    return page.evaluate(script, [module, function, list(arguments)])


@pytest.mark.browser
def test_every_script_parses_and_leaves_no_global(modules):
    "As a module each one loads with all that it imports; report.js begins at once, and needs a report's page."
    before = modules.evaluate("Object.keys(window)")
    for name in BROWSER_NAMES:
        if name != "report.js":
            modules.evaluate("async name => Object.keys(await import('./' + name))", name)
    for entry in [*ENTRIES, *VIEWS[:-1]]:  # the last shows the others, each with names of its own
        text = joined_script(entry).replace("export default", "return")
        modules.evaluate("text => { new Function('\"use strict\";' + text) }", text)
    assert modules.evaluate("Object.keys(window)") == before


@pytest.mark.browser
@pytest.mark.parametrize("digits", [2, 3])
def test_numbers_are_written_as_in_python(modules, digits):
    for x in (0.0, 0.004, -0.004, 0.126, -0.126, 1.0, -1.0, 12.375, -1234.5, 0.0004):
        assert call(modules, "tokens.js", "signed", x, digits) == signed(x, digits), x


@pytest.mark.browser
def test_colours_of_a_value(modules):
    for value, limit in ((0.5, 1.0), (-0.5, 1.0), (3.0, 1.0), (-1e-6, 1.0)):
        style = call(modules, "tokens.js", "tokenColours", value, limit)
        written = f"background-color:{style['backgroundColor']};border-bottom:{style['borderBottom']}"
        assert written.replace(", ", ",") == value_style(value, limit)
    for value, limit in ((None, 1.0), (0, 1.0), (1.0, 0), (1.0, None)):
        assert call(modules, "tokens.js", "tokenColours", value, limit) == {"backgroundColor": "", "borderBottom": ""}


@pytest.mark.browser
def test_marks_and_words_of_a_token(modules):
    state = dict(
        blocks=[0, 0, 1, -1],
        clipped=[0, 1, 0, 0],
        ratio=[1.25, None, 0.5, None],
        values=[-0.5, 0.0, None, None],
        label="credit",
    )
    marks = [call(modules, "tokens.js", "tokenMarks", state, i) for i in range(4)]
    assert [m["mpo-first"] for m in marks] == [False, False, True, True]
    assert [m["mpo-odd"] for m in marks] == [False, False, True, True]
    assert [m["mpo-clipped"] for m in marks] == [False, True, False, False]
    facts = "token 1, 'a': id 7"
    labels = [call(modules, "tokens.js", "tokenLabel", facts, state, i) for i in range(4)]
    assert labels == [
        f"{facts}, ratio 1.250, block 1, credit −0.500",
        f"{facts}, clipped, block 1, credit 0",
        f"{facts}, ratio 0.500, block 2",
        facts,
    ]
    assert call(modules, "tokens.js", "tokenLabel", "token 1, '': ", state, 2) == "token 1, '': ratio 0.500, block 2"


@pytest.mark.browser
@pytest.mark.parametrize(
    "key, at, to",
    [
        ("ArrowRight", 1, 2),
        ("ArrowLeft", 1, 0),
        ("ArrowLeft", 0, -1),
        ("ArrowRight", 5, 6),
        ("Home", 4, 0),
        ("End", 1, 5),
        ("ArrowDown", 0, 2),
        ("ArrowDown", 2, 4),
        ("ArrowDown", 4, -1),
        ("ArrowUp", 5, 4),
        ("ArrowUp", 4, 2),
        ("ArrowUp", 0, -1),
        ("Tab", 1, None),
        ("a", 1, None),
    ],
)
def test_where_a_key_leads(modules, key, at, to):
    "Six tokens in blocks of two; -1 and 6 lie outside the strip, and None is a key of the browser's own."
    starts = [True, False, True, False, True, False]
    assert call(modules, "tokens.js", "nextToken", key, at, starts) == to


@pytest.mark.browser
def test_a_page_finds_its_view(modules):
    "What the pool took apart in Python is put together again."
    pool = PartPool()
    curves = [dict(x=list(range(20)), y=[i * k for i in range(20)], name=f"K={k}") for k in (1, 2, 3)]
    numbers = [pool.add(curve) for curve in curves]
    words = [pool.add(text) for text in ("", "one", "two", "three")]
    layout = pool.add(dict(height=200))

    def state(k: int) -> dict:
        rest = dict(strips=[], layout=layout, extra=words[0], alt=words[0], applies=["k"])
        return dict(template=words[0], data=[numbers[k]], summary=words[k + 1], **rest)

    axes = [dict(name="rule", values=["fixed", "all"], texts=[]), dict(name="k", values=[1, 2, 3], texts=[])]
    data = dict(pool=pool.parts(), states=[state(k) for k in range(3)], index=[0, 1, 2, 2, 2, 2], axes=axes)
    for positions, k in (([0, 0], 0), ([0, 1], 1), ([0, 2], 2), ([1, 0], 2)):
        view = call(modules, "states.js", "viewAt", data, positions)
        assert view["data"] == [curves[k]] and view["layout"] == dict(height=200)
        assert view["summary"] == ("one", "two", "three")[k]
        assert view["values"] == {"rule": ("fixed", "all")[positions[0]], "k": (1, 2, 3)[positions[1]]}
    assert call(modules, "states.js", "combinationNumber", axes, [1, 2]) == 5


@pytest.mark.browser
def test_a_strip_is_painted_as_in_python_and_hostile_text_stays_text(modules):
    "Title, label and legend come from a user; each would like to be markup."
    nasty = "<img src=x onerror=window.hit=1>"
    trace = Trace(["<b>", "7", "\n"], logps=[-1.0, -0.5, -0.1], old_logps=[-1.2, -0.5, -0.1], prompt=nasty)
    state = strip_state(trace, nasty, [0.5, math.nan, -1.0], [0, 0, 1], [1.2, 1.0, 1.0], [1, 0, 0], label=nasty)
    show = """async ([template, state]) => {
      const { showStrips } = await import('./strip.js')
      const box = document.body.appendChild(document.createElement('div'))
      showStrips(box, template, [state, state])
      const focused = box.querySelector('.mpo-token')
      focused.focus()
      showStrips(box, template, [state, state]) // painted again, not copied again
      const kept = document.activeElement === focused
      const strips = [...box.children].map((strip) => strip.outerHTML)
      box.remove()
      return [kept, strips, window.hit]
    }"""
    unknown = state["values"][1] is None
    kept, strips, hit = modules.evaluate(show, [strip_template(trace), state])
    assert unknown and kept and hit is None and len(strips) == 2
    for html in (*strips, painted_strip(trace, state).html):
        assert "<img" not in html and "<b>" not in html.replace('<b class="mpo-hatch">', "").replace("<b style", "")
    read = """html => {
      const made = document.createElement('template')
      made.innerHTML = html
      return [...made.content.querySelectorAll('.mpo-token, .mpo-title, .mpo-legend span')].map((e) =>
        [[...e.classList].sort().join(' '), e.getAttribute('aria-label'), e.dataset.block, e.textContent].join(' | '))
    }"""
    assert modules.evaluate(read, strips[0]) == modules.evaluate(read, painted_strip(trace, state).html)


@pytest.mark.browser
def test_a_table_that_did_not_change_is_left_alone(modules):
    "And in one that did, the button that had the focus gets it back."
    script = """async () => {
      const { fillWidget } = await import('./widget.js')
      const root = document.body.appendChild(document.createElement('div'))
      root.innerHTML = '<p class="mpo-summary"></p><div class="mpo-strips"></div><div class="mpo-extra"></div>'
      const view = (extra) => ({ template: '', states: [], summary: '<b>', extra, values: { k: 4 } })
      fillWidget(root, view('<button data-pick="1">one</button>'))
      const first = root.querySelector('button')
      first.focus()
      fillWidget(root, view('<button data-pick="1">one</button>'))
      const same = root.querySelector('button') === first
      fillWidget(root, view('<button data-pick="2">two</button><button data-pick="1">one</button>'))
      const focused = document.activeElement.textContent
      const facts = [same, focused, root.querySelector('.mpo-summary').textContent, root.dataset.values]
      root.remove()
      return facts
    }"""
    assert modules.evaluate(script) == [True, "one", "<b>", '{"k":4}']
