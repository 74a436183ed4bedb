"""Writes README.md from nbs/index.ipynb: hidden cells and directives go, and links are made relative to the root.
A cell with `#| readme-image: FILE` shows what a script computes; a README cannot, and shows the picture in its place.

python scripts/readme.py           write README.md
python scripts/readme.py --check   exit 1 when README.md is not what the notebook gives
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "nbs" / "index.ipynb"
TARGET = ROOT / "README.md"
HIDDEN = re.compile(r"^#\|\s*(hide|include:\s*false)\s*$", re.MULTILINE)
DIRECTIVES = re.compile(r"^#\|.*\n?", re.MULTILINE)
LOCAL_LINK = re.compile(r"(\]\(|src=\")(?![a-z]+:|#|/)([^)\"]+)")
IMAGE = re.compile(r"^#\|\s*readme-image:\s*(\S+)$", re.MULTILINE)
LABEL = re.compile(r'aria-label="([^"]*)"')
NOTE = "<!-- Written from nbs/index.ipynb by `make readme`; edit the notebook. -->"


def render(source: Path = SOURCE) -> str:
    "The text of README.md that the notebook gives."
    notebook = nbformat.read(source, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not HIDDEN.search(cell.source)]
    notebook.cells = [pictured(cell) for cell in notebook.cells]
    for cell in notebook.cells:
        cell.source = DIRECTIVES.sub("", cell.source)
    notebook.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = LOCAL_LINK.sub(lambda m: m[1] + relative(m[2]), text)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return NOTE + "\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def pictured(cell):
    "A cell whose output a README cannot show, as the picture that it names; any other cell as it is."
    if cell.cell_type != "code" or not (named := IMAGE.search(cell.source)):
        return cell
    shown = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    label = LABEL.search(shown)
    return nbformat.v4.new_markdown_cell(f"![{label[1] if label else ''}]({named[1]})")


def relative(link: str) -> str:
    "A link of the notebook, which lies in nbs/, as one from the root: `lib/x.ipynb` becomes `nbs/lib/x.ipynb`."
    return link[3:] if link.startswith("../") else "nbs/" + link


def main() -> int:
    text = render()
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print("README.md is not what nbs/index.ipynb gives: run `make readme`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
