"""verl in a process of its own, for the tests that compare with it.

verl wants older releases of transformers and antlr4-python3-runtime than the other tests use, so it and what its losses
import lie in a folder of their own, which only this process has on its path. math-verify works in it too.
Requests and answers are pickled, one after another."""

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = "no verl here: `make test` installs it into .venv/verl, or name a folder that holds it in MPO_NB_VERL"


def find_verl() -> Path | None:
    """The folder to be put on the path: MPO_NB_VERL, else `verl` in this environment; `.` where verl can be imported as
    it is."""
    for folder in (os.environ.get("MPO_NB_VERL"), Path(sys.prefix) / "verl"):
        if folder and (Path(folder) / "verl" / "__init__.py").is_file():
            return Path(folder)
    return Path() if find_spec("verl") else None


class Verl:
    "`verl.loss(...)` calls `loss(...)` of this file in the other process."

    def __init__(self, folder: Path):
        path = os.pathsep.join(
            str(p)
            for p in (ROOT, folder.resolve() if folder != Path() else "", os.environ.get("PYTHONPATH", ""))
            if str(p)
        )
        env = os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS="1", VERL_USE_EXTERNAL_MODULES="mpo_nb.verl")
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=ROOT
        )

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            pickle.dump((name, args, kwargs), self.process.stdin)
            self.process.stdin.flush()
            found = pickle.load(self.process.stdout)
            if isinstance(found, Exception):
                raise found
            return found

        return call

    def close(self):
        self.process.kill()
        self.process.communicate()


# In the other process


def version() -> str:
    import verl

    return verl.__version__


def losses() -> list[str]:
    "The registry as `import verl` left it, with VERL_USE_EXTERNAL_MODULES=mpo_nb.verl."
    return LOSSES


def actor_config(policy_loss=None, **fields):
    from verl.workers.config import ActorConfig, PolicyLossConfig

    import mpo_nb.verl

    made = PolicyLossConfig() if policy_loss is None else mpo_nb.verl.BlockLossConfig(**policy_loss)
    return ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=made, **fields)


def loss(name, old, new, advantages, mask, mode="token-mean", weights=None, **config):
    "(loss, gradient, metrics) of a registered policy loss, called as verl's `ppo_loss` calls it."
    import torch
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    x = new.detach().clone().requires_grad_()
    value, metrics = get_policy_loss_fn(name)(
        old_log_prob=old,
        log_prob=x,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode=mode,
        config=actor_config(**config),
        rollout_is_weights=weights,
    )
    return value.detach(), torch.autograd.grad(value, x)[0], metrics


def command_line(*overrides):
    "The policy loss's configuration as verl's trainer makes it, and its class."
    import verl
    from hydra import compose, initialize_config_dir
    from verl.utils.config import omega_conf_to_dataclass

    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        found = compose("ppo_trainer", ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1", *overrides])
    made = omega_conf_to_dataclass(found.actor_rollout_ref.actor).policy_loss
    return type(made).__module__ + "." + type(made).__name__, {
        k: v for k, v in made.items() if isinstance(v, str | int | float | None)
    }


def micro_batch(ids, masks, old, advantages, log_probs, prompt=2):
    """A micro-batch as verl's engines hand it to `ppo_loss`: rows without padding, log-probabilities of prompt and
    response one place ahead."""
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    def nested(rows):
        return torch.nested.as_nested_tensor([torch.as_tensor(r) for r in rows], layout=torch.jagged)

    data = TensorDict(
        dict(
            prompts=nested([[1] * prompt] * len(ids)),
            responses=nested(ids),
            response_mask=nested(masks),
            old_log_probs=nested(old),
            advantages=nested(advantages),
        ),
        batch_size=len(ids),
    )
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=sum(map(sum, masks)), global_batch_size=len(ids))
    flat = torch.cat(
        [
            torch.cat([torch.zeros(prompt - 1, dtype=row.dtype), row, torch.zeros(1, dtype=row.dtype)])
            for row in log_probs
        ]
    )
    offsets = torch.tensor([0] + [prompt + len(r) for r in log_probs]).cumsum(0)
    return data, dict(log_probs=torch.nested.nested_tensor_from_jagged(flat, offsets))


def update(policy_loss, ids, masks, old, advantages, log_probs, tokenizer, patched=True):
    """(loss, gradients per row, metrics) of verl's own `ppo_loss`, as a worker picks it: by its name in the worker's
    module."""
    from functools import partial

    import torch
    from transformers import AutoTokenizer

    workers = SimpleNamespace()  # stands for verl.workers.engine_workers, whose imports are a rollout server's
    from verl.workers.utils.losses import ppo_loss

    workers.ppo_loss = ppo_loss
    sys.modules["verl.workers.engine_workers"] = workers
    try:
        config = actor_config(policy_loss)
        if not patched:
            workers.ppo_loss = ppo_loss
        config.model_config = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(tokenizer))
        rows = [r.detach().clone().requires_grad_() for r in log_probs]
        data, output = micro_batch(ids, masks, old, advantages, rows)
        value, metrics = partial(workers.ppo_loss, config=config)(model_output=output, data=data, dp_group=None)
        return (
            value.detach(),
            torch.autograd.grad(value, rows),
            {k: getattr(v, "values", v) for k, v in metrics.items()},
        )
    finally:
        del sys.modules["verl.workers.engine_workers"]


class CpuEngine:
    "What verl's TrainingWorker asks of an engine: a forward pass that gives these log-probabilities, in micro-batches."

    def __init__(self, rows, size, leads):
        self.rows = rows
        self.size = size
        self.leads = leads

    def is_mp_src_rank_with_outputs(self):
        return self.leads

    def train_batch(self, data, loss_function):
        import torch

        metrics = {}
        for first in range(0, len(self.rows), self.size):
            part, output = micro_batch(*(x[first : first + self.size] for x in (*data, self.rows)))
            for name, values in self.extra.items():
                tensor_or_text(part, name, values[first : first + self.size])
            value, found = loss_function(model_output=output, data=part, dp_group=None)
            torch.autograd.grad(value, self.rows[first])
            for name, metric in found.items():
                metrics.setdefault(name, []).append(float(getattr(metric, "values", [metric])[0]))
        return metrics


def tensor_or_text(data, name, values):
    import torch
    from tensordict import NonTensorStack

    if isinstance(values[0], str):
        data[name] = NonTensorStack(*values)
    else:
        data[name] = torch.nested.as_nested_tensor([torch.as_tensor(v) for v in values], layout=torch.jagged)


def recorded(policy_loss, ids, masks, old, advantages, log_probs, tokenizer, updates=2, size=2, leads=True, extra=None):
    """Updates of a worker whose configuration names a folder for traces, through verl's own `ppo_loss`, as the worker
    looks it up. Gives the metrics that the worker would return."""
    from transformers import AutoTokenizer
    from verl.workers.utils.losses import ppo_loss

    class TrainingWorker:
        def train_mini_batch(self, data):
            return dict(metrics=self.engine.train_batch(data["tensors"], self.loss_fn))

    workers = SimpleNamespace(ppo_loss=ppo_loss, TrainingWorker=TrainingWorker)
    sys.modules["verl.workers.engine_workers"] = workers
    try:
        from functools import partial

        config = actor_config(policy_loss)
        config.model_config = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(tokenizer))
        worker = workers.TrainingWorker()
        worker.engine = CpuEngine([r.detach().clone().requires_grad_() for r in log_probs], size, leads)
        worker.engine.extra = extra or {}
        worker.loss_fn = partial(workers.ppo_loss, config=config)
        return [worker.train_mini_batch(dict(tensors=(ids, masks, old, advantages)))["metrics"] for _ in range(updates)]
    finally:
        del sys.modules["verl.workers.engine_workers"]


def math_verify_here() -> tuple[str, bool, bool]:
    "The release of antlr in this process, and whether math-verify works beside verl."
    from importlib.metadata import version

    from math_verify import parse, verify
    from omegaconf import OmegaConf

    right = verify(parse("$\\frac{1}{2}$"), parse("0.5"))
    wrong = verify(parse("$\\frac{1}{3}$"), parse("0.5"))
    assert OmegaConf.create({"a": "${b}", "b": 3}).a == 3  # which verl's configuration needs antlr for
    return version("antlr4-python3-runtime"), right, wrong


def run_notebook(path):
    "Runs a notebook's cells here, and says whether they passed; an error is printed."
    from nbdev.test import test_nb

    return test_nb(Path(path))[0]


def main():
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what verl prints does not get between the answers
    global LOSSES
    import verl  # noqa: F401
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    LOSSES = list(POLICY_LOSS_REGISTRY)
    while True:
        try:
            name, args, kwargs = pickle.load(requests)
        except EOFError:
            return
        try:
            found = globals()[name](*args, **kwargs)
        except Exception as error:
            found = RuntimeError(f"{type(error).__name__}: {error}")
        pickle.dump(found, answers)
        answers.flush()


if __name__ == "__main__":
    main()
