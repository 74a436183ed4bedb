"Reads settings.ini, the one place for names, versions and requirements. Needs setuptools only: no nbdev, no fastcore."

import re
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
LOCAL_LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?![a-z]+:|#)([^)]+)")
repository = cfg["git_url"]
branch = cfg["branch"]


def absolute(match: re.Match) -> str:
    "A link of the README as one that holds outside the repository, where a package index shows it."
    return f"{match[1]}{match[2]}{repository}/{'raw' if match[1] else 'blob'}/{branch}/{match[3]}"


extras = {name: shlex.split(cfg[f"{name}_requirements"]) for name in ("dev", "lab", "trl", "gguf", "gym", "papers")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=LOCAL_LINK.sub(absolute, (root / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=repository,
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
        "Source": repository,
        "Changelog": f"{repository}/blob/{branch}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    },
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    ],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["assets/**/*", "py.typed"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=extras,
    entry_points={
        "console_scripts": shlex.split(cfg["console_scripts"]),
        # verl imports this wherever it is imported itself, driver and Ray workers: installing is registering.
        "verl.plugins": [f"{cfg['lib_name']} = {cfg['lib_name']}.verl"],
        # nbdev reads this, where it is installed, to link symbols in notebooks to their pages.
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
