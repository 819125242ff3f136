"""The page says what the folder holds, escapes it, and loads nothing from anywhere."""

import base64
import hashlib
import html
import json
import re

import pandas as pd
import pytest
from scipy.stats import t as student

from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.tables import load_results
from analogsim.report.page import write_report

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
ONE = {"data": "digits", "chip": "ideal", "training": {"epochs": 2}, "axes": {"learner.samples": [1, 2]}}


def page_of(folder, **options):
    path, problems = write_report(folder, **options)
    return path.read_text(encoding="utf-8"), problems


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def table_of(page, name):
    """The rows of one of the page's tables, as (shown, sorted by) pairs; the header first."""
    text = re.search(rf'<table class="sortable" id="{name}">(.*?)</table>', page, re.S)[1]
    header = [html.unescape(words) for words in re.findall(r"<button[^>]*>(.*?)</button>", text)]
    rows = [re.findall(r'<td[^>]* data-v="(.*?)">(.*?)</td>', row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)]
    return header, [[(html.unescape(shown), key) for key, shown in row] for row in rows if row]


def test_the_page_is_one_file_that_may_load_nothing(noise_sweep, tmp_path):
    page, problems = page_of(noise_sweep, out=tmp_path / "page.html")
    assert problems == ()
    policy = html.unescape(re.search(r'Policy" content="(.*?)"', page)[1])
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data: blob:"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts}
    assert hashes == set(allowed["script-src"].split())
    assert len(hashes) == 2  # plotly's and the page's own
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert set(re.findall(r'\b(?:src|href)="(.*?)[,#"]', outside)) <= {"", "data:", "data:image/svg+xml;base64"}
    assert "url(" not in outside
    assert "@import" not in outside


def test_the_same_folder_gives_the_same_bytes(grid_sweep, tmp_path):
    first, second = (write_report(grid_sweep, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("band", ["minmax", "std", "ci95"])
def test_the_table_says_mean_and_band_of_each_configuration(noise_sweep, tmp_path, band):
    page, _ = page_of(noise_sweep, out=tmp_path / "page.html", band=band)
    header, rows = table_of(page, "configurations")
    assert header[:4] == ["run", "rule", "chip", "node noise"]
    assert len(rows) == 3 * 13 + 1
    trials = pd.read_csv(noise_sweep / "trials.csv")
    for row in rows:
        shown = dict(zip(header, row))
        same = trials["run"] == shown["run"][0]
        noise = shown["node noise"]
        same &= (
            trials["node_noise"].isna()
            if noise[0] == "–"
            else (trials["node_noise"] / float(noise[1]) - 1).abs() < 1e-9
        )
        for column, words in [
            ("final_test_accuracy", "final test accuracy (%)"),
            ("best_test_accuracy", "best test accuracy (%)"),
        ]:
            values = 100 * trials[same][column].dropna()
            half = values.std() * (student.ppf(0.975, len(values) - 1) / len(values) ** 0.5 if band == "ci95" else 1)
            spread = f"({values.min():.1f}–{values.max():.1f})" if band == "minmax" else f"± {half:.1f}"
            assert shown[words][0] == f"{values.mean():.1f} {spread}"
            assert float(shown[words][1]) == pytest.approx(values.mean() / 100)
    seeds = [row[-1][0] for row in rows]
    assert seeds[:3] == ["5", "5, 1 diverged, 1 failed, 1 pending", "5"]


def test_every_trial_has_a_row_and_every_bad_end_its_reason(noise_sweep, tmp_path):
    page, _ = page_of(noise_sweep, out=tmp_path / "page.html")
    trials = load_results(noise_sweep).trials
    header, rows = table_of(page, "trials")
    assert [row[0][0] for row in rows] == list(trials["trial"])
    assert [row[header.index("status")][0] for row in rows] == list(trials["status"])
    section = re.search(r'<section id="troubles">(.*?)</section>', page, re.S)[1]
    for name, status in zip(trials["trial"], trials["status"]):
        assert (f"<td>{name}</td>" in section) == (status in ("diverged", "failed"))
    assert "MemoryError: no room for &lt;b&gt;this&lt;/b&gt;" in section
    assert "File &lt;x&gt;\nMemoryError" in section
    assert "in epoch 15 its training loss was no number, or 10 times the untrained one" in section


def test_nothing_of_the_folder_becomes_markup(made, tmp_path):
    chip = {"base": "crossbar-generic", "description": EVIL, "source": EVIL}
    chips = [chip | {"name": f"{EVIL}{bits}", "dac": {"bits": bits, "bound": "per_vector"}} for bits in (4, 6)]
    plan = ONE | {"axes": {"chip": chips}}
    folder = made(tmp_path / "<b>&'name", plan, lambda place, trial: "failed" if place else "ok")
    home = next(path.parent for path in folder.glob("trials/*/error.json"))
    (home / "error.json").write_text(json.dumps({"error": EVIL, "traceback": EVIL}))
    (home / "environment.json").write_text(json.dumps({"backend": f"$(x) {EVIL}", "versions": {"torch": EVIL}}))
    text = (folder / "trials.csv").read_text()
    (folder / "trials.csv").write_text(text.replace("MemoryError: no room for <b>this</b>", EVIL))
    page, problems = page_of(folder)
    assert problems == ()
    assert len(re.findall(r"<script[ >]", re.sub(r"<script>.*?</script>", "<script>", page, flags=re.S))) == 3
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "<img src=x" not in page
    assert "<b>&" not in outside
    assert outside.count(html.escape(EVIL, quote=False).split("&lt;img")[0]) >= 7
    assert data_of(page)["lines"][0]["name"] == f"{EVIL}4"


def test_chip_cards_say_numbers_and_draw_laws(grid_sweep, noise_sweep, tmp_path):
    page, _ = page_of(grid_sweep, out=tmp_path / "page.html")
    card = re.search(r'<article class="card">(.*?)</article>', page, re.S)[1]
    for words in ("crossbar-generic", "Nandakumar", "cell.g_max_uS", "data:image/svg+xml;base64,", "dac.bits"):
        assert words in card
    assert '<div class="varied"><dt>adc.bits</dt><dd>4, 6, 8, 10</dd></div>' in card
    picture = base64.b64decode(re.search(r"base64,([^\"]+)", card)[1])
    assert picture.startswith(b"<?xml")
    assert b"</svg>" in picture
    page, _ = page_of(noise_sweep, out=tmp_path / "page.html")
    noisy, ideal = re.findall(r'<article class="card">(.*?)</article>', page, re.S)
    assert '<div class="varied"><dt>node_noise.sigma</dt><dd>1e-5 … 1 (13 values)</dd></div>' in noisy
    assert "<img" not in ideal


def test_settings_versions_and_commands_repeat_the_sweep(noise_sweep, tmp_path):
    page, _ = page_of(noise_sweep, out=tmp_path / "page.html")
    plain = html.unescape(page)
    assert '<div class="varied"><dt>learner.rule</dt><dd>danp, dnp, dbp</dd></div>' in page
    assert (noise_sweep / "sweep.yaml").read_text() in plain
    commands = re.findall(r"<code>(.*?)</code>", plain)
    assert "pip install analogsim-danp==0.1.0 numpy==2.1.0" in commands
    assert "git checkout 0123456789abcdef0123456789abcdef01234567" in commands
    assert "analogsim sweep sweep.yaml --backend numba --device cpu --threads 1 -o repeated" in commands
    limits = "OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1"
    assert (
        f"{limits} analogsim train trials/TRIAL/config.yaml --backend numba --device cpu --out repeated-TRIAL"
        in commands
    )


def test_versions_that_differ_are_counted(made, tmp_path):
    folder = made(tmp_path / "sweep", ONE)
    home = next(folder.glob("trials/*"))
    facts = json.loads((home / "environment.json").read_text())
    (home / "environment.json").write_text(json.dumps(facts | {"backend": "torch"}))
    page, _ = page_of(folder)
    shown = re.search(r"<dt>backend</dt><dd>(.*?)</dd>", page)[1]
    assert sorted(shown.split("; ")) == ["numba (1 trials)", "torch (1 trials)"]
    assert "<dt>python</dt><dd>3.12.1</dd>" in page


def test_a_run_folder_is_reported_and_its_commands_run(call, tmp_path):
    assert call("train", "small.yaml", "--out", "run")[0] == 0
    code, out, err = call("report", "run")
    assert (code, out, err) == (0, "report: run/report.html\n", "")
    page = (tmp_path / "run" / "report.html").read_text()
    assert data_of(page)["sweep"] is None
    _, rows = table_of(page, "configurations")
    assert len(rows) == 1
    command = next(one for one in re.findall(r"<code>(.*?)</code>", page) if " train " in one)
    assert command.startswith("OMP_NUM_THREADS=1 analogsim train config.yaml --backend ")
    words = command.split()[2:]
    words[1] = "run/config.yaml"
    assert call(*words)[0] == 0
    again = pd.read_csv(tmp_path / "repeated" / "curves.csv").drop(columns="seconds")
    pd.testing.assert_frame_equal(again, pd.read_csv(tmp_path / "run" / "curves.csv").drop(columns="seconds"))


ENDS = {
    "nothing yet": lambda place, trial: "pending",
    "all failed": lambda place, trial: "failed",
    "all diverged": lambda place, trial: "diverged",
    "one left": lambda place, trial: "pending" if place else "ok",
}


@pytest.mark.parametrize("how", ENDS.values(), ids=ENDS)
def test_whatever_became_of_the_trials_there_is_a_page(made, tmp_path, how):
    page, problems = page_of(made(tmp_path / "sweep", ONE, how))
    assert problems == ()
    assert len(data_of(page)["trials"]) == 2


def test_damage_is_named_and_the_rest_is_there(made, call, tmp_path):
    folder = made(tmp_path / "sweep", ONE | {"seeds": 2})
    homes = sorted(folder.glob("trials/*"))
    (homes[0] / "curves.csv").unlink()
    (homes[1] / "environment.json").write_text("{")
    (folder / "sweep.yaml").write_text("data: [")
    code, out, err = call("report", folder, "-o", "page.html", "--band", "std")
    assert (code, out) == (1, "report: page.html\n")
    assert len(err.splitlines()) == 3
    page = (tmp_path / "page.html").read_text()
    for name in ("curves.csv", "environment.json", "sweep.yaml"):
        assert re.search(rf"<li>[^<]*{name}[^<]*</li>", page)
    assert len(data_of(page)["trials"]) == 4


def test_combined_sweeps_are_reported(made, call, tmp_path):
    made(tmp_path / "one", ONE)
    made(tmp_path / "two", ONE | {"axes": {"learner.samples": [2, 3]}})
    assert call("combine", "one", "two", "-o", "both")[0] == 0
    assert call("report", "both")[0] == 0
    page = (tmp_path / "both" / "report.html").read_text()
    assert data_of(page)["sweep"]["axes"][0]["texts"] == ["1", "2", "3"]
    assert "trials/TRIAL/config.yaml" in page


def test_what_is_no_folder_of_results_or_no_band_is_refused(tmp_path, grid_sweep):
    with pytest.raises(RunFolderError, match="no results here"):
        write_report(tmp_path)
    with pytest.raises(ArgumentError, match="minmax, ci95, std"):
        write_report(grid_sweep, band="sem")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(grid_sweep, tmp_path / "file" / "report.html")
