"""A run whose modules draft trains on the policy's own numbers."""

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mpo_nb.config import TrainConfig
from mpo_nb.models.logprobs import response_logps
from mpo_nb.training.setup import check_start
from mpo_nb.training.trainer import Trainer

SMALL = dict(
    k=3,
    source="mtp",
    prompts_per_step=4,
    group_size=4,
    epochs=1,
    minibatches=1,
    max_new_tokens=24,
    mtp_warmup_steps=10,
    mtp_warmup_problems=16,
    mtp_warmup_lr=3e-3,
    eval_every=0,
    precision="float32",
    progress=False,
    device="cpu",
)


def trainer(folder, **options) -> Trainer:
    return Trainer(TrainConfig(output=str(folder), **SMALL | options))


@pytest.mark.parametrize("merge", ["none", "eh_proj"])
def test_metrics_are_those_of_the_policy(tmp_path, merge):
    "One update on responses that modules drafted: they are as likely as the sampler says, and ratios begin at 1."
    t = trainer(tmp_path / "run", steps=2, speculate="on", mtp_merge=merge)
    t.warm_up()
    batch = t.collect(1)
    r = batch.rollout
    with torch.no_grad():
        own, _ = response_logps(t.model, r.prompt_ids, r.prompt_mask, r.ids, r.mask)
    assert_close(r.logps, own, atol=1e-4, rtol=0)
    row = t.step(1)
    assert row["log_ratio_std"] < 1e-4
    assert row["clip_fraction"] == 0  # a single update: every ratio is 1
    assert 1 < row["speculation_tokens"] <= 3
    for n in (1, 2):
        assert 0 < row[f"speculation_accepted_{n}"] < 1
        assert abs(row[f"speculation_accepted_{n}"] - row[f"speculation_expected_{n}"]) < 0.2
    assert row["response_length"] == pytest.approx(float(r.lengths.float().mean()))


def test_off_is_the_run_that_it_was(tmp_path):
    "Modules that draft nothing leave every number as it was, and name nothing in the metrics or the checkpoint."
    off = trainer(tmp_path / "off", steps=1)
    assert off.sampler.speculation is None and off.sampler.state() == dict(rows=512)
    auto = trainer(tmp_path / "auto", steps=1, speculate="auto", mtp_warmup_steps=0)  # not measured before a step
    plain = trainer(tmp_path / "plain", steps=1, mtp_warmup_steps=0)
    one, two = auto.step(1), plain.step(1)
    times = {"seconds", "seconds_sampling", "seconds_training", "tokens_per_second", "peak_memory_mb"}
    shared = {k for k in two if k not in times and not k.startswith(("seconds", "peak"))}
    differing = {k for k in shared if one.get(k) != two[k] and not (one[k] != one[k] and two[k] != two[k])}
    assert not {k for k in differing if "per_second" not in k}
    assert set(one) - set(two) == {"speculation_rows"} and one["speculation_rows"] == 0


def test_the_same_seed_gives_the_same_run_and_a_checkpoint_goes_on(tmp_path):
    whole = trainer(tmp_path / "whole", steps=2, speculate="on").fit()
    first = trainer(tmp_path / "broken", steps=2, speculate="on", checkpoint_every=1)
    first.warm_up()
    first.recorder.run  # the folder is begun
    with first.recorder.session():
        first.step(1)
    del first
    rest = trainer(tmp_path / "broken", steps=2, speculate="on", checkpoint_every=1).fit()
    for a, b in zip(whole, rest, strict=True):
        assert a["reward"] == b["reward"] and a["speculation_tokens"] == b["speculation_tokens"]


def test_the_measured_number_of_rows_is_saved(tmp_path):
    t = trainer(tmp_path / "run", steps=2, speculate="auto")
    t.fit()
    speculation = t.sampler.speculation
    assert speculation.gains and t.run.metrics[-1]["speculation_rows"] == speculation.rows
    state = json.loads(json.dumps(t.sampler.state()))
    again = trainer(tmp_path / "run", steps=2, speculate="auto")
    assert again.sampler.state() == state


def test_an_evaluation_is_greedy_with_drafts_too(tmp_path):
    "Its drafts are not those of a step, and its greedy answers are those without drafts."
    options = dict(eval_problems=8, eval_samples=1, mtp_warmup_steps=0)
    on, off = (trainer(tmp_path / way, steps=1, speculate=way, **options) for way in ("on", "off"))
    first, plain = on.evaluate(), off.evaluate()
    assert first["accuracy_greedy"] == plain["accuracy_greedy"] and set(first) == set(plain)
    assert first == on.evaluate()
    row = on.step(1)
    counts = on.sampler.speculation.counts
    assert counts.tokens + 16 >= row["response_length"] * 16 >= counts.tokens  # each response has one token undrafted


def test_a_plan_says_what_it_leaves_out():
    from mpo_nb.planning.phases import Work
    from mpo_nb.planning.plan import work_in_words

    config = TrainConfig(**SMALL | dict(output="run", speculate="on"))
    assert "drafts and the modules' caches" in work_in_words(config, Work(8, 24, 4, 0, 4, 16))
    assert "drafts" not in work_in_words(replace(config, speculate="off"), Work(8, 24, 4, 0, 4, 16))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(recipe="grpo"), "speculate='on' with recipe='grpo' and source='backbone': there are no modules"),
        (dict(source="mtp", sampler="vllm"), "speculate='on' with sampler='vllm'.*sampler='transformers'"),
        (dict(source="mtp", decoding="compiled"), "speculate='on' with decoding='compiled'.*decoding='dynamic'"),
        (dict(source="mtp", speculate="yes"), "speculate='yes'"),
    ],
)
def test_what_cannot_draft_is_refused_before_a_weight_is_loaded(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        check_start(TrainConfig(output=str(tmp_path / "run"), **dict(speculate="on") | options))
