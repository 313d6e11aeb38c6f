"""Which models can be written for phones; the others are refused early."""

import re

import keras

from keras_nasnet.cells import Cell

# Names that layers have in networks of ours, whatever was made of them.
CELL = re.compile(r"(^|_)cell_(stem_)?\d")
# Another process, which writes the file, knows the layers of these packages.
PACKAGES = {"keras", "keras_hub", "keras_nasnet"}
# How tfmot wraps the layers of twins for training.
UNFINISHED = {"ClusterWeights", "PruneLowMagnitude"}
DETECTORS = {"FasterRCNN", "ObjectDetector"}


def check_model(model):
    """Raises a `ValueError` if a model cannot be written for phones.

    Args:
        model: Whatever the caller was given as `model`.
    """
    if DETECTORS & {kind.__name__ for kind in type(model).__mro__}:
        raise ValueError(
            "`model` must be a classifier or return features. Received: the "
            f"detector {model.name!r}, which `keras_nasnet.detection.export` "
            "writes for servers."
        )
    if not _has_cells(model):
        raise ValueError(
            "`model` must be a model with cells of keras_nasnet. "
            f"Received: {model!r}"
        )
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a functional or sequential model whose inputs "
            f"are known. Received: {model!r}. Apply it to a `keras.Input`, "
            "and make a `keras.Model` of the two."
        )
    if len(model.inputs) != 1 or None in model.inputs[0].shape[1:]:
        raise ValueError(
            "`model` must have one input of a known image size. Build it "
            "with `input_shape=(height, width, 3)`. "
            f"Received: inputs of shape {model.input_shape}"
        )
    if isinstance(model, keras.Model):
        _check_layers(model)
    elif UNFINISHED & {type(layer).__name__ for layer in model.layers}:
        raise ValueError(
            "`model` must be what `keras_nasnet.compression.restore` returns. "
            f"Received: the twin {model.name!r} as it was trained"
        )


def activation_name(function):
    """Returns the name of an activation, `None` if it is not one of Keras'."""
    name = getattr(function, "__name__", "")
    return name if getattr(keras.activations, name, None) is function else None


def _has_cells(model):
    return any(
        isinstance(layer, Cell) or CELL.search(layer.name) or _has_cells(layer)
        for layer in getattr(model, "layers", [])
    )


def _check_layers(model):
    for layer in [model, *_layers(model)]:
        kind = type(layer)
        is_known = kind.__module__.partition(".")[0] in PACKAGES
        if not is_known or isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                "`model` must consist of layers of Keras and of keras_nasnet. "
                f"Received: layer {layer.name!r}, which is a {kind.__name__}. "
                "Put what it does in terms of theirs, or leave it to the app."
            )
        function = getattr(layer, "activation", None)
        is_layer = isinstance(function, keras.layers.Layer)
        if callable(function) and not (is_layer or activation_name(function)):
            raise ValueError(
                "`model` must have activations of `keras.activations`. "
                f"Received: layer {layer.name!r} with the function "
                f"{getattr(function, '__name__', function)!r}. Leave it to "
                "the app, or write it with layers behind a linear one."
            )


def _layers(model):
    for layer in getattr(model, "layers", []):
        yield layer
        yield from _layers(layer)
