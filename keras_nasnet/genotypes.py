"""Cells as data: what a cell computes, apart from how it is computed.

A cell is a list of blocks. Each block applies one operation to each of two
earlier hidden states and combines the results into a new state. Nothing here
imports Keras, so genotypes can be written, read, compared and searched on
machines without a deep learning framework.

State indices follow TF-slim: 0 is the current input (after its 1x1
convolution), 1 the previous one, and 2, 3, ... the outputs of the blocks.
(DARTS counts the first two the other way round.)
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from typing import NamedTuple

# The order is the paper's (appendix A.1); the search relies on it.
OPERATION_NAMES = (
    "identity",
    "conv_1x3_3x1",
    "conv_1x7_7x1",
    "dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "conv_1x1",
    "conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)

# "add" and "concat" are the searched ones; NASNet-B and C had two more.
COMBINER_NAMES = ("add", "concat", "add_layer_norm", "add_instance_norm")


class Branch(NamedTuple):
    """One side of a block: an operation and the state that it reads."""

    operation: str
    state: int


@dataclasses.dataclass(frozen=True)
class Block:
    """Two operations on two states, combined into a new state.

    Args:
        left: `(operation, state)`, an operation of `OPERATION_NAMES` and the
            index of the hidden state that it reads.
        right: The same for the second operation.
        combiner: One of `COMBINER_NAMES`.

    Example:

    >>> Block(("sep_conv_5x5", 0), ("sep_conv_3x3", 1)).combiner
    'add'
    """

    left: Branch
    right: Branch
    combiner: str = "add"

    def __post_init__(self):
        object.__setattr__(self, "left", _branch(self.left, "left"))
        object.__setattr__(self, "right", _branch(self.right, "right"))
        if self.combiner not in COMBINER_NAMES:
            raise ValueError(
                f"Unknown combiner {self.combiner!r}. "
                f"Expected one of {', '.join(COMBINER_NAMES)}."
            )

    @property
    def branches(self):
        """Both branches, left first."""
        return (self.left, self.right)


@dataclasses.dataclass(frozen=True)
class CellGenotype:
    """The wiring of one cell.

    Args:
        blocks: The `Block`s. Block `b` creates state `num_inputs + b` and may
            read any state below that.
        outputs: Indices of the states that leave the cell, in order. `None`
            derives them by the paper's rule: every state created in the cell
            that no block reads, or every created state at all where they
            are not concatenated.
        num_inputs: Number of input states. NASNet-B has 4, all others 2.
        concat_outputs: Whether the outputs leave as one tensor, concatenated
            in depth. `False` lets them go on one by one, as in NASNet-B, and
            then there must be as many outputs as inputs.

    Raises:
        ValueError: If the blocks do not form a cell. The message says which
            block is wrong and why.

    Example:

    >>> cell = CellGenotype([
    ...     Block(("sep_conv_3x3", 0), ("identity", 1)),
    ...     Block(("avg_pool_3x3", 1), ("max_pool_3x3", 0), "concat"),
    ... ])
    >>> cell.outputs
    (2, 3)
    """

    blocks: tuple
    outputs: tuple | None = None
    num_inputs: int = 2
    concat_outputs: bool = True

    def __post_init__(self):
        blocks = _sequence(self.blocks, "blocks")
        object.__setattr__(self, "blocks", tuple(map(_block, blocks)))
        if not _is_index(self.num_inputs) or self.num_inputs < 1:
            raise ValueError(
                "`num_inputs` must be a positive integer. "
                f"Received: num_inputs={self.num_inputs!r}"
            )
        if not isinstance(self.concat_outputs, bool):
            raise ValueError(
                "`concat_outputs` must be True or False. "
                f"Received: concat_outputs={self.concat_outputs!r}"
            )
        if not self.blocks:
            raise ValueError(
                "Wrong block count: a cell has at least 1 block, found 0."
            )
        self._check_inputs()
        if self.outputs is None:
            outputs = self._unused_states()
            if not self.concat_outputs:
                outputs = tuple(range(self.num_inputs, self.num_states))
        else:
            outputs = _sequence(self.outputs, "outputs")
        object.__setattr__(self, "outputs", tuple(outputs))
        self._check_outputs()

    @property
    def num_states(self):
        """Number of hidden states, inputs included."""
        return self.num_inputs + len(self.blocks)

    def _check_inputs(self):
        for b, block in enumerate(self.blocks):
            created = self.num_inputs + b
            for side, branch in zip(("left", "right"), block.branches):
                if not 0 <= branch.state < self.num_states:
                    raise ValueError(
                        f"Index out of range: {side} of block {b} reads "
                        f"state {branch.state}, but the cell has the states "
                        f"0 to {self.num_states - 1}."
                    )
                if branch.state >= created:
                    raise ValueError(
                        f"Cycle: {side} of block {b} reads state "
                        f"{branch.state}, but the block creates state "
                        f"{created} and may only read the states 0 to "
                        f"{created - 1}."
                    )

    def _unused_states(self):
        read = {branch.state for b in self.blocks for branch in b.branches}
        created = range(self.num_inputs, self.num_states)
        return tuple(state for state in created if state not in read)

    def _check_outputs(self):
        if not self.outputs:
            raise ValueError(
                "Empty outputs: a cell has at least one output state. Leave "
                "`outputs` out to derive them."
            )
        for state in self.outputs:
            if not _is_index(state) or not 0 <= state < self.num_states:
                raise ValueError(
                    f"Index out of range: `outputs` names state {state!r}, "
                    f"but the cell has the states 0 to {self.num_states - 1}."
                )
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError(
                "`outputs` names a state twice. "
                f"Received: outputs={self.outputs}"
            )
        if self.concat_outputs and self.num_inputs != 2:
            raise ValueError(
                "With concatenated outputs a cell reads the two cells before "
                f"it, so `num_inputs` must be 2. Found {self.num_inputs}."
            )
        if not self.concat_outputs and len(self.outputs) != self.num_inputs:
            raise ValueError(
                "Without concatenation every output state becomes an input "
                "state of the next cell, so their numbers must match. Found "
                f"{len(self.outputs)} outputs and {self.num_inputs} inputs."
            )

    def canonical(self):
        """Returns the smallest of all equivalent ways to write the cell.

        Two cells that differ only in the order of left and right, in the
        numbering of their blocks or in the order of their outputs have the
        same canonical form, and no others do.

        Returns:
            A nested tuple of plain values.
        """
        codes = _smallest_order(self)
        return (self.num_inputs, self.concat_outputs, codes)

    def to_dict(self):
        """Returns the cell as JSON-compatible values."""
        return {
            "blocks": [
                {
                    "left": list(block.left),
                    "right": list(block.right),
                    "combiner": block.combiner,
                }
                for block in self.blocks
            ],
            "outputs": list(self.outputs),
            "num_inputs": self.num_inputs,
            "concat_outputs": self.concat_outputs,
        }

    @classmethod
    def from_dict(cls, data):
        """Builds a cell from what `to_dict()` returned."""
        return cls(**_fields(data, cls))


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell: all that a searched network needs.

    Args:
        normal: `CellGenotype` of the cells that keep the image size.
        reduction: `CellGenotype` of the cells that halve it.
        name: Optional name, for drawings and reports.

    Raises:
        ValueError: If the two cells cannot stand in one network.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012)

    Example:

    >>> Genotype.from_json(NASNET_A.to_json()) == NASNET_A
    True
    """

    normal: CellGenotype
    reduction: CellGenotype
    name: str | None = None

    def __post_init__(self):
        for field in ("normal", "reduction"):
            cell = getattr(self, field)
            if isinstance(cell, dict):
                cell = CellGenotype.from_dict(cell)
                object.__setattr__(self, field, cell)
            if not isinstance(cell, CellGenotype):
                raise ValueError(
                    f"`{field}` must be a CellGenotype. Received: {cell!r}"
                )
        if self.name is not None and not isinstance(self.name, str):
            raise ValueError(
                f"`name` must be a string. Received: name={self.name!r}"
            )
        normal, reduction = self.normal, self.reduction
        if len(normal.blocks) != len(reduction.blocks):
            raise ValueError(
                "Wrong block count: both cells of a genotype have the same "
                f"number of blocks, found {len(normal.blocks)} in the normal "
                f"and {len(reduction.blocks)} in the reduction cell."
            )
        if (normal.num_inputs, normal.concat_outputs) != (
            reduction.num_inputs,
            reduction.concat_outputs,
        ):
            raise ValueError(
                "Both cells of a genotype must have the same `num_inputs` "
                "and the same `concat_outputs`."
            )

    def canonical_hash(self):
        """Returns a name for everything that this genotype equals.

        It does not change when left and right are swapped, when blocks are
        renumbered or when the genotype is renamed.

        Returns:
            A string of 64 hexadecimal digits.
        """
        form = (self.normal.canonical(), self.reduction.canonical())
        return hashlib.sha256(json.dumps(form).encode()).hexdigest()

    def to_dict(self):
        """Returns the genotype as JSON-compatible values."""
        return {
            "name": self.name,
            "normal": self.normal.to_dict(),
            "reduction": self.reduction.to_dict(),
        }

    @classmethod
    def from_dict(cls, data):
        """Builds a genotype from what `to_dict()` returned."""
        return cls(**_fields(data, cls))

    def to_json(self):
        """Returns the genotype as a JSON string."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text):
        """Builds a genotype from a JSON string.

        Raises:
            ValueError: If the text is not JSON or not a genotype.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Not a JSON genotype: {error}") from None
        return cls.from_dict(data)

    def save(self, path):
        """Writes the genotype to a JSON file, whole or not at all."""
        folder = os.path.dirname(os.path.abspath(path))
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = os.path.join(temporary, "genotype.json")
            with open(made, "w") as file:
                file.write(self.to_json() + "\n")
            os.replace(made, path)

    @classmethod
    def load(cls, path):
        """Reads a genotype from a JSON file.

        Raises:
            ValueError: If the file does not hold a genotype. The message
                names the file.
        """
        try:
            with open(path) as file:
                return cls.from_json(file.read())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def get(genotype):
    """Turns whatever describes a genotype into a `Genotype`.

    Args:
        genotype: A `Genotype`, its dictionary, or the path of its JSON file.

    Returns:
        A `Genotype`.

    Raises:
        ValueError: If `genotype` is none of these.
    """
    if isinstance(genotype, Genotype):
        return genotype
    if isinstance(genotype, dict):
        return Genotype.from_dict(genotype)
    if isinstance(genotype, (str, os.PathLike)):
        return Genotype.load(genotype)
    raise ValueError(
        "`genotype` must be a Genotype, its dictionary or the path of its "
        f"JSON file. Received: genotype={genotype!r}"
    )


def _is_index(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _sequence(value, field):
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            f"`{field}` must be a list or tuple. Received: {field}={value!r}"
        )
    return value


def _branch(value, side):
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not _is_index(value[1])
    ):
        raise ValueError(
            f"`{side}` must be a pair (operation, state index). "
            f"Received: {side}={value!r}"
        )
    branch = Branch(*value)
    if branch.operation not in OPERATION_NAMES:
        raise ValueError(
            f"Unknown operation {branch.operation!r}. "
            f"Expected one of {', '.join(OPERATION_NAMES)}."
        )
    return branch


def _block(value):
    if isinstance(value, dict):
        value = Block(**_fields(value, Block))
    if not isinstance(value, Block):
        raise ValueError(
            f"Every entry of `blocks` must be a Block. Received: {value!r}"
        )
    return value


def _fields(data, cls):
    """Checks that `data` has the fields of the dataclass `cls`."""
    if not isinstance(data, dict):
        raise ValueError(
            f"A {cls.__name__} is read from a dictionary. Received: {data!r}"
        )
    fields = dataclasses.fields(cls)
    unknown = set(data) - {field.name for field in fields}
    if unknown:
        raise ValueError(
            f"Unknown fields of a {cls.__name__}: {', '.join(sorted(unknown))}."
        )
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    missing = required - set(data)
    if missing:
        raise ValueError(
            f"Missing fields of a {cls.__name__}: {', '.join(sorted(missing))}."
        )
    return data


def _smallest_order(cell):
    """Numbers the blocks in every possible order and keeps the smallest.

    Choosing the smallest block first at every step makes the sequence the
    smallest, so only ties have to be followed further, and of tied blocks
    that are read in the same way only one.
    """
    readers = {b: [] for b in range(len(cell.blocks))}
    for b, block in enumerate(cell.blocks):
        for branch in block.branches:
            if branch.state >= cell.num_inputs:
                readers[branch.state - cell.num_inputs].append(
                    (b, branch.operation)
                )

    def place(state):
        # Concatenated outputs may come in any order; otherwise each one
        # becomes a certain input state of the next cell.
        if state not in cell.outputs:
            return -1
        return 0 if cell.concat_outputs else cell.outputs.index(state)

    def code(b, numbers):
        block = cell.blocks[b]
        branches = sorted((op, numbers[s]) for op, s in block.branches)
        return (block.combiner, tuple(branches), place(cell.num_inputs + b))

    def order(numbers):
        ready = [
            b
            for b, block in enumerate(cell.blocks)
            if cell.num_inputs + b not in numbers
            and all(branch.state in numbers for branch in block.branches)
        ]
        if not ready:
            return ()
        smallest = min(code(b, numbers) for b in ready)
        ties = {
            tuple(sorted(readers[b])): b
            for b in ready
            if code(b, numbers) == smallest
        }
        rests = (
            order({**numbers, cell.num_inputs + b: len(numbers)})
            for b in ties.values()
        )
        return (smallest, *min(rests))

    inputs = tuple(map(place, range(cell.num_inputs)))
    return (inputs, order({s: s for s in range(cell.num_inputs)}))


# The wiring of the released code and checkpoints. The paper's Figure 4 draws
# one concatenated state fewer in each cell; only the code's version has the
# published sizes.
NASNET_A = Genotype(
    name="NASNet-A",
    normal=CellGenotype(
        blocks=(
            Block(("sep_conv_5x5", 0), ("sep_conv_3x3", 1)),
            Block(("sep_conv_5x5", 1), ("sep_conv_3x3", 1)),
            Block(("avg_pool_3x3", 0), ("identity", 1)),
            Block(("avg_pool_3x3", 1), ("avg_pool_3x3", 1)),
            Block(("sep_conv_3x3", 0), ("identity", 0)),
        ),
        outputs=(1, 2, 3, 4, 5, 6),
    ),
    reduction=CellGenotype(
        blocks=(
            Block(("sep_conv_5x5", 0), ("sep_conv_7x7", 1)),
            Block(("max_pool_3x3", 0), ("sep_conv_7x7", 1)),
            Block(("avg_pool_3x3", 0), ("sep_conv_5x5", 1)),
            Block(("identity", 3), ("avg_pool_3x3", 2)),
            Block(("sep_conv_3x3", 2), ("max_pool_3x3", 0)),
        ),
        outputs=(3, 4, 5, 6),
    ),
)
