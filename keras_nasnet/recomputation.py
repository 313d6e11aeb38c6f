"""Training with less memory: compute again instead of keeping."""

import contextlib

import keras
from keras import ops


class Recomputation:
    """Calls a layer in training, and calls it again for the gradients.

    Nothing that the layer computes inside is kept in between. The second call
    draws the same random numbers and changes no variable, so nothing but
    memory and time tells the difference. `keras.RematScope` is no help: in
    graphs of TensorFlow it fails on layers that take `training`.

    Args:
        layer: The layer. While `is_running`, its `call()` has to compute as
            usual.
    """

    def __init__(self, layer):
        self.layer = layer
        self.is_running = False

    def __call__(self, inputs):
        """Returns what the layer returns in training.

        Args:
            inputs: List of tensors.

        Raises:
            ValueError: On other backends than TensorFlow.
        """
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                "Recomputation in training (`recompute`, `recompute_cells`) "
                "needs the TensorFlow backend. "
                f"Received: {keras.config.backend()}"
            )
        weights = {id(weight) for weight in self.layer.weights}
        # Random states, and how far drop path is, as the first call finds
        # them.
        states = [
            (variable, ops.copy(variable.value))
            for variable in self.layer.variables
            if id(variable) not in weights
        ]
        is_first = True

        def run(*inputs):
            nonlocal is_first
            scope = contextlib.nullcontext()
            if not is_first:
                scope = keras.StatelessScope(states)
            is_first = False
            self.is_running = True
            try:
                with scope:
                    # As a layer, so that those inside know that they train.
                    return self.layer(list(inputs), training=True)
            finally:
                self.is_running = False

        return keras.remat(run)(*inputs)
