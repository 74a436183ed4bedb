/**
 * The credit of a response under a recipe that Python describes.
 *
 * spec: { space, k, beta, joint, tail, reduce, gaps, clip, surrogate, dualClip }; a response: { tokens, delta, old, mask,
 * advantage }, with the log-ratio of each token and its log-probability when it was sampled; null where none is known.
 */

/** The mask of a response; left out where the policy wrote every token. */
export function maskOf(response) {
  return response.mask || response.tokens.map(() => 1);
}

function actionsOf(spec, response, method) {
  const { gaps } = spec;
  const blocks = (ids) => method.blockActions({ ids, reduce: spec.reduce || "mean" });
  const spaces = {
    token: () => method.tokenActions(),
    window: () => method.windowActions(spec),
    block: () => blocks((mask) => method.fixedBlocks(mask, spec.k, gaps)),
    sentence: () => blocks((mask) => method.sentenceBlocks(mask, response.tokens)),
    surprise: () => blocks((mask) => method.surpriseBlocks(mask, response.old)),
    sequence: () => method.sequenceActions(),
    "sequence-token": () => method.tokenGradient(method.sequenceActions()),
  };
  return spaces[spec.space]();
}

/** The clipped loss of a response, summed over its tokens: { ratio, credit, clipped }; null where nothing is known. */
export function recipeLoss(spec, response, method) {
  if (!spec || !response.delta || !response.tokens.length || !Number.isFinite(response.advantage)) return null;
  return method.policyLoss({
    logps: response.delta,
    oldLogps: response.delta.map(() => 0),
    advantage: response.advantage,
    mask: maskOf(response),
    actions: actionsOf(spec, response, method),
    clip: spec.clip,
    surrogate: spec.surrogate,
    aggregate: "seq-mean-token-sum",
    dualClip: spec.dualClip,
  });
}
