"assets/web/method.js, the method in the browser, gives the same numbers as the library on random inputs."

import json
import math
import random
from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from mpo_nb import actions as A
from mpo_nb import blocks as blocks
from mpo_nb.losses import policy_loss
from mpo_nb.runs.traces import Trace
from mpo_nb.widgets.rollout_browser import RolloutBrowser
from mpo_nb.widgets.views import block_view, credit_view, weight_map, window_slides

pytestmark = pytest.mark.browser

TOLERANCE = 1e-9
AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "block-mean")
TEXTS = ["a", " b", "c.", "!", "\n", "；", "d e", "7", "7.", ".", "．", "３", ".5", "..", "…", ""]

RUN = """async ([source, cases]) => {
  const m = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const rules = {
    token: (c) => m.tokenBlocks(c.mask),
    sequence: (c) => m.sequenceBlock(c.mask),
    turn: (c) => m.turnBlocks(c.mask),
    fixed: (c) => m.fixedBlocks(c.mask, c.k, c.gaps),
    sentence: (c) => m.sentenceBlocks(c.mask, c.tokens, c.gaps),
    surprise: (c) => m.surpriseBlocks(c.mask, c.old, c.threshold, c.interval, c.gaps),
    perplexity: (c) => m.perplexityBlocks(c.mask, c.logps, c.gaps),
    sized: (c) => m.sizedBlocks(c.mask, c.sizes, c.gaps),
  };
  const space = (c) => {
    const s = c.space;
    if (s === "token") return m.tokenActions();
    if (s === "window") return m.windowActions({ k: c.k, future: c.future, tail: c.tail, gaps: c.gaps });
    if (s === "beta") return m.windowActions({ k: c.k, beta: c.beta, tail: c.tail, gaps: c.gaps });
    if (s === "joint") return m.windowActions({ k: c.k, joint: true, gaps: c.gaps });
    if (s === "block") return m.blockActions({ ids: (mask) => m.fixedBlocks(mask, c.k, c.gaps), reduce: c.reduce });
    if (s === "sequence") return m.sequenceActions();
    return m.tokenGradient(m.sequenceActions());
  };
  return cases.map((c) => {
    const actions = space(c);
    const out = m.policyLoss({
      logps: c.logps, oldLogps: c.old, advantage: c.advantage, mask: c.mask, actions, clip: c.clip,
      surrogate: c.surrogate, aggregate: c.aggregate, dualClip: c.dual, maxLength: c.longest,
    });
    const ids = Object.fromEntries(Object.entries(rules).map(([name, rule]) => [name, rule(c)]));
    const at = c.mask.findIndex(Boolean);
    return { ...out, ids, row: at < 0 ? [] : m.windowOf(actions, c.mask, at),
             column: at < 0 ? [] : m.payersOf(actions, c.mask, at) };
  });
}"""


def made(rng: random.Random) -> dict:
    "One random response with every control that the module has."
    T = rng.choice([1, 2, 3, 7, 20, 60])
    k = rng.choice([1, 2, 3, 5, 9, 16, 80])
    beta = [rng.random() + 0.01 for _ in range(k)]
    surrogate = rng.choice(["ppo", "ppo", "cispo", "gmpo", "none"])
    holes = rng.choice([0.0, 0.2, 0.6])
    advantage = rng.choice([1.0, -1.0, 0.0, rng.gauss(0, 2)])
    return dict(
        mask=[int(rng.random() >= holes) for _ in range(T)],
        logps=[-abs(rng.gauss(0, 1)) for _ in range(T)],
        old=[-abs(rng.gauss(0, 1)) for _ in range(T)],
        tokens=[rng.choice(TEXTS) for _ in range(T)],
        advantage=advantage if rng.random() < 0.5 else [rng.gauss(0, 1) for _ in range(T)],
        space=rng.choice(["token", "window", "window", "beta", "joint", "block", "sequence", "gradient"]),
        k=k,
        future=rng.choice([0.0, 0.2, 0.5, 0.9]),
        beta=[b / sum(beta) for b in beta],
        tail=rng.choice(["renormalise", "truncate"]),
        gaps=rng.choice(["skip", "end"]),
        reduce=rng.choice(["mean", "sum"]),
        surrogate=surrogate,
        aggregate=rng.choice(AGGREGATES),
        clip=[rng.choice([0.0, 0.1, 0.2]), rng.choice([0.0, 0.2, 0.28])],
        dual=rng.choice([None, 1.5, 3.0]) if surrogate == "ppo" else None,
        longest=T + 3,
        threshold=rng.choice([0.2, 0.5, 0.9, 1.0]),
        interval=rng.choice([1, 2, 5]),
        sizes=[rng.choice([1, 2, 3, 5, 10]) for _ in range(T)],
    )


def action_space(c: dict) -> A.ActionSpace:
    "The library's, of the same controls."
    window = dict(gaps=c["gaps"])
    spaces = {
        "token": A.TokenActions,
        "window": lambda: A.WindowActions(c["k"], c["future"], tail=c["tail"], **window),
        "beta": lambda: A.WindowActions(c["k"], beta=tuple(c["beta"]), tail=c["tail"], **window),
        "joint": lambda: A.WindowActions(c["k"], joint=True, **window),
        "block": lambda: A.BlockActions(c["k"], c["reduce"], **window),
        "sequence": A.SequenceActions,
        "gradient": lambda: A.TokenGradient(A.SequenceActions()),
    }
    return spaces[c["space"]]()


def block_ids(c: dict) -> dict[str, list[int]]:
    "The library's partitions of the same response."
    mask = torch.tensor([c["mask"]])
    old, logps = (torch.tensor([c[name]], dtype=torch.double) for name in ("old", "logps"))
    order = mask.cumsum(1) - 1
    ends = torch.tensor([c["sizes"]]).cumsum(1)
    sized = torch.where(mask.bool(), torch.searchsorted(ends, order, right=True), -1)
    rules = dict(
        token=blocks.token_blocks(mask),
        sequence=blocks.sequence_block(mask),
        turn=blocks.turn_blocks(mask),
        fixed=blocks.fixed_blocks(mask, c["k"], c["gaps"]),
        sentence=blocks.sentence_blocks(mask, [c["tokens"]], c["gaps"]),
        surprise=blocks.surprise_blocks(mask, old, c["threshold"], c["interval"], c["gaps"]),
        perplexity=blocks.perplexity_blocks(mask, logps, c["gaps"]),
        sized=blocks.cut_at_gaps(sized, mask, c["gaps"]),
    )
    return {name: ids[0].tolist() for name, ids in rules.items()}


def close(name: str, ours: object, theirs: object, case: dict) -> None:
    a = torch.as_tensor(ours, dtype=torch.double)
    b = torch.as_tensor(theirs, dtype=torch.double)
    assert a.shape == b.shape and torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE), (name, case)


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.goto("about:blank")
    return page


@pytest.fixture(scope="module")
def source() -> str:
    return (files("mpo_nb") / "assets" / "web" / "method.js").read_text(encoding="utf-8")


def test_the_module_equals_the_library(page, source):
    rng = random.Random(0)
    cases = [made(rng) for _ in range(1500)]
    for case, out in zip(cases, page.evaluate(RUN, [source, cases]), strict=True):
        space = action_space(case)
        mask = torch.tensor([case["mask"]])
        logps, old = (torch.tensor([case[name]], dtype=torch.double) for name in ("logps", "old"))
        advantage = torch.tensor([case["advantage"]], dtype=torch.double)
        ours = policy_loss(
            logps,
            old,
            advantage,
            mask,
            space,
            tuple(case["clip"]),
            case["surrogate"],
            case["aggregate"],
            case["dual"],
            case["longest"],
        )
        close("loss", ours.loss, out["loss"], case)
        close("ratio", ours.ratio[0], out["ratio"], case)
        close("credit", ours.credit[0], out["credit"], case)
        assert float(ours.clip_fraction) == pytest.approx(out["clipFraction"], rel=1e-6), case  # a float32 there
        close("KL", ours.approx_kl, out["approxKl"], case)
        assert ours.clipped[0].tolist() == out["clipped"], case
        assert block_ids(case) == out["ids"], case
        if any(case["mask"]):
            at = case["mask"].index(1)
            unit = torch.zeros_like(logps)
            unit[0, at] = 1
            close("row of W", space.credit(unit, mask)[0], out["row"], case)
            close("column of W", A.weight_matrix(space, mask)[:, at], column(space, out, at), case)


def column(space: A.ActionSpace, out: dict, at: int) -> list[float]:
    "Of a token gradient, W as differentiation sees it is the identity; the module's column is the ratio's."
    if not isinstance(space, A.TokenGradient):
        return out["column"]
    return [float(t == at) for t in range(len(out["column"]))]


def test_a_row_of_w_is_a_window(page, source):
    case = made(random.Random(1)) | dict(space="window", k=4, future=0.3, tail="renormalise", gaps="skip")
    case |= dict(mask=[1] * 6, logps=[-1.0] * 6, old=[-1.0] * 6, tokens=["a"] * 6, advantage=1.0, sizes=[2] * 6)
    (out,) = page.evaluate(RUN, [source, [case]])
    assert [round(x, 3) for x in out["row"]] == [0.7, 0.1, 0.1, 0.1, 0, 0]
    assert math.isclose(out["column"][0], 0.7)
    assert json.dumps(out["ids"]["sized"]) == "[0, 0, 1, 1, 2, 2]"


def test_a_wrong_module_is_noticed(page, source):
    "The comparison is not blind: with the share of later tokens doubled, it fails."
    wrong = source.replace("return [1 - future,", "return [1 - 2 * future,")
    assert wrong != source
    case = made(random.Random(1)) | dict(space="window", k=4, future=0.3, mask=[1] * 6, logps=[-1.0] * 6, gaps="skip")
    case |= dict(old=[-2.0, -1.0] * 3, tokens=["a"] * 6, advantage=1.0, sizes=[2] * 6, tail="truncate", clip=[9, 9])
    case |= dict(surrogate="ppo", dual=None, aggregate="token-mean")
    (right,), (other,) = (page.evaluate(RUN, [text, [case]]) for text in (source, wrong))
    assert abs(right["loss"] - other["loss"]) > 1e-3


def odd_traces() -> dict[str, Trace]:
    "Responses that a view must not stumble over."

    def trace(tokens, mask=None, logps=None, advantage=1.0):
        n = len(tokens)
        scores = logps or [-1.0] * n
        return Trace(tokens, list(range(n)), mask or [1] * n, scores, [-1.0] * n, [0.5] * n, "p", advantage=advantage)

    return dict(
        empty=trace([]),
        one=trace(["a"]),
        masked=trace(["a", "b"], mask=[0, 0]),
        holes=trace(list("abcd"), mask=[1, 0, 1, 1], logps=[-1.0, -9.0, -2.0, -1.0]),
        unknown=trace(["a", "b"], logps=[math.nan, -1.0]),
        hostile=trace(["<script>window.bad = 1</script>", "</script><img src=x onerror=window.bad=1>", "`${1}`"]),
        level=trace(list("abc"), advantage=0.0),
        characters=trace(["\u00e9", "\u202e", "\ud83d", "a\nb", "\t"]),
        wide=replace(trace(["x" * 400, "y"]), prompt="x" * 400, answer="x" * 400),
    )


MOVE_ALL = """() => {
  for (const input of document.querySelectorAll('input[type=range]')) {
    for (const value of [input.min, input.max]) {
      input.value = value
      input.dispatchEvent(new Event('input', { bubbles: true }))
    }
  }
  for (const select of document.querySelectorAll('select')) {
    for (const option of select.options) {
      select.value = option.value
      select.dispatchEvent(new Event('change', { bubbles: true }))
    }
  }
}"""


@pytest.mark.parametrize("name", odd_traces())
@pytest.mark.parametrize("view", [window_slides, weight_map, credit_view, block_view], ids=lambda view: view.__name__)
def test_a_view_stands_alone_and_moves(browser, view, name):
    "In a page with nothing else: drawn without an error, at both ends of every control, and text stays text."
    page = browser.new_page(viewport=dict(width=420, height=800), reduced_motion="reduce")
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.set_content(f'<!doctype html><meta charset="utf-8"><body>{view(odd_traces()[name]).html()}')
    page.wait_for_selector(".mpo-output > div > *")
    page.evaluate(MOVE_ALL)
    if name == "wide":
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert trouble == [] and page.evaluate("window.bad") is None
    page.close()


CONTRAST = """element => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number)
  const light = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
  const share = [0.2126, 0.7152, 0.0722]
  const luminance = (rgb) => share.reduce((sum, w, i) => sum + w * light(rgb[i] / 255), 0)
  const page = rgb(getComputedStyle(document.body).backgroundColor)
  const { color, backgroundColor } = getComputedStyle(element)
  const [r, g, b, opacity = 1] = rgb(backgroundColor)
  const under = [r, g, b].map((x, i) => x * opacity + page[i] * (1 - opacity))
  const [low, high] = [luminance(rgb(color)), luminance(under)].sort((a, b) => a - b)
  return (high + 0.05) / (low + 0.05)
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_heaviest_token_can_be_read(browser, scheme, tmp_path):
    "The strongest colour of a token leaves its text a contrast of 4.5, on paper and on black."
    page = browser.new_page(color_scheme=scheme)
    for view, strongest in ((weight_map, "li.now"), (block_view, ".mpo-swatch >> nth=-1")):
        page.goto(view(odd_traces()["holes"]).to_html(tmp_path / view.__name__).as_uri())
        page.wait_for_selector(strongest)
        assert page.eval_on_selector(strongest, CONTRAST) >= 4.5, view.__name__
    page.close()


def test_a_long_answer_keeps_within_a_narrow_page(browser):
    page = browser.new_page(viewport=dict(width=420, height=800))
    page.set_content(f'<!doctype html><meta charset="utf-8"><body>{RolloutBrowser(odd_traces()["wide"]).html()}')
    page.wait_for_selector(".mpo-group-head")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.close()


def test_a_view_may_stand_on_a_page_twice(browser):
    html = weight_map(odd_traces()["holes"]).html()
    page = browser.new_page()
    page.set_content(f'<!doctype html><meta charset="utf-8"><body>{html}{html}')
    page.wait_for_function("document.querySelectorAll('.mpo-output > div > *').length > 1")
    assert page.eval_on_selector_all(".mpo-output", "all => all.map(box => box.textContent.length > 99)") == [
        True,
        True,
    ]
    page.close()


@pytest.mark.parametrize("view", [window_slides, weight_map, credit_view, block_view], ids=lambda view: view.__name__)
def test_what_is_no_trace_is_refused(view):
    for value in (3, "text", None):
        with pytest.raises(ValueError, match="trace="):
            view(value)


def test_a_view_gives_the_credit_of_the_loss(browser):
    "What the page shows is what the library says, for each value of a slider."
    trace = odd_traces()["holes"]
    page = browser.new_page()
    page.set_content(f'<!doctype html><meta charset="utf-8"><body>{credit_view(trace, right="window").html()}')
    page.wait_for_selector(".mpo-output .mpo-detail")
    for k in (1, 2, 3):
        page.evaluate(
            "k => { const i = document.querySelector('[data-control=k]'); i.value = k - 1;"
            " i.dispatchEvent(new Event('input', { bubbles: true })) }",
            k,
        )
        shown = page.eval_on_selector_all(".mpo-lanes i:nth-of-type(2)", "cells => cells.map(c => c.textContent)")
        delta = torch.tensor([trace.logps], dtype=torch.double) - torch.tensor([trace.old_logps], dtype=torch.double)
        out = policy_loss(
            delta,
            torch.zeros_like(delta),
            torch.tensor([trace.advantage], dtype=torch.double),
            torch.tensor([trace.mask]),
            A.WindowActions(k),
            aggregate="seq-mean-token-sum",
        )
        wanted = [f"{c:.2f}".replace("-", "\u2212") if m else "" for c, m in zip(out.credit[0].tolist(), trace.mask)]
        assert [text.replace("\u22120.00", "0.00") for text in shown] == [
            w.replace("\u22120.00", "0.00") for w in wanted
        ]
    page.close()
