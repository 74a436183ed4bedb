"""Folds in JupyterLab and Colab the code that the site folds or leaves out, so that a page reads alike everywhere.

    python scripts/fold.py           write it into the notebooks
    python scripts/fold.py --check   exit 1 when a notebook is not up to date

A cell says so itself, for the site: `#| code-fold: true`, `#| echo: false` or `#| hide`. A click unfolds it. JupyterLab
shows the first line of what is folded, so a summary, `#| code-summary: "..."`, comes first."""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDED = re.compile(r"^#\|\s*(code-fold:\s*true|echo:\s*false|include:\s*false|hide)\s*$", re.MULTILINE)


def folded(cell: dict) -> dict:  # metadata
    "A code cell's metadata, with what folds it or without."
    metadata = {name: value for name, value in cell["metadata"].items() if name != "cellView"}
    lab = {name: value for name, value in metadata.pop("jupyter", {}).items() if name != "source_hidden"}
    if FOLDED.search("".join(cell["source"])):
        lab["source_hidden"] = True  # JupyterLab
        metadata["cellView"] = "form"  # Colab
    return metadata | ({"jupyter": lab} if lab else {})


def summary_first(lines: list[str]) -> list[str]:
    "A cell's lines, its directives with the summary first."
    end = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    if end == len(lines):  # the last line has no end of line of its own
        return lines
    return sorted(lines[:end], key=lambda line: not line.startswith("#| code-summary:")) + lines[end:]


def outdated(path: Path, write: bool) -> bool:
    """Whether a cell of a notebook is folded where it should not be, or the other way round, or shows a line that says
    nothing; mended where asked."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    wrong = False
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            right = dict(metadata=folded(cell), source=summary_first(cell["source"]))
            wrong = wrong or any(cell[name] != value for name, value in right.items())
            cell.update(right)
    if wrong and write:
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)  # as nbdev writes it
        path.write_text(text + "\n", encoding="utf-8")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say which notebooks are not up to date, and write none")
    check = parser.parse_args().check
    pages = [path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    changed = [path for path in pages if outdated(path, write=not check)]
    if check and changed:
        names = ", ".join(path.relative_to(ROOT).as_posix() for path in changed)
        print(f"{names}: folded otherwise than on the site: run `python scripts/fold.py`", file=sys.stderr)
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
