"""Every field of TrainConfig against values of the wrong kind and out of range; configurations of other versions; a
config.json that is damaged."""

import json
import math
import pathlib
from dataclasses import fields, replace

import numpy as np
import pytest

from mpo_nb.actions import WindowActions
from mpo_nb.config import (
    TrainConfig,
    config_differences,
    config_record,
    configured_recipe,
    described,
    given_options,
    recipe_differences,
)
from mpo_nb.recipes import Recipe, recipe
from mpo_nb.runs.folder import Run, free_fields
from mpo_nb.runs.reading import configured

KINDS = {f.name: f.type for f in fields(TrainConfig)}
# What is wrong for every field of a kind, and what more is wrong for one field.
WRONG = {
    int: ("10", 2.5, 1e3, True, None, math.nan, math.inf, [1], "", -(2**70)),
    float: ("0.5", True, None, math.nan, math.inf, -math.inf, [0.5], "", 1j, 10**400),
    bool: (1, 0, "true", "no", None, [], np.int64(1)),
    str: (5, None, True, ["tiny"], b"tiny", {1}),
    list[str]: ("Question", [""], [5], None, {"a": 1}, ["a", None], 7),
}
RANGES = dict(
    steps=[-1],
    prompts_per_step=[0],
    group_size=[1],
    epochs=[0],
    minibatches=[0, 10**6],
    micro_batch_tokens=[0],
    max_new_tokens=[-1],
    top_k=[-1],
    max_rows=[0],
    lora_rank=[-1],
    lora_alpha=[-1],
    chunk_elements=[0],
    eval_problems=[0],
    eval_samples=[0, -1],
    checkpoint_every=[0],
    keep_checkpoints=[0],
    eval_every=[-1],
    trace_every=[-1],
    trace_groups=[0],
    warmup_steps=[-1],
    lag=[-1],
    mtp_warmup_steps=[-1],
    mtp_warmup_problems=[1],
    k=[0],
    seed=[2**63],
    lr=[0.0, -1.0],
    temperature=[0.0, -1.0],
    max_grad_norm=[0.0],
    mtp_warmup_lr=[0.0],
    critic_lr=[-1e-3],
    top_p=[0.0, 1.5, -0.1],
    future=[1.0, -0.1],
    weight_decay=[-0.1],
    adam_beta1=[1.0, 1.5, -0.1],
    adam_beta2=[1.0, -1.0],
    mtp_trunk_gradient=[-0.1, 1.1],
    mtp_calibration=["on"],
    mtp_cross_entropy=[-0.1],
    critic_trunk_gradient=[2.0],
    model=["", " "],
    task=["", "\t"],
    output=["", " ", "/", "//", "a\0b", "~no_such_user/run"],
    recipe=["", "mopo"],
    device=["", "gpu", "meta", "cuda:x"],
    lora_targets=["", "q_proj,,v_proj", ","],
    task_options=["", "[]", "5", "terms=5", '{"a": 1, "a": 2}', "{" * 3, [1]],
    recipe_options=["null", '{"clop": 1}', '{"kl": "much"}', '{"clip": 0.2}', {"kl": object()}, {"kl": -1}],
    stop=[["a", ""]],
)


@pytest.mark.parametrize("name", KINDS)
def test_each_field_refuses_what_it_cannot_be(name):
    optional = {} if name in ("quantization", "lora_rank") else dict(lora_rank=0)
    for value in [*([] if name.endswith("_options") else WRONG[KINDS[name]]), *RANGES.get(name, [])]:
        with pytest.raises(ValueError) as refused:
            TrainConfig(**optional | {name: value})
        said = str(refused.value)
        assert name in said and "\n" not in said, (name, value, said)
        shown = value if isinstance(value, str) else repr(value)[:100]
        assert (
            name.endswith("_options")
            or name in ("recipe", "stop")
            or shown in said
            or repr(value) in said
            or str(value) in said
        ), (name, value, said)
        assert any(
            word in said
            for word in (
                "it must",
                "it has",
                "pass ",
                "give ",
                "name ",
                "choose ",
                "use ",
                "write ",
                "shows what",
                "there are",
                "leave it out",
                "must be",
                "share",
            )
        ), said


def test_numbers_and_paths_of_others_become_pythons_own():
    config = TrainConfig(
        steps=np.int64(7),
        lr=np.float32(0.5),
        weight_decay=1,
        output=pathlib.Path("runs") / "a",
        stop=("a", "b"),
        task_options={"terms": [4, 5]},
    )
    assert (config.steps, config.lr, config.weight_decay, config.output, config.stop, config.task_options) == (
        7,
        0.5,
        1.0,
        "runs/a",
        ["a", "b"],
        '{"terms": [4, 5]}',
    )
    assert (
        json.loads(json.dumps(config_record(config, config, configured_recipe(config))))["steps"] == 7
        and type(config.steps) is int
    )
    assert TrainConfig(output="~/run").output == str(pathlib.Path("~/run").expanduser())


# Another version's run


def record(**options) -> dict:
    config = TrainConfig(output="x", **options)
    return json.loads(json.dumps(config_record(config, config, configured_recipe(config))))


NEW, OLD = (
    record(k=3, precision="float32"),
    {k: v for k, v in record(k=3, precision="float32").items() if k not in ("given", "version")},
)


@pytest.mark.parametrize(
    "then, told",
    [
        (NEW | dict(tree="off", version="3.0"), []),  # dropped since, and left alone
        (NEW | dict(tree=[7], given=["k", "tree"]), ["tree=[7], which this version does not know"]),
        (OLD | dict(tree=None, depth=0, style="auto", words=[]), []),  # version 0.1.0 kept no list of what was given
        (OLD | dict(tree="wide"), ["tree='wide', which this version does not know"]),
        ({k: v for k, v in NEW.items() if k not in ("chunk_elements", "weight_decay")}, []),  # they came later
        (
            {k: v for k, v in NEW.items() if k not in ("k", "precision")},
            ["no k, which is 3 now", "no precision, which is 'float32' now"],
        ),
        (NEW | dict(lr=1e-4, k=2), ["k=2, not 3", "lr=0.0001, not 3e-05"]),
        (NEW | dict(task_options=" { } "), []),
        (NEW | dict(task_options='{"terms": 5}'), ["task_options='{\"terms\": 5}', not '{}'"]),
        (NEW | dict(output="elsewhere", micro_batch_tokens=1, processes=8), []),
    ],
)
def test_what_matters_of_another_versions_configuration(then, told):
    assert sorted(config_differences(then, NEW, free_fields)) == sorted(told)


def test_given_are_the_options_that_differ_from_their_defaults():
    assert given_options(TrainConfig()) == [] and given_options(TrainConfig(stop=["x"], seed=0, lr=1e-5)) == [
        "lr",
        "stop",
    ]


def test_a_recipe_of_another_version_is_compared_field_by_field():
    now = described(recipe("mpo", k=3))
    assert recipe_differences(now, now) == []
    assert (
        recipe_differences(now.replace(", kl=0.0", ""), now)
        == recipe_differences(now.replace("k=3, ", "k=3, gaps2=None, "), now)
        == []
    )
    assert recipe_differences(now.replace("tail='renormalise'", "tail='truncate'"), now) == [
        "resolved_recipe.actions.tail='truncate', not 'renormalise'"
    ]
    assert recipe_differences(now.replace("k=3, ", ""), now) == ["no resolved_recipe.actions.k, which is 3 now"]
    assert recipe_differences(now.replace("kl=0.0", "kl=0.0, trust=0.5"), now) == [
        "resolved_recipe.trust=0.5, which this version does not know"
    ]
    own = described(replace(recipe("grpo"), actions=type("Mine", (WindowActions,), {})(2)))
    assert "Mine" in own and recipe_differences(own, own) == [] and isinstance(recipe("grpo"), Recipe)
    assert recipe_differences("<Mine object at 0x7f01>", "<Mine object at 0x7f02>") == []


V01 = "Recipe(name={name!r}, actions=TokenActions(), advantage={advantage!r}, clip=(0.2, 0.2), surrogate='ppo', "
V01 += "aggregate={aggregate!r}, dual_clip=None, kl=0.0, kl_estimator='k3', entropy=0.0, drop_dead_groups=False, "
V01 += "overlong_buffer=0.0, critic={critic!r}, gamma=1.0, lam={lam}, macro={macro}, value_coef=0.1, value_clip=0.2, "
V01 += "whiten={whiten}, boundaries={boundaries!r}, continuations=9, confident=None, source='backbone', sources={{}})"
PLAIN = dict(advantage="group-std", aggregate="token-mean", critic="", lam=1.0, macro=1, whiten=False, boundaries="")
MA_RLHF = "no resolved_recipe.rule.value_loss, which is 'token' now"  # version 0.1 compared blocks
VINEPPO = [
    "resolved_recipe.kl=0.0, not 0.0001",
    "resolved_recipe.rule.whiten=False, not True",
    "no resolved_recipe.kl_aggregate, which is 'seq-mean-token-sum' now",
]
WITH_CRITIC = PLAIN | dict(advantage="gae", critic="shared", lam=0.95, whiten=True)


@pytest.mark.parametrize(
    "name, values, told",
    [
        ("grpo", PLAIN | dict(aggregate="seq-mean-token-mean"), []),
        ("ppo", WITH_CRITIC, []),
        ("ma_rlhf", WITH_CRITIC | dict(macro=5), [MA_RLHF]),
        ("vineppo", PLAIN | dict(advantage="boundary", boundaries="sentence"), VINEPPO),
        ("ppo", WITH_CRITIC | dict(boundaries="sentence"), []),  # it meant nothing there
        ("ppo", WITH_CRITIC | dict(lam=0.9), ["resolved_recipe.rule.lam=0.9, not 0.95"]),
        ("ma_rlhf", WITH_CRITIC | dict(macro=4), ["resolved_recipe.rule.macro=4, not 5", MA_RLHF]),
        (
            "grpo",
            PLAIN | dict(aggregate="seq-mean-token-mean", advantage="group-mean"),
            ["resolved_recipe.rule.scale='none', not 'std'"],
        ),
    ],
)
def test_a_recipe_of_version_0_1_kept_the_fields_of_every_rule(name, values, told):
    assert recipe_differences(V01.format(name=name, **values), described(recipe(name))) == told


def test_a_run_of_version_0_1_is_read_with_its_recipe():
    config = record(recipe="ppo") | dict(resolved_recipe=V01.format(name="ppo", **WITH_CRITIC))
    assert configured(config) == recipe("ppo")
    assert configured(config | dict(resolved_recipe=V01.format(name="ppo", **WITH_CRITIC | dict(lam=0.5)))) is None


# A configuration that is damaged


@pytest.mark.parametrize("content", [b"", b'{"lr": 1', b"[]", b"null", b"\xff\xfe\x00", b"\0" * 64, None], ids=str)
def test_a_damaged_configuration_is_named_with_the_remedy(content, tmp_path):
    run = Run(tmp_path / "run")
    run.begin({"lr": 1.0})
    path = run.path / "config.json"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    if content is not None:
        run.begin({"lr": 2.0}), path.write_bytes(content)  # before the first step nothing hangs on it
    run.append(run.metrics_path, [{"step": 1}])
    with pytest.raises(
        ValueError, match=r"run/config\.json is damaged \(.*put back a copy of it, or delete it .*overwrite=True"
    ):
        run.begin({"lr": 2.0})
    path.rmdir() if content is None else path.unlink()
    with pytest.warns(
        UserWarning, match="holds a run without a config.json; it goes on with the configuration given now"
    ):
        run.begin({"lr": 2.0})
    assert run.config == {"lr": 2.0} and run.metrics == [{"step": 1}]
    path.write_bytes(content or b"")
    run.begin({"lr": 3.0}, overwrite=True)
    assert run.config == {"lr": 3.0} and run.metrics == []
