"""What a chip lacks is said before any training, by a table of its own, not by the code's."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analogsim.config.chip import ChipDescription, NodeNoise
from analogsim.config.loader import Plan
from analogsim.config.schema import Convolution, Experiment, LayerSettings, LearnerSettings, Network, TrainingSettings
from analogsim.contracts import Capabilities
from analogsim.errors import AnalogsimError, CapabilityError, DataError
from analogsim.experiment.results import claimed
from analogsim.experiment.run import Reporter
from analogsim.experiment.run import train as train_plan
from analogsim.training.build import build_network, build_trainer, check_plan
from analogsim.training.data import Dataset

RULES = ("bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp")
HIDDEN = NodeNoise(sigma=1e-3)
CHIPS = {
    "port": ChipDescription(name="a quiet chip with a port", injection_port=True),
    "sealed": ChipDescription(name="a quiet chip without a port"),
    "noisy port": ChipDescription(name="a noisy chip with a port", injection_port=True, node_noise=HIDDEN),
    "noisy": ChipDescription(name="a noisy chip without a port", node_noise=HIDDEN),
}
# rule without its d: (baseline, perturbation) -> the chips it runs on. All others must be refused.
RUNS_ON = {
    ("bp", "clean", "intrinsic"): {"port", "sealed", "noisy port", "noisy"},
    ("bp", "clean", 0.01): {"port", "sealed", "noisy port", "noisy"},
    ("bp", "noisy", "intrinsic"): {"port", "sealed", "noisy port", "noisy"},
    ("bp", "noisy", 0.01): {"port", "sealed", "noisy port", "noisy"},
    ("np", "clean", 0.01): {"port"},
    ("np", "noisy", 0.01): {"port", "noisy port"},
    ("anp", "clean", 0.01): {"port"},
    ("anp", "noisy", 0.01): {"port", "noisy port"},
    ("anp", "noisy", "intrinsic"): {"noisy port", "noisy"},
    ("inp", "clean", 0.01): {"port"},
    ("inp", "noisy", 0.01): {"port", "noisy port"},
}
WHY = {
    ("np", "noisy", "intrinsic", "noisy"): "needs a perturbation it knows, and the chip's own noise is hidden",
    ("dinp", "clean", "intrinsic", "port"): "inp needs a perturbation it knows",
    ("anp", "clean", 0.01, "sealed"): "no injection port",
    ("dnp", "noisy", 0.01, "noisy"): "no injection port",
    ("danp", "noisy", "intrinsic", "port"): "no noise of its own",
    ("anp", "clean", "intrinsic", "noisy"): "always noisy, so there is no clean baseline",
    ("inp", "clean", 0.01, "noisy port"): "always noisy, so there is no clean baseline",
}
every_rule = pytest.mark.parametrize("rule", RULES)
every_chip = pytest.mark.parametrize("chip", CHIPS)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(12, 5, generator=generator), torch.arange(12) % 3
    return Dataset("tiny", x, y, x[:6], y[:6], 1.0, 3)


def experiment(rule="danp", chip="port", baseline="auto", perturbation="auto", **others):
    learner = LearnerSettings(rule=rule, baseline=baseline, perturbation=perturbation)
    description = CHIPS[chip] if isinstance(chip, str) else chip
    training = TrainingSettings(epochs=1, batch=6)
    return Experiment(
        data="digits", chip=description, learner=learner, training=training, network=Network(hidden=(4,)), **others
    ).resolved()


def fits(rule, chip, baseline, perturbation):
    return chip in RUNS_ON.get((rule.removeprefix("d"), baseline, perturbation), ())


@every_rule
@every_chip
@pytest.mark.parametrize("baseline", ["clean", "noisy"])
@pytest.mark.parametrize("perturbation", ["intrinsic", 0.01])
def test_a_rule_runs_where_the_table_says_and_nowhere_else(data, rule, chip, baseline, perturbation):
    plan = experiment(rule, chip, baseline, perturbation)
    if fits(rule, chip, baseline, perturbation):
        check_plan({"run": plan})
        build_trainer(plan, data, seed=0, backend="torch").run()
        return
    for refuse in (lambda: check_plan({"run": plan}), lambda: build_trainer(plan, data, seed=0)):
        with pytest.raises(CapabilityError) as caught:
            refuse()
        assert str(caught.value).startswith(f"rule {rule} cannot run on chip {CHIPS[chip].name}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", WHY)
def test_the_reason_is_the_chips_lack(case):
    rule, baseline, perturbation, chip = case
    with pytest.raises(CapabilityError, match=WHY[case]):
        check_plan({"run": experiment(rule, chip, baseline, perturbation)})


@every_chip
def test_what_is_named_as_working_is_all_that_works_and_does(data, chip):
    with pytest.raises(CapabilityError) as caught:
        check_plan({"run": experiment("np", chip, "noisy", "intrinsic")})
    named = str(caught.value).partition("what works on it: ")[2]
    way = re.compile(r"(\w+)(?: \(baseline: (\w+), perturbation: ([\w.e-]+)\))?(?:, |$)")
    ways = [match.groups() for match in way.finditer(named)]
    assert "".join(match.group() for match in way.finditer(named)) == named
    for rule, baseline, perturbation in ways:
        sigma = perturbation if perturbation in (None, "intrinsic") else float(perturbation)
        build_trainer(experiment(rule, chip, baseline or "auto", sigma or "auto"), data, 0, backend="torch").run()
    settings = list(itertools.product(["clean", "noisy"], ["intrinsic", 0.01]))
    assert [rule for rule, *_ in ways] == [rule for rule in RULES if any(fits(rule, chip, *s) for s in settings)]


@every_rule
@every_chip
def test_auto_settings_run_wherever_any_would(data, rule, chip):
    plan = experiment(rule, chip)
    if any(fits(rule, chip, *s) for s in itertools.product(["clean", "noisy"], ["intrinsic", 0.01])):
        build_trainer(plan, data, seed=0, backend="torch")
    else:
        with pytest.raises(CapabilityError):
            build_trainer(plan, data, seed=0)


@pytest.mark.parametrize("unfit", ["first", "last"])
def test_a_refusal_comes_before_any_training_and_leaves_the_folder_to_be_used(tmp_path, unfit):
    variants = {"good": experiment(), "bad": experiment("np", "noisy")}
    plan = Plan(dict(reversed(variants.items())) if unfit == "first" else variants)
    folder = tmp_path / "run"
    with claimed(folder, resume=False), pytest.raises(CapabilityError):
        train_plan(plan, folder, "auto", "cpu", False, Reporter())
    assert [path.name for path in folder.iterdir()] == [".lock"]
    with claimed(folder, resume=False):
        pass


class BoardInTheLab:
    """A lab's own chip, with no port and noise that is always there."""

    capabilities = Capabilities(injection_port=False, noise_free=False)


def test_a_labs_own_chip_is_asked_what_it_can(data):
    with pytest.raises(
        CapabilityError, match=r"np cannot run on chip BoardInTheLab: .* what works on it: anp \(.*\), danp"
    ):
        build_trainer(experiment("np", "port"), data, seed=0, chip=BoardInTheLab())


@pytest.mark.parametrize("rule", ["bp", "dbp"])
def test_bp_has_no_copy_of_the_weights_of_a_labs_own_chip(data, rule):
    with pytest.raises(CapabilityError, match=f"{rule} cannot run on chip BoardInTheLab: it must know the weights"):
        build_trainer(experiment(rule, "port"), data, seed=0, chip=BoardInTheLab())


def test_bps_copy_clips_where_the_chips_cells_do(data):
    plan = experiment("bp", "port")
    cell = {"weight_max": 0.2, "g_min_uS": 0.0, "g_max_uS": 25.0}
    plan = plan.model_copy(update={"chip": plan.chip.replace(cell=cell)})
    trainer = build_trainer(plan, data, seed=0)
    trainer.run()
    for copy, weight in zip(trainer.learner.weights, trainer.chip.weights):
        assert torch.equal(copy, weight)
        assert float(weight.abs().max()) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("loss", "real", "words"),
    [("cross_entropy", True, "targets are real numbers"), ("mse", False, "targets are class numbers")],
)
def test_a_loss_that_does_not_fit_the_targets_is_refused(data, loss, real, words):
    y = torch.rand(12, 3)
    targets = Dataset("reals", data.x_train, y, data.x_test, y[:6], 1.0, 3) if real else data
    plan = experiment().model_copy(update={"training": TrainingSettings(loss=loss)})
    with pytest.raises(DataError, match=words):
        build_trainer(plan, targets, seed=0)


CONV = LayerSettings(conv=Convolution(channels=2, kernel=3))
WIDE = LayerSettings(conv=Convolution(channels=2, kernel=5, padding=1))
DENSE = LayerSettings(dense=4)


@pytest.mark.parametrize(
    ("layers", "image", "words"),
    [
        ((CONV, WIDE), (4, 5, 1), "network.layers.1.conv: kernel 5 does not fit into 2 × 3 with padding 1"),
        ((WIDE,), (5, 2, 2), "network.layers.0.conv: kernel 5 does not fit into 5 × 2 with padding 1"),
        (
            (CONV, DENSE),
            None,
            "network.layers.0.conv: needs images below it, and tiny has none; for images, give x as (rows, height, "
            "width[, channels])",
        ),
        (
            (CONV,),
            (1, 8, 8),
            "network.layers.0.conv: kernel 3 does not fit into 1 × 8 with padding 0; tiny is taken as images of 1 × 8 "
            "with 8 channels; if it holds 1 channel of 8 × 8, give x as (rows, height, width, channels)",
        ),
    ],
)
def test_a_convolution_that_does_not_fit_is_named_with_the_reason(data, layers, image, words):
    inputs = torch.rand(12, *(image or (5,)))
    images = Dataset("tiny", inputs, data.y_train, inputs[:6], data.y_test, 1.0, 3)
    assert images.image_shape == image
    plan = experiment().model_copy(update={"network": Network(layers=layers)})
    with pytest.raises(DataError) as caught:
        build_network(plan, images)
    assert str(caught.value) == words


SIDE = st.integers(1, 5)
CONVOLUTIONS = st.builds(Convolution, channels=st.just(1), kernel=SIDE, stride=SIDE, padding=st.integers(0, 2))


@settings(max_examples=200, deadline=None)
@given(st.lists(CONVOLUTIONS, min_size=1, max_size=4))
def test_what_a_file_is_refused_for_is_what_cannot_be_built(convolutions):
    """The schema looks at 8 × 8 images without loading them; data of one's own of that size is looked at here."""
    network = Network(layers=tuple(LayerSettings(conv=conv) for conv in convolutions))
    images = torch.zeros(2, 8, 8)
    own = Dataset("own", images, torch.arange(2), images, torch.arange(2), 1.0, 2)
    refused = ()
    try:
        Experiment(data="digits", chip=CHIPS["port"], network=network)
    except ValidationError as error:
        *refused, _ = error.errors()[0]["ctx"]["error"].args
    try:
        build_network(experiment().model_copy(update={"network": network}), own)
    except DataError as error:
        where, kernel = re.match(r"network\.layers\.(\d+)\.conv: kernel (\d+) ", str(error)).groups()
        assert list(refused) == ["layers", int(where), "conv", "kernel"]
        assert network.layers[int(where)].conv.kernel == int(kernel)
    else:
        assert not refused


@pytest.mark.parametrize(("backend", "device"), [("nump", "cpu"), ("", "cpu"), ("numba", "cuda"), ("numpy", "cuda:0")])
def test_an_unfit_backend_is_an_argument_error(data, backend, device):
    with pytest.raises(AnalogsimError, match="backend: "):
        build_trainer(experiment(), data, seed=0, backend=backend, device=device)


def test_seeds_differ_in_initial_weights_and_runs_of_one_seed_share_them(data):
    def weights(seed, rule):
        return build_trainer(experiment(rule), data, seed, "torch").chip.weights

    for one, same, other in zip(weights(3, "danp"), weights(3, "bp"), weights(4, "danp")):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_a_loss_that_does_not_fit_is_found_before_the_first_variant_trains(data, tmp_path):
    settings = Experiment(data="npz:tiny", chip=CHIPS["noisy"], training=TrainingSettings(epochs=1))
    wrong = settings.model_copy(update={"training": TrainingSettings(epochs=1, loss="mse")})
    plan = Plan({"first": settings.resolved(), "second": wrong.resolved()})
    with (
        claimed(tmp_path / "run", resume=False),
        pytest.raises(DataError, match=r"^second: training.loss: mse does not fit tiny, whose targets are class num"),
    ):
        train_plan(plan, tmp_path / "run", "numpy", "cpu", False, Reporter(), lambda name: data)
    assert not (tmp_path / "run" / "curves.csv").exists()


def test_all_that_does_not_fit_is_said_of_every_variant_before_any_trains(data, tmp_path):
    settings = Experiment(data="npz:tiny", chip=CHIPS["noisy"], training=TrainingSettings(epochs=1)).resolved()
    network, training = Network(layers=(CONV,)), TrainingSettings(loss="mse")
    changes = {"good": {}, "b": {"network": network}, "c": {"network": network, "training": training}}
    plan = Plan({name: settings.model_copy(update=change) for name, change in changes.items()})
    with claimed(tmp_path / "run", resume=False), pytest.raises(DataError) as caught:
        train_plan(plan, tmp_path / "run", "numpy", "cpu", False, Reporter(), lambda name: data)
    flat = "network.layers.0.conv: needs images below it, and tiny has none; for images, give x as (rows, height, width"
    assert str(caught.value).split("\n") == [
        f"b: {flat}[, channels])",
        f"c: {flat}[, channels])",
        "c: training.loss: mse does not fit tiny, whose targets are class numbers",
    ]
    assert not (tmp_path / "run" / "config.yaml").exists()
