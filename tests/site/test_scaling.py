"""The page of how cost grows: its exponents counted again at small sizes, and what it says held against its table.

Only counts are made anew: products, numbers written and bytes alive are the same on every machine and on a busy one."""

import re
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import nbformat
import pytest
import records
import scale
import torch

PARTS = ("sampling", "update: layers", "update: log-probabilities", "update: loss")


def counts(responses: int, length: int, vocabulary: int, joined: bool = False) -> dict[str, dict[str, float]]:
    "What each part of an iteration counts."
    found = {}

    def count(name, work):
        results = []
        found[name] = scale.counted(lambda: results.append(work()))
        return results[0]

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = scale.make_trainer(responses, length, vocabulary, folder)
            scale.iteration(trainer, 1, count)
            if joined:
                count("joined", lambda: scale.sample(trainer, 1, joined=True))
                together = [scale.sample(trainer, 1, joined=way) for way in (False, True)]
                assert torch.equal(together[0].ids, together[1].ids)
                assert torch.equal(together[0].logps, together[1].logps)
    return found


def exponent(sizes: list[int], found: list[dict], part: str, measure: str) -> float:
    "The slope through all of them."
    return scale.slope(sizes, [one[part][measure] for one in found])[0]


def second_difference(found: list[dict], part: str) -> float:
    "Of the FLOPs at three sizes that lie at equal distances."
    a, b, c = (one[part]["flops"] for one in found)
    return a - 2 * b + c


# What is counted


def test_work_counts_products_writes_and_bytes():
    a, b = torch.ones(8, 16, requires_grad=True), torch.ones(16, 4)
    with scale.Work() as work:
        (a @ b).sum().backward()
    assert work.flops == 2 * 2 * 8 * 16 * 4  # forward, and the gradient of a
    with scale.Work() as work:
        x = torch.ones(1000)
        y = x.view(10, 100)[2:4]  # a view writes nothing and takes nothing
        z = x + 1
        del x, y
        z.add_(1)
    assert work.elements == 3000 and work.peak == 8000 and work.alive == 4000 and work.flops == 0


def test_attention_is_counted_as_its_products_are():
    q = torch.randn(2, 3, 16, 8, requires_grad=True)
    with scale.Work() as fused:
        torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    with scale.Work() as plain:
        ((q @ q.mT / 8**0.5).softmax(-1) @ q).sum().backward()
    forward = 2 * 2 * 2 * 3 * 16 * 16 * 8
    assert plain.flops == 3 * forward
    assert fused.flops == forward + 5 * forward // 2  # the kernel makes the scores again when it goes back


def test_a_peak_is_the_allocators():
    "Torch's own profiler sees the same bytes, where kernels take no memory besides."
    x = torch.randn(256, 256, requires_grad=True)

    def work():
        y = x * 2
        for _ in range(5):
            y = (y + 1).sin()
        y.sum().backward()

    work()
    x.grad.zero_()
    mine = scale.counted(work)["mib"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    alive = peak = 0
    memory = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(memory, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    assert mine == pytest.approx(peak / scale.MIB, rel=0.05)


# Exponents, counted again


@pytest.fixture(scope="module")
def responses():
    return [counts(n, 32, 20) for n in (64, 128, 256)]


@pytest.fixture(scope="module")
def lengths():
    return [counts(8, n, 20, joined=True) for n in (64, 160, 256)]


@pytest.fixture(scope="module")
def vocabularies():
    return [counts(16, 8, n) for n in (1024, 3072, 5120)]


def test_work_is_linear_in_responses(responses):
    part = "update: log-probabilities"
    assert exponent([64, 128, 256], responses, part, "flops") == pytest.approx(1, abs=1e-9)
    for part in ("sampling", "update: layers"):  # what responses begin with is read once, and where they part is chance
        assert exponent([64, 128, 256], responses, part, "flops") == pytest.approx(1, abs=0.01), part
    for part in PARTS:
        assert exponent([64, 128, 256], responses, part, "elements") == pytest.approx(1, abs=0.01), part


def test_length_is_linear_but_for_attention(lengths):
    part = "update: log-probabilities"
    assert second_difference(lengths, part) == 0
    # Attention over prompt and response: 2 layers, 8 rows, 64 wide, 2 products forward and 5 backward of 2 FLOPs each.
    steps = 96  # between two lengths
    assert second_difference(lengths, "update: layers") == 2 * steps**2 * 7 * 2 * 2 * 8 * 64
    # Responses that begin alike are one row while they do; how many do is chance.
    assert second_difference(lengths, "sampling") == pytest.approx(2 * steps**2 * 2 * 2 * 2 * 8 * 64 // 2, rel=0.02)
    assert exponent([64, 160, 256], lengths, "update: loss", "elements") == pytest.approx(1, abs=0.02)
    assert exponent([64, 160, 256], lengths, "update: layers", "mib") <= 1.02  # no table of all pairs


def test_sampling_does_not_copy_what_it_knows(lengths):
    joined = exponent([64, 160, 256], lengths, "joined", "elements")
    roomy = exponent([64, 160, 256], lengths, "sampling", "elements")
    assert joined > 1.6 and roomy < 1.3
    assert lengths[-1]["joined"]["elements"] > 4 * lengths[-1]["sampling"]["elements"]
    assert lengths[-1]["sampling"]["mib"] <= 1.02 * lengths[-1]["joined"]["mib"]
    assert lengths[-1]["sampling"]["flops"] == lengths[-1]["joined"]["flops"]


def test_the_vocabulary_is_linear_and_its_logits_are_not_kept(vocabularies):
    assert second_difference(vocabularies, "update: log-probabilities") == 0
    for part in ("update: layers", "update: loss"):
        assert vocabularies[0][part]["flops"] == vocabularies[2][part]["flops"]
    assert vocabularies[0]["update: loss"]["mib"] == vocabularies[2]["update: loss"]["mib"]
    with tempfile.TemporaryDirectory() as folder:
        chunk = 2**14  # logits held at once: 8 tokens of 128
        trainer = scale.make_trainer(64, 16, 2048, folder, chunk)
        batch = trainer.collect(1)
        scale.no_gradients(trainer)
        held = scale.counted(lambda: scale.vocabulary_part(trainer, batch))["mib"]
    logits = 64 * 16 * 2048 * 4 / scale.MIB  # of all tokens
    assert held < logits / 3


def test_processes_do_the_same_work_and_say_the_same(tmp_path):
    "Two gloo processes: equal messages, and the gradients among them, once for each optimiser step."
    with tempfile.TemporaryDirectory() as folder:
        found = scale.start_processes(2, folder)
    first, second = (steps[-1] for steps in found)
    assert first["calls"] == second["calls"] > 0
    assert first["all_reduced"] == second["all_reduced"]
    gradients = 2 * 4 * first["parameters"]  # two optimiser steps in float32
    assert gradients < first["all_reduced"] < 1.01 * gradients
    assert first["sent"] < 1.02 * gradients
    assert first["flops"] == pytest.approx(second["flops"], rel=0.25)


# What the page says


@pytest.fixture(scope="module")
def table():
    return records.read_table(records.table_path("scale"))


def points(table, curve: str, part: str, measure: str) -> dict[int, float]:
    return {
        int(float(row["x"])): float(row["value"])
        for row in table
        if (row["curve"], row["part"], row["measure"], row["kind"]) == (curve, part, measure, "point")
    }


def test_the_tables_exponents_are_those_of_its_points(table):
    fresh = {
        tuple(row[key] for key in ("curve", "part", "measure")): row
        for row in scale.exponents([row for row in table if row["kind"] == "point"])
    }
    stored = [row for row in table if row["kind"] == "exponent"]
    assert len(stored) == len(fresh) > 60
    for row in stored:
        found = fresh[row["curve"], row["part"], row["measure"]]
        assert [float(found[end]) for end in ("value", "low", "high")] == pytest.approx(
            [float(row[end]) for end in ("value", "low", "high")], abs=2e-3
        )


def test_small_counts_are_those_of_the_table(table, responses, lengths):
    "The smallest point of two curves, counted now, is the one that the page draws."
    for part in PARTS[:3]:  # six digits of each are written down
        assert responses[0][part]["flops"] == pytest.approx(points(table, "responses", part, "flops")[64], rel=1e-5)
        assert lengths[0][part]["flops"] == pytest.approx(points(table, "length", part, "flops")[64], rel=1e-5)


def test_the_page_says_what_the_table_holds(table, root):
    "The claims that the prose makes in words."
    for part in ("update: layers", "sampling"):
        held = points(table, "responses", part, "mib")
        assert held[4096] < 1.1 * held[512], part
    length = points(table, "length", "sampling", "elements")
    joined = points(table, "length", "sampling, joined cache", "elements")
    assert joined[4096] > 10 * length[4096]
    chunk = points(table, "chunk", "update: log-probabilities", "seconds")
    assert chunk[2**20] > 2 * chunk[2**24]
    assert chunk[2**24] < 1.15 * min(chunk.values())  # the default is large enough
    layers = points(table, "vocabulary", "update: layers", "mib")
    assert layers[151936] == pytest.approx(151936 * 64 * 4 / 2**20, rel=0.02)  # the embedding's gradient, once
    for part in ("update: layers", "update"):  # prompts are shared in several micro-batches as they are in one
        flops = points(table, "responses", part, "flops")
        assert 0.99 < flops[4096] / 8 / flops[512] < 1.01, part
    resumed = points(table, "traces", "going on with the run", "mib")
    assert resumed[65536] < 1.01 * resumed[1024]
    report = points(table, "traces", "what a report reads", "mib")
    assert report[65536] < 1.1 * report[16384]
    browser = points(table, "traces", "the browser's first draw", "mib")
    assert browser[65536] < 1.5 * browser[8192]
    work = points(table, "processes", "a process", "flops")
    assert work[4] < 1.05 * work[1]
    calls = points(table, "processes", "a process", "calls")
    assert calls[2] == calls[4]
    page = nbformat.read(root / "nbs" / "learn" / "scaling.ipynb", as_version=4)
    shown = "\n".join(
        output["data"].get("text/markdown", "")
        for cell in page.cells
        for output in cell.get("outputs", [])
        if "data" in output
    )
    assert f"{joined[4096] / 1e9:.1f} billion" in shown and f"{length[4096] / 1e9:.2f} billion" in shown
    assert re.search(r"\| FLOPs, most / mean \| 1.000 \|", shown)
    record = records.read_record("scale")
    said = f"Measured on {record.date[:10]}, commit `{record.commit}`"
    assert any(said in cell.source for cell in page.cells if cell.cell_type == "markdown")
