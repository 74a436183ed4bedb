/** Panels of curves over the tokens, one below the other, with the token in focus marked in all of them. */

import { draw, make, number } from "./dom.js";

const LEFT = 54;
const RIGHT = 8;
const TOP = 18;
const HEIGHT = 140; // of a panel, with its title
const FLOOR = HEIGHT - 24; // where a panel's lowest value lies
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

/** Ticks with their texts, with as many digits as tell them apart truly. */
function labelled(values) {
  const digits = [0, 1, 2, 3].find((n) => values.every((v) => Math.abs(Number(v.toFixed(n)) - v) < 1e-9)) ?? 3;
  return values.map((v) => [v, number(v, digits)]);
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

/** What a panel's axis spans. */
function range(panel) {
  let low = panel.zero ? 0 : Infinity;
  let high = panel.zero ? 0 : -Infinity;
  const reach = (value) => {
    if (value < low) low = value;
    if (value > high) high = value;
  };
  for (const { values } of panel.series) for (const value of values) if (Number.isFinite(value)) reach(value);
  for (const value of panel.band || []) reach(value);
  if (!(high > low)) {
    return [Math.min(0, Number.isFinite(low) ? low : 0) - 0.5, Math.max(0, Number.isFinite(high) ? high : 0) + 0.5];
  }
  const room = 0.06 * (high - low);
  return [low - room, high + room];
}

const short = (x) => Math.round(10 * x) / 10;

/** A line through (x, y) as SVG; breaks where a value is unknown. More than two points a pixel become their range. */
function path(place, values, y) {
  const parts = [];
  let pen = false;
  let column = NaN;
  let low = 0;
  let high = 0;
  const flush = () => {
    if (!Number.isNaN(column)) parts.push(`L${column} ${short(low)}${low === high ? "" : `V${short(high)}`}`);
    column = NaN;
  };
  const dense = place(1) - place(0) < 0.7;
  for (let t = 0; t < values.length; t++) {
    if (!Number.isFinite(values[t])) {
      flush();
      pen = false;
      continue;
    }
    const x = place(t);
    const at = y(values[t]);
    if (!pen) {
      flush();
      parts.push(`M${short(x)} ${short(at)}`);
      pen = true;
    } else if (!dense) parts.push(`L${short(x)} ${short(at)}`);
    else if (Math.round(x) === column) {
      low = Math.min(low, at);
      high = Math.max(high, at);
    } else {
      flush();
      column = Math.round(x);
      low = high = at;
    }
  }
  flush();
  return parts.join("");
}

/**
 * A step for each block: one value over all of its tokens, with a gap where the block ends. Blocks that would be
 * narrower than a few pixels are drawn as a line from level to level.
 */
function steps(place, values, y) {
  const half = (place(1) - place(0)) / 2;
  const blocks = values.reduce((n, value, t) => n + (Number.isFinite(value) && values.ids[t] !== values.ids[t - 1]), 0);
  if (2 * half * values.length < 4 * blocks) return path(place, values, y);
  const gap = Math.min(0.5, half / 2);
  const zero = short(y(0));
  const parts = [];
  for (let t = 0; t < values.length; t++) {
    if (!Number.isFinite(values[t])) continue;
    const starts = t === 0 || values.ids[t] !== values.ids[t - 1];
    const ends = t === values.length - 1 || values.ids[t] !== values.ids[t + 1];
    if (starts) parts.push(`M${short(place(t) - half + gap)} ${zero}V${short(y(values[t]))}`);
    if (ends) parts.push(`H${short(place(t) + half - gap)}V${zero}`);
  }
  return parts.join("");
}

/** The part of a series that is in sight; positions count from its first token. */
function within(series, { first, count }) {
  if (first === 0 && count >= series.values.length) return series;
  const cut = (x) => x && x.slice(first, first + count);
  const marks = (series.marks || []).map((t) => t - first).filter((t) => t >= 0 && t < count);
  return { values: Object.assign(cut(series.values), { ids: cut(series.values.ids) }), marks };
}

/** Small crosses at some tokens, one shape for each side. */
function crosses(place, { values, marks }, y, n) {
  const size = 4;
  return (marks || []).map((t) => {
    const x = short(place(t));
    const at = short(y(values[t]));
    return n === 0
      ? `M${x - size} ${at - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}`
      : `M${x - size} ${at}h${2 * size}m${-size} ${-size}v${2 * size}`;
  }).join("");
}

/** One panel: its elements are made once, and a later picture moves what differs. */
function panelView(sides, last) {
  const title = draw("title");
  const heading = draw("text", { x: 0, y: 9, class: "panel-title" });
  const band = draw("rect", { class: "band" });
  const scale = draw("g");
  const lines = sides.map((look) => draw("path", { class: `line ${look}` }));
  const marks = sides.map((look) => draw("path", { class: `mark ${look}` }));
  const tokens = draw("g");
  const focus = draw("line", { class: "focus", y1: TOP, y2: HEIGHT - 22, x1: -9, x2: -9 });
  const svg = draw("svg", { role: "img" }, title, band, scale, heading, ...lines, ...marks, tokens, focus);
  const written = new Map(); // element -> attribute -> text

  function write(element, attributes) {
    const own = written.get(element) || {};
    for (const [name, value] of Object.entries(attributes)) {
      const text = String(value);
      if (own[name] === text) continue;
      element.setAttribute(name, text);
      own[name] = text;
    }
    written.set(element, own);
  }

  /** A group whose children are made anew where `key` differs. */
  function fill(group, key, children) {
    if (written.get(group) === key) return;
    written.set(group, key);
    group.replaceChildren(...children());
  }

  function paintScale(panel, low, high, y, end) {
    const marked = panel.log ? ratioTicks(low, high).map((r) => [Math.log(r), String(r)]) : labelled(ticks(low, high));
    const key = JSON.stringify([marked, low, high, end]);
    fill(scale, key, () =>
      marked.flatMap(([value, text]) => [
        draw("line", { x1: LEFT, x2: end, y1: y(value), y2: y(value), class: value === 0 ? "axis" : "grid" }),
        draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, text),
      ]));
  }

  function paintTokens({ first, count }, place, end) {
    const last = first + count;
    const shown = ticks(first + 1, Math.max(first + 2, last), 8).filter((v) => Number.isInteger(v) && v <= last);
    fill(tokens, `${first} ${count} ${end}`, () => [
      ...shown.map((t) => draw("text", { x: place(t - 1), y: HEIGHT - 4, "text-anchor": "middle" }, String(t))),
      draw("text", { x: (LEFT + end) / 2, y: HEIGHT + 13, "text-anchor": "middle" }, "token"),
    ]);
  }

  function paint(panel, reach, width, place) {
    const [low, high] = range(panel);
    const y = (value) => TOP + (FLOOR - TOP) * (1 - (value - low) / (high - low));
    const end = width - RIGHT;
    write(svg, { width, height: last ? HEIGHT + 18 : HEIGHT });
    if (heading.textContent !== panel.title) heading.textContent = title.textContent = panel.title;
    if (panel.band) {
      const top = y(panel.band[1]);
      write(band, { x: LEFT, width: end - LEFT, y: short(top), height: short(y(panel.band[0]) - top) });
    }
    paintScale(panel, low, high, y, end);
    panel.series.forEach((series, n) => {
      const seen = within(series, reach);
      const here = (t) => place(t + reach.first);
      write(lines[n], { d: (panel.steps ? steps : path)(here, seen.values, y) });
      write(marks[n], { d: crosses(here, seen, y, n) });
    });
    if (last) paintTokens(reach, place, end);
  }

  return { svg, paint, focus: (x) => write(focus, { x1: short(x), x2: short(x) }) };
}

/**
 * A figure of panels. Returns { element, paint(panels, reach), focus(t), destroy }.
 * A panel: { title, series: [{ values, marks }], log, band: [low, high], zero, steps }.
 * reach: { first, count }, the tokens that are in sight; left out, all of them.
 * `look(t)` is called for the token under the pointer.
 */
export function curves(T, { look }) {
  const element = make("div", { className: "mpo-curves" });
  let width = 720; // until the page says how wide the element is
  let panels = [];
  let views = [];
  let at = null;
  let reach = { first: 0, count: Math.max(1, T) };

  const place = (t) => LEFT + ((t - reach.first + 0.5) / reach.count) * (width - LEFT - RIGHT);

  function render() {
    if (views.length !== panels.length) {
      views = panels.map((panel, n) => panelView(panel.series.map((_, i) => LOOKS[i]), n === panels.length - 1));
      element.replaceChildren(...views.map((view) => view.svg));
    }
    views.forEach((view, n) => view.paint(panels[n], reach, width, place));
    if (at !== null) focus(at);
  }

  function focus(t) {
    at = t;
    const seen = t >= reach.first && t < reach.first + reach.count;
    for (const view of views) view.focus(seen ? place(t) : -9);
  }

  element.addEventListener("pointermove", (event) => {
    const box = element.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (width - LEFT - RIGHT);
    const t = share < 0 || share >= 1 ? -1 : reach.first + Math.floor(share * reach.count);
    if (t >= 0 && t < T && t !== at) look(t);
  });
  const resized = new ResizeObserver(([entry]) => {
    const now = Math.max(240, Math.floor(entry.contentRect.width));
    if (entry.contentRect.width === 0 || Math.abs(now - width) < 1) return;
    width = now;
    render();
  });
  resized.observe(element);

  return {
    element,
    paint: (next, inSight = { first: 0, count: Math.max(1, T) }) => {
      panels = next;
      reach = inSight;
      render();
    },
    focus,
    destroy: () => resized.disconnect(),
  };
}
