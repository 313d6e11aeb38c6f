"""The README's examples run as they stand."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from keras_nasnet import cli

README = pathlib.Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
FLAGS = re.DOTALL | re.MULTILINE
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, FLAGS)


def run_example(example):
    """Returns the variables that an example leaves."""
    variables = {"__name__": "example"}
    exec(compile(example, str(README), "exec"), variables)
    return variables


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_example(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_example(EXAMPLES[number])


def test_fine_tuned_network_knows_its_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_example(EXAMPLES[0])
    pixels = np.random.default_rng(0).integers(0, 128, (40, 40, 3), "uint8")
    Image.fromarray(pixels + np.uint8([0, 127, 0])).save("leaf.png")
    capsys.readouterr()
    assert cli.main("predict leaf.png --model colours.keras".split()) == 0
    _, probability, name, *_ = capsys.readouterr().out.split()
    assert name == "green" and float(probability.rstrip("%")) > 70


def test_answer_below_the_first_command(monkeypatch, capsys):
    shown = re.search(
        r"^keras-nasnet (.*)\n```\n\n```text\n(.*?)```", TEXT, FLAGS
    )
    monkeypatch.chdir(README.parent)
    assert cli.main(shown[1].split()) == 0
    answers = capsys.readouterr().out.replace("%", "").split()
    expected = shown[2].replace("%", "").split()
    assert answers[::2] == expected[::2]
    # The last digit may depend on the machine.
    np.testing.assert_allclose(
        np.float64(answers[1::2]), np.float64(expected[1::2]), atol=0.015
    )


def test_nothing_is_left_to_fill_in():
    assert "BUILD_" not in TEXT


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    missing = [t for t in targets if not (README.parent / t).exists()]
    assert targets and not missing
