"""Multiply-adds: published figures, and counts taken in other ways."""

import math

import keras
import pytest
from keras import layers
from keras.src import backend

from keras_nasnet import FactorizedReduction
from keras_nasnet import NASNetCIFAR
from keras_nasnet import NASNetLarge
from keras_nasnet import NASNetMobile
from keras_nasnet.macs import count_macs
from keras_nasnet.macs import count_macs_by_layer
from tests.networks import ALL_OPERATIONS
from tests.networks import small_network

MOBILE = 563_638_816


def kernel_weights(layer):
    return sum(math.prod(w.shape) for w in layer.weights if len(w.shape) > 1)


def test_mobile_at_a_given_and_at_any_size():
    model = NASNetMobile((None, None, 3), weights=None)
    assert count_macs(model, (224, 224, 3)) == MOBILE
    assert count_macs(model, [225, 300, 3]) > MOBILE
    # The model is as before: a layer called again has no single output.
    assert model.get_layer("stem").output.shape == (None, None, None, 32)
    with pytest.raises(ValueError, match="'conv' depend.*`input_shape="):
        count_macs(model)


def test_mobile_as_keras_writes_it():
    model = keras.applications.NASNetMobile(weights=None)
    kinds = (layers.Conv2D, layers.SeparableConv2D, layers.Dense)
    expected = sum(
        math.prod(layer.output.shape[1:-1]) * kernel_weights(layer)
        for layer in model.layers
        if isinstance(layer, kinds)
    )
    assert expected == MOBILE
    assert count_macs(model) == MOBILE


def test_cifar():
    assert count_macs(NASNetCIFAR(weights=None)) == 544_333_312


def test_large():
    assert count_macs(NASNetLarge(weights=None)) == 23_783_414_658


def test_all_operations_as_they_run(monkeypatch):
    macs = []

    def watch(cls):
        call = cls.call

        def watched(layer, *args, **kwargs):
            outputs = call(layer, *args, **kwargs)
            positions = math.prod(outputs.shape[1:-1])
            macs.append(positions * kernel_weights(layer))
            return outputs

        monkeypatch.setattr(cls, "call", watched)

    model = small_network((33, 47, 3), "imagenet", ALL_OPERATIONS)
    # A factorized reduction reads the kernels of its paths, not their calls.
    for cls in (
        FactorizedReduction,
        layers.Conv2D,
        layers.SeparableConv2D,
        layers.Dense,
    ):
        watch(cls)
    # Traced rather than run, for JAX would compile thousands of operations.
    backend.compute_output_spec(model, keras.KerasTensor((1, 33, 47, 3)))
    assert count_macs(model) == sum(macs) > 0


def test_by_layer():
    model = small_network((64, 64, 3), stem="imagenet")
    macs = count_macs_by_layer(model)
    assert list(macs) == [
        "stem",
        "cell_stem_0",
        "cell_stem_1",
        "cell_0",
        "reduction_cell_0",
        "cell_1",
        "reduction_cell_1",
        "cell_2",
        "predictions",
    ]
    assert macs["stem"] == 31 * 31 * 27 * 32
    assert macs["predictions"] == model.layers[-1].input.shape[-1] * 10
    assert sum(macs.values()) == count_macs(model)


def test_auxiliary_head():
    bare = count_macs(small_network())
    macs = count_macs_by_layer(small_network(aux_head=True))
    # 16x16 features of six states with 8 channels, pooled to 4x4.
    channels = 6 * 8
    head = 16 * channels * 128 + 16 * 128 * 768 + 768 * 10
    assert macs["aux_predictions"] == head
    assert sum(macs.values()) == bare + head


@pytest.mark.parametrize(
    ("layer", "input_shape", "expected"),
    [
        (layers.Conv2D(4, 3), (9, 8, 2), 7 * 6 * 9 * 2 * 4),
        (layers.Conv2D(4, 3, strides=2), (9, 8, 2), 4 * 3 * 9 * 2 * 4),
        (layers.Conv2D(4, 3, dilation_rate=2), (9, 8, 2), 5 * 4 * 9 * 2 * 4),
        (layers.Conv2D(4, (1, 7), groups=2), (9, 8, 2), 9 * 2 * 7 * 1 * 4),
        (
            layers.Conv2D(4, 3, data_format="channels_first"),
            (2, 9, 8),
            7 * 6 * 9 * 2 * 4,
        ),
        (layers.Conv1D(4, 3), (9, 2), 7 * 3 * 2 * 4),
        (layers.Conv3D(4, 3), (4, 5, 6, 2), 2 * 3 * 4 * 27 * 2 * 4),
        (
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            (9, 8, 2),
            7 * 6 * 9 * 2 * 2,
        ),
        (
            layers.SeparableConv2D(4, 3, strides=2, padding="same"),
            (9, 8, 2),
            5 * 4 * (9 * 2 + 2 * 4),
        ),
        (
            layers.Conv2DTranspose(4, 3, strides=2),
            (5, 6, 2),
            5 * 6 * 9 * 2 * 4,
        ),
        (layers.Dense(4), (7,), 7 * 4),
        (layers.Dense(4), (3, 2, 7), 3 * 2 * 7 * 4),
        (layers.MaxPooling2D(), (9, 8, 2), 0),
        (layers.BatchNormalization(), (9, 8, 2), 0),
        (layers.GroupNormalization(1), (9, 8, 2), 0),
    ],
)
def test_layers_by_hand(layer, input_shape, expected):
    model = keras.Sequential([keras.Input(input_shape), layer])
    assert count_macs(model) == expected
    assert list(count_macs_by_layer(model)) == [layer.name] * (expected > 0)


def test_models_inside_and_layers_called_twice():
    backbone = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 1)], name="backbone"
    )
    left = keras.Input((5, 5, 3), name="left")
    right = keras.Input((3, 4, 3), name="right")
    dense = layers.Dense(2, name="dense")
    pool = layers.GlobalAveragePooling2D()
    features = [pool(backbone(inputs=left)), pool(backbone(right))]
    outputs = keras.ops.add(dense(features[0]), dense(features[1]))
    model = keras.Model({"left": left, "right": right}, outputs)
    assert count_macs_by_layer(model) == {
        "backbone": (5 * 5 + 3 * 4) * 3 * 4,
        "dense": 2 * 4 * 2,
    }
    with pytest.raises(ValueError, match="`input_shape` must fit.*3, 4, 3"):
        count_macs(model, (5, 5, 3))


def test_known_size_behind_an_open_one():
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Resizing(8, 9),
            layers.Conv2D(4, 1),
        ]
    )
    assert count_macs(model) == 8 * 9 * 3 * 4


@pytest.mark.parametrize(
    "input_shape", [32, (32, 32), (32, 32, 4), (64, 32, 3)]
)
def test_shape_that_does_not_fit(input_shape):
    model = keras.Sequential([keras.Input((None, 31, 3)), layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match="`input_shape` must fit.*None, 31, 3"):
        count_macs(model, input_shape)


class Scale(layers.Layer):
    """A layer of the user's own: weights, but no kernel."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],))

    def call(self, inputs):
        return inputs * self.scale


def test_unknown_layers():
    inputs = keras.Input((4, 6))
    assert count_macs(keras.Model(inputs, Scale()(inputs))) == 0
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    with pytest.raises(ValueError, match="'attention' is a MultiHeadAttention"):
        count_macs(model)


class NoGraph(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    "make",
    [
        NoGraph,
        lambda: keras.Sequential([layers.Dense(2)]),
        lambda: layers.Dense(2),
        lambda: keras.Sequential([keras.Input((3,)), NoGraph()]),
    ],
)
def test_models_without_a_graph(make):
    with pytest.raises(ValueError, match="graph of a functional or sequential"):
        count_macs(make())
