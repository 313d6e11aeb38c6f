"""What is written for servers answers like the network."""

import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import exporting
from keras_nasnet.cli import main
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="needs TensorFlow"
)


@pytest.fixture(scope="module")
def model():
    return randomize(small_network(classifier_activation=None))


def test_saved_model(model, tmp_path):
    path = tmp_path / "server"
    assert keras_nasnet.export(model, str(path)) < 1e-4
    loaded = tf.saved_model.load(path)
    x = images(3, 32, 32, 3)
    assert relative_difference(loaded.serve(x), run(model, x)) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["server"]


def test_onnx(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    path = tmp_path / "model.onnx"
    assert keras_nasnet.export(model, str(path)) < 1e-4
    session = onnxruntime.InferenceSession(path)
    (name,) = (image.name for image in session.get_inputs())
    x = images(3, 32, 32, 3)
    (outputs,) = session.run(None, {name: x})
    assert relative_difference(outputs, run(model, x)) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_features_of_images_of_any_size(tmp_path):
    model = randomize(
        small_network((None, None, 3), include_top=False, features=["P0", "P1"])
    )
    keras_nasnet.export(model, str(tmp_path / "server"))
    x = images(2, 24, 40, 3)
    loaded = tf.saved_model.load(tmp_path / "server")
    outputs = loaded.serve(x)
    for level, expected in run(model, x).items():
        assert relative_difference(outputs[level], expected) < 1e-4


def test_nothing_is_overwritten(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    with pytest.raises(ValueError, match="`path` must not exist yet"):
        keras_nasnet.export(model, str(path))
    assert path.read_text() == "mine"


def test_wrong_file_is_not_kept(model, tmp_path, monkeypatch):
    load = exporting._load
    monkeypatch.setattr(
        exporting, "_load", lambda path: lambda x: [load(path)(x)[0] + np.pi]
    )
    with pytest.raises(ValueError, match="something else than the model"):
        keras_nasnet.export(model, str(tmp_path / "server"))
    assert not list(tmp_path.iterdir())


def test_missing_package(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        exporting.importlib.util, "find_spec", lambda name: None
    )
    with pytest.raises(ImportError, match=r"pip install keras_nasnet\["):
        keras_nasnet.export(model, str(tmp_path / "model.onnx"))


def test_command(tmp_path, capsys):
    path = tmp_path / "tiny"
    assert main(["export", "tiny", "--out", str(path)]) == 0
    assert f"Wrote {path}." in capsys.readouterr().out
    x = images(2, 32, 32, 3)
    loaded = tf.saved_model.load(path)
    expected = run(keras_nasnet.NASNetTiny(), x)
    assert relative_difference(loaded.serve(x), expected) < 1e-4
    assert main(["export", "tiny", "--out", str(path)]) == 2
    assert "must not exist yet" in capsys.readouterr().err
