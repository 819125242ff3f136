"""Every wrong line of an experiment, chip description or option, and exactly what is said of it."""

# ruff: noqa: E501 - a message is one line

import typing
from string import Template

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analogsim.config import chip as chip_schema
from analogsim.config import laws, schema, writing
from analogsim.config.loader import bundled

# In the tables: a line of YAML, or an option, and indented below it all that is said of it.

# After `data: digits` and `chip: ideal`.
LINES = r"""
optimizer: {lr: 0}
    3:17: optimizer.lr: 0 is not allowed; allowed: a number greater than 0
optimizer: {lr: .nan}
    3:17: optimizer.lr: NaN is not allowed; allowed: a finite number greater than 0
optimizer: {eps: -.inf}
    3:18: optimizer.eps: -Infinity is not allowed; allowed: a finite number greater than 0
optimizer: {lr: 1e999}
    3:17: optimizer.lr: Infinity is not allowed; allowed: a finite number greater than 0
optimizer: {momentum: -1}
    3:23: optimizer.momentum: -1 is not allowed; allowed: a number, 0 or more
optimizer: {momentum: true}
    3:23: optimizer.momentum: true is not allowed; allowed: a number, 0 or more
optimizer: {lr: '1e-3'}
    3:17: optimizer.lr: "1e-3" is not allowed; allowed: a number greater than 0
training: {epochs: -1}
    3:20: training.epochs: -1 is not allowed; allowed: a whole number, 0 or more
training: {batch: 0}
    3:19: training.batch: 0 is not allowed; allowed: a whole number, 1 or more
training: {batch: true}
    3:19: training.batch: true is not allowed; allowed: a whole number, 1 or more
training: {batch: 1e3}
    3:19: training.batch: 1000.0 is not allowed; allowed: a whole number, 1 or more; write 1000
training: {angle: yes}
    3:19: training.angle: "yes" is not allowed; allowed: true or false
training: {angle: 1}
    3:19: training.angle: 1 is not allowed; allowed: true or false
learner: {baseline: nosy}
    3:21: learner.baseline: "nosy" is not allowed; allowed: auto, clean or noisy
learner: {perturbation: 0}
    3:25: learner.perturbation: 0 is not allowed; allowed: auto, intrinsic or a number greater than 0
learner: {rule: null}
    3:17: learner.rule: null is not allowed; allowed: bp, np, anp, inp, dbp, dnp, danp or dinp
network: {hidden: 8}
    3:19: network.hidden: 8 is not allowed; allowed: a list, each item a whole number, 1 or more
network: {hidden: [8, 0]}
    3:23: network.hidden.1: 0 is not allowed; allowed: a whole number, 1 or more
network:\n  hidden:\n  - true
    5:5: network.hidden.0: true is not allowed; allowed: a whole number, 1 or more
network: {layers: [{dense: 5}, {conv: {channels: 4, kernel: 3}}]}
    3:39: network.layers.1.conv: needs images below it, and a dense layer comes before it; allowed: convolutions first
network: {layers: [{conv: {channels: 4, kernel: 1}}, {dense: 2}, {dense: 5}, {conv: {channels: 4, kernel: 9}}, {dense: 5}]}
    3:85: network.layers.3.conv: needs images below it, and a dense layer comes before it; allowed: convolutions first
network: {layers: [{conv: {channels: 4, kernel: 9}}]}
    3:49: network.layers.0.conv.kernel: 9 is not allowed; allowed: 8 or less, to fit into the 8 × 8 below it with padding 0 (digits)
network: {layers: [{conv: {kernel: 13, channels: 4, padding: 2}}]}
    3:36: network.layers.0.conv.kernel: 13 is not allowed; allowed: 12 or less, to fit into the 8 × 8 below it with padding 2 (digits)
network:\n  layers:\n  - conv: {channels: 4, kernel: 3, stride: 2}\n  - conv: {channels: 4, kernel: 4}
    6:33: network.layers.1.conv.kernel: 4 is not allowed; allowed: 3 or less, to fit into the 3 × 3 below it with padding 0 (digits)
optimizer: {betas: 0.9}
    3:20: optimizer.betas: 0.9 is not allowed; allowed: two numbers, each 0 or more and less than 1
optimizer: {betas: [0.9]}
    3:20: optimizer.betas: [0.9] is not allowed; allowed: two numbers, each 0 or more and less than 1
optimizer: {betas: [0, 0, 0]}
    3:20: optimizer.betas: [0, 0, 0] is not allowed; allowed: two numbers, each 0 or more and less than 1
optimizer: {betas: [0, 1]}
    3:24: optimizer.betas.1: 1 is not allowed; allowed: a number, 0 or more and less than 1
optimizer: {betas: [false, 0]}
    3:21: optimizer.betas.0: false is not allowed; allowed: a number, 0 or more and less than 1
seeds: 0
    3:8: seeds: 0 is not allowed; allowed: $SEEDS
seeds: 10001
    3:8: seeds: 10001 is not allowed; allowed: $SEEDS
seeds: true
    3:8: seeds: true is not allowed; allowed: $SEEDS
seeds: []
    3:8: seeds: [] is not allowed; allowed: $SEEDS
seeds: [2, 2]
    3:8: seeds: [2, 2] is not allowed; allowed: $SEEDS
seeds: [2, -2]
    3:12: seeds.1: -2 is not allowed; allowed: a whole number, 0 or more
sedes: 3
    3:1: sedes: unknown key; did you mean seeds? allowed: $TOP
1: 3
    3:1: 1: unknown key; allowed: $TOP
on: 3
    3:1: on: unknown key; allowed: $TOP
base: ideal
    3:1: base: unknown key; allowed: $TOP
network:\n  width: 3
    4:3: network.width: unknown key; allowed: $Network
decorrelation: {}\ndecorrelation: {}
    4:1: decorrelation: given twice; keep one
<<: {seeds: 3}
    3:1: <<: the merge key << is not allowed; write the keys out
? [seeds]\n: 3
    3:3: a key must be text, not a list or a mapping
learner: &a {}
    3:10: learner: the anchor &a is not allowed; write values out where they are needed
learner: *a
    3:10: learner: the alias *a is not allowed; write the value out
seeds: !!int 3
    3:8: seeds: the tag !!int is not allowed; leave it out
decorrelation:
    3:15: decorrelation: null is not allowed; allowed: a mapping (keys: $DecorrelationSettings)
network: [8]
    3:10: network: [8] is not allowed; allowed: a mapping (keys: $Network)
variants: 3
    3:11: variants: 3 is not allowed; allowed: names with overrides, as in {few: {learner.samples: 1}}
variants: {a: 3}
    3:15: variants.a: 3 is not allowed; allowed: overrides, as in {learner.rule: np}, or {} for none
variants: {a: }
    3:14: variants.a: null is not allowed; allowed: overrides, as in {learner.rule: np}, or {} for none
variants: {a/b: {}}
    3:12: variants.a/b: "a/b" is not a variant's name; allowed: $NAME
variants: {.a: {}}
    3:12: variants..a: ".a" is not a variant's name; allowed: $NAME
variants: {a.: {}}
    3:12: variants.a.: "a." is not a variant's name; allowed: $NAME
variants: {'a ': {}}
    3:12: variants.a : "a " is not a variant's name; allowed: $NAME
variants: {σ: {}}
    3:12: variants.σ: "σ" is not a variant's name; allowed: $NAME
variants: {'': {}}
    3:12: variants: "" is not a variant's name; allowed: $NAME
variants: {aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: {}}
    3:12: variants.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... is not a variant's name; allowed: $NAME
variants: {a: {seeds: 2}, A: {}}
    3:27: variants.A: differs from another variant's name in capitals only
variants: {on: {}, off: {}}
    3:20: variants.off: the same experiment as variant on; change one, or take it out
variants: {a: {}, b: {learner.baseline: clean}}
    3:19: variants.b: the same experiment as variant a; change one, or take it out
variants: {a: {learner.rule: 3}}
    3:30: variants.a.learner.rule: 3 is not allowed; allowed: bp, np, anp, inp, dbp, dnp, danp or dinp
variants: {a: {learner: {samples: 0}}}
    3:35: variants.a.learner.samples: 0 is not allowed; allowed: a whole number, 1 or more
variants: {a: {seed: 3}}
    3:16: variants.a.seed: unknown key; did you mean seeds? allowed: $Experiment
variants: {a: {data.x: 3}}
    3:24: variants.a.data.x: data is "digits", which has no keys to set
variants: {a: {seeds..x: 3}}
    3:26: variants.a.seeds..x: "seeds..x" is not a dotted key, such as learner.rule
variants: {a: {seeds: 2, network.layers: [conv: {channels: 1, kernel: 9}]}}
    3:71: variants.a.network.layers.0.conv.kernel: 9 is not allowed; allowed: 8 or less, to fit into the 8 × 8 below it with padding 0 (digits)
variants: {a: {variants: {}}}
    3:16: variants.a.variants: unknown key; allowed: $Experiment
"""

# The chip of an experiment, after `data: digits`.
CHIPS = r"""
{adc: {bits: 0, bound: 1}}
    2:20: chip.adc.bits: 0 is not a number of bits; allowed: 2 to 16, or leave adc out for an ideal converter
{dac: {bits: 17}}
    2:20: chip.dac.bits: 17 is not a number of bits; allowed: 2 to 16, or leave dac out for an ideal converter
{adc: {bits: 8}}
    2:8: chip.adc.bound: is missing and has no default; allowed: $BOUND
{adc: {bits: 8}, dac: {bits: 8.0}}
    2:8: chip.adc.bound: is missing and has no default; allowed: $BOUND
    2:36: chip.dac.bits: 8.0 is not a number of bits; allowed: 2 to 16, or leave dac out for an ideal converter; write 8
{adc: 8}
    2:13: chip.adc: 8 is not allowed; allowed: a mapping (keys: $Adc) or null
{dac: {bits: 4, bound: -1}}
    2:30: chip.dac.bound: -1 is not allowed; allowed: per_vector or a number greater than 0
{cell: {weight_max: true}}
    2:27: chip.cell.weight_max: true is not allowed; allowed: auto or a number greater than 0
{cell: {g_max_uS: 5, g_min_uS: 7}}
    2:38: chip.cell.g_min_uS: 7 is not allowed; allowed: a number below g_max_uS = 5.0
{cell: {read_noise: {law: sqrt}, weight_max: 0}}
    2:15: chip.cell.read_noise.k_sqrt_uS: is missing and has no default; allowed: a number, 0 or more
    2:52: chip.cell.weight_max: 0 is not allowed; allowed: auto or a number greater than 0
{cell: {read_noise: {law: sqrt, k_sqrt_uS: 1, k: 1}}}
    2:53: chip.cell.read_noise.k: unknown key; allowed: $SqrtSigma
{cell: {read_noise: {law: cubic}}}
    2:33: chip.cell.read_noise.law: "cubic" is not allowed; allowed: $LAWS
{cell: {read_noise: {law: [sqrt]}}}
    2:33: chip.cell.read_noise.law: ["sqrt"] is not allowed; allowed: $LAWS
{cell: {read_noise: {k: 1}}}
    2:15: chip.cell.read_noise.law: is missing and has no default; allowed: $LAWS
{cell: {read_noise: 1}}
    2:27: chip.cell.read_noise: 1 is not allowed; allowed: a mapping (keys: $SIGMA) or null
{cell: {programming: {law: polynomial, coefficients_uS: []}}}
    2:63: chip.cell.programming.coefficients_uS: [] is not allowed; allowed: a list of numbers, one or more
{cell: {programming: {law: polynomial, coefficients_uS: [1, x]}}}
    2:67: chip.cell.programming.coefficients_uS.1: "x" is not allowed; allowed: a number
{cell: {g_max_uS: 30, programming: {law: constant, sigma_uS: 1, valid_uS: [0, 25]}}}
    2:25: chip.cell.g_max_uS: 30 is not allowed; allowed: a range within 0.0 to 25.0 µS, where programming was measured
{cell: {g_min_uS: 1, read_noise: {law: table, g_uS: [2, 30], sigma_uS: [1, 1]}}}
    2:25: chip.cell.g_min_uS: 1 is not allowed; allowed: a range within 2.0 to 30.0 µS, where read_noise was measured
{cell: {drift: {law: retention, times_s: [1], errors: [{law: constant, sigma_uS: 1, valid_uS: [0, 9]}]}}}
    2:8: chip.cell.g_max_uS: is left out; allowed: a range within 0.0 to 9.0 µS, where drift was measured
{cell: {read_noise: {law: table, g_uS: [2, 1], sigma_uS: [1, 1]}}}
    2:46: chip.cell.read_noise.g_uS: [2, 1] is not allowed; allowed: conductances that rise from one to the next
{cell: {read_noise: {law: table, g_uS: [0, 30], sigma_uS: [1, 1, 1]}}}
    2:65: chip.cell.read_noise.sigma_uS: [1, 1, 1] is not allowed; allowed: as many numbers as g_uS has, 2
{cell: {read_noise: {law: constant, sigma_uS: 1, valid_uS: [0]}}}
    2:66: chip.cell.read_noise.valid_uS: [0] is not allowed; allowed: two numbers, the lower first, none below 0 or null
{cell: {read_noise: {law: constant, sigma_uS: 1, valid_uS: [9, 1]}}}
    2:66: chip.cell.read_noise.valid_uS: [9, 1] is not allowed; allowed: two numbers, the lower first, none below 0 or null
{cell: {drift: {law: retention, times_s: [1, 2], errors: [{law: constant, sigma_uS: 1}]}}}
    2:64: chip.cell.drift.errors: [{"law": "constant", "sigma_uS": 1}] is not allowed; allowed: as many laws as times_s has, 2
{cell: {drift: {law: power, t0_s: 1, unit_uS: 1, exponent: {law: pow}, spread: 3}}}
    2:72: chip.cell.drift.exponent.law: "pow" is not allowed; allowed: power or log
    2:86: chip.cell.drift.spread: 3 is not allowed; allowed: a mapping (keys: law, coefficient, exponent, floor, max, slope, intercept, min, split, polynomial)
{cell: {flicker: {t_r_s: 0, strength: {law: log10}}}}
    2:32: chip.cell.flicker.t_r_s: 0 is not allowed; allowed: a number greater than 0
    2:35: chip.cell.flicker.strength.coefficient_uS: is missing and has no default; allowed: a number greater than 0
{cell: {flicker: {t_r_s: 1, strength: {law: log10, coefficient_uS: 1}}}}
    2:1: chip.clock.t_read_s: is left out; allowed: $AFTER
{clock: {t_read_s: 0}, cell: {flicker: {t_r_s: 1, strength: {law: log10, coefficient_uS: 1}}}}
    2:26: chip.clock.t_read_s: 0 is not allowed; allowed: $AFTER
{cell: {faults: {stuck_low: 0.6, stuck_high: 0.6}}}
    2:15: chip.cell.faults.stuck_random: is left out; allowed: shares that sum to 1 or less
{wires: {segment_ohm: 1}}
    2:1: chip.cell: is left out; allowed: a mapping, since wires is given
{write: {mode: verify}}
    2:1: chip.cell: is left out; allowed: a mapping, since write is verify
{write: {mode: pulse}}
    2:22: chip.write.mode: "pulse" is not allowed; allowed: ideal, verify or pulsed
{write: {mode: pulsed, cell: {model: liner}}}
    2:44: chip.write.cell.model: "liner" is not allowed; allowed: constant, linear, soft_bounds, exponential or neurosim
{write: {mode: pulsed, cell: {model: linear, dw_min: 0, gamma_up: 1, gamma_down: -1}}}
    2:60: chip.write.cell.dw_min: 0 is not allowed; allowed: a number greater than 0
    2:88: chip.write.cell.gamma_down: -1 is not allowed; allowed: a number, 0 or more
{dac: {bits: 8, bit_serial: {adc: per_slice}}}
    2:1: chip.adc: is left out; allowed: a mapping, since dac.bit_serial.adc is per_slice
{cell: {slices: {bits: 0}}}
    2:15: chip.cell.slices.cells: is missing and has no default; allowed: a whole number from 1 to 16
    2:30: chip.cell.slices.bits: 0 is not allowed; allowed: a whole number from 1 to 8
{pass_schedule: x, clock: {t_first_read_s: 0}}
    2:23: chip.pass_schedule: "x" is not allowed; allowed: whole_batch or interleaved
    2:50: chip.clock.t_first_read_s: 0 is not allowed; allowed: a number greater than 0
{node_noise: {telegraph: {amplitude: 1, flip_probability: 2}}}
    2:65: chip.node_noise.telegraph.flip_probability: 2 is not allowed; allowed: a number from 0 to 1
{name: ''}
    2:14: chip.name: "" is not allowed; allowed: text, not empty
{name: 3}
    2:14: chip.name: 3 is not allowed; allowed: text, not empty
{bas: ideal}
    2:8: chip.bas: unknown key; did you mean base? allowed: $CHIP
{base: ideal, ports: 1}
    2:21: chip.ports: unknown key; did you mean costs? allowed: $CHIP
{base: ideal, name: {a: 1}}
    2:31: chip.name.a: name is "ideal", which has no keys to set
{base: idael, ports: 1}
    2:14: chip.base: "idael" does not exist; allowed: a .yaml file, or one of the devices shipped: $DEVICES; did you mean ideal?
{base: 3}
    2:14: chip.base: 3 does not exist; allowed: a .yaml file, or one of the devices shipped: $DEVICES
c.yaml
    2:7: chip: "c.yaml" does not exist; allowed: a .yaml file, or one of the devices shipped: $DEVICES
3
    2:7: chip: 3 is not allowed; allowed: the name of a shipped chip, a .yaml file, or a mapping

    2:6: chip: null is not allowed; allowed: the name of a shipped chip, a .yaml file, or a mapping
"""

# `--set`, for an experiment of `data: digits`, `chip: ideal` and `seeds: [7, 8]`.
OPTIONS = r"""
chip.adc.bits=0
    chip.adc.bits: 0 is not a number of bits; allowed: 2 to 16, or leave adc out for an ideal converter
    chip.adc.bound: is missing and has no default; allowed: $BOUND
chip.adc={bits: 4}
    chip.adc.bound: is missing and has no default; allowed: $BOUND
chip.cell={read_noise: {law: sqrt}}
    chip.cell.read_noise.k_sqrt_uS: is missing and has no default; allowed: a number, 0 or more
learner={rul: np}
    learner.rul: unknown key; did you mean rule? allowed: $LearnerSettings
learner=np
    learner: "np" is not allowed; allowed: a mapping (keys: $LearnerSettings)
data.x=1
    data.x: data is "digits", which has no keys to set
seeds.2=1
    seeds.2: seeds has no item 2; allowed: 0 to 1
seeds.-1=1
    seeds.-1: seeds has no item -1; allowed: 0 to 1
seeds.00=1
    seeds.00: seeds has no item 00; allowed: 0 to 1
seeds.first=1
    seeds.first: seeds has no item first; allowed: 0 to 1
seeds.1=-1
    seeds.1: -1 is not allowed; allowed: a whole number, 0 or more
seeds.1.x=1
    seeds.1.x: seeds.1 is 8, which has no keys to set
chip.name.x=1
    chip.name.x: chip.name is "ideal", which has no keys to set
network.hidden.0=0
    network.hidden: {"0": 0} is not allowed; allowed: a list, each item a whole number, 1 or more
learner.=1
    learner.: "learner." is not a dotted key, such as learner.rule
chip=idael
    chip: "idael" does not exist; allowed: a .yaml file, or one of the devices shipped: $DEVICES; did you mean ideal?
chip.base=3
    chip.base: 3 is not allowed; allowed: the name of a shipped chip, a .yaml file, or a mapping
variants.a.seeds=3
    variants: unknown key; allowed: $Experiment
data=npz:a: b
    data: "npz:a: b" is not a YAML value: mapping values are not allowed here
data={a: 1, a: 2}
    data: "{a: 1, a: 2}" is not a YAML value: given twice; keep one
data=*a
    data: "*a" is not a YAML value: the alias *a is not allowed; write the value out
data=[1
    data: "[1" is not a YAML value: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence from 1:8)
data=
    must look like dotted.key=value; null stands for none
data
    must look like dotted.key=value; null stands for none
"""


def keys(model, *more):
    return ", ".join([*model.model_fields, *more])


SECTIONS = vars(schema) | vars(chip_schema) | vars(laws) | vars(writing)
SIGMAS = typing.get_args(typing.get_args(laws.Sigma)[0])
WORDS = {name: keys(section) for name, section in SECTIONS.items() if hasattr(section, "model_fields")} | {
    "TOP": keys(schema.Experiment, "variants"),
    "CHIP": keys(schema.ChipDescription, "base"),
    "DEVICES": ", ".join(sorted(path.stem for path in bundled("devices").glob("*.yaml"))),
    "BOUND": "max, calibrated or a number greater than 0",
    "AFTER": "more than 0 with cell.flicker: reads no time apart have the same 1/f noise, and nothing of it is seen",
    "LAWS": "constant, proportional, sqrt, polynomial, exponential or table",
    "SIGMA": ", ".join(dict.fromkeys(key for law in SIGMAS for key in law.model_fields)),
    "SEEDS": "a count from 1 to 10000, or a list of seeds, all different",
    "NAME": "1 to 60 letters, digits, spaces and . _ - + =, a letter or digit first, and neither . nor a space last",
}


def cases(table):
    rows = []
    for line in Template(table).substitute(WORDS).strip("\n").split("\n"):
        if line.startswith("    "):
            rows[-1][1].append(line.strip())
        else:
            rows.append((line.replace(r"\n", "\n"), []))
    return rows


@pytest.mark.parametrize(("line", "messages"), cases(LINES))
def test_a_wrong_line(complaints, line, messages):
    assert complaints(f"data: digits\nchip: ideal\n{line}\n") == [f"e.yaml:{message}" for message in messages]


@pytest.mark.parametrize(("chip", "messages"), cases(CHIPS))
def test_a_wrong_chip(complaints, chip, messages):
    assert complaints(f"data: digits\nchip: {chip}\n") == [f"e.yaml:{message}" for message in messages]


@pytest.mark.parametrize(("option", "messages"), cases(OPTIONS))
def test_a_wrong_option(complaints, option, messages):
    found = complaints("data: digits\nchip: ideal\nseeds: [7, 8]\n", option)
    assert found == [f"--set {option}: {message}" for message in messages]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from([case for case in cases(LINES) if not case[0].startswith("variants")]),
        min_size=2,
        max_size=5,
        unique_by=lambda case: case[0].split(":")[0],
    )
)
def test_all_problems_are_said_in_file_order(complaints, lines):
    """Wrong lines together give the messages each gives alone, moved down to where it stands."""
    text, expected = "data: digits\nchip: ideal\n", []
    for line, messages in lines:
        for message in messages:
            row, rest = message.split(":", 1)
            expected.append(f"e.yaml:{int(row) - 2 + text.count(chr(10))}:{rest}")
        text += line + "\n"
    assert complaints(text) == expected
