"""Builds networks in a precision of their own."""

import contextlib

import keras


@contextlib.contextmanager
def dtype_policy(name):
    """Makes Keras build in a dtype policy inside a `with` block.

    Args:
        name: Such as `"float32"`.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
