"What makes a study, at tiny size: the code of its page runs, and what it holds its numbers to is so."

import re
import sys
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
import torch

from mpo_nb.evaluation import corrected_together, power_line, seed_differences, seed_interval
from mpo_nb.losses import policy_loss
from mpo_nb.models import load
from mpo_nb.models.logprobs import response_logps
from mpo_nb.tasks import load_task


@pytest.fixture
def definitions(root, monkeypatch):
    "The code of a study up to its last cell behind the switch, run with the switch off."
    monkeypatch.chdir(root / "nbs" / "studies")
    monkeypatch.syspath_prepend(str(root / "scripts"))
    monkeypatch.delitem(sys.modules, "study", raising=False)

    def run(name: str) -> dict:
        from study import source

        space = {"__name__": "study"}
        exec(source(name).replace("make_again = True", "make_again = False", 1), space)
        return space

    return run


def make(space: dict, code: str) -> None:
    "What stands behind the switch of a study's last cell, in the space of its definitions."
    exec(code[code.rindex("if make_again:") :], space | {"make_again": True})


@pytest.fixture
def source(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    from study import source

    return source


def test_the_shell_turns_the_switch_and_stops_where_the_study_is_made(source):
    code = source("gradient_direction")
    assert "make_again = True" in code and "make_again = False" not in code
    assert code.rindex("if make_again:") > code.rindex("def ")


def test_every_page_with_a_switch_is_made_from_the_shell(root, source):
    "Pages on papers and lessons too, whose cells have lines that are no Python."
    pages = [p for p in (root / "nbs").rglob("*/*.ipynb") if "make_again = False" in p.read_text(encoding="utf-8")]
    assert len(pages) >= 20
    for page in pages:
        code = source(page.stem)
        compile(code, page.stem, "exec")
        assert "make_again = True" in code and "make_again = False" not in code


def test_the_shell_names_the_studies(source):
    with pytest.raises(ValueError, match="name='gradients' is no study; choose of .*gradient_direction"):
        source("gradients")


# The pretrained model, seed by seed


def test_both_pages_have_the_same_task(root, definitions):
    "Problem by problem; the longer runs' page defines it first."
    space = definitions("pretrained_seeds")
    cells = [cell.source for cell in nbformat.read(root / "nbs/studies/pretrained.ipynb", 4).cells]
    other = dict(space)
    exec(next(cell for cell in cells if "def word_sums" in cell), other)
    ours, theirs = space["word_sums"](), other["word_sums"]()
    assert (ours.train, ours.test) == (theirs.train, theirs.test)


def test_seeds_are_made_once(definitions, source, tmp_path):
    "Two arms of one seed with the tiny model; the second call makes nothing again."
    space = definitions("pretrained_seeds")
    model = (*load("tiny", precision="float32", quiet=True), "tiny")
    small = dict(lora_rank=2, steps=1, prompts_per_step=2, group_size=4, epochs=1, minibatches=2, precision="float32")
    arms = {name: space["arms"][name] for name in ("token", "sequence mean")}
    space.update(folder=tmp_path, table=tmp_path / "made.csv", held_out=3, seeds=[0], arms=arms)
    space.update(base_model=lambda: model, word_sums=lambda: load_task("chain_sum"))
    space["settings"].update(small)
    code = source("pretrained_seeds")
    make(space, code)
    frame = pd.read_csv(tmp_path / "made.csv")
    assert frame.arm.tolist() == ["before", "token", "sequence mean"]
    trained = frame[frame.arm != "before"]
    assert (trained.kl > 0).all() and (trained.kl < 0.1).all() and (trained.entropy > 0).all()
    assert frame[["sampled", "greedy", "pass_at_8"]].stack().between(0, 1).all()
    space["train"] = None  # nothing is to be called again
    make(space, code)
    assert pd.read_csv(tmp_path / "made.csv").equals(frame)


def test_distance_is_nothing_before_training(definitions):
    "Adapters begin as the identity: the divergence is 0, and the entropy is that of the model."
    space = definitions("pretrained_seeds")
    space["held_out"] = 3
    model, tokenizer = load("tiny", precision="float32", lora_rank=2, quiet=True)
    found = space["distance"](model, tokenizer, load_task("chain_sum"))
    assert abs(found["kl"]) < 1e-6 and found["entropy"] > 0


# The direction of a stale gradient


@pytest.fixture(scope="module")
def few():
    "The tiny model and four of its responses to each of two problems."
    from mpo_nb.sampling import rollout
    from mpo_nb.tasks.prompts import render_prompt

    model, tokenizer = load("tiny", precision="float32", quiet=True)
    model.requires_grad_(False)
    task = load_task("chain_sum")
    prompts = [render_prompt(tokenizer, task, problem) for problem in task.train[:2]]
    return model, rollout(model, tokenizer, prompts, 4, 48, seed=3)


@pytest.mark.parametrize("unit", ["token", "window of 4, 20%", "sequence, mean"])
def test_outer_products_are_autograds_gradient(definitions, few, unit):
    space = definitions("gradient_direction")
    model, r = few
    logps, _, tokens = space["slopes"](model, r, 1.0)
    A = torch.linspace(-1, 1, len(r.ids))
    moved = torch.where(r.mask.bool(), r.logps - 0.1 * torch.sin(torch.arange(r.ids.shape[1])), 0)  # an older policy
    batch = space["Parts"](r, A, logps, None, tokens)
    given, _ = space["credit"](unit, batch, A, 1.0, old=moved)
    found = space["gradients"]([batch], [given])[0]
    weights = [module.weight for module in space["last_matrices"](model)]
    for weight in weights:
        weight.requires_grad_(True)
    logps, _ = response_logps(model, r.prompt_ids, r.prompt_mask, r.ids, r.mask)
    space_of = space["units"][unit](r.mask)
    loss = policy_loss(logps, moved, A, r.mask, space_of, (0.2, 0.2), aggregate="seq-mean-token-mean").loss
    wanted = torch.autograd.grad(-loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in wanted]), rtol=1e-4, atol=1e-7)


def test_joint_units_are_the_token_where_nothing_moved(definitions, few):
    space = definitions("gradient_direction")
    model, r = few
    logps, _, tokens = space["slopes"](model, r, 1.0)
    A = torch.linspace(-1, 1, len(r.ids))
    batch = space["Parts"](r, A, logps, None, tokens)
    token, _ = space["credit"]("token", batch, A, None, old=logps)
    for unit in ("block of 4, joint", "block of 4, mean", "sequence, joint", "sequence, mean"):
        torch.testing.assert_close(space["credit"](unit, batch, A, None, old=logps)[0], token)


def test_matched_ranges_clip_as_many(definitions, few):
    space = definitions("gradient_direction")
    model, r = few
    logps, _, tokens = space["slopes"](model, r, 1.0)
    generator = torch.Generator().manual_seed(0)
    moved = logps + 0.3 * torch.randn(logps.shape, generator=generator) * r.mask
    A = torch.tensor([1.0, -1.0, 1.0, -1.0] * 2)
    batch = space["Parts"](replace(r, logps=moved), A, logps, None, tokens)
    found = space["ranges"]([batch], [A])
    shares = {unit: space["credit"](unit, batch, A, found[unit])[1] for unit in ("token", "window of 4, mean")}
    assert abs(found["token"] - 1) < 0.3 and abs(shares["window of 4, mean"] - shares["token"]) < 0.03


def test_statistics_find_what_was_put_in(definitions):
    "Gradients with a known mean and noise: signal to noise, cosine and worth, within their intervals."
    space = definitions("gradient_direction")
    generator = torch.Generator().manual_seed(1)
    d, n, batches = 400, 8, 64
    first, second = torch.eye(d)[:2]
    spread = (n * 0.5 / d) ** 0.5 / n**0.5  # of a batch mean: the noise of one response sums to 4
    G = 0.6 * first + 0.8 * second + spread * torch.randn(batches, d, generator=generator)
    R = first + spread * torch.randn(batches, d, generator=generator)
    found = space["statistics"](G, R, n)
    for name, true in dict(snr=1 / 4, cosine=0.6, worth=0.36).items():
        assert found[f"{name}_low"] < true < found[f"{name}_high"], (name, found)
        assert abs(found[name] - true) < 0.15 * true, (name, found)
    assert abs(found["length"] - 1) < 0.1 and found["plain_cosine"] < found["cosine"]
    assert space["halves"](R) > 0.95 and abs(space["halves"](R - first)) < 0.3


def test_a_policy_in_small(definitions, source, tmp_path):
    "Every unit with every range, at both distances, and with a critic; the second call makes nothing again."
    space = definitions("gradient_direction")
    space.update(folder=tmp_path, table=tmp_path / "made.csv", lags=(2, 4), seeds=[0])
    space["settings"] |= dict(prompts_per_step=2)
    small = dict(fresh=4, problems=2)
    space["parts"] = dict(
        stale=lambda seed: space["stale_rows"](seed, stale=3, **small),
        critic=lambda seed: space["critic_rows"](seed, updates=2, **small),
        uncorrected=lambda seed: space["stale_rows"](seed, stale=3, of=space["uncorrected"], **small),
    )
    code = source("gradient_direction")
    make(space, code)
    frame = pd.read_csv(tmp_path / "made.csv")
    stale = frame[(frame.part == "stale") & (frame.lag == 4)]
    assert set(stale.unit) == {"fresh", *space["units"]} and len(stale) == 1 + 3 * len(space["units"]) - 1
    assert stale[stale.unit == "fresh"].cosine.item() == pytest.approx(1)
    assert (stale.kl > 0).all() and (frame[frame.part == "critic"].lam.dropna().unique() == [0, 0.95]).all()
    plain = frame[frame.unit == "no ratio"]
    assert plain.lag.tolist() == [2, 4] and (plain.snr_low <= plain.snr).all() and (plain.snr <= plain.snr_high).all()
    space["parts"] = {part: None for part in space["parts"]}  # nothing is to be called again
    make(space, code)
    assert pd.read_csv(tmp_path / "made.csv").equals(frame)


GRADIENTS = [  # (distance, unit, range, column) that the page gives as a mean over policies with its interval
    (8, "token", "none", "cosine"),
    (8, "token", "same", "cosine"),
    (8, "token", "none", "snr"),
    (8, "token", "same", "snr"),
    (32, "token", "same", "worth"),
    (8, "window of 4, mean", "share", "cosine"),
    (8, "window of 4, 20%", "share", "cosine"),
    (8, "sequence, mean", "share", "cosine"),
    (32, "token", "none", "snr"),
    (32, "window of 4, 20%", "none", "snr"),
    (32, "window of 4, mean", "none", "snr"),
    (32, "sequence, mean", "none", "snr"),
    (32, "token", "none", "cosine"),
    (32, "window of 4, 20%", "none", "cosine"),
    (32, "window of 4, mean", "none", "cosine"),
    (32, "sequence, mean", "none", "cosine"),
    (32, "sequence, joint", "none", "cosine"),
    (32, "sequence, joint", "none", "snr"),
    (32, "no ratio", "none", "cosine"),
    (32, "no ratio", "none", "snr"),
    (32, "no ratio", "none", "worth"),
    (32, "sequence, mean", "none", "worth"),
    (32, "window of 4, mean", "share", "worth"),
]
CRITICS = [
    (0.95, "token", "snr"),
    (0.95, "window of 4, 20%", "snr"),
    (0.95, "window of 4, mean", "snr"),
    (0.0, "token", "cosine"),
]


def said(values: pd.Series, column: str) -> str:
    "A mean over policies with its interval, as the page writes it."
    mean, half = seed_interval(values * (1000 if column == "snr" else 1))
    return f"{mean:.2f} ({mean - half:.2f} to {mean + half:.2f})".replace("-", "−")


def test_what_the_page_says_is_in_its_table(root):
    "Means over the policies that are there, with Student's intervals."
    text = nbformat.read(root / "nbs/studies/gradient_direction.ipynb", 4).cells[1].source
    frame = pd.read_csv(root / "nbs/studies/gradient_direction.csv")
    stale = frame[(frame.part != "critic") & (frame.unit != "fresh")]
    for lag, unit, kind, column in GRADIENTS:
        rows = stale[(stale.lag == lag) & (stale.unit == unit) & (stale.range == kind)]
        assert said(rows[column], column) in text, (lag, unit, kind, column)
    critic = frame[frame.part == "critic"]
    for lam, unit, column in CRITICS:
        rows = critic[(critic.lam == lam) & (critic.unit == unit)]
        assert said(rows[column], column) in text, (lam, unit, column)
    clipped = stale[(stale.unit == "token") & (stale.range == "same")].groupby("lag").clipped.mean()
    drifts = stale.groupby(["lag", "seed"]).kl.first().groupby("lag").mean()
    assert all(f"{100 * share:.1f}% " in text or f"{100 * share:.1f}%," in text for share in clipped)
    assert all(f"{drift:.3f}" in text for drift in drifts)


def test_what_the_seeds_page_says_is_in_its_table(root):
    text = nbformat.read(root / "nbs/studies/pretrained_seeds.ipynb", 4).cells[1].source
    frame = pd.read_csv(root / "nbs/studies/pretrained_seeds.csv")
    before = frame[frame.arm == "before"].iloc[0]
    for name in ("sampled", "greedy", "pass_at_8"):
        assert f"{100 * before[name]:.1f}%" in text
    runs = frame[frame.arm != "before"]
    seeds = runs.groupby("seed").arm.nunique()
    means = runs[runs.seed.isin(seeds.index[seeds == 4])].groupby("arm", sort=False).mean(numeric_only=True)
    sampled = [f"{100 * share:.1f}% with" for share in means.sampled]
    assert sampled == [part for part in re.findall(r"[\d.]+% with", text)]
    for name in ("greedy", "pass_at_8"):
        first, second, third, fourth = (f"{100 * share:.1f}%" for share in means[name])
        assert f"{first}, {second}, {third} and {fourth}" in text
    assert all(f"{drift:.3f}" in text for drift in means.kl)
    assert f"{100 * means.training_clip_fraction.max():.1f}%" in text
    assert f"{means.entropy.min():.2f} nats per token beside {means.entropy['token']:.2f}" in text
    for name, column in (("sampled", "sampled"), ("greedy", "greedy"), ("pass@8", "pass_at_8")):
        low = (runs[column] <= before[column]).sum()
        assert {0: "", 1: "one pass@8", 3: "Three greedy results"}[int(low)] in text, name


def test_the_differences_on_the_seeds_page_are_those_of_its_table(root):
    text = nbformat.read(root / "nbs/studies/pretrained_seeds.ipynb", 4).cells[1].source
    runs = pd.read_csv(root / "nbs/studies/pretrained_seeds.csv").query("arm != 'before'")
    assert sorted(runs.seed.unique()) == list(range(6)) and len(runs) == 24
    long = runs.melt(["arm", "seed"], ["sampled", "greedy", "pass_at_8"], "measure", "share")
    over_token = seed_differences(long, "token", by="arm", within=("measure",), column="share")
    windows = long[long.arm.isin(("token, range times 3", "window, 20% future"))]
    over_wide = seed_differences(windows, "token, range times 3", by="arm", within=("measure",), column="share")
    tables = corrected_together(over_token, over_wide)
    both = pd.concat(tables)
    alone = both[(both.low > 0) | (both.high < 0)]
    assert len(alone) == 1 and (both.p_holm > 0.05).all()
    told = {
        ("sampled", "sequence mean"): "6.8 points above the token when sampled (1.4 to 12.1, *p* = 0.022)",
        ("sampled", "window, 20% future"): "3.7 points above the token when sampled (-4.2 to 11.7)",
        ("greedy", "window, 20% future"): "2.1 below it in greedy accuracy (-11.1 to 6.9)",
        ("pass_at_8", "sequence mean"): "12.1 points below the token (-25.1 to 0.9)",
    }
    rows = tables[0].set_index(["measure", "arm"])
    for key, words in told.items():
        assert words in text
        low, high = (f"{100 * rows.loc[key, end]:.1f}" for end in ("low", "high"))
        assert f"{abs(100 * rows.loc[key, 'mean']):.1f}" == words.split()[0] and f"({low} to {high}" in words
    first = rows.loc["sampled", "sequence mean"]
    assert f"*p* = {first.p:.3f}" in text and f"takes that *p* to {first.p_holm:.2f}" in text
    drift = runs.pivot(index="seed", columns="arm", values="kl")
    for arm in ("window, 20% future", "token, range times 3", "sequence mean"):
        mean, half = seed_interval((drift[arm] - drift["token"]).tolist())
        assert f"{mean:.3f} ± {half:.3f}" in text, arm
    lead = long[long.measure == "sampled"].pivot(index="seed", columns="arm", values="share")
    assert (lead["sequence mean"] > lead["token"]).all()
    assert "difference of 14 points (median)" in text and "difference of 14 points (median" in power_line(both)
    assert "one of 25 points after the correction" in text and "one of 25 points" in power_line(both)
