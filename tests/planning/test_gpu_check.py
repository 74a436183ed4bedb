"""`make gpu-check` on a machine without a GPU: what it counts is right, a case that fails costs no other, and the whole
of it runs on tiny models."""

import csv
import importlib.util
import math
import os
import shutil
import subprocess
import sys

import pytest
import records
import torch


@pytest.fixture(scope="module")
def gpu(root):
    "benchmarks/gpu.py as a module."
    spec = importlib.util.spec_from_file_location("benchmark_gpu", root / "benchmarks" / "gpu.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What the work needs


def counted(model, tokens: int, backward: bool) -> int:
    "Floating-point operations of a pass, as torch counts those of its matrix products."
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.arange(tokens).view(1, -1)
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
def test_flops_are_those_that_torch_counts(gpu, backward):
    "Eager attention multiplies every pair of tokens, the masked ones too."
    from transformers import AutoModelForCausalLM

    shape = gpu.make_shape(gpu.SMOKE[0])
    n = 10
    model = AutoModelForCausalLM.from_config(shape, attn_implementation="eager")
    assert gpu.flops(shape, n, n, n * n, training=backward) == counted(model, n, backward)


@pytest.mark.parametrize("backward", [False, True])
def test_flops_with_adapters(gpu, backward):
    """The first layer's query, key and value products have no gradient to pass on, since the embedding is frozen; the
    formula counts one all the same."""
    from transformers import AutoModelForCausalLM

    from mpo_nb.models.loading import add_lora

    shape = gpu.make_shape(gpu.SMOKE[0])
    n = 10
    rank = 3
    model = add_lora(AutoModelForCausalLM.from_config(shape, attn_implementation="eager"), rank)
    assert gpu.adapter_weights(shape, rank) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    d = shape.hidden_size
    kv = shape.hidden_size // 2
    saved = 2 * n * (d * (d + 2 * kv) + 3 * d * rank) if backward else 0
    assert gpu.flops(shape, n, n, n * n, rank, backward) - saved == counted(model, n, backward)


@pytest.mark.parametrize("name, millions", [("0.5B", 494), ("1.5B", 1544)])
def test_shapes_have_the_published_sizes(gpu, name, millions):
    from transformers import AutoModelForCausalLM

    shape = gpu.make_shape(gpu.Case(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e6) == millions
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    )
    assert gpu.layer_weights(shape) == matrices


def test_a_pass_reads_each_prompt_once(gpu):
    """Two prompts of 3 tokens; responses of 1 and 3 tokens, whose last ones are not read: tokens 3+3+0+2; pairs 6+6,
    and 4 and 5 for the two tokens read."""
    assert gpu.pass_counts(2, 3, [1, 3]) == (8, 4, 12 + 9)


def test_peaks_go_by_the_whole_name(gpu):
    named = {
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA H100 NVL": 835,
        "NVIDIA H200": 989,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA A10": 125,
        "NVIDIA A10G": 70,
        "NVIDIA L4": 121,
        "NVIDIA L40S": 362,
        "Tesla T4": 65,
        "Tesla V100-SXM2-16GB": 125,
        "NVIDIA GeForce RTX 4090": 165,
        "NVIDIA RTX A6000": 155,
    }
    assert {name: gpu.known_peak(name) for name in named} == named
    assert (
        gpu.known_peak("NVIDIA B300") is None
        and gpu.known_peak("NVIDIA GA100") is None
        and gpu.known_peak("NVIDIA T400") is None
    )


def test_the_most_rows_that_fit(gpu):
    assert gpu.first_fit((8, 4, 2), lambda rows: 10 * rows, 45) == (4, 40)
    assert gpu.first_fit((8, 4, 2), lambda rows: 10 * rows, 40) == (4, 40)
    assert gpu.first_fit((8, 4, 2), lambda rows: 10 * rows, 19) == (None, 20)


# What both sides are given


def test_prompts_have_the_tokens_they_should_and_every_id_has_a_text(gpu):
    from mpo_nb.sampling.rollouts import check_tokenizer, encode_prompts

    case = gpu.SMOKE[0]
    shape = gpu.make_shape(gpu.SMOKE[0])
    tokenizer = gpu.make_tokenizer(shape)
    prompts = [p["prompt"] for p in gpu.make_problems(case, shape)]
    check_tokenizer(tokenizer)
    ids, mask = encode_prompts(tokenizer, prompts)
    assert ids.shape == (case.prompts, case.prompt) and mask.all() and len(set(prompts)) == case.prompts
    assert all(tokenizer.decode([i]) for i in range(shape.vocab_size))
    assert tokenizer(tokenizer.decode([5, 77, 300]))["input_ids"] == [5, 77, 300]


def test_rewards_differ_and_repeat(gpu):
    rewards = [gpu.checksum_reward(None, f"t{i} t{i + 1}") for i in range(50)]
    assert len(set(rewards)) == 50 and 0 <= min(rewards) < 0.2 < 0.8 < max(rewards) < 1
    assert rewards == [gpu.checksum_reward(None, f"t{i} t{i + 1}") for i in range(50)]


def test_tail_lengths(gpu):
    "An end with chance 1/6 after each token: 6 on average, less what the limit of 24 cuts."
    from mpo_nb.sampling.rollouts import rollout

    case = gpu.SMOKE[1]
    shape = gpu.make_shape(case)
    model = gpu.make_model(case, shape, "cpu", "float32")
    tokenizer = gpu.make_tokenizer(shape)
    lengths = rollout(
        model, tokenizer, [p["prompt"] for p in gpu.make_problems(case, shape)], 256, case.new, seed=1
    ).lengths.float()
    expected = case.mean * (1 - (1 - 1 / case.mean) ** case.new)
    assert (
        abs(float(lengths.mean()) - expected) < 5 * float(lengths.std()) / math.sqrt(len(lengths))
        and float(lengths.max()) == case.new
    )
    assert not [n for n, p in model.named_parameters() if n.endswith("lm_head.bias") and p.requires_grad]


# One case does not spoil another


def fake(answers, seen):
    def measure(case, side, iterations, rows, limit):
        seen.append((case.name, side, rows))
        return dict(answers[case.model, side])

    return measure


def test_rows_are_written_as_they_come(gpu, monkeypatch, tmp_path, capsys):
    seen = []
    output = tmp_path / "gpu.csv"
    cases = [gpu.Case("0.5B"), gpu.Case("1.5B")]
    answers = {
        ("0.5B", "mpo_nb"): dict(status="measured", seconds=2.0, rows_at_once=16),
        ("0.5B", "trl"): dict(status="failed: TypeError: no such option"),
        ("1.5B", "mpo_nb"): dict(status="measured", seconds=4.0, rows_at_once=8),
        ("1.5B", "trl"): dict(status="measured", seconds=10.0),
    }
    inner = fake(answers, seen)

    def measure(*args):
        assert len(list(csv.DictReader(output.open()))) == len(seen) if seen else not output.exists()
        return inner(*args)

    monkeypatch.setattr(gpu, "measure", measure)
    gpu.run(cases, 2, output, 1000)
    rows = list(csv.DictReader(output.open(newline="")))
    assert [row["status"] for row in rows] == ["measured", "failed: TypeError: no such option", "measured", "measured"]
    assert rows[2]["times_trl"] == "2.5" and rows[0]["times_trl"] == ""
    assert [rows_at_once for *_, rows_at_once in seen] == [32, 16, 32, 8]  # TRL is given what ours ran with
    assert list(rows[0]) == gpu.FIELDS


def test_what_does_not_fit_is_skipped_on_both_sides(gpu, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        gpu,
        "measure",
        fake(
            {
                ("1.5B", "mpo_nb"): dict(status="skipped: plan_memory says 33.0 GiB"),
                ("0.5B", "mpo_nb"): dict(status="measured", seconds=1.0),
                ("0.5B", "trl"): dict(status="measured", seconds=3.0),
            },
            seen,
        ),
    )
    rows = gpu.run([gpu.Case("1.5B", 0), gpu.Case("0.5B")], 2, tmp_path / "gpu.csv", 1000)
    assert [r["status"] for r in rows] == [
        "skipped: plan_memory says 33.0 GiB",
        "skipped with ours",
        "measured",
        "measured",
    ]
    assert ("1.5B full even", "trl", 32) not in seen


def test_what_time_does_not_allow_is_named(gpu, monkeypatch, tmp_path):
    moments = iter([0, 0, 95])  # the start, and as each side begins
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(gpu, "measure", lambda *args: dict(status="measured", seconds=1.0))
    rows = gpu.run([gpu.Case("1.5B", 0)], 2, tmp_path / "gpu.csv", 100)
    assert (
        rows[0]["status"] == "measured"
        and rows[1]["status"].startswith("not begun: 100 s")
        and "--only 1.5B-full-even" in rows[1]["status"]
    )


def test_a_plan_that_does_not_fit_skips_the_case(gpu, monkeypatch):
    import mpo_nb.planning.plan

    monkeypatch.setattr(mpo_nb.planning.plan, "present_device", lambda device: ("a card", 2**16))
    row = {}
    gpu.work(gpu.SMOKE[0], "mpo_nb", 1, 4, row)
    assert row["status"].startswith("skipped: plan_memory says") and "seconds" not in row


def test_a_case_that_takes_too_long_is_stopped(gpu):
    assert gpu.measure(gpu.SMOKE[0], "mpo_nb", 1, 4, 0.2) == dict(status="stopped: it ran past 0 s")


def test_a_case_whose_process_dies_is_a_row(gpu, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert gpu.measure(gpu.SMOKE[0], "trl", 1, 4, 60) == dict(status="failed: the process ended with code 1")


@pytest.mark.slow
def test_a_case_that_fails_says_why(gpu, capfd):
    row = gpu.measure(gpu.Case("no such model"), "mpo_nb", 1, 4, 300)
    assert row["status"] == "failed: KeyError: 'no such model'"


# The script


def test_without_a_gpu_it_says_so_and_writes_nothing(root, tmp_path):
    "In a second or two: transformers, trl and mpo_nb are not imported."
    output = tmp_path / "gpu.csv"
    code = (
        "import runpy, sys; sys.argv = ['gpu.py', '--output', sys.argv[1]]; runpy.run_path('benchmarks/gpu.py',"
        " run_name='__main__'); print(sorted({'transformers', 'trl', 'mpo_nb', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, output],
        cwd=root,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("No CUDA GPU here") and done.stdout.splitlines()[-1] == "[]"
    assert not output.exists()


def test_make_has_it_apart_from_bench(root):
    "`make bench` measures on a CPU, and leaves the GPU's file alone."
    makefile = (root / "Makefile").read_text()
    assert "\ngpu-check: " in makefile and "gpu" not in records.BENCHMARKS  # so `make bench` leaves it alone
    assert (
        "make gpu-check"
        in subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.slow
def test_the_whole_of_it_on_tiny_models(root, tmp_path):
    output = tmp_path / "gpu.csv"
    subprocess.run(
        [
            sys.executable,
            root / "benchmarks" / "gpu.py",
            "--smoke",
            "--iterations",
            "1",
            "--limit",
            "1000",
            "--output",
            output,
        ],
        check=True,
        cwd=root,
        capture_output=True,
    )
    with output.open(newline="") as f:
        rows = {(row["training"], row["side"]): row for row in csv.DictReader(f)}
    assert len(rows) == 4 and {row["status"] for row in rows.values()} == {"measured"}
    for (training, side), row in rows.items():
        empty = {name for name, value in row.items() if value == ""}
        assert empty == ({"trl"} if side == "mpo_nb" else {"times_trl", "planned_mib", "peak_over_plan"}), row
        assert float(row["seconds_sampling"]) + float(row["seconds_rescoring"]) + float(
            row["seconds_training"]
        ) == pytest.approx(float(row["seconds"]), rel=0.01)
        assert float(row["seconds_rescoring"]) > 0 or (side, row["precision"]) == ("mpo_nb", "float32")
        assert 0 < float(row["mfu_training"]) < 1 and 0 < float(row["mfu_sampling"]) < 1
    assert all(
        6 < float(rows["LoRA rank 16", side]["mean_length"]) <= 8 for side in ("mpo_nb", "trl")
    )  # one id in 512 is the end
    assert all(1 < float(rows["full", side]["mean_length"]) < 24 for side in ("mpo_nb", "trl"))
