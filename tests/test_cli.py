"""Does the command line print what it should, also when used wrongly?"""

import functools
import os
import subprocess
import sys

import pytest

import keras_nasnet
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import NASNetLarge
from keras_nasnet.cli import main
from keras_nasnet.conversion import QUANTIZATIONS
from networks import small_network


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.keras"
    small_network(name="small").save(path)
    return str(path)


@pytest.fixture
def genotype_file(tmp_path):
    cell = CellGenotype([Block(("conv_3x3", 0), ("identity", 1))])
    path = tmp_path / "found.json"
    Genotype(cell, cell, name="found").save(path)
    return str(path)


def numbers_of(output, name):
    """Returns the last columns of the line that begins with `name`."""
    for line in output.splitlines():
        if line.split()[:1] == [name]:
            return line.split()[1:]
    raise AssertionError(f"no line {name} in\n{output}")


def test_summary_counts(capsys):
    assert main(["summary", "cifar"]) == 0
    output, errors = capsys.readouterr()
    assert not errors
    assert numbers_of(output, "parameters") == ["3,383,786"]
    assert numbers_of(output, "multiply-adds") == ["544.33", "M"]
    assert numbers_of(output, "stem")[:5] == ["32", "x", "32", "x", "96"]
    assert numbers_of(output, "final_relu")[-2:] == ["0", "0"]


def test_summary_fits_a_screen(capsys, monkeypatch):
    # As deep as the real one, but quick to build.
    narrow = functools.partial(NASNetLarge, penultimate_filters=96)
    monkeypatch.setattr(keras_nasnet, "NASNetLarge", narrow)
    assert main(["summary", "large"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) < 80


def test_summary_of_a_file_at_its_own_and_another_size(capsys, model_file):
    assert main(["summary", model_file]) == 0
    output = capsys.readouterr().out
    assert output.startswith("small\n")
    assert numbers_of(output, "cell_0")[:5] == ["32", "x", "32", "x", "24"]
    assert main(["summary", model_file, "--input-size", "16", "24"]) == 0
    resized = capsys.readouterr().out
    assert numbers_of(resized, "cell_0")[:5] == ["16", "x", "24", "x", "24"]
    parameters = numbers_of(output, "parameters")
    assert numbers_of(resized, "parameters") == parameters
    assert numbers_of(resized, "trainable") == numbers_of(output, "trainable")


def test_summary_of_a_genotype(capsys, genotype_file):
    command = ["summary", genotype_file, "--input-size", "64", "32"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.startswith("found\n")
    assert numbers_of(output, "cell_0")[:5] == ["8", "x", "4", "x", "44"]
    assert numbers_of(output, "cell_11")[:5] == ["2", "x", "1", "x", "176"]


@pytest.mark.parametrize("kind", ["genotype_file", "model_file"])
def test_plot(capsys, tmp_path, request, kind):
    out = tmp_path / "picture.svg"
    network = request.getfixturevalue(kind)
    assert main(["plot", network, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote {out}\n"
    text = out.read_text()
    assert ("normal cell" in text) == (kind == "genotype_file")
    assert ("reduction_cell_1" in text) == (kind == "model_file")


@pytest.mark.parametrize(
    "command, message",
    [
        ("summary mobil", "unknown network 'mobil'"),
        ("summary none.keras", "no file 'none.keras'"),
        ("summary none.json", "no file 'none.json'"),
        ("summary broken.keras", "broken.keras cannot be loaded"),
        ("summary broken.json", "broken.json: Not a JSON genotype"),
        ("summary cifar --input-size 4", "at least 8 pixels"),
        ("summary cifar --input-size 1 2 3", "--input-size takes the height"),
        ("summary cifar --input-size 0", "--input-size takes the height"),
        ("predict a.png --top 0", "--top must be at least 1"),
        ("predict mine.tflite", "no IMAGE to ask mine.tflite about"),
        ("predict mine.keras a.png", "unknown network 'mine.keras'"),
        (
            "export tiny --out a.onnx --io-dtype uint8",
            "--io-dtype are for files that end in .tflite",
        ),
        (
            "export tiny --out a.tflite --quantization float16 "
            "--io-dtype uint8",
            '`io_dtype="uint8"` needs `quantization="int8"`',
        ),
        ("plot nasnet-a --out a.gif", "must end in one of .png, .svg, .pdf"),
        ("plot nasnet-a --out none/a.png", "folder of `to_file`"),
    ],
)
def test_error_is_one_line(capsys, monkeypatch, tmp_path, command, message):
    monkeypatch.chdir(tmp_path)
    for name in ("broken.keras", "broken.json"):
        (tmp_path / name).write_text("nothing of use")
    assert main(command.split()) == 2
    output, errors = capsys.readouterr()
    assert not output
    (line,) = errors.splitlines()
    assert message in line
    assert line.startswith(f"keras-nasnet {command.split()[0]}: ")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "draw",
        "plot nasnet-a",
        "summary",
        "summary cifar -x",
        "export tiny --out a.tflite --quantization int4",
        "benchmark a.tflite --runs 0",
        "benchmark a.tflite --threads 1,0",
        "benchmark a.tflite --threads 1,,2",
    ],
)
def test_usage_error(capsys, command):
    assert main(command.split()) == 2
    assert "usage: keras-nasnet" in capsys.readouterr().err


def test_help_of_export_says_what_becomes_of_a_file(capsys):
    assert main(["export", "--help"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    explained, _, _ = output.partition("positional arguments")
    for name in QUANTIZATIONS:
        assert name in explained


@pytest.mark.parametrize("command", ["", "summary", "plot"])
def test_help(capsys, command):
    assert main([*command.split(), "--help"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    if command:
        assert "nasnet-a" in output
        assert f"  keras-nasnet {command} " in output


def test_module_passes_the_exit_status_on():
    process = subprocess.run(
        [sys.executable, "-m", "keras_nasnet", "summary", "mobil"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("keras-nasnet summary:")
