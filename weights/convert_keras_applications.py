"""Moves weights from `keras.applications`' NASNets into ours, by name."""

# What makes the general builder of keras.applications build a network.
OFFICIAL_ARGUMENTS = {
    "nasnet_mobile": {
        "num_blocks": 4,
        "penultimate_filters": 1056,
        "stem_block_filters": 32,
        "skip_reduction": False,
        "default_size": 224,
    },
    "nasnet_large": {
        "num_blocks": 6,
        "penultimate_filters": 4032,
        "stem_block_filters": 96,
        "skip_reduction": True,
        "default_size": 331,
    },
}
# Our name of a branch -> theirs.
NORMAL_BRANCHES = {
    "block_0_left": "normal_left1",
    "block_0_right": "normal_right1",
    "block_1_left": "normal_left2",
    "block_1_right": "normal_right2",
    "block_4_left": "normal_left5",
}
REDUCTION_BRANCHES = {
    "block_0_left": "reduction_left1",
    "block_0_right": "reduction_right1",
    "block_1_right": "reduction_right2",
    "block_2_right": "reduction_right3",
    # Not a slip: keras.applications has no "left5" here.
    "block_4_left": "reduction_left4",
}


def layer_names(num_cells):
    """Maps our layers to keras.applications' names for them.

    Args:
        num_cells: N, normal cells per stack: 4 for Mobile, 6 for Large.

    Returns:
        A dictionary from the path of a layer of ours, such as
        `"cell_0/block_0_left/bn_1"`, to a layer name.
    """
    names = {
        "stem/conv": "stem_conv1",
        "stem/bn": "stem_bn1",
        "predictions": "predictions",
    }
    for cell, block_id, is_reduction in _cells(num_cells):
        kind = "reduction" if is_reduction else "normal"
        names[f"{cell}/fit_input_0/conv"] = f"{kind}_conv_1_{block_id}"
        names[f"{cell}/fit_input_0/bn"] = f"{kind}_bn_1_{block_id}"
        previous = f"{cell}/fit_input_1"
        names[f"{previous}/conv"] = f"adjust_conv_projection_{block_id}"
        names[f"{previous}/path_1"] = f"adjust_conv_1_{block_id}"
        names[f"{previous}/path_2"] = f"adjust_conv_2_{block_id}"
        names[f"{previous}/bn"] = f"adjust_bn_{block_id}"
        branches = REDUCTION_BRANCHES if is_reduction else NORMAL_BRANCHES
        for ours, theirs in branches.items():
            for i in (1, 2):
                separable = f"{theirs}_{block_id}"
                names[f"{cell}/{ours}/separable_{i}"] = (
                    f"separable_conv_{i}_{separable}"
                )
                names[f"{cell}/{ours}/bn_{i}"] = (
                    f"separable_conv_{i}_bn_{separable}"
                )
    return names


def copy_weights(source, target):
    """Copies the weights of a keras.applications NASNet into one of ours.

    Args:
        source: A model of `keras.applications`.
        target: The same network, built by `keras_nasnet`. It may lack the
            classifier of `source`.

    Raises:
        ValueError: If a weight is left over on either side or has another
            shape there.
    """
    cells = [la for la in target.layers if la.name.startswith("cell_")]
    names = layer_names((len(cells) - 2) // 3)
    copied = set()
    for variable in target.weights:
        layer, _, weight = variable.path.rpartition("/")
        if layer not in names:
            raise ValueError(f"No name is known for {variable.path}.")
        theirs = source.get_layer(names[layer])
        matches = [v for v in theirs.weights if v.name == weight]
        if len(matches) != 1 or matches[0].shape != variable.shape:
            raise ValueError(
                f"{variable.path} has shape {tuple(variable.shape)}, but "
                f"{theirs.name} has "
                f"{[(v.name, tuple(v.shape)) for v in theirs.weights]}."
            )
        variable.assign(matches[0])
        copied.add(matches[0].path)
    left_over = {v.path for v in source.weights} - copied
    if "predictions" not in [layer.name for layer in target.layers]:
        left_over -= {"predictions/kernel", "predictions/bias"}
    if left_over:
        raise ValueError(f"Not copied: {', '.join(sorted(left_over))}.")


def _cells(num_cells):
    """Yields (our name, their block ID, whether a reduction)."""
    yield "cell_stem_0", "stem_1", True
    yield "cell_stem_1", "stem_2", True
    for i in range(3 * num_cells):
        # Their counter skips one at the first reduction only.
        yield f"cell_{i}", str(i if i < num_cells else i + 1), False
    yield "reduction_cell_0", f"reduce_{num_cells}", True
    yield "reduction_cell_1", f"reduce_{2 * num_cells}", True
