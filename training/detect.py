"""Trains a detector by a recipe.

Run, and run again after any interruption:

    python -m training.pasted --out=runs/pasted
    python -m training.detect --recipe=pasted --workdir=runs/detector

The working folder then holds the trained detector (`final.keras`), the best
one by mAP (`best.keras`), `log.csv`, the recipe and TensorBoard's logs with
pictures of what is found. A run that is killed loses nothing but its current
epoch. A data set of one's own is given by `--dataset=FILE.json --images=FOLDER
--eval_dataset=FILE.json --eval_images=FOLDER`, with `--image_size` and
`--anchor_sizes` that suit its objects.
"""

import dataclasses
import math
import os
import sys

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import keras_nasnet
from keras_nasnet import detection
from keras_nasnet.detection import pictures
from keras_nasnet.detection.backbone import PRESETS
from keras_nasnet.inference import load_model
from keras_nasnet.normalization import freeze_batch_norms
from training import checkpoints
from training import detection_data
from training import detection_metrics
from training import overrides
from training import schedules
from training.detection_recipes import RECIPES
from training.detection_recipes import DetectionRecipe
from training.finetune import layer_index

FLAGS = flags.FLAGS
BACKBONES = {
    "tiny": keras_nasnet.NASNetTiny,
    "mobile": keras_nasnet.NASNetMobile,
    "large": keras_nasnet.NASNetLarge,
}
OVERRIDES = (
    "dataset",
    "eval_dataset",
    "images",
    "eval_images",
    "train_split",
    "eval_split",
    "backbone",
    "weights",
    "train_from",
    "image_size",
    "batch_size",
    "epochs",
    "learning_rate",
    "train_batch_norm",
)
DRAWN = 4


def define_flags():
    flags.DEFINE_enum("recipe", "pasted", list(RECIPES), "What to train.")
    flags.DEFINE_enum(
        "detector", None, ["faster_rcnn", "retinanet"], "Kind of detector."
    )
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_integer("seed", 0, "Decides weights, order, augmentation.")
    flags.DEFINE_list(
        "anchor_sizes",
        None,
        "Sizes in pixels that objects of a Faster R-CNN have, once images are "
        "brought to the recipe's size, such as 32,64,128,256.",
    )
    overrides.define(DetectionRecipe, OVERRIDES)
    flags.mark_flags_as_required(["workdir"])


def train(recipe, workdir, data_dir=None, seed=0):
    """Trains by a recipe, or goes on where an earlier call was interrupted.

    Args:
        recipe: A `DetectionRecipe`.
        workdir: Folder for everything that the run writes.
        data_dir: Folder of prepared tfds data sets.
        seed: Integer that decides weights, order and augmentation.

    Returns:
        The trained detector and a dictionary of its mAP.

    Raises:
        ValueError: If `workdir` holds the run of another recipe or seed, or
            if the recipe does not fit its data.
        FloatingPointError: If the loss stops being a number.
    """
    keras.utils.set_random_seed(seed)
    os.makedirs(workdir, exist_ok=True)
    record = os.path.join(workdir, "recipe.json")
    settings = {**dataclasses.asdict(recipe), "seed": seed}
    checkpoints.check_settings(settings, record)
    split = detection_data.load(
        recipe.dataset, recipe.images, recipe.train_split, data_dir
    )
    eval_split = detection_data.load(
        recipe.eval_dataset, recipe.eval_images, recipe.eval_split, data_dir
    )
    if split.class_names != eval_split.class_names:
        raise ValueError(
            "`dataset` and `eval_dataset` must have the same classes. "
            f"Received: {split.class_names} and {eval_split.class_names}"
        )
    steps = split.count // recipe.batch_size
    if not steps:
        raise ValueError(
            f"`batch_size` {recipe.batch_size} is larger than the "
            f"{split.count} images of {recipe.dataset!r}."
        )
    detector = build(recipe, split.class_names)
    compile_detector(detector, recipe, steps)
    backup = checkpoints.Backup(os.path.join(workdir, "backup"))
    done = backup.restore(detector)
    # Not before all that the recipe names has been found.
    checkpoints.write_json(settings, record)
    log = os.path.join(workdir, "log.csv")
    checkpoints.cut_log(log, done)
    evaluation = Evaluation(recipe, eval_split, workdir)
    detector.fit(
        detection_data.training_batches(
            split,
            recipe.batch_size,
            recipe.image_size,
            # Goes on with other orders than the first epochs'.
            seed + done,
            recipe.jitter,
        ),
        initial_epoch=done,
        epochs=recipe.epochs,
        shuffle=False,  # is done; Keras only warns
        callbacks=[
            checkpoints.StopAtNonFiniteLoss(),
            # First, as the others write down what it measures.
            evaluation,
            keras.callbacks.CSVLogger(log, append=True),
            keras.callbacks.TensorBoard(
                os.path.join(workdir, "tensorboard"), write_graph=False
            ),
            # Last, so that an epoch counts as done when all else is written.
            backup,
        ],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    checkpoints.save_model(detector, os.path.join(workdir, "final.keras"))
    return detector, evaluation.measure(detector)


def build(recipe, class_names):
    """Builds the detector of a recipe."""
    weights = None if recipe.weights == "none" else recipe.weights
    size = recipe.image_size
    is_file = recipe.backbone not in BACKBONES
    if recipe.detector == "faster_rcnn":
        if is_file:
            network = load_model(recipe.backbone)
        else:
            network = BACKBONES[recipe.backbone](weights=weights)
        freeze(network, recipe.train_from)
        return detection.FasterRCNN(
            network,
            len(class_names),
            train_batch_norm=recipe.train_batch_norm,
            class_names=class_names,
            image_size=size,
            **recipe.faster_rcnn,
        )
    if is_file:
        raise ValueError(
            "`backbone` of a RetinaNet must be one of "
            f"{', '.join(BACKBONES)}. Received: {recipe.backbone!r}"
        )
    preset = f"nasnet_{recipe.backbone}_"
    (preset,) = (name for name in PRESETS if name.startswith(preset))
    encoder = detection.NASNetBackbone.from_preset(
        preset, weights is not None, weights, image_shape=(size, size, 3)
    )
    # KerasHub adds each scale to the next one, enlarged to twice its size.
    coarsest = max(int(level[1:]) for level in encoder.pyramid_outputs)
    if size % 2**coarsest:
        raise ValueError(
            f"`image_size` of a RetinaNet must be a multiple of {2**coarsest}. "
            f"Received: {size}"
        )
    freeze(encoder, recipe.train_from)
    if not recipe.train_batch_norm:
        freeze_batch_norms(encoder)
    detector = keras_hub.models.RetinaNetObjectDetector(
        keras_hub.models.RetinaNetBackbone(
            encoder,
            recipe.retinanet["min_level"],
            recipe.retinanet["max_level"],
            use_p5=False,
            use_fpn_batch_norm=True,
            image_shape=(size, size, 3),
        ),
        len(class_names),
        bounding_box_format="xyxy",
        pre_logits_num_conv_layers=recipe.retinanet["head_layers"],
        prediction_decoder=detection.NamedNonMaxSuppression(
            class_names,
            bounding_box_format="xyxy",
            from_logits=True,
            confidence_threshold=0.05,
        ),
    )
    # At first hardly any place has an object, and boxes are where anchors are,
    # as in the RetinaNet paper. KerasHub has the two biases the wrong way round
    # and larger kernels, with which losses begin in the hundreds.
    for head, bias in (
        (detector.classification_head, -math.log(99)),
        (detector.box_head, 0.0),
    ):
        layer = head.prediction_layer
        small = keras.initializers.RandomNormal(stddev=0.01)
        layer.kernel.assign(small(layer.kernel.shape))
        layer.bias.assign(keras.ops.full(layer.bias.shape, bias))
    return detector


def freeze(network, train_from):
    """Leaves the layers from a named one on trainable.

    Args:
        network: A network of this package.
        train_from: Name of the first layer to train; empty for all of them.

    Raises:
        ValueError: If there is no layer of that name.
    """
    if train_from:
        first = layer_index(network, train_from, "train_from")
        for layer in network.layers[:first]:
            layer.trainable = False


def compile_detector(detector, recipe, steps_per_epoch):
    """Compiles a detector with the optimizer of a recipe."""
    optimizer = keras.optimizers.SGD(
        schedules.cosine(recipe, steps_per_epoch),
        momentum=0.9,
        global_clipnorm=recipe.clip_norm,
    )
    if not detector.built:
        detector.build((None, recipe.image_size, recipe.image_size, 3))
    optimizer.build(detector.trainable_variables)
    # XLA runs depthwise convolutions several times slower on a CPU.
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    detector.compile(optimizer, jit_compile="auto" if on_gpu else False)


class Evaluation(keras.callbacks.Callback):
    """Measures and draws what a detector finds after every epoch.

    Keeps the best detector by mAP as `best.keras`, also over interruptions.

    Args:
        recipe: A `DetectionRecipe`.
        split: The `detection_data.Split` to evaluate on.
        workdir: Folder for pictures and the best detector.
    """

    def __init__(self, recipe, split, workdir):
        super().__init__()
        self.batches = detection_data.evaluation_batches(
            split, recipe.batch_size, recipe.image_size
        )
        self.truth = split.truth()
        self.class_names = split.class_names
        self.workdir = workdir
        self.writer = tf.summary.create_file_writer(
            os.path.join(workdir, "tensorboard", "pictures")
        )

    def measure(self, detector):
        """Returns a dictionary of the mAP of a detector."""
        results = detection_metrics.predictions(detector, self.batches)
        return detection_metrics.evaluate(self.truth, results)

    def on_epoch_end(self, epoch, logs=None):
        values = self.measure(self.model)
        # What `log.csv` and TensorBoard show.
        logs.update({f"val_{name}": value for name, value in values.items()})
        self._draw(epoch)
        record = os.path.join(self.workdir, "best.json")
        if values["mAP"] > checkpoints.best_value(record, "mAP"):
            checkpoints.save_model(
                self.model, os.path.join(self.workdir, "best.keras")
            )
            checkpoints.write_json({"epoch": epoch + 1, **values}, record)

    def _draw(self, epoch):
        # However few are in a batch.
        some = self.batches.unbatch().batch(DRAWN)
        images, _ = next(some.as_numpy_iterator())
        found = pictures.find(self.model, images)
        drawn = []
        for i in range(len(images)):
            detections = pictures.detections(found, i, self.class_names, 0.3)
            pixels = np.round((images[i] + 1) * 127.5).astype("uint8")
            drawn.append(np.asarray(pictures.draw(pixels, detections)))
        with self.writer.as_default():
            # Not a list, of which TensorFlow makes 32-bit numbers, and of
            # these black pictures.
            tf.summary.image("found", np.stack(drawn), epoch, max_outputs=DRAWN)
        self.writer.flush()


def recipe_from_flags():
    """Returns the chosen recipe with everything that flags override."""
    changes = overrides.given(("detector", *OVERRIDES))
    recipe = dataclasses.replace(RECIPES[FLAGS.recipe], **changes)
    if FLAGS.anchor_sizes:
        sizes = tuple(map(float, FLAGS.anchor_sizes))
        settings = {**recipe.faster_rcnn, "anchor_sizes": sizes}
        recipe = dataclasses.replace(recipe, faster_rcnn=settings)
    return recipe


def main(_):
    _, values = train(
        recipe_from_flags(), FLAGS.workdir, FLAGS.data_dir, FLAGS.seed
    )
    for name, value in values.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
