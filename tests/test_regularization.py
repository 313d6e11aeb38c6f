"""Drop path, its schedule, and the auxiliary head."""

import keras
import numpy as np
import pytest

from keras_nasnet import NASNET_A
from keras_nasnet import AuxiliaryHead
from keras_nasnet import Block
from keras_nasnet import Cell
from keras_nasnet import CellGenotype
from keras_nasnet import DropPath
from keras_nasnet import ScheduledDropPath
from tests.layer_test_case import LayerCase
from tests.layer_test_case import LayerTestCase
from tests.layer_test_case import assert_equal
from tests.layer_test_case import to_numpy
from tests.networks import images
from tests.networks import randomize
from tests.networks import run

IS_JAX = keras.backend.backend() == "jax"


class TestLayers(LayerTestCase):
    cases = [
        LayerCase("drop path", DropPath, {"rate": 0.3, "seed": 1}),
        LayerCase("drop path off", DropPath, {"rate": 0.0}),
        LayerCase(
            "auxiliary head",
            AuxiliaryHead,
            {"classes": 3, "weight_decay": 1e-3},
            sizes=((9, 8),),
            any_size=False,
            float32_layers=("predictions",),
        ),
        LayerCase(
            "auxiliary head of logits",
            AuxiliaryHead,
            {"classes": 5, "activation": None},
            sizes=((5, 7),),
            any_size=False,
            float32_layers=("predictions",),
        ),
    ]


class TestDropPath:
    @pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
    def test_drops_whole_images_and_keeps_the_mean(self, progress):
        n, rate = 4000, 0.4
        layer = DropPath(rate, seed=0)
        layer.progress.assign(progress)
        outputs = to_numpy(layer(np.ones((n, 2, 3, 2)), training=True))
        keep = 1 - progress * rate
        # One choice per image ...
        chosen = outputs[:, :1, :1, :1]
        np.testing.assert_array_equal(
            outputs, np.broadcast_to(chosen, outputs.shape)
        )
        # ... of two, ...
        is_kept = chosen > 0
        np.testing.assert_allclose(chosen[is_kept], 1 / keep, rtol=1e-6)
        # ... by chance: within four standard deviations.
        spread = 4 * np.sqrt(rate * (1 - rate) / n)
        assert is_kept.mean() == pytest.approx(keep, abs=spread)
        assert outputs.mean() == pytest.approx(1, abs=spread / keep)

    def test_is_off_at_inference(self):
        x = images(8, 2, 2, 3)
        for layer in (DropPath(0.9), DropPath(0.9, dtype="float64")):
            np.testing.assert_array_equal(run(layer, x), x)
            np.testing.assert_array_equal(to_numpy(layer(x)), x)
        off = DropPath(0.0)
        np.testing.assert_array_equal(to_numpy(off(x, training=True)), x)

    def test_choices_differ_from_call_to_call(self):
        layer = DropPath(0.5, seed=0)
        x = np.ones((100, 1, 1, 1))
        first, second = (to_numpy(layer(x, training=True)) for _ in range(2))
        assert (first != second).any()
        again = to_numpy(DropPath(0.5, seed=0)(x, training=True))
        np.testing.assert_array_equal(again, first)

    def test_takes_features_of_any_rank(self):
        for shape in [(50,), (50, 3), (50, 2, 2, 2, 2)]:
            outputs = DropPath(0.5, seed=0)(np.ones(shape), training=True)
            assert outputs.shape == shape
            assert set(np.unique(to_numpy(outputs))) == {0, 2}

    def test_has_no_weights(self):
        layer = DropPath(0.5)
        assert layer.weights == []
        assert layer.count_params() == 0
        # The state is listed all the same, for backends that hand it around.
        assert any(v is layer.progress for v in layer.non_trainable_variables)
        assert layer.trainable_variables == []

    def test_without_rate_has_no_variables_at_all(self):
        layer = DropPath(0.0)
        assert layer.variables == []
        assert layer.progress is None

    def test_progress_is_listed_once_by_a_model(self):
        model, layers = model_with_drop_path()
        listed = [id(variable) for variable in model.non_trainable_variables]
        for layer in layers:
            assert listed.count(id(layer.progress)) == 1
        assert model.count_params() == sum(w.size for w in model.get_weights())

    @pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
    def test_wrong_rate(self, rate):
        with pytest.raises(ValueError) as error:
            DropPath(rate)
        assert (
            str(error.value)
            == f"`rate` must be in [0, 1). Received: rate={rate}"
        )


def nasnet_cell(drop_path_rate, genotype=NASNET_A.reduction):
    """Returns a cell with equal weights whatever its drop path rate."""
    cell = Cell(
        genotype, 4, strides=2, drop_path_rate=drop_path_rate, name="cell"
    )
    cell.build([(None, 6, 6, 3)] * 2)
    randomize(cell)
    rng = np.random.default_rng(0)
    for weight in cell.trainable_weights:
        if weight.ndim == 4:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return cell


class TestDropPathInCells:
    inputs = [images(4, 6, 6, 3, seed=i) for i in range(2)]

    def test_identities_are_never_dropped(self):
        # On the inputs of a reduction cell identities are convolutions.
        blocks = [
            Block(("identity", 0), ("identity", 1)),
            Block(("identity", 2), ("identity", 0), "concat"),
        ]
        genotype = CellGenotype(blocks)
        # The statistics of a batch move, so each call gets its own cell.
        dropping, keeping = (
            to_numpy(nasnet_cell(rate, genotype)(self.inputs, training=True))
            for rate in (0.99, 0.0)
        )
        np.testing.assert_array_equal(dropping, keeping)

    @pytest.mark.parametrize("operation", ["max_pool_3x3", "conv_1x1"])
    def test_every_other_operation_is_dropped(self, operation):
        genotype = CellGenotype([Block((operation, 0), ("identity", 1))])
        dropping, keeping = (
            to_numpy(nasnet_cell(rate, genotype)(self.inputs, training=True))
            for rate in (0.99, 0.0)
        )
        assert (dropping != keeping).reshape(4, -1).any(1).all()

    def test_all_branches_but_identities_are_passed_through(self, monkeypatch):
        passed = []
        monkeypatch.setattr(
            DropPath,
            "call",
            lambda self, x, training=False: passed.append(training) or x,
        )
        nasnet_cell(0.5)(self.inputs, training=True)
        # NASNet-A's reduction cell has one identity among ten branches.
        assert passed == [True] * 9

    def test_is_off_at_inference(self):
        outputs = [run(nasnet_cell(r), self.inputs) for r in (0.0, 0.9)]
        np.testing.assert_array_equal(*outputs)

    def test_rate_adds_no_weights(self):
        with_rate, without = nasnet_cell(0.5), nasnet_cell(0.0)
        paths = [weight.path for weight in without.weights]
        assert [weight.path for weight in with_rate.weights] == paths
        assert with_rate.count_params() == without.count_params()
        assert len(without.variables) == len(paths)
        # The progress and the state of the random numbers.
        assert len(with_rate.variables) == len(paths) + 2

    @pytest.mark.parametrize("rates", [(0.0, 0.5), (0.5, 0.0)])
    def test_weight_files_fit_with_and_without(self, rates, tmp_path):
        models = []
        for rate in rates:
            inputs = [keras.Input((6, 6, 3)) for _ in range(2)]
            cell = nasnet_cell(rate)
            models.append(keras.Model(inputs, cell(inputs)))
        saved, loading = models
        path = tmp_path / "cell.weights.h5"
        saved.save_weights(path)
        for weight in loading.weights:
            weight.assign(np.zeros(weight.shape))
        loading.load_weights(path)
        assert_equal(run(loading, self.inputs), run(saved, self.inputs))


def model_with_drop_path(optimizer="sgd", **kwargs):
    """Returns a compiled model of three layers and its two drop paths."""
    layers = [DropPath(0.5), DropPath(0.2)]
    x = inputs = keras.Input((4,))
    for layer in layers:
        x = layer(keras.layers.Dense(4)(x))
    model = keras.Model(inputs, [keras.layers.Dense(1)(x)])
    model.compile(optimizer, "mse", **kwargs)
    return model, layers


class ProgressLog(keras.callbacks.Callback):
    """Notes the progress of a drop path with which every step is computed."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.values = []

    def on_epoch_begin(self, epoch, logs=None):
        self.value = float(self.layer.progress)

    def on_train_batch_begin(self, batch, logs=None):
        if not IS_JAX:  # where variables are out of reach within an epoch
            self.value = float(self.layer.progress)
        self.values.append(self.value)


def fit(model, layer, schedule, steps=4, **kwargs):
    """Trains a model and returns the progress of a layer at every step."""
    log = ProgressLog(layer)
    x = np.ones((2 * steps, 4), "float32")
    model.fit(
        x,
        x[:, :1],
        batch_size=2,
        verbose=0,
        callbacks=[schedule, log],
        **kwargs,
    )
    return log.values


def linear(first, last, total, steps_per_epoch=4):
    """Returns the progress expected from one step up to another."""
    steps = range(first, last)
    if IS_JAX:  # moves once per epoch
        steps = [step // steps_per_epoch * steps_per_epoch for step in steps]
    return pytest.approx([min(1, step / total) for step in steps])


class TestScheduledDropPath:
    def test_grows_linearly_over_all_steps(self):
        model, layers = model_with_drop_path()
        values = fit(model, layers[0], ScheduledDropPath(), epochs=3)
        assert values == linear(0, 12, total=12)
        # Every layer has its own rate but the progress of all.
        assert float(layers[1].progress) == values[-1]
        assert [layer.rate for layer in layers] == [0.5, 0.2]

    def test_total_steps(self):
        model, layers = model_with_drop_path()
        values = fit(model, layers[0], ScheduledDropPath(6), epochs=3)
        assert values == linear(0, 12, total=6)
        assert values[-1] == 1

    def test_goes_on_with_the_optimizers_steps(self):
        model, layers = model_with_drop_path()
        fit(model, layers[0], ScheduledDropPath(20), epochs=2)
        values = fit(
            model,
            layers[0],
            ScheduledDropPath(20),
            epochs=4,
            initial_epoch=2,
        )
        assert values == linear(8, 16, total=20)

    def test_resumes_in_a_new_model(self):
        model, layers = model_with_drop_path()
        model.optimizer.iterations.assign(8)
        values = fit(
            model, layers[0], ScheduledDropPath(), epochs=4, initial_epoch=2
        )
        assert values == linear(8, 16, total=16)

    def test_counts_through_a_loss_scale_optimizer(self):
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(), initial_scale=1.0
        )
        model, layers = model_with_drop_path(optimizer)
        values = fit(model, layers[0], ScheduledDropPath(), epochs=2)
        assert values == linear(0, 8, total=8)

    @pytest.mark.skipif(IS_JAX, reason="the progress moves once per epoch")
    def test_counts_steps_that_are_executed_together(self):
        model, layers = model_with_drop_path(steps_per_execution=2)
        values = fit(model, layers[0], ScheduledDropPath(), epochs=2)
        assert values == pytest.approx([0, 2 / 8, 4 / 8, 6 / 8])

    def test_counts_accumulated_gradients_as_one_step(self):
        optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
        model, layers = model_with_drop_path(optimizer)
        values = fit(model, layers[0], ScheduledDropPath(4), epochs=2)
        assert values == pytest.approx(
            [0, 0, 0, 0, 2 / 4, 2 / 4, 2 / 4, 2 / 4]
            if IS_JAX
            else [0, 0, 1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4]
        )

    def test_trains_a_cell(self):
        image = keras.Input((6, 6, 3))
        cell = Cell(NASNET_A.normal, 4, drop_path_rate=0.5)
        x = keras.layers.GlobalAveragePooling2D()(cell([image, image]))
        model = keras.Model(image, keras.layers.Dense(2)(x))
        model.compile(
            "sgd",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=IS_JAX,
        )
        x = images(16, 6, 6, 3)
        y = (x.mean((1, 2, 3)) > 0).astype("int32")
        log = ProgressLog(cell.drop_path)
        history = model.fit(
            x,
            y,
            batch_size=4,
            epochs=2,
            verbose=0,
            callbacks=[ScheduledDropPath(), log],
        )
        assert log.values == linear(0, 8, total=8)
        assert np.isfinite(history.history["loss"]).all()
        # The schedule is a matter of training only.
        np.testing.assert_array_equal(run(model, x), run(model, x))

    @pytest.mark.parametrize("progress, is_random", [(0.0, False), (1.0, True)])
    def test_progress_reaches_the_compiled_step(self, progress, is_random):
        model, layers = model_with_drop_path(keras.optimizers.SGD(0.0))
        x = np.ones((64, 4), "float32")
        # Compiled before the progress is set.
        model.train_on_batch(x, x[:, :1])
        for layer in layers:
            layer.progress.assign(progress)
        history = model.fit(
            x, x[:, :1], batch_size=64, epochs=4, shuffle=False, verbose=0
        )
        assert (len(set(history.history["loss"])) > 1) == is_random

    def test_model_without_drop_path(self):
        inputs = keras.Input((4,))
        model = keras.Model(
            inputs, DropPath(0.0)(keras.layers.Dense(1)(inputs))
        )
        model.compile("sgd", "mse")
        with pytest.raises(ValueError) as error:
            fit(model, None, ScheduledDropPath())
        assert str(error.value) == (
            "ScheduledDropPath needs a model with drop path. Build the model "
            "with `drop_path_rate` above 0."
        )

    def test_data_of_unknown_length(self):
        def batches():
            while True:
                yield np.ones((2, 4), "float32"), np.ones((2, 1), "float32")

        model, layers = model_with_drop_path()
        with pytest.raises(ValueError) as error:
            model.fit(
                batches(),
                shuffle=False,
                verbose=0,
                callbacks=[ScheduledDropPath()],
            )
        assert str(error.value) == (
            "The number of steps per epoch is not known from the data. Pass "
            "`total_steps` to ScheduledDropPath or `steps_per_epoch` to fit()."
        )
        log = ProgressLog(layers[0])
        model.fit(
            batches(),
            shuffle=False,
            verbose=0,
            steps_per_epoch=2,
            callbacks=[ScheduledDropPath(), log],
        )
        assert log.values == linear(0, 2, total=2)

    @pytest.mark.parametrize("total_steps", [0, -3])
    def test_wrong_total_steps(self, total_steps):
        with pytest.raises(ValueError) as error:
            ScheduledDropPath(total_steps)
        assert str(error.value) == (
            "`total_steps` must be a positive integer. "
            f"Received: total_steps={total_steps}"
        )


class TestAuxiliaryHead:
    def test_has_slims_parameters(self):
        # Image classifiers on 14x14x528 and 16x16x384 features.
        for shape, classes, count in [
            ((None, 14, 14, 528), 1000, 2_413_032),
            ((None, 16, 16, 384), 10, 1_633_290),
        ]:
            head = AuxiliaryHead(classes)
            head.build(shape)
            assert head.count_params() == count

    def test_classifier_is_in_float32(self):
        head = AuxiliaryHead(3, dtype="mixed_float16")
        outputs = head(images(2, 8, 8, 4))
        assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
        np.testing.assert_allclose(to_numpy(outputs).sum(-1), 1, rtol=1e-5)

    @pytest.mark.parametrize("size", [(None, 8), (8, None), (4, 8), (8, 4)])
    def test_needs_a_known_size_of_at_least_5(self, size):
        shape = (None, *size, 3)
        with pytest.raises(ValueError) as error:
            AuxiliaryHead(3).build(shape)
        assert str(error.value) == (
            "An auxiliary head needs features of a known height and width of "
            "at least 5, because one of its kernels spans the whole map. "
            f"Received: input_shape={shape}"
        )
