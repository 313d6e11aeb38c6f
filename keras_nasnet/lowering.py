"""Lowering: from cells to a flat graph, and to a model that computes it.

This is the only place that knows how to compute a network faster than it is
written down. Fast inference, phones and compression all start from here.
"""

import keras
import numpy as np
from keras import layers
from keras import ops
from keras import tree

from keras_nasnet import passes
from keras_nasnet.cells import Cell
from keras_nasnet.cells import FactorizedReduction
from keras_nasnet.cells import Stem
from keras_nasnet.classifier import Classifier
from keras_nasnet.emission import emit
from keras_nasnet.graph import Node
from keras_nasnet.normalization import BatchNorm
from keras_nasnet.operations import Operation
from keras_nasnet.operations import Pool2D
from keras_nasnet.regularization import AuxiliaryHead
from keras_nasnet.regularization import DropPath
from keras_nasnet.separable import SeparableConv2D


def fuse(model):
    """Returns a model of standard layers that computes the same, but faster.

    Batch norms are multiplied into the convolutions before them, every ReLU
    and pool is computed once for all that read it, what is added to itself is
    doubled, and the sum of two convolutions becomes one convolution. The
    result is for inference: drop path and dropout are gone, and so are the
    batch norms that training needs.

    What a cell puts out is the output of the layer with the cell's name. It
    is as in `model` if the model returns it too, or adds it to a shortcut
    (`cell_residual`); else it is what everything reads of it, the output
    after a ReLU. Only cells that pass their states on one by one
    (`concat_outputs=False`) have no layer of their name. The layer behind the
    last cell, `final_relu`, is one with that cell.

    Args:
        model: A functional or sequential model with layers of this package.
            Layers from elsewhere go into the new model as they are.

    Returns:
        A functional `keras.Model` with inputs and outputs like those of
        `model`.

    Raises:
        ValueError: If `model` has no graph of layers.

    Example:

    >>> model = keras_nasnet.NASNetTiny(weights=None)
    >>> fused = keras_nasnet.fuse(model)
    >>> image = np.ones((1, 32, 32, 3))
    >>> np.allclose(fused(image), model(image), atol=1e-4)
    True
    >>> cell = fused.get_layer("cell_0")
    >>> features = keras.Model(fused.input, cell.output)
    >>> expected = keras.Model(model.input, model.get_layer("cell_0").output)
    >>> np.allclose(features(image), np.maximum(expected(image), 0), atol=1e-4)
    True
    """
    model = as_functional(model)
    inputs, outputs = trace(model)
    return emit(
        inputs,
        simplify(outputs, keep_cells=True),
        like=model,
        dtype=_dtype_policy(model),
    )


def _dtype_policy(model):
    """Returns in what a model computes, `None` if it has no weights."""
    for layer in model.layers:
        if getattr(layer, "layers", None):
            policy = _dtype_policy(layer)
        else:
            policy = layer.dtype_policy if layer.weights else None
        if policy:
            return policy
    return None


def as_functional(model):
    """Returns a sequential model as one that tells what goes in and out."""
    if isinstance(model, keras.Sequential) and model.inputs:
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def simplify(outputs, keep_norms=False, keep_cells=False, merge=True):
    """Rewrites a graph into a faster one.

    Args:
        outputs: List of `Node`s, the outputs of the graph.
        keep_norms: Whether batch norms stay, for training.
        keep_cells: Whether the outputs of cells stay what they are. Otherwise
            some of their channels may be scaled, and the convolutions that
            read them make up for it.
        merge: Whether the sum of two convolutions becomes one convolution of
            both inputs: less to compute, but the inputs have to be copied
            together.

    Returns:
        A list of `Node`s.
    """
    outputs = passes.share(outputs)
    if not keep_norms:
        outputs = passes.fold_norms(outputs)
    outputs = passes.double_sums(outputs)
    outputs = passes.activate_parts(outputs)
    if not keep_cells:
        outputs = passes.absorb_scales(outputs)
    if merge:
        outputs = passes.merge_sums(outputs)
    return passes.fuse_activations(outputs)


def trace(model):
    """Reads the graph of elementary operations off a model.

    Args:
        model: A functional or sequential model.

    Returns:
        The list of its input `Node`s and the list of its outputs.

    Raises:
        ValueError: If `model` has no graph of layers.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a functional or sequential model whose inputs "
            f"are known. Received: {model!r}"
        )
    inputs = [
        _node(
            "input",
            (),
            tensor.shape[-1],
            tensor.name,
            shape=tensor.shape[1:],
            dtype=tensor.dtype,
        )
        for tensor in model.inputs
    ]
    return inputs, _trace_model(model, inputs)


def _trace_model(model, inputs):
    values = {id(t): node for t, node in zip(model.inputs, inputs)}
    by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for call in by_depth[depth]:
            if call.is_input:
                continue
            args, kwargs = call.arguments.fill_in(values)
            outputs = _trace_call(call, args, kwargs)
            values.update(zip(map(id, call.outputs), tree.flatten(outputs)))
    return [values[id(tensor)] for tensor in model.outputs]


def _trace_call(call, args, kwargs):
    operation = call.operation
    if getattr(operation, "inputs", None):  # a model inside the model
        return _trace_model(operation, tree.flatten(_read(args, kwargs)))
    if isinstance(operation, layers.Layer):
        inputs = _read(args, kwargs)
        traced = _trace_layer(operation, inputs, operation.name)
        if traced is not None:
            return traced
    return _opaque(call, args, kwargs)


def _read(args, kwargs):
    """Returns what a layer is applied to, also as `layer(inputs=x)`."""
    if args:
        return args[0]
    return next(
        value
        for value in kwargs.values()
        if any(isinstance(x, Node) for x in tree.flatten(value))
    )


def _opaque(call, args, kwargs):
    channels = [t.shape[-1] if t.shape else None for t in call.outputs]
    name = call.operation.name
    read = [n for n in tree.flatten((args, kwargs)) if isinstance(n, Node)]
    node = _node(
        "opaque",
        tuple(read),
        channels[0],
        name,
        operation=call.operation,
        args=args,
        kwargs=kwargs,
    )
    if len(channels) == 1:
        return node
    return [
        _node("item", (node,), n, f"{name}_{i}", index=i)
        for i, n in enumerate(channels)
    ]


def _trace_layer(layer, inputs, name):
    """Traces a layer; returns `None` if it is not of a known kind."""
    # By exact type: a subclass from elsewhere may compute something else.
    if type(layer) in TRACERS:
        return TRACERS[type(layer)](layer, inputs, name)
    if isinstance(layer, (AuxiliaryHead, Operation, Stem)):
        for step in layer.steps:
            inputs = _trace_layer(step, inputs, f"{name}_{step.name}")
        return inputs
    return None


def _convolution(op, layer, kernel, bias, x, name, **attributes):
    """Returns a node for a plain or a depthwise convolution."""
    kernel = _array(kernel)
    filters = kernel.shape[3] * (kernel.shape[2] if op == "depthwise" else 1)
    bias = np.zeros(filters, "float32") if bias is None else _array(bias)
    return _node(
        op,
        (x,),
        filters,
        name,
        {"kernel": kernel, "bias": bias},
        **{
            "strides": tuple(layer.strides),
            "padding": layer.padding,
            "dilation_rate": tuple(layer.dilation_rate),
            "activation": None,
            **attributes,
        },
    )


def _trace_conv(layer, x, name):
    if layer.groups > 1 or layer.data_format != "channels_last":
        return None
    x = _convolution("conv", layer, layer.kernel, layer.bias, x, name)
    return _trace_activation(layer, x, name)


def _trace_depthwise(layer, x, name):
    if layer.data_format != "channels_last":
        return None
    x = _convolution("depthwise", layer, layer.kernel, layer.bias, x, name)
    return _trace_activation(layer, x, name)


def _trace_separable(layer, x, name):
    if layer.data_format != "channels_last":
        return None
    x = _convolution(
        "depthwise", layer, layer.depthwise_kernel, None, x, f"{name}_depthwise"
    )
    x = _convolution(
        "conv", layer, layer.pointwise_kernel, layer.bias, x, name, **POINTWISE
    )
    return _trace_activation(layer, x, name)


def _trace_activation(layer, x, name):
    # Not by name: a function of the user's may have the same.
    if layer.activation is keras.activations.linear:
        return x
    if layer.activation is keras.activations.relu:
        return _relu(x, f"{name}_relu")
    return None


def _trace_relu(layer, x, name):
    config = layer.get_config()
    changes = ("max_value", "negative_slope", "threshold")
    return None if any(config[c] for c in changes) else _relu(x, name)


def _trace_norm(layer, x, name):
    is_plain = layer.axis in (-1, 3) and layer.scale and layer.center
    # That of vectors is no convolution.
    if not is_plain or layer.input_spec.ndim != 4:
        return None
    return _node(
        "norm",
        (x,),
        x.channels,
        name,
        {
            "gamma": _array(layer.gamma),
            "beta": _array(layer.beta),
            "mean": _array(layer.moving_mean),
            "variance": _array(layer.moving_variance),
        },
        epsilon=layer.epsilon,
        momentum=layer.momentum,
    )


def _trace_group_norm(layer, x, name):
    if layer.axis not in (-1, 3) or not (layer.scale and layer.center):
        return None
    weights = {"gamma": _array(layer.gamma), "beta": _array(layer.beta)}
    return _node(
        "group_norm",
        (x,),
        x.channels,
        name,
        weights,
        groups=layer.groups,
        epsilon=layer.epsilon,
    )


def _trace_pool2d(layer, x, name):
    return _pool(
        x, name, layer.mode, layer.pool_size, layer.strides, layer.padding
    )


def _trace_keras_pool(layer, x, name):
    sizes, strides = set(layer.pool_size), set(layer.strides)
    is_square = len(sizes) == len(strides) == 1
    if not is_square or layer.data_format != "channels_last":
        return None
    mode = "max" if isinstance(layer, layers.MaxPooling2D) else "average"
    return _pool(x, name, mode, *sizes, *strides, layer.padding)


def _pool(x, name, mode, size, strides, padding):
    # With stride 1 nothing is padded with zeros.
    if strides == 1 and padding == "zero":
        padding = "same"
    return _node(
        "pool",
        (x,),
        x.channels,
        name,
        mode=mode,
        size=size,
        strides=strides,
        padding=padding,
    )


def _trace_global_pool(layer, x, name):
    if layer.keepdims or layer.data_format != "channels_last":
        return None
    is_max = isinstance(layer, layers.GlobalMaxPooling2D)
    mode = "max" if is_max else "average"
    return _node("global_pool", (x,), x.channels, name, mode=mode)


def _trace_flatten(layer, x, name):
    return _node("flatten", (x,), None, name)


def _trace_dense(layer, x, name):
    if not layer.use_bias:
        return None
    return _node(
        "dense",
        (x,),
        layer.units,
        name,
        {"kernel": _array(layer.kernel), "bias": _array(layer.bias)},
        activation=layer.activation,
        is_classifier=isinstance(layer, Classifier),
        class_names=getattr(layer, "class_names", None),
    )


def _trace_concat(layer, inputs, name):
    return _concat(inputs, name) if layer.axis in (-1, 3) else None


def _concat(inputs, name):
    channels = [x.channels for x in inputs]
    total = None if None in channels else sum(channels)
    return _node("concat", tuple(inputs), total, name)


def _trace_rescaling(layer, x, name):
    config = layer.get_config()
    scale, offset = config["scale"], config["offset"]
    return _node("rescale", (x,), x.channels, name, scale=scale, offset=offset)


def _trace_nothing(layer, x, name):
    return x


def _trace_reduction(layer, x, name):
    if not layer.pre_activated:
        x = _relu(x, f"{name}_relu")
    # Both paths are corners of a 2x2 kernel.
    first, second = _array(layer.path_1.kernel), _array(layer.path_2.kernel)
    kernel = np.zeros((2, 2, x.channels, layer.filters), "float32")
    kernel[0, 0, :, : first.shape[3]] = first[0, 0]
    kernel[1, 1, :, first.shape[3] :] = second[0, 0]
    x = _convolution(
        "conv", layer.path_1, kernel, None, x, f"{name}_conv", padding="same"
    )
    return _trace_norm(layer.bn, x, f"{name}_bn")


def _trace_cell(cell, inputs, name):
    states = [
        _trace_layer(fit, x, f"{name}_{fit.name}") if fit else x
        for fit, x in zip(cell.fit_inputs, inputs)
    ]

    blocks = zip(cell.genotype.blocks, cell.operations, cell.norms)
    for b, (block, operations, norm) in enumerate(blocks):
        branches = []
        for operation, branch in zip(operations, block.branches):
            x = states[branch.state]
            if operation.starts_with_relu:
                x = _relu(x, f"{name}_state_{branch.state}_relu")
            x = _trace_layer(operation, x, f"{name}_{operation.name}")
            branches.append(x)
        if block.combiner == "concat":
            x = _concat(branches, f"{name}_block_{b}")
        else:
            x = _node("add", tuple(branches), cell.filters, f"{name}_block_{b}")
        if norm:
            x = _trace_group_norm(norm, x, f"{name}_{norm.name}")
        states.append(x)
    outputs = [
        _trace_layer(fit, states[state], f"{name}_{fit.name}")
        if fit
        else states[state]
        for fit, state in zip(cell.fit_outputs, cell.genotype.outputs)
    ]
    if not cell.genotype.concat_outputs:
        return outputs
    if not cell.residual:
        return _concat(outputs, name)
    shortcut = inputs[0]
    if cell.shortcut:
        shortcut = _trace_layer(cell.shortcut, shortcut, f"{name}_shortcut")
    output = _concat(outputs, f"{name}_outputs")
    return _node("add", (output, shortcut), output.channels, name)


def _node(op, inputs, channels, name, weights=None, **attributes):
    return Node(op, inputs, channels, name, attributes, weights or {})


def _relu(x, name):
    return _node("relu", (x,), x.channels, name)


def _array(weight):
    return np.asarray(ops.convert_to_numpy(weight), "float32")


POINTWISE = {"strides": (1, 1), "padding": "valid", "dilation_rate": (1, 1)}
TRACERS = {
    BatchNorm: _trace_norm,
    Cell: _trace_cell,
    Classifier: _trace_dense,
    DropPath: _trace_nothing,
    FactorizedReduction: _trace_reduction,
    Pool2D: _trace_pool2d,
    SeparableConv2D: _trace_separable,
    layers.Activation: _trace_activation,
    layers.AveragePooling2D: _trace_keras_pool,
    layers.BatchNormalization: _trace_norm,
    layers.Concatenate: _trace_concat,
    layers.Conv2D: _trace_conv,
    layers.Dense: _trace_dense,
    layers.DepthwiseConv2D: _trace_depthwise,
    layers.Dropout: _trace_nothing,
    layers.Flatten: _trace_flatten,
    layers.GlobalAveragePooling2D: _trace_global_pool,
    layers.GlobalMaxPooling2D: _trace_global_pool,
    layers.GroupNormalization: _trace_group_norm,
    layers.MaxPooling2D: _trace_keras_pool,
    layers.ReLU: _trace_relu,
    layers.Rescaling: _trace_rescaling,
    layers.SeparableConv2D: _trace_separable,
}
