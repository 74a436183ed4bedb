"""Programs, each in a process of its own, which starts with torch and this package imported: forked from a parent that
has done so once. An import of theirs takes three seconds of a processor, and most programs of a test take less."""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

IMPORTED = "torch transformers tokenizers datasets mpo_nb.training.trainer mpo_nb.planning.plan mpo_nb.tasks.games"
SERVE = "import sys; sys.path.append(sys.argv[1]); import warm; warm.serve()"


def exit_status(error: SystemExit) -> int:
    "The status with which Python ends on this: a text is printed, and stands for 1."
    if error.code is None or isinstance(error.code, int):
        return int(error.code or 0)
    print(error.code, file=sys.stderr)
    return 1


def run_forked(program: str, folder: str, output: int) -> None:
    "What a forked child does: run a program as `python PROGRAM` would, and end."
    status = 1
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    sys.argv = [program]
    sys.path[0] = os.path.dirname(program)
    try:
        runpy.run_path(program, run_name="__main__")
        status = 0
    except SystemExit as error:
        status = exit_status(error)
    except BaseException:
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def serve() -> None:
    "The parent: one line of JSON for each program, and one with its child's number in return, another with its status."
    import importlib

    for name in IMPORTED.split():
        importlib.import_module(name)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jobs = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in jobs:
        program, folder, output = json.loads(line)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            run_forked(program, folder, file)
        os.setpgid(child, child)  # on both sides, so that it is done before the first goes on
        os.close(file)
        print(child, file=replies, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=replies, flush=True)


class Warm:
    "A parent, for a block of `with`."

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder  # where programs run

    def __enter__(self) -> "Warm":
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def run(
        self,
        program: Path,
        own: Path,  # a folder for its temporary files
        seconds: float,  # after which its process group is killed
    ) -> tuple[int, str]:  # its exit status, and what it printed
        "Run a program to its end."
        output = own / "printed.txt"
        self.process.stdin.write(json.dumps([str(program), str(own), str(output)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        killer = threading.Timer(seconds, lambda: os.killpg(child, signal.SIGKILL))
        killer.start()
        status = int(self.process.stdout.readline())
        killer.cancel()
        return status, output.read_text(encoding="utf8", errors="replace")
