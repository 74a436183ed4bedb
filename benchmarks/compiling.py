"""Whether torch.compile pays on a CPU: the trainer as it is, beside itself with its layers compiled where it trains,
and with compiled decoding where it samples.

Two set-ups, both with the tiny model in float32 and on one thread:
- tour: the steps of `mpo-tour` with GRPO, four passes over 64 responses, without its evaluations;
- even: the iteration of benchmarks/trainer.py, two passes in two minibatches over 256 responses.

Layers are compiled by inductor with `dynamic=True`, since each micro-batch has another number of nodes. Attention on a
tree stays as it is, between the compiled pieces: its parts change in number from micro-batch to micro-batch. Compiled
decoding is the package's own, `decoding="compiled"`.

Trainers with one seed take turns in one process, an iteration each. Times are of the processor, the C++ compiler's
among them. `seconds_compiling` is what an iteration takes in which everything is compiled for the first time, beyond
the median of those that follow; `seconds_from_cache` is the same for a process that finds its code compiled on disk.
`saved` is what each later iteration takes less than the trainer's as it is, with quartiles. `break_even` is the number
of iterations from which on compiling pays, at the median and at the better quartile; empty where it never does.

    python benchmarks/compiling.py        # four minutes on one core; writes benchmarks/compiling.csv
"""

import argparse
import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = (
    "1"  # by this process and the compiler that it waits for: both are counted
)
import torch
import torch._dynamo.utils
from records import output_path, size, write_table
from torch._inductor.utils import fresh_cache
from trainer import our_trainer
from transformers import AttentionInterface
from transformers.utils import logging

import mpo_nb.models.logprobs
from mpo_nb.cli import tour_config
from mpo_nb.models.logprobs import decoder_of
from mpo_nb.models.prefixes import PrefixTree, tree_attention, tree_attention_name, tree_states
from mpo_nb.training.trainer import Trainer

CASES = ("as it is", "layers compiled in training", "compiled decoding")
PARTS = ("sampling", "training", "total")


def processor_seconds() -> float:
    "Of this process, and of the compilers that it started and waited for."
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def make_trainer(setup: str, case: str, folder: str) -> Trainer:
    "A trainer of a set-up."
    if setup == "even":
        trainer = our_trainer("even", folder, 48)
    else:
        config = tour_config("grpo", folder, 10**6, 0)
        options = dict(eval_every=0, checkpoint_every=10**6, device="cpu", progress=False)
        trainer = Trainer(replace(config, **options, prompts_per_step=size(config.prompts_per_step, 2)))
    if case == "compiled decoding":
        trainer.sampler.options = replace(trainer.sampler.options, decoding="compiled")
    return trainer


@contextmanager
def compiled_layers(trainer: Trainer) -> Iterator[Callable]:
    "Inside a `with`, what `tree_states` is with the layers of a trainer's model compiled."
    layers = decoder_of(trainer.model).layers
    compiled = [torch.compile(layer.forward, dynamic=True) for layer in layers]

    def states(decoder, tree: PrefixTree) -> torch.Tensor:  # (N, d)
        for layer, forward in zip(layers, compiled):
            layer.forward = forward
        try:
            return tree_states(decoder, tree)
        finally:
            for layer in layers:
                del layer.forward

    AttentionInterface.register(tree_attention_name, torch.compiler.disable(tree_attention))
    try:
        yield states
    finally:
        AttentionInterface.register(tree_attention_name, tree_attention)


def timed_step(trainer: Trainer, step: int, states: Callable | None) -> dict[str, float]:
    "The row of an iteration, with its seconds, and the graphs that were compiled in it."
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    how = patch.object(mpo_nb.models.logprobs, "tree_states", states) if states else nullcontext()
    update = trainer.update
    sampled: list[float] = []  # when sampling was over

    def marked(*args):
        sampled.append(processor_seconds())
        return update(*args)

    start = processor_seconds()
    with how, patch.object(trainer, "update", marked):
        row = trainer.step(step)
    row["total"] = processor_seconds() - start
    row["sampling"] = sampled[0] - start
    row["training"] = row["total"] - row["sampling"]
    row["graphs"] = graphs["unique_graphs"] - before
    return row


def measure(setup: str, iterations: int) -> dict[str, list[dict]]:
    "For each case the rows of its iterations: the first compiles, and the last finds what it compiles on disk."
    with tempfile.TemporaryDirectory() as folder, fresh_cache():
        trainers = {case: make_trainer(setup, case, f"{folder}/{i}") for i, case in enumerate(CASES)}
        found = {case: [] for case in CASES}
        with compiled_layers(trainers[CASES[1]]) as states:
            for step in range(1, iterations + 3):
                if step == iterations + 2:
                    torch._dynamo.reset()
                for case, trainer in trainers.items():
                    found[case].append(timed_step(trainer, step, states if case == CASES[1] else None))
    torch._dynamo.reset()
    return found


def table(setup: str, found: dict[str, list[dict]]) -> list[dict]:
    "One row per case."
    plain = found["as it is"][1:-1]
    rows = []
    for case, (first, *steps, last) in found.items():
        middle = {part: statistics.median(step[part] for step in steps) for part in PARTS}
        saved = [b["total"] - a["total"] for a, b in zip(steps, plain)]
        low, mid, high = statistics.quantiles(saved, n=4)
        ratio = statistics.quantiles([a["total"] / b["total"] for a, b in zip(steps, plain)], n=4)
        cost = first["total"] - middle["total"]
        gaps = [
            max(abs(a["grad_norm"] - b["grad_norm"]) / max(b["grad_norm"], 1e-3), abs(a["loss"] - b["loss"]))
            for a, b in zip(steps, plain)
        ]
        rows.append(
            {
                "setup": setup,
                "case": case,
                **{f"seconds_{part}": f"{middle[part]:.3f}" for part in PARTS},
                **{name: f"{value:.3f}" for name, value in zip(("ratio_q25", "ratio", "ratio_q75"), ratio)},
                "seconds_compiling": f"{cost:.1f}",
                "seconds_from_cache": f"{last['total'] - middle['total']:.1f}",
                "graphs": first["graphs"],
                "graphs_later": sum(step["graphs"] for step in steps),
                **{name: f"{value:.3f}" for name, value in zip(("saved_q25", "saved", "saved_q75"), (low, mid, high))},
                "break_even": math.ceil(cost / mid) if mid > 0 else "",
                "break_even_at_best": math.ceil(cost / high) if high > 0 else "",
                "difference": f"{max(gaps):.1e}",
                "iterations": len(steps),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=size(10, 2))
    parser.add_argument("--setups", nargs="+", default=["tour", "even"])
    parser.add_argument("--output", type=Path, default=output_path("compiling"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    for setup in args.setups:
        with redirect_stdout(StringIO()):
            found = measure(setup, args.iterations)
        rows += table(setup, found)
    write_table("compiling", args.output, rows)
    for row in rows:
        print(
            f"{row['setup']:5} {row['case']:28} {row['seconds_total']} s, {row['ratio']} times as it is"
            f" ({row['ratio_q25']} to {row['ratio_q75']}); compiling {row['seconds_compiling']} s, pays after"
            f" {row['break_even'] or 'no number of'} iterations, differs by {row['difference']}"
        )


if __name__ == "__main__":
    main()
