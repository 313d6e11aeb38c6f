"""Images with boxes: from COCO-format files or tfds to batches.

A box is given by its corners, (left, top, right, bottom), in pixels.
"""

import json
import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_nasnet.detection.pictures import WHOLE
from keras_nasnet.images import load_whole_image

AUTOTUNE = tf.data.AUTOTUNE
# Records of tfds hold whole images, and take a megabyte each.
SHUFFLED = 500
# Batches are filled up to a multiple of so many boxes: on a GPU, every number
# of them is compiled for itself, and some layers cannot do with none.
BOXES = 32
# Boxes of which less than this share is left in a crop are left out.
SMALLEST_SHARE = 0.25


class Split(NamedTuple):
    """A loaded split of a data set.

    Args:
        records: `tf.data.Dataset` with a record for every image.
        read: Function from a record to a dictionary of `"image"` (uint8),
            `"boxes"`, `"labels"` and `"id"`.
        shuffled: Integer, among how many records to shuffle.
        count: Number of images.
        class_names: Names of the classes.
        truth: Function that returns the dictionary of a COCO-format file, with
            labels as categories, for pycocotools.
    """

    records: tf.data.Dataset
    read: Callable
    shuffled: int
    count: int
    class_names: list
    truth: Callable


def load(name, images=None, split=None, data_dir=None):
    """Loads images with boxes.

    Args:
        name: Path of a COCO-format `.json` file, or name of a tfds data set
            such as `"coco/2017"` or `"voc/2007"`.
        images: Folder of the images of a COCO-format file.
        split: tfds split.
        data_dir: Folder with prepared tfds data sets; `None` for tfds' own.

    Returns:
        A `Split`.

    Raises:
        ValueError: If a file or a record of it cannot be used.
    """
    if name.endswith(".json"):
        return load_coco(name, images)
    return load_tfds(name, split, data_dir)


def load_coco(path, images):
    """Loads a COCO-format file.

    What has no area is left out: it could not be found. Crowds are not trained
    on; pycocotools knows what to do with them. Boxes are in pixels of images
    that are turned upright by their EXIF tags.

    Args:
        path: Path of the `.json` file.
        images: Folder of its images.

    Returns:
        A `Split`, in the order of the file.

    Raises:
        ValueError: If a record cannot be used. The message names it.
    """
    if images is None:
        raise ValueError(f"`images` must be the folder of the images of {path}")
    with open(path) as file:
        try:
            data = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} must be a dictionary of images, annotations and "
            f"categories. It is a {type(data).__name__}."
        )
    missing = {"images", "annotations", "categories"} - set(data)
    if missing:
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}.")
    _check_records(data, "categories", {"id": int, "name": str}, path)
    number = (int, float)
    fields = {"id": int, "file_name": str, "width": number, "height": number}
    _check_records(data, "images", fields, path)
    categories = sorted(data["categories"], key=lambda c: c["id"])
    labels = {category["id"]: i for i, category in enumerate(categories)}
    found = {image["id"]: ([], []) for image in data["images"]}
    sizes = {i["id"]: (i["width"], i["height"]) for i in data["images"]}
    annotations = []
    for annotation in data["annotations"]:
        _check(annotation, sizes, labels, path)
        label = labels[annotation["category_id"]]
        left, top, width, height = annotation["bbox"]
        if not width or not height:
            continue
        annotations.append(
            {
                **annotation,
                # From 1 on: pycocotools takes 0 for no match.
                "id": len(annotations) + 1,
                "category_id": label,
                "area": annotation.get("area") or width * height,
                "iscrowd": int(bool(annotation.get("iscrowd"))),
            }
        )
        if not annotation.get("iscrowd"):
            boxes, box_labels = found[annotation["image_id"]]
            boxes.append((left, top, left + width, top + height))
            box_labels.append(label)
    for image in data["images"]:
        file = os.path.join(images, image["file_name"])
        if not os.path.isfile(file):
            raise ValueError(f"{path}: there is no image {file!r}.")

    def records():
        for image in data["images"]:
            boxes, box_labels = found[image["id"]]
            yield {
                "file": os.path.join(images, image["file_name"]),
                "size": sizes[image["id"]],
                "boxes": np.array(boxes, "float32").reshape(-1, 4),
                "labels": np.array(box_labels, "int32"),
                "id": image["id"],
            }

    def read(record):
        image = tf.numpy_function(
            _read_image, [record.pop("file"), record.pop("size")], tf.uint8
        )
        image.set_shape((None, None, 3))
        return {**record, "image": image}

    dataset = tf.data.Dataset.from_generator(
        records,
        output_signature={
            "file": tf.TensorSpec((), tf.string),
            "size": tf.TensorSpec((2,), tf.int32),
            "boxes": tf.TensorSpec((None, 4), tf.float32),
            "labels": tf.TensorSpec((None,), tf.int32),
            "id": tf.TensorSpec((), tf.int64),
        },
    )
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(len(data["images"]))
    )
    class_names = [category["name"] for category in categories]
    return Split(
        dataset,
        read,
        len(data["images"]),
        len(data["images"]),
        class_names,
        lambda: _coco_format(data["images"], annotations, class_names),
    )


def _read_image(file, size):
    """Reads an image by Pillow, whose errors name the file."""
    image = load_whole_image(file.decode(), WHOLE)
    found, expected = image.shape[1::-1], tuple(size.tolist())
    if found != expected:
        raise ValueError(
            f"{file.decode()} is an image of {found} pixels, upright. Expected "
            f"the width and height of its record: {expected}"
        )
    return image


def _check_records(data, name, fields, path):
    """Raises an error that names a record which cannot be used.

    Args:
        data: The dictionary of a COCO-format file.
        name: Which list of it to check.
        fields: Dictionary of the type (or types) of every needed field.
        path: Path of the file.
    """
    if not data[name]:
        raise ValueError(f"{path} has no {name}.")
    known = set()
    for record in data[name]:
        is_dictionary = isinstance(record, dict)
        for field, kind in fields.items():
            if not is_dictionary or not isinstance(record.get(field), kind):
                raise ValueError(
                    f"{path}: a record of `{name}` has no usable `{field}`: "
                    f"{record}"
                )
        if record["id"] in known:
            raise ValueError(
                f"{path}: two records of `{name}` have the same `id`: {record}"
            )
        known.add(record["id"])


def _check(annotation, sizes, labels, path):
    """Raises an error that names an annotation which cannot be used."""

    def refuse(why):
        raise ValueError(
            f"{path}: annotation {annotation.get('id')} {why}: {annotation}"
        )

    if not isinstance(annotation, dict):
        raise ValueError(
            f"{path}: an annotation is no dictionary: {annotation}"
        )
    if annotation.get("image_id") not in sizes:
        refuse("is of an image that is not listed")
    if annotation.get("category_id") not in labels:
        refuse("is of a category that is not listed")
    box = annotation.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(n, (int, float)) for n in box)
        or not all(map(math.isfinite, box))
    ):
        refuse("has no box of four numbers (left, top, width, height)")
    left, top, width, height = box
    if width < 0 or height < 0:
        refuse("has a box of negative size")
    image_width, image_height = sizes[annotation["image_id"]]
    is_outside = left >= image_width or top >= image_height
    is_outside = is_outside or left + width <= 0 or top + height <= 0
    if width and height and is_outside:
        refuse(f"lies outside its image of {image_width}x{image_height}")


def load_tfds(name, split, data_dir=None):
    """Loads a tfds data set with the objects of its images.

    Crowds of COCO, and what VOC calls difficult, are not trained on. They are
    crowds for pycocotools, to which it is no matter whether they are found.

    Args:
        name: Name of the data set, such as `"coco/2017"` or `"voc/2007"`.
        split: tfds split.
        data_dir: Folder with prepared tfds data sets; `None` for tfds' own.

    Returns:
        A `Split`.
    """
    import tensorflow_datasets as tfds

    dataset, info = tfds.load(
        name,
        split=split,
        data_dir=data_dir and os.path.expanduser(data_dir),
        with_info=True,
    )

    def read(record):
        example = record["example"]
        objects = example["objects"]
        size = tf.cast(tf.shape(example["image"])[:2], tf.float32)
        # From shares (top, left, bottom, right) of the image.
        boxes = tf.gather(objects["bbox"], [1, 0, 3, 2], axis=1)
        boxes *= tf.tile(size[::-1], [2])
        is_object = ~_is_ignored(objects)
        return {
            "image": example["image"],
            "boxes": tf.boolean_mask(boxes, is_object),
            "labels": tf.cast(
                tf.boolean_mask(objects["label"], is_object), tf.int32
            ),
            "id": record["index"],
        }

    class_names = info.features["objects"]["label"].names

    def truth():
        images, annotations = [], []
        for index, example in dataset.enumerate().as_numpy_iterator():
            height, width = example["image"].shape[:2]
            index = int(index)
            images.append({"id": index, "height": height, "width": width})
            objects = example["objects"]
            for i, (box, label, is_ignored) in enumerate(
                zip(objects["bbox"], objects["label"], _is_ignored(objects))
            ):
                top, left, bottom, right = map(float, box)
                box_width = (right - left) * width
                box_height = (bottom - top) * height
                area = box_width * box_height
                if not area > 0:
                    continue
                # By which COCO tells small objects from large ones: that of
                # what is seen, not of its box.
                if "area" in objects:
                    area = float(objects["area"][i])
                annotations.append(
                    {
                        # From 1 on: pycocotools takes 0 for no match.
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": int(label),
                        "bbox": [
                            left * width,
                            top * height,
                            box_width,
                            box_height,
                        ],
                        "area": area,
                        "iscrowd": int(is_ignored),
                    }
                )
        return _coco_format(images, annotations, class_names)

    count = int(dataset.cardinality())
    # Not a pair, which would be passed on as two arguments.
    records = dataset.enumerate().map(
        lambda index, example: {"index": index, "example": example}
    )
    return Split(records, read, SHUFFLED, count, class_names, truth)


def _is_ignored(objects):
    """Tells which objects of tfds, tensors or arrays, need not be found."""
    for name in ("is_crowd", "is_difficult"):
        if name in objects:
            return objects[name]
    return objects["label"] < 0  # none


def _coco_format(images, annotations, class_names):
    return {
        # pycocotools asks for it.
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name} for i, name in enumerate(class_names)
        ],
    }


def training_batches(split, batch_size, size, seed, jitter=0.2):
    """Images flipped, scaled, moved and recoloured at random.

    Args:
        split: A `Split`.
        batch_size: Images per batch. A last, smaller batch is left out.
        size: Side in pixels of the square that images are brought into.
        seed: Integer that decides order and augmentation.
        jitter: Share by which images may get larger or smaller, and brighter
            or darker, in [0, 1).

    Returns:
        A `tf.data.Dataset` of (images in [-1, 1], dictionary of `"boxes"` and
        `"labels"`, filled up with -1).
    """

    def augment(record, seed):
        example = split.read(record)
        seeds = tf.random.split(tf.stack([seed, 0]), 4)
        image, boxes = _flip(example["image"], example["boxes"], seeds[0])
        scale, brightness = tf.unstack(
            tf.random.stateless_uniform([2], seeds[1], 1 - jitter, 1 + jitter)
        )
        image = tf.cast(image, tf.float32) * brightness
        image = tf.clip_by_value(image, 0, 255)
        place = tf.random.stateless_uniform([2], seeds[2])
        image, boxes, labels = _place(
            image, boxes, example["labels"], size, scale, place
        )
        return image, {"boxes": boxes, "labels": labels}

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    shuffled = split.records.shuffle(split.shuffled, seed=seed)
    return _batch(
        tf.data.Dataset.zip(shuffled, seeds).map(
            augment, AUTOTUNE, deterministic=True
        ),
        batch_size,
        drop_remainder=True,
    )


def evaluation_batches(split, batch_size, size):
    """Images as they are, resized into the upper left corner of a square.

    Args:
        split: A `Split`.
        batch_size: Images per batch.
        size: Side of the square in pixels.

    Returns:
        A `tf.data.Dataset` of (images in [-1, 1], dictionary of `"boxes"`,
        `"labels"`, `"id"` and `"scale"`, by which images were enlarged).
    """

    def prepare(record):
        example = split.read(record)
        image, boxes, labels = _place(
            example["image"], example["boxes"], example["labels"], size
        )
        return image, {
            "boxes": boxes,
            "labels": labels,
            "id": example["id"],
            "scale": _scale(example["image"], size),
        }

    return _batch(split.records.map(prepare, AUTOTUNE), batch_size)


def _batch(dataset, batch_size, drop_remainder=False):
    image, target = dataset.element_spec
    padding = {name: tf.constant(-1, target[name].dtype) for name in target}

    def fill_up(images, targets):
        count = tf.shape(targets["labels"])[1]
        whole = tf.maximum((count + BOXES - 1) // BOXES, 1) * BOXES
        more = whole - count
        return images, {
            **targets,
            "boxes": _more(targets["boxes"], more),
            "labels": _more(targets["labels"], more),
        }

    return (
        dataset.padded_batch(
            batch_size,
            (image.shape, {name: target[name].shape for name in target}),
            (0.0, padding),
            drop_remainder=drop_remainder,
        )
        .map(fill_up, AUTOTUNE)
        .prefetch(AUTOTUNE)
    )


def _more(values, count):
    """Appends so many places of -1 to what images have."""
    others = [[0, 0]] * (len(values.shape) - 2)
    return tf.pad(values, [[0, 0], [0, count], *others], constant_values=-1)


def _flip(image, boxes, seed):
    """Mirrors half of the images, with their boxes."""
    if tf.random.stateless_uniform([], seed) < 0.5:
        return image, boxes
    width = tf.cast(tf.shape(image)[1], tf.float32)
    left, top, right, bottom = tf.unstack(boxes, axis=1)
    mirrored = tf.stack([width - right, top, width - left, bottom], axis=1)
    return image[:, ::-1], mirrored


def _scale(image, size):
    """Returns by how much an image is enlarged to fill a square."""
    longest = tf.reduce_max(tf.shape(image)[:2])
    return size / tf.cast(longest, tf.float32)


def _place(image, boxes, labels, size, scale=1.0, place=(0.0, 0.0)):
    """Brings an image into a square.

    Args:
        image: Tensor `(height, width, 3)` with pixels in [0, 255].
        boxes: Tensor `(boxes, 4)`.
        labels: Tensor `(boxes,)`.
        size: Side of the square in pixels.
        scale: Size of the image, 1 if its longer side is the square's.
        place: Where in the room that there is, between 0 and 1, down and to
            the right. If the image is larger than the square, which part of it
            is cut out.

    Returns:
        The square with pixels in [-1, 1] and 0 where there is no image, and
        the boxes and labels of what can be seen.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    factor = scale * _scale(image, size)
    new = tf.maximum(tf.cast(tf.round(shape * factor), tf.int32), 1)
    image = tf.image.resize(image, new, antialias=True) / 127.5 - 1
    room = size - new
    offset = tf.cast(tf.cast(room, tf.float32) * place, tf.int32)
    before, cut = tf.maximum(offset, 0), tf.maximum(-offset, 0)
    image = image[cut[0] : cut[0] + size, cut[1] : cut[1] + size]
    after = size - before - tf.shape(image)[:2]
    padding = tf.stack([before, after], axis=1)
    image = tf.pad(image, tf.concat([padding, [[0, 0]]], axis=0))
    image.set_shape((size, size, 3))

    # By what was resized to, which is whole pixels.
    factors = tf.cast(new, tf.float32) / shape
    boxes *= tf.tile(factors[::-1], [2])
    boxes += tf.cast(tf.tile(offset[::-1], [2]), tf.float32)
    clipped = tf.clip_by_value(boxes, 0, size)
    is_seen = _area(clipped) > SMALLEST_SHARE * _area(boxes)
    return image, clipped[is_seen], labels[is_seen]


def _area(boxes):
    left, top, right, bottom = tf.unstack(boxes, axis=1)
    return (right - left) * (bottom - top)
