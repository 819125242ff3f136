"""The compiled kernels work on vectors: what a change of a cast or of an index undoes changes no bit, only the time.

Compiled anew, for what comes from Numba's cache has no assembly to look at.
"""

import re

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from numba import float32, int64, uint32, uint64

from analogsim.backends import kernels

HOST = llvm.get_host_cpu_features()
pytestmark = pytest.mark.skipif(not HOST.get("avx2"), reason="needs a processor with AVX2")
ROW, ROWS = float32[:, ::1], float32[:, :, ::1]
NORMAL = (float32[::1], uint32, uint64, uint32, uint32, uint32)
OUTPUT = (int64, ROWS, float32[::1], ROW, ROWS, ROW, float32)
ROUNDS_OTHERWISE = r"vfn?m(add|sub)\w*|v?rsqrt\w*|v?rcp\w*"  # fused, or approximate
GATHERED = r"v?p?gather\w*"
SCALAR = r"(?!v?broadcast)\w+s[sd]|imul\w*|mulx?q|call\w*"


def assembly(kernel, signature, **options):
    """Of the kernel with its own options and these."""
    chosen = {name: value for name, value in kernel.targetoptions.items() if name != "nopython"}
    anew = numba.njit(**chosen | options)(kernel.py_func)
    anew.compile(signature)
    return anew.inspect_asm(anew.signatures[0])


def with_roots(text):
    """Stretches without a label or a jump into them that take square roots, as lists of instructions."""
    stretches = re.split(r"^\S+:.*$", text, flags=re.MULTILINE)
    lines = [[line.strip() for line in one.splitlines()] for one in stretches]
    lines = [[line for line in one if line and line[0] not in ".#"] for one in lines]
    return [one for one in lines if any("sqrt" in line for line in one)]


def all_of(pattern, lines):
    names = [line.split()[0] for line in lines]
    return [name for name in names if re.fullmatch(pattern, name)]


def check_normals(text):
    (loop,) = with_roots(text)
    assert all_of(f"{ROUNDS_OTHERWISE}|{GATHERED}|{SCALAR}", loop) == []
    assert all_of("vsqrtps", loop)
    assert all_of("vpmuludq|vpmullq", loop)
    beside = [line for line in loop if not re.search(r"%[yz]mm", line)]
    assert len(beside) < len(loop) / 20, beside  # the loop's own counting


def test_normals_are_made_in_vectors():
    check_normals(assembly(kernels._normal_row, NORMAL))


def check_output(text):
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    assert all_of(f"{ROUNDS_OTHERWISE}|{GATHERED}", lines) == []
    assert any(all_of("vsqrtps", loop) and re.search(r"%[yz]mm", "".join(loop)) for loop in with_roots(text))


def test_the_output_stage_works_on_vectors():
    check_output(assembly(kernels._output_row, OUTPUT))


@numba.njit(nogil=True, error_model="numpy")
def signed_index(row, y, z, sigma, variance, lsb, levels):
    """The output stage with z[at + j], whose index may be negative as far as Numba knows."""
    for position in range(y.shape[1]):
        out, v, at = y[row, position], variance[row, position], position * len(y[row, position])
        for j in range(len(out)):
            out[j] += np.sqrt(v[j]) * z[at + j]


VECTOR_BUGS = {
    "multiply and add fused": (check_normals, kernels._normal_row, NORMAL, {"fastmath": {"contract"}}),
    "approximate roots": (check_normals, kernels._normal_row, NORMAL, {"fastmath": True}),
    "a branch in the loop": (check_normals, kernels._normal_row, NORMAL, {"boundscheck": True}),
    "noise gathered by a signed index": (check_output, signed_index, OUTPUT, {}),
}


@pytest.mark.parametrize("bug", VECTOR_BUGS)
def test_the_check_of_the_assembly_catches(bug):
    check, kernel, signature, options = VECTOR_BUGS[bug]
    if kernel is signed_index and not HOST.get("avx512f"):
        pytest.skip("without AVX-512 it is not gathered")
    text = assembly(kernel, signature, **options)
    with pytest.raises((AssertionError, ValueError)):
        check(text)
