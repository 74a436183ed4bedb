"""What every notebook stores, on every surface where a notebook is opened: alone in a sandboxed frame (Colab, VS Code),
with scripts and styles taken out (GitHub, nbviewer), in a JupyterLab that does not trust it, and in one that has run
it. The site has tests of its own."""

import ast
import base64
import contextlib
import copy
import os
import re
import shutil
import subprocess
import sys
import time
from html import escape

import nbformat
import pytest
from browsers import plotly_js
from lab import close_notebook, lab_outputs, lab_server, open_notebook, run_all, watched
from surfaces import PLOTLY, SOUP, WIDGET, as_new, fresh_outputs, notebooks, outputs, sanitised

TOGETHER = {"@jupyterlab/notebook-extension:tracker": dict(windowingMode="none")}  # all of a notebook is drawn at once
NO_KERNEL = "Cannot read properties of null (reading 'kernel')"  # ipywidgets' manager, where a notebook has none
TRAP = """<script>window.trouble = []
addEventListener("error", (e) => trouble.push(String(e.message)))
addEventListener("unhandledrejection", (e) => trouble.push(String(e.reason)))</script>"""
# What is seen of an output: its text, the pictures that are really there, what is drawn, and how high it is.
SEEN = """(element) => {
  const shows = (e) => e.getBoundingClientRect().height > 20 && e.getBoundingClientRect().width > 60
  const images = [...element.querySelectorAll("img")]
  return {
    text: element.innerText,
    pictures: images.filter((i) => i.complete && i.naturalWidth > 100 && shows(i)).length,
    broken: images.filter((i) => i.getAttribute("src") && i.complete && !i.naturalWidth).length,
    waits: element.querySelectorAll("em.mpo-words").length,
    stills: element.querySelectorAll("img.mpo-still").length,
    figures: [...element.querySelectorAll(".js-plotly-plot .main-svg:first-child")].filter(shows).length,
    height: element.getBoundingClientRect().height,
  }
}"""


@pytest.fixture(scope="module")
def stored(root):
    found = outputs(root)
    assert len(found) > 60 and sum(PLOTLY in o.data for o in found) > 15
    return found


def test_a_picture_or_text_is_left_where_scripts_and_styles_are_taken_out(stored):
    "GitHub and nbviewer."
    wrong = []
    for output in stored:
        if not output.html:
            continue
        text, images = sanitised(output.html)
        if images:
            bad = [i for i in images if not i.get("src", "").startswith("data:image/png") or len(i.get("alt", "")) < 5]
            if bad:
                wrong.append(f"{output.place}: a picture without words, or from elsewhere")
        elif len(text.split()) < 2:
            wrong.append(f"{output.place}: nothing is left but {text!r}")
        if soup := SOUP.search(text):
            wrong.append(f"{output.place}: markup as text, {soup[0]!r}")
    assert not wrong, "\n".join(wrong)


def test_what_is_taken_out_is_noticed():
    text, images = sanitised(
        "<style>.a { b: c }</style><p onclick=x()>seen</p><script>1</script><img src=data:a alt=b>"
    )
    assert text == "seen" and images == [dict(src="data:a", alt="b")]
    for soup in (".mpo-token { margin: 0 }", "const box = 3", "(a) => a", '{"tokens":["a"]}', "<div class="):
        assert SOUP.search(soup), soup
    for plain in ("7 + 5 = 12", "a < b and {x: 1}", "clipped: 3 (4%)", "<|im_end|>"):
        assert not SOUP.search(plain), plain


def test_every_figure_is_stored_for_every_surface(stored):
    "As plotly's JSON, as a picture, and as a script."
    for output in stored:
        if PLOTLY in output.data:
            assert output.data[PLOTLY]["data"] and "Plotly.newPlot(" in output.html, output.place
        if "mpo-output" in output.html:
            [image] = sanitised(output.html)[1]
            assert len(base64.b64decode(image["src"].split(",")[1])) <= 100_000, f"{output.place}: a heavy picture"


def test_notebooks_are_small(root):
    heavy = {p.name: p.stat().st_size for p in notebooks(root) if p.stat().st_size > 1_150_000}
    assert not heavy, f"bytes of notebooks above a megabyte: {heavy}"


# Alone in a frame


def frames(page, shown, plotly: bool):
    "Every output in a sandboxed frame of its own, with nothing but what it brings along; what is seen of each."
    asked = []

    def answer(route):
        asked.append(route.request.url)
        if plotly and "/plotly-" in route.request.url:
            return route.fulfill(body=plotly_js(), content_type="text/javascript")
        return route.abort()

    page.route(re.compile("^https?://"), answer)
    found = []
    for output in shown:
        page.goto("about:blank")
        body = f'<!doctype html><meta charset="utf-8">{TRAP}<body>{output.html}'
        page.set_content(
            f'<iframe sandbox="allow-scripts" srcdoc="{escape(body)}" style="width:820px;height:600px"></iframe>'
        )
        frame = page.frames[-1]
        deadline = time.time() + 10
        while time.time() < deadline:
            seen = frame.evaluate(f"() => ({SEEN})(document.body)")
            if not seen["waits"] and (not plotly or not seen["stills"]):
                break
            page.wait_for_timeout(50)
        seen["trouble"] = frame.evaluate("window.trouble")
        found.append(seen)
    return found, asked


@pytest.mark.browser
@pytest.mark.slow
def test_each_output_is_seen_alone_with_no_network(stored, browser):
    "Colab and VS Code put every output into a frame of its own."
    page = browser.new_page(viewport=dict(width=900, height=700))
    shown = [o for o in stored if o.html]
    wrong = []
    found, asked = frames(page, shown, plotly=False)
    for output, seen in zip(shown, found, strict=True):
        if seen["trouble"]:
            wrong.append(f"{output.place}: {seen['trouble'][0]}")
        if seen["waits"] or seen["broken"] or (not seen["pictures"] and len(seen["text"].split()) < 2):
            wrong.append(f"{output.place}: not seen: {seen}")
        if PLOTLY in output.data and not seen["pictures"]:
            wrong.append(f"{output.place}: neither a figure nor its picture")
    page.close()
    assert not wrong, "\n".join(wrong)
    assert {url for url in asked if "/plotly-" not in url} == set()


@pytest.mark.browser
@pytest.mark.slow
def test_each_figure_is_drawn_alone_where_plotly_can_be_fetched(stored, browser):
    page = browser.new_page(viewport=dict(width=900, height=700))
    shown = [o for o in stored if "cdn.plot.ly" in o.html]
    found, _ = frames(page, shown, plotly=True)
    wrong = [f"{o.place}: {s}" for o, s in zip(shown, found, strict=True) if s["trouble"] or s["stills"] or s["waits"]]
    wrong += [f"{o.place}: no figure" for o, s in zip(shown, found) if PLOTLY in o.data and not s["figures"]]
    page.close()
    assert not wrong, "\n".join(wrong)


# In JupyterLab


def after_run(notebook, fresh: dict[str, list]):
    "A notebook as it is when it has been run and not yet been given its pictures."
    notebook = copy.deepcopy(notebook)
    notebook.metadata.run = "new"  # a signature is of the content: without this the other copy would be trusted too
    for i, cell in enumerate(notebook.cells):
        if str(i) in fresh:
            cell.outputs = [nbformat.from_dict(output) for output in fresh[str(i)]]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)  # its state is in no file; widgets that are alive are run below
            if "text/html" in data:
                data["text/html"] = as_new("".join(data["text/html"]))
    return notebook


def write_below(folder, name: str, notebook):
    "Writes a notebook; folders that are missing are made."
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / name)


def only_outputs(notebook):
    "A notebook without what is no output: a Lab that has no text and no code to lay out opens it in half the time."
    notebook = copy.deepcopy(notebook)
    for i, cell in enumerate(notebook.cells):
        cell.source = ""
        cell.metadata.place = i
    notebook.cells = [cell for cell in notebook.cells if cell.get("outputs")]
    return notebook


@pytest.fixture(scope="module")
def lab(root, stored, tmp_path_factory):
    """A JupyterLab with the outputs of the notebooks that show more than text: in `nbs/` as they are stored, in `new/`
    as they are after a run, trusted. In `run/` those that are run there, whole."""
    where = tmp_path_factory.mktemp("lab")
    config = tmp_path_factory.mktemp("config")
    names = sorted({o.notebook for o in stored})
    for name in names:
        notebook = nbformat.read(root / "nbs" / name, as_version=4)
        write_below(where / "nbs", name, only_outputs(notebook))
        write_below(where / "new", name, only_outputs(after_run(notebook, fresh_outputs(name))))
    for name in live(root):
        write_below(where / "run", name, nbformat.read(root / "nbs" / name, as_version=4))
    for path in (root / "nbs" / "papers").glob("*.csv"):  # what pages with widgets read
        shutil.copy(path, where / "run" / "papers")
    env = {**os.environ, "JUPYTER_DATA_DIR": str(config / "jupyter_data_dir")}
    trust = [sys.executable, "-m", "jupyter", "trust", *(str(where / "new" / name) for name in names)]
    subprocess.run(trust, env=env, check=True, capture_output=True)
    with lab_server(where, config, TOGETHER) as address:
        yield address, names, where / "run"


@pytest.fixture(scope="module")
def lab_page(lab, browser):
    "The page of that JupyterLab."
    page = watched(browser.new_page(viewport=dict(width=1200, height=1000)), lab[0])
    page.goto(f"{lab[0]}/lab")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget", timeout=90_000)
    yield page
    page.close()


def holes(found: list[dict], trusted: bool) -> list[str]:
    "What is wrong with the outputs of a notebook, in words."
    wrong = [] if found else ["no outputs"]
    for seen in found:
        figure = PLOTLY in seen["mimes"]
        boxed = "RenderedHTML" in seen["rendered"] and (seen["stills"] or seen["waits"])
        if "text/html" in seen["mimes"] and seen["trusted"] != trusted:
            wrong.append(f"cell {seen['cell']}: {'not ' * trusted}trusted")
        elif seen["height"] < 10:
            wrong.append(f"cell {seen['cell']}: a hole of {seen['height']} pixels")
        elif figure and not seen["figures"]:
            wrong.append(f"cell {seen['cell']}: the figure is not drawn")
        elif boxed and (trusted or not seen["pictures"] or seen["text"].strip()):
            wrong.append(f"cell {seen['cell']}: {'its script did not run' if trusted else 'no picture'}: {seen}")
        elif "RenderedHTML" in seen["rendered"] and SOUP.search(seen["text"]):
            wrong.append(f"cell {seen['cell']}: markup as text, {SOUP.search(seen['text'])[0]!r}")
        elif seen.get("broken"):
            wrong.append(f"cell {seen['cell']}: a picture that cannot be shown")
    return wrong


def opened(page, names: list[str], folder: str) -> list[str]:
    "What is wrong with the outputs of notebooks that are opened and not run; of three at most."
    wrong = {}
    for name in names:
        open_notebook(page, f"{folder}/{name}")
        deadline = time.time() + 20
        while (bad := holes(lab_outputs(page, SEEN), folder == "new")) and time.time() < deadline:
            page.wait_for_timeout(50)
        bad += [trouble for trouble in page.trouble if NO_KERNEL not in trouble]
        if bad:
            wrong[name] = bad
        close_notebook(page)
        page.trouble.clear()
        if len(wrong) == 3:
            break
    return [f"{name} {problem}" for name, problems in wrong.items() for problem in problems]


@pytest.mark.browser
@pytest.mark.slow
def test_everything_is_seen_in_a_lab_that_does_not_trust_the_notebook(lab, lab_page):
    assert opened(lab_page, lab[1], "nbs") == []


@pytest.mark.browser
@pytest.mark.slow
def test_everything_is_drawn_in_a_lab_after_a_run(lab, lab_page):
    "The outputs of this very run of `make test`, where they are there; else the stored ones less their pictures."
    assert opened(lab_page, lab[1], "new") == []


def live(root) -> list[str]:
    "The notebooks for readers that show widgets and train nothing, and the page of the widgets."
    found = ["lib/widgets/index.ipynb"]
    for path in notebooks(root):
        name = path.relative_to(root / "nbs").as_posix()
        text = path.read_text(encoding="utf-8")
        if not name.startswith("lib/") and "from mpo_nb.widgets" in text and "from mpo_nb.training" not in text:
            found.append(name)
    return found


@pytest.mark.browser
@pytest.mark.slow
def test_a_notebook_with_widgets_is_run_in_a_lab(root, lab, lab_page):
    """Run All, with a kernel: no error, no page error, no red text, widgets alive, every figure drawn. One kernel for
    all, since a new one imports for seconds; each notebook is run by itself before the tests."""
    wrong = []
    kernel = None
    for name in live(root):
        open_notebook(lab_page, f"run/{name}")
        lab_page.trouble.clear()
        kernel = run_all(lab_page, (lab[2] / name).parent, kernel)
        deadline = time.time() + 20
        while (bad := holes(found := lab_outputs(lab_page, SEEN), True)) and time.time() < deadline:
            lab_page.wait_for_timeout(100)
        bad += [f"cell {seen['cell']}: an error" for seen in found if seen["type"] == "error"]
        bad += [f"cell {seen['cell']}: red text" for seen in found if "stderr" in seen["rendered"]]
        bad += [trouble for trouble in lab_page.trouble if NO_KERNEL not in trouble]
        wrong += [f"{name} {problem}" for problem in bad]
        close_notebook(lab_page)
        lab_page.trouble.clear()
    assert wrong == []


def test_no_first_cell_shows_red_text(root):
    "What the first cells of lessons and studies import writes nothing to stderr."
    lines = {}
    for path in notebooks(root):
        if path.parent.name in ("nbs", "learn", "studies"):
            cells = nbformat.read(path, as_version=4).cells
            for source in [cell.source for cell in cells if cell.cell_type == "code"][:3]:
                with contextlib.suppress(SyntaxError):  # magics
                    nodes = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
                    lines |= {ast.unparse(node): path.name for node in nodes}
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
