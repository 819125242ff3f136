"""What a file alone says of its network: whether it can be built, and what a dotted key may set within its lists."""

import pytest

from analogsim.config.loader import load_plan, parse_set
from analogsim.config.schema import IMAGE_SIZES, Convolution
from analogsim.config.sweeps import load_sweep
from analogsim.errors import ConfigError

LAYERS = "network: {layers: [{conv: {channels: 4, kernel: 3}}, {conv: {channels: 2, kernel: 2}}, {dense: 5}]}\n"
CONVNET = f"data: digits\nchip: ideal\n{LAYERS}"
IMAGES = [(data, size) for data, size in IMAGE_SIZES.items() if size is not None]


@pytest.fixture
def plan_of(folder):
    """The variants of a text, with `--set` options."""

    def plan_of(text, *options):
        (folder / "e.yaml").write_text(text)
        return load_plan("e.yaml", [parse_set(option) for option in options]).variants

    return plan_of


# Kernels


@pytest.mark.parametrize(("data", "size"), IMAGES)
@pytest.mark.parametrize("padding", [0, 2])
def test_a_kernel_as_large_as_its_padded_map_fits_and_one_larger_does_not(plan_of, complaints, data, size, padding):
    most = size[0] + 2 * padding

    def text(kernel):
        return f"data: {data}\nchip: ideal\nnetwork: {{layers: [conv: {{channels: 1, kernel: {kernel}}}]}}\n"

    option = f"network.layers.0.conv.padding={padding}"
    assert plan_of(text(most), option)
    (said,) = complaints(text(most + 1), option)
    allowed = f"{most} or less, to fit into the {size[0]} × {size[1]} below it with padding {padding} ({data})"
    assert said == f"e.yaml:3:48: network.layers.0.conv.kernel: {most + 1} is not allowed; allowed: {allowed}"


def test_data_without_images_takes_no_convolution_and_data_of_one_s_own_is_not_looked_at(plan_of, complaints):
    (said,) = complaints(CONVNET, "data=sarcos")
    assert (
        said == "e.yaml:3:27: network.layers.0.conv: needs images below it, and sarcos has none; allowed: dense layers"
    )
    large = "network.layers.1.conv.kernel=99"
    assert plan_of(CONVNET, "data=npz:nowhere.npz", large)
    assert len(complaints(CONVNET, large)) == 1


def test_networks_that_do_not_fit_are_said_of_all_variants_and_with_all_else(complaints):
    lines = complaints(
        CONVNET + "variants:\n"
        "  good: {}\n"
        "  wide: {network.layers.0.conv.kernel: 9}\n"
        "  deep: {network.layers.1.conv.kernel: 7}\n"
        "  late: {network.layers: [{dense: 3}, {conv: {channels: 2, kernel: 2}}]}\n"
        "optimizer: {lr: 0}\n"
    )
    assert [line.partition(" ")[0] + line.split(" ")[1] for line in lines] == [
        "e.yaml:6:40:variants.wide.network.layers.0.conv.kernel:",
        "e.yaml:7:40:variants.deep.network.layers.1.conv.kernel:",
        "e.yaml:8:46:variants.late.network.layers.1.conv:",
        "e.yaml:9:17:optimizer.lr:",
    ]


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


def test_an_axis_value_that_does_not_fit_is_named(folder):
    (folder / "s.yaml").write_text(CONVNET + "axes:\n  network.layers.0.conv.kernel: [3, 9, 10]\n")
    with pytest.raises(ConfigError) as error:
        load_sweep("s.yaml")
    assert [str(problem).partition(" is not")[0] for problem in error.value.problems] == [
        "s.yaml:5:37: axes.network.layers.0.conv.kernel.1: 9",
        "s.yaml:5:40: axes.network.layers.0.conv.kernel.2: 10",
    ]
