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
        ValueError: If the file is damaged, or no TensorFlow Lite file.
    """

    def __init__(self, path, threads=1):
        self._interpreter = _interpreter(path, threads)
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = _outputs(self._interpreter)
        found = metadata.read(path)
        self.labels = found.labels
        self.normalization = found.normalization

    @property
    def input_shape(self):
        """Shape `(batch, height, width, channels)` of the input."""
        return tuple(int(n) for n in self._input["shape"])

    @property
    def output_shape(self):
        """Shape of the output, of the first one if there are several."""
        return tuple(int(n) for n in self._outputs[0]["shape"])

    @property
    def input_dtype(self):
        """Name of the data type of the input."""
        return np.dtype(self._input["dtype"]).name

    @property
    def input_step(self):
        """Difference between two neighbouring values of an integer input."""
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
            ValueError: If the image cannot be read, or if the file does not
                say how to scale it.
        """
        self.check_classifies()
        batch, height, width, _ = self.input_shape
        mean, std = self.normalization
        pixels = (read_pixels(path, (height, width)) - mean) / std
        scores = self(np.repeat(pixels, batch, axis=0))[0][0]
        names = self.labels or [f"class {i}" for i in range(len(scores))]
        return best(scores, names, top)

    def check_classifies(self):
        """Raises a `ValueError` if the file does not say how to use it."""
        if self.normalization is None:
            raise ValueError(
                "the .tflite file does not say how images have to be scaled. "
                "Write it with `keras_nasnet.export_tflite`."
            )

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


def _outputs(interpreter):
    """Returns the details of the outputs, in the order of the Keras model's."""
    if not interpreter.get_signature_list():
        return interpreter.get_output_details()
    details = interpreter.get_signature_runner().get_output_details()
    names = sorted(details)
    if all(re.fullmatch(r"output_\d+", name) for name in names):
        # Those of a list. Keras sorts the names of a dictionary as they are.
        names.sort(key=lambda name: int(name.removeprefix("output_")))
    return [details[name] for name in names]


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
    scale, zero = details["quantization"]
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale + zero), limits.min, limits.max).astype(
        dtype
    )


def _dequantize(x, details):
    if x.dtype.kind == "f":
        return x
    scale, zero = details["quantization"]
    return ((x.astype("float32") - zero) * scale).astype("float32")
