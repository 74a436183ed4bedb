"The lessons run as they stand, and the Colab one also fits the models and cards that it names, without loading them."

import re
import string
import sys
from configparser import ConfigParser
from functools import partial
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import torch

import mpo_nb.models.loading
import mpo_nb.planning.plan
import mpo_nb.tasks.task
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.planning.plan import cards, context_bytes, plan_memory

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
    assert not [source for source in code if re.search(r"^#\|", source, re.MULTILINE)]
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


COURSE = ("one_action", "ratios_and_clipping", "where_advantage_goes", "train_in_three_minutes", "looking_ahead")


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
        and f"Lesson {COURSE.index(name) + 1} of 6" in text
    )
    check_badges(cells, name, settings["DEFAULT"]["user"])
    shown = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in shown), "every lesson stores a figure"
    assert not [output for output in shown if output.output_type == "error"]


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


@pytest.mark.slow
def test_the_lesson_runs_with_the_tiny_model(lesson, tmp_path):
    "From the first cell to the last, in an empty folder, which stays empty; both trainings improve what is sampled."
    from nbclient import NotebookClient

    notebook = nbformat.from_dict(lesson)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert not list(tmp_path.iterdir())
    compared = [
        table
        for cell in notebook.cells
        for o in cell.get("outputs", [])
        if "b − a" in (table := str(o.get("data", {}).get("text/markdown", "")))
    ]
    assert len(compared) == 2
    gain = float(re.search(r"pass@1 .*?([+-]\d\.\d+)", compared[0])[1])
    assert gain > 0.1, compared[0]
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
