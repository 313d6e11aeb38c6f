"""Pictures of cells and networks, after figures 2 and 4 of the paper."""

from keras_nasnet import genotypes
from keras_nasnet.canvas import TITLE_HEIGHT
from keras_nasnet.canvas import Canvas
from keras_nasnet.canvas import picture_path
from keras_nasnet.cell_drawing import CellDrawing
from keras_nasnet.genotypes import CellGenotype
from keras_nasnet.network_drawing import NetworkDrawing

CELL_GAP = 0.4


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
        ValueError: If `genotype` is none of these, or `to_file` has an unknown
            ending or no existing folder.
        ImportError: If matplotlib is not installed.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), figure 4

    Example:

    >>> keras_nasnet.plot_cell(keras_nasnet.NASNET_A, "cells.svg")
    'cells.svg'
    """
    path = picture_path(to_file)
    title = None
    if isinstance(genotype, CellGenotype):
        cells = [CellDrawing(genotype)]
    else:
        genotype = genotypes.get(genotype)
        title = genotype.name
        cells = [
            CellDrawing(genotype.normal, "normal cell"),
            CellDrawing(genotype.reduction, "reduction cell"),
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
        ValueError: If `model` has no cells, or `to_file` has an unknown
            ending or no existing folder.
        ImportError: If matplotlib is not installed.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), figure 2

    Example:

    >>> model = keras_nasnet.NASNetMobile(weights=None)
    >>> keras_nasnet.plot_network(model, "mobile.png")
    'mobile.png'
    """
    path = picture_path(to_file)
    network = NetworkDrawing(model)
    canvas = Canvas(network.width, network.height)
    network.draw(canvas)
    return canvas.save(path)
