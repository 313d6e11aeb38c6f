"""Makes a data set for detection out of CIFAR-10.

Run:

    python -m training.pasted --out=FOLDER

Images of CIFAR-10 are pasted at several sizes onto textures, or onto
photographs of a folder, one to five on each and possibly overlapping. The
folder then holds `train.json` and `eval.json` in the format of COCO, and their
images in `train/` and `eval/`. What is to be trained on is made of training
images of CIFAR-10, what is to be evaluated on of its test images.
"""

import os
import sys

import numpy as np
from absl import app
from absl import flags
from PIL import Image

from keras_nasnet.images import EXTENSIONS
from keras_nasnet.images import load_whole_image
from training import checkpoints
from training import datasets

FLAGS = flags.FLAGS
MOST_OBJECTS = 5
# Sizes of objects, in shares of the image.
SIZES = (0.15, 0.6)
# Ratios of width to height.
ASPECTS = (0.75, 1.33)
# Largest share of an object that another one may hide.
MOST_HIDDEN = 0.4


def define_flags():
    flags.DEFINE_string("out", None, "Folder to write.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_string("photographs", None, "Folder of backgrounds.")
    flags.DEFINE_integer("train_count", 4000, "Images to train on.")
    flags.DEFINE_integer("eval_count", 500, "Images to evaluate on.")
    flags.DEFINE_integer("image_size", 128, "Side of the images in pixels.")
    flags.DEFINE_integer("seed", 0, "Decides everything that is random.")
    flags.mark_flags_as_required(["out"])


def make(folder, name, objects, class_names, count, size, seed, photographs):
    """Writes a data set in the format of COCO.

    Args:
        folder: Folder to write to.
        name: Name of the split: of its `.json` file and folder of images.
        objects: Pair of `uint8` arrays, images `(n, height, width, 3)` and
            labels `(n,)`.
        class_names: Names of the classes.
        count: Number of images to make.
        size: Side of the images in pixels.
        seed: Integer that decides everything that is random.
        photographs: List of paths of backgrounds; if empty, textures are
            drawn.
    """
    os.makedirs(os.path.join(folder, name), exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(count):
        background = _background(rng, size, photographs)
        picture, found = paste(rng, background, *objects)
        file = f"{i:06}.png"
        Image.fromarray(picture).save(os.path.join(folder, name, file))
        images.append(
            {"id": i, "file_name": file, "width": size, "height": size}
        )
        for (left, top, right, bottom), label in found:
            width, height = right - left, bottom - top
            annotations.append(
                {
                    # From 1 on: pycocotools takes 0 for no match.
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    # Last, so that a data set that has it is complete.
    checkpoints.write_json(
        {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": i + 1, "name": name}
                for i, name in enumerate(class_names)
            ],
        },
        os.path.join(folder, f"{name}.json"),
    )


def paste(rng, background, images, labels):
    """Pastes one to five images onto a background.

    Args:
        rng: `numpy.random.Generator`.
        background: `uint8` array `(size, size, 3)`.
        images: `uint8` array `(n, height, width, 3)`.
        labels: Array `(n,)`.

    Returns:
        The picture and a list of pairs of corners (left, top, right, bottom)
        in pixels and label.
    """
    picture = Image.fromarray(background)
    size = picture.width
    found = []
    for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
        side = size * np.exp(rng.uniform(*np.log(SIZES)))
        stretch = rng.uniform(*ASPECTS) ** 0.5
        width, height = round(side * stretch), round(side / stretch)
        left = int(rng.integers(0, size - width + 1))
        top = int(rng.integers(0, size - height + 1))
        box = (left, top, left + width, top + height)
        if any(_hidden(other, box) > MOST_HIDDEN for other, _ in found):
            continue
        i = rng.integers(len(images))
        image = Image.fromarray(images[i])
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        picture.paste(image, (left, top))
        found.append((box, int(labels[i])))
    return np.asarray(picture), found


def texture(rng, size):
    """Draws clouds, stripes or tiles of random colours.

    Args:
        rng: `numpy.random.Generator`.
        size: Side in pixels.

    Returns:
        A `uint8` array `(size, size, 3)`.
    """
    colours = rng.uniform(0, 255, (2, 3))
    kind = rng.integers(3)
    if kind == 0:
        share = np.zeros((size, size))
        for cells in (3, 6, 12, 24):
            layer = Image.fromarray(rng.random((cells, cells)).astype("f4"))
            layer = layer.resize((size, size), Image.Resampling.BICUBIC)
            share += np.asarray(layer) * 3 / cells
        share = (share - share.min()) / np.ptp(share)
    else:
        y, x = np.mgrid[:size, :size]
        angle = rng.uniform(0, np.pi)
        period = rng.uniform(0.06, 0.5) * size
        u = x * np.cos(angle) + y * np.sin(angle)
        v = y * np.cos(angle) - x * np.sin(angle)
        share = (np.sin(2 * np.pi * u / period) + 1) / 2
        if kind == 2:
            share = ((u // period + v // period) % 2).astype(float)
    pixels = colours[0] + share[..., None] * (colours[1] - colours[0])
    noise = rng.normal(0, rng.uniform(0, 20), pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype("uint8")


def _background(rng, size, photographs):
    if not photographs:
        return texture(rng, size)
    image = load_whole_image(photographs[rng.integers(len(photographs))], size)
    left, top = (int(rng.integers(n - size + 1)) for n in image.shape[1::-1])
    return image[top : top + size, left : left + size]


def _hidden(box, other):
    """Returns the share of a box that lies under another one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0, width) * max(0, height) / area


def list_photographs(folder, size):
    """Returns the images of a folder that are large enough."""
    paths = sorted(
        os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.lower().endswith(EXTENSIONS)
    )
    large = []
    for path in paths:
        with Image.open(path) as image:
            if min(image.size) >= size:
                large.append(path)
    if not large:
        raise ValueError(
            f"`photographs` names a folder without images of at least {size} "
            f"pixels: {folder!r}"
        )
    return large


def main(_):
    photographs = []
    if FLAGS.photographs:
        photographs = list_photographs(FLAGS.photographs, FLAGS.image_size)
    for name, split, count, seed in (
        ("train", "train", FLAGS.train_count, 2 * FLAGS.seed),
        ("eval", "test", FLAGS.eval_count, 2 * FLAGS.seed + 1),
    ):
        loaded = datasets.load("cifar10", split, FLAGS.data_dir)
        make(
            FLAGS.out,
            name,
            datasets.to_numpy(loaded.dataset.batch(1000)),
            loaded.class_names,
            count,
            FLAGS.image_size,
            seed,
            # No background is seen in training and again in evaluation.
            photographs[name == "eval" :: 2],
        )
        print(f"Wrote {count} images: {FLAGS.out}/{name}.json", file=sys.stderr)


if __name__ == "__main__":
    define_flags()
    app.run(main)
