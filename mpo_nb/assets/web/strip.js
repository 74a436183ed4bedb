// Strips of tokens in a document: painted from numbers, walked through by keyboard, compared side by side.
import { elementsOf } from "./markup.js";
import { nextToken, signed, tokenColours, tokenLabel, tokenMarks } from "./tokens.js";

const factsOf = new WeakMap(); // strip -> what is said of each of its tokens under any setting
const templateOf = new WeakMap(); // box of strips -> the template that its strips were copied from

// One Tab leaves a strip, whatever its length; inside it the arrow keys move.
export function walkByKeyboard(strip) {
  const tokens = [...strip.querySelectorAll(".mpo-token")];
  tokens.forEach((token, i) => token.tabIndex = i === 0 ? 0 : -1);

  strip.addEventListener("keydown", (event) => {
    const at = tokens.indexOf(event.target);
    if (at < 0) return;
    const starts = tokens.map((token, i) => i === 0 || token.classList.contains("mpo-first"));
    const to = nextToken(event.key, at, starts);
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // a notebook would move to another cell
    if (!tokens[to]) return;
    tokens[at].tabIndex = -1;
    tokens[to].tabIndex = 0;
    tokens[to].focus();
  });
}

// The same token is marked in the strips beside this one while it is pointed at or focused.
function markSameToken(strip) {
  const mark = (on) => (event) => {
    const token = event.target.closest(".mpo-token");
    if (!token) return;
    for (const other of strip.parentElement.children) {
      if (other === strip) continue;
      other.querySelector(`[data-token="${token.dataset.token}"]`)?.classList.toggle("mpo-same", on);
    }
  };
  for (const type of ["pointerover", "focusin"]) strip.addEventListener(type, mark(true));
  for (const type of ["pointerout", "focusout"]) strip.addEventListener(type, mark(false));
}

// A strip that was just copied from its template.
function wireStrip(strip) {
  factsOf.set(strip, [...strip.querySelectorAll(".mpo-token")].map((token) => token.getAttribute("aria-label")));
  walkByKeyboard(strip);
  markSameToken(strip);
}

function paintToken(token, facts, state, i) {
  for (const [mark, on] of Object.entries(tokenMarks(state, i))) token.classList.toggle(mark, on);
  token.dataset.block = state.blocks[i];
  token.setAttribute("aria-label", tokenLabel(facts, state, i));
  Object.assign(token.firstElementChild.style, tokenColours(state.values[i], state.limit));
  const number = token.querySelector(".mpo-number");
  if (number) number.textContent = state.values[i] === null ? "\u2013" : signed(state.values[i]);
}

// Does in the browser what Python's `token_strip` does.
function paintStrip(strip, state) {
  strip.querySelector(".mpo-title").textContent = state.title;
  const list = strip.querySelector(".mpo-tokens"); // not there for a response without tokens
  list?.setAttribute("aria-label", `${state.title || "response"}, ${state.values.length} tokens`);
  strip.querySelector(".mpo-legend")?.remove();
  strip.insertBefore(
    elementsOf(state.legend || '<div class="mpo-legend"></div>'),
    strip.querySelector(".mpo-hint"),
  );
  const facts = factsOf.get(strip);
  strip.querySelectorAll(".mpo-token").forEach((token, i) => paintToken(token, facts[i], state, i));
}

// One strip for each state, side by side. The tokens are copied again only when they are others than before, so that
// moving a slider leaves focus and scroll position alone.
export function showStrips(box, template, states) {
  if (templateOf.get(box) !== template || box.children.length !== states.length) {
    templateOf.set(box, template);
    const tokens = elementsOf(template);
    box.replaceChildren(...states.map(() => tokens.cloneNode(true)));
    for (const strip of box.children) wireStrip(strip);
  }
  states.forEach((state, i) => paintStrip(box.children[i], state));
}
