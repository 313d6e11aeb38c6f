"""NASNet-A (6 @ 4032) on ImageNet: NASNetLarge, as TF-slim trained it.

TF-slim reports 82.7 % top-1 and 96.2 % top-5 accuracy after 250,000 steps of
100 synchronous replicas with 16 images each, about 312 epochs. Label smoothing
and moving average as in the paper. Not run by us: it takes months on a GPU.

The data set `imagenet2012` must have been prepared for tfds by hand. Run:

    python -m training.train --recipe=imagenet_large \
        --workdir=runs/large --strategy=multiworker

With fewer images per step than 1600, lower the learning rate in proportion:

    --batch_size=256 --learning_rate=0.24
"""

import dataclasses

from training.recipes import imagenet_mobile

RECIPE = dataclasses.replace(
    imagenet_mobile.RECIPE,
    factory="NASNetLarge",
    model={
        "pool_padding": "same",
        "aux_head": True,
        "dropout": 0.5,
        "drop_path_rate": 0.3,
        "weight_decay": 5e-5,
    },
    pipeline_args={"image_size": 331},
    learning_rate=1.5,
)
