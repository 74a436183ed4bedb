"""Runs every notebook as nbdev_test does, two at a time, and leaves what each cell shows in the folder that
MPO_NB_EXECUTED names: `site/test_surfaces.py` opens it in JupyterLab."""

import json
import os
import sys
from pathlib import Path

import nbdev.test

ROOT = Path(__file__).resolve().parent.parent


class Recording(nbdev.test.CaptureShell):
    "A shell that keeps the outputs of the notebook that it has run."

    def __init__(self, path: Path, **options):
        super().__init__(path, **options)
        self.notebook = Path(path).relative_to(ROOT / "nbs")

    def run_all(self, nb, **options):
        try:
            super().run_all(nb, **options)
        finally:
            if folder := os.environ.get("MPO_NB_EXECUTED"):
                shown = {cell.idx_: cell.get("outputs", []) for cell in nb.cells if cell.cell_type == "code"}
                file = Path(folder) / self.notebook.with_suffix(".json")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(shown, default=dict))


def files() -> set[Path]:
    "What lies among the notebooks."
    return {path for path in (ROOT / "nbs").rglob("*") if "__pycache__" not in path.parts}


if __name__ == "__main__":
    nbdev.test.CaptureShell = Recording
    before = files()
    nbdev.test.nbdev_test(n_workers=2, timing=True, do_print=True)  # ends the program where a notebook fails
    if left := sorted(str(path.relative_to(ROOT)) for path in files() - before):
        sys.exit(f"Notebooks left files behind: {', '.join(left)}")
