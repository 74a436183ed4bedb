"""One training iteration beside TRL's GRPOTrainer: the same tiny model and problems, float32, one or two CPU threads.

An iteration samples 256 responses (32 problems, groups of 8), scores them, and takes four optimiser steps: two passes
in two minibatches of 128. TRL: `per_device_train_batch_size=128, steps_per_generation=2, num_iterations=2, beta=0`,
everything else as it comes; with these options it runs one further forward pass for the old log-probabilities, where
mpo_nb keeps those of the sampler. The two take turns in one process, an iteration each. TRL's clock stops before its
logging and data loading; ours includes the lines and traces that a run writes.

Two set-ups:
- even: the responses that the model gives to chains of four digits, about 24 tokens each;
- tail: most responses have 16 tokens and one in sixteen has 128. The lengths are forced on both sides by one hook on
  the model, which lets the end token be drawn at the given place and nowhere else; which rows are long is told by their
  prompts, two of the 32, which are longer.

Where the time goes. Both sample and train through the same transformers model, so matrix products bound both. mpo_nb
makes fewer of them: it has no pass for old log-probabilities; on the CPU its training pass reads what several texts
begin with once, prompts among it, and no padding; rows that have said the same so far are computed once while sampling,
and rows that have ended leave. nbs/learn/training_profile.ipynb takes an iteration apart.
TRL pads all 256 rows to the longest of them in every pass, so the tail costs it most, and smaller micro-batches
(`--trl-micro-batch 32`) do not help it.

    python benchmarks/trainer.py        # two to five minutes; writes benchmarks/trainer.csv
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from datasets import Dataset
from records import output_path, size, write_table
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from mpo_nb.config import TrainConfig
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.tasks.sums import chain_problems, chain_reward
from mpo_nb.tasks.task import Task
from mpo_nb.training.trainer import Trainer

PROMPTS = size(32, 4)
GROUP = size(8, 4)
MINIBATCHES = 2
EPOCHS = 2
# as many as there are cores that this process may use, two at most
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(2, CORES)
RESPONSES = PROMPTS * GROUP
UPDATES = MINIBATCHES * EPOCHS
# tokens of a response in the set-up "tail", end token included
SHORT = size(16, 4)
LONG = size(128, 8)


def problems(setup: str) -> list[dict]:
    "32 chains of four digits; in the set-up `tail` two of them have five."
    if setup == "even":
        return chain_problems(PROMPTS, 4)
    return chain_problems(PROMPTS - 2, 4) + chain_problems(2, 5)


def force_lengths(model, end: int):
    """While sampling, a response ends after LONG tokens where the prompt has no padding, and after SHORT tokens
    elsewhere."""
    width = {}  # of the prompts of the batch that is being sampled

    def reading(_, args, kwargs):
        # The layers read whole prompts on both sides; the head over them is TRL's alone.
        mask = kwargs.get("attention_mask")
        if kwargs.get("input_ids") is not None and mask is not None and kwargs["input_ids"].shape == mask.shape:
            width["prompt"] = mask.shape[1]

    def hook(_, args, kwargs, output):
        mask = kwargs.get("attention_mask")
        if kwargs.get("past_key_values") is None or mask is None:
            return output
        length = torch.where(mask[:, 0] == 1, LONG, SHORT)
        ends = mask.shape[1] - width["prompt"] + 1 >= length
        logits = output.logits[:, -1]
        logits[:, end] = torch.where(ends, logits[:, end] + 1e4, -1e4)
        return output

    model.get_decoder().register_forward_pre_hook(reading, with_kwargs=True)
    model.register_forward_hook(hook, with_kwargs=True)


def make_model(setup: str, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path(), dtype=torch.float32)
    if setup == "tail":
        force_lengths(model, tokenizer.eos_token_id)
    return model


def our_trainer(setup: str, folder: str, limit: int) -> Trainer:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    chains = problems(setup)
    config = TrainConfig(
        recipe="grpo",
        output=f"{folder}/ours-{setup}",
        steps=10**6,
        prompts_per_step=PROMPTS,
        group_size=GROUP,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        max_new_tokens=limit,
        lr=1e-6,
        precision="float32",
        eval_every=0,
        checkpoint_every=10**6,
        device="cpu",
        progress=False,
    )
    return Trainer(
        config,
        model=make_model(setup, tokenizer),
        tokenizer=tokenizer,
        task=Task("chains", chains, chains, chain_reward),
    )


def trl_trainer(setup: str, folder: str, limit: int, iterations: int, micro: int, lengths: list[float]) -> GRPOTrainer:
    """`micro` responses in one forward pass, accumulated to minibatches of 128; the mean length of each iteration's
    responses is added to `lengths`."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    parts = RESPONSES // MINIBATCHES // micro
    config = GRPOConfig(
        f"{folder}/trl-{setup}",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=parts,
        steps_per_generation=MINIBATCHES * parts,
        num_iterations=EPOCHS,
        num_generations=GROUP,
        max_completion_length=limit,
        max_steps=UPDATES * iterations,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        beta=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )

    def reward(completions, completion_ids, answer, **_):
        lengths.append(statistics.mean(map(len, completion_ids)))
        return [chain_reward({"answer": a}, c) for a, c in zip(answer, completions)]

    return GRPOTrainer(
        make_model(setup, tokenizer), reward, config, Dataset.from_list(problems(setup)), processing_class=tokenizer
    )


def timed(owner, name: str, clock: dict[str, float]):
    "Let a method add its seconds to `clock[name]`."
    method = getattr(owner, name)

    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            clock[name] = clock.get(name, 0.0) + time.perf_counter() - start

    setattr(owner, name, wrapper)


class Turns(TrainerCallback):
    "After each of TRL's iterations, one of ours; both are timed."

    def __init__(self, ours: Trainer, clock: dict[str, float], lengths: list[float]):
        self.ours = ours
        self.clock = clock
        self.lengths = lengths
        self.rows = []

    def on_step_begin(self, args, state, control, **_):
        if state.global_step % UPDATES == 0:
            self.clock.clear()
            self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % UPDATES:
            return
        total = time.perf_counter() - self.start
        sampling = self.clock["_generate_and_score_completions"]
        rescoring = self.clock["old_logps"]
        theirs = {
            "sampling": sampling - rescoring,
            "old log-probabilities": rescoring,
            "training": total - sampling,
            "total": total,
        }
        start = time.perf_counter()
        row = self.ours.step(len(self.rows) + 1)
        total = time.perf_counter() - start
        mine = {
            "sampling": row["seconds_sampling"],
            "old log-probabilities": 0.0,
            "training": total - row["seconds_sampling"],
            "total": total,
        }
        self.rows.append((mine, theirs, row["response_length"], self.lengths[-1]))


def measure(
    setup: str, iterations: int, micro: int = RESPONSES // MINIBATCHES
) -> list[tuple[dict, dict, float, float]]:
    "Seconds of each part of each iteration and mean response lengths, ours and TRL's, the first (a warm-up) left out."
    limit = LONG if setup == "tail" else 48
    clock = {}
    lengths = []
    with tempfile.TemporaryDirectory() as folder:
        ours = our_trainer(setup, folder, limit)
        trl = trl_trainer(setup, folder, limit, iterations + 1, micro, lengths)
        timed(trl, "_generate_and_score_completions", clock)
        compute = trl._get_per_token_logps_and_entropies

        def rescoring(*args, **kwargs):
            start = time.perf_counter()
            found = compute(*args, **kwargs)
            if not torch.is_grad_enabled():
                clock["old_logps"] = clock.get("old_logps", 0.0) + time.perf_counter() - start
            return found

        trl._get_per_token_logps_and_entropies = rescoring
        turns = Turns(ours, clock, lengths)
        trl.add_callback(turns)
        trl.train()
    return turns.rows[1:]


def table(setup: str, rows: list) -> list[dict]:
    """One row per part: median seconds on both sides, and the ratio of TRL's to ours, iteration by iteration, with
    quartiles."""
    found = []
    for part in ("sampling", "old log-probabilities", "training", "total"):
        ours = [r[0][part] for r in rows]
        trl = [r[1][part] for r in rows]
        ratios = [b / a for a, b in zip(ours, trl)] if min(ours) > 0 else []
        low, mid, high = statistics.quantiles(ratios, n=4) if ratios else (None,) * 3

        def shown(x, digits=3):
            return "" if x is None else f"{x:.{digits}f}"

        seconds = [statistics.median(x) for x in (ours, trl)]
        found.append(
            {
                "setup": setup,
                "part": part,
                "seconds_ours": shown(seconds[0]),
                "seconds_trl": shown(seconds[1]),
                "ratio": shown(mid),
                "ratio_q25": shown(low),
                "ratio_q75": shown(high),
                "responses_per_second_ours": shown(RESPONSES / seconds[0] if ratios else None, 1),
                "responses_per_second_trl": shown(RESPONSES / seconds[1], 1),
                "iterations": len(rows),
                "mean_length_ours": shown(statistics.mean(r[2] for r in rows), 1),
                "mean_length_trl": shown(statistics.mean(r[3] for r in rows), 1),
            }
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=size(10, 2))
    parser.add_argument("--setups", nargs="+", default=["even", "tail"])
    parser.add_argument(
        "--trl-micro-batch", type=int, default=RESPONSES // MINIBATCHES, help="TRL's responses in one forward pass"
    )
    parser.add_argument("--output", type=Path, default=output_path("trainer"))
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    rows = []
    for setup in args.setups:
        with redirect_stdout(StringIO()):
            measured = measure(setup, args.iterations, args.trl_micro_batch)
        rows += table(setup, measured)
    write_table("trainer", args.output, rows)
    for row in rows:
        print(
            f"{row['setup']:5} {row['part']:22} ours {row['seconds_ours']:>6} s, TRL {row['seconds_trl']:>6} s"
            + (f", {row['ratio']} times as fast ({row['ratio_q25']} to {row['ratio_q75']})" if row["ratio"] else "")
        )


if __name__ == "__main__":
    main()
