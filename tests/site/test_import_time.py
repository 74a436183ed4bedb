"""What needs no tensors loads none: the package, the faces of its wings, the configuration, the recipes' names, and
the commands up to the point where something is trained."""

import os
import resource
import subprocess
import sys
import time

import pytest
from machine import slowness

HEAVY = ("torch", "transformers", "datasets", "peft", "accelerate", "numpy", "pandas", "plotly")
WINGS = (
    *("runtime", "models", "tasks", "sandbox", "sampling", "evaluation", "runs", "planning", "training", "drawing"),
    "widgets",
)
SECONDS = 1.0  # of processor time, start of Python included; measured: 0.04 for the package, 0.16 for --help
PLAN_SECONDS = 3.0  # of processor time, imports apart; measured: 1.5 on a busy machine
TRIES = 5  # the quickest counts: what else a machine does makes a process slower, and never quicker

AFTER = """
import sys
{code}
print("loaded:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""
COMMAND = """
from mpo_nb.cli import {command}
try:
    print("status:", {command}({line!r}.split(" ")), file=sys.stderr)
except SystemExit as ended:
    print("status:", ended.code, file=sys.stderr)
"""


def fresh(code, root):
    "What a new process says and loads, and its processor time in seconds."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", AFTER.format(code=code, heavy=HEAVY)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    (loaded,) = (line for line in done.stderr.splitlines() if line.startswith("loaded:"))
    return done, loaded.split()[1:], sum(after[:2]) - sum(before[:2])


def seconds_at_best(code, root, limit):
    """Processor time of the quickest of some tries, or of the first that is within the limit; of a machine of ordinary
    speed."""
    found = []
    while len(found) < TRIES and min(found, default=limit) >= limit:
        slow = slowness(time.process_time)
        found.append(fresh(code, root)[2] / slow)
    return min(found)


@pytest.mark.parametrize(
    "module",
    ["mpo_nb", *(f"mpo_nb.{wing}" for wing in WINGS), "mpo_nb.checks", "mpo_nb.recipes", "mpo_nb.config", "mpo_nb.cli"],
)
def test_an_import_that_needs_no_tensors(module, root):
    _, loaded, _ = fresh(f"import {module}", root)
    assert not loaded


COMMANDS = [
    ("main", "--help", 0, "--group_size N"),
    ("main", "--version", 0, "mpo_nb "),
    ("main", "--print_completion bash", 0, "_mpo_train_task"),
    ("main", "--k 0", 2, "k=0; it must be a whole number of at least 1"),
    ("main", "--lr fast", 2, "--lr: 'fast'; it must be a number"),
    ("main", "--group_sise 4", 2, "did you mean --group_size?"),
    ("main", "--recipe reinforce", 2, "choose from"),
    ("main", "--schedule step", 2, "choose from"),
    ("main", "--config nowhere.yaml", 1, "nowhere.yaml cannot be read"),
    ("main", "--device GPU", 2, "device='GPU' is no device"),
    ("main", '--recipe_options {"clop":1}', 2, "has no option 'clop'"),
    ("main", '--recipe grpo --recipe_options {"kl":-1}', 2, "kl=-1; it must be a finite number of at least 0"),
    ("main", '--recipe grpo --recipe_options {"lam":0.9}', 2, "only advantage='gae' takes it"),
    ("tour", "--help", 0, "--steps STEPS"),
    ("tour", "--steps many", 2, "--steps: 'many'; it must be a whole number"),
    ("tour", "--output /", 2, "output='/' is the root"),
]


@pytest.mark.parametrize("command, line, status, told", COMMANDS, ids=[f"{c} {line}" for c, line, *_ in COMMANDS])
def test_a_command_that_trains_nothing_loads_nothing(command, line, status, told, root):
    done, loaded, _ = fresh(COMMAND.format(command=command, line=line), root)
    assert f"status: {status}" in done.stderr and told in done.stdout + done.stderr
    assert not loaded


@pytest.mark.parametrize("code", ["import mpo_nb", COMMAND.format(command="main", line="--help")])
def test_it_starts_within_a_second(code, root):
    "Of processor time: the package, and the help of the command."
    assert seconds_at_best(code, root, SECONDS) < SECONDS


PLAN = """
import sys, time
from mpo_nb.config import TrainConfig
from mpo_nb.planning import plan_memory
import mpo_nb.planning.plan
start = time.process_time()
print(plan_memory(TrainConfig()))
print("seconds:", time.process_time() - start)
print("planned with:", *(name for name in ("torch", "peft", "datasets", "pandas", "plotly") if name in sys.modules))
"""
ADAPTERS = """
from mpo_nb.models import add_lora, load
from mpo_nb.models.loading import has_adapters
model, _ = load("tiny", device="cpu", precision="float32", quiet=True)
assert not has_adapters(model) and "peft" not in sys.modules
assert has_adapters(add_lora(model, 2))
"""


def test_a_plan_takes_three_seconds_and_adapters_alone_import_peft(root):
    """Without LoRA nothing imports peft, which takes as long as torch: no plan, and no `load` of a plain model, both in
    one process. A model with adapters is still known as one."""
    done, loaded, _ = fresh(PLAN + ADAPTERS, root)
    assert "\nplanned with: torch\n" in done.stdout and "peft" in loaded
    found = [float(done.stdout.split("seconds: ")[1].split()[0])]
    while len(found) < TRIES and min(found) >= PLAN_SECONDS:
        found.append(float(fresh(PLAN, root)[0].stdout.split("seconds: ")[1].split()[0]))
    assert min(found) < PLAN_SECONDS * slowness(time.process_time)


def test_the_test_sees_what_is_loaded(root):
    "And a recipe that is made does load torch: the check above would notice."
    _, loaded, _ = fresh("from mpo_nb.recipes import recipe; recipe('grpo')", root)
    assert "torch" in loaded
