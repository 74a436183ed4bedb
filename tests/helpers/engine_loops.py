"""The clipped loss of a sample as an engine hands it over, written as loops over single numbers; and samples to try."""

import torch
from batches import generator
from reference import block_ratio, clipped_objective, fixed, sentences, sequence_ratio, token_ratio, window_ratio

from mpo_nb.spaces import ActionSettings

# What engines without token ids can take; `gaps` and `reduce` in both forms.
OPTIONS = (
    dict(action_space="token"),
    dict(action_space="window", k=3, future=0.4),
    dict(action_space="window", k=3, gaps="skip"),
    dict(action_space="block", k=2),
    dict(action_space="block", k=2, gaps="skip", reduce="sum"),
    dict(action_space="turn"),
    dict(action_space="turn", reduce="sum"),
    dict(action_space="sequence"),
)
SENTENCES = (dict(action_space="sentence"), dict(action_space="sentence", gaps="skip", reduce="sum"))

# Samples of one packed row: prompts, tools' replies in between, one that wrote nothing, one that wrote a single token.
WRITTEN = ([0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 1, 1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1, 1, 1, 0, 1, 1, 1, 1])


def name(options):
    "What a test is called."
    return "-".join(map(str, options.values()))


def pieces(written, gaps):
    "Positions of the kept tokens, in lists that an action may not leave."
    kept = [t for t, one in enumerate(written) if one]
    if gaps != "end":
        return [kept] if kept else []
    found = []
    for t in kept:
        if found and found[-1][-1] == t - 1:
            found[-1].append(t)
        else:
            found.append([t])
    return found


def log_ratios(delta, written, options, texts=None):
    "Position -> log-ratio of its action, for one sample: lists in, single numbers out."
    s = ActionSettings(**options)
    whole = s.action_space in ("token", "sequence", "sentence")
    beta = (1 - (s.future or 0), *[(s.future or 0) / max(1, (s.k or 1) - 1)] * ((s.k or 1) - 1))
    found = {}
    ids = {}
    if s.action_space == "sentence":
        kept = [t for t, one in enumerate(written) if one]
        ids = dict(zip(kept, sentences([texts[t] for t in kept])))
        whole = s.gaps == "skip"
    for piece in pieces(written, "skip" if whole else "end" if s.action_space == "turn" else s.gaps):
        d = [delta[t] for t in piece]
        values = {
            "token": lambda: token_ratio(d),
            "window": lambda: window_ratio(d, beta),
            "block": lambda: block_ratio(d, fixed(len(d), s.k), s.reduce),
            "turn": lambda: block_ratio(d, [0] * len(d), s.reduce),
            "sentence": lambda: block_ratio(d, [ids[t] - ids[piece[0]] for t in piece], s.reduce),
            "sequence": lambda: sequence_ratio(d),
        }[s.action_space]()
        found |= dict(zip(piece, values))
    return found


def loss_of_sample(logps, old, advantages, written, options, clip, dual_clip=None, weights=None, texts=None):
    "Minus the sum of PC(r, A), times each token's weight."
    delta = [a - b for a, b in zip(logps, old)]
    total = 0 * logps.sum()
    for t, r in log_ratios(delta, written, options, texts).items():
        w = 1 if weights is None else weights[t]
        total = total - w * clipped_objective(r.exp(), advantages[t], clip, dual_clip)
    return total


def draw_samples(seed, written=WRITTEN, spread=0.4):
    "new, old, advantages, weights in float64, each a list of tensors (T_i,)."
    g = generator(seed)
    old = [-3 * torch.rand(len(w), generator=g, dtype=torch.double) for w in written]
    new = [o + spread * torch.randn(len(o), generator=g, dtype=torch.double) for o in old]
    A = [torch.randn(len(o), generator=g, dtype=torch.double) for o in old]
    weights = [torch.rand(len(o), generator=g, dtype=torch.double) * 2 for o in old]
    return new, old, A, weights
