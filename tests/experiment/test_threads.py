"""Training computes with as many threads as were asked for: kernels on OpenMP threads of their own would raise it."""

import os
import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
import torch
from analogsim.config.loader import load_plan, parse_set
from analogsim.experiment.run import Reporter, train

threads = []
class Counts(Reporter):
    def epoch(self, trainer):
        threads.append(torch.get_num_threads())

small = [parse_set(f"training.{key}") for key in ("epochs=1", "batch=1000")]
train(load_plan("quickstart", small), Path(sys.argv[1]), "auto", "cpu", False, Counts())
assert set(threads) == {1}, threads
"""


def test_numba_does_not_raise_the_number_of_threads(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
