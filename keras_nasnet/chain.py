"""The base of the layers that apply other layers one after the other."""

import contextlib

import keras

from keras_nasnet.hardware import HALF_TYPES
from keras_nasnet.normalization import BatchNorm


def conv_initializer():
    """Returns the initialiser that TF-slim gives to every kernel."""
    return keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="truncated_normal"
    )


def conv_regularizer(weight_decay):
    """Returns TF-slim's L2 penalty, `weight_decay * sum(w ** 2) / 2`."""
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def head_dtype(policy):
    """Returns the dtype policy of a classifier: never a 16-bit one."""
    policy = keras.dtype_policies.get(policy)
    if policy.compute_dtype in HALF_TYPES:
        return keras.dtype_policies.get("float32")
    return policy


def short_variable_names():
    """Opens a scope in which TensorFlow names variables without their layers.

    TensorFlow needs a millisecond to make the kernel that creates a variable,
    and makes one for every name and shape: a third of the time that building a
    network takes. Keras has paths of its own, which weights are saved by.
    """
    if keras.config.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.name_scope("")


class Chain(keras.layers.Layer):
    """Layers applied one after the other, with common settings.

    A subclass says in `make_steps()` which layers, once the input shape is
    known. Building, calling and counting follow from that.

    Args:
        bn_momentum: Float, momentum of the moving statistics.
        bn_epsilon: Float, added to the variance.
        weight_decay: Float, L2 penalty on all kernels (TF-slim's convention,
            `weight_decay * sum(w ** 2) / 2`).
        **kwargs: `name`, `dtype` and `trainable`.
    """

    def __init__(
        self,
        bn_momentum=0.9997,
        bn_epsilon=1e-3,
        weight_decay=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bn_momentum = bn_momentum
        self.bn_epsilon = bn_epsilon
        self.weight_decay = weight_decay

    def make_steps(self, input_shape):
        """Returns the layers for an input of this shape."""
        raise NotImplementedError

    def build(self, input_shape):
        self.build_layers(input_shape)
        # Keras passes this on when it is set, not to layers that come later: in
        # a copy or a loaded model they would learn again.
        if not self.trainable:
            for layer in self._flatten_layers(include_self=False):
                layer.trainable = False

    def build_layers(self, input_shape):
        """Makes and builds the layers inside."""
        self.steps = self.make_steps(input_shape)
        with short_variable_names():
            for step in self.steps:
                step.build(input_shape)
                input_shape = step.compute_output_shape(input_shape)

    def call(self, inputs):
        for step in self.steps:
            inputs = step(inputs)
        return inputs

    def sublayers(self, input_shape):
        """Yields every layer inside with the input shape that it sees."""
        for step in self.steps:
            yield step, input_shape
            input_shape = step.compute_output_shape(input_shape)

    def relu(self, name):
        """Returns a ReLU."""
        return keras.layers.ReLU(name=name, dtype=self.dtype_policy)

    def batch_norm(self, name):
        """Returns a batch norm."""
        return BatchNorm(
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            name=name,
            dtype=self.dtype_policy,
        )

    def conv(self, name, filters, kernel_size, padding="same", **kwargs):
        """Returns a convolution without bias."""
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            padding=padding,
            use_bias=False,
            kernel_initializer=conv_initializer(),
            kernel_regularizer=conv_regularizer(self.weight_decay),
            data_format="channels_last",
            name=name,
            dtype=self.dtype_policy,
            **kwargs,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "bn_momentum": self.bn_momentum,
            "bn_epsilon": self.bn_epsilon,
            "weight_decay": self.weight_decay,
        }
