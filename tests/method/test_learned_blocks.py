"""Blocks that are learnt: byte-pair encoding as tokenizers has it, its two ends to the bit, and codes of hidden states
from vector-quantize-pytorch."""

import math
import random

import pytest
import torch

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions
from mpo_nb.blocks import block_sizes, bpe_blocks, code_blocks, learn_merges, sequence_block, token_blocks
from mpo_nb.losses import policy_loss
from mpo_nb.recipes import LearntBlocks, recipe
from mpo_nb.runs.ratios import describe_actions
from mpo_nb.tasks import load_task


def written(n: int) -> list[list[str]]:
    "Right solutions of chains of sums, a character a token."
    rows = []
    for problem in load_task("chain_sum").train[:n]:
        terms = problem["prompt"].rstrip("?").replace("-", "+-").split("+")
        total, steps = int(terms[0]), []
        for term in map(int, terms[1:]):
            steps.append(f"{total}{term:+d}={total + term}")
            total += term
        rows.append(list(";".join(steps) + f"#{total}"))
    return rows


@pytest.fixture(scope="module")
def rows():
    return written(200)


@pytest.fixture(scope="module")
def batch(rows):
    "mask, and what a loss takes beside it."
    generator = torch.Generator().manual_seed(0)
    T = max(map(len, rows))
    mask = torch.tensor([[int(t < len(row)) for t in range(T)] for row in rows])
    old = torch.randn(mask.shape, generator=generator, dtype=torch.double)
    new = old + 0.3 * torch.randn(mask.shape, generator=generator, dtype=torch.double)
    return mask, new, old, torch.randn(len(rows), generator=generator, dtype=torch.double)


def loss_of(actions, batch):
    "Loss, gradient, ratio and credit."
    mask, new, old, advantages = batch
    logps = new.clone().requires_grad_()
    found = policy_loss(logps, old, advantages, mask, actions, aggregate="seq-mean-token-mean")
    found.loss.backward()
    return found.loss.detach(), logps.grad, found.ratio, found.credit


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b))


def test_no_merge_is_the_token_to_the_bit(rows, batch):
    ids = bpe_blocks(batch[0], rows, [])
    assert torch.equal(ids, token_blocks(batch[0]))
    assert equal(loss_of(BlockActions(ids), batch), loss_of(TokenActions(), batch))


def test_all_merges_make_one_action_of_a_response(rows, batch):
    ids = bpe_blocks(batch[0], rows, learn_merges(rows, 10**6))
    assert torch.equal(ids, sequence_block(batch[0]))
    assert equal(loss_of(BlockActions(ids), batch), loss_of(BlockActions(sequence_block(batch[0])), batch))
    for mine, gspo in zip(loss_of(BlockActions(ids), batch), loss_of(SequenceActions(), batch)):
        torch.testing.assert_close(mine, gspo, rtol=0, atol=1e-15)  # the same sum, in another order


def test_more_merges_only_make_blocks_coarser(rows, batch):
    merges = learn_merges(rows, 120)
    assert len(merges) == 120
    mask = batch[0][:60]
    before, means = token_blocks(mask), []
    for m in range(1, 121):
        ids = bpe_blocks(mask, rows[:60], merges[:m])
        new, old = (x[:, 1:] != x[:, :-1] for x in (ids, before))
        assert not (new & ~old).any(), f"merge {m} opened a block"
        sizes = block_sizes(ids)
        means.append(float(sizes.sum() / (sizes > 0).sum()))
        before = ids
    assert means == sorted(means) and means[0] > 1 and means[-1] > 2.5


@pytest.mark.parametrize("seed", range(3))
def test_merges_are_applied_as_tokenizers_applies_them(seed):
    from tokenizers import Tokenizer, models

    draw = random.Random(seed)
    texts = [[draw.choice("aab") for _ in range(draw.randint(1, 30))] for _ in range(60)]
    merges = learn_merges(texts, 12)
    plain = [("".join(a), "".join(b)) for a, b in merges]
    vocabulary = {text: i for i, text in enumerate(dict.fromkeys(["a", "b", *(a + b for a, b in plain)]))}
    peer = Tokenizer(models.BPE(vocab=vocabulary, merges=plain))
    others = [[draw.choice("ab") for _ in range(draw.randint(1, 30))] for _ in range(60)]
    for row in texts + others:
        sizes = block_sizes(bpe_blocks(torch.ones(1, len(row)), [row], merges))[0].tolist()
        assert sizes == [len(token) for token in peer.encode("".join(row)).tokens], "".join(row)


def test_a_token_of_several_characters_is_no_merge_of_others():
    "'ab' that was one token, and 'a' and 'b' that were two."
    rows = [["ab", "c"]] * 3 + [["a", "b", "c"]]
    merges = learn_merges(rows, 1)
    assert merges == [(("ab",), ("c",))]
    assert bpe_blocks(torch.ones(1, 3), rows[3:], merges).tolist() == [[0, 1, 2]]


def test_a_hole_is_skipped_or_ends_a_block():
    tokens, mask = [["a", "-", "b", "a"]], torch.tensor([[1, 0, 1, 1]])
    merges = [(("a",), ("b",))]
    assert bpe_blocks(mask, tokens, merges).tolist() == [[0, -1, 0, 1]]
    assert bpe_blocks(mask, tokens, merges, gaps="end").tolist() == [[0, -1, 1, 2]]
    assert code_blocks(mask, mask.bool()).tolist() == [[0, -1, 0, 0]]
    codes = torch.tensor([[4, 9, 4, 5]])
    assert code_blocks(mask, codes).tolist() == [[0, -1, 0, 1]]
    assert code_blocks(mask, codes, gaps="end").tolist() == [[0, -1, 1, 2]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bpe_blocks(torch.ones(1, 2), [["a", "b"]], ["ab"]), r"merges\[0\]='ab'"),
        (lambda: bpe_blocks(torch.ones(1, 2), [["a"]], []), "keeps position 1"),
        (lambda: learn_merges(["ab"], 3), r"tokens\[0\]='ab' is one text"),
        (lambda: learn_merges([["a"]], -1), "count=-1"),
        (lambda: learn_merges(None, 3), "tokens=None"),
        (lambda: bpe_blocks(torch.ones(1, 1), [["a"]], None), "merges=None"),
        (lambda: bpe_blocks(torch.ones(1, 1), [["a"]], [1]), r"merges\[0\]=1"),
        (lambda: bpe_blocks(torch.ones(1, 1), [["a"]], [(1, 2)]), r"merges\[0\]=\(1, 2\)"),
        (lambda: code_blocks(torch.ones(1, 2), torch.ones(1, 2)), "whole numbers"),
    ],
)
def test_what_cannot_be_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_nothing_is_nothing():
    assert bpe_blocks(torch.ones(0, 3), [], []).shape == (0, 3)
    assert code_blocks(torch.ones(2, 0), torch.ones(2, 0).long()).shape == (2, 0)
    assert bpe_blocks(torch.zeros(1, 2), [["a", "b"]], [(("a",), ("b",))]).tolist() == [[-1, -1]]


def test_a_codebook_of_one_entry_is_one_action():
    vq = pytest.importorskip("vector_quantize_pytorch", reason="pip install mpo_nb[papers]")
    torch.manual_seed(0)
    states = torch.randn(4, 9, 8)
    _, codes, _ = vq.VectorQuantize(dim=8, codebook_size=1).eval()(states)
    mask = torch.ones(4, 9)
    assert torch.equal(code_blocks(mask, codes), sequence_block(mask))


def test_finite_scalar_quantisation_has_its_codes_and_its_gradient():
    "As many codes as its levels have products, each code and its value one pair, and a gradient past the rounding."
    vq = pytest.importorskip("vector_quantize_pytorch", reason="pip install mpo_nb[papers]")
    levels = torch.tensor([3, 5, 4])
    fsq = vq.FSQ(levels.tolist(), force_quantization_f32=False)
    z = 3 * torch.randn(1, 4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    z.requires_grad_()
    quantised, codes = fsq(z)
    assert sorted(set(codes.flatten().tolist())) == list(range(60)), "3 * 5 * 4 codes, all of them reached"
    assert torch.equal(fsq.codes_to_indices(quantised), codes) and torch.equal(
        fsq.indices_to_codes(codes).double(), quantised
    )
    usage = torch.bincount(codes.flatten(), minlength=60).double() / codes.numel()
    assert 1 < math.exp(float(torch.special.entr(usage).sum())) <= 60
    quantised.sum().backward()
    half = (levels - 1) * 1.001 / 2
    shift = torch.atanh(torch.where(levels % 2 == 0, 0.5, 0.0) / half)
    slope = (1 - torch.tanh(z.detach() + shift) ** 2) * half / (levels // 2)  # of what is rounded
    torch.testing.assert_close(z.grad, slope, rtol=0, atol=1e-6)


def trained(tmp_path, name: str, actions) -> list[dict]:
    "A step of training with some actions, two passes over its batch."
    from mpo_nb.training import TrainConfig, Trainer

    config = TrainConfig(
        steps=1,
        prompts_per_step=4,
        group_size=4,
        epochs=2,
        eval_every=0,
        trace_every=0,
        checkpoint_every=100,
        precision="float32",
        progress=False,
        output=str(tmp_path / name),
    )
    return Trainer(config, recipe=recipe("grpo", actions=actions)).fit()


def test_a_run_trains_with_learnt_blocks_by_one_argument(tmp_path, rows):
    "Without merges they are tokens, to the bit; with merges they are others."
    kept = ("grad_norm", "clip_fraction", "log_ratio_std", "train_accuracy")
    token, none, some = (
        [[row[name] for name in kept] for row in trained(tmp_path, name, actions)]
        for name, actions in (
            ("token", TokenActions()),
            ("none", LearntBlocks([])),
            ("some", LearntBlocks(learn_merges(rows, 80))),
        )
    )
    assert none == token and some != token


def test_a_recipe_says_what_learnt_blocks_are_and_what_they_need():
    some = recipe("lpo", actions=LearntBlocks([(("a",), ("b",))]))
    assert describe_actions(some) == "a unit of byte-pair encoding (merges: 1)"
    assert some.blocks(torch.ones(1, 2), [["a", "b"]]).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="actions=LearntBlocks needs tokens"):
        some.blocks(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"merges\[0\]='ab'"):
        LearntBlocks(["ab"])
