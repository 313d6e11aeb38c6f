"""Non-maximum suppression: for batches of any size, and with names."""

import keras
import keras_hub
from keras import ops

from keras_nasnet.detection.targets import gather


@keras.saving.register_keras_serializable("keras_nasnet")
class NamedNonMaxSuppression(keras_hub.layers.NonMaxSuppression):
    """The layer of KerasHub, which also knows what its labels are called.

    KerasHub's detectors have no place for the names of classes. As their
    `prediction_decoder`, this layer keeps them in the detector's file.

    As KerasHub has it, a box has one class, that of its highest score, and
    boxes suppress each other whatever their classes are. Of two objects of
    different classes that overlap by more than `iou_threshold`, only the surer
    one is found. `FasterRCNN` suppresses class by class.

    Args:
        class_names: List of the names of the classes.
        **kwargs: Arguments of `keras_hub.layers.NonMaxSuppression`.

    Example:

    ```python
    detector = keras_hub.models.RetinaNetObjectDetector(
        keras_hub.models.RetinaNetBackbone(backbone, 3, 7, use_p5=False),
        num_classes=2,
        bounding_box_format="xyxy",
        prediction_decoder=keras_nasnet.detection.NamedNonMaxSuppression(
            ["cat", "dog"], bounding_box_format="xyxy", from_logits=True
        ),
    )
    ```
    """

    def __init__(self, class_names, **kwargs):
        super().__init__(**kwargs)
        self.class_names = list(class_names)

    def get_config(self):
        return {**super().get_config(), "class_names": self.class_names}


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
