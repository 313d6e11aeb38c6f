"""What a model ends in: classes, their probabilities, or features."""

import keras

from keras_nasnet.classifier import Classifier
from keras_nasnet.names import AUX_LAYER
from keras_nasnet.names import PREDICTIONS_LAYER

# Layers and operations that a classifier may end in. By name, because a twin
# has layers of another library.
CLASSIFIERS = {"Activation", "Classifier", "Dense", "Sigmoid", "Softmax"}
# What turns logits into probabilities, or leaves them as they are.
ACTIVATIONS = {"Activation", "Sigmoid", "Softmax"}


def without_auxiliary_head(model):
    """Returns a model without the head that only training needs."""
    outputs = getattr(model, "output", None)
    if isinstance(outputs, dict) and AUX_LAYER in outputs:
        return keras.Model(
            model.input, outputs[PREDICTIONS_LAYER], name=model.name
        )
    return model


def last_layer(tensor):
    """Returns the layer that computes an output, also in nested models."""
    layer, history = _maker(tensor)
    inner = getattr(layer, "outputs", None)
    if inner:
        return last_layer(inner[history.tensor_index])
    return getattr(layer, "layer", layer)  # in a wrapper of a twin


def is_class_output(tensor):
    """Whether an output has a number for each class, and not features."""
    is_vector = len(tensor.shape) == 2
    return is_vector and type(last_layer(tensor)).__name__ in CLASSIFIERS


def class_output(model):
    """Returns the place of the only output of classes, `None` without one."""
    places = [
        i for i, tensor in enumerate(model.outputs) if is_class_output(tensor)
    ]
    return places[0] if len(places) == 1 else None


def classifier_of(tensor):
    """Returns the `Classifier` behind an output, `None` if there is none."""
    layer, history = _maker(tensor)
    if isinstance(layer, Classifier):
        return layer
    inner = getattr(layer, "outputs", None)
    if inner:
        return classifier_of(inner[history.tensor_index])
    if type(layer).__name__ in ACTIVATIONS:
        node = layer._inbound_nodes[history.node_index]
        return classifier_of(node.input_tensors[0])
    return None


def returns_logits(tensor):
    """Whether an output of classes is one of logits, not probabilities."""
    activation = getattr(last_layer(tensor), "activation", None)
    # tfmot wraps it.
    activation = getattr(activation, "activation", activation)
    return getattr(activation, "__name__", None) == "linear"


def with_softmax(model, place):
    """Lets an output of logits be one of probabilities.

    Args:
        model: A Keras model.
        place: Integer, which of its outputs.
    """
    outputs = list(model.outputs)
    outputs[place] = keras.layers.Softmax(name="probabilities")(outputs[place])
    outputs = keras.tree.pack_sequence_as(model.output, outputs)
    return keras.Model(model.input, outputs, name=model.name)


def _maker(tensor):
    """Returns what computes a tensor, and which of its calls and outputs."""
    history = tensor._keras_history
    # Keras 3 and `tf_keras` have other names for it.
    return getattr(history, "operation", None) or history.layer, history
