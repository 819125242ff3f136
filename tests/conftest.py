"""One thread for every test that does not ask for more."""

import numba
import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The products here are small: on a busy machine, threads that wait for each other cost many times the work."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
