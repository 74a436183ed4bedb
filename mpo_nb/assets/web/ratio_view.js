/**
 * Importance ratios of the same tokens under four kinds of action, what falls out of the clip range, and beside each the
 * control: single tokens with the clip range scaled until averaging alone is made up for.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, numbers, destroy }.
 * data: { rows, advantages, note, values }: rows are the log-ratios of each response's own tokens, advantages one number
 * for each response, or null where they are not known.
 */

import { controls } from "./inputs.js";
import { draw, make, number } from "./dom.js";
import { ticks } from "./curves.js";

export const SPACES = ["token", "window", "block", "sequence"];
const NAMES = {
  token: () => "tokens",
  window: (k) => `windows of ${k}, weighted mean`,
  block: (k) => `blocks of ${k}, mean`,
  sequence: () => "whole responses, mean",
};
const COLOURS = { token: 0, window: 1, block: 2, sequence: 3 }; // numbers of the palette, as classes
export const KS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const BINS = 61;
const SMALL = 5000; // tokens up to which everything is worked out at once

// ---------------------------------------------------------------------------------------------------------------------
// Numbers, without a document

/** log R of every token's action, response after response; every token counts. */
export function logRatios(space, rows, { k, future }, method) {
  const single = space === "token" || (k === 1 && space !== "sequence");
  const fixed = { ids: (mask) => method.fixedBlocks(mask, k) };
  const makers = {
    window: () => method.windowActions({ k, future }),
    block: () => method.blockActions(fixed),
    sequence: () => method.sequenceActions(),
  };
  const actions = single ? null : makers[space]();
  const logs = new Float64Array(rows.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const row of rows) {
    logs.set(actions ? actions.logRatio(row, new Array(row.length).fill(1)) : row, at);
    at += row.length;
  }
  return logs;
}

/** The deviation of log R were the tokens independent with deviation 1: the root of the mean of W's squared rows. */
export function spreadFactor(space, rows, { k, future }, method) {
  if (space === "token" || (k === 1 && space !== "sequence")) return 1;
  const total = rows.reduce((sum, { length }) => sum + length, 0);
  if (space === "sequence") return Math.sqrt(rows.length / total);
  if (space === "block") {
    return Math.sqrt(rows.reduce((sum, { length }) => sum + Math.ceil(length / k), 0) / total);
  }
  const squares = [0]; // squared weights of a window of 0, 1, 2 ... tokens
  let [weights, sum] = [0, 0];
  for (const beta of method.windowBeta(k, future)) {
    weights += beta;
    sum += beta * beta;
    squares.push(sum / (weights * weights));
  }
  let all = 0;
  for (const { length } of rows) {
    for (let m = 1; m < Math.min(k, length); m++) all += squares[m];
    all += squares[Math.min(k, length)] * Math.max(0, length - Math.min(k, length) + 1);
  }
  return Math.sqrt(all / total);
}

/** The clip range whose logarithm is wider by 1 / c. */
export function widened([low, high], c) {
  return [1 - Math.max(0, 1 - low) ** (1 / c), (1 + high) ** (1 / c) - 1];
}

/** How many of some rising numbers lie below a limit; with `too`, how many do not lie above it. */
function countBelow(sorted, limit, too = false) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < limit || (too && sorted[middle] === limit)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Log-ratios in rising order, apart by what their response's advantage pushes to: so shares are looked up. */
export function ordered(logs, advantages) {
  const pick = (wanted) => logs.filter((_, i) => Math.sign(advantages ? advantages[i] : 0) === wanted).sort();
  return { n: logs.length, known: advantages !== null, up: pick(1), down: pick(-1), still: pick(0) };
}

/** Shares of actions: outside the clip range, and those that lose their gradient for it. */
export function shares({ n, known, up, down, still }, [low, high]) {
  const [below, above] = [Math.log(Math.max(1 - low, 1e-300)), Math.log1p(high)];
  const under = (list) => countBelow(list, below);
  const over = (list) => list.length - countBelow(list, above, true);
  const outside = [up, down, still].reduce((sum, list) => sum + under(list) + over(list), 0);
  const all = Math.max(1, n);
  return { outside: outside / all, lost: known ? (under(down) + over(up)) / all : NaN };
}

/** Standard deviation, with 1/n. */
export function deviation(values) {
  const mean = values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
  return Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / Math.max(1, values.length));
}

/** The size that a share of all numbers does not exceed. */
export function sizeQuantile(logs, share) {
  const sizes = logs.map(Math.abs).sort();
  const at = share * (sizes.length - 1);
  const [i, j] = [Math.floor(at), Math.ceil(at)];
  return sizes[i] + (at - i) * (sizes[j] - sizes[i]);
}

/** The largest log-ratio that is drawn; `most` is that of nearly all tokens. */
export function reach(most, [low, high]) {
  return Math.max(0.05, 1.7 * Math.log1p(high), -1.7 * Math.log(Math.max(1 - low, 0.05)), Math.min(1.2, most));
}

/** Counts in 61 bins, inside and outside the clip range; what lies beyond the ends counts in the last bins. */
export function histogram(values, [low, high], end) {
  const [below, above] = [Math.log(Math.max(1 - low, 1e-300)), Math.log1p(high)];
  const [inside, outside] = [new Array(BINS).fill(0), new Array(BINS).fill(0)];
  for (const value of values) {
    const bin = Math.max(0, Math.min(BINS - 1, Math.floor(((value + end) / (2 * end)) * BINS)));
    (value < below || value > above ? outside : inside)[bin] += 1;
  }
  return { inside, outside };
}

/** How much of the fall from tokens to a kind of action is averaging, in words. */
export function fallText(token, other, control, n, verb) {
  const cut = Math.round(token * n);
  if (cut < 50) {
    const rare = token < 0.01 ? ", and clipping can hardly be what sets the runs apart" : "";
    return `with ${cut} of ${
      n.toLocaleString("en")
    } tokens ${verb} there is too little to say how much of a difference is averaging${rare}`;
  }
  const fall = token - other;
  if (fall < 2 * Math.sqrt((2 * token * (1 - token)) / n)) {
    return "so there is no fall, beyond two standard errors of such counts, to explain";
  }
  const share = (token - control) / fall;
  const part = share > 0.95 ? "all" : share <= 0.05 ? "none" : `about ${Math.round(100 * share)}%`;
  return `so averaging by itself accounts for ${part} of the fall`;
}

/** A share in percent. */
export function percent(x, digits = 2) {
  return Number.isFinite(x) ? `${(100 * x).toFixed(digits)}%` : "\u2013";
}

// ---------------------------------------------------------------------------------------------------------------------
// Pictures

/** An element that paints itself again when its width changes. */
function sheet(paint) {
  const element = make("div");
  let before = 0;
  const width = () => Math.max(120, element.clientWidth || 300);
  const again = () => paint(element, width());
  const watcher = new ResizeObserver(() => {
    if (Math.abs(width() - before) < 1) return;
    before = width();
    again();
  });
  watcher.observe(element);
  return { element, again, destroy: () => watcher.disconnect() };
}

const RATIOS = [0.01, 0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 4, 10, 100];

/** Marks of an axis of ratios that leave each other room; 1 is always among them. */
function ratioMarks(end, width) {
  const room = (34 / width) * 2 * end;
  const spaced = [1];
  const near = [...RATIOS].sort((a, b) => Math.abs(Math.log(b)) - Math.abs(Math.log(a)));
  for (const r of near) {
    const at = Math.log(r);
    if (Math.abs(at) < 0.96 * end && spaced.every((s) => Math.abs(Math.log(s) - at) > room)) spaced.push(r);
  }
  return spaced;
}

let patterns = 0; // made so far on this page

/** Stripes in the colour of the marks, as the fill of what lies outside. */
function hatching(svg) {
  const id = `mpo-hatch-${patterns++}-${Math.random().toString(36).slice(2, 8)}`;
  const size = { width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  svg.append(
    draw("defs", {}, draw("pattern", { id, ...size }, draw("rect", { width: 2, height: 4, class: "stripe" }))),
  );
  return `url(#${id})`;
}

/** One histogram: shares on a logarithmic axis, what is outside the clip range hatched. */
function histogramSvg({ counts, n, end, clip, least, space, labels, name, width }) {
  const [left, right, top, height] = [labels ? 44 : 8, 6, 6, 118];
  const floor = height - 20;
  const x = (value) => left + ((value + end) / (2 * end)) * (width - left - right);
  const y = (share) => top + (floor - top) * (Math.log10(share) / Math.log10(least));
  const svg = draw("svg", { width, height, role: "img", class: `space${COLOURS[space]}` });
  svg.append(draw("title", {}, name));
  const ends = [Math.log(Math.max(1 - clip[0], 1e-300)), Math.log1p(clip[1])].map((v) =>
    Math.max(-end, Math.min(end, v))
  );
  svg.append(
    draw("rect", { x: x(ends[0]), width: x(ends[1]) - x(ends[0]), y: top, height: floor - top, class: "band" }),
  );
  for (const share of [1, 0.1, 0.01, 0.001, 1e-4, 1e-5].filter((share) => share >= least)) {
    svg.append(draw("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), class: "grid" }));
    if (labels) {
      svg.append(
        draw("text", { x: left - 5, y: y(share) + 4, "text-anchor": "end" }, `${+(100 * share).toPrecision(2)}%`),
      );
    }
  }
  for (const r of ratioMarks(end, width - left - right)) {
    svg.append(draw("text", { x: x(Math.log(r)), y: height - 5, "text-anchor": "middle" }, String(r)));
  }
  const step = (width - left - right) / BINS;
  for (const [kind, bins] of Object.entries(counts)) {
    let path = "";
    bins.forEach((count, bin) => {
      if (!count) return;
      const up = y(Math.max(least, count / n));
      path += `M${(left + bin * step + 0.4).toFixed(1)} ${floor}V${up.toFixed(1)}h${(step - 0.8).toFixed(1)}V${floor}z`;
    });
    svg.append(draw("path", { d: path, class: kind, ...(kind === "outside" ? { fill: hatching(svg) } : {}) }));
  }
  for (const value of ends) {
    if (Math.abs(value) < end) {
      svg.append(draw("line", { x1: x(value), x2: x(value), y1: top, y2: floor, class: "edge" }));
    }
  }
  svg.append(draw("line", { x1: left, x2: width - right, y1: floor, y2: floor, class: "axis" }));
  return svg;
}

const MARKS = {
  token: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`,
  window: (x, y) => `M${x - 3.6} ${y - 3.6}h7.2v7.2h-7.2z`,
  block: (x, y) => `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
  sequence: (x, y) => `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`,
};

/** Shares against K, each kind of action with its control, dotted. */
function curvesSvg({ curves, k, width, title }) {
  const [left, right, top, height] = [52, 12, 8, 250];
  const floor = height - 38;
  const most = Math.max(1e-4, ...curves.flatMap(({ share, control }) => [...share, ...(control || [])]));
  const high = 1.06 * most;
  const x = (value) => left + (Math.log(value / 0.9) / Math.log(36 / 0.9)) * (width - left - right);
  const y = (share) => top + (floor - top) * (1 - share / high);
  const svg = draw("svg", { width, height, role: "img", class: "curves" });
  svg.append(draw("title", {}, title));
  const marks = ticks(0, high, 5);
  const digits = Math.max(0, Math.ceil(-Math.log10(100 * (marks[1] || high))));
  for (const share of marks) {
    svg.append(
      draw("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), class: share ? "grid" : "axis" }),
      draw("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share, digits)),
    );
  }
  for (const value of KS.filter((value) => width > 500 || ![3, 6, 12, 24].includes(value))) {
    svg.append(draw("text", { x: x(value), y: floor + 16, "text-anchor": "middle" }, String(value)));
  }
  svg.append(
    draw("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "K, tokens per action (log scale)"),
  );
  svg.append(draw("line", { x1: x(k), x2: x(k), y1: top, y2: floor, class: "now" }));
  for (const { space, share, control } of curves) {
    const group = draw("g", { class: `space${COLOURS[space]}` });
    const line = (values) =>
      values.map((value, i) => `${i ? "L" : "M"}${x(KS[i]).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    if (control) group.append(draw("path", { d: line(control), class: "control" }));
    group.append(
      draw("path", { d: line(share), class: "line" }),
      draw("path", { d: share.map((value, i) => MARKS[space](x(KS[i]), y(value))).join(""), class: "mark" }),
    );
    svg.append(group);
  }
  return { svg, kAt: (px) => 0.9 * (36 / 0.9) ** ((px - left) / (width - left - right)) };
}

// ---------------------------------------------------------------------------------------------------------------------

export function mount(element, data, method, tell = null) {
  const known = data.advantages !== null;
  const values = {
    k: 4,
    future: 0.2,
    low: 0.2,
    high: 0.2,
    measure: known ? "lost" : "outside",
    ...data.values,
  };
  const measures = [["lost", "that lose their gradient"], ["outside", "outside the clip range"]];
  const two = (x) => number(x);
  const specs = {
    k: { kind: "slider", label: "tokens per action, K", low: 1, high: 32, step: 1 },
    future: { kind: "slider", label: "share of later tokens in a window", low: 0, high: 0.95, step: 0.05, text: two },
    low: { kind: "slider", label: "clip range, below 1 by", low: 0, high: 0.95, step: 0.01, text: two },
    high: { kind: "slider", label: "clip range, above 1 by", low: 0, high: 3, step: 0.01, text: two },
    measure: { kind: "choice", label: "count actions", options: known ? measures : measures.slice(1) },
  };
  const tokens = Float64Array.from(data.rows.flat());
  const weights = known ? data.rows.flatMap((row, i) => new Array(row.length).fill(data.advantages[i])) : null;
  const inOrder = ordered(tokens, weights);
  const nearlyAll = sizeQuantile(tokens, 0.999);
  const spread = deviation(tokens);
  const remembered = new Map(); // kinds of action that were worked out
  const panel = controls(specs, (name, value) => change({ [name]: value }, true), data.axes);
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const legend = make("p", { className: "mpo-keys" });
  const top = sheet(paintCurves);
  const detail = make("p", { className: "mpo-detail" });
  const grid = make("div", { className: "mpo-pairs" });
  const sheets = [];
  const root = make(
    "div",
    { className: "mpo-lane-view mpo-ratios" },
    panel.element,
    words,
    legend,
    top.element,
    detail,
    grid,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Ratios and the clip range");
  let kAt = null;
  let later = 0; // what is still to be drawn
  let now = null; // the four kinds of action with the present settings

  /** A kind of action worked out: log R, in order too, its deviation, and c. The last hundred are kept. */
  function actionsOf(space, k) {
    const key = JSON.stringify([space, space === "sequence" ? 0 : k, space === "window" ? values.future : 0]);
    if (!remembered.has(key)) {
      if (remembered.size > 100) remembered.clear();
      const settings = { k, future: values.future };
      const single = space === "token" || (k === 1 && space !== "sequence");
      const logs = single ? tokens : logRatios(space, data.rows, settings, method);
      remembered.set(key, {
        logs,
        sorted: single ? inOrder : ordered(logs, weights),
        spread: single ? spread : deviation(logs),
        factor: spreadFactor(space, data.rows, settings, method),
      });
    }
    return remembered.get(key);
  }

  function row(space, k = values.k) {
    const { logs, sorted, spread: own, factor } = actionsOf(space, k);
    const clip = [values.low, values.high];
    const wide = widened(clip, factor);
    const share = shares(sorted, clip)[values.measure];
    const control = space === "token" ? null : shares(inOrder, wide)[values.measure];
    return { space, name: NAMES[space](k), logs, spread: own, factor, clip, wide, share, control };
  }

  const lossText = () => (values.measure === "lost" ? "without gradient" : "outside");
  const capital = (text) => text[0].toUpperCase() + text.slice(1);

  function paintCurves(place, width) {
    const curves = SPACES.map((space) => {
      const rows = KS.map((k) => row(space, k));
      return {
        space,
        share: rows.map(({ share }) => share),
        control: space === "token" ? null : rows.map(({ control }) => control),
      };
    });
    const title = `Share of actions ${lossText()} against K`;
    const drawn = curvesSvg({ curves, k: values.k, width, title });
    kAt = drawn.kAt;
    place.replaceChildren(make("b", { textContent: title }), drawn.svg);
  }

  /** A kind of action: its histogram, and beside it that of its control. */
  function pair(space) {
    const cell = (control) => {
      const head = make("p");
      const one = sheet((place, width) => {
        const { logs, clip, wide, name, share, control: controlShare, factor } = now[space];
        const end = reach(nearlyAll, clip);
        const shown = control ? tokens : logs;
        const range = control ? wide : clip;
        const least = Math.max(1e-6, 0.5 / tokens.length);
        head.replaceChildren(
          make("b", { textContent: control ? `Control: tokens, range \u00d7 1/${number(factor)}` : capital(name) }),
          make("span", { textContent: `${percent(control ? controlShare : share)} ${lossText()}` }),
        );
        const counts = histogram(shown, range, end);
        place.replaceChildren(histogramSvg({
          counts,
          n: shown.length,
          end,
          clip: range,
          least,
          space: control ? "token" : space,
          labels: !control,
          name: `Ratios of ${control ? "the control" : name}`,
          width,
        }));
      });
      sheets.push(one);
      return make("div", {}, head, one.element);
    };
    const hint = make("p", {
      className: "mpo-hint",
      textContent:
        "Each row below has its control on this side: single tokens, with the clip range (in logarithms) divided by c. c is how far averaging alone would shrink the spread, were tokens independent. Histograms: share of actions against their ratio, both on log scales.",
    });
    return [cell(false), space === "token" ? hint : cell(true)];
  }

  function table() {
    const heads = ["actions", "spread of log R (nats)", "relative to tokens", "c", `share ${lossText()}`, "control"];
    const lines = SPACES.map((space) => {
      const { name, spread: own, factor, share, control } = now[space];
      const relative = spread > 0 ? number(own / spread) : "\u2013";
      return [
        name,
        number(own, 4),
        relative,
        number(factor),
        percent(share),
        control === null ? "\u2013" : percent(control),
      ];
    });
    const cells = (kind, texts) => make("tr", {}, ...texts.map((text) => make(kind, { textContent: text })));
    return make(
      "table",
      {},
      make("thead", {}, cells("th", heads)),
      make("tbody", {}, ...lines.map((line) => cells("td", line))),
    );
  }

  function summary() {
    const { token, window: windows } = now;
    const n = tokens.length;
    const verb = values.measure === "lost" ? "clipped" : "outside the range";
    const cut = values.measure === "lost" ? "lose their gradient" : "lie outside the range";
    const digits = (x) => percent(x, x < 0.02 ? 2 : 1);
    return [
      `${n.toLocaleString("en")} tokens of ${data.rows.length.toLocaleString("en")} responses.`,
      `${digits(token.share)} of tokens ${cut}, and ${digits(windows.share)} of ${NAMES.window(values.k)}.`,
      `The control, with the same spread, has ${digits(windows.control)}:`,
      `${fallText(token.share, windows.share, windows.control, n, verb)};`,
      "a smaller clip fraction is no evidence for a recipe by itself.",
      data.note,
    ].join(" ").trim();
  }

  const keys = SPACES.map((space) => {
    const svg = draw("svg", { width: 16, height: 12, class: `space${COLOURS[space]}`, "aria-hidden": "true" });
    svg.append(draw("path", { d: MARKS[space](8, 6), class: "mark" }));
    return make("span", {}, svg, ` ${NAMES[space]("K")}`);
  });
  legend.append(
    ...keys,
    make("span", { textContent: "\u22ef dotted: their controls" }),
    make("span", { textContent: "hatched: outside the clip range" }),
  );
  grid.append(...SPACES.flatMap(pair));
  const numbers = make("div", { className: "mpo-table", tabIndex: 0 });
  numbers.setAttribute("role", "region");
  numbers.setAttribute("aria-label", "Actions in numbers");
  root.append(numbers);
  element.replaceChildren(root);

  function place(event) {
    const k = kAt(event.clientX - top.element.getBoundingClientRect().left);
    return Math.max(1, Math.min(32, Math.round(k)));
  }
  const told = () => {
    detail.textContent = "Point at the curves to read them off; press and drag to choose K.";
  };
  top.element.addEventListener("pointermove", (event) => {
    const k = place(event);
    if (event.buttons && k !== values.k) change({ k }, true);
    const parts = SPACES.map((space) => {
      const { share, control } = row(space, k);
      return `${NAMES[space](k)} ${percent(share)}${control === null ? "" : ` (control ${percent(control)})`}`;
    });
    detail.textContent = `K = ${k}: ${parts.join("; ")}.`;
  });
  top.element.addEventListener("pointerdown", (event) => change({ k: place(event) }, true));
  top.element.addEventListener("pointerleave", told);

  function paint() {
    panel.show(values, new Set(Object.keys(specs)));
    now = Object.fromEntries(SPACES.map((space) => [space, row(space)]));
    words.textContent = summary();
    for (const one of sheets) one.again();
    numbers.replaceChildren(table());
    clearTimeout(later);
    if (tokens.length <= SMALL) top.again();
    else later = setTimeout(() => workOut([...KS]));
  }

  /** The curves of many tokens, K by K, so that a slider which is being dragged moves on meanwhile. */
  function workOut(ks) {
    if (!ks.length) return top.again();
    SPACES.forEach((space) => actionsOf(space, ks[0]));
    later = setTimeout(() => workOut(ks.slice(1)));
  }

  function change(next, byHand = false) {
    Object.assign(values, next);
    paint();
    if (byHand && tell) tell({ ...values });
  }

  told();
  paint();
  return {
    set: (next) => change(next),
    values: () => ({ ...values }),
    numbers: () => now,
    destroy: () => {
      clearTimeout(later);
      top.destroy();
      for (const one of sheets) one.destroy();
      element.replaceChildren();
    },
  };
}
