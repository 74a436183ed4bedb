"Run All in a study draws what is committed. It trains nothing and overwrites nothing, until one switch is turned."

import ast
import subprocess
import sys
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
import torch

from mpo_nb.config import configured_recipe, described
from mpo_nb.evaluation import corrected_together, holm, seed_differences, seed_interval, student_p
from mpo_nb.recipes import recipe
from mpo_nb.runs import sample_traces, unsure_windows
from mpo_nb.runs.ratios import stack_traces

SWITCH = "make_again = False  # True: make the study again, and overwrite its files"
STUDIES = (
    "boundaries",
    "decision_length",
    "exact_mdp",
    "gradient_direction",
    "k_and_future",
    "look_ahead",
    "off_policy",
    "paper_configuration",
    "pretrained",
    "pretrained_seeds",
    "ratio_spread",
    "same_drift",
    "sample_traces",
    "tiny_model",
)
TRAINS = {"sweep", "fit", "train", "backward", "step"}  # calls that train
WRITES = {"to_csv", "write_whole", "writerows", "writerow", "save", "write_text", "save_pretrained"}
# Runs the code cells of the studies named. Whatever trains, or opens a file of the project to write, ends it.
GUARDED = """
import os, sys
from pathlib import Path
import nbformat, torch
from IPython.core.interactiveshell import InteractiveShell
import mpo_nb.training.sweeps, mpo_nb.training.trainer

root = Path.cwd()

def end(why):
    os.write(2, why.encode())
    os._exit(3)

def refuse(*_, **__):
    end("something was trained")

def watch(event, args):
    if event != "open" or not isinstance(args[0], (str, bytes)) or not args[2] & (os.O_WRONLY | os.O_RDWR):
        return
    path = Path(os.path.abspath(os.fsdecode(args[0])))
    if path.is_relative_to(root) and not path.is_relative_to(root / "runs") and "__pycache__" not in path.parts:
        end(f"{path} was opened to write")

torch.Tensor.backward = torch.optim.Optimizer.step = refuse
mpo_nb.training.sweeps.sweep = mpo_nb.training.trainer.Trainer.fit = refuse
sys.addaudithook(watch)
os.chdir(root / "nbs" / "studies")
for name in sys.argv[1:]:
    shell = InteractiveShell()
    for i, cell in enumerate(nbformat.read(f"{name}.ipynb", 4).cells):
        if cell.cell_type == "code" and not shell.run_cell(cell.source).success:
            raise SystemExit(f"{name} cell {i} failed")
"""


@pytest.fixture(scope="module")
def studies(root) -> dict:
    "The studies by name."
    found = {p.stem: nbformat.read(p, as_version=4) for p in sorted((root / "nbs" / "studies").glob("*.ipynb"))}
    return {name: notebook for name, notebook in found.items() if "index" not in name}


def code(notebook) -> list[str]:
    "The sources of the code cells."
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def called(tree: ast.AST) -> set[str]:
    "The names of what a piece of code calls, by their last part."
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {getattr(function, "attr", getattr(function, "id", "")) for function in calls}


def test_every_study_is_known(studies):
    assert tuple(studies) == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_one_switch_at_the_top(studies, name):
    "The first code cell, the same everywhere, with a sentence above it that says what turning it costs."
    notebook = studies[name]
    assert code(notebook)[0] == SWITCH
    at = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    text = notebook.cells[at - 1].source
    assert "Run All draws what is committed" in text and "`make_again`" in text
    assert not [source for source in code(notebook) if "#| slow" in source], "the switch takes the flag's place"


@pytest.mark.parametrize("name", STUDIES)
def test_what_makes_a_study_stands_behind_the_switch(studies, name):
    kept, free = set(), set()  # what is called behind the switch, and what always
    for source in code(studies[name]):
        for node in ast.parse(source).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "make_again":
                kept |= called(node)
            elif not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                free |= called(node)
    assert kept & TRAINS and kept & WRITES, f"nothing that trains, or writes, stands behind the switch: {kept}"
    assert not free & (TRAINS | WRITES), "this is called with the switch off"


@pytest.mark.slow
def test_run_all_trains_nothing_and_overwrites_nothing(root):
    done = subprocess.run([sys.executable, "-c", GUARDED, *STUDIES], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]


@pytest.mark.parametrize(
    "line", ["open('off_policy.csv', 'a').close()", "from mpo_nb.training import sweep\nsweep({})"], ids=["file", "run"]
)
def test_the_guard_notices(root, tmp_path, line):
    "A file that is opened to write, and a run that is begun."
    (tmp_path / "nbs" / "studies").mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(line)])
    nbformat.write(notebook, tmp_path / "nbs" / "studies" / "made.ipynb")
    done = subprocess.run([sys.executable, "-c", GUARDED, "made"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3 and ("opened to write" in done.stderr or "something was trained" in done.stderr)


# What makes the studies, at a tiny size


def cells_of(notebook, *wanted: str) -> str:
    "The code cells that hold some words, in order."
    found = [source for source in code(notebook) if any(words in source for words in wanted)]
    assert len(found) == len(wanted), wanted
    return "\n".join(found)


def tiny(settings: dict) -> None:
    "A run of a second."
    settings |= dict(steps=1, prompts_per_step=6, group_size=4, epochs=1, minibatches=1, eval_problems=3)
    settings |= dict(eval_samples=2, checkpoint_every=1)


def test_narrow_blocks_differ_from_the_wide_ones_in_the_range_alone(studies, tmp_path):
    names: dict = {}
    exec(cells_of(studies["boundaries"], "import pandas", "same = dict(", "clip_arms ="), names)
    names["folder"] = tmp_path
    for method in names["clip_arms"]:
        wide = configured_recipe(names["configuration"](method, 1e-4, 0))
        narrow = configured_recipe(names["narrow"](method, 0))
        assert wide.clip == (0.2, 0.2) and narrow.clip == (0.03, 0.03)
        assert described(replace(narrow, clip=wide.clip)) == described(wide)
    tiny(names["settings"])
    names["settings"]["eval_samples"] = 8
    row = names["clip_row"]("step", 0)
    assert row["kl_exact"] >= 0 and 0 <= row["accuracy_sampled"] <= row["pass_at_8"] <= 1


def test_a_run_of_k_and_future_has_its_exact_distance(studies, tmp_path):
    names: dict = {}
    exec(cells_of(studies["k_and_future"], "import pandas", "axes = (", "def train(key"), names)
    names["folder"] = tmp_path
    tiny(names["settings"])
    names["settings"]["steps"] = 2
    rows = names["train"](("K=3", "matched", 1e-3, 0))
    assert rows[0]["kl_exact"] is None and rows[1]["kl_exact"] == 0 < rows[2]["kl_exact"]
    assert "pass_at_2" in rows[-1] and names["train"](("K=3", "matched", 1e-3, 0)) == rows  # read, not trained again


def test_later_tokens_from_other_responses(studies):
    "Every place keeps its numbers, neighbours that move together no longer do, and a range clips what it is asked to."
    names: dict = {}
    exec(cells_of(studies["ratio_spread"], "import csv", "def measured("), names)
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(10) < torch.randint(4, 11, (600, 1), generator=g)
    shared = torch.randn(600, 1, generator=g)  # what the tokens of a response have in common
    delta = torch.where(mask, 0.1 * (shared + torch.randn(600, 10, generator=g)), 0.0)
    swapped = names["from_others"](delta, mask, g)
    for place in range(10):
        kept = mask[:, place]
        assert torch.equal(swapped[kept, place].sort().values, delta[kept, place].sort().values)
    actions = names["WindowActions"](4, 0.75)
    whole = mask & (mask.flip(1).long().cumsum(1).flip(1) >= 4)
    sign = torch.where(torch.rand(600, 1, generator=g) < 0.5, -1.0, 1.0).expand_as(delta)[whole]
    true, others = (
        names["window_row"](actions, names["window_terms"](delta, mask, 4, order, g), sign)
        for order in ("true", "other responses")
    )
    assert true["std"] > 1.3 * others["std"] and abs(others["std"] / others["std_independent"] - 1) < 0.05
    x = actions.log_ratio(delta, mask)[whole]
    assert abs(true["std"] - x.std()) < 1e-6
    clipped = names["clipped_shares"](x, names["narrowed"](true["range_by_share"]), sign)[1]
    assert abs(clipped - true["clipped_token"]) < 0.002


# What the texts say, from the files


def texts_of(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_where_the_runs_began(root, studies):
    before = pd.read_csv(root / "nbs" / "studies" / "tiny_model_before.csv").set_index("digits")
    four, five = before.loc["four"], before.loc["four and five"]
    both = (
        f"right in {100 * five.accuracy_sampled:.1f}% of sampled responses and {100 * five.accuracy_greedy:.1f}% of"
        f" greedy ones, and {100 * five.pass_at_8:.1f}% of the problems"
    )
    for name, k in (("k_and_future", 4), ("boundaries", 4), ("look_ahead", 3)):
        share = f"{100 * five[f'unsure_{k}']:.0f}% of windows of {('three', 'four')[k - 3]} hold two or more"
        assert both in texts_of(studies[name]) and share in texts_of(studies[name]), name
    text = texts_of(studies["off_policy"])
    assert f"{100 * four.accuracy_sampled:.1f}% of sampled responses are right" in text
    assert f"{100 * four.unsure_4:.0f}% of windows of four hold two or more" in text
    batch = stack_traces(sample_traces("word_problems"), recipe("grpo"))
    for name, k in (("off_policy", 4), ("look_ahead", 3)):
        share = unsure_windows(batch["old_logps"], batch["mask"], k)
        assert f"SmolLM2 was asked, {100 * share:.0f}% do" in texts_of(studies[name])


def test_what_survives_the_correction_on_the_page_of_boundaries(root, studies):
    frame = pd.read_csv(root / "nbs" / "studies" / "boundaries.csv")
    meant = frame[frame.method.isin(("random", "fixed 4", "fixed 7", "step", "surprise"))]
    text = texts_of(studies["boundaries"])
    for column, survive in (("accuracy_sampled", []), ("accuracy_greedy", ["step", "surprise"])):
        tables = [
            seed_differences(f, b, within=("lr",), column=column) for b, f in (("token", frame), ("random", meant))
        ]
        found = pd.concat(corrected_together(*tables))
        assert found[found.p_holm < 0.05].method.tolist() == survive
        for row in found[found.p_holm < 0.05].itertuples():
            assert f"{-100 * row.mean:.1f}" in text, row


def test_what_the_page_of_the_spread_says(root, studies):
    "Every number of its first paragraphs, from the file."
    frame = pd.read_csv(root / "nbs" / "studies" / "ratio_spread.csv")
    place = ["distance", "axis", "k", "future"]
    frame = frame[(frame.k > 1) & (frame.future > 0)]
    frame = frame[~((frame.axis == "future") & (frame.future == 0.2))]  # K=5 stands among the K
    wide = frame.pivot_table(index=[*place, "seed"], columns="order", values="std")
    ratios = wide["true"] / wide["other responses"]
    means = ratios.groupby(place).mean()
    assert len(means) == 26 and means.min() > 1
    axis, k = means.index.get_level_values("axis"), means.index.get_level_values("k")
    spread = texts_of(studies["ratio_spread"])
    few = means[(axis == "uniform") & (k <= 8)] - 1
    many = means[(axis == "uniform") & (k == 16)] - 1
    for words in (
        f"up to {100 * (means[axis != 'uniform'].max() - 1):.1f}% at shares of up to 40%",
        f"{100 * few.min():.1f}% to {100 * few.max():.1f}% for plain means of up to 8",
        f"by {100 * many.min():.0f}% and {100 * many.max():.0f}% for those of 16",
    ):
        assert words in spread, words
    groups = [(where, (runs - 1).tolist()) for where, runs in ratios.groupby(place)]
    left = [where for (where, _), p in zip(groups, holm([student_p(d) for _, d in groups])) if p < 0.05]
    assert left == [("far", "uniform", 16, 0.9375)]
    true = frame[frame.order == "true"].groupby(place)[["clipped", "clipped_token", "range_by_share"]].mean()
    near, far = (true.loc[(distance, "uniform", 5, 0.8)] for distance in ("near", "far"))
    assert f"from {100 * near.clipped_token:.2f}% to {100 * near.clipped:.2f}%" in spread
    assert f"from {100 * far.clipped_token:.2f}% to {100 * far.clipped:.2f}%" in spread
    assert (
        f"range of {near.range_by_share:.2f} times the token's" in spread
        and f"{far.range_by_share:.2f} times" in spread
    )
    five = frame[(frame.axis == "uniform") & (frame.k == 5)].groupby(["distance", "order"]).clipped.mean() * 100
    for distance in ("near", "far"):
        others, whole = five[distance, "other responses"], five[distance, "true"]
        assert f"{others:.2f}% against {whole:.2f}% {distance}" in spread
    assert f"({five['near', 'shuffled']:.2f}% and {five['far', 'shuffled']:.2f}%)" in spread


def test_what_the_narrow_range_gave(root, studies):
    "The numbers of the paragraph above the tables of the narrow arms."
    folder = root / "nbs" / "studies"
    narrow, wide = pd.read_csv(folder / "boundaries_clip.csv"), pd.read_csv(folder / "boundaries.csv")
    both = pd.concat([narrow, wide[wide.lr == 1e-4].assign(clip=0.2)])
    greedy = both.pivot_table(index="seed", columns=["method", "clip"], values="accuracy_greedy")
    text = texts_of(studies["boundaries"])
    for method in ("step", "fixed 4", "random"):
        mean, half = seed_interval((greedy[method, 0.03] - greedy[method, 0.2]).tolist())
        assert f"{100 * mean:.1f} " in text and f"({100 * (mean - half):.1f} to {100 * (mean + half):.1f})" in text
        assert f"{100 * (greedy['token', 0.2] - greedy[method, 0.03]).mean():.1f}" in text
    for column in ("accuracy_sampled", "accuracy_greedy", "pass_at_8"):
        for method in ("token", "step", "fixed 4", "random"):
            share = f"{100 * narrow[narrow.method == method][column].mean():.1f}%"
            assert share in text, (column, method, share)
