"What is generated from the notebooks is what they give: the modules, the index of symbols, the README, the sidebar."

import ast
import difflib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from mpo_nb.recipes import recipes

REMEDY = "run `make export` and commit what it changes"


def nbdev(command: str, where: Path):
    "Runs an nbdev command in a copy of the project."
    module = {"nbdev_export": "nbdev.doclinks", "nbdev_clean": "nbdev.clean"}[command]
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {command}; {command}()"],
        cwd=where,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def fresh(root, tmp_path_factory) -> Path:
    "A copy of the notebooks, exported and cleaned into an empty package."
    copy = tmp_path_factory.mktemp("fresh")
    shutil.copy(root / "settings.ini", copy)
    shutil.copytree(
        root / "nbs",
        copy / "nbs",
        symlinks=True,
        ignore=shutil.ignore_patterns("js", "__pycache__", ".ipynb_checkpoints"),
    )
    (copy / "mpo_nb").mkdir()
    shutil.copy(root / "mpo_nb" / "__init__.py", copy / "mpo_nb")
    nbdev("nbdev_export", copy)
    nbdev("nbdev_clean", copy)
    return copy


def files(folder: Path, pattern: str) -> dict[str, str]:
    "The text of each file under `folder`, by relative path; hidden and checkpoint folders are left out."
    found = (
        p
        for p in sorted(folder.rglob(pattern))
        if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in found}


def difference(committed: str, generated: str) -> str:
    "The first lines in which two texts differ."
    lines = difflib.unified_diff(
        committed.splitlines(), generated.splitlines(), "committed", "generated", lineterm="", n=0
    )
    return "\n".join(list(lines)[:12])


def compare(committed: dict[str, str], generated: dict[str, str], what: str):
    "Fails with the first differing lines of each file that is not what the notebooks give."
    missing = sorted(generated.keys() - committed.keys())
    extra = sorted(committed.keys() - generated.keys())
    assert not missing, f"{what} missing: {', '.join(missing)}; {REMEDY}"
    assert not extra, f"{what} that no notebook gives: {', '.join(extra)}; delete them, or write them in a notebook"
    changed = {name: difference(committed[name], text) for name, text in generated.items() if committed[name] != text}
    assert not changed, f"{what} out of date; {REMEDY}\n" + "\n".join(
        f"{name}:\n{diff}" for name, diff in changed.items()
    )


def test_modules_are_exported(root, fresh):
    compare(files(root / "mpo_nb", "*.py"), files(fresh / "mpo_nb", "*.py"), "modules")


def test_notebooks_are_clean(root, fresh):
    compare(files(root / "nbs", "*.ipynb"), files(fresh / "nbs", "*.ipynb"), "notebooks")


def test_outputs_that_a_script_fills_have_a_picture(root):
    "For the places where scripts are taken out: JupyterLab before the notebook is trusted, GitHub, a mail."
    command = [sys.executable, "scripts/stills.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_output_without_its_picture_is_noticed(root, tmp_path):
    from mpo_nb.drawing.outputs import live_html

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", {"text/html": live_html("<b>7</b>", "Seven.")})]
    nbformat.write(notebook, tmp_path / "bare.ipynb")
    command = [sys.executable, "scripts/stills.py", "--check", str(tmp_path / "bare.ipynb")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "no still picture" in done.stderr


def test_notebooks_store_no_widgets(root):
    """Neither a progress bar of a run long past nor a live widget: nbdev_clean keeps their state, and a page shows none
    of it."""
    stored = []
    for name, text in files(root / "nbs", "*.ipynb").items():
        notebook = json.loads(text)
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        if "widgets" in notebook["metadata"] or any(
            "application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs
        ):
            stored.append(name)
    assert not stored, (
        f"widget state in {stored}: switch the progress bar off, or delete the output, and save without widget state"
    )


def test_code_is_folded_alike_everywhere(root):
    "What the site folds or leaves out is folded in JupyterLab and in Colab."
    done = subprocess.run([sys.executable, "scripts/fold.py", "--check"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "source, hidden, right",
    [
        ("#| echo: false\n1", True, True),
        ("#| echo: false\n1", False, False),
        ("#| code-fold: true\n1", False, False),
        ("#| hide\n1", False, False),
        ("1", True, False),
        ("1", False, True),
        ("#| echo: true\n1", False, True),
        ("a = '#| echo: false'", False, True),
        ('#| code-summary: "Why"\n#| code-fold: true\n1', True, True),
        ('#| code-fold: true\n#| code-summary: "Why"\n1', True, False),
    ],
)
def test_a_cell_that_is_folded_otherwise_is_noticed(tmp_path, source, hidden, right):
    from fold import outdated

    cell = nbformat.v4.new_code_cell(source)
    if hidden:
        cell.metadata = dict(jupyter=dict(source_hidden=True), cellView="form")
    path = tmp_path / "made.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert outdated(path, write=True) != right and not outdated(path, write=False)


def test_readme_is_the_index_notebook(root):
    done = subprocess.run([sys.executable, "scripts/readme.py", "--check"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def listed(entries: list) -> list[str]:
    "The pages of a sidebar, from top to bottom."
    pages = []
    for entry in entries:
        if isinstance(entry, str):
            pages.append(entry)
        elif "contents" in entry:
            pages += listed(entry["contents"])
        else:
            pages.append(entry["href"])
    return pages


def test_sidebar_lists_every_notebook(root):
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    sidebar = listed(config["website"]["sidebar"]["contents"])
    notebooks = set(files(root / "nbs", "*.ipynb")) | {"reference.qmd"}  # which scripts/docs.py writes
    assert len(sidebar) == len(set(sidebar)), "a page stands in the sidebar of _quarto.yml twice"
    assert not notebooks - set(sidebar), f"not in the sidebar of _quarto.yml: {sorted(notebooks - set(sidebar))}"
    assert not set(sidebar) - notebooks, (
        f"in the sidebar of _quarto.yml, with no notebook: {sorted(set(sidebar) - notebooks)}"
    )


def test_notebook_names_carry_no_numbers(root):
    """Quarto drops a leading number from a page's address and smalldocs does not, so links would hold in one of them
    only."""
    numbered = [name for name in files(root / "nbs", "*.ipynb") if Path(name).name[0].isdigit()]
    assert not numbered, f"rename {numbered}: the order of the pages stands in _quarto.yml"


def test_a_cell_that_imports_does_nothing_else(root):
    """Making a page runs the exported cells and those that import, and no others: whatever else stood in one would lack
    its names."""
    mixed = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or "#| export" in source or "#| eval: false" in source:
                continue
            try:
                tree = ast.parse(source)
            except SyntaxError:  # magics, which nbdev does not run
                continue
            imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body]
            if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)) and not all(imports):
                mixed.append(f"{path.relative_to(root)} cell {i}: {source[:60]!r}")
    assert not mixed, "imports beside other code; give them a cell of their own:\n" + "\n".join(mixed)


def test_readme_names_every_recipe(root):
    rows = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| `")]
    names = [line.split("`")[1] for line in rows]
    assert [name for name in names if name in recipes] == list(recipes)


def test_notebooks_store_no_warnings(root):
    "What a library wrote to stderr on the machine where a page was made, its paths included, is nobody else's concern."
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                assert output.get("name") != "stderr", f"{path.name}: {''.join(output['text'])[:200]}"
                assert "site-packages" not in json.dumps(output), path.name


def test_the_method_index_has_every_recipe(root):
    cells = [
        "".join(cell["source"]) for cell in json.loads((root / "nbs" / "learn" / "methods.ipynb").read_text())["cells"]
    ]
    assert {name for name in recipes if f'#| echo: false\nvalues("{name}")' in cells} == set(recipes)


def test_title_and_subtitle_stand_alone(root):
    "nbdev leaves out of a page whatever else the first cell holds."
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if path == root / "nbs" / "index.ipynb":
            continue
        title, *subtitle = [
            line for line in "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines() if line.strip()
        ]
        assert (
            title.startswith("# ") and "_" not in title and title[2:3].isupper() or title == "# vLLM as the sampler"
        ), f"{path.name}: {title}"
        assert len(subtitle) == 1 and subtitle[0].startswith("> "), (
            f"{path.name}: more than a title and a `>` subtitle: {subtitle}"
        )
