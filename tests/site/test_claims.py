"The page of claims: its tables and its picture hold what the studies' files hold, and every study is on it."

import ast
import shutil

import nbformat
import pytest

PAGE = "nbs/studies/index.ipynb"


@pytest.fixture(scope="module")
def page(root):
    return nbformat.read(root / PAGE, as_version=4)


def values(page, folder, monkeypatch) -> dict[int, object]:
    "cell -> what its last line is worth, for the cells that show something; run in a folder."
    monkeypatch.chdir(folder)
    names, shown = {}, {}
    for i, cell in enumerate(page.cells):
        if cell.cell_type != "code":
            continue
        body = ast.parse(cell.source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"cell {i}", "exec"), names)
        if last is not None:
            shown[i] = eval(compile(ast.Expression(last.value), f"cell {i}", "eval"), names)
    return shown


def texts(shown: dict) -> dict[int, str]:
    "The tables among the values."
    return {i: value.data for i, value in shown.items() if hasattr(value, "_repr_markdown_")}


def test_what_is_stored_is_what_the_files_say(root, page, monkeypatch):
    shown = values(page, root / "nbs" / "studies", monkeypatch)
    tables = texts(shown)
    assert len(tables) >= 3 and len(shown) > len(tables)
    for i, text in tables.items():
        assert page.cells[i].outputs[0].data["text/markdown"] == text, f"cell {i}: run the page again"
    for i in set(shown) - set(tables):
        stored = page.cells[i].outputs[0].data["application/vnd.plotly.v1+json"]["data"]
        drawn = shown[i].figure.to_plotly_json()["data"]
        assert [list(line["x"]) for line in stored] == [list(line["x"]) for line in drawn], "run the page again"


def test_another_number_in_a_file_is_another_sentence(root, page, monkeypatch, tmp_path):
    folder = tmp_path / "nbs" / "studies"
    folder.mkdir(parents=True)
    shutil.copytree(root / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("*.py"))
    for path in (root / "nbs" / "studies").glob("*.csv"):
        shutil.copy(path, folder)
    before = texts(values(page, folder, monkeypatch))
    lines = (folder / "off_policy_stale.csv").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('"window, 20% future",16,0.0001,0'))
    lines[at] = lines[at].replace(lines[at].split(",")[5], "0.001")
    (folder / "off_policy_stale.csv").write_text("\n".join(lines) + "\n")
    after = texts(values(page, folder, monkeypatch))
    assert after.keys() == before.keys() and after != before


def test_every_study_is_led_to(root, page):
    text = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    studies = {path.name for path in (root / "nbs" / "studies").glob("*.ipynb")} - {"index.ipynb"}
    assert [name for name in sorted(studies) if f"]({name})" not in text] == []
