"""Converts a saved model to TensorFlow Lite, in a process of its own.

TensorFlow's converter prints thousands of lines, keeps memory, and needs the
TensorFlow backend. `keras_nasnet.export_tflite` therefore starts

    python -m keras_nasnet.conversion TASK.json
"""

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


def convert_in_process(folder, **task):
    """Runs `convert()` in a process of its own.

    Args:
        folder: Folder for the task.
        **task: Arguments of `convert()`.

    Raises:
        ValueError: If the conversion fails, with the reason.
    """
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


def convert(model, out, quantization, io_dtype, batch_size, samples):
    """Writes a `.tflite` file.

    Args:
        model: Path of a `.keras` file, or of an `.h5` file of a twin from
            `keras_nasnet.compression`.
        out: Path of the file to write.
        quantization: `None` or one of `QUANTIZATIONS`.
        io_dtype: `"float32"` or, for `"int8"`, `"uint8"`.
        batch_size: Integer, number of images that the file takes.
        samples: Path of a `.npy` file of images, `None` if none are needed.
    """
    import numpy as np
    import tensorflow as tf

    is_twin = model.endswith(".h5")
    flat = (_load_twin if is_twin else _lower)(model, quantization, batch_size)
    converter = tf.lite.TFLiteConverter.from_keras_model(flat)
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


def _lower(path, quantization, batch_size):
    """Loads a model and lowers it for XNNPACK."""
    import keras

    from keras_nasnet.delegation import lower

    return lower(
        keras.saving.load_model(path, compile=False),
        integer=QUANTIZATIONS.get(quantization, False),
        batch_size=batch_size,
    )


def _load_twin(path, quantization, batch_size):
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
        convert(**json.load(task_file))
