"""Cells against a plain reading of their genotypes, and as layers."""

import random

import keras
import numpy as np
import pytest
from keras import ops

from keras_nasnet import NASNET_A
from keras_nasnet import OPERATIONS
from keras_nasnet import Block
from keras_nasnet import Cell
from keras_nasnet import CellGenotype
from keras_nasnet import FactorizedReduction
from keras_nasnet import Stem
from keras_nasnet.operations import Convolution
from tests.layer_test_case import LayerCase
from tests.layer_test_case import LayerTestCase
from tests.layer_test_case import assert_close
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import run

# As in NASNet-B: four states go on one by one; the other two combiners.
PASSING_ON = CellGenotype(
    [
        Block(("sep_conv_3x3", 0), ("identity", 1)),
        Block(("max_pool_3x3", 2), ("conv_1x1", 3), "add_layer_norm"),
        # An instance norm takes away what a batch norm adds.
        Block(("avg_pool_3x3", 4), ("identity", 5), "add_instance_norm"),
        Block(("dil_conv_3x3", 6), ("conv_1x1", 4), "concat"),
    ],
    outputs=[7, 4, 0, 6],
    num_inputs=4,
    concat_outputs=False,
)

# Names of `previous` that fit each stride, and the size of what they read.
PREVIOUS_SCALES = {"match": 1, "raw": 1, "reduce": 2}


class TestLayers(LayerTestCase):
    cases = [
        LayerCase("stem-images", Stem, {"filters": 4}),
        LayerCase("stem-cifar", Stem, {"filters": 4, "strides": 1}),
        LayerCase(
            "factorized reduction",
            FactorizedReduction,
            {"filters": 5, "weight_decay": 1e-3},
        ),
        *(
            LayerCase(
                f"{kind}-{previous}",
                Cell,
                {
                    "genotype": getattr(NASNET_A, kind),
                    "filters": 4,
                    "strides": strides,
                    "previous": previous,
                    "drop_path_rate": 0.1,
                },
                channels=(3, 6),
                previous_scale=scale,
            )
            for kind, strides in (("normal", 1), ("reduction", 2))
            for previous, scale in PREVIOUS_SCALES.items()
        ),
        *(
            LayerCase(
                f"residual-{name}",
                Cell,
                {
                    "genotype": NASNET_A.normal,
                    "filters": 4,
                    "strides": strides,
                    "residual": True,
                    "weight_decay": 1e-3,
                },
                channels=channels,
            )
            for name, strides, channels in (
                ("identity", 1, (24, 6)),
                ("projection", 1, (3, 6)),
                ("reduction", 2, (24, 6)),
            )
        ),
        LayerCase(
            "outputs go on",
            Cell,
            {"genotype": PASSING_ON, "filters": 4, "pool_padding": "same"},
            channels=(3, 4, 5, 6),
        ),
    ]


def interpreted(cell, inputs):
    """Computes what the genotype of a cell says, step by step.

    Layers are built anew from the operations' names and take their weights
    from the cell, so that strides, activations and wiring are found here and
    not there.
    """
    genotype = cell.genotype.to_dict()
    n = genotype["num_inputs"]
    f = cell.filters

    def apply(layer, x, original):
        layer.build(x.shape)
        layer.set_weights(original.get_weights())
        return layer(x, training=False)

    states = []
    for i, x in enumerate(inputs):
        if i == 0 or (cell.previous == "match" and x.shape[-1] != f):
            x = apply(Convolution(f, 1), x, cell.fit_inputs[i])
        elif cell.previous == "reduce":
            x = apply(FactorizedReduction(f), x, cell.fit_inputs[i])
        else:
            assert cell.fit_inputs[i] is None
        states.append(x)

    for b, block in enumerate(genotype["blocks"]):
        branches = []
        for s, side in enumerate(("left", "right")):
            name, state = block[side]
            layer = OPERATIONS[name](
                f,
                strides=cell.strides if state < n else 1,
                pool_padding=cell.pool_padding,
            )
            branches.append(apply(layer, states[state], cell.operations[b][s]))
        if block["combiner"] == "concat":
            x = ops.concatenate(branches, -1)
        else:
            x = branches[0] + branches[1]
        # Layer norm: one mean per image. Instance norm: one per channel.
        axes = {"add_layer_norm": (1, 2, 3), "add_instance_norm": (1, 2)}
        if block["combiner"] in axes:
            x = normalized(x, axes[block["combiner"]], cell.norms[b])
        states.append(x)

    outputs = []
    for i, state in enumerate(genotype["outputs"]):
        x = states[state]
        if cell.strides == 2 and state < n:
            layer = FactorizedReduction(f, pre_activated=True)
            x = apply(layer, x, cell.fit_outputs[i])
        elif x.shape[-1] != f:
            layer = Convolution(f, 1, pre_activated=True)
            x = apply(layer, x, cell.fit_outputs[i])
        outputs.append(x)
    if genotype["concat_outputs"]:
        return ops.concatenate(outputs, -1)
    return outputs


def normalized(x, axes, layer):
    x = ops.convert_to_numpy(x)
    mean = x.mean(axes, keepdims=True)
    variance = x.var(axes, keepdims=True)
    gamma, beta = layer.get_weights()
    return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta


def random_cell(seed):
    """Draws a cell of any operations, combiners and explicit outputs."""
    rng = random.Random(seed)
    num_blocks = rng.randint(2, 5)
    blocks = []
    for b in range(num_blocks):
        branches = [
            (rng.choice(list(OPERATIONS)), rng.randrange(2 + b))
            for _ in range(2)
        ]
        blocks.append(Block(*branches, rng.choice(["add", "concat"])))
    outputs = rng.sample(range(num_blocks + 2), rng.randint(1, 4))
    return CellGenotype(blocks, outputs)


CELLS = {
    "nasnet_a-normal": NASNET_A.normal,
    "nasnet_a-reduction": NASNET_A.reduction,
    "all operations": ALL_OPERATIONS.normal,
    "passing on": PASSING_ON,
    **{f"random-{seed}": random_cell(seed) for seed in range(3)},
}


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("previous", PREVIOUS_SCALES)
@pytest.mark.parametrize("genotype", CELLS.values(), ids=CELLS)
def test_cell_computes_its_genotype(genotype, previous, strides):
    size = np.array([7, 6])
    scaled = PREVIOUS_SCALES[previous] * size - [previous == "reduce", 0]
    inputs = [
        images(2, *(scaled if i else size), channels, seed=i)
        # The second input has as many channels as the cell, the first not.
        for i, channels in enumerate([3, 4, 5, 6][: genotype.num_inputs])
    ]
    cell = Cell(
        genotype,
        4,
        strides,
        previous,
        pool_padding="zero" if strides == 1 else "same",
        drop_path_rate=0.5,
    )
    cell.build([x.shape for x in inputs])
    randomize(cell)
    outputs = run(cell, inputs)
    assert_close(outputs, interpreted(cell, inputs), 1e-5)


@pytest.mark.parametrize(
    ("channels", "strides"), [(24, 1), (3, 1), (24, 2), (3, 2)]
)
def test_residual_adds_the_current_input(channels, strides):
    inputs = [images(2, 7, 6, n, seed=n) for n in (channels, 4)]
    cells = [
        Cell(NASNET_A.normal, 4, strides, residual=residual)
        for residual in (True, False)
    ]
    for cell in cells:
        cell.build([x.shape for x in inputs])
    cell, plain = cells
    randomize(cell)
    shortcut = {w.path: w for w in cell.weights if "shortcut" in w.path}
    plain.set_weights([w for w in cell.weights if w.path not in shortcut])
    added = inputs[0]
    if (channels, strides) != (24, 1):
        kernel, gamma, beta, mean, variance = (
            ops.convert_to_numpy(w) for w in shortcut.values()
        )
        added = added[:, ::strides, ::strides] @ kernel[0, 0]
        added = gamma * (added - mean) / np.sqrt(variance + 1e-3) + beta
    assert_close(run(cell, inputs), run(plain, inputs) + added, 1e-5)


def test_outputs_are_concatenated_in_order():
    blocks = [Block(("max_pool_3x3", 0), ("identity", 1))] * 2
    x = images(1, 4, 4, 3)
    halves = []
    for outputs in ([0, 2], [2, 0]):
        cell = Cell(CellGenotype(blocks, outputs), 3)
        cell.build([x.shape] * 2)
        keras.utils.set_random_seed(0)
        cell.fit_inputs[0].steps[1].kernel.assign(np.eye(3)[None, None])
        halves.append(np.split(run(cell, [x, x]), 2, axis=-1))
    np.testing.assert_array_equal(halves[0][0], halves[1][1])
    np.testing.assert_array_equal(halves[0][1], halves[1][0])
    assert (halves[0][0] != halves[0][1]).any()


def test_first_cell_of_the_cifar_network_projects_like_slim():
    # Its previous input is the stem itself, three times as wide as a state.
    cell = Cell(NASNET_A.normal, 4, previous="raw")
    cell.build([(None, 8, 8, 12)] * 2)
    kinds = {
        (b, side): [type(step).__name__ for step in operation.steps]
        for b, operations in enumerate(cell.operations)
        for side, operation in zip("LR", operations)
    }
    assert cell.fit_inputs[1] is None
    assert kinds[2, "R"] == ["ReLU", "Conv2D", "BatchNorm"]
    assert kinds[4, "R"] == []
    for side in "LR":
        assert kinds[3, side] == ["Pool2D", "Conv2D", "BatchNorm"]
    assert kinds[2, "L"] == ["Pool2D"]
    # Of the outputs only state 1 is too wide; no ReLU stands before its 1x1.
    fit, *others = cell.fit_outputs
    assert [type(step).__name__ for step in fit.steps] == [
        "Conv2D",
        "BatchNorm",
    ]
    assert others == [None] * 5


def test_relu_before_operations_is_shared():
    cell = Cell(NASNET_A.normal, 4)
    cell.build([(None, 8, 8, 4)] * 2)
    layers = cell._flatten_layers()
    relus = [layer for layer in layers if isinstance(layer, keras.layers.ReLU)]
    # One in the fit of the current input, one inside each of five separable
    # convolutions; those before the operations are not layers.
    assert len(relus) == 1 + 5


def test_settings_reach_every_layer_inside():
    cell = Cell(
        ALL_OPERATIONS.reduction,
        4,
        strides=2,
        previous="reduce",
        bn_momentum=0.5,
        bn_epsilon=0.25,
        weight_decay=0.125,
    )
    cell.build([(None, 8, 8, 3), (None, 16, 16, 3)])
    norms = [
        layer
        for layer in cell._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert norms
    for norm in norms:
        assert (norm.momentum, norm.epsilon) == (0.5, 0.25)
    kernels = [w for w in cell.trainable_weights if w.ndim == 4]
    expected = sum(0.125 / 2 * float(ops.sum(k**2)) for k in kernels)
    assert len(cell.losses) == len(kernels)
    assert float(sum(cell.losses)) == pytest.approx(expected, rel=1e-5)


def test_sublayers_are_all_layers_with_weights():
    cell = Cell(ALL_OPERATIONS.reduction, 4, strides=2, previous="reduce")
    shapes = [(1, 7, 6, 3), (1, 13, 12, 3)]
    cell.build(shapes)
    weights = []
    for layer, shape in cell.sublayers(shapes):
        weights += layer.weights
        # The shape is the one that the layer was built for.
        copy = type(layer).from_config(layer.get_config())
        copy.build(shape)
        assert [w.shape for w in copy.weights] == [
            w.shape for w in layer.weights
        ]
    assert {w.path for w in weights} == {w.path for w in cell.weights}


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: Cell(NASNET_A, 4),
            "`genotype` must be a CellGenotype, such as NASNET_A.normal. "
            f"Received: genotype={NASNET_A!r}",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4.0),
            "`filters` must be a positive integer. Received: filters=4.0",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4, 3),
            "`strides` must be 1 or 2. Received: strides=3",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4, previous="skip"),
            "`previous` must be one of match, reduce, raw. "
            "Received: previous='skip'",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4, pool_padding="valid"),
            '`pool_padding` must be "zero" (keras.applications) or "same" '
            "(TF-slim). Received: pool_padding='valid'",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4, drop_path_rate=1.0),
            "`drop_path_rate` must be a number in [0, 1). "
            "Received: drop_path_rate=1.0",
        ),
        (
            lambda: Cell(PASSING_ON, 4, residual=True),
            "`residual=True` needs a cell that concatenates its outputs. "
            f"Received: genotype={PASSING_ON!r}",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4).build((None, 8, 8, 3)),
            "A cell is called on a list of 2 tensors, the current input "
            "first. Received shapes: (None, 8, 8, 3)",
        ),
        (
            lambda: Cell(NASNET_A.normal, 4).build([(None, 8, 8, 3)] * 3),
            "A cell is called on a list of 2 tensors, the current input "
            f"first. Received shapes: {[(None, 8, 8, 3)] * 3}",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
