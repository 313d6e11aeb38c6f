"""Recomputed cells train exactly like others."""

import keras
import numpy as np
import pytest

from keras_nasnet import DropPath
from tests.networks import images
from tests.networks import randomize
from tests.networks import small_network

IS_TENSORFLOW = keras.config.backend() == "tensorflow"


def trained(recompute, eagerly):
    """Returns a network, with all its variables, after two steps."""
    model = small_network(recompute_cells=recompute, drop_path_rate=0.5)
    randomize(model)
    drop_paths = [x for x in model._flatten_layers() if isinstance(x, DropPath)]
    for i, layer in enumerate(drop_paths):
        layer.seed_generator.state.assign([i, 5])
    model.compile(
        keras.optimizers.SGD(0.01),
        "sparse_categorical_crossentropy",
        run_eagerly=eagerly,
    )
    for seed in range(2):
        x = images(8, 32, 32, 3, seed=seed)
        model.train_on_batch(x, np.arange(8) % 10)
    return model


@pytest.mark.skipif(not IS_TENSORFLOW, reason="needs TensorFlow")
@pytest.mark.parametrize("eagerly", [False, True])
def test_training_is_the_same(eagerly):
    plain, recomputed = (trained(choice, eagerly) for choice in (False, True))
    before = randomize(small_network(drop_path_rate=0.5))
    # Batch norm statistics and the states of random numbers included.
    variables = zip(
        recomputed.variables, plain.variables, before.variables, strict=True
    )
    changed = 0
    for ours, theirs, old in variables:
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-6, err_msg=ours.path)
        changed += not np.array_equal(ours, old)
    assert changed > 0.9 * len(before.weights)


@pytest.mark.skipif(not IS_TENSORFLOW, reason="needs TensorFlow")
def test_cells_are_computed_twice(monkeypatch):
    import tensorflow as tf

    model = small_network(recompute_cells=True)
    operation = model.get_layer("cell_0").operations[0][0]
    call, calls = operation.call, []
    monkeypatch.setattr(
        operation, "call", lambda x: calls.append(len(calls)) or call(x)
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images(2, 32, 32, 3), training=True))
        assert len(calls) == 1
    tape.gradient(loss, [w.value for w in model.trainable_weights])
    assert len(calls) == 2


@pytest.mark.skipif(IS_TENSORFLOW, reason="needs another backend")
def test_other_backends_refuse():
    model = small_network(recompute_cells=True)
    x = images(2, 32, 32, 3)
    model(x)  # inference is possible
    with pytest.raises(ValueError, match="needs the TensorFlow backend"):
        model(x, training=True)
