"""Building is quick because it traces nothing, and how that is measured."""

import json

import keras
import pytest

from benchmarks import build_time
from keras_nasnet import Cell
from keras_nasnet import Stem
from tests.networks import ALL_OPERATIONS
from tests.networks import small_network


def test_building_runs_no_layer(monkeypatch):
    def call(self, inputs, training=False):
        raise AssertionError(f"{self.name} was run while it was built")

    for layer in (Stem, Cell):
        monkeypatch.setattr(layer, "call", call)
    model = small_network((None, None, 3), "imagenet", ALL_OPERATIONS)
    assert model.output_shape == (None, 10)


def test_networks_are_built_in_turns(monkeypatch):
    built = []
    monkeypatch.setattr(
        build_time,
        "BUILDERS",
        {name: lambda weights, n=name: built.append(n) for name in "ab"},
    )
    times = build_time.build_times(3)
    assert "".join(built) == "abababab"
    # The first one of each does not count.
    assert {name: len(values) for name, values in times.items()} == {
        "a": 3,
        "b": 3,
    }


def test_report(tmp_path):
    path = tmp_path / "times.json"
    times = {"keras_nasnet": [1, 9, 2], "keras.applications": [4, 4, 4]}
    build_time.write_json(build_time.report(times), path)
    assert [file.name for file in tmp_path.iterdir()] == ["times.json"]
    report = json.loads(path.read_text())
    assert report["seconds"] == times
    assert report["ratio"] == pytest.approx(0.5)
    assert report["keras"] == keras.__version__
