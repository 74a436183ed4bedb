"""Every configuration that README, lessons and FAQ give a reader is planned for as it would run, and what is said of
its memory is the plan's."""

import ast
import json
import re
import shlex
from dataclasses import replace

import pytest
from transformers import AutoConfig, Qwen2Config

from mpo_nb.cli import train_config
from mpo_nb.config import TrainConfig
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.planning import plan as memory
from mpo_nb.planning.plan import cards, context_bytes, plan_memory
from mpo_nb.tasks.mathematics import gsm8k, math
from mpo_nb.tasks.sums import chain_sum
from mpo_nb.tasks.task import response_limit, response_limits, task_response_limit

GIB = 2**30
QWEN_05B = Qwen2Config(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
)
T4 = {"T4": cards["T4"]}
CALL = r'TrainConfig\(\s*model="'


@pytest.fixture(autouse=True)
def a_machine_that_needs_no_advice(monkeypatch):
    monkeypatch.setattr(memory, "present_device", lambda device: ("a machine that needs no advice", 10**15))


def shape_of(config):
    return AutoConfig.from_pretrained(tiny_model_path()) if config.model == "tiny" else QWEN_05B


def markdown(path):
    "The text of a page, or of a notebook's cells of text."
    text = path.read_text(encoding="utf8")
    return (
        text
        if path.suffix == ".md"
        else "\n".join(
            "".join(c["source"])
            for c in json.loads(text)["cells"]
            if c["cell_type"] == "markdown" or re.search(CALL, "".join(c["source"]))
        )
    )


def calls(text: str):
    "Each TrainConfig(model=...) of a text, over as many lines as it takes."
    for start in re.finditer(CALL, text):
        for end in re.finditer(r"\)", text[start.start() :]):
            try:
                yield ast.parse(text[start.start() :][: end.end()], mode="eval").body
                break
            except SyntaxError:  # a bracket inside
                continue


def configurations(root):
    'Each TrainConfig(model="...") and each mpo-train command of a page, with the page\'s name.'
    found = {}
    for path in [root / "README.md", root / "nbs" / "index.ipynb", *sorted((root / "nbs" / "learn").glob("*.ipynb"))]:
        text = markdown(path)
        for call in calls(text):
            found[f"{path.name}: {ast.unparse(call)}"] = TrainConfig(
                **{k.arg: ast.literal_eval(k.value) for k in call.keywords}
            )
        for line in re.findall(r"^\s*(mpo-train --[^\n]*)$", text, re.MULTILINE):
            found[f"{path.name}: {line}"] = train_config(shlex.split(line)[1:])[0]
    return found


def test_every_configuration_of_the_pages_is_planned_with_its_tasks_limit(root):
    found = configurations(root)
    assert {"README.md", "index.ipynb", "engines.ipynb", "looking_ahead.ipynb"} <= {
        name.split(":")[0] for name in found
    }
    for name, config in found.items():
        own = config.max_new_tokens or task_response_limit(config.task)
        assert plan_memory(config, shape=shape_of(config), cards={}, device="cpu").work.response == own, name


def test_what_is_said_of_the_readmes_run_on_a_t4_is_its_plan(root):
    name, config = next((n, c) for n, c in configurations(root).items() if n.startswith("README.md"))
    verdict = plan_memory(config, shape=QWEN_05B, cards=T4).verdicts[1]
    careless = plan_memory(
        replace(config, micro_batch_tokens=TrainConfig().micro_batch_tokens), shape=QWEN_05B, cards=T4
    ).verdicts[1]
    assert verdict.fits and not careless.fits
    needs, of, without = (f"{x / GIB:.1f} GiB" for x in (verdict.need, verdict.capacity, careless.need))
    for page in ("README.md", "nbs/index.ipynb", "nbs/learn/faq.ipynb"):
        text = markdown(root / page)
        assert f"needs {needs} of the {of}" in text and f"needs {without}" in text, page
    assert verdict.capacity == int(cards["T4"][0] * GIB) - context_bytes


def test_limits_known_without_data_are_those_of_the_tasks():
    rows = [dict(question="1+1=", answer="#### 2"), dict(question="1+2=", answer="#### 3")]
    assert (
        gsm8k(train=rows[:1], test=rows[1:]).max_new_tokens == response_limits["gsm8k"] == task_response_limit("gsm8k")
    )
    rows = [
        dict(problem="1+1=", answer="2", solution="\\boxed{2}"),
        dict(problem="1+2=", answer="3", solution="\\boxed{3}"),
    ]
    assert math(train=rows[:1], test=rows[1:]).max_new_tokens == response_limits["math"]
    assert chain_sum(n_train=4, n_test=2).max_new_tokens == response_limits["chain_sum"]
    assert task_response_limit("gym:countdown") == response_limits["gym"]
    assert (
        response_limit(0, None, None) == 256 and response_limit(0, None, 100) == 50 and response_limit(7, 9, 100) == 7
    )


@pytest.mark.parametrize(
    "config, limit",
    [
        (TrainConfig(task="math"), 512),
        (TrainConfig(task="countdown"), 256),
        (TrainConfig(task="gym:chain_sum"), 256),
        (TrainConfig(), 48),
        (TrainConfig(task="gsm8k", max_new_tokens=100), 100),
    ],
    ids=str,
)
def test_a_plan_takes_the_tasks_own_limit(config, limit):
    assert plan_memory(config, cards={}, device="cpu").work.response == limit


def test_a_task_of_ones_own_is_asked_and_one_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "limit_tasks.py").write_text(
        "from mpo_nb.tasks.task import Task\ndef short(n=31):\n    p = [dict(prompt='1', answer='1')]\n    return"
        " Task('short', p, p, lambda problem, response: 1.0, max_new_tokens=n)\ndef open_ended():\n    p ="
        " [dict(prompt='1', answer='1')]\n    return Task('open', p, p, lambda problem, response: 1.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert plan_memory(TrainConfig(task="limit_tasks:short"), cards={}, device="cpu").work.response == 31
    assert (
        plan_memory(TrainConfig(task="limit_tasks:short", task_options={"n": 20}), cards={}, device="cpu").work.response
        == 20
    )
    context = AutoConfig.from_pretrained(tiny_model_path()).max_position_embeddings
    assert plan_memory(TrainConfig(task="limit_tasks:open_ended"), cards={}, device="cpu").work.response == min(
        256, context // 2
    )
    with pytest.raises(ValueError, match="nope"):
        plan_memory(TrainConfig(task="nope"), cards={}, device="cpu")
