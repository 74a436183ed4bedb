"""Families of models: what cannot be sampled is refused by name, the others say what their text says, and nothing is
drawn at random."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mpo_nb.config import TrainConfig
from mpo_nb.models.families import check_sampling, evaluating, recompute_layers, trial, without_dropout
from mpo_nb.models.logprobs import decoder_of, response_logps
from mpo_nb.models.mtp import MTPModules
from mpo_nb.models.tiny import char_tokenizer
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.training.trainer import Trainer

TOKENIZER = char_tokenizer()
PROMPTS = ["7+5?", "1+2-3+4-5?"]
BASE = dict(
    vocab_size=len(TOKENIZER),
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA = dict(intermediate_size=64, num_key_value_heads=2, head_dim=8, max_position_embeddings=64)
MOE = dict(
    num_experts=4,
    num_local_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
)
DELTA = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
MAMBA = dict(
    mamba_n_heads=8,
    mamba_d_head=8,
    mamba_n_groups=1,
    mamba_d_state=8,
    mamba_d_conv=4,
    mamba_expand=2,
    mamba_chunk_size=16,
)
WINDOW = LLAMA | dict(sliding_window=6)
PDROPS = dict(resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)

# family -> options of a small one; where it has dropout, with dropout
WORK = dict(
    llama=LLAMA | dict(attention_dropout=0.3),
    qwen2=LLAMA | dict(attention_dropout=0.3),
    mistral=WINDOW,
    gemma2=WINDOW | dict(query_pre_attn_scalar=8),
    mixtral=LLAMA | MOE | dict(router_jitter_noise=0.3),
    llama4_text=LLAMA | MOE | dict(intermediate_size_mlp=64, attention_chunk_size=6),
    gpt2=dict(n_positions=64) | PDROPS,
    gptj=dict(n_positions=64, rotary_dim=4) | PDROPS,
    opt=dict(
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        dropout=0.3,
        attention_dropout=0.3,
        layerdrop=0.3,
    ),
    gpt_neox=dict(intermediate_size=64, max_position_embeddings=64, hidden_dropout=0.3, attention_dropout=0.3),
    falcon=dict(hidden_dropout=0.3, attention_dropout=0.3),
    bloom=dict(hidden_dropout=0.3, attention_dropout=0.3),
    phi=LLAMA | dict(resid_pdrop=0.3, embd_pdrop=0.3, attention_dropout=0.3),
    stablelm=LLAMA | dict(hidden_dropout=0.3, attention_dropout=0.3),
    xglm=dict(d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, dropout=0.3, layerdrop=0.3),
)
HYBRID = dict(
    qwen3_5_text=LLAMA | DELTA,
    qwen3_next=LLAMA | DELTA | MOE,
    lfm2=LLAMA | dict(full_attn_idxs=[1, 3]),
    granitemoehybrid=LLAMA | MAMBA | MOE | dict(layer_types=["mamba", "attention"] * 2, shared_intermediate_size=32),
    falcon_h1=LLAMA | MAMBA | dict(mamba_d_ssm=64),
    jamba=LLAMA
    | MOE
    | dict(
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        attention_dropout=0.3,
    ),
)


def build(kind, **options):
    "A small model of a family, with weights so large that every part of it matters."
    try:
        config = AutoConfig.for_model(kind, **BASE | options)
    except (KeyError, ValueError):
        pytest.skip(f"this transformers knows no {kind}")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "conv" not in name and "A_log" not in name:
                p.copy_(torch.randn(p.shape) / p.shape[-1] ** 0.5)
    return model


def logps_and_gradient(model, r):
    model.zero_grad()
    logps, _ = response_logps(model, r.prompt_ids, r.prompt_mask, r.ids, r.mask)
    logps.sum().backward()
    return logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", [*WORK, *HYBRID])
def test_a_response_is_as_likely_in_scoring_and_with_layers_recomputed_as_it_was_in_sampling(kind):
    model = build(kind, **(WORK | HYBRID)[kind])
    r = rollout(model, TOKENIZER, PROMPTS, 3, 7)
    plain = logps_and_gradient(model, r)
    # alone, with no padding, no mask, no cache
    for i in range(len(r.ids)):
        n = int(r.lengths[i])
        prompt = r.prompt_ids[i][r.prompt_mask[i]]
        ids = torch.cat([prompt, r.ids[i, :n]])[None]
        alone = (
            model(input_ids=ids, use_cache=False)
            .logits[0, len(prompt) - 1 : -1]
            .log_softmax(-1)
            .gather(-1, ids[0, len(prompt) :, None])[:, 0]
        )
        torch.testing.assert_close(r.logps[i, :n], alone, rtol=0, atol=3e-5)
    torch.testing.assert_close(plain[0], r.logps, rtol=0, atol=3e-5)
    recompute_layers(model)
    layers = sum(module.training for module in model.modules())
    assert layers, "nothing would be recomputed"
    recomputed = logps_and_gradient(model, r)
    torch.testing.assert_close(recomputed[0], r.logps, rtol=0, atol=3e-5)
    assert (recomputed[1] - plain[1]).norm() < 1e-4 * plain[1].norm()
    rollout(model, TOKENIZER, PROMPTS, 1, 2)
    assert sum(module.training for module in model.modules()) == layers, "sampling switched the recomputing off"


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma", "openai-gpt", "modernbert-decoder", "t5"])
def test_what_is_known_to_fail_is_refused_before_anything_is_sampled(kind, tmp_path, monkeypatch):
    config = AutoConfig.for_model(kind)
    config.architectures = None
    config.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were read before the error")
    )
    with pytest.raises(
        ValueError, match=f"the family '{kind}' cannot be sampled and trained here: .*; choose a decoder"
    ):
        Trainer(
            TrainConfig(model=str(tmp_path / "model"), output=str(tmp_path / "run"), progress=False),
            tokenizer=TOKENIZER,
        )
    assert not (tmp_path / "run").exists()


def test_a_family_without_fused_attention_is_trained_by_its_name(tmp_path):
    "The checks before a start build the model, too, and take the attention that transformers has for it."
    model = build("gemma2", **WORK["gemma2"])
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    options = dict(steps=1, prompts_per_step=2, group_size=2, max_new_tokens=6, eval_every=0, precision="float32")
    config = TrainConfig(model=str(tmp_path / "model"), output=str(tmp_path / "run"), progress=False, **options)
    trainer = Trainer(config)
    assert trainer.model.config._attn_implementation == "eager"
    assert [row["step"] for row in trainer.fit()] == [1]


def test_a_model_that_reads_its_padding_is_refused_whatever_it_is_called():
    model = build("llama", **LLAMA)
    forward = model.model.forward
    model.model.forward = lambda *args, attention_mask=None, **kwargs: forward(*args, **kwargs)
    with pytest.raises(
        ValueError,
        match=(
            r"model=LlamaForCausalLM \(family 'llama'\) cannot be sampled and trained here: .* standard deviations from"
            r" those of the text alone"
        ),
    ):
        rollout(model, TOKENIZER, PROMPTS, 2, 3)


def test_a_model_whose_code_fails_is_refused_by_name_and_one_that_runs_out_of_memory_is_not():
    model = build("llama", **LLAMA)
    forward = model.model.forward

    def fails(*args, past_key_values=None, **kwargs):
        if past_key_values is not None:
            raise AttributeError("no such cache")
        return forward(*args, **kwargs)

    model.model.forward = fails
    with pytest.raises(ValueError, match="model=LlamaForCausalLM .*ended in AttributeError: no such cache"):
        check_sampling(model)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model.model.forward = full
    check_sampling(model)


def test_the_trial_is_of_the_model_as_it_is_and_leaves_it_so():
    model = build("opt", **WORK["opt"]).train()
    model.model.decoder.layers[1].eval()
    modes = [module.training for module in model.modules()]
    check_sampling(model)
    assert [module.training for module in model.modules()] == modes
    with evaluating(model):
        assert float(trial(model).max()) < 1e-4


def test_a_head_that_is_scripted_is_left_alone_by_the_trial():
    model = build("llama", **LLAMA)
    asked = []
    model.lm_head.register_forward_hook(lambda *a: asked.append(a))
    check_sampling(model)
    assert not asked


def test_a_stray_train_drops_nothing():
    model = build("opt", **WORK["opt"])
    ids = torch.arange(3, 13)[None]
    expected = model(input_ids=ids).logits
    assert not torch.allclose(model.train()(input_ids=ids).logits, expected, atol=1e-2)
    without_dropout(model)
    assert torch.equal(model.train()(input_ids=ids).logits, expected)


def test_modules_that_look_ahead_drop_nothing_either():
    model = build("llama", **LLAMA | dict(attention_dropout=0.5))
    mtp = MTPModules(model, 2)
    hidden = torch.randn(1, 8, 32)
    ids = torch.arange(3, 11)[None]
    expected = mtp.future_logps(hidden, ids)
    mtp.gradient_checkpointing()
    torch.testing.assert_close(mtp.future_logps(hidden, ids), expected)


def test_a_decoder_that_is_called_model_is_found():
    model = build("llama4_text", **WORK["llama4_text"])
    assert decoder_of(model) is model.model
