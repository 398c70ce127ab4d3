"""What pip installs works: the wheel away from the checkout, with the extras and without them."""

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from qdelta_analysis import generators

from .installed import ROOT, Installed, build

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EXTRAS = ("lab", "models", "training", "cluster", "gpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory, built) -> Installed:
    """The package alone."""
    return Installed.make(tmp_path_factory.mktemp("bare") / "venv", built[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, built) -> Installed:
    """The package with its extras."""
    return Installed.make(tmp_path_factory.mktemp("whole") / "venv", built[1], *EXTRAS)


def python(at: Installed, code: str, cwd: Path, **more: str) -> str:
    run = at.run("python", "-c", code, cwd=cwd, **more)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_wheel_and_the_sdist_hold_every_file_of_the_packages(built):
    with zipfile.ZipFile(built[1]) as wheel:
        shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert {name.partition("/")[0] for name in shipped} == {"qdelta_analysis", "qdelta_kernels"}
        for name in shipped:
            source = ROOT / ("kernels" if name.startswith("qdelta_kernels") else ".") / name
            assert wheel.read(name) == source.read_bytes(), name
    made = lambda path: path.is_file() and "__pycache__" not in path.parts
    for folder in (ROOT, ROOT / "kernels"):
        for package in folder.glob("qdelta_*"):
            ours = {path.relative_to(folder).as_posix() for path in package.rglob("*") if made(path)}
            assert ours <= shipped, ours - shipped
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml"} <= names


@pytest.mark.parametrize("example", EXAMPLES, ids=["From code", "Models"])
def test_the_readme_s_examples_run(example, whole, tmp_path):
    python(whole, example, tmp_path)


def test_without_extras_the_first_example_runs_and_nothing_of_the_checkout_is_seen(bare, tmp_path):
    where = "import qdelta_analysis, qdelta_kernels; print(qdelta_analysis.__file__, qdelta_kernels.__file__)"
    assert all(path.startswith(str(bare.folder)) for path in python(bare, where, tmp_path).split())
    python(bare, EXAMPLES[0], tmp_path)


RECORD = """
from qdelta_analysis import hardware
from qdelta_kernels.triton.launch import table
found = hardware.recorded_throughput()
print(len(table()), found.attrs["device"], found.sizes["shape"])
"""


def test_the_launch_table_and_the_record_of_the_kernels_are_there(bare, tmp_path):
    rows, *device, shapes = python(bare, RECORD, tmp_path).split()
    assert int(rows) > 0
    assert device
    assert int(shapes) > 0


ON_TRITON = """
import torch
from qdelta_kernels import qdelta_rule
torch.manual_seed(0)
q, k, v = torch.nn.functional.normalize(torch.randn(3, 1, 70, 2, 16), dim=-1)
g, beta, lam = -torch.rand(1, 70, 2), torch.rand(1, 70, 2), torch.rand(1, 70, 2)
o, theirs = (qdelta_rule(q, k, v, g, beta, lam, backend=name)[0] for name in ("triton", "torch"))
print(float((o - theirs).norm() / theirs.norm()))
"""


def test_the_triton_kernels_run_from_the_wheel(whole, tmp_path):
    pytest.importorskip("triton")
    assert float(python(whole, ON_TRITON, tmp_path, TRITON_INTERPRET="1")) < 1e-3


# What cannot be done without an extra: in Python, and which extra it is.
LACKING = [
    ("from qdelta_analysis import plots; plots.template()", "plotly", "lab"),
    ("import qdelta_analysis.plots.theme", "plotly", "lab"),
    ("from qdelta_analysis.export import export", "plotly", "lab"),
    ("import qdelta_analysis.rendering", "plotly", "lab"),
    ("import qdelta_analysis.provenance", "plotly", "lab"),
    ("import qdelta_analysis.gallery", "plotly", "lab"),
    ("from qdelta_analysis.widgets import Explorer", "anywidget", "lab"),
    ("import qdelta_analysis.widgets.scrubber", "anywidget", "lab"),
    ("from qdelta_analysis.learning import QDeltaForCausalLM", "tokenizers", "models"),
    ("from qdelta_analysis.learning import byte_tokenizer", "tokenizers", "models"),
    ("import qdelta_analysis.learning.hugging_face", "tokenizers", "models"),
    ("from pathlib import Path; from qdelta_analysis.learning.logs import Logs; Logs(Path(), 0, tensorboard=True)",
     "tensorboard", "training"),
    ("from qdelta_analysis.sweep.terminal import workers; workers('tcp://127.0.0.1:1').__enter__()",
     "distributed", "cluster"),
]  # fmt: skip


EVERY = """
import importlib, sys
from qdelta_analysis.extras import MissingExtraError
for name in {modules}:
    try:
        importlib.import_module(name)
    except MissingExtraError as error:
        print(error.name)
"""


def test_every_module_can_be_imported_or_names_its_extra(built, bare, tmp_path):
    with zipfile.ZipFile(built[1]) as wheel:
        names = [
            name.removesuffix(".py").removesuffix("/__init__") for name in wheel.namelist() if name.endswith(".py")
        ]
    # Triton's own modules are imported by a call that has asked for Triton before.
    modules = [name.replace("/", ".") for name in names if not name.startswith("qdelta_kernels/triton/")]
    said = python(bare, EVERY.format(modules=modules), tmp_path).split()
    assert set(said) == {"plotly", "anywidget", "tokenizers"}


def test_what_an_extra_brings_is_one_sentence_without_it(bare, tmp_path):
    code = "from qdelta_analysis.extras import MissingExtraError\n"
    for statement, _, _ in LACKING:
        code += (
            f"try:\n    {statement}\nexcept MissingExtraError as error:\n    print(error)\nelse:\n    print('ran')\n"
        )
    said = python(bare, code, tmp_path).splitlines()
    for (statement, name, extra), sentence in zip(LACKING, said, strict=True):
        expected = f"{name} is not installed; expected qdelta with its extra '{extra}' (in a checkout: "
        assert sentence.startswith(expected), statement
    triton = ON_TRITON.replace("print(", "pass  # ")
    run = bare.run("python", "-c", triton, cwd=tmp_path, TRITON_INTERPRET="1")
    if "import triton" not in run.stderr and run.returncode:  # torch may bring Triton itself
        assert "Triton is not installed; expected" in run.stderr
        assert "extra 'gpu'" in run.stderr


# What is typed after `qdelta`: its exit status, and what it says, without any extra and with all.
COMMANDS = {
    "--version": (0, "qdelta 0.1.0"),
    "trace mine.safetensors -o mine.nc": (0, "wrote mine.nc"),
    "check mine.safetensors --json": (1, '"G1"'),
    "sweep error --lam 0,1 --beta 1 -N 8 -d 4 -o error.zarr --jobs 1": (0, "2 points"),
}
WITH = {
    "--help": (0, "Usage: qdelta"),
    "trace trained": (0, "1 x 1024 tokens, 4 heads"),
    f"figures --check --folder {ROOT / 'figures'} 03_two_token_cycle": (0, "03_two_token_cycle: matches"),
    "figures": (2, "the figures come with a checkout of the repository"),
    "lab --no-browser": (2, "The notebooks come with a checkout of the repository"),
    "experiment poems": (2, "experiment is 'poems'; expected one of"),
}
# What the commands say where an extra is missing.
WITHOUT = {
    "sweep error --lam 0,1 --scheduler tcp://127.0.0.1:1 -o no.zarr": ("distributed", "cluster"),
    "figures": ("plotly", "lab"),
    "experiment states --runs runs --seeds 1": ("tensorboard", "training"),
}


def answers(at: Installed, line: str, folder: Path, status: int, words: str) -> str:
    """Run a command, and see how it ends; returns the last line of what it says on stderr."""
    run = at.run("qdelta", *line.split(), cwd=folder)
    assert run.returncode == status, (line, run.stderr)
    assert words in (run.stderr if status == 2 else run.stdout), line
    assert "Traceback" not in run.stderr, line
    return run.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("at", ["whole", "bare"])
def test_every_command_runs_or_says_what_is_missing(at, request, tmp_path):
    generators.isotropic(T=12, K=4, V=3).save(tmp_path / "mine.safetensors")
    environment = request.getfixturevalue(at)
    for line, expected in (COMMANDS | (WITH if at == "whole" else {})).items():
        answers(environment, line, tmp_path, *expected)
    for line, (name, extra) in WITHOUT.items() if at == "bare" else ():
        said = answers(environment, line, tmp_path, 2, name)
        assert said.startswith(f"qdelta: {name} is not installed; expected qdelta with its extra '{extra}'")
        assert not (tmp_path / "no.zarr").exists()
