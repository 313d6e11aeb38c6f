"""Searches for cells.

On this machine, in a folder that holds everything:

    python -m training.search.run --policy=controller --budget=laptop \\
        --trials=100 --workdir=runs/search

Interrupted at any moment, the same command goes on. Without `--budget=laptop`
a child gets what the paper gave it, which wants GPUs. `--address` joins a Ray
cluster instead, whose machines should all see `--workdir` and `--data_dir`.
Afterwards `history.jsonl` holds a line for every child and `best.json` the
best cells. Then see `training.search.rerank` and `training.search.report`.
"""

import dataclasses
import os
import sys
import time

import tensorflow as tf
from absl import app
from absl import flags

import keras_nasnet
from keras_nasnet.genotypes import OPERATION_NAMES
from training import checkpoints
from training.search import searcher
from training.search.budgets import BUDGETS
from training.search.child import ChildEvaluator
from training.search.decisions import NASNetSpace
from training.search.history import History
from training.search.policies import POLICIES

FLAGS = flags.FLAGS
# Seconds beyond the time limit after which the process of a child is ended. A
# child looks at the clock itself after every batch, unless it hangs. The first
# one of a process may need longer, to read the images.
GRACE = 300


def define_flags():
    flags.DEFINE_enum("policy", "controller", list(POLICIES), "What proposes.")
    flags.DEFINE_integer("trials", None, "Children in all.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Decides proposals and children.")
    flags.DEFINE_integer("num_blocks", 5, "Blocks in a cell.", lower_bound=1)
    flags.DEFINE_bool("tied", False, "Search one cell for both kinds.")
    flags.DEFINE_list(
        "operations", list(OPERATION_NAMES), "Operations to choose from."
    )
    define_engine_flags("paper")
    flags.mark_flags_as_required(["trials", "workdir"])


def define_engine_flags(budget):
    """Defines the flags of everything that trains children."""
    flags.DEFINE_enum("budget", budget, list(BUDGETS), "What a child gets.")
    flags.DEFINE_string("workdir", None, "Folder of the search.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tfds data sets.")
    flags.DEFINE_string("address", None, "Ray cluster to join.")
    flags.DEFINE_integer("concurrent", None, "Children at the same time.")
    flags.DEFINE_float("cpus", 1, "Processors for a child.")
    flags.DEFINE_float("gpus", 0, "Devices for a child, such as 0.5.")
    flags.DEFINE_float("time_limit", None, "Seconds that a child may take.")
    flags.DEFINE_bool(
        "asha", False, "Stop children that fall behind after an epoch or more."
    )


def settings_file(folder):
    """Returns the path of the settings of a search."""
    return os.path.join(folder, "search.json")


def run(policy, budget, trials, workdir, data_dir, time_limit, **engine):
    """Searches, or goes on, with progress on the screen and in TensorBoard.

    Args:
        policy: A new policy.
        budget: A `training.search.budgets.Budget`.
        trials: Integer, number of children in all.
        workdir: Folder of the search.
        data_dir: Folder of prepared tfds data sets.
        time_limit: Seconds that a child may take, or `None`.
        **engine: Other arguments of `searcher.search()`.

    Returns:
        The best line of the history, or `None` if no child succeeded.
    """
    settings = {
        "policy": type(policy).__name__,
        **policy.arguments(),
        "space": policy.space.get_config(),
        "budget": dataclasses.asdict(budget),
        "stop_early": engine.get("stop_early", False),
    }
    os.makedirs(workdir, exist_ok=True)
    checkpoints.keep_settings(settings, settings_file(workdir))
    evaluator = ChildEvaluator(policy.space, budget, data_dir, time_limit)
    with (
        History(policy, workdir) as history,
        Monitor(history, trials) as monitor,
    ):
        return searcher.search(
            history,
            evaluator,
            trials,
            time_limit=time_limit and time_limit + GRACE,
            on_result=monitor,
            **engine,
        )


class Monitor:
    """Shows every result on the screen and in TensorBoard.

    Args:
        history: The `History` of the search.
        trials: Integer, number of results at which it ends.
    """

    def __init__(self, history, trials):
        self.history = history
        self.trials = trials
        self.before = history.answered
        self.started = time.monotonic()
        self.board = tf.summary.create_file_writer(
            os.path.join(history.folder, "tensorboard")
        )
        if self.before:
            print(f"Goes on after {self.before} children.")
        print("  child     reward   best     failed  left")

    def __call__(self, line):
        done, best = self.history.answered, self.history.best
        seconds = time.monotonic() - self.started
        left = seconds / (done - self.before) * (self.trials - done)
        shown = line.get("failure") or _decimals(line["reward"])
        print(
            f"  {f'{done}/{self.trials}':9} {shown:8} "
            f"{_decimals(best and best['reward']):8} {self.history.failed:6}"
            f"  {int(left) // 3600}:{int(left) // 60 % 60:02}",
            flush=True,
        )
        values = {
            "reward": line["reward"],
            "best": best and best["reward"],
            **getattr(self.history.policy, "diagnostics", {}),
        }
        with self.board.as_default(step=done):
            for name, value in values.items():
                if value is not None:
                    tf.summary.scalar(name, value)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.board.close()


def _decimals(reward):
    return "-" if reward is None else f"{reward:.4f}"


def leave_devices():
    """Keeps this process, which is small, from taking the children's GPUs."""
    tf.config.set_visible_devices([], "GPU")


def engine_arguments():
    """Returns what the flags of `define_engine_flags()` say."""
    return {
        "workdir": os.path.expanduser(FLAGS.workdir),
        "data_dir": FLAGS.data_dir
        and os.path.abspath(os.path.expanduser(FLAGS.data_dir)),
        "time_limit": FLAGS.time_limit,
        "address": FLAGS.address,
        "concurrent": FLAGS.concurrent,
        "cpus": FLAGS.cpus,
        "gpus": FLAGS.gpus,
        "stop_early": FLAGS.asha,
    }


def main(_):
    leave_devices()
    space = NASNetSpace(FLAGS.num_blocks, FLAGS.operations, tied=FLAGS.tied)
    policy = POLICIES[FLAGS.policy](space, seed=FLAGS.seed)
    arguments = engine_arguments()
    best = run(policy, BUDGETS[FLAGS.budget], FLAGS.trials, **arguments)
    if best is None:
        sys.exit("No child succeeded; history.jsonl says why.")
    path = os.path.join(arguments["workdir"], "best.json")
    keras_nasnet.Genotype.from_dict(best["genotype"]).save(path)
    print(f"Child {best['number']} reached {best['reward']:.4f}: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
