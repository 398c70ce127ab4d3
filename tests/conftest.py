"""What every test shares: typed public functions, poisoned scratch memory, two threads, seeded inputs."""

import jaxtyping
import pytest
import torch

import tests.typechecker  # noqa: F401 (the import hook finds it by name)

jaxtyping.install_import_hook(["qdelta_kernels", "qdelta_analysis"], "tests.typechecker.check")

torch.set_num_threads(2)
# In deterministic mode torch fills every uninitialised tensor with NaN: reading scratch memory shows.
torch.use_deterministic_algorithms(True)


@pytest.fixture
def as_users_call():
    """Switch the shape checker off: bad input then meets the project's own errors, as it does for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
