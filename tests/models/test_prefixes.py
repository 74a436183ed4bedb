"""Texts that begin alike are read once: states, gradients and responses are those of the plain way."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import mpo_nb.models.logprobs
import mpo_nb.sampling.rollouts
from mpo_nb.models.logprobs import decoder_of, response_hidden
from mpo_nb.models.prefixes import best_cuts, prefix_tree, reads_trees, tree_trial, why_no_trees
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.sampling.decoding import DynamicDecoder, SharingDecoder
from mpo_nb.sampling.rollouts import rollout

SIZES = dict(
    vocab_size=20,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)


@pytest.fixture(scope="module")
def tiny():
    path = tiny_model_path()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def qwen():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()


def random_batch(seed: int, letters: int) -> tuple:
    "Prompts of several lengths, each several times, and responses of few letters, which therefore often begin alike."
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (4,), generator=g)
    prompt_mask = torch.arange(6) >= 6 - lengths[:, None]
    prompt_ids = torch.randint(4, 4 + letters, (4, 6), generator=g) * prompt_mask
    which = torch.randint(4, (14,), generator=g)
    responses = torch.randint(4, 4 + letters, (14, 9), generator=g)
    read = torch.arange(9) < torch.randint(0, 10, (14,), generator=g)[:, None]
    return prompt_ids[which], prompt_mask[which], responses * read, read


def states_and_gradient(model, batch: tuple, least: float, whole: bool):
    model.zero_grad()
    states = response_hidden(model, *batch, least=least, whole=whole)
    real = batch[3] if not whole else torch.cat(batch[1::2], 1)[:, : states.shape[1]]
    kept = states[real]
    (kept * torch.linspace(-1, 1, kept.numel()).view_as(kept)).sum().backward()
    return kept.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("letters", [1, 2, 12])
@pytest.mark.parametrize("seed", range(4))
def test_a_tree_has_the_states_and_the_gradient_of_its_texts(seed, letters, whole, qwen, tiny):
    for model in (qwen, tiny[0]):
        assert reads_trees(decoder_of(model))
        batch = random_batch(seed, letters)
        tree, plain = (states_and_gradient(model, batch, least, whole) for least in (-1.0, 1.0))
        for found, expected in zip(tree, plain):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_the_tree_is_read_where_it_saves_and_nowhere_else(tiny, monkeypatch):
    calls = []
    states = mpo_nb.models.logprobs.tree_states
    monkeypatch.setattr(mpo_nb.models.logprobs, "tree_states", lambda *args: calls.append(1) or states(*args))
    batch = random_batch(0, 1)
    response_hidden(tiny[0], *batch)
    assert len(calls) == 1
    ids, one = torch.arange(4, 9)[None], torch.ones(1, 5, dtype=torch.bool)
    response_hidden(tiny[0], ids, one, ids, one)  # one text without padding: nothing to save
    assert len(calls) == 1
    holes = batch[3].clone()
    holes[:, 1] = False
    response_hidden(tiny[0], *batch[:3], holes)
    assert len(calls) == 1, "a response with a hole in it is no path"


@pytest.mark.parametrize("seed", range(5))
def test_each_different_beginning_is_a_node(seed):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, (12, 7), generator=g)
    lengths = torch.randint(1, 8, (12,), generator=g)
    tree = prefix_tree(tokens, lengths)
    texts = [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist())]
    beginnings = {tuple(text[: i + 1]) for text in texts for i in range(len(text))}
    assert len(tree.tokens) == len(beginnings)
    node_of = {}
    for text, nodes in zip(texts, tree.nodes.tolist()):
        for i in range(len(text)):
            assert node_of.setdefault(tuple(text[: i + 1]), nodes[i]) == nodes[i]
            assert (tree.tokens[nodes[i]], tree.places[nodes[i]]) == (text[i], i)
    queries = torch.cat([part.queries for part in tree.parts])
    assert queries[tree.outputs].tolist() == list(range(len(beginnings))), "attention computes each node"


def test_cuts_save_what_they_can():
    def area(cuts):
        return sum((end - begin) * (20 - first[begin]) for begin, end in zip(cuts, cuts[1:]))

    first = [0, 0, 1, 9, 9, 10, 19]
    two = best_cuts(first, 20, most=2, least=0.0)
    assert area(two) == min(area([0, i, 7]) for i in range(1, 7))
    assert area(best_cuts(first, 20)) < area(two)


def test_a_window_and_layers_computed_again_read_no_trees(qwen, tiny):
    mistral = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval()
    assert not reads_trees(decoder_of(mistral)) and "window" in why_no_trees(decoder_of(mistral))
    assert tree_trial(decoder_of(qwen)) < 1e-3
    decoder = decoder_of(qwen)
    decoder.layers[0].gradient_checkpointing = True
    try:
        assert not reads_trees(decoder)
    finally:
        decoder.layers[0].gradient_checkpointing = False
    assert decoder.config._attn_implementation == "sdpa", "as it was"


# Sampling


@pytest.mark.parametrize("crowded", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("options", [{}, dict(greedy=True), dict(temperature=2.5), dict(stop=[";"])])
def test_rows_that_have_said_the_same_change_nothing(crowded, options, tiny, monkeypatch):
    prompts = ["1+1?", "7+5-3+8?", "9+9+9+9-1?"]
    monkeypatch.setattr(SharingDecoder, "crowded", crowded)
    shared = rollout(*tiny, prompts, 6, 40, seed=3, **options)
    monkeypatch.setattr(mpo_nb.sampling.rollouts, "SharingDecoder", DynamicDecoder)
    plain = rollout(*tiny, prompts, 6, 40, seed=3, **options)
    assert shared.texts == plain.texts and torch.equal(shared.mask, plain.mask)
    torch.testing.assert_close(shared.logps, plain.logps, rtol=0, atol=1e-5)


def test_fewer_rows_are_computed(tiny, monkeypatch):
    rows = []
    step = DynamicDecoder.step
    monkeypatch.setattr(DynamicDecoder, "step", lambda self, token: rows.append(len(token)) or step(self, token))
    rollout(*tiny, ["1+1?", "7+5-3+8?"], 8, 40, greedy=True)
    assert max(rows) == 2, "the most likely tokens are those of all eight"
