"""Files are wholly there or not at all, whatever goes wrong while they are written."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from analogsim import atomic
from analogsim.atomic import remove_strays, write_atomic, write_text
from analogsim.errors import RunFolderError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_text_is_utf8_and_readable_by_others(tmp_path):
    path = write_text(tmp_path / "a.txt", "σ = 1\n")
    assert path == tmp_path / "a.txt"
    assert contents(tmp_path) == {"a.txt": "σ = 1\n".encode()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_old_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "deep" / "a.txt"
    write_text(path, "long old text")
    write_text(path, "new")
    assert contents(path.parent) == {"a.txt": b"new"}


def test_the_name_may_come_from_the_content(tmp_path):
    path = write_atomic(tmp_path / "x", lambda f: f.write(b"abc") and None, lambda part: f"{part.read_text()}.bin")
    assert path == tmp_path / "abc.bin"
    assert contents(tmp_path) == {"abc.bin": b"abc"}


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("late", [False, True])
def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path, error, late):
    write_text(tmp_path / "a", "old")

    def fill(file):
        file.write(b"half of the new")
        if not late:
            raise error

    def name(part):
        raise error

    with pytest.raises(type(error)):
        write_atomic(tmp_path / "a", fill, name if late else None)
    assert contents(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_system_call_is_a_named_error(tmp_path, monkeypatch, call):
    write_text(tmp_path / "a", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(RunFolderError, match=r"/a: cannot be written: No space left on device$"):
        write_text(tmp_path / "a", "new")
    assert contents(tmp_path) == {"a": b"old"}


def test_a_file_for_a_folder_is_a_named_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_text(tmp_path / "file" / "a", "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours_is_a_named_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied"):
        write_text(tmp_path / "a", "text")


def test_the_content_is_synced_before_it_gets_its_name_and_the_folder_after(tmp_path, monkeypatch):
    """A rename that reaches the disk before the content would leave an empty file after a power cut."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: (calls.append(stat.S_ISDIR(os.fstat(fd).st_mode)), fsync(fd)))
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_text(tmp_path / "a", "text")
    assert calls == [False, "replace", True]


FULL_DISK = """
import resource, sys
from pathlib import Path
from analogsim.atomic import write_text
from analogsim.errors import RunFolderError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path(sys.argv[1]), "x" * 1000)
try:
    write_text(Path(sys.argv[1]), "y" * 1001)
except RunFolderError as error:
    print(error)
"""


def test_a_full_disk_is_a_named_error_and_keeps_the_old_file(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "a"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'a'}: cannot be written: File too large\n"
    assert contents(tmp_path) == {"a": b"x" * 1000}


def test_strays_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    stray = "import os, signal, sys; from pathlib import Path; from analogsim.atomic import write_atomic\n"
    stray += (
        "write_atomic(Path(sys.argv[1]), lambda f: (f.write(b'x'), f.flush(), os.kill(os.getpid(), signal.SIGKILL)))"
    )
    done = subprocess.run([sys.executable, "-c", stray, tmp_path / "a"])
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.match(atomic.STRAY)
    for name in (".lock", "a.part", ".part.npz", "000001-ab.npz"):
        (tmp_path / name).touch()
    remove_strays(tmp_path)
    assert set(contents(tmp_path)) == {".lock", "a.part", ".part.npz", "000001-ab.npz"}
    remove_strays(Path(tmp_path / "no such folder"))
