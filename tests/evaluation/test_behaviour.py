"""Policies as points: features against plain counts, distances against plain products, the map, and Rank-N-Contrast
against loops."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mpo_nb.evaluation import (
    feature_expectations,
    policy_map,
    rank_n_contrast,
    response_features,
    split_distances,
)


def drawn(seed: int, n: int = 40, letters: str = "abcd") -> tuple[list[list[str]], dict[str, list[float]]]:
    "Random responses, and numbers of them."
    rng = np.random.default_rng(seed)
    tokens = [list(rng.choice(list(letters), size=rng.integers(1, 12))) for _ in range(n)]
    return tokens, dict(entropy=rng.random(n).tolist(), correct=rng.integers(0, 2, n).astype(float).tolist())


def table(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_counts_are_those_of_a_plain_loop():
    tokens, numbers = drawn(0)
    table = response_features(tokens, **numbers)
    for row, one in zip(table.to_dict("records"), tokens):
        for letter in "abcd":
            assert row[f"token {letter}"] == one.count(letter)
            for other in "abcd":
                seen = sum(pair == (letter, other) for pair in zip(one, one[1:]))
                assert row.get(f"pair {letter} {other}", 0) == seen
        assert row["length"] == len(one) == sum(value for name, value in row.items() if name.startswith("token "))
    assert table["entropy"].tolist() == numbers["entropy"]
    assert not [name for name in response_features(tokens, pairs=False) if name.startswith("pair ")]


def test_no_two_pairs_share_a_name():
    "A space in a token is not the space between tokens; names without one stay plain."
    said = [["a b", "c"], ["a", "b c"], ["a", "b"], ["", "a b"], ["", "a"], ["'a'", "'b'"], [" ", "'"]]
    counts = response_features(said).filter(regex="^pair ")
    assert counts.shape == (len(said), len(said)) and (counts.sum(axis=1) == 1).all() and (counts.sum() == 1).all()
    assert {"pair a b", "pair 'a b' 'c'", "pair 'a' 'b c'"} < set(counts)


def test_psi_does_not_depend_on_the_order_of_responses():
    "To the last bit, with numbers of very different size among them."
    tokens, numbers = drawn(1, 60)
    numbers["large"] = [1e12 * x for x in numbers["entropy"][::-1]]
    order = np.random.default_rng(2).permutation(60)
    shuffled = {name: [values[i] for i in order] for name, values in numbers.items()}
    one = response_features(tokens, **numbers)
    other = response_features([tokens[i] for i in order], **shuffled)
    psi = feature_expectations({"as drawn": one, "shuffled": other})
    assert psi.loc["as drawn"].tolist() == psi.loc["shuffled"].tolist()
    assert not split_distances(psi, psi).to_numpy().any()


def test_a_linear_reward_has_the_value_w_times_psi():
    tokens, numbers = drawn(3)
    table = response_features(tokens, **numbers)
    w = pd.Series(np.random.default_rng(4).normal(size=table.shape[1]), table.columns)
    rewards = [math.fsum(row[name] * w[name] for name in table) for _, row in table.iterrows()]
    value = feature_expectations({"it": table}).loc["it"] @ w
    assert abs(value - math.fsum(rewards) / len(rewards)) < 1e-12


def test_a_count_that_a_policy_lacks_is_zero_and_a_number_is_an_error():
    some, others = response_features([list("ab")], entropy=[1.0]), response_features([list("cc")], entropy=[2.0])
    psi = feature_expectations({"ab": some, "cc": others})
    assert psi.loc["ab", "token c"] == psi.loc["cc", "pair a b"] == 0 and psi.loc["cc", "pair c c"] == 1
    with pytest.raises(ValueError, match="'cc' lack 'entropy'"):
        feature_expectations({"ab": some, "cc": others.drop(columns="entropy")})


def test_split_distances_are_products_of_differences():
    rng = np.random.default_rng(5)
    a, b = (pd.DataFrame(rng.normal(size=(5, 7)), columns=list("abcdefg")) for _ in range(2))
    unit = pd.Series(rng.random(4) + 0.5, list("gace"))
    found = split_distances(a, b, unit)
    for i in range(5):
        for j in range(5):
            one, other = ((half.loc[i, unit.index] - half.loc[j, unit.index]) / unit for half in (a, b))
            assert abs(found.loc[i, j] - one @ other) < 1e-12


def test_split_distances_have_no_bias():
    "The true distances within four standard errors, where the plain ones are far above them."
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(3, 30)) * 0.05
    halves = rng.normal(size=(2, 3000, 3, 30)) * 0.2 + truth
    frames = [[pd.DataFrame(one) for one in half] for half in halves]
    found = np.array([split_distances(a, b).to_numpy() for a, b in zip(*frames)])
    true = ((truth[:, None] - truth[None]) ** 2).sum(2)
    error = found.std(0) / math.sqrt(3000)
    assert (abs(found.mean(0) - true) <= 4 * error).all()
    plain = ((halves[0][:, :, None] - halves[0][:, None]) ** 2).sum(3).mean(0)
    assert (plain - true)[0, 1] > 20 * error[0, 1]


def test_a_map_keeps_all_distances_when_it_has_all_dimensions():
    rng = np.random.default_rng(7)
    psi = pd.DataFrame(rng.normal(size=(6, 4)) * [3, 1, 0.5, 2], columns=list("abcd"))
    unit = pd.Series([1.0, 2.0, 0.5, 3.0], list("abcd"))
    whole, flat = (policy_map(psi, unit, dimensions=n) for n in (4, 2))
    for places in (whole.place(psi),):
        apart = ((places[:, None] - places[None]) ** 2).sum(2)
        wanted = (((psi / unit).to_numpy()[:, None] - (psi / unit).to_numpy()[None]) ** 2).sum(2)
        np.testing.assert_allclose(apart, wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(flat.place(psi), whole.place(psi)[:, :2], rtol=0, atol=1e-12)
    assert math.isclose(sum(whole.shares), 1) and list(whole.shares) == sorted(whole.shares, reverse=True)
    np.testing.assert_allclose(whole.directions @ whole.directions.T, np.eye(4), rtol=0, atol=1e-12)
    assert (policy_map(-psi, unit).directions.max(1) >= abs(policy_map(-psi, unit).directions.min(1))).all()


def test_a_map_has_a_place_for_others():
    psi = pd.DataFrame({"token a": [0.0, 1.0, 2.0], "length": [1.0, 2.0, 4.0]}, ["x", "y", "z"])
    map_ = policy_map(psi, centre="x", dimensions=1)
    assert map_.place(psi)[0] == 0
    between = pd.DataFrame({"length": [1.5], "token b": [9.0], "token a": [0.5]})
    np.testing.assert_allclose(map_.place(between), map_.place(psi)[1:2] / 2, rtol=0, atol=1e-12)
    assert np.isfinite(map_.place(between.drop(columns="token a"))).all()
    with pytest.raises(ValueError, match="lacks 'length'"):
        map_.place(between.drop(columns="length"))


def looped_rank_n_contrast(points: torch.Tensor, values: torch.Tensor, temperature: float) -> float:
    "The formula of the paper, one term at a time."
    N, total = len(points), 0.0
    similar = [[math.exp(-math.dist(a, b) / temperature) for b in points.tolist()] for a in points.tolist()]
    for i in range(N):
        for j in range(N):
            if i == j:
                continue
            far = [k for k in range(N) if k != i and abs(values[i] - values[k]) >= abs(values[i] - values[j])]
            total -= math.log(similar[i][j] / sum(similar[i][k] for k in far))
    return total / (N * (N - 1))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_rank_n_contrast_is_that_of_a_loop_and_has_gradients(temperature):
    generator = torch.Generator().manual_seed(8)
    points = torch.randn(7, 3, generator=generator, dtype=torch.double, requires_grad=True)
    values = torch.tensor([0.0, 1.0, 1.0, 2.5, 4.0, 4.0, 9.0]).double()  # with ties
    loss = rank_n_contrast(points, values, temperature)
    assert abs(loss.item() - looped_rank_n_contrast(points.detach(), values, temperature)) < 1e-12
    loss.backward()
    assert torch.isfinite(points.grad).all() and points.grad.any()


def test_rank_n_contrast_of_whole_numbers():
    points, values = torch.tensor([[1], [2], [4]]), torch.tensor([False, True, True])
    assert rank_n_contrast(points, values) == rank_n_contrast(points.float(), values.float())


def test_two_points_have_no_loss_and_the_farthest_adds_none():
    assert rank_n_contrast(torch.tensor([[0.0, 1.0], [3.0, 4.0]]), torch.tensor([1.0, 5.0])) == 0
    points, values = torch.tensor([[0.0], [1.0], [7.0]]).double(), torch.tensor([0.0, 1.0, 3.0]).double()
    # Anchors 0 and 2 each have one nearer rival against the farthest; anchor 1's nearer one is 0.
    near = [(0, 1, 2), (1, 0, 2), (2, 1, 0)]  # anchor, its nearer by value, its farthest
    by_hand = 0.0
    for i, j, k in near:
        close, far = (math.exp(-abs(float(points[i] - points[m])) / 2) for m in (j, k))
        by_hand -= math.log(close / (close + far))
    assert abs(float(rank_n_contrast(points, values)) - by_hand / 6) < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: response_features("abc"), "tokens="),
        (lambda: response_features([]), "at least one"),
        (lambda: response_features(["abc"]), "a list of token texts"),
        (lambda: response_features([["a"]], length=[1.0]), "that name is taken"),
        (lambda: response_features([["a"]], entropy=[1.0, 2.0]), "entropy has 2 values for 1 responses"),
        (lambda: response_features([["a"]], entropy=[math.nan]), "entropy holds nan"),
        (lambda: response_features([["a"]], pairs=2), "pairs=2"),
        (lambda: feature_expectations({}), "at least one policy"),
        (lambda: split_distances(pd.DataFrame([[1.0]]), pd.DataFrame([[1.0, 2.0]])), r"first has the shape \(1, 1\)"),
        (lambda: policy_map(pd.DataFrame([[1.0, 2.0], [1.0, 2.0]])), "span 0"),
        (lambda: policy_map(pd.DataFrame([[1.0, 2.0], [2.0, 2.0]])), "dimensions=2"),
        (lambda: policy_map(pd.DataFrame([[1.0], [2.0]]), pd.Series([0.0]), dimensions=1), "a unit is positive"),
        (lambda: policy_map(pd.DataFrame([[1.0], [2.0]]), pd.Series([1.0], ["x"]), dimensions=1), "scale has 'x'"),
        (lambda: policy_map(pd.DataFrame([[1.0], [2.0]]), centre="start", dimensions=1), "centre='start'"),
        (lambda: rank_n_contrast(torch.zeros(3), torch.zeros(3)), "points has shape"),
        (lambda: rank_n_contrast(torch.zeros(3, 2), torch.zeros(4)), "values"),
        (lambda: rank_n_contrast(torch.zeros(3, 2), torch.zeros(3), 0.0), "temperature=0"),
        (lambda: response_features(None), "tokens=None"),
        (lambda: response_features([["a", None]]), r"tokens\[0\]\[1\]=None; each token must be a text"),
        (lambda: feature_expectations({"a": [1.0]}), r"features\['a'\]=\[1.0\] is of type list; pass a DataFrame"),
        (lambda: feature_expectations({"a": table(x=[1.0, math.nan])}), r"features\['a'\] has nan for 'x' of 1"),
        (lambda: feature_expectations({"a": table(x=[math.inf])}), "has inf for 'x' of 0"),
        (lambda: feature_expectations({"a": table(x=["b"])}), "holds what is no number"),
        (lambda: feature_expectations({"a": table(x=[])}), "has no rows"),
        (lambda: split_distances([1.0], table(x=[1.0])), r"first=\[1.0\] is of type list"),
        (lambda: split_distances(table(x=[1.0]), None), "second=None is of type NoneType"),
        (lambda: split_distances(table(x=[1.0]), table(x=[math.nan])), "second has nan for 'x' of 0"),
        (lambda: split_distances(*[table(x=[1.0])] * 2, pd.Series([], dtype=float)), "scale is empty"),
        (
            lambda: split_distances(*[table(x=[1.0])] * 2, pd.Series([1.0, 2.0], ["x", "x"])),
            "more than one unit of 'x'",
        ),
        (lambda: split_distances(*[table(x=[1.0])] * 2, {"x": 1.0}), "is of type dict; pass a Series"),
        (lambda: policy_map(np.eye(2)), "is of type ndarray; pass a DataFrame"),
        (lambda: policy_map(table(x=[1.0, 2.0, math.nan]), dimensions=1), "psi has nan for 'x' of 2"),
        (lambda: policy_map(table(x=[1.0, math.inf]), pd.Series([1.0], ["x"]), dimensions=1), "psi has inf"),
        (lambda: policy_map(table(x=[1.0, 2.0]).set_axis(["a", "a"]), dimensions=1), "more than one policy 'a'"),
        (lambda: policy_map(pd.DataFrame(np.eye(2), columns=["x", "x"])), "more than one column 'x'"),
        (lambda: policy_map(table(x=[0.1] * 3), pd.Series([1.0], ["x"]), dimensions=1), "the same for all 3 policies"),
        (lambda: policy_map(table(x=[0.1] * 3), dimensions=1), "span 0"),
        (lambda: rank_n_contrast([[1.0], [2.0]], torch.zeros(2)), "points=.*is of type list; pass a tensor"),
        (lambda: rank_n_contrast(torch.zeros(2, 1), np.zeros(2)), "values=.*is of type ndarray; pass a tensor"),
        (lambda: rank_n_contrast(torch.tensor([[1.0], [math.nan]]), torch.zeros(2)), "points holds nan"),
        (lambda: rank_n_contrast(torch.zeros(2, 1), torch.tensor([1.0, math.inf])), "values holds inf"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
