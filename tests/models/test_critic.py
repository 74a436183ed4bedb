"A critic and values by sampling: their recipes, their gradients, and runs."

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from mpo_nb.advantages import boundary_advantages, distribute
from mpo_nb.blocks import block_mean, block_sizes, entropy_blocks, fixed_blocks
from mpo_nb.config import TrainConfig
from mpo_nb.models.critic import Critic
from mpo_nb.recipes import recipe
from mpo_nb.runtime.files import read_lines
from mpo_nb.sampling.draws import draw_seed
from mpo_nb.tasks.task import Task
from mpo_nb.training.continuations import boundary_values, prefixes
from mpo_nb.training.metrics import clock_metrics
from mpo_nb.training.trainer import Trainer

RUN = dict(
    steps=3,
    prompts_per_step=4,
    group_size=4,
    epochs=2,
    minibatches=2,
    eval_every=0,
    precision="float32",
    trace_groups=1,
    progress=False,
)


def trainer(folder, **options) -> Trainer:
    return Trainer(TrainConfig(output=str(folder), **RUN | options))


def padded(rows=6, width=15, seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=g) < 0.75
    mask[0] = True
    return (
        mask,
        torch.randn(rows, width, generator=g, dtype=torch.double),
        torch.randn(rows, generator=g, dtype=torch.double),
        g,
    )


# Recipes


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("ppo", dict(critic=""), "critic=''"),
        ("grpo", dict(critic="shared"), "critic='shared'"),
        ("ppo", dict(lam=1.5), "lam=1.5"),
        ("ppo", dict(gamma=-1), "gamma=-1"),
        ("ppo", dict(value_coef=-1), "value_coef=-1"),
        ("ppo", dict(value_clip=0), "value_clip=0"),
        ("ma_rlhf", dict(macro=0), "macro=0"),
        ("ma_rlhf", dict(macro=()), r"macro=\(\)"),
        ("vineppo", dict(boundaries="comma"), "boundaries='comma'"),
        ("vineppo", dict(continuations=0), "continuations=0"),
        ("spo_chain", dict(confident=1.5), "confident=1.5"),
        ("mpo", dict(base="dpo"), "base='dpo'"),
    ],
)
def test_recipes_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        recipe(name, **options)


def test_recipes_that_need_values_say_so():
    for name in ("ppo", "ma_rlhf", "vineppo", "spo_chain", "sapo_segment", "etpo"):
        with pytest.raises(ValueError, match="needs values"):
            recipe(name).advantages(torch.ones(4), 2)
    assert (
        recipe("mpo", base="ppo", k=3).actions.k == 3
        and recipe("mpo", base="ppo").advantage == "gae"
        and recipe("mpo").advantage == "group-std"
    )


def plain_loss(mask, new, old, advantages, reference, kl):
    "Mean over tokens of PPO's clipped term, and kl times the mean over responses of each one's sum of k3."
    terms = [
        min(x.exp() * a, x.exp().clamp(0.8, 1.2) * a)
        for x, a in ((new[b, t] - old[b, t], advantages[b, t]) for b, t in mask.nonzero().tolist())
    ]
    x = reference - new
    penalty = sum((x[b, t].exp() - x[b, t] - 1 for b, t in mask.nonzero().tolist()), start=torch.zeros(()).double())
    return -sum(terms) / len(terms) + kl * penalty / len(mask)


@pytest.mark.parametrize("name", ["ppo", "ma_rlhf", "vineppo", "spo_chain"])
def test_their_policy_loss_is_the_tokens_clipped_one(name):
    "Given advantages per token: PPO's term over all tokens, and the penalty of the two that have one."
    mask, old, _, g = padded()
    advantages = torch.randn(mask.shape, generator=g, dtype=torch.double)
    reference = old + 0.2 * torch.randn(mask.shape, generator=g, dtype=torch.double)
    r = recipe(name)
    assert r.kl == (1e-4 if name in ("vineppo", "spo_chain") else 0.0)
    kl = 30 * r.kl  # large enough to be seen
    found = []
    for loss in (
        lambda new: (
            replace(r, kl=kl)
            .loss(dict(logps=new, old_logps=old, mask=mask, advantages=advantages, ref_logps=reference))
            .loss
        ),
        lambda new: plain_loss(mask, new, old, advantages, reference, kl),
    ):
        new = old + 0.3 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(9), dtype=torch.double)
        value = loss(new.requires_grad_())
        found.append((value.detach(), torch.autograd.grad(value, new)[0]))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def one_update(folder, **options):
    run = trainer(folder, **options)
    batch = run.collect(1)
    parts = run.learner.accumulate(batch, torch.arange(16), 1)
    return batch, [float(p[0].loss.detach()) for p in parts], [p.grad.clone() for p in run.policy.trained], run


def test_macro_actions_of_one_token_are_ppo(tmp_path):
    "MA-RLHF with n = 1: values and gradients of PPO, to the last bit."
    a, loss_a, grads_a, _ = one_update(tmp_path / "ppo", recipe="ppo")
    b, loss_b, grads_b, _ = one_update(tmp_path / "macro", recipe="ma_rlhf", recipe_options=dict(macro=1))
    assert (
        torch.equal(a.advantages, b.advantages)
        and loss_a == loss_b
        and all(torch.equal(x, y) for x, y in zip(grads_a, grads_b))
    )
    c, loss_c, _, _ = one_update(tmp_path / "five", recipe="ma_rlhf")
    assert loss_c != loss_a and c.macro is not None


def test_the_value_loss_of_macro_actions_compares_tokens_or_blocks(tmp_path):
    "MA-RLHF's official code: each token's value against its block's return. The other form: the block's mean value."
    losses = {}
    for how in ("token", "block"):
        options = dict(macro=3, value_loss=how, value_clip=None)
        run = trainer(tmp_path / how, recipe="ma_rlhf", recipe_options=options)
        batch = run.collect(1)
        torch.manual_seed(0)  # both forms compare the same values
        torch.nn.init.normal_(run.policy.critic.head.weight, std=0.3)
        rows = torch.arange(16)
        loss = run.learner.accumulate(batch, rows, 1)[0].value_loss
        values = run.policy.scores(batch.rollout.rows(rows)).values.detach()
        errors = []
        for row in range(16):
            kept = batch.rollout.mask[row].nonzero()[:, 0].tolist()
            for n in range(int(batch.macro[row].max()) + 1):
                block = [t for t in kept if batch.macro[row, t] == n]
                wanted = float(batch.returns[row, block[0]])
                found = [float(values[row, t]) for t in block]
                errors += [(v - wanted) ** 2 for v in (found if how == "token" else [sum(found) / len(found)])]
        assert loss == pytest.approx(sum(errors) / len(errors) / 2, rel=1e-4)
        losses[how] = loss
    assert losses["token"] > losses["block"]


def test_segments_are_cut_once_for_actor_and_critic(tmp_path):
    """By the entropies of the policy that sampled, kept with the batch: the same after an update. The critic learns at
    the segments' last tokens; advantages stay within 5; the penalty in the rewards asks for a reference."""
    run = trainer(tmp_path, recipe="sapo_segment")
    batch = run.collect(1)
    mask = batch.rollout.mask
    assert torch.equal(batch.blocks, entropy_blocks(mask, batch.entropy)) and torch.equal(batch.blocks, batch.macro)
    assert batch.entropy[mask].isfinite().all() and batch.ref_logps is not None
    assert float(batch.advantages.abs().max()) <= 5
    cut = batch.blocks.clone()
    kept = [batch.macro.clone(), batch.returns.clone()]
    loss = run.learner.accumulate(batch, torch.arange(16), 1)[0].value_loss
    ends = [(b, block[-1]) for b in range(16) for block in block_members(batch.macro[b])]
    values = run.policy.scores(batch.rollout.rows(torch.arange(16))).values.detach()
    wanted = [0.5 * float(values[place] - batch.returns[place]) ** 2 for place in ends]
    assert loss == pytest.approx(sum(wanted) / len(ends), rel=1e-4)
    run.learner.update(batch, 1)
    assert torch.equal(batch.blocks, cut) and all(torch.equal(a, b) for a, b in zip(kept, [batch.macro, batch.returns]))


def block_members(row):
    "The places of each block's tokens in one row of ids."
    return [(row == n).nonzero()[:, 0].tolist() for n in range(int(row.max()) + 1)]


def test_a_penalty_in_the_rewards(tmp_path):
    "k1 to the reference comes off each token's reward: with lambda 1 the advantage loses all that is still to come."
    found = {}
    for coefficient in (0.0, 0.5):
        options = dict(reward_kl=coefficient, whiten=False, lam=1.0)
        run = trainer(tmp_path / str(coefficient), recipe="ppo", recipe_options=options)
        assert (run.policy.reference is not None) == (coefficient > 0)
        if coefficient:
            for p in run.policy.reference.parameters():
                p.data.mul_(1.01)  # a reference of its own
        found[coefficient] = run.collect(1)
    plain, penalised = found[0.0], found[0.5]
    mask = plain.rollout.mask
    k1 = torch.where(mask, penalised.old_logps - penalised.ref_logps, 0)
    to_come = k1.flip(1).cumsum(1).flip(1)
    assert float(k1.abs().max()) > 1e-3
    torch.testing.assert_close(
        torch.where(mask, plain.advantages - 0.5 * to_come, 0), penalised.advantages, rtol=1e-4, atol=1e-5
    )


def test_whitened_advantages_of_sampled_values(tmp_path):
    "Mean 0 and deviation 1 over the tokens that are trained; the other tokens' advantages have no part in it."
    for name, options in (("vineppo", dict(boundaries=5)), ("spo_chain", {})):
        batches = {}
        for whitened in (True, False):
            chosen = dict(continuations=2, whiten=whitened) | options
            run = trainer(tmp_path / f"{name}{whitened}", recipe=name, recipe_options=chosen)
            batches[whitened] = run.collect(1)
        batch = batches[True]
        trained = batch.rollout.mask if batch.learnt is None else batch.learnt
        plain, white = (batches[w].advantages[trained].double() for w in (False, True))
        torch.testing.assert_close(white, (plain - plain.mean()) / plain.std(unbiased=False), rtol=1e-4, atol=1e-5)
        assert abs(float(white.mean())) < 1e-5 and not torch.equal(plain, white)
        assert (name == "spo_chain") == (batch.learnt is not None) and recipe(name).whiten


def test_mpo_of_one_token_over_ppo_is_ppo(tmp_path):
    _, loss_a, grads_a, _ = one_update(tmp_path / "ppo", recipe="ppo")
    _, loss_b, grads_b, _ = one_update(tmp_path / "mpo", recipe="mpo", k=1, recipe_options=dict(base="ppo"))
    assert loss_a == loss_b and all(torch.equal(x, y) for x, y in zip(grads_a, grads_b))


@pytest.mark.parametrize(
    "options",
    [
        dict(recipe="ppo"),
        dict(recipe="ma_rlhf", recipe_options=dict(macro=3)),
        dict(recipe="sapo_segment"),
        dict(recipe="ppo", recipe_options=dict(critic="separate")),
        dict(recipe="mpo", k=3, source="mtp", mtp_warmup_steps=0, recipe_options=dict(base="ppo")),
        dict(recipe="ppo", lora_rank=2),
        dict(recipe="vineppo", recipe_options=dict(boundaries=6, continuations=2, kl=0.1)),
    ],
    ids=str,
)
def test_micro_batches_leave_the_gradient_as_it_is(options, tmp_path):
    found = [one_update(tmp_path / str(tokens), micro_batch_tokens=tokens, **options) for tokens in (16384, 100)]
    assert len(found[0][1]) == 1 < len(found[1][1])
    for a, b in zip(found[0][2], found[1][2]):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_where_the_value_gradient_goes(tmp_path):
    for how, reaches in (
        (dict(critic_trunk_gradient=0.0), False),
        ({}, True),
        (dict(recipe_options=dict(critic="separate")), False),
    ):
        run = trainer(tmp_path / str(random.random()), recipe="ppo", **how)
        torch.nn.init.normal_(run.policy.critic.head.weight)
        batch = run.collect(1)
        batch.advantages = torch.zeros_like(batch.advantages)
        run.learner.accumulate(batch, torch.arange(16), 1)
        own = sum(float(p.grad.abs().sum()) for p in run.model.parameters() if p.grad is not None)
        assert (own > 0) == reaches and run.policy.critic.head.weight.grad.any()


def test_a_critic_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="critic='twin'"):
        Critic(trainer(tmp_path).model, "twin")
    with pytest.raises(ValueError, match="reads the policy's hidden states"):
        run = trainer(tmp_path / "ppo", recipe="ppo")
        run.policy.critic.values(run.collect(1).rollout)
    with pytest.raises(FileNotFoundError, match="no critic.safetensors"):
        run.policy.critic.load_weights(tmp_path)
    with pytest.raises(ValueError, match="critic_lr=0"):
        TrainConfig(critic_lr=0.0)


# Runs


def content(folder):
    return [
        {k: v for k, v in row.items() if k not in clock_metrics} for row in read_lines(folder / "metrics.jsonl")
    ], read_lines(folder / "traces.jsonl")


@pytest.mark.parametrize(
    "options",
    [
        dict(recipe="ppo"),
        dict(recipe="ppo", recipe_options=dict(critic="separate")),
        dict(recipe="ma_rlhf", recipe_options=dict(macro=(1, 2, 3))),
        dict(recipe="sapo_segment"),
        dict(recipe="fipo", recipe_options=dict(drop_dead_groups=False)),
        dict(recipe="vineppo", recipe_options=dict(boundaries=6, continuations=2)),
        dict(recipe="spo_chain", recipe_options=dict(continuations=2)),
        dict(recipe="mpo", recipe_options=dict(base="ppo"), lora_rank=2),
    ],
    ids=lambda o: json.dumps(o),
)
def test_a_run_that_goes_on_ends_where_one_that_was_never_stopped_does(options, tmp_path):
    trainer(tmp_path / "whole", checkpoint_every=1, **options).fit()
    stopped = trainer(tmp_path / "broken", checkpoint_every=1, **options)

    def stop(row):
        if row["step"] == 2:
            raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError, match="went away"):
        stopped.fit(callback=stop)
    torch.manual_seed(5)
    trainer(tmp_path / "broken", checkpoint_every=1, **options).fit()
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    rows, traces = content(tmp_path / "whole")
    assert all(math.isfinite(t["advantage"]) for t in traces)
    if options["recipe"] in ("vineppo", "spo_chain"):
        assert all(row["value_tokens"] > 0 and 0 < row["value_tokens_share"] < 1 for row in rows)
    elif options["recipe"] != "fipo":
        assert (
            all(row["value_loss"] > 0 and "explained_variance" in row for row in rows)
            and rows[0]["value_mean"] == 0 != rows[-1]["value_mean"]
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [dict(recipe="ppo"), dict(recipe="mpo", recipe_options=dict(base="ppo"))], ids=["ppo", "mpo over ppo"]
)
def test_the_tiny_model_learns_with_a_critic(options, tmp_path):
    run = Trainer(
        TrainConfig(
            output=str(tmp_path), steps=16, eval_every=0, lr=1e-4, precision="float32", progress=False, **options
        )
    )
    rows = run.fit()
    first, last = (sum(row["reward"] for row in part) / 4 for part in (rows[:4], rows[-4:]))
    assert last > first + 0.1, f"reward {first:.2f} to {last:.2f}"
    assert rows[-1]["value_loss"] < 0.9 * max(row["value_loss"] for row in rows)


# Values by sampling


class Toy:
    "A policy that finishes a response with the digits 0 and 1 in turn, so that every value is known."

    def __init__(self, real, continuation):
        self.tokenizer, self.config, self.model, self.asked = real.tokenizer, real.config, real.model, []
        self.task = Task(
            "toy",
            [dict(prompt="1?", answer="1")],
            [dict(prompt="1?", answer="1")],
            lambda problem, response: float(response.endswith("1")),
        )
        self.continuation = continuation

    def finish(self, starts, rooms, continuations, seed):
        self.asked = list(zip(starts, rooms))
        one, zero = (self.tokenizer(d, add_special_tokens=False).input_ids for d in "10")
        return [
            [one if j < self.continuation(len(start)) else zero for j in range(continuations)] for start in starts
        ], 7


def test_values_are_the_shares_of_right_continuations(tmp_path):
    run = trainer(tmp_path)
    batch = run.collect(1)
    toy = None
    ids = fixed_blocks(batch.rollout.mask, 5)
    prompt = batch.rollout.prompt_mask.sum(1)
    toy = Toy(run, lambda length: length % 4)
    found = boundary_values(toy, batch, ids, 4, 0)
    sizes = block_sizes(ids)
    assert found.tokens == 7 and found.places == len(prefixes(ids, 4)) == len(toy.asked)
    for row in range(16):
        for block in range(int((sizes[row] > 0).sum())):
            length = int(prompt[row]) + 5 * block
            assert float(found.values[row, block]) == (length % 4) / 4
    assert not found.values[sizes == 0].any()
    for (start, room), place in zip(toy.asked, prefixes(ids, 4)):
        assert room == run.config.max_new_tokens - place.length
        assert (
            start
            == batch.rollout.prompt_ids[place.row][batch.rollout.prompt_mask[place.row]].tolist()
            + batch.rollout.ids[place.row, : place.length].tolist()
        )
    advantages = distribute(boundary_advantages(found.values, batch.rewards, ids, per="block"), ids)
    firsts = torch.stack([block_mean(advantages, ids)[row].sum() for row in range(16)])
    torch.testing.assert_close(firsts, batch.rewards - found.values[:, 0])


def test_finished_responses_are_the_seeds_and_stay_within_their_room(tmp_path):
    run = trainer(tmp_path)
    batch = run.collect(1)
    starts = [
        batch.rollout.prompt_ids[0][batch.rollout.prompt_mask[0]].tolist() + batch.rollout.ids[0, :n].tolist()
        for n in (0, 3, 20)
    ]
    for rooms in ([40, 20, 3], [3, 240, 30]):
        (a, cost), (b, _), (c, _) = (run.finish(starts, rooms, 3, seed) for seed in (1, 1, 2))
        assert a == b != c and [len(x) for x in a] == [3, 3, 3]
        assert all(1 <= len(y) <= room for x, room in zip(a, rooms) for y in x) and cost >= sum(
            len(y) for x in a for y in x
        )
    values = [boundary_values(run, batch, fixed_blocks(batch.rollout.mask, 8), 2, seed).values for seed in (3, 3, 4)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert set(values[0].unique().tolist()) <= {0.0, 0.5, 1.0}


def test_confident_tokens_are_left_out_of_the_loss(tmp_path):
    run = trainer(tmp_path, recipe="spo_chain", recipe_options=dict(continuations=2))
    batch = run.collect(1)
    assert torch.equal(batch.learnt, batch.rollout.mask & (batch.rollout.logps.exp() < 0.9)) and 0 < int(
        batch.learnt.sum()
    ) < int(batch.rollout.mask.sum())
    ((out, mask, *_),) = run.learner.accumulate(batch, torch.arange(16), 1)
    assert int(mask.sum()) == int(batch.learnt.sum()) and not out.credit[~mask].any() and out.credit[mask].any()


def test_vllm_is_refused_where_responses_are_finished(tmp_path):
    with pytest.raises(ValueError, match="recipe='vineppo' finishes half-written responses"):
        trainer(tmp_path, recipe="vineppo", sampler="vllm")


def test_seeds_of_the_purposes_differ():
    assert (
        len(
            {
                draw_seed(0, 1, purpose)
                for purpose in ("problems", "rollout", "minibatches", "evaluation", "warm-up", "values")
            }
        )
        == 6
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, exact", [("ppo", None), ("ma_rlhf", None), ("etpo", True), ("etpo", False)])
def test_minibatches_without_a_trained_token_end_no_run(name, exact, tmp_path):
    "All responses are cut, and none of their tokens is trained: there is nothing to divide by, and nothing to learn."
    options = dict(mask_truncated=True) | ({} if exact is None else dict(exact=exact))
    sizes = dict(steps=1, prompts_per_step=2, group_size=2, minibatches=2, max_new_tokens=2, eval_every=0)
    config = TrainConfig(
        output=str(tmp_path), recipe=name, recipe_options=options, precision="float32", progress=False, **sizes
    )
    row = Trainer(config).fit()[-1]
    assert row["step"] == 1 and row["value_loss"] == 0 and row["grad_norm"] == 0
