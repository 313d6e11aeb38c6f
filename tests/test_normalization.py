"""The fused batch norm against its definition and against Keras'."""

import keras
import numpy as np
import pytest

from keras_nasnet.normalization import BatchNorm
from tests.layer_test_case import LayerCase
from tests.layer_test_case import LayerTestCase
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run


class TestLayer(LayerTestCase):
    cases = [
        LayerCase("default", BatchNorm),
        LayerCase("slim", BatchNorm, {"momentum": 0.9, "epsilon": 1e-5}),
        LayerCase("without gamma", BatchNorm, {"scale": False}),
        LayerCase("without beta", BatchNorm, {"center": False}),
    ]


def pair(**settings):
    """Returns this package's batch norm and Keras' with equal weights."""
    layers = [
        BatchNorm(**settings),
        keras.layers.BatchNormalization(**settings),
    ]
    for layer in layers:
        layer.build((None, None, None, 3))
        randomize(layer)
    return layers


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_equal_keras(training, trainable):
    inputs = 3 * images(4, 6, 5, 3) + 1
    fused, plain = pair(momentum=0.8, epsilon=1e-2, trainable=trainable)
    outputs = fused(inputs, training=training)
    expected = plain(inputs, training=training)
    assert relative_difference(outputs, expected) < 1e-5


def test_frozen_layer_keeps_its_statistics():
    layer, _ = pair(trainable=False)
    before = layer.get_weights()
    layer(images(4, 6, 5, 3), training=True)
    np.testing.assert_array_equal(before, layer.get_weights())


@pytest.mark.parametrize("momentum", [0.9, 0.9997])
def test_moving_statistics(momentum):
    inputs = 3 * images(2, 3, 2, 3) + 1
    layer, _ = pair(momentum=momentum)
    _, _, mean, variance = layer.get_weights()
    layer(inputs, training=True)
    # Like Keras' own layer, without the correction that TensorFlow makes.
    batch_mean = inputs.mean((0, 1, 2))
    batch_variance = inputs.var((0, 1, 2))
    _, _, new_mean, new_variance = layer.get_weights()
    np.testing.assert_allclose(
        new_mean, momentum * mean + (1 - momentum) * batch_mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        new_variance,
        momentum * variance + (1 - momentum) * batch_variance,
        rtol=1e-5,
    )


def test_gradients_equal_keras():
    inputs = 3 * images(4, 6, 5, 3) + 1
    trained = []
    for layer in pair():
        image = keras.Input((6, 5, 3))
        outputs = layer(keras.layers.Dense(3, use_bias=False)(image))
        model = keras.Model(image, outputs)
        model.layers[1].set_weights([np.eye(3) + 0.1])
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.train_on_batch(inputs, images(4, 6, 5, 3, seed=1))
        trained.append([w.numpy() for w in model.trainable_weights])
    for fused, plain in zip(*trained):
        np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-5)


def test_pure_16_bit_at_inference():
    inputs = images(2, 4, 4, 3)
    layer = BatchNorm(dtype="float16")
    layer.build(inputs.shape)
    randomize(layer)
    gamma, beta, mean, variance = layer.get_weights()
    expected = gamma * (inputs - mean) / np.sqrt(variance + 1e-3) + beta
    assert relative_difference(run(layer, inputs), expected) < 1e-2
