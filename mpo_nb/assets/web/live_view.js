/** Tells the kernel what the controls hold. */
export function teller(model) {
  return (values) => {
    model.set("values", values);
    model.save_changes();
  };
}

/** Moves the controls of a view to where the kernel has them. */
export function follow(model, view) {
  const now = view.values ? view.values() : {};
  const wanted = model.get("values");
  if (Object.keys(wanted).some((name) => now[name] !== wanted[name])) view.set(wanted);
}

/**
 * A view as a live widget of Jupyter. The picture is computed here, where it is seen: moving a control waits for nobody.
 * The kernel is told what the controls hold, and may move them.
 *
 * The model holds `data`, what the view's `mount` is given, and `values`, those of its controls.
 */
export function liveView(mount, method) {
  function render({ model, el }) {
    const tell = teller(model);
    let view = null;

    function start() {
      if (view) view.destroy();
      view = mount(el, { ...model.get("data"), values: model.get("values") }, method, tell);
    }

    /** A view that can take further data keeps what it shows, and the focus. */
    function bring() {
      if (!view || !view.update || !view.update(model.get("data"))) start();
    }

    const move = () => follow(model, view);

    start();
    model.on("change:data", bring);
    model.on("change:values", move);
    return () => {
      model.off("change:data", bring);
      model.off("change:values", move);
      view.destroy();
    };
  }
  return { render };
}
