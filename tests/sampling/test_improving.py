"""Blockwise decoding with a critic: its ends, its choices, its bill, its three critics, and what it refuses."""

import math
from functools import partial

import pytest
import torch

from mpo_nb.blocks import delimiter_blocks, sequence_block
from mpo_nb.models import load
from mpo_nb.models.critic import Critic
from mpo_nb.models.logprobs import response_logps
from mpo_nb.sampling import (
    Candidate,
    HeadCritic,
    Improvement,
    Judged,
    ModelSampler,
    SampledCritic,
    SamplingOptions,
    fit_outcome_critic,
    improve,
    outcome_logits,
    rollout,
    verdict_odds,
)
from mpo_nb.sampling.improving import action_logps, decide, first_actions
from mpo_nb.tasks import load_task

STEPS = partial(delimiter_blocks, ends=";")
PROMPTS = ["7+5-3+8?", "4-2+5+1?", "0+8-5+0?"]
WHOLE = dict(max_new_tokens=40)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", precision="float32", quiet=True)


@pytest.fixture(scope="module")
def task():
    return load_task("chain_sum")


def indifferent(candidates):
    return Judged([0.0] * len(candidates), [0] * len(candidates))


def shortest(candidates):
    "Likes short responses, and bills three tokens for saying so."
    return Judged([-len(c.written) for c in candidates], [3] * len(candidates))


def whole_block(mask, tokens):
    return sequence_block(mask)


@pytest.mark.parametrize("blocks, stop", [(4, ()), (STEPS, (";",)), (STEPS, ()), (whole_block, ()), (1, ())])
def test_actions_are_blocks_and_join_to_the_response(tiny, blocks, stop):
    how = Improvement(indifferent, 0, choose="draw")
    for response in improve(*tiny, PROMPTS, how, blocks, 3, stop=stop, **WHOLE):
        chosen = [d.actions[d.chosen] for d in response.decisions]
        assert sum(chosen, ()) == response.ids and response.finished
        assert response.text == tiny[1].decode(response.ids[:-1])
        if blocks is whole_block:
            assert len(chosen) == 1
        elif isinstance(blocks, int):
            assert all(len(action) == blocks for action in chosen[:-1])
        else:
            assert all(tiny[1].decode(action).count(";") == 1 for action in chosen[:-1])
            assert [tiny[1].decode(action)[-1] for action in chosen[:-1]] == [";"] * len(chosen[:-1])
        for d in response.decisions:
            assert len(set(d.actions)) == len(d.actions) == len(d.counts) and int(d.counts.sum()) == 3
            torch.testing.assert_close(d.logps, d.prior.log_softmax(0), rtol=0, atol=0)


def test_a_stop_spares_tokens_and_changes_no_action(tiny):
    "Steps that are drawn up to ';' are those that are cut there: the same draws, at another price."
    how = Improvement(indifferent, 0)
    short, long = (improve(*tiny, PROMPTS, how, STEPS, 4, stop=stop, **WHOLE) for stop in ((";",), ()))
    for a, b in zip(short, long):
        assert a.decisions[0].actions == b.decisions[0].actions and a.tokens < b.tokens


def test_prior_is_the_policys_own_log_probability(tiny):
    "Sum over the action's tokens, or their mean; as `response_logps` has it for the whole response."
    model, tokenizer = tiny
    (response,) = improve(model, tokenizer, PROMPTS[:1], Improvement(indifferent, 0), 4, 1, **WHOLE)
    prompt, ids = torch.tensor([response.prompt]), torch.tensor([response.ids])
    logps, _ = response_logps(model, prompt, torch.ones_like(prompt), ids, torch.ones_like(ids))
    per_block = [part.double().sum() for part in logps[0].detach().split(4)]
    for d, expected in zip(response.decisions, per_block, strict=True):
        torch.testing.assert_close(d.prior[d.chosen], expected, rtol=0, atol=2e-5)
    candidates = [Candidate(0, response.prompt, response.ids[:n], 3, False) for n in (3, 6)]
    total, mean = (action_logps(model, tokenizer, candidates, reduce=reduce) for reduce in ("sum", "mean"))
    torch.testing.assert_close(mean, total / 3)
    warm = action_logps(model, tokenizer, candidates, temperature=2.0)
    assert not torch.allclose(warm, total)


def test_alpha_from_the_prior_to_the_critic_alone(tiny):
    at = {
        alpha: improve(*tiny, PROMPTS, Improvement(shortest, alpha), whole_block, 16, **WHOLE)
        for alpha in (0, math.inf)
    }
    for plain, critic in zip(at[0], at[math.inf]):
        d = plain.decisions[0]
        assert d.chosen == int(d.prior.argmax())
        assert len(critic.ids) == min(map(len, d.actions)) and critic.decisions[0].actions == d.actions
        best = [a for a in range(len(d.actions)) if len(d.actions[a]) == len(critic.ids)]
        assert critic.decisions[0].chosen == max(best, key=lambda a: float(d.prior[a])), "of equals, the likeliest"


def test_the_bill(tiny):
    "All drawn tokens, those behind the block's end too, and the critic's for each distinct candidate."
    how = Improvement(shortest, 1.0)
    (response,) = improve(*tiny, PROMPTS[:1], how, whole_block, 6, **WHOLE)
    d = response.decisions[0]
    drawn = sum(len(action) * int(n) for action, n in zip(d.actions, d.counts))
    assert response.tokens == drawn + 3 * len(d.actions)


def test_weights_of_draws_and_choice():
    actions = [(1,), (2,), (3,)]
    counts, logps, q = torch.tensor([5, 2, 1]), torch.tensor([-9.0, -1.0, -2.0]).double(), torch.zeros(3).double()
    as_set, as_draws = (
        decide(Improvement(indifferent, 1, w), actions, counts, logps, q, 0) for w in ("policy", "draws")
    )
    assert as_set.chosen == 1 and as_draws.chosen == 0
    torch.testing.assert_close(as_draws.logps.exp(), torch.tensor([5, 2, 1]).double() / 8)
    how = Improvement(indifferent, 1, "draws", choose="draw")
    picked = [decide(how, actions, counts, logps, q, (i + 0.5) / 8).chosen for i in range(8)]
    assert picked == [0] * 5 + [1] * 2 + [2]


def test_seeds(tiny):
    how = Improvement(indifferent, 0, choose="draw")
    first, again, other = (improve(*tiny, PROMPTS, how, 4, 4, seed=seed, **WHOLE) for seed in (1, 1, 2))
    first, again, other = ([[d.actions for d in r.decisions] for r in some] for some in (first, again, other))
    assert first == again != other


def test_drawn_at_alpha_0_by_counts_is_the_policy_itself(tiny):
    "The share of right first steps among single draws, and after an improvement by nothing: equal, within noise."
    plain = rollout(*tiny, PROMPTS[:1], 400, 8, seed=3, stop=(";",))
    how = Improvement(indifferent, 0, "draws", choose="draw")
    chosen = improve(*tiny, PROMPTS[:1] * 200, how, STEPS, 3, max_new_tokens=8, stop=(";",), seed=4)
    a, b = (
        sum(t.startswith("7+5=12") for t in texts) / len(texts) for texts in (plain.texts, [r.text for r in chosen])
    )
    assert 0.5 < a < 0.95 and abs(a - b) < 4 * math.sqrt(0.25 * (1 / 400 + 1 / 200))


def test_limit_of_the_response(tiny):
    (response,) = improve(*tiny, PROMPTS[:1], Improvement(indifferent, 0), 4, 2, max_new_tokens=6)
    assert len(response.ids) == 6 and not response.finished
    assert [len(d.actions[d.chosen]) for d in response.decisions] == [4, 2]


def test_sampled_critic(tiny, task):
    "Exact for what has ended; a right step is worth more than a wrong one; known places cost no second call."
    model, tokenizer = tiny
    problem = dict(prompt="7+5-3+8?", answer="17")
    critic = SampledCritic(model, tokenizer, task, [problem], continuations=16, max_new_tokens=40, seed=1)
    prompt = tuple(tokenizer(problem["prompt"]).input_ids)

    def place(text, ended=False):
        ids = tuple(tokenizer(text, add_special_tokens=False).input_ids) + (tokenizer.eos_token_id,) * ended
        return Candidate(0, prompt, ids, len(ids), ended)

    over = critic([place("7+5=12;12-3=9;9+8=17#17", True), place("7+5=12;12-3=9;9+8=18#18", True)])
    assert over.q == pytest.approx([math.log(33), -math.log(33)]) and over.tokens == [0, 0]
    half = [place("7+5=12;"), place("7+5=14;")]
    first = critic(half)
    assert first.q[0] > first.q[1] and min(first.tokens) > 16
    critic.sampler = None  # what was finished is not finished again
    assert critic(half) == first


def test_head_critic_reads_after_the_last_token(tiny):
    "One number for each place, the same alone and in a batch, shared trunk and own; it does not see what follows."
    model, tokenizer = tiny
    prompt = tuple(tokenizer("7+5-3+8?").input_ids)
    written = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in ("7+5=12;", "7+", "7+5=12;12")]
    candidates = [Candidate(0, prompt, ids, len(ids), False) for ids in written]
    for trunk in ("shared", "separate"):
        critic = Critic(model, trunk)
        torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
        judge = HeadCritic(model, tokenizer, critic)
        together = judge(candidates)
        assert together.tokens == [0, 0, 0] and len(set(together.q)) == 3
        for candidate, q in zip(candidates, together.q):
            assert judge([candidate]).q == pytest.approx([q], abs=1e-4)
        row = torch.tensor([written[2]])
        along = outcome_logits(critic, model, torch.tensor([prompt]), torch.ones(1, len(prompt)).bool(), row, row >= 0)
        assert along.shape == (1, len(written[2]) + 1)
        assert [float(along[0, len(ids)].detach()) for ids in written] == pytest.approx(together.q, abs=1e-4)


def test_fit_learns_what_can_be_seen(tiny):
    "An outcome that the first digit tells: the head finds it, and the policy stays as it was."
    model, tokenizer = tiny
    before = {name: x.clone() for name, x in model.state_dict().items()}
    r = rollout(model, tokenizer, PROMPTS, 24, 12, seed=0)
    outcome = torch.tensor([float(text[:1] == "7") for text in r.texts])
    critic = Critic(model)
    losses = fit_outcome_critic(critic, model, r, outcome, steps=60, minibatch=16, lr=1e-2)
    assert sum(losses[-10:]) / 10 < 0.75 * losses[0]
    logits = outcome_logits(critic, model, r.prompt_ids, r.prompt_mask, r.ids, r.mask)[:, 0]
    assert ((logits > 0).float() == outcome).float().mean() > 0.95, "after the prompt it can be known"
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    with pytest.raises(ValueError, match="all alike"):
        fit_outcome_critic(critic, model, r, torch.ones(72))
    with pytest.raises(ValueError, match=r"give 0 or 1 for each of 72 rows"):
        fit_outcome_critic(critic, model, r, [1, 0])


def test_verdict_odds_are_log_probabilities(tiny):
    model, tokenizer = tiny
    texts = ["7+5-3+8?7+5=1", "7+6-3+8?7+6=1", "4?"]
    odds = verdict_odds(model, tokenizer, texts, "2", "3", rows=2)
    for text, q in zip(texts, odds):
        with torch.no_grad():
            p = model(torch.tensor([tokenizer(text).input_ids])).logits[0, -1].softmax(-1)
        good, bad = (float(p[tokenizer.convert_tokens_to_ids(word)]) for word in "23")
        assert float(q.sigmoid()) == pytest.approx(good / (good + bad), abs=1e-5)
    with pytest.raises(ValueError, match="whose first tokens differ"):
        verdict_odds(model, tokenizer, texts, "23", "2")
    with pytest.raises(ValueError, match="which the tokenizer knows"):
        verdict_odds(model, tokenizer, texts, "good", "2")


def test_another_sampler(tiny):
    "Candidates may come from elsewhere: here, from a sampler that knows one answer."
    model, tokenizer = tiny
    inner = ModelSampler(model, tokenizer, list, SamplingOptions(40))

    class One:
        def finish(self, starts, rooms, continuations, seed):
            assert continuations == 2
            return inner.finish(starts, rooms, continuations, 0)

    a, b = (
        improve(*tiny, PROMPTS[:1], Improvement(indifferent, 0), 4, 2, seed=s, sampler=One(), **WHOLE) for s in (1, 2)
    )
    assert a[0].ids == b[0].ids


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(alpha=-1.0), "alpha=-1.0"),
        (dict(critic=3), "critic=3; pass a function"),
        (dict(weights="prior"), "weights='prior'; choose one of policy, draws"),
        (dict(reduce="max"), "reduce='max'; choose one of sum, mean"),
        (dict(choose="best"), "choose='best'; choose one of likeliest, draw"),
        (dict(candidates=0), "candidates=0"),
        (dict(max_new_tokens=0), "max_new_tokens=0"),
        (dict(action_tokens=0), "action_tokens=0"),
        (dict(blocks=0), "blocks=0"),
        (dict(blocks="step"), "blocks='step'; pass a number of tokens, or a rule"),
        (dict(blocks=True), "blocks=True"),
        (dict(blocks=lambda mask, tokens: mask), "ids has shape"),
        (dict(blocks=4, action_tokens=0), "action_tokens=0"),
        (dict(blocks=lambda mask, tokens: mask.long()), "row 0 ids that begin with 1; the first block of every row"),
        (dict(blocks=lambda mask, tokens: 0 * mask.long() - 1), "row 0 ids that begin with -1"),
        (dict(blocks=lambda mask, tokens: 0 * mask[:, :1].long()[:0]), "blocks gave ids of shape"),
        (dict(critic=lambda candidates: None), r"critic gave None, of type NoneType; it must give Judged\(q, tokens\)"),
        (dict(critic=lambda candidates: [0.0] * len(candidates)), "of type list; it must give Judged"),
        (dict(critic=lambda candidates: Judged(None, [0] * len(candidates))), "critic gave q=None"),
        (dict(critic=lambda candidates: Judged(["a"] * len(candidates), [0] * len(candidates))), "critic gave q="),
        (dict(critic=lambda candidates: Judged([1j] * len(candidates), [0] * len(candidates))), "one real number"),
        (dict(critic=lambda candidates: Judged([0.0] * len(candidates), None)), "critic gave tokens=None"),
        (dict(critic=lambda candidates: Judged([0.0] * len(candidates), [-1] * len(candidates))), "tokens="),
        (dict(prompts=[]), "prompts is empty"),
        (dict(prompts=["1" * 300]), "context"),
        (dict(stop=";"), "stop=';' is one text"),
        (dict(critic=lambda candidates: Judged([0.0] * 9, [0])), "critic gave values of shape"),
        (
            dict(critic=lambda candidates: Judged([math.nan] * len(candidates), [0] * len(candidates))),
            "one finite number",
        ),
    ],
)
def test_bad_input_is_named(tiny, change, words):
    improvement = {"critic", "alpha", "weights", "reduce", "choose"} & change.keys()
    settings = dict(critic=indifferent, alpha=1.0) | {name: change[name] for name in improvement}
    rest = dict(prompts=PROMPTS[:1], blocks=STEPS, candidates=3, max_new_tokens=12)
    rest |= {name: value for name, value in change.items() if name not in improvement}
    with pytest.raises(ValueError, match=words):
        improve(*tiny, how=Improvement(**settings), **rest)


def test_cut_at_the_first_boundary(tiny):
    _, tokenizer = tiny
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in ("1+1=2;2", ";", "1+", "12;34;")]
    assert [tokenizer.decode(ids) for ids in first_actions(tokenizer, rows, STEPS)] == ["1+1=2;", ";", "1+", "12;"]
    assert [len(ids) for ids in first_actions(tokenizer, rows, 3)] == [3, 1, 2, 3]


def test_a_first_block_that_comes_back_is_refused(tiny):
    row = [[5, 6, 7, 8, 9]]
    with pytest.raises(ValueError, match=r"row 0 the ids \[0, 1, 0, 1, 0\], where 0 comes back"):
        first_actions(tiny[1], row, lambda mask, tokens: torch.tensor([[0, 1, 0, 1, 0]]))
    padded = first_actions(
        tiny[1], [*row, [5, 6]], lambda mask, tokens: torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]])
    )
    assert padded == [(5, 6), (5,)], "what a rule says of padding does not count"


def test_critics_say_at_once_what_does_not_fit(tiny, task):
    class Never:
        def finish(self, *given):
            raise AssertionError("tokens were drawn")

    critic = SampledCritic(*tiny, task, task.train[:2], 2, 40)
    with pytest.raises(ValueError, match="problems has 2 problems for 3 prompts"):
        improve(*tiny, PROMPTS, Improvement(critic, 1.0), 4, sampler=Never(), **WHOLE)
    with pytest.raises(ValueError, match="problems has 2 problems for 6 prompts"):
        critic([Candidate(5, (5,), (6,), 1, False)])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        SampledCritic(*tiny, task, task.train[:2], 2, 0)
    with pytest.raises(ValueError, match="rows=0"):
        HeadCritic(*tiny, Critic(tiny[0], "separate"), rows=0)
    for texts, rows, words in (([], 8, r"texts=\[\]; pass a list"), ("1+1", 8, "texts='1\\+1'"), (["1"], 0, "rows=0")):
        with pytest.raises(ValueError, match=words):
            verdict_odds(*tiny, texts, "2", "3", rows)
