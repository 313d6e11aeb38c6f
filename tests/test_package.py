"""What is installed, what importing it costs, and whether examples run."""

import doctest
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_nasnet

ROOT = pathlib.Path(__file__).parents[1]
# package -> its folder in a checkout
FOLDERS = {"keras_nasnet": "keras_nasnet", "keras_nasnet.weights": "weights"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with what is in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, since setuptools would pick up what earlier builds left behind.
    source = shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(
            ".*", "__pycache__", "*.egg-info", "build", "dist", "runs"
        ),
    )
    command = "pip wheel --quiet --no-deps --no-build-isolation --wheel-dir"
    subprocess.run(
        [sys.executable, "-m", *command.split(), folder, source], check=True
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_has_one_top_level_name(unpacked):
    version = keras_nasnet.__version__
    assert set(os.listdir(unpacked)) == {
        "keras_nasnet",
        f"keras_nasnet-{version}.dist-info",
    }


@pytest.mark.parametrize("package", FOLDERS)
def test_wheel_has_every_module_and_data_file(unpacked, package):
    folder = ROOT / FOLDERS[package]
    files = {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert files
    installed = unpacked / package.replace(".", "/")
    assert not [path for path in files if not (installed / path).is_file()]


def test_wheel_answers_without_network(unpacked, tmp_path):
    # Python imports a module of this name at its start.
    (tmp_path / "sitecustomize.py").write_text(
        """if True:
        import socket

        def refuse(*_):
            raise OSError("something wants to use the network")

        socket.socket.connect = refuse
        """
    )
    picture = ROOT / "examples" / "images" / "cat.jpg"
    path = os.pathsep.join(map(str, (unpacked, tmp_path)))
    code = f"""if True:
        import pathlib, runpy, socket, sys
        import keras_nasnet
        folder = pathlib.Path({str(unpacked)!r})
        assert folder in pathlib.Path(keras_nasnet.__file__).parents
        assert socket.socket.connect.__name__ == "refuse"
        sys.argv = ["keras-nasnet", "predict", {str(picture)!r}]
        runpy.run_module("keras_nasnet", run_name="__main__")
    """
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    image, *answers = process.stdout.splitlines()
    assert image == str(picture)
    assert len(answers) == 5


def test_import_costs_nothing_beyond_keras():
    code = """if True:
        import sys
        import keras
        top_level = lambda: {name.partition(".")[0] for name in sys.modules}
        before = top_level()
        import keras_nasnet
        new = top_level() - before - sys.stdlib_module_names
        assert new == {"keras_nasnet"}, new
        assert "tensorflow" not in sys.modules
        print(keras.backend.backend())
    """
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.strip() == "jax"


PUBLIC = sorted(
    name
    for name, value in vars(keras_nasnet).items()
    if callable(value) and not name.startswith("_")
)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    # Not inspect.getdoc(), which would find the docstring of a base class.
    docstring = getattr(keras_nasnet, name).__doc__
    assert docstring
    # A dataclass without docstring gets its signature for one.
    assert not docstring.startswith(f"{name}(")


MODULES_WITH_EXAMPLES = sorted(
    f"{package}.{path.stem}"
    for package, folder in FOLDERS.items()
    for path in (ROOT / folder).glob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the examples print TensorFlow's shapes",
)
@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {"keras": keras, "keras_nasnet": keras_nasnet, "np": np}
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    report = []
    for example in doctest.DocTestFinder().find(module, extraglobs=names):
        runner.run(example, out=report.append)
    assert runner.tries
    if runner.failures:
        pytest.fail("".join(report), pytrace=False)
