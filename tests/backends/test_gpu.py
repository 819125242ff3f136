"""What a GPU would run: noise bit for bit as on the CPU, products to rounding, no instruction that rounds otherwise.

The first two need a GPU. The last compiles the Triton kernels for one, which needs none.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import analogsim
from analogsim.backends import get_backend, has_triton, interpreted
from analogsim.streams import Address, HeldStep, Stream

STREAM = Stream.from_seed(5).child("a chip's")
PASS = Address(2**31 + 3, 2**32 - 1, 2**32 - 7)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
triton = pytest.mark.skipif(not has_triton(), reason="Triton 3.6 or later is not installed")
each = pytest.mark.parametrize("name", ["torch", pytest.param("triton", marks=triton)])


def same_bits(found, expected):
    return torch.equal(found.cpu().view(torch.int32), torch.as_tensor(expected).view(torch.int32))


@cuda
@each
@pytest.mark.parametrize("outputs", [1, 64, 1000, 5000])
def test_noise_on_a_gpu_is_the_cpus_bit_for_bit(name, outputs):
    backend, device = get_backend(name, "cuda"), torch.device("cuda")
    rows = 1_000_000 // outputs
    assert same_bits(backend.normal(STREAM, PASS, rows, outputs, device), STREAM.normal(PASS, rows, outputs))
    assert same_bits(backend.uniform(STREAM, PASS, rows, outputs, device), STREAM.uniform(PASS, rows, outputs))


@cuda
@each
def test_a_step_held_on_a_gpu_is_read_there(name):
    backend, device = get_backend(name, "cuda"), torch.device("cuda")
    held = torch.zeros(1, dtype=torch.int64, device=device)
    address = Address(HeldStep(0, held), PASS.pass_index, PASS.first_sample)
    held.fill_(PASS.step)
    assert same_bits(backend.normal(STREAM, address, 300, 1000, device), STREAM.normal(PASS, 300, 1000))
    assert same_bits(backend.uniform(STREAM, address, 300, 1000, device), STREAM.uniform(PASS, 300, 1000))


@cuda
@each
@pytest.mark.parametrize("noise", [(True, False), (True, True), (False, True), (False, False)])
def test_the_output_stage_on_a_gpu_is_the_cpus_bit_for_bit(name, noise):
    generator = torch.Generator().manual_seed(0)
    y, variance = torch.randn(2, 300, 7, 250, generator=generator).abs()
    sigma, lsb = torch.rand(2, 300, 7, generator=generator) + 0.1
    given = (sigma if noise[0] else None, variance if noise[1] else None, lsb)
    expected = get_backend("torch").output_stage(y.clone(), STREAM, PASS, *given, 7)
    there = [None if tensor is None else tensor.cuda() for tensor in given]
    assert same_bits(get_backend(name, "cuda").output_stage(y.cuda(), STREAM, PASS, *there, 7), expected)


# --- products ---------------------------------------------------------------------------------------

there = pytest.mark.parametrize(
    ("name", "device"),
    [
        ("torch", "cpu"),
        pytest.param("torch", "cuda", marks=cuda),
        pytest.param("triton", "cuda", marks=[cuda, triton]),
    ],
)
SHAPES = [(64, 10, 784), (5, 9, 32, 27), (300, 1024, 1024), (0, 3, 4)]  # of x but its last axis, outputs, inputs
WINDOWS = [(1, 1, 0), (3, 1, 1), (3, 2, 0)]  # kernel, stride, padding


def normals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def check_product(product, device, shape):
    *rows, out, width = shape
    x, matrix = normals(*rows, width), normals(out, width)
    check_sums(product(x.to(device), matrix.to(device)), x.double() @ matrix.double().T, width)


def check_convolution(convolve, device, window):
    x, matrix = normals(20, 9, 8, 5), normals(7, 5 * window[0] ** 2)
    exact = get_backend("numpy").convolve(x, matrix, *window)
    check_sums(convolve(x.to(device), matrix.to(device), *window), exact, matrix.shape[1])


def check_sums(found, exact, terms):
    """Of products of normals: float32 is off by 1e-6 of their deviation √terms or so, TF32 by 1e-3."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu().double(), exact.double(), rtol=0, atol=3e-5 * terms**0.5)


@there
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_the_exact_one_to_float32(name, device, shape):
    check_product(get_backend(name, device).product, device, shape)


@there
@pytest.mark.parametrize("window", WINDOWS)
def test_a_convolution_is_the_exact_one_to_float32(name, device, window):
    check_convolution(get_backend(name, device).convolve, device, window)


def test_products_in_tf32_would_show():
    def short(tensor):
        """Ten bits of the fraction are left."""
        return (tensor.view(torch.int32) + 2**12 & -(2**13)).view(torch.float32)

    backend = get_backend("torch")
    with pytest.raises(AssertionError):
        check_product(lambda x, matrix: backend.product(short(x), short(matrix)), "cpu", SHAPES[0])
    with pytest.raises(AssertionError):
        check_convolution(lambda x, matrix, *rest: backend.convolve(short(x), short(matrix), *rest), "cpu", WINDOWS[1])


# --- in the interpreter -----------------------------------------------------------------------------


@triton
@pytest.mark.skipif(not interpreted(), reason="Triton compiles here, and the tests above run what it makes")
@pytest.mark.parametrize("lanes", [16, 64, 1024])
def test_how_a_row_is_shared_out_changes_no_bit(monkeypatch, lanes):
    backend, address = get_backend("triton"), Address(PASS.step, PASS.pass_index, 2**32 - 2)  # the third row's is 0
    monkeypatch.setattr(sys.modules["analogsim.backends.triton"], "SIZE", lanes)
    z = backend.normal(STREAM, address, 3, 700, torch.device("cpu"))
    assert same_bits(z, STREAM.normal(address, 3, 700))
    y, sigma = torch.ones(3, 7, 100), torch.full((3, 7), 0.5)
    given = (STREAM, address, sigma, None, None, 0)
    assert same_bits(backend.output_stage(y.clone(), *given), 1 + 0.5 * z.view(3, 7, 100))


# --- compiled for a GPU that need not be there -----------------------------------------------------

COMPILE = """
import json, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from analogsim.backends import triton as file

POINTERS = {name: "*fp32" for name in ("out", "y", "sigma", "variance", "lsb")}
NUMBERS = {"levels": "fp32", "seed": "i64"}


def instructions(kernel, constants, options):
    names, step = kernel.arg_names, {"step": "*i64"} if constants["HELD"] else {}
    types = {n: "constexpr" if n in constants else (POINTERS | NUMBERS | step).get(n, "i32") for n in names}
    source = ASTSource(kernel, types, {(names.index(n),): value for n, value in constants.items()})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    return sorted(set(re.findall(r"\\b[a-z]+(?:\\.[a-zA-Z0-9]+)*\\.f32\\b", ptx)))


size = {"SIZE": file.SIZE, "HELD": False}
full = {"HAS_SIGMA": True, "HAS_VARIANCE": True, "HAS_LSB": True, **size}
kernels = {"normal": (file._normal, size), "uniform": (file._uniform, size), "stage": (file._output_stage, full)}
found = {name: instructions(*kernel, file.EXACT) for name, kernel in kernels.items()}
found |= {f"{name}, held": instructions(k, {**c, "HELD": True}, file.EXACT) for name, (k, c) in kernels.items()}
found["fused"] = instructions(*kernels["stage"], {**file.EXACT, "enable_fp_fusion": True})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled():
    """The float32 instructions of every kernel, compiled for an H100 (sm_90) in a process that does not interpret."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(Path(analogsim.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = kept | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def inexact(instructions):
    """Those that may round otherwise than IEEE: fused, approximate, flushing, or left to the assembler to fuse."""
    exact = ("add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32", "sqrt.rn.f32", "min.NaN.f32", "abs.f32", "mov.f32")
    conversions = ("cvt.rn.f32",)
    plain = ("selp.f32", "setp")
    return [one for one in instructions if not one.startswith((*exact, *conversions, *plain))]


@triton
@pytest.mark.parametrize("kernel", ["normal", "uniform", "stage", "normal, held", "uniform, held", "stage, held"])
def test_no_instruction_of_a_kernel_rounds_otherwise(compiled, kernel):
    assert "mul.rn.f32" in compiled[kernel]
    assert inexact(compiled[kernel]) == []


@triton
def test_the_instruction_test_catches_fused_operations(compiled):
    assert "fma.rn.f32" in inexact(compiled["fused"])
