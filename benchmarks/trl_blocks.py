"""What block actions add to a training step of TRL: `BlockGRPOTrainer` beside `GRPOTrainer`, tiny model, float32, one
CPU thread.

A step samples 64 responses of about 24 tokens (8 problems, groups of 8) every second time and takes one optimiser step
on all of them. In each round every case trains for a few steps from the same weights and the same seed, in turn. Times
are CPU seconds of the one thread, which other programs on the machine disturb less than a clock. `training` is a step
without its sampling; `ratio` is that of the medians over all rounds, `ratio_of_best` that of the quickest steps.
`hand_over_ms` is the part that is ours before the loss: the action space, the ratio, three metrics. The model has 0.86
million parameters, so this is the worst case; a large model's forward pass is longer, those milliseconds are not. The
last column is that part alone, for 8 responses of 4096 tokens.

    python benchmarks/trl_blocks.py        # two to three minutes; writes benchmarks/trl_blocks.csv
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from datasets import Dataset
from records import output_path, size, write_table
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from mpo_nb.models.tiny import char_tokenizer, tiny_model_path
from mpo_nb.tasks.task import load_task
from mpo_nb.trl import BlockGRPOConfig, BlockGRPOTrainer, TokenRows

CASES = {
    "TRL, token": {},
    "token": dict(action_space="token"),
    "window k=4": dict(action_space="window", k=4),
    "block k=4": dict(action_space="block", k=4),
    "sentence": dict(action_space="sentence"),
}
# steps of a run, and how many of them are not counted
STEPS = size(8, 4)
WARM = 2
LONG = size(4096, 64)  # tokens of the long responses


class Clock(TrainerCallback):
    "Seconds of each optimiser step, sampling apart."

    def __init__(self):
        self.steps = []

    def on_step_begin(self, *args, **_):
        self.start = time.process_time()

    def on_step_end(self, *args, **_):
        self.steps.append(time.process_time() - self.start)


def timed(trainer, name: str) -> list[float]:
    "The seconds that each call of a method takes from now on."
    method = getattr(trainer, name)
    seconds = []

    def wrapper(*args, **kwargs):
        start = time.process_time()
        try:
            return method(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - start)

    setattr(trainer, name, wrapper)
    return seconds


def measure(case: str, folder: str) -> tuple[list[float], list[float], list[float]]:
    """CPU seconds of each training step (forward, loss, backward), of each pair of steps with its sampling, and of our
    part."""
    plain = case == "TRL, token"
    task = load_task("chain_sum", n_train=200, n_test=8)

    def exact(completions, answer, **_):
        return [task.reward({"answer": a}, c) for a, c in zip(answer, completions)]

    config = (GRPOConfig if plain else BlockGRPOConfig)(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=size(64, 8),
        num_iterations=2,
        max_completion_length=size(48, 8),
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        **CASES[case],
    )
    clock = Clock()
    trainer = (GRPOTrainer if plain else BlockGRPOTrainer)(
        tiny_model_path(),
        exact,
        config,
        Dataset.from_list(task.train),
        processing_class=char_tokenizer(),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    loss = timed(trainer, "training_step")
    sampling = timed(trainer, "_prepare_inputs")
    ours = [] if plain else timed(trainer, "_hand_over")
    trainer.train()
    return (
        [a - b for a, b in zip(loss, sampling)][WARM:],
        [a + b for a, b in zip(clock.steps[WARM::2], clock.steps[WARM + 1 :: 2])],
        ours[WARM:],
    )


def long_responses(case: str, rounds: int = 9) -> float:
    "Milliseconds of our part for 8 responses of LONG tokens."
    if CASES[case].get("action_space", "token") == "token":
        return 0.0
    tokenizer = char_tokenizer()
    trainer = object.__new__(BlockGRPOTrainer)
    args = SimpleNamespace(future=0.2, reduce="mean", **CASES[case])
    trainer.__dict__.update(
        args=args,
        _rows=TokenRows(tokenizer),
        _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(reduce=lambda x, reduction: x),
    )
    ids = torch.randint(4, len(tokenizer), (8, LONG))
    logps = -torch.rand(8, LONG, requires_grad=True)
    old = -torch.rand(8, LONG)
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        trainer._hand_over(
            dict(completion_ids=ids, completion_mask=torch.ones_like(ids), old_per_token_logps=old), logps
        )
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds)


def table(found: dict[str, tuple[list[float], list[float], list[float]]]) -> list[dict]:
    "One row per case: seconds of a step, its ratios to TRL's, and milliseconds of our part."
    trl = found["TRL, token"]
    rows = []
    for case, (training, pairs, ours) in found.items():
        ratios = dict(
            ratio=statistics.median(training) / statistics.median(trl[0]),
            ratio_of_best=min(training) / min(trl[0]),
            ratio_with_sampling=statistics.median(pairs) / statistics.median(trl[1]),
        )
        rows.append(
            dict(
                case=case,
                training_seconds=f"{statistics.median(training):.4f}",
                **{name: f"{value:.3f}" for name, value in ratios.items()},
                hand_over_ms=f"{1000 * statistics.median(ours or [0.0]):.2f}",
                steps=len(training),
                hand_over_ms_8x4096=f"{long_responses(case):.1f}",
            )
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(7, 1))
    parser.add_argument("--output", type=Path, default=output_path("trl_blocks"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    found = {case: ([], [], []) for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        measure("sentence", folder)  # imports and caches
        for _ in range(options.rounds):
            for case in CASES:
                for kept, new in zip(found[case], measure(case, folder)):
                    kept += new
    rows = table(found)
    write_table("trl_blocks", options.output, rows)
    for row in rows:
        print(
            f"{row['case']:12} {row['ratio']} of TRL's step ({row['ratio_of_best']} of the quickest), ours"
            f" {row['hand_over_ms']} ms, {row['hand_over_ms_8x4096']} ms for long responses"
        )


if __name__ == "__main__":
    main()
