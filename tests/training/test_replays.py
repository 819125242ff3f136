"""The stand-in for a CUDA graph (conftest.py) does what a recording on a GPU does, and refuses what that refuses."""

import pytest
import torch


def test_a_recording_is_played_on_the_same_memory_and_does_nothing_before(replays):
    given, kept = torch.arange(3.0), torch.zeros(3)

    def work():
        kept.add_(torch.sqrt(given.view(3, 1) * 2).view(-1))

    play = replays().record(work)
    assert kept.tolist() == [0, 0, 0]
    given.copy_(torch.tensor([2.0, 8.0, 18.0]))
    play()
    play()
    assert kept.tolist() == [4, 8, 12]


@pytest.mark.parametrize(
    "work", [lambda: torch.ones(1).item(), lambda: torch.tensor(2.0), lambda: torch.ones(2).nonzero()]
)
def test_what_would_wait_cannot_be_recorded(work, replays):
    with pytest.raises(RuntimeError, match="not permitted"):
        replays().record(work)
