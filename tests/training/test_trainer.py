"""The training loop: equal gradients however a batch is cut, clear errors, odd groups. Equal trajectories stand in
tests/invariant."""

import json
import math
import warnings

import pytest
import torch
from small_runs import computed, small
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import mpo_nb.models.logprobs
import mpo_nb.sampling.rollouts
from mpo_nb.blocks import block_sizes
from mpo_nb.config import TrainConfig
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.recipes import recipe, recipes
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.sampling.draws import draw_seed
from mpo_nb.sampling.rollouts import Rollout
from mpo_nb.tasks.sums import chain_sum
from mpo_nb.tasks.task import Task
from mpo_nb.training.batch import length_buckets, micro_batches, step_problems
from mpo_nb.training.trainer import Trainer


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=None, eos_token_id=None)
    )


def tiny_qwen2() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=20,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )


def constant_task(reward: float) -> Task:
    base = chain_sum(64, 16)
    return Task("constant", base.train, base.test, lambda problem, response: reward)


# Gradients do not depend on how a minibatch is cut


@pytest.mark.parametrize("name", list(recipes))
def test_micro_batches_add_up_to_the_large_batch(name, tmp_path):
    options = dict(recipe=name, recipe_options='{"kl": 0.1, "entropy": 0.01}', group_size=8)
    trainer = Trainer(small(tmp_path, **options))
    batch = trainer.collect(1)
    batch.old_logps = (
        batch.old_logps
        + 0.3 * torch.randn(batch.old_logps.shape, generator=torch.Generator().manual_seed(0)) * batch.rollout.mask
    )
    rows = torch.tensor([5, 1, 20, 7, 30, 11, 12, 13, 2])

    def gradient(budget):
        trainer.config.micro_batch_tokens = budget
        trainer.learner.optimizer.zero_grad()
        parts = trainer.learner.accumulate(batch, rows, 1)
        loss = sum(float(out.loss.detach()) for out, *_ in parts)
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()]), loss, len(parts)

    whole, loss, n = gradient(10**6)
    for budget, least in ((150, 2), (1, len(rows))):
        cut, cut_loss, m = gradient(budget)
        assert n == 1 and m >= least
        assert cut_loss == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(cut, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_buckets_hold_every_row_once_and_keep_to_the_budget():
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = (torch.rand(int(torch.randint(1, 60, (), generator=g)), generator=g) ** 4 * 400).long() + 1
        buckets = length_buckets(lengths, 500)
        assert sorted(torch.cat(buckets).tolist()) == list(range(len(lengths)))
        assert all(len(b) == 1 or len(b) * int(lengths[b].max()) <= 500 for b in buckets)


def test_a_minibatch_in_several_parts_keeps_groups_together():
    "Responses of one length: a part reads as few prompts as it can. One part keeps the order that it was given."
    prompts, group, n = 16, 4, 10
    prompt_ids = torch.arange(prompts).repeat_interleave(group)[:, None]  # (B, 1)
    mask = torch.ones(prompts * group, n, dtype=torch.bool)
    there = torch.ones_like(prompt_ids, dtype=torch.bool)
    texts, finished = [""] * len(mask), mask[:, 0]
    r = Rollout(prompt_ids, there, torch.zeros_like(mask, dtype=torch.long), mask, mask.float(), texts, finished)
    rows = torch.randperm(len(mask), generator=torch.Generator().manual_seed(0))
    (whole,) = micro_batches(r, rows, len(rows) * (n + 1))
    assert whole.tolist() == rows.tolist()
    parts = micro_batches(r, rows, 8 * (n + 1))
    assert [part.tolist() for part in parts] == torch.arange(len(mask)).view(-1, 8).tolist()
    assert all(len(prompt_ids[part].unique()) == 2 for part in parts)
    assert any(len(prompt_ids[part].unique()) > 2 for part in rows.split(8)), "the draw had them together already"
    drawn = rows[:24]  # a minibatch stays the draw that it is
    assert sorted(torch.cat(micro_batches(r, drawn, 8 * (n + 1))).tolist()) == sorted(drawn.tolist())


def test_problems_are_passes_over_the_training_set():
    task = chain_sum(10, 4)
    taken = [p["prompt"] for step in range(1, 6) for p in step_problems(task, 3, step, 4)]
    prompts = sorted(p["prompt"] for p in task.train)
    assert sorted(taken[:10]) == sorted(taken[10:]) == prompts and taken[:10] != taken[10:]


# The sampler and the training forward speak of one policy


def test_first_batch_agrees_and_says_so(tmp_path, capsys):
    rows = Trainer(small(tmp_path)).fit()
    assert rows[0]["logp_mismatch"] < 1e-4
    assert "First batch: log-probabilities of the sampler and of the training forward agree" in "".join(
        capsys.readouterr()
    )


def test_first_batch_disagreement_is_said_aloud(tmp_path, monkeypatch):
    """Positions counted from the padding instead of from the first token: the classic mistake, seen by a model with
    absolute positions."""
    base = chain_sum(64, 16)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    mixed = Task(
        "mixed",
        [p | {"prompt": p["prompt"] if i % 2 else "1+1?"} for i, p in enumerate(base.train)],
        base.test,
        lambda problem, response: float("1" in response),
    )
    trainer = Trainer(small(tmp_path, steps=1), model=tiny_gpt2(), tokenizer=tokenizer, task=mixed)
    monkeypatch.setattr(mpo_nb.models.logprobs, "reads_trees", lambda decoder: False)  # a tree has no padding
    monkeypatch.setattr(
        mpo_nb.models.logprobs, "positions", lambda attention: torch.arange(attention.shape[1]).expand(attention.shape)
    )
    with pytest.warns(UserWarning, match="differ from the sampler's by up to .* do not trust this run"):
        trainer.fit()
    with pytest.raises(ValueError, match="model=GPT2LMHeadModel .* standard deviations from those of the text alone"):
        Trainer(small(tmp_path / "other", steps=1), model=tiny_gpt2(), tokenizer=tokenizer, task=mixed)


# Whatever transformers holds


@pytest.mark.parametrize("name", list(recipes))
def test_every_recipe_trains(name, tmp_path):
    rows = Trainer(small(tmp_path, recipe=name)).fit()
    assert len(rows) == 2 and all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("rule", ["sentence", "surprise", "random", "entropy", 5])
def test_blocks_by_any_rule_train_and_are_drawn_again_alike(rule, tmp_path):
    options = dict(recipe="lpo", recipe_options=json.dumps({"actions": rule}), steps=4, checkpoint_every=2)
    whole = Trainer(small(tmp_path / "whole", **options)).fit()
    Trainer(small(tmp_path / "parts", **options | dict(steps=2))).fit()
    trainer = Trainer(small(tmp_path / "parts", **options))
    batch = trainer.collect(3)
    assert computed(trainer.fit()) == computed(whole)
    if rule == 5:
        return
    sizes = block_sizes(batch.blocks)
    assert (
        (batch.blocks >= 0).equal(batch.rollout.mask.bool())
        and int(sizes.sum()) == int(batch.rollout.mask.sum())
        and sizes.shape[1] > 1
    )
    if rule == "random":
        assert int(sizes.max()) in (5, 10) and not trainer.collect(4).blocks[:, :20].equal(batch.blocks[:, :20])


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_qwen2])
def test_other_architectures(make, tmp_path):
    model = make()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    base = chain_sum(64, 16)
    task = Task("digits", base.train, base.test, lambda problem, response: float("1" in response))
    rows = Trainer(small(tmp_path, gradient_checkpointing=True), model=model, tokenizer=tokenizer, task=task).fit()
    assert len(rows) == 2 and rows[0]["logp_mismatch"] < 1e-4 and rows[0]["grad_norm"] > 0


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    grads = []
    for name, on in (("off", False), ("on", True)):
        trainer = Trainer(small(tmp_path / name, gradient_checkpointing=on))
        batch = trainer.collect(1)
        trainer.learner.accumulate(batch, batch.kept, 1)
        grads.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(*grads)


def test_bfloat16_recomputes_old_logps(tmp_path):
    trainer = Trainer(small(tmp_path, precision="bfloat16"))
    batch = trainer.collect(1)
    trainer.learner.accumulate(batch, batch.kept, 1)
    assert (batch.logps - batch.old_logps).abs().max() < 0.05 < 1, (
        "ratios start at 1, up to the rounding of other micro-batches"
    )
    assert trainer.fit()[-1]["grad_norm"] > 0


def test_precision_auto_is_settled_once_and_kept(tmp_path):
    config = small(tmp_path, precision="auto", steps=1)
    trainer = Trainer(config)
    assert config.precision == "auto" and trainer.config.precision in ("float32", "bfloat16")
    assert (
        Trainer(config).config.precision
        == trainer.config.precision
        == json.loads((tmp_path / "run" / "config.json").read_text())["precision"]
    )


def test_learning_rate_warms_up_and_falls(tmp_path):
    rows = Trainer(small(tmp_path, steps=6, warmup_steps=3, schedule="linear", lr=3e-5, checkpoint_every=10)).fit()
    lrs = [row["lr"] for row in rows]
    assert lrs == pytest.approx([1e-5, 2e-5, 3e-5, 2.25e-5, 1.5e-5, 0.75e-5])


def test_traces_are_what_the_loss_saw(tmp_path):
    Trainer(small(tmp_path, steps=1, trace_groups=2)).fit()
    traces = load_traces(tmp_path / "run")
    assert len(traces) == 8 and [(t.group, t.index) for t in traces] == [(g, i) for g in range(2) for i in range(4)]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    for t in traces[:3]:
        ids = torch.tensor([tokenizer(t.prompt)["input_ids"] + t.token_ids])
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1)[-len(t.token_ids) :]
        expected = logp.gather(-1, torch.tensor(t.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(t.old_logps), expected, rtol=0, atol=1e-4)
        assert "".join(t.tokens) == tokenizer.decode(t.token_ids) and t.correct == (t.reward == 1.0)


# Groups that teach nothing


@pytest.mark.parametrize("reward", [0.0, 1.0], ids=["all wrong", "all right"])
@pytest.mark.parametrize("name", ["grpo", "mpo", "dapo"])
def test_groups_without_signal_train_on(name, reward, tmp_path):
    trainer = Trainer(
        small(tmp_path, recipe=name, recipe_options='{"overlong_buffer": 0.0}' if name == "dapo" else "{}"),
        task=constant_task(reward),
    )
    before = [p.detach().clone() for p in trainer.model.parameters()]
    rows = trainer.fit()
    assert [row["dead_groups"] for row in rows] == [1.0, 1.0] and rows[-1]["reward"] == reward
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


def test_empty_responses_train_on(tmp_path, monkeypatch):
    "Every other response ends at once: one EOS, no text."
    eos = AutoTokenizer.from_pretrained(tiny_model_path()).eos_token_id
    sample_tokens = mpo_nb.sampling.rollouts.sample_tokens

    def stubborn(logits, u):
        tokens, logps = sample_tokens(logits, u)
        ended = torch.arange(len(tokens)) % 2 == 0
        return torch.where(ended, eos, tokens), torch.where(ended, logits.log_softmax(-1)[:, eos], logps)

    monkeypatch.setattr(mpo_nb.sampling.rollouts, "sample_tokens", stubborn)
    trainer = Trainer(small(tmp_path))
    batch = trainer.collect(1)
    assert "" in batch.rollout.texts and (batch.rollout.lengths == 1).any()
    assert all(math.isfinite(row["loss"]) for row in trainer.fit())


# Bad input


def no_weights(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("the model was loaded before the error")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=0), r"k=0; .*at least 1 \(1 is token level\)"),
        (dict(k=2.5), r"k=2\.5"),
        (dict(future=1.0), r"future=1\.0; .* in \[0, 1\)"),
        (dict(future=-0.1), r"future=-0\.1"),
        (dict(recipe_options='{"beta": [0.5, 0.4, 0.3, 0.2]}'), "beta"),
        (dict(recipe_options='{"beta": [0.5, 0.5]}', k=3), "beta"),
        (dict(recipe="mopo"), "recipe 'mopo' is unknown; there are mpo, grpo"),
        (dict(recipe_options='{"clop": 1}'), "has no option 'clop'; it has .*clip"),
        (dict(group_size=1), r"group_size=1; .* at least 2 .*compares"),
        (dict(lr=0.0), r"lr=0\.0; it must be positive"),
        (dict(temperature=-1.0), r"temperature=-1\.0"),
        (dict(minibatches=100), "minibatches=100 exceeds the 16 responses"),
        (dict(lag=10**9, steps=3), "lag=1000000000 exceeds steps=3: .*at most lag=3"),
        (dict(precision="float8"), "precision='float8'; choose one of auto, float32, bfloat16, float16"),
    ],
)
def test_bad_values_name_argument_value_and_remedy(options, message, tmp_path, monkeypatch):
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=message):
        Trainer(small(tmp_path, **options))


def test_unknown_task_lists_what_there_is(tmp_path, monkeypatch):
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match="chain_sum"):
        Trainer(small(tmp_path, task="chain_sums"))


@pytest.mark.parametrize("token", ["pad_token", "eos_token"])
def test_tokenizer_without_pad_or_eos(token, tmp_path, monkeypatch):
    no_weights(monkeypatch)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<e>": 1, "<p>": 2}, "a")),
        **{"eos_token": "<e>", "pad_token": "<p>"} | {token: None},
    )
    with pytest.raises(ValueError, match=f"tokenizer has no {token}.* set tokenizer.{token}"):
        Trainer(small(tmp_path), tokenizer=tokenizer)


def test_prompt_longer_than_the_context(tmp_path, monkeypatch):
    no_weights(monkeypatch)
    base = chain_sum(8, 4)
    task = Task("long", base.train, [*base.test, {"prompt": "1+1" * 200 + "?", "answer": "2"}], base.reward)
    with pytest.raises(
        ValueError,
        match=(
            r"prompts\[4\] has \d+ tokens and max_new_tokens=48: together more than the model's context of \d+; shorten"
        ),
    ):
        Trainer(small(tmp_path), task=task)


def test_folder_of_another_configuration(tmp_path, monkeypatch):
    Trainer(small(tmp_path)).fit()
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    no_weights(monkeypatch)
    with pytest.raises(
        ValueError, match=r"holds a run with k=4, not 2; choose another folder, or overwrite=True \(--overwrite\)"
    ):
        Trainer(small(tmp_path, k=2))
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}, (
        "the refused run changed the folder"
    )


@pytest.mark.parametrize(
    "reward, error, message",
    [
        (lambda p, r: float("nan"), ValueError, "response 0"),
        (lambda p, r: "1", ValueError, "response 0"),
        (lambda p, r: 1 / 0, RuntimeError, "ZeroDivisionError: .* on response 0"),
    ],
)
def test_rewards_that_fail_name_the_response(reward, error, message, tmp_path):
    base = chain_sum(8, 4)
    with pytest.raises(error, match=message):
        Trainer(small(tmp_path), task=Task("broken", base.train, base.test, reward)).fit()


def test_rewards_of_the_wrong_number(tmp_path):
    base = chain_sum(8, 4)
    with pytest.raises(ValueError, match="returned 3 numbers for 16 responses"):
        Trainer(
            small(tmp_path), task=Task("short", base.train, base.test, lambda ps, rs: [1.0] * 3, batched=True)
        ).fit()


# A loss that is not finite


def test_non_finite_loss_stops_before_the_step_is_applied(tmp_path, monkeypatch):
    trainer = Trainer(small(tmp_path, steps=5, checkpoint_every=2))
    loss = trainer.recipe.loss
    weights = []

    def broken(batch):
        out = loss(batch)
        if trainer.done == 3:
            weights.append([p.detach().clone() for p in trainer.model.parameters()])
            out.loss = out.loss * math.nan
        return out

    object.__setattr__(trainer.recipe, "loss", broken)
    with pytest.raises(
        FloatingPointError,
        match=(
            r"the loss at step 4 is not finite; the update was not applied.*step-000004\.jsonl.*last good checkpoint is"
            r" .*step-000002"
        ),
    ):
        trainer.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights[0], trainer.model.parameters()))
    assert load_traces(tmp_path / "run" / "failed" / "step-000004.jsonl")
    assert trainer.run.metrics[-1]["step"] == 3
    assert len(Trainer(small(tmp_path, steps=5, checkpoint_every=2)).fit()) == 5, (
        "the run goes on from its last checkpoint"
    )


def test_weights_that_overflow_are_caught(tmp_path):
    "An absurd learning rate: the first update ruins the weights, the second sees it."
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match="at step 1 is not finite"):
        warnings.simplefilter("ignore")
        Trainer(small(tmp_path, lr=1e30)).fit()


def test_non_finite_gradient_is_caught(tmp_path):
    trainer = Trainer(small(tmp_path))
    next(trainer.model.parameters()).register_hook(lambda grad: grad * math.inf)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(FloatingPointError, match="the gradient at step 1 is not finite"):
        trainer.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


# Learning


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "mpo"])
def test_held_out_accuracy_rises(name, tmp_path):
    "The tour in short: from at most 0.45 to beyond 0.75, sampled, on problems it never trained on."
    rows = Trainer(
        TrainConfig(
            recipe=name,
            output=str(tmp_path / "run"),
            steps=10,
            lr=1e-4,
            eval_every=10,
            eval_problems=500,
            precision="float32",
            progress=False,
        )
    ).fit()
    assert rows[0]["accuracy_sampled"] <= 0.45 and rows[-1]["accuracy_sampled_low"] > 0.75


def test_recipe_object_takes_the_place_of_the_named_one(tmp_path):
    trainer = Trainer(small(tmp_path, steps=1), recipe=recipe("gspo"))
    assert trainer.recipe.name == "gspo" and "SequenceActions" in trainer.run.config["resolved_recipe"]
    Trainer(small(tmp_path, steps=1), recipe=recipe("gmpo"))  # no step was taken: nothing is mixed up
    trainer.fit()
    with pytest.raises(ValueError, match=r"with resolved_recipe.clip=\(0.0003, 0.0004\), not \(0.4, 0.4\)"):
        Trainer(small(tmp_path, steps=1), recipe=recipe("gmpo"))


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_a_batch_waits_as_many_steps_as_the_lag_says(tmp_path):
    """Batch n is drawn by the policy of step n - lag, is judged by it, and is trained on unchanged; the ages are 0, 1,
    then the lag."""
    trainer = Trainer(small(tmp_path, lag=2, steps=5, old_logps="recompute"))
    drawn, trained, ages = {}, [], []
    collect, update = trainer.collect, trainer.learner.update

    def collecting(number):
        drawn[number] = weights(trainer.model), collect(number)
        return drawn[number][1]

    def updating(batch, step):
        trained.append(weights(trainer.model))
        ages.append(batch.age)
        assert batch is drawn[step][1]
        with torch.no_grad():
            now = trainer.policy.frozen(batch.rollout).logps
        moved = float((now - batch.old_logps).abs().max())
        assert moved == 0 if batch.age == 0 else moved > 1e-3
        return update(batch, step)

    trainer.collect, trainer.learner.update = collecting, updating
    rows = trainer.fit()
    assert ages == [0, 1, 2, 2, 2] == [row["batch_age"] for row in rows]
    assert list(drawn) == [1, 2, 3, 4, 5, 6, 7], "one more for each step, after the three of the first"
    for number, (then, _) in drawn.items():
        assert torch.equal(then, trained[max(1, number - 2) - 1])
    assert ["logp_mismatch" in row for row in rows] == [True, False, False, False, False]
    assert rows[0]["reward"] == float(drawn[1][1].rewards.mean()), "a row describes the batch that was trained on"


def test_a_lag_of_nothing_is_the_plain_loop(tmp_path):
    plain = Trainer(small(tmp_path / "plain", steps=3))
    rows = plain.fit()
    byhand = Trainer(small(tmp_path / "byhand", steps=3, lag=0))
    for step, row in enumerate(rows, 1):
        found = byhand.update(byhand.collect(step), step)
        assert found == {name: row[name] for name in found} and "batch_age" not in row
    assert torch.equal(weights(plain.model), weights(byhand.model))
    again, other = byhand.queue.batch(4, byhand.collect), byhand.queue.batch(4, byhand.collect)
    assert again is not other, "without a lag nothing is kept"


def test_a_lag_ends_elsewhere(tmp_path):
    "The control: what the tests above compare does depend on the age of a batch."
    one, other = (Trainer(small(tmp_path / str(lag), steps=4, lag=lag)).fit() for lag in (0, 2))
    assert one[0]["reward"] == other[0]["reward"] and one[-1]["loss"] != other[-1]["loss"]


# Held-out problems


def test_several_samples_move_nothing_but_the_evaluation(tmp_path):
    "pass@k beside accuracy; the training, the greedy answers and the first sample of each problem are the same."
    runs = {}
    for samples in (1, 3):
        trainer = Trainer(small(tmp_path / str(samples), steps=1, eval_every=1, eval_problems=12, eval_samples=samples))
        runs[samples] = trainer, computed(trainer.fit())
    (_, one), (trainer, three) = runs[1], runs[3]
    assert not any(name.startswith("pass_at") for row in one for name in row)
    evaluated = {"accuracy_sampled", "accuracy_sampled_low", "accuracy_sampled_high"}
    for before, after in zip(one, three):
        assert {k: v for k, v in after.items() if k not in evaluated and "pass_at" not in k} == {
            k: v for k, v in before.items() if k not in evaluated
        }
    problems = trainer.task.test[:12]
    seed = draw_seed(trainer.config.seed, 0, "evaluation")
    texts = trainer.sampler.sample(problems, 3, seed, places=range(12)).texts
    right = [[trainer.task.reward(p, text) for text in texts[3 * i : 3 * i + 3]] for i, p in enumerate(problems)]
    last = three[-1]
    assert last["accuracy_sampled"] == pytest.approx(sum(map(sum, right)) / 36)
    assert last["pass_at_3"] == pytest.approx(sum(map(max, right)) / 12)
    assert last["pass_at_3_low"] < last["pass_at_3"] < last["pass_at_3_high"]


def test_a_cut_evaluation_says_so_once_and_writes_it_down(tmp_path):
    "chain_sum holds out 40 here; the default number of problems is nobody's wish, so it is cut in silence."
    cut = dict(task_options='{"n_test": 40}', steps=0, eval_every=1)
    with pytest.warns(UserWarning, match="eval_problems=300, but the task 'chain_sum' holds out 40") as said:
        trainer = Trainer(small(tmp_path, **cut, eval_problems=300))
        trainer.fit()
    assert len([w for w in said if "holds out" in str(w.message)]) == 1
    assert trainer.recorder.run.config["held_out"] == 40 and trainer.recorder.run.config["eval_problems"] == 300
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*holds out")
        Trainer(small(tmp_path / "default", **cut))
        Trainer(small(tmp_path / "never", **cut | dict(eval_every=0), eval_problems=300))
