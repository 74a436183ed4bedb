/**
 * What a picture of a sliding window is drawn from: numbers and words, no document. Every number comes from method.js.
 * Each is worked out for one window at a time, so that a response may be long.
 */

import { number, signed, visible } from "./dom.js";

/**
 * The numbers of a response for { k, future, epsilon }.
 * window(i): what the i-th window is made of, its ratio and what it pays. paid(i): credit once i windows have passed.
 */
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
  const pull = data.mask.map((kept, t) => (kept && !out.clipped[t] ? out.ratio[t] * data.advantage : 0));

  function window(i) {
    const at = positions[i];
    if (at === undefined) return null;
    const weights = method.windowOf(actions, data.mask, at); // (T,), the row of W
    const members = positions.slice(i, i + k);
    return {
      at,
      members,
      weights,
      terms: members.map((t) => weights[t] * delta[t]),
      ratio: out.ratio[at],
      clipped: out.clipped[at],
      pays: members.map((t) => weights[t] * pull[at]),
    };
  }

  function paid(i) {
    const end = i < positions.length ? positions[Math.max(0, i)] : data.mask.length;
    return actions.credit(pull.map((value, t) => (t < end ? value : 0)), data.mask);
  }

  return { count: positions.length, window, paid, delta, ratio: out.ratio, clipped: out.clipped, credit: out.credit };
}

/** What the response is and what its advantage does, in two sentences. */
export function describeResponse(data) {
  const parts = [];
  if (data.answer) parts.push(`The right answer is ${data.answer}.`);
  if (data.verdict) parts.push(`This response is ${data.verdict}.`);
  const A = data.advantage;
  const level = "It scored as its group did: its advantage is 0, and no token is pushed.";
  const does = A > 0
    ? `It scored above its group, so training makes it likelier: advantage ${signed(A)}.`
    : `It scored below its group, so training makes it less likely: advantage ${signed(A)}.`;
  parts.push(A === 0 ? level : does);
  return parts.join(" ");
}

/** Why a window pays or does not. */
function describeClipping(data, settings, window) {
  const low = 1 - settings.epsilon;
  const high = 1 + settings.epsilon;
  const range = `${number(low)} to ${number(high)}`;
  if (data.advantage === 0) return "The advantage is 0, so nothing flows back.";
  const push = data.advantage > 0 ? "up" : "down";
  if (window.clipped) {
    const side = window.ratio > 1 ? "above" : "below";
    return `It is ${side} the clip range, ${range}, and training would push it further ${push}: it is cut, and pays nothing.`;
  }
  const pays = window.pays.map((c) => signed(c)).slice(0, 6).join(", ");
  const list = window.pays.length > 6 ? `${pays} and so on` : pays;
  const outside = window.ratio < low || window.ratio > high;
  const where = outside
    ? `It is outside the clip range, ${range}, but training pushes it ${push}, back inside: it is not cut.`
    : `It is inside the clip range, ${range}.`;
  return `${where} Its tokens are pushed ${push}, by ${list}.`;
}

/** One step in words, for the lines under the picture and for screen readers. */
export function describeStep(data, settings, numbers, index) {
  if (!numbers.count) return "The response has no token of the policy\u2019s own, so there is no window.";
  if (index < 0) {
    return `Press Play: ${
      numbers.count.toLocaleString("en")
    } windows will pass over the response, one after the other.`;
  }
  const window = numbers.window(index);
  const few = window.members.length <= 6;
  const names = window.members.slice(0, 6).map((t) => `\u201c${visible(data.tokens[t])}\u201d`).join(" ");
  const term = (t) => `${number(window.weights[t])}\u00b7(${signed(numbers.delta[t])})`;
  const sum = few ? ` = exp(${window.members.map(term).join(" + ")})` : "";
  const head = `Window ${(index + 1).toLocaleString("en")} of ${numbers.count.toLocaleString("en")}: ${names}${
    few ? "" : " \u2026"
  }.`;
  return `${head} Ratio ${number(window.ratio)}${sum}. ${describeClipping(data, settings, window)}`;
}

/** How long a window stays in play, in milliseconds: longer where there is something to see. */
export function beat(numbers, index) {
  const window = numbers.window(index);
  const quiet = !window.clipped && window.members.every((t) => Math.abs(numbers.delta[t]) < 0.05);
  return index > 0 && quiet ? 450 : 1900;
}

/** The part of a step that lies between two moments, from 0 to 1, slow at both ends. */
export function part(progress, from, to) {
  const x = Math.max(0, Math.min(1, (progress - from) / (to - from)));
  return x * x * (3 - 2 * x);
}
