/** Charts that plotly draws, small ones that share what is pointed at; and how plotly comes into the page. */

import { draw, make } from "./dom.js";

let loading = null;

/** plotly.js: the page's own, or made of a text, or fetched from an address; null where none can be had. */
export function loadPlotly({ text = "", address = "" } = {}) {
  if (globalThis.Plotly) return Promise.resolve(globalThis.Plotly);
  if (loading) return loading;
  if (!text && !address) return Promise.resolve(null);
  loading = new Promise((resolve) => {
    const script = document.createElement("script");
    if (text) {
      // Whatever the page loads its own modules with must not take this one.
      script.textContent = `(function () { var define, module, exports;\n${text}\n}).call(window);`;
      document.head.append(script);
      resolve(globalThis.Plotly || null);
      return;
    }
    script.src = address;
    script.onload = () => resolve(globalThis.Plotly || null);
    script.onerror = () => (loading = null, resolve(null));
    document.head.append(script);
  });
  return loading;
}

/** The last of some rising numbers that does not exceed `limit`; -1 where all do. */
export function lastUpTo(numbers, limit) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * One chart of lines over steps. `point(step)` is called for the step under the pointer, with null when it leaves;
 * `zoom(range)` when the reader has chosen a stretch of the axis, with null when all of it is wanted again.
 * Returns { element, paint(Plotly, traces, layout), range(Plotly, range), mark(step, dots), destroy }.
 */
export function chart({ point, zoom }) {
  const plot = make("div", { className: "mpo-plot-area" });
  const over = draw("svg", { class: "mpo-over", "aria-hidden": "true" });
  const element = make("div", { className: "mpo-chart" }, plot, over);
  let quiet = false; // while code moves the axis
  let drawn = null; // the plotly that drew

  // plotly listens to the window alone, and a notebook's cell changes its width without it.
  let width = 0;
  const widths = new ResizeObserver(async () => {
    if (!drawn || Math.abs(element.clientWidth - width) < 1) return;
    width = element.clientWidth;
    if (!width) return;
    await drawn.Plots.resize(plot);
    point(null);
  });
  widths.observe(element);

  const axes = () => plot._fullLayout && [plot._fullLayout.xaxis, plot._fullLayout.yaxis];

  element.addEventListener("pointermove", (event) => {
    if (!axes() || event.buttons) return;
    const [x] = axes();
    const at = event.clientX - plot.getBoundingClientRect().left - x._offset;
    if (at >= -4 && at <= x._length + 4) point(x.p2d(Math.max(0, Math.min(x._length, at))));
  });
  element.addEventListener("pointerleave", () => point(null));

  function zoomed(event) {
    if (quiet) return;
    if (event["xaxis.autorange"]) zoom(null);
    else if ("xaxis.range[0]" in event) zoom([event["xaxis.range[0]"], event["xaxis.range[1]"]]);
  }

  function paint(Plotly, traces, layout) {
    const first = drawn === null;
    drawn = Plotly;
    plot.style.height = `${layout.height}px`; // known before plotly has measured anything
    const coarse = globalThis.matchMedia && matchMedia("(pointer: coarse)").matches;
    const ready = Plotly.react(plot, traces, { ...layout, dragmode: coarse ? false : "zoom" }, {
      displayModeBar: false,
      doubleClick: "autosize",
    });
    if (first) {
      width = element.clientWidth;
      plot.on("plotly_relayout", zoomed);
    }
    return ready;
  }

  async function range(Plotly, wanted) {
    quiet = true;
    await Plotly.relayout(plot, { "xaxis.range": wanted });
    quiet = false;
  }

  /** A line at a step, and a dot on each curve: { x, y, colour }. */
  function mark(step, dots) {
    over.replaceChildren();
    if (!axes() || step === null) return;
    const [x, y] = axes();
    const at = x._offset + x.d2p(step);
    if (at < x._offset - 1 || at > x._offset + x._length + 1) return;
    over.append(draw("line", { x1: at, x2: at, y1: y._offset, y2: y._offset + y._length }));
    for (const dot of dots) {
      const [cx, cy] = [x._offset + x.d2p(dot.x), y._offset + y.d2p(dot.y)];
      if (cx < x._offset - 1 || cy < y._offset - 1 || cy > y._offset + y._length + 1) continue;
      over.append(draw("circle", { cx, cy, r: 3.5, fill: dot.colour }));
    }
  }

  function destroy() {
    widths.disconnect();
    if (drawn) drawn.purge(plot);
  }

  return { element, paint, range, mark, destroy };
}
