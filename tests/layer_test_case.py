"""The checks that every layer of the package has to pass."""

import dataclasses
import inspect
import json
from collections.abc import Callable

import keras
import numpy as np
import pytest

from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """A layer, its arguments and the inputs that it is checked with.

    Args:
        name: Names the case in the test report.
        make: Layer class or factory.
        settings: Arguments of `make`.
        channels: Channels of the input; a tuple if the layer takes a list.
        previous_scale: How much larger than the first input the others are.
        sizes: Heights and widths of the first input, odd and even.
        any_size: Whether one built layer takes all sizes.
        float32_layers: Names of sublayers that stay in float32 when the
            layer computes with 16 bits.
    """

    name: str
    make: Callable
    settings: dict = dataclasses.field(default_factory=dict)
    channels: int | tuple = 4
    previous_scale: int = 1
    sizes: tuple = ((8, 8), (7, 9), (6, 5))
    any_size: bool = True
    float32_layers: tuple = ()

    def layer(self, **kwargs):
        """Returns a new layer."""
        return self.make(**self.settings, **kwargs)

    def shapes(self, size, batch=4):
        """Returns the shape of the input, or the list of shapes."""
        if isinstance(self.channels, int):
            return (batch, *size, self.channels)
        # An odd size stays odd when scaled, so that halving it rounds up.
        previous = tuple(
            n and self.previous_scale * n - (self.previous_scale - 1) * (n % 2)
            for n in size
        )
        first, *others = self.channels
        return [
            (batch, *size, first),
            *((batch, *previous, channels) for channels in others),
        ]

    def inputs(self, size, batch=4):
        """Returns random input for the layer."""
        return each(lambda s: images(*s), self.shapes(size, batch))

    def model(self, layer, size):
        """Returns a model of nothing but the layer."""
        shapes = self.shapes(size, None)
        inputs = each(lambda s: keras.Input(s[1:]), shapes)
        return keras.Model(inputs, layer(inputs))

    def trained_layer(self, **kwargs):
        """Returns a built layer as training might have left it."""
        layer = self.layer(**kwargs)
        layer.build(self.shapes(self.sizes[0], None))
        return randomize(layer)


class LayerTestCase:
    """Runs all the checks on all the `cases` that a subclass lists."""

    cases = ()

    def pytest_generate_tests(self, metafunc):
        if "case" in metafunc.fixturenames:
            ids = [case.name for case in self.cases]
            metafunc.parametrize("case", self.cases, ids=ids)

    def test_build_creates_all_weights(self, case):
        layer = case.layer()
        layer.build(case.shapes(case.sizes[0], None))
        assert all(sublayer.built for sublayer in layer._flatten_layers())
        weights = [weight.path for weight in layer.weights]
        layer(case.inputs(case.sizes[0]))
        assert [weight.path for weight in layer.weights] == weights
        assert len(set(weights)) == len(weights)

    def test_shapes(self, case):
        layer = case.trained_layer()
        for size in case.sizes:
            shapes = case.shapes(size)
            symbolic = layer(each(keras.KerasTensor, shapes))
            eager = layer(case.inputs(size))
            assert each(describe, symbolic) == each(describe, eager)
            shape = each(lambda x: tuple(x.shape), eager)
            assert layer.compute_output_shape(shapes) == shape
        if case.any_size:
            unknown = each(lambda x: (None, None, None, x.shape[-1]), eager)
            shapes = case.shapes((None, None), None)
            assert layer.compute_output_shape(shapes) == unknown

    def test_one_model_takes_all_sizes(self, case):
        if not case.any_size:
            with pytest.raises(ValueError):
                case.layer().build(case.shapes((None, None), None))
            return
        layer = case.trained_layer()
        model = case.model(layer, (None, None))
        for size in case.sizes:
            inputs = case.inputs(size)
            assert_equal(model.predict_on_batch(inputs), run(layer, inputs))

    @pytest.mark.filterwarnings("ignore:The model does not have any trainable")
    def test_one_step_trains_every_weight(self, case):
        model = case.model(case.trained_layer(), case.sizes[0])
        # On TensorFlow this compares the graph with every other check.
        model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
        inputs = case.inputs(case.sizes[0])
        targets = each(lambda x: images(*x.shape, seed=1), run(model, inputs))
        before = model.get_weights()
        model.train_on_batch(inputs, targets)
        for weight, old in zip(model.weights, before):
            new = keras.ops.convert_to_numpy(weight)
            assert np.isfinite(new).all(), weight.path
            assert (new != old).any(), f"no gradient for {weight.path}"

    def test_config_round_trip(self, case):
        layer = case.layer(name="some_name", dtype="mixed_bfloat16")
        config = json.loads(json.dumps(layer.get_config()))
        copies = [
            type(layer).from_config(config),
            keras.saving.deserialize_keras_object(
                json.loads(
                    json.dumps(keras.saving.serialize_keras_object(layer))
                )
            ),
        ]
        arguments = all_arguments(type(layer))
        assert arguments <= set(config)
        for copy in copies:
            assert type(copy) is type(layer)
            assert copy.get_config() == layer.get_config()
            for name in arguments:
                assert getattr(copy, name) == getattr(layer, name)

    def test_saving(self, case, tmp_path):
        size = case.sizes[0]
        model = case.model(case.trained_layer(), size)
        inputs = case.inputs(size)
        expected = run(model, inputs)

        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert_equal(run(loaded, inputs), expected)

        path = tmp_path / "model.weights.h5"
        model.save_weights(path)
        keras.utils.set_random_seed(1)
        other = case.model(case.layer(), size)
        other.load_weights(path)
        assert_equal(run(other, inputs), expected)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
    def test_16_bit(self, case, policy):
        layer = case.trained_layer(dtype=policy)
        compute_dtype = layer.compute_dtype
        for sublayer in layer._flatten_layers():
            is_exempt = sublayer.name in case.float32_layers
            expected = "float32" if is_exempt else compute_dtype
            assert sublayer.compute_dtype == expected, sublayer.name

        size = case.sizes[0]
        inputs = case.inputs(size)
        outputs = layer(inputs, training=False)
        dtype = "float32" if case.float32_layers else compute_dtype
        symbolic = layer(each(keras.KerasTensor, case.shapes(size)))
        for x in keras.tree.flatten([outputs, symbolic]):
            assert keras.backend.standardize_dtype(x.dtype) == dtype

        exact = case.trained_layer()
        exact.set_weights([w.astype("float32") for w in layer.get_weights()])
        expected = run(exact, inputs)
        tolerance = 0.05 if compute_dtype == "bfloat16" else 0.01
        assert_close(outputs, expected, tolerance)
        for x in keras.tree.flatten(layer(inputs, training=True)):
            assert np.isfinite(to_numpy(x)).all()

    def test_inference_is_deterministic(self, case):
        layer = case.trained_layer()
        inputs = case.inputs(case.sizes[0])
        outputs = run(layer, inputs)
        assert_equal(run(layer, inputs), outputs)
        one = each(lambda x: x[:1], inputs)
        expected = each(lambda x: x[:1], outputs)
        assert_close(run(layer, one), expected, 1e-5)


def each(function, values):
    """Applies a function to a shape or tensor, or to each one of a list."""
    if isinstance(values, list):
        return [function(value) for value in values]
    return function(values)


def describe(tensor):
    """Returns the shape and the dtype of a tensor."""
    return tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype)


def to_numpy(tensor):
    """Returns a tensor as a float32 array."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def all_arguments(cls):
    """Returns the named arguments of a layer class and of its bases."""
    return {
        parameter.name
        for base in cls.__mro__
        if base.__module__.startswith("keras_nasnet.")
        and "__init__" in vars(base)
        for parameter in inspect.signature(base.__init__).parameters.values()
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    } - {"self"}


def assert_equal(outputs, expected):
    """Asserts that outputs are equal but for the order of additions."""
    assert_close(outputs, expected, 1e-6)


def assert_close(outputs, expected, tolerance):
    """Asserts that outputs are equal to a relative tolerance."""
    outputs = keras.tree.flatten(outputs)
    expected = keras.tree.flatten(expected)
    assert len(outputs) == len(expected)
    for x, y in zip(outputs, expected):
        assert relative_difference(to_numpy(x), to_numpy(y)) <= tolerance
