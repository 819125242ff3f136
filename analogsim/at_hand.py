"""Values that can be looked at: those on the host are at hand, those on a device come only after a wait.

So that no step waits for a device, what a chip reckons from its cells stays there: a number is a 0-d tensor in
place of Python's own, and the cells that a write picks are a mask over all of them in place of a list of indices.
Either way of doing a thing comes to the same bits (tests/training/test_no_host_sync.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HOST = frozenset({"cpu"})  # devices whose values are at hand


def at_hand(tensor: Tensor) -> bool:
    """Whether to look at values of this tensor costs nothing."""
    return tensor.device.type in HOST


def number(tensor: Tensor) -> float | Tensor:
    """A 0-d tensor as a float64 number."""
    return float(tensor) if at_hand(tensor) else tensor.double()


def whole(tensor: Tensor) -> int | Tensor:
    """A 0-d tensor as a whole number."""
    return int(tensor) if at_hand(tensor) else tensor.long()


def at_least(value: float | Tensor, least: float) -> float | Tensor:
    """max(value, least); NaN stays NaN."""
    return value.clamp(min=least) if isinstance(value, Tensor) else max(value, least)


@dataclass(frozen=True)
class Picked:
    """Some entries of tensors of one shape. index: theirs, in a flattened tensor; or None, and mask: of all entries."""

    index: Tensor | None
    mask: Tensor | None

    @classmethod
    def by(cls, mask: Tensor) -> Picked:
        """Those where a bool tensor is true."""
        flat = mask.flatten()
        return cls(flat.nonzero()[:, 0], None) if at_hand(mask) else cls(None, flat)

    @property
    def none(self) -> bool:
        """Known to be none at all; where it would have to be looked at, it is not known."""
        return self.index is not None and not len(self.index)

    @property
    def count(self) -> int | Tensor:
        return len(self.index) if self.mask is None else self.mask.sum()  # type: ignore[arg-type]

    def of(self, tensor: Tensor) -> Tensor:
        """The entries, flat; without an index all of them, the others being of no meaning."""
        return tensor.flatten() if self.index is None else tensor.flatten()[self.index]

    def put(self, values: Tensor | float, tensor: Tensor) -> None:
        """Set the entries of a contiguous tensor, in place. values: as `of` gives them, or one for all."""
        flat = tensor.view(-1)
        if self.index is not None:
            flat[self.index] = values
        else:
            assert self.mask is not None
            flat.copy_(torch.where(self.mask, values, flat))

    def total(self, values: Tensor) -> int | Tensor:
        """The sum of whole numbers, as `of` gives them, over the entries."""
        return whole((values if self.mask is None else values * self.mask).sum())

    def drawn(self, draw: Callable[[int], Tensor]) -> Tensor:
        """As `of`: the first entry gets the first of the numbers that draw(n) gives, the second the second, and so on.

        draw: n -> n numbers, the first of them the same however many are asked for.
        """
        if self.mask is None:
            return draw(len(self.index))  # type: ignore[arg-type]
        return draw(len(self.mask))[(self.mask.cumsum(0) - 1).clamp_(min=0)]
