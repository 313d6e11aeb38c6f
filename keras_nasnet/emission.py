"""From a graph to a model of Keras' own layers."""

import keras
import numpy as np

from keras_nasnet.chain import head_dtype
from keras_nasnet.classifier import Classifier
from keras_nasnet.graph import Node
from keras_nasnet.graph import in_order
from keras_nasnet.operations import Pool2D
from keras_nasnet.supported import activation_name


def emit(inputs, outputs, like, library=keras, dtype=None, batch_size=None):
    """Builds the model that computes a graph.

    Args:
        inputs: List of the graph's input `Node`s.
        outputs: List of its output `Node`s.
        like: The Keras model whose structure of inputs and outputs, and whose
            name, the new one shall have.
        library: `keras` or `tf_keras`.
        dtype: Dtype policy of all layers, `None` for the default. Dense
            layers compute in float32 even if it is a 16-bit one.
        batch_size: Number of images that the model takes, `None` for any.

    Returns:
        A functional model of the library.

    Raises:
        ValueError: If the library is `tf_keras` and the graph has operations
            that it does not have.
    """
    emitter = _Emitter(library, dtype, batch_size)
    # Inputs first: there may be some that no output depends on.
    nodes = in_order([*inputs, *outputs])
    if library is not keras:
        _check_library(nodes, library)
    for node in nodes:
        emitter.tensors[node] = emitter.apply(node)

    def pack(structure, nodes):
        tensors = [emitter.tensors[node] for node in nodes]
        return keras.tree.pack_sequence_as(structure, tensors)

    return library.Model(
        pack(like.input, inputs), pack(like.output, outputs), name=like.name
    )


def _check_library(nodes, library):
    """Raises an error if a graph has operations that only Keras 3 has."""
    for node in nodes:
        if node.op == "opaque":
            operation = node.attributes["operation"]
            raise ValueError(
                f"Layer {operation.name!r} is a {type(operation).__name__}, "
                f"which {library.__name__} cannot take over."
            )


class _Emitter:
    """Makes a layer for every node, and applies it."""

    def __init__(self, library, dtype, batch_size):
        self.library = library
        self.layers = library.layers
        self.dtype = dtype
        self.batch_size = batch_size
        # By name, because `tf_keras` has policies of its own.
        self.dense_dtype = dtype and head_dtype(dtype).name
        self.tensors = {}
        self.names = set()

    def input(self, node, shape, dtype):
        return self.library.Input(
            shape, self.batch_size, dtype=dtype, name=self.name(node)
        )

    def name(self, node, suffix=""):
        """Returns a name that no layer has yet."""
        base = name = f"{node.name}{suffix}"
        i = 1
        while name in self.names:
            name = f"{base}_{i}"
            i += 1
        self.names.add(name)
        return name

    def apply(self, node):
        return getattr(self, node.op)(
            node,
            *(self.tensors[n] for n in node.inputs),
            **node.attributes,
        )

    def layer(self, kind, node, inputs, *arguments, weights=None, **settings):
        """Creates a layer of a kind and applies it to tensors."""
        settings.setdefault("dtype", self.dtype)
        if "name" not in settings:
            settings["name"] = self.name(node)
        if isinstance(kind, str):
            kind = getattr(self.layers, kind)
        layer = kind(*arguments, **settings)
        outputs = layer(inputs)
        if weights is not None:
            layer.set_weights(weights)
        return outputs

    def conv(self, node, x, **settings):
        kernel, bias = node.weights["kernel"], node.weights["bias"]
        return self.layer(
            "Conv2D",
            node,
            x,
            kernel.shape[3],
            kernel.shape[:2],
            weights=[kernel, bias],
            **settings,
        )

    def depthwise(self, node, x, **settings):
        kernel, bias = node.weights["kernel"], node.weights["bias"]
        return self.layer(
            "DepthwiseConv2D",
            node,
            x,
            kernel.shape[:2],
            depth_multiplier=kernel.shape[3],
            weights=[kernel, bias],
            **settings,
        )

    def dense(self, node, x, activation, is_classifier, class_names):
        kernel, bias = node.weights["kernel"], node.weights["bias"]
        settings = {
            "activation": self.activation(node, activation),
            "dtype": self.dense_dtype,
        }
        kind = "Dense"
        if is_classifier and self.library is keras:
            kind = Classifier
            settings["class_names"] = class_names
        return self.layer(
            kind, node, x, len(bias), weights=[kernel, bias], **settings
        )

    def activation(self, node, function):
        if self.library is keras:
            return function
        name = activation_name(function)
        if name is None or not hasattr(self.library.activations, name):
            raise ValueError(
                f"Layer {node.name!r} has the activation {function!r}, which "
                f"{self.library.__name__} does not have."
            )
        return name

    def norm(self, node, x, **settings):
        order = ("gamma", "beta", "mean", "variance")
        weights = [node.weights[name] for name in order]
        return self.layer(
            "BatchNormalization", node, x, weights=weights, **settings
        )

    def group_norm(self, node, x, **settings):
        weights = [node.weights["gamma"], node.weights["beta"]]
        return self.layer(
            "GroupNormalization", node, x, weights=weights, **settings
        )

    def pool(self, node, x, mode, size, strides, padding):
        if padding == "zero":
            return self.zero_padded_pool(node, x, mode, size, strides)
        is_uneven = mode == "average" and strides == 2 and padding == "same"
        if is_uneven and self.library.backend.backend() == "torch":
            # Keras gets its border wrong there.
            return self.layer(Pool2D, node, x, size, strides, mode, padding)
        kind = "MaxPooling2D" if mode == "max" else "AveragePooling2D"
        return self.layer(kind, node, x, size, strides, padding)

    def zero_padded_pool(self, node, x, mode, size, strides):
        height, width = x.shape[1:3]
        if None in (height, width):
            return self.layer(Pool2D, node, x, size, strides, mode, "zero")
        half = size // 2
        padding = [(half - 1 + n % 2, half) for n in (height, width)]
        x = self.layer(
            "ZeroPadding2D",
            node,
            x,
            padding,
            name=self.name(node, "_pad"),
        )
        kind = "MaxPooling2D" if mode == "max" else "AveragePooling2D"
        return self.layer(kind, node, x, size, strides, "valid")

    def global_pool(self, node, x, mode):
        mode = mode.capitalize()
        return self.layer(
            f"Global{mode}Pooling2D", node, x, dtype=self.dense_dtype
        )

    def relu(self, node, x):
        return self.layer("ReLU", node, x)

    def flatten(self, node, x):
        return self.layer("Flatten", node, x)

    def add(self, node, *inputs):
        return self.layer("Add", node, list(inputs))

    def concat(self, node, *inputs):
        if len(inputs) == 1:
            return self.layer("Activation", node, inputs[0], "linear")
        return self.layer("Concatenate", node, list(inputs))

    def scale(self, node, x):
        factor = node.weights["factor"]
        if np.all(factor == factor[0]):
            factor = factor[0]
        return self.layer("Rescaling", node, x, factor.tolist())

    def border(self, node, x, size, strides):
        """Corrects averages at the image border that counted zeros."""
        (before,) = node.inputs  # the convolution that took the averages
        height, width = self.tensors[before.inputs[0]].shape[1:3]
        factor = border_factor(height, width, size, strides)
        return self.layer("Rescaling", node, x, factor.tolist())

    def rescale(self, node, x, scale, offset):
        return self.layer("Rescaling", node, x, scale, offset)

    def opaque(self, node, *inputs, operation, args, kwargs):
        # The arguments hold nodes from before any rewrite.
        tensors = iter(inputs)
        args, kwargs = keras.tree.map_structure(
            lambda value: next(tensors) if isinstance(value, Node) else value,
            (args, kwargs),
        )
        return operation(*args, **kwargs)

    def item(self, node, outputs, index):
        return keras.tree.flatten(outputs)[index]


def border_factor(height, width, size, strides):
    """Returns by how much counting zeros makes an average too small.

    Args:
        height: Integer, rows of the image that the pool reads.
        width: Integer, its columns.
        size: Integer, side of the window.
        strides: Integer.

    Returns:
        An array `(rows, columns, 1)` for the pooled image.
    """
    rows, columns = (
        size / _counts(length, size, strides) for length in (height, width)
    )
    return np.outer(rows, columns)[..., None].astype("float32")


def _counts(length, size, strides):
    """Returns how many places of each window are inside the image."""
    outputs = -(-length // strides)
    padding = max((outputs - 1) * strides + size - length, 0)
    starts = np.arange(outputs) * strides - padding // 2
    return np.minimum(starts + size, length) - np.maximum(starts, 0)
