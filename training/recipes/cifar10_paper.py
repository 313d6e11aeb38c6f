"""NASNet-A (6 @ 768) on CIFAR-10, as in the paper with TF-slim's settings.

The paper reports 3.41 % test error, 2.65 % with cutout (mean of five runs).
Settings are those that TF-slim notes for its final CIFAR model: batch 32,
learning rate 0.025 with a single cosine, 600 epochs, clipping at 5, auxiliary
weight 0.4, drop path up to 0.4. The side of the cutout is not in the paper; 16
is that of DeVries and Taylor for CIFAR-10. Not run by us: it takes days on a
GPU.

Run:

    python -m training.train --recipe=cifar10_paper --workdir=runs/cifar10
    python -m training.evaluate --model=runs/cifar10/final.keras \
        --dataset=cifar10 --whiten
"""

from training.recipes import Recipe

RECIPE = Recipe(
    factory="NASNetCIFAR",
    model={
        "aux_head": True,
        "drop_path_rate": 0.4,
        "weight_decay": 5e-4,
    },
    dataset="cifar10",
    train_split="train",
    eval_split=None,
    pipeline="cifar",
    pipeline_args={"cutout": 16, "whiten": True},
    batch_size=32,
    epochs=600,
    optimizer="sgd",
    learning_rate=0.025,
    clip_norm=5.0,
)
