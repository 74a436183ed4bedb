"Notebooks, tests, scripts and benchmarks stand as the formatter leaves them, one statement a line."

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", [["format", "--check", "--quiet"], ["check", "--quiet"]], ids=["format", "rules"])
def test_the_formatter_has_nothing_to_do(root, command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"make export formats them:\n{done.stdout}{done.stderr}"
