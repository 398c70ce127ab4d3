"""What every test shares: typed public functions, poisoned scratch memory, two threads, seeded inputs."""

import os
import signal
from pathlib import Path

import jaxtyping
import pytest
import torch

# Read when Triton is first imported: without a GPU its kernels run in its interpreter, on the CPU.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import tests.typechecker  # noqa: F401 (the import hook finds it by name)

# Not the Triton kernels: Triton compiles the source of its functions itself.
KERNELS = Path(__file__).parents[1] / "kernels/qdelta_kernels"
CHECKED = ["qdelta_analysis", *(f"qdelta_kernels.{module.stem}" for module in KERNELS.glob("*.py"))]
jaxtyping.install_import_hook(CHECKED, "tests.typechecker.check")

torch.set_num_threads(2)
# A shell's background jobs ignore Ctrl-C, and what they start does too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# In deterministic mode torch fills every uninitialised tensor with NaN: reading scratch memory shows.
torch.use_deterministic_algorithms(True)


@pytest.fixture
def as_users_call():
    """Switch the shape checker off: bad input then meets the project's own errors, as it does for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
