"""Puts a still picture into every stored output that a script fills, for the places where scripts are taken out.

    python scripts/stills.py [notebook ...]     all of nbs/ by default
    python scripts/stills.py --check            exit 1 when one is missing, without a browser

An output made by `mpo_nb.drawing.outputs` is a box with a place for a picture. The box is opened alone in headless
Chromium, as in a frame of its own, and the picture is taken when its script has filled it. A picture stays as long as
its output does: an output that is made anew has none.
"""

import argparse
import base64
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PLACE = "<!-- still -->"
BOX = re.compile(r'<div class="mpo-output" id="([\w-]+)" role="group" aria-label="([^"]*)">')
WIDTH = 840  # pixels, about a notebook's column


def notebooks(names: list[str]) -> list[Path]:
    "The notebooks named, or all of them."
    if names:
        return [Path(name) for name in names]
    return [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def outputs(notebook) -> list:
    "The HTML outputs that wait for a picture."
    found = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return [o for o in found if PLACE in o.get("data", {}).get("text/html", "")]


def picture(page, html: str) -> bytes:
    "What the box shows once its script has filled it: a PNG."
    [(name, _)] = BOX.findall(html)
    page.set_content(f'<!doctype html><meta charset="utf-8"><body style="margin:8px;background:white">{html}')
    page.wait_for_function("name => document.getElementById(name).children.length > 0", arg=name)
    page.wait_for_timeout(400)  # a figure settles
    return page.locator(f"#{name}").screenshot(type="png")


def fill(path: Path, page) -> int:
    "Puts pictures into one notebook; how many."
    notebook = nbformat.read(path, as_version=4)
    waiting = outputs(notebook)
    for output in waiting:
        html = output["data"]["text/html"]
        [(_, label)] = BOX.findall(html)
        data = base64.b64encode(picture(page, html)).decode()
        still = f'<img class="mpo-still" alt="{label}" style="max-width:100%" src="data:image/png;base64,{data}">'
        output["data"]["text/html"] = html.replace(PLACE, still)
    if waiting:
        nbformat.write(notebook, path)
    return len(waiting)


def chromium() -> str:
    "The path of a Chromium."
    names = (os.environ.get("MPO_NB_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("stills: no Chromium on the PATH: install Debian's `chromium`, or name one in MPO_NB_CHROMIUM")
    return path


def plotly_js() -> str:
    "The package's own copy of plotly.js, in place of the one that a frame would fetch."
    import plotly

    return (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="default: all of nbs/")
    parser.add_argument("--check", action="store_true", help="say which outputs have no picture, and take none")
    options = parser.parse_args()
    paths = notebooks(options.notebooks)
    if options.check:
        missing = [p for p in paths if outputs(nbformat.read(p, as_version=4))]
        for path in missing:
            print(f"{path}: an output has no still picture; run `make stills`", file=sys.stderr)
        return int(bool(missing))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=dict(width=WIDTH, height=900))
        page.route("**/plotly-*.min.js", lambda route: route.fulfill(body=plotly_js(), content_type="text/javascript"))
        for path in paths:
            if count := fill(path, page):
                print(f"{path}: {count} picture{'s' * (count > 1)}")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
