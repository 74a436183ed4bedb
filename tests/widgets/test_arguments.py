"What a widget is given: a wrong kind of thing gets one sentence with argument, value and remedy; a prompt will do."

from pathlib import Path

import numpy as np
import pytest

from mpo_nb import widgets
from mpo_nb.models import load
from mpo_nb.runs.traces import Trace

FROM_ONE = ("BlockExplorer", "CreditExplorer", "block_view", "credit_view", "weight_map", "window_slides")
TRACE = Trace.from_text("7+5=12")
KINDS = {
    "nothing": None,
    "a number": 3,
    "a truth value": True,
    "rows": [{"tokens": ["a"]}],
    "empty": [],
    "a mapping": {1: 2},
    "bytes": b"7+5",
    "a function": len,
    "an array of objects": np.array([None]),
    "a missing path": Path("runs/none-of-them"),
    "a missing file": "runs/none-of-them.jsonl",
    "responses": [TRACE],
    "a response": TRACE,
    "a table": None,  # a DataFrame, below
}
# What such a widget takes: several responses, or a run that may still come into being.
TAKEN = {
    "RatioLab": {"responses", "a response"},
    "RolloutBrowser": {"responses", "a response", "empty", "a missing path", "a missing file"},
    "TrainingMonitor": {"a missing path", "a missing file"},
} | {name: {"a response"} for name in FROM_ONE}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widget", TAKEN)
def test_a_wrong_kind_of_argument_gets_one_sentence(widget, kind):
    value = KINDS[kind]
    if kind == "a table":
        value = pytest.importorskip("pandas").DataFrame({"step": range(9), "reward": range(9)})
    if kind in TAKEN[widget]:
        getattr(widgets, widget)(value)
        return
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        getattr(widgets, widget)(value)
    said = str(error.value)
    assert said.startswith(("trace=", "source", "run", "path=")) and ("pass" in said or "make them" in said), said
    assert "\n" not in said and len(said) < 300, said


@pytest.mark.parametrize("view", ["blocks", "credit"])
def test_a_prompt_is_asked_and_its_response_opened(view):
    pair = load("tiny", quiet=True)
    explorer = widgets.explore("7+5-3?", pair, view, seed=2, k=3)
    trace = explorer.trace
    assert type(explorer).__name__ == {"blocks": "BlockExplorer", "credit": "CreditExplorer"}[view]
    assert explorer.values["k"] == 3 and trace.prompt == "7+5-3?" and "seed 2" in trace.note
    again = Trace.from_model(*pair, trace.prompt, "".join(trace.tokens[:-1]))  # without the end
    assert trace.logps[:-1] == pytest.approx(again.logps, abs=0.01) and trace.delta.abs().max() == 0
    assert trace.entropies[:-1] == pytest.approx(again.entropies, abs=0.01) and trace.finished


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(prompt=3), "prompt=3; pass a text"),
        (dict(prompt=""), "prompt=''; pass a text"),
        (dict(model=3), "model=3 is of type int; pass 'tiny', a hub name"),
        (dict(model="no/such/folder"), "model='no/such/folder' is not there"),
        (dict(view="strips"), "view='strips'; choose one of blocks, credit"),
        (dict(max_new_tokens=0), "max_new_tokens=0; it must be a whole number of at least 1"),
        (dict(temperature=0), "temperature=0; it must be positive"),
        (dict(k=0), "k=0; pass a whole number from 1"),
    ],
)
def test_what_cannot_be_asked(wrong, said):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        widgets.explore(**dict(prompt="7+5-3?") | wrong)
    assert said in str(error.value)


RUNS = ([TRACE], [TRACE])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: widgets.weight_map(TRACE, wrong=3), "wrong=3; name positions of the response, a list of"),
        (lambda: widgets.credit_view(TRACE, wrong=[99]), "wrong=[99]; name positions"),
        (lambda: widgets.window_slides(TRACE, wrong=np.array([0, 99])), "; name positions"),
        (lambda: widgets.window_slides(TRACE, at=99), "at=99; it must be a whole number from 0 to"),
        (lambda: widgets.weight_map(TRACE, at="x"), "at='x'; it must be a whole number"),
        (lambda: widgets.window_slides(TRACE, play="yes"), "play='yes'; it must be True or False"),
        (lambda: widgets.weight_map(TRACE, space=np.array([1, 2])), "space=array([1, 2]); choose one of"),
        (lambda: widgets.BlockExplorer(TRACE, rule=np.array([1, 2])), "rule=array([1, 2]); choose one of"),
        (lambda: widgets.block_view(TRACE, rule="words"), "rule='words'; choose one of token, fixed"),
        (lambda: widgets.block_view(TRACE, k_2=0), "k_2=0; it must be a whole number"),
        (lambda: widgets.block_view(TRACE, threshold="x"), "threshold='x'; it must be a number in"),
        (lambda: widgets.block_view(TRACE, ends=3), "ends=3; pass a text"),
        (lambda: widgets.SideBySide(*RUNS, steps=3), "steps=3; pass a list of steps that the runs share, e.g. [0]"),
        (lambda: widgets.SideBySide(*RUNS, steps=[7]), "steps=[7]: the runs share 1 step, [0]; choose"),
        (lambda: widgets.SideBySide(*RUNS, most="x"), "most='x'; it must be a whole number"),
        (lambda: widgets.RolloutBrowser(TRACE).html(most="x"), "most='x'; it must be a whole number"),
        (lambda: widgets.reader_view(None), "text=None is of type NoneType; pass a text"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(make, said):
    with pytest.raises(ValueError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)


def test_positions_may_be_an_array():
    assert widgets.weight_map(TRACE, wrong=np.array([0, 2])).data["wrong"] == [0, 2]
    assert widgets.block_view(TRACE, rule="delimiter", ends=";", seed_2=20, threshold=1).data["values"]["ends"] == ";"
