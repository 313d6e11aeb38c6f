"""Fine-tuning: what is trained, what is kept, and that it can go on.

How well it works on the network that comes with the package is tested in
`test_shipped_network.py`.
"""

import os

import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import inference
from tests.commands import run_command
from tests.networks import randomize
from tests.runs import CLASS_NAMES
from tests.runs import NETWORK
from tests.runs import write_pictures

tf = pytest.importorskip("tensorflow")
from training import checkpoints  # noqa: E402
from training import datasets  # noqa: E402
from training import finetune  # noqa: E402


def make_network(**settings):
    """Returns the small network, with weights as if it were trained."""
    return randomize(
        keras_nasnet.NASNetTiny(
            weights=None,
            **{"classes": 3, "class_names": CLASS_NAMES, **NETWORK, **settings},
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 pictures in 3 classes."""
    return write_pictures(tmp_path_factory.mktemp("data") / "all", count=20)


@pytest.fixture(scope="module")
def batches(folder):
    train_split, eval_split = datasets.load_folder(folder, 0.2)
    return (
        datasets.cifar_train(train_split.dataset, 12, seed=0),
        datasets.cifar_eval(eval_split.dataset, 12),
    )


def values(model):
    """Returns what every layer holds, by its name and the weight's path."""
    return {
        layer.name: {w.path: np.array(w.numpy()) for w in layer.weights}
        for layer in model.layers
    }


def changed(before, after):
    """Returns the paths of the weights that are not the same."""
    return {
        path
        for name, weights in before.items()
        for path, value in weights.items()
        if (value != after[name][path]).any()
    }


def is_of_batch_norm(path):
    return path.endswith(("gamma", "beta", "moving_mean", "moving_variance"))


class TestFreeze:
    def paths(self, model):
        return {weight.path for weight in model.trainable_weights}

    def test_classifier_alone(self):
        model = make_network()
        finetune.freeze(model)
        assert self.paths(model) == {"predictions/kernel", "predictions/bias"}

    @pytest.mark.parametrize(
        "first, expected",
        [
            ("cell_2", ["cell_2", "predictions"]),
            (
                "cell_1",
                ["cell_1", "reduction_cell_1", "cell_2", "predictions"],
            ),
        ],
    )
    def test_cells(self, first, expected):
        model = make_network()
        finetune.freeze(model, "stem")  # what an earlier call left behind
        finetune.freeze(model, first)
        assert self.paths(model) == {
            weight.path
            for name in expected
            for weight in model.get_layer(name).weights
            if not is_of_batch_norm(weight.path)
        }

    def test_unknown_layer_is_found_first(self, batches, tmp_path):
        with pytest.raises(ValueError, match="`unfreeze_from`"):
            run(make_network(), batches, tmp_path, unfreeze_from="cell_9")
        assert not list(tmp_path.iterdir())

    def test_unknown_layer(self):
        with pytest.raises(ValueError) as error:
            finetune.freeze(make_network(), "cell_9")
        message = str(error.value)
        assert "`unfreeze_from`" in message and "'cell_9'" in message
        assert "cell_1, reduction_cell_1, cell_2, final_relu" in message


def run(model, batches, workdir, **settings):
    return finetune.finetune(
        model,
        *batches,
        str(workdir),
        **{
            "head_epochs": 1,
            "epochs": 1,
            "learning_rate": 0.01,
            "unfreeze_from": "cell_2",
            **settings,
        },
    )


class Interrupted(BaseException):
    """Stands for a kill: nothing in the code catches it."""


class TestFinetune:
    def test_trains_the_classifier_and_then_the_cells(
        self, batches, tmp_path, monkeypatch
    ):
        model = make_network()
        states = [values(model)]
        rates = []

        def on_epoch_end(self, epoch, logs=None):
            states.append(values(self.model))
            rates.append(float(self.model.optimizer.learning_rate))

        monkeypatch.setattr(checkpoints.Backup, "on_epoch_end", on_epoch_end)
        run(model, batches, tmp_path)
        classifier = {"predictions/kernel", "predictions/bias"}
        assert changed(states[0], states[1]) == classifier
        assert changed(states[1], states[2]) == classifier | {
            path for path in states[0]["cell_2"] if not is_of_batch_norm(path)
        }
        assert rates == pytest.approx([0.01, 0.001])

    def test_learns_and_knows_its_classes(self, folder, batches, tmp_path):
        model = run(
            make_network(),
            batches,
            tmp_path,
            head_epochs=15,
            unfreeze_from=None,
        )
        loaded = inference.load_classifier(str(tmp_path / "final.keras"))
        assert inference.class_names(loaded) == CLASS_NAMES
        images, labels = datasets.to_numpy(batches[1])
        scores = loaded.predict(images)
        np.testing.assert_allclose(scores, model.predict(images), atol=1e-5)
        assert (scores.argmax(axis=1) == labels).mean() > 0.8
        for name in CLASS_NAMES:
            file = os.path.join(folder, name, "04.png")  # a held out one
            (best,) = keras_nasnet.predict(loaded, file, top=1)
            assert best.name == name

    @pytest.mark.parametrize("phase", ["head", "cells"])
    @pytest.mark.parametrize("epoch", [0, 1])
    def test_goes_on_as_if_nothing_had_happened(self, tmp_path, phase, epoch):
        # In one order, unlike real data, so that results can be compared.
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (6, 8)).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((x, np.arange(6) % 3))
        batches = (data.batch(2), data.batch(6))

        def train(workdir):
            keras.utils.set_random_seed(1)
            inputs = keras.Input((8,))
            x = keras.layers.Dense(5, activation="tanh", name="cell_0")(inputs)
            x = keras.layers.Dense(5, activation="tanh", name="cell_1")(x)
            x = keras.layers.Dense(3, activation="softmax")(x)
            return run(
                keras.Model(inputs, x),
                batches,
                tmp_path / workdir,
                head_epochs=2,
                epochs=2,
                unfreeze_from="cell_1",
            )

        original = checkpoints.Backup.on_epoch_end
        trained = []

        def on_epoch_end(self, this_epoch, logs=None):
            this = (os.path.basename(self.folder), this_epoch)
            if this == (f"backup_{phase}", epoch) and this not in trained:
                trained.append(this)
                raise Interrupted
            trained.append(this)
            original(self, this_epoch, logs)

        (tmp_path / "without").mkdir()
        expected = train("without")
        (tmp_path / "with").mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(
                checkpoints.Backup, "on_epoch_end", on_epoch_end
            )
            with pytest.raises(Interrupted):
                train("with")
            model = train("with")
        every = [(f"backup_{p}", e) for p in ("head", "cells") for e in (0, 1)]
        again = every.index((f"backup_{phase}", epoch))
        assert trained == every[: again + 1] + every[again:]
        for value, other in zip(model.get_weights(), expected.get_weights()):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)
        assert os.path.exists(tmp_path / "with" / "final.keras")


class TestSplits:
    @pytest.mark.parametrize("held_out, count", [(0.2, 12), (0.05, 3)])
    def test_folder(self, folder, held_out, count):
        splits = finetune.load_splits(folder, "train", None, None, held_out)
        assert [s.count for s in splits] == [60 - count, count]

    @pytest.mark.parametrize(
        "held_out, message",
        [(0.0, "60 images .* and 0 to"), (1.0, "0 images .* and 60 to")],
    )
    def test_empty_side(self, folder, held_out, message):
        with pytest.raises(ValueError, match=f"`held_out` .* {message}"):
            finetune.load_splits(folder, "train", None, None, held_out)

    def test_no_such_folder(self):
        with pytest.raises(ValueError, match="no folder '/none'"):
            finetune.load_splits("/none", "train", None, None, 0.2)

    def test_data_set_without_eval_split(self):
        with pytest.raises(ValueError, match="mnist .* --eval_split"):
            finetune.load_splits("mnist", "train", None, None, 0.2)

    def test_data_set(self, cifar10_dir):
        train_split, eval_split = finetune.load_splits(
            "cifar10", "train[:30]", "test[:20]", str(cifar10_dir), 0.2
        )
        assert (train_split.count, eval_split.count) == (30, 20)


def test_classifier_for_as_many_classes_is_new():
    model = make_network()
    before = values(model)
    finetune.renew(model.layers[-1])
    assert changed(before, values(model)) == {
        "predictions/kernel",
        "predictions/bias",
    }
    kernel, bias = model.layers[-1].get_weights()
    assert kernel.std() > 0 and not bias.any()


def test_command(folder, tmp_path, monkeypatch, capsys):
    weights = str(tmp_path / "small.weights.h5")
    make_network(classes=10, class_names=None).save_weights(weights)
    started = []

    def factory(**arguments):
        model = keras_nasnet.NASNetTiny(**arguments, **NETWORK)
        started.append(values(model))
        return model

    monkeypatch.setitem(finetune.NETWORKS, "tiny", (factory, None, "cifar", 32))
    workdir = tmp_path / "new" / "run"
    run_command(
        finetune,
        f"--dataset={folder}",
        f"--workdir={workdir}",
        f"--weights={weights}",
        "--held_out=0.1",
        "--head_epochs=1",
        "--batch_size=1000",
    )
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("top-1 ") and printed.endswith("on 6 images")
    model = inference.load_classifier(str(workdir / "final.keras"))
    assert inference.class_names(model) == CLASS_NAMES
    assert changed(started[0], values(model)) == {
        "predictions/kernel",
        "predictions/bias",
    }
    assert inference.load_classifier(str(workdir / "best.keras"))
    assert len((workdir / "log_head.csv").read_text().splitlines()) == 2
    assert list((workdir / "tensorboard" / "head").iterdir())
    arguments = (f"--dataset={folder}", f"--workdir={workdir}")
    with pytest.raises(ValueError, match="other settings: .*held_out"):
        run_command(finetune, *arguments, f"--weights={weights}")
    with pytest.raises(ValueError, match="--epochs .* needs --unfreeze_from"):
        run_command(finetune, *arguments, "--epochs=3")
