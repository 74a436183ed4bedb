"Decisions of several tokens: words, their reward, the first wrong one, and mistakes that do not depend on the writing."

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_nb.config import TrainConfig
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.tasks.sums import chain_problems, chain_reward, demonstration, is_held_out
from mpo_nb.tasks.task import load_task, score, task_response_limit
from mpo_nb.tasks.words import (
    chain_words,
    first_wrong_word,
    value_word,
    word_characters,
    word_lengths,
    word_problems,
    words_demonstration,
    words_reward,
    wrong_value,
)
from mpo_nb.training import Trainer

KINDS = [(d, spread) for d in word_lengths for spread in (True, False)]
PROBLEM = dict(prompt="7c3?", answer="011111000011")


def spoken(d: int, spread: bool) -> dict[str, int]:
    "Word -> value."
    return {value_word(value, d, spread): value for value in range(16)}


@pytest.mark.parametrize("d, spread", KINDS)
def test_sixteen_words_of_one_length(d, spread):
    words = spoken(d, spread)
    assert len(words) == 16 and {len(word) for word in words} == {d}
    tokenizer = char_tokenizer(word_characters)
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert len(ids) == d and tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("d", word_lengths)
def test_where_a_value_is_told(d):
    "Repeated: by the first token alone. Spread: each branching token leaves as many values as the others do."
    repeated = spoken(d, False)
    assert len({word[0] for word in repeated}) == 16
    for end in range(1, d + 1):
        prefixes = {word[:end] for word in spoken(d, True)}
        bits = end * 4 / d
        assert len(prefixes) == 2 ** (int(bits) if bits == int(bits) else int(bits) + 1)


def test_words_of_one_token_are_the_same_both_ways():
    assert spoken(1, True) == spoken(1, False)


@pytest.mark.parametrize(
    "response, reward",
    [
        ("011111000011", 1.0),
        ("", 0.0),
        ("0011", 0.0),  # the last word only
        ("01111100", 0.0),
        ("0111110000110011", 0.0),  # a word too many
        ("0111110000110", 0.0),
        ("011111000010", 0.0),
        ("001101111100", 0.0),  # another order
        ("0111 1100 0011", 0.0),
        (" 011111000011", 0.0),
        ("011111000011\n", 0.0),
        ("7c3", 0.0),  # another task's words
        ("133003", 0.0),
        ("011111000011" * 200, 0.0),
    ],
)
def test_words_reward(response, reward):
    assert words_reward(PROBLEM, response) == reward


@pytest.mark.parametrize("d, spread", KINDS)
def test_no_answer_is_paid_for_another(d, spread):
    task = chain_words(d, spread, n_train=20, n_test=20)
    answers = {p["answer"] for p in task.train}
    for problem in task.train:
        assert sum(score(task, [problem] * 20, sorted(answers))) == 1.0


def test_the_problems_are_the_same_for_every_d():
    tasks = [chain_words(d, spread, 60, 30, decisions=4, seed=4) for d, spread in KINDS]
    for split in ("train", "test"):
        prompts = {tuple(p["prompt"] for p in getattr(task, split)) for task in tasks}
        assert len(prompts) == 1 and len(set(*prompts)) == len(*prompts)
    for (d, spread), task in zip(KINDS, tasks):
        words = spoken(d, spread)
        for p in task.test:
            said = [words[p["answer"][i : i + d]] for i in range(0, 4 * d, d)]
            assert said == [int(sign, 16) for sign in p["prompt"][:-1]]


def test_no_seed_trains_on_what_another_tests():
    runs = [chain_words(2, n_train=400, n_test=100, seed=seed) for seed in range(4)]
    train, test = ({p["prompt"] for run in runs for p in getattr(run, split)} for split in ("train", "test"))
    assert train and test and not train & test
    assert all(map(is_held_out, test)) and not any(map(is_held_out, train))
    assert runs[0].train == chain_words(2, n_train=400, n_test=100, seed=0).train != runs[1].train


@given(kind=st.sampled_from(KINDS), decisions=st.integers(2, 6), seed=st.integers(0, 10_000), rate=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_demonstration_is_made_of_words(kind, decisions, seed, rate):
    d, spread = kind
    rng = random.Random(seed)
    (problem,) = word_problems(1, d, spread, decisions, rng=rng)
    assert words_demonstration(problem, d, spread) == problem["answer"]
    text = words_demonstration(problem, d, spread, rate, rng)
    words = spoken(d, spread)
    assert len(text) == decisions * d and all(text[i : i + d] in words for i in range(0, len(text), d))
    wrong = [i for i in range(0, len(text), d) if text[i : i + d] != problem["answer"][i : i + d]]
    assert first_wrong_word(problem, text, d) == ((wrong[0], wrong[0] + d) if wrong else None)


def test_the_decisions_do_not_depend_on_the_writing():
    chains = set()
    for d, spread in KINDS:
        rng = random.Random(7)
        texts = [words_demonstration(p, d, spread, 0.45, rng) for p in word_problems(50, d, spread)]
        words = spoken(d, spread)
        chains.add(tuple(words[text[i : i + d]] for text in texts for i in range(0, len(text), d)))
    assert len(chains) == 1


def test_a_mistake_begins_at_each_bit_equally_often():
    rng = random.Random(0)
    drawn = [(value, wrong_value(value, rng)) for value in range(16) for _ in range(1000)]
    first = Counter(4 - (value ^ other).bit_length() for value, other in drawn)
    assert sorted(first) == [0, 1, 2, 3] and all(abs(n / 4000 - 1) < 0.1 for n in first.values())
    assert {other for _, other in drawn} == set(range(16))


@pytest.mark.parametrize("rate", [0.25, 0.45])
def test_a_response_is_as_hard_as_a_chain_of_sums(rate):
    "The same share of right demonstrations, but for mistakes in a sum that cancel."
    problems = chain_problems(4000)
    rng = random.Random(1)
    sums = sum(chain_reward(p, demonstration(p, rate, rng)) for p in problems) / 4000
    task = chain_words(1, n_train=2000, n_test=10)
    asked = task.train * 2
    words = sum(score(task, asked, [words_demonstration(p, 1, True, rate, rng) for p in asked])) / 4000
    assert abs(words - (1 - rate) ** 3) < 0.025 and -0.02 < sums - words < 0.09


@pytest.mark.parametrize(
    "response, word",
    [
        ("011111000011", None),
        ("011011000011", "0110"),
        ("011111100000", "1110"),
        ("011111000000", "0000"),
        ("0111", None),  # cut off between words
        ("01111", None),  # and in one
        ("0111zzzz0011", "zzzz"),
        ("", None),
    ],
)
def test_the_first_wrong_word(response, word):
    found = first_wrong_word(PROBLEM, response)
    assert (response[slice(*found)] if found else None) == word


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(d=3), "d=3"),
        (dict(d=16), "d=16"),
        (dict(d=0), "d=0"),
        (dict(d="4"), "d='4'"),
        (dict(d=4.0), "d=4.0"),
        (dict(spread="yes"), "spread='yes'"),
        (dict(decisions=0), "decisions=0"),
        (dict(decisions=10**9), "decisions=1000000000: with d=4, .* 5,000,000,002 tokens, .*at most decisions=818"),
        (dict(decisions=455, d=8), "with d=8, problem and answer take 4,097 tokens.*at most decisions=454"),
        (dict(decisions=2), "n_test=400: only .* of n=400 turned up with decisions=2"),
        (dict(n_train=0), "n_train=0"),
        (dict(tokens=4), "no option 'tokens'"),
    ],
)
def test_a_bad_task_of_words_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        load_task("chain_words", **options)


@pytest.mark.parametrize("value", [-1, 16, 1.0, "c", True])
def test_a_value_without_a_word_is_named(value):
    with pytest.raises(ValueError, match="value="):
        value_word(value)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_bad_rate_of_wrong_words_is_named(rate):
    with pytest.raises(ValueError, match="error_rate="):
        words_demonstration(PROBLEM, error_rate=rate)


def test_a_response_has_room_for_its_words_and_its_end():
    for d in word_lengths:
        assert task_response_limit("chain_words", d=d, decisions=4) == 4 * d + 1


def test_the_trainer_takes_the_task_by_name(tmp_path):
    "The packaged model cannot write words, and is paid nothing for what it writes."
    config = TrainConfig(
        task="chain_words",
        task_options='{"d": 2, "n_train": 8, "n_test": 8}',
        output=str(tmp_path / "run"),
        steps=1,
        prompts_per_step=2,
        group_size=2,
        eval_every=0,
        precision="float32",
        progress=False,
    )
    (row,) = Trainer(config).fit()
    assert row["reward"] == 0.0 and row["response_length"] <= 7
