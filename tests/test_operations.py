"""The searched operations against plain NumPy, and their checks as layers."""

import keras
import numpy as np
import pytest

from keras_nasnet import OPERATIONS
from keras_nasnet import FactorizedReduction
from keras_nasnet import Stem
from keras_nasnet.operations import Convolution
from keras_nasnet.operations import Pool2D
from tests.layer_test_case import LayerCase
from tests.layer_test_case import LayerTestCase
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run

POOLS = [name for name in OPERATIONS if "pool" in name]


class TestLayers(LayerTestCase):
    cases = [
        *(
            LayerCase(
                f"{name}-strides{strides}",
                factory,
                # As many filters as channels leave an identity bare.
                {"filters": 4, "strides": strides},
            )
            for name, factory in OPERATIONS.items()
            for strides in (1, 2)
        ),
        *(
            LayerCase(
                f"{name}-wider", OPERATIONS[name], {"filters": 6, "strides": 2}
            )
            for name in ("identity", "avg_pool_3x3", "max_pool_7x7")
        ),
        LayerCase(
            "sep_conv_5x5-pre_activated",
            OPERATIONS["sep_conv_5x5"],
            {"filters": 6, "pre_activated": True, "weight_decay": 1e-3},
        ),
        *(
            LayerCase(
                f"pool-{mode}-{padding}-strides{strides}",
                Pool2D,
                {
                    "pool_size": 5,
                    "strides": strides,
                    "mode": mode,
                    "padding": padding,
                },
            )
            for mode in ("average", "max")
            for padding in ("zero", "same")
            for strides in (1, 2)
        ),
    ]


# Height and width, even and odd, and smaller than the largest window.
SIZES = [(8, 6), (7, 9), (8, 5), (3, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("filters", [3, 5])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_numpy(name, filters, strides, size):
    check_operation(name, filters, strides, size, "zero")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("name", POOLS)
def test_pool_with_same_padding_equals_numpy(name, strides, size):
    check_operation(name, 3, strides, size, "same")


def check_operation(name, filters, strides, size, pool_padding):
    layer = OPERATIONS[name](
        filters, strides=strides, pool_padding=pool_padding
    )
    # From both signs to negative throughout: there the zeros at the border
    # win a max pool.
    inputs = images(2, *size, 3) - np.linspace(0, 1.5, 3, dtype="float32")
    layer.build(inputs.shape)
    randomize(layer)
    expected = reference(
        name, inputs, weights_by_step(layer), strides, pool_padding
    )
    assert expected.shape[-1] == filters
    np.testing.assert_allclose(run(layer, inputs), expected, 1e-4, 1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_pre_activated_operation_leaves_out_the_first_relu(name):
    inputs = images(2, 7, 6, 4)
    whole = OPERATIONS[name](4, strides=2)
    rest = OPERATIONS[name](4, strides=2, pre_activated=True)
    for layer in (whole, rest):
        layer.build(inputs.shape)
    rest.set_weights(whole.get_weights())
    x = relu(inputs) if rest.starts_with_relu else inputs
    assert relative_difference(run(rest, x), run(whole, inputs)) < 1e-6
    assert rest.starts_with_relu == ("conv" in name)


@pytest.mark.parametrize("size", SIZES)
def test_factorized_reduction_equals_two_paths(size):
    inputs = images(2, *size, 3)
    layer = FactorizedReduction(filters=5)
    layer.build(inputs.shape)
    randomize(layer)
    x = relu(inputs)
    shifted = np.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:]
    kernels = [
        keras.ops.convert_to_numpy(path.kernel)[0, 0]
        for path in (layer.path_1, layer.path_2)
    ]
    assert [kernel.shape for kernel in kernels] == [(3, 2), (3, 3)]
    paths = [x[:, ::2, ::2] @ kernels[0], shifted[:, ::2, ::2] @ kernels[1]]
    expected = batch_norm(
        np.concatenate(paths, axis=-1), layer.bn.get_weights()
    )
    assert relative_difference(run(layer, inputs), expected) < 1e-5

    activated = FactorizedReduction(filters=5, pre_activated=True)
    activated.build(inputs.shape)
    activated.set_weights(layer.get_weights())
    assert relative_difference(run(activated, x), expected) < 1e-5


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
@pytest.mark.parametrize("strides", [1, 2])
def test_stem_equals_numpy(strides, size):
    inputs = images(2, *size, 3)
    layer = Stem(4, strides)
    layer.build(inputs.shape)
    randomize(layer)
    weights = weights_by_step(layer)
    # Without padding at stride 2: exactly the windows inside the image.
    x = conv(inputs, weights["conv"], 1)
    if strides == 2:
        x = x[:, 1:-1:2, 1:-1:2]
    expected = batch_norm(x, weights["bn"])
    assert relative_difference(run(layer, inputs), expected) < 1e-5


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: Convolution(0, 3),
            "`filters` must be a positive integer. Received: filters=0",
        ),
        (
            lambda: Convolution(4, 1.5),
            "`kernel_size` must be a positive integer. "
            "Received: kernel_size=1.5",
        ),
        (
            lambda: Convolution(4, 3, strides=3),
            "`strides` must be 1 or 2. Received: strides=3",
        ),
        (
            lambda: Convolution(4, 3, pool_padding="valid"),
            '`pool_padding` must be "zero" (keras.applications) or "same" '
            "(TF-slim). Received: pool_padding='valid'",
        ),
        (
            lambda: Pool2D(3, mode="min"),
            '`mode` must be "average" or "max". Received: mode=\'min\'',
        ),
        (
            lambda: Pool2D(3, padding="valid"),
            '`padding` must be "zero" (keras.applications) or "same" '
            "(TF-slim). Received: padding='valid'",
        ),
        (
            lambda: FactorizedReduction(1),
            "`filters` must be an integer of at least 2. Received: filters=1",
        ),
        (
            lambda: Stem("4"),
            "`filters` must be a positive integer. Received: filters='4'",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_weight_decay_is_half_the_squares_of_all_kernels():
    layer = OPERATIONS["sep_conv_3x3"](4, weight_decay=0.1)
    layer.build((None, 8, 8, 3))
    kernels = [w for w in layer.get_weights() if w.ndim == 4]
    assert len(kernels) == 4
    expected = 0.1 * sum((kernel**2).sum() for kernel in kernels) / 2
    assert float(sum(layer.losses)) == pytest.approx(expected, rel=1e-5)
    assert not OPERATIONS["sep_conv_3x3"](4).losses


# What follows is written from the definitions, without a look at the layers:
# windows are cut out of a padded image, one einsum does the rest.


def reference(name, x, weights, strides, pool_padding):
    """Computes an operation on an image batch.

    Args:
        name: Name of the operation.
        x: Array `(batch, height, width, channels)`.
        weights: Step -> list of arrays.
        strides: 1 or 2.
        pool_padding: `"zero"` or `"same"`.

    Returns:
        An array.
    """
    kind, *sizes = name.split("_")
    if name == "identity":
        return projection(relu(x), weights, strides) if weights else x
    if "pool" in name:
        window = int(sizes[-1][0])
        x = pool(x, kind, window, strides, pool_padding)
        return projection(x, weights, 1) if weights else x
    if kind == "sep":
        x = separable(relu(x), weights["separable_1"], strides)
        x = relu(batch_norm(x, weights["bn_1"]))
        x = separable(x, weights["separable_2"], 1)
        return batch_norm(x, weights["bn_2"])
    if kind == "dil":
        x = conv(relu(x), weights["conv"], 1, dilation=2)
        return batch_norm(x[:, ::strides, ::strides], weights["bn"])
    if len(sizes) == 2:
        x = conv(relu(x), weights["conv_1"], (1, strides))
        x = relu(batch_norm(x, weights["bn_1"]))
        x = conv(x, weights["conv_2"], (strides, 1))
        return batch_norm(x, weights["bn_2"])
    return batch_norm(conv(relu(x), weights["conv"], strides), weights["bn"])


def projection(x, weights, strides):
    """Applies the 1x1 convolution of an identity or pool."""
    return batch_norm(conv(x, weights["conv"], strides), weights["bn"])


def weights_by_step(layer):
    """Returns the weights of a chain by the names of its steps."""
    return {
        step.name: step.get_weights() for step in layer.steps if step.weights
    }


def relu(x):
    return np.maximum(x, 0)


def batch_norm(x, weights, epsilon=1e-3):
    gamma, beta, mean, variance = weights
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def conv(x, weights, strides, dilation=1):
    (kernel,) = weights
    patches = windows(x, kernel.shape[:2], strides, same, 0, dilation)
    return np.einsum("bhwijc,ijcf->bhwf", patches, kernel)


def separable(x, weights, strides):
    depthwise, pointwise = weights
    patches = windows(x, depthwise.shape[:2], strides, same)
    x = np.einsum("bhwijc,ijcm->bhwcm", patches, depthwise)
    assert depthwise.shape[-1] == 1
    return x[..., 0] @ pointwise[0, 0]


def pool(x, mode, window, strides, padding):
    if strides == 2 and padding == "zero":
        patches = windows(x, (window, window), strides, zero_padding)
    else:
        # What is not a number does not count.
        patches = windows(x, (window, window), strides, same, np.nan)
    reduce = {"avg": np.nanmean, "max": np.nanmax}[mode]
    return reduce(patches, axis=(3, 4))


def same(size, window, stride):
    """Returns TensorFlow's SAME padding before and behind."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def zero_padding(size, window, stride):
    """Returns the padding that `keras.applications` puts around pools."""
    return window // 2 - 1 + size % 2, window // 2


def windows(x, window, strides, padding, fill=0, dilation=1):
    """Cuts an image batch into the windows that a kernel sees.

    Returns:
        An array `(batch, rows, columns, *window, channels)`.
    """
    strides = np.broadcast_to(strides, 2)
    spans = [(w - 1) * dilation + 1 for w in window]
    amounts = [
        padding(n, span, stride)
        for n, span, stride in zip(x.shape[1:3], spans, strides)
    ]
    x = np.pad(x, [(0, 0), *amounts, (0, 0)], constant_values=fill)
    x = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(1, 2))
    x = x[:, :: strides[0], :: strides[1], :, ::dilation, ::dilation]
    return np.moveaxis(x, 3, -1)
