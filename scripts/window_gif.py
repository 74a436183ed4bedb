"""Records the window that slides as a small animated picture for the README.

    python scripts/window_gif.py [nbs/images/window.gif]

The real view plays in headless Chromium, on a packaged response that goes wrong, under a clock that the script moves;
so the same code gives the same picture. It begins shortly before the wrong step and stays with the last window.
"""

import argparse
import io
from pathlib import Path

from browsers import ARGUMENTS, chromium
from PIL import Image, ImageChops

from mpo_nb.runs import sample_traces
from mpo_nb.widgets import window_slides

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 860  # pixels, as wide as a README
TICK = 80  # milliseconds between two frames
COLOURS = 64
FIRST = 11  # the window that stands still at first
HOLD = 1600  # milliseconds of the first picture
END = 3500  # milliseconds of the last one
LIMIT = 400_000  # bytes

PAGE = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 10px 14px; background: #fff; color: #1c2024; }
.mpo-row, .mpo-slides-words { display: none !important; }
</style><body>"""


def record(page) -> tuple[list[Image.Image], list[int]]:
    "The frames of one play, each once, and for how many milliseconds each is shown."
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    picture = window_slides(sample_traces("tiny")[20], at=FIRST)
    page.set_content(PAGE + picture.html())
    page.wait_for_selector(".mpo-slides svg rect")
    page.clock.run_for(50)
    frames = [shot(page)]
    shown = [HOLD]
    page.evaluate("document.querySelector('.mpo-slides-play').click()")
    while page.inner_text(".mpo-slides-play") == "Pause":
        page.clock.run_for(TICK)
        frame = shot(page)
        if ImageChops.difference(frame, frames[-1]).getbbox():
            frames.append(frame)
            shown.append(TICK)
        else:
            shown[-1] += TICK
    shown[-1] += END
    return frames, shown


def shot(page) -> Image.Image:
    "The view as it is now."
    return Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")


def write(frames: list[Image.Image], shown: list[int], path: Path) -> None:
    "One animation with one palette, so that a frame holds only what has changed."
    busiest = max(frames, key=lambda frame: len(frame.getcolors(1 << 24)))
    sheet = Image.new("RGB", (busiest.width, busiest.height * 2))
    sheet.paste(busiest, (0, 0))
    sheet.paste(frames[-1], (0, busiest.height))
    palette = sheet.quantize(COLOURS, dither=Image.Dither.NONE)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=shown, loop=0, optimize=True, disposal=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=Path, default=ROOT / "nbs" / "images" / "window.gif")
    path = parser.parse_args().path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport=dict(width=WIDTH, height=300), color_scheme="light")
        frames, shown = record(page)
        browser.close()
    write(frames, shown, path)
    size = path.stat().st_size
    print(f"{path}: {len(frames)} frames, {sum(shown) / 1000:.1f} s, {size:,} bytes")
    return int(size > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
