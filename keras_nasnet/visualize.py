"""Pictures of cells and networks, after figures 2 and 4 of the paper.

Everything flows upwards. Lengths are in inches.
"""

import dataclasses
import itertools

import keras

from keras_nasnet import genotypes
from keras_nasnet.canvas import Canvas
from keras_nasnet.canvas import picture_path
from keras_nasnet.cells import Cell
from keras_nasnet.cells import Stem
from keras_nasnet.genotypes import Block
from keras_nasnet.genotypes import CellGenotype
from keras_nasnet.regularization import AuxiliaryHead

# Inside and border of the boxes, one hue for each kind.
STATE = ("#ffffff", "#8c8c8c")
IDENTITY = ("#ececec", "#8c8c8c")
SEPARABLE = ("#d3e4f7", "#4477aa")
CONVOLUTION = ("#e6dcf3", "#7d5ba6")
POOL = ("#fde2bd", "#c77f1e")
COMBINER = ("#d5ecd4", "#4f9553")
FRAME = ("#f1f5fa", "#c3d0e0")

# Lines: the two inputs of a cell, and what is made of them.
CURRENT_LINE = "#31507a"
PREVIOUS_LINE = "#b0563b"
BLOCK_LINE = "#6f6f6f"

MARGIN = 0.12
TITLE_HEIGHT = 0.36

# Cells
OPERATION_WIDTH = 0.62
OPERATION_HEIGHT = 0.42
OPERATION_GAP = 0.07
STATE_WIDTH = 0.8
STATE_HEIGHT = 0.27
JOIN_HEIGHT = 0.2
NODE_GAP = 0.16
CELL_GAP = 0.4

# Networks
LAYER_HEIGHT = 0.28
LAYER_PITCH = 0.42
BOW = 0.3


def plot_cell(genotype, to_file):
    """Draws the wiring of a cell, like Figure 4 of the paper.

    The inputs stand at the bottom, `h_i` being the current and `h_{i-1}` the
    previous one. Every pair of coloured operations is joined by the combiner
    of its block; blocks that read other blocks stand higher. Left and right
    of a block are swapped where that saves a crossing.

    Args:
        genotype: A `CellGenotype`; or a `Genotype`, its dictionary or the
            path of its JSON file, whose two cells are drawn side by side.
        to_file: Path of the picture. Its ending chooses the format: `.png`,
            `.svg` or `.pdf`.

    Returns:
        The path of the picture, a string.

    Raises:
        ValueError: If `genotype` is none of these, or the ending of `to_file`
            is unknown.
        ImportError: If matplotlib is not installed.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), figure 4

    Example:

    ```python
    keras_nasnet.plot_cell(keras_nasnet.NASNET_A, "cells.svg")
    ```
    """
    path = picture_path(to_file)
    title = None
    if isinstance(genotype, CellGenotype):
        cells = [_CellDrawing(genotype)]
    else:
        genotype = genotypes.get(genotype)
        title = genotype.name
        cells = [
            _CellDrawing(genotype.normal, "normal cell"),
            _CellDrawing(genotype.reduction, "reduction cell"),
        ]
    width = sum(cell.width for cell in cells) + CELL_GAP * (len(cells) - 1)
    height = max(cell.height for cell in cells)
    canvas = Canvas(width, height + (TITLE_HEIGHT if title else 0))
    left = 0.0
    for cell in cells:
        with canvas.shifted(left):
            cell.draw(canvas)
        left += cell.width + CELL_GAP
    if title:
        canvas.text(width / 2, height + 0.14, title, size=14, weight="bold")
    return canvas.save(path)


def plot_network(model, to_file):
    """Draws the layers of a network and the two inputs of every cell.

    Each layer is a box with its name and its output shape, `?` standing for a
    size that is not fixed. Straight lines lead to the current input, bows to
    the previous one. Normal cells that repeat are framed together.

    Args:
        model: A functional model built by this package, also a fine-tuned or
            loaded one.
        to_file: Path of the picture. Its ending chooses the format: `.png`,
            `.svg` or `.pdf`.

    Returns:
        The path of the picture, a string.

    Raises:
        ValueError: If `model` has no cells, or the ending of `to_file` is
            unknown.
        ImportError: If matplotlib is not installed.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), figure 2

    Example:

    ```python
    model = keras_nasnet.NASNetMobile(weights=None)
    keras_nasnet.plot_network(model, "mobile.png")
    ```
    """
    path = picture_path(to_file)
    network = _NetworkDrawing(model)
    canvas = Canvas(network.width, network.height)
    network.draw(canvas)
    return canvas.save(path)


@dataclasses.dataclass(eq=False)
class _Node:
    """What stands in a row of a cell drawing.

    A block with its two operations, an input, an output, or - if it has
    neither block nor label - a state on its way to a higher row.
    """

    width: float
    reads: list = dataclasses.field(default_factory=list)  # state indices
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


class _CellDrawing:
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
            node = self._state_node(state)
            self.rows[level].append(node)
            self.providers[level][state] = node
            for row in range(level + 1, max(readers[state], default=0)):
                passing = _Node(width=0.0, reads=[state])
                passing.bends = "above" if state in genotype.outputs else "below"
                self.rows[row].append(passing)
                self.providers[row][state] = passing
        # The previous input stands to the left of the current one.
        self.rows[0].reverse()
        self.rows[top] = self._output_nodes()

    def _state_node(self, state):
        genotype = self.genotype
        if state < genotype.num_inputs:
            label = f"input {state}"
            if genotype.concat_outputs:
                label = ("$h_i$", "$h_{i-1}$")[state]
            return _Node(STATE_WIDTH, label=label)
        block = genotype.blocks[state - genotype.num_inputs]
        operations = 2 * OPERATION_WIDTH + OPERATION_GAP
        return _Node(
            max(operations, _combiner_width(block.combiner)),
            [branch.state for branch in block.branches],
            block=block,
        )

    def _output_nodes(self):
        outputs = self.genotype.outputs
        if self.genotype.concat_outputs:
            width = max(STATE_WIDTH, 0.2 * len(outputs))
            return [_Node(width, list(outputs), label="concat")]
        return [
            _Node(STATE_WIDTH, [state], label=f"output {i}")
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
        self._arrange(sweeps=80)

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
                wishes = {node: [] for node in self.rows[i]}
                for lower, node, port in self._lines(i):
                    if node.bends != "below":
                        wishes[node].append(lower.x - port)
                for lower, node, port in self._lines(i + 1):
                    if lower.bends != "above":
                        wishes[lower].append(node.x + port)
                _settle(self.rows[i], [_mean(w) for w in wishes.values()])
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
        leaving = {}
        for lower, node, port in self._lines(row):
            state = node.reads[node.ports.index(port)]
            leaving.setdefault(lower, []).append((node.x + port, state))
        for lower, ends in leaving.items():
            starts = _ports(len(ends), lower.width)
            for start, (x, state) in zip(starts, sorted(ends)):
                canvas.rising_line(
                    (lower.x + start, self.tops[row - 1]),
                    (x, self.bottoms[row]),
                    self._line_color(state),
                )

    def _line_color(self, state):
        if state >= self.genotype.num_inputs:
            return BLOCK_LINE
        return CURRENT_LINE if state == 0 else PREVIOUS_LINE

    def _draw_node(self, canvas, row, node):
        bottom, top = self.bottoms[row], self.tops[row]
        x, y = node.x, top - STATE_HEIGHT / 2
        if node.block:
            self._draw_block(canvas, bottom, node)
        elif node.label == "concat":
            canvas.box(x, y, node.width, STATE_HEIGHT, "concat", COMBINER)
            y = top + JOIN_HEIGHT
            canvas.line([(x, top), (x, y)], BLOCK_LINE)
            y += STATE_HEIGHT / 2
            _draw_state(canvas, x, y, "$h_{i+1}$")
        elif node.label:
            _draw_state(canvas, x, y, node.label)
        else:
            color = self._line_color(node.reads[0])
            canvas.line([(x, bottom), (x, top)], color)

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
                _operation_label(branch.operation),
                _operation_colors(branch.operation),
            )
        canvas.box(
            node.x,
            join + STATE_HEIGHT / 2,
            width,
            STATE_HEIGHT,
            _combiner_label(combiner),
            COMBINER,
        )


class _NetworkDrawing:
    """A network as a column of layers, the input at the bottom.

    Auxiliary heads stand beside the column.
    """

    def __init__(self, model):
        self.model = model
        nodes = _graph_nodes(model)
        self.aux = [n for n in nodes if isinstance(n.operation, AuxiliaryHead)]
        self.column = [node for node in nodes if node not in self.aux]
        self.rows = {node: row for row, node in enumerate(self.column)}
        self._choose_tracks()
        self._measure(nodes)

    def _choose_tracks(self):
        """Gives every line that passes layers by a track to one side."""
        self.bows = []
        self.tracks = {"left": [], "right": []}
        for node in self.column:
            for start in _parents(node):
                if self.rows[node] - self.rows[start] > 1:
                    track = self._free_track(self.rows[start], self.rows[node])
                    self.bows.append((start, node, *track))

    def _free_track(self, start, end):
        for depth in itertools.count():
            for side, ends in self.tracks.items():
                if depth == len(ends):
                    ends.append(0)
                if ends[depth] <= start:
                    ends[depth] = end
                    return side, depth

    def _measure(self, nodes):
        letters = max(
            len(node.operation.name) + len(_shape_label(node)) for node in nodes
        )
        self.layer_width = 0.6 + 0.08 * letters
        beside = 0.2 + BOW * max(map(len, self.tracks.values()))
        self.left = MARGIN + beside
        self.right = self.left + self.layer_width
        self.x = (self.left + self.right) / 2
        self.beside = self.right + beside
        self.width = self.beside + MARGIN
        if self.aux:
            self.width += self.layer_width
        self.bottom = MARGIN + TITLE_HEIGHT
        self.top = self.bottom + LAYER_PITCH * len(self.column)
        self.height = self.top + 2 * TITLE_HEIGHT

    def _y(self, node):
        return self.bottom + LAYER_PITCH * (self.rows[node] + 0.5)

    def draw(self, canvas):
        self._draw_title(canvas)
        self._draw_legend(canvas)
        self._draw_frames(canvas)
        for node in self.column:
            y = self._y(node)
            self._draw_layer(canvas, self.x, y, node)
            for start in _parents(node):
                if self.rows[start] == self.rows[node] - 1:
                    y0 = self._y(start) + LAYER_HEIGHT / 2
                    ends = [(self.x, y0), (self.x, y - LAYER_HEIGHT / 2)]
                    canvas.line(ends, _reading_color(node, start), arrow=True)
        for bow in self.bows:
            self._draw_bow(canvas, *bow)
        for node in self.aux:
            (start,) = _parents(node)
            y = self._y(start)
            ends = [(self.right, y), (self.beside, y)]
            canvas.line(ends, CURRENT_LINE, arrow=True)
            x = self.beside + self.layer_width / 2
            self._draw_layer(canvas, x, y, node)

    def _draw_title(self, canvas):
        y = self.top + 1.35 * TITLE_HEIGHT
        canvas.text(self.x, y, self.model.name, size=13, weight="bold")
        count = f"{self.model.count_params():,} parameters"
        canvas.text(self.x, y - 0.23, count, color="#666666")

    def _draw_legend(self, canvas):
        y = MARGIN + TITLE_HEIGHT / 4
        for x, color, label in (
            (self.x - 1.3, CURRENT_LINE, "current input"),
            (self.x + 0.1, PREVIOUS_LINE, "previous input"),
        ):
            canvas.line([(x, y), (x + 0.2, y)], color, arrow=True)
            canvas.text(x + 0.27, y, label, ha="left", color=color)

    def _draw_layer(self, canvas, x, y, node):
        colors = _layer_colors(node)
        canvas.box(x, y, self.layer_width, LAYER_HEIGHT, colors=colors)
        half = self.layer_width / 2 - 0.1
        canvas.text(x - half, y, node.operation.name, ha="left")
        canvas.text(x + half, y, _shape_label(node), ha="right")

    def _draw_bow(self, canvas, start, end, side, depth):
        y0 = self._y(start) + LAYER_HEIGHT / 5
        y1 = self._y(end) - LAYER_HEIGHT / 5
        # A Bezier curve reaches three quarters of the way to its controls.
        x, reach = self.right, BOW * (depth + 1) / 0.75
        if side == "left":
            x, reach = self.left, -reach
        points = [(x, y0), (x + reach, y0), (x + reach, y1), (x, y1)]
        canvas.line(points, _reading_color(end, start), arrow=True)

    def _draw_frames(self, canvas):
        """Frames normal cells that follow each other at the same size."""
        for shape, group in itertools.groupby(self.column, _normal_cell_shape):
            group = list(group)
            if shape is None or len(group) < 2:
                continue
            y0, y1 = self._y(group[0]), self._y(group[-1])
            canvas.box(
                self.x,
                (y0 + y1) / 2,
                self.layer_width + 0.14,
                y1 - y0 + LAYER_HEIGHT + 0.14,
                colors=FRAME,
                rounding=0.1,
            )


def _draw_state(canvas, x, y, label):
    canvas.box(x, y, STATE_WIDTH, STATE_HEIGHT, label, STATE, rounding=0.13)


def _settle(row, wishes):
    """Puts nodes as near to where they wish to be as their widths allow.

    Least squares with the order and the gaps given, which is an isotonic
    regression: neighbours whose wishes collide share the mean of them.
    """
    offsets = []
    offset = 0.0
    for i, node in enumerate(row):
        if i:
            offset += (row[i - 1].width + node.width) / 2 + NODE_GAP
        offsets.append(offset)
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
    return sum(values) / len(values) if values else 0.0


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


def _graph_nodes(model):
    """Lists the calls that a functional model consists of, inputs first."""
    by_depth = getattr(model, "_nodes_by_depth", {})
    nodes = [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth]]
    if not any(isinstance(node.operation, Cell) for node in nodes):
        raise ValueError(
            "`model` has no cells to draw: it was not built by keras_nasnet, "
            "or its network is nested in another model. Received a model "
            f"with the layers {[layer.name for layer in model.layers]}"
        )
    return nodes


def _parents(node):
    """Returns the calls whose results a call reads, each once."""
    return list(dict.fromkeys(node.parent_nodes))


def _reading_color(node, start):
    """Returns the colour of a line: `start` is the current input or not."""
    is_current = node.parent_nodes[0] is start
    return CURRENT_LINE if is_current else PREVIOUS_LINE


def _shape_label(node):
    shape = node.outputs[0].shape[1:]
    label = " × ".join("?" if n is None else str(n) for n in shape)
    if len(node.outputs) > 1:
        label = f"{len(node.outputs)} of {label}"
    return label


def _layer_colors(node):
    layer = node.operation
    if isinstance(layer, Cell):
        return SEPARABLE if layer.strides == 1 else POOL
    if isinstance(layer, Stem):
        return CONVOLUTION
    if isinstance(layer, (AuxiliaryHead, keras.layers.Dense)):
        return COMBINER
    return STATE if node.is_input else IDENTITY


def _normal_cell_shape(node):
    layer = node.operation
    if isinstance(layer, Cell) and layer.strides == 1:
        return node.outputs[0].shape
    return None
