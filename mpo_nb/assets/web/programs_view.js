/**
 * Two players whose actions are programs that read one another: both sources, the payoff matrix, and a button that lets
 * one player after the other respond as well as it can.
 *
 * mount(element, data) draws into an element and returns { step, state, destroy }.
 * data: { games: name -> { text, names, rows, columns, language }, languages: name -> { sources, actions, lines },
 *         game, kind, starts }. `rows[a][b]` and `columns[a][b]` are the players' utilities; `actions[p][q]` and
 *         `lines[p][q]` the action of source p against source q, and the line that returned it.
 */

import { make, number } from "./dom.js";
import { controls } from "./inputs.js";

const KINDS = [["constants", "constants"], ["hidden", "programs, source hidden"], ["programs", "programs"]];
const PLAYERS = ["row player", "column player"];
const MOST = 60; // responses until a walk is called endless

/** A source on one line. */
const brief = (source) => source.replace(/:\n\s*/g, ": ").replace(/\n/g, "; ");

/** Which source each program is shown: its own where sources are hidden. */
const shown = (kind, own, other) => (kind === "hidden" ? own : other);

/** What a pair of programs plays, pays, and which lines returned it. */
export function outcome(game, language, kind, pair) {
  const [p, q] = pair;
  const seen = [shown(kind, p, q), shown(kind, q, p)];
  const actions = [language.actions[p][seen[0]], language.actions[q][seen[1]]];
  const lines = [language.lines[p][seen[0]], language.lines[q][seen[1]]];
  const utilities = [game.rows[actions[0]][actions[1]], game.columns[actions[0]][actions[1]]];
  return { actions, lines, utilities };
}

/** The best program of one player against the other's: the present one if none is better, else the first of the best. */
export function respond(game, language, kind, pair, player) {
  const most = kind === "constants" ? game.names.length : language.sources.length;
  const utility = (program) => {
    const changed = player ? [pair[0], program] : [program, pair[1]];
    return outcome(game, language, kind, changed).utilities[player];
  };
  let best = 0;
  for (let program = 1; program < most; program++) if (utility(program) > utility(best)) best = program;
  return utility(pair[player]) >= utility(best) ? pair[player] : best;
}

/** The largest utilities of a matrix, where both players have the same. */
function largest(game) {
  const same = game.rows.every((row, a) => row.every((x, b) => x === game.columns[a][b]));
  return same ? Math.max(...game.rows.flat()) : null;
}

/** One player's card: name, source with the line that returned marked, what it plays. */
function card(player) {
  const title = make("div", { className: "mpo-programs-name" });
  const source = make("ol", { className: "mpo-programs-source" });
  source.setAttribute("aria-label", `source of the ${PLAYERS[player]}`);
  const words = make("p", {});
  const element = make("section", { className: "mpo-programs-card" }, title, source, words);

  function paint(text, line, action, utility, next) {
    title.replaceChildren(PLAYERS[player], make("small", { textContent: next ? "responds next" : "" }));
    element.classList.toggle("next", next);
    const items = text.split("\n").map((code, at) => {
      const item = make("li", {}, make("code", { textContent: code }));
      if (at === line) item.className = "ran";
      if (at === line) item.setAttribute("aria-label", `${code.trim()}, the line that returned`);
      return item;
    });
    source.replaceChildren(...items);
    words.textContent = `plays ${action}, utility ${number(utility, 0)}`;
  }

  return { element, paint };
}

/** The payoff matrix, with the numbers of the responses at which a pair stood in a cell. */
function matrix() {
  const caption = make("caption");
  const body = make("tbody");
  const head = make("thead");
  const element = make("table", { className: "mpo-programs-matrix" }, caption, head, body);
  const heading = (text, scope) => make("th", { textContent: text, scope });

  function paint(game, path) {
    const best = largest(game);
    caption.textContent = best === null
      ? "utility of the row player, of the column player"
      : "utility, of both players";
    head.replaceChildren(make("tr", {}, make("td"), ...game.names.map((name) => heading(name, "col"))));
    const last = path[path.length - 1];
    const rows = game.names.map((name, a) => {
      const cells = game.names.map((_, b) => {
        const texts = [game.rows[a][b], game.columns[a][b]].map((x) => number(x, 0));
        const cell = make("td", {}, make("b", { textContent: best === null ? texts.join(", ") : texts[0] }));
        const times = path.flatMap(([c, d], at) => (c === a && d === b ? [at] : []));
        const after = times.filter((at) => at > 0).join(", ");
        const words = [times[0] === 0 ? "start" : "", after && `after ${after}`].filter(Boolean).join(", ");
        cell.append(make("small", { textContent: words }));
        if (last[0] === a && last[1] === b) cell.classList.add("now");
        if (last[0] === a && last[1] === b) cell.setAttribute("aria-current", "true");
        if (best !== null && game.rows[a][b] === best) cell.classList.add("best");
        return cell;
      });
      return make("tr", {}, heading(name, "row"), ...cells);
    });
    body.replaceChildren(...rows);
  }

  return { element, paint };
}

export function mount(element, data) {
  const values = { game: data.game, kind: data.kind, row: data.starts[0], column: data.starts[1] };
  const games = Object.entries(data.games).map(([name, game]) => [name, game.text]);
  let panel = null;
  let pair = [0, 0];
  let path = []; // the actions at the start and after each response
  let quiet = 0; // responses in a row that changed nothing
  let said = "";

  const step = make("button", { type: "button", textContent: "Respond", className: "mpo-programs-step" });
  const again = make("button", { type: "button", textContent: "Start again" });
  const cards = [card(0), card(1)];
  const table = matrix();
  const words = make("p", { className: "mpo-programs-words" });
  words.setAttribute("aria-live", "polite");
  const top = make("div", { className: "mpo-programs-top" });
  const swatch = (kind, text) => make("span", {}, make("i", { className: kind }), text);
  const bestEntry = swatch("best", "the best entry");
  const legend = make(
    "p",
    { className: "mpo-programs-legend" },
    swatch("ran", "the line that returned the action"),
    swatch("now", "where the pair stands"),
    bestEntry,
  );
  const both = make("div", { className: "mpo-programs-both" }, cards[0].element, cards[1].element);
  const buttons = make("div", { className: "mpo-programs-buttons" }, step, again);
  const beside = make("div", {}, buttons, words);
  const below = make("div", { className: "mpo-programs-below" }, table.element, beside);
  const root = make("div", { className: "mpo-figure mpo-programs" }, top, both, below, legend);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Two programs, each a best response to the other\u2019s source");
  for (const button of [step, again]) button.dataset.lmSuppressShortcuts = "true";

  const game = () => data.games[values.game];
  const language = () => data.languages[game().language];
  const ended = () => quiet > 1 || path.length > MOST;

  /** Controls for the present game: another game may have another language. */
  function offer() {
    const sources = language().sources.map((source, at) => [at, brief(source)]);
    panel = controls({
      game: { kind: "choice", label: "game", options: games },
      kind: { kind: "choice", label: "a response is one of the", options: KINDS },
      row: { kind: "choice", label: "row starts with", options: sources, group: "starts" },
      column: { kind: "choice", label: "column starts with", options: sources, group: "starts" },
    }, change);
    top.replaceChildren(panel.element);
  }

  function change(name, value) {
    values[name] = value;
    if (name === "game") {
      Object.assign(values, { row: game().names.length - 1, column: game().names.length - 1 });
      offer();
      top.querySelector('[data-control="game"]').focus();
    }
    begin();
  }

  function begin() {
    pair = [values.row, values.column];
    path = [outcome(game(), language(), values.kind, pair).actions];
    quiet = 0;
    said = "The row player responds first.";
    paint();
  }

  function next() {
    if (ended()) return;
    const player = (path.length - 1) % 2;
    const found = respond(game(), language(), values.kind, pair, player);
    quiet = found === pair[player] ? quiet + 1 : 0;
    pair[player] = found;
    const { actions, utilities } = outcome(game(), language(), values.kind, pair);
    path.push(actions);
    const what = quiet
      ? "keeps its source: nothing is better"
      : `answers with \u201c${brief(language().sources[found])}\u201d`;
    said = `Response ${path.length - 1}: the ${PLAYERS[player]} ${what}. Its utility: ${number(utilities[player], 0)}.`;
    if (quiet > 1) said += ` ${verdict(utilities)}`;
    paint();
  }

  function verdict(utilities) {
    const best = largest(game());
    const end = "A fixed point: each is a best response to the other.";
    if (best === null || utilities[0] === best) return end;
    return `${end} The matrix has ${number(best, 0)}, and no response leads there.`;
  }

  function paint() {
    const { actions, lines, utilities } = outcome(game(), language(), values.kind, pair);
    const player = (path.length - 1) % 2;
    cards.forEach((one, at) => {
      const name = game().names[actions[at]];
      one.paint(language().sources[pair[at]], lines[at], name, utilities[at], !ended() && at === player);
    });
    table.paint(game(), path);
    bestEntry.hidden = largest(game()) === null;
    panel.show(values, new Set(["game", "kind", "row", "column"]));
    step.setAttribute("aria-disabled", String(ended()));
    words.textContent = said;
    root.dataset.state = JSON.stringify({ pair, actions, utilities, ended: ended() });
  }

  step.addEventListener("click", next);
  again.addEventListener("click", begin);
  element.replaceChildren(root);
  offer();
  begin();
  return { step: next, state: () => ({ pair: [...pair], path: [...path] }), destroy: () => element.replaceChildren() };
}
