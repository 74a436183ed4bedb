"Batches for recipes, of two groups of three responses, and how two recipes are compared on one."

import reference as ref
import torch
from batches import close, draw_batch, leaf, masks, ragged_ids
from hypothesis import strategies as st

GROUP = 3
ROWS = 6
LONGEST = 16
batches = masks(rows=ROWS)
outcomes = st.lists(st.sampled_from([0.0, 1.0, 0.25]), min_size=ROWS, max_size=ROWS)


def draw(mask, seed, rewards, scale):
    "A batch with everything but advantages; the log-ratio's size is drawn too, for clip ranges of 3e-4 as well as 0.4."
    new, old, _ = draw_batch(mask, seed, spread=scale)
    return dict(
        logps=new,
        old_logps=old,
        mask=mask,
        max_length=LONGEST,
        blocks=ref.place(mask, ragged_ids(mask), fill=-1),
        rewards=torch.tensor(rewards, dtype=torch.double),
    )


def run(r, batch, advantages=None):
    x = leaf(batch["logps"])
    out = r.loss(
        batch | dict(logps=x, advantages=r.advantages(batch["rewards"], GROUP) if advantages is None else advantages)
    )
    return out, torch.autograd.grad(out.loss, x)[0]


def same(a, b, skip=(), tol=1e-10):
    "Two runs agree in loss, gradient, ratio, clipping and credit."
    close(a[0].loss, b[0].loss, tol)
    close(a[1], b[1], tol)
    for name in {"ratio", "clipped", "credit", "clip_fraction"} - set(skip):
        close(getattr(a[0], name), getattr(b[0], name), tol)
