"""`BlockGRPOTrainer` is TRL's trainer but for the ratio: to the last bit where the action is a token or a response,
`policy_loss` elsewhere."""

import configparser
import csv
import dataclasses
import functools
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from batches import close, draw_batch, generator, leaf
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_nb import trl as ours
from mpo_nb.actions import BlockActions, WindowActions
from mpo_nb.blocks import block_sizes, sentence_blocks
from mpo_nb.losses import kl_penalty, policy_loss
from mpo_nb.models.tiny import char_tokenizer, tiny_model_path
from mpo_nb.runs.completions import load_completions
from mpo_nb.runs.traces import token_texts
from mpo_nb.tasks.task import load_task
from mpo_nb.trl import (
    BlockGRPOConfig,
    BlockGRPOTrainer,
    TokenRows,
    check_trl,
    installed_trl,
    moved_old_logps,
    trl_versions,
)

if importlib.util.find_spec("trl") is None:
    pytest.skip("trl is not installed: pip install mpo_nb[trl]", allow_module_level=True)
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, PrinterCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    "Every `train()` collects garbage, which takes longer than ten steps where a whole test session lies in memory."
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about their own next releases
VERSION = tuple(map(int, installed_trl().split(".")[:2]))
AGGREGATES = {
    "grpo": "seq-mean-token-mean",
    "bnpo": "token-mean",
    "dapo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
LONGEST = 16
CLIP = (0.2, 0.28)
EXAMPLES = 6 if "MPO_NB_TRL" in os.environ else 15
SPACES = {
    "window": dict(k=3, future=0.4),
    "block": dict(k=3, reduce="mean"),
    "joint": dict(action_space="block", k=2, reduce="sum"),
    "sentence": dict(reduce="mean"),
    "joint sentence": dict(action_space="sentence", reduce="sum"),
    "turn": dict(reduce="mean"),
}


def space(name: str) -> dict:
    "The settings of an action space as BlockGRPOConfig takes them."
    return dict(action_space=name) | SPACES[name]


# The loss, on tensors


class OneProcess:
    "What TRL's loss asks of accelerate, with one process."

    num_processes = 1
    sync_gradients = True
    is_main_process = True

    def gather(self, x):
        return x

    def gather_for_metrics(self, x):
        return x

    def reduce(self, x, reduction="sum"):
        return x


def stub(logps, entropies=None, cls=BlockGRPOTrainer, config=None, steps=1, **options):
    "A trainer whose forward pass gives these log-probabilities; the rest is what `compute_loss` reads."

    class Base(GRPOTrainer):
        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            zero = torch.zeros_like(logps.detach())
            return (logps, zero if entropies is None else entropies, None)[: 3 if VERSION >= (1, 7) else 2]

    made = object.__new__(type("Stub", (cls, Base) if cls is not GRPOTrainer else (Base,), {}))
    own = dict(
        loss_type="grpo",
        importance_sampling_level="token",
        epsilon_low=CLIP[0],
        epsilon_high=CLIP[1],
        beta=0.0,
        max_completion_length=LONGEST,
        current_gradient_accumulation_steps=steps,
        accelerator=OneProcess(),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        use_liger_kernel=False,  # of TRL before 1.14
        _handed=None,
        _moved=None,
        _read=False,
        _rows=TokenRows(char_tokenizer()),
    )
    made.__dict__.update(
        own | {k: v for k, v in options.items() if k in own},
        args=SimpleNamespace(
            delta=options.get("delta"),
            use_bias_correction_kl=options.get("use_bias_correction_kl", False),
            steps_per_generation=steps,
            **(config or {}),
        ),
    )
    return made


IDS = char_tokenizer()("0123456789+-=;#?", add_special_tokens=False)["input_ids"]


def batch_for(mask, seed, per_token=False, dtype=torch.double, scale=0.4):
    """Random inputs for `compute_loss` without NaN under the mask; a third of the mask's zeros are a tool's tokens,
    the rest padding. One character in four ends a sentence."""
    new, old, A = (torch.nan_to_num(x, 0.0, 0.0, 0.0).to(dtype) for x in draw_batch(mask, seed, scale, per_token))
    g = generator(seed + 1)
    semicolon = IDS[13]
    other = torch.tensor(IDS)[torch.randint(13, mask.shape, generator=g)]
    tool = torch.where(torch.rand(mask.shape, generator=g) < 1 / 3, mask, 1)
    reference = -torch.rand(mask.shape, generator=g, dtype=torch.double).to(dtype)
    inputs = dict(
        prompt_ids=torch.ones(len(mask), 2, dtype=torch.long),
        prompt_mask=torch.ones(len(mask), 2, dtype=torch.long),
        completion_ids=torch.where(torch.rand(mask.shape, generator=g) < 0.25, semicolon, other),
        completion_mask=torch.where(tool == 1, mask, 1),
        tool_mask=tool,
        advantages=A,
        old_per_token_logps=old,
        ref_per_token_logps=reference,
        num_items_in_batch=mask.sum().clamp(min=1),
    )
    return leaf(new), inputs


@st.composite
def masks(draw):
    """Padded on the right, with holes; perhaps a response without a token. Two tokens wide at least: TRL takes a width
    of 1 for its sequence level."""
    T = draw(st.integers(2, 9))
    lengths = draw(st.lists(st.integers(0, T), min_size=2, max_size=5))
    mask = (torch.arange(T) < torch.tensor(lengths)[:, None]).long()
    if draw(st.booleans()):
        mask[:, T // 2] = 0
    return mask


def actions_of(name: str, inputs: dict, mask):
    "The action space, made without the module under test."
    s = space(name)
    if s["action_space"] == "window":
        return WindowActions(s["k"], s["future"])
    if s["action_space"] == "block":
        return BlockActions(s["k"], s["reduce"])
    if s["action_space"] == "turn":  # a new one wherever a kept token follows what is not kept
        kept = mask.bool()
        begins = kept & ~torch.nn.functional.pad(kept, (1, 0))[:, :-1]
        return BlockActions(torch.where(kept, begins.cumsum(1) - 1, -1), s["reduce"])
    texts = [["0123456789+-=;#?"[IDS.index(i)] for i in row] for row in inputs["completion_ids"].tolist()]
    return BlockActions(sentence_blocks(mask, texts), s["reduce"])


def reference(name, x, inputs, mask, loss_type, A=None, **options):
    "`policy_loss` on the same tensors."
    A = inputs["advantages"] if A is None else A
    return policy_loss(
        x,
        inputs["old_per_token_logps"],
        A,
        mask,
        actions_of(name, inputs, mask),
        CLIP,
        aggregate=AGGREGATES[loss_type],
        max_length=LONGEST,
        **options,
    )


def same(theirs, x, mine, y):
    "Loss and gradient agree."
    close(theirs, mine, tol=1e-12)
    close(torch.autograd.grad(theirs, x)[0], torch.autograd.grad(mine, y)[0], tol=1e-12)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("loss_type", AGGREGATES)
@settings(max_examples=EXAMPLES)
@given(mask=masks(), seed=st.integers(0, 9999), per_token=st.booleans(), delta=st.sampled_from([None, 1.5]))
def test_the_loss_is_policy_loss(loss_type, name, mask, seed, per_token, delta):
    """Value, gradient and clip fraction, with TRL's delta as the dual clip; a tool's tokens are stepped over, padding
    is left alone."""
    x, inputs = batch_for(mask, seed, per_token)
    y = leaf(x.detach())
    before = dict(inputs)
    trainer = stub(x, config=space(name), loss_type=loss_type, delta=delta)
    theirs = trainer.compute_loss(None, inputs)
    out = reference(name, y, inputs, mask, loss_type, dual_clip=delta)
    same(theirs, x, out.loss, y)
    assert all(inputs[k] is v for k, v in before.items()) and len(inputs) == len(before)
    logged = {k: v[0] for k, v in trainer._metrics["train"].items()}
    assert delta or logged["clip_ratio/region_mean"] == pytest.approx(out.clip_fraction.item(), abs=1e-6)
    spread = (out.ratio.log()[mask.bool()].square().sum() / max(1, mask.sum())).sqrt()
    assert logged["actions/log_ratio_rms"] == pytest.approx(spread.item(), abs=1e-6)


@pytest.mark.parametrize("name", SPACES)
@given(mask=masks(), seed=st.integers(0, 9999), corrected=st.booleans())
@settings(max_examples=EXAMPLES)
def test_with_a_kl_penalty(name, mask, seed, corrected):
    "The penalty stays one of tokens; with TRL's bias correction each token's is multiplied by its action's ratio."
    x, inputs = batch_for(mask, seed)
    y = leaf(x.detach())
    theirs = stub(x, config=space(name), loss_type="bnpo", beta=0.1, use_bias_correction_kl=corrected).compute_loss(
        None, inputs
    )
    mine = reference(name, y, inputs, mask, "bnpo").loss
    if corrected:
        d = inputs["ref_per_token_logps"] - y
        ratio = actions_of(name, inputs, mask).log_ratio(y - inputs["old_per_token_logps"], mask).exp()
        mine = mine + 0.1 * ((d.exp() - d - 1) * ratio * mask).sum() / max(1, mask.sum())
    else:
        mine = mine + 0.1 * kl_penalty(y, inputs["ref_per_token_logps"], mask, "k3", "token-mean")
    same(theirs, x, mine, y)


@pytest.mark.parametrize("name", SPACES)
@given(mask=masks(), seed=st.integers(0, 9999))
@settings(max_examples=EXAMPLES)
def test_with_what_weighs_tokens(name, mask, seed):
    """vLLM's correction and the off-policy mask multiply a token's term, as at TRL's own levels; the mask compares
    token with token."""
    x, inputs = batch_for(mask, seed, scale=0.8)
    y = leaf(x.detach())
    A = inputs["advantages"]
    weight = torch.rand(mask.shape, generator=generator(seed), dtype=torch.double)
    theirs = stub(x, config=space(name), loss_type="dapo", use_vllm=True, off_policy_mask_threshold=0.05).compute_loss(
        None, inputs | dict(importance_sampling_ratio=weight)
    )
    drift = ((inputs["old_per_token_logps"] - y.detach()) * mask).sum(1) / mask.sum(1).clamp(min=1)
    keep = ((A >= 0) | (drift <= 0.05)).double()
    same(theirs, x, reference(name, y, inputs, mask, "dapo", A=(A * keep)[:, None] * weight).loss, y)


@given(mask=masks(), seed=st.integers(0, 9999))
@settings(max_examples=EXAMPLES)
def test_one_block_is_the_sequence(mask, seed):
    """A block as long as the response has TRL's sequence ratio; a window or block of one token TRL's token ratio, bit
    for bit in float32."""
    for loss_type in AGGREGATES:
        x, inputs = batch_for(mask, seed)
        y = leaf(x.detach())
        same(
            stub(x, config=dict(action_space="block", k=99, reduce="mean"), loss_type=loss_type).compute_loss(
                None, inputs
            ),
            x,
            stub(y, cls=GRPOTrainer, loss_type=loss_type, importance_sampling_level="sequence").compute_loss(
                None, inputs
            ),
            y,
        )
        x, inputs = batch_for(mask, seed, dtype=torch.float32)
        wanted = stub(x, cls=GRPOTrainer, loss_type=loss_type).compute_loss(None, inputs)
        (gradient,) = torch.autograd.grad(wanted, x)
        for one in (
            dict(action_space="window", k=1, future=0.2),
            dict(action_space="block", k=1, reduce="mean"),
            dict(action_space="block", k=1, reduce="sum"),
        ):
            y = leaf(x.detach())
            found = stub(y, config=one, loss_type=loss_type).compute_loss(None, inputs)
            assert torch.equal(found, wanted) and torch.equal(torch.autograd.grad(found, y)[0], gradient)


def test_a_tools_tokens_never_count():
    "Whatever stands in a tool's reply, loss and gradient are the same, and those of the row without it."
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 1]])
    for name in SPACES.keys() - {"turn"}:  # without the reply its two turns are one
        found = []
        for noise in (0.0, 7.0):
            x, inputs = batch_for(mask, 5)
            x = leaf(torch.where(mask.bool(), x.detach(), noise))
            loss = stub(x, config=space(name)).compute_loss(None, inputs)
            found.append((loss, torch.autograd.grad(loss, x)[0]))
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
        assert not found[0][1][mask == 0].any() and found[0][1].any()
        short = {k: v[:, mask[0].bool()] if v.shape == mask.shape else v for k, v in inputs.items()}
        y = leaf(x.detach()[:, mask[0].bool()])
        close(found[0][0], stub(y, config=space(name)).compute_loss(None, short), tol=1e-12)


@pytest.mark.parametrize("name", sorted(SPACES.keys() - {"turn"}))  # a turn ends there whatever it is told
def test_actions_end_at_a_tools_reply_where_they_are_told_to(name):
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1, 0, 0, 0]])
    x, inputs = batch_for(mask, 3)
    y = leaf(x.detach())
    found = stub(x, config=space(name) | dict(gaps="end")).compute_loss(None, inputs)
    actions = dataclasses.replace(actions_of(name, inputs, mask), gaps="end")
    wanted = policy_loss(
        y, inputs["old_per_token_logps"], inputs["advantages"], mask, actions, CLIP, aggregate="seq-mean-token-mean"
    ).loss
    same(found, x, wanted, y)
    across = stub(leaf(x.detach()), config=space(name)).compute_loss(None, inputs)
    assert found != across


def test_accumulation_and_first_pass():
    """Loss types are divided by the accumulation steps; without old log-probabilities every ratio is 1, and its
    gradient is W's."""
    mask = torch.ones(3, 6, dtype=torch.long).tril(3)
    for loss_type in AGGREGATES:
        x, inputs = batch_for(mask, 1)
        one, two = (
            stub(x, config=space("window"), loss_type=loss_type, steps=n).compute_loss(
                None, inputs | dict(num_items_in_batch=mask.sum() * n)
            )
            for n in (1, 2)
        )
        close(one, two * 2, tol=1e-12)
    x, inputs = batch_for(mask, 2)
    del inputs["old_per_token_logps"]
    trainer = stub(x, config=space("window"), loss_type="bnpo")
    (gradient,) = torch.autograd.grad(trainer.compute_loss(None, inputs), x)
    wanted = -WindowActions(3, 0.4).credit(inputs["advantages"][:, None] * mask, mask) / mask.sum()
    close(gradient, wanted, tol=1e-12)
    assert trainer._metrics["train"]["actions/log_ratio_rms"] == [0.0]


def test_low_precision_is_not_rounded_again():
    "bfloat16 log-probabilities: the mean over a block keeps what their differences have."
    x = torch.tensor([[-5.0, -5.03125, -0.5, -0.25]], dtype=torch.bfloat16)
    old = torch.tensor([[-5.03125, -5.0, -0.5, -0.2578125]], dtype=torch.bfloat16)
    moved, delta, log_ratio = moved_old_logps(x, old, torch.ones(1, 4), BlockActions(4))
    assert moved.dtype == torch.float32 and log_ratio[0, 0] == delta.mean()
    close((x - moved).double(), torch.full((1, 4), delta.mean().item(), dtype=torch.double), tol=1e-6)
    assert delta.mean() == 2**-9 and x[0, 0] == x[0, 0] - torch.tensor(
        2**-9, dtype=torch.bfloat16
    )  # less than bfloat16 tells apart at -5


def test_a_loss_that_does_not_listen(monkeypatch):
    "Where another TRL reads the old log-probabilities before its forward pass, or makes none, the first loss says so."
    x, inputs = batch_for(torch.ones(2, 4, dtype=torch.long), 0)
    for deaf in (
        lambda self, model, given: self._get_per_token_logps_and_entropies(model)[0].sum(),
        lambda self, model, given: x.sum(),
    ):
        monkeypatch.setattr(GRPOTrainer, "_compute_loss", deaf)
        with pytest.raises(RuntimeError, match="action_space='block' does not reach it"):
            stub(x, config=space("block")).compute_loss(None, inputs)


# Training

TASK = load_task("chain_sum", n_train=64, n_test=8)


def odd(completions, **_):
    return [sum(c in "13579" for c in text) / 12 for text in completions]  # differs within a group, whatever the length


def exact(completions, answer, **_):
    return [TASK.reward({"answer": a}, c) for a, c in zip(answer, completions, strict=True)]


def trainer_of(
    kind="ours",
    *,
    cls=None,
    callbacks=(),
    rollout_func=None,
    peft_config=None,
    reward=odd,
    eval_dataset=None,
    **options,
):
    "A trainer on the tiny model; ten steps of 8 responses, two passes over each batch. Its output folder is a new one."
    own, config = (BlockGRPOTrainer, BlockGRPOConfig) if kind == "ours" else (GRPOTrainer, GRPOConfig)
    given = (
        dict(
            max_steps=10,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=8,
            learning_rate=1e-3,
            num_iterations=2,
            logging_steps=1,
            seed=3,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        )
        | options
    )
    extra = {} if rollout_func is None else dict(rollout_func=rollout_func)
    trainer = (cls or own)(
        model=tiny_model_path(),
        reward_funcs=reward,
        args=config(output_dir=tempfile.mkdtemp(), **given),
        train_dataset=Dataset.from_list(TASK.train),
        eval_dataset=eval_dataset,
        peft_config=peft_config,
        processing_class=char_tokenizer(),
        callbacks=list(callbacks),
        **extra,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def outcome(trainer):
    "Train; the parameters, and what was logged without what a clock or our own metrics add."
    trainer.train()
    clocks = ("runtime", "per_second", "time", "actions/")
    rows = [{k: v for k, v in row.items() if not any(c in k for c in clocks)} for row in trainer.state.log_history]
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}, rows


@functools.lru_cache
def trl_run(**options):
    "What TRL's own trainer does with these settings."
    return outcome(trainer_of("trl", **options))


def identical(found, wanted):
    "Parameters to the last bit, and every number that is logged."
    assert found[0].keys() == wanted[0].keys()
    assert all(torch.equal(p, wanted[0][name]) for name, p in found[0].items())
    assert len(found[1]) == len(wanted[1])
    for mine, theirs in zip(found[1], wanted[1]):
        assert mine.keys() == theirs.keys()
        assert all(v == theirs[k] or (v != v and theirs[k] != theirs[k]) for k, v in mine.items())


def moved(trainer, result):
    "Whether training changed weights, with finite numbers throughout and ratios that left 1."
    start = AutoModelForCausalLM.from_pretrained(tiny_model_path()).state_dict()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert all(
        math.isfinite(v)
        for row in rows
        for k, v in row.items()
        if v is not None and (k in ("loss", "grad_norm", "entropy", "kl") or k.startswith(("actions/", "clip_ratio/")))
    )
    changed = [name for name, p in result[0].items() if name not in start or not torch.equal(p, start[name])]
    return bool(changed) and max(row["actions/token_log_ratio_rms"] for row in rows) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", AGGREGATES)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_ten_steps_to_the_last_bit(level, loss_type):
    """Parameters and logged numbers are TRL's. These two levels run TRL's own lines; windows and blocks of one token
    run ours, and come out the same."""
    wanted = trl_run(loss_type=loss_type, importance_sampling_level=level)
    losses = [row["loss"] for row in wanted[1] if "loss" in row]
    assert len(losses) == 10 and any(losses) and max(row.get("clip_ratio/region_mean", 0) for row in wanted[1]) > 0
    identical(outcome(trainer_of(action_space=level, loss_type=loss_type)), wanted)
    if level == "token":
        identical(outcome(trainer_of(action_space="window", k=1, loss_type=loss_type)), wanted)


OPTIONS = {
    "accumulation, kl, checkpointing": dict(
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        beta=0.05,
        loss_type="grpo",
        gradient_checkpointing=True,
    ),
    "stale, delta": dict(steps_per_generation=4, num_iterations=1, loss_type="bnpo", delta=1.5),
    "truncated, off-policy mask": dict(
        mask_truncated_completions=True, max_completion_length=20, loss_type="dr_grpo", off_policy_mask_threshold=0.001
    ),
    "entropy quantile, bf16": dict(top_entropy_quantile=0.5, bf16=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_trl_are_untouched(name):
    "With windows of one token, through our lines, every option gives TRL's own numbers; with wider ones it trains."
    options = dict(max_steps=4) | OPTIONS[name]
    identical(outcome(trainer_of(action_space="window", k=1, **options)), trl_run(**options))
    trainer = trainer_of(action_space="window", k=4, **options)
    assert moved(trainer, result := outcome(trainer))
    assert any(not torch.equal(p, result[0][k]) for k, p in trl_run(**options)[0].items())
    if "truncated" in name:
        assert any(0 < row.get("completions/clipped_ratio", 0) < 1 for row in result[1])


def test_lora():
    "Adapters move, the base model does not; a checkpoint holds them and the settings, and training goes on from it."
    from peft import LoraConfig

    trainer = trainer_of(
        action_space="block",
        k=4,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    before = {k: p.detach().clone() for k, p in trainer.model.named_parameters()}
    after, _ = outcome(trainer)
    changed = {k for k, p in after.items() if not torch.equal(p, before[k])}
    assert changed and all("lora_" in k for k in changed)
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-2"
    saved = torch.load(checkpoint / "training_args.bin", weights_only=False)
    assert (
        type(saved) is BlockGRPOConfig
        and (saved.action_space, saved.k, saved.reduce) == ("block", 4, "mean")
        and (checkpoint / "adapter_model.safetensors").is_file()
    )
    again = trainer_of(
        action_space="block", k=4, max_steps=4, peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 4 and [row["step"] for row in again.state.log_history if "loss" in row] == [
        1,
        2,
        3,
        4,
    ]


def test_sentences_train_and_are_read_back():
    """A run with sentence ratios changes weights; what it logs as completions comes back as traces, whose sentences
    have the length that was logged."""
    tokenizer = char_tokenizer()
    trainer = trainer_of(
        action_space="sentence",
        max_steps=3,
        num_iterations=1,
        max_completion_length=48,
        reward=exact,
        log_completions=True,
        num_completions_to_print=0,
    )
    start = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    after, _ = outcome(trainer)
    assert any(not torch.equal(p, q) for p, q in zip(after.values(), start.parameters(), strict=True))
    traces = load_completions(trainer.args.output_dir, tokenizer, pass_mark=1.0)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(traces) == 3 * 8 and len(rows) == 3 and {t.group for t in traces} == {0, 1}
    for row in rows:
        step = [t for t in traces if t.step == row["step"]]
        assert sum(t.reward for t in step) / 8 == pytest.approx(row["reward"]) and all(
            t.correct == (t.reward == 1) for t in step
        )
        assert all(
            t.reward
            == TASK.reward({"answer": next(p["answer"] for p in TASK.train if p["prompt"] == t.prompt)}, t.text)
            for t in step
        )
        assert row["completions/clipped_ratio"] == 0
        sizes = [
            block_sizes(sentence_blocks(torch.ones(1, len(t.tokens) + 1), [[*t.tokens, "<eos>"]])) for t in step
        ]  # the log leaves the last token out
        assert row["actions/mean_length"] == pytest.approx(
            sum(len(t.tokens) + 1 for t in step) / sum(s.shape[1] for s in sizes)
        )


def test_evaluation_logs_its_own():
    "In evaluation the metrics carry eval_, and no gradient is needed."
    trainer = trainer_of(
        action_space="window", k=4, per_device_eval_batch_size=8, eval_dataset=Dataset.from_list(TASK.test[:4])
    )
    trainer.evaluate()
    assert trainer.state.log_history[-1]["eval_actions/log_ratio_rms"] == 0 and not trainer._read


@pytest.mark.skipif(VERSION < (1, 0), reason="this TRL calls a rollout_func only with vLLM")
def test_a_run_with_a_tools_tokens(monkeypatch):
    """Responses from elsewhere, with a reply between that the policy did not write: TRL's own tool mask reaches the
    blocks."""
    tokenizer = char_tokenizer()
    seen = []

    def rollout(prompts, trainer):
        texts = [f"{i}+1={i + 1};99;{i + 1}+1={i + 2}#{i + 2}" for i in range(len(prompts))]
        ids = [tokenizer(t, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for t in texts]
        return dict(
            prompt_ids=[tokenizer(p)["input_ids"] for p in prompts],
            completion_ids=ids,
            logprobs=None,
            env_mask=[[0 if 6 <= t < 9 else 1 for t in range(len(row))] for row in ids],
        )

    keep = ours.make_actions
    monkeypatch.setattr(
        ours, "make_actions", lambda args, mask, tokens: seen.append((mask.clone(), tokens)) or keep(args, mask, tokens)
    )
    trainer = trainer_of(
        action_space="sentence",
        rollout_func=rollout,
        reward=lambda completions, **_: [float(i % 3) for i in range(len(completions))],
        max_steps=2,
        max_completion_length=48,
    )
    assert moved(trainer, outcome(trainer))
    for mask, tokens in seen:
        assert not mask[:, 6:9].any() and mask[:, :6].all() and all(row[6:9] == ["", "", ""] for row in tokens)


def test_a_loss_that_is_computed_elsewhere_is_refused_before_the_first_update():
    "What a package does that puts its own trainer in TRL's place: a compute_loss of its own."

    class Elsewhere(BlockGRPOTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            ids, mask = (torch.cat([inputs["prompt_" + x], inputs["completion_" + x]], 1) for x in ("ids", "mask"))
            return model(input_ids=ids, attention_mask=mask).logits.square().mean()

    for wanted, options in (
        (True, dict(action_space="sentence")),
        (True, dict(action_space="block", k=2)),
        (False, {}),
    ):
        trainer = trainer_of(cls=Elsewhere, max_steps=1, **options)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        if not wanted:
            trainer.train()
            continue
        with pytest.raises(
            RuntimeError,
            match=f"action_space='{options['action_space']}' does not reach the loss.*Elsewhere computes it",
        ):
            trainer.train()
        assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters()))


# Settings and versions


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(action_space="word"),
            "action_space='word'; choose one of token, window, block, sentence, turn, sequence",
        ),
        (dict(action_space="window"), "k=None; action_space='window' needs"),
        (dict(action_space="block"), "k=None; action_space='block' needs"),
        (dict(action_space="block", k=0), "k=0; it must be"),
        (dict(action_space="window", k=2.5), "k=2.5; it must be"),
        (dict(k=4), "k=4 means nothing to action_space='token'; leave it out, or choose window or block"),
        (dict(action_space="sentence", k=4), "k=4 means nothing"),
        (dict(action_space="sequence", k=4), "k=4 means nothing"),
        (
            dict(action_space="block", k=4, future=0.2),
            "future=0.2 means nothing to action_space='block'; leave it out, or choose window",
        ),
        (dict(future=0.0), "future=0.0 means nothing"),
        (dict(action_space="window", k=4, future=1.0), "future=1.0; the share"),
        (
            dict(action_space="window", k=4, reduce="mean"),
            "reduce='mean' means nothing to action_space='window'; leave it out, or choose block or sentence or turn",
        ),
        (dict(action_space="sequence", reduce="sum"), "reduce='sum' means nothing"),
        (dict(gaps="end"), "gaps='end' means nothing"),
        (dict(action_space="block", k=2, gaps="cut"), "gaps='cut'; choose 'skip'"),
        (dict(action_space="sentence", reduce="max"), "reduce='max'; choose 'mean'"),
        (
            dict(importance_sampling_level="sequence"),
            (
                "importance_sampling_level='sequence' contradicts action_space='token'; leave it out, or say"
                " action_space='sequence'"
            ),
        ),
        (dict(action_space="window", k=4, importance_sampling_level="sequence"), "contradicts action_space='window'"),
        (dict(importance_sampling_level="sentence"), "importance_sampling_level='sentence'; leave it out"),
        *(
            (
                dict(action_space="sentence", loss_type=x),
                f"loss_type='{x}' has no form for action_space='sentence'; choose grpo, bnpo, dr_grpo, dapo, or",
            )
            for x in ("cispo", "sapo", "vespo", "luspo", "none such")
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, message, tmp_path):
    with pytest.raises(ValueError) as error:
        BlockGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **wrong)
    assert message in str(error.value)


def test_a_fused_loss_is_refused_where_there_is_one(monkeypatch, tmp_path):
    "Up to TRL 1.13 Liger's kernel takes the place of the loss; later it touches the model's layers only."
    assert hasattr(GRPOTrainer, "compute_liger_loss") == (VERSION < (1, 14))
    monkeypatch.setattr(GRPOTrainer, "compute_liger_loss", None, raising=False)
    with pytest.raises(ValueError, match="use_liger_kernel=True replaces the loss"):
        BlockGRPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, action_space="sentence", use_liger_kernel=True
        )


def test_settings_are_filled_in_and_survive(tmp_path):
    "Read back from a dictionary, the settings are the same; TRL's own levels keep all of TRL's losses."
    for options, wanted in (
        (dict(action_space="window", k=4), ("window", 4, 0.2, None, "token")),
        (dict(action_space="block", k=2), ("block", 2, None, "mean", "token")),
        (dict(action_space="sentence", reduce="sum"), ("sentence", None, None, "sum", "token")),
        (dict(action_space="sequence", loss_type="luspo"), ("sequence", None, None, None, "sequence")),
        (dict(loss_type="cispo"), ("token", None, None, None, "token")),
    ):
        made = BlockGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)

        def read(c):
            return (c.action_space, c.k, c.future, c.reduce, c.importance_sampling_level)

        assert read(made) == wanted
        again = BlockGRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            loss_type=made.loss_type,
            **{k: made.to_dict()[k] for k in ("action_space", "k", "future", "reduce", "importance_sampling_level")},
        )
        assert read(again) == wanted


def test_the_command_line_knows_them():
    from trl import TrlParser

    (args,) = TrlParser(BlockGRPOConfig).parse_args_and_config(
        [
            "--output_dir",
            tempfile.mkdtemp(),
            "--action_space",
            "window",
            "--k",
            "4",
            "--future",
            "0.3",
            "--use_cpu",
            "true",
            "--bf16",
            "false",
        ]
    )
    assert (args.action_space, args.k, args.future, args.reduce) == ("window", 4, 0.3, None)


SHELL_REWARDS = """
def short(completions, **_):
    return [-float(len(c)) for c in completions]
"""


def shell_words(folder: Path, *more: str) -> list[str]:
    "A run of `mpo-trl grpo` on the tiny model, two steps of four responses."
    (folder / "shell_rewards.py").write_text(SHELL_REWARDS)
    (folder / "train.jsonl").write_text("".join(json.dumps(dict(prompt=f"{a}+5=")) + "\n" for a in range(8)))
    settings = dict(
        model_name_or_path=tiny_model_path(),
        dataset_name="json",
        reward_funcs="shell_rewards.short",
        output_dir=folder / "run",
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        logging_steps=1,
        report_to="none",
        use_cpu="true",
        bf16="false",
    )
    return ["grpo", *(str(word) for name, value in settings.items() for word in (f"--{name}", value)), *more]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_from_the_shell(tmp_path, processes):
    """`mpo-trl grpo` with settings in YAML and on the line: what is trained has the action space, in one process and
    in two, and its card says so."""
    words = shell_words(tmp_path, "--dataset_name", str(tmp_path / "data"), "--config", "run.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "train.jsonl").rename(tmp_path / "data" / "train.jsonl")
    (tmp_path / "run.yaml").write_text("action_space: window\nk: 2\nfuture: 0.5\nsave_steps: 2\n")
    words += ["--num_processes", "2"] if processes == 2 else []
    code = f"import sys; from mpo_nb.trl import trl_main; sys.exit(trl_main({words!r}))"
    quiet = dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | quiet, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    rows = [row for row in state["log_history"] if "loss" in row]
    assert len(rows) == 2 and all(1 < row["actions/mean_length"] <= 2 for row in rows)
    saved = torch.load(tmp_path / "run" / "training_args.bin", weights_only=False)
    assert type(saved).__module__ == "mpo_nb.trl" and (saved.action_space, saved.k, saved.future) == ("window", 2, 0.5)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "GRPO with windows of 2 tokens (50% of the weight on the later ones) as actions" in card
    assert "2602.14386" in card and "- window-actions" in card


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "usage: mpo-trl grpo"),
        (["sft"], "usage: mpo-trl grpo"),
        (["grpo", "--action_space", "sentence", "--k", "4"], "k=4 means nothing to action_space='sentence'"),
        (["grpo", "--action_space", "word"], "action_space='word'; choose one of"),
        (["grpo", "--acton_space", "window"], "--acton_space: neither TRL nor accelerate has it"),
        (["grpo", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["grpo", "--action_space", "window", "--k", "4"], "no data set is named; give --dataset_name"),
    ],
)
def test_the_shell_says_what_is_wrong_before_any_work(words, said, capsys, tmp_path):
    plain = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"] if words[:1] == ["grpo"] else []
    assert ours.trl_main([*words, *plain]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line and "\n" not in line
    import trl

    assert trl.GRPOTrainer is GRPOTrainer and trl.GRPOConfig is GRPOConfig  # nothing stays replaced


def test_the_help_names_the_command(capsys):
    with pytest.raises(SystemExit):
        ours.trl_main(["grpo", "--help"])
    assert capsys.readouterr().out.startswith("usage: mpo-trl grpo ")


@pytest.mark.parametrize(
    "settings, name, paper",
    [
        (dict(action_space="token"), "GRPO with tokens as actions", "2402.03300"),
        (dict(action_space="block", k=3, reduce="sum"), "blocks of 3 tokens, joint ratios", "2602.14386"),
        (dict(action_space="sentence"), "GRPO with sentences as actions", "2510.22115"),
        (dict(action_space="turn"), "GRPO with turns as actions", "2402.03300"),
        (dict(action_space="sequence"), "GRPO with whole responses as actions", "2507.18071"),
    ],
)
def test_the_model_card_names_the_action_space_and_its_paper(settings, name, paper, tmp_path):
    args = BlockGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **settings)
    trainer = BlockGRPOTrainer(tiny_model_path(), exact, args, train_dataset=Dataset.from_list([dict(prompt="7+5=")]))
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert name in card and f"huggingface.co/papers/{paper}" in card and "- mpo_nb" in card


def test_the_trainer_wants_its_own_settings(tmp_path):
    for args, name in (
        (GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), "GRPOConfig"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"args is a {name}; pass BlockGRPOConfig"):
            BlockGRPOTrainer("no such model", exact, args)


def test_trl_is_trl():
    "`mpo_nb.trl` imports the package of that name, not itself."
    import trl

    assert (
        ours.GRPOTrainer is trl.GRPOTrainer
        and issubclass(BlockGRPOTrainer, trl.GRPOTrainer)
        and issubclass(BlockGRPOConfig, trl.GRPOConfig)
    )
    assert ours is not trl and trl.__version__ == installed_trl()


@pytest.mark.parametrize(
    "version, message",
    [(None, "not installed; run: pip install 'trl>="), ("0.20.0", "0.20.0 is installed; run: pip install -U 'trl>=")],
)
def test_without_a_trl_that_fits(version, message, monkeypatch):
    "The module is imported all the same, and says what to install when a class is used."

    def found(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    spec = importlib.util.spec_from_file_location("mpo_nb.trl_elsewhere", ours.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert not issubclass(module.BlockGRPOTrainer, GRPOTrainer)
    for make in (
        lambda: module.BlockGRPOConfig("out", action_space="sentence"),
        lambda: module.BlockGRPOTrainer("model", exact, None),
    ):
        with pytest.raises(ImportError) as error:
            make()
        assert message in str(error.value)


def test_the_range_of_versions():
    """What is installed lies in the range that is stated; in the run below it is the lowest. A newer one gives a
    warning."""
    low, high = (tuple(map(int, v.split("."))) for v in trl_versions)
    assert VERSION == low if "MPO_NB_TRL" in os.environ else low <= VERSION <= high
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_trl(installed_trl())
        check_trl(f"{trl_versions[1]}.9")
    with pytest.warns(
        UserWarning, match=f"tested with TRL {trl_versions[0]} to {trl_versions[1]}, and 99.0 is installed"
    ):
        check_trl("99.0")


def test_the_lowest_is_what_the_package_asks_for(root):
    parser = configparser.ConfigParser()
    parser.read(root / "settings.ini")
    assert parser["DEFAULT"]["trl_requirements"] == f"trl>={trl_versions[0]}"


LOW_END = (
    "policy_loss or kl_penalty or weighs or one_block or tools_tokens_never or first_pass or untouched or lora or"
    " sentences_train or evaluation or fused or filled_in or command_line or trl_is_trl or range_of_versions or"
    " ten_steps and (token-grpo or sequence-dapo)"
)


@pytest.mark.slow
@pytest.mark.skipif("MPO_NB_TRL" in os.environ, reason="this is the run that the test starts")
def test_the_lowest_trl(root, tmp_path):
    "This file again, on the lowest TRL of the range: its wheel alone, in front of the installed one."
    wheel = f"trl=={trl_versions[0]}.0"
    got = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "--retries",
            "1",
            "--target",
            tmp_path / "trl",
            wheel,
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    if got.returncode:
        pytest.skip(f"{wheel} cannot be downloaded: {got.stderr.strip().splitlines()[-1]}")
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(tmp_path / "trl"), str(root)]), MPO_NB_TRL=trl_versions[0])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", LOW_END],
        capture_output=True,
        text=True,
        cwd=root,
        env=env,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 60, done.stdout[-2000:]


# What it costs


def test_the_cost_is_what_the_page_says(root):
    with open(root / "benchmarks" / "trl_blocks.csv", newline="") as f:
        rows = {row.pop("case"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(f)}
    assert rows["TRL, token"]["ratio"] == 1 and all(
        row["ratio"] < 1.1 and row["ratio_of_best"] < 1.1 for row in rows.values()
    )
    assert all(
        row["hand_over_ms"] < (4 if case == "sentence" else 1.5) and row["training_seconds"] > 0.2
        for case, row in rows.items()
    )


def test_the_cost_can_be_measured_again(root, monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("trl_blocks", root / "benchmarks" / "trl_blocks.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.long_responses("sentence", rounds=1) > 0 == script.long_responses("token")
    monkeypatch.setattr(script, "STEPS", 2)
    monkeypatch.setattr(script, "WARM", 0)
    training, pairs, ours_alone = script.measure("block k=4", str(tmp_path))
    assert len(training) == len(ours_alone) == 2 and len(pairs) == 1 and min(training) > min(ours_alone) > 0


# Texts of tokens


def test_characters_over_several_tokens():
    "A full stop of three bytes, one token each, closes its sentence at the third; ids are decoded once."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    rows = TokenRows(tokenizer)
    texts = ["ab。c", "a.bcd."]
    ids = torch.tensor([tokenizer(t)["input_ids"] for t in texts])
    mask = torch.ones_like(ids)
    found = rows(ids, mask)
    assert ["".join(row) for row in found] == texts and found[0] == token_texts(tokenizer, ids[0].tolist())
    assert sentence_blocks(mask, found).tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]]
    calls = []
    rows.tokenizer = SimpleNamespace(decode=lambda part, **_: calls.append(part) or tokenizer.decode(part))
    assert rows(ids[1:], mask[1:]) == found[1:] and not calls
    assert TokenRows(SimpleNamespace(tokenizer=tokenizer))(ids, mask) == found  # a processor
    assert rows(ids[:1], torch.tensor([[1, 1, 0, 0, 0, 1]])) == [["a", "b", "", "", "", "c"]]
