"""The command line with a bug planted in how a batch is split; test_torchrun.py has torchrun start it."""

from analogsim import cli
from analogsim.training.distributed import Team

sound = Team.take


def take(self: Team, whole: int) -> slice:
    """Every process numbers its samples from 0, and so draws the same noise as the others."""
    mine = sound(self, whole)
    self.first = 0
    return mine


if __name__ == "__main__":
    Team.take = take
    cli.main()
