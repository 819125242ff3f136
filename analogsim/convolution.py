"""How often a kernel fits into the map below it: what a file is checked by and a crossbar is read by.

positions = ⌊(size + 2 · padding - kernel) / stride⌋ + 1,    along the height and along the width
"""

from __future__ import annotations


def output_size(height: int, width: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """(height, width) of the map of output positions; below 1 where the kernel does not fit."""
    reach = 2 * padding - kernel
    return (height + reach) // stride + 1, (width + reach) // stride + 1
