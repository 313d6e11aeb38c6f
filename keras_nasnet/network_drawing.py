"""Where everything stands in the picture of a network, in inches."""

import itertools

import keras

from keras_nasnet.canvas import COMBINER
from keras_nasnet.canvas import CONVOLUTION
from keras_nasnet.canvas import CURRENT_LINE
from keras_nasnet.canvas import FRAME
from keras_nasnet.canvas import IDENTITY
from keras_nasnet.canvas import MARGIN
from keras_nasnet.canvas import POOL
from keras_nasnet.canvas import PREVIOUS_LINE
from keras_nasnet.canvas import SEPARABLE
from keras_nasnet.canvas import STATE
from keras_nasnet.canvas import TITLE_HEIGHT
from keras_nasnet.cells import Cell
from keras_nasnet.cells import Stem
from keras_nasnet.regularization import AuxiliaryHead

LAYER_HEIGHT = 0.28
LAYER_PITCH = 0.42
BOW = 0.3


class NetworkDrawing:
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
        canvas.box(x, y, self.layer_width, LAYER_HEIGHT, colors)
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
                FRAME,
                rounding=0.1,
            )


def _graph_nodes(model):
    """Lists the calls that a functional model consists of, inputs first."""
    by_depth = getattr(model, "_nodes_by_depth", {})
    nodes = [
        n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth]
    ]
    if not any(isinstance(node.operation, Cell) for node in nodes):
        raise ValueError(
            "`model` has no cells to draw: it was not built by keras_nasnet, "
            "its network is nested in another model, or it is not a "
            f"functional model. Received: model={model!r}"
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
