"""Each recipe against a loop written from its paper's formula, from rewards to gradient. The limits in which recipes
meet stand in tests/invariant/test_identities.py."""

import copy
import math
import pickle
import re
from dataclasses import FrozenInstanceError, dataclass, fields, replace

import pytest
import reference as ref
import torch
from batches import AWKWARD, close, draw_batch, generator, leaf, poison, ragged_ids, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_batches import GROUP, LONGEST, ROWS, batches, draw, outcomes, run, same

from mpo_nb.actions import WindowActions
from mpo_nb.advantages import critic_targets
from mpo_nb.blocks import entropy_blocks, fixed_blocks, random_blocks, surprise_blocks, turn_blocks
from mpo_nb.losses import loss_normalizer
from mpo_nb.recipes import (
    AdvantageRule,
    CriticAdvantage,
    FutureWeight,
    GroupAdvantage,
    LearntBlocks,
    LeaveOneOut,
    OrderedAdvantage,
    SampledValues,
    action_blocks,
    advantage_rules,
    recipe,
    recipes,
)

# --- the formulas: (log pi, delta, A) of every response, as lists over its kept tokens -> objective
# --------------------


def pc(ratio, A, low, high):
    "min(r A, clip(r, 1 - low, 1 + high) A)."
    bounded = (
        ratio if 1 - low <= ratio <= 1 + high else torch.tensor(1 - low if ratio < 1 else 1 + high, dtype=torch.double)
    )
    return min(ratio * A, bounded * A)


def mean(values):
    return sum(values) / len(values) if len(values) else 0.0


def grpo(rows):
    return mean([mean([pc(torch.exp(d), A, 0.2, 0.2) for d in delta]) for _, delta, A in rows])


def mpo(rows, beta=(0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3), joint=False):
    def window(delta, t):
        terms = [(b, d) for b, d in zip(beta, delta[t:])]
        total = sum(b * d for b, d in terms)
        return torch.exp(total if joint else total / sum(b for b, _ in terms))

    return mean([mean([pc(window(delta, t), A, 0.2, 0.2) for t in range(len(delta))]) for _, delta, A in rows])


def dr_grpo(rows):
    return sum(pc(torch.exp(d), A, 0.2, 0.2) for _, delta, A in rows for d in delta) / (ROWS * LONGEST)


def dapo(rows):
    tokens = [pc(torch.exp(d), A, 0.2, 0.28) for _, delta, A in rows for d in delta]
    return mean(tokens)


def gspo(rows):
    return mean([pc(torch.exp(mean(delta)), A, 3e-4, 4e-4) if delta else 0.0 for _, delta, A in rows])


def gspo_token(rows):
    def tokens(logp, delta, A):
        s = torch.exp(mean(delta)).detach() if delta else None
        return mean([pc(s * torch.exp(l) / torch.exp(l).detach(), A, 3e-4, 4e-4) for l in logp])

    return mean([tokens(*row) for row in rows])


def gmpo(rows):
    def response(delta, A):
        cut = [min(d, d * 0 + 0.4) if A > 0 else max(d, d * 0 - 0.4) for d in delta]
        return A * torch.exp(mean(cut)) if delta else 0.0

    return mean([response(delta, A) for _, delta, A in rows])


def cispo(rows):
    return mean([min(math.exp(d.item()), 5.0) * A * l for logp, delta, A in rows for l, d in zip(logp, delta)])


def lpo(rows, sentences):
    "1 / sum_i |y_i| sum_i sum_k |s_ik| PC(r_ik, A_i): a sentence counts for its tokens."
    parts = [
        len(s) * pc(torch.exp(mean([delta[i] for i in s])), A, 0.03, 0.03)
        for (_, delta, A), row in zip(rows, sentences)
        for s in row
    ]
    return sum(parts) / max(1, sum(len(delta) for _, delta, _ in rows))


def tepo(rows):
    return mean([pc(torch.exp(mean(delta)), A, 0.2, 0.2) for _, delta, A in rows for _ in delta])


def luspo(rows):
    return mean([len(delta) * pc(torch.exp(mean(delta)), A, 2e-3, 2.5e-3) if delta else 0.0 for _, delta, A in rows])


def future_factor(delta, t, A):
    "FIPO's f_t as a number: clip(exp(sum of what follows, fading), 1, 1.2); ratios above 10 left out; guarded above 4."
    moved = [d.item() for d in delta[t:]]
    total = sum(2 ** (-n / 32) * d for n, d in enumerate(moved) if math.exp(d) <= 10)
    f = min(max(math.exp(total), 1.0), 1.2)
    return min(max(f, 0.8), 1.0) if A < 0 and math.exp(moved[0]) > 4 else f


def fipo(rows):
    "DAPO's mean of PC(r, A f), with the dual clip of the official script, max(PC, 10 A f) where A < 0."
    terms = []
    for _, delta, A in rows:
        for t, d in enumerate(delta):
            weighed = A * future_factor(delta, t, A)
            term = pc(torch.exp(d), weighed, 0.2, 0.28)
            terms.append(max(term, 10 * weighed + 0 * d) if A < 0 else term)
    return mean(terms)


GROUPS = [
    name for name in recipes if recipe(name).advantage not in ("gae", "boundary", "soft-q")
]  # the others need values: test_critic.py, test_soft_q_training.py
FORMULAS = dict(
    mpo=mpo,
    grpo=grpo,
    dr_grpo=dr_grpo,
    dapo=dapo,
    gspo=gspo,
    gspo_token=gspo_token,
    gmpo=gmpo,
    cispo=cispo,
    lpo=lpo,
    tepo=tepo,
    luspo=luspo,
    fipo=fipo,
)


def by_formula(formula, batch, advantages, extra=lambda logp: 0.0):
    "Loss and gradient of minus the objective, one kept token at a time."
    x = leaf(batch["logps"])
    mask = batch["mask"]
    new = ref.gather(x, mask)
    old = ref.gather(batch["old_logps"], mask)
    rows = [(n, [a - b for a, b in zip(n, o)], A) for n, o, A in zip(new, old, advantages)]
    value = -formula(rows) + extra(new) + 0 * torch.where(mask.bool(), x, 0.0).sum()
    return value, torch.where(mask.bool(), torch.autograd.grad(value, x)[0], 0.0)


def test_every_recipe_has_its_formula():
    assert set(FORMULAS) == set(GROUPS)


@pytest.mark.parametrize("name", FORMULAS)
@given(mask=batches, seed=seeds, rewards=outcomes, scale=st.sampled_from([0.0, 5e-4, 2e-3, 0.03, 0.1, 0.4, 1.5]))
@settings(max_examples=40)
def test_a_recipe_is_its_formula(name, mask, seed, rewards, scale):
    batch = draw(mask, seed, rewards, scale)
    r = recipe(name)
    A = ref.group_advantages(rewards, GROUP, "none" if name == "dr_grpo" else "std")
    close(r.advantages(batch["rewards"], GROUP), torch.tensor(A, dtype=torch.double))
    formula = (
        FORMULAS[name] if name != "lpo" else lambda rows: lpo(rows, [ref.members(row) for row in ragged_ids(mask)])
    )
    expected, wanted = by_formula(formula, batch, A)
    out, grad = run(r, batch)
    close(out.loss, expected)
    close(grad, wanted)
    close(out.credit, -wanted)


@given(batches, seeds, outcomes, st.sampled_from([(2, 0.1), (3, 0.4), (5, 0.3), (12, 0.2)]), st.booleans())
def test_mpo_options(mask, seed, rewards, option, joint):
    k, future = option
    batch = draw(mask, seed, rewards, 0.2)
    beta = (1.0,) * k if joint else (1 - future,) + (future / (k - 1),) * (k - 1)
    expected, wanted = by_formula(lambda rows: mpo(rows, beta, joint), batch, ref.group_advantages(rewards, GROUP))
    out, grad = run(recipe("mpo", k=k, joint=True) if joint else recipe("mpo", k=k, future=future), batch)
    close(out.loss, expected)
    close(grad, wanted)
    if not joint:
        same((out, grad), run(recipe("mpo", k=k, beta=list(beta)), batch))


@given(
    batches,
    seeds,
    outcomes,
    st.sampled_from(["grpo", "dr_grpo", "dapo", "mpo", "tepo"]),
    st.sampled_from(["k1", "k2", "k3"]),
)
def test_penalties_share_the_recipe_s_weights(mask, seed, rewards, name, estimator):
    "loss = policy + kl * KL - entropy * H: the KL weighs tokens as the policy term does, the entropy is a token mean."
    batch = draw(mask, seed, rewards, 0.2)
    g = generator(seed + 5)
    reference = -torch.rand(mask.shape, generator=g, dtype=torch.double)
    entropy = torch.rand(mask.shape, generator=g, dtype=torch.double)
    estimators = {"k1": lambda x: -x, "k2": lambda x: x * x / 2, "k3": lambda x: math.e**x - x - 1}
    means = {
        "grpo": lambda rows: mean([mean(row) for row in rows]),
        "dr_grpo": lambda rows: sum(map(sum, rows)) / (ROWS * LONGEST),
    }

    def token_mean(rows):
        return mean([v for row in rows for v in row])

    weigh = means["grpo"] if name == "mpo" else means.get(name, token_mean)

    def extra(new):
        kl = [[estimators[estimator](r - l) for l, r in zip(*rows)] for rows in zip(new, ref.gather(reference, mask))]
        return 0.04 * weigh(kl) - 0.01 * token_mean(ref.gather(entropy, mask))

    A = ref.group_advantages(rewards, GROUP, "none" if name == "dr_grpo" else "std")
    expected, wanted = by_formula(FORMULAS[name], batch, A, extra)
    r = recipe(name, kl=0.04, kl_estimator=estimator, entropy=0.01)
    out, grad = run(r, batch | dict(ref_logps=poison(reference, mask), entropy=poison(entropy, mask)))
    close(out.loss, expected)
    close(grad, wanted)
    close(out.credit, run(recipe(name), batch)[0].credit)  # of the policy term alone


# --- recipes without a difference, and recipes in parts ----------------------------------------------------------


@pytest.mark.parametrize("name", GROUPS)
def test_groups_without_a_difference_and_empty_responses_train_on(name):
    "Advantage 0 everywhere, and one response without a token: a loss of 0 with a gradient of 0, not NaN."
    for rewards in ([1.0] * ROWS, [0.0] * ROWS):
        out, grad = run(recipe(name), draw(AWKWARD, 0, rewards, 0.3))
        assert out.loss == 0 and torch.equal(grad, torch.zeros_like(grad))
    out, grad = run(recipe(name), draw(torch.zeros(ROWS, 4), 0, [0.0, 1.0] * 3, 0.3))
    assert out.loss == 0 and torch.equal(grad, torch.zeros(ROWS, 4, dtype=torch.double))


@pytest.mark.parametrize("name", GROUPS)
@given(mask=batches, seed=seeds, rewards=outcomes, cut=st.integers(1, ROWS - 1))
@settings(max_examples=10)
def test_micro_batches_with_the_whole_batch_s_normalizer(name, mask, seed, rewards, cut):
    "Value and gradient of a batch in two parts, penalties included, groups cut anywhere."
    r = recipe(name, kl=0.1, entropy=0.02)
    batch = draw(mask, seed, rewards, 0.3)
    g = generator(seed + 1)
    batch |= dict(
        ref_logps=poison(-torch.rand(mask.shape, generator=g, dtype=torch.double), mask),
        entropy=torch.rand(mask.shape, generator=g, dtype=torch.double),
        advantages=r.advantages(batch["rewards"], GROUP),
    )
    whole, grad = run(r, batch, batch["advantages"])
    batch |= dict(
        normalizer=loss_normalizer(mask, r.aggregate, r.action_space(batch), LONGEST),
        token_normalizer=loss_normalizer(mask, "token-mean"),
    )
    parts = [
        run(r, {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in batch.items()}, batch["advantages"][rows])
        for rows in (slice(cut), slice(cut, None))
    ]
    close(sum(out.loss for out, _ in parts), whole.loss)
    close(torch.cat([g for _, g in parts]), grad)
    close(torch.cat([out.credit for out, _ in parts]), whole.credit)


# --- recipes as data ------------------------------------------------------------------------------------------------


def test_advantage_rules():
    rewards = [1.0, 0.0, 0.25, 1.0, 1.0, 0.0]
    for rule, expected in (
        ("group-std", ref.group_advantages(rewards, GROUP)),
        ("group-mean", ref.group_advantages(rewards, GROUP, "none")),
        ("leave-one-out", ref.leave_one_out(rewards, GROUP)),
    ):
        close(
            recipe("grpo", advantage=rule).advantages(torch.tensor(rewards, dtype=torch.double), GROUP),
            torch.tensor(expected, dtype=torch.double),
        )


RULES = [
    (dict(), GroupAdvantage("std")),
    (dict(advantage="group-mean"), GroupAdvantage("none")),
    (dict(scale="none"), GroupAdvantage("none")),
    (dict(advantage="leave-one-out"), LeaveOneOut()),
    (dict(advantage="gae", critic="separate"), CriticAdvantage("separate")),
    (dict(advantage="gae", lam=0.9, macro=[1, 2]), CriticAdvantage(lam=0.9, macro=(1, 2))),
    (dict(advantage="boundary", boundaries=8), SampledValues(8)),
    (dict(rule=SampledValues("surprise"), continuations=3), SampledValues("surprise", 3)),
    (dict(objectives={}, whiten=True), OrderedAdvantage(whiten=True)),
    (dict(advantage="ordered", scale="none"), OrderedAdvantage(scale="none")),
]


@pytest.mark.parametrize("options, rule", RULES, ids=str)
def test_options_of_a_rule_go_to_the_rule(options, rule):
    r = recipe("grpo", **options)
    assert r.rule == rule and r.advantage == rule.name and hash(r) == hash(replace(r, sources={}))
    assert r == replace(recipe("grpo"), rule=rule) and r.critic == getattr(rule, "critic", "")
    assert all(getattr(r, f.name) == getattr(rule, f.name) for f in fields(rule))


def test_a_recipe_has_no_field_that_means_nothing_for_it():
    for name in recipes:
        r = recipe(name)
        others = {f.name for rule in advantage_rules.values() for f in fields(rule)} - {f.name for f in fields(r.rule)}
        for field in others - {"critic"}:
            with pytest.raises(AttributeError, match=f"recipe '{name}' has no '{field}': its rule is"):
                getattr(r, field)
            if field == "objectives" and isinstance(r.rule, GroupAdvantage):
                continue  # a recipe with groups takes an order of objectives, which replaces its rule
            told = f"{field}=.*; leave {field} out, or use a recipe that has it"
            if name == "fipo" and field == "gamma":  # a field of its influence
                told = "gamma=1.0: in recipe 'fipo' it is a field of the influence; write influence={'gamma': 1.0}"
                told = re.escape(told)
            with pytest.raises(ValueError, match=told):
                recipe(name, **{field: getattr(next(x for x in advantage_rules.values() if hasattr(x, field)), field)})
    with pytest.raises(AttributeError, match="a recipe has no 'lambda_'"):
        recipe("ppo").lambda_


def test_rules_and_recipes_are_frozen_and_can_be_copied():
    for name in recipes:
        r = recipe(name)
        assert repr(copy.deepcopy(r)) == repr(r) == repr(pickle.loads(pickle.dumps(r))) == repr(recipe(name))
        with pytest.raises(FrozenInstanceError):
            r.rule.lam = 0.5
    assert recipe("ppo", advantage="gae") == recipe("ppo") != recipe("ppo", lam=1.0)
    assert recipe("mpo", base="ppo", k=1) == replace(recipe("ppo"), name="mpo", actions=WindowActions(1, 0.2))


def test_a_rule_of_ones_own():
    "The rule of a paper that is not here: reward minus the best of the group."

    @dataclass(frozen=True)
    class BestOfGroup(AdvantageRule):
        @property
        def name(self):
            return "best"

        def advantages(self, rewards, group_size):
            return rewards - rewards.view(-1, group_size).amax(1).repeat_interleave(group_size)

    r = recipe("grpo", rule=BestOfGroup())
    assert r.advantage == "best" and r.advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), 2).tolist() == [0, -1, 0, 0]


# --- FIPO's limits, and a critic of segments -------------------------------------------------------------------------


@given(batches, seeds, outcomes, st.sampled_from(["grpo", "dapo", "mpo"]))
def test_a_future_that_has_not_moved_weighs_nothing(mask, seed, rewards, name):
    "On-policy every factor is 1: the recipe without it. At gamma 0 the factor is the token's own ratio in its bounds."
    batch = draw(mask, seed, rewards, 0.3)
    on = batch | dict(old_logps=batch["logps"])
    same(run(recipe(name, influence=FutureWeight()), on), run(recipe(name), on))
    open_bounds = FutureWeight(bounds=(1.0, 1.0))
    same(run(recipe(name, influence=open_bounds), batch), run(recipe(name), batch))
    own = FutureWeight(gamma=0.0, bounds=(0.9, 1.1), threshold=None)
    delta = torch.where(mask.bool(), batch["logps"] - batch["old_logps"], 0)
    A = recipe(name).advantages(batch["rewards"], GROUP)[:, None] * delta.exp().clamp(0.9, 1.1)
    same(run(recipe(name, influence=own), batch), run(recipe(name), batch, A))


@given(batches, seeds, st.sampled_from(["mean", "first", "last"]), st.sampled_from([0.0, 0.3]))
def test_targets_of_segments_are_what_a_plain_loop_finds(mask, seed, value, kl):
    "Segments by entropy; a segment's value, its rewards with a k1 penalty on each token, GAE from segment to segment."
    g = generator(seed)
    values, entropy, x = (torch.rand(mask.shape, generator=g, dtype=torch.double) for _ in range(3))
    rewards = torch.rand(len(mask), generator=g, dtype=torch.double)
    r = recipe("sapo_segment")
    ids = r.blocks(mask, entropy=poison(entropy, mask))
    penalties = poison(kl * x, mask)
    found = critic_targets(rewards, poison(values, mask), mask, 1.0, r.lam, ids, value, penalties)
    for b, positions in enumerate(ref.kept(mask)):
        segments = ref.members(ref.undecided([float(entropy[b, t]) for t in positions], 0.3))
        place = {"first": 0, "last": -1}.get(value)
        v = [
            sum(float(values[b, positions[i]]) for i in s) / len(s)
            if place is None
            else float(values[b, positions[s[place]]])
            for s in segments
        ]
        paid = [-sum(kl * float(x[b, positions[i]]) for i in s) for s in segments]
        if paid:
            paid[-1] += float(rewards[b])
        for s, a, own in zip(segments, ref.gae_row(paid, v, 1.0, 0.99), v):
            for i in s:
                assert float(found.advantages[b, positions[i]]) == pytest.approx(a, abs=1e-9)
                assert float(found.returns[b, positions[i]]) == pytest.approx(a + own, abs=1e-9)


def test_a_critic_may_judge_the_recipe_s_own_actions():
    "Tokens are judged one by one, a response as a whole, blocks as blocks; what overlaps is none."
    mask = torch.tensor([[1, 1, 1, 0, 1]])
    batch = dict(mask=mask, blocks=torch.tensor([[0, 0, 1, -1, 1]]))
    assert action_blocks(recipe("ppo", macro="actions"), batch) is None
    assert action_blocks(recipe("gspo"), batch).tolist() == [[0, 0, 0, -1, 0]]
    assert action_blocks(recipe("grpo", actions=3), batch).tolist() == [[0, 0, 0, -1, 1]]
    assert action_blocks(recipe("sapo_segment"), batch).tolist() == [[0, 0, 1, -1, 1]]
    learnt = recipe("ppo", actions=LearntBlocks(()), macro="actions")  # blocks that are learnt do not overlap either
    assert action_blocks(learnt, batch).tolist() == [[0, 0, 1, -1, 1]]
    with pytest.raises(ValueError, match="overlap"):
        action_blocks(recipe("mpo"), batch)


@given(batches, seeds, st.sampled_from([0.1, 0.5, 2.0]))
def test_the_segment_recipe_is_its_formula(mask, seed, scale):
    "Token mean of max(PC(R_k, A), 3 A where A < 0), R_k the geometric mean over the segment."
    batch = draw(mask, seed, [0.0, 1.0] * 3, scale)
    entropy = torch.rand(mask.shape, generator=generator(seed + 2), dtype=torch.double)
    A = poison(torch.randn(mask.shape, generator=generator(seed + 3), dtype=torch.double), mask)
    r = recipe("sapo_segment")
    batch |= dict(blocks=r.blocks(mask, entropy=entropy), advantages=A)
    segments = [ref.members(ref.undecided([float(e) for e in row], 0.3)) for row in ref.gather(entropy, mask)]
    own = [[float(a) for a in row] for row in ref.gather(A, mask)]

    def objective(rows):
        terms = []
        for (_, delta, _), parts, row in zip(rows, segments, own):
            for s in parts:
                ratio = torch.exp(mean([delta[i] for i in s]))
                for i in s:
                    term = pc(ratio, row[i], 0.2, 0.28)
                    terms.append(max(term, 3 * row[i] + 0 * ratio) if row[i] < 0 else term)
        return mean(terms)

    expected, wanted = by_formula(objective, batch, own)
    out, grad = run(r, batch, A)
    close(out.loss, expected)
    close(grad, wanted)


# --- no value without a source ---------------------------------------------------------------------------------------

OFF = ("dual_clip", "kl", "entropy", "drop_dead_groups", "overlong_buffer", "mask_truncated", "confident", "repeats")
OFF += ("influence", "advantage_clip", "reward_kl")
ORIGINS = r"arXiv \d{4}\.\d{5}|TRL|verl|official code|official configuration|sail-sg/|this library's|as PPO"


def chosen_values(r):
    "Every choice that a recipe makes, its rule's included."
    own = {f.name: getattr(r, f.name) for f in fields(r) if f.name not in ("name", "rule", "sources")}
    return own | {"advantage": r.advantage} | {f.name: getattr(r.rule, f.name) for f in fields(r.rule)}


def at_the_head(name, value):
    "The value as a reader would write it, by rules of this test's own."
    if name == "actions":
        kinds = dict(
            TokenActions="token", SequenceActions="sequence", TokenGradient="sequence, with the token's gradient"
        )
        kinds |= dict(WindowActions="windows of 4, 20% on the later tokens")
        return value if isinstance(value, str) else kinds[type(value).__name__]
    if name in OFF and not value:
        return "off"
    if name == "kl_aggregate":
        return value or "as the policy term"
    if isinstance(value, bool) or name == "influence":
        return "on" if value else "off"
    if name == "clip":
        return f"{value[0]:g}" if value[0] == value[1] else f"{value[0]:g} and {value[1]:g}"
    return value if isinstance(value, str) else f"{value:g}"


def preset_recipes():
    "Every named recipe, and MPO over its other base."
    return {name: recipe(name) for name in recipes} | {"mpo over ppo": recipe("mpo", base="ppo")}


@pytest.mark.parametrize("name", preset_recipes())
def test_no_value_stands_without_a_source_that_says_it(name):
    "Each field of the recipe and of its rule has a source; it begins with the value, and says where that stands."
    r = preset_recipes()[name]
    values = chosen_values(r)
    assert set(r.sources) == set(values)
    for field, value in values.items():
        said, where = r.sources[field].split(": ", 1)
        assert said == at_the_head(field, value), (field, r.sources[field])
        assert re.search(ORIGINS, where), (field, where)
        assert "not given" in where or "not given" not in r.sources[field]


def test_clip_ranges_say_where_they_stand_or_that_they_are_not_given():
    "PPO's 0.2 is in table 1; GRPO, Dr. GRPO, TEPO and MPO give no range, and say so."
    said = {name: r.sources["clip"] for name, r in preset_recipes().items()}
    none = {name for name, text in said.items() if "not given" in text}
    assert none == {"grpo", "dr_grpo", "tepo", "mpo", "mpo over ppo", "cispo"}
    assert "table 1" in said["ppo"] and not any("table 3" in text for text in said.values())
    assert "nothing is clipped" in said["tepo"] and "a paper of its own" in recipe("tepo").sources["kl"]


def test_what_the_caller_replaced_says_so():
    r = recipe("lpo", clip=(0.1, 0.2), kl=0.04)
    assert r.sources["clip"] == "0.1 and 0.2: chosen by the caller" and r.sources["kl"].startswith("0.04: chosen")
    assert r.sources["aggregate"] == recipe("lpo").sources["aggregate"]
    assert recipe("mpo", k=3).sources["actions"] == "windows of 3, 20% on the later tokens: chosen by the caller"
    assert recipe("mpo", k=4).sources["actions"] == recipe("mpo").sources["actions"]
    assert recipe("vineppo", whiten=False).sources["whiten"] == "off: chosen by the caller"
    assert recipe("grpo", advantage="gae").sources["lam"] == "1: chosen by the caller"


def test_values_from_the_papers():
    "METHODS: clip ranges, and the switches that only DAPO has."
    clips = {name: recipe(name).clip for name in recipes}
    assert clips == {
        n: (0.2, 0.2) for n in ("mpo", "grpo", "dr_grpo", "tepo", "ppo", "ma_rlhf", "vineppo", "spo_chain", "etpo")
    } | dict(
        dapo=(0.2, 0.28),
        gspo=(3e-4, 4e-4),
        gspo_token=(3e-4, 4e-4),
        gmpo=(0.4, 0.4),
        cispo=(1.0, 4.0),
        lpo=(0.03, 0.03),
        luspo=(2e-3, 2.5e-3),
        fipo=(0.2, 0.28),
        sapo_segment=(0.2, 0.28),
    )
    assert recipe("mpo").actions == WindowActions(4, 0.2) and recipe(
        "mpo", k=2, beta=[0.5, 0.5]
    ).actions == WindowActions(2, beta=(0.5, 0.5))
    assert [name for name in recipes if recipe(name).drop_dead_groups or recipe(name).overlong_buffer] == [
        "dapo",
        "fipo",
    ]
    assert not any(recipe(name).entropy or recipe(name).mask_truncated for name in recipes)
    assert recipe("lpo").aggregate == "token-mean"


def test_official_values_of_sampled_and_macro_rules():
    "VinePPO and SPO-chain whiten, and add 1e-4 times each response's sum of k3; MA-RLHF's value loss is per token."
    for name in recipes:
        r = recipe(name)
        sampled = name in ("vineppo", "spo_chain")
        assert (r.kl, r.kl_aggregate) == ((1e-4, "seq-mean-token-sum") if sampled else (0.0, None))
        assert not sampled or (r.whiten and r.kl_estimator == "k3" and r.continuations == 9)
    assert recipe("ma_rlhf").value_loss == "token" and recipe("ppo", macro=5).value_loss == "block"
    assert "does not whiten: whiten=False" in recipe("ma_rlhf").sources["whiten"]
    assert not SampledValues().whiten and not recipe("grpo", advantage="boundary").whiten


@given(batches, seeds, outcomes, st.sampled_from(["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]))
def test_a_kl_penalty_may_be_averaged_in_its_own_way(mask, seed, rewards, how):
    "loss = policy term + kl * the mean that `kl_aggregate` names, in parts too, whatever the policy term's mean is."
    batch = draw(mask, seed, rewards, 0.2)
    reference = -torch.rand(mask.shape, generator=generator(seed + 5), dtype=torch.double)
    means = {
        "token-mean": lambda rows: mean([v for row in rows for v in row]),
        "seq-mean-token-sum": lambda rows: sum(map(sum, rows)) / ROWS,
        "seq-mean-token-mean": lambda rows: mean([mean(row) for row in rows]),
    }

    def extra(new):
        x = [[r - l for l, r in zip(*rows)] for rows in zip(new, ref.gather(reference, mask))]
        return 0.3 * means[how]([[math.e**v - v - 1 for v in row] for row in x])

    expected, wanted = by_formula(dr_grpo, batch, ref.group_advantages(rewards, GROUP, "none"), extra)
    r = recipe("dr_grpo", kl=0.3, kl_aggregate=how)
    batch |= dict(ref_logps=poison(reference, mask))
    out, grad = run(r, batch)
    close(out.loss, expected)
    close(grad, wanted)
    batch |= dict(
        advantages=r.advantages(batch["rewards"], GROUP),
        normalizer=loss_normalizer(mask, r.aggregate, max_length=LONGEST),
        kl_normalizer=loss_normalizer(mask, how),
    )
    parts = [
        run(r, {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in batch.items()}, batch["advantages"][rows])
        for rows in (slice(2), slice(2, None))
    ]
    close(sum(part.loss for part, _ in parts), expected)
    close(torch.cat([g for _, g in parts]), wanted)


def test_only_lpo_reads_the_text():
    mask = torch.tensor([[1, 1, 1]])
    tokens = [["a.", "b", "c"]]
    entropy = torch.tensor([[0.0, 1.0, 0.5]])
    assert recipe("lpo").blocks(mask, tokens).tolist() == [[0, 1, 1]]
    assert recipe("sapo_segment").blocks(mask, entropy=entropy).tolist() == [[0, 0, 1]]
    found = {name for name in recipes if recipe(name).blocks(mask, tokens, entropy=entropy) is not None}
    assert found == {"lpo", "sapo_segment", "etpo"}


def test_blocks_by_any_rule():
    """A rule named in a recipe gives the ids of the function that it stands for; a number of tokens is blocks of that
    many."""
    mask = torch.ones(2, 40, dtype=torch.bool)
    _, old, _ = draw_batch(mask, 0)
    assert torch.equal(recipe("lpo", actions="surprise").blocks(mask, None, old), surprise_blocks(mask, old))
    drawn = [recipe("lpo", actions="random").blocks(mask, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], random_blocks(mask, generator=torch.Generator().manual_seed(1)))
    holes = mask.clone()
    holes[:, 10:13] = False
    assert torch.equal(recipe("grpo", actions="turn").blocks(holes), turn_blocks(holes))
    entropy = torch.rand(2, 40, generator=generator(0))
    assert torch.equal(recipe("grpo", actions="entropy").blocks(mask, entropy=entropy), entropy_blocks(mask, entropy))
    assert (
        recipe("lpo", actions=3).actions.ids(mask).equal(fixed_blocks(mask, 3))
        and recipe("lpo", actions=3).blocks(mask) is None
    )


@pytest.mark.parametrize(
    "actions, told",
    [("paragraph", "sentence, surprise, random"), (0, "blocks=0"), (True, "actions=True"), (None, "actions=None")],
)
def test_actions_that_cannot_be(actions, told):
    with pytest.raises(ValueError, match=told):
        recipe("lpo", actions=actions)


@pytest.mark.parametrize(
    "rule, told", [("sentence", "needs tokens"), ("surprise", "needs old_logps"), ("entropy", "needs entropy")]
)
def test_a_rule_says_what_it_reads(rule, told):
    with pytest.raises(ValueError, match=told):
        recipe("lpo", actions=rule).blocks(torch.ones(1, 3))


ZERO = dict(logps=torch.zeros(2, 3), old_logps=torch.zeros(2, 3), mask=torch.ones(2, 3), advantages=torch.zeros(2))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: recipe("ppo2"), ["'ppo2'", "mpo, grpo", "tepo"]),
        (lambda: recipe("mpo", window=3), ["'mpo'", "'window'", "future"]),
        (lambda: recipe("grpo", k=3), ["'grpo'", "'k'", "clip"]),
        (lambda: recipe("mpo", k=0), ["k=0", "at least 1"]),
        (lambda: recipe("mpo", future=1.0), ["future=1.0", "[0, 1)"]),
        (lambda: recipe("mpo", k=3, beta=(0.5, 0.5)), ["beta", "2 weights", "k=3"]),
        (lambda: recipe("grpo", advantage="std"), ["advantage='std'", "group-std"]),
        (lambda: recipe("grpo", lam=0.9), ["lam=0.9 with advantage='group-std'", "advantage='gae'", "such as 'ppo'"]),
        (lambda: recipe("ppo", continuations=4), ["continuations=4", "advantage='boundary'", "'vineppo'"]),
        (lambda: recipe("vineppo", scale="none"), ["scale='none'", "advantage='group-std'"]),
        (lambda: recipe("ppo", advantage="group-mean", scale="std"), ["scale='std'", "leave scale out"]),
        (lambda: recipe("ppo", rule=LeaveOneOut(), advantage="gae"), ["rule and advantage", "leave advantage out"]),
        (lambda: recipe("ppo", rule="gae"), ["rule='gae'", "AdvantageRule"]),
        (lambda: replace(recipe("ppo"), rule="gae"), ["rule='gae'", "GroupAdvantage()"]),
        (lambda: recipe("grpo", surrogate="trpo"), ["surrogate='trpo'", "cispo"]),
        (lambda: recipe("grpo", aggregate="mean"), ["aggregate='mean'", "token-mean"]),
        (lambda: recipe("grpo", kl_estimator="k4"), ["kl_estimator='k4'", "k3"]),
        (lambda: recipe("grpo", kl_aggregate="sum"), ["kl_aggregate='sum'", "seq-mean-token-sum", "None"]),
        (lambda: recipe("dapo", mask_truncated="yes"), ["mask_truncated='yes'"]),
        (lambda: recipe("vineppo", whiten=2), ["whiten=2"]),
        (
            lambda: recipe("grpo", whiten=True),
            ["whiten=True", "'gae' or 'boundary' or 'ordered' takes it", "such as 'ppo'"],
        ),
        (lambda: recipe("ma_rlhf", value_loss="tokens"), ["value_loss='tokens'", "block"]),
        (lambda: recipe("ma_rlhf", repeats=2), ["repeats=2 with macro=5", "leave repeats out"]),
        (lambda: recipe("ma_rlhf", macro=(1, 2), repeats=0), ["repeats=0"]),
        (lambda: recipe("mpo", base="ppo", macro="actions"), ["macro='actions'", "WindowActions", "actions='entropy'"]),
        (lambda: recipe("ppo", macro="blocks"), ["macro='blocks'"]),
        (lambda: recipe("ppo", block_value="end"), ["block_value='end'", "last"]),
        (lambda: recipe("ppo", advantage_clip=0.0), ["advantage_clip=0.0"]),
        (lambda: recipe("ppo", reward_kl=-1.0), ["reward_kl=-1.0"]),
        (lambda: recipe("grpo", influence=0.5), ["influence"]),
        (lambda: FutureWeight(gamma=1.5), ["gamma=1.5", "[0, 1]"]),
        (lambda: FutureWeight(bounds=(1.2, 1.0)), ["bounds=(1.2, 1.0)", "low <= high"]),
        (lambda: FutureWeight(threshold=0.0), ["threshold=0.0"]),
        (
            lambda: FutureWeight().weigh(torch.ones(2), torch.zeros(3, 4), torch.ones(3, 4)),
            ["advantages has shape (2,)"],
        ),
        (lambda: recipe("grpo", actions="paragraph"), ["actions='paragraph'", "sentence"]),
        (lambda: recipe("grpo", kl=-0.1), ["kl=-0.1", "at least 0", "e.g. 0.04"]),
        (lambda: recipe("grpo", entropy=ref.NAN), ["entropy=nan", "at least 0"]),
        (lambda: recipe("dapo", overlong_buffer=1.5), ["overlong_buffer=1.5", "[0, 1]"]),
        (lambda: recipe("grpo", clip=(-0.2, 0.2)), ["clip=(-0.2, 0.2)", ">= 0"]),
        (lambda: recipe("grpo", dual_clip=1.1), ["dual_clip=1.1", "1.2"]),
        (lambda: recipe("cispo", dual_clip=6.0), ["dual_clip=6.0", "cispo"]),
        (lambda: recipe("lpo").loss(ZERO), ["'lpo'", "batch['blocks']", "recipe.blocks"]),
        (lambda: recipe("grpo", kl=0.1).loss(ZERO), ["kl=0.1", "batch['ref_logps']"]),
        (lambda: recipe("grpo", entropy=0.1).loss(ZERO), ["entropy=0.1", "batch['entropy']"]),
        (lambda: recipe("dr_grpo").loss(ZERO), ["max_length=None", "generation limit"]),
        (lambda: recipe("grpo").loss({k: v for k, v in ZERO.items() if k != "old_logps"}), ["old_logps", "batch"]),
        (lambda: recipe("grpo").advantages(torch.tensor([1.0, 0.0]), 1), ["group_size=1", "at least 2"]),
        (lambda: recipe("grpo").advantages(torch.tensor([1.0, ref.NAN]), 2), ["rewards[1]=nan", "reward function"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
