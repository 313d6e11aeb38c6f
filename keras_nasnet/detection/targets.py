"""What boxes ought to be: matched with the true ones, and a sample of them."""

import keras
from keras import ops

# What differences of centers and sizes are divided by, so that they vary about
# as much as scores do. As in the TF Object Detection API.
VARIANCE = (0.1, 0.1, 0.2, 0.2)
# Limit of a difference of sizes, in units of its variance: a factor of 55. An
# untrained network might ask exp() for more than there is.
LARGEST_DELTA = 20.0


def encode(anchors, boxes):
    """Returns boxes as differences from anchors, both given as corners."""
    return keras.utils.bounding_boxes.encode_box_to_deltas(
        anchors, boxes, "xyxy", "xyxy", variance=VARIANCE
    )


def decode(anchors, deltas):
    """Returns the corners of boxes from differences from anchors."""
    moves, sizes = ops.split(deltas, 2, axis=-1)
    sizes = ops.clip(sizes, -LARGEST_DELTA, LARGEST_DELTA)
    return keras.utils.bounding_boxes.decode_deltas_to_boxes(
        anchors,
        ops.concatenate([moves, sizes], axis=-1),
        "xyxy",
        "xyxy",
        variance=VARIANCE,
    )


def clip(boxes, height, width):
    """Cuts boxes off at the border of the image."""
    limits = ops.convert_to_tensor([width, height] * 2, boxes.dtype)
    return ops.minimum(ops.maximum(boxes, 0), limits)


def has_area(boxes):
    """Returns whether boxes have anything inside."""
    return ops.logical_and(
        boxes[..., 2] > boxes[..., 0], boxes[..., 3] > boxes[..., 1]
    )


def match(candidates, boxes, labels, positive, negative, keep_best):
    """Finds the true box that every candidate stands for.

    Args:
        candidates: Tensor `(images, candidates, 4)` or `(candidates, 4)`.
        boxes: Tensor `(images, boxes, 4)` of true boxes.
        labels: Tensor `(images, boxes)`, -1 where there is no box.
        positive: Float, overlap (IoU) from which on a candidate counts.
        negative: Float, overlap below which it is background.
        keep_best: Whether the best candidates for a box count in any case.

    Returns:
        The index of the box for every candidate, whether it is positive, and
        whether it is background: three tensors `(images, candidates)`. What
        is neither is left out, and so are candidates without area.
    """
    # KerasHub's BoxMatcher would give a candidate to every missing box.
    overlap = keras.utils.bounding_boxes.compute_iou(
        candidates, boxes, bounding_box_format="xyxy"
    )
    exists = ops.expand_dims(labels >= 0, 1)
    overlap = ops.where(exists, overlap, 0.0)
    best = ops.max(overlap, axis=-1)
    is_positive = best >= positive
    if keep_best:
        record = ops.max(overlap, axis=1, keepdims=True)
        is_record = ops.logical_and(overlap >= record, record > 0)
        is_positive = ops.logical_or(is_positive, ops.any(is_record, axis=-1))
    is_negative = ops.logical_and(
        ops.logical_and(best < negative, has_area(candidates)),
        ops.logical_not(is_positive),
    )
    return ops.argmax(overlap, axis=-1), is_positive, is_negative


def sample(is_positive, is_negative, count, share, seed):
    """Draws candidates to learn from.

    Args:
        is_positive: Boolean tensor `(images, candidates)`.
        is_negative: Boolean tensor of the same shape.
        count: Integer, how many are drawn for each image, of at least as many
            candidates.
        share: Float, share of `count` that positive ones take at most.
        seed: `keras.random.SeedGenerator`.

    Returns:
        The indices of the candidates, and whether each of them counts, as
        too few may be positive or negative: two tensors `(images, count)`.
    """
    noise = keras.random.uniform(ops.shape(is_positive), seed=seed)
    score = ops.where(is_positive, noise, -1.0)
    least = ops.top_k(score, max(1, int(count * share)))[0][:, -1:]
    is_drawn = ops.logical_and(is_positive, score >= least)
    # Positive ones first, then the others as far as there is room.
    score = ops.where(is_drawn, noise + 1, ops.where(is_negative, noise, -1.0))
    score, places = ops.top_k(score, count)
    return places, score >= 0


def gather(values, places):
    """Returns the values `(images, candidates, ...)` at places."""
    extra = (1,) * (len(values.shape) - 2)
    places = ops.reshape(places, (-1, *places.shape[1:], *extra))
    return ops.take_along_axis(values, ops.cast(places, "int32"), axis=1)
