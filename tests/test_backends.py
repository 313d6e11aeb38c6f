"""The same weights give the same outputs on TensorFlow, JAX and torch."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import run_backend
from tests.conftest import ROOT
from tests.networks import randomize
from tests.networks import relative_difference

OTHER_BACKENDS = sorted(
    {"tensorflow", "jax", "torch"} - {keras.config.backend()}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of all the networks."""
    folder = tmp_path_factory.mktemp("networks")
    for name, (build, _) in run_backend.NETWORKS.items():
        randomize(build()).save_weights(folder / f"{name}.weights.h5")
    network = run_backend.trained_network()
    network.save_weights(folder / "trained.weights.h5")
    return folder


@pytest.fixture(scope="module")
def expected_outputs(folder):
    """What this backend computes with the weights."""
    return run_backend.outputs(folder)


@pytest.fixture(scope="module")
def expected_losses(folder):
    """How this backend trains from the weights."""
    return run_backend.losses(folder)


@pytest.fixture(scope="module", params=OTHER_BACKENDS)
def results(request, folder):
    """Outputs and losses of another backend, in a process of its own."""
    backend = request.param
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    subprocess.run(
        [sys.executable, "-m", "tests.run_backend", folder],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    return np.load(folder / "outputs.npz"), np.load(folder / "losses.npy")


def test_outputs_are_equal(results, expected_outputs):
    outputs, _ = results
    assert set(outputs) == set(expected_outputs)
    for name, expected in expected_outputs.items():
        assert relative_difference(outputs[name], expected) < 1e-5, name


def test_training_is_equal_up_to_drop_path(results, expected_losses):
    _, losses = results
    # The second loss stands on the gradients of the first step.
    np.testing.assert_allclose(losses[:2], expected_losses[:2], rtol=1e-4)
    assert expected_losses[1] < expected_losses[0]
    # Backends draw other random numbers.
    np.testing.assert_allclose(losses[2], expected_losses[2], rtol=0.5)
