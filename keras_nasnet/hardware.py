"""What a network runs on."""

import keras

HALF_TYPES = ("float16", "bfloat16")


def is_tensorflow_on_cpu():
    """Tells whether this is TensorFlow without a GPU or TPU."""
    if keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    devices = tf.config.list_logical_devices()
    return all(device.device_type == "CPU" for device in devices)
