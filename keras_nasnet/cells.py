"""The layer that turns a cell genotype into a computation."""

import functools

import keras
from keras import ops

from keras_nasnet.chain import Chain
from keras_nasnet.checks import check_fraction
from keras_nasnet.checks import check_pool_padding
from keras_nasnet.checks import check_positive
from keras_nasnet.checks import check_strides
from keras_nasnet.genotypes import CellGenotype
from keras_nasnet.operations import OPERATIONS
from keras_nasnet.operations import Convolution
from keras_nasnet.operations import strided_shape
from keras_nasnet.recomputation import Recomputation
from keras_nasnet.regularization import DropPath

# How a cell may take its previous input.
PREVIOUS = ("match", "reduce", "raw")


@keras.saving.register_keras_serializable("keras_nasnet")
class Stem(Chain):
    """The first convolution of a network, 3x3 with batch norm, no ReLU.

    Args:
        filters: Integer, number of output channels.
        strides: Integer. 2 for photographs, then without padding; 1 for
            CIFAR's 32x32 images, then with it.
        **kwargs: `bn_momentum`, `bn_epsilon`, `weight_decay`, `name`, `dtype`
            and `trainable`.

    Example:

    >>> keras_nasnet.Stem(8, strides=2)(np.ones((1, 32, 32, 3))).shape
    TensorShape([1, 15, 15, 8])
    """

    def __init__(self, filters, strides=2, **kwargs):
        super().__init__(**kwargs)
        check_positive("filters", filters)
        check_strides(strides)
        self.filters = filters
        self.strides = strides

    def make_steps(self, input_shape):
        padding = "same" if self.strides == 1 else "valid"
        conv = self.conv(
            "conv", self.filters, 3, padding=padding, strides=self.strides
        )
        return [conv, self.batch_norm("bn")]

    def compute_output_shape(self, input_shape):
        if self.strides == 1:
            return (*input_shape[:3], self.filters)
        size = (n and (n - 3) // self.strides + 1 for n in input_shape[1:3])
        return (input_shape[0], *size, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
        }


@keras.saving.register_keras_serializable("keras_nasnet")
class FactorizedReduction(Chain):
    """Halves the image size and still reads pixels of both parities.

    Two 1x1 convolutions with stride 2 read the activated image, the second
    one shifted by a pixel down and right. Their outputs are concatenated and
    normalised together.

    Args:
        filters: Integer, number of output channels, at least 2.
        pre_activated: Whether the caller already applied the ReLU.
        **kwargs: `bn_momentum`, `bn_epsilon`, `weight_decay`, `name`, `dtype`
            and `trainable`.

    Source:
        - [TF-slim, `nasnet_utils.py`](
            https://github.com/tensorflow/models/tree/master/research/slim/nets/nasnet)

    Example:

    >>> layer = keras_nasnet.FactorizedReduction(filters=6)
    >>> layer(np.ones((1, 5, 4, 3))).shape
    TensorShape([1, 3, 2, 6])
    """

    def __init__(self, filters, pre_activated=False, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(filters, int) or filters < 2:
            raise ValueError(
                "`filters` must be an integer of at least 2. "
                f"Received: filters={filters!r}"
            )
        self.filters = filters
        self.pre_activated = pre_activated

    def build_layers(self, input_shape):
        half = self.filters // 2
        self.path_1 = self.conv("path_1", half, 1, strides=2)
        self.path_2 = self.conv("path_2", self.filters - half, 1, strides=2)
        self.bn = self.batch_norm("bn")
        self.path_1.build(input_shape)
        self.path_2.build(input_shape)
        self.bn.build(self.compute_output_shape(input_shape))

    def call(self, inputs):
        if not self.pre_activated:
            inputs = ops.relu(inputs)
        # Both paths at once: as corners of a 2x2 kernel, which spares the
        # shifted copy of the image.
        first = ops.pad(self.path_1.kernel, [[0, 1], [0, 1], [0, 0], [0, 0]])
        second = ops.pad(self.path_2.kernel, [[1, 0], [1, 0], [0, 0], [0, 0]])
        x = ops.conv(
            inputs,
            ops.concatenate([first, second], axis=-1),
            strides=2,
            padding="same",
            data_format="channels_last",
        )
        return self.bn(x)

    def sublayers(self, input_shape):
        yield self.path_1, input_shape
        yield self.path_2, input_shape
        yield self.bn, self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape):
        return strided_shape(input_shape, 2, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "pre_activated": self.pre_activated,
        }


@keras.saving.register_keras_serializable("keras_nasnet")
class Cell(Chain):
    """A normal or reduction cell, computed from its genotype.

    State 0 is the current input after ReLU, 1x1 convolution and batch norm;
    the other input states are the previous inputs, fitted as `previous` says.
    The blocks follow in order. The output states are brought to `filters`
    channels and the cell's image size where they differ, then concatenated.

    Args:
        genotype: A `CellGenotype` or its dictionary.
        filters: Integer, number of channels of every state.
        strides: Integer, 1 in a normal cell, 2 in a reduction cell. Only
            operations on the cell's inputs are strided.
        previous: How the previous inputs are fitted. The network decides this
            by position, so that any image size works. `"match"`: 1x1
            convolution if the channels differ from `filters`; `"reduce"`:
            `FactorizedReduction`, for an input twice as large as the current
            one; `"raw"`: taken as it is, for a cell that has no previous
            input and reads the current one twice.
        pool_padding: `"zero"` as in `keras.applications`, or `"same"` as in
            TF-slim: what strided pools do at the border.
        drop_path_rate: Float in [0, 1), probability of dropping a branch in
            training. Identities are never dropped.
        recompute: Whether training keeps only what the cell reads, and
            computes the rest again for the gradients: less memory for more
            time. TensorFlow only.
        residual: Whether the current input is added to the output, through
            a 1x1 convolution with batch norm where their shapes differ.
        **kwargs: `bn_momentum`, `bn_epsilon`, `weight_decay`, `name`, `dtype`
            and `trainable`.

    Call arguments:
        inputs: List of `genotype.num_inputs` tensors, the current input
            first, each `(batch, height, width, channels)`.

    Returns:
        A tensor `(batch, ceil(height / strides), ceil(width / strides),
        len(genotype.outputs) * filters)`; a list of tensors with `filters`
        channels each if the genotype does not concatenate its outputs.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), figures 2-4

    Example:

    >>> cell = keras_nasnet.Cell(keras_nasnet.NASNET_A.normal, filters=4)
    >>> x = np.ones((1, 8, 8, 3))
    >>> cell([x, x]).shape
    TensorShape([1, 8, 8, 24])
    """

    def __init__(
        self,
        genotype,
        filters,
        strides=1,
        previous="match",
        pool_padding="zero",
        drop_path_rate=0.0,
        recompute=False,
        residual=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(genotype, dict):
            genotype = CellGenotype.from_dict(genotype)
        if not isinstance(genotype, CellGenotype):
            raise ValueError(
                "`genotype` must be a CellGenotype, such as NASNET_A.normal. "
                f"Received: genotype={genotype!r}"
            )
        check_positive("filters", filters)
        check_strides(strides)
        if previous not in PREVIOUS:
            raise ValueError(
                f"`previous` must be one of {', '.join(PREVIOUS)}. "
                f"Received: previous={previous!r}"
            )
        check_pool_padding(pool_padding)
        check_fraction("drop_path_rate", drop_path_rate)
        if residual and not genotype.concat_outputs:
            raise ValueError(
                "`residual=True` needs a cell that concatenates its outputs. "
                f"Received: genotype={genotype!r}"
            )
        self.genotype = genotype
        self.filters = filters
        self.strides = strides
        self.previous = previous
        self.pool_padding = pool_padding
        self.drop_path_rate = drop_path_rate
        self.recompute = recompute
        self.residual = residual
        self._recomputation = Recomputation(self)

    @property
    def settings(self):
        """The arguments that every layer inside has in common."""
        return {
            "bn_momentum": self.bn_momentum,
            "bn_epsilon": self.bn_epsilon,
            "weight_decay": self.weight_decay,
            "dtype": self.dtype_policy,
        }

    def build_layers(self, input_shape):
        shapes = self._check_input_shapes(input_shape)
        self.fit_inputs = [
            self._fit_input(i, shape) for i, shape in enumerate(shapes)
        ]
        shapes = [
            fit.compute_output_shape(shape) if fit else shape
            for fit, shape in zip(self.fit_inputs, shapes)
        ]
        self.operations = []
        self.norms = []
        for b, block in enumerate(self.genotype.blocks):
            sides = zip(("left", "right"), block.branches)
            branches = [
                self._operation(f"block_{b}_{side}", branch)
                for side, branch in sides
            ]
            for branch, operation in zip(block.branches, branches):
                operation.build(shapes[branch.state])
            self.operations.append(branches)
            shapes.append(self._block_shape(block, shapes))
            norm = self._norm(f"block_{b}_norm", block.combiner)
            if norm:
                norm.build(shapes[-1])
            self.norms.append(norm)
        self.fit_outputs = [
            self._fit_output(state, shapes[state])
            for state in self.genotype.outputs
        ]
        for state, fit in zip(self.genotype.outputs, self.fit_outputs):
            if fit:
                fit.build(shapes[state])
        self.shortcut = self._shortcut(input_shape)
        self.drop_path = DropPath(
            self.drop_path_rate, name="drop_path", dtype=self.dtype_policy
        )

    def call(self, inputs, training=False):
        if training and self.recompute and not self._recomputation.is_running:
            return self._recomputation(inputs)
        states = [
            fit(x) if fit else x for fit, x in zip(self.fit_inputs, inputs)
        ]
        # One ReLU per state, shared by all operations that begin with one.
        activated = functools.cache(lambda state: ops.relu(states[state]))
        for block, operations, norm in zip(
            self.genotype.blocks, self.operations, self.norms
        ):
            branches = []
            for branch, operation in zip(block.branches, operations):
                if operation.starts_with_relu:
                    x = operation(activated(branch.state))
                else:
                    x = operation(states[branch.state])
                if branch.operation != "identity":
                    x = self.drop_path(x, training=training)
                branches.append(x)
            if block.combiner == "concat":
                x = ops.concatenate(branches, axis=-1)
            else:
                x = ops.add(*branches)
            states.append(norm(x) if norm else x)
        outputs = [
            fit(states[state]) if fit else states[state]
            for state, fit in zip(self.genotype.outputs, self.fit_outputs)
        ]
        if not self.genotype.concat_outputs:
            return outputs
        output = ops.concatenate(outputs, axis=-1)
        if not self.residual:
            return output
        current = inputs[0]
        return output + (self.shortcut(current) if self.shortcut else current)

    def compute_output_shape(self, input_shape):
        channels = self.filters
        if self.genotype.concat_outputs:
            channels *= len(self.genotype.outputs)
        shape = strided_shape(input_shape[0], self.strides, channels)
        if self.genotype.concat_outputs:
            return shape
        return [shape] * len(self.genotype.outputs)

    def sublayers(self, input_shape):
        shapes = list(input_shape)
        for i, fit in enumerate(self.fit_inputs):
            if fit:
                yield fit, shapes[i]
                shapes[i] = fit.compute_output_shape(shapes[i])
        for block, operations, norm in zip(
            self.genotype.blocks, self.operations, self.norms
        ):
            for branch, operation in zip(block.branches, operations):
                yield operation, shapes[branch.state]
            shapes.append(self._block_shape(block, shapes))
            if norm:
                yield norm, shapes[-1]
        for state, fit in zip(self.genotype.outputs, self.fit_outputs):
            if fit:
                yield fit, shapes[state]
        if self.shortcut:
            yield self.shortcut, input_shape[0]

    def get_config(self):
        return {
            **super().get_config(),
            "genotype": self.genotype.to_dict(),
            "filters": self.filters,
            "strides": self.strides,
            "previous": self.previous,
            "pool_padding": self.pool_padding,
            "drop_path_rate": self.drop_path_rate,
            "recompute": self.recompute,
            "residual": self.residual,
        }

    def _check_input_shapes(self, shapes):
        expected = self.genotype.num_inputs
        if len(shapes) != expected or not isinstance(shapes[0], (list, tuple)):
            raise ValueError(
                f"A cell is called on a list of {expected} tensors, the "
                f"current input first. Received shapes: {shapes}"
            )
        return list(shapes)

    def _fit_input(self, i, shape):
        """Returns the layer that turns an input into a state, if any."""
        name = f"fit_input_{i}"
        if i == 0:
            fit = Convolution(self.filters, 1, name=name, **self.settings)
        elif self.previous == "reduce":
            fit = FactorizedReduction(self.filters, name=name, **self.settings)
        elif self.previous == "match" and shape[-1] != self.filters:
            fit = Convolution(self.filters, 1, name=name, **self.settings)
        else:
            return None
        fit.build(shape)
        return fit

    def _operation(self, name, branch):
        is_input = branch.state < self.genotype.num_inputs
        return OPERATIONS[branch.operation](
            self.filters,
            strides=self.strides if is_input else 1,
            pre_activated=True,
            pool_padding=self.pool_padding,
            name=name,
            **self.settings,
        )

    def _block_shape(self, block, shapes):
        """Returns the shape of the state that a block creates."""
        left = block.left.state
        strides = self.strides if left < self.genotype.num_inputs else 1
        channels = self.filters * (1 + (block.combiner == "concat"))
        return strided_shape(shapes[left], strides, channels)

    def _norm(self, name, combiner):
        # Layer norm over a whole image, instance norm over each channel.
        groups = {"add_layer_norm": 1, "add_instance_norm": self.filters}
        if combiner not in groups:
            return None
        return keras.layers.GroupNormalization(
            groups[combiner], name=name, dtype=self.dtype_policy
        )

    def _fit_output(self, state, shape):
        """Returns the layer that fits a state to the output, if any."""
        settings = {
            "pre_activated": True,
            "name": f"fit_output_{state}",
            **self.settings,
        }
        if self.strides == 2 and state < self.genotype.num_inputs:
            return FactorizedReduction(self.filters, **settings)
        if shape[-1] != self.filters:
            return Convolution(self.filters, 1, **settings)
        return None

    def _shortcut(self, input_shape):
        """Returns the layer that fits the current input to the output."""
        channels = self.compute_output_shape(input_shape)[-1]
        current = input_shape[0]
        if not self.residual or (self.strides, current[-1]) == (1, channels):
            return None
        shortcut = Convolution(
            channels,
            1,
            strides=self.strides,
            # Nothing but what has to fit stands in the way.
            pre_activated=True,
            name="shortcut",
            **self.settings,
        )
        shortcut.build(current)
        return shortcut
