"""Writing detectors for servers."""

import os
import shutil
import tempfile

import numpy as np

from keras_nasnet.detection.faster_rcnn import DETECTIONS


def export(detector, path, image_size=None):
    """Writes a detector as a SavedModel, and checks what it answers.

    Its signature `serving_default` takes `images`, `(images, side, side, 3)`
    in [-1, 1] and any number of them, and returns `boxes`, `labels` and
    `scores`, as the detector does. The signature `logits` returns what these
    come from: `objectness` of all anchors, and `classes` and `boxes` of the
    proposed regions.

    Args:
        detector: A `FasterRCNN`.
        path: Folder to write. Nothing must be there yet.
        image_size: Integer, side of the images in pixels; `None` for the
            detector's own.

    Returns:
        The largest difference between what the SavedModel and the detector
        answer for two images of noise, in all outputs of both signatures.

    Raises:
        ValueError: If there is something at `path`, or if the SavedModel
            answers something else. Nothing is written then.

    Example:

    ```python
    keras_nasnet.detection.export(detector, "detector", image_size=128)
    model = tf.saved_model.load("detector").signatures["serving_default"]
    model(images=tf.zeros((1, 128, 128, 3)))["boxes"]
    ```
    """
    import tensorflow as tf

    side = image_size or detector.image_size
    if side is None:
        raise ValueError(
            "`image_size` must be given: this detector was built without one."
        )
    if os.path.exists(path):
        raise ValueError(f"`path` must not exist yet. Received: {path!r}")
    specification = tf.TensorSpec((None, side, side, 3), name="images")

    # XLA could not do with an open number of images.
    @tf.function(input_signature=[specification], jit_compile=False)
    def detect(images):
        found = detector(images, training=False)
        return {name: found[name] for name in DETECTIONS}

    # A trained detector finds nothing in noise, and so do all others.
    @tf.function(input_signature=[specification], jit_compile=False)
    def logits(images):
        outputs = detector(images, training=False)
        regions = detector._propose(images, outputs)
        classes, boxes = detector._classify(
            outputs["features"], regions, training=False
        )
        return {
            "objectness": outputs["objectness"],
            "classes": classes,
            "boxes": boxes,
        }

    module = tf.Module()
    module.detect = detect
    module.logits = logits
    # What a module does not hold is not written.
    module.variables_of_detector = [v.value for v in detector.variables]
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        written = os.path.join(temporary, "model")
        signatures = {"serving_default": detect, "logits": logits}
        tf.saved_model.save(module, written, signatures)
        loaded = tf.saved_model.load(written).signatures
        noise = np.random.default_rng(0).uniform(-1, 1, (2, side, side, 3))
        images = tf.constant(noise, tf.float32)
        difference = 0.0
        for name, function in signatures.items():
            expected = function.python_function(images)
            for output, found in loaded[name](images=images).items():
                error = np.abs(found - expected[output]).max()
                difference = max(difference, float(error))
        if not difference < 1e-2:
            raise ValueError(
                "The exported detector answers something else than "
                f"{detector.name}: they differ by {difference:.2g}."
            )
        shutil.move(written, path)
    return difference
