"What notebooks store, and what is left of it on each surface where a notebook is opened."

import json
import os
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STILL = re.compile(r'<img class="mpo-still" alt="([^"]*)"[^>]*>')
GONE = {"script", "style", "template", "iframe", "object", "svg", "math", "link", "meta"}  # with all that is in them
KEPT = {"alt", "title", "src", "href", "colspan", "rowspan", "scope", "role", "id", "class"}  # attributes
# What a reader should never see as text: a style sheet, a script, or the numbers that a script was given.
SOUP = re.compile(
    r"[.#][\w-]+\s*\{|\{\s*[\w-]+\s*:\s*[^{}]*;"  # CSS
    r"|=>|\bfunction\s*\(|document\.|\bconst \w+ =|\"\w+\":"  # JavaScript, JSON
    r"|</?(?:div|span|style)\b"  # HTML
)


@dataclass
class Output:
    "One output of one cell."

    notebook: str  # below nbs/
    cell: int  # from 0
    data: dict  # MIME type -> content

    @property
    def html(self) -> str:
        return "".join(self.data.get("text/html", ""))

    @property
    def place(self) -> str:
        return f"{self.notebook} cell {self.cell}"


def notebooks(root: Path) -> list[Path]:
    "Every notebook of the project."
    return [p for p in sorted((root / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def outputs(root: Path) -> list[Output]:
    "What every notebook stores, but for text."
    found = []
    for path in notebooks(root):
        name = path.relative_to(root / "nbs").as_posix()
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            data = [output["data"] for output in cell.get("outputs", []) if "data" in output]
            found += [Output(name, i, d) for d in data if set(d) - {"text/plain", "text/markdown"}]
    return found


def as_new(html: str) -> str:
    "An output as a cell gives it: the words where its picture will be."
    return STILL.sub(lambda m: f'<em class="mpo-words">{m[1]}</em>', html)


def fresh_outputs(name: str) -> dict[str, list]:  # name: of a notebook, below nbs/
    "Cell -> what it showed when `make test` ran it just now; empty where only pytest was started."
    folder = os.environ.get("MPO_NB_EXECUTED", "")
    file = Path(folder) / Path(name).with_suffix(".json")
    return json.loads(file.read_text()) if folder and file.exists() else {}


class Sanitiser(HTMLParser):
    "HTML as GitHub and nbviewer leave it: no script, no style, no handler, no form."

    def __init__(self):
        super().__init__()
        self.text = []
        self.images = []
        self.closed = []  # elements whose content is gone

    def handle_starttag(self, tag, attrs):
        if tag in GONE:
            if tag not in ("link", "meta"):
                self.closed.append(tag)
        elif tag == "img" and not self.closed:
            self.images.append({name: value for name, value in attrs if name in KEPT})
        elif tag in ("div", "p", "tr", "td", "th", "br", "li", "h1", "h2", "option"):
            self.text.append(" ")

    def handle_endtag(self, tag):
        if self.closed and self.closed[-1] == tag:
            self.closed.pop()

    def handle_data(self, data):
        if not self.closed:
            self.text.append(data)


def sanitised(html: str) -> tuple[str, list[dict]]:
    "The text and the images that are left of HTML."
    parser = Sanitiser()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.text).split()), parser.images
