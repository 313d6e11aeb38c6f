"""Training by recipes: settings, interruptions, several devices and workers."""

import collections
import csv
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import inference
from tests.commands import run_command
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
            train, "_callbacks", lambda *args: [*callbacks(*args), steps]
        )
        return train.train(recipe, str(workdir), **arguments), steps


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
    return lambda name, split, data_dir: splits[split]
