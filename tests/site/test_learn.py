"""The lessons run as they stand, their exercises check what a reader answers, and their words are the glossary's; the
Colab lesson also fits the models and cards that it names, without loading them."""

import ast
import html
import importlib.util
import re
import string
import subprocess
import sys
from configparser import ConfigParser
from functools import partial
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import torch
from surfaces import fresh_outputs

import mpo_nb.models.loading
import mpo_nb.planning.plan
import mpo_nb.tasks.task
from mpo_nb.drawing import check_answer
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.planning.plan import cards, context_bytes, plan_memory
from mpo_nb.runs import sample_traces
from mpo_nb.tasks import load_task
from mpo_nb.widgets import weight_map

SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": dict(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, tie_word_embeddings=True
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": dict(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, tie_word_embeddings=True
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": dict(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        tie_word_embeddings=False,
    ),
}
CARDS = {
    "T4": ("T4", "Tesla T4", False),
    "L4": ("L4", "NVIDIA L4", True),
    "A100": ("A100 40 GB", "NVIDIA A100-SXM4-40GB", True),
}
SWITCH = 'MODEL = "tiny"'
LONGER = 217  # characters that make a prompt 300 tokens long, more than GSM8K's longest has


@pytest.fixture(scope="module")
def lesson(root):
    return nbformat.read(root / "nbs" / "learn" / "colab_gsm8k.ipynb", as_version=4)


@pytest.fixture(scope="module")
def code(lesson) -> list[str]:
    return [cell.source for cell in lesson.cells if cell.cell_type == "code"]


def test_every_cell_runs_everywhere(lesson, code):
    "One switch, and no cell that is left out of tests or kept off the page."
    assert not [source for source in code if re.search(r"^#\|(?! code-)", source, re.MULTILINE)]
    assert [source for source in code if "tiny" in source and re.search(r"^MODEL *=", source, re.MULTILINE)] == [SWITCH]
    assert len(lesson.cells) <= 60


def first_cell(source: str, shell) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})


def test_outside_colab_the_first_cell_does_nothing(code, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    before = set(sys.modules)
    first_cell(code[0], shell=None)  # a shell command would fail
    assert not [name for name in set(sys.modules) - before if name.startswith("google")]


def test_in_colab_the_first_cell_installs_from_the_repository(root, code, monkeypatch):
    done = []
    colab = ModuleType("google.colab")
    colab.drive = SimpleNamespace(mount=lambda where: done.append(where))
    colab.output = SimpleNamespace(enable_custom_widget_manager=lambda: done.append("widgets"))
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    first_cell(code[0], SimpleNamespace(system=done.append))
    settings = ConfigParser()
    settings.read(root / "settings.ini")
    assert done == [f'pip install -q "git+{settings["DEFAULT"]["git_url"]}"', "widgets", "/content/drive"]


COURSE = dict(
    one_action=1, ratios_and_clipping=2, where_advantage_goes=3, train_in_three_minutes=4, looking_ahead=5, own_task=7
)


def check_badges(cells, name: str, user: str):
    "A lesson opens in Colab, and in the JupyterLab of `make lab`, whose root is nbs/."
    text = next(cell.source for cell in cells if "badge" in cell.source)
    assert re.findall(r"\[!\[(.*?)\]\((.*?)\)\]\((.*?)\)", text) == [
        (
            "Open in Colab",
            "../images/badge-colab.svg",
            f"https://colab.research.google.com/github/{user}/mpo_nb/blob/main/nbs/learn/{name}.ipynb",
        ),
        ("Open in JupyterLab", "../images/badge-jupyterlab.svg", f"http://localhost:8888/lab/tree/learn/{name}.ipynb"),
    ]
    assert "make lab" in text


def test_the_gpu_lesson_has_its_badges(root, lesson):
    settings = ConfigParser()
    settings.read(root / "settings.ini")
    check_badges(lesson.cells, "colab_gsm8k", settings["DEFAULT"]["user"])


@pytest.mark.parametrize("name", COURSE)
def test_a_lesson_installs_itself_in_colab_and_ends_with_exercises(name, root, monkeypatch):
    cells = nbformat.read(root / "nbs" / "learn" / f"{name}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert not [source for source in code if source.startswith("#| export") or "default_exp" in source]
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    first_cell(code[0], shell=None)
    done = []
    colab = ModuleType("google.colab")
    colab.output = SimpleNamespace(enable_custom_widget_manager=lambda: done.append("widgets"))
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    first_cell(code[0], SimpleNamespace(system=done.append))
    settings = ConfigParser()
    settings.read(root / "settings.ini")
    assert done == [f'pip install -q "git+{settings["DEFAULT"]["git_url"]}"', "widgets"]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert (
        text.count("<details><summary>Solution</summary>") == text.count("</details>") >= 3
        and f"> Lesson {COURSE[name]}" in text
    )
    check_badges(cells, name, settings["DEFAULT"]["user"])
    shown = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in shown), "every lesson stores a figure"
    assert not [output for output in shown if output.output_type == "error"]


CHECKED = ("one_action", "ratios_and_clipping", "where_advantage_goes", "exact")  # exercises with a cell to work in
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def value(source: str, names: dict):
    "What a cell shows: the value of its last line."
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def check_exercise(work: str, check: str, solution: str, names: dict):
    "Not done yet as it stands, right with the solution, and each likely mistake is met by what is written for it."
    real = names["check_answer"]
    asked = []
    names["check_answer"] = lambda exercise, answer, **how: (
        asked.append((exercise, how)) or real(exercise, answer, **how)
    )
    exec(work, names)
    assert value(check, names).state == "not done yet"
    exec(solution, names)
    verdict = value(check, names)
    assert verdict.state == "right", f"the solution is refused: {verdict}"
    names["check_answer"] = real
    exercise, how = asked[-1]
    assert how.get("hints") or how.get("otherwise"), f"exercise {exercise} has nothing to say to a mistake"
    for wrong, words in how.get("hints", []):
        met = real(exercise, wrong, **how)
        assert (met.state, met.words) == ("not yet right", words), f"exercise {exercise}, {wrong}: {met}"
    assert real(exercise, "no idea", **how).state == "not yet right"


@pytest.mark.parametrize("name", CHECKED)
def test_the_exercises_of_a_lesson_check_what_is_answered(name, root, monkeypatch):
    "A check and its solution are folded away; one exercise at least is worked out with a picture."
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    cells = nbformat.read(root / "nbs" / "learn" / f"{name}.ipynb", as_version=4).cells
    checks = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and "check_answer(" in cell.source]
    assert len(checks) >= 3
    names = {}
    first_code = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    for i, cell in enumerate(cells):
        if i == first_code:
            source = cell.source.replace("!pip", "# pip").replace("    from google", "    pass\n    from google")
            exec(source, names)
        elif i in checks:
            assert cell.metadata.jupyter.source_hidden and "#| code-fold: true" in cell.source, f"{name}: {cell.source}"
            assert "not done yet" in cell.outputs[0].data["text/html"], "stored with somebody's answer"
            check_exercise(cells[i - 1].source, cell.source, PYTHON.search(cells[i + 1].source)[1], names)
            assert cells[i + 1].source.startswith("<details><summary>Solution</summary>")
        elif cell.cell_type == "code" and i + 1 not in checks:
            exec(cell.source, names)
    texts = [cells[i - 2].source for i in checks]
    assert any("picture at the top" in text for text in texts), f"{name}: no exercise uses a picture"


def judged_sums() -> dict:
    "What the exercises of the lesson on a task of one's own look back on."
    sums = load_task("chain_sum")
    tokens = [*"8+4=13;13+7=20;20+7=26#26", "<eos>"]
    trace = SimpleNamespace(step=1, correct=False, finished=True, tokens=tokens, answer="26")
    return dict(
        sums=sums,
        problem=dict(prompt="8+4+7+7?", answer="26"),
        config=SimpleNamespace(output="run"),
        RolloutBrowser=lambda folder: folder,
        traces=[trace],
    )


STEPS = [dict(step=0)] + [dict(step=n, dead_groups=0.1 * n, clip_fraction=0.01 * (n % 5)) for n in range(1, 9)]
TRAINED = {  # lessons that train: what their exercises look back on, and the picture that one of them uses
    "train_in_three_minutes": (lambda: dict(metrics={"MPO": STEPS}), "`TrainingMonitor` above"),
    "loop": (lambda: dict(wrong_sum=sample_traces("tiny")[20]), "as `weight_map` draws it"),
    "looking_ahead": (dict, "the map $W$"),
    "colab_gsm8k": (lambda: dict(rows=STEPS), "`TrainingMonitor` above"),
    "own_task": (judged_sums, "`RolloutBrowser`"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_exercises_of_a_lesson_that_trains_check_what_is_answered(name, root):
    made, widget = TRAINED[name]
    cells = nbformat.read(root / "nbs" / "learn" / f"{name}.ipynb", as_version=4).cells
    checks = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and "check_answer(" in cell.source]
    assert len(checks) >= 3 and any(widget in cells[i - 2].source for i in checks)
    names = dict(check_answer=check_answer, weight_map=weight_map, sample_traces=sample_traces) | made()
    if "traces" in names:
        names["load_traces"] = lambda folder: names["traces"]
    for i in checks:
        assert cells[i].metadata.jupyter.source_hidden and "#| code-fold: true" in cells[i].source
        assert "not done yet" in cells[i].outputs[0].data["text/html"], "stored with somebody's answer"
        check_exercise(cells[i - 1].source, cells[i].source, PYTHON.search(cells[i + 1].source)[1], names)


def pictures_first(cells) -> bool:
    "Whether nothing but a title, a paragraph and one folded cell stands above the first picture."
    shown = next(i for i, cell in enumerate(cells) if "text/html" in str(cell.get("outputs", "")))
    above = [cell for cell in cells[:shown] if not cell.metadata.get("jupyter", {}).get("source_hidden")]
    return len(above) <= 2 and len(above[-1].source) < 1500


PAGES = (*CHECKED, *TRAINED, "troubleshooting", "methods", "engines")


@pytest.mark.parametrize("page", ["index.ipynb", *(f"learn/{name}.ipynb" for name in PAGES)])
def test_a_picture_stands_on_the_first_screen(page, root):
    assert pictures_first(nbformat.read(root / "nbs" / page, as_version=4).cells)


def test_the_readme_begins_with_the_moving_picture_and_three_doors(root):
    top = (root / "README.md").read_text().split("## Two commands")[0]
    picture = re.search(r"!\[[^\]]+\]\((nbs/images/window\.gif)\)", top)
    assert picture and (root / picture[1]).read_bytes()[:4] == b"GIF8"
    assert re.findall(r"^- \*\*(.*?)\*\*", top.split("## Start here")[1], re.MULTILINE) == [
        "Look",
        "Run lesson 1",
        "Train",
    ]
    assert len(top.split(picture[0])[0]) < 2000, "the picture is pushed off the first screen"


@pytest.fixture(scope="module")
def glossary(root):
    "scripts/glossary.py"
    spec = importlib.util.spec_from_file_location("glossary", root / "scripts" / "glossary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hover_texts_are_those_of_the_glossary(root):
    command = [sys.executable, "scripts/glossary.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_word_is_marked_once_a_page_and_stands_in_the_glossary(root, glossary):
    terms = glossary.read_terms()
    assert 30 <= len(terms) <= 60
    for name in CHECKED:
        cells = nbformat.read(root / "nbs" / "learn" / f"{name}.ipynb", as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        marked = [anchor for _, anchor in glossary.LINK.findall(text)]
        assert len(marked) >= 5 and len(marked) == len(set(marked)), f"{name}: {marked}"
        unknown = [word for _, word in glossary.MARK.findall(text) if word[0].isalpha()]
        assert not unknown, f"{name}: the glossary has no {unknown}"


def test_a_mark_becomes_a_link_and_an_old_text_is_noticed(glossary):
    terms = {"clip-range": ("clip range", 'what "learns" still')}
    linked = glossary.with_meanings("The [[clip range]] and [[[1, 2]]].", terms, "glossary.ipynb")
    title = html.escape('what "learns" still')
    assert linked == f'The [<abbr title="{title}">clip range</abbr>](glossary.ipynb#clip-range) and [[[1, 2]]].'
    stale = linked.replace("still", "no more")
    assert glossary.with_meanings(stale, terms, "glossary.ipynb") == linked
    with pytest.raises(SystemExit, match="#nothing"):
        glossary.with_meanings(linked.replace("#clip-range", "#nothing"), terms, "glossary.ipynb")


def planned(code, monkeypatch, tmp_path, model: str, card: str):
    """The cells up to the plan, on a machine that looks like one with that card, with the model's shape and a task in
    the form of GSM8K."""
    from transformers import Qwen2Config

    listed, name, has_bf16 = CARDS[card]
    capacity = int(cards[listed][0] * 2**30)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=capacity))
    monkeypatch.setattr(mpo_nb.planning.plan, "present_device", lambda device: (name, capacity - context_bytes))
    monkeypatch.setattr(
        mpo_nb.planning.plan, "plan_memory", partial(plan_memory, cards={})
    )  # of the other cards nothing is asked here
    monkeypatch.setattr(
        mpo_nb.planning.plan,
        "load_shape",
        lambda asked: Qwen2Config(
            vocab_size=151936, num_key_value_heads=2, max_position_embeddings=32768, **SHAPES[asked]
        ),
    )
    monkeypatch.setattr(mpo_nb.models.loading, "load_tokenizer", lambda asked: by_character())
    load_task = mpo_nb.tasks.task.load_task
    rows = [dict(question=f"{i}{'9' * LONGER}", answer=f"#### {2 * i}") for i in range(8)]
    monkeypatch.setattr(
        mpo_nb.tasks.task, "load_task", lambda name, **options: load_task(name, train=rows[:4], test=rows[4:])
    )
    found = dict(sys=sys)  # which the first cell imports
    for source in code[1:]:
        exec(source.replace(SWITCH, f"MODEL = {model!r}"), found)
        if source.startswith("assert plan."):
            return found
    raise AssertionError("no cell asserts that the plan fits")


def by_character():
    "A tokenizer with a token for every character that can be printed."
    return char_tokenizer(string.printable)


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("model", SHAPES)
def test_the_settings_fit_the_cards_they_are_for(code, monkeypatch, tmp_path, model, card):
    found = planned(code, monkeypatch, tmp_path, model, card)
    config = found["config"]
    plan = found["plan"]
    assert (found["card"], config.model, config.task, config.k, config.future) == (card, model, "gsm8k", 5, 0.2)
    assert plan.config.precision == ("bfloat16" if CARDS[card][2] else "float16") and plan.work.prompt == 300
    assert plan.verdicts[0].fits and plan.peak > 0.3 * plan.verdicts[0].capacity, "the card is hardly used"
    assert config.micro_batch_tokens != 16384, "this model and card are not in the table"
    assert not list(tmp_path.iterdir()), "cells before the training write nothing"


def run_through(root, name: str, folder) -> list:
    """What a lesson shows, output by output, when it is run from the first cell to the last: in this very run of `make
    test`, else now, in an empty folder, which stays empty."""
    shown = [output for outputs in fresh_outputs(f"learn/{name}.ipynb").values() for output in outputs]
    if not shown:
        from nbclient import NotebookClient

        notebook = nbformat.read(root / "nbs" / "learn" / f"{name}.ipynb", as_version=4)
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
        assert not list(folder.iterdir())
        shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output["output_type"] == "error"]
    return shown


@pytest.mark.slow
def test_the_gpu_lesson_runs_with_the_tiny_model(root, tmp_path):
    printed = "".join("".join(o.get("text", "")) for o in run_through(root, "colab_gsm8k", tmp_path))
    assert "model.safetensors" in printed and "8+4+7+7?" in printed


@pytest.mark.slow
def test_the_lesson_on_a_task_of_ones_own_trains_and_compares(root, tmp_path):
    "Training improves what is sampled, and the control is compared too."
    compared = [
        table
        for output in run_through(root, "own_task", tmp_path)
        if "b − a" in (table := "".join(output.get("data", {}).get("text/markdown", "")))
    ]
    assert len(compared) == 2
    gain = float(re.search(r"pass@1 .*?([+-]\d\.\d+)", compared[0])[1])
    assert gain > 0.1, compared[0]
