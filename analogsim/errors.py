"""What a user can get wrong, said in one line.

Every error a user can cause is an `AnalogsimError`; the command line prints its text, without a
traceback, and ends with a nonzero exit code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class AnalogsimError(Exception):
    """Base of all errors a user can cause. Its text names what is wrong and what is allowed."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file: where it stands, its dotted path, the value, what is allowed."""

    where: str  # "chip.yaml:14:12", or "--set adc.bits"
    path: str  # "adc.bits"
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.message}" if self.path else f"{self.where}: {self.message}"


class ConfigError(AnalogsimError):
    """A configuration file or option is wrong. `problems` holds all of them, in file order."""

    def __init__(self, problems: list[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class ArgumentError(AnalogsimError, ValueError):
    """An argument of a Python call is wrong: `argument`, its `value`, and what is allowed."""

    def __init__(self, argument: str, value: Any, allowed: str):
        self.argument, self.value, self.allowed = argument, value, allowed
        super().__init__(f"{argument}: {value!r} is not allowed; allowed: {allowed}")


class CapabilityError(AnalogsimError):
    """A rule needs what the chip lacks; the text names rule, chip, reason and what would work."""


class DataError(AnalogsimError):
    """A data set could not be read or fetched, or its arrays do not fit together."""


class RunFolderError(AnalogsimError):
    """A run folder is in use, not empty, damaged, or not one of ours."""


class ChipError(AnalogsimError):
    """A chip is asked for what its description says nothing of; the text names chip, law and range."""


class ProcessesError(AnalogsimError):
    """Processes that train together cannot go on together; the text says what keeps them from it."""


class FolderInUseError(RunFolderError):
    """Another process holds the folder."""
