"The examples of CONTRIBUTING.md run as they stand and do what the text says."

import re
from dataclasses import replace

import pytest
import torch
from batches import leaf
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpo_nb.actions import weight_matrix
from mpo_nb.config import TrainConfig
from mpo_nb.losses import policy_loss
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.recipes import recipe
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.tasks.task import load_task
from mpo_nb.training.trainer import Trainer

QUICK = dict(prompts_per_step=2, group_size=4, eval_every=0, precision="float32", progress=False)


@pytest.fixture(scope="module")
def examples(root) -> dict[str, str]:
    "Heading -> its code."
    return dict(
        re.findall(
            r"^### (.+?)\n.*?```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE
        )
    )


def run(source: str) -> dict:
    names = {"__name__": "example"}
    exec(source, names)
    return names


def test_there_is_an_example_of_each(examples):
    assert list(examples) == [
        "An action space",
        "An advantage rule",
        "A recipe",
        "A head",
        "A sampler",
        "A task",
        "A widget",
    ]
    assert (
        len([line for line in examples["An action space"].split("class DecayActions")[1].splitlines() if line.strip()])
        <= 30
    )


def test_an_action_space(examples, tmp_path):
    actions = run(examples["An action space"])["DecayActions"](0.5)
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    g = torch.Generator().manual_seed(0)
    W = weight_matrix(actions, mask)
    torch.testing.assert_close(W[0], torch.tensor([8, 4, 0, 2, 1]).double() / 15)
    assert W[:, 2].abs().max() == 0 and W[4].tolist() == [0, 0, 0, 0, 1]
    x = torch.randn(3, 5, generator=g, dtype=torch.double)
    for row in range(3):
        W = weight_matrix(actions, mask, row)
        torch.testing.assert_close(actions.log_ratio(x, mask)[row], W @ x[row])
        torch.testing.assert_close(actions.credit(x, mask)[row], W.T @ x[row])
    logps = leaf(-torch.rand(3, 5, generator=g, dtype=torch.double))
    out = policy_loss(logps, (logps + 0.2 * x).detach(), torch.tensor([1.0, -1.0, 0.5]), mask, actions)
    out.loss.backward()
    torch.testing.assert_close(-logps.grad, out.credit)
    assert recipe("grpo", actions=actions).actions is actions


def test_an_advantage_rule(examples, tmp_path):
    names = run(examples["An advantage rule"])
    rule, ranked = names["RankAdvantage"], names["ranked"]
    rewards = torch.tensor([0.0, 1.0, 1.0, 9.0, 5.0, 5.0, 5.0, 5.0], dtype=torch.double)
    expected = torch.tensor([-1.0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.double)
    torch.testing.assert_close(rule().advantages(rewards, 4), expected)
    torch.testing.assert_close(ranked.advantages(rewards, 4), 2 * expected)
    assert ranked.advantage == "group-rank" and ranked.surrogate == "ppo"
    rows = Trainer(TrainConfig(steps=1, **QUICK, output=str(tmp_path / "run")), recipe=ranked).fit()
    assert rows[0]["grad_norm"] > 0


def test_a_head(examples):
    from mpo_nb.training.scores import TokenHead, frozen_scores

    head = run(examples["A head"])["DeepValueHead"](128)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    r = rollout(model, tokenizer, ["7+5-3+8?", "1+1?"], group_size=2, max_new_tokens=24, seed=0)
    plain = frozen_scores(model, r, TrainConfig())
    scores = frozen_scores(model, r, TrainConfig(), (TokenHead(), head))
    assert plain.values is None and scores.values.shape == r.logps.shape and scores.values[r.mask].all()
    torch.testing.assert_close(scores.logps, plain.logps, rtol=0, atol=1e-5)


def test_a_sampler(examples, tmp_path):
    config = TrainConfig(steps=2, checkpoint_every=1, **QUICK, output=str(tmp_path / "run"))
    plain = Trainer(replace(config, output=str(tmp_path / "plain")))
    trainer = Trainer(config)
    trainer.sampler = counting = run(examples["A sampler"])["CountingSampler"](trainer.sampler)
    lines = trainer.fit()
    assert [row["reward"] for row in lines] == [row["reward"] for row in plain.fit()]
    assert counting.tokens == round(sum(row["response_length"] * 8 for row in lines)) > 0
    again = run(examples["A sampler"])["CountingSampler"](Trainer(config).sampler)
    again.load_state(counting.state())
    assert again.tokens == counting.tokens


def test_a_recipe(examples):
    r = run(examples["A recipe"])["careful"]
    assert (r.actions.k, r.clip, r.kl) == (3, (0.1, 0.1), 0.01)


def test_a_task(examples, tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(examples["A task"])
    monkeypatch.syspath_prepend(tmp_path)
    task = load_task("my_tasks:parity")
    assert task.reward(task.train[3], " odd\n") == 1.0 and len(task.test) == 50
    rows = Trainer(TrainConfig(task="my_tasks:parity", steps=1, **QUICK, output=str(tmp_path / "run"))).fit()
    assert rows[0]["reward"] == 0, "the tiny model knows sums, not words"


def test_a_widget(examples, tmp_path):
    explorer = run(examples["A widget"])["LengthExplorer"](k=8)
    assert explorer.picture().summary == "64 tokens make 8 blocks of 8." and list(
        explorer.figure(k=1).data[0].y
    ) == list(range(1, 65))
    explorer.widget
    assert explorer.set(k=16).values["k"] == 16
    assert "64 tokens make 4 blocks of 16." in explorer.to_html(tmp_path / "page.html").read_text()
