"""Writes files in the layout of keras.applications' published weights."""

import h5py
import numpy as np


def save_official(model, path):
    """Writes the weights of a model as Keras 1 and 2 did."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [la.name.encode() for la in model.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.1.5"
        for layer in model.layers:
            group = file.create_group(layer.name)
            weights = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{w.name}:0" for w in weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights):
                group.create_dataset(name, data=np.asarray(weight))
