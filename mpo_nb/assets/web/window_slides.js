/**
 * A window slides over a response: its ratio fills from its K tokens, the clip range cuts, and what is left of the
 * advantage flows back to the tokens along W transposed. Every number comes from method.js.
 *
 * mount(element, data, method) draws into an element and returns { set, destroy }.
 * data: { tokens, logps, oldLogps, mask, advantage, k, future, epsilon, wrong, title, play }; `wrong` lists the
 * positions that an eye should find.
 */

import { draw, make, number, visible } from "./dom.js";

const LABELS = 76; // width of the labels on the left, which do not scroll
const MARGIN = { left: 2, right: 10 };
const ROWS = { tokens: 30, weights: 64, ratio: 94, credit: 214, height: 318 }; // top of each row, in pixels
const RATIO_HEIGHT = 96;
const CREDIT_HEIGHT = 92;
const LEAST_CELL = 17;
const BEAT = 900; // milliseconds between two steps

/** Everything that a picture of (k, future, epsilon) needs, worked out once for all positions of the window. */
export function slideNumbers(data, settings, method) {
  const { k, future, epsilon } = settings;
  const actions = method.windowActions({ k, future });
  const out = method.policyLoss({
    logps: data.logps,
    oldLogps: data.oldLogps,
    advantage: data.advantage,
    mask: data.mask,
    actions,
    clip: [epsilon, epsilon],
    aggregate: "seq-mean-token-sum",
  });
  const positions = method.keptPositions(data.mask);
  const delta = data.logps.map((value, t) => (data.mask[t] ? value - data.oldLogps[t] : 0));
  const windows = positions.map((t) => {
    const row = method.windowOf(actions, data.mask, t); // (T,) weights of the window that starts at t
    const pull = out.clipped[t] ? 0 : out.ratio[t] * data.advantage;
    return {
      at: t,
      members: positions.filter((s) => row[s] !== 0),
      weights: row,
      terms: row.map((weight, s) => weight * delta[s]),
      ratio: out.ratio[t],
      clipped: out.clipped[t],
      pays: row.map((weight) => weight * pull),
    };
  });
  const paid = [data.mask.map(() => 0)]; // paid[i]: the credit once i windows have passed
  for (const window of windows) paid.push(paid[paid.length - 1].map((sum, s) => sum + window.pays[s]));
  return { windows, paid, delta, credit: out.credit, positions };
}

/** One step in words, for the line under the picture and for screen readers. */
export function describeStep(data, settings, numbers, index) {
  if (index < 0) return "Before the first window: no ratio, no credit yet.";
  const window = numbers.windows[index];
  const names = window.members.map((t) => `\u201c${visible(data.tokens[t])}\u201d`).join(" ");
  const sum = window.members.map((t) => `${number(window.weights[t])}\u00b7(${number(numbers.delta[t])})`).join(" + ");
  const low = number(1 - settings.epsilon);
  const high = number(1 + settings.epsilon);
  const head = `Window ${index + 1} of ${numbers.windows.length}: ${names}. Ratio ${
    number(window.ratio)
  } = exp(${sum}).`;
  if (data.advantage === 0) return `${head} The advantage is 0, so nothing flows.`;
  const push = data.advantage > 0 ? "up" : "down";
  if (window.clipped) return `${head} It lies outside ${low} to ${high} and would go on ${push}: clipped, no gradient.`;
  const paid = window.members.map((t) => number(window.pays[t])).join(", ");
  return `${head} Not clipped: its tokens are pushed ${push}, by ${paid}.`;
}

/** The picture's scales, for the widest bars that any step shows. */
function scales(data, settings, numbers) {
  const logs = numbers.windows.map((window) => Math.abs(Math.log(window.ratio)));
  const band = Math.max(Math.log1p(settings.epsilon), -Math.log1p(-Math.min(settings.epsilon, 0.95)));
  const reach = Math.min(Math.max(band * 1.6, ...logs), band * 4);
  const most = Math.max(1e-9, Math.abs(data.advantage) * 1.15, ...numbers.credit.map(Math.abs));
  return {
    ratio: (ratio) => (Math.max(-reach, Math.min(reach, Math.log(ratio))) / reach) * (RATIO_HEIGHT / 2),
    credit: (credit) => (credit / most) * CREDIT_HEIGHT,
  };
}

export function mount(element, data, method) {
  const still = globalThis.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const settings = { k: data.k, future: data.future, epsilon: data.epsilon };
  let numbers = slideNumbers(data, settings, method);
  let index = Math.max(0, Math.min(data.start ?? -1, numbers.windows.length - 1));
  if (data.start === undefined || data.start === null) index = still ? firstMoving() : -1;
  let timer = null;

  // Controls
  const play = make("button", { type: "button", className: "mpo-slides-play" });
  const back = make("button", { type: "button", textContent: "\u25c0", title: "one window back" });
  const forward = make("button", { type: "button", textContent: "\u25b6", title: "one window on" });
  back.setAttribute("aria-label", "one window back");
  forward.setAttribute("aria-label", "one window on");
  const place = slider("window", -1, numbers.windows.length - 1, 1, index);
  const width = slider("K, tokens per window", 1, Math.max(1, Math.min(12, numbers.positions.length)), 1, settings.k);
  const share = slider("share of later tokens", 0, 0.9, 0.05, settings.future);
  const range = slider("clip range \u03b5", 0.02, 0.5, 0.01, settings.epsilon);
  const words = make("p", { className: "mpo-slides-words" });
  words.setAttribute("aria-live", "polite");
  const names = make("div", { className: "mpo-slides-names" });
  const stage = make("div", { className: "mpo-slides-stage" });
  const controls = make(
    "div",
    { className: "mpo-slides-controls" },
    make("span", { className: "mpo-slides-buttons" }, back, play, forward),
    place.label,
    width.label,
    share.label,
    range.label,
  );
  const root = make(
    "div",
    { className: "mpo-slides", tabIndex: 0 },
    make("div", { className: "mpo-slides-picture" }, names, stage),
    words,
    controls,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", data.title || "A window slides over a response");
  element.replaceChildren(root);

  function slider(text, low, high, step, value) {
    const input = make("input", { type: "range" });
    Object.assign(input, { min: low, max: high, step, value });
    const shown = make("output");
    const label = make("label", {}, make("span", { textContent: text }), input, shown);
    return { input, shown, label };
  }

  /** The window whose own token has moved most: where there is something to see. */
  function firstMoving() {
    let best = 0;
    numbers.windows.forEach((window, i) => {
      if (Math.abs(numbers.delta[window.at]) > Math.abs(numbers.delta[numbers.windows[best].at])) best = i;
    });
    return best;
  }

  function layout() {
    const T = data.tokens.length;
    const room = (stage.clientWidth || 720) - MARGIN.left - MARGIN.right;
    const cell = Math.max(LEAST_CELL, Math.min(34, room / T));
    return { T, cell, width: MARGIN.left + T * cell + MARGIN.right, x: (t) => MARGIN.left + t * cell };
  }

  function axisLabel(text, y) {
    return draw("text", { x: LABELS - 8, y, class: "mpo-slides-axis", "text-anchor": "end" }, text);
  }

  function tokenRow(at) {
    const row = draw("g", {});
    data.tokens.forEach((token, t) => {
      const kind = [data.mask[t] ? "" : "dropped", (data.wrong || []).includes(t) ? "wrong" : ""].join(" ");
      const box = { x: at.x(t) + 1, y: ROWS.tokens, width: at.cell - 2, height: 26, rx: 3 };
      const text = { x: at.x(t) + at.cell / 2, y: ROWS.tokens + 18, "text-anchor": "middle" };
      const shown = visible(token);
      const fits = Math.max(1, Math.floor(at.cell / 8));
      row.append(
        draw(
          "g",
          { class: `mpo-slides-token ${kind}` },
          draw("title", {}, `token ${t + 1}: ${shown}, log-ratio ${number(numbers.delta[t], 3)}`),
          draw("rect", box),
          draw("text", text, shown.length > fits ? `${shown.slice(0, Math.max(1, fits - 1))}\u2026` : shown),
        ),
      );
    });
    return row;
  }

  function windowFrame(at) {
    const frame = draw("g", { class: "mpo-slides-window" });
    const now = numbers.windows[index];
    if (!now) return frame;
    const first = now.members[0];
    const last = now.members[now.members.length - 1];
    const box = { x: at.x(first) - 1, y: ROWS.tokens - 6, width: (last - first + 1) * at.cell + 2, height: 38, rx: 7 };
    frame.append(draw("rect", { ...box, class: now.clipped ? "clipped" : "open" }));
    for (const t of now.members) {
      if (at.cell < 22 && t !== first) continue; // no room for every weight
      const text = {
        x: at.x(t) + at.cell / 2,
        y: ROWS.weights + 18,
        "text-anchor": "middle",
        class: "mpo-slides-small",
      };
      frame.append(draw("text", text, number(now.weights[t]).replace(/^0/, "")));
    }
    return frame;
  }

  function ratioRow(at, scale) {
    const zero = ROWS.ratio + RATIO_HEIGHT / 2;
    const high = zero - scale.ratio(1 + settings.epsilon);
    const low = zero - scale.ratio(1 - settings.epsilon);
    const end = at.width - MARGIN.right;
    const row = draw(
      "g",
      {},
      draw("rect", { x: MARGIN.left, y: high, width: end - MARGIN.left, height: low - high, class: "mpo-slides-band" }),
      draw("line", { x1: MARGIN.left, x2: end, y1: zero, y2: zero, class: "mpo-slides-zero" }),
    );
    numbers.windows.forEach((window, i) => {
      const size = scale.ratio(window.ratio);
      const passed = i <= index;
      const kind = `${passed ? "passed" : "ahead"} ${i === index ? "now" : ""} ${window.clipped ? "clipped" : ""}`;
      const box = { x: at.x(window.at) + 3, width: Math.max(2, at.cell - 6), class: `mpo-slides-ratio ${kind}` };
      row.append(draw("rect", { ...box, y: size > 0 ? zero - size : zero, height: Math.max(1, Math.abs(size)) }));
      if (passed && window.clipped) {
        const mark = { x: at.x(window.at) + at.cell / 2, y: size > 0 ? zero - size - 3 : zero - size + 12 };
        row.append(draw("text", { ...mark, "text-anchor": "middle", class: "mpo-slides-cut" }, "\u2702"));
      }
    });
    return row;
  }

  function creditRow(at, scale) {
    const up = data.advantage >= 0;
    const zero = up ? ROWS.credit + CREDIT_HEIGHT : ROWS.credit + 6;
    const end = at.width - MARGIN.right;
    const line = zero - scale.credit(data.advantage);
    const row = draw(
      "g",
      {},
      draw("line", { x1: MARGIN.left, x2: end, y1: zero, y2: zero, class: "mpo-slides-zero" }),
      draw("line", { x1: MARGIN.left, x2: end, y1: line, y2: line, class: "mpo-slides-advantage" }),
    );
    const paid = numbers.paid[index + 1];
    const fresh = index >= 0 ? numbers.windows[index].pays : null;
    data.tokens.forEach((_, t) => {
      const total = scale.credit(paid[t]);
      const box = { x: at.x(t) + 3, width: Math.max(2, at.cell - 6) };
      const bar = (from, to, kind) =>
        draw("rect", {
          ...box,
          y: zero - Math.max(from, to),
          height: Math.abs(to - from),
          class: `mpo-slides-credit ${kind}`,
        });
      const before = fresh ? scale.credit(paid[t] - fresh[t]) : total;
      row.append(bar(0, before, up ? "up" : "down"));
      if (fresh && fresh[t]) row.append(bar(before, total, `fresh ${up ? "up" : "down"}`));
    });
    return row;
  }

  /** Lines from the window's ratio to the tokens that it pays: the entries of one row of W. */
  function flow(at) {
    const lines = draw("g", { class: "mpo-slides-flow" });
    const now = numbers.windows[index];
    if (!now || now.clipped || data.advantage === 0) return lines;
    const from = { x: at.x(now.at) + at.cell / 2, y: ROWS.ratio + RATIO_HEIGHT };
    for (const t of now.members) {
      const to = { x: at.x(t) + at.cell / 2, y: ROWS.credit };
      const bend = `M${from.x},${from.y} C${from.x},${from.y + 14} ${to.x},${to.y - 14} ${to.x},${to.y}`;
      lines.append(draw("path", { d: bend, "stroke-width": 1 + 5 * Math.min(1, now.weights[t]) }));
    }
    return lines;
  }

  /** Headings and axis labels, which stay in sight while a long response scrolls. */
  function labels(scale) {
    const middle = ROWS.ratio + RATIO_HEIGHT / 2;
    const ratioLabel = (ratio) => axisLabel(number(ratio), middle - scale.ratio(ratio) + 4);
    const zero = data.advantage >= 0 ? ROWS.credit + CREDIT_HEIGHT : ROWS.credit + 6;
    return draw(
      "svg",
      { width: LABELS, height: ROWS.height, "aria-hidden": "true" },
      draw("text", { x: 0, y: 14, class: "mpo-slides-head" }, "one window of K tokens"),
      draw("text", { x: 0, y: ROWS.ratio - 4, class: "mpo-slides-head" }, "its ratio"),
      draw("text", { x: 0, y: ROWS.credit - 8, class: "mpo-slides-head" }, "credit of each token"),
      ratioLabel(1 + settings.epsilon),
      axisLabel("1", middle + 4),
      ratioLabel(1 - settings.epsilon),
      axisLabel("0", zero + 4),
      axisLabel(`A = ${number(data.advantage)}`, zero - scale.credit(data.advantage) + 4),
    );
  }

  function paint() {
    const at = layout();
    const scale = scales(data, settings, numbers);
    const picture = draw("svg", { width: at.width, height: ROWS.height, role: "img" });
    const title = draw("title", {}, describeStep(data, settings, numbers, index));
    picture.append(
      title,
      windowFrame(at),
      tokenRow(at),
      ratioRow(at, scale),
      flow(at),
      creditRow(at, scale),
    );
    names.replaceChildren(labels(scale));
    stage.replaceChildren(picture);
    words.textContent = describeStep(data, settings, numbers, index);
    place.input.value = index;
    place.shown.textContent = `${index + 1} of ${numbers.windows.length}`;
    width.shown.textContent = settings.k;
    share.shown.textContent = number(settings.future);
    range.shown.textContent = number(settings.epsilon);
    play.textContent = timer === null ? "Play" : "Pause";
    const now = numbers.windows[index];
    if (now && stage.scrollWidth > stage.clientWidth) stage.scrollLeft = at.x(now.at) - stage.clientWidth / 2;
  }

  function go(to) {
    index = Math.max(-1, Math.min(numbers.windows.length - 1, to));
    paint();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    paint();
  }

  function start() {
    if (index >= numbers.windows.length - 1) index = -1;
    timer = setInterval(() => {
      if (!root.isConnected) return stop();
      if (index >= numbers.windows.length - 1) return stop();
      return go(index + 1);
    }, BEAT);
    paint();
  }

  function change(values) {
    Object.assign(settings, values);
    numbers = slideNumbers(data, settings, method);
    go(index);
  }

  play.addEventListener("click", () => (timer === null ? start() : stop()));
  back.addEventListener("click", () => (stop(), go(index - 1)));
  forward.addEventListener("click", () => (stop(), go(index + 1)));
  place.input.addEventListener("input", () => (stop(), go(Number(place.input.value))));
  width.input.addEventListener("input", () => change({ k: Number(width.input.value) }));
  share.input.addEventListener("input", () => change({ future: Number(share.input.value) }));
  range.input.addEventListener("input", () => change({ epsilon: Number(range.input.value) }));
  root.addEventListener("keydown", (event) => {
    if (event.target !== root) return; // sliders and buttons keep their own keys
    const moves = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key in moves) (stop(), go(index + moves[event.key]));
    else if (event.key === " ") timer === null ? start() : stop();
    else return;
    event.preventDefault();
  });

  const resized = new ResizeObserver(() => paint());
  resized.observe(stage);
  paint();
  let seen = null;
  if (data.play && !still && "IntersectionObserver" in globalThis) {
    seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      start();
    });
    seen.observe(root);
  }
  return {
    set: (values) => ("index" in values ? go(values.index) : change(values)),
    destroy: () => (clearInterval(timer), resized.disconnect(), seen?.disconnect(), element.replaceChildren()),
  };
}
