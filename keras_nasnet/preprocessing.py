"""What stands before and behind a network: pixels in, class names out."""

import functools
import importlib.resources

import keras
import numpy as np
from keras import ops


def preprocess_input(x, data_format=None):
    """Scales pixels from [0, 255] to [-1, 1], as the networks expect them.

    Gives the values of `keras.applications.nasnet.preprocess_input`, but never
    writes into `x`. A network built with `include_preprocessing=True` does
    this itself.

    Args:
        x: Pixels in [0, 255] in any shape: NumPy array, nested list, image
            of Pillow, backend tensor or Keras tensor. A TensorFlow tensor is
            accepted on every backend, so that `tf.data` can map this function.
        data_format: `None`, `"channels_last"` or `"channels_first"`. Taken for
            compatibility: all channels are scaled alike.

    Returns:
        An array or tensor of the kind of `x`, a NumPy array for lists and
        images of Pillow. Floating-point types are kept, all others become
        `keras.config.floatx()`.

    Raises:
        ValueError: If `data_format` is unknown.

    Example:

    >>> image = np.array([[[0, 51, 255]]], dtype="uint8")
    >>> keras_nasnet.preprocess_input(image)
    array([[[-1. , -0.6,  1. ]]], dtype=float32)
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(
            '`data_format` must be None, "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}"
        )
    if not hasattr(x, "dtype"):
        x = np.asarray(x, dtype=keras.config.floatx())
    elif not keras.backend.is_float_dtype(x.dtype):
        x = _to_float(x)
    return x / 127.5 - 1.0


def decode_predictions(preds, top=5):
    """Names the most likely ImageNet classes of every image.

    Works like `keras.applications.nasnet.decode_predictions`, without its
    download.

    Args:
        preds: Scores `(images, 1000)` of the ImageNet classes, as an array or
            a tensor of the backend.
        top: Integer, number of classes to name for each image.

    Returns:
        A list with one list per image, which holds `top` tuples `(class_id,
        class_name, score)`, highest score first.

    Raises:
        ValueError: If `preds` has another shape, or `top` is not an integer
            from 1 to 1000.

    Example:

    >>> preds = np.eye(1000)[[1, 282]]
    >>> for best, in keras_nasnet.decode_predictions(preds, top=1):
    ...     print(*best)
    n01443537 goldfish 1.0
    n02123159 tiger_cat 1.0
    """
    classes = imagenet_classes()
    preds = ops.convert_to_numpy(preds)
    if preds.ndim != 2 or preds.shape[1] != len(classes):
        raise ValueError(
            "`preds` must be the scores of a batch over the ImageNet classes, "
            f"(images, {len(classes)}). Received: shape {preds.shape}"
        )
    if not isinstance(top, int) or not 1 <= top <= len(classes):
        raise ValueError(
            f"`top` must be an integer from 1 to {len(classes)}. "
            f"Received: top={top!r}"
        )
    return [
        [(*classes[i], scores[i]) for i in np.argsort(scores)[::-1][:top]]
        for scores in preds
    ]


@functools.cache
def imagenet_classes():
    """Returns the 1000 ImageNet classes in the order of the network's output.

    Returns:
        A tuple of `(class_id, class_name)`, where the id is that of the
        WordNet synset.

    Example:

    >>> keras_nasnet.imagenet_classes()[1]
    ('n01443537', 'goldfish')
    """
    table = importlib.resources.files(__package__) / "imagenet_classes.txt"
    lines = table.read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split()) for line in lines)


def _to_float(x):
    """Casts pixels of any kind to floating point without changing the kind."""
    dtype = keras.config.floatx()
    if isinstance(x, np.ndarray):
        return x.astype(dtype)
    if type(x).__module__.startswith("tensorflow."):
        # Inside `tf.data` these come on every backend, whose own cast would
        # not take them.
        import tensorflow as tf

        return tf.cast(x, dtype)
    return ops.cast(x, dtype)
