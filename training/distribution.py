"""Training on several devices and machines at once."""

import keras
import tensorflow as tf

STRATEGIES = {
    "none": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
}


def build(strategy, builder):
    """Builds a model that `fit()` can train with a strategy.

    Args:
        strategy: A `tf.distribute.Strategy`.
        builder: Function without arguments that returns a functional model.

    Returns:
        A Keras model, to be compiled in the strategy's scope.
    """
    with strategy.scope():
        model = builder()
        if _has_several_workers(strategy):
            model = _MultiWorkerModel(
                model.input, model.output, name=model.name
            )
    return model


def shard_by_image(dataset):
    """Gives every worker its share of each batch.

    Left to itself, TensorFlow shards by file where there are enough, and
    workers run out of images at different steps.

    Args:
        dataset: `tf.data.Dataset` of whole batches.

    Returns:
        The same `tf.data.Dataset`, for a `tf.distribute.Strategy` to split.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)


class _MultiWorkerModel(keras.Model):
    """A model that works around two defects of Keras 3.15."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras asks for the mean of a nested batch over all workers, which
        # TensorFlow refuses. Only its shapes are needed.
        strategy = self.distribute_strategy
        _, _, batches = next(iter(iterator))
        batch = keras.tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0],
            next(batches),
        )
        with strategy.scope():
            self._symbolic_build(data_batch=batch)

    # Keras averages metrics over their first axis, which scalars do not have.

    def train_step(self, data):
        return _as_vectors(super().train_step(data))

    def test_step(self, data):
        return _as_vectors(super().test_step(data))


def _as_vectors(metrics):
    return {name: value[None] for name, value in metrics.items()}


def _has_several_workers(strategy):
    resolver = strategy.cluster_resolver
    if resolver is None:
        return False
    return sum(map(len, resolver.cluster_spec().as_dict().values())) > 1
