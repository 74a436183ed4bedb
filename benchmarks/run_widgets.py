"""What the widgets of runs cost in Python: the first draw, a frame of a run that goes on, one change of a control.

    python benchmarks/run_widgets.py       # writes run_widgets.csv beside this file

Times are medians of `--rounds`, on one thread; kilobytes are what a notebook is sent, plotly's script with the first
draw."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import ipywidgets
import torch
from records import output_path, size, write_table

from mpo_nb.runs.folder import Run
from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import RatioLab, RolloutBrowser, TrainingMonitor

bytes_sent = 0


def send(self, msg, buffers=None):
    "Stands in for the kernel's connection: writes the message out and counts its bytes."
    global bytes_sent
    bytes_sent += len(json.dumps(msg)) + sum(memoryview(b).nbytes for b in buffers or [])


def measured(widget: str, size: str, what: str, actions: list) -> dict:
    "One row: the median of what was done."
    times = []
    sent = []
    for action in actions:
        before = bytes_sent
        clock = time.perf_counter()
        action()
        times.append((time.perf_counter() - clock) * 1e3)
        sent.append((bytes_sent - before) / 1e3)
    return dict(
        widget=widget,
        size=size,
        what=what,
        ms_median=f"{statistics.median(times):.1f}",
        ms_worst=f"{max(times):.1f}",
        kB_sent=f"{statistics.median(sent):.0f}",
        rounds=len(times),
    )


def responses(T: int, count: int = 16) -> list[Trace]:
    "Two groups of responses of T tokens with made-up numbers."
    long = Trace.from_text("First, 7 + 5 = 12.\nThen 12 - 3 = 9; so it is 9.\n" * (T // 16 + 1), moved=0.2)
    parts = {name: getattr(long, name)[:T] for name in ("tokens", "logps", "old_logps", "entropies")}
    return [
        Trace(
            **parts,
            advantage=1.0 - 2 * (i % 2),
            reward=float(1 - i % 2),
            correct=i % 2 == 0,
            group=i // 8,
            index=i % 8,
            step=1,
        )
        for i in range(count)
    ]


def monitor(folder: Path, steps: int, rounds: int) -> list[dict]:
    "Three seeds of so many steps, and frames of one step more each."
    runs = [Run(folder / f"{steps}-s{seed}") for seed in range(3)]

    def take(first, last):
        for seed, run in enumerate(runs):
            run.append(
                run.metrics_path,
                [
                    dict(step=s, reward=0.5 + 0.001 * seed, clip_fraction=0.01, entropy=0.1, loss=0.0)
                    for s in range(first, last + 1)
                ],
            )

    for seed, run in enumerate(runs):
        run.begin(dict(recipe="mpo", seed=seed, steps=10**6))
    take(1, steps)
    made = [TrainingMonitor([r.path for r in runs], follow=False) for _ in range(3)]
    rows = [measured("TrainingMonitor", f"3 runs, {steps:,} steps", "first draw", [lambda m=m: m.widget for m in made])]
    frames = []
    for i in range(rounds):
        take(steps + i + 1, steps + i + 1)
        frames.append(measured("TrainingMonitor", f"3 runs, {steps:,} steps", "frame of a step", [made[0].refresh]))
    middle = sorted(frames, key=lambda r: float(r["ms_median"]))[rounds // 2]
    return rows + [middle | dict(rounds=rounds, ms_worst=max((r["ms_median"] for r in frames), key=float))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(12, 3))
    parser.add_argument("--output", type=Path, default=output_path("run_widgets"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    ipywidgets.Widget._send = send
    RolloutBrowser(responses(16)).set(pick=1).widget  # what is made once, is made before
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in size((100, 5000), (20,)):
            rows += monitor(Path(folder), steps, args.rounds)
    for T in size((64, 512, 4096), (32,)):
        traces = responses(T)
        responses_of = f"16 responses of {T:,} tokens"
        made = [RolloutBrowser(traces) for _ in range(3)]
        rows.append(measured("RolloutBrowser", responses_of, "first draw", [lambda b=b: b.widget for b in made]))
        rows.append(
            measured("RolloutBrowser", responses_of, "first opening", [lambda b=b: b.set(pick=1) for b in made])
        )
        rows.append(
            measured(
                "RolloutBrowser",
                responses_of,
                "opening another",
                [lambda i=i: made[0].set(pick=2 + i % 15) for i in range(args.rounds)],
            )
        )
        rows.append(
            measured(
                "RolloutBrowser",
                responses_of,
                "change of order",
                [
                    lambda i=i: made[0].set(order=("longest", "clipped", "sampled")[i % 3], pick=0)
                    for i in range(args.rounds)
                ],
            )
        )
        made = [RatioLab(traces) for _ in range(3)]
        rows.append(measured("RatioLab", responses_of, "first draw", [lambda w=w: w.widget for w in made]))
        for name, values in (
            ("k", range(2, 33)),
            ("high", (0.1, 0.3, 0.25)),
            ("future", (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.05, 0.15, 0.25, 0.35, 0.45)),
        ):
            rows.append(
                measured(
                    "RatioLab",
                    responses_of,
                    f"change of {name}",
                    [lambda i=i: made[0].set(**{name: values[i % len(values)]}) for i in range(args.rounds)],
                )
            )
    write_table("run_widgets", args.output, rows)
    for r in rows:
        print(
            f"{r['widget']:16} {r['size']:30} {r['what']:18} {r['ms_median']:>8} ms (worst {r['ms_worst']}),"
            f" {r['kB_sent']} kB"
        )


if __name__ == "__main__":
    main()
