/** Small helpers for elements, numbers and text. */

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with properties and children. */
export function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

/** An SVG element with attributes and children. */
export function draw(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A token as it can be seen: a space becomes a dot, a line's end an arrow, a special token's brackets become slim. */
export function visible(text) {
  if (text === "") return "\u25a1";
  return text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u2192").replace(/ /g, "\u00b7").replace(
    /^<(.*)>$/,
    "\u27e8$1\u27e9",
  );
}

/** A number with a true minus sign; "unknown" for what is none. */
export function number(value, digits = 2) {
  if (!Number.isFinite(value)) return "unknown";
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

/** A number with its sign, as credit is written. */
export function signed(value, digits = 2) {
  const text = number(value, digits);
  return value > 0 && Number(value.toFixed(digits)) !== 0 ? `+${text}` : text;
}

/** "1 token", "3 tokens". */
export function count(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

/** Positions from 0 in words, counted from 1: "tokens 1 to 3 and 7". */
export function spans(positions, most = 5) {
  const runs = [];
  for (const t of positions) {
    const last = runs[runs.length - 1];
    if (last && t === last[1] + 1) last[1] = t;
    else runs.push([t, t]);
  }
  const named = runs.slice(0, most).map(([a, b]) => (a === b ? `${a + 1}` : `${a + 1} to ${b + 1}`));
  const rest = runs.slice(most).reduce((sum, [a, b]) => sum + b - a + 1, 0);
  if (rest) named.push(`${rest.toLocaleString("en")} more`);
  const list = named.length === 1 ? named[0] : `${named.slice(0, -1).join(", ")} and ${named[named.length - 1]}`;
  return `token${positions.length === 1 ? "" : "s"} ${list}`;
}
