"""Runs that are killed: every file of a run folder stays readable, and a resumed run writes what an uninterrupted one
would have."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import pytest
import torch

from mpo_nb.runs.folder import Run
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.runtime.files import read_lines
from mpo_nb.runtime.manifest import damage, manifest_name
from mpo_nb.runtime.tensors import load_optimizer
from mpo_nb.training.metrics import clock_metrics

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
CONFIG = dict(
    steps=6,
    prompts_per_step=2,
    group_size=4,
    epochs=2,
    minibatches=2,
    eval_every=3,
    eval_problems=8,
    checkpoint_every=1,
    precision="float32",
    trace_groups=1,
    progress=False,
)
KILLS_AT_CALLS = (
    [("os.replace", n) for n in range(1, 11)]
    + [("os.fsync", n) for n in (1, 3, 6, 9, 12)]
    + [("shutil.rmtree", n) for n in (1, 2, 3, 4)]
    + [("save_optimizer", n) for n in (1, 2, 3)]
    + [("half a line", n) for n in (2, 5)]
)
KILLS_AT_TIMES = 8
# Adapters instead of weights, a reference that is the model without them, and an evaluation in every step.
LORA = dict(lora_rank=4, recipe_options='{"kl": 0.05}', eval_every=1, steps=4)
LORA_KILLS = [
    ("os.replace", 4),
    ("os.replace", 7),
    ("os.fsync", 2),
    ("os.fsync", 8),
    ("shutil.rmtree", 3),
    ("save_optimizer", 2),
    ("half a line", 3),
    ("evaluate", 3),
]


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(owner, name: str, call: int):
    "Replaces a function by one that kills the process when it is called for the n-th time, before anything is done."
    count = 0
    original = getattr(owner, name)

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            die()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def train(folder: str, where: str = "", call: int = 0, ready=None, options=None):
    "What the child process does: the whole run, or the part before it dies."
    import shutil

    import torch

    import mpo_nb.runs.folder
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")
    if where in ("os.replace", "os.fsync", "shutil.rmtree"):
        dies_at({"os": os, "shutil": shutil}[where.split(".")[0]], where.split(".")[1], call)
    elif where == "save_optimizer":
        dies_at(mpo_nb.runs.folder, "save_optimizer", call)
    elif where == "half a line":
        count = 0

        def append(self, path, rows):
            nonlocal count
            count += 1
            text = "".join(json.dumps(row) + "\n" for row in rows)
            with open(path, "a", encoding="utf8") as f:
                f.write(text[: len(text) // 2] if count == call else text)
            if count == call:
                die()

        Run.append = append
    elif where == "evaluate":
        dies_at(Trainer, "evaluate", call)
    trainer = Trainer(TrainConfig(output=folder, **CONFIG | (options or {})))
    if ready is not None:
        ready.set()
    try:
        trainer.fit()
    except KeyboardInterrupt:
        sys.exit(130)


@pytest.fixture(scope="module")
def context():
    "Child processes that begin with everything imported."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mpo_nb.training.trainer", "transformers.models.llama.modeling_llama"])
    return context


def run_child(context, *args) -> int:
    child = context.Process(target=train, args=args)
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the child process hangs"
    return child.exitcode


def content(folder: Path) -> tuple[list, list]:
    "What a run computed: metrics without clocks, and traces."
    metrics = [{k: v for k, v in row.items() if k not in clock_metrics} for row in read_lines(folder / "metrics.jsonl")]
    return metrics, read_lines(folder / "traces.jsonl")


def uninterrupted(context, folder: Path, options=None) -> float:
    "A whole run; returns how many seconds it took from its first step."
    ready = context.Event()
    child = context.Process(target=train, args=(str(folder), "", 0, ready, options))
    child.start()
    assert ready.wait(120)
    start = time.time()
    child.join(120)
    assert child.exitcode == 0
    return time.time() - start


@pytest.fixture(scope="module")
def whole(context, tmp_path_factory):
    "What a run that nothing interrupts writes, and how long it takes from its first step."
    folder = tmp_path_factory.mktemp("whole")
    seconds = uninterrupted(context, folder)
    metrics, traces = content(folder)
    assert [row["step"] for row in metrics] == list(range(7)) and len(traces) == 24
    return (metrics, traces), seconds


def check_readable(folder: Path):
    "Whatever the moment of the kill, what lies there can be read."
    read_lines(folder / "metrics.jsonl")
    if (folder / "traces.jsonl").exists():
        load_traces(folder / "traces.jsonl")
    for _, checkpoint in Run(folder).checkpoints():
        from mpo_nb.models.loading import load

        load(checkpoint, device="cpu", precision="float32", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("where, call", KILLS_AT_CALLS, ids=[f"{w} {n}" for w, n in KILLS_AT_CALLS])
def test_killed_while_writing(where, call, context, whole, tmp_path):
    assert run_child(context, str(tmp_path), where, call) == -signal.SIGKILL, "the kill point was never reached"
    check_readable(tmp_path)
    assert run_child(context, str(tmp_path)) == 0
    assert content(tmp_path) == whole[0]


@pytest.mark.slow
def test_killed_at_random_moments(context, whole, tmp_path):
    "Random delays over the length of a run; a child that was quicker than its killer counts as one that finished."
    moments = random.Random(0)
    killed = 0
    for attempt in range(KILLS_AT_TIMES):
        folder = tmp_path / str(attempt)
        ready = context.Event()
        child = context.Process(target=train, args=(str(folder), "", 0, ready))
        child.start()
        assert ready.wait(120)
        time.sleep(moments.uniform(0, 0.9 * whole[1]))
        child.kill()
        child.join(120)
        killed += child.exitcode == -signal.SIGKILL
        check_readable(folder)
        assert run_child(context, str(folder)) == 0
        assert content(folder) == whole[0]
    assert killed >= KILLS_AT_TIMES // 2


@pytest.mark.slow
def test_killed_again_and_again(context, whole, tmp_path):
    "One folder, killed in every process that takes it up, still ends with the same numbers."
    for call in (14, 9, 9, 11, 8):
        run_child(context, str(tmp_path), "os.fsync", call)
        check_readable(tmp_path)
    assert run_child(context, str(tmp_path)) == 0
    assert content(tmp_path) == whole[0]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(context, whole, tmp_path):
    moments = random.Random(1)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        ready = context.Event()
        child = context.Process(target=train, args=(str(folder), "", 0, ready))
        child.start()
        assert ready.wait(120)
        time.sleep(moments.uniform(0.2, 0.7) * whole[1])
        with contextlib.suppress(ProcessLookupError):  # it has finished
            os.kill(child.pid, signal.SIGINT)
        child.join(120)
        assert child.exitcode in (0, 130)
        metrics = read_lines(folder / "metrics.jsonl")
        saved = Run(folder).checkpoints()
        if metrics and metrics[-1]["step"] > 0:
            assert saved and saved[-1][0] == metrics[-1]["step"], "the last whole step was not saved"
        assert run_child(context, str(folder)) == 0
        assert content(folder) == whole[0]


def test_ctrl_c_says_where_the_run_stands(tmp_path, capsys):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    trainer = Trainer(TrainConfig(output=str(tmp_path / "run"), **CONFIG))

    def interrupt(row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(callback=interrupt)
    said = "".join(capsys.readouterr())
    assert (
        "Stopped; step 3 of 6 is saved in" in said
        and "The same command, or Trainer(config).fit(), goes on from there" in said
    )
    assert [row["step"] for row in Trainer(TrainConfig(output=str(tmp_path / "run"), **CONFIG)).fit()] == list(range(7))


def test_a_second_ctrl_c_is_obeyed_at_once(tmp_path, capsys):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    trainer = Trainer(TrainConfig(output=str(tmp_path / "run"), **CONFIG))
    update = trainer.update
    done = []

    def slow(batch, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            update(batch, step)
            os.kill(os.getpid(), signal.SIGINT)
            done.append(step)
        return update(batch, step)

    trainer.update = slow
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert not done, "the second interrupt was not obeyed"
    assert Run(tmp_path / "run").checkpoints()[-1][0] == 3, "weights between two steps were saved"
    assert "step 3 of 6 is saved" in "".join(capsys.readouterr())


# Adapters


@pytest.fixture(scope="module")
def whole_lora(context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    seconds = uninterrupted(context, folder, LORA)
    metrics, traces = content(folder)
    assert [row["step"] for row in metrics] == list(range(5)) and all("accuracy_greedy" in row for row in metrics)
    assert abs(metrics[1]["kl_ref"]) < 1e-6 < metrics[-1]["kl_ref"], "the adapters never moved away from the reference"
    return (metrics, traces), seconds


@pytest.mark.slow
@pytest.mark.parametrize("where, call", LORA_KILLS, ids=[f"{w} {n}" for w, n in LORA_KILLS])
def test_killed_with_adapters_and_evaluations(where, call, context, whole_lora, tmp_path):
    assert run_child(context, str(tmp_path), where, call, None, LORA) == -signal.SIGKILL, (
        "the kill point was never reached"
    )
    check_readable(tmp_path)
    assert run_child(context, str(tmp_path), "", 0, None, LORA) == 0
    assert content(tmp_path) == whole_lora[0]


@pytest.mark.slow
def test_killed_at_random_moments_with_adapters(context, whole_lora, tmp_path):
    moments = random.Random(2)
    killed = 0
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        ready = context.Event()
        child = context.Process(target=train, args=(str(folder), "", 0, ready, LORA))
        child.start()
        assert ready.wait(120)
        time.sleep(moments.uniform(0, 0.9 * whole_lora[1]))
        child.kill()
        child.join(120)
        killed += child.exitcode == -signal.SIGKILL
        check_readable(folder)
        assert run_child(context, str(folder), "", 0, None, LORA) == 0
        assert content(folder) == whole_lora[0]
    assert killed >= 2


# Batches that wait

# Two batches are in the queue of every checkpoint; old log-probabilities, reference and values are as old as they are.
LAG = dict(lag=2, steps=5, recipe="ppo", recipe_options='{"kl": 0.05}', old_logps="recompute")
LAG_KILLS = [("os.fsync", 12), ("half a line", 8)]


@pytest.fixture(scope="module")
def whole_lag(context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lag")
    uninterrupted(context, folder, LAG)
    metrics, traces = content(folder)
    assert [row.get("batch_age") for row in metrics] == [None, 0, 1, 2, 2, 2]
    return metrics, traces


@pytest.mark.slow
@pytest.mark.parametrize("where, call", LAG_KILLS, ids=[f"{w} {n}" for w, n in LAG_KILLS])
def test_killed_with_batches_that_wait(where, call, context, whole_lag, tmp_path):
    assert run_child(context, str(tmp_path), where, call, None, LAG) == -signal.SIGKILL, "the kill was never reached"
    check_readable(tmp_path)
    assert run_child(context, str(tmp_path), "", 0, None, LAG) == 0
    assert content(tmp_path) == whole_lag


@pytest.mark.parametrize("recipe, room", [("mpo", 0), ("dapo", 12)])  # 12 tokens: every response is cut off there
def test_a_run_with_a_lag_goes_on_where_it_stopped(recipe, room, tmp_path, recwarn):
    "In one process: a run that is longer than was asked for first, one that Ctrl-C stopped while it sampled."
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    options = CONFIG | dict(lag=3, recipe=recipe, eval_every=0, checkpoint_every=2, max_new_tokens=room)

    def fit(name, **more):
        return Trainer(TrainConfig(output=str(tmp_path / name), **options | more)).fit()

    fit("whole")
    fit("longer", steps=3)
    fit("longer")
    trainer = Trainer(TrainConfig(output=str(tmp_path / "stopped"), **options))
    collect = trainer.collect

    def interrupted(number):
        batch = collect(number)
        if number == 7:  # step 4 samples it
            os.kill(os.getpid(), signal.SIGINT)
        return batch

    trainer.collect = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert Run(tmp_path / "stopped").checkpoints()[-1][0] == 3
    fit("stopped")
    assert content(tmp_path / "longer") == content(tmp_path / "stopped") == content(tmp_path / "whole")
    assert not [w for w in recwarn if "do not trust this run" in str(w.message)], "drift was taken for a fault"


def test_without_a_lag_a_checkpoint_holds_no_queue(tmp_path):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    Trainer(TrainConfig(output=str(tmp_path), **CONFIG | dict(steps=1, eval_every=0))).fit()
    (_, checkpoint), *_ = Run(tmp_path).checkpoints()
    assert not list(checkpoint.glob("queue*")) and "queue" not in json.loads((checkpoint / "state.json").read_text())


def test_a_damaged_queue_is_named_and_the_checkpoint_before_it_used(tmp_path):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    options = CONFIG | dict(lag=2, steps=3, eval_every=0)
    rows = Trainer(TrainConfig(output=str(tmp_path), **options)).fit()
    spoil(Run(tmp_path).checkpoints()[-1][1] / "queue.safetensors", "a bit", tmp_path)
    with pytest.warns(UserWarning, match="queue.safetensors is not what was written.*step 2"):
        again = Trainer(TrainConfig(output=str(tmp_path), **options)).fit()
    kept = [{k: v for k, v in row.items() if k not in clock_metrics} for row in rows]
    assert [{k: v for k, v in row.items() if k not in clock_metrics} for row in again] == kept


# A disk that spoils what was written


def spoil(file: Path, how: str, other: Path):
    "Damage of one kind; `other` is the same file of another step."
    content = bytearray(file.read_bytes())
    if how == "empty":
        content = bytearray()
    elif how == "cut":
        del content[-3:]
    elif how == "a bit":
        content[len(content) // 2] ^= 16
    elif how == "more":
        content += b"garbage"
    elif how == "of another step":
        content = bytearray(other.read_bytes())
    file.write_bytes(content)
    if how == "missing":
        file.unlink()


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    "A run of three steps with its last two checkpoints, and what it computed."
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    folder = tmp_path_factory.mktemp("three") / "run"
    Trainer(TrainConfig(output=str(folder), **CONFIG | dict(steps=3, eval_every=0))).fit()
    return folder, content(folder)


DAMAGE = [("model.safetensors", how, True) for how in ("empty", "cut", "a bit", "more", "missing")]
DAMAGE += [
    ("optimizer.safetensors", "a bit", True),
    ("state.json", "empty", True),
    ("state.json", "missing", True),
    ("tokenizer.json", "a bit", True),
    (manifest_name, "cut", True),
]
DAMAGE += [(name, "of another step", True) for name in ("optimizer.safetensors", "state.json")]
# What shows without checksums, in a checkpoint of an earlier version.
DAMAGE += [
    ("model.safetensors", "cut", False),
    ("model.safetensors", "missing", False),
    ("optimizer.safetensors", "empty", False),
    ("tokenizer.json", "cut", False),
]
DAMAGE += [("state.json", how, False) for how in ("cut", "of another step")]


@pytest.mark.parametrize(
    "name, how, manifest", DAMAGE, ids=[f"{n} {h}{'' if m else ', no checksums'}" for n, h, m in DAMAGE]
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_used(name, how, manifest, three_steps, tmp_path):
    run = Run(shutil.copytree(three_steps[0], tmp_path / "run"))
    (_, before), (_, newest) = run.checkpoints()
    if not manifest:
        for folder in (before, newest):
            (folder / manifest_name).unlink()
    assert run.newest() == (3, newest)
    spoil(newest / name, how, before / name)
    with pytest.warns(UserWarning, match=f"step-000003.*{name}.*goes on from step 2, the one before it"):
        assert run.newest() == (2, before)
    assert (run.checkpoints_path / "damaged-step-000003").is_dir() and [s for s, _ in run.checkpoints()] == [2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.newest() == (2, before)


def test_a_tokenizer_of_several_chat_templates_is_saved_and_checked(tmp_path):
    from mpo_nb.models.loading import load

    model, tokenizer = load("tiny", device="cpu", precision="float32", quiet=True)
    tokenizer.chat_template = dict(default="{{ messages[0].content }}", tool_use="{{ tools }}{{ messages[0].content }}")
    saved = Run(tmp_path).save(1, model, tokenizer, torch.optim.AdamW(model.parameters()), {})
    assert (
        not damage(saved, 1)
        and load(saved, device="cpu", precision="float32", quiet=True)[1].chat_template == tokenizer.chat_template
    )
    inner = next(saved.glob("additional_chat_templates/*"))
    spoil(inner, "a bit", inner)
    assert damage(saved, 1) == [f"additional_chat_templates/{inner.name} is not what was written (its SHA-256 differs)"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(three_steps, tmp_path):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    folder = shutil.copytree(three_steps[0], tmp_path / "run")
    spoil(Run(folder).checkpoints()[-1][1] / "optimizer.safetensors", "a bit", folder)
    config = TrainConfig(output=str(folder), **CONFIG | dict(steps=3, eval_every=0))
    with pytest.warns(UserWarning, match="optimizer.safetensors is not what was written"):
        trainer = Trainer(config)
    assert trainer.done == 2 and [row["step"] for row in read_lines(folder / "metrics.jsonl")] == [1, 2]
    trainer.fit()
    assert content(folder) == three_steps[1]
    saved = [folder / "checkpoints" / f"step-00000{s}" for s in (2, 3)]
    assert [p for _, p in Run(folder).checkpoints()] == saved and not damage(saved[1], 3)


def test_no_whole_checkpoint_is_one_error_that_names_each(three_steps, tmp_path):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    folder = shutil.copytree(three_steps[0], tmp_path / "run")
    (folder / "checkpoints/step-000002/model.safetensors").write_bytes(b"")
    (folder / "checkpoints/step-000003/state.json").unlink()
    shutil.copytree(folder / "checkpoints/step-000002", folder / "checkpoints/step-000004 (copy)")
    with pytest.raises(
        ValueError,
        match=(
            r"step-000003: state.json is missing; step-000002: model.safetensors is empty.*put a copy of one of them"
            r" back, or pass overwrite=True"
        ),
    ):
        Trainer(TrainConfig(output=str(folder), **CONFIG | dict(steps=3, eval_every=0)))
    assert len(list((folder / "checkpoints").glob("step-*"))) == 3, "nothing was moved"
    Trainer(TrainConfig(output=str(folder), overwrite=True, **CONFIG | dict(steps=3, eval_every=0)))


def test_a_reading_run_moves_nothing(three_steps, tmp_path):
    run = Run(shutil.copytree(three_steps[0], tmp_path / "run"), writes=False)
    spoil(run.checkpoints()[-1][1] / "state.json", "empty", tmp_path)
    assert run.newest()[0] == 2 and [s for s, _ in run.checkpoints()] == [2, 3]
    assert Run(tmp_path / "absent").newest() is None


def test_loading_a_damaged_checkpoint_names_the_file(three_steps, tmp_path):
    import torch

    from mpo_nb.models.loading import load, load_shape, load_tokenizer

    folder = shutil.copytree(three_steps[0], tmp_path / "run")
    (_, before), (_, newest) = Run(folder).checkpoints()
    with pytest.raises(ValueError, match="is a run folder; pass one of its checkpoints"):
        load(folder, device="cpu", precision="float32", quiet=True)
    spoil(newest / "model.safetensors", "a bit", before)
    with pytest.raises(
        ValueError,
        match="damaged checkpoint: model.safetensors is not what was written.*Pass another one, e.g. .*step-000002",
    ):
        load(newest, device="cpu", precision="float32", quiet=True)
    for name, read in (("config.json", load_shape), ("tokenizer.json", load_tokenizer)):
        spoil(newest / name, "cut", before)
        with pytest.raises(ValueError, match=f"damaged checkpoint: .*{name}"):
            read(newest)
    spoil(before / "optimizer.safetensors", "cut", before)
    with pytest.raises(ValueError, match="optimizer.safetensors cannot be read"):
        load_optimizer(torch.optim.AdamW([torch.zeros(1)]), before / "optimizer.safetensors")


def test_a_damaged_warm_up_goes_on_from_the_checkpoint_before(tmp_path):
    from mpo_nb.models.loading import load
    from mpo_nb.models.mtp import MTPModules
    from mpo_nb.training.warming import warm_up

    model, _ = load("tiny", device="cpu", precision="float32", quiet=True)
    rows = [dict(input_ids=[3, 4, 5, 6, 7, 8, 9, 10]) for _ in range(8)]

    def warm(steps):
        return warm_up(
            model,
            MTPModules(model, 2),
            rows,
            steps,
            batch_size=2,
            output=str(tmp_path),
            checkpoint_every=2,
            progress=False,
        ).losses

    warm(2)
    first = warm(4)
    spoil(Run(tmp_path).checkpoints()[-1][1] / "mtp.safetensors", "a bit", tmp_path)
    with pytest.warns(UserWarning, match="mtp.safetensors is not what was written.*step 2"):
        assert warm(4) == first


# Files of lines


def test_metrics_are_read_whatever_came_over_them(tmp_path):
    run = Run(tmp_path)
    run.metrics_path.write_bytes(b'\xef\xbb\xbf{"step": 1}\r\n\r\n\0\0\0{"step": 2}\n\0\0\n{"step": 3}\n{"ste')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row["step"] for row in run.metrics] == [1, 2, 3]
    run.metrics_path.write_bytes(b'{"step": 1}\n{"step": 2, "rew{"step": 2}\n\xff\n5\n{"step": 3}\n')
    with pytest.warns(
        UserWarning, match="metrics.jsonl: 3 lines could not be read as JSON objects and are left out, first line 2"
    ):
        assert [row["step"] for row in run.metrics] == [1, 3]
    run.metrics_path.write_text('{"step": 1}\n', encoding="utf-16")
    with pytest.raises(ValueError, match="metrics.jsonl is written in UTF-16"):
        run.metrics
    with pytest.raises(ValueError, match=r"line 2\); it was changed"):
        run.metrics_path.write_bytes(b'{"step": 1}\n{"st\n')
        read_lines(run.metrics_path)


@pytest.mark.parametrize(
    "tail", [b"", b'{"tok', b"\0" * 5000, b"\0\0\n", b'{"step": 3, "to\n', b'{"step": 9}\n', b"x" * 3_000_000]
)
def test_going_back_cuts_behind_the_last_step_that_is_kept(tail, tmp_path):
    "Whatever stands at the end, and wherever blocks of the file begin; what is kept is kept to the byte."
    run = Run(tmp_path)
    line = b'{"tokens": ["\\"step\\": 9", "' + b"y" * 300_000 + b'"], "step": %d, "answer": "{}"}\r\n'
    rows = [line % step for step in (1, 1, 2, 2, 3, 5, 5)]
    run.traces_path.write_bytes(b"".join(rows) + tail)
    if tail == b'{"step": 9}\n':
        run.rewind(9)
        assert run.traces_path.read_bytes() == b"".join(rows) + tail
    for step, kept in ((8, 7), (5, 7), (4, 5), (2, 4), (1, 2), (0, 0)):
        run.rewind(step)
        assert run.traces_path.read_bytes() == b"".join(rows[:kept])
    run.traces_path.write_bytes(b"".join(rows) + tail)
    run.rewind(-1)
    assert run.traces_path.read_bytes() == b""


def test_going_back_reads_only_what_it_drops(tmp_path):
    run = Run(tmp_path)
    line = json.dumps(dict(tokens=["token "] * 20_000, step=1)) + "\n"
    with open(run.traces_path, "w") as f:
        f.writelines([line] * 200)
    size = run.traces_path.stat().st_size
    assert size > 30 * 2**20
    tracemalloc.start()
    run.rewind(1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 2**20 and run.traces_path.stat().st_size == size


# A disk that is full


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [8, 13])
def test_a_full_disk_leaves_the_last_good_checkpoint(megabytes, context, whole, tmp_path):
    """The run's folder is a file system of a few megabytes; a checkpoint of the tiny model with its optimiser takes
    about ten."""
    import subprocess

    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import shutil, torch; from mpo_nb.runs import Run; from mpo_nb.training import TrainConfig, Trainer\n"
        "torch.set_num_threads(1)\n"
        f"try: Trainer(TrainConfig(output='/small/run', **{CONFIG | dict(keep_checkpoints=1)!r})).fit()\n"
        "except OSError as error: print(type(error).__name__, error)\n"
        f"shutil.copytree('/small/run', {str(tmp_path / 'run')!r})"
    )
    done = subprocess.run(
        [
            "bwrap",
            "--bind",
            "/",
            "/",
            "--dev-bind",
            "/dev",
            "/dev",
            "--size",
            str(megabytes * 2**20),
            "--tmpfs",
            "/small",
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    saved = Run(tmp_path / "run").checkpoints()
    assert (
        "could not be written" in done.stdout and "MiB free" in done.stdout and "goes on from there" in done.stdout
    ), done.stdout + done.stderr
    assert (
        f"The last good checkpoint is {'/small/run/checkpoints/step-000001' if megabytes > 10 else 'none yet'}"
        in done.stdout
    )
    assert [step for step, _ in saved] == ([1] if megabytes > 10 else [])
    check_readable(tmp_path / "run")
    assert run_child(context, str(tmp_path / "run")) == 0
    assert content(tmp_path / "run") == whole[0], "with room again, the run did not go on as if nothing had happened"
