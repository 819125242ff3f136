"""Checkpoints: one .npz a file, its SHA-256 in its name, written so that a kill loses nothing.

A temporary file is filled, synced and renamed; the name `NUMBER-SHA256.npz` makes a torn or
altered file known for what it is. The last two are kept; no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analogsim.atomic import remove_strays, write_atomic

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and a JSON-able record."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the next checkpoint of a folder and drop all but the last two."""
    remove_strays(folder)
    number = 1 + max((_number(path) for path in folder.glob("*.npz")), default=0)
    arrays: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in checkpoint.tensors.items()}
    arrays["record"] = np.frombuffer(json.dumps(checkpoint.record).encode(), np.uint8)
    path = write_atomic(
        folder / "checkpoint",
        lambda file: np.savez(file, **arrays),
        lambda temporary: f"{number:06d}-{_digest(temporary)}.npz",
    )
    for old in sorted(folder.glob("*.npz"), key=_number)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_latest(folder: Path, warn: Callable[[str], None], with_tensors: bool = True) -> Checkpoint | None:
    """The newest good checkpoint; each damaged one is named to `warn` and passed over.

    with_tensors: False reads the record alone.
    """
    for path in sorted(folder.glob("*.npz"), key=_number, reverse=True):
        try:
            if _digest(path) != path.stem.partition("-")[2]:
                raise ValueError("its content does not match the SHA-256 in its name")
            with np.load(path, allow_pickle=False) as archive:
                record = json.loads(archive["record"].tobytes())
                # clone: torch's own alignment, so that a resumed run takes the same code paths
                names = [name for name in archive if name != "record"] if with_tensors else []
                tensors = {name: torch.from_numpy(archive[name]).clone() for name in names}
            return Checkpoint(tensors, record)
        except Exception as error:  # whatever a damaged file raises, the previous one may be good
            warn(f"checkpoint {path.name} of {folder.name} is damaged ({error}); going back to the one before")
            path.rename(path.with_suffix(".damaged"))  # it must not count as one of those kept
    return None


def _number(path: Path) -> int:
    head = path.stem.partition("-")[0]
    return int(head) if head.isdecimal() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
