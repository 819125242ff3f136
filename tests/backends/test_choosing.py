"""Which backend is taken, and what is said where it cannot be."""

from importlib.util import find_spec

import pytest

from analogsim.backends import get_backend
from analogsim.errors import ArgumentError


def test_auto_is_numba_on_the_cpu_and_triton_elsewhere_where_it_is():
    assert get_backend("auto", "cpu").name == "numba"
    assert get_backend("auto", "cuda:1").name == ("triton" if find_spec("triton") else "torch")


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ArgumentError, match=r"^backend: 'triton' is not allowed; allowed: auto, .* needs a GPU and"):
        get_backend("triton", "cpu")


@pytest.mark.parametrize(("name", "device"), [("jax", "cpu"), ("", "cpu"), ("numba", "cuda"), ("numpy", "cuda:0")])
def test_unknown_and_unfit_backends_are_refused(name, device):
    with pytest.raises(ArgumentError, match=f"^backend: {name!r} is not allowed; allowed: .*torch"):
        get_backend(name, device)
