"""Works taking turns in one process, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Work = Callable[[], object]
clock = time.perf_counter


def count_processor_time() -> None:
    """One thread, and its processor time in place of the wall's: for a machine that others use."""
    global clock
    clock = time.process_time
    torch.set_num_threads(1)


def now() -> float:
    """Seconds on the clock, once a GPU in use has done all that it was asked to."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock()


def medians(works: Sequence[Work], repeats: int) -> list[float]:
    """Seconds of each, the median of so many turns after an untimed one."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, taken in zip(works, times):
            start = now()
            work()
            if turn:
                taken.append(now() - start)
    return [statistics.median(taken) for taken in times]
