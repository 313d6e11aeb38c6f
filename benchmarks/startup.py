"""Times how soon NASNetMobile answers and learns, from a cold start.

    python -m benchmarks.startup

Every start is a process of its own; ours and those of `keras.applications`
take turns. What is timed: importing and building, the answer for the first
image after that, and the first training step on 8 images.
"""

import json
import subprocess
import sys

import keras
from absl import app
from absl import flags

from benchmarks import comparison
from training import checkpoints

FLAGS = flags.FLAGS
FACTORIES = {
    comparison.PEER: "keras.applications.NASNetMobile",
    comparison.OURS: "keras_nasnet.NASNetMobile",
}
STAGES = ("import", "build", "first predict", "first training step")
# A process prints the seconds that each stage took.
PROGRAM = """
import time, json
times = [time.perf_counter()]
import keras
import {package}
times.append(time.perf_counter())
model = {factory}(weights=None)
times.append(time.perf_counter())
import numpy as np
model.predict(np.zeros((1, 224, 224, 3), "float32"), verbose=0)
times.append(time.perf_counter())
if {trains}:
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.zeros((8, 224, 224, 3), "float32")
    start = time.perf_counter()
    model.train_on_batch(x, np.zeros(8, "int32"))
    times.append(times[-1] + time.perf_counter() - start)
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def define_flags():
    flags.DEFINE_integer("rounds", 20, "Starts of each.", lower_bound=1)
    flags.DEFINE_bool("train", True, "Whether to take a training step too.")
    flags.DEFINE_string("json", None, "Where to write the times, in seconds.")


def start(name, trains):
    """Starts a process.

    Args:
        name: Key of `FACTORIES`.
        trains: Whether it takes a training step.

    Returns:
        A dictionary from stage to seconds.
    """
    factory = FACTORIES[name]
    program = PROGRAM.format(
        package=factory.rpartition(".")[0], factory=factory, trains=trains
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    seconds = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(STAGES, seconds))


def measure(rounds, trains):
    """Starts processes in turns.

    Args:
        rounds: Integer, number of starts of each.
        trains: Whether they take a training step.

    Returns:
        A dictionary from stage to the times of each, in seconds. The stage
        `"until first predict"` is the sum of all up to that.
    """
    times = {}
    progress = keras.utils.Progbar(rounds, unit_name="round")
    for _ in range(rounds):
        for name in FACTORIES:
            stages = start(name, trains)
            stages["until first predict"] = sum(
                stages[stage] for stage in STAGES[:3]
            )
            for stage, seconds in stages.items():
                times.setdefault(stage, {}).setdefault(name, []).append(seconds)
        progress.add(1)
    return times


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    results = {}
    for stage, times in measure(FLAGS.rounds, FLAGS.train).items():
        results[stage] = comparison.report(times)
        comparison.print_report(stage, results[stage])
    if FLAGS.json:
        checkpoints.write_json(results, FLAGS.json)


if __name__ == "__main__":
    define_flags()
    app.run(main)
