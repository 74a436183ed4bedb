/** Controls of a view: sliders, choices and switches that say what they hold, and tell of every change at once. */

import { make } from "./dom.js";

/** 1, 2, 3 ... 8, then by doublings, up to `high`, which is the last stop. */
export function doublings(high) {
  const stops = [];
  for (let k = 1; k <= Math.min(8, high); k++) stops.push(k);
  for (let k = 16; k < high; k *= 2) stops.push(k);
  if (stops[stops.length - 1] !== high) stops.push(high);
  return stops;
}

/** A slider over numbers: { low, high, step }, or over given stops. A value between two stops becomes a stop. */
function slider(spec, change) {
  const input = make("input", { type: "range" });
  const output = make("output");
  const stops = spec.stops ? [...spec.stops] : null;
  if (stops) Object.assign(input, { min: 0, max: stops.length - 1, step: 1 });
  else Object.assign(input, { min: spec.low, max: spec.high, step: spec.step });
  const text = spec.text || ((value) => String(value));
  const set = (value) => {
    if (stops && !stops.includes(value)) {
      stops.push(value);
      stops.sort((a, b) => a - b);
      input.max = stops.length - 1;
    }
    const place = String(stops ? stops.indexOf(value) : value);
    if (input.value !== place) input.value = place;
    if (output.textContent === text(value)) return;
    output.textContent = text(value);
    input.setAttribute("aria-valuetext", text(value));
  };
  input.addEventListener("input", () => change(stops ? stops[Number(input.value)] : Number(input.value)));
  return { input, set, parts: [input, output] };
}

/** One of several: { options: [[value, text], ...] }. */
function choice(spec, change) {
  const input = make(
    "select",
    {},
    ...spec.options.map(([value, text]) => make("option", { value, textContent: text })),
  );
  input.addEventListener("change", () => change(spec.options[input.selectedIndex][0]));
  return { input, set: (value) => (input.value = value), parts: [input] };
}

/** On or off. */
function toggle(_spec, change) {
  const input = make("input", { type: "checkbox" });
  input.addEventListener("change", () => change(input.checked));
  return { input, set: (value) => (input.checked = value), parts: [input] };
}

/** A line of text. */
function text(spec, change) {
  const input = make("input", { type: "text", size: spec.size || 12 });
  input.addEventListener("input", () => change(input.value));
  return { input, set: (value) => input.value !== value && (input.value = value), parts: [input] };
}

const KINDS = { slider, choice, toggle, text };

/** Controls for the part of a long response that a figure shows; none for a short one. */
export function reachSpecs(T, group = "figure") {
  if (T <= 256) return {};
  const starts = [];
  for (let t = 1; t <= T; t += 32) starts.push(t);
  return {
    span: {
      kind: "choice",
      label: "tokens in the figure",
      options: [[0, "all"], [64, "64"], [256, "256"]],
      group,
    },
    start: { kind: "slider", label: "from token", stops: starts, group },
  };
}

/** The tokens that these controls put in sight. */
export function reachOf(T, { span = 0, start = 1 }) {
  if (!span) return { first: 0, count: Math.max(1, T) };
  return { first: Math.min(start, Math.max(1, T - span + 1)) - 1, count: Math.min(span, T) };
}

/** Which of these controls matter: where all tokens are shown, the first one says nothing. */
export function reachUsed({ span }) {
  return span ? ["span", "start"] : ["span"];
}

/** A control that offers some of its values. */
function narrowed(spec, values) {
  if (!values) return spec;
  if (spec.kind === "slider") return { ...spec, stops: values };
  if (spec.kind === "choice") return { ...spec, options: spec.options.filter(([value]) => values.includes(value)) };
  return spec;
}

/**
 * A row of controls. `specs`: name -> { kind, label, group, ... }. `change(name, value)` is called while a slider moves.
 * `axes`: the controls that are offered, name -> their values, or null for all values; left out, all controls.
 * Returns { element, show(values, used) }: `used` names the controls that matter now; the others are hidden.
 */
export function controls(specs, change, axes = null) {
  const groups = new Map();
  const made = {};
  for (const [name, spec] of Object.entries(specs)) {
    if (axes && !(name in axes)) continue;
    const control = KINDS[spec.kind](narrowed(spec, axes && axes[name]), (value) => change(name, value));
    const label = make("label", {}, make("span", { textContent: spec.label }), ...control.parts);
    control.input.dataset.control = name;
    made[name] = { ...control, label };
    const group = spec.group || "";
    if (!groups.has(group)) groups.set(group, make("div"));
    groups.get(group).append(label);
  }
  const element = make("div", { className: "mpo-row" }, ...groups.values());
  // JupyterLab takes no keystroke for a command of its own where an element says so.
  for (const { input } of Object.values(made)) input.dataset.lmSuppressShortcuts = "true";
  const show = (values, used) => {
    for (const [name, control] of Object.entries(made)) {
      control.set(values[name]);
      if (control.label.hidden === used.has(name)) control.label.hidden = !used.has(name);
    }
    element.dataset.values = JSON.stringify(values); // for tests, and for whoever looks
  };
  return { element, show };
}
