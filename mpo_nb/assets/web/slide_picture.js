/** The picture of a sliding window: four lanes over the same tokens, drawn as SVG for one moment of one step. */

import { draw, make, number, visible } from "./dom.js";
import { part } from "./slide_numbers.js";

const NARROW = 560; // pixels below which headings stand above their lanes
const LEAST = 20; // pixels of the narrowest token
const HALF = 40; // half the pixels of a lane of ratios
const CREDIT = 88; // pixels of the credit lane
const CUT = "\u2702\ufe0e"; // scissors, as text

const HEADS = [
  ["tokens", "1", "The window: K tokens are one action"],
  ["change", "2", "Each token: how much likelier it has become"],
  ["ratio", "3", "The window\u2019s ratio: the weighted mean of 2"],
  ["credit", "4", "Credit: what flows back, by the same weights"],
];

/** Where each lane begins, and how high the picture is. */
function lanesOf(narrow) {
  const head = narrow ? 22 : 0;
  const tokens = head + 8;
  const change = tokens + 66 + head;
  const ratio = change + 2 * HALF + 34 + head;
  const credit = ratio + 2 * HALF + 28 + head;
  return { narrow, tokens, change, ratio, credit, height: credit + CREDIT + 10 };
}

/** Where each token stands: as wide as its text, and wider where there is room. */
export function layout(data, width) {
  const lanes = lanesOf(width < NARROW);
  const left = lanes.narrow ? 44 : 190;
  const room = Math.max(120, width - left - 4);
  const T = data.tokens.length;
  const wanted = data.tokens.map((token) => Math.max(LEAST, 10 + 8 * Math.min(12, visible(token).length)));
  const total = wanted.reduce((a, b) => a + b, 0);
  const more = Math.max(0, Math.min(16, (room - total) / Math.max(1, T)));
  const starts = [0];
  for (const size of wanted) starts.push(starts[starts.length - 1] + size + more);
  return { lanes, left, room, width: left + room, starts, total: starts[T] };
}

/**
 * The picture's scales: one for changes and ratios, in pixels per nat, whose 1 lies `above` pixels under its top, and
 * one for credit. What lies further out than five times the clip range is drawn at the edge.
 */
export function scalesOf(data, settings, numbers) {
  const band = [Math.log1p(settings.epsilon), -Math.log1p(-Math.min(settings.epsilon, 0.95))];
  const most = [0, 0];
  for (let t = 0; t < data.mask.length; t++) {
    if (!data.mask[t]) continue;
    for (const nats of [numbers.delta[t], Math.log(numbers.ratio[t])]) {
      most[nats > 0 ? 0 : 1] = Math.max(most[nats > 0 ? 0 : 1], Math.abs(nats));
    }
  }
  const reach = band.map((side, i) => Math.min(Math.max(1.4 * side, most[i]), 5 * side));
  const perNat = (2 * HALF) / (reach[0] + reach[1]);
  const top = numbers.credit.reduce((a, c) => Math.max(a, Math.abs(c)), Math.max(1e-9, Math.abs(data.advantage) * 1.2));
  return {
    above: reach[0] * perNat,
    nats: (nats) => perNat * Math.max(-reach[1], Math.min(reach[0], nats)),
    credit: (credit) => (credit / top) * CREDIT,
  };
}

/** How far the tokens are shifted to the left, so that a window is in sight. */
function shift(at, window) {
  if (!window || at.total <= at.room) return 0;
  const last = window.members[window.members.length - 1];
  const middle = (at.starts[window.members[0]] + at.starts[last + 1]) / 2;
  return Math.max(0, Math.min(at.total - at.room, middle - at.room / 2));
}

/** A painter of one moment. `state` is { data, settings, numbers, index, progress, at, scale }. */
export function painter(state) {
  const { data, settings, numbers, index, progress, at, scale } = state;
  const { lanes } = at;
  const now = index >= 0 ? numbers.window(index) : null;
  const before = index > 0 ? numbers.window(index - 1) : now;
  const slid = part(progress, 0, 0.2);
  const offset = shift(at, before) + slid * (shift(at, now) - shift(at, before));
  const middle = (t) => (at.starts[t] + at.starts[t + 1]) / 2;
  const seen = [];
  for (let t = 0; t < data.tokens.length; t++) {
    if (at.starts[t + 1] > offset - 40 && at.starts[t] < offset + at.room + 40) seen.push(t);
  }
  const zero = { change: lanes.change + scale.above, ratio: lanes.ratio + scale.above };
  const up = data.advantage >= 0;
  zero.credit = up ? lanes.credit + CREDIT : lanes.credit;
  const inside = new Map((now ? now.members : []).map((t, j) => [t, j]));
  const bar = (t, from, height, kind) =>
    draw("rect", {
      x: at.starts[t] + 3,
      width: at.starts[t + 1] - at.starts[t] - 6,
      y: Math.min(from, from - height),
      height: Math.abs(height),
      class: kind,
    });
  const label = (t, y, text, kind) => draw("text", { x: middle(t), y, "text-anchor": "middle", class: kind }, text);
  const bend = (from, to, [top, bottom], kind, weight) => {
    const half = (bottom - top) / 2;
    const d = `M${from},${top} C${from},${top + half} ${to},${bottom - half} ${to},${bottom}`;
    return draw("path", { d, class: kind, "stroke-width": 1 + 5 * Math.min(1, weight) });
  };

  function tokens() {
    const group = draw("g", {});
    for (const t of seen) {
      const text = visible(data.tokens[t]);
      const kind = `${data.mask[t] ? "" : "dropped"} ${(data.wrong || []).includes(t) ? "wrong" : ""}`;
      const token = draw("g", { class: `mpo-slides-token ${kind}`, "data-t": t });
      const size = at.starts[t + 1] - at.starts[t] - 2;
      token.append(
        draw("title", {}, `token ${t + 1}: ${text}, ${number(Math.exp(numbers.delta[t]))} times as likely as before`),
        draw("rect", { x: at.starts[t] + 1, y: lanes.tokens, width: size, height: 28, rx: 3 }),
        label(t, lanes.tokens + 19, text.length > 12 ? `${text.slice(0, 11)}\u2026` : text, ""),
      );
      if (kind.includes("wrong")) {
        const y = lanes.tokens + 31;
        token.append(draw("line", { x1: at.starts[t] + 1, x2: at.starts[t + 1] - 1, y1: y, y2: y }));
      }
      group.append(token);
    }
    return group;
  }

  function frame() {
    const group = draw("g", { class: "mpo-slides-window" });
    if (!now) return group;
    const edges = (window) => [at.starts[window.members[0]], at.starts[window.members[window.members.length - 1] + 1]];
    const [from, to] = edges(before).map((x, i) => x + slid * (edges(now)[i] - x));
    group.append(draw("rect", { x: from, y: lanes.tokens - 5, width: to - from, height: 38, rx: 7 }));
    for (const t of now.members) {
      if (progress < 0.2 || now.members.length > 24) continue;
      const weight = number(now.weights[t]).replace(/^0/, "");
      const text = at.starts[t + 1] - at.starts[t] > 27 ? `\u00d7${weight}` : weight;
      group.append(label(t, lanes.tokens + 46, text, "mpo-slides-small"));
    }
    return group;
  }

  function changes() {
    const group = draw("g", {});
    for (const t of seen.filter((s) => data.mask[s])) {
      const height = scale.nats(numbers.delta[t]);
      const member = inside.has(t) && progress >= 0.2;
      group.append(bar(t, zero.change, height, `mpo-slides-change ${member ? "member" : ""}`));
      if (member && Math.abs(numbers.delta[t]) > 0.05 && at.starts[t + 1] - at.starts[t] > 27) {
        const y = height > 0 ? zero.change - height - 3 : zero.change - height + 11;
        group.append(label(t, y, `\u00d7${number(Math.exp(numbers.delta[t]))}`, "mpo-slides-small"));
      }
    }
    return group;
  }

  /** The ratio of a window that has passed: what the clip range cuts off is hollow. */
  function ratioBar(t, ratio, clipped, kind) {
    const height = scale.nats(Math.log(ratio));
    const limit = scale.nats(ratio > 1 ? Math.log1p(settings.epsilon) : Math.log1p(-Math.min(settings.epsilon, 0.999)));
    if (!clipped) return [bar(t, zero.ratio, height, `mpo-slides-ratio ${kind}`)];
    return [
      bar(t, zero.ratio, limit, `mpo-slides-ratio ${kind}`),
      bar(t, zero.ratio - limit, height - limit, "mpo-slides-ratio beyond"),
      label(t, zero.ratio - limit + 5, CUT, "mpo-slides-cut"),
    ];
  }

  function ratios() {
    const group = draw("g", {});
    for (const t of seen.filter((s) => data.mask[s] && (!now || s < now.at))) {
      if (index >= 0) group.append(...ratioBar(t, numbers.ratio[t], numbers.clipped[t], "passed"));
    }
    return group;
  }

  /** The present window's ratio as it fills: one term of the weighted mean after the other. */
  function filling() {
    const group = draw("g", {});
    if (!now || progress < 0.2) return group;
    const share = part(progress, 0.2, 0.58) * now.members.length;
    let filled = 0;
    now.members.forEach((t, j) => {
      const of = Math.max(0, Math.min(1, share - j));
      filled += of * now.terms[j];
      const ends = [lanes.change + 2 * HALF + 14, lanes.ratio - (lanes.narrow ? 22 : 2)];
      if (of > 0) group.append(bend(middle(t), middle(now.at), ends, "mpo-slides-flow", now.weights[t]));
    });
    const done = progress >= 0.58;
    const ratio = done ? now.ratio : Math.exp(filled);
    group.append(...ratioBar(now.at, ratio, done && now.clipped && progress >= 0.66, "now"));
    const height = scale.nats(Math.log(ratio));
    const y = height > 0 ? zero.ratio - height - 4 : zero.ratio - height + 13;
    const cut = done && now.clipped ? " cut" : "";
    group.append(label(now.at, y, number(ratio) + cut, "mpo-slides-value"));
    if (cut && progress > 0.7) {
      group.append(label(now.at, lanes.ratio + 2 * HALF + 17, "nothing flows back", "mpo-slides-small"));
    }
    return group;
  }

  function credit() {
    const group = draw("g", {});
    const passed = numbers.paid(Math.max(0, index));
    const kind = `mpo-slides-credit ${up ? "up" : "down"}`;
    const flows = now && !now.clipped && data.advantage !== 0 ? part(progress, 0.66, 1) : 0;
    for (const t of seen.filter((s) => data.mask[s])) {
      const height = scale.credit(passed[t]);
      group.append(bar(t, zero.credit, height, kind));
      const j = inside.get(t);
      if (j === undefined || flows === 0) continue;
      group.append(bar(t, zero.credit - height, scale.credit(now.pays[j]) * flows, `${kind} fresh`));
      const ends = [lanes.ratio + 2 * HALF + 4, lanes.credit - (lanes.narrow ? 22 : 2)];
      group.append(bend(middle(now.at), middle(t), ends, `mpo-slides-flow ${up ? "up" : "down"}`, now.weights[t]));
    }
    return group;
  }

  /** Lines and labels that do not move with the tokens. */
  function axes() {
    const end = at.left + at.room;
    const high = zero.ratio - scale.nats(Math.log1p(settings.epsilon));
    const low = zero.ratio - scale.nats(Math.log1p(-Math.min(settings.epsilon, 0.999)));
    const line = (y, kind) => draw("line", { x1: at.left, x2: end, y1: y, y2: y, class: kind });
    const name = (y, text) =>
      draw("text", { x: at.left - 6, y: y + 4, "text-anchor": "end", class: "mpo-slides-axis" }, text);
    const share = zero.credit - scale.credit(data.advantage);
    return draw(
      "g",
      {},
      draw("rect", { x: at.left, width: at.room, y: high, height: low - high, class: "mpo-slides-band" }),
      line(zero.change, "mpo-slides-zero"),
      line(zero.ratio, "mpo-slides-zero"),
      line(zero.credit, "mpo-slides-zero"),
      line(share, "mpo-slides-advantage"),
      name(zero.change, "\u00d71"),
      name(high, number(1 + settings.epsilon)),
      ...(low - high > 30 ? [name(zero.ratio, "1")] : []),
      name(low, number(1 - settings.epsilon)),
      name(zero.credit, "0"),
      ...(data.advantage === 0 ? [] : [name(share, lanes.narrow ? "A" : `A = ${number(data.advantage)}`)]),
    );
  }

  return () => {
    const clip = draw("svg", { x: at.left, y: 0, width: at.room, height: lanes.height, overflow: "hidden" });
    const moving = draw("g", { transform: `translate(${-offset},0)` });
    moving.append(changes(), ratios(), filling(), credit(), frame(), tokens());
    clip.append(moving);
    return [axes(), clip];
  };
}

/** The headings of the lanes, beside them or, where the column is narrow, above them. */
export function headings(at) {
  return HEADS.map(([lane, mark, text]) => {
    const head = make("div", { className: "mpo-slides-head" }, make("b", { textContent: mark }), text);
    head.style.top = `${at.lanes[lane] - (at.lanes.narrow ? 22 : -1)}px`;
    return head;
  });
}
