"""The memory of a search: what was proposed, and what came of it.

A folder holds `proposals.jsonl`, a line for everything the policy proposed,
and `history.jsonl`, a line for every result. Both only grow, and each line is
on the disk before anybody acts on it. Together they tell in which order the
policy proposed and learned, so that after a kill at any moment the same policy
can live through the same again.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil

from absl import logging

from training.search.policies import Proposal

PROPOSALS = "proposals.jsonl"
RESULTS = "history.jsonl"
# Where the processes that train children leave results, each in a file of its
# own, until they are part of the history.
CHILDREN = "children"
# What a line of the history takes over from the result of a child.
KEPT = (
    "reward",
    "failure",
    "epoch",
    "seconds",
    "parameters",
    "multiply_adds",
)


class History:
    """A policy whose proposals and rewards are kept in a folder.

    Args:
        policy: A new policy of `training.search.policies`. If the folder has
            a history, the policy lives through it first.
        folder: Folder of the search. Nobody else can search in it until the
            history is closed, which the end of a `with` block does.

    Raises:
        ValueError: If another process works in the folder, or if results are
            missing from it.
    """

    def __init__(self, policy, folder):
        self.policy = policy
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.lock = open(os.path.join(folder, "lock"), "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another process searches in {folder}. Wait for it, or "
                "choose another folder."
            ) from None
        for name in (PROPOSALS, RESULTS):
            _cut_half_line(os.path.join(folder, name))
        children = os.path.join(folder, CHILDREN)
        if next(read_lines(os.path.join(folder, PROPOSALS)), None) is None:
            # Somebody removed the history to begin anew. The first children
            # may be the same ones again, trained with another budget.
            shutil.rmtree(children, ignore_errors=True)
        os.makedirs(children, exist_ok=True)
        # Small, however long the search: the rest is only in the files.
        self.answered = 0
        self.failed = 0
        self.best = None
        # Proposals without a result, and those of them that nobody works on.
        self.open = {}
        self.interrupted = []
        self._live_through()

    def close(self):
        """Lets others search in the folder."""
        self.lock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def propose(self):
        """Returns the next `Proposal` to work on."""
        if self.interrupted:
            return self.interrupted.pop(0)
        proposal = self.policy.propose(1)[0]
        self.open[proposal.number] = proposal
        line = {
            "number": proposal.number,
            # How much the policy knew.
            "answered": self.answered,
            "decisions": proposal.decisions,
            "log_probs": proposal.log_probs,
        }
        _append(line, os.path.join(self.folder, PROPOSALS))
        return proposal

    def task(self, proposal):
        """Returns what is to be trained, and tells the result of it apart.

        Args:
            proposal: A `Proposal` of this history.

        Returns:
            A dictionary of `"number"`, `"decisions"` and `"seed"`.
        """
        return {
            "number": proposal.number,
            "decisions": list(proposal.decisions),
            "seed": self.policy.seed + proposal.number,
        }

    def answer(self, proposal, result):
        """Takes the result of a proposal.

        Args:
            proposal: A `Proposal` of this history.
            result: Dictionary with the `"reward"`, `None` for a failed child,
                and whatever else of `KEPT` is known.

        Returns:
            The line of the history, a dictionary.
        """
        line = {
            **self.task(proposal),
            "log_prob": sum(proposal.log_probs) or None,
            # Of the controller's last update.
            "entropy": getattr(self.policy, "diagnostics", {}).get("entropy"),
            **{name: result[name] for name in KEPT if name in result},
        }
        if line["reward"] is not None and not math.isfinite(line["reward"]):
            line["reward"] = None
        if hasattr(self.policy.space, "decode"):
            genotype = self.policy.space.decode(proposal.decisions)
            line["genotype"] = genotype.to_dict()
        _append(line, os.path.join(self.folder, RESULTS))
        self._learn(line)
        with contextlib.suppress(FileNotFoundError):
            os.remove(child_file(self.folder, proposal.number))
        return line

    def _learn(self, line):
        proposal = self.open.pop(line["number"])
        self.policy.feedback(proposal, line["reward"])
        self.answered += 1
        self.failed += line["reward"] is None
        if line["reward"] is not None:
            if self.best is None or line["reward"] > self.best["reward"]:
                self.best = line

    def _live_through(self):
        proposals = read_lines(os.path.join(self.folder, PROPOSALS))
        results = read_lines(os.path.join(self.folder, RESULTS))
        for line in proposals:
            while self.answered < line["answered"]:
                line_of_result = next(results, None)
                if line_of_result is None:
                    raise ValueError(
                        f"{self.folder} has lost results: {PROPOSALS} tells of "
                        f"{line['answered']}, {RESULTS} has {self.answered}."
                    )
                self._learn(line_of_result)
            proposal = Proposal(
                line["number"],
                tuple(line["decisions"]),
                tuple(line["log_probs"]),
            )
            self._propose_again(proposal)
            self.open[proposal.number] = proposal
        for line in results:
            self._learn(line)
        # What was finished when nobody was left to hear of it.
        for proposal in list(self.open.values()):
            result = read_child(self.folder, self.task(proposal))
            if result.get("done"):
                self.answer(proposal, result)
        self.interrupted = list(self.open.values())

    def _propose_again(self, proposal):
        """Brings the policy to where it was after a proposal."""
        found = self.policy.propose(1)[0]
        if found.decisions == proposal.decisions:
            return
        # What was really tried counts.
        logging.warning(
            "Proposal %d of %s would be another one now: numbers are rounded "
            "differently here. The search goes on from what was tried.",
            proposal.number,
            self.folder,
        )
        identity = self.policy.space.identity
        waiting = self.policy.pending.pop(identity(found.decisions), [])
        self.policy.pending[identity(proposal.decisions)] = waiting


def child_file(folder, number):
    """Returns the path of the result of a child."""
    return os.path.join(folder, CHILDREN, f"{number}.json")


def read_child(folder, task):
    """Reads what a child left in a folder.

    Args:
        folder: Folder of the search.
        task: What the child was to do, as from `History.task()`. Something
            else under the same number is left by another search.

    Returns:
        A dictionary of what was known of the child, with `"done"` if that is
        its result; empty if it left nothing.
    """
    path = child_file(folder, task["number"])
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        left = json.load(file)
    fits = all(left.get(name) == value for name, value in task.items())
    return left if fits else {}


def read_lines(path):
    """Yields the lines of a file of JSON lines.

    Args:
        path: Path of the file, which need not exist. The half line at the end
            of a file that is being written is left out.
    """
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _cut_half_line(path):
    """Removes what a kill in the middle of writing left behind."""
    if os.path.exists(path):
        with open(path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _append(line, path):
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
