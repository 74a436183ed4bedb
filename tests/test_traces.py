"Traces: the pieces are exactly the text for every kind of vocabulary, numbers are the model's own, and broken files are told apart from unfinished ones."
import json
import math
import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mpo_nb.traces import Trace, load_traces, token_texts

CORPUS = ["the answer is 12 because 7 + 5 = 12", "思考一下,答案是十二。", "emoji 🙂🙂 and families 👩‍👩‍👧 too", "accents: été, naïve, Straße", r"\boxed{12} <b>&amp;</b>"] * 3
TEXTS = ["", "a", " leading and trailing ", "the  answer\n\nis\t12", "思考 then 🙂, then 👩‍👩‍👧!", "é e\u0301 ﷽ \u200f", r"$\frac{1}{2}$ <script>alert(1)</script>", "\U0001f9d1\U0001f3fd\u200d\U0001f680"]


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", clean_up_tokenization_spaces=False)


def byte_level() -> PreTrainedTokenizerFast:
    "As GPT-2, Llama 3 and Qwen have it: merges over bytes, learnt from a few lines, so that most characters outside ASCII are split."
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return wrapped(backend)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    "As Llama 2 and Mistral have it: spaces are a letter, unknown characters are bytes, and the first space is dropped."
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁the", "▁answer", "▁is", *sorted(set("".join(CORPUS[:1])) - {" "})]
    backend = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return wrapped(backend)


def word_piece() -> PreTrainedTokenizerFast:
    "As BERT has it: pieces glued by ##, a space before every other one."
    vocab = {w: i for i, w in enumerate(["[UNK]", "the", "an", "##swer", "is", "1", "##2", ",", "a", "then"])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return wrapped(backend)


TOKENIZERS = {"byte_level": byte_level(), "sentencepiece_like": sentencepiece_like(), "word_piece": word_piece(), "python_bytes": ByT5Tokenizer()}


def whole(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == whole(tokenizer, ids)


def test_pieces_of_random_tokens_and_cuts(tokenizer):
    "Ids that no text gives: special tokens amid a character, bytes in any order, a response cut off in an emoji."
    rng = random.Random(1)
    for _ in range(60):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 90))]
        assert "".join(token_texts(tokenizer, ids)) == whole(tokenizer, ids)
    ids = tokenizer("then 🙂 思", add_special_tokens=False)["input_ids"]
    for n in range(len(ids)):
        assert "".join(token_texts(tokenizer, ids[:n])) == whole(tokenizer, ids[:n])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_pieces_of_any_text(text):
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer(text)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == whole(tokenizer, ids)


def test_split_character_belongs_to_its_last_token():
    tokenizer = TOKENIZERS["python_bytes"]
    assert token_texts(tokenizer, tokenizer("a🙂中", add_special_tokens=False)["input_ids"]) == ["a", "", "", "", "🙂", "", "", "中"]


def test_words_keep_their_spaces():
    tokenizer = TOKENIZERS["sentencepiece_like"]
    assert token_texts(tokenizer, tokenizer.convert_tokens_to_ids(["▁the", "▁answer", "▁is", "▁", "1"])) == ["the", " answer", " is", " ", "1"]


def test_long_responses_take_linear_time():
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer("思考 step 🙂 ﷽. " * 900)["input_ids"]
    assert len(ids) > 8192
    def seconds(n):
        start = time.perf_counter()
        pieces = token_texts(tokenizer, ids[:n])
        assert "" in pieces
        return time.perf_counter() - start
    seconds(256)
    assert min(seconds(8192) for _ in range(2)) < 3.0


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.integers(0, 3))
def test_made_up_traces_are_the_text(text, seed):
    trace = Trace.from_text(text, seed=seed)
    assert trace.text == text and trace.to_dict() == Trace.from_text(text, seed=seed).to_dict()
    assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))).to_dict() == trace.to_dict()


def test_record_survives_what_is_not_finite():
    trace = Trace(["a", "b"], logps=[-1 / 3, math.nan], old_logps=[-1.0, -math.inf], reward=math.nan, correct=None)
    row = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert row["logps"] == [-0.333333, None] and row["reward"] is None and "note" not in row
    assert Trace.from_dict(row | {"from_a_later_version": 1}).to_dict() == trace.to_dict()
    with pytest.raises(ValueError, match="unknown"):
        trace.batch()
    empty = Trace([])
    assert empty.text == "" and empty.delta.shape == empty.mask_tensor.shape == (1, 0) and empty.batch()["mask"].dtype == torch.bool


@pytest.mark.parametrize("wrong, message", [(dict(logps=[0.0]), "logps has 1 values for 2 tokens"), (dict(mask=[1, 2]), "mask"), (dict(entropies=[0.0] * 3), "entropies has 3"), (dict(tokens=["a", 1]), r"tokens\[1\]")])
def test_wrong_fields_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Trace(**{"tokens": ["a", "b"], **wrong})


def test_from_model_is_a_log_softmax():
    torch.manual_seed(0)
    tokenizer = TOKENIZERS["byte_level"]
    new, old = (GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)) for _ in range(2))
    new.train()
    trace = Trace.from_model(new, tokenizer, "the answer?", "思考 is 12 🙂", old_model=old, reward=1.0)
    assert new.training and trace.text == "思考 is 12 🙂" and trace.reward == 1.0
    prompt = tokenizer("the answer?")["input_ids"]
    for model, found in ((new, trace.logps), (old, trace.old_logps)):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + trace.token_ids])).logits[0, len(prompt) - 1:-1].double()
        expected = logits.log_softmax(-1)
        torch.testing.assert_close(torch.tensor(found, dtype=torch.double), expected.gather(-1, torch.tensor(trace.token_ids)[:, None])[:, 0], rtol=0, atol=1e-4)
        if model is new:
            torch.testing.assert_close(torch.tensor(trace.entropies, dtype=torch.double), -(expected.exp() * expected).sum(-1), rtol=0, atol=1e-4)
    assert Trace.from_model(new, tokenizer, "the answer?", "").tokens == []
    with pytest.raises(ValueError, match="context"):
        Trace.from_model(new, tokenizer, "the answer?", "is " * 60)
    with pytest.raises(ValueError, match="no tokens"):
        Trace.from_model(new, tokenizer, "", "12")


def test_files(tmp_path):
    lines = [json.dumps(Trace.from_text(f"step {i} 🙂").to_dict()) + "\n" for i in range(3)]
    file = tmp_path / "traces.jsonl"
    with pytest.raises(FileNotFoundError, match="trace_every"):
        load_traces(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_traces(tmp_path / "other.jsonl")
    file.write_text("")
    assert load_traces(tmp_path) == []
    text = "".join(lines)
    for cut in range(len(lines[0]), len(text), 97):
        file.write_text(text[:cut])
        assert [t.text for t in load_traces(tmp_path)] == [f"step {i} 🙂" for i in range(text[:cut].count("\n"))]
    file.write_text(lines[0] + '{"step": 1}\n')
    with pytest.raises(ValueError, match="record 2 of .*tokens"):
        load_traces(file)
    file.write_text(lines[0] + "not json\n" + lines[1])
    with pytest.raises(ValueError, match="not JSON"):
        load_traces(file)
