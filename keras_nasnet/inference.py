"""Classifies image files and says the answers in words."""

import os

import keras
import numpy as np

from keras_nasnet import heads
from keras_nasnet.answers import best
from keras_nasnet.answers import read_pixels
from keras_nasnet.cells import Stem
from keras_nasnet.classifier import Classifier
from keras_nasnet.names import PREDICTIONS_LAYER
from keras_nasnet.nasnet import NASNetLarge
from keras_nasnet.nasnet import NASNetMobile
from keras_nasnet.nasnet import NASNetTiny
from keras_nasnet.preprocessing import imagenet_classes
from keras_nasnet.preprocessing import preprocess_input

# Networks with trained weights.
PRETRAINED = {
    "tiny": NASNetTiny,
    "mobile": NASNetMobile,
    "large": NASNetLarge,
}
# Layers that leave the scale of an image as it is, besides those of Keras whose
# names begin with "Random". A twin of `tf_keras` rounds images first.
SAME_SCALE = {"CenterCrop", "GaussianNoise", "QuantizeLayer", "Resizing"}


def predict(model, path, top=5, infer=None):
    """Classifies one image file.

    Args:
        model: A classifier built by this package.
        path: Path of an image of any format that Pillow reads.
        top: Number of classes to return.
        infer: Optional function to ask in the place of the model, as
            `compile_inference` makes it of the same model.

    Returns:
        A list of `Prediction`, most likely first.

    Raises:
        ValueError: If the image cannot be read, the model is no classifier, or
            layers from elsewhere read its image.

    Example:

    ```python
    model = keras_nasnet.NASNetTiny()
    for name, probability in keras_nasnet.predict(model, "cat.jpg"):
        print(f"{name} {probability:.0%}")
    ```
    """
    names = class_names(model)
    size = tuple(n or default_size(model) for n in model.input_shape[1:3])
    pixels = read_pixels(path, size)
    if not takes_pixels(model):
        if not takes_scaled(model):
            kinds = sorted(kind for kind, _ in _readers(model))
            raise ValueError(
                f"{model.name} reads images by {', '.join(kinds)}, so that it "
                "is not known how it expects them to be scaled. Begin it with "
                "a `keras.layers.Rescaling` of pixels in [0, 255], or scale "
                "images yourself and call the model."
            )
        pixels = preprocess_input(pixels)
    scores = (infer or model.predict_on_batch)(pixels)
    if isinstance(scores, dict):  # with an auxiliary head
        scores = scores[PREDICTIONS_LAYER]
    scores = np.asarray(scores, "float64")[0]
    if keras.activations.serialize(head(model).activation) == "linear":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return best(scores, names, top)


def load_classifier(network):
    """Loads a classifier with trained weights.

    Args:
        network: `"tiny"`, `"mobile"`, `"large"`, or the path of a `.keras`
            file.

    Returns:
        A Keras model.

    Raises:
        ValueError: If there is no such network, or the file is damaged.
        OSError: If published weights cannot be downloaded.
    """
    if network in PRETRAINED:
        return PRETRAINED[network]()
    if not network.endswith(".keras") or not os.path.isfile(network):
        raise ValueError(
            f"unknown network {network!r}. Expected {', '.join(PRETRAINED)} "
            "or the path of an existing .keras file."
        )
    return load_model(network)


def load_model(path):
    """Loads a `.keras` file, with one short error if it is damaged."""
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds, some pages long.
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be loaded: {reason}") from error


def head(model):
    """Returns the classifier of a model.

    Raises:
        ValueError: If the model has none of ours.
    """
    for layer in model.layers:
        if isinstance(layer, Classifier):
            return layer
    raise ValueError(
        f"{model.name} has no classifier of keras_nasnet. Build it with "
        "`include_top=True`, or end it in a `keras_nasnet.Classifier`."
    )


def class_names(model):
    """Returns the names of a model's classes, made up where unknown."""
    return names_of(head(model))


def names_of(layer):
    """Returns the names of a classifier's classes, made up where unknown."""
    if layer.class_names:
        return layer.class_names
    if layer.units == 1000:
        return [name for _, name in imagenet_classes()]
    return [f"class {i}" for i in range(layer.units)]


def known_names(model):
    """Returns the names of the classes that a model's output is of.

    Returns:
        A list of strings, made up where unknown; `None` if the model does not
        end in a `Classifier`.
    """
    place = heads.class_output(model)
    if place is None:
        return None
    layer = heads.classifier_of(model.outputs[place])
    return names_of(layer) if layer else None


def default_size(model):
    """Returns the image size for a model that takes images of any size."""
    has_cifar_stem = any(
        isinstance(la, Stem) and la.strides == 1 for la in model.layers
    )
    return 32 if has_cifar_stem else 224


def takes_pixels(model):
    """Whether a model scales pixels in [0, 255] itself."""
    return any(kind == "Rescaling" for kind, _ in _readers(model))


def takes_scaled(model):
    """Whether a model is known to take what `preprocess_input` returns."""
    return all(
        kind == "Stem" or "stem" in name for kind, name in _readers(model)
    )


def _readers(model):
    """Returns kinds and names of the layers that read the image."""
    images = {id(tensor) for tensor in model.inputs}
    found = set()
    for layer in _operations(model):
        for node in layer._inbound_nodes:
            # A nested model is applied to what is not its own input.
            if not images & set(
                map(id, keras.tree.flatten(node.input_tensors))
            ):
                continue
            # A twin of `tf_keras` wraps its layers.
            kind = type(getattr(layer, "layer", layer)).__name__
            if getattr(layer, "inputs", None):
                found |= _readers(layer)
            elif kind in SAME_SCALE or kind.startswith("Random"):
                images |= set(map(id, keras.tree.flatten(node.outputs)))
            elif kind != "InputLayer":
                found.add((kind, layer.name))
    return found


def _operations(model):
    """Lists the layers of a model, and operations that are no layers."""
    if isinstance(model, keras.Model):
        return keras.Function(model.inputs, model.outputs).operations
    return model.layers
