"""`TraceCallback` writes what TRL's loss was given, changes nothing, and every widget opens the folder, also while TRL
trains."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mpo_nb.actions import BlockActions, SequenceActions, TokenActions, WindowActions
from mpo_nb.drawing.report import report_html
from mpo_nb.models.tiny import tiny_model_path
from mpo_nb.runs.folder import Run
from mpo_nb.runs.live import LiveRun
from mpo_nb.runs.ratios import stack_traces, trace_loss
from mpo_nb.runs.reading import configured, read_run
from mpo_nb.runs.recording import append_in_turn
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.tasks.task import load_task
from mpo_nb.trl import BlockGRPOConfig, BlockGRPOTrainer, TraceCallback, trl_recipe
from mpo_nb.widgets.block_explorer import BlockExplorer
from mpo_nb.widgets.credit_explorer import CreditExplorer
from mpo_nb.widgets.ratio_lab import RatioLab
from mpo_nb.widgets.rollout_browser import RolloutBrowser
from mpo_nb.widgets.training_monitor import TrainingMonitor

if importlib.util.find_spec("trl") is None:
    pytest.skip("trl is not installed: pip install mpo_nb[trl]", allow_module_level=True)
from datasets import Dataset  # noqa: E402
from transformers import PrinterCallback, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, about their own next releases
TASK = load_task("chain_sum")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    "Every `train()` collects garbage, which takes longer than the steps where a whole test session lies in memory."
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def exact(completions, answer, **_):
    return [TASK.reward({"answer": a}, c) for a, c in zip(answer, completions)]


def settings(folder, cls=BlockGRPOConfig, **options):
    return cls(
        str(folder),
        **dict(
            loss_type="grpo",
            num_iterations=2,
            max_steps=2,
            learning_rate=1e-3,
            max_completion_length=32,
            per_device_train_batch_size=16,
            num_generations=4,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            seed=3,
        )
        | options,
    )


def watched(base):
    "A trainer that keeps each call of the loss: what went in, what the forward pass gave, what came out."

    class Watched(base):
        def _compute_loss(self, model, inputs):
            self.calls = getattr(self, "calls", [])
            self.now = None
            given = {n: x.clone() for n, x in inputs.items() if isinstance(x, torch.Tensor)}
            loss = super()._compute_loss(model, inputs)
            self.calls.append((self.state.global_step + 1, given, *self.now, loss.detach()))
            return loss

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            self.now = out[0].detach().clone(), out[1] if out[1] is None else out[1].detach().clone()
            return out

    return Watched


def trained(folder, base=BlockGRPOTrainer, cls=BlockGRPOConfig, trace=True, extra=(), groups=99, **options):
    args = settings(folder / "trl", cls, **options)
    trainer = watched(base)(tiny_model_path(), exact, args, train_dataset=Dataset.from_list(TASK.train[:64]))
    trainer.remove_callback(PrinterCallback)
    if trace:
        trainer.add_callback(TraceCallback(trainer, folder / "run", groups=groups, pass_mark=1.0))
    for callback in extra:
        trainer.add_callback(callback)
    trainer.train()
    return trainer


def by_text(step, ids, mask):
    return step, tuple(i for i, m in zip(ids, mask) if m)


def check_numbers(trainer, traces):
    "Every kept token of every response of every call, as the loss had it."
    recorded = {}
    for t in traces:
        recorded.setdefault(by_text(t.step, t.token_ids, t.mask), []).append(t)
    count = 0
    for step, given, logps, entropies, _ in trainer.calls:
        old = given.get("old_per_token_logps", logps)
        mask = given["completion_mask"].bool()
        for i in range(len(mask)):
            kept = mask[i]
            key = by_text(step, given["completion_ids"][i].tolist(), kept.tolist())
            # The same text may have been written twice, in two groups: one of them has these numbers.
            near = [
                t
                for t in recorded[key]
                if abs(t.advantage - float(given["advantages"][i])) < 1e-6
                and torch.equal(torch.tensor(t.logps)[: int(kept.sum())], logps[i][kept])
                and torch.equal(torch.tensor(t.old_logps)[: int(kept.sum())], old[i][kept])
                and torch.equal(torch.tensor(t.entropies)[: int(kept.sum())], entropies[i][kept].float())
            ]
            assert near
            count += 1
    assert count == len(traces)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_numbers_are_the_losses_own_in_trl_s_trainer(tmp_path, accumulate):
    trainer = trained(
        tmp_path,
        GRPOTrainer,
        GRPOConfig,
        gradient_accumulation_steps=accumulate,
        per_device_train_batch_size=16 // accumulate,
    )
    traces = load_traces(tmp_path / "run")
    assert len(traces) == 2 * 16
    check_numbers(trainer, traces)
    moved = [t for t in traces if t.step == 2]
    assert all(t.logps == t.old_logps for t in traces if t.step == 1) and any(t.logps != t.old_logps for t in moved)
    for step in (1, 2):
        here = [t for t in traces if t.step == step]
        assert [(t.group, t.index) for t in here] == [(g, i) for g in range(4) for i in range(4)]
        for g in range(4):
            group = here[4 * g : 4 * g + 4]
            assert len({t.prompt for t in group}) == 1 and len({t.answer for t in group}) == 1
            r = torch.tensor([t.reward for t in group])
            A = torch.tensor([t.advantage for t in group])
            torch.testing.assert_close(A, (r - r.mean()) / (r.std() + 1e-4))
        for t in here:
            text = t.text.replace("<eos>", "").replace("</s>", "")
            assert t.reward == exact([text], [t.answer])[0] and t.correct == (t.reward == 1)


def test_numbers_are_the_losses_own_where_blocks_move_them(tmp_path):
    trainer = trained(tmp_path, action_space="window", k=3)
    check_numbers(trainer, load_traces(tmp_path / "run"))  # old ones are the sampler's, not those that TRL is handed


@pytest.mark.parametrize(
    "space, actions",
    [
        (dict(action_space="token"), TokenActions()),
        (dict(action_space="window", k=3, future=0.4, loss_type="bnpo"), WindowActions(3, 0.4)),
        (dict(action_space="block", k=3, epsilon_high=0.28), BlockActions(3)),
        (dict(action_space="sequence", epsilon=0.05), SequenceActions()),
    ],
)
def test_the_folder_s_recipe_gives_trl_s_loss(tmp_path, space, actions):
    trainer = trained(tmp_path, **space)
    made = configured(Run(tmp_path / "run").config)
    assert repr(made.actions) == repr(actions)
    traces = [t for t in load_traces(tmp_path / "run") if t.step == 2]
    loss = made.loss(stack_traces(traces, made)).loss
    torch.testing.assert_close(float(loss), float(trainer.calls[-1][-1]), rtol=1e-5, atol=1e-6)
    assert abs(float(loss)) > 1e-6


def test_what_has_no_recipe_here_names_none(tmp_path):
    for options in (
        dict(action_space="block", k=2, reduce="sum"),
        dict(delta=2.0),
        dict(loss_type="cispo"),
        dict(scale_rewards="batch"),
        dict(top_entropy_quantile=0.2),
        dict(off_policy_mask_threshold=0.5),
        dict(beta=0.1, use_bias_correction_kl=True),
        dict(use_vllm=True),
    ):
        assert trl_recipe(settings(tmp_path, **options)) == {}


def test_training_is_as_without_it(tmp_path):
    with_it, without = (
        trained(tmp_path / name, action_space="block", k=2, trace=name == "with") for name in ("with", "without")
    )
    for a, b in zip(with_it.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(a, b)
    logs = [
        [{k: v for k, v in row.items() if "time" not in k and "per_second" not in k} for row in t.state.log_history]
        for t in (with_it, without)
    ]
    assert logs[0] == logs[1]


class Look(TrainerCallback):
    "Opens every widget on the folder while TRL trains."

    def __init__(self, folder):
        self.folder = folder
        self.live = LiveRun("TRL", folder)
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        self.live.read()
        traces = load_traces(self.folder, steps=state.global_step)
        RolloutBrowser(self.folder).to_html(self.folder.parent / "browser.html")
        TrainingMonitor(self.folder).to_html(self.folder.parent / "monitor.html")
        RatioLab(traces).to_html(self.folder.parent / "ratios.html")
        for t in traces[:1]:
            for widget in (BlockExplorer, CreditExplorer):
                widget(t).to_html(self.folder.parent / f"{widget.__name__}.html")
        self.seen.append((state.global_step, self.live.status, len(traces)))


def test_every_widget_opens_it_while_trl_trains(tmp_path):
    look = Look(tmp_path / "run")
    trained(tmp_path, action_space="window", k=4, extra=[look], groups=2, max_steps=3)
    assert [(step, n) for step, _, n in look.seen] == [(1, 8), (2, 8), (3, 8)]
    assert look.seen[0][1].startswith("TRL: step 1 of 3") and look.seen[2][1].startswith("TRL: finished, 3 steps")
    run = read_run("TRL", tmp_path / "run")
    assert len(run.rows) == 3 and run.recipe.actions == WindowActions(4) and len(run.traces) == 3 * 8
    assert run.missing == ["was not evaluated on held-out problems (eval_every=0, or none finished)"]
    for row in run.rows:
        assert {"clip_fraction", "ratio_q99", "log_ratio_std", "lr", "entropy", "seconds"} <= row.keys()
        assert ("reward" in row) == ("train_accuracy" in row) == (row["step"] != 2)  # the second pass samples nothing
    assert run.rows[0]["log_ratio_std"] == 0 < run.rows[1]["log_ratio_std"]
    moved = [t for t in run.traces if t.step == 2 and t.advantage]
    assert moved and all(trace_loss(t, run.recipe)[0].credit.abs().sum() > 0 for t in moved)
    assert "TRL" in report_html({"TRL": tmp_path / "run"})


def test_a_folder_with_another_run_is_refused_before_training(tmp_path):
    trained(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="holds a run already.*overwrite=True"):
        trained(tmp_path, max_steps=1)
    lines = (tmp_path / "run" / "traces.jsonl").read_text().splitlines()
    assert len(lines) == 16
    trainer = watched(BlockGRPOTrainer)(
        tiny_model_path(), exact, settings(tmp_path / "trl", max_steps=1), train_dataset=Dataset.from_list(TASK.train)
    )
    trainer.add_callback(TraceCallback(trainer, tmp_path / "run", overwrite=True))
    trainer.train()
    assert len((tmp_path / "run" / "traces.jsonl").read_text().splitlines()) == 8


def test_a_run_that_is_resumed_goes_on_in_its_folder(tmp_path):
    trained(tmp_path, max_steps=4, save_strategy="steps", save_steps=2, groups=1)
    before = load_traces(tmp_path / "run")
    args = settings(tmp_path / "trl", max_steps=4, save_strategy="steps", save_steps=2)
    made = watched(BlockGRPOTrainer)
    trainer = made(tiny_model_path(), exact, args, train_dataset=Dataset.from_list(TASK.train[:64]))
    trainer.add_callback(TraceCallback(trainer, tmp_path / "run", groups=1, pass_mark=1.0))
    trainer.train(resume_from_checkpoint=str(tmp_path / "trl" / "checkpoint-2"))
    after = load_traces(tmp_path / "run")
    assert [t.step for t in after] == [t.step for t in before]
    assert [t.to_dict() for t in after if t.step <= 2] == [t.to_dict() for t in before if t.step <= 2]
    assert [row["step"] for row in Run(tmp_path / "run").metrics] == [1, 2, 3, 4]


def test_a_step_that_was_broken_off_leaves_nothing(tmp_path):
    "The second batch of a step fails; the folder is free, and what goes on records that step once."
    calls = []

    def reward(completions, **_):
        calls.append(len(completions))
        if len(calls) == 4:
            raise KeyError("no reward")
        return [float(i % 2) for i in range(len(completions))]

    def made():
        args = settings(
            tmp_path / "trl",
            num_iterations=1,
            gradient_accumulation_steps=2,
            steps_per_generation=1,
            per_device_train_batch_size=8,
            max_completion_length=8,
            save_strategy="steps",
            save_steps=1,
        )
        trainer = BlockGRPOTrainer(tiny_model_path(), reward, args, train_dataset=Dataset.from_list(TASK.train[:64]))
        trainer.add_callback(TraceCallback(trainer, tmp_path / "run", groups=99))
        return trainer

    first = made()
    with pytest.raises(KeyError):
        first.train()
    trainers = first, made()  # the one that failed is still there, as in a notebook
    for trainer in trainers:
        trainer.train(resume_from_checkpoint=str(tmp_path / "trl" / "checkpoint-1"))
        traces = load_traces(tmp_path / "run")
        assert [(t.step, t.group, t.index) for t in traces] == [
            (step, g, i) for step in (1, 2) for g in range(4) for i in range(4)
        ]


def test_a_response_without_a_reward_is_neither_right_nor_wrong(tmp_path):
    def reward(completions, **_):
        return [None if i % 4 == 0 else float(i % 2) for i in range(len(completions))]

    args = settings(tmp_path / "trl", max_steps=1, max_completion_length=8, per_device_train_batch_size=8)
    trainer = BlockGRPOTrainer(tiny_model_path(), reward, args, train_dataset=Dataset.from_list(TASK.train[:64]))
    trainer.add_callback(TraceCallback(trainer, tmp_path / "run", groups=99, pass_mark=1.0))
    trainer.train()
    assert [t.correct for t in load_traces(tmp_path / "run")] == [None, True, False, True] * 2
    assert Run(tmp_path / "run").metrics[0]["train_accuracy"] == pytest.approx(2 / 3)


def test_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match="trainer is a str; pass one of TRL's GRPOTrainer"):
        TraceCallback("trainer", tmp_path / "run")
    trainer = BlockGRPOTrainer(
        tiny_model_path(), exact, settings(tmp_path), train_dataset=Dataset.from_list(TASK.train[:8])
    )
    with pytest.raises(ValueError, match="output_dir.*choose another folder"):
        TraceCallback(trainer, tmp_path)
    with pytest.raises(ValueError, match="groups=0"):
        TraceCallback(trainer, tmp_path / "run", groups=0)
    with pytest.raises(ValueError, match="pass_mark='1'"):
        TraceCallback(trainer, tmp_path / "run", pass_mark="1")
    with pytest.raises(TypeError, match="SimpleNamespace, which has no _calculate_rewards"):
        TraceCallback(SimpleNamespace(args=SimpleNamespace(output_dir="x")), tmp_path / "run")
    TraceCallback(trainer, tmp_path / "run")
    with pytest.raises(TypeError, match="has a TraceCallback already"):
        TraceCallback(trainer, tmp_path / "run")


def test_a_loss_that_does_not_come_by_is_told(tmp_path):
    class Elsewhere(GRPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            out = self._get_per_token_logps_and_entropies(
                model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
                inputs["completion_ids"].shape[1],
            )
            return -out[0].mean()

    with pytest.raises(RuntimeError, match="left nothing to record"):
        trained(tmp_path, Elsewhere, GRPOConfig)


TWO = """
import sys
from pathlib import Path
import torch
from datasets import Dataset
sys.path[:0] = sys.argv[2].split(":")
from test_trl_traces import TASK, exact, settings, tiny_model_path, watched
from mpo_nb.trl import BlockGRPOTrainer, TraceCallback
folder = Path(sys.argv[1])
args = settings(folder / "trl", action_space="window", k=3, per_device_train_batch_size=8)
trainer = watched(BlockGRPOTrainer)(tiny_model_path(), exact, args, train_dataset=Dataset.from_list(TASK.train[:64]))
trainer.add_callback(TraceCallback(trainer, folder / "run", groups=99))
trainer.train()
torch.save(trainer.calls, folder / f"calls-{trainer.accelerator.process_index}.pt")
"""


@pytest.mark.slow
def test_two_processes_write_one_folder(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "engines"), str(ROOT / "tests" / "helpers")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
        + [str(tmp_path), path],
        env=os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr[-3000:]
    traces = load_traces(tmp_path / "run")
    calls = [call for n in range(2) for call in torch.load(tmp_path / f"calls-{n}.pt", weights_only=False)]
    assert len(traces) == 2 * 16
    check_numbers(SimpleNamespace(calls=calls), traces)
    assert [(t.group, t.index) for t in traces if t.step == 1] == [(g, i) for g in range(4) for i in range(4)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_four_writers_of_one_file_leave_whole_lines(tmp_path):
    path = tmp_path / "traces.jsonl"
    children = []
    for writer in range(4):
        child = os.fork()
        if not child:
            try:
                for n in range(50):
                    append_in_turn(path, [dict(step=n, writer=writer, filling="x" * 20_000)] * 3)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 4 * 50 * 3 and {len(row["filling"]) for row in rows} == {20_000}
    # A turn is not interrupted: three lines of one append follow each other.
    assert all(len({(r["writer"], r["step"]) for r in rows[i : i + 3]}) == 1 for i in range(0, len(rows), 3))
