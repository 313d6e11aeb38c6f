"""Networks outlive the process that built them."""

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_nasnet import NASNetCIFAR
from keras_nasnet import NASNetLarge
from keras_nasnet import NASNetMobile
from tests.conftest import ROOT
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network

# What a user does who knows nothing but the path.
LOAD_AND_RUN = """
import sys
import keras
import keras_nasnet
import numpy as np
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    outputs = model(np.load(f"{path}.npy"), training=False)
    arrays = map(keras.ops.convert_to_numpy, keras.tree.flatten(outputs))
    np.savez(f"{path}.npz", *arrays)
"""

# name -> (network, image size)
NETWORKS = {
    "mobile": (lambda: NASNetMobile(weights=None), (224, 224)),
    "cifar": (
        lambda: NASNetCIFAR(num_cells=1, penultimate_filters=96),
        (32, 32),
    ),
    "with everything": (
        lambda: small_network(
            aux_head=True,
            dropout=0.2,
            drop_path_rate=0.2,
            weight_decay=1e-3,
            include_preprocessing=True,
            pool_padding="same",
            class_names=list("abcdefghij"),
        ),
        (32, 32),
    ),
    "all operations": (
        lambda: small_network((None, None, 3), genotype=ALL_OPERATIONS),
        (33, 32),
    ),
    "features": (
        lambda: small_network(include_top=False, features=["P0", "P2"]),
        (32, 32),
    ),
}

# Networks with the same trunk.
VARIANTS = {
    "without top": {"include_top": False},
    "with auxiliary head": {"aux_head": True},
    "with drop path": {"drop_path_rate": 0.2},
    "with preprocessing": {"include_preprocessing": True},
    "for any size": {"input_shape": (None, None, 3), "dropout": 0.5},
}


@functools.cache
def network(name):
    """Returns a network, images and what it makes of them."""
    build, size = NETWORKS[name]
    model = randomize(build())
    inputs = images(2, *size, 3)
    return model, inputs, run(model, inputs)


def assert_same_outputs(outputs, expected):
    outputs = keras.tree.flatten(outputs)
    expected = keras.tree.flatten(expected)
    for x, y in zip(outputs, expected, strict=True):
        assert relative_difference(x, y) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_config(name):
    model, inputs, expected = network(name)
    config = json.dumps(model.get_config())
    copy = type(model).from_config(json.loads(config))
    assert json.dumps(copy.get_config()) == config
    copy.set_weights(model.get_weights())
    assert_same_outputs(run(copy, inputs), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_clone(name):
    model, inputs, expected = network(name)
    clone = keras.models.clone_model(model)
    assert clone.weights[0] is not model.weights[0]
    clone.set_weights(model.get_weights())
    assert_same_outputs(run(clone, inputs), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_file(name, tmp_path):
    model, inputs, expected = network(name)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    build, _ = NETWORKS[name]
    other = build()
    other.load_weights(path)
    assert_same_outputs(run(other, inputs), expected)


def test_model_files_in_a_new_process(tmp_path):
    paths = {name: tmp_path / f"{name}.keras" for name in NETWORKS}
    for name, path in paths.items():
        model, inputs, _ = network(name)
        model.save(path)
        np.save(f"{path}.npy", inputs)
    subprocess.run(
        [sys.executable, "-c", LOAD_AND_RUN, *paths.values()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    for name, path in paths.items():
        with np.load(f"{path}.npz") as outputs:
            assert_same_outputs(list(outputs.values()), network(name)[2])


@pytest.mark.slow
def test_large(tmp_path):
    model = NASNetLarge(weights=None)
    path = tmp_path / "large.keras"
    weights_path = tmp_path / "large.weights.h5"
    model.save(path)
    model.save_weights(weights_path)
    models = [
        keras.models.load_model(path),
        NASNetLarge(weights=weights_path),
    ]
    for rebuilt in (
        keras.models.clone_model(model),
        keras.Model.from_config(model.get_config()),
    ):
        rebuilt.set_weights(model.get_weights())
        models.append(rebuilt)
    # pytest keeps the folder, and these are a third of a gigabyte each.
    path.unlink()
    weights_path.unlink()
    for loaded in models:
        assert loaded.output_names == model.output_names
        for a, b in zip(loaded.weights, model.weights, strict=True):
            assert a.path == b.path
            assert np.array_equal(a, b), a.path


@pytest.fixture(scope="module")
def plain():
    return randomize(small_network())


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_share_their_weight_files(plain, variant, tmp_path):
    path = tmp_path / "model.weights.h5"
    plain.save_weights(path)
    model = small_network(weights=path, **VARIANTS[variant])
    assert shared_weights(model, plain) >= count_without(plain, "predictions")

    randomize(model, seed=1).save_weights(path)
    loaded = small_network(weights=path)
    assert shared_weights(loaded, model) >= count_without(plain, "predictions")


def shared_weights(model, other):
    """Counts the weights with the same name, which have to be equal."""
    values = {weight.path: weight for weight in other.weights}
    shared = [weight for weight in model.weights if weight.path in values]
    for weight in shared:
        assert np.array_equal(weight, values[weight.path]), weight.path
    return len(shared)


def count_without(model, layer):
    """Counts the weights outside a layer."""
    return len(model.weights) - len(model.get_layer(layer).weights)


def test_precision_survives_saving(tmp_path):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_network(aux_head=True)
    finally:
        keras.config.set_dtype_policy(previous)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # All but the input, which computes nothing.
    policies, loaded_policies = (
        [
            sublayer.dtype_policy.name
            for layer in m.layers[1:]
            for sublayer in layer._flatten_layers()
        ]
        for m in (model, loaded)
    )
    assert loaded_policies == policies
    assert set(policies) == {"mixed_bfloat16", "float32"}
