"""The page on soft Q per token: its sentences on ten steps of training, worked out from the file that it draws."""

import json

import nbformat
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def page(root):
    return nbformat.read(root / "nbs" / "papers" / "soft_q_per_token.ipynb", as_version=4)


@pytest.fixture(scope="module")
def runs(root):
    return pd.read_csv(root / "nbs" / "papers" / "soft_q_per_token.csv")


def interval(runs, arm, column):
    "Mean and Student's 95% interval of the differences to PPO, by hand."
    wide = runs.pivot(index="seed", columns="arm", values=column)
    d = wide[arm] - wide["PPO"]
    half = 2.776 * d.std() / len(d) ** 0.5  # four degrees of freedom
    return d.mean(), d.mean() - half, d.mean() + half


def test_three_arms_five_seeds_one_start(runs):
    assert {tuple(group.sort_values("seed").seed) for _, group in runs.groupby("arm")} == {(0, 1, 2, 3, 4)}
    assert list(runs.arm.unique()) == ["PPO", "soft Q", "soft Q, no copy"]
    assert runs.groupby("seed").accuracy_before.nunique().eq(1).all() and runs.greedy_before.nunique() == 1


def test_what_the_page_says_of_the_arms(runs):
    "PPO ahead in all seeds, intervals far from 0; greedy answers worse under all three, under PPO the least."
    sampled = runs.pivot(index="seed", columns="arm", values="accuracy_sampled")
    for arm in ("soft Q", "soft Q, no copy"):
        assert (sampled[arm] < sampled["PPO"]).all() and interval(runs, arm, "accuracy_sampled")[2] < -0.15
        there = runs[runs.arm == arm]
        assert abs((there.accuracy_sampled - there.accuracy_before).mean()) < 0.04
    fell = (runs.greedy_before - runs.accuracy_greedy).groupby(runs.arm).mean()
    assert (fell > 0).all() and fell.idxmin() == "PPO"
    wide = runs.pivot(index="seed", columns="arm", values="accuracy_greedy")
    d = wide["soft Q"] - wide["soft Q, no copy"]
    assert abs(d.mean()) < 2.776 * d.std() / 5**0.5  # whether the copy makes it worse cannot be told
    known = runs.groupby("arm").explained_variance.mean()
    assert known["soft Q, no copy"] < 0 < known["soft Q"]
    assert 22 < runs.response_length.mean() < 24 and round(100 * (1 - 0.995**40)) == 18


def test_stored_numbers_are_the_file_s(page, runs):
    text = json.dumps([cell.get("outputs", []) for cell in page.cells if cell.id == "softp0027"])
    for arm in ("soft Q", "soft Q, no copy"):
        told = "{:.3f} [{:.3f}, {:.3f}]".format(*interval(runs, arm, "accuracy_sampled"))
        assert told in text, (told, text[:600])


def test_nothing_is_trained_unless_it_is_asked_for(page):
    code = [cell.source for cell in page.cells if cell.cell_type == "code"]
    assert sum(source.count("make_again = False") for source in code) == 1
    assert all(source.startswith("if make_again:") for source in code if "sweep(" in source)


def test_no_page_says_that_nothing_trains(root):
    for name in ("nbs/papers/soft_q_per_token.ipynb", "nbs/papers/index.ipynb", "CHANGELOG.md", "README.md"):
        text = (root / name).read_text()
        assert "it trains nothing." not in text and "no recipe uses them" not in text, name
        assert "exact; nothing is trained" not in text and "has no Q head" not in text, name
