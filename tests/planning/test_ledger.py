"""Tensors without data: what is written down of them is what PyTorch's own fake tensors and a ledger of their storages
write down, to the byte, for architectures, adapters, heads and precisions."""

import random
from contextlib import ExitStack
from dataclasses import replace

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GraniteMoeHybridConfig,
    Lfm2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from mpo_nb.config import TrainConfig
from mpo_nb.planning import ledger, rehearsal
from mpo_nb.planning.ledger import Ledger
from mpo_nb.planning.phases import counted, fixed, step_phases, trains_on_what_it_scores
from mpo_nb.planning.rehearsal import Work, outline

SMALL = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
LLAMA = LlamaConfig(**SMALL, tie_word_embeddings=False)
SHAPES = {
    "Llama": LLAMA,
    "Qwen 2": Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "Qwen 3": Qwen3Config(**SMALL, head_dim=16),
    "Gemma 3": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=8),
    "GPT-2": GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=256),
    "Falcon": FalconConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4),
    "Granite 4 H": GraniteMoeHybridConfig(
        **SMALL,
        layer_types=["mamba", "attention"],
        num_local_experts=0,
        shared_intermediate_size=160,
        mamba_n_heads=8,
        mamba_d_head=16,
        mamba_d_state=16,
        time_step_limit=[0.0, float("inf")],
    ),
    "LFM 2": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "Qwen 3 Next": Qwen3NextConfig(
        **SMALL,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=0,
        decoder_sparse_step=1,
        mlp_only_layers=[0, 1],
    ),
}
RUNS = {
    "full": {},
    "bfloat16": dict(precision="bfloat16"),
    "adapters": dict(lora_rank=4, precision="bfloat16"),
    "eager": dict(attention="eager"),
    "checkpointing": dict(gradient_checkpointing=True),
    "modules": dict(k=3, source="mtp", mtp_merge="eh_proj"),
    "critic of its own": dict(recipe="ppo", recipe_options=dict(critic="separate")),
    "soft Q": dict(recipe="etpo"),
}


class FakeTensors:
    "PyTorch's fake tensors under a ledger of their storages, in the place of `WithoutData`."

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.account = self.ledger.account
        self.enter = self.ledger.enter

    def __enter__(self) -> "FakeTensors":
        self.modes = ExitStack()
        self.modes.enter_context(FakeTensorMode())
        self.modes.enter_context(self.ledger)
        return self

    def __exit__(self, *error) -> None:
        self.modes.close()


def accounts(shape, how, w):
    "Of a training pass, a first one, a pass without gradients, and sampling."
    kind = outline(replace(TrainConfig(precision="float32", max_new_tokens=12), **how), shape)
    rehearsal.model_and_heads.cache_clear()
    checkpointing = how.get("gradient_checkpointing", False)
    passes = [(False, False), (False, True), (True, False)] if how or w.different else [(False, False)]
    train = [rehearsal._train(kind, 2, w, checkpointing, 2**13, True, frozen, first) for frozen, first in passes]
    return [*train, rehearsal._sample(kind, 2, w, 0.9 if how else 1.0, 0)]


CASES = [*((name, "full") for name in SHAPES), *(("Llama", name) for name in RUNS if name != "full")]


@pytest.mark.parametrize("shape, how", CASES)
def test_accounts_are_those_of_fake_tensors(shape, how, monkeypatch):
    apart = shape == "Llama" and how not in ("checkpointing", "soft Q")
    w = Work(8, 12, 5, 2, 3, 3) if apart else Work(8, 12, 3, 0, 2, 6)
    found = accounts(SHAPES[shape], RUNS[how], w)
    monkeypatch.setattr(rehearsal, "WithoutData", FakeTensors)
    reference = accounts(SHAPES[shape], RUNS[how], w)
    for a, b in zip(found, reference, strict=True):
        assert {phase: +peak for phase, peak in a.peaks.items()} == {phase: +peak for phase, peak in b.peaks.items()}


def test_an_operation_says_once_what_it_makes(monkeypatch):
    "A third layer, and the same pass again, ask no operation anew."
    asked = []
    outcome = ledger.outcome
    monkeypatch.setattr(ledger, "outcome", lambda function, *about: asked.append(function) or outcome(function, *about))
    monkeypatch.setattr(ledger, "_outcomes", {})
    kind = outline(TrainConfig(precision="bfloat16", lora_rank=4), LLAMA)
    w = Work(8, 12, 3, 0, 2, 6)
    rehearsal._train(kind, 2, w, False, 2**13, True, False, False)
    first = len(asked)
    rehearsal._train(kind, 2, w, False, 2**13, True, False, False)
    rehearsal._train(kind, 3, w, False, 2**13, True, False, False)
    assert first > 100 and len(asked) == first


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_weights_are_counted_on_two_layers_and_three(how, quantization):
    shape = LlamaConfig(**{**SMALL, "num_hidden_layers": 7})
    kind = outline(replace(TrainConfig(precision="float32"), **RUNS[how]), shape)
    assert fixed(kind, quantization) == counted(kind, quantization, 7, alike=True)


def test_adapters_on_some_layers_are_counted_on_all():
    shape = LlamaConfig(**{**SMALL, "num_hidden_layers": 7})
    kind = outline(TrainConfig(lora_rank=4, lora_targets="0.self_attn.q_proj", precision="float32"), shape)
    assert fixed(kind).trained == 4 * (64 + 64) and not fixed(kind).alike


@pytest.mark.parametrize("chunk", [13, 24, 50, 1000])
def test_rows_between_two_others_need_as_many_chunks(chunk, monkeypatch):
    "Worked out or rehearsed, an account is the same, also where one row more is one chunk of logits more."
    kind = outline(TrainConfig(precision="float32"), LLAMA)
    monkeypatch.setattr(ledger, "_accounts", {})
    for rows in (9, 1, 2, 3, 5, 4, 8):
        w = Work(8, 12, rows, 0, 0, 0)
        found = rehearsal.rehearse_training.__wrapped__(kind, 2, w, chunk_elements=chunk * 512)
        assert found == rehearsal._train(kind, 2, w, False, chunk * 512, False, False, False).peaks, rows


def test_scoring_is_left_out_only_where_training_keeps_more():
    "For random settings: where it is left out, no moment of scoring needs more than the largest of training."
    draw = random.Random(0)
    left_out = 0
    for _ in range(12):
        config = TrainConfig(
            recipe=draw.choice(["grpo", "mpo"]),
            prompts_per_step=draw.choice([2, 4, 8]),
            group_size=draw.choice([2, 4]),
            minibatches=draw.choice([1, 2]),
            micro_batch_tokens=draw.choice([40, 80, 200]),
            gradient_checkpointing=draw.random() < 0.3,
            lora_rank=draw.choice([0, 4]),
            max_new_tokens=12,
            precision="bfloat16",
            old_logps="recompute",
            eval_every=0,
        )
        peaks = step_phases(config, LLAMA, 8, False)
        if trains_on_what_it_scores(config, 8):
            left_out += 1
            assert peaks["scoring"].total() <= peaks["training"].total(), config
    assert 2 <= left_out < 12
