"""Every public function takes what QDeltaInputs takes: right numbers, or one sentence."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from qdelta_analysis import recall
from qdelta_analysis.threads import one_thread

from .public_functions import DTYPES, FUNCTIONS, IN_THEIR_DTYPE, KINDS, OF_PRECISION, arrays, make

FACTORIES = ("zeros", "ones", "empty", "full", "eye", "arange", "linspace", "rand", "randn", "tensor")
# On inputs whose numbers are those of the float64 inputs exactly, so that only the computation differs.
WITHIN = {"float16": 1e-4, "bfloat16": 1e-4, "float32": 1e-4, "float64": 1e-12}
OF_TOKENS = {
    *("influence.row", "influence.column", "evolve, rules", "evolve, feedbacks", "chunk_matrices", "chunk_deviation"),
    *("lyapunov_spectrum", "growth_summary", "transient_growth", "observed_growth", "sampled_mean_square_growth"),
    "persistent_excitation",
}
IN_HALF = {"float16": 2e-2, "bfloat16": 1e-1}


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("as_users_call")
def test_every_dtype_gives_the_float64_answer(name, kind):
    for dtype in DTYPES if kind == "plain" else ("bfloat16", "float32"):
        inputs = make(DTYPES[dtype], **KINDS[kind])
        if inputs.T == 0 and name in OF_TOKENS:
            with pytest.raises(ValueError, match="expected"):
                FUNCTIONS[name](inputs)
            continue
        found, expected = arrays(FUNCTIONS[name](inputs)), arrays(FUNCTIONS[name](inputs.to(torch.float64)))
        assert set(found) == set(expected)
        within = IN_HALF.get(dtype, WITHIN[dtype]) if name in IN_THEIR_DTYPE else WITHIN[dtype]
        for variable in set(found) - set(OF_PRECISION.get(name, ())):
            size = np.nanmax(np.abs(expected[variable]), initial=1.0, where=np.isfinite(expected[variable]))
            # Rounding a cosine of 1 in float32 turns an angle of 0 to 0.03 degrees.
            atol = 0.05 if "angle" in variable and dtype != "float64" else within * size
            np.testing.assert_allclose(
                found[variable], expected[variable], rtol=0, atol=atol, err_msg=f"{dtype} {variable}"
            )


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_recall_in_every_dtype(dtype):
    found = recall.measure(pairs=[2, 4], d=8, seeds=2, dtype=dtype)
    expected = recall.measure(pairs=[2, 4], d=8, seeds=2, dtype=torch.float64)
    within = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-5)
    np.testing.assert_allclose(found.error, expected.error, atol=within)


class OnTheirDevice(TorchFunctionMode):
    """As if the inputs were elsewhere: a tensor that is made without saying where would be on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in FACTORIES and "torch" in (function.__module__ or "torch"):
            is_method = bool(args) and isinstance(args[0], torch.Tensor)
            assert is_method or kwargs.get("device") is not None, f"torch.{function.__name__} without a device"
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith(("trace", "influ", "read", "ch"))])
def test_tensors_are_made_where_the_inputs_are(name):
    for inputs in (make(torch.bfloat16), make(torch.float32, B=2, H=2, HV=4)):
        with OnTheirDevice():
            FUNCTIONS[name](inputs)
