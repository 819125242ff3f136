import numba
import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tiny networks gain nothing from threads and lose much on a busy machine."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
