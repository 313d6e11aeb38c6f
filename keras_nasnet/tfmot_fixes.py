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
    """A range for each channel of a kernel `(height, width, channels, 1)`.

    As in files. tfmot has one for the whole kernel, in which channels with
    small weights lose most of their bits.
    """

    def build(self, tensor_shape, name, layer):
        return super().build(tensor_shape[:3], name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        height, width, channels, _ = inputs.shape
        # The base class has ranges along the last axis.
        moved = tf.reshape(inputs, (height, width, 1, channels))
        rounded = super().__call__(moved, training, weights, **kwargs)
        return tf.reshape(rounded, inputs.shape)


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
    in which the model lists its layers, so that a concatenation comes out
    with its channels exchanged: https://github.com/tensorflow/model-optimization/issues/1179
    """
    transformer = model_transformer.ModelTransformer
    find = transformer._get_layers

    def find_in_order(self, names):
        found = find(self, names)
        return sorted(found, key=lambda x: names.index(x["config"]["name"]))

    transformer._get_layers = find_in_order
    try:
        yield
    finally:
        transformer._get_layers = find
