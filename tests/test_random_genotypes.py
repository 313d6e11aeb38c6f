"""Random genotypes: valid ones work as networks, invalid ones are refused."""

import copy
import json
import re

import keras
import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_nasnet import Genotype
from keras_nasnet import NASNet
from keras_nasnet.genotypes import OPERATION_NAMES
from tests.layer_test_case import assert_equal
from tests.networks import images
from tests.networks import randomize
from tests.networks import run
from tests.test_cells import PASSING_ON

# The same examples on every run, however slow the machine.
REPRODUCIBLE = settings(deadline=None, derandomize=True, database=None)

FILTERS = 3  # odd, so that halves of them differ


@st.composite
def cells(draw, num_blocks):
    """Draws the dictionary of a valid cell."""
    blocks = []
    for b in range(num_blocks):
        branch = st.tuples(
            st.sampled_from(OPERATION_NAMES), st.integers(0, 1 + b)
        ).map(list)
        blocks.append(
            {
                "left": draw(branch),
                "right": draw(branch),
                "combiner": draw(st.sampled_from(["add", "concat"])),
            }
        )
    cell = {"blocks": blocks}
    if draw(st.booleans()):
        states = st.integers(0, 1 + num_blocks)
        cell["outputs"] = draw(
            st.lists(states, min_size=1, max_size=4, unique=True)
        )
    return cell


@st.composite
def genotypes(draw):
    """Draws the dictionary of a valid genotype."""
    num_blocks = draw(st.integers(2, 7))
    return {
        "normal": draw(cells(num_blocks)),
        "reduction": draw(cells(num_blocks)),
    }


def tiny_network(genotype, size=(None, None)):
    """Builds the features of a network of five cells."""
    return NASNet(
        (*size, 3),
        include_top=False,
        genotype=genotype,
        stem="cifar",
        num_cells=1,
        penultimate_filters=len(genotype.normal.outputs) * 4 * FILTERS,
    )


def check_network(genotype):
    """Runs a network, and its copy made from its configuration."""
    model = randomize(tiny_network(genotype))
    config = json.dumps(model.get_config())
    twin = keras.Model.from_config(json.loads(config))
    assert json.dumps(twin.get_config()) == config
    twin.set_weights(model.get_weights())
    channels = len(genotype.normal.outputs) * 4 * FILTERS
    for height, width in [(8, 12), (13, 9)]:
        x = images(2, height, width, 3)
        outputs = run(model, x)
        size = -(-height // 4), -(-width // 4)
        assert outputs.shape == (2, *size, channels)
        assert np.isfinite(outputs).all()
        assert_equal(run(twin, x), outputs)


# Looking for a simpler failing network would take minutes.
@settings(REPRODUCIBLE, max_examples=25, phases=[Phase.generate])
@given(genotypes())
def test_valid_genotype_works_as_network(data):
    genotype = Genotype.from_dict(data)
    assert Genotype.from_json(genotype.to_json()) == genotype
    check_network(genotype)


def test_cells_that_pass_their_states_on_work_as_network():
    check_network(Genotype(PASSING_ON, PASSING_ON))


@settings(REPRODUCIBLE, max_examples=200)
@given(genotypes())
def test_valid_genotype_survives_json(data):
    genotype = Genotype.from_dict(data)
    again = Genotype.from_json(genotype.to_json())
    assert again == genotype
    assert again.to_dict() == genotype.to_dict()
    assert again.canonical_hash() == genotype.canonical_hash()
    for field in ("normal", "reduction"):
        cell = getattr(genotype, field)
        read = {
            branch[1]
            for block in data[field]["blocks"]
            for branch in (block["left"], block["right"])
        }
        unused = set(range(2, cell.num_states)) - read
        assert cell.outputs == tuple(data[field].get("outputs", sorted(unused)))


# Each of these makes a valid cell invalid. `b` is a block, `side` a branch.


def _own_state(cell, b, side):
    cell["blocks"][b][side][1] = 2 + b
    return f"Cycle: {side} of block {b} reads state {2 + b}, but"


def _later_state(cell, b, side):
    last = 1 + len(cell["blocks"])
    cell["blocks"][b][side][1] = last
    return f"Cycle: {side} of block {b} reads state {last}, but"


def _state_out_of_range(cell, b, side):
    cell["blocks"][b][side][1] = 2 + len(cell["blocks"])
    return f"Index out of range: {side} of block {b} reads state"


def _negative_state(cell, b, side):
    cell["blocks"][b][side][1] = -1
    return f"Index out of range: {side} of block {b} reads state -1"


def _no_integer(cell, b, side):
    cell["blocks"][b][side][1] = 0.0
    return f"`{side}` must be a pair (operation, state index)."


def _no_pair(cell, b, side):
    cell["blocks"][b][side].append(0)
    return f"`{side}` must be a pair (operation, state index)."


def _unknown_operation(cell, b, side):
    cell["blocks"][b][side][0] += "_"
    return "Unknown operation"


def _unknown_combiner(cell, b, side):
    cell["blocks"][b]["combiner"] = "multiply"
    return "Unknown combiner 'multiply'."


def _missing_branch(cell, b, side):
    del cell["blocks"][b][side]
    return f"Missing fields of a Block: {side}."


def _unknown_field(cell, b, side):
    cell["blocks"][b]["strides"] = 2
    return "Unknown fields of a Block: strides."


def _no_outputs(cell, b, side):
    cell["outputs"] = []
    return "Empty outputs"


def _output_twice(cell, b, side):
    cell["outputs"] = [2 + b, 2 + b]
    return "`outputs` names a state twice."


def _output_out_of_range(cell, b, side):
    cell["outputs"] = [2 + len(cell["blocks"])]
    return "Index out of range: `outputs` names state"


def _block_too_many(cell, b, side):
    block = cell["blocks"][0]
    cell["blocks"].append(copy.deepcopy(block))
    return "Wrong block count: both cells of a genotype"


def _no_blocks(cell, b, side):
    cell["blocks"].clear()
    return "Wrong block count: a cell has at least 1 block, found 0."


def _three_inputs(cell, b, side):
    cell["num_inputs"] = 3
    return "With concatenated outputs a cell reads the two cells before it"


MUTATIONS = [
    _own_state,
    _later_state,
    _state_out_of_range,
    _negative_state,
    _no_integer,
    _no_pair,
    _unknown_operation,
    _unknown_combiner,
    _missing_branch,
    _unknown_field,
    _no_outputs,
    _output_twice,
    _output_out_of_range,
    _block_too_many,
    _no_blocks,
    _three_inputs,
]


@pytest.mark.parametrize("mutate", MUTATIONS)
@settings(REPRODUCIBLE, max_examples=25)
@given(
    data=genotypes(),
    field=st.sampled_from(["normal", "reduction"]),
    side=st.sampled_from(["left", "right"]),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_invalid_genotype_is_refused(mutate, data, field, side, fraction):
    Genotype.from_dict(data)  # still valid
    cell = data[field]
    reason = mutate(cell, int(fraction * len(cell["blocks"])), side)
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        Genotype.from_json(json.dumps(data))
