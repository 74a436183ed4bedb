"""One writer: what a second one is told, in this process and in others, after a kill, over a network, where nothing can
be written; reading is never refused."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import mpo_nb.runtime.locks
from mpo_nb.cli import main, tour
from mpo_nb.config import TrainConfig
from mpo_nb.evaluation.evaluating import evaluate
from mpo_nb.models.mtp import MTPModules
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.runtime.locks import WriteLock
from mpo_nb.tasks.sums import chain_sum
from mpo_nb.training.sweeps import sweep
from mpo_nb.training.trainer import Trainer
from mpo_nb.training.warming import warm_up
from mpo_nb.widgets import RolloutBrowser, TrainingMonitor

SMALL = dict(
    steps=2, prompts_per_step=2, group_size=2, eval_every=0, precision="float32", progress=False, max_new_tokens=8
)


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(tiny_model_path()), AutoTokenizer.from_pretrained(tiny_model_path())


def test_every_writer_is_refused_while_a_trainer_is_at_work_and_every_reader_is_served(tmp_path, tiny):
    config = TrainConfig(output=str(tmp_path / "run"), **SMALL)
    seen = []

    def others(row):
        if row["step"] != 1:
            return
        before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
        for start in (
            lambda: Trainer(config),
            lambda: Trainer(TrainConfig(**{**SMALL, "output": str(tmp_path / "run"), "overwrite": True})),
            lambda: sweep({"a": config}, progress=False),
            lambda: WriteLock(tmp_path / "sub" / ".." / "run").acquire(),
        ):
            with pytest.raises(
                ValueError,
                match=(
                    r"is being written by this same process, since .*; wait for its end or stop it, or choose another"
                ),
            ):
                start()
            seen.append(start)
        refused = []
        thread = threading.Thread(target=lambda: refused.append(pytest.raises(ValueError, Trainer, config)))
        thread.start(), thread.join()
        assert "being written" in str(refused[0].value) and (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
        assert (
            load_traces(tmp_path / "run")
            and TrainingMonitor(tmp_path / "run").figure()
            and RolloutBrowser(tmp_path / "run").figure()
        )

    assert len(Trainer(config).fit(others)) == 2 and len(seen) == 4
    assert not (tmp_path / "run" / ".lock").exists() and len(Trainer(config).fit()) == 2  # the same cell, run again


def test_a_run_that_fails_or_is_interrupted_lets_go(tmp_path):
    config = TrainConfig(output=str(tmp_path / "run"), **SMALL)
    for error in (RuntimeError("my tracker is down"), KeyboardInterrupt()):

        def callback(row, error=error):
            raise error

        with pytest.raises(type(error)):
            Trainer(config).fit(callback)
        WriteLock(tmp_path / "run").check()
    trainer = Trainer(config)  # made, never fitted: holds nothing
    WriteLock(tmp_path / "run").check()
    assert len(trainer.fit()) == 2


def test_a_file_of_records_has_one_writer(tmp_path, tiny, monkeypatch):
    path = tmp_path / "records.jsonl"
    monkeypatch.setattr(
        "mpo_nb.evaluation.evaluating.fingerprint", lambda model: pytest.fail("long work before the refusal")
    )
    with WriteLock(path, file=True), pytest.raises(ValueError, match="records.jsonl' is being written by"):
        evaluate(*tiny, "chain_sum", n=2, k=None, output=path, progress=False)
    for wrong, told in (
        ("", "is empty; pass a path"),
        (tmp_path, "give a file name that ends in .jsonl"),
        ("/proc/none/x.jsonl", "cannot be written"),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            evaluate(*tiny, "chain_sum", n=2, k=None, output=wrong, progress=False)
    monkeypatch.undo()
    evaluate(*tiny, "chain_sum", n=2, k=None, output=path, progress=False)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".jsonl"] == ["records.jsonl"] and not list(
        tmp_path.glob(".*.lock")
    )


def test_a_tour_and_a_warm_up_have_one_writer(tmp_path, tiny, capsys):
    model, tokenizer = tiny
    with WriteLock(tmp_path / "tour"):
        assert (
            tour(["--output", str(tmp_path / "tour"), "--steps", "1"]) == 2
            and "is being written by" in capsys.readouterr().err
        )
    with WriteLock(tmp_path / "mtp"), pytest.raises(ValueError, match="mtp' is being written by"):
        warm_up(
            model,
            MTPModules(model, 2),
            [p["prompt"] for p in chain_sum(8, 4).train],
            1,
            tokenizer=tokenizer,
            output=str(tmp_path / "mtp"),
        )


FORKED = """
import os, sys, time
from mpo_nb.runtime.locks import WriteLock
lock = WriteLock(sys.argv[1]).acquire()
if not os.fork(): time.sleep(60); os._exit(0)
print("held", flush=True); time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_of_the_holder_does_not_hold_it(tmp_path):
    lock = WriteLock(tmp_path / "run").acquire()
    pid = os.fork()
    if not pid:
        try:
            WriteLock(tmp_path / "run").acquire()
        except ValueError as error:
            os._exit(0 if f"process {os.getppid()} on" in str(error) and lock.fd is None else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(ValueError):
        WriteLock(tmp_path / "run").acquire()  # the child's end took nothing away
    lock.release()
    holder = subprocess.Popen(
        [sys.executable, "-c", FORKED, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"process {holder.pid} on"):
        WriteLock(tmp_path / "run").acquire()
    holder.kill(), holder.wait()
    WriteLock(tmp_path / "run").check()  # while the fork still sleeps
    os.killpg(holder.pid, signal.SIGKILL)
    holder.stdout.close()


def test_many_that_race_for_one_folder(tmp_path):
    "Eight threads take and release a lock, and never two have it, though the folder comes and goes under them."
    inside = []
    most = [0]
    taken = [0]
    end = time.time() + 1

    def run():
        while time.time() < end:
            try:
                with WriteLock(tmp_path / "a" / "b"):
                    inside.append(1)
                    most[0] = max(most[0], len(inside))
                    taken[0] = taken[0] + 1
                    inside.pop()
            except ValueError:
                pass

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and taken[0] > 20 and not list(tmp_path.rglob(".lock"))


@pytest.mark.parametrize(
    "locked, promise",
    [
        (
            True,
            "a second process on this machine is refused, one on another machine only where the server passes locks on",
        ),
        (None, "nothing refuses a second process"),
    ],
)
def test_a_network_folder_says_once_what_it_cannot_promise(locked, promise, tmp_path, monkeypatch):
    monkeypatch.setattr(mpo_nb.runtime.locks, "network_folder", lambda path: ("nfs4", f"/home of {locked}"))
    if locked is None:
        monkeypatch.setattr(mpo_nb.runtime.locks, "try_lock", lambda fd: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text('{"pid": 7, "host": "far", "since": "today", "command": "train.py"}')
    with pytest.warns(
        UserWarning,
        match=(
            rf"lies on /home of {locked} \(nfs4\): {promise}.*did not say that it ended: process 7 on far, since today"
            r" \(train.py\)"
        ),
    ):
        WriteLock(tmp_path / "run").check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WriteLock(tmp_path / "run").check()


def test_a_full_disk_and_a_folder_that_takes_nothing(tmp_path, monkeypatch, capsys):
    "The note does not matter, the lock's file does."

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with WriteLock(tmp_path / "run"), pytest.raises(ValueError, match="is being written by another process"):
            WriteLock(tmp_path / "run").acquire()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(
            OSError,
            match=(
                r"run' cannot be written \(No space left on device\); choose a place that you may write to and that has"
                r" room"
            ),
        ):
            WriteLock(tmp_path / "run").acquire()
    assert main(["--output", "/proc/run", "--steps", "0"]) == 1 and "cannot be written" in capsys.readouterr().err
    assert main(["--output", str(tmp_path / ("n" * 300))]) == 1 and "File name too long" in capsys.readouterr().err
