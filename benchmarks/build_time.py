"""Times how long it takes to build NASNetMobile, against keras.applications.

    python -m benchmarks.build_time --json build_time.json

Both networks are built in turns in one process, so that whatever else the
machine does meets both alike.
"""

import gc
import json
import os
import statistics
import tempfile
import time

import keras
from absl import app
from absl import flags

import keras_nasnet

FLAGS = flags.FLAGS
flags.DEFINE_integer(
    "rounds", 7, "How often each network is built.", lower_bound=1
)
flags.DEFINE_string("json", None, "Where to write the times, in seconds.")

BUILDERS = {
    "keras_nasnet": keras_nasnet.NASNetMobile,
    "keras.applications": keras.applications.NASNetMobile,
}


def build_times(rounds):
    """Builds the networks in turns.

    Args:
        rounds: Integer, number of builds of each.

    Returns:
        A dictionary from package to the list of its times in seconds.
    """
    times = {name: [] for name in BUILDERS}
    # The first build loads what Keras loads lazily, so it does not count.
    for i in range(rounds + 1):
        for name, build in BUILDERS.items():
            keras.utils.clear_session()
            gc.collect()
            start = time.perf_counter()
            build(weights=None)
            elapsed = time.perf_counter() - start
            if i:
                times[name].append(elapsed)
    return times


def report(times):
    """Summarises the times of both packages.

    Args:
        times: What `build_times()` returned.

    Returns:
        A dictionary of JSON-compatible values.
    """
    medians = {
        name: statistics.median(values) for name, values in times.items()
    }
    return {
        "network": "NASNetMobile",
        "backend": keras.config.backend(),
        "keras": keras.__version__,
        "seconds": times,
        "median": medians,
        "ratio": medians["keras_nasnet"] / medians["keras.applications"],
    }


def write_json(data, path):
    """Writes a JSON file, whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile(
        "w", dir=folder, suffix=".json", delete=False
    ) as file:
        json.dump(data, file, indent=2)
        file.write("\n")
    os.replace(file.name, path)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    result = report(build_times(FLAGS.rounds))
    print(f"{'NASNetMobile':20}{'median':>10}{'fastest':>10}{'slowest':>10}")
    for name, values in result["seconds"].items():
        median = result["median"][name]
        print(f"{name:20}{median:9.2f}s{min(values):9.2f}s{max(values):9.2f}s")
    print(f"{'ratio':20}{result['ratio']:10.2f}")
    if FLAGS.json:
        write_json(result, FLAGS.json)


if __name__ == "__main__":
    app.run(main)
