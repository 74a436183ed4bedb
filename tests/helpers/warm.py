"""Programs, each in a process of its own, which starts with torch and this package imported: forked from a parent that
has done so once. An import of theirs takes three seconds of a processor, and most programs of a test take less.

A fork of a process with threads can hang: a lock that another thread held is held in the child for ever. The parent
therefore has one thread, calls no operation of torch, and refuses to start where an import left a thread behind."""

import atexit
import json
import os
import resource
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


def run_forked(program: str, folder: str, seconds: float, output: int) -> None:
    "What a forked child does: run a program as `python PROGRAM` would, and end."
    status = 1
    limit = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
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
        threading._shutdown()  # as Python does: wakes the threads of pools, and waits for those that are no daemons
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
    sys.modules["torch"].set_num_threads(1)
    if Path("/proc/self/task").exists() and len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("an import has started a thread: a fork could hang; see which one of IMPORTED it is")
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jobs = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in jobs:
        program, folder, seconds, output = json.loads(line)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            run_forked(program, folder, seconds, file)
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
        try:
            self.process.stdin.close()
        except BrokenPipeError:  # it has ended: what it said stands on standard error
            pass
        self.process.wait(30)
        self.process.stdout.close()

    def run(
        self,
        program: Path,
        own: Path,  # a folder for its temporary files
        seconds: float,  # of wall time, after which its process group is killed; of processor time, too
    ) -> tuple[int, str]:  # its exit status, and what it printed
        "Run a program to its end."
        output = own / "printed.txt"
        self.process.stdin.write(json.dumps([str(program), str(own), seconds, str(output)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline() or "0")
        if not child:
            raise RuntimeError("the parent of the programs has ended: see what it wrote on standard error")
        killer = threading.Timer(seconds, lambda: os.killpg(child, signal.SIGKILL))
        killer.start()
        status = int(self.process.stdout.readline())
        killer.cancel()
        return status, output.read_text(encoding="utf8", errors="replace")
