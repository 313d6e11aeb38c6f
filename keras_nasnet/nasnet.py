"""The networks: stacks of cells between a stem and a classifier.

The order of the cells decides everything: which input a cell reduces, how far
its branches are dropped, which features it offers. No layer looks at an image
size while the network is built, so one network works at every size.
"""

import math
from typing import NamedTuple

import keras

from keras_nasnet import genotypes
from keras_nasnet import pretrained
from keras_nasnet.cells import Cell
from keras_nasnet.cells import Stem
from keras_nasnet.chain import conv_regularizer
from keras_nasnet.chain import head_dtype
from keras_nasnet.checks import check_fraction
from keras_nasnet.checks import check_pool_padding
from keras_nasnet.checks import check_positive
from keras_nasnet.classifier import Classifier
from keras_nasnet.genotypes import NASNET_A
from keras_nasnet.names import AUX_LAYER
from keras_nasnet.names import GRADCAM_LAYER
from keras_nasnet.names import PREDICTIONS_LAYER
from keras_nasnet.records import WeightRecord
from keras_nasnet.regularization import AuxiliaryHead

# Smallest image height and width that a stem leaves anything of.
MIN_SIZES = {"imagenet": 32, "cifar": 8}


class CellSpec(NamedTuple):
    """Where a cell stands: its name, its kind and how wide it is."""

    name: str
    is_reduction: bool
    filters: int
    # Whether the next cell may look past this one; see `skip_reduction`.
    is_stem: bool = False


def cell_layout(num_cells, filters, stem, multiplier=2):
    """Lists the cells of a network in order.

    Args:
        num_cells: Number of normal cells in each of the three stacks.
        filters: Number of channels of a state in the first stack.
        stem: `"imagenet"` (two more reduction cells at the start) or
            `"cifar"`.
        multiplier: Factor by which every reduction widens the cells.

    Returns:
        A list of `CellSpec`.
    """
    cells = []
    if stem == "imagenet":
        for i, divisor in enumerate((multiplier**2, multiplier)):
            name = f"cell_stem_{i}"
            cells.append(CellSpec(name, True, filters // divisor, True))
    for stack in range(3):
        width = filters * multiplier**stack
        if stack:
            cells.append(CellSpec(f"reduction_cell_{stack - 1}", True, width))
        first = stack * num_cells
        for i in range(first, first + num_cells):
            cells.append(CellSpec(f"cell_{i}", False, width))
    return cells


def NASNet(
    input_shape=None,
    include_top=True,
    weights=None,
    input_tensor=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name="nasnet",
    *,
    genotype=NASNET_A,
    num_cells=4,
    penultimate_filters=1056,
    stem="imagenet",
    stem_filters=None,
    skip_reduction=False,
    filter_multiplier=2,
    pool_padding=None,
    bn_momentum=0.9997,
    bn_epsilon=1e-3,
    dropout=0.0,
    drop_path_rate=0.0,
    aux_head=False,
    weight_decay=0.0,
    recompute_cells=False,
    cell_residual=False,
    include_preprocessing=False,
    class_names=None,
    features=None,
    default_size=None,
):
    """Builds a network NASNet (N @ P) from any cells.

    Layers are named `stem`, `cell_stem_0`, `cell_stem_1`, `cell_0` ...,
    `reduction_cell_0`, `reduction_cell_1`, `final_relu`, `avg_pool`,
    `dropout` and `predictions`.

    Args:
        input_shape: Optional shape `(height, width, channels)`. Height and
            width may be `None`: the network then takes images of any size.
            Below 32 pixels the network of photographs has nothing left to
            see.
        include_top: Whether to end in a classifier.
        weights: `None` for random weights, or the path of a `.weights.h5`
            file of the same network, of an official `.h5` file of
            `keras.applications` or of a TF-slim checkpoint. A classifier for
            another number of classes keeps its random weights.
        input_tensor: Optional Keras tensor to use as the input.
        pooling: What ends a network without top: `None` for the features of
            the last cell, `"avg"` or `"max"` for their global pool.
        classes: Number of classes.
        classifier_activation: Activation of the classifier, `None` for
            logits.
        name: Name of the model.
        genotype: A `Genotype`, its dictionary, or the path of its JSON file.
        num_cells: N, the number of normal cells in each of the three stacks.
        penultimate_filters: P, the number of channels before the classifier.
        stem: `"imagenet"`, which divides the image size by 8 before the
            first stack, or `"cifar"`, which keeps it.
        stem_filters: Channels of the first convolution. `None`: 32, or three
            times the width of the first stack with the CIFAR stem.
        skip_reduction: Whether the cell behind a reduction takes its previous
            input from before the cell that the reduction read, as
            NASNet-A Large does.
        filter_multiplier: Factor by which every reduction widens the cells.
        pool_padding: What strided pools do at the border: `"zero"` as in
            `keras.applications`, `"same"` as in TF-slim. `None` follows the
            weights: `"same"` for a TF-slim checkpoint, and for a file that
            was converted from one, otherwise `"zero"`.
        bn_momentum: Momentum of the batch norm statistics.
        bn_epsilon: Added to the variance in batch norm.
        dropout: Fraction of features dropped before the classifier.
        drop_path_rate: Probability of dropping a branch of the last cell;
            earlier cells drop less, in proportion to their depth. See
            `ScheduledDropPath`.
        aux_head: Whether to add a second classifier before the second
            reduction, for training. The model then returns a dictionary with
            `"predictions"` and `"aux_predictions"`, and needs a known image
            size.
        weight_decay: L2 penalty on all kernels, `weight_decay * sum(w ** 2)
            / 2`.
        recompute_cells: Whether training keeps only what goes from cell to
            cell, and computes the rest again for the gradients: less memory
            for more time. TensorFlow only.
        cell_residual: Whether a shortcut leads around each cell: its current
            input is added to its output, through a 1x1 convolution with batch
            norm where their shapes differ. The paper reports that its authors
            tried this by hand and that it did not help; published weights
            need `False`.
        include_preprocessing: Whether the model takes pixels in [0, 255] and
            scales them itself. Otherwise it expects `preprocess_input`'s
            [-1, 1].
        class_names: Optional list with the names of the classes, kept with
            the model. By default those that named weights bring along.
        features: Optional list of levels such as `["P3", "P4", "P5"]`, the
            model then returns a dictionary of these features. Needs
            `include_top=False`. See `feature_pyramid`.
        default_size: Image size when `input_shape` is not given. `None`: 224,
            or 32 with the CIFAR stem.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument cannot be used. The message names it.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012) (CVPR 2018)

    Example:

    >>> model = keras_nasnet.NASNet(
    ...     (32, 32, 3), classes=10, stem="cifar",
    ...     num_cells=1, penultimate_filters=96,
    ... )
    >>> model.output_shape
    (None, 10)
    """
    _check_data_format()
    genotype = genotypes.get(genotype)
    weights = pretrained.find(None, weights, include_top)
    if pool_padding is None:
        pool_padding = pretrained.pool_padding(weights) or "zero"
    check_positive("num_cells", num_cells)
    check_positive("classes", classes)
    check_pool_padding(pool_padding)
    check_fraction("dropout", dropout)
    check_fraction("drop_path_rate", drop_path_rate)
    if stem_filters is not None:
        check_positive("stem_filters", stem_filters)
    if weight_decay < 0:
        raise ValueError(
            "`weight_decay` must not be negative. "
            f"Received: weight_decay={weight_decay!r}"
        )
    if skip_reduction and not genotype.normal.concat_outputs:
        raise ValueError(
            "`skip_reduction=True` needs cells that read the two cells before "
            "them. The cells of `genotype` read only the one before."
        )
    if cell_residual and not (
        genotype.normal.concat_outputs and genotype.reduction.concat_outputs
    ):
        raise ValueError(
            "`cell_residual=True` needs cells that concatenate their outputs. "
            "The cells of `genotype` pass them on one by one."
        )
    if stem not in ("imagenet", "cifar"):
        raise ValueError(
            f'`stem` must be "imagenet" or "cifar". Received: stem={stem!r}'
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            '`pooling` must be None, "avg" or "max". '
            f"Received: pooling={pooling!r}"
        )
    if include_top and features:
        raise ValueError(
            "`features` are returned by networks without top. Pass "
            f"`include_top=False` as well. Received: features={features}"
        )
    if pooling and features:
        raise ValueError(
            "`features` are returned as they are. Leave `pooling` out. "
            f"Received: pooling={pooling!r}, features={features}"
        )
    if class_names and not include_top:
        raise ValueError(
            "`class_names` belong to a classifier, so they need "
            "`include_top=True`."
        )
    if aux_head and not include_top:
        raise ValueError(
            "`aux_head=True` is a second classifier, so it needs "
            "`include_top=True`."
        )
    filters = _first_stack_filters(
        penultimate_filters, genotype, stem, filter_multiplier
    )
    if stem_filters is None:
        stem_filters = 3 * filters if stem == "cifar" else 32
    if default_size is None:
        default_size = 32 if stem == "cifar" else 224
    image = _image_input(
        input_shape, input_tensor, default_size, MIN_SIZES[stem]
    )
    if isinstance(weights, WeightRecord) and image.shape[-1] != 3:
        raise ValueError(
            f"`weights={weights.weights!r}` needs images with 3 channels. "
            f"Received: `input_shape` (or `input_tensor`) {image.shape[1:]}"
        )
    if (
        isinstance(weights, WeightRecord)
        and weights.classes == classes
        and class_names is None
    ):
        class_names = weights.class_names
    settings = {
        "bn_momentum": bn_momentum,
        "bn_epsilon": bn_epsilon,
        "weight_decay": weight_decay,
    }

    x = image
    if include_preprocessing:
        x = keras.layers.Rescaling(
            1 / 127.5, offset=-1.0, name="preprocessing"
        )(x)
    strides = 2 if stem == "imagenet" else 1
    x = Stem(stem_filters, strides, name="stem", **settings)(x)

    cells = cell_layout(num_cells, filters, stem, filter_multiplier)
    aux_cell = f"cell_{2 * num_cells - 1}"
    aux = None
    previous = None
    fit = "raw"
    for i, spec in enumerate(cells):
        kind = genotype.reduction if spec.is_reduction else genotype.normal
        cell = Cell(
            kind,
            spec.filters,
            strides=2 if spec.is_reduction else 1,
            previous=fit,
            pool_padding=pool_padding,
            drop_path_rate=drop_path_rate * (i + 1) / len(cells),
            recompute=recompute_cells,
            residual=cell_residual,
            name=spec.name,
            **settings,
        )
        output = cell(_cell_inputs(kind, x, previous))
        skipped = skip_reduction and spec.is_reduction and not spec.is_stem
        if not skipped:
            previous = x
        x = output
        # Behind a reduction the previous input is still twice as large. The
        # states that one cell passes on one by one are all of one size.
        is_larger = spec.is_reduction and kind.concat_outputs
        fit = "reduce" if is_larger else "match"
        if aux_head and spec.name == aux_cell:
            aux = AuxiliaryHead(
                classes, classifier_activation, name=AUX_LAYER, **settings
            )(_joined(x, AUX_LAYER))

    x = _joined(x, GRADCAM_LAYER)
    x = keras.layers.ReLU(name=GRADCAM_LAYER)(x)
    dtype = head_dtype(keras.config.dtype_policy())
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", name="avg_pool", dtype=dtype
        )(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name="dropout", dtype=dtype)(x)
        x = Classifier(
            classes,
            class_names,
            activation=classifier_activation,
            kernel_regularizer=conv_regularizer(weight_decay),
            name=PREDICTIONS_LAYER,
            dtype=dtype,
        )(x)
    elif pooling:
        layer = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }[pooling]
        x = layer(
            data_format="channels_last", name=f"{pooling}_pool", dtype=dtype
        )(x)

    inputs = image
    if input_tensor is not None:
        inputs = keras.utils.get_source_inputs(input_tensor)
        # A list of one would make Keras warn at every call with a tensor.
        if len(inputs) == 1:
            (inputs,) = inputs
    outputs = x
    if aux_head:
        outputs = {PREDICTIONS_LAYER: x, AUX_LAYER: aux}
    model = keras.Model(inputs, outputs, name=name)
    if weights is not None:
        pretrained.load(model, weights)
    if features:
        pyramid = feature_pyramid(model)
        unknown = sorted(set(features) - set(pyramid))
        if unknown:
            raise ValueError(
                f"`features` names unknown levels: {', '.join(unknown)}. "
                f"This network has {', '.join(pyramid)}."
            )
        model = keras.Model(
            inputs, {level: pyramid[level] for level in features}, name=name
        )
    return model


def _factory(function, network, title, weights, classes, parameters, preset):
    """Returns a function that builds one network of the paper.

    All have the arguments of `keras.applications`, in its order.
    """
    default_weights, default_classes = weights, classes

    def factory(
        input_shape=None,
        include_top=True,
        weights=default_weights,
        input_tensor=None,
        pooling=None,
        classes=default_classes,
        classifier_activation="softmax",
        name=network,
        **kwargs,
    ):
        return NASNet(
            input_shape,
            include_top,
            pretrained.find(network, weights, include_top),
            input_tensor,
            pooling,
            classes,
            classifier_activation,
            name,
            **{**preset, **kwargs},
        )

    factory.settings = preset
    factory.__name__ = factory.__qualname__ = function
    named = f'`"{weights}"`, ' if weights else ""
    factory.__doc__ = _FACTORY_DOC.format(
        title=title,
        size=preset["default_size"],
        min_size=MIN_SIZES[preset["stem"]],
        named_weights=named,
        function=function,
        parameters=parameters,
    )
    return factory


_FACTORY_DOC = """Builds {title}.

    Images are expected as `keras_nasnet.preprocess_input` returns them, with
    values in [-1, 1].

    Args:
        input_shape: Optional shape `(height, width, channels)`, by default
            `({size}, {size}, 3)`. Any size of at least {min_size} pixels
            works, with and without top; `None` for height or width takes
            images of any size.
        include_top: Whether to end in a classifier.
        weights: {named_weights}`None` for random weights, or the path of a
            weight file as in `keras_nasnet.NASNet`.
        input_tensor: Optional Keras tensor to use as the input.
        pooling: What ends a network without top: `None` for the features of
            the last cell, `"avg"` or `"max"` for their global pool.
        classes: Number of classes. With pretrained weights for another
            number, the classifier starts with random weights.
        classifier_activation: Activation of the classifier, `None` for
            logits.
        name: Name of the model.
        **kwargs: Any other argument of `keras_nasnet.NASNet`.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument cannot be used. The message names it.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012) (CVPR 2018)

    Example:

    >>> model = keras_nasnet.{function}(weights=None)
    >>> model.count_params()
    {parameters}
    """

NASNetMobile = _factory(
    "NASNetMobile",
    "nasnet_mobile",
    "NASNet-A (4 @ 1056), the network for phones",
    weights="imagenet",
    classes=1000,
    parameters=5326716,
    preset={
        "num_cells": 4,
        "penultimate_filters": 1056,
        "stem": "imagenet",
        "stem_filters": 32,
        "default_size": 224,
    },
)
NASNetLarge = _factory(
    "NASNetLarge",
    "nasnet_large",
    "NASNet-A (6 @ 4032), the most accurate network",
    weights="imagenet",
    classes=1000,
    parameters=88949818,
    preset={
        "num_cells": 6,
        "penultimate_filters": 4032,
        "stem": "imagenet",
        "stem_filters": 96,
        "skip_reduction": True,
        "default_size": 331,
    },
)
NASNetCIFAR = _factory(
    "NASNetCIFAR",
    "nasnet_cifar",
    "NASNet-A (6 @ 768), the network for CIFAR-10, as in TF-slim",
    weights=None,
    classes=10,
    parameters=3383786,
    preset={
        "num_cells": 6,
        "penultimate_filters": 768,
        "stem": "cifar",
        "pool_padding": "same",
        "bn_momentum": 0.9,
        "bn_epsilon": 1e-5,
        "default_size": 32,
    },
)
NASNetTiny = _factory(
    "NASNetTiny",
    "nasnet_tiny",
    "NASNet-A (2 @ 384), a network that two CPU cores can train on CIFAR-10",
    weights="cifar10",
    classes=10,
    parameters=371066,
    preset={
        "num_cells": 2,
        "penultimate_filters": 384,
        "stem": "cifar",
        "pool_padding": "same",
        "bn_momentum": 0.99,
        "default_size": 32,
    },
)


def feature_pyramid(model):
    """Returns the features of a network at each of its scales.

    Level `"P2"` is 2^2 = 4 times smaller than the image, and so on; each is
    the output of the last cell at that scale, before any activation. Networks
    for photographs have P2 to P5, networks with the CIFAR stem P0 to P2.

    Args:
        model: A model built by this package, also a fine-tuned or loaded one.

    Returns:
        A dictionary of Keras tensors, largest scale first.

    Raises:
        ValueError: If `model` has no cells.

    Example:

    >>> model = keras_nasnet.NASNetMobile(weights=None)
    >>> pyramid = keras_nasnet.feature_pyramid(model)
    >>> {level: tensor.shape[1:] for level, tensor in pyramid.items()}
    {'P2': (56, 56, 44), 'P3': (28, 28, 264), 'P4': (14, 14, 528), 'P5': (7, 7, 1056)}
    >>> backbone = keras.Model(model.input, pyramid)
    """  # noqa: E501
    pyramid = {}
    strides = 1
    for layer in model.layers:
        if isinstance(layer, (Stem, Cell)):
            strides *= layer.strides
        if isinstance(layer, Cell):
            level = f"P{round(math.log2(strides))}"
            pyramid[level] = _joined(layer.output, layer.name)
    if not pyramid:
        raise ValueError(
            "`model` has no cells: it was not built by keras_nasnet, or its "
            "network is nested in another model. Received a model with the "
            f"layers {[layer.name for layer in model.layers]}"
        )
    return pyramid


def _cell_inputs(cell, x, previous):
    if not cell.concat_outputs:
        # The paper leaves open what the first such cell reads.
        return x if isinstance(x, list) else [x] * cell.num_inputs
    return [x, x if previous is None else previous]


def _joined(x, name):
    """Concatenates the states of a cell that passes them on one by one."""
    if isinstance(x, list):
        return keras.layers.Concatenate(name=f"{name}_inputs")(x)
    return x


def _check_data_format():
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "keras_nasnet needs images with the channels last, `(batch, "
            "height, width, channels)`, but Keras is set to "
            f'"{keras.config.image_data_format()}". Call '
            '`keras.config.set_image_data_format("channels_last")`.'
        )


def _first_stack_filters(penultimate, genotype, stem, multiplier):
    """Divides the penultimate filters down to those of the first stack."""
    check_positive("penultimate_filters", penultimate)
    check_positive("filter_multiplier", multiplier)
    outputs = len(genotype.normal.outputs)
    divisor = outputs * multiplier**2
    if stem == "imagenet":
        divisor *= multiplier**2
    if penultimate % divisor:
        below = penultimate // divisor * divisor
        near = [n for n in (below, below + divisor) if n]
        raise ValueError(
            f"`penultimate_filters` must be a multiple of {divisor}: the last "
            f"cell concatenates {outputs} states, and the filters are divided "
            f"by {multiplier} at every reduction towards the image. "
            f"Received: penultimate_filters={penultimate}. Nearest: "
            f"{' or '.join(map(str, near))}."
        )
    return penultimate // (outputs * multiplier**2)


def _image_input(input_shape, input_tensor, default_size, min_size):
    """Returns the input of the network after checking its shape."""
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor):
            raise ValueError(
                "`input_tensor` must be a Keras tensor, such as the output "
                f"of `keras.Input()`. Received: {input_tensor!r}"
            )
        _check_input_shape(input_tensor.shape[1:], min_size, "input_tensor")
        return input_tensor
    if input_shape is None:
        input_shape = (default_size, default_size, 3)
    _check_input_shape(input_shape, min_size, "input_shape")
    return keras.Input(tuple(input_shape), name="image")


def _check_input_shape(shape, min_size, argument):
    if not isinstance(shape, (list, tuple)) or len(shape) != 3:
        raise ValueError(
            f"`{argument}` must be (height, width, channels). "
            f"Received: {argument}={shape}"
        )
    *size, channels = shape
    if shape[0] in (1, 3) and None not in shape and channels > 4:
        raise ValueError(
            f"`{argument}` must be (height, width, channels), the channels "
            f"last. Received: {argument}={tuple(shape)}"
        )
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(
            f"`{argument}` must end in the number of channels, 3 for RGB "
            f"images. Received: {argument}={tuple(shape)}"
        )
    if any(n is not None and n < min_size for n in size):
        raise ValueError(
            f"`{argument}` must be at least {min_size} pixels high and wide. "
            f"Received: {argument}={tuple(shape)}"
        )
