"""The checkers of arguments: what passes is handed back, what does not is named with its value and what it must be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_nb.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_positive,
    check_seed,
    check_share,
    check_whole,
    checked_names,
    is_number,
    is_whole,
)

numbers = st.floats() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, math.inf, -math.inf, math.nan])
NO_NUMBER = ("1", None, True, [0.5], 1j)


def passes(check, *arguments, **more):
    try:
        return check("x", *arguments, **more) is arguments[0]
    except ValueError as error:
        assert str(error).startswith(f"x={arguments[0]!r:.100}; ") and "\n" not in str(error)
        return False


@given(numbers, st.sampled_from(["[]", "[)", "(]", "()"]))
def test_a_share_is_in_its_interval(x, ends):
    inside = 0 < x < 1 or (x == 0 and ends[0] == "[") or (x == 1 and ends[1] == "]")
    assert passes(check_share, x, ends) == inside


@given(numbers, st.integers(-2, 2))
def test_finite_numbers_and_their_least(x, low):
    assert passes(check_positive, x) == (math.isfinite(x) and x > 0)
    assert passes(check_at_least, x, low) == (math.isfinite(x) and x >= low)


@given(st.integers(), st.integers(-5, 5), st.integers(-5, 5) | st.none())
def test_whole_numbers_in_a_range(x, low, high):
    assert passes(check_whole, x, low, high) == (x >= low and (high is None or x <= high))
    assert passes(check_seed, x) == (-(2**63) <= x < 2**63)


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_what_is_no_number_is_refused_by_each(value):
    assert not is_number(value) and not is_whole(value)
    assert not any(passes(c, value) for c in (check_share, check_positive, check_at_least, check_whole, check_seed))


def test_the_reason_stands_behind_the_sentence():
    for call, sentence in (
        (lambda why: check_whole("k", 0, why=why), "k=0; it must be a whole number of at least 1"),
        (lambda why: check_whole("level", 9, 1, 5, why), "level=9; it must be a whole number from 1 to 5"),
        (lambda why: check_share("top_p", 0.0, "(]", why), "top_p=0.0; it must be a number in (0, 1]"),
        (lambda why: check_positive("lr", -1, why), "lr=-1; it must be positive and finite"),
        (lambda why: check_at_least("kl", -1, 0, why), "kl=-1; it must be a finite number of at least 0"),
        (lambda why: check_choice("how", "x", ("a", "b"), why), "how='x'; choose one of a, b"),
    ):
        for why, end in (("", ""), ("e.g. 3", " (e.g. 3)")):
            with pytest.raises(ValueError) as error:
                call(why)
            assert str(error.value) == sentence + end


def test_choices_and_truth_values():
    assert check_choice("how", [1], ([1], "a")) == [1] and check_flag("on", False) is False
    for value in (1, "True", None, np.True_):
        assert not passes(check_flag, value)
    assert passes(check_seed, np.int64(3)) and not passes(check_whole, np.int64(3))


def test_a_long_value_is_cut():
    with pytest.raises(ValueError) as error:
        check_whole("n", "9" * 5000)
    assert len(str(error.value)) < 200


def test_a_wrong_keyword_is_answered_with_the_nearest_field():
    @checked_names()
    class Near:
        def __init__(self, width: int = 1, colour: str = "blue"):
            self.width, self.colour = width, colour

    @checked_names(lambda name: "use width" if name == "breadth" else "")
    class Hinted(Near):
        pass

    assert Near(2, colour="red").colour == "red"
    for made, name, told in (
        (Near, "color", "did you mean 'colour'?"),
        (Near, "zzz", "it takes width, colour"),
        (Hinted, "breadth", "use width"),
        (Hinted, "widht", "did you mean 'width'?"),
    ):
        with pytest.raises(ValueError, match=f"{name}=3: {made.__name__} has no such field; ") as error:
            made(**{name: 3})
        assert str(error.value).endswith(told)
