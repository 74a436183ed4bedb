"""Several policies as one model: against the plain product of their probabilities, and in the hands of what takes a
model."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig

from mpo_nb.evaluation.evaluating import fingerprint
from mpo_nb.models import PolicyMixture, load, response_logps
from mpo_nb.sampling import rollout

V = 11


@pytest.fixture(scope="module")
def policies() -> tuple:
    "The tiny model, twice nudged, and its tokenizer."
    base, tokenizer = load("tiny", precision="float32", quiet=True)
    nudged = []
    for seed in (1, 2):
        model = copy.deepcopy(base)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
        nudged.append(model)
    return base, *nudged, tokenizer


def small(config_class, seed: int, **options):
    "A model of few numbers, of some family."
    torch.manual_seed(seed)
    sizes = dict(vocab_size=V, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2)
    rest = dict(max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = config_class(**(sizes | dict(num_hidden_layers=2) | rest | options))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@torch.no_grad()
def plain(models, weights, ids) -> torch.Tensor:
    "The normalised product of powers, in float64."
    total = sum(z * model(ids).logits.double().log_softmax(-1) for z, model in zip(weights, models))
    return total.log_softmax(-1)


@pytest.mark.parametrize("which", range(3))
def test_a_weight_of_one_is_that_policy_to_the_bit(policies, which, monkeypatch):
    "Every text read whole: a mixture shares no beginnings, and sharing them changes the last bits."
    monkeypatch.setattr("mpo_nb.models.logprobs.reads_trees", lambda decoder: False)
    *models, tokenizer = policies
    weights = [float(i == which) for i in range(3)]
    prompts = ["7+5-3+8?", "1+1?", "9-4+0-2+6?"]
    alone = rollout(models[which], tokenizer, prompts, 4, 40, seed=3)
    mixed = rollout(PolicyMixture(models, weights), tokenizer, prompts, 4, 40, seed=3)
    assert torch.equal(alone.ids, mixed.ids) and torch.equal(alone.logps, mixed.logps)
    parts = (alone.prompt_ids, alone.prompt_mask, alone.ids, alone.mask)
    for one, other in zip(
        response_logps(models[which], *parts), response_logps(PolicyMixture(models, weights), *parts)
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (-1.0, 1.5, 0.5), (2.0, 0.0, -1.0)])
def test_equal_policies_with_weights_that_sum_to_one_are_that_policy(policies, weights):
    _, model, _, tokenizer = policies
    ids = tokenizer("7+5-3+8?7+5=12;12-3=9", return_tensors="pt").input_ids
    mixed = PolicyMixture([model, copy.deepcopy(model), model], weights)
    with torch.no_grad():
        one, other = (m(input_ids=ids).logits.log_softmax(-1) for m in (model, mixed))
    torch.testing.assert_close(other, one, rtol=0, atol=2e-5)


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.0), (0.2, 0.3, 0.5), (-1.0, 0.5, 1.5), (0.0, 2.0, 0.0)])
def test_the_product_of_powers_by_a_forward_pass_and_token_by_token(policies, weights):
    "Sampled with a joint cache, over prompts of several lengths: each log-probability is the product's."
    *models, tokenizer = policies
    r = rollout(PolicyMixture(models, weights), tokenizer, ["7+5-3+8?", "1+1?", "9-4+0-2+6?"], 3, 40, seed=5)
    for row in range(len(r.ids)):
        prompt = r.prompt_ids[row][r.prompt_mask[row]]
        response = r.ids[row][r.mask[row]]
        truth = plain(models, weights, torch.cat([prompt, response])[None])[0, len(prompt) - 1 : -1]
        logps = truth.gather(1, response[:, None])[:, 0]
        torch.testing.assert_close(r.logps[row][r.mask[row]].double(), logps, rtol=0, atol=2e-4)


def test_one_policy_with_a_weight_is_that_policy_at_a_temperature(policies):
    base, _, _, tokenizer = policies
    cold = rollout(base, tokenizer, ["7+5-3+8?"], 8, 40, temperature=0.5, seed=1)
    sharp = rollout(PolicyMixture([base], [2.0]), tokenizer, ["7+5-3+8?"], 8, 40, seed=1)
    assert torch.equal(cold.ids, sharp.ids)
    torch.testing.assert_close(cold.logps, sharp.logps, rtol=0, atol=1e-6)


def test_policies_of_several_families_with_logits_of_their_own_scale():
    "Layers of other numbers and sizes, a soft cap, a scaling: the head applies each once, to its own policy."
    models = [
        small(LlamaConfig, 0, num_hidden_layers=3),
        small(GraniteConfig, 1, logits_scaling=4.0, hidden_size=24),
        small(Gemma2Config, 2, final_logit_softcapping=1.0, head_dim=8),
    ]
    with torch.no_grad():
        for model in models:
            model.get_output_embeddings().weight *= 20
    ids = torch.randint(3, V, (2, 9), generator=torch.Generator().manual_seed(0))
    weights = (0.7, -0.4, 0.7)
    for order in ((0, 1, 2), (2, 1, 0)):
        those, z = [models[i] for i in order], [weights[i] for i in order]
        with torch.no_grad():
            logps = PolicyMixture(those, z).eval()(input_ids=ids).logits.log_softmax(-1).double()
        torch.testing.assert_close(logps, plain(those, z, ids), rtol=0, atol=2e-5)


def test_mixtures_of_the_same_policies_are_told_apart(policies):
    "An evaluation that goes on from a file knows a model by its parameters."
    base, other, _, _ = policies
    prints = {fingerprint(PolicyMixture([base, other], z)) for z in ((0.5, 0.5), (0.4, 0.6), (1, 0), (0, 1))}
    assert len(prints) == 4
    assert fingerprint(PolicyMixture([base, other], (0.5, 0.5))) in prints


@pytest.mark.parametrize("weights", [(1e6, -1e6), (1e6, 1.0), (1e-30, 0.0)])
def test_the_largest_and_smallest_weights_give_numbers(policies, weights):
    "And an array of numpy is as good as a list."
    base, other, _, _ = policies
    ids = torch.tensor([[3, 4, 5, 6]])
    logits = [PolicyMixture([base, other], z)(ids).logits.detach() for z in (list(weights), np.array(weights))]
    assert torch.equal(*logits) and bool(logits[0].log_softmax(-1).isfinite().all())


def test_policies_are_shared_and_the_weights_do_not_learn(policies):
    base, other, _, _ = policies
    mixture = PolicyMixture([base, other], (0.5, 0.5))
    own = {id(p) for p in mixture.parameters()} - {id(p) for model in (base, other) for p in model.parameters()}
    assert own == {id(mixture.weights)} and not mixture.weights.requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, b: ([], []), "policies is empty"),
        (lambda a, b: (a, [1.0]), "is no list"),
        (lambda a, b: (["tiny", a], [1.0, 0.0]), r"policies\[0\]=.*tiny"),
        (lambda a, b: ([a, b], [1.0]), r"weights=\[1.0\]; give 2"),
        (lambda a, b: ([a, b], 0.5), "weights=0.5; give 2"),
        (lambda a, b: ([a, b], [1.0, float("inf")]), r"weights\[1\]=inf"),
        (lambda a, b: ([a, b], [1.0, "2"]), r"weights\[1\]='2'"),
        (lambda a, b: ([a, b], [0.0, 0.0]), "with none above or below 0"),
        (lambda a, b: ([a, b], [1e300, 1.0]), r"weights\[0\]=1e\+300; each must be 0, or between 1e-30 and 1e\+06"),
        (lambda a, b: ([a, b], [1.0, -3e38]), r"weights\[1\]=-3e\+38"),
        (lambda a, b: ([a, b], [1e-50, 0.0]), r"weights\[0\]=1e-50"),
        (lambda a, b: ([a, b], np.array([1.0])), r"weights=\[1.0\]; give 2"),
        (lambda a, b: ([a, b], np.array([[1.0], [0.0]])), r"weights\[0\]=\[1.0\]"),
        (
            lambda a, b: (
                [copy.deepcopy(a).bfloat16(), PolicyMixture([copy.deepcopy(a).bfloat16()], [1.0])],
                [0.5, 0.5],
            ),
            r"policies\[1\] is a PolicyMixture; pass the policies that it mixes",
        ),
        (lambda a, b: ([a, small(LlamaConfig, 0)], [0.5, 0.5]), r"policies\[1\] has 11 tokens and policies\[0\] 20"),
        (lambda a, b: ([a, copy.deepcopy(b).bfloat16()], [0.5, 0.5]), r"policies\[1\] is torch.bfloat16"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(policies, make, message):
    base, other, _, _ = policies
    with pytest.raises(ValueError, match=message):
        PolicyMixture(*make(base, other))
