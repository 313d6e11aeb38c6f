"""Measures the most memory that a network needs, beside `keras.applications`.

    python -m benchmarks.memory

Every measurement is a process of its own, and counts all of it, TensorFlow
included. "recompute_cells" keeps less for the gradients and computes it again.
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
RECOMPUTING = f"{comparison.OURS}, recompute_cells"
# Name -> package and further arguments.
CONTENDERS = {
    comparison.PEER: ("keras.applications", ""),
    comparison.OURS: ("keras_nasnet", ""),
    RECOMPUTING: ("keras_nasnet", ", recompute_cells=True"),
}
# Name -> factory, method, number of images.
TASKS = {
    "mobile_predict": ("NASNetMobile", "predict_on_batch", 1),
    "mobile_train": ("NASNetMobile", "train_on_batch", 16),
    "large_predict": ("NASNetLarge", "predict_on_batch", 1),
    "large_train": ("NASNetLarge", "train_on_batch", 4),
}
# Prints the peak in bytes, and the seconds that the last step took.
PROGRAM = """
import json, resource, time
import keras
import numpy as np
import {package}
model = {package}.{factory}(weights=None{arguments})
model.compile("sgd", "sparse_categorical_crossentropy")
arrays = [np.zeros(({images}, *model.input_shape[1:]), "float32")]
if "{method}" == "train_on_batch":
    arrays.append(np.zeros({images}, "int32"))
for _ in range(3):
    start = time.perf_counter()
    model.{method}(*arrays)
    seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([peak, seconds]))
"""


def define_flags():
    flags.DEFINE_multi_enum(
        "task", list(TASKS), list(TASKS), "What to measure."
    )
    flags.DEFINE_string("json", None, "Where to write the peaks, in bytes.")


def peak(name, task):
    """Runs a task in a process of its own.

    Args:
        name: Key of `CONTENDERS`.
        task: Key of `TASKS`.

    Returns:
        Its peak memory in bytes and the time of its last step in seconds.
    """
    package, arguments = CONTENDERS[name]
    factory, method, images = TASKS[task]
    return run_program(
        PROGRAM.format(
            package=package,
            arguments=arguments,
            factory=factory,
            method=method,
            images=images,
        )
    )


def run_program(program):
    """Runs a program in a process of its own.

    Args:
        program: Text of the program, which prints JSON in its last line.

    Returns:
        What that line says.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"The process ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    runs = [
        (task, name)
        for task in FLAGS.task
        for name in CONTENDERS
        if name != RECOMPUTING or task.endswith("train")
    ]
    progress = keras.utils.Progbar(len(runs), unit_name="process")
    results = {}
    for task, name in runs:
        bytes_, seconds = peak(name, task)
        results.setdefault(task, {})[name] = {
            "bytes": bytes_,
            "seconds": seconds,
        }
        progress.add(1)
    for task, peaks in results.items():
        print(f"\n{task:32}{'peak':>10}{'ratio':>8}{'step':>10}")
        for name, measured in peaks.items():
            ratio = measured["bytes"] / peaks[comparison.PEER]["bytes"]
            print(
                f"{name:32}{measured['bytes'] / 2**30:7.2f}GiB{ratio:8.2f}"
                f"{measured['seconds']:9.2f}s"
            )
    if FLAGS.json:
        checkpoints.write_json(
            {"machine": comparison.machine(), **results}, FLAGS.json
        )


if __name__ == "__main__":
    define_flags()
    app.run(main)
