"""From a model to a checked file for phones."""

import dataclasses
import importlib.util
import os
import re
import statistics
import tempfile

import keras
import numpy as np

from keras_nasnet import conversion
from keras_nasnet import metadata
from keras_nasnet.calibration import normalization_of
from keras_nasnet.calibration import read_images
from keras_nasnet.calibration import value_range
from keras_nasnet.cells import Cell
from keras_nasnet.classifier import Classifier
from keras_nasnet.inference import class_names
from keras_nasnet.litert import LiteModel
from keras_nasnet.names import AUX_LAYER
from keras_nasnet.names import PREDICTIONS_LAYER

# What has to agree at least, unless the caller says otherwise.
FLOAT_AGREEMENT = 0.999
QUANTIZED_AGREEMENT = 0.9
# Images that ranges are measured on, and that the file is compared on.
IMAGES = 200
RUNS = 20
LICENCE = "Apache-2.0"
# Layers that a classifier may end in.
CLASSIFIERS = {"Activation", "Classifier", "Dense", "Softmax"}
# Names that layers have in networks of ours, whatever was made of them.
CELL = re.compile(r"(^|_)cell_(stem_)?\d")


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What became of an export.

    Args:
        path: Path of the file.
        quantization: The argument of `export_tflite`.
        size: Size of the file in bytes.
        operators: Dictionary from kind of operator to how many there are.
        partitions: Into how many pieces XNNPACK took the network; 1 is best.
        images: Number of images that were compared.
        agreement: Share of them for which file and model name the same class
            as the most likely one; for features, the mean cosine between the
            two.
        max_difference: Largest difference of an output.
        latency: Median time of a call with one thread on this machine, in
            seconds.
    """

    path: str
    quantization: str | None
    size: int
    operators: dict
    partitions: int
    images: int
    agreement: float
    max_difference: float
    latency: float

    def __str__(self):
        operators = ", ".join(f"{n} {k}" for k, n in self.operators.items())
        return (
            f"{self.path}: {self.quantization or 'float32'}, "
            f"{self.size / 1e6:.2f} MB\n"
            f"  operators       {sum(self.operators.values())}: {operators}\n"
            f"  XNNPACK         {self.partitions} partition(s)\n"
            f"  agreement       {self.agreement:.2%} of {self.images} images, "
            f"largest difference {self.max_difference:.2g}\n"
            f"  latency         {1e3 * self.latency:.1f} ms here, one thread"
        )


def export_tflite(
    model,
    path,
    quantization=None,
    representative_data=None,
    labels=None,
    normalization=None,
    batch_size=1,
    io_dtype="float32",
    min_agreement=None,
    verbose=True,
):
    """Writes a model as a TensorFlow Lite file, and checks the file.

    The file is written for XNNPACK: batch norms are folded away, and only
    operations remain that it takes. It is then run with LiteRT and compared
    with the model; a file that answers otherwise is not kept.

    Args:
        model: A functional model with cells of this package and one image as
            its input, of any backend. An auxiliary head is left out, and
            logits of a classifier become probabilities. Also
            what `fuse()` and `keras_nasnet.compression` make of one.
        path: Where to write: a path that ends in `.tflite`.
        quantization: `None`; `"float16"` and `"weight_only_int8"` for smaller
            files that compute in float; `"dynamic_int8"`, which quantises
            activations on the fly; `"int8"` for integers throughout; or
            `"int16x8"`, with activations of 16 bits.
        representative_data: Images as the model takes them, to measure the
            ranges of activations on (needed for `"int8"` and `"int16x8"`) and
            to compare with: an array, a `tf.data.Dataset` or another iterable
            of images or batches, with or without labels, or the path of a
            folder of image files. Up to 200 images are read. Without any,
            noise is compared.
        labels: Names of the classes, a list or the path of a text file with
            one in each line. `None` takes the model's own.
        normalization: Mean and standard deviation with which an app has to
            scale pixels in [0, 255]. `None` takes what the model expects:
            (127.5, 127.5), or (0, 1) if it scales pixels itself.
        batch_size: Integer, number of images per call.
        io_dtype: `"float32"`, or `"uint8"` for the inputs and outputs of an
            `"int8"` file.
        min_agreement: Share of images for which file and model have to name
            the same class. `None`: 0.999, or 0.9 for quantised files.
        verbose: Whether to print progress and the report.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument cannot be used, or if the file does not
            agree with the model. No file is left then.
        ImportError: If a package is missing.

    Example:

    ```python
    model = keras_nasnet.NASNetTiny()
    report = keras_nasnet.export_tflite(
        model, "tiny.tflite", "int8", representative_data="photos/"
    )
    ```
    """
    path = os.fspath(path)
    _check_arguments(path, quantization, io_dtype, batch_size)
    model = _without_auxiliary_head(model)
    _check_model(model)
    _check_packages(quantization)
    labels = _labels(labels, model)
    model = _with_softmax(model)
    if normalization is None:
        normalization = normalization_of(model)
    low, high = value_range(normalization)
    if representative_data is not None:
        images = read_images(representative_data, model, IMAGES, normalization)
        if len(images) < batch_size:
            raise ValueError(
                f"`representative_data` must be at least `batch_size` images. "
                f"Received: {len(images)} images, batch_size={batch_size}"
            )
    elif conversion.QUANTIZATIONS.get(quantization):
        raise ValueError(
            f"`quantization={quantization!r}` needs `representative_data`: "
            "some hundred images as the model takes them, to measure the "
            "ranges of its activations on."
        )
    else:
        images = np.random.default_rng(0).uniform(
            low, high, (16, *model.input_shape[1:])
        )
        images = images.astype("float32")
    if min_agreement is None:
        min_agreement = FLOAT_AGREEMENT
        if quantization is not None:
            min_agreement = QUANTIZED_AGREEMENT

    progress = keras.utils.Progbar(2, unit_name="step") if verbose else None
    if progress:
        progress.update(0)
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = os.path.join(temporary, "model.tflite")
        samples = _with_whole_range(images, low, high)
        _convert(
            model, made, temporary, quantization, io_dtype, batch_size, samples
        )
        if io_dtype == "uint8":
            _check_steps(made, low, high)
        _add_metadata(made, model, labels, normalization)
        if progress:
            progress.add(1)
        report = _check(made, path, model, images, quantization)
        if progress:
            progress.add(1)
        if not report.agreement >= min_agreement:
            raise ValueError(
                f"The {quantization or 'float32'} file does not agree with "
                f"the model: {report.agreement:.2%} of {report.images} "
                f"images, `min_agreement` is {min_agreement:.2%} (largest "
                f"difference of an output: {report.max_difference:.2g}). "
                + _advice(quantization)
            )
        os.replace(made, path)
    if verbose:
        print(report)
    return report


def _check_arguments(path, quantization, io_dtype, batch_size):
    if not path.endswith(".tflite"):
        raise ValueError(f'`path` must end in ".tflite". Received: {path!r}')
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"`path` is in a folder that does not exist: {path!r}")
    if quantization is not None and quantization not in (
        conversion.QUANTIZATIONS
    ):
        raise ValueError(
            "`quantization` must be None or one of "
            f"{', '.join(conversion.QUANTIZATIONS)}. "
            f"Received: quantization={quantization!r}"
        )
    if io_dtype not in ("float32", "uint8"):
        raise ValueError(
            '`io_dtype` must be "float32" or "uint8". '
            f"Received: io_dtype={io_dtype!r}"
        )
    if io_dtype == "uint8" and quantization != "int8":
        raise ValueError(
            '`io_dtype="uint8"` needs `quantization="int8"`. '
            f"Received: quantization={quantization!r}"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            "`batch_size` must be a positive integer. "
            f"Received: batch_size={batch_size!r}"
        )


def _check_model(model):
    if not _has_cells(model):
        raise ValueError(
            "`model` must be a model with cells of keras_nasnet. "
            f"Received: {model!r}"
        )
    if len(model.inputs) != 1 or None in model.input_shape[1:]:
        raise ValueError(
            "`model` must have one input of a known image size. Build it "
            "with `input_shape=(height, width, 3)`. "
            f"Received: inputs of shape {model.input_shape}"
        )


def _has_cells(model):
    return any(
        isinstance(layer, Cell) or CELL.search(layer.name) or _has_cells(layer)
        for layer in getattr(model, "layers", [])
    )


def _check_packages(quantization):
    needed = ["tensorflow", "ai_edge_litert"]
    if quantization == "weight_only_int8":
        needed.append("ai_edge_quantizer")
    for package in needed:
        if not importlib.util.find_spec(package):
            raise ImportError(
                f"Writing TensorFlow Lite files needs {package}: "
                'pip install "keras_nasnet[tflite]"'
            )


def _without_auxiliary_head(model):
    outputs = getattr(model, "output", None)
    if isinstance(outputs, dict) and AUX_LAYER in outputs:
        return keras.Model(
            model.input, outputs[PREDICTIONS_LAYER], name=model.name
        )
    return model


def _with_softmax(model):
    """Lets a classifier that returns logits return probabilities."""
    last = model.layers[-1]
    if not isinstance(last, Classifier) or (
        keras.activations.serialize(last.activation) != "linear"
    ):
        return model
    outputs = keras.layers.Softmax(name="probabilities")(model.output)
    return keras.Model(model.input, outputs, name=model.name)


def _is_classifier(model):
    if len(model.outputs) > 1 or len(model.output_shape) != 2:
        return False
    last = model.layers[-1]
    last = getattr(last, "layer", last)  # in a wrapper of a twin
    # By name, because a twin has layers of another library.
    return type(last).__name__ in CLASSIFIERS


def _with_whole_range(images, low, high):
    """Returns images with the darkest and the brightest value there can be.

    Files for integers clip what is outside the range that they have seen, and
    apps feed the bytes of pixels, whose range is fixed.
    """
    images = images.copy()
    images[0].flat[:2] = low, high
    return images


def _check_steps(path, low, high):
    """Raises an error if a step of the input is not that of a pixel."""
    step = LiteModel(path).input_step
    if not np.isclose(step, (high - low) / 255, rtol=0.02):
        raise ValueError(
            '`io_dtype="uint8"` needs a network whose input goes from '
            f"{low:g} to {high:g}, so that pixels fit. Its steps are "
            f'{step:.3g}. Use `io_dtype="float32"`.'
        )


def _labels(labels, model):
    if labels is None:
        known = isinstance(model.layers[-1], Classifier)
        return class_names(model) if known else None
    if isinstance(labels, (str, os.PathLike)):
        with open(labels, encoding="utf-8") as file:
            labels = file.read().splitlines()
    labels = [str(label) for label in labels]
    classes = model.output_shape[-1] if _is_classifier(model) else 0
    if len(labels) != classes:
        raise ValueError(
            f"`labels` must name the {classes} classes of the model. "
            f"Received: {len(labels)} labels"
        )
    return labels


def _convert(model, out, folder, quantization, io_dtype, batch_size, images):
    # A twin of `tf_keras` is saved in a format that only it writes.
    is_twin = not isinstance(model, keras.Model)
    saved = os.path.join(folder, "twin.h5" if is_twin else "model.keras")
    model.save(saved)
    samples = None
    if conversion.QUANTIZATIONS.get(quantization):
        samples = os.path.join(folder, "images.npy")
        np.save(samples, images)
    conversion.convert_in_process(
        folder,
        model=saved,
        out=out,
        quantization=quantization,
        io_dtype=io_dtype,
        batch_size=batch_size,
        samples=samples,
    )


def _add_metadata(path, model, labels, normalization):
    with open(path, "rb") as file:
        content = file.read()
    content = metadata.write(
        content,
        name=model.name,
        description=(
            "Image classifier made with keras_nasnet."
            if labels
            else "Image features made with keras_nasnet."
        ),
        licence=LICENCE,
        normalization=normalization,
        labels=labels,
    )
    with open(path, "wb") as file:
        file.write(content)


def _check(made, path, model, images, quantization):
    """Runs a file and returns the report on it."""
    file = LiteModel(made)
    found = keras.tree.flatten(file.predict_on_batch(images))
    expected = keras.tree.flatten(model.predict(images, verbose=0))
    if _is_classifier(model):
        agreement = np.mean(found[0].argmax(-1) == expected[0].argmax(-1))
    else:
        agreement = np.mean([_cosine(a, b) for a, b in zip(found, expected)])
    return ExportReport(
        path=path,
        quantization=quantization,
        size=os.path.getsize(made),
        operators=dict(file.operators().most_common()),
        partitions=file.partitions(),
        images=len(images),
        agreement=float(agreement),
        max_difference=max(
            float(np.abs(a - b).max()) for a, b in zip(found, expected)
        ),
        latency=statistics.median(file.benchmark(RUNS)),
    )


def _cosine(a, b):
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.mean((a * b).sum(1) / np.maximum(norms, 1e-12))


def _advice(quantization):
    if quantization is None:
        return "Please report this: float files should agree."
    return (
        "Networks with random weights cannot be quantised well; for a trained "
        "one, try more `representative_data`, or another `quantization`."
    )
