"""Writes the page that shows the history of each ratio, nbs/learn/benchmarks.ipynb: its cells are run, and what they
show is stored."""

import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from records import ROOT

PAGE = ROOT / "nbs" / "learn" / "benchmarks.ipynb"


def write_page() -> Path:
    "Run the page's cells, and put its pictures in."
    notebook = nbformat.read(PAGE, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(PAGE.parent)}}).execute()
    nbformat.write(notebook, PAGE)
    clean = "from nbdev.clean import nbdev_clean; nbdev_clean()"
    subprocess.run([sys.executable, "-c", clean], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "scripts/stills.py", str(PAGE)], cwd=ROOT, check=True)
    return PAGE
