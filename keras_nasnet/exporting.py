"""Writing networks for servers: SavedModel and ONNX."""

import importlib.util
import os
import shutil
import tempfile

import keras
import numpy as np

from keras_nasnet.calibration import normalization_of
from keras_nasnet.calibration import value_range
from keras_nasnet.inference import default_size
from keras_nasnet.lowering import fuse

# Largest difference of an output that is still rounding, in units of the
# largest output.
TOLERANCE = 1e-3


def export(model, path):
    """Writes a fused network as SavedModel or ONNX, and checks the file.

    Args:
        model: A functional model with one input and layers of this package.
        path: Where to: a file that ends in `.onnx`, or a folder for a
            SavedModel. Nothing must be there yet.

    Returns:
        The largest difference between the outputs of the file and of the
        model for two images of noise, in units of the largest output.

    Raises:
        ValueError: If there is something at `path` or no folder for it, if
            Keras runs on another backend than TensorFlow, or if the file does
            not compute what the model computes. Nothing is written then.
        ImportError: If a package is missing that the format needs.

    Example:

    ```python
    model = keras_nasnet.NASNetMobile(weights="imagenet")
    keras_nasnet.export(model, "mobile.onnx")
    ```
    """
    if os.path.exists(path):
        raise ValueError(f"`path` must not exist yet. Received: {path!r}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"`path` is in a folder that does not exist: {path!r}")
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "Only TensorFlow writes these formats. Save the model, and load "
            "and export it in a process with KERAS_BACKEND=tensorflow."
        )
    is_onnx = str(path).endswith(".onnx")
    needed = ["tensorflow"]
    if is_onnx:
        needed += ["tf2onnx", "onnxruntime"]
    for package in needed:
        if not importlib.util.find_spec(package):
            raise ImportError(
                f"Writing {path} needs {package}: "
                f"pip install keras_nasnet[{'onnx' if is_onnx else package}]"
            )
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        written = os.path.join(temporary, "model.onnx" if is_onnx else "model")
        fused = fuse(model)
        x = _noise(model)
        fused(x)  # Keras refuses to export what was never called
        fused.export(
            written,
            format="onnx" if is_onnx else "tf_saved_model",
            verbose=False,
        )
        difference = max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip(
                _load(written)(x),
                keras.tree.flatten(model.predict_on_batch(x)),
                strict=True,
            )
        )
        if not difference < TOLERANCE:
            raise ValueError(
                f"The exported {model.name} computes something else than the "
                f"model: outputs differ by {difference:.2g} of the largest "
                f"one, expected less than {TOLERANCE:g}."
            )
        shutil.move(written, path)
    return difference


def _load(path):
    """Returns a function from images to the list of a file's outputs."""
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        (image,) = session.get_inputs()
        return lambda x: session.run(None, {image.name: x})
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda x: [t.numpy() for t in keras.tree.flatten(loaded.serve(x))]


def _noise(model):
    """Returns two images that the model takes."""
    size = [n or default_size(model) for n in model.input_shape[1:3]]
    shape = (2, *size, model.input_shape[-1])
    limits = value_range(normalization_of(model) or (127.5, 127.5))
    return np.random.default_rng(0).uniform(*limits, shape).astype("float32")
