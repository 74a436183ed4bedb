"""`BlockAsyncGRPOTrainer` on the rows that TRL packs: a loop over single numbers in float64, through TRL's own collator
and loss; and TRL's trainer itself, to the last bit, where the action is a token."""

import queue
import tempfile
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from batches import close, leaf
from engine_loops import OPTIONS, SENTENCES, draw_samples, log_ratios, loss_of_sample, name

from mpo_nb.models.tiny import char_tokenizer, tiny_model_path
from mpo_nb.spaces import ActionSettings, TokenRows
from mpo_nb.trl_async import (
    AsyncGRPOConfig,
    AsyncGRPOTrainer,
    BlockAsyncGRPOConfig,
    BlockAsyncGRPOTrainer,
    TrainedTokens,
    moved_logps,
    trained_tokens,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about their own next releases
CLIP = (0.2, 0.28)
TEXT = "7+5=12;12-3=9#9 2+2=4;4+4=8#8"
# Prompts of three tokens, and what was written after them. The first two share their prompt and the beginning of their
# answer; the third has a tool's reply in the middle, the last wrote one token.
WRITTEN = ([0] * 3 + [1] * 8, [0] * 3 + [1] * 6, [0] * 3 + [1] * 4 + [0] * 2 + [1] * 5, [0] * 3 + [1])
STARTS = (0, 0, 4, 9)
there = pytest.mark.skipif(not hasattr(AsyncGRPOTrainer, "compute_loss"), reason="TRL has no AsyncGRPOTrainer here")


def sample_ids():
    "Token ids of the samples; the second leaves the first one's path after its sixth token."
    tokenizer = char_tokenizer()
    ids = tokenizer(TEXT.replace(" ", ""), add_special_tokens=False)["input_ids"]
    found = [list(ids[start : start + len(w)]) for start, w in zip(STARTS, WRITTEN)]
    found[1][6] = tokenizer("9", add_special_tokens=False)["input_ids"][0]
    return found


def samples(seed=0):
    "Rollouts as TRL's queue brings them; beside them new and old log-probabilities and advantages, lists of tensors."
    ids = sample_ids()
    new, old, A, _ = draw_samples(seed, WRITTEN)
    A = [a[:1].expand(len(a)).float().double() for a in A]  # one a sample; float32 holds it exactly
    old = [o.float().double() for o in old]
    for path in (new,):  # the same model, the same prefix: the same prediction
        path[1][:6] = path[0][:6]
    rows = [
        dict(
            input_ids=torch.tensor(i),
            completion_mask=torch.tensor(w),
            old_log_probs=o.float(),
            advantage=a[0].item(),
            group_id=0,
            metrics={},
        )
        for i, w, o, a in zip(ids, WRITTEN, old, A)
    ]
    return rows, ids, new, old, A


def collated(rows):
    "What TRL's collator makes of them, in this release's form."
    from trl.experimental.async_grpo import async_grpo_trainer as theirs

    collate = theirs.DataCollatorForRollout(pad_token_id=0)
    if not hasattr(theirs, "TreeRow"):
        lists = [{k: v.tolist() if torch.is_tensor(v) else v for k, v in row.items()} for row in rows]
        return collate([[lists]])
    row = theirs.TreeRow()
    for one in rows:
        row.add(one)
    return collate([[row]])


def by_hand(rows, new):
    "The same row without TRL, one sample behind the other, and the log-probabilities that a model would give of it."
    flat = {key: torch.cat([row[key] for row in rows]) for key in ("input_ids", "completion_mask", "old_log_probs")}
    flat["position_ids"] = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])
    flat["attention_mask"] = torch.ones_like(flat["input_ids"])
    return {key: value[None] for key, value in flat.items()}, torch.cat(new)[1:][None]


class Output(dict):
    __getattr__ = dict.__getitem__


class OneProcess:
    num_processes = 1

    def gather(self, x):
        return x

    def reduce(self, x, reduction="sum"):
        return x


def stub(cls=BlockAsyncGRPOTrainer, **options):
    "A trainer with what `compute_loss` reads."
    made = object.__new__(cls)
    counters = "forward_tokens trained_tokens seq_len_weighted samples forward_s".split()
    made.__dict__.update(
        args=ActionSettings(**options),
        epsilon_low=CLIP[0],
        epsilon_high=CLIP[1],
        accelerator=OneProcess(),
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _texts=TokenRows(char_tokenizer()),
        _read=False,
        **{f"_step_{counter}": 0.0 for counter in counters},
        _step_microbatches=0,
        _train_tokens_start_time=0.0,  # of TRL 1.9
    )
    return made


def model_of(inputs, rows, x):
    "A model that gives these log-probabilities, one flat (all samples' tokens,) table `x`, at the places of the row."
    starts = torch.tensor([0, *[len(row["input_ids"]) for row in rows]]).cumsum(0)
    tokens = trained_tokens(inputs)
    width = inputs["input_ids"].shape[1] - (0 if "token_index" in inputs else 1)
    base = torch.full((1, width), -9.0, dtype=torch.double)
    values = x[starts[tokens.sample] + tokens.position]
    shared = {int(i): n for n, i in reversed(list(enumerate(tokens.index)))}  # first holder of each place
    index = torch.tensor(list(shared))
    logps = base[0].index_put((index,), values[list(shared.values())])[None]
    return lambda **_: Output(log_probs=logps, entropy=torch.zeros_like(base))


def first_holders(inputs, rows):
    "Flat table index of each trained token -> that of the token whose number the model gives in its place."
    starts = torch.tensor([0, *[len(row["input_ids"]) for row in rows]]).cumsum(0)
    tokens = trained_tokens(inputs)
    holder = {}
    return {
        int(starts[s] + p): holder.setdefault(int(i), int(starts[s] + p))
        for i, s, p in zip(tokens.index, tokens.sample, tokens.position)
    }


def loop_loss(x, rows, ids, old, A, options, holder):
    "Each sample by itself; a shared place has one number, and its gradient is the sum over the samples."
    start = total = 0
    tokenizer = char_tokenizer()
    for row, i, o, a, w in zip(rows, ids, old, A, WRITTEN):
        places = [holder.get(start + t, start + t) for t in range(len(i))]
        texts = [tokenizer.decode([one]) for one in i]
        total = total + loss_of_sample(x[places], o, a, w, options, CLIP, texts=texts)
        start += len(i)
    return total / sum(map(sum, WRITTEN))


@there
@pytest.mark.parametrize("options", OPTIONS + SENTENCES, ids=name)
def test_packed_row_is_the_loop(options):
    rows, ids, new, old, A = samples()
    inputs = collated(rows)
    inputs = inputs | {key: inputs[key].double() for key in ("old_log_probs", "advantages")}
    holder = first_holders(inputs, rows)
    x, y = leaf(torch.cat(new)), leaf(torch.cat(new))
    trainer = stub(**options)
    loss = trainer.compute_loss(model_of(inputs, rows, x), inputs)
    wanted = loop_loss(y, rows, ids, old, A, options, holder)
    tight = 1e-6 if "token_index" not in inputs else 1e-7  # TRL divides by a count in float32
    close(loss, wanted, tol=tight)
    close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(wanted, y)[0], tol=tight)
    if "token_index" in inputs:
        assert len(trained_tokens(inputs).index.unique()) < sum(map(sum, WRITTEN))  # the tree shares


@there
def test_metrics_are_of_actions_and_tokens():
    rows, _, new, old, _ = samples(1)
    inputs = collated(rows)
    options = dict(action_space="block", k=3)
    trainer = stub(**options)
    trainer.compute_loss(model_of(inputs, rows, leaf(torch.cat(new))), inputs)
    delta = [n - o for n, o in zip(new, old)]
    found = [log_ratios(d, w, options) for d, w in zip(delta, WRITTEN)]
    kept = sum(map(len, found))
    log = {key: values[0] for key, values in trainer._metrics["train"].items()}
    rms = (sum(float(r) ** 2 for one in found for r in one.values()) / kept) ** 0.5
    token = (sum(float(d[t]) ** 2 for d, one in zip(delta, found) for t in one) / kept) ** 0.5
    assert log["actions/log_ratio_rms"] == pytest.approx(rms, rel=1e-5)
    assert log["actions/token_log_ratio_rms"] == pytest.approx(token, rel=1e-5)
    actions = sum(-(-n // 3) for n in (8, 6, 4, 5, 1))
    assert log["actions/mean_length"] == pytest.approx(kept / actions)
    assert {"ratio", "kl", "clip_ratio/region_mean"} <= log.keys()


@there
def test_the_batch_is_left_as_it_was():
    rows, _, new, _, _ = samples(2)
    inputs = collated(rows)
    before = {key: value.clone() for key, value in inputs.items() if torch.is_tensor(value)}
    stub(action_space="window", k=3).compute_loss(model_of(inputs, rows, leaf(torch.cat(new))), inputs)
    assert all(torch.equal(inputs[key], before[key]) for key in before)


@there
def test_a_loss_that_does_not_read_it_is_refused():
    class Elsewhere(BlockAsyncGRPOTrainer):
        pass

    rows, _, new, _, _ = samples(2)
    inputs = collated(rows)
    x = leaf(torch.cat(new))
    trainer = stub(Elsewhere, action_space="window", k=3)
    theirs = AsyncGRPOTrainer.compute_loss
    try:
        AsyncGRPOTrainer.compute_loss = lambda self, model, inputs: x.sum()
        with pytest.raises(RuntimeError, match="computes its loss in another way, and action_space='window' does not"):
            trainer.compute_loss(model_of(inputs, rows, x), inputs)
    finally:
        AsyncGRPOTrainer.compute_loss = theirs


@pytest.mark.parametrize("options", OPTIONS + SENTENCES, ids=name)
def test_samples_one_behind_the_other(options):
    "The form of TRL 1.9 to 1.15, with no TRL: what is moved stands where the loop has it."
    rows, ids, new, old, _ = samples(3)
    inputs, logps = by_hand(rows, new)
    tokens = trained_tokens(inputs)
    assert tokens.ids.tolist() == [i for row, w in zip(ids, WRITTEN) for i, one in zip(row, w) if one]
    texts = TokenRows(char_tokenizer())
    moved, _ = moved_logps(ActionSettings(**options), tokens, logps[0][tokens.index], texts)
    wanted = []
    for d, w, row in zip([n - o for n, o in zip(new, old)], WRITTEN, ids):
        found = log_ratios(d, w, options, [char_tokenizer().decode([i]) for i in row])
        wanted += [float(found[t]) for t in sorted(found)]
    close(moved - tokens.old_logps.double(), torch.tensor(wanted, dtype=torch.double), tol=1e-12)


def test_an_unknown_form_is_refused():
    with pytest.raises(RuntimeError, match="packs its rows in a form that mpo_nb.trl_async does not know"):
        trained_tokens({"attention_mask": torch.ones(1, 2)})


def test_a_row_without_a_trained_token():
    nothing = torch.zeros(0, dtype=torch.long)
    tokens = TrainedTokens(nothing, nothing, nothing, nothing, torch.zeros(0))
    moved, sums = moved_logps(ActionSettings("block", k=2), tokens, torch.zeros(0))
    assert moved.shape == (0,) and not sums.any()


# TRL's own trainer, on one CPU process


class Worker:
    "A worker whose rollouts are there from the start."

    def __init__(self, rollouts):
        self.rollout_buffer, self.metrics_queue = queue.Queue(), queue.Queue()
        for one in rollouts:
            self.rollout_buffer.put(one)

    def start(self):
        pass

    stop = start

    def update_model_version(self, version):
        pass

    def check_health(self, stale_after_s):
        raise RuntimeError("the stored rollouts are used up, and nobody writes more")


class NoTransfer:
    def init_weight_transfer(self):
        pass

    pause = resume = destroy = init_weight_transfer

    def send_weights(self, iterator):
        pass


def attention(q, k, v, cu_q, cu_k, max_q, max_k, softmax_scale=None, causal=True, window_size=(-1, -1), **_):
    "What the flash-attention kernel computes, segment by segment: each attends to the end of its path."
    out = []
    for a, b, c, d in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:]):
        queries, keys, values = q[a:b], k[c:d], v[c:d]  # (L, heads, D)
        groups = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * softmax_scale
        ahead = torch.arange(d - c)[None] > torch.arange(b - a)[:, None] + (d - c) - (b - a)
        weights = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(out)


def train(monkeypatch, cls, config, seed=0, **options):
    "Four updates by TRL's trainer on stored rollouts; parameters and the log."
    from trl.experimental.async_grpo import async_grpo_trainer, packing
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

    monkeypatch.setattr(packing, "_flash_attn", lambda: SimpleNamespace(flash_attn_varlen_func=attention))
    monkeypatch.setattr(async_grpo_trainer, "get_peak_flops_per_device", lambda *_: None)  # asks for a card's name
    rollouts = []
    for step in range(6):  # accelerate reads ahead
        for row in samples(seed + step)[0]:
            found = {key: row[key].numpy() for key in ("input_ids", "completion_mask", "old_log_probs")}
            rest = dict(advantage=row["advantage"], model_version=0, group_id=step, metrics={})
            rollouts.append(RolloutSample(prompt=[], completion=[], **found, **rest))
    args = config(
        tempfile.mkdtemp(),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        token_budget=0,
        max_staleness=100,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )
    from datasets import Dataset

    trainer = cls(
        tiny_model_path(),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["7+5"] * 16}),
        processing_class=char_tokenizer(),
        rollout_worker=Worker(rollouts),
        weight_transfer=NoTransfer(),
    )
    trainer.train()
    return {k: v.detach().clone() for k, v in trainer.model.named_parameters()}, trainer.state.log_history


@there
@pytest.mark.slow
def test_trained_by_trls_trainer(monkeypatch):
    "Token actions are TRL's to the last bit; a window of one token is the same to rounding; sentences are not."
    if not hasattr(__import__("trl.experimental.async_grpo", fromlist=["packing"]), "packing"):
        pytest.skip("before TRL 1.16 the trainer needs a GPU's attention")
    theirs, known = train(monkeypatch, AsyncGRPOTrainer, AsyncGRPOConfig)
    token, _ = train(monkeypatch, BlockAsyncGRPOTrainer, BlockAsyncGRPOConfig, action_space="token")
    single, _ = train(monkeypatch, BlockAsyncGRPOTrainer, BlockAsyncGRPOConfig, action_space="window", k=1)
    sentence, log = train(monkeypatch, BlockAsyncGRPOTrainer, BlockAsyncGRPOConfig, action_space="sentence")
    assert all(torch.equal(theirs[key], token[key]) for key in theirs)
    for key in theirs:
        torch.testing.assert_close(theirs[key], single[key], rtol=1e-3, atol=1e-5)
    assert any(not torch.allclose(theirs[key], sentence[key], atol=1e-4) for key in theirs)
    row = log[-2] if "train_runtime" in log[-1] else log[-1]
    assert 1 < row["actions/mean_length"] < 9 and row["actions/log_ratio_rms"] < row["actions/token_log_ratio_rms"]
    assert known[0].keys() <= log[0].keys()


@there
def test_settings_and_classes():
    with pytest.raises(ValueError, match="k=4 means nothing to action_space='sentence'"):
        BlockAsyncGRPOConfig(tempfile.mkdtemp(), action_space="sentence", k=4, use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match="size=2: BlockAsyncGRPOConfig has no such field"):
        BlockAsyncGRPOConfig(tempfile.mkdtemp(), size=2, use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match="args is a AsyncGRPOConfig; pass BlockAsyncGRPOConfig"):
        BlockAsyncGRPOTrainer("x", None, AsyncGRPOConfig(tempfile.mkdtemp(), use_cpu=True, bf16=False))
