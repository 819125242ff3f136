"""The Numba kernels in another process: the same bits, loaded from the cache, with helpers of its own."""

import hashlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import analogsim
from analogsim.backends import get_backend
from analogsim.streams import Address, Stream


def bits_of_the_kernels(backend):
    z = backend.normal(Stream.from_seed(22), Address(1, 2, 3), 100, 200, torch.device("cpu")).view(100, 2, 100)
    sigma, lsb = torch.full((100, 2), 0.5), torch.full((100, 2), 0.01)
    y = backend.output_stage(z, Stream.from_seed(22), Address(4), sigma, None, lsb, 127)
    return hashlib.sha256(y.numpy().tobytes()).hexdigest()


OTHER_PROCESS = f"""
import hashlib, json, warnings, numba, torch
warnings.simplefilter("error")  # such as Numba's, that it cannot cache a kernel
from analogsim.backends import get_backend, numba as file
from analogsim.streams import Address, Stream
{inspect.getsource(bits_of_the_kernels)}
bits = bits_of_the_kernels(get_backend("numba"))
stats = [kernel.stats for kernel in (file.normal_rows, file.output_rows)]
hits, misses = [[sum(getattr(s, name).values()) for s in stats] for name in ("cache_hits", "cache_misses")]
try:
    layer = numba.threading_layer()
except ValueError:
    layer = None
print(json.dumps(dict(bits=bits, layer=layer, cached=hits, compiled=misses)))
"""


FORKED = f"""
import hashlib, os, signal, threading, torch
from analogsim.backends import get_backend, numba as file
from analogsim.streams import Address, Stream
{inspect.getsource(bits_of_the_kernels)}
torch.set_num_threads(2)
file.LEAST = 1
bits = bits_of_the_kernels(get_backend("numba"))
assert any(thread.name.startswith("analogsim") for thread in threading.enumerate()), "nobody helped"
child = os.fork()
if not child:
    signal.alarm(60)
    torch.set_num_threads(2)
    os._exit(bits_of_the_kernels(get_backend("numba")) != bits)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


AHEAD = f"""
import hashlib, torch
from analogsim.backends.kernels import compile_all, normal_rows, output_rows
compile_all()
held = [kernel.signatures for kernel in (normal_rows, output_rows)]
assert [len(signatures) for signatures in held] == [1, 1], held
from analogsim.backends import get_backend
from analogsim.streams import Address, Stream
{inspect.getsource(bits_of_the_kernels)}
bits_of_the_kernels(get_backend("numba"))
assert [kernel.signatures for kernel in (normal_rows, output_rows)] == held, "compiled for other types"
"""


def in_another_process(code, **variables):
    """What it printed."""
    paths = [str(Path(analogsim.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_threads_help_and_a_forked_process_has_its_own():
    in_another_process(FORKED)


@pytest.fixture(scope="module")
def other_process():
    """What the Numba backend gives in a process of its own, under the workqueue threading layer."""
    bits_of_the_kernels(get_backend("numba"))  # compiled and cached here at the latest
    return json.loads(in_another_process(OTHER_PROCESS, NUMBA_THREADING_LAYER="workqueue"))


def test_the_threading_layer_changes_no_bit(other_process):
    """None of Numba's is started: no second OpenMP beside torch's."""
    assert other_process["layer"] is None
    assert other_process["bits"] == bits_of_the_kernels(get_backend("numpy"))


def test_the_kernels_are_cached(other_process):
    """Another process loads both and compiles neither: nobody waits for Numba twice."""
    assert (other_process["cached"], other_process["compiled"]) == ([1, 1], [0, 0])


def test_what_is_compiled_ahead_is_what_a_training_calls():
    in_another_process(AHEAD)
