"""A Slurm file of `analogsim sweep --scheduler slurm.yaml`: what each job asks for, and how many jobs.

jobs: 20                     # at most so many at a time; each job is one worker
queue: compute               # the partition
account: my-project
walltime: "04:00:00"
memory: 4GB
cores: 1
directives: ["--gres=gpu:1"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Le
from pydantic import Field

from analogsim.config.base import Allowed, Count, Section
from analogsim.config.findings import validate
from analogsim.config.yaml_tree import read_tree


class SlurmSettings(Section):
    jobs: Annotated[int, Le(10_000)] = Field(ge=1, description="at most so many at a time, each one worker")
    memory: Annotated[str, Allowed("an amount such as 4GB")] = Field(
        pattern=r"^[0-9]+ ?[kMGT]i?B$", description="of each job"
    )
    cores: Count = Field(default=1, description="of each job")
    queue: str | None = Field(default=None, description="the partition")
    account: str | None = Field(default=None, description="that pays")
    walltime: Annotated[str, Allowed('a time such as "04:00:00"')] = Field(
        default="01:00:00", pattern=r"^([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}$", description="of each job"
    )
    directives: tuple[str, ...] = Field(default=(), strict=False, description="further #SBATCH lines")

    @property
    def walltime_s(self) -> float:
        days, _, time = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, time.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds


def load_slurm(path: str | Path) -> SlurmSettings:
    """A Slurm file. Raises ConfigError listing all problems."""
    return validate(SlurmSettings, read_tree(Path(path)))
