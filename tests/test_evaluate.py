"""Are accuracies those that NumPy counts, on images as the network wants?"""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import keras_nasnet
from tests.commands import run_command
from tests.networks import randomize
from tests.networks import run
from tests.runs import CLASS_NAMES
from tests.runs import NETWORK

tf = pytest.importorskip("tensorflow")
from training import datasets  # noqa: E402
from training import evaluate  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of any colour in every class, so that answers differ.

    Each has a frame, which belongs to small images but not to photographs.
    """
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in CLASS_NAMES:
        (path / name).mkdir()
        for i in range(12):
            color = rng.integers(0, 200, 3, "uint8")
            pixels = rng.integers(0, 56, (32, 32, 3), "uint8") + color
            pixels[[0, 1, -2, -1]] = pixels[:, [0, 1, -2, -1]] = rng.integers(
                0, 256, 3
            )
            Image.fromarray(pixels).save(path / name / f"{i:02}.png")
    return str(path)


@pytest.fixture(scope="module")
def pixels(folder):
    split = datasets.load(folder, "train")
    images, labels = zip(*split.dataset.as_numpy_iterator())
    return np.stack(images), np.array(labels)


def counted(scores, labels, k):
    """Returns the percentage of images with their class among the best k."""
    hits = [label in np.argsort(-row)[:k] for row, label in zip(scores, labels)]
    return 100 * np.mean(hits)


class Scores(keras.layers.Layer):
    """Gives each image the scores that it holds."""

    def call(self, images):
        return images

    def compute_output_shape(self, input_shape):
        return input_shape


def model_of_scores(classes):
    inputs = keras.Input((classes,))
    return keras.Model(inputs, Scores()(inputs))


class TestEvaluate:
    @pytest.mark.parametrize("classes", [3, 5, 12])
    def test_counts(self, classes):
        rng = np.random.default_rng(classes)
        scores = rng.normal(size=(70, classes)).astype("float32")
        labels = rng.integers(0, classes, 70)
        batches = tf.data.Dataset.from_tensor_slices((scores, labels)).batch(16)
        accuracy = evaluate.evaluate(model_of_scores(classes), batches, 70)
        top_1, top_5 = (counted(scores, labels, k) for k in (1, 5))
        assert 0 < top_1 < top_5 <= 100
        assert accuracy.top_1 == pytest.approx(top_1)
        assert accuracy.top_5 == pytest.approx(top_5)
        assert accuracy.images == 70
        assert str(accuracy) == (
            f"top-1 {top_1:.2f} %, top-5 {top_5:.2f} % on 70 images"
        )

    def test_equal_scores_are_no_hits(self):
        scores = np.zeros((20, 10), "float32")
        batches = tf.data.Dataset.from_tensor_slices(
            (scores, np.arange(20) % 10)
        )
        accuracy = evaluate.evaluate(model_of_scores(10), batches.batch(20))
        assert (accuracy.top_1, accuracy.top_5) == (10, 50)


def network(images, **settings):
    """Returns a network that answers differently for the images."""
    model = keras_nasnet.NASNetTiny(
        weights=None, classes=3, class_names=CLASS_NAMES, **NETWORK, **settings
    )
    bias = randomize(model).get_layer("predictions").bias
    bias.assign(bias - np.log(main_scores(model, images)).mean(axis=0))
    return model


def main_scores(model, images):
    scores = run(model, images)
    return scores["predictions"] if isinstance(scores, dict) else scores


class TestCommand:
    def run(self, model, folder, tmp_path, *flags):
        file, out = tmp_path / "model.keras", tmp_path / "out.json"
        model.save(file)
        run_command(
            evaluate,
            f"--model={file}",
            f"--dataset={folder}",
            f"--out={out}",
            "--batch_size=10",
            *flags,
        )
        return json.loads(out.read_text())

    def check(self, folder, labels, tmp_path, images, *flags, **settings):
        """Compares with the accuracy on images as the network wants them."""
        model = network(images, **settings)
        scores = main_scores(model, images)
        assert set(scores.argmax(axis=1)) == {0, 1, 2}
        report = self.run(model, folder, tmp_path, *flags)
        top_1 = counted(scores, labels, 1)
        assert report == {
            "top_1": pytest.approx(top_1),
            "top_5": 100,
            "images": 36,
        }
        return f"top-1 {top_1:.2f} %, top-5 100.00 % on 36 images"

    @pytest.mark.parametrize(
        "settings", [{}, {"aux_head": True}, {"input_shape": (None, None, 3)}]
    )
    def test_small_images(self, folder, pixels, tmp_path, settings, capsys):
        images, labels = pixels
        images = keras_nasnet.preprocess_input(images)
        line = self.check(folder, labels, tmp_path, images, **settings)
        assert line in capsys.readouterr().out

    def test_whitened_images(self, folder, pixels, tmp_path):
        images, labels = pixels
        images = tf.image.per_image_standardization(images)
        self.check(folder, labels, tmp_path, images, "--whiten")

    def test_pixels(self, folder, pixels, tmp_path):
        images, labels = pixels
        self.check(
            folder,
            labels,
            tmp_path,
            images.astype("float32"),
            include_preprocessing=True,
        )

    def test_photographs(self, folder, pixels, tmp_path):
        images, labels = pixels
        images = tf.image.central_crop(images, 0.875)
        images = tf.image.resize(images, (80, 80)) / 127.5 - 1
        self.check(folder, labels, tmp_path, images, input_shape=(80, 80, 3))

    def test_classes_in_another_order(self, folder, tmp_path):
        names = CLASS_NAMES[::-1]
        model = keras_nasnet.NASNetTiny(
            weights=None, classes=3, class_names=names, **NETWORK
        )
        with pytest.raises(ValueError, match="in another order"):
            self.run(model, folder, tmp_path)

    def test_other_classes(self, folder, tmp_path):
        model = keras_nasnet.NASNetTiny(weights=None, classes=4, **NETWORK)
        with pytest.raises(ValueError, match="3 classes .* knows 4"):
            self.run(model, folder, tmp_path)
