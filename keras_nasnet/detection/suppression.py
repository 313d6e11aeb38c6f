"""Non-maximum suppression for batches of any size."""

import keras
from keras import ops

from keras_nasnet.detection.targets import gather


def suppress(boxes, scores, overlap, min_score, count):
    """Keeps boxes that overlap no kept box of a higher score too much.

    KerasHub's layer has to know the number of images, which `fit()` and
    `predict()` leave open for the last batch.

    Args:
        boxes: Tensor `(images, boxes, 4)` of corners.
        scores: Tensor `(images, boxes)`.
        overlap: Float, the overlap (IoU) above which a box is left out.
        min_score: Float, boxes with this score or a lower one are left out.
        count: Integer, number of boxes to keep at most.

    Returns:
        The indices of the boxes that are kept, highest score first, and
        whether there is a box: two tensors `(images, min(boxes, count))`.
    """
    total = boxes.shape[1]
    scores, order = ops.top_k(scores, total)
    sorted_boxes = gather(boxes, order)
    places = ops.arange(total, dtype="int32")
    is_earlier = ops.expand_dims(places, 0) < ops.expand_dims(places, 1)
    suppresses = ops.logical_and(
        keras.utils.bounding_boxes.compute_iou(
            sorted_boxes, sorted_boxes, bounding_box_format="xyxy"
        )
        > overlap,
        is_earlier,
    )
    is_candidate = scores > min_score

    # The first box is decided at once, and with every pass at least the first
    # of those that still change. Passes are few: one per link of the longest
    # chain of boxes that depend on each other.
    def decide(is_kept, _):
        is_suppressed = ops.any(
            ops.logical_and(suppresses, ops.expand_dims(is_kept, 1)), axis=-1
        )
        decided = ops.logical_and(is_candidate, ops.logical_not(is_suppressed))
        return decided, ops.any(ops.not_equal(decided, is_kept))

    is_kept, _ = ops.while_loop(
        lambda _, is_changing: is_changing,
        decide,
        (is_candidate, ops.convert_to_tensor(True)),
    )
    rank = ops.where(is_kept, total - places, 0)
    rank, kept = ops.top_k(rank, min(count, total))
    return gather(order, kept), rank > 0
