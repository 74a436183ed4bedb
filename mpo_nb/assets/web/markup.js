// The one place where text becomes elements. What comes in was written in Python, where every text of a response, a
// prompt or a run folder has been escaped; all else that a script shows goes in as textContent or as an attribute.
export function elementsOf(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}
