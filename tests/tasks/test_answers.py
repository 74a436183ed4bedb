"When two answers say the same: each kind of answer, right and wrong, and every changed digit of MATH's answers."

import json
import re
import time

import pytest
from answer_pairs import EQUAL, UNEQUAL
from machine import slowness

from mpo_nb.tasks import equality as answers
from mpo_nb.tasks.answers import math_equal_each


@pytest.mark.parametrize("kind", EQUAL)
def test_one_value_in_several_spellings(kind):
    pairs = [(a, b) for group in EQUAL[kind] for a in group for b in group if a != b]
    equal = math_equal_each([rf"\boxed{{{a}}}" for a, _ in pairs], [b for _, b in pairs])
    assert [pair for pair, right in zip(pairs, equal) if not right] == []


@pytest.mark.parametrize("kind", UNEQUAL)
def test_another_value_is_never_paid(kind):
    pairs = [pair for a, b in UNEQUAL[kind] for pair in ((a, b), (b, a))]
    equal = math_equal_each([rf"\boxed{{{a}}}" for a, _ in pairs], [b for _, b in pairs])
    assert [pair for pair, paid in zip(pairs, equal) if paid] == []


def test_a_single_letter_behind_a_space_is_a_unit_for_a_bare_number():
    assert math_equal_each(
        [r"\boxed{5 m^2}", r"\boxed{3 m/s}", r"\boxed{5}", r"\boxed{3}"], ["5", "3", "5 m^2", "3 m/s"]
    ) == [True, True, False, True]


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        "1 ",
        "x_",
        "a",
        "aa ",
        "(",
        "((1",
        r"\text{a}",
        r"\frac",
        r"\sqrt(",
        "1/",
        "1:",
        "1cm",
        "°",
        "0.12",
        r"\{",
        r"\mathbf{",
        "1^",
        "=",
        "±",
    ],
)
def test_the_rules_alone_take_no_time(piece):
    "They run where the trainer runs, so no text of 500 characters may hold them up."
    text = (piece * 500)[:499]
    start = time.perf_counter()
    for found in (text, text + "!", ("0." + text)[:500], ("x=" + text)[:500]):
        try:
            answers.same_answer(found, "5 cm", lambda *question: False)
        except RecursionError:
            pass  # which `math_equal` leaves to a worker
    assert time.perf_counter() - start < 2 * slowness()


def changed(gold):
    "An answer with one digit or one sign another."
    for at, sign in enumerate(gold):
        if sign.isdigit():
            yield from (gold[:at] + digit + gold[at + 1 :] for digit in "0123456789" if digit != sign)
        elif sign in "+-":
            yield from (
                gold[:at] + other + gold[at + 1 :]
                for other in ("+-".replace(sign, ""), " ")
                if gold[:at].strip() or other == "+"
            )
    if gold[0] not in "-+0" and not gold.startswith(r"\text"):
        yield "-" + gold


WAYS = {
    "dfrac": lambda g: re.sub(r"\\d?frac", r"\\dfrac", g),
    "tfrac": lambda g: re.sub(r"\\d?frac", r"\\tfrac", g),
    "display": lambda g: r"\displaystyle " + g,
    "left": lambda g: (
        g if "left" in g else g.replace("(", r"\left(").replace(")", r"\right)").replace(r"]", r"\right]")
    ),
    "dollar": lambda g: f"${g}$",
    "round": lambda g: rf"\( {g} \)",
    "stop": lambda g: g + ".",
    "spaces": lambda g: f"  {g} ",
    "bold": lambda g: rf"\mathbf{{{g}}}",
    "boldsymbol": lambda g: rf"\boldsymbol{{{g}}}",
    "named": lambda g: g if "=" in g else "x = " + g,
    "quad": lambda g: r"\quad " + g + r"\,",
    "dot": lambda g: re.sub(r"(?<=\d)\s?(?=\\sqrt|\\pi)", r" \\cdot ", g),
    "unicode": lambda g: re.sub(r"\\sqrt\{?(\d+)\}?", r"√\1", g).replace(r"\pi", "π").replace("-", "−"),
    "slash": lambda g: re.sub(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}", r"(\1)/(\2)", g),
    "twice": lambda g: re.sub(r"frac\{(\d+)\}\{(\d+)\}", lambda m: f"frac{{{2 * int(m[1])}}}{{{2 * int(m[2])}}}", g),
    "thousands": lambda g: f"{int(g):,}" if g.lstrip("-").isdigit() else g,
    "decimal": lambda g: g + ".0" if g.lstrip("-").isdigit() else g,
    "unit": lambda g: g + r"\text{ cm}^2" if g.lstrip("-").isdigit() else g,
    "degrees": lambda g: g.replace(r"^\circ", r"\text{ degrees}"),
    "bare": lambda g: re.sub(r"\\text\{([^{}]*)\}", r"\1", g),
    "commas": lambda g: re.sub(r",(?!\\!)\s*", ", ", g),
    "box": lambda g: rf"\boxed{{{g}}}",
}
BY_HAND = [
    "9",
    "-50",
    r"\frac{14}{3}",
    "52_8",
    r"3\sqrt{13}",
    "6 - 5i",
    r"\left( 3, \frac{\pi}{2} \right)",
    ".0000672",
    "1,-2",
    "x=5",
    r"\text{Evelyn}",
    r"90^\circ",
    "(3,4]",
    r"10,\!080",
    "5x - 7y + 4 = 0",
]


def mutations_and_ways(golds):
    wrong = [(other, gold) for gold in golds for other in dict.fromkeys(changed(gold))]
    right = [(way(gold), gold) for gold in golds for way in WAYS.values() if way(gold) != gold]
    return wrong, right


def check(wrong, right):
    paid = math_equal_each([rf"\boxed{{{other}}}" for other, _ in wrong], [gold for _, gold in wrong], timeout=30)
    assert [pair for pair, equal in zip(wrong, paid) if equal] == []
    equal = math_equal_each([rf"\boxed{{{other}}}" for other, _ in right], [gold for _, gold in right], timeout=30)
    assert [pair for pair, same in zip(right, equal) if not same] == []


def test_no_changed_digit_passes_and_every_other_way_does():
    wrong, right = mutations_and_ways(BY_HAND)
    assert len(wrong) > 300 and len(right) > 150
    check(wrong, right)


@pytest.mark.data
def test_math_500(data_dir):
    """The numbers that nbs/lib/tasks/equality.ipynb states: no changed digit or sign of 250 right answers passes, and
    every other way to write them does."""
    golds = list(
        dict.fromkeys(row["answer"] for row in json.loads((data_dir / "math500_a.json").read_text(encoding="utf-8")))
    )
    wrong, right = mutations_and_ways(golds)
    assert (len(golds), len(wrong), len(right)) == (170, 4348, 2062)
    check(wrong, right)
