"""What verl's `ppo_loss` is given is what the run folder holds; and verl shares a process with math-verify."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer
from verl_process import WHY_NOT, Verl, find_verl

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, WindowActions
from mpo_nb.drawing.report import report_html
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runs.folder import Run
from mpo_nb.runs.live import LiveRun
from mpo_nb.runs.ratios import trace_loss
from mpo_nb.runs.reading import read_run
from mpo_nb.runs.recording import LossInputs
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.verl import VerlTraces, batch_facts, batch_loss_inputs, used_actions, verl_normalizer
from mpo_nb.widgets.block_explorer import BlockExplorer
from mpo_nb.widgets.credit_explorer import CreditExplorer
from mpo_nb.widgets.ratio_lab import RatioLab
from mpo_nb.widgets.rollout_browser import RolloutBrowser
from mpo_nb.widgets.training_monitor import TrainingMonitor

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = AutoTokenizer.from_pretrained(tiny_model_path())
TEXTS = ["7+5=12#12", "7+5=13#13", "9-2=7;7+1=8#8", "9-2=7;7+1=9#9"]
IDS = [TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in TEXTS]
MASKS = [[1] * len(ids) for ids in IDS]
MASKS[2][4:6] = [0, 0]  # a tool's
ADVANTAGES = [[a] * len(ids) for a, ids in zip((1.0, -1.0, 0.5, -0.5), IDS)]


@pytest.fixture(scope="module")
def verl():
    folder = find_verl()
    if folder is None:
        pytest.skip(WHY_NOT)
    process = Verl(folder)
    process.version()  # it has imported verl
    yield process
    process.close()


def numbers(seed=0):
    g = torch.Generator().manual_seed(seed)
    old = [(-torch.rand(len(ids), generator=g)).tolist() for ids in IDS]
    new = [torch.tensor(row) + 0.2 * torch.randn(len(row), generator=g) for row in old]
    return old, new


def check(traces, old, new, n=4):
    assert [t.text for t in traces] == TEXTS[:n]
    for t, mask, a, before, after in zip(traces, MASKS, ADVANTAGES, old, new):
        kept = torch.tensor(mask).bool()
        assert t.mask == mask and t.advantage == a[0]
        assert torch.equal(torch.tensor(t.old_logps)[kept], torch.tensor(before)[kept])
        assert torch.equal(torch.tensor(t.logps)[kept], after[kept])


MODES = {
    "vanilla": (dict(loss_mode="vanilla"), TokenActions()),
    "mpo": (dict(loss_mode="mpo", k=3, future=0.4), WindowActions(3, 0.4)),
    "mpo_block": (dict(loss_mode="mpo_block", k=2), BlockActions(2)),
    "lpo": (dict(loss_mode="lpo"), "sentence"),
    "gspo": (dict(loss_mode="gspo"), None),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_folder_holds_what_the_loss_was_given(verl, tmp_path, mode):
    options, actions = MODES[mode]
    old, new = numbers()
    scores = [[0.0] * (len(ids) - 1) + [r] for ids, r in zip(IDS, (1.0, 0.0, 1.0, 0.0))]
    extra = dict(uid=["a", "a", "b", "b"], token_level_scores=scores)
    config = options | dict(traces=str(tmp_path / "run"))
    rows = verl.recorded(config, IDS, MASKS, old, ADVANTAGES, new, str(tiny_model_path()), extra=extra)
    plain = verl.update(options, IDS[:2], MASKS[:2], old[:2], ADVANTAGES[:2], new[:2], str(tiny_model_path()))
    assert rows[0]["actor/pg_loss"][0] == pytest.approx(float(plain[0]))  # the loss is as without the recorder
    traces = load_traces(tmp_path / "run")
    assert [t.step for t in traces] == [1] * 4 + [2] * 4
    for step in (1, 2):
        here = [t for t in traces if t.step == step]
        check(here, old, new)
        assert [t.reward for t in here] == [1, 0, 1, 0] and [t.index for t in here] == [0, 1, 0, 1]
        assert here[0].group == here[1].group != here[2].group == here[3].group
    run = read_run("verl", tmp_path / "run")
    assert [row["step"] for row in run.rows] == [1, 2] and run.rows[0]["reward"] == 0.5
    assert (run.recipe is None) == (actions is None)
    if actions is not None:
        assert repr(run.recipe.actions) == repr(actions) and run.recipe.dual_clip == 3.0


def test_every_widget_opens_it(verl, tmp_path):
    old, new = numbers(1)
    config = dict(loss_mode="mpo", k=3, traces=str(tmp_path / "run"))
    live = LiveRun("verl", tmp_path / "run")
    verl.recorded(config, IDS, MASKS, old, ADVANTAGES, new, str(tiny_model_path()), updates=1)
    live.read()
    assert live.status.startswith("verl: step 1")
    traces = load_traces(tmp_path / "run")
    assert math.isnan(traces[0].reward)  # the micro-batch had none
    RolloutBrowser(tmp_path / "run").to_html(tmp_path / "browser.html")
    TrainingMonitor(tmp_path / "run").to_html(tmp_path / "monitor.html")
    RatioLab(traces).to_html(tmp_path / "ratios.html")
    BlockExplorer(traces[2]).to_html(tmp_path / "blocks.html")
    CreditExplorer(traces[2]).to_html(tmp_path / "credit.html")
    run = read_run("verl", tmp_path / "run")
    assert trace_loss(traces[0], run.recipe)[0].credit.abs().sum() > 0
    assert "verl" in report_html({"verl": tmp_path / "run"})


def test_rows_and_updates_that_are_asked_for(verl, tmp_path):
    old, new = numbers()
    config = dict(loss_mode="vanilla", traces=str(tmp_path / "run"), trace_rows=3, trace_every=2)
    verl.recorded(config, IDS, MASKS, old, ADVANTAGES, new, str(tiny_model_path()), updates=4)
    traces = load_traces(tmp_path / "run")
    assert [t.step for t in traces] == [2] * 3 + [4] * 3
    check(traces[:3], old, new, 3)


def test_a_worker_that_repeats_another_writes_nothing(verl, tmp_path):
    old, new = numbers()
    config = dict(loss_mode="vanilla", traces=str(tmp_path / "run"))
    verl.recorded(config, IDS, MASKS, old, ADVANTAGES, new, str(tiny_model_path()), leads=False)
    assert not (tmp_path / "run" / "traces.jsonl").exists()


def test_options_that_record_nothing_are_refused(verl):
    with pytest.raises(RuntimeError, match="trace_rows=3 records nothing without a folder"):
        verl.actor_config(dict(loss_mode="vanilla", trace_rows=3))
    with pytest.raises(RuntimeError, match="trace_every=0"):
        verl.actor_config(dict(loss_mode="vanilla", traces="runs/verl", trace_every=0))


WRITER = """
import sys, time
from pathlib import Path
from test_verl_traces import TOKENIZER, VerlTraces, facts_and_inputs, TokenActions
recorder = VerlTraces(sys.argv[1], dict(engine="verl", task="sums"), TOKENIZER, 4, 1, int(sys.argv[2]))
(Path(sys.argv[1]) / f"ready-{sys.argv[2]}").touch()  # verl's workers meet before each update, so none is late
while len(list(Path(sys.argv[1]).glob("ready-*"))) < 2:
    time.sleep(0.05)
for _ in range(10):
    recorder.begin_step()
    inputs, facts = facts_and_inputs()
    recorder.take(inputs, facts, TokenActions())
    recorder.end_step()
"""


def facts_and_inputs():
    old, new = numbers()
    pad = torch.nn.utils.rnn.pad_sequence
    data = dict(
        prompts=torch.tensor([[TOKENIZER.pad_token_id, *IDS[0][:3]]] * 4),
        responses=pad([torch.tensor(x) for x in IDS], True),
        response_mask=pad([torch.tensor(x) for x in MASKS], True),
        old_log_probs=pad([torch.tensor(x) for x in old], True),
        advantages=pad([torch.tensor(x) for x in ADVANTAGES], True),
    )
    return batch_loss_inputs(data, pad(new, True)), batch_facts(data, TOKENIZER)


def test_workers_write_one_folder(tmp_path):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "engines", ROOT / "tests" / "helpers")))
    env = os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS="1")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run"), str(rank)], env=env) for rank in range(2)
    ]
    assert [w.wait(180) for w in writers] == [0, 0]
    lines = (tmp_path / "run" / "traces.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 10 * 4 and all(json.loads(line)["tokens"] for line in lines)
    run = Run(tmp_path / "run")
    assert [row["step"] for row in run.metrics] == list(range(1, 11))  # rank 0's alone
    traces = load_traces(tmp_path / "run", steps=10)
    assert sorted(t.index for t in traces) == list(range(8)) and {t.group for t in traces} == {traces[0].group}
    assert traces[0].prompt == TEXTS[0][:3]  # without the padding


def test_a_run_that_goes_on_counts_on(tmp_path):
    for first in (1, 2):
        recorder = VerlTraces(tmp_path, dict(engine="verl", task="sums"), TOKENIZER)
        assert recorder.current == first
        recorder.take(*facts_and_inputs(), TokenActions())
        recorder.end_step()
    recorder.begin_step(7)  # verl's own number
    assert recorder.current == 7


def test_another_run_s_folder_is_refused(tmp_path):
    config = dict(engine="verl", task="sums", loss_mode="mpo")
    recorder = VerlTraces(tmp_path, config, TOKENIZER)
    recorder.begin_step(1)
    recorder.take(*facts_and_inputs(), TokenActions())
    recorder.end_step()
    before = (tmp_path / "traces.jsonl").read_text()
    with pytest.raises(ValueError, match="policy_loss.traces=.* loss_mode='mpo', not 'lpo'; choose another folder"):
        VerlTraces(tmp_path, config | dict(loss_mode="lpo"), TOKENIZER)
    again = VerlTraces(tmp_path, config, TOKENIZER)
    with pytest.raises(ValueError, match="a run of 1 steps already, and this one begins at step 1; choose another"):
        again.begin_step(1)
    again.begin_step(2)  # one that verl resumes
    VerlTraces(tmp_path, config, TOKENIZER, rank=1).begin_step(1)  # which may come after rank 0's first lines
    assert (tmp_path / "traces.jsonl").read_text() == before


def test_what_is_no_number_is_null(tmp_path):
    recorder = VerlTraces(tmp_path, dict(engine="verl", task="sums"), TOKENIZER)
    recorder.take(*facts_and_inputs(), TokenActions())
    recorder.end_step(dict(grad_norm=math.nan))
    assert '"grad_norm": null' in (tmp_path / "metrics.jsonl").read_text()


def test_advantages_that_differ_are_averaged_and_said_so(tmp_path):
    recorder = VerlTraces(tmp_path, dict(engine="verl", task="sums"), TOKENIZER, rows=1)
    inputs, facts = facts_and_inputs()
    A = inputs.advantages.clone()
    A[0] = torch.arange(A.shape[1]).float()
    recorder.take(LossInputs(inputs.ids, inputs.mask, inputs.logps, inputs.old_logps, A), facts, TokenActions())
    (trace,) = load_traces(tmp_path)
    assert trace.advantage == 4 and trace.note == "advantage: mean over tokens"  # of 0 to 8


def test_the_action_of_each_loss():
    mask = torch.ones(1, 4)
    for mode, kind in (("gspo", SequenceActions), ("clip_cov", TokenActions), ("mpo_turn", BlockActions)):
        config = SimpleNamespace(policy_loss=SimpleNamespace(loss_mode=mode))
        assert isinstance(used_actions(config, {}, mask), kind)


def test_keys_that_verl_adds_later_are_named_and_left_out(recwarn):
    mask = torch.ones(2, 3)
    for _ in range(2):
        assert verl_normalizer(mask, batch_num_tokens=12, brand_new=3, other=None) == ("token-mean", 12)
    said = [str(w.message) for w in recwarn if "global_batch_info" in str(w.message)]
    assert len(said) == 1 and "brand_new=3" in said[0] and "other" not in said[0]


def test_verl_and_math_verify_share_a_process(verl):
    antlr, right, wrong = verl.math_verify_here()
    assert antlr.startswith("4.9") and right and not wrong
