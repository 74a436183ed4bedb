/**
 * A response as a line of tokens with lanes under it, one for each thing that is compared, aligned token by token.
 * Long responses stand in chunks; a chunk that is out of sight is painted when it comes into sight.
 *
 * What a cell shows is remembered beside it, so that painting writes what differs and reads nothing from the page.
 */

import { make, signed, visible } from "./dom.js";

const WHOLE = 512; // tokens that stand in one piece; longer responses come in chunks
const CHUNK = 256; // tokens
const UP = "0,114,178"; // blue
const DOWN = "213,94,0"; // vermilion

/** A colour for a value between -limit and limit. */
export function shade(value, limit) {
  const part = Math.min(1, Math.abs(value) / Math.max(1e-12, limit));
  return !(part >= 0.004) ? "transparent" : `rgba(${value > 0 ? UP : DOWN},${(0.08 + 0.68 * part).toFixed(3)})`;
}

/** A colour scale from -limit to limit with its numbers; `share` is marked on both sides where it is given. */
export function scaleBar(limit, share, [low, high]) {
  const stops = Array.from({ length: 21 }, (_, i) => shade((i / 10 - 1) * limit, limit));
  const bar = make("i", { className: "mpo-scale-bar" });
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
  for (const value of [-limit, ...(share ? [-share] : []), 0, ...(share ? [share] : []), limit]) {
    const tick = make("span", { textContent: signed(value) });
    tick.style.left = `${50 + (50 * value) / limit}%`;
    bar.append(tick);
  }
  return make("span", { className: "mpo-scale" }, low, bar, high);
}

/** Blocks alternate between two shades; the first token of each has a gap before it. */
function blockClass(ids, t) {
  if (ids[t] < 0) return "";
  const first = t === 0 || ids[t - 1] !== ids[t];
  return `block${ids[t] % 2}${first ? " first" : ""}`;
}

/** One cell of a lane: an element, and what it shows. */
function cell() {
  const element = make("i");
  element.append("");
  const words = element.firstChild; // a text node, which costs less to write than an element's text
  const shown = { colour: "", kind: "", text: "" };
  return {
    element,
    paint(colour, kind, text) {
      if (shown.colour !== colour) element.style.backgroundColor = shown.colour = colour;
      if (shown.kind !== kind) element.className = shown.kind = kind;
      if (shown.text !== text) words.data = shown.text = text;
    },
  };
}

/**
 * options: { lanes: [name, ...], look(t), label } ; `look` is called for the token under the pointer or the keyboard's
 * focus. Returns { element, name(texts), paint(lanes), mark(classes), focus(t), reveal(t), destroy }.
 * name: writes in front of the first token what the lanes are.
 * paint: for each lane { values, limit, texts, hatched, blocks }: numbers for the colours, texts below the token,
 * which tokens are hatched, and block ids whose bar is drawn above. reveal: scrolls a token into the lanes' own box.
 */
export function tokenLanes(tokens, mask, { lanes, look, label = "tokens of the response" }) {
  const T = tokens.length;
  const size = T <= WHOLE ? WHOLE : CHUNK;
  const element = make("div", { className: "mpo-lanes" });
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", `${label}; arrow keys move from token to token`);
  const items = [];
  const chunks = [];
  const placeOf = new Map(); // element of a token -> its position
  let painted = null; // what is to be drawn
  let current = 0;

  tokens.forEach((token, t) => {
    if (t % size === 0) {
      const list = make("ol", { className: "mpo-chunk", start: t + 1 });
      chunks.push({ list, first: t, stale: true, seen: t < WHOLE });
    }
    const cells = lanes.map(cell);
    const item = make(
      "li",
      { tabIndex: -1 },
      make("b", { textContent: visible(token) }),
      ...cells.map((one) => one.element),
    );
    if (!mask[t]) item.className = "dropped";
    if (token.endsWith("\n")) item.classList.add("line-end");
    chunks[chunks.length - 1].list.append(item);
    items.push({ item, cells });
    placeOf.set(item, t);
  });
  element.append(...chunks.map((chunk) => chunk.list));
  if (T) items[0].item.tabIndex = 0;

  function position(event) {
    return placeOf.get(event.target.closest("li")) ?? -1;
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
    event.target.dataset.lmSuppressShortcuts = "true"; // JupyterLab takes no key for a command of its own
    const t = position(event);
    if (t >= 0) choose(t, false);
  });
  element.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -T, End: T };
    if (!(event.key in moves) || !T) return;
    event.preventDefault();
    event.stopPropagation();
    choose(Math.max(0, Math.min(T - 1, current + moves[event.key])), true);
  });

  function paintChunk(chunk) {
    chunk.stale = false;
    const end = Math.min(T, chunk.first + size);
    painted.forEach((lane, n) => {
      for (let t = chunk.first; t < end; t++) {
        const colour = mask[t] ? shade(lane.values[t], lane.limit) : "transparent";
        const cut = lane.hatched && lane.hatched[t] ? "cut " : "";
        const kind = lane.blocks ? cut + blockClass(lane.blocks, t) : cut;
        items[t].cells[n].paint(colour, kind, lane.texts ? lane.texts[t] : "");
      }
    });
  }

  function seen(entries) {
    for (const entry of entries) {
      const chunk = chunks.find((one) => one.list === entry.target);
      chunk.seen = entry.isIntersecting;
      if (chunk.seen && chunk.stale && painted) paintChunk(chunk);
    }
  }
  const watcher = chunks.length > 1 && "IntersectionObserver" in globalThis
    ? new IntersectionObserver(seen, { root: element, rootMargin: "100px" })
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

  let names = null;
  function name(texts) {
    if (!T) return;
    if (!names) {
      names = make("li", { className: "mpo-lane-names" }, make("span"), ...texts.map(() => make("span")));
      chunks[0].list.prepend(names);
    }
    texts.forEach((text, n) => {
      const own = names.children[n + 1];
      if (own.title !== text) own.title = own.textContent = text;
    });
  }

  /** Mark some tokens: name of a class -> positions. Earlier marks that are not named again are taken away. */
  let marked = new Map(); // class -> positions
  function mark(classes) {
    const wanted = new Map(Object.entries(classes).map(([name, positions]) => [name, new Set(positions)]));
    for (const [name, positions] of marked) {
      for (const t of positions) if (!wanted.get(name)?.has(t)) items[t].item.classList.remove(name);
    }
    for (const [name, positions] of wanted) {
      for (const t of positions) if (!marked.get(name)?.has(t)) items[t].item.classList.add(name);
    }
    marked = wanted;
  }

  function reveal(t) {
    if (element.scrollHeight <= element.clientHeight) return;
    const box = element.getBoundingClientRect();
    const own = items[t].item.getBoundingClientRect();
    if (own.top < box.top || own.bottom > box.bottom) {
      element.scrollTop += own.top - box.top - (box.height - own.height) / 2;
    }
  }

  return {
    element,
    name,
    paint,
    mark,
    reveal,
    focus: (t) => choose(t, true),
    destroy: () => watcher && watcher.disconnect(),
  };
}
