"""Advantages against loops: per response, per token, per block; what telescopes, what sums to zero, what is left when
nothing differs."""

import math

import pytest
import reference as ref
import torch
from batches import close, generator, masks, poison, ragged_ids, seeds
from hypothesis import given
from hypothesis import strategies as st

from mpo_nb.advantages import (
    block_gae,
    block_value,
    boundary_advantages,
    distribute,
    gae,
    group_advantages,
    leave_one_out,
    overlong_penalty,
)
from mpo_nb.blocks import block_sizes, block_sum, token_blocks

rates = st.sampled_from([0.0, 0.5, 0.95, 1.0])


def draw(shape, seed):
    return torch.randn(shape, generator=generator(seed), dtype=torch.double)


def numbers(x, mask):
    return [[float(v) for v in row] for row in ref.gather(x, mask)]


def ragged(mask):
    "Block ids of sizes 1, 2, 3, 1, ..., and per row the blocks as lists of indices among kept tokens."
    rows = ragged_ids(mask)
    return ref.place(mask, rows, fill=-1), [ref.members(row) for row in rows]


def padded(rows, n):
    return torch.tensor([row + [0.0] * (n - len(row)) for row in rows], dtype=torch.double).reshape(len(rows), n)


# --- one number per response -------------------------------------------------------------------------------------

rewards = st.integers(2, 5).flatmap(
    lambda g: st.tuples(
        st.just(g),
        st.integers(1, 3).flatmap(lambda n: st.lists(st.floats(-10, 10, width=32), min_size=g * n, max_size=g * n)),
    )
)


@given(rewards, st.sampled_from([1e-4, 1e-6, 0.5]))
def test_group_advantages(drawn, eps):
    size, values = drawn
    r = torch.tensor(values, dtype=torch.double)
    close(
        group_advantages(r, size, eps=eps),
        torch.tensor(ref.group_advantages(values, size, "std", eps), dtype=torch.double),
        tol=1e-8,
    )
    close(
        group_advantages(r, size, "none"), torch.tensor(ref.group_advantages(values, size, "none"), dtype=torch.double)
    )
    close(leave_one_out(r, size), torch.tensor(ref.leave_one_out(values, size), dtype=torch.double))
    for advantages in (group_advantages(r, size), group_advantages(r, size, "none"), leave_one_out(r, size)):
        close(advantages.view(-1, size).sum(1), torch.zeros(len(values) // size), tol=1e-6)


def test_group_advantages_by_hand():
    "Rewards 1, 0, 0, 0: mean 1/4, standard deviation with one degree of freedom removed 1/2."
    r = torch.tensor([1.0, 0, 0, 0, 3, 1, 3, 1], dtype=torch.double)
    close(
        group_advantages(r, 4, eps=0.0),
        torch.tensor([1.5, -0.5, -0.5, -0.5, *(s * math.sqrt(3) / 2 for s in (1, -1, 1, -1))], dtype=torch.double),
    )
    assert group_advantages(r, 4, "none").tolist() == [0.75, -0.25, -0.25, -0.25, 1, -1, 1, -1]
    close(
        leave_one_out(r, 4), torch.tensor([1, -1 / 3, -1 / 3, -1 / 3, 4 / 3, -4 / 3, 4 / 3, -4 / 3], dtype=torch.double)
    )


@given(rewards, st.floats(-5, 5), st.floats(0.5, 5))
def test_a_shift_of_the_rewards_changes_nothing_and_a_scale_goes_through(drawn, shift, scale):
    size, values = drawn
    r = torch.tensor(values, dtype=torch.double)
    for rule in (lambda x: group_advantages(x, size, "none"), lambda x: leave_one_out(x, size)):
        close(rule(r * scale + shift), rule(r) * scale, tol=1e-7)
    close(group_advantages(r * scale + shift, size, eps=1e-4 * scale), group_advantages(r, size), tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long, torch.bool])
def test_a_group_without_a_difference_has_advantage_zero(dtype):
    same = torch.tensor([1, 1, 1, 0, 0, 0]).to(dtype)
    for advantages in (group_advantages(same, 3), group_advantages(same, 3, "none"), leave_one_out(same, 3)):
        assert torch.equal(advantages, torch.zeros(6, dtype=advantages.dtype)) and advantages.is_floating_point()
    assert group_advantages(torch.full((6,), 0.1), 3).abs().max() < 1e-3  # a mean that rounds is not blown up


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 120))
def test_overlong_penalty(a, b, length):
    longest = max(a, b)
    buffer = min(a, b)
    expected = 0.0 if length <= longest - buffer else -1.0 if length > longest else (longest - buffer - length) / buffer
    assert overlong_penalty(torch.tensor([length]), longest, buffer).item() == pytest.approx(expected)


def test_overlong_penalty_by_hand():
    assert overlong_penalty(torch.tensor([0, 80, 90, 100, 101]), 100, 20).tolist() == [0, 0, -0.5, -1, -1]


# --- one number per token ------------------------------------------------------------------------------------------


@given(masks(), seeds, rates, rates)
def test_gae(mask, seed, gamma, lam):
    r = draw(mask.shape, seed)
    v = draw(mask.shape, seed + 1)
    advantages, returns = gae(poison(r, mask), poison(v, mask), mask, gamma, lam)
    expected = ref.place(mask, [ref.gae_row(*row, gamma, lam) for row in zip(numbers(r, mask), numbers(v, mask))])
    close(advantages, expected)
    close(returns, torch.where(mask.bool(), expected + v, 0.0))


@given(masks(), seeds)
def test_gae_at_its_limits(mask, seed):
    "gamma = lam = 1 and a final reward: A_t = R - V_t. lam = 0: the one-step error. V = 0: the reward to come."
    R = draw(len(mask), seed)
    v = draw(mask.shape, seed + 1)
    kept = ref.kept(mask)
    final = torch.zeros(mask.shape, dtype=torch.double)
    for b, positions in enumerate(kept):
        if positions:
            final[b, positions[-1]] = R[b]
    advantages, returns = gae(final, v, mask)
    close(advantages, torch.where(mask.bool(), R[:, None] - v, 0.0))
    close(returns, torch.where(mask.bool(), R[:, None].expand(mask.shape), 0.0))
    one_step, _ = gae(final, v, mask, 0.9, 0.0)
    close(
        one_step,
        ref.place(
            mask,
            [
                [(R[b] if t == p[-1] else 0.9 * v[b, p[i + 1]]).item() - v[b, t].item() for i, t in enumerate(p)]
                for b, p in enumerate(kept)
            ],
        ),
    )
    to_come, _ = gae(final, torch.zeros_like(v), mask, 0.5, 1.0)
    close(
        to_come,
        ref.place(mask, [[R[b].item() * 0.5 ** (len(p) - 1 - i) for i in range(len(p))] for b, p in enumerate(kept)]),
    )


# --- one number per block --------------------------------------------------------------------------------------------


@given(masks(), seeds, rates, rates, st.sampled_from(["mean", "first", "last"]), st.sampled_from(["sum", "mean"]))
def test_block_gae(mask, seed, gamma, lam, value, reward):
    r = draw(mask.shape, seed)
    v = draw(mask.shape, seed + 1)
    ids, blocks = ragged(mask)
    pick = {"mean": lambda x: sum(x) / len(x), "first": lambda x: x[0], "last": lambda x: x[-1], "sum": sum}

    def over(rows, how):
        return [[pick[how]([row[i] for i in block]) for block in row_blocks] for row, row_blocks in zip(rows, blocks)]

    block_rewards = over(numbers(r, mask), reward)
    block_values = over(numbers(v, mask), value)
    n = block_sizes(ids).shape[1]
    close(block_value(poison(v, mask), ids, value), padded(block_values, n))
    advantages, returns = block_gae(poison(r, mask), poison(v, mask), ids, gamma, lam, value, reward)
    expected = [ref.gae_row(*row, gamma, lam) for row in zip(block_rewards, block_values)]
    close(advantages, padded(expected, n))
    close(returns, padded([[a + w for a, w in zip(*row)] for row in zip(expected, block_values)], n))


@given(masks(), seeds, rates, rates, st.sampled_from(["mean", "first", "last"]), st.sampled_from(["sum", "mean"]))
def test_macro_actions_of_one_token_are_token_gae(mask, seed, gamma, lam, value, reward):
    r = poison(draw(mask.shape, seed), mask)
    v = poison(draw(mask.shape, seed + 1), mask)
    ids = token_blocks(mask)
    for block, token in zip(block_gae(r, v, ids, gamma, lam, value, reward), gae(r, v, mask, gamma, lam)):
        close(distribute(block, ids), token)


@given(masks(), seeds, st.booleans())
def test_boundary_advantages_telescope(mask, seed, per_token):
    "V(next boundary) - V(this one), R - V for the last; together R - V(s_0)."
    v = draw(mask.shape, seed)
    R = draw(len(mask), seed + 1)
    ids, blocks = ragged(mask)
    n = block_sizes(ids).shape[1]
    starts = [[row[block[0]] for block in row_blocks] for row, row_blocks in zip(numbers(v, mask), blocks)]
    exists = padded([[1.0] * len(row) for row in starts], n).bool()
    values = poison(v, mask) if per_token else torch.where(exists, padded(starts, n), ref.NAN)
    try:
        advantages = boundary_advantages(values, R, ids)
    except ValueError as error:  # as many blocks as tokens: the shape does not tell what the table holds
        assert values.shape == (len(mask), n) == mask.shape and "per=None" in str(error)
    else:
        assert torch.equal(advantages, boundary_advantages(values, R, ids, per="token" if per_token else "block"))
    advantages = boundary_advantages(values, R, ids, per="token" if per_token else "block")
    expected = [
        [(row[i + 1] if i + 1 < len(row) else R[b].item()) - row[i] for i in range(len(row))]
        for b, row in enumerate(starts)
    ]
    close(advantages, padded(expected, n))
    close(
        advantages.sum(1),
        torch.tensor([R[b].item() - row[0] if row else 0.0 for b, row in enumerate(starts)], dtype=torch.double),
    )


def test_a_table_that_could_be_either_has_to_say():
    "Two blocks in two tokens, one block in the other row: per token, that block's value is in column 1."
    ids = torch.tensor([[0, 1], [-1, 0]])
    values = torch.tensor([[1.0, 2.0], [7.0, 3.0]])
    R = torch.tensor([5.0, 5.0])
    assert boundary_advantages(values, R, ids, per="token").tolist() == [[1, 3], [2, 0]]
    assert boundary_advantages(values, R, ids, per="block").tolist() == [[1, 3], [-2, 0]]
    assert boundary_advantages(values, R, torch.tensor([[0, 1], [0, -1]])).tolist() == [
        [1, 3],
        [-2, 0],
    ]  # the same either way


@given(masks(), seeds)
def test_distribute(mask, seed):
    ids, blocks = ragged(mask)
    A = draw(block_sizes(ids).shape, seed)
    logps = -draw(mask.shape, seed + 1).abs()
    shares = {
        "broadcast": lambda s, block, i: 1.0,
        "divide": lambda s, block, i: 1 / len(block),
        "surprise": lambda s, block, i: s[i] / sum(s[j] for j in block),
    }
    for how, share in shares.items():
        rows = []
        for b, (logp, row_blocks) in enumerate(zip(numbers(logps, mask), blocks)):
            surprise = [-x for x in logp]
            rows.append(
                [A[b, n].item() * share(surprise, block, i) for n, block in enumerate(row_blocks) for i in block]
            )
        out = distribute(A, ids, how, poison(logps, mask) if how == "surprise" else None)
        close(out, ref.place(mask, rows))
        if how != "broadcast":
            close(block_sum(out, ids), torch.where(block_sizes(ids) > 0, A, 0.0))


def test_surprise_without_any_is_shared_equally():
    ids = torch.tensor([[0, 0, 1, 1, -1]])
    certain = torch.tensor([[0.0, 0.0, -1.0, -3.0, ref.NAN]])
    assert distribute(torch.tensor([[2.0, 4.0]]), ids, "surprise", certain).tolist() == [[1, 1, 1, 3, 0]]


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (2, 3)])
def test_nothing_kept(shape):
    mask = torch.zeros(shape)
    x = torch.full(shape, ref.NAN)
    ids = token_blocks(mask)
    none = torch.zeros(shape[0], 0)
    assert all(torch.equal(out, torch.zeros(shape)) for out in gae(x, x, mask))
    assert all(out.shape == none.shape for out in block_gae(x, x, ids))
    assert boundary_advantages(none, torch.zeros(shape[0]), ids).shape == none.shape
    for how in ("broadcast", "divide", "surprise"):
        assert torch.equal(distribute(none, ids, how, x), torch.zeros(shape))
    assert group_advantages(torch.zeros(0), 4, "none").shape == leave_one_out(torch.zeros(0), 4).shape == (0,)


# --- bad input
# ---------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
IDS = token_blocks(MASK)
X = torch.zeros(2, 3)
per_response = [
    (f"{rule.__name__}: {words[0]}", (lambda rule=rule, r=r, g=g: rule(torch.tensor(r), g)), words)
    for rule in (group_advantages, leave_one_out)
    for r, g, words in [
        ([1.0, 0.0], 1, ["group_size=1", "at least 2"]),
        ([1.0, 0.0], 0, ["group_size=0", "at least 2"]),
        ([1.0, 0.0], 2.0, ["group_size=2.0", "at least 2"]),
        ([1.0, 0.0], True, ["group_size=True", "at least 2"]),
        ([1.0, 0.0, 1.0], 2, ["rewards has 3", "group_size=2", "groups whole"]),
        ([[1.0, 0.0]], 2, ["rewards", "(1, 2)", "(B,)"]),
        ([1.0, 0.0, ref.NAN, ref.NAN], 2, ["rewards[2]=nan", "2 such", "reward function"]),
        ([1.0, math.inf], 2, ["rewards[1]=inf", "reward function"]),
    ]
]


@pytest.mark.parametrize(
    "call, words",
    [pytest.param(call, words, id=name) for name, call, words in per_response]
    + [
        (lambda: group_advantages(torch.zeros(2), 2, "rank"), ["scale='rank'", "std", "none"]),
        (lambda: overlong_penalty(torch.tensor([3]), 10, 0), ["buffer=0", "max_length=10", "0 < buffer"]),
        (lambda: overlong_penalty(torch.tensor([3]), 10, 11), ["buffer=11", "max_length=10"]),
        (lambda: gae(torch.zeros(2, 4), X, MASK), ["rewards", "(2, 4)", "(2, 3)"]),
        (lambda: gae(X, torch.zeros(2), MASK), ["values", "(2,)", "(2, 3)"]),
        (lambda: gae(X, X, MASK * 2), ["mask", "2", "0 and 1"]),
        (lambda: gae(X, X, MASK, gamma=1.1), ["gamma=1.1", "[0, 1]"]),
        (lambda: gae(X, X, MASK, lam=-0.1), ["lam=-0.1", "[0, 1]"]),
        (lambda: gae(X, X, MASK, lam=ref.NAN), ["lam=nan", "[0, 1]"]),
        (lambda: block_gae(X, X, IDS, gamma=2), ["gamma=2", "[0, 1]"]),
        (lambda: block_gae(X, X, IDS, value="max"), ["value='max'", "mean", "first", "last"]),
        (lambda: block_gae(X, X, IDS, reward="max"), ["reward='max'", "sum", "mean"]),
        (lambda: block_gae(torch.zeros(2, 4), X, IDS), ["rewards", "(2, 4)", "(2, 3)"]),
        (lambda: block_gae(X, torch.zeros(2, 4), IDS), ["values", "(2, 4)", "(2, 3)"]),
        (lambda: block_gae(X, torch.zeros(2, 4), IDS, value="last"), ["values", "(2, 4)", "(2, 3)"]),
        (lambda: block_value(X, IDS, "max"), ["value='max'", "mean", "first", "last"]),
        (lambda: boundary_advantages(torch.zeros(2, 5), torch.zeros(2), IDS), ["values", "(2, 5)", "(2, 2)", "(2, 3)"]),
        (lambda: boundary_advantages(X, torch.zeros(3), IDS), ["final_reward", "(3,)", "(2,)"]),
        (
            lambda: boundary_advantages(X, torch.zeros(2), torch.tensor([[0, 1, 2], [-1, 0, 1]])),
            ["per=None", "(2, 3)", "'block'", "'token'"],
        ),
        (lambda: boundary_advantages(X, torch.zeros(2), IDS, per="row"), ["per='row'", "'block'", "'token'"]),
        (lambda: boundary_advantages(X, torch.zeros(2), IDS, per="block"), ["values", "(2, 3)", "(2, 2)"]),
        (
            lambda: boundary_advantages(torch.zeros(2, 2), torch.zeros(2), IDS, per="token"),
            ["values", "(2, 2)", "(2, 3)"],
        ),
        (lambda: distribute(torch.zeros(2, 1), IDS), ["(2, 1)", "(2, 2)"]),
        (lambda: distribute(torch.zeros(2, 3, 1), IDS, "divide"), ["(2, 3, 1)", "(2, 2)"]),
        (lambda: distribute(torch.zeros(2, 2), IDS, "all"), ["how='all'", "broadcast", "divide", "surprise"]),
        (lambda: distribute(torch.zeros(2, 2), IDS, "surprise"), ["surprise", "logps", "(B, T)"]),
        (lambda: distribute(torch.zeros(2, 2), IDS, "surprise", torch.zeros(2, 2)), ["logps", "(2, 2)", "(2, 3)"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
