"""The picture that stands beside a link to the site: nbs/images/card.png, 1200 by 630.

    python scripts/card.py     needs Chromium

A window slides over a wrong sum of the tiny model; the picture is the library's own, drawn by its own module."""

from pathlib import Path

from browsers import ARGUMENTS, chromium

ROOT = Path(__file__).resolve().parent.parent
PAGE = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; width: 1200px; height: 630px; background: #fff; color: #1b1f24; font-family: "DejaVu Sans" }
header { padding: 26px 60px 14px; }
h1 { margin: 0; font-size: 58px; line-height: 1.1; }
h1 + p { margin: 8px 0 0; font-size: 29px; line-height: 1.3; }
main { margin: 0 60px; zoom: 1.02; }
.mpo-slides-legend, .mpo-slides-controls, .mpo-slides input, .mpo-slides button { display: none !important; }
footer { position: absolute; bottom: 0; left: 0; right: 0; height: 12px; }
footer { background: linear-gradient(90deg, #0072b2 60%%, #d55e00 60%%); }
</style><header><h1>mpo_nb</h1><p>Block-level policy optimisation of reasoning language models:<br>K consecutive tokens
as one action. A library and a course, in notebooks.</p></header><main>%s</main><footer></footer>"""


def main():
    from playwright.sync_api import sync_playwright

    from mpo_nb.runs import sample_traces
    from mpo_nb.widgets import window_slides

    trace = sample_traces("tiny")[20]
    content = PAGE % window_slides(trace, at=19).html()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport=dict(width=1200, height=630))
        page.set_content(content)
        page.wait_for_timeout(1500)
        file = ROOT / "nbs" / "images" / "card.png"
        page.screenshot(path=file)
        browser.close()
    print(f"wrote {file.relative_to(ROOT)}, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
