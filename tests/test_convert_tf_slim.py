"""Do TF-slim's checkpoints give TF-slim's logits?"""

import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import h5py
import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import pretrained
from keras_nasnet.weights import convert_tf_slim
from tests import slim_reference
from tests.networks import images
from tests.networks import randomize
from tests.networks import run

pytest.importorskip("tensorflow")

ROOT = pathlib.Path(__file__).parents[1]
FACTORIES = {
    "mobile": keras_nasnet.NASNetMobile,
    "large": keras_nasnet.NASNetLarge,
    "cifar": keras_nasnet.NASNetCIFAR,
}
PUBLISHED = {
    "mobile": slim_reference.MOBILE,
    "large": slim_reference.LARGE,
    "cifar": slim_reference.CIFAR,
}
# The same networks, but narrow and with a third or less of the cells. Image
# sizes stay even and odd at different reductions.
SMALL = {
    "mobile": PUBLISHED["mobile"]._replace(
        num_cells=6, num_conv_filters=8, image_size=96
    ),
    "large": PUBLISHED["large"]._replace(
        num_cells=6, num_conv_filters=8, image_size=131
    ),
    "cifar": PUBLISHED["cifar"]._replace(
        num_cells=3, num_conv_filters=4, stem_filters=12
    ),
}


def our_network(name, **kwargs):
    """Builds our side of a small network, ending in logits."""
    network = SMALL[name]
    return FACTORIES[name](
        **{
            "input_shape": (network.image_size, network.image_size, 3),
            "weights": None,
            "classifier_activation": None,
            "num_cells": network.num_cells // 3,
            "penultimate_filters": 24 * network.num_conv_filters,
            **kwargs,
        }
    )


def assert_logits(outputs, expected):
    """Compares logits, of 1000 classes with 1001 too, to 1e-4 of their spread.

    The background is the first of 1001 classes.
    """
    expected = expected[:, expected.shape[1] - outputs.shape[1] :]
    assert np.isfinite(expected).all() and expected.std() > 0
    # Two images of which each gives logits of its own.
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * expected.std()
    assert np.abs(outputs - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    "name, variables, parameters, aux_parameters",
    [
        ("mobile", 1126, 5_327_773, 2_413_801),
        ("large", 1546, 88_953_851, 4_570_345),
        ("cifar", 1424, 3_383_786, 1_633_290),
    ],
)
def test_reference_has_the_published_size(
    name, variables, parameters, aux_parameters
):
    shapes = slim_reference.shapes(PUBLISHED[name])
    inference = slim_reference.without_aux_head(shapes)
    assert (len(inference), len(shapes)) == (variables, variables + 12)
    assert sum(map(math.prod, inference.values())) == parameters
    total = sum(map(math.prod, shapes.values()))
    assert total == parameters + aux_parameters


@pytest.mark.parametrize("name", SMALL)
def test_both_heads_give_slims_logits(name, tmp_path):
    network = SMALL[name]
    values = slim_reference.variables(network)
    prefix = slim_reference.save(values, tmp_path / "model.ckpt")
    pictures = images(2, network.image_size, network.image_size, 3)
    expected = slim_reference.logits(network, values, pictures)
    model = our_network(name, weights=prefix, aux_head=True)
    outputs = run(model, pictures)
    assert_logits(outputs["predictions"], expected[0])
    assert_logits(outputs["aux_predictions"], expected[1])


def test_mobile_at_full_size(tmp_path):
    values = slim_reference.variables(slim_reference.MOBILE)
    prefix = slim_reference.save(values, tmp_path / "model.ckpt")
    model = keras_nasnet.NASNetMobile(
        (64, 75, 3), weights=prefix, classifier_activation=None
    )
    assert len(model.weights) == 1126
    pictures = images(2, 64, 75, 3)
    expected, _ = slim_reference.logits(
        slim_reference.MOBILE, slim_reference.without_aux_head(values), pictures
    )
    assert expected.shape == (2, 1001)
    assert_logits(run(model, pictures), expected)


# What follows is the same for all networks and tried on the smallest one.
SMALLEST = SMALL["cifar"]


@pytest.fixture(scope="module")
def small_values():
    return slim_reference.without_aux_head(slim_reference.variables(SMALLEST))


@pytest.fixture(scope="module")
def saved(small_values, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("checkpoint") / "model.ckpt-250000"
    slim_reference.save(small_values, prefix)
    return prefix


@pytest.fixture(scope="module")
def built():
    return our_network("cifar", pool_padding="same")


@pytest.fixture
def model(built):
    return randomize(built, seed=1)


@pytest.fixture(scope="module")
def small_pictures():
    return images(2, 32, 32, 3)


def expected_logits(values, pictures):
    return slim_reference.logits(SMALLEST, values, pictures)[0]


def test_prefix_folder_and_tar(
    model, saved, small_values, small_pictures, tmp_path
):
    tar = tmp_path / "nasnet.tar.gz"
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(saved.parent, "nasnet-a")
    expected = expected_logits(small_values, small_pictures)
    for checkpoint in (saved, saved.parent, tar, str(tar)):
        randomize(model, seed=1)
        convert_tf_slim.convert(checkpoint, model)
        assert_logits(run(model, small_pictures), expected)


def test_aux_head_is_left_out_without_one(
    model, small_values, small_pictures, tmp_path
):
    values = slim_reference.variables(SMALLEST)
    prefix = slim_reference.save(values, tmp_path / "model.ckpt")
    done = convert_tf_slim.convert(prefix, model)
    assert done.copied == len(small_values) == len(model.weights)
    assert set(done.left_out) == values.keys() - small_values.keys()
    assert len(done.left_out) == 12
    assert_logits(
        run(model, small_pictures),
        expected_logits(small_values, small_pictures),
    )


def test_averages(model, small_values, small_pictures, tmp_path):
    rng = np.random.default_rng(2)
    averages = {
        name: value + rng.normal(0, 0.02, value.shape).astype("float32")
        for name, value in small_values.items()
        if "moving_" not in name
    }
    averages["cell_0/1x1/weights"][0, 0, 0, 0] += 3
    prefix = slim_reference.save(
        slim_reference.with_training_state(small_values, averages),
        tmp_path / "model.ckpt",
    )
    largest = max(
        np.abs(small_values[name] - averages[name]).max() for name in averages
    )
    for ema, chosen in (
        (False, small_values),
        (True, {**small_values, **averages}),
    ):
        done = convert_tf_slim.convert(prefix, model, ema)
        assert done.ema_difference == pytest.approx(largest)
        assert done.copied == len(small_values) and not done.left_out
        assert_logits(
            run(model, small_pictures), expected_logits(chosen, small_pictures)
        )


def test_averages_alone(model, small_values, small_pictures, tmp_path):
    averages = {f"{k}{slim_reference.EMA}": v for k, v in small_values.items()}
    prefix = slim_reference.save(averages, tmp_path / "model.ckpt")
    done = convert_tf_slim.convert(prefix, model)
    assert done.ema_difference is None
    assert_logits(
        run(model, small_pictures),
        expected_logits(small_values, small_pictures),
    )


def test_classifier_under_its_other_name(
    model, small_values, small_pictures, tmp_path
):
    renamed = {
        name.replace("/FC/", "/fully_connected/"): value
        for name, value in small_values.items()
    }
    assert renamed.keys() != small_values.keys()
    prefix = slim_reference.save(renamed, tmp_path / "model.ckpt")
    convert_tf_slim.convert(prefix, model)
    assert_logits(
        run(model, small_pictures),
        expected_logits(small_values, small_pictures),
    )


def test_pool_padding_follows_the_weights(saved, small_values, small_pictures):
    settings = {
        "stem": "cifar",
        "num_cells": 1,
        "penultimate_filters": 96,
        "classes": 10,
        "classifier_activation": None,
        "bn_epsilon": 1e-5,
    }
    expected = expected_logits(small_values, small_pictures)
    model = keras_nasnet.NASNet((32, 32, 3), weights=saved, **settings)
    assert_logits(run(model, small_pictures), expected)
    zero = keras_nasnet.NASNet(
        (32, 32, 3), weights=saved, pool_padding="zero", **settings
    )
    difference = np.abs(run(zero, small_pictures) - expected).max()
    assert difference > 0.01 * expected.std()
    untrained = keras_nasnet.NASNet((32, 32, 3), **settings)
    assert untrained.get_layer("cell_0").pool_padding == "zero"


def test_other_classes_take_the_trunk(
    saved, small_values, small_pictures, caplog
):
    model = our_network("cifar", weights=saved, classes=7)
    (line,) = caplog.messages
    assert "no weights for predictions" in line
    assert "7 classes here, 10 there" in line
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    outputs = run(features, small_pictures)
    outputs = outputs @ small_values["final_layer/FC/weights"]
    outputs += small_values["final_layer/FC/biases"]
    assert_logits(outputs, expected_logits(small_values, small_pictures))
    assert np.std(model.get_layer("predictions").kernel) > 0


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"cell_0/1x1/weights": None},
            "cell_0/fit_input_0/conv/kernel is not in the source",
        ),
        (
            {"cell_1/final_path_bn/moving_variance": None},
            "cell_1/fit_input_1/bn/moving_variance is not in the source",
        ),
        (
            {"cell_0/comb_iter_2/right/bn_1/gamma": None},
            "cell_0/block_2_right/bn/gamma is not in the source",
        ),
        (
            {"final_layer/FC/biases": None},
            "predictions/bias is not in the source",
        ),
        (
            {"cell_3/1x1/weights": (1, 1, 96, 16)},
            "cell_3/1x1/weights is not in the model "
            "(as cell_3/fit_input_0/conv/kernel)",
        ),
        (
            {"cell_0/spare/weights": (1, 1, 4, 4)},
            "cell_0/spare/weights is unknown",
        ),
        (
            {"cell_0/1x1/biases_2": (4,)},
            "cell_0/1x1/biases_2 is unknown",
        ),
        (
            {"cell_0/1x1/weights": (1, 1, 12, 5)},
            "cell_0/1x1/weights has shape (1, 1, 12, 5), expected "
            "(1, 1, 12, 4) of cell_0/fit_input_0/conv/kernel",
        ),
        (
            {"cell_0/beginning_bn/gamma": (5,)},
            "cell_0/beginning_bn/gamma has shape (5,), expected (4,)",
        ),
        (
            {"final_layer/fully_connected/biases": (10,)},
            "are both predictions/bias",
        ),
        (
            {"cell_1/prev_bn/beta": (8,)},
            "are both cell_1/fit_input_1/bn/beta",
        ),
    ],
)
def test_variables_that_do_not_fit(
    model, small_values, change, message, tmp_path
):
    changed = {**small_values}
    for name, shape in change.items():
        if shape is None:
            del changed[name]
        else:
            changed[name] = np.ones(shape, "float32")
    prefix = slim_reference.save(changed, tmp_path / "model.ckpt")
    assert_refused(model, prefix, message)


def test_another_network(model, tmp_path):
    values = slim_reference.variables(SMALLEST._replace(num_cells=6))
    prefix = slim_reference.save(values, tmp_path / "model.ckpt")
    assert_refused(model, prefix, "more.")


@pytest.mark.parametrize("file", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_checkpoint(model, saved, file, share, tmp_path):
    shutil.copytree(saved.parent, tmp_path, dirs_exist_ok=True)
    prefix = tmp_path / saved.name
    path = f"{prefix}.{file}"
    os.truncate(path, int(share * os.path.getsize(path)))
    assert_refused(
        model, prefix, f"{prefix} is not a complete TensorFlow checkpoint"
    )


def test_checkpoint_without_data(model, saved, tmp_path):
    shutil.copy(f"{saved}.index", tmp_path)
    assert_refused(model, tmp_path, f"{tmp_path} is not a complete TensorFlow")


def test_truncated_tar(model, saved, tmp_path):
    tar = tmp_path / "nasnet.tar.gz"
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(saved.parent, "nasnet-a")
    os.truncate(tar, os.path.getsize(tar) // 2)
    assert_refused(model, tar, f"{tar} is not a complete tar file")


def test_tar_that_points_outside(
    model, saved, small_values, small_pictures, tmp_path, monkeypatch
):
    tar = tmp_path / "nasnet.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(saved.parent, "../nasnet-a")
    inside = tmp_path / "temporary"
    inside.mkdir()
    monkeypatch.setattr(convert_tf_slim.tempfile, "tempdir", str(inside))
    seen = []
    prefix = convert_tf_slim._prefix

    def look(*args):
        seen.append(sorted(path.name for path in inside.iterdir()))
        return prefix(*args)

    monkeypatch.setattr(convert_tf_slim, "_prefix", look)
    convert_tf_slim.convert(tar, model)
    expected = expected_logits(small_values, small_pictures)
    assert_logits(run(model, small_pictures), expected)
    # One temporary folder each, and nothing beside it.
    assert seen and all("nasnet-a" not in names for names in seen)
    assert sorted(p.name for p in tmp_path.iterdir()) == [tar.name, inside.name]


def test_text_file_as_tar(model, tmp_path):
    tar = tmp_path / "nasnet.tar.gz"
    tar.write_text("404 not found")
    assert_refused(model, tar, f"{tar} is not a complete tar file")


def test_no_checkpoint_and_two(model, saved, tmp_path):
    must = "must hold one checkpoint, that is one `.index` file. Found"
    assert_refused(model, tmp_path, f"{tmp_path} {must} 0")
    tar = tmp_path / "empty.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(__file__, "readme.txt")
    assert_refused(model, tar, f"{tar} {must} 0")
    folder = shutil.copytree(saved.parent, tmp_path / "two")
    shutil.copy(f"{saved}.index", folder / "model.ckpt-1.index")
    assert_refused(model, folder, f"{folder} {must} 2")


def assert_refused(model, checkpoint, message):
    """Checks that nothing is converted, and that the error says why."""
    before = model.get_weights()
    # The way that a factory takes, and the converter's own.
    for load in (
        lambda: pretrained.load(model, checkpoint),
        lambda: convert_tf_slim.convert(checkpoint, model),
    ):
        with pytest.raises(ValueError) as error:
            load()
        assert message in str(error.value)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_command(tmp_path):
    values = slim_reference.variables(slim_reference.CIFAR)
    stem = "l1_stem_3x3/weights"
    averages = {stem: values[stem] + 0.25}
    slim_reference.save(
        slim_reference.with_training_state(values, averages),
        tmp_path / "model.ckpt",
    )
    out = tmp_path / "cifar.weights.h5"
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "weights.convert_tf_slim",
            f"--checkpoint={tmp_path}",
            "--network=cifar",
            "--ema",
            f"--out={out}",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0
    assert f"Wrote {out}: 1424 variables." in process.stdout
    assert "moving average: 0.25" in process.stdout
    assert "Left out: aux_11/aux_logits/" in process.stdout
    # Not the CIFAR network, which pads like TF-slim by default.
    model = keras_nasnet.NASNet(
        (32, 32, 3),
        weights=out,
        stem="cifar",
        num_cells=6,
        penultimate_filters=768,
        classes=10,
    )
    assert model.get_layer("cell_0").pool_padding == "same"
    assert sorted(os.listdir(tmp_path)) == [
        "cifar.weights.h5",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
    ]
    with h5py.File(out) as file:
        kernel = file["layers/stem/steps/conv2d/vars/0"][:]
    np.testing.assert_array_equal(kernel, averages[stem])
