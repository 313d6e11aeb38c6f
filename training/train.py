"""Trains a network by a recipe.

Run, and run again after any interruption:

    python -m training.train --recipe=cifar10_tiny --workdir=runs/tiny

The working folder then holds the trained network (`final.keras`), the best one
by validation accuracy if the recipe validates (`best.keras`), `log.csv`, the
recipe and TensorBoard's logs. A run that is killed loses nothing but its
current epoch.

On several machines, start it on each with `--strategy=multiworker`, with a
`TF_CONFIG` of its own and a `--workdir` that all of them see.
"""

import dataclasses
import math
import os
import sys

import keras
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

import keras_nasnet
from keras_nasnet.names import AUX_LAYER
from keras_nasnet.names import GRADCAM_LAYER
from keras_nasnet.names import PREDICTIONS_LAYER
from training import checkpoints
from training import datasets
from training import distribution
from training import overrides
from training import recipes
from training import schedules

FLAGS = flags.FLAGS
OVERRIDES = (
    "dataset",
    "train_split",
    "eval_split",
    "epochs",
    "batch_size",
    "learning_rate",
    "weights",
)


def define_flags():
    flags.DEFINE_enum("recipe", None, recipes.names(), "What to train.")
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_integer("seed", 0, "Decides weights, order, augmentation.")
    flags.DEFINE_bool("mixed_precision", False, "Compute in bfloat16.")
    flags.DEFINE_enum(
        "strategy",
        "none",
        list(distribution.STRATEGIES),
        "Distribution over devices, or over the workers of TF_CONFIG.",
    )
    flags.DEFINE_string("genotype", None, "JSON file with cells to train.")
    overrides.define(recipes.Recipe, OVERRIDES)
    flags.mark_flags_as_required(["recipe", "workdir"])


def train(recipe, workdir, data_dir=None, seed=0, strategy=None):
    """Trains by a recipe, or goes on where an earlier call was interrupted.

    Args:
        recipe: A `training.recipes.Recipe`.
        workdir: Folder for everything that the run writes.
        data_dir: Folder of prepared tfds data sets.
        seed: Integer that decides weights, order and augmentation.
        strategy: Optional `tf.distribute.Strategy`.

    Returns:
        The trained network, without what only training needs.

    Raises:
        ValueError: If `workdir` holds the run of another recipe, or if the
            recipe does not fit its data.
        FloatingPointError: If the loss stops being a number.
    """
    strategy = strategy or tf.distribute.get_strategy()
    keras.utils.set_random_seed(seed)
    os.makedirs(workdir, exist_ok=True)
    record = os.path.join(workdir, "recipe.json")
    settings = {**dataclasses.asdict(recipe), "seed": seed}
    checkpoints.check_settings(settings, record)
    if recipe.eval_split and os.path.isdir(recipe.dataset):
        raise ValueError(
            f"`eval_split` must be empty for a folder, which has no splits. "
            f"Received {recipe.eval_split!r} and {recipe.dataset!r}."
        )
    if recipe.pipeline_args.get("whiten"):
        logging.warning(
            "This network will want whitened images: evaluate it with "
            "--whiten. `keras-nasnet predict` and files for phones scale "
            "pixels to [-1, 1] instead, and would be wrong."
        )
    split = datasets.load(recipe.dataset, recipe.train_split, data_dir, seed)
    steps = split.count // recipe.batch_size
    if not steps:
        raise ValueError(
            f"`batch_size` {recipe.batch_size} is larger than the "
            f"{split.count} images of {recipe.train_split!r}."
        )
    model = distribution.build(
        strategy, lambda: build_model(recipe, split.class_names)
    )
    backup = checkpoints.Backup(os.path.join(workdir, "backup"))
    with strategy.scope():
        compile_model(model, build_optimizer(recipe, steps), recipe)
        done = backup.restore(model)
    prepare, prepare_eval = datasets.PIPELINES[recipe.pipeline]
    training_data = prepare(
        split.dataset,
        recipe.batch_size,
        # Goes on with other orders and augmentations than the first epochs'.
        seed + done,
        **recipe.pipeline_args,
    )
    eval_data = None
    if recipe.eval_split:
        eval_split = datasets.load(recipe.dataset, recipe.eval_split, data_dir)
        eval_data = with_labels_for_heads(
            prepare_eval(
                eval_split.dataset, recipe.batch_size, **recipe.pipeline_args
            ),
            model,
        )
    callbacks = _callbacks(recipe)
    # Of several workers, only the first one writes.
    if strategy.extended.should_checkpoint:
        checkpoints.write_json(settings, record)
        checkpoints.cut_log(os.path.join(workdir, "log.csv"), done)
        callbacks = [
            *_writing_callbacks(recipe, workdir, model),
            *callbacks,
            # Last, so that an epoch counts as done when all else is written.
            backup,
        ]
    model.fit(
        with_labels_for_heads(training_data, model),
        validation_data=eval_data,
        initial_epoch=done,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # is done; Keras only warns
        callbacks=callbacks,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    final = deployed(model)
    if strategy.extended.should_checkpoint:
        checkpoints.save_model(final, os.path.join(workdir, "final.keras"))
    return final


def build_model(recipe, class_names):
    """Builds the network of a recipe."""
    factory = getattr(keras_nasnet, recipe.factory)
    return factory(
        weights=recipe.weights,
        classes=len(class_names),
        class_names=class_names,
        **recipe.model,
    )


def build_optimizer(recipe, steps_per_epoch):
    """Builds the optimizer of a recipe with its schedule."""
    if recipe.schedule == "cosine":
        schedule = schedules.cosine(recipe, steps_per_epoch)
    else:
        schedule = keras.optimizers.schedules.ExponentialDecay(
            recipe.learning_rate,
            decay_steps=math.ceil(2.4 * steps_per_epoch),
            decay_rate=0.97,
            staircase=True,
        )
    settings = {
        "momentum": 0.9,
        "global_clipnorm": recipe.clip_norm,
        "use_ema": recipe.ema is not None,
        "ema_momentum": recipe.ema or 0.0,
    }
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(schedule, nesterov=True, **settings)
    return keras.optimizers.RMSprop(schedule, rho=0.9, epsilon=1.0, **settings)


def compile_model(model, optimizer, recipe):
    """Compiles a network with one or two heads."""
    loss = keras.losses.CategoricalCrossentropy(
        label_smoothing=recipe.label_smoothing
    )
    # Objects, and an optimizer that is built: whatever is created while the
    # first step is traced makes TensorFlow trace it again.
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    losses, weights = loss, None
    optimizer.build(model.trainable_variables)
    if _has_aux_head(model):
        losses = {PREDICTIONS_LAYER: loss, AUX_LAYER: loss}
        weights = {PREDICTIONS_LAYER: 1.0, AUX_LAYER: recipe.aux_weight}
        metrics = {PREDICTIONS_LAYER: metrics}
    # XLA runs depthwise convolutions several times slower on a CPU.
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    model.compile(
        optimizer,
        loss=losses,
        loss_weights=weights,
        metrics=metrics,
        jit_compile="auto" if on_gpu else False,
    )


def with_labels_for_heads(dataset, model):
    """Gives every head of a network the labels, one-hot, for any strategy."""
    classes = model.get_layer(PREDICTIONS_LAYER).units
    has_aux_head = _has_aux_head(model)

    def repeat(images, labels):
        labels = tf.one_hot(labels, classes)
        if has_aux_head:
            labels = {PREDICTIONS_LAYER: labels, AUX_LAYER: labels}
        return images, labels

    dataset = dataset.map(repeat, datasets.AUTOTUNE)
    return distribution.shard_by_image(dataset)


def deployed(model):
    """Returns a network without its auxiliary head, sharing the weights."""
    return keras.Model(
        # Not `inputs`: a list of one makes Keras warn at every call.
        model.input,
        model.get_layer(PREDICTIONS_LAYER).output,
        name=model.name,
    )


def _has_aux_head(model):
    return AUX_LAYER in {layer.name for layer in model.layers}


def _callbacks(recipe):
    """Returns the callbacks that take part in the training."""
    callbacks = [checkpoints.StopAtNonFiniteLoss()]
    if recipe.model.get("drop_path_rate"):
        callbacks.append(keras_nasnet.ScheduledDropPath())
    if recipe.ema:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    return callbacks


def _writing_callbacks(recipe, workdir, model):
    """Returns the callbacks that only write, to be placed first."""
    callbacks = [
        keras.callbacks.CSVLogger(
            os.path.join(workdir, "log.csv"), append=True
        ),
        keras.callbacks.TensorBoard(os.path.join(workdir, "tensorboard")),
    ]
    if recipe.eval_split:
        metric = "accuracy"
        if _has_aux_head(model):
            metric = f"{PREDICTIONS_LAYER}_{metric}"
        callbacks.append(
            checkpoints.BestModel(
                os.path.join(workdir, "best.keras"), metric, deployed
            )
        )
    return callbacks


def with_cells(recipe, genotype, filters):
    """Returns a recipe for certain cells.

    Args:
        recipe: A recipe.
        genotype: A `Genotype`.
        filters: Integer, filters of the last cells. How many the last layer
            has follows from how many states a cell concatenates.
    """
    model = {
        **recipe.model,
        "genotype": genotype.to_dict(),
        "penultimate_filters": filters * len(genotype.normal.outputs),
    }
    return dataclasses.replace(recipe, model=model)


def with_genotype(recipe, genotype):
    """Returns a recipe for other cells of the same width.

    Args:
        recipe: A recipe for NASNet-A.
        genotype: A `Genotype`, whose cells may concatenate another number of
            states.
    """
    factory = getattr(keras_nasnet, recipe.factory)
    known = factory(**{**recipe.model, "weights": None})
    features = known.get_layer(GRADCAM_LAYER).output
    width = features.shape[-1] // len(keras_nasnet.NASNET_A.normal.outputs)
    return with_cells(recipe, genotype, width)


def recipe_from_flags():
    """Returns the chosen recipe with everything that flags override."""
    recipe = recipes.get(FLAGS.recipe)
    if FLAGS.genotype:
        genotype = keras_nasnet.Genotype.load(FLAGS.genotype)
        recipe = with_genotype(recipe, genotype)
    return dataclasses.replace(recipe, **overrides.given(OVERRIDES))


def main(_):
    # Before anything else: collective operations must come first.
    strategy = distribution.STRATEGIES[FLAGS.strategy]()
    if FLAGS.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    train(
        recipe_from_flags(),
        FLAGS.workdir,
        FLAGS.data_dir,
        FLAGS.seed,
        strategy,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
