"The runs of the study of drift are those of a plain trainer, and its file can be taken up."

import importlib.util
import math

import pytest
import torch

from mpo_nb.actions import TokenActions
from mpo_nb.evaluation import exact_kl
from mpo_nb.recipes import recipe
from mpo_nb.training import TrainConfig, Trainer


@pytest.fixture
def study(root, monkeypatch):
    "benchmarks/same_drift.py, with three updates instead of 32."
    spec = importlib.util.spec_from_file_location("same_drift", root / "benchmarks" / "same_drift.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "same_drift", module)
    spec.loader.exec_module(module)
    small = {"lag 16": dict(lag=2, epochs=1, steps=4), "lag 0": dict(lag=0, epochs=1, steps=2)}
    monkeypatch.setattr(module, "REGIMES", small)
    monkeypatch.setattr(module, "METHODS", dict(list(module.METHODS.items())[::4]))
    monkeypatch.setattr(module, "RANGES", (1.0, math.inf))
    monkeypatch.setattr(module, "RATES", (1e-4,))
    monkeypatch.setattr(module, "CHOOSING", (100,))
    monkeypatch.setattr(module, "SEEDS", (0,))
    monkeypatch.setattr(module, "SAMPLED", 4)
    monkeypatch.setattr(module, "GREEDY", 8)
    return module


def test_a_range_is_wide_in_logarithms(study):
    assert study.log_range(1) == pytest.approx((0.2, 0.2))
    low, high = study.log_range(3)
    assert math.log(1 - low) == pytest.approx(3 * math.log(0.8)) and math.log(1 + high) == pytest.approx(
        3 * math.log(1.2)
    )
    assert study.recipe_of("token", math.inf).surrogate == "none"


def test_its_runs_are_those_of_a_plain_trainer(study, tmp_path):
    "What the first policy sampled is shared, and what is never trained on is not sampled: neither changes a number."
    key = study.Key("evaluate", "lag 16", "token", 1.0, 1e-4, 7)
    other = study.Key("evaluate", "lag 16", "whole response", 1.0, 1e-4, 7)
    study.trained(other)  # fills what is shared
    found = study.trained(key)
    config = TrainConfig(output=str(tmp_path), lr=1e-4, seed=7, **study.SETTINGS, **study.REGIMES["lag 16"])
    plain = Trainer(config, recipe=recipe("grpo", actions=TokenActions()))
    rows = plain.fit()
    assert found["clip_fraction"] == sum(row["clip_fraction"] for row in rows) / 4
    assert {name: found[name] for name in study.judged(plain)} == study.judged(plain)
    assert found != study.trained(other)


def test_the_drift_is_a_divergence(study):
    model, tokenizer, _ = study.start()
    from mpo_nb.sampling import rollout

    r = rollout(model, tokenizer, ["1+2+3=", "4+5="], 4, 24, seed=0)
    assert study.drift(model, r)["exact_kl"] == pytest.approx(0, abs=1e-12)
    moved, *_ = study.load("tiny", device="cpu", precision="float32", quiet=True)
    with torch.no_grad():
        moved.get_output_embeddings().weight.add_(0.05)
        moved.get_output_embeddings().weight[7].mul_(1.5)
    far = study.drift(moved, r)
    assert far["exact_kl"] > 1e-4 and far["exact_kl"] == pytest.approx(exact_kl(moved, model, r))
    assert far["exact_kl_response"] == pytest.approx(far["exact_kl"] * far["response_length"])


def test_its_file_is_taken_up(study, tmp_path):
    path = tmp_path / "runs.csv"
    made = []
    study.train(path, ("lag 16",), lambda key, **_: made.append(key))
    assert len(made) == 1 + 2 + 4 and [key.role for key in made[:2]] == ["start", "choose"]
    assert list(study.read(path)) == made and study.read(path)[made[0]]["exact_kl"] == pytest.approx(0, abs=1e-12)
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    again = []
    study.train(path, ("lag 16",), lambda key, **_: again.append(key))
    assert again == made[3:] and path.read_text() == whole
    assert {key.lr for key in made} == {1e-4} and study.chosen_rate(study.read(path), "token") == 1e-4
