"""How many threads compute: the bits of a product may depend on their number, so it is set, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import threadpoolctl
import torch


@contextmanager
def threads_limited(threads: int) -> Iterator[None]:
    """So many threads for torch, Numba and BLAS inside; as before after.

    Said even where torch has as many: Numba's own threads, as they start, raise those torch shares with it.
    """
    before = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        numba.set_num_threads(before[1])
        torch.set_num_threads(before[0])
