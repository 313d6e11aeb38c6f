"""Is a file either whole or the one from before, whatever interrupts?"""

import json
import os

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
from training import checkpoints  # noqa: E402

STEPS = 4


class Killed(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def make_model(**settings):
    """Returns a compiled model, always with the same first weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="softmax")]
    )
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 20, 0.0)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, **settings),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS * 5, 3)).astype("float32")
    return x, (x[:, 0] > x[:, 1]).astype("int32")


def fit(model, epochs, callbacks, **settings):
    return model.fit(
        *data(),
        batch_size=5,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **settings,
    )


def assert_equal(values, expected):
    assert len(values) == len(expected)
    for value, other in zip(values, expected):
        value, other = map(keras.ops.convert_to_numpy, (value, other))
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-7)


class TestFiles:
    def test_model(self, tmp_path):
        model = make_model()
        path = str(tmp_path / "model.keras")
        checkpoints.save_model(model, path)
        assert os.listdir(tmp_path) == ["model.keras"]
        assert_equal(keras.saving.load_model(path).weights, model.weights)

    def test_interrupted_model(self, tmp_path, monkeypatch):
        path = tmp_path / "model.keras"
        path.write_text("whole")
        model = make_model()

        def save(file):
            with open(file, "w") as half:
                half.write("half")
            raise Killed

        monkeypatch.setattr(model, "save", save)
        with pytest.raises(Killed):
            checkpoints.save_model(model, str(path))
        assert path.read_text() == "whole"

    def test_json(self, tmp_path):
        path = tmp_path / "a.json"
        checkpoints.write_json({"a": 1}, path)
        with pytest.raises(TypeError):
            checkpoints.write_json({"a": object()}, path)
        assert json.loads(path.read_text()) == {"a": 1}
        assert os.listdir(tmp_path) == ["a.json"]

    @pytest.mark.parametrize("epochs", [0, 1, 2])
    def test_log(self, tmp_path, epochs):
        path = tmp_path / "log.csv"
        path.write_text("epoch,loss\n0,1.5\n1,1.25\n2,1.")
        checkpoints.cut_log(path, epochs)
        logger = keras.callbacks.CSVLogger(path, append=True)
        fit(make_model(), 4, [logger], initial_epoch=epochs)
        lines = path.read_text().splitlines()
        assert [line.split(",")[0] for line in lines][-4:] == list("0123")
        assert lines[0].startswith("epoch,") and len(lines) == 5

    def test_log_of_a_new_run(self, tmp_path):
        checkpoints.cut_log(tmp_path / "log.csv", 0)
        assert not os.listdir(tmp_path)


class Interruption(keras.callbacks.Callback):
    """Kills the third epoch at one of the moments when it hurts."""

    def __init__(self, moment, monkeypatch):
        super().__init__()
        self.moment = moment
        self.monkeypatch = monkeypatch

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 2 * STEPS + 2:
            if self.moment == "in the epoch":
                raise Killed
            target, name = {
                "while weights are written": (self.model, "save_weights"),
                "before the file has its name": (os, "replace"),
                "before the old file is gone": (os, "remove"),
            }[self.moment]
            self.monkeypatch.setattr(target, name, self.kill)

    @staticmethod
    def kill(path, *_):
        if path.endswith("unfinished.weights.h5"):
            with open(path, "w") as file:
                file.write("half")
        raise Killed


class TestBackup:
    @pytest.mark.parametrize(
        "moment, done",
        [
            ("in the epoch", 2),
            ("while weights are written", 2),
            ("before the file has its name", 2),
            ("before the old file is gone", 3),
        ],
    )
    def test_goes_on_as_if_nothing_had_happened(self, tmp_path, moment, done):
        folder = str(tmp_path / "backup")
        expected = make_model(use_ema=True)
        fit(expected, 5, [])
        with pytest.MonkeyPatch.context() as monkeypatch:
            killed = Interruption(moment, monkeypatch)
            with pytest.raises(Killed):
                fit(
                    make_model(use_ema=True),
                    5,
                    [killed, checkpoints.Backup(folder)],
                )
        model = make_model(use_ema=True)
        backup = checkpoints.Backup(folder)
        assert backup.restore(model) == done
        assert int(model.optimizer.iterations) == done * STEPS
        fit(model, 5, [backup], initial_epoch=done)
        assert_equal(model.weights, expected.weights)
        assert_equal(model.optimizer.variables, expected.optimizer.variables)
        assert os.listdir(folder) == ["epoch_5.weights.h5"]

    def test_nothing_to_restore(self, tmp_path):
        model = make_model()
        assert checkpoints.Backup(str(tmp_path / "none")).restore(model) == 0
        assert_equal(model.weights, make_model().weights)
        assert not os.listdir(tmp_path)


class TestBestModel:
    class Scores(keras.callbacks.Callback):
        """Decides the value of the metric in every epoch."""

        def __init__(self, *scores):
            super().__init__()
            self.scores = list(scores)

        def on_test_end(self, logs=None):
            logs["score"] = self.scores.pop(0)

    class Weights(keras.callbacks.Callback):
        """Records the weights that are measured, and those trained."""

        def __init__(self):
            super().__init__()
            self.measured = []
            self.trained = []

        def on_test_batch_end(self, batch, logs=None):
            self.measured.append(self.model.get_weights())

        def on_epoch_end(self, epoch, logs=None):
            self.trained.append(self.model.get_weights())

    def run(self, path, *scores):
        best = checkpoints.BestModel(path, "score", lambda model: model)
        weights = self.Weights()
        fit(
            make_model(use_ema=True, ema_momentum=0.9),
            len(scores),
            [
                self.Scores(*scores),
                best,
                keras.callbacks.SwapEMAWeights(),
                weights,
            ],
            validation_data=data(1),
            validation_batch_size=20,
        )
        return weights

    def test_keeps_the_weights_that_were_measured(self, tmp_path):
        path = str(tmp_path / "best.keras")
        weights = self.run(path, 0.25, 0.75, 0.5, 0.75)
        saved = keras.saving.load_model(path).get_weights()
        assert_equal(saved, weights.measured[1])
        # Averages are measured, and no other epoch has the same.
        for other in (*weights.measured[2:], *weights.trained):
            assert np.abs(other[0] - saved[0]).max() > 1e-4
        assert sorted(os.listdir(tmp_path)) == ["best.json", "best.keras"]
        with open(tmp_path / "best.json") as file:
            assert json.load(file) == {"epoch": 2, "score": 0.75}

    def test_remembers_the_best_of_an_earlier_run(self, tmp_path):
        path = str(tmp_path / "best.keras")
        first = self.run(path, 0.5)
        self.run(path, 0.25, 0.5)
        assert_equal(
            keras.saving.load_model(path).get_weights(), first.measured[0]
        )
        last = self.run(path, 0.25, 0.625)
        assert_equal(
            keras.saving.load_model(path).get_weights(), last.measured[1]
        )


class TestNonFiniteLoss:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_stops_at_once(self, value):
        x, y = data()
        x[7] = value  # in the second batch
        model = make_model()
        with pytest.raises(FloatingPointError) as error:
            model.fit(
                x,
                y,
                batch_size=5,
                shuffle=False,
                verbose=0,
                callbacks=[checkpoints.StopAtNonFiniteLoss()],
            )
        assert int(model.optimizer.iterations) == 2
        assert "The loss became nan at step 2." in str(error.value)
        assert "Lower the learning rate" in str(error.value)

    def test_goes_on_otherwise(self):
        fit(make_model(), 1, [checkpoints.StopAtNonFiniteLoss()])
