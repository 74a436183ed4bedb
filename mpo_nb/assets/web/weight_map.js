/**
 * W, the linear map from log-ratios of tokens to log-ratios of actions, as a heat map. A row is an action: the tokens
 * that it is made of. A column is a token: the actions that pay it. Hover or focus a token to see both.
 *
 * mount(element, data, method) draws into an element and returns { set, destroy }.
 * data: { tokens, mask, k, future, space, tail, title, at }.
 */

import { make, visible } from "./dom.js";

const SPACES = [
  ["window", "windows of K, weighted mean (MPO)"],
  ["joint", "windows of K, joint ratio"],
  ["block", "blocks of K, mean"],
  ["sentence", "sentences, mean (LPO)"],
  ["sequence", "whole response, mean (GSPO)"],
  ["token", "tokens (GRPO)"],
];
const MOST_ROWS = 512; // of W that are drawn; a longer response is drawn around the token in focus

/** The action space of that name. */
export function spaceOf(data, settings, method) {
  const { k, future, tail } = settings;
  const spaces = {
    window: () => method.windowActions({ k, future, tail }),
    joint: () => method.windowActions({ k, joint: true }),
    block: () => method.blockActions({ ids: (mask) => method.fixedBlocks(mask, k) }),
    sentence: () => method.blockActions({ ids: (mask) => method.sentenceBlocks(mask, data.tokens) }),
    sequence: () => method.sequenceActions(),
    token: () => method.tokenActions(),
  };
  return spaces[settings.space]();
}

/** One token in words: its window, and who pays it. */
export function describeToken(data, actions, t, method) {
  if (!data.mask[t]) return `Token ${t + 1} was not written by the policy: no action reaches it.`;
  const row = method.windowOf(actions, data.mask, t);
  const column = method.payersOf(actions, data.mask, t);
  const members = row.map((weight, s) => [weight, s]).filter(([weight]) => weight !== 0);
  const payers = column.map((weight, s) => [weight, s]).filter(([weight]) => weight !== 0);
  const total = payers.reduce((sum, [weight]) => sum + weight, 0);
  const span = (list) => {
    const first = list[0][1] + 1;
    const last = list[list.length - 1][1] + 1;
    return first === last ? `token ${first}` : `tokens ${first} to ${last}`;
  };
  return (
    `Token ${t + 1}, \u201c${visible(data.tokens[t])}\u201d. Its action is made of ${span(members)}. ` +
    `${payers.length} action${payers.length === 1 ? "" : "s"} pay${payers.length === 1 ? "s" : ""} it, ` +
    `${span(payers).replace("token", "at token")}; their weights sum to ${total.toFixed(2)}.`
  );
}

/** Which tokens are drawn: all of them, or as many as fit around the one in focus. */
function stretch(T, t) {
  if (T <= MOST_ROWS) return [0, T];
  const first = Math.max(0, Math.min(T - MOST_ROWS, t - MOST_ROWS / 2));
  return [first, first + MOST_ROWS];
}

export function mount(element, data, method) {
  const settings = { space: data.space || "window", k: data.k, future: data.future, tail: data.tail || "renormalise" };
  const T = data.tokens.length;
  const kept = method.keptPositions(data.mask);
  let t = Math.max(0, Math.min(T - 1, data.at ?? kept[Math.floor(kept.length / 2)] ?? 0));
  let actions = spaceOf(data, settings, method);

  const space = make("select", {}, ...SPACES.map(([value, text]) => make("option", { value, textContent: text })));
  space.value = settings.space;
  const tail = make(
    "select",
    {},
    make("option", { value: "renormalise", textContent: "rescale what exists" }),
    make("option", { value: "truncate", textContent: "drop what is missing" }),
  );
  tail.value = settings.tail;
  const width = slider("K", 1, Math.max(1, Math.min(32, kept.length)), 1, settings.k);
  const share = slider("share of later tokens", 0, 0.9, 0.05, settings.future);
  const line = make("ol", { className: "mpo-map-tokens" });
  const canvas = make("canvas", { className: "mpo-map-canvas" });
  canvas.setAttribute("role", "img");
  const words = make("p", { className: "mpo-map-words" });
  words.setAttribute("aria-live", "polite");
  const root = make(
    "div",
    { className: "mpo-map" },
    make(
      "div",
      { className: "mpo-map-controls" },
      make("label", {}, make("span", { textContent: "action space" }), space),
      width.label,
      share.label,
      make("label", {}, make("span", { textContent: "the last windows" }), tail),
    ),
    line,
    words,
    make("div", { className: "mpo-map-frame" }, canvas),
    make("p", {
      className: "mpo-map-legend",
      textContent:
        "rows: actions, columns: tokens; darker is a larger weight. Orange: what this token's action is made of. Blue: which actions pay this token.",
    }),
  );
  element.replaceChildren(root);

  function slider(text, low, high, step, value) {
    const input = make("input", { type: "range" });
    Object.assign(input, { min: low, max: high, step, value });
    const shown = make("output");
    return { input, shown, label: make("label", {}, make("span", { textContent: text }), input, shown) };
  }

  const items = data.tokens.map((token, s) => {
    const item = make("li", { textContent: visible(token), tabIndex: -1 });
    item.addEventListener("pointerenter", () => look(s));
    item.addEventListener("focus", () => look(s));
    item.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -T, End: T };
      if (!(event.key in moves)) return;
      event.preventDefault();
      items[Math.max(0, Math.min(T - 1, s + moves[event.key]))].focus();
    });
    line.append(item);
    return item;
  });

  function look(s) {
    items[t].tabIndex = -1;
    t = s;
    items[t].tabIndex = 0;
    paint();
  }

  function paintStrip(row, column) {
    const most = Math.max(1e-9, ...row, ...column);
    items.forEach((item, s) => {
      item.style.setProperty("--row", Math.min(1, row[s] / most).toFixed(3));
      item.style.setProperty("--column", Math.min(1, column[s] / most).toFixed(3));
      item.classList.toggle("now", s === t);
    });
  }

  /** The rows of W that are drawn, as pixels: grey for the weight, orange for the row, blue for the column in focus. */
  function paintMap() {
    const [first, last] = stretch(T, t);
    const n = last - first;
    const room = Math.min(560, root.clientWidth || 560);
    const cell = Math.max(1, Math.floor(room / n));
    const ratio = globalThis.devicePixelRatio || 1;
    canvas.width = n * cell * ratio;
    canvas.height = n * cell * ratio;
    canvas.style.width = `${n * cell}px`;
    canvas.style.height = `${n * cell}px`;
    canvas.setAttribute("aria-label", `W for tokens ${first + 1} to ${last}: ${words.textContent}`);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, n * cell, n * cell);
    const rows = [];
    let most = 1e-9;
    for (let i = first; i < last; i++) {
      const row = data.mask[i] ? method.windowOf(actions, data.mask, i) : [];
      rows.push(row);
      for (let s = first; s < last; s++) most = Math.max(most, row[s] || 0);
    }
    rows.forEach((row, i) => {
      for (let s = first; s < last; s++) {
        if (!row[s]) continue;
        const shade = 0.18 + 0.82 * (row[s] / most);
        const colour = first + i === t ? "230,159,0" : s === t ? "0,114,178" : "128,128,128";
        context.fillStyle = `rgba(${colour},${shade})`;
        context.fillRect(
          (s - first) * cell,
          i * cell,
          Math.max(1, cell - (cell > 4 ? 1 : 0)),
          Math.max(1, cell - (cell > 4 ? 1 : 0)),
        );
      }
    });
    context.strokeStyle = "rgba(230,159,0,.9)";
    context.strokeRect(0.5, (t - first) * cell + 0.5, n * cell - 1, cell);
    context.strokeStyle = "rgba(0,114,178,.9)";
    context.strokeRect((t - first) * cell + 0.5, 0.5, cell, n * cell - 1);
  }

  function paint() {
    const zero = new Array(T).fill(0);
    const row = data.mask[t] ? method.windowOf(actions, data.mask, t) : zero;
    const column = data.mask[t] ? method.payersOf(actions, data.mask, t) : zero;
    paintStrip(row, column);
    words.textContent = describeToken(data, actions, t, method);
    width.shown.textContent = settings.k;
    share.shown.textContent = settings.future.toFixed(2);
    const windows = settings.space === "window";
    share.input.disabled = !windows;
    tail.disabled = !windows;
    width.input.disabled = !["window", "joint", "block"].includes(settings.space);
    paintMap();
  }

  function change(values) {
    Object.assign(settings, values);
    actions = spaceOf(data, settings, method);
    paint();
  }

  space.addEventListener("change", () => change({ space: space.value }));
  tail.addEventListener("change", () => change({ tail: tail.value }));
  width.input.addEventListener("input", () => change({ k: Number(width.input.value) }));
  share.input.addEventListener("input", () => change({ future: Number(share.input.value) }));
  canvas.addEventListener("pointermove", (event) => {
    const [first, last] = stretch(T, t);
    const cell = canvas.clientWidth / (last - first);
    const row = first + Math.floor(event.offsetY / cell);
    if (row >= first && row < last && row !== t) look(row);
  });

  const resized = new ResizeObserver(() => T && paint());
  resized.observe(root);
  if (T) {
    items[t].tabIndex = 0;
    paint();
  } else words.textContent = "The response has no token.";
  return {
    set: (values) => ("at" in values ? look(values.at) : change(values)),
    destroy: () => (resized.disconnect(), element.replaceChildren()),
  };
}
