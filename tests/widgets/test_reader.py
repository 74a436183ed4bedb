"""The page that reads what is pasted or dropped: the same traces as Python reads from the same files, one sentence for
files that it does not read, and no request at all."""

import base64
import gzip
import json
import math
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import pytest

from mpo_nb.drawing.assets import asset_text
from mpo_nb.runs import load_traces
from mpo_nb.runs.reading import made_up_run
from mpo_nb.runs.traces import cut_text
from mpo_nb.widgets import reader_view

pytestmark = pytest.mark.browser
pandas = pytest.importorskip("pandas")
READ = """async (files) => {
  const reader = await import("/log_files.js");
  const given = files.map(([name, text]) => ({ name, bytes: Uint8Array.from(atob(text), (c) => c.charCodeAt(0)) }));
  try {
    return await reader.readFiles(given);
  } catch (error) {
    return { error: error.message };
  }
}"""
FIELDS = {"logps": "logps", "old_logps": "oldLogps", "entropies": "entropies"}


@pytest.fixture(scope="module")
def modules(browser):
    "A blank page that may import the scripts as the modules they are."
    page = browser.new_page()

    def answer(route):
        name = route.request.url.rsplit("/", 1)[-1]
        kind = "text/javascript" if name else "text/html"
        route.fulfill(body=asset_text(name) if name else "<!doctype html>", content_type=kind)

    page.route("**/*", answer)
    page.goto("http://reader.test/")
    yield page
    page.close()


def read(page, *files: Path) -> dict:
    "What the page's reader makes of files."
    return page.evaluate(READ, [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files])


def same(a, b) -> bool:
    "Two numbers, or two lists of them; unknown is unknown."
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return math.isnan(a) and math.isnan(b) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def check_equal(found: dict, expected: list):
    "Every field of every trace."
    assert "error" not in found, found["error"]
    assert len(found["traces"]) == len(expected)
    for mine, trace in zip(found["traces"], expected, strict=True):
        for name in ("tokens", "mask", "prompt", "step", "group", "index", "finished", "answer", "correct", "note"):
            assert mine[name] == getattr(trace, name), name
        for name in ("reward", "advantage"):
            assert same(float(mine[name]), float(getattr(trace, name))), name
        for name, theirs in FIELDS.items():
            assert same(mine[theirs], getattr(trace, name)), name


def user(text: str) -> list[dict]:
    return [dict(role="user", content=text)]


def said(text: str, **more) -> list[dict]:
    return [dict(role="assistant", content=text, **more)]


def conversations() -> list[dict]:
    "Rows as TRL logs them: messages, rewards, and a number that is none."
    texts = ["It is 4.", "It is 5; I am sure.", "\u00bfCu\u00e1nto? \u7b54\u6848\u662f 4\u3002", ""]
    rows = []
    for step in (3, 4):
        for i, text in enumerate(texts):
            right = float("4" in text)
            thought = dict(reasoning_content="Two and two." if i % 2 else None)
            numbers = dict(acc=right, bonus=0.5 * right, length=len(text), advantage=1.5 * (right - 0.5))
            rows.append(dict(step=step, prompt=user(f"2+{step - 1}?"), completion=said(text, **thought), **numbers))
    return rows


def with_tools() -> list[dict]:
    "One conversation with a call of a tool and its reply."
    call = dict(role="assistant", content="", tool_calls=[dict(name="add", arguments=dict(a=2, b="\u00e9"))])
    turns = [call, dict(role="tool", content="4"), dict(role="assistant", content="4, says the tool.")]
    return [dict(step=1, prompt="2+2?", completion=turns, score=1.0, advantage=0.0)]


def rollouts() -> list[dict]:
    "Rows as verl dumps them."
    rows = []
    for i, score in enumerate((1.0, 0.0, math.nan, 1)):
        uid = f"p{i // 2}_{1 - i % 2}_0"
        rows.append(
            dict(input=f"user\n{i // 2}+2?", output=f"a {i}.", gts=str(i), score=score, step=7, acc=i % 2, uid=uid)
        )
    return rows


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_a_run_is_read_as_python_reads_it(modules, tmp_path):
    file = made_up_run(tmp_path / "run") / "traces.jsonl"
    check_equal(read(modules, file), load_traces(file))
    packed = tmp_path / "traces.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    check_equal(read(modules, packed), load_traces(file))
    file.write_bytes(file.read_bytes() + b'{"tokens": ["half')
    check_equal(found := read(modules, file), load_traces(file))
    assert "middle of a line" in found["said"][0]


@pytest.mark.parametrize("rows", [conversations, with_tools])
@pytest.mark.parametrize("name", ["completions_00003.parquet", "completions_00003.jsonl"])
def test_completions_of_trl_are_read_as_python_reads_them(modules, tmp_path, rows, name):
    file = tmp_path / name
    if name.endswith("parquet"):
        pandas.DataFrame(rows()).to_parquet(file)
    else:
        file.write_bytes(lines(rows()))
    with pytest.warns(UserWarning) if rows is conversations else nullcontext():
        expected = load_traces(file)
    check_equal(found := read(modules, file), expected)
    if rows is conversations:
        assert found["said"] == ["Taken for the reward: acc, bonus.", "Not taken for it: length."]


def test_plain_completions_and_a_table_logged_twice(modules, tmp_path):
    table = pandas.DataFrame(
        dict(step=[1, 1], prompt=["a", "a"], completion=["b", "c d"], reward_x=[1, 0], advantage=[1.0, -1.0])
    )
    for step in (1, 2, 10):
        again = table if step < 10 else table.assign(step=10, completion=["e", "f"])
        again.to_parquet(tmp_path / f"completions_{step}.parquet")
    check_equal(read(modules, *tmp_path.iterdir()), load_traces(tmp_path))


def test_rollouts_of_verl_are_read_as_python_reads_them(modules, tmp_path):
    (tmp_path / "7.jsonl").write_bytes(lines(rollouts()))
    check_equal(read(modules, tmp_path / "7.jsonl"), load_traces(tmp_path / "7.jsonl"))
    without = [{k: v for k, v in row.items() if k not in ("uid", "step")} for row in rollouts()]
    packed = tmp_path / "8.jsonl.gz"
    packed.write_bytes(gzip.compress(lines(without)))
    check_equal(read(modules, packed), load_traces(packed))


def test_text_is_cut_as_python_cuts_it(modules):
    "Every character of the basic plane that both know, and a few pairs."
    known = [chr(i) for i in range(0x10000) if unicodedata.category(chr(i)) not in ("Cn", "Cs")]
    text = "".join(c + ("a" if i % 3 else " b") for i, c in enumerate(known)) + "\U0001d538 \U0001f600!\n 12 x_1"
    found = modules.evaluate("async (text) => (await import('/log_files.js')).cutText(text)", text)
    assert found == cut_text(text)


BAD = [
    ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0", "is none of the files that this page reads"),
    ("a.json", b"[1, 2]", "is none of the files that this page reads"),
    ("a.jsonl", b"", "is empty"),
    ("a.jsonl", b"{]\n", "Line 1 of a.jsonl is not JSON"),
    ("a.jsonl", b'{"tokens": ["a"]}\n{]\n{"tokens": ["b"]}\n', "Line 2 of a.jsonl is not JSON"),
    ("a.jsonl", b'{"tokens": ["a"], "mask": [1, 1]}\n', "mask has 2 values for 1 tokens"),
    ("a.jsonl", '{"tokens": []}\n'.encode("utf-16"), "UTF-16"),
    ("a.jsonl.gz", b"\x1f\x8b\x08nothing", "cannot be unpacked"),
    ("a.parquet", b"PAR1 and no more PAR1", "cannot be read as parquet"),
    ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n', "has no column step"),
    ("a.jsonl", b'{"input": "a", "output": "b", "score": "much"}\n', "which is no number"),
    ("a.jsonl", b'{"input": "a", "output": "b", "score": 1}\n{"input": "a", "score": 1}\n', "has no output"),
]


@pytest.mark.parametrize("name, content, sentence", BAD, ids=range(len(BAD)))
def test_a_bad_file_gets_one_sentence(modules, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    said = read(modules, tmp_path / name)["error"]
    assert sentence in said and said.endswith(".") and "\n" not in said and len(said) < 260


def test_another_compression_is_named(modules, tmp_path):
    pandas.DataFrame(conversations()).to_parquet(tmp_path / "c.parquet", compression="zstd")
    assert "ZSTD" in read(modules, tmp_path / "c.parquet")["error"]


@pytest.mark.parametrize("width, scheme", [(1200, "light"), (420, "dark")])
def test_the_page_opens_from_a_file_and_asks_for_nothing(browser, tmp_path, width, scheme):
    run = made_up_run(tmp_path / "run")
    pandas.DataFrame(conversations()).to_parquet(tmp_path / "completions_3.parquet")
    address = reader_view("One. Two, three.", prompt="Count.").to_html(tmp_path / "reader.html").as_uri()
    page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else trouble.append(r.url))
    page.goto(address)
    status = page.locator(".mpo-status")
    status.get_by_text("6 tokens of your text").wait_for()
    note = page.locator(".mpo-note")
    assert "A model's own tokens are other ones" in note.inner_text()
    offered = page.locator("[data-control=rule] option").evaluate_all("o => o.map(x => x.value)")
    assert "sentence" in offered and not {"surprise", "perplexity"} & set(offered)
    assert "0.00" not in page.locator(".mpo-lane-view .mpo-detail").inner_text()

    choose = page.locator(".mpo-drop input")
    choose.set_input_files(tmp_path / "completions_3.parquet")
    status.get_by_text("8 responses read").wait_for()
    page.locator(".mpo-list tbody tr").nth(1).click()
    page.locator("tr.now").wait_for()
    assert page.locator(".mpo-lane-view").inner_text().count("Two") and page.locator("tr.now").count() == 1
    choose.set_input_files(run / "traces.jsonl")
    status.get_by_text("traces").first.wait_for()
    for view, root in (("credit", ".mpo-lane-view"), ("windows", ".mpo-map"), ("blocks", ".mpo-lane-view")):
        page.locator(f"[data-view={view}]").click()
        page.locator(root).wait_for()
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=10_000)
    choose.set_input_files(dict(name="x.png", mimeType="image/png", buffer=b"\x89PNG\r\n"))
    page.locator(".mpo-status.failed").wait_for()
    assert trouble == []
    page.close()
