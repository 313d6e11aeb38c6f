"""Rewrites after which phones run a whole network in XNNPACK.

TensorFlow Lite hands a network to XNNPACK in pieces: wherever it meets an
operation that XNNPACK does not take, the piece ends, and data is copied out
and in. These rewrites avoid such operations: long concatenations, pools of
single pixels and, among integers, average pools and ReLUs of their own.
"""

import numpy as np

from keras_nasnet import passes
from keras_nasnet.emission import emit
from keras_nasnet.graph import count_readers
from keras_nasnet.graph import rewrite
from keras_nasnet.lowering import as_functional
from keras_nasnet.lowering import simplify
from keras_nasnet.lowering import trace

# Operations whose outputs may be vectors.
VECTORS = {"dense", "flatten", "global_pool", "item", "opaque"}
# The longest concatenation that XNNPACK takes.
CONCAT_INPUTS = 4
# How a convolution halves an image.
HALVES = {"strides": (2, 2), "padding": "same"}


def lower(model, integer=False, keep_norms=False, **settings):
    """Returns a model of standard layers that XNNPACK runs as a whole.

    Args:
        model: A functional or sequential model.
        integer: As in `delegable()`.
        keep_norms: Whether batch norms stay, for training.
        **settings: As in `emit()`.

    Whatever the model takes and computes in, the new one takes and computes
    in float32: files for phones are quantised from there.
    """
    model = as_functional(model)
    inputs, outputs = trace(model)
    for node in inputs:
        node.attributes["dtype"] = "float32"
    outputs = delegable(simplify(outputs, keep_norms), integer)
    return emit(inputs, outputs, like=model, dtype="float32", **settings)


def delegable(outputs, integer=False):
    """Rewrites a simplified graph for XNNPACK.

    Args:
        outputs: List of `Node`s.
        integer: Whether the network will compute in integers, for which
            XNNPACK has neither average pools nor ReLUs of their own.

    Returns:
        A list of `Node`s.
    """
    outputs = split_corners(outputs)
    outputs = split_concats(outputs)
    outputs = convolve_subsamples(outputs)
    if integer:
        outputs = convolve_average_pools(outputs)
        outputs = convolve_relus(outputs)
    return outputs


def split_corners(outputs):
    """Computes each corner of a factorized reduction by itself.

    As one convolution, three quarters of its 2x2 kernel are zeros. Here they
    would cost storage and time, and training would not keep them.
    """
    # Convolution -> how many of its filters read the upper left corner.
    corners = {}

    def visit(node, inputs):
        if node.op == "conv" and (first := _filters_of_corner(node)):
            corners[node] = first
            halves = _corner_convolutions(node, inputs[0], first)
            return _concat_halves(node, halves)
        if node.op == "norm" and node.inputs[0] in corners:
            first = corners[node.inputs[0]]
            halves = [
                node.replace(
                    inputs=(half,),
                    channels=half.channels,
                    name=f"{node.name}_{i}",
                    weights={k: v[part] for k, v in node.weights.items()},
                )
                for i, (half, part) in enumerate(
                    zip(inputs[0].inputs, (slice(first), slice(first, None)))
                )
            ]
            return _concat_halves(node, halves)
        return None

    outputs = rewrite(outputs, visit)
    return passes.fuse_activations(passes.activate_parts(outputs))


def _filters_of_corner(node):
    """Returns how many filters read only the upper left of a 2x2 kernel.

    Returns:
        An integer, 0 if the others read more than the lower right.
    """
    kernel = node.weights["kernel"]
    halves = {k: node.attributes[k] for k in ("strides", "padding")}
    if kernel.shape[:2] != (2, 2) or halves != HALVES:
        return 0
    is_read = kernel.any(axis=2)
    lower = np.flatnonzero(is_read[1, 1])
    first = int(lower[0]) if lower.size else 0
    is_read[0, 0, :first] = is_read[1, 1, first:] = False
    return 0 if is_read.any() else first


def _corner_convolutions(node, x, first):
    """Returns 1x1 convolutions of the two corners of a 2x2 kernel."""
    kernel, bias = node.weights["kernel"], node.weights["bias"]
    pick = np.zeros((2, 2, x.channels, 1), "float32")
    pick[1, 1] = 1
    corner = node.replace(channels=x.channels, name=f"{node.name}_corner")
    corner = _depthwise(corner, (x,), pick, strides=2)

    def convolution(i, x, strides, part):
        return node.replace(
            inputs=(x,),
            channels=len(bias[part]),
            name=f"{node.name}_{i}",
            attributes={
                **node.attributes,
                "strides": (strides, strides),
                "padding": "valid",
            },
            weights={
                "kernel": kernel[i, i, :, part][None, None],
                "bias": bias[part],
            },
        )

    return [
        convolution(0, x, 2, slice(first)),
        convolution(1, corner, 1, slice(first, None)),
    ]


def _concat_halves(node, halves):
    return node.replace(
        op="concat", inputs=tuple(halves), attributes={}, weights={}
    )


def split_concats(outputs):
    """Nests concatenations of more inputs than XNNPACK takes."""

    def visit(node, inputs):
        if node.op != "concat":
            return None
        depth = 0
        while len(inputs) > CONCAT_INPUTS:
            # As few parts as possible are copied twice.
            count = min(CONCAT_INPUTS, len(inputs) - CONCAT_INPUTS + 1)
            head = node.replace(
                inputs=inputs[:count],
                channels=sum(n.channels for n in inputs[:count]),
                name=f"{node.name}_part_{depth}",
            )
            inputs = (head, *inputs[count:])
            depth += 1
        return node.replace(inputs=inputs)

    return rewrite(outputs, visit)


def convolve_subsamples(outputs):
    """Writes pools of single pixels as depthwise 1x1 convolutions."""

    def visit(node, inputs):
        if node.op != "pool" or node.attributes["size"] != 1:
            return None
        kernel = np.ones((1, 1, node.channels, 1), "float32")
        return _depthwise(
            node, inputs, kernel, strides=node.attributes["strides"]
        )

    return rewrite(outputs, visit)


def convolve_average_pools(outputs):
    """Writes average pools as depthwise convolutions."""

    def visit(node, inputs):
        if node.op != "pool" or node.attributes["mode"] != "average":
            return None
        size, strides = node.attributes["size"], node.attributes["strides"]
        padding = node.attributes["padding"]
        kernel = np.full((size, size, node.channels, 1), size**-2, "float32")
        convolution = _depthwise(
            node,
            inputs,
            kernel,
            strides=strides,
            # Then it pads exactly like a pool that counts zeros.
            padding="valid" if padding == "valid" else "same",
        )
        if padding != "same":
            return convolution
        return node.replace(
            op="border",
            inputs=(convolution.replace(name=f"{node.name}_sums"),),
            attributes={"size": size, "strides": strides},
        )

    return rewrite(outputs, visit)


def convolve_relus(outputs):
    """Writes ReLUs as depthwise 1x1 convolutions that apply one.

    All but those of vectors, and those that a converter fuses: behind a batch
    norm that nobody else reads.
    """
    readers = count_readers(outputs)

    def visit(node, inputs):
        (before,) = node.inputs if node.op == "relu" else (None,)
        if before is None or inputs[0].op in VECTORS:
            return None
        if before.op == "norm" and readers[before] == 1:
            return None
        kernel = np.ones((1, 1, node.channels, 1), "float32")
        return _depthwise(node, inputs, kernel, activation="relu")

    return rewrite(outputs, visit)


def _depthwise(
    node, inputs, kernel, strides=1, padding="same", activation=None
):
    return node.replace(
        op="depthwise",
        inputs=inputs,
        attributes={
            "strides": (strides, strides),
            "padding": padding,
            "dilation_rate": (1, 1),
            "activation": activation,
        },
        weights={"kernel": kernel, "bias": np.zeros(node.channels, "float32")},
    )
