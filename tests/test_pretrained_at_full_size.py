"""The road of `weights="imagenet"`, with files as large as the published."""

import os
import time
import types

import keras
import pytest

import keras_nasnet
from keras_nasnet import pretrained
from keras_nasnet.weights import files
from tests import official_files
from tests.networks import images
from tests.networks import relative_difference
from tests.networks import run
from tests.test_pretrained import assert_equal_outputs
from tests.test_pretrained import assert_fresh
from tests.test_pretrained import assert_same_weights
from tests.test_pretrained import trunk

# Network -> factory of both packages, image size.
NETWORKS = {
    "nasnet_mobile": ("NASNetMobile", 224),
    "nasnet_large": ("NASNetLarge", 331),
}


@pytest.fixture(
    scope="module",
    params=[
        "nasnet_mobile",
        pytest.param("nasnet_large", marks=pytest.mark.slow),
    ],
)
def road(tmp_path_factory, request):
    """Serves the files, loads each of them once, and stops serving."""
    served = tmp_path_factory.mktemp("served")
    factory, size = NETWORKS[request.param]
    names = [
        record.url.rpartition("/")[2]
        for record in pretrained.KERAS_RECORDS
        if record.network == request.param
    ]
    road = types.SimpleNamespace(
        network=request.param,
        factory=getattr(keras_nasnet, factory),
        official=getattr(keras.applications, factory),
        size=size,
        names=names,
        home=tmp_path_factory.mktemp("home"),
        source=official_files.official_network(request.param),
        no_top_file=served / names[1],
    )
    road.source_no_top = official_files.without_top(road.source)
    official_files.save_official(road.source, served / names[0])
    official_files.save_official(road.source_no_top, road.no_top_file)
    with pytest.MonkeyPatch.context() as monkeypatch:
        official_files.expect_files(monkeypatch, served)
        monkeypatch.setenv("KERAS_HOME", str(road.home))
        with official_files.Mirror(served) as mirror:
            monkeypatch.setenv(pretrained.MIRROR_VARIABLE, mirror.url)
            road.model = road.factory()
            road.model_no_top = road.factory((None, None, 3), include_top=False)
            road.requests = mirror.requests
        yield road


def test_scores(road):
    assert_equal_outputs(road.model, road.source, road.size, road.size)


def test_features(road):
    assert_equal_outputs(
        road.model_no_top, road.source_no_top, road.size, road.size
    )


def test_features_at_another_size(road):
    expected = road.official(
        (96, 131, 3), include_top=False, weights=str(road.no_top_file)
    )
    assert_equal_outputs(road.model_no_top, expected, 96, 131)


def test_each_file_was_fetched_once(road):
    assert road.requests == [f"/{name}" for name in road.names]
    for name in (road.network, f"{road.network}_no_top"):
        (path,) = (road.home / "models").glob(f"{name}-*.weights.h5")
        digest = path.name.removesuffix(".weights.h5").split("-")[-1]
        assert digest == files.digest(path, "sha256")
    assert len(os.listdir(road.home / "models")) == 4


def test_second_load_is_fast_and_needs_nothing(road, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a file is converted")

    monkeypatch.setattr(official_files.builder_module(), "NASNet", refuse)
    start = time.perf_counter()
    model = road.factory()
    # Mobile takes under 2 seconds on a machine that does nothing else.
    assert time.perf_counter() - start < 20
    assert_same_weights(model.get_weights(), road.model.get_weights())


def test_other_classes(road, caplog):
    model = road.factory((96, 131, 3), classes=7)
    (line,) = caplog.messages
    assert f"{road.network}: no weights for predictions in" in line
    assert "(7 classes here, 1000 there)" in line
    assert model.output_shape == (None, 7)
    assert_fresh(model.get_layer("predictions"))
    pictures = images(2, 96, 131, 3)
    expected = run(road.model_no_top, pictures).mean((1, 2))
    outputs = run(trunk(model), pictures)
    assert relative_difference(outputs, expected) < 1e-5
