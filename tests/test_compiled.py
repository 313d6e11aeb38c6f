"""A compiled network answers like the network."""

import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_nasnet import compile_inference
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network

ON_TENSORFLOW = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="needs TensorFlow"
)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_compiled_network_computes_the_same(batch_size):
    model = randomize(small_network(classifier_activation=None))
    infer = compile_inference(model, batch_size)
    for seed in range(2):
        x = images(3, 32, 32, 3, seed=seed)
        outputs = infer(x)
        assert isinstance(outputs, np.ndarray)
        assert relative_difference(outputs, run(model, x)) < 1e-4


def test_any_number_and_size_of_images():
    model = small_network(
        (None, None, 3), genotype=ALL_OPERATIONS, include_top=False
    )
    infer = compile_inference(randomize(model))
    for shape in [(1, 32, 32, 3), (4, 17, 30, 3)]:
        x = images(*shape)
        assert relative_difference(infer(x), run(model, x)) < 1e-4


def test_structure_of_outputs_is_kept():
    model = randomize(
        small_network(include_top=False, features=["P2", "P0", "P1"])
    )
    x = images(2, 32, 32, 3)
    outputs, expected = compile_inference(model)(x), run(model, x)
    assert list(outputs) == list(expected)
    for level, output in outputs.items():
        assert relative_difference(output, expected[level]) < 1e-4


def test_bfloat16():
    model = randomize(small_network(classifier_activation=None))
    x = images(4, 32, 32, 3)
    outputs = compile_inference(model, dtype="bfloat16")(x)
    assert outputs.dtype == "float32"
    # Computed in 16 bits, and not in more.
    assert 1e-4 < relative_difference(outputs, run(model, x)) < 0.1


@ON_TENSORFLOW
def test_number_of_threads():
    model = randomize(small_network(classifier_activation=None))
    x = images(16, 32, 32, 3)
    one, two, many = (compile_inference(model, threads=n) for n in (1, 2, 9))
    assert relative_difference(one(x), run(model, x)) < 1e-4
    assert relative_difference(two(x), one(x)) < 1e-5
    assert relative_difference(many(x), one(x)) < 1e-5
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(20):
        one(x)
    wall, processor = (
        time.perf_counter() - wall,
        time.process_time() - processor,
    )
    # With a second thread it would be about 1.5.
    assert processor < 1.2 * wall


@ON_TENSORFLOW
@pytest.mark.parametrize("choice", [None, "0"])
def test_threads_of_others_can_be_left_alone(choice):
    name = "TF_OVERRIDE_GLOBAL_THREADPOOL"
    environment = {k: v for k, v in os.environ.items() if k != name}
    if choice:
        environment[name] = choice
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import keras_nasnet, os; print(os.environ[{name!r}])",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == (choice or "1")


@ON_TENSORFLOW
def test_weights_are_those_of_the_moment():
    model = randomize(small_network(classifier_activation=None))
    infer = compile_inference(model)
    x = images(2, 32, 32, 3)
    before = infer(x)
    randomize(model, seed=1)
    assert np.array_equal(infer(x), before)
    assert relative_difference(run(model, x), before) > 0.1


@pytest.mark.parametrize(
    ("argument", "value"), [("dtype", "float16"), ("threads", 0)]
)
def test_unusable_argument_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be .*{value}"):
        compile_inference(small_network(), **{argument: value})
