"""Do the pictures show what they are pictures of, legibly?"""

import collections
import itertools
import random
import sys
import xml.etree.ElementTree

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_nasnet import NASNET_A
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import NASNet
from keras_nasnet import visualize
from keras_nasnet.canvas import CURRENT_LINE
from keras_nasnet.canvas import FRAME
from keras_nasnet.canvas import PREVIOUS_LINE
from keras_nasnet.canvas import Canvas
from keras_nasnet.genotypes import COMBINER_NAMES
from keras_nasnet.genotypes import OPERATION_NAMES
from keras_nasnet.visualize import plot_cell
from keras_nasnet.visualize import plot_network
from networks import ALL_OPERATIONS
from networks import small_network

LABELS = {
    "identity": "identity",
    "conv_1x3_3x1": "conv\n1x3 3x1",
    "conv_1x7_7x1": "conv\n1x7 7x1",
    "dil_conv_3x3": "dil\n3x3",
    "avg_pool_3x3": "avg\n3x3",
    "max_pool_3x3": "max\n3x3",
    "max_pool_5x5": "max\n5x5",
    "max_pool_7x7": "max\n7x7",
    "conv_1x1": "conv\n1x1",
    "conv_3x3": "conv\n3x3",
    "sep_conv_3x3": "sep\n3x3",
    "sep_conv_5x5": "sep\n5x5",
    "sep_conv_7x7": "sep\n7x7",
    "add": "add",
    "concat": "concat",
    "add_layer_norm": "add + layer norm",
    "add_instance_norm": "add + instance norm",
}

FOUR_STATES = CellGenotype(
    [Block(("sep_conv_3x3", 0), ("identity", b)) for b in range(4)],
    outputs=(4, 5, 6, 7),
    num_inputs=4,
    concat_outputs=False,
)

Box = collections.namedtuple("Box", "left right bottom top label colors")


class RecordingCanvas(Canvas):
    """Keeps what is drawn, to be looked at by a test."""

    last = None

    def __init__(self, width, height):
        super().__init__(width, height)
        RecordingCanvas.last = self
        self.size = (width, height)
        self.boxes = []
        self.lines = []
        self.texts = []

    def box(self, x, y, width, height, colors, label="", rounding=0.05):
        x += self._left
        self.boxes.append(
            Box(
                x - width / 2,
                x + width / 2,
                y - height / 2,
                y + height / 2,
                label,
                colors,
            )
        )

    def line(self, points, color, arrow=False):
        points = [(self._left + x, y) for x, y in points]
        self.lines.append((points, color))

    def text(self, x, y, label, **style):
        self.texts.append((self._left + x, y, label))

    def save(self, path):
        return path


@pytest.fixture
def canvas(monkeypatch):
    """The canvas that was drawn on last, behind a function."""
    monkeypatch.setattr(visualize, "Canvas", RecordingCanvas)
    return lambda: RecordingCanvas.last


def random_cell(seed, num_blocks):
    rng = random.Random(seed)
    blocks = []
    for b in range(num_blocks):
        left, right = (
            (rng.choice(OPERATION_NAMES), rng.randrange(b + 2))
            for _ in range(2)
        )
        blocks.append(Block(left, right, rng.choice(COMBINER_NAMES)))
    outputs = None
    if seed % 2:
        states = range(num_blocks + 2)
        outputs = sorted(rng.sample(states, rng.randint(1, num_blocks)))
    return CellGenotype(blocks, outputs)


RANDOM_CELLS = [random_cell(n, 1 + n % 7) for n in range(14)]
CELLS = [NASNET_A.normal, NASNET_A.reduction, FOUR_STATES, *RANDOM_CELLS]


def texts(path):
    """Returns the lines of text in an SVG file, in order."""
    root = xml.etree.ElementTree.parse(path).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    return ["".join(text.itertext()) for text in root.iter(f"{svg}text")]


def sampled(points):
    """Returns points along a line that is drawn through control points."""
    if len(points) == 2:
        points = [points[0], *points, points[1]]
    t = np.linspace(0, 1, 101)[:, None]
    basis = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    return sum(b * np.asarray(p) for b, p in zip(basis, points))


@pytest.mark.parametrize("cell", CELLS)
def test_boxes_keep_apart_and_lines_cross_none(canvas, cell):
    plot_cell(cell, "cell.png")
    boxes, lines = canvas().boxes, canvas().lines
    width, height = canvas().size
    for box in boxes:
        assert 0 < box.left < box.right < width
        assert 0 < box.bottom < box.top < height
    for a, b in itertools.combinations(boxes, 2):
        beside = max(a.left, b.left) - min(a.right, b.right)
        above = max(a.bottom, b.bottom) - min(a.top, b.top)
        assert max(beside, above) > 0.05
    for points, _ in lines:
        x, y = sampled(points).T
        for box in boxes:
            inside = (box.left < x) & (x < box.right)
            inside &= (box.bottom + 1e-6 < y) & (y < box.top - 1e-6)
            assert not inside.any()


class Drawn:
    """Follows the lines of a drawn cell downwards."""

    def __init__(self, canvas):
        self.boxes = canvas.boxes
        self.lines = [(p[0], p[-1]) for p, _ in canvas.lines]

    def box(self, label):
        (box,) = (box for box in self.boxes if box.label == label)
        return box

    def below(self, box):
        """Returns what the lines into a box come from, described."""
        return [
            self.describe(self.origin(start))
            for start, (x, y) in self.lines
            if abs(y - box.bottom) < 1e-6 and box.left < x < box.right
        ]

    def origin(self, point):
        for box in self.boxes:
            x, y = point
            if abs(y - box.top) < 1e-6 and box.left < x < box.right:
                return box
        (start,) = {
            start for start, end in self.lines if np.allclose(end, point)
        }
        return self.origin(start)

    def describe(self, box):
        return (box.label, *sorted(self.below(box)))


def described(cell, state):
    """Describes a state as `Drawn` does, from the genotype."""
    if state < cell.num_inputs:
        names = [f"input {n}" for n in range(cell.num_inputs)]
        if cell.concat_outputs:
            names = ["$h_i$", "$h_{i-1}$"]
        return (names[state],)
    block = cell.blocks[state - cell.num_inputs]
    branches = (
        (LABELS[operation], described(cell, read))
        for operation, read in block.branches
    )
    return (LABELS[block.combiner], *sorted(branches))


@pytest.mark.parametrize("cell", CELLS)
def test_lines_show_the_wiring(canvas, cell):
    plot_cell(cell, "cell.png")
    drawn = Drawn(canvas())
    outputs = [described(cell, state) for state in cell.outputs]
    if cell.concat_outputs:
        ((_, *found),) = drawn.below(drawn.box("$h_{i+1}$"))
    else:
        boxes = [drawn.box(f"output {i}") for i in range(len(outputs))]
        found = [source for box in boxes for source in drawn.below(box)]
        assert found == outputs
    assert sorted(found) == sorted(outputs)


def test_every_operation_and_combiner_is_labelled(tmp_path):
    path = plot_cell(ALL_OPERATIONS, tmp_path / "cells.svg")
    expected = collections.Counter()
    for cell in (ALL_OPERATIONS.normal, ALL_OPERATIONS.reduction):
        expected["concat"] += 1
        for block in cell.blocks:
            names = [branch.operation for branch in block.branches]
            for name in (*names, block.combiner):
                expected.update(LABELS[name].split("\n"))
    found = collections.Counter(texts(path))
    assert {label: found[label] for label in expected} == expected
    assert found["all operations"] == 1
    assert found["normal cell"] == found["reduction cell"] == 1


def test_genotype_may_be_a_file_or_a_dictionary(tmp_path):
    NASNET_A.save(tmp_path / "genotype.json")
    pictures = set()
    for i, genotype in enumerate(
        (NASNET_A, NASNET_A.to_dict(), tmp_path / "genotype.json")
    ):
        path = plot_cell(genotype, tmp_path / f"{i}.svg")
        with open(path) as file:
            pictures.add(file.read())
    assert len(pictures) == 1


def test_pictures_do_not_depend_on_the_users_style(tmp_path):
    cell = NASNET_A.reduction
    plain = plot_cell(cell, tmp_path / "plain.svg")
    style = {"font.family": "serif", "figure.facecolor": "black"}
    with matplotlib.rc_context(style):
        before = matplotlib.rcParams.copy()
        styled = plot_cell(cell, tmp_path / "styled.svg")
        assert matplotlib.rcParams == before
    with open(plain) as first, open(styled) as second:
        assert first.read() == second.read()


@pytest.mark.parametrize(
    "ending, start",
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")],
)
def test_ending_chooses_the_format(tmp_path, ending, start):
    path = plot_cell(NASNET_A.normal, tmp_path / f"cell{ending}")
    assert path == str(tmp_path / f"cell{ending}")
    with open(path, "rb") as file:
        assert file.read(len(start)) == start


@pytest.mark.parametrize(
    "to_file, message",
    [
        ("cell.gif", "`to_file` must end in one of .png, .svg, .pdf"),
        ("cell", "`to_file` must end in one of .png, .svg, .pdf"),
        ("missing/cell.png", "folder of `to_file` does not exist"),
    ],
)
def test_unusable_file_is_refused(tmp_path, to_file, message):
    with pytest.raises(ValueError, match=message):
        plot_cell(NASNET_A.normal, tmp_path / to_file)
    with pytest.raises(ValueError, match=message):
        plot_network(small_network(), tmp_path / to_file)


def test_what_is_no_genotype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`genotype` must be a Genotype"):
        plot_cell(3, tmp_path / "cell.png")


def test_failed_drawing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "cell.png"
    path.write_text("old")

    def fail(figure, file, **kwargs):
        with open(file, "w") as opened:
            opened.write("half a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        plot_cell(NASNET_A.normal, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_matplotlib_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_cell(NASNET_A.normal, tmp_path / "cell.png")


def drawn_lines(canvas):
    """Returns {(lower layer, upper layer): colour} of a drawn network."""
    boxes = [box for box in canvas.boxes if box.colors != FRAME]
    names = {
        box: next(
            label
            for x, y, label in canvas.texts
            if box.left < x < box.right and box.bottom < y < box.top
        )
        for box in boxes
    }

    def touching(point):
        x, y = point
        (box,) = (
            box
            for box in boxes
            if box.left - 1e-6 < x < box.right + 1e-6
            and box.bottom - 1e-6 < y < box.top + 1e-6
        )
        return names[box]

    lowest = min(box.bottom for box in boxes)
    return {
        (touching(points[0]), touching(points[-1])): color
        for points, color in canvas.lines
        if points[0][1] > lowest  # those below explain the colours
    }


@pytest.mark.parametrize("skip_reduction", [False, True])
def test_network_shows_both_inputs_of_every_cell(canvas, skip_reduction):
    model = small_network(aux_head=True, skip_reduction=skip_reduction)
    plot_network(model, "network.png")
    column = ["image", "stem", "cell_0", "reduction_cell_0", "cell_1"]
    column += ["reduction_cell_1", "cell_2", "final_relu", "avg_pool"]
    column += ["predictions"]
    expected = dict.fromkeys(itertools.pairwise(column), CURRENT_LINE)
    expected["cell_1", "aux_predictions"] = CURRENT_LINE
    expected |= dict.fromkeys(
        [
            ("stem", "reduction_cell_0"),
            ("reduction_cell_0", "reduction_cell_1"),
        ],
        PREVIOUS_LINE,
    )
    before = ["stem", "reduction_cell_0"]
    if not skip_reduction:
        before = ["cell_0", "cell_1"]
    for start, cell in zip(before, ["cell_1", "cell_2"]):
        expected[start, cell] = PREVIOUS_LINE
    assert drawn_lines(canvas()) == expected


def test_network_frames_cells_that_repeat(canvas):
    plot_network(small_network(num_cells=3), "network.png")
    frames = [box for box in canvas().boxes if box.colors == FRAME]
    layers = [box for box in canvas().boxes if box.colors != FRAME]
    inside = [
        sum(f.bottom < b.bottom and b.top < f.top for b in layers)
        for f in frames
    ]
    assert inside == [3, 3, 3]


def test_network_names_layers_and_shapes(tmp_path):
    model = small_network(input_shape=(32, 40, 3))
    found = texts(plot_network(model, tmp_path / "network.svg"))
    assert {layer.name for layer in model.layers} <= set(found)
    for shape in ("32 × 40 × 3", "32 × 40 × 24", "8 × 10 × 96", "10"):
        assert shape in found
    assert f"{model.count_params():,} parameters" in found


def test_network_of_any_size_and_of_four_states(tmp_path):
    model = NASNet(
        (None, None, 3),
        include_top=False,
        genotype=Genotype(FOUR_STATES, FOUR_STATES),
        stem="cifar",
        num_cells=1,
        penultimate_filters=64,
    )
    found = texts(plot_network(model, tmp_path / "network.svg"))
    assert "? × ? × 3" in found
    assert "4 of ? × ? × 4" in found


def test_network_may_be_fine_tuned_saved_and_loaded(tmp_path):
    model = small_network(include_top=False, pooling="avg")
    x = keras.layers.Dense(3, name="breeds")(model.output)
    model = keras.Model(model.inputs, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    first = plot_network(model, tmp_path / "first.svg")
    second = plot_network(loaded, tmp_path / "second.svg")
    assert texts(first) == texts(second)
    assert "breeds" in texts(first)


@pytest.mark.parametrize("kind", ["other", "nested", "no model"])
def test_model_without_cells_is_refused(tmp_path, kind):
    model = {
        "other": lambda: keras.Sequential([keras.layers.Dense(1)]),
        "nested": lambda: keras.Sequential([small_network()]),
        "no model": lambda: "mobile",
    }[kind]()
    with pytest.raises(ValueError, match="has no cells to draw"):
        plot_network(model, tmp_path / "network.png")
