"Decisions of several tokens: words, their reward, the first wrong one, and mistakes that do not depend on the writing."

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_nb.config import TrainConfig
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.tasks.sums import chain_problems, chain_reward, chain_sum, demonstration
from mpo_nb.tasks.task import load_task, score, task_response_limit
from mpo_nb.tasks.words import (
    chain_words,
    first_wrong_word,
    value_word,
    word_characters,
    word_lengths,
    words_demonstration,
    words_reward,
    wrong_value,
)
from mpo_nb.training import Trainer

KINDS = [(d, spread) for d in word_lengths for spread in (True, False)]
SEVENTEEN = dict(prompt="7+5-3+8?", answer="0001")  # 12, 9, 17 modulo 16


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
        ("110010010001", 1.0),
        ("000000000001", 1.0),  # steps are not checked
        ("zzzzzzzz0001", 1.0),  # whatever they are
        ("", 0.0),
        ("0001", 0.0),  # no working
        ("10010001", 0.0),
        ("1100100100010001", 0.0),  # too much of it
        ("1100100100010", 0.0),
        ("110010010000", 0.0),
        ("11001001 0001", 0.0),
        ("110010010001\n", 0.0),
        ("110010010001#", 0.0),
        ("1100 1001 0001", 0.0),
        ("c91", 0.0),  # another task's words
        ("0001" * 400, 0.0),
    ],
)
def test_words_reward(response, reward):
    assert words_reward(SEVENTEEN, response) == reward


@pytest.mark.parametrize("d, spread", KINDS)
def test_no_answer_is_paid_for_another(d, spread):
    task = chain_words(d, spread, n_train=20, n_test=20)
    for problem in task.train:
        wrong = [word for word in spoken(d, spread) if word != problem["answer"]]
        assert score(task, [problem] * 15, [problem["answer"] * 2 + word for word in wrong]) == [0.0] * 15
        assert score(task, [problem], [wrong[0] * 2 + problem["answer"]]) == [1.0]


@pytest.mark.parametrize("d, spread", KINDS)
def test_the_problems_are_those_of_chain_sum(d, spread):
    sums, task = chain_sum(60, 30, terms=(3, 5), seed=4), chain_words(d, spread, 60, 30, terms=(3, 5), seed=4)
    words = spoken(d, spread)
    for split in ("train", "test"):
        for known, problem in zip(getattr(sums, split), getattr(task, split), strict=True):
            assert problem["prompt"] == known["prompt"]
            assert words[problem["answer"]] == eval(known["prompt"][:-1]) % 16


@given(kind=st.sampled_from(KINDS), terms=st.integers(2, 6), seed=st.integers(0, 10_000), rate=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_demonstration_goes_on_from_its_mistakes(kind, terms, seed, rate):
    d, spread = kind
    rng = random.Random(seed)
    (problem,) = chain_problems(1, terms, rng=rng)
    text = words_demonstration(problem, d, spread, rate, rng)
    words = spoken(d, spread)
    right = words_demonstration(problem, d, spread)
    first = next((i for i in range(0, len(right), d) if text[i : i + d] != right[i : i + d]), None)
    assert len(text) == len(right) and all(text[i : i + d] in words for i in range(0, len(text), d))
    assert first_wrong_word(problem["prompt"], text, d, spread) == (None if first is None else (first, first + d))
    assert words[right[-d:]] == eval(problem["prompt"][:-1]) % 16


def test_the_decisions_do_not_depend_on_the_writing():
    problems = chain_problems(50)
    chains = {
        tuple(
            tuple(spoken(*kind)[text[i : i + kind[0]]] for i in range(0, len(text), kind[0]))
            for text in [
                words_demonstration(p, *kind, error_rate=0.45, rng=random.Random(i)) for i, p in enumerate(problems)
            ]
        )
        for kind in KINDS
    }
    assert len(chains) == 1


def test_a_mistake_begins_at_each_bit_equally_often():
    rng = random.Random(0)
    drawn = [(value, wrong_value(value, rng)) for value in range(16) for _ in range(1000)]
    first = Counter(4 - (value ^ other).bit_length() for value, other in drawn)
    assert sorted(first) == [0, 1, 2, 3] and all(abs(n / 4000 - 1) < 0.1 for n in first.values())
    assert {other for _, other in drawn} == set(range(16))


@pytest.mark.parametrize("rate", [0.25, 0.45])
def test_one_token_a_decision_is_as_hard_as_a_chain_of_sums(rate):
    "The same share of right demonstrations, but for mistakes that cancel, which are more frequent modulo 16."
    problems = chain_problems(4000)
    rng = random.Random(1)
    sums = sum(chain_reward(p, demonstration(p, rate, rng)) for p in problems) / 4000
    task = chain_words(1, n_train=4000, n_test=10)
    words = sum(score(task, task.train, [words_demonstration(p, 1, True, rate, rng) for p in task.train])) / 4000
    assert abs(words - sums) < 0.05 and (1 - rate) ** 3 - 0.03 < words < (1 - rate) ** 3 + 0.08


@pytest.mark.parametrize(
    "response, word",
    [
        ("110010010001", None),
        ("110110010001", "1101"),
        ("110010000000", "1000"),  # goes on from another value
        ("110010010000", "0000"),
        ("1100", None),  # cut off between words
        ("11000", None),  # and in one
        ("1100zzzz0001", "zzzz"),
        ("", None),
    ],
)
def test_the_first_wrong_word(response, word):
    found = first_wrong_word(SEVENTEEN["prompt"], response)
    assert (response[slice(*found)] if found else None) == word
    assert first_wrong_word("How many are 7 and 5?", response) is None


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(d=3), "d=3"),
        (dict(d=16), "d=16"),
        (dict(d=0), "d=0"),
        (dict(d="4"), "d='4'"),
        (dict(d=4.0), "d=4.0"),
        (dict(spread="yes"), "spread='yes'"),
        (dict(terms=1), "terms=1"),
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
        words_demonstration(SEVENTEEN, error_rate=rate)


def test_a_response_has_room_for_its_words_and_its_end():
    for d in word_lengths:
        assert task_response_limit("chain_words", d=d, terms=[3, 5]) == 4 * d + 1


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
