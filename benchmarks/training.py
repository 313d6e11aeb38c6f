"""Times training steps of NASNetMobile, and the input pipeline before them.

    python -m benchmarks.training --batch_size=16

The model of `keras.applications` and ours take turns in one process. The
pipeline is that of the CIFAR-10 recipes, on images made up here; it must be
faster than the small network that it feeds.
"""

import itertools
import time

import keras
import numpy as np
from absl import app
from absl import flags

import keras_nasnet
from benchmarks import comparison
from training import checkpoints
from training import datasets

FLAGS = flags.FLAGS
FACTORIES = {
    comparison.PEER: keras.applications.NASNetMobile,
    comparison.OURS: keras_nasnet.NASNetMobile,
}


def define_flags():
    flags.DEFINE_integer("batch_size", 16, "Images per step.", lower_bound=1)
    flags.DEFINE_integer("rounds", 20, "Steps of each.", lower_bound=1)
    flags.DEFINE_bool(
        "bfloat16", False, "Whether to train in mixed precision as well."
    )
    flags.DEFINE_string("json", None, "Where to write the times, in seconds.")


def steps(factories, size, batch_size):
    """Returns functions that take one training step each.

    Args:
        factories: Dictionary from name to factory of a classifier.
        size: Integer, height and width of the images.
        batch_size: Integer, number of images per step.

    Returns:
        A dictionary from name to function without arguments.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch_size, size, size, 3)).astype("float32")
    y = rng.integers(0, 10, batch_size)

    def step_of(factory):
        model = factory(weights=None, input_shape=(size, size, 3), classes=10)
        model.compile(
            keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy"
        )
        return lambda: model.train_on_batch(x, y)

    return {name: step_of(factory) for name, factory in factories.items()}


def in_bfloat16(factory):
    """Returns a factory of the same networks in mixed precision."""

    def build(**settings):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            return factory(**settings)
        finally:
            keras.config.set_dtype_policy(policy)

    return build


def pipeline_rate(batch_size, batches=100):
    """Measures the input pipeline of the CIFAR-10 recipes, in images/s."""
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(
        0, 256, (2000, 32, 32, 3), "uint8"
    )
    data = tf.data.Dataset.from_tensor_slices((pixels, np.zeros(2000, "int64")))
    prepare, _ = datasets.PIPELINES["cifar"]
    stream = iter(prepare(data, batch_size, 0, cutout=8).repeat())
    next(stream)
    start = time.perf_counter()
    for _ in itertools.islice(stream, batches):
        pass
    return batch_size * batches / (time.perf_counter() - start)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    factories = dict(FACTORIES)
    if FLAGS.bfloat16:
        for name, factory in FACTORIES.items():
            factories[f"{name}, bfloat16"] = in_bfloat16(factory)
    times = comparison.in_turns(
        steps(factories, 224, FLAGS.batch_size), FLAGS.rounds
    )
    result = comparison.report(
        times, network="mobile", batch_size=FLAGS.batch_size
    )
    comparison.print_report(f"mobile x {FLAGS.batch_size}", result)
    tiny = steps({"tiny": keras_nasnet.NASNetTiny}, 32, 64)
    (seconds,) = comparison.in_turns(tiny, FLAGS.rounds).values()
    result["images_per_second"] = {
        "pipeline": pipeline_rate(64),
        "NASNetTiny": 64 / float(np.median(seconds)),
    }
    for name, rate in result["images_per_second"].items():
        print(f"{name:28}{rate:10.0f} images/s")
    if FLAGS.json:
        checkpoints.write_json(result, FLAGS.json)


if __name__ == "__main__":
    define_flags()
    app.run(main)
