"""Sweep files: their axes, their trials and identities, and what is said of their mistakes."""

import hashlib
import json
from pathlib import Path

import pytest

from analogsim.config.axes import spaced
from analogsim.config.loader import Override, bundled, load_chip, load_plan, parse_set
from analogsim.config.schema import PATHS, ChipDescription, Experiment
from analogsim.config.sweeps import identity, load_sweep
from analogsim.errors import ConfigError

HEAD = "data: digits\nchip: gaussian-node\n"


@pytest.fixture
def sweep(folder):
    """sweep(text, *options) -> the Sweep of s.yaml with that text, or with `axes:` and HEAD around it."""

    def load(text, *options):
        (folder / "s.yaml").write_text(text if "axes" in text else f"{HEAD}axes:\n  {text}\n", encoding="utf-8")
        return load_sweep("s.yaml", [parse_set(option) for option in options])

    return load


@pytest.fixture
def complaints(sweep):
    def complaints(text, *options):
        with pytest.raises(ConfigError) as error:
            sweep(text, *options)
        return str(error.value).split("\n")

    return complaints


def points(found):
    return [tuple(trial.point.values()) for trial in found.trials]


# Values


@pytest.mark.parametrize(
    ("said", "values"),
    [
        ("[3, 1, 2]", [3, 1, 2]),
        ("{linspace: [0.1, 0.5, 5]}", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("{logspace: [1e-3, 1, 4]}", [1e-3, 1e-2, 1e-1, 1.0]),
        ("{logspace: [1, 1e-3, 4]}", [1.0, 1e-1, 1e-2, 1e-3]),
    ],
)
def test_values_of_an_axis(sweep, said, values):
    found = sweep(f"optimizer.lr: {said}")
    assert [trial.experiment.optimizer.lr for trial in found.trials] == values
    assert found.columns == ("optimizer.lr",)


def test_thirteen_points_from_1e_5_to_1_are_the_round_numbers_they_look_like():
    """Figures that a C library rounds otherwise in the last place would be other trials elsewhere."""
    values = spaced("logspace", 1e-5, 1.0, 13)
    assert values[0] == 1e-5
    assert values[-1] == 1.0
    assert values[6] == 0.00316227766017
    assert values == pytest.approx([10 ** (-5 + 5 * i / 12) for i in range(13)], rel=1e-11)
    assert all(value == float(f"{value:.12g}") for value in values)


def test_whole_numbers_stay_whole_where_all_points_are(sweep):
    assert points(sweep("learner.samples: {linspace: [2, 10, 5]}")) == [("2",), ("4",), ("6",), ("8",), ("10",)]
    assert points(sweep("learner.samples: {logspace: [1, 1000, 4]}")) == [("1",), ("10",), ("100",), ("1000",)]


def test_axes_multiply_the_last_fastest_and_seeds_fastest_of_all(sweep):
    found = sweep(HEAD + "seeds: [7, 3]\naxes:\n  learner.rule: [danp, dbp]\n  learner.samples: [1, 2]\n")
    assert [(*trial.point.values(), trial.seed) for trial in found.trials] == [
        (rule, samples, seed) for rule in ("danp", "dbp") for samples in "12" for seed in (7, 3)
    ]
    assert all(trial.experiment.seeds == (trial.seed,) for trial in found.trials)


@pytest.mark.parametrize("zipped", ["{%s}", "[{%s}]"])
def test_zipped_keys_advance_together(sweep, zipped):
    pair = "learner.samples: [1, 2, 4], training.epochs: [40, 20, 10]"
    found = sweep(HEAD + "axes:\n  zip: " + zipped % pair + "\n  learner.rule: [danp, dbp]\n")
    assert found.columns == ("learner.rule", "learner.samples", "training.epochs")
    assert [point[1:] for point in points(found)] == [("1", "40"), ("2", "20"), ("4", "10")] * 2


def test_two_zips_are_two_axes(sweep):
    found = sweep("zip: [{learner.samples: [1, 2], training.epochs: [2, 1]}, {training.batch: [5, 6]}]")
    assert len(found.trials) == 4


def test_lists_and_mappings_are_values(sweep):
    found = sweep("network.hidden: [[8], [8, 4]]\n  chip.adc: [null, {bits: 8, bound: 2.0}]")
    assert [trial.experiment.network.hidden for trial in found.trials] == [(8,), (8,), (8, 4), (8, 4)]
    assert points(found)[1] == ("[8]", '{"bits": 8, "bound": 2.0}')
    assert points(found)[0] == ("[8]", "null")


# Chips


def test_chips_by_name_by_file_and_inline(sweep, folder):
    (folder / "mine.yaml").write_text("name: mine\nnode_noise: {sigma: 0.5}\n")
    found = sweep("chip: [ideal, mine.yaml, {base: mine.yaml, name: louder, node_noise: {sigma: 0.7}}]")
    assert [trial.labels["chip"] for trial in found.trials] == ["ideal", "mine", "louder"]
    assert [trial.experiment.chip.node_noise.sigma for trial in found.trials] == [0.0, 0.5, 0.7]
    assert found.columns == ()
    (folder / "mine.yaml").unlink()
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "sweep.yaml").write_text(found.text)
    assert load_sweep(folder / "elsewhere" / "sweep.yaml") == found


def test_a_part_of_every_chip_of_an_axis_can_be_an_axis_too(sweep):
    found = sweep("chip.node_noise.sigma: [0.1, 0.2]\n  chip: [ideal, gaussian-node]")
    assert [(trial.experiment.chip.name, trial.experiment.chip.node_noise.sigma) for trial in found.trials] == [
        ("ideal", 0.1), ("gaussian-node", 0.1), ("ideal", 0.2), ("gaussian-node", 0.2)
    ]  # fmt: skip


def test_ideal_is_the_chip_of_the_defaults():
    """A chip written out stands on it: whatever it does not say must be the schema's default."""
    said = ("name", "description", "technology", "paper", "source", "injection_port")
    assert load_chip("ideal").model_dump(exclude=set(said)) == ChipDescription().model_dump(exclude=set(said))


# Named axes

NAMED = """\
data: digits
chip: ideal
seeds: 2
axes:
  noise: [0.1, 0.2]
  training.batch: [10, 20]
variants:
  danp: {chip: gaussian-node, chip.node_noise.sigma: $noise}
  dnp: {learner.rule: dnp, learner.baseline: noisy, learner.perturbation: $noise}
  reference: {learner.rule: bp}
"""


def test_a_named_axis_goes_where_its_name_stands_and_nowhere_else(sweep):
    found = sweep(NAMED)
    assert found.columns == ("noise", "training.batch")
    by_run = {run: [trial for trial in found.trials if trial.run == run] for run in ("danp", "dnp", "reference")}
    assert [trial.experiment.chip.node_noise.sigma for trial in by_run["danp"]] == [0.1, 0.1, 0.2, 0.2] * 2
    assert {trial.experiment.learner.perturbation for trial in by_run["dnp"]} == {0.1, 0.2}
    assert [trial.point for trial in by_run["reference"]] == [
        {"training.batch": "10"}, {"training.batch": "10"}, {"training.batch": "20"}, {"training.batch": "20"}
    ]  # fmt: skip


def test_a_name_may_stand_within_a_chip_of_an_axis_and_within_a_list(sweep):
    found = sweep(
        "noise: [0.1, 0.2]\n  chip: [ideal, {base: ideal, name: loud, node_noise: {sigma: $noise}}]\n"
        "  width: [3, 4]\nnetwork: {hidden: [8, $width]}"
    )
    told = [(t.experiment.chip.name, t.experiment.chip.node_noise.sigma, t.point.get("noise")) for t in found.trials]
    assert told[::2] == [("ideal", 0.0, None), ("loud", 0.1, "0.1"), ("loud", 0.2, "0.2")]
    assert [trial.experiment.network.hidden for trial in found.trials] == [(8, 3), (8, 4)] * 3


# Identity


def test_an_identity_is_the_hash_of_what_is_trained():
    experiment = next(iter(load_plan("quickstart").variants.values()))
    tree = experiment.model_dump(mode="json")
    for name in ("name", "description", "technology", "paper", "source"):
        del tree["chip"][name]
    for key in ("capture", "checkpoint_s", "split"):
        del tree["training"][key]
    del tree["seeds"]
    text = json.dumps(tree | {"seed": 2}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert identity(experiment, 2) == hashlib.sha256(text.encode()).hexdigest()


def change(**changes):
    experiment = next(iter(load_plan("quickstart").variants.values()))
    return identity(experiment.replace(**{key.replace("__", "."): value for key, value in changes.items()}), 0)


@pytest.mark.parametrize("key", ["chip__name", "chip__description", "chip__source"])
def test_names_make_no_other_trial(key):
    assert change(**{key: "another"}) == change()
    other = change(training__checkpoint_s=1.0, training__split="samples", training__capture="off", seeds=[3])
    assert other == change()


@pytest.mark.parametrize(
    "changes",
    [{"training__epochs": 21}, {"chip__node_noise__sigma": 0.002}, {"learner__rule": "anp"}, {"network__bias": False},
     {"network__hidden": [128, 128]}, {"training__tf32": True}, {"optimizer__eps": 2e-7}, {"data": "mnist"}],
)  # fmt: skip
def test_whatever_changes_a_result_makes_another_trial(changes):
    assert change(**changes) != change()


def test_another_seed_is_another_trial():
    experiment = next(iter(load_plan("quickstart").variants.values()))
    assert len({identity(experiment, seed) for seed in range(100)}) == 100


def test_a_whole_number_is_the_number_it_is(sweep):
    """1 and 1.0 for a key of real numbers train the same."""
    keys = ("optimizer.lr", "learner.perturbation", "chip.node_noise.sigma", "chip.cell.weight_max")
    for key in keys:
        one, other = (sweep(f"{key}: [{value}]\nlearner: {{rule: bp}}").trials[0].identity for value in ("1", "1.0"))
        assert one == other, key


def test_the_order_of_keys_and_the_way_of_saying_make_no_other_trial(sweep):
    one = sweep("learner.samples: [2]\nlearner: {rule: anp}\ntraining: {epochs: 3}")
    other = sweep("learner.rule: [anp]\ntraining: {epochs: 3}\nlearner: {samples: 2}")
    assert [trial.identity for trial in one.trials] == [trial.identity for trial in other.trials]


def test_trials_that_are_the_same_stand_once(sweep):
    found = sweep("learner.rule: [bp, danp]\n  learner.samples: [1]\nvariants: {a: {}, b: {training.epochs: 10}}")
    assert (len(found.trials), found.repeated) == (2, 2)
    assert {trial.run for trial in found.trials} == {"a"}
    again = load_sweep(Path("s.yaml").write_text(found.text) and "s.yaml")
    assert again.trials == found.trials


# Written out

TEXTS = [
    NAMED,
    HEAD + "axes: {learner.rule: [danp, dbp]}",
    HEAD
    + "axes: {zip: [{training.batch: [10, 20], optimizer.lr: {logspace: [0.1, 0.2, 2]}}], learner.samples: [1, 2]}",
    "data: digits\nlearner: {rule: danp}\naxes: {chip: [ideal, crossbar-generic], chip.dac.bits: [4, 8]}",
    HEAD
    + "variants: {a: {chip: crossbar-generic, chip.adc.bits: 4}, b: {}}\naxes: {chip.node_noise.sigma: [0.1, 0.2]}",
    "data: npz:mine.npz\nchip: ideal\naxes: {learner.rule: [danp, dbp]}",
]


@pytest.mark.parametrize("options", [(), ("training.epochs=3",), ("chip.cell={g_max_uS: 3.0}", "seeds=[5]")])
@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_out_reads_back_to_the_same_trials(sweep, folder, monkeypatch, text, options):
    found = sweep(text, *options)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "sweep.yaml").write_text(found.text)
    monkeypatch.chdir(folder / "elsewhere")
    again = load_sweep("sweep.yaml")
    assert again.trials == found.trials
    assert (again.columns, again.text) == (found.columns, found.text)


@pytest.mark.parametrize("kind", PATHS)
def test_data_of_the_users_own_are_found_from_elsewhere(sweep, folder, kind):
    found = sweep(f"data: {kind}:mine\nchip: ideal\naxes: {{learner.rule: [danp, dbp]}}")
    assert {trial.experiment.data for trial in found.trials} == {f"{kind}:{folder / 'mine'}"}
    assert f"data: {kind}:{folder / 'mine'}\n" in found.text
    at_home = sweep(f"data: {kind}:~/mine\nchip: ideal\naxes: {{learner.rule: [danp, dbp]}}")
    assert {trial.experiment.data for trial in at_home.trials} == {f"{kind}:~/mine"}


@pytest.mark.parametrize("path", sorted(bundled("examples").glob("*sweep*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_sweeps_read_back_to_the_same_trials(folder, path):
    found = load_sweep(path)
    (folder / "sweep.yaml").write_text(found.text)
    assert load_sweep("sweep.yaml") == found


# Options and Python


def test_options_change_the_experiment_and_the_axes(sweep):
    found = sweep(
        "learner.samples: [1, 2, 3]", "training.epochs=3", "axes.learner.samples=[4]", "axes.learner.rule=[bp]"
    )
    assert points(found) == [("4", "bp")]
    assert found.trials[0].experiment.training.epochs == 3


def test_a_sweep_from_a_mapping_and_axes():
    found = load_sweep({"data": "digits", "chip": "ideal"}, axes={"learner.samples": (1, 2)})
    assert points(found) == [("1",), ("2",)]
    experiment = Experiment.model_validate(load_plan("quickstart").variants["gaussian-node"].model_dump())
    assert len(load_sweep(experiment.model_dump(mode="json"), axes={"learner.samples": [1, 2]}).trials) == 6


# Mistakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "axes:", "s.yaml:3:1: axes: is missing: a sweep needs axes; allowed: dotted keys"),
        (HEAD + "axes: 3", "s.yaml:3:7: axes: 3 is not allowed; allowed: dotted keys with their values"),
        ("learner.samples: []", "s.yaml:4:20: axes.learner.samples: [] is not allowed; allowed: a list of values, "),
        ("learner.samples: 3", "s.yaml:4:20: axes.learner.samples: 3 is not allowed; allowed: a list of values, "),
        ("learner.samples: [1, 2, 1]", "s.yaml:4:27: axes.learner.samples.2: 1 is given twice in learner.samples"),
        ("learner.samples: [1, 0]", "s.yaml:4:24: axes.learner.samples.1: 0 is not allowed; allowed: a whole number,"),
        ("learner.samlpes: [1]", "s.yaml:4:21: axes.learner.samlpes.0: unknown key; did you mean samples?"),
        ("optimizer.lr: {logspace: [0, 1, 3]}", "s.yaml:4:28: axes.optimizer.lr.logspace: [0, 1, 3] is not allowed;"),
        ("optimizer.lr: {linspace: [0, 1]}", "s.yaml:4:28: axes.optimizer.lr.linspace: [0, 1] is not allowed;"),
        ("optimizer.lr: {linspace: [0.5, 0.5, 3]}", "allowed: [a, b, n]: two different numbers and how many points"),
        ("optimizer.lr: {linspace: [0, 1, 1]}", "allowed: [a, b, n]: two different numbers and how many points"),
        ("optimizer.lr: {linspace: [-1, 1, 3]}", "s.yaml:4:28: axes.optimizer.lr.linspace: -1 is not allowed; allowed"),
        ("optimizer.lr: {geomspace: [0.1, 1, 3]}", "s.yaml:4:17: axes.optimizer.lr: "),
        ("lr: [1, 2]", "s.yaml:4:3: axes.lr: no key of the experiment is set to $lr"),
        ("learning-rate: [1, 2]", "s.yaml:4:3: axes.learning-rate: is neither a key of an experiment"),
        ("rule: [bp, np]", "s.yaml:4:3: axes.rule: is a column of the tables already"),
        ("seeds: [1, 2]", "s.yaml:4:3: axes.seeds: is no axis; write `seeds` beside `axes`"),
        ("chip.base: [ideal]", "s.yaml:4:3: axes.chip.base: is no axis; list the chips under `chip`"),
        ("learner..rule: [bp]", "s.yaml:4:3: axes.learner..rule: \"learner..rule\" is not a dotted key"),
        ("chip: [nosuch]", 's.yaml:4:10: axes.chip.0: "nosuch" does not exist; allowed: a .yaml file, or one of the d'),
        ("chip: [ideal, {base: ideal, injection_port: false}]", "its chip is named ideal as another of this axis is;"),
        ("zip: {learner.samples: [1, 2], training.epochs: [1]}", "s.yaml:4:8: axes.zip: keys that advance together ne"),
        ("zip: 3", "s.yaml:4:8: axes.zip: 3 is not allowed; allowed: a mapping of keys that advance together"),
        ("zip: {learner.samples: [1]}\n  learner.samples: [2]", "axes.zip.learner.samples: given twice; keep one"),
        ("learner.samples: [1]\nvariants: {a: {learner.samples: 2}}", "s.yaml:5:16: variants.a.learner.samples: is an"),
        ("learner.samples: [1]\noptimizer: {lr: $rate}", 's.yaml:5:17: optimizer.lr: "$rate" names no axis; allowed:'),
        ("rate: [1]\noptimizer: {lr: $rate, eps: $eps}", 's.yaml:5:29: optimizer.eps: "$eps" names no axis; allowed:'),
        ("rate: [0.1, 0]\noptimizer: {lr: $rate}", "s.yaml:4:15: axes.rate.1: 0 is not allowed; allowed: a number gre"),
    ],
)  # fmt: skip
def test_mistakes_are_said_with_their_places(complaints, text, expected):
    (line,) = [line for line in complaints(text) if expected in line] or complaints(text)
    assert expected in line


def test_all_mistakes_are_said_at_once_and_each_once(complaints):
    lines = complaints("learner.samples: [0, 1]\n  training.epochs: [-1, 1, 2]\noptimizer: {lr: -1}")
    assert [line.split(": ")[1] for line in lines] == [
        "axes.learner.samples.0",
        "axes.training.epochs.0",
        "optimizer.lr",
    ]


def test_an_option_on_an_axis_is_refused_with_the_way_to_do_it(complaints):
    (line,) = complaints("learner.samples: [1, 2]", "learner.samples=3")
    assert "learner.samples is an axis of this sweep; change its values with --set 'axes.learner.samples=[…]'" in line
    with pytest.raises(ConfigError, match="chip is an axis of this sweep"):
        load_sweep({"data": "digits"}, [Override("chip", "ideal", "--chip ideal")], {"chip": ["ideal"]})


def test_too_many_points_are_refused_before_they_are_made(complaints):
    axes = "\n  ".join(f"{key}: {{linspace: [1, 1000, 1000]}}" for key in ("learner.samples", "training.batch"))
    (line,) = complaints(axes)
    assert "more than 100000 trials" in line


def test_a_sweep_is_no_experiment(folder):
    (folder / "s.yaml").write_text(HEAD + "axes: {learner.samples: [1]}\n")
    with pytest.raises(
        ConfigError, match=r"s.yaml:3:1: axes: an experiment with axes is a sweep; run it with `analogsim sweep`"
    ):
        load_plan("s.yaml")
