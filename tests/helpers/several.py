"What test_processes.py runs in several processes, and in one for comparison."

import contextlib
import faulthandler
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch
from lab import free_port

from mpo_nb.config import TrainConfig
from mpo_nb.runtime.placement import whole_tensor
from mpo_nb.runtime.processes import Processes
from mpo_nb.training.trainer import Trainer

SMALL = dict(
    steps=1,
    prompts_per_step=3,
    group_size=4,
    epochs=1,
    minibatches=2,
    max_new_tokens=32,
    eval_every=0,
    checkpoint_every=1,
    trace_groups=3,
    max_grad_norm=1e9,
    precision="float32",
    progress=False,
    device="cpu",
)
FAULTY = dict(steps=3, checkpoint_every=1)
ROOT = Path(__file__).resolve().parents[2]


class Recorded(Trainer):
    """Keeps the responses that it samples and the gradients of its updates; or takes its part of responses that were
    kept."""

    def __init__(self, config, taken=None, **given):
        self.taken = taken
        self.kept = {}
        self.gradients = []
        super().__init__(config, **given)
        step = self.learner.optimizer.step

        def recorded(*args, **kwargs):
            self.gradients.append(
                torch.cat(
                    [
                        whole_tensor(torch.zeros_like(p) if p.grad is None else p.grad, self.processes).flatten()
                        for p in self.policy.trained
                    ]
                )
            )
            return step(*args, **kwargs)

        self.learner.optimizer.step = recorded
        self.draw = self.sampler.sample
        self.sampler.sample = self.sample

    def sample(self, problems, group_size, seed, greedy=False, places=None):
        if group_size == 1:
            return self.draw(problems, group_size, seed, greedy, places)
        if self.taken is None:
            self.kept[seed] = self.draw(problems, group_size, seed, greedy, places)
            return self.kept[seed]
        found = self.taken[seed]
        return (
            found
            if places is None
            else found.rows(torch.tensor([i for p in places for i in range(p * group_size, (p + 1) * group_size)]))
        )


def train(folder: Path, options: dict, taken=None, trainer=Recorded) -> Recorded:
    run = trainer(TrainConfig(output=str(folder), **SMALL | options), *([taken] if trainer is Recorded else []))
    run.fit()
    return run


def compare(jobs: Path):
    "Each configuration of a file, on the responses that one process sampled."
    way = "pieces" if os.environ["ACCELERATE_USE_FSDP"] == "true" else "several"
    for name, options in json.loads((jobs / f"{way}.json").read_text()).items():
        taken = torch.load(jobs / f"{name}.rollouts", weights_only=False)
        run = train(jobs / way / name, options, taken)
        same = run.processes.all_gather_objects(
            [[float(whole_tensor(p.detach(), run.processes).double().abs().sum()) for p in run.policy.trained]]
        )
        if run.processes.is_main:
            torch.save(
                dict(gradients=run.gradients, same=all(weights == same[0] for weights in same)),
                jobs / way / f"{name}.found",
            )


SHAPES = [(4, 3), (5, 3), (1, 4), (7,), (2, 2, 2)]


def put_together(folder: Path):
    """Tensors of even and uneven length, cut in two and gathered, and a sum of both processes' parts; without the
    collective that gloo cannot do safely."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    processes = Processes("cpu")
    mesh = init_device_mesh("cpu", (2,))
    summed = whole_tensor(DTensor.from_local(torch.tensor(float(processes.rank + 1)), mesh, [Partial()]), processes)
    DTensor.full_tensor = None
    found = []
    for shape in SHAPES:
        given = torch.arange(float(math.prod(shape))).reshape(shape)
        for x in (given, given.bfloat16(), given.long()):
            found.append(bool(torch.equal(whole_tensor(distribute_tensor(x, mesh, [Shard(0)]), processes), x)))
    (folder / f"together-{processes.rank}.json").write_text(json.dumps(dict(found=found, summed=float(summed))))


def outcome(work) -> str:
    "What was raised."
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def faults(folder: Path):
    "One process of two fails, in several ways; writes down what each of them met."
    rank = int(os.environ["RANK"])
    said = {}

    def no_words(problem, response):
        raise ValueError("no words today")

    class Scoring(Trainer):
        def collect(self, step):
            if rank == 1:
                self.judge.task = replace(self.task, reward=no_words)
            return super().collect(step)

    class NotFinite(Trainer):
        def collect(self, step):
            batch = super().collect(step)
            if rank == 1:
                batch.advantages[0] = torch.nan
            return batch

    class SmallMemory(Trainer):
        def __init__(self, config):
            super().__init__(config)
            accumulate = self.learner.accumulate

            def small(batch, rows, step, tokens=None, over=None):
                if rank == 1 and tokens > 100:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return accumulate(batch, rows, step, tokens, over)

            self.learner.accumulate = small

    class Interrupted(Trainer):
        def __init__(self, config):
            super().__init__(config)
            draw = self.sampler.sample

            def sample(problems, group_size, *args, **kwargs):
                if rank == 1 and self.done == 1 and group_size > 1:
                    os.kill(os.getpid(), signal.SIGINT)
                    os.kill(os.getpid(), signal.SIGINT)  # as the launcher passes it on
                return draw(problems, group_size, *args, **kwargs)

            self.sampler.sample = sample

    def fit(name, kind, **options):
        said[name] = outcome(lambda: train(folder / name, FAULTY | options, trainer=kind))

    def refuse(**options):
        for name, option in options.items():
            said[name] = outcome(lambda: Trainer(TrainConfig(output=str(folder / name), **SMALL | option)))

    fit("scoring", Scoring)
    fit("not finite", NotFinite)
    fit("interrupted", Interrupted)
    said["stopped"] = said["interrupted"]
    fit("plain", Trainer, report_to="tensorboard" if find_spec("tensorboardX") else "none")
    if os.environ["ACCELERATE_USE_FSDP"] != "true":
        fit("memory", SmallMemory)
    fit("interrupted", Trainer)  # taken up again
    said["another configuration"] = outcome(lambda: train(folder / "plain", dict(lr=1e-3), trainer=Trainer))
    refuse(problems=dict(prompts_per_step=1, minibatches=1), device=dict(device="cuda:0"))
    if os.environ["ACCELERATE_USE_FSDP"] == "true":
        refuse(
            vllm=dict(sampler="vllm"),
            critic=dict(recipe="ppo"),
            modules=dict(recipe="mpo", source="mtp"),
            float16=dict(precision="float16"),
            packed=dict(quantization="4bit", lora_rank=4),
            held_out=dict(eval_every=1, eval_problems=1),
        )
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


def launch(*arguments) -> subprocess.Popen:
    "Two processes of the command line, started as users start them, in a session of their own."
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "mpo_nb.cli",
        *map(str, arguments),
    ]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def end(started: subprocess.Popen):
    "Kill a launcher and all that it started."
    family = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
    for process in (*family, started):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.kill()
    psutil.wait_procs(family, timeout=10)
    started.communicate()


def finish(started: subprocess.Popen, seconds: float = 120) -> tuple[int, str]:
    "Exit status and words; a launch that takes longer hangs, and is ended."
    try:
        said, _ = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(started)
        raise AssertionError(f"the processes hang: not done after {seconds} s") from None
    return started.returncode, said


def run(folder: Path, options: dict):
    Trainer(TrainConfig(output=str(folder), **options)).fit()


def begin(work: str, arguments: tuple, env: dict, log: str):
    "What a process of `Together` does."
    os.environ.update(env)
    with open(log, "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    faulthandler.enable()  # a process that dies in native code says where it was
    torch.set_num_threads(1)
    try:
        globals()[work](*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # without waiting for each other at the door, as killed processes do not


class Together:
    """Two processes of a function of this file, begun with everything imported: what a launcher sets, without its
    seconds."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["several", "transformers.models.llama.modeling_llama"])

    def __init__(self, work: str, *arguments, log: Path, pieces: bool = False):
        self.log, env = (
            log,
            dict(
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(free_port()),
                OMP_NUM_THREADS="1",
                ACCELERATE_USE_FSDP=str(pieces).lower(),
            ),
        )
        self.all = [
            self.context.Process(
                target=begin, args=(work, arguments, env | dict(RANK=str(rank), LOCAL_RANK=str(rank)), str(log))
            )
            for rank in (0, 1)
        ]
        for process in self.all:
            process.start()

    @property
    def going(self) -> bool:
        return all(process.is_alive() for process in self.all)

    def kill(self):
        for process in self.all:
            process.kill()
        for process in self.all:
            process.join(20)

    def finish(self, seconds: float):
        "Wait for both. Fails when one does, or when they take longer than they may: then they hang."
        deadline = time.time() + seconds
        while (
            any(process.is_alive() for process in self.all)
            and all(process.exitcode in (None, 0) for process in self.all)
            and time.time() < deadline
        ):
            time.sleep(0.02)
        codes = [process.exitcode for process in self.all]
        self.kill()
        assert codes == [0, 0], f"exit statuses {codes} (None: not done after {seconds} s):\n{self.log.read_text()}"
