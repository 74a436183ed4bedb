"""Plain loops, read off the formulas: what the vectorised library is compared with.

Everything here takes one number at a time from kept tokens only, so a value under mask 0 cannot reach a result by
construction. Losses are built from float64 scalars that carry a graph, so the gradient of a loop is a reference too.
"""

import math

import torch

NAN = float("nan")


def kept(mask):
    "For each row, the positions of its kept tokens, in order."
    return [[t for t, m in enumerate(row) if m] for row in mask.tolist()]


def place(mask, rows, fill=0.0):
    "A (B, T) table with one row's values on its kept tokens, in order, and `fill` elsewhere."
    table = [[fill] * mask.shape[1] for _ in range(mask.shape[0])]
    for b, positions in enumerate(kept(mask)):
        for t, value in zip(positions, rows[b], strict=True):
            table[b][t] = value
    return torch.tensor(table, dtype=torch.long if isinstance(fill, int) else torch.double).reshape(mask.shape)


def gather(x, mask):
    "For each row, the values of its kept tokens."
    return [[x[b, t] for t in positions] for b, positions in enumerate(kept(mask))]


# --- blocks: one id per kept token -------------------------------------------------------------------------------


def fixed(n, k):
    ids = []
    block = 0
    room = k
    for _ in range(n):
        if room == 0:
            block = block + 1
            room = k
        ids.append(block)
        room -= 1
    return ids


def delimited(texts, ends):
    ids = []
    block = 0
    for text in texts:
        ids.append(block)
        if any(text.endswith(end) for end in ends):
            block += 1
    return ids


def sentences(texts):
    """Ids of sentences, found in the text that the tokens make together: it is cut behind each mark, but not at a point
    between two digits; a token that ends where a piece ends closes a block."""
    whole = "".join(texts)
    marks = ".!?;:\n。！？；：．｡…"
    cuts = set()
    for i, character in enumerate(whole):
        around = whole[i - 1 : i] + whole[i + 1 : i + 2]
        decimal = character in ".．" and len(around) == 2 and around[0].isdecimal() and around[1].isdecimal()
        if character in marks and not decimal:
            cuts.add(i + 1)
    ids = []
    block = end = 0
    for text in texts:
        ids.append(block)
        end += len(text)
        block += bool(text) and end in cuts
    return ids


def opened(flags):
    "Ids of blocks that open where a flag is set; the first token opens block 0 in any case."
    ids = []
    block = 0
    for i, flag in enumerate(flags):
        if flag and i > 0:
            block += 1
        ids.append(block)
    return ids


def surprising(logps, threshold, interval):
    flags = []
    members = 0
    for logp in logps:
        member = math.exp(logp) < threshold
        flags.append(member and members % interval == 0)
        members += member
    return opened(flags)


def perplexing(ref_logps):
    "A block opens where exp(-log pi_ref) is higher than one kept token earlier."
    return opened([i > 0 and math.exp(-ref_logps[i]) > math.exp(-ref_logps[i - 1]) for i in range(len(ref_logps))])


def undecided(entropy, share):
    "Ids of segments that end at the ceil(share * T) largest entropies, the earlier of equals, and at the last token."
    wanted = math.ceil(round(share * len(entropy), 9))
    ranked = sorted(range(len(entropy)), key=lambda i: (-entropy[i], i))[:wanted]
    ids = []
    block = 0
    for i in range(len(entropy)):
        ids.append(block)
        block += i in ranked
    return ids


def members(ids_row):
    "The kept tokens of each block, as indices among the kept tokens: ids along kept tokens -> list of lists."
    return [[i for i, block in enumerate(ids_row) if block == b] for b in range(max(ids_row, default=-1) + 1)]


# --- actions: the log-ratio of each kept token's action ----------------------------------------------------------


def token_ratio(delta):
    return list(delta)


def window_ratio(delta, beta, tail="renormalise"):
    out = []
    for t in range(len(delta)):
        terms = [(b, delta[t + n]) for n, b in enumerate(beta) if t + n < len(delta)]
        total = sum(b * d for b, d in terms)
        out.append(total / sum(b for b, _ in terms) if tail == "renormalise" else total + 0.0)
    return out


def block_ratio(delta, ids_row, reduce="mean"):
    out = [None] * len(delta)
    for block in members(ids_row):
        total = sum(delta[i] for i in block)
        for i in block:
            out[i] = total / len(block) if reduce == "mean" else total
    return out


def sequence_ratio(delta):
    return [sum(delta) / len(delta)] * len(delta) if delta else []


def decay_ratio(delta, gamma):
    return [sum(gamma**n * d for n, d in enumerate(delta[t:])) for t in range(len(delta))]


def own_gradient(values, own):
    "The value of one list with the gradient of another: sg[s] * pi / sg[pi], in log space."
    return [v.detach() + d - d.detach() for v, d in zip(values, own)]


# --- losses ------------------------------------------------------------------------------------------------------


def clamp(x, low, high):
    return x if low <= x <= high else x * 0 + (low if x < low else high)


def clipped_objective(ratio, A, clip, dual_clip=None):
    "PC(r, A) = min(r A, clip(r) A); with dual clip, max(PC, c A) where A < 0."
    value = min(ratio * A, clamp(ratio, 1 - clip[0], 1 + clip[1]) * A)
    return max(value, dual_clip * A + 0 * ratio) if dual_clip is not None and A < 0 else value


def objectives(logps, delta, A, to_log_ratio, surrogate, clip, dual_clip=None):
    "One row's objective per kept token. `to_log_ratio` maps a list over kept tokens to one log-ratio for each."
    if surrogate == "gmpo":
        bounded = [min(d, d * 0 + clip[1]) if a > 0 else max(d, d * 0 - clip[0]) for d, a in zip(delta, A)]
        return [torch.exp(r) * a for r, a in zip(to_log_ratio(bounded), A)]
    ratios = [torch.exp(r) for r in to_log_ratio(delta)]
    if surrogate == "none":
        return [r * a for r, a in zip(ratios, A)]
    if surrogate == "cispo":
        weights = [clamp(r.detach(), 1 - clip[0], 1 + clip[1]) for r in ratios]
        return [w * a * logp for w, a, logp in zip(weights, A, to_log_ratio(logps))]
    return [clipped_objective(r, a, clip, dual_clip) for r, a in zip(ratios, A)]


def aggregated(rows, aggregate, actions, max_length=None):
    """One number from one value per kept token. `actions[b]` lists row b's actions, each a list of indices among kept
    tokens."""
    if aggregate == "token-mean":
        return sum(sum(row) for row in rows) / max(1, sum(len(row) for row in rows))
    if aggregate == "block-mean":
        means = [sum(row[i] for i in action) / len(action) for row, acts in zip(rows, actions) for action in acts]
        return sum(means) / max(1, len(means))
    if aggregate == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in rows if row) / len(rows)
    total = sum(sum(row) for row in rows)
    return total / len(rows) if aggregate == "seq-mean-token-sum" else total / (len(rows) * max_length)


def loss(
    logps,
    old_logps,
    advantages,
    mask,
    to_log_ratio,
    actions,
    surrogate="ppo",
    clip=(0.2, 0.2),
    aggregate="token-mean",
    dual_clip=None,
    max_length=None,
):
    "The policy loss. `to_log_ratio[b]` and `actions[b]` describe row b's action space; advantages are (B,) or (B, T)."
    new = gather(logps, mask)
    old = gather(old_logps, mask)
    per_token = advantages if advantages.ndim == 2 else advantages[:, None].expand(mask.shape)
    A = [[float(a) for a in row] for row in gather(per_token, mask)]
    delta = [[n - o for n, o in zip(*rows)] for rows in zip(new, old)]
    rows = [objectives(new[b], delta[b], A[b], to_log_ratio[b], surrogate, clip, dual_clip) for b in range(len(new))]
    return -(aggregated(rows, aggregate, actions, max_length) + 0 * torch.where(mask.bool(), logps, 0.0).sum())


# --- advantages --------------------------------------------------------------------------------------------------


def group_advantages(rewards, group_size, scale="std", eps=1e-4):
    out = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        mean = sum(group) / group_size
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (group_size - 1))
        out += [(r - mean) / (std + eps) if scale == "std" else r - mean for r in group]
    return out


def leave_one_out(rewards, group_size):
    out = []
    for i, reward in enumerate(rewards):
        start = i // group_size * group_size
        others = [rewards[j] for j in range(start, start + group_size) if j != i]
        out.append(reward - sum(others) / len(others))
    return out


def gae_row(rewards, values, gamma, lam):
    "A_t = sum_l (gamma lam)^l d_{t+l}, d_t = r_t + gamma V_{t+1} - V_t, written as the sum and not as the recursion."
    n = len(rewards)
    d = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** step * d[t + step] for step in range(n - t)) for t in range(n)]
