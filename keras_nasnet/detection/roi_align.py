"""Features of boxes, all of one size."""

from keras import ops


def roi_align(features, boxes, size, strides):
    """Cuts boxes out of features, without rounding to whole cells.

    A box is divided into `size` times `size` bins. Each takes the value at its
    center, interpolated between the four nearest cells of the features. Beyond
    the border, features are what they are at the border.

    Args:
        features: Tensor `(images, height, width, channels)`.
        boxes: Tensor `(images, boxes, 4)`, corners `(left, top, right,
            bottom)` in pixels of the image.
        size: Integer, height and width of the result.
        strides: Integer, pixels of the image per cell of the features.

    Returns:
        A tensor `(images, boxes, size, size, channels)`.

    Source:
        - [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3
    """
    height, width, channels = features.shape[1:]
    count = boxes.shape[1]
    left, top, right, bottom = ops.split(
        ops.cast(boxes, "float32") / strides, 4, axis=-1
    )
    centers = (ops.arange(size, dtype="float32") + 0.5) / size
    # A cell's own value is that of its center.
    y0, y1, y_weight = _neighbours(top + (bottom - top) * centers, height)
    x0, x1, x_weight = _neighbours(left + (right - left) * centers, width)
    # All images in one row, as gathering along one axis is what is fast.
    cells = ops.reshape(features, (-1, channels))
    images = ops.arange(ops.shape(features)[0], dtype="int32")
    first_cells = ops.reshape(images * (height * width), (-1, 1, 1, 1))

    def gather(rows, columns):
        places = rows[..., :, None] * width + columns[..., None, :]
        places = ops.reshape(first_cells + places, (-1,))
        return ops.reshape(
            ops.take(cells, places, axis=0), (-1, count, size, size, channels)
        )

    y_weight = ops.cast(y_weight[..., :, None, None], features.dtype)
    x_weight = ops.cast(x_weight[..., None, :, None], features.dtype)
    upper = gather(y0, x0) * (1 - x_weight) + gather(y0, x1) * x_weight
    lower = gather(y1, x0) * (1 - x_weight) + gather(y1, x1) * x_weight
    return upper * (1 - y_weight) + lower * y_weight


def _neighbours(position, length):
    """Returns the cells around positions, and how near the second one is."""
    position = ops.clip(position - 0.5, 0, length - 1)
    first = ops.floor(position)
    weight = position - first
    first = ops.cast(first, "int32")
    return first, ops.minimum(first + 1, length - 1), weight
