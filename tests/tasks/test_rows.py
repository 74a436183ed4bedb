"""Rows and options: what stands on file reaches the reward as it stands there, and what will not do is named before any
long work."""

import datetime
import functools
import gzip
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import psutil
import pytest

from mpo_nb.checks import check_options, check_positive, check_share, check_texts, check_whole, fits, in_words
from mpo_nb.config import TrainConfig
from mpo_nb.evaluation.evaluating import evaluate
from mpo_nb.models.loading import load
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.planning.plan import longest_prompt
from mpo_nb.sampling.rollouts import encode_prompts, prompt_lengths
from mpo_nb.tasks.rows import from_dataset, read_rows, without_held_out
from mpo_nb.tasks.task import Task, load_task, prompt_text, prompt_turns
from mpo_nb.training.trainer import Trainer

WRITTEN = [
    "18",
    "18.0",
    "1.10",
    "1e5",
    "-0",
    "1e400",
    "18446744073709551617",
    "0.1234567890123456789",
    "true",
    "false",
    "NaN",
    "-Infinity",
]
TEXTS = ["007", "None", "null", "NaN", "2024-01-05", "2024-01-05T10:00:00", "10:30", " 7 ", "1_000", "1e5", "0"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt"
    " %}<assistant>{% endif %}"
)


def nothing(problem, response):
    return 0.0


def answers(source, **options) -> dict[str, str]:
    task = from_dataset(source, nothing, **options)
    return {prompt_text(p["prompt"]): p["answer"] for p in (*task.train, *task.test)}


def on_file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- files


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.json.gz", "lines.json", "data.json", "list.jsonl", "bom.ndjson", "b [1]*.JSONL"]
)
def test_json_arrives_as_it_is_written(name, tmp_path):
    literals = [*WRITTEN, *(json.dumps(text) for text in TEXTS)]
    rows = [f'{{"question": "q{i}", "answer": {value}}}' for i, value in enumerate(literals)]
    joined = "[" + ", ".join(rows) + "]"
    content = {
        "a.json": joined,
        "list.jsonl": joined,
        "data.json": f'{{"version": "1", "data": {joined}}}',
        "a.json.gz": gzip.compress(joined.encode()),
        "bom.ndjson": b"\xef\xbb\xbf" + "\n".join(rows).encode(),
    }.get(name, "\r\n\n".join(rows) + "\n\n")
    assert answers(on_file(tmp_path, name, content)) == {f"q{i}": value for i, value in enumerate([*WRITTEN, *TEXTS])}


@pytest.mark.parametrize("name, mark", [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ",")])
def test_csv_is_text(name, mark, tmp_path):
    fields = [*WRITTEN, *TEXTS, "NA", f'"1{mark}000"', '"two\nlines"', '"a ""word"""']
    expected = [*WRITTEN, *TEXTS, "NA", f"1{mark}000", "two\nlines", 'a "word"']
    text = f"question{mark}answer\n" + "\n".join(f"q{i}{mark}{field}" for i, field in enumerate(fields)) + "\n"
    assert answers(
        on_file(tmp_path, name, gzip.compress(text.encode()) if name.endswith("gz") else "\ufeff" + text)
    ) == {f"q{i}": value for i, value in enumerate(expected)}


def test_no_column_takes_its_type_from_another_row(tmp_path):
    "The reward meets other columns by their JSON types, each value by its own."
    path = on_file(
        tmp_path, "a.jsonl", '{"question": "a", "gold": 18}\n{"question": "b", "gold": 2.5, "more": [1, 2.0]}'
    )
    task = from_dataset(path, nothing, answer="gold")
    rows = {p["prompt"]: p for p in (*task.train, *task.test)}
    assert (rows["a"]["gold"], rows["a"]["answer"], rows["a"]["more"]) == (18, "18", None) and isinstance(
        rows["a"]["gold"], int
    )
    assert (rows["b"]["gold"], rows["b"]["answer"], rows["b"]["more"]) == (2.5, "2.5", [1, 2.0])


def test_typed_columns_are_written_as_python_prints_them(tmp_path):
    day = datetime.date(2024, 1, 5)
    moment = datetime.datetime(2024, 1, 5, 10)
    columns = {
        "18": 18,
        "18.0": 18.0,
        "0.1": np.float32(0.1),
        "1.10": Decimal("1.10"),
        "2024-01-05": day,
        "2024-01-05 10:00:00": moment,
        "True": True,
        "0": 0,
    }
    for text, value in columns.items():
        rows = [dict(question=f"q{i}", answer=value) for i in range(2)]
        assert set(answers(rows).values()) == {text}
        table = datasets.Dataset.from_list(rows)
        if text == "0.1":
            table = table.cast_column("answer", datasets.Value("float32"))
        table.to_parquet(tmp_path / "a.parquet")
        assert set(answers(tmp_path / "a.parquet").values()) == set(answers(table).values()) == {text}
    datasets.Dataset.from_list([dict(question="a", answer=1), dict(question="b", answer=None)]).to_parquet(
        tmp_path / "b.parquet"
    )
    with pytest.raises(ValueError, match="train: row 1 has nothing in column 'answer'"):
        from_dataset(tmp_path / "b.parquet", nothing)


@pytest.mark.parametrize("name", ["rows [1].csv", "a*b?.csv", "sp ace.csv", "~x.csv"])
def test_a_file_name_is_no_pattern(name, tmp_path, monkeypatch):
    on_file(tmp_path, name, "question,answer\na,1\nb,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (name, Path(name), f"~/{name}"):
        assert answers(source) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.csv",
            "question;answer\na;1\n",
            "no column 'question'; it has question;answer; its fields are separated by ';'",
        ),
        ("a.csv", "question,answer\na,1,000\n", "line 2 has 3 fields, and the header 2"),
        ("a.csv", "question,answer,answer\na,1,2\n", "its header names a column twice"),
        ("a.csv", "question,answer\na,\n", "row 0 has nothing in column 'answer'"),
        ("a.csv", "question,answer\ncaf\u00e9,1\n".encode("latin1"), "is not text in UTF-8"),
        ("a.csv", "", "has no rows"),
        ("a.jsonl", '{"question": "a", "answer": 1}\n{"question": "b", "answer"}\n', "cannot be read as jsonl: line 2"),
        ("a.jsonl", '{"question": "a", "answer": 1}\n5\n', "row 1 is 5"),
        ("a.jsonl", '{"question": "a", "answer": 1, "answer": 2}\n', "names 'answer' twice"),
        ("a.jsonl", '{"question": "a"}\n{"question": "b", "answer": 1}', "row 0 has nothing in column 'answer'"),
        (
            "a.jsonl",
            '{"question": "a", "answer": 1}\n{"question": "b", "answer": null}',
            "row 1 has nothing in column 'answer'",
        ),
        ("a.json", "[" * 100000, "cannot be read as json"),
        ("a.json.gz", "{}", "cannot be read as json"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
        ("a.xlsx", "x", "give a file that ends in .json, "),
    ],
)
def test_a_file_that_will_not_do_is_named(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_dataset(on_file(tmp_path, name, content), nothing)


def test_paths_that_are_no_file(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        from_dataset(tmp_path / "folder.csv", nothing)
    with pytest.raises(FileNotFoundError, match="nope.*is not there.*no pattern is looked for"):
        from_dataset(tmp_path / "nope*.csv", nothing)
    with pytest.raises(ValueError, match="train=None; give rows, or a file"):
        from_dataset(None, nothing)


# ---- rows


@pytest.mark.parametrize("value", [None, "", float("nan"), np.float32("nan"), Decimal("NaN"), np.datetime64("NaT")])
def test_a_cell_with_nothing_in_it_is_named(value):
    with pytest.raises(ValueError, match="test: row 1 has nothing in column 'answer'"):
        from_dataset(
            [dict(question="a", answer="1")],
            nothing,
            test=[dict(question="b", answer="2"), dict(question="c", answer=value)],
        )


@pytest.mark.parametrize(
    "value, message",
    [
        (["7", "seven"], "a list in"),
        (("7",), "a tuple in"),
        (np.array([7]), "a ndarray in"),
        (b"7", "a bytes in"),
        ({7}, "a set in"),
        (dict(style="rule", truth="7"), "a dict in .*'answer.style', 'answer.truth'"),
        (nothing, "a function in"),
    ],
)
def test_an_answer_is_one_text(value, message):
    with pytest.raises(ValueError, match="train: row 1 has " + message):
        from_dataset([dict(question="a", answer="1"), dict(question="b", answer=value)], nothing)


@pytest.mark.parametrize(
    "source, message",
    [
        (dict(question=["a"], answer=["1"]), "is a dict with the keys question, answer"),
        (
            datasets.DatasetDict(train=datasets.Dataset.from_list([dict(question="a")])),
            "is a DatasetDict with the keys train",
        ),
        (["a", "b"], "row 0 is 'a'"),
        (5, "cannot be made into rows"),
    ],
)
def test_what_is_no_list_of_rows_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        from_dataset(source, nothing)


def test_columns_that_the_first_row_lacks_are_kept():
    rows = read_rows(
        [dict(question="a"), dict(question="b", hint="h"), dict(question="c")], ["question"], optional=["hint", "level"]
    )
    assert [row["hint"] for row in rows] == [None, "h", None] and all(row["level"] is None for row in rows)


def test_one_name_is_no_list_of_columns():
    with pytest.raises(ValueError, match="columns='question' is one text"):
        read_rows([dict(question="a")], "question")


def test_nothing_left_to_learn_from_is_said():
    problems = [dict(prompt="a", answer="1"), dict(prompt=[dict(role="user", content="b")], answer="2")]
    assert without_held_out(problems, [dict(prompt="b", answer="2")]) == problems[:1], "a lone turn is its text"
    with pytest.raises(ValueError, match="each of the 2 problems of train is held out"):
        without_held_out(problems, problems)


def test_answers_of_math_and_gsm8k_on_file(tmp_path):
    gold = ["0", "1.50", "18.0", '"007"']
    levels = ['"Level 1"', "5", "2.0", "null"]
    path = on_file(
        tmp_path,
        "a.jsonl",
        "\n".join(f'{{"problem": "p{i}", "answer": {a}, "level": {b}}}' for i, (a, b) in enumerate(zip(gold, levels))),
    )
    other = on_file(tmp_path, "b.csv", "problem,answer\nq,0\n")
    task = load_task("math", train=path, test=str(other))
    assert [p["answer"] for p in task.train] == ["0", "1.50", "18.0", "007"] and task.test[0]["answer"] == "0"
    assert [p["level"] for p in task.train] == ["1", "5", "2", ""]
    with pytest.raises(ValueError, match="train: row 0 has nothing after '####'"):
        load_task("gsm8k", train=[dict(question="a", answer="####")], test=str(other))


# ---- messages

CHAT = [
    dict(role="system", content="Add up."),
    dict(role="user", content="1+1?"),
    dict(role="assistant", content="2"),
    dict(role="user", content="2+2?"),
]


def test_prompts_as_messages_stay_a_chat(tmp_path):
    rows = [
        dict(
            prompt=[*CHAT[:3], dict(role="user", content=f"{i}?", name=None)],
            reward_model=dict(style="rule", ground_truth=str(i)),
        )
        for i in range(4)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "verl.parquet")
    on_file(tmp_path, "verl.jsonl", "\n".join(map(json.dumps, rows)))
    expected = {prompt_text([*CHAT[:3], dict(role="user", content=f"Q: {i}?")]): str(i) for i in range(4)}
    for source in (rows, tmp_path / "verl.parquet", tmp_path / "verl.jsonl", datasets.Dataset.from_list(rows)):
        assert (
            answers(source, prompt="prompt", answer="reward_model.ground_truth", template="Q: {question}") == expected
        )
    with pytest.raises(ValueError, match="row 0 has a dict in column 'reward_model'.*'reward_model.ground_truth'"):
        from_dataset(rows, nothing, prompt="prompt", answer="reward_model")
    with pytest.raises(ValueError, match="row 0 has nothing in column 'reward_model.gold'"):
        from_dataset(rows, nothing, prompt="prompt", answer="reward_model.gold")


@pytest.mark.parametrize(
    "prompt, message",
    [
        ([], "the prompt is"),
        ([dict(role="user", content=" \n")], "message 0 of the prompt is a turn of the user without text"),
        (CHAT[:1], "ends with a turn of 'system'"),
        (CHAT[:3], "ends with a turn of 'assistant'"),
        ([*CHAT, CHAT[0], CHAT[1]], "message 4 of the prompt is a turn of 'system'"),
        ([dict(role="human", content="a")], "role='human'"),
        ([dict(content="a")], "role=None"),
        ([dict(role="user", content=None)], "content=None"),
        ([dict(role="user")], "content=None"),
        ([dict(role="user", content="a", tool_calls=[1])], "'tool_calls', which is not rendered"),
        ([dict(role="user", content=[dict(type="image", url="a")])], "a part 'image'"),
        (["a"], "message 0 of the prompt is 'a'"),
    ],
)
def test_messages_that_cannot_be_rendered_are_named(prompt, message):
    with pytest.raises(ValueError, match=f"train: row 1, column 'question': .*{message}"):
        from_dataset([dict(question="a", answer="1"), dict(question=prompt, answer="2")], nothing)
    with pytest.raises(ValueError, match=rf"test\[1\] of task 't' has a prompt that cannot be read: .*{message}"):
        Task(
            "t",
            [dict(prompt="a", answer="1")],
            [dict(prompt="a", answer="1"), dict(prompt=prompt, answer="2")],
            nothing,
        )


@pytest.mark.parametrize(
    "write", [json.dumps, repr, lambda turns: str(np.array(turns)), lambda turns: json.dumps(turns, indent=1)]
)
def test_messages_spelt_out_in_a_text_are_no_question(write, tmp_path):
    for turns in (CHAT[:2], [dict(content="1+1?", role="user")]):
        with pytest.raises(
            ValueError, match="train: row 1 has a text in column 'question' that spells a list of messages"
        ):
            from_dataset([dict(question="a", answer="1"), dict(question=write(turns), answer="2")], nothing)
    plain = ["[{'role': 1}]", 'Is [{"role": "user", "content": "a"}] a chat?', "[{}]"]
    assert set(answers([dict(question=text, answer="1") for text in plain])) == set(plain)


def test_parts_of_text_are_joined():
    parts = [dict(role="user", content=[dict(type="text", text="1+", image=None), dict(type="text", text="1?")])]
    assert (
        prompt_turns(parts) == prompt_turns("1+1?")
        and prompt_text(parts) == "1+1?"
        and prompt_text(CHAT[:2]) == "system: Add up.\nuser: 1+1?"
    )


def test_a_run_and_an_evaluation_on_messages(tmp_path):
    model, tokenizer = load("tiny", device="cpu", precision="float32", quiet=True)
    tokenizer.chat_template = TEMPLATE
    problems = [dict(prompt=[*CHAT[:3], dict(role="user", content=f"{i}+1?")], answer=str(i + 1)) for i in range(4)]
    task = Task("chats", problems[:3], problems[3:], lambda p, r: float(len(r) % 2), max_new_tokens=4)
    trainer = Trainer(
        TrainConfig(
            output=str(tmp_path / "run"),
            steps=1,
            prompts_per_step=2,
            group_size=2,
            eval_every=0,
            precision="float32",
            progress=False,
        ),
        model=model,
        tokenizer=tokenizer,
        task=task,
    )
    trainer.fit()
    prompts = {json.loads(line)["prompt"] for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()}
    rendered = [
        f"<system>Add up.</system><user>1+1?</user><assistant>2</assistant><user>{i}+1?</user><assistant>"
        for i in range(4)
    ]
    assert prompts and prompts <= set(rendered[:3])
    record = evaluate(model, tokenizer, task, n=1, k=None, output=tmp_path / "e.jsonl", progress=False).records[0]
    assert (
        record["prompt"] == rendered[3] and record["problem"].endswith("user: 3+1?") and "{'" not in record["problem"]
    )
    again = evaluate(model, tokenizer, task, n=1, k=None, output=tmp_path / "e.jsonl", progress=False)
    assert again.records[0] == record, "an evaluation of chats is found again"


# ---- every problem, before the first step

GOOD = dict(prompt="1+1?", answer="2", gold=2)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(prompt="1+1?", gold=2), "has no 'answer'"),
        (dict(answer="2", gold=2), "has no 'prompt'"),
        (dict(prompt="1+1?", answer="2"), "has no 'gold', which {split}\\[0\\] has"),
        (GOOD | dict(answer=2), "has answer=2; it must be a text"),
        (GOOD | dict(answer=None), "has answer=None"),
        (GOOD | dict(prompt=5), "the prompt is 5"),
        (GOOD | dict(prompt="a\ud83d"), "cannot be read"),
        ("1+1?", "is '1\\+1\\?'"),
    ],
)
def test_a_problem_further_down_is_named(split, bad, message):
    with pytest.raises(ValueError, match=rf"{split}\[7\] of task 't' .*{message.format(split=split)}"):
        Task("t", **{"train": [GOOD], "test": [GOOD], split: [GOOD] * 7 + [bad]}, reward=nothing)


def test_a_row_of_a_data_set_further_down_is_named():
    rows = datasets.Dataset.from_list([GOOD] * 7 + [GOOD | dict(answer=None)])
    with pytest.raises(ValueError, match=r"test\[7\] of task 't' has answer=None"):
        Task("t", [GOOD], rows, nothing)


@pytest.mark.parametrize("problems", ["1+1?", dict(prompt="1+1?", answer="2"), None, 5, iter([GOOD])])
def test_a_split_is_a_list_of_problems(problems):
    with pytest.raises(ValueError, match="train of task 't' is a .*give a list of problems"):
        Task("t", problems, [GOOD], nothing)


@pytest.mark.parametrize(
    "field, value",
    [
        ("name", ""),
        ("name", 5),
        ("stop", "\nQuestion:"),
        ("stop", ["a", ""]),
        ("stop", None),
        ("stop", [5]),
        ("batched", "yes"),
        ("pass_mark", "1"),
        ("pass_mark", float("nan")),
        ("plain", 5),
        ("formatted", "yes"),
        ("max_new_tokens", "8"),
        ("max_new_tokens", True),
        ("max_new_tokens", 0),
        ("description", None),
    ],
)
def test_a_field_of_the_wrong_type_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        Task(**{"name": "t", "train": [GOOD], "test": [GOOD], "reward": nothing, field: value})


def test_stop_may_be_a_list():
    assert Task("t", [GOOD], [GOOD], nothing, stop=["a", "b"]).stop == ("a", "b")


def peak_growth(work: Callable[[], object]) -> float:
    "MiB by which this process grows while it works."
    process = psutil.Process()
    done = threading.Event()
    peaks = []

    def watch():
        while not done.is_set():
            peaks.append(process.memory_info().rss)
            time.sleep(0.001)

    before = process.memory_info().rss
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return (max(peaks, default=before) - before) / 2**20


def test_one_long_prompt_does_not_lengthen_the_others(tmp_path):
    tokenizer = char_tokenizer(max_length=10_000)
    model, _ = load("tiny", device="cpu", precision="float32", quiet=True)
    model.config.max_position_embeddings = 8000
    problems = [dict(prompt=f"{i}+1?", answer=str(i + 1)) for i in range(6000)]
    problems[4321]["prompt"] = "1+" * 2000
    task = Task("long", problems, problems[:10], nothing, max_new_tokens=8)
    config = TrainConfig(output=str(tmp_path / "run"), precision="float32", progress=False)
    assert peak_growth(lambda: Trainer(config, model=model, tokenizer=tokenizer, task=task)) < 60, (
        "24 million padded numbers are 190 MB"
    )
    assert peak_growth(lambda: longest_prompt(config, task, tokenizer)) < 60
    lengths = prompt_lengths(tokenizer, (p["prompt"] for p in problems))
    assert (
        lengths[4321] == longest_prompt(config, task, tokenizer) == 4001
        and lengths[:300] == encode_prompts(tokenizer, [p["prompt"] for p in problems[:300]])[1].sum(1).tolist()
    )
    with pytest.raises(
        ValueError,
        match=r"prompts\[4321\] has 4001 tokens and max_new_tokens=8: together more than the model's context of 4000",
    ):
        prompt_lengths(tokenizer, (p["prompt"] for p in problems), 8, 4000)


# ---- options


@pytest.mark.parametrize(
    "hint, yes, no",
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0, 1.5, np.float32(1)], [True, "1", None]),
        (bool, [True], [1, "true"]),
        (str, ["", "a"], [1, b"a", None]),
        (int | None, [1, None], ["1"]),
        (Sequence[str], [["a"], ("a",), []], ["a", ["a", 1], None]),
        (Sequence[int], [[1], range(3)], ["12", [True]]),
        (tuple[float, float], [(1, 2), [0.1, 0.2]], [(1,), "12", 0.2, [1, "2"]]),
        (int | tuple[int, ...], [1, (1, 2)], [1.5, "1", (1, "2")]),
        (Mapping[str, int], [dict(a=1)], [dict(a="1"), {1: 1}, []]),
        (Literal["a", "b"], ["a"], ["c", None]),
        (Callable[..., float], [nothing], ["nothing"]),
        (Any, [None, 1], []),
        (Path, [Path("a")], ["a"]),
        (list, [[1], (1,)], ["a"]),
        (dict[str, Any], [dict(a=1)], [[1]]),
    ],
)
def test_a_value_fits_a_hint(hint, yes, no):
    assert all(fits(value, hint) for value in yes) and not any(fits(value, hint) for value in no) and in_words(hint)


OPTIONS = [
    ("gsm8k", dict(n_train="5"), "n_train='5'; it must be a whole number or None; it takes train, test"),
    ("gsm8k", dict(seed=1.5), "seed=1.5"),
    ("gsm8k", dict(require_format="no"), "require_format='no'; it must be true or false"),
    ("gsm8k", dict(train=5), "train=5"),
    ("math", dict(levels="3"), "levels='3'; it must be a list of whole numbers"),
    ("math", dict(levels=[True]), "levels"),
    ("chain_sum", dict(terms="4"), "terms='4'; it must be a whole number or a list of 2"),
    ("chain_sum", dict(n_train=0), "n_train=0"),
    ("countdown", dict(numbers="3"), "numbers='3'"),
    ("countdown", dict(format_reward=True), "format_reward=True"),
    ("gym", {}, "needs the option 'dataset'"),
    ("humaneval", dict(timeout="5"), "timeout='5'"),
    ("humaneval", dict(timeout=float("inf")), "timeout=inf"),
    ("mbpp", dict(unsafe_code=1), "unsafe_code=1"),
    ("gsm8k", dict(n_trian=5), "no option 'n_trian' .did you mean 'n_train'"),
]


@pytest.mark.parametrize("name, options, message", OPTIONS)
def test_options_of_tasks_are_checked_before_anything_is_read(name, options, message, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("something was read")

    monkeypatch.setattr("mpo_nb.tasks.rows._load", read)
    with pytest.raises(ValueError, match=message):
        load_task(name, **options)


def test_the_options_of_a_task_of_ones_own_are_checked(tmp_path, monkeypatch):
    (tmp_path / "row_tasks.py").write_text(
        "from __future__ import annotations\n"
        "from collections.abc import Sequence\n"
        "from mpo_nb.tasks.task import Task\n"
        "def parity(n: int = 4, bases: Sequence[int] = (2,), label: str | None = None, free=None):\n"
        "    problems = [dict(prompt=f'{i}?', answer=str(i % 2)) for i in range(n)]\n"
        "    return Task('parity', problems, problems, lambda p, r: 0.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(load_task("row_tasks:parity", n=3, bases=(2, 3), label="x", free=object()).train) == 3
    for options, message in (
        (dict(n="3"), "task 'row_tasks:parity': n='3'; it must be a whole number; it takes n, bases, label, free"),
        (dict(n=True), "n=True"),
        (dict(bases="23"), "bases='23'"),
        (dict(label=5), "label=5"),
        (dict(m=3), "no option 'm'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task("row_tasks:parity", **options)


class Builder:
    def __init__(self, n: int = 1): ...
    def __call__(self, n: int = 1): ...


@pytest.mark.parametrize(
    "builder",
    [
        Builder,
        Builder(),
        functools.partial(Builder(), n=2),
        Builder().__call__,
        functools.wraps(Builder().__call__)(lambda *a, **o: None),
    ],
)
def test_whatever_can_be_called_is_checked(builder):
    check_options(builder, dict(n=3), "task 'x'")
    with pytest.raises(ValueError, match="task 'x': n='3'; it must be a whole number"):
        check_options(builder, dict(n="3"), "task 'x'")


def test_hints_that_cannot_be_read_refuse_nothing():
    def build(n: "NoSuchType" = 1, *, m=2): ...  # noqa: F821

    check_options(build, dict(n="anything", m=object()), "task 'x'")
    with pytest.raises(ValueError, match="task 'x': it has no option 'k'; it takes n, m"):
        check_options(build, dict(k=1), "task 'x'")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mpo", dict(k="4"), "k='4'; it must be a whole number"),
        ("mpo", dict(k=True), "k=True"),
        ("mpo", dict(future="0.2"), "future='0.2'"),
        ("mpo", dict(beta="12"), "beta='12'"),
        ("mpo", dict(joint="yes"), "joint='yes'"),
        ("grpo", dict(clip=0.2), "clip=0.2; it must be a list of 2 numbers"),
        ("grpo", dict(clip="ab"), "clip='ab'"),
        ("grpo", dict(kl="0.1"), "kl='0.1'"),
        ("grpo", dict(surrogate=1), "surrogate=1"),
        ("dapo", dict(drop_dead_groups="no"), "drop_dead_groups='no'"),
        ("ma_rlhf", dict(macro="5"), "macro='5'"),
        ("vineppo", dict(continuations="9"), "continuations='9'"),
        (["mpo"], {}, "is unknown; there are mpo"),
    ],
)
def test_options_of_recipes_are_checked_by_type(name, options, message):
    from mpo_nb.recipes import recipe

    with pytest.raises(ValueError, match=message):
        recipe(name, **options)


@pytest.mark.parametrize(
    "check, bad",
    [
        (check_whole, [0, True, 1.0, "1", None]),
        (check_positive, [0, -1, float("inf"), float("nan"), "1", True, None]),
        (check_share, [-0.1, 1.1, float("nan"), "0.5", True]),
        (check_texts, ["a", b"a", None, 5, ["a", 1], [""], dict(a=1)]),
    ],
)
def test_a_value_that_will_not_do_is_named(check, bad):
    for value in bad:
        with pytest.raises(ValueError, match="^temperature"):
            check("temperature", value)
    good = {check_whole: 3, check_positive: 0.5, check_share: 1, check_texts: ("a", "b")}[check]
    assert check("temperature", good) == good
