"""Which backend is taken, and what is said where it cannot be."""

import pytest

from analogsim.backends import get_backend, has_triton
from analogsim.errors import ArgumentError


def test_auto_is_numba_on_the_cpu_and_triton_elsewhere_where_it_is():
    assert get_backend("auto", "cpu").name == "numba"
    assert get_backend("auto", "cuda:1").name == ("triton" if has_triton() else "torch")


@pytest.mark.parametrize(("version", "chosen"), [("3.5.1", "torch"), ("3.6.0", "triton"), ("3.10.0+git1", "triton")])
def test_a_triton_that_rounds_otherwise_is_not_taken(version, chosen, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", version)
    assert get_backend("auto", "cuda").name == chosen
    if chosen == "torch":
        with pytest.raises(ArgumentError, match=r"the package of that name, 3\.6 or later$"):
            get_backend("triton", "cuda")


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ArgumentError, match=r"^backend: 'triton' is not allowed; allowed: auto, .* needs a GPU and"):
        get_backend("triton", "cpu")


@pytest.mark.parametrize(("name", "device"), [("jax", "cpu"), ("", "cpu"), ("numba", "cuda"), ("numpy", "cuda:0")])
def test_unknown_and_unfit_backends_are_refused(name, device):
    with pytest.raises(ArgumentError, match=f"^backend: {name!r} is not allowed; allowed: .*torch"):
        get_backend(name, device)
