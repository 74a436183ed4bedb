"""Sweeps as tables: the numbers kept of a run, intervals and differences against plain arithmetic and simulation, and
refusals."""

import math
import random
import statistics

import pandas as pd
import pytest

from mpo_nb.drawing.seeds import seed_figure
from mpo_nb.evaluation.sweep_outcomes import difference_table, outcome, outcomes, seed_differences, seed_interval


def table(seeds: int = 5, effect: float = 0.1, rates=(1e-4, 1e-3), noise: float = 0.0) -> pd.DataFrame:
    rng = random.Random(0)
    rows = []
    for lr in rates:
        for seed in range(seeds):
            luck = rng.gauss(0, 1)  # a seed's own, shared by all methods
            rows += [
                dict(
                    method=m,
                    lr=lr,
                    seed=seed,
                    accuracy_sampled=luck + i * effect + noise * rng.gauss(0, 1),
                    clip_fraction=0.01 * i,
                )
                for i, m in enumerate(("token", "window", "block"))
            ]
    return pd.DataFrame(rows)


def test_last_evaluation_and_means_over_the_steps():
    rows = [
        dict(step=0, accuracy_sampled=0.1, entropy=9.0),
        dict(step=1, entropy=1.0),
        dict(step=2, entropy=2.0, accuracy_sampled=0.3, pass_at_8=0.6),
        dict(step=3, entropy=3.0, kl_ref=0.5),
    ]
    assert outcome(rows) == dict(accuracy_sampled=0.3, pass_at_8=0.6, entropy=2.0, kl_ref=0.5)
    with pytest.raises(ValueError, match="no training step"):
        outcome(rows[:1])


def test_a_row_for_each_run():
    frame = outcomes(
        {("token", 1): [dict(step=1, loss=0.5)], ("window", 1): [dict(step=1, loss=0.25)]}, ("method", "seed")
    )
    assert frame.to_dict("records") == [
        dict(method="token", seed=1, loss=0.5),
        dict(method="window", seed=1, loss=0.25),
    ]
    for key in ("token", ("token",)):
        with pytest.raises(ValueError, match="tuple of 2 values"):
            outcomes({key: []}, ("method", "seed"))


@pytest.mark.parametrize("n", [2, 5, 12])
def test_intervals_hold_the_mean_as_often_as_they_say(n):
    rng = random.Random(n)
    held = 0
    for _ in range(4000):
        mean, half = seed_interval([rng.gauss(3, 2) for _ in range(n)])
        held += abs(mean - 3) <= half
    assert 0.94 < held / 4000 < 0.96


def test_interval_by_hand():
    values = [0.1, 0.4, 0.3, 0.9, 0.2]
    mean, half = seed_interval(values)
    assert mean == pytest.approx(statistics.mean(values)) and half == pytest.approx(
        2.776 * statistics.stdev(values) / math.sqrt(5)
    )
    assert math.isnan(seed_interval([1.0])[1])
    with pytest.raises(ValueError, match="at least one run"):
        seed_interval([])


def test_what_seeds_share_cancels():
    "The accuracies spread by 1, the differences by nothing."
    found = seed_differences(table(), "token", within=("lr",))
    assert list(found.method) == ["window", "block"] * 2 and list(found.lr) == [1e-4] * 2 + [1e-3] * 2
    assert found["mean"].tolist() == pytest.approx([0.1, 0.2] * 2) and (found.high - found.low).abs().max() < 1e-9
    assert (seed_interval(table().query("method == 'token' and lr == 1e-4").accuracy_sampled)[1]) > 0.3


def test_order_of_rows_does_not_matter():
    frame = table(noise=0.3)
    shuffled = frame.sample(frac=1, random_state=1)
    a, b = (
        seed_differences(f, "token", within=("lr",)).sort_values(["lr", "method"]).reset_index(drop=True)
        for f in (frame, shuffled)
    )
    pd.testing.assert_frame_equal(a, b)


def test_stars_stand_where_zero_is_left_out():
    sure, unsure = (
        difference_table(seed_differences(table(effect=e, noise=0.05), "token", within=("lr",)), shown="token")
        for e in (1.0, 0.0)
    )
    assert sure.splitlines()[0] == "| lr | token | window | block |" and len(sure.splitlines()) == 6
    assert sure.count(" *") == 4 and unsure.count(" *") <= 1 and "| 0.0001 |" in sure and "+1.0" in sure


def test_missing_runs_and_columns_are_named():
    frame = table()
    with pytest.raises(ValueError, match="train what is missing"):
        seed_differences(frame.iloc[1:], "token", within=("lr",))
    with pytest.raises(ValueError, match="base='sentence' is not among .* token, window, block"):
        seed_differences(frame, "sentence", within=("lr",))
    with pytest.raises(ValueError, match="no column 'reward'"):
        seed_differences(frame, "token", within=("lr",), column="reward")
    with pytest.raises(ValueError, match="no column 'reward'"):
        seed_figure(frame, "lr", {"reward": "reward"})


def test_figure_draws_every_seed_and_the_means():
    frame = table(noise=0.3)
    figure = seed_figure(frame, "lr", {"accuracy_sampled": "accuracy", "clip_fraction": "clipped"}, by="method")
    points = [t for t in figure.data if t.mode == "markers"]
    lines = [t for t in figure.data if t.mode == "lines+markers"]
    assert (
        len(points) == len(lines) == 2 * 3 and all(len(t.x) == 10 for t in points) and all(len(t.x) == 2 for t in lines)
    )
    assert [t.name for t in lines if t.showlegend] == ["token", "window", "block"]
    window = frame.query("method == 'window'").groupby("lr").accuracy_sampled.mean()
    assert list(lines[1].y) == pytest.approx(list(window)) and lines[1].error_y.array[0] == pytest.approx(
        seed_interval(frame.query("method == 'window' and lr == 1e-4").accuracy_sampled)[1]
    )
    assert len({(t.line.color, t.line.dash, t.marker.symbol) for t in lines}) == 3


def test_a_panel_for_each_value():
    figure = seed_figure(table(), "method", {"accuracy_sampled": "accuracy"}, across="lr")
    assert [a.text for a in figure.layout.annotations] == ["accuracy, lr 0.0001", "accuracy, lr 0.001"]
    assert list(figure.layout.xaxis.ticktext) == ["token", "window", "block"]
