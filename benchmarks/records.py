"""What every benchmark shares: its size, where its table goes, and the record of what was measured, when and with what.

A table of a benchmark is a plain CSV, which `pandas.read_csv` reads as it stands. Beside it, in records/, lies a JSON
file of the same name: the commit, the date, the versions, the machine, and a digest of each source file that the
benchmark measures. A digest is of a syntax tree without docstrings, so that a formatter or a better comment changes
nothing, and a changed line of code does. Where a digest is another one now, the measurement is old, and the page
nbs/learn/benchmarks.ipynb says so. A full measurement adds its ratios to history.csv.

MPO_NB_BENCH=small shrinks every benchmark until only its code is tried: its table goes into a new temporary folder, or
into the one that MPO_NB_BENCH_FOLDER names, and no record is written.
"""

import ast
import csv
import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
RECORDS = FOLDER / "records"
HISTORY = FOLDER / "history.csv"
PACKAGES = ("torch", "transformers", "peft", "trl", "plotly", "ipywidgets", "playwright")
LOSS = "actions blocks losses"
STEP = (
    f"{LOSS} advantages recipes config models/prefixes models/logprobs sampling/decoding sampling/draws"
    " sampling/rollouts sampling/sampler tasks/prompts tasks/task runtime/budgets training/batch training/judging"
    " training/learner training/metrics training/policy training/recorder training/scores training/setup"
    " training/trainer"
)
HOLES = ("sentences", "window k=32, holes", "block k=4, holes", "sentences, holes")
DRAWN = (
    "runs/traces drawing/style drawing/strip drawing/outputs widgets/controls widgets/explorer widgets/page"
    " widgets/panel widgets/responses"
)


@dataclass(frozen=True)
class Ratio:
    "A number of a table that is followed over time: TRL's time divided by ours, say."

    name: str
    column: str
    where: dict[str, str]  # column -> value: the row that holds it
    low: str = ""  # column of the lower end of its range, where it has one
    high: str = ""
    over: str = ""  # column that it is divided by, where the table does not hold the ratio itself

    def read(self, row: dict[str, Any]) -> dict[str, str]:
        "Name, value and range in a row of the table."
        value = str(row[self.column])
        if self.over:
            value = f"{float(value) / float(row[self.over]):.3f}"
        return {
            "ratio": self.name,
            "value": value,
            "low": str(row.get(self.low, "")),
            "high": str(row.get(self.high, "")),
        }


@dataclass(frozen=True)
class Benchmark:
    "A script, the files that it measures, and where its table is."

    measures: str  # modules of mpo_nb, or files under its assets, with spaces between
    around: str = ""  # modules that the script uses and does not measure
    table: str = ""  # from the root; "" for the script's own name beside it
    ratios: tuple[Ratio, ...] = ()
    study: bool = False  # trains what a study's page shows; not a matter of time or memory


BENCHMARKS = {
    "policy_loss": Benchmark(
        LOSS,
        ratios=tuple(
            Ratio(f"loss: {case} / token", "ratio_to_token", {"case": case}, "ratio_q25", "ratio_q75")
            for case in ("plain formula", "window k=4", "window k=32", "block k=32", "sequence", *HOLES)
        ),
    ),
    "trainer": Benchmark(
        STEP,
        "models/tiny tasks/sums",
        ratios=tuple(
            Ratio(
                f"iteration: TRL / ours, {setup}", "ratio", {"setup": setup, "part": "total"}, "ratio_q25", "ratio_q75"
            )
            for setup in ("even", "tail")
        ),
    ),
    "training_profile": Benchmark(
        STEP,
        "models/tiny tasks/sums tasks/task",
        ratios=tuple(
            Ratio(
                f"iteration: without its savings / with them, {setup}",
                "ratio",
                {"setup": setup, "case": "without all three"},
                "ratio_q25",
                "ratio_q75",
            )
            for setup in ("even", "tail", "apart")
        ),
    ),
    "compiling": Benchmark(STEP, "cli models/tiny"),
    "trl_blocks": Benchmark(
        f"{LOSS} trl",
        "models/tiny tasks/task",
        ratios=tuple(
            Ratio(f"TRL's step: {case} / TRL alone", "ratio", {"case": case})
            for case in ("token", "window k=4", "block k=4", "sentence")
        ),
    ),
    "mtp": Benchmark(
        f"{STEP} models/mtp models/heads",
        ratios=tuple(
            Ratio(
                f"iteration: {method.split(', ')[1]} K={k} / GRPO, {model.split(',')[0]}",
                "iteration_ratio",
                {"model": model, "method": method, "k": k},
                "iteration_low",
                "iteration_high",
            )
            for model in ("tiny, 0.86M", "SmolLM2, 135M")
            for method, k in (("MPO, backbone", "4"), ("MPO, chained modules, shared head", "4"))
        ),
    ),
    "speculation": Benchmark(
        f"{STEP} models/mtp models/heads sampling/speculating sampling/verifying",
        "models/tiny tasks/sums training/warming",
        ratios=tuple(
            Ratio(
                f"iteration: {case} K=4 / GRPO, {model.split(',')[0]}",
                "value",
                {"model": model, "part": "iteration", "at": case},
                "low",
                "high",
            )
            for model in ("tiny, 0.86M", "SmolLM2, 135M")
            for case in ("MPO, off", "MPO, on")
        ),
    ),
    "memory": Benchmark(
        f"{STEP} models/heads planning/ledger planning/rehearsal planning/phases planning/plan",
        "models/loading models/tiny",
        ratios=tuple(
            Ratio(f"memory: planned / measured, {case}", "planned_mib", {"case": case}, over="measured_mib")
            for case in ("Llama 85M, full", "Llama 36M, eager attention")
        ),
    ),
    "run_widgets": Benchmark(
        f"{DRAWN} runs/folder runs/live runs/ratios widgets/training_monitor widgets/rollout_browser widgets/ratio_lab",
        "widgets/__init__",
    ),
    "widgets": Benchmark(
        f"{DRAWN} widgets/block_explorer widgets/credit_explorer widgets/live_view widgets/views web/live_view.js"
        " web/block_view.js web/credit_view.js web/credit_numbers.js web/lanes.js web/method.js web/tokens.js",
        "widgets/__init__",
    ),
    "scale": Benchmark(
        f"{STEP} runs/folder runs/reading runs/trace_files runs/traces runtime/files runtime/processes"
        " widgets/rollout_browser",
        "evaluation/intervals models/tiny sampling/__init__ widgets/__init__",
        ratios=tuple(
            Ratio(
                f"exponent: {what} / {curve}",
                "value",
                {"curve": curve, "part": part, "measure": measure, "kind": "exponent"},
                "low",
                "high",
            )
            for what, curve, part, measure in (
                ("time of an iteration", "responses", "iteration", "seconds"),
                ("time of an iteration", "length", "iteration", "seconds"),
                ("time of log-probabilities", "vocabulary", "update: log-probabilities", "seconds"),
            )
        ),
    ),
    "rewards": Benchmark(
        "tasks/answers tasks/equality sandbox/runner sandbox/walls sandbox/sides sandbox/protocol sandbox/tests"
        " sandbox/values sandbox/checkers",
        "tasks/__init__ sandbox/__init__",
    ),
    "failures": Benchmark(
        STEP,
        "runtime/placement tasks/sums tasks/__init__ models/__init__ training/__init__",
        study=True,
        table="nbs/studies/failures.csv",
    ),
    "same_drift": Benchmark(
        STEP,
        "tasks/__init__ models/__init__ training/__init__",
        study=True,
        table="nbs/studies/same_drift.csv",
    ),
}


# Small and full size


def small() -> bool:
    "Whether only the code of the benchmarks is to be tried."
    return os.environ.get("MPO_NB_BENCH") == "small"


def size(full: Any, least: Any) -> Any:
    "A number at full size, or the one at which only the code is tried."
    return least if small() else full


def table_path(name: str) -> Path:
    "Where the committed table of a benchmark is."
    return ROOT / (BENCHMARKS[name].table or f"benchmarks/{name}.csv")


def output_path(name: str) -> Path:
    "Where a run writes its table: the committed one, or at small size one in a new temporary folder."
    if small():
        folder = os.environ.get("MPO_NB_BENCH_FOLDER") or tempfile.mkdtemp(prefix="mpo_nb-bench-")
        return Path(folder) / table_path(name).name
    return table_path(name)


# What was measured


def plain_tree(node: Any) -> Any:
    "A syntax tree as nested lists, without docstrings, places and fields that are empty."
    if isinstance(node, list):
        return [plain_tree(child) for child in node]
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__} {node!r}"
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list):
        fields["body"] = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    kept = [[name, plain_tree(value)] for name, value in fields.items() if value not in (None, []) and name != "kind"]
    return [type(node).__name__, *kept]


@cache
def code_digest(
    source: str,  # of a file
    suffix: str = ".py",  # of its name
) -> str:  # 16 hexadecimal digits
    "A digest of what a file does: other spaces, comments and docstrings leave it as it is."
    if suffix == ".py":
        plain = json.dumps(plain_tree(ast.parse(source)))
    else:  # a script of the browser: comments that have a line of their own, and spaces
        lines = re.sub(r"(?ms)^\s*/\*.*?\*/", "", source).splitlines()
        plain = "".join("".join(line.split()) for line in lines if not line.strip().startswith("//"))
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def measured_files(name: str) -> list[str]:
    "The files that a benchmark measures, and its own script, from the root."
    found = [f"benchmarks/{name}.py"]
    for module in BENCHMARKS[name].measures.split():
        found.append(f"mpo_nb/assets/{module}" if "." in module else f"mpo_nb/{module}.py")
    return sorted(found)


def digests(name: str, read=lambda path: (ROOT / path).read_text(encoding="utf8")) -> dict[str, str]:
    "The digest of each file that a benchmark measures; one that is not there has none."
    found = {}
    for path in measured_files(name):
        try:
            found[path] = code_digest(read(path), Path(path).suffix)
        except FileNotFoundError:
            pass
    return found


@dataclass
class Record:
    "How a table was made. A field that was not written down at the time is empty."

    commit: str  # ends in + where measured files differed from it
    date: str  # UTC, to the minute
    files: dict[str, str]  # measured file -> digest
    versions: dict[str, str] = field(default_factory=dict)  # of Python and packages
    machine: str = ""
    load: str = ""  # programs that wanted a core: the mean of the last minute, when the run ended

    def changed(self, name: str) -> list[str]:
        "Measured files that are other ones now."
        now = digests(name)
        return [path for path in sorted({*now, *self.files}) if now.get(path) != self.files.get(path)]


def read_record(name: str) -> Record | None:
    "The record of a benchmark's table; None where it was never measured."
    path = RECORDS / f"{name}.json"
    return Record(**json.loads(path.read_text(encoding="utf8"))) if path.exists() else None


def git(*arguments: str) -> str:
    "What git says, or an empty text where there is no repository."
    try:
        asked = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip()


def versions() -> dict[str, str]:
    "Python and the packages that are here."
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def processor() -> str:
    "The processor's name and the number of cores."
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.machine()}, {os.cpu_count()} cores"


def new_record(name: str) -> Record:
    "The record of a table that was measured just now."
    changed = git("status", "--porcelain", "--", *measured_files(name))
    commit = git("rev-parse", "--short=8", "HEAD")
    return Record(
        commit + ("+" if commit and changed else ""),
        datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        digests(name),
        versions(),
        processor(),
        f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
    )


# Writing


def read_table(path: Path) -> list[dict[str, str]]:
    "The rows of a CSV file; none where it is not there."
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def ratios_of(name: str, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    "The ratios that a table holds, as rows of the history without date and commit."
    return [
        ratio.read(row)
        for ratio in BENCHMARKS[name].ratios
        for row in rows
        if all(str(row.get(column)) == value for column, value in ratio.where.items())
    ]


HISTORY_COLUMNS = ("date", "commit", "ratio", "value", "low", "high", "machine", "load")


def write_record(name: str) -> None:
    "Write down how a benchmark's committed table was made just now, and add its ratios to the history."
    record = new_record(name)
    RECORDS.mkdir(exist_ok=True)
    text = json.dumps(asdict(record), indent=2, ensure_ascii=False)
    (RECORDS / f"{name}.json").write_text(text + "\n", encoding="utf8")
    told = {"date": record.date, "commit": record.commit, "machine": record.machine, "load": record.load}
    fresh = not HISTORY.exists()
    with HISTORY.open("a", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(told | row for row in ratios_of(name, read_table(table_path(name))))


def write_table(name: str, path: Path, rows: list[dict[str, Any]], measured: bool = True) -> None:
    "Write a table; where it is the committed one, and was measured just now, its record and its history too."
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if measured and path.resolve() == table_path(name):
        write_record(name)
    print(f"wrote {path}")
