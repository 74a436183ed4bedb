"Answers found and compared: many ways to write them, hostile ones, from threads, and against recorded judgements."
import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mpo_nb import verify
from mpo_nb.verify import extract_answer, math_equal

MODELS = [f"{size}_{kind}" for size in ("6b", "175b") for kind in ("finetuning", "verification")]


@pytest.mark.parametrize("response, answer", [
    ("", None), ("no digits here", None), ("H2O and x2", None), (r"\boxed{}", None), (r"\boxed{ } so 5", "5"),
    (r"\boxed{1} then \boxed{2}", "2"), (r"\boxed{1} then \boxed{2", "1"), (r"\boxed{\text{a } b} 9", r"\text{a } b"),
    (r"} \boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"), (r"\boxed {7}", "7"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"#### 5 and \boxed{6}", "6"), ("#### 5\nnot 6", "5"), ("#### 1\n#### -1,234\n", "-1,234"), ("#### 2. Costs\nso 8", "8"),
    ("it is 18.", "18"), ("it is -18", "-18"), ("7-3", "3"), ("7 - 3", "3"), ("$-5$", "-5"), ("(-5)", "-5"), ("-$5", "-5"),
    ("=5", "5"), ("12,345,678.9 in all", "12,345,678.9"), ("of 3, 4", "4"), (".5", ".5"), ("50 %", "50 %"), ("3/4 cup", "3/4"),
    (r"so $-\dfrac{3}{4}$.", r"-\dfrac{3}{4}"), (r"2\frac12", r"2\frac12"), ("at 5:00.", "5:00"), ("答案是18。", "18"),
])
def test_extract_answer(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize("found, answer, equal", [
    ("1,234", "1234", True), ("1 234 567", "1234567", True), (r"1\,234", "1,234", True), (r"1{,}234.50", "1234.5", True), ("18.", "18", True),
    ("1/2", r"\frac12", True), ("0.5", r"\dfrac{1}{2}", True), ("1 1/2", "1.5", True), (r"1\frac{1}{2}", "3/2", True), ("2/4", "1/2", True),
    ("50%", "50", True), (r"50\%", "0.5", True), ("12.5%", "12.5", True), ("12.5", r"12.5\%", True), ("50", "0.5", False), ("10%", "11%", False),
    (r"5\text{ cm}", "5", True), ("5 dollars", "5", True), (r"\$5", "5", True), ("5 apples each", r"5 \text{ apples}", True), ("5 km", "6 km", False),
    ("-3", "3", False), ("\u22123", "-3", True), ("-$5", "-5", True), (r"\text{even}", r"\text{odd}", False), (r"\text{(C)}", "(C)", True),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)", True), ("(3, 2)", "(2, 3)", False), ("x^2+2x+1", "(x+1)^2", True), ("6 - 5i", "-5i+6", True),
    (r"[0, 1)", r"[0, 1]", False), (r"(-\infty, 2] \cup [3, \infty)", r"(-\infty,2]\cup[3,\infty)", True), (r"90^\circ", "90", True),
    ("1,2,3", "2", False), ("", "2", False),
])
def test_math_equal(found, answer, equal):
    assert math_equal(r"so \boxed{%s}" % found, answer) is equal


def test_the_answer_may_be_a_solution():
    assert math_equal("It is 72.", "48/2 = 24 and 48+24 = 72\n#### 72")
    assert math_equal("It is 72.", r"We add, so $\boxed{72}$ of 99.")


@pytest.mark.parametrize("response, answer, timeout, named", [
    (None, "4", 5, "response"), (b"4", "4", 5, "response"), ("4", "", 5, "answer"), ("4", 4, 5, "answer"), ("4", "4", 0, "timeout"), ("4", "4", float("nan"), "timeout"),
])
def test_bad_input_is_named(response, answer, timeout, named):
    with pytest.raises(ValueError, match=f"{named}="):
        math_equal(response, answer, timeout)


@pytest.mark.parametrize("text", [r"\boxed{", "{", "}", "1", "1,", "1,234", "-", "$", "#### ", "#### 1 ", "1 1/", r"\frac{1}", " ", r"\boxed ", "1:", "a ", "1 a."])
def test_extraction_takes_linear_time(text):
    start = time.perf_counter()
    extract_answer(text * (200_000 // len(text)) + "x")
    verify._tidy(text * (200_000 // len(text)) + "!")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("hostile", ["9^{9^{9}}", "(10^{10})!", r"\sum_{i=1}^{10^9} \sin(i^2)", "(" * 200 + "1" + ")" * 200])
def test_a_hostile_expression_is_bounded_and_wrong(hostile):
    start = time.perf_counter()
    assert not math_equal(r"\boxed{%s}" % hostile, "1", timeout=1.0)
    assert time.perf_counter() - start < 30  # a second, and the start of a process on a busy machine
    assert math_equal(r"\boxed{2+2}", "4")


def test_from_many_threads():
    "Replies go to the thread that asked, also when another thread's expression ends the process."
    def ask(i):
        if i == 20:
            return not math_equal(r"\boxed{8^{8^{9}}}", "1", timeout=1.0)
        return math_equal(r"\boxed{\frac{%d}{7}}" % i, r"\frac{%d}{7}" % (i - i % 2)) == (i % 2 == 0)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1, 60)))


def test_a_killed_process_is_replaced():
    assert math_equal(r"\boxed{\frac{3}{11}}", "3/11")
    verify._server.kill()
    verify._server.wait()
    assert math_equal(r"\boxed{\frac{4}{11}}", "4/11")


def _in_child(queue):
    queue.put((verify._server is None, math_equal(r"\boxed{\frac{6}{11}}", "6/11")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_asks_a_process_of_its_own():
    assert math_equal(r"\boxed{\frac{5}{11}}", "5/11")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == (True, True)
    child.join()
    assert math_equal(r"\boxed{\frac{7}{11}}", "7/11")


def solutions(data_dir):
    "(solution, the right answer, whether it was recorded as correct) of four models on GSM8K."
    for line in (data_dir / "gsm8k_model_solutions_a.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for model in MODELS:
            yield row[model]["solution"], row["ground_truth"].rsplit("A: ", 1)[1], row[model]["is_correct"]


@pytest.mark.data
def test_agreement_with_recorded_judgements(data_dir):
    "The numbers that nbs/lib/verify.ipynb states."
    rows = list(solutions(data_dir))
    assert len(rows) == 1600
    assert sum(math_equal(text, answer) == correct for text, answer, correct in rows) == 1600
    assert sum((extract_answer(text) == answer) == correct for text, answer, correct in rows) == 1599
    prose = [(text.rsplit("\nA: ", 1)[0], answer, correct) for text, answer, correct in rows if "\nA: " in text]
    missed = [correct for text, answer, correct in prose if math_equal(text, answer) != correct]
    assert (len(prose), missed.count(True), missed.count(False)) == (1595, 17, 2)


@pytest.mark.data
def test_worked_solutions_give_their_answer(data_dir):
    for row in json.loads((data_dir / "math500_a.json").read_text(encoding="utf-8")):
        assert math_equal(row["solution"], row["answer"]), row["answer"]
    count = 0
    for name in ("gsm8k_train.jsonl", "gsm8k_test_a.jsonl"):
        for line in (data_dir / name).read_text(encoding="utf-8").splitlines():
            answer, count = json.loads(line)["answer"], count + 1
            assert extract_answer(answer) == answer.rsplit("#### ", 1)[1].strip()
    assert count == 8133
