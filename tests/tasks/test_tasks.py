"Tasks: the gate that rewards pass through, loading by name, and the chained sums."

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mpo_nb.models.tiny import char_tokenizer, tiny_model_path
from mpo_nb.tasks import task as tasks
from mpo_nb.tasks.sums import (
    chain_problems,
    chain_reward,
    chain_sum,
    demonstration,
    first_wrong_step,
    is_held_out,
    step_errors,
)
from mpo_nb.tasks.task import Task, load_task, register_task, score, task_names

PROBLEMS = [dict(prompt="1+1?", answer="2"), dict(prompt="2+2?", answer="4"), dict(prompt="3+3?", answer="6")]
RESPONSES = ["1+1=2#2", "", "x" * 200]


def task(reward, **options) -> Task:
    return Task("toy", PROBLEMS, PROBLEMS, reward, **options)


@pytest.fixture
def registry(monkeypatch):
    "The registered tasks, put back afterwards."
    monkeypatch.setattr(tasks, "_builders", dict(tasks._builders))


# ---- the task itself


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("problems", [[], [{}], [dict(prompt="1?")], [dict(prompt="1?", answer=1)], ["1?"]])
def test_a_split_without_usable_problems_is_named(split, problems):
    with pytest.raises(ValueError, match=f"{split}.*'toy'"):
        Task("toy", **{"train": PROBLEMS, "test": PROBLEMS, split: problems}, reward=chain_reward)


def test_a_reward_that_is_no_function_is_named():
    with pytest.raises(ValueError, match="reward of task 'toy' is 1.0"):
        task(1.0)


def test_a_dataset_is_a_split():
    data = Dataset.from_list(PROBLEMS)
    assert score(Task("toy", data, data, chain_reward), [data[0]], ["#2"]) == [1.0]


# ---- score


@pytest.mark.parametrize("value", [1, True, 1.0, np.float32(1), np.array(1), torch.tensor(1), torch.tensor([1.0])])
@pytest.mark.parametrize("batched", [False, True])
def test_what_reads_as_a_number_is_one(value, batched):
    reward = (lambda ps, rs: [value] * len(rs)) if batched else (lambda p, r: value)
    rewards = score(task(reward, batched=batched), PROBLEMS, RESPONSES)
    assert rewards == [1.0] * 3 and all(type(r) is float for r in rewards)


def test_a_batched_reward_may_return_a_tensor():
    rewards = score(task(lambda ps, rs: torch.tensor([0.0, 0.5, 1.0]), batched=True), PROBLEMS, RESPONSES)
    assert rewards == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "value",
    [None, "1.0", b"1", float("nan"), float("inf"), -float("inf"), [1.0, 2.0], {}, 1j, torch.tensor([1.0, 2.0])],
)
@pytest.mark.parametrize("batched", [False, True])
def test_anything_else_names_the_response(value, batched):
    def one(response):
        return value if response == "" else 0.0

    reward = (lambda ps, rs: [one(r) for r in rs]) if batched else (lambda p, r: one(r))
    with pytest.raises(ValueError, match="task 'toy' is .* for response 1, ''"):
        score(task(reward, batched=batched), PROBLEMS, RESPONSES)


def test_a_reward_that_raises_names_the_response():
    def reward(problem, response):
        if response.startswith("x"):
            raise KeyError("solution")
        return 0.0

    with pytest.raises(RuntimeError, match="KeyError: 'solution' on response 2, '" + "x" * 80 + "'") as caught:
        score(task(reward), PROBLEMS, RESPONSES)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_batched_reward_that_raises_says_so():
    with pytest.raises(RuntimeError, match="batched reward of task 'toy' raised TypeError.* on 3 responses"):
        score(task(lambda ps, rs: len(None), batched=True), PROBLEMS, RESPONSES)


def test_ctrl_c_in_a_reward_stays_ctrl_c():
    def reward(problem, response):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(task(reward), PROBLEMS, RESPONSES)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_rewards_gives_both_counts(count):
    with pytest.raises(ValueError, match=f"returned {count} numbers for 3 responses"):
        score(task(lambda ps, rs: [0.0] * count, batched=True), PROBLEMS, RESPONSES)


def test_problems_and_responses_must_pair_up():
    with pytest.raises(ValueError, match="3 problems for 2 responses"):
        score(task(chain_reward), PROBLEMS, RESPONSES[:2])
    assert score(task(chain_reward), [], []) == []


# ---- by name


def test_an_unknown_task_lists_what_there_is(registry):
    register_task("another", lambda: task(chain_reward))
    shipped = ["chain_sum", "chain_words", "countdown", "gsm8k", "gym", "humaneval", "math", "mbpp"]
    assert task_names() == ["another", *shipped]
    with pytest.raises(
        ValueError,
        match=rf"unknown task 'chainsum'; there are another, {', '.join(shipped)}, or give 'module:function'",
    ):
        load_task("chainsum")


@pytest.mark.parametrize(
    "name, builder, named",
    [("", chain_sum, "name="), ("a:b", chain_sum, "name="), (5, chain_sum, "name="), ("a", None, "builder=")],
)
def test_a_bad_registration_is_named(registry, name, builder, named):
    with pytest.raises(ValueError, match=named):
        register_task(name, builder)


def test_an_unknown_option_shows_what_the_task_takes():
    with pytest.raises(ValueError, match="'chain_sum'.*'digits'.*n_train"):
        load_task("chain_sum", digits=2)


def test_a_function_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_sums.py").write_text(
        "from mpo_nb.tasks.task import Task\n"
        "def build(n=2):\n"
        "    problems = [dict(prompt=f'{i}?', answer=str(i)) for i in range(n)]\n"
        "    return Task('mine', problems, problems, lambda p, r: float(r == p['answer']))\n"
        "def number(): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(load_task("my_sums:build", n=5).train) == 5
    with pytest.raises(TypeError, match="'my_sums:number' returned int"):
        load_task("my_sums:number")
    for name in ("my_sums:absent", "no_such_module:build"):
        with pytest.raises(ValueError, match=f"task '{name}' cannot be imported.*PYTHONPATH"):
            load_task(name)


# ---- chains


@pytest.mark.parametrize(
    "response, reward",
    [
        ("7+5=12;12-3=9;9+8=17#17", 1.0),
        ("#17", 1.0),
        ("#18#17", 1.0),
        ("\n#17", 1.0),
        ("", 0.0),
        ("#", 0.0),
        ("17", 0.0),
        ("#17#", 0.0),
        ("#17 ", 0.0),
        ("# 17", 0.0),
        ("#017", 0.0),
        ("#+17", 0.0),
        ("#17;", 0.0),
        ("#17\n", 0.0),
        ("#1", 0.0),
    ],
)
def test_chain_reward(response, reward):
    assert chain_reward(dict(prompt="7+5-3+8?", answer="17"), response) == reward


def test_chain_sum_is_the_same_every_time():
    a = chain_sum(300, 60, seed=4)
    b = chain_sum(300, 60, seed=4)
    assert (a.train, a.test) == (b.train, b.test)
    assert chain_sum(300, 60, seed=5).train != a.train
    random.seed(1)
    assert chain_sum(300, 60, seed=4).train == a.train, "the module's own generator must not matter"


def test_chain_sum_is_the_same_in_another_process():
    "Hash randomisation, in particular, has no part in it."
    code = (
        "from mpo_nb.tasks import chain_sum; t = chain_sum(40, 10, seed=2); print([p['prompt'] for p in t.train +"
        " t.test])"
    )
    here = chain_sum(40, 10, seed=2)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr([p["prompt"] for p in here.train + here.test])


def test_no_seed_trains_on_what_another_tests():
    runs = [chain_sum(400, 100, terms=(2, 4), seed=seed) for seed in range(4)]
    train, test = ({p["prompt"] for run in runs for p in getattr(run, split)} for split in ("train", "test"))
    assert train and test and not train & test
    assert all(map(is_held_out, test)) and not any(map(is_held_out, train))


@given(terms=st.integers(2, 7), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_every_chain_is_right_and_never_negative(terms, seed):
    (problem,) = chain_problems(1, terms, rng=random.Random(seed))
    chain = problem["prompt"].removesuffix("?")
    values = [eval(chain[:end]) for end in range(1, len(chain) + 1, 2)]
    assert len(values) == terms and min(values) >= 0 and str(values[-1]) == problem["answer"]
    assert chain_reward(problem, demonstration(problem)) == 1.0


@given(rate=st.floats(0, 1), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_mistakes_are_consistent_and_never_negative(rate, seed):
    rng = random.Random(seed)
    (problem,) = chain_problems(1, 5, rng=rng)
    steps, final = demonstration(problem, rate, rng).split("#")
    value = problem["prompt"][0]
    moves = [problem["prompt"][i : i + 2] for i in range(1, 9, 2)]
    for step, move in zip(steps.split(";"), moves, strict=True):
        left, result = step.split("=")
        assert left == value + move.replace("-0", "+0") and int(result) >= 0 and abs(int(result) - eval(left)) <= 3
        value = result
    assert value == final


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(terms=1), "terms=1"),
        (dict(terms=(4, 3)), "terms="),
        (dict(terms=4.0), "terms=4.0"),
        (dict(terms=(2, 3, 4)), "terms="),
        (dict(n_train=0), "n_train=0"),
        (dict(n_train="5"), "n_train='5'"),
        (dict(n_train=1000, terms=2), "n_train=1000"),
    ],
)
def test_a_bad_chain_task_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        chain_sum(**{"n_test": 5, **options})


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_bad_error_rate_is_named(rate):
    with pytest.raises(ValueError, match="error_rate="):
        demonstration(PROBLEMS[0], rate)


# ---- the tiny model's tokenizer


@given(st.text("0123456789+-=;#?"))
@settings(max_examples=60, deadline=None)
def test_one_token_a_character_and_back(text):
    tokenizer = char_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text) and tokenizer.decode(ids) == text


def test_the_saved_tokenizer_is_this_one():
    saved = AutoTokenizer.from_pretrained(tiny_model_path())
    made = char_tokenizer()
    texts = ["7+5-3+8?", "1?", "a1", ""]
    assert saved(texts)["input_ids"] == made(texts)["input_ids"]
    assert saved(texts, padding=True)["attention_mask"] == made(texts, padding=True)["attention_mask"]
    assert (saved.pad_token_id, saved.bos_token_id, saved.eos_token_id, saved.padding_side) == (0, 1, 2, "left")


def test_a_repeated_character_is_named():
    with pytest.raises(ValueError, match="characters='aa'"):
        char_tokenizer("aa")


# ---- the first wrong step of a chain


@pytest.mark.parametrize("error_rate", [0.0, 0.3, 1.0])
def test_the_first_step_that_is_false_is_found(error_rate):
    "Demonstrations go on from a mistake, so the first equation that does not hold is the first wrong step."
    rng = random.Random(3)
    for problem in chain_problems(200, terms=(2, 6)):
        response = demonstration(problem, error_rate, rng)
        steps = response.partition("#")[0].split(";")
        false = [step for step in steps if eval(step.partition("=")[0]) != int(step.partition("=")[2])]
        found = first_wrong_step(problem["prompt"], response + "<eos>")
        assert (response[slice(*found)] if found else None) == (false[0] if false else None), response


@pytest.mark.parametrize(
    "response, step",
    [
        ("7+5=12;12-3=9;9+8=17#17", None),
        ("7+5=12;12-3=9;9+8=17#18", "#18"),
        ("7+5=12;12+3=15;15+8=23#23", "12+3=15"),  # the problem says minus
        ("7+5=12;11-3=8;8+8=16#16", "11-3=8"),  # it goes on from another number
        ("7+5=12#12", "#12"),  # an answer too early
        ("7+5=12;12-3=9;9+8=17;17+1=18#18", "17+1=18"),  # a step too many
        ("7+5=13;13-3=9;9+8=17#17", "7+5=13"),  # two mistakes that cancel
        ("7+5=12;12-3=9;9+8=1", None),  # cut off: it may have become 17
        ("7+5=12;12-3", None),
        ("7+5=12;12-3<eos>", None),
        ("7+5=12;twelve minus three", None),
        ("", None),
        ("17", None),
    ],
)
def test_the_first_wrong_step_of_one_chain(response, step):
    found = first_wrong_step("7+5-3+8?", response)
    assert (response[slice(*found)] if found else None) == step


@pytest.mark.parametrize("error_rate", [0.0, 0.3, 1.0])
def test_the_kind_of_each_mistake_in_a_demonstration(error_rate):
    "Demonstrations have wrong results alone, and go on from them."
    rng = random.Random(4)
    for problem in chain_problems(200, terms=(2, 6)):
        response = demonstration(problem, error_rate, rng)
        steps = response.partition("#")[0].split(";")
        false = [eval(step.partition("=")[0]) != int(step.partition("=")[2]) for step in steps]
        assert step_errors(problem["prompt"], response) == [*("result" if one else "" for one in false), ""], response


@pytest.mark.parametrize(
    "response, errors",
    [
        ("7+5=12;12+3=15;15+8=23#23", ["", "operation", "", ""]),
        ("7+5=12;11-3=8;8+8=16#16", ["", "start", "", ""]),
        ("7+5=12#12", ["", "missing", "missing", ""]),
        ("7+5=12;12-3=9;9+8=17;17+1=18#18", ["", "", "", "result"]),  # the answer of a step that nobody asked for
        ("7+5=13;13-3=9;9+8=17#17", ["result", "result", "", ""]),
        ("7+5=12;;9+8=17#17", ["", "missing", "start", ""]),
        ("7+5=12;12-3", ["", "unreadable", "missing", "missing"]),
        ("7+5=12;12-3=9;9+8=17#", ["", "", "", "missing"]),
        ("7+5=12;12-3=9;9+8=17#seventeen", ["", "", "", "unreadable"]),
        ("", ["missing"] * 4),
    ],
)
def test_the_kinds_of_mistakes_of_one_chain(response, errors):
    assert step_errors("7+5-3+8?", response) == errors
    assert len(errors) == 4 and step_errors("7-0?", "7+0=7#7") == ["", ""]


def test_kinds_of_mistakes_want_a_chain():
    with pytest.raises(ValueError, match="prompt='How many"):
        step_errors("How many are 7 and 5?", "7+5=12#12")


def test_a_problem_that_is_no_chain_has_no_known_step():
    assert first_wrong_step("How many are 7 and 5?", "7+5=13#13") is None
    assert first_wrong_step("7-0?", "7+0=7#7") is None and first_wrong_step("7-0?", "7-0=7#7") is None
