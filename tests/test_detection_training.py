"""Training of detectors: data, measures, and that a run can go on."""

import dataclasses
import functools
import json
import os

import keras
import numpy as np
import pytest
from PIL import Image
from PIL import ImageColor

tf = pytest.importorskip("tensorflow")
pytest.importorskip("keras_hub")
from keras_nasnet import NASNetTiny  # noqa: E402
from keras_nasnet import detection  # noqa: E402
from keras_nasnet.detection import pictures  # noqa: E402
from tests.commands import run_command  # noqa: E402
from tests.networks import randomize  # noqa: E402
from tests.runs import NETWORK  # noqa: E402
from training import detect  # noqa: E402
from training import detection_data  # noqa: E402
from training import detection_metrics  # noqa: E402
from training import pasted  # noqa: E402
from training.detection_recipes import RECIPES  # noqa: E402

CLASS_NAMES = ["dark", "light"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pasted data set of few small images of two classes."""
    path = tmp_path_factory.mktemp("pasted")
    grey = np.repeat([[40], [220]], 8 * 8 * 3, axis=1)
    objects = (grey.reshape(2, 8, 8, 3).astype("uint8"), np.array([0, 1]))
    for seed, name, count in ((0, "train", 8), (1, "eval", 3)):
        pasted.make(path, name, objects, CLASS_NAMES, count, 32, seed, [])
    return path


def load(folder, name="eval"):
    return detection_data.load(str(folder / f"{name}.json"), str(folder / name))


def examples(split):
    return list(split.records.map(split.read).as_numpy_iterator())


def change(folder, tmp_path, **values):
    """Loads a copy of a data set with another first annotation."""
    data = json.loads((folder / "eval.json").read_text())
    data["annotations"][0].update(values)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    return detection_data.load_coco(str(path), str(folder / "eval"))


def test_pasted(folder):
    data = json.loads((folder / "train.json").read_text())
    assert [c["name"] for c in data["categories"]] == CLASS_NAMES
    assert len(data["images"]) == 8
    counts = [0] * 8
    for annotation in data["annotations"]:
        left, top, width, height = annotation["bbox"]
        assert 0 <= left and left + width <= 32
        assert 0 <= top and top + height <= 32
        counts[annotation["image_id"]] += 1
    assert 1 <= min(counts) and max(counts) <= pasted.MOST_OBJECTS
    # The last one that was pasted can be seen where it is said to be.
    last = data["annotations"][-1]
    image = Image.open(folder / "train" / data["images"][-1]["file_name"])
    left, top, width, height = last["bbox"]
    seen = np.asarray(image)[top : top + height, left : left + width]
    assert (seen == (40, 220)[last["category_id"] - 1]).all()


def test_pasting_is_repeatable(folder, tmp_path):
    grey = np.zeros((1, 8, 8, 3), "uint8")
    for name in ("a", "b"):
        pasted.make(tmp_path, name, (grey, [0]), ["x"], 2, 32, 5, [])
    files = [(tmp_path / f"{name}.json").read_text() for name in ("a", "b")]
    assert files[0] == files[1]


def test_pasting_onto_photographs(tmp_path):
    for name, size in (("large.png", 40), ("small.png", 20)):
        Image.new("RGB", (size, 50), (1, 2, 3)).save(tmp_path / name)
    found = pasted.list_photographs(str(tmp_path), 32)
    assert [os.path.basename(path) for path in found] == ["large.png"]
    background = pasted._background(np.random.default_rng(0), 32, found)
    assert background.shape == (32, 32, 3) and (background == (1, 2, 3)).all()
    with pytest.raises(ValueError, match="without images of at least 64"):
        pasted.list_photographs(str(tmp_path), 64)


def test_load(folder):
    split = load(folder)
    data = json.loads((folder / "eval.json").read_text())
    assert split.class_names == CLASS_NAMES and split.count == 3
    for image, example in zip(data["images"], examples(split)):
        pixels = Image.open(folder / "eval" / image["file_name"])
        np.testing.assert_array_equal(example["image"], pixels)
        expected = [
            (*a["bbox"], a["category_id"])
            for a in data["annotations"]
            if a["image_id"] == image["id"]
        ]
        assert len(expected) == len(example["boxes"])
        for row, box, label in zip(
            expected, example["boxes"], example["labels"]
        ):
            left, top, width, height, category = row
            assert box.tolist() == [left, top, left + width, top + height]
            assert label == category - 1


@pytest.mark.parametrize("box", [[3, 3, 0, 5], [0, 0, 0, 5], [40, 3, 3, 0]])
def test_records_without_area_are_left_out(folder, tmp_path, box):
    split = change(folder, tmp_path, bbox=box)
    count = len(examples(load(folder))[0]["boxes"])
    assert len(examples(split)[0]["boxes"]) == count - 1
    # Nobody could find them.
    batches = detection_data.evaluation_batches(split, 2, 32)
    results = detection_metrics.predictions(Perfect(batches), batches)
    values = detection_metrics.evaluate(split.truth(), results)
    assert values["mAP"] == pytest.approx(1)


def test_crowds_are_not_trained_on(folder, tmp_path):
    split = change(folder, tmp_path, iscrowd=1)
    count = len(examples(load(folder))[0]["boxes"])
    assert len(examples(split)[0]["boxes"]) == count - 1
    assert split.truth()["annotations"][0]["iscrowd"] == 1


@pytest.mark.parametrize(
    "values, message",
    [
        ({"image_id": 99}, "annotation 1 is of an image that is not listed"),
        ({"category_id": 9}, "annotation 1 is of a category"),
        ({"bbox": [1, 2, 3]}, "annotation 1 has no box of four numbers"),
        ({"bbox": None}, "annotation 1 has no box of four numbers"),
        ({"bbox": ["1", "2", "3", "4"]}, "annotation 1 has no box of four"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 1 has no box of four"),
        ({"bbox": [9, 9, -3, 4]}, "annotation 1 has a box of negative size"),
        ({"bbox": [40, 2, 3, 4]}, "annotation 1 lies outside its image of 32x"),
        ({"bbox": [-5, 2, 5, 4]}, "annotation 1 lies outside its image of 32x"),
    ],
)
def test_unusable_records_are_named(folder, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        change(folder, tmp_path, **values)


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("images", {"width": None}, "`images` has no usable `width`: .*00.png"),
        ("images", {"id": "a"}, "`images` has no usable `id`: .*000000.png"),
        ("images", {"id": 1}, "two records of `images` have the same `id`"),
        ("categories", {"name": 5}, "`categories` has no usable `name`"),
        ("images", None, "a record of `images` has no usable `id`: None"),
        ("annotations", None, "an annotation is no dictionary: None"),
        (None, None, "must be a dictionary of images, .* It is a list"),
    ],
)
def test_other_unusable_records_are_named(
    folder, tmp_path, name, values, message
):
    data = json.loads((folder / "eval.json").read_text())
    if name is None:  # as files of results are
        data = data["annotations"]
    elif values is None:
        data[name][0] = None
    else:
        data[name][0].update(values)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        detection_data.load_coco(str(path), str(folder / "eval"))


def test_unusable_files_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no image .*000000.png"):
        detection_data.load_coco(str(folder / "eval.json"), str(tmp_path))
    with pytest.raises(ValueError, match="`images` must be the folder of .*"):
        detection_data.load(str(folder / "eval.json"))
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(ValueError, match="empty.json is not a JSON file"):
        detection_data.load_coco(str(tmp_path / "empty.json"), str(tmp_path))


def one_image(tmp_path, write, **values):
    """Loads a data set of one image.

    Args:
        write: Function that writes the image to a path.
        **values: What its record has beside the path.
    """
    write(tmp_path / "image.webp")
    image = {"id": 0, "file_name": "image.webp", "width": 9, "height": 5}
    data = {
        "images": [{**image, **values}],
        "annotations": [],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "one.json").write_text(json.dumps(data))
    return detection_data.load_coco(str(tmp_path / "one.json"), str(tmp_path))


def test_images_of_any_format_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), "uint8")
    image = Image.fromarray(pixels)
    split = one_image(tmp_path, lambda path: image.save(path, lossless=True))
    np.testing.assert_array_equal(examples(split)[0]["image"], pixels)


def test_images_that_cannot_be_used_are_named(tmp_path):
    split = one_image(tmp_path, lambda path: path.write_text("no image"))
    with pytest.raises(tf.errors.OpError, match="image.webp is not an image"):
        examples(split)
    split = one_image(tmp_path, Image.new("RGB", (9, 5)).save, width=8)
    with pytest.raises(tf.errors.OpError, match=r"image.webp .* of \(9, 5\)"):
        examples(split)


def bright_part(image, threshold=0.5):
    """Returns the corners of what is bright in a square."""
    rows, columns = np.where(image.mean(-1) > threshold)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def bright_box(height, width, box):
    """Returns a split of one dark image with a bright box."""
    left, top, right, bottom = box
    image = np.zeros((height, width, 3), "uint8")
    image[top:bottom, left:right] = 255
    # Its right half is a little yellow.
    image[top:bottom, (left + right) // 2 : right, 2] = 180
    record = {
        "image": image,
        "boxes": np.array([box], "float32"),
        "labels": np.array([1], "int32"),
        "id": np.int64(7),
    }
    dataset = tf.data.Dataset.from_tensors(record)
    return detection_data.Split(dataset, dict, 1, 1, CLASS_NAMES, None)


@pytest.mark.parametrize("height, width", [(40, 80), (80, 40), (100, 100)])
def test_evaluation_batches(height, width):
    split = bright_box(height, width, (10, 12, 30, 36))
    ((images, found),) = detection_data.evaluation_batches(
        split, 4, 64
    ).as_numpy_iterator()
    assert images.shape == (1, 64, 64, 3)
    scale = 64 / max(height, width)
    assert found["scale"] == scale and found["id"] == 7
    np.testing.assert_allclose(
        found["boxes"][0, 0], np.array([10, 12, 30, 36]) * scale, atol=0.5
    )
    assert (
        np.abs(found["boxes"][0, 0] - bright_part(images[0], 0)) < 1.5
    ).all()
    # Filled up with grey.
    assert (images[0, round(height * scale) :] == 0).all()
    assert (images[0, :, round(width * scale) :] == 0).all()


def test_augmentation_moves_boxes_with_the_pixels():
    split = bright_box(48, 64, (10, 12, 30, 36))
    split = split._replace(records=split.records.repeat(30))
    batches = detection_data.training_batches(split, 10, 64, 0, jitter=0.3)
    seen = []
    mirrored = 0
    for images, found in batches.as_numpy_iterator():
        for image, boxes, labels in zip(
            images, found["boxes"], found["labels"]
        ):
            assert np.abs(image).max() < 1.001
            assert labels.tolist() == [1] + [-1] * (detection_data.BOXES - 1)
            part = bright_part(image, 0.2)
            assert np.abs(boxes[0] - part).max() < 2
            seen.append(boxes[0])
            left, top, right, bottom = part
            blue = image[top:bottom, left:right, 2]
            first, second = np.array_split(blue, 2, axis=1)
            mirrored += first.mean() < second.mean()
    seen = np.array(seen)
    assert len(seen) == 30
    # Of several sizes, in several places, and from both sides.
    assert np.ptp(seen[:, 3] - seen[:, 1]) > 5
    assert np.ptp(seen[:, 0]) > 10
    assert 5 < mirrored < 25


@pytest.mark.parametrize("count, filled", [(0, 32), (32, 32), (33, 64)])
def test_boxes_are_filled_up(count, filled):
    split = bright_box(64, 64, (10, 12, 30, 36))

    def repeat(record):
        boxes = tf.repeat(record["boxes"], count, axis=0)
        labels = tf.repeat(record["labels"], count)
        return {**record, "boxes": boxes, "labels": labels}

    split = split._replace(records=split.records.map(repeat))
    ((_, found),) = detection_data.evaluation_batches(
        split, 1, 64
    ).as_numpy_iterator()
    assert found["boxes"].shape == (1, filled, 4)
    assert found["labels"][0].tolist() == [1] * count + [-1] * (filled - count)
    assert (found["boxes"][0, count:] == -1).all()


def test_batches_are_repeatable(folder):
    split = load(folder, "train")
    runs = [
        next(
            detection_data.training_batches(
                split, 4, 32, seed
            ).as_numpy_iterator()
        )
        for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert (runs[0][0] != runs[2][0]).any()
    # Images with fewer boxes are filled up.
    assert (runs[0][1]["labels"] == -1).any()
    assert runs[0][1]["boxes"].shape[:2] == runs[0][1]["labels"].shape


def two_photographs(builder, **_):
    """Returns examples as tfds has them, without and with three objects."""
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((3, 2, 2)), axis=1).reshape(3, 4)
    objects = {"bbox": boxes.astype("f4"), "label": np.array([3, 0, 7])}
    for name in ("is_crowd", "is_difficult"):
        if name in builder.info.features["objects"]:
            objects[name] = np.array([False, True, False])
    if "area" in builder.info.features["objects"]:
        objects["area"] = np.array([5, 6, 7])
    examples = [
        {
            "image": rng.integers(0, 256, (40, 60 + n, 3), "uint8"),
            "objects": {name: x[:n] for name, x in objects.items()},
        }
        for n in (0, 3)
    ]
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), examples[0]
    )
    signature["image"] = tf.TensorSpec((None, None, 3), tf.uint8)
    return tf.data.Dataset.from_generator(
        lambda: examples, output_signature=signature
    ).apply(tf.data.experimental.assert_cardinality(2))


@pytest.mark.parametrize("name", ["coco/2017", "voc/2007"])
def test_tfds(name):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(as_dataset_fn=two_photographs):
        split = detection_data.load(name, split="train", data_dir=None)
        first = examples(split)
        truth = split.truth()
        batches = detection_data.training_batches(split, 2, 64, 0)
        images, found = next(batches.as_numpy_iterator())
    # Without the files of the data set, COCO's classes have no names.
    assert name == "coco/2017" or split.class_names[0] == "aeroplane"
    assert images.shape == (2, 64, 64, 3) and split.count == 2
    assert found["boxes"].shape[-1] == 4
    crowds = sum(a["iscrowd"] for a in truth["annotations"])
    assert len(truth["annotations"]) == 3 and crowds == 1
    areas = [a["area"] for a in truth["annotations"]]
    if name == "coco/2017":
        assert areas == [5, 6, 7]
    else:
        sizes = [a["bbox"][2] * a["bbox"][3] for a in truth["annotations"]]
        assert areas == pytest.approx(sizes)
    assert len(first[1]["boxes"]) == 2
    for example, image in zip(first, truth["images"]):
        height, width = example["image"].shape[:2]
        assert (image["height"], image["width"]) == (height, width)
        expected = [
            a["bbox"]
            for a in truth["annotations"]
            if a["image_id"] == image["id"] and not a["iscrowd"]
        ]
        boxes = example["boxes"].copy()
        boxes[:, 2:] -= boxes[:, :2]
        expected = np.reshape(expected, (-1, 4))
        np.testing.assert_allclose(boxes, expected, rtol=1e-3, atol=1e-2)


class Perfect:
    """Answers as a detector that knows the truth."""

    def __init__(self, batches, move=0):
        self.answers = list(batches.as_numpy_iterator())
        self.move = move

    def predict_on_batch(self, images):
        for known, found in self.answers:
            count = len(known)
            if np.array_equal(known, images[:count]):
                extra = [(0, len(images) - count), (0, 0)]
                labels = np.pad(found["labels"], extra, constant_values=-1)
                boxes = np.pad(found["boxes"], [*extra, (0, 0)])
                return {
                    "boxes": boxes + self.move,
                    "labels": labels,
                    "scores": np.where(labels < 0, -1, 0.9),
                }
        raise AssertionError("unknown images")


@pytest.mark.parametrize("size", [32, 64])
def test_metrics(folder, size):
    split = load(folder)
    batches = detection_data.evaluation_batches(split, 2, size)
    results = detection_metrics.predictions(Perfect(batches), batches)
    truth = split.truth()
    assert len(results) == len(truth["annotations"])
    values = detection_metrics.evaluate(truth, results)
    assert values["mAP"] == pytest.approx(1)
    moved = Perfect(batches, size / 32)
    results = detection_metrics.predictions(moved, batches)
    values = detection_metrics.evaluate(truth, results)
    assert values["mAP"] < 0.9 and values["mAP"] < values["mAP50"]


@pytest.mark.parametrize("ids", [{"id": 0}, {}])
def test_ids_of_annotations_do_not_matter(folder, tmp_path, ids):
    data = json.loads((folder / "eval.json").read_text())
    for annotation in data["annotations"]:
        del annotation["id"]
        annotation.update(ids)
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(data))
    split = detection_data.load_coco(str(path), str(folder / "eval"))
    batches = detection_data.evaluation_batches(split, 2, 32)
    results = detection_metrics.predictions(Perfect(batches), batches)
    values = detection_metrics.evaluate(split.truth(), results)
    assert values["mAP"] == pytest.approx(1)


def test_metrics_where_nothing_is_found_or_to_be_found(folder):
    truth = load(folder).truth()
    assert detection_metrics.evaluate(truth, [])["mAP"] == 0
    result = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}
    for results in ([], [{**result, "score": 0.9}]):
        values = detection_metrics.evaluate(
            {**truth, "annotations": []}, results
        )
        assert values == dict.fromkeys(detection_metrics.METRICS, -1)


def test_pictures_show_what_is_found(tmp_path):
    truth = {"info": {}, "images": [], "annotations": [], "categories": []}
    split = bright_box(64, 64, (10, 12, 30, 36))
    split = split._replace(truth=lambda: truth)
    recipe = dataclasses.replace(RECIPES["pasted"], image_size=64)
    evaluation = detect.Evaluation(recipe, split, str(tmp_path))
    evaluation.set_model(Perfect(evaluation.batches))
    evaluation._draw(3)
    (file,) = (tmp_path / "tensorboard" / "pictures").iterdir()
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    drawn = [
        (event.step, value.tag, value.tensor.string_val)
        for event in map(tf.compat.v1.Event.FromString, records)
        for value in event.summary.value
    ]
    ((step, tag, (_, _, png)),) = drawn
    assert step == 3 and tag == "found"
    picture = tf.io.decode_png(png).numpy()
    factor = len(picture) // 64
    colours = {ImageColor.getrgb(colour) for colour in pictures.COLOURS}
    for row, column in ((36, 20), (24, 10), (24, 30)):
        at = slice(row * factor - 3, row * factor + 4)
        part = picture[at, column * factor - 3 : column * factor + 4]
        seen = set(map(tuple, part.reshape(-1, 3).tolist()))
        assert colours & seen


def small_recipe(folder, tmp_path, **changes):
    """Returns a recipe of a few seconds."""
    path = tmp_path / "backbone.keras"
    if not path.exists():
        NASNetTiny(weights=None, classes=2, **NETWORK).save(path)
    settings = {
        "dataset": str(folder / "train.json"),
        "eval_dataset": str(folder / "eval.json"),
        "images": str(folder / "train"),
        "eval_images": str(folder / "eval"),
        "backbone": str(path),
        "train_from": None,
        "faster_rcnn": {
            "anchor_sizes": (8, 16),
            "proposals": 8,
            "region_size": 4,
            "region_samples": 8,
            "proposal_filters": 8,
        },
        "image_size": 32,
        "batch_size": 4,
        "epochs": 2,
        **changes,
    }
    return dataclasses.replace(RECIPES["pasted"], **settings)


def interrupt(callback, epoch, logs=None):
    """Ends a run at the start of its second epoch."""
    if epoch:
        raise InterruptedError


def test_a_run_goes_on_where_it_was_interrupted(folder, tmp_path, monkeypatch):
    recipe = small_recipe(folder, tmp_path)
    whole, values = detect.train(recipe, str(tmp_path / "whole"))
    assert set(values) == set(detection_metrics.METRICS)

    workdir = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(detect.Evaluation, "on_epoch_begin", interrupt)
        with pytest.raises(InterruptedError):
            detect.train(recipe, str(workdir))
    again, _ = detect.train(recipe, str(workdir))
    assert again.optimizer.iterations == whole.optimizer.iterations == 4
    rows = (workdir / "log.csv").read_text().splitlines()
    assert len(rows) == 3 and "val_mAP50" in rows[0]
    files = set(os.listdir(workdir))
    assert {"final.keras", "best.keras", "best.json", "recipe.json"} <= files
    pictures = list((workdir / "tensorboard" / "pictures").iterdir())
    assert pictures
    loaded = keras.saving.load_model(workdir / "final.keras")
    assert loaded.class_names == CLASS_NAMES and loaded.image_size == 32
    with pytest.raises(ValueError, match="run with other settings: epochs"):
        detect.train(dataclasses.replace(recipe, epochs=3), str(workdir))
    with pytest.raises(ValueError, match="run with other settings: seed"):
        detect.train(recipe, str(workdir), seed=1)


@pytest.fixture
def small_preset(monkeypatch):
    """Lets the smallest preset have a network of few layers."""
    small = functools.partial(NASNetTiny)
    small.settings = {**NASNetTiny.settings, **NETWORK}
    monkeypatch.setitem(detect.PRESETS, "nasnet_tiny_cifar10", small)


@pytest.mark.slow
def test_a_retinanet_goes_on_where_it_was_interrupted(
    small_preset, folder, tmp_path, monkeypatch
):
    recipe = small_recipe(
        folder, tmp_path, detector="retinanet", backbone="tiny", weights="none"
    )
    workdir = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(detect.Evaluation, "on_epoch_begin", interrupt)
        with pytest.raises(InterruptedError):
            detect.train(recipe, str(workdir))
    model, values = detect.train(recipe, str(workdir))
    assert set(values) == set(detection_metrics.METRICS)
    assert model.optimizer.iterations == 4
    rows = (workdir / "log.csv").read_text().splitlines()
    assert len(rows) == 3 and "val_mAP50" in rows[0]
    assert (workdir / "best.keras").is_file()
    loaded = keras.saving.load_model(workdir / "final.keras", compile=False)
    assert pictures.names_of(loaded) == CLASS_NAMES
    assert pictures.image_side(loaded) == 32
    x = np.zeros((1, 32, 32, 3), "float32")
    for name, expected in model(x).items():
        np.testing.assert_allclose(loaded(x)[name], expected, atol=1e-5)


def test_weights_of_ones_own(small_preset, folder, tmp_path):
    network = randomize(NASNetTiny(weights=None, **NETWORK))
    path = str(tmp_path / "mine.weights.h5")
    network.save_weights(path)
    recipe = small_recipe(
        folder, tmp_path, detector="retinanet", backbone="tiny", weights=path
    )
    encoder = detect.build(recipe, CLASS_NAMES).backbone.image_encoder
    for name in ("stem", "cell_2"):
        for weight, expected in zip(
            encoder.get_layer(name).get_weights(),
            network.get_layer(name).get_weights(),
        ):
            np.testing.assert_array_equal(weight, expected)


def test_a_mistake_does_not_occupy_a_folder(folder, tmp_path):
    recipe = small_recipe(folder, tmp_path)
    for mistake in ({"dataset": "missing.json"}, {"backbone": "missing.keras"}):
        with pytest.raises((OSError, ValueError), match="missing"):
            detect.train(
                dataclasses.replace(recipe, **mistake), str(tmp_path / "run")
            )
        assert not (tmp_path / "run" / "recipe.json").exists()


def test_unfit_recipes(small_preset, folder, tmp_path):
    recipe = small_recipe(folder, tmp_path, batch_size=9)
    with pytest.raises(ValueError, match="`batch_size` 9 is larger than the 8"):
        detect.train(recipe, str(tmp_path / "a"))
    recipe = small_recipe(folder, tmp_path, train_from="cell_9")
    with pytest.raises(ValueError, match="`train_from` names no layer"):
        detect.train(recipe, str(tmp_path / "b"))
    recipe = small_recipe(folder, tmp_path, detector="retinanet")
    with pytest.raises(ValueError, match="`backbone` of a RetinaNet must be"):
        detect.train(recipe, str(tmp_path / "c"))
    recipe = dataclasses.replace(
        recipe, backbone="tiny", weights="none", image_size=34
    )
    with pytest.raises(ValueError, match="must be a multiple of 4. .* 34"):
        detect.train(recipe, str(tmp_path / "d"))


def test_freezing(folder, tmp_path):
    recipe = small_recipe(folder, tmp_path, train_from="cell_1")
    model = detect.build(recipe, CLASS_NAMES)
    trained = {id(variable) for variable in model.trainable_variables}

    def is_trained(name):
        layer = model.backbone.get_layer(name)
        return bool(trained & {id(variable) for variable in layer.variables})

    assert not is_trained("stem") and not is_trained("cell_0")
    assert is_trained("cell_1") and is_trained("cell_2")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_detectors(name):
    recipe = RECIPES[name]
    # A network of the same strides in the place of one that is downloaded.
    backbone = "tiny" if recipe.backbone == "tiny" else "mobile"
    recipe = dataclasses.replace(recipe, backbone=backbone, weights="none")
    model = detect.build(recipe, CLASS_NAMES)
    assert isinstance(model, detection.FasterRCNN)


def test_coco_is_split_as_in_the_paper():
    tfds = pytest.importorskip("tensorflow_datasets")
    sizes = {"train": 118_287, "validation": 5_000}
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[n], num_bytes=0)
        for name, n in sizes.items()
    }
    images = [
        {
            (part.splitname, i)
            for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(
                infos
            )
            for i in range(sizes[part.splitname])[part.from_ : part.to]
        }
        for split in (
            RECIPES["coco_large"].train_split,
            RECIPES["coco_large"].eval_split,
        )
    ]
    assert len(images[1]) == 8_000 and not images[0] & images[1]
    assert len(images[0] | images[1]) == sum(sizes.values())


def test_retinanet_starts_from_sensible_biases(folder):
    recipe = dataclasses.replace(
        RECIPES["pasted"], detector="retinanet", image_size=32
    )
    model = detect.build(recipe, CLASS_NAMES)
    batches = detection_data.training_batches(load(folder, "train"), 4, 32, 0)
    x, y = next(iter(batches))
    detect.compile_detector(model, recipe, 10)
    losses = model.compute_loss(x, y, model(x, training=True), None)
    assert losses < 10


def test_flags(monkeypatch):
    found = []
    monkeypatch.setattr(
        detect, "main", lambda _: found.append(detect.recipe_from_flags())
    )
    run_command(detect, "--workdir=any")
    run_command(
        detect,
        "--workdir=any",
        "--recipe=pasted",
        "--detector=retinanet",
        "--image_size=256",
        "--anchor_sizes=32,64.5",
    )
    assert found[0] == RECIPES["pasted"]
    settings = {**RECIPES["pasted"].faster_rcnn, "anchor_sizes": (32, 64.5)}
    assert found[1] == dataclasses.replace(
        RECIPES["pasted"],
        detector="retinanet",
        image_size=256,
        faster_rcnn=settings,
    )
