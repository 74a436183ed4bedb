"""Checks of the two files of a release, the sdist and the wheel, that need no other environment."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

from markdown_it import MarkdownIt
from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 8_000_000  # bytes, of either file
IN_SDIST = {
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "NOTICE",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "settings.ini",
    "setup.cfg",
    "setup.py",
    "mpo_nb",
    "mpo_nb.egg-info",
}


class Failed(Exception):
    "A check that did not hold, in words."


def run(*command, **options) -> str:
    "Runs a command, with no module path of ours, and returns its output. Raises Failed with the end of it."
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")} | options.pop(
        "env", {}
    )
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, **options)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise Failed(f"{' '.join(map(str, command))[:300]} ended with {done.returncode}:\n{end}")
    return done.stdout


def settings() -> dict[str, str]:
    "settings.ini."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def copy_sources(to: Path) -> Path:
    "The files that git knows, as they are now: no build of an earlier day, no run, no notebook's checkpoint."
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name, follow_symlinks=False)
    return to


def build(source: Path, out: Path, *options: str) -> list[Path]:
    "The sdist, and the wheel that is built from it."
    run(sys.executable, "-m", "build", *options, "--outdir", out, source)
    return [next(out.glob("*.tar.gz")), next(out.glob("*.whl"))]


def contents(file: Path) -> dict[str, bytes]:
    "Every file in an sdist, less its top folder, or in a wheel."
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(file) as archive:
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}


def raw_metadata(file: Path) -> bytes:
    "METADATA of a wheel, PKG-INFO of an sdist."
    return next(
        text for name, text in contents(file).items() if name == "PKG-INFO" or name.endswith(".dist-info/METADATA")
    )


def metadata(file: Path, validate: bool = False) -> Metadata:
    "The same, read. Raises Failed for a field that cannot be, where asked to look."
    try:
        return Metadata.from_email(raw_metadata(file), validate=validate)
    except Exception as error:  # a group of them: Python's own from 3.11 on, before that one of packaging's
        raise Failed(
            f"{file.name}: its metadata is not valid: {'; '.join(map(str, getattr(error, 'exceptions', [error])))}"
        ) from error


def check_size(file: Path) -> str:
    "Under 8 MB."
    if file.stat().st_size >= LARGEST:
        raise Failed(f"{file.name} has {file.stat().st_size:,} bytes; the limit is {LARGEST:,}")
    return f"{file.stat().st_size / 1e6:.1f} MB"


def check_contents(file: Path):
    """In a wheel the package and its .dist-info; in an sdist those files and folders of the root that MANIFEST.in
    names. Every module."""
    names = contents(file).keys()
    if file.suffix == ".whl":
        stray = [
            name for name in names if not name.startswith("mpo_nb/") and not re.match(r"mpo_nb-[^/]+\.dist-info/", name)
        ]
    else:
        stray = [name for name in names if name.split("/")[0] not in IN_SDIST]
    stray += [name for name in names if name.endswith(".pyc")]
    if stray:
        raise Failed(f"{file.name} has what does not belong there: {', '.join(stray[:10])}")
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mpo_nb").rglob("*.py")}
    if modules - names:
        raise Failed(f"{file.name} lacks {', '.join(sorted(modules - names))}")


def check_licence(file: Path):
    "The texts of LICENSE and NOTICE, named in the metadata, and the licence's expression there."
    held = metadata(file)
    if held.license_expression != "Apache-2.0":
        raise Failed(
            f"{file.name}: its metadata has License-Expression {held.license_expression}; it should be Apache-2.0"
        )
    for own in ("LICENSE", "NOTICE"):
        texts = [
            text for name, text in contents(file).items() if name == own or name.endswith(f".dist-info/licenses/{own}")
        ]
        if texts != [(ROOT / own).read_bytes()] or own not in (held.license_files or []):
            raise Failed(f"{file.name} does not hold the text of {own}, or its metadata does not name it")


def check_metadata(file: Path):
    "Valid, of the version in settings.ini, with a description whose links hold where a package index shows it."
    held = metadata(file, validate=True)
    if str(held.version) != settings()["version"]:
        raise Failed(f"{file.name} says version {held.version}, settings.ini {settings()['version']}")
    relative = [link for link in links(held.description) if not re.match(r"[a-z]+:|#", link)]
    if relative:
        raise Failed(
            f"{file.name}: its description has links that hold in the repository only: {', '.join(relative[:5])}"
        )


def links(markdown: str) -> list[str]:
    "Where the links and images of a text lead."
    inline = [
        token for block in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown) for token in block.children or []
    ]
    return [
        token.attrs.get("href") or token.attrs.get("src") for token in inline if token.type in ("link_open", "image")
    ]


def check_twine(file: Path):
    "What a package index would refuse."
    run(sys.executable, "-m", "twine", "check", "--strict", file)


def check_pair(sdist: Path, wheel: Path):
    "The metadata of the two are one text."
    if raw_metadata(sdist) != raw_metadata(wheel):
        raise Failed("the sdist's metadata differs from the wheel's")


def check_tag(tag: str, root: Path = ROOT):
    "The version in settings.ini, of the citation and of an entry of the changelog is that of the tag."
    version = re.escape(tag.removeprefix("v"))
    forms = {
        "settings.ini": rf"^version = {version}$",
        "CITATION.cff": rf"^version: {version}$",
        "CHANGELOG.md": rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$",
    }
    wrong = [
        name
        for name, form in forms.items()
        if not re.search(form, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    if wrong:
        raise Failed(
            f"not ready for the tag {tag}: {', '.join(wrong)} should carry this version, the changelog as `## [X.Y.Z] -"
            " YYYY-MM-DD`"
        )


file_checks = dict(
    size=check_size, contents=check_contents, licence=check_licence, metadata=check_metadata, twine=check_twine
)
