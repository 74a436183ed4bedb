"""What verl dumps while it trains is read as it was: written by verl's own writers where verl is at hand, and by hand
in the forms of its releases."""

import ast
import gzip
import importlib.util
import json
import math
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from verl_process import WHY_NOT, find_verl

from mpo_nb.advantages import group_advantages, leave_one_out
from mpo_nb.drawing.report import report_html
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runs.reading import made_up_run
from mpo_nb.runs.trace_files import load_logged, load_traces
from mpo_nb.runs.verl_dumps import load_verl_rollouts
from mpo_nb.widgets.block_explorer import BlockExplorer
from mpo_nb.widgets.credit_explorer import CreditExplorer
from mpo_nb.widgets.ratio_lab import RatioLab
from mpo_nb.widgets.rollout_browser import RolloutBrowser

NASTY = "</script><img src=x onerror=alert(1)> \u202e\u2028 中🙂.\nNext; one"
PROMPTS = {"7+5?": "12", "9-2?": "7", "1+1?": "2"}


def rows(step=3, seed=0, size=3):
    "Responses of three prompts, in an order of its own: (columns, verl's keys of the present trainer)."
    made = [
        dict(input=f"user\n{q}\nassistant\n", output=f"{NASTY} {q}{i}", gts=a, score=float(i == 0), key=f"{q}_{i}_0")
        for q, a in PROMPTS.items()
        for i in range(size)
    ]
    random.Random(seed).shuffle(made)
    keys = [r.pop("key") for r in made]
    return {name: [r[name] for r in made] for name in made[0]}, keys


def write(folder, step, columns):
    folder.mkdir(exist_ok=True)
    (folder / f"{step}.jsonl").write_text(
        "".join(
            json.dumps(dict(zip(columns, values)) | dict(step=step), ensure_ascii=False) + "\n"
            for values in zip(*columns.values())
        )
    )


def check(traces, steps=(3,), known=True):
    "The nine responses of each step, prompt by prompt, each as it was."
    assert sorted({t.step for t in traces}) == list(steps) and len(traces) == 9 * len(steps)
    for step in steps:
        here = [t for t in traces if t.step == step]
        assert [(t.group, t.index) for t in here] == [(g, i) for g in range(3) for i in range(3)]
        for g in range(3):
            group = [t for t in here if t.group == g]
            (prompt,) = {t.prompt for t in group}
            (answer,) = {t.answer for t in group}
            question = prompt.split("\n")[1]
            assert (answer == PROMPTS[question]) if known else (answer is None)
            assert {t.text for t in group} == {f"{NASTY} {question}{i}" for i in range(3)}
            assert all(t.reward == float(t.text.endswith("?0")) for t in group)


# verl's own writers


def trainer_class(file: str):
    """The methods of verl's trainer that dump rollouts, taken out of their file: its other imports are a rollout
    server's."""
    folder = find_verl()
    if folder is None:
        pytest.skip(WHY_NOT)
    home = Path(importlib.util.find_spec("verl").origin).parent if folder == Path() else folder / "verl"
    if not (home / file).is_file():
        pytest.skip(f"this release of verl has no {file}")
    names = {"_write_generations", "_dump_generations", "_init_dump_executor", "_shutdown_dump_executor"}
    found = [
        f
        for c in ast.parse((home / file).read_text()).body
        if isinstance(c, ast.ClassDef)
        for f in c.body
        if isinstance(f, ast.FunctionDef) and f.name in names
    ]
    assert {f.name for f in found} == names
    body = ast.Module([ast.ClassDef("Trainer", [], [], found, [], type_params=[])], [])
    space = dict(json=json, os=os, np=np, ThreadPoolExecutor=ThreadPoolExecutor)
    exec(compile(ast.fix_missing_locations(body), file, "exec"), space)
    return space["Trainer"]


@pytest.mark.parametrize("file", ["trainer/ppo/ray_trainer.py", "trainer/ppo/v1/trainer_base.py"])
def test_what_verl_writes(tmp_path, file, capsys):
    trainer = trainer_class(file)()
    new = "v1" in file
    trainer._init_dump_executor()
    for step in (3, 20):
        columns, keys = rows(seed=step)
        order = sorted(range(9), key=lambda i: keys[i]) if new else range(9)  # the present trainer sorts by key
        columns = {name: [values[i] for i in order] for name, values in columns.items()}
        extra = dict(acc=[np.bool_(s == 1) for s in columns["score"]], pred=["x"] * 9, short=[1]) | (
            dict(uid=[keys[i] for i in order]) if new else dict(request_id=[f"r{i}" for i in range(9)])
        )
        trainer.global_steps = step
        trainer._dump_generations(
            inputs=columns["input"],
            outputs=columns["output"],
            gts=columns["gts"],
            scores=columns["score"],
            reward_extra_infos_dict=extra,
            dump_path=str(tmp_path),
        )
    trainer._shutdown_dump_executor()
    traces = load_verl_rollouts(tmp_path)
    check(traces, (3, 20))
    assert all(t.correct is (t.reward == 1) for t in traces) and all(math.isnan(t.advantage) for t in traces)
    if new:
        assert all(t.text.endswith(str(t.index)) for t in traces)


# The forms of its releases, by hand


def test_no_right_answer_before_0_6(tmp_path):
    columns, _ = rows()
    del columns["gts"]
    write(tmp_path, 3, columns)
    traces = load_verl_rollouts(tmp_path)
    check(traces, known=False)
    assert all(t.correct is None for t in traces) and [
        t.correct for t in load_verl_rollouts(tmp_path, pass_mark=1.0)
    ] == [t.reward == 1 for t in traces]


@pytest.mark.parametrize("seed", range(8))
def test_groups_do_not_depend_on_the_order(tmp_path, seed):
    columns, keys = rows(seed=seed)
    write(tmp_path / "text", 3, columns)
    write(tmp_path / "uid", 3, columns | dict(uid=keys))
    check(load_verl_rollouts(tmp_path / "text"))
    by_key = load_verl_rollouts(tmp_path / "uid")
    check(by_key)
    assert all(t.text.endswith(str(t.index)) for t in by_key)


def test_the_uid_parts_equal_prompts(tmp_path):
    "Two rows of the data set with the same text are two groups when the uid says so; one when nothing does."
    columns = dict(input=["same"] * 4, output=list("abcd"), gts=["1"] * 4, score=[1.0, 0.0, 1.0, 0.0])
    write(tmp_path / "uid", 1, columns | dict(uid=["p_q_0_0", "x_0_0", "p_q_1_0", "x_1_0"]))
    write(tmp_path / "text", 1, columns)
    assert [(t.group, t.text) for t in load_verl_rollouts(tmp_path / "uid")] == [(0, "a"), (0, "c"), (1, "b"), (1, "d")]
    assert [(t.group, t.index) for t in load_verl_rollouts(tmp_path / "text")] == [(0, i) for i in range(4)]
    write(tmp_path / "odd", 1, columns | dict(uid=["p", "q", 3, None]))  # no uid of verl's
    assert {t.group for t in load_verl_rollouts(tmp_path / "odd")} == {0}


@pytest.mark.parametrize("how", ["group-std", "group-mean", "leave-one-out", None])
def test_advantages(tmp_path, how):
    columns, _ = rows()
    columns = {k: v + [{"input": "alone", "output": "x", "gts": "1", "score": 0.25}[k]] for k, v in columns.items()}
    write(tmp_path, 1, columns)
    traces = load_verl_rollouts(tmp_path, advantage=how)
    if how is None:
        assert all(math.isnan(t.advantage) for t in traces)
        return
    import torch

    r = torch.tensor([t.reward for t in traces if t.prompt != "alone"], dtype=torch.double)
    wanted = (
        leave_one_out(r, 3)
        if how == "leave-one-out"
        else group_advantages(r, 3, how.removeprefix("group-").replace("mean", "none"), eps=1e-6)
    )
    assert [t.advantage for t in traces if t.prompt != "alone"] == pytest.approx(wanted.tolist(), abs=1e-12)
    assert [t.advantage for t in traces if t.prompt == "alone"] == [0.25]


def test_odd_values(tmp_path):
    columns = dict(
        input=["a", "a", "b"],
        output=["", "x", "y"],
        gts=[["1", "2"], ["1", "2"], None],
        score=[None, math.nan, 2],
        acc=["False", 0.5, [1]],
    )
    write(tmp_path, 0, columns)
    traces = load_verl_rollouts(tmp_path, advantage="group-std")
    assert (
        [t.answer for t in traces] == ['["1", "2"]', '["1", "2"]', None]
        and [t.correct for t in traces] == [None] * 3
        and traces[0].tokens == []
    )
    assert (
        all(math.isnan(t.advantage) for t in traces[:2]) and traces[2].advantage == 2 and math.isnan(traces[0].reward)
    )
    assert [t.correct for t in load_verl_rollouts(tmp_path, pass_mark=1)] == [None, None, True]


def test_with_the_models_tokens(tmp_path):
    from transformers import AutoTokenizer

    write(tmp_path, 1, dict(input=["7+5?"], output=["7+5=12"], score=[1.0]))
    (trace,) = load_verl_rollouts(tmp_path, AutoTokenizer.from_pretrained(tiny_model_path()))
    assert trace.tokens == list("7+5=12") and min(trace.token_ids) >= 0 and trace.note == "dumped by verl"
    assert load_verl_rollouts(tmp_path)[0].note.endswith("not the model's own tokens")


# What looks at them


def test_widgets_and_report(tmp_path):
    columns, keys = rows()
    for step in (1, 3):
        write(tmp_path, step, columns | dict(uid=keys))
    browser = RolloutBrowser(tmp_path, pick=1)
    assert browser.steps == [1, 3] and browser.values["step"] == 3
    view = browser.picture()
    assert "9 recorded responses in 3 groups" in view.summary and view.strips[0]["title"].startswith(
        "No log-probabilities"
    )
    assert len(browser.responses(1)) == 9 and not any(r.dead for r in browser.responses(1))
    page = browser.html()
    assert "<img src=x" not in page and "\u202e" not in page
    write(tmp_path, 7, columns)
    browser.refresh()
    assert browser.steps == [1, 3, 7]
    assert (
        RolloutBrowser(load_verl_rollouts(tmp_path, advantage="group-std"))
        .picture(show="alive")
        .extra.count("data-pick")
        == 9
    )
    trace = load_traces(tmp_path)[0]
    assert BlockExplorer(trace, rule="sentence").picture().strips and CreditExplorer(trace).picture().strips
    with pytest.raises(ValueError, match="log-prob"):
        RatioLab(tmp_path)
    assert "<img src=x" not in report_html([tmp_path])


def test_load_traces_finds_out_whose_they_are(tmp_path):
    columns, _ = rows()
    write(tmp_path / "dump", 3, columns)
    check(load_traces(tmp_path / "dump"))
    check(load_traces(tmp_path / "dump" / "3.jsonl"))
    (tmp_path / "dump" / "3.jsonl").rename(tmp_path / "dump" / "kept.jsonl")
    check(load_traces(tmp_path / "dump" / "kept.jsonl"))
    ours = made_up_run(tmp_path / "ours", steps=1)
    write(ours, 3, columns)
    assert len(load_traces(ours)) == 4 and load_logged(ours / "traces.jsonl") is None  # a run of our own goes first
    (tmp_path / "none").mkdir()
    for path, message in (
        (tmp_path / "none", "TRL's completions or verl's rollouts"),
        (tmp_path / "none" / "3.jsonl", "no such file"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_traces(path)
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    (tmp_path / "out" / "completions").mkdir(parents=True)
    pandas.DataFrame(dict(step=[5], prompt=["a"], completion=["b"], exact=[1.0], advantage=[0.5])).to_parquet(
        tmp_path / "out" / "completions" / "completions_00005.parquet"
    )
    assert (
        [t.text for t in load_traces(tmp_path / "out")]
        == ["b"]
        == [t.text for t in load_traces(tmp_path / "out" / "completions" / "completions_00005.parquet")]
    )


VERL = dict(input="7+5?", output="12", score=1.0, step=10)


@pytest.mark.parametrize(
    "content, told",
    [
        (json.dumps(VERL), [("7+5?", "12", 1.0, 10)]),  # a last line without its end
        ("\ufeff" + json.dumps(VERL) + "\r\n\r\n", [("7+5?", "12", 1.0, 10)]),
        (json.dumps(VERL) + "\n\0\0\0", [("7+5?", "12", 1.0, 10)]),
        (json.dumps(VERL | dict(output="1\ud83d2")), [("7+5?", "1\ufffd2", 1.0, 10)]),
        (
            json.dumps(VERL | dict(input=[dict(role="system", content="Add."), dict(role="user", content="7+5?")])),
            [("system: Add.\nuser: 7+5?", "12", 1.0, 10)],
        ),
        (
            json.dumps(VERL | dict(output=[dict(role="assistant", reasoning="Add.", content="12")])),
            [("7+5?", "Add.\n\n12", 1.0, 10)],
        ),
        (json.dumps(VERL | dict(score="1", step="10", length=57)), [("7+5?", "12", 1.0, 10)]),
        (json.dumps(VERL | dict(score=True, step=10.0)), [("7+5?", "12", 1.0, 10)]),
        (json.dumps(VERL | dict(output=12, step=None)), [("7+5?", "12", 1.0, 9)]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_odd_but_readable(content, told, tmp_path):
    for name, data in (("9.jsonl", content.encode()), ("9.jsonl.gz", gzip.compress(content.encode()))):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(data)
        for traces in (load_verl_rollouts(folder), load_traces(folder)):
            assert [(t.prompt, t.text, t.reward, t.step) for t in traces] == told


def test_scores_that_some_rows_lack(tmp_path):
    (tmp_path / "1.jsonl").write_text(
        '{"input": "a", "output": "b", "score": NaN}\n{"input": "a", "output": "c"}\n{"input": "a", "output": "d",'
        ' "score": ""}\n{"input": "a", "output": "e", "score": 1, "acc": "1"}'
    )
    traces = load_verl_rollouts(tmp_path, pass_mark=1)
    assert [math.isnan(t.reward) for t in traces] == [True] * 3 + [False] and [t.correct for t in traces] == [
        None
    ] * 3 + [True]
    for score in ("good", 10**400):
        (tmp_path / "1.jsonl").write_text(json.dumps(VERL | dict(score=score)))
        with pytest.raises(
            ValueError, match=f"record 1 of .*1.jsonl has score={repr(score)[:9]}.*, which is no number"
        ):
            load_verl_rollouts(tmp_path)


def test_odd_files_are_named(tmp_path):
    file = tmp_path / "1.jsonl"
    line = json.dumps(VERL)
    for content, said in (
        (line.encode("utf-16"), "is written in UTF-16"),
        (f"{line}\n{line[:9]}\n{line}".encode(), "line 2 of .*1.jsonl is not JSON"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_traces(tmp_path)
    file.write_text(f"{line}\n{line[:9]}")
    with pytest.warns(UserWarning, match="1.jsonl ends in the middle of a line"):
        assert len(load_verl_rollouts(tmp_path)) == 1
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(line.encode() * 99)[:-9])
    with pytest.raises(ValueError, match="2.jsonl.gz is no whole gzip file"):
        load_verl_rollouts(tmp_path / "2.jsonl.gz")
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    os.utime(tmp_path / "2.jsonl.gz", (1e9, 1e9))
    file.write_text(line)
    with pytest.warns(UserWarning, match="2.jsonl.gz is older than 1.jsonl"):
        assert len(load_verl_rollouts(tmp_path)) == 2
    for wrong, said in (
        (None, "path=None is of type NoneType"),
        (3, "path=3"),
        ([tmp_path], "is a list; pass one path"),
        ("", "path='' is empty"),
    ):
        with pytest.raises(ValueError, match=said):
            load_verl_rollouts(wrong)


def test_what_is_wrong_is_said(tmp_path):
    for path, message in ((tmp_path, "holds no files like 10.jsonl"), (tmp_path / "absent", "no such file or folder")):
        with pytest.raises(FileNotFoundError, match=message):
            load_verl_rollouts(path)
    with pytest.raises(ValueError, match="advantage='gae'"):
        load_verl_rollouts(tmp_path, advantage="gae")
    file = tmp_path / "1.jsonl"
    file.write_text('{"input": "a", "output": "b"}\n')
    with pytest.raises(ValueError, match="record 1 of .* has no score"):
        load_verl_rollouts(tmp_path)
    file.write_text("[1]\n")
    with pytest.raises(ValueError, match="no input, output, score"):
        load_verl_rollouts(file)
    file.write_text("not JSON\n")
    with pytest.raises(ValueError, match="not JSON; pass what verl writes"):
        load_traces(tmp_path)
    file.write_text('{"input": "a", "output": "b", "score": 1.0}\n{"input": "a", "outp')
    assert [(t.text, t.step) for t in load_verl_rollouts(tmp_path)] == [
        ("b", 1)
    ]  # the last line is still being written
