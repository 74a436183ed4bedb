"""Gives the words of the course their hover text, out of nbs/learn/glossary.ipynb.

    python scripts/glossary.py           write the texts into the pages
    python scripts/glossary.py --check   exit 1 when a page is not up to date

A page marks a word where it first appears: `[[clip range]]`, or `[[fewer are clipped|clip fraction]]` where the text
has another form of it. The mark becomes a link to the glossary, which shows the meaning to whoever points at it."""

import argparse
import html
import os
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "nbs" / "learn" / "glossary.ipynb"
ROW = re.compile(r'^\| <span id="([\w-]+)"></span>([^|]+?) \| ([^|]+?) \|', re.MULTILINE)
MARK = re.compile(r"\[\[(?:([^\[\]|]+)\|)?([^\[\]|]+)\]\]")
LINK = re.compile(r'\[<abbr title="[^"]*">([^<]*)</abbr>\]\([^)#]*glossary\.ipynb#([\w-]+)\)')


def read_terms(path: Path = GLOSSARY) -> dict[str, tuple[str, str]]:
    "anchor -> (word, what it means)"
    cells = nbformat.read(path, as_version=4).cells
    rows = [row for cell in cells if cell.cell_type == "markdown" for row in ROW.findall(cell.source)]
    return {anchor: (word, meaning) for anchor, word, meaning in rows}


def pages() -> list[Path]:
    "The notebooks in which words may be marked."
    first = [ROOT / "nbs" / "index.ipynb", ROOT / "nbs" / "studies" / "index.ipynb"]
    folders = (ROOT / "nbs" / folder for folder in ("learn", "papers"))
    found = [*first, *(path for folder in folders for path in sorted(folder.glob("*.ipynb")))]
    return [path for path in found if path != GLOSSARY]


def with_meanings(text: str, terms: dict[str, tuple[str, str]], glossary: str) -> str:
    """A page's text with each mark made a link, and each link's meaning as the glossary has it; `glossary` is the way
    there from the page. Raises SystemExit for a link to a word that the glossary has not."""
    anchors = {word.lower(): anchor for anchor, (word, _) in terms.items()}

    def link(shown: str, anchor: str) -> str:
        if anchor not in terms:
            raise SystemExit(f"glossary: no word for #{anchor} in {GLOSSARY.name}")
        return f'[<abbr title="{html.escape(terms[anchor][1])}">{shown}</abbr>]({glossary}#{anchor})'

    def expand(match: re.Match) -> str:
        anchor = anchors.get(match[2].strip().lower())
        return link(match[1] or match[2], anchor) if anchor else match[0]  # a list of lists in some code

    text = LINK.sub(lambda match: link(match[1], match[2]), text)
    return MARK.sub(expand, text)


def outdated(path: Path, terms: dict[str, tuple[str, str]], write: bool) -> bool:
    "Whether a page is not up to date; `write` brings it there."
    notebook = nbformat.read(path, as_version=4)
    glossary = os.path.relpath(GLOSSARY, path.parent)
    changed = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = with_meanings(cell.source, terms, glossary)
            changed |= text != cell.source
            cell.source = text
    if changed and write:
        nbformat.write(notebook, path)
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say which pages are not up to date, and write none")
    check = parser.parse_args().check
    terms = read_terms()
    changed = [path for path in pages() if outdated(path, terms, write=not check)]
    if check and changed:
        names = ", ".join(path.relative_to(ROOT).as_posix() for path in changed)
        print(f"{names}: not what the glossary says: run `python scripts/glossary.py`", file=sys.stderr)
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
