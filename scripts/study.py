"""Makes a study again from the shell: the code of its notebook, with the switch on.

python scripts/study.py pretrained_seeds
"""

import os
import sys
from pathlib import Path

import nbformat

folder = Path(__file__).resolve().parents[1] / "nbs" / "studies"


def source(
    name: str,  # of a study
) -> str:  # its code, up to the last cell that stands behind the switch
    "Raises ValueError for a study that there is not."
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        raise ValueError(
            f"name={name!r} is no study; choose of {', '.join(sorted(p.stem for p in folder.glob('*.ipynb')))}"
        )
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    makes = [i for i, cell in enumerate(cells) if "\nif make_again:" in f"\n{cell}"]
    code = "\n\n".join(cells[: makes[-1] + 1]) if makes else ""
    return code.replace("make_again = False", "make_again = True", 1)


if __name__ == "__main__":
    name = " ".join(sys.argv[1:])
    try:
        code = source(name)
    except ValueError as error:
        sys.exit(f"study.py: {error}")
    os.chdir(folder)
    exec(compile(code, f"{name}.ipynb", "exec"))
