"""Seeds of a configuration in one batch: the same trials, the same bytes, however a batch ends."""

import csv
import io

import pytest

from analogsim.config.loader import parse_set
from analogsim.config.sweeps import load_sweep
from analogsim.errors import ConfigError
from analogsim.experiment import sweep as sweeps
from analogsim.experiment import together
from analogsim.experiment.sweep import Options, Watcher, run_sweep
from analogsim.training.seeds import SeedStack

SWEEP = {
    "data": "digits",
    "chip": "gaussian-node",
    "network": {"hidden": [6]},
    "training": {"epochs": 2, "batch": 300},
    "seeds": 3,
    "axes": {"learner.rule": ["danp", "dbp"]},
}


def run(folder, *changes, **options):
    return run_sweep(load_sweep(SWEEP, list(map(parse_set, changes))), folder, Options(**options), Watcher())


def tables(folder):
    """trials.csv, and every trial's curves without the time they took."""
    curves = {}
    for path in sorted(folder.glob("trials/*/curves.csv")):
        with path.open(newline="") as file:
            curves[path.parent.name] = [row | {"seconds": None} for row in csv.DictReader(file)]
    return (folder / "trials.csv").read_bytes(), curves


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "out"
    run(folder, "batched_seeds=off")
    return tables(folder)


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that were trained."""
    sizes = []
    original = together.train_together

    def counted(trainers, *arguments):
        sizes.append(len(trainers))
        original(trainers, *arguments)

    monkeypatch.setattr(together, "train_together", counted)
    return sizes


def test_auto_is_the_default_and_changes_no_byte(tmp_path, batches, one_by_one):
    run(tmp_path)
    assert batches == [3, 3]
    assert tables(tmp_path) == one_by_one
    assert not list(tmp_path.glob("trials/*/checkpoints"))
    assert (tmp_path / "sweep.yaml").read_text().endswith("\nbatched_seeds: auto\n")


def test_off_trains_one_by_one_and_reads_back(tmp_path, batches):
    run(tmp_path, "batched_seeds=off", "seeds=2")
    assert batches == []
    text = (tmp_path / "sweep.yaml").read_text()
    assert text.endswith("\nbatched_seeds: off\n")
    again = load_sweep(tmp_path / "sweep.yaml")
    assert (again.batched_seeds, again.text) == (False, text)
    assert [t.name for t in again.trials] == [t.name for t in load_sweep(SWEEP, [parse_set("seeds=2")]).trials]


@pytest.mark.parametrize("value", ["on", "3", "true", "[auto]", "null"])
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigError, match=r"batched_seeds: .* is not allowed; allowed: auto or off"):
        load_sweep(SWEEP, [parse_set(f"batched_seeds={value}")])
    with pytest.raises(ConfigError, match=r"batched_seeds"):
        load_sweep(SWEEP | {"batched_seeds": "on"})


def test_a_batch_is_no_larger_than_memory_allows_nor_than_keeps_every_worker_busy(monkeypatch):
    plan = load_sweep(SWEEP, [parse_set("seeds=7")])
    trials = list(plan.trials)

    def sizes(at_once, **options):
        monkeypatch.setattr(sweeps, "_checked_data", lambda left: {trial.name: at_once for trial in left})
        groups = sweeps.grouped(plan, trials, Options(**options))
        assert [trial for group in groups for trial in group] == trials
        return [len(group) for group in groups]

    assert sizes(100) == [7, 7]
    assert sizes(3) == [3, 3, 1, 3, 3, 1]
    assert sizes(100, workers=4) == [3, 3, 1, 3, 3, 1]
    assert sizes(1) == sizes(100, scheduler="tcp://x:1") == [1] * 14


@pytest.mark.parametrize("stop_after", [0, 1, 4, 20, 40])
def test_a_sweep_stopped_within_a_batch_goes_on_to_the_same_bytes(tmp_path, monkeypatch, one_by_one, stop_after):
    asked = []
    original = together.train_together

    def stopped(trainers, stop, *told):
        original(trainers, lambda: asked.append(1) or len(asked) > stop_after, *told)

    monkeypatch.setattr(together, "train_together", stopped)
    run(tmp_path)
    assert len(asked) > stop_after
    monkeypatch.undo()
    run(tmp_path)
    assert tables(tmp_path) == one_by_one


class Killed(BaseException):
    """As SIGKILL: nothing after it is done."""


@pytest.mark.parametrize("at", [3, 8, 17])
def test_a_sweep_killed_within_a_batch_goes_on_to_the_same_bytes(tmp_path, monkeypatch, one_by_one, at):
    steps = []

    def killed(self, rows, with_angle, original=SeedStack.step):
        steps.append(1)
        if len(steps) == at:
            raise Killed
        return original(self, rows, with_angle)

    monkeypatch.setattr("analogsim.training.seeds.SeedStack.step", killed)
    with pytest.raises(Killed):
        run(tmp_path, "training.checkpoint_s=0") if at == 17 else run(tmp_path)
    monkeypatch.undo()
    state = run(tmp_path, "training.checkpoint_s=0") if at == 17 else run(tmp_path)
    assert state.count("ok") == 6
    assert tables(tmp_path) == one_by_one


def test_a_batch_that_fails_is_trained_one_by_one(tmp_path, monkeypatch, one_by_one):
    def broken(self, rows, with_angle, original=SeedStack.step):
        if self.trainers[0].progress.step == 3:
            raise MemoryError
        return original(self, rows, with_angle)

    monkeypatch.setattr("analogsim.training.seeds.SeedStack.step", broken)
    state = run(tmp_path)
    assert (state.count("ok"), state.count("failed")) == (6, 0)
    assert tables(tmp_path) == one_by_one


def test_a_trial_whose_folder_cannot_be_made_fails_alone(tmp_path, one_by_one):
    names = [trial.name for trial in load_sweep(SWEEP).trials]
    (tmp_path / "sweep.yaml").touch()
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / names[1]).touch()
    state = run(tmp_path)
    assert (state.count("ok"), state.count("failed")) == (5, 1)
    assert state.ended[names[1]].status == "failed"
    (tmp_path / "trials" / names[1]).unlink()
    run(tmp_path)
    assert tables(tmp_path) == one_by_one


def test_what_ends_a_batch_in_a_worker_is_counted_trial_by_trial(tmp_path, monkeypatch):
    """A batch that kills its worker is tried again trial by trial: three deaths fail the trial, not its neighbours."""
    from distributed import KilledWorker

    from analogsim.experiment.cluster import KILLED, _Dispatch

    plan = load_sweep(SWEEP)
    tasks = [sweeps._task(trial, tmp_path, Options()) for trial in plan.trials[:3]]
    ended = []
    dispatch = _Dispatch(None, tmp_path / ".stop", Options(), None, lambda task, how: ended.append((task.name, how)))

    class Dead:
        status = "error"

        def exception(self):
            return KilledWorker("x", None, 0)

    first, alone = Dead(), [Dead(), Dead()]
    dispatch.running[first] = tasks
    assert dispatch._gather(first) == tasks
    assert [how.status for _, how in ended] == ["pending"] * 3
    dispatch.running[alone[0]] = dispatch.running[alone[1]] = tasks[:1]
    assert [dispatch._gather(one) for one in alone] == [tasks[:1], []]
    assert ended[-1][0] == tasks[0].name
    assert (ended[-1][1].status, ended[-1][1].error) == ("failed", KILLED)


def test_times_of_a_batch_add_up_to_its_own(tmp_path):
    import time

    began = time.monotonic()
    run(tmp_path, "axes.learner.rule=[danp]")
    took = time.monotonic() - began
    rows = list(csv.DictReader(io.StringIO((tmp_path / "timings.csv").read_text())))
    assert 0 < sum(float(row["seconds"]) for row in rows) < took
