// A widget that was exported: its inputs choose one of the views that the page holds.
import { viewAt } from "./states.js";
import { fillWidget } from "./widget.js";

// The text beside a slider, for eyes and for screen readers; an input that does not matter here is hidden.
function showInput(input, text, applies) {
  const output = input.parentElement.querySelector("output");
  if (output) {
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }
  input.parentElement.hidden = !applies;
}

// The page may come without plotly, as a fragment on someone else's page does.
function showFigure(plot, view) {
  plot.hidden = view.data.length === 0;
  if (plot.hidden || !globalThis.Plotly) return;
  plot.style.height = `${view.layout.height || 360}px`;
  plot.setAttribute("aria-label", view.alt);
  // plotly writes into what it is given, and the view is shown again.
  const [data, layout] = structuredClone([view.data, view.layout]);
  globalThis.Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true });
}

export function startPage(root, data) {
  const inputs = data.axes.map((axis) => root.querySelector(`[data-axis="${axis.name}"]`));

  function show() {
    const positions = inputs.map((input) => Number(input.value));
    const view = viewAt(data, positions);
    inputs.forEach((input, j) => {
      showInput(input, data.axes[j].texts[positions[j]], view.applies.includes(data.axes[j].name));
    });
    fillWidget(root, view);
    showFigure(root.querySelector(".mpo-plot"), view);
  }

  function pick(event) {
    const button = event.target.closest("[data-pick]");
    const input = root.querySelector("[data-axis=pick]");
    if (!button || !input) return;
    input.value = button.dataset.pick;
    show();
  }

  for (const input of inputs) input.addEventListener("input", show);
  root.addEventListener("click", pick);
  root.querySelector(".mpo-controls").hidden = inputs.length === 0;
  show();
}
