"The limits in which recipes meet: with one setting changed, a recipe is another one, from loss to credit."

import math

import pytest
import reference as ref
import torch
from batches import AWKWARD, close, generator, seeds
from hypothesis import given
from hypothesis import strategies as st
from recipe_batches import ROWS, batches, draw, outcomes, run, same

from mpo_nb.actions import BlockActions, WindowActions, weight_matrix
from mpo_nb.advantages import critic_targets
from mpo_nb.blocks import fixed_blocks, sequence_block, token_blocks
from mpo_nb.losses import policy_loss
from mpo_nb.recipes import recipe


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(mask=batches, seed=seeds, rewards=outcomes, scale=st.sampled_from([0.0, 0.1, 0.5]))
def test_mpo_with_k_one_is_grpo_to_the_last_bit(dtype, mask, seed, rewards, scale):
    batch = {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.dtype == torch.double and k != "mask" else v
        for k, v in draw(mask, seed, rewards, scale).items()
    }
    a, grad = run(recipe("mpo", k=1), batch)
    b, other = run(recipe("grpo"), batch)
    assert torch.equal(grad, other)
    for name in ("loss", "ratio", "clipped", "credit", "clip_fraction", "approx_kl"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@given(batches, seeds, outcomes)
def test_mpo_without_future_is_grpo_and_on_policy_differs_at_the_edges_only(mask, seed, rewards):
    batch = draw(mask, seed, rewards, 0.3)
    same(run(recipe("mpo", k=4, future=0.0), batch), run(recipe("grpo"), batch))
    on = batch | dict(old_logps=batch["logps"])
    _, grad = run(recipe("mpo", k=3, future=0.4), on)
    _, token = run(recipe("grpo"), on)
    inner = ref.place(mask, [[float(2 <= j < len(p) - 2) for j in range(len(p))] for p in ref.kept(mask)]).bool()
    close(grad[inner], token[inner])


@given(batches, seeds, outcomes, st.sampled_from([5e-4, 0.2]))
def test_gspo_token_is_gspo_when_the_advantage_is_constant(mask, seed, rewards, scale):
    batch = draw(mask, seed, rewards, scale)
    a = run(recipe("gspo_token"), batch)
    b = run(recipe("gspo"), batch)
    close(a[0].credit.sum(1), b[0].credit.sum(1))
    same(a, b)


def test_gspo_token_is_not_gspo_when_advantages_differ_by_token():
    batch = draw(AWKWARD, 0, [0.0] * ROWS, 1e-4)
    A = torch.randn(AWKWARD.shape, generator=generator(1), dtype=torch.double)
    a = run(recipe("gspo_token"), batch, A)
    b = run(recipe("gspo"), batch, A)
    close(a[0].loss, b[0].loss)
    assert (a[1] - b[1]).abs().max() > 1e-3


@given(batches, seeds, outcomes, st.integers(1, 9))
def test_lpo_between_grpo_and_gspo(mask, seed, rewards, k):
    """One-token sentences: GRPO. One sentence: GSPO's ratio, averaged over tokens, which is TEPO. K-token sentences:
    disjoint MPO with uniform weights. Clip range and average are LPO's own."""
    batch = draw(mask, seed, rewards, 0.05)
    own = dict(clip=(0.03, 0.03), aggregate="token-mean")
    same(run(recipe("lpo"), batch | dict(blocks=token_blocks(mask))), run(recipe("grpo", **own), batch))
    same(run(recipe("lpo"), batch | dict(blocks=sequence_block(mask))), run(recipe("gspo", **own), batch))
    same(run(recipe("lpo"), batch | dict(blocks=sequence_block(mask))), run(recipe("tepo", clip=(0.03, 0.03)), batch))
    same(
        run(recipe("lpo"), batch | dict(blocks=fixed_blocks(mask, k))),
        run(recipe("mpo", actions=BlockActions(k), **own), batch),
    )


@given(batches, seeds, outcomes)
def test_sentences_as_the_only_difference_from_grpo(mask, seed, rewards):
    "`recipe('grpo', actions='sentence')` lies between GRPO and GSPO with nothing else changed."
    batch = draw(mask, seed, rewards, 0.3)
    r = recipe("grpo", actions="sentence")
    same(run(r, batch | dict(blocks=token_blocks(mask))), run(recipe("grpo"), batch))
    same(run(r, batch | dict(blocks=sequence_block(mask))), run(recipe("gspo", clip=(0.2, 0.2)), batch))


@given(batches, seeds, outcomes)
def test_disjoint_mpo_longer_than_the_response_is_gspo(mask, seed, rewards):
    batch = draw(mask, seed, rewards, 5e-4)
    same(run(recipe("mpo", actions=BlockActions(mask.shape[1]), clip=(3e-4, 4e-4)), batch), run(recipe("gspo"), batch))


@given(st.integers(1, 8), seeds, outcomes, st.sampled_from([5e-4, 0.3]))
def test_equal_lengths_make_the_aggregates_agree(T, seed, rewards, scale):
    """Then DAPO with GRPO's clip range is GRPO, TEPO with GSPO's is GSPO, and Dr. GRPO with L_max = T is GRPO without
    the std."""
    batch = draw(torch.ones(ROWS, T), seed, rewards, scale)
    same(run(recipe("dapo", clip=(0.2, 0.2)), batch), run(recipe("grpo"), batch))
    same(run(recipe("tepo", clip=(3e-4, 4e-4)), batch), run(recipe("gspo"), batch))
    same(run(recipe("dr_grpo"), batch | dict(max_length=T)), run(recipe("grpo", advantage="group-mean"), batch))


@given(batches, seeds, outcomes, st.sampled_from([5e-4, 3e-3, 0.3]))
def test_tepo_is_luspo_up_to_the_denominator(mask, seed, rewards, scale):
    "sum_i T_i PC(s_i, A_i) over sum_i T_i, and over the responses: loss and gradient differ by the factor alone."
    batch = draw(mask, seed, rewards, scale)
    factor = float(mask.sum()) / ROWS
    (tepo, ours), (luspo, theirs) = (run(recipe(name, clip=(2e-3, 2.5e-3)), batch) for name in ("tepo", "luspo"))
    close(tepo.loss * factor, luspo.loss)
    close(ours * factor, theirs)
    close(tepo.credit * factor, luspo.credit)


@given(st.integers(1, 8), seeds, outcomes)
def test_luspo_of_equal_lengths_is_gspo_times_the_length(T, seed, rewards):
    batch = draw(torch.ones(ROWS, T), seed, rewards, 5e-4)
    (one, g), (other, h) = (run(recipe(name, clip=(3e-4, 4e-4)), batch) for name in ("luspo", "gspo"))
    close(one.loss, T * other.loss)
    close(g, T * h)


@given(batches, seeds, outcomes)
def test_one_token_responses_make_gspo_grpo(mask, seed, rewards):
    first = mask.long() * (mask.long().cumsum(1) == 1)
    batch = draw(first, seed, rewards, 0.3)
    for name in ("gspo", "gspo_token", "tepo", "mpo"):
        same(
            run(recipe(name, clip=(0.2, 0.2), aggregate="token-mean"), batch),
            run(recipe("grpo", aggregate="token-mean"), batch),
        )


@given(batches, seeds, outcomes)
def test_gmpo_without_a_bound_is_gspo_without_a_clip(mask, seed, rewards):
    batch = draw(mask, seed, rewards, 0.5)
    same(run(recipe("gmpo", clip=(math.inf, math.inf)), batch), run(recipe("gspo", surrogate="none"), batch))


@given(batches, seeds, outcomes)
def test_cispo_on_policy_has_the_gradient_of_token_level_ppo(mask, seed, rewards):
    batch = draw(mask, seed, rewards, 0.5)
    on = batch | dict(old_logps=batch["logps"])
    close(run(recipe("cispo"), on)[1], run(recipe("dapo", clip=(0.2, 0.2)), on)[1])


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("actions", [WindowActions(3, 0.4), WindowActions(4, 0.2, tail="truncate")])
def test_windows_over_a_critic_are_tokens_in_expectation_times_a_power_of_lambda(actions, lam):
    """On-policy, the expected gradient of windows with weights beta over GAE(lambda) is that of tokens whose advantages
    are multiplied by the sum of beta_n lambda^n, for any values: what a window brings from before a token was settled
    before that token was drawn. All 2^6 responses of a random policy, so without noise."""
    T = 6
    g = torch.Generator().manual_seed(0)
    tokens = torch.tensor([[(i >> t) & 1 for t in range(T)] for i in range(2**T)])  # (64, T)
    prefix = torch.stack([2**t + (tokens[:, :t] * 2 ** torch.arange(t)).sum(1) for t in range(T)], 1)  # (64, T) states
    logits = torch.randn(2**T, 2, generator=g, dtype=torch.double, requires_grad=True)
    logps = logits[prefix].log_softmax(-1).gather(-1, tokens[..., None])[..., 0]  # (64, T)
    values = torch.randn(2**T, generator=g, dtype=torch.double)[prefix]
    rewards = torch.randn(2**T, generator=g, dtype=torch.double)
    mask = torch.ones_like(tokens)
    advantages = critic_targets(rewards, values, mask, 1.0, lam).advantages
    chance = logps.sum(1, keepdim=True).exp().detach()

    def expected(credit):  # of each token -> the gradient of all logits, over all responses
        return torch.autograd.grad((chance * credit.detach() * logps).sum(), logits, retain_graph=True)[0]

    out = policy_loss(logps, logps.detach(), advantages, mask, actions, aggregate="seq-mean-token-sum")
    W = weight_matrix(actions, mask[:1]).double()  # (T, T)
    ahead = torch.arange(T)[None] - torch.arange(T)[:, None]
    share = (W * torch.where(ahead >= 0, float(lam) ** ahead.clamp(min=0).double(), 0)).sum(0)  # (T,)
    close(expected(out.credit * 2**T), expected(advantages * share))
    if actions.tail == "truncate":
        inner = sum(b * lam**n for n, b in enumerate(actions.weights))
        assert float(share[-1]) == pytest.approx(inner)
