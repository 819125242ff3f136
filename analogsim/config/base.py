"""What every section of a file is made of: strict, frozen models and the bounds they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Allowed:
    """What a message says is allowed, where the type and its bounds alone would not say it well."""

    words: str
    noun: str = "allowed"  # "0 is not …"


# Bounds are plain marks: pydantic before 2.11 lets a Field shared by two fields carry the default
# of one over to the other.
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
Bits = Annotated[int, Ge(2), Le(16)]
Seed = Annotated[int, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Ge(0), Le(1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
