"""The README's examples run as they stand."""

import pathlib
import re

import numpy as np
import pytest

from keras_nasnet import cli

README = pathlib.Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
FLAGS = re.DOTALL | re.MULTILINE
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, FLAGS)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {"__name__": "example"})


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
