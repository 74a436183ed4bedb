"""`mpo-train`: every field is an option in a group, a file stands under the line, a dry run writes nothing, bash
completes."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest

from mpo_nb import __version__
from mpo_nb.cli import main, read_options, tour, train_config, train_parser
from mpo_nb.config import TrainConfig, groups, option_values


def test_no_argument_is_the_default_configuration():
    assert train_config([]) == (TrainConfig(), False)


def test_every_field_is_an_option_of_one_group_with_its_default():
    parser = train_parser()
    titled = {g.title: list(dict.fromkeys(a.dest for a in g._group_actions)) for g in parser._action_groups}
    assert list(titled)[2:] == list(groups)
    assert [name for title in groups for name in titled[title]] == [f.name for f in fields(TrainConfig)]
    assert all(f.name in titled[f.metadata["group"]] for f in fields(TrainConfig))
    text = parser.format_help()
    assert (
        "algorithm:" in text
        and "(default: 3e-05)" in text
        and "(default: chain_sum)" in text
        and text.startswith("usage: mpo-train [--config FILE] [options]\n")
    )


def test_the_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        'recipe: grpo\nlr: 1e-4\nsteps: 7\nstop: ["\\n\\n", Question]\nprogress: false\ntask_options: {terms: [4, 5]}\n'
    )
    config, dry = train_config(["--config", str(path), "--steps", "9", "--dry-run"])
    assert dry and config == TrainConfig(
        recipe="grpo", lr=1e-4, steps=9, stop=["\n\n", "Question"], progress=False, task_options='{"terms": [4, 5]}'
    )


def test_what_a_dry_run_prints_is_a_file_that_gives_the_same_run(tmp_path, capsys):
    line = ["--k", "3", "--lr", "2e-5", "--recipe_options", '{"clip": [0.1, 0.3]}', "--output", str(tmp_path / "run")]
    assert main([*line, "--dry_run"]) == 0 and not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert train_config(["--config", str(tmp_path / "again.yaml")]) == train_config(line)
    assert "\n# peak:" in printed and "\n# weights" in printed


@pytest.mark.parametrize(
    "text, told",
    [
        ("learning_rate: 1", "'learning_rate', which is no option"),
        ("group_sise: 4", "did you mean 'group_size'"),
        ("[1, 2]", "holds a list"),
        ("just words", "holds a str"),
        ("a: [", "is not YAML"),
        ("k: 0", "k=0; it must be"),
        ("lr: -1", "lr=-1.0; it must be positive"),
        ("lr: quick", "lr: 'quick'; it must be a number"),
        ("steps: 2.5", "steps: 2.5; it must be a whole number"),
        ("lora_rank: true", "lora_rank: True; it must be a whole"),
        ("stop: x", "must be a list of texts"),
        ("model: 5", "must be text"),
        ("progress: 1", "must be true or false"),
    ],
)
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
    assert (
        "--group_size N responses per problem" in text
        and "--group-size" not in text
        and "(default: None)" not in text
        and "(default: )" not in text
    )
    assert (
        "--precision {auto,float32,bfloat16,float16}" in text
        and "--recipe_options JSON" in text
        and "--no_progress show none" in text
    )
    assert (
        train_config(["--group-size", "4", "--no-progress"])
        == train_config(["--group_size", "4", "--no_progress"])
        == (TrainConfig(group_size=4, progress=False), False)
    )


@pytest.mark.parametrize("name", option_values)
def test_listed_values_are_those_that_a_run_accepts(name):
    others = dict(lora_rank=8) if name == "quantization" else dict(source="mtp") if name.startswith("mtp_") else {}
    for value in option_values[name]:
        if value == "flash_attention_2":
            continue  # refused where its package is missing
        assert getattr(TrainConfig(**{name: value}, **others), name) == value
    with pytest.raises(ValueError, match=f"{name}='other'; choose one of {option_values[name][0]}, "):
        TrainConfig(**{name: "other"}, **others)


@pytest.mark.parametrize(
    "line, told",
    [
        ("--group_sise 4", "--group_sise is no option; did you mean --group_size?"),
        ("--warmup 3", "did you mean --warmup_steps?"),
        ("--mtp-warmup=3", "--mtp-warmup is no option; did you mean --mtp_warmup_steps or"),
        ("--xyzzy", "--help lists them"),
        ("--k 2 grpo", "'grpo' belongs to no option"),
    ],
)
def test_words_that_are_no_option(line, told, capsys):
    assert main(line.split()) == 2
    assert told in (said := capsys.readouterr().err) and len(said.strip().splitlines()) == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"mpo_nb {__version__}\n"


def test_a_reader_that_stops_early_is_told_nothing(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["--dry_run"]) == 1
    assert "ipe" not in capsys.readouterr().err


COMPLETED = {
    "--mtp_w": "--mtp_warmup_steps --mtp_warmup_problems --mtp_warmup_lr",
    "--recipe gs": "gspo gspo_token",
    "--k 4 --schedule ": "constant linear cosine",
    "--task g": "gsm8k gym",
    "--device ": "auto cpu cuda",
    "--config r": "run.yaml",
    "--output f": "folder",
    "--dry": "--dry_run",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_options_values_and_files(tmp_path, capsys):
    (tmp_path / "run.yaml").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["--print_completion", "bash"])
    script = capsys.readouterr().out
    function = next(
        line.split("-F ")[1].split()[0] for line in script.splitlines() if line.startswith("complete ") and "-F" in line
    )
    for typed, offered in COMPLETED.items():
        words = " ".join(f"'{word}'" for word in f"mpo-train {typed}".split(" "))
        ask = (
            f"{script}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {function} mpo-train"
            ' "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        found = subprocess.run(
            ["bash", "-c", ask], check=True, capture_output=True, text=True, cwd=tmp_path
        ).stdout.split()
        assert sorted(found) == sorted(offered.split()), typed


LINES = [
    ("--steps 1e3", "--steps: '1e3'; it must be a whole number"),
    ("--steps ten", "--steps: 'ten'; it must be a whole number"),
    ("--steps -1", "steps=-1; it must be a whole number of at least 0"),
    ("--lr fast", "--lr: 'fast'; it must be a number"),
    ("--lr nan", "lr=nan; it must be positive and finite"),
    ("--lr inf", "lr=inf; it must be positive"),
    ("--max_grad_norm inf", "max_grad_norm=inf"),
    ("--output /", "output='/' is the root"),
    ("--schedule step", "--schedule: invalid choice: 'step'"),
    ("--progress maybe", "--progress: "),
    ("--steps", "--steps: expected one argument"),
    ("--lora_rank 2.5", "--lora_rank: '2.5'"),
    ("--seed 99999999999999999999", "seed=99999999999999999999; it must be a whole number that fits"),
    ("--adam_beta1 1", "adam_beta1=1.0; a decay rate must be a number in [0, 1)"),
    ("--device tpu", "device='tpu' is no device"),
    ("--task_options {", "task_options='{' is not JSON"),
    ('--recipe_options {"kl":"x"}', "recipe_options="),
    ("--config nowhere.yaml", "--config nowhere.yaml cannot be read: No such file"),
    ("--config .", "--config . cannot be read: Is a directory"),
    ("--future 1", "future=1.0; the share of later tokens must be"),
]


@pytest.mark.parametrize(
    "line, told",
    [
        *LINES,
        *((f"{option} ", f"{option.strip('-')}=''; name ") for option in ("--output", "--model", "--task", "--device")),
        ("--config ", "--config '' names no file"),
        ("--stop ", "stop=['']: stop[0] is an empty text; leave it out"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry", [[], ["--dry_run"]], ids=["run", "dry"])
def test_each_mistake_on_the_line_is_one_line(line, told, dry, capsys):
    try:
        code = main([*line.split(" "), *dry])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code in (1, 2) and told in said and len(said.splitlines()) == 1 and said.startswith("mpo-train: "), said


FILES = [
    ("lr: 1\nlr: 2", "'lr' stands in it twice"),
    ("recipe_options: {kl: 1, kl: 2}", "'kl' stands in it twice"),
    ("k:\t2\n\tlr: 1", "is not YAML"),
    ("steps: 010", "'010' is not a number in base 10"),
    ("steps: 1:30", "'1:30' is not a number in base 10"),
    ("steps: 1e3", "steps: '1e3'; it must be a whole number"),
    ("steps: 10.0", "steps: 10.0; it must be a whole number"),
    ("steps: '10'", "steps: '10'; it must be a whole number"),
    ("lr: .nan", "lr=nan; it must be positive"),
    ("lr: .inf", "lr=inf"),
    ("lr:", "lr: None; it must be a number"),
    ("lr: true", "lr: True; it must be a number"),
    ("recipe: no", "recipe: False; it must be text"),
    ("output: ''", "output=''; name a folder"),
    ("output: 2024-01-01", "it must be text, in quotes"),
    ("output: 2024-13-01", "is not YAML"),
    ("output: ~", "output: None; it must be text"),
    ("stop: [1]", "must be a list of texts"),
    ("stop: ['']", "stop=['']"),
    ("5: 6", "5, which is no option"),
    ("? [a]\n: 1", "is not YAML"),
    ("--- {}\n--- {}", "is not YAML"),
    ("!!python/object:os.system {}", "is not YAML"),
    ("[" * 5000, "nested too deeply"),
    ("task_options: [1]", "task_options"),
    ("recipe_options: {clop: 1}", "has no option 'clop'"),
    ("model: [tiny]", "model: ['tiny']; it must be text"),
    ("steps: " + "9" * 5000, "is not YAML"),
]


@pytest.mark.parametrize("text, told", FILES, ids=range(len(FILES)))
def test_each_mistake_in_a_file_is_one_line(text, told, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert main(["--config", str(path), "--dry_run"]) == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1, said


def test_bytes_that_are_no_text_and_a_mark_before_it(tmp_path, capsys):
    (tmp_path / "bytes.yaml").write_bytes(b"lr: \xff")
    assert main(["--config", str(tmp_path / "bytes.yaml")]) == 2 and "is not text in UTF-8" in capsys.readouterr().err
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbflr: 1e-4\n")
    assert read_options(tmp_path / "mark.yaml") == {"lr": 1e-4}


@pytest.mark.parametrize(
    "line, told",
    [
        ("--output ", "output=''; name a folder"),
        ("--output /", "output='/' is the root"),
        ("--steps 0", "steps=0"),
        ("--steps 1e3", "--steps: '1e3'; it must be a whole number"),
        ("--seed x", "--seed: 'x'"),
        ("--step 3", "unrecognized arguments: --step 3"),
    ],
    ids=str,
)
def test_each_mistake_to_the_tour_is_one_line(line, told, capsys):
    try:
        code = tour(line.split(" "))
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2 and told in said and len(said.splitlines()) == 1 and said.startswith("mpo-tour: "), said


def test_a_dry_run_plans_for_the_tasks_own_limit(capsys):
    assert main(["--dry_run"]) == 0
    assert "responses of 48;" in capsys.readouterr().out
