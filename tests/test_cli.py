"`mpo-train`: every field is an option in a group, a file stands under the line, a dry run writes nothing, bash completes."
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest

from mpo_nb.cli import main, option_groups, read_options, train_config, train_parser
from mpo_nb.trainer import TrainConfig


def test_no_argument_is_the_default_configuration():
    assert train_config([]) == (TrainConfig(), False)


def test_every_field_is_an_option_of_one_group_with_its_default():
    parser = train_parser()
    groups = {g.title: [a.dest for a in g._group_actions] for g in parser._action_groups}
    assert list(groups)[2:] == list(option_groups.values())
    found = [name for title in option_groups.values() for name in dict.fromkeys(groups[title])]
    assert found == [f.name for f in fields(TrainConfig)]
    text = parser.format_help()
    assert "algorithm:" in text and "(default: 3e-05)" in text and "(default: chain_sum)" in text and text.startswith("usage: mpo-train [--config FILE] [options]\n")


def test_the_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("recipe: grpo\nlr: 1e-4\nsteps: 7\nstop: [\"\\n\\n\", Question]\nprogress: false\ntask_options: {terms: [4, 5]}\n")
    config, dry = train_config(["--config", str(path), "--steps", "9", "--dry-run"])
    assert dry and config == TrainConfig(recipe="grpo", lr=1e-4, steps=9, stop=["\n\n", "Question"], progress=False, task_options='{"terms": [4, 5]}')


def test_what_a_dry_run_prints_is_a_file_that_gives_the_same_run(tmp_path, capsys):
    line = ["--k", "3", "--lr", "2e-5", "--recipe_options", '{"clip": [0.1, 0.3]}', "--output", str(tmp_path / "run")]
    assert main([*line, "--dry_run"]) == 0 and not (tmp_path / "run").exists()
    printed, plan = capsys.readouterr().out.split("\n\n", 1)
    (tmp_path / "again.yaml").write_text(printed)
    assert train_config(["--config", str(tmp_path / "again.yaml")]) == train_config(line)
    assert "peak:" in plan and "weights" in plan


@pytest.mark.parametrize("text, told", [("learning_rate: 1", "'learning_rate', which is no option"), ("group_sise: 4", "did you mean 'group_size'"), ("[1, 2]", "holds a list"), ("just words", "holds a str"), ("a: [", "is not YAML"), ("k: 0", "k=0; it must be"), ("lr: -1", "lr=-1.0; it must be positive"), ("lr: quick", "lr: 'quick'; it must be a number"), ("steps: 2.5", "steps: 2.5; it must be a whole number"), ("lora_rank: true", "lora_rank: True; it must be a whole"), ("stop: x", "must be a list of texts"), ("model: 5", "must be text"), ("progress: 1", "must be true or false")])
def test_files_that_cannot_be(text, told, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert main(["--config", str(path)]) == 2
    assert told in (said := capsys.readouterr().err) and len(said.strip().splitlines()) == 1


def test_a_missing_file_is_named_and_an_empty_one_is_no_option(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.yaml")]) == 1 and "none.yaml" in capsys.readouterr().err
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_options(tmp_path / "empty.yaml") == {}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_options():
    script = subprocess.run([sys.executable, "-c", "from mpo_nb.cli import main; main()", "--print_completion", "bash"], check=True, capture_output=True, text=True).stdout
    ask = script + "\nCOMP_WORDS=(mpo-train --mtp_w); COMP_CWORD=1; " + next(line.split("-F ")[1].split()[0] for line in script.splitlines() if line.startswith("complete ") and "-F" in line) + '; printf "%s\\n" "${COMPREPLY[@]}"'
    offered = subprocess.run(["bash", "-c", ask], check=True, capture_output=True, text=True).stdout.split()
    assert sorted(offered) == sorted({"--mtp_warmup_steps", "--mtp_warmup_problems", "--mtp_warmup_lr"})
