"""Objectives in an order: against a linear program, a lexicographic choice by hand, and plain loops."""

import math
import random

import pytest
import torch

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, WindowActions
from mpo_nb.advantages import distribute, group_advantages
from mpo_nb.blocks import fixed_blocks, sequence_block, token_blocks
from mpo_nb.losses import policy_loss
from mpo_nb.objectives import (
    Objective,
    OrderedObjectives,
    above,
    block_scores,
    combined_advantages,
    effective_slacks,
    even_answer,
    malformed_steps,
    move_multipliers,
    named_objectives,
    objective_advantages,
    ordered_optimum,
    partition_ids,
)
from mpo_nb.recipes import GroupAdvantage, recipe

EXACT = dict(rtol=0, atol=1e-12)
GROUP = 4


def drawn(*shape, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def wide(numbers):
    "Numbers as float64, none of them rounded on the way."
    return torch.tensor(numbers, dtype=torch.double)


@pytest.fixture(scope="module")
def batch():
    "Eight responses of different lengths, rewards of two objectives, and a policy that has moved."
    mask = (torch.arange(9) < torch.tensor([9, 7, 5, 9, 8, 3, 6, 9])[:, None]).long()
    old = -drawn(8, 9, seed=1).abs()
    return dict(mask=mask, old=old, moved=old + 0.3 * drawn(8, 9, seed=2), upper=drawn(8), lower=drawn(8, seed=3))


# --- the graph --------------------------------------------------------------------------------------------------------


def random_edges(rng: random.Random, names: str) -> list:
    return [(a, b, rng.random()) for i, a in enumerate(names) for b in names[i + 1 :] if rng.random() < 0.5]


def paths(edges, start: str, end: str) -> list[list]:
    "All paths, as lists of edges."
    if start == end:
        return [[]]
    return [[edge, *rest] for edge in edges if edge[0] == start for rest in paths(edges, edge[1], end)]


@pytest.mark.parametrize("seed", range(20))
def test_a_constraint_is_the_least_slack_at_the_head_of_a_path(seed):
    rng = random.Random(seed)
    edges = random_edges(rng, "abcdef")
    rng.shuffle(edges)
    leading = {name: paths(edges, name, "f") for name in "abcde"}
    expected = {name: min(path[0][2] for path in found) for name, found in leading.items() if found}
    assert effective_slacks(edges, "f") == expected
    order = above(edges, "f")
    assert set(order) == set(expected)
    assert all(order.index(a) < order.index(b) for a, b, _ in edges if a in order and b in order)


def test_the_graph_is_that_of_networkx():
    nx = pytest.importorskip("networkx", reason="pip install mpo_nb[papers]")
    for seed in range(20):
        edges = random_edges(random.Random(seed), "abcdef")
        graph = nx.DiGraph([edge[:2] for edge in edges])
        graph.add_node("f")
        assert set(above(edges, "f")) == nx.ancestors(graph, "f")


def test_a_transitive_edge_with_weaker_slack_changes_nothing():
    "Nor a policy, nor a best value; one with less slack does."
    chain = [("a", "b", 0.1), ("b", "c", 0.2)]
    returns = dict(a=[1.0, 0.8, 0.3, 0.0], b=[0.0, 0.5, 1.0, 0.2], c=[0.1, 0.0, 0.3, 1.0])
    policy, best = ordered_optimum(returns, chain, "c")
    for slack in (0.1, 0.15, 1.0):
        same, values = ordered_optimum(returns, [*chain, ("a", "c", slack)], "c")
        assert torch.equal(same, policy) and values == best
    tighter, _ = ordered_optimum(returns, [*chain, ("a", "c", 0.05)], "c")
    assert (tighter - policy).abs().max() > 0.01


# --- the exact answer -------------------------------------------------------------------------------------------------


def linear_program(returns: dict, edges: list, target: str):
    "The same by scipy: V* of each objective in turn, under the constraints of all paths; None where none is allowed."
    linprog = pytest.importorskip("scipy.optimize", reason="pip install scipy").linprog
    best = {}
    for name in [*above(edges, target), target]:
        upper = effective_slacks(edges, name)
        rows = [[-x for x in returns[one]] for one in upper] or None
        floors = [-(best[one] - slack) for one, slack in upper.items()] or None
        found = linprog([-x for x in returns[name]], rows, floors, [[1] * len(returns[name])], [1])
        if found.status == 2:
            return None
        assert found.status == 0, found.message
        best[name] = -found.fun
    return best


def lexicographic(returns: dict, names: str) -> int:
    "The action that is best by the first objective, then the second, and so on."
    return max(range(len(returns[names[0]])), key=lambda i: [returns[name][i] for name in names])


@pytest.mark.parametrize("seed", range(8))
def test_a_chain_without_slack_is_lexicographic(seed):
    "Four actions whose values tie often: the order's optimum, the linear program, and sorting."
    rng = random.Random(seed)
    returns = {name: [float(rng.randint(0, 2)) for _ in range(4)] for name in "abc"}
    edges = [("a", "b", 0.0), ("b", "c", 0.0)]
    policy, best = ordered_optimum(returns, edges, "c")
    chosen = lexicographic(returns, "abc")
    exact = linear_program(returns, edges, "c")
    for name in "abc":
        value = float(policy @ wide(returns[name]))
        assert math.isclose(value, returns[name][chosen], abs_tol=1e-12)
        assert math.isclose(value, exact[name], abs_tol=1e-9)
    assert best == {name: returns[name][chosen] for name in "ab"}


def test_with_slack_on_a_graph_it_is_the_linear_program():
    "Where two objectives stand above a third with no order between them, there may be no policy: then both say so."
    allowed = 0
    for seed in range(12):
        rng = random.Random(seed)
        returns = {name: [rng.random() for _ in range(5)] for name in "abcd"}
        edges = [("a", "b", 0.1), ("a", "c", 0.2), ("b", "d", 0.15), ("c", "d", 0.05)]
        exact = linear_program(returns, edges, "d")
        if exact is None:
            with pytest.raises(ValueError, match="edges allow no policy at all"):
                ordered_optimum(returns, edges, "d")
            continue
        allowed += 1
        policy, best = ordered_optimum(returns, edges, "d")
        assert math.isclose(float(policy @ wide(returns["d"])), exact["d"], abs_tol=1e-9)
        assert all(math.isclose(best[name], exact[name], abs_tol=1e-9) for name in "abc")
        assert policy.min() >= 0 and math.isclose(float(policy.sum()), 1, abs_tol=1e-12)
    assert 0 < allowed < 12


def test_multipliers_find_the_lexicographic_answer():
    "Natural policy gradient with the library's own credit and multiplier rule, on a bandit of four actions."
    returns = dict(a=[1.0, 1.0, 0.0, 0.5], b=[0.0, 0.6, 1.0, 1.0])
    edges = [("a", "b", 0.0)]
    exact, best = ordered_optimum(returns, edges, "b")
    table = {name: wide(row) for name, row in returns.items()}
    ids = torch.zeros(4, 1).long()
    logits, weights = torch.zeros(4).double(), {"a": 0.0}
    for _ in range(3000):
        p = logits.softmax(0)
        values = {name: float(p @ row) for name, row in table.items()}
        blocks = [(row - values[name])[:, None] for name, row in table.items()]
        A = combined_advantages([weights["a"], 1.0], blocks, [ids, ids])[:, 0]
        logits = logits + 0.2 * A
        weights = move_multipliers(weights, values, {"a": best["a"] - 0.0}, rate=0.5)
    assert exact.tolist() == [0, 1, 0, 0] and weights["a"] > 0.8
    torch.testing.assert_close(logits.softmax(0), exact, **EXACT)


# --- multipliers ------------------------------------------------------------------------------------------------------


def test_a_multiplier_stands_at_the_floor_rises_below_it_and_is_never_negative():
    order = OrderedObjectives([("correctness", "length", 0.25)], best={"correctness": 0.75})
    assert order.floors == {"correctness": 0.5}

    def moved(multiplier: float, value: float) -> float:
        return move_multipliers({"correctness": multiplier}, {"correctness": value}, order.floors, 2.0)["correctness"]

    assert moved(0.7, 0.5) == 0.7 and moved(0.0, 0.5) == 0.0
    assert moved(0.7, 0.25) == 0.7 + 0.5 and moved(0.0, 0.25) == 0.5
    assert moved(0.7, 0.625) == 0.7 - 0.25 and moved(0.125, 1.0) == 0.0 == moved(0.0, 1.0)
    weights = {"correctness": 0.3}
    assert move_multipliers(weights, {}, {}, 0.0) == weights  # a rate of 0 asks for no values


# --- credit -----------------------------------------------------------------------------------------------------------


def slope(A, x, actions, surrogate, logps, clip=(0.2, 0.2)):
    "Credit as the loss gives it, checked against autograd."
    leaf = logps.clone().requires_grad_()
    out = policy_loss(leaf, x["old"], A, x["mask"], actions, clip, surrogate, "seq-mean-token-mean")
    (gradient,) = torch.autograd.grad(out.loss, leaf)
    torch.testing.assert_close(out.credit, -gradient, **EXACT)
    return out.credit


def upper_and_lower(x, scale: str = "none"):
    "Two objectives: one on blocks of three tokens, one on the response, as advantages per token."
    ids = [fixed_blocks(x["mask"], 3), sequence_block(x["mask"])]
    steps = drawn(8, 3, seed=5)
    A = [
        objective_advantages(steps, torch.arange(3) <= ids[0].max(1).values[:, None], GROUP, scale),
        objective_advantages(x["lower"][:, None], torch.ones(8, 1).bool(), GROUP, scale),
    ]
    return A, ids


@pytest.mark.parametrize("actions", [TokenActions(), WindowActions(3), BlockActions(2), SequenceActions()], ids=str)
@pytest.mark.parametrize("surrogate, moved", [("none", "old"), ("none", "moved"), ("ppo", "old")])
def test_credit_is_linear_where_nothing_is_clipped(batch, actions, surrogate, moved):
    (A_i, A_k), (ids_i, ids_k) = upper_and_lower(batch)
    together = combined_advantages([0.7, 1.0], [A_i, A_k], [ids_i, ids_k])
    whole = slope(together, batch, actions, surrogate, batch[moved])
    parts = [
        slope(distribute(A, ids), batch, actions, surrogate, batch[moved]) for A, ids in ((A_i, ids_i), (A_k, ids_k))
    ]
    torch.testing.assert_close(whole, 0.7 * parts[0] + parts[1], **EXACT)
    assert whole.abs().max() > 1e-3


def test_credit_is_not_linear_once_clipped():
    "One token, ratio 1.5, range 0.2: a loss of the sum that is cut does not move, and one of its parts does."
    x = dict(old=torch.zeros(1, 1).double(), mask=torch.ones(1, 1))
    logps = wide([[math.log(1.5)]])

    def credit(A: float) -> float:
        return float(slope(wide([A]), x, TokenActions(), "ppo", logps))

    assert credit(2.0) == 0.0 and math.isclose(credit(-1.0), -1.5) and credit(2.0 - 1.0) == 0.0


def test_advantages_are_not_linear_through_the_group_s_deviation():
    "Two rewards that cancel: their sum has no deviation, and each has one."
    a, b = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.5])
    apart = group_advantages(a, 4) + group_advantages(b, 4)
    assert (group_advantages(a + b, 4) - apart).abs().max() > 0.5
    centred = group_advantages(a, 4, scale="none") + group_advantages(b, 4, scale="none")
    torch.testing.assert_close(group_advantages(a + b, 4, scale="none"), centred, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_block_advantages_are_those_of_a_plain_loop(scale):
    scores = drawn(8, 4, seed=7)
    counts = [4, 2, 3, 1, 4, 4, 2, 3]
    exists = torch.arange(4) < torch.tensor(counts)[:, None]
    expected = torch.zeros(8, 4).double()
    for g in (0, 4):
        to_go = {i: [sum(scores[i, n : counts[i]].tolist()) for n in range(counts[i])] for i in range(g, g + 4)}
        totals = wide([row[0] for row in to_go.values()])
        for i, row in to_go.items():
            for n, value in enumerate(row):
                same = [other[n] for other in to_go.values() if len(other) > n]
                expected[i, n] = value - sum(same) / len(same)
                if scale == "std":
                    expected[i, n] /= float(totals.std()) + 1e-4
    torch.testing.assert_close(objective_advantages(scores, exists, 4, scale), expected, **EXACT)


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("aggregate", ["token-mean", "seq-mean-token-mean"])
def test_without_edges_the_loss_is_the_plain_recipe_s_to_the_last_bit(batch, scale, aggregate):
    "So it is where a multiplier stays 0, whatever the objective above says."
    plain = recipe("grpo", scale=scale, aggregate=aggregate)
    ordered = recipe("grpo", scale=scale, aggregate=aggregate, objectives=dict(target="even_answer"))
    assert ordered.rule.scale == scale == plain.rule.scale
    (A_i, _), (ids_i, ids_k) = upper_and_lower(batch)
    reward = batch["lower"].float()
    A_k = objective_advantages(reward[:, None], torch.ones(8, 1).bool(), GROUP, ordered.rule.scale)
    together = combined_advantages([0.0, 1.0], [A_i.float(), A_k], [ids_i, ids_k])
    results = []
    for r, A in ((plain, plain.advantages(reward, GROUP)), (ordered, together)):
        logps = batch["moved"].float().requires_grad_()
        out = r.loss(dict(logps=logps, old_logps=batch["old"].float(), mask=batch["mask"], advantages=A))
        results.append((out.loss.detach(), *torch.autograd.grad(out.loss, logps)))
    assert all(torch.equal(a, b) for a, b in zip(*results))


# --- objectives -------------------------------------------------------------------------------------------------------

RESPONSE = ["7", "+", "5", "=", "1", "2", ";", "1", "2", "-", "3", "=", "9", "#", "9", ""]


def test_each_named_objective_scores_its_own_blocks():
    mask = torch.ones(1, len(RESPONSE)).long()
    expected = dict(well_formed_steps=[0, 0, 0], even_answer=[0], length=[-0.01] * 16)
    for name, row in expected.items():
        one = named_objectives[name]
        ids = partition_ids(one, mask, [RESPONSE])
        scores = block_scores(one, [{}], ["".join(RESPONSE)], ids, [RESPONSE])
        torch.testing.assert_close(scores[0], torch.tensor(row).float())
    assert partition_ids(named_objectives["length"], mask, [RESPONSE]).equal(token_blocks(mask))
    assert [even_answer({}, text) for text in ("1+1=2#2", "#17", "", "4;#", "x")] == [1, 0, 0, 1, 0]
    assert malformed_steps({}, ["7+5=12;", "12=9;", "9#", ""]) == [0, -1, -1, -1]
    assert malformed_steps({}, ["17"]) == [0] and malformed_steps({}, ["7+5=12;"]) == [-1]


def test_a_masked_token_is_in_no_block():
    one = Objective("digits", lambda problem, texts: [float(len(text)) for text in texts], partition=2)
    mask = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 0]])
    tokens = [["a", "reply", "bc", "d"], ["e"]]
    ids = partition_ids(one, mask, tokens)
    assert block_scores(one, [{}, {}], ["", ""], ids, tokens).tolist() == [[3, 1], [1, 0]]


EDGE = ("correctness", "length", 0.1)
BEST = {"correctness": 0.8}
BAD_ORDERS = [
    (dict(edges=[EDGE, ("length", "correctness", 0)]), "edges go in a circle, .*correctness"),
    (dict(edges=[("correctness", "style", 0)]), "'style', which is unknown; there are correctness, well_formed"),
    (dict(target="style"), "'style', which is unknown"),
    (dict(edges=[("correctness", "length", -0.1)], best=BEST), "slack of the edge correctness > length=-0.1"),
    (dict(edges=[("correctness", "length", math.inf)], best=BEST), "slack of the edge .*=inf"),
    (dict(edges=[("correctness", "length")], best=BEST), "write \\(above, below, slack\\)"),
    (dict(edges=[("length", "length", 0)]), "cannot stand above itself"),
    (dict(edges=[EDGE, ("correctness", "length", 0.2)], best=BEST), "two for the same pair"),
    (dict(edges=[EDGE]), "best has no value for 'correctness'"),
    (dict(edges=[EDGE], best={"length": 1}), "best has 'length', which does not stand above the target"),
    (dict(edges=[EDGE], best={"correctness": "high"}), "best has 'high' for 'correctness'"),
    (dict(edges=[EDGE], best=BEST, start={"correctness": -1}), "start of correctness=-1"),
    (dict(edges=[EDGE], best=BEST, rate=-1), "rate=-1"),
    (dict(further=["length", "even_answer"]), "target=None, and nothing stands below length, even_answer"),
    (dict(slack=0.1), "slack=0.1: OrderedObjectives has no such field"),
]


@pytest.mark.parametrize("options, message", BAD_ORDERS, ids=[message for _, message in BAD_ORDERS])
def test_an_order_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OrderedObjectives(**options)
    with pytest.raises(ValueError, match=message):
        recipe("grpo", objectives=options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Objective("a name"), "name='a name'"),
        (lambda: Objective("a", 3), "score=3 of objective 'a'"),
        (lambda: Objective("a", even_answer, "paragraph"), "partition='paragraph' of objective 'a'"),
        (lambda: Objective("a", even_answer, 0), "partition=0 of objective 'a'"),
        (lambda: Objective("a", None, "token"), "whose score is the task's reward"),
        (lambda: recipe("ppo", objectives={}), "only advantage='ordered' takes it; leave objectives out"),
        (lambda: recipe("dapo", objectives={}), "drop_dead_groups=True with advantage='ordered'"),
        (lambda: recipe("grpo", objectives="length"), "objectives='length'; it must be"),
        (lambda: recipe("grpo", objectives={}).advantages(torch.zeros(4), 4), "needs the responses"),
        (lambda: ordered_optimum(dict(a=[1.0]), [("a", "b", 0)], "a"), "returns has no objective 'b'"),
        (lambda: ordered_optimum(dict(a=[1.0] * 13), [], "a"), "actions in returns=13"),
        (lambda: combined_advantages([1.0], [], []), "1 multipliers, 0 advantages"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("score, message", [(lambda p, r: math.nan, "gave nan"), (lambda p, r: "1", "gave '1'")])
def test_a_score_that_is_no_number_is_named(score, message):
    one = Objective("odd", score)
    mask = torch.ones(1, 2)
    with pytest.raises(ValueError, match=f"objective 'odd' {message}"):
        block_scores(one, [{}], ["ab"], partition_ids(one, mask, [["a", "b"]]), [["a", "b"]])
    short = Objective("short", lambda problem, texts: [1.0], "token")
    with pytest.raises(ValueError, match="'short' gave 1 scores for the 2 blocks"):
        block_scores(short, [{}], ["ab"], partition_ids(short, mask, [["a", "b"]]), [["a", "b"]])


def test_a_recipe_with_groups_takes_objectives_by_one_argument():
    "As a dict, as JSON has it, or as a record; the scale is the recipe's."
    given = dict(edges=[["correctness", "length", 0.1]], best=BEST)
    made = recipe("grpo", objectives=given)
    assert made.advantage == "ordered" and made == recipe("grpo", objectives=OrderedObjectives(**given))
    assert hash(made) == hash(recipe("grpo", advantage="ordered", objectives=given))
    assert recipe("dr_grpo", objectives=given).rule.scale == "none" and recipe("gspo", objectives=given).rule.order
    assert recipe("grpo").rule == GroupAdvantage() and "length (correctness may lose 0.1)" in made.sources["objectives"]


def test_multipliers_of_another_library_give_its_direction():
    "An outside view: the weights that MGDA finds for two gradients that conflict, as multipliers of one credit."
    aggregation = pytest.importorskip("torchjd.aggregation", reason="pip install torchjd")
    gradients = wide([[1.0, 0.5, 0.0], [-0.8, 1.0, 0.3]])
    weights = aggregation.MGDAWeighting()(gradients @ gradients.T)
    ids = [torch.zeros(3, 1).long()] * 2
    ours = combined_advantages(weights.tolist(), [row[:, None] for row in gradients], ids)[:, 0]
    torch.testing.assert_close(ours, aggregation.MGDA()(gradients), **EXACT)
    assert (weights > 0).all() and (gradients @ ours > 0).all()  # neither objective falls


TWO = torch.tensor([[0, 0, 1], [0, 1, 1]])  # ids of two rows


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: OrderedObjectives(edges=None), "edges=None; it must be a list"),
        (lambda: OrderedObjectives(edges="correctness>length"), "edges='correctness>length'; it must be a list"),
        (lambda: OrderedObjectives(further="even_answer"), "further='even_answer'; it must be a list"),
        (lambda: OrderedObjectives(further=Objective("x")), "it must be a list, e.g. .*even_answer"),
        (lambda: OrderedObjectives(further=(Objective("x"), Objective("x")), target="x"), "'x', and further has two"),
        (lambda: OrderedObjectives(further=(Objective("length", even_answer),)), "'length', and the library has one"),
        (lambda: OrderedObjectives(target=["correctness"]), "objective .*correctness.*, which is unknown"),
        (
            lambda: OrderedObjectives(edges=[("correctness", "length", 0.1)], best=0.9),
            "best=0.9; give a number for each",
        ),
        (lambda: OrderedObjectives(edges=[("correctness", "length", 0.1)], best=None), "best=None; give a number"),
        (lambda: OrderedObjectives(edges=[("correctness", "length", 0.1)], start=["a", 1]), "start=.*give a number"),
        (lambda: move_multipliers({"a": 1.0}, {"a": math.nan}, {"a": 0.0}, 1.0), "values has nan for 'a'"),
        (lambda: move_multipliers({"a": 1.0}, {}, {"a": 0.0}, 1.0), "values has None for 'a'"),
        (lambda: move_multipliers({"a": 1.0}, {"a": 0.0}, {"a": 0.0}, -1.0), "rate=-1.0"),
        (
            lambda: block_scores(Objective("x", even_answer), [{}], ["1"], TWO, [["1"] * 3] * 2),
            "1 problems, 1 responses",
        ),
        (lambda: block_scores(Objective("x"), [{}] * 2, ["1"] * 2, TWO, [["1"] * 3] * 2), "no score of its own"),
        (
            lambda: block_scores(Objective("x", lambda p, t: 1.0, "token"), [{}] * 2, ["1"] * 2, TWO, [["1"] * 3] * 2),
            "gave 1.0 .*a number for each of its 2 blocks",
        ),
        (lambda: objective_advantages(torch.zeros(4), torch.ones(4).bool(), 2), "scores is torch.float32 of shape"),
        (lambda: objective_advantages(torch.zeros(4, 2), torch.ones(4, 1).bool(), 2), "exists has"),
        (lambda: objective_advantages(torch.zeros(4, 1).long(), torch.ones(4, 1).bool(), 2), "scores is torch.int64"),
        (lambda: combined_advantages([math.nan], [torch.zeros(2, 2)], [TWO]), "multipliers has nan"),
        (lambda: ordered_optimum(dict(a=[1, 2], b=[1]), [("a", "b", 0.0)], "b"), "returns.'a'.=.*as many for all"),
        (lambda: ordered_optimum(dict(a=[1, math.nan], b=[1, 2]), [("a", "b", 0.0)], "b"), "a finite number for each"),
        (lambda: ordered_optimum(dict(a=[1, 2], b=[1, 2]), [("a", "b", -0.1)], "b"), "slack of the edge a > b"),
        (lambda: ordered_optimum(dict(a=[1, 2], b=[1, 2]), [("a", "b")], "b"), "write .above, below, slack"),
    ],
)
def test_what_is_no_objective_edge_or_number_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
