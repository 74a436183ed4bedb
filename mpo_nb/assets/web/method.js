/**
 * The method in the browser: partition rules, action spaces (W and W transposed) and the clipped policy loss of one
 * response. No dependencies, no DOM. The same definitions as mpo_nb.blocks, mpo_nb.actions and mpo_nb.losses; a test
 * compares the two on random inputs.
 *
 * A response is T tokens. `mask` is an array of T numbers, 1 on tokens that the policy wrote. Values are arrays of T
 * numbers, and a result is 0 where the mask is 0. Block ids are -1 there.
 */

// ---------------------------------------------------------------------------------------------------------------------
// Where an action ends: (T,) block ids

/** The positions of the kept tokens, in order. */
export function keptPositions(mask) {
  const positions = [];
  for (let t = 0; t < mask.length; t++) if (mask[t]) positions.push(t);
  return positions;
}

/** Number the blocks that open where `starts` is true; the first kept token opens block 0. */
export function blocksFromStarts(starts, mask) {
  const ids = new Array(mask.length).fill(-1);
  let block = -1;
  for (const t of keptPositions(mask)) {
    if (block < 0 || starts[t]) block += 1;
    ids[t] = block;
  }
  return ids;
}

/** With gaps = "end" each block also ends where the mask has a hole. */
export function cutAtGaps(ids, mask, gaps = "end") {
  if (gaps === "skip") return ids;
  const starts = ids.map((id, t) => mask[t] && id !== (t > 0 ? ids[t - 1] : -1));
  return blocksFromStarts(starts, mask);
}

export function tokenBlocks(mask) {
  return blocksFromStarts(mask.map(() => true), mask);
}

export function sequenceBlock(mask) {
  return mask.map((kept) => (kept ? 0 : -1));
}

/** Each run of kept tokens without a hole. */
export function turnBlocks(mask) {
  return cutAtGaps(sequenceBlock(mask), mask, "end");
}

/** How many tokens of its turn stand before each token; -1 where the mask is 0. */
export function placeInTurn(mask) {
  let place = -1;
  return mask.map((kept) => (place = kept ? place + 1 : -1));
}

/** Blocks of k kept tokens, the last one shorter. */
export function fixedBlocks(mask, k, gaps = "skip") {
  const order = gaps === "end" ? placeInTurn(mask) : tokenBlocks(mask);
  return cutAtGaps(order.map((n) => (n < 0 ? -1 : Math.floor(n / k))), mask, gaps);
}

/** Blocks of the given sizes, one after the other; the last size repeats. */
export function sizedBlocks(mask, sizes, gaps = "skip") {
  const ids = new Array(mask.length).fill(-1);
  let block = 0;
  let left = sizes[0];
  for (const t of keptPositions(mask)) {
    if (left === 0) {
      block += 1;
      left = sizes[Math.min(block, sizes.length - 1)];
    }
    ids[t] = block;
    left -= 1;
  }
  return cutAtGaps(ids, mask, gaps);
}

/** A block closes after a token whose text ends in one of `ends`. */
export function delimiterBlocks(mask, tokens, ends, gaps = "skip") {
  const ids = new Array(mask.length).fill(-1);
  let block = 0;
  for (const t of keptPositions(mask)) {
    ids[t] = block;
    if (ends.some((end) => tokens[t].endsWith(end))) block += 1;
  }
  return cutAtGaps(ids, mask, gaps);
}

export const sentenceEnds = [
  ".",
  "!",
  "?",
  ";",
  ":",
  "\n",
  "\u3002",
  "\uff01",
  "\uff1f",
  "\uff1b",
  "\uff1a",
  "\uff0e",
  "\uff61",
  "\u2026",
];

const decimalPoints = [".", "\uff0e"];
const isDigit = (text) => /^\p{Nd}$/u.test(text);
const firstOf = (text) => [...text][0] ?? "";
const lastOf = (text) => [...text].at(-1) ?? "";

/** A block closes after a token that ends in one of `sentenceEnds`, unless that is the point of a number (LPO). */
export function sentenceBlocks(mask, tokens, gaps = "skip") {
  const kept = keptPositions(mask);
  const ids = new Array(mask.length).fill(-1);
  let block = 0;
  let before = "";
  kept.forEach((t, i) => {
    const text = tokens[t];
    ids[t] = block;
    const left = lastOf([...text].slice(0, -1).join("")) || before;
    let next = i + 1;
    while (next < kept.length && tokens[kept[next]] === "") next += 1;
    const right = next < kept.length ? firstOf(tokens[kept[next]]) : "";
    const number = decimalPoints.some((point) => text.endsWith(point)) && isDigit(left) && isDigit(right);
    if (!number && sentenceEnds.some((end) => text.endsWith(end))) block += 1;
    before = lastOf(text) || before;
  });
  return cutAtGaps(ids, mask, gaps);
}

/** A block opens at every `interval`-th token whose probability lies under the threshold (SPO-chain). */
export function surpriseBlocks(mask, logps, threshold = 0.9, interval = 5, gaps = "skip") {
  let surprising = 0;
  const starts = mask.map((kept, t) => {
    if (!kept || !(Math.exp(logps[t]) < threshold)) return false;
    surprising += 1;
    return (surprising - 1) % interval === 0;
  });
  return cutAtGaps(blocksFromStarts(starts, mask), mask, gaps);
}

/** A block opens where the reference model's perplexity rises from one kept token to the next (MA-RLHF). */
export function perplexityBlocks(mask, refLogps, gaps = "skip") {
  let before = null;
  const starts = mask.map((kept, t) => {
    if (!kept) return false;
    const rises = before !== null && refLogps[t] < refLogps[before];
    before = t;
    return rises;
  });
  return cutAtGaps(blocksFromStarts(starts, mask), mask, gaps);
}

/** How many kept tokens each block holds. */
export function blockSizes(ids) {
  const sizes = [];
  for (const id of ids) {
    while (sizes.length <= id) sizes.push(0);
    if (id >= 0) sizes[id] += 1;
  }
  return sizes;
}

/** The sum of x over each block. */
export function blockSum(x, ids) {
  const sums = blockSizes(ids).fill(0);
  ids.forEach((id, t) => {
    if (id >= 0) sums[id] += x[t];
  });
  return sums;
}

/** Each token receives its block's value; 0 where the id is -1. */
export function spread(values, ids) {
  return ids.map((id) => (id < 0 ? 0 : values[id]));
}

// ---------------------------------------------------------------------------------------------------------------------
// Action spaces: { logRatio(delta, mask), credit(weight, mask), weight(mask) }, W and W transposed

/** x where the mask is 1, else 0. */
function masked(x, mask) {
  return x.map((value, t) => (mask[t] ? value : 0));
}

export function tokenActions() {
  return { logRatio: masked, credit: masked, weight: (mask) => mask.map((kept) => (kept ? 1 : 0)) };
}

/** MPO's weights: 1 - future on the current token, the rest shared equally. */
export function windowBeta(k, future = 0.2) {
  if (k === 1) return [1];
  return [1 - future, ...new Array(k - 1).fill(future / (k - 1))];
}

/** The runs of kept positions that a window may move over: the whole response, or each turn. */
function stretches(mask, gaps) {
  const positions = keptPositions(mask);
  if (gaps === "skip") return positions.length ? [positions] : [];
  const runs = [];
  positions.forEach((t, i) => {
    if (i === 0 || t !== positions[i - 1] + 1) runs.push([]);
    runs[runs.length - 1].push(t);
  });
  return runs;
}

/** What the last k-1 windows of n tokens are divided by, so that the weights that exist sum to 1. */
function tailScale(beta, n, renormalise) {
  const scale = new Array(n).fill(1);
  if (!renormalise) return scale;
  let total = 0;
  for (let terms = 1; terms < beta.length && terms <= n; terms++) {
    total += beta[terms - 1];
    scale[n - terms] = 1 / total;
  }
  return scale;
}

/** y[i] = sum over j of beta[j] x[i + j], or of x[i - j] for the transpose; missing terms are 0. */
function windowSums(x, beta, back) {
  const n = x.length;
  const y = new Array(n).fill(0);
  const rest = beta.length > 1 ? beta[1] : 0;
  const level = beta.every((weight, j) => j === 0 || weight === rest);
  if (!level || beta.length < 8) {
    for (let i = 0; i < n; i++) {
      const reach = Math.min(beta.length, back ? i + 1 : n - i);
      for (let j = 0; j < reach; j++) y[i] += beta[j] * x[back ? i - j : i + j];
    }
    return y;
  }
  // Two levels, as MPO has them: the later tokens' sum slides by one token, so the cost does not grow with K.
  const later = beta.length - 1;
  let sum = 0;
  for (let step = 0; step < n; step++) {
    const i = back ? step : n - 1 - step;
    const towards = back ? -1 : 1;
    y[i] = beta[0] * x[i] + rest * sum;
    sum += x[i];
    const leaves = i + towards * later;
    if (leaves >= 0 && leaves < n) sum -= x[leaves];
  }
  return y;
}

/** The next k kept tokens are the action that starts at t (MPO, arXiv 2602.14386). */
export function windowActions({ k, future = 0.2, beta = null, joint = false, tail = "renormalise", gaps = "skip" }) {
  const weights = joint ? new Array(k).fill(1) : beta || windowBeta(k, future);
  const renormalise = !joint && tail === "renormalise";
  function map(x, mask, back) {
    const y = new Array(mask.length).fill(0);
    for (const positions of stretches(mask, gaps)) {
      const scale = tailScale(weights, positions.length, renormalise);
      const row = positions.map((t, i) => (back ? x[t] * scale[i] : x[t]));
      windowSums(row, weights, back).forEach((value, i) => {
        y[positions[i]] = back ? value : value * scale[i];
      });
    }
    return y;
  }
  return {
    logRatio: (delta, mask) => map(delta, mask, false),
    credit: (weight, mask) => map(weight, mask, true),
    weight: (mask) => mask.map((kept) => (kept ? 1 : 0)),
  };
}

/** Every token of a block shares the block's ratio. `ids(mask)` gives the blocks. */
export function blockActions({ ids, reduce = "mean" }) {
  function map(x, mask) {
    const blocks = ids(mask);
    const sums = blockSum(masked(x, mask), blocks);
    const sizes = blockSizes(blocks);
    return spread(reduce === "mean" ? sums.map((sum, n) => sum / Math.max(1, sizes[n])) : sums, blocks);
  }
  return {
    logRatio: map,
    credit: map,
    weight: (mask) => {
      const blocks = ids(mask);
      return spread(blockSizes(blocks).map((size) => 1 / Math.max(1, size)), blocks);
    },
  };
}

/** The whole response is one action, its ratio the geometric mean over its tokens (GSPO, arXiv 2507.18071). */
export function sequenceActions() {
  return blockActions({ ids: sequenceBlock });
}

/** The ratio of another action space, whose gradient goes to the token itself (GSPO-token). */
export function tokenGradient(actions) {
  return { logRatio: actions.logRatio, credit: masked, weight: actions.weight };
}

/** Row t of W: what the action that starts at token t is made of. */
export function windowOf(actions, mask, t) {
  return actions.credit(mask.map((_, s) => (s === t ? 1 : 0)), mask);
}

/** Column s of W: which actions token s takes part in, and with what weight. */
export function payersOf(actions, mask, s) {
  return actions.logRatio(mask.map((_, t) => (t === s ? 1 : 0)), mask);
}

// ---------------------------------------------------------------------------------------------------------------------
// The clipped policy loss of one response

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** Each surrogate: (T,) objectives, which actions are cut, and the weight that W transposed hands back. */
const surrogates = {
  ppo({ actions, delta, A, mask, clip, dualClip }) {
    const logRatio = actions.logRatio(delta, mask);
    const clipped = [];
    const objective = [];
    const pull = [];
    logRatio.forEach((value, t) => {
      const ratio = Math.exp(value);
      let bounded = clamp(ratio, 1 - clip[0], 1 + clip[1]) * A[t];
      let cut = bounded < ratio * A[t];
      if (dualClip !== null && A[t] < 0 && (cut ? bounded : ratio * A[t]) < dualClip * A[t]) {
        bounded = dualClip * A[t];
        cut = true;
      }
      const free = A[t] === 0 ? 0 : ratio * A[t];
      clipped.push(cut);
      objective.push(cut ? bounded : free);
      pull.push(cut ? 0 : free);
    });
    return { logRatio, clipped, objective, credit: (scale) => actions.credit(product(pull, scale), mask) };
  },

  none({ actions, delta, A, mask }) {
    const logRatio = actions.logRatio(delta, mask);
    const objective = logRatio.map((value, t) => (A[t] === 0 ? 0 : Math.exp(value) * A[t]));
    const clipped = mask.map(() => false);
    return { logRatio, clipped, objective, credit: (scale) => actions.credit(product(objective, scale), mask) };
  },

  cispo({ actions, delta, A, mask, clip, logps }) {
    const logRatio = actions.logRatio(delta, mask);
    const own = actions.logRatio(logps, mask);
    const weight = logRatio.map((value) => clamp(Math.exp(value), 1 - clip[0], 1 + clip[1]));
    const clipped = logRatio.map((value, t) => Boolean(mask[t]) && weight[t] !== Math.exp(value));
    const pull = product(weight, A);
    return {
      logRatio,
      clipped,
      objective: product(pull, own),
      credit: (scale) => actions.credit(product(pull, scale), mask),
    };
  },

  gmpo({ actions, delta, A, mask, clip }) {
    const clipped = delta.map((d, t) => Boolean(mask[t]) && ((A[t] > 0 && d > clip[1]) || (A[t] < 0 && d < -clip[0])));
    const limited = delta.map((d, t) => (A[t] > 0 ? Math.min(d, clip[1]) : A[t] < 0 ? Math.max(d, -clip[0]) : d));
    const logRatio = actions.logRatio(limited, mask);
    const objective = logRatio.map((value, t) => (A[t] === 0 ? 0 : Math.exp(value) * A[t]));
    const credit = (scale) => actions.credit(product(objective, scale), mask).map((c, t) => (clipped[t] ? 0 : c));
    return { logRatio, clipped, objective, credit };
  },
};

function product(a, b) {
  return a.map((value, t) => value * b[t]);
}

/** What each token's objective is multiplied by, for a batch of this one response. */
function tokenScale(mask, aggregate, actions, maxLength) {
  const kept = keptPositions(mask).length;
  const ones = mask.map((value) => (value ? 1 : 0));
  if (aggregate === "token-mean") return ones.map((value) => value / Math.max(1, kept));
  if (aggregate === "seq-mean-token-mean") return ones.map((value) => value / Math.max(1, kept));
  if (aggregate === "seq-mean-token-sum") return ones;
  if (aggregate === "seq-mean-token-sum-norm") return ones.map((value) => value / maxLength);
  const weight = actions.weight(mask); // "block-mean": each action counts once
  const count = Math.max(1, Math.round(1000 * weight.reduce((a, b) => a + b, 0)) / 1000);
  return weight.map((value) => value / count);
}

/**
 * The loss of one response under an action space, and what it did to each token.
 * `advantage` is one number, or one for each token.
 * Returns { loss, ratio, clipped, clipFraction, approxKl, credit }; credit = -d loss / d logps.
 */
export function policyLoss({
  logps,
  oldLogps,
  advantage,
  mask,
  actions,
  clip = [0.2, 0.2],
  surrogate = "ppo",
  aggregate = "token-mean",
  dualClip = null,
  maxLength = null,
}) {
  const delta = masked(logps.map((value, t) => value - oldLogps[t]), mask);
  const A = mask.map((kept, t) => (kept ? (Array.isArray(advantage) ? advantage[t] : advantage) : 0));
  const scale = tokenScale(mask, aggregate, actions, maxLength);
  const result = surrogates[surrogate]({ actions, logps: masked(logps, mask), delta, A, mask, clip, dualClip });
  const kept = Math.max(1, keptPositions(mask).length);
  return {
    loss: -result.objective.reduce((sum, value, t) => sum + value * scale[t], 0),
    ratio: result.logRatio.map(Math.exp),
    clipped: result.clipped,
    clipFraction: result.clipped.filter(Boolean).length / kept,
    approxKl: delta.reduce((sum, d) => sum + Math.expm1(d) - d, 0) / kept,
    credit: result.credit(scale),
  };
}
