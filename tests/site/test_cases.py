"""Programs that each show one fault of version 0.1.0: those in MPO_NB_CASES, else in `shared/cases` beside the clone,
exit 0 where the package does right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm import Warm

ROOT = Path(__file__).resolve().parents[2]
OLD_NAMES = ROOT / "tests" / "helpers" / "version_0_1"  # the programs import by the names of their version
CASES = Path(os.environ.get("MPO_NB_CASES") or ROOT.parent / "shared" / "cases")
PROGRAMS = sorted(CASES.glob("*.py"))
# Actions step over masked tokens by default, as the public contract says; that they end at a hole is asked for.
ENDED = {
    "sentence_blocks(mask, tokens)": 'sentence_blocks(mask, tokens, gaps="end")',
    "BlockActions(3)": 'BlockActions(3, gaps="end")',
    "WindowActions(3)": 'WindowActions(3, gaps="end")',
}
NEEDS_SANDBOX = ("code_", "gym_", "honest_", "sandbox_", "script_", "whole_usr")


@pytest.fixture(scope="module")
def warm():
    "Programs in processes that start with torch imported: all of them together took five minutes, most of it imports."
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(OLD_NAMES), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # which the import of pyarrow starts otherwise
    }
    with Warm(env, ROOT) as parent:
        yield parent


def marked(program: Path):
    return pytest.param(program, id=program.stem, marks=[pytest.mark.sandbox] * program.name.startswith(NEEDS_SANDBOX))


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAMS, reason="no cases: set MPO_NB_CASES to the folder that holds them")
@pytest.mark.parametrize("program", [marked(program) for program in PROGRAMS] or [None])
def test_what_was_wrong_in_0_1_0_is_right(program, warm, tmp_path):
    text = program.read_text(encoding="utf8")
    if program.stem == "turn_boundary_inside_an_action":
        for plain, ended in ENDED.items():
            assert text.count(plain) == 1, f"{plain} stands no more in {program.name}"
            text = text.replace(plain, ended)
        program = tmp_path / program.name
        program.write_text(text, encoding="utf8")
    status, printed = warm.run(program, tmp_path, 300)
    assert status == 0, f"{program.name} exits {status}\n{printed[-6000:]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, wanted",
    [
        ("import sys, torch; assert 'mpo_nb.trainer' not in sys.modules; print(__name__)", 0),
        ("import sys; sys.exit(True)", 1),
        ("raise SystemExit('no')", 1),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("from concurrent.futures import ThreadPoolExecutor as Pool; pool = Pool(1); pool.submit(print, 'done')", 0),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()", 0),
        ("import atexit; atexit.register(print, 'last')", 0),
        ("import torch; print(torch.ones(64, 64).matmul(torch.ones(64, 64)).sum())", 0),
    ],
)
def test_a_program_ends_as_it_would_alone(text, wanted, warm, tmp_path):
    "Its status, what it prints, and nothing of what the one before it did."
    program = tmp_path / "program.py"
    program.write_text(f"import sys\nassert not hasattr(sys, 'seen')\nsys.seen = True\n{text}\n")
    alone = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    status, printed = warm.run(program, tmp_path, 60)
    assert status == alone.returncode == wanted
    assert printed.splitlines()[-1:] == (alone.stdout + alone.stderr).splitlines()[-1:]
