"""Searches in a process of its own, with children that only pretend."""

import json
import os
import pathlib
import signal
import sys
import time

from training.search import searcher
from training.search.child import ChildFailed
from training.search.decisions import DecisionSpace
from training.search.history import History
from training.search.policies import POLICIES

SPACE = DecisionSpace([(f"digit_{i}", 4) for i in range(6)])


class Pretender:
    """Sleeps, notes in files that it is done and where, and answers.

    Args:
        notes: Path of the first file.
        seconds: Seconds that a child takes.
        killed: Seeds of children whose first process is killed.
        hopeless: Seeds of children whose process is always killed.
        failing: Seeds of children that fail.
        raising: Seeds of children that raise an error nobody expects.
        hanging: Seeds of children that never end.
        broken: Whether no child can be trained.
    """

    def __init__(
        self,
        notes,
        seconds,
        killed=(),
        hopeless=(),
        failing=(),
        raising=(),
        hanging=(),
        broken=False,
    ):
        self.notes = pathlib.Path(notes)
        self.seconds = seconds
        self.killed = killed
        self.hopeless = hopeless
        self.failing = failing
        self.raising = raising
        self.hanging = hanging
        self.broken = broken

    def __call__(self, decisions, seed):
        if self.broken:
            raise ImportError("there is no such package")
        yield {"parameters": 100 + seed}
        if seed in self.raising:
            raise ValueError("Nobody expects this.\nNor this.")
        if seed in self.hanging:
            time.sleep(3600)
        yield {"reward": sum(decisions) / 36, "done": False, "epoch": 1}
        mark = self.notes.with_suffix(f".{seed}")
        if seed in self.hopeless or (seed in self.killed and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if seed in self.failing:
            raise ChildFailed("Pretends to.")
        for path, note in (
            (self.notes, seed),
            (self.notes.with_suffix(".processes"), os.getpid()),
        ):
            with open(path, "a") as file:
                file.write(f"{note}\n")
        yield {"reward": sum(decisions) / 18, "done": True, "epoch": 2}


def main(task):
    policy = POLICIES[task["policy"]](SPACE, seed=0)
    evaluator = Pretender(task["notes"], **task["evaluator"])
    with History(policy, task["workdir"]) as history:
        searcher.search(history, evaluator, task["trials"], **task["engine"])
    policy.save(task["workdir"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
