"""A separable convolution learns like Keras' own."""

import keras
import pytest

from keras_nasnet import separable
from keras_nasnet.separable import SeparableConv2D
from tests.layer_test_case import LayerCase
from tests.layer_test_case import LayerTestCase
from tests.networks import images
from tests.networks import relative_difference

ON_TENSORFLOW = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="needs TensorFlow"
)
KERNELS = {
    (kernel_size, strides): {
        "filters": 5,
        "kernel_size": kernel_size,
        "strides": strides,
        "padding": "same",
    }
    for kernel_size in (3, 5, 7)
    for strides in (1, 2)
}


class TestLayer(LayerTestCase):
    cases = [
        LayerCase(f"{size}x{size} / {strides}", SeparableConv2D, settings)
        for (size, strides), settings in KERNELS.items()
    ]


def gradients(layer, inputs):
    """Returns the outputs of a layer in training, and all gradients."""
    import tensorflow as tf

    inputs = tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        # Keras' own layer does not take `training`, a model does.
        outputs = keras.Sequential([layer])(inputs, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") ** 2)
    watched = [inputs, *(v.value for v in layer.trainable_variables)]
    return [outputs, *tape.gradient(loss, watched)]


@ON_TENSORFLOW
@pytest.mark.parametrize("channels", [3, 33])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("settings", KERNELS.values(), ids=str)
def test_gradients_equal_keras(settings, dtype, channels, monkeypatch):
    taken = []
    convolve = separable._depthwise
    monkeypatch.setattr(
        separable, "_depthwise", lambda *a: taken.append(a) or convolve(*a)
    )
    layers = [
        make(**settings, dtype=dtype, bias_initializer="random_normal")
        for make in (keras.layers.SeparableConv2D, SeparableConv2D)
    ]
    # An even and an odd side, which strides treat differently.
    inputs = images(2, 9, 8, channels)
    for layer in layers:
        layer.build(inputs.shape)
    layers[1].set_weights(layers[0].get_weights())
    expected, found = (gradients(layer, inputs) for layer in layers)
    is_large = settings["kernel_size"] > 3
    assert bool(taken) == (is_large and (channels > 32 or dtype != "float32"))
    for array, other in zip(found, expected):
        limit = 1e-5 if dtype == "float32" else 2e-2
        assert relative_difference(array, other) < limit


@ON_TENSORFLOW
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_size_and_xla(strides, jit_compile):
    import tensorflow as tf

    layer = SeparableConv2D(5, 5, strides, "same", use_bias=False)
    layer.build((None, None, None, 33))
    inputs = images(2, 9, 8, 33)
    expected = gradients(layer, inputs)
    shape = inputs.shape if jit_compile else (None, None, None, 33)
    step = tf.function(
        lambda x: gradients(layer, x),
        input_signature=[tf.TensorSpec(shape)],
        jit_compile=jit_compile,
    )
    for array, other in zip(step(inputs), expected):
        assert relative_difference(array, other) < 1e-5
