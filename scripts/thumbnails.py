"""Makes the small pictures of the landing pages from the pages themselves, as they stand in _docs.

    make docs && python scripts/thumbnails.py [name ...]     all by default

Each is the first picture of a page, or the one that is named here, seen in headless Chromium, cut to one shape and made
small."""

import io
import sys
from pathlib import Path

from browsers import ARGUMENTS, chromium
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_docs"
TARGET = ROOT / "nbs" / "images" / "thumbs"
PICTURE = "main .cell-output-display:not(:has(> pre, > table))"
HIDDEN = """#quarto-header, .navbar, .mpo-row, .mpo-controls, .mpo-slides-words, .mpo-summary, .mpo-words, .mpo-detail,
.mpo-map-legend, .mpo-map-words,
main label, main select, main input, main button { display: none !important; }"""  # a small picture has no controls
SIZE = 480, 300  # pixels, twice what the pages show, for sharp screens
COLOURS = 128
PAGES = {  # name -> (page, which of its pictures, from 0)
    "one_action": ("learn/one_action.html", 0),
    "ratios_and_clipping": ("learn/ratios_and_clipping.html", 1),
    "where_advantage_goes": ("learn/where_advantage_goes.html", 0),
    "exact": ("learn/exact.html", 0),
    "train_in_three_minutes": ("learn/train_in_three_minutes.html", 0),
    "loop": ("learn/loop.html", 0),
    "looking_ahead": ("learn/looking_ahead.html", 0),
    "colab_gsm8k": ("learn/colab_gsm8k.html", 0),
    "own_task": ("learn/own_task.html", 0),
    "off_policy": ("studies/off_policy.html", 0),
    "exact_mdp": ("studies/exact_mdp.html", 0),
    "ratio_spread": ("studies/ratio_spread.html", 0),
    "k_and_future": ("studies/k_and_future.html", 0),
    "boundaries": ("studies/boundaries.html", 1),
    "look_ahead": ("studies/look_ahead.html", 0),
    "paper_configuration": ("studies/paper_configuration.html", 0),
    "same_drift": ("studies/same_drift.html", 0),
    "decision_length": ("studies/decision_length.html", 0),
    "gradient_direction": ("studies/gradient_direction.html", 0),
    "pretrained": ("studies/pretrained.html", 0),
    "pretrained_seeds": ("studies/pretrained_seeds.html", 0),
    "tiny_model": ("studies/tiny_model.html", 0),
    "sample_traces": ("studies/sample_traces.html", 0),
    "learned_blocks": ("papers/learned_blocks.html", 0),
    "soft_q_per_token": ("papers/soft_q_per_token.html", 0),
    "ordered_objectives": ("papers/ordered_objectives.html", 0),
    "programs_as_policies": ("papers/programs_as_policies.html", 0),
    "formalise_then_solve": ("papers/formalise_then_solve.html", 0),
    "actor_critic_at_inference": ("papers/actor_critic_at_inference.html", 0),
    "map_of_policies": ("papers/map_of_policies.html", 0),
    "block_explorer": ("lib/widgets/block_explorer.html", 0),
    "credit_explorer": ("lib/widgets/credit_explorer.html", 0),
    "ratio_lab": ("lib/widgets/ratio_lab.html", 0),
    "gradient_lab": ("lib/widgets/gradient_lab.html", 0),
    "rollout_browser": ("lib/widgets/rollout_browser.html", 0),
    "training_monitor": ("lib/widgets/training_monitor.html", 0),
}


def small(picture: Image.Image) -> Image.Image:
    "A picture cut to the shape from its top, and made small; what is too flat stands in the middle of white."
    width, height = picture.size
    kept = picture.crop((0, 0, width, min(height, width * SIZE[1] // SIZE[0])))
    kept = kept.resize((SIZE[0], max(1, kept.height * SIZE[0] // width)), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", SIZE, "white")
    sheet.paste(kept, (0, (SIZE[1] - kept.height) // 2))
    return sheet.quantize(COLOURS, dither=Image.Dither.NONE)


def outermost(page, number: int):
    "A picture of the page that lies in no other one."
    pictures = [p for p in page.query_selector_all(PICTURE) if p.bounding_box() and p.bounding_box()["height"] > 60]
    inside = "(e, s) => !!e.parentElement.closest(s)"
    pictures = [p for p in pictures if not p.evaluate(inside, PICTURE.removeprefix("main "))]
    return pictures[min(number, len(pictures) - 1)]


def main() -> int:
    from playwright.sync_api import sync_playwright

    names = sys.argv[1:] or list(PAGES)
    TARGET.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport=dict(width=1280, height=1000), color_scheme="light")
        for name in names:
            path, number = PAGES[name]
            page.goto((SITE / path).as_uri())
            page.add_style_tag(content=HIDDEN)
            page.wait_for_timeout(1500)  # figures settle
            found = outermost(page, number)
            file = TARGET / f"{name}.png"
            small(Image.open(io.BytesIO(found.screenshot())).convert("RGB")).save(file, optimize=True)
            print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
