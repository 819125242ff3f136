"""What a chip file may say. Leaving a part out makes it ideal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Field, model_validator

from analogsim.config.base import Allowed, Bits, Count, NonNegative, Positive, Section, Share
from analogsim.config.laws import Drift, Fitted, Flicker, Retention, Sigma, TableSigma
from analogsim.config.writing import Costs, Faults, IdealWrite, Write


class NodeTelegraph(Section):
    """A two-state source at every node: s a, s = ±1 flipping with a probability a read."""

    amplitude: NonNegative = Field(description="a, in pre-activation units")
    flip_probability: Share = Field(description="p, of each node from one read to the next")
    mean: float = Field(default=0.0, description="constant part of the source")


class NodeNoise(Section):
    """Hidden noise at every node and read: a_l + N(0, sigma²) (+ telegraph), before the ADC."""

    sigma: NonNegative = Field(default=0.0, description="standard deviation, in pre-activation units")
    telegraph: NodeTelegraph | None = None


class WeightSlices(Section):
    """A cell's place taken by `cells` cells of `bits` bits each, every one in a column with an ADC of its own.

    q = round((2^(bits cells) - 1) (g - g_min) / (g_max - g_min)) = Σ_k 2^(bits k) q_k; cell k stands at
    g_min + (g_max - g_min) q_k / (2^bits - 1), and the columns' codes are summed digitally, 2^(bits k) each.
    """

    bits: Annotated[int, Ge(1), Le(8)] = Field(description="of one cell")
    cells: Annotated[int, Ge(1), Le(16)] = Field(description="in the place of one")


class Cell(Section):
    """Conductances that hold the weights.

    differential: W = w_max (g_plus - g_minus) / (g_max - g_min); one leg idles at g_min.
    reference: W = 2 w_max (g - g_mid) / (g_max - g_min) against one column of cells at g_mid a tile.
    offset: the same single cells, g_mid Σ x taken off digitally.
    """

    g_min_uS: NonNegative = Field(default=0.0, description="the least conductance")
    g_max_uS: Positive = Field(default=25.0, description="the largest")
    mapping: Literal["differential", "reference", "offset"] = Field(
        default="differential", description="a pair of cells a weight, or one"
    )
    weight_max: Literal["auto"] | Positive = Field(
        default="auto",
        description="the weight at full range: a number (larger weights are clipped), or max |W| at every write; "
        "with write: verify, 1.25 max |W| or more whenever one leaves the range, since a new range rewrites all cells",
    )
    weight_scale: Literal["layer", "tile", "column"] = Field(
        default="layer", description="what shares one `auto` weight_max"
    )
    weight_headroom: Annotated[float, Ge(1)] = Field(
        default=1.0,
        description="an `auto` weight_max is this many times max |W|; with write: pulsed it is set by the first "
        "write and stays, so that weights need room to grow",
    )
    slices: WeightSlices | None = Field(default=None, description="left out: one cell of any conductance")
    programming: Sigma | None = Field(default=None, description="σ of the error of one write; with write: verify")
    programming_clip: Literal["zero", "range"] = Field(
        default="zero",
        description="where the error of a write stops: at no conductance (as measured errors do, some cells end beyond "
        "g_min and g_max), or at the ends of the cell's range",
    )
    g_max_d2d: NonNegative = Field(default=0.0, description="relative spread of g_max from cell to cell")
    g_min_d2d_uS: NonNegative = Field(default=0.0, description="spread of g_min from cell to cell")
    faults: Faults = Faults()
    drift: Drift | None = Field(default=None, description="with the time since a write")
    read_noise: Sigma | None = Field(default=None, description="white: drawn afresh for every cell at every read")
    flicker: Flicker | None = Field(default=None, description="1/f: two reads of a cell correlate")
    telegraph: Sigma | None = Field(default=None, description="a(G) of a two-state cell, G ± a, drawn afresh a read")

    @property
    def laws(self) -> Iterator[tuple[str, Fitted]]:
        """(key, law) of every fit there is."""
        for key in ("programming", "drift", "read_noise", "flicker", "telegraph"):
            law = getattr(self, key)
            if law is not None:
                yield key, law
                if isinstance(law, Retention):
                    yield from ((key, error) for error in law.errors)

    @model_validator(mode="after")
    def _range(self) -> Cell:
        if self.g_min_uS >= self.g_max_uS:
            raise ValueError("g_min_uS", f"a number below g_max_uS = {self.g_max_uS}")
        for key, law in self.laws:
            measured = (law.g_uS[0], law.g_uS[-1]) if isinstance(law, TableSigma) else law.valid_uS
            if measured is not None and not measured[0] <= self.g_min_uS < self.g_max_uS <= measured[1]:
                at = "g_min_uS" if self.g_min_uS < measured[0] else "g_max_uS"
                raise ValueError(at, f"a range within {measured[0]} to {measured[1]} µS, where {key} was measured")
        return self


class BitSerial(Section):
    """Inputs go in as slices of `slice_bits` bits, least first.

    accumulated: slices add up in the analog domain, one conversion. per_slice: one conversion a slice.
    """

    slice_bits: Count = Field(default=1, description="of an input, in one slice")
    adc: Literal["accumulated", "per_slice"] = Field(default="accumulated", description="when outputs are converted")


class Dac(Section):
    """Inputs become one of 2^bits - 1 levels in ±bound; what lies outside is clipped."""

    bits: Annotated[Bits, Allowed("2 to 16, or leave dac out for an ideal converter", "a number of bits")] = Field(
        description="2^bits - 1 levels"
    )
    bound: Literal["per_vector"] | Positive = Field(
        default="per_vector", description="in units of the inputs, or the largest |x| of each vector"
    )
    noise: NonNegative = Field(default=0.0, description="sigma added to every driven input, in units of the bound")
    stochastic_rounding: bool = Field(
        default=False, description="to one of the two levels next to an input, its mean the input; anew at every read"
    )
    bit_serial: BitSerial | None = None

    @property
    def draws(self) -> bool:
        """Two reads of one input may drive different ones."""
        return self.noise > 0 or self.stochastic_rounding


class Adc(Section):
    """Outputs become one of 2^bits - 1 levels in ±bound; what lies outside is clipped."""

    bits: Annotated[Bits, Allowed("2 to 16, or leave adc out for an ideal converter", "a number of bits")] = Field(
        description="2^bits - 1 levels"
    )
    bound: Literal["max", "calibrated"] | Positive = Field(
        description="in units of one cell at g_max under a full-scale input; max: all rows of a tile at once; "
        "calibrated: three times the largest norm of a column's weights"
    )
    noise: NonNegative = Field(default=0.0, description="sigma before the ADC, in the units of bound")
    stochastic_rounding: bool = Field(default=False, description="up with the probability of the fraction")
    gain_sigma: NonNegative = Field(default=0.0, description="relative spread of gain from column to column")
    offset_sigma_lsb: NonNegative = Field(default=0.0, description="spread of offset from column to column, in steps")


class TileSize(Section):
    """A layer larger than this is cut; partial sums of tiles, each with its converters, add digitally."""

    rows: Count | None = Field(default=None, description="most inputs a tile")
    columns: Count | None = Field(default=None, description="most outputs a tile")


class Wires(Section):
    """IR drop along the wires of a tile, inputs driven at the first column, outputs sensed at the last row."""

    segment_ohm: NonNegative = Field(description="resistance of a wire from one cell to the next")
    model: Literal["first_order", "exact"] = "first_order"


class Clock(Section):
    """What time passes. Drift and 1/f noise count from the write of a cell."""

    t_first_read_s: Positive = Field(default=1.0, description="from a write to the first read after it")
    t_read_s: NonNegative = Field(default=0.0, description="a read of one vector")
    t_update_s: NonNegative = Field(default=0.0, description="a step's writing")


class ChipDescription(Section):
    """One chip. Leaving a part out makes it ideal."""

    name: str = Field(default="chip", min_length=1, description="what tables and messages call it")
    description: str = Field(default="", description="one line")
    technology: str = Field(default="", description="what the cells are made of: PCM, ReRAM, ...")
    paper: str = Field(default="", description="where the device was published")
    source: str = Field(default="", description="where the numbers of the file come from")
    injection_port: bool = Field(default=False, description="known perturbations can be added to pre-activations")
    node_noise: NodeNoise = NodeNoise()
    cell: Cell | None = None
    dac: Dac | None = None
    adc: Adc | None = None
    tile: TileSize = TileSize()
    wires: Wires | None = None
    clock: Clock = Clock()
    pass_schedule: Literal["whole_batch", "interleaved"] = Field(
        default="whole_batch", description="how far apart the passes of one sample are: a batch of reads, or one read"
    )
    write: Write = Field(default=IdealWrite(mode="ideal"), description="how cells reach what is asked of them")
    decorrelation: Literal["digital", "on_chip"] = Field(
        default="digital",
        description="where decorrelation matrices are multiplied: exactly, or on crossbars like these",
    )
    costs: Costs = Costs()

    @model_validator(mode="after")
    def _fits(self) -> ChipDescription:
        needs_cell = ("wires", "tile") if self.cell is None else ()
        for key in needs_cell:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError("cell", f"a mapping, since {key} is given")
        if self.cell is None and self.write.mode == "verify":
            raise ValueError("cell", "a mapping, since write is verify")
        if self.cell is not None and self.cell.flicker is not None and not self.clock.t_read_s:
            said = (
                "more than 0 with cell.flicker: reads no time apart have the same 1/f noise, and nothing of it is seen"
            )
            raise ValueError("clock", "t_read_s", said)
        serial = self.dac.bit_serial if self.dac else None
        if serial is not None and serial.adc == "per_slice" and self.adc is None:
            raise ValueError("adc", "a mapping, since dac.bit_serial.adc is per_slice")
        return self

    @property
    def noise_free(self) -> bool:
        """No hidden noise in any read: a clean pass exists. (Errors of writing are no noise of reads.)"""
        cell, telegraph = self.cell, self.node_noise.telegraph
        laws = (cell.read_noise, cell.telegraph) if cell else ()
        return not (
            self.node_noise.sigma
            or (telegraph and telegraph.amplitude and telegraph.flip_probability)
            or any(law is not None and _amplitude(law) for law in laws)
            or (cell and cell.flicker)
            or (self.dac and self.dac.draws)
            or (self.adc and (self.adc.noise or self.adc.stochastic_rounding))
        )

    def replace(self, **changes: Any) -> ChipDescription:
        """A copy with dotted keys changed: `chip.replace(**{"node_noise.sigma": 1e-2})`.

        Raises ConfigError for an unknown key or a value out of range.
        """
        from analogsim.config.loader import replace

        return replace(self, changes)


def _amplitude(law: Any) -> bool:
    """Whether σ(G) can be other than 0."""
    held = law.model_dump(include={"sigma_uS", "k", "k_sqrt_uS", "coefficients_uS", "amplitude_uS"})
    return any(value if isinstance(value, float) else any(value) for value in held.values())
