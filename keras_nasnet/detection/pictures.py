"""What a detector finds in image files, and pictures of it."""

import zlib
from typing import NamedTuple

import keras_hub
import numpy as np

from keras_nasnet.detection.faster_rcnn import FasterRCNN
from keras_nasnet.images import load_whole_image
from keras_nasnet.preprocessing import preprocess_input

# Pixels of the shorter side to which larger pictures are reduced.
DRAWN_SIDE = 800
# More than the shorter side of any image that Pillow opens.
WHOLE = 100_000
COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#9a6324",
    "#800000",
    "#808000",
    "#000075",
)


class Detection(NamedTuple):
    """An object that was found.

    `box` are the corners (left, top, right, bottom) in pixels.
    """

    name: str
    score: float
    box: tuple


def detect(detector, path, min_score=0.5):
    """Finds the objects in an image file.

    Args:
        detector: A `FasterRCNN`, or a RetinaNet of KerasHub with `"xyxy"`
            boxes, that takes images in [-1, 1].
        path: Path of an image of any format that Pillow reads.
        min_score: Float, lowest score of what is returned.

    Returns:
        A list of `Detection`, the surest first, and the image they are in,
        turned upright, as a `uint8` array `(height, width, 3)`.

    Raises:
        ValueError: If the image cannot be read, or if it is not known what
            size of images the detector is for.
    """
    side = image_side(detector)
    image = load_whole_image(path, WHOLE)
    pixels, factor = fit(image, side)
    found = find(detector, preprocess_input(pixels[None]))
    limits = np.array([*image.shape[1::-1]] * 2)
    found["boxes"] = np.clip(found["boxes"] / factor, 0, limits)
    return detections(found, 0, names_of(detector), min_score), image


def find(detector, images):
    """Returns what a detector finds in a batch of images, as arrays.

    Args:
        detector: A `FasterRCNN`, or a detector of KerasHub.
        images: Array `(images, height, width, 3)`. KerasHub's detectors are
            compiled again for every other number of images.

    Returns:
        A dictionary of `"boxes"`, `"labels"` and `"scores"`.
    """
    if not isinstance(detector, keras_hub.models.ObjectDetector):
        return detector.predict_on_batch(images)
    import tensorflow as tf

    # `predict_on_batch()` is broken there.
    found = detector.predict(tf.data.Dataset.from_tensors(images), verbose=0)
    return {
        "boxes": found["boxes"],
        "labels": found["labels"],
        "scores": found["confidence"],
    }


def detections(found, i, names, min_score):
    """Lists what was found in one image of a batch.

    Args:
        found: What `find()` returned.
        i: Index of the image.
        names: Names of the classes.
        min_score: Float, lowest score of what is listed.

    Returns:
        A list of `Detection`.
    """
    return [
        Detection(names[label], float(score), tuple(box.tolist()))
        for box, label, score in zip(
            found["boxes"][i], found["labels"][i], found["scores"][i]
        )
        if score >= min_score
    ]


def is_detector(model):
    """Returns whether a model is one that `detect()` takes."""
    return isinstance(model, (FasterRCNN, keras_hub.models.ObjectDetector))


def image_side(detector):
    """Returns the side in pixels of the images that a detector is for."""
    side = getattr(detector, "image_size", None)
    if side is None and getattr(detector, "inputs", None):
        side = detector.inputs[0].shape[1]
    if side is None:
        raise ValueError(
            f"{detector.name} does not say what size of images it is for. "
            "Build it with `image_size`."
        )
    return side


def names_of(detector):
    """Returns the names of a detector's classes, made up where unknown."""
    # KerasHub's detectors have no place for them but what decodes labels.
    decoder = getattr(detector, "prediction_decoder", None)
    for layer in (detector, decoder):
        names = getattr(layer, "class_names", None)
        if names:
            return names
    return [f"class {i}" for i in range(detector.num_classes)]


def fit(image, side):
    """Brings an image into a square, filled up with grey.

    Args:
        image: A `uint8` array `(height, width, 3)`.
        side: Side of the square in pixels.

    Returns:
        A `uint8` array `(side, side, 3)` with the image in its upper left
        corner, and the factor by which it was enlarged.
    """
    from PIL import Image

    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = [max(1, round(n * factor)) for n in (width, height)]
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    square = np.full((side, side, 3), 128, "uint8")
    square[: size[1], : size[0]] = resized
    return square, factor


def draw(image, detections):
    """Draws detections into a copy of an image.

    Args:
        image: A `uint8` array `(height, width, 3)`.
        detections: List of `Detection`.

    Returns:
        A Pillow image, at least 400 pixels wide or high so that names can be
        read. Larger images are reduced to 800 pixels of the shorter side.
    """
    from PIL import Image
    from PIL import ImageDraw
    from PIL import ImageFont

    picture = Image.fromarray(image)
    factor = max(1, -(-400 // max(picture.size)))
    factor = min(factor, DRAWN_SIDE / min(picture.size))
    picture = picture.resize([max(1, round(n * factor)) for n in picture.size])
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, max(picture.size) // 45))
    # The surest last, on top of the others.
    for name, score, box in reversed(detections):
        # The same one for a class in every picture.
        colour = COLOURS[zlib.crc32(name.encode()) % len(COLOURS)]
        left, top, right, bottom = (n * factor for n in box)
        canvas.rectangle((left, top, right, bottom), outline=colour, width=2)
        text = f"{name} {score:.0%}"
        _, _, width, height = canvas.textbbox((0, 0), text, font)
        # Above the box where there is room, and inside the picture.
        y = top - height - 2 if top > height + 2 else top
        x = max(0, min(left, picture.width - width - 4))
        canvas.rectangle((x, y, x + width + 4, y + height + 2), fill=colour)
        canvas.text((x + 2, y), text, "white", font)
    return picture
