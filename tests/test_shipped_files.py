"""Files for phones of the shipped network, on real photographs."""

import numpy as np
import pytest

import keras_nasnet

pytestmark = pytest.mark.slow
pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
from keras_nasnet.litert import LiteModel  # noqa: E402

# Format -> by how many points of accuracy it may differ from the network.
FORMATS = {None: 0, "float16": 0.2, "weight_only_int8": 0.5, "int8": 1}


@pytest.fixture(scope="module")
def network():
    return keras_nasnet.NASNetTiny()


def export(network, folder, quantization, samples):
    pytest.importorskip("ai_edge_quantizer")
    path = folder / f"{quantization}.tflite"
    keras_nasnet.export_tflite(
        network,
        path,
        quantization,
        representative_data=samples,
        verbose=False,
    )
    return LiteModel(path)


def test_float_file_on_photographs(network, imagenet_samples, tmp_path):
    paths = sorted(imagenet_samples.glob("*.jpg"))
    assert len(paths) == 1000
    pixels = [keras_nasnet.load_image(p, (32, 32), 1.0) for p in paths]
    x = keras_nasnet.preprocess_input(np.stack(pixels).astype("float32"))
    found = export(network, tmp_path, None, x[:20]).predict_on_batch(x)
    expected = network.predict(x, batch_size=100, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("quantization", FORMATS)
def test_accuracy(network, cifar10_dir, quantization, tmp_path):
    datasets = pytest.importorskip("training.datasets")
    pytest.importorskip("tensorflow_datasets")

    def load(split):
        split = datasets.load("cifar10", split, str(cifar10_dir))
        batches = list(datasets.cifar_eval(split.dataset, 100))
        images, labels = zip(*((x.numpy(), y.numpy()) for x, y in batches))
        return np.concatenate(images), np.concatenate(labels)

    samples, _ = load("train[:200]")
    x, labels = load("test[:1000]")
    file = export(network, tmp_path, quantization, samples)
    scores = network.predict(x, batch_size=100, verbose=0)
    wrong = scores.argmax(1) != labels
    wrong_now = file.predict_on_batch(x).argmax(1) != labels
    assert 0.8 < 1 - wrong.mean() < 1
    points = 100 * abs(wrong.mean() - wrong_now.mean())
    assert points <= FORMATS[quantization]
