/**
 * Where the advantage of a response goes, token by token, under two action spaces, aligned, and their difference.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, values, numbers, focus, destroy };
 * `tell(values)` is called when a hand has moved a control.
 * data: { tokens, logps, oldLogps, mask, advantage, prompt, answer, verdict, wrong, unknown, unrewarded, values, axes };
 * `wrong` are the positions of the first wrong step; `unknown` and `unrewarded` say what is not known of the response.
 */

import { hasNotMoved, madeUpMovement, shortName, sideLoss, spaceBlocks, spaceName, SPACES } from "./credit_numbers.js";
import { summary, usedControls } from "./credit_numbers.js";
import { curves } from "./curves.js";
import { make, number, signed, spans, visible } from "./dom.js";
import { controls, doublings, reachOf, reachSpecs } from "./inputs.js";
import { scaleBar, tokenLanes } from "./lanes.js";

const NUMBERED = 600; // tokens up to which every token carries its numbers
const FULL = 1.5; // plain shares that are drawn at full strength
const FULL_DIFFERENCE = 0.5; // plain shares of difference that are

/** Prompt, right answer, verdict and first wrong step, above the picture. */
function heading(data) {
  const lines = [];
  if (data.prompt) {
    lines.push(make("p", { className: "mpo-prompt" }, make("strong", { textContent: "Problem " }), data.prompt));
  }
  const facts = make("p", { className: "mpo-truth" });
  const add = (name, text, kind = "") =>
    facts.append(make("span", { className: kind }, `${name} `, make("b", {}, text)));
  if (data.answer) add("right answer", data.answer);
  if (data.verdict) add("this response is", data.verdict, `verdict-${data.verdict}`);
  const wrong = data.wrong || [];
  if (wrong.length) {
    const words = wrong.map((t) => data.tokens[t]).join("").trim();
    add("first wrong step", `\u201c${words}\u201d (${spans(wrong)})`, "wrong");
  }
  if (facts.childNodes.length) lines.push(facts);
  return lines;
}

/** What the controls may be set to. */
function controlSpecs(T, kept, reach) {
  const range = (label, low, high, step, text = number) => ({
    kind: "slider",
    label,
    low,
    high,
    step,
    text: (x) => text(x),
  });
  const tails = [["renormalise", "are rescaled (as recipes do)"], ["truncate", "keep their weights"]];
  return {
    left: { kind: "choice", label: "First lane", options: SPACES, group: "sides" },
    right: { kind: "choice", label: "Second lane", options: SPACES, group: "sides" },
    k: { kind: "slider", label: "tokens per action, K", stops: doublings(Math.max(8, kept)), group: "actions" },
    future: { ...range("share of later tokens", 0, 0.95, 0.05), group: "actions" },
    tail: { kind: "choice", label: "windows at the end", options: tails, group: "actions" },
    moved: range("how far the policy has moved (\u00d7 recorded)", 0, 5, 0.05),
    epsilon: range("clip range, 1 \u00b1 \u03b5", 0, 1, 0.01),
    advantage: range("advantage, A", -reach, reach, 0.05, signed),
    difference: { kind: "toggle", label: "show the difference", group: "show" },
    made: { kind: "toggle", label: "a made-up movement", group: "show" },
    ...reachSpecs(T, "show"),
  };
}

export function mount(element, data, method, tell = () => {}) {
  const T = data.tokens.length;
  const positions = method.keptPositions(data.mask);
  const still = hasNotMoved(data);
  const madeUp = { ...data, logps: madeUpMovement(T), oldLogps: new Array(T).fill(0) };
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
    advantage: data.advantage,
    ...(T > 256 ? { span: 0, start: 1 } : {}),
    ...data.values,
  };
  const reach = Math.max(3, Math.abs(values.advantage), Math.abs(data.advantage));
  const specs = controlSpecs(T, positions.length, reach);
  const panel = controls(specs, (name, value) => (change({ [name]: value }), tell({ ...values })), data.axes);
  const words = make("p", { className: "mpo-words" });
  words.setAttribute("aria-live", "polite");
  const offer = make("button", { type: "button", textContent: "Show a made-up movement" });
  offer.addEventListener("click", () => (change({ made: true }), tell({ ...values })));
  const notice = make(
    "p",
    { className: "mpo-notice" },
    "This response carries no movement of the policy: every ratio is 1, so nothing can be clipped. ",
    offer,
  );
  const detail = make("p", { className: "mpo-detail" });
  const legend = make("div", { className: "mpo-legend" });
  const line = tokenLanes(data.tokens, data.mask, { lanes: ["first", "second", "difference"], look });
  const figure = curves(T, { look: (t) => (look(t), line.reveal(t)) });
  const key = make("div", { className: "mpo-key" }, make("span"), make("span"));
  const root = make(
    "div",
    { className: "mpo-lane-view" },
    ...heading(data),
    panel.element,
    notice,
    words,
    line.element,
    legend,
    detail,
    key,
    figure.element,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Credit of every token under two action spaces");
  element.replaceChildren(root);

  let sides = null;
  let at = data.wrong && data.wrong.length ? data.wrong[data.wrong.length - 1] : positions[0] || 0;

  /** The response as it is drawn: its own movement, or one made up. */
  const response = () => (still && values.made ? madeUp : data);

  function compute() {
    sides = {
      left: sideLoss(values.left, response(), values, method),
      right: sideLoss(values.right, response(), values, method),
    };
  }

  /** Colours do not follow the data: a token's plain share is the advantage, and 1.5 of them are the full colour. */
  const share = () => Math.max(1e-6, Math.abs(values.advantage));

  function lane(credit, limit, side) {
    const texts = T <= NUMBERED ? credit.map((value, t) => (data.mask[t] ? number(value) : "")) : null;
    const more = side ? { hatched: side.loss.clipped, blocks: spaceBlocks(side.space, data, values, method) } : {};
    return { values: credit, limit, texts, ...more };
  }

  function paint() {
    const { left, right } = sides;
    const difference = right.loss.credit.map((value, t) => value - left.loss.credit[t]);
    panel.show(values, usedControls(data, values));
    notice.hidden = !still || values.made;
    root.classList.toggle("no-difference", !values.difference);
    line.name([shortName(values.left, values.k), shortName(values.right, values.k), "second minus first"]);
    line.paint([
      lane(left.loss.credit, FULL * share(), left),
      lane(right.loss.credit, FULL * share(), right),
      lane(difference, FULL_DIFFERENCE * share(), null),
    ]);
    figure.paint(panels(left, right), reachOf(T, values));
    [values.left, values.right].forEach((space, n) => (key.children[n].textContent = spaceName(space, values.k)));
    words.textContent = summary(response(), values, left, right, method);
    paintLegend();
    look(at);
  }

  function panels(left, right) {
    const kept = (x) => x.map((value, t) => (data.mask[t] ? value : NaN));
    const log = (ratio) => Math.max(-4.6, Math.min(4.6, Math.log(ratio)));
    return [
      {
        title: "credit of each token, in units of 1/T",
        zero: true,
        series: [left, right].map((side) => ({ values: kept(side.loss.credit) })),
      },
      {
        title: "ratio of each action (log scale; grey: clip range)",
        log: true,
        band: [Math.log(Math.max(0.01, 1 - values.epsilon)), Math.log1p(values.epsilon)],
        series: [left, right].map((side) => ({
          values: kept(side.loss.ratio.map(log)),
          marks: T <= NUMBERED ? positions.filter((t) => side.loss.clipped[t]) : [],
        })),
      },
    ];
  }

  function paintLegend() {
    const unit =
      `Credit, in units of 1/T (T = ${positions.length.toLocaleString("en")}): the weight on a token\u2019s ` +
      "log-probability in a loss that averages over tokens. 1 is a token\u2019s plain share of an advantage of 1; here " +
      `the plain share is ${signed(values.advantage)}.`;
    const marks =
      "Hatched (in the curves \u00d7 and +): the action that begins here is clipped. Bars above a lane: blocks. Orange: the tokens of the " +
      "action of the token in focus, in the second lane; blue line: the actions that pay it.";
    const ends = ["pushed down", "pushed up"];
    const bars = [scaleBar(FULL * share(), share(), ends)];
    if (values.difference) {
      bars.push(scaleBar(FULL_DIFFERENCE * share(), null, ["second minus first: lower", "higher"]));
    }
    legend.replaceChildren(
      make("div", { className: "mpo-scales" }, ...(values.advantage === 0 ? [] : bars)),
      make("p", { textContent: `${unit} ${marks}` }),
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
      outlined.member = positions.filter((s) => row[s] !== 0).slice(0, 64);
      outlined.payer = positions.filter((s) => column[s] !== 0).slice(-64);
    }
    line.mark(outlined);
    const side = (name, { loss }) =>
      `${name} lane: credit ${signed(loss.credit[t], 3)}, ratio ${number(loss.ratio[t], 3)}${
        loss.clipped[t] ? ", clipped" : ""
      }.`;
    const token = `Token ${(t + 1).toLocaleString("en")}, \u201c${visible(data.tokens[t])}\u201d`;
    detail.textContent = data.mask[t]
      ? `${token}. Log-ratio ${number(left.moved[t], 3)} nats. ${side("First", left)} ${side("Second", right)}`
      : `${token}, was not written by the policy.`;
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
