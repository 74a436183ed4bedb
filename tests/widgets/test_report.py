"""The report: a page that opens offline, shows what a response says without running it, works by keyboard, and says
what a run lacks."""

import json
import os
from pathlib import Path

import pytest

from mpo_nb.drawing.report import report_figures, report_html, runs_table, training_sentences, write_report
from mpo_nb.runs.reading import made_up_run, read_runs
from mpo_nb.runs.traces import Trace

NASTY = "<script>window.hit=1</script><img src=x onerror='window.hit=2'> </script><b>\u202e 思考"


def nasty_run(path: Path) -> Path:
    "A run whose every free text would like to be markup."
    made_up_run(path, "grpo", seed=1)
    config = json.loads((path / "config.json").read_text()) | {"task": NASTY, "model": NASTY}
    (path / "config.json").write_text(json.dumps(config))
    lines = [
        Trace.from_text(
            NASTY * 3, NASTY, advantage=a, seed=int(a), answer=NASTY, correct=a > 0, step=1, reward=a, moved=0.4
        ).to_dict()
        for a in (-1.0, 1.0)
    ]
    (path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines) + '{"tokens": ["half')
    return path


def without(path: Path, *keys: str) -> Path:
    "A run whose metrics lack some keys."
    file = path / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if not k.startswith(keys)}) + "\n" for row in rows)
    )
    return path


def visible(page: str) -> str:
    "The page without plotly.js."
    start = page.index("<script>")
    return (page[:start] + page[page.index('<script type="application/json"') :]).replace("\u2060", "")


def test_two_runs(tmp_path):
    runs = {"token level": made_up_run(tmp_path / "a", "grpo"), "windows": made_up_run(tmp_path / "b", "mpo", seed=1)}
    page = visible(write_report(runs, tmp_path / "deep" / "report.html").read_text())
    assert "What is missing" not in page and page.count('class="panel"') == 6 and page.count('class="mpo-strip"') == 12
    assert "35% (27–43) → 65% (57–73)" in page and "do not rank" in page and "averaging by itself accounts for" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert list(report_figures(runs)) == ["accuracy", "reward", "clip_fraction", "ratios"]
    assert not list(tmp_path.glob("deep/.writing*"))


def test_one_run_is_compared_with_the_token_level(tmp_path):
    page = visible(report_html(made_up_run(tmp_path / "mpo")))
    assert "token level: an action is a token" in page and page.count('class="mpo-strip"') == 12 and "rank" not in page
    page = visible(report_html([made_up_run(tmp_path / "grpo", "grpo")]))
    assert page.count('class="mpo-strip"') == 6 and "no second action space" in page


REPORTED = ["grpo", "dr_grpo", "dapo", "gspo", "gspo_token", "gmpo", "cispo", "lpo", "tepo", "fipo", "sapo_segment"]


@pytest.mark.parametrize("name", REPORTED)
def test_every_recipe_has_a_report(tmp_path, name):
    page = visible(report_html([made_up_run(tmp_path / name, name, steps=2, planned=2)]))
    assert 'class="mpo-strip"' in page and "What is missing" not in page


def test_what_is_missing_is_said(tmp_path):
    silent = without(made_up_run(tmp_path / "silent"), "accuracy")
    (silent / "traces.jsonl").unlink()
    stopped = made_up_run(tmp_path / "stopped", steps=2, planned=30)
    with open(stopped / "metrics.jsonl", "a") as f:
        f.write('{"step": 3, "rew')
    (tmp_path / "empty").mkdir()
    page = visible(report_html([silent, stopped, tmp_path / "empty"]))
    for sentence in (
        "was not evaluated",
        "recorded no responses",
        "stands at step 2 of 30",
        "has no config.json",
        "has not taken a step",
    ):
        assert sentence in page
    alone = visible(report_html(tmp_path / "empty"))
    assert "Training report: empty" in alone and "no curves" in alone and "none to draw" in alone


def test_odd_responses(tmp_path):
    "No tokens, one token, no advantage, unknown numbers: skipped or drawn, never an error."
    run = made_up_run(tmp_path / "odd")
    odd = [
        Trace([], advantage=1.0),
        Trace(["a"], logps=[-1.0], old_logps=[-1.5], advantage=-1.0),
        Trace(["a", "b"], advantage=1.0),
        Trace(["a"], logps=[-1.0], advantage=0.0),
    ]
    (run / "traces.jsonl").write_text("".join(json.dumps(t.to_dict()) + "\n" for t in odd))
    assert visible(report_html(run)).count('class="panel"') == 1


def test_responses_that_are_all_masked(tmp_path):
    "As where every response was cut off: there is no ratio to draw, and the rest of the page stands."
    run = made_up_run(tmp_path / "masked")
    cut = Trace(["a", "b"], logps=[-1.0, -2.0], old_logps=[-1.1, -2.2], advantage=1.0, mask=[0, 0])
    (run / "traces.jsonl").write_text(json.dumps(cut.to_dict()) + "\n")
    page = visible(report_html(run))
    assert "No log-ratios were recorded" in page and "Learning curves" in page and "ratios" not in report_figures(run)


def test_wrong_runs(tmp_path):
    for wrong, error, message in (
        ([], ValueError, "empty"),
        ([tmp_path / "x"], FileNotFoundError, "no folder"),
        (["a/mpo", "b/mpo"], ValueError, "same name"),
    ):
        with pytest.raises(error, match=message):
            report_html(wrong)


def test_markup_in_a_run_is_text(tmp_path):
    page = visible(report_html({NASTY: nasty_run(tmp_path / "nasty")}))
    assert "<script>window" not in page and "<img" not in page and "<b>\u202e" not in page and "&lt;script&gt;" in page


@pytest.fixture
def opened(browser):
    "Opens a page offline, and collects what it asks for, says, and breaks on."
    contexts = []

    def open_page(path, **options):
        context = browser.new_context(offline=True, **options)
        page = context.new_page()
        page.trouble = []
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or page.trouble.append(r.url))
        page.on("console", lambda m: m.type in ("error", "warning") and page.trouble.append(m.text))
        page.on("pageerror", lambda e: page.trouble.append(str(e)))
        page.goto(Path(path).as_uri())
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 4")
        contexts.append(context)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.browser
def test_page_opens_offline_and_by_keyboard(tmp_path, opened):
    path = write_report(
        [made_up_run(tmp_path / "grpo", "grpo"), made_up_run(tmp_path / "mpo", seed=1)], tmp_path / "report.html"
    )
    page = opened(path)
    assert page.locator(".panel:visible").count() == 1 and page.locator("#response-0").is_visible()
    page.locator("input[name=response]").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#response-1").is_visible() and not page.locator("#response-0").is_visible()
    page.keyboard.press("Tab")
    focused = "document.activeElement.dataset.token"
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "1"
    info = page.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert "token 2" in info and "ratio" in info and "credit" in info
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "0", "one Tab leaves a strip, whatever its length"
    assert page.trouble == []


@pytest.mark.browser
def test_markup_is_not_executed(tmp_path, opened):
    page = opened(
        write_report({NASTY: nasty_run(tmp_path / "a"), "mpo": made_up_run(tmp_path / "mpo")}, tmp_path / "report.html")
    )
    assert page.evaluate("window.hit") is None and page.trouble == []
    shown = page.locator(".panel:visible .mpo-tokens").first.inner_text()
    assert "script" in shown and "U+202E" in shown


@pytest.mark.browser
def test_page_fits_every_width_and_theme(tmp_path, opened):
    """No sideways scrolling, text that contrasts with its background; screenshots where MPO_NB_SCREENSHOTS names a
    folder."""
    page = opened(
        write_report(
            [made_up_run(tmp_path / "grpo", "grpo"), made_up_run(tmp_path / "mpo", seed=1)], tmp_path / "report.html"
        )
    )
    for width, scheme in ((1400, "light"), (1400, "dark"), (420, "dark"), (420, "light")):
        page.set_viewport_size(dict(width=width, height=900))
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(p =>"
            " p.querySelector('.main-svg').getBoundingClientRect().width <= p.clientWidth + 1)"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
            f"{width} px scrolls sideways"
        )
        colours = page.evaluate(
            "[document.body, document.querySelector('.plot .xtick text')].map(e => getComputedStyle(e)).flatMap((s, i)"
            " => i ? [s.fill] : [s.color, s.backgroundColor])"
        )
        text, background, tick = (sum(map(int, c[c.index("(") + 1 : -1].split(",")[:3])) / 765 for c in colours)
        assert abs(text - background) > 0.7 and abs(tick - background) > 0.7, f"{scheme}: {colours}"
        if folder := os.environ.get("MPO_NB_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)


def test_pass_at_k_stands_beside_the_accuracies_where_a_run_recorded_it(tmp_path):
    folders = {name: made_up_run(tmp_path / name, name, seed=0) for name in ("one", "eight")}
    file = folders["eight"] / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows):
        if "accuracy_sampled" in row:
            row |= dict(pass_at_8=0.9 - 0.01 * i, pass_at_8_low=0.8, pass_at_8_high=0.95)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = read_runs(folders)
    last = 100 * (0.9 - 0.01 * (len(rows) - 1))
    table = runs_table(runs)
    assert table.count("Pass@8, held out") == 1 and f"90% (80\u2060–\u206095) → {last:.0f}% (80" in table
    assert f"One of 8 samples solved 90% of the problems before, and {last:.0f}% after." in training_sentences(runs)[1]
    assert "of 8 samples" not in training_sentences(runs)[0] and "Pass@" not in runs_table(runs[:1])
