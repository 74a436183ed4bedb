"A Chromium for what takes pictures and for the tests."

import os
import shutil
from pathlib import Path

MISSING = "no Chromium on the PATH: install Debian's `chromium`, or name one in MPO_NB_CHROMIUM"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=IsolateSandboxedIframes",  # so that what a sandboxed frame asks for is seen
]


def find_chromium() -> str | None:
    "The path of a Chromium on this machine; MPO_NB_CHROMIUM goes before the usual names."
    names = (os.environ.get("MPO_NB_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def chromium() -> str:
    "The path of a Chromium; ends the program with a sentence where there is none."
    if (path := find_chromium()) is None:
        raise SystemExit(MISSING)
    return path


def plotly_js() -> str:
    "The plotly.js that lies in plotly's package, in place of the one that a frame would fetch."
    import plotly

    return (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
