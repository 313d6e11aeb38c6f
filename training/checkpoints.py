"""Callbacks and helpers that never leave half a file behind."""

import json
import math
import os
import shutil
import tempfile

import keras


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
    with open(f"{path}.new", "w") as file:
        json.dump(data, file, indent=2)
    os.replace(f"{path}.new", path)


class Backup(keras.callbacks.BackupAndRestore):
    """Keras' backup after every epoch, safe against a kill while it writes.

    Keras itself recovers from a torn weight file; this adds the other file.

    Args:
        folder: Folder for the backup.
    """

    def __init__(self, folder):
        super().__init__(
            folder, double_checkpoint=True, delete_checkpoint=False
        )

    def on_train_begin(self, logs=None):
        metadata = os.path.join(self.backup_dir, "training_metadata.json")
        weights = os.path.join(self.backup_dir, "latest.weights.h5")
        if os.path.exists(metadata) and not _is_json(metadata):
            for file in (metadata, weights):
                if os.path.exists(f"{file}.bkp"):
                    shutil.copyfile(f"{file}.bkp", file)
                else:
                    os.remove(file)
        super().on_train_begin(logs)


class BestModel(keras.callbacks.Callback):
    """Keeps the model with the highest value of a metric.

    Unlike `ModelCheckpoint` it remembers the best value of earlier,
    interrupted calls, and never leaves half a file.

    Args:
        path: Path that ends in `.keras`. A `.json` beside it holds the value.
        monitor: Name of the metric.
        deployed: Function from the trained model to the one to save.
    """

    def __init__(self, path, monitor, deployed):
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.deployed = deployed
        self.record = os.path.splitext(path)[0] + ".json"

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self.monitor])
        best = -math.inf
        if os.path.exists(self.record):
            with open(self.record) as file:
                best = json.load(file)[self.monitor]
        if value > best:
            save_model(self.deployed(self.model), self.path)
            write_json({"epoch": epoch + 1, self.monitor: value}, self.record)


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops with an error at the first loss that is not a number.

    The backup of the last complete epoch stays as it is.
    """

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} at step "
                f"{int(self.model.optimizer.iterations)}. Everything up to "
                "the last complete epoch is kept. Lower the learning rate, "
                "or clip gradients more."
            )


def _is_json(path):
    with open(path) as file:
        try:
            json.load(file)
        except json.JSONDecodeError:
            return False
    return True
