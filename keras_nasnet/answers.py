"""What classifying an image file takes and gives, whatever runs the network."""

from typing import NamedTuple

import numpy as np

from keras_nasnet.images import load_image

# Networks for images this small see the whole image; for larger ones the
# border is cut off, as in the evaluation of the published networks.
SMALL_IMAGE = 64


class Prediction(NamedTuple):
    """A class and how likely it is."""

    name: str
    probability: float


def read_pixels(path, size):
    """Reads an image file as a batch of one, with values in [0, 255].

    Args:
        path: Path of an image of any format that Pillow reads.
        size: Height and width in pixels.

    Returns:
        A `uint8` array `(1, height, width, 3)`.
    """
    crop = 1.0 if max(size) <= SMALL_IMAGE else 0.875
    return load_image(path, size, crop)[None]


def best(scores, names, top):
    """Returns the `top` most likely classes as a list of `Prediction`."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [Prediction(names[i], float(scores[i])) for i in order]
