"""Measures the top-1 and top-5 accuracy of a model.

Run:

    python -m training.evaluate --model=runs/tiny/final.keras \
        --dataset=cifar10 --split=test
"""

import dataclasses
import os

import keras
import numpy as np
from absl import app
from absl import flags

from keras_nasnet.inference import default_size
from keras_nasnet.inference import head
from keras_nasnet.inference import load_classifier
from keras_nasnet.inference import takes_pixels
from keras_nasnet.litert import LiteModel
from keras_nasnet.names import PREDICTIONS_LAYER
from training import checkpoints
from training import datasets

FLAGS = flags.FLAGS


def define_flags():
    flags.DEFINE_string(
        "model", None, "tiny, mobile, large, .keras or .tflite file."
    )
    flags.DEFINE_string("dataset", None, "tfds data set or folder of images.")
    flags.DEFINE_string("split", "test", "tfds split; a folder has only one.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_integer("batch_size", 100, "Images per batch.")
    flags.DEFINE_bool(
        "whiten", False, "For networks trained on whitened images."
    )
    flags.DEFINE_string("out", None, "JSON file for the result.")
    flags.mark_flags_as_required(["model", "dataset"])


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent, and the number of images behind them."""

    top_1: float
    top_5: float
    images: int

    def __str__(self):
        return (
            f"top-1 {self.top_1:.2f} %, top-5 {self.top_5:.2f} % "
            f"on {self.images} images"
        )


def evaluate(model, dataset, images=None):
    """Measures the accuracy of a model, with a progress bar.

    Args:
        model: A Keras model that returns a score for every class, perhaps
            with an auxiliary head; or a `keras_nasnet.litert.LiteModel`.
        dataset: `tf.data.Dataset` of batches (images, labels), prepared as
            the model expects them.
        images: Optional number of images, for the progress bar.

    Returns:
        An `Accuracy`.
    """
    progress = keras.utils.Progbar(images, unit_name="image")
    top_1 = top_5 = count = 0
    for batch, labels in dataset:
        scores = model.predict_on_batch(batch)
        if isinstance(scores, dict):  # with an auxiliary head
            scores = scores[PREDICTIONS_LAYER]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        is_found = best == np.asarray(labels)[:, None]
        top_1 += int(is_found[:, 0].sum())
        top_5 += int(is_found.sum())
        count += len(labels)
        progress.add(len(labels))
    return Accuracy(100 * top_1 / count, 100 * top_5 / count, count)


def check_classes(names, split, model):
    """Raises an error if a model and a data set name classes differently.

    Args:
        names: Names of the model's classes in order, `None` if it has none.
        split: A `datasets.Split`.
        model: What the model is called.
    """
    if names and list(names) != list(split.class_names):
        raise ValueError(
            "The classes of the data set are others than those of the model, "
            f"or in another order. Data set: "
            f"{', '.join(split.class_names[:5])}; {model}: "
            f"{', '.join(names[:5])}."
        )


def _as_pixels(images, labels):
    """Undoes `preprocess_input`."""
    return (images + 1) * 127.5, labels


def main(_):
    if FLAGS.model.endswith(".tflite"):
        model = LiteModel(FLAGS.model, os.cpu_count())
        classes = model.output_shape[-1]
        names = model.labels
        wants_pixels = model.normalization == (0, 1)
    else:
        model = load_classifier(FLAGS.model)
        classes = model.outputs[0].shape[-1]
        names = head(model).class_names
        wants_pixels = takes_pixels(model)
    split = datasets.load(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    if classes != len(split.class_names):
        raise ValueError(
            f"--model must know the {len(split.class_names)} classes of "
            f"--dataset. {FLAGS.model} knows {classes}."
        )
    check_classes(names, split, FLAGS.model)
    # Files for phones have a known size.
    height, width = model.input_shape[1:3]
    if height != width:
        raise ValueError(
            "--model must take square images, which is what data sets are cut "
            f"to. {FLAGS.model} takes images of {height} x {width} pixels."
        )
    size = height or default_size(model)
    _, prepare = datasets.PIPELINES[datasets.pipeline_for(size)]
    batches = prepare(
        split.dataset, FLAGS.batch_size, image_size=size, whiten=FLAGS.whiten
    )
    if wants_pixels:
        batches = batches.map(_as_pixels)
    accuracy = evaluate(model, batches, split.count)
    print(accuracy)
    if FLAGS.out:
        checkpoints.write_json(dataclasses.asdict(accuracy), FLAGS.out)


if __name__ == "__main__":
    define_flags()
    app.run(main)
