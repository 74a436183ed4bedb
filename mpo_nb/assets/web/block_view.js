/**
 * A response split into blocks by two rules, aligned token by token, with what each block holds.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, numbers, focus, destroy };
 * `tell(values)` is called when a hand has moved a control.
 * data: { tokens, logps, oldLogps, refLogps, entropies, mask, prompt, note, draws, values, axes }; `draws[seed]` are the
 * block sizes that the library draws with that seed, because its random numbers are not the browser's; `axes` names the
 * controls that are offered. A number that is not known is null.
 */

import { controls, doublings } from "./inputs.js";
import { curves } from "./curves.js";
import { count, make, number, visible } from "./dom.js";
import { shade, tokenLanes } from "./lanes.js";

export const RULES = [
  ["token", "single tokens (GRPO)"],
  ["fixed", "K tokens each (disjoint MPO)"],
  ["random", "random sizes (MA-RLHF)"],
  ["sentence", "sentences (LPO)"],
  ["delimiter", "delimiters of your own"],
  ["surprise", "surprising tokens (SPO-chain)"],
  ["perplexity", "rising perplexity (MA-RLHF)"],
  ["turn", "turns of a conversation"],
  ["sequence", "the whole response (GSPO)"],
];
const SETTINGS = { fixed: ["k"], random: ["seed"], delimiter: ["ends"], surprise: ["threshold", "interval"] };
const COLOURS = [
  ["logps", "log-probability"],
  ["entropies", "entropy"],
  ["delta", "log-ratio"],
  ["none", "nothing"],
];
const MEASURES = [
  ["size", "size in tokens"],
  ["logp", "log-probability in nats"],
  ["entropy", "entropy in nats a token"],
];
const NUMBERED = 600; // tokens up to which every token carries its number

/** Delimiters as a reader writes them: separated by spaces, \n and \t for line's end and tab. */
export function readDelimiters(text) {
  const parts = text.split(/\s+/).filter(Boolean);
  return parts.map((part) => part.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
}

/** The block ids of one side. */
export function blockIds(rule, data, values, method) {
  const { mask, tokens } = data;
  const finite = (x) => mask.every((kept, t) => !kept || Number.isFinite(x[t]));
  const rules = {
    token: () => method.tokenBlocks(mask),
    fixed: () => method.fixedBlocks(mask, values.k),
    random: () => method.sizedBlocks(mask, data.draws[values.seed]),
    sentence: () => method.sentenceBlocks(mask, tokens),
    delimiter: () => method.delimiterBlocks(mask, tokens, readDelimiters(values.ends)),
    surprise: () => method.surpriseBlocks(mask, data.oldLogps, values.threshold, values.interval),
    perplexity: () => method.perplexityBlocks(mask, finite(data.refLogps) ? data.refLogps : data.oldLogps),
    turn: () => method.turnBlocks(mask),
    sequence: () => method.sequenceBlock(mask),
  };
  return rules[rule]();
}

/** What each block holds: its size, its log-probability (sum) and its entropy (mean). */
export function blockNumbers(data, ids, method) {
  const sizes = method.blockSizes(ids);
  return {
    size: sizes,
    logp: method.blockSum(data.logps, ids),
    entropy: method.blockSum(data.entropies, ids).map((sum, n) => sum / Math.max(1, sizes[n])),
  };
}

/** A sentence about the blocks of one side. */
export function blocksText(sizes) {
  if (!sizes.length) return "no token of the policy's own, so no block.";
  if (sizes.length === 1) return `one block of ${count(sizes[0], "token")}.`;
  const low = Math.min(...sizes);
  const high = Math.max(...sizes);
  if (low === high) return `${count(sizes.length, "block")} of ${count(low, "token")}.`;
  const mean = sizes.reduce((a, b) => a + b, 0) / sizes.length;
  return `${count(sizes.length, "block")} of ${low} to ${count(high, "token")}, ${number(mean)} on average.`;
}

/** The controls that matter for a side's rule. */
function usedBy(rule, suffix) {
  return (SETTINGS[rule] || []).map((name) => name + suffix);
}

export function mount(element, data, method, tell = () => {}) {
  const T = data.tokens.length;
  const most = Math.max(8, method.keptPositions(data.mask).length);
  const defaults = { k: 4, seed: 0, ends: "; \\n", threshold: 0.9, interval: 5 };
  const second = Object.fromEntries(Object.entries(defaults).map(([name, value]) => [`${name}_2`, value]));
  const values = { rule: "fixed", rule_2: "sentence", colour: "logps", ...defaults, ...second, ...data.values };
  const seeds = Object.keys(data.draws).map(Number);
  const rules = RULES.filter(([rule]) => rule !== "random" || seeds.length);

  function sideSpecs(suffix, group, label) {
    return {
      [`rule${suffix}`]: { kind: "choice", label, options: rules, group },
      [`k${suffix}`]: { kind: "slider", label: "tokens per block, K", stops: doublings(most), group },
      [`seed${suffix}`]: { kind: "slider", label: "seed of the draw", stops: seeds, group },
      [`ends${suffix}`]: { kind: "text", label: "delimiters", group },
      [`threshold${suffix}`]: {
        kind: "slider",
        label: "surprising under probability",
        low: 0.01,
        high: 1,
        step: 0.01,
        text: (x) => number(x),
        group,
      },
      [`interval${suffix}`]: { kind: "slider", label: "surprises per block", low: 1, high: 20, step: 1, group },
    };
  }
  const specs = {
    ...sideSpecs("", "first", "First rule"),
    ...sideSpecs("_2", "second", "Second rule"),
    colour: { kind: "choice", label: "colour", options: COLOURS, group: "colour" },
  };
  const panel = controls(specs, (name, value) => (change({ [name]: value }), tell({ ...values })), data.axes);
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const detail = make("p", { className: "mpo-detail" });
  const legend = make("p", { className: "mpo-legend" });
  const line = tokenLanes(data.tokens, data.mask, { lanes: ["first", "second"], look });
  const figure = curves(T, { look });
  const prompt = data.prompt
    ? [make("p", { className: "mpo-prompt" }, make("strong", { textContent: "Prompt " }), data.prompt)]
    : [];
  const root = make(
    "div",
    { className: "mpo-lane-view" },
    ...prompt,
    panel.element,
    words,
    line.element,
    legend,
    detail,
    figure.element,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "A response split into blocks by two rules");
  element.replaceChildren(root);

  const delta = data.logps.map((value, t) => value - data.oldLogps[t]);
  const coloured = { logps: data.logps, entropies: data.entropies, delta, none: data.logps.map(() => 0) };
  let sides = null;
  let at = 0;

  function side(suffix) {
    const own = Object.fromEntries(Object.keys(defaults).map((name) => [name, values[name + suffix]]));
    const ids = blockIds(values[`rule${suffix}`], data, own, method);
    return { ids, numbers: blockNumbers(data, ids, method) };
  }

  function compute() {
    sides = [side(""), side("_2")];
  }

  function paint() {
    panel.show(
      values,
      new Set(["rule", "rule_2", "colour", ...usedBy(values.rule, ""), ...usedBy(values.rule_2, "_2")]),
    );
    const shown = coloured[values.colour];
    const known = shown.filter((value, t) => data.mask[t] && Number.isFinite(value)).map(Math.abs).sort((a, b) =>
      a - b
    );
    const limit = known.length ? Math.max(1e-6, known[Math.floor(0.95 * (known.length - 1))]) : 1; // robust against one outlier
    const texts = T <= NUMBERED && values.colour !== "none"
      ? shown.map((value, t) => (data.mask[t] ? number(value) : ""))
      : null;
    line.paint([
      { values: shown, limit, texts, blocks: sides[0].ids },
      { values: shown.map(() => 0), limit, texts: null, blocks: sides[1].ids },
    ]);
    const level = (ids, perBlock) => Object.assign(ids.map((id) => (id < 0 ? NaN : perBlock[id])), { ids });
    figure.paint(
      MEASURES.map(([name, title]) => ({
        title,
        zero: true,
        steps: true,
        series: sides.map(({ ids, numbers }) => ({ values: level(ids, numbers[name]) })),
      })),
    );
    words.textContent = `First rule: ${blocksText(sides[0].numbers.size)} Second rule: ${
      blocksText(sides[1].numbers.size)
    }`;
    const swatch = (value) => {
      const box = make("span", { className: "mpo-swatch", textContent: number(value) });
      box.style.backgroundColor = shade(value, limit);
      return box;
    };
    const name = COLOURS.find(([value]) => value === values.colour)[1];
    const scale = values.colour === "none" ? [] : [
      swatch(-limit),
      make("span", { textContent: " to " }),
      swatch(limit),
      make("span", { textContent: ` ${name}, in nats.` }),
    ];
    legend.replaceChildren(
      make("span", {
        textContent:
          "Bars: blocks of the first rule above, of the second below; the shade and a gap change where a block ends. ",
      }),
      ...scale,
    );
    look(at);
  }

  function look(t) {
    at = t;
    if (!T) return;
    figure.focus(t);
    line.mark({ now: [t] });
    if (!data.mask[t]) {
      detail.textContent = `Token ${t + 1}, \u201c${visible(data.tokens[t])}\u201d, was not written by the policy.`;
      return;
    }
    const told = sides.map(({ ids, numbers }, n) => {
      const id = ids[t];
      return `${n === 0 ? "First" : "Second"} rule: block ${id + 1} of ${numbers.size.length}, ${
        count(numbers.size[id], "token")
      }, log-probability ${number(numbers.logp[id])}.`;
    });
    detail.textContent = `Token ${t + 1}, \u201c${visible(data.tokens[t])}\u201d: log-probability ${
      number(data.logps[t], 3)
    }, entropy ${number(data.entropies[t], 3)}. ${told.join(" ")}`;
  }

  function change(next) {
    Object.assign(values, next);
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
