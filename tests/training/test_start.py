"""Starts that fail: each leaves a folder in which the corrected command runs, and a dry run refuses what the run would
refuse."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import mpo_nb.models.loading
import mpo_nb.sampling.sampler
import mpo_nb.training.policy
import mpo_nb.training.recorder
from mpo_nb.cli import main
from mpo_nb.config import TrainConfig
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runs.folder import Run
from mpo_nb.runtime.files import read_lines
from mpo_nb.runtime.locks import WriteLock
from mpo_nb.training.trainer import Trainer

BASE = [
    "--steps",
    "1",
    "--prompts_per_step",
    "2",
    "--group_size",
    "2",
    "--eval_every",
    "0",
    "--progress",
    "--precision",
    "float32",
    "--max_new_tokens",
    "8",
]
# What a run refuses, and a word of what it says. {folder} is one with half a file of weights, {file} a file.
REFUSED = [
    ("--lora_rank 4 --lora_targets typo", "lora_targets='typo'"),
    ("--lora_rank 4 --lora_targets q_proj,typo", "no layer 'typo'"),
    ("--model ./nowhere", "model='./nowhere'"),
    ("--model {folder}", "is damaged"),
    ("--model {empty}", "model="),
    ("--task nope", "unknown task 'nope'"),
    ("--task nowhere:task", "nowhere"),
    ('--task_options {{"foo":1}}', "foo"),
    ("--task_options [1]", "task_options"),
    ('--recipe_options {{"clip":3}}', "recipe_options"),
    ("--max_new_tokens 5000", "max_new_tokens=5000"),
    ("--adam_beta2 1", "adam_beta2=1.0"),
    ("--weight_decay -5", "weight_decay=-5.0"),
    ("--temperature nan", "temperature=nan"),
    ("--device cuda:7", "device='cuda:7'"),
    ("--device meta", "device='meta'"),
    ("--sampler vllm", "vllm"),
    ("--prompt_format chat", "prompt_format='chat'"),
    ("--output {file}", "is a file; choose a folder"),
    ("--output {file}/run", "is a file; choose a folder"),
    ("--output /proc/run", "cannot be written"),
    ("--quantization 4bit", "quantization='4bit'"),
    ("--source mtp --k 1", "source='mtp'"),
    ("--minibatches 9", "minibatches=9"),
    ("--old_logps sampler --sampler vllm", "old_logps='sampler'"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    folder, empty, file = (tmp_path_factory.mktemp("places") / name for name in ("damaged", "empty", "file"))
    shutil.copytree(tiny_model_path(), folder)
    shutil.copytree(tiny_model_path(), empty, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    file.touch()
    return dict(folder=folder, empty=empty, file=file)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() > 7, reason="this machine has an eighth GPU"
)
@pytest.mark.parametrize("line, told", REFUSED, ids=[line for line, _ in REFUSED])
def test_a_dry_run_and_a_run_refuse_the_same_before_any_weight_and_leave_nothing(
    line, told, places, tmp_path, monkeypatch, capsys
):
    def load(*args, **kwargs):
        raise AssertionError("the weights were read before the error")

    monkeypatch.setattr(mpo_nb.training.policy, "load", load)
    said = []
    for dry in (["--dry_run"], []):
        code = main([*BASE, "--output", str(tmp_path / "runs" / "run"), *line.format(**places).split(" "), *dry])
        said.append((code, capsys.readouterr().err))
        assert not (tmp_path / "runs").exists()
    assert said[0] == said[1] and said[0][0] in (1, 2) and told in said[0][1] and len(said[0][1].splitlines()) == 1, (
        said
    )


def raises(error):
    def work(*args, **kwargs):
        raise error

    return work


LATER = {
    "memory while loading": ("load", raises(torch.OutOfMemoryError("CUDA out of memory"))),
    "Ctrl-C while loading": ("load", raises(KeyboardInterrupt())),
    "the disk while loading": ("load", raises(OSError("No space left"))),
    "adapters": ("add_lora", raises(ValueError("lora_targets"))),
    "memory while sampling": ("rollout", raises(torch.OutOfMemoryError("CUDA out of memory"))),
    "Ctrl-C while sampling": ("rollout", raises(KeyboardInterrupt())),
}


@pytest.mark.parametrize("where", LATER)
def test_what_fails_while_it_starts_does_not_stand_in_the_way(where, tmp_path, monkeypatch):
    name, error = LATER[where]
    out = str(tmp_path / "run")
    with monkeypatch.context() as patched, pytest.raises(BaseException):
        patched.setattr(
            dict(load=mpo_nb.training.policy, rollout=mpo_nb.sampling.sampler, add_lora=mpo_nb.models.loading)[name],
            name,
            error,
        )
        if main([*BASE, "--output", out, "--k", "2", *(["--lora_rank", "4"] if name == "add_lora" else [])]):
            raise RuntimeError("refused")
    assert not list(tmp_path.rglob(".lock"))
    assert main([*BASE, "--output", out, "--k", "3", "--lr", "1e-4"]) == 0
    assert Run(out).config["k"] == 3 and [row["step"] for row in Run(out).metrics] == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("where", ["take_model", "place", "restore", "sample"])
def test_killed_while_it_starts(where, tmp_path, monkeypatch):
    out = str(tmp_path / "run")
    pid = os.fork()
    if not pid:
        try:
            part = dict(restore=mpo_nb.training.recorder.Recorder, sample=mpo_nb.sampling.sampler.ModelSampler)
            part = part.get(where, mpo_nb.training.policy)
            monkeypatch.setattr(part, where, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
            main([*BASE, "--output", out, "--k", "2", "--eval_every", "1"])
        finally:
            os._exit(9)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert (
        main([*BASE, "--output", out, "--k", "3"]) == 0
        and Run(out).config["k"] == 3
        and not list(tmp_path.rglob(".lock"))
    )


def test_a_reward_that_fails_at_the_first_step_and_a_warm_up_do_not_stand_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "my_broken_task.py").write_text(
        "from mpo_nb.tasks.sums import chain_sum\nfrom mpo_nb.tasks.task import Task\n"
        "base = chain_sum(16, 4)\ndef task(right=False):\n    return"
        " Task('broken', base.train, base.test, (lambda p, r: 1.0) if right else (lambda p, r: 1 / 0))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = str(tmp_path / "run")
    warmed = [
        "--source",
        "mtp",
        "--mtp_warmup_problems",
        "4",
        "--mtp_warmup_steps",
        "2",
        "--task",
        "my_broken_task:task",
    ]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        main([*BASE, "--output", out, *warmed])
    assert (tmp_path / "run" / "mtp" / "checkpoints").exists()
    assert (
        main(
            [
                *BASE,
                "--output",
                out,
                *warmed,
                "--task_options",
                '{"right": true}',
                "--mtp_warmup_lr",
                "1e-4",
                "--k",
                "3",
            ]
        )
        == 0
    )
    assert [row["step"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")] == [1]


def test_a_start_that_fails_does_not_delete_the_run_that_it_was_to_replace(tmp_path, monkeypatch):
    out = str(tmp_path / "run")
    assert main([*BASE, "--output", out]) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert main([*BASE, "--output", out, "--overwrite", "--lora_rank", "4", "--lora_targets", "typo"]) == 2
    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(mpo_nb.training.policy, "load", raises(torch.OutOfMemoryError("CUDA out of memory")))
        main([*BASE, "--output", out, "--overwrite"])
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    for dry in (["--dry_run"], []):
        assert main([*BASE, "--output", out, "--k", "2", *dry]) == 2
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert main([*BASE, "--output", out, "--overwrite", "--lora_rank", "4"]) == 0 and Run(out).config["lora_rank"] == 4


def test_a_dry_run_says_who_is_at_the_folder(tmp_path, capsys):
    with WriteLock(tmp_path / "run"):
        assert main([*BASE, "--output", str(tmp_path / "run"), "--dry_run"]) == 2
        assert "is being written by this same process" in capsys.readouterr().err
    assert main([*BASE, "--output", str(tmp_path / "run"), "--dry_run"]) == 0 and not (tmp_path / "run").exists()


def test_a_trainer_that_was_overtaken_says_so(tmp_path):
    config = TrainConfig(
        output=str(tmp_path / "run"),
        steps=1,
        prompts_per_step=2,
        group_size=2,
        eval_every=0,
        precision="float32",
        progress=False,
        max_new_tokens=8,
    )
    first = Trainer(config)
    second = Trainer(config)
    assert len(second.fit()) == 1
    with pytest.raises(
        ValueError,
        match=(
            "was written by another process since this Trainer was made: its last step was -1 then, and is 1 now; make"
            " the Trainer again"
        ),
    ):
        first.fit()
    assert len(Trainer(config).fit()) == len(second.fit()) == 1
