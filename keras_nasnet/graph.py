"""A network as a flat graph of elementary operations with their weights.

Operations and the attributes and weights that they have:

    input       shape, dtype
    conv        strides, padding, dilation_rate, activation; kernel, bias
    depthwise   strides, padding, dilation_rate, activation; kernel, bias
    dense       activation, is_classifier, class_names; kernel, bias
    norm        epsilon, momentum; gamma, beta, mean, variance
    group_norm  groups, epsilon; gamma, beta
    pool        mode, size, strides, padding ("same", "valid" or "zero")
    global_pool mode
    relu, add, concat, flatten
    scale       factor, a positive number for each channel
    rescale     scale, offset
    border      size, strides: what makes averages over zeros, too, right
    opaque      operation, args, kwargs: any Keras operation, kept as it is
    item        index: one of the outputs of an opaque operation
"""

import collections
import dataclasses


@dataclasses.dataclass(eq=False)
class Node:
    """One operation of a graph, and the tensor that it computes.

    Args:
        op: Name of the operation, one of those above.
        inputs: Tuple of the `Node`s that it reads.
        channels: Integer, size of the last axis of its output; `None` if
            unknown.
        name: Name for a layer that computes it.
        attributes: Dictionary of its settings.
        weights: Dictionary of NumPy arrays.
    """

    op: str
    inputs: tuple
    channels: int | None
    name: str
    attributes: dict = dataclasses.field(default_factory=dict)
    weights: dict = dataclasses.field(default_factory=dict)

    def replace(self, **changes):
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def in_order(outputs):
    """Lists the nodes behind some outputs, each one after its inputs."""
    ordered = {}
    stack = list(reversed(outputs))
    while stack:
        node = stack[-1]
        waiting = [n for n in node.inputs if n not in ordered]
        if waiting:
            stack += reversed(waiting)
        else:
            ordered[stack.pop()] = None
    return list(ordered)


def count_readers(outputs):
    """Counts how often each node is read; being an output counts as one."""
    readers = collections.Counter(outputs)
    for node in in_order(outputs):
        readers.update(node.inputs)
    return readers


def rewrite(outputs, visit):
    """Rebuilds a graph from its inputs to its outputs.

    Args:
        outputs: List of `Node`s.
        visit: Function of a node and of the tuple of what its inputs became.
            Returns what it shall become, `None` for the same as before.

    Returns:
        The list of what the outputs became.
    """
    became = {}
    for node in in_order(outputs):
        inputs = tuple(became[n] for n in node.inputs)
        new = visit(node, inputs)
        if new is None:
            new = node if inputs == node.inputs else node.replace(inputs=inputs)
        became[node] = new
    return [became[node] for node in outputs]
