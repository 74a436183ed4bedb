"""Five ways in which training goes wrong, each made on purpose, beside a run that goes well.

The model is the packaged tiny one after a short lesson: it has learnt to check its result now and then ("17+0=17") and,
rarely, to give a second answer ("#17#18"), so that there is something to be lured into. Then 24 steps of 12 problems
and 8 responses. All runs start from the same weights and see the same problems in the same order; what differs is named
in `failures`. Reward is what the run was trained with; accuracy is the share of the step's responses whose last answer
is right, whatever the reward said.

    python benchmarks/failures.py   # writes nbs/studies/failures.csv; some 6 minutes on a quiet machine

Stopped and started again, it goes on: a run that is in the file is not made again. `--again` makes all of them.
"""

import argparse
import copy
import csv
import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from records import output_path, read_table, size, table_path, write_record

from mpo_nb.models import load
from mpo_nb.runtime.placement import Whole
from mpo_nb.tasks import Task, load_task
from mpo_nb.tasks.sums import demonstration
from mpo_nb.training import TrainConfig, Trainer

ROOM = size(64, 12)  # tokens of the longest response
SETTINGS = dict(
    recipe="mpo",
    steps=size(24, 1),
    prompts_per_step=size(12, 2),
    group_size=8,
    epochs=2,
    minibatches=2,
    lr=5e-5,
    precision="float32",
    max_new_tokens=ROOM,
    eval_every=0,
    trace_every=0,
    progress=False,
)
COLUMNS = (
    "reward accuracy accuracy_greedy pass_at_8 dead_groups distinct response_length finished entropy clip_fraction"
    " log_ratio_std approx_kl grad_norm"
).split()
sums = load_task("chain_sum")


def answers(response: str) -> list[str]:
    "Everything that stands after a '#'."
    return response.split("#")[1:]


def right(problem: dict, response: str) -> float:
    "The reward that is meant: 1 where the last answer is right."
    return sums.reward(problem, response)


def right_anywhere(problem: dict, response: str) -> float:
    "A reward with a hole: 1 where any of the answers is right."
    return float(problem["answer"] in answers(response))


def right_and_long(problem: dict, response: str) -> float:
    "A reward that likes length: 1 for the right answer, and up to 1 for the length of the response."
    return right(problem, response) + len(response) / ROOM


def right_in_a_box(problem: dict, response: str) -> float:
    "A reward that looks for a form in which this model never writes."
    return float(response.endswith(f"\\boxed{{{problem['answer']}}}"))


class OtherWeights:
    "A sampler that draws from weights of its own, as an inference engine does."

    comparable = True

    def __init__(self, inner, policy):
        self.inner = inner
        self.policy = policy
        self.own = copy.deepcopy(policy)
        inner.model, inner.placement = self.own, Whole(self.own)
        self.refresh()

    def refresh(self):
        pass  # the fault: the new weights never arrive

    def __getattr__(self, name):
        return getattr(self.inner, name)


class RoundedWeights(OtherWeights):
    "A sampler whose weights are rounded to 5 bits, as a packed model's may be."

    @torch.no_grad()
    def refresh(self):
        for mine, theirs in zip(self.own.parameters(), self.policy.parameters()):
            step = theirs.abs().amax(-1, keepdim=True) / 15 if theirs.ndim > 1 else None  # (rows, 1)
            mine.copy_(theirs if step is None else (theirs / step).round() * step)


@dataclass
class Run:
    "What is different in a run."

    settings: dict = field(default_factory=dict)  # of TrainConfig
    reward: object = right
    sampler: type | None = None


failures = {
    "healthy": Run(),
    "entropy collapse": Run(dict(lr=2e-4, epochs=4)),
    "length bias": Run(reward=right_and_long),
    "reward hacking": Run(reward=right_anywhere),
    "all dead: all wrong": Run(reward=right_in_a_box),
    "all dead: too cold": Run(dict(temperature=0.3)),
    "mismatch: weights never arrive": Run(sampler=OtherWeights),
    "mismatch: rounded weights": Run(sampler=RoundedWeights),
}


def lesson(problem: dict, rng: random.Random) -> str:
    "A demonstration with wrong steps, now and then a check of the result, rarely a second answer."
    text = demonstration(problem, 0.25, rng)
    steps, result = text.split("#")
    while rng.random() < 0.3:
        steps += f";{result}+0={result}"
    while rng.random() < 0.15:
        result += f"#{max(0, int(result.split('#')[0]) + rng.choice([-2, -1, 1, 2]))}"
    return f"{steps}#{result}"


def starting_model(steps: int = size(200, 1), batch: int = size(48, 4)):
    "The tiny model after the short lesson."
    model, tokenizer = load("tiny", precision="float32", quiet=True)
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        problems = [sums.train[rng.randrange(len(sums.train))] for _ in range(batch)]
        texts = [p["prompt"] + lesson(p, rng) + tokenizer.eos_token for p in problems]
        rows = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        labels = rows.input_ids.masked_fill(rows.attention_mask == 0, -100)  # (b, T)
        for i, problem in enumerate(problems):
            labels[i, : len(tokenizer(problem["prompt"]).input_ids)] = -100
        loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokenizer


def measured(batch, metrics: dict, group_size: int) -> dict:
    "One step in numbers."
    texts, lengths = batch.rollout.texts, batch.rollout.lengths
    truth = torch.tensor([right(p, text) for p, text in zip(batch.problems, texts)])  # (B,)
    groups = [texts[i : i + group_size] for i in range(0, len(texts), group_size)]
    return metrics | dict(
        reward=float(batch.rewards.mean()),
        accuracy=float(truth.mean()),
        pass_at_8=float(truth.view(-1, group_size).amax(1).mean()),
        dead_groups=float(batch.dead.float().mean()),
        distinct=sum(len(set(group)) for group in groups) / len(groups),
        response_length=float(lengths.float().mean()),
        finished=float(batch.rollout.finished.float().mean()),
    )


def greedy_accuracy(sampler, n: int = size(100, 4)) -> float:
    "Share of held-out problems that the most likely response gets right."
    problems = sums.test[:n]
    texts = sampler.sample(problems, 1, 0, greedy=True).texts
    return sum(map(right, problems, texts)) / n


def make(name: str, seed: int, start, **changes) -> list[dict]:
    "Train one run; a row for each step."
    run = failures[name]
    model, tokenizer = start
    task = Task("chain_sum", sums.train, sums.test, run.reward, max_new_tokens=ROOM)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(output=folder + "/run", seed=seed, **SETTINGS | run.settings | changes)
        trainer = Trainer(config, model=copy.deepcopy(model), tokenizer=tokenizer, task=task)
        exact = copy.copy(trainer.sampler)  # of the policy itself
        if run.sampler:
            trainer.sampler = run.sampler(trainer.sampler, trainer.model)
        rows = []
        for step in range(1, config.steps + 1):
            batch = trainer.collect(step)
            row = measured(batch, trainer.update(batch, step), config.group_size)
            if step % 5 == 0 or step == 1:
                row["accuracy_greedy"] = greedy_accuracy(exact)
            rows.append(dict(run=name, seed=seed, step=step) | {c: row.get(c) for c in COLUMNS})
    return rows


def write(path: Path, rows: list[dict]) -> None:
    "All rows, in the order of `failures`."
    order = list(failures)
    rows = sorted(rows, key=lambda r: (order.index(r["run"]), int(r["seed"]), int(r["step"])))
    shown = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["run", "seed", "step", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(failures), choices=list(failures), help="these runs")
    parser.add_argument("--again", action="store_true", help="make runs anew that are in the file")
    parser.add_argument("--output", type=Path, default=output_path("failures"), help="CSV file")
    options = parser.parse_args()
    rows = read_table(options.output)
    start = None
    made = False
    for seed in range(options.seeds):
        for name in options.only:
            here = [r for r in rows if (r["run"], int(r["seed"])) == (name, seed)]
            if here and not options.again:
                continue
            start = start or starting_model()
            made = True
            rows = [r for r in rows if r not in here] + make(name, seed, start)
            write(options.output, rows)
            last = rows[-1]
            print(f"{name}, seed {seed}: reward {last['reward']:.2f}, accuracy {last['accuracy']:.2f}", flush=True)
    if made and options.output.resolve() == table_path("failures"):
        write_record("failures")


if __name__ == "__main__":
    main()
