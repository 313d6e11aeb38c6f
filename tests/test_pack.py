"""Is a trained network packed without loss, or not at all?"""

import functools
import os

import keras
import numpy as np
import pytest

import keras_nasnet
from tests.commands import run_command
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from weights import files
from weights import pack


@pytest.fixture(autouse=True)
def small_tiny(monkeypatch):
    """Makes NASNetTiny small, which saves a minute."""
    monkeypatch.setattr(
        keras_nasnet,
        "NASNetTiny",
        functools.partial(
            keras_nasnet.NASNetTiny, num_cells=1, penultimate_filters=48
        ),
    )


def trained(**kwargs):
    """A network whose probabilities are neither 0 nor 1."""
    model = randomize(keras_nasnet.NASNetTiny(weights=None, **kwargs))
    kernel = model.get_layer("predictions").kernel
    kernel.assign(kernel * 0.3)
    return model


def assert_refused(model, tmp_path, message):
    with pytest.raises(ValueError) as error:
        pack.pack(model, tmp_path / "small.weights.h5")
    assert message in str(error.value)
    assert os.listdir(tmp_path) == []


def test_command(tmp_path, capsys):
    model = trained()
    model.save(tmp_path / "final.keras")
    out = tmp_path / "small.weights.h5"
    run_command(pack, f"--model={tmp_path / 'final.keras'}", f"--out={out}")
    wrote, sha, difference = capsys.readouterr().out.splitlines()
    assert wrote == f"Wrote {out}: {out.stat().st_size:,} bytes."
    assert sha == f"SHA-256: {files.digest(out, 'sha256')}"
    assert difference.startswith("On 256 random images a probability changes")
    assert set(os.listdir(tmp_path)) == {"final.keras", out.name}
    assert keras.config.dtype_policy().name == "float32"

    ours = keras_nasnet.NASNetTiny(weights=str(out))
    keras_own = keras_nasnet.NASNetTiny(weights=None)
    keras_own.load_weights(out)
    pictures = images(4, 32, 32, 3)
    expected = run(model, pictures)
    assert np.ptp(expected, axis=0).max() > 0.01
    for loaded in (ours, keras_own):
        assert relative_difference(run(loaded, pictures), expected) < 0.01
    for weight, original in zip(ours.weights, model.weights):
        kept = np.asarray(original)
        if "predictions" not in weight.path:
            kept = kept.astype("float16")
        np.testing.assert_array_equal(np.asarray(weight), kept)


def test_difference():
    model = trained()
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    assert pack.compare(model, other) == (0, 0)
    bias = other.get_layer("predictions").bias
    bias.assign([9] + [0] * 9)
    probability, other_class = pack.compare(model, other)
    assert 0.5 < probability <= 1
    assert 0 < other_class <= pack.NUM_IMAGES


def test_weights_too_large_for_16_bits(tmp_path):
    model = trained()
    gamma = model.get_layer("cell_0").weights[0]
    gamma.assign(gamma + 1e5)
    assert_refused(model, tmp_path, "does not fit into 16 bits")


def test_another_network(tmp_path):
    assert_refused(trained(num_cells=2), tmp_path, "does not fit nasnet_tiny")
    assert_refused(trained(aux_head=True), tmp_path, "aux_predictions")
