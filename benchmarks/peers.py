"""The same read by others, where they are installed: aihwkit, a noise matrix for every vector, plain torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from reads import Size
from rows import Row
from timing import Work, medians

CELL_BY_CELL = 8  # vectors; it draws every cell of each


def torch_works(weight: torch.Tensor, x: torch.Tensor) -> Iterator[tuple[str, Work, float]]:
    """(name, work, times) of what can be written down in a line or two."""
    variance = weight.abs() * 1e-3

    def constant() -> torch.Tensor:
        y = x @ weight.T
        return y + 0.02 * x.norm(dim=1, keepdim=True) * torch.randn_like(y)

    def per_output() -> torch.Tensor:
        y = x @ weight.T
        return y + ((x * x) @ variance.T).sqrt() * torch.randn_like(y)

    def cell_by_cell() -> None:
        for vector in x[:CELL_BY_CELL]:
            torch.mv(weight + variance.sqrt() * torch.randn_like(weight), vector)

    yield "torch: product + randn, constant σ", constant, 1.0
    yield "torch: two products + randn, √g", per_output, 1.0
    yield f"a noise matrix a vector ({CELL_BY_CELL} of them timed)", cell_by_cell, len(x) / CELL_BY_CELL


def aihwkit_works(weight: torch.Tensor, x: torch.Tensor) -> Iterator[tuple[str, Work, float]]:
    """aihwkit's tiles, one for the whole matrix. Raises ImportError where it is not installed, RuntimeError where
    its compiled part does not fit this torch."""
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import (
        BoundManagementType,
        InferenceRPUConfig,
        NoiseManagementType,
        TorchInferenceRPUConfig,
        WeightNoiseType,
    )

    def layer(config: Any) -> Work:
        config.mapping.max_input_size = config.mapping.max_output_size = 0
        made = AnalogLinear(weight.shape[1], weight.shape[0], bias=False, rpu_config=config)
        made.set_weights(weight)
        made.eval()
        return lambda: made(x)

    plain = TorchInferenceRPUConfig()
    forward = plain.forward
    forward.inp_res = forward.out_res = -1
    forward.inp_bound = forward.out_bound = math.inf
    forward.noise_management, forward.bound_management = NoiseManagementType.NONE, BoundManagementType.NONE
    pcm = InferenceRPUConfig()
    pcm.forward.w_noise_type, pcm.forward.w_noise = WeightNoiseType.PCM_READ, 0.0175
    yield "aihwkit, torch tile: output noise alone", layer(plain), 1.0
    yield "aihwkit, torch tile: its converters", layer(TorchInferenceRPUConfig()), 1.0
    yield "aihwkit, C++ tile: converters, PCM read noise", layer(pcm), 1.0


@torch.no_grad()
def rows(repeats: int, size: Size) -> list[Row]:
    """A row each; a line on stderr is of what cannot be measured here."""
    weight, x, found = size.weight, size.x, []
    weight = weight / weight.abs().max()  # aihwkit's range
    out, works = torch.empty_like(x), list(torch_works(weight, x))
    try:
        works.extend(aihwkit_works(weight, x) if size.device == "cpu" else ())  # its wheel is the CPU's
    except (ImportError, RuntimeError) as error:
        print(f"aihwkit, or the rest of it, is not measured: {error}", file=sys.stderr)
    for name, work, times in works:
        ours, bare = medians([work, lambda: torch.mm(x, weight.T, out=out)], repeats)
        found.append(Row(name, ours * times / bare, None, ours * times * 1e3, bare * 1e3))
    return found
