"""Training under an order of objectives: without an order nothing changes, and multipliers survive a resumption."""

import math
from dataclasses import replace

import pytest
import torch
from small_runs import computed, small

from mpo_nb.cli import train_config
from mpo_nb.config import TrainConfig, configured_recipe
from mpo_nb.objectives import Objective, OrderedObjectives, even_answer
from mpo_nb.recipes import recipe
from mpo_nb.tasks.task import load_task
from mpo_nb.training.trainer import Trainer

OWN = ("objective_", "multiplier_")
EVEN = dict(edges=[["correctness", "even_answer", 0.1]], best={"correctness": 0.9}, rate=4.0)


def plain(rows: list[dict]) -> list[dict]:
    "Metrics without the objectives' own."
    return [{k: v for k, v in row.items() if not k.startswith(OWN)} for row in computed(rows)]


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_slack_as_wide_as_the_reward_s_range_is_the_plain_recipe(tmp_path):
    "To the bit: the recipe on the lower objective as the task's only reward, and an order that binds nothing."
    task = replace(load_task("chain_sum"), reward=even_answer)
    right = Objective("right", lambda problem, response: float(response.endswith("#" + problem["answer"])))
    wide = dict(edges=[("right", "correctness", 1.0)], best={"right": 1.0}, rate=4.0, further=(right,))
    runs = {}
    for name, objectives in (("plain", None), ("alone", {}), ("wide", wide)):
        options = {} if objectives is None else dict(objectives=objectives)
        trainer = Trainer(small(tmp_path / name, recipe="grpo"), task=task, recipe=recipe("grpo", **options))
        runs[name] = (plain(trainer.fit()), weights(trainer), trainer.recorder.metrics())
    for name in ("alone", "wide"):
        assert runs[name][0] == runs["plain"][0]
        assert all(torch.equal(a, b) for a, b in zip(runs[name][1], runs["plain"][1]))
    assert [row["multiplier_right"] for row in runs["wide"][2]] == [0.0, 0.0]
    assert [row["objective_correctness"] for row in runs["wide"][2]] == [row["reward"] for row in runs["wide"][2]]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_resumed_run_has_the_multipliers_of_an_unbroken_one(tmp_path, lag):
    "And a run with an order is not one without: the comparison sees a difference."
    options = dict(recipe="grpo", recipe_options=dict(objectives=EVEN), lag=lag, checkpoint_every=1)
    whole = Trainer(small(tmp_path / "whole", steps=4, **options))
    rows = whole.fit()
    Trainer(small(tmp_path / "broken", steps=2, **options)).fit()
    again = Trainer(small(tmp_path / "broken", steps=4, **options))
    assert again.judge.rule.multipliers[3 + lag] == whole.judge.rule.multipliers[3 + lag]
    assert computed(again.fit()) == computed(rows)
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(whole)))
    found = [row["multiplier_correctness"] for row in rows]
    moved = [0.0]
    for row in rows[:-1]:
        moved.append(max(0.0, moved[-1] + 4.0 * (0.9 - 0.1 - row["objective_correctness"])))
    assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(found, moved)) and found[-1] > 0.5


def test_what_a_step_that_is_taken_twice_is_weighed_with(tmp_path):
    "A batch that was judged and never trained on, as after a Ctrl-C, moves no multiplier twice."
    trainer = Trainer(small(tmp_path / "run", recipe="grpo", recipe_options=dict(objectives=EVEN)))
    first = trainer.collect(1)
    assert trainer.judge.state(0) == {"multipliers": {1: {"correctness": 0.0}}}
    again = trainer.collect(1)
    assert torch.equal(first.advantages, again.advantages) and first.extra == again.extra


def test_each_objective_has_a_partition_of_its_own_in_one_advantage(tmp_path):
    "With a multiplier that stands still: tokens differ by what their own block earned, and GDPO whitens the sum."
    order = dict(edges=[("length", "correctness", 0.0)], rate=0.0, start={"length": 2.0})
    for whiten in (False, True):
        r = recipe("grpo", objectives=order, whiten=whiten)
        trainer = Trainer(small(tmp_path / str(whiten), recipe="grpo"), recipe=r)
        batch = trainer.collect(1)
        kept = batch.advantages[batch.rollout.mask]
        assert batch.advantages.shape == batch.rollout.mask.shape and batch.extra["multiplier_length"] == 2.0
        assert (kept.std(unbiased=False) - 1).abs() < 1e-4 if whiten else len(set(batch.advantages[0].tolist())) > 3


def test_from_a_command_line_and_a_file(tmp_path):
    "The same order three ways; one that cannot be is refused with the name of the option."
    text = '{"objectives": {"edges": [["correctness", "length", 0.05]], "best": {"correctness": 0.8}}}'
    config, _ = train_config(["--recipe", "grpo", "--recipe_options", text])
    path = tmp_path / "run.yaml"
    edges = "    edges: [[correctness, length, 0.05]]\n    best: {correctness: 0.8}\n"
    path.write_text(f"recipe: grpo\nrecipe_options:\n  objectives:\n{edges}")
    filed, _ = train_config(["--config", str(path)])
    wanted = OrderedObjectives(edges=[("correctness", "length", 0.05)], best={"correctness": 0.8})
    for one in (config, filed):
        assert configured_recipe(one).rule.order == wanted
    with pytest.raises(ValueError, match="recipe_options=.*'style', which is unknown"):
        TrainConfig(recipe="grpo", recipe_options='{"objectives": {"target": "style"}}')
