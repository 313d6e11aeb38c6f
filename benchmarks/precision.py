"""Compares 16 bits with 32: while a network learns, and when it answers.

    python -m benchmarks.precision --data_dir=FOLDER --out=precision.png \\
        --photographs=FOLDER

Trains NASNetTiny on CIFAR-10 in float32 and in mixed bfloat16 from the same
weights on the same batches, and once more in float32 from other weights, which
tells what chance does. Then the shipped network classifies photographs in both.
"""

import os

import keras
import numpy as np
from absl import app
from absl import flags

import keras_nasnet
from benchmarks.training import in_bfloat16
from keras_nasnet.canvas import picture_path
from keras_nasnet.canvas import save_figure
from training import checkpoints
from training import datasets

FLAGS = flags.FLAGS
# name -> (whether in mixed precision, seed, colour)
RUNS = {
    "float32": (False, 0, "#31507a"),
    "float32, other seed": (False, 1, "#9db3d1"),
    "mixed bfloat16": (True, 0, "#b0563b"),
}
# Steps over which a curve is averaged.
WINDOW = 25


def define_flags():
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_integer("steps", 500, "Training steps.", lower_bound=WINDOW)
    flags.DEFINE_string("photographs", None, "Folder of images to classify.")
    flags.DEFINE_string("out", None, "Picture of the curves to write.")
    flags.DEFINE_string("json", None, "Where to write the numbers.")


class Losses(keras.callbacks.Callback):
    """Keeps the loss of every step, which Keras averages."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        # Keras tells the mean since the start.
        total = logs["loss"] * (batch + 1)
        self.values.append(total - sum(self.values))


def train(is_mixed, seed, data, held_out, steps):
    """Trains a network.

    Args:
        is_mixed: Whether to compute in bfloat16.
        seed: Integer that decides its first weights.
        data: Dataset of batches of images and labels.
        held_out: Dataset of other batches.
        steps: Integer, number of batches to train on.

    Returns:
        The loss of every step, and the accuracy on `held_out` at the end.
    """
    keras.utils.set_random_seed(seed)
    build = keras_nasnet.NASNetTiny
    if is_mixed:
        build = in_bfloat16(build)
    model = build(weights=None)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.05, steps),
            momentum=0.9,
            nesterov=True,
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    losses = Losses()
    model.fit(data.take(steps), callbacks=[losses], verbose=2)
    _, accuracy = model.evaluate(held_out, verbose=0)
    return losses.values, accuracy


def agreement(folder):
    """Compares the answers of the shipped network for photographs.

    Args:
        folder: Folder of images.

    Returns:
        Number of images, and the share of them that bfloat16 puts into the
        same class as float32.
    """
    model = keras_nasnet.NASNetTiny()
    paths = sorted(entry.path for entry in os.scandir(folder))
    pixels = [keras_nasnet.load_image(path, (32, 32)) for path in paths]
    x = keras_nasnet.preprocess_input(np.stack(pixels).astype("float32"))
    answers = [
        keras_nasnet.compile_inference(model, dtype=dtype)(x).argmax(1)
        for dtype in ("float32", "bfloat16")
    ]
    return len(paths), float(np.mean(answers[0] == answers[1]))


def plot(results, out):
    """Draws the loss of every run, averaged over some steps."""
    from matplotlib import figure

    sheet = figure.Figure((7, 3.2), layout="constrained")
    axes = sheet.subplots()
    for name, result in results.items():
        curve = np.convolve(result["loss"], np.ones(WINDOW) / WINDOW, "valid")
        steps = np.arange(len(curve)) + WINDOW
        axes.plot(steps, curve, color=RUNS[name][2], label=name, linewidth=1.2)
    axes.set(xlabel="step", ylabel=f"loss, mean of {WINDOW} steps")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(sheet, out)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    out = FLAGS.out and picture_path(FLAGS.out)
    split = datasets.load("cifar10", "train[:45000]", FLAGS.data_dir)
    rest = datasets.load("cifar10", "train[45000:]", FLAGS.data_dir)
    held_out = datasets.cifar_eval(rest.dataset, 500)
    results = {}
    for name, (is_mixed, seed, _) in RUNS.items():
        # Anew for each, because it would go on with other batches.
        data = datasets.cifar_train(split.dataset, 64, seed=0)
        losses, accuracy = train(is_mixed, seed, data, held_out, FLAGS.steps)
        results[name] = {"loss": losses, "accuracy": accuracy}
        print(
            f"{name:22} loss of the last {WINDOW} steps "
            f"{np.mean(losses[-WINDOW:]):.3f}, held-out accuracy {accuracy:.3f}"
        )
    if out:
        plot(results, out)
    if FLAGS.photographs:
        count, share = agreement(FLAGS.photographs)
        results["agreement"] = {"photographs": count, "share": share}
        print(f"bfloat16 agrees with float32 on {share:.1%} of {count} images")
    if FLAGS.json:
        checkpoints.write_json(results, FLAGS.json)


if __name__ == "__main__":
    define_flags()
    app.run(main)
