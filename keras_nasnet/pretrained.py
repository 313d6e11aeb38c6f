"""Gets pretrained weights and loads them into a network.

A file that is wrong, cut short or missing raises; nothing ever falls back to
random weights.
"""

import collections
import contextlib
import glob
import importlib.resources
import itertools
import os
import re
import sys
import tempfile
import urllib.parse

import h5py
import keras
from absl import logging

from keras_nasnet.names import AUX_LAYER
from keras_nasnet.names import GRADCAM_LAYER
from keras_nasnet.names import POOL_PADDING
from keras_nasnet.names import PREDICTIONS_LAYER
from keras_nasnet.records import KERAS_RECORDS
from keras_nasnet.records import SHIPPED_RECORDS
from keras_nasnet.records import WeightRecord

# Base URL of a mirror of the published files, for machines without internet.
MIRROR_VARIABLE = "KERAS_NASNET_MIRROR"
# Changes when files converted earlier no longer serve: after a change to the
# converter, or to the names of layers.
CACHE_VERSION = 1
# Where Keras puts our layers in a file.
OWN_LAYERS = re.compile(r"layers/(stem|cell|classifier|auxiliary_head)(_\d+)?/")


def find(network, weights, include_top):
    """Finds what the `weights` argument of a factory means, and loads nothing.

    Args:
        network: Name of the network, such as `"nasnet_mobile"`.
        weights: `None`, a path, or a name such as `"imagenet"`.
        include_top: Whether the classifier's weights are needed.

    Returns:
        `None`, a path, or the `WeightRecord` of published weights.

    Raises:
        ValueError: If there are no such weights.
    """
    if weights is None or isinstance(weights, WeightRecord):
        return weights
    records = (*KERAS_RECORDS, *SHIPPED_RECORDS)
    own = [record for record in records if record.network == network]
    # Names come first: data sets often lie in a folder called "imagenet".
    # A file with a classifier also serves a network without one.
    usable = [
        record
        for record in own
        if record.weights == weights and (record.include_top or not include_top)
    ]
    if usable:
        return min(usable, key=lambda record: record.include_top)
    if isinstance(weights, (str, os.PathLike)) and (
        os.path.exists(weights) or os.path.exists(f"{weights}.index")
    ):
        return os.fspath(weights)
    known = sorted({f'"{record.weights}", ' for record in own})
    others = sorted({r.network for r in records if r.weights == weights})
    raise ValueError(
        f"`weights` must be {''.join(known)}None or the path of an "
        f"existing file or folder. Received: weights={weights!r}"
        + (f", which exists for {' and '.join(others)} only" if others else "")
    )


def load(model, source):
    """Loads weights into a network.

    Weights of the classifier are loaded if the network has one for as many
    classes; otherwise it keeps its random ones and a line in the log says so.

    Args:
        model: A network of this package.
        source: What `find` returned: the `WeightRecord` of weights that lie
            in the package, or of published ones, which are downloaded and
            converted when first needed; or the path of a `.weights.h5` file
            of such a network, of an official `.h5` file of
            `keras.applications`' NASNetMobile or NASNetLarge, or of a TF-slim
            checkpoint (prefix, folder or `.tar.gz`).

    Raises:
        ValueError: If the file does not fit the network or is damaged. The
            message says what was found and what was expected.
        OSError: If published weights cannot be downloaded. The message says
            which file to put where. If a file of the package is missing.
    """
    if not isinstance(source, WeightRecord):
        path = os.fspath(source)
    elif source.is_shipped:
        path = _shipped(source)
    else:
        path = _converted(source)
    if is_tf_slim(path):
        _load_tf_slim(model, path)
    elif is_official(path):
        _load_official(model, path)
    else:
        _load_ours(model, path)


def pool_padding(source):
    """Returns how the strided pools of the network behind weights pad.

    Args:
        source: What `find` returned.

    Returns:
        `"zero"`, `"same"`, or `None` if the weights do not tell.
    """
    if source is None:
        return None
    if isinstance(source, WeightRecord):
        return source.pool_padding
    if is_tf_slim(source):
        return "same"
    # An unreadable file is reported when it is loaded.
    with contextlib.suppress(OSError), h5py.File(source) as file:
        return file.attrs.get(POOL_PADDING)
    return None


def is_tf_slim(path):
    """Whether weights are a TF-slim checkpoint by the looks of their path."""
    path = os.fspath(path)
    return (
        os.path.isdir(path)
        or path.endswith((".tar.gz", ".tgz", ".tar"))
        or os.path.exists(f"{path}.index")
    )


def is_official(path):
    """Whether a file has the layout that keras.applications publishes.

    Raises:
        ValueError: If it is not an HDF5 file, or only a part of one.
    """
    try:
        with h5py.File(path) as file:
            # Keras splits long lists: "layer_names0", "layer_names1" ...
            return any(name.startswith("layer_names") for name in file.attrs)
    except OSError as error:
        raise ValueError(
            f"{path} is not a complete HDF5 file ({error}). Expected weights "
            "in a `.weights.h5` file of this package, an official Keras "
            "`.h5` file or a TF-slim checkpoint."
        ) from None


def cache_folder():
    """Returns the folder for weights, below `KERAS_HOME` or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    return os.path.join(home, "models")


def _shipped(record):
    """Returns the file of a record inside the package."""
    from keras_nasnet.weights import files

    path = importlib.resources.files("keras_nasnet.weights") / record.file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, which is a part of keras_nasnet. Install "
            "keras_nasnet again."
        )
    found = files.digest(path, "sha256")
    if found != record.hash:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {found}, expected "
            f"{record.hash}. Install keras_nasnet again."
        )
    return os.fspath(path)


def _converted(record):
    """Returns our version of an official file, made when first needed."""
    from keras_nasnet.weights import files
    from keras_nasnet.weights import precision

    folder = cache_folder()
    os.makedirs(folder, exist_ok=True)
    name = os.path.splitext(record.file)[0]
    # Made of this file, by this converter.
    name = f"{name}-{record.hash[:8]}-v{CACHE_VERSION}"
    # The hash in the file's name makes one rename publish both at once.
    pattern = os.path.join(glob.escape(folder), f"{name}-*.weights.h5")
    damaged = []
    for path in glob.glob(pattern):
        expected = path.removesuffix(".weights.h5").rpartition("-")[2]
        if files.digest(path, "sha256") == expected:
            return path
        logging.warning("%s is damaged and is made anew.", path)
        damaged.append(path)
    official = _downloaded(record, folder)
    # The cache serves later programs too, which may want all the digits.
    with precision.dtype_policy("float32"):
        model = _build(record, official)
    try:
        path = files.save_weights(
            model, os.path.join(folder, f"{name}-{{sha256}}.weights.h5")
        )
    except OSError as error:
        logging.warning(
            "%s cannot be kept (%s), so it is converted every time.",
            name,
            error,
        )
        return official
    for other in damaged:
        # Not before, and not what another process has just made anew.
        if other != path:
            with contextlib.suppress(FileNotFoundError):
                os.remove(other)
    return path


def _downloaded(record, folder):
    """Returns the official file, downloaded when first needed."""
    from keras_nasnet.weights import files

    path = os.path.join(folder, record.file)
    if os.path.exists(path):
        if files.digest(path, "md5") == record.hash:
            return path
        logging.warning(
            "%s does not have the MD5 %s and is fetched anew.",
            path,
            record.hash,
        )
    url = record.url
    if os.environ.get(MIRROR_VARIABLE):
        base = os.environ[MIRROR_VARIABLE].rstrip("/")
        url = f"{base}/{os.path.basename(urllib.parse.urlparse(url).path)}"
    # Every process downloads to a folder of its own; the rename at the end
    # cannot leave half a file.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        try:
            # Answers go to the standard output, progress does not.
            with contextlib.redirect_stdout(sys.stderr):
                file = keras.utils.get_file(
                    record.file,
                    url,
                    file_hash=record.hash,
                    cache_dir=temporary,
                    cache_subdir="",
                )
        # get_file raises plain exceptions.
        except Exception as error:
            raise OSError(
                f"Could not get {url}: {error}\n"
                f"To go on without internet, put the file (MD5 {record.hash}) "
                f"at {path}, or set {MIRROR_VARIABLE} to the URL of a folder "
                "that has it."
            ) from error
        os.replace(file, path)
    return path


def _build(record, weights):
    import keras_nasnet

    factory = {
        "nasnet_mobile": keras_nasnet.NASNetMobile,
        "nasnet_large": keras_nasnet.NASNetLarge,
    }[record.network]
    return factory(weights=weights, include_top=record.include_top)


def _load_tf_slim(model, path):
    from keras_nasnet.weights import convert_tf_slim

    checkpoint = convert_tf_slim.read(path)
    classes = ()
    if checkpoint.classes:
        # With or without class 0, the background.
        classes = (checkpoint.classes, checkpoint.classes - 1)
    part = _loadable_part(model, path, classes, checkpoint.has_aux_head)
    convert_tf_slim.copy_weights(checkpoint, part)
    if PREDICTIONS_LAYER in {layer.name for layer in part.layers}:
        if part.get_layer(PREDICTIONS_LAYER).units < checkpoint.classes:
            logging.warning(
                "%s: class 0 of the %d in %s is taken for the background and "
                "left out.",
                model.name,
                checkpoint.classes,
                os.path.basename(path),
            )


def _load_official(model, path):
    from keras_nasnet.weights import convert_keras_applications

    _, has_top = convert_keras_applications.identify(path)
    source = convert_keras_applications.read(path)
    classes = source.output_shape[-1:] if has_top else ()
    part = _loadable_part(model, path, classes)
    try:
        convert_keras_applications.copy_weights(source, part)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _load_ours(model, path):
    """Loads what `save_weights()` of a network of ours wrote.

    Keras itself would take seconds for it, and would have changed some layers
    when it finds an error in another one.
    """
    from keras_nasnet.weights import copying

    arrays = _read_ours(path)
    heads = {name.partition("/")[0] for name, _ in arrays}
    classes = [
        array.shape[-1]
        for (name, _), array in arrays.items()
        if name == PREDICTIONS_LAYER
    ]
    part = _loadable_part(model, path, classes, AUX_LAYER in heads)
    paths = collections.defaultdict(list)
    for variable in part.weights:
        paths[variable.path.rpartition("/")[0]].append(variable.path)
    absent = {PREDICTIONS_LAYER, AUX_LAYER} - {la.name for la in part.layers}
    entries = []
    for (name, i), array in arrays.items():
        if name.partition("/")[0] in absent:
            continue
        known = paths[name]
        entry = copying.Entry(
            f"{name}/{i}", known[i] if i < len(known) else None, array
        )
        entries.append(entry)
    copying.copy_weights(entries, part, path)


def _read_ours(path):
    """Reads the weights of our layers from a `.weights.h5` file.

    Returns:
        A dictionary from the path of a layer and the index of a weight in it
        to the array.
    """
    names = {}
    datasets = {}

    def visit(path, item):
        if isinstance(item, h5py.Dataset):
            datasets[path] = item
        elif path.endswith("/vars") and "name" in item.attrs:
            names[path.removesuffix("/vars")] = item.attrs["name"]

    arrays = {}
    with h5py.File(path) as file:
        file.visititems(visit)
        for path, dataset in datasets.items():
            if not OWN_LAYERS.match(path):
                continue
            layer, _, index = path.rpartition("/vars/")
            parents = itertools.accumulate(layer.split("/"), "{}/{}".format)
            layer = "/".join(names[p] for p in parents if p in names)
            arrays[layer, int(index)] = dataset[()]
    return arrays


def _loadable_part(model, path, classes, has_aux=False):
    """Returns the part of a model that a file has weights for.

    Args:
        model: A network of ours.
        path: Path of the file, for messages.
        classes: Numbers of classes that the file can serve, empty without
            classifier.
        has_aux: Whether the file has an auxiliary head.
    """
    layers = {layer.name: layer for layer in model.layers}
    heads = [n for n in (PREDICTIONS_LAYER, AUX_LAYER) if n in layers]
    loaded = []
    if heads and layers[PREDICTIONS_LAYER].units in classes:
        loaded = heads if has_aux else [PREDICTIONS_LAYER]
    random = [name for name in heads if name not in loaded]
    if random:
        logging.warning(
            "%s: no weights for %s in %s, random ones are kept (%d classes "
            "here, %s there).",
            model.name,
            " and ".join(random),
            os.path.basename(path),
            layers[PREDICTIONS_LAYER].units,
            classes[0] if classes else "none",
        )
    outputs = [layers[name].output for name in (GRADCAM_LAYER, *loaded)]
    # From the stem on: what a user put before it is none of ours.
    return keras.Model(layers["stem"].input, outputs, name=model.name)
