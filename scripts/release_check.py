"""Builds the sdist and the wheel into dist/, and tries both as someone would who installs them.

    python scripts/release_check.py                      what `make release-check` runs
    python scripts/release_check.py --full 3.12          Python 3.12 gets everything, CUDA packages included
    python scripts/release_check.py --tag v0.1.0         also: is everything ready for this tag?

The two files: size, contents, licence, metadata, `twine check`. The sources: nothing that the oldest Python lacks
(vermin). Then each Python that the classifiers name and this machine has, found as python3.X on the PATH or under
pyenv, compiles the sources and installs each file into an empty environment of its own:

- The whole check, where the torch that pip chooses there needs no CUDA packages: all requirements, every module
  imported, the commands' help, the README's example with the output it shows, and one training step.
- Elsewhere the part without torch, since the CUDA packages take gigabytes: the requirements less torch, peft and
  accelerate, every module compiled, those that need no torch imported, the commands in their place. The closing lines
  say why.

One Python at least has to get the whole check; --full names those for which CUDA packages may be downloaded. The
wheel's environment resolves and installs the requirements, at the versions of constraints.txt. The sdist's reads the
same packages through a .pth file, after mpo_nb was removed beside them: what it proves is that the sdist builds on this
Python and that what it builds works. That both files ask for the same packages is compared in their metadata. Nothing
is written but dist/ and a temporary folder."""

import argparse
import difflib
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from release_files import ROOT, Failed, build, check_pair, check_tag, copy_sources, file_checks, metadata, run, settings
from release_installed import NEED_TORCH

SOURCES = ("mpo_nb", "scripts", "tests", "benchmarks", "setup.py")
QUIET = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
START = time.time()


def say(text: str):
    "A line of progress."
    print(f"[{time.time() - START:4.0f} s] {text}", flush=True)


class Board:
    "What each check gave: a row by name, a column by check; and the failures, in words."

    def __init__(self):
        self.rows = {}
        self.failures = []

    def attempt(self, row: str, check: str, work, *words) -> bool:
        "Runs one check, notes its word, ok or FAILED, and returns whether it held."
        cells = self.rows.setdefault(row, {})
        try:
            cells[check] = work(*words) or "ok"
        except Failed as error:
            cells[check] = "FAILED"
            self.failures.append(f"{row}, {check}: {error}")
            say(f"{row}, {check}: FAILED")
        return cells[check] != "FAILED"

    def table(self, columns: tuple[str, ...]) -> str:
        "The rows that have one of these checks."
        rows = sorted(row for row, cells in self.rows.items() if set(columns) & cells.keys())
        cells = [["", *columns], *([row, *(self.rows[row].get(column, "-") for column in columns)] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


# Pythons and environments


def find_pythons(minors: list[str]) -> dict[str, str]:
    "The interpreters of this machine, by minor version: python3.X on the PATH, else the newest that pyenv has."
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in minors:
        for path in (
            shutil.which(f"python{minor}"),
            *sorted(map(str, versions.glob(f"{minor}.*/bin/python")), reverse=True),
        ):
            if path and minor not in found and version_of(path) == minor:
                found[minor] = path
    return found


def version_of(path: str) -> str | None:
    """3.X of an interpreter that starts and can make environments; a shim for a version that is not switched on does
    not start."""
    try:
        return run(path, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])").strip()
    except Failed:
        return None


class Environment:
    "An empty virtual environment. It has no pip: that of the running Python installs into it."

    def __init__(self, python: str, folder: Path):
        run(python, "-m", "venv", "--without-pip", folder)
        self.folder = folder
        self.bin = folder / "bin"
        self.python = folder / "bin" / "python"

    def pip(self, *words):
        run(sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "-qq", *words)

    def install(self, *words):
        self.pip("install", "--no-compile", *words)

    def plan(self, folder: Path, *words) -> dict:
        """What pip would install, without what that requires: its report. An index that serves metadata is asked for no
        more."""
        report = folder / "report.json"
        self.pip("install", "--dry-run", "--no-deps", "--only-binary", ":all:", "--report", report, *words)
        return json.loads(report.read_text())

    def site(self) -> str:
        return run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()

    def inspect(self, folder: Path) -> dict:
        "What release_installed.py finds, run from an empty folder."
        return json.loads(
            run(
                self.python, "-I", Path(__file__).with_name("release_installed.py"), cwd=folder, env=QUIET
            ).splitlines()[-1]
        )


def why_without_torch(env: Environment, folder: Path) -> str:
    "Why an environment gets the part without torch; empty where it gets everything."
    try:
        plan = env.plan(folder, "-c", ROOT / "constraints.txt", "torch")
    except Failed as error:
        if "No matching distribution" in str(error):
            return "torch has no build for it"
        raise
    return cuda_packages(plan)


def cuda_packages(plan: dict) -> str:
    "Which CUDA packages the torch of pip's report brings; empty where it brings none."
    torch = plan["install"][0]["metadata"]
    here = plan["environment"] | {"extra": ""}
    needed = [
        r.name for r in map(Requirement, torch.get("requires_dist", [])) if r.marker is None or r.marker.evaluate(here)
    ]
    cuda = [name for name in needed if name.startswith(("nvidia-", "cuda-"))]
    return f"its torch {torch['version']} brings {cuda[0]} and {len(cuda) - 1} more CUDA packages" if cuda else ""


# The checks on one Python


def check_compiles(python: Path | str, *paths: Path):
    "Every module compiles; a warning, such as one of a wrong escape, is an error."
    run(python, "-I", "-W", "error", "-m", "compileall", "-q", "-f", *paths)


def check_oldest(source: Path) -> str:
    "Nothing that the oldest Python lacks, in the language or its library."
    oldest = settings()["min_python"]
    run(
        sys.executable,
        "-c",
        "import vermin; vermin.main()",
        f"-t={oldest}-",
        "--violations",
        "--no-tips",
        *SOURCES,
        cwd=source,
    )
    return f"{oldest} is enough"


def check_constraints(env: Environment, folder: Path, torch: bool):
    "Each line of constraints.txt has a wheel for this Python, or a marker that leaves it out."
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (folder / "constraints.txt").write_text(
        "\n".join(line for line in lines if torch or not line.startswith("torch=="))
    )
    env.plan(folder, "-r", folder / "constraints.txt")


def light_requirements(wheel: Path) -> list[str]:
    "What the wheel requires, less torch and what requires torch."
    return [str(r) for r in metadata(wheel).requires_dist if r.marker is None and r.name not in NEED_TORCH]


def install_wheel(env: Environment, wheel: Path, folder: Path, full: bool) -> str:
    "The wheel and its requirements."
    pinned = ("-c", ROOT / "constraints.txt")
    if full:
        env.install(*pinned, wheel)
        return "all"
    (folder / "no-torch.txt").write_text("torch<0\n")  # should a requirement bring torch after all, pip stops
    env.install(*pinned, "-c", folder / "no-torch.txt", *light_requirements(wheel))
    env.install("--no-deps", wheel)
    return "no torch"


def install_sdist(env: Environment, sdist: Path, beside: Environment, full: bool) -> str:
    "The sdist, beside the requirements that another environment holds."
    beside.pip("uninstall", "-y", "mpo_nb")
    (Path(env.site()) / "requirements.pth").write_text(f"{beside.site()}\n")
    env.install("--no-deps", sdist)
    return "all" if full else "no torch"


def check_place(found: dict, env: Environment):
    "Nothing outside the package was installed, and what is imported is that, in this version."
    if found["outside"]:
        raise Failed(f"installed outside the package: {', '.join(found['outside'])}")
    if not Path(found["folder"]).is_relative_to(env.folder):
        raise Failed(f"what was imported lies in {found['folder']}, not in the new environment")
    if not found["version"] == found["recorded"] == settings()["version"] or found["licence"] != "Apache-2.0":
        raise Failed(
            f"mpo_nb.__version__ {found['version']}, installed as {found['recorded']}, licence {found['licence']}"
        )


def check_imports(found: dict, full: bool) -> str:
    "Every module imports, or misses torch and may."
    wrong = {name: package for name, package in found["missed"].items() if full or package not in NEED_TORCH}
    if wrong or not found["imported"]:
        raise Failed(
            "these do not import: "
            + ", ".join(f"{name} (no {package})" for name, package in (wrong or found["missed"]).items())
        )
    return f"{len(found['imported'])} of {len(found['imported']) + len(found['missed'])}"


def check_commands(env: Environment, found: dict, folder: Path, full: bool) -> str:
    "The commands are there, and where they can start they explain themselves."
    if found["missing_commands"]:
        raise Failed(f"no command {', '.join(found['missing_commands'])}")
    for name, option in (("mpo-train", "--recipe"), ("mpo-tour", "--output")) if full else ():
        text = run(env.bin / name, "--help", cwd=folder, env=QUIET)
        if not text.startswith(f"usage: {name}") or option not in text:
            raise Failed(f"{name} --help prints:\n{text[:500]}")
    return "help" if full else "there"


def examples(readme: str) -> list[tuple[str, str]]:
    "The Python of each section of a README that shows an output, and that output."
    sections = [([], [])]
    for token in MarkdownIt().parse(readme):
        if token.type == "heading_open":
            sections.append(([], []))
        elif token.type == "fence" and token.info.strip() == "python":
            sections[-1][0].append(token.content)
        elif token.type == "code_block":
            sections[-1][1].append(token.content)
    return [("\n".join(code), "".join(shown)) for code, shown in sections if code and shown]


def check_example(python: Path | str, readme: str, folder: Path) -> str:
    "Each section that shows an output, run in an empty folder, prints it."
    found = examples(readme)
    if not found:
        raise Failed("the README has no example that shows its output")
    for code, shown in found:
        printed = run(python, "-I", "-c", code, cwd=folder, env=QUIET)
        expected, got = ([line.rstrip() for line in text.strip("\n").splitlines()] for text in (shown, printed))
        if expected != got:
            raise Failed(
                "the README's example prints something else:\n"
                + "\n".join(difflib.unified_diff(expected, got, "README", "printed", lineterm="", n=0))
            )
    return "same"


def check_training(env: Environment, folder: Path) -> str:
    "One small step of the tiny model leaves a line of metrics and a report."
    words = "--steps 1 --prompts_per_step 2 --group_size 2 --eval_every 0 --no_progress --output run".split()
    run(env.bin / "mpo-train", *words, cwd=folder, env=QUIET)
    left = {path.name for path in (folder / "run").glob("*")}
    if (
        not {"metrics.jsonl", "report.html"} <= left
        or len((folder / "run" / "metrics.jsonl").read_text().splitlines()) != 1
    ):
        raise Failed(f"mpo-train --steps 1 left {', '.join(sorted(left)) or 'nothing'}")
    return "1 step"


def check_installed(board: Board, row: str, env: Environment, folder: Path, full: bool):
    "The checks on one installed file."
    found = {}
    if not board.attempt(row, "starts", lambda: found.update(env.inspect(folder))):
        return
    board.attempt(row, "place", check_place, found, env)
    board.attempt(row, "compiles", check_compiles, env.python, found["folder"])
    board.attempt(row, "imports", check_imports, found, full)
    board.attempt(row, "commands", check_commands, env, found, folder, full)
    if full:
        board.attempt(
            row, "example", check_example, env.python, (ROOT / "README.md").read_text(encoding="utf-8"), folder
        )
        board.attempt(row, "training", check_training, env, folder)


def try_python(
    board: Board, minor: str, python: str, source: Path, files: list[Path], folder: Path, asked: list[str]
) -> str:
    "Both files on one Python, each in an environment of its own. Returns why torch was left out, if it was."
    sdist, wheel = files
    name = f"Python {minor}"
    first, second = (Environment(python, folder / kind) for kind in ("wheel", "sdist"))
    why = why_without_torch(first, folder)
    full = not why or (minor in asked and "no build" not in why)
    board.attempt(name, "sources", check_compiles, first.python, *(source / path for path in SOURCES))
    board.attempt(name, "constraints", check_constraints, first, folder, "no build" not in why)
    for kind, env, install, words in (
        ("wheel", first, install_wheel, (wheel, folder)),
        ("sdist", second, install_sdist, (sdist, first)),
    ):
        row = f"{name}, {kind}"
        empty = folder / f"from-{kind}"
        say(row + ("" if kind == "sdist" else ": with every requirement" if full else f": without torch, as {why}"))
        empty.mkdir()
        if board.attempt(row, "install", install, env, *words, full):
            check_installed(board, row, env, empty, full)
    shutil.rmtree(folder)
    say(f"{name}: done")
    return "" if full else why


def check_everything(board: Board, source: Path, out: Path, work: Path, asked: list[str]) -> list[str]:
    "Every check but that of a tag. Returns what was left out, in words."
    say("building the sdist, and the wheel from it")
    files = build(copy_sources(source), out)
    for file in files:
        for check, look in file_checks.items():
            board.attempt(file.name, check, look, file)
    board.attempt(files[0].name, "as the wheel", check_pair, *files)
    board.attempt("all sources", "oldest Python", check_oldest, source)
    pythons = find_pythons(minors := supported(files[1]))
    say("on this machine: " + ", ".join(f"Python {minor}" for minor in pythons))
    with ThreadPoolExecutor(2) as pool:  # much of it is waiting for downloads
        reasons = dict(
            zip(
                pythons,
                pool.map(
                    lambda minor: try_python(board, minor, pythons[minor], source, files, work / minor, asked), pythons
                ),
            )
        )
    if "" not in reasons.values():
        board.failures.append(
            "no Python got the whole check, with torch: name one with --full, e.g. --full 3.12, to download what its"
            " torch brings"
        )
    return left_out({minor: reasons.get(minor, "no such Python is on this machine") for minor in minors})


def left_out(reasons: dict[str, str]) -> list[str]:
    "What was not tried, and why, in words: one line for each reason."
    light = (
        f"{', '.join(sorted(NEED_TORCH))} and the modules that import them, the commands' help, the README's example,"
        " the training step"
    )
    shared = {why: [minor for minor in reasons if reasons[minor] == why] for why in reasons.values() if why}
    return [
        f"Python {', '.join(minors)}: {why}" + (f". Left out: {light}" if "torch" in why else "")
        for why, minors in shared.items()
    ]


def supported(wheel: Path) -> list[str]:
    "The minor versions of Python that the classifiers name."
    return [
        c.rpartition(" ")[2]
        for c in metadata(wheel).classifiers
        if c.startswith("Programming Language :: Python :: 3.")
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--full",
        nargs="+",
        default=[],
        metavar="3.X",
        help="Pythons that get the whole check even where their torch brings CUDA packages",
    )
    parser.add_argument("--tag", help="also check that version, citation and changelog are ready for this tag")
    options = parser.parse_args()
    board = Board()
    if options.tag:
        board.attempt("the tag", options.tag, check_tag, options.tag)
    out = ROOT / "dist"
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        notes = check_everything(board, Path(folder) / "source", out, Path(folder) / "pythons", options.full)
    for columns in (
        (*file_checks, "as the wheel"),
        ("sources", "constraints", "oldest Python"),
        ("install", "starts", "place", "compiles", "imports", "commands", "example", "training"),
    ):
        print("\n" + board.table(columns))
    print("\n" + "\n".join([f"{text}." for text in notes] + [f"FAILED: {text}" for text in board.failures]))
    say("everything that was tried holds" if not board.failures else f"{len(board.failures)} failed")
    return 1 if board.failures else 0


if __name__ == "__main__":
    sys.exit(main())
