"""Training by recipes: settings, interruptions, several devices and workers."""

import collections
import csv
import dataclasses
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from absl import flags

import keras_nasnet
from keras_nasnet import inference
from tests.commands import run_command
from tests.conftest import ROOT
from tests.networks import images
from tests.networks import randomize
from tests.runs import CLASS_NAMES
from tests.runs import GENOTYPE
from tests.runs import NETWORK
from tests.runs import small_recipe
from tests.runs import write_pictures

tf = pytest.importorskip("tensorflow")
from training import checkpoints  # noqa: E402
from training import datasets  # noqa: E402
from training import recipes  # noqa: E402
from training import train  # noqa: E402

# Of the folder below, with the batch size of the small recipe.
STEPS = 3
# Everything that the recipes here use.
EVERYTHING = {
    "model": {**NETWORK, "aux_head": True, "drop_path_rate": 0.3},
    "label_smoothing": 0.1,
    "clip_norm": 5.0,
    "ema": 0.9,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "all", count=9)


class Steps(keras.callbacks.Callback):
    """Records what the network is after every step."""

    def __init__(self):
        super().__init__()
        self.weights = []
        self.rates = []
        self.progress = []

    def on_train_begin(self, logs=None):
        self.drop_paths = [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras_nasnet.DropPath) and layer.rate
        ]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(
            {w.path: w.numpy() for w in self.model.trainable_weights}
        )
        self.rates.append(float(self.model.optimizer.learning_rate))
        self.progress += {float(d.progress) for d in self.drop_paths}


def recorded(recipe, workdir, **arguments):
    """Trains, and returns the result and what happened at every step."""
    steps = Steps()
    callbacks = train._callbacks
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            train, "_callbacks", lambda recipe: [*callbacks(recipe), steps]
        )
        return train.train(recipe, str(workdir), **arguments), steps


def built(recipe):
    """Returns the compiled network of a recipe, with weights like trained."""
    model = randomize(train.build_model(recipe, CLASS_NAMES))
    optimizer = train.build_optimizer(recipe, STEPS)
    train.compile_model(model, optimizer, recipe)
    return model


def restored(recipe, workdir):
    """Returns the network in a run's backup, and the epochs that are done."""
    model = built(recipe)
    done = checkpoints.Backup(str(workdir / "backup")).restore(model)
    return model, done


def kept_recipe(workdir):
    """Returns the recipe that a run with the default seed wrote down."""
    with open(workdir / "recipe.json") as file:
        settings = json.load(file)
    assert settings.pop("seed") == 0
    return recipes.Recipe(**settings)


def log_of(workdir):
    with open(workdir / "log.csv") as file:
        return list(csv.DictReader(file))


Run = collections.namedtuple("Run", "recipe workdir network steps")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run of three epochs, validated on a part of the folder."""
    workdir = tmp_path_factory.mktemp("run")
    recipe = small_recipe(
        "pictures", eval_split="eval", warmup_epochs=1.0, **EVERYTHING
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(datasets, "load", splits_of(folder))
        return Run(recipe, workdir, *recorded(recipe, workdir))


def splits_of(folder):
    """Returns a `load` that knows two splits of a folder."""
    splits = dict(zip(("train", "eval"), datasets.load_folder(folder, 0.12)))
    return lambda name, split, data_dir, seed=None: splits[split]


class TestRun:
    def test_files(self, run):
        assert sorted(os.listdir(run.workdir)) == [
            "backup",
            "best.json",
            "best.keras",
            "final.keras",
            "log.csv",
            "recipe.json",
            "tensorboard",
        ]
        assert kept_recipe(run.workdir) == run.recipe

    def test_final_network_has_averaged_weights(self, run):
        first, *others = run.steps.weights
        assert len(others) == 3 * STEPS - 1
        average = first
        for weights in others:
            average = {
                path: 0.9 * average[path] + 0.1 * weights[path]
                for path in average
            }
        path = str(run.workdir / "final.keras")
        for network in (inference.load_classifier(path), run.network):
            for weight in network.trainable_weights:
                np.testing.assert_allclose(
                    weight, average[weight.path], rtol=1e-4, atol=1e-6
                )
        last = run.steps.weights[-1]["predictions/kernel"]
        assert np.abs(last - average["predictions/kernel"]).max() > 1e-3

    def test_final_network_is_for_use(self, run):
        path = str(run.workdir / "final.keras")
        network = inference.load_classifier(path)
        assert inference.class_names(network) == CLASS_NAMES
        assert network.output_shape == (None, 3)
        names = [layer.name for layer in network.layers]
        assert "aux_predictions" not in names and names[-1] == "predictions"
        x = images(4, 32, 32, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            scores = network(x)
        np.testing.assert_allclose(scores, run.network(x), atol=1e-6)

    def test_log(self, run):
        log = log_of(run.workdir)
        assert [row["epoch"] for row in log] == ["0", "1", "2"]
        for row in log:
            total = float(row["predictions_loss"])
            total += 0.4 * float(row["aux_predictions_loss"])
            assert float(row["loss"]) == pytest.approx(total, rel=1e-4)

    def test_best_network(self, run):
        accuracies = [
            float(row["val_predictions_accuracy"])
            for row in log_of(run.workdir)
        ]
        with open(run.workdir / "best.json") as file:
            assert json.load(file) == {
                "epoch": 1 + int(np.argmax(accuracies)),
                "predictions_accuracy": pytest.approx(max(accuracies)),
            }
        path = str(run.workdir / "best.keras")
        network = inference.load_classifier(path)
        assert network.output_shape == (None, 3)

    def test_schedules(self, run):
        steps = np.arange(1, 3 * STEPS + 1)
        cosine = 0.01 * (1 + np.cos(np.pi * (steps - STEPS) / (2 * STEPS)))
        expected = np.where(steps < STEPS, 0.02 * steps / STEPS, cosine)
        np.testing.assert_allclose(run.steps.rates, expected, atol=1e-7)
        np.testing.assert_allclose(
            run.steps.progress, (steps - 1) / (3 * STEPS), atol=1e-6
        )

    def test_same_seed_gives_the_same_weights(self, run, folder, tmp_path):
        keras.utils.set_random_seed(5)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(datasets, "load", splits_of(folder))
            _, steps = recorded(run.recipe, tmp_path)
        assert len(steps.weights) == 3 * STEPS
        for weights, expected in zip(steps.weights, run.steps.weights):
            for path in expected:
                np.testing.assert_allclose(
                    weights[path],
                    expected[path],
                    rtol=1e-6,
                    atol=1e-6,
                )

    def test_finished_run_stays_as_it_is(self, run, folder, monkeypatch):
        monkeypatch.setattr(datasets, "load", splits_of(folder))
        log = log_of(run.workdir)
        network, steps = recorded(run.recipe, run.workdir)
        assert not steps.weights
        assert log_of(run.workdir) == log
        for weight, expected in zip(
            network.get_weights(), run.network.get_weights()
        ):
            np.testing.assert_allclose(weight, expected, atol=1e-6)

    def test_other_settings_in_the_same_folder(self, run):
        other = dataclasses.replace(
            run.recipe, learning_rate=0.5, pipeline_args={"cutout": 4}
        )
        with pytest.raises(ValueError) as error:
            train.train(other, str(run.workdir))
        assert (
            f"{run.workdir} holds a run with other settings: "
            "learning_rate, pipeline_args." in str(error.value)
        )
        with pytest.raises(ValueError, match="other settings: seed"):
            train.train(run.recipe, str(run.workdir), seed=1)
        assert kept_recipe(run.workdir) == run.recipe

    def test_last_update_of_an_epoch_diverges(self, tmp_path):
        """Its loss is still that of before."""
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(float("inf")), "mse")
        good = checkpoints.Backup(str(tmp_path))
        good.set_model(model)
        good.on_epoch_end(0)
        with pytest.raises(FloatingPointError, match="is not finite at step 1"):
            model.fit(
                np.ones((2, 1)),
                np.zeros((2, 1)),
                2,
                verbose=0,
                callbacks=[good],
            )
        assert [file.name for file in tmp_path.iterdir()] == [
            "epoch_1.weights.h5"
        ]
        good.restore(model)
        assert np.isfinite(model.get_weights()[0]).all()

    def test_loss_that_is_not_finite(self, run, folder, tmp_path, monkeypatch):
        class Poison(Steps):
            def on_train_batch_end(self, batch, logs=None):
                super().on_train_batch_end(batch, logs)
                if len(self.weights) == STEPS + 1:
                    bias = self.model.get_layer("predictions").bias
                    bias.assign([np.nan] * 3)

        monkeypatch.setattr(datasets, "load", splits_of(folder))
        poison = Poison()
        callbacks = train._callbacks
        monkeypatch.setattr(
            train, "_callbacks", lambda recipe: [*callbacks(recipe), poison]
        )
        with pytest.raises(FloatingPointError, match="nan at step 5. "):
            train.train(run.recipe, str(tmp_path), seed=1)
        assert [row["epoch"] for row in log_of(tmp_path)] == ["0"]
        assert not (tmp_path / "final.keras").exists()
        best = inference.load_classifier(str(tmp_path / "best.keras"))
        assert all(np.isfinite(w).all() for w in best.get_weights())
        model, done = restored(run.recipe, tmp_path)
        assert done == 1
        for weight in model.trainable_weights:
            np.testing.assert_allclose(
                weight,
                poison.weights[STEPS - 1][weight.path],
                rtol=1e-6,
                atol=1e-8,
            )
        # This run had another seed, which another run starts from.
        path = "stem/conv/kernel"
        start, other = (s.weights[0][path] for s in (run.steps, poison))
        assert np.abs(start - other).max() > 0.01


def start(task, log, **environment):
    """Starts `run_training` in a process of its own."""
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.run_training", json.dumps(task)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def test_killed_twice(folder, tmp_path, monkeypatch):
    log, workdir = tmp_path / "log.txt", tmp_path / "run"
    settings = {"dataset": folder, "epochs": 4, **EVERYTHING}
    task = {"recipe": settings, "workdir": str(workdir)}
    backup = workdir / "backup"
    for kill, files, epochs in (
        # In the middle of the second epoch.
        (
            {"step": STEPS + 2, "in_backup": False},
            ["epoch_1.weights.h5"],
            ["0"],
        ),
        # At the end of the third epoch, which is in the log already.
        (
            {"step": 3 * STEPS, "in_backup": True},
            ["epoch_2.weights.h5", "unfinished.weights.h5"],
            ["0", "1", "2"],
        ),
    ):
        process = start({**task, "kill_after": kill}, log)
        assert process.wait() == -signal.SIGKILL, log.read_text()
        assert sorted(os.listdir(backup)) == files
        assert [row["epoch"] for row in log_of(workdir)] == epochs
        assert not (workdir / "final.keras").exists()
    seeds = []

    def prepare(dataset, batch_size, seed):
        seeds.append(seed)
        return datasets.cifar_train(dataset, batch_size, seed)

    monkeypatch.setitem(datasets.PIPELINES, "cifar", (prepare, None))
    _, steps = recorded(small_recipe(**settings), workdir)
    # Not the order and augmentation with which the run began.
    assert seeds == [2]
    # Two epochs are left, on the same schedule.
    left = np.arange(2 * STEPS + 1, 4 * STEPS + 1)
    np.testing.assert_allclose(
        steps.rates,
        0.01 * (1 + np.cos(np.pi * left / (4 * STEPS))),
        atol=1e-7,
    )
    np.testing.assert_allclose(
        steps.progress, (left - 1) / (4 * STEPS), atol=1e-6
    )
    assert [row["epoch"] for row in log_of(workdir)] == ["0", "1", "2", "3"]
    assert os.listdir(backup) == ["epoch_4.weights.h5"]
    path = str(workdir / "final.keras")
    assert inference.class_names(inference.load_classifier(path)) == CLASS_NAMES


@pytest.mark.slow
def test_two_workers(folder, tmp_path):
    files = []
    for i in range(4):
        files.append(str(tmp_path / f"{i}.txt"))
        numbers = range(6 * i, 6 * i + 6)
        (tmp_path / f"{i}.txt").write_text("\n".join(map(str, numbers)))
    workdir = tmp_path / "run"
    recipe = {"dataset": folder, "epochs": 2, **EVERYTHING}
    hosts = [f"localhost:{port}" for port in free_ports(2)]
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    processes = []
    for i, log in enumerate(logs):
        config = {
            "cluster": {"worker": hosts},
            "task": {"type": "worker", "index": i},
        }
        task = {
            "recipe": recipe,
            "workdir": str(workdir),
            "files": files,
            "out": str(tmp_path / f"{i}.npz"),
        }
        processes.append(start(task, log, TF_CONFIG=json.dumps(config)))
    try:
        for process, log in zip(processes, logs):
            # Only so that a worker without the other does not wait for ever.
            assert process.wait(timeout=500) == 0, log.read_text()
    finally:
        for process in processes:
            process.kill()
    first, second = (dict(np.load(tmp_path / f"{i}.npz")) for i in range(2))
    # Every batch is divided among the workers, whatever the files.
    shares = np.concatenate([first.pop("shares"), second.pop("shares")], axis=1)
    assert np.sort(shares).tolist() == np.arange(24).reshape(3, 8).tolist()
    # They learn the same, ...
    network = inference.load_classifier(str(workdir / "final.keras"))
    assert first.keys() == second.keys()
    for weight in network.trainable_weights:
        for weights in (first, second):
            np.testing.assert_allclose(weight, weights[weight.path], atol=1e-6)
    # ... in as many steps as one worker, ...
    model, done = restored(small_recipe(**recipe), workdir)
    assert done == 2
    assert int(model.optimizer.iterations) == 2 * STEPS
    # ... and only one of them writes.
    assert sorted(os.listdir(workdir)) == [
        "backup",
        "final.keras",
        "log.csv",
        "recipe.json",
        "tensorboard",
    ]
    assert len(os.listdir(workdir / "tensorboard" / "train")) == 1
    assert [row["epoch"] for row in log_of(workdir)] == ["0", "1"]


def free_ports(count):
    """Returns ports that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class TestRefused:
    def check(self, recipe, workdir, message):
        with pytest.raises(ValueError, match=message):
            train.train(recipe, str(workdir))
        # So that the corrected recipe can use the folder.
        assert not os.listdir(workdir)

    def test_batch_larger_than_the_data(self, folder, tmp_path):
        self.check(
            small_recipe(folder, batch_size=28),
            tmp_path,
            "`batch_size` 28 is larger than the 27 images",
        )

    def test_split_of_a_folder(self, folder, tmp_path):
        self.check(
            small_recipe(folder, eval_split="test"),
            tmp_path,
            "`eval_split` must be empty for a folder",
        )


class TestOptimizer:
    """Settings by what the optimizer does."""

    def rates(self, steps, **settings):
        recipe = small_recipe("any", learning_rate=0.4, **settings)
        optimizer = train.build_optimizer(recipe, steps_per_epoch=10)
        rates = []
        for step in steps:
            optimizer.iterations.assign(step)
            rates.append(float(optimizer.learning_rate))
        return rates

    def test_cosine(self):
        rates = self.rates([0, 25, 50, 60], epochs=5)
        assert rates == pytest.approx([0.4, 0.2, 0, 0], abs=1e-7)

    def test_cosine_with_warm_up(self):
        steps = [0, 5, 10, 30, 50]
        rates = self.rates(steps, epochs=5, warmup_epochs=1.0)
        assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-7)

    def test_exponential(self):
        rates = self.rates([0, 23, 24, 47, 48], schedule="exponential")
        expected = [0.4, 0.4, 0.4 * 0.97, 0.4 * 0.97, 0.4 * 0.97**2]
        assert rates == pytest.approx(expected)

    def updates(self, gradients, **settings):
        """Returns the changes of two variables at a rate of (almost) 0.1."""
        recipe = small_recipe(
            "any", epochs=10**6, learning_rate=0.1, **settings
        )
        optimizer = train.build_optimizer(recipe, steps_per_epoch=10)
        variables = [keras.Variable(0.0) for _ in range(2)]
        values = [np.zeros(2)]
        for gradient in gradients:
            optimizer.apply(list(map(keras.ops.array, gradient)), variables)
            values.append([v.numpy() for v in variables])
        return np.diff(values, axis=0)

    def test_sgd(self):
        # Nesterov's momentum: 1.9 times the first gradient.
        updates = self.updates([[1.0, -2.0], [0.5, 0.0]])
        np.testing.assert_allclose(
            updates,
            [
                [-0.19, 0.38],
                [-0.1 * (0.81 + 1.9 * 0.5), 0.1 * 0.81 * 2],
            ],
            rtol=1e-5,
        )

    def test_rmsprop(self):
        gradients = np.array([[3.0, -0.1], [-1.0, 2.0]], "float32")
        updates = self.updates(gradients, optimizer="rmsprop")
        square = momentum = 0
        for gradient, update in zip(gradients, updates):
            square = 0.9 * square + 0.1 * gradient**2
            momentum = 0.9 * momentum + 0.1 * gradient / np.sqrt(square + 1.0)
            np.testing.assert_allclose(update, -momentum, rtol=1e-5)

    @pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
    def test_clipping(self, optimizer):
        settings = {"optimizer": optimizer}
        (free,) = self.updates([[0.6, 0.8]], **settings)
        (clipped,) = self.updates([[30.0, 40.0]], clip_norm=1.0, **settings)
        np.testing.assert_allclose(clipped, free, rtol=1e-5)


class TestLoss:
    LABELS = np.array([0, 2, 1, 1, 2, 0])

    def cross_entropy(self, scores, smoothing=0.0):
        target = np.eye(3)[self.LABELS] * (1 - smoothing) + smoothing / 3
        return -(target * np.log(scores)).sum(axis=1).mean()

    def data(self, model):
        x = images(6, 32, 32, 3)
        data = tf.data.Dataset.from_tensor_slices((x, self.LABELS)).batch(6)
        return x, train.with_labels_for_heads(data, model)

    def test_auxiliary_head_and_smoothing(self):
        model = built(
            small_recipe(
                "any",
                model={**NETWORK, "aux_head": True},
                label_smoothing=0.2,
            )
        )
        x, data = self.data(model)
        scores = model.predict(x)
        heads = [
            self.cross_entropy(scores[name], smoothing=0.2)
            for name in ("predictions", "aux_predictions")
        ]
        assert abs(heads[0] - heads[1]) > 0.1
        logs = model.evaluate(data, return_dict=True, verbose=0)
        assert logs["loss"] == pytest.approx(
            heads[0] + 0.4 * heads[1], rel=1e-4
        )

    def test_one_head(self):
        model = built(small_recipe("any"))
        x, data = self.data(model)
        scores = model.predict(x)
        logs = model.evaluate(data, return_dict=True, verbose=0)
        assert logs == {
            "loss": pytest.approx(self.cross_entropy(scores), rel=1e-4),
            "accuracy": pytest.approx(
                (scores.argmax(axis=1) == self.LABELS).mean()
            ),
        }

    def test_data_is_shared_out_by_image(self):
        _, data = self.data(built(small_recipe("any")))
        policy = data.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.DATA


class TestCommand:
    @pytest.fixture
    def genotype(self, tmp_path):
        GENOTYPE.save(tmp_path / "cell.json")
        return f"--genotype={tmp_path / 'cell.json'}"

    @pytest.fixture
    def dtype_policy(self):
        before = keras.config.dtype_policy()
        yield
        keras.config.set_dtype_policy(before)

    @pytest.mark.parametrize(
        "flag, dtype",
        [("--mixed_precision", "bfloat16"), ("--strategy=mirrored", "float32")],
    )
    def test_one_epoch(
        self, folder, tmp_path, genotype, dtype_policy, flag, dtype
    ):
        workdir = tmp_path / "run"
        run_command(
            train,
            "--recipe=cifar10_tiny",
            f"--workdir={workdir}",
            f"--dataset={folder}",
            "--eval_split=",
            "--epochs=1",
            "--batch_size=9",
            genotype,
            flag,
        )
        (row,) = log_of(workdir)
        assert np.isfinite(float(row["loss"]))
        network = inference.load_classifier(str(workdir / "final.keras"))
        assert network.get_layer("cell_0").compute_dtype == dtype
        head = network.get_layer("predictions")
        assert head.compute_dtype == "float32"
        assert all(w.dtype == "float32" for w in network.weights)
        assert network(images(2, 32, 32, 3)).dtype == "float32"

    def parsed(self, monkeypatch, *flags):
        """Returns the recipe that flags stand for."""
        found = []
        monkeypatch.setattr(
            train, "main", lambda _: found.append(train.recipe_from_flags())
        )
        run_command(train, "--workdir=any", *flags)
        return found[0]

    def test_recipe(self, monkeypatch):
        recipe = self.parsed(monkeypatch, "--recipe=cifar10_paper")
        assert recipe == recipes.get("cifar10_paper")

    def test_overrides(self, monkeypatch, genotype):
        changes = {
            "dataset": "mnist",
            "train_split": "train[:100]",
            "eval_split": "test",
            "epochs": 7,
            "batch_size": 12,
            "learning_rate": 0.125,
            "weights": "any.weights.h5",
        }
        recipe = self.parsed(
            monkeypatch,
            "--recipe=imagenet_mobile",
            *(f"--{name}={value}" for name, value in changes.items()),
            genotype,
        )
        original = recipes.get("imagenet_mobile")
        model = train.with_genotype(original, GENOTYPE).model
        assert model["genotype"] == GENOTYPE.to_dict()
        assert recipe == dataclasses.replace(original, **changes, model=model)

    def test_unknown_recipe(self):
        with pytest.raises(ValueError) as error:
            recipes.get("cifar100")
        assert str(error.value) == (
            "Unknown recipe 'cifar100'. Expected one of cifar10_paper, "
            "cifar10_tiny, cifar10_tiny_again, imagenet_large, "
            "imagenet_mobile."
        )
        with pytest.raises(flags.IllegalFlagValueError, match="cifar10_tiny"):
            run_command(train, "--recipe=cifar100", "--workdir=any")


def test_starts_from_weights(folder, tmp_path):
    trained = built(small_recipe(folder))
    path = str(tmp_path / "trained.weights.h5")
    trained.save_weights(path)
    network = train.build_model(small_recipe(folder, weights=path), CLASS_NAMES)
    for ours, theirs in zip(network.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", recipes.names())
class TestRecipes:
    def test_fits_its_network_and_pipeline(self, name):
        recipe = recipes.get(name)
        if name == "imagenet_large":  # takes half a minute at full size
            small = {"num_cells": 1, "penultimate_filters": 24 * 16}
            recipe = dataclasses.replace(
                recipe, model={**recipe.model, **small}
            )
        model = built(recipe)
        assert ("aux_predictions" in model.output_names) == bool(
            recipe.model.get("aux_head")
        )
        pixels = np.zeros((2, 50, 60, 3), "uint8")
        data = tf.data.Dataset.from_tensor_slices((pixels, [0, 1]))
        prepare, prepare_eval = datasets.PIPELINES[recipe.pipeline]
        for batches in (
            prepare(data, 2, 0, **recipe.pipeline_args),
            prepare_eval(data, 2, **recipe.pipeline_args),
        ):
            (x, _), *_ = batches
            assert x.shape[1:] == model.input_shape[1:]

    def test_gives_its_command(self, name, monkeypatch):
        module = importlib.import_module(f"training.recipes.{name}")
        commands = commands_of(module)
        assert [f"--recipe={name}" in c for c in commands].count(True) == 1
        check_commands(commands, monkeypatch)


@pytest.mark.parametrize("name", ["evaluate", "finetune", "train"])
def test_app_gives_its_command(name, monkeypatch):
    module = importlib.import_module(f"training.{name}")
    commands = commands_of(module)
    assert commands
    check_commands(commands, monkeypatch)


def commands_of(module):
    """Returns the commands of a docstring, the first with all options."""
    lines = re.findall(r"^    (\S.*)$", module.__doc__, re.MULTILINE)
    commands = [x for x in lines if x.startswith("python -m training.")]
    options = [line for line in lines if line.startswith("--")]
    return [" ".join([commands[0], *options]), *commands[1:]]


def check_commands(commands, monkeypatch):
    """Checks that each command's options exist and are enough."""
    ran = []
    for command in commands:
        _, _, name, *options = command.split()
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "main", ran.append)
        run_command(module, *options)
    assert len(ran) == len(commands)
