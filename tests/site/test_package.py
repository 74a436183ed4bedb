"""The sdist and the wheel: what is in them, what they ask for, that they work where nbdev is not installed, and that
the checks of a release fail when they should."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from check_jsonschema.cli import main as check_jsonschema
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "settings.ini",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "NOTICE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
)
sys.path.insert(0, str(ROOT / "scripts"))
import release_check  # noqa: E402
import release_files  # noqa: E402
from release_files import Failed  # noqa: E402

sys.path.remove(str(ROOT / "scripts"))


def run(*command, **options) -> str:
    "Runs a command and returns what it printed; fails with that when the command does."
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> list[Path]:
    "The sdist, and the wheel from it, built from a copy of the project that has its other folders too."
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copy(root / name, source)
    for folder in ("mpo_nb", "nbs", "tests", "scripts", "benchmarks"):
        shutil.copytree(
            root / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "js")
        )
    return release_files.build(source, out, "--no-isolation")


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return built[1]


@pytest.fixture(scope="module")
def contents(wheel) -> dict[str, int]:
    "Bytes of each file in the wheel."
    return {name: len(data) for name, data in release_files.contents(wheel).items()}


@pytest.fixture(scope="module")
def metadata(wheel):
    "The wheel's METADATA, and its entry points under the key `entry_points`."
    message = Parser().parsestr(release_files.raw_metadata(wheel).decode())
    message["entry_points"] = next(
        data for name, data in release_files.contents(wheel).items() if name.endswith("entry_points.txt")
    ).decode()
    return message


@pytest.mark.parametrize("check", release_files.file_checks)
def test_both_files_pass_the_checks_of_a_release(built, check):
    for file in built:
        release_files.file_checks[check](file)


def test_sdist_and_wheel_ask_for_the_same(built):
    release_files.check_pair(*built)


def rewritten(file: Path, to: Path, change=lambda name, data: data, extra: dict[str, bytes] = {}) -> Path:
    "A copy of an sdist or a wheel, each file as `change` gives it (None: left out), with more files."
    files = {name: change(name, data) for name, data in release_files.contents(file).items()} | extra
    files = {name: data for name, data in files.items() if data is not None}
    copy = to / file.name
    if file.suffix == ".whl":
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return copy
    root = to / file.name.removesuffix(".tar.gz")
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    with tarfile.open(copy, "w:gz") as archive:
        archive.add(root, root.name)
    return copy


def in_metadata(old: str, new: str):
    "A change of one text in METADATA or PKG-INFO."
    return lambda name, data: (
        data.replace(old.encode(), new.encode()) if name.endswith(("METADATA", "PKG-INFO")) else data
    )


BAD = {
    "a module beside the package": ("contents", dict(extra={"stray.py": b""}), "stray.py"),
    "the tests": ("contents", dict(extra={"tests/test_actions.py": b""}), "tests/test_actions.py"),
    "bytecode": (
        "contents",
        dict(extra={"mpo_nb/__pycache__/actions.cpython-311.pyc": b""}),
        "actions.cpython-311.pyc",
    ),
    "a module missing": (
        "contents",
        dict(change=lambda name, data: None if name == "mpo_nb/losses.py" else data),
        "lacks mpo_nb/losses.py",
    ),
    "no licence": ("licence", dict(change=lambda name, data: None if name.endswith("LICENSE") else data), "LICENSE"),
    "no notice of the work of others": (
        "licence",
        dict(change=lambda name, data: None if name.endswith("NOTICE") else data),
        "NOTICE",
    ),
    "another licence": (
        "licence",
        dict(change=lambda name, data: data + b"!" if name.endswith("LICENSE") else data),
        "LICENSE",
    ),
    "no licence expression": (
        "licence",
        dict(change=in_metadata("License-Expression: Apache-2.0\n", "")),
        "License-Expression None",
    ),
    "too large": (
        "size",
        dict(extra={"mpo_nb/assets/noise": os.urandom(release_files.LARGEST)}),
        "the limit is 8,000,000",
    ),
    "another version": ("metadata", dict(change=in_metadata("\nVersion: ", "\nVersion: 9")), "says version 9"),
    "a requirement that cannot be": (
        "metadata",
        dict(change=in_metadata("Requires-Dist: torch>=", "Requires-Dist: torch=>")),
        "not valid",
    ),
    "a link into the repository": (
        "metadata",
        dict(change=in_metadata("(https://github.com/", "(")),
        "hold in the repository only",
    ),
    "no description": (
        "twine",
        dict(
            change=lambda name, data: (
                data.partition(b"\n\n")[0] + b"\n" if name.endswith(("METADATA", "PKG-INFO")) else data
            )
        ),
        "twine",
    ),
}


@pytest.mark.parametrize("kind", (".tar.gz", ".whl"))
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_fails_its_check(what, kind, built, tmp_path):
    check, change, told = BAD[what]
    bad = rewritten(next(file for file in built if file.name.endswith(kind)), tmp_path, **change)
    with pytest.raises(Failed, match=told.replace("(", "[(]")):
        release_files.file_checks[check](bad)


def test_files_that_differ_in_their_requirements_fail(built, tmp_path):
    with pytest.raises(Failed, match="differs"):
        release_files.check_pair(built[0], rewritten(built[1], tmp_path, in_metadata("torch>=2.4", "torch>=2.5")))


def test_what_is_installed_outside_the_package_is_found(wheel, tmp_path):
    "A real environment, without the requirements: what needs them is missed, which is not the point here."
    record = next(name for name in release_files.contents(wheel) if name.endswith("RECORD"))
    bad = rewritten(
        wheel, tmp_path, lambda name, data: data + b"stray.py,,\n" if name == record else data, {"stray.py": b""}
    )
    env = release_check.Environment(sys.executable, tmp_path / "env")
    env.install("--no-deps", "--no-index", bad)
    found = env.inspect(tmp_path)
    assert found["outside"] == ["stray.py"] and not found["missing_commands"] and found["version"] == found["recorded"]
    with pytest.raises(Failed, match="stray.py"):
        release_check.check_place(found, env)
    release_check.check_place(found | {"outside": []}, env)
    (env.bin / "mpo-train").unlink()
    with pytest.raises(Failed, match="no command mpo-train"):
        release_check.check_commands(env, env.inspect(tmp_path), tmp_path, full=False)


def test_modules_may_miss_torch_and_nothing_else():
    found = dict(imported=["tasks"], missed=dict(losses="torch", models="peft"))
    assert release_check.check_imports(found, full=False) == "1 of 3"
    with pytest.raises(Failed, match="losses .no torch"):
        release_check.check_imports(found, full=True)
    with pytest.raises(Failed, match="memory .no psutil"):
        release_check.check_imports(found | {"missed": {"memory": "psutil"}}, full=False)


README = (
    "# One\n```python\nx = 6\n```\ntext\n```python\nprint(x * 7)\nprint(' y ')\n```\n\n    {0}\n     y\n\n#"
    " Two\n```python\n1 / 0\n```\n\n# Three\n\n    no output of Python\n"
)


def test_an_example_whose_output_differs_fails(root, tmp_path):
    assert release_check.check_example(sys.executable, README.format(42), tmp_path) == "same"
    with pytest.raises(Failed, match="-41\n[+]42"):
        release_check.check_example(sys.executable, README.format(41), tmp_path)
    with pytest.raises(Failed, match="ZeroDivisionError"):
        release_check.check_example(sys.executable, README.replace("x = 6", "1 / 0"), tmp_path)
    with pytest.raises(Failed, match="no example"):
        release_check.check_example(sys.executable, "# One\n```python\nprint(1)\n```\n", tmp_path)
    ((code, shown),) = release_check.examples((root / "README.md").read_text(encoding="utf-8"))
    assert "policy_loss(" in code and shown.startswith("TokenActions\n  ratio ")


def plan(*requires: str) -> dict:
    "A report of pip on torch."
    here = dict(platform_system="Linux", python_version="3.12", platform_machine="x86_64", sys_platform="linux")
    return dict(install=[dict(metadata=dict(version="2.13.0", requires_dist=list(requires)))], environment=here)


def test_cuda_packages_decide_what_a_python_gets():
    assert not release_check.cuda_packages(
        plan("sympy>=1.13", 'nvidia-nccl-cu13==2.29; platform_system == "Windows"', 'cuda-bindings; extra == "x"')
    )
    told = release_check.cuda_packages(
        plan("sympy", 'cuda-toolkit[cublas]==13.0.3; platform_system == "Linux"', "nvidia-nccl-cu13")
    )
    assert told == "its torch 2.13.0 brings cuda-toolkit and 1 more CUDA packages"
    lines = release_check.left_out(
        {"3.10": told, "3.11": "", "3.12": told, "3.13": "no such Python is on this machine"}
    )
    assert lines[0].startswith(f"Python 3.10, 3.12: {told}. Left out: accelerate, ") and lines[1:] == [
        "Python 3.13: no such Python is on this machine"
    ]


def test_pythons_of_this_machine_are_found():
    minor = "%d.%d" % sys.version_info[:2]
    assert release_check.find_pythons(["3.99"]) == {}
    assert all(release_check.version_of(path) == minor for minor, path in release_check.find_pythons([minor]).items())


@pytest.mark.parametrize("text", ("def f(:\n", "a = '\\d'\n"))
def test_a_module_that_does_not_compile_fails(text, tmp_path):
    (tmp_path / "fine.py").write_text("a = r'\\d'\n")
    release_check.check_compiles(sys.executable, tmp_path)
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(Failed, match="wrong.py"):
        release_check.check_compiles(sys.executable, tmp_path)


def test_nothing_needs_a_python_newer_than_the_oldest(root, tmp_path):
    assert release_check.check_oldest(root) == "3.10 is enough"
    for name in release_check.SOURCES:
        (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).touch()
    (tmp_path / "mpo_nb" / "new.py").write_text("import tomllib\n")
    with pytest.raises(Failed, match="3.11"):
        release_check.check_oldest(tmp_path)


def test_a_tag_needs_its_version_everywhere(root, tmp_path):
    with pytest.raises(Failed, match="settings.ini, CITATION.cff, CHANGELOG.md"):
        release_files.check_tag("v9.8.7", root)
    for name, text in (
        ("settings.ini", "version = 9.8.7\n"),
        ("CITATION.cff", "version: 9.8.7\n"),
        ("CHANGELOG.md", "# Changelog\n\n## [9.8.7] - 2031-02-03\n"),
    ):
        (tmp_path / name).write_text(text)
    release_files.check_tag("v9.8.7", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]: 9.8.7\n")
    with pytest.raises(Failed, match="tag v9.8.7: CHANGELOG.md should"):
        release_files.check_tag("v9.8.7", tmp_path)


def test_the_board_keeps_what_failed():
    board = release_check.Board()

    def fails():
        raise Failed("it broke")

    assert (
        board.attempt("a", "one", lambda: None)
        and board.attempt("a", "two", lambda: "3 MB")
        and not board.attempt("b", "one", fails)
    )
    assert board.failures == ["b, one: it broke"]
    assert board.table(("one", "two")).splitlines() == ["   one     two", "a  ok      3 MB", "b  FAILED  -"]


SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "custom.github-workflows-require-timeout": ".github/workflows/*.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.citation-file-format": "CITATION.cff",
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_forms_follow_their_schemas(schema, root):
    files = sorted(root.glob(SCHEMAS[schema]))
    assert files
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, files)])
    assert done.exit_code == 0, done.output


def test_workflows_run_the_pythons_of_the_classifiers(root, wheel):
    matrix = yaml.safe_load((root / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]["strategy"][
        "matrix"
    ]["python"]
    steps = yaml.safe_load((root / ".github" / "workflows" / "release.yml").read_text())["jobs"]["build"]["steps"]
    released = next(step["with"]["python-version"].split() for step in steps if "setup-python" in step.get("uses", ""))
    assert matrix == sorted(released, key=lambda minor: int(minor[2:])) == release_check.supported(wheel)


def test_versions_agree(root):
    release = release_files.settings()["version"]
    assert f'__version__ = "{release}"' in (root / "mpo_nb" / "__init__.py").read_text()
    assert yaml.safe_load((root / "CITATION.cff").read_text())["version"] == release
    newest = next(line for line in (root / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert release in newest or newest == "## [Unreleased]"


def test_every_import_at_the_top_of_a_module_is_required(root):
    "What comes in with another package today may not tomorrow."
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini", encoding="utf-8")
    required = {canonicalize_name(Requirement(text).name) for text in config["DEFAULT"]["requirements"].split()}
    providers = packages_distributions()
    for path in (root / "mpo_nb").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"mpo_nb"}:
                assert {canonicalize_name(name) for name in providers.get(top, [top])} & required, (
                    f"{path.relative_to(root)} imports {top}; name what provides it in settings.ini's requirements"
                )


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
modules = [".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("*.py")]
assert len(modules) > 50, modules
for name in modules: importlib.import_module(name.removesuffix(".__init__"))
from mpo_nb.models.tiny import tiny_model_path
from transformers import AutoModelForCausalLM, AutoTokenizer
assert pathlib.Path(tiny_model_path()).is_relative_to(folder)
AutoTokenizer.from_pretrained(tiny_model_path()); AutoModelForCausalLM.from_pretrained(tiny_model_path())
print(mpo_nb.__version__)
"""


@pytest.mark.slow
def test_wheel_works_in_a_new_environment(wheel, root, tmp_path):
    """The new environment holds the wheel; torch and the like come from the running one through a .pth file, which
    saves a download of gigabytes. Such a line adds a folder to the path and reads no .pth file there, so an editable
    install of this checkout stays out of sight."""
    run(sys.executable, "-m", "venv", tmp_path / "new")
    new = tmp_path / "new" / "bin"
    packages = run(new / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "running.pth").write_text(
        "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) + "\n"
    )
    run(new / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--force-reinstall", wheel)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    version = run(new / "python", "-c", EVERYTHING, cwd=tmp_path, env=env).strip()
    assert f"version = {version}" in (root / "settings.ini").read_text(encoding="utf-8")
    assert "usage" in run(new / "mpo-train", "--help", cwd=tmp_path, env=env).lower()
