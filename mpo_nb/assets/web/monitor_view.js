/**
 * Curves of training runs as a grid of small charts: one metric each, one colour for each run, one step in all of them.
 *
 * mount(element, data, method, tell) draws into an element and returns { set, update, values, numbers, destroy };
 * `tell(values)` is called when the reader has moved a control.
 * data: { runs, groups, metrics, main, student, status, sentences, table, live, plotly, values }
 *   runs: [{ label, group, last, columns: { step: [...], reward: [...], ... } }], null where nothing was recorded
 *   groups: [{ name, colour, dash, symbol }], configurations; their runs differ in the seed alone
 *   metrics: [[key, name, "share" | "number"], ...]; main: the keys of the grid
 *   student[n]: the factor of Student's 95% interval of a mean over n seeds
 */

import { chart, lastUpTo, loadPlotly } from "./charts.js";
import { controls } from "./inputs.js";
import { draw, make } from "./dom.js";
import { elementsOf } from "./markup.js";

const DRAWN = 600; // points of a curve; no small chart has more columns
const READ = 4; // values beside a title

// ---------------------------------------------------------------------------------------------------------------------
// Numbers, without a document

/** A metric where it was recorded, as the mean over the last `smooth` records; evaluations are never smoothed. */
export function metricCurve(run, key, smooth = 1) {
  const evaluated = key.startsWith("accuracy");
  const column = run.columns[key] || [];
  const steps = [];
  const values = [];
  column.forEach((value, i) => {
    const step = run.columns.step[i];
    if (value === null || !(step > 0 || evaluated)) return;
    steps.push(step);
    values.push(value);
  });
  if (smooth === 1 || evaluated) return { steps, values };
  let sum = 0;
  const means = values.map((value, i) => {
    sum += value - (i >= smooth ? values[i - smooth] : 0);
    return sum / Math.min(smooth, i + 1);
  });
  return { steps, values: means };
}

/** The interval of each evaluation of a run: { steps, low, high }; null for what is no accuracy. */
export function metricBand(run, key) {
  if (!key.startsWith("accuracy")) return null; // clip_fraction_low is a metric of its own
  const [low, high] = [run.columns[`${key}_low`] || [], run.columns[`${key}_high`] || []];
  const kept = low.flatMap((value, i) => (value === null || high[i] === null ? [] : [i]));
  return { steps: kept.map((i) => run.columns.step[i]), low: kept.map((i) => low[i]), high: kept.map((i) => high[i]) };
}

/** Mean over seeds where all of them have a value, and half the width of its interval: { steps, values, half }. */
export function seedMean(curves, student) {
  const n = curves.length;
  const known = curves.map(({ steps, values }) => new Map(steps.map((step, i) => [step, values[i]])));
  const steps = curves[0].steps.filter((step) => known.every((curve) => curve.has(step)));
  const values = [];
  const half = [];
  for (const step of steps) {
    const each = known.map((curve) => curve.get(step));
    const mean = each.reduce((a, b) => a + b, 0) / n;
    const spread = Math.sqrt(each.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1));
    values.push(mean);
    half.push((student[n] * spread) / Math.sqrt(n));
  }
  return { steps, values, half };
}

/** What one configuration shows of a metric: { lines: [{ name, steps, values, thin }], band }. */
export function groupCurves(data, group, key, values) {
  const runs = data.runs.filter((run) => run.group === group);
  const curves = runs.map((run) => ({ name: run.label, ...metricCurve(run, key, values.smooth) }));
  const some = curves.filter((curve) => curve.steps.length);
  if (runs.length === 1) {
    return {
      lines: some.map((curve) => ({ ...curve, name: data.groups[group].name })),
      band: metricBand(runs[0], key),
    };
  }
  if (values.seeds === "each" || some.length < 2) return { lines: some, band: null };
  const mean = seedMean(some, data.student);
  const band = {
    steps: mean.steps,
    low: mean.values.map((value, i) => value - mean.half[i]),
    high: mean.values.map((value, i) => value + mean.half[i]),
  };
  const centre = { name: data.groups[group].name, steps: mean.steps, values: mean.values };
  return { lines: [...some.map((curve) => ({ ...curve, thin: true })), centre], band };
}

/** The keys that are drawn for a choice of the first control. */
export function chosenKeys(data, values) {
  if (values.metric === "main") return data.main;
  if (values.metric === "all") return data.metrics.map(([key]) => key);
  return values.second === "none" ? [values.metric] : [...new Set([values.metric, values.second])];
}

/** The charts that there is something to draw in: [{ key, name, form, groups }]. */
export function chartsOf(data, values) {
  const known = new Map(data.metrics.map(([key, name, form]) => [key, { key, name, form }]));
  const charts = chosenKeys(data, values).map((key) => ({
    ...known.get(key),
    groups: data.groups.map((_, group) => groupCurves(data, group, key, values)),
  }));
  return charts.filter(({ groups }) => groups.some(({ lines }) => lines.length));
}

/** The range of a chart: all curves, and as much of the bands as half the curves' height on each side. */
export function chartRange(groups) {
  const ends = (lists) => {
    let [low, high] = [Infinity, -Infinity];
    for (const list of lists) {
      for (const value of list) {
        if (!Number.isFinite(value)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    return [low, high];
  };
  let [low, high] = ends(groups.flatMap(({ lines }) => lines.map((line) => line.values)));
  if (!(high >= low)) return null;
  const size = Math.max(Math.abs(high), 1e-3);
  const height = high - low > 1e-9 * size ? high - low : 0.2 * size;
  const [below, above] = ends(groups.flatMap(({ band }) => (band ? [band.low, band.high] : [])));
  if (above >= below) {
    low = Math.max(Math.min(low, below), low - 0.5 * height);
    high = Math.min(Math.max(high, above), high + 0.5 * height);
  }
  const room = 0.05 * Math.max(high - low, height);
  return [low - room, high + room];
}

/** How far the axis of steps reaches: it grows by doublings while a run goes on, so that it stands still meanwhile. */
export function axisReach(data) {
  const last = Math.max(1, ...data.runs.map((run) => run.columns.step.at(-1) || 0));
  const planned = Math.max(0, ...data.runs.map((run) => run.planned || 0));
  let reach = 8;
  while (reach < last) reach *= 2;
  return planned ? Math.max(last, Math.min(planned, reach)) : last;
}

/** A value as it is read. */
export function valueText(value, form) {
  if (!Number.isFinite(value)) return "\u2013";
  const plain = (x) => {
    const text = Math.abs(x) >= 1e5 || (x !== 0 && Math.abs(x) < 1e-4) ? x.toExponential(1) : String(+x.toPrecision(3));
    return text.replace("-", "\u2212");
  };
  return form === "share" ? `${plain(100 * value)}%` : plain(value);
}

/** At most DRAWN points of a list, the last among them. */
function thinned(list) {
  const every = Math.max(1, Math.ceil(list.length / DRAWN));
  return every === 1 ? list : list.filter((_, i) => i % every === 0 || i === list.length - 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Pictures

/** plotly's traces of a chart; groups that the reader has put out are left out. */
function tracesOf(groups, looks, hidden) {
  const traces = [];
  groups.forEach(({ lines, band }, g) => {
    if (hidden.has(g)) return;
    const { colour, dash, symbol } = looks[g];
    const shape = { type: "scatter", hoverinfo: "skip", showlegend: false };
    if (band && band.steps.length) {
      const steps = thinned(band.steps);
      traces.push({
        ...shape,
        mode: "lines",
        x: [...steps, ...[...steps].reverse()],
        y: [...thinned(band.low), ...[...thinned(band.high)].reverse()],
        fill: "toself",
        fillcolor: colour.replace("rgb(", "rgba(").replace(")", ",.16)"),
        line: { width: 0 },
      });
    }
    for (const line of lines) {
      const x = thinned(line.steps);
      traces.push({
        ...shape,
        name: line.name,
        mode: x.length < 16 && !line.thin ? "lines+markers" : "lines",
        x,
        y: thinned(line.values),
        opacity: line.thin ? 0.5 : 1,
        line: { color: colour, width: line.thin ? 1 : 2, dash: line.thin ? "solid" : dash },
        marker: { color: colour, symbol, size: 5 },
      });
    }
  });
  return traces;
}

/** How plotly writes the marks of an axis. */
function tickForm(form, range) {
  if (form === "share") return ".3~%";
  return range && Math.abs(range[1]) >= 1e4 ? ".3~s" : ".4~g";
}

/** plotly's layout of a chart. */
function layoutOf(spec, groups, steps, colour, height, foot) {
  const range = chartRange(groups);
  const axis = { gridcolor: "rgba(128,128,128,.22)", zeroline: false, tickfont: { size: 11 } };
  return {
    height,
    margin: { l: 52, r: 10, t: 6, b: foot ? 34 : 22 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colour },
    hovermode: false,
    xaxis: {
      ...axis,
      range: steps,
      nticks: 6,
      tickformat: ",d",
      title: { text: foot ? "training step" : "", font: { size: 11 }, standoff: 4 },
    },
    yaxis: { ...axis, range, nticks: 5, tickformat: tickForm(spec.form, range) },
  };
}

/** A short stretch of a group's line, for the legend. */
function lineSample({ colour, dash }) {
  const dashes = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "10 4", longdashdot: "10 3 2 3" };
  const svg = draw("svg", { width: 30, height: 10, "aria-hidden": "true" });
  svg.append(
    draw("line", {
      x1: 1,
      x2: 29,
      y1: 5,
      y2: 5,
      stroke: colour,
      "stroke-width": 2.5,
      "stroke-dasharray": dashes[dash],
    }),
  );
  return svg;
}

/** Controls of the view; which of them stand there does not change. */
function controlSpecs(data) {
  const metrics = data.metrics.map(([key, name]) => [key, name]);
  const several = data.groups.some((_, g) => data.runs.filter((run) => run.group === g).length > 1);
  return {
    metric: {
      kind: "choice",
      label: "Charts",
      options: [["main", "the main ones"], ["all", "everything recorded"], ...metrics],
    },
    second: { kind: "choice", label: "and", options: [["none", "no second one"], ...metrics] },
    ...(several
      ? {
        seeds: {
          kind: "choice",
          label: "Seeds",
          options: [["mean", "mean and 95% interval"], ["each", "each run"]],
        },
      }
      : {}),
    smooth: {
      kind: "slider",
      label: "Smoothing, mean over the last",
      low: 1,
      high: 20,
      step: 1,
      text: (n) => (n === 1 ? "1 step" : `${n} steps`),
    },
    ...(data.live ? { follow: { kind: "toggle", label: data.live } } : {}),
  };
}

export function mount(element, given, _method = null, tell = null) {
  let data = given;
  const values = { metric: "main", second: "none", seeds: "mean", smooth: 1, follow: false, ...data.values };
  const hidden = new Set(); // groups that the reader has put out
  const made = new Map(); // key -> chart and its caption
  const state = { Plotly: null, charts: [], step: null, range: null, specs: "", painting: null, again: false };
  const words = make("p", { className: "mpo-words" });
  const told = make("p", { className: "mpo-note", hidden: true });
  const legend = make("div", { className: "mpo-runs" });
  const grid = make("div", { className: "mpo-grid", tabIndex: 0 });
  const extra = make("div", { className: "mpo-extra" });
  const heard = make("p", { className: "mpo-heard" });
  const place = make("div");
  words.setAttribute("aria-live", "polite");
  heard.setAttribute("aria-live", "polite");
  grid.setAttribute("role", "group");
  const root = make("div", { className: "mpo-monitor" }, place, words, legend, told, grid, heard, extra);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Curves of training runs");
  element.replaceChildren(root);
  let panel = null;

  function used() {
    const names = new Set(["metric", "seeds", "smooth", "follow"]);
    if (!["main", "all"].includes(values.metric)) names.add("second");
    return names;
  }

  /** Controls are made anew only where their choices have changed, as when a metric appears. */
  function paintControls() {
    const specs = controlSpecs(data);
    const text = JSON.stringify(specs);
    if (text !== state.specs) {
      state.specs = text;
      panel = controls(specs, (name, value) => change({ [name]: value }, true), data.axes);
      place.replaceChildren(panel.element);
    }
    panel.show(values, used());
  }

  function paintLegend() {
    const items = data.groups.map((group, g) => {
      const button = make("button", { type: "button" }, lineSample(group), group.name);
      button.setAttribute("aria-pressed", String(!hidden.has(g)));
      button.title = "show or hide";
      button.addEventListener("click", () => {
        if (!hidden.delete(g)) hidden.add(g);
        paint();
      });
      return button;
    });
    legend.replaceChildren(...items);
  }

  function chartFor(spec) {
    if (made.has(spec.key)) return made.get(spec.key);
    const title = make("b", { textContent: spec.name[0].toUpperCase() + spec.name.slice(1) });
    const read = make("span", { className: "mpo-read" });
    const one = chart({ point: pointed, zoom: zoomed });
    const figure = make("figure", {}, make("figcaption", {}, title, read), one.element);
    figure.setAttribute("role", "img");
    const entry = { ...one, figure, read };
    made.set(spec.key, entry);
    return entry;
  }

  function stepsRange() {
    const reach = axisReach(data);
    return state.range || [-0.02 * reach, 1.02 * reach];
  }

  /** The charts that are wanted, in their places. */
  function placeCharts() {
    state.charts = chartsOf(data, values);
    const figures = state.charts.map((spec) => chartFor(spec).figure);
    if (figures.some((figure, i) => grid.children[i] !== figure) || grid.children.length !== figures.length) {
      grid.replaceChildren(...figures);
    }
    grid.classList.toggle("single", figures.length < 3);
  }

  /** A chart is drawn only where something in it has changed. */
  async function paintChart(spec, large) {
    const entry = chartFor(spec);
    const shown = spec.groups.filter((_, g) => !hidden.has(g));
    const traces = tracesOf(spec.groups, data.groups, hidden);
    const colour = getComputedStyle(root).color;
    const layout = layoutOf(spec, shown, stepsRange(), colour, large ? 330 : 150, large);
    const text = JSON.stringify([traces, layout]);
    if (entry.drawn === text) return;
    entry.drawn = text;
    await entry.paint(state.Plotly, traces, layout);
    markChart(spec);
    await new Promise((resolve) => setTimeout(resolve)); // a slider that is being dragged moves on meanwhile
  }

  async function paintAll() {
    await null; // not before the promise of this drawing is noted down
    do {
      state.again = false;
      placeCharts();
      for (const spec of state.Plotly ? state.charts : []) await paintChart(spec, state.charts.length < 3);
      mark();
    } while (state.again);
    state.painting = null;
  }

  /** One drawing at a time; what changes meanwhile is drawn after it, once. */
  function paintCharts() {
    placeCharts();
    state.again = true;
    state.painting ||= paintAll();
    return state.painting;
  }

  /** A chart shows the step that is pointed at; its title shows the values there, or else the last ones. */
  function markChart(spec) {
    const entry = made.get(spec.key);
    const read = [];
    spec.groups.forEach(({ lines }, g) => {
      if (hidden.has(g)) return;
      for (const { name, steps, values: ys } of lines.filter((line) => !line.thin)) {
        const i = lastUpTo(steps, state.step === null ? Infinity : state.step + 1e-9);
        if (i < 0) continue;
        const colour = data.groups[g].colour;
        read.push({ colour, name, x: steps[i], y: ys[i], text: valueText(ys[i], spec.form) });
      }
    });
    entry.mark(state.step, state.step === null ? [] : read);
    entry.read.replaceChildren(
      ...read.slice(0, READ).map(({ colour, name, text }) => {
        const item = make("span", { textContent: text, title: name });
        item.style.setProperty("--run", colour);
        return item;
      }),
    );
    const spoken = read.map(({ name, text }) => `${name} ${text}`).join(", ");
    entry.figure.setAttribute("aria-label", `${spec.name}: ${spoken || "nothing recorded"}`);
  }

  function mark() {
    state.charts.forEach(markChart);
    const last = Math.max(0, ...data.runs.map((run) => run.columns.step.at(-1) || 0));
    root.dataset.step = state.step === null ? "" : state.step;
    legend.dataset.step = state.step === null ? `values at the last step, ${last}` : `values at step ${state.step}`;
  }

  /** The recorded step nearest to a place on the axis. */
  function nearest(x) {
    let best = null;
    for (const { columns } of data.runs) {
      const i = lastUpTo(columns.step, x);
      for (const step of [columns.step[i], columns.step[i + 1]]) {
        if (step !== undefined && (best === null || Math.abs(step - x) < Math.abs(best - x))) best = step;
      }
    }
    return best;
  }

  function pointed(x) {
    const step = x === null ? null : nearest(x);
    if (step === state.step) return;
    state.step = step;
    mark();
  }

  async function zoomed(range) {
    state.range = range;
    const all = state.charts.map(({ key }) => made.get(key).range(state.Plotly, stepsRange()));
    await Promise.all(all);
    mark();
  }

  grid.addEventListener("keydown", (event) => {
    const steps = [...new Set(data.runs.flatMap(({ columns }) => columns.step))].sort((a, b) => a - b);
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") pointed(null);
    if (!(event.key in moves) || !steps.length || event.target !== grid) return;
    event.preventDefault();
    const at = state.step === null ? steps.length - 1 : lastUpTo(steps, state.step);
    pointed(steps[Math.max(0, Math.min(steps.length - 1, at + moves[event.key]))]);
    heard.textContent = `Step ${state.step}. ${
      state.charts.map(({ key }) => made.get(key).figure.getAttribute("aria-label")).join(". ")
    }.`;
  });
  grid.addEventListener("blur", () => pointed(null));

  function sentences() {
    const shown = state.charts.map(({ key }) => key);
    const sizes = data.groups.map((_, g) => data.runs.filter((run) => run.group === g).length);
    const parts = [...data.status];
    const missing = chosenKeys(data, values).filter((key) => !shown.includes(key));
    if (!["main", "all"].includes(values.metric)) {
      for (const [key, name] of data.metrics) {
        if (missing.includes(key)) parts.push(`No run has recorded \u201c${name}\u201d yet.`);
      }
    } else if (!shown.length) parts.push("No run has recorded a metric yet.");
    if (values.seeds === "mean" && sizes.some((n) => n > 1)) parts.push(data.sentences.several);
    if (sizes.some((n) => n === 1) && shown.some((key) => key.startsWith("accuracy"))) {
      parts.push(data.sentences.single);
    }
    return parts.join(" ");
  }

  function paint() {
    paintControls();
    paintLegend();
    const done = paintCharts();
    const text = sentences();
    if (words.textContent !== text) words.textContent = text;
    if (extra.dataset.html !== data.table) {
      extra.dataset.html = data.table;
      extra.replaceChildren(elementsOf(data.table));
    }
    root.dataset.values = JSON.stringify(values); // for tests, and for whoever looks
    return done;
  }

  function change(next, byHand = false) {
    Object.assign(values, next);
    if (byHand && tell) tell({ ...values });
    return paint();
  }

  grid.setAttribute("aria-label", "Charts over training steps; arrow keys move from step to step");
  paint();
  loadPlotly(data.plotly).then((Plotly) => {
    state.Plotly = Plotly;
    told.hidden = Plotly !== null;
    told.textContent = "The charts need plotly.js, which could not be loaded here; the numbers are in the table.";
    return paintCharts();
  });

  return {
    set: (next) => change(next),
    update: (next) => {
      data = next;
      return paint();
    },
    values: () => ({ ...values }),
    numbers: () => state.charts,
    point: pointed,
    destroy: () => {
      for (const { destroy } of made.values()) destroy();
      element.replaceChildren();
    },
  };
}
