"""Trains the small recipe in a process of its own, as tests ask for."""

import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from tests.runs import small_recipe
from training import checkpoints
from training import distribution
from training import train


def kill_after(step, in_backup):
    """Has this process killed after a step, or in the backup after it.

    Args:
        step: Number of the optimizer's step.
        in_backup: Whether to wait until half of the backup is written.
    """

    def kill_if_due(model):
        if model.optimizer.iterations == step:
            os.kill(os.getpid(), signal.SIGKILL)

    if not in_backup:
        checkpoints.StopAtNonFiniteLoss.on_train_batch_end = (
            lambda self, *_, **__: kill_if_due(self.model)
        )
        return
    save_weights = keras.Model.save_weights

    def save_half(self, path):
        save_weights(self, path)
        os.truncate(path, os.path.getsize(path) // 2)
        kill_if_due(self)
        save_weights(self, path)

    keras.Model.save_weights = save_half


def train_as_worker(recipe, workdir, files, out):
    """Trains with `TF_CONFIG`, and tells what this worker got and learned.

    Args:
        recipe: A recipe.
        workdir: Folder for the run.
        files: Text files with a number in each line.
        out: Path of the `.npz` file to write.
    """
    strategy = distribution.STRATEGIES["multiworker"]()
    network = train.train(recipe, workdir, strategy=strategy)
    numbers = tf.data.TextLineDataset(files).map(tf.strings.to_number)
    batches = distribution.shard_by_image(numbers.batch(8))
    shares = [
        strategy.experimental_local_results(batch)[0].numpy()
        for batch in strategy.experimental_distribute_dataset(batches)
    ]
    weights = {w.path: w.numpy() for w in network.trainable_weights}
    np.savez(out, shares=np.stack(shares), **weights)


def main(task):
    recipe = small_recipe(**task["recipe"])
    if "out" in task:
        train_as_worker(recipe, task["workdir"], task["files"], task["out"])
    else:
        kill_after(**task["kill_after"])
        train.train(recipe, task["workdir"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
