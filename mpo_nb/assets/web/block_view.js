/**
 * A response split into blocks by two rules, aligned token by token, with what each block holds.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, numbers, focus, destroy };
 * `tell(values)` is called when a hand has moved a control.
 * data: { tokens, logps, oldLogps, refLogps, entropies, mask, prompt, note, draws, values, axes }; `draws[seed]` are the
 * block sizes that the library draws with that seed, because its random numbers are not the browser's; `axes` names the
 * controls that are offered. A number that is not known is null.
 */

import { controls, doublings, reachOf, reachSpecs, reachUsed } from "./inputs.js";
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
  ["logp", "log-probability"],
  ["entropy", "entropy"],
  ["delta", "log-ratio"],
  ["none", "nothing"],
];
const MEASURES = [
  ["size", "size in tokens"],
  ["logp", "log-probability in nats"],
  ["entropy", "entropy in nats a token"],
];
const DEFAULTS = { k: 4, seed: 0, ends: "; \\n", threshold: 0.9, interval: 5 };
const ORDER = ["First", "Second"];
const NUMBERED = 600; // tokens up to which every token carries its number

/** Delimiters as a reader writes them: separated by spaces, \n and \t for line's end and tab. */
export function readDelimiters(text) {
  const parts = text.split(/\s+/).filter(Boolean);
  return parts.map((part) => part.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
}

/** The block ids of one side. */
export function blockIds(rule, data, values, method) {
  const { mask, tokens } = data;
  const rules = {
    token: () => method.tokenBlocks(mask),
    fixed: () => method.fixedBlocks(mask, values.k),
    random: () => method.sizedBlocks(mask, data.draws?.[values.seed] ?? [1]),
    sentence: () => method.sentenceBlocks(mask, tokens),
    delimiter: () => method.delimiterBlocks(mask, tokens, readDelimiters(values.ends)),
    surprise: () => method.surpriseBlocks(mask, data.oldLogps, values.threshold, values.interval),
    perplexity: () => method.perplexityBlocks(mask, data.refLogps || data.oldLogps),
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

/** Why a rule cannot cut, where it cannot. */
export function missingText(rule, data, values) {
  const unknown = data.mask.some((kept, t) => kept && !Number.isFinite(data.oldLogps[t]));
  if (unknown && ["surprise", "perplexity"].includes(rule)) {
    return " Its log-probabilities are unknown, so this rule cannot cut.";
  }
  if (rule === "delimiter" && !readDelimiters(values.ends).length) return " No delimiter is named, so nothing is cut.";
  return "";
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

/** Numbers with NaN where they are unknown. */
const known = (numbers) => numbers.map((value) => value ?? NaN);

/** The number under which 95% of the sizes lie: one outlier does not take the colour from all the others. */
function usualSize(values, mask) {
  const sizes = values.filter((value, t) => mask[t] && Number.isFinite(value)).map(Math.abs).sort((a, b) => a - b);
  return sizes.length ? Math.max(1e-6, sizes[Math.floor(0.95 * (sizes.length - 1))]) : 0;
}

/** Prompt, and where the numbers come from, above the picture. */
function heading(data, told) {
  const lines = [];
  if (data.prompt) {
    lines.push(make("p", { className: "mpo-prompt" }, make("strong", { textContent: "Prompt " }), data.prompt));
  }
  if (told) lines.push(make("p", { className: "mpo-facts", textContent: told }));
  return lines;
}

/** The controls: two rules with their settings, and what the tokens are coloured by. */
function controlSpecs(data, positions) {
  const seeds = Object.keys(data.draws || {}).map(Number);
  const rules = RULES.filter(([rule]) => rule !== "random" || seeds.length);
  const stops = doublings(Math.max(1, positions.length));
  const side = (suffix, group, label) => ({
    [`rule${suffix}`]: { kind: "choice", label, options: rules, group },
    [`k${suffix}`]: { kind: "slider", label: "tokens per block, K", stops, group },
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
  });
  return {
    ...side("", "first", "First rule"),
    ...side("_2", "second", "Second rule"),
    colour: { kind: "choice", label: "colour of the tokens", options: COLOURS, group: "colour" },
    ...reachSpecs(data.tokens.length, "colour"),
  };
}

/** What the tokens may be coloured by: values, the colours' limit, and each token's text. */
function colourings(data) {
  const delta = data.logps.map((value, t) => value - data.oldLogps[t]);
  const numbers = { logp: data.logps, entropy: data.entropies, delta, none: data.logps.map(() => 0) };
  const short = data.tokens.length <= NUMBERED;
  const made = {};
  for (const [name, values] of Object.entries(numbers)) {
    const texts = short && name !== "none"
      ? values.map((x, t) => (data.mask[t] ? number(x).replace("unknown", "") : ""))
      : null;
    made[name] = { values, limit: usualSize(values, data.mask), texts };
  }
  return made;
}

export function mount(element, given, method, tell = () => {}) {
  const data = { ...given };
  for (const name of ["logps", "oldLogps", "refLogps", "entropies"]) if (data[name]) data[name] = known(data[name]);
  const T = data.tokens.length;
  const positions = method.keptPositions(data.mask);
  const coloured = colourings(data);
  const silent = positions.length > 0 && !positions.some((t) => Number.isFinite(data.logps[t]));
  const values = { rule: "fixed", rule_2: "sentence", colour: "logp", ...(T > 256 ? { span: 0, start: 1 } : {}) };
  for (const suffix of ["", "_2"]) {
    for (const [name, value] of Object.entries(DEFAULTS)) values[name + suffix] = value;
  }
  Object.assign(values, data.values);

  const panel = controls(controlSpecs(data, positions), (name, value) => {
    change({ [name]: value });
    tell({ ...values });
  }, data.axes);
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const detail = make("p", { className: "mpo-detail" });
  const legend = make("p", { className: "mpo-legend" });
  const line = tokenLanes(data.tokens, data.mask, { lanes: ["first", "second"], look });
  const key = make("div", { className: "mpo-key" }, make("span"), make("span"));
  const figure = curves(T, { look: (t) => (look(t), line.reveal(t)) });
  const sources = [data.note, silent ? "no log-probabilities and no entropies are known" : ""].filter(Boolean);
  const told = sources.join("; ").replace(/^./, (letter) => letter.toUpperCase());
  const root = make(
    "div",
    { className: "mpo-lane-view mpo-blocks" },
    ...heading(data, told),
    panel.element,
    words,
    line.element,
    legend,
    detail,
    key,
    figure.element,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "A response split into blocks by two rules");
  element.replaceChildren(root);

  let sides = null;
  let at = positions[0] ?? 0;

  function side(suffix) {
    const own = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, values[name + suffix]]));
    const rule = values[`rule${suffix}`];
    const ids = blockIds(rule, data, own, method);
    const name = RULES.find(([value]) => value === rule)[1].replace(/^K tokens/, count(own.k, "token"));
    return { ids, numbers: blockNumbers(data, ids, method), name, missing: missingText(rule, data, own) };
  }

  function paint() {
    const { colour } = values;
    const always = silent ? ["rule", "rule_2"] : ["rule", "rule_2", "colour"];
    const settings = [...usedBy(values.rule, ""), ...usedBy(values.rule_2, "_2")];
    panel.show(values, new Set([...always, ...settings, ...reachUsed(values)]));
    const { limit, texts, values: shown } = coloured[colour];
    line.paint([
      { values: shown, limit, texts, blocks: sides[0].ids },
      { values: coloured.none.values, limit: 1, texts: null, blocks: sides[1].ids },
    ]);
    const level = (ids, perBlock) => Object.assign(ids.map((id) => (id < 0 ? NaN : perBlock[id])), { ids });
    figure.paint(
      MEASURES.filter(([name]) => name === "size" || !silent).map(([name, title]) => ({
        title,
        zero: true,
        steps: true,
        series: sides.map(({ ids, numbers }) => ({ values: level(ids, numbers[name]) })),
      })),
      reachOf(T, values),
    );
    sides.forEach(({ name }, n) => (key.children[n].textContent = name));
    const told = sides.map(({ numbers, missing }, n) => `${ORDER[n]} rule: ${blocksText(numbers.size)}${missing}`);
    words.textContent = told.join(" ");
    paintLegend(colour, limit);
    look(at);
  }

  let legendOf = null; // the colour whose legend stands there
  function paintLegend(colour, limit) {
    if (legendOf === colour) return;
    legendOf = colour;
    const swatch = (value) => {
      const box = make("span", { className: "mpo-swatch", textContent: number(value) });
      box.style.backgroundColor = shade(value, limit);
      return box;
    };
    const name = COLOURS.find(([value]) => value === colour)[1];
    const bars = "Bars: blocks of the first rule above, of the second below; shade and gap change where a block ends. ";
    const scale = {
      logp: () => [swatch(0), make("span", { textContent: " to " }), swatch(-limit)],
      entropy: () => [swatch(0), make("span", { textContent: " to " }), swatch(limit)],
      delta: () => [swatch(-limit), make("span", { textContent: " to " }), swatch(limit)],
    };
    const colours = colour === "none" || !limit
      ? []
      : [...scale[colour](), make("span", { textContent: ` ${name}, in nats.` })];
    legend.replaceChildren(make("span", { textContent: bars }), ...colours);
  }

  function look(t) {
    at = t;
    if (!T) return;
    figure.focus(t);
    line.mark({ now: [t] });
    const token = `Token ${t + 1}, \u201c${visible(data.tokens[t])}\u201d`;
    if (!data.mask[t]) {
      detail.textContent = `${token}, was not written by the policy.`;
      return;
    }
    const told = sides.map(({ ids, numbers }, n) => {
      const id = ids[t];
      const sum = Number.isFinite(numbers.logp[id]) ? `, log-probability ${number(numbers.logp[id])}` : "";
      return `${ORDER[n]} rule: block ${id + 1} of ${numbers.size.length}, ${count(numbers.size[id], "token")}${sum}.`;
    });
    const own = silent ? "" : `: log-probability ${number(data.logps[t], 3)}, entropy ${number(data.entropies[t], 3)}`;
    detail.textContent = `${token}${own}. ${told.join(" ")}`;
  }

  function change(next) {
    Object.assign(values, next);
    sides = [side(""), side("_2")];
    paint();
  }

  change({});
  return {
    set: change,
    values: () => ({ ...values }),
    numbers: () => sides,
    focus: (t) => line.focus(t),
    destroy: () => (line.destroy(), figure.destroy(), element.replaceChildren()),
  };
}
