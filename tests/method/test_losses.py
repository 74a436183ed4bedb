"""The policy loss against loops: value, gradient and credit for every action space, surrogate and aggregate; limits;
micro-batches."""

import math

import pytest
import reference as ref
import torch
from batches import (
    AWKWARD,
    SPACES,
    close,
    draw_batch,
    generator,
    leaf,
    loss_and_grad,
    masks,
    poison,
    seeds,
    space,
    with_ids,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, WindowActions, weight_matrix, window_beta
from mpo_nb.losses import (
    aggregate_tokens,
    aggregates,
    entropy_bonus,
    kl_penalty,
    loss_normalizer,
    policy_loss,
    surrogates,
)

LONGEST = 16  # L_max, for Dr. GRPO's aggregate
CLIPS = {"ppo": (0.2, 0.28), "cispo": (0.4, 0.3), "gmpo": (0.25, 0.2), "none": (0.2, 0.2)}


def against_the_loop(s, mask, seed, surrogate, aggregate, per_token, clip=None, dual_clip=None):
    "Loss, gradient, and credit of one combination equal the loop's."
    new, old, A = draw_batch(mask, seed, per_token=per_token)
    options = dict(
        surrogate=surrogate, clip=clip or CLIPS[surrogate], aggregate=aggregate, dual_clip=dual_clip, max_length=LONGEST
    )
    x = leaf(new)
    y = leaf(new)
    out = policy_loss(x, old, A, mask, s.actions, **options)
    expected = ref.loss(y, old, A, mask, s.to_log_ratio, s.members, **options)
    grad = torch.autograd.grad(out.loss, x)[0]
    wanted = torch.autograd.grad(expected, y)[0]
    masked = ~mask.bool()
    wanted[masked] = 0  # of a loop over kept tokens it can only be the 0 that joins the graph
    close(out.loss, expected)
    close(grad, wanted)
    close(out.credit, -grad)
    for name, x in (("gradient", grad), ("credit", out.credit), ("ratio - 1", out.ratio - 1), ("clipped", out.clipped)):
        assert not x[masked].any(), f"{name} is not 0 under mask 0"
        assert torch.isfinite(x).all(), name


@pytest.mark.parametrize("surrogate", surrogates)
@pytest.mark.parametrize("name", SPACES)
def test_every_combination(name, surrogate):
    for n, aggregate in enumerate(aggregates):
        against_the_loop(space(name, AWKWARD), AWKWARD, n, surrogate, aggregate, per_token=n % 2 == 0)


@given(
    masks(),
    seeds,
    st.sampled_from(SPACES),
    st.sampled_from(sorted(surrogates)),
    st.sampled_from(aggregates),
    st.booleans(),
)
@settings(max_examples=200)
def test_any_combination_on_any_mask(mask, seed, name, surrogate, aggregate, per_token):
    against_the_loop(space(name, mask), mask, seed, surrogate, aggregate, per_token)


@given(
    masks(),
    seeds,
    st.sampled_from(SPACES),
    st.sampled_from([(0.0, 0.0), (0.1, 0.5), (1.0, math.inf)]),
    st.sampled_from([1.6, 3.0]),
)
def test_dual_clip_and_unusual_ranges(mask, seed, name, clip, dual_clip):
    s = space(name, mask)
    for surrogate in ("ppo", "cispo", "gmpo"):
        against_the_loop(s, mask, seed, surrogate, "token-mean", True, clip=clip)
    if dual_clip > 1 + clip[1]:
        against_the_loop(s, mask, seed, "ppo", "token-mean", True, clip=clip, dual_clip=dual_clip)


# --- by hand -----------------------------------------------------------------------------------------------------


def one(ratio, A, **options):
    "Objective and its derivative in log pi for a single token."
    value, grad = loss_and_grad(
        lambda x: (
            policy_loss(x, torch.zeros(1, 1).double(), torch.tensor([A]).double(), torch.ones(1, 1), **options).loss
        ),
        torch.tensor([[math.log(ratio)]], dtype=torch.double),
    )
    return pytest.approx((-value.item(), -grad.item()), abs=1e-12)


def test_ppo_by_hand():
    assert one(1.1, 2.0) == (2.2, 2.2)  # inside the range: r A, and d(r A)/d log pi = r A
    assert one(1.5, 2.0) == (2.4, 0.0)  # high enough already
    assert one(0.5, 2.0) == (1.0, 1.0)  # a good token that lost probability still pulls
    assert one(0.5, -2.0) == (-1.6, 0.0)  # low enough already
    assert one(1.5, -2.0) == (-3.0, -3.0)
    assert one(1.25, 2.0, clip=(0.2, 0.28)) == (2.5, 2.5) and one(1.3, 2.0, clip=(0.2, 0.28)) == (2.56, 0.0)
    assert one(5.0, -2.0, dual_clip=3.0) == (-6.0, 0.0) and one(2.5, -2.0, dual_clip=3.0) == (-5.0, -5.0)
    assert one(5.0, 2.0, dual_clip=3.0) == (2.4, 0.0)


def test_cispo_by_hand():
    log_pi = math.log(1.5)
    assert one(1.5, 2.0, surrogate="cispo", clip=(1.0, 4.0)) == (1.5 * 2 * log_pi, 3.0)
    assert one(1.5, 2.0, surrogate="cispo", clip=(0.2, 0.2)) == (1.2 * 2 * log_pi, 2.4)  # capped, not cut
    assert one(0.5, -2.0, surrogate="cispo", clip=(0.2, 0.2)) == (-0.8 * 2 * math.log(0.5), -1.6)


def test_gmpo_by_hand():
    delta = torch.tensor([[1.0, -1.0]]).double()
    A = torch.tensor([1.0])
    kept = torch.ones(1, 2)
    gmpo = policy_loss(delta, torch.zeros(1, 2), A, kept, SequenceActions(), (0.4, 0.4), "gmpo")
    assert gmpo.loss.item() == pytest.approx(-math.exp(-0.3))
    assert gmpo.clipped.tolist() == [[True, False]]
    assert policy_loss(
        delta, torch.zeros(1, 2), A, kept, SequenceActions(), (math.inf, math.inf), "gmpo"
    ).loss.item() == pytest.approx(-1)
    worse = policy_loss(delta, torch.zeros(1, 2), -A, kept, SequenceActions(), (0.4, 0.4), "gmpo")
    assert worse.loss.item() == pytest.approx(math.exp(0.3)) and worse.clipped.tolist() == [[False, True]]


# --- MPO 1 to 4 on the loss ----------------------------------------------------------------------------------------


def everything(new, old, A, mask, actions, **options):
    x = leaf(new)
    out = policy_loss(x, old, A, mask, actions, **options)
    return (
        out.loss,
        torch.autograd.grad(out.loss, x)[0],
        out.ratio,
        out.clipped,
        out.credit,
        out.clip_fraction,
        out.approx_kl,
    )


@pytest.mark.parametrize("surrogate", surrogates)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(mask=masks(), seed=seeds, tail=st.sampled_from(["renormalise", "truncate"]))
@settings(max_examples=10)
def test_k_one_is_token_ppo_to_the_last_bit(surrogate, dtype, mask, seed, tail):
    batch = [x.to(dtype) for x in draw_batch(mask, seed)]
    token = everything(*batch, mask, TokenActions(), surrogate=surrogate)
    for actions in (WindowActions(1, tail=tail), WindowActions(1, joint=True), WindowActions(1, future=0.0)):
        for a, b in zip(everything(*batch, mask, actions, surrogate=surrogate), token):
            assert torch.equal(a, b)


@given(masks(), seeds, st.integers(2, 5), st.sampled_from(sorted(surrogates)))
def test_no_future_is_token_level(mask, seed, k, surrogate):
    batch = draw_batch(mask, seed)
    for a, b in zip(
        everything(*batch, mask, WindowActions(k, future=0.0), surrogate=surrogate),
        everything(*batch, mask, TokenActions(), surrogate=surrogate),
    ):
        close(a, b)


@given(masks(), seeds, st.integers(0, 3), st.sampled_from(sorted(surrogates)), st.sampled_from(aggregates))
def test_one_block_is_the_sequence(mask, seed, extra, surrogate, aggregate):
    batch = draw_batch(mask, seed)
    options = dict(surrogate=surrogate, aggregate=aggregate, max_length=LONGEST)
    block = everything(*batch, mask, BlockActions(mask.shape[1] + extra), **options)
    for a, b in zip(block, everything(*batch, mask, SequenceActions(), **options)):
        close(a, b)


@pytest.mark.parametrize("surrogate", ["ppo", "gmpo", "none"])
@pytest.mark.parametrize("name", SPACES)
def test_on_policy_the_loss_is_minus_the_mean_advantage(name, surrogate):
    _, old, A = draw_batch(AWKWARD, 0)
    out = policy_loss(old, old, A, AWKWARD, space(name, AWKWARD).actions, surrogate=surrogate)
    assert torch.equal(out.ratio, torch.ones(AWKWARD.shape, dtype=torch.double)) and not out.clipped.any()
    assert out.approx_kl == 0 and out.clip_fraction == 0
    close(out.loss, -A[AWKWARD.bool()].mean())


@given(masks(max_tokens=12), seeds, st.integers(2, 5), st.floats(0.05, 0.6))
def test_on_policy_windows_give_token_j_the_first_betas(mask, seed, k, future):
    "Constant A: the token-level gradient, times sum_{n <= min(j, K)} beta_n."
    _, old, A = draw_batch(mask, seed, per_token=False)
    grads = [
        loss_and_grad(lambda x, a=a: policy_loss(x, old, A, mask, a).loss, old)[1]
        for a in (TokenActions(), WindowActions(k, future, tail="truncate"))
    ]
    beta = window_beta(k, future)
    shares = ref.place(mask, [[sum(beta[: min(j, k)]) for j in range(1, len(p) + 1)] for p in ref.kept(mask)])
    close(grads[1], grads[0] * shares)


# --- MPO 5: a lower clip fraction at a fixed epsilon is mechanical
# -----------------------------------------------------


@pytest.mark.parametrize("k, joint", [(4, False), (9, False), (4, True)])
def test_clip_fraction_follows_the_spread(k, joint):
    sigma = 0.01
    mask = torch.ones(500, 200)
    g = generator(0)
    delta = sigma * torch.randn(mask.shape, generator=g, dtype=torch.double)
    A = torch.randn(mask.shape, generator=g, dtype=torch.double)
    window = WindowActions(k, joint=True) if joint else WindowActions(k, beta=(1 / k,) * k)

    def share(actions, eps):
        return (
            policy_loss(delta, torch.zeros_like(delta), A, mask, actions, clip=(eps, eps))
            .clipped[:, : 200 - k + 1]
            .double()
            .mean()
            .item()
        )

    factor = weight_matrix(window, torch.ones(1, 20))[0].square().sum().sqrt().item()
    assert factor == pytest.approx(math.sqrt(k) if joint else 1 / math.sqrt(k))

    def tail(z):
        return math.erfc(z / math.sqrt(2)) / 2  # half of both sides: A has either sign

    assert share(TokenActions(), sigma) == pytest.approx(tail(1), abs=0.005)
    assert share(window, sigma) == pytest.approx(tail(1 / factor), abs=0.005)  # lower (or higher) at the same epsilon
    assert share(window, sigma * factor) == pytest.approx(tail(1), abs=0.005)  # the same at a matched one


# --- limits of the surrogates --------------------------------------------------------------------------------------


@given(masks(), seeds, st.sampled_from(SPACES))
def test_without_bounds_ppo_and_gmpo_are_the_plain_ratio(mask, seed, name):
    batch = draw_batch(mask, seed)
    actions = space(name, mask).actions
    plain = everything(*batch, mask, actions, surrogate="none", clip=(0.0, 0.0))  # "none" reads no clip range
    for surrogate, clip in (("ppo", (1.0, math.inf)), ("gmpo", (math.inf, math.inf))):
        for a, b in zip(everything(*batch, mask, actions, surrogate=surrogate, clip=clip), plain):
            close(a, b)


@given(masks(), seeds, st.sampled_from(SPACES))
def test_without_bounds_cispo_has_the_plain_gradient(mask, seed, name):
    batch = draw_batch(mask, seed)
    actions = space(name, mask).actions
    plain, cispo = (everything(*batch, mask, actions, surrogate=s, clip=(1.0, math.inf)) for s in ("none", "cispo"))
    for a, b in zip(cispo[1:], plain[1:]):
        close(a, b)


@given(masks(), seeds, st.sampled_from(SPACES))
def test_a_dual_clip_out_of_reach_changes_nothing(mask, seed, name):
    batch = draw_batch(mask, seed)
    actions = space(name, mask).actions
    for a, b in zip(everything(*batch, mask, actions, dual_clip=1e9), everything(*batch, mask, actions)):
        assert torch.equal(a, b)


# --- what is reported
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
@given(mask=masks(), seed=seeds)
@settings(max_examples=10)
def test_ratio_clipped_and_approximate_kl(name, mask, seed):
    s = space(name, mask)
    new, old, A = draw_batch(mask, seed)
    low, high = (0.2, 0.28)
    dual = 1.5
    out = {k: policy_loss(new, old, A, mask, s.actions, (low, high), k) for k in surrogates}
    out["dual"] = policy_loss(new, old, A, mask, s.actions, (low, high), dual_clip=dual)
    delta = [[float(n - o) for n, o in zip(*rows)] for rows in zip(ref.gather(new, mask), ref.gather(old, mask))]
    rows = [[torch.tensor(d, dtype=torch.double) for d in row] for row in delta]
    ratios = [[math.exp(r) for r in f(row)] for f, row in zip(s.to_log_ratio, rows)]
    pairs = [list(zip(rs, [float(a) for a in As], ds)) for rs, As, ds in zip(ratios, ref.gather(A, mask), delta)]
    close(out["ppo"].ratio, torch.where(mask.bool(), ref.place(mask, ratios), 1.0))
    rules = {
        "none": lambda r, a, d: False,
        "cispo": lambda r, a, d: not 1 - low <= r <= 1 + high,
        "ppo": lambda r, a, d: r > 1 + high if a > 0 else r < 1 - low,
        "gmpo": lambda r, a, d: d > high if a > 0 else d < -low,
        "dual": lambda r, a, d: r > 1 + high if a > 0 else r < 1 - low or r > dual,
    }
    n = max(1, sum(len(row) for row in delta))
    for surrogate, rule in rules.items():
        expected = [[int(rule(*p)) for p in row] for row in pairs]
        assert torch.equal(out[surrogate].clipped, ref.place(mask, expected).bool()), surrogate
        assert out[surrogate].clip_fraction.item() == pytest.approx(sum(map(sum, expected)) / n)
        assert out[surrogate].approx_kl.item() == pytest.approx(
            sum(math.exp(d) - 1 - d for row in delta for d in row) / n, abs=1e-12
        )


@pytest.mark.parametrize("surrogate", surrogates)
def test_only_the_loss_carries_a_graph(surrogate):
    "What is logged would otherwise keep every step's activations alive."
    new, old, A = draw_batch(AWKWARD, 0)
    out = policy_loss(leaf(new), old, A, AWKWARD, WindowActions(3), surrogate=surrogate)
    assert out.loss.requires_grad
    assert not any(x.requires_grad for x in (out.ratio, out.clipped, out.credit, out.clip_fraction, out.approx_kl))


@pytest.mark.parametrize("surrogate", surrogates)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_keeps_the_dtype_of_the_log_probabilities(surrogate, dtype):
    new, old, A = draw_batch(AWKWARD, 0)
    x = leaf(new.to(dtype))
    out = policy_loss(x, old, A, AWKWARD, WindowActions(3), surrogate=surrogate)
    assert out.loss.dtype == out.ratio.dtype == out.credit.dtype == torch.autograd.grad(out.loss, x)[0].dtype == dtype
    assert torch.isfinite(out.loss)


@pytest.mark.parametrize("surrogate", surrogates)
@pytest.mark.parametrize("where", ["logps", "old_logps", "advantages"])
def test_a_nan_on_a_kept_token_is_not_hidden(surrogate, where):
    "Values under mask 0 are ignored; one under mask 1 must reach the loss, so that the trainer can stop."
    batch = dict(zip(("logps", "old_logps", "advantages"), draw_batch(AWKWARD, 1)))
    batch[where][1, 3] = ref.NAN
    assert AWKWARD[1, 3] and policy_loss(**batch, mask=AWKWARD, surrogate=surrogate).loss.isnan()


@pytest.mark.parametrize("aggregate", aggregates)
@pytest.mark.parametrize("name", ["token", "window-4", "block-2", "block-ids", "sequence", "sequence-token"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3), (0, 0)])
def test_a_batch_without_tokens_has_loss_zero(name, aggregate, shape):
    mask = torch.zeros(shape)
    nan = poison(torch.zeros(shape), mask)
    x = leaf(nan)
    out = policy_loss(x, nan, nan, mask, space(name, mask).actions, aggregate=aggregate, max_length=4)
    assert out.loss == 0 and out.clip_fraction == 0 and out.approx_kl == 0
    assert torch.equal(torch.autograd.grad(out.loss, x)[0], torch.zeros(shape)) and torch.equal(
        out.credit, torch.zeros(shape)
    )


@pytest.mark.parametrize("surrogate", surrogates)
@pytest.mark.parametrize("name", SPACES)
def test_padding_and_order_of_rows_change_nothing(name, surrogate):
    new, old, A = draw_batch(AWKWARD, 2, per_token=False)

    def run(rows, left, right):
        def wide(x, fill):
            return torch.nn.functional.pad(x[rows], (left, right), value=fill)

        mask = wide(AWKWARD, 0)
        actions = with_ids(space(name, AWKWARD).actions, lambda ids: wide(ids, -1))
        loss, grad = loss_and_grad(
            lambda x: policy_loss(x, wide(old, ref.NAN), A[rows], mask, actions, surrogate=surrogate).loss,
            wide(new, ref.NAN),
        )
        return loss, grad[torch.tensor(rows).argsort(), left : left + AWKWARD.shape[1]]

    plain = run([0, 1, 2, 3, 4, 5], 0, 0)
    for a, b in zip(run([3, 5, 0, 4, 2, 1], 2, 3), plain):
        close(a, b)


# --- aggregation and micro-batches -----------------------------------------------------------------------------------


@given(masks(), seeds, st.sampled_from(SPACES), st.sampled_from(aggregates))
def test_aggregate_tokens_and_its_denominator(mask, seed, name, aggregate):
    s = space(name, mask)
    x = torch.randn(mask.shape, generator=generator(seed), dtype=torch.double)
    rows = [[float(v) for v in row] for row in ref.gather(x, mask)]
    value = aggregate_tokens(poison(x, mask), mask, aggregate, s.actions, LONGEST)
    assert value.item() == pytest.approx(ref.aggregated(rows, aggregate, s.members, LONGEST), abs=1e-12)
    counted = {
        "token-mean": sum(len(row) for row in rows),
        "block-mean": sum(len(actions) for actions in s.members),
        "seq-mean-token-sum-norm": len(mask) * LONGEST,
    }.get(aggregate, len(mask))
    assert loss_normalizer(mask, aggregate, s.actions, LONGEST) == max(1, counted)


@given(
    masks(rows=5),
    seeds,
    st.sampled_from(SPACES),
    st.sampled_from(sorted(surrogates)),
    st.sampled_from(aggregates),
    st.sampled_from([[[0, 1, 2], [3, 4]], [[4], [2, 0], [1, 3]], [[0], [1], [2], [3], [4]]]),
)
@settings(max_examples=100)
def test_micro_batches_add_up_to_the_whole(mask, seed, name, surrogate, aggregate, parts):
    """The whole batch's denominator, parts in any order, each trimmed to its own last column: the same loss and
    gradient."""
    new, old, A = draw_batch(mask, seed)
    s = space(name, mask)
    g = generator(seed + 1)
    ref_logps = poison(-torch.rand(mask.shape, generator=g, dtype=torch.double), mask)
    options = dict(aggregate=aggregate, max_length=LONGEST)

    def total(x, rows, normalizer=None, token_normalizer=None):
        last = 1 + max(max(positions, default=0) for positions in ref.kept(mask[rows]))

        def cut(t):
            return t[rows, :last]

        m = cut(mask)
        actions = with_ids(s.actions, cut)
        policy = policy_loss(
            cut(x), cut(old), cut(A), m, actions, surrogate=surrogate, normalizer=normalizer, **options
        ).loss
        penalty = kl_penalty(cut(x), cut(ref_logps), m, "k3", normalizer=normalizer, actions=actions, **options)
        return (
            policy + 0.3 * penalty - 0.1 * entropy_bonus(torch.where(m.bool(), cut(x), 0.0) ** 2, m, token_normalizer)
        )

    x = leaf(new)
    y = leaf(new)
    whole = total(x, list(range(5)))
    n = loss_normalizer(mask, aggregate, s.actions, LONGEST)
    tokens = loss_normalizer(mask, "token-mean")
    summed = 0.0
    for rows in parts:
        part = total(y, rows, n, tokens)
        part.backward()
        summed += part.item()
    assert summed == pytest.approx(whole.item(), abs=1e-12)
    close(y.grad, torch.autograd.grad(whole, x)[0])


def test_two_micro_batches_by_hand():
    """Lengths 1 and 3, losses 8 and 0 per token: the token mean is 2 = (8 + 0) / 4, the mean of the parts' own means is
    4."""
    x = torch.tensor([[8.0, 0, 0], [0, 0, 0]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    assert aggregate_tokens(x, mask) == 2
    assert sum(aggregate_tokens(x[i : i + 1], mask[i : i + 1], normalizer=4) for i in (0, 1)) == 2
    assert sum(aggregate_tokens(x[i : i + 1], mask[i : i + 1]) for i in (0, 1)) / 2 == 4


# --- the penalties
# ------------------------------------------------------------------------------------------------------


@given(masks(), seeds, st.sampled_from(["k1", "k2", "k3"]), st.sampled_from(aggregates), st.sampled_from(SPACES))
def test_kl_penalty(mask, seed, estimator, aggregate, name):
    new, other, _ = draw_batch(mask, seed)
    s = space(name, mask)
    x = leaf(new)
    y = leaf(new)
    estimators = {
        "k1": lambda l, r: l - r,
        "k2": lambda l, r: (l - r) ** 2 / 2,
        "k3": lambda l, r: torch.exp(r - l) - (r - l) - 1,
    }
    rows = [
        [estimators[estimator](l, r) for l, r in zip(*both)]
        for both in zip(ref.gather(y, mask), ref.gather(other, mask))
    ]
    expected = ref.aggregated(rows, aggregate, s.members, LONGEST) + 0 * torch.where(mask.bool(), y, 0.0).sum()
    value = kl_penalty(x, other, mask, estimator, aggregate, LONGEST, actions=s.actions)
    close(value, expected)
    grad = torch.autograd.grad(value, x)[0]
    close(grad, torch.where(mask.bool(), torch.autograd.grad(expected, y)[0], 0.0))


def test_kl_estimators_in_expectation():
    "Summed over a whole vocabulary: k1 and k3 have the KL as their mean, and k2's gradient is the KL's."
    g = generator(0)
    logits = torch.randn(7, generator=g, dtype=torch.double).requires_grad_()
    other = torch.randn(7, generator=g, dtype=torch.double).log_softmax(0)
    logps = logits.log_softmax(0)
    kl = (logps.exp() * (logps - other)).sum()
    (true_grad,) = torch.autograd.grad(kl, logits, retain_graph=True)
    mean = {}
    grads = {}
    for name in ("k1", "k2", "k3"):
        each = [kl_penalty(logps[None, o : o + 1], other[None, o : o + 1], torch.ones(1, 1), name) for o in range(7)]
        mean[name] = sum(p.item() * v.item() for p, v in zip(logps.exp(), each))
        (grads[name],) = torch.autograd.grad(
            sum(p.item() * v for p, v in zip(logps.exp(), each)), logits, retain_graph=True
        )
        assert name == "k1" or all(v >= 0 for v in each)
    assert (
        mean["k1"] == pytest.approx(kl.item())
        and mean["k3"] == pytest.approx(kl.item())
        and mean["k2"] != pytest.approx(kl.item(), rel=1e-3)
    )
    close(grads["k2"], true_grad)
    close(grads["k1"], torch.zeros(7))


@given(masks(), seeds)
def test_entropy_bonus_is_the_mean_over_kept_tokens(mask, seed):
    entropy = torch.rand(mask.shape, generator=generator(seed), dtype=torch.double)
    x = leaf(poison(entropy, mask))
    value = entropy_bonus(x, mask)
    n = max(1, int(mask.sum()))
    assert value.item() == pytest.approx(sum(float(v) for row in ref.gather(entropy, mask) for v in row) / n)
    close(torch.autograd.grad(value, x)[0], mask.double() / n)


# --- bad input
# ------------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def call(**changes):
    options = dict(logps=torch.zeros(2, 3), old_logps=torch.zeros(2, 3), advantages=torch.zeros(2), mask=MASK) | changes
    return lambda: policy_loss(**options)


@pytest.mark.parametrize(
    "call, words",
    [
        (call(logps=torch.zeros(2, 4)), ["logps", "(2, 4)", "(2, 3)"]),
        (call(logps=torch.zeros(6)), ["logps", "(6,)", "(2, 3)"]),
        (call(old_logps=torch.zeros(1, 3)), ["old_logps", "(1, 3)", "(2, 3)"]),
        (call(mask=torch.ones(3)), ["mask", "(3,)", "(B, T)"]),
        (call(mask=torch.tensor([[1, 1, 2], [1, 0, 0]])), ["mask", "2", "0 and 1"]),
        (call(advantages=torch.zeros(3)), ["advantages", "(3,)", "(2,)", "(2, 3)"]),
        (call(advantages=torch.zeros(2, 1)), ["advantages", "(2, 1)", "one per token"]),
        (call(advantages=torch.tensor(1.0)), ["advantages", "()", "(2,)"]),
        (call(surrogate="reinforce"), ["surrogate='reinforce'", "ppo, cispo, gmpo, none"]),
        (call(aggregate="mean"), ["aggregate='mean'", "token-mean", "block-mean"]),
        (call(aggregate="seq-mean-token-sum-norm"), ["max_length=None", "generation limit"]),
        (call(aggregate="seq-mean-token-sum-norm", max_length=0), ["max_length=0", "generation limit"]),
        (call(clip=(-0.1, 0.2)), ["clip=(-0.1, 0.2)", ">= 0"]),
        (call(clip=(0.2, ref.NAN)), ["clip=(0.2, nan)", ">= 0"]),
        (call(clip=(0.2,)), ["clip=(0.2,)", "(low, high)"]),
        (call(clip=0.2), ["clip=0.2", "(low, high)"]),
        (call(dual_clip=1.2), ["dual_clip=1.2", "1.2", "3.0"]),
        (call(dual_clip=ref.NAN), ["dual_clip=nan", "3.0"]),
        (call(dual_clip=3.0, surrogate="gmpo"), ["dual_clip=3.0", "gmpo", "ppo"]),
        (call(normalizer=0.0), ["normalizer=0.0", "loss_normalizer"]),
        (call(normalizer=ref.NAN), ["normalizer=nan", "loss_normalizer"]),
        (call(actions=BlockActions(torch.zeros(2, 4, dtype=torch.long))), ["blocks", "(2, 4)", "(2, 3)"]),
        (lambda: loss_normalizer(MASK, "sum"), ["aggregate='sum'", "token-mean"]),
        (lambda: aggregate_tokens(torch.zeros(2, 4), MASK), ["x", "(2, 4)", "(2, 3)"]),
        (lambda: kl_penalty(torch.zeros(2, 3), torch.zeros(2, 3), MASK, "k4"), ["estimator='k4'", "k1", "k2", "k3"]),
        (lambda: kl_penalty(torch.zeros(2, 3), torch.zeros(2, 2), MASK), ["ref_logps", "(2, 2)", "(2, 3)"]),
        (lambda: entropy_bonus(torch.zeros(2, 2), MASK), ["entropy", "(2, 2)", "(2, 3)"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
