"""Moves weights from `keras.applications`' NASNets into ours, by name.

Run:

    python -m weights.convert_keras_applications --file=NASNet-mobile.h5 \
        --out=nasnet_mobile.weights.h5

`NASNetMobile(weights=FILE)` does the same each time it is called.
"""

import inspect

import h5py
import keras
from absl import app
from absl import flags

from . import copying
from . import files

FLAGS = flags.FLAGS

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
# Number of layers that have weights -> network, whether with classifier.
NETWORKS = {
    389: ("nasnet_mobile", True),
    388: ("nasnet_mobile", False),
    533: ("nasnet_large", True),
    532: ("nasnet_large", False),
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


def identify(path):
    """Finds out what an official file holds.

    Args:
        path: Path of a `.h5` file as `keras.applications` publishes.

    Returns:
        `"nasnet_mobile"` or `"nasnet_large"`, and whether the file has the
        classifier.

    Raises:
        ValueError: If the file holds something else.
    """
    try:
        with h5py.File(path) as file:
            count = sum(
                len(group.attrs.get("weight_names", ())) > 0
                for group in file.values()
            )
    except OSError as error:
        raise ValueError(
            f"{path} is not a complete HDF5 file: {error}"
        ) from None
    if count not in NETWORKS:
        raise ValueError(
            f"{path} has {count} layers with weights. Expected 389 "
            "(NASNetMobile) or 533 (NASNetLarge), one less without top."
        )
    return NETWORKS[count]


def read(path):
    """Reads an official file into the network that it was saved from.

    The file is in the order of that network's layers, which only
    `keras.applications` knows, so that is what reads it.

    Args:
        path: Path of a `.h5` file as `keras.applications` publishes.

    Returns:
        A model of `keras.applications`.

    Raises:
        ValueError: If the file holds something else or is damaged.
    """
    network, include_top = identify(path)
    arguments = OFFICIAL_ARGUMENTS[network]
    size = arguments["default_size"]
    # The general builder behind the two factories: on torch, one of them
    # refuses to build what the backend runs.
    module = inspect.getmodule(keras.applications.NASNetLarge)
    model = module.NASNet(
        input_shape=(size, size, 3),
        weights=None,
        include_top=include_top,
        name=network,
        **arguments,
    )
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a complete file of {network}: {error}"
        ) from error
    return model


def copy_weights(source, target):
    """Copies the weights of a keras.applications NASNet into one of ours.

    Args:
        source: A model of `keras.applications`.
        target: The same network, built by `keras_nasnet`. It may lack the
            classifier of `source`.

    Raises:
        ValueError: If a weight is left over on either side or has another
            shape there. Nothing has been copied then.
    """
    cells = [la for la in target.layers if la.name.startswith("cell_")]
    ours = {v: k for k, v in layer_names((len(cells) - 2) // 3).items()}
    has_top = "predictions" in [layer.name for layer in target.layers]
    entries = []
    for layer in source.layers:
        if layer.name == "predictions" and not has_top:
            continue
        for variable in layer.weights:
            name = f"{layer.name}/{variable.name}"
            path = None
            if layer.name in ours:
                path = f"{ours[layer.name]}/{variable.name}"
            entries.append(copying.Entry(name, path, variable))
    copying.copy_weights(entries, target, f"keras.applications' {source.name}")


def _cells(num_cells):
    """Yields (our name, their block ID, whether a reduction)."""
    yield "cell_stem_0", "stem_1", True
    yield "cell_stem_1", "stem_2", True
    for i in range(3 * num_cells):
        # Their counter skips one at the first reduction only.
        yield f"cell_{i}", str(i if i < num_cells else i + 1), False
    yield "reduction_cell_0", f"reduce_{num_cells}", True
    yield "reduction_cell_1", f"reduce_{2 * num_cells}", True


def define_flags():
    flags.DEFINE_string("file", None, "Official .h5 file.", required=True)
    files.define_out_flag()


def main(_):
    import keras_nasnet

    network, include_top = identify(FLAGS.file)
    factory = {
        "nasnet_mobile": keras_nasnet.NASNetMobile,
        "nasnet_large": keras_nasnet.NASNetLarge,
    }[network]
    model = factory(weights=FLAGS.file, include_top=include_top)
    path = files.save_weights(model, FLAGS.out)
    top = "with" if include_top else "without"
    print(f"Wrote {path}: {network} {top} classifier.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
