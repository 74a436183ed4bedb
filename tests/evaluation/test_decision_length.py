"The study of a decision's length: what makes it runs at tiny size, and its measures are what they are called."

import csv
import math
import os
from collections import Counter

import nbformat
import pandas as pd
import pytest
import torch

from mpo_nb.actions import TokenActions, WindowActions
from mpo_nb.sampling import rollout
from mpo_nb.tasks import chain_words


@pytest.fixture(scope="module")
def study(root, tmp_path_factory) -> dict:
    "The study's definitions, with the folder of its runs elsewhere."
    notebook = nbformat.read(root / "nbs" / "studies" / "decision_length.ipynb", 4)
    names: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "if make_again" in cell.source:
            break
        if cell.cell_type == "code":
            exec(cell.source, names)
    names["folder"] = tmp_path_factory.mktemp("decision_length")
    return names


@pytest.fixture(scope="module")
def tables(study) -> dict:
    "Base models, ranges and three runs, each as short as it can be; and all of it a second time."
    paths = {name: study["folder"] / f"{name}.csv" for name in ("bases", "ranges", "runs")}
    Arm = study["Arm"]
    wanted = [Arm(2, 1), Arm(2, 2, "block, shifted", "equal share"), Arm(2, 4, "window, plain mean", spread=False)]
    short = dict(steps=1, prompts_per_step=2, group_size=2)
    for _ in range(2):
        study["make_bases"](paths["bases"], [(2, True), (2, False)], shorter=200)
        study["make_ranges"](paths["ranges"], (2,), **short)
        study["train"](paths["runs"], paths["ranges"], wanted, **short)
    return {name: list(csv.DictReader(path.open())) for name, path in paths.items()}


def test_what_is_there_is_not_made_again(tables):
    assert [len(rows) for rows in tables.values()] == [2, 4, 3]
    numbers = [
        float(row[name]) for row in tables["runs"] for name in ("accuracy_sampled", "kl", "entropy", "clip_fraction")
    ]
    assert all(map(math.isfinite, numbers))
    assert tables["runs"][1]["scale"] == next(r["scale"] for r in tables["ranges"] if r["method"] == "block, aligned")
    assert tables["runs"][0]["scale"] == tables["runs"][2]["scale"] == "1"


def test_accuracy_without_sampling_is_that_of_the_sampler(study, tables):
    "What is sampled, taken for the answers, has the probability that the sampler says."
    path = study["base_path"](2)
    model = study["AutoModelForCausalLM"].from_pretrained(path)
    tokenizer = study["AutoTokenizer"].from_pretrained(path)
    test = chain_words(2, n_test=300).test
    r = rollout(model, tokenizer, [p["prompt"] for p in test], 1, 7, seed=3)
    spoken = [i for i in range(300) if r.finished[i] and r.lengths[i] == len(r.texts[i]) + 1]  # no special token in it
    length, _ = Counter(len(r.texts[i]) for i in spoken).most_common(1)[0]
    kept = [i for i in spoken if len(r.texts[i]) == length]
    assert len(kept) > 5
    asked = [dict(test[i], answer=r.texts[i]) for i in kept]
    found, greedy = study["answers_scored"](model, tokenizer, asked)
    torch.testing.assert_close(found, r.logps[kept].sum(1), rtol=1e-4, atol=1e-4)
    scores = study["exact_accuracy"](model, tokenizer, asked)
    p = found.double().exp()
    assert scores["accuracy_sampled"] == pytest.approx(float(p.mean()))
    assert scores["accuracy_pass_8"] == pytest.approx(float((1 - (1 - p) ** 8).mean()))
    assert scores["accuracy_greedy"] == pytest.approx(float(greedy.double().mean()))


@pytest.mark.parametrize("actions", [WindowActions(4, 0.75), WindowActions(2, 0.5)])
def test_the_scaled_range_clips_an_equal_share(study, actions):
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(12) < torch.tensor([[12], [9], [4]] * 400)
    seen = [(0.2 * torch.randn(1200, 12, generator=g), mask)]
    low, high = study["scaled_range"](study["equal_share"](actions, seen))

    def share(space, low, high):
        ratio = space.log_ratio(*seen[0])[mask].exp()
        return float(((ratio < 1 - low) | (ratio > 1 + high)).double().mean())

    assert share(actions, low, high) == pytest.approx(share(TokenActions(), 0.2, 0.2), abs=0.001)
    assert high < 0.2


def test_shifted_blocks_hold_two_halves(study):
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 0, 0]]).bool()
    delta = torch.tensor([[1.0, 2, 99, 3, 4, 5, 6, 7, 99, 99]])
    blocks = study["ShiftedBlocks"](4, 2)
    expected = torch.tensor([[1.5, 1.5, 0, 4.5, 4.5, 4.5, 4.5, 7, 0, 0]])
    torch.testing.assert_close(blocks.log_ratio(delta, mask), expected)
    x, y = torch.randn(1, 10), torch.randn(1, 10)
    forth, back = (blocks.log_ratio(x, mask) * y)[mask].sum(), (blocks.credit(y, mask) * x)[mask].sum()
    torch.testing.assert_close(forth, back)


def test_the_contrast_sees_a_diagonal_and_nothing_else(study):
    "Effects of d alone and of K alone drop out."
    rows = [vars(arm) for arm in study["arms"]()]
    frame = pd.DataFrame(rows)
    plain = 0.5 - 0.1 * frame.d + 0.03 * frame.k + 0.01 * frame.seed
    peak = 0.02 * (frame.d == frame.k) + 0.05 * (frame.method == "block, aligned")
    without = study["comparisons"](frame.assign(accuracy_sampled=plain))
    assert without["mean"].abs().max() < 1e-9
    found = study["comparisons"](frame.assign(accuracy_sampled=plain + peak))
    assert found["mean"].tolist() == pytest.approx([0.02, 0.02, 0.02, 0.05])


def test_every_arm_is_run_once(study):
    arms = study["arms"]()
    assert len(set(arms)) == len(arms) == 170
    assert os.fspath(study["base_path"](1, True)) == os.fspath(study["base_path"](1, False))


@pytest.fixture(scope="module")
def fives(root) -> dict[str, pd.DataFrame]:
    "The rows of the first five seeds, of the replication, and of both."
    frame = pd.read_csv(root / "nbs" / "studies" / "decision_length.csv", dtype={"range": str})
    return {"first": frame[frame.seed < 5], "again": frame[frame.seed >= 5], "all": frame}


@pytest.fixture(scope="module")
def summary(root) -> str:
    "What the page says first."
    return nbformat.read(root / "nbs" / "studies" / "decision_length.ipynb", 4).cells[1].source


def test_the_replication_has_all_its_runs_and_the_rest_is_said_to_lack(study, fives, summary):
    held = [study["Arm"](*row) for row in fives["all"][list(vars(study["Arm"](1, 1)))].itertuples(index=False)]
    planned = study["arms"]() + study["again_arms"]()
    assert len(held) == len(set(held)) == 190 and set(held) <= set(planned)
    left = set(planned) - set(held)
    assert len(left) == 45 and all(arm.k == 8 or not arm.spread for arm in left)
    assert "$K=8$ and words that repeat their sign, which the design names, were not run" in summary


def test_the_text_says_what_the_first_seeds_hold(study, fives, summary):
    "Every number of the summary that is a comparison's, from the rows of the first five seeds."
    first = fives["first"]
    found = study["comparisons"](first).set_index("comparison")
    points = 100 * found[["mean", "low", "high"]]
    for name, said in {
        "C, plain mean, equal share": "by {mean:.1f} points ({low:.1f} to {high:.1f})",
        "C, plain mean, range 0.2": "{mean:.1f} points ({low:.1f} to {high:.1f})",
        "C, 20% future, range 0.2": "{mean:.1f} ({low:.1f} to {high:.1f})",
        "aligned minus shifted blocks": "{mean:.1f} points above blocks of the same length that straddle two of them,"
        " with an interval from {low:.1f} to {high:.1f}.",
    }.items():
        assert said.format(**points.loc[name]) in summary, said.format(**points.loc[name])
    corrected = found["p_holm"]
    assert f"a *p* of {corrected['C, plain mean, equal share']:.3f}" in summary and (corrected < 0.05).sum() == 1
    means = first[first.range.eq("0.2") & first.d.eq(1)].groupby(["method", "k"]).accuracy_sampled.mean()
    gain = means["window, plain mean", 2] - means["token", 1]
    assert f"at $d=1$ too, {100 * gain:.1f} points for $K=2$ at a range of 0.2" in summary


def test_the_text_says_what_the_replication_found(study, fives, summary):
    found = {name: study["comparisons"](rows, names=study["replicated"]) for name, rows in fives.items()}
    diagonal, blocks = (found["again"].loc[i] for i in (0, 1))
    assert diagonal.p_holm > 0.05 and "**not found.**" in summary
    points = {
        name: 100 * table[["mean", "low", "high", "detectable", "detectable_corrected"]]
        for name, table in found.items()
    }
    for name, row, said in (
        ("again", 0, f"{{mean:.1f}} points ({{low:.1f}} to {{high:.1f}}), a *p* of {diagonal.p_holm:.3f} after"),
        ("all", 0, "All ten seeds together say {mean:.1f} ({low:.1f} to {high:.1f}), which is no test"),
        ("again", 0, "would have seen {detectable:.1f} points four times in five, {detectable_corrected:.1f} with"),
        ("again", 1, "it is {mean:.1f} points ({low:.1f} to {high:.1f}), where {detectable:.1f} would have been seen"),
        ("again", 1, "four times in five, {detectable_corrected:.1f} with the correction. All ten"),
        ("all", 1, "All ten: {mean:.1f} ({low:.1f} to {high:.1f})"),
    ):
        assert said.format(**points[name].loc[row]) in summary, said.format(**points[name].loc[row])
    assert all(table.high[0] < 2 for table in points.values())  # "two points or more ... lies outside the intervals"


def test_the_text_says_what_came_again(study, fives, summary):
    "The other outcomes of the contrast, in both fives, and the best of three K."
    names = ["accuracy_greedy", "accuracy_pass_8", "kl", "entropy"]
    both = {
        column: [study["comparisons"](fives[name], column, study["replicated"]).loc[0] for name in ("first", "again")]
        for column in names
    }
    greedy, pass_8, kl, entropy = ([row["mean"] for row in both[column]] for column in names)
    assert "drifted further, by {:.2f} nats and then {:.2f},".format(*kl) in summary
    assert "less entropy, by {:.2f} nats and then {:.2f};".format(*(-x for x in entropy)) in summary
    assert "the contrast is {:.1f} points and then {:.1f},".format(*(100 * x for x in greedy)) in summary
    assert "for pass@8 {:.1f} and then {:.1f};".format(*(100 * x for x in pass_8)) in summary
    assert all(row.low * row.high > 0 for column in names[2:] for row in both[column])
    assert all(row.low * row.high < 0 for column in names[:2] for row in both[column])
    best = []
    for name in ("first", "again"):
        rows = fives[name]
        drawn = rows[(rows.range.eq("equal share") & rows.method.eq("window, plain mean")) | rows.k.eq(1)]
        means = drawn.groupby(["d", "k"]).accuracy_sampled.mean()
        best += [means[d].idxmax() for d in (1, 2, 4)]
        greedy = 100 * rows[rows.d == 4].groupby(["method", "range", "k"]).accuracy_greedy.mean()
        assert f"between {greedy.min():.1f}% and {greedy.max():.1f}%" in summary
    assert "{}, {} and {} for $d=1$, 2 and 4 in the first five seeds, and {}, {} and {} in".format(*best) in summary


def test_both_fives_stand_in_the_table_of_the_page(study, fives, root):
    page = nbformat.read(root / "nbs" / "studies" / "decision_length.ipynb", 4)
    shown = [
        o for c in page.cells if "fives_table(first" in c.source and c.cell_type == "code" for o in c.get("outputs", [])
    ]
    table = shown[0].data["text/markdown"].splitlines()
    assert len(table) == 2 + 2 * 5
    found = study["comparisons"](fives["again"], "kl", study["replicated"]).loc[0]
    assert f"+{100 * found['mean']:.2f} [+{100 * found.low:.2f}, +{100 * found.high:.2f}]" in table[5]
