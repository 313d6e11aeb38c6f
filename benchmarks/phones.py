"""Times TensorFlow Lite files: ours beside what TensorFlow's converter makes.

    python -m benchmarks.phones --network=mobile --threads=1

Both are made of the same random weights, ours by `export_tflite`, the others
of the network of `keras.applications`, and run in turns by LiteRT.
"""

import contextlib
import io
import os
import resource
import tempfile

import keras
import numpy as np
from absl import app
from absl import flags

import keras_nasnet
from benchmarks import comparison
from benchmarks import latency
from keras_nasnet.litert import LiteModel
from training import checkpoints

FLAGS = flags.FLAGS
CONVERTED, CONVERTED_INT8 = "converter", "converter, int8"
OURS, OURS_INT8 = comparison.OURS, f"{comparison.OURS}, int8"
SAMPLES = 20


def define_flags():
    flags.DEFINE_enum(
        "network", "mobile", list(latency.NETWORKS), "What to convert."
    )
    flags.DEFINE_multi_integer("threads", [1, 2], "Threads to run with.")
    flags.DEFINE_integer("rounds", 20, "Calls of each.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the times, in seconds.")


def with_probabilities(theirs, ours, image):
    """Ends a network in a softmax, as every file of ours does.

    The logits of both are scaled, so that no probability is 0 or 1: such
    ones would agree whatever is wrong.

    Args:
        theirs: The model of `keras.applications`, which returns logits.
        ours: Our model with the same weights.
        image: One image.

    Returns:
        `theirs` with a softmax.
    """
    largest = np.abs(theirs.predict(image, verbose=0)).max()
    for model in (theirs, ours):
        classifier = model.layers[-1]
        classifier.set_weights([w / largest for w in classifier.get_weights()])
    return keras.Model(theirs.input, keras.layers.Softmax()(theirs.output))


def make_files(theirs, ours, folder, samples):
    """Writes all files.

    Args:
        theirs: The model of `keras.applications`.
        ours: Our model with the same weights.
        folder: Folder to write to.
        samples: Images to measure the ranges of activations on.

    Returns:
        A dictionary from name to path.
    """
    paths = {
        name: os.path.join(folder, f"{i}.tflite")
        for i, name in enumerate((CONVERTED, CONVERTED_INT8, OURS, OURS_INT8))
    }
    # First, because the memory of a child counts from that of its parent.
    for name, quantization in ((OURS, None), (OURS_INT8, "int8")):
        keras_nasnet.export_tflite(
            ours,
            paths[name],
            quantization,
            representative_data=samples,
            # Rounding turns random weights into noise, here and there.
            min_agreement=0 if quantization else None,
            verbose=False,
        )
    for name, data in ((CONVERTED, None), (CONVERTED_INT8, samples)):
        with open(paths[name], "wb") as file:
            file.write(convert(theirs, data))
    return paths


def convert(model, samples):
    """Converts a model, to integers if there are samples."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if samples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [image[None]] for image in samples
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
    return converter.convert()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    theirs, ours = latency.networks(FLAGS.network)
    size = latency.NETWORKS[FLAGS.network][1]
    samples = np.random.default_rng(0).uniform(-1, 1, (SAMPLES, size, size, 3))
    samples = samples.astype("float32")
    theirs = with_probabilities(theirs, ours, samples[:1])
    results = []
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            paths = make_files(theirs, ours, folder, samples)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"\n{'':28}{'MB':>8}{'operators':>11}{'partitions':>12}")
        facts = {}
        for name, path in paths.items():
            file = LiteModel(path)
            facts[name] = {
                "bytes": os.path.getsize(path),
                "operators": sum(file.operators().values()),
                "partitions": file.partitions(),
            }
            print(
                f"{name:28}{facts[name]['bytes'] / 1e6:8.2f}"
                f"{facts[name]['operators']:11}{facts[name]['partitions']:12}"
            )
        print(f"Our conversion took up to {memory / 2**20:.2f} GiB.")
        for threads in FLAGS.threads:
            files = {name: LiteModel(p, threads) for name, p in paths.items()}
            logits = [
                np.log(files[n](samples[:1])[0]) for n in (CONVERTED, OURS)
            ]
            difference = _difference(*logits)
            if not difference < latency.AGREEMENT["float32"]:
                raise ValueError(f"The files differ by {difference:.2g}.")
            calls = {n: lambda f=f: f(samples[:1]) for n, f in files.items()}
            result = comparison.report(
                comparison.in_turns(calls, FLAGS.rounds),
                peer=CONVERTED,
                network=FLAGS.network,
                threads=threads,
                files=facts,
                difference=difference,
                conversion_kilobytes=memory,
            )
            comparison.print_report(f"{threads} thread(s)", result)
            median = result["median"]
            print(
                "Integers beside the converter's integers: "
                f"{median[OURS_INT8] / median[CONVERTED_INT8]:.2f}"
            )
            results.append(result)
    if FLAGS.json:
        checkpoints.write_json(results, FLAGS.json)


def _difference(logits, others):
    """Returns the largest difference, as a fraction of the largest logit."""
    return float(np.abs(logits - others).max() / np.abs(logits).max())


if __name__ == "__main__":
    define_flags()
    app.run(main)
