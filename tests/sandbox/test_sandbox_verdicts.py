"Verdicts: forged ones, honest programs and honest tests, and tests that are none."

import builtins
import json
import sys
import textwrap

import pytest
from code_attacks import FORGERIES, RIGHT
from code_idioms import IDIOMS

from mpo_nb.sandbox.runner import code_passes, run_programs
from mpo_nb.sandbox.tests import check_test, prepare_test
from mpo_nb.tasks.programs import humaneval, mbpp
from mpo_nb.tasks.task import score

walled = pytest.mark.sandbox


def passes_here(program, test):
    "Whether a test passes in one plain interpreter."
    before = sys.stdout, sys.stdin, builtins.input
    try:
        exec(compile(f"{program}\n{test}", "<here>", "exec"), {"__name__": "here"})
    except Exception:
        return False
    finally:
        sys.stdout, sys.stdin, builtins.input = before
    return True


@walled
def test_no_program_writes_its_verdict():
    forged = run_programs([(program, test) for program, test, *_ in FORGERIES.values()], timeout=30)
    earned = run_programs(
        [(*right, test)[:2] if right else (RIGHT, test) for _, test, *right in FORGERIES.values()], timeout=30
    )
    assert [(name, result.reason) for name, result in zip(FORGERIES, forged) if result.passed] == []
    assert [(name, result.reason) for name, result in zip(FORGERIES, earned) if not result.passed] == []


@walled
def test_idioms_of_honest_tests():
    wrong = {name: program.replace(part, other, 1) for name, (program, part, other, _) in IDIOMS.items()}
    assert len(IDIOMS) >= 45 and [name for name in IDIOMS if wrong[name] == IDIOMS[name][0]] == []
    for name, (program, _, _, test) in IDIOMS.items():
        assert passes_here(program, test) and not passes_here(wrong[name], test), name
    jobs = [(program, test) for program, _, _, test in IDIOMS.values()]
    right = run_programs(jobs, timeout=30)
    broken = run_programs([(wrong[name], test) for name, (_, _, _, test) in IDIOMS.items()], timeout=30)
    assert [(name, result.reason) for name, result in zip(IDIOMS, right) if not result.passed] == []
    assert [name for name, result in zip(IDIOMS, broken) if result.passed] == []


NOTHING = {
    "a constant": "assert True",
    "a number": "assert 1 + 1 == 2",
    "a comment": "# nothing",
    "a tuple": "assert (double(1) == 2, 'message')",
    "a generator": "assert (double(x) == 2 * x for x in (1, 2))",
    "or True": "assert double(1) == 2 or True",
    "a comparison alone": "double(1) == 2",
    "printed": "print(double(1))",
    "a doctest": "'''\n>>> double(1)\n2\n'''",
    "a function": "def test_double():\n    assert double(1) == 2",
    "a method": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_it(self): self.assertEqual(double(1),"
        " 2)\nunittest.TestLoader"
    ),
    "under __main__": "if __name__ == '__main__':\n    assert double(1) == 2",
    "a comprehension": "assert [double(x) == 2 * x for x in range(3)]",
    "map": "assert map(lambda x: double(x) == 2 * x, [1, 2])",
    "an f-string": "assert f'{double(1) == 2}'",
    "a dict": "assert {'double': double(1) == 2}",
    "behind the end": "import sys\nsys.exit()\nassert double(1) == 2",
    "a loop over nothing": "for x, y in []:\n    assert double(x) == y",
    "a loop that never begins": "while False:\n    assert double(1) == 2",
    "a dead branch": "if False:\n    assert double(1) == 2",
    "caught": "try:\n    assert double(1) == 2\nexcept AssertionError:\n    print('no')",
    "suppressed": "from contextlib import suppress\nwith suppress(Exception):\n    assert double(1) == 2",
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_test_that_asserts_nothing_is_refused(name):
    inside = "def check(candidate):\n" + textwrap.indent(NOTHING[name] + "\npass", "    ")
    for test, entry_point in ((NOTHING[name], None), (inside, "double")):
        with pytest.raises(
            ValueError, match="the test asserts nothing, and would pass any program.*; (call|assert|give) "
        ):
            prepare_test(test, entry_point)


@pytest.mark.parametrize(
    "test, message",
    [
        ("import scipy\nassert double(1) == 2", "imports scipy"),
        ("import pytest\nassert double(1) == 2", "imports pytest"),
        ("from solution import double\nassert double(1) == 2", "imports solution"),
        ("assert np.allclose(double(1), 2)", "uses np, which it does not define"),
        ("assert is_close(double(1), 2)", "uses is_close,"),
        ("assert isclose(double(1), 2)", "isclose, which it does not define"),
        ("assert len([1]) == sum([1])", r"nothing but built-in functions \(len, sum\).*called="),
        ("class T(Base): pass\nassert T().x == 1", "derives from a class of the program"),
        ("import asyncio\nassert asyncio.run(double(1)) == 2", "coroutines"),
        (
            "from unittest.mock import patch\nwith patch('time.time', return_value=1): assert double(1) == 2",
            "patches 'time.time'",
        ),
        ("import random\nrandom.seed(0)\nassert double(1) == 2", "seeds `random`"),
        (
            "import inspect\nassert 'x' in inspect.signature(double).parameters",
            "looks into the program by inspect.signature",
        ),
    ],
)
def test_a_test_that_cannot_run_by_itself_is_refused(test, message):
    with pytest.raises(ValueError, match=message):
        prepare_test(test)


def test_names_that_a_test_leaves_to_the_program():
    helper = "def check(candidate):\n    assert near(candidate(1), 2)\n"
    check_test(helper, "double", defined=["near"])
    with pytest.raises(
        ValueError,
        match=(
            "the test uses near, which neither the test nor a right program defines; let the test import or define it"
        ),
    ):
        check_test(helper, "double", defined=[])
    prepared = prepare_test("import numpy as np\nassert math.isclose(double(1), y) and all(f(x) for x in np.arange(3))")
    assert prepared.wanted == ("double", "f", "y") and prepared.modules == ("math",) and prepared.packages == ("numpy",)


@walled
def test_a_bad_test_is_refused_before_anything_runs(tmp_path):
    for ask in (
        lambda: code_passes(RIGHT, NOTHING["a function"]),
        lambda: run_programs(
            [("while True: pass", "assert double(2) == 4"), (RIGHT, "import scipy\nassert double(1)")]
        ),
    ):
        with pytest.raises(ValueError, match="^test='.*the test (asserts nothing|imports scipy)"):
            ask()
    assert code_passes("def sum(xs): return 3", "assert sum(list(range(3))) == 3", called="sum", timeout=30).passed
    assert not code_passes(
        "def sum(xs): return 2\ndef list(xs): return [1]", "assert sum(list(range(3))) == 3", called="sum", timeout=30
    ).passed


def problem(i, test, solution="    return x + 1\n"):
    return dict(
        task_id=f"T/{i}",
        prompt=f'def add_one(x):\n    """Return x + 1, task {i}."""\n',
        entry_point="add_one",
        canonical_solution=solution,
        test=test,
    )


@walled
def test_humaneval_names_the_row_whose_test_cannot_judge(tmp_path):
    right = "def check(candidate):\n    assert candidate(1) == 2\n"
    plus = (
        "import numpy as np\n\ndef check(candidate):\n    for x, y in [(1, 2), (4, 5)]:\n        assert candidate(x) =="
        " y or np.allclose(candidate(x), y)\n"
    )

    def made(test, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(problem(i, test if i == 3 else right, **options)) + "\n" for i in range(4)))
        return humaneval(train=[problem(9, right)], test=str(path), style="completion")

    assert score(made(plus), made(plus).test, ["    return x + 1\n"] * 4) == [1.0] * 4
    assert score(made(plus), made(plus).test, ["    return []\n"] * 4) == [0.0] * 4
    for test, message in (
        ("import scipy\n" + right, "imports scipy"),
        ("def check(candidate): pass\n", "asserts nothing"),
        ("def test_it():\n    assert add_one(1) == 2\n", "no function check"),
    ):
        with pytest.raises(ValueError, match=f"^test: task_id='T/3': the test .*{message}.*or leave the row out"):
            made(test)
    with pytest.raises(
        ValueError, match="^test: task_id='T/3': the row's own solution does not pass its test, which imports numpy"
    ):
        made(plus, solution="    return x\n")
    with pytest.warns(RuntimeWarning, match="task_id='T/3': the test uses is_close"):
        task = made("def check(candidate):\n    assert is_close(candidate(1), 2)\n")
    assert score(task, task.test[:3], ["    return x + 1\n"] * 3) == [1.0] * 3
    with pytest.raises(RuntimeError, match="ValueError: test: task_id='T/3': the test uses is_close"):
        score(task, task.test[3:], ["    return x + 1\n"])


@walled
def test_mbpp_takes_one_name_of_a_built_in_and_the_solutions_imports():
    fence = "`" * 3
    rows = [
        dict(
            prompt="Add.",
            code="def sum(a, b): return a + b",
            test_list=["assert sum(1, 2) == 3", "assert abs(sum(1, 1) - 2) == 0"],
            task_id=1,
        ),
        dict(
            prompt="A tenth.",
            code="from math import isclose\ndef tenth(x): return x / 10",
            test_list=["assert isclose(tenth(3), 0.3)"],
            task_id=2,
        ),
        dict(
            prompt="Twice.",
            code="def twice(x): return 2 * x",
            test_list=["assert all(twice(x) == 2 * x for x in range(5))"],
            task_id=3,
        ),
    ]
    task = mbpp(train=[dict(prompt="x", code="def f(): return 1", test_list=["assert f() == 1"], task_id=0)], test=rows)
    answers = [
        [row["code"] for row in rows],
        [
            "def sum(a, b): return 0\ndef abs(x): return 0",
            "def isclose(*a): return True\ndef tenth(x): return 0",
            "def twice(x): return 0\ndef all(xs): return True",
        ],
    ]
    assert [score(task, task.test, [f"{fence}python\n{code}\n{fence}" for code in codes]) for codes in answers] == [
        [1.0] * 3,
        [0.0] * 3,
    ]
    with pytest.raises(ValueError, match="^test: task_id='7': the test imports pandas"):
        mbpp(train=rows[:1], test=[dict(rows[2], test_imports=["import pandas"], task_id=7)])


@walled
def test_a_class_where_a_function_belongs_decides_nothing():
    liar = (
        "class Sum:\n    asked = 0\n    def __init__(self, x): pass\n    def __eq__(self, other):\n        Sum.asked +="
        " 1\n        return Sum.asked == "
    )
    for asked in (1, 2, 3):
        assert not code_passes(f"{liar}{asked}", "assert Sum(3) == 6", called="Sum", timeout=30)
    assert code_passes("def Sum(x): return 2 * x", "assert Sum(3) == 6", called="Sum", timeout=30)
    row = dict(prompt="Add up.", code="def Sum(x): return 2 * x", test_list=["assert Sum(3) == 6"], task_id=1)
    other = dict(
        prompt="A stack.",
        code="class Stack:\n    def __init__(self): self.n = 0",
        test_list=["assert Stack().n == 0"],
        task_id=2,
    )
    task = mbpp(train=[row], test=[other], timeout=30)
    assert score(task, task.train, [f"```python\n{liar}3\n```"]) == [0.0]
    assert score(task, task.test, [f"```python\n{other['code']}\n```"]) == [1.0]
