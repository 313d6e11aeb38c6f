"""The networks: sizes, names, arguments, errors, and a step of training."""

import functools
import inspect
import json
import math

import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import NASNET_A
from keras_nasnet import Genotype
from keras_nasnet import NASNet
from keras_nasnet import NASNetCIFAR
from keras_nasnet import NASNetLarge
from keras_nasnet import NASNetMobile
from keras_nasnet.cells import Cell
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network
from tests.test_cells import PASSING_ON

# name -> (factory, weights, trainable weights, layers)
NETWORKS = {
    "mobile": (
        NASNetMobile,
        5_326_716,
        5_289_978,
        "image stem cell_stem_0 cell_stem_1 "
        "cell_0 cell_1 cell_2 cell_3 reduction_cell_0 "
        "cell_4 cell_5 cell_6 cell_7 reduction_cell_1 "
        "cell_8 cell_9 cell_10 cell_11 final_relu avg_pool predictions",
    ),
    "large": (
        NASNetLarge,
        88_949_818,
        88_753_150,
        "image stem cell_stem_0 cell_stem_1 "
        "cell_0 cell_1 cell_2 cell_3 cell_4 cell_5 reduction_cell_0 "
        "cell_6 cell_7 cell_8 cell_9 cell_10 cell_11 reduction_cell_1 "
        "cell_12 cell_13 cell_14 cell_15 cell_16 cell_17 "
        "final_relu avg_pool predictions",
    ),
    "cifar": (
        NASNetCIFAR,
        3_383_786,
        3_346_538,
        "image stem "
        "cell_0 cell_1 cell_2 cell_3 cell_4 cell_5 reduction_cell_0 "
        "cell_6 cell_7 cell_8 cell_9 cell_10 cell_11 reduction_cell_1 "
        "cell_12 cell_13 cell_14 cell_15 cell_16 cell_17 "
        "final_relu avg_pool predictions",
    ),
}

# Asserted by TF-slim's own tests: where -> height, width, channels.
SHAPES = {
    "mobile": {
        "cell_stem_1": (28, 28, 88),
        **{f"cell_{i}": (28, 28, 264) for i in range(0, 4)},
        "reduction_cell_0": (14, 14, 352),
        **{f"cell_{i}": (14, 14, 528) for i in range(4, 8)},
        "reduction_cell_1": (7, 7, 704),
        **{f"cell_{i}": (7, 7, 1056) for i in range(8, 12)},
        "avg_pool": (1056,),
        "predictions": (1000,),
    },
    "large": {
        "cell_stem_1": (42, 42, 336),
        **{f"cell_{i}": (42, 42, 1008) for i in range(0, 6)},
        "reduction_cell_0": (21, 21, 1344),
        **{f"cell_{i}": (21, 21, 2016) for i in range(6, 12)},
        "reduction_cell_1": (11, 11, 2688),
        **{f"cell_{i}": (11, 11, 4032) for i in range(12, 18)},
        "avg_pool": (4032,),
        "predictions": (1000,),
    },
    "cifar": {
        "stem": (32, 32, 96),
        **{f"cell_{i}": (32, 32, 192) for i in range(0, 6)},
        "reduction_cell_0": (16, 16, 256),
        **{f"cell_{i}": (16, 16, 384) for i in range(6, 12)},
        "reduction_cell_1": (8, 8, 512),
        **{f"cell_{i}": (8, 8, 768) for i in range(12, 18)},
        "avg_pool": (768,),
        "predictions": (10,),
    },
}


@functools.cache
def network(name):
    """Returns a network with default arguments, the same one every time."""
    return NETWORKS[name][0](weights=None)


@pytest.mark.parametrize("name", NETWORKS)
def test_number_of_weights(name):
    _, total, trainable, _ = NETWORKS[name]
    model = network(name)
    assert model.count_params() == total
    assert count(model.trainable_weights) == trainable


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_names(name):
    names = [layer.name for layer in network(name).layers]
    assert names == NETWORKS[name][3].split()


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_of_tf_slim(name):
    model = network(name)
    shapes = {
        layer: model.get_layer(layer).output.shape for layer in SHAPES[name]
    }
    assert shapes == {k: (None, *v) for k, v in SHAPES[name].items()}


def test_names_of_optional_layers():
    model = small_network(
        aux_head=True, dropout=0.5, include_preprocessing=True, name="mine"
    )
    assert model.name == "mine"
    assert {layer.name for layer in model.layers} >= {
        "preprocessing",
        "dropout",
        "aux_predictions",
    }
    assert set(model.output) == {"predictions", "aux_predictions"}
    model = small_network(include_top=False, pooling="max")
    assert model.layers[-1].name == "max_pool"


def test_summary_is_short():
    lines = []
    network("large").summary(line_length=100, print_fn=lines.append)
    # Up to two lines and a rule for each of 27 layers, and the frame.
    assert len("\n".join(lines).splitlines()) < 90


@pytest.mark.parametrize(
    "factory, weights, size, channels",
    [
        (NASNetMobile, 4_269_716, 7, 1056),
        (NASNetLarge, 84_916_818, 11, 4032),
        (NASNetCIFAR, 3_383_786 - 7690, 8, 768),
    ],
)
def test_without_top_and_by_default(factory, weights, size, channels):
    model = factory(include_top=False, weights=None)
    assert model.count_params() == weights
    features = run(model, images(1, *model.input_shape[1:]))
    assert features.shape == (1, size, size, channels)
    assert features.min() == 0


@pytest.mark.parametrize("name", ["NASNetMobile", "NASNetLarge"])
def test_arguments_are_those_of_keras_applications(name):
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (
            getattr(keras_nasnet, name),
            getattr(keras.applications, name),
        )
    )
    assert len(theirs) == 8
    assert ours[:8] == theirs


@pytest.mark.parametrize("factory", [NASNetMobile, NASNetCIFAR])
def test_positional_arguments(factory):
    image = keras.Input((64, 48, 3))
    model = factory((64, 48, 3), True, None, image, None, 7, None, "mine")
    assert model.name == "mine"
    assert model.inputs == [image]
    assert model.output_shape == (None, 7)
    head = model.get_layer("predictions")
    assert head.activation is keras.activations.linear

    model = factory((64, 48, 3), False, None, None, "avg")
    assert model.output_shape == (
        None,
        model.get_layer("avg_pool").output.shape[-1],
    )
    assert model.input_shape == (None, 64, 48, 3)


def test_pooling():
    features = small_network(include_top=False)
    randomize(features)
    x = images(2, 32, 32, 3)
    expected = run(features, x)
    for pooling, pool in (("avg", np.mean), ("max", np.max)):
        model = small_network(include_top=False, pooling=pooling)
        model.set_weights(features.get_weights())
        pooled = pool(expected, axis=(1, 2))
        assert relative_difference(run(model, x), pooled) < 1e-5


def test_classifier_activation():
    x = images(2, 32, 32, 3)
    model = randomize(small_network(classes=7, classifier_activation=None))
    logits = run(model, x)
    assert logits.shape == (2, 7)
    for activation in ("softmax", "sigmoid"):
        other = small_network(classes=7, classifier_activation=activation)
        other.set_weights(model.get_weights())
        function = keras.activations.get(activation)
        expected = keras.ops.convert_to_numpy(function(logits))
        assert relative_difference(run(other, x), expected) < 1e-5


def test_input_tensor_may_be_an_output():
    pixels = keras.Input((32, 32, 3), name="pixels")
    halved = keras.layers.Rescaling(0.5)(pixels)
    model = randomize(small_network(input_tensor=halved))
    assert model.inputs == [pixels]
    plain = small_network()
    plain.set_weights(model.get_weights())
    x = images(2, 32, 32, 3)
    assert relative_difference(run(model, x), run(plain, x / 2)) < 1e-5


def test_preprocessing_inside():
    model = randomize(small_network(include_preprocessing=True))
    plain = small_network()
    plain.set_weights(model.get_weights())
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    expected = run(plain, keras_nasnet.preprocess_input(x))
    assert relative_difference(run(model, x), expected) < 1e-5


def test_genotype_in_every_form(tmp_path):
    path = tmp_path / "genotype.json"
    ALL_OPERATIONS.save(path)
    for genotype in (ALL_OPERATIONS.to_dict(), path, str(path)):
        model = NASNet(
            (32, 32, 3),
            genotype=genotype,
            stem="cifar",
            num_cells=1,
            penultimate_filters=64,
        )
        assert model.get_layer("cell_0").genotype == ALL_OPERATIONS.normal
        reduction = model.get_layer("reduction_cell_0").genotype
        assert reduction == ALL_OPERATIONS.reduction


def test_settings_reach_every_layer():
    model = small_network(
        bn_momentum=0.8,
        bn_epsilon=0.02,
        weight_decay=1e-3,
        aux_head=True,
        pool_padding="same",
    )
    layers = list(model._flatten_layers())
    norms = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert {(n.momentum, n.epsilon) for n in norms} == {(0.8, 0.02)}
    cells = [layer for layer in layers if isinstance(layer, Cell)]
    assert {cell.pool_padding for cell in cells} == {"same"}
    kernels = [w for w in model.weights if w.name.endswith("kernel")]
    expected = sum(
        1e-3 / 2 * np.square(keras.ops.convert_to_numpy(k)).sum()
        for k in kernels
    )
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


def test_drop_path_grows_with_depth():
    # TF-slim numbers the cells from 1, stems and reductions included.
    model = small_network((64, 64, 3), "imagenet", drop_path_rate=0.7)
    rates = {
        layer.name: layer.drop_path_rate
        for layer in model.layers
        if isinstance(layer, Cell)
    }
    assert rates == pytest.approx(
        {
            "cell_stem_0": 0.1,
            "cell_stem_1": 0.2,
            "cell_0": 0.3,
            "reduction_cell_0": 0.4,
            "cell_1": 0.5,
            "reduction_cell_1": 0.6,
            "cell_2": 0.7,
        }
    )


def test_one_network_for_photographs_of_all_sizes(imagenet_samples):
    dynamic = NASNetMobile((None, None, 3), include_top=False, weights=None)
    randomize(dynamic)
    photographs = {}
    for path in sorted(imagenet_samples.glob("*.jpg")):
        photograph = keras.utils.img_to_array(keras.utils.load_img(path))
        photographs.setdefault(photograph.shape, photograph)
        if len(photographs) == 3:
            break
    for shape, photograph in photographs.items():
        static = NASNetMobile(shape, include_top=False, weights=None)
        static.set_weights(dynamic.get_weights())
        x = keras_nasnet.preprocess_input(photograph[None])
        assert relative_difference(run(dynamic, x), run(static, x)) < 1e-5


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_any_size_with_top(stem):
    dynamic = randomize(small_network((None, None, 3), stem, ALL_OPERATIONS))
    for height, width in ((32, 32), (33, 32), (47, 66)):
        static = small_network((height, width, 3), stem, ALL_OPERATIONS)
        static.set_weights(dynamic.get_weights())
        x = images(2, height, width, 3)
        assert relative_difference(run(dynamic, x), run(static, x)) < 1e-5


def test_a_batch_equals_its_images():
    model = randomize(small_network(dropout=0.5, drop_path_rate=0.5))
    x = images(5, 32, 32, 3)
    together = run(model, x)
    for i in range(5):
        alone = run(model, x[i : i + 1])
        assert relative_difference(alone, together[i : i + 1]) < 1e-5


def test_nothing_is_dropped_at_inference():
    model = randomize(small_network(drop_path_rate=0.5))
    plain = small_network()
    plain.set_weights(model.get_weights())
    x = images(2, 32, 32, 3)
    assert relative_difference(run(model, x), run(plain, x)) < 1e-6

    trained, again, without = (
        keras.ops.convert_to_numpy(m(x, training=True))
        for m in (model, model, plain)
    )
    assert relative_difference(trained, without) > 1e-3
    assert relative_difference(trained, again) > 1e-3


@pytest.mark.parametrize(
    "stem, size", [("cifar", (32, 32)), ("imagenet", (81, 96))]
)
def test_one_step_trains_every_weight(stem, size):
    model = small_network(
        (*size, 3), stem, aux_head=True, drop_path_rate=0.2, dropout=0.2
    )
    # With a rate of 1 the gradient is what a step subtracts.
    model.compile(
        keras.optimizers.SGD(1.0),
        dict.fromkeys(model.output_names, "sparse_categorical_crossentropy"),
        loss_weights={"predictions": 1.0, "aux_predictions": 0.4},
        # JAX is slow at running layer by layer, others at compiling.
        run_eagerly=keras.config.backend() != "jax",
    )
    before = model.get_weights()
    labels = dict.fromkeys(model.output_names, np.arange(10))
    model.fit(images(10, *size, 3), labels, batch_size=10, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        new = keras.ops.convert_to_numpy(weight)
        assert np.isfinite(new).all(), weight.path
        assert (new != old).any(), f"no gradient for {weight.path}"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    exact = randomize(small_network(aux_head=True, drop_path_rate=0.2))
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = small_network(
            aux_head=True, drop_path_rate=0.2, include_preprocessing=True
        )
        pooled = small_network(include_top=False, pooling="avg")
    finally:
        keras.config.set_dtype_policy(previous)
    assert pooled.output.dtype == "float32"
    for output in model.output.values():
        assert output.dtype == "float32"
    half = policy.removeprefix("mixed_")
    for layer in model.layers:
        if isinstance(layer, Cell):
            assert layer.output.dtype == half
    assert {weight.dtype for weight in model.weights} == {"float32"}

    model.set_weights(exact.get_weights())
    x = images(2, 32, 32, 3)
    outputs = run(model, (x + 1) * 127.5)
    for name, expected in run(exact, x).items():
        assert outputs[name].dtype == "float32"
        assert relative_difference(outputs[name], expected) < 0.1


ERRORS = {
    "two dimensions": ({"input_shape": (64, 64)}, "`input_shape` must be"),
    "channels": ({"input_shape": (64, 64, None)}, "`input_shape` must end in"),
    "channels first": (
        {"input_shape": (3, 64, 64)},
        "`input_shape` must be .*, the channels last",
    ),
    "size": (
        {"input_shape": (31, 64, 3)},
        r"`input_shape` must be at least 32 .* input_shape=\(31, 64, 3\)",
    ),
    "size for CIFAR": (
        {"input_shape": (8, 7, 3), "stem": "cifar"},
        "`input_shape` must be at least 8",
    ),
    "image for tensor": (
        {"input_tensor": images(1, 64, 64, 3)},
        "`input_tensor` must be a Keras tensor",
    ),
    "weights": (
        {"weights": "nowhere.weights.h5"},
        "`weights` must be .* weights='nowhere.weights.h5'",
    ),
    "pooling": ({"pooling": "sum"}, "`pooling` must be"),
    "classes": ({"classes": 0}, "`classes` must be"),
    "genotype": ({"genotype": 3}, "`genotype` must be a Genotype"),
    "cell for genotype": ({"genotype": NASNET_A.normal}, "`genotype` must be"),
    "num_cells": ({"num_cells": 0}, "`num_cells` must be"),
    "filters": (
        {"penultimate_filters": 1000},
        "`penultimate_filters` must be a multiple of 96.*960 or 1056",
    ),
    "multiplier": ({"filter_multiplier": 1.5}, "`filter_multiplier` must be"),
    "stem": ({"stem": "mnist"}, "`stem` must be"),
    "stem_filters": ({"stem_filters": 0}, "`stem_filters` must be"),
    "pool_padding": ({"pool_padding": "valid"}, "`pool_padding` must be"),
    "drop_path_rate": (
        {"drop_path_rate": 1.0},
        r"`drop_path_rate` must be a number in \[0, 1\)",
    ),
    "dropout": ({"dropout": "half"}, "`dropout` must be a number"),
    "weight_decay": ({"weight_decay": -1}, "`weight_decay` must not be"),
    "boolean": ({"num_cells": True}, "`num_cells` must be a positive integer"),
    "named weights": (
        {"weights": "imagenet"},
        "exists for nasnet_large and nasnet_mobile only",
    ),
    "features and pooling": (
        {"features": ["P3"], "include_top": False, "pooling": "avg"},
        "Leave `pooling` out",
    ),
    "class_names without top": (
        {"class_names": ["cat"], "include_top": False},
        "`class_names` .* `include_top=True`",
    ),
    "features with top": (
        {"features": ["P3"]},
        "`features` .* `include_top=False`",
    ),
    "unknown feature": (
        {"features": ["P3", "P9"], "include_top": False},
        "`features` names unknown levels: P9.* has P2, P3, P4, P5",
    ),
    "cell_residual": (
        {
            "cell_residual": True,
            "genotype": Genotype(PASSING_ON, PASSING_ON),
            "penultimate_filters": 256,
        },
        "`cell_residual=True` needs cells that concatenate",
    ),
    "aux_head without top": (
        {"aux_head": True, "include_top": False},
        "`aux_head=True` .* `include_top=True`",
    ),
    "aux_head at any size": (
        {"aux_head": True, "input_shape": (None, None, 3)},
        "auxiliary head needs features of a known height and width",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_argument(name):
    arguments, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        NASNet(**{"input_shape": (64, 64, 3), "num_cells": 1, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [{"pooling": "sum"}, {"input_shape": (16, 16, 3)}, {"num_cells": 0}],
)
def test_arguments_are_checked_before_a_download(arguments, monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", None)
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        NASNetMobile(weights="imagenet", **arguments)


def test_named_weights_need_three_channels():
    with pytest.raises(ValueError, match="3 channels.*`input_shape`"):
        NASNetMobile((64, 64, 4), weights="imagenet")


def test_input_tensor_is_checked_like_input_shape():
    with pytest.raises(ValueError, match="`input_tensor` must be at least 32"):
        NASNet(input_tensor=keras.Input((16, 64, 3)))


def test_channels_first_is_refused():
    previous = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match='"channels_first"'):
            NASNetMobile(weights=None)
    finally:
        keras.config.set_image_data_format(previous)


def test_images_with_other_channels_are_refused():
    model = small_network((None, None, 3))
    with pytest.raises(ValueError, match=r"found shape=\(1, 32, 32, 4\)"):
        model(images(1, 32, 32, 4))


def test_genotype_of_a_missing_or_damaged_file(tmp_path):
    path = tmp_path / "cell.json"
    with pytest.raises(OSError, match="cell.json"):
        NASNet(genotype=path)
    path.write_text(json.dumps({"normal": {}}))
    with pytest.raises(ValueError, match="cell.json.*Missing fields"):
        NASNet(genotype=path)


def count(weights):
    """Returns the number of parameters."""
    return sum(math.prod(weight.shape) for weight in weights)
