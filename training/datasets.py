"""Input pipelines: from tfds or a folder of images to batches.

A pipeline is a pair of functions, one for training and one for evaluation.
Both take a `tf.data.Dataset` of (uint8 image, label) and return batches of
(float images, labels). `PIPELINES` names them for the recipes.
"""

import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_nasnet.answers import SMALL_IMAGE
from keras_nasnet.images import EXTENSIONS
from keras_nasnet.images import load_whole_image

AUTOTUNE = tf.data.AUTOTUNE
# Photographs of a folder are reduced to this many pixels on the shorter side,
# twice what any network here sees, so that some thousand fit into memory.
LARGEST_SIDE = 640
# How many images are shuffled at a time.
SMALL_IMAGES, PHOTOGRAPHS = 50_000, 2_000


class Split(NamedTuple):
    """A loaded split of a data set."""

    dataset: tf.data.Dataset
    count: int
    class_names: list


def load(name, split, data_dir=None, seed=None):
    """Loads one split of a data set.

    Args:
        name: Name of a tfds data set, such as `"cifar10"`, or a folder with
            one subfolder of images per class.
        split: tfds split, such as `"train[:45000]"`. A folder has no splits
            and is always loaded whole.
        data_dir: Folder with prepared tfds data sets; `None` for tfds' own.
        seed: Integer that decides the order of the files that tfds reads,
            for training on more images than can be shuffled at a time;
            `None` for the order in which they are stored.

    Returns:
        A `Split`, its data set yielding (uint8 RGB image, label).

    Raises:
        ValueError: If a folder does not exist or holds no images, or if a
            tfds data set is not one of labelled images.
    """
    if os.path.isdir(name):
        return load_folder(name)[0]
    check_name(name)
    import tensorflow_datasets as tfds

    examples, info = tfds.load(
        name,
        split=split,
        data_dir=data_dir and os.path.expanduser(data_dir),
        shuffle_files=seed is not None,
        read_config=tfds.ReadConfig(shuffle_seed=seed),
        with_info=True,
    )
    if not {"image", "label"} <= set(info.features):
        raise ValueError(
            f"{name} must have the features image and label to train a "
            f"classifier. Found: {', '.join(sorted(info.features))}"
        )
    dataset = examples.map(_rgb, AUTOTUNE)
    count = info.splits[split].num_examples
    return Split(dataset, count, info.features["label"].names)


def _rgb(example):
    image = example["image"]
    if image.shape[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    return image, example["label"]


def check_name(name):
    """Raises an error if a data set's name is the path of no folder."""
    if name.startswith((".", "~", os.sep)):
        raise ValueError(f"There is no folder {name!r}.")


def load_folder(folder, held_out=0.0):
    """Loads a folder that has one subfolder of images per class.

    Args:
        folder: Path of the folder.
        held_out: Share of the images of every class to hold out, in [0, 1).

    Returns:
        Two `Split`s, the larger one and the one held out. Classes are the
        sorted names of the subfolders.

    Raises:
        ValueError: If there are fewer than two classes with images.
    """
    class_names = sorted(e.name for e in os.scandir(folder) if e.is_dir())
    parts = ([], [])
    for label, name in enumerate(class_names):
        files = sorted(
            os.path.join(folder, name, file)
            for file in os.listdir(os.path.join(folder, name))
            if file.lower().endswith(EXTENSIONS)
        )
        if not files:
            raise ValueError(f"{os.path.join(folder, name)!r} has no images.")
        for i, file in enumerate(files):
            # Spreads the held out images evenly over the sorted names.
            is_out = int((i + 1) * held_out) > int(i * held_out)
            parts[is_out].append((file, label))
    # Classes alternate, so that shuffling later needs few images in memory.
    np.random.default_rng(0).shuffle(parts[0])
    if len(class_names) < 2:
        raise ValueError(
            f"{folder!r} must have a subfolder of images for each of at "
            f"least two classes. Found {class_names}."
        )
    return tuple(_files_split(part, class_names) for part in parts)


def _files_split(examples, class_names):
    def read(file, label):
        # By Pillow, as `keras-nasnet predict` does: TensorFlow leaves
        # photographs lying on their side, and its errors name no file.
        image = tf.numpy_function(
            lambda path: load_whole_image(path.decode(), LARGEST_SIDE),
            [file],
            tf.uint8,
        )
        image.set_shape((None, None, 3))
        return image, label

    files = tf.constant([file for file, _ in examples], tf.string)
    labels = tf.constant([label for _, label in examples], tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices((files, labels))
    return Split(dataset.map(read, AUTOTUNE), len(examples), class_names)


def cifar_train(
    dataset, batch_size, seed, pad=4, cutout=0, whiten=False, image_size=32
):
    """Small images, moved, flipped and cut out at random.

    Images of another size are cut to their central square and resized.

    Args:
        dataset: `tf.data.Dataset` of (image, label), small enough for memory.
        batch_size: Images per batch. A last, smaller batch is left out.
        seed: Integer that decides order and augmentation.
        pad: Pixels by which an image may move in each direction.
        cutout: Side of the square that is blanked, 0 for none.
        whiten: Whether to bring every image to mean 0 and variance 1, as in
            the paper, instead of scaling pixels to [-1, 1].
        image_size: Side of the images in pixels.

    Returns:
        A `tf.data.Dataset` of (images, labels).
    """

    def augment(image, seed):
        seeds = tf.random.split(tf.stack([seed, 0]), 3)
        image = _normalized(image, whiten)
        image = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
        image = tf.image.stateless_random_crop(
            image, (image_size, image_size, 3), seeds[0]
        )
        image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        return _cut_out(image, cutout, seeds[2]) if cutout else image

    def cut(image, label):
        return _square(image, image_size), label

    small = dataset.map(cut, AUTOTUNE).cache()
    return _training_batches(small, batch_size, seed, SMALL_IMAGES, augment)


def cifar_eval(dataset, batch_size, whiten=False, image_size=32, **_):
    """Small images as they are; arguments as in `cifar_train`."""

    def prepare(image, label):
        return _normalized(_square(image, image_size), whiten), label

    return dataset.map(prepare, AUTOTUNE).batch(batch_size).prefetch(AUTOTUNE)


def inception_train(dataset, batch_size, seed, image_size=224):
    """Photographs, cropped, flipped and recoloured as for Inception.

    A box of 5 % to 100 % of the image with an aspect of 3:4 to 4:3 is cut
    out and resized, flipped and given another brightness (up to 32/255) and
    saturation (0.5 to 1.5).

    Args:
        dataset: `tf.data.Dataset` of (image, label).
        batch_size: Images per batch. A last, smaller batch is left out.
        seed: Integer that decides order and augmentation.
        image_size: Side of the images in pixels.

    Returns:
        A `tf.data.Dataset` of (images in [-1, 1], labels).
    """

    def augment(image, seed):
        seeds = tf.random.split(tf.stack([seed, 0]), 5)
        start, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seeds[0],
            min_object_covered=0.1,
            aspect_ratio_range=(0.75, 1.33),
            area_range=(0.05, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.slice(image, start, size)
        image.set_shape((None, None, 3))
        image = tf.image.convert_image_dtype(image, tf.float32)
        image = tf.image.resize(image, (image_size, image_size))
        image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        # Half of the images change brightness first, as in TF-slim.
        brightness_first = tf.random.stateless_uniform([], seeds[2]) < 0.5
        if brightness_first:
            image = _random_brightness(image, seeds[3])
        image = tf.image.stateless_random_saturation(image, 0.5, 1.5, seeds[4])
        if not brightness_first:
            image = _random_brightness(image, seeds[3])
        return tf.clip_by_value(image, 0, 1) * 2 - 1

    return _training_batches(dataset, batch_size, seed, PHOTOGRAPHS, augment)


def inception_eval(dataset, batch_size, image_size=224, **_):
    """The central 87.5 % of photographs, resized; as in `inception_train`."""

    def prepare(image, label):
        image = tf.image.central_crop(image, 0.875)
        image = tf.image.resize(image, (image_size, image_size))
        return _normalized(image), label

    return dataset.map(prepare, AUTOTUNE).batch(batch_size).prefetch(AUTOTUNE)


# name -> (training, evaluation)
PIPELINES = {
    "cifar": (cifar_train, cifar_eval),
    "inception": (inception_train, inception_eval),
}


def pipeline_for(size):
    """Returns the name of the pipeline for networks of an image size."""
    return "cifar" if size <= SMALL_IMAGE else "inception"


def to_numpy(dataset):
    """Reads a batched data set into two arrays, images and labels."""
    images, labels = zip(*dataset.as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels)


def _training_batches(dataset, batch_size, seed, buffer, augment):
    # One seed per image makes the augmentation independent of the number of
    # threads that work on it.
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    shuffled = dataset.shuffle(buffer, seed=seed)
    return (
        tf.data.Dataset.zip(shuffled, seeds)
        .map(
            lambda example, seed: (augment(example[0], seed), example[1]),
            AUTOTUNE,
            deterministic=True,
        )
        .batch(batch_size, drop_remainder=True)
        .prefetch(AUTOTUNE)
    )


def _square(image, size):
    """Cuts out the central square and resizes it, if it is not that size."""
    if image.shape[:2] == (size, size):
        return image
    side = tf.reduce_min(tf.shape(image)[:2])
    image = tf.image.resize_with_crop_or_pad(image, side, side)
    image.set_shape((None, None, 3))
    return tf.image.resize(image, (size, size), antialias=True)


def _normalized(image, whiten=False):
    if whiten:
        return tf.image.per_image_standardization(image)
    # What `keras_nasnet.preprocess_input` does.
    return tf.cast(image, tf.float32) / 127.5 - 1


def _cut_out(image, side, seed):
    """Blanks a square around a random pixel, cut at the border."""
    height, width = image.shape[:2]
    center = tf.random.stateless_uniform([2], seed)
    # Pixels from the square's upper left corner.
    rows = tf.range(height) - tf.cast(center[0] * height, tf.int32) + side // 2
    columns = tf.range(width) - tf.cast(center[1] * width, tf.int32) + side // 2
    is_inside = tf.logical_and(
        ((0 <= rows) & (rows < side))[:, None],
        (0 <= columns) & (columns < side),
    )
    return tf.where(is_inside[..., None], 0.0, image)


def _random_brightness(image, seed):
    return tf.image.stateless_random_brightness(image, 32 / 255, seed)
