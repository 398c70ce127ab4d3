"""Start JupyterLab at one of the project's notebooks: on loopback, with a token, offline."""

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from .checks import require_count
from .extras import missing

__all__ = ["command", "environment", "launch", "notebook_folder", "running_as_root"]

# JupyterLab's defaults for this run; what users set in their own settings still wins.
_DEFAULTS = {
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
    # The usual mode takes cells that are off screen out of the page, which blanks their canvases.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "defer"},
}

# Seconds that JupyterLab has for stopping its kernels after Ctrl-C.
_PATIENCE = 15.0


def notebook_folder() -> Path:
    """Return the checkout's notebooks folder; raise FileNotFoundError where there is none."""
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The notebooks come with a checkout of the repository, and {folder} does not exist: "
            "clone the repository and run `make lab` in it."
        )
    return folder


def running_as_root() -> bool:
    """Return whether this process runs as root, which Jupyter refuses unless told otherwise."""
    return getattr(os, "geteuid", lambda: 1)() == 0


def command(
    folder: Path,
    notebook: str,
    *,
    port: int | None = None,
    open_browser: bool = True,
    allow_root: bool = False,
    options: tuple[str, ...] = (),
) -> list[str]:
    """Return the command line that serves `folder` on loopback and opens at `notebook`, a path inside it.

    Without `port` Jupyter takes the first free one from 8888 on; `options` are appended as they are.
    """
    line = [
        *(sys.executable, "-m", "jupyterlab"),
        "-y",  # Ctrl-C ends it at once, without a question.
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url=/lab/tree/{quote(notebook)}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if port is not None:
        require_count("port", port, 0, 65535)
        line += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not open_browser:
        line.append("--no-browser")
    if allow_root:
        line.append("--allow-root")
    return [*line, *options]


@contextlib.contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Give the variables that `command` runs with: this environment's kernel and the project's defaults.

    The defaults lie in a temporary folder that Jupyter reads beside the user's own, which stays as it is.
    """
    with tempfile.TemporaryDirectory(prefix="qdelta-lab-") as folder:
        defaults = Path(folder, "labconfig", "default_setting_overrides.json")
        defaults.parent.mkdir()
        defaults.write_text(json.dumps(_DEFAULTS))
        given = os.environ.get("JUPYTER_CONFIG_PATH")
        paths = os.pathsep.join([folder, given] if given else [folder])
        yield os.environ | {"JUPYTER_CONFIG_PATH": paths, "JUPYTER_PREFER_ENV_PATH": "1"}


def launch(notebook: str = "00_explorer.ipynb", open_browser: bool = True, port: int | None = None) -> int:
    """Run JupyterLab at `notebook` until it ends, by itself, by Ctrl-C or with this process; return its exit code.

    Jupyter itself prints the address with its token. SIGTERM and SIGHUP go on to it, and on Linux it ends when this
    process is killed. Raises FileNotFoundError where the notebook is not there, MissingExtraError where JupyterLab is
    not installed, ValueError for a port that is none and OSError for one that is taken.
    """
    if port is not None:
        _check_port(port)
    folder = notebook_folder()
    if not (folder / notebook).is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.ipynb"))) or "no notebook at all"
        raise FileNotFoundError(f"notebook must name a file in {folder}, got {notebook!r}; there is {found}.")
    if importlib.util.find_spec("jupyterlab") is None:
        raise missing("JupyterLab", "lab")
    line = command(folder, notebook, port=port, open_browser=open_browser, allow_root=running_as_root())
    with _told_to_end() as ends, environment() as variables:
        process = subprocess.Popen(line, env=variables, preexec_fn=_end_with(os.getpid()))
        ends(process.terminate)
        code = _wait(process)
    return code if code >= 0 else 128 - code  # as shells write down an end by a signal


def _check_port(port: int) -> None:
    """Raise for a port that Jupyter could not serve at: it would print an address that nobody answers."""
    require_count("port", port, 1, 65535)
    with socket.socket() as tried:
        if os.name == "posix":  # as Jupyter does: a server that has just ended is no hindrance
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"port {port} of 127.0.0.1 cannot be used ({reason}); expected a free one, or none."
            ) from None


@contextlib.contextmanager
def _told_to_end() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Answer SIGTERM and SIGHUP by what is given to the function that is yielded, also where they came before it.

    They do not raise: nothing that is being started or cleaned away is left by halves.
    """
    told, acts = [], []

    def hear(*_: object) -> None:
        told.append(True)
        for act in acts:
            act()

    def ends(act: Callable[[], None]) -> None:
        acts.append(act)
        if told:
            act()

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    before = {name: signal.signal(getattr(signal, name), hear) for name in names if hasattr(signal, name)}
    try:
        yield ends
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _end_with(parent: int) -> Callable[[], None] | None:
    """Return what a new process does first so that it is told to end when its parent is killed; None but on Linux."""
    if sys.platform != "linux":
        return None
    set_option = ctypes.CDLL(None).prctl

    def tie() -> None:
        set_option(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for JupyterLab to end and return its exit code.

    The terminal sends Ctrl-C to it too; a second signal would kill it before it has stopped its kernels, so that one is
    sent only after a while.
    """
    patience = None
    while True:
        try:
            return process.wait(patience)
        except KeyboardInterrupt:
            patience = _PATIENCE
        except subprocess.TimeoutExpired:
            process.terminate()
            patience = None
