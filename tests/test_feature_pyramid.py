"""Features at every scale of a network."""

import keras
import numpy as np
import pytest

from keras_nasnet import NASNetMobile
from keras_nasnet import feature_pyramid
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network


def backbone(model):
    """Returns a model with the whole pyramid as its outputs."""
    return keras.Model(model.input, feature_pyramid(model))


def assert_same_features(outputs, expected):
    assert list(outputs) == list(expected)
    for level in expected:
        difference = relative_difference(outputs[level], expected[level])
        assert difference < 1e-5, level


def test_levels_of_mobile():
    pyramid = feature_pyramid(NASNetMobile(weights=None))
    assert {level: x.shape[1:] for level, x in pyramid.items()} == {
        "P2": (56, 56, 44),
        "P3": (28, 28, 264),
        "P4": (14, 14, 528),
        "P5": (7, 7, 1056),
    }


@pytest.mark.parametrize("size", [(64, 64), (65, 65), (33, 98), (97, 64)])
@pytest.mark.parametrize(
    "stem, levels",
    [("imagenet", ("P2", "P3", "P4", "P5")), ("cifar", ("P0", "P1", "P2"))],
)
def test_strides(stem, levels, size):
    model = backbone(small_network((None, None, 3), stem, include_top=False))
    features = run(model, images(1, *size, 3))
    assert tuple(features) == levels
    # The first convolution of photographs has no padding.
    size = [(n - 1) // 2 if stem == "imagenet" else n for n in size]
    for level, x in features.items():
        strides = 2 ** (int(level[1]) - (stem == "imagenet"))
        assert x.shape[1:3] == tuple(-(-n // strides) for n in size)


def test_levels_are_the_last_cells_at_their_scale():
    model = small_network((64, 64, 3), "imagenet", num_cells=2)
    cells = {
        "P2": "cell_stem_0",
        "P3": "cell_1",
        "P4": "cell_3",
        "P5": "cell_5",
    }
    for level, x in feature_pyramid(model).items():
        assert x is model.get_layer(cells[level]).output


def test_features_argument():
    levels = ["P5", "P3"]
    whole = randomize(small_network((64, 65, 3), "imagenet", include_top=False))
    model = small_network(
        (64, 65, 3),
        "imagenet",
        include_top=False,
        features=levels,
        name="taps",
    )
    model.set_weights(whole.get_weights())
    assert model.name == "taps"
    x = images(2, 64, 65, 3)
    expected = run(backbone(whole), x)
    assert_same_features(run(model, x), {k: expected[k] for k in levels})


def test_of_a_loaded_model(tmp_path):
    model = randomize(small_network(aux_head=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = images(2, 32, 32, 3)
    assert_same_features(run(backbone(loaded), x), run(backbone(model), x))


def test_of_a_fine_tuned_model():
    trunk = randomize(small_network(include_top=False, pooling="avg"))
    trunk.get_layer("stem").trainable = False
    outputs = keras.layers.Dense(3, activation="softmax")(trunk.output)
    model = keras.Model(trunk.input, outputs)
    model.compile(
        keras.optimizers.SGD(0.1),
        "sparse_categorical_crossentropy",
        run_eagerly=keras.config.backend() != "jax",
    )
    x = images(6, 32, 32, 3)
    before = run(backbone(model), x)
    model.fit(x, np.arange(6) % 3, batch_size=6, verbose=0)
    after = run(backbone(model), x)
    for level in before:
        assert relative_difference(after[level], before[level]) > 1e-4
    assert_same_features(after, run(backbone(trunk), x))


def test_model_without_cells():
    image = keras.Input((32, 32, 3))
    nested = keras.Model(image, small_network()(image))
    with pytest.raises(ValueError, match="`model` has no cells"):
        feature_pyramid(nested)
