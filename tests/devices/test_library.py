"""The chip library and the commands that show it."""

import re

import pytest

from analogsim.config.loader import bundled, load_chip, load_plan, parse_set
from analogsim.devices.plot import plot_chip
from analogsim.devices.table import COLUMNS, row, shipped, to_yaml
from analogsim.errors import ArgumentError, ConfigError

SHIPPED = sorted(path.stem for path in bundled("devices").glob("*.yaml"))
ASKED_FOR = """pcm-nandakumar pcm-joshi pcm-hermes reram-neurram reram-hfo2-milo reram-cmo sonos reram-es reram-sb
    reram-om ecram ecram-mo capacitor fefet-hzo smtj-node sram-cim isaac prime sonos-tcas rasch-hwa"""


def text_of(name):
    return (bundled("devices") / f"{name}.yaml").read_text(encoding="utf-8")


# --- the files -------------------------------------------------------------------------------------------


def test_the_library_is_all_there():
    assert set(ASKED_FOR.split()) <= set(SHIPPED)
    assert [chip.name for chip in shipped()] == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_file_says_what_it_is_and_where_from(name):
    chip, text = load_chip(name), text_of(name)
    assert chip.name == name
    assert min(len(chip.description), len(chip.technology), len(chip.paper)) >= 3
    assert text.startswith("# ")
    assert re.search(r"published|section|this file|mathematical", chip.source)  # a fit's source, or whose choice it is
    assert max(map(len, text.split("\n"))) <= 120


@pytest.mark.parametrize("name", SHIPPED)
def test_show_reads_back_the_same(name, tmp_path):
    path = tmp_path / "shown.yaml"
    path.write_text(to_yaml(load_chip(name)), encoding="utf-8")
    assert load_chip(path) == load_chip(name)


@pytest.mark.parametrize(
    "name", [name for name in SHIPPED if any(load_chip(name).cell.laws if load_chip(name).cell else ())]
)
def test_every_fit_says_where_it_holds(name):
    """Outside the conductances measured there is an error, and no extrapolation."""
    cell = load_chip(name).cell
    ranges = {key: law.valid_uS for key, law in cell.laws if law.valid_uS is not None}
    published = name not in ("crossbar-generic", "rasch-hwa")  # their one law is in units of the range
    assert not published or set(ranges) == {key for key, _ in cell.laws}
    for key, (low, high) in ranges.items():
        assert low <= cell.g_min_uS < cell.g_max_uS <= high
        for change, wrong in (("cell.g_max_uS", high * 1.01), ("cell.g_min_uS", low - 0.1)):
            if wrong >= 0:
                with pytest.raises(ConfigError, match=f"{change}: .* within {low} to {high} µS, where "):
                    load_chip(name).replace(**{change: wrong})
        assert key


# --- style edits by the experiment loader ----------------------------------------------------------------


def edited(name, *options):
    return next(
        iter(load_plan("quickstart", [parse_set(f"chip={name}"), *map(parse_set, options)]).variants.values())
    ).chip


def test_any_value_can_be_edited():
    assert edited("pcm-nandakumar", "chip.cell.g_max_uS=20").cell.g_max_uS == 20
    assert edited("reram-neurram", "chip.cell.read_noise.sigma_uS=0.1").cell.read_noise.sigma_uS == 0.1
    assert edited("reram-om", "chip.write.cell.stuck=0").write.cell.stuck == 0
    assert edited("reram-om", "chip.write={mode: ideal}").write.mode == "ideal"
    assert edited("sonos", "chip.cell.drift=null").cell.drift is None
    law = edited("reram-cmo", "chip.cell.programming={law: constant, sigma_uS: 0.1}").cell.programming
    assert (law.law, law.sigma_uS, law.valid_uS) == ("constant", 0.1, None)


def test_an_edit_beyond_what_was_measured_is_refused():
    with pytest.raises(ConfigError) as error:
        edited("pcm-nandakumar", "chip.cell.g_max_uS=30")
    assert str(error.value) == (
        "--set chip.cell.g_max_uS=30: chip.cell.g_max_uS: 30 is not allowed; "
        "allowed: a range within 0.0 to 25.0 µS, where programming was measured"
    )


# --- commands --------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_chip(call):
    code, out, err = call("devices")
    assert (code, err) == (0, "")
    header, *lines = out.rstrip("\n").split("\n")
    assert header.split() == list(COLUMNS)
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == SHIPPED
    for words in (
        "pcm-nandakumar PCM 0-25 µS, differential programming, 1/f, drift, ADC DAC 7; ADC 9, ±20 verify S. R.",
    ):
        assert words in " ".join(out.split())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ideal", ("none", "exact", "none", "none", "ideal", "none")),
        ("isaac", ("preset", "0.5-500 µS, differential, 8 x 2 bit", "none", "DAC 16 in 1s; ADC 9, max", "ideal")),
        ("reram-om", ("ReRAM", "0-1 µS, reference", "stuck, ADC", "DAC 7; ADC 9, ±20", "pulsed, soft bounds")),
        ("smtj-node", ("sMTJ", "exact", "telegraph, node", "none", "ideal")),
        ("capacitor", ("capacitor", "0-1 µS, reference", "leak, ADC")),
    ],
)
def test_a_row_says_what_the_chip_has(name, expected):
    assert row(load_chip(name))[1 : 1 + len(expected)] == expected


def test_show_prints_a_shipped_chip_or_a_file(call, tmp_path):
    code, out, _ = call("devices", "show", "sonos")
    assert (code, out) == (0, to_yaml(load_chip("sonos")))
    (tmp_path / "mine.yaml").write_text("name: mine\nadc: {bits: 4, bound: 2}\n")
    assert call("devices", "show", "mine.yaml")[1] == to_yaml(load_chip("mine.yaml"))


def test_mistakes_are_said_in_a_line(call, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nadc: {bits: 0, bound: 2}\n")
    code, out, err = call("devices", "show", "mine.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("mine.yaml:2:13: adc.bits: 0 is not a number of bits")
    assert "did you mean sonos?" in call("devices", "show", "sonso")[2]
    assert call("devices", "plot", "ideal")[2].startswith("chip: 'ideal' is not allowed")
    assert call("devices", "plot", "sonos", "-o", "x.gif")[2].startswith("-o: 'x.gif' is not allowed")
    assert not (tmp_path / "x.gif").exists()


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "ideal"])
def test_every_chip_can_be_drawn(name, tmp_path, monkeypatch):
    """What is on the page: a panel for everything the chip has, and no other."""
    titles = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: titles.extend(panels(figure)))
    chip = load_chip(name)
    plot_chip(chip, tmp_path / "x.png")
    cell = chip.cell
    expected = {
        "programming error": cell and cell.programming,
        "read noise": cell and (cell.read_noise or cell.flicker or cell.telegraph),
        "drift": cell and cell.drift and cell.drift.law != "retention",
        "retention": cell and cell.drift and cell.drift.law == "retention",
        "pulse response": chip.write.mode == "pulsed",
        "hidden noise": chip.node_noise.sigma,
        "ADC": chip.adc,
    }
    assert [next(word for word in expected if title.startswith(word)) for title in titles] == [
        word for word, present in expected.items() if present
    ]


def panels(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_visible()]


def test_a_picture_is_written(call, tmp_path):
    code, out, err = call("devices", "plot", "pcm-nandakumar")
    assert (code, out, err) == (0, "picture: pcm-nandakumar.png\n", "")
    assert (tmp_path / "pcm-nandakumar.png").read_bytes().startswith(b"\x89PNG")
    call("devices", "plot", "sonos", "-o", "a/b.svg")
    assert "<svg" in (tmp_path / "a" / "b.svg").read_text()


def test_a_chip_with_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ArgumentError):
        plot_chip(load_chip("ideal"), tmp_path / "x.png")


def trains(call, name, *options):
    """One epoch of three steps."""
    code, out, err = call("train", "small.yaml", "--chip", name, *options, "--out", "run")
    assert code == 0, err
    assert "run/plots/curves.png" in out


@pytest.mark.parametrize("name", SHIPPED)
def test_every_chip_trains(call, name):
    trains(call, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if load_chip(name).write.mode != "ideal"])
def test_every_chip_trains_with_ideal_writes(call, name):
    trains(call, name, "--set", "chip.write={mode: ideal}")
