/**
 * Where the expected gradient of each kind of action points, and how far a batch scatters around it: exact, worked out
 * anew from all responses of a small policy whenever a control moves.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, numbers, destroy }.
 * data: { values, axes }; there is nothing else to be given, as a case is made from its number.
 */

import { controls } from "./inputs.js";
import { draw, make, number } from "./dom.js";
import { ticks } from "./curves.js";
import { compareEstimates, KINDS, numberedCase } from "./enumeration.js";

const COLOURS = { token: 0, window: 1, block: 2, sequence: 3 }; // numbers of the palette, as classes
const colourOf = (kind) => COLOURS[kind.split(" ")[0]];
const STOPS = {
  kl: [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
  batch: [1, 4, 16, 64, 256, 1024, 4096, 65536],
};
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// ---------------------------------------------------------------------------------------------------------------------
// Words

/** What a kind is called with the present settings. */
export function kindName(kind, { k, future }) {
  const share = `${Math.round(100 * future)}%`;
  return {
    "token": "token",
    "window": `window of ${k}, ${share}`,
    "window mean": `window of ${k}, mean`,
    "window joint": `window of ${k}, joint`,
    "block mean": `block of ${k}, mean`,
    "block joint": `block of ${k}, joint`,
    "sequence mean": "sequence, mean",
    "sequence joint": "sequence, joint",
  }[kind];
}

/** A share in whole percent, with a true minus sign. */
function percent(x) {
  const whole = Math.round(100 * x);
  return `${whole < 0 ? "\u2212" : ""}${Math.abs(whole)}%`;
}

/** The sentence above the picture. */
export function summary(numbers, values) {
  const { token } = numbers;
  const named = (kind) => kindName(kind, values);
  const by = (measure, sign) =>
    KINDS.reduce((a, b) => (sign * numbers[b][measure] > sign * numbers[a][measure] + 1e-9 ? b : a));
  const [near, best] = [by("bias", -1), by("gain", 1)];
  const responses = (2 ** values.length).toLocaleString("en");
  const more = numbers[best].gain - token.gain >= 0.01;
  const gains = more
    ? `the ${named(best)} gains most: ${percent(numbers[best].gain)} of what the true gradient would` +
      ` (token: ${percent(token.gain)}).`
    : `no kind gains a point more than the token: ${percent(token.gain)} of what the true gradient would.`;
  return [
    `All ${responses} responses of pair ${values.pair}, ${number(values.kl)} nats after the rollouts.`,
    `The token's gradient: bias ${number(token.bias)}, cosine ${number(token.cosine)},`,
    `clipped ${percent(token.clipFraction)}.`,
    `Least biased: ${named(near)} (${number(numbers[near].bias)}).`,
    `With ${values.batch.toLocaleString("en")} responses in a batch ${gains}`,
  ].join(" ");
}

// ---------------------------------------------------------------------------------------------------------------------
// Pictures

/** A mark: its shape says how an action's tokens come together, its colour which action. */
function markPath(kind, x, y) {
  const r = 5;
  if (kind === "token") return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  if (kind === "window") return `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`;
  if (kind.endsWith("mean")) {
    return `M${x} ${y - 1.3 * r}l${1.3 * r} ${1.3 * r}l${-1.3 * r} ${1.3 * r}l${-1.3 * r} ${-1.3 * r}z`;
  }
  return `M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}z`;
}

/** A mark as an element; a joint ratio's is hollow. */
function mark(kind, x, y) {
  return draw("path", { d: markPath(kind, x, y), class: `mark${kind.endsWith("joint") ? " joint" : ""}` });
}

const group = (kind, ...parts) => draw("g", { class: `space${colourOf(kind)}`, "data-kind": kind }, ...parts);

/** An axis's ticks with their texts, as few digits as tell them apart. */
function labelled(low, high, most) {
  const found = ticks(low, high, most);
  const digits = [0, 1, 2].find((n) => found.every((x) => Math.abs(Number(x.toFixed(n)) - x) < 1e-9)) ?? 2;
  return found.map((x) => [x, number(x, digits)]);
}

/** Expected gradients as arrows: along the true gradient, and off it. */
function fanSvg(numbers, width) {
  const [left, right, top, bottom] = [34, 10, 10, 36];
  const all = KINDS.map((kind) => numbers[kind]);
  const low = Math.min(0, ...all.map(({ along }) => along)) - 0.08;
  const most = Math.max(1, ...all.map(({ along }) => along)) + 0.12;
  const up = Math.max(0.4, ...all.map(({ off }) => off)) + 0.08;
  const unit = Math.min((width - left - right) / (most - low), 300 / up);
  const height = top + bottom + unit * up;
  const x = (along) => left + unit * (along - low);
  const y = (off) => height - bottom - unit * off;
  const svg = draw("svg", { width, height, role: "img", class: "fan" });
  svg.append(draw("title", {}, "Expected gradients beside the true one"));
  const inside = { x: x(low), y: top, width: unit * (most - low), height: unit * up }; // what lies outside is cut off
  const rings = draw("svg", inside);
  for (const r of [0.25, 0.5, 0.75].map((ring) => unit * ring)) {
    rings.append(draw("circle", { cx: x(1) - inside.x, cy: inside.height, r, class: "grid ring" }));
  }
  svg.append(rings);
  for (const [value, text] of labelled(low, most, 5)) {
    svg.append(
      draw("line", { x1: x(value), x2: x(value), y1: y(0), y2: y(0) + 4, class: "axis" }),
      draw("text", { x: x(value), y: y(0) + 16, "text-anchor": "middle" }, text),
    );
  }
  for (const [value, text] of labelled(0, up, 4).slice(1)) {
    svg.append(
      draw("line", { x1: x(low), x2: x(low) + unit * (most - low), y1: y(value), y2: y(value), class: "grid" }),
      draw("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, text),
    );
  }
  svg.append(
    draw("line", { x1: x(low), x2: x(low) + unit * (most - low), y1: y(0), y2: y(0), class: "axis" }),
    draw("text", { x: x(low), y: height - 5 }, "along the true gradient \u2192"),
    draw("text", { transform: `translate(10 ${y(0)}) rotate(-90)` }, "off it \u2192"),
  );
  for (const kind of KINDS) {
    const { along, off } = numbers[kind];
    svg.append(
      group(
        kind,
        draw("line", { x1: x(0), y1: y(0), x2: x(along), y2: y(off), class: "arrow" }),
        mark(kind, x(along), y(off)),
      ),
    );
  }
  svg.append(
    draw("line", { x1: x(0), x2: x(1), y1: y(0), y2: y(0), class: "true" }),
    draw("path", { d: `M${x(1)} ${y(0)}l-9 -5v10z`, class: "truth" }),
    draw("text", { x: x(1), y: y(0) - 8, "text-anchor": "end", class: "true-name" }, "true"),
  );
  return svg;
}

/** Bias against the noise of a batch. */
function tradeSvg(numbers, width, height) {
  const [left, right, top, bottom] = [44, 14, 10, 36];
  const all = KINDS.map((kind) => numbers[kind]);
  const wide = 1.08 * Math.max(0.1, ...all.map(({ bias }) => bias));
  const high = 1.08 * Math.max(1e-6, ...all.map(({ noise }) => noise));
  const x = (bias) => left + (bias / wide) * (width - left - right);
  const y = (noise) => height - bottom - (noise / high) * (height - top - bottom);
  const svg = draw("svg", { width, height, role: "img", class: "trade" });
  svg.append(draw("title", {}, "Bias against the noise of a batch"));
  for (const [value, text] of labelled(0, wide, 5)) {
    svg.append(
      draw("line", { x1: x(value), x2: x(value), y1: top, y2: y(0), class: value ? "grid" : "axis" }),
      draw("text", { x: x(value), y: y(0) + 16, "text-anchor": "middle" }, text),
    );
  }
  for (const [value, text] of labelled(0, high, 5)) {
    svg.append(
      draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: value ? "grid" : "axis" }),
      draw("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, text),
    );
  }
  svg.append(
    draw("text", { x: left, y: height - 5 }, "bias \u2192"),
    draw("text", { transform: `translate(10 ${y(0)}) rotate(-90)` }, "noise of a batch \u2192"),
  );
  for (const kind of KINDS) {
    svg.append(group(kind, mark(kind, x(numbers[kind].bias), y(numbers[kind].noise))));
  }
  return svg;
}

const COLUMNS = [
  ["bias", "bias", (e) => number(e.bias)],
  ["noise", "noise", (e) => number(e.noise)],
  ["cosine", "cosine", (e) => number(e.cosine)],
  ["clipFraction", "clipped", (e) => percent(e.clipFraction)],
  ["gain", "gain", (e) => percent(e.gain)],
];

// ---------------------------------------------------------------------------------------------------------------------

export function mount(element, data, method, tell = null) {
  const values = { ...data.values };
  const two = (x) => number(x);
  const specs = {
    pair: { kind: "slider", label: "policy and reward, number", low: 0, high: 39, step: 1 },
    length: { kind: "slider", label: "tokens of a response, T", low: 6, high: 12, step: 1 },
    kl: { kind: "slider", label: "drift since the rollouts, nats", stops: STOPS.kl, text: two },
    drift: { kind: "choice", label: "drifted", options: [["uphill", "as training moves"], ["random", "anywhere"]] },
    k: { kind: "slider", label: "tokens per action, K", low: 1, high: 12, step: 1, group: "actions" },
    future: {
      kind: "slider",
      label: "share of later tokens",
      low: 0,
      high: 0.95,
      step: 0.05,
      text: two,
      group: "actions",
    },
    clip: {
      kind: "choice",
      label: "clipping",
      options: [["none", "none"], ["same", "the same range for all"], ["equal", "as often as the token"]],
      group: "clip",
    },
    epsilon: { kind: "slider", label: "\u03b5", low: 0.01, high: 0.95, step: 0.01, text: two, group: "clip" },
    credit: {
      kind: "choice",
      label: "advantages",
      options: [["group", "reward minus mean"], ["critic", "exact critic"]],
      group: "advantages",
    },
    lam: { kind: "slider", label: "\u03bb", low: 0, high: 1, step: 0.05, text: two, group: "advantages" },
    batch: { kind: "slider", label: "responses in a batch", stops: STOPS.batch, group: "advantages" },
    inner: { kind: "toggle", label: "inner tokens only", group: "advantages" },
  };
  const panel = controls(specs, (name, value) => change({ [name]: value }, true), data.axes);
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const sheet = (title) => make("div", {}, make("b", { textContent: title }), make("div"));
  const fan = sheet("Expected gradients");
  const trade = sheet("What bias is paid for with");
  const hint = make("p", {
    className: "mpo-hint",
    textContent:
      "Lengths are in units of the true gradient. Rings: a bias of 0.25, 0.5 and 0.75. Hollow marks are joint ratios, " +
      "products over an action's tokens. Point at a line of the table to find it in the pictures.",
  });
  const table = make("table");
  const region = make("div", { className: "mpo-table", tabIndex: 0 }, table);
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", "Every kind of action in numbers");
  const pictures = make("div", { className: "mpo-pictures" }, fan, trade);
  const root = make(
    "div",
    { className: "mpo-lane-view mpo-gradients" },
    panel.element,
    words,
    pictures,
    hint,
    region,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "The policy gradient of every kind of action");
  element.replaceChildren(root);
  let numbers = null;
  let chosen = null; // the kind that is looked at
  const made = { key: "", numbers: null }; // the case is made anew only where it changes

  function caseOf() {
    const { pair, length, kl, drift } = values;
    const key = JSON.stringify([pair, length, kl, drift]);
    if (made.key !== key) Object.assign(made, { key, numbers: numberedCase({ seed: pair, length, kl, drift }) });
    return made.numbers;
  }

  function used() {
    const hidden = { epsilon: values.clip === "none", lam: values.credit === "group" };
    return new Set(Object.keys(specs).filter((name) => !hidden[name]));
  }

  /** One line of the table; a button, so that a keyboard may point too. */
  function line(kind) {
    const picture = draw("svg", { width: 16, height: 16, "aria-hidden": "true" }, group(kind, mark(kind, 8, 8)));
    const button = make("button", { type: "button" }, picture, capital(kindName(kind, values)));
    button.setAttribute("aria-pressed", String(kind === chosen));
    const cells = COLUMNS.map(([measure, , text]) => {
      const most = Math.max(1e-9, ...KINDS.map((other) => Math.abs(numbers[other][measure]) || 0));
      const value = numbers[kind][measure];
      const bar = make("span", { className: `bar${value < 0 ? " below" : ""}` });
      bar.style.width = `${(100 * Math.min(1, Math.abs(value) / most || 0)).toFixed(1)}%`;
      return make("td", {}, make("span", { textContent: text(numbers[kind]) }), bar);
    });
    const row = make("tr", { className: `space${colourOf(kind)}` }, make("th", { scope: "row" }, button), ...cells);
    row.dataset.kind = kind;
    return row;
  }

  function paintTable() {
    const focus = table.querySelector("button:focus")?.closest("tr").dataset.kind;
    const heads = ["", ...COLUMNS.map(([, name]) => name)].map((textContent) =>
      make("th", { scope: "col", textContent })
    );
    table.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...KINDS.map(line)));
    if (focus) table.querySelector(`[data-kind="${focus}"] button`).focus();
  }

  function paintPictures() {
    const width = (place) => Math.max(160, place.clientWidth || 300);
    const first = fanSvg(numbers, width(fan));
    fan.lastChild.replaceChildren(first);
    trade.lastChild.replaceChildren(tradeSvg(numbers, width(trade), Number(first.getAttribute("height"))));
    look(chosen);
  }

  /** Puts one kind forward in all pictures. */
  function look(kind) {
    root.classList.toggle("one-kind", kind !== null);
    for (const part of root.querySelectorAll("[data-kind]")) part.classList.toggle("now", part.dataset.kind === kind);
  }

  const kindAt = (event) => event.target.closest?.("[data-kind]")?.dataset.kind ?? null;
  root.addEventListener("pointerover", (event) => look(kindAt(event) ?? chosen));
  root.addEventListener("pointerleave", () => look(chosen));
  root.addEventListener("click", (event) => {
    const kind = kindAt(event);
    if (!kind) return;
    chosen = kind === chosen ? null : kind;
    for (const button of table.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.closest("tr").dataset.kind === chosen));
    }
    look(chosen);
  });

  function paint() {
    panel.show(values, used());
    numbers = compareEstimates(values, method, caseOf());
    words.textContent = summary(numbers, values);
    paintTable();
    paintPictures();
  }

  function change(next, byHand = false) {
    Object.assign(values, next);
    paint();
    if (byHand && tell) tell({ ...values });
  }

  let before = 0;
  const watcher = new ResizeObserver(() => {
    const width = pictures.clientWidth;
    if (Math.abs(width - before) < 1) return;
    before = width;
    paintPictures();
  });
  paint();
  watcher.observe(pictures);
  return {
    set: (next) => change(next),
    values: () => ({ ...values }),
    numbers: () => numbers,
    destroy: () => {
      watcher.disconnect();
      element.replaceChildren();
    },
  };
}
