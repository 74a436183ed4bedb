"""What only a GPU can show: half precision, compiled decoding, a plan beside the allocator's own count, and memory that
really runs out."""

import gc

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from mpo_nb.config import TrainConfig
from mpo_nb.models.loading import dtypes, load
from mpo_nb.planning.plan import plan_memory
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.tasks.task import Task
from mpo_nb.training.trainer import Trainer

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
PROMPT = 64
SHAPE = Qwen2Config(
    vocab_size=32768,
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    eos_token_id=1,
    pad_token_id=0,
    bos_token_id=None,
)
STEP = dict(
    recipe="mpo",
    k=4,
    prompts_per_step=4,
    group_size=8,
    epochs=2,
    minibatches=2,
    eval_every=0,
    checkpoint_every=10**6,
    steps=10**6,
    progress=False,
    device=DEVICE,
)


@pytest.fixture(autouse=True)
def memory():
    "Each test begins with the memory free and its peak forgotten."
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def words() -> PreTrainedTokenizerFast:
    "A word for every id."
    made = Tokenizer(
        models.WordLevel({"<pad>": 0, "<end>": 1} | {f"t{i}": i for i in range(2, SHAPE.vocab_size)}, unk_token="<pad>")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left")


def make_trainer(folder, **options) -> Trainer:
    "63 million random weights, prompts of 64 words, a reward that differs within a group."
    config = TrainConfig(**STEP | options, output=str(folder))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        SHAPE, dtype=dtypes[config.precision] if config.lora_rank else torch.float32
    )
    problems = [dict(prompt=f"t{100 + i} " + "t7 " * (PROMPT - 1), answer="0") for i in range(config.prompts_per_step)]
    task = Task("synthetic", problems, problems, lambda problem, response: float(sum(map(ord, response)) % 7))
    return Trainer(config, model=model, tokenizer=words(), task=task)


def trained(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().float().cpu().clone() for p in trainer.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_adapters_train_in_half_precision(precision, tmp_path):
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this card does not multiply bfloat16")
    trainer = Trainer(
        TrainConfig(
            **STEP | dict(precision=precision, lora_rank=8, lr=1e-3, steps=3, checkpoint_every=3), output=str(tmp_path)
        )
    )
    before = trained(trainer)
    rows = trainer.fit()
    after = trained(trainer)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in trainer.model.parameters() if not p.requires_grad} == {dtypes[precision]}
    assert all(p.is_cuda for p in trainer.model.parameters()) and all(p.isfinite().all() for p in after)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(before, after)), "nothing was trained"
    assert all(abs(row["ratio_q50"] - 1) < 0.1 and row["logp_mismatch"] < 1 for row in rows)
    assert [row["peak_memory_mb"] > 0 for row in rows] == [True] * 3
    model, tokenizer = load(trainer.run.checkpoints()[-1][1], DEVICE, precision, quiet=True)
    assert rollout(model, tokenizer, ["7+5-3?"], 4, 32).ids.is_cuda


@pytest.mark.parametrize("lora_rank", [0, 8])
def test_compiled_decoding_says_what_dynamic_decoding_says(lora_rank):
    """The most likely tokens, of a trained model in float32, where rounding decides nothing; rows end at different
    times."""
    model, tokenizer = load("tiny", DEVICE, "float32", lora_rank, quiet=True)
    prompts = ["7+5-3+8?", "1+1?", "9-4+2-2+8?", "3+3-1?"]
    dynamic, compiled = (
        rollout(model, tokenizer, prompts, 3, 48, greedy=True, decoding=how) for how in ("dynamic", "compiled")
    )
    assert (
        dynamic.texts == compiled.texts
        and torch.equal(dynamic.ids, compiled.ids)
        and torch.equal(dynamic.finished, compiled.finished)
    )
    assert (dynamic.logps - compiled.logps).abs().max() < 1e-3 and len(set(dynamic.lengths.tolist())) > 1


@pytest.mark.parametrize(
    "options",
    [
        dict(precision="float32"),
        dict(precision="float16", lora_rank=16),
        dict(precision="float16", lora_rank=16, gradient_checkpointing=True),
    ],
    ids=["full", "LoRA", "checkpointing"],
)
def test_the_peak_is_near_the_plan(options, tmp_path):
    """Random weights end a response once in 32,768 tokens, so lengths are what was planned for. Decoding is dynamic, as
    the plan has it."""
    options |= dict(max_new_tokens=64, micro_batch_tokens=16 * (PROMPT + 64), decoding="dynamic")
    outside = torch.cuda.memory_allocated()
    trainer = make_trainer(tmp_path, **options)
    for step in (1, 2):
        trainer.step(step)
    peak = torch.cuda.max_memory_allocated() - outside
    plan = plan_memory(trainer.config, SHAPE, device=DEVICE, prompt_tokens=PROMPT, cards={})
    assert 0.75 < plan.peak / peak < 1.3, plan


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_gradient(tmp_path, capsys):
    "The allocator is given six tenths of what the pass took before, above what stands there all along."
    trainer = make_trainer(
        tmp_path, precision="float32", max_new_tokens=64, micro_batch_tokens=10**5, decoding="dynamic"
    )
    batch = trainer.collect(1)
    lengths = (batch.rollout.prompt_mask.sum(1) + batch.rollout.lengths).cpu()

    def gradient():
        trainer.policy.memory.run(lambda tokens: trainer.learner.accumulate(batch, batch.kept, 1, tokens), lengths)
        found = torch.cat([p.grad.flatten().cpu() for p in trainer.model.parameters()])
        trainer.learner.optimizer.zero_grad(set_to_none=True)
        return found

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    stands = torch.cuda.memory_allocated()
    whole = gradient()
    peak = torch.cuda.max_memory_allocated()
    assert trainer.policy.memory.tokens == 10**5 and whole.norm() > 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (stands + 0.6 * (peak - stands)) / torch.cuda.get_device_properties(0).total_memory
    )
    cut = gradient()
    said = "".join(capsys.readouterr())
    assert (
        "Out of memory with" in said
        and f"going on with micro_batch_tokens={trainer.policy.memory.tokens}" in said
        and trainer.policy.memory.tokens < int(lengths.sum())
    )
    torch.testing.assert_close(cut, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
