"""Callbacks and helpers that never leave half a file behind."""

import json
import math
import os
import re
import tempfile

import keras
import numpy as np


def save_model(model, path):
    """Saves a model whole or not at all.

    Args:
        model: A Keras model.
        path: Path that ends in `.keras`.
    """
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        file = os.path.join(temporary, "model.keras")
        model.save(file)
        os.replace(file, path)


def write_json(data, path):
    """Writes a JSON file whole or not at all."""
    write_text(json.dumps(data, indent=2), path)


def check_settings(settings, path):
    """Keeps runs with different settings out of one folder.

    Args:
        settings: Dictionary of JSON-compatible values.
        path: Path of the file that an earlier run wrote its settings to, which
            need not exist.

    Raises:
        ValueError: If the earlier run had others.
    """
    if not os.path.exists(path):
        return
    with open(path) as file:
        earlier = json.load(file)
    # As the file would hold it, without tuples.
    settings = json.loads(json.dumps(settings))
    changed = sorted(k for k in settings if settings[k] != earlier.get(k))
    if changed:
        raise ValueError(
            f"{os.path.dirname(path)} holds a run with other settings: "
            f"{', '.join(changed)}. Choose another folder, or give the "
            f"settings in {path}."
        )


def keep_settings(settings, path):
    """Writes down the settings of a run, unless an earlier one had others.

    Args and errors as in `check_settings()`.
    """
    check_settings(settings, path)
    write_json(settings, path)


def cut_log(path, epochs):
    """Takes back what `CSVLogger` wrote after a number of epochs.

    Args:
        path: Path of the log, which need not exist.
        epochs: Number of epochs to keep.
    """
    if os.path.exists(path):
        with open(path) as file:
            lines = file.readlines()
        # The first line names the columns.
        write_text("".join(lines[: epochs + 1] if epochs else []), path)


class Backup(keras.callbacks.Callback):
    """Keeps the state of the training after its last complete epoch.

    Weights, optimizer and epoch are one file, so that a kill at any moment
    leaves a state of which all parts belong together. Keras'
    `BackupAndRestore` writes two files, in place.

    Args:
        folder: Folder for the backup.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def restore(self, model):
        """Brings a compiled model to the state of the backup, if any.

        Args:
            model: A compiled Keras model.

        Returns:
            The number of epochs that are done, to be the `initial_epoch` of
            `fit()`.
        """
        epoch = max(self._epochs(), default=0)
        if epoch:
            # Has no variables to load into before.
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self._path(epoch))
        return epoch

    def on_epoch_end(self, epoch, logs=None):
        _check_weights(self.model)
        os.makedirs(self.folder, exist_ok=True)
        earlier = self._epochs()
        temporary = os.path.join(self.folder, "unfinished.weights.h5")
        self.model.save_weights(temporary)
        os.replace(temporary, self._path(epoch + 1))
        for done in earlier:
            if done != epoch + 1:
                os.remove(self._path(done))

    def _path(self, epoch):
        return os.path.join(self.folder, f"epoch_{epoch}.weights.h5")

    def _epochs(self):
        """Returns the epochs of the files, more than one after a kill."""
        if not os.path.isdir(self.folder):
            return []
        found = (
            re.fullmatch(r"epoch_(\d+)\.weights\.h5", name)
            for name in os.listdir(self.folder)
        )
        return [int(match[1]) for match in found if match]


class BestModel(keras.callbacks.Callback):
    """Keeps the model with the highest value of a metric on validation data.

    Unlike `ModelCheckpoint` it remembers the best value of earlier,
    interrupted calls, never leaves half a file, and, placed before
    `SwapEMAWeights`, saves the averaged weights that were measured.

    Args:
        path: Path that ends in `.keras`. A `.json` beside it holds the value.
        monitor: Name of the metric, without `val_`.
        deployed: Function from the trained model to the one to save.
    """

    def __init__(self, path, monitor, deployed):
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.deployed = deployed
        self.record = os.path.splitext(path)[0] + ".json"

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    # At the end of the epoch the averaged weights are gone again.
    def on_test_end(self, logs=None):
        value = float(logs[self.monitor])
        if value > best_value(self.record, self.monitor):
            save_model(self.deployed(self.model), self.path)
            write_json({"epoch": self.epoch, self.monitor: value}, self.record)


def best_value(path, name):
    """Returns the best value that a JSON file tells of, if there is one."""
    if not os.path.exists(path):
        return -math.inf
    with open(path) as file:
        return json.load(file)[name]


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops with an error at the first loss that is not a number.

    The backup of the last complete epoch stays as it is.
    """

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise _divergence(self.model, f"The loss became {loss}")


def _check_weights(model):
    """Raises an error if an update has made weights useless.

    The loss of a step is that before its update, so the last step of an epoch
    tells only by the weights.
    """
    for weight in model.trainable_variables:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise _divergence(model, f"{weight.path} is not finite")


def _divergence(model, what):
    step = keras.ops.convert_to_numpy(model.optimizer.iterations)
    return FloatingPointError(
        f"{what} at step {step}. Everything up to the last complete epoch is "
        "kept. Lower the learning rate, or clip gradients more, and train in "
        "another folder."
    )


def write_text(text, path):
    """Writes a text file whole or not at all."""
    with open(f"{path}.new", "w") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
