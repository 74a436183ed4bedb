/**
 * Every response of a small policy: bias, variance and direction of a policy gradient as sums, not estimates. No
 * dependencies, no DOM. The same cases and the same numbers as mpo_nb.enumeration; a test compares the two on random
 * settings. The action spaces are those of method.js, read off as matrices: all responses have the same length.
 *
 * A table of logits has a row for each prefix, V numbers each, level after level. The cell from which response n chose
 * its token t is `offset[t] * V + floor(n / V ** (T - 1 - t))`.
 */

// ---------------------------------------------------------------------------------------------------------------------
// Numbers that are the same everywhere

/** A hash of 32 bits (C. Wellons, lowbias32). */
function mixed(x) {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** n standard normal numbers (Box and Muller, over the hash). */
export function numberedNormals(seed, stream, n) {
  const key = mixed(seed * 1000 + stream);
  const uniform = (i) => (mixed((Math.imul(i, 0x9e3779b9) + key) >>> 0) + 0.5) / 2 ** 32;
  return Float64Array.from(
    { length: n },
    (_, i) => Math.sqrt(-2 * Math.log(uniform(2 * i))) * Math.cos(2 * Math.PI * uniform(2 * i + 1)),
  );
}

/** The reward of each response: terms that read `reach` tokens in a row. Mean 0, variance 1. */
export function interactingRewards(seed, V, T, reach) {
  const terms = V ** reach;
  const drawn = numberedNormals(seed, 2, (T - reach + 1) * terms);
  const rewards = new Float64Array(V ** T);
  for (let n = 0; n < rewards.length; n++) {
    for (let t = 0; t <= T - reach; t++) {
      rewards[n] += drawn[t * terms + (Math.floor(n / V ** (T - reach - t)) % terms)];
    }
  }
  const mean = rewards.reduce((a, b) => a + b, 0) / rewards.length;
  const spread = Math.sqrt(rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) / rewards.length);
  return rewards.map((r) => (r - mean) / spread);
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables, and the tree of prefixes

/** Where the rows of each position begin; the last number is how many rows there are. */
function offsets(V, T) {
  const first = [0];
  for (let t = 0; t < T; t++) first.push(first[t] + V ** t);
  return first;
}

/** Log-probabilities of a table, row by row. */
function logSoftmax(logits, V) {
  const logps = new Float64Array(logits.length);
  for (let row = 0; row < logits.length; row += V) {
    let most = -Infinity;
    for (let v = 0; v < V; v++) most = Math.max(most, logits[row + v]);
    let sum = 0;
    for (let v = 0; v < V; v++) sum += Math.exp(logits[row + v] - most);
    for (let v = 0; v < V; v++) logps[row + v] = logits[row + v] - most - Math.log(sum);
  }
  return logps;
}

/** How likely each row is to be read: as the children of a level's cells are the next level's rows, a walk. */
function rowVisits(chance, V, rows) {
  const visits = new Float64Array(rows);
  visits[0] = 1;
  for (let row = 0; row < rows; row++) {
    for (let v = 0; v < V; v++) {
      const child = row * V + v + 1;
      if (child < rows) visits[child] = visits[row] * chance[row * V + v];
    }
  }
  return visits;
}

/** The reward that may be expected at each row; leaves are the responses. */
function rowValues(chance, rewards, V, rows) {
  const values = new Float64Array(rows);
  const leaves = rows; // number of the first leaf, counted on from the rows
  for (let row = rows - 1; row >= 0; row--) {
    for (let v = 0; v < V; v++) {
      const child = row * V + v + 1;
      values[row] += chance[row * V + v] * (child < leaves ? values[child] : rewards[child - leaves]);
    }
  }
  return values;
}

/** The policy further back: where KL(old || new) of whole responses is what was asked for. */
function behind(logits, direction, kl, V, rows) {
  if (kl === 0) return logits;
  const logps = logSoftmax(logits, V);
  const back = (far) => logits.map((x, i) => x - far * direction[i]);
  function distance(far) {
    const old = logSoftmax(back(far), V);
    const chance = old.map(Math.exp);
    const visits = rowVisits(chance, V, rows);
    let sum = 0;
    for (let i = 0; i < old.length; i++) sum += visits[Math.floor(i / V)] * chance[i] * (old[i] - logps[i]);
    return sum;
  }
  let [low, high] = [0, 1];
  while (distance(high) < kl && high < 2 ** 12) high *= 2;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (middle === low || middle === high) break;
    if (distance(middle) < kl) low = middle;
    else high = middle;
  }
  return back(high);
}

/** A policy, its rollouts and a reward, by number. */
export function numberedCase({ seed, length: T, kl, drift, reach = Math.min(4, T), vocabulary: V = 2 }) {
  const first = offsets(V, T);
  const rows = first[T];
  const rewards = interactingRewards(seed, V, T, reach);
  const logits = numberedNormals(seed, 1, rows * V);
  const logps = logSoftmax(logits, V);
  const chance = logps.map(Math.exp);
  const values = rowValues(chance, rewards, V, rows);
  const after = (cell) => (cell + 1 < rows ? values[cell + 1] : rewards[cell + 1 - rows]);
  const uphill = () => chance.map((_, cell) => after(cell) - values[Math.floor(cell / V)]);
  const direction = drift === "uphill" ? uphill() : numberedNormals(seed, 3, rows * V);
  const oldLogps = logSoftmax(behind(logits, direction, kl, V, rows), V);
  const oldChance = oldLogps.map(Math.exp);
  const N = rewards.length;
  const delta = new Float64Array(N * T);
  const cells = new Int32Array(N * T);
  const drawn = new Float64Array(N); // how likely among the rollouts
  const share = new Float64Array(N); // and under the policy itself
  for (let n = 0; n < N; n++) {
    let [old, now] = [0, 0];
    for (let t = 0; t < T; t++) {
      const cell = first[t] * V + Math.floor(n / V ** (T - 1 - t));
      cells[n * T + t] = cell;
      delta[n * T + t] = logps[cell] - oldLogps[cell];
      old += oldLogps[cell];
      now += logps[cell];
    }
    drawn[n] = Math.exp(old);
    share[n] = Math.exp(now);
  }
  const oldValues = rowValues(oldChance, rewards, V, rows);
  const visits = rowVisits(chance, V, rows);
  return { V, T, N, first, rows, rewards, chance, visits, oldValues, delta, cells, drawn, share };
}

// ---------------------------------------------------------------------------------------------------------------------
// Estimates

/** Advantages: the reward minus its mean, or GAE(lambda) over the exact values of the rollouts' policy. */
export function exactAdvantages({ V, T, N, rewards, drawn, cells, oldValues }, lam) {
  const advantages = new Float64Array(N * T);
  if (lam === null) {
    const mean = rewards.reduce((sum, r, n) => sum + drawn[n] * r, 0);
    for (let i = 0; i < N * T; i++) advantages[i] = rewards[Math.floor(i / T)] - mean;
    return advantages;
  }
  for (let n = 0; n < N; n++) {
    let [next, advantage] = [rewards[n], 0];
    for (let t = T - 1; t >= 0; t--) {
      const value = oldValues[Math.floor(cells[n * T + t] / V)];
      advantage = next - value + lam * advantage;
      advantages[n * T + t] = advantage;
      next = value;
    }
  }
  return advantages;
}

export const KINDS = [
  "token",
  "window",
  "window mean",
  "window joint",
  "block mean",
  "block joint",
  "sequence mean",
  "sequence joint",
];

/** An action space of method.js as a matrix (its rows' entries that are not 0), with what sums its actions. */
function matrixOf(actions, T, { byAction = false, divide = 1 }, method) {
  const mask = new Array(T).fill(1);
  const rows = mask.map((_, t) => {
    const row = method.windowOf(actions, mask, t);
    const places = row.map((_, s) => s).filter((s) => row[s] !== 0);
    return { places, weights: places.map((s) => row[s]) };
  });
  const scale = (byAction ? actions.weight(mask) : mask).map((x) => x / divide);
  return { rows, scale };
}

/** The kinds of action, by name. */
export function granularities({ k, future }, T, method) {
  const fixed = (mask) => method.fixedBlocks(mask, k);
  const make = {
    "token": () => [method.tokenActions(), {}],
    "window": () => [method.windowActions({ k, future }), {}],
    "window mean": () => [method.windowActions({ k, beta: new Array(k).fill(1 / k) }), {}],
    "window joint": () => [method.windowActions({ k, joint: true }), { divide: k }],
    "block mean": () => [method.blockActions({ ids: fixed }), {}],
    "block joint": () => [method.blockActions({ ids: fixed, reduce: "sum" }), { byAction: true }],
    "sequence mean": () => [method.sequenceActions(), {}],
    "sequence joint": () => [method.blockActions({ ids: method.sequenceBlock, reduce: "sum" }), { byAction: true }],
  };
  const matrices = KINDS.map((kind) => {
    const [actions, how] = make[kind]();
    return [kind, matrixOf(actions, T, how, method)];
  });
  return Object.fromEntries(matrices);
}

/** log R of every action: W delta, response by response. */
function logRatios({ N, T, delta }, { rows }) {
  const logs = new Float64Array(N * T);
  for (let at = 0; at < N * T; at += T) {
    for (let t = 0; t < T; t++) {
      const { places, weights } = rows[t];
      let sum = 0;
      for (let i = 0; i < places.length; i++) sum += weights[i] * delta[at + places[i]];
      logs[at + t] = sum;
    }
  }
  return logs;
}

/** The range at which a kind is clipped as often as wanted, or nearly so: as [below, above]. */
function equalShareClip({ N, T, drawn }, logs, advantages, share, clip) {
  const [down, up] = [Math.log1p(-clip[0]), Math.log1p(clip[1])];
  const reach = logs.map((x, i) => x / (advantages[i] > 0 ? up : down));
  function clipped(scale) {
    let sum = 0;
    for (let n = 0; n < N; n++) {
      let count = 0;
      for (let i = n * T; i < n * T + T; i++) if (reach[i] > scale) count += 1;
      sum += (drawn[n] / T) * count;
    }
    return sum;
  }
  let [low, high] = [0, reach.reduce((a, b) => Math.max(a, b), 0)];
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2;
    if (clipped(middle) <= share) high = middle;
    else low = middle;
  }
  const scale = clipped(low) - share < share - clipped(high) ? low : high;
  return [1 - (1 - clip[0]) ** scale, (1 + clip[1]) ** scale - 1];
}

/** The true gradient of the expected reward, cell by cell. */
function trueGradient({ V, N, T, rewards, share, cells, chance }) {
  const mean = rewards.reduce((sum, r, n) => sum + share[n] * r, 0);
  const sums = new Float64Array(chance.length);
  for (let n = 0; n < N; n++) {
    for (let i = n * T; i < n * T + T; i++) sums[cells[i]] += share[n] * (rewards[n] - mean);
  }
  return scored(sums, chance, V);
}

/** Collected credit as a gradient: of each row's sum, every choice pays its own chance. */
function scored(sums, chance, V) {
  for (let row = 0; row < sums.length; row += V) {
    let sum = 0;
    for (let v = 0; v < V; v++) sum += sums[row + v];
    for (let v = 0; v < V; v++) sums[row + v] -= chance[row + v] * sum;
  }
  return sums;
}

/** Squared length of one choice's score, and twice the nats of a step along it. */
function scoreSizes({ V, chance, visits }) {
  const squares = new Float64Array(chance.length);
  const nats = new Float64Array(chance.length);
  for (let cell = 0; cell < chance.length; cell++) {
    const row = cell - (cell % V);
    let [square, first, second] = [0, 0, 0];
    for (let v = 0; v < V; v++) {
      const score = (row + v === cell ? 1 : 0) - chance[row + v];
      square += score * score;
      first += chance[row + v] * score;
      second += chance[row + v] * score * score;
    }
    squares[cell] = square;
    nats[cell] = visits[row / V] * (second - first * first);
  }
  return { squares, nats };
}

/** Twice the nats of a step, to second order. */
function stepNats(step, { V, chance, visits }) {
  let sum = 0;
  for (let row = 0; row < step.length; row += V) {
    let [first, second] = [0, 0];
    for (let v = 0; v < V; v++) {
      first += chance[row + v] * step[row + v];
      second += chance[row + v] * step[row + v] ** 2;
    }
    sum += visits[row / V] * (second - first * first);
  }
  return sum;
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** One kind of action on one case: the expected gradient, what it scatters, what is clipped. */
function estimateOf(numbers, { rows, scale }, logs, advantages, clip, sizes, inside) {
  const { V, N, T, cells, drawn, chance } = numbers;
  const sums = new Float64Array(chance.length);
  const credit = new Float64Array(T);
  let [square, nats, cut] = [0, 0, 0];
  for (let n = 0; n < N; n++) {
    credit.fill(0);
    let clipped = 0;
    for (let t = 0; t < T; t++) {
      const at = n * T + t;
      const ratio = Math.exp(logs[at]);
      const A = advantages[at];
      const free = ratio * A;
      if (clip && Math.min(1 + clip[1], Math.max(1 - clip[0], ratio)) * A < free) {
        clipped += 1;
        continue;
      }
      const { places, weights } = rows[t];
      const pull = free * scale[t];
      for (let i = 0; i < places.length; i++) credit[places[i]] += weights[i] * pull;
    }
    cut += (drawn[n] * clipped) / T;
    for (let s = 0; s < T; s++) {
      if (!inside(s)) continue;
      const cell = cells[n * T + s];
      const weight = drawn[n] * credit[s];
      sums[cell] += weight;
      square += weight * credit[s] * sizes.squares[cell];
      nats += weight * credit[s] * sizes.nats[cell];
    }
  }
  return { gradient: scored(sums, chance, V), square, nats, clipFraction: cut };
}

/** Bias, noise and direction from an estimate and the true gradient; `batch` responses make a step. */
function measured({ gradient, square, nats, clipFraction }, truth, numbers, batch, clip) {
  const length = dot(truth, truth);
  const own = dot(gradient, gradient);
  const along = dot(gradient, truth) / length;
  const off = gradient.reduce((sum, x, i) => sum + (x - along * truth[i]) ** 2, 0);
  const bias = Math.sqrt(gradient.reduce((sum, x, i) => sum + (x - truth[i]) ** 2, 0) / length);
  const variance = (square - own) / length;
  const mean = stepNats(gradient, numbers);
  const cost = Math.sqrt(mean + Math.max(0, nats - mean) / batch);
  const ideal = length / Math.sqrt(stepNats(truth, numbers));
  return {
    bias,
    variance,
    noise: Math.sqrt(Math.max(0, variance) / batch),
    cosine: own ? dot(gradient, truth) / Math.sqrt(own * length) : NaN,
    gain: cost ? (along * length) / cost / ideal : 0,
    along,
    off: Math.sqrt(off / length),
    clipFraction,
    clip,
  };
}

/**
 * Every kind of action on one case. values: { pair, length, kl, drift, k, future, clip, epsilon, credit, lam, batch,
 * inner }. Returns { token: { bias, variance, noise, cosine, gain, along, off, clipFraction, clip }, ... }.
 */
export function compareEstimates(values, method, numbers = numberedCase({ ...values, seed: values.pair })) {
  const { length: T, k } = values;
  const advantages = exactAdvantages(numbers, values.credit === "critic" ? values.lam : null);
  const [low, high] = values.inner ? innerPositions(k, T) : [0, T];
  const inside = (t) => t >= low && t < high;
  const truth = trueGradient(numbers);
  truth.forEach((_, cell) => {
    const row = Math.floor(cell / numbers.V);
    if (row < numbers.first[low] || row >= numbers.first[high]) truth[cell] = 0;
  });
  const sizes = scoreSizes(numbers);
  const given = values.clip === "none" ? null : [values.epsilon, values.epsilon];
  const kinds = granularities(values, T, method);
  const result = {};
  for (const kind of KINDS) {
    const logs = logRatios(numbers, kinds[kind]);
    let clip = given;
    if (values.clip === "equal" && kind !== "token") {
      clip = equalShareClip(numbers, logs, advantages, result.token.clipFraction, given);
    }
    const one = estimateOf(numbers, kinds[kind], logs, advantages, clip, sizes, inside);
    result[kind] = measured(one, truth, numbers, values.batch, clip);
  }
  return result;
}

/** The positions that no edge of the response is near, as [first, end): as many as there are, and two at least. */
export function innerPositions(k, T) {
  const half = Math.floor(T / 2);
  return [Math.min(k - 1, half - 1), Math.max(T - k + 1, half + 1)];
}
