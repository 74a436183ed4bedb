"Run All in a study draws what is committed. It trains nothing and overwrites nothing, until one switch is turned."

import ast
import subprocess
import sys

import nbformat
import pytest

SWITCH = "make_again = False  # True: make the study again, and overwrite its files"
STUDIES = (
    "boundaries",
    "k_and_future",
    "look_ahead",
    "off_policy",
    "paper_configuration",
    "pretrained",
    "ratio_spread",
    "sample_traces",
    "tiny_model",
)
TRAINS = {"sweep", "fit", "train", "backward", "step"}  # calls that train
WRITES = {"to_csv", "write_whole", "writerows", "writerow", "save", "write_text", "save_pretrained"}
# Runs the code cells of the studies named. Whatever trains, or opens a file of the project to write, ends it.
GUARDED = """
import os, sys
from pathlib import Path
import nbformat, torch
from IPython.core.interactiveshell import InteractiveShell
import mpo_nb.training.sweeps, mpo_nb.training.trainer

root = Path.cwd()

def end(why):
    os.write(2, why.encode())
    os._exit(3)

def refuse(*_, **__):
    end("something was trained")

def watch(event, args):
    if event != "open" or not isinstance(args[0], (str, bytes)) or not args[2] & (os.O_WRONLY | os.O_RDWR):
        return
    path = Path(os.path.abspath(os.fsdecode(args[0])))
    if path.is_relative_to(root) and not path.is_relative_to(root / "runs") and "__pycache__" not in path.parts:
        end(f"{path} was opened to write")

torch.Tensor.backward = torch.optim.Optimizer.step = refuse
mpo_nb.training.sweeps.sweep = mpo_nb.training.trainer.Trainer.fit = refuse
sys.addaudithook(watch)
os.chdir(root / "nbs" / "studies")
for name in sys.argv[1:]:
    shell = InteractiveShell()
    for i, cell in enumerate(nbformat.read(f"{name}.ipynb", 4).cells):
        if cell.cell_type == "code" and not shell.run_cell(cell.source).success:
            raise SystemExit(f"{name} cell {i} failed")
"""


@pytest.fixture(scope="module")
def studies(root) -> dict:
    "The studies by name."
    found = {p.stem: nbformat.read(p, as_version=4) for p in sorted((root / "nbs" / "studies").glob("*.ipynb"))}
    return {name: notebook for name, notebook in found.items() if "index" not in name}


def code(notebook) -> list[str]:
    "The sources of the code cells."
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def called(tree: ast.AST) -> set[str]:
    "The names of what a piece of code calls, by their last part."
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {getattr(function, "attr", getattr(function, "id", "")) for function in calls}


def test_every_study_is_known(studies):
    assert tuple(studies) == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_one_switch_at_the_top(studies, name):
    "The first code cell, the same everywhere, with a sentence above it that says what turning it costs."
    notebook = studies[name]
    assert code(notebook)[0] == SWITCH
    at = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    text = notebook.cells[at - 1].source
    assert "Run All draws what is committed" in text and "`make_again`" in text
    assert not [source for source in code(notebook) if "#| slow" in source], "the switch takes the flag's place"


@pytest.mark.parametrize("name", STUDIES)
def test_what_makes_a_study_stands_behind_the_switch(studies, name):
    kept, free = set(), set()  # what is called behind the switch, and what always
    for source in code(studies[name]):
        for node in ast.parse(source).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "make_again":
                kept |= called(node)
            elif not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                free |= called(node)
    assert kept & TRAINS and kept & WRITES, f"nothing that trains, or writes, stands behind the switch: {kept}"
    assert not free & (TRAINS | WRITES), "this is called with the switch off"


@pytest.mark.slow
def test_run_all_trains_nothing_and_overwrites_nothing(root):
    done = subprocess.run([sys.executable, "-c", GUARDED, *STUDIES], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]


@pytest.mark.parametrize(
    "line", ["open('off_policy.csv', 'a').close()", "from mpo_nb.training import sweep\nsweep({})"], ids=["file", "run"]
)
def test_the_guard_notices(root, tmp_path, line):
    "A file that is opened to write, and a run that is begun."
    (tmp_path / "nbs" / "studies").mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(line)])
    nbformat.write(notebook, tmp_path / "nbs" / "studies" / "made.ipynb")
    done = subprocess.run([sys.executable, "-c", GUARDED, "made"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3 and ("opened to write" in done.stderr or "something was trained" in done.stderr)
