"""What is not at hand comes to the same as what is: numbers, and some entries of a tensor."""

import pytest
import torch

from analogsim import at_hand
from analogsim.at_hand import Picked, at_least, number, whole

MASKS = {"some": [[True, False, True], [False, True, True]], "none": [[False] * 3] * 2, "all": [[True] * 3] * 2}


@pytest.fixture(params=["here", "far"])
def place(request, monkeypatch):
    if request.param == "far":
        monkeypatch.setattr(at_hand, "HOST", frozenset())
    return request.param


def test_numbers_are_python_s_own_on_the_host_alone(place):
    found = number(torch.tensor(0.1)), whole(torch.tensor(7.0))
    assert [type(one) for one in found] == ([float, int] if place == "here" else [torch.Tensor] * 2)
    assert (float(found[0]), int(found[1])) == (float(torch.tensor(0.1)), 7)
    assert float(at_least(found[0], 0.5)) == 0.5
    assert float(at_least(found[0], 0.05)) == float(found[0])


@pytest.mark.parametrize("name", MASKS)
def test_picked_entries(name, place):
    mask = torch.tensor(MASKS[name])
    held, new = torch.arange(6.0).view(2, 3), torch.arange(10.0, 16.0).view(2, 3)
    picked = Picked.by(mask)
    assert picked.none == (place == "here" and name == "none")
    assert (int(picked.count), int(picked.total(picked.of(new)))) == (int(mask.sum()), int((new * mask).sum()))
    picked.put(picked.of(new), held)
    assert held.equal(torch.where(mask, new, torch.arange(6.0).view(2, 3)))
    picked.put(-1.0, held)
    assert held[mask].tolist() == [-1.0] * int(mask.sum())
    picked.put(picked.drawn(lambda n: torch.arange(100.0, 100.0 + n)), held)
    assert held[mask].tolist() == [100.0 + i for i in range(int(mask.sum()))]
