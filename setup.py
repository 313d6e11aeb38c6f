"""Packaging of keras_nasnet. Tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent

# Lower bounds are the releases that the tests run with.
EXTRAS = {
    "tensorflow": ["tensorflow>=2.21"],
    "jax": ["jax>=0.10"],
    "torch": ["torch>=2.13"],
    "visualize": ["matplotlib"],
    "images": ["pillow"],
    "onnx": [
        "tensorflow>=2.21",
        "onnx>=1.23",
        "onnxruntime>=1.32",
        "tf2onnx>=1.17",
    ],
    "training": [
        "tensorflow>=2.21",
        "tensorflow-datasets>=4.9.10",
        # tensorflow-datasets imports it without requiring it.
        "importlib_resources",
        # Keras' TensorBoard callback writes through it.
        "tensorboard>=2.20",
        # Draws the report of a search.
        "matplotlib",
        "pillow",
        "ray[tune]>=2.60",
    ],
    "detection": ["keras-hub>=0.32", "pycocotools>=2.0.11", "pillow"],
    # To run exported files, and nothing else.
    "litert": ["ai-edge-litert>=2.3", "pillow"],
    "tflite": [
        "tensorflow>=2.21",
        "ai-edge-litert>=2.3",
        "ai-edge-quantizer>=0.10",
        "flatbuffers",
        "pillow",
    ],
}
# What it compresses is written as a file for phones.
EXTRAS["compression"] = [
    *EXTRAS["tflite"],
    "tensorflow-model-optimization>=0.8.1",
    "tf-keras>=2.21",
]
# Everything that a test needs, except torch: on Linux it brings gigabytes of
# CUDA, and its tests are skipped without it.
EXTRAS["dev"] = [
    *sorted({r for name in EXTRAS.keys() - {"torch"} for r in EXTRAS[name]}),
    "build",
    # KerasHub's own checks of a backbone import it.
    "grain",
    "hypothesis",
    "pytest",
    "pytest-xdist",
    # A new release may format differently, so the linter is pinned.
    "ruff==0.17.*",
    "setuptools>=77",
]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def version():
    """Reads the version; importing the package would need Keras."""
    init = read("keras_nasnet/__init__.py")
    return re.search(r'^__version__ = "(.+)"$', init, re.MULTILINE)[1]


setuptools.setup(
    name="keras_nasnet",
    version=version(),
    description=(
        "NASNet for Keras 3: cells as data, networks, search and export"
    ),
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="keras nasnet neural-architecture-search image-classification",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    # The converters lie beside the package in a checkout and inside it once
    # installed, so that the wheel has one top-level name.
    packages=[
        *setuptools.find_packages(include=["keras_nasnet", "keras_nasnet.*"]),
        "keras_nasnet.weights",
    ],
    package_dir={"keras_nasnet.weights": "weights"},
    package_data={
        "keras_nasnet": ["*.txt"],
        "keras_nasnet.weights": ["*.h5", "*.json", "*.md", "*.npz"],
    },
    # Keras 3.15 needs Python 3.11.
    python_requires=">=3.11",
    install_requires=["absl-py", "h5py", "keras>=3.15", "numpy"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-nasnet = keras_nasnet.cli:main"]},
)
