"""Drafts change what sampling costs, and not what it draws: the distribution is counted exactly where that can be done,
and compared with the enumerated one where a model draws."""

import copy
import itertools
from typing import NamedTuple

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from mpo_nb.models.logprobs import response_logps
from mpo_nb.models.mtp import MTPModules
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.sampling.rollouts import rollout, top_k_top_p
from mpo_nb.sampling.speculating import Context, Gain, Speculation, rows_that_gain
from mpo_nb.sampling.verifying import acceptance_probability, tokens_per_pass, verify

V, K = 5, 2
FORMS = [dict(merge="none"), dict(merge="eh_proj", head="shared")]
PROMPTS = ["7+5-3?", "2+9+4-6+1?", "1+1?"]


# The rule, with nothing left to chance


def tables(seed: int, chained: bool, zeros: bool):
    "A policy's distributions of three tokens and a drafter's of the second and third, float64."
    g = torch.Generator().manual_seed(seed)

    def rows(*shape):
        x = torch.rand(*shape, V, generator=g, dtype=torch.float64)
        if zeros:  # as top-k and top-p leave them
            x = x * (torch.rand(*shape, V, generator=g) < 0.6)
            x[..., 0] += 0.1
        return x / x.sum(-1, keepdim=True)

    p = rows(), rows(V), rows(V, V)
    second = rows(V) if chained else rows().expand(V, V)
    return p, (rows(), second)


class Outcome(NamedTuple):
    "A group of outcomes of a pass, by how many drafts stand."

    weight: torch.Tensor  # (m,) probability
    drafts: torch.Tensor  # (m, K) which were drawn
    token: torch.Tensor  # (m,) behind those that stand


def outcomes(p, q, rule=verify) -> list[Outcome]:  # for 0, 1, ... K drafts that stand
    """Every outcome of a pass of `verify`: a uniform number is taken from the middle of each interval in which nothing
    changes, and the intervals are found by the formulas, not by the code."""
    x = torch.cartesian_prod(torch.arange(V), torch.arange(V))  # (n, K)
    first = x[:, 0]
    drafts = torch.stack([q[0].expand(len(x), V), q[1][first]], 1)  # (n, K, V)
    wanted = torch.stack([p[0].expand(len(x), V), p[1][first], p[2][first, x[:, 1]]], 1)  # (n, K + 1, V)
    drawn = drafts.gather(-1, x[..., None])[..., 0]  # (n, K)
    stands = (wanted[:, :K].gather(-1, x[..., None])[..., 0] / drawn).clamp(max=1)  # (n, K)
    parts = []
    for choice in itertools.product((True, False), repeat=K):
        yes = torch.tensor(choice)
        widths = torch.where(yes, stands, 1 - stands)  # (n, K)
        middles = torch.where(yes, stands / 2, (1 + stands) / 2)  # (n, K)
        n = choice.index(False) if False in choice else K
        rest = (wanted[:, n] - drafts[:, n]).clamp(min=0) if n < K else wanted[:, n]  # (n, V)
        rest = rest / rest.sum(-1, keepdim=True)
        behind = rest.cumsum(-1) - rest / 2  # (n, V)
        weight = (drawn.prod(-1) * widths.prod(-1))[:, None] * rest  # (n, V); nan where nothing is drawn or left
        at, _ = there = (weight > 0).nonzero(as_tuple=True)
        parts.append((weight[there], x[at], drafts[at], wanted[at], middles[at], behind[there]))
    weight, drawn, drafts, wanted, middles, behind = (torch.cat(x) for x in zip(*parts))
    accepted, token = rule(drawn, drafts, wanted, middles, behind[:, None].expand(-1, K + 1))
    return [Outcome(weight[accepted == n], drawn[accepted == n], token[accepted == n]) for n in range(K + 1)]


def three_tokens(p, groups: list[Outcome]):  # (V, V, V)
    "The distribution of three tokens: those of a pass, and behind them what the policy draws."
    none, one, both = groups
    out = torch.zeros(V, V, V, dtype=torch.float64)
    rest = p[1][none.token][..., None] * p[2][none.token]  # (m, V, V)
    out.index_add_(0, none.token, none.weight[:, None, None] * rest)
    first = one.drafts[:, 0]
    out.index_put_((first, one.token), one.weight[:, None] * p[2][first, one.token], accumulate=True)
    return out.index_put_((*both.drafts.T, both.token), both.weight, accumulate=True)


def all_stand(drawn, drafts, wanted, middles, behind):
    "A wrong rule."
    return verify(drawn, drafts, wanted.clamp(min=1e-9), torch.zeros_like(middles), behind)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_three_tokens_have_the_policys_distribution(seed, chained, zeros):
    p, q = tables(seed, chained, zeros)
    truth = p[0][:, None, None] * p[1][:, :, None] * p[2]
    assert_close(three_tokens(p, outcomes(p, q)), truth, atol=1e-12, rtol=0)
    wrong = three_tokens(p, outcomes(p, q, all_stand))
    assert (wrong.sum((1, 2)) - p[0]).abs().max() > 0.05  # the count sees a rule that lets every draft stand
    assert_close(wrong.sum((1, 2)), q[0], atol=1e-12, rtol=0)


def test_what_is_expected_is_what_is_counted():
    "1 - TV is the share of first drafts that stand, and the shares by depth give the tokens of a pass."
    p, q = tables(4, True, False)
    shares = torch.stack([group.weight.sum() for group in outcomes(p, q)])
    stood = shares.flip(0).cumsum(0).flip(0)[1:]  # at least one, at least two
    assert_close(stood[0], acceptance_probability(q[0], p[0]), atol=1e-12, rtol=0)
    length = (shares * torch.arange(1.0, K + 2)).sum()
    assert_close(length, tokens_per_pass(torch.stack([stood[0], stood[1] / stood[0]])), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draft_from_the_policy_always_stands(dtype):
    "The largest number that torch draws is 1 - 2**-24 in single precision."
    g = torch.Generator().manual_seed(0)
    p = torch.rand(2000, 3, V, generator=g, dtype=dtype).softmax(-1)
    tokens = torch.randint(V, (2000, 2), generator=g)
    u = torch.full((2000, 2), 1 - 2**-24, dtype=torch.float32)
    said = verify(tokens, p[:, :2], p, u, torch.rand(2000, 3, generator=g))
    assert (said.accepted == 2).all()


def test_disjoint_drafts_never_stand():
    g = torch.Generator().manual_seed(0)
    draft = torch.zeros(500, 2, V)
    draft[..., :2] = torch.rand(500, 2, 2, generator=g).softmax(-1)
    target = torch.zeros(500, 3, V)
    target[..., 2:] = torch.rand(500, 3, 3, generator=g).softmax(-1)
    said = verify(torch.randint(2, (500, 2), generator=g), draft, target, torch.zeros(500, 2), torch.rand(500, 3))
    assert (said.accepted == 0).all() and (said.token >= 2).all()


def test_no_drafts_are_a_draw_from_the_policy():
    target = torch.tensor([[[0.25, 0.0, 0.75]]]).expand(3, 1, 3)
    numbers = torch.tensor([[0.0], [0.25], [1 - 2**-24]])
    said = verify(torch.zeros(3, 0, dtype=torch.long), target[:, :0], target, numbers[:, :0], numbers)
    assert said.accepted.tolist() == [0, 0, 0] and said.token.tolist() == [0, 2, 2]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"tokens has shape \(1, 2\)"):
        verify(torch.zeros(1, 2).long(), torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 2), torch.ones(1, 3))


# Modules that draft for a model of two layers, whose responses end at every length


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
    ends = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.15, **size, **ends)
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="module", params=FORMS, ids=["parallel", "chained"])
def modules(request, tiny):
    "Copies of the last layer: some of their drafts stand."
    torch.manual_seed(0)
    return MTPModules(tiny[0], 4, **request.param)


LOOSE = dict(temperature=2.0, top_k=3)


def test_greedy_responses_are_those_without_drafts(tiny, modules):
    plain = rollout(*tiny, PROMPTS, 2, 32, greedy=True)
    drafted = rollout(*tiny, PROMPTS, 2, 32, greedy=True, decoder=Speculation(modules))
    assert drafted.texts == plain.texts and torch.equal(drafted.finished, plain.finished)
    assert_close(drafted.logps, plain.logps, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", [dict(), LOOSE, dict(temperature=1.5, top_p=0.9), dict(temperature=0.7)])
def test_log_probabilities_are_the_policys(tiny, modules, how):
    r = rollout(*tiny, PROMPTS, 4, 24, decoder=Speculation(modules), **how)
    ours, _ = response_logps(tiny[0], r.prompt_ids, r.prompt_mask, r.ids, r.mask, how.get("temperature", 1.0))
    assert_close(r.logps, ours, atol=1e-4, rtol=0)
    assert (r.ids[~r.mask] == tiny[1].pad_token_id).all() and (r.logps[~r.mask] == 0).all()


def test_the_same_seed_gives_the_same_responses_in_any_batch(tiny, modules):
    "Rows that leave, rows that are drawn alone, and caches that are gathered anew change nothing."
    speculation = Speculation(modules)
    whole = rollout(*tiny, PROMPTS, 4, 24, seed=3, decoder=speculation, **LOOSE)
    assert min(speculation.counts.accepted) > 0
    assert rollout(*tiny, PROMPTS, 4, 24, seed=3, decoder=speculation, max_rows=3, **LOOSE).texts == whole.texts
    last = rollout(*tiny, PROMPTS[2:], 4, 24, seed=3, decoder=speculation, places=[2], **LOOSE)
    assert last.texts == whole.texts[8:]
    assert rollout(*tiny, PROMPTS, 4, 24, seed=4, decoder=speculation, **LOOSE).texts != whole.texts


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_holes_change_nothing(tiny, modules, least, monkeypatch):
    whole = rollout(*tiny, PROMPTS, 4, 24, seed=3, decoder=Speculation(modules), **LOOSE)
    monkeypatch.setattr(Context.without_holes, "__defaults__", (least,))
    assert rollout(*tiny, PROMPTS, 4, 24, seed=3, decoder=Speculation(modules), **LOOSE).texts == whole.texts


def test_a_stop_string_ends_a_response_within_a_pass(tiny, modules):
    free = rollout(*tiny, PROMPTS, 8, 24, seed=1, decoder=Speculation(modules), **LOOSE)
    stopped = rollout(*tiny, PROMPTS, 8, 24, seed=1, decoder=Speculation(modules), stop=[";5", "9"], **LOOSE)
    ended = 0
    for text, short, n in zip(free.texts, stopped.texts, stopped.lengths.tolist()):
        ends = [text.find(s) + len(s) for s in (";5", "9") if s in text]
        assert short == (text[: min(ends)] if ends else text)
        ended += bool(ends)
    assert ended > 5 and stopped.finished.sum() >= ended


def test_drafts_may_begin_late(tiny, modules):
    "Until then the tokens are those that are drawn without drafts, and with 0 rows they are all."
    plain = rollout(*tiny, PROMPTS, 4, 32, seed=2)
    speculation = Speculation(modules)
    speculation.rows = 0
    never = rollout(*tiny, PROMPTS, 4, 32, seed=2, decoder=speculation)
    assert torch.equal(never.ids, plain.ids) and torch.equal(never.logps, plain.logps)
    speculation.rows = 4
    late = rollout(*tiny, PROMPTS, 4, 32, seed=2, decoder=speculation)
    lengths = plain.lengths.sort().values
    switch = int(lengths[-5])  # five rows are longer or as long: up to here nobody drafts
    assert torch.equal(late.ids[:, :switch], plain.ids[:, :switch]) and speculation.counts.passes > 0
    ours, _ = response_logps(tiny[0], late.prompt_ids, late.prompt_mask, late.ids, late.mask)
    assert_close(late.logps, ours, atol=1e-4, rtol=0)


def enumerated(model, tokenizer, prompt: str, length: int, temperature: float, top_k: int) -> dict:
    "Every response of at most `length` tokens, and its probability."
    start = tokenizer(prompt, return_tensors="pt").input_ids[0].tolist()
    found, open_ = {}, {(): 1.0}
    for step in range(length):
        logits = model(torch.tensor([start + list(ids) for ids in open_])).logits[:, -1] / temperature
        after = {}
        for (ids, weight), row in zip(open_.items(), top_k_top_p(logits, 1.0, top_k).softmax(-1)):
            for token in row.nonzero()[:, 0].tolist():
                ended = token == tokenizer.eos_token_id or step + 1 == length
                (found if ended else after)[(*ids, token)] = weight * float(row[token])
        open_ = after
    return found


@torch.no_grad()
def test_responses_have_the_policys_distribution(tiny, modules):
    "2000 responses of four tokens against all that there are. A quarter as many drafts stood."
    n = 2000
    truth = enumerated(*tiny, PROMPTS[0], 4, 2.0, 3)
    assert abs(sum(truth.values()) - 1) < 1e-5
    speculation = Speculation(modules)
    r = rollout(*tiny, PROMPTS[:1], n, 4, seed=5, max_rows=n, decoder=speculation, **LOOSE)
    seen = dict.fromkeys(truth, 0)
    for ids, m in zip(r.ids.tolist(), r.lengths.tolist()):
        seen[tuple(ids[:m])] += 1
    common = [x for x in truth if n * truth[x] >= 5]
    rest = n * (1 - sum(truth[x] for x in common)), n - sum(seen[x] for x in common)
    chi2 = sum((seen[x] - n * truth[x]) ** 2 / (n * truth[x]) for x in common) + (rest[1] - rest[0]) ** 2 / rest[0]
    freedom = len(common)
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5, (chi2, freedom)  # four standard deviations
    assert sum(speculation.counts.accepted) > n / 4
    counts = speculation.counts
    for drafted, accepted, expected in zip(counts.drafted, counts.accepted, counts.expected):
        assert abs(accepted - expected) < 4 * drafted**0.5 / 2


def test_the_shortest_prompt(tiny, modules):
    "One token, fewer than the chain is deep."
    plain = rollout(*tiny, [[5], [5, 6, 7, 8]], 1, 16, greedy=True)
    assert rollout(*tiny, [[5], [5, 6, 7, 8]], 1, 16, greedy=True, decoder=Speculation(modules)).texts == plain.texts


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("longest", [1, 2, 3, 5])
def test_a_response_is_never_longer_than_it_may_be(tiny, k, longest):
    "The limit falls into a pass at every place."
    torch.manual_seed(0)
    speculation = Speculation(MTPModules(tiny[0], k))
    how = dict(max_new_tokens=longest, greedy=True)
    assert torch.equal(
        rollout(*tiny, PROMPTS, 3, decoder=speculation, **how).ids, rollout(*tiny, PROMPTS, 3, **how).ids
    )
    drawn = rollout(*tiny, PROMPTS, 20, longest, decoder=speculation)
    assert drawn.lengths.max() == longest and drawn.lengths.min() == 1
    ends = drawn.ids.gather(1, drawn.lengths[:, None] - 1)[:, 0] == tiny[1].eos_token_id
    assert torch.equal(drawn.finished, ends)
    assert ((drawn.ids == tiny[1].eos_token_id) & drawn.mask).sum() == ends.sum()  # nothing behind an end


def test_the_likeliest_token_of_one_is_greedy(tiny, modules):
    best = rollout(*tiny, PROMPTS, 2, 24, greedy=True)
    assert rollout(*tiny, PROMPTS, 2, 24, top_k=1, decoder=Speculation(modules)).texts == best.texts


@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_weights_of_half_precision(tiny, modules, dtype, error):
    model = copy.deepcopy(tiny[0]).to(dtype)
    halves = MTPModules(model, 4, **{x: modules.options[x] for x in ("merge", "head")})
    halves.load_state_dict(modules.state_dict())
    speculation = Speculation(halves)
    r = rollout(model, tiny[1], PROMPTS, 4, 24, decoder=speculation)
    with torch.no_grad():
        ours, _ = response_logps(model, r.prompt_ids, r.prompt_mask, r.ids, r.mask)
    assert_close(r.logps, ours, atol=error, rtol=0)
    assert speculation.counts.accepted[0] > 0


def test_adapters_are_part_of_the_policy(tiny, modules):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        copy.deepcopy(tiny[0]), peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    beside = MTPModules(adapted, 4, **{x: modules.options[x] for x in ("merge", "head")})
    plain = rollout(adapted, tiny[1], PROMPTS, 2, 24, greedy=True)
    drafted = rollout(adapted, tiny[1], PROMPTS, 2, 24, greedy=True, decoder=Speculation(beside))
    assert drafted.texts == plain.texts != rollout(*tiny, PROMPTS, 2, 24, greedy=True).texts


# When drafts are drawn


def test_auto_drafts_nothing_before_it_has_measured(tiny, modules):
    plain = rollout(*tiny, PROMPTS, 2, 16)
    speculation = Speculation(modules, "auto")
    assert torch.equal(rollout(*tiny, PROMPTS, 2, 16, decoder=speculation).ids, plain.ids)
    assert not speculation.gains
    speculation.refresh()
    rollout(*tiny, PROMPTS, 2, 16, decoder=speculation)
    assert [gain.rows for gain in speculation.gains][:2] == [1, 2]
    assert all(gain.step > 0 and gain.drafting > gain.step / 2 for gain in speculation.gains)
    measured = speculation.gains
    rollout(*tiny, PROMPTS, 2, 16, decoder=speculation)
    assert speculation.gains is measured  # once


def test_the_number_of_rows_is_the_largest_that_gains():
    gains = [Gain(1, 1.0, 1.5), Gain(2, 1.0, 1.8), Gain(4, 1.0, 2.5)]
    assert [rows_that_gain(gains, tokens) for tokens in (1.0, 1.6, 2.0, 3.0)] == [0, 1, 2, 4]
    assert rows_that_gain([], 3.0) == 0


def test_what_cannot_draft_is_refused(tiny, modules):
    with pytest.raises(ValueError, match="speculate='on' is not possible: k=1"):
        Speculation(MTPModules(tiny[0], 1))
    with pytest.raises(ValueError, match="decoding='compiled'.*decoding='dynamic'"):
        Speculation(modules, "auto", "compiled")
    with pytest.raises(ValueError, match="speculate='maybe'"):
        Speculation(modules, "maybe")
    size = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=11)
    window = MistralForCausalLM(MistralConfig(**size, num_key_value_heads=1, sliding_window=8))
    with pytest.raises(ValueError, match="the cache of MistralForCausalLM"):
        Speculation(MTPModules(window, 2))
    Speculation(MTPModules(window, 2), "off")
