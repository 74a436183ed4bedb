"""Makes a study again from the shell: the code of its notebook, with the switch on.

python scripts/study.py pretrained_seeds
"""

import os
import sys
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

NOTEBOOKS = Path(__file__).resolve().parents[1] / "nbs"
OFF, ON = "make_again = False", "make_again = True"


def studies() -> dict[str, Path]:
    "The notebooks that have the switch, by name."
    paths = [path for folder in ("studies", "papers", "learn") for path in sorted((NOTEBOOKS / folder).glob("*.ipynb"))]
    return {path.stem: path for path in paths if OFF in path.read_text(encoding="utf-8")}


def source(
    name: str,  # of a notebook with the switch
) -> str:  # Python, up to the last cell that stands behind the switch
    "Raises ValueError for a study that there is not."
    known = studies()
    if name not in known:
        raise ValueError(f"name={name!r} is no study; choose of {', '.join(sorted(known))}")
    cells = [cell.source for cell in nbformat.read(known[name], 4).cells if cell.cell_type == "code"]
    last = max(i for i, cell in enumerate(cells) if "\nif make_again" in f"\n{cell}")
    python = [TransformerManager().transform_cell(cell) for cell in cells[: last + 1]]  # lines with ! and % too
    return "\n".join(python).replace(OFF, ON, 1)


if __name__ == "__main__":
    name = " ".join(sys.argv[1:])
    try:
        code = source(name)
    except ValueError as error:
        sys.exit(f"study.py: {error}")
    os.chdir(studies()[name].parent)
    exec(compile(code, f"{name}.ipynb", "exec"), {"__name__": "__main__", "get_ipython": InteractiveShell.instance})
