"""What a widget costs in Python: its first draw, and one change of a control, for responses of 64, 512 and 4,096
tokens.

A first draw makes the widget and everything that a notebook is sent for it; a change is what happens between a
control's new value and the last byte of the messages that follow. Messages are written out as JSON, as a kernel would.
The time is that of one thread, as waited for and as spent on the processor; imports are not in it.

    python benchmarks/widgets.py        # under a minute; writes benchmarks/widgets.csv
"""

import argparse
import csv
import itertools
import json
import statistics
import time
from pathlib import Path

import ipywidgets
import torch

from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import BlockExplorer, CreditExplorer

TOKENS = (64, 512, 4096)
CHANGES = {
    BlockExplorer: {
        "k": range(2, 60),
        "rule": ["surprise", "sequence", "random", "token"],
        "colour": ["delta", "entropy", "logp"],
    },
    CreditExplorer: {
        "k": range(2, 60),
        "right": ["joint", "block", "sentence", "sequence", "token", "window"],
        "moved": [0.0, 0.5, 1.5, 2.0, 3.0],
        "epsilon": [0.1, 0.05, 0.3],
    },
}
bytes_sent = 0


def send(self, msg, buffers=None):
    "Stands in for the kernel's connection: writes the message out and counts its bytes."
    global bytes_sent
    bytes_sent += len(json.dumps(msg)) + sum(memoryview(b).nbytes for b in buffers or [])


def response(T: int) -> Trace:
    "A response of T tokens with made-up numbers."
    long = Trace.from_text("First, 7 + 5 = 12.\nThen 12 - 3 = 9; so it is 9.\n" * (T // 16 + 1), moved=0.2)
    return Trace(
        **{name: getattr(long, name)[:T] for name in ("tokens", "logps", "old_logps", "entropies")},
        advantage=1.0,
        reward=1.0,
    )


def timed(f) -> tuple[float, float, float]:
    "Milliseconds waited, milliseconds of processor time, and kilobytes sent."
    before = bytes_sent
    clock = time.perf_counter()
    cpu = time.process_time()
    f()
    return (time.perf_counter() - clock) * 1e3, (time.process_time() - cpu) * 1e3, (bytes_sent - before) / 1e3


def row(widget: type, T: int, what: str, times: list[tuple[float, float, float]]) -> dict:
    waited, cpu, sent = zip(*times)
    low, mid, high = statistics.quantiles(waited, n=4)
    return {
        "widget": widget.__name__,
        "tokens": T,
        "what": what,
        "ms_median": f"{mid:.1f}",
        "ms_q25": f"{low:.1f}",
        "ms_q75": f"{high:.1f}",
        "ms_best": f"{min(waited):.1f}",
        "ms_processor": f"{statistics.median(cpu):.1f}",
        "kB_sent": f"{statistics.median(sent):.0f}",
        "rounds": len(times),
    }


def measure(widget: type, T: int, rounds: int) -> list[dict]:
    "The first draw, and a change of each main control."
    trace = response(T)
    made = []
    rows = [
        row(
            widget,
            T,
            "first draw",
            [
                timed(lambda: (made.append(widget(trace)), made[-1]._repr_mimebundle_()))
                for _ in range(max(3, rounds // 4))
            ],
        )
    ]
    for name, values in CHANGES[widget].items():
        shown = widget(trace)
        live = shown.widget and shown.live[name]
        values = itertools.cycle(values)

        def change():
            live.value = next(v for v in values if v != live.value)

        change()
        rows.append(row(widget, T, f"change of {name}", [timed(change) for _ in range(rounds)]))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    ipywidgets.Widget._send = send
    for widget in CHANGES:
        measure(widget, 16, 4)  # what is made once, is made before
    rows = [r for widget in CHANGES for T in TOKENS for r in measure(widget, T, args.rounds)]
    with args.output.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for r in rows:
        print(
            f"{r['widget']:16} {r['tokens']:>5} tokens  {r['what']:18} {r['ms_median']:>8} ms ({r['ms_q25']} to"
            f" {r['ms_q75']}; processor {r['ms_processor']}), {r['kB_sent']} kB"
        )


if __name__ == "__main__":
    main()
