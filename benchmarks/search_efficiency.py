"""How fast policies find good cells, on a table of cells really trained.

Run:

    python -m benchmarks.search_efficiency --table=nasbench201_tss.csv.gz

The table lists all 15,625 cells of NAS-Bench-201. Policies see the accuracy on
validation images; reported is, besides, that of their best on test images.
"""

import csv
import gzip
import json
import re

import numpy as np
from absl import app
from absl import flags

from training import checkpoints
from training.search import report
from training.search.decisions import DecisionSpace
from training.search.policies import POLICIES

FLAGS = flags.FLAGS
OPERATIONS = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)
SPACE = DecisionSpace([(f"edge_{i}", len(OPERATIONS)) for i in range(6)])
# After how many evaluations the best is looked at.
MARKS = (100, 300, 1000)


def define_flags():
    flags.DEFINE_string("table", None, "The table, as .csv.gz.")
    flags.DEFINE_integer("seeds", 20, "Searches by each policy.")
    flags.DEFINE_integer("evaluations", MARKS[-1], "Cells in each search.")
    flags.DEFINE_list("policies", list(POLICIES), "Policies to compare.")
    flags.DEFINE_string("plot", None, "PNG to draw the curves to.")
    flags.DEFINE_string("json", None, "File to write the numbers to.")
    flags.mark_flag_as_required("table")


def read_table(path):
    """Reads the accuracies of all cells.

    Args:
        path: Path of the table.

    Returns:
        A dictionary from decisions to validation and test accuracy, both in
        [0, 1].
    """
    cells = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            names = re.findall(r"([a-z_0-9]+)~\d", row["arch"])
            decisions = tuple(map(OPERATIONS.index, names))
            cells[decisions] = (
                float(row["c10_val"]) / 100,
                float(row["c10_test"]) / 100,
            )
    return cells


def search(policy, cells, evaluations):
    """Returns what was found, in the order of evaluation.

    Returns:
        Three arrays: validation accuracies, test accuracies, and whether a
        cell was evaluated for the first time.
    """
    found, known = [], set()
    while len(found) < evaluations:
        for proposal in policy.propose(20):
            validation, test = cells[proposal.decisions]
            policy.feedback(proposal, validation)
            found.append((validation, test, proposal.decisions not in known))
            known.add(proposal.decisions)
    validation, test, is_new = np.array(found[:evaluations]).T
    return validation, test, is_new.astype(bool)


def best_test(validation, test):
    """Returns the test accuracy of the best by validation, at all times."""
    best = np.maximum.accumulate(validation)
    is_new = np.concatenate([[True], best[1:] > best[:-1]])
    index = np.maximum.accumulate(np.where(is_new, np.arange(len(best)), 0))
    return test[index]


def summarise(searches):
    """Returns what is reported of the searches by one policy.

    Args:
        searches: List of what `search()` returns.

    Returns:
        A dictionary from a name to one number per search.
    """
    numbers = {
        "different cells": [new.sum() for _, _, new in searches],
        "mean of the last 100": [v[-100:].mean() for v, _, _ in searches],
        # Different ones, of which one that has settled finds few.
        "mean of the top 25": [
            np.sort(v[new])[-25:].mean() for v, _, new in searches
        ],
        "best": [v.max() for v, _, _ in searches],
    }
    for mark in MARKS:
        if mark <= len(searches[0][0]):
            numbers[f"test of the best of {mark}"] = [
                best_test(v, t)[mark - 1] for v, t, _ in searches
            ]
    return {name: np.array(values) for name, values in numbers.items()}


def main(_):
    cells = read_table(FLAGS.table)
    curves = {"mean of the last 100": {}, "best": {}, "test of the best": {}}
    results = {}
    for name in FLAGS.policies:
        searches = []
        for seed in range(FLAGS.seeds):
            policy = POLICIES[name](SPACE, seed=seed)
            searches.append(search(policy, cells, FLAGS.evaluations))
            print(f"\r{name}: {seed + 1}/{FLAGS.seeds}", end="", flush=True)
        print()
        results[name] = summarise(searches)
        for curve, values in (
            ("mean of the last 100", [_latest(v) for v, _, _ in searches]),
            ("best", [np.maximum.accumulate(v) for v, _, _ in searches]),
            ("test of the best", [best_test(v, t) for v, t, _ in searches]),
        ):
            curves[curve][name] = values
        for what, values in results[name].items():
            print(f"  {what:25} {values.mean():.4f} ± {values.std():.4f}")
    if FLAGS.plot:
        report.plot_panels(curves, "accuracy", FLAGS.plot)
    if FLAGS.json:
        numbers = {
            name: {k: v.round(5).tolist() for k, v in summary.items()}
            for name, summary in results.items()
        }
        checkpoints.write_text(json.dumps(numbers), FLAGS.json)


def _latest(rewards):
    return report.latest_means(rewards, window=100)


if __name__ == "__main__":
    define_flags()
    app.run(main)
