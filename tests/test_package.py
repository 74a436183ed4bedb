"The wheel: what is in it, what it asks for, and that it works where nbdev is not installed."
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SOURCES = ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md")


def run(*command, **options) -> str:
    "Runs a command and returns what it printed; fails with that when the command does."
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    "The wheel, built from a copy of the project that has its other folders too."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(root / name, source)
    for folder in ("mpo_nb", "nbs", "tests", "scripts", "benchmarks"):
        if (root / folder).exists():
            shutil.copytree(root / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "js"))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def contents(wheel) -> dict[str, int]:
    "Bytes of each file in the wheel."
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


@pytest.fixture(scope="module")
def metadata(wheel):
    "The wheel's METADATA, and its entry points under the key `entry_points`."
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(name).decode())
        message["entry_points"] = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    return message


def test_wheel_holds_the_package_and_nothing_else(root, contents):
    outside = [name for name in contents if not name.startswith("mpo_nb/") and ".dist-info/" not in name]
    assert not outside, f"in the wheel, outside mpo_nb: {outside}"
    modules = {f"mpo_nb/{p.name}" for p in (root / "mpo_nb").glob("*.py")}
    assert modules <= contents.keys(), f"not in the wheel: {sorted(modules - contents.keys())}"


def test_wheel_holds_every_asset(root, contents):
    assets = {p.relative_to(root).as_posix() for p in (root / "mpo_nb" / "assets").rglob("*") if p.is_file()}
    assert assets <= contents.keys(), f"not in the wheel: {sorted(assets - contents.keys())}"


def test_wheel_holds_the_tiny_model(contents):
    tiny = {name: size for name, size in contents.items() if name.startswith("mpo_nb/assets/tiny/")}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert f"mpo_nb/assets/tiny/{name}" in tiny
    assert sum(tiny.values()) < 4_000_000, f"the tiny model takes {sum(tiny.values()):,} bytes; the limit is 4,000,000"


def test_wheel_says_that_it_is_typed(contents):
    "PEP 561: without this file a type checker takes every name of an installed package for Any."
    assert "mpo_nb/py.typed" in contents


def test_wheel_holds_sample_traces(contents):
    assert any(name.startswith("mpo_nb/assets/traces/") and name.endswith(".jsonl") for name in contents)


def test_requirements_leave_installed_packages_alone(metadata):
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = [r for r in requirements if "extra" not in str(r.marker)]
    assert not {"nbdev", "fastcore", "execnb"} & {r.name for r in always}
    limits = [str(r) for r in always if any(s.operator not in (">=", "!=") for s in r.specifier)]
    assert not limits, f"an upper limit replaces what a user has: {limits}"
    assert {"dev", "lab", "trl"} <= set(metadata.get_all("Provides-Extra"))


def test_commands_are_declared(metadata):
    assert "mpo-train = mpo_nb.cli:main" in metadata["entry_points"]
    assert "mpo-tour = mpo_nb.cli:tour" in metadata["entry_points"]
    assert metadata["Requires-Python"] == ">=3.10"


EVERYTHING = """
import importlib, pathlib, sys
for name in ("nbdev", "fastcore", "execnb"): sys.modules[name] = None  # importing one of these fails from here on
import mpo_nb
folder = pathlib.Path(mpo_nb.__file__).parent
assert folder.is_relative_to(sys.prefix), f"{folder} is not the installed copy"
for path in folder.glob("*.py"):
    if path.stem != "__init__": importlib.import_module(f"mpo_nb.{path.stem}")
from mpo_nb.tasks import tiny_model_path
from transformers import AutoModelForCausalLM, AutoTokenizer
assert pathlib.Path(tiny_model_path()).is_relative_to(folder)
AutoTokenizer.from_pretrained(tiny_model_path()); AutoModelForCausalLM.from_pretrained(tiny_model_path())
print(mpo_nb.__version__)
"""


@pytest.mark.slow
def test_wheel_works_in_a_new_environment(wheel, root, tmp_path):
    """The new environment holds the wheel; torch and the like come from the running one through a .pth file, which saves
    a download of gigabytes. Such a line adds a folder to the path and reads no .pth file there, so an editable install of
    this checkout stays out of sight."""
    run(sys.executable, "-m", "venv", tmp_path / "new")
    new = tmp_path / "new" / "bin"
    packages = run(new / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "running.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) + "\n")
    run(new / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--force-reinstall", wheel)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    version = run(new / "python", "-c", EVERYTHING, cwd=tmp_path, env=env).strip()
    assert f"version = {version}" in (root / "settings.ini").read_text(encoding="utf-8")
    assert "usage" in run(new / "mpo-train", "--help", cwd=tmp_path, env=env).lower()
