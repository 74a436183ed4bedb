"Real tasks: what they read, what they ask, what they reward, and what they refuse before any long work."

import contextlib
import json
import os
import random
import sys
import time
import warnings
from fractions import Fraction

import datasets
import pytest
from machine import slowness

from mpo_nb.tasks import games as game_tasks
from mpo_nb.tasks.games import countdown_reward, expression_in, expression_value
from mpo_nb.tasks.programs import cut_completion, extract_program
from mpo_nb.tasks.rows import from_dataset, take
from mpo_nb.tasks.task import load_task, score, task_names

GSM = [
    dict(question=f"What is {i}+1?", answer=f"It is <<{i}+1={i + 1}>>.\n#### {i + 1:,}") for i in range(1, 2001, 200)
]
MATH = [
    dict(problem=f"Find ${i}x$ for $x=1$.", solution=f"So \\boxed{{{i}}}.", level=f"Level {i % 5 + 1}", type="Algebra")
    for i in range(10)
]
MATH500 = [
    dict(
        problem=f"Halve {i}.",
        answer=f"\\frac{{{i}}}{{2}}",
        solution="",
        level=i % 5 + 1,
        subject="Algebra",
        unique_id=f"{i}",
    )
    for i in range(1, 11, 2)
]
HUMANEVAL = [
    dict(
        task_id=f"HumanEval/{i}",
        prompt=f'from typing import List\n\ndef f{i}(x: List[int]) -> int:\n    """Length plus {i}."""\n',
        entry_point=f"f{i}",
        canonical_solution=f"    return len(x) + {i}\n",
        test=f"def check(candidate):\n    assert candidate([1, 2]) == {2 + i}\n",
    )
    for i in range(12)
]
MBPP = [
    dict(
        task_id=i,
        prompt=f"Write a function that adds {i}.",
        code=f"import math\ndef helper(x):\n    return x\ndef plus(x):\n    return helper(x) + {i}",
        test_imports=[],
        test_list=[f"assert plus(1) == {1 + i}", f"assert plus(2) == {2 + i}"],
    )
    for i in range(6)
]


def written(folder, name, rows):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith(".jsonl") else json.dumps(rows))
    return str(path)


@pytest.fixture
def hub(monkeypatch):
    "The hub, with a few rows in the columns that its data sets have."
    held = {
        ("openai/gsm8k", "main", "train"): GSM,
        ("openai/gsm8k", "main", "test"): GSM[:3] + [dict(question="New?", answer="#### 7")],
        ("DigitalLearningGmbH/MATH-lighteval", "train"): MATH,
        ("HuggingFaceH4/MATH-500", "test"): MATH500,
        ("openai/openai_humaneval", "test"): HUMANEVAL,
        ("google-research-datasets/mbpp", "sanitized", "train"): MBPP[:4],
        ("google-research-datasets/mbpp", "sanitized", "test"): MBPP[4:],
    }
    asked = []

    original = datasets.load_dataset

    def load(*name, split, **options):
        if name == ("json",):
            return original(*name, split=split, **options)
        assert not options
        asked.append((*name, split))
        return datasets.Dataset.from_list(held[(*name, split)])

    monkeypatch.setattr("mpo_nb.tasks.rows.load_dataset", load)
    return asked


# What is read


def test_every_task_is_found_by_name():
    assert {"gsm8k", "math", "humaneval", "mbpp", "countdown", "gym", "chain_sum"} <= set(task_names())
    with pytest.raises(ValueError, match="unknown task 'gsm9k'; there are chain_sum, chain_words, countdown, gsm8k"):
        load_task("gsm9k")
    with pytest.raises(ValueError, match="task 'gsm8k': .*levels.*; it takes"):
        load_task("gsm8k", levels=[1])


def test_importing_tasks_does_not_import_what_they_need():
    import subprocess

    code = (
        "import sys, mpo_nb.tasks.task; print([m for m in ('datasets', 'reasoning_gym', 'mpo_nb.sandbox.runner',"
        " 'mpo_nb.tasks.mathematics') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_gsm8k_from_the_hub_and_from_files_are_one_task(hub, tmp_path):
    task = load_task("gsm8k")
    assert hub == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    assert [p["answer"] for p in task.train] == [str(i + 1) for i in range(601, 2001, 200)], (
        "held-out problems were learnt from, or a comma stayed"
    )
    files = load_task(
        "gsm8k", train=written(tmp_path, "train.jsonl", GSM), test=written(tmp_path, "test.json", GSM[:3])
    )
    assert files.train == task.train and files.test == task.test[:3]
    assert (
        task.test[0]["prompt"].startswith("What is 1+1?")
        and "####" in task.test[0]["prompt"]
        and task.stop == ("\nQuestion:",)
    )


def test_math_reads_two_data_sets_of_different_columns(hub):
    task = load_task("math", levels=[1, 2])
    assert {p["level"] for p in (*task.train, *task.test)} == {"1", "2"} and all(
        p["subject"] == "Algebra" for p in task.train
    )
    assert score(task, task.test, ["\\boxed{" + p["answer"] + "}" for p in task.test]) == [1.0] * len(task.test)


def test_parts_are_chosen_by_the_seed(hub):
    a, b, c = (load_task("gsm8k", n_train=4, n_test=2, seed=seed) for seed in (0, 0, 1))
    assert a.train == b.train and len(a.test) == 2 and a.train != c.train


def test_a_hub_out_of_reach_names_the_remedy(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("Couldn't reach the hub\nlong trace")

    monkeypatch.setattr("mpo_nb.tasks.rows.load_dataset", fail)
    for name, argument in (
        ("gsm8k", "train='rows.jsonl'"),
        ("math", "train='rows.jsonl'"),
        ("mbpp", "train='rows.jsonl'"),
    ):
        try:
            with pytest.raises(
                OSError,
                match=(
                    "could not be loaded from the hub \\(Couldn't reach the hub\\); without a connection, give a local"
                    f" file: {argument}"
                ),
            ):
                load_task(name)
        except RuntimeError as error:  # no sandbox on this machine
            assert "bubblewrap" in str(error)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.jsonl", "", "cannot be read as jsonl|has no rows"),
        ("b.jsonl", '{"q": "x"}', "has no column 'question'; it has q"),
        ("c.txt", "x", "give a file that ends in .json"),
        ("d.json", "{not json", "cannot be read as json"),
        ("e.jsonl", '{"question": "x", "answer": "42"}', "row 0 has no line '#### number'"),
    ],
)
def test_files_that_will_not_do_are_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_task("gsm8k", train=str(tmp_path / name), test=str(tmp_path / name))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="train='nowhere.jsonl' is not there"):
        load_task("gsm8k", train="nowhere.jsonl", test="nowhere.jsonl")


def test_take_is_a_sample_without_repeats():
    rows = list(range(50))
    assert sorted(take(rows, 50, 3)) == rows and take(rows, None) == rows
    for bad in (0, 51, True, 2.0):
        with pytest.raises(ValueError, match="n_train="):
            take(rows, bad)


# A task of one's own


def test_rows_of_every_kind_make_one_task(tmp_path):
    rows = [dict(q=f"{i}?", a=i) for i in range(20)]
    kinds = [
        rows,
        datasets.Dataset.from_list(rows),
        written(tmp_path, "rows.jsonl", rows),
        written(tmp_path, "rows.json", rows),
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    tasks = [
        from_dataset(kind, lambda p, r: 0.0, prompt="q", answer="a") for kind in (*kinds, tmp_path / "rows.parquet")
    ]
    assert (
        all(t.train == tasks[0].train and t.test == tasks[0].test for t in tasks)
        and len(tasks[0].test) == 2
        and len(tasks[0].train) == 18
    )
    assert tasks[0].train[0]["answer"] == str(tasks[0].train[0]["a"])


@pytest.mark.parametrize(
    "rows, options, message",
    [
        ([], {}, "has no rows"),
        ([dict(question="x", answer="")], {}, "row 0 has nothing in column 'answer'"),
        ([dict(question="x", answer="y")], {}, "none is left to hold out"),
        ([dict(x="1", answer="y")], {}, "no column 'question'"),
        ([dict(question="x", answer="y")], dict(template="hm"), "no place {question}"),
    ],
)
def test_rows_that_will_not_do(rows, options, message):
    with pytest.raises(ValueError, match=message):
        from_dataset(rows, lambda p, r: 0.0, **options)


def test_braces_in_a_problem_stay():
    task = from_dataset(
        [dict(question="{x} {0} {prompt}", answer="1"), dict(question="b", answer="2")],
        lambda p, r: 0.0,
        template="Q: {question}",
    )
    assert {p["prompt"] for p in (*task.train, *task.test)} == {"Q: {x} {0} {prompt}", "Q: b"}


# Answers


def test_the_form_is_judged_apart_from_the_answer(hub):
    loose = load_task("gsm8k")
    strict = load_task("gsm8k", require_format=True)
    problem = loose.test[0]
    cases = {
        "#### 2": (1, True, 1),
        "It is 2": (1, False, 0),
        "#### 3": (0, True, 0),
        "\\boxed{2}": (1, True, 1),
        "": (0, False, 0),
        "####": (0, False, 0),
        "2 #### ": (1, False, 0),
    }
    for response, (right, formed, both) in cases.items():
        assert (
            loose.reward(problem, response),
            loose.formatted(problem, response),
            strict.reward(problem, response),
        ) == (right, formed, both), response


@pytest.mark.data
def test_recorded_correctness_of_sampled_solutions(data_dir):
    "1,600 solutions of four models; the reward agrees with every recorded judgement."
    rows = [json.loads(line) for line in open(data_dir / "gsm8k_model_solutions_a.jsonl")]
    task = load_task("gsm8k", train=str(data_dir / "gsm8k_train.jsonl"), test=str(data_dir / "gsm8k_test_a.jsonl"))
    gold = {p["prompt"].split("\n\nThink")[0]: p for p in task.test}
    pairs = [
        (gold[row["question"]], model)
        for row in rows
        for model in row.values()
        if isinstance(model, dict) and "solution" in model
    ]
    assert len(pairs) == 1600
    rewards = score(task, [p for p, _ in pairs], [m["solution"] for _, m in pairs])
    assert [r == 1.0 for r in rewards] == [m["is_correct"] for _, m in pairs]


@pytest.mark.data
def test_gsm8k_and_math_accept_their_own_solutions(data_dir):
    gsm = load_task("gsm8k", train=str(data_dir / "gsm8k_train.jsonl"), test=str(data_dir / "gsm8k_test_a.jsonl"))
    assert len(gsm.train) == 7473 and len(gsm.test) == 660
    solutions = [json.loads(line)["answer"] for line in open(data_dir / "gsm8k_test_a.jsonl")]
    assert score(gsm, gsm.test, solutions) == [1.0] * 660 and all(map(gsm.formatted, gsm.test, solutions))
    rows = json.load(open(data_dir / "math500_a.json"))
    math = load_task("math", train=[MATH[0]], test=str(data_dir / "math500_a.json"))
    rewards = score(math, math.test, [row["solution"] for row in rows])
    wrong = [row["unique_id"] for row, reward in zip(rows, rewards) if reward != 1.0]
    assert len(rows) == 250 and wrong == [], wrong


# Countdown


def test_expressions_are_exact_and_never_run():
    rng = random.Random(0)
    for _ in range(300):
        n = [rng.randint(1, 30) for _ in range(4)]
        text = "(({} {} {}) {} {}) {} {}".format(n[0], *(x for m in n[1:] for x in (rng.choice("+-*/"), m)))
        found = expression_value(text)
        if found is not None:
            assert found[0] == eval(
                "".join(
                    f"Fraction({t})" if t.isdigit() else t for t in text.replace("(", " ( ").replace(")", " ) ").split()
                ),
                {"Fraction": Fraction},
            ) and sorted(found[1]) == sorted(n)
    for text in (
        "().__class__",
        "9**9**9",
        "f'{1}'",
        "[1][0]",
        "1 if 1 else 2",
        "True",
        "1_0 and 1",
        "(" * 150 + "1" + ")" * 150,
        "-5 + 3",
        "",
        "~1",
    ):
        assert expression_value(text) is None, text


def test_countdown_problems_are_solvable_apart_and_the_same_every_time():
    a = load_task("countdown", n_train=200, n_test=50)
    b = load_task("countdown", n_train=200, n_test=50)
    assert a.train == b.train and len(a.train) == 200 and len(a.test) == 50
    assert not {(*sorted(p["numbers"]), p["target"]) for p in a.train} & {
        (*sorted(p["numbers"]), p["target"]) for p in a.test
    }
    for p in (*a.train, *a.test):
        assert a.reward(p, f"<answer>{p['answer']}</answer>") == 1.0 and p["target"] not in p["numbers"]
        assert str(p["target"]) in p["prompt"] and all(str(n) in p["prompt"] for n in p["numbers"])


def test_countdown_rewards():
    problem = dict(numbers=[3, 5, 5], target=15)
    cases = {
        "<answer>3*5</answer>": (1, 0),
        "<answer>3*5 + 5 - 5</answer>": (0, 0),
        "<answer>3*(5*5)/5</answer>": (0, 0),
        "<answer>(5+5)+5</answer>": (0, 0),
        "3*5": (0, 0),
        "<answer>1</answer><answer>5 × 3 = 15</answer>": (1, 0),
        "<answer></answer>": (0, 0),
    }
    for response, (loose, exact) in cases.items():
        assert (countdown_reward(problem, response), countdown_reward(problem, response, exactly=True)) == (
            loose,
            exact,
        ), response
    assert countdown_reward(dict(numbers=[3, 5, 5], target=5), "<answer>(3-3)+5</answer>") == 0.0, (
        "a number was used twice"
    )
    task = load_task("countdown", n_train=2, n_test=2, format_reward=0.1)
    assert (
        task.reward(task.test[0], "<answer>1+1</answer>") == pytest.approx(0.1)
        and task.reward(task.test[0], "1+1") == 0.0
    )
    assert expression_in("<answer>\n2+2 = 4\n</answer>") == "2+2"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(numbers=1), "numbers=1"),
        (dict(largest=2.5), "largest=2.5"),
        (dict(format_reward=1.0), "format_reward=1.0"),
        (dict(numbers=2, largest=10, n_train=10**5), "only .* turned up"),
    ],
)
def test_countdown_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load_task("countdown", **dict(n_test=5) | options)


# reasoning-gym


@pytest.mark.sandbox
@pytest.mark.parametrize(
    "name, options",
    [
        ("chain_sum", dict(max_terms=3)),
        ("gcd", {}),
        ("lcm", {}),
        ("basic_arithmetic", {}),
        ("letter_counting", {}),
        ("spell_backward", {}),
        ("number_sorting", {}),
        ("countdown", {}),
        ("leg_counting", {}),
        ("simple_equations", {}),
        ("base_conversion", {}),
        ("count_primes", {}),
    ],
)
def test_gym_rewards_its_own_answers(name, options):
    pytest.importorskip("reasoning_gym")
    task = load_task("gym", dataset=name, n_train=12, n_test=6, **options)
    assert task.name == f"gym_{name}" and not {p["prompt"] for p in task.train} & {p["prompt"] for p in task.test}
    solutions = [
        (
            p["entry"]["metadata"]["solution"]
            if name == "countdown" and "solution" in p["entry"]["metadata"]
            else p["answer"]
        )
        for p in task.test
    ]
    for p, answer in zip(task.test, solutions):
        assert (
            task.reward(p, f"<think>hm</think><answer>{p['answer']}</answer>") == 1.0
            or task.reward(p, f"<answer>{answer}</answer>") == 1.0
        )
        assert (
            task.reward(p, "<answer>no idea at all</answer>") < 1.0
            and task.reward(p, str(p["answer"])) == 0.0
            and not task.formatted(p, str(p["answer"]))
        )


@pytest.mark.sandbox
def test_gym_pays_no_answer_that_is_not_a_number():
    pytest.importorskip("reasoning_gym")
    task = load_task("gym", dataset="complex_arithmetic", n_train=1, n_test=1)
    problem = task.test[0]
    answers = ["nan", "NaN", "nan+nanj", "nan + 1i", problem["answer"]]
    assert score(task, [problem] * 5, [f"<answer>{answer}</answer>" for answer in answers]) == [0.0] * 4 + [1.0]


def test_gym_refuses_what_it_does_not_know(monkeypatch):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match="dataset='no_such' is none of reasoning-gym's; there are ab,"):
        load_task("gym", dataset="no_such")
    with pytest.raises(ValueError, match="'chain_sum' refuses .*nonsense"):
        load_task("gym", dataset="chain_sum", nonsense=1)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"pip install 'mpo_nb\[gym\]'"):
        load_task("gym", dataset="gcd")


EVAL = (
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
)


@pytest.mark.sandbox
@pytest.mark.parametrize("name", EVAL)
def test_gym_runs_no_answer_in_this_process(name, tmp_path):
    """The checkers that eval: what they run cannot write here, is stopped in time, and pays nothing; the right answer
    beside it keeps its score."""
    reasoning_gym = pytest.importorskip("reasoning_gym")
    task = load_task("gym", dataset=name, n_train=1, n_test=1, timeout=0.7)
    flag = tmp_path / "flag"
    problem = task.test[0]
    hostile = [
        f"open({str(flag)!r}, 'w')",
        f"__import__('os').mkdir({str(flag)!r})",
        "9**9**9",
        "__import__('os')._exit(0)",
        "exit()",
        "[0] * 10**11",
        "(lambda f: f(f))(lambda f: f(f))",
        "entry['metadata']",
        "entry['answer']",
        "__import__('os').kill(__import__('os').getppid(), 9)",
    ]
    right = (
        problem["entry"]["metadata"].get("solution")
        if name == "binary_matrix"
        else problem["entry"]["metadata"].get("expression")
        if name == "countdown"
        else problem["answer"]
    )
    right = right if isinstance(right, str) else problem["answer"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        scores = score(task, [problem] * 12, [f"<answer>{a}</answer>" for a in (right, *hostile, right)])
    trusted = reasoning_gym.create_dataset(name, size=1, seed=10**6).score_answer(right, problem["entry"])
    assert scores[0] == scores[-1] == trusted > 0.01 and max(scores[1:-1]) < 0.1 and not flag.exists()


ODD = [
    "two",
    "-1",
    "1e999",
    "nan",
    "{}",
    "[[]]",
    '{"a": 1}',
    "null",
    "(" * 3000 + "1" + ")" * 3000,
    "9" * 10**5,
    "\u0663",
    "\ud800",
    "a\0b",
    "(a+)+" * 50,
    "1/0",
    "x**x**x",
    "\U0001f4a5",
]


@pytest.mark.sandbox
@pytest.mark.parametrize(
    "name",
    [
        "boxnet",
        "coin_flip",
        "game_of_life",
        "prime_factorization",
        "propositional_logic",
        "arc_agi",
        "sudoku",
        "complex_arithmetic",
        "composite",
    ],
)
def test_gym_scores_odd_answers(name):
    "Checkers that raise, and some that do not: a number for each, and one warning where there was none."
    pytest.importorskip("reasoning_gym")
    parts = (
        dict(
            datasets=[
                dict(name="coin_flip", weight=1, config={}),
                dict(name="prime_factorization", weight=1, config={}),
            ]
        )
        if name == "composite"
        else {}
    )
    game_tasks._warned.clear()
    task = load_task("gym", dataset=name, n_train=1, n_test=2, timeout=1.0, **parts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = [score(task, [p] * len(ODD), [f"<answer>{a}</answer>" for a in ODD]) for p in task.test]
        right = [task.reward(p, f"<answer>{p['answer']}</answer>") for p in task.test]
    assert all(0 <= s <= 1 for row in scores for s in row) and (
        name in ("boxnet", "propositional_logic") or right == [1.0, 1.0]
    )
    told = [str(w.message) for w in caught if f"gym:{name}: " in str(w.message)]
    assert len(told) == (name not in ("arc_agi", "sudoku", "complex_arithmetic")), told
    if name == "prime_factorization":
        assert "'two' (ValueError: invalid literal for int()" in told[0] and "said once" in told[0]


@pytest.mark.sandbox
def test_gym_scores_as_reasoning_gym_does():
    "Right answers, nearly right ones and wrong ones, of a sample of all data sets."
    reasoning_gym = pytest.importorskip("reasoning_gym")
    compared = 0
    for name in sorted(set(reasoning_gym.factory.DATASETS) - {"composite", "knight_swap"})[::9]:
        made = reasoning_gym.create_dataset(name, size=2, seed=10**6)
        task = load_task("gym", dataset=name, n_train=1, n_test=2, timeout=20.0)
        answers = [(p, a) for p in task.test for a in (p["answer"], f"{p['answer']} 1", "no idea", p["answer"][:-1])]
        scores = score(task, [p for p, _ in answers], [f"<answer>{a}</answer>" for _, a in answers])
        for (p, a), found in zip(answers, scores):
            with contextlib.suppress(ValueError, KeyError, IndexError):
                assert found == made.score_answer(a.strip(), p["entry"]), (name, a)
                compared += 1
    assert compared > 80


def test_gym_refuses_to_start_without_a_sandbox(monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setenv("PATH", "")
    game_tasks._checkers.cache_clear()
    with pytest.raises(
        RuntimeError, match="checkers of reasoning-gym run what a model wrote: .*no bwrap on the PATH.*unsafe_code=True"
    ):
        load_task("gym", dataset="gcd")
    train, test = game_tasks.gym_problems("gcd", n_train=5, n_test=3)
    assert len(test) == 3 and set(train[0]) == {"prompt", "answer", "entry"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = load_task("gym", dataset="puzzle24", n_train=1, n_test=1, unsafe_code=True)
        assert score(
            task,
            task.test * 2,
            [f"<answer>{task.test[0]['answer']}</answer>", "<answer>__import__('os')._exit(0)</answer>"],
        ) == [1.0, 0.01]
    game_tasks._checkers(("no",) * 0, True, os.getpid()).close()
    game_tasks._checkers.cache_clear()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_train=0), "n_train=0; it must be a whole number from 1"),
        (dict(n_test="3"), "n_test='3'; it must be a whole number"),
        (dict(seed=1.5), "seed=1.5; it must be"),
        (dict(n_test=True), "n_test=True"),
        (dict(timeout=0), "timeout=0; give a positive number"),
        (dict(timeout=float("inf")), "timeout=inf; give a positive number"),
        (dict(template="hm"), "no place {question}"),
    ],
)
def test_gym_options_that_will_not_do(options, message):
    pytest.importorskip("reasoning_gym")
    try:
        with pytest.raises(ValueError, match=message):
            game_tasks.gym("gcd", **dict(n_train=2, n_test=2) | options)
    except RuntimeError as error:  # no sandbox on this machine
        assert "bubblewrap" in str(error)


def test_an_answer_is_found_in_linear_time():
    for response in (
        "<answer>" * 200_000,
        "<answer>" * 100_000 + "</answer>",
        "</answer>" * 200_000,
        "<answer></answer>" * 100_000,
    ):
        start = time.monotonic()
        game_tasks.answer_in(response)
        countdown_reward(dict(numbers=[1], target=1), response)
        assert time.monotonic() - start < slowness()
    assert game_tasks.answer_in("<answer>a</answer><answer>\nb </answer> </answer> <answer>c") == "\nb "


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9" * 10**6,
        "(" * 3000 + "1" + ")" * 3000,
        "-" * 150 + "1",
        "(" * 99 + "1" + ")" * 99,
        "1" * 199,
        "\u0663",
        "\uff13",
        "\xb2",
        "nan",
        "1e999",
        "\0",
        "\ud800",
        "__import__('os')",
        "1if 1else 1",
        "True",
        "3.0",
        "0x3 + 0",
        "1_0",
    ],
)
def test_countdown_reads_odd_answers(text):
    "None is run, none raises, and none that is not written in the problem's numbers pays."
    start = time.monotonic()
    assert countdown_reward(dict(numbers=[5, 7], target=12), f"<answer>{text}</answer>") == 0.0
    assert time.monotonic() - start < slowness()


# Code

FENCE = "`" * 3


@pytest.mark.parametrize(
    "response, found",
    [
        (f"{FENCE}python\ndef f(): pass\n{FENCE}", "def f(): pass\n"),
        (f"{FENCE}\ndef f(): pass\n{FENCE}", "def f(): pass\n"),
        ("def f(): pass", "def f(): pass"),
        (
            (
                f"{FENCE}python\ndef f(): return 1\n{FENCE}\nbetter:\n{FENCE}py\ndef f(): return"
                f" 2\n{FENCE}\n{FENCE}\nf()\n{FENCE}"
            ),
            "def f(): return 2\n",
        ),
        (f"{FENCE}python\ndef f(): pass", "def f(): pass"),
        (f"{FENCE}python\ndef ff(): pass\n{FENCE}", None),
        ("I do not know", None),
        (f"{FENCE}python\nf = lambda: 1\n{FENCE}", "f = lambda: 1\n"),
        (f"{FENCE}js\nfunction f() {{}}\n{FENCE}", None),
        ("", None),
    ],
)
def test_the_program_in_a_response(response, found):
    assert extract_program(response, "f") == found


@pytest.mark.parametrize(
    "response, kept",
    [
        ("    return 1\n", "    return 1\n"),
        ("    return 1\ndef g(): pass", "    return 1"),
        ("    x = (\n1)\n", "    x = ("),
        ("    a\n\n\n    b\nprint(1)\n", "    a\n\n\n    b"),
        (" return 1", " return 1"),
        ("    x = [\n        1\n    ]\n    return x", "    x = [\n        1\n    ]\n    return x"),
    ],
)
def test_where_a_completion_ends(response, kept):
    assert cut_completion(response) == kept


@pytest.mark.sandbox
def test_humaneval_in_both_styles(hub):
    chat = load_task("humaneval")
    plain = load_task("humaneval", style="completion")
    assert (
        {p["task_id"] for p in chat.train}.isdisjoint(p["task_id"] for p in chat.test)
        and len(chat.train) + len(chat.test) == 12
        and len(chat.test) > 2
    )

    def solved(p):
        return p["code"] + p["answer"]

    right = [f"Sure.\n{FENCE}python\n{solved(p)}{FENCE}" for p in chat.test]
    assert score(chat, chat.test, right) == [1.0] * len(chat.test)
    assert score(chat, chat.test, [r.replace("len(x)", "0") for r in right]) == [0.0] * len(chat.test)
    bare = [r.replace("from typing import List\n", "") for r in right]
    assert score(chat, chat.test, bare) == [1.0] * len(chat.test), "an answer without the problem's imports counts too"
    assert score(plain, plain.test, [p["answer"] + "\nprint('more')\nraise ValueError" for p in plain.test]) == [
        1.0
    ] * len(plain.test)
    assert score(plain, plain.test, ["    return 0\n" for _ in plain.test]) == [0.0] * len(plain.test)
    assert plain.test[0]["prompt"] == plain.test[0]["code"] and "\ndef " in plain.stop and not chat.stop


@pytest.mark.sandbox
def test_mbpp_names_the_function_that_its_assertions_call(hub):
    task = load_task("mbpp")
    assert (
        len(task.train) == 4 and len(task.test) == 2 and all(p["called"] == "plus" for p in (*task.train, *task.test))
    )
    assert task.test[0]["test"].count("assert") == 2 and "assert plus(1)" in task.test[0]["prompt"]
    assert score(task, task.test, [f"{FENCE}python\n{p['answer']}\n{FENCE}" for p in task.test]) == [1.0, 1.0]
    assert score(task, task.test, [f"{FENCE}python\ndef plus(x): return x\n{FENCE}", "nothing"]) == [0.0, 0.0]


def test_code_tasks_refuse_to_start_without_a_sandbox(hub, monkeypatch):
    def missing(unsafe_code=False):
        if not unsafe_code:
            raise RuntimeError("no bubblewrap here; install it")

    monkeypatch.setattr("mpo_nb.tasks.programs.check_sandbox", missing)
    for name in ("humaneval", "mbpp"):
        with pytest.raises(RuntimeError, match="code tasks run what a model wrote: no bubblewrap here; install it"):
            load_task(name)
        assert load_task(name, unsafe_code=True).name == name
    assert hub, "nothing was read where it may start"


@pytest.mark.sandbox
@pytest.mark.data
@pytest.mark.slow
def test_all_canonical_solutions_pass_through_the_task(data_dir):
    task = load_task("humaneval", train=[HUMANEVAL[0]], test=str(data_dir / "humaneval_a.jsonl"), style="completion")
    assert len(task.test) == 82 and score(task, task.test, [p["answer"] for p in task.test]) == [1.0] * 82
    chat = load_task("humaneval", train=[HUMANEVAL[0]], test=str(data_dir / "humaneval_a.jsonl"), n_test=20)
    assert (
        score(chat, chat.test, [f"{FENCE}python\n{p['code']}{p['answer']}\n{FENCE}" for p in chat.test]) == [1.0] * 20
    )


@pytest.mark.data
@pytest.mark.slow
def test_gsm8k_from_data_to_evaluation_with_a_pretrained_model(data_dir, smollm2, tmp_path):
    "The whole way, two steps of it: files, chat template, LoRA in bfloat16, math-verify, evaluation, adapters merged."
    from mpo_nb.config import TrainConfig
    from mpo_nb.evaluation.comparing import compare
    from mpo_nb.evaluation.evaluating import evaluate
    from mpo_nb.models.loading import load
    from mpo_nb.runs.trace_files import load_traces
    from mpo_nb.training.trainer import Trainer

    files = dict(
        train=str(data_dir / "gsm8k_train.jsonl"), test=str(data_dir / "gsm8k_test_a.jsonl"), n_train=64, n_test=8
    )
    unpacked = tmp_path / "model"  # a GGUF file is read for seconds whenever it is opened
    for part in load(smollm2, precision="bfloat16", quiet=True):
        part.save_pretrained(unpacked)
    config = TrainConfig(
        model=str(unpacked),
        task="gsm8k",
        task_options=files,
        recipe="mpo",
        k=4,
        lora_rank=4,
        lr=1e-4,
        steps=2,
        prompts_per_step=2,
        group_size=4,
        epochs=1,
        max_new_tokens=24,
        precision="bfloat16",
        eval_every=0,
        output=str(tmp_path / "run"),
        progress=False,
    )
    rows = Trainer(config).fit()
    assert [row["step"] for row in rows] == [1, 2] and all(
        0 <= row["train_format"] <= 1 and row["mismatch_max"] < 3 for row in rows
    )
    trace = load_traces(tmp_path / "run")[0]
    assert (
        trace.prompt.startswith("<|im_start|>system")
        and "after ####" in trace.prompt
        and trace.prompt.rstrip().endswith("assistant")
    )
    results = []
    for name, source in (("before", unpacked), ("after", tmp_path / "run" / "checkpoints" / "step-000002")):
        model, tokenizer = load(source, precision="bfloat16", quiet=True)
        results.append(
            evaluate(
                model,
                tokenizer,
                load_task("gsm8k", **files),
                n=4,
                k=None,
                max_new_tokens=24,
                output=tmp_path / f"{name}.jsonl",
                progress=False,
            )
        )
    assert all(len(r.records) == 4 and 0 <= r.accuracy <= 1 for r in results)
    assert "no difference shown" in str(compare(*results))
