"""Who may write in a run folder, and what its tables hold."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analogsim.errors import RunFolderError
from analogsim.experiment.results import claimed, fresh_folder, summarise, write_curves, write_json

COLUMNS = (
    "run,chip,rule,baseline,seed,epoch,step,reads,writes,train_loss,train_accuracy,test_loss,test_accuracy,"
    "test_accuracy_ideal,angle_deg,seconds,status"
)  # as design.md has them
LABELS = {"run": "a, b", "chip": "ideal", "rule": "danp", "baseline": "clean", "seed": 0}


def row(epoch, loss, accuracy=None):
    figures = dict.fromkeys(("train_loss", "test_loss"), loss)
    figures |= dict.fromkeys(("train_accuracy", "test_accuracy", "test_accuracy_ideal"), accuracy)
    return {"epoch": epoch, "step": epoch, "reads": 5, "writes": 7, "angle_deg": None, "seconds": 0.5} | figures | {
        "status": "ok"
    }  # fmt: skip


# Claims


def refused(folder, resume=False):
    with pytest.raises(RunFolderError) as caught, claimed(folder, resume):
        pytest.fail("was let in")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: ")
    return str(caught.value)


def test_a_new_folder_is_made_with_those_above_it(tmp_path):
    with claimed(tmp_path / "runs" / "one", False):
        assert (tmp_path / "runs" / "one").is_dir()


def test_a_folder_is_free_again_after_its_run(tmp_path):
    for _ in range(2):
        with claimed(tmp_path, False):
            pass


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_use_is_refused(tmp_path, resume):
    (tmp_path / "config.yaml").touch()
    with claimed(tmp_path, True):
        text = refused(tmp_path, resume)
    assert "another process is writing here" in text or (not resume and "not empty" in text)


def test_an_empty_folder_in_use_is_refused(tmp_path):
    with claimed(tmp_path, False):
        assert "another process is writing here" in refused(tmp_path)


def test_a_claim_ends_with_its_process_however_it_ends(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from analogsim.experiment.results import claimed\n"
    code += "with claimed(Path(sys.argv[1]), False): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    with claimed(tmp_path, False):
        pass


@pytest.mark.parametrize("name", ["config.yaml", "curves.csv", "thesis.tex", ".hidden", "folder/"])
def test_a_folder_with_something_in_it_is_refused_and_stays_as_it_was(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).mkdir() if name.endswith("/") else (folder / name).touch()
    assert "not empty" in refused(folder)
    assert [path.name for path in folder.iterdir()] == [name.rstrip("/")]


def test_what_a_run_leaves_that_was_killed_before_it_began_is_not_in_the_way(tmp_path):
    """A lock, a half-written config.yaml and the environment: neither new nor resumable would be a trap."""
    for name in (".lock", ".tmp123.part", "environment.json"):
        (tmp_path / name).touch()
    assert "nothing to resume" in refused(tmp_path, resume=True)
    with claimed(tmp_path, False):
        assert not list(tmp_path.glob("*.part"))


def test_strays_are_cleared_by_whoever_goes_on(tmp_path):
    for name in ("config.yaml", ".a.part", "plots/.b.part", "checkpoints/x/seed-0/.c.part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with claimed(tmp_path, True):
        assert not list(tmp_path.rglob("*.part"))


def test_a_folder_used_and_left_by_another_in_the_meantime_is_refused(tmp_path, monkeypatch):
    """Between the first look and the lock another process may begin a run and end it."""
    from filelock import FileLock

    acquire = FileLock.acquire

    def late(lock, **options):
        (tmp_path / "config.yaml").touch()
        return acquire(lock, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    assert "not empty" in refused(tmp_path)
    monkeypatch.undo()
    with claimed(tmp_path, True):  # and the lock was let go
        pass


@pytest.mark.parametrize("name", ["nothing", ".", "file"])
def test_there_must_be_a_run_to_resume(tmp_path, name):
    (tmp_path / "file").touch()
    assert "nothing to resume here, it has no config.yaml" in refused(tmp_path / name, resume=True)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["file", "file/run", "n" * 300, "/proc/run", "/dev/null"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours_is_named(tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written: Permission denied" in refused(tmp_path / "run")


def test_fresh_folders_count_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    for _ in range(3):
        made.append(str(fresh_folder("quick")))
        Path(made[-1]).mkdir(parents=True)
        assert str(fresh_folder("quick")) == made[-1]  # a refused start leaves it empty: taken again
        (Path(made[-1]) / "config.yaml").touch()
    assert made == ["runs/quick", "runs/quick-2", "runs/quick-3"]


# Tables


def test_curves_have_exactly_the_columns_promised(tmp_path):
    write_curves(tmp_path, [LABELS | row(0, 0.1)])
    header, line = (tmp_path / "curves.csv").read_text().splitlines()
    assert header == COLUMNS
    assert line == '"a, b",ideal,danp,clean,0,0,0,5,7,0.1,,0.1,,,,0.5,ok'


def test_figures_come_back_from_the_table_exactly(tmp_path):
    losses = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf]
    write_curves(tmp_path, [LABELS | row(epoch, loss) for epoch, loss in enumerate(losses)])
    with (tmp_path / "curves.csv").open(newline="") as file:
        assert [float(line["train_loss"]) for line in csv.DictReader(file)] == losses


def test_a_figure_without_a_column_is_an_error_not_a_loss(tmp_path):
    with pytest.raises(ValueError, match="surprise"):
        write_curves(tmp_path, [LABELS | row(0, 0.1) | {"surprise": 1}])


def test_the_best_epoch_is_of_the_highest_accuracy_the_first_of_equals():
    rows = [row(0, 3.0, 0.1), row(1, 2.0, 0.9), row(2, 1.0, 0.9), row(3, 0.5, 0.2)]
    summary = summarise(LABELS, rows, "ok")
    assert (summary["best"]["epoch"], summary["best"]["test_loss"]) == (1, 2.0)
    assert (summary["final"]["test_accuracy"], summary["epochs"]) == (0.2, 3)


def test_the_best_epoch_without_classes_is_of_the_lowest_loss():
    rows = [row(0, 3.0), row(1, 0.5), row(2, math.nan), row(3, 1.0)]
    assert summarise(LABELS, rows, "ok")["best"] == {"epoch": 1} | {
        name: rows[1][name]
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_accuracy_ideal")
    }


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("accuracy", [None, 0.1])
def test_a_summary_of_a_diverged_run_is_json_that_every_reader_takes(tmp_path, loss, accuracy):
    write_json(
        tmp_path / "summary.json", [summarise(LABELS, [row(0, loss, accuracy), row(1, loss, accuracy)], "diverged")]
    )
    strict = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert (strict[0]["final"]["test_loss"], strict[0]["status"]) == (None, "diverged")
