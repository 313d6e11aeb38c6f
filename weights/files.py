"""Writes files of weights whole or not at all."""

import hashlib
import os
import tempfile

import h5py
from absl import flags

from keras_nasnet.cells import Cell
from keras_nasnet.names import POOL_PADDING


def save_weights(model, path):
    """Saves the weights of a model so that no half file is ever seen.

    The file says how the strided pools of the model pad, so that a network
    that is built for it does the same.

    Args:
        model: A Keras model.
        path: Path that ends in `.weights.h5`. `{sha256}` in its name stands
            for the hash of the file.

    Returns:
        The path of the file.

    Raises:
        ValueError: If `path` ends in something else.
    """
    folder, name = os.path.split(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = os.path.join(temporary, name)
        model.save_weights(made)
        with h5py.File(made, "a") as file:
            for layer in model.layers:
                if isinstance(layer, Cell):
                    file.attrs[POOL_PADDING] = layer.pool_padding
        name = name.replace("{sha256}", digest(made, "sha256"))
        path = os.path.join(folder, name)
        os.replace(made, path)
    return path


def define_out_flag():
    """Defines `--out`, which is checked before anything is converted."""
    flags.DEFINE_string(
        "out", None, "The .weights.h5 file to write.", required=True
    )
    flags.register_validator(
        "out",
        lambda path: path.endswith(".weights.h5"),
        message="must end in .weights.h5, which is what Keras reads",
    )


def digest(path, algorithm):
    """Returns the hash of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
