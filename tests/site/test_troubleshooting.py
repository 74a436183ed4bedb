"The failures that the troubleshooting page shows are still made by their recipes, and its file holds what it says."

import csv
import importlib.util
import sys

import nbformat
import pytest
import torch

from mpo_nb.models import load

SMALL = dict(steps=1, prompts_per_step=3, group_size=4, max_new_tokens=40)


@pytest.fixture(scope="module")
def failures(root):
    "benchmarks/failures.py"
    spec = importlib.util.spec_from_file_location("failures", root / "benchmarks" / "failures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def start():
    return load("tiny", precision="float32", quiet=True)


def test_rewards_have_the_holes_that_they_are_said_to_have(failures):
    problem = dict(prompt="8+4+7+7?", answer="26")
    assert failures.right_anywhere(problem, "25#26#27") == 1 and failures.right(problem, "25#26#27") == 0
    once, twice = "19+7=26#26", "19+7=26;26+0=26#26"
    assert failures.right(problem, once) == failures.right(problem, twice) == 1
    assert failures.right_and_long(problem, twice) > failures.right_and_long(problem, once)
    assert failures.right_in_a_box(problem, once) == 0


def test_a_form_that_is_never_met_leaves_every_group_dead(failures, start):
    (row,) = failures.make("all dead: all wrong", 0, start, **SMALL)
    assert (row["reward"], row["dead_groups"], row["grad_norm"]) == (0, 1, 0)


def test_weights_that_never_arrive_stay_behind_and_rounded_ones_follow(failures, start):
    policy = torch.nn.Linear(8, 3, bias=False)
    inner = type("Inner", (), dict(state=lambda self: "kept"))()
    first = policy.weight.detach().clone()
    behind, rounded = (kind(inner, policy) for kind in (failures.OtherWeights, failures.RoundedWeights))
    with torch.no_grad():
        policy.weight.add_(1.0)
    behind.refresh()
    rounded.refresh()
    assert torch.equal(behind.own.weight, first) and behind.state() == "kept"
    near = (rounded.own.weight - policy.weight).abs()
    assert 0 < near.max() <= (policy.weight.abs().amax(-1) / 30).max() + 1e-6
    with pytest.warns(UserWarning, match="differ from the sampler's"):
        failures.make("mismatch: rounded weights", 0, start, **SMALL)


def test_large_steps_take_the_entropy_away(failures, start):
    "Two steps of each, on the same problems."
    size = SMALL | dict(steps=2, prompts_per_step=6, group_size=8)
    healthy, collapsed = (failures.make(name, 0, start, **size)[-1] for name in ("healthy", "entropy collapse"))
    assert collapsed["approx_kl"] > 5 * healthy["approx_kl"]
    assert collapsed["entropy"] < healthy["entropy"]


def test_the_file_holds_every_run_and_what_the_page_says_of_it(failures, root):
    with (root / "nbs" / "studies" / "failures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = {name: [row for row in rows if (row["run"], row["seed"]) == (name, "0")] for name in failures.failures}
    assert all(len(run) == failures.SETTINGS["steps"] for run in runs.values())

    def ends(name: str, column: str) -> tuple[float, float]:
        values = [float(row[column]) for row in runs[name] if row[column]]
        return sum(values[:2]) / 2, sum(values[-2:]) / 2

    for name, column, sign in [
        ("healthy", "accuracy", 1),
        ("reward hacking", "reward", 1),
        ("reward hacking", "accuracy", -1),
        ("length bias", "response_length", 1),
        ("entropy collapse", "entropy", -1),
        ("entropy collapse", "pass_at_8", -1),
        ("mismatch: weights never arrive", "log_ratio_std", 1),
    ]:
        before, after = ends(name, column)
        assert sign * (after - before) > 0.1 * abs(before), f"{name}: {column} {before} -> {after}"


def test_the_page_trains_nothing_unless_it_is_told_to(root):
    cells = nbformat.read(root / "nbs" / "learn" / "troubleshooting.ipynb", as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert source.count("make_again = False") == 1 and "Trainer" not in source
    assert source.index("if make_again:\n    !") and source.count("failures.py") == 1
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for part in ("Reward hacking", "Length bias", "Entropy collapse", "All groups dead", "Mismatch"):
        after = text.split(f"## {part}")[1].split("\n## ")[0]
        assert all(f"**{word}" in after for word in ("What one sees", "Why", "What to do")), part
