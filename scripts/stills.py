"""Puts a still picture into every stored output that a script fills, for the places where scripts are taken out.

    python scripts/stills.py [notebook ...]     all of nbs/ by default
    python scripts/stills.py --check            exit 1 when an output would be a hole somewhere, without a browser

An output made by `mpo_nb.drawing.outputs` is a box with a place for a picture. The box is opened alone in headless
Chromium, as in a frame of its own, and the picture is taken when its script has filled it. A picture stays as long as
its output does: an output that is made anew has none. HTML with scripts or styles that stands in no box is put into
one, and a figure that has no JSON of plotly's gets it.
"""

import argparse
import base64
import io
import json
import re
import sys
from pathlib import Path

import nbformat
from browsers import ARGUMENTS, chromium, plotly_js

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r'<!-- still -->(?:<em class="mpo-words">.*?</em>)?', re.DOTALL)
BOX = re.compile(r'<div class="mpo-output" id="([\w-]+)" role="group" aria-label="([^"]*)">')
STILL = re.compile(r'<img class="mpo-still"[^>]* src="data:image/png;base64,([^"]*)">')
LABEL = re.compile(r'aria-label="([^"]+)"')
FIGURE = re.compile(r"drawFigure\(box, (\{.*\}), \"https")
PLOTLY = "application/vnd.plotly.v1+json"
WIDTH = 840  # pixels, about a notebook's column
HEAVY = 100_000  # bytes: no picture of this package's has more
TALL = 1200  # pixels of the page: what is longer ends there, faded out
SHARP = 50_000  # bytes: a picture that is larger at two pixels for each of the page's has one
HEAD = """<!doctype html><meta charset="utf-8"><style>
body { margin: 8px; background: white; font-family: system-ui, sans-serif }
.mpo-hint { display: none } /* in a picture nothing can be pointed at */
.mpo-output .mpo-strip { padding-bottom: 12px }
</style>"""
FILLED = """name => {
    const box = document.getElementById(name)
    return box.children.length > 0 && !box.querySelector('em.mpo-words')
}"""
DRAWN = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data)
    .map(plot => JSON.stringify({ data: plot.data, layout: plot.layout }))"""


def notebooks(names: list[str]) -> list[Path]:
    "The notebooks named, or all of them."
    if names:
        return [Path(name) for name in names]
    return [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def html_of(output) -> str:
    "The HTML of an output."
    return output.get("data", {}).get("text/html", "")


def is_loose(html: str) -> bool:
    "Whether HTML leaves loose text or a hole where scripts and styles are taken out."
    return not BOX.search(html) and ("<script" in html or "mpo-strip" in html)


def is_heavy(html: str) -> bool:
    "Whether a picture was taken by something that does not make it small."
    return any(len(data) * 3 > HEAVY * 4 for data in STILL.findall(html))


def is_figure(html: str) -> bool:
    "Whether all that an output shows is a figure of plotly's."
    return bool(FIGURE.search(html)) or ("Plotly.newPlot(" in html and "mpo-" not in html)


def waiting(notebook) -> list:
    "The outputs that lack something."
    found = [o for cell in notebook.cells for o in cell.get("outputs", []) if html_of(o)]
    return [
        o
        for o in found
        if PLACE.search(html_of(o))
        or is_loose(html_of(o))
        or is_heavy(html_of(o))
        or (is_figure(html_of(o)) and PLOTLY not in o["data"])
    ]


def boxed(html: str) -> str:
    "Loose HTML in a box."
    from mpo_nb.drawing.outputs import live_html

    words = LABEL.search(html)
    return live_html(html, words[1] if words else "A figure.", plotly="Plotly" in html)


def small(png: bytes) -> bytes:
    "A picture in at most 128 colours."
    from PIL import Image

    image = (
        Image.open(io.BytesIO(png)).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()


def cut(png: bytes, height: int) -> bytes:
    "A picture of at most this height; the end of a longer one fades into white."
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.height <= height:
        return png
    image = image.crop((0, 0, image.width, height))
    shade = Image.linear_gradient("L").resize((image.width, height // 12))  # from black to white, downwards
    image.paste((255, 255, 255), (0, height - shade.height), shade)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def show(page, html: str) -> str:
    "Opens a box alone and waits for its script; the box's name."
    [(name, _)] = BOX.findall(html)
    page.goto("about:blank")  # a new window: what an earlier box loaded is gone
    page.set_content(f"{HEAD}{html}")
    page.wait_for_function(FILLED, arg=name)
    page.wait_for_timeout(400)  # a figure settles
    return name


def picture(pages, html: str) -> tuple[bytes, list[str]]:
    "What the box shows once its script has filled it, as sharp as it may be; and plotly's figures in it, as JSON."
    png = b""
    for page in pages:
        name = show(page, html)
        sharpness = page.evaluate("devicePixelRatio")
        png = small(cut(page.locator(f"#{name}").screenshot(type="png"), round(TALL * sharpness)))
        if len(png) < SHARP:
            break
    return png, page.evaluate(DRAWN)


def mend(output, pages):
    "Gives one output what it lacks."
    html = output["data"]["text/html"]
    alone = is_figure(html)
    if is_loose(html):
        html = boxed(html)
    html = STILL.sub("<!-- still -->", html)
    png, figures = picture(pages, html)
    [(_, label)] = BOX.findall(html)
    still = (
        f'<img class="mpo-still" alt="{label}" style="width:{WIDTH - 16}px;max-width:100%"'
        f' src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
    output["data"]["text/html"] = PLACE.sub(lambda _: still, html, count=1)
    if alone:
        found = FIGURE.search(html)
        figure = json.loads(found[1] if found else figures[0])
        output["data"].setdefault(PLOTLY, figure | dict(config=dict(displayModeBar=False, responsive=True)))


def fill(path: Path, pages) -> int:
    "Mends one notebook; how many outputs lacked something."
    notebook = nbformat.read(path, as_version=4)
    found = waiting(notebook)
    for output in found:
        mend(output, pages)
    if found:
        nbformat.write(notebook, path)
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="default: all of nbs/")
    parser.add_argument("--check", action="store_true", help="say which notebooks lack something, and mend nothing")
    options = parser.parse_args()
    paths = notebooks(options.notebooks)
    if options.check:
        missing = [p for p in paths if waiting(nbformat.read(p, as_version=4))]
        for path in missing:
            print(f"{path}: an output has no still picture; run `make stills`", file=sys.stderr)
        return int(bool(missing))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        pages = [browser.new_page(viewport=dict(width=WIDTH, height=900), device_scale_factor=n) for n in (2, 1)]
        for page in pages:
            page.route("**/plotly-*.min.js", lambda r: r.fulfill(body=plotly_js(), content_type="text/javascript"))
        for path in paths:
            if count := fill(path, pages):
                print(f"{path}: {count} picture{'s' * (count > 1)}")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
