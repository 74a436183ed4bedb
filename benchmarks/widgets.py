"""How soon the picture of an explorer is there, in Chromium: its first one, and one change of a control, for responses
of 64, 512 and 4,096 tokens.

Each explorer is opened as an exported page, whose view is also the live widget's: the browser computes both. A change
is timed from the event of a control to the frame that shows the finished picture. The processor's time is that of the
page's own thread, which is what a wait would be on a machine that does nothing else; the load says how many programs
wanted each core meanwhile.

    python benchmarks/widgets.py        # under a minute; writes benchmarks/widgets.csv
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import BlockExplorer, CreditExplorer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from browsers import chromium  # noqa: E402
from records import output_path, size, write_table  # noqa: E402

TOKENS = size((64, 512, 4096), (16,))
CHANGES = {
    BlockExplorer: ("k", "rule", "colour"),
    CreditExplorer: ("k", "right", "moved", "epsilon"),
}
# Moves a control by a step of its own, and waits for the frame that shows what came of it.
MOVE = """async ([name, rounds]) => {
  const input = document.querySelector(`[data-control=${name}]`)
  const times = []
  for (let i = 0; i < rounds; i++) {
    const steps = input.options ? input.options.length : 1 + Math.round((input.max - input.min) / input.step)
    const at = (3 * i + 1) % steps
    if (input.options) input.selectedIndex = at
    else input.value = Number(input.min) + at * input.step
    const start = performance.now()
    input.dispatchEvent(new Event(input.options ? 'change' : 'input', { bubbles: true }))
    await new Promise((done) => requestAnimationFrame(() => {
      const channel = new MessageChannel()
      channel.port1.onmessage = done
      channel.port2.postMessage(0)
    }))
    times.push(performance.now() - start)
  }
  return times
}"""
OPENED = "() => performance.now()"  # since the page was asked for


def response(T: int) -> Trace:
    "A response of T tokens with made-up numbers."
    long = Trace.from_text("First, 7 + 5 = 12.\nThen 12 - 3 = 9; so it is 9.\n" * (T // 16 + 1), moved=0.2)
    return Trace(
        **{name: getattr(long, name)[:T] for name in ("tokens", "logps", "old_logps", "entropies")},
        advantage=1.0,
        reward=1.0,
    )


def row(widget: type, T: int, what: str, times: list[float], processor: float, size: int) -> dict:
    low, mid, high = statistics.quantiles(times, n=4)
    return {
        "widget": widget.__name__,
        "tokens": T,
        "what": what,
        "ms_median": f"{mid:.1f}",
        "ms_q25": f"{low:.1f}",
        "ms_q75": f"{high:.1f}",
        "ms_best": f"{min(times):.1f}",
        "ms_processor": f"{processor:.1f}",
        "page_kB": f"{size / 1000:.0f}",
        "rounds": len(times),
        "load": f"{os.getloadavg()[0] / (os.cpu_count() or 1):.1f}",
    }


def measure(browser, widget: type, T: int, rounds: int, file: Path) -> list[dict]:
    "The first picture, and a change of each main control."
    widget(response(T)).to_html(file)
    page_bytes = file.stat().st_size
    opened = []
    for _ in range(size(max(3, rounds // 4), 2)):
        page = browser.new_page(viewport=dict(width=1400, height=900))
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", dict(timeDomain="threadTicks"))

        def spent() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

        page.goto(file.as_uri(), wait_until="commit")
        page.wait_for_selector(".mpo-lane-view .mpo-lanes li")
        opened.append((page.evaluate(OPENED), spent()))
        last = page
    rows = [
        row(widget, T, "first picture", [t for t, _ in opened], statistics.median(c for _, c in opened), page_bytes)
    ]
    for name in CHANGES[widget]:
        last.evaluate(MOVE, [name, 3])
        before = spent()
        times = last.evaluate(MOVE, [name, rounds])
        rows.append(row(widget, T, f"change of {name}", times, (spent() - before) / rounds, page_bytes))
    for context in browser.contexts:
        context.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(24, 2))
    parser.add_argument("--output", type=Path, default=output_path("widgets"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        file = Path(folder) / "page.html"
        rows = [r for widget in CHANGES for T in TOKENS for r in measure(browser, widget, T, args.rounds, file)]
        browser.close()
    write_table("widgets", args.output, rows)
    for r in rows:
        print(
            f"{r['widget']:16} {r['tokens']:>5} tokens  {r['what']:18} {r['ms_median']:>8} ms ({r['ms_q25']} to"
            f" {r['ms_q75']}; processor {r['ms_processor']}), {r['page_kB']} kB"
        )


if __name__ == "__main__":
    main()
