"""Every benchmark, one after the other, and the page with the history of each ratio.

    python benchmarks/run.py                   # about 35 minutes on two quiet cores
    python benchmarks/run.py --only trainer    # one of them
    python benchmarks/run.py --page            # measures nothing: says anew on the page which measurements are old
    MPO_NB_BENCH=small python benchmarks/run.py --studies    # tries the code of all, at a size that says nothing

Stopped and started again, it goes on: a table whose measured code is the present code is not measured again.
`--again` measures all of them. Studies, which train, are made by `--studies`; a run that their file holds is kept.
"""

import argparse
import runpy
import subprocess
import sys
import time
import traceback

import records


def is_current(name: str) -> bool:
    "Whether a benchmark's table was measured on the present code, in a state that is committed."
    record = records.read_record(name)
    return record is not None and not record.changed(name)


def run(name: str) -> int:
    "Run a benchmark; 0 where it ended well. At small size here, where everything is imported already."
    script = str(records.FOLDER / f"{name}.py")
    if not records.small():
        return subprocess.run([sys.executable, script]).returncode
    before = sys.argv
    sys.argv = [script]
    start = time.process_time()
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = before
        print(f"== {name}: {time.process_time() - start:.1f} s of processor time", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    costs = [name for name, benchmark in records.BENCHMARKS.items() if not benchmark.study]
    parser.add_argument("--only", nargs="+", choices=list(records.BENCHMARKS), help="these")
    parser.add_argument("--again", action="store_true", help="those that are current too")
    parser.add_argument("--studies", action="store_true", help="what trains for hours too")
    parser.add_argument("--page", action="store_true", help="measure nothing, and write the page")
    asked = parser.parse_args()
    names = asked.only or (list(records.BENCHMARKS) if asked.studies else costs)
    failed = []
    for name in [] if asked.page else names:
        if is_current(name) and not asked.again and not records.small():
            print(f"== {name}: measured on this code already")
            continue
        print(f"== {name}", flush=True)
        if run(name):
            failed.append(name)
    if not records.small():
        from page import write_page  # which takes the tools of development

        print(f"wrote {write_page()}")
    if failed:
        print(f"failed: {', '.join(failed)}; what was measured is kept, and a second call goes on there")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
