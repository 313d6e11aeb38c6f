"""Image files of all kinds, and what a classifier says about them."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_nasnet import Classifier
from keras_nasnet import load_image
from keras_nasnet import predict
from keras_nasnet import preprocess_input
from keras_nasnet.cli import main
from tests.networks import randomize
from tests.networks import small_network

NAMES = [f"name {i}" for i in range(10)]


@pytest.fixture
def picture():
    """A picture that is red above, and blue below."""
    pixels = np.zeros((40, 40, 3), "uint8")
    pixels[:20, :, 0] = pixels[20:, :, 2] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def model():
    return randomize(small_network(class_names=NAMES))


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return str(path)


def is_red(pixels):
    return pixels[0] > 200 and pixels[1] < 50 and pixels[2] < 50


def test_rgb(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    pixels = load_image(tmp_path / "a.png", (8, 12))
    assert pixels.shape == (8, 12, 3) and pixels.dtype == "uint8"
    assert is_red(pixels[0, 0]) and not is_red(pixels[-1, 0])


def test_central_square_is_cut_out(tmp_path):
    pixels = np.zeros((20, 60, 3), "uint8")
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", (4, 4)).min() == 255


def test_exif_turns_the_image_upright(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = load_image(tmp_path / "a.jpg", (8, 8))
    assert is_red(pixels[-1, 0]) and not is_red(pixels[0, 0])


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "RGB"])
def test_modes_with_colours(picture, mode, tmp_path):
    path = tmp_path / "a.tiff"
    picture.convert(mode).save(path)
    assert is_red(load_image(path, (8, 8))[0, 0])


@pytest.mark.parametrize("mode, white", [("L", 255), ("1", 1), ("I;16", 65535)])
def test_grey_modes(mode, white, tmp_path):
    kind = "uint16" if mode == "I;16" else "uint8"
    grey = Image.fromarray(np.full((9, 9), 255 if white == 1 else white, kind))
    if mode == "1":
        grey = grey.convert("1")
    grey.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", (8, 8)).min() == 255


def test_transparent_parts_become_white(tmp_path):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", (8, 8)).min() == 255


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_transparent_colour_becomes_white(mode, tmp_path):
    image = Image.new(mode, (9, 9))
    image.save(
        tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0
    )
    assert load_image(tmp_path / "a.png", (8, 8)).min() == 255


def test_broken_exif(picture, tmp_path):
    # Pillow raises `struct.error` for it.
    exif = b"Exif\0\0II*\0"
    picture.save(tmp_path / "a.jpg", exif=exif, dpi=(72, 72))
    with pytest.raises(ValueError, match="a.jpg cannot be read"):
        load_image(tmp_path / "a.jpg", (8, 8))


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert is_red(load_image(tmp_path / "a.gif", (8, 8))[0, 0])


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a.png")
    assert is_red(load_image(tmp_path / "a.png", (8, 8))[7, 7])


def test_unreadable_files(picture, tmp_path, monkeypatch):
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    with pytest.raises(ValueError, match="text.jpg is not an image"):
        load_image(text, (8, 8))
    with pytest.raises(ValueError, match="missing.jpg cannot be read"):
        load_image(tmp_path / "missing.jpg", (8, 8))
    whole = tmp_path / "whole.png"
    Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (99, 99, 3), "uint8")
    ).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:9000])
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        load_image(cut, (8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="whole.png is too large"):
        load_image(whole, (8, 8))


def test_predictions_are_the_models(model, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    pixels = load_image(tmp_path / "a.png", (32, 32), crop=1.0)
    scores = np.asarray(model(preprocess_input(pixels[None])))[0]
    predictions = predict(model, tmp_path / "a.png", top=3)
    best = np.argsort(-scores)[:3]
    assert [p.name for p in predictions] == [NAMES[i] for i in best]
    np.testing.assert_allclose(
        [p.probability for p in predictions], scores[best], rtol=1e-5, atol=1e-7
    )


def test_logits_pixels_and_auxiliary_heads(model, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    expected = predict(model, tmp_path / "a.png")
    other = small_network(
        class_names=NAMES,
        classifier_activation=None,
        include_preprocessing=True,
        aux_head=True,
    )
    weights = {weight.path: weight for weight in model.weights}
    for weight in other.weights:
        if weight.path in weights:
            weight.assign(weights[weight.path])
    found = predict(other, tmp_path / "a.png")
    assert [p.name for p in found] == [p.name for p in expected]
    np.testing.assert_allclose(
        [p.probability for p in found],
        [p.probability for p in expected],
        rtol=1e-4,
    )


def test_layers_before_the_network(model, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    trunk = small_network(include_top=False, pooling="avg")
    top = Classifier(3, class_names=NAMES[:3], activation="softmax")

    def behind(*layers):
        return keras.Sequential([keras.Input((32, 32, 3)), *layers, trunk, top])

    flipped = behind(keras.layers.RandomFlip())
    assert predict(flipped, tmp_path / "a.png") == predict(
        behind(), tmp_path / "a.png"
    )
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)
    for found, expected in zip(
        predict(behind(keras.layers.RandomFlip(), scaled), tmp_path / "a.png"),
        predict(behind(), tmp_path / "a.png"),
    ):
        assert found.name == expected.name
        assert found.probability == pytest.approx(expected.probability)
    normalized = behind(keras.layers.Normalization(mean=0, variance=9))
    with pytest.raises(ValueError, match="reads images by Normalization, so"):
        predict(normalized, tmp_path / "a.png")


def test_model_without_classifier(tmp_path):
    model = small_network(include_top=False)
    with pytest.raises(ValueError, match="has no classifier"):
        predict(model, tmp_path / "a.png")


def test_command_answers_what_it_can(model_file, picture, tmp_path, capsys):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    picture.save(good)
    bad.write_text("bad")
    command = ["predict", str(bad), str(good), "--model", model_file]
    assert main([*command, "--top", "2"]) == 1
    printed = capsys.readouterr()
    assert "bad.png is not an image" in printed.err
    assert str(good) in printed.out and printed.out.count("name ") == 2
    assert main([*command, "--json"]) == 1
    answers = [json.loads(a) for a in capsys.readouterr().out.splitlines()]
    assert "error" in answers[0] and len(answers[1]["predictions"]) == 5
    assert main(["predict", str(good), "--model", model_file]) == 0


def test_class_names_survive_every_round_trip(model, model_file):
    for other in (
        keras.models.load_model(model_file),
        keras.models.clone_model(model),
        model.from_config(model.get_config()),
    ):
        assert other.get_layer("predictions").class_names == NAMES


def test_wrong_number_of_class_names():
    with pytest.raises(ValueError, match="`class_names` .* 3 classes"):
        Classifier(3, class_names=["one", "two"])
