"""Pixels in, class names out: the same as keras.applications, and safer."""

import keras
import numpy as np
import pytest
from keras.src.applications import imagenet_utils

from keras_nasnet.preprocessing import decode_predictions
from keras_nasnet.preprocessing import imagenet_classes
from keras_nasnet.preprocessing import preprocess_input

DTYPES = ("uint8", "int32", "bool", "float16", "float32", "float64")


def pixels(dtype="uint8", shape=(2, 5, 4, 3)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def scaled(x):
    """What keras.applications makes of a copy of `x`."""
    return keras.applications.nasnet.preprocess_input(np.copy(x))


def scores(images=3):
    return np.random.default_rng(0).random((images, 1000), dtype="float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_become_what_keras_makes_of_them_and_stay_as_they_are(dtype):
    x = pixels(dtype)
    before = x.copy()
    y = preprocess_input(x)
    np.testing.assert_array_equal(y, scaled(x), strict=True)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(x, y)


def test_range():
    assert preprocess_input(np.array([0.0, 127.5, 255.0])).tolist() == [
        -1,
        0,
        1,
    ]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_views_and_arrays_that_cannot_be_written(dtype):
    x = pixels(dtype)[:, ::2, ::-1]
    x.setflags(write=False)
    np.testing.assert_array_equal(preprocess_input(x), scaled(x), strict=True)


def test_lists_and_images_become_arrays():
    x = pixels(shape=(5, 4, 3))
    image = pytest.importorskip("PIL.Image").fromarray(x)
    for other in (x.tolist(), image):
        y = preprocess_input(other)
        np.testing.assert_array_equal(y, scaled(x), strict=True)


def test_integers_become_floatx():
    keras.config.set_floatx("float16")
    try:
        assert preprocess_input(pixels()).dtype == "float16"
        assert preprocess_input(pixels().tolist()).dtype == "float16"
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32"])
def test_tensors_of_the_backend(dtype):
    x = keras.ops.convert_to_tensor(pixels(dtype))
    y = preprocess_input(x)
    assert keras.ops.is_tensor(y)
    y = keras.ops.convert_to_numpy(y)
    # Half precision may divide by 127.5 or multiply with its inverse.
    atol = 1e-3 if dtype == "float16" else 1e-6
    expected = scaled(pixels(dtype))
    np.testing.assert_allclose(y, expected, rtol=0, atol=atol, strict=True)
    x = keras.ops.convert_to_numpy(x)
    np.testing.assert_array_equal(x, pixels(dtype))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_symbolic_tensors(dtype):
    image = keras.Input((None, None, 3), dtype=dtype)
    model = keras.Model(image, preprocess_input(image))
    expected = scaled(pixels(dtype))
    assert model.outputs[0].dtype == expected.dtype
    y = keras.ops.convert_to_numpy(model(pixels(dtype)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_tf_data_maps_it_on_every_backend(dtype):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(pixels(dtype))
    y = np.stack(list(data.map(preprocess_input).as_numpy_iterator()))
    expected = scaled(pixels(dtype))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6, strict=True)


def test_data_format():
    x = pixels(shape=(1, 3, 5, 4))
    y = preprocess_input(x, data_format="channels_first")
    np.testing.assert_array_equal(y, scaled(x))
    with pytest.raises(ValueError, match="`data_format`.*'NHWC'"):
        preprocess_input(x, data_format="NHWC")


def test_class_table():
    classes = imagenet_classes()
    assert len(classes) == 1000
    ids = [class_id for class_id, _ in classes]
    # The order of the outputs is that of the ids.
    assert ids == sorted(set(ids))
    assert classes[0] == ("n01440764", "tench")
    assert classes[1] == ("n01443537", "goldfish")
    assert classes[134] == ("n02012849", "crane")
    assert classes[282] == ("n02123159", "tiger_cat")
    assert classes[517] == ("n03126707", "crane")
    assert classes[607] == ("n03590841", "jack-o'-lantern")
    assert classes[999] == ("n15075141", "toilet_tissue")


@pytest.mark.parametrize("top", [1, 5, 1000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_decoded_as_keras_does(monkeypatch, top, dtype):
    # uint8, the type of quantised networks, has many equal scores.
    preds = (100 * scores()).astype(dtype)
    # In place of the download.
    table = {str(i): list(pair) for i, pair in enumerate(imagenet_classes())}
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX", table)
    expected = keras.applications.nasnet.decode_predictions(preds, top)
    assert decode_predictions(preds, top) == expected
    np.testing.assert_array_equal(preds, (100 * scores()).astype(dtype))


def test_decoded_best_first():
    preds = np.zeros((2, 1000), "float32")
    preds[0, [999, 1, 282]] = 0.5, 0.3, 0.2
    preds[1, 0] = 1
    first, second = decode_predictions(preds, top=3)
    assert first == [
        ("n15075141", "toilet_tissue", np.float32(0.5)),
        ("n01443537", "goldfish", np.float32(0.3)),
        ("n02123159", "tiger_cat", np.float32(0.2)),
    ]
    assert second[0] == ("n01440764", "tench", 1)
    assert len(decode_predictions(preds)[0]) == 5


def test_decoded_tensors_of_the_backend():
    preds = keras.ops.convert_to_tensor(scores())
    assert decode_predictions(preds) == decode_predictions(scores())


@pytest.mark.parametrize("shape", [(1000,), (2, 10), (2, 1001), (1, 1, 1000)])
def test_wrong_predictions(shape):
    with pytest.raises(ValueError, match=r"`preds`.*\(images, 1000\)"):
        decode_predictions(np.zeros(shape))


@pytest.mark.parametrize("top", [0, -1, 1001, 2.0, "5", None])
def test_wrong_top(top):
    with pytest.raises(ValueError, match="`top` .* from 1 to 1000"):
        decode_predictions(scores(), top=top)
