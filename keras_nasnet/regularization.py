"""What NASNet needs only while it is trained: drop path, auxiliary head."""

import keras
from keras import ops

from keras_nasnet.chain import Chain
from keras_nasnet.chain import conv_regularizer
from keras_nasnet.chain import head_dtype
from keras_nasnet.checks import check_positive


@keras.saving.register_keras_serializable("keras_nasnet")
class DropPath(keras.layers.Layer):
    """Drops whole branches of a cell at random, one choice per image.

    An image keeps its branch with probability `1 - progress * rate`, and what
    is kept is divided by that probability. `progress` is 1 unless
    `ScheduledDropPath` moves it. At inference nothing is dropped.

    Args:
        rate: Float in [0, 1), probability of dropping at full progress.
        seed: Optional integer.
        **kwargs: `name` and `dtype`.

    Call arguments:
        inputs: Output of a branch, batch first.
        training: Whether to drop.

    Returns:
        A tensor of the shape of `inputs`.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), appendix A.4

    Example:

    >>> layer = keras_nasnet.DropPath(rate=0.5, seed=0)
    >>> y = layer(np.ones((1000, 1, 1, 1)), training=True)
    >>> sorted(set(np.ravel(y).tolist()))
    [0.0, 2.0]
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(
                f"`rate` must be in [0, 1). Received: rate={rate!r}"
            )
        self.rate = rate
        self.seed = seed
        if rate:
            self.seed_generator = keras.random.SeedGenerator(seed)
            # State of the training run rather than a weight: kept out of
            # weight files and parameter counts, like a seed generator's.
            self._progress = _Untracked(
                keras.Variable(
                    1.0,
                    dtype="float32",
                    trainable=False,
                    autocast=False,
                    name="progress",
                )
            )
        self.built = True

    @property
    def progress(self):
        """The variable in [0, 1] that scales `rate`; `None` without one."""
        return self._progress.value if self.rate else None

    @property
    def variables(self):
        if not self.rate:
            return super().variables
        # Listed so that JAX hands it to the compiled training step.
        return [*super().variables, self.progress]

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        keep = 1 - ops.convert_to_tensor(self.progress) * self.rate
        shape = (ops.shape(inputs)[0], *(1,) * (len(inputs.shape) - 1))
        chance = keras.random.uniform(shape, seed=self.seed_generator)
        mask = ops.cast(chance < keep, "float32") / keep
        return inputs * ops.cast(mask, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class _Untracked:
    """Hides a variable from Keras' attribute tracking."""

    def __init__(self, value):
        self.value = value


class ScheduledDropPath(keras.callbacks.Callback):
    """Raises the drop path rate of a model linearly over the training.

    The rate of every cell grows from 0 to its final value, which the model
    sets higher for deeper cells. Training that is resumed goes on where the
    optimizer's step counter says it was. On JAX the rate moves once per epoch,
    because variables are out of reach in between; elsewhere at every step.

    Args:
        total_steps: Number of optimizer steps until the full rate. `None`
            takes all the steps of the `fit()` call.

    Raises:
        ValueError: If the model has no drop path, or if `total_steps` is
            neither given nor known from the data.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), appendix A.4; the scaling by
            depth is TF-slim's.

    Example:

    ```python
    model = keras_nasnet.NASNetCIFAR(weights=None, drop_path_rate=0.4)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=[keras_nasnet.ScheduledDropPath()])
    ```
    """

    def __init__(self, total_steps=None):
        super().__init__()
        if total_steps is not None and total_steps < 1:
            raise ValueError(
                "`total_steps` must be a positive integer. "
                f"Received: total_steps={total_steps!r}"
            )
        self.total_steps = total_steps

    def on_train_begin(self, logs=None):
        self._progress = [
            layer.progress
            for layer in self.model._flatten_layers()
            if isinstance(layer, DropPath) and layer.rate
        ]
        if not self._progress:
            raise ValueError(
                "ScheduledDropPath needs a model with drop path. Build the "
                "model with `drop_path_rate` above 0."
            )
        self._total = self.total_steps
        if self._total is None:
            if not self.params.get("steps"):
                raise ValueError(
                    "The number of steps per epoch is not known from the "
                    "data. Pass `total_steps` to ScheduledDropPath or "
                    "`steps_per_epoch` to fit()."
                )
            self._total = self.params["steps"] * self.params["epochs"]

    def on_epoch_begin(self, epoch, logs=None):
        self._update()

    def on_train_batch_begin(self, batch, logs=None):
        if keras.backend.backend() != "jax":
            self._update()

    def _update(self):
        # Not every batch is an optimizer step, so only the optimizer counts.
        # On several devices this is no single number that `int` takes.
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        progress = min(1.0, step / self._total)
        for variable in self._progress:
            variable.assign(progress)


@keras.saving.register_keras_serializable("keras_nasnet")
class AuxiliaryHead(Chain):
    """The second classifier that helps to train the lower two thirds.

    ReLU, 5x5 average pool with stride 3, 1x1 convolution to 128 channels, a
    convolution to 768 channels over the whole remaining map, each with batch
    norm and ReLU, then a dense layer. The convolution over the whole map ties
    the head, and only the head, to one image size.

    Args:
        classes: Integer, number of classes.
        activation: Activation of the classifier, `None` for logits.
        **kwargs: `bn_momentum`, `bn_epsilon`, `weight_decay`, `name`, `dtype`
            and `trainable`.

    Call arguments:
        inputs: Features `(batch, height, width, channels)` of known height
            and width, at least 5.

    Returns:
        A tensor `(batch, classes)`.

    Source:
        - [TF-slim, `nasnet.py`](
            https://github.com/tensorflow/models/tree/master/research/slim/nets/nasnet)

    Example:

    >>> head = keras_nasnet.AuxiliaryHead(classes=10)
    >>> head(np.ones((2, 16, 16, 4))).shape
    TensorShape([2, 10])
    """

    def __init__(self, classes, activation="softmax", **kwargs):
        super().__init__(**kwargs)
        check_positive("classes", classes)
        self.classes = classes
        self.activation = keras.activations.get(activation)

    def make_steps(self, input_shape):
        if None in input_shape[1:3] or min(input_shape[1:3]) < 5:
            raise ValueError(
                "An auxiliary head needs features of a known height and "
                "width of at least 5, because one of its kernels spans the "
                f"whole map. Received: input_shape={input_shape}"
            )
        pooled = [(n - 5) // 3 + 1 for n in input_shape[1:3]]
        return [
            self.relu("relu"),
            keras.layers.AveragePooling2D(
                5,
                3,
                data_format="channels_last",
                name="pool",
                dtype=self.dtype_policy,
            ),
            self.conv("projection", 128, 1),
            self.batch_norm("bn_0"),
            self.relu("relu_0"),
            self.conv("conv", 768, pooled, padding="valid"),
            self.batch_norm("bn_1"),
            self.relu("relu_1"),
            keras.layers.Flatten(name="flatten", dtype=self.dtype_policy),
            keras.layers.Dense(
                self.classes,
                activation=self.activation,
                kernel_regularizer=conv_regularizer(self.weight_decay),
                name="predictions",
                dtype=head_dtype(self.dtype_policy),
            ),
        ]

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(
            (inputs.shape[0], self.classes),
            dtype=head_dtype(self.dtype_policy).compute_dtype,
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.classes)

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
            "activation": keras.activations.serialize(self.activation),
        }
