"""A small data set and a small recipe, for the tests of training."""

import numpy as np
from PIL import Image

from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from training.recipes import Recipe

CLASS_NAMES = ["blue", "green", "red"]
_CELL = CellGenotype([Block(("max_pool_3x3", 0), ("avg_pool_3x3", 1))])
GENOTYPE = Genotype(_CELL, _CELL, name="pools")
NETWORK = {
    "genotype": GENOTYPE.to_dict(),
    "num_cells": 1,
    "penultimate_filters": 32,
}


def write_pictures(folder, count, size=32):
    """Writes a folder of noise in three colours, a subfolder for each.

    Args:
        folder: Path of the folder to make.
        count: Number of pictures for each colour.
        size: Side of the pictures in pixels.

    Returns:
        The path as a string.
    """
    rng = np.random.default_rng(0)
    for channel, name in enumerate(reversed(CLASS_NAMES)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 128, (size, size, 3), "uint8")
            pixels[..., channel] += 90
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return str(folder)


def small_recipe(dataset, **changes):
    """Returns a recipe of a few seconds for what `write_pictures` wrote."""
    settings = {
        "factory": "NASNetTiny",
        "model": NETWORK,
        "dataset": dataset,
        "train_split": "train",
        "eval_split": None,
        "pipeline": "cifar",
        "pipeline_args": {},
        "batch_size": 8,
        "epochs": 3,
        "optimizer": "sgd",
        "learning_rate": 0.02,
    }
    return Recipe(**{**settings, **changes})
