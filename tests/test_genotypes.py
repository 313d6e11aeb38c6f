"""Genotypes: reading, writing, refusing, and telling cells apart."""

import dataclasses
import itertools
import json
import os
import random
import stat

import pytest

from keras_nasnet import NASNET_A
from keras_nasnet import OPERATIONS
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import genotypes
from keras_nasnet.genotypes import COMBINER_NAMES
from keras_nasnet.genotypes import OPERATION_NAMES

CONV = ("conv_3x3", 0)
SKIP = ("identity", 1)
CELL = CellGenotype([Block(CONV, SKIP)])


def cell(*blocks, **kwargs):
    """Returns a cell of blocks given as pairs of branches."""
    return CellGenotype([Block(*block) for block in blocks], **kwargs)


def passing_on_cell():
    """A cell as in NASNet-B: four inputs, and four states that go on."""
    return cell(
        (("sep_conv_3x3", 0), ("identity", 1)),
        (("max_pool_3x3", 2), ("conv_1x1", 3), "add_layer_norm"),
        (("conv_1x1", 4), ("identity", 5), "add_instance_norm"),
        (("dil_conv_3x3", 6), ("avg_pool_3x3", 0), "concat"),
        outputs=[4, 5, 6, 7],
        num_inputs=4,
        concat_outputs=False,
    )


class TestConstruction:
    def test_blocks_are_completed_and_plain(self):
        block = Block(["conv_3x3", 0], ("identity", 1))
        assert block.combiner == "add"
        assert block.branches == (CONV, SKIP)
        assert block.left.operation == "conv_3x3"
        assert block.right.state == 1

    def test_outputs_are_derived_from_unused_states(self):
        derived = cell(
            (CONV, SKIP),
            (("identity", 2), ("identity", 0)),
            (CONV, CONV),
        )
        # State 2 is read, and the unread input 1 was not created here.
        assert derived.outputs == (3, 4)
        assert derived.num_states == 5

    def test_explicit_outputs_keep_their_order(self):
        blocks = (CONV, SKIP), (("identity", 2), CONV)
        assert cell(*blocks).outputs == (3,)
        assert cell(*blocks, outputs=[3, 0, 2]).outputs == (3, 0, 2)
        assert cell(*blocks, outputs=[3]) == cell(*blocks)

    def test_genotypes_are_frozen_and_hashable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            NASNET_A.name = "mine"
        assert {NASNET_A: 1}[Genotype.from_json(NASNET_A.to_json())] == 1

    def test_cells_may_be_dictionaries(self):
        assert Genotype(CELL.to_dict(), CELL) == Genotype(CELL, CELL)

    def test_outputs_may_go_on_one_by_one(self):
        passing_on = passing_on_cell()
        assert passing_on.outputs == (4, 5, 6, 7)
        genotype = Genotype(passing_on, passing_on)
        assert Genotype.from_json(genotype.to_json()) == genotype

    def test_names_of_operations_and_combiners(self):
        assert tuple(OPERATIONS) == OPERATION_NAMES
        assert len(OPERATION_NAMES) == 13
        # The first two are the searched ones.
        assert COMBINER_NAMES[:2] == ("add", "concat")


def test_nasnet_a_is_slims():
    operations = {
        "none": "identity",
        "avg3": "avg_pool_3x3",
        "max3": "max_pool_3x3",
        "sep3": "sep_conv_3x3",
        "sep5": "sep_conv_5x5",
        "sep7": "sep_conv_7x7",
    }

    # TF-slim's way to write a cell: the operations and states of all branches
    # in a row, and for every state whether it is kept from the outputs.
    def from_slim(names, states, is_used):
        names = [operations[name] for name in names.split()]
        branches = list(zip(names, states))
        blocks = [Block(*branches[i : i + 2]) for i in range(0, 10, 2)]
        outputs = [state for state, used in enumerate(is_used) if not used]
        return CellGenotype(blocks, outputs)

    assert NASNET_A.normal == from_slim(
        "sep5 sep3 sep5 sep3 avg3 none avg3 avg3 sep3 none",
        [0, 1, 1, 1, 0, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
    )
    assert NASNET_A.reduction == from_slim(
        "sep5 sep7 max3 sep7 avg3 sep5 none avg3 sep3 max3",
        [0, 1, 0, 1, 0, 1, 3, 2, 2, 0],
        [1, 1, 1, 0, 0, 0, 0],
    )
    assert NASNET_A.name == "NASNet-A"


OPERATIONS_TEXT = (
    "identity, conv_1x3_3x1, conv_1x7_7x1, dil_conv_3x3, avg_pool_3x3, "
    "max_pool_3x3, max_pool_5x5, max_pool_7x7, conv_1x1, conv_3x3, "
    "sep_conv_3x3, sep_conv_5x5, sep_conv_7x7"
)

INVALID = {
    "operation": (
        lambda: Block(("conv_9x9", 0), SKIP),
        f"Unknown operation 'conv_9x9'. Expected one of {OPERATIONS_TEXT}.",
    ),
    "operation of another type": (
        lambda: Block(CONV, ([], 0)),
        f"Unknown operation []. Expected one of {OPERATIONS_TEXT}.",
    ),
    "combiner": (
        lambda: Block(CONV, SKIP, "multiply"),
        "Unknown combiner 'multiply'. Expected one of add, concat, "
        "add_layer_norm, add_instance_norm.",
    ),
    "left": (
        lambda: Block("conv_3x3", SKIP),
        "`left` must be a pair (operation, state index). "
        "Received: left='conv_3x3'",
    ),
    "right": (
        lambda: Block(CONV, ("conv_3x3", 0, 1)),
        "`right` must be a pair (operation, state index). "
        "Received: right=('conv_3x3', 0, 1)",
    ),
    "state as text": (
        lambda: Block(CONV, ("identity", "1")),
        "`right` must be a pair (operation, state index). "
        "Received: right=('identity', '1')",
    ),
    "state as truth value": (
        lambda: Block(CONV, ("identity", True)),
        "`right` must be a pair (operation, state index). "
        "Received: right=('identity', True)",
    ),
    "blocks": (
        lambda: CellGenotype(Block(CONV, SKIP)),
        "`blocks` must be a list or tuple. Received: "
        f"blocks={Block(CONV, SKIP)!r}",
    ),
    "block": (
        lambda: CellGenotype([(CONV, SKIP)]),
        f"Every entry of `blocks` must be a Block. Received: {(CONV, SKIP)!r}",
    ),
    "no blocks": (
        lambda: CellGenotype([]),
        "Wrong block count: a cell has at least 1 block, found 0.",
    ),
    "num_inputs": (
        lambda: cell((CONV, SKIP), num_inputs=0),
        "`num_inputs` must be a positive integer. Received: num_inputs=0",
    ),
    "concat_outputs": (
        lambda: cell((CONV, SKIP), concat_outputs=1),
        "`concat_outputs` must be True or False. Received: concat_outputs=1",
    ),
    "state beyond the cell": (
        lambda: cell((CONV, SKIP), (CONV, ("identity", 4))),
        "Index out of range: right of block 1 reads state 4, but the cell "
        "has the states 0 to 3.",
    ),
    "negative state": (
        lambda: cell((("conv_3x3", -1), SKIP)),
        "Index out of range: left of block 0 reads state -1, but the cell "
        "has the states 0 to 2.",
    ),
    "own state": (
        lambda: cell((CONV, ("identity", 2))),
        "Cycle: right of block 0 reads state 2, but the block creates state "
        "2 and may only read the states 0 to 1.",
    ),
    "later state": (
        lambda: cell((("conv_3x3", 3), SKIP), (CONV, ("identity", 2))),
        "Cycle: left of block 0 reads state 3, but the block creates state "
        "2 and may only read the states 0 to 1.",
    ),
    "empty outputs": (
        lambda: cell((CONV, SKIP), outputs=[]),
        "Empty outputs: a cell has at least one output state. Leave "
        "`outputs` out to derive them.",
    ),
    "outputs": (
        lambda: cell((CONV, SKIP), outputs=2),
        "`outputs` must be a list or tuple. Received: outputs=2",
    ),
    "output beyond the cell": (
        lambda: cell((CONV, SKIP), outputs=[2, 3]),
        "Index out of range: `outputs` names state 3, but the cell has the "
        "states 0 to 2.",
    ),
    "output as text": (
        lambda: cell((CONV, SKIP), outputs=["2"]),
        "Index out of range: `outputs` names state '2', but the cell has "
        "the states 0 to 2.",
    ),
    "output twice": (
        lambda: cell((CONV, SKIP), outputs=[2, 2]),
        "`outputs` names a state twice. Received: outputs=(2, 2)",
    ),
    "inputs of concatenated outputs": (
        lambda: cell((CONV, SKIP), num_inputs=3),
        "With concatenated outputs a cell reads the two cells before it, so "
        "`num_inputs` must be 2. Found 3.",
    ),
    "outputs that go on": (
        lambda: cell((CONV, SKIP), concat_outputs=False),
        "Without concatenation every output state becomes an input state of "
        "the next cell, so their numbers must match. Found 1 outputs and 2 "
        "inputs.",
    ),
    "normal": (
        lambda: Genotype(None, CELL),
        "`normal` must be a CellGenotype. Received: None",
    ),
    "reduction": (
        lambda: Genotype(CELL, CELL.blocks),
        f"`reduction` must be a CellGenotype. Received: {CELL.blocks!r}",
    ),
    "name": (
        lambda: Genotype(CELL, CELL, 3),
        "`name` must be a string. Received: name=3",
    ),
    "block counts": (
        lambda: Genotype(CELL, cell((CONV, SKIP), (CONV, CONV))),
        "Wrong block count: both cells of a genotype have the same number "
        "of blocks, found 1 in the normal and 2 in the reduction cell.",
    ),
    "cells of two kinds": (
        lambda: Genotype(NASNET_A_OF_FOUR_BLOCKS, passing_on_cell()),
        "Both cells of a genotype must have the same `num_inputs` and the "
        "same `concat_outputs`.",
    ),
    "not JSON": (
        lambda: Genotype.from_json("{"),
        "Not a JSON genotype: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)",
    ),
    "not a dictionary": (
        lambda: Genotype.from_json("[1]"),
        "A Genotype is read from a dictionary. Received: [1]",
    ),
    "missing field": (
        lambda: Genotype.from_json('{"name": "mine"}'),
        "Missing fields of a Genotype: normal, reduction.",
    ),
    "unknown field": (
        lambda: CellGenotype.from_dict({**CELL.to_dict(), "b": 1, "a": 1}),
        "Unknown fields of a CellGenotype: a, b.",
    ),
    "missing field of a block": (
        lambda: CellGenotype.from_dict({"blocks": [{"left": CONV}]}),
        "Missing fields of a Block: right.",
    ),
    "neither genotype nor path": (
        lambda: genotypes.get(3),
        "`genotype` must be a Genotype, its dictionary or the path of its "
        "JSON file. Received: genotype=3",
    ),
}
NASNET_A_OF_FOUR_BLOCKS = CellGenotype(NASNET_A.normal.blocks[:4])


@pytest.mark.parametrize("make, message", INVALID.values(), ids=INVALID)
def test_invalid_input(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


class TestFiles:
    @pytest.mark.parametrize("name", ["mine", "Blöcke", None])
    def test_round_trip(self, name, tmp_path):
        genotype = dataclasses.replace(NASNET_A, name=name)
        assert Genotype.from_json(genotype.to_json()) == genotype
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        path = tmp_path / "genotype.json"
        genotype.save(path)
        assert Genotype.load(path) == genotype
        assert json.loads(path.read_text()) == genotype.to_dict()

    def test_get(self, tmp_path):
        path = tmp_path / "genotype.json"
        NASNET_A.save(path)
        for value in (NASNET_A, NASNET_A.to_dict(), path, str(path)):
            assert genotypes.get(value) == NASNET_A

    def test_outputs_that_are_left_out_are_derived(self):
        data = NASNET_A.to_dict()
        del data["reduction"]["outputs"]
        assert Genotype.from_dict(data).reduction.outputs == (4, 5, 6)

    def test_save_replaces_a_file_and_leaves_nothing_else(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        Genotype(CELL, CELL).save("genotype.json")
        NASNET_A.save("genotype.json")
        assert Genotype.load("genotype.json") == NASNET_A
        assert os.listdir() == ["genotype.json"]

    @pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX'")
    def test_saved_file_can_be_read_like_any_other(self, tmp_path):
        NASNET_A.save(tmp_path / "genotype.json")
        (tmp_path / "other.json").write_text("{}")
        modes = [
            stat.S_IMODE((tmp_path / name).stat().st_mode)
            for name in ("genotype.json", "other.json")
        ]
        assert modes[0] == modes[1]

    @pytest.mark.parametrize("failing", ["os.replace", "to_json"])
    def test_failed_save_leaves_the_old_file_alone(
        self, failing, tmp_path, monkeypatch
    ):
        def fail(*args):
            raise OSError("disk full")

        path = tmp_path / "genotype.json"
        NASNET_A.save(path)
        if failing == "to_json":
            monkeypatch.setattr(Genotype, "to_json", fail)
        else:
            monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            Genotype(CELL, CELL).save(path)
        assert Genotype.load(path) == NASNET_A
        # A stray file would be taken for a genotype by who lists the folder.
        assert list(tmp_path.glob("*.json")) == [path]

    @pytest.mark.parametrize(
        "content, reason",
        [
            (b"{", "Not a JSON genotype"),
            (b"", "Not a JSON genotype"),
            (b"\x89HDF\xff\xfe", ""),
            (b"{}", "Missing fields of a Genotype: normal, reduction."),
            (
                NASNET_A.to_json().replace("avg_pool", "no_pool").encode(),
                "Unknown operation 'no_pool_3x3'.",
            ),
        ],
    )
    def test_load_errors_name_the_file(self, content, reason, tmp_path):
        path = tmp_path / "broken.json"
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            Genotype.load(path)
        assert str(error.value).startswith(f"{path}: {reason}")

    def test_missing_file_is_named(self, tmp_path):
        path = tmp_path / "missing.json"
        with pytest.raises(FileNotFoundError, match="missing.json"):
            Genotype.load(path)


# Whether two cells are the same is decided here by trying every way to pair
# their blocks; the hash has to agree.


def are_isomorphic(one, two):
    """Whether some renumbering of blocks turns one cell into the other."""
    kind = (one.num_inputs, one.concat_outputs, len(one.blocks))
    if kind != (two.num_inputs, two.concat_outputs, len(two.blocks)):
        return False
    return any(
        is_equal_but_for_order(renumbered(one, order), two)
        for order in itertools.permutations(range(len(one.blocks)))
    )


def renumbered(cell, order):
    """Writes a cell with block `b` at place `order[b]`, as plain values."""
    n = cell.num_inputs
    numbers = [*range(n), *(n + place for place in order)]
    blocks = [None] * len(order)
    for place, block in zip(order, cell.blocks):
        branches = [(op, numbers[state]) for op, state in block.branches]
        blocks[place] = (*branches, block.combiner)
    return blocks, [numbers[state] for state in cell.outputs]


def is_equal_but_for_order(plain, cell):
    """Whether plain values are a cell, in any order of what has none."""
    blocks, outputs = plain
    for (*branches, combiner), block in zip(blocks, cell.blocks):
        if combiner != block.combiner:
            return False
        if sorted(branches) != sorted(block.branches):
            return False
    if cell.concat_outputs:
        return set(outputs) == set(cell.outputs)
    # Each output becomes a certain input of the next cell.
    return tuple(outputs) == cell.outputs


def random_cell(rng, num_blocks, operations, concat_outputs=True):
    """Draws a cell; few operations make twins and duplicates frequent."""
    num_inputs = 2
    blocks = []
    for b in range(num_blocks):
        states = range(num_inputs + b)
        # A block is repeated now and then.
        if blocks and rng.random() < 0.2:
            blocks.append(rng.choice(blocks))
            continue
        branches = [
            (rng.choice(operations), rng.choice(states)) for _ in range(2)
        ]
        combiner = rng.choice(["add", "add", "concat"])
        blocks.append(Block(*branches, combiner))
    states = range(num_inputs + num_blocks)
    outputs = None
    if not concat_outputs:
        outputs = rng.sample(states, num_inputs)
    elif rng.random() < 0.3:
        outputs = rng.sample(states, rng.randint(1, 3))
    return CellGenotype(blocks, outputs, num_inputs, concat_outputs)


def shuffled(rng, cell):
    """Writes a cell differently: blocks, sides and outputs in other order."""
    numbers = {}
    while len(numbers) < len(cell.blocks):
        ready = [
            b
            for b, block in enumerate(cell.blocks)
            if b not in numbers
            and all(
                branch.state - cell.num_inputs in {-2, -1, *numbers}
                for branch in block.branches
            )
        ]
        numbers[rng.choice(ready)] = len(numbers)
    order = [numbers[b] for b in range(len(cell.blocks))]
    return rewritten(cell, order, rng)


def rewritten(cell, order, rng):
    """Returns a cell in another order of blocks, and sides at random."""
    blocks, outputs = renumbered(cell, order)
    blocks = [
        Block(*rng.sample(branches, 2), combiner)
        for *branches, combiner in blocks
    ]
    if cell.concat_outputs:
        rng.shuffle(outputs)
    return dataclasses.replace(cell, blocks=blocks, outputs=outputs)


def cell_hash(cell):
    return Genotype(cell, cell).canonical_hash()


class TestCanonicalHash:
    @pytest.mark.parametrize("concat_outputs", [True, False])
    @pytest.mark.parametrize("num_blocks", [2, 3, 4, 5])
    def test_equal_exactly_for_isomorphic_cells(
        self, num_blocks, concat_outputs
    ):
        rng = random.Random(num_blocks)
        operations = ["identity", "conv_1x1"][: 1 if num_blocks > 3 else 2]
        cells = []
        for _ in range(12):
            drawn = random_cell(rng, num_blocks, operations, concat_outputs)
            reordered = dataclasses.replace(drawn, outputs=drawn.outputs[::-1])
            cells += [drawn, reordered, shuffled(rng, drawn)]
        isomorphic = 0
        for one, two in itertools.combinations(cells, 2):
            expected = are_isomorphic(one, two)
            assert (cell_hash(one) == cell_hash(two)) == expected, (one, two)
            assert (one.canonical() == two.canonical()) == expected
            isomorphic += expected
        # Neither answer is rare.
        assert 12 <= isomorphic < 36 * 35 / 4

    @pytest.mark.parametrize("num_blocks", [2, 3, 4, 5])
    def test_does_not_change_with_any_renumbering(self, num_blocks):
        rng = random.Random(num_blocks)
        rewritings = 0
        for _ in range(8):
            drawn = random_cell(rng, num_blocks, ["identity", "conv_1x1"])
            for order in itertools.permutations(range(num_blocks)):
                try:
                    other = rewritten(drawn, order, rng)
                except ValueError:
                    continue  # a block would read a later one
                assert cell_hash(other) == cell_hash(drawn)
                rewritings += 1
        assert rewritings > 8

    @pytest.mark.parametrize("num_blocks", [6, 7, 10])
    def test_does_not_change_in_large_cells(self, num_blocks):
        rng = random.Random(num_blocks)
        for _ in range(20):
            drawn = random_cell(rng, num_blocks, ["identity", "conv_1x1"])
            assert cell_hash(shuffled(rng, drawn)) == cell_hash(drawn)

    def test_ignores_the_name_but_not_the_kind_of_cell(self):
        normal, reduction = NASNET_A.normal, NASNET_A.reduction
        value = NASNET_A.canonical_hash()
        assert Genotype(normal, reduction, "mine").canonical_hash() == value
        assert Genotype(reduction, normal).canonical_hash() != value
        assert len(value) == 64 and int(value, 16)

    def test_sharing_a_block_is_not_repeating_it(self):
        use = ("identity", 2), ("identity", 3)
        repeated = cell((CONV, CONV), (CONV, CONV), use)
        shared = cell(
            (CONV, CONV), (CONV, CONV), (("identity", 2), ("identity", 2))
        )
        shared_only = dataclasses.replace(shared, outputs=[4])
        assert cell_hash(repeated) != cell_hash(shared)
        assert cell_hash(repeated) != cell_hash(shared_only)

    def test_every_part_of_a_cell_counts(self):
        first = (CONV, SKIP)
        cells = [
            cell(first, (CONV, ("identity", 2))),
            cell(first, (CONV, ("identity", 1))),
            cell(first, (CONV, ("conv_1x1", 2))),
            cell(first, (("conv_3x3", 1), ("identity", 2))),
            cell(first, (CONV, ("identity", 2), "concat")),
            cell((*first, "concat"), (CONV, ("identity", 2))),
            cell(first, (CONV, ("identity", 2)), outputs=[2, 3]),
            cell(first, (CONV, ("identity", 2)), outputs=[1, 3]),
            cell(first, (CONV, ("identity", 2)), outputs=[0, 3]),
            cell(first),
            cell(
                first,
                (CONV, ("identity", 2)),
                outputs=[2, 3],
                concat_outputs=False,
            ),
            cell(
                first,
                (CONV, ("identity", 2)),
                outputs=[3, 2],
                concat_outputs=False,
            ),
        ]
        assert len(set(map(cell_hash, cells))) == len(cells)

    def test_the_many_ways_to_write_a_symmetric_cell_are_few_to_try(self):
        # Twelve equal blocks in a row and twelve in a chain: their orders
        # could not all be tried.
        row = cell(*[(CONV, SKIP)] * 12, outputs=[2])
        chain = cell(*[(("conv_3x3", s), ("identity", s)) for s in range(12)])
        assert cell_hash(row) != cell_hash(chain)


def test_all_created_states_go_on_one_by_one():
    blocks = [Block(("identity", 0), ("conv_1x1", 1))]
    blocks.append(Block(("identity", 2), ("conv_3x3", 2)))
    # State 2 is read by the second block and goes on all the same.
    assert CellGenotype(blocks, concat_outputs=False).outputs == (2, 3)
