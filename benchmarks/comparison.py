"""What all measurements have in common: turns, medians, ratios, reports."""

import contextlib
import os
import platform
import statistics
import time
from importlib import metadata

import keras

PEER = "keras.applications"
OURS = "keras_nasnet"
# What a measurement depends on, as far as it is installed.
PACKAGES = (
    "keras",
    "numpy",
    "tensorflow",
    "ai-edge-litert",
    "onnxruntime",
    "openvino",
    "timm",
    "torch",
)


def in_turns(functions, rounds):
    """Times functions in turns in one process.

    Whatever else the machine does then meets all of them alike.

    Args:
        functions: Dictionary from name to function without arguments.
        rounds: Integer, how often each is timed, after a round that does not
            count.

    Returns:
        A dictionary from name to the list of times in seconds.
    """
    times = {name: [] for name in functions}
    progress = keras.utils.Progbar(rounds + 1, unit_name="round")
    for i in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            elapsed = time.perf_counter() - start
            if i:
                times[name].append(elapsed)
        progress.add(1)
    return times


def report(times, peer=PEER, **facts):
    """Summarises times.

    Args:
        times: What `in_turns()` returned.
        peer: Name of what the others are compared with.
        **facts: What else belongs into the report.

    Returns:
        A dictionary of JSON-compatible values.
    """
    medians = {name: statistics.median(t) for name, t in times.items()}
    return {
        **facts,
        "machine": machine(),
        "seconds": times,
        "median": medians,
        "ratio": {name: m / medians[peer] for name, m in medians.items()},
    }


def print_report(title, result):
    """Prints a report as a table, in milliseconds."""
    print(f"\n{title:28}{'median':>10}{'fastest':>10}{'ratio':>8}")
    for name, values in result["seconds"].items():
        median, fastest = 1e3 * result["median"][name], 1e3 * min(values)
        ratio = result["ratio"][name]
        print(f"{name:28}{median:8.1f}ms{fastest:8.1f}ms{ratio:8.2f}")


def machine():
    """Says what the measurement ran on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "backend": keras.config.backend(),
        **dict(_versions()),
    }


def _versions():
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield package, metadata.version(package)


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()
