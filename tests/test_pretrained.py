"""Do pretrained weights load from everywhere, or raise - never at random?"""

import os
import shutil
import subprocess
import sys
import threading

import h5py
import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import pretrained
from keras_nasnet.weights import files
from tests import official_files
from tests.conftest import ROOT
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network

MOBILE = "NASNet-mobile.h5"
MOBILE_NO_TOP = "NASNet-mobile-no-top.h5"
LARGE = "NASNet-large.h5"


def assert_equal_outputs(model, source, *shape):
    pictures = images(2, *shape, 3)
    outputs, expected = run(model, pictures), run(source, pictures)
    # The images differ, and no softmax hides by how much.
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * expected.max()
    assert relative_difference(outputs, expected) < 1e-5


def assert_same_weights(weights, expected):
    assert len(weights) == len(expected) > 0
    for weight, other in zip(weights, expected):
        np.testing.assert_array_equal(weight, other)


def assert_fresh(layer):
    """Checks that a classifier has the weights of one just built."""
    kernel, bias = layer.get_weights()
    assert kernel.std() > 0 and not bias.any()


def assert_refused(network, path, message):
    """Checks that loading raises and leaves the network as it was."""
    before = network.get_weights()
    with pytest.raises(ValueError) as error:
        pretrained.load(network, path)
    assert message in str(error.value)
    assert_same_weights(network.get_weights(), before)


def trunk(model):
    """Returns a network up to the pooled features."""
    return keras.Model(model.input, model.get_layer("avg_pool").output)


def go_offline(monkeypatch):
    # A port that nothing listens on.
    monkeypatch.setenv(pretrained.MIRROR_VARIABLE, "http://127.0.0.1:1")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder of official files of small networks; see `shrink`."""
    folder = tmp_path_factory.mktemp("official")
    with pytest.MonkeyPatch.context() as monkeypatch:
        sources = official_files.shrink(monkeypatch)
        official_files.save_official(sources["nasnet_mobile"], folder / MOBILE)
        official_files.save_official(
            official_files.without_top(sources["nasnet_mobile"]),
            folder / MOBILE_NO_TOP,
        )
        official_files.save_official(sources["nasnet_large"], folder / LARGE)
        official_files.expect_files(monkeypatch, folder)
        yield folder, sources


@pytest.fixture
def folder(official):
    return official[0]


@pytest.fixture
def source(official):
    return official[1]["nasnet_mobile"]


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty cache, and no way to get anything."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    go_offline(monkeypatch)
    return tmp_path / "home" / "models"


@pytest.fixture
def mirror(folder, models, monkeypatch):
    """A server of the official files in place of the internet."""
    with official_files.Mirror(folder) as mirror:
        monkeypatch.setenv(pretrained.MIRROR_VARIABLE, mirror.url)
        yield mirror


def ours(*args, **kwargs):
    """Builds a network of five cells that ends in logits."""
    return small_network(*args, **{"classifier_activation": None, **kwargs})


def mobile(*args, **kwargs):
    """Builds the small network, at the size that its source has."""
    return keras_nasnet.NASNetMobile(*(args or [(64, 64, 3)]), **kwargs)


def test_large(official, mirror):
    model = keras_nasnet.NASNetLarge((64, 64, 3))
    assert mirror.requests == [f"/{LARGE}"]
    assert_equal_outputs(model, official[1]["nasnet_large"], 64, 64)


def test_offline_error_says_which_file_to_put_where(
    models, folder, source, caplog
):
    models.mkdir(parents=True)
    official = models / "nasnet_mobile.h5"
    official.write_text("half a file")
    with pytest.raises(OSError) as error:
        mobile()
    (line,) = caplog.messages
    assert f"{official} does not have the MD5" in line
    expected = files.digest(folder / MOBILE, "md5")
    assert "Could not get http://127.0.0.1:1/NASNet-mobile.h5: " in (
        str(error.value)
    )
    assert str(error.value).endswith(
        f"put the file (MD5 {expected}) at {official}, or set "
        "KERAS_NASNET_MIRROR to the URL of a folder that has it."
    )
    assert os.listdir(models) == [official.name]
    # And that works.
    shutil.copy(folder / MOBILE, official)
    assert_equal_outputs(mobile(), source, 64, 64)


def test_published_address(models, monkeypatch):
    """Without a mirror the file comes from where it is published."""
    asked = []

    def get_file(name, url, **_):
        asked.append(url)
        raise Exception("no network")

    monkeypatch.delenv(pretrained.MIRROR_VARIABLE)
    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(OSError, match="Could not get .*: no network"):
        mobile()
    base = "https://storage.googleapis.com/tensorflow/keras-applications/"
    assert asked == [f"{base}nasnet/{MOBILE}"]


def test_wrong_hash(mirror, models, monkeypatch):
    folder = models.parent / "others"
    folder.mkdir(parents=True)
    (folder / MOBILE).write_text("another file")
    official_files.expect_files(monkeypatch, folder)
    with pytest.raises(OSError, match="file hash does not match"):
        mobile()
    assert os.listdir(models) == []


def test_truncated_download(mirror, models):
    mirror.share = 0.5
    with pytest.raises(OSError, match="Could not get"):
        mobile()
    assert mirror.requests == [f"/{MOBILE}"]
    assert os.listdir(models) == []


def test_damaged_files_are_made_anew(mirror, models, source, caplog):
    models.mkdir(parents=True)
    (models / "nasnet_mobile.h5").write_text("half a file")
    mobile()
    (line,) = caplog.messages
    assert "nasnet_mobile.h5 does not have the MD5" in line
    assert mirror.requests == [f"/{MOBILE}"]
    (cached,) = models.glob("*.weights.h5")
    whole = cached.read_bytes()
    # A single bit, which HDF5 does not notice.
    middle = len(whole) // 2
    flipped = bytes([whole[middle] ^ 1])
    cached.write_bytes(whole[:middle] + flipped + whole[middle + 1 :])
    caplog.clear()
    model = mobile()
    assert caplog.messages == [f"{cached} is damaged and is made anew."]
    assert_equal_outputs(model, source, 64, 64)
    (cached,) = models.glob("*.weights.h5")
    assert files.digest(cached, "sha256") in cached.name
    assert len(os.listdir(models)) == 2
    assert mirror.requests == [f"/{MOBILE}"]


def test_cache_of_an_older_converter_is_left_alone(
    mirror, models, monkeypatch, source
):
    mobile()
    (older,) = models.glob("*.weights.h5")
    version = pretrained.CACHE_VERSION + 1
    monkeypatch.setattr(pretrained, "CACHE_VERSION", version)
    older.write_text("of other layers")
    assert_equal_outputs(mobile(), source, 64, 64)
    assert older.read_text() == "of other layers"
    assert len(list(models.glob(f"*-v{version}-*.weights.h5"))) == 1


def test_cache_that_cannot_be_written(
    mirror, models, monkeypatch, source, caplog
):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(files, "save_weights", refuse)
    assert_equal_outputs(mobile(), source, 64, 64)
    (line,) = caplog.messages
    assert "cannot be kept (read-only)" in line


def test_download_leaves_the_output_to_answers(mirror, models, capsys):
    mobile()
    printed = capsys.readouterr()
    assert not printed.out and "Downloading" in printed.err


def test_cache_keeps_all_digits(mirror, models, source):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        assert mobile().get_layer("cell_0").variable_dtype == "float16"
        assert keras.config.dtype_policy().name == "float16"
    finally:
        keras.config.set_dtype_policy(policy)
    assert_equal_outputs(mobile(), source, 64, 64)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "here"))
    assert pretrained.cache_folder() == str(tmp_path / "here" / "models")
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    expected = str(tmp_path / "user" / ".keras" / "models")
    assert pretrained.cache_folder() == expected


def test_folder_called_imagenet_is_not_meant(models, tmp_path, monkeypatch):
    (tmp_path / "imagenet").mkdir()
    monkeypatch.chdir(tmp_path)
    # The file is looked for, not a checkpoint in the folder.
    with pytest.raises(OSError, match="Could not get"):
        mobile()


def test_two_processes_at_once(folder, mirror, models):
    mirror.together = threading.Barrier(2)
    code = f"""if True:
        import pathlib, sys, pytest
        from tests import official_files
        monkeypatch = pytest.MonkeyPatch()
        official_files.shrink(monkeypatch, ["nasnet_mobile"])
        official_files.expect_files(monkeypatch, pathlib.Path({str(folder)!r}))
        import keras_nasnet
        print("ready", flush=True)
        sys.stdin.readline()
        model = keras_nasnet.NASNetMobile((64, 64, 3))
        print(float(abs(model.get_layer("predictions").kernel).numpy().sum()))
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    expected = np.abs(mobile().get_layer("predictions").kernel).sum()
    for answer in answers:
        assert float(answer.split()[-1]) == pytest.approx(expected)
    # Neither could wait for the other's file, and neither left a trace.
    assert mirror.requests == [f"/{MOBILE}"] * 2
    (cached,) = models.glob("*.weights.h5")
    assert files.digest(cached, "sha256") in cached.name
    assert set(os.listdir(models)) == {cached.name, "nasnet_mobile.h5"}


def test_unknown_weights():
    with pytest.raises(ValueError) as error:
        keras_nasnet.NASNetMobile(weights="missing.weights.h5")
    assert str(error.value) == (
        '`weights` must be "imagenet", None or the path of an existing file '
        "or folder. Received: weights='missing.weights.h5'"
    )
    with pytest.raises(ValueError, match="for nasnet_large and nasnet_mobile"):
        keras_nasnet.NASNetCIFAR(weights="imagenet")
    for weights in (5, ["imagenet"]):
        with pytest.raises(ValueError, match="`weights` must be None or the"):
            keras_nasnet.NASNetCIFAR(weights=weights)


class TestOfficialPath:
    """`weights=PATH` with an official file."""

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls, official):
        return mobile(weights=None)

    def test_without_top(self, folder, source, caplog):
        model = mobile(weights=str(folder / MOBILE), include_top=False)
        assert not caplog.messages
        features = official_files.without_top(source)
        assert_equal_outputs(model, features, 64, 64)

    def test_file_without_top_into_network_with_it(
        self, folder, source, caplog
    ):
        model = mobile(weights=folder / MOBILE_NO_TOP)
        (line,) = caplog.messages
        assert "no weights for predictions" in line
        assert "(1000 classes here, none there)" in line
        assert_fresh(model.get_layer("predictions"))
        features = keras.Model(source.input, source.layers[-2].output)
        assert_equal_outputs(trunk(model), features, 64, 64)

    def test_auxiliary_head_is_fresh_and_says_so(self, folder, source, caplog):
        model = mobile((80, 80, 3), weights=folder / MOBILE, aux_head=True)
        (line,) = caplog.messages
        assert "no weights for aux_predictions in NASNet-mobile.h5" in line
        assert_same_weights(
            model.get_layer("predictions").get_weights(),
            source.get_layer("predictions").get_weights(),
        )

    def test_wrong_network(self, folder, network):
        # As a factory does it: what fails returns no network.
        with pytest.raises(ValueError) as error:
            mobile(weights=folder / LARGE)
        message = str(error.value)
        assert message.startswith(f"{folder / LARGE}: keras.applications' ")
        expected = f"does not fit nasnet_mobile with {len(network.weights)}:"
        assert "nasnet_large with 706 weights" in message
        assert expected in message
        assert_refused(
            small_network(name="mine"), folder / MOBILE, "does not fit mine"
        )

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
    def test_truncated(self, network, folder, share, tmp_path):
        path = shutil.copy(folder / MOBILE, tmp_path)
        os.truncate(path, int(share * os.path.getsize(path)))
        message = f"{path} is not a complete HDF5 file"
        assert_refused(network, path, message)

    def test_missing_layer(self, network, folder, tmp_path):
        path = shutil.copy(folder / MOBILE, tmp_path)
        with h5py.File(path, "a") as file:
            for name in ("stem_bn1", "stem_conv1"):
                file[name].attrs["weight_names"] = []
        message = "layers with weights. Expected 389 (NASNetMobile) or 533"
        assert_refused(network, path, message)

    @pytest.mark.parametrize("name", ["gamma:0", "moving_variance:0"])
    def test_missing_weight(self, network, folder, name, tmp_path):
        path = shutil.copy(folder / MOBILE, tmp_path)
        with h5py.File(path, "a") as file:
            del file["stem_bn1/stem_bn1"][name]
        message = f"{path} is not a complete file of nasnet_mobile: "
        assert_refused(network, path, message)


class TestOurFile:
    """`weights=PATH` with what `save_weights()` wrote."""

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls):
        return randomize(ours(aux_head=True, name="small"))

    @pytest.fixture(scope="class")
    @classmethod
    def saved(cls, network, tmp_path_factory):
        path = tmp_path_factory.mktemp("ours") / "mine.weights.h5"
        network.save_weights(path)
        return path

    @pytest.fixture(scope="class")
    @classmethod
    def plain(cls, network):
        """The same without its auxiliary head."""
        return keras.Model(network.input, network.output["predictions"])

    def test_same_network(self, network, saved, caplog):
        model = ours(aux_head=True, weights=saved)
        for name in ("predictions", "aux_predictions"):
            pictures = images(2, 32, 32, 3)
            np.testing.assert_array_equal(
                run(model, pictures)[name], run(network, pictures)[name]
            )
        assert not caplog.messages
        assert model.get_layer("cell_0").pool_padding == "zero"

    def test_other_size_and_what_only_training_needs(
        self, plain, saved, caplog
    ):
        # Seeds of drop path and dropout are no weights.
        model = ours(
            (None, None, 3), weights=saved, drop_path_rate=0.3, dropout=0.5
        )
        assert not caplog.messages
        assert_equal_outputs(model, plain, 32, 32)
        path = saved.with_name("seeds.weights.h5")
        model.save_weights(path)
        assert_equal_outputs(ours(weights=path), plain, 32, 32)
        trained = ours(weights=path, drop_path_rate=0.1)
        assert_equal_outputs(trained, plain, 32, 32)

    def test_without_top(self, plain, saved, caplog):
        model = ours(include_top=False, pooling="avg", weights=saved)
        assert not caplog.messages
        assert_equal_outputs(model, trunk(plain), 32, 32)
        # And its file, which has no classifier, back again.
        path = saved.with_name("trunk.weights.h5")
        model.save_weights(path)
        whole = ours(weights=path)
        (line,) = caplog.messages
        assert "(10 classes here, none there)" in line
        assert_fresh(whole.get_layer("predictions"))
        assert_equal_outputs(trunk(whole), model, 32, 32)

    def test_other_classes(self, plain, saved, caplog):
        model = ours(weights=saved, classes=7, aux_head=True)
        (line,) = caplog.messages
        assert "no weights for predictions and aux_predictions" in line
        assert "(7 classes here, 10 there)" in line
        assert_fresh(model.get_layer("predictions"))
        assert_equal_outputs(trunk(model), trunk(plain), 32, 32)

    def test_auxiliary_head_that_the_file_lacks(self, plain, saved, caplog):
        path = saved.with_name("plain.weights.h5")
        plain.save_weights(path)
        model = ours(weights=path, aux_head=True)
        (line,) = caplog.messages
        assert "no weights for aux_predictions in plain.weights.h5" in line
        outputs = keras.Model(model.input, model.output["predictions"])
        assert_equal_outputs(outputs, plain, 32, 32)

    def test_layers_before_the_stem_are_left_alone(self, plain, saved):
        image = keras.Input((32, 32, 1))
        rgb = keras.layers.Conv2D(
            3, 1, use_bias=False, kernel_initializer="ones"
        )
        model = ours(None, input_tensor=rgb(image), weights=saved, name="grey")
        grey = images(2, 32, 32, 1)
        expected = run(plain, np.repeat(grey, 3, axis=-1))
        assert relative_difference(run(model, grey), expected) < 1e-5

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (
                {"num_cells": 2},
                "cell_3/block_0_left/bn_1/beta is not in the source",
            ),
            (
                {"stem": "imagenet", "penultimate_filters": 96},
                "cell_0/block_2_right/bn/0 is unknown",
            ),
            (
                {"penultimate_filters": 192},
                "cell_0/block_0_left/bn_1/0 has shape (4,), expected (8,) of "
                "cell_0/block_0_left/bn_1/gamma",
            ),
            (
                {"skip_reduction": True},
                "cell_1/fit_input_1/path_1/0 has shape (1, 1, 24, 4), "
                "expected (1, 1, 12, 4) of cell_1/fit_input_1/path_1/kernel",
            ),
        ],
    )
    def test_another_network(self, saved, arguments, message):
        with pytest.raises(ValueError) as error:
            ours(weights=saved, name="other", **arguments)
        assert str(error.value).startswith(f"{saved} with ")
        assert " weights does not fit other with " in str(error.value)
        assert message in str(error.value)

    def test_larger_file(self, network, saved, tmp_path):
        path = shutil.copy(saved, tmp_path)
        with h5py.File(path, "a") as file:
            file.copy("layers/cell_4", "layers/cell_5")
            file["layers/cell_5/vars"].attrs["name"] = "cell_3"
        message = "cell_3/block_0_left/bn_1/0 is unknown"
        assert_refused(network, path, message)

    def test_another_genotype(self, tmp_path):
        def build(operation, **kwargs):
            cell = CellGenotype([Block((operation, 0), ("identity", 1))])
            return ours(genotype=Genotype(cell, cell), **kwargs)

        path = tmp_path / "mine.weights.h5"
        build("sep_conv_3x3").save_weights(path)
        for operation, message in (
            (
                "sep_conv_5x5",
                "cell_0/block_0_left/separable_1/0 has shape (3, 3, 4, 1), "
                "expected (5, 5, 4, 1)",
            ),
            ("conv_3x3", "cell_0/block_0_left/bn_1/0 is unknown"),
            ("max_pool_3x3", "cell_0/block_0_left/bn_1/0 is unknown"),
        ):
            with pytest.raises(ValueError) as error:
                build(operation, weights=path)
            assert message in str(error.value)

    def test_every_operation(self, tmp_path):
        path = tmp_path / "mine.weights.h5"
        network = randomize(ours(genotype=ALL_OPERATIONS))
        network.save_weights(path)
        model = ours(genotype=ALL_OPERATIONS, weights=path)
        assert_same_weights(model.get_weights(), network.get_weights())

    def test_half_precision_on_disk(self, network, saved, tmp_path):
        path = shutil.copy(saved, tmp_path)
        with h5py.File(path, "a") as file:
            weight = file["layers/stem/steps/conv2d/vars/0"][()]
            del file["layers/stem/steps/conv2d/vars/0"]
            file["layers/stem/steps/conv2d/vars/0"] = weight.astype("float16")
        model = ours(aux_head=True, weights=path)
        (kernel, *others), (expected, *_) = (
            m.get_layer("stem").get_weights() for m in (model, network)
        )
        assert kernel.dtype == "float32"
        np.testing.assert_array_equal(kernel, expected.astype("float16"))

    @pytest.mark.parametrize(
        "weight, message",
        [
            (
                "layers/cell_2/fit_inputs/convolution/steps/conv2d/vars/0",
                "cell_1/fit_input_0/conv/kernel is not in the source",
            ),
            (
                "layers/stem/steps/batch_norm/vars/3",
                "stem/bn/moving_variance is not in the source",
            ),
            (
                "layers/classifier/vars/0",
                "predictions/kernel is not in the source",
            ),
            (
                "layers/classifier/vars/1",
                "predictions/bias is not in the source",
            ),
            (
                "layers/auxiliary_head/steps/dense/vars/1",
                "aux_predictions/predictions/bias is not in the source",
            ),
        ],
    )
    def test_missing_weight(self, network, saved, weight, message, tmp_path):
        path = shutil.copy(saved, tmp_path)
        with h5py.File(path, "a") as file:
            del file[weight]
        assert_refused(network, path, message)

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
    def test_truncated(self, network, saved, share, tmp_path):
        path = shutil.copy(saved, tmp_path)
        os.truncate(path, int(share * os.path.getsize(path)))
        message = f"{path} is not a complete HDF5 file"
        assert_refused(network, path, message)

    def test_files_of_something_else(self, network, tmp_path):
        text = tmp_path / "text.weights.h5"
        text.write_text("<html>404</html>")
        dense = tmp_path / "dense.weights.h5"
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.save_weights(dense)
        empty = tmp_path / "empty.weights.h5"
        h5py.File(empty, "w").close()
        for path, message in (
            (text, "text.weights.h5 is not a complete HDF5 file"),
            (dense, "dense.weights.h5 with 0 weights does not fit small with"),
            (empty, "empty.weights.h5 with 0 weights does not fit small with"),
        ):
            assert_refused(network, path, message)
