"""Every granularity at every clip range, on data of several ages: how good a policy is for how far it went.

The runs of nbs/studies/same_drift.ipynb, which says what they are for. A run takes 32 updates of 32 responses each.
What differs is the unit of the ratio, its clip range, and how old the responses are. First the learning rate of each
method is chosen on seeds of its own, then the clip ranges are run on five other seeds.

    python benchmarks/same_drift.py   # writes nbs/studies/same_drift.csv; about an hour on one core

Stopped and started again, it goes on: a run that is in the file is not made again.
"""

import argparse
import copy
import csv
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import pandas as pd
import torch
from records import output_path, size, table_path, write_record

from mpo_nb.actions import ActionSpace, BlockActions, SequenceActions, TokenActions, WindowActions
from mpo_nb.models import load
from mpo_nb.models.logprobs import head_logits, response_hidden
from mpo_nb.recipes import Recipe, recipe
from mpo_nb.sampling.draws import draw_seed
from mpo_nb.tasks import load_task
from mpo_nb.tasks.task import score
from mpo_nb.training import TrainConfig, Trainer
from mpo_nb.training.batch import Batch

METHODS: dict[str, ActionSpace] = {
    "token": TokenActions(),
    "window, 20% future": WindowActions(4, 0.2),
    "window, plain mean": WindowActions(4, 0.75),
    "blocks of 7": BlockActions(7),
    "whole response": SequenceActions(),
}
UPDATES = size(32, 1)
REGIMES = {
    "lag 16": dict(lag=size(16, 1), epochs=1, steps=UPDATES),
    "8 passes": dict(lag=0, epochs=8, steps=size(UPDATES // 8, 1)),
    "lag 0": dict(lag=0, epochs=1, steps=UPDATES),
    "lag 4": dict(lag=size(4, 1), epochs=1, steps=UPDATES),
}  # in the order in which they are run
RANGES = size((1 / 4, 1.0, 4.0, math.inf), (1.0,))  # times the logarithms of 0.8 and 1.2; inf: no clipping
RATES = size((3e-5, 1e-4, 3e-4), (1e-4,))
CHOOSING = size((100, 101), (100,))  # seeds on which the learning rate is chosen, at lag 16 and range 1
SEEDS = size((0, 1, 2, 3, 4), (0,))
SETTINGS = dict(
    prompts_per_step=4,
    group_size=8,
    minibatches=1,
    precision="float32",
    eval_every=0,
    trace_every=0,
    progress=False,
)
SAMPLED, SAMPLES, GREEDY = (
    size(64, 2),
    8,
    size(256, 2),
)  # problems sampled, responses to each, problems answered greedily
READ = slice(None, None, 2)  # of the sampled responses, those that the divergence is taken over
FILE = table_path("same_drift")


@dataclass(frozen=True)
class Key:
    "What makes a run."

    role: str  # "start": the first policy, untrained; "choose" a learning rate; "evaluate"
    regime: str
    method: str
    range: float
    lr: float
    seed: int


NUMBERS = (
    "accuracy_sampled accuracy_greedy pass_at_8 exact_kl exact_kl_response entropy response_length clip_fraction"
    " log_ratio_std approx_kl grad_norm"
).split()


def log_range(
    scale: float,  # times the logarithms of 0.8 and 1.2
) -> tuple[float, float]:  # (low, high), as a recipe has them
    "A clip range that is as wide in logarithms as the usual one, times a number."
    return 1 - 0.8**scale, 1.2**scale - 1


def recipe_of(
    method: str,  # one of METHODS
    scale: float,  # one of RANGES
) -> Recipe:
    "GRPO with another unit and another range."
    if math.isinf(scale):
        return recipe("grpo", actions=METHODS[method], surrogate="none")
    return recipe("grpo", actions=METHODS[method], clip=log_range(scale))


@cache
def start() -> tuple:  # model, tokenizer, task
    "The packaged model and its task."
    return *load("tiny", device="cpu", precision="float32", quiet=True), load_task("chain_sum")


_first: dict[tuple[int, int], Batch] = {}  # (seed, number) -> what the first policy sampled, the same for every method


class Run(Trainer):
    """A trainer that saves nothing, shares what the first policy sampled with the runs of the same seed, and does not
    sample what it would never train on. Its numbers are those of a Trainer."""

    def collect(self, step):
        known = _first.get((self.config.seed, step))
        if step > self.config.steps:
            return next(iter(_first.values()))
        if self.done > 0:
            return super().collect(step)
        if known is None:
            known = _first[self.config.seed, step] = super().collect(step)
        return replace(known, logps=known.logps.clone(), entropy=known.entropy.clone())

    def save(self):
        pass


@torch.no_grad()
def drift(model, r) -> dict[str, float]:
    "The exact divergence from the first policy, over the vocabulary at every position, and the entropy there; nats."
    base = start()[0]
    mask = r.mask.bool()
    logps = [
        (head_logits(m, response_hidden(m, r.prompt_ids, r.prompt_mask, r.ids, mask)[mask])).double().log_softmax(-1)
        for m in (model, base)
    ]  # (M, V) both
    share = logps[0].exp()
    kl = float((share * (logps[0] - logps[1])).sum())
    tokens, responses = int(mask.sum()), len(mask)
    entropy = -float((share * logps[0]).sum()) / tokens
    return dict(
        exact_kl=kl / tokens,
        exact_kl_response=kl / responses,
        entropy=entropy,
        response_length=tokens / responses,
    )


def judged(trainer: Trainer) -> dict[str, float]:
    "Accuracy on held-out problems, sampled and greedy, pass@8, and how far the policy went."
    task = trainer.task
    seed = draw_seed(trainer.config.seed, 0, "evaluation")
    problems = task.test[:SAMPLED]
    r = trainer.sampler.sample(problems, SAMPLES, seed)
    rewards = torch.tensor(score(task, [p for p in problems for _ in range(SAMPLES)], r.texts))
    right = (rewards >= task.pass_mark).view(-1, SAMPLES).float()  # (problems, samples)
    held_out = task.test[:GREEDY]
    likeliest = trainer.sampler.sample(held_out, 1, seed, greedy=True)
    greedy = torch.tensor(score(task, held_out, likeliest.texts)) >= task.pass_mark
    return dict(
        accuracy_sampled=float(right.mean()),
        accuracy_greedy=float(greedy.float().mean()),
        pass_at_8=float(right.amax(1).mean()),
    ) | drift(trainer.model, r.rows(torch.arange(len(r.texts))[READ]))


def trained(key: Key) -> dict[str, float]:
    "One run, from the packaged model to its numbers; those of training are NaN where there was none."
    model, tokenizer, task = start()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(output=folder, lr=key.lr, seed=key.seed, **SETTINGS, **REGIMES[key.regime])
        trainer = Run(config, copy.deepcopy(model), tokenizer, task, recipe_of(key.method, key.range))
        steps = range(1, config.steps + 1) if key.role != "start" else ()
        rows = [trainer.step(step) for step in steps]
        found = judged(trainer)
    for name in NUMBERS:
        if name not in found:
            found[name] = sum(row[name] for row in rows) / len(rows) if rows else math.nan
    return found


def read(path: Path) -> dict[Key, dict[str, float]]:
    "The runs that a file holds."
    if not path.exists():
        return {}
    found = {}
    with open(path, encoding="utf8", newline="") as f:
        for row in csv.DictReader(f):
            key = Key(
                row["role"], row["regime"], row["method"], float(row["range"]), float(row["lr"]), int(row["seed"])
            )
            found[key] = {name: float(row[name]) for name in NUMBERS}
    return found


def write(path: Path, key: Key, numbers: dict[str, float]):
    "Add a run to a file."
    fresh = not path.exists()
    with open(path, "a", encoding="utf8", newline="") as f:
        out = csv.writer(f)
        if fresh:
            out.writerow([*asdict(key), *NUMBERS])
        out.writerow([*asdict(key).values(), *(f"{numbers[name]:.5g}" for name in NUMBERS)])


def chosen_rate(runs: dict[Key, dict[str, float]], method: str) -> float:
    "The learning rate with the highest sampled accuracy on the seeds that are only for this."
    means = {}
    for lr in RATES:
        keys = [Key("choose", "lag 16", method, 1.0, lr, seed) for seed in CHOOSING]
        means[lr] = sum(runs[key]["accuracy_sampled"] for key in keys) / len(keys)
    return max(means, key=means.__getitem__)


def starting_keys() -> Iterator[Key]:
    "The first policy, judged with the random numbers of each seed."
    for seed in SEEDS:
        yield Key("start", "lag 0", "token", 1.0, RATES[0], seed)


def choosing_keys() -> Iterator[Key]:
    "The runs that choose the learning rates."
    for seed in CHOOSING:
        for lr in RATES:
            for method in METHODS:
                yield Key("choose", "lag 16", method, 1.0, lr, seed)


def evaluating_keys(regime: str, path: Path) -> Iterator[Key]:
    "The runs that a regime is judged by. Without a lag every ratio is 1: one range, and the token's learning rate."
    runs = read(path)
    fresh = regime == "lag 0"
    for seed in SEEDS:
        for scale in (1.0,) if fresh else RANGES:
            for method in METHODS:
                yield Key("evaluate", regime, method, scale, chosen_rate(runs, "token" if fresh else method), seed)


def train(path: Path, regimes: tuple[str, ...] = tuple(REGIMES), say=print) -> pd.DataFrame:  # a row for each run
    "Make the runs that a file does not hold yet."
    stages = [starting_keys, choosing_keys, *(partial(evaluating_keys, regime, path) for regime in regimes)]
    for stage in stages:
        for key in stage():
            if key not in read(path):
                write(path, key, trained(key))
                say(key, flush=True)
    return pd.read_csv(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="*", default=tuple(REGIMES), choices=tuple(REGIMES))
    parser.add_argument("--file", type=Path, default=output_path("same_drift"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    before = read(asked.file)
    train(asked.file, tuple(asked.regimes))
    if asked.file.resolve() == FILE and read(asked.file).keys() != before.keys():
        write_record("same_drift")
    print(f"wrote {asked.file}")
