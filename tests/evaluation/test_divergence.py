"The exact divergence against a plain loop in float64, for random models, masks with nothing kept, and refusals."

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mpo_nb.evaluation import exact_kl
from mpo_nb.sampling.rollouts import Rollout


def model(seed: int, vocabulary: int = 50) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape)).double().eval()


def responses(lengths=(5, 0, 3, 1), prompts=(2, 4, 1, 4)) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    B = len(lengths)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    there = torch.arange(max(prompts)) >= max(prompts) - torch.tensor(prompts)[:, None]
    ids, prompt_ids = (torch.randint(50, m.shape, generator=generator) for m in (mask, there))
    return Rollout(prompt_ids, there, ids, mask, torch.zeros(mask.shape), [""] * B, torch.ones(B, dtype=torch.bool))


@torch.no_grad()
def plain(policy, reference, r, temperature):
    found = []
    for i in range(len(r.mask)):
        prompt = r.prompt_ids[i][r.prompt_mask[i]]
        row = torch.cat([prompt, r.ids[i][r.mask[i]]])
        for t in range(len(prompt), len(row)):
            p, q = ((m(row[None, :t]).logits[0, -1] / temperature).softmax(-1) for m in (policy, reference))
            found.append(sum(float(a * (a / b).log()) for a, b in zip(p, q)))
    return sum(found) / len(found)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_it_is_the_sum_over_the_vocabulary(temperature):
    policy, reference = model(0), model(1)
    r = responses()
    wanted = plain(policy, reference, r, temperature)
    for rows, elements in ((256, 2**24), (1, 2**24), (3, 120), (2, 1)):
        assert exact_kl(policy, reference, r, temperature, rows, elements) == pytest.approx(wanted, rel=1e-5)
    assert exact_kl(policy, policy, r) == 0 < wanted


def test_a_token_that_the_policy_never_says_adds_nothing():
    policy, reference = model(0), model(1)
    for one in (policy, reference):
        one.lm_head.bias = torch.nn.Parameter(torch.zeros(50, dtype=torch.double))
        one.lm_head.bias.data[7] = -torch.inf
    found = exact_kl(policy, reference, responses())
    assert 0 < found < float("inf")


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="reference has 40 tokens and policy 50"):
        exact_kl(model(0), model(0, 40), responses())
    with pytest.raises(ValueError, match="no kept token"):
        exact_kl(model(0), model(1), responses((0, 0), (2, 3)))
    with pytest.raises(ValueError, match="policy='tiny'"):
        exact_kl("tiny", model(0), responses())
