"""Gets pretrained weights and loads them into a network.

A file that is wrong, cut short or missing raises; nothing ever falls back to
random weights.
"""

import glob
import hashlib
import inspect
import os
import tempfile
import urllib.parse

import h5py
import keras
from absl import logging

from keras_nasnet.cells import Cell
from keras_nasnet.cells import Stem
from keras_nasnet.names import AUX_LAYER
from keras_nasnet.names import GRADCAM_LAYER
from keras_nasnet.names import PREDICTIONS_LAYER
from keras_nasnet.records import KERAS_RECORDS

# Base URL of a mirror of the published files, for machines without internet.
MIRROR_VARIABLE = "KERAS_NASNET_MIRROR"
# Layers of keras.applications' networks that have weights -> what they are.
OFFICIAL_SIZES = {
    389: ("nasnet_mobile", True),
    388: ("nasnet_mobile", False),
    533: ("nasnet_large", True),
    532: ("nasnet_large", False),
}


def resolve(network, weights, include_top):
    """Turns the `weights` argument of a factory into a path.

    Args:
        network: Name of the network, such as `"nasnet_mobile"`.
        weights: `None`, a path, or a name such as `"imagenet"`.
        include_top: Whether the classifier's weights are needed.

    Returns:
        `None` or the path of a file of weights, downloaded and converted if
        it was not yet.

    Raises:
        ValueError: If there are no such weights.
        OSError: If they cannot be downloaded. The message says which file to
            put where.
    """
    if weights is None:
        return None
    if isinstance(weights, (str, os.PathLike)) and (
        os.path.exists(weights) or os.path.exists(f"{weights}.index")
    ):
        return os.fspath(weights)
    records = [r for r in KERAS_RECORDS if r.network == network]
    if weights not in {record.weights for record in records}:
        known = sorted({f'"{record.weights}", ' for record in records})
        raise ValueError(
            f"`weights` must be {''.join(known)}None or the path of an "
            f"existing file or folder. Received: weights={weights!r}"
        )
    record = next(
        r
        for r in records
        if r.weights == weights and r.include_top == include_top
    )
    return _converted(record)


def load(model, path):
    """Loads a file of weights into a network.

    Weights of the classifier are loaded if the network has one for as many
    classes; otherwise it keeps its random ones and a line in the log says so.

    Args:
        model: A network of this package.
        path: One of: a `.weights.h5` file of such a network; an official
            `.h5` file of `keras.applications`' NASNetMobile or NASNetLarge;
            a TF-slim checkpoint as a prefix, folder or `.tar.gz`.

    Raises:
        ValueError: If the file does not fit the network or is damaged. The
            message says what was found and what was expected.
    """
    path = os.fspath(path)
    if is_tf_slim(path):
        from keras_nasnet.weights import convert_tf_slim

        convert_tf_slim.convert(path, model)
    elif is_official(path):
        _load_official(model, path)
    else:
        _load_ours(model, path)


def is_tf_slim(path):
    """Whether a path is a TF-slim checkpoint by its looks."""
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
            return "layer_names" in file.attrs
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


def _converted(record):
    """Returns our version of an official file, made when first needed."""
    folder = cache_folder()
    os.makedirs(folder, exist_ok=True)
    name = os.path.splitext(record.file)[0]
    # The hash in the file's name makes one rename publish both at once.
    pattern = os.path.join(glob.escape(folder), f"{name}-*.weights.h5")
    for path in glob.glob(pattern):
        digest = path.removesuffix(".weights.h5").rpartition("-")[2]
        if _digest(path, "sha256") == digest:
            return path
        logging.warning("%s is damaged and is made anew.", path)
        os.remove(path)
    official = _downloaded(record, folder)
    model = _build(record.network, record.include_top)
    _load_official(model, official)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = os.path.join(temporary, "converted.weights.h5")
        model.save_weights(made)
        path = os.path.join(
            folder, f"{name}-{_digest(made, 'sha256')}.weights.h5"
        )
        os.replace(made, path)
    return path


def _downloaded(record, folder):
    """Returns the official file, downloaded when first needed."""
    path = os.path.join(folder, record.file)
    if os.path.exists(path) and _digest(path, "md5") == record.hash:
        return path
    url = record.url
    if os.environ.get(MIRROR_VARIABLE):
        base = os.environ[MIRROR_VARIABLE].rstrip("/")
        url = f"{base}/{os.path.basename(urllib.parse.urlparse(url).path)}"
    # Every process downloads to a folder of its own; the rename at the end
    # cannot leave half a file.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        try:
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


def _digest(path, algorithm):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _build(network, include_top):
    import keras_nasnet

    factory = {
        "nasnet_mobile": keras_nasnet.NASNetMobile,
        "nasnet_large": keras_nasnet.NASNetLarge,
    }[network]
    return factory(weights=None, include_top=include_top)


def _load_official(model, path):
    """Loads a file of keras.applications, read by keras.applications."""
    from keras_nasnet.weights import convert_keras_applications

    network, has_top = _official_network(path)
    size = {"nasnet_mobile": 224, "nasnet_large": 331}[network]
    # The general builder behind the two factories: on torch, one of them
    # refuses to build what the backend runs.
    module = inspect.getmodule(keras.applications.NASNetLarge)
    source = module.NASNet(
        input_shape=(size, size, 3),
        weights=None,
        include_top=has_top,
        **convert_keras_applications.OFFICIAL_ARGUMENTS[network],
    )
    try:
        source.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a complete file of {network}: {error}"
        ) from error
    classes = source.output_shape[-1] if has_top else None
    part = _loadable_part(model, path, classes)
    try:
        convert_keras_applications.copy_weights(source, part)
    except ValueError as error:
        top = "with" if has_top else "without"
        raise ValueError(
            f"{path} holds {network} {top} top, which does not fit "
            f"{model.name}: {error}"
        ) from None


def _official_network(path):
    """Returns which network's weights an official file holds."""
    with h5py.File(path) as file:
        names = file.attrs["layer_names"]
        count = sum(len(file[n].attrs["weight_names"]) > 0 for n in names)
    if count not in OFFICIAL_SIZES:
        raise ValueError(
            f"{path} has {count} layers with weights. Expected 389 "
            "(NASNetMobile) or 533 (NASNetLarge), one less without top."
        )
    return OFFICIAL_SIZES[count]


def _load_ours(model, path):
    """Loads what `save_weights()` of a network of ours wrote."""
    with h5py.File(path) as file:
        layers = file.get("layers", {})
        counts = {name: _count_arrays(layers[name]) for name in layers}
        classes = None
        if counts.get("classifier"):
            classes = layers["classifier/vars/1"].shape[0]
    part = _loadable_part(model, path, classes, "auxiliary_head" in counts)
    expected = _expected_counts(part)
    found = {n: c for n, c in counts.items() if n.startswith(("cell", "stem"))}
    if found != expected:
        raise ValueError(
            f"{path} does not fit {model.name}. Expected "
            f"{_describe(expected)}, found {_describe(found)}."
        )
    try:
        part.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} does not fit {model.name}: {error}"
        ) from error


def _count_arrays(group):
    """Counts the weights below a group, without seeds."""
    names = []
    group.visititems(
        lambda name, item: (
            names.append(name)
            if isinstance(item, h5py.Dataset) and "seed_generator" not in name
            else None
        )
    )
    return len(names)


def _expected_counts(model):
    """Counts the weights of stem and cells, named as Keras saves them."""
    counts = {}
    for kind in (Stem, Cell):
        layers = [la for la in model.layers if isinstance(la, kind)]
        for i, layer in enumerate(layers):
            name = kind.__name__.lower() + (f"_{i}" if i else "")
            counts[name] = len(layer.weights)
    return counts


def _describe(counts):
    cells = sum(name.startswith("cell") for name in counts)
    return f"{cells} cells with {sum(counts.values())} weights"


def _loadable_part(model, path, classes, has_aux=False):
    """Returns the part of a model that a file has weights for.

    Args:
        model: A network of ours.
        path: Path of the file, for messages.
        classes: Number of classes in the file, `None` without classifier.
        has_aux: Whether the file has an auxiliary head.
    """
    layers = {layer.name: layer for layer in model.layers}
    outputs = [layers[GRADCAM_LAYER].output]
    head = layers.get(PREDICTIONS_LAYER)
    if head and head.units == classes:
        outputs.append(head.output)
        if AUX_LAYER in layers and has_aux:
            outputs.append(layers[AUX_LAYER].output)
    elif head:
        logging.warning(
            "%s: loaded everything but the classifier, which keeps its "
            "random weights (%d classes here, %s in %s).",
            model.name,
            head.units,
            classes or "none",
            os.path.basename(path),
        )
    return keras.Model(model.inputs, outputs)
