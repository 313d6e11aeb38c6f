"""Running TensorFlow Lite files, with nothing but LiteRT and NumPy."""

import collections
import re
import time

import numpy as np

from keras_nasnet import metadata
from keras_nasnet.answers import best
from keras_nasnet.answers import read_pixels


class LiteModel:
    """A TensorFlow Lite file that is ready to run.

    Args:
        path: Path of the file.
        threads: Number of threads.

    Attributes:
        labels: List of the names of the classes, `None` if the file has none.
        normalization: Mean and standard deviation with which pixels in
            [0, 255] become the input, `None` if the file does not say.

    Raises:
        ImportError: If ai-edge-litert is missing.
        ValueError: If the file is damaged, or no TensorFlow Lite file, or if
            it takes more than an image.
    """

    def __init__(self, path, threads=1):
        self._interpreter = _interpreter(path, threads)
        self._input = _input(self._interpreter, path)
        self._outputs = _outputs(self._interpreter)
        found = metadata.read(path)
        self.labels = found.labels
        self.normalization = found.normalization
        # Described in the order of the file, which is not the model's.
        names = zip(self._interpreter.get_output_details(), found.outputs or [])
        self._names = {details["index"]: name for details, name in names}

    @property
    def input_shape(self):
        """Shape `(batch, height, width, channels)` of the input."""
        return tuple(int(n) for n in self._input["shape"])

    @property
    def output_shape(self):
        """Shape of the output, of the first one if there are several."""
        return tuple(int(n) for n in self._outputs[0]["shape"])

    @property
    def output_tensors(self):
        """Numbers of the tensors in the file that are the outputs."""
        return [int(details["index"]) for details in self._outputs]

    @property
    def input_dtype(self):
        """Name of the data type of the input."""
        return np.dtype(self._input["dtype"]).name

    @property
    def input_step(self):
        """Difference between two neighbouring values of an integer input.

        0 if it takes integers as they are.
        """
        return self._input["quantization"][0]

    def __call__(self, x):
        """Runs the network once.

        Args:
            x: Float array of the input's shape, scaled as for the model that
                was exported. Integer inputs are quantised here.

        Returns:
            A list of float arrays, the outputs.
        """
        self._interpreter.set_tensor(
            self._input["index"], _quantize(x, self._input)
        )
        self._interpreter.invoke()
        return [
            _dequantize(self._interpreter.get_tensor(o["index"]), o)
            for o in self._outputs
        ]

    def predict_on_batch(self, x):
        """Runs the network on any number of images, like a Keras model.

        Args:
            x: Float array `(images, height, width, channels)`.

        Returns:
            A float array, the output for all of them; a list of arrays if
            there are several outputs.
        """
        x = np.asarray(x)
        batch = self.input_shape[0]
        padding = np.zeros((-len(x) % batch, *x.shape[1:]), x.dtype)
        padded = np.concatenate([x, padding])
        chunks = [self(padded[i : i + batch]) for i in range(0, len(x), batch)]
        outputs = [np.concatenate(parts)[: len(x)] for parts in zip(*chunks)]
        return outputs[0] if len(outputs) == 1 else outputs

    def classify(self, path, top=5):
        """Classifies one image file.

        Args:
            path: Path of an image of any format that Pillow reads.
            top: Number of classes to return.

        Returns:
            A list of `Prediction`, most likely first.

        Raises:
            ValueError: If the image cannot be read, or if the file is no
                classifier or does not say how to scale it.
        """
        self.check_classifies()
        batch, height, width, _ = self.input_shape
        mean, std = self.normalization
        pixels = (read_pixels(path, (height, width)) - mean) / std
        place, name = self._class_output()
        scores = self(np.repeat(pixels, batch, axis=0))[place][0]
        if name == metadata.LOGIT or (name is None and _are_logits(scores)):
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        names = self.labels or [f"class {i}" for i in range(len(scores))]
        return best(scores, names, top)

    def check_classifies(self):
        """Raises a `ValueError` if the file cannot classify images."""
        if self.normalization is None:
            raise ValueError(
                "the .tflite file does not say how images have to be scaled. "
                "Write it with `keras_nasnet.export_tflite`."
            )
        if self._class_output() is None:
            raise ValueError(
                "the .tflite file is no classifier: it returns features, of "
                f"shape {self.output_shape}. Export a model that ends in a "
                "`keras_nasnet.Classifier`."
            )

    def _class_output(self):
        """Returns place and name of the output of classes, if there is one.

        The name is `None` in files of others, which at least have labels.
        """
        for place, details in enumerate(self._outputs):
            name = self._names.get(details["index"])
            if name in (metadata.PROBABILITY, metadata.LOGIT):
                return place, name
        shape = self.output_shape
        is_only = len(self._outputs) == 1 and len(shape) == 2
        if is_only and self.labels and len(self.labels) == shape[1]:
            return 0, None
        return None

    def operators(self):
        """Counts the operators by type, as they are in the file."""
        kinds = [op["op_name"] for op in self._interpreter._get_ops_details()]
        return collections.Counter(k for k in kinds if k != "DELEGATE")

    def partitions(self):
        """Returns into how many pieces XNNPACK took the network.

        1 is best; 0 means that it took nothing.
        """
        operations = self._interpreter._get_ops_details()
        return sum(op["op_name"] == "DELEGATE" for op in operations)

    def benchmark(self, runs, warm_up=3):
        """Times the network on noise.

        Args:
            runs: Integer, number of calls.
            warm_up: Integer, number of calls before that, which do not count.

        Returns:
            List of seconds.
        """
        x = np.random.default_rng(0).uniform(-1, 1, self.input_shape)
        self._interpreter.set_tensor(
            self._input["index"], _quantize(x, self._input)
        )
        times = []
        for i in range(warm_up + runs):
            start = time.perf_counter()
            self._interpreter.invoke()
            if i >= warm_up:
                times.append(time.perf_counter() - start)
        return times


def _input(interpreter, path):
    """Returns the details of the only input."""
    inputs = interpreter.get_input_details()
    if len(inputs) != 1:
        names = ", ".join(details["name"] for details in inputs)
        raise ValueError(
            f"{path} must have one input, an image. Received: "
            f"{len(inputs)} inputs ({names})"
        )
    return inputs[0]


def _outputs(interpreter):
    """Returns the details of the outputs, in the order of the Keras model's."""
    # With several signatures, none is known to be the model.
    if len(interpreter.get_signature_list()) != 1:
        return interpreter.get_output_details()
    details = interpreter.get_signature_runner().get_output_details()
    return [details[name] for name in in_order(details)]


def in_order(names):
    """Sorts the names of the outputs of a signature.

    Those of a list are counted, by Keras 3 from `output_0` on; `tf_keras` puts
    `_1`, `_2` and so on behind the name of the first. Those of a dictionary are
    its keys, which Keras sorts as they are.
    """
    first = re.escape(min(names, key=len))
    for counted in (r"output_(\d+)", rf"{first}(?:_(\d+))?"):
        found = {name: re.fullmatch(counted, name) for name in names}
        if all(found.values()):
            return sorted(names, key=lambda name: int(found[name][1] or 0))
    return sorted(names)


def _are_logits(scores):
    """Whether scores are no probabilities, rounded as these may be."""
    return scores.min() < 0 or scores.sum() > 1.1


def _interpreter(path, threads):
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise ImportError(
            "TensorFlow Lite files run with ai-edge-litert: "
            "pip install ai-edge-litert"
        ) from error
    try:
        made = interpreter.Interpreter(str(path), num_threads=threads)
        made.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be loaded: {reason}") from error
    return made


def _quantize(x, details):
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return np.asarray(x, dtype)
    scale, zero = _steps(details)
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale + zero), limits.min, limits.max).astype(
        dtype
    )


def _dequantize(x, details):
    if x.dtype.kind == "f":
        return x
    scale, zero = _steps(details)
    return ((x.astype("float32") - zero) * scale).astype("float32")


def _steps(details):
    """Returns the step between integers, and which of them means 0."""
    scale, zero = details["quantization"]
    # Integers that mean themselves have none, such as pixels.
    return (scale, zero) if scale else (1.0, 0)
