"""Draws the loss and the accuracy of a training run over its epochs.

Run:

    python -m training.plot_log --workdir=runs/tiny --out=tiny.png
"""

import csv
import os

import numpy as np
from absl import app
from absl import flags

from keras_nasnet.canvas import picture_path
from keras_nasnet.canvas import save_figure
from keras_nasnet.names import PREDICTIONS_LAYER

FLAGS = flags.FLAGS
CURVES = {"training": ("", "#31507a"), "validation": ("val_", "#b0563b")}


def define_flags():
    flags.DEFINE_string("workdir", None, "Folder of the run, with `log.csv`.")
    flags.DEFINE_string("out", None, "The .png, .svg or .pdf file to write.")
    flags.mark_flags_as_required(["workdir", "out"])


def read_log(path):
    """Reads what Keras' `CSVLogger` wrote.

    Args:
        path: Path of the file.

    Returns:
        A dictionary from the name of a column to its numbers, one per epoch,
        without columns that have none.

    Raises:
        ValueError: If the file has no complete epoch yet.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} has no complete epoch yet.")
    columns = {
        name: np.array([float(row[name].replace("NA", "nan")) for row in rows])
        for name in rows[0]
    }
    return {n: c for n, c in columns.items() if not np.isnan(c).all()}


def plot_log(log, out):
    """Draws a log, of two classifiers the one that stays.

    Args:
        log: What `read_log` returned.
        out: Path of the picture, which ends in `.png`, `.svg` or `.pdf`.
    """
    from matplotlib import figure

    out = picture_path(out)
    sheet = figure.Figure((8, 3.2), layout="constrained")
    for axes, metric in zip(sheet.subplots(1, 2), ("loss", "accuracy")):
        for label, (prefix, color) in CURVES.items():
            column = f"{prefix}{PREDICTIONS_LAYER}_{metric}"
            if column not in log:
                column = f"{prefix}{metric}"
            if column in log:
                epochs = log["epoch"] + 1
                axes.plot(epochs, log[column], ".-", color=color, label=label)
        axes.set(xlabel="epoch", title=metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(sheet, out)


def main(_):
    plot_log(read_log(os.path.join(FLAGS.workdir, "log.csv")), FLAGS.out)
    print(f"Wrote {FLAGS.out}.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
