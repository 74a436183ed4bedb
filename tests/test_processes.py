"Several processes take the step that one would take, fail together, and go on where they were killed."
import json
import os
import random
import signal
import time

import psutil
import pytest
import torch

from mpo_nb.checkpoint import Run, read_lines
from mpo_nb.metrics import clock_metrics
from mpo_nb.recipes import recipes
from mpo_nb.trainer import TrainConfig, Trainer
from several import SMALL, Recorded, end, finish, launch, train

KL = dict(recipe_options='{"kl": 0.1, "entropy": 0.01}')
JOBS = {name: dict(recipe=name) for name in recipes} | dict(
    penalties=dict(recipe="mpo", steps=2, eval_every=1, **KL), adapters=dict(lora_rank=4, **KL), random=dict(recipe_options='{"base": "grpo"}', recipe="mpo", k=3),
    recomputed=dict(old_logps="recompute", gradient_checkpointing=True), many_small=dict(recipe="dapo", micro_batch_tokens=60, prompts_per_step=5),
    empty=dict(prompts_per_step=2, group_size=2, minibatches=4, epochs=2), blocks=dict(recipe="ma_rlhf", recipe_options='{"macro": [1, 2, 3], "whiten": true}'),
    modules=dict(recipe="mpo", source="mtp", k=3), separate=dict(recipe="ppo", recipe_options='{"critic": "separate"}'))


def numbers(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in clock_metrics} for row in rows]


def assert_close(found: list[dict], wanted: list[dict], tolerance: float = 1e-5):
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    for a, b in zip(found, wanted):
        for name, x in a.items():
            y = b[name]
            assert x == y or abs(x - y) <= tolerance * max(1.0, abs(y)), f"step {a['step']}, {name}: {x} in several processes, {y} in one"


PIECES = {name: dict(JOBS[name], checkpoint_every=1) for name in ("penalties", "adapters", "many_small", "empty", "random", "recomputed", "vineppo")}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    "Every job in one process, whose responses are kept."
    folder, found = tmp_path_factory.mktemp("jobs"), {}
    torch.set_num_threads(1)
    for name, options in JOBS.items():
        run = train(folder / "one" / name, options)
        found[name] = run.gradients
        torch.save(run.kept, folder / f"{name}.rollouts")
    return folder, found


def together(one, way: str, jobs: dict, seconds: float, *extra):
    "The jobs in two processes, on the responses that one process sampled."
    folder, wanted = one
    (folder / f"{way}.json").write_text(json.dumps(jobs))
    status, said = finish(launch("compare", folder, extra=extra), seconds)
    assert status == 0, said
    return folder, way, wanted


@pytest.fixture(scope="module")
def several(one):
    return together(one, "several", JOBS, 300, "--multi_gpu")


@pytest.fixture(scope="module")
def pieces(one):
    return together(one, "pieces", PIECES, 300, "--use_fsdp", "--fsdp_version", "2")


def check_same(name: str, found):
    "Gradients of every update and metrics of every step are those of one process."
    folder, way, wanted = found
    found = torch.load(folder / way / f"{name}.found", weights_only=False)
    assert found["same"], "the two processes ended with different weights"
    assert len(found["gradients"]) == len(wanted[name]) and any(float(g.norm()) > 0 for g in wanted[name])
    for a, b in zip(found["gradients"], wanted[name]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1e-2, float(b.abs().max())))
    assert_close(numbers(read_lines(folder / way / name / "metrics.jsonl")), numbers(read_lines(folder / "one" / name / "metrics.jsonl")))


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_two_processes_give_the_gradients_and_metrics_of_one(name, several):
    check_same(name, several)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECES)
def test_pieces_give_the_gradients_and_metrics_of_the_whole(name, pieces):
    check_same(name, pieces)
