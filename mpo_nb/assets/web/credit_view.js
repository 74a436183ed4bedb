/**
 * Where the advantage of a response goes, token by token, under two action spaces, aligned, and their difference.
 *
 * mount(element, data, method) draws into an element and returns { set, values, numbers, destroy }.
 * data: { tokens, logps, oldLogps, mask, advantage, prompt, answer, verdict, wrong, values }.
 */

import { controls, doublings } from "./inputs.js";
import { curves } from "./curves.js";
import { count, make, number, signed, spans, visible } from "./dom.js";
import { shade, tokenLanes } from "./lanes.js";

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
const NUMBERED = 600; // tokens up to which every token carries its numbers

/** The action space of that name. */
export function actionSpace(name, data, values, method) {
  const { k, future, tail } = values;
  const fixed = (reduce) => method.blockActions({ ids: (mask) => method.fixedBlocks(mask, k), reduce });
  const spaces = {
    token: () => method.tokenActions(),
    window: () => method.windowActions({ k, future, tail }),
    joint: () => method.windowActions({ k, joint: true }),
    block: () => fixed("mean"),
    "block-joint": () => fixed("sum"),
    sentence: () => method.blockActions({ ids: (mask) => method.sentenceBlocks(mask, data.tokens) }),
    sequence: () => method.sequenceActions(),
    "sequence-token": () => method.tokenGradient(method.sequenceActions()),
  };
  return spaces[name]();
}

/** The loss of one side: PPO's clipped loss, summed over tokens, with the log-ratios scaled by `moved`. */
export function sideLoss(name, data, values, method) {
  const actions = actionSpace(name, data, values, method);
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
  return { actions, loss };
}

/** Tokens whose credit differs by more than rounding. */
export function differing(a, b) {
  return a.flatMap((value, t) => (Math.abs(value - b[t]) > 1e-9 * (1 + Math.abs(value)) ? [t] : []));
}

/** What the controls hold that matters now. */
export function usedControls(values) {
  const sides = [values.left, values.right];
  const used = new Set(["left", "right", "moved", "epsilon", "advantage"]);
  if (sides.some((space) => ["window", "joint", "block", "block-joint"].includes(space))) used.add("k");
  if (sides.includes("window")) used.add("future").add("tail");
  return used;
}

/** What is clipped on one side, and what that takes away. */
function clippingText(side, out, positions) {
  const cut = positions.filter((t) => out.clipped[t]).length;
  if (!cut) return `${side}, nothing is clipped.`;
  const lost = positions.filter((t) => out.credit[t] === 0);
  const are = lost.length === 1 ? "is" : "are";
  const rest = lost.length ? `${spans(lost)} ${are} left without gradient` : "no token loses all of its gradient";
  return `${side}, ${cut} of ${count(positions.length, "action")} ${cut === 1 ? "is" : "are"} clipped, and ${rest}.`;
}

/** Where the two sides give different credit, and why, where the reason is the ends of the response. */
function differenceText(values, left, right, positions) {
  const differ = differing(left.credit, right.credit);
  if (!differ.length) return "Both sides give every token the same credit.";
  if (differ.length === positions.length) return "The two sides give every token a different credit.";
  const first = new Set(positions.slice(0, values.k - 1));
  const last = new Set(values.k > 1 ? positions.slice(1 - values.k) : []);
  const only = (allowed) => differ.every((t) => allowed.has(t));
  let why = "";
  if (only(first)) why = ", among the first K\u22121, which fewer windows contain,";
  else if (only(new Set([...first, ...last]))) {
    why = ", among the first K\u22121, which fewer windows contain, and the last K\u22121, where windows are rescaled,";
  }
  return `The two sides differ at ${spans(differ)}${why} and nowhere else.`;
}

/** The whole picture in a few sentences. */
export function summary(data, values, left, right, positions) {
  if (!positions.length) return "The response has no token of the policy's own, so there is no credit to give.";
  if (values.advantage === 0) {
    return "The advantage is 0, as in a group whose rewards are all equal: no token is pushed, whatever an action is.";
  }
  const parts = [];
  if (data.logps.every((value, t) => value === data.oldLogps[t])) {
    parts.push(
      "This response carries no movement of the policy: every ratio is 1. Choose \u201ca made-up movement\u201d to see some.",
    );
  } else if (values.moved === 0) parts.push("On-policy: every ratio is 1, and nothing is clipped.");
  parts.push(differenceText(values, left, right, positions));
  if (values.moved !== 0) parts.push(clippingText("Left", left, positions), clippingText("Right", right, positions));
  const total = (out) => signed(out.credit.reduce((a, b) => a + b, 0));
  parts.push(`Credit adds up to ${total(left)} left and ${total(right)} right.`);
  return parts.join(" ");
}

/** Prompt, right answer and verdict, above the picture. */
function heading(data) {
  const lines = [];
  if (data.prompt) {
    lines.push(make("p", { className: "mpo-prompt" }, make("strong", { textContent: "Prompt " }), data.prompt));
  }
  const facts = [];
  if (data.answer) facts.push(`right answer: ${data.answer}`);
  if (data.verdict) facts.push(data.verdict);
  if (data.wrong && data.wrong.length) facts.push(`the first wrong step is outlined: ${spans(data.wrong)}`);
  if (facts.length) lines.push(make("p", { className: "mpo-facts", textContent: facts.join(" \u00b7 ") }));
  return lines;
}

/** A made-up movement, the same every time, for a response that carries none. */
export function madeUpMovement(T) {
  let state = 12345;
  const next = () => (state = (1103515245 * state + 12345) % 2147483648) / 2147483648;
  return Array.from({ length: T }, () => 0.25 * (next() + next() + next() - 1.5));
}

export function mount(element, data, method) {
  const T = data.tokens.length;
  const positions = method.keptPositions(data.mask);
  const still = data.logps.every((value, t) => value === data.oldLogps[t]);
  let response = data;
  const values = {
    left: "token",
    right: "window",
    k: 4,
    moved: 1,
    future: 0.2,
    epsilon: 0.2,
    tail: "renormalise",
    difference: true,
    made: false,
    advantage: data.advantage || 1,
    ...data.values,
  };
  const reach = Math.max(3, Math.abs(values.advantage));
  const specs = {
    left: { kind: "choice", label: "Left", options: SPACES, group: "left" },
    right: { kind: "choice", label: "Right", options: SPACES, group: "left" },
    k: { kind: "slider", label: "tokens per action, K", stops: doublings(Math.max(8, positions.length)) },
    moved: {
      kind: "slider",
      label: "how far the policy has moved (\u00d7 recorded)",
      low: 0,
      high: 5,
      step: 0.05,
      text: (x) => number(x),
    },
    future: { kind: "slider", label: "share of later tokens", low: 0, high: 0.95, step: 0.05, text: (x) => number(x) },
    epsilon: {
      kind: "slider",
      label: "clip range, 1 \u00b1 \u03b5",
      low: 0,
      high: 1,
      step: 0.01,
      text: (x) => number(x),
    },
    advantage: { kind: "slider", label: "advantage", low: -reach, high: reach, step: 0.05, text: (x) => signed(x) },
    tail: {
      kind: "choice",
      label: "the last windows",
      options: [["renormalise", "rescaled to what exists"], ["truncate", "miss what does not exist"]],
    },
    made: { kind: "toggle", label: "a made-up movement" },
    difference: { kind: "toggle", label: "show the difference" },
  };
  const panel = controls(specs, (name, value) => change({ [name]: value }));
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const detail = make("p", { className: "mpo-detail" });
  const legend = make("p", { className: "mpo-legend" });
  const line = tokenLanes(data.tokens, data.mask, { lanes: ["left", "right", "difference"], look });
  const figure = curves(T, { look });
  const root = make(
    "div",
    { className: "mpo-lane-view" },
    ...heading(data),
    panel.element,
    words,
    line.element,
    legend,
    detail,
    figure.element,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Credit of every token under two action spaces");
  element.replaceChildren(root);

  let sides = null;
  let at = positions.length ? positions[0] : 0;

  function compute() {
    sides = {
      left: sideLoss(values.left, response, values, method),
      right: sideLoss(values.right, response, values, method),
    };
  }

  /** The colours' limit does not follow the data: 1.5 times the advantage, so that pictures can be compared. */
  const limit = () => 1.5 * Math.max(1e-6, Math.abs(values.advantage));

  function lane(out, other) {
    const difference = other ? out.credit.map((value, t) => value - other.credit[t]) : null;
    const shown = difference || out.credit;
    const texts = T <= NUMBERED ? shown.map((value, t) => (data.mask[t] ? number(value) : "")) : null;
    return { values: shown, limit: limit(), texts, hatched: difference ? null : out.clipped };
  }

  function paint() {
    const { left, right } = sides;
    panel.show(values, new Set([...usedControls(values), "difference", ...(still ? ["made"] : [])]));
    root.classList.toggle("no-difference", !values.difference);
    line.paint([lane(left.loss), lane(right.loss), lane(right.loss, left.loss)]);
    const log = (ratio) => Math.max(-4.6, Math.min(4.6, Math.log(ratio)));
    const panels = [
      { title: "credit", zero: true, series: [left, right].map((side) => ({ values: kept(side.loss.credit) })) },
      {
        title: "ratio of each action (log scale)",
        log: true,
        band: [Math.log(Math.max(0.01, 1 - values.epsilon)), Math.log1p(values.epsilon)],
        series: [left, right].map((side) => ({
          values: kept(side.loss.ratio.map(log)),
          marks: T <= NUMBERED ? positions.filter((t) => side.loss.clipped[t]) : [],
        })),
      },
    ];
    figure.paint(panels);
    words.textContent = summary(response, values, left.loss, right.loss, positions);
    paintLegend();
    look(at);
  }

  const kept = (x) => x.map((value, t) => (data.mask[t] ? value : NaN));

  function paintLegend() {
    const name = (space) => SPACES.find(([value]) => value === space)[1].replace("of K", `of ${values.k}`);
    const swatch = (value) => {
      const box = make("span", { className: "mpo-swatch", textContent: signed(value) });
      box.style.backgroundColor = shade(value, limit());
      return box;
    };
    legend.replaceChildren(
      make("span", { textContent: `First lane: ${name(values.left)}. Second lane: ${name(values.right)}.` }),
      make("span", { textContent: values.difference ? " Third lane: second minus first. " : " " }),
      swatch(limit()),
      make("span", { textContent: " pushed up, " }),
      swatch(-limit()),
      make("span", {
        textContent:
          " pushed down: the weight on the token's log-probability, in units of advantage. Hatched: the action that starts here is clipped. Orange frame: the window of the token in focus; blue: actions that pay it.",
      }),
    );
  }

  function look(t) {
    at = t;
    if (!T) return;
    figure.focus(t);
    const { left, right } = sides;
    const outlined = { wrong: data.wrong || [], now: [t] };
    if (data.mask[t]) {
      const row = method.windowOf(right.actions, data.mask, t);
      const column = method.payersOf(right.actions, data.mask, t);
      if (positions.length <= 4096) {
        outlined.member = positions.filter((s) => row[s] !== 0).slice(0, 64);
        outlined.payer = positions.filter((s) => column[s] !== 0).slice(-64);
      }
    }
    line.mark(outlined);
    const side = (name, { loss }) =>
      `${name}: credit ${signed(loss.credit[t], 3)}, ratio ${number(loss.ratio[t], 3)}${
        loss.clipped[t] ? ", clipped" : ""
      }`;
    detail.textContent = data.mask[t]
      ? `Token ${t + 1}, \u201c${visible(data.tokens[t])}\u201d. Log-ratio ${
        number(values.moved * (response.logps[t] - response.oldLogps[t]), 3)
      } nats. ${side("Left", left)}. ${side("Right", right)}.`
      : `Token ${t + 1}, \u201c${visible(data.tokens[t])}\u201d, was not written by the policy.`;
  }

  function change(next) {
    Object.assign(values, next);
    if ("made" in next) {
      response = values.made ? { ...data, logps: madeUpMovement(T), oldLogps: new Array(T).fill(0) } : data;
    }
    compute();
    paint();
  }

  compute();
  paint();
  return {
    set: change,
    values: () => ({ ...values }),
    numbers: () => sides,
    focus: (t) => line.focus(t),
    destroy: () => (line.destroy(), figure.destroy(), element.replaceChildren()),
  };
}
