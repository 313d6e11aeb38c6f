"""A lowered network computes what the network computes, with less."""

import collections
import os

import keras
import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings

import keras_nasnet
from keras_nasnet import Genotype
from keras_nasnet import fuse
from keras_nasnet.lowering import simplify
from keras_nasnet.lowering import trace
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network
from tests.test_cells import PASSING_ON
from tests.test_random_genotypes import REPRODUCIBLE
from tests.test_random_genotypes import genotypes
from tests.test_random_genotypes import tiny_network


def check_same(model, x, tolerance=1e-4):
    """Compares a model with its fused form, and returns that."""
    fused = fuse(model)
    outputs, expected = run(fused, x), run(model, x)
    keras.tree.assert_same_structure(outputs, expected)
    for output, original in zip(
        keras.tree.flatten(outputs), keras.tree.flatten(expected)
    ):
        assert relative_difference(output, original) < tolerance
    return fused


def kinds(model):
    return collections.Counter(type(layer).__name__ for layer in model.layers)


@pytest.mark.parametrize("pool_padding", ["zero", "same"])
@pytest.mark.parametrize(
    ("stem", "size"), [("cifar", (32, 32)), ("imagenet", (97, 66))]
)
def test_fused_network_computes_the_same(stem, size, pool_padding):
    model = randomize(
        small_network((*size, 3), stem, pool_padding=pool_padding)
    )
    fused = check_same(model, images(2, *size, 3))
    assert fused.name == model.name
    assert not kinds(fused)["BatchNormalization"]
    assert not kinds(fused)["BatchNorm"]


@pytest.mark.parametrize("pool_padding", ["zero", "same"])
@pytest.mark.parametrize("size", [(32, 32), (None, None)])
def test_fused_network_of_all_operations(size, pool_padding):
    model = small_network(
        (*size, 3), genotype=ALL_OPERATIONS, pool_padding=pool_padding
    )
    check_same(randomize(model), images(2, 32, 32, 3))
    if None in size:
        check_same(model, images(1, 33, 18, 3))


def test_fused_network_whose_cells_pass_their_states_on():
    genotype = Genotype(PASSING_ON, PASSING_ON)
    check_same(randomize(tiny_network(genotype)), images(2, 12, 9, 3))


# Every example builds a network twice, so failing ones are not simplified, and
# CI takes a few of the 200 that a release is checked with.
@settings(
    REPRODUCIBLE,
    max_examples=int(os.environ.get("KERAS_NASNET_EXAMPLES", 20)),
    phases=[Phase.generate],
)
@given(genotypes())
def test_fused_network_of_random_genotype(data):
    model = randomize(tiny_network(Genotype.from_dict(data)))
    check_same(model, images(2, 9, 12, 3))


@pytest.mark.parametrize(
    "settings",
    [
        {"include_top": False},
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max"},
        {"include_top": False, "features": ["P0", "P2"]},
        {"classifier_activation": None},
        {"include_preprocessing": True},
        {"aux_head": True, "drop_path_rate": 0.3, "dropout": 0.5},
        {"skip_reduction": True},
        {"cell_residual": True},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_fused_network_has_the_outputs_of_the_model(settings):
    check_same(randomize(small_network(**settings)), images(2, 32, 32, 3))


def test_fused_network_keeps_names():
    model = randomize(small_network(class_names=list("abcdefghij")))
    fused = fuse(model)
    assert fused.get_layer("predictions").class_names == list("abcdefghij")
    x = images(2, 32, 32, 3)
    for layer in model.layers:
        if not isinstance(layer, keras_nasnet.Cell):
            continue
        output = run(keras.Model(model.input, layer.output), x)
        found = run(
            keras.Model(fused.input, fused.get_layer(layer.name).output), x
        )
        # All cells read it through a ReLU.
        assert relative_difference(found, np.maximum(output, 0)) < 1e-4


def test_residual_cells_keep_their_outputs():
    model = randomize(small_network(cell_residual=True))
    fused = fuse(model)
    x = images(2, 32, 32, 3)
    cells = (model.get_layer("cell_0"), fused.get_layer("cell_0"))
    expected, found = (
        run(keras.Model(whole.input, cell.output), x)
        for whole, cell in zip((model, fused), cells)
    )
    assert expected.min() < 0
    assert relative_difference(found, expected) < 1e-4


def test_cell_that_the_model_returns_keeps_its_output():
    model = randomize(small_network())
    cell = model.get_layer("cell_1")
    both = keras.Model(model.input, [cell.output, model.output])
    x = images(2, 32, 32, 3)
    fused = check_same(both, x)
    taken = keras.Model(fused.input, fused.get_layer("cell_1").output)
    expected = run(both, x)[0]
    assert expected.min() < 0
    assert relative_difference(run(taken, x), expected) < 1e-4


def test_lowered_network_computes_less():
    model = randomize(small_network(num_cells=2))
    nodes = _nodes(simplify(trace(model)[1]))
    count = collections.Counter(node.op for node in nodes)
    # 6 normal and 2 reduction cells have 5 sums each. In a normal cell one of
    # them is a pool added to itself, and two join separable convolutions; in a
    # reduction cell one does that.
    assert count["add"] == 6 * (5 - 3) + 2 * (5 - 1)
    # Doubling that pool is left to the convolutions behind the cells.
    assert count["scale"] == 0
    assert count["norm"] == 0


def test_each_relu_and_pool_is_computed_once():
    model = randomize(small_network())
    nodes = _nodes(simplify(trace(model)[1]))
    read = [
        (node.op, node.inputs, str(node.attributes))
        for node in nodes
        if node.op in ("relu", "pool")
    ]
    assert len(set(read)) == len(read)


def test_norms_can_be_kept():
    model = randomize(small_network())
    nodes = _nodes(simplify(trace(model)[1], keep_norms=True))
    kept = [node.weights["mean"] for node in nodes if node.op == "norm"]
    expected = [w for w in model.weights if w.name == "moving_mean"]
    assert len(kept) == len(expected) > 0
    total = sum(float(np.sum(w)) for w in expected)
    assert sum(float(np.sum(mean)) for mean in kept) == pytest.approx(total)


def test_layers_from_elsewhere_are_kept():
    trunk = randomize(small_network(include_top=False))
    x = trunk.output
    x = keras.layers.Conv2D(6, 1, activation="gelu")(x)
    attention = keras.layers.MultiHeadAttention(2, 4)
    x = attention(x, x)
    x = keras.ops.sin(x) + keras.layers.UpSampling2D(2)(x)[:, ::2, ::2]
    model = keras.Model(trunk.input, keras.layers.Flatten()(x))
    check_same(model, images(2, 32, 32, 3))


def test_network_inside_another_model():
    trunk = randomize(small_network(include_top=False, pooling="avg"))
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(0.5),
            trunk,
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    fused = check_same(model, images(2, 32, 32, 3))
    assert "cell_0" in {layer.name for layer in fused.layers}


def test_layers_that_were_called_by_keyword():
    trunk = randomize(small_network(include_top=False, pooling="avg"))
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(inputs=image)
    x = keras.layers.Dense(4)(inputs=trunk(inputs=x))
    fused = check_same(keras.Model(image, x), images(2, 32, 32, 3))
    assert "cell_0" in {layer.name for layer in fused.layers}


def test_functions_of_the_user_stay():
    def relu(x):
        return 3 * x

    trunk = randomize(small_network(include_top=False))
    x = keras.layers.Conv2D(6, 1, activation=relu)(trunk.output)
    x = keras.layers.Activation(relu)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4, activation=relu)(x)
    check_same(keras.Model(trunk.input, x), images(2, 32, 32, 3))


@pytest.mark.parametrize("chosen", [None, "mixed_float16"])
def test_precision_is_that_of_the_model(chosen):
    """Whatever Keras' default is when a model is fused."""
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(chosen or policy)
        model = small_network()
        keras.config.set_dtype_policy(policy if chosen else "mixed_float16")
        fused = fuse(model)
    finally:
        keras.config.set_dtype_policy(policy)
    for name in ("cell_0", "avg_pool", "predictions"):
        found = fused.get_layer(name).dtype_policy.name
        assert found == model.get_layer(name).dtype_policy.name
    assert isinstance(fused.get_layer("predictions"), keras_nasnet.Classifier)


def test_fused_network_can_be_saved(tmp_path):
    fused = fuse(randomize(small_network()))
    path = tmp_path / "fused.keras"
    fused.save(path)
    x = images(2, 32, 32, 3)
    assert np.array_equal(run(keras.models.load_model(path), x), run(fused, x))


def test_fusing_leaves_the_model_alone():
    model = randomize(small_network())
    before = model.get_weights()
    fused = fuse(model)
    fused.set_weights([w + 1 for w in fused.get_weights()])
    for weight, expected in zip(model.get_weights(), before):
        assert np.array_equal(weight, expected)


def test_model_without_graph_is_refused():
    class Unknown(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="functional or sequential model"):
        fuse(Unknown())


def _nodes(outputs):
    return keras_nasnet.graph.in_order(outputs)
