"""Takes the README's pictures of a page, in headless Chromium: nbs/images/credit.png and tour.png.

python scripts/pictures.py               the credit explorer
python scripts/pictures.py runs/tour     also the report that `make tour` has written there
"""

import io
import sys
import tempfile
from pathlib import Path

from browsers import ARGUMENTS, chromium
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "nbs" / "images"
SHARPNESS = 1.5  # pixels of the picture for each of the page's


def save(png: bytes, name: str):
    "A picture, made small."
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(IMAGES / name, "png", optimize=True)
    print(f"wrote nbs/images/{name}, {(IMAGES / name).stat().st_size:,} bytes")


def credit_page(folder: Path) -> Path:
    "The credit explorer, at a wrong solution of the packaged word problems."
    from mpo_nb.runs import sample_traces
    from mpo_nb.widgets import CreditExplorer

    return CreditExplorer(sample_traces("word_problems")[1], moved=3.0).to_html(folder / "credit.html")


def credit_png(page, path: Path) -> bytes:
    page.goto(path.as_uri())
    page.wait_for_selector(".mpo-lanes li")
    page.wait_for_timeout(1000)
    return page.locator("body").screenshot()


def stretch(page, above: str, below: str) -> Image.Image:
    "What stands on a page from one heading to another."
    top, foot = (page.locator("h2", has_text=text).bounding_box()["y"] for text in (above, below))
    clip = dict(x=0, y=top - 12, width=page.viewport_size["width"], height=foot - top)
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))


def report_png(page, path: Path) -> bytes:
    "The report's curves, and below them a response with the credit of its tokens."
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.wait_for_timeout(1500)
    parts = [stretch(page, "Learning curves", "One problem"), stretch(page, "One response", "Ratios, and")]
    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
    whole.paste(parts[0], (0, 0))
    whole.paste(parts[1], (0, parts[0].height))
    file = io.BytesIO()
    whole.save(file, "png")
    return file.getvalue()


def main():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p, tempfile.TemporaryDirectory() as folder:
        browser = p.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport=dict(width=1000, height=900), device_scale_factor=SHARPNESS)
        save(credit_png(page, credit_page(Path(folder))), "credit.png")
        for run in map(Path, sys.argv[1:]):
            page.set_viewport_size(dict(width=1180, height=900))
            save(report_png(page, (run / "report.html").resolve()), "tour.png")
        browser.close()


if __name__ == "__main__":
    main()
