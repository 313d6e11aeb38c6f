"""Another cycle of training for NASNet-A (2 @ 384) on CIFAR-10.

Starts from the packed result of `cifar10_tiny`, at the learning rate that one
schedule over both would have reached by then, and without drop path: a network
as small as this one had trouble enough to fit its images (89.2 % of them, as
they were moved, blanked and dropped from).

Took the network from 87.93 % to 89.58 % on the test images, and run once more
on the result, with `--epochs=10 --learning_rate=0.03`, to 90.19 %; in 8 to 11
minutes per epoch on two cores.

Run:

    python -m weights.pack --model=runs/tiny/final.keras --out=half.weights.h5
    python -m training.train --recipe=cifar10_tiny_again \
        --weights=half.weights.h5 --workdir=runs/tiny_again
"""

import dataclasses

from training.recipes import cifar10_tiny

RECIPE = dataclasses.replace(
    cifar10_tiny.RECIPE,
    model={"aux_head": True, "weight_decay": 5e-4},
    epochs=14,
    learning_rate=0.05,
)
