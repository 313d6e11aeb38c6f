"""Runs given networks on the Keras backend that the environment names.

    KERAS_BACKEND=jax python -m tests.run_backend FOLDER

The folder holds weights and inputs; outputs and losses are added to it.
"""

import pathlib
import sys

import keras
import numpy as np

import keras_nasnet
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import run
from tests.networks import small_network

# Sizes that stay even, and sizes that stay odd, at most of the reductions.
SIZES = ((64, 64), (65, 97))


def _all_operations(stem, pool_padding):
    return small_network(
        (None, None, 3),
        stem,
        ALL_OPERATIONS,
        pool_padding=pool_padding,
        classifier_activation=None,
    )


# name -> (network, sizes of the images)
NETWORKS = {
    "cifar_zero": (lambda: _all_operations("cifar", "zero"), SIZES),
    "imagenet_same": (lambda: _all_operations("imagenet", "same"), SIZES),
    "mobile": (
        lambda: keras_nasnet.NASNetMobile(
            weights=None, classifier_activation=None
        ),
        ((224, 224),),
    ),
}
# Networks to be compiled as well.
COMPILED = ("cifar_zero", "imagenet_same")


def trained_network():
    """Builds a network with all that is only there for training."""
    return small_network(
        aux_head=True, drop_path_rate=0.3, dropout=0.0, weight_decay=1e-3
    )


def outputs(folder):
    """Returns the outputs of every network at every size."""
    results = {}
    for name, (build, sizes) in NETWORKS.items():
        model = build()
        model.load_weights(folder / f"{name}.weights.h5")
        for height, width in sizes:
            results[f"{name} {height}x{width}"] = run(
                model, images(2, height, width, 3)
            )
        if name in COMPILED:
            infer = keras_nasnet.compile_inference(model)
            results[f"{name}, compiled"] = infer(images(2, *sizes[0], 3))
    return results


def losses(folder):
    """Returns the losses of two steps without drop path and one with it."""
    model = trained_network()
    model.load_weights(folder / "trained.weights.h5")
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    labels = dict.fromkeys(model.output_names, np.arange(10))
    history = []
    # A schedule of a million steps has hardly begun at the second one.
    for epochs, total_steps in ((2, 1_000_000), (1, 1)):
        history += model.fit(
            images(10, 32, 32, 3),
            labels,
            batch_size=10,
            epochs=epochs,
            verbose=0,
            callbacks=[keras_nasnet.ScheduledDropPath(total_steps)],
        ).history["loss"]
    return history


def main(folder):
    # All weights are loaded. Random ones take JAX a minute before that,
    # because it compiles the drawing of every shape.
    keras.initializers.VarianceScaling.__call__ = (
        lambda self, shape, dtype=None: np.zeros(shape, dtype)
    )
    np.savez(folder / "outputs.npz", **outputs(folder))
    np.save(folder / "losses.npy", losses(folder))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
