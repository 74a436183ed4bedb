"""Tensors without data: what is written down of them is what PyTorch's own fake tensors and a ledger of their storages
write down, to the byte, for architectures, adapters, heads and precisions."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from mpo_nb.config import TrainConfig
from mpo_nb.planning import rehearsal
from mpo_nb.planning.ledger import Ledger
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
    rehearsal._model_and_heads.cache_clear()
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
