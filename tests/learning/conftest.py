"""What these tests share: one thread, for tensors this small gain nothing from a second."""

import pytest

from qdelta_analysis.threads import one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield
