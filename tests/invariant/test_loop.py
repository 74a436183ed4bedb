"The lesson's plain loop is the trainer: the page's own cell ends with the trainer's weights, to the last bit."

import re

import nbformat
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpo_nb.models import tiny_model_path
from mpo_nb.training import TrainConfig, Trainer

SETTINGS = "seed, steps, n_prompts, G, max_new_tokens = 0, 10, 6, 4, 48"
SORTED = "rows = rows[lengths[rows].argsort(stable=True)]\n"


@pytest.fixture(scope="module")
def page(root) -> dict[str, str]:
    "The lesson's cells that import and that train."
    cells = nbformat.read(root / "nbs" / "learn" / "loop.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    (setup,) = [source for source in code if "\nimport tempfile\n" in source]
    imports = setup[setup.index("import tempfile") :]  # without Colab's install
    (loop,) = [source for source in code if SETTINGS in source]
    return dict(imports=imports, loop=loop)


def run_loop(page, *changes: tuple[str, str]) -> dict:
    "What the page's loop leaves behind, its text changed in the places named."
    loop = page["loop"]
    for old, new in changes:
        assert loop.count(old) == 1, old
        loop = loop.replace(old, new)
    found = {}
    exec(page["imports"] + "\n" + loop, found)
    return found


def run_trainer(output, **options):
    "The trained model and the metrics of the trainer with the page's settings."
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path(), dtype=torch.float32)
    settings = dict(
        prompts_per_step=6,
        group_size=4,
        epochs=2,
        minibatches=2,
        lr=1e-4,
        old_logps="recompute",
        gradient_checkpointing=True,
        eval_every=0,
        precision="float32",
        device="cpu",
        progress=False,
        output=str(output),
    )
    config = TrainConfig(**settings | options)
    metrics = Trainer(config, model=model, tokenizer=AutoTokenizer.from_pretrained(tiny_model_path())).fit()
    return model, metrics


def same_weights(a, b) -> bool:
    a, b = dict(a.named_parameters()), dict(b.named_parameters())
    assert a.keys() == b.keys() and len(a) > 30
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("k, options", [(4, dict(recipe="mpo", k=4)), (1, dict(recipe="grpo"))])
def test_the_loop_ends_with_the_trainer_s_weights(page, tmp_path, k, options):
    "Other seeds than the page's, and K=1, which is GRPO."
    changes = [(SETTINGS, f"seed, steps, n_prompts, G, max_new_tokens = {5 + k}, 4, 6, 4, 48"), ("k=4", f"k={k}")]
    found = run_loop(page, *changes)
    model, metrics = run_trainer(tmp_path / "run", seed=5 + k, steps=4, **options)
    assert same_weights(found["model"], model)
    assert [(row["reward"], row["loss"]) for row in metrics] == [
        (row["reward"], row["loss"]) for row in found["history"]
    ]
    assert [row["step"] for row in found["history"]] == [1, 2, 3, 4]


def test_the_comparison_sees_the_order_of_a_sum(page):
    "Without the sorting of rows every formula is the same; the bits are not."
    three = (SETTINGS, "seed, steps, n_prompts, G, max_new_tokens = 0, 3, 6, 4, 48")
    plain = run_loop(page, three)
    unsorted = run_loop(page, three, (SORTED, "pass\n"))
    assert not same_weights(plain["model"], unsorted["model"])
    for a, b in zip(plain["model"].parameters(), unsorted["model"].parameters()):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_the_loop_is_about_sixty_plain_lines(page):
    "Nothing of the library that trains or samples; a banner for each phase, a shape beside each tensor."
    lines = page["loop"].splitlines()
    code = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 60 and max(map(len, lines)) <= 120
    assert len(re.findall(r"# ---- \w", page["loop"])) == 5
    assert len(re.findall(r"#.*\((?:B|b|M)\b[^)]*\)", page["loop"])) >= 20
    names = set(re.findall(r"\b\w+\b", "\n".join(code)))
    assert not names & {"class", "lambda", "Trainer", "TrainConfig"} and "rollout(" not in page["loop"]
