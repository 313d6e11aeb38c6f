"""Fine-tunes a pretrained network on a folder of images or a tfds data set.

Run:

    python -m training.finetune --dataset=FOLDER --workdir=runs/mine

The folder has one subfolder of images per class. First only the new
classifier is trained, then also the cells from `--unfreeze_from` on; batch
norms keep their statistics. `final.keras` in the working folder knows its
classes, and so does `best.keras`, the best one by the accuracy on the held out
images:

    keras-nasnet predict IMAGE --model runs/mine/final.keras
"""

import os
import sys

import keras
from absl import app
from absl import flags

import keras_nasnet
from keras_nasnet.normalization import freeze_batch_norms
from training import checkpoints
from training import datasets
from training import evaluate

FLAGS = flags.FLAGS
# Name of a pretrained network -> factory, weights, input pipeline, image size.
NETWORKS = {
    "tiny": (keras_nasnet.NASNetTiny, "cifar10", "cifar", 32),
    "mobile": (keras_nasnet.NASNetMobile, "imagenet", "inception", 224),
    "large": (keras_nasnet.NASNetLarge, "imagenet", "inception", 331),
}
# Flags that make another network of the same working folder.
SETTINGS = (
    "model",
    "weights",
    "dataset",
    "train_split",
    "eval_split",
    "held_out",
    "unfreeze_from",
    "learning_rate",
    "batch_size",
    "seed",
)


def define_flags():
    flags.DEFINE_enum("model", "tiny", list(NETWORKS), "Where to start.")
    flags.DEFINE_string("weights", None, "File instead of the usual weights.")
    flags.DEFINE_string("dataset", None, "tfds data set or folder of images.")
    flags.DEFINE_string("train_split", "train", "tfds split to train on.")
    flags.DEFINE_string("eval_split", None, "tfds split to evaluate on.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_float("held_out", 0.2, "Share of a folder to evaluate on.")
    flags.DEFINE_integer("head_epochs", 10, "Epochs for the classifier alone.")
    flags.DEFINE_integer("epochs", 10, "Epochs for cells and classifier.")
    flags.DEFINE_string("unfreeze_from", None, "First cell that is trained.")
    flags.DEFINE_float(
        "learning_rate", 1e-3, "Of the classifier; the cells get a tenth."
    )
    flags.DEFINE_integer("batch_size", 32, "Images per step.")
    flags.DEFINE_integer("seed", 0, "Decides weights, order, augmentation.")
    flags.mark_flags_as_required(["dataset", "workdir"])


def layer_index(model, name, argument):
    """Returns the place of a layer that an argument names.

    Raises:
        ValueError: If there is no layer of that name.
    """
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise ValueError(
            f"`{argument}` names no layer of {model.name}: {name!r}. "
            f"Expected one of {', '.join(names)}."
        )
    return names.index(name)


def renew(classifier):
    """Gives a classifier new weights.

    Those that were loaded, if there are as many classes, are for others.
    """
    for weight, initializer in (
        (classifier.kernel, classifier.kernel_initializer),
        (classifier.bias, classifier.bias_initializer),
    ):
        weight.assign(initializer(weight.shape, weight.dtype))


def freeze(model, unfreeze_from=None):
    """Leaves the classifier and the cells from a named one on trainable.

    Batch norms keep their statistics everywhere: a few images are too few to
    estimate new ones.

    Args:
        model: A network of `keras_nasnet`.
        unfreeze_from: Name of the first layer to train, such as `"cell_8"`;
            `None` for the classifier alone.

    Raises:
        ValueError: If there is no layer of that name.
    """
    first = unfreeze_from or model.layers[-1].name
    index = layer_index(model, first, "unfreeze_from")
    for i, layer in enumerate(model.layers):
        layer.trainable = i >= index
    freeze_batch_norms(model)


def finetune(
    model,
    train_data,
    eval_data,
    workdir,
    head_epochs,
    epochs,
    learning_rate,
    unfreeze_from=None,
):
    """Trains the classifier, then also the last cells.

    Can be interrupted and called again with the same arguments.

    Args:
        model: A pretrained network with a new classifier.
        train_data: Batches of (images, labels).
        eval_data: Batches of (images, labels) to validate on.
        workdir: Folder for everything that is written.
        head_epochs: Epochs for the classifier alone.
        epochs: Epochs for the cells from `unfreeze_from` on and classifier.
        learning_rate: Of Adam, for the classifier; the cells get a tenth.
        unfreeze_from: Name of the first layer to train; `None` skips the
            second part.

    Returns:
        The trained model, which is saved as `final.keras`.
    """
    phases = [("head", None, head_epochs, learning_rate)]
    if unfreeze_from:
        # Raises an error for a wrong name before hours have passed.
        freeze(model, unfreeze_from)
        phases.append(("cells", unfreeze_from, epochs, learning_rate / 10))
    for phase, first, phase_epochs, rate in phases:
        freeze(model, first)
        model.compile(
            keras.optimizers.Adam(rate),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
        )
        backup = checkpoints.Backup(os.path.join(workdir, f"backup_{phase}"))
        done = backup.restore(model)
        log = os.path.join(workdir, f"log_{phase}.csv")
        checkpoints.cut_log(log, done)
        model.fit(
            train_data,
            validation_data=eval_data,
            initial_epoch=done,
            epochs=phase_epochs,
            shuffle=False,  # is done; Keras only warns
            callbacks=[
                checkpoints.StopAtNonFiniteLoss(),
                keras.callbacks.CSVLogger(log, append=True),
                keras.callbacks.TensorBoard(
                    os.path.join(workdir, "tensorboard", phase)
                ),
                checkpoints.BestModel(
                    os.path.join(workdir, "best.keras"),
                    "accuracy",
                    lambda model: model,
                ),
                # Last, so that an epoch counts as done when all else is
                # written.
                backup,
            ],
            verbose=1 if sys.stdout.isatty() else 2,
        )
    checkpoints.save_model(model, os.path.join(workdir, "final.keras"))
    return model


def load_splits(dataset, train_split, eval_split, data_dir, held_out):
    """Loads what to train and what to evaluate on.

    Args:
        dataset: tfds data set, or a folder of images, of which every n-th
            image is held out.
        train_split: tfds split to train on.
        eval_split: tfds split to evaluate on.
        data_dir: Folder of prepared tfds data sets.
        held_out: Share of a folder to evaluate on, in (0, 1).

    Returns:
        Two `datasets.Split`s.

    Raises:
        ValueError: If a tfds data set comes without `eval_split`, or if
            `held_out` leaves one side without images.
    """
    if os.path.isdir(dataset):
        splits = datasets.load_folder(dataset, held_out)
        if not all(split.count for split in splits):
            raise ValueError(
                f"`held_out` {held_out} leaves {splits[0].count} images to "
                f"train on and {splits[1].count} to evaluate on. Expected a "
                "share in (0, 1) of at least one image of some class."
            )
        return splits
    datasets.check_name(dataset)
    if not eval_split:
        raise ValueError(
            f"{dataset} is a tfds data set, so --eval_split must name the "
            'split to evaluate on, such as "test".'
        )
    return tuple(
        datasets.load(dataset, split, data_dir)
        for split in (train_split, eval_split)
    )


def main(_):
    keras.utils.set_random_seed(FLAGS.seed)
    if FLAGS["epochs"].present and not FLAGS.unfreeze_from:
        raise ValueError(
            "--epochs is for the cells, so it needs --unfreeze_from. The "
            "classifier alone is trained for --head_epochs."
        )
    factory, weights, pipeline, size = NETWORKS[FLAGS.model]
    train_split, eval_split = load_splits(
        FLAGS.dataset,
        FLAGS.train_split,
        FLAGS.eval_split,
        FLAGS.data_dir,
        FLAGS.held_out,
    )
    model = factory(
        weights=FLAGS.weights or weights,
        classes=len(train_split.class_names),
        class_names=train_split.class_names,
    )
    renew(model.layers[-1])
    os.makedirs(FLAGS.workdir, exist_ok=True)
    settings = {name: FLAGS[name].value for name in SETTINGS}
    settings["class_names"] = train_split.class_names
    if FLAGS.unfreeze_from:
        # The cells go on from where the classifier was then.
        settings["head_epochs"] = FLAGS.head_epochs
    checkpoints.keep_settings(
        settings, os.path.join(FLAGS.workdir, "settings.json")
    )
    prepare, prepare_eval = datasets.PIPELINES[pipeline]
    batch_size = min(FLAGS.batch_size, train_split.count)
    eval_data = prepare_eval(eval_split.dataset, batch_size, image_size=size)
    finetune(
        model,
        prepare(train_split.dataset, batch_size, FLAGS.seed, image_size=size),
        eval_data,
        FLAGS.workdir,
        FLAGS.head_epochs,
        FLAGS.epochs,
        FLAGS.learning_rate,
        FLAGS.unfreeze_from,
    )
    print(evaluate.evaluate(model, eval_data, eval_split.count))


if __name__ == "__main__":
    define_flags()
    app.run(main)
