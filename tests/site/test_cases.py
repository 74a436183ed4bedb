"""Programs that each show one fault of version 0.1.0: those in MPO_NB_CASES, else in `shared/cases` beside the clone,
exit 0 where the package does right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def marked(program: Path):
    return pytest.param(program, id=program.stem, marks=[pytest.mark.sandbox] * program.name.startswith(NEEDS_SANDBOX))


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAMS, reason="no cases: set MPO_NB_CASES to the folder that holds them")
@pytest.mark.parametrize("program", [marked(program) for program in PROGRAMS] or [None])
def test_what_was_wrong_in_0_1_0_is_right(program, tmp_path):
    text = program.read_text(encoding="utf8")
    if program.stem == "turn_boundary_inside_an_action":
        for plain, ended in ENDED.items():
            assert text.count(plain) == 1, f"{plain} stands no more in {program.name}"
            text = text.replace(plain, ended)
        program = tmp_path / program.name
        program.write_text(text, encoding="utf8")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(OLD_NAMES), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, errors="replace", env=env, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, f"{program.name} exits {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
