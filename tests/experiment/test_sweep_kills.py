"""Whatever kills a sweep, starting it again ends at the same tables, byte for byte.

One uninterrupted sweep, trained in this process, is the measure; forked.py runs and kills the others.
"""

import csv
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from analogsim.errors import RunFolderError
from analogsim.experiment import cluster
from analogsim.experiment.export import export
from analogsim.experiment.sweep import Options

SWEEP = """
data: digits
chip: gaussian-node
network: {hidden: [8]}
training: {epochs: 6, batch: 100, checkpoint_s: 0}
seeds: 2
axes:
  learner.rule: [danp, dbp]
  chip.node_noise.sigma: {logspace: [1.0e-3, 1.0e-1, 3]}
"""


@pytest.fixture(scope="session")
def sweep_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(SWEEP)
    return str(path)


@pytest.fixture(scope="session")
def undisturbed(server, sweep_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    log = folder.with_name("log")
    arguments = ["sweep", sweep_file, "-o", str(folder), "-j", "1"]
    assert server(do="run", arguments=arguments, log=str(log)) == 0, log.read_text()
    return folder


def tables(folder, scratch):
    """The bytes of all that a sweep gives: its plan, its trials, and the curves of all of them."""
    assert export(folder, scratch / "curves.csv") == ()
    return (
        (folder / "sweep.yaml").read_bytes(),
        (folder / "trials.csv").read_bytes(),
        (scratch / "curves.csv").read_bytes(),
    )


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(server, sweep_file, undisturbed, tmp_path, workers):
    folder, log = tmp_path / "out", tmp_path / "log"
    arguments = ["sweep", sweep_file, "-o", str(folder), "-j", str(workers)]
    assert server(do="run", arguments=arguments, log=str(log)) == 0, log.read_text()
    assert tables(folder, tmp_path) == tables(undisturbed, tmp_path)


@pytest.fixture
def check_kills(server, sweep_file, undisturbed, tmp_path):
    def check(jobs, wanted, seed, share):
        told = server(
            do="sweep_killed_until_done",
            arguments=["sweep", sweep_file, "-j", str(jobs), "--retry-failed"],
            folder=str(tmp_path / "out"),
            log=str(tmp_path / "log"),
            wanted=wanted,
            seed=seed,
            share=share,
        )
        print(told)
        assert told["coordinator"] + told["worker"] >= wanted
        assert told["rewritten"] == []
        for folder in map(Path, told["folders"]):
            assert tables(folder, tmp_path) == tables(undisturbed, tmp_path)
            with (folder / "trials.csv").open(newline="") as file:
                names = [row["trial"] for row in csv.DictReader(file)]
            assert len(names) == len(set(names)) == 12
            assert {path.name for path in (folder / "trials").iterdir()} == set(names)
            assert not list(folder.rglob(".*.part"))
        assert "/analogsim/" not in (tmp_path / "log").read_text()  # no traceback of ours; dask's own may be cut short

    return check


def test_six_kills_of_a_sweep_in_one_process(check_kills):
    check_kills(jobs=1, wanted=6, seed=1, share=0.0)


def test_six_kills_of_workers_and_their_coordinator(check_kills):
    check_kills(jobs=2, wanted=6, seed=2, share=0.8)


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "share"), [(1, 0.0), (2, 0.6), (3, 0.9)])
def test_a_hundred_kills(check_kills, jobs, share):
    check_kills(jobs=jobs, wanted=100, seed=3, share=share)


@pytest.mark.parametrize("deaths", [2, 3])
def test_workers_killed_as_they_start_are_started_again(monkeypatch, deaths):
    """Where a worker is gone before all are there, dask gives up the cluster as a whole."""
    starts = []

    def start(**settings):
        starts.append(settings["n_workers"])
        if len(starts) <= deaths:
            raise RuntimeError("Nanny failed to start.")
        return nullcontext("cluster")

    monkeypatch.setattr(cluster.distributed, "LocalCluster", start)
    monkeypatch.setattr(cluster.distributed, "Client", nullcontext)
    with ExitStack() as opened:
        if deaths < cluster.STARTS:
            assert cluster._local(Options(workers=2), 5, opened) == "cluster"
        else:
            with pytest.raises(RunFolderError, match=r"could not be started \(Nanny failed to start.\); a script that"):
                cluster._local(Options(workers=2), 5, opened)
    assert starts == [2, 2, 2]
