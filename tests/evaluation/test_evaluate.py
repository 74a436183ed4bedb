"Evaluation: estimates against brute force, files under kills and changes, comparisons, and the tiny model end to end."

import html
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from copy import deepcopy
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpo_nb.drawing.style import down_colour
from mpo_nb.evaluation import evaluating as module
from mpo_nb.evaluation import records as record_module
from mpo_nb.evaluation.comparing import Evaluation, compare
from mpo_nb.evaluation.evaluating import evaluate, fingerprint
from mpo_nb.evaluation.intervals import accuracy_interval, mcnemar, mean_interval, paired_interval, pass_at_k, sign_flip
from mpo_nb.evaluation.responses import mark_style
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runtime.files import read_lines
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.tasks.task import Task, load_task

TASK = load_task("chain_sum")
QUICK = dict(n=12, k=(1, 2), max_new_tokens=40, batch=4, progress=False)


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(tiny_model_path()), AutoTokenizer.from_pretrained(tiny_model_path())


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    "An evaluation that nothing interrupted, and its file."
    path = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    return evaluate(*tiny, TASK, **QUICK, output=path), path


def stopping(after: int, error=KeyboardInterrupt, **fields) -> Task:
    "The task, with a reward that fails when asked once more than `after` times."
    left = iter(range(after))

    def reward(problem, text):
        if next(left, None) is None:
            raise error
        return TASK.reward(problem, text)

    return Task(TASK.name, TASK.train, TASK.test, reward, **fields)


def record(i, correct, samples=(), **fields):
    def response(right):
        return dict(text="", correct=right, reward=float(right), formatted=None, tokens=1, finished=True)

    return (
        dict(
            index=i,
            problem=f"{i}?",
            prompt=f"{i}?",
            answer=str(i),
            greedy=response(correct),
            samples=[response(s) for s in samples],
        )
        | fields
    )


# ---- estimates


@given(st.data())
def test_pass_at_k_counts_subsets(data):
    right = data.draw(st.lists(st.booleans(), min_size=1, max_size=8))
    k = data.draw(st.integers(1, len(right)))
    subsets = list(combinations(right, k))
    assert abs(pass_at_k(len(right), sum(right), k) - Fraction(sum(map(any, subsets)), len(subsets))) < 1e-12


def test_pass_at_k_is_unbiased():
    p = 0.3
    s = 6
    k = 3
    mean = sum(math.comb(s, c) * p**c * (1 - p) ** (s - c) * pass_at_k(s, c, k) for c in range(s + 1))
    assert abs(mean - (1 - (1 - p) ** k)) < 1e-12


@pytest.mark.parametrize("counts", [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match=f"samples={counts[0]}, correct={counts[1]}, k={counts[2]}"):
        pass_at_k(*counts)


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.sampled_from([1, 4]))
def test_single_responses_have_wilsons_interval(right, tries):
    found = mean_interval(right, tries)
    wilson = accuracy_interval(sum(right), len(right))
    assert np.allclose(found, wilson, atol=1e-9)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=40))
def test_samples_narrow_the_interval_within_bounds(counts):
    values = np.array(counts) / 8
    p, low, high = mean_interval(values, tries=8)
    n = len(values)
    assert 0 <= low <= p <= high <= 1
    widest = accuracy_interval(p * n, n)
    narrowest = accuracy_interval(p * 8 * n, 8 * n)
    assert narrowest[2] - narrowest[1] - 1e-9 <= high - low <= widest[2] - widest[1] + 1e-9


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_equal_values_leave_an_interval(value):
    _, low, high = mean_interval([value] * 16, tries=4)
    assert high - low > 0.1 if value == 0.5 else high - low > 0.15


@pytest.mark.parametrize("values", [[], [1.2], [-0.1], [math.nan], [[1, 0]]])
def test_values_that_are_no_shares_are_refused(values):
    with pytest.raises(ValueError, match="values="):
        mean_interval(values)


def test_coverage_of_the_mean():
    rng = np.random.default_rng(3)
    found = [mean_interval(rng.binomial(8, rng.beta(0.3, 0.7, size=64)) / 8, tries=8) for _ in range(800)]
    assert 0.92 < np.mean([low <= 0.3 <= high for _, low, high in found]) < 0.98


def newcombe_10(both, only_b, only_a, neither):
    "Newcombe 1998, method 10, written from its table of four counts."
    n = both + only_b + only_a + neither
    p, l1, u1 = accuracy_interval(both + only_a, n)
    q, l2, u2 = accuracy_interval(both + only_b, n)
    rows = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = both * neither - only_b * only_a
    phi = 0 if rows == 0 else (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(rows)
    low = math.sqrt((q - l2) ** 2 - 2 * phi * (q - l2) * (u1 - p) + (u1 - p) ** 2)
    high = math.sqrt((u2 - q) ** 2 - 2 * phi * (u2 - q) * (p - l1) + (p - l1) ** 2)
    return q - p, q - p - low, q - p + high


@given(st.tuples(*[st.integers(0, 12)] * 4).filter(sum))
def test_pairs_of_single_responses_have_newcombes_interval(counts):
    both, only_b, only_a, neither = counts
    a = [1] * both + [0] * only_b + [1] * only_a + [0] * neither
    b = [1] * both + [1] * only_b + [0] * only_a + [0] * neither
    assert np.allclose(paired_interval(a, b), newcombe_10(*counts), atol=1e-7)


def test_unequal_numbers_of_problems_are_refused():
    with pytest.raises(ValueError, match="a has 2 problems and b 3"):
        paired_interval([0, 1], [0, 1, 1])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_sign_test(wins, losses):
    tail = Fraction(sum(math.comb(wins + losses, i) for i in range(min(wins, losses) + 1)), 2 ** (wins + losses))
    assert abs(mcnemar(wins, losses) - min(1, 2 * tail)) < 1e-12


@pytest.mark.parametrize(
    "wins, losses, p",
    [(10, 2, 0.03857421875), (0, 6, 0.03125), (37, 18, 0.014453833533827728), (121, 59, 4.4344492637551645e-06)],
)
def test_mcnemar_as_scipy_has_it(wins, losses, p):
    assert abs(mcnemar(wins, losses) / p - 1) < 1e-9


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4), max_size=8))
def test_sign_flips_are_counted_out(quarters):
    d = [q / 4 for q in quarters]
    patterns = [abs(sum(s * x for s, x in zip(signs, d))) >= abs(sum(d)) for signs in product((-1, 1), repeat=len(d))]
    assert abs(sign_flip(d) - sum(patterns) / len(patterns)) < 1e-12


def test_random_sign_flips_approach_the_exact_value_and_repeat():
    d = [1.0] * 19 + [-1.0] * 15
    assert abs(sign_flip(d) - mcnemar(19, 15)) < 0.02 and sign_flip(d) == sign_flip(d) != sign_flip(d, seed=1)


# ---- what evaluate finds


def test_records_are_what_the_sampler_and_the_reward_say(tiny, whole):
    found, _ = whole
    r = rollout(*tiny, [p["prompt"] for p in TASK.test[:4]], max_new_tokens=40, greedy=True)
    for i, row in enumerate(found.records[:4]):
        assert (row["index"], row["problem"], row["prompt"], row["answer"]) == (
            i,
            TASK.test[i]["prompt"],
            TASK.test[i]["prompt"],
            TASK.test[i]["answer"],
        )
        assert row["greedy"]["text"] == r.texts[i] and row["greedy"]["tokens"] == int(r.lengths[i])
    for row in found.records:
        assert len(row["samples"]) == 2
        for one in [row["greedy"], *row["samples"]]:
            assert (
                one["reward"] == TASK.reward(dict(answer=row["answer"]), one["text"])
                and one["correct"] == (one["reward"] >= 1)
                and one["finished"]
                and one["formatted"] is None
            )


def test_estimates_follow_from_the_records(whole):
    found, _ = whole
    greedy = [r["greedy"]["correct"] for r in found.records]
    right = [sum(s["correct"] for s in r["samples"]) for r in found.records]
    assert (found.accuracy, *found.interval) == pytest.approx(accuracy_interval(sum(greedy), 12))
    assert found.pass_at_k[1][0] == pytest.approx(sum(right) / 24) and found.pass_at_k[2][0] == pytest.approx(
        np.mean([c > 0 for c in right])
    )
    assert all(low <= value <= high for value, low, high in found.pass_at_k.values()) and 0 < sum(right) < 24


def test_intervals_count_the_disjoint_tries_of_each_problem():
    found = Evaluation.of([record(i, True, [True, True, False, False]) for i in range(10)], [1, 2])
    assert found.pass_at_k[1] == mean_interval([0.5] * 10, 4) != mean_interval([0.5] * 10) and found.pass_at_k[
        2
    ] == mean_interval([pass_at_k(4, 2, 2)] * 10, 2)


def test_samples_differ_between_problems_batches_and_seeds(tiny):
    same = Task("same", TASK.train, [TASK.test[0]] * 8, TASK.reward)
    first, second = (
        [
            [s["text"] for s in r["samples"]]
            for r in evaluate(*tiny, same, n=8, k=4, max_new_tokens=40, batch=4, seed=s, progress=False).records
        ]
        for s in (0, 1)
    )
    assert first[:4] != first[4:] and first != second and len({t for r in first for t in r}) > 4


def test_nothing_is_sampled_without_k(tiny):
    found = evaluate(*tiny, TASK, n=4, k=None, max_new_tokens=40, progress=False)
    assert found.pass_at_k == {} and all(r["samples"] == [] for r in found.records) and "sample" not in str(found)


def test_format_and_cut_off_responses_are_counted_apart(tiny):
    judge = Task("judged", TASK.train, TASK.test, TASK.reward)
    judge.formatted = lambda problem, text: "#" in text
    found = evaluate(*tiny, judge, n=6, k=1, max_new_tokens=12, progress=False)
    rows = [r["greedy"] for r in found.records]
    assert (
        not any(r["finished"] for r in rows)
        and not any(r["formatted"] for r in rows)
        and all(r["tokens"] == 12 for r in rows)
    )
    lines = {line.split("   ")[0]: line for line in str(found).splitlines()}
    assert (
        "0 of 6" in lines["right format, greedy"]
        and "6 of 6" in lines["cut off, greedy"]
        and "cut off, sampled" in lines
    )


def test_the_whole_test_split_is_taken_with_a_warning(tiny):
    few = Task("few", TASK.train, TASK.test[:3], TASK.reward)
    with pytest.warns(UserWarning, match="n=256, but the test split of task 'few' has 3 problems"):
        found = evaluate(*tiny, few, k=None, max_new_tokens=40, progress=False)
    assert len(found.records) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(*tiny, few, n=3, k=None, max_new_tokens=40, progress=False)


def test_options_reach_the_sampler(tiny, monkeypatch):
    calls = []

    def spy(model, tokenizer, prompts, *args):
        calls.append((prompts, args))
        return rollout(model, tokenizer, prompts, *args)

    monkeypatch.setattr(module, "rollout", spy)
    framed = Task("framed", TASK.train, TASK.test, TASK.reward)
    framed.plain = "{prompt}"
    framed.stop = ("#",)
    evaluate(
        *tiny,
        framed,
        n=2,
        k=3,
        temperature=0.7,
        top_p=0.9,
        top_k=5,
        max_new_tokens=30,
        system_prompt="7",
        progress=False,
    )
    sampled, greedy = sorted(calls, key=lambda c: c[1][3])
    assert sampled[1][:4] == (3, 30, 0.7, False) and greedy[1][0] == 1 and greedy[1][3] is True
    assert all(
        args[-3:] == (0.9, 5, ["#"]) and prompts[0] == "7\n\n" + TASK.test[0]["prompt"] for prompts, args in calls
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n=0), "n=0"),
        (dict(n=True), "n=True"),
        (dict(k=0.5), "k=0.5"),
        (dict(k=(1, -2)), "k=-2"),
        (dict(k=4, samples=2), "samples=2 cannot tell pass@4"),
        (dict(samples=-1), "samples=-1"),
        (dict(batch=0), "batch=0"),
        (dict(temperature=0), "temperature=0"),
        (dict(top_p=0.0), "top_p=0"),
        (dict(top_k=-1), "top_k=-1"),
        (dict(max_new_tokens=-3), "max_new_tokens=-3"),
        (dict(max_new_tokens=256), "context of 256"),
        (dict(prompt_format="chat"), "no chat template"),
        (dict(output="runs/base.json"), "ends in .jsonl"),
        (dict(task="nothing"), "unknown task 'nothing'"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_drawn(tiny, monkeypatch, options, message):
    monkeypatch.setattr(module, "rollout", lambda *a, **k: pytest.fail("sampled"))
    with pytest.raises(ValueError, match=message):
        evaluate(*tiny, **{"task": TASK, "n": 4, "max_new_tokens": 40, "progress": False} | options)


# ---- fingerprints


def test_every_weight_counts(tiny):
    model = deepcopy(tiny[0])
    before = fingerprint(tiny[0])
    assert fingerprint(model) == before
    weight = model.model.layers[2].mlp.down_proj.weight
    with torch.no_grad():
        weight[3, 7] = torch.nextafter(weight[3, 7], torch.tensor(9.0))
    assert fingerprint(model) != before


def test_adapters_switched_off_are_another_model(tiny):
    from mpo_nb.models.loading import adapters_off, add_lora

    model = add_lora(deepcopy(tiny[0]), 2, 4, "all-linear")
    on = fingerprint(model)
    with adapters_off(model):
        assert fingerprint(model) != on
    assert fingerprint(model) == on


# ---- files


@pytest.mark.parametrize("after", [0, 11, 12, 30])
def test_an_interrupted_evaluation_goes_on_to_the_same_bytes(tiny, whole, tmp_path, capsys, after):
    path = tmp_path / "deep" / "stopped.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(*tiny, stopping(after), **QUICK, output=path)
    done = after // 12 * 4  # four problems a batch, three judgements each
    assert (
        len(read_lines(path)) == done
        and f"Stopped; {done} of 12 problems are in {path}. The same call goes on" in capsys.readouterr().out
    )
    found = evaluate(*tiny, TASK, **QUICK, output=path)
    assert (
        path.read_bytes() == whole[1].read_bytes() and found.records == whole[0].records and str(found) == str(whole[0])
    )


@pytest.mark.parametrize("cut", [1, 40, 3000, 5000])
def test_a_file_cut_anywhere_is_repaired(tiny, whole, tmp_path, cut):
    path = tmp_path / "cut.jsonl"
    text = whole[1].read_bytes()
    path.with_suffix(".settings.json").write_bytes(whole[1].with_suffix(".settings.json").read_bytes())
    path.write_bytes(text[:-cut])
    with pytest.raises(ValueError, match="of 12 problems"):
        Evaluation.load(path)
    evaluate(*tiny, TASK, **QUICK, output=path)
    assert path.read_bytes() == text


def test_only_what_is_missing_is_drawn(tiny, whole, monkeypatch):
    monkeypatch.setattr(module, "rollout", lambda *a, **k: pytest.fail("sampled"))
    found = evaluate(*tiny, TASK, **QUICK, output=whole[1])
    assert found.records == whole[0].records


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(n=8), "n=12, not 8"),
        (dict(k=(1,), samples=2), r"k=\[1, 2\], not \[1\].*Evaluation.load"),
        (dict(samples=3), "samples=2, not 3"),
        (dict(temperature=0.5), "temperature=1.0, not 0.5"),
        (dict(seed=1), "seed=0, not 1"),
        (dict(batch=6), "batch=4, not 6"),
        (dict(max_new_tokens=41), "max_new_tokens=40, not 41"),
        (dict(top_k=3), "top_k=0, not 3"),
        (dict(top_p=0.9), "top_p=1.0, not 0.9"),
        (dict(stop=["#"]), r"stop=\[\], not \['#'\]"),
        (dict(system_prompt="1"), "system_prompt='', not '1'"),
        (dict(task=load_task("chain_sum", terms=5)), "problem 0 with problem="),
        (dict(task=Task("other", TASK.train, TASK.test, TASK.reward)), "task='chain_sum', not 'other'"),
        (
            dict(task=Task("chain_sum", TASK.train, [dict(p, answer="1000") for p in TASK.test], TASK.reward)),
            "problem 0 with answer=",
        ),
    ],
)
def test_other_settings_never_mix(tiny, whole, change, message):
    before = whole[1].read_bytes()
    with pytest.raises(ValueError, match=message):
        evaluate(*tiny, **dict(task=TASK) | QUICK | change, output=whole[1])
    assert whole[1].read_bytes() == before and Evaluation.load(whole[1]).records == whole[0].records


def test_another_model_never_mixes(tiny, whole):
    other = deepcopy(tiny[0])
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="model='[0-9a-f]{16}', not '[0-9a-f]{16}'"):
        evaluate(other, tiny[1], TASK, **QUICK, output=whole[1])
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="precision='float32', not 'float32, autocast bfloat16'"),
    ):
        evaluate(*tiny, TASK, **QUICK, output=whole[1])


def test_files_of_something_else_are_left_alone(tiny, tmp_path):
    path = tmp_path / "base.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="base.settings.json is missing"):
        evaluate(*tiny, TASK, **QUICK, output=path)
    side = tmp_path / "mine.settings.json"
    side.write_text('{"colour": "red"}')
    with pytest.raises(ValueError, match="does not hold the settings of an evaluation"):
        evaluate(*tiny, TASK, **QUICK, output=tmp_path / "mine.jsonl")
    assert path.read_text() == '{"step": 1}\n' and side.read_text() == '{"colour": "red"}'


def test_a_reward_that_fails_keeps_the_finished_batches(tiny, tmp_path):
    path = tmp_path / "failed.jsonl"
    with pytest.raises(RuntimeError, match="the reward of task 'chain_sum' raised ZeroDivisionError"):
        evaluate(*tiny, stopping(15, ZeroDivisionError), **QUICK, output=path)
    assert len(read_lines(path)) == 4


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_clear_error(tiny, tmp_path, monkeypatch):
    path = tmp_path / "full.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(*tiny, stopping(12), **QUICK, output=path)
    monkeypatch.setattr(record_module, "open", lambda name, *a, **k: open("/dev/full", *a, **k), raising=False)
    with pytest.raises(OSError, match="could not be written .*No space left.* 4 of 12 problems are in it"):
        evaluate(*tiny, TASK, **QUICK, output=path)
    assert len(read_lines(path)) == 4


CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell starts what it runs in the background deaf to Ctrl-C
from transformers import AutoModelForCausalLM, AutoTokenizer
from mpo_nb.evaluation.evaluating import evaluate
from mpo_nb.evaluation.responses import mark_style
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.tasks.task import Task, load_task
task = load_task("chain_sum")
calls = []
def slow(problem, text): # from the second batch on, so that a signal comes in time
    calls.append(1)
    if len(calls) > 12: time.sleep(.7)
    return task.reward(problem, text)
model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
evaluate(model, tokenizer, Task("chain_sum", task.train, task.test, slow),
         n=12, k=(1, 2), max_new_tokens=40, batch=4, progress=False, output=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_loses_at_most_a_batch(tiny, whole, tmp_path, sent):
    path = tmp_path / "killed.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.time() + 240
    while not (path.exists() and path.stat().st_size) and child.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    child.send_signal(sent)
    said = child.communicate(timeout=60)[0]
    assert len(read_lines(path)) in (4, 8) and child.returncode != 0
    if sent == signal.SIGINT:
        assert "The same call goes on from there." in said
    evaluate(*tiny, TASK, **QUICK, output=path)
    assert path.read_bytes() == whole[1].read_bytes()


# ---- loading


def test_loading_gives_the_same_evaluation(whole):
    found = Evaluation.load(whole[1])
    assert (
        found.records == whole[0].records
        and str(found) == str(whole[0])
        and found.pass_at_k == whole[0].pass_at_k
        and found.interval == whole[0].interval
    )
    assert list(Evaluation.load(whole[1], k=2).pass_at_k) == [2]
    with pytest.raises(ValueError, match="k=3, but there are 2 samples"):
        Evaluation.load(whole[1], k=(1, 3))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no evaluation at .*none.jsonl"):
        Evaluation.load(tmp_path / "none.jsonl")


def test_every_line_is_json_of_its_own(whole):
    lines = whole[1].read_text().splitlines()
    assert len(lines) == 12 and [json.loads(line)["index"] for line in lines] == list(range(12))
    assert list(json.loads(lines[0])) == ["index", "problem", "prompt", "answer", "greedy", "samples"]


def test_tables_show_every_measure_in_text_and_markdown(whole):
    text = str(whole[0])
    markdown = whole[0]._repr_markdown_()
    assert (
        text.splitlines()[0]
        == "chain_sum: 12 test problems, one greedy response each, and 2 samples each at temperature 1"
    )
    for name in ("greedy accuracy", "pass@1", "pass@2", "cut off, greedy", "cut off, sampled"):
        assert f"\n{name}" in text and f"\n| {name} |" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1


# ---- compare


def test_wins_losses_and_tests():
    a = Evaluation.of([record(i, i < 10, [i < 8, i < 10]) for i in range(20)], [1, 2])
    b = Evaluation.of([record(i, 2 <= i < 19, [i < 18, i < 19]) for i in range(20)], [1, 2])
    found = compare(a, b)
    assert (found.wins, found.losses, found.both, found.neither) == (9, 2, 8, 1)
    greedy = found.differences["greedy accuracy"]
    assert (
        greedy.p == mcnemar(9, 2) and (greedy.a, greedy.b) == (0.5, 0.85) and greedy.difference == pytest.approx(0.35)
    )
    assert (greedy.difference, greedy.low, greedy.high) == pytest.approx(newcombe_10(8, 9, 2, 1))
    sampled = found.differences["pass@1"]
    assert (
        sampled.p == sign_flip([(i < 18) / 2 + (i < 19) / 2 - (i < 8) / 2 - (i < 10) / 2 for i in range(20)])
        and sampled.verdict == "b is better"
    )
    assert compare(b, a).differences["pass@1"].verdict == "a is better" and list(found.differences) == [
        "greedy accuracy",
        "pass@1",
        "pass@2",
    ]


def test_no_difference_is_said_plainly():
    a = Evaluation.of([record(i, i < 10) for i in range(20)])
    b = Evaluation.of([record(i, i < 13) for i in range(20)])
    found = compare(a, b)
    assert (
        list(found.differences) == ["greedy accuracy"]
        and found.differences["greedy accuracy"].verdict == "no difference shown"
    )
    assert (
        "no difference shown" in str(found)
        and "no difference shown" in found._repr_markdown_()
        and "10 solved by both, 3 only by b, 0 only by a, 7 by neither" in str(found)
    )


@pytest.mark.parametrize(
    "low, high, p, verdict",
    [
        (0.01, 0.2, 0.01, "b is better"),
        (0.01, 0.2, 0.06, "no difference shown"),
        (-0.01, 0.2, 0.01, "no difference shown"),
        (-0.2, -0.01, 0.01, "a is better"),
    ],
)
def test_a_difference_is_shown_by_interval_and_test_together(low, high, p, verdict):
    from mpo_nb.evaluation.comparing import Difference

    assert Difference(0.5, 0.6, (low + high) / 2, low, high, p).verdict == verdict


@pytest.mark.parametrize("change", [dict(index=7), dict(problem="8?"), dict(answer="8")])
def test_other_problems_are_refused(change):
    a = [record(i, True) for i in range(4)]
    b = [record(i, True) for i in range(4)]
    b[2] |= change
    ((key, value),) = change.items()
    with pytest.raises(ValueError, match=rf"problem 2 has {key}=.* in a, but {value!r} in b".replace("?", r"\?")):
        compare(Evaluation.of(a), Evaluation.of(b))
    with pytest.raises(ValueError, match="a holds 4 problems and b 3"):
        compare(Evaluation.of(a), Evaluation.of(b[:3]))


def solved(i: int, text: str, problem: str = "7+5-3+8?") -> dict:
    "A record whose greedy response is that text."
    base = record(i, text.endswith("#17")) | dict(problem=problem, answer="17")
    return base | dict(greedy=base["greedy"] | dict(text=text))


def test_problems_that_flipped_are_shown_with_both_responses():
    right, wrong = "7+5=12;12-3=9;9+8=17#17", "7+5=12;12-3=8;8+8=16#16"
    hostile = "<script>bad()</script>\u202e"
    a = [solved(0, wrong), solved(1, right), solved(2, right), solved(3, hostile, "long " * 300)]
    b = [solved(0, right), solved(1, wrong), solved(2, right), solved(3, hostile + "#17", "long " * 300)]
    found = compare(Evaluation.of(a), Evaluation.of(b))
    assert [(flip.index, flip.gained) for flip in found.flips] == [(0, True), (1, False), (3, True)]
    assert found.wins == 2 and found.losses == 1
    for text in (str(found), found._repr_markdown_()):
        assert "Wrong in a, right in b: 2 problems" in text and "Right in a, wrong in b: 1 problem\n" in text
        assert text.count("first wrong step: 12-3=8") == 2 and "\u202e" not in text and "U+202E" in text
        assert max(map(len, text.splitlines())) < 250
    page = found.html()
    words = html.unescape(re.sub(r"<[^>]*>", "", page))  # as a reader sees it where styles are taken out
    assert words.count(right) == 2 and words.count(wrong) == 2 and words.count("✗") == words.count("✓") == 3
    assert "<script" not in page and "class=" not in page and page.count(">12-3=8</mark>") == 2
    many = compare(
        Evaluation.of([solved(i, wrong) for i in range(40)]), Evaluation.of([solved(i, right) for i in range(40)])
    )
    assert len(many.flips) == 40 and str(many).count("\n    b  ") == 3 and many.html().count("<mark") == 20
    assert compare(Evaluation.of(a), Evaluation.of(a)).flips == []


def test_the_page_of_a_comparison_is_whole(tmp_path):
    file = compare(Evaluation.of([solved(0, "#1")]), Evaluation.of([solved(0, "#17")])).to_html(tmp_path / "flips")
    assert file.name == "flips.html" and file.read_text().startswith("<!doctype html>")


def test_the_mark_of_a_wrong_step_has_the_palettes_colour():
    assert f"rgb({down_colour})" in mark_style


def test_what_the_models_read_may_differ():
    a = Evaluation.of([record(0, True)])
    b = Evaluation.of([record(0, True, prompt="<user>0?")], settings=dict(prompt_format="chat", model="x"))
    found = compare(a, b)
    assert found.settings == {"prompt_format": (None, "chat")} and "differ in prompt_format (None and 'chat')" in str(
        found
    )


def test_files_are_compared_as_evaluations(whole):
    found = compare(whole[1], str(whole[1]))
    assert (
        found.settings == {}
        and found.wins == found.losses == 0
        and all(d.difference == 0 and d.p == 1 and d.low < 0 < d.high for d in found.differences.values())
    )
