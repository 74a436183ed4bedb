// The report: its figures are drawn, one of its responses is shown at a time, and strips are walked through by keyboard.
import { walkByKeyboard } from "./strip.js";

function drawFigures(figures) {
  for (const [name, figure] of Object.entries(figures)) {
    globalThis.Plotly.newPlot(`plot-${name}`, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }
}

// Without a script all responses are there, one under the other.
function chooseResponses(radios, panels) {
  function choose(number) {
    panels.forEach((panel, i) => panel.hidden = i !== number);
  }
  for (const radio of radios) {
    radio.addEventListener("change", () => choose(Number(radio.value)));
    if (radio.checked) choose(Number(radio.value));
  }
}

drawFigures(JSON.parse(document.getElementById("figures").textContent));
chooseResponses(document.querySelectorAll("input[name=response]"), document.querySelectorAll(".panel"));
document.querySelectorAll(".mpo-strip").forEach(walkByKeyboard);
