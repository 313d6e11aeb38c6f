"""Is the accuracy of pretrained weights measured and reported correctly?"""

import functools
import json
import os

import keras
import numpy as np
import pytest

import keras_nasnet
from tests.commands import run_command
from tests.networks import randomize
from tests.networks import small_network

pytest.importorskip("tensorflow")
from weights import verify  # noqa: E402

CLASSES = tuple((f"n0000000{i}", f"class {i}") for i in range(9))
SIZE = 40


@pytest.fixture
def network(monkeypatch):
    """A small network that the command takes for NASNetMobile."""
    model = small_network(
        (SIZE, SIZE, 3), "imagenet", classes=9, name="nasnet_mobile"
    )
    randomize(model)

    def factory(weights):
        assert weights == "my.weights.h5"
        return model

    monkeypatch.setattr(keras_nasnet, "NASNetMobile", factory)
    return model


@pytest.fixture
def data(tmp_path):
    """Images of one colour each, so that crop and size do not matter."""
    rng = np.random.default_rng(0)
    for class_id, _ in CLASSES:
        folder = tmp_path / "val" / class_id
        folder.mkdir(parents=True)
        for i in range(3):
            pixels = np.broadcast_to(rng.integers(0, 256, 3), (50, 60, 3))
            keras.utils.save_img(folder / f"{i}.png", pixels, scale=False)
    return tmp_path / "val"


def hits(model, data, k):
    """Counts the images with their class among the k best scores."""
    count = 0
    for label, (class_id, _) in enumerate(CLASSES):
        for file in (data / class_id).iterdir():
            color = keras.utils.img_to_array(keras.utils.load_img(file))[0, 0]
            image = np.broadcast_to(color, (1, SIZE, SIZE, 3))
            image = keras_nasnet.preprocess_input(image.astype("float32"))
            scores = model.predict_on_batch(image)[0]
            count += label in np.argsort(-scores)[:k]
    return count


def test_report(network, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras_nasnet, "imagenet_classes", lambda: CLASSES)
    monkeypatch.chdir(tmp_path)
    command = functools.partial(
        run_command, verify, "--weights=my.weights.h5", "--batch_size=10"
    )
    command(f"--data={data}")
    report = json.loads((tmp_path / "runs/verify_mobile.json").read_text())
    top_1, top_5 = (hits(network, data, k) for k in (1, 5))
    assert 0 < top_1 < top_5 < 27
    assert report == {
        "weights": "my.weights.h5",
        "network": "nasnet_mobile",
        "pool_padding": "zero",
        "image_size": SIZE,
        "images": 27,
        "top_1": {"measured": pytest.approx(top_1 / 0.27), "published": 74.0},
        "top_5": {"measured": pytest.approx(top_5 / 0.27), "published": 91.6},
    }
    line = f"top-1: {top_1 / 0.27:.2f} % measured, 74.0 % published"
    assert line in capsys.readouterr().out
    out = tmp_path / "new" / "report.json"
    command(f"--data={data}", f"--out={out}")
    assert json.loads(out.read_text()) == report
    assert os.listdir(out.parent) == ["report.json"]


def test_folder_of_other_classes(data):
    with pytest.raises(ValueError) as error:
        verify.load_validation(str(data))
    assert str(error.value) == (
        f"{data} must have the 1000 classes n01440764 to n15075141 of "
        "ImageNet. Found 9, beginning with n00000000, n00000001, n00000002."
    )


def test_prepared_data_set(tmp_path, monkeypatch):
    from training import datasets

    calls = []

    def load(*arguments):
        calls.append(arguments)
        names = [class_id for class_id, _ in keras_nasnet.imagenet_classes()]
        return datasets.Split(None, 50_000, names)

    monkeypatch.setattr(datasets, "load", load)
    (tmp_path / "imagenet2012").mkdir()
    assert verify.load_validation(str(tmp_path)).count == 50_000
    verify.load_validation("imagenet_v2")
    assert calls == [
        ("imagenet2012", "validation", str(tmp_path)),
        ("imagenet_v2", "validation"),
    ]
