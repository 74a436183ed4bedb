"""What users give wrongly at the three doors: the Python interface, the command line, and a file of options.

Each row is a mistake and the words that its one error must hold: the argument, the value and what to do.
"""

import math
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mpo_nb import actions, advantages, blocks, cli
from mpo_nb.cli import main, tour
from mpo_nb.config import TrainConfig
from mpo_nb.evaluation.comparing import compare
from mpo_nb.evaluation.evaluating import evaluate
from mpo_nb.losses import kl_penalty, policy_loss
from mpo_nb.models.loading import load, save_merged
from mpo_nb.models.mtp import MTPModules
from mpo_nb.planning.plan import plan_memory
from mpo_nb.recipes import recipe
from mpo_nb.runs.trace_files import load_traces
from mpo_nb.runs.traces import Trace
from mpo_nb.sampling.rollouts import rollout
from mpo_nb.sandbox.runner import code_passes, run_programs
from mpo_nb.tasks.answers import math_equal, math_equal_each
from mpo_nb.tasks.rows import from_dataset
from mpo_nb.tasks.task import Task, load_task, score
from mpo_nb.training.sweeps import sweep
from mpo_nb.training.trainer import Trainer
from mpo_nb.training.warming import warm_up
from mpo_nb.widgets import CreditExplorer

FILES = {
    "notes.txt": "x",
    "two.jsonl": '{"question": "a", "answer": "b"},\n',
    "cut.json": '[{"question": "a", "answer"',
    "semicolons.csv": "question;answer\na;b\n",
    "typo.jsonl": '{"question": "1+1?", "answr": "#### 2"}\n',
    "lamps/config.json": '{"architectures": ["LlamaForCausalLM"]}',
    "empty/.keep": "",
}


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu", precision="float32", quiet=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


def config(**given):
    return TrainConfig(output="run", **given)


def own(**given):
    one = dict(prompt="1+1=", answer="2")
    other = dict(prompt="2+2=", answer="4")
    return Task("own", [one], [other], **dict(reward=lambda problem, response: 1.0) | given)


ROWS = [dict(question=f"{i}+1=?", answer=str(i + 1)) for i in range(4)]
MASK = torch.ones(2, 5)
LOGPS = -torch.ones(2, 5)
ADVANTAGES = torch.tensor([1.0, -1.0])
IDS = blocks.fixed_blocks(MASK, 2)
TRACE = Trace.from_text("Two and two is four.")
TEXTS = ["1+1=2;2+2=4"] * 10
NUMBERS = [
    (lambda: policy_loss([[-1.0]], LOGPS, ADVANTAGES, MASK), "logps=[[-1.0]] is of type list; pass a tensor"),
    (lambda: policy_loss(LOGPS.numpy(), LOGPS, ADVANTAGES, MASK), "logps=array", "of type ndarray; pass a tensor"),
    (lambda: policy_loss(LOGPS.long(), LOGPS, ADVANTAGES, MASK), "logps has type torch.int64", "pass logps.float()"),
    (lambda: policy_loss(LOGPS, LOGPS, 1.0, MASK), "advantages=1.0 is of type float; pass a tensor"),
    (lambda: policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, "window"), "actions='window'", "e.g. TokenActions()"),
    (
        lambda: policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, actions.TokenActions),
        "actions=<class",
        "e.g. TokenActions()",
    ),
    (lambda: policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, clip="ab"), "clip='ab'; pass (low, high)"),
    (lambda: policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, dual_clip="3"), "dual_clip='3' must exceed 1"),
    (
        lambda: policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, aggregate="seq-mean-token-sum-norm", max_length="5"),
        "max_length='5'",
        "pass the generation limit",
    ),
    (lambda: policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, normalizer="5"), "normalizer='5'; pass loss_normalizer"),
    (lambda: kl_penalty(LOGPS, LOGPS, MASK, actions="token"), "actions='token'", "e.g. TokenActions()"),
    (
        lambda: actions.WindowActions(4, "0.2"),
        "future='0.2'; the share of later tokens must be a number in [0, 1)",
        "e.g. 0.2",
    ),
    (lambda: actions.WindowActions(2, beta=0.5), "beta=0.5; pass one weight per token"),
    (lambda: actions.WindowActions(4, joint="yes"), "joint='yes'; it must be True or False"),
    (lambda: actions.TokenGradient("sequence"), "actions='sequence'", "pass one from mpo_nb.actions"),
    (lambda: actions.weight_matrix(actions.TokenActions(), MASK, row=2), "row=2", "from -2 to 1"),
    (lambda: blocks.fixed_blocks([[1, 1]], 2), "mask=[[1, 1]] is of type list; pass a tensor"),
    (lambda: blocks.random_blocks(MASK, sizes=3), "sizes=3; give a list"),
    (lambda: blocks.random_blocks(MASK, generator=0), "generator=0; pass torch.Generator()"),
    (lambda: blocks.delimiter_blocks(MASK, [["a"] * 5] * 2, 3), "ends=3; it must be a list of texts"),
    (
        lambda: blocks.surprise_blocks(MASK, LOGPS, threshold="0.9"),
        "threshold='0.9'; it must be a number in (0, 1]",
        "a probability",
    ),
    (lambda: blocks.block_sum(LOGPS, MASK), "ids has shape (2, 5) and type torch.float32; pass block ids"),
    (lambda: advantages.group_advantages([1.0, 0.0], 2), "rewards=[1.0, 0.0] is of type list; pass a tensor"),
    (lambda: advantages.group_advantages(torch.ones(4), 4, eps="1e-4"), "eps='1e-4'", "e.g. 1e-4"),
    (lambda: advantages.overlong_penalty([3], 10, 2), "lengths=[3] is of type list; pass a tensor"),
    (lambda: advantages.overlong_penalty(torch.tensor([3]), 10, 0.2), "buffer=0.2", "need whole numbers"),
    (lambda: advantages.gae(LOGPS, LOGPS, MASK, lam="0.95"), "lam='0.95'; it must be a number in [0, 1]"),
    (lambda: advantages.block_gae(LOGPS, LOGPS, MASK), "ids has", "type torch.float32; pass block ids"),
    (
        lambda: advantages.boundary_advantages([[1.0]], torch.ones(2), IDS),
        "values=[[1.0]] is of type list; pass a tensor",
    ),
    (lambda: advantages.macro_blocks(MASK, 2.5), "macro=2.5; give tokens per macro action"),
    (lambda: recipe("grpo", critic="shared"), "critic='shared' with advantage='group-std'", "leave critic out"),
    (lambda: recipe("grpo", kl=math.inf), "kl=inf; it must be a finite number of at least 0", "e.g. 0.04"),
    (lambda: code_passes("x=1", "assert x==1", timeout="5s"), "timeout='5s'; give a positive number of seconds"),
    (lambda: code_passes("x=1", "assert x==1", timeout=math.inf), "timeout=inf", "not infinite"),
    (lambda: code_passes("x=1", "assert x==1", memory_mb="512MB"), "memory_mb='512MB'; give 64 or more"),
    (lambda: code_passes("x=1", "assert x==1", memory_mb=512 << 20), "memory_mb=536870912", "megabytes, at most"),
    (
        lambda: code_passes("def f(x): return x", "def check(c): assert c(1)==1", "f(x)"),
        "entry_point='f(x)'; give the name",
    ),
    (lambda: code_passes("x=1", "assert x==1", unsafe_code="no"), "unsafe_code='no'; it must be True or False"),
    (lambda: run_programs(("x=1", "assert x==1")), "jobs[0]='x=1'; give (program, test)"),
    (lambda: run_programs([("x=1", "assert x==1")], workers=-1), "workers=-1", "whole number of at least 1"),
    (lambda: math_equal(3, "3"), "response=3 is no text; give what the model wrote"),
    (lambda: math_equal("3", "3", timeout="500ms"), "timeout='500ms'; give a positive number of seconds"),
    (lambda: math_equal_each("3", "3"), "responses='3'", "give two lists"),
]
CALLS = [
    (lambda: TrainConfig(learning_rate=1e-5), "learning_rate=1e-05", "did you mean 'lr'?"),
    (lambda: TrainConfig(grop_size=8), "grop_size=8", "did you mean 'group_size'?"),
    (lambda: TrainConfig(kl=0.1), "kl=0.1", "recipe_options='{\"kl\": ...}'"),
    (lambda: config(lr="1e-5"), "lr='1e-5'", "a number without quotes"),
    (lambda: config(k=[2, 4]), "k=[2, 4]", "whole number of at least 1"),
    (lambda: config(lora_targets=["q_proj"]), "lora_targets=['q_proj']", "names of layers separated by commas"),
    (lambda: config(recipe_options=dict(name="x")), "name", "name another one by recipe"),
    (lambda: TrainConfig(output="~nouser/run"), "output='~nouser/run'", "write the whole path"),
    (lambda: Trainer(dict(model="tiny")), "config={'model': 'tiny'}", "pass a TrainConfig"),
    (lambda: Trainer(config(), model="tiny"), "model='tiny' is of type str; pass a model"),
    (lambda: Trainer(config(), task="gsm8k"), "task='gsm8k' is of type str; pass a Task"),
    (lambda: Trainer(config(), recipe="grpo"), "recipe='grpo' is of type str; pass a Recipe"),
    (
        lambda: Trainer(TrainConfig(output="lamps")),
        "output='lamps' holds a config.json that no run wrote",
        "choose another folder",
    ),
    (lambda: Trainer(TrainConfig(output="lamps", overwrite=True)), "output='lamps'", "choose another folder"),
    (lambda: Trainer(config(device="mps")), "device='mps'", "use device='auto'"),
    (lambda: load("Tiny"), "model='Tiny'", "did you mean 'tiny'?"),
    (lambda: load("empty"), "model='empty' is a folder without a model", "give the folder that save_pretrained wrote"),
    (lambda: load("https://huggingface.co/Qwen/Qwen3-0.6B"), "is an address", "give the hub name, 'Qwen/Qwen3-0.6B'"),
    (lambda: load("weights.gguf"), "model='weights.gguf' is not there", "or a GGUF file"),
    (lambda: load(["tiny"]), "model=['tiny'] is a list; pass one path"),
    (lambda: load("tiny", lora_rank=4, lora_alpha=-8), "lora_alpha=-8", "0 for twice the rank"),
    (
        lambda: load("tiny", device="cpu", lora_rank=4, lora_targets="query"),
        "lora_targets='query'",
        "The linear layers are down_proj",
    ),
    (lambda: save_merged("empty", "out", precision="fp16"), "precision='fp16'; choose one of float32"),
    (lambda: own(rewards=len), "rewards=", "did you mean 'reward'?"),
    (
        lambda: score(replace(own(), reward=lambda p, r: "right"), own().train, ["2"]),
        "'right'",
        "return a finite number",
    ),
    (lambda: load_task("./mytask.py:build"), "'./mytask.py' is no name of a module; write 'mytask:build'"),
    (lambda: load_task("json:__doc__"), "task 'json:__doc__' is a str; name a function"),
    (lambda: from_dataset(ROWS, len, prompt="Question"), "train has no column 'Question'", "rename one of them"),
    (lambda: from_dataset(ROWS, len, n_train=3), "no option 'n_train'", "it takes"),
    (lambda: from_dataset("two.jsonl", len), "train='two.jsonl' cannot be read as jsonl: line 1"),
    (lambda: from_dataset("semicolons.csv", len), "separate them by commas"),
    (lambda: plan_memory("run.yaml"), "config='run.yaml' is of type str; pass a TrainConfig"),
    (lambda: plan_memory(config(), shape="tiny"), "shape='tiny' is of type str; pass a model's configuration"),
    (lambda: plan_memory(config(), prompt_tokens=-5), "prompt_tokens=-5", "whole number of at least 1"),
    (lambda: plan_memory(config(), cards={"A10": 24}), "cards={'A10': 24}", "e.g. {'L4': (22.5, True)}"),
    (lambda: sweep({"a": config(), "b": TrainConfig(output="run/b")}), "output='run/b'", "a folder of its own"),
    (lambda: compare(0.4, 0.5), "a=0.4 is of type float", "'runs/base.jsonl'"),
    (lambda: compare("a.jsonl", "b.jsonl"), "a='a.jsonl'", "pass the .jsonl file that evaluate"),
    (lambda: Trace(["a"], mask=[0.5]), "mask=[0.5]", "it is 1 on tokens"),
    (lambda: Trace(["a"], reward="good"), "reward='good'; it must be a number"),
    (lambda: Trace(["a"], step="first"), "step='first'", "whole number, e.g. 0"),
    (lambda: Trace.from_text("a b", moved=math.nan), "moved=nan", "a finite number"),
    (lambda: Trace.from_text("a b", seed=2**70), "seed=1180591620717411303424", "fits 64 bits"),
    (lambda: Trace.from_text("a b", rewards=1.0), "rewards=1.0", "did you mean 'reward'?"),
    (lambda: load_traces("nowhere"), "path='nowhere'", "pass a run folder"),
    (lambda: CreditExplorer(TRACE).to_html("x.html", axes="k"), "axes='k'; give a dict"),
    (lambda: CreditExplorer(TRACE).to_html("x.html", axes={"kk": [1]}), "'kk'", "there are left"),
    (lambda: CreditExplorer(TRACE).to_html("x.html", axes={"k": 4}), "axes['k']=4; give a list"),
]
WITH_MODEL = [
    (lambda m, t: rollout("tiny", t, ["1+1="]), "model='tiny' is of type str; pass a model"),
    (lambda m, t: rollout(m, m, ["1+1="]), "tokenizer=LlamaForCausalLM", "pass the model's tokenizer"),
    (lambda m, t: rollout(m, t, ["1+1="], temperature="1"), "temperature='1'", "use greedy=True"),
    (lambda m, t: rollout(m, t, ["1+1="], top_p="0.9"), "top_p='0.9'", "1 for all tokens"),
    (lambda m, t: rollout(m, t, ["1+1="], seed=None), "seed=None", "fits 64 bits"),
    (lambda m, t: rollout(m, t, ["1+1="], greedy="yes"), "greedy='yes'; it must be True or False"),
    (
        lambda m, t: rollout(m, t, [[1, 99999]], max_new_tokens=8),
        "the token id 99999",
        "use the tokenizer that belongs",
    ),
    (lambda m, t: evaluate(t, m, "chain_sum"), "model=TokenizersBackend", "pass a model"),
    (lambda m, t: evaluate(m, t, 3), "task=3; give a Task"),
    (lambda m, t: evaluate(m, t, "chain_sum", seed="0"), "seed='0'", "fits 64 bits"),
    (lambda m, t: evaluate(m, t, "chain_sum", system_prompt=None), "system_prompt=None", "'' for none"),
    (lambda m, t: evaluate(m, t, "chain_sum", output=["a.jsonl"]), "output=['a.jsonl'] is a list; pass one path"),
    (lambda m, t: MTPModules("tiny", 2), "model='tiny' is of type str; pass a model"),
    (lambda m, t: warm_up(m, None, TEXTS, 2), "mtp=None", "pass MTPModules(model, k)"),
    (
        lambda m, t: warm_up(m, MTPModules(m, 2), TEXTS, 2, tokenizer=t, lr="1e-3"),
        "lr='1e-3'; it must be positive and finite",
    ),
    (lambda m, t: warm_up(m, MTPModules(m, 2), TEXTS, 2, tokenizer=t, held_out=10), "held_out=10", "e.g. 0.1"),
    (
        lambda m, t: warm_up(m, MTPModules(m, 2), TEXTS, 2, tokenizer=t, precision="fp32"),
        "precision='fp32'; choose one of float32",
    ),
    (lambda m, t: warm_up(m, MTPModules(m, 2), TEXTS, 2, tokenizer=t, seed=1.5), "seed=1.5", "fits 64 bits"),
    (lambda m, t: warm_up(m, MTPModules(m, 2), TEXTS, 2, tokenizer=t, max_length=1), "max_length=1", "at least 2"),
]
LINES = [
    ("--device cuda:5", "device='cuda:5'", "use device='cpu'"),
    ("--device GPU", "device='GPU'", "'cpu' or 'cuda'"),
    ("--k 4.0", "--k: '4.0'", "whole number"),
    ("--k=", "--k: ''", "whole number"),
    ("--k", "--k", "write --k VALUE"),
    ("--lr -1e-5", "--lr", "--lr=VALUE where the value begins with a minus sign"),
    ("--lr 1,5e-5", "--lr: '1,5e-5'", "a number, e.g. 1e-5"),
    ("--lr 10^-5", "--lr: '10^-5'", "e.g. 1e-5"),
    ("--temp 0.7", "--temp is no option", "--temperature"),
    ("--groupsize 8", "--groupsize", "--group_size"),
    ("--learning_rate 1e-5", "--learning_rate is no option", "did you mean --lr?"),
    ("--kl 0.04", "--kl is no option", "--recipe_options '{\"kl\": ...}'"),
    ("--clip 0.2", "--clip is no option", "--recipe_options '{\"clip\": ...}'"),
    ("--num-generations 8", "--num-generations", "--group_size"),
    ("\u2013k 4", "begins with a dash that is no minus sign", "write --k"),
    ("lr=1e-5", "'lr=1e-5' belongs to no option; write --lr=1e-5"),
    ("--recipe \u201cmpo\u201d", "--recipe", "\u201cmpo\u201d", "choose from"),
    ("--recipe m\u0440o", "--recipe", "choose from"),
    ("--gradient_checkpointing maybe", "--gradient_checkpointing", "maybe", "true or false"),
    ("--recipe_options {'kl':0.1}", "recipe_options=", "write e.g."),
    ('--recipe_options {"kl":0.04,}', "recipe_options=", "is not JSON", "write e.g."),
    ("--recipe_options kl=0.04", "recipe_options='kl=0.04'", "write e.g."),
    ('--recipe_options {"drop_dead_groups":True}', "True}", "is not JSON"),
    ('--recipe_options {"name":"x"}', "recipe_options", "name another one by recipe"),
    ('--recipe_options {"kl":NaN}', "kl=nan", "e.g. 0.04"),
    ('--recipe_options {"clip":[0.2]}', "clip=(0.2,)", "a list of 2 numbers"),
    (
        "--chat_template_options enable_thinking=false",
        "chat_template_options='enable_thinking=false'",
        '{"enable_thinking": false}',
    ),
    ('--task_options {"n_trian":5}', "'n_trian'", "did you mean 'n_train'"),
    ('--task_options {"n_train":"5"}', "n_train='5'", "a whole number"),
    ("--task_options 500", "task_options='500'", '{"n_train": 500}'),
    ("--task GSM8K", "'GSM8K'", "there are chain_sum"),
    ("--task ./mytask.py:build", "./mytask.py", "write 'mytask:build'"),
    ("--task os:getcwd", "'os:getcwd'", "return a mpo_nb.tasks.task.Task"),
    (
        '--task gsm8k --task_options {"train":"typo.jsonl","test":"typo.jsonl"}',
        "typo.jsonl has no column 'answer'",
        "rename",
    ),
    ("--lora_rank 100000", "lora_rank=100000", "use a smaller rank"),
    ("--model ./nothere", "model='./nothere' is not there", "give 'tiny'"),
    ("--model empty", "model='empty'", "save_pretrained"),
    ("--model nothere.gguf", "model='nothere.gguf' is not there", "GGUF"),
    ("--model https://huggingface.co/Qwen/Qwen3-0.6B", "is an address", "'Qwen/Qwen3-0.6B'"),
    ("--output notes.txt", "output='notes.txt' is a file", "choose a folder"),
    ("--output notes.txt/run", "output='notes.txt/run'", "choose a folder"),
    ("--output ~nouser/run", "output='~nouser/run'", "whole path"),
    ("--output lamps", "output='lamps'", "choose another folder"),
    ("--config empty", "--config empty", "cannot be read"),
    ("--config notes.txt", "--config notes.txt", "`name: value`"),
    ("--quantization int8", "--quantization", "'int8'", "4bit"),
    ("--precision bf16", "--precision", "'bf16'", "bfloat16"),
    ("--stop", "--stop", "write --stop VALUE"),
    ("--keep_checkpoints 0", "keep_checkpoints=0", "at least 1"),
    ("@args.txt", "'@args.txt'", "write `--name value`"),
]
TOUR = [
    ("--k 4", "--k 4", "mpo-tour takes"),
    ("runs/x", "runs/x", "mpo-tour takes"),
    ("--overwrite true", "true", "mpo-tour takes"),
    ("--output notes.txt", "output='notes.txt'", "choose a folder"),
    ("--steps many", "--steps: 'many'", "whole number"),
]
YAML = [
    ("k: 2\nlr: 1\nk: 4\n", "'k' stands in it twice"),
    ("- k: 4\n", "holds a list ([{'k': 4}])", "`name: value`"),
    ("k:4\nlr:1\n", "'k:4 lr:1'", "`name: value`"),
    ("k = 4\n", "'k = 4'", "`name: value`"),
    ("k:\u00a04\n", "k:", "`name: value`"),
    ("k: None\n", "k: 'None'", "left out"),
    ("k: null\n", "k: None", "left out"),
    ("stop:\n", "stop: None", "left out"),
    ("schedule: null\n", "schedule: None", "left out"),
    ("k: '4'\n", "k: '4'", "without quotes"),
    ("k: 4,\n", "k: '4,'", "whole number"),
    ("k: 4.5\n", "k: 4.5", "whole number"),
    ("k: [2, 4]\n", "k: [2, 4]", "whole number"),
    ("lr: 1e-5x\n", "lr: '1e-5x'", "a number"),
    ("lr:\n  peak: 1e-5\n", "lr: {'peak': '1e-5'}", "a number"),
    ("lr: -.inf\n", "lr=-inf", "positive and finite"),
    ("top_p: 95%\n", "top_p: '95%'", "without quotes or units"),
    ("top_p: 95\n", "top_p=95.0", "(0, 1]"),
    ("micro_batch_tokens: 16k\n", "micro_batch_tokens: '16k'", "units"),
    ("max_new_tokens: 1,024\n", "max_new_tokens: '1,024'", "units"),
    ("steps: true\n", "steps: True", "whole number"),
    ("seed: 2024-01-01\n", "seed: datetime.date(2024, 1, 1)", "whole number"),
    ("overwrite: 'true'\n", "overwrite: 'true'", "true or false"),
    ("device: 0\n", "device: 0", "text, in quotes"),
    ("precision: no\n", "precision: False", "text, in quotes"),
    ("quantization: 4\n", "quantization: 4", "text, in quotes"),
    ("recipe: [grpo, mpo]\n", "recipe: ['grpo', 'mpo']", "text"),
    ("output: {dir: runs}\n", "output: {'dir': 'runs'}", "text"),
    ("learning_rate: 1e-5\n", "'learning_rate'", "did you mean 'lr'?"),
    ("promts_per_step: 8\n", "'promts_per_step'", "'prompts_per_step'"),
    ("num_generations: 8\n", "'num_generations'", "'group_size'"),
    ("kl: 0.04\n", "'kl'", "recipe_options='{\"kl\": ...}'"),
    ("Model: tiny\n", "'Model'", "'model'"),
    ("\uff4b: 4\n", "'\uff4b'", "did you mean 'k'?"),
    ("dry_run: true\n", "'dry_run'", "on the command line, as --dry_run"),
    ("optimizer:\n  lr: 1e-5\n", "'optimizer'", "--help lists them"),
    ("4: k\n", "4, which is no option", "--help"),
    ("stop: {a: b}\n", "stop: {'a': 'b'}", "a list of texts"),
    ("stop: [[a]]\n", "stop: [['a']]", "a list of texts"),
    ("recipe_options: [clip]\n", "recipe_options: ['clip']", "a mapping"),
    ("recipe_options:\n", "recipe_options: None", "{} for none"),
    ("recipe_options: {clip: 0.2}\n", "clip=0.2", "a list of 2 numbers"),
    ("recipe_options: {clip: (0.2, 0.28)}\n", "(0.2", "has no option"),
    ("recipe_options: {kl: 2024-01-01}\n", "datetime.date", "use numbers"),
    ("recipe_options: \"{'kl': 0.1}\"\n", "recipe_options=", "write e.g."),
    ("recipe_options: {kl: 0.1\n", "is not YAML", "`name: value`"),
    ("model: !!python/object/apply:os.system ['true']\n", "is not YAML", "os.system"),
    ("k: *four\n", "'four'", "is not YAML"),
    ("model: 'tiny\n", "is not YAML", "'tiny"),
    ("output: lamps\n", "output='lamps'", "choose another folder"),
]


def check(call, words):
    before = sorted(Path().rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((ValueError, OSError)) as error:
            call()
    told(str(error.value), words)
    assert sorted(Path().rglob("*")) == before, "something was written"


def told(said, words):
    missing = [word for word in words if word not in said]
    assert not missing and "Traceback" not in said, said


@pytest.mark.parametrize("row", [*NUMBERS, *CALLS], ids=range(len(NUMBERS) + len(CALLS)))
def test_a_call(row):
    check(row[0], row[1:])


@pytest.mark.parametrize("row", WITH_MODEL, ids=range(len(WITH_MODEL)))
def test_a_call_with_a_model(row, tiny):
    check(lambda: row[0](*tiny), row[1:])


def refused(command, words, capsys):
    try:
        status = command()
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    assert status in (1, 2) and len(said.splitlines()) == 1, said
    told(said, words)


@pytest.mark.parametrize("row", LINES, ids=range(len(LINES)))
def test_a_line(row, capsys):
    refused(lambda: main(row[0].split(" ")), row[1:], capsys)
    assert not os.path.exists("runs")


@pytest.mark.parametrize("row", TOUR, ids=range(len(TOUR)))
def test_a_line_of_the_tour(row, capsys):
    refused(lambda: tour(row[0].split(" ")), row[1:], capsys)


@pytest.mark.parametrize("row", YAML, ids=range(len(YAML)))
def test_a_file(row, capsys):
    Path("run.yaml").write_text(row[0], encoding="utf8")
    refused(lambda: main(["--config", "run.yaml", "--dry_run"]), row[1:], capsys)


def test_a_warning_of_the_package_is_one_line_on_the_command_line():
    plain = warnings.formatwarning
    said = []

    def work():
        said.append(warnings.formatwarning("a checkpoint is damaged", UserWarning, cli.__file__, 1))
        said.append(warnings.formatwarning("another package's", UserWarning, warnings.__file__, 1))

    assert cli._guarded("mpo-train", work) == 0
    assert said[0] == "mpo-train: a checkpoint is damaged\n" and "UserWarning" in said[1]
    assert warnings.formatwarning is plain
