"""What stands in an environment after mpo_nb was installed there. release_check.py runs this with that environment's
Python; the last line it prints is JSON."""

import importlib
import json
import sysconfig
from importlib import metadata
from pathlib import Path

NEED_TORCH = {"torch", "peft", "accelerate"}  # left out where torch is


def outside(distribution: metadata.Distribution) -> list[str]:
    "The installed files that are neither the package, nor its .dist-info, nor a command that it declares."
    scripts = Path(sysconfig.get_path("scripts")).resolve()
    commands = {scripts / point.name for point in distribution.entry_points if point.group == "console_scripts"}

    def own(file):
        return file.parts[0] == "mpo_nb" or (
            file.parts[0].startswith("mpo_nb-") and file.parts[0].endswith(".dist-info")
        )

    return [str(file) for file in distribution.files if not own(file) and Path(file.locate()).resolve() not in commands]


def missing_commands(distribution: metadata.Distribution) -> list[str]:
    "The declared commands that have no file in the environment's bin folder."
    points = [point.name for point in distribution.entry_points if point.group == "console_scripts"]
    return [name for name in points if not (Path(sysconfig.get_path("scripts")) / name).exists()]


def imports(folder: Path) -> tuple[list[str], dict[str, str]]:
    "The modules that import here, and for each that does not, the package that it misses. Any other error is raised."
    imported = []
    missed = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        try:
            importlib.import_module(name)
            imported.append(name)
        except ModuleNotFoundError as error:
            missed[name] = (error.name or str(error)).partition(".")[0]
    return imported, missed


def main():
    import mpo_nb

    distribution = metadata.distribution("mpo_nb")
    folder = Path(mpo_nb.__file__).parent
    imported, missed = imports(folder)
    print()
    print(
        json.dumps(
            dict(
                folder=str(folder),
                version=mpo_nb.__version__,
                recorded=distribution.version,
                licence=distribution.metadata["License-Expression"],
                outside=outside(distribution),
                missing_commands=missing_commands(distribution),
                imported=imported,
                missed=missed,
            )
        )
    )


if __name__ == "__main__":
    main()
