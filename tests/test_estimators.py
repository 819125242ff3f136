"""The estimators keep scikit-learn's habits, train on the chip they are told, and read it to predict."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import analogsim
from analogsim import AnalogClassifier, AnalogRegressor
from analogsim.errors import ArgumentError, CapabilityError, ConfigError

HIDDEN_NOISE = "every row of a pass meets noise of its own, so a row's place among the rows matters"
ON_NOISE = {
    "check_methods_sample_order_invariance": HIDDEN_NOISE,
    "check_methods_subset_invariance": HIDDEN_NOISE,
}
IDEAL = {
    "chip": "ideal",
    "backend": "numpy",
    "hidden": (30,),
}  # float64 products: no last digit depends on the number of rows


def expected(estimator):
    return {} if estimator.chip == "ideal" else ON_NOISE


@parametrize_with_checks(
    [AnalogClassifier(), AnalogRegressor(), AnalogClassifier(**IDEAL), AnalogRegressor(**IDEAL)],
    expected_failed_checks=expected,
)
@pytest.mark.filterwarnings("ignore")  # the checks train on what they like, and some of it diverges
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """600 digits to train on, 300 to test on, scaled to [0, 1]."""
    x, y = load_digits(return_X_y=True)
    return x[:600] / 16, y[:600], x[600:900] / 16, y[600:900]


@pytest.mark.parametrize("chip", ["gaussian-node", "crossbar-generic"])
@pytest.mark.filterwarnings("ignore:.*ADC step")
def test_a_classifier_learns_digits_on_a_noisy_chip(digits, chip):
    """Chance is 10 %."""
    x, y, x_test, y_test = digits
    names = np.array([f"digit {label}" for label in range(10)])
    model = AnalogClassifier(chip, epochs=15, random_state=1).fit(x, names[y])
    assert model.score(x_test, names[y_test]) > 0.8
    assert list(model.classes_) == list(names)
    history = model.history_
    assert list(history["epoch"]) == list(range(16))
    assert list(history["reads"]) == [4 * 600 * epoch for epoch in range(16)]  # two passes, two layers
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0] / 2
    assert not [name for name in history if name.startswith(("test", "validation"))]
    assert model.experiment_.chip == analogsim.load_chip(chip)
    assert model.trainer_.chip.ledger.reads == history["reads"].iloc[-1]


def test_predictions_are_read_on_the_noisy_chip(digits):
    """Rows alike are answered differently where there is noise, and alike where there is none."""
    x, y, *_ = digits
    same = np.repeat(x[:1], 5, axis=0)
    noisy = AnalogClassifier(epochs=1).fit(x, y).predict_proba(same)
    ideal = AnalogClassifier("ideal", epochs=1).fit(x, y).predict_proba(same)
    assert len(np.unique(noisy[:, 0])) == 5
    assert np.ptp(noisy, axis=0).max() < 0.01
    assert np.ptp(ideal, axis=0).max() < 1e-6


def test_more_rows_than_a_call_are_read_as_one_pass(digits, monkeypatch):
    from analogsim.training import oracle

    x, y, *_ = digits
    model = AnalogClassifier(epochs=1, backend="numpy").fit(x, y)
    whole = model.predict_proba(x)
    monkeypatch.setattr(oracle, "CHUNK", 77)
    assert np.array_equal(model.predict_proba(x), whole)


def test_the_seed_settles_everything(digits):
    x, y, x_test, _ = digits
    model = AnalogClassifier(epochs=1, random_state=3)
    first = model.fit(x, y).predict_proba(x_test)
    assert np.array_equal(first, model.predict_proba(x_test))
    assert np.array_equal(first, clone(model).fit(x, y).predict_proba(x_test))
    assert not np.allclose(first, clone(model).set_params(random_state=4).fit(x, y).predict_proba(x_test))
    given = clone(model).set_params(random_state=np.random.RandomState(0))
    assert given._experiment().seeds != given._experiment().seeds


def test_a_validation_set_is_held_out_and_scored(digits):
    x, y, *_ = digits
    history = AnalogClassifier(epochs=2, validation_fraction=0.25).fit(x, y).history_
    assert history["step"].iloc[-1] == 2 * 23  # of 20 rows, the last of 10
    assert history["validation_accuracy"].iloc[-1] > 0.2
    assert {"validation_loss", "validation_accuracy_ideal"} <= set(history)
    with pytest.raises(ArgumentError, match="validation_fraction: 1 is not allowed"):
        AnalogClassifier(validation_fraction=1).fit(x, y)


def test_partial_fit_goes_on_where_the_last_epoch_ended(digits):
    """Epochs of `fit` and epochs of `partial_fit` over the same rows are the same training."""
    x, y, x_test, _ = digits
    whole = AnalogClassifier(epochs=3).fit(x, y)
    parts = AnalogClassifier(epochs=99)
    for _ in range(3):
        parts.partial_fit(x, y, classes=range(10))
    assert np.array_equal(whole.predict_proba(x_test), parts.predict_proba(x_test))
    columns = ["epoch", "step", "reads", "train_loss"]
    assert whole.history_[columns].equals(parts.history_[columns])
    assert list(AnalogClassifier(epochs=1).fit(x, y).partial_fit(x[:50], y[:50]).history_["step"]) == [0, 30, 33]


def test_partial_fit_knows_classes_it_has_not_seen_yet(digits):
    x, y, *_ = digits
    model = AnalogClassifier().partial_fit(x[y < 5], y[y < 5], classes=range(10))
    assert model.predict_proba(x).shape == (600, 10)
    model.partial_fit(x[y >= 5], y[y >= 5])
    with pytest.raises(ArgumentError, match="y: 10 is not allowed; allowed: one of the classes"):
        model.partial_fit(x[:2], [1, 10])


@pytest.mark.parametrize("outputs", [(), (2,)])
def test_a_regressor_learns_one_target_or_several(outputs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = np.tanh(x @ rng.normal(size=(4, *outputs))) + 0.1
    model = AnalogRegressor(epochs=20, lr=1e-2, validation_fraction=0.1).fit(x[:250], y[:250])
    assert model.predict(x).shape == y.shape
    assert model.score(x[250:], y[250:]) > 0.6
    assert "validation_loss" in model.history_
    assert not [name for name in model.history_ if "accuracy" in name]
    with pytest.raises(ArgumentError, match="as before"):
        model.partial_fit(x, rng.normal(size=(300, 3)))


def test_targets_of_any_size_go_through_a_transformer():
    x = np.random.default_rng(0).normal(size=(300, 3))
    y = 1e4 + 1e3 * x[:, 0]
    inner = AnalogRegressor(epochs=20, lr=1e-2)
    assert TransformedTargetRegressor(inner, transformer=StandardScaler()).fit(x, y).score(x, y) > 0.7


def test_in_a_pipeline_and_a_grid_search_over_chips_and_rules(digits):
    x, y, *_ = digits
    pipeline = make_pipeline(MinMaxScaler(), AnalogClassifier(hidden=(30,), epochs=4))
    noise = [analogsim.load_chip("gaussian-node").replace(**{"node_noise.sigma": s}) for s in (1e-3, 3.0)]
    grid = {
        "analogclassifier__chip": noise,
        "analogclassifier__rule": ["danp", "dbp"],
        "analogclassifier__lr": np.logspace(-3, -2, 2),
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(16 * x[:300], y[:300])
    assert search.best_params_["analogclassifier__chip"] is noise[0]
    scores = search.cv_results_["mean_test_score"]
    assert scores[:4].max() > scores[4:].max() + 0.1


@pytest.mark.parametrize("chip", ["file", "path", {"base": "ideal", "node_noise": {"sigma": 0.01}}])
def test_a_chip_is_a_name_a_file_or_a_mapping(digits, tmp_path, chip):
    path = tmp_path / "mine.yaml"
    path.write_text("node_noise: {sigma: 0.01}\ninjection_port: true\n")
    chip = {"file": str(path), "path": path}.get(chip, chip) if isinstance(chip, str) else chip
    model = AnalogClassifier(chip, epochs=0).fit(*digits[:2])
    assert (model.experiment_.chip.node_noise.sigma, model.experiment_.chip.injection_port) == (0.01, True)


# Mistakes


def test_a_rule_that_the_chip_cannot_run_is_refused_at_fit(digits):
    with pytest.raises(CapabilityError, match=r"rule np cannot run on chip gaussian-node: .*what works on it"):
        AnalogClassifier("gaussian-node", rule="np").fit(*digits[:2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, r"AnalogClassifier\(lr\): optimizer\.lr: -1 is not allowed"),
        ({"rule": "nn"}, r"AnalogClassifier\(rule\): learner\.rule: \"nn\" is not allowed"),
        ({"chip": "idela"}, r"AnalogClassifier\(chip\): .*did you mean ideal"),
        ({"hidden": (0,)}, r"AnalogClassifier\(hidden\): network\.hidden\.0: 0 is not allowed"),
        ({"random_state": -1}, r"AnalogClassifier\(random_state\): seeds\.0: -1"),
    ],
)
def test_a_wrong_parameter_is_named(digits, settings, message):
    with pytest.raises(ConfigError, match=message):
        AnalogClassifier(**settings).fit(*digits[:2])


def test_data_that_no_chip_can_take_is_refused(digits):
    x, y, *_ = digits
    with pytest.raises(ValueError, match="NaN"):
        AnalogClassifier().fit(np.where(x > 0.9, np.nan, x), y)
    with pytest.raises(ValueError, match=r"infinity|too large"):
        AnalogClassifier().fit(x * 1e39, y)
    with pytest.raises(ArgumentError, match="finite float32"):
        AnalogRegressor().fit(x, y * 1e39)
    with pytest.raises(NotFittedError):
        AnalogClassifier().predict(x)


def test_a_divergence_is_said_and_recorded(digits):
    with pytest.warns(ConvergenceWarning, match="AnalogClassifier diverged in epoch 1: rule bp; try a lower lr"):
        model = AnalogClassifier("ideal", rule="bp", lr=1e6, optimizer="sgd").fit(*digits[:2])
    assert model.history_["status"].iloc[-1] == "diverged"


def test_an_adc_that_hides_the_noise_is_said(digits):
    with pytest.warns(UserWarning, match="the chip's noise is 5e-05 of an ADC step") as said:
        AnalogClassifier({"base": "gaussian-node", "adc": {"bits": 2, "bound": 20.0}}, epochs=0).fit(*digits[:2])
    assert [str(one.message)[:23] for one in said] == [f"gaussian-node: layer {layer}:" for layer in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AnalogClassifier(epochs=0).fit(*digits[:2])


# From Python as from the command line


def test_train_gives_the_tables_of_a_run_folder(tmp_path):
    settings = {"data": "digits", "chip": "gaussian-node", "training": {"epochs": 1}, "seeds": 2}
    kept = analogsim.train(settings, tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert list(kept.trials["seed"]) == [0, 1]
    assert list(kept.curves["epoch"]) == [0, 1, 0, 1]
    for same in (tmp_path / "run" / "config.yaml", analogsim.load_plan(settings).variants["danp"]):
        again = analogsim.train(same)
        assert again.trials.drop(columns="trial").equals(kept.trials.drop(columns="trial"))
        assert not again.folder.exists()


def test_importing_analogsim_loads_none_of_it():
    code = "import sys, json, analogsim; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "sklearn"} & set(json.loads(done.stdout))
