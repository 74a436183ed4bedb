"""Training with a soft Q: its head against mpo_nb.soft_q and a plain loop, values and gradients; its limits; runs that
go on."""

import math
from dataclasses import replace

import pytest
import torch
from small_runs import computed, small

from mpo_nb.blocks import fixed_blocks, sequence_block, token_blocks
from mpo_nb.config import TrainConfig, described
from mpo_nb.models.critic import QHead, soft_scores
from mpo_nb.models.loading import load
from mpo_nb.recipes import FutureWeight, SoftQAdvantage, at_written_tokens, recipe
from mpo_nb.runs import load_traces
from mpo_nb.runs.ratios import trace_loss
from mpo_nb.runs.reading import configured
from mpo_nb.runtime.files import read_lines
from mpo_nb.runtime.tensors import read_tensors
from mpo_nb.soft_q import soft_policy_loss, soft_q_loss, soft_targets, soft_values
from mpo_nb.training.setup import check_shards
from mpo_nb.training.trainer import Trainer

PRICE = 0.3


def trainer(folder, **options) -> Trainer:
    made = Trainer(small(folder, **dict(recipe="etpo", checkpoint_every=1) | options))
    torch.manual_seed(1)
    head = made.policy.q_head
    if made.done < 1:  # a head that has something to say
        torch.nn.init.normal_(head.head.weight, std=0.1)
        torch.nn.init.normal_(head.target.weight, std=0.1)
        for p in made.policy.reference.parameters() if made.policy.reference else ():
            p.data.mul_(1.01)  # a prior that is not the policy
    return made


def tables(run, batch):
    "log pi, log rho, Q and slow Q of every next token, (B, T, V), by whole forward passes."
    r = batch.rollout
    ids = torch.cat([r.prompt_ids, r.ids], 1)
    attention = torch.cat([r.prompt_mask, r.mask], 1).long()
    place = (attention.cumsum(1) - 1).clamp(min=0)
    here = slice(r.prompt_ids.shape[1] - 1, ids.shape[1] - 1)
    found = []
    for model in (run.policy.model, run.policy.reference):
        out = model(ids, attention_mask=attention, position_ids=place, output_hidden_states=True)
        found.append((out.logits[:, here].log_softmax(-1), out.hidden_states[-1][:, here]))
    (policy, hidden), (prior, _) = found
    head = run.policy.q_head
    return policy, prior, hidden @ head.head.weight.T + head.head.bias, hidden @ head.target.weight.T + head.target.bias


def plain_loss(batch, policy, prior, q, price, coefficient):
    "The mean over tokens of E_pi[beta log(pi / rho) - Q], and of half the squared error of Q, a token at a time."
    losses, errors = [], []
    for b, t in batch.rollout.mask.nonzero().tolist():
        p = policy[b, t].exp()
        losses.append((p * (price * (policy[b, t] - prior[b, t].detach()) - q[b, t].detach())).sum())
        errors.append(0.5 * (q[b, t, batch.rollout.ids[b, t]] - batch.returns[b, t]) ** 2)
    return sum(losses) / len(losses) + coefficient * sum(errors) / len(errors)


def gradients(run, loss) -> list:
    run.learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return [p.grad.clone() for p in run.policy.trained]


@pytest.mark.parametrize("tokens", [16384, 150])
def test_loss_and_gradient_are_a_plain_loop_s(tokens, tmp_path):
    "In one micro-batch and in several; of the policy and of the head, and none of the copy."
    run = trainer(tmp_path, recipe_options=dict(kl_price=PRICE), micro_batch_tokens=tokens, chunk_elements=2000)
    batch = run.collect(1)
    rows = torch.arange(16)
    parts = run.learner.accumulate(batch, rows, 1, tokens)
    found = [p.grad.clone() for p in run.policy.trained]
    policy, prior, q, _ = tables(run, batch)
    loss = plain_loss(batch, policy, prior, q, PRICE, 0.1)
    assert sum(float(p.out.loss.detach()) for p in parts) == pytest.approx(float(loss.detach()), rel=1e-4)
    for a, b in zip(found, gradients(run, loss)):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-6)
    assert (len(parts) > 1) == (tokens < 1000) and not any(
        p.requires_grad for p in run.policy.q_head.target.parameters()
    )


@pytest.mark.parametrize("options, ids", [({}, sequence_block), (dict(k=1), token_blocks), (dict(k=3), None)])
def test_the_judge_s_numbers_are_those_of_soft_q(options, ids, tmp_path):
    "Targets by `soft_targets` from the slow copy's values; advantages whose mean over the policy's tokens is 0."
    options = dict(gamma=0.9, kl_price=PRICE) | options
    run = trainer(tmp_path, recipe_options=options)
    batch = run.collect(1)
    r = batch.rollout
    with torch.no_grad():
        policy, prior, q, slow = tables(run, batch)
    ids = fixed_blocks(r.mask, 3) if ids is None else ids(r.mask)
    last = r.mask & (r.mask.flip(1).long().cumsum(1).flip(1) == 1)
    rewards = torch.where(last, batch.rewards[:, None], 0.0)
    values = soft_values(slow, prior, PRICE, policy)
    targets = soft_targets(rewards, torch.where(r.mask, values, 0), ids, 0.9)
    torch.testing.assert_close(batch.returns, targets, rtol=1e-4, atol=1e-5)
    present = soft_values(q, prior, PRICE, policy)
    every = q - PRICE * (policy - prior) - present[..., None]  # (B, T, V)
    torch.testing.assert_close((policy.exp() * every).sum(-1), torch.zeros_like(present), rtol=0, atol=1e-5)
    written = every.gather(-1, r.ids[..., None])[..., 0]
    torch.testing.assert_close(batch.advantages, torch.where(r.mask, written, 0), rtol=1e-3, atol=1e-4)
    assert not batch.advantages[~r.mask].any()


def test_written_tokens_estimate_the_sum_over_the_vocabulary():
    "The mean over the policy's tokens of -A grad log pi is the gradient of the exact loss, to rounding."
    g = torch.Generator().manual_seed(0)
    logits, prior, q = (torch.randn(1, 1, 7, generator=g).double() for _ in range(3))
    prior = prior.log_softmax(-1)
    x = logits.clone().requires_grad_()
    (exact,) = torch.autograd.grad(soft_policy_loss(x.log_softmax(-1), prior, q, torch.ones(1, 1), PRICE), x)
    pi = logits.log_softmax(-1)
    A = q - PRICE * (pi - prior) - soft_values(q, prior, PRICE, pi)[..., None]
    y = logits.clone().requires_grad_()
    (sampled,) = torch.autograd.grad(-(pi.exp() * A * y.log_softmax(-1)).sum(), y)
    torch.testing.assert_close(sampled, exact, rtol=0, atol=1e-15)


def test_limits(tmp_path):
    "gamma 1: actions do not matter. A dear nat: values are the prior's mean. No copy to wait for: slow is present."
    whole, single = (trainer(tmp_path / str(k), recipe_options=dict(k=k)) for k in (48, 1))
    for run in (whole, single):
        rule = replace(run.recipe.rule, gamma=1.0)
        run.judge.rule.recipe = replace(run.recipe, rule=rule)
    a, b = whole.collect(1), single.collect(1)
    assert torch.equal(a.returns, b.returns) and torch.equal(a.advantages, b.advantages)
    model, _ = load("tiny", precision="float32", quiet=True)
    head = QHead(model)
    torch.nn.init.normal_(head.head.weight, std=0.1)
    head.follow(0.0)
    hidden = torch.randn(9, 128, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(9)
    found = soft_scores(head, model, model.get_output_embeddings(), hidden, hidden, tokens, 1e6)
    p = model.get_output_embeddings()(hidden).softmax(-1)
    torch.testing.assert_close(found.value, (p * head.q(hidden)).sum(-1), rtol=1e-3, atol=1e-3)
    assert torch.equal(found.value, found.slow) and torch.equal(found.q, head.q(hidden)[tokens, tokens])


def test_huber_s_loss_is_a_plain_loop():
    g = torch.Generator().manual_seed(0)
    q, y = (8 * torch.randn(4, 9, generator=g).double() for _ in range(2))
    mask = torch.rand(4, 9, generator=g) < 0.7
    x, z = q.clone().requires_grad_(), q.clone().requires_grad_()
    loss = soft_q_loss(torch.where(mask, x, math.nan), y, mask, 3.0)
    terms = []
    for b, t in mask.nonzero().tolist():
        e = (z[b, t] - y[b, t]).abs()
        terms.append(e**2 / 2 if e <= 3 else 3 * (e - 1.5))
    plain = sum(terms) / len(terms)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(*(torch.autograd.grad(v, at)[0] for v, at in ((loss, x), (plain, z))))
    for bad, told in ((dict(delta=0.0), "delta=0.0"), (dict(targets=y[:1]), r"targets has shape \(1, 9\)")):
        with pytest.raises(ValueError, match=told):
            soft_q_loss(**dict(q=q, targets=y, mask=mask) | bad)


@pytest.mark.parametrize(
    "options",
    [{}, dict(lora_rank=2), dict(recipe_options=dict(exact=False, k=2)), dict(lag=1)],
    ids=str,
)
def test_a_run_that_goes_on_keeps_its_copy_to_the_bit(options, tmp_path):
    "Metrics, traces, head and copy of a run that was stopped are those of one that never was."

    def run(folder):
        return Trainer(small(tmp_path / folder, **dict(recipe="etpo", checkpoint_every=1, steps=3) | options))

    run("whole").fit()
    stopped = run("broken")

    def stop(row):
        if row["step"] == 2:
            raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError, match="went away"):
        stopped.fit(callback=stop)
    torch.manual_seed(5)
    rows = run("broken").fit()
    for name in ("metrics.jsonl", "traces.jsonl"):
        a, b = (computed(read_lines(tmp_path / folder / "run" / name)) for folder in ("whole", "broken"))
        assert a == b
    weights = [
        read_tensors(tmp_path / folder / "run" / "checkpoints" / "step-000003" / "soft_q.safetensors", "cpu")
        for folder in ("whole", "broken")
    ]
    assert set(weights[0]) == {"head.weight", "head.bias", "target.weight", "target.bias"}
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert weights[0]["target.bias"].abs().max() > 0 and not torch.equal(
        weights[0]["target.bias"], weights[0]["head.bias"]
    )
    assert all(row["value_loss"] > 0 and math.isfinite(row["value_mean"]) for row in rows)
    traces = load_traces(tmp_path / "whole" / "run")
    assert all(math.isfinite(t.advantage) for t in traces)
    known = configured(run("whole").recorder.run.config)
    assert described(known) == described(run("whole").recipe) and trace_loss(traces[0], known)[0].loss.isfinite()


def test_the_copy_follows_every_optimiser_step(tmp_path):
    "Two passes of two parts: four steps of 0.995, seen from outside."
    run = Trainer(small(tmp_path, recipe="etpo", epochs=2, minibatches=2))
    head = run.policy.q_head
    seen = [head.head.bias.detach().clone()]
    step = run.learner.optimizer.step

    def recorded(*args, **kwargs):
        out = step(*args, **kwargs)
        seen.append(head.head.bias.detach().clone())
        return out

    run.learner.optimizer.step = recorded
    run.learner.update(run.collect(1), 1)
    slow = torch.zeros_like(seen[0])
    for fast in seen[1:]:
        slow = 0.995 * slow + 0.005 * fast
    assert len(seen) == 5
    torch.testing.assert_close(head.target.bias, slow, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: recipe("mpo", advantage="soft-q"), ["'soft-q'", "overlap", "recipe('etpo')"]),
        (lambda: recipe("grpo", advantage="soft-q", exact=True), ["exact=True", "surrogate='ppo'", "exact=False"]),
        (lambda: recipe("etpo", influence=FutureWeight()), ["influence", "exact=False"]),
        (lambda: recipe("etpo", polyak=1.0), ["polyak=1.0", "[0, 1)"]),
        (lambda: recipe("etpo", kl_price=0.0), ["kl_price=0.0", "e.g. 0.01"]),
        (lambda: recipe("etpo", huber=-1.0), ["huber=-1.0"]),
        (lambda: recipe("etpo", value_coef=0.0), ["value_coef=0.0", "teaches Q"]),
        (lambda: recipe("etpo", exact=1), ["exact=1", "true or false"]),
        (lambda: SoftQAdvantage(gamma=2.0), ["gamma=2.0", "[0, 1]"]),
        (lambda: recipe("etpo").loss(dict(zip("", ""))), ["recipe.loss needs"]),
        (lambda: check_shards(TrainConfig(recipe="etpo"), recipe("etpo")), ["recipe='etpo'", "outside the pieces"]),
    ],
)
def test_what_does_not_go_with_a_soft_q_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_an_exact_loss_needs_the_soft_values_and_traces_do_without():
    batch = dict(logps=torch.zeros(1, 3), old_logps=torch.zeros(1, 3), mask=torch.ones(1, 3), advantages=torch.ones(1))
    batch["blocks"] = torch.zeros(1, 3).long()
    with pytest.raises(ValueError, match=r"exact=True needs batch\['soft'\]"):
        recipe("etpo").loss(batch)
    assert float(recipe("etpo").loss(batch | dict(soft=torch.tensor([[1.0, 2.0, 6.0]]))).loss) == -3.0
    assert float(at_written_tokens(recipe("etpo")).loss(batch).loss) == -1.0
    assert at_written_tokens(recipe("ppo")) == recipe("ppo")


def test_a_checkpoint_without_the_head_says_so(tmp_path):
    model, _ = load("tiny", precision="float32", quiet=True)
    with pytest.raises(FileNotFoundError, match="no soft_q.safetensors; was this run made with advantage='soft-q'"):
        QHead(model).load_weights(tmp_path)
    with pytest.raises(ValueError, match="polyak=2"):
        QHead(model).follow(2)
