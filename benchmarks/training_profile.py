"""What each saving of an iteration is worth: the trainer as it is, beside itself with one of them taken away, and with
none left.

The iterations are those of benchmarks/trainer.py, and one set-up more:
- even, tail: as there;
- apart: the same problems at temperature 3, where the responses of a group part at their first tokens. What is left
  comes from their prompts, which they still share, and from padding that is not read.

All cases of a set-up are trainers with the same seed in one process and one thread, and take turns, an iteration each.
Times are of the processor, so that what else the machine does counts less. The numbers of
their steps are compared too: `difference` is the largest between the gradient norms, relative, and the losses.

    python benchmarks/training_profile.py        # four minutes on one core; writes benchmarks/training_profile.csv
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from records import output_path, size, write_table
from trainer import LONG, our_trainer, problems
from transformers.utils import logging

import mpo_nb.models.logprobs
import mpo_nb.sampling.rollouts
import mpo_nb.training.learner
from mpo_nb.models.prefixes import prefix_tree
from mpo_nb.sampling.decoding import DynamicDecoder
from mpo_nb.tasks.task import Task
from mpo_nb.training.trainer import Trainer

SAVINGS = {
    "beginnings read once in training": patch.object(mpo_nb.models.logprobs, "reads_trees", lambda decoder: False),
    "equal rows computed once while sampling": patch.object(mpo_nb.sampling.rollouts, "SharingDecoder", DynamicDecoder),
    "Adam in one pass": patch.object(mpo_nb.training.learner, "fits_one_pass", lambda parameters, precision: None),
}
CASES = {
    "as it is": (),
    **{f"without: {name}": (name,) for name in SAVINGS},
    "without all three": tuple(SAVINGS),
}


@contextmanager
def without(names: tuple[str, ...]) -> Iterator[None]:
    "Some savings taken away inside a `with`."
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(SAVINGS[name])
        yield


def arbitrary_reward(problem: dict, response: str) -> float:
    "Whether the characters' numbers have an even sum."
    return float(sum(map(ord, response)) % 2 == 0)


def make_trainer(setup: str, folder: str) -> Trainer:
    "A trainer of benchmarks/trainer.py; in `apart`, at a high temperature."
    trainer = our_trainer("tail" if setup == "tail" else "even", folder, LONG if setup == "tail" else 48)
    if setup == "apart":
        for part in (trainer, trainer.setup, trainer.policy.setup, trainer.learner):
            config = getattr(part, "config", None)
            if config is not None:
                object.__setattr__(part, "config", replace(config, temperature=3.0))
        trainer.sampler.options = replace(trainer.sampler.options, temperature=3.0)
    if setup != "even":  # where no response is right, an arbitrary reward, so that there is a gradient to compare
        trainer.judge.task = Task("arbitrary", problems("even"), problems("even"), arbitrary_reward)
    return trainer


def shared_tokens(trainer: Trainer, step: int) -> tuple[int, int]:
    "Tokens of a step's prompts and responses that are read in training, and their different beginnings."
    r = trainer.collect(step).rollout
    texts = [p[m].tolist() + t[: n - 1].tolist() for p, m, t, n in zip(r.prompt_ids, r.prompt_mask, r.ids, r.lengths)]
    lengths = torch.tensor([len(text) for text in texts])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    return int(lengths.sum()), len(prefix_tree(padded, lengths).tokens)


def marked(method: Callable, clock: list[float]) -> Callable:
    "A method that notes when it begins."

    def wrapper(*args):
        clock.append(time.process_time())
        return method(*args)

    return wrapper


def measure(setup: str, iterations: int) -> tuple[dict[str, list[dict]], tuple[int, int]]:
    "For each case the rows of its iterations; and the tokens of the set-up's texts, all and different ones."
    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for number, (name, savings) in enumerate(CASES.items()):
            with without(savings):
                trainers[name] = make_trainer(setup, f"{folder}/{number}")
        tokens = shared_tokens(trainers["as it is"], 1)
        found = {name: [] for name in CASES}
        for step in range(1, iterations + 2):  # the first to warm up
            for name, savings in CASES.items():
                clock = [time.process_time()]
                with without(savings), patch.object(Trainer, "update", marked(Trainer.update, clock)):
                    row = trainers[name].step(step)
                row["total"] = time.process_time() - clock[0]
                row["sampling"] = clock[1] - clock[0]
                row["training"] = row["total"] - row["sampling"]
                found[name].append(row)
    return {name: rows[1:] for name, rows in found.items()}, tokens


def table(setup: str, found: dict[str, list[dict]], tokens: tuple[int, int]) -> list[dict]:
    "One row per case: median seconds, and the ratio to the trainer as it is, iteration by iteration."
    plain = found["as it is"]
    rows = []
    for name, steps in found.items():
        ratios = [a["total"] / b["total"] for a, b in zip(steps, plain)]
        low, mid, high = statistics.quantiles(ratios, n=4)
        gaps = [
            max(abs(a["grad_norm"] - b["grad_norm"]) / max(b["grad_norm"], 1e-3), abs(a["loss"] - b["loss"]))
            for a, b in zip(steps, plain)
        ]
        rows.append(
            {
                "setup": setup,
                "case": name,
                "seconds_sampling": f"{statistics.median(s['sampling'] for s in steps):.3f}",
                "seconds_training": f"{statistics.median(s['training'] for s in steps):.3f}",
                "seconds_total": f"{statistics.median(s['total'] for s in steps):.3f}",
                "ratio": f"{mid:.3f}",
                "ratio_q25": f"{low:.3f}",
                "ratio_q75": f"{high:.3f}",
                "difference": f"{max(gaps):.1e}",
                "tokens": tokens[0],
                "different_tokens": tokens[1],
                "iterations": len(steps),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=size(7, 2))
    parser.add_argument("--setups", nargs="+", default=["even", "tail", "apart"])
    parser.add_argument("--output", type=Path, default=output_path("training_profile"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    for setup in args.setups:
        with redirect_stdout(StringIO()):
            found, tokens = measure(setup, args.iterations)
        rows += table(setup, found, tokens)
    write_table("training_profile", args.output, rows)
    for row in rows:
        print(
            f"{row['setup']:6} {row['case']:50} {row['seconds_total']} s, {row['ratio']} times as it is"
            f" ({row['ratio_q25']} to {row['ratio_q75']}), differs by {row['difference']}"
        )


if __name__ == "__main__":
    main()
