"""The page in a real Chromium: what it draws, hides, sorts and prints, and that it asks nothing of any network."""

import base64
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from analogsim.pictures.bands import banded
from analogsim.report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.command_executor.client_config.timeout = 600  # for busy machines
        driver.set_script_timeout(300)
        yield driver


@pytest.fixture
def opened(browser, tmp_path):
    """opened(folder, width) -> the browser with the folder's report, after it has drawn."""

    def open_report(folder, width=1280):
        path, _ = write_report(folder, tmp_path / "report.html")
        browser.get("about:blank")
        browser.get_log("browser"), browser.get_log("performance")
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(path.as_uri())
        WebDriverWait(browser, 300).until(lambda driver: run(driver, "return document.body?.dataset.ready"))
        return browser

    yield open_report
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def run(browser, script):
    return browser.execute_script(script)


def means(browser, picture, panel=0):
    """Name -> (x, y) of each line that a picture's panel shows, as it was drawn."""
    script = f"""const panel = document.querySelectorAll("#{picture} .panel")[{panel}];
        return (panel.data || []).filter(t => t.name && t.name !== "diverged").map(t => [t.name, [t.x, t.y]])"""
    return dict(run(browser, script))


def paths(browser, picture):
    """How many lines stand in a picture's SVG."""
    return run(browser, f'return document.querySelectorAll("#{picture} .scatterlayer .trace").length')


def click(browser, picture, name):
    script = f"""[...document.querySelectorAll("#{picture} .legend button")]
        .find(button => button.textContent === "{name}").click()"""
    run(browser, script)


def switch(browser, legend, value):
    script = f"""const set = [...document.querySelectorAll("fieldset")]
            .find(one => one.querySelector("legend").textContent === "{legend}");
        [...set.querySelectorAll("label")].find(one => one.textContent === "{value}").querySelector("input").click()"""
    run(browser, script)


def choose(browser, picture, role, value):
    script = f"""const select = document.querySelector('#{picture} [data-role="{role}"]');
        select.value = "{value}"; select.dispatchEvent(new Event("change"))"""
    run(browser, script)


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def requested(browser):
    """Every address asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("width", [1280, 390])
def test_200_trials_open_without_a_complaint_or_a_request(opened, noise_sweep, width, record_property):
    began = time.perf_counter()
    browser = opened(noise_sweep, width)
    record_property("opened_s", round(time.perf_counter() - began, 2))
    record_property("drawn_ms", run(browser, "return document.body.dataset.ready"))
    assert complaints(browser) == []
    urls = requested(browser)
    assert any(url.startswith("file:") for url in urls)
    assert {url.split(":")[0] for url in urls} <= {"file", "data", "blob"}
    assert len([url for url in urls if url.startswith("file:")]) == 1
    assert run(browser, "return document.querySelectorAll('#trials tbody tr').length") == 200


def test_the_lines_are_the_means_of_the_trials(opened, noise_sweep):
    browser = opened(noise_sweep)
    trials = pd.read_csv(noise_sweep / "trials.csv")
    for panel, figure in enumerate(["final_test_accuracy", "best_test_accuracy"]):
        drawn = means(browser, "sweep", panel)
        assert set(drawn) == {"danp", "dnp", "dbp", "dbp noise-free"}
        for name, (x, y) in drawn.items():
            found = trials[trials["run"] == name]
            if name == "dbp noise-free":
                assert y == pytest.approx([100 * found[figure].mean()] * 2, rel=1e-5)
                continue
            expected = banded(found, "node_noise", figure)["mean"].dropna()
            assert x == pytest.approx(list(expected.index), rel=1e-5)
            assert y == pytest.approx(list(100 * expected), rel=1e-5)
    crosses = run(
        browser, 'return document.querySelector("#sweep .panel").data.filter(t => t.name === "diverged")[0].x'
    )
    ended = trials[trials["status"] == "diverged"]
    assert crosses == pytest.approx(list(ended["node_noise"]), rel=1e-5)


@pytest.mark.parametrize("band", ["std", "ci95", "minmax"])
def test_the_bands_are_those_of_the_other_pictures(opened, noise_sweep, band):
    browser = opened(noise_sweep)
    choose(browser, "sweep", "band", band)
    trials = pd.read_csv(noise_sweep / "trials.csv")
    expected = banded(trials[trials["run"] == "dnp"], "node_noise", "final_test_accuracy", band) * 100
    around = run(browser, 'return document.querySelector("#sweep .panel").data.filter(t => t.fill).map(t => t.y)')[1]
    assert around == pytest.approx([*expected["high"], *expected["low"][::-1]], rel=1e-5)


def test_a_seed_switched_off_leaves_the_means(opened, noise_sweep):
    browser = opened(noise_sweep)
    switch(browser, "seed", "3")
    trials = pd.read_csv(noise_sweep / "trials.csv")
    rest = trials[(trials["run"] == "dbp") & (trials["seed"] != 3)]
    expected = banded(rest, "node_noise", "final_test_accuracy")["mean"]
    assert means(browser, "sweep")["dbp"][1] == pytest.approx(list(100 * expected), rel=1e-5)
    switch(browser, "rule", "dnp")
    assert set(means(browser, "sweep")) == {"danp", "dbp", "dbp noise-free"}
    assert not any(name.startswith("dnp") for panel in range(2) for name in means(browser, "curves", panel))
    switch(browser, "chip", "ideal")
    assert set(means(browser, "sweep")) == {"danp", "dbp"}
    assert complaints(browser) == []


def test_a_click_in_the_legend_hides_a_curve_and_another_shows_it(opened, noise_sweep):
    browser = opened(noise_sweep)
    before = paths(browser, "curves")
    name = "danp · node_noise 1e-5"
    assert name in means(browser, "curves")
    click(browser, "curves", name)
    assert name not in means(browser, "curves")
    assert paths(browser, "curves") == before - 1
    click(browser, "curves", name)
    assert paths(browser, "curves") == before
    click(browser, "sweep", "dnp")
    assert set(means(browser, "sweep")) == set(means(browser, "sweep", 1)) == {"danp", "dbp", "dbp noise-free"}


def test_curves_are_the_means_of_the_epochs_with_a_diverged_seed_held(opened, noise_sweep):
    browser = opened(noise_sweep)
    trials = pd.read_csv(noise_sweep / "trials.csv")
    ended = trials[trials["status"] == "diverged"].iloc[-1]
    same = trials[(trials["run"] == ended["run"]) & (trials["node_noise"] == ended["node_noise"])]
    curves = {name: pd.read_csv(noise_sweep / "trials" / name / "curves.csv") for name in same["trial"]}
    held = [curve.set_index("epoch")["test_accuracy"].reindex(range(31)).ffill() for curve in curves.values()]
    x, y = means(browser, "curves")["danp · node_noise 1"]
    assert x == list(range(31))
    assert y == pytest.approx(list(100 * pd.concat(held, axis=1).mean(axis=1)), rel=1e-5)
    choose(browser, "curves", "x", "reads")
    choose(browser, "curves", "y", "test_loss")
    x, y = means(browser, "curves")["danp · node_noise 1"]
    losses = [curve[curve["status"] == "ok"].set_index("epoch")["test_loss"] for curve in curves.values()]
    assert x[-1] == max(curve["reads"].max() for curve in curves.values())
    assert y == pytest.approx(list(pd.concat(losses, axis=1).mean(axis=1)), rel=1e-5)


def test_the_axes_turn_logarithmic(opened, noise_sweep):
    browser = opened(noise_sweep)
    kind = 'return document.querySelector("#{} .panel").layout.{}axis.type'
    assert run(browser, kind.format("sweep", "x")) == "log"
    run(browser, "document.querySelector('#sweep [data-role=\"logx\"]').click()")
    assert run(browser, kind.format("sweep", "x")) == "linear"
    assert run(browser, kind.format("curves", "y")) == "linear"
    run(browser, "document.querySelector('#curves [data-role=\"logy\"]').click()")
    assert run(browser, kind.format("curves", "y")) == "log"
    assert complaints(browser) == []


def test_two_axes_are_a_heat_map(opened, grid_sweep):
    browser = opened(grid_sweep)
    trials = pd.read_csv(grid_sweep / "trials.csv")
    axes = ["chip.cell.read_noise.k_sqrt_uS", "chip.adc.bits"]
    expected = 100 * trials.pivot_table("final_test_accuracy", *axes, sort=True)
    drawn = run(browser, 'return document.querySelector("#sweep .panel").data[0].z')
    assert np.array(drawn, float) == pytest.approx(expected.to_numpy(), rel=1e-5)
    texts = run(browser, 'return document.querySelector("#sweep .panel").data[0].text.flat()')
    assert sum("×" in text for text in texts) == (trials["status"] == "diverged").sum()
    assert complaints(browser) == []


def test_tables_sort_by_a_click_on_a_header(opened, noise_sweep):
    browser = opened(noise_sweep)
    column = """const cells = [...document.querySelectorAll("#trials thead th")];
        const at = cells.findIndex(th => th.textContent === "{}");"""
    values = column + 'return [...document.querySelectorAll("#trials tbody tr")].map(row => row.cells[at].dataset.v)'
    press = column + 'cells[at].querySelector("button").click()'
    trials = pd.read_csv(noise_sweep / "trials.csv")
    words = "final test accuracy (%)"
    for down in (False, True):
        run(browser, press.format(words))
        found = [float(value) for value in run(browser, values.format(words)) if value]
        expected = trials["final_test_accuracy"].dropna()
        assert found == pytest.approx(sorted(expected, reverse=down))
        assert run(browser, values.format(words))[-2:] == ["", ""]  # what has no figure stays last
    run(browser, press.format("node noise"))
    found = [float(value) for value in run(browser, values.format("node noise")) if value]
    assert found == sorted(found)  # 1e-05 before 1, as a text would not
    run(browser, press.format("run"))
    assert run(browser, values.format("run")) == sorted(trials["run"])


@pytest.mark.parametrize("width", [390, 320])
@pytest.mark.parametrize("folder", ["noise_sweep", "grid_sweep"])
def test_nothing_is_wider_than_a_phone(opened, request, folder, width):
    browser = opened(request.getfixturevalue(folder), width)
    assert run(browser, "return document.documentElement.scrollWidth") <= width
    run(browser, "document.querySelectorAll('details').forEach(one => one.open = true)")
    assert run(browser, "return document.documentElement.scrollWidth") <= width
    widest = run(browser, 'return Math.max(...[...document.querySelectorAll(".panel svg")].map(s => s.clientWidth))')
    assert 200 < widest <= width


def test_it_prints_on_pages_without_its_controls(opened, noise_sweep):
    browser = opened(noise_sweep)
    pdf = base64.b64decode(
        browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]
    )
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 15
    assert run(browser, 'return document.querySelector("#curves .panel svg").clientWidth') > 335  # as before again
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    run(browser, 'dispatchEvent(new Event("beforeprint"))')
    gone = 'return [...document.querySelectorAll("nav, .controls, .switches, .screen")].every(e => !e.offsetParent)'
    assert run(browser, gone)
    sizes = run(browser, 'return [...document.querySelectorAll(".panel svg.main-svg")].map(s => s.clientWidth)')
    assert sizes
    assert max(sizes) <= 340
    assert complaints(browser) == []


def test_text_of_the_folder_stays_text(opened, made, tmp_path):
    evil = "</script><img src=x onerror='window.hacked = 1'><script>window.hacked = 2</script>"
    chips = [{"base": "ideal", "name": f"{evil} {bits}", "description": evil, "dac": {"bits": bits}} for bits in (4, 6)]
    plan = {"data": "digits", "chip": "ideal", "training": {"epochs": 2}, "axes": {"chip": chips}}
    plan["axes"]["learner.samples"] = [1, 2, 4]
    browser = opened(made(tmp_path / "sweep", plan))
    assert run(browser, "return window.hacked === undefined && !document.querySelector('img[src=x]')")
    assert run(browser, "return document.querySelectorAll('script').length") == 3
    assert any(
        evil in text
        for text in run(browser, 'return [...document.querySelectorAll(".legend button")].map(b => b.textContent)')
    )
    assert complaints(browser) == []


ENDS = {"pending": "pending", "failed": "failed", "diverged": "diverged"}


@pytest.mark.parametrize("ended", ENDS)
def test_a_sweep_without_a_sound_trial_still_opens(opened, made, tmp_path, ended):
    plan = {"data": "digits", "chip": "ideal", "training": {"epochs": 2}, "axes": {"learner.samples": [1, 2]}}
    browser = opened(made(tmp_path / "sweep", plan, lambda place, trial: ended))
    assert complaints(browser) == []
    assert run(browser, 'return document.querySelectorAll("#curves .panel svg").length') > 0


AXES = {
    "numbers with a zero": {"optimizer.momentum": [0, 0.001, 0.01, 0.5]},
    "names": {"optimizer.name": ["adam", "sgd"]},
    "truths": {"training.angle": [True, False]},
    "chips": {"chip": ["gaussian-node", "crossbar-generic"]},
    "one value": {"learner.samples": [3]},
    "three": {"learner.samples": [1, 2], "training.batch": [10, 1000], "optimizer.name": ["adam", "sgd"]},
    "lists": {"network.hidden": [[8], [8, 8]]},
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_every_kind_of_axis_is_drawn(opened, made, tmp_path, axes):
    plan = {"data": "digits", "chip": "ideal", "training": {"epochs": 2}, "seeds": 2, "axes": axes}
    browser = opened(made(tmp_path / "sweep", plan))
    assert complaints(browser) == []
    values = next(iter(axes.values()))
    panels = run(browser, 'return document.querySelectorAll("#sweep .panel").length')
    if len(values) == 1:
        assert panels == 0  # nothing changes along it
    elif len(axes) > 1:
        assert panels == 4  # a heat map for each name, final and best
    else:
        (x, y), *_ = means(browser, "sweep").values()
        assert len(x) == len(y) == len(values)
        assert all(value is not None for value in [*x, *y])
        assert len(set(x)) == len(values)  # a zero has a place of its own on a logarithmic axis


def test_a_run_folder_has_curves_and_no_sweep(opened, call, tmp_path):
    assert call("train", "small.yaml", "--set", "seeds=2", "--out", "run")[0] == 0
    browser = opened(tmp_path / "run")
    assert complaints(browser) == []
    curves = pd.read_csv(tmp_path / "run" / "curves.csv")
    (_, y), *rest = means(browser, "curves").values()
    assert not rest
    assert y == pytest.approx(list(100 * curves.groupby("epoch")["test_accuracy"].mean()), rel=1e-5)
    assert run(browser, 'return document.getElementById("sweep")') is None
