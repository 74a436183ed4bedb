"""What TRL logs is read as it was said: thoughts with what was said, rewards apart from what is none, steps as numbers,
and odd files by a rule or refused by name."""

import json
import math
import os

import pytest

from mpo_nb.runs.completions import load_completions
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.widgets.rollout_browser import RolloutBrowser

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
ROW = dict(step=3, prompt="2+2?", completion="4", acc=1.0, advantage=0.5)
LINE = json.dumps(ROW).encode()


def logged(folder, rows, name="completions_00003.parquet", **options):
    pandas.DataFrame(rows).to_parquet(folder / name)
    return load_completions(folder / name, **options)


def message(**fields):
    return dict(role="assistant") | fields


@pytest.mark.parametrize(
    "said, text",
    [
        (message(reasoning_content="Two and two.", content="4"), "Two and two.\n\n4"),
        (message(thinking="Two and two.", content="4"), "Two and two.\n\n4"),
        (message(reasoning="Two and two.", content=None), "Two and two."),
        (message(reasoning_content=None, thinking="", reasoning=[], content="4"), "4"),
        (message(reasoning="Two and two.", reasoning_content="Two and two.", content="4"), "Two and two.\n\n4"),
        (
            message(
                reasoning_content=[dict(type="text", text="Two "), dict(type="text", text="and two.")],
                content=[dict(type="text", text="4")],
            ),
            "Two and two.\n\n4",
        ),
        (
            message(content=[dict(type="thinking", thinking="Two and two. "), dict(type="text", text="4")]),
            "Two and two. 4",
        ),
        (
            message(reasoning="Two and two.", content="<think>\nTwo and two.\n</think>\n4"),
            "<think>\nTwo and two.\n</think>\n4",
        ),
        (message(thinking="4", content="4"), "4\n\n4"),
        (message(thinking="Add them.", content="", tool_calls=[dict(name="add")]), 'Add them.\n\n{"name": "add"}'),
        ("4", "4"),
        (None, ""),
        (dict(content="4"), "4"),
    ],
)
def test_what_was_thought_is_kept(said, text, tmp_path):
    (tmp_path / "c.jsonl").write_text(
        json.dumps(ROW | dict(completion=[said] if isinstance(said, dict) and "role" in said else said)) + "\n"
    )
    (trace,) = load_completions(tmp_path / "c.jsonl")
    assert trace.text == text and set(trace.mask) <= {1}


def test_several_turns_in_parquet(tmp_path):
    "A column of structs has every key in every row, None where a message lacks it: the role too."
    turns = [
        message(thinking="Add.", content="", tool_calls=[dict(name="add")]),
        dict(role="tool", content="4", name="add"),
        message(content="4."),
    ]
    one, other = logged(tmp_path, [ROW | dict(completion=turns), ROW | dict(completion=[dict(content="5")])])
    assert one.text == 'Add.\n\n{"name": "add"}44.' and other.text == "5" and other.mask == [1]
    assert [t for t, m in zip(one.tokens, one.mask) if not m] == ["4"]


@pytest.mark.parametrize(
    "columns, advantages, chosen",
    [
        (dict(acc=[1.0, 0.0], length=[57, 40]), [0.7, -0.7], ["acc"]),
        (dict(acc=[1.0, 0.0], response_length=[57.0, 40.0], temperature=[0.7, 1.0]), [0.7, -0.7], ["acc"]),
        (dict(acc=[1, 0], length=[57, 40]), [0.7, -0.7], ["acc"]),
        (dict(acc=[1.0, 0.0], answer=[12, 13]), [0.5, 0.5], ["acc"]),
        (dict(length_penalty=[-0.2, -0.1]), [-0.7, 0.7], ["length_penalty"]),
        (
            dict(exact=[1.0, 0.0, 1.0, 0.0], style=[0.5, 0.25, 0.0, 0.0], spread=[0.3, 0.9, 0.1, 0.5]),
            [0.5, 0.5, -0.5, -0.5],
            ["exact", "style", "spread"],
        ),
        (
            dict(exact=[1.0, 0.0, 1.0, 0.0], style=[0.5, 0.25, 0.0, 0.0], spread=[0.3, 0.9, 0.1, 0.5]),
            [1.5 - 0.6875, 0.25 - 0.6875, 1 - 0.6875, -0.6875],
            ["exact", "style"],
        ),
        (dict(exact_reward=[1.0], style_reward=[0.5], spread=[0.3]), [0.1], ["exact_reward", "style_reward"]),
        (dict(exact=[1.0], style=[0.5]), [0.1], ["exact", "style"]),
    ],
)
def test_rewards_are_told_from_other_numbers(columns, advantages, chosen, tmp_path):
    rows = [ROW | {c: v[i] for c, v in columns.items()} | dict(advantage=a) for i, a in enumerate(advantages)]
    for row in rows:
        if "acc" not in columns:
            del row["acc"]
    others = [c for c in columns if c not in chosen]
    if others:
        with pytest.warns(
            UserWarning, match=f"{', '.join(chosen)} .* taken for the reward, and {', '.join(others)} .*rewards="
        ):
            traces = logged(tmp_path, rows)
    else:
        traces = logged(tmp_path, rows)
    assert [t.reward for t in traces] == pytest.approx([sum(columns[c][i] for c in chosen) for i in range(len(rows))])
    assert [
        t.reward for t in load_completions(tmp_path / "completions_00003.parquet", rewards=list(columns))
    ] == pytest.approx([sum(v[i] for v in columns.values()) for i in range(len(rows))])


def test_steps_are_numbers(tmp_path):
    for step in (9, 10, 99_999, 100_000):
        pandas.DataFrame([ROW | dict(step=str(step), completion=f"at {step}")]).to_parquet(
            tmp_path / f"completions_{step:05d}.parquet"
        )
    assert [t.step for t in load_completions(tmp_path)] == [9, 10, 99_999, 100_000] == RolloutBrowser(tmp_path).steps
    assert [t.text for t in load_traces(tmp_path, steps=[10])] == ["at 10"]


@pytest.mark.parametrize(
    "content, texts",
    [
        (b"\xef\xbb\xbf" + LINE + b"\r\n\r\n" + LINE, ["4", "4"]),
        (LINE + b"\n\0\0\0", ["4"]),
        (b"", []),
        (b"\n\n", []),
        (json.dumps(ROW | dict(completion="4\ud83d.")).encode(), ["4\ufffd."]),
        (json.dumps(ROW | dict(completion="🙂")).encode(), ["🙂"]),
    ],
)
def test_odd_but_readable(content, texts, tmp_path):
    file = tmp_path / "completions_00003.jsonl"
    file.write_bytes(content)
    traces = load_completions(file)
    assert [t.text for t in traces] == texts and [t.text for t in load_traces(tmp_path)] == texts
    if traces:
        RolloutBrowser(traces).to_html(tmp_path / "page.html")


def test_csv_and_columns_that_are_missing(tmp_path):
    chat = [dict(role="user", content="2+2?")]
    pandas.DataFrame(
        [ROW, ROW | dict(prompt=chat, completion=[message(thinking="Add.", content='"4",\n')], acc=None)]
    ).to_csv(tmp_path / "c.csv", index=False)
    one, other = load_traces(tmp_path / "c.csv")
    assert (
        (one.text, one.reward) == ("4", 1.0)
        and (other.prompt, other.text) == ("user: 2+2?", 'Add.\n\n"4",\n')
        and math.isnan(other.reward)
    )
    (tmp_path / "c.jsonl").write_bytes(LINE + b'\n{"step": null, "prompt": "2+2?", "completion": "5"}\n')
    one, other = load_completions(tmp_path / "c.jsonl")
    assert one.reward == 1.0 and math.isnan(other.reward) and math.isnan(other.advantage) and other.step == 0


def test_what_cannot_be_read_is_said(tmp_path):
    file = tmp_path / "completions_00003.jsonl"
    file.write_bytes(LINE + b"\n" + LINE[:20])
    with pytest.warns(UserWarning, match="completions_00003.jsonl ends in the middle of a line, which is left out"):
        assert len(load_completions(file)) == 1
    for content, said in (
        (LINE + b"\n{\n" + LINE, "line 2 of .* is not JSON"),
        (LINE.decode().encode("utf-16"), "is written in UTF-16"),
        (b'{"step": "soon", "prompt": "", "completion": ""}\n', "step='soon', which is no whole number"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_completions(file)
    for wrong, said in (
        (dict(rewards="acc"), r"rewards='acc'; pass a list"),
        (dict(pass_mark="1"), "pass_mark='1'"),
        (dict(tokenizer="tiny"), "tokenizer='tiny' is of type str"),
    ):
        with pytest.raises(ValueError, match=said):
            load_completions(file, **wrong)
    with pytest.raises(FileNotFoundError, match="did you mean .*completions_00003.jsonl"):
        load_completions(tmp_path / "completions_0003.jsonl")


def test_files_of_two_runs_are_said(tmp_path):
    for step in (1, 2, 3):
        pandas.DataFrame([ROW | dict(step=step)]).to_parquet(tmp_path / f"completions_{step:05d}.parquet")
    os.utime(tmp_path / "completions_00003.parquet", (1e9, 1e9))
    with pytest.warns(UserWarning, match="completions_00003.parquet is older than completions_00002.parquet.*two runs"):
        load_completions(tmp_path)
