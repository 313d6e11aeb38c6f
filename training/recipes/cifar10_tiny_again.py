"""The second half of the training of NASNet-A (2 @ 384) on CIFAR-10.

Starts from the packed result of the first half, at the learning rate that a
schedule over both halves would have reached by then, and without drop path:
the first half ended with a training accuracy as low as the network's accuracy
on images that it had not seen.

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
