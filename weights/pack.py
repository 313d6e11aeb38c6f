"""Packs a trained NASNetTiny into the file of weights that the package ships.

Run, from a checkout:

    python -m weights.pack --model=runs/tiny/final.keras \
        --out=weights/nasnet_tiny_cifar10.weights.h5

The file has numbers of 16 bits, which halves it. Keras reads it like any other
`.weights.h5` file. Its SHA-256, which is printed, belongs into the record in
`keras_nasnet/records.py`.
"""

import os
import tempfile
from typing import NamedTuple

import keras
import numpy as np
from absl import app
from absl import flags

import keras_nasnet

from . import copying
from . import files
from . import precision

FLAGS = flags.FLAGS
# Of a probability: many times what rounding to 16 bits changes.
TOLERANCE = 0.02
NUM_IMAGES = 256


class Difference(NamedTuple):
    """How far the answers of two networks are apart on the same images."""

    probability: float
    other_class: int


def pack(model, path):
    """Writes the weights of a trained NASNetTiny with 16 bits.

    Args:
        model: A trained `NASNetTiny` without auxiliary head.
        path: Path of the file to write, ends in `.weights.h5`.

    Returns:
        A `Difference` between the network and what loading the file gives.

    Raises:
        ValueError: If `model` is another network, or 16 bits are too few for
            its weights. Nothing has been written then.
    """
    with precision.dtype_policy("float16"):
        half = keras_nasnet.NASNetTiny(weights=None)
    entries = [copying.Entry(v.path, v.path, v) for v in model.weights]
    copying.copy_weights(entries, half, model.name)
    folder, name = os.path.split(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = os.path.join(temporary, name)
        half.save_weights(made)
        loaded = keras_nasnet.NASNetTiny(weights=None)
        loaded.load_weights(made)
        difference = compare(loaded, model)
        # Also true if it is not a number.
        if not difference.probability < TOLERANCE:
            raise ValueError(
                f"{model.name} does not fit into 16 bits: a probability "
                f"changes by {difference.probability:.3g}, expected less than "
                f"{TOLERANCE}."
            )
        os.replace(made, path)
    return difference


def compare(model, other):
    """Compares two classifiers on random images.

    Args:
        model: A network for images of 32 x 32 pixels.
        other: Another one with the same classes.

    Returns:
        A `Difference`.
    """
    rng = np.random.default_rng(0)
    # Blots of colour: noise of single pixels would all look alike.
    blots = rng.uniform(-1, 1, (NUM_IMAGES, 4, 4, 3)).astype("float32")
    images = keras.ops.image.resize(blots, (32, 32), interpolation="bicubic")
    images = keras.ops.convert_to_numpy(images)
    scores, expected = (m.predict(images, verbose=0) for m in (model, other))
    return Difference(
        float(np.abs(scores - expected).max()),
        int(np.sum(scores.argmax(-1) != expected.argmax(-1))),
    )


def define_flags():
    flags.DEFINE_string(
        "model", None, "The trained .keras file.", required=True
    )
    files.define_out_flag()


def main(_):
    model = keras.saving.load_model(FLAGS.model, compile=False)
    difference = pack(model, FLAGS.out)
    print(f"Wrote {FLAGS.out}: {os.path.getsize(FLAGS.out):,} bytes.")
    print(f"SHA-256: {files.digest(FLAGS.out, 'sha256')}")
    print(
        f"On {NUM_IMAGES} random images a probability changes by "
        f"{difference.probability:.2g} at most, the most likely class on "
        f"{difference.other_class}."
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
