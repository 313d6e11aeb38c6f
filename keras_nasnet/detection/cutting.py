"""Cuts a network in two before its last reduction."""

import keras

from keras_nasnet.cells import Cell
from keras_nasnet.cells import Stem


def cut(network):
    """Cuts a copy of a network in two before its last reduction.

    What follows the last cell, and an auxiliary head, is left out.

    Args:
        network: A network of this package.

    Returns:
        The copy up to its last cell, which takes images of any size; a model
        from images to the two inputs of the last reduction; one from these
        two to the activated output of the last cell; and how many pixels of
        the image there are per cell of what is between them, an integer.

    Raises:
        ValueError: If the network has no such place.
    """
    cells = [layer for layer in network.layers if isinstance(layer, Cell)]
    reductions = [cell.name for cell in cells if cell.strides == 2]
    if not reductions or not all(_reads_two_cells(cell) for cell in cells):
        raise ValueError(
            "`backbone` must be a network of keras_nasnet, with reductions and "
            "with cells that read the two cells before them. Received a model "
            f"with the layers {[layer.name for layer in network.layers]}"
        )
    image = keras.Input((None, None, network.input.shape[-1]), name="image")
    needed = keras.Model(network.input, cells[-1].output, name=network.name)
    copy = keras.models.clone_model(needed, input_tensors=image)
    copy.set_weights(needed.get_weights())

    between = copy.get_layer(reductions[-1]).input
    strides = 1
    for layer in copy.layers:
        if layer.name == reductions[-1]:
            break
        if isinstance(layer, (Stem, Cell)):
            strides *= layer.strides
    activated = keras.layers.ReLU(name="region_relu")(copy.output)
    return (
        copy,
        keras.Model(copy.input, between, name="trunk"),
        keras.Model(between, activated, name="region_network"),
        strides,
    )


def _reads_two_cells(cell):
    # Others read the states of one cell, one by one.
    return cell.genotype.num_inputs == 2 and cell.genotype.concat_outputs
