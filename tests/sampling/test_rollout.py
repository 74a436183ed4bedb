"The sampler: what is cut, what ends a response, how a prompt begins, what happens when memory runs out."

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StopStringCriteria,
)
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

import mpo_nb.sampling.decoding
import mpo_nb.sampling.rollouts
from mpo_nb.models.logprobs import response_logps
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.sampling.decoding import CompiledDecoder, DynamicDecoder, StopStrings, decoder_class
from mpo_nb.sampling.rollouts import RowBudget, encode_prompts, rollout, sample_tokens, top_k_top_p
from mpo_nb.tasks.sums import chain_sum

TEXT = "né€ 3\nQuestion: naïve 漢字 🙂 a 4\nQuestion: né€ a b ; 漢 "


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval(), AutoTokenizer.from_pretrained(
        tiny_model_path()
    )


@pytest.fixture(scope="module")
def prompts():
    return [p["prompt"] for p in chain_sum(16, 4).train][:7] + ["1+1?"]


def same(a, b) -> bool:
    return (
        a.texts == b.texts
        and torch.equal(a.ids, b.ids)
        and torch.equal(a.finished, b.finished)
        and torch.allclose(a.logps, b.logps, atol=1e-5)
    )


# Top-p and top-k


def random_logits(seed: int, ties: bool) -> torch.Tensor:
    "A few rows of random width and sharpness; with ties, whole numbers."
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, int(torch.randint(2, 60, (), generator=g)), generator=g) * float(
        torch.rand((), generator=g) * 4
    )
    return logits.round() if ties else logits


@pytest.mark.parametrize("ties", [False, True])
def test_cut_keeps_what_transformers_keeps(ties):
    for seed in range(60):
        logits = random_logits(seed, ties)
        for top_k in (0, 1, 3, 7, 1000):
            for top_p in (1e-9, 0.2, 0.5, 0.9, 0.999, 1.0):
                expected = TopKLogitsWarper(top_k)(None, logits) if top_k else logits
                expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
                assert torch.equal(top_k_top_p(logits, top_p, top_k), expected), (seed, top_k, top_p)


def test_cut_keeps_the_fewest_tokens_that_hold_top_p():
    "The definition, checked without sorting: dropping the least likely token kept would leave less than top_p."
    for seed in range(60):
        logits = random_logits(seed, ties=False).double()
        for top_p in (0.2, 0.5, 0.9):
            p = logits.softmax(-1)
            kept = top_k_top_p(logits, top_p).isfinite()
            mass = (p * kept).sum(-1)
            least = p.masked_fill(~kept, 2).amin(-1)
            assert (mass >= top_p - 1e-12).all() and (mass - least < top_p).all()
            assert (p.masked_fill(kept, 0).amax(-1) < least).all(), "a dropped token is more likely than a kept one"


@pytest.mark.parametrize(
    "top_p, top_k, exact",
    [
        (1.0, 0, [0.4, 0.3, 0.2, 0.1]),
        (0.65, 0, [4 / 7, 3 / 7, 0, 0]),
        (0.75, 0, [4 / 9, 3 / 9, 2 / 9, 0]),
        (1.0, 2, [4 / 7, 3 / 7, 0, 0]),
        (0.5, 3, [4 / 7, 3 / 7, 0, 0]),
        (1e-9, 0, [1, 0, 0, 0]),
    ],
)
def test_frequencies_are_the_exact_probabilities(top_p, top_k, exact):
    n = 200_000
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    tokens, _ = sample_tokens(
        top_k_top_p(p.log().expand(n, 4), top_p, top_k), torch.rand(n, generator=torch.Generator().manual_seed(1))
    )
    found = torch.bincount(tokens, minlength=4) / n
    exact = torch.tensor(exact)
    assert (found[exact == 0] == 0).all()
    assert ((found - exact).abs() < 5 * (exact * (1 - exact) / n).sqrt() + 1e-9).all(), "more than five standard errors"


@pytest.mark.parametrize("options", [dict(top_p=0.7), dict(top_k=2), dict(top_p=0.9, top_k=3, temperature=1.7)])
def test_logps_are_those_of_the_whole_distribution(options, tiny, prompts):
    model, tokenizer = tiny
    r = rollout(model, tokenizer, prompts, 6, 40, seed=3, **options)
    with torch.no_grad():
        logps, entropies = response_logps(
            model, r.prompt_ids, r.prompt_mask, r.ids, r.mask, options.get("temperature", 1.0)
        )
    torch.testing.assert_close(r.logps, logps, rtol=0, atol=1e-4)
    assert entropies.max() > 0.1, "the model is sure of everything: nothing was cut"


@pytest.mark.parametrize("options", [dict(top_p=0.6), dict(top_k=2), dict(top_p=0.9, top_k=3, temperature=1.7)])
def test_every_sampled_token_was_kept(options, tiny, prompts):
    model, tokenizer = tiny
    T = options.get("temperature", 1.0)
    outside = []
    for kwargs in (options, dict(temperature=T)):
        r = rollout(model, tokenizer, prompts, 6, 40, seed=3, **kwargs)
        read = torch.cat([r.prompt_mask, r.mask], 1).long()
        with torch.no_grad():
            logits = (
                model(
                    torch.cat([r.prompt_ids, r.ids], 1),
                    attention_mask=read,
                    position_ids=(read.cumsum(1) - 1).clamp(min=0),
                ).logits[:, r.prompt_ids.shape[1] - 1 : -1]
                / T
            )
        kept = (
            top_k_top_p(logits[r.mask], options.get("top_p", 1.0), options.get("top_k", 0))
            .isfinite()
            .gather(-1, r.ids[r.mask][:, None])[:, 0]
        )
        outside.append(int((~kept).sum()))
    assert outside[0] == 0 < outside[1], f"{outside[1]} tokens are outside without the cut"


def test_greedy_knows_no_cut(tiny, prompts):
    assert same(
        rollout(*tiny, prompts, greedy=True, max_new_tokens=40),
        rollout(*tiny, prompts, greedy=True, max_new_tokens=40, top_p=0.5, top_k=2),
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(top_p=0.0), r"top_p=0\.0; it must lie in \(0, 1\]"),
        (dict(top_p=1.5), r"top_p=1\.5"),
        (dict(top_p=math.nan), "top_p=nan"),
        (dict(top_k=-1), "top_k=-1; it must be a whole number of at least 0"),
        (dict(top_k=2.0), r"top_k=2\.0"),
        (dict(top_k=True), "top_k=True"),
        (dict(stop=[""]), r"stop\[0\] is an empty text; leave it out"),
        (dict(stop="\n"), "is one text where a list of texts belongs"),
        (dict(stop=[3]), r"stop\[0\]=3; it must be a text"),
        (dict(stop=3), "stop=3; it must be a list of texts"),
        (dict(max_rows=0), "max_rows=0; it must be a whole number of at least 1$"),
        (dict(temperature=math.nan), "temperature=nan"),
        (dict(temperature=math.inf), "temperature=inf"),
    ],
)
def test_bad_values_name_argument_value_and_remedy(options, message, tiny):
    with pytest.raises(ValueError, match=message):
        rollout(*tiny, ["1+1?"], max_new_tokens=4, **options)


# Stop strings


def byte_level() -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(
        [TEXT] * 9,
        trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=["<eos>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return bpe


def byte_fallback() -> Tokenizer:
    """As SentencePiece models decode: a leading space is dropped, characters without a token are bytes, and a run of
    bytes that is no text becomes replacement characters."""
    pieces = [
        "<unk>",
        "<eos>",
        "<pad>",
        *(f"<0x{i:02X}>" for i in range(256)),
        "▁",
        "Q",
        "u",
        "e",
        ":",
        "a",
        "▁a",
        "▁:",
        "Qu",
        "Que",
        "a▁",
    ]
    bpe = Tokenizer(
        models.BPE(
            {p: i for i, p in enumerate(pieces)},
            [("Q", "u"), ("Qu", "e"), ("▁", "a"), ("▁", ":"), ("a", "▁")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return bpe


def wrapped(make) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=make(), eos_token="<eos>", pad_token="<pad>", unk_token=None if make is byte_level else "<unk>"
    )


STOPS = [["\nQue"], ["€"], ["né€"], ["漢"], ["字"], ["🙂"], [" a"], ["a "], [": a", "€", "; "], ["e"], ["字 🙂 a"]]


def first_end(decode, ids: list[int], stop: list[str]) -> int | None:
    "The definition: the shortest beginning whose text holds a stop string."
    return next((n for n in range(1, len(ids) + 1) if any(s in decode(ids[:n]) for s in stop)), None)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_stop_strings_end_where_the_text_first_holds_one(make, stop):
    tokenizer = wrapped(make)
    g = torch.Generator().manual_seed(0)
    found = 0

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    stops = StopStrings(tokenizer, stop)
    whole = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    noise = [i for i in range(len(tokenizer)) if "\ufffd" in decode([i])]
    for trial in range(40):
        a = int(torch.randint(0, len(whole), (), generator=g))
        ids = (
            [noise[int(torch.randint(0, len(noise), (), generator=g))] for _ in range(trial % 4)]
            + whole[a:]
            + whole[:a]
        )
        expected = first_end(decode, ids, stop)
        assert (
            next((n for n in range(1, len(ids) + 1) if stops.may_end(ids[n - 1]) and stops.ended(ids[:n])), None)
            == expected
        )
        found += expected is not None
    assert found, "the string never came up"


@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_stop_strings_agree_with_transformers_on_bytes(stop):
    "StopStringCriteria on whole characters in a byte-level vocabulary, where both are defined."
    tokenizer = wrapped(byte_level)
    criteria = StopStringCriteria(tokenizer, stop)
    stops = StopStrings(tokenizer, stop)
    ids = tokenizer(TEXT * 2)["input_ids"]
    for n in range(1, len(ids) + 1):
        ours = stops.may_end(ids[n - 1]) and any(
            s in tokenizer.decode(ids[max(0, n - 12) : n]) and s not in tokenizer.decode(ids[max(0, n - 12) : n - 1])
            for s in stop
        )
        if bool(criteria(torch.tensor([ids[:n]]), None)):
            assert stops.may_end(ids[n - 1]) and stops.ended(ids[:n])
        else:
            assert not ours


@pytest.mark.parametrize("stop", [[";"], ["=1", "#"], ["2;1"], ["9"], ["0;10"], ["nothing"]], ids=str)
def test_rollout_ends_with_the_token_that_completes_a_stop_string(stop, tiny, prompts):
    model, tokenizer = tiny
    free, stopped = (rollout(model, tokenizer, prompts, 8, 40, seed=2, stop=s) for s in ((), stop))
    ends = 0
    for i in range(len(free.ids)):
        ids = free.ids[i, : free.lengths[i]].tolist()
        got = stopped.ids[i, : stopped.lengths[i]].tolist()
        n = first_end(tokenizer.decode, ids, stop)
        assert got == ids[:n] and bool(stopped.finished[i]) == (n is not None or bool(free.finished[i]))
        torch.testing.assert_close(stopped.logps[i, : len(got)], free.logps[i, : len(got)], rtol=0, atol=1e-5)
        ends += n is not None
    assert ends > 2 or stop == ["nothing"]


def test_stop_strings_over_bytes_in_a_rollout():
    "A model without weights to speak of babbles in bytes; characters and strings come about over token borders."
    tokenizer = wrapped(byte_level)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=16,
            n_layer=1,
            n_head=1,
            n_positions=200,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    model.lm_head.weight.data *= 0.1
    stop = ["�a", "é", "Q", "€", " a"]
    free, stopped = (rollout(model, tokenizer, ["né"], 64, 150, seed=1, stop=s) for s in ((), stop))
    lengths = [first_end(tokenizer.decode, ids[:n].tolist(), stop) or int(n) for ids, n in zip(free.ids, free.lengths)]
    assert stopped.lengths.tolist() == lengths and sum(n < m for n, m in zip(lengths, free.lengths.tolist())) > 20


def test_prompts_do_not_count_towards_a_stop_string(tiny, prompts):
    free = rollout(*tiny, prompts, 4, 40, seed=2)
    firsts = {p[-2:] + t[:1] for p, t in zip([p for p in prompts for _ in range(4)], free.texts)}
    assert same(free, rollout(*tiny, prompts, 4, 40, seed=2, stop=["?", *firsts]))


# How a prompt begins


def test_a_text_that_begins_with_bos_gets_no_second_one():
    base = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, "a"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    base.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    assert tokenizer("<s> a b")["input_ids"] == [0, 0, 2, 3], "the tokenizer adds one whatever the text says"
    ids, mask = encode_prompts(tokenizer, ["a b", "<s> a b", "<s> b <s> b", "<s>"])
    assert [i[m].tolist() for i, m in zip(ids, mask)] == [[0, 2, 3], [0, 2, 3], [0, 3, 0, 3], [0]]
    with pytest.raises(
        ValueError, match=r"prompts\[1\] has 3 tokens and max_new_tokens=6: together more than the model's context of 8"
    ):
        encode_prompts(tokenizer, ["a", "<s> a b"], 6, 8)


def test_bos_of_a_tokenizer_that_adds_none_stays():
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, "a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    ids, mask = encode_prompts(tokenizer, ["<s> a", "a b", "<s> <s> b"])
    assert [i[m].tolist() for i, m in zip(ids, mask)] == [[0, 2], [2, 3], [0, 0, 3]]


def test_the_same_prompt_with_and_without_bos_says_the_same(tiny):
    a, b = (rollout(*tiny, [p], 4, 40, seed=2) for p in ("7+5-3+8?", "<bos>7+5-3+8?"))
    assert same(a, b) and torch.equal(a.prompt_ids, b.prompt_ids)


# Memory


class Room:
    "Raises what a GPU raises when more than `rows` rows go through a model, and counts."

    def __init__(self, model, rows, error=torch.OutOfMemoryError):
        self.rows = rows
        self.error = error
        self.seen = []
        self.handle = model.get_decoder().register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.seen.append(len(kwargs["input_ids"]))
        if self.seen[-1] > self.rows:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


@pytest.fixture
def each_row_computed(monkeypatch):
    "Rows that have said the same are computed apart, so that what is computed is what was asked for."
    monkeypatch.setattr(mpo_nb.sampling.rollouts, "SharingDecoder", DynamicDecoder)


@pytest.mark.parametrize("rows", [2, 11, 31])
def test_out_of_memory_halves_the_rows_and_changes_nothing(rows, tiny, prompts, capsys, each_row_computed):
    model, tokenizer = tiny
    whole = rollout(model, tokenizer, prompts, 4, 40, seed=5)
    budget = RowBudget(512)
    capsys.readouterr()
    with Room(model, rows):
        found = rollout(model, tokenizer, prompts, 4, 40, seed=5, max_rows=budget)
    said = capsys.readouterr()
    steps = int(math.log2(32 // rows)) + (0 if 32 // 2 ** int(math.log2(32 // rows)) <= rows else 1)
    assert same(found, whole) and budget.rows == 32 // 2**steps
    assert (said.out + said.err).count("Out of memory while sampling") == steps
    with Room(model, rows) as room:
        again = rollout(model, tokenizer, prompts, 4, 40, seed=5, max_rows=budget)
    assert same(again, whole) and max(room.seen) <= rows, "the budget remembers"
    assert same(rollout(model, tokenizer, prompts, 4, 40, seed=5, max_rows=budget.rows), whole)


@pytest.mark.parametrize("max_rows", [3, 4, 7, 512])
def test_max_rows_is_never_exceeded(max_rows, tiny, prompts, each_row_computed):
    model, tokenizer = tiny
    whole = rollout(model, tokenizer, prompts, 4, 40, seed=5)
    with Room(model, 10**9) as room:
        assert same(rollout(model, tokenizer, prompts, 4, 40, seed=5, max_rows=max_rows), whole)
    assert max(room.seen) == min(max_rows // 4 * 4 or max_rows, 32)


def test_out_of_memory_goes_down_to_one_row(tiny):
    model, tokenizer = tiny
    whole = rollout(model, tokenizer, ["1+1?", "7+5-3+8?"], 2, 40, seed=5)
    budget = RowBudget(512)
    with Room(model, 1):
        assert (
            same(rollout(model, tokenizer, ["1+1?", "7+5-3+8?"], 2, 40, seed=5, max_rows=budget), whole)
            and budget.rows == 1
        )


def test_one_row_too_many_says_what_helps(tiny):
    model, tokenizer = tiny
    with (
        Room(model, 0),
        pytest.raises(
            torch.OutOfMemoryError,
            match=(
                r"one response of up to max_new_tokens=40 is too much for the memory \(CUDA out of memory. Tried to"
                r" allocate 2.00 GiB.\). What helps: a smaller max_new_tokens, .*a smaller model"
            ),
        ),
    ):
        rollout(model, tokenizer, ["1+1?"] * 3, 2, 40)
    assert not model.training


def test_other_errors_are_not_taken_for_memory(tiny, each_row_computed):
    model, tokenizer = tiny
    with Room(model, 3, RuntimeError) as room, pytest.raises(RuntimeError, match="CUDA out of memory"):
        rollout(model, tokenizer, ["1+1?"] * 3, 2, 40)
    assert len(room.seen) == 2


# Compiled decoding


@pytest.fixture
def recording(monkeypatch):
    "A backend that records and runs, and makes no machine code; the models that failed are forgotten afterwards."
    monkeypatch.setitem(mpo_nb.sampling.decoding.compile_options, "backend", "eager")
    mpo_nb.sampling.decoding.write_once.cache_clear()
    yield
    mpo_nb.sampling.decoding.not_compilable.clear()


def batch_sizes(monkeypatch) -> list[int]:
    sizes = []
    step = CompiledDecoder.step
    monkeypatch.setattr(
        CompiledDecoder, "step", lambda self, token: (sizes.append(len(self.attention_mask)), step(self, token))[1]
    )
    return sizes


@pytest.mark.slow
def test_compiled_decoding_says_what_the_growing_cache_says(tiny, prompts, recording, monkeypatch):
    from torch._dynamo.utils import counters

    sizes = batch_sizes(monkeypatch)
    torch._dynamo.reset()
    counters.clear()
    for options in (
        dict(),
        dict(seed=4, temperature=1.3, top_p=0.9),
        dict(stop=[";"]),
        dict(greedy=True),
        dict(max_rows=7),
    ):
        a, b = (rollout(*tiny, prompts, 6, 40, decoding=how, **options) for how in ("dynamic", "compiled"))
        assert same(a, b), options
        if not options:
            assert sizes[0] == 48 and min(sizes) < 16
    assert set(sizes) <= {8, 12, 16, 24, 32, 48}, "finished rows leave in few steps"
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"], "one graph serves all row counts"


@pytest.mark.slow
def test_compiled_decoding_with_machine_code(tiny, prompts):
    "One layer of random weights: the compiler is slow."
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=128,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).eval()
    a, b = (rollout(model, tiny[1], prompts, 4, 40, seed=3, decoding=how) for how in ("dynamic", "compiled"))
    assert same(a, b) and a.finished.any()


@pytest.mark.slow
def test_compiled_decoding_follows_the_weights(prompts, recording):
    "After an update in place, and with adapters, without compiling for every step."
    from peft import LoraConfig, get_peft_model

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval()
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    before = rollout(model, tokenizer, prompts, 4, 40, decoding="compiled")
    seen = set()
    for scale in (0.05, 0.3):
        for p in model.parameters():
            if p.requires_grad:
                torch.nn.init.normal_(p.data, std=scale, generator=torch.Generator().manual_seed(1))
        a, b = (rollout(model, tokenizer, prompts, 4, 40, decoding=how) for how in ("dynamic", "compiled"))
        assert same(a, b) and b.texts != before.texts
        seen.add(tuple(b.texts))
    assert len(seen) == 2


def test_what_does_not_compile_falls_back_and_says_why(tiny, prompts, recording, monkeypatch, capsys):
    model, tokenizer = tiny
    expected = rollout(model, tokenizer, prompts, 4, 40)
    monkeypatch.setattr(
        mpo_nb.sampling.rollouts,
        "decoder_class",
        lambda m, decoding: decoder_class(m, "auto" if m in mpo_nb.sampling.decoding.not_compilable else "compiled"),
    )
    monkeypatch.setitem(mpo_nb.sampling.decoding.compile_options, "backend", broken)
    torch._dynamo.reset()
    capsys.readouterr()
    assert same(rollout(model, tokenizer, prompts, 4, 40), expected) and same(
        rollout(model, tokenizer, prompts, 4, 40), expected
    )
    said = "".join(capsys.readouterr())
    assert said.count("Compiled decoding failed") == 1 and "no compiler here" in said
    with pytest.raises(
        ValueError,
        match=(
            "decoding='compiled' is not possible: compiling LlamaForCausalLM failed; use decoding='auto' or 'dynamic'"
        ),
    ):
        decoder_class(model, "compiled")


def broken(graph, inputs):
    raise RuntimeError("no compiler here")


def test_on_a_cpu_auto_is_the_growing_cache(tiny):
    assert (
        decoder_class(tiny[0], "auto") is decoder_class(tiny[0], "dynamic") is mpo_nb.sampling.decoding.DynamicDecoder
    )
    with pytest.raises(ValueError, match="decoding='fast'; choose one of auto, dynamic, compiled"):
        rollout(*tiny, ["1+1?"], decoding="fast")


@pytest.mark.gpu
@pytest.mark.slow
def test_compiled_decoding_on_a_gpu():
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval().cuda()
    assert decoder_class(model, "auto") is CompiledDecoder
    texts = [p["prompt"] for p in chain_sum(16, 4).train]
    a, b = (rollout(model, tokenizer, texts, 8, 40, seed=3, decoding=how) for how in ("dynamic", "auto"))
    assert sum(x == y for x, y in zip(a.texts, b.texts)) > 0.95 * len(a.texts)
