"""Images to measure the ranges of activations on, in whatever form."""

import os

import numpy as np

from keras_nasnet.answers import read_pixels
from keras_nasnet.images import EXTENSIONS
from keras_nasnet.inference import takes_pixels
from keras_nasnet.inference import takes_scaled

# Images that ranges are measured on, and that files are compared on.
IMAGES = 200
# So many photographs always have some pixels that are dark.
MANY_IMAGES = 10


def normalization_of(model):
    """Returns mean and standard deviation that make pixels a model's input.

    Returns:
        A tuple of floats; `None` if other layers than ours read the image,
        so that it is not known what they expect.
    """
    if takes_pixels(model):
        return (0.0, 1.0)
    return (127.5, 127.5) if takes_scaled(model) else None


def value_range(normalization):
    """Returns the smallest and largest value that pixels become."""
    mean, std = normalization
    return (0.0 - mean) / std, (255.0 - mean) / std


def read_images(data, model, count, normalization):
    """Reads images for a model.

    Args:
        data: An array; a `tf.data.Dataset` or another iterable of images or
            batches, with or without labels; or the path of a folder.
        model: The model, which takes images of a known size.
        count: Integer, number of images to read at most.
        normalization: Mean and standard deviation with which pixels become
            what the model takes; `None` if that is not known.

    Returns:
        A float32 array `(images, height, width, channels)`.

    Raises:
        ValueError: If there are no images, or if they are of another size or
            range than the model takes, or in a folder without a known range.
    """
    if isinstance(data, (str, os.PathLike)):
        if normalization is None:
            raise ValueError(
                "`representative_data` must be images as an array or data "
                "set, because it is not known how the layers that read the "
                f"image of {model.name!r} expect it. Received: {str(data)!r}"
            )
        images = _read_folder(data, model, count, normalization)
    elif hasattr(data, "shape"):
        images = np.asarray(data[:count])
    else:
        images = _take(data, count)
    shape = tuple(model.input_shape[1:])
    if not len(images) or images.shape[1:] != shape:
        raise ValueError(
            "`representative_data` must be images of shape "
            f"{('images', *shape)}. Received: shape {images.shape}"
        )
    images = images.astype("float32")
    if normalization is None:
        return images
    low, high = value_range(normalization)
    slack = 0.01 * (high - low)
    found = float(images.min()), float(images.max())
    is_outside = found[0] < low - slack or found[1] > high + slack
    # Pixels that someone scaled for a model that scales them itself, or to
    # [0, 1] for one that takes negative ones.
    is_scaled = found[1] <= 1 and (
        high == 255 or (low < 0 <= found[0] and len(images) >= MANY_IMAGES)
    )
    if not np.isfinite(found).all() or is_outside or is_scaled:
        raise ValueError(
            "`representative_data` must be scaled as for the model, to "
            f"[{low:g}, {high:g}]"
            + (" (see `keras_nasnet.preprocess_input`)" if high == 1 else "")
            + f". Received: values from {found[0]:g} to {found[1]:g}"
        )
    return images


def _take(data, count):
    images = []
    for element in data:
        if isinstance(element, (tuple, list)):
            element = element[0]
        element = np.asarray(element)
        images += list(element if element.ndim == 4 else [element])
        if len(images) >= count:
            break
    if len({image.shape for image in images}) > 1:
        raise ValueError(
            "`representative_data` must be images of one size. Received: "
            f"shapes {sorted({image.shape for image in images})}"
        )
    return np.array(images[:count])


def _read_folder(folder, model, count, normalization):
    paths = sorted(
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(EXTENSIONS)
    )
    if not paths:
        raise ValueError(
            f"`representative_data`: there are no images in {str(folder)!r}"
        )
    # From all over the folder, which often has a subfolder for each class.
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths)))
    size = model.input_shape[1:3]
    images = np.concatenate([read_pixels(paths[int(i)], size) for i in chosen])
    mean, std = normalization
    return (images - mean) / std
