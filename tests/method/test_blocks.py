"Every rule that splits a response, against a loop over its kept tokens."

import pytest
import reference as ref
import torch
from batches import generator, masks, poison, seeds
from hypothesis import assume, given
from hypothesis import strategies as st

from mpo_nb.blocks import (
    block_ends,
    block_mean,
    block_sizes,
    block_sum,
    blocks_from_starts,
    delimiter_blocks,
    entropy_blocks,
    fixed_blocks,
    perplexity_blocks,
    random_blocks,
    sentence_blocks,
    sequence_block,
    spread,
    surprise_blocks,
    token_blocks,
)

PIECES = [
    "a",
    "step",
    ".",
    "7.",
    "3",
    " 3",
    ".5",
    "３",
    "．",
    ";",
    "x;",
    "。",
    "a。b",
    "\n",
    ";\n",
    "!",
    "?",
    ":",
    " .",
    ". ",
    "",
    "…",
    "，",
    "！",
    "？",
    "；",
    "：",
]


def same(ids, mask, rows):
    "Equal to the loop's ids, with every property that the contract promises."
    assert ids.dtype == torch.long and ids.shape == mask.shape
    assert torch.equal(ids, ref.place(mask, rows, fill=-1))
    assert torch.equal(ids >= 0, mask.bool())
    for row in ref.gather(ids, mask):
        numbers = [int(i) for i in row]
        assert numbers[:1] in ([], [0]) and all(b - a in (0, 1) for a, b in zip(numbers, numbers[1:]))


def counts(mask):
    return [len(p) for p in ref.kept(mask)]


@given(masks(), st.integers(1, 12))
def test_token_sequence_and_fixed_blocks(mask, k):
    same(token_blocks(mask), mask, [list(range(n)) for n in counts(mask)])
    same(sequence_block(mask), mask, [[0] * n for n in counts(mask)])
    same(fixed_blocks(mask, k), mask, [ref.fixed(n, k) for n in counts(mask)])
    assert torch.equal(fixed_blocks(mask, 1), token_blocks(mask))
    assert torch.equal(fixed_blocks(mask, mask.shape[1] + 3), sequence_block(mask))


def test_fixed_blocks_skips_holes_by_hand():
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0]])
    assert fixed_blocks(mask, 2).tolist() == [[-1, 0, 0, -1, 1, 1, 2, -1]]


@given(masks(), seeds)
def test_blocks_from_starts(mask, seed):
    starts = torch.rand(mask.shape, generator=generator(seed)) < 0.4
    same(
        blocks_from_starts(starts, mask), mask, [ref.opened([bool(s) for s in row]) for row in ref.gather(starts, mask)]
    )


@given(masks(), seeds, st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_random_blocks_have_the_sizes_asked_for(mask, seed, sizes):
    ids = random_blocks(mask, sizes, generator(seed))
    assert torch.equal(ids >= 0, mask.bool())
    for row in ref.gather(ids, mask):
        found = [len(block) for block in ref.members([int(i) for i in row])]
        assert all(size in sizes for size in found[:-1]) and all(size <= max(sizes) for size in found[-1:])
    assert torch.equal(ids, random_blocks(mask, sizes, generator(seed)))


def test_random_blocks_draw_every_size_about_equally_often():
    ids = random_blocks(torch.ones(8, 4000), (1, 2, 5), generator(0))
    sizes = torch.cat([row[row > 0][:-1] for row in block_sizes(ids)])
    shares = [(sizes == s).double().mean().item() for s in (1, 2, 5)]
    assert sum(shares) == pytest.approx(1) and all(abs(share - 1 / 3) < 0.02 for share in shares)  # 7 standard errors
    assert not torch.equal(ids, random_blocks(torch.ones(8, 4000), (1, 2, 5), generator(1)))
    assert not torch.equal(ids[0], ids[1])


@given(masks(), st.data())
def test_delimiter_and_sentence_blocks(mask, data):
    T = mask.shape[1]
    tokens = [data.draw(st.lists(st.sampled_from(PIECES), min_size=T, max_size=T)) for _ in range(len(mask))]
    kept_texts = [[tokens[b][t] for t in positions] for b, positions in enumerate(ref.kept(mask))]
    same(sentence_blocks(mask, tokens), mask, [ref.sentences(row) for row in kept_texts])
    same(delimiter_blocks(mask, tokens, [";", "step"]), mask, [ref.delimited(row, [";", "step"]) for row in kept_texts])
    same(delimiter_blocks(mask, tokens, ";\n"), mask, [ref.delimited(row, [";\n"]) for row in kept_texts])


@pytest.mark.parametrize(
    "tokens, ids",
    [
        (["3", ".", "5"], [0, 0, 0]),  # a decimal point between digits ends nothing
        (["3.", "5"], [0, 0]),
        (["3", "", ".", "", "5", "."], [0] * 6),  # tokens without a text are looked through
        (["３", "．", "５", "。", "4"], [0, 0, 0, 0, 1]),
        (["3", ".", " 5"], [0, 0, 1]),
        (["3", ".", "\n", "5"], [0, 0, 1, 2]),
        (["v", ".", "5"], [0, 0, 1]),
        ([".", "5"], [0, 1]),
        (["3", ":", "5"], [0, 0, 1]),  # only points are decimal
        (["3", "."], [0, 0]),
        (["x=3.5", ".", "Then"], [0, 0, 1]),
    ],
)
def test_a_decimal_point_ends_no_sentence(tokens, ids):
    assert sentence_blocks(torch.ones(1, len(tokens)), [tokens]).tolist() == [ids]


def test_a_number_across_a_tools_reply():
    "Kept tokens are neighbours; where actions end at a hole, the number ends there too."
    mask, tokens = torch.tensor([[1, 1, 0, 1]]), [["3", ".", "reply", "5"]]
    assert sentence_blocks(mask, tokens).tolist() == [[0, 0, -1, 0]]
    assert sentence_blocks(mask, tokens, "end").tolist() == [[0, 0, -1, 1]]


@given(masks(), seeds, st.integers(1, 3))
def test_sizes_from_one_shuffled_list(mask, seed, repeats):
    "MA-RLHF's code: each size `repeats` times in random order, then one block for all that is left."
    sizes = (1, 2, 3)
    ids = random_blocks(mask, sizes, generator(seed), repeats=repeats)
    assert torch.equal(ids >= 0, mask.bool())
    for row in ref.gather(ids, mask):
        found = [len(block) for block in ref.members([int(i) for i in row])]
        listed = found[: 3 * repeats]
        assert all(listed[:-1].count(size) <= repeats for size in sizes) and set(listed[:-1]) <= set(sizes)
        assert len(found) <= 3 * repeats + 1 and (
            len(found) <= 3 * repeats or sorted(listed) == sorted(sizes * repeats)
        )
        assert sum(found) == len(row)


def test_a_delimiter_under_the_mask_closes_nothing():
    assert delimiter_blocks(torch.tensor([[1, 0, 1]]), [["a", ";", "b"]], ";").tolist() == [[0, -1, 0]]


def test_tokens_need_not_reach_into_the_padding():
    assert sentence_blocks(torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]), [["a.", "b"], []]).tolist() == [
        [0, 1, -1, -1],
        [-1] * 4,
    ]


@given(masks(max_tokens=12), seeds, st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.7, 1.0]), st.booleans())
def test_entropy_blocks(mask, seed, share, ties):
    "Segments end at the ceil(share * T) highest entropies and at the last token; a share of 1 is the token."
    entropy = 2 * torch.rand(mask.shape, generator=generator(seed), dtype=torch.double)
    entropy = poison(entropy.round() if ties else entropy, mask)
    rows = [ref.undecided([float(x) for x in row], share) for row in ref.gather(entropy, mask)]
    same(entropy_blocks(mask, entropy, share), mask, rows)
    assert torch.equal(entropy_blocks(mask, entropy, 1.0), token_blocks(mask))
    ends = block_ends(entropy_blocks(mask, entropy, share))
    for row, positions in zip(ends.tolist(), ref.kept(mask)):
        last = {block[-1] for block in ref.members(rows.pop(0))}
        assert [t for t, end in enumerate(row) if end] == [positions[i] for i in sorted(last)]


@pytest.mark.parametrize("T, share, ends", [(10, 0.7, 7), (10, 0.3, 3), (30, 0.1, 3), (7, 0.3, 3), (1, 0.01, 1)])
def test_a_share_of_tokens_is_rounded_up_once(T, share, ends):
    "0.7 * 10 is a little more than 7 in binary, and still 7 tokens."
    entropy = torch.arange(T, 0, -1.0)[None]
    ids = entropy_blocks(torch.ones(1, T), entropy, share)
    assert len(block_sizes(ids)[0]) == min(ends + 1, T)


def test_entropies_across_a_reply():
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    entropy = torch.tensor([[0.1, 0.2, 9.0, 0.3, 2.0]])
    assert entropy_blocks(mask, entropy, 0.1).tolist() == [[0, 0, -1, 0, 0]]
    assert entropy_blocks(mask, entropy, 0.1, "end").tolist() == [[0, 0, -1, 1, 1]]


@given(masks(), seeds, st.sampled_from([0.3, 0.9, 1.0]), st.integers(1, 4))
def test_surprise_blocks(mask, seed, threshold, interval):
    logps = torch.rand(mask.shape, generator=generator(seed), dtype=torch.double).log() / 2
    rows = [ref.surprising([float(x) for x in row], threshold, interval) for row in ref.gather(logps, mask)]
    same(surprise_blocks(mask, poison(logps, mask), threshold, interval), mask, rows)


def test_surprise_blocks_by_hand():
    p = torch.tensor([[0.99, 0.5, 0.95, 0.5, 0.5, 0.99, 0.5]])
    assert surprise_blocks(torch.ones(1, 7), p.log(), 0.9, 2).tolist() == [[0, 1, 1, 1, 2, 2, 2]]
    assert surprise_blocks(torch.ones(1, 7), p.log(), 0.9, 1).tolist() == [[0, 1, 1, 2, 3, 3, 4]]


@given(masks(), seeds)
def test_perplexity_blocks(mask, seed):
    logps = -3 * torch.rand(mask.shape, generator=generator(seed), dtype=torch.double)
    rows = [ref.perplexing([float(x) for x in row]) for row in ref.gather(logps, mask)]
    same(perplexity_blocks(mask, poison(logps, mask)), mask, rows)


@given(masks(), seeds, st.integers(1, 4))
def test_sizes_sums_means_and_spread(mask, seed, k):
    ids = fixed_blocks(mask, k)
    N = max((-(-n // k) for n in counts(mask)), default=0)
    x = torch.randn(mask.shape, generator=generator(seed), dtype=torch.double)
    sizes, sums, means = (torch.zeros(len(mask), N, dtype=torch.double) for _ in range(3))
    for b, positions in enumerate(ref.kept(mask)):
        for n, block in enumerate(ref.members(ref.fixed(len(positions), k))):
            values = [float(x[b, positions[i]]) for i in block]
            sizes[b, n], sums[b, n], means[b, n] = len(values), sum(values), sum(values) / len(values)
    dirty = poison(x, mask)
    torch.testing.assert_close(block_sizes(ids), sizes.long())
    torch.testing.assert_close(block_sum(dirty, ids), sums)
    torch.testing.assert_close(block_mean(dirty, ids), means)
    expected = [[means[b, i].item() for i in ref.fixed(n, k)] for b, n in enumerate(counts(mask))]
    torch.testing.assert_close(spread(means, ids), ref.place(mask, expected))


@given(masks(), seeds, st.integers(1, 4))
def test_gradients_of_sums_means_and_spread_ignore_what_is_masked(mask, seed, k):
    assume(bool(mask.any()))
    ids = fixed_blocks(mask, k)
    x = poison(torch.randn(mask.shape, generator=generator(seed), dtype=torch.double), mask).requires_grad_()
    pull = torch.randn(block_sizes(ids).shape, generator=generator(seed + 1), dtype=torch.double)
    rows = [[pull[b, i].item() for i in ref.fixed(n, k)] for b, n in enumerate(counts(mask))]
    (grad,) = torch.autograd.grad((block_sum(x, ids) * pull).sum(), x)
    torch.testing.assert_close(grad, ref.place(mask, rows))
    sizes = [[len([i for i in ref.fixed(n, k) if i == j]) for j in ref.fixed(n, k)] for n in counts(mask)]
    (grad,) = torch.autograd.grad((block_mean(x, ids) * pull).sum(), x)
    torch.testing.assert_close(grad, ref.place(mask, [[p / s for p, s in zip(*both)] for both in zip(rows, sizes)]))
    values = pull.clone().requires_grad_()
    (grad,) = torch.autograd.grad((spread(values, ids) ** 2).sum(), values)
    torch.testing.assert_close(grad, 2 * pull * block_sizes(ids))


@given(masks(), seeds)
def test_spread_takes_nothing_from_blocks_that_pad_a_row(mask, seed):
    ids = sequence_block(mask)
    assume(bool(mask.any()))
    values = torch.where(
        mask.any(1, keepdim=True), torch.randn(len(mask), 1, generator=generator(seed)), torch.tensor(ref.NAN)
    )
    assert torch.isfinite(spread(values, ids)).all()
    wider = torch.cat([values, torch.full_like(values, ref.NAN)], 1)  # a table with more blocks than these rows have
    assert torch.equal(spread(wider, ids), spread(values, ids))


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0, 0), (2, 3)])
def test_nothing_kept_gives_empty_tables(shape):
    mask = torch.zeros(shape, dtype=torch.long)
    x = torch.full(shape, ref.NAN)
    texts = [[""] * shape[1]] * shape[0]
    for ids in (
        token_blocks(mask),
        sequence_block(mask),
        fixed_blocks(mask, 3),
        random_blocks(mask),
        sentence_blocks(mask, texts),
        surprise_blocks(mask, x),
        perplexity_blocks(mask, x),
        blocks_from_starts(mask.bool(), mask),
    ):
        assert ids.shape == shape and ids.dtype == torch.long and bool((ids == -1).all())
        assert block_sizes(ids).shape == block_sum(x, ids).shape == block_mean(x, ids).shape == (shape[0], 0)
        assert spread(torch.zeros(shape[0], 0), ids).shape == shape


MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: fixed_blocks(MASK, 0), ["k=0", "at least 1"]),
        (lambda: fixed_blocks(MASK, -3), ["k=-3", "at least 1"]),
        (lambda: fixed_blocks(MASK, 2.0), ["k=2.0", "whole number"]),
        (lambda: fixed_blocks(MASK, True), ["k=True", "whole number"]),
        (lambda: random_blocks(MASK, ()), ["sizes=()", "at least one"]),
        (lambda: random_blocks(MASK, (2, 0)), ["sizes=0", "at least 1"]),
        (lambda: token_blocks(torch.ones(3)), ["mask", "(3,)", "(B, T)"]),
        (lambda: token_blocks(torch.ones(1, 2, 3)), ["mask", "(1, 2, 3)", "(B, T)"]),
        (lambda: token_blocks(torch.tensor([[1, 2]])), ["mask", "2", "0 and 1", "pad_id"]),
        (lambda: token_blocks(torch.tensor([[1, -1]])), ["mask", "-1", "0 and 1"]),
        (lambda: token_blocks(torch.tensor([[1.0, ref.NAN]])), ["mask", "nan", "0 and 1"]),
        (lambda: token_blocks(torch.tensor([[1.0, 0.5]])), ["mask", "0.5", "0 and 1"]),
        (lambda: surprise_blocks(MASK, torch.zeros(2, 4)), ["logps", "(2, 4)", "(2, 3)"]),
        (lambda: surprise_blocks(MASK, torch.zeros(2, 3), threshold=0.0), ["threshold=0.0", "(0, 1]"]),
        (lambda: surprise_blocks(MASK, torch.zeros(2, 3), threshold=1.1), ["threshold=1.1", "(0, 1]"]),
        (lambda: surprise_blocks(MASK, torch.zeros(2, 3), threshold=ref.NAN), ["threshold=nan", "(0, 1]"]),
        (lambda: surprise_blocks(MASK, torch.zeros(2, 3), interval=0), ["interval=0", "at least 1"]),
        (lambda: perplexity_blocks(MASK, torch.zeros(3, 3)), ["ref_logps", "(3, 3)", "(2, 3)"]),
        (lambda: blocks_from_starts(torch.zeros(2, 1), MASK), ["starts", "(2, 1)", "(2, 3)"]),
        (lambda: entropy_blocks(MASK, torch.ones(2, 3), 0.0), ["share=0.0", "(0, 1]"]),
        (lambda: entropy_blocks(torch.ones(1, 2), torch.tensor([[1.0, ref.NAN]])), ["entropy is NaN"]),
        (lambda: entropy_blocks(MASK, torch.ones(2, 2)), ["entropy has shape (2, 2)"]),
        (lambda: random_blocks(MASK, repeats=0), ["repeats=0"]),
        (lambda: delimiter_blocks(MASK, [["a"] * 3], ";"), ["tokens", "1 rows", "2"]),
        (lambda: delimiter_blocks(MASK, [["a"], ["a"]], ";"), ["tokens[0]", "1 strings", "position 1"]),
        (lambda: delimiter_blocks(MASK, [["a"] * 3] * 2, ()), ["ends=()", "at least one"]),
        (lambda: delimiter_blocks(MASK, [["a"] * 3] * 2, ""), ["ends=('',)", "at least one"]),
        (lambda: block_sum(torch.zeros(2, 4), token_blocks(MASK)), ["x", "(2, 4)", "(2, 3)"]),
        (lambda: block_mean(torch.zeros(1, 3), token_blocks(MASK)), ["x", "(1, 3)", "(2, 3)"]),
        (lambda: spread(torch.zeros(2, 1), token_blocks(MASK)), ["values", "(2, 1)", "(2, 2)"]),
        (lambda: spread(torch.zeros(3, 2), token_blocks(MASK)), ["values", "(3, 2)", "(2, 2)"]),
        (lambda: spread(torch.zeros(2), token_blocks(MASK)), ["values", "(2,)", "(2, 2)"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
