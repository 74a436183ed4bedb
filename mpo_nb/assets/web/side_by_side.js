/**
 * Two responses to one problem, of two runs at one step or of one run at two steps, aligned token by token.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, numbers, destroy };
 * `tell(values)` is called when a hand has moved a control.
 * data: { runs: [{ label, action, recipe }, ...] of the two sides, moments, note, values }; a moment is a stop of the
 * slider: { step, problems: [{ prompt, answer, steps: [of each side], sides: [responses of each side] }] }. A response:
 * { tokens, delta, old, mask, reward, advantage, correct, finished, wrong }; see recipe_loss.js. `wrong` are the tokens
 * of the first wrong step.
 */

import { align } from "./align.js";
import { controls } from "./inputs.js";
import { count, make, number, signed, visible } from "./dom.js";
import { shade } from "./lanes.js";
import { maskOf, recipeLoss } from "./recipe_loss.js";

const SIDES = ["a", "b"];
const NAMES = ["A", "B"];
const COLOURS = [
  ["credit", "credit under the run\u2019s recipe"],
  ["delta", "log-ratio"],
  ["none", "nothing"],
];
const WIDEST = 0.5; // nats drawn at full strength

/** A response's verdict in a word. */
export function verdictOf(response) {
  if (response.correct === null) return "not judged";
  return response.correct ? "right" : "wrong";
}

const markOf = (response) => (response.correct === null ? "" : response.correct ? "\u2713" : "\u2717");
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);

/** How far two aligned responses agree, in a sentence. */
export function agreement(rows, a, b) {
  const all = rows.flat();
  const differ = all.filter(([i, j]) => i === null || j === null || a.tokens[i] !== b.tokens[j]);
  if (!all.length) return "Both responses are empty.";
  if (!differ.length) return "The two responses are the same, token by token.";
  const [i, j] = differ[0];
  const said = (response, t) => (t === null ? "nothing" : `\u201c${visible(response.tokens[t])}\u201d`);
  const first = i === null ? j : i;
  return `${all.length - differ.length} of ${count(all.length, "place")} agree. They part at token ${
    first + 1
  }: A writes ${said(a, i)}, B ${said(b, j)}.`;
}

/** The first attempt, from 0, in which the two sides differ; 0 where none does. */
export function firstDifference({ sides }) {
  const [a, b] = sides.map((side) => side.map((response) => response.tokens.join("")));
  return Math.max(0, a.findIndex((text, n) => n < b.length && text !== b[n]));
}

export function mount(element, data, method, tell = () => {}) {
  const { moments } = data;
  const values = {
    step: moments.length ? moments[moments.length - 1].step : 0,
    problem: 1,
    a: 1,
    b: 1,
    ...data.values,
  };
  const known = moments.some((moment) => moment.problems.some((p) => p.sides.flat().some((r) => r.delta)));
  if (!values.colour) values.colour = known ? "credit" : "none";
  const specs = {
    step: { kind: "slider", label: data.label, stops: moments.map((moment) => moment.step) },
    colour: { kind: "choice", label: "colour", options: known ? COLOURS : COLOURS.slice(2) },
  };
  const used = new Set([...(moments.length > 1 ? ["step"] : []), ...(known ? ["colour"] : [])]);
  const panel = controls(specs, (name, value) => moved({ [name]: value }), data.axes);
  const problems = make("select", { ariaLabel: "problem" });
  problems.addEventListener("change", () => moved({ problem: Number(problems.value) }));
  problems.dataset.control = "problem";
  problems.dataset.lmSuppressShortcuts = "true";
  const chosen = make("label", {}, make("span", { textContent: "problem" }), problems);
  panel.element.append(make("div", {}, chosen));
  const question = make("p", { className: "mpo-prompt" });
  const sides = NAMES.map((name, s) => attempts(name, s));
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const picture = make("div", { className: "mpo-pairs" });
  const detail = make("p", { className: "mpo-detail" });
  const legend = make("p", { className: "mpo-legend" });
  const facts = make("div", { className: "mpo-sides" });
  const note = data.note ? [make("p", { className: "mpo-facts", textContent: data.note })] : [];
  const root = make(
    "div",
    { className: "mpo-lane-view mpo-side-by-side" },
    ...note,
    panel.element,
    question,
    ...sides.map((side) => side.element),
    words,
    picture,
    legend,
    detail,
    facts,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Two responses to one problem, aligned");
  element.replaceChildren(root);
  if (!moments.length) {
    root.replaceChildren(make("p", { textContent: data.note || "There is no problem to show." }));
  }

  /** The attempts of a side: a button each, which says whether it is right. */
  function attempts(name, s) {
    const list = make("div", { className: "mpo-attempts" });
    const element = make("div", { className: "mpo-side-row" }, list);
    list.setAttribute("role", "group");
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) moved({ [SIDES[s]]: Number(button.value) });
    });
    function show(responses, at, step) {
      const right = responses.filter((r) => r.correct).length;
      const judged = responses.some((r) => r.correct !== null);
      const label = `${name} ${data.runs[s].label}, step ${step}`;
      list.setAttribute("aria-label", `Attempts of ${label}`);
      const title = make("span", { className: "mpo-side-name" }, make("strong", { textContent: name }), label.slice(1));
      const buttons = responses.map((r, n) => {
        const button = make("button", { type: "button", value: n + 1, textContent: `${n + 1}${markOf(r)}` });
        button.className = `${r.correct === false ? "is-wrong" : ""}`;
        button.setAttribute("aria-pressed", n === at);
        button.title = `attempt ${n + 1}: ${verdictOf(r)}`;
        button.dataset.lmSuppressShortcuts = "true";
        return button;
      });
      const sum = judged
        ? [make("span", { className: "mpo-sum", textContent: `${right} of ${responses.length} right` })]
        : [];
      const focused = list.contains(document.activeElement);
      list.replaceChildren(title, ...buttons, ...sum);
      if (focused) buttons[at].focus();
    }
    return { element, show };
  }

  let pair = null; // what is drawn: { problem, responses, losses, rows, cells }

  function problemAt({ step, problem }) {
    const moment = moments.find((one) => one.step === step) || moments[moments.length - 1];
    return { moment, problem: moment.problems[Math.min(problem, moment.problems.length) - 1] };
  }

  function compute() {
    const { moment, problem } = problemAt(values);
    const at = SIDES.map((name, s) => Math.min(values[name], problem.sides[s].length) - 1);
    const responses = at.map((n, s) => problem.sides[s][n]);
    const losses = responses.map((r, s) => recipeLoss(data.runs[s].recipe, r, method));
    pair = { moment, problem, at, responses, losses, rows: align(responses[0].tokens, responses[1].tokens) };
  }

  /** The colour of a token: its value, and the value drawn at full strength. */
  function coloured(s, t) {
    const response = pair.responses[s];
    if (values.colour === "none" || !maskOf(response)[t]) return "transparent";
    if (values.colour === "delta") return response.delta ? shade(response.delta[t], WIDEST) : "transparent";
    return pair.losses[s] ? shade(pair.losses[s].credit[t], limit()) : "transparent";
  }

  const limit = () => {
    const advantages = pair.responses.map((r) => Math.abs(r.advantage)).filter(Number.isFinite);
    return 1.5 * Math.max(1e-6, ...advantages);
  };

  function cell(s, t) {
    const response = pair.responses[s];
    if (t === null) return make("b", { className: "gap", textContent: "\u00a0" });
    const node = make("b", { textContent: visible(response.tokens[t]) });
    node.style.backgroundColor = coloured(s, t);
    const clipped = values.colour === "credit" && pair.losses[s] && pair.losses[s].clipped[t];
    if (response.wrong.includes(t)) node.classList.add("wrong");
    if (clipped) node.classList.add("cut");
    if (!maskOf(response)[t]) node.classList.add("dropped");
    return node;
  }

  function paintPairs() {
    const [a, b] = pair.responses;
    const places = [];
    const rows = pair.rows.map((row) => {
      const names = make("li", { className: "names" }, ...NAMES.map((name) => make("b", { textContent: name })));
      names.setAttribute("aria-hidden", "true");
      const items = row.map(([i, j]) => {
        const item = make("li", { tabIndex: places.length ? -1 : 0 }, cell(0, i), cell(1, j));
        if (i === null || j === null || a.tokens[i] !== b.tokens[j]) item.className = "differs";
        item.dataset.place = places.length;
        places.push({ item, i, j });
        return item;
      });
      const list = make("ol", {}, names, ...items);
      const last = row[row.length - 1] || [null, null];
      const ends = [a.tokens[last[0]], b.tokens[last[1]]].some((text) => text && text.endsWith("\n"));
      if (ends) list.className = "line";
      return list;
    });
    picture.replaceChildren(...rows);
    pair.places = places;
  }

  function look(p) {
    if (!pair.places.length) return (detail.textContent = "");
    const { i, j } = pair.places[p];
    const said = [i, j].map((t, s) => {
      if (t === null) return `${NAMES[s]} writes nothing here.`;
      const response = pair.responses[s];
      const loss = pair.losses[s];
      const parts = [`${NAMES[s]}, token ${t + 1}, \u201c${visible(response.tokens[t])}\u201d`];
      if (response.delta) parts.push(`log-ratio ${number(response.delta[t], 3)} nats`);
      if (loss) parts.push(`credit ${signed(loss.credit[t], 3)}${loss.clipped[t] ? ", clipped" : ""}`);
      if (response.wrong.includes(t)) parts.push("in the first wrong step");
      return `${parts.join(", ")}.`;
    });
    detail.textContent = said.join(" ");
  }

  function fact(s) {
    const response = pair.responses[s];
    const wrong = response.wrong.map((t) => response.tokens[t]).join("");
    const lines = [
      ["action", data.runs[s].action],
      ["verdict", `${verdictOf(response)}${response.finished ? "" : ", cut off at the limit"}`],
      ["reward", number(response.reward)],
      ["advantage", signed(response.advantage)],
      ["tokens", String(response.tokens.length)],
    ];
    if (pair.losses[s]) lines.push(["clipped", count(pair.losses[s].clipped.filter(Boolean).length, "action")]);
    if (wrong) lines.push(["first wrong step", wrong.replace(/\n/g, " ")]);
    const rows = lines.filter(([, text]) => text && text !== "unknown").map(([name, text]) => [
      make("dt", { textContent: name }),
      make("dd", { textContent: text }),
    ]);
    const title = `${data.runs[s].label}, step ${pair.problem.steps[s]}, attempt ${pair.at[s] + 1}`;
    const heading = make("p", {}, make("strong", { textContent: `${NAMES[s]} ` }), title);
    return make("div", {}, heading, make("dl", {}, ...rows.flat()));
  }

  function paintLegend() {
    const swatch = (value, text, most) => {
      const box = make("span", { className: "mpo-swatch", textContent: text });
      box.style.backgroundColor = shade(value, most);
      return box;
    };
    const parts = [make("span", { textContent: "A bar between two tokens: they differ. " })];
    if (pair.responses.some((r) => r.wrong.length)) {
      parts.push(make("span", { className: "mpo-wrong", textContent: "Underlined" }), ": the first wrong step. ");
    }
    const most = limit();
    if (values.colour === "credit") {
      parts.push(swatch(most, signed(most), most), " pushed up, ", swatch(-most, signed(-most), most));
      parts.push(" pushed down: the weight on the token\u2019s log-probability, in units of advantage. ");
      const cuts = pair.losses.some((loss) => loss && loss.clipped.some(Boolean));
      if (cuts) parts.push(make("span", { textContent: "Hatched: the action that starts here is clipped." }));
    } else if (values.colour === "delta") {
      parts.push(swatch(WIDEST, signed(WIDEST), WIDEST), " to ", swatch(-WIDEST, signed(-WIDEST), WIDEST));
      parts.push(" nats: what the updates of this step did to the token\u2019s log-probability.");
    }
    legend.replaceChildren(...parts);
  }

  function summary() {
    const [a, b] = pair.responses;
    const verdicts = [a, b].map((r, s) => `${NAMES[s]} is ${verdictOf(r)}`).join(", ");
    return `${agreement(pair.rows, a, b)} ${verdicts}.`;
  }

  function paint() {
    panel.show(values, used);
    const { problem, moment } = pair;
    problems.replaceChildren(
      ...moment.problems.map((one, n) =>
        make("option", { value: n + 1, textContent: cut(one.prompt || `problem ${n + 1}`, 48) })
      ),
    );
    problems.value = moment.problems.indexOf(problem) + 1;
    chosen.hidden = moment.problems.length < 2;
    const answer = problem.answer === null
      ? []
      : [make("span", { textContent: `  \u00b7  right answer: ${problem.answer}` })];
    question.replaceChildren(make("strong", { textContent: "Prompt " }), problem.prompt, ...answer);
    sides.forEach((side, s) => side.show(problem.sides[s], pair.at[s], problem.steps[s]));
    words.textContent = summary();
    paintPairs();
    paintLegend();
    facts.replaceChildren(fact(0), fact(1));
    look(0);
    root.dataset.values = JSON.stringify(values); // for tests, and for whoever looks
  }

  function moved(next) {
    change(next);
    tell({ ...values });
  }

  function change(next) {
    const other = (name) => name in next && next[name] !== values[name];
    if (other("step")) Object.assign(values, { problem: 1 });
    if (other("step") || other("problem")) {
      const problem = problemAt({ ...values, ...next }).problem;
      const n = firstDifference(problem) + 1;
      Object.assign(values, { a: n, b: n });
    }
    Object.assign(values, next);
    if (!moments.length) return;
    compute();
    paint();
  }

  function placeOf(event) {
    const item = event.target.closest("li");
    return item && item.dataset.place ? Number(item.dataset.place) : -1;
  }
  picture.addEventListener("pointerover", (event) => placeOf(event) >= 0 && look(placeOf(event)));
  picture.addEventListener("focusin", (event) => placeOf(event) >= 0 && look(placeOf(event)));
  picture.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 };
    const p = placeOf(event);
    if (!(event.key in steps) || p < 0) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(pair.places.length - 1, p + steps[event.key]));
    pair.places[p].item.tabIndex = -1;
    pair.places[to].item.tabIndex = 0;
    pair.places[to].item.focus();
  });

  change({});
  return {
    set: change,
    values: () => ({ ...values }),
    numbers: () => pair,
    destroy: () => element.replaceChildren(),
  };
}
