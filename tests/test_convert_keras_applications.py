"""Does every weight of keras.applications find its place, or an error?"""

import os

import h5py
import keras
import numpy as np
import pytest
from absl import flags

import keras_nasnet
from keras_nasnet.weights import convert_keras_applications
from keras_nasnet.weights import files
from tests import official_files
from tests.commands import run_command
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run


@pytest.fixture(scope="module")
def official():
    """Small networks of keras.applications in place of the real ones."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield official_files.shrink(monkeypatch)


@pytest.mark.parametrize(
    "network, num_cells, count",
    [("nasnet_mobile", 4, 389), ("nasnet_large", 6, 533)],
)
def test_every_layer_has_one_name(network, num_cells, count):
    arguments = convert_keras_applications.OFFICIAL_ARGUMENTS[network]
    assert arguments["num_blocks"] == num_cells
    assert convert_keras_applications.NETWORKS[count] == (network, True)
    assert convert_keras_applications.NETWORKS[count - 1] == (network, False)
    # All the cells, but narrow ones.
    model = official_files.builder_module().NASNet(
        (32, 32, 3), weights=None, **{**arguments, "penultimate_filters": 96}
    )
    theirs = [layer.name for layer in model.layers if layer.weights]
    assert len(theirs) == count
    names = convert_keras_applications.layer_names(num_cells)
    assert set(theirs) <= set(names.values())
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("network", official_files.FACTORIES)
def test_copied_network_gives_the_same_scores(official, network):
    source = official[network]
    factory = getattr(keras_nasnet, official_files.FACTORIES[network])
    model = factory((64, 64, 3), weights=None)
    convert_keras_applications.copy_weights(source, model)
    pictures = images(2, 64, 64, 3)
    difference = relative_difference(
        run(model, pictures), run(source, pictures)
    )
    assert difference < 1e-5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"num_cells": 2},
            "adjust_bn_2/beta is unknown",
        ),
        (
            {"penultimate_filters": 384},
            "adjust_bn_0/beta has shape (8,), expected (16,) of "
            "cell_0/fit_input_1/bn/beta",
        ),
        (
            {"classes": 7},
            "predictions/bias has shape (1000,), expected (7,)",
        ),
        (
            {"aux_head": True},
            "aux_predictions/bn_0/beta is not in the source",
        ),
    ],
)
def test_network_that_does_not_fit(official, arguments, message):
    source = official["nasnet_mobile"]
    model = keras_nasnet.NASNetMobile((96, 96, 3), weights=None, **arguments)
    before = randomize(model, seed=1).get_weights()
    with pytest.raises(ValueError) as error:
        convert_keras_applications.copy_weights(source, model)
    assert message in str(error.value)
    assert (
        f"NASNet with {len(source.weights)} weights does not fit "
        f"nasnet_mobile with {len(before)}: " in str(error.value)
    )
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_file_of_another_network(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = [b"kernel:0"]
    with pytest.raises(ValueError) as error:
        convert_keras_applications.read(path)
    assert str(error.value) == (
        f"{path} has 1 layers with weights. Expected 389 (NASNetMobile) or "
        "533 (NASNetLarge), one less without top."
    )


def test_command(official, tmp_path, capsys):
    source = official["nasnet_mobile"]
    file = tmp_path / "NASNet-mobile.h5"
    official_files.save_official(source, file)
    out = tmp_path / "converted.weights.h5"
    run_command(convert_keras_applications, f"--file={file}", f"--out={out}")
    output = capsys.readouterr().out
    assert f"Wrote {out}: nasnet_mobile with classifier." in output
    assert set(os.listdir(tmp_path)) == {file.name, out.name}
    model = keras_nasnet.NASNetMobile((64, 64, 3), weights=out)
    pictures = images(2, 64, 64, 3)
    difference = relative_difference(
        run(model, pictures), run(source, pictures)
    )
    assert difference < 1e-5


def test_output_needs_the_name_that_keras_reads(tmp_path):
    out = tmp_path / "converted.h5"
    with pytest.raises(flags.IllegalFlagValueError, match="in .weights.h5"):
        run_command(convert_keras_applications, "--file=x.h5", f"--out={out}")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="must end in `.weights.h5`"):
        files.save_weights(model, out)
    assert not os.listdir(tmp_path)
