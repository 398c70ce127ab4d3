"""What holds the project together: one owner of versions, small clean notebooks that run, no stray files."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_conda_owns_no_version():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"] == ["python", "pip", {"pip": ["-e .[all]"]}]
    assert environment["name"] == PROJECT["project"]["name"]


def test_every_dependency_is_pinned_and_the_pins_fit():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    assert str(pins["torch"].specifier) == "==2.13.0"
    assert str(pins["triton"].specifier) == "==3.7.1"
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *(r for extra in extras.values() for r in extra)]:
        wanted = Requirement(text)
        if wanted.name == "qdelta":
            continue
        (pin,) = pins[canonicalize_name(wanted.name)].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_small_and_runs_headless(notebook: Path, tmp_path):
    assert notebook.stat().st_size < 100_000
    cells = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=120", "-q", "-p", "no:cacheprovider", notebook],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env=os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"},
    )
    assert run.returncode == 0, run.stdout


def test_nothing_committed_is_large_or_names_this_machine():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]
    data = [path for path in files if path.suffix in {".safetensors", ".xz", ".gz", ".png", ".pdf", ".nc", ".csv"}]
    assert sum(path.stat().st_size for path in data) < 8_000_000
    here = re.compile(re.escape(f"{ROOT.parent}/").encode())
    assert [path for path in files if here.search(path.read_bytes())] == []


README = (ROOT / "README.md").read_text()


def test_the_readme_s_links_lead_somewhere():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path.split("#")[0]).exists(), path
