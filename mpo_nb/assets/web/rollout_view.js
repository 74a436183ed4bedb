/**
 * The responses of a training step in their groups: reward, advantage and the first wrong step at a glance; any of them
 * opened with its credit or its blocks.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, update, values, destroy };
 * `tell(values)` is called when a hand has moved a control, and with a step that is not held, so that somebody brings it.
 * data: { steps, held: { step: [group, ...] }, action, recipe, note, problem, values, axes }; a group:
 * { group, prompt, answer, dead, responses }; a response: { number, tokens, delta, old, mask, entropies, reward,
 * advantage, correct, finished, wrong }.
 */

import { mount as mountBlocks } from "./block_view.js";
import { mount as mountCredit } from "./credit_view.js";
import { make, number, signed } from "./dom.js";
import { controls } from "./inputs.js";
import { maskOf, recipeLoss } from "./recipe_loss.js";
import { chooseResponses, plain, snippet, stepText } from "./responses.js";

const SHOW = [
  ["all", "all responses"],
  ["right", "right"],
  ["wrong", "wrong"],
  ["dead", "dead groups"],
  ["alive", "groups that differ"],
  ["cut", "cut off at the limit"],
];
const ORDER = [
  ["sampled", "as sampled"],
  ["reward", "highest reward first"],
  ["advantage", "highest advantage first"],
  ["low", "lowest advantage first"],
  ["longest", "longest first"],
  ["clipped", "most clipped first"],
];
const OPEN = [["credit", "credit"], ["blocks", "blocks"]];
const ROWS = 200; // shown at most
const SNIPPET = 140; // characters of a response in its row

/** The name that the credit view has for a recipe's actions. */
export function creditSpace(spec) {
  if (!spec || spec.space === "token" || spec.space === "surprise") return "window";
  if (spec.space === "window" && spec.joint) return "joint";
  if (spec.space === "block" && spec.reduce === "sum") return "block-joint";
  return spec.space;
}

/** What the views of a single response are given. */
export function responseData(r, group, spec) {
  const T = r.tokens.length;
  const none = new Array(T).fill(0);
  const old = r.old || none;
  const values = { right: creditSpace(spec) };
  if (spec) {
    for (const name of ["k", "future", "tail"]) if (spec[name] !== undefined) values[name] = spec[name];
    values.epsilon = spec.clip[1];
  }
  return {
    tokens: r.tokens,
    logps: r.delta ? old.map((x, t) => x + r.delta[t]) : none,
    oldLogps: old,
    entropies: r.entropies || new Array(T).fill(null),
    mask: maskOf(r),
    advantage: r.advantage === null ? 1 : r.advantage,
    prompt: group.prompt,
    answer: group.answer || "",
    verdict: r.correct === null ? "" : r.correct ? "right" : "wrong",
    wrong: r.wrong,
    unknown: r.delta ? "" : "The log-probabilities of this response are not known; they are drawn as 0.",
    unrewarded: r.advantage === null ? "No advantage is recorded; it is taken to be 1." : "",
    draws: {},
    values,
  };
}

export function mount(element, data, method, tell = () => {}) {
  const held = { ...data.held };
  const { steps } = data;
  const values = {
    step: steps.length ? steps[steps.length - 1] : 0,
    show: "all",
    order: "sampled",
    search: "",
    pick: 0,
    open: "credit",
    ...data.values,
  };
  if (!OPEN.some(([name]) => name === values.open)) values.open = "credit";
  const specs = {
    step: { kind: "slider", label: "training step", stops: steps },
    show: { kind: "choice", label: "show", options: SHOW },
    order: { kind: "choice", label: "order", options: ORDER },
    search: { kind: "text", label: "search the text", size: 14 },
    open: { kind: "choice", label: "opened as", options: OPEN },
  };
  const panel = controls(specs, (name, value) => moved({ [name]: value }), data.axes);
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const list = make("div", { className: "mpo-groups" });
  const legend = make("p", { className: "mpo-legend" });
  const note = make("p", { className: "mpo-facts" });
  const root = make("div", { className: "mpo-lane-view mpo-rollout-view" }, panel.element, words, list, legend, note);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "The responses of a training step");
  element.replaceChildren(root);
  let opened = null; // the view of the response that is open
  let openedKey = "";

  /** The groups of the step, each response with the number of its clipped actions; null where they are not held yet. */
  function groupsOf(step) {
    const groups = held[step];
    if (!groups) return null;
    for (const r of groups.flatMap((group) => group.responses)) {
      if (r.clipped !== undefined) continue;
      const loss = recipeLoss(data.recipe, r, method);
      r.clipped = loss ? loss.clipped.filter(Boolean).length : null;
    }
    return groups;
  }

  /** A bar from the middle, to the right where the response is pushed up, to the left where it is pushed down. */
  function advantageBar(r, widest) {
    const box = make("span", { className: "mpo-bar" });
    if (r.advantage === null || !widest) return box;
    const part = Math.min(1, Math.abs(r.advantage) / widest) * 50;
    const fill = make("i", { className: r.advantage > 0 ? "up" : "down" });
    fill.style.width = `${part}%`;
    fill.style.left = r.advantage > 0 ? "50%" : `${50 - part}%`;
    box.append(fill);
    return box;
  }

  function row(r, group, widest) {
    const mark = r.correct === null ? "\u2013" : r.correct ? "\u2713" : "\u2717";
    const word = r.correct === null ? "not judged" : r.correct ? "right" : "wrong";
    const button = make("button", { type: "button", textContent: r.number });
    button.dataset.pick = r.number;
    button.setAttribute("aria-label", `open response ${r.number}, group ${group.group + 1}, ${word}`);
    button.setAttribute("aria-expanded", r.number === values.pick);
    button.dataset.lmSuppressShortcuts = "true";
    const verdict = make("span", { className: r.correct === false ? "is-wrong" : "", textContent: mark, title: word });
    const reward = make("span", { className: "num", textContent: r.reward === null ? "\u2013" : number(r.reward) });
    const value = r.advantage === null ? "\u2013" : signed(r.advantage);
    const advantage = make("span", { className: "num" }, advantageBar(r, widest), value);
    const text = make("code");
    for (const piece of snippet(r, values.search, SNIPPET)) {
      const node = make(piece.found ? "mark" : "span", { textContent: piece.text });
      if (piece.wrong) node.classList.add("wrong");
      text.append(node);
    }
    const tokens = maskOf(r).filter(Boolean).length;
    const facts = [`${tokens} tokens`];
    if (!r.finished) facts.push("cut off");
    if (r.clipped) facts.push(`${r.clipped} clipped`);
    const small = make("span", { className: "mpo-small", textContent: facts.join(", ") });
    const line = make("div", { className: "mpo-response" }, button, verdict, reward, advantage, text, small);
    return r.number === values.pick ? [line, place(r, group)] : [line];
  }

  /** Where the open response stands: right under its row. */
  function place(r, group) {
    const key = `${values.step} ${r.number} ${values.open}`;
    if (openedKey !== key) {
      close();
      const box = make("div", { className: "mpo-open" });
      const show = values.open === "blocks" ? mountBlocks : mountCredit;
      const given = responseData(r, group, data.recipe);
      if (values.open === "blocks") given.values = {};
      opened = { box, view: show(box, given, method) };
      openedKey = key;
    }
    return opened.box;
  }

  function close() {
    if (opened) opened.view.destroy();
    opened = null;
    openedKey = "";
  }

  function heading(group) {
    const rewards = group.responses.map((r) => r.reward).filter((x) => x !== null);
    const right = group.responses.filter((r) => r.correct).length;
    const facts = [];
    if (group.answer !== null) facts.push(`answer ${plain(group.answer)}`);
    if (group.responses.some((r) => r.correct !== null)) facts.push(`${right} of ${group.responses.length} right`);
    if (rewards.length) facts.push(`mean reward ${number(rewards.reduce((a, b) => a + b, 0) / rewards.length)}`);
    if (group.dead) facts.push("dead: all rewards are equal, so no advantage");
    const prompt = make("code", { textContent: plain(group.prompt).slice(0, 300) });
    const rest = make("span", { className: "mpo-small", textContent: facts.join(" \u00b7 ") });
    return make(
      "div",
      { className: "mpo-group-head" },
      make("strong", { textContent: `Group ${group.group + 1} ` }),
      prompt,
      rest,
    );
  }

  function widestAdvantage(groups) {
    const known = groups.flatMap((g) => g.responses).map((r) => Math.abs(r.advantage)).filter(Number.isFinite);
    return Math.max(0, ...known);
  }

  function paintList(groups, chosen) {
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.pick : null;
    const widest = widestAdvantage(groups);
    const parts = [];
    let before = null;
    for (const [r, group] of chosen.slice(0, ROWS)) {
      if (values.order === "sampled" && group !== before) parts.push(heading(group));
      before = group;
      parts.push(...row(r, group, widest));
    }
    if (chosen.length > ROWS) {
      const rest = `${(chosen.length - ROWS).toLocaleString("en")} more responses fit; filter or search to see them.`;
      parts.push(make("p", { textContent: rest }));
    }
    if (!chosen.some(([r]) => r.number === values.pick)) close();
    list.replaceChildren(...parts);
    if (focused) list.querySelector(`[data-pick="${focused}"]`)?.focus();
  }

  function paintLegend(groups) {
    const parts = [
      `Each row: number (opens the response), verdict, reward, advantage, text. An action is ${data.action}.`,
    ];
    if (groups.some((group) => group.responses.some((r) => r.wrong.length))) {
      parts.push(" ", make("span", { className: "mpo-wrong", textContent: "Underlined" }), ": the first wrong step.");
    }
    legend.replaceChildren(...parts);
  }

  function paint() {
    panel.show(values, new Set(steps.length > 1 ? Object.keys(specs) : Object.keys(specs).slice(1)));
    root.dataset.values = JSON.stringify(values); // for tests, and for whoever looks
    note.textContent = data.note || "";
    const groups = groupsOf(values.step);
    if (!steps.length) {
      words.textContent = data.problem || "No responses were recorded.";
      return list.replaceChildren();
    }
    if (!groups) {
      words.textContent = `Step ${values.step} is being read.`;
      return;
    }
    const chosen = chooseResponses(groups, values);
    words.textContent = stepText(values.step, groups, chosen.length);
    paintList(groups, chosen);
    paintLegend(groups);
  }

  function moved(next) {
    change(next);
    tell({ ...values });
  }

  function change(next) {
    Object.assign(values, next);
    paint();
  }

  list.addEventListener("click", (event) => {
    const button = event.target.closest("[data-pick]");
    if (!button) return;
    const pick = Number(button.dataset.pick);
    moved({ pick: pick === values.pick ? 0 : pick });
  });

  /** Further steps have come, or a run has gone on. Returns false where the controls have to be made anew. */
  function update(fresh) {
    if (JSON.stringify(fresh.steps) !== JSON.stringify(steps)) return false;
    Object.assign(held, fresh.held);
    Object.assign(data, { note: fresh.note, problem: fresh.problem });
    paint();
    return true;
  }

  paint();
  return {
    set: change,
    update,
    values: () => ({ ...values }),
    destroy: () => (close(), element.replaceChildren()),
  };
}
