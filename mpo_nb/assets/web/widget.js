// What the live panel and the exported page have in common: strips, a summary, further HTML, and the settings.
import { elementsOf } from "./markup.js";
import { showStrips } from "./strip.js";

const extraOf = new WeakMap(); // element -> the HTML that it shows

// A table that did not change keeps its scroll position; in one that did, the button that had the focus gets it back.
function showExtra(element, html) {
  if (extraOf.get(element) === html) return;
  extraOf.set(element, html);
  const picked = element.contains(document.activeElement) ? document.activeElement.dataset.pick : undefined;
  element.replaceChildren(elementsOf(html));
  if (picked) element.querySelector(`[data-pick="${picked}"]`)?.focus();
}

// `view` has template, states, summary, extra and values.
export function fillWidget(root, view) {
  showStrips(root.querySelector(".mpo-strips"), view.template, view.states);
  root.querySelector(".mpo-summary").textContent = view.summary;
  showExtra(root.querySelector(".mpo-extra"), view.extra);
  root.dataset.values = JSON.stringify(view.values); // for tests, and for whoever looks
}
