"""Recipes for detectors: everything that decides what a run produces.

What the text of the paper says of its detectors: Faster R-CNN trained on COCO's
training and validation images without 8,000 for evaluation, 300 to 500
proposals, mAP 29.6 for NASNet-A (4 @ 1056), and 40.7 at 800x800 and 43.1 at a
larger size for NASNet-A (6 @ 4032).

What others report: 600x600 for the first and 1200x1200 for the last, and that
`faster_rcnn_nas` of the TF Object Detection API proposes regions on two cells
with a stride of 16.

The rest is chosen. The images of COCO 2017 are those of 2014 that the paper
had; which 8,000 it left out is not known, here they are the 5,000 of validation
and the last 3,000 of training. Optimizer, batch size and anchors are in the
manner of `faster_rcnn_nas`, but not compared with its file of settings. Not run
by us: that takes weeks on GPUs.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DetectionRecipe:
    """One way to train one detector.

    Args:
        dataset: Path of a COCO-format `.json` file, or name of a tfds data
            set.
        eval_dataset: The same for what to evaluate on.
        images: Folder of the images of a `.json` file.
        eval_images: The same for what to evaluate on.
        train_split: tfds split to train on.
        eval_split: tfds split to evaluate on.
        detector: `"faster_rcnn"` or `"retinanet"`.
        backbone: `"tiny"`, `"mobile"`, `"large"`, or the path of a `.keras`
            file.
        weights: Where the backbone starts: what its factory takes, or
            `"none"` for random weights.
        train_from: Name of the first layer of the backbone to train, `None`
            for all. The fewer there are, the faster is a step.
        faster_rcnn: Arguments of `FasterRCNN`.
        retinanet: `min_level` and `max_level` of the pyramid, and the number
            of `head_layers`.
        train_batch_norm: Whether batch norms learn and follow the images.
        image_size: Side in pixels of the square that images are brought into.
        jitter: Share by which images change in size and brightness.
        batch_size: Images per step.
        epochs: Passes over the training images.
        learning_rate: Peak learning rate of SGD with momentum 0.9, which goes
            down to zero as a cosine does.
        warmup_epochs: Epochs of linear warm-up.
        clip_norm: Limit of the global norm of the gradients.
    """

    dataset: str
    eval_dataset: str
    images: str | None
    eval_images: str | None
    train_split: str | None
    eval_split: str | None
    detector: str
    backbone: str
    weights: str
    train_from: str | None
    faster_rcnn: dict
    retinanet: dict
    train_batch_norm: bool
    image_size: int
    jitter: float
    batch_size: int
    epochs: int
    learning_rate: float
    warmup_epochs: float
    clip_norm: float = 10.0


# What `training.pasted` makes, for two CPU cores.
PASTED = DetectionRecipe(
    dataset="runs/pasted/train.json",
    eval_dataset="runs/pasted/eval.json",
    images="runs/pasted/train",
    eval_images="runs/pasted/eval",
    train_split=None,
    eval_split=None,
    detector="faster_rcnn",
    backbone="tiny",
    weights="cifar10",
    train_from=None,
    faster_rcnn={
        "anchor_sizes": (24, 40, 64),
        # Denser ones cost more than they find.
        "anchor_strides": 8,
        "proposals": 50,
        "region_size": 8,
        "region_samples": 32,
        "proposal_filters": 128,
    },
    retinanet={"min_level": 2, "max_level": 4, "head_layers": 1},
    train_batch_norm=True,
    image_size=128,
    jitter=0.2,
    batch_size=8,
    epochs=5,
    learning_rate=0.02,
    warmup_epochs=0.5,
)
MOBILE = dataclasses.replace(
    PASTED,
    dataset="coco/2017",
    eval_dataset="coco/2017",
    images=None,
    eval_images=None,
    train_split="train[:-3000]",
    eval_split="validation+train[-3000:]",
    backbone="mobile",
    weights="imagenet",
    train_from=None,
    faster_rcnn={"proposals": 300},
    retinanet={"min_level": 3, "max_level": 7, "head_layers": 4},
    train_batch_norm=False,
    image_size=600,
    jitter=0.0,
    batch_size=1,
    epochs=10,
    learning_rate=3e-4,
)
RECIPES = {
    "pasted": PASTED,
    "coco_mobile": MOBILE,
    "coco_large": dataclasses.replace(MOBILE, backbone="large", image_size=800),
}
