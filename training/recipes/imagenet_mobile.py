"""NASNet-A (4 @ 1056) on ImageNet: NASNetMobile, as TF-slim trained it.

TF-slim reports 74.0 % top-1 and 91.6 % top-5 accuracy after 250,000 steps of
50 synchronous replicas with 32 images each, about 312 epochs. Label smoothing
and moving average as in the paper. Not run by us: it takes weeks on a GPU.

The data set `imagenet2012` must have been prepared for tfds by hand. Run:

    python -m training.train --recipe=imagenet_mobile \
        --workdir=runs/mobile --strategy=multiworker

With fewer images per step than 1600, lower the learning rate in proportion:

    --batch_size=256 --learning_rate=0.32
"""

from training.recipes import Recipe

RECIPE = Recipe(
    factory="NASNetMobile",
    model={
        "pool_padding": "same",
        "aux_head": True,
        "dropout": 0.5,
        "weight_decay": 4e-5,
    },
    dataset="imagenet2012",
    train_split="train",
    eval_split="validation",
    pipeline="inception",
    pipeline_args={"image_size": 224},
    batch_size=1600,
    epochs=312,
    optimizer="rmsprop",
    learning_rate=2.0,
    schedule="exponential",
    label_smoothing=0.1,
    clip_norm=10.0,
    ema=0.9999,
)
