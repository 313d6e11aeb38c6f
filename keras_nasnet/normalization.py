"""Batch norm that is traced soon, and trained with one operation."""

import keras
from keras import ops

from keras_nasnet.hardware import is_tensorflow_on_cpu


def freeze_batch_norms(model):
    """Makes all batch norms of a model keep their statistics and weights.

    For fine-tuning: a few images at a time are too few to estimate new
    statistics. Call it after setting `trainable` of the layers around them,
    and before `compile()`.

    Args:
        model: A Keras model.

    Example:

    >>> model = keras_nasnet.NASNetTiny(weights=None)
    >>> keras_nasnet.freeze_batch_norms(model)
    >>> len(model.trainable_weights) < len(model.weights) // 2
    True
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


@keras.saving.register_keras_serializable("keras_nasnet")
class BatchNorm(keras.layers.BatchNormalization):
    """Keras' batch norm over channels, fused in training on TensorFlow.

    Keras 3 writes batch norm as about ten small operations. TensorFlow has one
    for it, which makes the graph of a network smaller and its training faster.
    With moving statistics that one can be ten times slower; there the small
    operations are written without Keras' casts and checks, which took half of
    the time to trace a network.

    Args:
        **kwargs: As in `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: Tensor `(batch, height, width, channels)`.
        training: Whether to normalise with the statistics of the batch.

    Returns:
        A tensor of the shape of `inputs`.

    Example:

    >>> keras_nasnet.normalization.BatchNorm()(np.ones((1, 2, 2, 3))).shape
    TensorShape([1, 2, 2, 3])
    """

    def call(self, inputs, training=None):
        uses_batch = bool(training) and self.trainable
        is_direct = (
            keras.backend.backend() == "tensorflow"
            if uses_batch
            # Half precision would lose more than Keras does, which computes
            # in float32.
            else self.compute_dtype == "float32"
        )
        if not is_direct or not self._is_plain(inputs):
            return super().call(inputs, training=training)
        if not uses_batch:
            scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
            return inputs * scale + (self.beta - self.moving_mean * scale)
        import tensorflow as tf

        # A CPU takes twice as long in 16 bits.
        is_slow = self.compute_dtype != "float32" and is_tensorflow_on_cpu()
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, "float32") if is_slow else inputs,
            scale=ops.cast(self.gamma, "float32"),
            offset=ops.cast(self.beta, "float32"),
            epsilon=self.epsilon,
        )
        # TensorFlow returns the unbiased variance, Keras keeps the other.
        count = tf.size(inputs) / inputs.shape[-1]
        count = tf.cast(count, "float32")
        variance *= tf.maximum(count - 1, 1) / count
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign_sub((moving - value) * (1 - self.momentum))
        return tf.cast(outputs, self.compute_dtype)

    def _is_plain(self, inputs):
        """Tells whether this is what the networks of this package need."""
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and not self.synchronized
            and self.variable_dtype == "float32"
            and self.scale
            and self.center
        )
