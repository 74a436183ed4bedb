"""Peak memory of real training steps beside what `plan_memory` says before anything is loaded.

Each case is a model of random weights, a task with synthetic rewards, and two whole steps of `Trainer` (sampling,
scoring, two epochs of updates), alone in a process of its own. Responses never end early: the end token's logit is
pushed down while sampling, so the longest response is the one that was planned for; every second prompt is a token
shorter than the longest, so that there is padding, as there is in real runs. Evaluation is off, as is whatever else a
step can do without.

What is measured:
- On a GPU, `torch.cuda.max_memory_allocated`: every byte that torch handed out, counted by its allocator; `second` is
  what the allocator had reserved from the driver.
- On a CPU, the same quantity: torch's profiler notes every allocation and release of the CPU allocator from before the
  model is made, and the largest running total is the peak. `second` is a check by quite other means, in a process of
  its own: the kernel's high-water mark of resident memory, reset once everything is imported and a small matrix product
  has been taken, less what was resident then. glibc is told to give every block of 64 KiB back at once. It counts what
  torch's allocator does not (workspaces of the matrix library, Python objects), and leaves out pages that nobody wrote
  to.

    python benchmarks/memory.py        # a minute or two; writes benchmarks/memory.csv
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from records import output_path, read_table, size, small, write_table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config
from transformers.utils import logging

from mpo_nb.config import TrainConfig
from mpo_nb.models.loading import dtypes
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.planning.plan import plan_memory
from mpo_nb.tasks.task import Task
from mpo_nb.training.trainer import Trainer

MIB = 2**20
LLAMA = LlamaConfig(
    vocab_size=8192,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
QWEN = Qwen2Config(
    vocab_size=32768,
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
BROAD = LlamaConfig(
    vocab_size=16384,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=10,
    num_attention_heads=12,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)
STEP = dict(
    prompts_per_step=4,
    group_size=4,
    epochs=1,
    minibatches=2,
    micro_batch_tokens=256,
    max_new_tokens=32,
    precision="float32",
    recipe="grpo",
)

# shape, longest prompt in tokens, what differs from STEP
CASES = {
    "tiny, the tour": (
        "tiny",
        12,
        dict(prompts_per_step=size(32, 2), group_size=size(8, 4), micro_batch_tokens=16384, max_new_tokens=size(48, 8)),
    ),
    "Llama 36M, full": (LLAMA, 32, {}),
    "Llama 36M, one micro-batch": (LLAMA, 64, dict(max_new_tokens=64, micro_batch_tokens=16384)),
    "Llama 36M, checkpointing": (
        LLAMA,
        64,
        dict(max_new_tokens=64, micro_batch_tokens=1024, gradient_checkpointing=True),
    ),
    "Llama 36M, bfloat16": (LLAMA, 64, dict(max_new_tokens=64, micro_batch_tokens=512, precision="bfloat16")),
    "Llama 36M, bfloat16, checkpointing": (
        LLAMA,
        64,
        dict(max_new_tokens=64, micro_batch_tokens=512, precision="bfloat16", gradient_checkpointing=True),
    ),
    "Llama 36M, eager attention": (LLAMA, 96, dict(max_new_tokens=96, micro_batch_tokens=768, attention="eager")),
    "Llama 36M, KL reference": (LLAMA, 32, dict(recipe_options={"kl": 0.04})),
    "Qwen2 63M, full": (QWEN, 32, {}),
    "Qwen2 63M, long prompts": (QWEN, 192, dict(micro_batch_tokens=1600, max_new_tokens=32)),
    "Qwen2 63M, LoRA": (QWEN, 64, dict(max_new_tokens=64, micro_batch_tokens=1024, lora_rank=16)),
    "Qwen2 63M, LoRA, bfloat16": (
        QWEN,
        64,
        dict(max_new_tokens=64, micro_batch_tokens=1024, lora_rank=16, precision="bfloat16"),
    ),
    "Qwen2 63M, LoRA, bfloat16, checkpointing": (
        QWEN,
        64,
        dict(
            max_new_tokens=64, micro_batch_tokens=1024, lora_rank=16, precision="bfloat16", gradient_checkpointing=True
        ),
    ),
    "Qwen2 63M, LoRA, sampling": (
        QWEN,
        96,
        dict(
            prompts_per_step=2,
            group_size=64,
            micro_batch_tokens=112,
            lora_rank=8,
            max_new_tokens=16,
            chunk_elements=2**20,
        ),
    ),
    "Llama 85M, full": (BROAD, 16, dict(prompts_per_step=2, micro_batch_tokens=64, max_new_tokens=16)),
}
CHECKED = (
    "tiny, the tour",
    "Llama 36M, full",
    "Llama 36M, one micro-batch",
    "Qwen2 63M, LoRA, bfloat16",
    "Llama 85M, full",
)  # measured the second way too


def resolved(name: str):
    "The shape, the longest prompt and the configuration of a case."
    shape, prompt, options = CASES[name]
    shape = AutoConfig.from_pretrained(tiny_model_path()) if shape == "tiny" else shape
    return (
        shape,
        prompt,
        TrainConfig(**STEP | options | dict(eval_every=0, checkpoint_every=10**6, steps=10**6, progress=False)),
    )


def problems(config: TrainConfig, longest: int) -> list[dict]:
    "Prompts of `longest` tokens, digits after the tokenizer's first one; every second one is a token short."
    return [{"prompt": f"{i:03}" + "7" * (longest - 4 - i % 2), "answer": "0"} for i in range(config.prompts_per_step)]


def make_trainer(name: str, folder: str) -> Trainer:
    shape, longest, config = resolved(name)
    config.output = folder
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    chains = problems(config, longest)
    attention = "sdpa" if config.attention == "auto" else config.attention
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        shape, dtype=dtypes[config.precision] if config.lora_rank else torch.float32, attn_implementation=attention
    )

    def never_ends(_, args, kwargs, output):
        output.logits[..., tokenizer.eos_token_id] = -1e4

    model.register_forward_hook(never_ends, with_kwargs=True)
    return Trainer(
        config,
        model=model,
        tokenizer=tokenizer,
        task=Task("synthetic", chains, chains, lambda problem, response: float(len(set(response)) % 3)),
    )


def steps(name: str) -> None:
    "Two whole steps, evaluation and checkpoints left out."
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        trainer = make_trainer(name, folder)
        for step in (1, 2):
            trainer.step(step)


def allocator_peak(name: str) -> int:
    "Largest running total of torch's CPU allocator, in bytes."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        steps(name)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")


def status(field: str) -> int:
    "A number of bytes from /proc/self/status."
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def resident_peak(name: str) -> int:
    "Resident memory at its highest, in bytes, less what was resident before the model was made."
    torch.nn.functional.scaled_dot_product_attention(
        *[torch.randn(1, 2, 64, 64, requires_grad=True)] * 3
    ).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    steps(name)
    return status("VmHWM") - before


def cuda_peak(name: str) -> tuple[int, int]:
    "What torch's allocator handed out and what it had reserved, at their highest, in bytes."
    torch.cuda.reset_peak_memory_stats()
    steps(name)
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def measured(name: str, how: str) -> list[int]:
    "The peak of a case, measured in a process of its own; at small size here, where everything is imported already."
    if small():
        return [dict(allocator=allocator_peak, resident=resident_peak)[how](name)]
    settings = (
        dict(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")
        if how == "resident"
        else {}
    )
    found = subprocess.run(
        [sys.executable, __file__, "--case", name, "--how", how],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise RuntimeError(f"case {name!r} failed:\n{found.stderr[-3000:]}")
    return json.loads(found.stdout.splitlines()[-1])


def measure(name: str) -> dict:
    "Measured MiB of one case."
    if torch.cuda.is_available():
        peak, second = measured(name, "cuda")
    else:
        peak, second = *measured(name, "allocator"), *(measured(name, "resident") if name in CHECKED else [None])
    return {
        "case": name,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "measured_mib": round(peak / MIB, 1),
        "second_mib": second and round(second / MIB, 1),
    }


def planned(found: dict) -> dict:
    "The plan for a case beside what was measured."
    shape, prompt, config = resolved(found["case"])
    plan = plan_memory(config, shape, device=found["device"], prompt_tokens=prompt, cards={})
    own = {
        "phase": plan.phase,
        "planned_mib": round(plan.peak / MIB, 1),
        "error": f"{plan.peak / MIB / float(found['measured_mib']) - 1:.3f}",
    }
    return {
        key: (found | own)[key]
        for key in ("case", "device", "phase", "planned_mib", "measured_mib", "error", "second_mib")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=size(list(CASES), ["tiny, the tour"]))
    parser.add_argument(
        "--plan-only", action="store_true", help="measure nothing: plan anew beside the measurements in the output file"
    )
    parser.add_argument("--output", type=Path, default=output_path("memory"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if args.case:
        found = dict(allocator=allocator_peak, resident=resident_peak, cuda=cuda_peak)[args.how](args.case)
        print(json.dumps(list(found) if isinstance(found, tuple) else [found]))
        return
    if args.plan_only:
        before = read_table(args.output)
    rows = []
    for found in before if args.plan_only else map(measure, args.cases):
        rows.append(planned(found))
        print(
            "{case:42} {phase:10} planned {planned_mib:>8} MiB, measured {measured_mib:>8} ({error:>6}), the second way"
            " {second_mib}".format(**rows[-1]),
            flush=True,
        )
    write_table("memory", args.output, rows, measured=not args.plan_only)


if __name__ == "__main__":
    main()
