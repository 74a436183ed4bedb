/**
 * A response as a line of tokens with lanes under it, one for each thing that is compared, aligned token by token.
 * Long responses stand in chunks; a chunk that is out of sight is painted when it comes into sight.
 */

import { make, visible } from "./dom.js";

const CHUNK = 128; // tokens
const UP = "0,114,178"; // blue
const DOWN = "213,94,0"; // vermilion

/** A colour for a value between -limit and limit. */
export function shade(value, limit) {
  const part = Math.min(1, Math.abs(value) / Math.max(1e-12, limit));
  return part < 0.004 ? "transparent" : `rgba(${value > 0 ? UP : DOWN},${(0.08 + 0.72 * part).toFixed(3)})`;
}

/**
 * options: { lanes: [name, ...], look(t) } ; `look` is called for the token under the pointer or the keyboard's focus.
 * Returns { element, paint(lanes), mark(classes), focus(t) }.
 * paint: for each lane { values, limit, texts, hatched, blocks }: numbers for the colours, texts below the token,
 * which tokens are hatched, and block ids whose bar is drawn above.
 */
export function tokenLanes(tokens, mask, { lanes, look }) {
  const T = tokens.length;
  const element = make("div", { className: "mpo-lanes" });
  const items = [];
  const chunks = [];
  let painted = null; // what is to be drawn
  let current = 0;

  tokens.forEach((token, t) => {
    if (t % CHUNK === 0) {
      const list = make("ol", { className: "mpo-chunk", start: t + 1 });
      chunks.push({ list, first: t, stale: true, seen: t < 4 * CHUNK });
      element.append(list);
    }
    const cells = lanes.map(() => make("i"));
    const item = make("li", { tabIndex: -1 }, make("b", { textContent: visible(token) }), ...cells);
    if (!mask[t]) item.className = "dropped";
    if (token.endsWith("\n")) item.classList.add("line-end");
    chunks[chunks.length - 1].list.append(item);
    items.push({ item, cells });
  });
  if (T) items[0].item.tabIndex = 0;

  function position(event) {
    const item = event.target.closest("li");
    return item ? items.findIndex((entry) => entry.item === item) : -1;
  }

  function choose(t, focus) {
    items[current].item.tabIndex = -1;
    current = t;
    items[t].item.tabIndex = 0;
    if (focus) items[t].item.focus();
    look(t);
  }

  element.addEventListener("pointerover", (event) => {
    const t = position(event);
    if (t >= 0 && t !== current) choose(t, false);
  });
  element.addEventListener("focusin", (event) => {
    const t = position(event);
    if (t >= 0) choose(t, false);
  });
  element.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -T, End: T };
    if (!(event.key in moves) || !T) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(T - 1, current + moves[event.key])), true);
  });

  function paintChunk(chunk) {
    chunk.stale = false;
    for (let t = chunk.first; t < Math.min(T, chunk.first + CHUNK); t++) {
      const { cells } = items[t];
      painted.forEach((lane, n) => {
        const cell = cells[n];
        const colour = mask[t] ? shade(lane.values[t], lane.limit) : "transparent";
        if (cell.style.backgroundColor !== colour) cell.style.backgroundColor = colour;
        const kind = `${lane.hatched && lane.hatched[t] ? "cut " : ""}${lane.blocks ? blockClass(lane.blocks, t) : ""}`;
        if (cell.className !== kind) cell.className = kind;
        const text = lane.texts ? lane.texts[t] : "";
        if (cell.textContent !== text) cell.textContent = text;
      });
    }
  }

  /** Blocks alternate between two greys; the first token of each has a gap before it. */
  function blockClass(ids, t) {
    if (ids[t] < 0) return "";
    const first = t === 0 || ids[t - 1] !== ids[t];
    return `block${ids[t] % 2} ${first ? "first" : ""}`;
  }

  const watcher = chunks.length > 4 && "IntersectionObserver" in globalThis
    ? new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const chunk = chunks.find((one) => one.list === entry.target);
        chunk.seen = entry.isIntersecting;
        if (chunk.seen && chunk.stale && painted) paintChunk(chunk);
      }
    })
    : null;
  if (watcher) chunks.forEach((chunk) => watcher.observe(chunk.list));
  else chunks.forEach((chunk) => (chunk.seen = true));

  function paint(laneValues) {
    painted = laneValues;
    for (const chunk of chunks) {
      chunk.stale = true;
      if (chunk.seen) paintChunk(chunk);
    }
  }

  /** Mark some tokens: name of a class -> positions. Earlier marks are taken away. */
  let marked = [];
  function mark(classes) {
    for (const [name, t] of marked) items[t].item.classList.remove(name);
    marked = [];
    for (const [name, positions] of Object.entries(classes)) {
      for (const t of positions) {
        items[t].item.classList.add(name);
        marked.push([name, t]);
      }
    }
  }

  return { element, paint, mark, focus: (t) => choose(t, true), destroy: () => watcher && watcher.disconnect() };
}
