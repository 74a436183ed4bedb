/**
 * A problem and its formalisation: each clause beside the constraint that it became, what the solver says of them, and
 * how often an edit of each kind fails in which way.
 *
 * mount(element, data) draws into an element and returns { state, destroy }.
 * data: { problems: [{ text, opening, names, roles, clauses, constraints, right, edits }], bars: [{ what, counts }],
 *         problem, edit }. `edits[i]` is { text, what, speaker, constraint, kind, core, models }; edit 0 is none.
 *         `kind` and the places of `counts` are those of KINDS; `right` and each model hold a truth value a person.
 */

import { count, make } from "./dom.js";
import { controls } from "./inputs.js";

/** The four ends of an edit: [class, name]. */
export const KINDS = [
  ["right", "still the right model"],
  ["unsat", "unsatisfiable"],
  ["several", "several models"],
  ["wrong", "one wrong model"],
];

/** "Emma, Liam and Ava". */
export function listed(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} and ${names[names.length - 1]}`;
}

/** A model in words: who is what. */
export function roles(model, problem) {
  return model.map((knight, at) => `${problem.names[at]} is ${problem.roles[knight ? 0 : 1]}`).join(", ");
}

/** What the solver says, in a sentence. */
export function verdict(problem, edit) {
  const named = listed(edit.core.map((at) => problem.names[at]));
  if (edit.kind === 0 && edit.what === "") return `One model, the right one: ${roles(edit.models[0], problem)}.`;
  if (edit.kind === 0) return `One model, and still the right one: ${roles(edit.models[0], problem)}.`;
  if (edit.kind === 1) return `No model. The core names what ${named} said.`;
  if (edit.kind === 2) return "Several models, two of them below. Something is left open; nothing says what.";
  return `One model, and a wrong one: ${roles(edit.models[0], problem)}. The solver sees nothing amiss.`;
}

/** A stacked bar for each kind of edit, with its counts. */
function barRow(bar, all) {
  const total = bar.counts.reduce((sum, n) => sum + n, 0);
  const label = make("span", { className: "mpo-formal-what" }, bar.what, make("small", { textContent: ` ${total}` }));
  const parts = KINDS.map(([kind, name], at) => {
    const share = bar.counts[at] / total;
    const part = make("span", { className: `mpo-formal-part ${kind}` });
    part.style.width = `${100 * share}%`;
    part.title = `${bar.what}: ${name}, ${bar.counts[at]} of ${count(total, "edit")}`;
    if (share > 0.09) part.textContent = `${Math.round(100 * share)}%`;
    return part;
  });
  const stack = make("span", { className: "mpo-formal-stack" }, ...parts);
  const words = KINDS.map(([, name], at) => `${name} ${bar.counts[at]}`).join(", ");
  stack.setAttribute("role", "img");
  stack.setAttribute("aria-label", `${bar.what}: ${words}`);
  const row = make("div", { className: "mpo-formal-bar" }, label, stack);
  if (all) row.classList.add("all");
  return row;
}

export function mount(element, data) {
  const values = { problem: data.problem, edit: data.edit };
  const top = make("div");
  const opening = make("p", { className: "mpo-formal-text" });
  const rows = make("ol", { className: "mpo-formal-rows" });
  const words = make("p", { className: "mpo-formal-words" });
  words.setAttribute("aria-live", "polite");
  const models = make("ul", { className: "mpo-formal-models" });
  const bars = data.bars.map((bar, at) => barRow(bar, at === data.bars.length - 1));
  const heading = make("p", { className: "mpo-formal-heading", textContent: data.heading });
  const legend = make(
    "p",
    { className: "mpo-formal-legend" },
    ...KINDS.map(([kind, name]) => make("span", {}, make("i", { className: kind }), name)),
  );
  const chart = make("div", { className: "mpo-formal-bars" }, heading, ...bars, legend);
  const root = make("div", { className: "mpo-figure mpo-formal" }, top, opening, rows, words, models, chart);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "A riddle, its constraints, and what the solver says of them");
  let panel = null;

  /** Controls for the present problem: another problem has other edits. */
  function offer() {
    panel = controls({
      problem: { kind: "choice", label: "riddle", options: data.problems.map((problem, at) => [at, problem.text]) },
      edit: {
        kind: "choice",
        label: "one edit",
        options: data.problems[values.problem].edits.map((edit, at) => [at, edit.text]),
      },
    }, change);
    top.replaceChildren(panel.element);
  }

  function change(name, value) {
    values[name] = value;
    if (name === "problem") {
      values.edit = 0;
      offer();
      top.querySelector('[data-control="problem"]').focus();
    }
    paint();
  }

  /** One clause, the constraint that it became, and what there is to say of them. */
  function clauseRow(problem, edit, at) {
    const edited = edit.what !== "" && edit.speaker === at;
    const inCore = edit.core.includes(at);
    const clause = make("span", { className: "mpo-formal-clause", textContent: problem.clauses[at] });
    const code = make("code", { textContent: edited ? edit.constraint : problem.constraints[at] });
    const constraint = make("span", { className: "mpo-formal-constraint" });
    if (edited) constraint.append(make("del", { textContent: problem.constraints[at] }));
    constraint.append(code);
    if (edited) constraint.append(make("small", { className: "edited", textContent: `edited: ${edit.what}` }));
    if (inCore) constraint.append(make("small", { className: "core", textContent: "in the core" }));
    const row = make("li", {}, clause, constraint);
    row.classList.toggle("core", inCore);
    row.classList.toggle("edited", edited);
    return row;
  }

  function paint() {
    const problem = data.problems[values.problem];
    const edit = problem.edits[values.edit];
    opening.textContent = problem.opening;
    rows.replaceChildren(...problem.clauses.map((_, at) => clauseRow(problem, edit, at)));
    words.textContent = verdict(problem, edit);
    words.dataset.kind = KINDS[edit.kind][0];
    const items = edit.kind === 2 ? edit.models.map((model) => ["model", model]) : [];
    if (edit.kind > 0) items.push(["right", problem.right]);
    models.replaceChildren(
      ...items.map(([name, model]) => make("li", {}, make("b", { textContent: `${name}: ` }), roles(model, problem))),
    );
    bars.forEach((bar, at) => bar.classList.toggle("now", data.bars[at].what === edit.what));
    panel.show(values, new Set(["problem", "edit"]));
    root.dataset.state = JSON.stringify({ ...values, kind: KINDS[edit.kind][0], core: edit.core });
  }

  element.replaceChildren(root);
  offer();
  paint();
  return { state: () => ({ ...values }), destroy: () => element.replaceChildren() };
}
