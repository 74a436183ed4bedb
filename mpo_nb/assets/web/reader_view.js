/**
 * One's own text, or responses from a log file, read where they are pasted or dropped and opened in a view. Nothing is
 * sent anywhere: a file is read by the browser, and no request is made.
 *
 * mount(element, data, method) draws into an element and returns { read, paste, open, values, destroy }.
 * data: { example, prompt }: the text that stands there to begin with.
 */

import { mount as mountBlocks } from "./block_view.js";
import { mount as mountCredit } from "./credit_view.js";
import { mount as mountMap } from "./weight_map.js";
import { count, make, number } from "./dom.js";
import { cutText, readFiles } from "./log_files.js";

const VIEWS = [
  ["blocks", "Blocks", "where an action may end"],
  ["windows", "Windows", "which tokens each action is made of"],
  ["credit", "Credit", "where the advantage goes"],
];
const LISTED = 200; // responses of a list at a time
const SIZES = [1, 2, 3, 5, 10]; // MA-RLHF's
const MODELLED = ["surprise", "perplexity"]; // rules that need log-probabilities
const READ = ".jsonl,.parquet,.gz,.txt,.md";

/** Sizes of blocks that this page draws, for 21 seeds; other draws than the library's. */
export function drawnSizes(T) {
  const draws = {};
  for (let seed = 0; T && seed <= 20; seed++) {
    let state = seed + 1;
    const sizes = [];
    for (let left = T; left > 0; left -= sizes[sizes.length - 1]) {
      for (let i = 0; i < 3; i++) state = (1664525 * state + 1013904223) % 4294967296;
      sizes.push(SIZES[Math.floor(state / 4294967296 * SIZES.length)]);
    }
    draws[seed] = sizes;
  }
  return draws;
}

/** A pasted text as a trace without numbers. */
export function pastedTrace(text, prompt) {
  const tokens = cutText(text);
  const unknown = tokens.map(() => NaN);
  const numbers = { logps: unknown, oldLogps: unknown, entropies: unknown, reward: NaN, advantage: NaN };
  const place = { step: 0, group: 0, index: 0, finished: true, answer: null, correct: null };
  return { tokens, mask: tokens.map(() => 1), prompt, ...numbers, ...place, note: "pasted text" };
}

/** Whether a trace carries log-probabilities of any of its tokens. */
export function isScored(trace) {
  return trace.mask.some((kept, t) => kept && Number.isFinite(trace.logps[t]));
}

/** What the views are given. */
export function viewData(trace) {
  const known = trace.logps.map((value, t) => Number.isFinite(value) && Number.isFinite(trace.oldLogps[t]));
  const shown = (values) => values.map((value, t) => (known[t] ? value : 0));
  const oldLogps = shown(trace.oldLogps);
  return {
    tokens: trace.tokens,
    mask: trace.mask,
    logps: shown(trace.logps),
    oldLogps,
    refLogps: oldLogps,
    entropies: trace.entropies.map((value) => (Number.isFinite(value) ? value : 0)),
    advantage: Number.isFinite(trace.advantage) ? trace.advantage : 0,
    prompt: trace.prompt,
    answer: trace.answer === null ? "" : String(trace.answer),
    verdict: verdict(trace),
    wrong: [],
    draws: drawnSizes(trace.tokens.length),
  };
}

/** Numbers that nobody knows are not shown as 0. */
function withoutNumbers(given) {
  const unknown = given.tokens.map(() => NaN);
  const numbers = { logps: unknown, oldLogps: unknown, refLogps: unknown, entropies: unknown };
  return { ...given, ...numbers, values: { colour: "none" } };
}

function verdict(trace) {
  if (trace.correct === null) return "";
  return trace.correct ? "right" : "wrong";
}

/** Where the tokens and the numbers come from, in a sentence or two. */
export function honestText(trace) {
  const tokens = /not the model's own tokens|pasted/.test(trace.note)
    ? "Tokens: words, digits and signs, each with the space before it. A model's own tokens are other ones."
    : `Tokens: the model's own${trace.note ? ` (${trace.note})` : ""}.`;
  if (isScored(trace)) return `${tokens} Log-probabilities: from the file.`;
  return `${tokens} There are no log-probabilities, so the rules that need them are left out, and every ratio is 1 until` +
    " you turn on \u201ca made-up movement\u201d under Credit.";
}

/** How a response begins, in one line. */
function beginning(trace, most = 90) {
  const text = trace.tokens.slice(0, most).join("").replace(/\s+/g, " ").trim();
  return text.length > most ? `${text.slice(0, most)}\u2026` : text;
}

export function mount(element, data, method) {
  let traces = [];
  let current = null;
  let view = "blocks";
  let drawn = null;

  const text = make("textarea", { rows: 5, value: data.example || "", spellcheck: false });
  const prompt = make("input", { type: "text", value: data.prompt || "" });
  const file = make("input", { type: "file", multiple: true, accept: READ });
  const drop = make(
    "label",
    { className: "mpo-drop" },
    make("strong", { textContent: "Drop files here, or choose them" }),
    make("span", {
      textContent: "a run\u2019s traces.jsonl \u00b7 TRL\u2019s completions_*.parquet or .jsonl \u00b7 verl\u2019s" +
        " rollouts, *.jsonl \u00b7 each also as .gz \u00b7 plain text",
    }),
    file,
  );
  const status = make("p", { className: "mpo-status" });
  status.setAttribute("role", "status");
  const steps = make("select");
  const words = make("input", { type: "search", placeholder: "words in prompt or response" });
  const shown = make("span", { className: "mpo-shown" });
  const rows = make("tbody");
  const heads = ["begins", "step", "prompt", "no.", "reward", "advantage", "verdict", "tokens"];
  const list = make(
    "div",
    { className: "mpo-list", hidden: true },
    make(
      "div",
      { className: "mpo-list-tools" },
      make("label", {}, "step ", steps),
      make("label", {}, "find ", words),
      shown,
    ),
    make(
      "div",
      { className: "mpo-list-box", tabIndex: 0, ariaLabel: "responses" },
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { textContent: name, scope: "col" })))),
        rows,
      ),
    ),
  );
  const tabs = VIEWS.map(([name, title, meaning]) => {
    const button = make("button", { type: "button", title: meaning }, title);
    button.dataset.view = name;
    button.addEventListener("click", () => choose(name));
    return button;
  });
  const bar = make("div", { className: "mpo-tabs", hidden: true }, ...tabs);
  const note = make("p", { className: "mpo-note" });
  const place = make("div");
  const root = make(
    "div",
    { className: "mpo-reader" },
    make(
      "div",
      { className: "mpo-sources" },
      make(
        "div",
        {},
        make("label", {}, make("span", { textContent: "Paste a response" }), text),
        make("label", {}, make("span", { textContent: "its prompt, if you like" }), prompt),
      ),
      drop,
    ),
    make("p", {
      className: "mpo-promise",
      textContent: "Your browser reads it in this page. Nothing is sent anywhere, and nothing is kept.",
    }),
    status,
    list,
    bar,
    note,
    place,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Your own text or log files");
  element.replaceChildren(root);

  function say(sentence, failed = false) {
    status.textContent = sentence;
    status.classList.toggle("failed", failed);
  }

  function draw() {
    if (drawn) drawn.destroy?.();
    drawn = null;
    place.replaceChildren();
    bar.hidden = !current;
    note.textContent = current ? honestText(current) : "";
    if (!current) return;
    for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab.dataset.view === view));
    const given = viewData(current);
    const box = make("div");
    place.append(box);
    const scored = isScored(current);
    const few = Math.max(1, Math.min(4, method.keptPositions(given.mask).length));
    if (view === "windows") drawn = mountMap(box, { ...given, k: few, future: 0.2 }, method);
    else if (view === "credit") drawn = mountCredit(box, { ...given, values: scored ? {} : { made: false } }, method);
    else drawn = mountBlocks(box, scored ? given : withoutNumbers(given), method);
    if (!scored) box.querySelectorAll("option").forEach((option) => MODELLED.includes(option.value) && option.remove());
  }

  function choose(name) {
    view = name;
    draw();
  }

  function open(trace) {
    current = trace;
    for (const row of rows.children) row.classList.toggle("now", row.trace === trace);
    draw();
  }

  function cells(trace) {
    const button = make("button", { type: "button", textContent: beginning(trace) || "(nothing)" });
    const values = [
      trace.step,
      trace.group + 1,
      trace.index + 1,
      number(trace.reward),
      number(trace.advantage),
      verdict(trace),
      trace.tokens.length.toLocaleString("en"),
    ];
    return [make("td", {}, button), ...values.map((value) => make("td", { textContent: value }))];
  }

  function fillList() {
    const wanted = words.value.toLowerCase();
    const found = traces.filter((trace) =>
      (steps.value === "all" || trace.step === Number(steps.value)) &&
      (!wanted || `${trace.prompt}\n${trace.tokens.join("")}`.toLowerCase().includes(wanted))
    );
    rows.replaceChildren(
      ...found.slice(0, LISTED).map((trace) =>
        Object.assign(make("tr", { className: trace === current ? "now" : "" }, ...cells(trace)), { trace })
      ),
    );
    const cut = found.length > LISTED ? `, the first ${LISTED} listed` : "";
    shown.textContent = `${count(found.length, "response")}${cut}`;
  }

  function paste() {
    traces = [];
    list.hidden = true;
    const trace = pastedTrace(text.value, prompt.value);
    if (!trace.tokens.length) {
      current = null;
      say("Paste a text, or drop a file.");
      return draw();
    }
    say(`${count(trace.tokens.length, "token")} of your text.`);
    open(trace);
  }

  async function read(files) {
    say("Reading \u2026");
    const names = [...files].map((one) => one.name);
    try {
      const given = [];
      for (const one of files) given.push({ name: one.name, bytes: new Uint8Array(await one.arrayBuffer()) });
      const found = await readFiles(given);
      if (found.kind === "text") {
        text.value = found.text;
        return paste();
      }
      traces = found.traces;
      const numbers = [...new Set(traces.map((trace) => trace.step))].sort((a, b) => a - b);
      steps.replaceChildren(
        make("option", { value: "all", textContent: "all" }),
        ...numbers.map((step) => make("option", { value: step, textContent: step })),
      );
      steps.value = String(numbers[0]);
      words.value = "";
      list.hidden = false;
      const many = names.length > 2 ? `${names.length} files` : names.join(" and ");
      say([`${count(traces.length, "response")} read from ${many}: ${found.source}.`, ...found.said].join(" "));
      fillList();
      open(traces.find((trace) => trace.step === numbers[0]));
    } catch (error) {
      say(error.message, true);
    }
  }

  rows.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) open(row.trace);
  });
  let waiting = null;
  const pasteSoon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(paste, 150);
  };
  text.addEventListener("input", pasteSoon);
  prompt.addEventListener("input", pasteSoon);
  steps.addEventListener("change", fillList);
  words.addEventListener("input", fillList);
  file.addEventListener("change", async () => {
    if (file.files.length) await read(file.files);
    file.value = ""; // the same file may be chosen again
  });
  const over = (event) => {
    event.preventDefault();
    drop.classList.toggle("over", event.type === "dragover");
  };
  root.addEventListener("dragover", over);
  root.addEventListener("dragleave", over);
  root.addEventListener("drop", (event) => {
    over(event);
    if (event.dataTransfer.files.length) read(event.dataTransfer.files);
    else if (event.dataTransfer.getData("text")) {
      text.value = event.dataTransfer.getData("text");
      paste();
    }
  });

  paste();
  return {
    read,
    paste,
    open,
    choose,
    traces: () => traces,
    current: () => current,
    destroy: () => (drawn?.destroy?.(), element.replaceChildren()),
  };
}
