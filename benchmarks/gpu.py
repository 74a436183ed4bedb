"""The trainer on a CUDA GPU, beside TRL's GRPOTrainer on the same work: speed, peak memory against `plan_memory`, and
model FLOP utilisation.

It needs no network: the models have the shapes of Qwen2.5-0.5B and Qwen2.5-1.5B and random weights, the tokenizer is
made here, and a response's reward is drawn from its checksum. What such models say is noise, so this tells nothing
about learning, and everything about time and memory.

An iteration samples 128 responses (16 prompts of 128 tokens, groups of 8), scores them, computes the old
log-probabilities, and takes four optimiser steps: two passes in two minibatches of 64. Both sides have the same weights
in the same type (bfloat16, or float16 on cards without it; full training keeps float32 weights under autocast), the
same adapters (rank 16 on every linear layer but the head), the same rows in a forward pass, and no gradient
checkpointing. The rows are the most, up to 32, that the plan says fit; TRL begins with as many and halves them where
memory runs out, and its row says how many were left.

Two kinds of lengths:
- even: with random weights the end token is one in 151,936, so nearly every response is as long as it may be, 192
  tokens;
- tail: a bias on the end token's logit makes a response end after each token with a chance of about 1 in 64, and at 384
  tokens at the latest. A few responses are then several times as long as most. TRL carries every row to the end of the
  longest; here rows that have ended leave the batch.

Each side of each case runs in a process of its own, with one iteration to warm up (compiling included) and a few that
count; a case that fails says so in its row, and the others go on. Rows are written as they come. What the plan says
does not fit is skipped by name, and so is what time no longer allows.

Model FLOP utilisation is the work that the mathematics needs, divided by time and by the card's dense peak in the type
used. One pass over an iteration's responses reads each different prompt once, each response once, and puts the head on
response tokens only. With N the weights of the layers' products, L layers, h query heads of d numbers each, and a pair
for each token and each token that it attends to:

    forward     2 N per token  +  2 x hidden x vocabulary per response token  +  4 L h d per pair
    full step   three times that
    LoRA step   twice the first two terms, three times the third, and 6 x adapter weights per token

Recomputed activations, padding, prompts read once per response and the pass for the old log-probabilities are in the
time and not in the work, on both sides.

    python benchmarks/gpu.py            # or make gpu-check: under 8 minutes on an H100; writes benchmarks/gpu.csv
    python benchmarks/gpu.py --smoke    # the same code on tiny models, on the CPU if need be: about a minute
                                        # and no committed file
"""

import argparse
import csv
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch  # the rest is imported where a GPU, or --smoke, gives it something to do

MIB = 2**20
EPOCHS = 2
MINIBATCHES = 2
RANK = 16
FIELDS = (
    "device torch transformers trl model training precision lengths side status iterations seconds seconds_min"
    " seconds_max seconds_sampling seconds_rescoring seconds_training tokens_per_second_sampling"
    " tokens_per_second_training times_trl mean_length rows_at_once peak_mib planned_mib peak_over_plan mfu_sampling"
    " mfu_training peak_tflops product_tflops peak_source"
).split()

# The published shapes, which fix the number of parameters: 494 and 1544 million, the tied vocabulary matrix counted
# once.
SHAPES = {
    "0.5B": dict(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "1.5B": dict(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "tiny": dict(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
}

# Dense peak in TFLOP/s with 32-bit accumulation, from the makers' data sheets: bfloat16, and float16 for the cards
# without it (T4, V100).
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "GH200": 989,
    "A100": 312,
    "A30": 165,
    "A40": 150,
    "A10G": 70,
    "A10": 125,
    "A6000": 155,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "T4": 65,
    "V100": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


@dataclass(frozen=True)
class Case:
    "One model trained in one way."

    model: str = "0.5B"
    lora: int = RANK
    lengths: str = "even"  # or tail
    precision: str = ""  # "": what the device has matrix units for
    prompts: int = 16
    group: int = 8
    prompt: int = 128  # tokens
    new: int = 192  # most tokens of a response
    mean: int = 0  # mean length of the set-up `tail`, 0 for even
    rows: tuple = (32, 16, 8, 4, 2, 1)  # in one forward pass, the first that fits

    @property
    def name(self) -> str:
        return f"{self.model} {'LoRA' if self.lora else 'full'} {self.lengths}"


CASES = [Case(), Case(lora=0), Case("1.5B"), Case("1.5B", 0), Case(lengths="tail", new=384, mean=64)]
SMALL = dict(model="tiny", prompts=2, group=4, prompt=6, new=8, rows=(4, 2, 1))
SMOKE = [
    Case(**SMALL, precision="bfloat16"),
    Case(**SMALL | dict(lora=0, lengths="tail", new=24, mean=6, precision="float32")),
]


# What the work needs


def layer_weights(shape) -> int:
    "Numbers in the matrices of all layers."
    d = shape.hidden_size
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return shape.num_hidden_layers * (
        2 * d * head * (shape.num_attention_heads + shape.num_key_value_heads) + 3 * d * shape.intermediate_size
    )


def adapter_weights(shape, rank: int) -> int:
    "Numbers in LoRA adapters on every linear layer but the head."
    d = shape.hidden_size
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    q = shape.num_attention_heads * head
    kv = shape.num_key_value_heads * head
    ff = shape.intermediate_size
    return shape.num_hidden_layers * rank * ((d + q) + 2 * (d + kv) + (q + d) + 3 * (d + ff))


def flops(shape, tokens: float, predicted: float, pairs: float, rank: int = 0, training: bool = False) -> float:
    """Of a forward pass, or of a forward and backward pass: `tokens` read, `predicted` put through the head, `pairs`
    attended to."""
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    dense = 2 * layer_weights(shape) * tokens + 2 * shape.hidden_size * shape.vocab_size * predicted
    attention = 4 * shape.num_hidden_layers * shape.num_attention_heads * head * pairs
    adapters = 2 * adapter_weights(shape, rank) * tokens if rank else 0
    return dense * (1 if not training else 2 if rank else 3) + (3 if training else 1) * (attention + adapters)


def pass_counts(prompts: int, prompt: int, lengths: list[int]) -> tuple[int, int, int]:
    """Tokens read, tokens predicted and pairs of one pass over responses: prompts once, and no response's last token,
    which predicts nothing."""
    pairs = prompts * prompt * (prompt + 1) // 2 + sum((n - 1) * prompt + n * (n - 1) // 2 for n in lengths)
    return prompts * prompt + sum(n - 1 for n in lengths), sum(lengths), pairs


def known_peak(device: str) -> float | None:
    "The card's peak in TFLOP/s; None for one that is not in the table."
    return next((peak for name, peak in PEAKS.items() if re.search(rf"(?<![A-Z0-9]){name}(?![A-Z0-9])", device)), None)


def first_fit(sizes, peak, capacity: float) -> tuple[int | None, float]:
    """The first size whose `peak(size)` is at most the capacity, and that peak; None, and the last size's peak, where
    none fits."""
    for size in sizes:
        found = peak(size)
        if found <= capacity:
            return size, found
    return None, found


# What both sides are given


def sync():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock() -> float:
    sync()
    return time.perf_counter()


def timed(owner, name: str, seconds: dict[str, float], key: str, only=lambda: True):
    "Let a method add its seconds to `seconds[key]`."
    method = getattr(owner, name)

    def wrapper(*args, **kwargs):
        start = clock()
        try:
            return method(*args, **kwargs)
        finally:
            if only():
                seconds[key] = seconds.get(key, 0.0) + clock() - start

    setattr(owner, name, wrapper)


def product_tflops(device: str, dtype, size: int) -> float:
    "The best of ten products of square matrices, in TFLOP/s: what this card reaches today."
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(11):
        start = clock()
        a @ b
        best = min(best, clock() - start)
    return 2 * size**3 / best / 1e12


def make_shape(case: Case):
    from transformers import Qwen2Config

    shape = SHAPES[case.model]
    return Qwen2Config(
        **shape,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        eos_token_id=shape["vocab_size"] - 1,
        pad_token_id=shape["vocab_size"] - 2,
        bos_token_id=None,
    )


def make_tokenizer(shape):
    "One word per id, so that every id has a text and every text its ids."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(shape.vocab_size - 2)} | {
        "<pad>": shape.vocab_size - 2,
        "<end>": shape.vocab_size - 1,
    }
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def make_model(case: Case, shape, device: str, precision: str):
    "Random weights; in the set-up `tail` the end token's logit has a bias."
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = getattr(torch, precision) if case.lora else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape, dtype=dtype)
    if case.mean:
        plain = model.get_output_embeddings()
        head = torch.nn.Linear(shape.hidden_size, shape.vocab_size, device=device, dtype=dtype)
        head.weight, head.bias = plain.weight, torch.nn.Parameter(torch.zeros_like(head.bias), requires_grad=False)
        head.bias[shape.eos_token_id] = float(torch.tensor(shape.vocab_size / (case.mean - 1)).log())
        model.set_output_embeddings(head)
    return model.eval()


def make_problems(case: Case, shape) -> list[dict]:
    "Prompts of random words, no two alike."
    words = torch.randint(
        shape.vocab_size - 2, (case.prompts, case.prompt), generator=torch.Generator().manual_seed(0)
    ).tolist()
    return [dict(prompt=" ".join(f"t{w}" for w in row), answer="") for row in words]


def checksum_reward(problem, response: str) -> float:
    "A number in [0, 1) that depends on every character."
    return zlib.crc32(response.encode()) / 2**32


# The two sides: seconds of each part of each iteration, lengths of its responses, and the rows that went through the
# model at once


def our_config(case: Case, precision: str, device: str, rows: int, folder: str = "unused"):
    from mpo_nb.config import TrainConfig

    return TrainConfig(
        recipe="grpo",
        output=folder,
        steps=10**6,
        prompts_per_step=case.prompts,
        group_size=case.group,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        micro_batch_tokens=rows * (case.prompt + case.new),
        max_new_tokens=case.new,
        lr=1e-6,
        precision=precision,
        lora_rank=case.lora,
        eval_every=0,
        checkpoint_every=10**6,
        trace_every=0,
        device=device,
        progress=False,
    )


def run_ours(case: Case, shape, precision: str, device: str, rows: int, iterations: int, say) -> tuple[list[dict], int]:
    from mpo_nb.tasks.task import Task
    from mpo_nb.training.trainer import Trainer

    tokenizer = make_tokenizer(shape)
    problems = make_problems(case, shape)
    seconds = {}
    lengths = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            our_config(case, precision, device, rows, folder),
            model=make_model(case, shape, device, precision),
            tokenizer=tokenizer,
            task=Task("synthetic", problems, problems, checksum_reward),
        )
        sample = trainer.sampler.sample

        def sampled(*args, **kwargs):
            found = sample(*args, **kwargs)
            lengths[:] = found.lengths.tolist()
            return found

        trainer.sampler.sample = sampled
        timed(trainer.sampler, "sample", seconds, "sampling")
        timed(trainer.policy, "frozen", seconds, "rescoring")
        found = []
        for i in range(iterations + 1):
            seconds.clear()
            start = clock()
            trainer.step(i + 1)
            total = clock() - start
            found.append(parts(total, seconds, lengths))
            say(i, total)
        return found[1:], trainer.policy.memory.tokens // (case.prompt + case.new)


def run_trl(case: Case, shape, precision: str, device: str, rows: int, iterations: int, say) -> tuple[list[dict], int]:
    "Halves the rows of a forward pass where memory runs out."
    from mpo_nb.runtime.budgets import out_of_memory

    while True:
        try:
            return trl_iterations(case, shape, precision, device, rows, iterations, say), rows
        except (RuntimeError, MemoryError) as error:
            if rows == 1 or not out_of_memory(error):
                raise
        rows //= 2
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        say(-1, rows)


def trl_iterations(case: Case, shape, precision: str, device: str, rows: int, iterations: int, say) -> list[dict]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    updates = EPOCHS * MINIBATCHES
    seconds = {}
    lengths = []
    found = []
    micro = case.prompts * case.group // MINIBATCHES // rows

    class Turns(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % updates == 0:
                seconds.clear()
                self.start = clock()

        def on_step_end(self, args, state, control, **_):
            if state.global_step % updates:
                return
            total = clock() - self.start
            whole = seconds.pop("generating and scoring")
            seconds["sampling"] = whole - seconds.get("rescoring", 0.0)
            found.append(parts(total, seconds, lengths))
            say(len(found) - 1, total)

    def reward(completions, completion_ids, **_):
        lengths[:] = list(map(len, completion_ids))
        return [checksum_reward(None, c) for c in completions]

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        config = GRPOConfig(
            folder,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=micro,
            steps_per_generation=MINIBATCHES * micro,
            num_iterations=EPOCHS,
            num_generations=case.group,
            max_completion_length=case.new,
            max_steps=updates * (iterations + 1),
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            bf16=precision == "bfloat16",
            fp16=precision == "float16",
            use_cpu=device == "cpu",
            gradient_checkpointing=False,
            shuffle_dataset=False,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            use_vllm=False,
        )
        adapters = (
            LoraConfig(
                r=case.lora,
                lora_alpha=2 * case.lora,
                target_modules="all-linear",
                lora_dropout=0.0,
                task_type="CAUSAL_LM",
            )
            if case.lora
            else None
        )
        trainer = GRPOTrainer(
            make_model(case, shape, device, precision),
            reward,
            config,
            Dataset.from_list(make_problems(case, shape)),
            processing_class=make_tokenizer(shape),
            peft_config=adapters,
        )
        timed(trainer, "_generate_and_score_completions", seconds, "generating and scoring")
        timed(
            trainer,
            "_get_per_token_logps_and_entropies",
            seconds,
            "rescoring",
            only=lambda: not torch.is_grad_enabled(),
        )
        trainer.add_callback(Turns())
        trainer.train()
    return found[1:]


def parts(total: float, seconds: dict, lengths: list[int]) -> dict:
    "One iteration; what is neither sampling nor rescoring is training, a step's bookkeeping included."
    sampling = seconds["sampling"]
    rescoring = seconds.get("rescoring", 0.0)
    return dict(
        seconds=total,
        seconds_sampling=sampling,
        seconds_rescoring=rescoring,
        seconds_training=total - sampling - rescoring,
        lengths=list(lengths),
    )


# One side of one case, in a process of its own


def planned(case: Case, shape, precision: str, device: str) -> tuple[int | None, float, float]:
    "Rows in a forward pass, the peak that is planned with them, and the bytes there are."
    from mpo_nb.planning.phases import step_phases
    from mpo_nb.planning.plan import present_device

    _, capacity = present_device(torch.device(device))

    def peak(rows):
        return max(
            found.total()
            for found in step_phases(
                our_config(case, precision, device, rows), shape, case.prompt, device == "cuda"
            ).values()
        )

    return *first_fit(case.rows, peak, capacity), capacity


def summary(case: Case, shape, found: list[dict], peak: float) -> dict:
    "Medians over iterations, and the utilisation that follows."

    def middle(key):
        return statistics.median(f[key] for f in found)

    def per_second(work, key):
        return statistics.median(work(f["lengths"]) / f[key] for f in found)

    def count(lengths):
        return pass_counts(case.prompts, case.prompt, lengths)

    def used(key, times, training):
        return per_second(lambda lengths: times * flops(shape, *count(lengths), case.lora, training), key) / peak / 1e12

    return dict(
        iterations=len(found),
        seconds_min=min(f["seconds"] for f in found),
        seconds_max=max(f["seconds"] for f in found),
        mean_length=statistics.mean(n for f in found for n in f["lengths"]),
        tokens_per_second_sampling=per_second(sum, "seconds_sampling"),
        tokens_per_second_training=per_second(lambda lengths: EPOCHS * sum(lengths), "seconds_training"),
        mfu_sampling=used("seconds_sampling", 1, False),
        mfu_training=used("seconds_training", EPOCHS, True),
        **{key: middle(key) for key in ("seconds", "seconds_sampling", "seconds_rescoring", "seconds_training")},
    )


def work(case: Case, side: str, iterations: int, rows: int | None, row: dict):
    "Measure, and fill in the row."
    import transformers

    from mpo_nb.config import choose_precision
    from mpo_nb.training.metrics import peak_memory_mb

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = make_shape(case)
    precision = case.precision or choose_precision(torch.device(device), shape.hidden_size)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    row |= dict(device=name, precision=precision, torch=torch.__version__, transformers=transformers.__version__)
    if side == "trl":
        import trl

        row["trl"] = trl.__version__
    else:
        try:
            rows, plan, capacity = planned(case, shape, precision, device)
        except Exception as error:  # the measurement is worth having without a plan
            rows = case.rows[-4:][0]
            plan = float("nan")
            capacity = float("nan")
            row["status"] = f"no plan ({type(error).__name__}: {error})"
        row["planned_mib"] = plan / MIB
        if rows is None:
            row["status"] = (
                f"skipped: plan_memory says {plan / 2**30:.1f} GiB with one response at a time, and"
                f" {capacity / 2**30:.1f} GiB are free"
            )
            return
    reached = product_tflops(device, getattr(torch, precision), 8192 if device == "cuda" else 256)
    known = known_peak(name)
    peak, source = (known, "data sheet") if known else (reached, "measured: the product of two matrices")

    def say(i, value):
        print(
            f"  {side}: "
            + (
                f"out of memory, going on with {value} rows at once"
                if i < 0
                else f"{'warm-up' if i == 0 else f'iteration {i}'} {value:.1f} s"
            ),
            file=sys.__stdout__,
            flush=True,
        )

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found, rows = (run_trl if side == "trl" else run_ours)(case, shape, precision, device, rows, iterations, say)
    row |= dict(
        peak_mib=peak_memory_mb(torch.device(device)),
        rows_at_once=rows,
        peak_tflops=peak,
        product_tflops=reached,
        peak_source=source,
        **summary(case, shape, found, peak),
    )
    if side != "trl":
        row["peak_over_plan"] = row["peak_mib"] / row["planned_mib"]
    row.setdefault("status", "measured")


def worker(asked: dict, answer: Path):
    "Write a row, whatever happens."
    case = Case(**asked["case"])
    row = {}
    try:
        work(case, asked["side"], asked["iterations"], asked["rows"], row)
    except BaseException as error:
        row["status"] = f"failed: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
        raise
    finally:
        answer.write_text(json.dumps(row))


# All cases


def measure(case: Case, side: str, iterations: int, rows: int | None, limit: float) -> dict:
    "A row from a process of its own."
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        asked = dict(case=asdict(case), side=side, iterations=iterations, rows=rows)
        with (Path(folder) / "errors").open("w+") as errors:
            try:
                code = subprocess.run(
                    [sys.executable, __file__, "--worker", json.dumps(asked), str(answer)], stderr=errors, timeout=limit
                ).returncode
            except subprocess.TimeoutExpired:
                return dict(status=f"stopped: it ran past {limit:.0f} s")
            errors.seek(0)
            said = errors.read()
        if code:
            print("".join(f"  | {line}\n" for line in said.splitlines()[-12:]), end="", flush=True)
        return (
            json.loads(answer.read_text())
            if answer.exists()
            else dict(status=f"failed: the process ended with code {code}")
        )


def write(path: Path, rows: list[dict]):
    def shown(x):
        return ("" if x != x else f"{x:.4g}" if abs(x) < 1000 else f"{x:.0f}") if isinstance(x, float) else x

    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: shown(v) for k, v in row.items()} for row in rows)


def line(row: dict) -> str:
    "A row for the reader."
    if "seconds" not in row:
        return f"{row['model']} {row['training']} {row['lengths']}, {row['side']}: {row['status']}"
    plan = f" ({row['peak_over_plan']:.2f} of the plan)" if "peak_over_plan" in row else ""
    faster = f", {row['times_trl']:.2f} times as fast as TRL" if "times_trl" in row else ""
    return (
        f"{row['model']} {row['training']} {row['lengths']}, {row['side']}: {row['seconds']:.1f} s an iteration"
        f" ({row['seconds_min']:.1f} to {row['seconds_max']:.1f}){faster}; sampling"
        f" {row['tokens_per_second_sampling']:,.0f} and training {row['tokens_per_second_training']:,.0f} tokens/s;"
        f" peak {row['peak_mib'] / 1024:.1f} GiB{plan}; {row['mfu_training']:.0%} of the peak in training,"
        f" {row['mfu_sampling']:.1%} in sampling"
    )


def run(cases: list[Case], iterations: int, output: Path, limit: float) -> list[dict]:
    "Every case, ours and then TRL's; the file is written anew after each row."
    rows = []
    start = time.monotonic()

    def add(case, side, found):
        rows.append(
            dict(
                model=case.model,
                training=f"LoRA rank {case.lora}" if case.lora else "full",
                lengths=case.lengths,
                side=side,
            )
            | found
        )
        return rows[-1]

    for case in cases:
        ours = {}
        for side in ("mpo_nb", "trl"):
            left = limit - (time.monotonic() - start)
            print(f"{case.name}, {side}:", flush=True)
            if left < 0.1 * limit:
                row = add(
                    case,
                    side,
                    dict(
                        status=(
                            f"not begun: {limit:.0f} s were given, and {max(0, left):.0f} are left; --only"
                            f" {case.name.replace(' ', '-')} measures it"
                        )
                    ),
                )
            elif side == "trl" and "skipped" in ours.get("status", ""):
                row = add(case, side, dict(status="skipped with ours"))
            else:
                row = add(case, side, measure(case, side, iterations, ours.get("rows_at_once") or case.rows[0], left))
            if side == "mpo_nb":
                ours = row
            elif "seconds" in row and "seconds" in ours:
                ours["times_trl"] = row["seconds"] / ours["seconds"]
            print(f"  {row['status']}", flush=True)
            write(output, rows)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2, help="iterations that count")
    parser.add_argument("--only", nargs="+", default=[], help="names of cases, such as 1.5B-full-even")
    parser.add_argument(
        "--limit", type=float, default=450, help="seconds for everything; what is under way then is stopped"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny models, to try the script itself")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(json.loads(args.worker[0]), Path(args.worker[1]))
    cases = [c for c in (SMOKE if args.smoke else CASES) if not args.only or c.name.replace(" ", "-") in args.only]
    if not cases:
        parser.error(
            f"--only {' '.join(args.only)}: there are"
            f" {', '.join(c.name.replace(' ', '-') for c in (SMOKE if args.smoke else CASES))}"
        )
    if not (args.smoke or torch.cuda.is_available()):
        blind = "" if torch.version.cuda else f" that this torch ({torch.__version__}, built without CUDA) could see"
        print(f"No CUDA GPU here{blind}: nothing was measured, and benchmarks/gpu.csv stays as it is.")
        return
    output = args.output or (Path(tempfile.mkdtemp()) / "gpu.csv" if args.smoke else Path(__file__).with_suffix(".csv"))
    rows = run(cases, args.iterations, output, args.limit)
    print("", *map(line, rows), f"Written to {output}", sep="\n")


if __name__ == "__main__":
    main()
