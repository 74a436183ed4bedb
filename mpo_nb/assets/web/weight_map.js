/**
 * W, the linear map from log-ratios of tokens to log-ratios of actions, as a heat map. A row is an action: the tokens
 * that it is made of. A column is a token: the actions that pay it. Point at a token, in the line, in the map or in the
 * curves, or move to it with the keyboard, and see both.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, focus, destroy }; `tell(values)` is
 * called when a hand has moved a control.
 * data: { tokens, logps, oldLogps, mask, k, future, space, tail, at, wrong, values, axes }.
 */

import { actionSpace, spaceName, SPACES, usedControls } from "./credit_numbers.js";
import { curves } from "./curves.js";
import { make, number, spans, visible } from "./dom.js";
import { controls, doublings } from "./inputs.js";

const SHOWN = ["window", "joint", "block", "sentence", "sequence", "token"];
const MOST_ROWS = 256; // of W that are drawn; a longer response is drawn around the token in focus
const GUTTER = 46; // pixels for the names of rows and columns
const NAMED = 13; // pixels of a cell from which on rows and columns have names
const ROW = "230,159,0"; // orange
const COLUMN = "0,114,178"; // blue

/** The entries of a row or a column of W that are not 0: [position, weight]. */
const entries = (weights) => weights.flatMap((weight, s) => (weight === 0 ? [] : [[s, weight]]));

/** A few numbers in words. */
function listed(numbers) {
  const few = numbers.slice(0, 6).map((x) => number(x)).join(", ");
  return numbers.length > 6 ? `${few} and so on` : few;
}

/** One token in words: its window, and who pays it. */
export function describeToken(data, row, column, t) {
  const token = `Token ${(t + 1).toLocaleString("en")}, \u201c${visible(data.tokens[t])}\u201d`;
  if (!data.mask[t]) return `${token}, was not written by the policy: no action reaches it.`;
  const weights = (list) => listed(list.map(([, weight]) => weight));
  const places = (list) => spans(list.map(([s]) => s));
  const total = column.reduce((sum, [, weight]) => sum + weight, 0);
  const one = column.length === 1;
  const pay = `${column.length.toLocaleString("en")} ${one ? "action pays" : "actions pay"} it`;
  return `${token}. Its row: the action that begins here is made of ${places(row)}, with weights ${weights(row)}. ` +
    `Its column: ${pay}, ${one ? "the one that begins" : "those that begin"} at ${places(column)}, with weights ` +
    `${weights(column)}: together ${number(total)} of a plain share.`;
}

/** Which tokens are drawn: all of them, or as many as fit around the one in focus. */
function stretch(T, t) {
  if (T <= MOST_ROWS) return [0, T];
  const first = Math.max(0, Math.min(T - MOST_ROWS, t - MOST_ROWS / 2));
  return [first, first + MOST_ROWS];
}

/** The controls. */
function controlSpecs(most) {
  const tails = [["renormalise", "are rescaled (as recipes do)"], ["truncate", "keep their weights"]];
  const spaces = SPACES.filter(([space]) => SHOWN.includes(space));
  return {
    space: { kind: "choice", label: "an action is", options: spaces, group: "space" },
    k: { kind: "slider", label: "K", stops: doublings(most) },
    future: { kind: "slider", label: "share of later tokens", low: 0, high: 0.95, step: 0.05, text: (x) => number(x) },
    tail: { kind: "choice", label: "windows at the end", options: tails },
  };
}

/** The line of tokens: each shows its part in the row and in the column of the token in focus. */
function tokenLine(data, look) {
  const T = data.tokens.length;
  const element = make("ol", { className: "mpo-map-tokens" });
  const wrong = new Set(data.wrong || []);
  const items = data.tokens.map((token, s) => {
    const item = make("li", { textContent: visible(token), tabIndex: -1 });
    if (!data.mask[s]) item.classList.add("dropped");
    if (wrong.has(s)) item.classList.add("wrong");
    item.dataset.t = s;
    return item;
  });
  element.append(...items);
  const at = (event) => Number(event.target.closest("li")?.dataset.t ?? -1);
  for (const kind of ["pointerover", "focusin"]) {
    element.addEventListener(kind, (event) => at(event) >= 0 && look(at(event)));
  }
  element.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -T, End: T };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    items[Math.max(0, Math.min(T - 1, at(event) + moves[event.key]))].focus();
  });
  let lit = []; // tokens that show something
  let now = 0;

  function paint(t, row, column) {
    for (const s of lit) items[s].removeAttribute("style");
    items[now].classList.remove("now");
    items[now].tabIndex = -1;
    now = t;
    items[t].classList.add("now");
    items[t].tabIndex = 0;
    const most = Math.max(1e-9, ...row.map(([, w]) => w), ...column.map(([, w]) => w));
    for (const [s, weight] of row) items[s].style.setProperty("--row", (weight / most).toFixed(3));
    for (const [s, weight] of column) items[s].style.setProperty("--column", (weight / most).toFixed(3));
    lit = [...row, ...column].map(([s]) => s);
  }

  return { element, paint, focus: (t) => items[t].focus() };
}

/** The map: a picture of W whose pixels are made once, and over it the row and the column in focus. */
function heatMap(data, look) {
  const T = data.tokens.length;
  const canvas = make("canvas", { className: "mpo-map-canvas" });
  canvas.setAttribute("role", "img");
  let rows = []; // of W that are drawn, each a list of [position, weight]
  let part = [0, 0]; // which rows those are
  let source = null; // the action space that they come from
  let most = 1;
  let cell = 1;
  let left = 0;

  function read(actions, t, method) {
    const wanted = stretch(T, t);
    if (source === actions && wanted[0] === part[0]) return;
    source = actions;
    part = wanted;
    rows = [];
    most = 1e-9;
    for (let i = part[0]; i < part[1]; i++) {
      rows.push(data.mask[i] ? entries(method.windowOf(actions, data.mask, i)) : []);
      for (const [, weight] of rows[rows.length - 1]) most = Math.max(most, weight);
    }
  }

  function squares(context, ratio) {
    const n = part[1] - part[0];
    const size = cell - (cell > 4 ? 1 : 0);
    context.fillStyle = "rgb(128,128,128)";
    rows.forEach((row, i) => {
      for (const [s, weight] of row) {
        if (s < part[0] || s >= part[1]) continue;
        context.globalAlpha = 0.25 + 0.7 * (weight / most);
        context.fillRect(left + (s - part[0]) * cell, left + i * cell, size, size);
      }
    });
    context.globalAlpha = 1;
    return n * ratio;
  }

  function names(context, t) {
    if (cell < NAMED) return;
    context.fillStyle = getComputedStyle(canvas).color;
    context.font = "11px ui-monospace, monospace";
    context.textBaseline = "middle";
    for (let s = part[0]; s < part[1]; s++) {
      const text = visible(data.tokens[s]).slice(0, 6);
      const middle = left + (s - part[0] + 0.5) * cell;
      context.globalAlpha = s === t ? 1 : 0.75;
      context.textAlign = "right";
      context.fillText(text, left - 5, middle);
      context.save();
      context.translate(middle, left - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(text, 0, 0);
      context.restore();
    }
    context.globalAlpha = 1;
  }

  function paint(t, row, column, width, words) {
    const n = part[1] - part[0];
    const ratio = globalThis.devicePixelRatio || 1;
    left = (width - GUTTER) / n >= NAMED ? GUTTER : 0;
    cell = Math.max(1, Math.min(24, Math.floor((width - left) / n)));
    const side = left + n * cell + 1;
    canvas.width = canvas.height = Math.round(side * ratio);
    canvas.style.width = canvas.style.height = `${side}px`;
    canvas.setAttribute("aria-label", `W for tokens ${part[0] + 1} to ${part[1]}. ${words}`);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    squares(context, ratio);
    names(context, t);
    const at = (s) => left + (s - part[0]) * cell;
    const size = cell - (cell > 4 ? 1 : 0);
    const inside = ([s]) => s >= part[0] && s < part[1];
    const paintCell = (colour, weight, x, y) => {
      context.clearRect(x, y, size, size);
      context.fillStyle = `rgba(${colour},${(0.3 + 0.7 * (weight / most)).toFixed(3)})`;
      context.fillRect(x, y, size, size);
    };
    for (const [s, weight] of column.filter(inside)) paintCell(COLUMN, weight, at(t), at(s));
    for (const [s, weight] of row.filter(inside)) paintCell(ROW, weight, at(s), at(t));
    context.lineWidth = 1.5;
    context.strokeStyle = `rgb(${COLUMN})`;
    context.strokeRect(at(t) - 0.5, left - 0.5, cell, n * cell);
    context.strokeStyle = `rgb(${ROW})`;
    context.strokeRect(left - 0.5, at(t) - 0.5, n * cell, cell);
  }

  canvas.addEventListener("pointermove", (event) => {
    const t = part[0] + Math.floor((event.offsetY - left) / cell);
    if (t >= part[0] && t < part[1]) look(t);
  });
  return { element: canvas, read, paint };
}

export function mount(element, data, method, tell = () => {}) {
  const T = data.tokens.length;
  const kept = method.keptPositions(data.mask);
  const values = {
    space: data.space || "window",
    k: data.k ?? 4,
    future: data.future ?? 0.2,
    tail: data.tail || "renormalise",
    ...data.values,
  };
  const delta = data.mask.map((one, t) => (one ? (data.logps?.[t] ?? 0) - (data.oldLogps?.[t] ?? 0) : 0));
  let t = Math.max(0, Math.min(T - 1, data.at ?? kept[Math.floor(kept.length / 2)] ?? 0));
  let actions = null;
  const panel = controls(controlSpecs(Math.max(8, kept.length)), (name, value) => {
    change({ [name]: value });
    tell({ ...values });
  }, data.axes);
  const line = tokenLine(data, look);
  const map = heatMap(data, look);
  const figure = curves(T, { look });
  const key = make("div", { className: "mpo-key" }, make("span", { textContent: "tokens" }), make("span"));
  const words = make("p", { className: "mpo-map-words" });
  words.setAttribute("aria-live", "polite");
  const swatch = (kind, text) => make("span", {}, make("i", { className: kind }), text);
  const legend = make(
    "p",
    { className: "mpo-map-legend" },
    swatch("weight", "weight of a token (column) in an action (row); darker is more"),
    swatch("row", "row of the token in focus: what its action is made of"),
    swatch("column", "its column: the actions that pay it"),
    ...((data.wrong || []).length ? [swatch("wrong", "the first wrong step")] : []),
  );
  const frame = make("div", { className: "mpo-map-frame" }, map.element);
  const beside = make("div", { className: "mpo-map-curves" }, words, key, figure.element);
  const root = make(
    "div",
    { className: "mpo-lane-view mpo-map" },
    panel.element,
    line.element,
    legend,
    make("div", { className: "mpo-map-both" }, frame, beside),
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "W, the map from tokens to actions");
  element.replaceChildren(root);

  function look(s) {
    if (s === t && actions.shown) return;
    t = s;
    paint();
  }

  function paint() {
    if (!T) return;
    actions.shown = true;
    const row = data.mask[t] ? entries(method.windowOf(actions, data.mask, t)) : [];
    const column = data.mask[t] ? entries(method.payersOf(actions, data.mask, t)) : [];
    words.textContent = describeToken(data, row, column, t);
    line.paint(t, row, column);
    map.read(actions, t, method);
    map.paint(t, row, column, Math.min(520, frame.clientWidth || 440), words.textContent);
    const ends = (list) => (list.length ? [list[0][0], list[list.length - 1][0]] : null);
    figure.focus(t, { member: ends(row), payer: ends(column) });
  }

  function paintCurves() {
    const ones = data.mask.map((one) => (one ? 1 : 0));
    const known = (x) => x.map((value, s) => (data.mask[s] ? value : NaN));
    key.children[1].textContent = `actions: ${spaceName(values.space, values.k)}`;
    figure.paint([
      {
        title: "log-ratio of each token and each action, nats",
        zero: true,
        series: [{ values: known(delta) }, { values: known(actions.logRatio(delta, data.mask)) }],
      },
      {
        title: "sum of each column: credit on-policy, 1 = plain share",
        zero: true,
        series: [{ values: known(ones) }, { values: known(actions.credit(ones, data.mask)) }],
      },
    ]);
  }

  function change(next) {
    const { at = t, ...others } = next;
    t = Math.max(0, Math.min(T - 1, at));
    Object.assign(values, others);
    actions = actionSpace(values.space, data, values, method);
    const used = usedControls(data, { left: values.space, right: values.space });
    panel.show(values, new Set(["space", ...["k", "future", "tail"].filter((name) => used.has(name))]));
    paintCurves();
    paint();
  }

  const resized = new ResizeObserver(() => actions && paint());
  resized.observe(frame);
  if (!T) words.textContent = "The response has no token.";
  change({});
  return {
    set: change,
    values: () => ({ ...values }),
    focus: (s) => line.focus(s),
    destroy: () => (resized.disconnect(), figure.destroy(), element.replaceChildren()),
  };
}
