"""The thirteen searched operations as Keras layers.

All follow TF-slim: a ReLU stands before every convolution and a batch norm
behind it, separable convolutions are applied twice, pools are bare. Every
operation brings its input to `filters` channels and divides the image size by
`strides`, rounding up. All thirteen take the same arguments, so that a cell
need not know which one it builds.
"""

import math

import keras
from keras import ops

from keras_nasnet.chain import Chain
from keras_nasnet.chain import conv_initializer
from keras_nasnet.chain import conv_regularizer
from keras_nasnet.checks import check_pool_padding
from keras_nasnet.checks import check_positive
from keras_nasnet.checks import check_strides
from keras_nasnet.genotypes import OPERATION_NAMES
from keras_nasnet.separable import SeparableConv2D


class Operation(Chain):
    """What all searched operations have in common.

    Args:
        filters: Integer, number of output channels.
        strides: Integer, 1 or 2: by what the image size is divided.
        pre_activated: Whether the ReLU before the first convolution was
            already applied by the caller, so that several operations on one
            state can share it.
        pool_padding: What a strided pool does at the image border. `"zero"`
            pads with zeros and counts them, like `keras.applications`;
            `"same"` leaves the padding out, like TF-slim.
        **kwargs: `bn_momentum`, `bn_epsilon`, `weight_decay`, `name`, `dtype`
            and `trainable`.

    Call arguments:
        inputs: Images or features, `(batch, height, width, channels)`.

    Returns:
        A tensor `(batch, ceil(height / strides), ceil(width / strides),
        filters)`.
    """

    # Pools and identities read the state itself, convolutions its ReLU.
    starts_with_relu = True

    def __init__(
        self,
        filters,
        strides=1,
        pre_activated=False,
        pool_padding="zero",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive("filters", filters)
        check_strides(strides)
        check_pool_padding(pool_padding)
        self.filters = filters
        self.strides = strides
        self.pre_activated = pre_activated
        self.pool_padding = pool_padding

    def after_relu(self, steps):
        """Puts a ReLU before the steps unless the caller applied it."""
        return steps if self.pre_activated else [self.relu("relu"), *steps]

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, self.strides, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "pre_activated": self.pre_activated,
            "pool_padding": self.pool_padding,
        }


class KernelOperation(Operation):
    """An operation with a kernel or window: adds `kernel_size`.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, side of the kernel or window in pixels.
        **kwargs: As in `Operation`.
    """

    def __init__(self, filters, kernel_size, strides=1, **kwargs):
        super().__init__(filters, strides, **kwargs)
        check_positive("kernel_size", kernel_size)
        self.kernel_size = kernel_size

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable("keras_nasnet")
class Identity(Operation):
    """Passes a state on; with a ReLU, 1x1 convolution and batch norm if needed.

    They are needed when the number of channels or the image size changes.

    Args:
        filters: Integer, number of output channels.
        strides: Integer, 1 or 2.
        **kwargs: As in `Operation`.

    Source:
        - [TF-slim, `nasnet_utils.py`](
            https://github.com/tensorflow/models/tree/master/research/slim/nets/nasnet)

    Example:

    >>> layer = keras_nasnet.operations.Identity(filters=8)
    >>> layer(np.ones((1, 4, 4, 8))).shape
    TensorShape([1, 4, 4, 8])
    """

    starts_with_relu = False

    def make_steps(self, input_shape):
        if self.strides == 1 and input_shape[-1] == self.filters:
            return []
        return [
            self.relu("relu"),
            self.conv("conv", self.filters, 1, strides=self.strides),
            self.batch_norm("bn"),
        ]


@keras.saving.register_keras_serializable("keras_nasnet")
class Convolution(KernelOperation):
    """ReLU, convolution, batch norm.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, side of the kernel.
        strides: Integer, 1 or 2.
        **kwargs: As in `Operation`.

    Example:

    >>> layer = keras_nasnet.operations.Convolution(8, kernel_size=1)
    >>> layer(np.ones((1, 4, 4, 3))).shape
    TensorShape([1, 4, 4, 8])
    """

    def make_steps(self, input_shape):
        steps = [
            self.conv(
                "conv", self.filters, self.kernel_size, strides=self.strides
            ),
            self.batch_norm("bn"),
        ]
        return self.after_relu(steps)


@keras.saving.register_keras_serializable("keras_nasnet")
class FactorizedConvolution(KernelOperation):
    """A 1xk convolution, then a kx1 one, each with ReLU and batch norm.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, length k of the two kernels.
        strides: Integer, 1 or 2. The first convolution halves the width, the
            second the height.
        **kwargs: As in `Operation`.

    Example:

    >>> layer = keras_nasnet.operations.FactorizedConvolution(8, 7, strides=2)
    >>> layer(np.ones((1, 4, 4, 3))).shape
    TensorShape([1, 2, 2, 8])
    """

    def make_steps(self, input_shape):
        k, s = self.kernel_size, self.strides
        steps = [
            self.conv("conv_1", self.filters, (1, k), strides=(1, s)),
            self.batch_norm("bn_1"),
            self.relu("relu_2"),
            self.conv("conv_2", self.filters, (k, 1), strides=(s, 1)),
            self.batch_norm("bn_2"),
        ]
        return self.after_relu(steps)


@keras.saving.register_keras_serializable("keras_nasnet")
class DilatedConvolution(KernelOperation):
    """ReLU, convolution with dilation 2, batch norm.

    The paper names neither the rate nor whether the convolution is separable;
    this is a plain one with rate 2.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, side of the kernel before dilation.
        strides: Integer, 1 or 2.
        **kwargs: As in `Operation`.

    Example:

    >>> layer = keras_nasnet.operations.DilatedConvolution(8, kernel_size=3)
    >>> layer(np.ones((1, 9, 9, 3))).shape
    TensorShape([1, 9, 9, 8])
    """

    def make_steps(self, input_shape):
        if self.strides == 2:
            # Taps two apart, moved in steps of two, only ever meet every
            # other pixel: that is a plain convolution of those pixels.
            steps = [
                keras.layers.MaxPooling2D(
                    1,
                    2,
                    data_format="channels_last",
                    name="subsample",
                    dtype=self.dtype_policy,
                ),
                self.conv("conv", self.filters, self.kernel_size),
            ]
        else:
            steps = [
                self.conv(
                    "conv", self.filters, self.kernel_size, dilation_rate=2
                )
            ]
        steps.append(self.batch_norm("bn"))
        return self.after_relu(steps)


@keras.saving.register_keras_serializable("keras_nasnet")
class SeparableConvolution(KernelOperation):
    """ReLU, depthwise-separable convolution, batch norm - all twice.

    Only the first convolution is strided.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, side of the depthwise kernels.
        strides: Integer, 1 or 2.
        **kwargs: As in `Operation`.

    Example:

    >>> layer = keras_nasnet.operations.SeparableConvolution(8, kernel_size=5)
    >>> layer(np.ones((1, 4, 4, 3))).shape
    TensorShape([1, 4, 4, 8])
    """

    def make_steps(self, input_shape):
        steps = [
            self.separable_conv("separable_1", self.strides),
            self.batch_norm("bn_1"),
            self.relu("relu_2"),
            self.separable_conv("separable_2", 1),
            self.batch_norm("bn_2"),
        ]
        return self.after_relu(steps)

    def separable_conv(self, name, strides):
        """Returns a separable convolution without bias."""
        regularizer = conv_regularizer(self.weight_decay)
        return SeparableConv2D(
            self.filters,
            self.kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            depthwise_initializer=conv_initializer(),
            pointwise_initializer=conv_initializer(),
            depthwise_regularizer=regularizer,
            pointwise_regularizer=regularizer,
            data_format="channels_last",
            name=name,
            dtype=self.dtype_policy,
        )


@keras.saving.register_keras_serializable("keras_nasnet")
class Pool2D(keras.layers.Layer):
    """A pool whose behaviour at the border can be chosen.

    Args:
        pool_size: Integer, side of the window in pixels.
        strides: Integer, 1 or 2.
        mode: `"average"` or `"max"`.
        padding: What a strided pool does at the border: `"zero"` pads with
            zeros and counts them, `"same"` leaves the padding out. With
            stride 1 both leave it out.
        **kwargs: `name` and `dtype`.

    Example:

    >>> pool = keras_nasnet.operations.Pool2D(3, 2, "average", "zero")
    >>> float(pool(np.ones((1, 2, 2, 1)))[0, 0, 0, 0])
    0.4444444477558136
    """

    def __init__(
        self, pool_size, strides=1, mode="average", padding="zero", **kwargs
    ):
        super().__init__(**kwargs)
        if mode not in ("average", "max"):
            raise ValueError(
                f'`mode` must be "average" or "max". Received: mode={mode!r}'
            )
        if pool_size < 3 or pool_size % 2 == 0:
            raise ValueError(
                "`pool_size` must be an odd integer of at least 3. "
                f"Received: pool_size={pool_size!r}"
            )
        check_pool_padding(padding, "padding")
        self.pool_size = pool_size
        self.strides = strides
        self.mode = mode
        self.padding = padding

    def call(self, inputs):
        if self.strides == 1:
            return self._pool(inputs, "same")
        if self.padding == "zero":
            return self._pool(self.zero_pad(inputs), "valid")
        if self.mode == "average" and keras.config.backend() == "torch":
            # Keras pads by repeating the border there if it pads one side
            # more than the other, and counts what it repeated.
            counted = self.zero_pad(ops.ones_like(inputs[:1, :, :, :1]))
            total = self._pool(self.zero_pad(inputs), "valid")
            return total / self._pool(counted, "valid")
        return self._pool(inputs, "same")

    def _pool(self, inputs, padding):
        pool = ops.average_pool if self.mode == "average" else ops.max_pool
        return pool(
            inputs,
            self.pool_size,
            self.strides,
            padding=padding,
            data_format="channels_last",
        )

    def zero_pad(self, inputs):
        """Pads with zeros where TF's SAME would pad at stride 2."""
        # Sizes may be unknown until the model runs, so the amounts are
        # computed from the running shape.
        half = self.pool_size // 2
        height, width = ops.shape(inputs)[1:3]
        return ops.pad(
            inputs,
            [
                [0, 0],
                [half - 1 + height % 2, half],
                [half - 1 + width % 2, half],
                [0, 0],
            ],
        )

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, self.strides, input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "mode": self.mode,
            "padding": self.padding,
        }


class Pooling(KernelOperation):
    """A pool, and a 1x1 convolution with batch norm if channels change."""

    starts_with_relu = False
    mode = None

    def make_steps(self, input_shape):
        steps = [
            Pool2D(
                self.kernel_size,
                self.strides,
                self.mode,
                self.pool_padding,
                name="pool",
                dtype=self.dtype_policy,
            )
        ]
        if input_shape[-1] != self.filters:
            steps += [self.conv("conv", self.filters, 1), self.batch_norm("bn")]
        return steps


@keras.saving.register_keras_serializable("keras_nasnet")
class AveragePooling(Pooling):
    """Average pool; 1x1 convolution and batch norm if channels change.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, side of the window.
        strides: Integer, 1 or 2.
        **kwargs: As in `Operation`; `pool_padding` is the one to know.

    Example:

    >>> layer = keras_nasnet.operations.AveragePooling(3, 3, strides=2)
    >>> layer(np.ones((1, 5, 5, 3))).shape
    TensorShape([1, 3, 3, 3])
    """

    mode = "average"


@keras.saving.register_keras_serializable("keras_nasnet")
class MaxPooling(Pooling):
    """Max pool; 1x1 convolution and batch norm if channels change.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Integer, side of the window.
        strides: Integer, 1 or 2.
        **kwargs: As in `Operation`; `pool_padding` is the one to know.

    Example:

    >>> layer = keras_nasnet.operations.MaxPooling(3, 3, strides=2)
    >>> layer(np.ones((1, 5, 5, 3))).shape
    TensorShape([1, 3, 3, 3])
    """

    mode = "max"


def strided_shape(input_shape, strides, channels):
    """Returns the shape of what SAME padding leaves at some strides."""
    size = (n and math.ceil(n / strides) for n in input_shape[1:3])
    return (input_shape[0], *size, channels)


def _factory(cls, kernel_size):
    def factory(filters, strides=1, **kwargs):
        return cls(filters, kernel_size, strides, **kwargs)

    return factory


# name -> factory(filters, strides=1, **settings)
OPERATIONS = {
    "identity": Identity,
    "conv_1x3_3x1": _factory(FactorizedConvolution, 3),
    "conv_1x7_7x1": _factory(FactorizedConvolution, 7),
    "dil_conv_3x3": _factory(DilatedConvolution, 3),
    "avg_pool_3x3": _factory(AveragePooling, 3),
    "max_pool_3x3": _factory(MaxPooling, 3),
    "max_pool_5x5": _factory(MaxPooling, 5),
    "max_pool_7x7": _factory(MaxPooling, 7),
    "conv_1x1": _factory(Convolution, 1),
    "conv_3x3": _factory(Convolution, 3),
    "sep_conv_3x3": _factory(SeparableConvolution, 3),
    "sep_conv_5x5": _factory(SeparableConvolution, 5),
    "sep_conv_7x7": _factory(SeparableConvolution, 7),
}
assert tuple(OPERATIONS) == OPERATION_NAMES
