"""What overflows, what is half a float, and where an action ends: values, gradients and credit at the edges of the
number types."""

import pytest
import torch

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, TokenGradient, WindowActions, weight_matrix
from mpo_nb.advantages import distribute, gae, group_advantages, leave_one_out, whiten
from mpo_nb.blocks import (
    block_sizes,
    cut_at_gaps,
    delimiter_blocks,
    fixed_blocks,
    perplexity_blocks,
    place_in_turn,
    random_blocks,
    sentence_blocks,
    surprise_blocks,
    tokens_left,
    turn_blocks,
)
from mpo_nb.losses import aggregates, entropy_bonus, kl_penalty, policy_loss, surrogates, value_loss
from mpo_nb.recipes import recipe
from mpo_nb.tasks.task import Task
from mpo_nb.training.batch import micro_batches
from mpo_nb.training.judging import trained_tokens

SPACES = [
    TokenActions(),
    WindowActions(3),
    WindowActions(3, joint=True),
    WindowActions(3, tail="truncate"),
    BlockActions(4),
    BlockActions(4, "sum"),
    SequenceActions(),
    TokenGradient(SequenceActions()),
]
HALVES = [torch.float16, torch.bfloat16]


def moved(delta, advantage, dtype, actions, **options):
    "The loss of one response whose log-probabilities rose by `delta`, its gradient and its credit."
    old = torch.full((1, len(delta)), -1.0, dtype=dtype)
    x = (old + torch.tensor([delta], dtype=dtype)).requires_grad_()
    out = policy_loss(x, old, torch.tensor([advantage], dtype=dtype), torch.ones(1, len(delta)), actions, **options)
    (grad,) = torch.autograd.grad(out.loss, x)
    return out, grad


# --- overflow -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("actions", SPACES, ids=str)
@pytest.mark.parametrize("surrogate", surrogates)
def test_a_group_without_signal_has_loss_and_gradient_0_however_far_the_ratio_went(surrogate, actions, dtype):
    far = 1000.0 if dtype == torch.float64 else 120.0
    out, grad = moved([far, 0.0, far, far, 0.0, far], 0.0, dtype, actions, surrogate=surrogate)
    assert out.loss.item() == 0 and not grad.any() and not out.credit.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("actions", SPACES, ids=str)
@pytest.mark.parametrize("surrogate", ["ppo", "cispo", "gmpo"])
def test_a_clipped_action_that_overflows_has_a_finite_gradient_which_is_minus_its_credit(surrogate, actions, dtype):
    far = 5000.0 if dtype == torch.float64 else 600.0
    out, grad = moved([0.0, far, 0.0, 0.1, 0.0, 0.0], 1.0, dtype, actions, surrogate=surrogate)
    assert out.clipped.any() and out.loss.isfinite() and grad.isfinite().all()
    torch.testing.assert_close(out.credit, -grad)
    if surrogate == "ppo" and isinstance(actions, TokenActions):
        assert grad[0, 1] == 0 and grad[0, 0] != 0


@pytest.mark.parametrize("aggregate", aggregates)
def test_the_dual_clip_bounds_what_overflows_where_the_advantage_is_negative(aggregate):
    out, grad = moved(
        [0.0, 200.0, 0.1, 0.0], -1.0, torch.float32, TokenActions(), dual_clip=3.0, aggregate=aggregate, max_length=4
    )
    assert out.loss.isfinite() and grad.isfinite().all() and grad[0, 1] == 0 and out.clipped[0, 1]
    torch.testing.assert_close(out.credit, -grad)


def test_what_nothing_clips_is_not_made_finite():
    out, grad = moved([0.0, 200.0, 0.0], -1.0, torch.float32, TokenActions())
    assert out.loss == float("inf") and grad[0, 1] == float("inf") and grad[0, 0].isfinite()


def test_one_group_that_overflows_leaves_the_others_alone():
    old = torch.full((2, 3), -1.0)
    delta = torch.tensor([[0.0, 0.1, 0.0], [0.0, 95.0, 0.0]])
    x = (old + delta).requires_grad_()
    (grad,) = torch.autograd.grad(
        policy_loss(x, old, torch.tensor([1.0, 0.0]), torch.ones(2, 3), WindowActions(2)).loss, x
    )
    y = (old + delta)[:1].detach().requires_grad_()
    (alone,) = torch.autograd.grad(
        policy_loss(y, old[:1], torch.ones(1), torch.ones(1, 3), WindowActions(2), normalizer=6.0).loss, y
    )
    assert torch.equal(grad[:1], alone) and not grad[1].any()


# --- half types ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("surrogate", surrogates)
@pytest.mark.parametrize("actions", SPACES, ids=str)
def test_half_types_give_what_float32_gives_on_the_same_numbers(actions, surrogate, dtype):
    g = torch.Generator().manual_seed(0)
    old = (-2 * torch.rand(8, 300, generator=g)).to(dtype)
    new = (old.float() + 0.1 * torch.randn(8, 300, generator=g)).to(dtype)
    advantage = torch.randn(8, generator=g).to(dtype)
    mask = torch.rand(8, 300, generator=g) < 0.9
    half = new.clone().requires_grad_()
    full = new.float().requires_grad_()
    a = policy_loss(half, old, advantage, mask, actions, surrogate=surrogate)
    b = policy_loss(full, old.float(), advantage.float(), mask, actions, surrogate=surrogate)
    assert a.loss.dtype == dtype and a.loss == b.loss.to(dtype) and torch.equal(a.clipped, b.clipped)
    da = torch.autograd.grad(a.loss, half)[0]
    db = torch.autograd.grad(b.loss, full)[0]
    torch.testing.assert_close(da, db.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=2e-7)
    assert (da[mask] == 0).float().mean() <= (db[mask] == 0).float().mean() + 0.01


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_over_many_tokens_are_taken_in_float32(dtype):
    ones = torch.ones(1, 4000)
    x = torch.full((1, 4000), 0.1, dtype=dtype)
    exact = x[0, 0].float() * 4000
    near = dict(rtol=torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(BlockActions(4000, "sum").log_ratio(x, ones)[0, 0], exact.to(dtype), **near)
    torch.testing.assert_close(WindowActions(4000, joint=True).log_ratio(x, ones)[0, 0], exact.to(dtype), **near)
    torch.testing.assert_close(SequenceActions().log_ratio(x, ones)[0, 0], x[0, 0], **near)
    torch.testing.assert_close(entropy_bonus(x, ones), x[0, 0], **near)
    torch.testing.assert_close(kl_penalty(torch.zeros_like(x), x, ones, "k1"), -x[0, 0], **near)
    torch.testing.assert_close(gae(x, torch.zeros_like(x), ones)[0][0, 0], exact.to(dtype), **near)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0] * 600, dtype=dtype)
    torch.testing.assert_close(group_advantages(rewards, 2400), group_advantages(rewards.float(), 2400).to(dtype))
    torch.testing.assert_close(leave_one_out(rewards, 2400), leave_one_out(rewards.float(), 2400).to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_critic_in_half_types_has_the_loss_of_float32(dtype):
    g = torch.Generator().manual_seed(0)
    values, old, returns = (2 * torch.randn(64, 2048, generator=g).to(dtype) for _ in range(3))
    mask = torch.ones(64, 2048)
    x = values.clone().requires_grad_()
    y = values.float().requires_grad_()
    half = value_loss(x, old, returns, mask)
    full = value_loss(y, old.float(), returns.float(), mask)
    torch.testing.assert_close(half, full.to(dtype))
    torch.testing.assert_close(torch.autograd.grad(half, x)[0], torch.autograd.grad(full, y)[0].to(dtype))
    ids = fixed_blocks(mask, 4)
    logps = -1e-4 * torch.rand(64, 2048, generator=g).to(dtype)
    credits = torch.ones(64, 512, dtype=dtype)
    torch.testing.assert_close(
        distribute(credits, ids, "surprise", logps),
        distribute(credits.float(), ids, "surprise", logps.float()).to(dtype),
    )


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_equal_advantages_are_whitened_to_zero(dtype):
    for value in (0.3, 0.5, -7.1, 0.0):
        assert not whiten(torch.full((3, 7), value, dtype=dtype), torch.ones(3, 7)).any()


# --- holes --------------------------------------------------------------------------------------------------------
REPLY = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0], [0] * 12])
TEXTS = [["a", " b", ".", "c", "", "", "", "d", " e.", "f", "g", "h"]] * 3


def crossing(W, mask):
    "Weight between two tokens that a hole separates."
    turn = turn_blocks(mask[None])[0]
    apart = (turn[:, None] != turn[None, :]) & (turn[:, None] >= 0) & (turn[None, :] >= 0)
    return W[apart].abs().sum().item()


@pytest.mark.parametrize(
    "make",
    [
        lambda gaps: BlockActions(fixed_blocks(REPLY, 3, gaps)),
        lambda gaps: BlockActions(3, gaps=gaps),
        lambda gaps: BlockActions(fixed_blocks(REPLY, 3), gaps=gaps),
        lambda gaps: BlockActions(sentence_blocks(REPLY, TEXTS, gaps), "sum"),
        lambda gaps: BlockActions(delimiter_blocks(REPLY, TEXTS, ".", gaps)),
        lambda gaps: BlockActions(surprise_blocks(REPLY, torch.full((3, 12), -1.0), interval=4, gaps=gaps)),
        lambda gaps: BlockActions(perplexity_blocks(REPLY, torch.zeros(3, 12), gaps)),
        lambda gaps: BlockActions(random_blocks(REPLY, (5,), torch.Generator().manual_seed(0), gaps)),
        lambda gaps: WindowActions(3, gaps=gaps),
        lambda gaps: WindowActions(4, joint=True, gaps=gaps),
        lambda gaps: WindowActions(2, beta=(0.5, 0.5), tail="truncate", gaps=gaps),
    ],
)
def test_no_action_has_tokens_on_both_sides_of_a_reply_where_actions_end_there(make):
    assert sum(crossing(weight_matrix(make("skip"), REPLY, row), REPLY[row]) for row in range(3)) > 0
    assert sum(crossing(weight_matrix(make("end"), REPLY, row), REPLY[row]) for row in range(3)) == 0


@pytest.mark.parametrize(
    "actions",
    [
        WindowActions(1, gaps="end"),
        WindowActions(4, gaps="end"),
        WindowActions(3, joint=True, gaps="end"),
        WindowActions(3, tail="truncate", gaps="end"),
        WindowActions(30, gaps="end"),
        BlockActions(3, gaps="end"),
    ],
    ids=str,
)
def test_a_turn_is_read_as_if_it_were_a_response_of_its_own(actions):
    from dataclasses import replace

    g = torch.Generator().manual_seed(1)
    for _ in range(20):
        mask = torch.rand(4, 17, generator=g) < 0.7
        x = torch.randn(4, 17, generator=g, dtype=torch.double).masked_fill(~mask, float("nan"))
        turns = turn_blocks(mask)
        whole = replace(actions, gaps="skip")
        for apply in (actions.log_ratio, actions.credit):
            expected = torch.zeros_like(x)
            single = getattr(whole, apply.__name__)
            for row in range(4):
                for turn in range(int(turns[row].max()) + 1):
                    here = turns[row] == turn
                    expected[row, here] = single(x[row, here][None], torch.ones(1, int(here.sum())))[0]
            torch.testing.assert_close(apply(x, mask), expected)
    filled = torch.randn(4, 17, generator=g, dtype=torch.double)
    full = torch.ones(4, 17)
    torch.testing.assert_close(actions.log_ratio(filled, full), whole.log_ratio(filled, full))


def test_windows_that_bring_their_own_terms_end_at_a_hole_too():
    k = 3
    x = torch.arange(36.0).view(3, 12)
    own = torch.full((3, 12, k), float("nan"))
    place = place_in_turn(REPLY)
    size = block_sizes(turn_blocks(REPLY))
    for b, t in REPLY.nonzero().tolist():
        for n in range(min(k, int(size[b, turn_blocks(REPLY)[b, t]] - place[b, t]))):
            own[b, t, n] = x[b, t + n]
    for actions in (
        WindowActions(k, gaps="end"),
        WindowActions(k, gaps="end", tail="truncate"),
        WindowActions(k, joint=True, gaps="end"),
    ):
        torch.testing.assert_close(actions.log_ratio(own, REPLY), actions.log_ratio(x, REPLY))


def test_rules_at_a_hole_by_hand():
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 0, 0, 1]])
    assert turn_blocks(mask).tolist() == [[0, 0, 0, -1, 1, 1, -1, -1, 2]]
    assert place_in_turn(mask).tolist() == [[0, 1, 2, -1, 0, 1, -1, -1, 0]]
    kept = mask[0].bool()
    assert tokens_left(mask)[0, kept].tolist() == [6, 5, 4, 3, 2, 1]
    assert tokens_left(mask, "end")[0, kept].tolist() == [3, 2, 1, 2, 1, 1]
    assert fixed_blocks(mask, 2).tolist() == [[0, 0, 1, -1, 1, 2, -1, -1, 2]]
    assert fixed_blocks(mask, 2, gaps="end").tolist() == [[0, 0, 1, -1, 2, 2, -1, -1, 3]]
    assert cut_at_gaps(fixed_blocks(mask, 2), mask).tolist() == [[0, 0, 1, -1, 2, 3, -1, -1, 4]]
    assert turn_blocks(torch.zeros(2, 0)).shape == (2, 0) and turn_blocks(torch.zeros(1, 3)).tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fixed_blocks(REPLY, 2, "split"),
        lambda: WindowActions(2, gaps="split"),
        lambda: BlockActions(2, gaps="split"),
        lambda: cut_at_gaps(REPLY, REPLY, "split"),
    ],
)
def test_an_unknown_gaps_is_named(call):
    with pytest.raises(ValueError, match="gaps='split'; choose 'skip'.*or 'end'"):
        call()


# --- DAPO's dead groups -------------------------------------------------------------------------------------------
def test_dapo_drops_groups_that_are_all_right_or_all_wrong_whatever_their_lengths(tmp_path):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    problems = [dict(prompt=f"{n}+1=", answer="x") for n in range(4)]
    said = {
        "0+1=": [1.0, 1.0, 1.0, 1.0],
        "1+1=": [0.0, 0.1, 0.2, 0.3],
        "2+1=": [1.0, 0.2, 0.2, 0.2],
        "3+1=": [0.5, 0.5, 0.5, 0.5],
    }

    def reward(ps, texts):  # the i-th response of a prompt earns its i-th reward, whatever it says
        seen = {}
        return [
            said[p["prompt"]][(seen.update({p["prompt"]: seen.get(p["prompt"], -1) + 1}), seen[p["prompt"]])[1]]
            for p in ps
        ]

    task = Task("t", problems, problems[:1], reward, max_new_tokens=12, batched=True)
    config = TrainConfig(
        output=str(tmp_path / "run"),
        steps=1,
        prompts_per_step=4,
        group_size=4,
        recipe="dapo",
        eval_every=0,
        progress=False,
        precision="float32",
    )
    trainer = Trainer(config, task=task)
    batch = trainer.collect(1)
    dead = {p["prompt"]: bool(d) for p, d in zip(batch.problems, batch.dead)}
    assert dead == {"0+1=": True, "1+1=": True, "2+1=": False, "3+1=": True}
    assert [batch.problems[i]["prompt"] for i in batch.kept.tolist()] == ["2+1="] * 4
    said["2+1="] = [0.4, 0.2, 0.2, 0.2]
    with pytest.warns(UserWarning, match="pass_mark=1 .*drop_dead_groups=False"):
        assert not len(trainer.collect(2).kept)


def test_responses_that_were_cut_are_left_out(tmp_path):
    """DAPO's overlong filtering: no gradient from a response that came to no end, and none of its tokens in the mean;
    its reward still counts in its group."""
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    found = {}
    for filtered in (False, True):
        options = dict(mask_truncated=filtered, drop_dead_groups=False, overlong_buffer=0.0)
        config = TrainConfig(
            output=str(tmp_path / str(filtered)),
            steps=1,
            prompts_per_step=4,
            group_size=4,
            recipe="dapo",
            recipe_options=options,
            max_new_tokens=22,
            eval_every=0,
            progress=False,
            precision="float32",
        )
        trainer = Trainer(config)
        batch = trainer.collect(1)
        ended = batch.rollout.finished
        assert ended.any() and not ended.all()
        ((out, mask, *_),) = trainer.learner.accumulate(batch, batch.kept, 1)
        (rows,) = micro_batches(batch.rollout, batch.kept, config.micro_batch_tokens)  # the order of the pass
        found[filtered] = batch.advantages, mask, out.credit
        assert torch.equal(mask, (batch.rollout.mask & (ended[:, None] | (not filtered)))[rows])
    torch.testing.assert_close(found[False][0], found[True][0])
    ((_, _, all_of_them), (_, mask, some)) = found[False], found[True]
    share = float(batch.rollout.mask.sum() / mask.sum())
    assert not some[~mask].any() and share > 1
    torch.testing.assert_close(some[mask], all_of_them[mask] * share)
    with pytest.warns(UserWarning, match="all were cut at the length limit.*mask_truncated=False"):
        batch.rollout.finished[:] = False
        trained_tokens(trainer.recipe, batch.rollout, batch.rollout.logps)


def test_other_recipes_keep_what_has_a_difference_in_reward():
    assert not recipe("grpo").drop_dead_groups and recipe("dapo").drop_dead_groups


def test_whitening_does_not_cut_whole_numbers_and_is_silent_about_nothing(recwarn):
    x, mask = torch.tensor([[1, 2, 4]]), torch.ones(1, 3)
    assert torch.equal(whiten(x, mask), whiten(x.float(), mask)) and whiten(x, mask).unique().numel() == 3
    assert not whiten(x.float(), mask * 0).any() and not recwarn
    with pytest.raises(ValueError, match="eps=-1"):
        whiten(x, mask, eps=-1)
