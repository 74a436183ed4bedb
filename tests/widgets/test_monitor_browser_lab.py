"""The training monitor, the rollout browser and the ratio lab: what they show is what the files and the library say,
live and as pages."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch
from lab import lab_server, run_notebook, watched, write_notebook
from machine import slowness

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, WindowActions
from mpo_nb.drawing.assets import joined_script
from mpo_nb.drawing.style import series_colour
from mpo_nb.drawing.tables import choose_responses, rollouts_table, snippet_html, step_responses
from mpo_nb.evaluation.intervals import student_t
from mpo_nb.losses import policy_loss
from mpo_nb.recipes import recipe
from mpo_nb.runs.completions import load_completions
from mpo_nb.runs.folder import Run
from mpo_nb.runs.live import Tail, live_runs, seed_groups, seed_mean
from mpo_nb.runs.ratios import trace_loss
from mpo_nb.runs.reading import made_up_run, read_run
from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import RatioLab, RolloutBrowser, TrainingMonitor
from mpo_nb.widgets.ratio_lab import as_deltas

NASTY = "<script>window.hit=1</script><img src=x onerror='window.hit=2'> </script><b>\u202e 思考"
WRITER = """import sys, time, json
folder, steps = sys.argv[1], int(sys.argv[2])
with open(folder + '/metrics.jsonl', 'a') as f:
    for step in range(1, steps + 1):
        line = json.dumps(dict(step=step, reward=step / steps, clip_fraction=0.01 * step)) + '\\n'
        f.write(line[:9]); f.flush(); time.sleep(0.02)
        f.write(line[9:]); f.flush(); time.sleep(0.03)
"""


def curve(view_or_figure, name: str):
    "The drawn line of that name."
    return next(t for t in view_or_figure.data if (t["name"] if isinstance(t, dict) else t.name) == name)


def solutions(steps: int = 2, groups: int = 2, size: int = 4) -> list[Trace]:
    return [
        Trace.from_text(
            f"7 + {i} = {7 + i}; so it is {7 + i}. " * 3,
            f"7+{g}?",
            0.25,
            1.0 if i % 2 else -1.0,
            seed=100 * s + 10 * g + i,
            reward=float(i % 2) if g else 1.0,
            correct=bool(i % 2) or g == 0,
            step=s,
            group=g,
            index=i,
            answer=str(7 + g),
        )
        for s in range(1, steps + 1)
        for g in range(groups)
        for i in range(size)
    ]


# The monitor


def test_student_t():
    tables = {
        2: 12.7062,
        3: 4.3027,
        4: 3.1824,
        5: 2.7764,
        6: 2.5706,
        8: 2.3646,
        9: 2.3060,
        10: 2.2622,
        15: 2.1448,
        31: 2.0423,
        121: 1.9799,
    }
    for n, t in tables.items():
        assert student_t(n) == pytest.approx(t, abs=6e-4), n
    with pytest.raises(ValueError, match="n=1"):
        student_t(1)


def test_mean_over_seeds_is_the_files(tmp_path):
    for seed in range(4):
        made_up_run(tmp_path / f"mpo-seed{seed}", gain=0.03 + 0.01 * seed, seed=seed)
    made_up_run(tmp_path / "mpo-k8", gain=0.02)
    config = json.loads((tmp_path / "mpo-k8" / "config.json").read_text()) | {"k": 8}
    (tmp_path / "mpo-k8" / "config.json").write_text(json.dumps(config))
    monitor = TrainingMonitor(tmp_path, second="none")
    figure = monitor.figure()
    rewards = [[p["reward"] for p in read_run("x", tmp_path / f"mpo-seed{s}").rows] for s in range(4)]
    assert np.allclose(curve(figure, "mpo (4 seeds)").y, np.mean(rewards, 0)) and list(curve(figure, "mpo-k8").x) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    half = [3.1824 * statistics.stdev(r) / 2 for r in zip(*rewards)]
    band = next(t for t in figure.data if t.fill == "toself" and len(t.x) == 12)
    assert np.allclose(band.y, [*np.mean(rewards, 0) - half, *(np.mean(rewards, 0) + half)[::-1]], atol=1e-4)
    told = monitor.picture().summary
    assert "Student's 95% interval" in told and "finished, 6 steps" in told
    each = monitor.figure(seeds="each")
    assert np.allclose(curve(each, "mpo-seed2").y, rewards[2]) and not any(t.name == "mpo (4 seeds)" for t in each.data)
    smooth = monitor.figure(smooth=3, seeds="each")
    assert curve(smooth, "mpo-seed0").y[-1] == pytest.approx(np.mean(rewards[0][-3:]))
    assert (
        "mpo-k8" in monitor.picture().extra and monitor.picture(metric="accuracy_sampled").summary.count("Wilson") == 1
    )


def test_a_seed_that_lags_shortens_the_mean():
    steps, mean, _ = seed_mean([{1: 0.0, 2: 1.0, 3: 2.0}, {1: 1.0, 2: 2.0}])
    assert steps.tolist() == [1, 2] and mean.tolist() == [0.5, 1.5]
    assert seed_mean([])[0].size == 0 and np.isnan(seed_mean([{1: 2.0}])[2]).all()


def test_seeds_are_grouped_by_configuration(tmp_path):
    for name, recipe_name, seed in (("a", "mpo", 0), ("b", "mpo", 1), ("c", "grpo", 0)):
        made_up_run(tmp_path / name, recipe_name, seed=seed)
    runs = live_runs(tmp_path)
    for r in runs:
        r.read()
    assert [(name, [m.label for m in members]) for name, members in seed_groups(runs)] == [
        ("a, b (2 seeds)", ["a", "b"]),
        ("c", ["c"]),
    ]


def test_what_is_missing_is_said(tmp_path):
    made_up_run(tmp_path / "stopped", steps=2, planned=30)
    with open(tmp_path / "stopped" / "metrics.jsonl", "a") as f:
        f.write('not json\n{"step": 3, "rew')
    (tmp_path / "bare").mkdir()
    monitor = TrainingMonitor([tmp_path / "stopped", tmp_path / "bare", tmp_path / "absent"])
    told = monitor.picture().summary
    for sentence in (
        "step 2 of 30",
        "1 line of its metrics.jsonl could not be read",
        "half written",
        "bare: no step has been taken yet",
        "no config.json",
        "there is no folder",
    ):
        assert sentence in told
    empty = TrainingMonitor(tmp_path / "absent", follow=False)
    assert not empty.picture().data and "No run has recorded" in empty.picture().summary
    assert (
        empty.widget
        and empty.to_html(tmp_path / "empty.html").stat().st_size > 1e6
        and set(empty._repr_mimebundle_()) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    )
    with pytest.raises(ValueError, match="runs is empty"):
        TrainingMonitor([])
    with pytest.raises(ValueError, match="same name"):
        TrainingMonitor([tmp_path / "x" / "a", tmp_path / "y" / "a"])
    made_up_run(tmp_path / "absent")
    empty.refresh()
    assert "finished, 6 steps" in empty.widget.news["status"][0]


def test_tail_reads_new_bytes_only_and_notices_a_resumed_run(tmp_path):
    run = Run(made_up_run(tmp_path / "run", steps=40, planned=80))
    tail = Tail(run.metrics_path)
    assert tail.read() and len(tail.rows) == 41 and tail.bytes_read == run.metrics_path.stat().st_size
    before = tail.bytes_read
    run.append(run.metrics_path, [dict(step=41, reward=1.0)])
    assert tail.read() and not tail.read() and 0 < tail.bytes_read - before < 60
    run.rewind(10)
    assert tail.read() and max(tail.rows) == 10
    run.clear()
    assert tail.read() and not tail.rows and not tail.read()


def sent_columns(monitor: TrainingMonitor, i: int = 0) -> dict:
    "What the browser has of a run, base and news put together."
    base = monitor.widget.base[i]
    added = monitor.widget.news["runs"][i]["columns"]
    return {key: base.get(key, []) + added.get(key, []) for key in {*base, *added}}


def test_a_run_in_another_process_is_followed(tmp_path):
    run = Run(tmp_path / "live")
    run.begin(dict(recipe="mpo", seed=0, steps=20))
    monitor = TrainingMonitor(run.path, second="clip_fraction")
    monitor.every = 0.02
    box = monitor.widget
    sizes = set()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path), "20"])
    deadline = time.time() + 30
    while monitor.following and time.time() < deadline:
        box.seen = box.sent  # what a browser answers once it has painted
        sizes.add(len(sent_columns(monitor).get("reward", [])))
        time.sleep(0.01)
    assert writer.wait(10) == 0 and not monitor.following and box.values["follow"] is False
    assert np.allclose(sent_columns(monitor)["reward"], [s / 20 for s in range(1, 21)]) and monitor.widget is box
    assert (
        len(sizes) > 4
        and monitor.watched[0].tail.bytes_read == run.metrics_path.stat().st_size
        and "finished, 20 steps" in box.news["status"][0]
    )


def test_a_browser_that_does_not_answer_gets_no_further_frames(tmp_path):
    run = Run(tmp_path / "live")
    run.begin(dict(recipe="mpo", seed=0, steps=100))
    monitor = TrainingMonitor(run.path)
    monitor.every = 0.01
    assert monitor.widget.sent == 1
    for step in range(1, 20):
        run.append(run.metrics_path, [dict(step=step, reward=0.5)])
        time.sleep(0.01)
    time.sleep(0.1)
    assert monitor.widget.sent == 1 and len(monitor.watched[0].tail.rows) == 19
    monitor.widget.seen = 1
    deadline = time.time() + 5
    while monitor.widget.sent == 1 and time.time() < deadline:
        time.sleep(0.01)
    assert monitor.widget.sent == 2 and len(sent_columns(monitor)["reward"]) == 19
    monitor.widget.values = monitor.widget.values | dict(follow=False)  # as a hand does in the browser
    monitor.follower.thread.join(5)
    assert not monitor.following and not monitor.follower.thread.is_alive()
    run.append(run.metrics_path, [dict(step=20, reward=0.5)])
    monitor.refresh()
    assert len(sent_columns(monitor)["reward"]) == 20 and not monitor.following


def test_a_frame_is_small_and_never_holds_the_library(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        ipywidgets.Widget,
        "_send",
        lambda self, msg, buffers=None: sent.append(
            len(json.dumps(msg)) + sum(memoryview(b).nbytes for b in buffers or [])
        ),
    )
    run = Run(tmp_path / "long")
    run.begin(dict(recipe="mpo", seed=0, steps=10_000))
    run.append(run.metrics_path, [dict(step=s, reward=s / 5000, clip_fraction=0.1) for s in range(1, 5001)])
    monitor = TrainingMonitor(run.path, follow=False)
    assert monitor.widget
    for step in range(5001, 5006):
        run.append(run.metrics_path, [dict(step=step, reward=0.5, clip_fraction=0.1)])
        sent.clear()
        monitor.refresh()
        assert 0 < sum(sent) < 10_000 and sent_columns(monitor)["step"][-1] == step
    run.append(run.metrics_path, [dict(step=step, reward=0.5) for step in range(5006, 5400)])
    monitor.refresh()  # the base takes them
    assert len(monitor.widget.base[0]["step"]) == 5399 and len(sent_columns(monitor)["step"]) == 5399
    run.rewind(100)
    monitor.refresh()
    assert sent_columns(monitor)["step"] == list(range(1, 101))


def test_many_steps_are_thinned_out(tmp_path):
    run = Run(tmp_path / "long")
    run.begin(dict(recipe="mpo", seed=0, steps=5000))
    run.append(run.metrics_path, [dict(step=s, reward=s / 5000) for s in range(1, 5001)])
    monitor = TrainingMonitor(run.path, second="none")
    start = time.perf_counter()
    line = curve(monitor.figure(), "long")
    took = time.perf_counter() - start
    assert len(line.x) <= 1001 and line.x[-1] == 5000 and took < 2 * slowness()


# The ratio lab


@pytest.mark.parametrize(
    "space, actions",
    [
        ("token", TokenActions()),
        ("window", WindowActions(5, 0.3)),
        ("block", BlockActions(5)),
        ("sequence", SequenceActions()),
    ],
)
def test_clip_fractions_are_the_losses(space, actions):
    traces = solutions()
    lab = RatioLab(traces, k=5, future=0.3, low=0.1, high=0.15)
    batch = [t.batch() for t in traces]
    outs = [
        policy_loss(b["logps"], b["old_logps"], b["advantages"], b["mask"], actions, clip=(0.1, 0.15)) for b in batch
    ]
    row = lab.row(space)
    kept = sum(int(b["mask"].sum()) for b in batch)
    assert row.clip_fraction == pytest.approx(sum(int(o.clipped.sum()) for o in outs) / kept)
    ratio = torch.cat([o.ratio[b["mask"]] for o, b in zip(outs, batch)])
    torch.testing.assert_close(row.log_ratio.exp(), ratio)
    outside = float(((ratio < 0.9) | (ratio > 1.15)).double().mean())
    assert lab.row(space, measure="outside").clip_fraction == pytest.approx(outside)


def test_lab_figure_and_curve():
    lab = RatioLab(solutions(), k=3)
    figure = lab.figure()
    for name, space in (("windows of K, weighted mean", "window"), ("blocks of K, mean", "block")):
        drawn = curve(figure, name)
        assert list(drawn.x) == list(lab.ks) and np.allclose(
            drawn.y, [lab.row(space, dict(lab.values, k=k)).clip_fraction for k in lab.ks]
        )
    bars = [t for t in figure.data if t.type == "bar" and t.xaxis == "x4"]
    counts = sum(int(np.nansum(t.customdata[:, 1])) for t in bars)
    assert counts == len(lab.ratios.tokens) and len(bars) == 2
    outside = np.nansum(bars[1].customdata[:, 1]) / len(lab.ratios.tokens)
    assert outside == pytest.approx(lab.row("window", measure="outside").clip_fraction)


def test_lab_takes_plain_numbers_and_says_what_is_wrong():
    lab = RatioLab([[0.5, -0.5, 0.0], [math.nan, 0.3]])
    assert len(lab.ratios.tokens) == 4 and lab.row("token").clip_fraction == 0.75 and lab.values["measure"] == "outside"
    with pytest.raises(ValueError, match="choose one of"):
        RatioLab([[0.1]], measure="lost")
    assert RatioLab(torch.zeros(2, 3)).row("sequence").clip_fraction == 0 and RatioLab([0.1]).picture().data
    for bad in ([], [Trace(["9"])], torch.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match="source"):
            RatioLab(bad)
    masked = Trace(
        ["a", "b", "c"], mask=[1, 0, 1], logps=[-1.0, math.nan, -1.0], old_logps=[-1.1, math.nan, -1.0], advantage=1.0
    )
    assert (
        len(as_deltas(masked).delta[as_deltas(masked).mask]) == 2
        and RatioLab(masked).row("block").log_ratio.isfinite().all()
    )


# The rollout browser


def test_responses_filters_and_orders():
    traces = solutions(1)
    responses = step_responses(traces[::-1], recipe("mpo"))
    assert [r.trace for r in responses] == traces and [r.dead for r in responses] == [True] * 4 + [False] * 4
    assert [r.clipped for r in responses] == [int(trace_loss(t, recipe("mpo"))[0].clipped.sum()) for t in traces]

    def numbers(**how):
        return [r.number for r in choose_responses(responses, **how)]

    assert (
        numbers(show="wrong") == [5, 7]
        and numbers(show="dead") == [1, 2, 3, 4]
        and numbers(search="7 + 3") == [4, 8]
        and numbers(search="7+1?") == [5, 6, 7, 8]
    )
    assert [responses[n - 1].clipped for n in numbers(order="clipped")] == sorted(
        (r.clipped for r in responses), reverse=True
    )
    assert numbers(order="advantage")[:4] == [2, 4, 6, 8] and numbers(search="[") == []


def test_the_browser_reads_a_step_when_it_is_asked_for(tmp_path):
    browser = RolloutBrowser(made_up_run(tmp_path / "run", steps=9, planned=9))
    browser.most = 200  # tokens: two steps
    live = browser.widget
    first = set(live.data["held"])
    assert browser.values["step"] == 9 and 9 in first and len(first) == 2
    sent = []
    live.observe(sent.append, "data")
    browser.set(order="low")
    assert not sent  # what is there is not sent again
    live.values = dict(live.values) | dict(step=4, pick=2)
    assert list(live.data["held"]) == [4] and browser.values["pick"] == 2
    (group,) = live.data["held"][4]
    texts = ["".join(r["tokens"]) for r in group["responses"]]
    assert texts == [r.trace.text for r in browser.responses(4)] and live.data["steps"] == browser.steps
    live.values = dict(live.values) | dict(order="reward")
    assert list(live.data["held"]) == [4]


def test_a_page_of_a_long_run_is_small_and_says_what_it_holds(tmp_path):
    browser = RolloutBrowser(made_up_run(tmp_path / "run", steps=60, planned=60))
    browser.most = 500
    page = browser.html()
    assert "of 60 steps. This page holds steps" in page and len(page) < len(
        RolloutBrowser(browser.recorded.path).html()
    )
    assert '"held":{"3":' in browser.html({"step": [3, 60], "show": ["all", "wrong"]})
    for wrong in ({"step": [3]}, {"colour": ["none"]}):
        with pytest.raises(ValueError):
            browser.html(wrong)


@pytest.mark.parametrize("wrong", [3, None, {"step": 1}, ["7+5=12"], object()])
def test_what_is_no_run_is_said_in_a_sentence(wrong):
    with pytest.raises(ValueError, match="^run=|^run holds") as error:
        RolloutBrowser(wrong)
    assert "RolloutBrowser('runs/tour/mpo')" in str(error.value) or "'runs/tour/mpo'" in str(error.value)


def test_browser_follows_a_run_that_goes_on(tmp_path):
    path = tmp_path / "run"
    browser = RolloutBrowser(path)
    assert "nothing to browse yet" in browser.picture().summary and browser.widget
    made_up_run(path, steps=2, planned=3)
    with open(path / "traces.jsonl", "a") as f:
        f.write('{"tokens": ["half')
    browser.refresh()
    assert (
        browser.steps == [1, 2]
        and list(browser.controls["step"].options.items()) == [("1", 1), ("2", 2)]
        and list(browser.live_view.data["held"]) == [1, 2]
        and "4 recorded responses" in browser.picture().summary
    )
    assert [label for label in browser.recorded.recipes] == ["token level", "the run's recipe"]


def test_browser_strips_are_the_recipes_credit(tmp_path):
    browser = RolloutBrowser(made_up_run(tmp_path / "run"), pick=2)
    view = browser.picture()
    for state, r in zip(view.strips, browser.recorded.recipes.values()):
        out = trace_loss(view.trace, r)[0]
        assert (
            state["values"] == pytest.approx(out.credit[0].tolist(), rel=1e-5)
            and state["clipped"] == out.clipped[0].int().tolist()
        )


def test_odd_responses_are_listed():
    odd = [
        Trace([]),
        Trace(["9"]),
        Trace(["a"], logps=[-1.0], advantage=math.nan, reward=1.0),
        Trace([NASTY], prompt=NASTY, answer=NASTY, finished=False),
    ]
    browser = RolloutBrowser(odd)
    for pick in range(5):
        view = browser.picture(pick=pick, search="" if pick < 4 else "script")
        for text in (view.extra, *(s["title"] for s in view.strips)):
            assert "<script" not in text and "<img" not in text and "\u202e" not in text
        assert "\u202e" not in view.summary
    assert "cut off" in browser.picture().extra and browser.widget
    assert "400 more" in rollouts_table(step_responses([Trace(["x"], index=i) for i in range(600)], recipe("grpo")))
    assert snippet_html(NASTY, "ONERROR").count("<mark>onerror</mark>") == 1


# TRL's completions


def test_completions_that_trl_writes(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    transformers = pytest.importorskip("transformers")
    from collections import defaultdict
    from types import SimpleNamespace

    monkeypatch.setattr(transformers.Trainer, "log", lambda self, logs, start_time=None: None)
    monkeypatch.setattr(trl, "is_rich_available", lambda: False)
    trainer = object.__new__(trl.GRPOTrainer)
    prompts = [[dict(role="user", content=f"{i // 2}+1?")] for i in range(4)]
    completions = [[dict(role="assistant", content=NASTY + str(i))] for i in range(4)]
    trainer.__dict__.update(
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        log_completions=True,
        num_completions_to_print=0,
        accelerator=SimpleNamespace(is_main_process=True),
        log_unique_prompts=False,
        args=SimpleNamespace(report_to=[], output_dir=str(tmp_path)),
        state=SimpleNamespace(global_step=5),
        _logs=dict(
            images=[],
            prompt=prompts,
            completion=completions,
            rewards=dict(exact=[1.0, 0.0, None, 0.0], style=[0.5, 0.25, 0.0, 0.0]),
            extra=dict(source=list("abcd")),
            advantages=[0.7, -0.7, 0.0, 0.0],
        ),
    )
    (tmp_path / "completions").mkdir()
    for step in (5, 10):
        trainer.state.global_step = step
        trainer.log({})
    traces = load_completions(tmp_path, pass_mark=1.0)
    assert [(t.step, t.group, t.index) for t in traces] == [(5, 0, 0), (5, 0, 1), (5, 1, 0), (5, 1, 1)]
    assert [t.text for t in traces] == [c[0]["content"] for c in completions] and [t.prompt for t in traces][
        0
    ] == "user: 0+1?"
    assert (
        [t.reward for t in traces] == [1.5, 0.25, 0.0, 0.0]
        and [t.advantage for t in traces] == [0.7, -0.7, 0.0, 0.0]
        and [t.correct for t in traces] == [True, False, False, False]
    )
    assert RolloutBrowser(traces, pick=1).picture().strips[0]["title"].startswith("No log-probabilities")
    assert [t.group for t in load_completions(tmp_path, group_size=1)] == [0, 1, 2, 3]


def test_completions_say_what_is_wrong(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "completions_00001.parquet").write_bytes(b"PAR1 half written")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load_completions(tmp_path)
    pandas.DataFrame(dict(prompt=["a"], text=["b"])).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column step, completion, advantage"):
        load_completions(tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError, match="log_completions=True"):
        load_completions(tmp_path / "absent")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        load_completions(tmp_path / "other.parquet")


# In a browser


def shot(page, name: str):
    if folder := os.environ.get("MPO_NB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def offline(browser, tmp_path):
    """Opens a widget's page with the network off; in both widths and themes it neither scrolls sideways nor clips a
    label."""
    contexts = []

    def open_page(widget, name):
        file = widget.to_html(tmp_path / f"{name}.html").as_uri()
        for width, scheme in ((700, "dark"), (1400, "light")):
            context = browser.new_context(offline=True, viewport=dict(width=width, height=900), color_scheme=scheme)
            contexts.append(context)
            page = watched(context.new_page(), "file:")
            page.goto(file)
            if isinstance(widget, TrainingMonitor):
                page.wait_for_function("document.querySelectorAll('.mpo-grid .main-svg').length > 5")
            elif not isinstance(widget, RatioLab) and widget.has_figure:
                page.wait_for_selector(".mpo-plot .main-svg")
                page.wait_for_timeout(300)
                assert (
                    page.evaluate(
                        "[...document.querySelectorAll('.mpo-plot text')].filter(t => { const r ="
                        " t.getBoundingClientRect(), p = t.closest('.mpo-plot').getBoundingClientRect(); return r.width"
                        " && (r.left < p.left - 1 || r.right > p.right + 1) }).map(t => t.textContent)"
                    )
                    == []
                )
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            shot(page, f"{name}-{width}-{scheme}")
        return page

    yield open_page
    for context in contexts:
        context.close()


def shown(page, i: int) -> list:
    return page.evaluate("i => Array.from(document.querySelector('.mpo-plot')._fullData[i].y)", i)


CHARTS = """() => Object.fromEntries([...document.querySelectorAll('.mpo-grid figure')].map((figure) => [
  figure.querySelector('b').textContent,
  figure.querySelector('.js-plotly-plot')._fullData.map(({ name, x, y, line, fill }) => ({
    name, x, y, colour: line.color, band: fill === 'toself' })),
]))"""


@pytest.mark.browser
def test_monitor_page(offline, tmp_path):
    "The curves of an exported page are Python's; a step that is pointed at in one chart is marked in all."
    for seed in range(3):
        made_up_run(tmp_path / f"mpo-s{seed}", gain=0.04 + 0.01 * seed, seed=seed)
    made_up_run(tmp_path / "grpo", "grpo")
    monitor = TrainingMonitor([tmp_path / name for name in ("mpo-s0", "mpo-s1", "mpo-s2", "grpo")])
    page = offline(monitor, "monitor")
    page.wait_for_selector(".mpo-grid .main-svg")
    page.locator("[data-control=smooth]").focus()
    page.keyboard.press("ArrowRight")
    for seeds in ("mean", "each"):
        page.locator("[data-control=seeds]").select_option(seeds)
        page.wait_for_timeout(300)
        figure = monitor.figure(smooth=2, seeds=seeds)
        titles = [note.text.removeprefix("<b>").removesuffix("</b>") for note in figure.layout.annotations]
        drawn = page.evaluate(CHARTS)
        assert list(drawn) == titles and len(titles) > 3
        for i, title in enumerate(titles, 1):
            wanted = [t for t in figure.data if t.xaxis == ("x" if i == 1 else f"x{i}") and len(t.x)]
            bands = [t for t in wanted if t.fill]
            assert len(drawn[title]) == len(wanted)
            for trace in drawn[title]:
                same = bands if trace["band"] else [t for t in wanted if not t.fill and t.name == trace["name"]]
                assert any(
                    list(t.x) == trace["x"] and trace["y"] == pytest.approx(list(t.y), rel=1e-6) for t in same
                ), (title, trace["name"])
    colours = {t["name"]: t["colour"] for t in drawn["Reward"]}
    assert colours["mpo-s0"] == colours["mpo-s2"] == series_colour(1) and colours["grpo"] == series_colour(0)
    box = page.locator(".mpo-chart").first.bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 60)
    page.wait_for_function("document.querySelectorAll('.mpo-over circle').length > 0")
    step = int(page.locator(".mpo-monitor").get_attribute("data-step"))
    assert 1 < step < 6 and page.locator(".mpo-over line").count() == len(titles)
    page.locator(".mpo-grid").focus()
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('.mpo-monitor').dataset.step === '0'")
    page.locator(".mpo-runs button", has_text="grpo").click()
    page.wait_for_function(
        "!document.querySelector('.mpo-grid .js-plotly-plot')._fullData.some(t => t.name === 'grpo')"
    )
    told = page.locator(".mpo-words").inner_text()
    assert "Wilson's" in told and "loss" not in page.locator(".mpo-grid").inner_text() and page.trouble == []


@pytest.mark.browser
def test_what_came_before_the_browser_was_ready_is_drawn(browser, tmp_path, root):
    "A late browser finds the newest state: the base, and what was added to it."
    run = Run(tmp_path / "live")
    run.begin(dict(recipe="mpo", seed=0, steps=30))
    monitor = TrainingMonitor(run.path, follow=False)
    box = monitor.widget
    for step in range(1, 4):
        run.append(run.metrics_path, [dict(step=step, reward=step / 10)])
        monitor.refresh()
    page = watched(browser.new_page(), "http://monitor.test")
    page.route("**/*", lambda route: route.fulfill(body="<!doctype html><div id=box></div>", content_type="text/html"))
    page.goto("http://monitor.test/")
    state = {name: getattr(box, name) for name in ("base", "news", "values", "plotly", "sent", "seen")}
    script = """async ([source, state]) => {
      const heard = {};
      window.model = {
        get: (name) => state[name], set: (name, value) => { state[name] = value; }, save_changes: () => {},
        on: (names, f) => names.split(' ').forEach((name) => { (heard[name] ||= []).push(f); }), off: () => {},
        send: (next) => {
          Object.assign(state, next);
          Object.keys(next).forEach((name) => (heard[`change:${name}`] || []).forEach((f) => f()));
        },
      };
      window.state = state;
      const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      module.default.render({ model: window.model, el: document.getElementById("box") });
    }"""
    page.evaluate(script, [joined_script("live_monitor.js"), state])
    drawn = "document.querySelector('.mpo-grid .js-plotly-plot')?._fullData?.[0]?.y || []"
    page.wait_for_function(f"({drawn}).length === 3")
    assert page.evaluate(drawn) == [0.1, 0.2, 0.3]
    run.append(run.metrics_path, [dict(step=4, reward=0.4, entropy=0.5)])
    monitor.refresh()
    page.evaluate("next => window.model.send(next)", dict(base=box.base, news=box.news, sent=box.sent))
    page.wait_for_function(f"({drawn}).length === 4 && document.querySelectorAll('.mpo-grid figure').length === 2")
    page.wait_for_function("window.state.seen === window.state.sent")
    page.locator("[data-control=follow]").check()
    assert page.evaluate("window.state.values.follow") is True and page.trouble == []
    page.close()


LAB = """async ([source, data, settings]) => {
  const modules = new Function(source + "; return modules;")();
  const view = modules["ratio_view.js"].mount(document.body, data, modules["method.js"]);
  return settings.map((values) => {
    view.set(values);
    return Object.values(view.numbers()).map(({ logs, factor, share, control }) => ({
      logs: Array.from(logs), factor, share, control,
    }));
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("holes", [False, True])
def test_the_browsers_ratios_are_pythons(browser, holes):
    "log R, c, shares and controls, for values of every control."
    rng = torch.Generator().manual_seed(5)
    delta = 0.2 * torch.randn(6, 40, generator=rng, dtype=torch.double)
    delta[0, 9:] = math.nan
    delta[1, 1:] = math.nan
    if holes:
        delta[3:, ::3] = math.nan
    lab = RatioLab(delta)
    lab.data.advantages = torch.tensor([1.0, -1.0, 0.5, -2.0, 0.0, 1.0], dtype=torch.double)
    lab.ratios.advantages = lab.data.token_advantages
    names = ("k", "future", "low", "high", "measure")
    rows = [(4, 0.2, 0.2, 0.2), (1, 0.5, 0.1, 0.3), (7, 0.95, 0.95, 0.0), (32, 0.0, 0.0, 3.0), (2, 0.35, 0.07, 0.28)]
    settings = [dict(zip(names, (*row, how))) for row in rows for how in ("lost", "outside")]
    page = watched(browser.new_page(), "about:")
    source = joined_script("method.js", "ratio_view.js", "live_view.js")
    found = page.evaluate(LAB, [source, dict(lab.view_data()) | dict(values={}), settings])
    for values, spaces in zip(settings, found):
        for space, theirs in zip(("token", "window", "block", "sequence"), spaces):
            ours = lab.row(space, values)
            assert theirs["logs"] == pytest.approx(ours.log_ratio.tolist(), abs=1e-9)
            assert theirs["factor"] == pytest.approx(ours.factor, abs=1e-9)
            assert theirs["share"] == pytest.approx(ours.clip_fraction, abs=1e-9)
            assert (theirs["control"] is None) == (ours.control is None)
            if ours.control is not None:
                assert theirs["control"] == pytest.approx(ours.control, abs=1e-9)
    assert page.trouble == []
    page.close()


@pytest.mark.browser
def test_lab_page(offline):
    "Sliders move the picture while they move; the curves are a control themselves."
    lab = RatioLab(solutions())
    page = offline(lab, "lab")
    page.locator("[data-control=k]").fill("7")  # an input event, as a drag makes them, without a change event
    row = lab.row("window", lab.values | dict(k=7))
    table = page.locator(".mpo-ratios table")
    assert "windows of 7" in table.inner_text() and f"{100 * row.clip_fraction:.2f}%" in table.inner_text()
    assert f"{100 * row.control:.2f}%" in table.inner_text()
    box = page.locator("svg.curves").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 100)
    told = page.locator(".mpo-ratios .mpo-detail").inner_text()
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 100)
    page.mouse.up()
    k = int(page.locator("[data-control=k]").input_value())
    assert "K = 5:" in told and 12 < k < 20
    assert page.locator(".mpo-pairs svg").count() == 7 and page.trouble == []


@pytest.mark.browser
def test_rollouts_page(offline):
    traces = solutions(2)
    nasty = Trace.from_text(
        NASTY * 2, NASTY, 0.4, 0.5, step=2, group=0, index=1, reward=1.0, correct=True, answer=NASTY
    )
    traces[9] = nasty
    browser = RolloutBrowser(traces)
    page = offline(browser, "rollouts")
    values = "JSON.parse(document.querySelector('.mpo-rollout-view').dataset.values)"
    numbers = "bs => bs.map(b => Number(b.dataset.pick))"
    page.locator("button[data-pick='2']").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.pick") == "2" and page.evaluate(values)["pick"] == 2
    cells = page.locator(".mpo-open .mpo-lanes li:not(.names)")
    assert cells.count() >= len(nasty.tokens)
    clipped = trace_loss(browser.responses(2)[5].trace, browser.recorded.recipes["mpo"])[0].clipped.sum()
    row = page.locator(".mpo-response").nth(5).inner_text()
    assert (f"{int(clipped)} clipped" in row) == bool(clipped)
    for show, order in (("wrong", "sampled"), ("all", "low"), ("dead", "clipped"), ("alive", "longest")):
        page.locator("[data-control=show]").select_option(show)
        page.locator("[data-control=order]").select_option(order)
        wanted = [r.number for r in choose_responses(browser.responses(2), show, order)]
        assert page.locator("button[data-pick]").evaluate_all(numbers) == wanted, (show, order)
    page.locator("[data-control=show]").select_option("all")
    page.locator("[data-control=search]").fill("ONERROR")
    assert page.locator("button[data-pick]").evaluate_all(numbers) == [2]
    assert page.locator("mark").first.inner_text() == "onerror" and "U+202E" in page.locator("code").first.inner_text()
    page.locator("[data-control=search]").fill("")
    page.locator("[data-control=open]").select_option("blocks")
    assert page.locator(".mpo-open [data-control=rule]").count() == 1  # what is open stays open
    page.locator("button[data-pick='4']").click()
    assert page.locator(".mpo-open [data-control=rule]").count() == 1
    page.locator("[data-control=step]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".mpo-words").first.inner_text().startswith("Step 1: 8 recorded responses in 2 groups")
    assert page.evaluate("window.hit") is None and page.trouble == []


@pytest.mark.browser
@pytest.mark.slow
def test_live_in_jupyterlab(browser, tmp_path):
    "A run of another process moves the curve; a row's button opens the explorer; K moves the lab."
    pytest.importorskip("jupyterlab")
    folder = tmp_path / "notebooks"
    config = tmp_path / "config"
    run = Run(folder / "live")
    run.begin(dict(recipe="mpo", seed=0, steps=45))
    made_up_run(folder / "done")
    (folder / "writer.py").write_text(WRITER.replace("0.03", "0.3"))
    write_notebook(
        folder / "three.ipynb",
        "import subprocess, sys\nfrom mpo_nb.widgets import *\nmonitor = TrainingMonitor('live', second='none');"
        " monitor.every = 0.2\nmonitor",
        "RolloutBrowser('done')",
        "RatioLab('done')",
        "writer = subprocess.Popen([sys.executable, 'writer.py', 'live', '45'])",
    )
    with lab_server(folder, config) as address:
        page = watched(browser.new_page(viewport=dict(width=1400, height=5200)), address, address.replace("http", "ws"))
        run_notebook(page, address, "three.ipynb")
        page.wait_for_selector(".mpo-monitor", timeout=60_000)
        points = "(document.querySelector('.mpo-grid .js-plotly-plot')?._fullData?.[0]?.y || []).length"
        page.wait_for_function(f"{points} > 2", timeout=30_000)
        seen = {page.evaluate(points)}
        deadline = time.time() + 40
        while max(seen) < 45 and time.time() < deadline:
            page.wait_for_timeout(150)
            seen.add(page.evaluate(points))
        assert max(seen) == 45 and len(seen) > 3
        # The last step is drawn as soon as it is read; that the run is finished may come with the next frame.
        page.wait_for_function(
            "document.querySelector('.mpo-monitor').textContent.includes('finished, 45 steps')", timeout=20_000
        )
        page.locator("button[data-pick='2']").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".mpo-open .mpo-lanes", timeout=30_000)
        text = "".join(page.locator(".mpo-open .mpo-lanes li > b").all_inner_texts())
        assert RolloutBrowser(folder / "done").responses(6)[1].trace.text[:12] in text
        page.locator(".mpo-ratios [data-control=k]").focus()
        page.keyboard.press("ArrowRight")
        wanted = f"{100 * RatioLab(folder / 'done', k=5).row('window').clip_fraction:.2f}%"
        table = page.locator(".mpo-ratios table")
        assert "windows of 5" in table.inner_text() and wanted in table.inner_text()
        for width, theme in ((1400, "Light"), (700, "Dark")):
            page.set_viewport_size(dict(width=width, height=5200))
            page.evaluate(
                "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab ' + theme})",
                theme,
            )
            page.evaluate("window.jupyterapp.shell.collapseLeft()")
            page.wait_for_function(
                "theme => document.body.dataset.jpThemeName === 'JupyterLab ' + theme &&"
                " !document.querySelector('#jupyterlab-splash')",
                arg=theme,
            )
            page.wait_for_function(
                "[...document.querySelectorAll('.mpo-grid .js-plotly-plot')].filter(p => p.offsetParent).every(p =>"
                " Math.abs(p.querySelector('.main-svg').getBoundingClientRect().width - p.clientWidth) < 4)"
            )
            assert (
                page.evaluate(
                    "[...document.querySelectorAll('.mpo-widget .widget-label, .mpo-widget .mpo-summary')].filter(e =>"
                    " e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
                )
                == []
            ), f"{width} px, {theme}"
            shot(page, f"live-{width}-{theme.lower()}")
        assert page.trouble == []
        page.close()
