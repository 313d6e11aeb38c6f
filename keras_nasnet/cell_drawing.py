"""Where everything stands in the picture of a cell. Lengths are in inches."""

import collections
import dataclasses
import itertools

from keras_nasnet.canvas import BLOCK_LINE
from keras_nasnet.canvas import COMBINER
from keras_nasnet.canvas import CONVOLUTION
from keras_nasnet.canvas import CURRENT_LINE
from keras_nasnet.canvas import IDENTITY
from keras_nasnet.canvas import MARGIN
from keras_nasnet.canvas import POOL
from keras_nasnet.canvas import PREVIOUS_LINE
from keras_nasnet.canvas import SEPARABLE
from keras_nasnet.canvas import STATE
from keras_nasnet.canvas import TITLE_HEIGHT
from keras_nasnet.genotypes import Block

OPERATION_WIDTH = 0.62
OPERATION_HEIGHT = 0.42
OPERATION_GAP = 0.07
STATE_WIDTH = 0.8
STATE_HEIGHT = 0.27
JOIN_HEIGHT = 0.2
NODE_GAP = 0.16


@dataclasses.dataclass(eq=False)
class _Node:
    """What stands in a row of a cell drawing.

    A block with its two operations, an input, an output, or - if it has
    neither block nor label - a state on its way to a higher row.
    """

    width: float
    state: int | None = None  # passed on upwards
    reads: list = dataclasses.field(default_factory=list)  # states
    label: str = ""
    block: Block | None = None
    x: float = 0.0
    # Where a passing line turns aside; it is straight otherwise.
    bends: str | None = None

    def orient(self, providers):
        """Lets lines from the left arrive on the left."""
        order = sorted(
            range(len(self.reads)), key=lambda i: providers[self.reads[i]].x
        )
        self.reads = [self.reads[i] for i in order]
        if self.block and order == [1, 0]:
            block = self.block
            self.block = Block(block.right, block.left, block.combiner)

    @property
    def ports(self):
        """Where lines arrive from below, relative to `x`."""
        if self.block:
            half = (OPERATION_WIDTH + OPERATION_GAP) / 2
            return [-half, half]
        return _ports(len(self.reads), self.width)


class CellDrawing:
    """One cell as rows of nodes, inputs in the lowest row.

    Every line leads from one row to the next, so it crosses no box. A state
    that is read further up has a node of its own in each row between.
    """

    def __init__(self, genotype, title=None):
        self.genotype = genotype
        self.title = title
        self._make_rows()
        self._order_rows()
        self._measure()

    def _make_rows(self):
        genotype = self.genotype
        levels = [0] * genotype.num_inputs
        readers = [[] for _ in range(genotype.num_states)]
        for block in genotype.blocks:
            level = 1 + max(levels[branch.state] for branch in block.branches)
            levels.append(level)
            for branch in block.branches:
                readers[branch.state].append(level)
        top = 1 + max(levels)
        for state in genotype.outputs:
            readers[state].append(top)

        self.rows = [[] for _ in range(top + 1)]
        # For each row: state -> the node that it leaves the row from.
        self.providers = [{} for _ in range(top + 1)]
        for state, level in enumerate(levels):
            # What leaves the cell rises straight from where it was made, and
            # what does not ends straight below its highest reader.
            bends = "above" if state in genotype.outputs else "below"
            nodes = [self._state_node(state)]
            for _ in range(level + 1, max(readers[state], default=0)):
                nodes.append(_Node(0.0, state, [state], bends=bends))
            for row, node in enumerate(nodes, level):
                self.rows[row].append(node)
                self.providers[row][state] = node
        # The previous input stands to the left of the current one.
        self.rows[0].reverse()
        self.rows[top] = self._output_nodes()

    def _state_node(self, state):
        genotype = self.genotype
        if state < genotype.num_inputs:
            label = f"input {state}"
            if genotype.concat_outputs:
                label = ("$h_i$", "$h_{i-1}$")[state]
            return _Node(STATE_WIDTH, state, label=label)
        block = genotype.blocks[state - genotype.num_inputs]
        operations = 2 * OPERATION_WIDTH + OPERATION_GAP
        return _Node(
            max(operations, _combiner_width(block.combiner)),
            state,
            [branch.state for branch in block.branches],
            block=block,
        )

    def _output_nodes(self):
        outputs = self.genotype.outputs
        if self.genotype.concat_outputs:
            width = max(STATE_WIDTH, 0.2 * len(outputs))
            return [_Node(width, reads=list(outputs), label="concat")]
        return [
            _Node(STATE_WIDTH, reads=[state], label=f"output {i}")
            for i, state in enumerate(outputs)
        ]

    def _order_rows(self):
        """Orders the nodes within their rows for short, uncrossed lines."""
        found = []
        for _ in range(2):
            cost = self._improve_order()
            found.append((cost, [list(row) for row in self.rows]))
            # The mirror image is another place to start from.
            for row in self.rows[1:]:
                row.reverse()
        self.rows = min(found, key=lambda item: item[0])[1]
        self._arrange(sweeps=200)
        self._settle_row(len(self.rows) - 1)

    def _improve_order(self):
        """Moves nodes within their rows as long as that helps."""
        cost = self._arrange()
        improved = True
        while improved:
            improved = False
            for row in self.rows[1:]:
                for a, b in itertools.permutations(range(len(row)), 2):
                    row.insert(b, row.pop(a))
                    new_cost = self._arrange()
                    if new_cost < cost - 1e-6:
                        cost = new_cost
                        improved = True
                    else:
                        row.insert(a, row.pop(b))
        return cost

    def _arrange(self, sweeps=4):
        """Chooses every `x`; returns the crossings and lengths of lines."""
        for row in self.rows:
            _settle(row, [0.0] * len(row))
        # Without the outputs: what holds still keeps the others from drifting.
        order = range(len(self.rows) - 1)
        for _ in range(sweeps):
            self._orient()
            for i in order:
                self._settle_row(i)
            order = order[::-1]
        self._orient()
        cost = 0.0
        for i in range(1, len(self.rows)):
            ends = [(a.x, b.x + port) for a, b, port in self._lines(i)]
            cost += sum(abs(a - b) for a, b in ends)
            cost += 2 * sum(
                (a - c) * (b - d) < 0
                for (a, b), (c, d) in itertools.combinations(ends, 2)
            )
        return cost

    def _settle_row(self, row):
        """Moves the nodes of a row to the middle of what they connect."""
        wishes = {node: [] for node in self.rows[row]}
        for lower, node, port in self._lines(row):
            if node.bends != "below":
                wishes[node].append(lower.x - port)
        for lower, node, port in self._lines(row + 1):
            if lower.bends != "above":
                wishes[lower].append(node.x + port)
        _settle(wishes, [_mean(w or [n.x]) for n, w in wishes.items()])

    def _orient(self):
        for i, row in enumerate(self.rows[1:]):
            for node in row:
                node.orient(self.providers[i])

    def _lines(self, row):
        """Yields (lower node, node, port) for all lines that enter a row."""
        if 0 < row < len(self.rows):
            for node in self.rows[row]:
                for state, port in zip(node.reads, node.ports):
                    yield self.providers[row - 1][state], node, port

    def _measure(self):
        nodes = list(itertools.chain(*self.rows))
        left = min(node.x - node.width / 2 for node in nodes)
        for node in nodes:
            node.x += MARGIN - left
        self.width = max(node.x + node.width / 2 for node in nodes) + MARGIN
        y = MARGIN + (TITLE_HEIGHT if self.title else 0)
        self.bottoms = []
        self.tops = []
        for i in range(len(self.rows)):
            # Lines that lead far to the side get room to rise.
            reach = [abs(a.x - b.x - port) for a, b, port in self._lines(i)]
            if i > 0:
                y += 0.3 + 0.13 * max(reach)
            self.bottoms.append(y)
            if 0 < i < len(self.rows) - 1:
                y += OPERATION_HEIGHT + JOIN_HEIGHT
            y += STATE_HEIGHT
            self.tops.append(y)
        if self.genotype.concat_outputs:
            y += JOIN_HEIGHT + STATE_HEIGHT
        self.height = y + MARGIN

    def draw(self, canvas):
        if self.title:
            canvas.text(self.width / 2, MARGIN + 0.08, self.title, size=12)
        for i, row in enumerate(self.rows):
            self._draw_lines(canvas, i)
            for node in row:
                self._draw_node(canvas, i, node)

    def _draw_lines(self, canvas, row):
        ends = collections.defaultdict(list)
        for lower, node, port in self._lines(row):
            ends[lower].append(node.x + port)
        for lower, xs in ends.items():
            for start, x in zip(_ports(len(xs), lower.width), sorted(xs)):
                canvas.rising_line(
                    (lower.x + start, self.tops[row - 1]),
                    (x, self.bottoms[row]),
                    self._line_color(lower),
                )

    def _line_color(self, node):
        if node.state >= self.genotype.num_inputs:
            return BLOCK_LINE
        return CURRENT_LINE if node.state == 0 else PREVIOUS_LINE

    def _draw_node(self, canvas, row, node):
        bottom, top = self.bottoms[row], self.tops[row]
        x, y = node.x, top - STATE_HEIGHT / 2
        if node.block:
            self._draw_block(canvas, bottom, node)
        elif node.label == "concat":
            canvas.box(x, y, node.width, STATE_HEIGHT, COMBINER, "concat")
            y = top + JOIN_HEIGHT
            canvas.line([(x, top), (x, y)], BLOCK_LINE)
            y += STATE_HEIGHT / 2
            _draw_state(canvas, x, y, "$h_{i+1}$")
        elif node.label:
            _draw_state(canvas, x, y, node.label)
        else:
            ends = [(x, bottom), (x, top)]
            canvas.line(ends, self._line_color(node))

    def _draw_block(self, canvas, bottom, node):
        combiner = node.block.combiner
        width = _combiner_width(combiner)
        top = bottom + OPERATION_HEIGHT
        join = top + JOIN_HEIGHT
        for branch, port in zip(node.block.branches, node.ports):
            x = node.x + port
            end = node.x + (0.25 if port > 0 else -0.25) * width
            canvas.rising_line((x, top), (end, join), BLOCK_LINE)
            canvas.box(
                x,
                bottom + OPERATION_HEIGHT / 2,
                OPERATION_WIDTH,
                OPERATION_HEIGHT,
                _operation_colors(branch.operation),
                _operation_label(branch.operation),
            )
        canvas.box(
            node.x,
            join + STATE_HEIGHT / 2,
            width,
            STATE_HEIGHT,
            COMBINER,
            _combiner_label(combiner),
        )


def _draw_state(canvas, x, y, label):
    canvas.box(x, y, STATE_WIDTH, STATE_HEIGHT, STATE, label, rounding=0.13)


def _settle(row, wishes):
    """Puts nodes as near to where they wish to be as their widths allow.

    Least squares with the order and the gaps given, which is an isotonic
    regression: neighbours whose wishes collide share the mean of them.
    """
    row = list(row)
    offsets = [0.0]
    for left, right in itertools.pairwise(row):
        gap = (left.width + right.width) / 2 + NODE_GAP
        offsets.append(offsets[-1] + gap)
    groups = []
    for wish, offset in zip(wishes, offsets):
        groups.append([wish - offset])
        while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    shifts = itertools.chain(*([_mean(g)] * len(g) for g in groups))
    for node, shift, offset in zip(row, shifts, offsets):
        node.x = shift + offset


def _mean(values):
    return sum(values) / len(values)


def _ports(count, width):
    """Spreads the ends of lines over the side of a box."""
    step = min(0.14, 0.8 * width / max(count, 1))
    return [step * (i - (count - 1) / 2) for i in range(count)]


def _operation_label(operation):
    """Returns the kind of an operation, and its size in a second line."""
    kind, *words = operation.split("_")
    sizes = [word for word in words if word[0].isdigit()]
    return f"{kind}\n{' '.join(sizes)}".rstrip()


def _operation_colors(operation):
    if operation == "identity":
        return IDENTITY
    if operation.startswith("sep"):
        return SEPARABLE
    return POOL if "pool" in operation else CONVOLUTION


def _combiner_label(combiner):
    return combiner.replace("add_", "add + ").replace("_", " ")


def _combiner_width(combiner):
    return 0.2 + 0.078 * len(_combiner_label(combiner))
