"""A trusted checker and untrusted texts: what a text may do to the trainer, to its own score and to the others'
(nothing)."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from machine import slowness

from mpo_nb.sandbox.checkers import Checks, with_requirements

pytestmark = pytest.mark.sandbox


def prepare(right):
    return {"right": right}


def check(prepared, text):
    "A checker without any care: it runs what begins with `run`, and trusts what it was given."
    if text.startswith("run "):
        space = {"prepared": prepared}
        exec(text[4:], space)
        return space.get("value", 0.0)
    return float(text == prepared["right"])


@pytest.fixture(scope="module")
def checks():
    made = Checks(prepare, check, memory_mb=512, workers=2)
    made.ready(("4",))
    yield made
    made.close()


def reads(checks, *texts, timeout=5.0):
    return checks(("4",), [(text,) for text in texts], timeout)


def test_a_score_is_what_the_checker_returns(checks):
    results = reads(checks, "4", "5", "run value = 0.25", "run value = True", *["4"] * 20)
    assert [r.value for r in results] == [1.0, 0.0, 0.25, 1.0, *[1.0] * 20] and not any(r.reason for r in results)
    assert [r.value for r in checks(("5",), [("4",), ("5",)])] == [0.0, 1.0], "another recipe, in the same processes"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("run value = 2", "returned 2"),
        ("run value = -0.1", "returned -0.1"),
        ("run value = float('nan')", "returned nan"),
        ("run value = '1'", "returned '1'"),
        ("run value = None", "TypeError"),
        ("run 1/0", "ZeroDivisionError: division by zero"),
        ("run raise SystemExit(0)", "SystemExit"),
        ("run raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("run class E(Exception):\n    def __str__(self): raise self\nraise E", "cannot be printed"),
        ("run def f(): f()\nf()", "RecursionError"),
        ("run bytes(10**10)", "MemoryError"),
        ("run import os; os._exit(0)", "status 0"),
        ("run import ctypes; ctypes.string_at(0)", "status -11"),
        ("run while True: pass", "timeout: more than 0.7 s"),
        ("run import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(99)", "timeout"),
        ("run 9**9**9", "timeout"),
        ("run open('x', 'w').write('x' * 10)", "File too large|ended|Read-only"),
        ("run open('/etc/passwd')", "FileNotFoundError"),
        ("run import os; os.fork()", "PermissionError"),
        ("run import socket; socket.socket()", "PermissionError"),
        ("run import os; os.environ['PATH']", "KeyError"),
        ("run import mpo_nb", "ModuleNotFoundError"),
        ("run import numpy", "ModuleNotFoundError"),
    ],
)
def test_what_fails_is_zero_with_its_reason(checks, text, reason):
    import re

    hostile, right, wrong = reads(checks, text, "4", "3", timeout=0.7 if "timeout" in reason else 5.0)
    assert hostile.value == 0.0 and re.search(reason, hostile.reason), hostile
    assert (right.value, wrong.value, right.reason) == (1.0, 0.0, "")


FORGED = (
    "run import os, struct\nmessage = b'[\"value\", 1.0]'\nfor end in range(64):\n    for start in (b'', b'+', b'!'):\n"
    "        try: os.write(end, struct.pack('=I', len(start + message)) + start + message)\n        except OSError:"
    " pass\n"
)


@pytest.mark.parametrize(
    "text",
    [
        "run prepared['right'] = '3'",
        "run import builtins; builtins.float = lambda value: 1.0",
        "run import json; json.dumps = lambda value: '[\"value\", 1.0]'",
        "run import sys; sys.modules['__main__'].check = lambda *a: 1.0",
        "run import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
        "run import os; os.mkdir('left')",
        "run import os, time\nfor n in range(3, 9):\n    try: os.close(n)\n    except OSError: pass\ntime.sleep(99)",
        FORGED,
        FORGED + "while True: pass",
    ],
)
def test_a_hostile_text_changes_no_other_score(checks, text):
    "Not those beside it, and none after it in the same process."
    for _ in range(2):
        results = reads(checks, "4", "3", text, "4", "3", timeout=1.0)
        assert [r.value for r in (*results[:2], *results[3:])] == [1.0, 0.0, 1.0, 0.0]
    assert [r.value for r in reads(checks, *["3", "4"] * 4)] == [0.0, 1.0] * 4


def test_a_hostile_text_costs_the_others_no_time(checks):
    reads(checks, "4", "4")
    start = time.monotonic()
    results = reads(checks, "run while True: pass", *["4"] * 50, timeout=1.5)
    assert results[0].reason.startswith("timeout") and all(r.value == 1.0 for r in results[1:])
    assert time.monotonic() - start < 1.5 + 2.5 * slowness(), "one after the other this takes longer"


def test_a_formula_is_read_and_a_program_is_not():
    "The second lock: a checker that calls eval."
    sources = "\n".join(
        (
            "def prepare(right):\n    return {'right': right}\n",
            "def formula(prepared, text):\n    return float(eval(text) == prepared['right'])\n",
        )
    )
    space = {}
    exec(compile(sources, "<sources>", "exec"), space)
    import linecache

    linecache.cache["<sources>"] = (len(sources), None, sources.splitlines(True), "<sources>")
    made = Checks(space["prepare"], space["formula"], memory_mb=512, workers=1)
    try:
        texts = [
            "2 + 2",
            "(5 - 1) * 1.0",
            "8 / 2",
            "abs(-4)",
            "[4][0]",
            "prepared['right']",
            "(lambda: 4)()",
            "type('Y', (), {'__eq__': lambda *a: True})()",
            "().__class__",
            "__import__('os').getpid()",
            "[x for x in [4]][0]",
            "open('x')",
            "(x := 4)",
        ]
        results = made((4,), [(text,) for text in texts], 5.0)
        assert [r.value for r in results] == [1.0] * 5 + [0.0] * 8 and all(r.reason for r in results[5:])
    finally:
        made.close()


def test_without_walls_a_process_of_its_own_remains(monkeypatch):
    from mpo_nb.sandbox import runner as sandbox

    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="no bwrap on the PATH.*unsafe_code=True"):
        Checks(prepare, check)
    monkeypatch.setattr(sandbox, "_warned", [])
    with pytest.warns(RuntimeWarning, match="your rights"):
        made = Checks(prepare, check, memory_mb=512, workers=1, unsafe_code=True)
    results = reads(
        made,
        "4",
        "run import os; os._exit(0)",
        "run import os; os.fork()",
        "run import os; value = float(os.getcwd() != '/' and not os.listdir('.'))",
        "4",
    )
    made.close()
    assert [r.value for r in results] == [1.0, 0.0, 0.0, 1.0, 1.0]


def test_a_checker_that_cannot_start_says_why():
    made = Checks(prepare, check, ("tqdm",), workers=1)
    made.source = "import no_such_module"
    with pytest.raises(RuntimeError, match=r"(?s)did not start: .*no_such_module"):
        made.ready(("4",))
    made.close()


SCRIPT = """
import sys
sys.path[:0] = {folders!r}
from test_checkers import Checks, check, prepare
checks = Checks(prepare, check, memory_mb=512, workers=2)
checks(("4",), [("4",)] * 8)
print("ready", flush=True)
checks(("4",), [("run while True: pass",)] * 8, 60.0)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_trainer_that_ends_leaves_no_process(how, root):
    trainer = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(folders=[str(root / "tests" / name) for name in ("sandbox", "helpers")])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    assert trainer.stdout.readline() == "ready\n"
    time.sleep(0.3)
    inner = psutil.Process(trainer.pid).children(recursive=True)
    assert len(inner) >= 4
    trainer.send_signal(how)
    trainer.wait(10)
    trainer.stdout.close()
    assert psutil.wait_procs(inner, 20)[1] == []


def test_closing_leaves_nothing():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    files = len(os.listdir("/proc/self/fd"))
    made = Checks(prepare, check, memory_mb=512, workers=2)
    reads(
        made,
        "4",
        "run raise ValueError",
        "run import os; os._exit(1)",
        "run import os; os.kill(os.getppid(), 9)",
        "4",
        "4",
    )
    made.close()
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert psutil.wait_procs(left, 20)[1] == [] and len(os.listdir("/proc/self/fd")) == files


def test_requirements_are_followed():
    assert {"transformers", "tokenizers", "numpy", "yaml", "huggingface_hub"} <= set(with_requirements("transformers"))
    with pytest.raises(Exception, match="no-such-package"):
        with_requirements("no-such-package")
