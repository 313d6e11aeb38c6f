"""Rewrites of a graph that leave what it computes as it is.

Each pass is a function from the list of a graph's outputs to a new one.
"""

import collections

import numpy as np

from keras_nasnet.graph import count_readers
from keras_nasnet.graph import in_order
from keras_nasnet.graph import rewrite

# Operations for which f(c * x) = c * f(x) if c is positive, channel by channel.
HOMOGENEOUS = ("relu", "pool", "global_pool")
GEOMETRY = ("strides", "padding", "dilation_rate")


def share(outputs):
    """Computes operations without weights once for all that read them."""
    known = {}

    def visit(node, inputs):
        if node.op not in ("relu", "pool", "add", "concat"):
            return None
        # What is added may be swapped.
        operands = frozenset(inputs) if node.op == "add" else inputs
        key = (node.op, operands, *sorted(node.attributes.items()))
        return known.setdefault(key, node.replace(inputs=inputs))

    return rewrite(outputs, visit)


def fold_norms(outputs):
    """Multiplies batch norms into the convolutions before them."""
    readers = count_readers(outputs)

    def visit(node, inputs):
        if node.op != "norm":
            return None
        weights = {k: v.astype("float64") for k, v in node.weights.items()}
        scale = weights["gamma"] / np.sqrt(
            weights["variance"] + node.attributes["epsilon"]
        )
        shift = weights["beta"] - weights["mean"] * scale
        (before,) = inputs
        foldable = before.op in ("conv", "depthwise")
        if not foldable or readers[node.inputs[0]] > 1:
            return node.replace(
                op="depthwise",
                attributes={
                    "strides": (1, 1),
                    "padding": "valid",
                    "dilation_rate": (1, 1),
                    "activation": None,
                },
                weights=_float32(
                    kernel=scale.reshape((1, 1, -1, 1)), bias=shift
                ),
            )
        kernel, bias = before.weights["kernel"], before.weights["bias"]
        if before.op == "depthwise":
            scale_of_kernel = scale.reshape(kernel.shape[2:])
        else:
            scale_of_kernel = scale
        return before.replace(
            weights=_float32(
                kernel=kernel * scale_of_kernel, bias=bias * scale + shift
            )
        )

    return rewrite(outputs, visit)


def double_sums(outputs):
    """Replaces the sum of a tensor with itself by a scale of 2."""

    def visit(node, inputs):
        if node.op != "add" or inputs[0] is not inputs[1]:
            return None
        factor = np.full(node.channels, 2, "float32")
        return node.replace(
            op="scale", inputs=inputs[:1], weights={"factor": factor}
        )

    return rewrite(outputs, visit)


def activate_parts(outputs):
    """Moves ReLUs from concatenations to the parts.

    There the convolution that computes a part can apply it. The concatenation
    of the activated parts takes over the name of the other one, unless that
    one is needed as well.
    """
    readers = count_readers(outputs)
    relus = collections.Counter(
        node.inputs[0] for node in in_order(outputs) if node.op == "relu"
    )

    def visit(node, inputs):
        if node.op != "relu" or inputs[0].op != "concat":
            return None
        concat = node.inputs[0]
        is_needed = readers[concat] > relus[concat]
        return inputs[0].replace(
            inputs=tuple(map(_activated, inputs[0].inputs)),
            name=node.name if is_needed else concat.name,
        )

    return share(rewrite(outputs, visit))


def absorb_scales(outputs):
    """Multiplies scales into the next convolutions or dense layers.

    Where there is no such layer, the scale stays.
    """
    # Node -> what computes it up to a factor per channel, and that factor.
    became = {}

    def scaled(node):
        """Returns a node that computes the value of an old one."""
        new, factor = became[node]
        if factor is None:
            return new
        return node.replace(
            op="scale",
            inputs=(new,),
            name=f"{node.name}_scale",
            attributes={},
            weights={"factor": factor},
        )

    for node in in_order(outputs):
        inputs = tuple(became[n][0] for n in node.inputs)
        factors = [became[n][1] for n in node.inputs]
        factor = None
        if node.op == "scale":
            factor = node.weights["factor"]
            if factors[0] is not None:
                factor = factor * factors[0]
            new = inputs[0]
        elif all(f is None for f in factors):
            new = node.replace(inputs=inputs) if inputs else node
        elif node.op in HOMOGENEOUS:
            new, factor = node.replace(inputs=inputs), factors[0]
        elif node.op == "concat":
            new = node.replace(inputs=inputs)
            factor = np.concatenate(
                [
                    np.ones(n.channels, "float32") if f is None else f
                    for n, f in zip(node.inputs, factors)
                ]
            )
        elif node.op in ("conv", "depthwise", "dense"):
            # The input channels are the last axis but one in all of them.
            kernel = node.weights["kernel"] * factors[0][:, None]
            new = node.replace(
                inputs=inputs, weights={**node.weights, "kernel": kernel}
            )
        else:
            new = node.replace(inputs=tuple(map(scaled, node.inputs)))
        became[node] = (new, factor)
    return [scaled(node) for node in outputs]


def merge_sums(outputs):
    """Computes the sum of two convolutions as one of the joined inputs."""
    readers = count_readers(outputs)

    def visit(node, inputs):
        if node.op != "add" or len(inputs) != 2:
            return None
        if any(n.op != "conv" or n.attributes["activation"] for n in inputs):
            return None
        if any(readers[n] > 1 for n in node.inputs):
            return None
        left, right = inputs
        kernels = [n.weights["kernel"] for n in inputs]
        if kernels[0].shape[:2] != kernels[1].shape[:2] or any(
            left.attributes[k] != right.attributes[k] for k in GEOMETRY
        ):
            return None
        joined = left.replace(
            op="concat",
            inputs=left.inputs + right.inputs,
            channels=sum(kernel.shape[2] for kernel in kernels),
            name=f"{node.name}_inputs",
            attributes={},
            weights={},
        )
        return left.replace(
            inputs=(joined,),
            name=node.name,
            weights={
                "kernel": np.concatenate(kernels, axis=2),
                "bias": left.weights["bias"] + right.weights["bias"],
            },
        )

    return rewrite(outputs, visit)


def fuse_activations(outputs):
    """Lets convolutions apply the ReLU through which alone they are read."""
    readers = count_readers(outputs)

    def visit(node, inputs):
        if node.op != "relu":
            return None
        (before,) = inputs
        if before.op not in ("conv", "depthwise"):
            return None
        if readers[node.inputs[0]] > 1:
            return None
        return before.replace(
            attributes={**before.attributes, "activation": "relu"}
        )

    return rewrite(outputs, visit)


def _activated(node):
    if node.op == "relu":
        return node
    return node.replace(
        op="relu",
        inputs=(node,),
        name=f"{node.name}_relu",
        attributes={},
        weights={},
    )


def _float32(**arrays):
    return {name: array.astype("float32") for name, array in arrays.items()}
