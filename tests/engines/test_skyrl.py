"""`mpo_nb.skyrl` on padded rows: a loop over single numbers, in float64; its registration and its off-policy weights.
Against SkyRL's own registry and correction where SkyRL is installed, which takes Python 3.12, and against a stand-in of
the same calls always."""

import importlib
import pickle
import sys
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from batches import close, leaf
from engine_loops import OPTIONS, WRITTEN, draw_samples, loss_of_sample, name
from torch.nn.utils.rnn import pad_sequence

from mpo_nb import skyrl as ours
from mpo_nb.skyrl import register, skyrl_loss
from mpo_nb.spaces import ActionSettings

CLIP = (0.2, 0.28)
MASK = pad_sequence([torch.tensor(w) for w in WRITTEN], batch_first=True)
OFF = dict(
    tis_ratio_type=None,
    sequence_mask_metric=None,
    outlier_token_is_threshold_low=None,
    outlier_token_is_threshold_high=None,
    token_mask_is_threshold_low=None,
    token_mask_is_threshold_high=None,
)
METRICS = {"clip_ratio", "actions/mean_length", "actions/log_ratio_rms", "actions/token_log_ratio_rms"}


class Registry:
    "What `register` asks of SkyRL's registry, by its documentation."

    def __init__(self):
        self.losses = {"regular": None}

    def list_available(self):
        return list(self.losses)

    def register(self, name, loss):
        self.losses[name] = loss

    def get(self, name):
        return self.losses[name]

    def unregister(self, name):
        del self.losses[name]


def config(**correction):
    return SimpleNamespace(
        eps_clip_low=CLIP[0], eps_clip_high=CLIP[1], off_policy_correction=SimpleNamespace(**OFF | correction)
    )


class StandIn:
    def __init__(self):
        self.registry = Registry()
        self.config = config()
        self.corrected = config(tis_ratio_type="token")

    def modules(self):
        "SkyRL's two modules: truncated weights of 1.5 at most, and tokens below 0.7 taken out."

        def correct(loss, old, rollout, mask, wanted):
            weight = (old - rollout).exp().clamp(max=1.5)
            return loss * weight, mask * (weight > 0.7), {"is_ratio_mean": 1.0}

        losses, correction = ModuleType("ppo_utils"), ModuleType("off_policy_correction_utils")
        losses.PolicyLossRegistry = self.registry
        correction.off_policy_correction_enabled = lambda wanted: wanted.tis_ratio_type is not None
        correction.apply_off_policy_correction = correct
        return {f"{ours.skyrl_folder}.{m.__name__}": m for m in (losses, correction)}


class Real:
    def __init__(self):
        self.registry = importlib.import_module(f"{ours.skyrl_folder}.ppo_utils").PolicyLossRegistry
        made = importlib.import_module("skyrl.train.config").AlgorithmConfig()
        self.config = replace(made, eps_clip_low=CLIP[0], eps_clip_high=CLIP[1])
        correction = replace(
            made.off_policy_correction,
            tis_ratio_type="token",
            token_tis_ratio_clip_high=1.5,
            token_mask_is_threshold_low=0.7,
            token_mask_is_threshold_high=1e9,
        )
        self.corrected = replace(self.config, off_policy_correction=correction)

    def modules(self):
        return {}


@pytest.fixture(params=["stand-in", "SkyRL"])
def engine(request, monkeypatch):
    if request.param == "stand-in":
        made = StandIn()
    elif find_spec("skyrl") is None:
        pytest.skip("SkyRL is not installed: it takes Python 3.12 and its repository")
    else:
        made = Real()
    for path, module in made.modules().items():
        parent = path
        while (parent := parent.rpartition(".")[0]) and parent not in sys.modules:
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, path, module)
    yield made
    if "mpo_test" in made.registry.list_available():
        made.registry.unregister("mpo_test")


def padded(values, fill=0.0):
    return pad_sequence(values, batch_first=True, padding_value=fill)


def by_loop(x, old, A, options, dual_clip=None, weights=None):
    parts = zip(WRITTEN, x, old, A, weights if weights is not None else [None] * len(WRITTEN))
    return sum(loss_of_sample(a[: len(w)], b, c, w, options, CLIP, dual_clip, v) for w, a, b, c, v in parts)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_registered_loss_is_the_loop(engine, options, dual_clip):
    new, old, A, _ = draw_samples(11)
    register("mpo_test", **options, dual_clip=dual_clip)
    loss_fn = engine.registry.get("mpo_test")
    x, y = leaf(padded(new)), leaf(padded(new))
    loss, metrics = loss_fn(
        x, padded(old), padded(A), config=engine.config, loss_mask=MASK.double(), rollout_logprobs=None
    )
    wanted = by_loop(y, old, A, options, dual_clip)
    close(loss, wanted, tol=1e-12)
    close(*(torch.autograd.grad(value, z)[0] for value, z in ((loss, x), (wanted, y))), tol=1e-12)
    assert metrics.keys() == METRICS and all(type(value) is float for value in metrics.values())


def test_token_level_is_skyrls_regular_loss(engine):
    if isinstance(engine, StandIn):
        pytest.skip("the stand-in has no loss of its own")
    new, old, A, _ = draw_samples(2)
    register("mpo_test", "token")
    found = []
    for name_ in ("regular", "mpo_test"):
        x = leaf(padded(new))
        loss, _ = engine.registry.get(name_)(
            x, padded(old), padded(A), config=engine.config, loss_mask=MASK.double(), rollout_logprobs=None
        )
        found.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    close(found[0][0], found[1][0], tol=1e-6)  # SkyRL's exponential is float32's
    close(found[0][1], found[1][1], tol=1e-6)


@pytest.mark.parametrize("options", OPTIONS[3:5], ids=name)
def test_correction_weighs_tokens_and_keeps_the_ratios(engine, options):
    new, old, A, _ = draw_samples(4)
    rollout = [o + 0.5 * torch.sin(torch.arange(len(o), dtype=torch.double) * 3) for o in old]
    ratio = [(o - r).exp() for o, r in zip(old, rollout)]
    weights = [r.clamp(max=1.5) * (r > 0.7) for r in ratio]
    assert any((r < 0.7).any() for r in ratio) and any((r > 1.5).any() for r in ratio)
    register("mpo_test", **options)
    loss_fn = engine.registry.get("mpo_test")
    x, y = leaf(padded(new)), leaf(padded(new))
    loss, metrics = loss_fn(
        x,
        padded(old),
        padded(A),
        config=engine.corrected,
        loss_mask=MASK.double(),
        rollout_logprobs=padded(rollout),
    )
    wanted = by_loop(y, old, A, options, weights=weights)
    close(loss, wanted, tol=1e-6)  # SkyRL's weights may be of float32
    assert "is_ratio_mean" in metrics and len(metrics) > len(METRICS)


def test_behaviour_of_the_sampler(engine):
    new, old, A, _ = draw_samples(6)
    options = dict(action_space="block", k=3)
    register("mpo_test", **options, behaviour="rollout")
    call = engine.registry.get("mpo_test")
    given = dict(config=engine.config, loss_mask=MASK)
    loss, _ = call(padded(new), padded(new), padded(A), rollout_logprobs=padded(old), **given)
    close(loss, by_loop(padded(new), old, A, options), tol=1e-12)
    with pytest.raises(ValueError, match="rollout_logprobs=None, and behaviour='rollout'"):
        call(padded(new), padded(new), padded(A), rollout_logprobs=None, **given)
    with pytest.raises(ValueError, match="behaviour='rollout' .* off_policy_correction would weigh"):
        call(padded(new), padded(new), padded(A), rollout_logprobs=padded(old), config=engine.corrected, loss_mask=MASK)


def test_autocast_changes_nothing():
    "SkyRL calls its losses inside an autocast to bfloat16."
    new, old, A, _ = draw_samples(8)
    for options in OPTIONS:
        settings = ActionSettings(**options)
        given = padded(new).float(), padded(old).float(), padded(A).float(), config()
        plain, _ = skyrl_loss(settings, None, "policy", *given, loss_mask=MASK)
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = skyrl_loss(settings, None, "policy", *given, loss_mask=MASK)
        assert plain == cast and cast.dtype == torch.float32


def test_what_is_registered_travels():
    "Ray's workers get it by module and name."
    settings = ActionSettings("window", k=4)
    loss = pickle.loads(pickle.dumps(ours.partial(skyrl_loss, settings, None, "policy")))
    assert loss.args == (settings, None, "policy") and loss.func is skyrl_loss


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(action_space="sentence"), "SkyRL hands its losses neither texts nor token ids; choose 'block'"),
        (dict(action_space="block"), "k=None; action_space='block' needs"),
        (dict(action_space="window", k=4, reduce="sum"), "reduce='sum' means nothing to action_space='window'"),
        (dict(action_space="turn", behaviour="other"), "behaviour='other'; choose one of policy, rollout"),
        (dict(action_space="turn", dual_clip=0.9), "dual_clip=0.9 must exceed"),
        (dict(name="regular", action_space="turn"), "name='regular' is a policy loss of SkyRL's registry already"),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
def test_what_cannot_be_done_is_refused(engine, options, message):
    if isinstance(engine, Real):
        importlib.import_module(f"{ours.skyrl_folder}.ppo_utils").PolicyLossRegistry.repopulate_registry()
    with pytest.raises(ValueError, match=message):
        register(**dict(name="mpo_test") | options)


def test_advantages_of_another_shape_are_refused():
    "One row of them would be taken for every response."
    x = torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"advantages has shape \(5,\) but mask has \(2, 5\)"):
        skyrl_loss(ActionSettings("turn"), None, "policy", x, x, torch.ones(5), config(), torch.ones(2, 5))


def test_without_skyrl():
    if find_spec("skyrl") is not None:
        pytest.skip("SkyRL is installed")
    with pytest.raises(ImportError, match="register needs SkyRL, which is not installed; install it from"):
        register("mpo_test", k=2)
