"""From a model to a checked file for phones."""

import dataclasses
import importlib.util
import os
import statistics
import tempfile

import keras
import numpy as np

from keras_nasnet import conversion
from keras_nasnet import heads
from keras_nasnet import metadata
from keras_nasnet.calibration import IMAGES
from keras_nasnet.calibration import normalization_of
from keras_nasnet.calibration import read_images
from keras_nasnet.calibration import value_range
from keras_nasnet.inference import known_names
from keras_nasnet.litert import LiteModel
from keras_nasnet.supported import check_model

# What has to agree at least, unless the caller says otherwise.
FLOAT_AGREEMENT = 0.999
QUANTIZED_AGREEMENT = 0.9
RUNS = 20


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
            two. Of several outputs, that of the worst.
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
    licence=None,
):
    """Writes a model as a TensorFlow Lite file, and checks the file.

    The file is written for XNNPACK: batch norms are folded away, and only
    operations remain that it takes. It is then run with LiteRT and compared
    with the model; a file that answers otherwise is not kept.

    Args:
        model: A functional model with cells of this package and one image as
            its input, of any backend, also one with such a model inside. An
            auxiliary head is left out, and logits of a `Classifier`, or of
            classes that `labels` name, become probabilities. Also what
            `fuse()` and `keras_nasnet.compression` make of one.
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
            (127.5, 127.5), or (0, 1) if it scales pixels itself. Needed if
            layers from elsewhere read the image.
        batch_size: Integer, number of images per call.
        io_dtype: `"float32"`, or `"uint8"` for the inputs and outputs of an
            `"int8"` file.
        min_agreement: Share of images for which file and model have to name
            the same class. `None`: 0.999, or 0.9 for quantised files.
        verbose: Whether to print progress and the report.
        licence: Optional name or text of the licence of the weights, for the
            metadata: `"Apache-2.0"` for those that come with this package.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument cannot be used, or if the file does not
            agree with the model. A file that was there before stays then.
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
    check_model(model)
    _check_weights(model)
    model = heads.without_auxiliary_head(model)
    _check_packages(quantization)
    place = heads.class_output(model)
    labels = _labels(labels, model, place)
    is_logits = place is not None and heads.returns_logits(model.outputs[place])
    # Of a twin it is too late to change what it ends in.
    if is_logits and labels and isinstance(model, keras.Model):
        model = heads.with_softmax(model, place)
        is_logits = False
    if normalization is None:
        normalization = _normalization(model)
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
            f"`quantization={quantization!r}` needs `representative_data` "
            "(--data of the command): some hundred images as the model takes "
            "them, to measure the ranges of its activations on."
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
        output = metadata.LOGIT if is_logits else metadata.PROBABILITY
        _add_metadata(
            made,
            model,
            normalization,
            licence,
            labels,
            {} if place is None else {place: output},
        )
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
    if os.path.isdir(path):
        raise ValueError(f"`path` must be a file. Received: folder {path!r}")
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


def _check_weights(model):
    """Raises an error if the network could answer nothing but NaN.

    What it answers would then agree with what the file answers.
    """
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(
                "`model` must have finite weights. Its training has diverged: "
                f"{weight.name} of shape {tuple(weight.shape)} has others."
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


def _normalization(model):
    found = normalization_of(model)
    if found is None:
        raise ValueError(
            "`normalization` must be given, because the image of `model` is "
            "read by other layers than those of keras_nasnet: mean and "
            "standard deviation with which an app has to scale pixels in "
            "[0, 255], such as (0, 1) for pixels as they are, or "
            "(127.5, 127.5). Received: normalization=None"
        )
    return found


def _labels(labels, model, place):
    """Returns the names of the classes, `None` without any.

    Args:
        labels: The argument of `export_tflite`.
        model: The model.
        place: Integer, which output is that of classes, or `None`.
    """
    if labels is None:
        if isinstance(model, keras.Model):
            return known_names(model)
        return getattr(model, "class_names", None)
    if isinstance(labels, (str, os.PathLike)):
        with open(labels, encoding="utf-8") as file:
            labels = file.read().rstrip().splitlines()
    labels = [str(label) for label in labels]
    if place is None:
        raise ValueError(
            "`labels` must be None, because the model has no output of "
            "classes, or several: end it in a `keras_nasnet.Classifier`. "
            f"Received: {len(labels)} labels"
        )
    classes = model.outputs[place].shape[-1]
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


def _add_metadata(path, model, normalization, licence, labels, outputs):
    tensors = LiteModel(path).output_tensors
    with open(path, "rb") as file:
        content = file.read()
    content = metadata.write(
        content,
        name=model.name,
        description=(
            "Image classifier made with keras_nasnet."
            if outputs
            else "Image features made with keras_nasnet."
        ),
        normalization=normalization,
        licence=licence,
        labels=labels,
        outputs={tensors[place]: name for place, name in outputs.items()},
    )
    with open(path, "wb") as file:
        file.write(content)


def _check(made, path, model, images, quantization):
    """Runs a file and returns the report on it."""
    file = LiteModel(made)
    found = keras.tree.flatten(file.predict_on_batch(images))
    if not all(np.isfinite(output).all() for output in found):
        raise ValueError(
            f"The {quantization or 'float32'} file answers with numbers that "
            "are not finite. Are the images, or are there weights too large "
            "for this `quantization`?"
        )
    expected = keras.tree.flatten(model.predict(images, verbose=0))
    agreements = [
        _same_class(a, b) if heads.is_class_output(output) else _cosine(a, b)
        for a, b, output in zip(found, expected, model.outputs, strict=True)
    ]
    return ExportReport(
        path=path,
        quantization=quantization,
        size=os.path.getsize(made),
        operators=dict(file.operators().most_common()),
        partitions=file.partitions(),
        images=len(images),
        agreement=float(np.min(agreements)),
        max_difference=max(
            float(np.abs(a - b).max()) for a, b in zip(found, expected)
        ),
        latency=statistics.median(file.benchmark(RUNS)),
    )


def _same_class(a, b):
    return np.mean(a.argmax(-1) == b.argmax(-1))


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
