"""Compiled blocks compute what the model computes, in one graph for all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from qdelta_analysis.learning import ShortConvolution
from qdelta_kernels.gpu import HAS_TRITON
from tests.helpers import relative_error

from .sizes import VARIANTS, noise


def compiled(*arguments: str | Path) -> dict:
    command = [sys.executable, "-m", "tests.learning.compiled", *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def close(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=1e-5)


def test_every_variant_is_one_graph_and_computes_the_same():
    found = compiled("variants")
    assert set(found) == set(VARIANTS)
    for name, one in found.items():
        assert one["graphs"] == 1, name
        assert one["same names"], name
        assert max(one["errors"].values()) < 1e-11, name


@pytest.mark.cases
def test_every_way_to_call_a_model_gives_the_same_compiled():
    for name, errors in compiled("options").items():
        assert max(errors) < 1e-11, (name, errors)


def test_a_convolution_term_by_term_is_the_convolution():
    convolution = ShortConvolution(6, 4)
    with torch.no_grad():
        convolution.weight.copy_(noise(6, 1, 4))
    x = noise(2, 9, 6, seed=1)
    assert relative_error(convolution.summed(F.pad(x, (0, 0, 3, 0))), convolution(x)) < 1e-6


def test_a_compiled_model_can_be_captured_and_patched_and_says_what_is_not_finite():
    found = compiled("watched")
    assert max(found["captured"]) < 1e-5
    assert found["patched"] < 1e-5 < 1e-3 < found["patched, changes"]
    assert found["afterwards"] == 0
    assert found["not finite"] == "the output of blocks.1.mixer.v_proj"


def test_every_run_is_compiled_however_many_kinds_there_are(tmp_path):
    graphs = compiled("kinds", tmp_path)
    assert graphs == [1, 2, 3, 4]


def test_an_experiment_gives_the_same_compiled(tmp_path):
    found = compiled("experiment", tmp_path)
    assert (found["False"]["graphs"], found["True"]["graphs"] > 0) == (0, True)
    for plain, other in zip(found["False"]["results"], found["True"]["results"], strict=True):
        assert (plain["made"]["compiled"], other["made"]["compiled"]) == (False, True)
        assert other["variant"] == plain["variant"]
        close(other["result"]["last_losses"], plain["result"]["last_losses"])
        for theirs, ours in zip(plain["result"]["scores"], other["result"]["scores"], strict=True):
            assert (ours["condition"], ours["metric"]) == (theirs["condition"], theirs["metric"])
            close(ours["value"], theirs["value"])
    plain, other = (sorted((tmp_path / folder).glob("**/watched.csv")) for folder in ("False", "True"))
    assert len(plain) == 2
    for theirs, ours in zip(map(pd.read_csv, plain), map(pd.read_csv, other), strict=True):
        assert len(ours) > 0
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not (torch.cuda.is_available() and HAS_TRITON), reason="no CUDA device")
def test_on_a_gpu_compiled_blocks_are_as_exact_as_the_others():
    for name, one in compiled("gpu").items():
        plain = one["errors, not compiled"]
        for tensor, error in one["errors"].items():
            assert error < 1.5 * plain[tensor] + 1e-3, (name, tensor, error, plain[tensor])
