"""The committed measurements hold what the project says of its cost, say how old they are, and the scripts that make
them still run."""

import ast
import csv
import os
import re
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal

import nbformat
import pytest
import records
from browsers import find_chromium
from transformers import AutoModelForCausalLM

from mpo_nb.models.mtp import MTPModules
from mpo_nb.models.tiny import tiny_model_path


def table(root, name: str) -> list[dict]:
    with open(root / "benchmarks" / f"{name}.csv", newline="") as f:
        return list(csv.DictReader(f))


def test_windows_and_blocks_cost_little_more_than_tokens(root):
    rows = {row["case"]: row for row in table(root, "policy_loss")}
    for ratio in ("ratio_to_token", "ratio_of_best"):
        for case in ("window k=32", "block k=4", "block k=32", "sentences"):
            assert float(rows[case][ratio]) < 1.5, case
        for case in ("window k=32, holes", "block k=4, holes", "sentences, holes"):
            assert float(rows[case][ratio]) / float(rows["token, holes"][ratio]) < 1.5, case
        assert float(rows["window k=64"][ratio]) <= 1.2 * float(rows["window k=2"][ratio])
    assert float(rows["plain formula"]["ratio_to_token"]) >= 1, "token level is slower than the formula written out"


def test_an_iteration_is_quicker_than_trl(root):
    rows = {(row["setup"], row["part"]): row for row in table(root, "trainer")}
    assert float(rows["even", "total"]["ratio"]) >= 2
    assert float(rows["tail", "total"]["ratio"]) >= 6
    for row in rows.values():
        assert float(row["mean_length_ours"]) == pytest.approx(float(row["mean_length_trl"]), rel=0.05)


def test_what_an_iteration_saves_is_what_its_responses_share(root):
    "The same numbers to 1e-5; most where responses begin alike, and more than nothing where they share the prompt."
    rows = {(row["setup"], row["case"]): row for row in table(root, "training_profile")}
    assert all(float(row["difference"]) < 1e-5 for row in rows.values())
    all_three = {setup: float(rows[setup, "without all three"]["ratio"]) for setup in ("even", "tail", "apart")}
    assert all_three["even"] > max(all_three["tail"], all_three["apart"]) and min(all_three.values()) > 1
    shares = {s: int(rows[s, "as it is"]["different_tokens"]) / int(rows[s, "as it is"]["tokens"]) for s in all_three}
    assert shares["even"] < shares["tail"] < shares["apart"]


def test_modules_cost_what_the_page_says(root):
    "Parameters are counted again; the rest is read: the backbone form is free, and more modules cost more."
    rows = {
        (row["model"].split(",")[0], row["method"].removeprefix("MPO, "), int(row["k"])): {
            k: float(v) for k, v in row.items() if k not in ("model", "method")
        }
        for row in table(root, "mtp")
    }
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    own = sum(p.numel() for p in model.parameters())
    for (name, method, k), row in rows.items():
        if name != "tiny" or "modules" not in method:
            continue
        head, merge = ("own", "none") if "parallel" in method else ("shared", "eh_proj")
        assert (
            own + sum(p.numel() for p in MTPModules(model, k, head=head, merge=merge).parameters()) == row["parameters"]
        )
    for name in ("tiny", "SmolLM2"):
        free = rows[name, "backbone", 4]
        assert (
            free["parameters_ratio"] == 1
            and abs(free["memory_ratio"] - 1) < 0.02
            and abs(free["iteration_ratio"] - 1) < 0.05
        )
        costs = [rows[name, "chained modules, shared head", k]["iteration_ratio"] for k in (2, 4)]
        assert 1 < costs[0] < costs[1]
    assert rows["SmolLM2", "chained modules, shared head", 4]["memory_ratio"] < 1.2


# The scripts run


def test_every_script_is_known(root):
    scripts = {path.stem for path in (root / "benchmarks").glob("*.py")}
    assert scripts == {*records.BENCHMARKS, "gpu", "records", "run", "page"}  # test_gpu_check tries gpu
    for name in records.BENCHMARKS:
        assert [path for path in records.measured_files(name) if not (root / path).is_file()] == []


def committed() -> dict[str, bytes]:
    "Every table and record, byte for byte."
    tables = [records.table_path(name) for name in records.BENCHMARKS]
    return {str(path): path.read_bytes() for path in [*tables, records.HISTORY, *records.RECORDS.glob("*.json")]}


@pytest.mark.slow
def test_every_script_runs_to_its_end(root, tmp_path):
    "At small size, all in one process; nothing that is committed is touched. About 45 s of processor time."
    names = [name for name in records.BENCHMARKS if name != "widgets" or find_chromium()]
    before = committed()
    environment = os.environ | dict(MPO_NB_BENCH="small", MPO_NB_BENCH_FOLDER=str(tmp_path), PYTHONPATH=str(root))
    done = subprocess.run(
        [sys.executable, root / "benchmarks" / "run.py", "--only", *names],
        cwd=root,
        env=environment | dict(OMP_NUM_THREADS="1", TORCH_COMPILE_DISABLE="1"),  # TRL's compiling takes a minute
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    written = {path.name for path in tmp_path.glob("*.csv")}
    assert written == {records.table_path(name).name for name in names}
    for name in names:  # with the columns of the committed table
        path = tmp_path / records.table_path(name).name
        assert list(records.read_table(path)[0]) == list(records.read_table(records.table_path(name))[0]), name
    for row in records.read_table(tmp_path / "trainer.csv"):  # in `tail` the lengths are forced, alike on both sides
        if row["setup"] == "tail":
            assert float(row["mean_length_ours"]) == float(row["mean_length_trl"]) == 6
    assert committed() == before


# What a measurement is of


def test_a_digest_is_of_what_the_code_does():
    code = 'def f(x):\n    "Twice."\n    return 2 * x  # why\n'
    same = '"A module."\n\n\ndef f(\n    x,\n):\n    "Two times a number."\n    return (2 * x)\n'
    assert records.code_digest(code) == records.code_digest(same)
    for other in (code.replace("2", "3"), code.replace("return", "x ="), code.replace("f(x)", "f(x, y=0)")):
        assert records.code_digest(other) != records.code_digest(code)
    script = "/** Twice. */\nexport const f = (x) => 2 * x;\n"
    assert records.code_digest(script, ".js") == records.code_digest(
        "// Two\nexport const f =\n  (x) => 2 * x;\n", ".js"
    )
    assert records.code_digest(script, ".js") != records.code_digest(script.replace("2", "3"), ".js")


def used_modules(path) -> set[str]:
    "The modules of the package that a script imports, as the records name them."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mpo_nb."):
            module = node.module.removeprefix("mpo_nb.").replace(".", "/")
            folder = (records.ROOT / "mpo_nb" / module).is_dir()
            found.add(f"{module}/__init__" if folder else module)
    return found


@pytest.mark.parametrize("name", list(records.BENCHMARKS))
def test_what_a_script_uses_is_measured_or_said_not_to_be(name, root):
    benchmark = records.BENCHMARKS[name]
    named = {*benchmark.measures.split(), *benchmark.around.split()}
    assert used_modules(root / "benchmarks" / f"{name}.py") - named == set()


@pytest.mark.parametrize("name", list(records.BENCHMARKS))
def test_every_table_has_a_record(name):
    record = records.read_record(name)
    assert record is not None and re.fullmatch(r"[0-9a-f]{7,12}\+?", record.commit)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", record.date) and record.files


def test_the_history_ends_with_what_the_tables_hold():
    history = records.read_table(records.HISTORY)
    last = {row["ratio"]: row for row in history}
    for name in records.BENCHMARKS:
        record = records.read_record(name)
        found = records.ratios_of(name, records.read_table(records.table_path(name)))
        assert len(found) == len(records.BENCHMARKS[name].ratios)
        for row in found:
            told = last[row["ratio"]]
            assert {key: told[key] for key in row} == row and told["commit"] == record.commit, row
    assert [row["date"] for row in history] == sorted(row["date"] for row in history)


def test_a_measurement_leaves_a_record_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(records, "HISTORY", tmp_path / "history.csv")
    records.write_record("policy_loss")
    record = records.read_record("policy_loss")
    assert record.changed("policy_loss") == [] and record.versions["torch"] and record.machine
    ratios = [ratio.name for ratio in records.BENCHMARKS["policy_loss"].ratios]
    assert [row["ratio"] for row in records.read_table(tmp_path / "history.csv")] == ratios
    record.files["mpo_nb/losses.py"] = "another"
    assert record.changed("policy_loss") == ["mpo_nb/losses.py"]


# What the pages say of it


@pytest.fixture(scope="module")
def page(root):
    "What the page of ratios shows, as it is stored."
    cells = nbformat.read(root / "nbs" / "learn" / "benchmarks.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(output["data"].get("text/markdown", "") for output in outputs if "data" in output)


@pytest.mark.parametrize("name", list(records.BENCHMARKS))
def test_no_page_calls_an_old_measurement_new(name, page):
    record = records.read_record(name)
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    remedy = "run python benchmarks/run.py --page, which measures nothing, or make bench"
    assert record.date[:10] in line and f"`{record.commit}`" in line, f"the page has another record of {name}: {remedy}"
    changed = record.changed(name)
    claim = "is the same" in line
    assert claim or "has changed since" in line
    assert not (claim and changed), f"the page calls {name} current, and {changed} changed: {remedy}"


def test_the_page_shows_the_whole_history(page):
    for row in records.read_table(records.HISTORY):
        assert any(
            f"| {row['ratio']} |" in line and f"`{row['commit']}`" in line and f"| {float(row['value']):g}" in line
            for line in page.splitlines()
        ), row


def quoting(root) -> list[tuple[str, str, str]]:
    "Name of a benchmark, page, and text of the page, for every page and file that quotes or reads its table."
    found = []
    for path in [*sorted((root / "nbs").rglob("*.ipynb")), root / "README.md", root / "CONTRIBUTING.md"]:
        if ".ipynb_checkpoints" in path.parts or path.name == "benchmarks.ipynb":
            continue
        code = text = path.read_text(encoding="utf8")
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            code = "\n".join(cell.source for cell in cells)
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for name, benchmark in records.BENCHMARKS.items():
            if not benchmark.study and re.search(rf"benchmarks/{name}\.(csv|py)", code):
                found.append((name, str(path.relative_to(root)), text))
    return found


def test_who_quotes_a_measurement_says_when_it_was_made(root):
    "The day and the commit, and where one sees whether the code has changed."
    quoted = quoting(root)
    assert {name for name, *_ in quoted} >= {"policy_loss", "trainer", "trl_blocks", "mtp", "memory"}
    for name, path, text in quoted:
        record = records.read_record(name)
        assert f"{record.date[:10]}, commit `{record.commit}`" in text, f"{path} does not say how old {name} is"
        assert "benchmarks.ipynb)" in text, f"{path} does not lead to the page of ratios"


def rounded(text: str, digits: int) -> str:
    "A number as one writes it by hand: half is rounded up."
    return str(Decimal(text).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def test_the_ratios_in_prose_are_those_of_the_tables(root):
    "On the page `Which engine`."
    (text,) = {text for _, path, text in quoting(root) if path.endswith("engines.ipynb")}
    loss = {row["case"]: row["ratio_to_token"] for row in table(root, "policy_loss")}
    ours = {row["case"]: rounded(row["ratio"], 2) for row in table(root, "trl_blocks")}
    trl = {row["setup"]: row["ratio"] for row in table(root, "trainer") if row["part"] == "total"}
    assert f"| {rounded(loss['window k=32'], 1)} times the loss's own time |" in text
    assert f"{ours['window k=4']}, {ours['block k=4']} and {ours['sentence']} of TRL's step" in text
    assert f"the noise of {ours['token']} for nothing" in text
    even, tail = rounded(trl["even"], 2), rounded(trl["tail"], 1)
    assert f"| {even} times the responses a second on even lengths, {tail} times where" in text
    alike = {
        row["setup"]: rounded(row["ratio"], 2)
        for row in table(root, "training_profile")
        if row["case"] == "without all three"
    }
    assert f"of these, factors of {alike['even']} and {alike['tail']} come with" in text
