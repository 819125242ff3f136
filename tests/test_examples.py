"""Every shipped example does what it says, and chips that pages explain are the shipped ones. Pages: test_docs.py."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from analogsim.config.loader import bundled, load_chip, load_plan
from analogsim.config.sweeps import load_sweep
from analogsim.training.build import check_plan

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted(path.stem for path in bundled("examples").glob("*.yaml"))


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analogsim", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_valid_by_name(name):
    if "sweep" in name:
        check_plan({trial.name: trial.experiment for trial in load_sweep(name).trials})
    else:
        check_plan(load_plan(name).variants)


def test_the_wheel_carries_every_example():
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    kinds = (".yaml", ".py", ".ipynb")
    files = {f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.suffix in kinds}
    assert files == {name for name in carried["force-include"] if name.startswith("examples/")}
    assert carried["force-include"]["devices"] == "analogsim/bundled/devices"


@pytest.mark.parametrize("path", sorted(bundled("devices").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_chip_loads_by_its_own_name_and_says_its_source(path):
    chip = load_chip(path.stem)
    assert chip.name == path.stem
    assert chip.description
    assert chip.source


def example(script: str):
    """The module of a shipped script."""
    path = bundled("examples") / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scripts_that_write_take_their_folder_by_o(tmp_path):
    """The others only print; synthetic_tiny_imagenet makes the folder it is given."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        if "main(" in path.read_text() and ".savefig(" in path.read_text():
            done = subprocess.run([sys.executable, path, "--help"], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "-o OUT, --out OUT" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("script", "expected"), [("own_chip", 0.5), ("own_learner", 0.5)])
def test_the_scripts_train(script, expected, capsys):
    """Four epochs on digits leave chance (10 %) far behind."""
    assert example(script).main(epochs=4) > expected


def test_first_order_ir_drop_beats_the_linear_form(tmp_path):
    """Small tiles of examples/ir_drop.py: table and figure are written, errors as in the recorded results."""
    script = example("ir_drop")
    found = script.main(tmp_path, sizes=(16, 32), wires=(1.34, 10.1))
    assert (found["first_order"] < found["linear"] / 3).all()
    assert (found["linear"] < found["ignored"] / 5).all()
    recorded = pd.read_csv(ROOT / "examples" / "results" / "ir_drop.csv")
    both = found.merge(recorded, on=["tile", "segment_ohm"], suffixes=("", "_recorded"))
    assert len(both) == 4
    for model in script.MODELS:
        assert both[model].to_numpy() == pytest.approx(both[f"{model}_recorded"].to_numpy(), rel=1e-3)
    assert (tmp_path / "ir_drop.png").stat().st_size > 10_000


def test_the_convnet_s_table_is_that_of_its_curves(tmp_path):
    results = ROOT / "examples" / "results"
    found = example("convnet_picture").main(results / "cifar10_convnet.csv", tmp_path)
    assert (tmp_path / "cifar10_convnet.md").read_text() == (results / "cifar10_convnet.md").read_text()
    assert (tmp_path / "cifar10_convnet.png").stat().st_size > 10_000
    for row in found.itertuples():  # the README's rows are these
        assert f"| {row[4]} | {row[5]} | {row[6]} |" in README


def test_noisy_vs_clean_trains_all_four_and_draws_them_together(tmp_path):
    done = run("train", "noisy_vs_clean", "--set", "training.epochs=1", "--seed", "0", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    curves = pd.read_csv(tmp_path / "run" / "curves.csv")
    assert list(curves["run"].unique()) == ["danp clean", "danp noisy", "dnp clean", "dnp noisy"]
    assert dict(zip(curves["run"], curves["baseline"]))["danp noisy"] == "noisy"
    assert (tmp_path / "run" / "plots" / "curves.png").stat().st_size > 10_000


def test_the_readme_s_chip_is_the_shipped_one(tmp_path):
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if block.startswith("name:"))
    (tmp_path / "chip.yaml").write_text(text)
    shown, shipped = load_chip(tmp_path / "chip.yaml"), load_chip("crossbar-generic")
    blank = {"description": "", "technology": "", "paper": "", "source": ""}
    assert shown == shipped.model_copy(update=blank)


def test_the_docs_chip_is_the_shipped_one(tmp_path):
    text = next(
        b
        for b in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "chips.md").read_text(), re.S)
        if "name: pcm-nandakumar" in b
    )
    (tmp_path / "chip.yaml").write_text(text)
    assert load_chip(tmp_path / "chip.yaml") == load_chip("pcm-nandakumar")
