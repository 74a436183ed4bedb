"""How long rewards take: comparing answers of mathematics, and running programs behind the sandbox's walls.

Answers: a batch of 256, as many as a step of training has. 248 are answers of competitions in kind (whole numbers,
fractions, roots, intervals, polynomials), half of them right in another form. Eight are hostile: numbers that do not
fit into memory, powers of long sums, sums of a thousand million terms. Each batch has other numbers, so nothing is
known from the batch before. The first one also starts the processes that compare.

Programs: right solutions of small problems, each with a test of seven assertions, as in HumanEval; every one runs in
new processes behind the walls, its test in another one. Where there is no sandbox, the rows of programs are left out.

    python benchmarks/rewards.py        # about a minute; writes benchmarks/rewards.csv
"""

import argparse
import os
import random
import statistics
import time
from pathlib import Path

from records import output_path, size, write_table

from mpo_nb.sandbox import check_sandbox, run_programs
from mpo_nb.tasks import math_equal_each

ANSWERS = size(248, 8)
PROGRAMS = size(60, 2)


def plain_answer(rng: random.Random) -> tuple[str, str, bool]:
    "What a response says, the right answer, and whether they are equal."
    a, b, c = (rng.randint(2, 99) for _ in range(3))
    right = rng.random() < 0.5
    off = 0 if right else 1
    said, known = rng.choice(
        [
            (f"{a * b + off}", f"{a * b}"),
            (rf"\frac{{{a * c}}}{{{b * c + off}}}", rf"\frac{{{a}}}{{{b}}}"),
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + off}}}"),
            (rf"\frac{{1}}{{\sqrt{{{b}}}}}", rf"\frac{{\sqrt{{{b + off}}}}}{{{b}}}"),
            (f"({a}, {b + off})", f"({a},{b})"),
            (rf"[{a}, {b + 99 + off})", rf"[{a},{b + 99})"),
            (f"(x+{a})(x+{b})", f"x^2+{a + b + off}x+{a * b}"),
            (rf"{a}\pi + {b}\pi", rf"{a + b + off}\pi"),
            (f"{a}.{b:02d}", rf"\frac{{{a * 100 + b + off}}}{{100}}"),
            (rf"{a}^{{{b % 7 + 2}}}", f"{a ** (b % 7 + 2) + off}"),
        ]
    )
    return rf"So the answer is \boxed{{{said}}}.", known, right


def hostile_answers(n: int) -> list[tuple[str, str]]:
    "Eight responses that would keep a comparison busy for long, and right answers; other ones for each n."
    powers = "+".join(f"x^{{{i}}}" for i in range(2, 60))
    return [
        (rf"\boxed{{{3 + n}^{{10^{{10}}}}}}", "5"),
        (rf"\boxed{{9^{{{9 + n}^{{9^{{9}}}}}}}}", r"\frac{1}{3}"),
        (rf"\boxed{{{10**7 + n}!}}", "6x"),
        (rf"\boxed{{\binom{{{10**8 + n}}}{{{5 * 10**7}}}}}", "12"),
        (r"\boxed{" + r"\sqrt{" * 60 + f"2+x{n}" + "}" * 61, r"\sqrt{x}"),
        (rf"\boxed{{({powers})^{{{50 + n}}}}}", "(x+1)^{3}"),
        (rf"\boxed{{\sin(\sin(\sin(x^{{{n + 2}}})))+\int_0^1 e^{{t^2}} dt}}", r"x+\int_0^1 e^{t^2} dt"),
        (rf"\boxed{{\sum_{{n=1}}^{{{10**9 + n}}} \frac{{1}}{{n^2+\sqrt{{n}}}}}}", "2"),
    ]


def time_answers(rounds: int) -> list[dict[str, object]]:
    "Rows of the table: the first batch, and those after it."
    seconds: list[float] = []
    for n in range(rounds + 1):
        rng = random.Random(n)
        plain = [plain_answer(rng) for _ in range(ANSWERS)]
        pairs = [(said, known) for said, known, _ in plain] + hostile_answers(n)
        order = rng.sample(range(len(pairs)), len(pairs))
        start = time.perf_counter()
        found = math_equal_each([pairs[i][0] for i in order], [pairs[i][1] for i in order])
        seconds.append(time.perf_counter() - start)
        verdicts = dict(zip(order, found))
        wrong = [plain[i] for i in range(ANSWERS) if verdicts[i] != plain[i][2]]
        assert not wrong, wrong[:3]
    count = ANSWERS + 8
    return [
        row("answers, eight hostile: first batch", count, seconds[:1]),
        row("answers, eight hostile: later batches", count, seconds[1:]),
    ]


def programs() -> list[tuple[str, str, str]]:
    "Programs, their tests, and the name of what is tested."
    kinds = [  # the program, and the same in one expression
        ("return [x * {a} for x in xs if x % 2]", "[x * {a} for x in xs if x % 2]"),
        ("return max([0] + [x + {a} for x in xs])", "max([x + {a} for x in xs], default=0)"),
        ("return sorted(set(xs), key=lambda x: (x % {a}, x))", "sorted({{*xs}}, key=lambda x: (x % {a}, x))"),
        ("return ' '.join(str(x + {a}) for x in reversed(xs))", "' '.join(str(x + {a}) for x in xs[::-1])"),
        (
            "counts = {{}}\n    for x in xs:\n        counts[x % {a}] = counts.get(x % {a}, 0) + 1\n    return counts",
            "{{m: sum(x % {a} == m for x in xs) for m in [x % {a} for x in xs]}}",
        ),
        (
            "total = []\n    for i, x in enumerate(xs):\n        total.append(sum(xs[:i]) + x * {a})\n    return total",
            "[sum(xs[:i]) + x * {a} for i, x in enumerate(xs)]",
        ),
    ]
    rng = random.Random(0)
    jobs = []
    for n in range(PROGRAMS):
        text, truth = kinds[n % len(kinds)]
        a = 2 + n // len(kinds)
        lines = []
        for _ in range(7):
            xs = [rng.randint(0, 50) for _ in range(rng.randint(0, 8))]
            lines.append(f"    assert candidate({xs}) == {eval(truth.format(a=a), {'xs': xs})!r}")
        jobs.append(
            ("def f(xs):\n    " + text.format(a=a) + "\n", "def check(candidate):\n" + "\n".join(lines) + "\n", "f")
        )
    return jobs


def time_programs(rounds: int) -> list[dict[str, object]]:
    "One row, or none where there is no sandbox."
    try:
        check_sandbox()
    except RuntimeError as error:
        print(f"no programs: {error}")
        return []
    jobs = programs()
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        found = run_programs(jobs)
        seconds.append(time.perf_counter() - start)
        assert all(result.passed for result in found)
    return [row("programs, seven assertions each", len(jobs), seconds[1:])]


def row(case: str, count: int, seconds: list[float]) -> dict[str, object]:
    "A row of the table."
    middle = statistics.median(seconds)
    return {
        "case": case,
        "count": count,
        "seconds": round(middle, 3),
        "seconds_low": round(min(seconds), 3),
        "seconds_high": round(max(seconds), 3),
        "per_second": round(count / middle, 1),
        "per_second_low": round(count / max(seconds), 1),
        "per_second_high": round(count / min(seconds), 1),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rounds": len(seconds),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(5, 1), help="batches that are counted")
    parser.add_argument("--output", type=Path, default=output_path("rewards"))
    given = parser.parse_args()
    write_table("rewards", given.output, time_answers(given.rounds) + time_programs(given.rounds))
