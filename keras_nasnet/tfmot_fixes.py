"""Corrections of tensorflow-model-optimization."""

import contextlib

import tensorflow as tf
from tensorflow_model_optimization.python.core.quantization.keras import (
    default_8bit,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (  # noqa: E501
    model_transformer,
)

_registry = default_8bit.default_8bit_quantize_registry
_quantizers = default_8bit.default_8bit_quantizers


class DepthwiseWeightsQuantizer(_quantizers.Default8BitConvWeightsQuantizer):
    """A range for each channel of a depthwise kernel.

    As in files. tfmot has one for the whole kernel, in which channels with
    small weights lose most of their bits.
    """

    def build(self, tensor_shape, name, layer):
        return super().build(_flat(tensor_shape), name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        # The base class has ranges along the last axis.
        flat = tf.reshape(inputs, _flat(inputs.shape))
        rounded = super().__call__(flat, training, weights, **kwargs)
        return tf.reshape(rounded, inputs.shape)


def _flat(shape):
    """Returns the shape of a kernel with its channels along one axis."""
    height, width, channels, multiplier = shape
    return height, width, 1, channels * multiplier


class DepthwiseQuantizeConfig(_registry.Default8BitConvQuantizeConfig):
    """What is rounded of a depthwise convolution: kernel and output."""

    def __init__(
        self,
        weight_attrs=("depthwise_kernel",),
        activation_attrs=("activation",),
        quantize_output=False,
    ):
        super().__init__(
            list(weight_attrs), list(activation_attrs), quantize_output
        )
        self.weight_quantizer = DepthwiseWeightsQuantizer()


# For `quantize_scope`, in which twins are made and loaded.
SCOPE = {"DepthwiseQuantizeConfig": DepthwiseQuantizeConfig}


@contextlib.contextmanager
def inputs_in_order():
    """Keeps the order of what is concatenated while a model is quantised.

    tfmot looks the inputs of a layer up by name, and has them in the order
    in which the model lists its layers, and those that are read twice once.
    So a concatenation comes out with its channels exchanged or missing:
    https://github.com/tensorflow/model-optimization/issues/1179
    """
    transformer = model_transformer.ModelTransformer
    find = transformer._get_layers
    is_supported = transformer._is_match_supported

    def find_in_order(self, names):
        found = find(self, names)
        return sorted(found, key=lambda x: names.index(x["config"]["name"]))

    def is_supported_once(self, layer, is_head_node):
        nodes = layer["inbound_nodes"]
        names = self._get_input_layer_names(layer) if nodes else []
        is_once = len(set(names)) == len(names)
        return is_once and is_supported(self, layer, is_head_node)

    transformer._get_layers = find_in_order
    transformer._is_match_supported = is_supported_once
    try:
        yield
    finally:
        transformer._get_layers = find
        transformer._is_match_supported = is_supported
