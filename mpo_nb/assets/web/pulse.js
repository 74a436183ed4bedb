// Answers a frame when the browser has painted it: the number that was sent comes back.
function render({ model }) {
  function answer() {
    // The next frame is about to be painted when the first callback runs, and is painted when the second does.
    requestAnimationFrame(() =>
      setTimeout(() => {
        model.set("seen", model.get("sent"));
        model.save_changes();
      })
    );
  }

  model.on("change:sent", answer);
  answer();
  return () => model.off("change:sent", answer);
}

export default { render };
