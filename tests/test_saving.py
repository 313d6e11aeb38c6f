"""Networks outlive the process that built them."""

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
    outputs = keras.tree.flatten(model.predict_on_batch(np.load(f"{path}.npy")))
    np.savez(f"{path}.npz", *outputs)
"""

# name -> (network, image size)
NETWORKS = {
    "mobile": (lambda: NASNetMobile(weights=None), (224, 224)),
    "cifar": (
        lambda: NASNetCIFAR(num_cells=2, penultimate_filters=192),
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
        lambda: small_network((None, None, 3), "imagenet", ALL_OPERATIONS),
        (65, 64),
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


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """Name, model, input and outputs."""
    build, size = NETWORKS[request.param]
    model = randomize(build())
    inputs = images(2, *size, 3)
    return request.param, model, inputs, run(model, inputs)


def assert_same_outputs(outputs, expected):
    outputs = keras.tree.flatten(outputs)
    expected = keras.tree.flatten(expected)
    for x, y in zip(outputs, expected, strict=True):
        assert relative_difference(x, y) < 1e-5


def test_config(network):
    _, model, inputs, expected = network
    config = json.loads(json.dumps(model.get_config()))
    copy = type(model).from_config(config)
    assert json.loads(json.dumps(copy.get_config())) == config
    copy.set_weights(model.get_weights())
    assert_same_outputs(run(copy, inputs), expected)


def test_clone(network):
    _, model, inputs, expected = network
    clone = keras.models.clone_model(model)
    assert clone.weights[0] is not model.weights[0]
    clone.set_weights(model.get_weights())
    assert_same_outputs(run(clone, inputs), expected)


def test_weight_file(network, tmp_path):
    name, model, inputs, expected = network
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    build, _ = NETWORKS[name]
    other = build()
    other.load_weights(path)
    assert_same_outputs(run(other, inputs), expected)


def test_model_file_in_a_new_process(network, tmp_path):
    _, model, inputs, expected = network
    path = tmp_path / "model.keras"
    model.save(path)
    np.save(f"{path}.npy", inputs)
    subprocess.run(
        [sys.executable, "-c", LOAD_AND_RUN, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    outputs = np.load(f"{path}.npz")
    assert_same_outputs([outputs[name] for name in outputs.files], expected)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_large(tmp_path, suffix):
    model = NASNetLarge(weights=None)
    path = tmp_path / f"large{suffix}"
    if suffix == ".keras":
        model.save(path)
        loaded = keras.models.load_model(path)
    else:
        model.save_weights(path)
        loaded = NASNetLarge(weights=path)
    # pytest keeps the folder, and this is a third of a gigabyte.
    path.unlink()
    assert loaded.output_names == model.output_names
    for a, b in zip(loaded.weights, model.weights, strict=True):
        assert a.path == b.path
        assert keras.ops.array_equal(a, b)


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
    """Counts the weights with the same name, which have to be equal.

    Except the classifier's if one of the models has none.
    """
    values = {weight.path: weight for weight in other.weights}
    shared = [weight for weight in model.weights if weight.path in values]
    for weight in shared:
        assert keras.ops.array_equal(weight, values[weight.path]), weight.path
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
    policies = [
        {layer.path: layer.dtype_policy.name for layer in m._flatten_layers()}
        for m in (model, loaded)
    ]
    assert policies[0] == policies[1]
    assert set(policies[0].values()) == {"mixed_bfloat16", "float32"}
