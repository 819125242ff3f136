"""Golden values of every chip file, so that a changed coefficient shows.

The numbers were worked out from the formulas of docs/laws.md and of the papers that each file names, typed a second
time in plain Python, and stand here as they came out: no law of analogsim took part in them.
"""

import pytest
import torch

from analogsim.config.laws import coefficients
from analogsim.config.loader import bundled, load_chip
from analogsim.physics.drift import DRIFT_LAWS
from analogsim.physics.flicker import flicker_sigma
from analogsim.physics.pulsed_cells import MODELS
from analogsim.physics.read_noise import SIGMA_LAWS
from analogsim.physics.update import closed_form, steps

EXACT = 1e-9  # relative; the numbers have 12 digits, the files all the source has
DAY = 86400.0

SHIPPED = sorted(path.stem for path in bundled("devices").glob("*.yaml"))

# chip -> law -> (G in µS, σ in µS); 1/f at 1000 s after the write.
SIGMA = {
    "pcm-nandakumar": {
        "programming": ([0.1, 1, 8, 25], [0.2713212304, 0.34020304, 0.77215456, 1.05538]),
        "flicker": ([0.1, 1, 8, 25], [0.0925557410813, 0.330002359159, 0.683279734445, 1.01811315189]),
    },
    "pcm-joshi": {"programming": ([0.25, 10, 25], [0.305238570625, 0.86619139, 1.06552324])},
    "pcm-hermes": {
        "programming": (
            [0.2, 1, 3.2, 6, 10, 20.7],
            [0.21082990416, 0.374693980522, 0.710041818371, 0.935250374746, 0.99473194906, 1.09269857],
        ),
        "flicker": (
            [0.2, 1, 3.2, 6, 10, 20.7],
            [0.0363974058951, 0.129904908991, 0.218384435371, 0.443089107118, 0.761460455941, 1.15839293937],
        ),
    },
    "reram-neurram": {
        "programming": ([2, 20, 40], [1.04543653125, 2.0229375, 1.103]),
        "read_noise": ([2, 20, 40], [0.4, 0.4, 0.4]),
    },
    "reram-hfo2-milo": {"programming": ([50, 100, 225], [4.326971, 3.871621, 2.733246])},
    "reram-cmo": {
        "programming": ([9, 40, 88.2], [0.1128312, 0.4628305, 1.00702296]),
        "flicker": ([9, 40, 88.2], [0.118433741052, 0.198836203886, 0.24145761728]),
    },
    "sonos": {
        "programming": ([0.5, 4, 16], [0.0491048910008, 0.178294687061, 0.19884372778]),
        "read_noise": ([0.5, 4, 16], [0.0260644411362, 0.106166697559, 0.12572901721]),
    },
    "crossbar-generic": {"read_noise": ([1, 9, 25], [0.0875, 0.2625, 0.4375])},
    "rasch-hwa": {"read_noise": ([0.2, 1, 5], [0.0175, 0.0391311896062, 0.0875])},
}
SIGMA["sonos-tcas"] = SIGMA["sonos"]

# chip -> [(time in s, ξ, G in µS as written (retention: the target), G then)]
DRIFT = {
    "pcm-nandakumar": [
        (1e4, 0, [0.1, 1, 8, 25], [0.0537159176764, 0.630211853945, 5.89984302637, 18.4370094574]),
        (1e4, 1, [0.1, 1, 8, 25], [0.0406115298083, 0.509113806327, 5.6017425198, 17.5427921748]),
        (20, 1, [0.1, 1, 8, 25], [0.1, 1, 8, 25]),
    ],
    "pcm-hermes": [
        (
            1e4,
            0,
            [0.2, 1, 3.2, 6, 10, 20.7],
            [0.126781462928, 0.706535892071, 2.49815375751, 4.75562546358, 8.17864802458, 19.4747663228],
        ),
        (
            1e4,
            1,
            [0.2, 1, 3.2, 6, 10, 20.7],
            [0.110189600618, 0.636538506994, 2.36066449236, 4.60627059739, 7.92348744544, 19.1497203991],
        ),
    ],
    "reram-neurram": [
        (1, 1, [2, 20, 40], [3.04543653125, 22.0229375, 41.103]),
        (3600, 1, [2, 20, 40], [3.50557172049, 23.3816714437, 42.2181911163]),
        (DAY, 1, [2, 20, 40], [3.6841515125, 23.909, 42.651]),
        (2 * DAY, 1, [2, 20, 40], [3.6914906625, 23.929125, 42.677]),
    ],
    "reram-cmo": [
        (1, 1, [9, 40, 88.2], [9.41183342, 40.41183342, 88.61183342]),
        (1e4, 0, [9, 40, 88.2], [8.18026073359, 39.1802607336, 87.3802607336]),
        (1e4, 1, [9, 40, 88.2], [8.97903317079, 39.9790331708, 88.1790331708]),
    ],
    "sonos": [
        (1, 1, [0.5, 4, 16], [0.5491048910008, 4.178294687061, 16.19884372778]),
        (1 * DAY, 1, [0.5, 4, 16], [0.560080219757, 4.2258202143, 16.2558610881]),
        (2 * DAY, 1, [0.5, 4, 16], [0.565396413192, 4.2508999177, 16.287206118]),
        (3 * DAY, 1, [0.5, 4, 16], [0.569000904686, 4.26887999679, 16.3103303693]),
        (4 * DAY, 1, [0.5, 4, 16], [0.573145560482, 4.28974900166, 16.33748354]),
        (5 * DAY, 1, [0.5, 4, 16], [0.574094527655, 4.29555895628, 16.3456360245]),
    ],
}
DRIFT["sonos-tcas"] = DRIFT["sonos"]

# chip -> a step up, and a step down, of the mean cell at w = -0.5, 0, 0.5
STEPS = {
    "reram-rpu": ([0.0016, 0.0016, 0.0016], [0.0016, 0.0016, 0.0016]),
    "reram-es": (
        [0.00180812331897, 0.00148125452844, 0.00138760505201],
        [0.00128395497029, 0.00199143555547, 0.00446078543349],
    ),
    "reram-sb": ([0.0028, 0.002, 0.0012], [0.000666666666667, 0.002, 0.00333333333333]),
    "reram-om": ([0.14235, 0.0949, 0.04745], [0.04745, 0.0949, 0.14235]),
    "reram-hfo2": ([0.6933, 0.4622, 0.2311], [0.2311, 0.4622, 0.6933]),
    "capacitor": ([0.005125, 0.005, 0.004875], [0.004875, 0.005, 0.005125]),
    "ecram": ([0.00209834527465, 0.002, 0.00190165472535], [0.00138557274045, 0.002, 0.00261442725955]),
    "ecram-mo": ([0.00033214193273, 0.00028214, 0.00023213806727], [0.000157141696838, 0.00028214, 0.000407138303162]),
}

# What no mean step shows: model, dw_min_d2d, lognormal, c2c, up_down_d2d, w_max (d2d), w_min (d2d), write noise, stuck
SPREADS = {
    "reram-rpu": ("constant", 0.3, False, 0.3, 0.01, 1.0, 0.3, -1.0, 0.3, 0.0, 0.0),
    "reram-es": ("exponential", 0.2, False, 5.0, 0.05, 1.0, 0.3, -1.0, 0.3, 75.0, 0.0),
    "reram-sb": ("soft_bounds", 0.3, False, 3.75, 0.01, 1.25, 0.24, -0.75, 0.4, 56.0, 0.0),
    "reram-om": ("soft_bounds", 0.7829, True, 0.4158, 0.01, 1.0, 0.3499, -1.0, 0.5695, 1.4113, 0.1348),
    "reram-hfo2": ("soft_bounds", 0.7125, True, 0.2174, 0.01, 1.0, 0.4295, -1.0, 0.5990, 0.5841, 0.0977),
    "capacitor": ("linear", 0.1, False, 0.3, 0.06, 1.0, 0.07, -1.0, 0.07, 0.0, 0.0),
    "ecram": ("linear", 0.1, False, 0.3, 0.01, 1.1724, 0.05, -0.8276, 0.05, 0.0, 0.0),
    "ecram-mo": ("linear", 0.1, False, 2.0, 0.01, 1.1714, 0.05, -0.8286, 0.05, 0.0, 0.0),
}
# What aihwkit's presets say beyond the table of devices.md; everything else has the schema's default.
BEYOND = {
    "reram-sb": {"c2c_additive": True},
    "reram-om": {"c2c_additive": True, "at_symmetry_point": True, "reference_error": 0.05, "stuck_range": 0.01},
    "reram-hfo2": {"c2c_additive": True, "at_symmetry_point": True, "reference_error": 0.05, "stuck_range": 0.01},
    "capacitor": {
        "c2c_additive": True,
        "gamma_up_d2d": 0.01,
        "gamma_down_d2d": 0.01,
        "lifetime_updates": 1e6,
        "lifetime_d2d": 0.3,
    },
    "ecram": {"gamma_up_d2d": 0.05, "gamma_down_d2d": 0.05},
    "ecram-mo": {"gamma_up_d2d": 0.05, "gamma_down_d2d": 0.05},
}
TABLED = ("model", "dw_min", "dw_min_d2d", "dw_min_lognormal", "c2c", "up_down", "up_down_d2d", "w_max", "w_max_d2d")
TABLED += ("w_min", "w_min_d2d", "write_noise", "stuck", "gamma_up", "gamma_down", "a_up", "a_down", "gamma", "a", "b")

# (DAC bits, slice bits, where slices meet), (ADC bits, bound, noise), (rows, columns), Ω a wire segment
PRESET = (7, None, None), (9, 20.0, 0.1), (512, 512), None
NONE = None, None, (None, None), None
PERIPHERY = dict.fromkeys(SHIPPED, PRESET) | {
    "ideal": NONE,
    "gaussian-node": NONE,
    "smtj-node": NONE,
    "crossbar-generic": ((7, None, None), (9, 20.0, 0.0), (None, None), None),
    "rasch-hwa": ((8, None, None), (8, 10.0, 0.04), (512, None), 0.35),
    "sonos-tcas": ((8, 1, "accumulated"), (8, "calibrated", 0.0), (1152, 256), None),
    "isaac": ((16, 1, "per_slice"), (9, "max", 0.0), (128, 128), None),
    "prime": ((6, 3, "per_slice"), (6, "calibrated", 0.0), (256, 256), None),
    "sram-cim": ((8, 1, "per_slice"), (5, "max", 0.0), (64, 64), None),
}

# g_min, g_max in µS; slices as bits, cells
UNITS = 0.0, 1.0, None
CELLS = dict.fromkeys(STEPS, UNITS) | {
    "crossbar-generic": (0.0, 25.0, None),
    "pcm-nandakumar": (0.0, 25.0, None),
    "pcm-joshi": (0.25, 25.0, None),
    "pcm-hermes": (0.0, 20.7, None),
    "reram-neurram": (0.0, 40.0, None),
    "reram-hfo2-milo": (50.0, 225.0, None),
    "reram-cmo": (9.0, 88.2, None),
    "sonos": (0.0, 16.0, None),
    "sonos-tcas": (0.0, 16.0, None),
    "rasch-hwa": (0.0, 5.0, None),
    "fefet-hzo": (0.0397535281, 1.78890877, None),  # 1 / 559 kΩ, and that over 45
    "isaac": (0.5, 500.0, (2, 8)),
    "prime": (50.0, 1000.0, (4, 2)),
    "sram-cim": (0.0, 1.0, (1, 7)),
}


def close(found, expected, relative=EXACT):
    assert found.numpy() == pytest.approx(expected, rel=relative, abs=0)


@pytest.mark.parametrize(("chip", "law"), [(chip, law) for chip, laws in SIGMA.items() for law in laws])
def test_sigma(chip, law):
    (g, expected), settings = SIGMA[chip][law], getattr(load_chip(chip).cell, law)
    g = torch.tensor(g, dtype=torch.float64)
    keywords = coefficients(settings)
    sigma = flicker_sigma(g, 1000.0, **keywords) if law == "flicker" else SIGMA_LAWS[settings.law](g, **keywords)
    close(sigma, expected)


@pytest.mark.parametrize(("chip", "case"), [(chip, case) for chip, cases in DRIFT.items() for case in cases])
def test_drift(chip, case):
    (time, xi, written, expected), law = case, load_chip(chip).cell.drift
    g = torch.tensor(written, dtype=torch.float64)
    close(DRIFT_LAWS[law.law](g, torch.full_like(g, xi), time, **coefficients(law)), expected)


def test_bounds_that_no_conductance_reaches():
    """They are in the source all the same: the floor of Nandakumar's Q, and the least μ of HERMES."""
    assert load_chip("pcm-nandakumar").cell.flicker.strength.floor == 1e-3
    assert load_chip("pcm-hermes").cell.drift.exponent.min == 0.072


def mean_cell(chip):
    """Of a pulsed chip, in float64: every spread at 0."""
    keys = load_chip(chip).write.cell.model_dump(exclude={"model"})
    keys |= {key: 0.0 for key in keys if key.endswith("_d2d") or key in ("stuck", "reference_error")}
    return MODELS[load_chip(chip).write.cell.model]((1, 1), None, None, **keys)


@pytest.mark.parametrize("chip", STEPS)
def test_pulse_steps(chip):
    cells, w = mean_cell(chip), torch.tensor([[-0.5, 0.0, 0.5]], dtype=torch.float64)
    for up, expected in zip((True, False), STEPS[chip]):
        close(steps(w, up, cells)[0], expected, relative=3e-7)  # a cell's own numbers are float32


@pytest.mark.parametrize("chip", SPREADS)
def test_pulse_spreads(chip):
    cell = load_chip(chip).write.cell
    w = cell.w_max, cell.w_max_d2d, cell.w_min, cell.w_min_d2d
    d2d = cell.dw_min_d2d, cell.dw_min_lognormal
    assert SPREADS[chip] == (cell.model, *d2d, cell.c2c, cell.up_down_d2d, *w, cell.write_noise, cell.stuck)
    rest = {key: value for key, value in cell.model_dump(exclude_defaults=True).items() if key not in TABLED}
    assert rest == BEYOND.get(chip, {})


def test_fefet():
    """NeuroSim's curve at 15 pulses of 31, with A of its definition solved by bisection: 0.702081 and 0.848677."""
    cell, mean = load_chip("fefet-hzo").write.cell, mean_cell("fefet-hzo")
    assert (cell.model, cell.states, cell.c2c) == ("neurosim", 32, 0.005)
    assert (cell.nonlinearity_up, cell.nonlinearity_down) == (1.75, 1.46)
    low, high = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    assert float(closed_form(low, 15, True, mean)) == pytest.approx(0.3117324, rel=1e-5)
    assert float(closed_form(high, 15, False, mean)) == pytest.approx(0.3165183, rel=1e-5)
    assert float(closed_form(low, 31, True, mean)) == pytest.approx(1, rel=1e-6)


def test_smtj_node():
    noise = load_chip("smtj-node").node_noise
    source = noise.telegraph
    assert (noise.sigma, source.amplitude, source.mean) == (9.084e-4, 5.9316e-3, 0.042092)
    assert source.flip_probability == 0.0809
    assert 1 - 2 * source.flip_probability == pytest.approx(0.838, abs=5e-4)


@pytest.mark.parametrize("name", SHIPPED)
def test_periphery(name):
    chip = load_chip(name)
    serial = chip.dac.bit_serial if chip.dac else None
    dac = chip.dac and (chip.dac.bits, serial and serial.slice_bits, serial and serial.adc)
    adc = chip.adc and (chip.adc.bits, chip.adc.bound, chip.adc.noise)
    found = dac, adc, (chip.tile.rows, chip.tile.columns), chip.wires and chip.wires.segment_ohm
    assert found == PERIPHERY[name]
    assert chip.dac is None or (chip.dac.bound, chip.dac.noise) == ("per_vector", 0)
    assert chip.adc is None or not (chip.adc.stochastic_rounding or chip.adc.gain_sigma or chip.adc.offset_sigma_lsb)


@pytest.mark.parametrize("name", SHIPPED)
def test_cells(name):
    cell = load_chip(name).cell
    if cell is None:
        assert name not in CELLS
        return
    slices = cell.slices and (cell.slices.bits, cell.slices.cells)
    assert (cell.g_min_uS, cell.g_max_uS) == pytest.approx(CELLS[name][:2], rel=1e-8)
    assert slices == CELLS[name][2]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_law_has_golden_values(name):
    """A law added to a file without a golden value here fails."""
    chip = load_chip(name)
    laws = {key for key, _ in chip.cell.laws} if chip.cell else set()
    assert laws == {*SIGMA.get(name, ())} | ({"drift"} if name in DRIFT else set())
    assert (chip.write.mode == "pulsed") == (name in SPREADS or name == "fefet-hzo")
    assert bool(chip.node_noise.telegraph) == (name == "smtj-node")
    assert chip.node_noise.sigma == {"gaussian-node": 1e-3, "smtj-node": 9.084e-4}.get(name, 0)


# A coefficient of a file changed in its last digit or so -> the test above that notices.
CHANGES = {
    "pcm-nandakumar": "0.26348 0.26349, 1.9650 1.9651, -1.1731 -1.1732, 0.0088 0.00881, 0.65 0.651, 0.045 0.046",
    "pcm-hermes": "4.68961419 4.68961429, 0.0123 0.0124, 0.3055 0.2, -0.0436 -0.0437, 0.015 0.0151, 0.13 0.14",
    "reram-neurram": "47.095 47.096, -11.934 -11.935, sigma_uS:0.4 sigma_uS:0.41",
    "reram-hfo2-milo": "-0.009107 -0.009108",
    "sonos": "0.33762 0.33763, 2.0734 2.0735, 2.1536557 2.1536558",
    "reram-cmo": "-0.08900206 -0.08900216, 0.41183342 0.41183352, 0.0277316 0.0277326",
}
CASES = [(name, *change.split()) for name, changes in CHANGES.items() for change in changes.split(", ")]


@pytest.mark.parametrize(("name", "old", "new"), CASES)
def test_a_changed_coefficient_shows(name, old, new, tmp_path, monkeypatch):
    head, body = (bundled("devices") / f"{name}.yaml").read_text(encoding="utf-8").split("\ncell:", 1)
    old, new = old.replace(":", ": "), new.replace(":", ": ")
    assert old in body
    (tmp_path / "changed.yaml").write_text(f"{head}\ncell:{body.replace(old, new)}", encoding="utf-8")
    changed = load_chip(tmp_path / "changed.yaml")
    monkeypatch.setitem(globals(), "load_chip", lambda _: changed)
    noticed = []
    for check, cases in ((test_sigma, SIGMA[name]), (test_drift, DRIFT.get(name, ()))):
        for case in cases:
            try:
                check(name, case)
            except AssertionError:
                noticed.append(case)
    assert noticed
