import json
import os
import sys
from pathlib import Path

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
