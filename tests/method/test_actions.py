"Action spaces against loops, and the properties that make them linear maps: W, its transpose, MPO's identities 1 to 5."

import math

import pytest
import reference as ref
import torch
from batches import AWKWARD, SPACES, close, generator, leaf, masks, poison, seeds, space
from hypothesis import given
from hypothesis import strategies as st

from mpo_nb.actions import (
    ActionSpace,
    BlockActions,
    SequenceActions,
    TokenActions,
    TokenGradient,
    WindowActions,
    weight_matrix,
    window_beta,
)
from mpo_nb.blocks import (
    block_ends,
    block_sizes,
    block_sum,
    blocks_from_ends,
    fixed_blocks,
    sequence_block,
    spread,
    token_blocks,
)


def draw(mask, seed, scale=0.5):
    return scale * torch.randn(mask.shape, generator=generator(seed), dtype=torch.double)


def loop(s, delta, mask):
    "The space's log-ratios, one kept token at a time, as scalars that carry a graph."
    return [f(row) for f, row in zip(s.to_log_ratio, ref.gather(delta, mask))]


def table(rows, mask):
    return ref.place(mask, [[v.item() for v in row] for row in rows])


@pytest.mark.parametrize("name", SPACES)
@given(mask=masks(), seed=seeds)
def test_log_ratio_and_its_gradient_are_the_loops(name, mask, seed):
    s = space(name, mask)
    delta = draw(mask, seed)
    pull = draw(mask, seed + 1)
    x = leaf(poison(delta, mask))
    y = leaf(delta)
    expected = loop(s, y, mask)
    out = s.actions.log_ratio(x, mask)
    close(out, table(expected, mask))
    assert torch.equal(out[~mask.bool()], torch.zeros_like(out[~mask.bool()]))
    if mask.any():
        (grad,) = torch.autograd.grad((out * pull).sum(), x)
        reference = sum(w * v for ws, vs in zip(ref.gather(pull, mask), expected) for w, v in zip(ws, vs))
        close(grad, torch.autograd.grad(reference, y)[0])


@pytest.mark.parametrize("name", SPACES)
@given(mask=masks(), seed=seeds)
def test_credit_is_the_transpose(name, mask, seed):
    s = space(name, mask)
    delta = draw(mask, seed)
    pull = draw(mask, seed + 1)
    x = leaf(delta)
    credit = s.actions.credit(poison(pull, mask), mask)
    out = s.actions.log_ratio(x, mask)
    if out.requires_grad:
        close(credit, torch.autograd.grad((out * torch.where(mask.bool(), pull, 0.0)).sum(), x)[0])
    if not name.endswith("-token"):  # there the gradient is deliberately not that of the value
        close((s.actions.log_ratio(delta, mask) * torch.where(mask.bool(), pull, 0.0)).sum(), (credit * delta).sum())
    assert torch.equal(credit[~mask.bool()], torch.zeros_like(credit[~mask.bool()]))


@pytest.mark.parametrize("name", SPACES)
@given(mask=masks())
def test_weights_count_actions(name, mask):
    s = space(name, mask)
    expected = [
        [1 / len(next(a for a in actions if i in a)) for i in range(len(ids))]
        for actions, ids in zip(s.members, s.row_ids)
    ]
    weight = s.actions.weight(mask)
    close(weight, ref.place(mask, expected))
    close(weight.sum(1), torch.tensor([float(len(actions)) for actions in s.members]))


# --- W, written out, against the design's table --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, rows",
    [
        ("token", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        ("window-2", [[0.7, 0.3, 0, 0], [0, 0.7, 0.3, 0], [0, 0, 0.7, 0.3], [0, 0, 0, 1]]),
        ("window-4-truncate", [[0.7, 0.1, 0.1, 0.1], [0, 0.7, 0.1, 0.1], [0, 0, 0.7, 0.1], [0, 0, 0, 0.7]]),
        (
            "window-4",
            [[0.7, 0.1, 0.1, 0.1], [0, 0.7 / 0.9, 0.1 / 0.9, 0.1 / 0.9], [0, 0, 0.7 / 0.8, 0.1 / 0.8], [0, 0, 0, 1]],
        ),
        ("window-beta", [[0.5, 0, 0.3, 0.2], [0, 0.5 / 0.8, 0, 0.3 / 0.8], [0, 0, 1, 0], [0, 0, 0, 1]]),
        ("window-joint", [[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]),
        ("block-2", [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]),
        ("block-2-sum", [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]),
        ("sequence", [[0.25] * 4] * 4),
        ("sequence-token", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_weight_matrix_by_hand(name, rows):
    full = torch.ones(2, 4)
    holes = torch.tensor([[0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 1]])
    expected = torch.tensor(rows, dtype=torch.double)
    close(weight_matrix(space(name, full).actions, full, row=1), expected)
    wide = torch.zeros(7, 7, dtype=torch.double)
    positions = [0, 2, 3, 6]
    for i, t in enumerate(positions):
        wide[t, positions] = expected[i]
    close(weight_matrix(space(name, holes).actions, holes, row=1), wide)


# --- MPO 1: K = 1 is the token -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"future": 0.4}, {"tail": "truncate"}, {"joint": True}, {"beta": (1.0,)}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_k_one_is_the_token_to_the_last_bit(options, dtype):
    delta = draw(AWKWARD, 0).to(dtype)
    window = WindowActions(1, **options)
    assert torch.equal(window.log_ratio(delta, AWKWARD), TokenActions().log_ratio(delta, AWKWARD))
    assert torch.equal(window.credit(delta, AWKWARD), TokenActions().credit(delta, AWKWARD))


# --- MPO 2: one disjoint block over the whole response has GSPO's ratio -------------------------------------------


@given(masks(), seeds, st.integers(0, 3))
def test_one_block_is_the_sequence(mask, seed, extra):
    delta = poison(draw(mask, seed), mask)
    for blocks in (mask.shape[1] + extra, sequence_block(mask)):
        close(BlockActions(blocks).log_ratio(delta, mask), SequenceActions().log_ratio(delta, mask))
        close(BlockActions(blocks).credit(delta, mask), SequenceActions().credit(delta, mask))
        close(BlockActions(blocks).weight(mask), SequenceActions().weight(mask))
    for blocks in (1, token_blocks(mask)):
        close(BlockActions(blocks).log_ratio(delta, mask), TokenActions().log_ratio(delta, mask))
        close(BlockActions(blocks).weight(mask), TokenActions().weight(mask))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_ids_made_from_a_wider_mask_count_kept_tokens_only(reduce):
    "A mask that drops tokens afterwards (whole blocks too): what is dropped leaves its block."
    wide = fixed_blocks(torch.ones(1, 8), 2)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1]])
    x = torch.tensor([[1.0, ref.NAN, 2, 4, ref.NAN, ref.NAN, 8, 16]])
    expected = [[1.0, 0, 3, 3, 0, 0, 12, 12]] if reduce == "mean" else [[1.0, 0, 6, 6, 0, 0, 24, 24]]
    actions = BlockActions(wide, reduce)
    assert actions.log_ratio(x, mask).tolist() == actions.credit(x, mask).tolist() == expected
    assert actions.weight(mask).tolist() == [[1, 0, 0.5, 0.5, 0, 0, 0.5, 0.5]]


# --- MPO 3: joint, geometric and on-policy ratios -----------------------------------------------------------------


@given(masks(), seeds, st.integers(1, 10))
def test_joint_ratio_is_the_product_and_uniform_weights_its_root(mask, seed, k):
    delta = draw(mask, seed)
    joint = WindowActions(k, joint=True).log_ratio(delta, mask).exp()
    uniform = (1 / k,) * k
    truncated = WindowActions(k, beta=uniform, tail="truncate").log_ratio(delta, mask).exp()
    rescaled = WindowActions(k, beta=uniform).log_ratio(delta, mask).exp()
    for b, positions in enumerate(ref.kept(mask)):
        for i, t in enumerate(positions):
            terms = [math.exp(float(delta[b, s])) for s in positions[i : i + k]]
            assert joint[b, t].item() == pytest.approx(math.prod(terms), rel=1e-10)
            assert truncated[b, t].item() == pytest.approx(math.prod(terms) ** (1 / k), rel=1e-10)
            assert rescaled[b, t].item() == pytest.approx(math.prod(terms) ** (1 / len(terms)), rel=1e-10)


@pytest.mark.parametrize("name", SPACES)
def test_ratios_are_exactly_one_on_policy(name):
    assert torch.equal(
        space(name, AWKWARD).actions.log_ratio(torch.zeros(AWKWARD.shape), AWKWARD), torch.zeros(AWKWARD.shape)
    )


# --- MPO 4: what token j receives on-policy from windows that all pull with A ------------------------------------


@given(masks(max_tokens=12), seeds, st.integers(2, 6), st.floats(0.05, 0.6))
def test_on_policy_credit_is_a_except_at_the_edges(mask, seed, k, future):
    A = float(draw(torch.ones(1, 1), seed))
    beta = window_beta(k, future)
    truncated = WindowActions(k, future, tail="truncate").credit(torch.full(mask.shape, A, dtype=torch.double), mask)
    rescaled = WindowActions(k, future).credit(torch.full(mask.shape, A, dtype=torch.double), mask)
    for b, positions in enumerate(ref.kept(mask)):
        for j, t in enumerate(positions, start=1):
            assert truncated[b, t].item() == pytest.approx(A * sum(beta[: min(j, k)]), abs=1e-12)
            if j <= len(positions) - (k - 1):
                assert rescaled[b, t].item() == pytest.approx(truncated[b, t].item(), abs=1e-12)
            if k <= j <= len(positions) - (k - 1):
                assert rescaled[b, t].item() == pytest.approx(A, abs=1e-12)
        # Rescaled windows still hand out exactly A each.
        assert rescaled[b][mask[b].bool()].sum().item() == pytest.approx(A * len(positions), abs=1e-10)


# --- MPO 5: how far log-ratios spread ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "window, factor",
    [
        (WindowActions(4, beta=(0.25,) * 4), 1 / 2),
        (WindowActions(9, beta=(1 / 9,) * 9), 1 / 3),
        (WindowActions(4, joint=True), 2.0),
        (WindowActions(9, joint=True), 3.0),
        (WindowActions(4, 0.3), math.sqrt(0.7**2 + 3 * 0.1**2)),
        (WindowActions(3, beta=(0.5, 0.0, 0.5)), math.sqrt(0.5)),
    ],
)
def test_spread_of_window_log_ratios(window, factor):
    inside = weight_matrix(window, torch.ones(1, 24))[: 24 - window.k + 1]
    close(inside.square().sum(1).sqrt(), torch.full((len(inside),), factor, dtype=torch.double))
    sigma = 0.2
    delta = 0.2 * torch.randn(400, 200, generator=generator(0), dtype=torch.double)
    measured = window.log_ratio(delta, torch.ones(400, 200))[:, : 200 - window.k + 1].std().item()
    assert measured == pytest.approx(sigma * factor, rel=0.03)


# --- windows whose fast path could go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "k, options, beta, tail",
    [
        (64, {"future": 0.5}, (0.5,) + (0.5 / 63,) * 63, "renormalise"),
        (64, {"joint": True}, (1.0,) * 64, "truncate"),
        (33, {"beta": tuple((i + 1) / 561 for i in range(33))}, tuple((i + 1) / 561 for i in range(33)), "renormalise"),
        (500, {"future": 0.5, "tail": "truncate"}, (0.5,) + (0.5 / 499,) * 499, "truncate"),
    ],
)
@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_long_windows_lose_no_precision(k, options, beta, tail, dtype, tol):
    mask = (torch.rand(2, 300, generator=generator(3)) < 0.8).long()
    mask[1] = 1
    delta = draw(mask, 4) + 5.0  # a constant offset is where differences of prefix sums would lose digits
    expected = ref.place(
        mask,
        [[float(v) for v in ref.window_ratio([float(d) for d in row], beta, tail)] for row in ref.gather(delta, mask)],
    )
    out = WindowActions(k, **options).log_ratio(delta.to(dtype), mask)
    assert out.dtype == dtype
    close(out.double(), expected, tol=tol)


@pytest.mark.parametrize(
    "window",
    [
        WindowActions(3, 0.3),
        WindowActions(3, joint=True),
        WindowActions(3, beta=(0.5, 0.3, 0.2)),
        WindowActions(3, beta=(1 / 3,) * 3),
    ],
)
def test_an_infinite_log_ratio_spoils_its_own_windows_only(window):
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]])
    delta = torch.zeros(1, 8)
    delta[0, 4] = -math.inf  # windows that start at positions 1, 2 and 4 hold it
    out = window.log_ratio(delta, mask)
    assert torch.isinf(out[0, [1, 2, 4]]).all() and torch.equal(out[0, [0, 3, 5, 6, 7]], torch.zeros(5))


# --- blocks: sums by stretches, across holes, and by ids -----------------------------------------------------------


def long_masks():
    "Rows of random lengths without holes, and the same with holes, left padding, one token, and none."
    g = generator(5)
    padded = torch.arange(203) < torch.tensor([203, 150, 37, 1, 0, 8])[:, None]
    holes = padded & (torch.rand(padded.shape, generator=g) < 0.8)
    holes[1, :60] = False
    return {"padded": padded, "holes": holes}


def random_ids(mask, seed):
    "A block ends with each token with probability 1/9."
    return blocks_from_ends(torch.rand(mask.shape, generator=generator(seed)) < 1 / 9, mask)


def looped(x, ids, reduce):
    "Each block's mean or sum, one token at a time."
    out = torch.zeros_like(x)
    for b in range(len(ids)):
        for block in set(ids[b].tolist()) - {-1}:
            places = [t for t in range(ids.shape[1]) if ids[b, t] == block]
            total = sum(float(x[b, t]) for t in places)
            for t in places:
                out[b, t] = total / (len(places) if reduce == "mean" else 1)
    return out


@pytest.mark.parametrize("kind", ["padded", "holes"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("k", [1, 2, 7, 8, 9, 40, 202, 500, "ids", "ids of a wider mask"])
def test_long_rows_of_blocks_are_the_loops(kind, reduce, k):
    "Values, gradients and credit; W is symmetric, so all three are one map."
    mask = long_masks()[kind]
    blocks = k
    if isinstance(k, str):
        blocks = random_ids(mask if k == "ids" else torch.ones_like(mask), 6)
    ids = fixed_blocks(mask, k) if isinstance(k, int) else torch.where(mask, blocks, -1)
    actions = BlockActions(blocks, reduce)
    delta, pull = draw(mask, 7), draw(mask, 8)
    x = leaf(poison(delta, mask))
    out = actions.log_ratio(x, mask)
    tolerance = 1e-12 if reduce == "mean" else 1e-11
    close(out, looped(torch.where(mask, delta, 0), ids, reduce), tol=tolerance)
    expected = looped(torch.where(mask, pull, 0), ids, reduce)
    close(torch.autograd.grad((out * pull).sum(), x)[0], expected, tol=tolerance)
    close(actions.credit(poison(pull, mask), mask), expected, tol=tolerance)


@pytest.mark.parametrize("kind", ["padded", "holes"])
@pytest.mark.parametrize("k", [4, 32, "ids"])
def test_sums_over_4096_large_values_are_as_good_as_a_plain_sum_in_float32(kind, k):
    "A plain sum of n terms is off by at most n eps times their sizes; a difference of prefix sums is off by more."
    T = 4096
    mask = torch.ones(2, T, dtype=torch.bool)
    if kind == "holes":
        mask &= torch.rand(2, T, generator=generator(9)) < 0.9
    x = 1e4 + torch.randn(2, T, generator=generator(10))  # float32
    x[:, ::97] *= -1e3
    ids = fixed_blocks(mask, k) if isinstance(k, int) else random_ids(mask, 11)
    actions = BlockActions(k if isinstance(k, int) else ids, "sum")
    exact = spread(block_sum(x.double(), ids), ids)
    size = spread(block_sum(x.double().abs(), ids), ids)  # of the terms
    count = spread(block_sizes(ids), ids)
    bound = count * torch.finfo(torch.float32).eps * size
    for found in (actions.log_ratio(x, mask), actions.credit(x, mask)):
        assert ((found.double() - exact).abs() <= bound).all()
    prefix = torch.where(mask, x, 0).cumsum(1)
    last = block_ends(ids)
    before = torch.cat([prefix.new_zeros(2, 1), prefix[:, :-1]], 1)
    first = mask & (place_in_block(ids) == 0)
    for b in range(2):
        by_difference = prefix[b, last[b]] - before[b, first[b]]
        off = (by_difference.double() - exact[b, last[b]]).abs() > bound[b, last[b]]
        assert off.any(), "this test cannot tell the two apart"


def place_in_block(ids):
    "0, 1, ... along the tokens of each block, whose ids do not fall along a row."
    place = torch.zeros_like(ids)
    for b in range(len(ids)):
        seen = {}
        for t, block in enumerate(ids[b].tolist()):
            place[b, t] = seen.get(block, 0)
            seen[block] = seen.get(block, 0) + 1
    return place


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("hole", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_an_infinite_log_ratio_spoils_its_own_block_only(reduce, hole, given):
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[0, 2] = not hole
    ids = fixed_blocks(mask, 3)
    delta = torch.zeros(1, 12)
    delta[0, 7] = -math.inf
    out = BlockActions(ids if given else 3, reduce).log_ratio(delta, mask)
    assert torch.equal(out.isinf(), mask & (ids == ids[0, 7])) and not out.isnan().any()


@pytest.mark.parametrize("T", [1, 2])
def test_a_window_whose_first_weights_are_zero(T):
    "Only the third token counts, and a short response has none: log-ratio 0, no pull."
    late = WindowActions(3, beta=(0.0, 0.0, 1.0), tail="truncate")
    ones = torch.ones(1, T)
    assert torch.equal(late.log_ratio(ones, ones), torch.zeros(1, T)) and torch.equal(
        late.credit(ones, ones), torch.zeros(1, T)
    )
    assert late.log_ratio(torch.arange(4.0)[None], torch.ones(1, 4)).tolist() == [[2, 3, 0, 0]]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_empty_batches(name, shape):
    mask = torch.ones(shape)
    actions = space(name, torch.ones(shape)).actions
    assert actions.log_ratio(torch.ones(shape), mask).shape == shape
    assert actions.credit(torch.ones(shape), mask).shape == shape
    assert actions.weight(mask).shape == shape


def test_window_beta():
    assert window_beta(1, 0.7) == (1.0,)
    assert window_beta(5, 0.2) == pytest.approx((0.8, 0.05, 0.05, 0.05, 0.05))
    assert sum(window_beta(7, 0.99)) == pytest.approx(1) and window_beta(3, 0.0) == (1, 0, 0)


def test_spaces_are_values():
    assert WindowActions(4, 0.2) == WindowActions(4, 0.2) != WindowActions(4, 0.3) and TokenActions() == TokenActions()
    assert len({WindowActions(2, beta=[0.5, 0.5]), WindowActions(2, beta=(0.5, 0.5))}) == 1
    with pytest.raises(AttributeError):
        WindowActions(4).k = 5


def test_a_new_action_space_needs_two_methods():
    "Nothing else in the library knows about granularity: the token before this one as the action."

    class Previous(ActionSpace):
        def log_ratio(self, delta, mask):
            return torch.cat([torch.zeros_like(delta[:, :1]), delta[:, :-1]], 1)

        def credit(self, weight, mask):
            return torch.cat([weight[:, 1:], torch.zeros_like(weight[:, :1])], 1)

    assert weight_matrix(Previous(), torch.ones(1, 3)).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert torch.equal(Previous().weight(torch.ones(1, 3)), torch.ones(1, 3, dtype=torch.double))
    assert TokenGradient(Previous()).log_ratio(torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)).tolist() == [
        [0, 1, 2]
    ]


MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
WRONG = torch.zeros(2, 4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: WindowActions(0), ["k=0", "at least 1"]),
        (lambda: WindowActions(-1), ["k=-1", "at least 1"]),
        (lambda: WindowActions(2.5), ["k=2.5", "whole number"]),
        (lambda: WindowActions(True), ["k=True", "whole number"]),
        (lambda: WindowActions(0, beta=()), ["k=0", "at least 1"]),
        (lambda: WindowActions(3, future=1.0), ["future=1.0", "[0, 1)"]),
        (lambda: WindowActions(3, future=-0.1), ["future=-0.1", "[0, 1)"]),
        (lambda: WindowActions(3, future=ref.NAN), ["future=nan", "[0, 1)"]),
        (lambda: WindowActions(3, beta=(0.5, 0.5)), ["beta", "2 weights", "k=3", "one weight per token"]),
        (lambda: WindowActions(2, beta=(0.5, 0.6)), ["beta=(0.5, 0.6)", "1.1", "sum to 1"]),
        (lambda: WindowActions(2, beta=(1.5, -0.5)), ["beta=(1.5, -0.5)", ">= 0"]),
        (lambda: WindowActions(2, beta=(ref.NAN, 1.0)), ["beta=(nan, 1.0)", ">= 0"]),
        (lambda: WindowActions(2, beta=(1.0, ref.NAN)), ["beta=(1.0, nan)", ">= 0"]),
        (lambda: WindowActions(2, beta=(0.0, 1.0)), ["beta[0]=0", "tail='truncate'"]),
        (lambda: WindowActions(2, beta=(0.5, 0.5), joint=True), ["beta", "joint", "one of them"]),
        (lambda: WindowActions(2, tail="drop"), ["tail='drop'", "renormalise", "truncate"]),
        (lambda: window_beta(2, 1.5), ["future=1.5", "[0, 1)"]),
        (lambda: BlockActions(0), ["blocks=0", "at least 1"]),
        (lambda: BlockActions(2, "max"), ["reduce='max'", "mean", "sum"]),
        (lambda: BlockActions(torch.zeros(3, dtype=torch.long)), ["blocks", "(3,)", "(B, T)"]),
        (lambda: BlockActions(torch.zeros(2, 3)), ["blocks", "float32", "whole numbers"]),
        (
            lambda: BlockActions(torch.full((2, 3), -1)).log_ratio(torch.zeros(2, 3), MASK),
            ["blocks", "-1", "same mask"],
        ),
        (
            lambda: BlockActions(fixed_blocks(torch.ones(2, 4), 2)).log_ratio(torch.zeros(2, 3), MASK),
            ["blocks", "(2, 4)", "(2, 3)"],
        ),
        (lambda: TokenActions().log_ratio(WRONG, MASK), ["delta", "(2, 4)", "(2, 3)"]),
        (lambda: TokenActions().credit(WRONG, MASK), ["weight", "(2, 4)", "(2, 3)"]),
        (lambda: WindowActions(2).log_ratio(WRONG, MASK), ["delta", "(2, 4)", "(2, 3)"]),
        (lambda: WindowActions(2).credit(WRONG, MASK), ["weight", "(2, 4)", "(2, 3)"]),
        (lambda: BlockActions(2).log_ratio(WRONG, MASK), ["delta", "(2, 4)", "(2, 3)"]),
        (lambda: BlockActions(2).credit(WRONG, MASK), ["weight", "(2, 4)", "(2, 3)"]),
        (lambda: SequenceActions().log_ratio(WRONG, MASK), ["delta", "(2, 4)", "(2, 3)"]),
        (lambda: SequenceActions().credit(WRONG, MASK), ["weight", "(2, 4)", "(2, 3)"]),
        (lambda: TokenGradient(SequenceActions()).credit(WRONG, MASK), ["weight", "(2, 4)", "(2, 3)"]),
        (lambda: TokenActions().weight(torch.ones(3)), ["mask", "(3,)", "(B, T)"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
