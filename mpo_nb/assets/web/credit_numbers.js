/** What a picture of credit under two action spaces is drawn from: numbers and sentences, no document. */

import { number, signed, spans } from "./dom.js";
import { reachUsed } from "./inputs.js";

export const SPACES = [
  ["token", "tokens (GRPO)"],
  ["window", "windows of K, weighted mean (MPO)"],
  ["joint", "windows of K, joint ratio"],
  ["block", "blocks of K, mean"],
  ["block-joint", "blocks of K, joint ratio"],
  ["sentence", "sentences, mean (LPO)"],
  ["sequence", "whole response, mean (GSPO)"],
  ["sequence-token", "whole response, token gradient (GSPO-token)"],
];
const SIZED = ["window", "joint", "block", "block-joint"];

/** The name of an action space as it is read, with its K. */
export function spaceName(space, k) {
  return SPACES.find(([value]) => value === space)[1].replace("of K", `of ${k}`);
}

/** The same in a few letters. */
export function shortName(space, k) {
  const names = {
    window: `windows of ${k} (MPO)`,
    joint: `windows of ${k}, joint`,
    "block-joint": `blocks of ${k}, joint`,
    sentence: "sentences (LPO)",
    sequence: "response (GSPO)",
    "sequence-token": "GSPO-token",
  };
  return names[space] || spaceName(space, k);
}

/** The block ids of an action space whose actions do not overlap; null for windows, tokens and whole responses. */
export function spaceBlocks(space, data, values, method) {
  if (space === "block" || space === "block-joint") return method.fixedBlocks(data.mask, values.k);
  return space === "sentence" ? method.sentenceBlocks(data.mask, data.tokens) : null;
}

/** The action space of that name. */
export function actionSpace(space, data, values, method) {
  const { k, future, tail } = values;
  const blocks = (reduce) => method.blockActions({ ids: () => spaceBlocks(space, data, values, method), reduce });
  const spaces = {
    token: () => method.tokenActions(),
    window: () => method.windowActions({ k, future, tail }),
    joint: () => method.windowActions({ k, joint: true }),
    block: () => blocks("mean"),
    "block-joint": () => blocks("sum"),
    sentence: () => blocks("mean"),
    sequence: () => method.sequenceActions(),
    "sequence-token": () => method.tokenGradient(method.sequenceActions()),
  };
  return spaces[space]();
}

/** The loss of one side: PPO's clipped loss, summed over tokens, with the log-ratios scaled by `moved`. */
export function sideLoss(space, data, values, method) {
  const actions = actionSpace(space, data, values, method);
  const moved = data.logps.map((value, t) => values.moved * (value - data.oldLogps[t]));
  const loss = method.policyLoss({
    logps: moved,
    oldLogps: moved.map(() => 0),
    advantage: values.advantage,
    mask: data.mask,
    actions,
    clip: [values.epsilon, values.epsilon],
    aggregate: "seq-mean-token-sum",
  });
  return { space, actions, moved, loss };
}

/** A made-up movement, the same every time, for a response that carries none: (T,) nats. */
export function madeUpMovement(T) {
  let state = 12345;
  const next = () => (state = (16807 * state) % 2147483647) / 2147483647;
  return Array.from({ length: T }, () => 0.25 * (next() + next() + next() - 1.5));
}

/** Whether the policy has not moved on any token that it wrote. */
export function hasNotMoved(data) {
  return data.logps.every((value, t) => !data.mask[t] || value === data.oldLogps[t]);
}

/** The controls that matter now. */
export function usedControls(data, values) {
  const sides = [values.left, values.right];
  const used = new Set(["left", "right", "epsilon", "advantage", "difference"]);
  const still = hasNotMoved(data);
  if (still) used.add("made");
  if (!still || values.made) used.add("moved");
  if (sides.some((space) => SIZED.includes(space))) used.add("k");
  if (sides.includes("window")) used.add("future").add("tail");
  return new Set([...used, ...reachUsed(values)]);
}

/** Tokens whose credit differs by more than rounding. */
export function differing(a, b) {
  return a.flatMap((value, t) => (Math.abs(value - b[t]) > 1e-9 * (1 + Math.abs(value)) ? [t] : []));
}

/** Where the two sides give different credit, and why, where the reason is the ends of the response. */
function differenceText(values, first, second, positions) {
  const differ = differing(first.loss.credit, second.loss.credit);
  if (!differ.length) return "Both sides give every token the same credit.";
  const same = (set) => set.size === differ.length && differ.every((t) => set.has(t));
  const head = positions.slice(0, values.k - 1);
  const tail = positions.slice(Math.max(0, positions.length - values.k + 1));
  let why = "";
  if (same(new Set(head))) why = ", the first K\u22121, which fewer windows contain,";
  else if (values.tail === "renormalise" && same(new Set([...head, ...tail]))) {
    why = ", the first K\u22121, which fewer windows contain, and the last K\u22121, where windows are rescaled,";
  }
  if (differ.length === positions.length && !same(new Set(head))) {
    return "The two sides give every token a different credit.";
  }
  return `The two sides differ at ${spans(differ)}${why} and nowhere else.`;
}

/** The token, other than its own, that has the largest part in an action's log-ratio. */
function carrier(side, data, values, method, at) {
  const space = side.space === "sequence-token" ? "sequence" : side.space;
  const row = method.windowOf(actionSpace(space, data, values, method), data.mask, at);
  let best = 0;
  row.forEach((weight, t) => {
    const part = (s, w) => (s === at ? 0 : Math.abs(w * side.moved[s]));
    if (part(t, weight) > part(best, row[best])) best = t;
  });
  return best;
}

/** Actions that are cut although their own token's ratio lies inside the clip range, and what carried them out. */
function carriedText(side, data, values, method) {
  const { epsilon } = values;
  const alone = (t) => Math.exp(side.moved[t]);
  const carried = side.loss.clipped.flatMap((cut, t) => (cut && Math.abs(alone(t) - 1) <= epsilon ? [t] : []));
  if (!carried.length) return "";
  const by = carrier(side, data, values, method, carried[0]);
  const who = `token ${by + 1} (ratio ${number(alone(by))}) most of all`;
  const [lies, outside] = carried.length === 1
    ? ["lies inside the clip range by itself", "it is"]
    : ["lie inside the clip range by themselves", "the first of them is"];
  return `; ${spans(carried)} ${lies}, but ${outside} carried out by its neighbours, ${who}`;
}

/** What is clipped on one side, and what that takes away; nothing where nothing is clipped. */
function clippingText(name, side, positions, data, values, method) {
  const cut = positions.filter((t) => side.loss.clipped[t]).length;
  if (!cut) return "";
  const lost = positions.filter((t) => side.loss.credit[t] === 0);
  const rest = lost.length
    ? `${spans(lost)} ${lost.length === 1 ? "is" : "are"} left without gradient`
    : "no token loses all of its gradient";
  const are = `${cut.toLocaleString("en")} of ${positions.length.toLocaleString("en")} actions ${
    cut === 1 ? "is" : "are"
  }`;
  return `${name}, ${are} clipped, and ${rest}${carriedText(side, data, values, method)}.`;
}

/** The whole picture in a few sentences. */
export function summary(data, values, first, second, method) {
  const positions = method.keptPositions(data.mask);
  if (!positions.length) return "The response has no token of the policy's own, so there is no credit to give.";
  const parts = data.unknown ? [data.unknown] : [];
  if (values.advantage === 1 && data.unrewarded) parts.push(data.unrewarded);
  if (values.advantage === 0) {
    const why = "as in a group whose rewards are all equal: no token is pushed, whatever an action is.";
    return [...parts, `The advantage is 0, ${why}`].join(" ");
  }
  if (first.moved.every((delta, t) => !data.mask[t] || delta === 0)) {
    parts.push("On-policy: every ratio is 1, and nothing is clipped.");
  }
  parts.push(differenceText(values, first, second, positions));
  parts.push(clippingText("First", first, positions, data, values, method));
  parts.push(clippingText("Second", second, positions, data, values, method));
  const total = (side) => signed(side.loss.credit.reduce((a, b) => a + b, 0)).replace(/^0\.00$/, "0");
  parts.push(`Credit adds up to ${total(first)} in the first lane and ${total(second)} in the second.`);
  return parts.filter(Boolean).join(" ");
}
