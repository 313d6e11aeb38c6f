"""Learning rates over a run."""

import math

import keras


def cosine(recipe, steps_per_epoch):
    """Returns a single cosine down to zero, after a linear warm-up.

    Args:
        recipe: A recipe with `learning_rate`, `epochs` and `warmup_epochs`.
        steps_per_epoch: Integer, number of updates in an epoch.
    """
    warmup = math.ceil(recipe.warmup_epochs * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else recipe.learning_rate,
        # Not 0 if there is nothing but warm-up.
        max(1, recipe.epochs * steps_per_epoch - warmup),
        warmup_target=recipe.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
