"""Soft Q per token: against sums over whole responses, one-step soft Q-learning, a count of actions, and gradients."""

import dataclasses
import math
from itertools import product

import pytest
import torch

from mpo_nb.blocks import fixed_blocks, random_blocks, sequence_block, token_blocks
from mpo_nb.enumeration import numbered_case
from mpo_nb.soft_q import exact_soft_q, soft_advantages, soft_policy, soft_policy_loss, soft_targets, soft_values

V, T = 3, 4
EXACT = dict(rtol=0, atol=4e-15)


@pytest.fixture(scope="module")
def case():
    "A prior and rewards on a tree of 81 leaves."
    return numbered_case(0, vocabulary=V, length=T, reach=3)


def drawn(*shape, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def at_tokens(x, tokens):
    "What stands at the written tokens, (N, T)."
    return x.gather(-1, tokens[..., None])[..., 0]


def plain_value(case, beta: float, gamma: float, closes: set[int], prefix: tuple[int, ...] = ()) -> float:
    "The soft value of a prefix by a recursion over lists; `closes` are the positions at which an action ends."
    here = (case.tokens[:, : len(prefix)] == torch.tensor(prefix)).all(1) if prefix else torch.ones(V**T).bool()
    row = int(case.rows[here][0, len(prefix)])
    prior = case.old_logits[row].log_softmax(0).tolist()
    total = 0.0
    for w in range(V):
        t = len(prefix)
        if t == T - 1:
            q = float(case.rewards[here][w])
        else:
            q = plain_value(case, beta, gamma, closes, (*prefix, w)) * (gamma if t in closes else 1.0)
        total += math.exp(prior[w] + q / beta)
    return beta * math.log(total)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_values_of_tokens_are_that_of_the_whole_response(case, beta):
    "The nested logarithms are one logarithm over responses, and the tokens' policies multiply to the best one."
    q, prior = exact_soft_q(case, beta)
    whole = beta * (case.old_logps.sum(1) + case.rewards / beta).logsumexp(0)
    torch.testing.assert_close(soft_values(q, prior, beta)[:, 0], whole.expand(V**T), **EXACT)
    written = at_tokens(soft_policy(q, prior, beta), case.tokens).sum(1)
    best = (case.old_logps.sum(1) + case.rewards / beta).log_softmax(0)
    torch.testing.assert_close(written.exp(), best.exp(), **EXACT)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_tree_is_a_plain_recursion(case, k, gamma):
    ids = fixed_blocks(torch.ones(1, T), k)
    q, prior = exact_soft_q(case, 0.4, gamma, ids)
    closes = {t for t in range(T) if t % k == k - 1 or t == T - 1}
    mine = float(soft_values(q, prior, 0.4)[0, 0])
    assert mine == pytest.approx(plain_value(case, 0.4, gamma, closes), rel=0, abs=4e-15)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_tree_solves_the_targets(case, k, gamma):
    "What `soft_targets` asks for is what the tree has, at every written token."
    ids = fixed_blocks(torch.ones(1, T), k)
    q, prior = exact_soft_q(case, 0.4, gamma, ids)
    rewards = torch.zeros(V**T, T).double()
    rewards[:, -1] = case.rewards
    values = soft_values(q, prior, 0.4)
    targets = soft_targets(rewards, values, ids.expand(V**T, T), gamma)
    torch.testing.assert_close(targets, at_tokens(q, case.tokens), rtol=0, atol=0)
    # ETPO's form, with the policy written out: no gap where the policy is the best one
    torch.testing.assert_close(soft_values(q, prior, 0.4, soft_policy(q, prior, 0.4)), values, **EXACT)


def test_one_token_actions_are_soft_q_learning():
    q, prior, rewards = drawn(2, 5, V), drawn(2, 5, V, seed=1).log_softmax(-1), drawn(2, 5, seed=2)
    values = soft_values(q, prior, 0.3)
    targets = soft_targets(rewards, values, token_blocks(torch.ones(2, 5)), 0.9)
    following = 0.3 * (prior.exp() * (q / 0.3).exp()).sum(-1).log()
    expected = rewards + 0.9 * torch.cat([following[:, 1:], torch.zeros(2, 1)], 1)
    torch.testing.assert_close(targets, expected, **EXACT)


def test_limits_of_beta():
    "A dear nat leaves the prior and its mean; a cheap one leaves the best token alone."
    q, prior = drawn(7, V), drawn(7, V, seed=1).log_softmax(-1)
    torch.testing.assert_close(soft_policy(q, prior, 1e12), prior, rtol=0, atol=1e-11)
    torch.testing.assert_close(soft_values(q, prior, 1e6), (prior.exp() * q).sum(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(soft_values(q, prior, 1e-12), q.amax(-1), rtol=0, atol=1e-10)
    assert torch.equal(soft_policy(q, prior, 1e-12).exp().argmax(-1), q.argmax(-1))


def test_without_a_discount_ends_do_not_matter(case):
    values, rewards, mask = drawn(6, 9), drawn(6, 9, seed=1), (drawn(6, 9, seed=2) > 0).long()
    drawing = torch.Generator().manual_seed(0)
    ends = [token_blocks(mask), sequence_block(mask), *(random_blocks(mask, (1, 2, 3), drawing) for _ in range(4))]
    for ids in ends:
        assert torch.equal(soft_targets(rewards, values, ids), soft_targets(rewards, values, ends[0]))
    trees = [exact_soft_q(case, 0.4, 1.0, fixed_blocks(torch.ones(1, T), k))[0] for k in (1, 2, 3, 4)]
    assert all(torch.equal(tree, trees[0]) for tree in trees)


def test_a_discount_counts_actions(case):
    "A reward that every response gets is worth gamma ** (actions - 1), whatever beta is."
    same = dataclasses.replace(case, rewards=torch.ones(V**T).double())
    for beta, (k, worth) in product((0.2, 3.0), enumerate((0.729, 0.9, 0.9, 1.0), start=1)):
        q, prior = exact_soft_q(same, beta, 0.9, fixed_blocks(torch.ones(1, T), k))
        torch.testing.assert_close(soft_values(q, prior, beta)[0, 0].item(), worth, **EXACT)


def test_advantages_are_beta_log_ratios_and_share_the_reward(case):
    q, prior = exact_soft_q(case, 0.4)
    A = soft_advantages(q, prior, case.tokens, case.mask, 0.4)
    moved = at_tokens(soft_policy(q, prior, 0.4) - prior, case.tokens)
    torch.testing.assert_close(A, 0.4 * moved, **EXACT)
    torch.testing.assert_close(A.sum(1) + soft_values(q, prior, 0.4)[:, 0], case.rewards, **EXACT)


def test_gradient_of_the_loss():
    "pi (g - E g) in the logits, and nothing at the optimum; the mean over the vocabulary sees no Q at all."
    logits, prior, q = drawn(2, 3, V), drawn(2, 3, V, seed=1).log_softmax(-1), drawn(2, 3, V, seed=2)
    mask, beta = torch.tensor([[1, 1, 1], [1, 0, 1]]), 0.3

    def gradient(at, loss):
        at = at.clone().requires_grad_()
        loss(at.log_softmax(-1)).backward()
        return at.grad

    def as_written(logps):
        return soft_policy_loss(logps, prior, q, mask, beta)

    pi = logits.softmax(-1)
    g = beta * (logits.log_softmax(-1) - prior) - q
    expected = pi * (g - (pi * g).sum(-1, keepdim=True)) * mask[..., None] / 5
    torch.testing.assert_close(gradient(logits, as_written), expected, **EXACT)
    torch.testing.assert_close(gradient(prior + q / beta, as_written), torch.zeros(2, 3, V).double(), **EXACT)
    # as released: the uniform mean over the vocabulary of beta log pi - Q
    for values in (q, 100 * q):
        released = gradient(logits, lambda logps: ((beta * logps - values).mean(-1) * mask).sum())
        torch.testing.assert_close(released, beta * (1 / V - pi) * mask[..., None], **EXACT)


def test_what_is_masked_or_impossible_does_no_harm():
    logits, prior = drawn(1, 3, V).requires_grad_(), drawn(1, 3, V, seed=1).log_softmax(-1)
    q, mask = drawn(1, 3, V, seed=2), torch.tensor([[1, 0, 1]])
    q[0, 1] = math.nan
    loss = soft_policy_loss(logits.log_softmax(-1), prior, q, mask, 0.3)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and not logits.grad[0, 1].any()
    A = soft_advantages(q, prior, torch.tensor([[0, -100, 2]]), mask, 0.3)
    assert A.isfinite().all() and A[0, 1] == 0
    y = soft_targets(torch.zeros(1, 3), torch.tensor([[1.0, math.nan, 2.0]]), token_blocks(mask), 0.5)
    assert y.tolist() == [[1.0, 0.0, 0.0]]  # over the hole to the next kept token
    never = torch.tensor([0.5, 0.5, 0.0]).double().log()
    q = torch.tensor([1.0, 0.0, 9.0]).double()
    best = soft_policy(q, never, 0.5)
    assert best[2] == -math.inf
    torch.testing.assert_close(soft_values(q, never, 0.5, best), soft_values(q, never, 0.5), **EXACT)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda q: soft_values(q, q, 0.0), "beta=0.0"),
        (lambda q: soft_values(q, q[..., :2], 1.0), r"prior has shape \(1, 3, 2\) but q has \(1, 3, 3\)"),
        (lambda q: soft_values(q.tolist(), q, 1.0), "q=.*pass a tensor"),
        (lambda q: soft_values(torch.tensor(1.0), q, 1.0), "q is one number"),
        (lambda q: soft_targets(q[0], q[0], torch.ones(3, 3).long(), 1.5), "gamma=1.5"),
        (lambda q: soft_targets(q[0], q[0, :2], torch.zeros(3, 3).long()), r"values has shape \(2, 3\)"),
        (lambda q: soft_targets(q[0], q[0], torch.ones(3, 3)), "pass block ids"),
        (lambda q: soft_advantages(q[0], q[0], torch.zeros(1, 3).long(), torch.ones(1, 3), 1.0), r"pass \(B, T, V\)"),
        (lambda q: soft_policy_loss(q[0], q[0], q[0], torch.ones(1, 3), 1.0), r"pass \(B, T, V\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(drawn(1, 3, V))


def test_a_tree_names_bad_ids(case):
    with pytest.raises(ValueError, match=r"ids has shape \(1, 3\)"):
        exact_soft_q(case, 0.5, 0.9, torch.zeros(1, 3).long())
