"""Every shipped example and every snippet of the README does what it says."""

from __future__ import annotations

import importlib.util
import re
import shlex
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


@pytest.mark.parametrize(("script", "expected"), [("own_chip", 0.5), ("own_learner", 0.5)])
def test_the_scripts_train(script, expected, capsys):
    """Four epochs on digits leave chance (10 %) far behind."""
    path = bundled("examples") / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(epochs=4) > expected


def test_noisy_vs_clean_trains_all_four_and_draws_them_together(tmp_path):
    done = run("train", "noisy_vs_clean", "--set", "training.epochs=1", "--seed", "0", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    curves = pd.read_csv(tmp_path / "run" / "curves.csv")
    assert list(curves["run"].unique()) == ["danp clean", "danp noisy", "dnp clean", "dnp noisy"]
    assert dict(zip(curves["run"], curves["baseline"]))["danp noisy"] == "noisy"
    assert (tmp_path / "run" / "plots" / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.S))
def test_the_readme_s_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_s_experiment_is_valid_and_spells_out_real_fields(tmp_path):
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if block.startswith("data:"))
    (tmp_path / "experiment.yaml").write_text(text)
    assert run("validate", "experiment.yaml", cwd=tmp_path).returncode == 0


def test_the_readme_s_chip_is_the_shipped_one(tmp_path):
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if block.startswith("name:"))
    (tmp_path / "chip.yaml").write_text(text)
    shown, shipped = load_chip(tmp_path / "chip.yaml"), load_chip("crossbar-generic")
    blank = {"description": "", "source": ""}
    assert shown == shipped.model_copy(update=blank)


CONSOLE = [
    (block.splitlines()[0].removeprefix("$ "), "\n".join(block.splitlines()[1:]))
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
]


@pytest.mark.parametrize(("command", "output"), [c for c in CONSOLE if "--set" in c[0]])
def test_the_readme_s_error_messages_are_the_real_ones(command, output, tmp_path):
    done = run(*shlex.split(command)[1:], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().replace("\n", " ").split() == output.split()
    assert done.stdout == ""
