"""Multi-token prediction modules: what they may see, what they compute, where their gradient goes, and how they are
warmed up."""

import os
import random
import signal

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from mpo_nb.actions import WindowActions
from mpo_nb.losses import policy_loss
from mpo_nb.models.heads import one_layer
from mpo_nb.models.loading import add_lora
from mpo_nb.models.logprobs import positions, response_hidden, response_logps
from mpo_nb.models.mtp import MTPModules
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.tasks.sums import chain_problems, demonstration
from mpo_nb.training.warming import warm_up

SHAPE = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=64,
)
FAMILIES = dict(
    llama=LlamaConfig(**SHAPE, tie_word_embeddings=True),
    mistral=MistralConfig(**SHAPE, sliding_window=6),
    qwen3=Qwen3Config(**SHAPE),
    qwen2=Qwen2Config(
        **{k: v for k, v in SHAPE.items() if k != "head_dim"},
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=1,
    ),
    gemma=GemmaConfig(**SHAPE),
    gemma2=Gemma2Config(**SHAPE, sliding_window=6, final_logit_softcapping=3.0, attn_implementation="eager"),
    gemma3=Gemma3TextConfig(**SHAPE, sliding_window=6),
)
FORMS = {
    "parallel": {},
    "chained": dict(head="shared", merge="eh_proj"),
    "parallel, shared head": dict(head="shared"),
    "chained, own heads": dict(merge="eh_proj"),
}
CHAINED = FORMS["chained"]


def backbone(config=FAMILIES["llama"], seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def modules(model, k=4, start="random", **how):
    torch.manual_seed(1)
    return MTPModules(model, k, start=start, **how)


def batch(rows=5, width=14, seed=0):
    "Ids and a mask with padding on both sides."
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (rows, width), generator=g)
    left = torch.randint(0, 4, (rows, 1), generator=g)
    right = torch.randint(0, 4, (rows, 1), generator=g)
    place = torch.arange(width)
    return ids, (place >= left) & (place < width - right)


def hidden_of(model, ids, read):
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    return inner.model(
        input_ids=ids, attention_mask=read.long(), position_ids=positions(read), use_cache=False
    ).last_hidden_state


def plain(mtp, ids):
    "future_logps of one row without padding, term by term: (L, k), NaN where there is nothing."
    model = mtp.model
    L = len(ids)
    trunk = mtp.model.model
    found = torch.full((L, mtp.k), float("nan"))
    states = [hidden_of(model, ids[None], torch.ones(1, L, dtype=torch.bool))[0]]
    for n, depth in enumerate(mtp.depths, 1):
        if mtp.options["merge"] == "eh_proj":
            tokens = trunk.embed_tokens(ids[n:])
            x = depth.eh_proj(torch.cat([depth.hidden_norm(states[-1][: L - n]), depth.token_norm(tokens)], -1))
        else:
            x = states[0]
        states.append(depth.decoder(inputs_embeds=x[None], use_cache=False).last_hidden_state[0])
    for t in range(1, L):
        for n in range(mtp.k):
            if t + n >= L:
                continue
            h = states[n][t - 1] if n == 0 else mtp.depths[n - 1].norm(states[n][t - 1])
            logits = (mtp.depths[n - 1].head if n and mtp.options["head"] == "own" else model.get_output_embeddings())(
                h
            )
            cap = getattr(model.config, "final_logit_softcapping", None)
            found[t, n] = (cap * torch.tanh(logits / cap) if cap else logits).log_softmax(-1)[ids[t + n]]
    return found


# Values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_every_term_is_what_a_plain_loop_finds(family, form):
    model = backbone(FAMILIES[family])
    mtp = modules(model, **FORMS[form])
    ids, read = batch()
    with torch.no_grad():
        found = mtp.future_logps(hidden_of(model, ids, read), ids, read)
        assert found.shape == (5, 14, 4)
        for i in range(5):
            expected = plain(mtp, ids[i][read[i]])
            torch.testing.assert_close(found[i][read[i]], expected.nan_to_num(0.0), rtol=0, atol=2e-5)
        assert not found[~read].any()


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2"])
@pytest.mark.parametrize("form, chained", [("parallel", False), ("chained", True)])
def test_what_a_column_may_depend_on(family, form, chained):
    model = backbone(FAMILIES[family])
    mtp, ids, read = modules(model, **FORMS[form]), *batch()
    read = torch.ones_like(read)
    t = 6

    @torch.no_grad()
    def moved(j):
        other = ids.clone()
        other[:, j] = (other[:, j] + 1) % 37 + 3
        return (
            (
                mtp.future_logps(hidden_of(model, other, read), other, read)
                - mtp.future_logps(hidden_of(model, ids, read), ids, read)
            )[:, t]
            .abs()
            .amax(0)
            > 1e-6
        ).tolist()

    for n in range(4):
        assert moved(t + n) == [m >= n if chained else m == n for m in range(4)]
    assert not any(moved(t + 4)) and all(moved(t - 1))


def test_the_backbones_column_is_the_backbones():
    model = backbone()
    ids, read = batch()
    mask = read.clone()
    mask[:, :6] = False
    with torch.no_grad():
        hidden = response_hidden(model, ids[:, :6], read[:, :6], ids[:, 6:], read[:, 6:], whole=True)
        logps, entropy = modules(model).logps_and_entropy(hidden, ids, read, mask, temperature=0.7)
        own, own_entropy = response_logps(model, ids[:, :6], read[:, :6], ids[:, 6:], read[:, 6:], temperature=0.7)
    torch.testing.assert_close(logps[:, 6:, 0], own)
    torch.testing.assert_close(entropy[:, 6:], own_entropy)
    assert not logps[:, :6].any(), "a prompt's token belongs to a window"
    ends = torch.where(mask, torch.arange(14), -1).amax(1)
    for i, end in enumerate(ends.tolist()):
        assert [bool(x) for x in logps[i, end]] == [True, False, False, False]


def test_shared_prompts_give_the_same_states():
    model = backbone()
    ids, read = batch(6)
    ids[:, :7], read[:, :7] = ids[:2, :7].repeat_interleave(3, 0), read[:2, :7].repeat_interleave(3, 0)
    args = (model, ids[:, :7], read[:, :7], ids[:, 7:], read[:, 7:])
    with torch.no_grad():
        shared = response_hidden(*args, least=0.0, whole=True)
        plainly = response_hidden(*args, least=1.0, whole=True)
    assert shared.shape == plainly.shape == (6, 13, 32)
    torch.testing.assert_close(shared[read[:, :13]], plainly[read[:, :13]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_chunks_change_nothing(form):
    model = backbone()
    ids, read = batch()
    mtp = modules(model, **FORMS[form])
    found = []
    for chunk in (2**24, 80):
        mtp.zero_grad(), model.zero_grad()
        logps = mtp.future_logps(hidden_of(model, ids, read), ids, read, chunk_elements=chunk)
        (logps * torch.randn(logps.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        found.append((logps.detach(), *(p.grad.clone() for p in (*mtp.parameters(), *model.parameters()))))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# Gradients


def gradients(mtp, model, ids, read, columns):
    mtp.zero_grad(), model.zero_grad()
    mtp.future_logps(hidden_of(model, ids, read), ids, read)[..., columns].sum().backward()
    return [
        [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in m.parameters()] for m in (mtp, model)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_the_share_of_the_gradient_that_reaches_the_backbone(form):
    model = backbone()
    ids, read = batch()
    mtp = modules(model, **FORMS[form])
    own, trunk = gradients(mtp, model, ids, read, slice(1, None))
    assert all(g.any() for g in own) and all(g.any() for g in trunk)
    for share in (0.0, 0.25):
        mtp.trunk_gradient = share
        same, scaled = gradients(mtp, model, ids, read, slice(1, None))
        for a, b in zip(same, own):
            torch.testing.assert_close(a, b)
        for a, b in zip(scaled, trunk):
            torch.testing.assert_close(a, share * b)
        nothing, whole = gradients(mtp, model, ids, read, slice(0, 1))
        assert not any(g.any() for g in nothing) and all(g.any() for g in whole), (
            "the backbone's own column keeps its gradient"
        )


def test_adapters_learn_and_their_base_does_not():
    model = add_lora(backbone(), 2)
    mtp = modules(model, start="copy", **CHAINED)
    ids, read = batch()
    assert not any("lora" in name for name, _ in mtp.named_parameters())
    mtp.future_logps(hidden_of(model, ids, read), ids, read).sum().backward()
    assert all(
        (p.grad is not None) == p.requires_grad
        for p in model.parameters()
        if p is not model.get_input_embeddings().weight
    )
    assert all(p.grad is not None for p in mtp.parameters())


def test_a_backbone_in_bfloat16():
    model = backbone()
    ids, read = batch()
    for form in FORMS.values():
        mtp = modules(model, **form)
        half = backbone().to(torch.bfloat16)
        low = MTPModules(half, 4, **form)
        low.load_state_dict(mtp.state_dict())
        assert all(p.dtype == torch.float32 for p in low.parameters())
        with torch.no_grad():
            found = low.future_logps(hidden_of(half, ids, read), ids, read)
            torch.testing.assert_close(
                found, mtp.future_logps(hidden_of(model, ids, read), ids, read), rtol=0, atol=0.1
            )
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(
                    low.future_logps(hidden_of(half, ids, read), ids, read), found, rtol=0, atol=0.1
                )


def test_checkpointing_recomputes_the_same_gradient():
    model = backbone()
    ids, read = batch()
    mtp = modules(model, **CHAINED)
    before = gradients(mtp, model, ids, read, slice(None))
    mtp.gradient_checkpointing()
    assert all(depth.decoder.layers[0].training for depth in mtp.depths)
    for a, b in zip(sum(gradients(mtp, model, ids, read, slice(None)), []), sum(before, [])):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_untrained_modules_start_with_a_ratio_of_one(form):
    model = backbone()
    ids, read = batch()
    mtp = modules(model, **FORMS[form])
    logps = mtp.future_logps(hidden_of(model, ids, read), ids, read)
    out = policy_loss(logps, logps.detach(), torch.tensor([1.0, -1.0, 0.5, 2.0, -3.0]), read, WindowActions(4))
    assert torch.equal(out.ratio, torch.ones_like(out.ratio)) and not out.clipped.any() and out.approx_kl == 0
    out.loss.backward()
    assert all(p.grad.any() for p in mtp.parameters()) and all(p.grad.isfinite().all() for p in model.parameters())


def test_windows_of_shifted_columns_are_windows_of_the_backbone():
    """Where the columns hold the backbone's own later probabilities, both forms of the loss have one value and one
    gradient."""
    g = torch.Generator().manual_seed(0)
    for k in (1, 2, 5, 30):
        mask = torch.rand(6, 20, generator=g) < 0.8
        new = torch.randn(6, 20, generator=g, dtype=torch.double)
        old = torch.randn(6, 20, generator=g, dtype=torch.double)
        advantages = torch.randn(6, generator=g, dtype=torch.double)
        order = mask.long().cumsum(1)

        def columns(x):
            rows = []
            for b in range(6):
                kept = x[b][mask[b]]
                padded = torch.cat([kept, kept.new_full((k,), float("nan"))])
                rows.append(torch.stack([padded[order[b] - 1 + n] for n in range(k)], -1))
            return torch.stack(rows)

        for tail in ("renormalise", "truncate"):
            for surrogate in ("ppo", "cispo", "none"):
                a = new.clone().requires_grad_()
                b = new.clone().requires_grad_()
                one = policy_loss(a, old, advantages, mask, WindowActions(k, tail=tail), surrogate=surrogate)
                two = policy_loss(
                    columns(b), columns(old), advantages, mask, WindowActions(k, tail=tail), surrogate=surrogate
                )
                one.loss.backward(), two.loss.backward()
                torch.testing.assert_close(one.loss, two.loss)
                torch.testing.assert_close(a.grad, b.grad)
                torch.testing.assert_close(one.credit, two.credit)


# Sizes and files


def test_the_papers_parameter_counts():
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(shape)
    for k, factor in ((3, 1.523), (5, 2.047)):
        parts = MTPModules(model, k)
        assert 1 + sum(p.numel() for p in parts.parameters()) / model.num_parameters() == pytest.approx(
            factor, abs=1e-3
        )
        assert all(p.is_meta for p in parts.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copied_layer_is_the_backbones_last(family):
    model = backbone(FAMILIES[family])
    decoder, norm = one_layer(model)
    last = model.model.layers[-1].state_dict()
    assert all(torch.equal(x, last[name]) for name, x in decoder.layers[0].state_dict().items()) and torch.equal(
        norm.weight, model.model.norm.weight
    )
    assert not {id(p) for p in decoder.parameters()} & {id(p) for p in model.parameters()}
    mtp = MTPModules(model, 2)
    assert (
        torch.equal(mtp.depths[0].head.weight, model.get_output_embeddings().weight)
        and mtp.depths[0].head.weight is not model.get_output_embeddings().weight
    )


def test_saved_and_loaded(tmp_path):
    model = backbone()
    ids, read = batch()
    mtp = modules(model, **CHAINED)
    mtp.save_pretrained(tmp_path / "new" / "folder")
    again = MTPModules(model, 4, **CHAINED).load_weights(tmp_path / "new" / "folder")
    with torch.no_grad():
        assert torch.equal(*(m.future_logps(hidden_of(model, ids, read), ids, read) for m in (mtp, again)))
    with pytest.raises(ValueError, match="holds modules of .*'k': 4.*not .*'k': 3"):
        MTPModules(model, 3, **CHAINED).load_weights(tmp_path / "new" / "folder")
    with pytest.raises(FileNotFoundError, match="no mtp.json"):
        again.load_weights(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=0), "k=0"),
        (dict(k=2, head="mine"), "head='mine'; choose one of own, shared"),
        (dict(k=2, merge="add"), "merge='add'"),
        (dict(k=2, start="cold"), "start='cold'"),
        (dict(k=2, trunk_gradient=2.0), "trunk_gradient=2.0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        MTPModules(backbone(), **options)


def test_architectures_that_are_built_another_way():
    with pytest.raises(ValueError, match="model=GPT2Model has no 'embed_tokens'.*such as Llama"):
        MTPModules(GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1)), 2)
    with pytest.raises(ValueError, match=r"hidden has shape \(5, 9, 32\) and input_ids \(5, 14\)"):
        model = backbone()
        modules(model).future_logps(torch.zeros(5, 9, 32), batch()[0])


# Warm-up


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [p["prompt"] + demonstration(p, 0.25, rng) for p in chain_problems(300)]


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(tiny_model_path()).eval(), AutoTokenizer.from_pretrained(
        tiny_model_path()
    )


def test_a_warm_up_teaches_the_modules_and_leaves_the_backbone(tiny, texts):
    model, tokenizer = tiny
    before = {name: x.clone() for name, x in model.state_dict().items()}
    mtp = modules(model, 3, **CHAINED)
    found = warm_up(model, mtp, texts, 40, tokenizer=tokenizer, progress=False)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items()) and all(
        p.grad is None for p in model.parameters()
    )
    assert found.after[0] == found.before[0] and min(found.after[1:]) > 0.3 > max(found.before[1:])
    assert [row["step"] for row in found.losses] == list(range(1, 41)) and found.losses[-1][
        "loss"
    ] < 0.6 * found.losses[0]["loss"]
    row = found.losses[-1]
    assert row["loss"] == pytest.approx((row["depth_1"] + row["depth_2"]) / 2) and mtp.trunk_gradient == 1.0
    assert "tokens ahead" in repr(found) and found._repr_markdown_().count("\n") == 4


def test_a_warm_up_that_goes_on_ends_where_one_that_was_never_stopped_does(tiny, texts, tmp_path, capsys):
    model, tokenizer = tiny
    options = dict(tokenizer=tokenizer, batch_size=8, progress=False, checkpoint_every=2)
    whole = modules(model, 3)
    expected = warm_up(model, whole, texts, 9, **options)
    stopped = modules(model, 3)
    step = torch.optim.AdamW.step
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            warm_up(model, stopped, texts, 9, output=str(tmp_path / "run"), **options)
    assert "5 of 9 steps of the warm-up are saved" in "".join(capsys.readouterr()) and stopped.trunk_gradient == 1.0
    torch.manual_seed(99)
    again = MTPModules(model, 3)
    found = warm_up(model, again, texts, 9, output=str(tmp_path / "run"), **options)
    assert found.losses == expected.losses and (found.before, found.after, found.tokens) == (
        expected.before,
        expected.after,
        expected.tokens,
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))
    with pytest.raises(ValueError, match="holds a run with lr=0.001, not 0.1"):
        warm_up(model, again, texts, 9, output=str(tmp_path / "run"), lr=0.1, **options)
    with pytest.raises(ValueError, match="holds a run with digest"):
        warm_up(model, again, texts[::-1], 9, output=str(tmp_path / "run"), **options)


def test_labels_say_what_is_learnt(tiny):
    model, _ = tiny
    ids = list(range(4, 16))
    rows = [dict(input_ids=ids, labels=[-100] * 6 + ids[6:])] * 8
    mtp = modules(model, 3)
    found = warm_up(model, mtp, rows, 1, batch_size=4, held_out=0.5, progress=False)
    assert found.tokens == [6 * 4, 5 * 4, 4 * 4]


@pytest.mark.parametrize(
    "rows, options, message",
    [
        (["1+1?"] * 3, {}, r"dataset\[0\] is text: pass the tokenizer"),
        ([dict(text="a")] * 3, {}, r"dataset\[0\] is .*give text, or a dict with input_ids"),
        ([dict(input_ids=[4, 5], labels=[4])] * 3, {}, "1 labels for 2 input_ids"),
        ([dict(input_ids=[4, 5])], {}, "dataset has 1 rows"),
        ([dict(input_ids=[4, 5])] * 3, dict(steps=0), "steps=0"),
        ([dict(input_ids=[4, 5])] * 3, dict(lr=0), "lr=0"),
        ([dict(input_ids=[4, 5])] * 3, dict(held_out=1.0), "held_out=1.0"),
    ],
)
def test_rows_and_options_that_will_not_do(rows, options, message, tiny):
    mtp = modules(tiny[0], 2)
    with pytest.raises(ValueError, match=message):
        warm_up(tiny[0], mtp, rows, **dict(steps=1, progress=False) | options)


def test_a_warm_up_needs_modules_of_its_own_model(tiny):
    with pytest.raises(ValueError, match="behind another model"):
        warm_up(backbone(), modules(tiny[0], 2), ["1"], 1)
    with pytest.raises(ValueError, match="k=1 has no modules"):
        warm_up(tiny[0], modules(tiny[0], 1), ["1"], 1)


# In a run

SMALL = dict(
    steps=3,
    prompts_per_step=2,
    group_size=4,
    epochs=2,
    minibatches=2,
    eval_every=0,
    precision="float32",
    trace_groups=1,
    progress=False,
    k=3,
    mtp_warmup_steps=4,
    mtp_warmup_problems=4,
)
AHEAD = dict(source="mtp") | SMALL


def run(folder, **options):
    from mpo_nb.config import TrainConfig
    from mpo_nb.training.trainer import Trainer

    return Trainer(TrainConfig(output=str(folder), **AHEAD | options))


def lines(folder):
    from mpo_nb.runtime.files import read_lines
    from mpo_nb.training.metrics import clock_metrics

    return [
        {k: v for k, v in row.items() if k not in clock_metrics} for row in read_lines(folder / "metrics.jsonl")
    ], read_lines(folder / "traces.jsonl")


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(mtp_head="shared", mtp_merge="eh_proj", mtp_start="random"),
        dict(lora_rank=2),
        dict(mtp_trunk_gradient=0.0),
        dict(gradient_checkpointing=True),
        dict(recipe_options='{"kl": 0.1, "entropy": 0.01}'),
    ],
    ids=str,
)
def test_a_run_trains_backbone_and_modules(options, tmp_path, capsys):
    trainer = run(tmp_path / "run", **options)
    trainer.warm_up()
    assert "from 1 to 2 ahead" in "".join(capsys.readouterr()) and not trainer.run.metrics
    before = [p.detach().clone() for p in trainer.policy.trained]
    batch = trainer.collect(1)
    assert batch.old_logps.shape == (*batch.rollout.mask.shape, 3) and batch.logps.shape == batch.rollout.mask.shape
    torch.testing.assert_close(batch.old_logps[..., 0], batch.rollout.logps, rtol=0, atol=1e-4)
    for out, mask, *_ in trainer.learner.accumulate(batch, torch.arange(8), 1):
        torch.testing.assert_close(out.ratio, torch.ones_like(out.ratio), rtol=0, atol=1e-5)
    trainer.fit()
    moved = [not torch.equal(p, b) for p, b in zip(trainer.policy.trained, before)]
    assert all(moved), f"{moved.count(False)} of {len(moved)} weights were not trained"
    assert len(trainer.policy.trained) == sum(
        p.requires_grad for part in (trainer.model, trainer.policy.mtp) for p in part.parameters()
    )
    assert len(lines(tmp_path / "run")[0]) == 3


def test_micro_batches_leave_the_gradient_as_it_is(tmp_path):
    found = []
    for tokens in (16384, 64):
        trainer = run(tmp_path / str(tokens), micro_batch_tokens=tokens, mtp_warmup_steps=0)
        batch = trainer.collect(1)
        batch.old_logps = batch.old_logps + 0.1 * torch.randn(
            batch.old_logps.shape, generator=torch.Generator().manual_seed(0)
        )
        parts = trainer.learner.accumulate(batch, torch.arange(8), 1)
        found.append((len(parts), [p.grad.clone() for p in trainer.policy.trained]))
    assert found[0][0] == 1 < found[1][0]
    for a, b in zip(found[0][1], found[1][1]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("update", [3, 6, 14])
def test_a_run_that_goes_on_ends_where_one_that_was_never_stopped_does(update, tmp_path):
    """Broken off in the warm-up (4 updates), in the first step (4 more), and after the checkpoint of the second, by an
    error that nobody catches."""
    options = dict(checkpoint_every=2, mtp_start="random")
    run(tmp_path / "whole", **options).fit()
    step = torch.optim.AdamW.step
    calls = []

    def breaks(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == update:
            raise RuntimeError("the machine went away")
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", breaks)
        with pytest.raises(RuntimeError, match="went away"):
            run(tmp_path / "broken", **options).fit()
    torch.manual_seed(123)
    trainer = run(tmp_path / "broken", **options)
    trainer.fit()
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")


def test_overwriting_a_run_takes_its_warm_up_along(tmp_path):
    run(tmp_path, steps=1).fit()
    assert (tmp_path / "mtp" / "metrics.jsonl").exists()
    trainer = run(tmp_path, steps=1, mtp_warmup_lr=1e-4, overwrite=True)
    assert not (tmp_path / "mtp").exists()
    trainer.fit()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(recipe="grpo", source="mtp"), "source='mtp' with recipe='grpo'"),
        (dict(source="mtp", k=1), "source='mtp'.*k=1"),
        (dict(source="crystal ball"), "source='crystal ball'"),
        (dict(mtp_head="other"), "mtp_head='other'"),
        (dict(mtp_trunk_gradient=-0.1), "mtp_trunk_gradient=-0.1"),
        (dict(mtp_warmup_lr=0.0), "mtp_warmup_lr=0.0"),
        (dict(mtp_warmup_steps=-1), "mtp_warmup_steps=-1"),
    ],
)
def test_configurations_that_cannot_be(options, message):
    from mpo_nb.config import TrainConfig

    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_a_recipe_is_told_what_it_lacks():
    from mpo_nb.recipes import recipe

    with pytest.raises(ValueError, match="only windows do"):
        recipe("grpo", source="mtp")
    ones = torch.ones(2, 5)
    batch = dict(logps=ones, old_logps=ones, mask=ones, advantages=torch.ones(2))
    with pytest.raises(ValueError, match=r"shape \(2, 5\) and source='mtp'"):
        recipe("mpo", source="mtp").loss(batch)
    with pytest.raises(ValueError, match=r"shape \(2, 5, 4\) and source='backbone'"):
        recipe("mpo").loss(batch | dict(logps=torch.ones(2, 5, 4), old_logps=torch.ones(2, 5, 4)))


@pytest.mark.slow
def test_from_the_shell_to_the_report_and_the_browser(tmp_path):
    "A finished run whose windows looked ahead is drawn from its traces, which hold the backbone's probabilities."
    from mpo_nb.cli import main
    from mpo_nb.widgets import RolloutBrowser, TrainingMonitor

    output = tmp_path / "run"
    assert (
        main(
            "--source mtp --k 3 --steps 1 --prompts_per_step 4 --group_size 4 --mtp_warmup_steps 2"
            f" --mtp_warmup_problems 4 --eval_problems 8 --progress false --output {output}".split()
        )
        == 0
    )
    assert "token level" in (output / "report.html").read_text()
    for widget in (RolloutBrowser, TrainingMonitor):
        assert widget(str(output)).to_html(tmp_path / f"{widget.__name__}.html").stat().st_size > 10_000
