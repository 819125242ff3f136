"""One thread for every test that does not ask for more, and the command line as a call."""

import sys

import numba
import pytest
import torch

from analogsim import cli

SMALL = """\
data: digits
chip: gaussian-node
network: {hidden: [8]}
training: {epochs: 1, batch: 500}
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The products here are small: on a busy machine, threads that wait for each other cost many times the work."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call(arguments…) -> (exit code, stdout, stderr), in a folder that holds small.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["analogsim", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return called
