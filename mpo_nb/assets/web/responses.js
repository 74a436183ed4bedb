/** Responses of a step: which of them fit, in which order, and what a line of text shows of one. */

const TURNING = /[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g;

/** Text on one line in which every character can be seen. */
export function plain(text) {
  return text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5").replace(
    TURNING,
    (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`,
  );
}

const textOf = (response) => response.tokens.join("");

const FITS = {
  all: () => true,
  right: (r) => r.correct === true,
  wrong: (r) => r.correct === false,
  dead: (_r, group) => group.dead,
  alive: (_r, group) => !group.dead,
  cut: (r) => !r.finished,
};

const last = (x, sign) => (x === null || !Number.isFinite(x) ? Infinity : sign * x);
const KEYS = {
  sampled: (r) => r.number,
  reward: (r) => last(r.reward, -1),
  advantage: (r) => last(r.advantage, -1),
  low: (r) => last(r.advantage, 1),
  longest: (r) => -r.tokens.length,
  clipped: (r) => last(r.clipped === undefined ? null : r.clipped, -1),
};

/** The responses [response, group] of a step that fit the filter and the search, in order; what is unknown comes last. */
export function chooseResponses(groups, { show, order, search }) {
  const wanted = search.toLowerCase();
  const found = (r, group) =>
    [textOf(r), group.prompt, group.answer || ""].some((text) => text.toLowerCase().includes(wanted));
  const pairs = groups.flatMap((group) => group.responses.map((r) => [r, group]));
  const key = KEYS[order];
  return pairs.filter(([r, group]) => FITS[show](r, group) && (!wanted || found(r, group)))
    .map((pair, n) => [key(pair[0]), n, pair])
    .sort(([a, m], [b, n]) => (a === b ? m - n : a - b))
    .map(([, , pair]) => pair);
}

/** Where each token begins in the joined text, and the text's length at the end. */
function starts(tokens) {
  const places = [0];
  for (const token of tokens) places.push(places[places.length - 1] + token.length);
  return places;
}

/** A response as pieces { text, wrong, found } of a line, cut to `most` characters around what matters. */
export function snippet(response, search, most) {
  const text = textOf(response);
  const places = starts(response.tokens);
  const wrong = response.wrong.map((t) => [places[t], places[t + 1]]);
  const at = search ? text.toLowerCase().indexOf(search.toLowerCase()) : -1;
  const found = at < 0 ? [] : [[at, at + search.length]];
  const [first] = found.length ? found : wrong;
  const from = text.length <= most || !first || first[1] <= most
    ? 0
    : Math.min(first[0] - Math.floor(most / 3), text.length - most);
  const to = Math.min(text.length, from + most);
  const inside = (ranges, c) => ranges.some(([a, b]) => a <= c && c < b);
  const cuts = [...new Set([from, to, ...[...wrong, ...found].flat()])].filter((c) => from <= c && c <= to);
  cuts.sort((a, b) => a - b);
  const pieces = [];
  for (let n = 0; n + 1 < cuts.length; n++) {
    const c = cuts[n];
    pieces.push({ text: plain(text.slice(c, cuts[n + 1])), wrong: inside(wrong, c), found: inside(found, c) });
  }
  if (from > 0) pieces.unshift({ text: "\u2026", wrong: false, found: false });
  if (to < text.length) pieces.push({ text: "\u2026", wrong: false, found: false });
  return pieces;
}

/** A step in a sentence. */
export function stepText(step, groups, fitting) {
  const responses = groups.flatMap((group) => group.responses);
  if (!responses.length) return "No responses were recorded.";
  const things = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const judged = responses.filter((r) => r.correct !== null);
  const right = judged.filter((r) => r.correct).length;
  const rewards = responses.map((r) => r.reward).filter((x) => x !== null);
  const dead = groups.filter((group) => group.dead).length;
  const parts = [`Step ${step}: ${things(responses.length, "recorded response")} in ${things(groups.length, "group")}`];
  parts.push(judged.length ? `${right} of ${judged.length} right` : "not known which are right");
  if (rewards.length) {
    parts.push(`mean reward ${Number((rewards.reduce((a, b) => a + b, 0) / rewards.length).toPrecision(3))}`);
  }
  if (dead) parts.push(things(dead, "dead group"));
  const rest = fitting === responses.length
    ? ""
    : fitting
    ? ` ${fitting} of them ${fitting === 1 ? "fits" : "fit"}.`
    : " None of them fits the filter and the search.";
  return `${parts.join(", ")}.${rest}`;
}
