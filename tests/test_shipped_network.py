"""Does the network in the package work, without any network connection?"""

import importlib.resources
import socket

import h5py
import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet.cli import main
from keras_nasnet.inference import class_names
from keras_nasnet.records import SHIPPED_RECORDS
from keras_nasnet.weights import files
from tests.commands import run_command
from tests.conftest import ROOT
from tests.networks import images
from tests.networks import relative_difference
from tests.networks import run

(RECORD,) = SHIPPED_RECORDS
FILE = importlib.resources.files("keras_nasnet.weights") / RECORD.file
CAT = str(ROOT / "examples" / "images" / "cat.jpg")
CLASSES = list(RECORD.class_names)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something wants to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(keras.utils, "get_file", refuse)


@pytest.fixture(scope="module")
def network():
    return keras_nasnet.NASNetTiny()


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """An empty folder in place of the one with the package's weights."""
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    return tmp_path


def trunk(model):
    return keras.Model(model.input, model.get_layer("final_relu").output)


def assert_same_trunk(model, network, size=(32, 32), inputs=None):
    pictures = images(2, *size, 3)
    expected = run(trunk(network), pictures)
    found = run(trunk(model), pictures if inputs is None else inputs(pictures))
    assert relative_difference(found, expected) < 1e-5


def test_file_and_record():
    assert files.digest(FILE, "sha256") == RECORD.hash
    assert FILE.stat().st_size <= 2e6
    dtypes = set()
    with h5py.File(FILE) as file:
        file.visititems(
            lambda path, item: (
                dtypes.add(item.dtype.name)
                if isinstance(item, h5py.Dataset) and "/cell" in path
                else None
            )
        )
    assert dtypes == {"float16"}
    assert RECORD.url == f"weights/{RECORD.file}"
    assert (ROOT / RECORD.url).samefile(FILE)


def test_keras_reads_the_same_weights(network):
    model = keras_nasnet.NASNetTiny(weights=None)
    before = model.get_weights()
    model.load_weights(FILE)
    for weight, fresh, loaded in zip(
        model.weights, before, network.get_weights()
    ):
        assert loaded.dtype == "float32"
        np.testing.assert_array_equal(weight, loaded)
        # A trained network kept none of them as it was.
        assert not np.array_equal(fresh, loaded), weight.path


def test_default_network(network, caplog):
    assert network.get_layer("cell_0").pool_padding == RECORD.pool_padding
    assert network.input_shape == (None, RECORD.image_size, 32, 3)
    assert class_names(network) == CLASSES
    keras_nasnet.NASNetTiny(weights="cifar10")
    assert not caplog.messages


def test_size(network):
    assert network.count_params() == 371_066
    trainable = sum(np.prod(w.shape) for w in network.trainable_weights)
    assert trainable == 363_194
    assert trunk(network).count_params() == 367_216
    assert keras_nasnet.count_macs(network) == 65_761_024


def test_new_classes(network, caplog):
    model = keras_nasnet.NASNetTiny(classes=3)
    (line,) = caplog.messages
    assert "no weights for predictions in nasnet_tiny_cifar10" in line
    assert "(3 classes here, 10 there)" in line
    assert model.output_shape == (None, 3)
    assert class_names(model) == ["class 0", "class 1", "class 2"]
    assert_same_trunk(model, network)


def test_own_names_of_ten_classes():
    names = [f"name {i}" for i in range(10)]
    assert class_names(keras_nasnet.NASNetTiny(class_names=names)) == names


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_top(network, pooling, caplog):
    model = keras_nasnet.NASNetTiny(include_top=False, pooling=pooling)
    assert not caplog.messages
    assert model.output_shape[-1] == 384
    assert_same_trunk(model, network)


def test_any_size(network):
    model = keras_nasnet.NASNetTiny((None, None, 3))
    other = keras_nasnet.NASNetTiny((40, 56, 3))
    assert_same_trunk(model, network)
    assert_same_trunk(model, other, (40, 56))
    # What it was trained on, not what Mobile was.
    found = keras_nasnet.predict(model, CAT)
    expected = keras_nasnet.predict(network, CAT)
    assert [p.name for p in found] == [p.name for p in expected]
    assert found[0].probability == pytest.approx(
        expected[0].probability, abs=1e-5
    )


def test_pixels(network):
    model = keras_nasnet.NASNetTiny(include_preprocessing=True)
    assert_same_trunk(model, network, inputs=lambda x: (x + 1) * 127.5)


def test_names_survive_saving(network, tmp_path):
    network.save(tmp_path / "tiny.keras")
    loaded = keras.saving.load_model(tmp_path / "tiny.keras")
    assert class_names(loaded) == CLASSES
    assert_same_trunk(loaded, network)


def test_missing_file(installation):
    with pytest.raises(FileNotFoundError) as error:
        keras_nasnet.NASNetTiny()
    assert str(error.value) == (
        f"{installation / RECORD.file} is missing, which is a part of "
        "keras_nasnet. Install keras_nasnet again."
    )


def test_damaged_file(installation, capsys):
    content = bytearray(FILE.read_bytes())
    # A single bit, which HDF5 does not notice.
    content[len(content) // 2] ^= 1
    (installation / RECORD.file).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is") as error:
        keras_nasnet.NASNetTiny(include_top=False)
    assert f"expected {RECORD.hash}. Install" in str(error.value)
    assert main(["predict", CAT]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is damaged" in line


@pytest.mark.parametrize(
    "factory, weights, message",
    [
        (
            keras_nasnet.NASNetTiny,
            "imagenet",
            '`weights` must be "cifar10", None or the path of an existing '
            "file or folder. Received: weights='imagenet', which exists for "
            "nasnet_large and nasnet_mobile only",
        ),
        (
            keras_nasnet.NASNetMobile,
            "cifar10",
            '`weights` must be "imagenet", None or the path of an existing '
            "file or folder. Received: weights='cifar10', which exists for "
            "nasnet_tiny only",
        ),
        (
            keras_nasnet.NASNetTiny,
            "cifar100",
            '`weights` must be "cifar10", None or the path of an existing '
            "file or folder. Received: weights='cifar100'",
        ),
    ],
)
def test_weights_that_do_not_exist(factory, weights, message):
    with pytest.raises(ValueError) as error:
        factory(weights=weights)
    assert str(error.value) == message


def test_another_network():
    with pytest.raises(ValueError, match="does not fit nasnet_tiny"):
        keras_nasnet.NASNetTiny(num_cells=1)
    with pytest.raises(ValueError, match="needs images with 3 channels"):
        keras_nasnet.NASNetTiny((32, 32, 1))


def test_predict_asks_it(capsys, network):
    assert main(["predict", CAT]) == 0
    image, *answers = capsys.readouterr().out.splitlines()
    assert image == CAT
    expected = keras_nasnet.predict(network, CAT)
    assert [answer.split()[-1] for answer in answers] == [
        p.name for p in expected
    ]
    assert set(p.name for p in expected) < set(CLASSES)
    assert main(["predict", CAT, "--model", "tiny", "--fast"]) == 0
    assert capsys.readouterr().out.splitlines() == [image, *answers]


def test_classes_of_cifar10(cifar10_dir):
    datasets = pytest.importorskip("training.datasets")
    pytest.importorskip("tensorflow_datasets")
    split = datasets.load("cifar10", "test", str(cifar10_dir))
    assert split.class_names == CLASSES


@pytest.fixture(scope="module")
def answered(network, cifar10_dir):
    """All test images, their labels, and the scores of the network."""
    datasets = pytest.importorskip("training.datasets")
    pytest.importorskip("tensorflow_datasets")
    split = datasets.load("cifar10", "test", str(cifar10_dir))
    images, labels = datasets.to_numpy(datasets.cifar_eval(split.dataset, 100))
    return images, labels, network.predict(images, batch_size=100, verbose=0)


def test_accuracy(answered):
    _, labels, scores = answered
    top_1 = 100 * (scores.argmax(1) == labels).mean()
    # Rounding may turn an image or two on another machine.
    assert len(labels) == 10000
    assert top_1 == pytest.approx(RECORD.measured, abs=0.05)


def test_fused_network_answers_alike(network, answered):
    images, _, expected = answered
    fused = keras_nasnet.fuse(network)
    found = fused.predict(images, batch_size=100, verbose=0)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def drawing(kind, rng):
    """Returns a noisy texture of random colours, period and place."""
    rows, columns = np.mgrid[:48, :64] + rng.integers(0, 64, (2, 1, 1))
    period = rng.integers(10, 17)
    lines, posts = (n % period < period // 2 for n in (rows, columns))
    mask = {"lines": lines, "posts": posts, "checks": lines ^ posts}[kind]
    color = rng.integers(0, 256, 3)
    pixels = np.where(mask[..., None], color, (color + 128) % 256)
    pixels = pixels + rng.normal(0, 12, pixels.shape)
    return pixels.clip(0, 255).astype("uint8")


def test_fine_tuning_on_a_folder(tmp_path, capsys):
    finetune = pytest.importorskip("training.finetune")
    rng = np.random.default_rng(0)
    kinds = ["checks", "lines", "posts"]
    for kind in kinds:
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(20):
            keras.utils.save_img(
                tmp_path / "data" / kind / f"{i}.png",
                drawing(kind, rng),
                scale=False,
            )
    run_command(
        finetune,
        f"--dataset={tmp_path / 'data'}",
        f"--workdir={tmp_path / 'run'}",
        "--held_out=0.25",
        "--batch_size=15",
        "--head_epochs=6",
        "--learning_rate=0.01",
    )
    (line,) = (
        text
        for text in capsys.readouterr().out.splitlines()
        if text.startswith("top-1")
    )
    assert line.endswith("on 15 images")
    assert float(line.split()[1]) > 80
    # The first command that the documentation gives for the result.
    picture = tmp_path / "data" / "checks" / "0.png"
    model = str(tmp_path / "run" / "final.keras")
    assert main(["predict", str(picture), "--model", model]) == 0
    assert sorted(capsys.readouterr().out.split()[2::2]) == kinds
