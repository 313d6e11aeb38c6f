"""Search spaces: what a policy decides, as a list of numbers of choices.

A policy knows nothing of networks. It sees an ordered list of decisions, and
what it proposes is one number for each of them.
"""

import hashlib
from typing import NamedTuple

from keras_nasnet.genotypes import OPERATION_NAMES
from keras_nasnet.genotypes import Block
from keras_nasnet.genotypes import CellGenotype
from keras_nasnet.genotypes import Genotype

# The two of the paper's search for NASNet-A.
COMBINERS = ("add", "concat")


class Decision(NamedTuple):
    """One decision: its name, and between how many choices."""

    name: str
    choices: int


class DecisionSpace:
    """An ordered list of decisions.

    Args:
        decisions: List of (name, number of choices).

    Example:

    >>> space = DecisionSpace([("op", 5), ("input", 2)])
    >>> space.size
    10
    """

    def __init__(self, decisions):
        self.decisions = tuple(Decision(str(n), int(c)) for n, c in decisions)
        if not self.decisions:
            raise ValueError("`decisions` must not be empty.")
        for name, choices in self.decisions:
            if choices < 1:
                raise ValueError(
                    f"Decision {name!r} must have at least one choice. "
                    f"Received: {choices}"
                )

    def __len__(self):
        return len(self.decisions)

    @property
    def choices(self):
        """Tuple of the number of choices of every decision."""
        return tuple(d.choices for d in self.decisions)

    @property
    def size(self):
        """Number of different lists of choices."""
        size = 1
        for choices in self.choices:
            size *= choices
        return size

    def check(self, values):
        """Returns choices as a tuple of integers, if they are valid.

        Raises:
            ValueError: If they are too many, too few or too large.
        """
        values = tuple(int(v) for v in values)
        if len(values) != len(self):
            raise ValueError(
                f"Expected {len(self)} choices, received {len(values)}."
            )
        for value, (name, choices) in zip(values, self.decisions):
            if not 0 <= value < choices:
                raise ValueError(
                    f"Decision {name!r} is between 0 and {choices - 1}. "
                    f"Received: {value}"
                )
        return values

    def identity(self, values):
        """Returns a short string, the same for all names of one thing."""
        text = ",".join(map(str, values))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def get_config(self):
        """Returns what `from_config()` makes an equal space of."""
        return {"decisions": [list(d) for d in self.decisions]}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class NASNetSpace(DecisionSpace):
    """The paper's space: two cells of blocks, five decisions per block.

    For every block the first and the second state that it reads, the
    operations on them, and how the two are combined. The normal cell comes
    first.

    Args:
        num_blocks: Integer B, number of blocks in a cell.
        operations: Names of the operations to choose from, in the order of
            the choices.
        combiners: Names of the combiners to choose from.
        tied: Whether both cells are the same, so that one is decided.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), section 3 and figure 3

    Example:

    >>> len(NASNetSpace())
    50
    """

    def __init__(
        self,
        num_blocks=5,
        operations=OPERATION_NAMES,
        combiners=COMBINERS,
        tied=False,
    ):
        self.num_blocks = num_blocks
        self.operations = tuple(operations)
        self.combiners = tuple(combiners)
        self.tied = tied
        unknown = sorted(set(self.operations) - set(OPERATION_NAMES))
        if unknown:
            raise ValueError(
                f"`operations` names unknown ones: {', '.join(unknown)}. "
                f"Expected some of {', '.join(OPERATION_NAMES)}."
            )
        decisions = []
        for cell in ("cell",) if tied else ("normal", "reduction"):
            for b in range(num_blocks):
                block = f"{cell}_{b}"
                decisions += [
                    (f"{block}_left_state", b + 2),
                    (f"{block}_right_state", b + 2),
                    (f"{block}_left_operation", len(self.operations)),
                    (f"{block}_right_operation", len(self.operations)),
                    (f"{block}_combiner", len(self.combiners)),
                ]
        super().__init__(decisions)

    def decode(self, values):
        """Returns the `Genotype` that choices stand for.

        Args:
            values: Sequence of integers, one for every decision.
        """
        values = self.check(values)
        length = 5 * self.num_blocks
        cells = [
            self._decode_cell(values[i : i + length])
            for i in range(0, len(values), length)
        ]
        return Genotype(normal=cells[0], reduction=cells[-1])

    def encode(self, genotype):
        """Returns the choices that stand for a `Genotype`.

        Raises:
            ValueError: If the genotype is not in the space.
        """
        if self.tied and genotype.normal != genotype.reduction:
            raise ValueError(
                "The cells of `genotype` must be the same in a tied space."
            )
        cells = [genotype.normal, genotype.reduction][: 1 if self.tied else 2]
        values = [v for cell in cells for v in self._encode_cell(cell)]
        return self.check(values)

    def identity(self, values):
        return self.decode(values).canonical_hash()

    def get_config(self):
        return {
            "num_blocks": self.num_blocks,
            "operations": list(self.operations),
            "combiners": list(self.combiners),
            "tied": self.tied,
        }

    def _decode_cell(self, values):
        blocks = []
        for i in range(0, len(values), 5):
            left, right, left_op, right_op, combiner = values[i : i + 5]
            blocks.append(
                Block(
                    (self.operations[left_op], left),
                    (self.operations[right_op], right),
                    self.combiners[combiner],
                )
            )
        return CellGenotype(blocks)

    def _encode_cell(self, cell):
        if len(cell.blocks) != self.num_blocks:
            raise ValueError(
                f"`genotype` must have {self.num_blocks} blocks in a cell. "
                f"Received: {len(cell.blocks)}"
            )
        if cell != CellGenotype(cell.blocks):
            raise ValueError(
                "`genotype` must put out the states that no block reads, as "
                f"all of this space do. Received: outputs={cell.outputs}"
            )
        for block in cell.blocks:
            for branch in block.branches:
                if branch.operation not in self.operations:
                    raise ValueError(
                        f"The space has no operation {branch.operation!r}."
                    )
            if block.combiner not in self.combiners:
                raise ValueError(
                    f"The space has no combiner {block.combiner!r}."
                )
            yield from (block.left.state, block.right.state)
            yield self.operations.index(block.left.operation)
            yield self.operations.index(block.right.operation)
            yield self.combiners.index(block.combiner)
