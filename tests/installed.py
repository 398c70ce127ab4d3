"""What pip would install, without a network: the project's own wheel, beside links to what it needs of what is here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# What this process was told, and an environment of its own is not.
_TOLD = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TRITON_INTERPRET")


def build(folder: Path) -> tuple[Path, Path]:
    """Return the sdist of a copy of this checkout, and the wheel that is built from the unpacked sdist."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            copy = folder / "checkout" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy, follow_symlinks=False)
    sdist = _built("sdist", folder / "checkout", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return sdist, _built("wheel", source, folder)


def _built(what: str, source: Path, folder: Path) -> Path:
    """Build through the backend that pyproject.toml names, as pip does, with the one that is installed here."""
    code = f"import sys; from setuptools import build_meta; print(':' + build_meta.build_{what}(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return folder / run.stdout.rpartition(":")[2].strip()


def needed(wheel: Path, *extras: str) -> Iterator[Distribution]:
    """Yield what the wheel needs with some extras, and what that needs in turn, as far as it is installed here."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        head = archive.read(metadata).decode().splitlines()
    lines = [line.removeprefix("Requires-Dist: ") for line in head if line.startswith("Requires-Dist: ")]
    ahead, seen = [(lines, extras)], set()
    while ahead:
        lines, chosen = ahead.pop()
        for wanted in map(Requirement, lines):
            asked = (wanted.name, tuple(sorted(wanted.extras)))
            if asked in seen or not _holds(wanted, chosen):
                continue
            seen.add(asked)
            try:
                found = distribution(wanted.name)
            except PackageNotFoundError:
                continue  # whatever misses it will say so
            yield found
            ahead.append((found.requires or [], asked[1]))


def _holds(wanted: Requirement, extras: tuple[str, ...]) -> bool:
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel and what it needs, away from the checkout."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, wheel: Path, *extras: str) -> Installed:
        """Install the wheel with some extras into a new environment."""
        venv.create(folder, with_pip=False)
        made = cls(folder)
        links = folder / "needed"
        links.mkdir()
        for found in needed(wheel, *extras):
            tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
            for top in tops:
                if not (links / top).exists():
                    (links / top).symlink_to(Path(str(found.locate_file(top))))
        (made._path("purelib") / "needed.pth").write_text(f"{links}\n")
        pip = [sys.executable, "-m", "pip", "--python", made.program("python"), "install", "--quiet"]
        options = ["--no-deps", "--no-index", "--no-warn-script-location", "--disable-pip-version-check", wheel]
        subprocess.run([*pip, *options], check=True, timeout=300)
        return made

    def program(self, name: str) -> Path:
        """Return the path of a program of this environment."""
        return self._path("scripts") / name

    def _path(self, kind: str) -> Path:
        return Path(sysconfig.get_path(kind, "venv", {"base": str(self.folder), "platbase": str(self.folder)}))

    def run(self, program: str, *arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment. more: variables to set."""
        told = {name: value for name, value in os.environ.items() if name not in _TOLD}
        line = [self.program(program), *map(str, arguments)]
        return subprocess.run(line, cwd=cwd, env=told | more, capture_output=True, text=True, timeout=600)
