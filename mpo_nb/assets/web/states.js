// What an exported page shows for a setting of its controls, looked up in what Python computed. No document here.

// Part i of the pool. A dictionary's long lists have numbers of their own, under "$".
export function partOf(pool, i) {
  const part = pool[i];
  if (!part?.$) return part;
  const { $: numbers, ...rest } = part;
  const lists = Object.entries(numbers).map(([name, n]) => [name, pool[n]]);
  return { ...rest, ...Object.fromEntries(lists) };
}

// The number of a combination of positions on the axes; the last axis runs fastest.
export function combinationNumber(axes, positions) {
  return positions.reduce((number, at, j) => number * axes[j].values.length + at, 0);
}

// The view at these positions: strips, figure, words, and which controls matter.
export function viewAt(data, positions) {
  const state = data.states[data.index[combinationNumber(data.axes, positions)]];
  const part = (i) => partOf(data.pool, i);
  return {
    template: part(state.template),
    states: state.strips.map(part),
    data: state.data.map(part),
    layout: part(state.layout),
    summary: part(state.summary),
    extra: part(state.extra),
    alt: part(state.alt),
    applies: state.applies,
    values: Object.fromEntries(data.axes.map((axis, j) => [axis.name, axis.values[positions[j]]])),
  };
}
