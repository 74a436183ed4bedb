/** Two responses side by side: which piece and which token of one stands against which of the other. */

const CELLS = 4e6; // of the table that an alignment fills; longer pieces are paired in order

/** The pieces of a response, [from, to): its lines, or the steps of a worked chain. */
export function pieces(tokens) {
  const lines = tokens.some((token) => token.includes("\n"));
  const closes = (token) => (lines ? token.endsWith("\n") : token === ";");
  const found = [];
  let from = 0;
  tokens.forEach((token, t) => {
    if (!lines && token === "#" && t > from) {
      found.push([from, t]);
      from = t;
    }
    if (closes(token)) {
      found.push([from, t + 1]);
      from = t + 1;
    }
  });
  if (from < tokens.length) found.push([from, tokens.length]);
  return found;
}

/** Pairs [i, j] of a longest common subsequence of two lists of texts, in order. */
export function common(a, b) {
  let start = 0;
  while (start < Math.min(a.length, b.length) && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const n = a.length - start - end;
  const m = b.length - start - end;
  const pairs = Array.from({ length: start }, (_, i) => [i, i]);
  if (n * m > 0 && n * m <= CELLS) {
    const width = m + 1;
    const length = new Uint16Array((n + 1) * width);
    for (let i = n - 1; i >= 0; i--) {
      for (let j = m - 1; j >= 0; j--) {
        length[i * width + j] = a[start + i] === b[start + j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
      }
    }
    let i = 0;
    let j = 0;
    while (i < n && j < m) {
      if (a[start + i] === b[start + j]) pairs.push([start + i++, start + j++]);
      else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
      else j++;
    }
  }
  for (let t = end; t > 0; t--) pairs.push([a.length - t, b.length - t]);
  return pairs;
}

/** Two lists against each other: equal texts together, what lies between paired in order; null where one has nothing. */
export function columns(a, b) {
  const result = [];
  let i = 0;
  let j = 0;
  for (const [x, y] of [...common(a, b), [a.length, b.length]]) {
    while (i < x || j < y) result.push([i < x ? i++ : null, j < y ? j++ : null]);
    if (x < a.length) result.push([i++, j++]);
  }
  return result;
}

/** Two responses in rows of columns [i, j]: piece by piece, and in each pair of pieces token by token. */
export function align(a, b) {
  const sides = [a, b].map((tokens) => {
    const cut = pieces(tokens);
    return { tokens, cut, texts: cut.map(([from, to]) => tokens.slice(from, to).join("")) };
  });
  const part = ({ tokens, cut }, p) => (p === null ? [] : tokens.slice(...cut[p]));
  return columns(sides[0].texts, sides[1].texts).map(([p, q]) => {
    const from = [p === null ? 0 : sides[0].cut[p][0], q === null ? 0 : sides[1].cut[q][0]];
    return columns(part(sides[0], p), part(sides[1], q)).map(([i, j]) => [
      i === null ? null : from[0] + i,
      j === null ? null : from[1] + j,
    ]);
  });
}
