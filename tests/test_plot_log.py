"""Is the log of a training run read and drawn?"""

import os

import keras
import numpy as np
import pytest
from PIL import Image

from tests.commands import run_command

pytest.importorskip("matplotlib")
from training import plot_log  # noqa: E402

HEADS = """\
epoch,aux_predictions_loss,loss,predictions_accuracy,predictions_loss,val_loss
0,1.79,6.9,0.40,1.78,NA
1,1.44,4.4,0.62,1.35,NA
"""
PLAIN = """\
epoch,accuracy,loss,val_accuracy,val_loss
0,0.1,5.0,0.2,4.0
1,0.3,3.0,0.4,2.0
"""


def curves(text, tmp_path, monkeypatch):
    """Returns what was drawn: title and label -> epochs and values."""
    from matplotlib.axes import Axes

    drawn = {}
    plot = Axes.plot

    def spy(axes, epochs, values, *args, label, **kwargs):
        drawn.setdefault(label, []).append((list(epochs), list(values)))
        return plot(axes, epochs, values, *args, label=label, **kwargs)

    monkeypatch.setattr(Axes, "plot", spy)
    (tmp_path / "log.csv").write_text(text)
    out = tmp_path / "curve.png"
    run_command(plot_log, f"--workdir={tmp_path}", f"--out={out}")
    assert set(os.listdir(tmp_path)) == {"log.csv", "curve.png"}
    assert np.asarray(Image.open(out)).std() > 0
    return drawn


def test_the_classifier_that_stays(tmp_path, monkeypatch):
    assert curves(HEADS, tmp_path, monkeypatch) == {
        "training": [([1, 2], [1.78, 1.35]), ([1, 2], [0.40, 0.62])]
    }


def test_training_and_validation(tmp_path, monkeypatch):
    assert curves(PLAIN, tmp_path, monkeypatch) == {
        "training": [([1, 2], [5, 3]), ([1, 2], [0.1, 0.3])],
        "validation": [([1, 2], [4, 2]), ([1, 2], [0.2, 0.4])],
    }


def test_log_of_keras(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    path = tmp_path / "log.csv"
    history = model.fit(
        np.ones((4, 2)),
        np.ones((4, 1)),
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.CSVLogger(path)],
    ).history
    log = plot_log.read_log(path)
    assert list(log["epoch"]) == [0, 1, 2]
    np.testing.assert_allclose(log["loss"], history["loss"])


def test_refused(tmp_path):
    path = tmp_path / "log.csv"
    for text in ("", "epoch,loss\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="log.csv has no complete epoch"):
            plot_log.read_log(path)
    path.write_text(PLAIN)
    with pytest.raises(ValueError, match="must end in one of .png"):
        plot_log.plot_log(plot_log.read_log(path), tmp_path / "a.gif")
