/**
 * A map of policies: the path of each run, a mixture of policies that moves along a line, and what a policy writes.
 *
 * mount(element, data) draws into an element and returns { set, state, destroy }.
 * data: { methods: [{ name, colour }], runs: [{ method, seed, points }], mixtures: [{ name, points }], axes: [x, y],
 *         seeds, values: { seed, line, total } }. The first point of a run is the policy before training. A
 * point is { x, y, label, facts, samples }, one of a mixture has its total weight too; a sample is a list of
 * [text, whether it is wrong].
 */

import { draw, make, number } from "./dom.js";
import { controls } from "./inputs.js";
import { ticks } from "./curves.js";

const LOW = 300; // pixels of height
const HIGH = 460;
const EDGE = { left: 54, right: 14, top: 12, bottom: 40 };
const SHAPES = ["circle", "square", "diamond", "triangle"];

/** The mark of a method, so that colours are not all there is to tell. */
function mark(shape, x, y, size) {
  if (shape === "circle") return draw("circle", { cx: x, cy: y, r: size });
  const corners = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    diamond: [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
    triangle: [[0, -1.3], [1.2, 0.9], [-1.2, 0.9]],
  }[shape];
  return draw("polygon", { points: corners.map(([a, b]) => `${x + a * size},${y + b * size}`).join(" ") });
}

/** Pixels for numbers: one scale for both axes, for distances on the map are distances. */
export function frameOf(points, width) {
  const [xs, ys] = [points.map(({ x }) => x), points.map(({ y }) => y)];
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const wide = Math.max(60, width - EDGE.left - EDGE.right);
  const across = 1.1 * Math.max(right - left, 1e-9);
  const up = 1.1 * Math.max(top - bottom, 1e-9);
  const room = Math.min(HIGH, Math.max(LOW, (wide * up) / across)) - EDGE.top - EDGE.bottom;
  const scale = Math.min(wide / across, room / up); // pixels for a unit
  const [x0, y0] = [(left + right) / 2, (bottom + top) / 2];
  const place = (x, y) => [EDGE.left + wide / 2 + scale * (x - x0), EDGE.top + room / 2 - scale * (y - y0)];
  const spans = [[x0 - wide / 2 / scale, x0 + wide / 2 / scale], [y0 - room / 2 / scale, y0 + room / 2 / scale]];
  return { place, spans, wide, room, height: room + EDGE.top + EDGE.bottom };
}

/** Axes with ticks and names. */
function frame(svg, { place, spans, wide, room, height }, names) {
  const [x, y] = spans.map(([low, high]) => ticks(low, high, 5).filter((at) => at > low && at < high));
  const line = (x1, y1, x2, y2, className) => draw("line", { x1, y1, x2, y2, class: className });
  const text = (words, at, attributes = {}) => {
    const node = draw("text", { x: at[0], y: at[1], ...attributes });
    node.textContent = words;
    return node;
  };
  for (const at of x) {
    const [left] = place(at, 0);
    svg.append(line(left, EDGE.top, left, EDGE.top + room, "grid"));
    svg.append(text(number(at, 1), [left, EDGE.top + room + 14], { "text-anchor": "middle" }));
  }
  for (const at of y) {
    const [, top] = place(0, at);
    svg.append(line(EDGE.left, top, EDGE.left + wide, top, "grid"));
    svg.append(text(number(at, 1), [EDGE.left - 6, top + 4], { "text-anchor": "end" }));
  }
  svg.append(text(names[0], [EDGE.left + wide / 2, height - 6], { "text-anchor": "middle" }));
  const middle = EDGE.top + room / 2;
  svg.append(text(names[1], [12, middle], { "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }));
}

export function mount(element, data) {
  const values = { ...data.values };
  let chosen = { run: data.runs.findIndex(({ seed }) => seed === 0), step: data.runs[0].points.length - 1 };
  let mixing = false; // whether the words are about the mixture or about a run

  const svg = draw("svg", { role: "group", tabindex: 0 });
  svg.setAttribute("aria-label", "Map of policies. Left and right: another step; up and down: another run.");
  svg.dataset.lmSuppressShortcuts = "true";
  const picture = make("div", { className: "mpo-policies-picture" }, svg);
  const title = make("p", { className: "mpo-policies-title" });
  title.setAttribute("aria-live", "polite");
  const samples = make("ul", { className: "mpo-policies-samples" });
  const words = make("section", { className: "mpo-policies-words" }, title, samples);
  const lines = data.mixtures.map(({ name }, at) => [String(at), name]);
  const seeds = [["all", "all seeds"], ...data.seeds.map((seed) => [String(seed), `seed ${seed}`])];
  const stops = data.mixtures[0].points.map(({ total }) => total);
  const panel = controls({
    seed: { kind: "choice", label: "runs of", options: seeds },
    line: { kind: "choice", label: "mix the start with", options: lines },
    total: { kind: "slider", label: "z, their weight together", stops, text: (z) => number(z, 1) },
  }, (name, value) => set({ [name]: value }));
  const legend = make("p", { className: "mpo-policies-legend" });
  const root = make("div", { className: "mpo-figure mpo-policies" }, panel.element, picture, legend, words);

  const shown = () => data.runs.filter(({ seed }) => values.seed === "all" || String(seed) === values.seed);
  const everywhere = [...data.runs, ...data.mixtures].flatMap(({ points }) => points);

  /** A path through points, with a mark at each. */
  function path(run, place) {
    const colour = data.methods[run.method].colour;
    const at = run.points.map(({ x, y }) => place(x, y));
    const group = draw("g", { style: `color:${colour}` });
    group.append(draw("polyline", { points: at.map((p) => p.join(",")).join(" "), class: "path" }));
    run.points.forEach((point, step) => {
      if (!step) return;
      const node = mark(SHAPES[run.method % SHAPES.length], ...at[step], step === run.points.length - 1 ? 5 : 3);
      const here = !mixing && data.runs[chosen.run] === run && chosen.step === step;
      node.setAttribute("class", here ? "policy chosen" : "policy");
      node.append(draw("title", {}, `${point.label}: ${point.facts}`));
      node.addEventListener("click", () => choose(data.runs.indexOf(run), step));
      group.append(node);
    });
    return group;
  }

  function paint() {
    const width = Math.max(260, picture.clientWidth || 640);
    const geometry = frameOf(everywhere, width);
    svg.setAttribute("width", width);
    svg.setAttribute("height", geometry.height);
    svg.setAttribute("viewBox", `0 0 ${width} ${geometry.height}`);
    svg.replaceChildren();
    frame(svg, geometry, data.axes);
    for (const run of shown()) svg.append(path(run, geometry.place));
    const [x0, y0] = geometry.place(data.runs[0].points[0].x, data.runs[0].points[0].y);
    const start = draw("circle", { cx: x0, cy: y0, r: 6, class: mixing || chosen.step ? "start" : "start chosen" });
    start.append(draw("title", {}, data.runs[0].points[0].label));
    start.addEventListener("click", () => choose(chosen.run, 0));
    const mixture = data.mixtures[values.line].points;
    const along = mixture.map(({ x, y }) => geometry.place(x, y).join(",")).join(" ");
    const now = mixture.find(({ total }) => total === values.total);
    const [x, y] = geometry.place(now.x, now.y);
    const star = draw("path", { d: `M${x - 8},${y}H${x + 8}M${x},${y - 8}V${y + 8}`, class: "mixture" });
    svg.append(draw("polyline", { points: along, class: "mixtures" }), start, star);
    say(mixing ? now : data.runs[chosen.run].points[chosen.step]);
    panel.show(values, new Set(["seed", "line", "total"]));
    root.dataset.state = JSON.stringify({ ...values, mixing, ...chosen, x: now.x, y: now.y });
  }

  function say({ label, facts, samples: written }) {
    title.replaceChildren(make("b", { textContent: label }), ` ${facts}`);
    const items = written.map((pieces) => {
      const marked = pieces.map(([text, wrong]) => make(wrong ? "mark" : "span", { textContent: text }));
      return make("li", {}, make("code", {}, ...marked));
    });
    samples.replaceChildren(...items);
  }

  function choose(run, step) {
    chosen = { run, step };
    mixing = false;
    paint();
  }

  function set(changes) {
    Object.assign(values, changes);
    if ("line" in changes) values.line = Number(values.line);
    if ("total" in changes || "line" in changes) mixing = true;
    const seen = shown();
    if (!seen.includes(data.runs[chosen.run])) chosen.run = data.runs.indexOf(seen[0]);
    paint();
  }

  svg.addEventListener("keydown", (event) => {
    const seen = shown().map((run) => data.runs.indexOf(run));
    const at = seen.indexOf(chosen.run);
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!moves) return;
    event.preventDefault();
    const steps = data.runs[chosen.run].points.length;
    choose(seen[(at + moves[0] + seen.length) % seen.length], (chosen.step + moves[1] + steps) % steps);
  });
  for (const [at, { name, colour }] of data.methods.entries()) {
    const icon = draw("svg", { width: 16, height: 14, style: `color:${colour}` });
    icon.append(mark(SHAPES[at % SHAPES.length], 8, 7, 4.5));
    legend.append(make("span", {}, icon, name));
  }
  const cross = draw("svg", { width: 16, height: 14 }, draw("path", { d: "M2,7H14M8,1V13", class: "mixture" }));
  const ring = draw("svg", { width: 16, height: 14 }, draw("circle", { cx: 8, cy: 7, r: 5, class: "start" }));
  legend.append(make("span", {}, ring, "before training"), make("span", {}, cross, "mixture"));
  element.replaceChildren(root);
  const resized = new ResizeObserver(() => paint());
  resized.observe(picture);
  paint();
  return {
    set,
    state: () => ({ ...values, ...chosen, mixing }),
    destroy: () => (resized.disconnect(), element.replaceChildren()),
  };
}
