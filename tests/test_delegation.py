"""Rewrites for XNNPACK change what is computed with, not what is computed."""

import keras
import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings

from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet.delegation import delegable
from keras_nasnet.delegation import lower
from keras_nasnet.emission import border_factor
from keras_nasnet.graph import in_order
from keras_nasnet.lowering import simplify
from keras_nasnet.lowering import trace
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network
from tests.test_random_genotypes import REPRODUCIBLE
from tests.test_random_genotypes import genotypes
from tests.test_random_genotypes import tiny_network


def lowered(model, integer):
    _, outputs = trace(model)
    outputs = delegable(simplify(outputs), integer)
    return outputs, lower(model, integer)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("pool_padding", ["zero", "same"])
def test_network_of_all_operations(integer, pool_padding):
    # Odd and even sizes, and all pools at stride 1 and 2.
    model = small_network(
        (33, 30, 3), genotype=ALL_OPERATIONS, pool_padding=pool_padding
    )
    randomize(model)
    outputs, flat = lowered(model, integer)
    x = images(2, 33, 30, 3)
    assert relative_difference(run(flat, x), run(model, x)) < 1e-4
    nodes = in_order(outputs)
    assert max(len(n.inputs) for n in nodes if n.op == "concat") == 4
    assert 1 not in {n.attributes["size"] for n in nodes if n.op == "pool"}
    # Factorized reductions hold no zeros.
    kernels = [n.weights["kernel"] for n in nodes if n.op == "conv"]
    assert (2, 2) not in {kernel.shape[:2] for kernel in kernels}
    if integer:
        assert "relu" not in {node.op for node in nodes}
        pools = [n.attributes["mode"] for n in nodes if n.op == "pool"]
        assert set(pools) == {"max"}


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_twin_of_all_operations(library):
    library = pytest.importorskip(library)
    model = small_network((33, 30, 3), genotype=ALL_OPERATIONS)
    randomize(model)
    twin = lower(model, integer=True, keep_norms=True, library=library)
    x = images(2, 33, 30, 3)
    outputs = twin.predict(x, verbose=0)
    assert relative_difference(outputs, run(model, x)) < 1e-4
    norms = library.layers.BatchNormalization
    assert any(isinstance(layer, norms) for layer in twin.layers)


def test_reductions_of_a_twin_for_training():
    # There batch norms stay behind convolutions, and ReLUs behind them.
    model = randomize(small_network((33, 30, 3)))
    twin = lower(model, integer=True, keep_norms=True)
    x = images(2, 33, 30, 3)
    assert relative_difference(run(twin, x), run(model, x)) < 1e-4
    kinds = keras.layers.Conv2D, keras.layers.DepthwiseConv2D
    for layer in twin.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            before = layer.input._keras_history.operation
            assert isinstance(before, kinds), layer.name
        if isinstance(layer, keras.layers.Conv2D):
            assert layer.kernel_size != (2, 2), layer.name


def test_other_small_convolutions_stay():
    # Neither is a factorized reduction: one reads everything, the other one
    # does not reach the last row of an uneven image.
    image = keras.Input((5, 5, 3))
    full = keras.layers.Conv2D(4, 2, strides=2, padding="same")
    inside = keras.layers.Conv2D(4, 2, strides=2)
    model = keras.Model(image, [full(image), inside(image)])
    kernel = inside.kernel.numpy()
    kernel[0, 1] = kernel[1, 0] = kernel[0, 0, :, 2:] = kernel[1, 1, :, :2] = 0
    inside.kernel.assign(kernel)
    flat = lower(model)
    x = images(2, 5, 5, 3)
    for found, expected in zip(run(flat, x), run(model, x)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# Twice a pool is a scale, which the layers that read it make up for.
DOUBLED = CellGenotype(
    [
        Block(("avg_pool_3x3", 1), ("avg_pool_3x3", 1)),
        Block(("sep_conv_3x3", 0), ("identity", 0)),
    ]
)


@pytest.mark.parametrize("behind", ["cell_2", "final_relu"])
def test_dense_layer_behind_flattened_features(behind):
    """No rewrite changes the order of the channels that it reads."""
    genotype = Genotype(DOUBLED, DOUBLED)
    trunk = small_network(genotype=genotype, include_top=False)
    x = keras.layers.Flatten()(trunk.get_layer(behind).output)
    model = randomize(keras.Model(trunk.input, keras.layers.Dense(3)(x)))
    x = images(2, 32, 32, 3)
    for integer in (False, True):
        flat = lower(model, integer)
        assert relative_difference(run(flat, x), run(model, x)) < 1e-4


@settings(REPRODUCIBLE, max_examples=10, phases=[Phase.generate])
@given(genotypes())
def test_network_of_random_genotype(data):
    genotype = Genotype.from_dict(data)
    model = randomize(tiny_network(genotype, size=(9, 12)))
    _, flat = lowered(model, integer=True)
    x = images(2, 9, 12, 3)
    assert relative_difference(run(flat, x), run(model, x)) < 1e-4


def test_auxiliary_head():
    # Its pool does not pad.
    model = randomize(small_network(aux_head=True))
    _, flat = lowered(model, integer=True)
    x = images(2, 32, 32, 3)
    expected = run(model, x)
    for name, outputs in run(flat, x).items():
        assert relative_difference(outputs, expected[name]) < 1e-4


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(4, 7), (5, 6), (1, 2)])
def test_border_factor(shape, size, strides):
    x = images(1, *shape, 1)
    mean = keras.ops.average_pool(x, size, strides, padding="same")
    # What TensorFlow puts before and behind the image.
    pads = []
    for n in shape:
        total = max((-(-n // strides) - 1) * strides + size - n, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    sums = keras.ops.average_pool(padded, size, strides, padding="valid")
    factor = border_factor(*shape, size, strides)
    np.testing.assert_allclose(sums * factor, mean, rtol=1e-5, atol=1e-6)
