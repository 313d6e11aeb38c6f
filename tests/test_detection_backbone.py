"""NASNet as a backbone of KerasHub's tasks."""

import keras
import numpy as np
import pytest

import keras_nasnet
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.runs import NETWORK

keras_hub = pytest.importorskip("keras_hub")
from keras_nasnet.detection import NASNetBackbone  # noqa: E402
from keras_nasnet.detection.pictures import find  # noqa: E402

SMALL = {"num_cells": 1, "penultimate_filters": 192, "stem_filters": 4}


def test_other_cells_survive_the_configuration():
    backbone = NASNetBackbone(
        (None, None, 3),
        genotype=ALL_OPERATIONS,
        stem="cifar",
        num_cells=1,
        penultimate_filters=64,
        name="mine",
    )
    copy = NASNetBackbone.from_config(backbone.get_config())
    assert copy.genotype == ALL_OPERATIONS and copy.name == "mine"
    assert list(copy.pyramid_outputs) == ["P0", "P1", "P2"]
    copy.set_weights(backbone.get_weights())
    x = images(1, 16, 24, 3)
    np.testing.assert_array_equal(copy(x), backbone(x))


def test_preset():
    backbone = NASNetBackbone.from_preset("nasnet_tiny_cifar10")
    network = keras_nasnet.NASNetTiny((32, 32, 3), include_top=False)
    x = images(2, 32, 32, 3)
    np.testing.assert_allclose(backbone(x), network(x), atol=1e-4)


def test_preset_with_weights_of_ones_own(tmp_path):
    network = randomize(keras_nasnet.NASNetTiny(weights=None))
    path = str(tmp_path / "mine.weights.h5")
    network.save_weights(path)
    backbone = NASNetBackbone.from_preset("nasnet_tiny_cifar10", weights=path)
    x = images(1, 32, 32, 3)
    features = network.get_layer("final_relu").output
    expected = keras.Model(network.input, features)(x)
    np.testing.assert_allclose(backbone(x), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="weights='imagenet'"):
        NASNetBackbone.from_preset("nasnet_tiny_cifar10", weights="imagenet")
    with pytest.raises(ValueError, match="`weights` are for nasnet_tiny_cifar"):
        NASNetBackbone.from_preset(str(tmp_path), weights=path)


def test_preset_of_a_folder(tmp_path):
    backbone = randomize(NASNetBackbone((32, 32, 3), **SMALL))
    backbone.save_to_preset(str(tmp_path / "preset"))
    x = images(1, 32, 32, 3)
    for cls in (NASNetBackbone, keras_hub.models.Backbone):
        loaded = cls.from_preset(str(tmp_path / "preset"))
        assert isinstance(loaded, NASNetBackbone)
        np.testing.assert_allclose(loaded(x), backbone(x), rtol=1e-4)


def test_mobile_preset_has_the_settings_of_the_network():
    backbone = NASNetBackbone.from_preset(
        "nasnet_mobile_imagenet", load_weights=False
    )
    network = keras_nasnet.NASNetMobile(include_top=False, weights=None)
    assert backbone.count_params() == network.count_params()


def test_image_classifier():
    backbone = NASNetBackbone((32, 32, 3), stem="cifar", **NETWORK)
    model = keras_hub.models.ImageClassifier(backbone, num_classes=3)
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    before = [np.array(w) for w in model.trainable_weights]
    model.train_on_batch(images(3, 32, 32, 3), np.arange(3))
    changed = [
        (np.array(w) != old).any()
        for w, old in zip(model.trainable_weights, before)
    ]
    assert np.mean(changed) > 0.9


@pytest.mark.parametrize(
    "settings, levels",
    [
        ({"stem": "imagenet"}, (3, 5)),
        ({"stem": "cifar"}, (2, 4)),
    ],
)
def test_retinanet_learns(settings, levels):
    backbone = NASNetBackbone(
        (64, 64, 3), bn_momentum=0.9, **NETWORK, **settings
    )
    model = keras_hub.models.RetinaNetObjectDetector(
        keras_hub.models.RetinaNetBackbone(
            backbone, *levels, use_p5=False, image_shape=(64, 64, 3)
        ),
        num_classes=2,
        bounding_box_format="xyxy",
        pre_logits_num_conv_layers=1,
        prediction_decoder=keras_hub.layers.NonMaxSuppression(
            "xyxy", from_logits=True, confidence_threshold=0.05
        ),
    )
    x = images(2, 64, 64, 3) / 4
    x[0, 8:40, 16:48] = 1
    x[1, 20:52, 8:40] = -1
    y = {
        "boxes": np.array([[[16, 8, 48, 40]], [[8, 20, 40, 52]]], "float32"),
        "labels": np.array([[0], [1]]),
    }
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    history = model.fit(x, y, batch_size=2, epochs=10, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    found = find(model, x)
    assert set(found) == {"boxes", "labels", "scores"}
    assert np.isfinite(found["boxes"]).all()
