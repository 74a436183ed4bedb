"""Trackers: what a run tells them, and that neither a missing nor a broken one costs anything. Two are real and need no
server: TensorBoard's files and Trackio's database."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from small_runs import computed

from mpo_nb import cli
from mpo_nb.config import TrainConfig
from mpo_nb.runs.folder import Run
from mpo_nb.training import Trainer, recorder
from mpo_nb.training.trackers import Tracker, check_trackers, is_installed

SMALL = dict(
    steps=2,
    prompts_per_step=2,
    group_size=2,
    epochs=1,
    minibatches=1,
    eval_every=2,
    eval_problems=4,
    checkpoint_every=1,
    precision="float32",
    progress=False,
)


def written_scalars(folder: Path) -> dict[int, dict[str, float]]:
    "What TensorBoard's event files of a folder hold: step -> metrics. A record is length, checksum, event, checksum."
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[int, dict[str, float]] = {}
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


class Notes:
    "A tracker that writes down what it is told."

    said: list = []
    fails_at = None

    def __init__(self, run_name, **settings):
        self.said.append(("begin", run_name, settings["name"]))
        self.said.append(("config", settings["config"]))

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("the server is gone")
        self.said.append((step, values))

    def finish(self):
        self.said.append("end")


@pytest.fixture
def notes(monkeypatch) -> type[Notes]:
    "Trackio's place is taken by a tracker whose words can be read."
    pytest.importorskip("trackio")
    kind = type("Notes", (Notes,), dict(said=[]))
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", kind)
    return kind


def test_names_are_checked_and_a_missing_package_is_refused_before_any_work(tmp_path, monkeypatch):
    assert TrainConfig(report_to="tensorboard").report_to == "tensorboard"
    assert TrainConfig(report_to=["wandb", "mlflow", "wandb"]).report_to == "wandb,mlflow"
    assert TrainConfig(report_to="none").report_to == "none" == TrainConfig(report_to=[]).report_to
    for bad in ("comet", ["none", "wandb"], 3, ["wandb", 3]):
        with pytest.raises(ValueError, match="report_to"):
            TrainConfig(report_to=bad)
    (tmp_path / "own" / "mpo_own_tracker").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "own")
    assert is_installed("json") and not is_installed("mpo_own_tracker"), "a tracker's own folder of runs is no package"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install wandb"):
        check_trackers("wandb")
    with pytest.raises(ValueError, match="pip install mlflow"):
        Trainer(TrainConfig(model="no/such-model", report_to="mlflow", output=str(tmp_path / "run")))


def test_command_line_and_yaml_name_them(tmp_path):
    assert cli.train_config(["--report_to", "tensorboard"])[0].report_to == "tensorboard"
    assert cli.train_config(["--report-to", "wandb", "trackio", "--k", "2"])[0].report_to == "wandb,trackio"
    file = tmp_path / "run.yaml"
    for text in ("report_to: tensorboard", "report_to: [tensorboard]"):
        file.write_text(text + "\nproject: sums\n")
        config = cli.train_config(["--config", str(file)])[0]
        assert config.report_to == "tensorboard" and config.project == "sums"
    assert cli.train_config(["--config", str(file), "--report_to", "none"])[0].report_to == "none"


def test_a_tracker_changes_nothing_and_hears_everything(tmp_path, notes):
    plain = Trainer(TrainConfig(output=str(tmp_path / "plain"), **SMALL)).fit()
    told = Trainer(TrainConfig(output=str(tmp_path / "told"), report_to="trackio", project="sums", **SMALL)).fit()
    assert computed(plain) == computed(told)
    begin, (_, config), *steps, end = notes.said
    assert begin == ("begin", "sums", "told") and config["steps"] == 2 and end == "end"
    assert [step for step, _ in steps] == [0, 1, 2] and all(type(v) in (int, float, bool, str) for v in config.values())
    for (_, values), row in zip(steps, told):
        assert values == {k: v for k, v in row.items() if k != "step"}
    assert "accuracy_sampled" in steps[0][1] and "reward" in steps[1][1]


def test_a_tracker_that_breaks_is_named_once_and_the_run_goes_on(tmp_path, notes):
    notes.fails_at = 1
    with pytest.warns(UserWarning, match="the server is gone.*metrics.jsonl") as warned:
        rows = Trainer(TrainConfig(output=str(tmp_path / "run"), report_to="trackio", **SMALL)).fit()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert sum("the server is gone" in str(w.message) for w in warned) == 1
    assert [said[0] for said in notes.said if said[0] in (0, 1, 2)] == [0] and notes.said[-1] == "end"


def test_a_tracker_is_finished_when_the_run_is_stopped(tmp_path, notes):
    def stop(row):
        if row["step"] == 1:
            raise KeyboardInterrupt

    trainer = Trainer(TrainConfig(output=str(tmp_path / "run"), report_to="trackio", **SMALL))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(stop)
    assert notes.said[-1] == "end" and notes.said[-2][0] == 1


def test_one_that_cannot_begin_stops_the_run_before_its_first_step(tmp_path, notes, monkeypatch):
    def refuse(self, run_name, **settings):
        raise PermissionError("not logged in")

    monkeypatch.setattr(notes, "__init__", refuse)
    with pytest.raises(ValueError, match="report_to='trackio' could not begin.*not logged in.*report_to='none'"):
        Trainer(TrainConfig(output=str(tmp_path / "run"), report_to="trackio", **SMALL)).fit()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


TWO_REAL = """
import json, os, sys, warnings
from mpo_nb.config import TrainConfig
from mpo_nb.training import Trainer, recorder
warnings.filterwarnings("error", message="report_to")
options = json.loads(sys.argv[1])
Trainer(TrainConfig(**options | dict(steps=1))).fit()
Trainer(TrainConfig(**options)).fit()
"""


@pytest.mark.slow
def test_two_real_ones_hold_the_runs_numbers_and_go_on_when_it_is_resumed(tmp_path):
    "TensorBoard and Trackio, in a process whose trackio knows its folder: a run that stops, and is taken up again."
    pytest.importorskip("tensorboardX")
    pytest.importorskip("trackio")
    options = dict(output=str(tmp_path / "run"), report_to=["tensorboard", "trackio"], project="sums") | SMALL
    env = os.environ | dict(TRACKIO_DIR=str(tmp_path / "trackio"))
    subprocess.run([sys.executable, "-c", TWO_REAL, json.dumps(options)], env=env, check=True, capture_output=True)
    rows = Run(tmp_path / "run").metrics
    assert [row["step"] for row in rows] == [0, 1, 2]
    found = written_scalars(tmp_path / "run" / "tensorboard")
    kept = json.loads((tmp_path / "run" / "trackers.json").read_text())
    assert set(kept) == {"tensorboard", "trackio"} and kept["trackio"]["name"] == "run"
    database = sqlite3.connect(tmp_path / "trackio" / "sums.db")
    told = database.execute("select run_id, run_name, step, metrics from metrics order by step").fetchall()
    assert len({run_id for run_id, *_ in told}) == 1 and [step for _, _, step, _ in told] == [0, 1, 2]
    for row, (_, name, _, metrics) in zip(rows, told):
        wanted = {k: v for k, v in row.items() if k != "step"}
        assert found[row["step"]] == pytest.approx(wanted, rel=1e-6)
        assert name == "run" and json.loads(metrics) == pytest.approx(wanted)
    (config,) = database.execute("select config from configs").fetchone()
    assert json.loads(config)["recipe"] == "mpo"
    database.close()


def test_a_run_taken_up_within_a_second_keeps_its_first_scalars(tmp_path, monkeypatch):
    "An event file is named after the second in which it is opened; a clock that stands still stands for a quick run."
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    config = TrainConfig(output=str(tmp_path), report_to="tensorboard")
    for step, known in ((0, None), (1, {})):
        tracker = Tracker("tensorboard", config, known, first=step)
        tracker.log(dict(step=step, loss=0.5 + step))
        tracker.finish()
    assert written_scalars(tmp_path / "tensorboard") == {0: dict(loss=0.5), 1: dict(loss=1.5)}


def test_progress_is_one_output_of_a_notebook_written_over(tmp_path, monkeypatch):
    "The step, the newest numbers and the time left; what stays in the notebook is the last state, as HTML and as text."
    display = pytest.importorskip("IPython.display")
    shown = []
    handle = SimpleNamespace(update=lambda progress: shown.append((str(progress), progress._repr_html_())))
    monkeypatch.setattr(recorder, "in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", lambda progress, display_id: shown.append((str(progress), "")) or handle)
    Trainer(TrainConfig(output=str(tmp_path / "run"), **SMALL | dict(progress=True))).fit()
    texts = [text for text, _ in shown]
    assert texts[0] == "mpo: step 0 of 2" and len(texts) == 5  # before, three steps, and the end
    assert "step 1 of 2 · reward" in texts[2] and texts[2].endswith("left") and "took" in texts[-1]
    assert '<progress value="2" max="2"' in shown[-1][1]
