"A real JupyterLab server on loopback, for tests that click and type in a notebook."

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
READY = """async () => {
  const app = window.jupyterapp, panel = app && app.shell.currentWidget
  if (!panel || !panel.context || !panel.sessionContext) return false
  await panel.context.ready; await panel.sessionContext.ready
  const kernel = panel.sessionContext.session && panel.sessionContext.session.kernel
  if (!kernel) return false
  await kernel.info
  return true
}"""


OPEN = """async (path) => {
  const without = { shouldStart: false, canStart: false, autoStartDefault: true } // no kernel, and no question for one
  const panel = await window.jupyterapp.commands.execute('docmanager:open', {
    path, factory: 'Notebook', kernelPreference: without })
  await panel.context.ready
  await panel.revealed
  await panel.sessionContext.ready
}"""
RUN_ALL = """async ([id, first]) => {
  const app = window.jupyterapp, session = app.shell.currentWidget.sessionContext
  await session.changeKernel(id ? { id } : { name: 'python3' })
  const kernel = session.session.kernel
  await kernel.info
  await kernel.requestExecute({ code: first, silent: true }).done
  await app.commands.execute('notebook:run-all-cells')
  return kernel.id
}"""
CLOSE = """async (last) => {
  const panel = window.jupyterapp.shell.currentWidget
  const kernel = panel.sessionContext.session?.kernel
  if (kernel) {
    const reply = await kernel.requestExecute({ code: last, silent: true }).done
    if (reply.content.status !== 'ok') throw new Error(reply.content.evalue)
  }
  panel.dispose()
}"""
# What is left of a notebook in its kernel: its names and its widgets. What was imported stays.
FORGET = """
import ipywidgets
ipywidgets.Widget.close_all()
get_ipython().reset(new_session=False)
"""
OUTPUTS = """() => {
  const seen = %s
  const cells = window.jupyterapp.shell.currentWidget.content.widgets
  const found = []
  cells.forEach((cell, i) => {
    if (!cell.outputArea) return
    const nodes = cell.outputArea.node.querySelectorAll(':scope > .jp-OutputArea-child > .jp-OutputArea-output')
    const model = cell.model.outputs
    for (let j = 0; j < model.length; j++) {
      const output = model.get(j)
      const place = cell.model.getMetadata('place') ?? i // where outputs alone were kept: the cell's number before
      const kind = { cell: place, type: output.type, mimes: Object.keys(output.data), trusted: cell.model.trusted }
      found.push({ ...kind, rendered: nodes[j]?.className || '', ...(nodes[j] ? seen(nodes[j]) : { height: 0 }) })
    }
  })
  return found
}"""


def watched(page, *allowed: str):
    "Collects what the page asks for and breaks on."
    page.trouble = []
    page.on("request", lambda r: r.url.startswith((*allowed, "data:", "blob:")) or page.trouble.append(r.url))
    page.on("pageerror", lambda e: page.trouble.append(str(e)))
    return page


def write_notebook(path: Path, *cells: str) -> Path:
    "A notebook of code cells."
    made = [
        dict(cell_type="code", id=f"cell-{i}", metadata={}, source=cell, outputs=[], execution_count=None)
        for i, cell in enumerate(cells)
    ]
    meta = dict(kernelspec=dict(display_name="python3", language="python", name="python3"))
    path.write_text(json.dumps(dict(cells=made, metadata=meta, nbformat=4, nbformat_minor=5)))
    return path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def lab_server(folder: Path, config: Path, settings: dict | None = None):  # of Lab's extensions
    "JupyterLab serving `folder`, with its own settings under `config`; yields the address."
    (config / "lab" / "settings").mkdir(parents=True, exist_ok=True)
    overrides = NO_NEWS | (settings or {})
    (config / "lab" / "settings" / "overrides.json").write_text(json.dumps(overrides))
    port = free_port()
    home = {
        name: str(config / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    env = {
        **os.environ,
        **home,
        "OMP_NUM_THREADS": "1",
        "JUPYTERLAB_SETTINGS_DIR": str(config / "user"),
        "JUPYTERLAB_WORKSPACES_DIR": str(config / "workspaces"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        f"--LabApp.app_settings_dir={config / 'lab' / 'settings'}",
    ]
    log = open(config / "server.log", "w")
    server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if server.poll() is not None:
                raise RuntimeError(
                    f"JupyterLab ended with {server.returncode}:\n{(config / 'server.log').read_text()[-2000:]}"
                )
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
                break
            time.sleep(0.25)
        else:
            raise RuntimeError(f"JupyterLab did not answer in 60 s:\n{(config / 'server.log').read_text()[-2000:]}")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def run_notebook(page, address: str, name: str):
    "Opens a notebook, waits for its kernel and runs every cell."
    page.goto(f"{address}/lab/workspaces/{name.replace('.', '-')}/tree/{name}?reset")
    deadline = time.time() + 90
    while not page.evaluate(READY):
        assert time.time() < deadline, f"{name}: no kernel within 90 s"
        page.wait_for_timeout(250)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


def open_notebook(page, path: str):
    "Opens a notebook in the Lab that the page shows, without a kernel: nothing is run."
    page.evaluate(OPEN, path)


def run_all(page, folder: Path, kernel: str | None = None) -> str:
    """Gives the open notebook a kernel in a folder, a new one or the one of this number, runs all cells, and waits
    until they have run. Returns the kernel's number."""
    return page.evaluate(RUN_ALL, [kernel, f"import os\nos.chdir({str(folder)!r})"])


def close_notebook(page):
    "Closes the notebook that is open, and asks nothing. Its kernel lives on, without what the notebook left in it."
    page.evaluate(CLOSE, FORGET)


def lab_outputs(page, seen: str) -> list[dict]:  # seen: JavaScript, element -> facts
    "What is seen of each output of the open notebook, cell by cell."
    return page.evaluate(OUTPUTS % seen)
