"From a problem to token ids and back to the text that is rewarded: chat templates, special tokens, options, the clock."

import copy
import json
import pickle
from datetime import date
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import mpo_nb.tasks.prompts
from mpo_nb.cli import train_config
from mpo_nb.config import TrainConfig
from mpo_nb.evaluation.comparing import compare
from mpo_nb.evaluation.evaluating import evaluate
from mpo_nb.models.tiny import char_tokenizer, tiny_model_path
from mpo_nb.runs.traces import Trace
from mpo_nb.runtime.files import read_lines
from mpo_nb.sampling.decoding import StopStrings
from mpo_nb.sampling.rollouts import check_tokenizer, encode_prompts, end_tokens, response_texts, rollout
from mpo_nb.sampling.vllm import as_rollout
from mpo_nb.tasks.prompts import PromptText, control_tokens, pin_clock, prompt_tokens, render_prompt, turn_ends
from mpo_nb.tasks.task import Task, load_task

PROBLEM = dict(prompt="Is Rhea a moon of Saturn?", answer="yes")
TASK = Task("moons", [PROBLEM], [dict(PROBLEM, prompt="Is Io?")], lambda problem, response: 0.0)
SYSTEM = "Say yes or no."


def byte_tokenizer(special, frame=None, **options):
    "Bytes and a few special tokens, of which the tokenizer may put some around a text."
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [],
        trainers.BpeTrainer(
            vocab_size=256 + len(special), special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if frame:
        inner.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[(s, inner.token_to_id(s)) for s in special if s in frame]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, **options)


# How the families write their turns, shortened: the tokens are theirs, the programs are not.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if"
    " add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {
    "chatml base": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        None,
        dict(eos_token="<|endoftext|>"),
        CHATML,
        "<|im_end|>",
    ),
    "chatml, BOS before a text": (
        ["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        "<s> $A",
        dict(bos_token="<s>", eos_token="</s>"),
        CHATML,
        "<|im_end|>",
    ),
    "llama 3": (
        ["<|begin|>", "<|end|>", "<|head|>", "<|eot|>"],
        "<|begin|> $A",
        dict(bos_token="<|begin|>", eos_token="<|end|>"),
        (
            "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}\n\n{{ m.content | trim }}<|eot|>{% endfor %}{%"
            " if add_generation_prompt %}<|head|>assistant\n\n{% endif %}"
        ),
        "<|eot|>",
    ),
    "gemma": (
        ["<eos>", "<bos>", "<turn>", "</turn>"],
        "<bos> $A",
        dict(bos_token="<bos>", eos_token="<eos>"),
        (
            "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m"
            " in messages %}<turn>{{ m.role }}\n{{ m.content | trim }}</turn>\n{% endfor %}<turn>model\n"
        ),
        "</turn>",
    ),
    "mistral, EOS appended": (
        ["<s>", "</s>"],
        "<s> $A </s>",
        dict(bos_token="<s>", eos_token="</s>"),
        (
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif"
            " m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('no system') }}{% endif"
            " %}{% endfor %}"
        ),
        "</s>",
    ),
    "zephyr": (
        ["<s>", "</s>"],
        "<s> $A",
        dict(bos_token="<s>", eos_token="</s>"),
        (
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}{% if"
            " add_generation_prompt %}<|assistant|>\n{% endif %}"
        ),
        "</s>",
    ),
    "glm": (
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"],
        "[gMASK] <sop> $A",
        dict(eos_token="<|endoftext|>"),
        (
            "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{% if"
            " add_generation_prompt %}<|assistant|>\n{% endif %}"
        ),
        "<|user|>",
    ),
    "r1": (
        ["<bos>", "<eos>", "<User>", "<Assistant>"],
        "<bos> $A",
        dict(bos_token="<bos>", eos_token="<eos>"),
        (
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<User>{% elif m.role == 'assistant'"
            " %}<Assistant>{% endif %}{{ m.content.split('</think>')[-1] }}{% if m.role == 'assistant' %}<eos>{% endif"
            " %}{% endfor %}{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
        ),
        "<eos>",
    ),
    "harmony": (
        ["<|return|>", "<|start|>", "<|end|>", "<|message|>"],
        None,
        dict(eos_token="<|return|>"),
        (
            "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}{% if m.role == 'assistant' and"
            " loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt"
            " %}<|start|>assistant{% endif %}"
        ),
        "<|return|>",
    ),
}


def family(name):
    special, frame, options, template, _ = FAMILIES[name]
    return byte_tokenizer(special, frame, pad_token=special[0], chat_template=template, **options)


def ids_of(tokenizer, text):
    ids, mask = encode_prompts(tokenizer, [text])
    return ids[0][mask[0]].tolist()


# Prompts to tokens


@pytest.mark.parametrize("system", ["", SYSTEM])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_has_the_ids_that_transformers_gives_it(name, system):
    tokenizer = family(name)
    turns = [dict(role="system", content=system)] * bool(system) + [dict(role="user", content=PROBLEM["prompt"])]
    if system and "no system" in tokenizer.chat_template:
        with pytest.raises(
            ValueError, match=r"refuses the turns \['system', 'user'\] \(no system\); leave system_prompt empty"
        ):
            render_prompt(tokenizer, TASK, PROBLEM, system=system)
        return
    text = render_prompt(tokenizer, TASK, PROBLEM, system=system)
    right = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids_of(tokenizer, text) == right
    assert ids_of(tokenizer, str(text)) == right, "a string of one's own is seen to be a chat"


@pytest.mark.parametrize(
    "frame, begins",
    [(None, []), ("<s> $A", ["<s>"]), ("<s> $A </s>", ["<s>"]), ("$A </s>", []), ("[x] <s> $A", ["[x]", "<s>"])],
)
@pytest.mark.parametrize("template", [None, CHATML])
def test_a_plain_text_begins_once_and_is_not_ended(frame, begins, template):
    tokenizer = byte_tokenizer(
        ["<s>", "</s>", "[x]"], frame, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=template
    )
    body = tokenizer("1+1?", add_special_tokens=False)["input_ids"]
    first = tokenizer.convert_tokens_to_ids(begins)
    plain = render_prompt(tokenizer, TASK, dict(prompt="1+1?"), "plain")
    assert ids_of(tokenizer, plain) == ids_of(tokenizer, "1+1?") == first + body
    written = "".join(begins) + "1+1?"
    assert ids_of(tokenizer, written) == first + body, "what it would put in front is there already"
    assert ids_of(tokenizer, first + body) == first + body


def test_a_short_mark_makes_no_chat_of_a_text():
    tokenizer = byte_tokenizer(
        ["<s>", "</s>"],
        "<s> $A",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template="Q {{ messages[0].content }}=",
    )
    assert ids_of(tokenizer, "1+1=")[0] == ids_of(tokenizer, "Q 1")[0] == tokenizer.bos_token_id
    assert ids_of(tokenizer, render_prompt(tokenizer, TASK, dict(prompt="1+1")))[0] != tokenizer.bos_token_id


def test_texts_chats_and_ids_stand_in_one_list():
    tokenizer = family("llama 3")
    chat = render_prompt(tokenizer, TASK, PROBLEM)
    rows = prompt_tokens(tokenizer, [chat, "a", [7, 8]])
    assert rows == [ids_of(tokenizer, chat), [0, *tokenizer("a", add_special_tokens=False)["input_ids"]], [7, 8]]


def test_a_sentencepiece_tokenizer_begins_once():
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "▁a": 4, "b": 5}
    inner = Tokenizer(models.Unigram([(piece, -float(i)) for piece, i in pieces.items()], unk_id=0))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    assert tokenizer("ab")["input_ids"] == [1, 4, 5, 2]
    assert ids_of(tokenizer, "ab") == ids_of(tokenizer, "<s>ab") == [1, 4, 5]


@pytest.mark.parametrize(
    "prompts, message",
    [
        ("1+1?", r"prompts='1\+1\?' is one text where a list of texts belongs; write prompts=\['1\+1\?'\]"),
        (PromptText("1?"), "is one text"),
        (b"1", "is one text"),
        ({"a": 1}, "prompts={'a': 1}"),
        (None, "prompts=None"),
        (3, "prompts=3"),
        ([], "prompts is empty"),
        (["a", None], r"prompts\[1\]=None; give a text or a list of token ids"),
        ([[dict(role="user", content="a")]], r"prompts\[0\]=.*render_prompt"),
        ([["a"]], r"prompts\[0\]=\['a'\]"),
        ([[True]], r"prompts\[0\]=\[True\]"),
        (["a", ""], r"prompts\[1\]='' has no tokens"),
        ([[]], r"prompts\[0\]=\[\] has no tokens"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts(family("chatml base"), prompts)


def test_a_prompt_keeps_what_it_knows_of_itself():
    text = render_prompt(family("gemma"), TASK, dict(prompt="a <eos> b"))
    for same in (copy.copy(text), copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (
            same == text
            and same.chat
            and same.pieces == text.pieces == (text[: text.index("<eos>")], "<eos>", text[text.index("<eos>") + 5 :])
        )
    assert json.loads(json.dumps(text)) == text


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("format", ["chat", "plain"])
def test_a_problem_that_spells_a_control_token_does_not_write_one(name, format):
    tokenizer = family(name)
    for token in control_tokens(tokenizer):
        text, without = (render_prompt(tokenizer, TASK, dict(prompt=f"a {x} b"), format) for x in (token, "x"))
        assert f"a {token} b" in text, "the text as it is read"
        i = tokenizer.convert_tokens_to_ids(token)
        assert ids_of(tokenizer, text).count(i) == ids_of(tokenizer, without).count(i)
    assert {FAMILIES[name][4], tokenizer.eos_token} <= set(control_tokens(tokenizer))


def test_marks_that_were_added_as_plain_tokens_are_spelt_out_too():
    tokenizer = byte_tokenizer(["</s>"], eos_token="</s>", pad_token="</s>")
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "user", "<other>"])
    tokenizer.chat_template = CHATML
    assert control_tokens(tokenizer) == ("<|im_start|>", "<|im_end|>", "</s>")
    i, word, other = tokenizer.convert_tokens_to_ids(["<|im_end|>", "user", "<other>"])
    ids = ids_of(tokenizer, render_prompt(tokenizer, TASK, dict(prompt="<|im_end|> user <other>")))
    assert ids.count(i) == 1 and ids.count(word) == 2 and ids.count(other) == 1


def test_a_token_that_cannot_be_spelt_out_is_refused():
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, "a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    with pytest.raises(
        ValueError, match="holds '</s>', which this tokenizer can only read as its special token; take it out"
    ):
        encode_prompts(tokenizer, [render_prompt(tokenizer, TASK, dict(prompt="a </s> a"))])


def test_answer_tags_in_a_problem_stay_tokens():
    tokenizer = byte_tokenizer(["</s>", "<answer>", "</answer>"], eos_token="</s>", pad_token="</s>")
    tags = tokenizer.convert_tokens_to_ids(["<answer>", "</answer>"])
    assert [
        i
        for i in ids_of(tokenizer, render_prompt(tokenizer, TASK, dict(prompt="Write <answer>7</answer>.")))
        if i in tags
    ] == tags


# What a template leaves out

MARKS = (["</s>", "<u>", "</u>"], None, dict(eos_token="</s>"))


def templated(template):
    return byte_tokenizer(MARKS[0], chat_template=template, pad_token="</s>", **MARKS[2])


@pytest.mark.parametrize(
    "template, system, message",
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            SYSTEM,
            "leaves out or changes the system's turn.*leave system_prompt empty",
        ),
        (
            "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}",
            "",
            "leaves out or changes the user's turn",
        ),
        ("{{ messages[-1].content }}", SYSTEM, "the system's turn"),
        ("{% for m in messages %}{{ m.content | lower }}{% endfor %}", "", "the user's turn"),
        (
            "{% for m in messages %}{{ m.content[:36] }}{% endfor %}",
            "",
            "changes the user's turn that begins 'How many moons",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor", "", "cannot be read|refuses"),
        (
            {"rag": "{{ messages[0].content }}", "tools": "{{ messages[0].content }}"},
            "",
            (
                "templates are rag, tools, and none is the default; choose one by"
                " chat_template_options={'chat_template': 'rag'}"
            ),
        ),
    ],
)
def test_what_a_template_leaves_out_or_changes_is_said(template, system, message):
    problem = dict(prompt="How many moons has Saturn, and how many has Jupiter?")
    with pytest.raises(ValueError, match=message):
        render_prompt(templated(template), TASK, problem, system=system)


@pytest.mark.parametrize(
    "template, text",
    [
        ("{% for m in messages %}{{ m.content.strip() }}/{% endfor %}", " Say.\n/ 1+1? /"),
        ("{{ messages | tojson }}", None),
        (
            (
                "{% for m in messages %}<u>{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text']"
                " }}{% endif %}{% endfor %}{% endfor %}"
            ),
            "<u> Say.\n<u> 1+1? ",
        ),
        ({"default": "{% for m in messages %}{{ m.content }};{% endfor %}", "rag": ""}, " Say.\n; 1+1? ;"),
    ],
)
def test_templates_that_write_everything_are_not_refused(template, text):
    written = render_prompt(templated(template), TASK, dict(prompt=" 1+1? "), system=" Say.\n")
    assert text is None or written.replace(" ", "").replace("\n", "") == text.replace(" ", "").replace("\n", "")


def test_messages_keep_their_turns():
    chat = [
        dict(role="user", content="One?"),
        dict(role="assistant", content="<think>1</think>Two."),
        dict(role="user", content="Three?"),
    ]
    assert (
        render_prompt(family("r1"), TASK, dict(prompt=chat))
        == "<bos><User>One?<Assistant>Two.<eos><User>Three?<Assistant><think>\n"
    )
    with pytest.raises(ValueError, match="leaves out or changes the user's turn of the turns"):
        render_prompt(templated("{{ messages[-1].content }}"), TASK, dict(prompt=chat))
    with pytest.raises(ValueError, match="a chat of 3 turns, which plain text cannot hold"):
        render_prompt(family("r1"), TASK, dict(prompt=chat), "plain")
    own = [dict(role="system", content=SYSTEM), dict(role="user", content="One?")]
    assert render_prompt(family("r1"), TASK, dict(prompt=own), "plain") == SYSTEM + "\n\nOne?"
    with pytest.raises(
        ValueError, match="system_prompt='Say yes or no.', and the problem has a system's turn of its own"
    ):
        render_prompt(family("r1"), TASK, dict(prompt=own), system=SYSTEM)


# Options

THINKING = (
    "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}{% if add_generation_prompt %}<u>{% if enable_thinking is"
    " defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def test_options_reach_the_template():
    tokenizer = templated(THINKING)
    assert (
        render_prompt(tokenizer, TASK, dict(prompt="1?"), options={"enable_thinking": False})
        == "<u>1?</u><u><think></think>"
    )
    assert render_prompt(tokenizer, TASK, dict(prompt="1?"), options={"enable_thinking": True}) == "<u>1?</u><u>"
    several = templated(
        {"default": THINKING, "rag": "{{ messages[0].content }}{% for d in documents %}{{ d.text }}{% endfor %}"}
    )
    assert (
        render_prompt(several, TASK, dict(prompt="1?"), options={"chat_template": "rag", "documents": [{"text": "2!"}]})
        == "1?2!"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"enable_think": False}, "enable_think=False, but the tokenizer's chat template reads no 'enable_think'"),
        ({"content": 1}, "reads no 'content'"),
        ({"tokenize": True}, "'tokenize', which is decided here"),
        ({"enable_thinking": "false"}, "enable_thinking='false', a text, which a template takes for true"),
        ({"enable_thinking": {1}}, "give a value that JSON can hold"),
        (["enable_thinking"], r"chat_template_options=\['enable_thinking'\]; give names and values"),
        ({"documents": []}, "reads no 'documents'"),
        ({"strftime_now": "2026-01-31"}, "reads no 'strftime_now'"),
    ],
)
def test_options_that_would_change_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        render_prompt(templated(THINKING), TASK, PROBLEM, options=options)


def test_options_for_plain_text_are_refused():
    with pytest.raises(ValueError, match="prompts are plain text, which no template writes"):
        render_prompt(templated(THINKING), TASK, PROBLEM, "plain", options={"enable_thinking": False})


def test_options_of_a_run(tmp_path):
    line = '{"enable_thinking": false}'
    assert train_config(["--chat_template_options", line])[0] == TrainConfig(
        chat_template_options={"enable_thinking": False}
    )
    file = tmp_path / "run.yaml"
    file.write_text("chat_template_options: {enable_thinking: false}\n")
    assert train_config(["--config", str(file)])[0].chat_template_options == line
    for bad in ("[1]", "enable_thinking", 3):
        with pytest.raises(ValueError, match="chat_template_options="):
            TrainConfig(chat_template_options=bad)


# The clock

DATED = "{% for m in messages %}{{ strftime_now('%d %b %Y') }}{{ m.content }}{% endfor %}="
DAYS = (date(2026, 1, 31), date(2026, 2, 1))


def dated(monkeypatch, template=DATED):
    "The tiny model with a template that writes the day, and a function that sets the day."
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    tokenizer.chat_template = template
    return (
        AutoModelForCausalLM.from_pretrained(tiny_model_path()),
        tokenizer,
        lambda day: monkeypatch.setattr(mpo_nb.tasks.prompts, "date", SimpleNamespace(today=lambda: day)),
    )


def test_a_pinned_clock_stands():
    tokenizer = templated(DATED)
    for day, text in (("2026-01-31", "31 Jan 2026"), ("1999-12-01", "01 Dec 1999")):
        assert render_prompt(tokenizer, TASK, dict(prompt="1?"), options={"strftime_now": day}) == text + "1?="
    assert pin_clock(tokenizer, {}, {"strftime_now": "1999-12-01"}) == {"strftime_now": "1999-12-01"}
    assert (
        pin_clock(tokenizer, {})["strftime_now"] == date.today().isoformat()
        and pin_clock(templated(THINKING), {}) == {}
    )
    with pytest.raises(ValueError, match="strftime_now='tomorrow'; give a day, such as '2026-01-31'"):
        render_prompt(tokenizer, TASK, PROBLEM, options={"strftime_now": "tomorrow"})


def test_an_evaluation_goes_on_after_midnight(monkeypatch, tmp_path):
    model, tokenizer, today = dated(monkeypatch)
    task = load_task("chain_sum", n_train=4, n_test=4)
    paths = [tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"]
    how = dict(n=4, k=None, max_new_tokens=8, batch=2, progress=False)
    left = iter(range(2))

    def stopping(problem, text):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return task.reward(problem, text)

    today(DAYS[0])
    evaluate(model, tokenizer, task, **how, output=paths[0])
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tokenizer, Task(task.name, task.train, task.test, stopping), **how, output=paths[1])
    today(DAYS[1])
    found = evaluate(model, tokenizer, task, **how, output=paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes() and found.records[3]["prompt"].startswith("31 Jan 2026")
    assert found.settings["chat_template_options"] == {"strftime_now": "2026-01-31"}
    with pytest.raises(
        ValueError, match="chat_template_options={'strftime_now': '2026-01-31'}, not {'strftime_now': '2026-02-01'}"
    ):
        evaluate(model, tokenizer, task, **how, output=paths[1], chat_template_options={"strftime_now": "2026-02-01"})
    tokenizer.chat_template = DATED + "="
    with pytest.raises(ValueError, match="holds an evaluation with chat_template='[0-9a-f]{16}', not '[0-9a-f]{16}'"):
        evaluate(model, tokenizer, task, **how, output=paths[1])
    assert (
        evaluate(model, tokenizer, task, **how, output=tmp_path / "new.jsonl")
        .records[0]["prompt"]
        .startswith("01 Feb 2026")
    )
    assert set(compare(paths[0], tmp_path / "new.jsonl").settings) == {"chat_template", "chat_template_options"}


def test_a_run_goes_on_after_midnight(monkeypatch, tmp_path):
    from mpo_nb.training.trainer import Trainer

    model, tokenizer, today = dated(monkeypatch)
    c = dict(
        output=str(tmp_path / "run"),
        prompts_per_step=2,
        group_size=2,
        max_new_tokens=6,
        eval_every=0,
        precision="float32",
        device="cpu",
        progress=False,
        checkpoint_every=1,
        task_options={"n_train": 8, "n_test": 4},
    )
    for day, steps in zip(DAYS, (1, 2)):
        today(day)
        Trainer(TrainConfig(steps=steps, **c), tokenizer=tokenizer).fit()
    assert {row["prompt"][:11] for row in read_lines(tmp_path / "run" / "traces.jsonl")} == {"31 Jan 2026"}
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["chat_template_options"]
        == '{"strftime_now": "2026-01-31"}'
    )


def test_records_of_the_first_version_are_continued(tmp_path):
    "They name neither a template nor its options."
    pair = (AutoModelForCausalLM.from_pretrained(tiny_model_path()), AutoTokenizer.from_pretrained(tiny_model_path()))
    path = tmp_path / "old.jsonl"
    how = dict(n=2, k=None, max_new_tokens=6, batch=2, progress=False, output=path)
    evaluate(*pair, "chain_sum", **how)
    side = path.with_suffix(".settings.json")
    settings = json.loads(side.read_text())
    side.write_text(json.dumps({k: v for k, v in settings.items() if not k.startswith("chat_template")}))
    before = path.read_bytes()
    evaluate(*pair, "chain_sum", **how)
    assert path.read_bytes() == before
    pair[1].chat_template = THINKING
    with pytest.raises(ValueError, match="prompt_format='plain', not 'chat'"):
        evaluate(*pair, "chain_sum", **how)


# Where a response ends, and what of it is rewarded


@pytest.mark.parametrize("name", FAMILIES)
def test_the_end_of_a_turn_ends_a_response(name):
    tokenizer = family(name)
    assert tokenizer.convert_ids_to_tokens(turn_ends(tokenizer)) == [FAMILIES[name][4]]
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[250, tokenizer.eos_token_id]))
    assert end_tokens(model, tokenizer) == sorted({250, tokenizer.eos_token_id, *turn_ends(tokenizer)})
    assert end_tokens(None, tokenizer) == sorted({tokenizer.eos_token_id, *turn_ends(tokenizer)})


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{{ raise_exception('never') }}",
        "{{ messages[0].content }}",
    ],
)
def test_a_template_without_a_closing_token_ends_nothing(template):
    assert turn_ends(templated(template)) == []


@pytest.mark.parametrize("names", [("a", "b"), ("default", "tool_use")])
def test_the_ends_of_several_templates_all_count(names):
    tokenizer = byte_tokenizer(["<eos>", "<u>", "</u>", "<end>"], eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = {
        name: f"{{% for m in messages %}}<u>{{{{ m.content }}}}{end}{{% endfor %}}"
        for name, end in zip(names, ("</u>", "<end>"))
    }
    assert tokenizer.convert_ids_to_tokens(turn_ends(tokenizer)) == ["</u>", "<end>"]


class Script(torch.nn.Module):
    "A head that says the same tokens again and again, whatever it reads."

    def __init__(self, ids, size):
        super().__init__()
        self.ids, self.size, self.said, self.weight = ids, size, 0, torch.nn.Parameter(torch.zeros(size, 16))

    def forward(self, hidden):
        logits = torch.full((*hidden.shape[:-1], self.size), -60.0)
        logits[..., self.ids[self.said % len(self.ids)]] = 60.0
        self.said += 1
        return logits


def speaking(tokenizer, text):
    "A model that says a text."
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=256,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    model.set_output_embeddings(Script(tokenizer(text, add_special_tokens=False)["input_ids"], len(tokenizer)))
    return model


def tagged():
    tokenizer = family("chatml base")
    tokenizer.add_tokens([AddedToken(t, special=True) for t in ("<answer>", "</answer>", "<think>")])
    return tokenizer


def test_a_response_ends_with_its_turn_and_keeps_its_tags():
    tokenizer = tagged()
    said = "<think>hm<answer>7</answer>"
    model = speaking(tokenizer, said + "<|im_end|>")
    r = rollout(model, tokenizer, [render_prompt(tokenizer, TASK, PROBLEM)] * 2, 1, 40, greedy=True)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert r.texts == [said] * 2 and r.finished.all() and r.mask.all()
    assert r.ids[:, -1].tolist() == [end] * 2 and r.lengths.tolist() == [r.ids.shape[1]] * 2
    model.set_output_embeddings(Script(r.ids[0].tolist(), len(tokenizer)))
    cut_off = rollout(model, tokenizer, ["a"], 1, 5, greedy=True)
    assert not cut_off.finished.any() and cut_off.texts == [said[: len("<think>hm<answer>7")]]


def test_a_stop_string_may_be_a_special_token():
    tokenizer = tagged()
    r = rollout(speaking(tokenizer, "a<answer>7</answer>b"), tokenizer, ["a"], 1, 40, greedy=True, stop=["7</answer>"])
    assert r.texts == ["a<answer>7</answer>"] and r.finished.all()


def test_tags_reach_rewards_records_and_samplers():
    tokenizer = tagged()
    said = "<answer>7</answer>"
    seen = []
    task = Task(
        "tags",
        [PROBLEM],
        [PROBLEM],
        lambda problem, text: seen.append(text) or float(text == said),
        formatted=lambda problem, text: text.startswith("<answer>"),
    )
    found = evaluate(
        speaking(tokenizer, said + "<|im_end|>"), tokenizer, task, n=1, k=1, max_new_tokens=20, progress=False
    )
    assert found.accuracy == found.pass_at_k[1][0] == 1.0 and seen == [said] * 2
    assert found.records[0]["greedy"] | {"reward": 1.0} == dict(
        text=said, correct=True, reward=1.0, formatted=True, tokens=4, finished=True
    )
    ids = tokenizer(said + "<|im_end|>", add_special_tokens=False)["input_ids"]
    prompt = torch.tensor([[5]])
    r = as_rollout(
        tokenizer, prompt, prompt > 0, [(ids + [9], [0.0] * 5)], end_tokens(None, tokenizer), StopStrings(tokenizer, [])
    )
    assert r.texts == [said] and r.finished.all() and r.ids[0].tolist() == ids


def test_only_framing_tokens_are_left_out_of_a_response():
    tokenizer = char_tokenizer("ab")
    tokenizer.add_special_tokens(dict(additional_special_tokens=["<tag>"]))
    ids = tokenizer("<pad><bos>a<tag>b<unk><eos><pad>", add_special_tokens=False)["input_ids"]
    assert response_texts(tokenizer, [ids, []], end_tokens(None, tokenizer)) == ["a<tag>b<unk>", ""]
    assert response_texts(tokenizer, [ids], [*end_tokens(None, tokenizer), tokenizer.unk_token_id]) == ["a<tag>b"]


def test_values_of_half_written_responses_read_the_tags_too(tmp_path):
    from mpo_nb.training.trainer import Trainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    tokenizer.add_special_tokens(dict(additional_special_tokens=["<answer>"]))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[-1] = 3 * model.lm_head.weight[tokenizer.convert_tokens_to_ids("=")]
    base = load_task("chain_sum", n_train=4, n_test=2)
    seen = []
    task = Task("tags", base.train, base.test, lambda problem, text: seen.append(text) or 0.0)
    Trainer(
        TrainConfig(
            recipe="vineppo",
            steps=1,
            prompts_per_step=1,
            group_size=2,
            max_new_tokens=8,
            eval_every=0,
            precision="float32",
            device="cpu",
            progress=False,
            output=str(tmp_path / "run"),
            minibatches=1,
            epochs=1,
        ),
        model,
        tokenizer,
        task,
    ).fit()
    assert len(seen) > 2 and sum("<answer>" in text for text in seen[2:]) > 0


def test_a_text_for_the_warm_up_is_begun_and_ended_once():
    from mpo_nb.training.warming import token_rows

    tokenizer = family("chatml, BOS before a text")
    chat = tokenizer.apply_chat_template(
        [dict(role="user", content="a"), dict(role="assistant", content="b")], tokenize=False
    )
    a = tokenizer("a", add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    eos = tokenizer.eos_token_id
    rows = [ids for ids, _ in token_rows(["a", "<s>a", "a</s>", chat], tokenizer, 99)]
    assert rows == [[bos, *a, eos]] * 3 + [tokenizer(chat, add_special_tokens=False)["input_ids"]]
    with pytest.raises(ValueError, match="dataset='abc' is one text"):
        token_rows("abc", tokenizer, 99)


def test_a_trace_of_a_chat_begins_as_the_chat_does():
    tokenizer = family("zephyr")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=128,
        )
    ).eval()
    text = render_prompt(tokenizer, TASK, PROBLEM)
    ids = torch.tensor([tokenizer(text + "yes", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logps = model(ids).logits.log_softmax(-1)
    expected = logps[0, -4:-1].gather(-1, ids[0, -3:, None])[:, 0].tolist()
    for prompt in (text, str(text)):
        assert Trace.from_model(model, tokenizer, prompt, "yes").logps == pytest.approx(expected, abs=1e-5)


def test_a_processor_is_not_a_tokenizer():
    with pytest.raises(ValueError, match="tokenizer is a SimpleNamespace, which holds one; pass its .tokenizer"):
        check_tokenizer(SimpleNamespace(tokenizer=char_tokenizer()))


# One text where a list of texts belongs


def one_text():
    import pandas as pd

    from mpo_nb import blocks
    from mpo_nb.drawing import seeds, tables
    from mpo_nb.evaluation import sweep_outcomes as outcomes
    from mpo_nb.tasks import task as tasks

    frame = pd.DataFrame(dict(seed=[0], method=["a"], accuracy_sampled=[0.5], l=[1], r=[1]))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    mask = torch.ones(1, 2)
    return {
        "rollout prompts": lambda: rollout(model, tokenizer, "1+1?"),
        "rollout stop": lambda: rollout(model, tokenizer, ["1?"], max_new_tokens=8, stop="#1"),
        "evaluate stop": lambda: evaluate(model, tokenizer, "chain_sum", n=1, stop="#1", progress=False),
        "check_stop": lambda: StopStrings(tokenizer, "#1"),
        "tokens of a row": lambda: blocks.sentence_blocks(mask, ["a."]),
        "tokens": lambda: blocks.sentence_blocks(torch.ones(2, 1), ".a"),
        "trace": lambda: Trace("a."),
        "names": lambda: outcomes.outcomes({("a", 1): [dict(step=1, loss=0.0)]}, "ab"),
        "within": lambda: outcomes.seed_differences(frame, "a", within="lr"),
        "percent": lambda: seeds.seed_figure(frame, "method", {"l": "L"}, percent="clip_fraction"),
        "heads": lambda: tables.numbers_table("ab", [], "x"),
        "responses": lambda: tasks.score(TASK, [PROBLEM] * 2, "ab"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "rollout prompts",
        "rollout stop",
        "evaluate stop",
        "check_stop",
        "tokens of a row",
        "tokens",
        "trace",
        "names",
        "within",
        "percent",
        "heads",
        "responses",
    ],
)
def test_one_text_where_a_list_belongs_is_refused(what):
    with pytest.raises(ValueError, match="is one (text|string)|is of type str"):
        one_text()[what]()
