"What a critic learns from and its loss: against plain loops, and against each other where they must agree."

import math

import pytest
import torch

from mpo_nb.advantages import block_gae, boundary_advantages, critic_targets, distribute, gae, macro_blocks, whiten
from mpo_nb.blocks import block_mean, block_sizes, fixed_blocks, random_blocks, spread, token_blocks
from mpo_nb.losses import explained_variance, value_loss


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


# Targets


@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("macro", [1, 3, (1, 2, 5)])
def test_targets_are_what_a_plain_loop_finds(gamma, lam, macro):
    mask, values, rewards, _ = padded()
    ids = macro_blocks(mask, macro, seed=4)
    found = critic_targets(rewards, values.masked_fill(~mask, float("nan")), mask, gamma, lam, ids)
    for b in range(6):
        kept = mask[b].nonzero()[:, 0].tolist()
        blocks = (
            [[t] for t in kept]
            if macro == 1
            else [[t for t in kept if found.ids[b, t] == n] for n in sorted({int(found.ids[b, t]) for t in kept})]
        )
        v = [float(sum(values[b, t] for t in block) / len(block)) for block in blocks] + [0.0]
        advantage = 0.0
        for n in reversed(range(len(blocks))):
            reward = float(rewards[b]) if n == len(blocks) - 1 else 0.0
            advantage = reward + gamma * v[n + 1] - v[n] + gamma * lam * advantage
            for t in blocks[n]:
                assert float(found.advantages[b, t]) == pytest.approx(advantage) and float(
                    found.returns[b, t]
                ) == pytest.approx(advantage + v[n])
    assert not found.advantages[~mask].any() and not found.returns[~mask].any()


def test_at_gamma_and_lambda_one_the_advantage_is_the_reward_less_the_value():
    mask, values, rewards, _ = padded()
    found = critic_targets(rewards, values, mask)
    torch.testing.assert_close(found.advantages, torch.where(mask, rewards[:, None] - values, 0.0))
    torch.testing.assert_close(found.returns, torch.where(mask, rewards[:, None].expand_as(values), 0.0))


def test_one_token_blocks_are_tokens():
    mask, values, rewards, g = padded()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.3)):
        one = critic_targets(rewards, values, mask, gamma, lam)
        ids = token_blocks(mask)
        last = mask & (mask.flip(1).long().cumsum(1).flip(1) == 1)
        blocks = block_gae(torch.where(last, rewards[:, None], 0.0), values, ids, gamma, lam)
        torch.testing.assert_close(distribute(blocks[0], ids), one.advantages)
        torch.testing.assert_close(
            value_loss(values, values + 1, one.returns, mask, 0.2, ids),
            value_loss(values, values + 1, one.returns, mask, 0.2),
        )


def test_drawn_sizes_are_the_seeds():
    mask, *_ = padded()
    a, b, c = (macro_blocks(mask, (1, 2, 3), seed=s) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(a, random_blocks(mask, (1, 2, 3), generator=torch.Generator().manual_seed(0)))
    assert macro_blocks(mask) is None and torch.equal(macro_blocks(mask, 3), fixed_blocks(mask, 3))


def test_advantages_of_blocks_telescope_to_machine_precision():
    for seed in range(20):
        mask, values, rewards, g = padded(seed=seed)
        mask[:, 0] = True
        for ids in (fixed_blocks(mask, 3), token_blocks(mask), random_blocks(mask, generator=g)):
            block_values = torch.randn(block_sizes(ids).shape, generator=g, dtype=torch.double)
            total = boundary_advantages(block_values, rewards, ids, per="block").sum(1)
            torch.testing.assert_close(total, rewards - block_values[:, 0], rtol=0, atol=1e-14)
            advantages, _ = block_gae(
                torch.where(mask & (mask.flip(1).long().cumsum(1).flip(1) == 1), rewards[:, None], 0.0),
                values,
                ids,
                lam=0.0,
            )
            torch.testing.assert_close(advantages.sum(1), rewards - block_mean(values, ids)[:, 0], rtol=0, atol=1e-14)


def test_whitened():
    mask, values, *_ = padded()
    found = whiten(values.masked_fill(~mask, float("nan")), mask)
    assert (
        float(found[mask].mean()) == pytest.approx(0, abs=1e-12)
        and float(found[mask].std(unbiased=False)) == pytest.approx(1)
        and not found[~mask].any()
    )


# Loss


@pytest.mark.parametrize("clip", [None, 0.0, 0.2, 5.0])
@pytest.mark.parametrize("blocks", [False, True])
def test_the_value_loss_is_a_plain_loop(clip, blocks):
    mask, values, _, g = padded()
    old = values + 0.3 * torch.randn(values.shape, generator=g, dtype=torch.double)
    returns = torch.randn(values.shape, generator=g, dtype=torch.double)
    ids = random_blocks(mask, (1, 2, 3), generator=g) if blocks else None
    x = values.clone().requires_grad_()
    loss = value_loss(
        x.masked_fill(~mask, float("nan")),
        old,
        spread(block_mean(returns, ids), ids) if blocks else returns,
        mask,
        clip,
        ids,
    )
    loss.backward()
    y = values.clone().requires_grad_()
    terms = []
    for b in range(6):
        kept = mask[b].nonzero()[:, 0].tolist()
        groups = (
            [[t for t in kept if ids[b, t] == n] for n in sorted({int(ids[b, t]) for t in kept})]
            if blocks
            else [[t] for t in kept]
        )
        for group in groups:
            v, o, r = (sum(z[b, t] for t in group) / len(group) for z in (y, old, returns))
            worst = (v - r) ** 2
            if clip is not None:
                worst = torch.maximum(worst, (o + (v - o).clamp(-clip, clip) - r) ** 2)
            terms.append(worst / 2)
    plain = torch.stack(terms).mean()
    plain.backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("shape", [(5,), (6, 1), (), (7,)], ids=str)
def test_another_count_of_rewards_is_named(shape):
    mask, values, *_ = padded()
    with pytest.raises(ValueError, match=r"final_rewards has shape .*; pass one number per response, shape \(6,\)"):
        critic_targets(torch.zeros(shape), values, mask)
    for whole in (torch.ones(6), torch.ones(6).long()):  # of any type
        found = critic_targets(whole, torch.zeros_like(values), mask)
        assert torch.equal(found.returns, mask.to(values.dtype))


def test_explained_variance():
    mask, values, *_ = padded()
    returns = values + 0.5 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    y = returns[mask]
    e = (returns - values)[mask]
    assert explained_variance(values.masked_fill(~mask, 99.0), returns, mask) == pytest.approx(
        1 - float(e.var() / y.var())
    )
    assert (
        math.isnan(explained_variance(values, torch.ones_like(values), mask))
        and explained_variance(returns, returns, mask) == 1
    )


def test_gae_is_the_targets_of_tokens():
    mask, values, rewards, _ = padded()
    last = mask & (mask.flip(1).long().cumsum(1).flip(1) == 1)
    advantages, returns = gae(torch.where(last, rewards[:, None], 0.0), values, mask, 0.9, 0.8)
    found = critic_targets(rewards, values, mask, 0.9, 0.8)
    assert torch.equal(found.advantages, advantages) and torch.equal(found.returns, returns)
