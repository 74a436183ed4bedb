"The examples of CONTRIBUTING.md run as they stand and do what the text says."

import re

import pytest
import torch
from batches import leaf

from mpo_nb.actions import weight_matrix
from mpo_nb.config import TrainConfig
from mpo_nb.losses import policy_loss
from mpo_nb.recipes import recipe
from mpo_nb.tasks.task import load_task
from mpo_nb.training.trainer import Trainer


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
    assert list(examples) == ["An action space", "A recipe", "A task", "A widget"]
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


def test_a_recipe(examples):
    r = run(examples["A recipe"])["careful"]
    assert (r.actions.k, r.clip, r.kl) == (3, (0.1, 0.1), 0.01)


def test_a_task(examples, tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(examples["A task"])
    monkeypatch.syspath_prepend(tmp_path)
    task = load_task("my_tasks:parity")
    assert task.reward(task.train[3], " odd\n") == 1.0 and len(task.test) == 50
    rows = Trainer(
        TrainConfig(
            task="my_tasks:parity",
            steps=1,
            prompts_per_step=2,
            group_size=2,
            eval_every=0,
            precision="float32",
            progress=False,
            output=str(tmp_path / "run"),
        )
    ).fit()
    assert rows[0]["reward"] == 0, "the tiny model knows sums, not words"


def test_a_widget(examples, tmp_path):
    explorer = run(examples["A widget"])["LengthExplorer"](k=8)
    assert explorer.picture().summary == "64 tokens make 8 blocks of 8." and list(
        explorer.figure(k=1).data[0].y
    ) == list(range(1, 65))
    explorer.widget
    assert explorer.set(k=16).values["k"] == 16
    assert "64 tokens make 4 blocks of 16." in explorer.to_html(tmp_path / "page.html").read_text()
