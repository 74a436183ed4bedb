"""Traces: the pieces are exactly the text for every kind of vocabulary, numbers are the model's own, and broken files
are told apart from unfinished ones."""

import json
import math
import random
import time
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import slowness
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mpo_nb.drawing.report import report_html
from mpo_nb.runs.live import Tail
from mpo_nb.runs.reading import made_up_run
from mpo_nb.runs.trace_files import TraceFile, load_spaced, load_traces, sample_traces
from mpo_nb.runs.traces import Trace, token_texts, wrong_tokens
from mpo_nb.widgets.ratio_lab import RatioLab
from mpo_nb.widgets.rollout_browser import RolloutBrowser
from mpo_nb.widgets.training_monitor import TrainingMonitor

CORPUS = [
    "the answer is 12 because 7 + 5 = 12",
    "思考一下,答案是十二。",
    "emoji 🙂🙂 and families 👩‍👩‍👧 too",
    "accents: été, naïve, Straße",
    r"\boxed{12} <b>&amp;</b>",
] * 3
TEXTS = [
    "",
    "a",
    " leading and trailing ",
    "the  answer\n\nis\t12",
    "思考 then 🙂, then 👩‍👩‍👧!",
    "é e\u0301 ﷽ \u200f",
    r"$\frac{1}{2}$ <script>alert(1)</script>",
    "\U0001f9d1\U0001f3fd\u200d\U0001f680",
]


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", clean_up_tokenization_spaces=False)


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen have it: merges over bytes, learnt from a few lines, so that most characters outside
    ASCII are split."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return wrapped(backend)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    "As Llama 2 and Mistral have it: spaces are a letter, unknown characters are bytes, and the first space is dropped."
    pieces = [
        "<unk>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "▁the",
        "▁answer",
        "▁is",
        *sorted(set("".join(CORPUS[:1])) - {" "}),
    ]
    backend = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(backend)


def word_piece() -> PreTrainedTokenizerFast:
    "As BERT has it: pieces glued by ##, a space before every other one."
    vocab = {w: i for i, w in enumerate(["[UNK]", "the", "an", "##swer", "is", "1", "##2", ",", "a", "then"])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return wrapped(backend)


TOKENIZERS = {
    "byte_level": byte_level(),
    "sentencepiece_like": sentencepiece_like(),
    "word_piece": word_piece(),
    "python_bytes": ByT5Tokenizer(),
}


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
    assert token_texts(tokenizer, tokenizer("a🙂中", add_special_tokens=False)["input_ids"]) == [
        "a",
        "",
        "",
        "",
        "🙂",
        "",
        "",
        "中",
    ]


def test_words_keep_their_spaces():
    tokenizer = TOKENIZERS["sentencepiece_like"]
    assert token_texts(tokenizer, tokenizer.convert_tokens_to_ids(["▁the", "▁answer", "▁is", "▁", "1"])) == [
        "the",
        " answer",
        " is",
        " ",
        "1",
    ]


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
    assert min(seconds(8192) for _ in range(2)) < 3.0 * slowness()


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
    assert (
        empty.text == ""
        and empty.delta.shape == empty.mask_tensor.shape == (1, 0)
        and empty.batch()["mask"].dtype == torch.bool
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(logps=[0.0]), "logps has 1 values for 2 tokens"),
        (dict(mask=[1, 2]), "mask"),
        (dict(entropies=[0.0] * 3), "entropies has 3"),
        (dict(tokens=["a", 1]), r"tokens\[1\]"),
    ],
)
def test_wrong_fields_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Trace(**{"tokens": ["a", "b"], **wrong})


def test_from_model_is_a_log_softmax():
    torch.manual_seed(0)
    tokenizer = TOKENIZERS["byte_level"]
    new, old = (
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64))
        for _ in range(2)
    )
    new.train()
    trace = Trace.from_model(new, tokenizer, "the answer?", "思考 is 12 🙂", old_model=old, reward=1.0)
    assert new.training and trace.text == "思考 is 12 🙂" and trace.reward == 1.0
    prompt = tokenizer("the answer?")["input_ids"]
    for model, found in ((new, trace.logps), (old, trace.old_logps)):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + trace.token_ids])).logits[0, len(prompt) - 1 : -1].double()
        expected = logits.log_softmax(-1)
        torch.testing.assert_close(
            torch.tensor(found, dtype=torch.double),
            expected.gather(-1, torch.tensor(trace.token_ids)[:, None])[:, 0],
            rtol=0,
            atol=1e-4,
        )
        if model is new:
            torch.testing.assert_close(
                torch.tensor(trace.entropies, dtype=torch.double),
                -(expected.exp() * expected).sum(-1),
                rtol=0,
                atol=1e-4,
            )
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


# By step


def record(step: int, text: str = "7+5=12", **more) -> str:
    return json.dumps(Trace.from_text(text, step=step, **more).to_dict()) + "\n"


def test_a_file_is_followed_step_by_step(tmp_path):
    "It grows, a line is half there, it is cut in place and grows again to the same length, it is replaced, it goes."
    file = tmp_path / "traces.jsonl"
    index = TraceFile(file)
    assert not index.read() and index.steps == []
    file.write_text(record(1, '"step": 9, {') + record(1) + record(2, answer='{"step": 7}'))
    assert index.read() and index.steps == [1, 2] and index.count == 3 and index.most == 2 and not index.read()
    assert [t.text for t in index.traces(1)] == ['"step": 9, {', "7+5=12"]
    with open(file, "a") as f:
        f.write(record(3)[:50])
    assert not index.read() and index.steps == [1, 2]
    with open(file, "a") as f:
        f.write(record(3)[50:] + record(2, "late"))
    assert index.read() and index.steps == [1, 2, 3] and [t.text for t in index.traces(2)] == ["7+5=12", "late"]
    with open(file, "r+") as f:
        f.truncate(len(record(1, '"step": 9, {')))
        f.seek(0, 2)
        f.write(record(4, "other") * 9)
    assert index.read() and index.steps == [1, 4] and index.most == 9
    file.unlink()
    assert index.read() and index.steps == []


def test_metrics_that_were_cut_and_grew_again_are_read_anew(tmp_path):
    tail = Tail(tmp_path / "metrics.jsonl")
    tail.path.write_text('{"step": 1, "seconds": 1.0}\n{"step": 2, "seconds": 2.0}\n')
    tail.read()
    with open(tail.path, "r+") as f:
        f.truncate(28)
        f.seek(0, 2)
        f.write('{"step": 2, "seconds": 2.5}\n\0\0{"step": 3, "seconds": 3.5}\n')
    assert tail.read() and [row["seconds"] for row in tail.rows.values()] == [1.0, 2.5, 3.5] and tail.broken == 0


def test_steps_are_chosen(tmp_path):
    run = made_up_run(tmp_path / "run")
    assert [t.step for t in load_traces(run, steps=3)] == [3] * 4 and [
        t.step for t in load_traces(run / "traces.jsonl", steps=[5, 2])
    ] == [2] * 4 + [5] * 4
    with pytest.raises(ValueError, match=r"steps=\[99\].*steps 1 to 6, 6 in all, were"):
        load_traces(run, steps=[1, 99])
    for wrong in ("3", [], [1.5], True):
        with pytest.raises(ValueError, match="as whole numbers"):
            load_traces(run, steps=wrong)
    with open(run / "traces.jsonl", "a") as f:
        f.write("not JSON\n" + record(7))
    browser = RolloutBrowser(run)
    assert (
        browser.steps[-1] == 7
        and "1 line of traces.jsonl could not be read and is left out" in browser.picture().summary
    )
    with open(run / "traces.jsonl", "a") as f:
        f.write('{"tokens": [1], "step": 8}\n')
    browser.refresh()
    assert "is no trace: tokens[0]" in browser.picture(step=8).summary and len(browser.responses(6)) == 4


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    "A run of 1,000 steps with 24 MB of traces."
    run = made_up_run(tmp_path_factory.mktemp("long") / "run", steps=0)
    line = Trace.from_text(
        "So 7+5=12. " * 60, moved=0.2, advantage=-1.0, step=123456, correct=False, reward=0.0
    ).to_dict()
    text = json.dumps(line) + "\n"
    n = (24 << 20) // len(text)
    with open(run / "traces.jsonl", "w") as f:
        f.writelines(text.replace("123456", str(1 + i * 1000 // n)) for i in range(n))
    return run, n


def test_a_long_run_is_looked_at_by_step(long_run, tmp_path):
    run, n = long_run
    tracemalloc.start()
    browser = RolloutBrowser(run, pick=1)
    browser.most = 20_000  # tokens of a page, some 300 bytes each while it is written
    assert len(browser.steps) == 1000 and browser.recorded.source.count == n and browser.picture().strips
    page = browser.to_html(tmp_path / "page.html").read_text()
    for step in range(1, 30):
        browser.responses(step)
    TrainingMonitor(run).picture()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 12 * 2**20, f"{most / 2**20:.0f} MB for 24 MB of traces"
    assert f"run: {n:,} recorded responses, of 1,000 steps. This page holds step" in page


def test_the_report_of_a_long_run_says_what_it_used(long_run, monkeypatch):
    run, n = long_run
    traces, told = load_spaced(run, 2**21)
    steps = {t.step for t in traces}
    assert (
        f"of 1,000 recorded steps (24 MiB), {len(steps)} evenly spaced ones are used" == told
        and 60 < len(steps) < 100
        and max(steps) > 950
    )
    assert load_spaced(run, 2**30)[1] == "" and len({t.step for t in load_spaced(run, 1)[0]}) == 1
    for module in ("runs.reading", "widgets.ratio_lab"):
        monkeypatch.setattr(f"mpo_nb.{module}.load_spaced", lambda path: load_spaced(path, 2**20))
    assert "is too long to be read whole: of 1,000 recorded steps" in report_html(run)
    assert RatioLab(run).picture().summary.count("Of 1,000 recorded steps") == 1


# Arguments of another kind


@pytest.mark.parametrize(
    "wrong, said",
    [
        (None, "NoneType"),
        (3, "int"),
        (b"runs/mpo", "bytes|no Trace"),
        ("", "is empty"),
        (["runs/mpo"], "list|no Trace|pass one run folder"),
    ],
)
def test_no_path_is_said(wrong, said):
    for look, name in ((load_traces, "path"), (RolloutBrowser, "run"), (RatioLab, "source|path")):
        with pytest.raises(ValueError, match=f"^({name})(=| holds).*({said})"):
            look(wrong)
    if not isinstance(wrong, list):
        with pytest.raises(ValueError, match="^runs="):
            TrainingMonitor(wrong)
        with pytest.raises(ValueError, match="^runs="):
            report_html(wrong)


def test_a_path_that_is_nearly_there(tmp_path):
    run = made_up_run(tmp_path / "runs" / "mpo", steps=1)
    for slip in (tmp_path / "runs" / "mop", tmp_path / "rums" / "mpo"):
        for look in (load_traces, report_html):
            with pytest.raises(FileNotFoundError, match=f"did you mean '{run}'"):
                look(slip)
        assert (
            f"did you mean '{run}'" in RolloutBrowser(slip).picture().summary
            and f"Did you mean '{run}'" in TrainingMonitor(slip).picture().summary
        )
    with pytest.raises(FileNotFoundError, match=f"it holds the runs mpo: pass one of them, e.g. '{run}'"):
        load_traces(tmp_path / "runs")
    for look, file in ((TrainingMonitor, "metrics.jsonl"), (report_html, "config.json")):
        with pytest.raises(ValueError, match=f"is a file; pass the run folder that it lies in, e.g. '{run}'"):
            look(run / file)


def test_texts_of_another_kind():
    for make, said in (
        (lambda: Trace.from_text(None), "text=None is of type NoneType"),
        (lambda: Trace.from_text("a", prompt=["b"]), "prompt="),
        (lambda: Trace.from_text("a", moved="much"), "moved='much'"),
        (lambda: Trace("abc"), "tokens='abc' is of type str"),
        (lambda: Trace.from_model(None, None, "a", "b"), "model=None"),
        (lambda: Trace.from_model(torch.nn.Linear(1, 1), None, "a", "b"), "tokenizer=None"),
    ):
        with pytest.raises(ValueError, match=said):
            make()
    assert (
        Trace.from_text("a\ud83d").text == "a\ufffd" == Trace(["a", "\ud83d"]).text
        and Trace.from_text("\ud83d\ude42").text == "🙂"
    )


def test_packaged_responses_know_their_first_wrong_step():
    "Wrong ones have one, right ones have none; a trace without a step of its own, or a chain's, says nothing."
    for trace in sample_traces("word_problems"):
        assert bool(wrong_tokens(trace)) == (not trace.correct), trace.text
        assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))).wrong_step == trace.wrong_step
    chains = {trace.text: wrong_tokens(trace) for trace in sample_traces("tiny") if not trace.correct}
    assert chains["8+4=12;12+7=19;19+7=33#33<eos>"] == list(range(15, 22))
    assert all(chains[text] for text in chains if "#" in text)  # the one without an answer broke off in a step
    assert wrong_tokens(Trace(["so 17"], prompt="7+5-3?", correct=False)) == []
    with pytest.raises(ValueError, match="wrong_step='is 16' is no part of the response"):
        Trace(["is", " 15"], wrong_step="is 16")
