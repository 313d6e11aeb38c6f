"""Moves weights from TF-slim's NASNet checkpoints into ours, by name.

Run:

    python -m weights.convert_tf_slim --checkpoint=FOLDER_OR_TAR \
        --network=mobile --out=nasnet_mobile.weights.h5

The network then runs with `pool_padding="same"`, as TF-slim does.
"""

import contextlib
import dataclasses
import os
import re
import tarfile
import tempfile

import numpy as np
from absl import app
from absl import flags

FLAGS = flags.FLAGS

EMA = "/ExponentialMovingAverage"
# What a training leaves in a checkpoint besides weights.
IGNORED = re.compile(r"global_step$|.*/(RMSProp|RMSProp_1|Momentum)$")

# TF-slim's name of a layer -> ours. Kernel sizes are left to the shape check.
_CELL = r"(\w*cell_\w+)"
_BRANCH = rf"{_CELL}/comb_iter_(\d)/(left|right)"
_OUTPUT = rf"{_CELL}/cell_output/reduction_(\d)"
_AUX = r"aux_\d+/aux_logits"
_DENSE = "(?:FC|fully_connected)"
LAYERS = {
    "conv0|l1_stem_3x3": "stem/conv",
    "conv0_bn|l1_stem_bn": "stem/bn",
    f"{_CELL}/1x1": r"\1/fit_input_0/conv",
    f"{_CELL}/beginning_bn": r"\1/fit_input_0/bn",
    f"{_CELL}/prev_1x1": r"\1/fit_input_1/conv",
    rf"{_CELL}/path(\d)_conv": r"\1/fit_input_1/path_\2",
    f"{_CELL}/(?:prev_bn|final_path_bn)": r"\1/fit_input_1/bn",
    rf"{_BRANCH}/separable_\dx\d_(\d)": r"\1/block_\2_\3/separable_\4",
    rf"{_BRANCH}/bn_sep_\dx\d_(\d)": r"\1/block_\2_\3/bn_\4",
    f"{_BRANCH}/1x1": r"\1/block_\2_\3/conv",
    f"{_BRANCH}/bn_1": r"\1/block_\2_\3/bn",
    f"{_OUTPUT}/path_conv": r"\1/fit_output_\2/conv",
    f"{_OUTPUT}/path_bn": r"\1/fit_output_\2/bn",
    f"{_AUX}/proj": "aux_predictions/projection",
    rf"{_AUX}/aux_bn(\d)": r"aux_predictions/bn_\1",
    f"{_AUX}/Conv": "aux_predictions/conv",
    f"{_AUX}/{_DENSE}": "aux_predictions/predictions",
    f"final_layer/{_DENSE}": "predictions",
}
WEIGHTS = {
    "weights": "kernel",
    "biases": "bias",
    "depthwise_weights": "depthwise_kernel",
    "pointwise_weights": "pointwise_kernel",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "moving_variance": "moving_variance",
}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        copied: Number of variables that were copied.
        left_out: Names of heads in the checkpoint that the model lacks.
        ema_difference: Largest absolute difference between a variable and
            its moving average, or `None` if the checkpoint has no averages.
    """

    copied: int
    left_out: tuple
    ema_difference: float | None


def our_path(name):
    """Translates the name of a variable of TF-slim to the path of ours.

    Args:
        name: Such as `"cell_0/1x1/weights"`.

    Returns:
        Such as `"cell_0/fit_input_0/conv/kernel"`, or `None` if unknown.

    Example:

    >>> our_path("cell_0/comb_iter_0/left/bn_sep_5x5_1/gamma")
    'cell_0/block_0_left/bn_1/gamma'
    """
    layer, _, weight = name.rpartition("/")
    for pattern, replacement in LAYERS.items():
        match = re.fullmatch(pattern, layer)
        if match and weight in WEIGHTS:
            return f"{match.expand(replacement)}/{WEIGHTS[weight]}"
    return None


def convert(checkpoint, model, ema=False):
    """Copies a checkpoint of TF-slim into a model.

    Args:
        checkpoint: Prefix of the checkpoint (`model.ckpt`), the folder that
            holds it, or the published `.tar.gz`.
        model: A NASNet of ours with the same cells; with a classifier for as
            many classes as the checkpoint, or one less: then the background,
            class 0, is left out.
        ema: Whether to take the moving averages of the variables where the
            checkpoint has them.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: If a variable is left over on either side or has another
            shape there. Nothing has been copied then.
    """
    values = _read(checkpoint)
    averages = {n[: -len(EMA)] for n in values if n.endswith(EMA)}
    plain = {
        name: name
        for name in values
        if not name.endswith(EMA) and not IGNORED.match(name)
    }
    # Some checkpoints hold nothing but averages.
    plain.update({n: n + EMA for n in averages if n not in values})
    difference = max(
        (
            float(np.max(np.abs(values[n] - values[n + EMA])))
            for n in averages
            if n in values
        ),
        default=None,
    )
    chosen = {
        name: values[name + EMA if ema and name in averages else source]
        for name, source in plain.items()
    }
    by_path = {our_path(name) or f"?{name}": v for name, v in chosen.items()}
    targets = {variable.path: variable for variable in model.weights}
    heads = ("predictions", "aux_predictions")
    absent = {h for h in heads if not any(_head(p) == h for p in targets)}
    left_out = sorted(p for p in by_path if _head(p) in absent)
    for path in left_out:
        del by_path[path]
    _check(checkpoint, by_path, targets)
    for path, value in by_path.items():
        targets[path].assign(_without_background(value, targets[path].shape))
    return Conversion(len(by_path), tuple(left_out), difference)


def _head(path):
    return path.split("/")[0]


def _read(checkpoint):
    import tensorflow as tf

    with _unpacked(checkpoint) as prefix:
        try:
            reader = tf.train.load_checkpoint(prefix)
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(
                f"{checkpoint} is not a TensorFlow checkpoint: {error}"
            ) from None
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
        }


@contextlib.contextmanager
def _unpacked(checkpoint):
    """Yields the prefix of a checkpoint in a tar file, folder or prefix."""
    checkpoint = os.fspath(checkpoint)
    if os.path.isfile(checkpoint):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with tarfile.open(checkpoint) as tar:
                    tar.extractall(folder, filter="data")
            except (tarfile.TarError, EOFError, OSError) as error:
                raise ValueError(
                    f"{checkpoint} is not a complete tar file: {error}"
                ) from None
            yield _prefix(folder, checkpoint)
    elif os.path.isdir(checkpoint):
        yield _prefix(checkpoint, checkpoint)
    else:
        yield checkpoint


def _prefix(folder, checkpoint):
    found = [
        os.path.join(root, file.removesuffix(".index"))
        for root, _, files in os.walk(folder)
        for file in files
        if file.endswith(".index")
    ]
    if len(found) != 1:
        raise ValueError(
            f"{checkpoint} must hold one checkpoint, that is one `.index` "
            f"file. Found {len(found)}: {sorted(found)}"
        )
    return found[0]


def _without_background(value, shape):
    if value.shape != shape and value.shape[-1] == shape[-1] + 1:
        return value[..., 1:]
    return value


def _check(checkpoint, by_path, targets):
    problems = [
        f"unknown variable {path[1:]}" for path in by_path if path[0] == "?"
    ]
    problems += [
        f"{path} is not in the model"
        for path in by_path
        if path[0] != "?" and path not in targets
    ]
    problems += [
        f"{path} is not in the checkpoint"
        for path in targets
        if path not in by_path
    ]
    for path in by_path.keys() & targets.keys():
        found, expected = by_path[path], targets[path].shape
        if _head(path).endswith("predictions"):
            found = _without_background(found, expected)
        if found.shape != tuple(expected):
            problems.append(
                f"{path} has shape {found.shape}, expected {tuple(expected)}"
            )
    if problems:
        shown = "; ".join(sorted(problems)[:10])
        more = len(problems) - 10
        raise ValueError(
            f"{checkpoint} does not fit the model: {shown}"
            + (f"; and {more} more." if more > 0 else ".")
        )


def define_flags():
    flags.DEFINE_string("checkpoint", None, "Prefix, folder or .tar.gz.")
    flags.DEFINE_enum(
        "network", "mobile", ["mobile", "large", "cifar"], "What it holds."
    )
    flags.DEFINE_string("out", None, "The .weights.h5 file to write.")
    flags.DEFINE_bool("ema", False, "Take the moving averages.")
    flags.DEFINE_bool("aux_head", False, "Convert the auxiliary head too.")
    flags.mark_flags_as_required(["checkpoint", "out"])


def main(_):
    import keras_nasnet

    factory = {
        "mobile": keras_nasnet.NASNetMobile,
        "large": keras_nasnet.NASNetLarge,
        "cifar": keras_nasnet.NASNetCIFAR,
    }[FLAGS.network]
    model = factory(weights=None, aux_head=FLAGS.aux_head)
    done = convert(FLAGS.checkpoint, model, FLAGS.ema)
    folder = os.path.dirname(os.path.abspath(FLAGS.out))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = os.path.join(temporary, "converted.weights.h5")
        model.save_weights(made)
        os.replace(made, FLAGS.out)
    print(f"Wrote {FLAGS.out}: {done.copied} variables.")
    if done.ema_difference is not None:
        print(
            "Largest difference between a variable and its moving average: "
            f"{done.ema_difference:.3g}"
        )
    if done.left_out:
        print(f"Left out: {', '.join(done.left_out)}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
