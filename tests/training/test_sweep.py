"Sweeps: what is done is not done again, what fails is named, and what is stopped can be taken up."

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mpo_nb.config import TrainConfig
from mpo_nb.runs.folder import Run
from mpo_nb.runtime.files import read_lines
from mpo_nb.runtime.locks import WriteLock
from mpo_nb.training.metrics import clock_metrics
from mpo_nb.training.sweeps import finished, sweep
from mpo_nb.training.trainer import Trainer

SMALL = dict(steps=2, prompts_per_step=2, group_size=4, eval_every=0, precision="float32", trace_every=0)


def config(folder, **options) -> TrainConfig:
    return TrainConfig(output=str(folder), **SMALL | options)


@pytest.mark.slow
def test_runs_are_those_of_a_trainer_and_are_not_repeated(tmp_path):
    configs = {seed: config(tmp_path / str(seed), seed=seed) for seed in range(3)}
    found = sweep(configs, workers=2, progress=False)
    alone = Trainer(config(tmp_path / "alone", seed=1, progress=False)).fit()
    for ours, theirs in zip(found[1], alone, strict=True):
        assert {k: v for k, v in ours.items() if k not in clock_metrics} == pytest.approx(
            {k: v for k, v in theirs.items() if k not in clock_metrics}, rel=1e-3, abs=1e-5
        )
    assert all(finished(c) for c in configs.values()) and (tmp_path / "0" / "log.txt").exists()
    before = {seed: (tmp_path / str(seed) / "metrics.jsonl").stat().st_mtime_ns for seed in range(3)}
    assert sweep(configs, progress=False) == found
    assert before == {seed: (tmp_path / str(seed) / "metrics.jsonl").stat().st_mtime_ns for seed in range(3)}


@pytest.mark.slow
def test_a_run_that_fails_or_dies_does_not_hold_up_the_others(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\ndef task():\n    os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    configs = dict(
        deadly=config(tmp_path / "deadly", task="deadly:task"),
        wrong=config(tmp_path / "wrong", task="no_such_task"),
        good=config(tmp_path / "good"),
    )
    with pytest.raises(RuntimeError, match=r"2 of 3 runs failed") as failed:
        sweep(configs, workers=1, progress=False)
    assert finished(configs["good"]), "the run after the one that died was not trained"
    assert (
        "deadly (" in str(failed.value)
        and "its process died (exit code 3)" in str(failed.value)
        and "unknown task 'no_such_task'" in str(failed.value)
    )


UNGUARDED = """
from mpo_nb.training import TrainConfig, sweep
sweep({seed: TrainConfig(output=f"runs/{seed}", steps=1, seed=seed) for seed in range(20)}, workers=1)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_at_once(root, tmp_path):
    "Not after twenty workers, each of which would begin a sweep of its own."
    (tmp_path / "study.py").write_text(UNGUARDED)
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "study.py"],
        cwd=tmp_path,
        env=os.environ | dict(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and 'put the call under if __name__ == "__main__":' in done.stderr.splitlines()[-1]
    assert done.stderr.count("sweep starts processes") == 2  # the worker's, and the sweep's own
    assert not list(tmp_path.glob("runs/*/metrics*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a process here")
def test_an_interrupted_sweep_stops_its_runs_and_goes_on(tmp_path):
    program = (
        "from mpo_nb.config import TrainConfig\nfrom mpo_nb.training.sweeps import sweep\n"
        "if __name__ == '__main__': sweep({0:"
        f" TrainConfig(output={str(tmp_path / 'run')!r}, **{SMALL | dict(steps=400, checkpoint_every=1)!r})}},"
        " progress=False)\n"
    )
    (tmp_path / "program.py").write_text(program)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    deadline = time.time() + 120
    while len(read_lines(tmp_path / "run" / "metrics.jsonl")) < 3 and child.poll() is None and time.time() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[0]
    assert child.returncode != 0 and "the same call goes on" in said
    time.sleep(1)
    steps = len(read_lines(tmp_path / "run" / "metrics.jsonl"))
    time.sleep(1)
    assert 3 <= steps == len(read_lines(tmp_path / "run" / "metrics.jsonl")) < 400, "the run went on by itself"
    rows = sweep({0: config(tmp_path / "run", steps=steps + 1, checkpoint_every=1)}, progress=False)[0]
    assert [row["step"] for row in rows] == list(range(1, steps + 2))


@pytest.mark.parametrize(
    "configs, options, message",
    [
        ({}, {}, "configs is empty"),
        ({"a": 1}, {}, r"configs\['a'\] is a int"),
        ({"a": config("x"), "b": config("./x")}, {}, "'a' and 'b' both write to"),
        ({"a": config("x")}, dict(workers=0), "workers=0"),
        ({"a": config("x")}, dict(threads=True), "threads=True"),
    ],
)
def test_what_cannot_be_swept(configs, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(configs, progress=False, **options)


# A sweep that is ended from outside

SLEEPY = """
import os, signal, time
from pathlib import Path
from mpo_nb.tasks import Task, chain_sum
base, here = chain_sum(16, 4), Path(__file__).parent
def task(deaf=False):
    def reward(problem, response):
        if deaf: signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (here / f"worker-{deaf}-{os.getpid()}").touch()
        time.sleep(60 if deaf else 0.05)
        return 1.0
    return Task("sleepy", base.train, base.test, reward)
"""


def workers_of(folder) -> list[int]:
    "The processes that have been at a reward."
    return [int(p.name.rsplit("-", 1)[1]) for p in folder.glob("worker-*")]


def alive(pid: int) -> bool:
    "Whether a process runs; one that nobody has waited for does not."
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signals here")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_a_sweep_that_is_ended_ends_its_workers_which_save(number, tmp_path):
    "With SIGTERM, one of two workers ignores what the sweep sends on."
    number, deaf = getattr(signal, number), number == "SIGTERM"
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    options = SMALL | dict(
        steps=400, prompts_per_step=1, group_size=2, checkpoint_every=1000, task="sleepy:task", max_new_tokens=8
    )
    (tmp_path / "program.py").write_text(
        "from mpo_nb.config import TrainConfig\nfrom mpo_nb.training import sweeps\nsweeps.grace_seconds = 5.0\n"
        f"configs = {{n: TrainConfig(output=f'{tmp_path}/run-{{n}}', task_options=dict(deaf=n > 0), **{options!r})"
        f" for n in range({1 + deaf})}}\n"
        "if __name__ == '__main__': sweeps.sweep(configs, workers=2, progress=False)\n"
    )
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    deadline = time.time() + 200
    while (
        not (len(read_lines(tmp_path / "run-0" / "metrics.jsonl")) >= 2 and len(workers_of(tmp_path)) > deaf)
        and child.poll() is None
        and time.time() < deadline
    ):
        time.sleep(0.05)
    with pytest.raises(ValueError, match="is being written by process"):
        sweep({0: config(tmp_path / "run-0", steps=400)}, progress=False)
    child.send_signal(number)
    said = child.communicate(timeout=100)[0]
    pids = workers_of(tmp_path)
    assert child.returncode == -number and len(pids) == 1 + deaf, said
    deadline = time.time() + 60
    while any(map(alive, pids)) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids)), "a worker lives on"
    if deaf:
        assert "the same call goes on" in said
    metrics = read_lines(tmp_path / "run-0" / "metrics.jsonl")
    saved = Run(tmp_path / "run-0").checkpoints()
    assert 2 <= metrics[-1]["step"] == saved[-1][0] < 400, "a step that was taken is not saved"
    assert "is saved in" in (tmp_path / "run-0" / "log.txt").read_text()
    WriteLock(tmp_path / "run-0").check()
