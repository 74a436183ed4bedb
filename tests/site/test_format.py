"""Notebooks, tests, scripts and benchmarks stand as the formatter leaves them: one statement a line, in lines that fit,
each with one thought in it."""

import ast
import io
import re
import subprocess
import sys
import tokenize

import nbformat
import pytest

WIDTH = 120
DENSITY = 10, 12  # syntax nodes per line of code: over the package, and in one module
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LINK = re.compile(r"https?://\S{60,}")
WIDE = "# ruff: noqa: E501"  # in a file of tables, whose rows are compared with each other; its docstring says why


@pytest.mark.parametrize("command", [["format", "--check", "--quiet"], ["check", "--quiet"]], ids=["format", "rules"])
def test_the_formatter_has_nothing_to_do(root, command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"make export formats them:\n{done.stdout}{done.stderr}"


def docstring_lines(tree: ast.Module) -> set[int]:
    "The numbers of the lines that a docstring takes."
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, DOCUMENTED) and node.body]
    strings = [node for node in first if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    return {line for node in strings for line in range(node.lineno, node.end_lineno + 1)}


def measure(text: str) -> tuple[int, int]:
    "(syntax nodes, lines that hold code) of a module: blank lines, comments and docstrings are none."
    tree = ast.parse(text)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in NOT_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return sum(1 for _ in ast.walk(tree)), len(lines - docstring_lines(tree))


def test_nodes_and_lines_are_counted():
    plain = '"What it is."\n\n# why\nx = 1\n\n\ndef f(a):\n    """Twice.\n\n    More.\n    """\n    return 2 * a\n'
    nodes, lines = measure(plain)
    assert lines == 3  # x, def, return
    assert nodes == len(list(ast.walk(ast.parse(plain))))
    packed = "a, b = (x for x in y), [f(z, -1) if z else 0 for z in c]\n"
    spread = "a = (x for x in y)\nb = [\n    f(z, -1) if z else 0\n    for z in c\n]\n"
    assert measure(packed)[1] == 1 and measure(spread)[1] == 5
    assert measure(packed)[0] > DENSITY[1], "one thought too many"


def test_a_line_holds_one_thought(root):
    "Syntax nodes per line, as a measure of how much a reader must take in at once: 9 in nanochat, 9 in fastcore."
    modules = [path for path in (root / "mpo_nb").rglob("*.py") if path.name != "_modidx.py"]
    counts = {path.relative_to(root).as_posix(): measure(path.read_text(encoding="utf-8")) for path in modules}
    dense = {name: round(nodes / lines, 1) for name, (nodes, lines) in counts.items() if nodes > DENSITY[1] * lines}
    nodes, lines = map(sum, zip(*counts.values()))
    assert len(counts) > 70 and nodes / lines <= DENSITY[0]
    assert not dense, f"more than {DENSITY[1]} syntax nodes per line of code: {dense}"


def wide_lines(text: str) -> list[int]:
    "The numbers of the lines that are too wide and hold no long link."
    return [n for n, line in enumerate(text.splitlines(), 1) if len(line) > WIDTH and not LINK.search(line)]


def test_a_wide_line_is_seen_and_a_long_link_is_none():
    link = "https://example.org/" + "a" * WIDTH
    assert wide_lines(f"{'x' * WIDTH}\n{'y' * (WIDTH + 1)}\n# {link}") == [2]


def test_no_line_of_code_is_too_wide(root):
    "In code cells, those with magics too, which the formatter leaves alone; tables say that they are."
    wide = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            cells = nbformat.read(path, as_version=4).cells
            code = [(i, cell.source) for i, cell in enumerate(cells) if cell.cell_type == "code"]
            wide += [f"{path.relative_to(root)} cell {i} line {n}" for i, text in code for n in wide_lines(text)]
    for folder in ("tests", "scripts", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if f"\n{WIDE}\n" not in text:
                wide += [f"{path.relative_to(root)} line {n}" for n in wide_lines(text)]
    assert not wide, f"wider than {WIDTH} columns: {wide}"


def test_a_file_with_wide_tables_holds_nothing_else(root):
    "Its docstring, and assignments of constants."
    files = [path for path in (root / "tests").rglob("*.py") if f"\n{WIDE}\n" in path.read_text(encoding="utf-8")]
    assert root / "tests" / "helpers" / "answer_pairs.py" in files
    for path in files:
        docstring, *tables = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(docstring.value, ast.Constant), f"{path.name} does not say why its lines are wide"
        assert all(isinstance(table, ast.Assign) for table in tables)
        assert not [node for table in tables for node in ast.walk(table) if isinstance(node, ast.Lambda)]
