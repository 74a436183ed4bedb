"`mpo-train`: every field is an option in a group, a file stands under the line, a dry run writes nothing, bash completes."
import os
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest

from mpo_nb import __version__
from mpo_nb.cli import main, option_groups, read_options, train_config, train_parser
from mpo_nb.config import option_values
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
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert train_config(["--config", str(tmp_path / "again.yaml")]) == train_config(line)
    assert "\n# peak:" in printed and "\n# weights" in printed


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


def test_help_has_one_spelling_and_says_what_an_option_takes():
    text = " ".join(train_parser().format_help().split())
    assert "--group_size N responses per problem" in text and "--group-size" not in text and "(default: None)" not in text and "(default: )" not in text
    assert "--precision {auto,float32,bfloat16,float16}" in text and "--recipe_options JSON" in text and "--no_progress show none" in text
    assert train_config(["--group-size", "4", "--no-progress"]) == train_config(["--group_size", "4", "--no_progress"]) == (TrainConfig(group_size=4, progress=False), False)


@pytest.mark.parametrize("name", option_values)
def test_listed_values_are_those_that_a_run_accepts(name):
    others = dict(lora_rank=8) if name == "quantization" else {}
    for value in option_values[name]:
        if value == "flash_attention_2": continue  # refused where its package is missing
        assert getattr(TrainConfig(**{name: value}, **others), name) == value
    with pytest.raises(ValueError, match=f"{name}='other'; choose one of {option_values[name][0]}, "): TrainConfig(**{name: "other"}, **others)


@pytest.mark.parametrize("line, told", [("--group_sise 4", "--group_sise is no option; did you mean --group_size?"), ("--warmup 3", "did you mean --warmup_steps?"), ("--mtp-warmup=3", "--mtp-warmup is no option; did you mean --mtp_warmup_steps or"), ("--xyzzy", "--help lists them"), ("--k 2 grpo", "'grpo' belongs to no option")])
def test_words_that_are_no_option(line, told, capsys):
    assert main(line.split()) == 2
    assert told in (said := capsys.readouterr().err) and len(said.strip().splitlines()) == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as ended: main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"mpo_nb {__version__}\n"


def test_a_reader_that_stops_early_is_told_nothing(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["--dry_run"]) == 1
    assert "ipe" not in capsys.readouterr().err


COMPLETED = {"--mtp_w": "--mtp_warmup_steps --mtp_warmup_problems --mtp_warmup_lr", "--recipe gs": "gspo gspo_token", "--k 4 --schedule ": "constant linear cosine",
             "--task g": "gsm8k gym", "--device ": "auto cpu cuda", "--config r": "run.yaml", "--output f": "folder", "--dry": "--dry_run"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_options_values_and_files(tmp_path, capsys):
    (tmp_path / "run.yaml").touch(); (tmp_path / "folder").mkdir(); (tmp_path / "file").touch()
    with pytest.raises(SystemExit): main(["--print_completion", "bash"])
    script = capsys.readouterr().out
    function = next(line.split("-F ")[1].split()[0] for line in script.splitlines() if line.startswith("complete ") and "-F" in line)
    for typed, offered in COMPLETED.items():
        words = " ".join(f"'{word}'" for word in f"mpo-train {typed}".split(" "))
        ask = f'{script}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {function} mpo-train "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
        found = subprocess.run(["bash", "-c", ask], check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()
        assert sorted(found) == sorted(offered.split()), typed
