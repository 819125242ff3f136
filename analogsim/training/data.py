"""Data sets: digits (bundled), OpenML's by name, your own arrays in an .npz file, or Tiny ImageNet.

Images (whole numbers 0..255) are scaled to [0, 1], nothing else, but for Tiny ImageNet, which is
standardised per channel as in the paper; other numbers are taken as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from analogsim.config.schema import DATA_SETS, PATHS
from analogsim.errors import DataError

# OpenML data set id, training rows (the rest is the test set), largest value.
OPENML = {
    "mnist": (554, 60_000, 255.0),
    "fashion_mnist": (40996, 60_000, 255.0),
    "cifar10": (40927, 50_000, 255.0),
    "sarcos": (44976, 44_484, 1.0),  # OpenML carries the first joint's torque alone
}
LARGEST = np.finfo(np.float32).max
CLASSES = 100_000  # more are surely no class numbers
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Dataset:
    """x: (rows, ...) as stored (uint8 stays small in memory); divided by `scale` when read, then
    standardised: (x - mean) / sd per channel, the last axis, where those are given.

    y: (rows,) int64 class numbers, or (rows, outputs) float32.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    scale: float
    outputs: int
    standardised: tuple[Tensor, Tensor] | None = None  # (mean, sd), each (channels,)

    @property
    def classification(self) -> bool:
        return self.y_train.ndim == 1

    @property
    def inputs(self) -> int:
        return self.x_train[0].numel()

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of an image, None for rows of numbers that are none."""
        shape = tuple(self.x_train.shape[1:])
        if len(shape) == 2:
            shape = (*shape, 1)
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    @property
    def channels_first(self) -> str | None:
        """What to say of images whose shape looks like (channels, height, width), None where it does not.

        No error: three rows of 32 sensors by 32 bands have that shape by right.
        """
        height, width, channels = self.image_shape or (0, 0, 0)
        if height not in (1, 3) or width != channels or width == height:
            return None
        return (
            f"{self.name} is taken as images of {height} × {width} with {channels} channels; if it holds {height} "
            f"channel{'s' * (height > 1)} of {width} × {channels}, give x as (rows, height, width, channels)"
        )

    def batch(self, split: Literal["train", "test"], rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(x float32 (batch, inputs), y) of the given rows."""
        x, y = (self.x_train, self.y_train) if split == "train" else (self.x_test, self.y_test)
        x = x[rows].to(torch.float32)
        if self.scale != 1:
            x.div_(self.scale)
        if self.standardised is not None:
            x.sub_(self.standardised[0]).div_(self.standardised[1])
        return x.flatten(1), y[rows]

    def to(self, device: str | torch.device) -> Dataset:
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in ARRAYS}
        if self.standardised is not None:
            moved["standardised"] = tuple(part.to(device) for part in self.standardised)
        return replace(self, **moved)


def load_data(source: str) -> Dataset:
    """A data set by name, `npz:FILE` or `tiny_imagenet:FOLDER`. Raises DataError saying what would do."""
    if source == "digits":
        return _digits()
    if source in OPENML:
        return _openml(source)
    kind, colon, path = source.partition(":")
    if colon and kind in PATHS:
        found = Path(os.path.expanduser(path))  # a ~ of nobody stays as it is, and is not there
        return _npz(found) if kind == "npz" else _tiny_imagenet(found)
    raise DataError(f"data: {source!r} is not a data set; allowed: {DATA_SETS}")


def _digits() -> Dataset:
    """UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, CC BY 4.0), the 1797 scans that
    scikit-learn bundles, 360 of them drawn for the test set in every class's proportion.

    A file of our own: to import scikit-learn takes a second of every start (tests/training/test_data.py makes it anew).
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        x_train, y_train, x_test, y_test = (archive[name] for name in ARRAYS)
    return _dataset("digits", x_train, y_train, x_test, y_test, 16.0)


def _openml(name: str) -> Dataset:
    from sklearn.datasets import fetch_openml

    number, rows, scale = OPENML[name]
    try:
        bunch: Any = fetch_openml(data_id=number, as_frame=False, parser="auto")
    except Exception as error:  # the fetcher raises whatever its transport does
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"data: {name} could not be fetched from OpenML (id {number}): {reason}. Without a network, give the "
            f"arrays yourself: data: npz:FILE with {', '.join(ARRAYS)}"
        ) from None
    x = np.asarray(bunch.data)
    x = x.astype(np.uint8) if scale == 255 else x.astype(np.float32)
    if name == "cifar10":  # channels first there, last here
        x = np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    elif scale == 255:
        x = x.reshape(-1, 28, 28)
    y = np.asarray(bunch.target)
    y = y.astype(np.int64) if scale == 255 else y.astype(np.float32)
    return _dataset(name, x[:rows], y[:rows], x[rows:], y[rows:], scale)


def _npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive]
            if missing:
                raise DataError(f"data: {path} holds {', '.join(archive)}, but not {', '.join(missing)}")
            x_train, y_train, x_test, y_test = (archive[name] for name in ARRAYS)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, OSError, ValueError: all mean that it cannot be read
        raise DataError(f"data: {path} cannot be read as an .npz file: {error}") from None
    scale = 255.0 if x_train.dtype == np.uint8 else 1.0
    return _dataset(str(path), x_train, y_train, x_test, y_test, scale)


def _tiny_imagenet(folder: Path) -> Dataset:
    """Standardised per channel by the training images' own mean and standard deviation."""
    from analogsim.training.images import load_folder

    data = _dataset(str(folder), **load_folder(folder), scale=255.0)
    pixels = data.x_train.flatten(0, -2)
    histogram = torch.stack([torch.bincount(pixels[:, channel], minlength=256) for channel in range(3)]).double()
    share, level = histogram / histogram.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = share @ level
    sd = (share @ level.square() - mean.square()).sqrt().clamp_(min=1 / 255)
    return replace(data, standardised=(mean.float(), sd.float()))


def _dataset(name: str, x_train, y_train, x_test, y_test, scale: float) -> Dataset:
    """Check that the arrays fit together and are finite."""
    for what, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.ndim < 2 or len(x) == 0 or x[0].size == 0:
            raise DataError(f"data: {name}: x_{what} has shape {x.shape}; it needs rows and at least one input")
        if y.ndim == 0:
            raise DataError(f"data: {name}: y_{what} is a single number; it needs one a row")
        if len(x) != len(y):
            raise DataError(f"data: {name}: x_{what} has {len(x)} rows and y_{what} {len(y)}")
        for label, array in ((f"x_{what}", x), (f"y_{what}", y)):
            if array.dtype.kind not in "buif":
                raise DataError(f"data: {name}: {label} holds {array.dtype}, not numbers")
            if array.dtype.kind == "f" and not (np.abs(array) <= LARGEST).all():
                raise DataError(f"data: {name}: {label} holds NaN, infinity or a number too large for float32")
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise DataError(
            f"data: {name}: x_train is {x_train.dtype} {x_train.shape}, x_test {x_test.dtype} {x_test.shape}"
        )
    x_train, x_test = (x if x.dtype == np.uint8 else x.astype(np.float32) for x in (x_train, x_test))
    y_train, y_test, outputs = _targets(name, y_train, y_test)
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(np.ascontiguousarray(array)).clone() for array in (x_train, y_train, x_test, y_test)
    )
    return Dataset(name, x_train, y_train, x_test, y_test, scale, outputs)


def _targets(name: str, y_train, y_test) -> tuple[np.ndarray, np.ndarray, int]:
    y_train, y_test = (
        y[:, 0] if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "bui" else y for y in (y_train, y_test)
    )
    if y_train.dtype.kind in "bui" and y_train.ndim == 1:
        if y_test.dtype.kind not in "bui" or y_test.ndim != 1:
            raise DataError(f"data: {name}: y_train holds class numbers, y_test is {y_test.dtype} {y_test.shape}")
        classes = int(y_train.max()) + 1
        if min(y_train.min(), y_test.min()) < 0 or y_test.max() >= classes or not 2 <= classes <= CLASSES:
            raise DataError(
                f"data: {name}: class numbers must run from 0 up, 2 to {CLASSES} of them, y_test's among y_train's; "
                "give real-valued targets as floats"
            )
        return y_train.astype(np.int64), y_test.astype(np.int64), classes
    y_train, y_test = (y.reshape(len(y), -1).astype(np.float32) for y in (y_train, y_test))
    if y_train.shape[1] != y_test.shape[1]:
        raise DataError(f"data: {name}: y_train has {y_train.shape[1]} outputs and y_test {y_test.shape[1]}")
    return y_train, y_test, y_train.shape[1]
