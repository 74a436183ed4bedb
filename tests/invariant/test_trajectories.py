"One trajectory under two names, and responses that depend on nothing but their seed."

import pytest
from small_runs import computed, small
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.tasks.sums import chain_sum
from mpo_nb.training.trainer import Trainer


@pytest.mark.slow
def test_twenty_steps_of_mpo_with_k1_are_grpo_to_the_last_bit(tmp_path):
    options = dict(steps=20, eval_every=10, eval_problems=32)
    mpo = Trainer(small(tmp_path / "mpo", recipe="mpo", k=1, **options)).fit()
    grpo = Trainer(small(tmp_path / "grpo", recipe="grpo", **options)).fit()
    assert len(mpo) == 21 and computed(mpo) == computed(grpo)
    assert any(row.get("log_ratio_std", 0) > 1e-3 for row in mpo), "the ratios never left 1: this compares nothing"


def test_mpo_with_k4_is_not_grpo(tmp_path):
    "The control of the test above: the comparison sees a difference when there is one."
    mpo, grpo = (Trainer(small(tmp_path / name, recipe=name)).fit() for name in ("mpo", "grpo"))
    assert computed(mpo) != computed(grpo)


def test_same_seed_same_responses_whatever_the_batch():
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    prompts = [p["prompt"] for p in chain_sum(8, 4).train]
    whole, parts = (rollout(model, tokenizer, prompts, 4, 40, seed=5, max_rows=n) for n in (512, 5))
    assert whole.texts == parts.texts and rollout(model, tokenizer, prompts, 4, 40, seed=6).texts != whole.texts
