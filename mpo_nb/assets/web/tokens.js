// What a token looks like, how it reads, and which one a key leads to: functions of plain values. Nothing here touches
// a document, so all of it can be tried with numbers.

// The two ends of the palette that readers with a colour deficiency tell apart best. Python draws with the same ones.
const UP = "0, 114, 178";
const DOWN = "213, 94, 0";

// A number with its sign and a real minus; "0" for what rounds to nothing.
export function signed(x, digits = 2) {
  const size = Math.abs(x).toFixed(digits);
  if (Number(size) === 0) return "0";
  return (x > 0 ? "+" : "\u2212") + size;
}

// Background and underline for a value: blue and solid above 0, vermilion and dashed below, nothing at 0 or when it is
// not known (null). `limit` is the value that is drawn at full strength.
export function tokenColours(value, limit) {
  if (value === null || value === 0 || !(limit > 0)) return { backgroundColor: "", borderBottom: "" };
  const colour = value > 0 ? UP : DOWN;
  const strength = 0.6 * Math.min(1, Math.abs(value) / limit);
  return {
    backgroundColor: `rgba(${colour}, ${strength.toFixed(3)})`,
    borderBottom: `2px ${value > 0 ? "solid" : "dashed"} rgb(${colour})`,
  };
}

// The marks of token i: whether a block starts here, whether its block is an odd one, whether it is clipped.
export function tokenMarks(state, i) {
  const block = state.blocks[i];
  return {
    "mpo-first": i > 0 && block !== state.blocks[i - 1],
    "mpo-odd": Math.abs(block) % 2 === 1,
    "mpo-clipped": Boolean(state.clipped[i]),
  };
}

// What is said of token i. `facts` is what is true of it under any setting, from "token 3, 'so': id 17" on; ratio,
// clipping, block and value change with the controls.
export function tokenLabel(facts, state, i) {
  const parts = [];
  if (state.ratio[i] !== null) parts.push(`ratio ${state.ratio[i].toFixed(3)}`);
  if (state.clipped[i]) parts.push("clipped");
  if (state.blocks[i] >= 0) parts.push(`block ${state.blocks[i] + 1}`);
  if (state.values[i] !== null) parts.push(`${state.label} ${signed(state.values[i], 3)}`);
  const comma = parts.length > 0 && !facts.endsWith(": ") ? ", " : "";
  return facts + comma + parts.join(", ");
}

// The token that a key leads to from token `at`: left and right by one, up and down to where a block starts, Home and
// End. `starts` says of each token whether a block starts there. A number outside the strip means that there is none;
// undefined, that the key is not ours.
export function nextToken(key, at, starts) {
  switch (key) {
    case "ArrowRight":
      return at + 1;
    case "ArrowLeft":
      return at - 1;
    case "Home":
      return 0;
    case "End":
      return starts.length - 1;
    case "ArrowDown":
      return starts.findIndex((opens, i) => opens && i > at);
    case "ArrowUp":
      return starts.slice(0, at).lastIndexOf(true);
    default:
      return undefined;
  }
}
