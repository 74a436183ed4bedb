"Log-probabilities over chunks against a plain log-softmax: values, gradients, and what is worked out at all."

import pytest
import torch
from torch import nn

from mpo_nb.models import logprobs
from mpo_nb.models.logprobs import token_logps

M, D = 13, 6
PLAIN = {}
GRANITE = dict(logits_scaling=3.0)
COHERE = dict(logit_scale=0.25)
GEMMA = dict(final_logit_softcapping=2.0)


class Config:
    def __init__(self, **options):
        self.__dict__.update(options)

    def get_text_config(self):
        return self


class Model(nn.Module):
    "A head and a configuration, which is all that is asked for."

    def __init__(self, vocabulary, options, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.output = nn.Linear(D, vocabulary, bias=False, dtype=dtype)
        self.config = Config(**options)

    def get_output_embeddings(self):
        return self.output


def draw(vocabulary, scale=2.0):
    g = torch.Generator().manual_seed(1)
    hidden = scale * torch.randn(M, D, generator=g)
    return hidden, torch.randint(vocabulary, (M,), generator=g), torch.randn(M, generator=g)


def plainly(model, hidden, targets, temperature, head=None):
    "Everything at once, by autograd."
    logits = (head or model.output)(hidden).float()
    options = model.config.__dict__
    logits = logits / options.get("logits_scaling", 1) * options.get("logit_scale", 1)
    if cap := options.get("final_logit_softcapping"):
        logits = cap * torch.tanh(logits / cap)
    log_p = (logits / temperature).log_softmax(-1)
    return log_p[torch.arange(M), targets], -(log_p.exp() * log_p).sum(-1)


def gradients(model, hidden, targets, pull, f, entropy=0.0):
    model.zero_grad()
    hidden = hidden.clone().requires_grad_()
    logps, H = f(hidden, targets)
    ((logps * pull).sum() + entropy * (H.sum() if entropy else 0)).backward()
    return logps.detach(), H.detach(), hidden.grad, model.output.weight.grad.clone()


@pytest.mark.parametrize("options", [PLAIN, GRANITE, COHERE, GEMMA])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary, chunk", [(11, 2**24), (11, 44), (30_000, 2**24), (30_000, 4 * 30_000)])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_chunks_and_rows_are_the_plain_log_softmax(options, temperature, vocabulary, chunk, entropy):
    "In one chunk and in several; of a large vocabulary a few rows are gone through at a time."
    model = Model(vocabulary, options)
    hidden, targets, pull = draw(vocabulary)
    expected = gradients(model, hidden, targets, pull, lambda h, t: plainly(model, h, t, temperature), entropy)
    found = gradients(
        model,
        hidden,
        targets,
        pull,
        lambda h, t: token_logps(model, h, t, temperature, bool(entropy), chunk),
        entropy,
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("chunk", [2**24, 44])
def test_a_head_in_half_precision_has_the_gradient_that_autograd_has(chunk):
    "Logits stay in the head's type until a row is summed in float32."
    model = Model(11, PLAIN, torch.bfloat16)
    hidden, targets, pull = draw(11)
    hidden = hidden.bfloat16()
    expected = gradients(model, hidden, targets, pull, lambda h, t: plainly(model, h, t, 0.7))
    found = gradients(model, hidden, targets, pull, lambda h, t: token_logps(model, h, t, 0.7, chunk_elements=chunk))
    assert found[0].dtype == found[1].dtype == torch.float32
    for a, b in zip(found[:3], expected[:3]):
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[3], expected[3], rtol=0.02, atol=0.02)  # chunks are added up in the weight's type


def test_large_logits_lose_nothing():
    "4,096 tokens in the vocabulary, logits of hundreds: as exact as float32 is beside float64."
    model = Model(4096, PLAIN)
    hidden, targets, _ = draw(4096, scale=300.0)
    logps, entropy = token_logps(model, hidden, targets)
    exact = (hidden.double() @ model.output.weight.double().T).log_softmax(-1)
    largest = (hidden @ model.output.weight.T).abs().max()
    assert largest > 300
    eps = torch.finfo(torch.float32).eps
    assert (logps.double() - exact[torch.arange(M), targets]).abs().max() < 8 * eps * largest
    assert (entropy.double() + (exact.exp() * exact).sum(-1)).abs().max() < 64 * eps * largest


def test_an_entropy_that_no_one_reads_is_not_worked_out(monkeypatch):
    "And the logits' second making stops before the sums."
    model = Model(11, PLAIN)
    hidden, targets, pull = draw(11)
    seen = []
    summarize = logprobs._summarize

    def watched(logits, targets, temperature, entropies):
        seen.append(entropies)
        return summarize(logits, targets, temperature, entropies)

    monkeypatch.setattr(logprobs, "_summarize", watched)
    read = gradients(model, hidden, targets, pull, lambda h, t: token_logps(model, h, t, chunk_elements=44))
    assert seen == [True] * 4, "a chunk was summed twice"
    unread = gradients(
        model, hidden, targets, pull, lambda h, t: token_logps(model, h, t, chunk_elements=44, entropies=False)
    )
    assert seen[4:] == [False] * 4 and torch.equal(unread[1], torch.zeros(M)) and read[1].min() > 0
    for i in (0, 2, 3):
        assert torch.equal(read[i], unread[i])


@pytest.mark.parametrize("chunk", [2**24, 44])
def test_a_graph_may_be_gone_through_twice(chunk):
    model = Model(11, PLAIN)
    hidden, targets, pull = draw(11)
    logps, _ = token_logps(model, hidden.requires_grad_(), targets, chunk_elements=chunk)
    first = torch.autograd.grad(logps, hidden, pull, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(logps, hidden, pull)[0], first)
