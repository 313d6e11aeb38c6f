"""How good a detector is, by pycocotools."""

import contextlib
import io

import numpy as np

from keras_nasnet.detection.pictures import find

METRICS = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")


def predictions(detector, batches):
    """Finds the objects of images.

    Args:
        detector: A `FasterRCNN`, or a RetinaNet of KerasHub with `"xyxy"`
            boxes.
        batches: What `detection_data.evaluation_batches` returns.

    Returns:
        A list of dictionaries in COCO's format of results, in pixels of the
        original images.
    """
    results = []
    size = None
    for images, targets in batches.as_numpy_iterator():
        count = len(images)
        size = size or count
        # KerasHub's detector wants the same number of images every time.
        filled = np.pad(images, [(0, size - count), (0, 0), (0, 0), (0, 0)])
        found = find(detector, filled)
        for i in range(count):
            boxes = found["boxes"][i] / targets["scale"][i]
            for box, label, score in zip(
                boxes, found["labels"][i], found["scores"][i]
            ):
                if label < 0:
                    continue
                left, top, right, bottom = map(float, box)
                results.append(
                    {
                        "image_id": int(targets["id"][i]),
                        "category_id": int(label),
                        "bbox": [left, top, right - left, bottom - top],
                        "score": float(score),
                    }
                )
    return results


def evaluate(truth, results):
    """Compares detections with the truth.

    Args:
        truth: The dictionary of a COCO-format file.
        results: What `predictions()` returned.

    Returns:
        A dictionary of `"mAP"`, over overlaps from 0.5 to 0.95, `"mAP50"`,
        `"mAP75"`, `"mAP_small"`, `"mAP_medium"` and `"mAP_large"`; -1 where
        there is nothing to find.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Which it prints otherwise.
    with contextlib.redirect_stdout(io.StringIO()):
        expected, found = COCO(), COCO()
        expected.dataset = truth
        expected.createIndex()
        if results:
            found = expected.loadRes(results)
        else:  # which `loadRes()` cannot do with
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(expected, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats)))
