"""Options that change nothing beside the others are warned of by name, with the remedy; defaults and recipes pass;
objects in their plain forms."""

import json
import sys
import warnings
from dataclasses import fields, replace

import pytest
from small_runs import small

from mpo_nb import config as settings
from mpo_nb import recipes as methods
from mpo_nb.blocks import load_merges, save_merges
from mpo_nb.cli import main, train_config
from mpo_nb.config import TrainConfig, configured_recipe, idle_settings, option_values, with_merges
from mpo_nb.recipes import FutureWeight, LearntBlocks, recipe, recipes
from mpo_nb.runs import load_traces
from mpo_nb.runs.ratios import trace_loss
from mpo_nb.runs.reading import configured
from mpo_nb.training.trainer import Trainer

MERGES = [(("1",), ("2",)), (("1", "2"), ("=",)), (("=",), ("1",))]
MTP = dict(recipe="mpo", k=3, source="mtp")
# option and other settings under which it does nothing -> settings under which it does something
CASES = [
    (dict(mtp_head="shared"), MTP),
    (dict(mtp_merge="eh_proj"), MTP),
    (dict(mtp_start="random"), MTP),
    (dict(mtp_trunk_gradient=0.5), MTP),
    (dict(mtp_calibration="occ"), MTP),
    (dict(mtp_cross_entropy=0.1), MTP),
    (dict(mtp_warmup_steps=0), MTP),
    (dict(mtp_warmup_problems=8), MTP),
    (dict(mtp_warmup_lr=1e-4), MTP),
    (dict(mtp_calibration="occ", mtp_trunk_gradient=0.0) | MTP, dict(mtp_trunk_gradient=0.5)),
    (dict(mtp_warmup_problems=8, mtp_warmup_steps=0) | MTP, dict(mtp_warmup_steps=5)),
    (dict(mtp_warmup_lr=1e-4, mtp_warmup_steps=0) | MTP, dict(mtp_warmup_steps=5)),
    (dict(old_logps="sampler") | MTP, dict(source="backbone")),
    (dict(critic_lr=1e-4), dict(recipe="ppo")),
    (dict(critic_lr=1e-4), dict(recipe="etpo")),
    (dict(critic_trunk_gradient=0.0), dict(recipe="ma_rlhf")),
    (dict(critic_trunk_gradient=0.0, recipe="ppo", recipe_options={"critic": "separate"}), dict(recipe_options="{}")),
    (dict(k=8, recipe="grpo"), dict(recipe="mpo")),
    (dict(k=8, recipe="etpo"), dict(recipe="mpo")),
    (dict(future=0.5, recipe="lpo"), dict(recipe="mpo")),
    (dict(trace_groups=8, trace_every=0), dict(trace_every=2)),
    (dict(lora_alpha=8), dict(lora_rank=4)),
    (dict(lora_targets="q_proj"), dict(lora_rank=4)),
    (dict(decoding="dynamic", sampler="vllm"), dict(sampler="transformers")),
    (dict(project="sums"), dict(report_to="trackio")),
    (dict(chat_template_options={"a": 1}, prompt_format="plain"), dict(prompt_format="chat")),
]


@pytest.mark.parametrize("idle, mended", CASES, ids=str)
def test_a_setting_that_changes_nothing_is_warned_of(idle, mended):
    "From Python, and from the command line; with what helps there is no warning."
    name = next(iter(idle))
    line = [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in idle.items()]
    for make in (lambda: TrainConfig(**idle), lambda: train_config(line)):
        with pytest.warns(UserWarning, match=rf"{name}=.* changes nothing: ") as said:
            make()
        assert all("leave" in str(w.message) or "use " in str(w.message) for w in said)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainConfig(**idle | mended)


def shown(message, category, filename, lineno, file=None, line=None):
    "What Python does with a warning where nobody has changed that."
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def test_the_command_line_warns_in_one_line(tmp_path, capsys, monkeypatch):
    "Of what a run from the shell does not read, too: in Python `Trainer.evaluate` reads it."
    options = f"--output {tmp_path}/run --critic_lr 1e-4 --eval_every 0 --eval_samples 8".split()
    with pytest.warns(UserWarning, match="eval_samples=8 changes nothing: eval_every=0 evaluates nothing"):
        train_config(options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainConfig(eval_every=0, eval_samples=8, eval_problems=20)
    capsys.readouterr()
    monkeypatch.setattr(warnings, "showwarning", shown)  # pytest's own keeps them
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*options, "--dry_run"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "changes nothing" in line]
    assert len(set(lines)) == 2 and all(line.startswith("mpo-train: ") for line in lines)


RECIPE_CASES = [
    ("grpo", dict(kl_aggregate="token-mean"), dict(kl=0.1)),
    ("grpo", dict(kl_estimator="k1"), dict(kl=0.1)),
    ("vineppo", dict(kl_estimator="k1", kl=0), dict(kl=0.1)),
    ("grpo", dict(clip=(0.1, 0.1), surrogate="none"), dict(surrogate="ppo")),
    ("ppo", dict(value_loss="token"), dict(macro=3)),
    ("ppo", dict(block_value="last"), dict(macro=3)),
    ("ppo", dict(block_value="last", macro="actions"), dict(actions="sentence")),
    ("ppo", dict(value_clip=0.5, value_coef=0), dict(value_coef=0.1)),
    ("mpo", dict(future=0.4, joint=True), dict(joint=False)),
    ("mpo", dict(future=0.4, k=2, beta=(0.5, 0.5)), dict(beta=None)),
    ("mpo", dict(tail="truncate", joint=True), dict(joint=False)),
]


@pytest.mark.parametrize("name, idle, mended", RECIPE_CASES, ids=str)
def test_an_option_of_a_recipe_that_changes_nothing_is_warned_of(name, idle, mended):
    first = next(iter(idle))
    with pytest.warns(UserWarning, match=rf"{first}=.* changes nothing: .*(leave|use )"):
        recipe(name, **idle)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe(name, **idle | mended)


def test_a_sweep_goes_through_limits_without_a_word():
    "A share of later tokens where K is 1, and actions where nothing is discounted, are limits of what a sweep varies."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in (dict(k=1, future=0.4), dict(k=1, tail="truncate")):
            recipe("mpo", **options)
        TrainConfig(k=1, future=0.5)
        recipe("etpo", gamma=1.0, k=2)


def test_options_of_actions_that_were_replaced_are_warned_of():
    for given in (dict(k=3), dict(joint=True), dict(tail="truncate")):
        with pytest.warns(UserWarning, match="belongs to the recipe's own actions.*leave actions out"):
            made = recipe("mpo", actions="sentence", **given)
        assert made.actions == "sentence"
    assert recipe("mpo", actions="sentence").actions == "sentence"
    assert configured_recipe(TrainConfig(recipe_options={"actions": "sentence"})).actions == "sentence"


def test_defaults_and_what_recipes_set_themselves_pass():
    for name in recipes:
        made = recipe(name)
        TrainConfig(recipe=name)
        values = {f.name: getattr(made, f.name) for f in fields(made) if f.name not in ("name", "sources", "rule")}
        assert replace(made, **values) == made
    plain = {f.name: getattr(TrainConfig(), f.name) for f in fields(TrainConfig)}
    assert TrainConfig(**plain) == TrainConfig() and TrainConfig(**plain | dict(eval_every=0, trace_every=0))
    assert recipe("vineppo", kl=0).kl_aggregate == "seq-mean-token-sum"  # the recipe's own, not given


def test_every_case_of_the_tables_is_tried():
    tried = {name for idle, _ in CASES for name in [next(iter(idle))]}
    assert tried == {name for case in idle_settings for name in case.options}
    of_recipes = {next(iter(idle)) for _, idle, _ in RECIPE_CASES}
    assert of_recipes == {name for case in methods.idle_options for name in case.options}
    assert settings.Idle is methods.Idle and "mtp_calibration" in option_values


def test_settings_are_compared_with_a_recipe_that_is_handed_over(tmp_path):
    with pytest.warns(UserWarning, match="critic_lr=0.1 changes nothing: the recipe has neither a critic"):
        Trainer(small(tmp_path, recipe="ppo", critic_lr=0.1), recipe=recipe("grpo"))


# Objects in their plain forms


def test_influence_from_the_command_line_and_from_files(tmp_path):
    own = recipe("fipo").influence
    for plain, wanted in (
        ({"gamma": 0.9, "bounds": [1.0, 1.5]}, replace(own, gamma=0.9, bounds=(1.0, 1.5))),
        (True, own),
        (False, None),
        (None, None),
    ):
        given = json.dumps({"influence": plain})
        config, _ = train_config(["--recipe", "fipo", "--recipe_options", given])
        assert configured_recipe(config).influence == wanted
    file = tmp_path / "options.yaml"
    file.write_text("recipe: grpo\nrecipe_options:\n  influence: {gamma: 0.5}\n")
    config, _ = train_config(["--config", str(file)])
    assert configured_recipe(config).influence == FutureWeight(gamma=0.5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: recipe("fipo", gamma=0.9), ["gamma=0.9", "'fipo'", "influence={'gamma': 0.9}"]),
        (lambda: recipe("fipo", bounds=(1, 2)), ["bounds=(1, 2)", "influence={'bounds'"]),
        (lambda: recipe("fipo", lam=0.9), ["lam=0.9", "advantage='gae'"]),
        (lambda: recipe("fipo", influence={"gama": 0.9}), ["'gama'", "did you mean 'gamma'"]),
        (lambda: recipe("fipo", influence={"gamma": 2}), ["gamma=2", "[0, 1]"]),
        (lambda: FutureWeight(threshold=None, guarded=(0.5, 1.0)), ["guarded=(0.5, 1.0)", "would change nothing"]),
        (lambda: recipe("lpo", actions={"blocks": 3}), ["{'blocks': 3}", "merges", "save_merges"]),
        (lambda: recipe("lpo", actions={"merges": [["1"]]}), ["merges[0]=['1']", "learn_merges"]),
        (lambda: TrainConfig(recipe_options={"actions": {"merges": "nowhere.json"}}), ["nowhere.json", "save_merges"]),
        (lambda: recipe("fipo", advantage=[1], gamma=0.9), ["gamma=0.9"]),
    ],
)
def test_plain_forms_that_cannot_be_are_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_file_of_merges(tmp_path):
    save_merges(MERGES, tmp_path / "merges.json")
    assert load_merges(str(tmp_path / "merges.json")) == MERGES
    for text, told in (("{", "holds no merges"), ('{"a": 1}', "holds no merges"), ("[1]", r"merges\[0\]=1")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            load_merges(tmp_path / "bad.json")
    with pytest.raises(OSError, match="cannot be read: No such file"):
        load_merges(tmp_path / "none.json")
    with pytest.raises(ValueError, match="a merge is a pair"):
        save_merges([("1",)], tmp_path / "bad.json")
    assert with_merges('{"kl": 0.1}') == '{"kl": 0.1}'


def test_a_run_with_learnt_blocks_from_the_command_line_knows_its_merges(tmp_path):
    "The file is gone after the start: the folder has the merges, the run goes on, and its traces are cut by them."
    file = tmp_path / "merges.json"
    save_merges(MERGES, file)
    options = json.dumps({"actions": {"merges": str(file)}})
    sizes = "--prompts_per_step 2 --group_size 2 --minibatches 1 --epochs 1 --eval_every 0 --checkpoint_every 1"
    line = f"--recipe lpo --output {tmp_path}/run --precision float32 --no_progress {sizes}".split()
    assert main([*line, "--steps", "1", "--recipe_options", options]) == 0
    known = json.loads((tmp_path / "run" / "config.json").read_text())
    assert json.loads(known["recipe_options"])["actions"]["merges"] == json.loads(json.dumps(MERGES))
    file.unlink()
    assert main([*line, "--steps", "2", "--recipe_options", options]) == 2  # the line names a file that is gone
    assert main([*line, "--steps", "2", "--recipe_options", known["recipe_options"]]) == 0
    save_merges(MERGES[:2], file)
    assert main([*line, "--steps", "3", "--recipe_options", options]) == 2  # other merges, another run
    assert configured(known) == recipe("lpo", actions=LearntBlocks(MERGES))
    trace = load_traces(tmp_path / "run")[0]
    loss, space = trace_loss(trace, configured(known))
    assert loss.loss.isfinite() and int(space.ids(trace.mask_tensor).max()) < len(trace.tokens)
