"The committed measurements hold what the project says of its cost, and the scripts that make them still run."

import csv
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from mpo_nb.models.mtp import MTPModules
from mpo_nb.models.tiny import tiny_model_path


def table(root, name: str) -> list[dict]:
    with open(root / "benchmarks" / f"{name}.csv", newline="") as f:
        return list(csv.DictReader(f))


def test_windows_cost_little_more_than_tokens(root):
    rows = {row["case"]: row for row in table(root, "policy_loss")}
    for ratio in ("ratio_to_token", "ratio_of_best"):
        assert (
            float(rows["window k=32"][ratio]) <= 1.6
        )  # the aim is 1.5: four runs on a quiet machine gave 1.45 to 1.53
        assert float(rows["window k=64"][ratio]) <= 1.2 * float(rows["window k=2"][ratio])
    assert float(rows["plain formula"]["ratio_to_token"]) >= 1, "token level is slower than the formula written out"


def test_an_iteration_is_quicker_than_trl(root):
    rows = {(row["setup"], row["part"]): row for row in table(root, "trainer")}
    assert float(rows["even", "total"]["ratio"]) >= 1.3
    assert float(rows["tail", "total"]["ratio"]) >= 2
    for row in rows.values():
        assert float(row["mean_length_ours"]) == pytest.approx(float(row["mean_length_trl"]), rel=0.05)


@pytest.mark.slow
def test_the_loss_benchmark_runs(root, tmp_path):
    "Few rounds on a machine that is doing other things: the best times, and a loose bound."
    output = tmp_path / "policy_loss.csv"
    subprocess.run(
        [sys.executable, root / "benchmarks" / "policy_loss.py", "--rounds", "30", "--output", output],
        check=True,
        cwd=root,
        capture_output=True,
    )
    with output.open(newline="") as f:
        rows = {row["case"]: float(row["ratio_of_best"]) for row in csv.DictReader(f)}
    assert rows["window k=32"] <= 2.5


def test_modules_cost_what_the_page_says(root):
    "Parameters are counted again; the rest is read: the backbone form is free, and more modules cost more."
    rows = {
        (row["model"].split(",")[0], row["method"].removeprefix("MPO, "), int(row["k"])): {
            k: float(v) for k, v in row.items() if k not in ("model", "method")
        }
        for row in table(root, "mtp")
    }
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    own = sum(p.numel() for p in model.parameters())
    for (name, method, k), row in rows.items():
        if name != "tiny" or "modules" not in method:
            continue
        head, merge = ("own", "none") if "parallel" in method else ("shared", "eh_proj")
        assert (
            own + sum(p.numel() for p in MTPModules(model, k, head=head, merge=merge).parameters()) == row["parameters"]
        )
    for name in ("tiny", "SmolLM2"):
        free = rows[name, "backbone", 4]
        assert (
            free["parameters_ratio"] == 1
            and abs(free["memory_ratio"] - 1) < 0.01
            and abs(free["iteration_ratio"] - 1) < 0.05
        )
        costs = [rows[name, "chained modules, shared head", k]["iteration_ratio"] for k in (2, 4)]
        assert 1 < costs[0] < costs[1]
    assert rows["SmolLM2", "chained modules, shared head", 4]["memory_ratio"] < 1.2
