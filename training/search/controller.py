"""The recurrent network that writes architectures down."""

import keras
import numpy as np
from keras import ops


class Controller(keras.Model):
    """A one-layer LSTM with a softmax for every decision.

    Each decision is embedded and becomes the input of the next step; the
    first step reads a fixed start token.

    Args:
        choices: Number of choices of every decision, in order.
        units: Size of the LSTM and of the embeddings.
        init_scale: Weights start uniform in [-init_scale, init_scale].
        seed: Integer that decides the weights.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), section 3 and appendix A.2;
            what it leaves open follows [Neural Architecture Search with
            Reinforcement Learning](https://arxiv.org/abs/1611.01578)
    """

    def __init__(self, choices, units=100, init_scale=0.1, seed=0):
        super().__init__()
        self.choices = tuple(choices)
        self.units = units
        uniform = keras.initializers.RandomUniform(
            -init_scale, init_scale, seed=keras.random.SeedGenerator(seed)
        )
        # Every choice of every decision has an embedding of its own, behind
        # that of the start token.
        self.first_tokens = 1 + np.cumsum([0, *self.choices[:-1]])
        self.embedding = keras.layers.Embedding(
            1 + sum(self.choices), units, embeddings_initializer=uniform
        )
        self.lstm = keras.layers.LSTM(
            units,
            return_sequences=True,
            kernel_initializer=uniform,
            recurrent_initializer=uniform,
            unit_forget_bias=False,
        )
        steps, width = len(self.choices), max(self.choices)
        self.kernel = self.add_weight(
            (steps, units, width), initializer=uniform, name="kernel"
        )
        self.bias = self.add_weight(
            (steps, width), initializer="zeros", name="bias"
        )
        # What a decision with fewer choices cannot take.
        impossible = np.arange(width) >= np.array(self.choices)[:, None]
        self.mask = np.where(impossible, -1e9, 0).astype("float32")
        self.embedding.build((None, steps))
        self.lstm.build((None, steps, units))
        self.built = True

    def call(self, decisions):
        """Returns the log-probabilities of all choices.

        Args:
            decisions: Integer tensor `(architectures, decisions)`. Each row
                of the result depends on the decisions before it.

        Returns:
            A tensor `(architectures, decisions, choices)`.
        """
        tokens = ops.cast(decisions, "int32") + self.first_tokens
        tokens = ops.pad(tokens[:, :-1], [[0, 0], [1, 0]])
        hidden = self.lstm(self.embedding(tokens))
        logits = ops.einsum("ntu,tuc->ntc", hidden, self.kernel) + self.bias
        return ops.log_softmax(logits + self.mask, axis=-1)

    def log_probs(self, decisions):
        """Returns log-probability and entropy of every decision.

        Args:
            decisions: Integer tensor `(architectures, decisions)`.

        Returns:
            Two tensors `(architectures, decisions)`: the log-probabilities of
            the decisions, and the entropies, in nats, of the distributions
            that they were drawn from.
        """
        scores = self(decisions)
        taken = ops.take_along_axis(
            scores, ops.expand_dims(ops.cast(decisions, "int32"), -1), axis=-1
        )
        # A choice that is impossible adds nothing: exp() of it is 0.
        entropy = -ops.sum(ops.exp(scores) * scores, axis=-1)
        return ops.squeeze(taken, -1), entropy

    def sample(self, count, rng):
        """Draws architectures.

        Args:
            count: Integer, how many.
            rng: `numpy.random.Generator`.

        Returns:
            Two arrays `(count, decisions)`: the decisions and their
            log-probabilities.
        """
        decisions = np.zeros((count, len(self.choices)), "int32")
        log_probs = np.zeros((count, len(self.choices)), "float32")
        # In NumPy: fifty steps of a hundred units are too small to be worth a
        # call into the backend each.
        weights = [
            ops.convert_to_numpy(weight)
            for weight in (
                *self.embedding.weights,
                *self.lstm.weights,
                self.kernel,
                self.bias,
            )
        ]
        state = (np.zeros((count, self.units), "float32"),) * 2
        tokens = np.zeros(count, "int32")
        for step, choices in enumerate(self.choices):
            scores, state = _step(weights, tokens, state, step)
            scores = scores[:, :choices].astype("float64")
            scores -= scores.max(1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(1, keepdims=True))
            bounds = np.exp(scores).cumsum(1)
            draw = rng.random((count, 1)) * bounds[:, -1:]
            taken = (draw >= bounds).sum(1)
            decisions[:, step] = taken
            log_probs[:, step] = scores[np.arange(count), taken]
            tokens = taken + self.first_tokens[step]
        return decisions, log_probs


def _step(weights, tokens, state, step):
    """Does what `Controller.call()` does, for one decision."""
    embeddings, kernel, recurrent, bias, heads, head_biases = weights
    hidden, cell = state
    gates = embeddings[tokens] @ kernel + hidden @ recurrent + bias
    take, forget, new, put = np.split(gates, 4, axis=1)
    cell = _sigmoid(forget) * cell + _sigmoid(take) * np.tanh(new)
    hidden = _sigmoid(put) * np.tanh(cell)
    return hidden @ heads[step] + head_biases[step], (hidden, cell)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))
