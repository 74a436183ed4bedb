// What fills the box of an output: HTML with scripts of its own, or a figure of plotly's.
import { elementsOf } from "./markup.js";

// A browser runs no script that was written into a page as text, so each is made anew.
export function fillBox(box, html) {
  const live = document.createElement("div");
  live.append(elementsOf(html));
  for (const old of live.querySelectorAll("script")) {
    const script = document.createElement("script");
    for (const { name, value } of old.attributes) script.setAttribute(name, value);
    script.textContent = old.textContent;
    old.replaceWith(script);
  }
  box.replaceChildren(live);
}

// JupyterLab has a plotly of its own, which the page sees once it has drawn something.
async function wakeLab() {
  const lab = globalThis._JUPYTERLAB?.["jupyterlab-plotly"];
  if (!lab) return;
  const { MIME_TYPE, rendererFactory } = (await lab.get("./mimeExtension"))();
  const model = { data: { [MIME_TYPE]: { data: [], layout: {} } }, setData() {} };
  await rendererFactory.createRenderer({ mimeType: MIME_TYPE }).renderModel(model);
}

function load(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`no plotly at ${address}`));
    document.head.append(script);
  });
}

// The plotly of the page, of JupyterLab, or else of plotly's server, fetched once. Rejects where none can be had.
export async function findPlotly(address) {
  if (!globalThis.Plotly) await wakeLab().catch(() => {});
  if (!globalThis.Plotly) await (globalThis.mpoPlotly ??= load(address));
  return globalThis.Plotly;
}

// A picture stays where there is no plotly; without a picture, what can be shown is shown.
export function fillWithPlotly(box, html, address) {
  findPlotly(address).then(() => fillBox(box, html), () => box.querySelector("img") || fillBox(box, html));
}

// The figure is drawn where it will stand, so that it has its width from the beginning.
export function drawFigure(box, figure, address) {
  findPlotly(address).then(async (Plotly) => {
    const plot = document.createElement("div");
    plot.setAttribute("role", "img");
    plot.style.height = `${figure.layout.height || 420}px`;
    box.append(plot);
    await Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    box.replaceChildren(plot);
  }).catch(() => {});
}
