"""How much a network computes: the multiply-adds of one image."""

import math

import keras
from keras import layers

from keras_nasnet.chain import Chain

SEPARABLE_CONVOLUTIONS = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED_CONVOLUTIONS = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
# The layers with one kernel, which is their attribute of this name.
LAYERS_WITH_KERNEL = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.Dense,
    *TRANSPOSED_CONVOLUTIONS,
)


def count_macs(model, input_shape=None):
    """Counts the multiply-adds that a model spends on one image.

    Counted are convolutions (depthwise, separable and transposed ones
    included) and dense layers, as papers do. Biases, batch norms, pools and
    activations are left out, and so are bare operations of `keras.ops`.

    Args:
        model: A functional or sequential Keras model, of this package or not.
            Models inside it are counted too, and a layer that is called twice
            counts twice.
        input_shape: Shape `(height, width, channels)` of the image. Needed
            only where the model leaves the size open.

    Returns:
        An integer.

    Raises:
        ValueError: If the model has no graph of layers, if `input_shape` does
            not fit it, if a size is unknown, or if a layer of an unknown kind
            has kernels.

    Example:

    >>> keras_nasnet.count_macs(keras_nasnet.NASNetCIFAR(weights=None))
    544333312
    """
    return sum(count_macs_by_layer(model, input_shape).values())


def count_macs_by_layer(model, input_shape=None):
    """Counts the multiply-adds of one image in each layer of a model.

    Args:
        model: A model as in `count_macs`.
        input_shape: Shape `(height, width, channels)` of the image. Needed
            only where the model leaves the size open.

    Returns:
        A dictionary from the layer's name to an integer, in the order of
        computation. A cell or an inner model is one layer. Layers without
        multiply-adds are left out.

    Raises:
        ValueError: As in `count_macs`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, None, 3)),
    ...     keras.layers.Conv2D(8, 3, padding="same", name="conv"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(10, name="predictions"),
    ... ])
    >>> keras_nasnet.count_macs_by_layer(model, (32, 32, 3))
    {'conv': 221184, 'predictions': 80}
    """
    _check_has_graph(model)
    inputs = model.inputs
    if input_shape is not None:
        inputs = [_image_of_shape(model, input_shape)]
    return _count_graph(model, inputs)


def _count_graph(model, inputs):
    """Sends symbolic inputs through a model and counts at every layer."""
    macs = {}

    def counted(operation):
        def infer(*args, **kwargs):
            if isinstance(operation, layers.Layer):
                received = (*args, *kwargs.values())[0]
                count = _count_layer(operation, received)
                if count:
                    name = operation.name
                    macs[name] = macs.get(name, 0) + count
            return operation.compute_output_spec(*args, **kwargs)

        return infer

    # Shapes alone go through, so that no layer is called or built anew.
    graph = keras.Function(model.inputs, model.outputs)
    graph._run_through_graph(inputs, operation_fn=counted)
    return macs


def _count_layer(layer, inputs):
    if not layer.weights:
        return 0
    if isinstance(layer, keras.Model):
        _check_has_graph(layer)
        return sum(_count_graph(layer, inputs).values())
    shape = keras.tree.map_structure(lambda tensor: tensor.shape, inputs)
    return _count_at_shape(layer, shape)


def _count_at_shape(layer, input_shape):
    if isinstance(layer, Chain):
        return sum(
            _count_at_shape(sublayer, shape)
            for sublayer, shape in layer.sublayers(input_shape)
        )
    kernels = _kernels(layer)
    if not kernels:
        return 0
    # A transposed convolution applies its kernel once for every pixel that it
    # reads, all others do so for every pixel that they write.
    shape = input_shape
    if not isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        shape = layer.compute_output_shape(input_shape)
    positions = shape[1:-1]
    if getattr(layer, "data_format", None) == "channels_first":
        positions = shape[2:]
    if None in positions:
        raise ValueError(
            f"The multiply-adds of layer {layer.name!r} depend on the image "
            "size, which the model leaves open. Pass "
            "`input_shape=(height, width, channels)`."
        )
    return math.prod(positions) * sum(math.prod(k.shape) for k in kernels)


def _kernels(layer):
    """Lists the weights of a layer that are applied at every position."""
    if isinstance(layer, SEPARABLE_CONVOLUTIONS):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if isinstance(layer, LAYERS_WITH_KERNEL):
        return [layer.kernel]
    # Weights with one axis only scale and shift, as those of a batch norm.
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise ValueError(
            f"Layer {layer.name!r} is a {type(layer).__name__}, whose "
            "multiply-adds are not known. Known are convolutions, dense "
            "layers and the layers of keras_nasnet: build the layer from "
            "these, or count the rest of the model without it."
        )
    return []


def _check_has_graph(model):
    if not getattr(model, "inputs", None):
        raise ValueError(
            "Multiply-adds are counted along the graph of a functional or "
            "sequential model whose inputs are known, such as a model that "
            f"begins with `keras.Input`. Received: {model!r}"
        )


def _image_of_shape(model, input_shape):
    """Returns a symbolic input of a size that the model leaves open."""
    expected = [tensor.shape[1:] for tensor in model.inputs]
    if (
        not isinstance(input_shape, (list, tuple))
        or len(expected) != 1
        or len(input_shape) != len(expected[0])
        or any(n not in (None, m) for n, m in zip(expected[0], input_shape))
    ):
        raise ValueError(
            "`input_shape` must fit the input of the model. Received: "
            f"input_shape={input_shape}, model inputs: {expected}"
        )
    image = model.inputs[0]
    return keras.KerasTensor((image.shape[0], *input_shape), dtype=image.dtype)
