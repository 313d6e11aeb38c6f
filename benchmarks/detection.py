"""Measures what a detector on the published networks takes.

    python -m benchmarks.detection --network=mobile --image_size=600

Every measurement is a process of its own, with one image: first `predict()`,
then a step of training all weights. Peaks count everything, TensorFlow
included, and the time is that of a second call.
"""

import keras
from absl import app
from absl import flags

from benchmarks import comparison
from benchmarks import memory
from training import checkpoints

FLAGS = flags.FLAGS
NETWORKS = {"mobile": "NASNetMobile", "large": "NASNetLarge"}
TASKS = ("predict", "train")
PROGRAM = """
import json, resource, time
import keras
import keras_nasnet
import numpy as np
from keras_nasnet import detection
backbone = keras_nasnet.{factory}(weights=None, recompute_cells={recompute})
detector = detection.FasterRCNN(
    backbone,
    num_classes=80,
    proposals={proposals},
    region_samples={region_samples},
)
# Random weights would not survive a real step.
detector.compile(keras.optimizers.SGD(0.0), jit_compile=False)
images = np.random.default_rng(0).uniform(-1, 1, (1, {size}, {size}, 3))
boxes = np.array([[[50.0, 50, 300, 400]]])
truth = {{"boxes": boxes, "labels": np.zeros((1, 1))}}
for _ in range(2):
    start = time.perf_counter()
    if "{task}" == "train":
        result = detector.train_on_batch(images, truth)
    else:
        result = detector.predict_on_batch(images)["boxes"]
    seconds = time.perf_counter() - start
assert np.isfinite(result).all()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([peak, seconds]))
"""


def define_flags():
    flags.DEFINE_multi_enum(
        "network", list(NETWORKS), list(NETWORKS), "What to detect with."
    )
    flags.DEFINE_multi_enum("task", list(TASKS), list(TASKS), "What to do.")
    flags.DEFINE_multi_integer("image_size", [600, 800], "Sides in pixels.")
    flags.DEFINE_integer("proposals", 300, "Regions that are classified.")
    flags.DEFINE_integer("region_samples", 64, "Regions to learn from.")
    flags.DEFINE_bool("recompute_cells", False, "Keep less for gradients.")
    flags.DEFINE_string("json", None, "Where to write peaks and times.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    runs = [
        (network, size, task)
        for network in FLAGS.network
        for size in FLAGS.image_size
        for task in FLAGS.task
    ]
    progress = keras.utils.Progbar(len(runs), unit_name="process")
    results = []
    for network, size, task in runs:
        program = PROGRAM.format(
            factory=NETWORKS[network],
            recompute=FLAGS.recompute_cells,
            proposals=FLAGS.proposals,
            region_samples=FLAGS.region_samples,
            size=size,
            task=task,
        )
        bytes_, seconds = memory.run_program(program)
        results.append(
            {
                "network": network,
                "image_size": size,
                "task": task,
                "bytes": bytes_,
                "seconds": seconds,
            }
        )
        progress.add(1)
    for result in results:
        print(
            f"{result['network']:8}{result['image_size']:5} "
            f"{result['task']:8}{result['bytes'] / 2**30:7.2f} GiB"
            f"{result['seconds']:9.2f} s"
        )
    if FLAGS.json:
        checkpoints.write_json(
            {"machine": comparison.machine(), "results": results}, FLAGS.json
        )


if __name__ == "__main__":
    define_flags()
    app.run(main)
