"""Children: networks that are trained to learn what their cells are worth."""

import functools
import gc
import math
import time

import keras
import tensorflow as tf

import keras_nasnet
from training import checkpoints
from training import datasets
from training import train


class ChildFailed(Exception):
    """A child that has no reward, and why."""


class ChildEvaluator:
    """Trains children, and tells their accuracy on held out images.

    Args:
        space: The `training.search.decisions.NASNetSpace` of the search.
        budget: A `training.search.budgets.Budget`.
        data_dir: Folder of prepared tfds data sets.
        time_limit: Seconds after which a child has failed, or `None`.
    """

    def __init__(self, space, budget, data_dir=None, time_limit=None):
        self.space = space
        self.budget = budget
        self.data_dir = data_dir
        self.time_limit = time_limit

    def __call__(self, decisions, seed):
        """Trains one child.

        Args:
            decisions: Sequence of integers, one for every decision.
            seed: Integer that decides weights, order and augmentation.

        Yields:
            A dictionary of `"parameters"` and `"multiply_adds"`. Then after
            every epoch one of the `"reward"`, which is the accuracy on the
            held out images, in [0, 1]; whether it is `"done"`; and `"epoch"`.

        Raises:
            ChildFailed: If the loss stops being a number, or if memory or
                time do not suffice.
        """
        try:
            recipe = self.budget.recipe_for(self.space.decode(decisions))
            yield from _train(recipe, seed, self.data_dir, self.time_limit)
        except FloatingPointError:
            raise ChildFailed("The loss is not a number.") from None
        except (MemoryError, tf.errors.ResourceExhaustedError):
            raise ChildFailed("Out of memory.") from None
        finally:
            # The next child is trained by the same process.
            keras.backend.clear_session()
            gc.collect()


class _Deadline(keras.callbacks.Callback):
    """Stops a child whose time is over."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.started = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._check()

    def on_test_batch_end(self, batch, logs=None):
        self._check()

    def _check(self):
        used = time.monotonic() - self.started
        if self.seconds and used > self.seconds:
            raise ChildFailed(f"Took longer than {self.seconds} s.")


def _train(recipe, seed, data_dir, time_limit):
    keras.utils.set_random_seed(seed)
    split = _load(recipe.dataset, recipe.train_split, data_dir)
    held_out = _load(recipe.dataset, recipe.eval_split, data_dir)
    # Reading them does not count: only the first child of a process has to.
    deadline = _Deadline(time_limit)
    steps = split.count // recipe.batch_size
    model = train.build_model(recipe, split.class_names)
    train.compile_model(model, train.build_optimizer(recipe, steps), recipe)
    prepare, prepare_eval = datasets.PIPELINES[recipe.pipeline]
    arguments = recipe.pipeline_args
    data = prepare(split.dataset, recipe.batch_size, seed, **arguments)
    eval_data = prepare_eval(held_out.dataset, 500, **arguments)
    yield {
        "parameters": model.count_params(),
        "multiply_adds": keras_nasnet.count_macs(model),
    }
    for epoch in range(recipe.epochs):
        logs = model.fit(
            train.with_labels_for_heads(data, model),
            validation_data=train.with_labels_for_heads(eval_data, model),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=steps,
            shuffle=False,  # is done; Keras only warns
            callbacks=[checkpoints.StopAtNonFiniteLoss(), deadline],
            verbose=0,
        ).history
        # The loss of a step is that before its update.
        if not math.isfinite(logs["val_loss"][-1]):
            raise FloatingPointError
        yield {
            "reward": logs["val_accuracy"][-1],
            "done": epoch + 1 == recipe.epochs,
            "epoch": epoch + 1,
        }


@functools.lru_cache
def _load(name, split, data_dir):
    """Loads images once for all children of a process."""
    loaded = datasets.load(name, split, data_dir)
    return loaded._replace(dataset=loaded.dataset.cache())
