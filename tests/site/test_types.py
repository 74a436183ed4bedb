"What the type hints promise: the package under mypy's strict rules, and what a user's code is told of it."

import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = ("mypy", "types-PyYAML", "types-tqdm", "pandas-stubs")


def version(name: str) -> str | None:
    "The installed version of a package, without a local part such as +cpu."
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="module")
def mypy(root):
    """Runs mypy with the project's settings; a test is skipped where it is missing, or where it would read other types
    than the pinned ones."""
    missing = [name for name in NEEDED if version(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; pip install '.[dev]'")
    pinned = dict(
        re.findall(r"^([\w-]+)==([^\s;]+)", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    other = [
        f"{name} {version(name)} for {pinned[name]}"
        for name in ("torch", "transformers", "mypy")
        if name in pinned and version(name) != pinned[name]
    ]
    if other:
        pytest.skip(f"constraints.txt pins other versions, whose types may differ: {', '.join(other)}")

    def run(*arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_the_package_is_strict(mypy):
    done = mypy()
    assert done.returncode == 0, f"mypy finds errors in mpo_nb:\n{done.stdout}{done.stderr}"


NAMES = """
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from mpo_nb.actions import WindowActions
from mpo_nb.blocks import fixed_blocks
from mpo_nb.evaluation import evaluate
from mpo_nb.losses import policy_loss
from mpo_nb.models import MTPModules, load
from mpo_nb.recipes import recipe
from mpo_nb.runs import Trace
from mpo_nb.sampling import rollout
from mpo_nb.tasks import load_task, math_equal
from mpo_nb.training import TrainConfig, Trainer
from mpo_nb.widgets import BlockExplorer

def example(x: Tensor) -> None:
    model, tokenizer = load("tiny")
    own, its = AutoModelForCausalLM.from_pretrained("folder"), AutoTokenizer.from_pretrained("folder")
"""
PROMISED = {  # an expression -> its type, as mypy writes it
    "fixed_blocks(x, 4)": "Tensor",
    "policy_loss(x, x, x[:, 0], x, WindowActions(4))": "PolicyLoss",
    "policy_loss(x, x, x[:, 0], x).credit": "Tensor",
    'recipe("mpo", k=3).loss(dict(logps=x, old_logps=x, mask=x, advantages=x))': "PolicyLoss",
    "load('tiny')": "tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]",
    'rollout(model, tokenizer, ["1+1?"], group_size=8)': "Rollout",
    "rollout(own, its, [[1, 2, 3]])": "Rollout",
    'evaluate(model, tokenizer, "chain_sum", n=8).accuracy': "float",
    'MTPModules(model, 3).load_weights("folder")': "MTPModules",
    'load_task("chain_sum").train[0]["prompt"]': "Any",
    'Trace.from_text("a b").delta': "Tensor",
    'BlockExplorer(Trace.from_text("a b")).set(k=2)': "BlockExplorer",
    "Trainer(TrainConfig(steps=1)).fit()": "list[dict[str, Any]]",
    'math_equal("1", "1")': "bool",
}
REFUSED = {  # a call that cannot work -> the kind of error
    'fixed_blocks(x, "4")': "arg-type",
    'TrainConfig(steps="1")': "arg-type",
    'Trainer("tiny")': "arg-type",
    "policy_loss(x, x, x[:, 0])": "call-arg",
    'recipe("mpo").loss(3)': "arg-type",
    'rollout(model, tokenizer, "1+1?", groups=8)': "call-arg",
}


@pytest.mark.slow
def test_what_a_users_code_is_told(mypy, tmp_path):
    """The types of some calls, and an error for each that cannot work: strict rules report a `type: ignore` that
    nothing needs."""
    lines = [f"    reveal_type({call})" for call in PROMISED] + [
        f"    {call}  # type: ignore[{kind}]" for call, kind in REFUSED.items()
    ]
    file = Path(tmp_path / "example.py")
    file.write_text(NAMES + "\n".join(lines) + "\n", encoding="utf-8")
    done = mypy(file)
    told = re.findall(r'Revealed type is "(.*)"', done.stdout)
    short = [re.sub(r"\b(?:\w+\.)+(?=\w)", "", text) for text in told]
    assert done.returncode == 0, done.stdout + done.stderr
    assert dict(zip(PROMISED, short, strict=True)) == PROMISED


ROOT = Path(__file__).resolve().parents[2]
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "mpo_nb").rglob("*.py"))]


@pytest.mark.parametrize("name", MODULES)
def test_hints_can_be_read(name):
    "Pages evaluate the hints of what they show; one that names what only a checker imports would stop the site."
    module = importlib.import_module(name.removesuffix(".__init__"))
    for name in getattr(module, "__all__", ()):
        member = getattr(module, name)
        inside = vars(member).values() if inspect.isclass(member) else (member,)
        for one in inside:
            one = getattr(one, "fget", None) or getattr(one, "__func__", one)
            if inspect.isfunction(one):
                inspect.signature(one, eval_str=True)
