"""Compresses a classifier for phones, and measures what that costs.

Run:

    python -m training.compress --model=tiny --dataset=cifar10 \
        --eval_split=test --workdir=runs/compressed

Writes one `.tflite` file per method, and `results.json` with the size of the
file, as it is and compressed, its accuracy, and its time for one image on
this machine. A method that is done is not done again.
"""

import dataclasses
import gzip
import json
import os
import statistics
import sys

import keras
import numpy as np
from absl import app
from absl import flags

import keras_nasnet
from keras_nasnet import compression
from keras_nasnet import heads
from keras_nasnet.inference import class_names
from keras_nasnet.inference import default_size
from keras_nasnet.inference import head
from keras_nasnet.inference import load_classifier
from keras_nasnet.litert import LiteModel
from training import checkpoints
from training import datasets
from training import evaluate

FLAGS = flags.FLAGS
# Method -> what is trained, and how the file is quantised.
METHODS = {
    "float32": (None, None),
    "float16": (None, "float16"),
    "weight_only_int8": (None, "weight_only_int8"),
    "int8": (None, "int8"),
    "qat_int8": ("quantization_aware", "int8"),
    "pruned": ("prune", None),
    # In float, batch norms would multiply every filter by its own number.
    "clustered": ("cluster", "weight_only_int8"),
}
# Flags that make other results of the same working folder.
SETTINGS = (
    "model",
    "dataset",
    "train_split",
    "eval_split",
    "epochs",
    "batch_size",
    "learning_rate",
    "sparsity",
    "clusters",
    "seed",
)


def define_flags():
    flags.DEFINE_string("model", "tiny", "tiny, mobile, large or .keras file.")
    flags.DEFINE_string("dataset", None, "tfds data set or folder of images.")
    flags.DEFINE_string("train_split", "train", "tfds split to train on.")
    flags.DEFINE_string("eval_split", "test", "tfds split to measure on.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_string("workdir", None, "Folder for everything written.")
    flags.DEFINE_multi_enum(
        "method", list(METHODS), list(METHODS), "What to do."
    )
    flags.DEFINE_integer("epochs", 2, "Epochs of training per method.")
    flags.DEFINE_integer("batch_size", 64, "Images per step.")
    flags.DEFINE_float("learning_rate", 1e-3, "At the start.")
    flags.DEFINE_float("sparsity", 0.5, "Share of weights that become zero.")
    flags.DEFINE_integer("clusters", 16, "Different weights in a kernel.")
    flags.DEFINE_integer("seed", 0, "Decides order and augmentation.")
    flags.mark_flags_as_required(["dataset", "workdir"])


@dataclasses.dataclass(frozen=True)
class Result:
    """What is measured of a file.

    Args:
        size: Bytes.
        gzip_size: Bytes after compression, as app stores deliver it.
        top_1: Accuracy in percent.
        latency: Median seconds for one image with one thread.
        partitions: Pieces in which XNNPACK took it.
    """

    size: int
    gzip_size: int
    top_1: float
    latency: float
    partitions: int


def train(twin, batches, steps, settings, backup, callbacks=()):
    """Trains a twin of `tf_keras`; can be interrupted and called again.

    Args:
        twin: What a function of `keras_nasnet.compression` returned.
        batches: `tf.data.Dataset` of batches (images, labels).
        steps: Integer, number of batches.
        settings: The flags.
        backup: Folder for the state of an interrupted run.
        callbacks: Further callbacks.

    Raises:
        FloatingPointError: If the loss stops being a number.
    """
    import tf_keras

    # Down to zero: the network comes from a training that ended there, and
    # loses a point of accuracy where this one ends with large steps.
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, steps * settings.epochs
    )
    twin.compile(
        tf_keras.optimizers.SGD(schedule, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(
            from_logits=heads.returns_logits(twin.outputs[0])
        ),
        metrics=["accuracy"],
    )
    history = twin.fit(
        batches,
        epochs=settings.epochs,
        callbacks=[
            *callbacks,
            tf_keras.callbacks.TerminateOnNaN(),
            tf_keras.callbacks.BackupAndRestore(backup),
        ],
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    if not np.isfinite(history.get("loss", 0.0)).all():
        raise FloatingPointError(
            "The loss stopped being a number. Lower `learning_rate` "
            f"{settings.learning_rate}, and train in another folder."
        )


def compress(model, method, batches, steps, samples, settings):
    """Returns what is to be exported.

    Args:
        model: A classifier.
        method: Key of `METHODS`.
        batches: Batches to train on.
        steps: Integer, number of them.
        samples: Array of images to measure ranges on.
        settings: The flags.

    Returns:
        The model itself, a Keras model with compressed weights, or a twin
        that was trained for integers.
    """
    kind, _ = METHODS[method]
    backup = os.path.join(settings.workdir, f"backup_{method}")
    arguments = (batches, steps, settings, backup)
    if kind is None:
        return model
    if kind == "quantization_aware":
        twin = compression.quantization_aware(model, samples)
        train(twin, *arguments)
        return twin
    if kind == "cluster":
        twin = compression.cluster(model, settings.clusters)
        train(twin, *arguments)
        return compression.restore(twin, model)
    import tensorflow_model_optimization as tfmot

    # Half of the training to remove weights, half of it to get over that.
    end = max(1, steps * settings.epochs // 2)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0,
        settings.sparsity,
        begin_step=0,
        end_step=end,
        frequency=max(1, min(10, end // 10)),
    )
    twin = compression.prune(model, schedule)
    train(twin, *arguments, [tfmot.sparsity.keras.UpdatePruningStep()])
    return compression.restore(twin, model)


def measure(path, split):
    """Measures a file.

    Args:
        path: Path of a `.tflite` file.
        split: `datasets.Split` to measure on.

    Returns:
        A `Result`.
    """
    file = LiteModel(path, os.cpu_count())
    _, prepare = datasets.PIPELINES[datasets.pipeline_for(file.input_shape[1])]
    batches = prepare(split.dataset, 100, image_size=file.input_shape[1])
    accuracy = evaluate.evaluate(file, batches, split.count)
    with open(path, "rb") as content:
        compressed = gzip.compress(content.read())
    single = LiteModel(path, threads=1)
    return Result(
        size=os.path.getsize(path),
        gzip_size=len(compressed),
        top_1=accuracy.top_1,
        latency=statistics.median(single.benchmark(50)),
        partitions=single.partitions(),
    )


def print_table(results):
    """Prints results as a Markdown table."""
    print("| | MB | MB, gzip | top-1 | ms | partitions |")
    print("|---|---|---|---|---|---|")
    for method, result in results.items():
        print(
            f"| {method} | {result['size'] / 1e6:.2f} "
            f"| {result['gzip_size'] / 1e6:.2f} | {result['top_1']:.2f} % "
            f"| {1e3 * result['latency']:.1f} | {result['partitions']} |"
        )


def main(_):
    os.makedirs(FLAGS.workdir, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    model = load_classifier(FLAGS.model)
    data = datasets.load(FLAGS.dataset, FLAGS.train_split, FLAGS.data_dir)
    held_out = datasets.load(FLAGS.dataset, FLAGS.eval_split, FLAGS.data_dir)
    evaluate.check_classes(head(model).class_names, data, FLAGS.model)
    size = model.input_shape[1] or default_size(model)
    prepare, prepare_eval = datasets.PIPELINES[datasets.pipeline_for(size)]
    batches = prepare(
        data.dataset, FLAGS.batch_size, FLAGS.seed, image_size=size
    )
    steps = data.count // FLAGS.batch_size
    # To measure ranges on: images as they are, not moved or blanked.
    plain = prepare_eval(data.dataset.take(200), 200, image_size=size)
    samples = np.asarray(next(iter(plain))[0])

    settings = {name: FLAGS[name].value for name in SETTINGS}
    checkpoints.keep_settings(
        settings, os.path.join(FLAGS.workdir, "settings.json")
    )
    path = os.path.join(FLAGS.workdir, "results.json")
    results = {}
    if os.path.exists(path):
        with open(path) as file:
            results = json.load(file)
    for method in FLAGS.method:
        if method in results:
            continue
        made = compress(model, method, batches, steps, samples, FLAGS)
        file = os.path.join(FLAGS.workdir, f"{method}.tflite")
        keras_nasnet.export_tflite(
            made,
            file,
            METHODS[method][1],
            representative_data=samples,
            labels=class_names(model),
        )
        results[method] = dataclasses.asdict(measure(file, held_out))
        checkpoints.write_json(results, path)
    print_table(results)


if __name__ == "__main__":
    define_flags()
    app.run(main)
