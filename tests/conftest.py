"""Settings and fixtures for all tests."""

import os
import pathlib

# Read once, when the libraries are imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import keras  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SHARED = pathlib.Path(
    os.environ.get("KERAS_NASNET_SHARED", ROOT.parent / "shared")
)


@pytest.fixture(autouse=True)
def fixed_seed():
    """Makes a test draw the same random numbers whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def imagenet_samples():
    """The folder of photographs `<wnid>_<name>.jpg`, one per class."""
    return shared_folder("imagenet_samples")


@pytest.fixture(scope="session")
def cifar10_dir():
    """The `data_dir` with which `tfds.load("cifar10")` needs no network."""
    shared_folder("tensorflow_datasets/cifar10")
    return SHARED / "tensorflow_datasets"


def shared_folder(name):
    """Returns a folder of test data, or skips the test where it is absent."""
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{name} is not in the folder KERAS_NASNET_SHARED")
    return path
