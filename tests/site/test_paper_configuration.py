"The study of the paper's configuration, made at a tiny size, and what its text says beside what its file holds."

import nbformat
import pandas as pd
import pytest
import torch

from mpo_nb.evaluation import detectable_effect, holm, seed_differences

STUDY = "nbs/studies/paper_configuration.ipynb"
TINY = dict(steps=1, prompts_per_step=2, eval_problems=4, eval_samples=8)


@pytest.fixture(scope="module")
def study(root, tmp_path_factory) -> dict:
    "What the study's cells define, up to the one that makes it; sizes are cut."
    cells = [cell.source for cell in nbformat.read(root / STUDY, 4).cells if cell.cell_type == "code"]
    names: dict = {"__name__": "study"}
    for source in cells:
        if "if make_again" in source:
            break
        exec(source, names)
    names["settings"].update(TINY)
    names["warm_steps"].update(many=2, few=1)
    names["folder"] = tmp_path_factory.mktemp("modules")
    return names


@pytest.fixture(scope="module")
def values(study):
    return study["KnownValues"](study["made"]("token", 1.0, 999), problems=16, seed=999)


def test_the_critic_knows_where_a_response_left_the_solution(study, values):
    trainer = study["made"]("token", 1.0, 999)
    r = trainer.sampler.sample(trainer.task.train[-8:], 8, seed=999)
    places, expected = values.places(r), values.values(r)
    for i, text in enumerate(r.texts):
        n = int(r.lengths[i])
        prompt = trainer.task.train[len(trainer.task.train) - 8 + i // 8]["prompt"]
        solution = study["demonstration"](dict(prompt=prompt))
        same = next((t for t, (a, b) in enumerate(zip(text, solution)) if a != b), min(len(text), len(solution)))
        strayed = (places[i, :n] % 2).tolist()
        assert strayed[: same + 1] == [0] * len(strayed[: same + 1]) and set(strayed[same + 1 :]) <= {
            int(text != solution)
        }
        assert places[i, 0] == 2 * (len(solution) + 1)  # the end token too
    assert ((0 <= expected) & (expected <= 1)).all()
    on_the_way = expected[(places % 2 == 0) & r.mask.bool()].mean()
    assert on_the_way > expected[(places % 2 == 1) & r.mask.bool()].mean(), "leaving the solution costs"


@pytest.mark.parametrize("method, lam", [("start", 0.0), ("token, 0.8 lr", 0.0), ("chained, OCC", 0.95)])
def test_a_run_gives_one_row_of_everything_that_the_page_shows(study, values, method, lam):
    row = study["train"](method, lam, 0, values)
    assert (row["method"], row["lam"], row["seed"]) == (method, lam, 0)
    assert all(0 <= row[name] <= 1 for name in ("accuracy_sampled", "accuracy_greedy", "pass_at_8"))
    assert row["pass_at_8"] >= row["accuracy_sampled"]
    assert (row["kl"] == 0) == (method == "start")
    assert (row["overlap"] > 0) == method.startswith("chained")
    if method == "token, 0.8 lr":
        assert study["configuration"](method, lam, 0).lr == pytest.approx(0.8 * study["settings"]["lr"])


def test_gradients_are_compared_over_pairs_of_batches(study, values):
    arms = {name: study["made"](name, 0.95, 999) for name in ("token", "chained, few")}
    batches = [study["batch_gradients"](arms, values, number, problems=2) for number in range(2)]
    found = study["products"](batches)
    assert {arm for arm, _ in batches[0]} == set(found.arm)
    assert len(found) == 4 * len(batches[0])
    for row in found[found.i == found.j].to_dict("records"):
        vector, token = (batches[row["i"]][arm, row["lam"]] for arm in (row["arm"], "token"))
        # Two orders of adding up float32 numbers of both signs, which differ from processor to processor.
        assert row["along"] == pytest.approx(float(vector @ token), rel=1e-3, abs=1e-8)
    one = batches[0]
    whole, part = one["chained, few", 0.95], one["chained, few: through the modules", 0.95]
    torch.testing.assert_close(whole - part, 0.8 * one["token", 0.95], rtol=0.2, atol=2e-3)  # column 0, its ends apart


def test_the_text_says_what_the_files_hold(root):
    text = nbformat.read(root / STUDY, 4).cells[1].source
    frame = pd.read_csv(root / "nbs" / "studies" / "paper_configuration.csv")
    gradients = pd.read_csv(root / "nbs" / "studies" / "paper_configuration_gradients.csv")
    sums = gradients[gradients.i != gradients.j].groupby(["arm", "lam"])[["along", "token"]].sum()
    projection = sums.along / sums.token
    for lam in (0.0, 0.95, 1.0):
        assert f"{projection['backbone', lam]:.3f} ±" in text and f"{projection['token, faded', lam]:.3f}" in text
    for form in ("chained", "parallel"):
        assert f"{projection[form + ': through the modules', 0.95]:.3f} ±" in text
    mean = frame.groupby(["method", "lam"])[["accuracy_sampled", "accuracy_greedy", "pass_at_8", "kl"]].mean()
    for method in ("backbone", "token", "token, 0.8 lr"):
        assert f"{mean.accuracy_sampled[method, 0.0]:.1%}" in text
    share = frame[frame.method == "chained, OCC"].mtp_trunk_gradient.mean()
    assert f"OCC let {share:.2f} of the gradient through" in text
    assert f"{mean.kl['backbone', 1.0]:.3f} against {mean.kl['token', 1.0]:.3f}" in text
    assert f"{mean.accuracy_greedy['start', 0.0]:.1%}" in text and f"{mean.pass_at_8['start', 0.0]:.1%}" in text


PLANNED = [  # method, base and lambda, in the order of the design
    *(("backbone", "token", lam) for lam in (0.0, 0.95, 1.0)),
    ("token, 0.8 lr", "token", 0.0),
    ("parallel", "backbone", 0.95),
    *(("chained", "backbone", lam) for lam in (0.95, 0.0, 1.0)),
    *((f"chained, {how}", "chained", 0.95) for how in ("few", "CE", "detached", "OCC")),
    ("parallel, few", "parallel", 0.95),
]


def test_every_planned_comparison_is_in_the_text_and_in_the_table(root):
    page = nbformat.read(root / STUDY, 4)
    text = page.cells[1].source
    frame = pd.read_csv(root / "nbs" / "studies" / "paper_configuration.csv")
    found = []
    for method, base, lam in PLANNED:
        pair = frame[frame.method.isin([base, method]) & (frame.lam == lam)]
        found.append(seed_differences(pair, base).assign(base=base, lam=lam))
    found = pd.concat(found, ignore_index=True)
    found["p_holm"] = holm(found.p.tolist())
    assert len(found) == 13 and not (found.p_holm < 0.05).any()
    assert "None of the 13 planned comparisons has a corrected *p* below 0.05" in text
    shown = next(
        o.data["text/markdown"]
        for c in page.cells
        if c.cell_type == "code"
        for o in c.get("outputs", [])
        if "sampled accuracy | λ" in str(o.get("data", {}).get("text/markdown", ""))
    )
    for row in found.to_dict("records"):
        points = [f"{100 * row[name]:+.1f}" for name in ("mean", "low", "high")]
        if row["method"] != "token, 0.8 lr":
            assert points[0].lstrip("+") in text and f"{points[1]} to {points[2]}" in text, row
        beginning = f"| {row['method']} minus {row['base']} | {row['lam']:g} | {points[0]} [{points[1]}, {points[2]}]"
        assert beginning in shown, beginning
    by = found.set_index(["method", "base", "lam"])
    few, smaller = by.loc[("parallel, few", "parallel", 0.95)], by.loc[("token, 0.8 lr", "token", 0.0)]
    parallel, last = by.loc[("parallel", "backbone", 0.95)], by.loc[("chained", "backbone", 1.0)]
    assert f"*p* {few.p:.2f} alone, {few.p_holm:.2f} after the correction" in text
    assert f"*p* {parallel.p:.2f} alone, {parallel.p_holm:.2f} after the correction" in text
    assert (
        found.p_holm.idxmin() == 3 and f"The nearest is the smaller step at $\\lambda=0$, {smaller.p_holm:.2f}." in text
    )
    seen = 100 * detectable_effect(5, 0.8, 0.05) * last.deviation
    assert f"less than {seen:.1f} points would rarely have been seen" in text


def test_the_text_says_how_much_modules_know(root):
    page = nbformat.read(root / STUDY, 4)
    text, plot = page.cells[1].source, next(c.source for c in page.cells if "Against the modules' accuracy" in c.source)
    frame = pd.read_csv(root / "nbs" / "studies" / "paper_configuration.csv")
    mean = frame[frame.lam == 0.95].groupby("method")[["overlap", "accuracy_sampled"]].mean()
    share = mean.overlap
    assert (
        f"share {share['parallel, few']:.0%} of the backbone's distribution, with 150 steps {share['parallel']:.0%}"
        in text
    )
    assert f"Chained ones share {share['chained, few']:.0%} and {share['chained']:.0%}." in text
    ends = mean.accuracy_sampled
    assert f"ends, {ends['chained, OCC']:.1%} beside {ends['chained, detached']:.1%}" in text
    least, most = (f"{share[m]:.0%}" for m in ("parallel, few", "chained"))
    said = f"{least} of agreement ends at {ends['parallel, few']:.1%}, {most} at {ends['chained']:.1%}"
    assert said in plot, said
    assert share.idxmin() == "parallel, few"


def test_the_files_hold_every_run_of_the_design(study, root):
    frame = pd.read_csv(root / "nbs" / "studies" / "paper_configuration.csv")
    assert not frame.duplicated(["method", "lam", "seed"]).any()
    wanted = {(method, lam, seed) for block in study["blocks"] for method, lam in block for seed in range(5)}
    assert set(zip(frame.method, frame.lam, frame.seed)) == wanted and len(wanted) == 85
    gradients = pd.read_csv(root / "nbs" / "studies" / "paper_configuration_gradients.csv")
    assert set(gradients.groupby(["arm", "lam"]).size()) == {64}
