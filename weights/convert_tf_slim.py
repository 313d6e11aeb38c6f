"""Moves weights from TF-slim's NASNet checkpoints into ours, by name.

Run:

    python -m weights.convert_tf_slim --checkpoint=FOLDER_OR_TAR \
        --network=mobile --out=nasnet_mobile.weights.h5

A network that is built for the file runs with `pool_padding="same"`, as TF-slim
does.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import tarfile
import tempfile

import numpy as np
from absl import app
from absl import flags

from . import copying
from . import files

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
HEADS = ("predictions", "aux_predictions")
CLASSIFIER = "(aux_predictions/)?predictions/(kernel|bias)"
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
class Checkpoint:
    """What was read from a checkpoint.

    Args:
        source: Where from.
        values: Dictionary from the name of a variable to its value, without
            what only training needs.
        ema_difference: Largest absolute difference between a variable and
            its moving average, or `None` if the checkpoint has no averages
            beside the variables.
    """

    source: str
    values: dict
    ema_difference: float | None

    @property
    def classes(self):
        """Number of classes of the classifier, `None` without one."""
        for name, value in self.values.items():
            if _head(name) == "predictions":
                return value.shape[-1]
        return None

    @property
    def has_aux_head(self):
        return any(_head(name) == "aux_predictions" for name in self.values)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        copied: Number of variables that were copied.
        left_out: Names of variables of a head that the model lacks.
        ema_difference: As in `Checkpoint`.
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
        model: As in `copy_weights`.
        ema: As in `read`.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: If the checkpoint is damaged or does not fit the model.
            Nothing has been copied then.
    """
    return copy_weights(read(checkpoint, ema), model)


def read(checkpoint, ema=False):
    """Reads the variables of a checkpoint.

    Args:
        checkpoint: Prefix of the checkpoint (`model.ckpt`), the folder that
            holds it, or the published `.tar.gz`.
        ema: Whether to take the moving averages of the variables where the
            checkpoint has them. One without the variables themselves is
            taken anyway.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: If there is no checkpoint, more than one, or a part of it
            is missing.
    """
    import tensorflow as tf

    values = {}
    differences = []
    with _unpacked(checkpoint) as prefix:
        try:
            reader = tf.train.load_checkpoint(prefix)
            names = reader.get_variable_to_shape_map()
            for name in sorted({name.removesuffix(EMA) for name in names}):
                if IGNORED.fullmatch(name):
                    continue
                found = [
                    reader.get_tensor(n)
                    for n in (name, name + EMA)
                    if n in names
                ]
                values[name] = found[-1 if ema else 0]
                if len(found) == 2:
                    differences.append(np.max(np.abs(found[0] - found[1])))
        # A data file that ends too early is an IndexError.
        except (tf.errors.OpError, ValueError, IndexError) as error:
            raise ValueError(
                f"{checkpoint} is not a complete TensorFlow checkpoint: {error}"
            ) from None
    difference = float(np.max(differences)) if differences else None
    return Checkpoint(os.fspath(checkpoint), values, difference)


def copy_weights(checkpoint, model):
    """Copies what was read from a checkpoint into a model.

    Args:
        checkpoint: A `Checkpoint`.
        model: A NASNet of ours with the same cells; with a classifier for as
            many classes as the checkpoint, or one less: then the background,
            class 0, is left out. A head that it lacks is left out.

    Returns:
        A `Conversion`.

    Raises:
        ValueError: If a variable is left over on either side or has another
            shape there. Nothing has been copied then.
    """
    targets = {variable.path: variable for variable in model.weights}
    heads = {path.partition("/")[0] for path in targets}
    entries = []
    left_out = []
    for name, value in checkpoint.values.items():
        if _head(name) not in (None, *heads):
            left_out.append(name)
            continue
        path = our_path(name)
        if path in targets and re.fullmatch(CLASSIFIER, path):
            value = _without_background(value, targets[path].shape)
        entries.append(copying.Entry(name, path, value))
    copied = copying.copy_weights(entries, model, checkpoint.source)
    return Conversion(copied, tuple(left_out), checkpoint.ema_difference)


def _head(name):
    """Returns the name of our classifier that a variable belongs to."""
    head = (our_path(name) or "").partition("/")[0]
    return head if head in HEADS else None


def _without_background(value, shape):
    if value.shape[-1] == shape[-1] + 1:
        return value[..., 1:]
    return value


@contextlib.contextmanager
def _unpacked(checkpoint):
    """Yields the prefix of a checkpoint in a tar file, folder or prefix."""
    checkpoint = os.fspath(checkpoint)
    if os.path.isfile(checkpoint):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with tarfile.open(checkpoint) as tar:
                    _extract(tar, folder)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise ValueError(
                    f"{checkpoint} is not a complete tar file: {error}"
                ) from None
            yield _prefix(folder, checkpoint)
    elif os.path.isdir(checkpoint):
        yield _prefix(checkpoint, checkpoint)
    else:
        yield checkpoint


def _extract(tar, folder):
    """Writes the files of a tar file, wherever it wants them to be.

    `extractall()` is safe only with a filter, which Python 3.11 has from its
    fourth patch on.
    """
    folders = {}
    for member in tar:
        if not member.isfile():
            continue
        place, name = os.path.split(member.name)
        place = folders.setdefault(
            place, os.path.join(folder, str(len(folders)))
        )
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, name), "wb") as file:
            shutil.copyfileobj(tar.extractfile(member), file)


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


def define_flags():
    flags.DEFINE_string(
        "checkpoint", None, "Prefix, folder or .tar.gz.", required=True
    )
    flags.DEFINE_enum(
        "network", "mobile", ["mobile", "large", "cifar"], "What it holds."
    )
    files.define_out_flag()
    flags.DEFINE_bool("ema", False, "Take the moving averages.")
    flags.DEFINE_bool("aux_head", False, "Convert the auxiliary head too.")


def main(_):
    import keras_nasnet

    factory = {
        "mobile": keras_nasnet.NASNetMobile,
        "large": keras_nasnet.NASNetLarge,
        "cifar": keras_nasnet.NASNetCIFAR,
    }[FLAGS.network]
    model = factory(weights=None, aux_head=FLAGS.aux_head, pool_padding="same")
    done = convert(FLAGS.checkpoint, model, FLAGS.ema)
    path = files.save_weights(model, FLAGS.out)
    print(f"Wrote {path}: {done.copied} variables.")
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
