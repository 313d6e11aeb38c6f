"""Recipes: everything that decides what a training run produces."""

import dataclasses
import importlib
import pkgutil


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to train one network.

    Args:
        factory: Name of a factory of `keras_nasnet`.
        model: Arguments of the factory. `weight_decay`, `drop_path_rate`,
            `dropout` and `aux_head` belong here.
        dataset: Name of a tfds data set, or a folder of images.
        train_split: tfds split to train on.
        eval_split: tfds split to evaluate on after every epoch; `None` for
            runs that must not look at any.
        pipeline: Name of a preparation in `training.datasets.PIPELINES`.
        pipeline_args: Its arguments.
        batch_size: Images per optimizer step, over all devices.
        epochs: Passes over the training split.
        optimizer: `"sgd"` (Nesterov momentum 0.9) or `"rmsprop"` (decay 0.9,
            momentum 0.9, epsilon 1.0, as in TF-slim).
        learning_rate: Peak learning rate at `batch_size`.
        schedule: `"cosine"` to zero, or `"exponential"` (0.97 per 2.4
            epochs).
        warmup_epochs: Epochs of linear warm-up.
        label_smoothing: Share of the label spread over all classes.
        clip_norm: Limit of the global norm of the gradients, or `None`.
        aux_weight: Weight of the auxiliary head's loss.
        ema: Decay of the moving average of the weights, or `None`.
        weights: Where training starts: what the factory takes as `weights`.
    """

    factory: str
    model: dict
    dataset: str
    train_split: str
    eval_split: str | None
    pipeline: str
    pipeline_args: dict
    batch_size: int
    epochs: int
    optimizer: str
    learning_rate: float
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    aux_weight: float = 0.4
    ema: float | None = None
    weights: str | None = None


def names():
    """Returns the names of all recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name):
    """Returns the recipe of a module in this folder.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in names():
        raise ValueError(
            f"Unknown recipe {name!r}. Expected one of {', '.join(names())}."
        )
    return importlib.import_module(f"training.recipes.{name}").RECIPE
