"The widgets without a browser: what they show is what the library computes, whatever the trace lacks, and soon enough."

import csv
import json
import math

import ipywidgets
import pytest
import torch

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, TokenGradient, WindowActions
from mpo_nb.blocks import block_mean, block_sizes, block_sum, fixed_blocks, sentence_blocks
from mpo_nb.drawing.report import write_report
from mpo_nb.drawing.strip import token_strip
from mpo_nb.drawing.style import signed
from mpo_nb.losses import policy_loss
from mpo_nb.runs.traces import Trace
from mpo_nb.widgets import BlockExplorer, CreditExplorer
from mpo_nb.widgets.block_explorer import rule_blocks, rules
from mpo_nb.widgets.controls import Control
from mpo_nb.widgets.credit_explorer import carried_out, differing, moved_loss, spaces
from mpo_nb.widgets.explorer import Explorer
from mpo_nb.widgets.page import page_states
from mpo_nb.widgets.panel import Panel, View, strip_state, strip_template

NASTY = "<script>window.hit=1</script><img src=x onerror='window.hit=2'> </script>\n思考 🙂 \u202eabc"


@pytest.fixture
def trace() -> Trace:
    return Trace.from_text(
        "First, 7 + 5 = 12. Then 12 - 3 = 8; so it is 8.\n#8", "7+5-3?", moved=0.2, advantage=-1.5, reward=0.0
    )


def made(T: int, **more) -> Trace:
    "A trace of T tokens with made-up numbers."
    long = Trace.from_text("So 7 + 5 = 12, then.\n" * (T // 8 + 2), moved=0.2)
    parts = {name: getattr(long, name)[:T] for name in ("tokens", "logps", "old_logps", "entropies")}
    return Trace(**parts | dict(advantage=1.0, reward=1.0) | more)


def shortened(values) -> list:
    return [None if not math.isfinite(v) else float(f"{v:.6g}") for v in values]


@pytest.mark.parametrize("rule", rules.values())
@pytest.mark.parametrize("k", [1, 3, 100])
def test_blocks_are_the_librarys(trace, rule, k):
    explorer = BlockExplorer(trace, k=k, rule=rule)
    ids = rule_blocks(trace, rule, k=k)
    v = explorer.picture()
    assert (
        v.strips[0]["blocks"] == ids[0].tolist()
        and v.strips[1]["blocks"] == sentence_blocks(trace.mask_tensor, [trace.tokens])[0].tolist()
    )
    logps, entropies = (torch.tensor([x], dtype=torch.double) for x in (trace.logps, trace.entropies))
    drawn = [torch.tensor(d["y"][1::5]) for d in v.data[:3]]
    for found, expected in zip(drawn, (block_sizes(ids), block_sum(logps, ids), block_mean(entropies, ids))):
        assert torch.equal(found, expected[0].double())
    if rule == "fixed":
        assert torch.equal(ids, fixed_blocks(trace.mask_tensor, k))


def test_perplexity_and_surprise_ask_the_policy_that_sampled(trace):
    moved = Trace(trace.tokens, logps=[-9.0] * len(trace.tokens), old_logps=trace.old_logps)
    for rule in ("perplexity", "surprise"):
        assert torch.equal(rule_blocks(trace, rule), rule_blocks(moved, rule))


@pytest.mark.parametrize("space", spaces.values())
@pytest.mark.parametrize("k", [1, 2, 5, 100])
@pytest.mark.parametrize("moved", [0.0, 1.0, 4.0])
def test_credit_is_the_librarys(trace, space, k, moved):
    old = torch.tensor([trace.old_logps], dtype=torch.double)
    actions = {
        "token": TokenActions(),
        "window": WindowActions(k, 0.3),
        "joint": WindowActions(k, joint=True),
        "block": BlockActions(k),
        "block-joint": BlockActions(k, reduce="sum"),
        "sentence": BlockActions(sentence_blocks(trace.mask_tensor, [trace.tokens])),
        "sequence": SequenceActions(),
        "sequence-token": TokenGradient(SequenceActions()),
    }[space]
    logps = (old + moved * trace.delta).requires_grad_()
    out = policy_loss(
        logps,
        old,
        torch.tensor([trace.advantage]),
        trace.mask_tensor,
        actions,
        (0.1, 0.1),
        aggregate="seq-mean-token-sum",
    )
    (grad,) = torch.autograd.grad(out.loss, logps)
    explorer = CreditExplorer(trace, right=space, k=k, moved=moved, future=0.3, epsilon=0.1)
    found = explorer.loss("right")[0]
    v = explorer.picture()
    torch.testing.assert_close(found.credit, -grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.ratio, out.ratio, rtol=0, atol=1e-10)
    assert torch.equal(found.clipped, out.clipped)
    assert (
        v.strips[1]["values"] == shortened(found.credit[0].tolist())
        and v.strips[1]["clipped"] == found.clipped[0].long().tolist()
    )
    assert v.data[5]["y"].tolist() == found.credit[0].tolist()
    (difference,) = [d for d in v.data if d.get("yaxis") == "y3"]
    assert difference["y"].tolist() == (found.credit - explorer.loss("left")[0].credit)[0].tolist()


def test_at_1_the_policy_is_as_recorded(trace):
    expected = policy_loss(**trace.batch(), actions=WindowActions(4), aggregate="seq-mean-token-sum").credit
    assert torch.equal(CreditExplorer(trace).loss("right")[0].credit, expected)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_on_policy_windows_differ_at_the_first_tokens_only(trace, k):
    T = len(trace.tokens)
    explorer = CreditExplorer(trace, moved=0.0, k=k, tail="truncate")
    left, right = (explorer.loss(side)[0].credit for side in ("left", "right"))
    assert differing(left, right) == list(range(k - 1)) and torch.equal(left, torch.full_like(left, trace.advantage))
    assert "the first K−1, which fewer windows contain, and nowhere else" in explorer.picture().summary
    left, right = (explorer.set(tail="renormalise").loss(side)[0].credit for side in ("left", "right"))
    assert (
        differing(left, right) == [*range(k - 1), *range(T - k + 1, T)]
        and "windows are rescaled" in explorer.picture().summary
    )


def test_a_surprising_token_carries_its_neighbours_out():
    logps = [-1.0] * 12
    old = [-1.0] * 12
    logps[6] = -0.5
    jump = Trace(list("abcdefghijkl"), logps=logps, old_logps=old, advantage=1.0, reward=1.0)
    explorer = CreditExplorer(jump, right="block", k=3)
    left, right = (explorer.loss(side)[0] for side in ("left", "right"))
    assert left.clipped[0].nonzero()[:, 0].tolist() == [6] and not right.clipped.any()
    right = explorer.set(moved=2.0).loss("right")[0]
    assert right.clipped[0].nonzero()[:, 0].tolist() == [6, 7, 8] and carried_out(
        right, explorer.loss("left")[0], 0.2
    ) == [7, 8]
    summary = explorer.picture().summary
    assert (
        "tokens 7 to 9 are left without gradient; tokens 8 to 9 lie inside the clip range by themselves, but the first"
        " of them is carried out by its neighbours, token 7 (ratio 2.72) most of all" in summary
    )


@pytest.mark.parametrize("explorer", [CreditExplorer])
@pytest.mark.parametrize(
    "odd",
    [
        Trace([]),
        Trace(["a"]),
        Trace(["a"], logps=[-1.0], old_logps=[-2.0], advantage=2.0),
        Trace(list("abc"), mask=[0, 0, 0]),
        Trace(list("abc"), mask=[1, 0, 1], logps=[-1.0, math.nan, -2.0], advantage=-1.0),
        Trace(list("abc"), advantage=1.0),
        Trace(list("abc"), logps=[-1.0, math.nan, -1.0], advantage=1.0),
        Trace(list("abc"), logps=[-1.0, -math.inf, -1.0], old_logps=[-1.0] * 3, advantage=1.0),
        Trace(["", "", "中", "\n", " "], logps=[-0.1] * 5, advantage=math.nan, reward=math.nan),
        Trace.from_text(NASTY),
    ],
)
def test_odd_traces_are_drawn_or_explained(tmp_path, explorer, odd):
    shown = explorer(odd, k=7)
    v = shown.picture()
    assert v.summary and len(v.strips) == 2 and bool(v.data) == bool(odd.tokens)
    live = shown.widget
    for name, control in shown.controls.items():
        for value in control.choices or [end for end in (control.low, control.high) if end is not None]:
            live.values = {**live.values, name: value}  # what a hand would do
            assert shown.values[name] == value and shown.picture().summary
    assert shown.figure() is not None and set(shown._repr_mimebundle_()) >= {"text/plain", "text/html"}
    page = shown.to_html(tmp_path / "page.html", {}).read_text()
    assert "<script>window" not in page and "<img" not in page.split("<body>")[1]
    json.dumps(dict(live.data), allow_nan=False)
    json.dumps(v.strips, allow_nan=False)


def test_unknown_numbers_are_said(trace):
    assert "No log-probabilities are known" in CreditExplorer(Trace(trace.tokens, advantage=1.0)).picture().summary
    assert (
        "The advantage is 0"
        in CreditExplorer(Trace(trace.tokens, logps=trace.logps, advantage=0.0, reward=1.0)).picture().summary
    )
    assert "1 stands in" in CreditExplorer(Trace(trace.tokens, logps=trace.logps)).picture().summary
    assert "cannot cut" in BlockExplorer(Trace(trace.tokens), rule="surprise").picture().summary


def test_settings_are_checked(trace):
    for wrong, message in (
        (dict(k=0), "from 1 to 64"),
        (dict(right="words"), "choose one of"),
        (dict(size=3), "no such control"),
        (dict(moved=9.0), "from 0 to 5"),
        (dict(k=2.5), "whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            CreditExplorer(trace, **wrong)
    with pytest.raises(ValueError, match="name at least one delimiter"):
        BlockExplorer(trace, rule="delimiter", ends="  ").picture()


def test_a_long_response_is_sent_once(monkeypatch):
    "Neither plotly.js nor the tokens travel again: a change is a few hundred bytes, and nothing piles up."
    explorer = CreditExplorer(made(4096))
    explorer.widget
    sent = []
    monkeypatch.setattr(
        ipywidgets.Widget,
        "_send",
        lambda self, msg, buffers=None: sent.append(len(json.dumps(msg, default=str)) + sum(map(len, buffers or []))),
    )
    for k in range(5, 15):
        explorer.set(k=k)
    assert len(sent) == 10 and max(sent) < 1000, sent


def test_views_that_differ_in_their_traces():
    class Growing(Explorer):
        title = "Growing"

        def __init__(self):
            super().__init__(Control("n", "n", 1, low=0, high=5))

        def view(self, values):
            if values["n"] == 4:
                raise ValueError("four is not drawn")
            return View(
                data=[dict(type="scatter", y=[i]) for i in range(values["n"])],
                summary=str(values["n"]),
                extra='<button data-pick="1">one</button>',
            )

    growing = Growing()
    growing.widget
    for n in (3, 0, 2):
        growing.set(n=n)
        assert len(growing.live_figure.data) == n
    growing.set(n=4)
    assert growing.panel.summary == "four is not drawn" and len(growing.live_figure.data) == 2
    assert 'data-pick="1"' in growing.panel.extra and growing.trace is None


def test_a_long_response_is_shown_in_parts():
    shown = CreditExplorer(made(400))
    assert "span" not in CreditExplorer(made(200)).controls and "start" not in shown.applies(shown.values)
    assert tuple(shown.figure().layout.xaxis.range) == (0.5, 400.5)
    shown.set(span=64, start=97)
    assert tuple(shown.figure().layout.xaxis3.range) == (96.5, 160.5) and "start" in shown.applies(shown.values)


def test_page_states_are_shared():
    "Settings that do not matter make no further states."

    class Halves(Explorer):
        title = "Halves"

        def __init__(self):
            super().__init__(Control("all", "all", False), Control("n", "n", 1, low=0, high=5))

        def applies(self, values):
            return {"all"} if values["all"] else {"all", "n"}

        def page_axes(self):
            return {"all": [False, True], "n": [0, 1, 2]}

        def view(self, values):
            return View(summary="all" if values["all"] else f"{values['n']} of them")

    halves = Halves()
    data = page_states(halves.page_axes(), halves.values, halves.view, halves.applies)
    assert len(data["index"]) == 2 * 3 and len(data["states"]) == 1 + 3
    assert "http" not in halves.fragment(halves.page_axes()).replace("http://www.w3.org", "")


def test_the_panel_says_what_the_strip_says(trace):
    "The template's labels, completed in the browser, begin as the strip's own; the browser tests compare the rest."
    out = moved_loss(trace, TokenActions(), advantage=-1.0)
    state = strip_state(trace, "t", out.credit, fixed_blocks(trace.mask_tensor, 3), out.ratio, out.clipped)
    whole = token_strip(trace, out.credit, fixed_blocks(trace.mask_tensor, 3), out.ratio, out.clipped).html
    template = strip_template(trace)
    labels = [[part.split('"')[0] for part in html.split('aria-label="')[2:]] for html in (whole, template)]
    assert len(labels[0]) == len(trace.tokens) and all(a.startswith(b) and a != b for a, b in zip(*labels))
    assert signed(state["values"][0], 3) in labels[0][0]
    assert Panel().shown == 0


def test_measured_times_hold_the_bounds(root):
    "benchmarks/widgets.csv: 50 ms for a change at 512 tokens, 100 ms at 4,096, and 1.5 MB for a page."
    with open(root / "benchmarks" / "widgets.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert {(r["widget"], r["tokens"]) for r in rows} >= {
        (w, t) for w in ("BlockExplorer", "CreditExplorer") for t in ("64", "512", "4096")
    }
    for r in rows:
        bound = 1000 if r["what"] == "first picture" else 50 if int(r["tokens"]) <= 512 else 100
        assert min(float(r["ms_median"]), float(r["ms_processor"])) < bound and float(r["page_kB"]) < 1500, r


# Files that a user names


def test_pages_go_where_they_can(tmp_path):
    explorer = CreditExplorer(Trace.from_text("7+5=12"))
    for name, written in (
        ("page.html", "page.html"),
        ("page", "page.html"),
        ("deep/er/page.htm", "deep/er/page.htm"),
        ("PAGE.HTML", "PAGE.HTML"),
    ):
        assert explorer.to_html(tmp_path / name, {}) == tmp_path / written and (
            tmp_path / written
        ).read_text().startswith("<!doctype html>")
    (tmp_path / "page.html").write_text("earlier")
    assert "earlier" not in explorer.to_html(str(tmp_path / "page.html"), {}).read_text()
    assert not list(tmp_path.rglob(".writing*"))


@pytest.mark.parametrize(
    "path, said",
    [
        ("", "path='' is empty"),
        (None, "path=None is of type NoneType"),
        (3, "path=3 is of type int"),
        (["a.html"], "is a list; pass one path"),
        ("{folder}", "is a folder; name a file in it, e.g. '{folder}/report.html'"),
        ("{folder}/new/", "is a folder; name a file"),
        ("{folder}/metrics.jsonl", "ends in '.jsonl', but what is written is HTML; end it in .html"),
        ("{folder}/taken/page.html", "'{folder}/taken' is a file"),
        ("{folder}/" + "n" * 300 + ".html", "can be no file"),
        ("a\0b.html", "NUL"),
        ("~nobody-here/page.html", "no such home folder"),
    ],
)
def test_paths_that_take_no_page_are_refused_before_any_work(path, said, tmp_path, monkeypatch):
    monkeypatch.setattr(CreditExplorer, "html", lambda *a: pytest.fail("the page was made first"))
    (tmp_path / "taken").write_text("a file")

    def fill(text):
        return text.replace("{folder}", str(tmp_path)) if isinstance(text, str) else text

    explorer = CreditExplorer(Trace.from_text("7+5=12"))
    for write in (explorer.to_html, lambda p: write_report("runs/none", p)):
        with pytest.raises(ValueError, match="^path=") as error:
            write(fill(path))
        assert fill(said) in str(error.value) and "\n" not in str(error.value)


def test_a_disk_that_takes_no_page_is_named(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OSError, match="path='.*page.html' could not be written .No space left on device.; choose a folder"
    ):
        CreditExplorer(Trace.from_text("7+5=12")).to_html(tmp_path / "page.html", {})
    assert not list(tmp_path.iterdir())


def test_what_is_no_trace_is_said():
    for wrong in (None, "7+5=12", 3, [Trace.from_text("a")]):
        with pytest.raises(ValueError, match="^trace=.*pass a Trace"):
            CreditExplorer(wrong)
