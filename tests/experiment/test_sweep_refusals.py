"""What a sweep refuses before anything is trained: a folder, a plan, a cluster that will not do."""

import os

import numpy as np
import pytest

from analogsim.config.loader import parse_set
from analogsim.config.sweeps import load_sweep
from analogsim.errors import AnalogsimError, ArgumentError, CapabilityError, DataError, RunFolderError
from analogsim.experiment.overview import dry_run
from analogsim.experiment.results import claimed, held
from analogsim.experiment.sweep import Options, Watcher, run_sweep

SWEEP = {"data": "digits", "chip": "gaussian-node", "axes": {"learner.rule": ["danp", "dbp"]}}


def run(folder, changes=(), **options):
    """Start it; changes: as with --set."""
    run_sweep(load_sweep(SWEEP, [parse_set(change) for change in changes]), folder, Options(**options), Watcher())


# Folders


def test_a_second_sweep_on_a_folder_is_refused(tmp_path):
    with held(tmp_path, lambda: None), pytest.raises(RunFolderError, match="another process is writing here"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml"])
def test_a_folder_of_something_else_is_refused_and_stays_as_it_was(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(RunFolderError, match="not empty, and no sweep's folder; give another -o"):
        run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {name, ".lock"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="out: cannot be written: Permission denied"):
        run(tmp_path / "out")


def test_a_claim_of_a_run_still_says_how_to_resume(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(RunFolderError, match="analogsim train --resume"), claimed(tmp_path, False):
        pass


# Plans and clusters


def test_what_no_trial_could_run_is_refused_before_any_is_trained(tmp_path):
    with pytest.raises(CapabilityError, match="rule np cannot run on chip gaussian-node"):
        run(tmp_path / "out", changes=["axes.learner.rule=[bp, np]"])
    with pytest.raises(DataError, match=r"nosuch\.npz"):
        run(tmp_path / "out", changes=["data=npz:nosuch.npz"])
    assert not list((tmp_path / "out").glob("trials/*"))


def test_trials_whose_networks_do_not_fit_are_all_named_before_any_is_trained(tmp_path):
    """On data of one's own, whose shape no file tells; a line a network, not one a trial."""
    rows = {f"x_{part}": np.zeros((4, 3, 3), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "own.npz", **rows, **{f"y_{part}": np.arange(4) % 2 for part in ("train", "test")})
    sweep = load_sweep(
        {
            "data": f"npz:{tmp_path / 'own.npz'}",
            "chip": "gaussian-node",
            "network": {"layers": [{"conv": {"channels": 1, "kernel": 3}}]},
            "axes": {"network.layers.0.conv.kernel": [3, 4, 5], "learner.rule": ["danp", "dbp"]},
        }
    )
    names = {trial.point["network.layers.0.conv.kernel"]: trial.name for trial in reversed(sweep.trials)}
    for start in (
        lambda: run_sweep(sweep, tmp_path / "out", Options(), Watcher()),
        lambda: dry_run(sweep, tmp_path / "out", Options()),
    ):
        with pytest.raises(DataError) as caught:
            start()
        assert str(caught.value).split("\n") == [
            f"trial {names[kernel]} (danp, network.layers.0.conv.kernel={kernel}, learner.rule=danp) and 1 more: "
            f"network.layers.0.conv: kernel {kernel} does not fit into 3 × 3 with padding 0"
            for kernel in "45"
        ]
    assert not list((tmp_path / "out").glob("trials/*"))


def test_an_address_where_no_cluster_is_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="--scheduler: 'nonsense://x' is not allowed; allowed: the address"):
        run(tmp_path, scheduler="nonsense://x")


def test_a_slurm_file_is_checked_and_needs_its_extra(tmp_path):
    (tmp_path / "slurm.yaml").write_text("jobs: 0\nmemory: lots\n")
    with pytest.raises(AnalogsimError) as caught:
        run(tmp_path / "out", scheduler=str(tmp_path / "slurm.yaml"))
    assert [line.split(": ")[1] for line in str(caught.value).split("\n")] == ["jobs", "memory"]
    (tmp_path / "slurm.yaml").write_text("jobs: 2\nmemory: 4GB\nqueue: short\n")
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError:
        with pytest.raises(ArgumentError, match=r"needs dask-jobqueue: pip install analogsim-danp\[slurm\]"):
            run(tmp_path / "out", scheduler=str(tmp_path / "slurm.yaml"))
