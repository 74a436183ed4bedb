"""What the tests draw: masks of every awkward shape, batches with NaN under the mask, and all action spaces with their
loops."""

from dataclasses import dataclass
from functools import partial

import reference as ref
import torch
from hypothesis import settings
from hypothesis import strategies as st

from mpo_nb.actions import BlockActions, DecayActions, SequenceActions, TokenActions, TokenGradient, WindowActions

# The same examples on every machine: a red test stays red until it is mended.
settings.register_profile("mpo_nb", deadline=None, derandomize=True, database=None, max_examples=25)
settings.load_profile("mpo_nb")


@st.composite
def masks(draw, max_rows=4, max_tokens=8, rows=None):
    "(B, T) 0/1: full, padded right or left, with holes, empty, T = 1; every dtype that a mask may come in."
    T = draw(st.integers(1, max_tokens))
    row = st.one_of(
        st.lists(st.integers(0, 1), min_size=T, max_size=T),
        st.integers(0, T).map(lambda n: [1] * n + [0] * (T - n)),
        st.integers(0, T).map(lambda n: [0] * (T - n) + [1] * n),
    )
    table = draw(st.lists(row, min_size=rows or 1, max_size=rows or max_rows))
    return torch.tensor(table, dtype=draw(st.sampled_from([torch.bool, torch.long, torch.double])))


seeds = st.integers(0, 2**31 - 1)

# One batch with every awkward row at once, for the tests that go through all combinations.
AWKWARD = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 0, 1, 0, 1, 1],
        [0, 0, 1, 1, 1, 1, 0],
        [1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 0],
    ]
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def poison(x, mask):
    "NaN and both infinities wherever the mask is 0: whatever touches them shows."
    bad = torch.tensor([ref.NAN, float("inf"), float("-inf")], dtype=x.dtype)
    return torch.where(mask.bool(), x, bad.repeat(x.numel())[: x.numel()].view(x.shape))


def draw_batch(mask, seed, spread=0.4, per_token=True):
    """logps, old_logps, advantages in float64, nothing but NaN and infinities under the mask; rows without tokens have
    advantage NaN."""
    g = generator(seed)
    old = -3 * torch.rand(mask.shape, generator=g, dtype=torch.double)
    new = old + spread * torch.randn(mask.shape, generator=g, dtype=torch.double)
    shape = mask.shape if per_token else mask.shape[:1]
    A = torch.randn(shape, generator=g, dtype=torch.double)
    return poison(new, mask), poison(old, mask), poison(A, mask) if per_token else torch.where(mask.any(1), A, ref.NAN)


def leaf(x):
    return x.detach().clone().requires_grad_()


def loss_and_grad(f, x):
    "The value and gradient of a scalar function at x."
    x = leaf(x)
    value = f(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


@dataclass
class Space:
    "An action space for one mask, beside its loop."

    actions: object
    to_log_ratio: list  # per row: list over kept tokens -> log-ratio of each token's action
    members: list  # per row: the actions, each a list of indices among the kept tokens
    row_ids: list  # per row: the block id of each kept token


def ragged_ids(mask):
    "Blocks of 1, 2, 3, 1, 2, ... kept tokens, starting elsewhere in each row."
    rows = []
    for b, positions in enumerate(ref.kept(mask)):
        ids = []
        block = 0
        while len(ids) < len(positions):
            ids += [block] * (1 + (b + block) % 3)
            block += 1
        rows.append(ids[: len(positions)])
    return rows


BETA = (0.5, 0.0, 0.3, 0.2)

# name -> (library object for a mask, ids of kept tokens -> loop over one row, which tokens an action is made of)
_windows = {
    "window-1": ((1,), {}, (1.0,), "renormalise"),
    "window-2": ((2,), {"future": 0.3}, (0.7, 0.3), "renormalise"),
    "window-4": ((4,), {"future": 0.3}, (0.7, 0.1, 0.1, 0.1), "renormalise"),
    "window-4-truncate": ((4,), {"future": 0.3, "tail": "truncate"}, (0.7, 0.1, 0.1, 0.1), "truncate"),
    "window-uniform": ((3,), {"beta": (1 / 3,) * 3}, (1 / 3,) * 3, "renormalise"),
    "window-beta": ((4,), {"beta": BETA}, BETA, "renormalise"),
    "window-beta-truncate": ((4,), {"beta": BETA, "tail": "truncate"}, BETA, "truncate"),
    "window-joint": ((3,), {"joint": True}, (1.0,) * 3, "truncate"),
    "window-long": ((20,), {"future": 0.4}, (0.6,) + (0.4 / 19,) * 19, "renormalise"),
}
SPACES = (
    "token",
    *_windows,
    "block-2",
    "block-2-sum",
    "block-ids",
    "block-ids-sum",
    "sequence",
    "sequence-token",
    "block-ids-token",
    "decay",
    "decay-joint",
)


def space(name, mask):
    "The named action space on this mask."
    counts = [len(p) for p in ref.kept(mask)]
    single = [[[i] for i in range(n)] for n in counts]
    whole = [[list(range(n))] if n else [] for n in counts]
    rows = ragged_ids(mask)
    if name == "token":
        return Space(TokenActions(), [ref.token_ratio] * len(counts), single, [list(range(n)) for n in counts])
    if name.startswith("decay"):
        gamma = 1.0 if name.endswith("joint") else 0.6
        loops = [partial(ref.decay_ratio, gamma=gamma)] * len(counts)
        return Space(DecayActions(gamma), loops, single, [list(range(n)) for n in counts])
    if name in _windows:
        args, kwargs, beta, tail = _windows[name]
        return Space(
            WindowActions(*args, **kwargs),
            [partial(ref.window_ratio, beta=beta, tail=tail)] * len(counts),
            single,
            [list(range(n)) for n in counts],
        )
    if name.startswith("sequence"):
        made = Space(SequenceActions(), [ref.sequence_ratio] * len(counts), whole, [[0] * n for n in counts])
    else:
        reduce = "sum" if name.endswith("sum") else "mean"
        if name.startswith("block-2"):
            rows = [ref.fixed(n, 2) for n in counts]
            blocks = 2
        else:
            blocks = ref.place(mask, rows, fill=-1)
        made = Space(
            BlockActions(blocks, reduce),
            [partial(ref.block_ratio, ids_row=r, reduce=reduce) for r in rows],
            [ref.members(r) for r in rows],
            rows,
        )
    if name.endswith("-token"):
        whole_row = made.to_log_ratio
        made.actions = TokenGradient(made.actions)
        made.to_log_ratio = [lambda delta, f=f: ref.own_gradient(f(delta), delta) for f in whole_row]
    return made


def with_ids(actions, change):
    "The same action space with its block ids, where it holds any, put through `change`: rows picked, columns cut."
    if isinstance(actions, TokenGradient):
        return TokenGradient(with_ids(actions.actions, change))
    ids = getattr(actions, "blocks", None)
    return BlockActions(change(ids), actions.reduce) if isinstance(ids, torch.Tensor) else actions


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol, check_dtype=False)
