"What `make test` runs: every notebook, then pytest. Arguments go to pytest. Both run, whatever the first one found."

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def step(name: str, command: list[str], **env: str) -> bool:
    "Runs one command in the repository's root, says how long it took, and returns whether it passed."
    print(f"\n== {name}", flush=True)
    start = time.time()
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}).returncode
    print(f"== {name}: {'passed' if code == 0 else 'FAILED'} in {time.time() - start:.0f} s", flush=True)
    return code == 0


def main() -> int:
    # One thread for each notebook: on two cores, more would only wait for each other.
    # Threads that wait without spinning cost nothing on a quiet machine and save minutes on a busy one.
    threads = dict(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    with tempfile.TemporaryDirectory() as executed:  # what every cell shows: the tests open it in JupyterLab
        return run(dict(threads, MPO_NB_EXECUTED=executed))


def run(env: dict[str, str]) -> int:
    "Both steps; the exit status."
    notebooks = step("notebooks", [sys.executable, "tests/notebooks.py"], **env)
    # Two workers, a file at a time (in the order that conftest.py gives) and a thread each: most tests keep one core
    # busy, and those that share something stand in one file.
    tests = step(
        "tests",
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *sys.argv[1:]],
        **env,
    )
    if not notebooks:
        print("A notebook failed: its error stands above, under 'notebooks'.")
    return 0 if notebooks and tests else 1


if __name__ == "__main__":
    sys.exit(main())
