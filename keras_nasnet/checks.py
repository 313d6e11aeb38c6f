"""Checks of arguments that several layers share."""

import numbers


def check_pool_padding(value, argument="pool_padding"):
    """Raises if `value` names no way to pad a pool."""
    if value not in ("zero", "same"):
        raise ValueError(
            f'`{argument}` must be "zero" (keras.applications) or "same" '
            f"(TF-slim). Received: {argument}={value!r}"
        )


def check_fraction(argument, value):
    """Raises if `value` is not a number in [0, 1)."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(
            f"`{argument}` must be a number in [0, 1). "
            f"Received: {argument}={value!r}"
        )


def check_positive(argument, value):
    """Raises if `value` is not a positive integer."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{argument}` must be a positive integer. "
            f"Received: {argument}={value!r}"
        )


def check_strides(strides):
    """Raises unless `strides` keeps or halves the image size."""
    if strides not in (1, 2):
        raise ValueError(
            f"`strides` must be 1 or 2. Received: strides={strides!r}"
        )
