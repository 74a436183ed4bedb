/** Panels of curves over the tokens, one below the other, with the token in focus marked in all of them. */

import { draw, make, number } from "./dom.js";

const LEFT = 54;
const RIGHT = 8;
const LOOKS = ["left", "right"]; // classes of the two sides

/** A handful of round numbers between low and high. */
export function ticks(low, high, most = 5) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => span / s <= most);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-12 * span; x += step) {
    found.push(Math.abs(x) < step / 1e6 ? 0 : x);
  }
  return found;
}

/** Ticks of a ratio's logarithmic scale. */
function ratioTicks(low, high) {
  const all = [0.01, 0.03, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 2, 4, 10, 30, 100];
  const inside = all.filter((r) => Math.log(r) >= low && Math.log(r) <= high);
  const spaced = [];
  for (const r of inside) {
    const near = spaced.some((s) => Math.abs(Math.log(s) - Math.log(r)) < (high - low) / 7);
    if (r === 1 || !near) spaced.push(r);
  }
  return spaced.filter((r) => r === 1 || Math.abs(Math.log(r)) > (high - low) / 7);
}

/** A line through (x, y) as SVG; breaks where a value is unknown. */
function path(xs, ys) {
  let text = "";
  let pen = false;
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) {
      pen = false;
      continue;
    }
    text += `${pen ? "L" : "M"}${xs[i].toFixed(1)} ${ys[i].toFixed(1)}`;
    pen = true;
  }
  return text;
}

/**
 * A figure of panels. Returns { element, paint(panels), focus(t), destroy }.
 * A panel: { title, series: [{ values, marks }], log, band: [low, high], zero, steps }.
 */
export function curves(T, { look }) {
  const element = make("div", { className: "mpo-curves" });
  let panels = [];
  let at = null;
  const height = 132;

  const width = () => Math.max(240, element.clientWidth || 720);
  const place = (t) => LEFT + ((t + 0.5) / Math.max(1, T)) * (width() - LEFT - RIGHT);

  function range(panel) {
    let low = panel.zero ? 0 : Infinity;
    let high = panel.zero ? 0 : -Infinity;
    for (const { values } of panel.series) {
      for (const value of values) {
        if (!Number.isFinite(value)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    for (const value of panel.band || []) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (!(high > low)) return [Math.min(0, low) - 0.5, Math.max(0, high) + 0.5];
    const room = 0.06 * (high - low);
    return [low - room, high + room];
  }

  function panelSvg(panel, last) {
    const [low, high] = range(panel);
    const y = (value) => 10 + (height - 34) * (1 - (value - low) / (high - low));
    const svg = draw("svg", { width: width(), height: last ? height + 18 : height, role: "img" });
    svg.append(draw("title", {}, panel.title));
    const end = width() - RIGHT;
    if (panel.band) {
      const box = { x: LEFT, width: end - LEFT, y: y(panel.band[1]), height: y(panel.band[0]) - y(panel.band[1]) };
      svg.append(draw("rect", { ...box, class: "band" }));
    }
    const marks = panel.log
      ? ratioTicks(low, high).map((r) => [Math.log(r), String(r)])
      : ticks(low, high).map((v) => [v, number(v, Math.abs(high - low) < 3 ? 1 : 0)]);
    for (const [value, text] of marks) {
      svg.append(
        draw("line", { x1: LEFT, x2: end, y1: y(value), y2: y(value), class: value === 0 ? "axis" : "grid" }),
        draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, text),
      );
    }
    svg.append(draw("text", { x: 0, y: 8, class: "panel-title" }, panel.title));
    const xs = Array.from({ length: T }, (_, t) => place(t));
    panel.series.forEach((series, n) => {
      const ys = series.values.map(y);
      svg.append(draw("path", { d: panel.steps ? steps(series, y) : path(xs, ys), class: `line ${LOOKS[n]}` }));
      for (const t of series.marks || []) {
        const size = 4;
        const cross = n === 0
          ? `M${xs[t] - size} ${ys[t] - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}`
          : `M${xs[t] - size} ${ys[t]}h${2 * size}m${-size} ${-size}v${2 * size}`;
        svg.append(draw("path", { d: cross, class: `mark ${LOOKS[n]}` }));
      }
    });
    if (last) {
      for (const t of ticks(1, Math.max(2, T), 8).filter((v) => Number.isInteger(v) && v >= 1 && v <= T)) {
        svg.append(draw("text", { x: place(t - 1), y: height - 4, "text-anchor": "middle" }, String(t)));
      }
      svg.append(draw("text", { x: (LEFT + end) / 2, y: height + 13, "text-anchor": "middle" }, "token"));
    }
    svg.append(draw("line", { class: "focus", y1: 10, y2: height - 22, x1: -9, x2: -9 }));
    return svg;
  }

  /** A step for each block: one value over all of its tokens, with a gap where the block ends. */
  function steps({ values }, y) {
    const half = (place(1) - place(0)) / 2;
    let text = "";
    for (let t = 0; t < T; t++) {
      if (!Number.isFinite(values[t])) continue;
      const starts = t === 0 || values.ids[t] !== values.ids[t - 1];
      const ends = t === T - 1 || values.ids[t] !== values.ids[t + 1];
      const level = y(values[t]).toFixed(1);
      if (starts) text += `M${(place(t) - half + 0.5).toFixed(1)} ${y(0).toFixed(1)}V${level}`;
      if (ends) text += `H${(place(t) + half - 0.5).toFixed(1)}V${y(0).toFixed(1)}`;
    }
    return text;
  }

  function render() {
    element.replaceChildren(...panels.map((panel, n) => panelSvg(panel, n === panels.length - 1)));
    if (at !== null) focus(at);
  }

  function focus(t) {
    at = t;
    for (const line of element.querySelectorAll(".focus")) {
      line.setAttribute("x1", place(t));
      line.setAttribute("x2", place(t));
    }
  }

  element.addEventListener("pointermove", (event) => {
    const box = element.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left - LEFT) / (width() - LEFT - RIGHT)) * T);
    if (t >= 0 && t < T && t !== at) look(t);
  });
  let before = 0;
  const resized = new ResizeObserver(() => {
    if (Math.abs(width() - before) > 1) {
      before = width();
      render();
    }
  });
  resized.observe(element);

  return {
    element,
    paint: (next) => {
      panels = next;
      render();
    },
    focus,
    destroy: () => resized.disconnect(),
  };
}
