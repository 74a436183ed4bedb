// The live panel: what Python sends is drawn, and a click on a button goes back.
import { elementsOf } from "./markup.js";
import { fillWidget } from "./widget.js";

const BODY = `<p class="mpo-summary" aria-live="polite"></p>
<div class="mpo-strips"></div><div class="mpo-extra"></div>`;
const NAMES = ["template", "states", "summary", "extra", "values"];
const guarded = new WeakSet(); // widgets that keep their keys to themselves

const plotsOf = (root) => root.querySelectorAll(".js-plotly-plot");

// What ipywidgets and plotly leave out: names on the handles of sliders, a description on the figure; and JupyterLab
// takes no keystroke for a command of its own while the focus is inside.
function describe(root, alt) {
  if (!guarded.has(root)) {
    guarded.add(root);
    root.addEventListener("focusin", (event) => event.target.dataset.lmSuppressShortcuts = "true");
  }
  for (const slider of root.querySelectorAll(".widget-inline-hbox")) {
    const label = slider.querySelector(".widget-label")?.textContent;
    for (const part of slider.querySelectorAll(".noUi-handle, .widget-readout")) part.setAttribute("aria-label", label);
  }
  for (const plot of plotsOf(root)) {
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", alt);
  }
}

// plotly listens to the window alone, and a notebook's cell changes its width without it.
function resizePlots(root) {
  for (const plot of plotsOf(root)) plot._responsiveChartHandler?.();
}

function render({ model, el }) {
  el.replaceChildren(elementsOf(BODY));
  const root = () => el.closest(".mpo-widget") || el; // the panel is drawn before it stands in its widget

  function draw() {
    fillWidget(el, Object.fromEntries(NAMES.map((name) => [name, model.get(name)])));
    describe(root(), model.get("alt"));
  }

  function pick(event) {
    const button = event.target.closest("[data-pick]");
    if (!button) return;
    model.set("picked", Number(button.dataset.pick));
    model.save_changes();
  }

  model.on("change:shown", draw);
  el.addEventListener("click", pick);
  draw();

  // Controls and figure are drawn by others, at times of their own; nothing tells when.
  const later = [100, 500, 2000, 5000].map((ms) =>
    setTimeout(() => {
      describe(root(), model.get("alt"));
      resizePlots(root());
    }, ms)
  );
  const widths = new ResizeObserver(() => resizePlots(root()));
  widths.observe(el);

  return () => {
    later.forEach(clearTimeout);
    widths.disconnect();
    model.off("change:shown", draw);
  };
}

export default { render };
