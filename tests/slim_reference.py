"""TF-slim's NASNet-A in plain TensorFlow, to compare converted weights with.

Written after TF-slim's `nasnet.py` and `nasnet_utils.py`, down to the names of
the variables, and without anything of keras_nasnet.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

EMA = "/ExponentialMovingAverage"


class Network(NamedTuple):
    """Hyperparameters of a network, named as TF-slim does."""

    stem: str  # "imagenet" or "cifar"
    num_cells: int
    num_conv_filters: int
    stem_filters: int
    skip_reduction_layer_input: bool
    num_classes: int
    image_size: int
    batch_norm_epsilon: float = 1e-3

    @property
    def reduction_indices(self):
        return [self.num_cells // 3, 2 * self.num_cells // 3]


MOBILE = Network("imagenet", 12, 44, 32, False, 1001, 224)
LARGE = Network("imagenet", 18, 168, 96, True, 1001, 331)
CIFAR = Network("cifar", 18, 32, 96, False, 10, 32, 1e-5)

# Per block: operation and state on the left, then on the right. State 0 is
# the current input, 1 the previous one.
NORMAL = (
    [("separable_5x5", 0), ("separable_3x3", 1)],
    [("separable_5x5", 1), ("separable_3x3", 1)],
    [("avg_pool_3x3", 0), ("none", 1)],
    [("avg_pool_3x3", 1), ("avg_pool_3x3", 1)],
    [("separable_3x3", 0), ("none", 0)],
)
REDUCTION = (
    [("separable_5x5", 0), ("separable_7x7", 1)],
    [("max_pool_3x3", 0), ("separable_7x7", 1)],
    [("avg_pool_3x3", 0), ("separable_5x5", 1)],
    [("none", 3), ("avg_pool_3x3", 2)],
    [("separable_3x3", 2), ("max_pool_3x3", 0)],
)
# States that are concatenated at the end.
OUTPUTS = {1: (1, 2, 3, 4, 5, 6), 2: (3, 4, 5, 6)}


def shapes(network):
    """Returns the shape of every variable of a network, by name."""
    found = {}

    def get(name, shape):
        assert name not in found, f"{name} is there twice"
        found[name] = tuple(shape)
        return tf.zeros(shape)

    with tf.Graph().as_default():
        size = network.image_size
        image = tf.zeros((1, size, size, 3))
        _Builder(network, get).build(image)
    return found


def variables(network, seed=0):
    """Returns values that a trained network might have, by name."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes(network).items():
        kind = name.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif kind in ("beta", "moving_mean", "biases"):
            value = rng.normal(0, 0.2, shape)
        else:
            depthwise = kind == "depthwise_weights"
            fan_in = math.prod(shape[:2] if depthwise else shape[:-1])
            value = rng.normal(0, fan_in**-0.5, shape)
        values[name] = value.astype("float32")
    return values


def without_aux_head(values):
    """Returns the variables that inference needs."""
    return {k: v for k, v in values.items() if not k.startswith("aux_")}


def logits(network, values, images):
    """Computes the logits of a network and of its auxiliary head.

    Args:
        network: A `Network`.
        values: Dictionary from the name of a variable to its value.
        images: Array `(batch, height, width, 3)`, of `network.image_size` if
            there is an auxiliary head.

    Returns:
        Two arrays `(batch, classes)`; the second one is `None` if `values`
        has no auxiliary head.
    """

    def get(name, shape):
        assert values[name].shape == tuple(shape), name
        return values[name]

    with_aux = len(without_aux_head(values)) < len(values)
    results = _Builder(network, get).build(tf.constant(images), with_aux)
    return [None if x is None else x.numpy() for x in results]


def save(values, prefix):
    """Writes a checkpoint with exactly these names, and returns its prefix."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    return str(prefix)


def with_training_state(values, averages, seed=1):
    """Adds what a training of TF-slim leaves in a checkpoint.

    Args:
        values: Dictionary from the name of a variable to its value.
        averages: Dictionary from names to moving averages.
        seed: Integer.
    """
    rng = np.random.default_rng(seed)
    state = {"global_step": np.int64(250_000)}
    for name, value in values.items():
        state[name] = value
        if "moving_" not in name:
            for slot in ("RMSProp", "RMSProp_1"):
                noise = rng.uniform(0, 1, value.shape)
                state[f"{name}/{slot}"] = noise.astype("float32")
    state.update({f"{name}{EMA}": value for name, value in averages.items()})
    return state


class _Builder:
    """Computes a network, asking `get(name, shape)` for every variable."""

    def __init__(self, network, get):
        self.network = network
        self.get = get

    def build(self, x, with_aux=True):
        net = self.network
        filters = net.num_conv_filters
        aux = None
        if net.stem == "imagenet":
            x = self.conv(x, "conv0", net.stem_filters, 3, 2, "VALID")
            x = self.batch_norm(x, "conv0_bn")
            outputs = [None, x]
            for i, divisor in enumerate((4, 2)):
                name = f"cell_stem_{i}"
                x = self.cell(x, outputs[-2], name, filters // divisor, 2)
                outputs.append(x)
        else:
            x = self.conv(x, "l1_stem_3x3", net.stem_filters, 3)
            x = self.batch_norm(x, "l1_stem_bn")
            outputs = [None, x]
        for i in range(net.num_cells):
            previous = outputs[-2]
            if i in net.reduction_indices:
                filters *= 2
                name = f"reduction_cell_{net.reduction_indices.index(i)}"
                x = self.cell(x, outputs[-2], name, filters, 2)
                outputs.append(x)
            if not net.skip_reduction_layer_input:
                previous = outputs[-2]
            x = self.cell(x, previous, f"cell_{i}", filters, 1)
            outputs.append(x)
            if with_aux and i == net.reduction_indices[1] - 1:
                aux = self.aux_head(x, f"aux_{i}/aux_logits")
        x = tf.reduce_mean(tf.nn.relu(x), (1, 2))
        return self.dense(x, "final_layer/FC"), aux

    def cell(self, x, previous, name, filters, stride):
        states = [
            self.project(tf.nn.relu(x), name, "1x1", "beginning_bn", filters),
            self.fit_previous(x, previous, name, filters),
        ]
        for i, block in enumerate(REDUCTION if stride == 2 else NORMAL):
            sides = zip(("left", "right"), block)
            branches = [
                self.operation(
                    states[state],
                    operation,
                    f"{name}/comb_iter_{i}/{side}",
                    filters,
                    stride if state < 2 else 1,
                )
                for side, (operation, state) in sides
            ]
            states.append(tf.add(*branches))
        outputs = []
        for i in OUTPUTS[stride]:
            state = states[i]
            if state.shape[-1] != filters:
                scope = f"{name}/cell_output/reduction_{i}"
                state = self.project(
                    state, scope, "path_conv", "path_bn", filters
                )
            outputs.append(state)
        return tf.concat(outputs, -1)

    def fit_previous(self, x, previous, name, filters):
        if previous is None:
            return x
        if previous.shape[2] != x.shape[2]:
            return self.factorized_reduction(
                tf.nn.relu(previous), name, filters
            )
        if previous.shape[-1] != filters:
            return self.project(
                tf.nn.relu(previous), name, "prev_1x1", "prev_bn", filters
            )
        return previous

    def factorized_reduction(self, x, name, filters):
        shifted = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:]
        paths = [
            self.conv(
                tf.nn.avg_pool2d(path, 1, 2, "VALID"),
                f"{name}/path{i}_conv",
                filters // 2,
                1,
            )
            for i, path in ((1, x), (2, shifted))
        ]
        return self.batch_norm(tf.concat(paths, -1), f"{name}/final_path_bn")

    def operation(self, x, operation, name, filters, stride):
        kind, _, kernel = operation.rpartition("_")
        if kind == "separable":
            for i, s in ((1, stride), (2, 1)):
                x = self.separable(
                    tf.nn.relu(x),
                    f"{name}/separable_{kernel}_{i}",
                    filters,
                    int(kernel[0]),
                    s,
                )
                x = self.batch_norm(x, f"{name}/bn_sep_{kernel}_{i}")
            return x
        if kind == "avg_pool":
            x = tf.nn.avg_pool2d(x, int(kernel[0]), stride, "SAME")
        elif kind == "max_pool":
            x = tf.nn.max_pool2d(x, int(kernel[0]), stride, "SAME")
        elif x.shape[-1] != filters:
            x = tf.nn.relu(x)
        if x.shape[-1] != filters:
            x = self.project(x, name, "1x1", "bn_1", filters)
        return x

    def aux_head(self, x, name):
        x = tf.nn.avg_pool2d(tf.nn.relu(x), 5, 3, "VALID")
        x = self.project(x, name, "proj", "aux_bn0", 128)
        x = self.conv(
            tf.nn.relu(x), f"{name}/Conv", 768, x.shape[1], padding="VALID"
        )
        x = tf.nn.relu(self.batch_norm(x, f"{name}/aux_bn1"))
        return self.dense(tf.squeeze(x, (1, 2)), f"{name}/FC")

    def project(self, x, scope, conv, batch_norm, filters):
        x = self.conv(x, f"{scope}/{conv}", filters, 1)
        return self.batch_norm(x, f"{scope}/{batch_norm}")

    def conv(self, x, name, filters, kernel, stride=1, padding="SAME"):
        shape = (kernel, kernel, x.shape[-1], filters)
        kernel = self.get(f"{name}/weights", shape)
        return tf.nn.conv2d(x, kernel, stride, padding)

    def separable(self, x, name, filters, kernel, stride):
        channels = x.shape[-1]
        depthwise = self.get(
            f"{name}/depthwise_weights", (kernel, kernel, channels, 1)
        )
        pointwise = self.get(
            f"{name}/pointwise_weights", (1, 1, channels, filters)
        )
        x = tf.nn.depthwise_conv2d(x, depthwise, (1, stride, stride, 1), "SAME")
        return tf.nn.conv2d(x, pointwise, 1, "SAME")

    def batch_norm(self, x, name):
        beta, gamma, mean, variance = (
            self.get(f"{name}/{part}", x.shape[-1:])
            for part in ("beta", "gamma", "moving_mean", "moving_variance")
        )
        return tf.nn.batch_normalization(
            x, mean, variance, beta, gamma, self.network.batch_norm_epsilon
        )

    def dense(self, x, name):
        classes = self.network.num_classes
        kernel = self.get(f"{name}/weights", (x.shape[-1], classes))
        return x @ kernel + self.get(f"{name}/biases", (classes,))
