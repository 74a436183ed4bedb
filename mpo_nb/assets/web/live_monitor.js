/**
 * The training monitor in a notebook. The model holds `base`, columns that rarely change, and `news`, what was added
 * since and where the runs stand: both are state, so a browser that is late has missed nothing. `seen` answers `sent`
 * when a frame is on the screen.
 */

import { follow, teller } from "./live_view.js";
import { mount } from "./monitor_view.js";

/** The columns of a run with those that were added; a metric that is missing on one side is null there. */
export function joinedColumns(base, added) {
  const [before, after] = [base.step || [], added.step || []];
  const joined = {};
  for (const key of new Set([...Object.keys(base), ...Object.keys(added)])) {
    joined[key] = [...(base[key] || before.map(() => null)), ...(added[key] || after.map(() => null))];
  }
  return { ...joined, step: [...before, ...after] };
}

function render({ model, el }) {
  let waiting = false;

  function data() {
    const { runs, ...news } = model.get("news");
    const base = model.get("base");
    return {
      ...news,
      runs: runs.map((run, i) => ({ ...run, columns: joinedColumns(base[i] || {}, run.columns) })),
      plotly: { text: model.get("plotly") },
      values: model.get("values"),
    };
  }

  const view = mount(el, data(), null, teller(model));

  function answer() {
    // The next frame is about to be painted when the first callback runs, and is painted when the second does.
    requestAnimationFrame(() =>
      setTimeout(() => {
        model.set("seen", model.get("sent"));
        model.save_changes();
      })
    );
  }

  /** Several traits change at once; they are drawn once. */
  function changed() {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      view.update(data()).then(answer);
    });
  }

  const move = () => follow(model, view);

  // JupyterLab takes no keystroke for a command of its own while the focus is inside.
  el.addEventListener("focusin", (event) => event.target.dataset.lmSuppressShortcuts = "true");
  model.on("change:base change:news", changed);
  model.on("change:values", move);
  answer();
  return () => {
    model.off("change:base change:news", changed);
    model.off("change:values", move);
    view.destroy();
  };
}

export default { render };
