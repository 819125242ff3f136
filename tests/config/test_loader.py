"""Chips and experiments from files: every problem points into its file, every plan reads back the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analogsim.config import schema
from analogsim.config.chip import Adc
from analogsim.config.laws import ConstantSigma
from analogsim.config.loader import VARIANT, Override, Plan, bundled, load_chip, load_plan, parse_set
from analogsim.config.sweeps import load_sweep
from analogsim.config.writing import IdealWrite, VerifyWrite
from analogsim.errors import ConfigError


def written(text, name="e.yaml"):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)
    return name


# --- all problems, in file order, in the file they stand in -----------------------------------------


def test_a_problem_of_a_chip_file_points_into_it(complaints):
    written("# mine\nname: c\nadc: {bits: 0}\nnam: d\nnam: e\n", "chips/c.yaml")
    known = ", ".join(schema.ChipDescription.model_fields)
    converter = "allowed: 2 to 16, or leave adc out for an ideal converter"
    bound = "allowed: max, calibrated or a number greater than 0"
    in_chip = [
        f"chips/c.yaml:3:1: adc.bound: is missing and has no default; {bound}",
        f"chips/c.yaml:3:13: adc.bits: 0 is not a number of bits; {converter}",
        f"chips/c.yaml:4:1: nam: unknown key; did you mean name? allowed: {known}",
        "chips/c.yaml:5:1: nam: given twice; keep one",
    ]
    rest = [
        f"e.yaml:1:7: data: 3 is not a data set; allowed: {schema.DATA_SETS}",
        "e.yaml:3:8: seeds: 0 is not allowed; allowed: a count from 1 to 10000, or a list of seeds, all different",
    ]
    assert complaints("data: 3\nchip: chips/c.yaml\nseeds: 0\n") == rest + in_chip
    assert complaints("data: 3\nchip: {base: chips/c.yaml}\nseeds: 0\n") == rest + in_chip
    assert complaints("data: 3\nchip: ideal\nseeds: 0\nvariants: {a: {chip: chips/c.yaml}, b: {}}\n") == rest + in_chip
    with pytest.raises(ConfigError) as error:
        load_chip("chips/c.yaml")
    assert str(error.value).split("\n") == in_chip


def test_an_unreadable_chip_hides_no_other_problem(complaints, monkeypatch):
    written("adc: [\n", "c.yaml")
    messages = complaints("data: 3\nchip: c.yaml\n", "chip.adc.bits=4", "seeds=0")
    assert [message.split(": ")[0] for message in messages] == ["e.yaml:1:7", "c.yaml:2:1", "--set seeds=0"]
    monkeypatch.setattr(Path, "read_bytes", lambda path: (path / "x").open())
    with pytest.raises(ConfigError, match=r"^c\.yaml: cannot be read: Not a directory$"):
        load_chip("c.yaml")


def test_problems_of_all_variants_are_said_once_each(complaints):
    text = "data: 3\nchip: ideal\nvariants:\n  b: {seeds: 0}\n  a/: {}\n  c: {seeds: 2, chip: idael}\n"
    places = [message.split(": ")[0] for message in complaints(text)]
    assert places == ["e.yaml:1:7", "e.yaml:4:14", "e.yaml:5:3", "e.yaml:6:23"]


# --- finding files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "what"),
    [("no", "does not exist"), ("no.yaml", "does not exist"), ("d.yaml", "is a folder"), (300 * "a", "does not exist")],
)
def test_no_such_file(folder, source, what):
    (folder / "d.yaml").mkdir()
    with pytest.raises(ConfigError) as error:
        load_chip(source)
    assert str(error.value).startswith(f"{source}: {what}; allowed: a .yaml file, or one of the devices shipped: ")


def test_a_chip_file_is_looked_for_beside_the_experiment_first(folder):
    written("name: near\n", "sub/c.yaml")
    written("name: here\n", "c.yaml")
    written("name: only here\n", "d.yaml")
    written(
        "data: digits\nchip: c.yaml\nvariants: {a: {}, b: {chip: d.yaml}, c: {chip: {base: c.yaml, source: x}}}\n",
        "sub/e.yaml",
    )
    names = {name: experiment.chip.name for name, experiment in load_plan("sub/e.yaml").variants.items()}
    assert names == {"a": "near", "b": "only here", "c": "near"}
    (from_option,) = load_plan("sub/e.yaml", [parse_set("chip=c.yaml")]).variants.values()
    assert from_option.chip.name == "here"


@pytest.mark.parametrize("path", sorted(bundled("examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_examples_are_valid(path):
    load = load_sweep if "sweep" in path.stem else load_plan
    assert load(path.stem) == load(path)


@pytest.mark.parametrize("path", sorted(bundled("devices").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_chips_are_valid_and_bear_their_names(path):
    assert load_chip(path.stem).name == path.stem


# --- what later sayings change --------------------------------------------------------------------------


def plan_of(text, *options):
    return load_plan(written(text), [parse_set(option) for option in options]).variants


def test_a_mapping_changes_the_keys_it_names_and_no_others(folder):
    text = (
        "data: digits\nlearner: {rule: np, samples: 3}\n"
        "chip: {base: crossbar-generic, adc: {bits: 4}, dac: null}\n"
        "variants: {a: {}, b: {learner: {samples: 5}}, c: {chip: {cell: {g_max_uS: 30}}}}\n"
    )
    a, b, c = plan_of(text, "learner={difference: both}").values()
    assert (a.chip.adc.bits, a.chip.adc.bound, a.chip.dac, a.chip.cell.g_max_uS) == (4, 20.0, None, 25.0)
    assert (b.learner.rule, b.learner.samples, b.learner.difference) == ("np", 5, "both")
    assert c.chip == a.chip.replace(**{"cell.g_max_uS": 30})


def test_a_law_is_given_whole(folder):
    law = "{law: constant, sigma_uS: 0.1}"
    text = f"data: digits\nchip: {{base: crossbar-generic, cell: {{read_noise: {law}}}}}\n"
    (one,) = plan_of(text).values()
    (two,) = plan_of("data: digits\nchip: crossbar-generic\n", f"chip.cell.read_noise={law}").values()
    assert one == two
    assert one.chip.cell.read_noise == ConstantSigma(law="constant", sigma_uS=0.1)


def test_a_way_of_writing_is_given_whole(folder):
    """Nothing of what a chip's own write path says stays when another takes its place."""
    pulsed = "{mode: pulsed, cell: {model: constant, dw_min: 0.1}}"
    chip = f"data: digits\nchip: {{base: crossbar-generic, write: {pulsed}}}\n"
    options = "{mode: ideal}", "{mode: verify, threshold_uS: 1}"
    for option, expected in zip(options, (IdealWrite(mode="ideal"), VerifyWrite(mode="verify", threshold_uS=1.0))):
        (one,) = plan_of(chip, f"chip.write={option}").values()
        (two,) = plan_of(chip + f"variants: {{a: {{chip: {{write: {option}}}}}}}\n").values()
        assert one.chip.write == two.chip.write == expected


def test_a_named_chip_goes_before_changes_to_it(folder):
    text = "data: digits\nchip: ideal\nvariants: {a: {chip.node_noise.sigma: 0.5}}\n"
    for option in ("chip=crossbar-generic", "chip.base=crossbar-generic"):
        (a,) = plan_of(text, option, "chip.dac=null").values()
        assert (a.chip.name, a.chip.node_noise.sigma, a.chip.dac) == ("crossbar-generic", 0.5, None)


def test_variants_made_the_same_by_options_are_trained_once(folder, complaints):
    text = "data: digits\nchip: ideal\nvariants: {a: {}, b: {chip: gaussian-node}, c: {seeds: 2}}\n"
    assert list(plan_of(text, "chip=ideal")) == ["a", "c"]
    same = "data: digits\nchip: ideal\nvariants: {a: {}, b: {}}\n"
    assert complaints(same, "seeds=2") == complaints(same)


def test_replace_changes_a_copy():
    chip = load_chip("ideal")
    assert chip.replace(**{"adc.bits": 8, "adc.bound": 1}).adc == Adc(bits=8, bound=1.0)
    assert chip.adc is None
    with pytest.raises(ConfigError) as error:
        chip.replace(**{"adc.bits": 0, "name.x": 1, "prot": 1})
    assert [problem.path for problem in error.value.problems] == ["name.x", "adc.bits", "adc.bound", "prot"]


def test_an_experiment_is_replaced_by_dotted_keys():
    one = load_plan("quickstart").variants["gaussian-node"]
    two = one.replace(**{"training.epochs": np.int64(3), "learner": {"samples": 2}, "seeds": (4, 5)})
    assert (two.training.epochs, two.learner.samples, two.seeds) == (3, 2, (4, 5))
    assert two.replace(**{"training.epochs": 20, "learner.samples": 1, "seeds": 3}) == one
    assert one.training.epochs == 20  # itself unchanged
    with pytest.raises(ConfigError) as error:
        one.replace(**{"training.epochs": 1.5, "chip.adc.bits": 1, "prot": 1})
    assert {problem.path for problem in error.value.problems} >= {"training.epochs", "chip.adc.bits", "prot"}
    assert {problem.where for problem in error.value.problems} == {"experiment.replace"}


def test_an_experiment_s_chip_is_replaced_whole_or_in_part():
    one = load_plan("quickstart").variants["gaussian-node"]
    crossbar = load_chip("crossbar-generic")
    for chip in ("crossbar-generic", crossbar):
        assert one.replace(chip=chip).chip == crossbar
        assert one.replace(chip=chip).replace(chip=one.chip) == one
    assert one.replace(**{"chip.node_noise.sigma": 0.5}).chip == one.chip.replace(**{"node_noise.sigma": 0.5})
    assert one.replace(chip={"node_noise": {"sigma": 0.5}}).chip.name == "gaussian-node"
    kept = one.replace(chip="ideal").learner
    assert (kept.baseline, kept.perturbation) == ("noisy", "intrinsic")
    anew = one.replace(**{"chip": "ideal", "learner.baseline": "auto", "learner.perturbation": "auto"}).learner
    assert (anew.baseline, anew.perturbation) == ("clean", 1e-3)


def test_a_plan_is_read_from_a_mapping(folder):
    base = {"data": "digits", "chip": load_chip("ideal"), "seeds": np.int64(2)}
    given = base | {"variants": {"a": {}, "b": {"learner.rule": "np"}}}
    text = "data: digits\nchip: ideal\nseeds: 2\nvariants: {a: {}, b: {learner.rule: np}}\n"
    assert load_plan(given) == load_plan(written(text))
    with pytest.raises(ConfigError, match=r"experiment: trainin: unknown key; did you mean training\?"):
        load_plan({"data": "digits", "chip": "ideal", "trainin": 3})
    with pytest.raises(ConfigError, match=r"experiment: chip: is missing"):
        load_plan({"data": "digits"})


@pytest.mark.parametrize(
    ("key", "value"), [("cell.weight_max", 9.0), ("adc.noise", 0.5), ("dac.bits", 3), ("node_noise.sigma", 0.25)]
)
def test_a_key_that_only_a_chip_has_is_the_chip_s(folder, key, value):
    for said in (key, f"chip.{key}"):
        (experiment,) = plan_of("data: digits\nchip: prime\n", f"{said}={value}").values()
        section, leaf = key.split(".")
        assert getattr(getattr(experiment.chip, section), leaf) == value
    assert parse_set("decorrelation.rate=1").key == "decorrelation.rate"  # a chip has such a key too


def test_the_keys_of_a_law_are_named(complaints):
    (said,) = complaints("data: digits\nchip: sonos\n", "cell.read_noise.sigma=0.1")
    assert said.endswith("chip.cell.read_noise.sigma: unknown key; allowed: valid_uS, law, amplitude_uS, scale_uS")


def test_an_optimizer_by_its_name_alone(folder, complaints):
    """In the file, in a variant and as an option; a later one keeps the other keys."""
    text = "data: digits\nchip: ideal\nlearner: {rule: bp}\n"
    (named,) = plan_of(text + "optimizer: on_chip\n", "optimizer.lr=0.1").values()
    assert (named.optimizer.name, named.optimizer.lr) == ("on_chip", 0.1)
    found = plan_of(text + "optimizer: {lr: 0.1}\nvariants: {a: {optimizer: sgd}, b: {}}\n")
    assert [(e.optimizer.name, e.optimizer.lr) for e in found.values()] == [("sgd", 0.1), ("adam", 0.1)]
    (option,) = plan_of(text, "optimizer=sgd").values()
    assert option.optimizer.name == "sgd"
    assert option.replace(optimizer="adam").optimizer.name == "adam"
    (said,) = complaints(text + "optimizer: sdg\n")
    assert said == 'e.yaml:4:12: optimizer: "sdg" is not allowed; allowed: adam, sgd or on_chip'


# --- round trips ----------------------------------------------------------------------------------------

text = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20)
positive = st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**9)
non_negative = st.floats(0, allow_infinity=False) | st.integers(0, 10**9)
fraction = st.floats(0, 1, exclude_max=True)
bits = st.integers(2, 16)


def some(required=None, **optional):
    return st.fixed_dictionaries(required or {}, optional=optional)


def law(name, required=None, **optional):
    return some({"law": st.just(name)} | (required or {}), **optional)


numbers = st.lists(st.floats(-1e9, 1e9) | st.integers(-9, 9), min_size=1, max_size=4)
wide = st.just([0, 50]) | st.just([0.0, 1e9])  # holds every range below
sigmas = st.one_of(
    law("constant", {"sigma_uS": non_negative}, valid_uS=wide),
    law("proportional", {"k": non_negative}),
    law("sqrt", {"k_sqrt_uS": non_negative}),
    law("polynomial", {"coefficients_uS": numbers}, unit_uS=positive, valid_uS=wide),
    law("exponential", {"amplitude_uS": non_negative, "scale_uS": positive}),
    law("table", {"g_uS": st.just([0, 9.5, 50]), "sigma_uS": st.lists(non_negative, min_size=3, max_size=3)}),
)
number = st.floats(-1e9, 1e9)
logs = {"slope": number, "intercept": number, "min": number, "max": number}
of_r = st.one_of(
    law("power", {"coefficient": number, "exponent": number, "max": positive}, floor=positive),
    law("log", logs),
    law("log", logs | {"split": positive, "polynomial": numbers}),
)
drifts = st.one_of(
    law("power", {"t0_s": positive, "unit_uS": positive, "exponent": of_r, "spread": of_r}, valid_s=wide),
    law("log", {"mean_uS": number, "spread_uS": number, "spread_at_1s_uS": non_negative}),
    law("retention", {"times_s": st.just([1, 86400.0]), "errors": st.lists(sigmas, min_size=2, max_size=2)}),
)
pulsed_cells = st.one_of(
    some({"model": st.just("constant"), "dw_min": positive}, c2c=non_negative, w_min=st.floats(-9, -0.5)),
    some({"model": st.just("soft_bounds"), "dw_min": positive}, dw_min_lognormal=st.booleans(), stuck=fraction),
    some(
        {"model": st.just("neurosim"), "states": st.integers(2, 99)}
        | {key: st.floats(-9, 9) for key in ("nonlinearity_up", "nonlinearity_down")}
    ),
)
writes = st.one_of(
    some({"mode": st.just("ideal")}),
    some({"mode": st.just("verify")}, threshold_uS=non_negative, tolerance_uS=positive, max_tries=st.integers(1, 9)),
    some({"mode": st.just("pulsed"), "cell": pulsed_cells}, train_length=st.integers(1, 99)),
)
cells = some(
    g_max_uS=st.floats(1, 50),
    g_min_uS=fraction,
    mapping=st.sampled_from(["differential", "reference", "offset"]),
    weight_max=st.just("auto") | positive,
    slices=st.none() | some({"bits": st.integers(1, 8), "cells": st.integers(1, 16)}),
    programming=st.none() | sigmas,
    faults=some(stuck_low=st.floats(0, 0.5), stuck_random=st.floats(0, 0.5)),
    drift=st.none() | drifts,
    read_noise=st.none() | sigmas,
    flicker=st.none() | some({"t_r_s": positive, "strength": of_r | law("log10", {"coefficient_uS": positive})}),
)
chips = some(
    name=text.filter(bool),
    description=text,
    injection_port=st.booleans(),
    node_noise=some(
        sigma=non_negative, telegraph=st.none() | some({"amplitude": non_negative, "flip_probability": fraction})
    ),
    cell=st.none(),
    dac=st.none() | some({"bits": bits}, bound=st.just("per_vector") | positive, bit_serial=st.none() | some()),
    adc=st.none() | some({"bits": bits, "bound": st.sampled_from(["max", "calibrated"]) | positive}),
    clock=some(t_read_s=non_negative),
    costs=some(pulse_J=non_negative),
) | some(
    {"cell": cells, "clock": some({"t_read_s": positive})},
    adc=some({"bits": bits, "bound": positive}, stochastic_rounding=st.booleans()),
    wires=st.none() | some({"segment_ohm": non_negative}, model=st.sampled_from(["first_order", "exact"])),
    tile=some(rows=st.none() | st.integers(1, 9)),
    write=writes,
)
experiments = some(
    {
        "data": text.filter(bool).map("npz:{}".format) | st.sampled_from(["digits", "npz:1e-3", "npz:C:\\x y.npz"]),
        "chip": chips,
    },
    network=some(hidden=st.lists(st.integers(1, 10**5), max_size=3), negative_slope=non_negative, bias=st.booleans()),
    learner=some(
        rule=st.sampled_from(schema.RULES),
        baseline=st.sampled_from(["auto", "clean", "noisy"]),
        perturbation=st.sampled_from(["auto", "intrinsic"]) | positive,
        samples=st.integers(1, 99),
    ),
    decorrelation=some(rate=non_negative),
    optimizer=some(
        name=st.sampled_from(["adam", "sgd"]), lr=positive, betas=st.lists(fraction, min_size=2, max_size=2)
    ),
    training=some(epochs=st.integers(0, 99), loss=st.sampled_from(["auto", "mse"]), angle=st.booleans()),
    seeds=st.integers(1, 5) | st.lists(st.integers(0, 2**70), min_size=1, max_size=3, unique=True),
)
names = st.from_regex(VARIANT, fullmatch=True) | st.sampled_from(
    ["on", "no", "1", "1e-3", "null", "a b", "learner.rule"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(names, experiments), min_size=1, max_size=3, unique_by=lambda pair: pair[0].lower()))
def test_a_plan_reads_back_the_same(tmp_path_factory, variants):
    plan = Plan({name: schema.Experiment.model_validate(tree).resolved() for name, tree in variants})
    found = list(plan.variants.values())
    assume(all(found[i] not in found[:i] for i in range(len(found))))
    path = tmp_path_factory.getbasetemp() / "plan.yaml"
    path.write_text(plan.to_yaml(), encoding="utf-8")
    assert load_plan(path) == plan
    assert load_plan(path).to_yaml() == plan.to_yaml()


@settings(max_examples=60, deadline=None)
@given(experiments)
def test_a_written_experiment_means_what_its_tree_says(tmp_path_factory, tree):
    """JSON is YAML: what is written by another hand, or given as options, is the same experiment."""
    expected = schema.Experiment.model_validate(tree).resolved()
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert list(load_plan(path).variants.values()) == [expected]
    path.write_text("data: digits\n", encoding="utf-8")
    options = [Override(key, value, f"--set {key}") for key, value in tree.items()]
    assert list(load_plan(path, options).variants.values()) == [expected]


junk = st.recursive(
    st.sampled_from([None, True, 0, -1, 1e400, "", "ideal", "sqrt", 3.0]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["base", "law", "adc", "bits", "rule", "a.b", "chip", "variants", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*schema.Experiment.model_fields, "variants", "x"]), junk), st.data())
def test_any_tree_is_a_plan_or_a_config_error(tmp_path_factory, tree, data):
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text(json.dumps(tree).replace("Infinity", ".inf"), encoding="utf-8")
    key = data.draw(st.sampled_from(["chip", "chip.base", "chip.adc.bits", "learner", "seeds.0", "variants.a", "a..b"]))
    try:
        load_plan(path, [Override(key, data.draw(junk), f"--set {key}")])
        problems = []
    except ConfigError as error:
        problems = str(error).split("\n")
    assert all(line.startswith((f"{path}:", "--set ", "devices/")) for line in problems)
