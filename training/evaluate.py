"""Measures the top-1 and top-5 accuracy of a model.

Run:

    python -m training.evaluate --model=runs/tiny/final.keras \
        --dataset=cifar10 --split=test
"""

import dataclasses

import keras
import tensorflow as tf
from absl import app
from absl import flags

from keras_nasnet.inference import SMALL_IMAGE
from keras_nasnet.inference import load_classifier
from training import checkpoints
from training import datasets

FLAGS = flags.FLAGS


def define_flags():
    flags.DEFINE_string("model", None, "mobile, large, or a .keras file.")
    flags.DEFINE_string("dataset", None, "tfds data set or folder of images.")
    flags.DEFINE_string("split", "test", "tfds split; a folder has only one.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_integer("batch_size", 100, "Images per batch.")
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
        model: A Keras model that returns a score for every class.
        dataset: `tf.data.Dataset` of batches (images, labels), prepared as
            the model expects them.
        images: Optional number of images, for the progress bar.

    Returns:
        An `Accuracy`.
    """
    progress = keras.utils.Progbar(images, unit_name="image")
    hits = {1: 0, 5: 0}
    count = 0
    for batch, labels in dataset:
        scores = tf.convert_to_tensor(model.predict_on_batch(batch))
        for k in hits:
            found = tf.math.in_top_k(labels, scores, min(k, scores.shape[1]))
            hits[k] += int(tf.reduce_sum(tf.cast(found, tf.int32)))
        progress.add(len(labels))
        count += len(labels)
    return Accuracy(100 * hits[1] / count, 100 * hits[5] / count, count)


def main(_):
    model = load_classifier(FLAGS.model)
    split = datasets.load(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    size = model.input_shape[1]
    pipeline = "cifar" if size <= SMALL_IMAGE else "inception"
    _, prepare = datasets.PIPELINES[pipeline]
    accuracy = evaluate(
        model,
        prepare(split.dataset, FLAGS.batch_size, image_size=size),
        split.count,
    )
    print(accuracy)
    if FLAGS.out:
        checkpoints.write_json(dataclasses.asdict(accuracy), FLAGS.out)


if __name__ == "__main__":
    define_flags()
    app.run(main)
