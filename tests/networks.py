"""Networks and comparisons that several tests share."""

import math

import keras
import numpy as np

from keras_nasnet import NASNET_A
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import NASNet
from keras_nasnet.genotypes import COMBINER_NAMES
from keras_nasnet.genotypes import OPERATION_NAMES


def _cell_of_all_operations():
    """Every operation on an input, every combiner, and states read again."""
    operations = (*OPERATION_NAMES, "avg_pool_3x3")
    blocks = [
        Block(
            (operations[2 * b], b % 2),
            (operations[2 * b + 1], (b + 1) % 2),
            COMBINER_NAMES[b % len(COMBINER_NAMES)],
        )
        for b in range(7)
    ]
    # State 3 is a concatenation and so twice as wide as the others.
    blocks.append(Block(("identity", 3), ("max_pool_5x5", 3)))
    blocks.append(Block(("avg_pool_3x3", 2), ("conv_1x7_7x1", 8)))
    return CellGenotype(blocks, outputs=(1, 3, 9, 10))


ALL_OPERATIONS = Genotype(
    _cell_of_all_operations(), _cell_of_all_operations(), "all operations"
)


def small_network(
    input_shape=(32, 32, 3), stem="cifar", genotype=NASNET_A, **kwargs
):
    """Builds a network of five cells, or seven with the ImageNet stem."""
    outputs = len(genotype.normal.outputs)
    return NASNet(
        input_shape,
        genotype=genotype,
        stem=stem,
        **{
            "classes": 10,
            "num_cells": 1,
            # 4 channels in the first stack. Twice that with the ImageNet
            # stem, whose first cell has a quarter of them.
            "penultimate_filters": outputs * (16 if stem == "cifar" else 32),
            **kwargs,
        },
    )


def randomize(model, seed=0):
    """Gives a network or layer weights that a trained one might have.

    Above all its batch norms: their first statistics are 0 and 1, with which
    a mix-up of them goes unnoticed. Kernels keep the scale of what they read,
    so that the outputs of a deep network stay in range.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.2, shape))
        elif variable.name.endswith("kernel"):
            is_depthwise = variable.name == "depthwise_kernel"
            fan_in = math.prod(shape[:2] if is_depthwise else shape[:-1])
            variable.assign(rng.normal(0, (2 / fan_in) ** 0.5, shape))
    return model


def images(*shape, seed=0):
    """Returns random images `(batch, height, width, channels)` in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, shape).astype("float32")


def run(model, inputs):
    """Returns the outputs of a model or layer at inference as arrays."""
    # JAX is slow at running layer by layer, others are slow at compiling.
    if isinstance(model, keras.Model) and keras.config.backend() == "jax":
        return model.predict_on_batch(inputs)
    return keras.tree.map_structure(
        keras.ops.convert_to_numpy, model(inputs, training=False)
    )


def relative_difference(outputs, expected):
    """Returns the largest difference, relative to the largest output."""
    outputs, expected = np.asarray(outputs), np.asarray(expected)
    assert outputs.shape == expected.shape
    assert np.isfinite(expected).all() and expected.std() > 0
    return np.abs(outputs - expected).max() / np.abs(expected).max()
