"""How slow this machine is at this moment, so that a bound on time holds on any.

A bound is written for the machine whose seconds stand below, and is multiplied by how many times as long a fixed piece
of work takes here, in the same test and on the same clock. What a bound is to find, work that grew or that waits, moves
the one and not the other."""

import time
from collections.abc import Callable

PIECE = 0.030  # seconds of `piece` on the machine for which bounds are written, by either clock
PAGE_PIECE = 30.0  # milliseconds of `PAGE` there, of the page's own thread

# Elements made, styled, laid out and taken away again, as a picture is when a slider moves.
PAGE = """() => {
  const box = document.createElement('div')
  document.body.append(box)
  for (let round = 0; round < 4; round++) {
    box.replaceChildren(...Array.from({ length: 1000 }, (_, i) => {
      const mark = document.createElement('span')
      mark.style.backgroundColor = `rgb(${i % 255} ${round} 0)`
      mark.textContent = `${i} `
      return mark
    }))
    box.offsetHeight
  }
  box.remove()
}"""


def piece() -> None:
    "Plain Python: numbers, texts and a table of them."
    table = {}
    for i in range(100_000):
        table[str(i)] = i * i


def slowness(
    clock: Callable[[], float] = time.perf_counter,  # of the bound: `time.process_time` for one on processor time
) -> float:  # at least 1
    "How many times as long as on the machine for which bounds are written a fixed piece of work takes here."
    start = clock()
    piece()
    return max(1.0, (clock() - start) / PIECE)


class PageClock:
    "The milliseconds that a page's own thread works, whatever else the machine does; and how slow the page is."

    def __init__(self, page):
        self.page = page
        self.session = page.context.new_cdp_session(page)
        self.session.send("Performance.enable", dict(timeDomain="threadTicks"))

    def now(self) -> float:
        "Milliseconds that the thread has worked since the clock began."
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    def slowness(self) -> float:
        "As the function of this name, of the page: at least 1."
        self.page.evaluate(PAGE)  # once for the compiler
        start = self.now()
        self.page.evaluate(PAGE)
        return max(1.0, (self.now() - start) / PAGE_PIECE)
