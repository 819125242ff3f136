"""What a dotted key may set within the lists of a network."""

import pytest

from analogsim.config.loader import load_plan, parse_set
from analogsim.config.schema import Convolution
from analogsim.config.sweeps import load_sweep

LAYERS = "network: {layers: [{conv: {channels: 4, kernel: 3}}, {conv: {channels: 2, kernel: 2}}, {dense: 5}]}\n"
CONVNET = f"data: digits\nchip: ideal\n{LAYERS}"


@pytest.fixture
def plan_of(folder):
    """The variants of a text, with `--set` options."""

    def plan_of(text, *options):
        (folder / "e.yaml").write_text(text)
        return load_plan("e.yaml", [parse_set(option) for option in options]).variants

    return plan_of


# Dotted keys into lists


def test_a_dotted_key_steps_into_a_list(plan_of):
    (one,) = plan_of(CONVNET, "network.layers.0.conv.kernel=5", "network.layers.1.conv={stride: 2}").values()
    first, second, last = one.network.layers
    assert first.conv == Convolution(channels=4, kernel=5)
    assert second.conv == Convolution(channels=2, kernel=2, stride=2)
    assert last.dense == 5
    base, wide = plan_of(CONVNET + "variants: {base: {}, wide: {network.layers.2.dense: 50}}\n").values()
    assert wide == base.replace(**{"network.layers.2.dense": 50})
    assert (base.network.layers[2].dense, wide.network.layers[2].dense) == (5, 50)
    (dense,) = plan_of("data: digits\nchip: ideal\nnetwork: {hidden: [8, 4]}\n", "network.hidden.1=9").values()
    assert dense.network.hidden == (8, 9)


def test_what_is_put_into_a_list_keeps_its_place(complaints):
    option = "network.layers.1.conv.kernel=0"
    (said,) = complaints(CONVNET, option)
    assert said.startswith(f"--set {option}: network.layers.1.conv.kernel: 0 is not allowed; allowed: a whole number")
    (said,) = complaints(CONVNET + "variants: {a: {network.layers.0.conv.kernel: x}}\n")
    assert said.startswith('e.yaml:4:46: variants.a.network.layers.0.conv.kernel: "x" is not allowed')


def test_an_item_that_is_not_there_is_refused_with_those_that_are(complaints):
    for item in ("3", "-1", "last"):
        option = f"network.layers.{item}.dense=3"
        (said,) = complaints(CONVNET, option)
        path = f"network.layers.{item}.dense"
        assert said == f"--set {option}: {path}: network.layers has no item {item}; allowed: 0 to 2"
    text = "data: digits\nchip: ideal\nnetwork: {hidden: [8]}\n"
    (said,) = complaints(text, "network.hidden.1=3")
    assert said.endswith("network.hidden.1: network.hidden has no item 1; allowed: 0")
    (said,) = complaints(text.replace("8", ""), "network.hidden.0=3")
    assert said.endswith("network.hidden.0: network.hidden is [], which has no items to set")


def test_kernels_and_channels_are_axes(folder):
    axes = {"network.layers.0.conv.kernel": [1, 3, 5], "network.layers.1.conv.channels": [2, 8]}
    (folder / "s.yaml").write_text(CONVNET)
    found = load_sweep("s.yaml", axes=axes)
    convolutions = [[layer.conv for layer in trial.experiment.network.layers[:2]] for trial in found.trials]
    assert [(first.kernel, second.channels) for first, second in convolutions] == [
        (kernel, channels) for kernel in (1, 3, 5) for channels in (2, 8)
    ]
    assert found.columns == tuple(axes)
    (folder / "again.yaml").write_text(found.text)
    assert load_sweep("again.yaml") == found
