/**
 * A window slides over a response: its ratio fills from its K tokens, the clip range cuts, and what is left of the
 * advantage flows back to the tokens along W transposed. Every number comes from method.js.
 *
 * mount(element, data, method) draws into an element and returns { set, values, destroy }.
 * data: { tokens, logps, oldLogps, mask, advantage, k, future, epsilon, wrong, prompt, answer, verdict, play, start };
 * `wrong` lists the positions that an eye should find.
 */

import { draw, make, number } from "./dom.js";
import { controls, doublings } from "./inputs.js";
import { beat, describeResponse, describeStep, slideNumbers } from "./slide_numbers.js";
import { headings, layout, painter, scalesOf } from "./slide_picture.js";

const MOST = 12; // tokens in a window of a short response

/** What the picture is about, in words, above it. */
function caption(data) {
  const text = make("p", { className: "mpo-slides-caption" });
  if (data.prompt) text.append(make("strong", { textContent: data.prompt }), " ");
  text.append(describeResponse(data));
  return text;
}

/** What the colours and lines mean. */
function legend(data) {
  const entry = (kind, text) => make("span", {}, make("i", { className: kind }), text);
  const up = data.advantage >= 0;
  return make(
    "p",
    { className: "mpo-slides-legend" },
    entry("window", "the window, and its ratio"),
    entry("band", "clip range: a ratio that training would push further out is cut (\u2702\ufe0e) and pays nothing"),
    entry(up ? "up" : "down", `credit that pushes a token ${up ? "up" : "down"}`),
    entry("share", "A, the advantage: a token\u2019s plain share"),
    ...((data.wrong || []).length ? [entry("wrong", "the first wrong step")] : []),
  );
}

/** The window whose own token has moved most: where there is something to see. */
function liveliest(numbers) {
  let best = 0;
  for (let i = 0; i < numbers.count; i++) {
    if (Math.abs(Math.log(numbers.window(i).ratio)) > Math.abs(Math.log(numbers.window(best).ratio))) best = i;
  }
  return best;
}

export function mount(element, data, method) {
  const still = globalThis.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const settings = { k: data.k, future: data.future, epsilon: data.epsilon };
  let numbers = slideNumbers(data, settings, method);
  const last = numbers.count - 1;
  const begin = data.start ?? (still && last < 512 ? liveliest(numbers) : -1);
  let index = Math.max(-1, Math.min(last, begin));
  let progress = 1; // of the present step
  let playing = false;
  let frame = null; // the animation's next
  let began = 0;

  const play = make("button", { type: "button", className: "mpo-slides-play" });
  const back = make("button", { type: "button", textContent: "\u25c0\ufe0e", title: "one window back" });
  const forward = make("button", { type: "button", textContent: "\u25b6\ufe0e", title: "one window on" });
  back.setAttribute("aria-label", "one window back");
  forward.setAttribute("aria-label", "one window on");
  const specs = {
    index: {
      kind: "slider",
      label: "window",
      low: -1,
      high: Math.max(-1, last),
      step: 1,
      text: (i) => `${(i + 1).toLocaleString("en")} of ${numbers.count.toLocaleString("en")}`,
    },
    k: {
      kind: "slider",
      label: "K, tokens per window",
      stops: doublings(Math.max(1, data.k, Math.min(MOST, last + 1))),
    },
    future: { kind: "slider", label: "share of later tokens", low: 0, high: 0.95, step: 0.05, text: (x) => number(x) },
    epsilon: {
      kind: "slider",
      label: "clip range, 1 \u00b1 \u03b5",
      low: 0.02,
      high: 0.5,
      step: 0.01,
      text: (x) => number(x),
    },
  };
  const panel = controls(specs, (name, value) => set({ [name]: value }));
  const buttons = make("span", { className: "mpo-slides-buttons" }, back, play, forward);
  panel.element.firstChild.prepend(buttons);
  const words = make("p", { className: "mpo-slides-words" });
  const stage = make("div", { className: "mpo-slides-stage" });
  const picture = draw("svg", { role: "img" });
  const name = draw("title", {});
  const root = make(
    "div",
    { className: "mpo-slides", tabIndex: 0 },
    caption(data),
    stage,
    legend(data),
    words,
    panel.element,
  );
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "A window slides over a response");
  element.replaceChildren(root);

  let at = null;
  let scale = null;

  function arrange() {
    at = layout(data, stage.clientWidth || 720);
    scale = scalesOf(data, settings, numbers);
    picture.setAttribute("width", at.width);
    picture.setAttribute("height", at.lanes.height);
    stage.classList.toggle("narrow", at.lanes.narrow);
    stage.replaceChildren(picture, ...headings(at));
  }

  function paint() {
    const moment = painter({ data, settings, numbers, index, progress, at, scale });
    picture.replaceChildren(name, ...moment());
  }

  function tell() {
    words.setAttribute("aria-live", playing ? "off" : "polite");
    words.textContent = describeStep(data, settings, numbers, index);
    name.textContent = words.textContent;
    panel.show({ ...settings, index }, new Set(Object.keys(specs)));
    play.textContent = playing ? "Pause" : "Play";
    root.dataset.index = index;
  }

  function rest() {
    cancelAnimationFrame(frame);
    frame = null;
    progress = 1;
  }

  /** Show a window: at once, or as it comes. */
  function go(to, moving = false) {
    rest();
    index = Math.max(-1, Math.min(last, to));
    tell();
    if (moving && !still && index >= 0) {
      progress = 0;
      began = performance.now();
      frame = requestAnimationFrame(move);
    } else if (playing) wait();
    paint();
  }

  function move(time) {
    if (!root.isConnected) return;
    progress = Math.max(0, Math.min(1, (time - began) / (0.75 * beat(numbers, index))));
    paint();
    if (progress < 1) frame = requestAnimationFrame(move);
    else if (playing) wait();
  }

  /** Stay with a finished step for a moment, then take the next. */
  function wait() {
    const until = performance.now() + (still ? 1 : 0.25) * beat(numbers, Math.max(0, index));
    frame = requestAnimationFrame(function next(time) {
      if (!root.isConnected || !playing) return;
      if (time < until) frame = requestAnimationFrame(next);
      else if (index < last) go(index + 1, true);
      else stop();
    });
  }

  function stop() {
    playing = false;
    go(index);
  }

  function start() {
    if (last < 0) return;
    playing = true;
    go(index >= last ? 0 : index + 1, true);
  }

  function set(values) {
    const { index: to = index, ...others } = values;
    playing = false;
    if (Object.keys(others).length) {
      Object.assign(settings, others);
      numbers = slideNumbers(data, settings, method);
      scale = scalesOf(data, settings, numbers);
    }
    go(to);
  }

  function step(by) {
    playing = false;
    go(index + by, by > 0);
  }

  const press = () => (playing ? stop() : start());
  play.addEventListener("click", press);
  back.addEventListener("click", () => step(-1));
  forward.addEventListener("click", () => step(1));
  picture.addEventListener("click", (event) => {
    const token = event.target.closest("[data-t]");
    const to = token ? method.keptPositions(data.mask).indexOf(Number(token.dataset.t)) : -1;
    if (to >= 0) set({ index: to });
  });
  root.addEventListener("keydown", (event) => {
    if (event.target !== root) return; // sliders and buttons keep their own keys
    const keys = {
      ArrowRight: () => step(1),
      ArrowLeft: () => step(-1),
      Home: () => set({ index: 0 }),
      End: () => set({ index: last }),
      " ": press,
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  const resized = new ResizeObserver(() => {
    arrange();
    paint();
  });
  resized.observe(stage);
  arrange();
  tell();
  paint();
  let seen = null;
  if (data.play && !still) {
    seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      start();
    });
    seen.observe(root);
  }
  return {
    set,
    values: () => ({ ...settings, index }),
    destroy: () => (rest(), resized.disconnect(), seen?.disconnect(), element.replaceChildren()),
  };
}
