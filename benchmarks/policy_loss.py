"""What the granularity of the importance ratio costs: `policy_loss`, forward and backward, at (64, 4096) in float32 on
one CPU thread, so that a step that cannot be shared among threads counts no more than one that can.

Every action space is compared with token level, and token level with the loss written out plainly, the way trainers
usually write it: a dozen elementwise operations on tensors that are known to be clean, with no checks, no clip mask and
no NaN under the mask. All cases take turns in one process, in a new random order each round, so that a machine whose
speed drifts slows them alike; a turn runs a case twice and times the second. Sentences come as block ids that are made
once for a batch, as in training; their lengths are drawn, 20 tokens on average. The allocator keeps the memory that it
was once given, so that the kernel, which clears what it hands out, is not measured too.

    python benchmarks/policy_loss.py        # under a minute; writes benchmarks/policy_loss.csv
"""

import argparse
import ctypes
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from records import output_path, size, write_table

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, WindowActions
from mpo_nb.blocks import blocks_from_ends
from mpo_nb.losses import policy_loss

B = size(64, 8)
T = size(4096, 128)
THREADS = 1


def ragged_batch(holes: bool = False) -> tuple[torch.Tensor, ...]:
    """logps, old_logps, advantages, mask: right-padded rows of random length, with a tenth of the tokens masked out if
    `holes`."""
    g = torch.Generator().manual_seed(0)
    old = -torch.rand(B, T, generator=g) * 3
    logps = old + 0.15 * torch.randn(B, T, generator=g)
    mask = torch.arange(T) < torch.randint(T // 8, T + 1, (B, 1), generator=g)
    if holes:
        mask &= torch.rand(B, T, generator=g) > 0.1
    return logps, old, torch.randn(B, generator=g), mask


def keep_memory() -> None:
    "Tell the C library of Linux not to give memory back; elsewhere nothing."
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        library.mallopt(trim_threshold, 2**30)
        library.mallopt(mmap_threshold, 2**25)


def sentence_ids(mask: torch.Tensor) -> torch.Tensor:
    "Block ids (B, T): each token ends a sentence with probability 1/20."
    g = torch.Generator().manual_seed(1)
    return blocks_from_ends(torch.rand(B, T, generator=g) < 1 / 20, mask)


def plain_loss(logps, old_logps, advantages, mask):
    "Token-level GRPO as trainers write it: the ratio, both terms, a masked mean, and the clip fraction that they log."
    delta = logps - old_logps
    ratio = delta.exp()
    A = advantages[:, None]
    per_token = -torch.min(ratio * A, ratio.clamp(0.8, 1.2) * A)
    loss = (per_token * mask).sum() / mask.sum().clamp(min=1)
    with torch.no_grad():
        clipped = ((ratio < 0.8) & (A < 0)) | ((ratio > 1.2) & (A > 0))
        (clipped * mask).sum() / mask.sum()
        ((delta.exp() - 1 - delta) * mask).sum() / mask.sum()
    return loss


def cases() -> dict:
    "Name -> (loss of a batch, whether its mask has holes)."

    def space(actions):
        return lambda *batch: policy_loss(*batch, actions).loss

    def sentences(holes):
        ids = sentence_ids(ragged_batch(holes)[3])
        return lambda *batch: policy_loss(*batch, BlockActions(ids)).loss

    found = {"plain formula": (plain_loss, False), "token": (space(TokenActions()), False)}
    for k in (1, 2, 4, 8, 16, 32, 64):
        found[f"window k={k}"] = (space(WindowActions(k)), False)
    found["window k=32 joint"] = (space(WindowActions(32, joint=True)), False)
    for k in (4, 32):
        found[f"block k={k}"] = (space(BlockActions(k)), False)
    found["sentences"] = (sentences(holes=False), False)
    found["sequence"] = (space(SequenceActions()), False)
    found["token, holes"] = (space(TokenActions()), True)
    found["window k=32, holes"] = (space(WindowActions(32)), True)
    found["block k=4, holes"] = (space(BlockActions(4)), True)
    found["sentences, holes"] = (sentences(holes=True), True)
    return found


def measure(rounds: int) -> dict[str, list[float]]:
    "Seconds of every case in every round."
    batches = {holes: ragged_batch(holes) for holes in (False, True)}
    found = cases()
    order = random.Random(0)
    times = {name: [] for name in found}
    for r in range(-3, rounds):  # three rounds to warm up
        for name in order.sample(list(found), len(found)):
            loss, holes = found[name]
            logps, *rest = batches[holes]
            for timed in (False, True):  # the first of the two finds the memory as another case left it
                x = logps.clone().requires_grad_()
                start = time.perf_counter()
                loss(x, *rest).backward()
                if timed and r >= 0:
                    times[name].append(time.perf_counter() - start)
    return times


def table(times: dict[str, list[float]]) -> list[dict]:
    "One row per case: milliseconds with quartiles, and the ratio to token level, round by round, with quartiles."
    rows = []
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["token"])]
        (low, mid, high), (r_low, r_mid, r_high) = (statistics.quantiles(v, n=4) for v in (seconds, ratios))
        rows.append(
            {
                "case": name,
                "ms_best": f"{min(seconds) * 1e3:.2f}",
                "ms_median": f"{mid * 1e3:.2f}",
                "ms_q25": f"{low * 1e3:.2f}",
                "ms_q75": f"{high * 1e3:.2f}",
                "ratio_to_token": f"{r_mid:.3f}",
                "ratio_q25": f"{r_low:.3f}",
                "ratio_q75": f"{r_high:.3f}",
                "ratio_of_best": f"{min(seconds) / min(times['token']):.3f}",
                "rounds": len(seconds),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(300, 4))
    parser.add_argument("--output", type=Path, default=output_path("policy_loss"))
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    keep_memory()
    rows = table(measure(args.rounds))
    write_table("policy_loss", args.output, rows)
    for row in rows:
        print(
            f"{row['case']:20} {row['ms_median']:>8} ms  {row['ratio_to_token']} of token level ({row['ratio_q25']} to"
            f" {row['ratio_q75']}), best {row['ratio_of_best']}"
        )
    ratio = {row["case"]: float(row["ratio_to_token"]) for row in rows}
    print(
        f"K=32 costs {ratio['window k=32']:.2f} times token level (bound 1.5); K=64 costs"
        f" {ratio['window k=64'] / ratio['window k=2']:.2f} times K=2 (bound 1.2)"
    )


if __name__ == "__main__":
    main()
