"""The command line with a bug planted in how a step is shared out; test_torchrun.py has torchrun start it.

The first argument says which: `rows` or `passes`. The others are the command line's.
"""

import sys

from analogsim import cli
from analogsim.chip.chip import SimulatedChip
from analogsim.training.distributed import Team

sound = Team.take


def take(self: Team, whole: int) -> slice:
    """Every process numbers its samples from 0, and so draws the same noise as the others."""
    mine = sound(self, whole)
    self.first = 0
    return mine


def skip(self: SimulatedChip, passes: int) -> None:
    """Every process numbers its passes from 0; time goes by as it should."""
    assert self._share is not None
    self.clock.count(passes * self._share.whole)


if __name__ == "__main__":
    if sys.argv.pop(1) == "rows":
        Team.take = take
    else:
        SimulatedChip.skip = skip
    cli.main()
