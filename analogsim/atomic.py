"""Files that are either wholly there or not at all: fill a temporary one, sync it, rename it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from analogsim.errors import RunFolderError

STRAY = ".*.part"  # the temporary files' names


def write_atomic(path: Path, fill: Callable[[IO[bytes]], None], name: Callable[[Path], str] | None = None) -> Path:
    """Write `path` by way of a temporary file beside it; returns the path written.

    name: says the final name from the temporary file's content, in place of `path`'s own.
    Makes the folder. Raises RunFolderError where it cannot be written, as on a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            target = path if name is None else path.with_name(name(Path(temporary)))
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written: {error.strerror or error}") from error
    return target


def write_text(path: Path, text: str) -> Path:
    """The same for a text in UTF-8."""
    return write_atomic(path, lambda file: file.write(text.encode()) and None)


def remove_strays(folder: Path) -> None:
    """Delete what killed writers left in a folder and below; only for the folder's one writer."""
    for stray in folder.rglob(STRAY):
        stray.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder, and renames there are durable enough
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
