"""Tiny ImageNet's usual folder, decoded once, in parallel, and cached beside it.

    FOLDER/train/<wnid>/images/*.JPEG        training images, a class a folder
    FOLDER/val/images/*.JPEG                 test images
    FOLDER/val/val_annotations.txt           their classes: file name, tab, wnid, ...

Classes are numbered in the order of their wnids. Grey images become three equal channels. The
cache, FOLDER/analogsim.npz, is made anew when an image is added or removed, or its class, size or
modification time changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from analogsim.atomic import write_atomic
from analogsim.errors import AnalogsimError, DataError

CACHE = "analogsim.npz"
SUFFIXES = {".jpeg", ".jpg", ".png"}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
Labelled = list[tuple[Path, int]]


def load_folder(folder: Path) -> dict[str, np.ndarray]:
    """x_train, y_train, x_test, y_test: images (rows, height, width, 3) uint8, class numbers int64.

    Raises DataError naming what is missing, or the image that cannot be read or differs in size.
    """
    train, test = _listing(folder)
    digest = hashlib.sha256()
    for path, label in (*train, *test):
        with _reading(path):
            found = path.stat()
            digest.update(f"{path.relative_to(folder)} {label} {found.st_size} {found.st_mtime_ns}\n".encode())
    cached = _read_cache(folder / CACHE, digest.hexdigest())
    if cached is not None:
        return cached
    arrays = {
        "x_train": _decode([path for path, _ in train]),
        "y_train": np.array([label for _, label in train], np.int64),
        "x_test": _decode([path for path, _ in test]),
        "y_test": np.array([label for _, label in test], np.int64),
    }
    with suppress(OSError, AnalogsimError):  # a folder that cannot be written is decoded every time
        write_atomic(folder / CACHE, lambda file: np.savez(file, digest=digest.hexdigest(), **arrays))
    return arrays


def _listing(folder: Path) -> tuple[Labelled, Labelled]:
    annotations = folder / "val" / "val_annotations.txt"
    with _reading(folder):
        wnids = sorted(path.name for path in (folder / "train").glob("[!.]*") if (path / "images").is_dir())
        complete = len(wnids) > 1 and annotations.is_file()
    if not complete:
        raise DataError(
            f"data: {folder} is not a Tiny ImageNet folder; it needs train/<wnid>/images/ for two classes or more "
            "and val/val_annotations.txt"
        )
    number = {wnid: index for index, wnid in enumerate(wnids)}
    train = [(path, number[wnid]) for wnid in wnids for path in _images(folder / "train" / wnid / "images")]
    test = []
    with _reading(annotations):
        lines = annotations.read_text(encoding="utf-8").splitlines()
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        name, _, rest = text.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if wnid not in number:
            raise DataError(f"{annotations}:{line}: {wnid!r} is not a class; train/ has {wnids[0]} to {wnids[-1]}")
        test.append((folder / "val" / "images" / name, number[wnid]))
    if not test:
        raise DataError(f"data: {annotations} names no images")
    return train, test


def _images(folder: Path) -> list[Path]:
    """A class's, without hidden files: what macOS puts beside an image, ._x.JPEG, is none."""
    with _reading(folder):
        shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = sorted(path for path in shown if path.suffix.lower() in SUFFIXES)
    if not images:
        raise DataError(f"data: {folder} holds no images; a class needs one at least: {', '.join(sorted(SUFFIXES))}")
    return images


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the path that cannot be read, and says why, in place of a traceback."""
    try:
        yield
    except OSError as error:
        raise DataError(f"data: {error.filename or path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # not in UTF-8, a zero byte in a name, an image outside the folder
        raise DataError(f"data: {path} cannot be read: {error}") from None


def _read_cache(path: Path, digest: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in ARRAYS} if str(archive["digest"]) == digest else None
    except Exception:  # none yet, torn or foreign: it is only a cache
        return None


def _decode(paths: Sequence[Path]) -> np.ndarray:
    first = _image(paths[0])
    out = np.empty((len(paths), *first.shape), np.uint8)

    def place(index: int) -> None:
        image = _image(paths[index])
        if image.shape != first.shape:
            sizes = " × ".join(map(str, image.shape[:2])), " × ".join(map(str, first.shape[:2]))
            raise DataError(f"data: {paths[index]} is {sizes[0]}, other images are {sizes[1]}")
        out[index] = image

    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter lock while it decodes
        for _ in pool.map(place, range(len(paths))):
            pass
    return out


def _image(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DataError(f"data: {path} cannot be read as an image: {error}") from None
