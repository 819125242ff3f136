"""What a training shows: lines in a log, a bar on a terminal."""

import io

import rich.console

from analogsim.progress import Bar, Lines


class Training:
    """As much of a trainer as a reporter looks at."""

    epochs, batches = 2, 5

    def __init__(self, **row):
        figures = {"epoch": 1, "train_loss": 1.5, "test_loss": 1.25, "train_accuracy": 0.5, "test_accuracy": 0.625}
        self.progress = type("Progress", (), {"step": 5, "status": "running", "rows": [figures | row]})()


def test_lines_are_a_line_an_epoch_with_time_left(capsys):
    lines, training = Lines(), Training()
    training.progress.step = 0
    lines.begin("danp", 3, training)
    lines._started -= 10  # ten seconds for the first half
    training.progress.step = 5
    lines.step(training)
    lines.epoch(training)
    assert capsys.readouterr().out == "danp seed 3  epoch 1/2  loss 1.500 train 50.0% test 62.5%  10 s left\n"
    training.progress.status = "diverged"
    training.progress.rows[0] |= {"train_loss": float("nan"), "test_accuracy": None, "train_accuracy": None}
    lines.epoch(training)
    assert capsys.readouterr().out == "danp seed 3  epoch 1/2  loss nan test 1.250  diverged\n"


def test_the_bar_shows_runs_and_prints_messages_as_they_are():
    screen = io.StringIO()
    with Bar(rich.console.Console(file=screen, force_terminal=True, width=100)) as bar:
        bar.message("checkpoint [red]1[/red] is damaged ([Errno 2] gone)")
        for seed in (0, 1):
            bar.begin("danp", seed, Training())
            bar.step(Training())
            bar.epoch(Training())
    shown = screen.getvalue()
    assert "checkpoint [red]1[/red] is damaged ([Errno 2] gone)" in shown
    assert "danp seed 1" in shown
    assert "50%" in shown
    assert "loss 1.500 train 50.0% test 62.5%" in shown
