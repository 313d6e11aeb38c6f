"""Times inference: this package beside `keras.applications` and runtimes.

    python -m benchmarks.latency --network=mobile --batch_size=1

All run the same random weights, take turns in one process, and must agree.
LiteRT, ONNX Runtime, OpenVINO and timm take part where they are installed.
What the processor could do at best is measured in the same run: the rate of a
large matrix product.
"""

import contextlib
import importlib.util
import io
import os
import tempfile
import time

if __name__ == "__main__" and importlib.util.find_spec("timm"):
    # Before TensorFlow, after which torch would crash.
    import timm  # noqa: F401

import keras
import numpy as np
from absl import app
from absl import flags

import keras_nasnet
from benchmarks import comparison
from training import checkpoints
from weights import convert_keras_applications

FLAGS = flags.FLAGS
NETWORKS = {
    "mobile": ("NASNetMobile", 224),
    "large": ("NASNetLarge", 331),
}
# Largest difference of logits, in units of their largest one.
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.2}


def define_flags():
    flags.DEFINE_enum("network", "mobile", list(NETWORKS), "What to run.")
    flags.DEFINE_integer("batch_size", 1, "Images per call.", lower_bound=1)
    flags.DEFINE_integer("rounds", 20, "Calls of each.", lower_bound=1)
    flags.DEFINE_bool("bfloat16", False, "Whether to run in 16 bits as well.")
    flags.DEFINE_string("json", None, "Where to write the times, in seconds.")


def networks(name):
    """Builds the network twice, with the same weights.

    Args:
        name: Key of `NETWORKS`.

    Returns:
        The model of `keras.applications` and ours, which return logits.
    """
    factory, _ = NETWORKS[name]
    settings = {"weights": None, "classifier_activation": None}
    theirs = getattr(keras.applications, factory)(**settings)
    rng = np.random.default_rng(0)
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, n),
                    rng.normal(0, 0.1, n),
                    rng.normal(0, 0.1, n),
                    rng.uniform(0.5, 1.5, n),
                ]
            )
    ours = getattr(keras_nasnet, factory)(**settings)
    convert_keras_applications.copy_weights(theirs, ours)
    return theirs, ours


def contenders(theirs, ours, batch_size, bfloat16):
    """Returns functions from images to logits.

    Args:
        theirs: The model of `keras.applications`.
        ours: Our model with the same weights.
        batch_size: Integer, number of images per call.
        bfloat16: Whether to add the ones that compute in 16 bits.

    Returns:
        A dictionary from name to function of a NumPy array.
    """
    found = {
        comparison.PEER: as_function(theirs),
        comparison.OURS: as_function(ours),
        "fuse": as_function(keras_nasnet.fuse(ours)),
        "compile_inference": keras_nasnet.compile_inference(ours, batch_size),
    }
    if bfloat16:
        found["compile_inference, bfloat16"] = keras_nasnet.compile_inference(
            ours, batch_size, dtype="bfloat16"
        )
    if importlib.util.find_spec("ai_edge_litert"):
        found["LiteRT"] = on_litert(theirs, batch_size)
    if importlib.util.find_spec("onnxruntime"):
        found["ONNX Runtime"] = on_onnxruntime(theirs)
    if importlib.util.find_spec("openvino"):
        found["OpenVINO"] = on_openvino(theirs, batch_size, "f32")
        if bfloat16:
            found["OpenVINO, bfloat16"] = on_openvino(
                theirs, batch_size, "bf16"
            )
    return found


def as_function(model):
    """Runs a Keras model as users of TensorFlow do."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    return lambda x: function(x).numpy()


def on_litert(model, batch_size):
    import tensorflow as tf
    from ai_edge_litert import interpreter

    inputs = keras.Input(batch_shape=(batch_size, *model.input_shape[1:]))
    fixed = keras.Model(inputs, model(inputs))
    content = tf.lite.TFLiteConverter.from_keras_model(fixed).convert()
    runtime = interpreter.Interpreter(
        model_content=content, num_threads=os.cpu_count()
    )
    run = runtime.get_signature_runner()
    (name,) = run.get_input_details()

    def call(x):
        (logits,) = run(**{name: x}).values()
        return logits

    return call


def on_onnxruntime(model):
    import onnxruntime

    with exported(model, "onnx") as path:
        session = onnxruntime.InferenceSession(path)
    (name,) = (i.name for i in session.get_inputs())
    return lambda x: session.run(None, {name: x})[0]


def on_openvino(model, batch_size, precision):
    import openvino

    with exported(model, "tf_saved_model") as path:
        converted = openvino.convert_model(path)
    converted.reshape([batch_size, *model.input_shape[1:]])
    # By itself it takes what the processor is fastest with.
    settings = {"INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.compile_model(converted, "CPU", settings)
    return lambda x: compiled(x)[0]


@contextlib.contextmanager
def exported(model, kind):
    """Exports a model for as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        model.export(path, format=kind, verbose=False)
        yield path


def timm_large(batch_size):
    """Returns timm's NASNet-A Large, whose weights are others."""
    import timm
    import torch

    model = timm.create_model("nasnetalarge", pretrained=False).eval()
    x = torch.rand(batch_size, 3, 331, 331)

    @torch.inference_mode()
    def call():
        return model(x)

    return call


def check_agreement(functions, x):
    """Raises an error if the functions do not compute the same.

    Args:
        functions: What `contenders()` returned.
        x: Images.

    Returns:
        A dictionary from name to the largest difference from the first one's
        logits, as a fraction of the largest of these.
    """
    logits = {name: np.asarray(f(x)) for name, f in functions.items()}
    expected = logits[comparison.PEER]
    scale = np.abs(expected).max()
    differences = {}
    for name, values in logits.items():
        difference = float(np.abs(values - expected).max() / scale)
        limit = AGREEMENT["bfloat16" if "bfloat16" in name else "float32"]
        if not difference < limit:
            raise ValueError(
                f"{name} computes something else than {comparison.PEER}: the "
                f"largest difference is {difference:.2g} of the largest "
                f"logit, expected less than {limit:g}."
            )
        differences[name] = difference
    return differences


def product_rate(size=4096, rounds=10):
    """Measures the rate of a float32 matrix product, in operations/s.

    By TensorFlow, whose oneDNN is up to twice as fast as what NumPy has.
    """
    import tensorflow as tf

    a = tf.random.uniform((size, size))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        # Otherwise it might not be done yet.
        tf.matmul(a, a)[0, 0].numpy()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    theirs, ours = networks(FLAGS.network)
    with contextlib.redirect_stdout(io.StringIO()):
        functions = contenders(theirs, ours, FLAGS.batch_size, FLAGS.bfloat16)
    size = NETWORKS[FLAGS.network][1]
    x = np.random.default_rng(0).uniform(
        -1, 1, (FLAGS.batch_size, size, size, 3)
    )
    x = x.astype("float32")
    differences = check_agreement(functions, x)
    calls = {name: lambda f=f: f(x) for name, f in functions.items()}
    if FLAGS.network == "large" and importlib.util.find_spec("timm"):
        calls["timm"] = timm_large(FLAGS.batch_size)
    result = comparison.report(
        comparison.in_turns(calls, FLAGS.rounds),
        network=FLAGS.network,
        batch_size=FLAGS.batch_size,
        differences=differences,
    )
    comparison.print_report(f"{FLAGS.network} x {FLAGS.batch_size}", result)
    macs = keras_nasnet.count_macs(ours) * FLAGS.batch_size
    rate = product_rate()
    result["roofline"] = {
        "multiply_adds": macs,
        "operations_per_second": rate,
        "seconds": 2 * macs / rate,
    }
    fraction = 2 * macs / rate / result["median"]["compile_inference"]
    print(
        f"\nA matrix product runs at {rate / 1e9:.0f} GFLOP/s here, so "
        f"{macs / 1e6:.0f} M multiply-adds take {2e3 * macs / rate:.1f} ms at "
        f"best; compile_inference reaches {fraction:.0%} of that."
    )
    if FLAGS.json:
        checkpoints.write_json(result, FLAGS.json)


if __name__ == "__main__":
    define_flags()
    app.run(main)
