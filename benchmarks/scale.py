"""How cost grows: with the number of responses, their length, the size of the vocabulary, the traces that a run has
written, and the number of processes.

Three curves follow one iteration of the trainer (sampling, judging, the update, writing down) and three parts of its
update (layers, log-probabilities, loss; forward and backward, in the trainer's micro-batches). The model is small, its
weights are random, and no response ends early, so that one thing alone changes along a curve. A fourth one follows
log-probabilities over the largest vocabulary against the number of logits that are held at once; its sizes take turns,
five times. At each point:

- `seconds`: processor time on one thread; the middle of three (one or two where they take over 15), with the lowest and
  the highest.
- `flops`: multiplications and additions of matrix products and attention, by the formulas of
  torch.utils.flop_counter. Attention counts every pair of places, also those that a causal mask leaves out.
- `elements`: numbers that all other operations write, from their shapes.
- `mib`: tensors alive at once, at their most, without those that were there before (weights, moments, gradients).

The last three are counted, not timed: they are the same on every machine and on a busy one. A fifth curve reads run
folders with 1k to 64k responses; there `mib` is the peak of Python's objects, by tracemalloc, and `seconds` are taken
without it. A sixth runs one iteration in 1, 2 and 4 gloo processes and counts what each computes and sends.

An exponent is the slope of log(cost) against log(size) over the upper half of a curve, with the 95% interval of that
line; where the points do not lie on a line, the interval is wide because the line is wrong, not because of noise.

    python benchmarks/scale.py                 # about 10 minutes; writes benchmarks/scale.csv
    python benchmarks/scale.py --minutes 3     # stops after 3; the next call goes on where this one stopped
"""

import argparse
import importlib
import json
import math
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from records import digests, output_path, size, write_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from mpo_nb.config import TrainConfig
from mpo_nb.evaluation.intervals import student_t
from mpo_nb.models.logprobs import response_hidden, token_logps
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.runs.folder import Run
from mpo_nb.runs.reading import read_run
from mpo_nb.runs.trace_files import TraceFile, load_traces
from mpo_nb.runs.traces import Trace
from mpo_nb.sampling import decoding
from mpo_nb.tasks.task import Task
from mpo_nb.training.batch import micro_batches
from mpo_nb.training.trainer import Trainer
from mpo_nb.widgets import RolloutBrowser

MIB = 2**20
GROUP = 8
WIDTH = 64  # of the hidden states
HEADS = 4
CHUNK = 2**20  # most logits held at once: 4 MiB
CURVES = {  # curve -> its sizes, and (responses, length, vocabulary) of a size
    "responses": (size((64, 128, 256, 512, 1024, 2048, 4096), (8, 16, 32)), lambda n: (n, 32, 20)),
    "length": (size((64, 128, 256, 512, 1024, 2048, 4096), (8, 16, 32)), lambda n: (8, n, 20)),
    "vocabulary": (
        size((20, 80, 320, 1280, 5120, 20480, 65536, 151936), (20, 40, 80)),  # the last is Qwen's
        lambda n: (32, size(32, 8), n),
    ),
}
CHUNKS = size([2**n for n in range(20, 26)], [64, 128, 256])  # most logits held at once, at the largest vocabulary
WRITTEN = size((1024, 2048, 4096, 8192, 16384, 32768, 65536), (16, 32, 64))  # responses in a run folder
WORLDS = size((1, 2, 4), (1,))  # processes
MEASURES = ("seconds", "flops", "elements", "mib")
STAGES = ("sampling", "judging", "update", "writing down")


# What is counted


FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)
    ),
}
WRAPPED = set(flop_registry)  # these take tensors and hand their shapes on


def written(func, args: tuple, out) -> int:
    "Numbers that an operation writes; none for a view, and for memory that is only handed out."
    name = func.__name__.split(".")[0]
    if name == "index_put_":  # writes the values that it is given, not the whole tensor
        return args[2].numel()
    if name in ("_unsafe_view", "index_fill_") or "empty" in name:
        return 0
    if any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
        return 0
    return sum(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))


class Work(TorchDispatchMode):
    "Counts what torch does while it is on, backward passes included."

    def __init__(self):
        super().__init__()
        self.flops = 0
        self.elements = 0
        self.peak = 0  # bytes of new tensors alive at once
        self.calls = Counter()  # collective -> calls
        self.sent = Counter()  # collective -> bytes of the tensors that this process gave
        self.alive = 0
        self.storages = {}

    def hold(self, x: torch.Tensor) -> None:
        "Take note of a new tensor, and of its end."
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.storages:
            return
        size = storage.nbytes()

        def gone(_):
            self.alive -= size
            self.storages.pop(key, None)

        self.storages[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if func.namespace == "c10d":
            given = args[1] if "gather" in func.__name__ else args[0]  # gathering fills its first argument
            self.calls[func.__name__.split(".")[0]] += 1
            tensors = [x for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
            self.sent[func.__name__.split(".")[0]] += sum(x.numel() * x.element_size() for x in tensors)
            return out
        if packet in FORMULAS:
            more = dict(out_val=out) if packet in WRAPPED else {}
            self.flops += int(FORMULAS[packet](*args, **kwargs, **more))
        else:
            self.elements += written(func, args, out)
        if all(r.alias_info is None for r in func._schema.returns):
            for x in tree_leaves(out):
                if isinstance(x, torch.Tensor):
                    self.hold(x)
        return out


def counted(work: Callable[[], object]) -> dict[str, float]:
    "What a piece of work computes and holds."
    with Work() as count:
        work()
    return dict(flops=count.flops, elements=count.elements, mib=count.peak / MIB)


# One iteration


def make_trainer(responses: int, length: int, vocabulary: int, folder: str, chunk: int = CHUNK) -> Trainer:
    "A trainer of a small model whose responses never end."
    tokenizer = char_tokenizer(max_length=8192)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape)

    def never_ends(_, __, logits):
        if not torch.is_grad_enabled():
            logits.index_fill_(-1, torch.tensor([tokenizer.eos_token_id]), -1e4)

    model.get_output_embeddings().register_forward_hook(never_ends)
    problems = [dict(prompt=f"{i % 1000:03}+7?", answer="0") for i in range(responses // GROUP)]
    config = TrainConfig(
        output=folder,
        recipe="mpo",
        k=4,
        steps=10**6,
        prompts_per_step=responses // GROUP,
        group_size=GROUP,
        epochs=1,
        minibatches=1,
        max_new_tokens=length,
        chunk_elements=chunk,
        precision="float32",
        eval_every=0,
        checkpoint_every=10**6,
        device="cpu",
        progress=False,
    )
    task = Task("counted", problems, problems, lambda problem, response: float(len(set(response)) % 3))
    return Trainer(config, model=model, tokenizer=tokenizer, task=task)


def layers(trainer: Trainer, batch) -> None:
    "The backbone alone, forward and backward, in the trainer's micro-batches."
    r = batch.rollout
    for rows in micro_batches(r, batch.kept, trainer.config.micro_batch_tokens):
        part = r.rows(rows)
        response_hidden(trainer.model, part.prompt_ids, part.prompt_mask, part.ids, part.mask).sum().backward()


def vocabulary_part(trainer: Trainer, batch, chunk: int | None = None) -> None:
    """Log-probabilities and entropies from hidden states, forward and backward, in the trainer's micro-batches; with at
    most so many logits held at once, by default as many as the trainer holds."""
    r = batch.rollout
    chunk = chunk or trainer.config.chunk_elements
    for rows in micro_batches(r, batch.kept, trainer.config.micro_batch_tokens):
        targets = r.ids[rows][r.mask[rows]]
        hidden = torch.ones(len(targets), WIDTH, requires_grad=True)
        logps, _ = token_logps(trainer.model, hidden, targets, chunk_elements=chunk)
        logps.sum().backward()


def loss(trainer: Trainer, batch) -> None:
    "The recipe's loss of windows, forward and backward, in the trainer's micro-batches."
    for rows in micro_batches(batch.rollout, batch.kept, trainer.config.micro_batch_tokens):
        inputs = batch.inputs(rows)
        logps = (inputs["old_logps"] + 0.01).requires_grad_()
        scale = dict(max_length=trainer.config.max_new_tokens, normalizer=1.0, token_normalizer=1.0, kl_normalizer=1.0)
        trainer.recipe.loss(inputs | scale | dict(logps=logps, entropy=torch.zeros_like(logps))).loss.backward()


def sample(trainer: Trainer, step: int, joined: bool = False):
    "A step's responses; `joined`: with the cache of transformers, which joins each new token to all that is there."
    share = trainer.setup.problems(step)
    growing = decoding.growing_cache
    if joined:
        decoding.growing_cache = lambda config, most: DynamicCache(config=config)
    try:
        return trainer.sampler.sample(share.problems, trainer.config.group_size, 1000 + step, places=share.places)
    finally:
        decoding.growing_cache = growing


def no_gradients(trainer: Trainer) -> None:
    "Gradients of zero, so that their memory is there before anything is counted."
    for p in trainer.policy.trained:
        p.grad = torch.zeros_like(p)


def iteration(trainer: Trainer, step: int, measure: Callable[[str, Callable], object]) -> None:
    "One step of training, each of its stages through `measure(name, stage)`, and three parts of the update."
    share = trainer.setup.problems(step)
    G = trainer.config.group_size
    rollout = measure("sampling", lambda: sample(trainer, step))
    batch = measure("judging", lambda: trainer.judge(share.repeated(G), rollout, step, share.places.start * G))
    metrics = measure("update", lambda: trainer.update(batch, step))
    trainer.recorder.clock.seconds |= dict(sampling=1.0, training=1.0)
    measure("writing down", lambda: trainer.recorder.write(step, batch, metrics))
    no_gradients(trainer)
    measure("update: layers", lambda: layers(trainer, batch))
    measure("update: log-probabilities", lambda: vocabulary_part(trainer, batch))
    measure("update: loss", lambda: loss(trainer, batch))


def measured(
    parts: Callable[[int, Callable], object], rounds: int, most: float = size(15, 0)
) -> dict[str, dict[str, list[float]]]:
    """Counts of each part in a first round, which warms up too, and seconds in the others, none of them begun after
    `most` seconds: part -> measure -> values."""
    found: dict[str, dict[str, list[float]]] = {}

    def timed(name, work):
        start = time.process_time()
        result = work()
        found[name]["seconds"].append(time.process_time() - start)
        return result

    def count(name, work):
        results = []
        numbers = counted(lambda: results.append(work()))
        found[name] = dict(seconds=[]) | {key: [value] for key, value in numbers.items()}
        return results[0]

    parts(1, count)
    start = time.process_time()
    for step in range(2, 2 + rounds):
        parts(step, timed)
        if time.process_time() - start > most:
            break
    return found


def chunk_points(rounds: int = size(5, 1)) -> list[dict]:
    "Log-probabilities over the largest vocabulary with several numbers of logits held at once, which take turns."
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        trainer = make_trainer(*CURVES["vocabulary"][1](CURVES["vocabulary"][0][-1]), folder)
        batch = trainer.collect(1)
        no_gradients(trainer)

        def in_turn(_, measure):
            for n in CHUNKS:
                measure(str(n), lambda n=n: vocabulary_part(trainer, batch, n))

        found = measured(in_turn, rounds, most=math.inf)
    part = "update: log-probabilities"
    return [row("chunk", part, measure, n, found[str(n)][measure]) for n in CHUNKS for measure in MEASURES]


def point(curve: str, n: int, rounds: int = 3) -> list[dict]:
    "All parts and measures of one point of a curve."
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        trainer = make_trainer(*CURVES[curve][1](n), folder)

        def all_parts(step, measure):
            iteration(trainer, step, measure)
            if curve == "length":
                measure("sampling, joined cache", lambda: sample(trainer, step, joined=True))

        found = measured(all_parts, rounds)
    whole = {
        "seconds": [sum(x) for x in zip(*(found[name]["seconds"] for name in STAGES))],
        "flops": [sum(found[name]["flops"][0] for name in STAGES)],
        "elements": [sum(found[name]["elements"][0] for name in STAGES)],
        "mib": [max(found[name]["mib"][0] for name in STAGES)],
    }
    parts = {"iteration": whole} | found
    return [row(curve, part, measure, n, parts[part][measure]) for part in parts for measure in MEASURES]


# Traces of a run


def trace_line(step: int, index: int, tokens: int = 24) -> str:
    "A line of a traces.jsonl."
    trace = Trace(
        tokens=list("7+5=12;12-3=9;9+8=17#17 ")[:tokens],
        token_ids=list(range(tokens)),
        mask=[1] * tokens,
        logps=[-0.1234567 - i / 97 for i in range(tokens)],
        old_logps=[-0.1334567 - i / 89 for i in range(tokens)],
        entropies=[0.7654321 + i / 83 for i in range(tokens)],
        prompt="7+5-3+8?",
        advantage=1.0 - 2 * (index % 2),
        reward=float(1 - index % 2),
        correct=index % 2 == 0,
        step=step,
        group=0,
        index=index,
    )
    return json.dumps(trace.to_dict()) + "\n"


def write_run(folder: Path, responses: int) -> Path:
    "A run that has written so many responses, eight a step."
    run = Run(folder)
    run.begin(dict(recipe="mpo", steps=10**6, seed=0))
    with open(run.traces_path, "w") as traces, open(run.metrics_path, "w") as metrics:
        for step in range(1, responses // GROUP + 1):
            traces.writelines(trace_line(step, i) for i in range(GROUP))
            metrics.write(json.dumps(dict(step=step, reward=0.5, clip_fraction=0.01)) + "\n")
    return folder


def readers(folder: Path, responses: int) -> dict[str, Callable[[], object]]:
    "What reads a run folder."
    last = responses // GROUP

    def one_step():
        file = TraceFile(folder / "traces.jsonl")
        file.read()
        return file.traces(last)

    return {
        "going on with the run": lambda: Run(folder).rewind(last),
        "one step's traces": one_step,
        "the browser's first draw": lambda: RolloutBrowser(folder).widget,
        "what a report reads": lambda: read_run("run", folder),
        "all traces": lambda: load_traces(folder),
    }


def traces_point(n: int) -> list[dict]:
    "Peak and time of each reader on a run with n responses."
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = write_run(Path(place) / "run", n)
        for name, read in readers(folder, n).items():
            if name == "all traces" and n > WRITTEN[4 if len(WRITTEN) > 4 else -1]:
                continue  # a list of all of them: known to be linear
            start = time.process_time()
            read()
            seconds = time.process_time() - start
            tracemalloc.start()
            kept = read()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            del kept
            rows += [row("traces", name, "seconds", n, [seconds]), row("traces", name, "mib", n, [peak / MIB])]
    return rows


# Several processes


def one_process(rank: int, world: int, port: int, folder: str, log: str) -> None:
    "One process of a weak-scaling run: its counts go into a file."
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )
    torch.set_num_threads(1)
    with open(log, "a") as said, redirect_stdout(said), redirect_stderr(said):
        try:
            found = count_step(world, folder)
        except BaseException:
            traceback.print_exc(file=said)
            said.flush()
            os._exit(1)
    Path(folder, f"counts-{world}-{rank}.json").write_text(json.dumps(found))
    os._exit(0)


def count_step(world: int, folder: str, steps: int = size(4, 1), prompts: int = size(8, 2)) -> list[dict]:
    "Counts of some iterations of the packaged model in this process: as many problems in each process, however many."
    config = TrainConfig(
        model="tiny",
        output=f"{folder}/{world}",
        recipe="grpo",
        steps=10**6,
        prompts_per_step=prompts * world,
        group_size=GROUP,
        epochs=1,
        minibatches=2,
        max_new_tokens=48,
        lr=1e-9,
        precision="float32",
        eval_every=0,
        checkpoint_every=10**6,
        device="cpu",
        progress=False,
    )
    trainer = Trainer(config)
    found = []
    for step in range(1, steps + 1):
        tokens = []
        judge = trainer.judge

        def counting(problems, rollout, *rest, **named):
            tokens.append(int(rollout.mask.sum()))
            return judge(problems, rollout, *rest, **named)

        trainer.judge = counting
        with Work() as count:
            trainer.step(step)
        trainer.judge = judge
        found.append(
            dict(
                flops=count.flops,
                elements=count.elements,
                tokens=tokens[0],
                calls=sum(count.calls.values()),
                sent=sum(count.sent.values()),
                all_reduced=sum(b for name, b in count.sent.items() if "reduce" in name),
                parameters=sum(p.numel() for p in trainer.policy.trained),
            )
        )
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_processes(world: int, folder: str, seconds: float = 300) -> list[list[dict]]:
    "What each of some gloo processes counted. Raises RuntimeError where one fails or hangs."
    module = importlib.import_module("scale")  # by its name, so that a started process finds it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scale"])
    port = free_port()
    log = Path(folder) / "log.txt"
    log.touch()
    started = [
        context.Process(target=module.one_process, args=(rank, world, port, folder, str(log))) for rank in range(world)
    ]
    for process in started:
        process.start()
    deadline = time.time() + seconds
    for process in started:
        process.join(max(0.1, deadline - time.time()))
    if any(process.exitcode != 0 for process in started):
        for process in started:
            process.kill()
        raise RuntimeError(f"{world} processes did not all end well:\n{log.read_text()[-3000:]}")
    files = [Path(folder, f"counts-{world}-{rank}.json") for rank in range(world)]
    return [json.loads(file.read_text()) for file in files]


def processes_point(world: int) -> list[dict]:
    "Counted work of weak scaling: what a process does a step, how unevenly, and what it says to the others."
    with tempfile.TemporaryDirectory() as folder:
        if world == 1:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                found = [count_step(1, folder)]
        else:
            found = start_processes(world, folder)
    steps = list(zip(*found))  # of each step, what each process counted
    means = {
        key: [statistics.mean(one[key] for one in step) for step in steps]
        for key in ("flops", "elements", "tokens", "calls", "sent", "all_reduced", "parameters")
    }
    uneven = {
        f"{key}: most / mean": [
            max(one[key] for one in step) / statistics.mean(one[key] for one in step) for step in steps
        ]
        for key in ("flops", "tokens")
    }
    return [row("processes", "a process", key, world, values) for key, values in (means | uneven).items()]


# The table


def row(curve: str, part: str, measure: str, x: int, values: list[float]) -> dict:
    "A point: the middle of what was found, the lowest and the highest."
    low, middle, high = (f"{f(values):.6g}" for f in (min, statistics.median, max))
    return dict(curve=curve, part=part, measure=measure, kind="point", x=x, value=middle, low=low, high=high)


def slope(xs: list[float], ys: list[float]) -> tuple[float, float, float]:
    "Slope of log y against log x with its 95% interval; all x and y positive, three points at least."
    x = [math.log(v) for v in xs]
    y = [math.log(v) for v in ys]
    mx, my = statistics.mean(x), statistics.mean(y)
    spread = sum((a - mx) ** 2 for a in x)
    b = sum((a - mx) * (c - my) for a, c in zip(x, y)) / spread
    rest = sum((c - my - b * (a - mx)) ** 2 for a, c in zip(x, y))
    half = student_t(len(x) - 1) * math.sqrt(rest / (len(x) - 2) / spread)
    return b, b - half, b + half


def upper_half(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    "The points from the middle of a curve on, the logarithm of its size taken; three at least."
    points = sorted(points)
    middle = math.sqrt(points[0][0] * points[-1][0])
    kept = [p for p in points if p[0] >= middle * 0.99]
    return kept if len(kept) >= 3 else points[-3:]


def exponents(rows: list[dict]) -> list[dict]:
    "The exponent of each curve, part and measure whose costs are positive."
    curves: dict[tuple, list] = {}
    for r in rows:
        if r["curve"] != "processes":
            curves.setdefault((r["curve"], r["part"], r["measure"]), []).append((float(r["x"]), float(r["value"])))
    found = []
    for (curve, part, measure), points in curves.items():
        kept = upper_half(points)
        if min(y for _, y in kept) <= 0:
            continue
        value, low, high = (f"{v:.3f}" for v in slope(*zip(*kept)))
        found.append(
            dict(curve=curve, part=part, measure=measure, kind="exponent", x=int(kept[0][0]))
            | dict(value=value, low=low, high=high)
        )
    return found


def jobs() -> dict[str, Callable[[], list[dict]]]:
    "Name -> what measures a point; small ones first within a curve."
    found: dict[str, Callable[[], list[dict]]] = {}
    for curve, (sizes, _) in CURVES.items():
        found |= {f"{curve} {n}": lambda curve=curve, n=n: point(curve, n) for n in sizes}
    found |= {"chunk": chunk_points}
    found |= {f"traces {n}": lambda n=n: traces_point(n) for n in WRITTEN}
    return found | {f"processes {n}": lambda n=n: processes_point(n) for n in WORLDS}


def measure_all(partial: Path, minutes: float) -> list[dict] | None:
    "The rows of all points, those from `partial` not measured again; None where the time is over before the end."
    digest = digests("scale")
    done = {}
    if partial.exists():
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        done = {line["job"]: line["rows"] for line in lines if line["digest"] == digest}
    start = time.monotonic()
    for name, job in jobs().items():
        if name in done:
            continue
        if time.monotonic() - start > 60 * minutes:
            return None
        began = time.process_time()
        done[name] = job()
        print(f"{name}: {time.process_time() - began:.1f} s of processor time", flush=True)
        with partial.open("a") as file:
            file.write(json.dumps(dict(job=name, digest=digest, rows=done[name])) + "\n")
    return [r for name in jobs() for r in done[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further point after so many")
    parser.add_argument("--output", type=Path, default=output_path("scale"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    partial = args.output.with_suffix(".partial")
    rows = measure_all(partial, args.minutes)
    if rows is None:
        print("not all is measured: the same command goes on there")
        sys.exit(3)
    write_table("scale", args.output, rows + exponents(rows))
    partial.unlink()
    for r in exponents(rows):
        print("{curve:10} {part:26} {measure:9} exponent {value:>7} ({low} to {high})".format(**r))


if __name__ == "__main__":
    main()
