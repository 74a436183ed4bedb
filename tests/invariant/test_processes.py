"Several processes take the step that one would take, fail together, and go on where they were killed."

import json
import os
import random
import shutil
import signal
import time
from importlib.util import find_spec

import psutil
import pytest
import torch
from several import SHAPES, Together, end, finish, launch, train
from small_runs import computed

from mpo_nb.cli import tour
from mpo_nb.config import TrainConfig, configured_recipe
from mpo_nb.models.loading import load
from mpo_nb.recipes import recipes
from mpo_nb.runs.folder import Run
from mpo_nb.runtime.files import read_lines
from mpo_nb.runtime.processes import Processes
from mpo_nb.training.setup import check_shards
from mpo_nb.training.sweeps import sweep
from mpo_nb.training.trainer import Trainer

KL = dict(recipe_options='{"kl": 0.1, "entropy": 0.01}')
JOBS = {
    name: dict(recipe=name)
    for name in recipes
    if name not in ("grpo", "gspo_token", "tepo", "luspo", "fipo", "spo_chain")
} | dict(  # each of these six takes the way of another one
    penalties=dict(recipe="mpo", steps=2, eval_every=1, eval_problems=5, **KL),
    adapters=dict(lora_rank=4, **KL),
    random=dict(recipe_options='{"base": "grpo"}', recipe="mpo", k=3),
    recomputed=dict(old_logps="recompute", gradient_checkpointing=True),
    many_small=dict(recipe="dapo", micro_batch_tokens=60, prompts_per_step=5),
    empty=dict(prompts_per_step=2, group_size=2, minibatches=4, epochs=2),
    blocks=dict(recipe="ma_rlhf", recipe_options='{"macro": [1, 2, 3], "whiten": true}'),
    modules=dict(recipe="mpo", source="mtp", k=3, mtp_warmup_steps=2, mtp_warmup_problems=4),
    separate=dict(recipe="ppo", recipe_options='{"critic": "separate"}'),
)


def assert_close(found: list[dict], wanted: list[dict], tolerance: float = 1e-5):
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    for a, b in zip(found, wanted):
        for name, x in a.items():
            y = b[name]
            assert x == y or abs(x - y) <= tolerance * max(1.0, abs(y)), (
                f"step {a['step']}, {name}: {x} in several processes, {y} in one"
            )


PIECES = {
    name: dict(JOBS[name], checkpoint_every=1)
    for name in ("penalties", "adapters", "many_small", "empty", "random", "recomputed", "vineppo")
}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    "Every job in one process, whose responses are kept."
    folder = tmp_path_factory.mktemp("jobs")
    found = {}
    torch.set_num_threads(1)
    for name, options in JOBS.items():
        run = train(folder / "one" / name, options)
        found[name] = run.gradients
        torch.save(run.kept, folder / f"{name}.rollouts")
    return folder, found


def together(one, way: str, jobs: dict):
    "The jobs in two processes, on the responses that one process sampled."
    folder, wanted = one
    (folder / f"{way}.json").write_text(json.dumps(jobs))
    Together("compare", folder, log=folder / f"{way}.log", pieces=way == "pieces").finish(200)
    return folder, way, wanted


@pytest.fixture(scope="module")
def several(one):
    return together(one, "several", JOBS)


@pytest.fixture(scope="module")
def pieces(one):
    return together(one, "pieces", PIECES)


def check_same(name: str, found):
    "Gradients of every update and metrics of every step are those of one process."
    folder, way, wanted = found
    found = torch.load(folder / way / f"{name}.found", weights_only=False)
    assert found["same"], "the two processes ended with different weights"
    assert len(found["gradients"]) == len(wanted[name]) and any(float(g.norm()) > 0 for g in wanted[name])
    for a, b in zip(found["gradients"], wanted[name]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1e-2, float(b.abs().max())))
    assert_close(
        computed(read_lines(folder / way / name / "metrics.jsonl")),
        computed(read_lines(folder / "one" / name / "metrics.jsonl")),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_two_processes_give_the_gradients_and_metrics_of_one(name, several):
    check_same(name, several)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECES)
def test_pieces_give_the_gradients_and_metrics_of_the_whole(name, pieces):
    check_same(name, pieces)


def test_pieces_are_put_together(tmp_path):
    Together("put_together", tmp_path, log=tmp_path / "log", pieces=True).finish(60)
    for rank in (0, 1):
        said = json.loads((tmp_path / f"together-{rank}.json").read_text())
        assert said["found"] == [True] * 3 * len(SHAPES) and said["summed"] == 3


# One fails: all fail, and say the same


@pytest.fixture(scope="module", params=["whole", "pieces"])
def failed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"faults-{request.param}")
    Together("faults", folder, log=folder / "log", pieces=request.param == "pieces").finish(120)
    return (
        folder,
        [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)],
        (folder / "log").read_text(),
    )


ON_ALL = dict(
    scoring="RuntimeError: process 1: the reward of task 'chain_sum' raised ValueError: no words today",
    stopped="KeyboardInterrupt",
    vllm="sampler='vllm' with --use_fsdp",
    problems="prompts_per_step=1 with 2 processes",
    device="device='cuda:0' with several processes",
    critic="recipe='ppo' with --use_fsdp",
    modules="source='mtp' with --use_fsdp",
    float16="precision='float16' with --use_fsdp",
    packed="quantization='4bit' with --use_fsdp",
    held_out="eval_problems=1 with --use_fsdp",
)
ON_ALL["not finite"] = "FloatingPointError: process 1: the loss at step 1 is not finite"


@pytest.mark.slow
def test_a_fault_on_one_is_a_fault_on_all(failed):
    folder, (first, second), said = failed
    for name, wanted in ON_ALL.items():
        if name in first:
            assert wanted in first[name] and wanted.replace("process 1: ", "") in second[name], (
                "the process that failed says what it would say alone"
            )
    assert len(set(ON_ALL) - set(first)) == (6 if "whole" in folder.name else 0)
    assert read_lines(folder / "not finite" / "failed" / "step-000001-process-1.jsonl"), "the responses that led there"
    assert not Run(folder / "not finite").checkpoints() and not (folder / "vllm").exists()
    assert (
        "holds a run with lr=3e-05, not 0.001" in first["another configuration"]
        and "process 0: " in second["another configuration"]
    )
    assert said.count("Stopped; step 1 of 3 is saved") == 1, "one process speaks for all"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory", "interrupted"])
def test_a_run_lives_through_it(name, failed):
    "Memory that runs out on one process, and a Ctrl-C that only one of them saw, change no number."
    folder, (first, second), _ = failed
    if name not in first:
        assert "pieces" in folder.name, "memory that runs out ends a run in pieces"
        return
    assert first[name] == second[name] == first["plain"] == "nothing"
    found, wanted = (read_lines(folder / n / "metrics.jsonl") for n in (name, "plain"))
    assert len(wanted) == 3
    events = list((folder / "plain" / "tensorboard").rglob("events.*"))
    assert len(events) == 2 * bool(find_spec("tensorboardX")), "one process's steps and its configuration"
    assert_close(computed(found), computed(wanted), 1e-5 if name == "memory" else 0)


# Kill and resume, with a batch that waits in every checkpoint

RUN = dict(
    steps=4,
    lag=1,
    prompts_per_step=3,
    group_size=4,
    epochs=1,
    minibatches=2,
    eval_every=2,
    eval_problems=8,
    eval_samples=2,
    checkpoint_every=1,
    max_new_tokens=32,
    precision="float32",
    trace_groups=3,
    progress=False,
    device="cpu",
)
LINE = [part for name, value in RUN.items() if name != "progress" for part in (f"--{name}", str(value))] + [
    "--no_progress"
]


def content(folder) -> tuple[list, list]:
    return computed(read_lines(folder / "metrics.jsonl")), read_lines(folder / "traces.jsonl")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    "What two processes write when nothing interrupts them."
    folder = tmp_path_factory.mktemp("whole")
    Together("run", folder / "run", RUN, log=folder / "log").finish(60)
    return folder / "run"


def after(started, folder, step: int):
    "Wait until a step is written down."
    deadline = time.time() + 90
    while not any(row["step"] >= step for row in read_lines(folder / "metrics.jsonl")):
        if not (started.going if isinstance(started, Together) else started.poll() is None) or time.time() > deadline:
            started.kill()
            raise AssertionError(f"step {step} was not reached")
        time.sleep(0.02)


@pytest.mark.slow
def test_interrupted_killed_and_taken_up_again(uninterrupted, tmp_path):
    wanted = content(uninterrupted)
    moments = random.Random(0)
    started = launch(*LINE, "--output", tmp_path)
    after(started, tmp_path, 1)
    os.kill(started.pid, signal.SIGINT)  # the terminal's Ctrl-C: the launcher passes it on
    status, said = finish(started)
    rows = read_lines(tmp_path / "metrics.jsonl")
    saved = Run(tmp_path).checkpoints()
    assert status != 0 and said.count("Stopped; step") == 1 and saved[-1][0] == rows[-1]["step"], said

    started = launch(*LINE, "--output", tmp_path)
    workers = []
    while not workers:
        assert started.poll() is None
        workers = psutil.Process(started.pid).children()
        time.sleep(0.05)
    if rows[-1]["step"] < 3:
        after(started, tmp_path, rows[-1]["step"] + 1)
    time.sleep(moments.uniform(0, 1))
    os.kill(started.pid, signal.SIGKILL)  # the launcher only: the workers must not train on behind its back
    _, alive = psutil.wait_procs(workers, timeout=10)
    end(started)
    assert not alive, "a process trained on after its launcher was killed"
    for path in (tmp_path / "metrics.jsonl", tmp_path / "traces.jsonl"):
        read_lines(path)
    one = tmp_path.with_name("taken up by one")
    shutil.copytree(tmp_path, one)

    Together("run", tmp_path, RUN, log=tmp_path / "log").finish(60)
    assert content(tmp_path) == wanted
    assert json.loads((tmp_path / "config.json").read_text())["processes"] == 2
    assert json.loads((Run(tmp_path).checkpoints()[-1][1] / "state.json").read_text())["processes"] == 2
    assert_close(computed(Trainer(TrainConfig(output=str(one), **RUN)).fit()), wanted[0], 1e-3)
    assert json.loads((one / "config.json").read_text())["processes"] == 1


@pytest.mark.slow
def test_pieces_are_killed_and_taken_up_again(uninterrupted, tmp_path):
    """Checkpoints hold the whole model: two processes with pieces of it go on where a run with pieces was killed, and a
    whole model after them."""
    started = Together("run", tmp_path, RUN, log=tmp_path / "log", pieces=True)
    after(started, tmp_path, 2)
    started.kill()
    one = tmp_path.with_name("whole again")
    shutil.copytree(tmp_path, one)
    Together("run", tmp_path, RUN, log=tmp_path / "log", pieces=True).finish(60)
    assert_close(computed(read_lines(tmp_path / "metrics.jsonl")), content(uninterrupted)[0], 1e-3)
    assert_close(computed(Trainer(TrainConfig(output=str(one), **RUN)).fit()), content(uninterrupted)[0], 1e-3)


# Before anything is started


def test_a_torch_without_fsdp2_is_told_of(monkeypatch):
    monkeypatch.delattr(torch.distributed.fsdp, "fully_shard")
    config = TrainConfig()
    with pytest.raises(ImportError, match="--use_fsdp with torch .* pip install -U torch, or launch with --multi_gpu"):
        check_shards(config, configured_recipe(config))


def test_a_launch_that_began_one_process_only_says_so(monkeypatch):
    "accelerate launch --cpu without MPI."
    for name, value in dict(ACCELERATE_MIXED_PRECISION="no", MASTER_ADDR="127.0.0.1").items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="asked for several processes and started one.*use --multi_gpu"):
        assert not Processes("cpu").is_distributed


def test_a_sweep_and_a_tour_are_not_for_launchers(monkeypatch, tmp_path, capsys):
    for name, value in dict(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="start it with plain python"):
        sweep({"one": TrainConfig(output=str(tmp_path / "run"))})
    assert tour(["--output", str(tmp_path)]) == 2 and "start it without a launcher" in capsys.readouterr().err


def test_layers_of_adapters_are_found(tmp_path):
    "A model with adapters is cut layer by layer too."
    model, _ = load("tiny", device="cpu", precision="float32", lora_rank=2, quiet=True)
    assert set(model._no_split_modules) == {"LlamaDecoderLayer"}
