"Attempts before and after training: drawn beside a run without touching it, shown without a script."

import html
import re

import pytest
from small_runs import small

from mpo_nb.drawing.attempts import training_sentence
from mpo_nb.drawing.report import report_html
from mpo_nb.evaluation import evaluating
from mpo_nb.evaluation.evaluating import evaluate
from mpo_nb.models.loading import load
from mpo_nb.runs.attempts import load_attempts
from mpo_nb.runs.folder import Run
from mpo_nb.training.attempting import sample_attempts
from mpo_nb.training.trainer import Trainer
from mpo_nb.widgets import BeforeAfter, SideBySide


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run of two steps that has moved far, its folder, and the bytes that it wrote."
    config = small(tmp_path_factory.mktemp("attempts"), lr=3e-3, eval_every=2, eval_problems=8)
    Trainer(config).fit()
    folder = Run(config.output).path
    return folder, {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def drawn(run):
    return sample_attempts(run[0], problems=6, attempts=4)


def test_attempts_are_those_of_the_two_models_and_leave_the_run_as_it_was(run, drawn):
    folder, written = run
    assert all(path.read_bytes() == data for path, data in written.items())
    model, tokenizer = load("tiny", precision="float32", quiet=True)
    before = evaluate(model, tokenizer, "chain_sum", 6, (1, 4), max_new_tokens=48, progress=False)
    assert [r["samples"] for r in before.records] == [r["samples"] for r in drawn.before.records]
    assert drawn.step == 2 and drawn.before.settings["model"] != drawn.after.settings["model"]
    assert drawn.right(0) == tuple(
        sum(s["correct"] for s in e.records[0]["samples"]) for e in (drawn.before, drawn.after)
    )


def test_attempts_that_are_there_are_read(run, drawn, monkeypatch):
    monkeypatch.setattr(evaluating, "rollout", None)
    again = BeforeAfter(run[0]).attempts
    assert again.before.records == drawn.before.records and again.after.records == drawn.after.records


def test_every_attempt_can_be_read_without_styles_and_scripts(run, drawn):
    page = BeforeAfter(run[0]).html()
    words = html.unescape(re.sub(r"<[^>]*>", "", page))
    for side in (drawn.before, drawn.after):
        for record in side.records:
            assert record["problem"] in words and all(s["text"] in words for s in record["samples"])
    assert "<script" not in page and "class=" not in page and page.count("<details open") == 1
    assert "before training" in repr(BeforeAfter(run[0]))


def test_the_report_shows_them_and_says_what_training_did(run, drawn):
    page = report_html(run[0])
    assert "One problem, before and after training" in page and f"{drawn.label}: 4 attempts at each of 6" in page
    assert "With run, sampled accuracy" in page and "greedy accuracy" in page.split("<h2>")[0]


def test_a_run_beside_itself_shows_its_attempts(run, drawn):
    view = SideBySide(run[0])
    assert list(view.moments) == [2] and len(view.moments[2]) == 6 and view.moments[2][0].steps == (0, 2)


def test_overwriting_a_run_takes_its_attempts_along(run, drawn):
    files = Run(run[0])
    files.clear()
    assert load_attempts(run[0]) is None
    with pytest.raises(ValueError, match="run="):
        sample_attempts(run[0])


def measured(sampled: float, greedy: float, half: float = 0.03) -> dict:
    row = dict(accuracy_sampled=sampled, accuracy_greedy=greedy)
    for how in ("sampled", "greedy"):
        row |= {
            f"accuracy_{how}_low": row[f"accuracy_{how}"] - half,
            f"accuracy_{how}_high": row[f"accuracy_{how}"] + half,
        }
    return row


@pytest.mark.parametrize(
    "before, after, said, unsaid",
    [
        ((0.37, 0.97), (0.90, 0.95), "(sharpening).", "lost some"),
        ((0.37, 0.97), (0.90, 0.80), "(sharpening), and lost some", "also finds"),
        ((0.30, 0.50), (0.60, 0.70), "also finds answers now", "sharpening"),
        ((0.30, 0.50), (0.70, 0.52), "not sharpening alone", "(sharpening)"),
        ((0.37, 0.97), (0.39, 0.97), "no effect of training", "sharpening"),
        ((0.60, 0.97), (0.30, 0.97), "less often than before", "sharpening"),
    ],
)
def test_the_sentence_follows_the_numbers(before, after, said, unsaid):
    sentence = training_sentence("mpo", measured(*before), measured(*after))
    assert said in sentence and unsaid not in sentence
    assert f"{100 * after[0]:.0f}%" in sentence and f"{100 * after[1]:.0f}%" in sentence
