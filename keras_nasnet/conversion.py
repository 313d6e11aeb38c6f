"""Converts a saved model to TensorFlow Lite, in processes of its own.

TensorFlow's converter prints thousands of lines, keeps memory, and needs the
TensorFlow backend. `keras_nasnet.export_tflite` therefore starts

    python -m keras_nasnet.conversion TASK.json

for each of two steps: what the first one needs is gone before the second one,
which needs most, begins.
"""

import functools
import json
import os
import subprocess
import sys

# Name -> whether activations become integers, so that their ranges have to
# be measured.
QUANTIZATIONS = {
    "float16": False,
    "weight_only_int8": False,
    "dynamic_int8": False,
    "int8": True,
    "int16x8": True,
}


def convert_in_process(folder, model, quantization, batch_size, **task):
    """Runs `lower()` and `convert()` in processes of their own.

    Args:
        folder: Folder for what is needed meanwhile.
        model: As in `lower()`.
        quantization: `None` or one of `QUANTIZATIONS`.
        batch_size: Integer, number of images that the file takes.
        **task: The other arguments of `convert()`.

    Raises:
        ValueError: If the conversion fails, with the reason.
    """
    shared = {"quantization": quantization, "batch_size": batch_size}
    lowered = os.path.join(folder, "lowered")
    _run(folder, step="lower", model=model, out=lowered, **shared)
    _run(folder, step="convert", lowered=lowered, **shared, **task)


def _run(folder, **task):
    path = os.path.join(folder, "task.json")
    with open(path, "w") as file:
        json.dump(task, file)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # Set by tensorflow-model-optimization, and wrong for Keras 3.
    environment.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(
        [sys.executable, "-m", "keras_nasnet.conversion", path],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode < 0:
        raise ValueError(
            f"The conversion to TensorFlow Lite was killed (signal "
            f"{-done.returncode}), probably for want of memory."
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(
            "The conversion to TensorFlow Lite failed: "
            f"{lines[-1] if lines else f'exit status {done.returncode}'}"
        )


def lower(model, out, quantization, batch_size):
    """Writes a model as XNNPACK runs it as a whole, as a SavedModel.

    Args:
        model: Path of a `.keras` file, or of an `.h5` file of a twin from
            `keras_nasnet.compression`.
        out: Folder to write.
        quantization: As in `convert_in_process()`.
        batch_size: As in `convert_in_process()`.
    """
    if model.endswith(".h5"):
        import tensorflow as tf

        tf.saved_model.save(_load_twin(model, batch_size), out)
        return
    import keras

    from keras_nasnet import delegation

    flat = delegation.lower(
        keras.saving.load_model(model, compile=False),
        integer=QUANTIZATIONS.get(quantization, False),
        batch_size=batch_size,
    )
    # `flat.export()` would take any number of images, which XNNPACK does not.
    archive = keras.export.ExportArchive()
    archive.track(flat)
    archive.add_endpoint(
        "serve",
        functools.partial(flat.__call__, training=False),
        [
            keras.InputSpec(shape=image.shape, dtype=image.dtype)
            for image in flat.inputs
        ],
    )
    archive.write_out(out, verbose=False)


def convert(lowered, out, quantization, io_dtype, batch_size, samples):
    """Writes a `.tflite` file.

    Args:
        lowered: Folder that `lower()` has written.
        out: Path of the file to write.
        quantization: As in `convert_in_process()`.
        io_dtype: `"float32"` or, for `"int8"`, `"uint8"`.
        batch_size: As in `convert_in_process()`.
        samples: Path of a `.npy` file of images, `None` if none are needed.
    """
    import numpy as np
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(lowered)
    if quantization not in (None, "weight_only_int8"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if QUANTIZATIONS.get(quantization, False):
        images = np.load(samples, mmap_mode="r")
        count = len(images) // batch_size * batch_size
        converter.representative_dataset = lambda: (
            [np.array(images[i : i + batch_size])]
            for i in range(0, count, batch_size)
        )
        kinds = {
            "int8": "TFLITE_BUILTINS_INT8",
            "int16x8": "EXPERIMENTAL_TFLITE_BUILTINS_"
            "ACTIVATIONS_INT16_WEIGHTS_INT8",
        }
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet[kinds[quantization]]
        ]
        converter.inference_input_type = tf.as_dtype(io_dtype)
        converter.inference_output_type = tf.as_dtype(io_dtype)
    content = converter.convert()
    if quantization == "weight_only_int8":
        content = _quantize_weights(content)
    with open(out, "wb") as file:
        file.write(content)


def _load_twin(path, batch_size):
    """Loads a model of `tf_keras` that was lowered before it was trained."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from keras_nasnet.tfmot_fixes import SCOPE

    with tfmot.quantization.keras.quantize_scope(SCOPE):
        twin = tf_keras.models.load_model(path, compile=False)
    image = tf_keras.Input(batch_shape=(batch_size, *twin.input_shape[1:]))
    return tf_keras.Model(image, twin(image))


def _quantize_weights(content):
    """Stores the weights in 8 bits; what is computed stays float.

    TensorFlow's converter has no such mode.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe

    made = quantizer.Quantizer(
        bytearray(content), recipe.weight_only_wi8_afp32()
    )
    return made.quantize().quantized_model


if __name__ == "__main__":
    with open(sys.argv[1]) as task_file:
        task = json.load(task_file)
    {"lower": lower, "convert": convert}[task.pop("step")](**task)
