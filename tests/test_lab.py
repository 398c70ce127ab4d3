import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdelta_analysis import lab


def test_the_command_serves_the_folder_on_loopback_with_a_token(tmp_path: Path):
    line = lab.command(tmp_path, "a b.ipynb")
    assert line[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in line
    assert f"--ServerApp.root_dir={tmp_path}" in line
    assert "--LabApp.default_url=/lab/tree/a%20b.ipynb" in line
    assert not any("token" in option or "password" in option for option in line), "Jupyter makes its own token"
    assert not {"--no-browser", "--allow-root"} & set(line)


def test_the_command_takes_what_it_is_given(tmp_path: Path):
    line = lab.command(tmp_path, "a.ipynb", port=8123, open_browser=False, allow_root=True, options=("--debug",))
    assert {"--no-browser", "--allow-root", "--ServerApp.port=8123", "--ServerApp.port_retries=0"} <= set(line)
    assert line[-1] == "--debug"


def test_the_environment_adds_defaults_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    with lab.environment() as variables:
        first, *rest = variables["JUPYTER_CONFIG_PATH"].split(os.pathsep)
        settings = json.loads(Path(first, "labconfig", "default_setting_overrides.json").read_text())
    assert settings["@jupyterlab/notebook-extension:tracker"] == {"windowingMode": "defer"}
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    assert rest == [str(tmp_path)]
    assert not Path(first).exists()
    assert os.environ["JUPYTER_CONFIG_PATH"] == str(tmp_path)


def test_a_missing_notebook_is_one_sentence_that_names_those_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "00_explorer.ipynb").touch()
    monkeypatch.setattr(lab, "notebook_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got 'none\.ipynb'; there is 00_explorer\.ipynb\.$"):
        lab.launch("none.ipynb")


def test_a_package_without_a_checkout_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "qdelta_analysis" / "lab.py"))
    with pytest.raises(FileNotFoundError, match="does not exist: clone the repository and run `make lab` in it"):
        lab.launch()


@pytest.mark.parametrize("code", [0, 3])
def test_launch_passes_the_exit_code_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int):
    (tmp_path / "00_explorer.ipynb").touch()
    monkeypatch.setattr(lab, "notebook_folder", lambda: tmp_path)
    monkeypatch.setattr(lab, "command", lambda *_, **__: [sys.executable, "-c", f"raise SystemExit({code})"])
    assert lab.launch() == code


# A child that sends Ctrl-C to its parent and says how it ended itself.
CHILD = """
import os, signal, sys, time
time.sleep(0.5)  # The parent must be past starting this process.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.kill(os.getppid(), signal.SIGINT)
time.sleep({})
"""


@pytest.mark.parametrize(
    ("patience", "seconds", "code"),
    [pytest.param(30, 0.5, 0, id="ends by itself"), pytest.param(0.5, 30, 7, id="has to be told")],
)
def test_ctrl_c_waits_for_the_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patience: float, seconds: float, code: int
):
    (tmp_path / "00_explorer.ipynb").touch()
    monkeypatch.setattr(lab, "notebook_folder", lambda: tmp_path)
    monkeypatch.setattr(lab, "command", lambda *_, **__: [sys.executable, "-c", CHILD.format(seconds)])
    monkeypatch.setattr(lab, "_PATIENCE", patience)
    assert lab.launch() == code


# `qdelta lab` with another program in JupyterLab's place, which says that it runs, and ends when it is told to.
STAND_IN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""
PARENT = f"""
import pathlib, sys
from qdelta_analysis import lab
lab.notebook_folder = pathlib.Path.cwd
lab.command = lambda *_, **__: [sys.executable, "-c", {STAND_IN!r}]
sys.exit(lab.launch("a.ipynb"))
"""


def eventually(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is so; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended: one that nobody waited for is still listed."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def started(line: list[str], folder: Path) -> subprocess.Popen:
    (folder / "tmp").mkdir()
    return subprocess.Popen(line, cwd=folder, env=os.environ | {"TMPDIR": str(folder / "tmp")})


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@on_linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("early", [False, True], ids=["running", "starting"])
def test_told_to_end_it_ends_jupyterlab_and_removes_its_folder(number, early, tmp_path: Path):
    (tmp_path / "a.ipynb").touch()
    process = started([sys.executable, "-c", PARENT], tmp_path)
    eventually(lambda: list((tmp_path / "tmp").iterdir()))
    if not early:
        eventually((tmp_path / "pid").exists)
    process.send_signal(number)
    assert process.wait(60) in (0, 128 + signal.SIGTERM)
    if (tmp_path / "pid").exists():
        assert not runs(int((tmp_path / "pid").read_text()))
    assert list((tmp_path / "tmp").iterdir()) == []


@on_linux
def test_killed_it_leaves_no_jupyterlab_behind(tmp_path: Path):
    (tmp_path / "a.ipynb").touch()
    process = started([sys.executable, "-c", PARENT], tmp_path)
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    process.kill()
    process.wait(60)
    eventually(lambda: not runs(pid))


@on_linux
def test_sigterm_ends_the_real_jupyterlab(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    homes = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in homes.items():
            patch.setenv(name, folder)
        process = started(
            [str(Path(sys.executable).parent / "qdelta"), "lab", "--no-browser", "--port", str(port)], tmp_path
        )
    running = lambda: [
        path for path in (tmp_path / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json") if path.stat().st_size
    ]
    (server,) = eventually(running, 120)
    pid = json.loads(server.read_text())["pid"]
    assert runs(pid)
    process.terminate()
    assert process.wait(60) == 0
    assert not runs(pid)
    assert list((tmp_path / "tmp").glob("qdelta-lab-*")) == []


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999, 1.5])
def test_a_port_that_is_none_is_refused(port, as_users_call):
    with pytest.raises(ValueError, match=f"port is {port}; expected a whole number from 1 to 65535"):
        lab.launch(port=port)


def test_a_port_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(lab, "command", lambda *_, **__: pytest.fail("it was started"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} of 127\.0\.0\.1 cannot be used \(.*\); expected a free one"):
            lab.launch(port=port)


def test_the_command_refuses_a_port_in_one_sentence():
    qdelta = Path(sys.executable).parent / "qdelta"
    run = subprocess.run([qdelta, "lab", "--no-browser", "--port", "99999"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr == "qdelta: port is 99999; expected a whole number from 1 to 65535.\n"
