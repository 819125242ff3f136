"""How many threads compute: the bits of a product may depend on their number, so it is set, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import threadpoolctl
import torch


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """So many threads for torch, BLAS and our kernels, which count torch's, inside; as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)
