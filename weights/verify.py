"""Measures pretrained weights on the validation images of ImageNet.

Run, from a checkout:

    python -m weights.verify --data=FOLDER --model=mobile

FOLDER has one subfolder of images for each of the 1000 classes, named by the
WordNet ID (`n01440764` ...), or is the `data_dir` in which
`tensorflow_datasets` prepared `imagenet2012`. The accuracy is written into a
report next to the one that the source of the weights states.
"""

import os

from absl import app
from absl import flags

FLAGS = flags.FLAGS


def load_validation(data):
    """Loads the validation images.

    Args:
        data: As `--data`, or the name of a tfds data set with the classes of
            ImageNet.

    Returns:
        A `training.datasets.Split`.

    Raises:
        ValueError: If the classes are not those of ImageNet.
    """
    import keras_nasnet
    from training import datasets

    if os.path.isdir(os.path.join(data, "imagenet2012")):
        split = datasets.load("imagenet2012", "validation", data)
    else:
        split = datasets.load(data, "validation")
    expected = [class_id for class_id, _ in keras_nasnet.imagenet_classes()]
    if list(split.class_names) != expected:
        raise ValueError(
            f"{data} must have the {len(expected)} classes {expected[0]} to "
            f"{expected[-1]} of ImageNet. Found {len(split.class_names)}, "
            f"beginning with {', '.join(split.class_names[:3])}."
        )
    return split


def verify(model, split, batch_size=100):
    """Measures a network and compares it with what was published.

    Args:
        model: `NASNetMobile` or `NASNetLarge` with its classifier.
        split: A `training.datasets.Split`.
        batch_size: Images per batch.

    Returns:
        A dictionary for the report, accuracies in percent.
    """
    from keras_nasnet.records import KERAS_RECORDS
    from training import datasets
    from training import evaluate

    published = next(
        record.published
        for record in KERAS_RECORDS
        if record.network == model.name
    )
    size = model.input_shape[1]
    batches = datasets.inception_eval(split.dataset, batch_size, size)
    accuracy = evaluate.evaluate(model, batches, split.count)
    return {
        "network": model.name,
        "pool_padding": model.get_layer("cell_0").pool_padding,
        "image_size": size,
        "images": accuracy.images,
        "top_1": {"measured": accuracy.top_1, "published": published[0]},
        "top_5": {"measured": accuracy.top_5, "published": published[1]},
    }


def define_flags():
    flags.DEFINE_string("data", None, "Folder of images or of tfds data sets.")
    flags.DEFINE_enum("model", "mobile", ["mobile", "large"], "Which network.")
    flags.DEFINE_string("weights", "imagenet", "Or the path of a file.")
    flags.DEFINE_integer("batch_size", 100, "Images per batch.")
    flags.DEFINE_string("out", None, "Report; runs/verify_MODEL.json if unset.")
    flags.mark_flag_as_required("data")


def main(_):
    import keras_nasnet
    from training import checkpoints

    factory = {
        "mobile": keras_nasnet.NASNetMobile,
        "large": keras_nasnet.NASNetLarge,
    }[FLAGS.model]
    split = load_validation(FLAGS.data)
    model = factory(weights=FLAGS.weights)
    report = {
        "weights": FLAGS.weights,
        **verify(model, split, FLAGS.batch_size),
    }
    out = FLAGS.out or os.path.join("runs", f"verify_{FLAGS.model}.json")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    checkpoints.write_json(report, out)
    for name in ("top_1", "top_5"):
        print(
            f"{name.replace('_', '-')}: {report[name]['measured']:.2f} % "
            f"measured, {report[name]['published']} % published"
        )
    print(f"Wrote {out}.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
