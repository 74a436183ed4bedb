"Models: where they come from, what is trained, what is saved, and that prompts reach them as their templates say."

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

import mpo_nb.training.sweeps
from mpo_nb.config import TrainConfig, choose_precision
from mpo_nb.models import loading
from mpo_nb.models.loading import (
    adapters_off,
    check_vocabulary,
    load,
    load_shape,
    load_state,
    load_tokenizer,
    model_source,
    save_merged,
)
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.runtime.budgets import MemoryBudget
from mpo_nb.sampling.rollouts import encode_prompts, rollout
from mpo_nb.tasks.prompts import render_prompt
from mpo_nb.tasks.sums import chain_sum
from mpo_nb.training.sweeps import _decided
from mpo_nb.training.trainer import Trainer

SMALL = dict(
    steps=2, prompts_per_step=4, group_size=4, eval_every=0, checkpoint_every=1, precision="float32", progress=False
)
CHAT = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
PROMPT = "7+5-3?"


def small(folder, **options) -> TrainConfig:
    return TrainConfig(output=str(folder / "run"), **SMALL | options)


def logits(model, tokenizer, text=PROMPT):
    with torch.no_grad():
        return model(tokenizer(text, return_tensors="pt").input_ids).logits.float()


# Where a model comes from


@pytest.mark.parametrize("name", ["./gone", "/gone/away", "~/gone", "gone/a/b", "/gone/model.gguf", ""])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_name(name):
    with pytest.raises(FileNotFoundError, match="is not there; give 'tiny', a hub name"):
        model_source(name)


def test_a_folder_wins_over_a_hub_name(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_source("owner/name") == (str(Path("owner/name")), {}) and model_source("owner/other") == (
        "owner/other",
        {},
    )


def test_a_hub_that_cannot_be_reached_names_the_argument(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match="model='nobody/nothing-at-all' cannot be opened: .*pass a local folder or a GGUF file"
    ):
        load("nobody/nothing-at-all")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(quantization="4bit", training=True), "nothing to train; set lora_rank"),
        (dict(quantization="3bit"), "quantization='3bit'; choose one of"),
        (dict(precision="half"), "precision='half'; choose one of"),
        (dict(attention="flash"), "attention='flash'; choose one of"),
        (dict(attention="flash_attention_2"), "needs the package flash_attn"),
        (dict(lora_rank=-1), "lora_rank=-1"),
        (dict(lora_rank=True), "lora_rank=True"),
        (dict(device="cuda:7"), "torch sees no GPU|device"),
        (dict(device="tpu9"), "device='tpu9' is no device"),
    ],
)
def test_options_that_cannot_be_are_refused_before_weights_are_read(options, message, monkeypatch):
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were read before the error")
    )
    with pytest.raises(ValueError, match=message):
        load(**dict(model="tiny", quiet=True) | options)


def test_layers_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="lora_targets='nowhere'"):
        load("tiny", lora_rank=2, lora_targets="nowhere", precision="float32", quiet=True)


@pytest.mark.parametrize(
    "precision, lora_rank, training, kept",
    [
        ("float32", 0, True, torch.float32),
        ("bfloat16", 0, True, torch.float32),
        ("bfloat16", 0, False, torch.bfloat16),
        ("bfloat16", 4, True, torch.bfloat16),
        ("float16", 4, True, torch.float16),
        ("float16", 0, True, torch.float32),
    ],
)
def test_what_is_trained_is_float32_and_what_is_frozen_is_small(precision, lora_rank, training, kept, capsys):
    model, _ = load("tiny", "cpu", precision, lora_rank, training=training)
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert {p.dtype for p in (frozen if lora_rank else trained)} == {kept}
    assert not lora_rank or {p.dtype for p in trained} == {torch.float32}
    assert not model.training
    said = "".join(capsys.readouterr())
    assert (
        str(kept).removeprefix("torch.") in said
        and "on cpu, attention sdpa, no chat template, plain prompts" in said
        and ("LoRA trains" in said) == bool(lora_rank)
    )


def test_targets_choose_the_layers():
    model, _ = load("tiny", precision="float32", lora_rank=2, lora_targets="q_proj, v_proj", quiet=True)
    assert {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad} == {"q_proj", "v_proj"} or {
        part
        for name, p in model.named_parameters()
        if p.requires_grad
        for part in name.split(".")
        if part.endswith("_proj")
    } == {"q_proj", "v_proj"}


# Adapters


def moved(folder=None, rank=4):
    "The tiny model with adapters that do something."
    model, tokenizer = load("tiny", "cpu", "float32", rank, quiet=True)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.05)
    if folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_adapters_merged_saved_and_put_back_are_one_model(tmp_path):
    model, tokenizer = moved(tmp_path / "adapters")
    expected = logits(model, tokenizer)
    save_merged(tmp_path / "adapters", tmp_path / "merged", "float32")
    assert not list((tmp_path / "merged").glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    merged, own = load(tmp_path / "adapters", precision="float32", quiet=True)
    for other in (plain, merged):
        torch.testing.assert_close(logits(other, own), expected, rtol=1e-4, atol=1e-4)
    fresh, _ = load("tiny", "cpu", "float32", 4, quiet=True)
    assert not torch.allclose(logits(fresh, tokenizer), expected, atol=1e-2), (
        "the adapters do nothing: this compares nothing"
    )
    load_state(fresh, tmp_path / "adapters")
    assert torch.equal(logits(fresh, tokenizer), expected)


def test_adapters_on_a_folder_of_adapters_start_from_the_merged_model(tmp_path):
    model, tokenizer = moved(tmp_path / "first")
    expected = logits(model, tokenizer)
    second, _ = load(tmp_path / "first", "cpu", "float32", 2, quiet=True)
    torch.testing.assert_close(logits(second, tokenizer), expected, rtol=1e-4, atol=1e-4)
    with adapters_off(second):
        torch.testing.assert_close(logits(second, tokenizer), expected, rtol=1e-4, atol=1e-4)
    second.save_pretrained(tmp_path / "second", save_embedding_layers=False)
    third, _ = load(tmp_path / "second", "cpu", "float32", quiet=True)
    torch.testing.assert_close(logits(third, tokenizer), expected, rtol=1e-4, atol=1e-4)
    assert load_shape(tmp_path / "second").hidden_size == 128


def test_all_weights_are_trained_from_a_folder_of_adapters(tmp_path):
    moved(tmp_path / "adapters")
    trainer = Trainer(small(tmp_path, model=str(tmp_path / "adapters"), steps=1))
    assert all(p.requires_grad for p in trainer.model.parameters()) and len(trainer.fit()) == 1


def test_adapters_of_another_rank_or_layer_are_refused(tmp_path):
    moved(tmp_path / "adapters", rank=4)
    other, _ = load("tiny", "cpu", "float32", 4, lora_targets="q_proj", quiet=True)
    with pytest.raises((ValueError, RuntimeError), match="adapters of another model|Error"):
        load_state(other, tmp_path / "adapters")
    with pytest.raises(ValueError, match="holds no adapter_config.json"):
        save_merged(tiny_model_path(), tmp_path / "merged")


def test_a_lora_run_trains_only_adapters_and_its_reference_is_free(tmp_path):
    trainer = Trainer(small(tmp_path, lora_rank=4, recipe_options='{"kl": 0.1}', lr=1e-3))
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    rows = trainer.fit()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_" in n for n in changed) and trainer.policy.reference is None
    assert abs(rows[0]["kl_ref"]) < 1e-6 < rows[1]["kl_ref"]
    files = {f.name for f in (tmp_path / "run" / "checkpoints" / "step-000002").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    found, tokenizer = load(tmp_path / "run" / "checkpoints" / "step-000002", "cpu", "float32", quiet=True)
    torch.testing.assert_close(logits(found, tokenizer), logits(trainer.model, tokenizer), rtol=1e-4, atol=1e-4)


def test_lora_is_offered_to_a_model_that_is_handed_over(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path(), dtype=torch.float32)
    trainer = Trainer(small(tmp_path, lora_rank=2, steps=1), model=model)
    assert (
        sum(p.requires_grad for p in trainer.model.parameters())
        == sum("lora_" in n for n, _ in trainer.model.named_parameters())
        > 0
    )
    trainer.fit()


def test_the_reference_of_full_training_is_a_copy(tmp_path):
    trainer = Trainer(small(tmp_path, recipe_options='{"kl": 0.1}', lr=1e-3))
    before = {n: p.detach().clone() for n, p in trainer.policy.reference.named_parameters()}
    rows = trainer.fit()
    assert rows[-1]["kl_ref"] > 1e-6 and all(
        torch.equal(p, before[n]) for n, p in trainer.policy.reference.named_parameters()
    )


@pytest.mark.slow
def test_four_bit_weights_are_trained_through_adapters(tmp_path):
    pytest.importorskip("bitsandbytes")
    trainer = Trainer(small(tmp_path, lora_rank=4, quantization="4bit", precision="bfloat16", lr=1e-3))
    assert any(p.dtype == torch.uint8 for p in trainer.model.parameters()), "nothing is packed"
    rows = trainer.fit()
    assert [row["step"] for row in rows] == [1, 2] and all(
        row["grad_norm"] > 0 for row in rows if row["dead_groups"] < 1
    )
    assert [
        row["step"]
        for row in Trainer(
            small(tmp_path, lora_rank=4, quantization="4bit", precision="bfloat16", lr=1e-3, steps=3)
        ).fit()
    ] == [1, 2, 3]


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_sampling_leaves_the_gradient_of_packed_weights_as_it_was(quantization):
    "Packed anew for sampling, as bitsandbytes does on some CPUs, a layer would let no gradient through."
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load("tiny", "cpu", "float32", lora_rank=4, quantization=quantization, quiet=True)
    torch.manual_seed(0)
    adapters = [p for name, p in model.named_parameters() if p.requires_grad]
    for p in adapters:
        torch.nn.init.normal_(p.data, std=0.02)
    ids = tokenizer(["8+4+7+7?"], return_tensors="pt").input_ids

    def gradient():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in adapters])

    before = gradient()
    for module in model.modules():  # as it is on a CPU that has these instructions, unless `load` said no
        assert not getattr(module, "support_avx512bf16_for_cpu", False)
    rollout(model, tokenizer, ["8+4+7+7?"], 2, max_new_tokens=4)
    assert torch.equal(gradient(), before)


def test_a_model_that_was_packed_for_inference_is_refused(tmp_path):
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load("tiny", "cpu", "float32", lora_rank=4, quantization="4bit", quiet=True)
    layer = next(module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu"))
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="model: bitsandbytes has packed its layer .* load the model anew"):
        Trainer(small(tmp_path, lora_rank=4, quantization="4bit", precision="float32"), model, tokenizer)


# What the model reads


def test_the_chat_template_is_used_where_there_is_one_and_shown_in_the_trace(tmp_path):
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = CHAT
    trainer = Trainer(small(tmp_path, steps=1, system_prompt="1+1"), tokenizer=tokenizer)
    trainer.fit()
    prompts = {t.prompt for t in load_traces(tmp_path / "run")}
    assert prompts and all(p.startswith("<bos>1+1") and p.endswith("?=") for p in prompts)
    plain = Trainer(small(tmp_path / "plain", steps=1, prompt_format="plain"), tokenizer=tokenizer)
    plain.fit()
    assert not any("<bos>" in t.prompt for t in load_traces(tmp_path / "plain" / "run"))


def test_a_chat_without_a_template_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were read before the error")
    )
    with pytest.raises(ValueError, match="prompt_format='chat', but the tokenizer has no chat template"):
        Trainer(small(tmp_path, prompt_format="chat"))


def test_a_template_that_writes_the_first_token_itself_gets_no_second_one():
    tokenizer = load_tokenizer("tiny")
    task = chain_sum(8, 8)
    tokenizer.chat_template = CHAT
    text = render_prompt(tokenizer, task, dict(prompt=PROMPT, answer="9"))
    ids, _ = encode_prompts(tokenizer, [text, PROMPT])
    assert ids.eq(tokenizer.bos_token_id).sum(1).tolist() == [1, 1]


def test_a_template_that_refuses_a_system_turn_says_so():
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{"
        " messages[0].content }}"
    )
    with pytest.raises(
        ValueError, match=r"refuses the turns \['system', 'user'\] \(no system turn\); leave system_prompt empty"
    ):
        render_prompt(tokenizer, chain_sum(8, 8), dict(prompt=PROMPT), system="Add.")


# A pretrained model from a GGUF file


def test_a_gguf_file_is_parsed_once(smollm2, monkeypatch):
    "By `load`: for the tokenizer, the shape and the weights together. Afterwards everything is as it was."
    gguf = pytest.importorskip("gguf")
    parsed = []

    class Counting(gguf.GGUFReader):
        def __init__(self, path, *args, **kwargs):
            parsed.append(str(path))
            super().__init__(path, *args, **kwargs)

    def without_weights(model, *_):
        "Asks of the file what the weights ask, and unpacks none of them."
        assert gguf.GGUFReader(str(model)).tensors
        return AutoModelForCausalLM.from_config(load_shape(model), dtype=torch.float32)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    monkeypatch.setattr(loading, "_merged", without_weights)
    model, tokenizer = load(smollm2, device="cpu", quiet=True)
    assert parsed == [str(smollm2)] and model.config.vocab_size == len(tokenizer)
    table = gguf.get_tensor_name_map
    with pytest.raises(ZeroDivisionError), loading.parsed_once():
        assert gguf.GGUFReader is not Counting
        arch = gguf.MODEL_ARCH.LLAMA
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
        assert gguf.get_tensor_name_map(arch, 2).mapping == table(arch, 2).mapping
        1 / 0
    assert gguf.GGUFReader is Counting and gguf.get_tensor_name_map is table


def test_a_gguf_file_is_loaded_trained_saved_and_loaded_again(smollm2, tmp_path):
    config = small(
        tmp_path,
        model=str(smollm2),
        lora_rank=2,
        lora_targets="q_proj",
        precision="bfloat16",
        prompts_per_step=1,
        group_size=2,
        max_new_tokens=8,
        steps=1,
        epochs=1,
        minibatches=1,
    )
    trainer = Trainer(config)
    trainer.fit()
    assert load_traces(tmp_path / "run")[0].prompt.startswith("<|im_start|>system")
    saved = tmp_path / "run" / "checkpoints" / "step-000001"
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == str(smollm2)
    save_merged(saved, tmp_path / "merged")
    model, tokenizer = load(tmp_path / "merged", precision="bfloat16", quiet=True)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008 and tokenizer.chat_template
    text = render_prompt(tokenizer, chain_sum(8, 8), dict(prompt="What is 2 + 2?"))
    assert "2 + 2" in text and logits(model, tokenizer, text).isfinite().all()


# Memory that runs out


class Small:
    "Stands for a GPU that takes only so many tokens at once."

    def __init__(self, model, most):
        self.most, self.refused, forward = most, 0, model.model.forward

        def limited(*args, input_ids=None, **kwargs):
            if input_ids.numel() > self.most and torch.is_grad_enabled():
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(*args, input_ids=input_ids, **kwargs)

        model.model.forward = limited


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(tmp_path, capsys):
    options = dict(steps=2, lr=1e-3)
    whole = Trainer(small(tmp_path / "whole", **options))
    cut = Trainer(small(tmp_path / "cut", **options))
    limit = Small(cut.model, 100)
    batch = whole.collect(1)
    gradients = []
    for trainer in (whole, cut):
        trainer.policy.memory.run(
            lambda tokens: trainer.learner.accumulate(batch, batch.kept, 1, tokens),
            (batch.rollout.prompt_mask.sum(1) + batch.rollout.lengths).cpu(),
        )
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)
    assert limit.refused and 40 < cut.policy.memory.tokens <= 132 and gradients[0].norm() > 1e-3
    rows = cut.fit()
    said = "".join(capsys.readouterr())
    assert f"going on with micro_batch_tokens={cut.policy.memory.tokens}" in said and [row["step"] for row in rows] == [
        1,
        2,
    ]
    again = Trainer(small(tmp_path / "cut", **options | dict(steps=3)))
    assert again.policy.memory.tokens == cut.policy.memory.tokens, "the resumed run would run out of memory again"


def test_one_response_too_many_ends_the_run_with_its_folder_whole(tmp_path):
    trainer = Trainer(small(tmp_path, steps=3))
    trainer.step(1)
    Small(trainer.model, 5)
    with pytest.raises(
        torch.OutOfMemoryError,
        match="is too much for the memory .*gradient_checkpointing=True.*goes on from its last checkpoint",
    ):
        trainer.fit()
    assert [row["step"] for row in Trainer(small(tmp_path, steps=3)).fit()] == [1, 2, 3]


def test_other_errors_are_not_taken_for_memory():
    def work(tokens):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        MemoryBudget(10).run(work, torch.ones(3))


# float16


def test_float16_scales_the_loss_and_survives_an_overflow(tmp_path):
    options = dict(precision="float16", lora_rank=4, steps=2, lr=1e-3)
    trainer = Trainer(small(tmp_path, **options))
    assert trainer.learner.scaler.is_enabled()
    trainer.learner.scaler._init_scale = (
        2.0**40
    )  # overflows float16 at once: the first updates are skipped, the scale falls
    rows = trainer.fit()
    assert trainer.learner.scaler.get_scale() < 2.0**40 and len(rows) == 2
    again = Trainer(small(tmp_path, **options | dict(steps=3)))
    assert again.learner.scaler.state_dict() == trainer.learner.scaler.state_dict()
    assert [row["step"] for row in again.fit()] == [1, 2, 3]


def test_other_precisions_do_not_scale(tmp_path):
    assert not Trainer(small(tmp_path)).learner.scaler.is_enabled()


# Models handed over

LEARNS = dict(prompts_per_step=4, group_size=4, recipe="grpo", recipe_options='{"kl": 0.1}', lr=1e-3)


def plain(dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(tiny_model_path(), dtype=dtype)


def adapted(model=None, name="default", **options):
    "A PeftModel whose adapters do something, the same ones every time."
    torch.manual_seed(0)
    model = get_peft_model(
        plain() if model is None else model,
        LoraConfig(**dict(r=4, target_modules="all-linear", task_type="CAUSAL_LM") | options),
        adapter_name=name,
    )
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.copy_(torch.randn(p.shape, generator=g) * 0.02)
    return model


def with_added_tokens(resize=True):
    model = plain()
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens(dict(additional_special_tokens=["<think>", "</think>"]))
    if resize:
        torch.manual_seed(1)
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def trained(folder, model, tokenizer=None, **options):
    """A run of two steps, and the largest difference of a logit between its model and what is loaded from its
    checkpoint."""
    trainer = Trainer(small(folder, **LEARNS | options), model=model, tokenizer=tokenizer)
    rows = trainer.fit()
    again, own = load(trainer.run.checkpoints()[-1][1], "cpu", "float32", quiet=True)
    text = "<think>1+2?" if tokenizer else PROMPT
    return trainer, rows, float((logits(again, own, text) - logits(trainer.model, own, text)).abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "half of it"])
def test_weights_of_16_bits_are_trained_in_float32_master_copies(dtype, tmp_path):
    model = plain(torch.bfloat16 if dtype == "half of it" else dtype)
    if dtype == "half of it":
        model.model.layers[0].float()
    before = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    with pytest.warns(
        UserWarning,
        match="handed over with weights in .*float16; those that are trained are kept in float32 .* GiB more",
    ):
        trainer, _, difference = trained(tmp_path, model, lr=1e-6, precision="bfloat16")
    after = dict(trainer.model.named_parameters())
    assert {p.dtype for p in after.values()} == {torch.float32} and difference == 0
    moved = sum(int((after[name] != p).sum()) for name, p in before.items())
    assert moved > 0.9 * sum(p.numel() for p in before.values()), "an update was lost"


@pytest.mark.parametrize(
    "dtype, precision, frozen",
    [
        (torch.bfloat16, "bfloat16", torch.bfloat16),
        (torch.float16, "bfloat16", torch.bfloat16),
        (torch.bfloat16, "float32", torch.float32),
    ],
)
def test_frozen_weights_stay_small_under_adapters(dtype, precision, frozen, tmp_path, recwarn):
    trainer = Trainer(small(tmp_path, **LEARNS, lora_rank=4, precision=precision), model=plain(dtype))
    kinds = {p.requires_grad: set() for p in trainer.model.parameters()}
    for p in trainer.model.parameters():
        kinds[p.requires_grad].add(p.dtype)
    assert kinds == {True: {torch.float32}, False: {frozen}}
    assert any("kept in float32" in str(w.message) for w in recwarn) == (precision == "float32")


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(name="mine"),
        dict(lora_dropout=0.5),
        dict(modules_to_save=["lm_head"]),
        dict(target_modules=["q_proj", "lm_head", "embed_tokens"]),
    ],
)
def test_the_reference_of_adapters_that_are_handed_over_is_the_model_with_them(options, tmp_path):
    model = adapted(**options)
    expected = logits(model.eval(), load_tokenizer("tiny"))
    trainer, rows, difference = trained(tmp_path, model)
    assert abs(rows[0]["kl_ref"]) < 1e-6 < rows[1]["kl_ref"] and difference < 1e-4
    assert torch.equal(logits(trainer.policy.reference, load_tokenizer("tiny")), expected)
    copied = {id(p) for p in trainer.policy.reference.parameters()}
    assert all((id(p) in copied) != p.requires_grad for p in trainer.model.parameters()), (
        "frozen weights are held twice, or trained ones shared"
    )
    again = Trainer(small(tmp_path, **LEARNS | dict(steps=3)), model=adapted(**options))
    assert torch.equal(logits(again.model, again.tokenizer), logits(trainer.model, trainer.tokenizer)) and torch.equal(
        logits(again.policy.reference, again.tokenizer), expected
    )


def test_of_several_adapters_the_active_one_is_trained_and_saved(tmp_path):
    model = adapted()
    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.set_adapter("other")
    trainer, _, difference = trained(tmp_path, model)
    assert (
        difference < 1e-4
        and json.loads((trainer.run.checkpoints()[-1][1] / "adapter_config.json").read_text())["r"] == 2
    )


def switched_off():
    model = adapted()
    model.disable_adapter_layers()
    return model


def merged_in():
    model = adapted()
    model.merge_adapter()
    return model


@pytest.mark.parametrize(
    "make, options, message",
    [
        (switched_off, {}, "switched off; call model.enable_adapter_layers"),
        (merged_in, {}, "merged into its weights; call model.unmerge_adapter"),
        (adapted, dict(lora_rank=4), "lora_rank=4, but model has adapters already"),
        (
            lambda: get_peft_model(plain(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
            {},
            "adapters of type PROMPT_TUNING",
        ),
        (lambda: plain().requires_grad_(False), {}, "no weight that is trained"),
        (
            plain,
            dict(lora_rank=4, quantization="4bit"),
            "quantization='4bit', but model is handed over with plain weights",
        ),
    ],
)
def test_what_cannot_be_trained_as_it_is_handed_over_is_refused(make, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Trainer(small(tmp_path, **LEARNS, **options), model=make())


@pytest.mark.parametrize(
    "options", [dict(lora_rank=4), dict(lora_rank=4, lora_targets="q_proj, lm_head, embed_tokens"), {}]
)
def test_added_tokens_come_back_with_a_checkpoint(options, tmp_path):
    model, tokenizer = with_added_tokens()
    trainer, _, difference = trained(tmp_path, model, tokenizer, **options)
    assert difference < 1e-4
    folder = trainer.run.checkpoints()[-1][1]
    assert load_shape(folder).vocab_size == len(load_tokenizer(folder)) == len(tokenizer)
    second = Trainer(small(tmp_path / "second", **LEARNS | dict(model=str(folder), lora_rank=2, steps=1)))
    second.fit()
    third, own = load(second.run.checkpoints()[-1][1], "cpu", "float32", quiet=True)
    torch.testing.assert_close(
        logits(third, own, "<think>1+2?"), logits(second.model, own, "<think>1+2?"), rtol=1e-4, atol=1e-4
    )


def test_added_tokens_that_the_model_has_no_row_for_are_refused(tmp_path):
    model, tokenizer = with_added_tokens(resize=False)
    with pytest.raises(
        ValueError,
        match=(
            r"tokenizer has tokens that the model, with 20 rows of embeddings, does not know \('<think>', '</think>'\);"
            r" call model.resize_token_embeddings"
        ),
    ):
        Trainer(small(tmp_path), model=model, tokenizer=tokenizer)
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens(
        dict(additional_special_tokens=["<image_soft_token>"])
    )  # as Gemma 3's tokenizers have it
    check_vocabulary(tokenizer, 20)


def test_adapters_on_weights_that_are_not_their_base_s_are_warned_of(tmp_path, recwarn):
    Trainer(small(tmp_path / "same", lora_rank=2), model=plain())
    Trainer(small(tmp_path / "rounded", lora_rank=2), model=plain(torch.bfloat16).float())
    assert not [w for w in recwarn if "as their base" in str(w.message)]
    model = plain()
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.mul_(1.001)
    with pytest.warns(
        UserWarning,
        match=(
            r"differ from those of .* as their base \(first: model.layers.2.mlp.up_proj.weight\).*Save the model to a"
            r" folder first"
        ),
    ):
        Trainer(small(tmp_path / "other", lora_rank=2), model=model)


# Adapters and their bases


def names_base(folder, base):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(
        base if base.startswith("[") or base.startswith("{") else json.dumps(dict(base_model_name_or_path=base))
    )
    return folder


@pytest.mark.parametrize("read", [load_shape, load_tokenizer, load])
@pytest.mark.parametrize("way", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "b"]])
def test_adapters_that_name_themselves_end_with_an_error(read, way, tmp_path):
    for folder, base in zip("abc", way):
        names_base(tmp_path / folder, str(tmp_path / base))
    with pytest.raises(ValueError, match="adapters that name themselves as their base .* -> "):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    "base, error, message",
    [
        ("./gone", FileNotFoundError, "holds adapters of './gone', which is not there"),
        ("", ValueError, "base_model_name_or_path=''; write the name"),
        ("{}", ValueError, "base_model_name_or_path=None; write the name"),
        ("[1]", ValueError, "adapter_config.json cannot be read"),
        ("{", ValueError, "adapter_config.json cannot be read"),
    ],
)
def test_adapters_without_a_base_say_so(base, error, message, tmp_path):
    with pytest.raises(error, match=message):
        load_shape(names_base(tmp_path / "a", base))


def test_a_base_beside_its_adapters_is_found(tmp_path, monkeypatch):
    expected, tokenizer = moved(tmp_path / "adapters")
    model, _ = load("tiny", "cpu", "float32", quiet=True)
    model.save_pretrained(tmp_path / "base")
    config = tmp_path / "adapters" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(base_model_name_or_path="../base")))
    monkeypatch.chdir(tmp_path)
    found, _ = load("adapters", "cpu", "float32", quiet=True)
    torch.testing.assert_close(logits(found, tokenizer), logits(expected, tokenizer), rtol=1e-4, atol=1e-4)


# What precision="auto" means


@pytest.mark.parametrize(
    "amx, avx, precision", [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")]
)
def test_auto_asks_the_processor_and_no_clock(amx, avx, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("a clock was read"))
    assert {choose_precision(torch.device("cpu"), width) for width in (16, 576, 4096)} == {precision}
    assert choose_precision(torch.device("mps")) == "float32"


def test_a_sweep_decides_once_and_leaves_a_run_as_it_was_begun(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(mpo_nb.training.sweeps, "choose_precision", lambda device: given.append(device) or "float32")
    begun = small(tmp_path / "begun", precision="auto")
    Path(begun.output).mkdir(parents=True)
    (Path(begun.output) / "config.json").write_text(json.dumps(dict(precision="bfloat16")))
    assert _decided(small(tmp_path / "new", precision="auto")).precision == "float32" and len(given) == 1
    assert (
        _decided(begun).precision == "auto"
        and _decided(small(tmp_path, precision="float16")).precision == "float16"
        and len(given) == 1
    )
