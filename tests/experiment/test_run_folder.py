"""A run folder whose files are damaged, too large for the disk or in use: one line, and nothing lost."""

import json
import shutil
import signal
import subprocess
import sys
from itertools import count

import pytest

from analogsim.experiment.results import claimed


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BROKEN = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"backend": "numba"}', b'{"backend": 1, "device": 2, "threads": 1}']
BROKEN += [
    b'{"backend": "numba", "device": "cpu", "threads": %s}' % threads for threads in (b"0", b"-1", b"Infinity", b'"x"')
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_environment_is_one_line(train, whole, tmp_path, content):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_bytes(content)
    before = contents(tmp_path / "run")
    code, printed = train(resume=True)
    assert (code, printed.count("\n")) == (1, 1)
    assert "environment.json: damaged" in printed or "device: '2' is not allowed" in printed
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "content", [b"", b"data: [", b"- a", b"\xff\xfe\x00", b"data: digits\n", b"data: digits\nchip: 3"]
)
def test_a_damaged_config_is_one_line(train, whole, tmp_path, content):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    code, printed = train(resume=True)
    assert (code, printed.count("\n")) == (1, 1)
    assert printed.startswith(str(tmp_path / "run" / "config.yaml"))


def test_checkpoints_of_another_network_are_refused_in_one_line(train, whole, tmp_path):
    train(do="signalled", after=3, number=signal.SIGINT)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("- 8\n", "- 9\n"))
    code, printed = train(resume=True)
    assert (code, printed.count("\n")) == (1, 1)
    assert "checkpoints do not fit config.yaml" in printed


# The folder's own facts


def test_a_resumed_run_keeps_its_backend(train, tmp_path):
    train("--backend", "numpy", do="signalled", after=3, number=signal.SIGINT)
    facts = (tmp_path / "run" / "environment.json").read_bytes()
    assert json.loads(facts)["backend"] == "numpy"
    assert json.loads(facts)["threads"] == 1
    assert train(resume=True)[0] == 0
    assert (tmp_path / "run" / "environment.json").read_bytes() == facts


@pytest.mark.parametrize("largest_file", [600, 5_000, 12_000, 40_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_after(train, whole, tmp_path, largest_file):
    """config.yaml, the first checkpoint, a later one and the picture are the first too large."""
    code, printed = train(largest_file=largest_file)
    last = printed.splitlines()[-1]
    assert code == 1
    assert "Traceback" not in printed
    assert last.startswith(str(tmp_path / "run"))
    assert last.endswith("cannot be written: File too large")
    begun = (tmp_path / "run" / "config.yaml").exists()
    assert train(resume=begun)[0] == 0
    assert result(tmp_path / "run") == result(whole)


@pytest.mark.parametrize("option", ["--resume", "--out"])
def test_a_second_process_refuses_within_two_seconds(experiment, whole, tmp_path, option):
    folder = whole if option == "--resume" else tmp_path / "new"
    command = [sys.executable, "-m", "analogsim", "train", *([experiment] if option == "--out" else []), option, folder]
    with claimed(folder, resume=option == "--resume"):
        for attempt in count(1):  # a busy machine may take longer once
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=2)
                break
            except subprocess.TimeoutExpired:
                assert attempt < 4
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{folder}: another process is writing here; wait for it, or give another --out\n"
