"""No mistake of a user's ends in a traceback: one line that says what is wrong and what is allowed."""

from pathlib import Path

import pytest
import torch

from analogsim import cli

TRAIN = ("train", "small.yaml", "--out", "out")
LATE = "{hidden: [], layers: [{dense: 5}, {conv: {channels: 4, kernel: 3}}]}"
WIDE = "{hidden: [], layers: [{conv: {channels: 4, kernel: 29}}]}"
MISTAKES = {
    ("train", "smal.yaml"): "smal.yaml: does not exist",
    ("train", "quickstar"): "did you mean quickstart?",
    ("train", "."): ".: is a folder",
    ("train", ""): "does not exist",
    ("train",): "EXPERIMENT: None is not allowed; allowed: an experiment, or --resume DIR",
    ("train", "small.yaml", "--resume", "out"): "EXPERIMENT: 'small.yaml' is not allowed",
    ("train", "--resume", "out", "--seed", 1): "--resume: 'out' is not allowed; allowed: no other options",
    ("train", "--resume", "nowhere"): "nowhere: nothing to resume here",
    (*TRAIN, "--chip", "crossbar"): "crossbar",
    (*TRAIN, "--chip", "no/such.yaml"): "no/such.yaml",
    (*TRAIN, "--set", "learner.rule=dnap"): "learner.rule: ",
    (*TRAIN, "--set", "training.epoch=3"): "did you mean epochs?",
    (*TRAIN, "--set", "training.epochs"): "must look like dotted.key=value",
    (*TRAIN, "--set", "optimizer.lr=nan"): "optimizer.lr: ",
    (*TRAIN, "--set", "optimizer.lr=[1"): "is not a YAML value",
    (*TRAIN, "--set", "learner.rule=np"): "rule np cannot run on chip gaussian-node",
    (*TRAIN, "--backend", "numbs"): "backend: 'numbs' is not allowed; allowed: auto, numpy, numba, torch",
    (*TRAIN, "--device", "gpu"): "device: 'gpu' is not allowed; allowed: cpu, cuda, or cuda:N",
    (*TRAIN, "--device", "cpu:x"): "device: 'cpu:x' is not allowed",
    (*TRAIN, "--device", "cuda"): "cpu: torch sees no CUDA device here",
    (*TRAIN, "--device", "cuda:1", "--backend", "numpy"): "cpu: torch sees no CUDA device here",
    (*TRAIN, "--set", "data=npz:missing.npz"): "missing.npz cannot be read as an .npz file",
    (*TRAIN, "--set", "data=digit"): '--set data=digit: data: "digit" is not a data set; allowed: digits, mnist',
    ("train", "small.yaml", "--out", "small.yaml"): "small.yaml: cannot be written",
    ("train", "small.yaml", "--out", "."): ".: not empty; go on with `analogsim train --resume .`",
    ("validate", "nothing.yaml"): "nothing.yaml: does not exist",
    ("validate", "small.yaml", "--set", "learner.baseline=clean"): "rule danp cannot run on chip gaussian-node",
    ("validate", "small.yaml", "--set", f"network={LATE}"): "network.layers.1.conv: needs images below it, and a dense",
    ("validate", "small.yaml", "--set", "data=mnist", "--set", f"network={WIDE}"): "conv.kernel: 29 is not allowed; a",
    ("doctor", "small.yaml", "--set", "training.loss=mse"): "danp: training.loss: mse does not fit digits, whose targ",
    ("config", "small.yaml", "--chip", "x"): "x",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda arguments: " ".join(map(str, arguments)))
def test_a_mistake_is_one_line_and_trains_nothing(call, monkeypatch, arguments):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = call(*arguments)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert MISTAKES[arguments] in err
    assert not list(Path().rglob("config.yaml"))


@pytest.mark.parametrize("mistake", ["--backend=x", "--device=x", "--set=data=x", "--set=learner.rule=np"])
def test_after_a_mistake_the_same_folder_can_be_used(call, mistake):
    assert call(*TRAIN, mistake)[0] == 1
    assert call(*TRAIN, "--set", "training.epochs=0")[0] == 0


def test_all_mistakes_of_a_file_are_said_at_once_with_their_places(call):
    Path("bad.yaml").write_text("data: digits\nchip: {base: ideal, node_noise: {sigma: -1}}\ntraining: {epochs: x}\n")
    code, out, err = call("train", "bad.yaml")
    assert (code, out) == (1, "")
    assert [line.split(": ")[0] for line in err.splitlines()] == ["bad.yaml:2:41", "bad.yaml:3:20"]


WRONG_OPTIONS = [["tarin"], ["train", "--nope"], ["validate"], ["train", "a", "b"]]
WRONG_OPTIONS += [["train", "small.yaml", "--seed", seed] for seed in ("x", "-1", "1.5")]


@pytest.mark.parametrize("arguments", WRONG_OPTIONS)
def test_a_wrong_option_is_a_usage_error(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err
    assert "Traceback" not in err


def test_ctrl_c_before_anything_began_is_quiet(call, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert call("train", "small.yaml") == (130, "", "")


def test_a_gpu_that_is_not_there_is_refused(call, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    code, _, err = call(*TRAIN, "--device", "cuda:2")
    assert (code, err) == (1, "device: 'cuda:2' is not allowed; allowed: cpu, or cuda:N with N below 2\n")
