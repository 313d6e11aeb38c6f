"""Trains the best cells of searches again, longer and larger.

Run, and run again after any interruption:

    python -m training.search.rerank --history=runs/search --top=5 \\
        --budget=laptop_final --workdir=runs/best

`winner.json` then holds the best cells and `rerank.csv` a line for each. The
paper does this with its best 250.
"""

import csv
import dataclasses
import io
import os
import sys

from absl import app
from absl import flags

from keras_nasnet.genotypes import Genotype
from training import checkpoints
from training.search import run
from training.search.budgets import BUDGETS
from training.search.decisions import DecisionSpace
from training.search.history import RESULTS
from training.search.history import read_lines
from training.search.policies import Policy
from training.search.policies import Proposal

FLAGS = flags.FLAGS
COLUMNS = (
    "name",
    "accuracy",
    "accuracy_in_search",
    "parameters",
    "multiply_adds",
    "epochs",
    "seconds",
    "failure",
)


def define_flags():
    flags.DEFINE_list("history", [], "Folders of searches.")
    flags.DEFINE_integer("top", 0, "How many of all of them to train.")
    flags.DEFINE_list("genotypes", [], "JSON files of other cells to train.")
    flags.DEFINE_integer("seed", 0, "Decides weights, order, augmentation.")
    flags.DEFINE_integer(
        "parameters", None, "Give every network about as many parameters."
    )
    run.define_engine_flags("paper_final")
    flags.mark_flags_as_required(["workdir"])


class CandidateSpace(DecisionSpace):
    """One decision: which of some cells.

    Args:
        genotypes: List of dictionaries as from `Genotype.to_dict()`.
    """

    def __init__(self, genotypes):
        super().__init__([("candidate", len(genotypes))])
        self.genotypes = genotypes

    def decode(self, values):
        return Genotype.from_dict(self.genotypes[values[0]])

    def get_config(self):
        return {"genotypes": self.genotypes}


class InOrderPolicy(Policy):
    """Proposes every candidate once, from the first to the last."""

    def _sample(self, count):
        numbers = range(self.proposed, self.proposed + count)
        return [Proposal(0, (number,)) for number in numbers]


def best_of(folders, count):
    """Returns the best different cells of some searches.

    Args:
        folders: Folders of searches.
        count: Integer, how many.

    Returns:
        A list of `Genotype`s, the best first, and a list of their rewards.
        Each is named after its folder and child.

    Raises:
        ValueError: If there are not as many.
    """
    found = {}
    for folder in folders:
        for line in read_lines(os.path.join(folder, RESULTS)):
            if line["reward"] is None:
                continue
            name = f"{os.path.basename(os.path.abspath(folder))}_"
            cells = dataclasses.replace(
                Genotype.from_dict(line["genotype"]),
                name=name + str(line["number"]),
            )
            identity = cells.canonical_hash()
            # Several searches may have tried them.
            if identity not in found or line["reward"] > found[identity][1]:
                found[identity] = (cells, line["reward"])
    best = sorted(found.values(), key=lambda pair: -pair[1])[:count]
    if len(best) < count:
        raise ValueError(
            f"`top` is {count}, but {', '.join(folders) or 'no history'} has "
            f"{len(best)} different children with a reward."
        )
    return [cells for cells, _ in best], [reward for _, reward in best]


def write_table(lines, rewards, path):
    """Writes what became of the candidates.

    Args:
        lines: Lines of the history, in the order of the table.
        rewards: Their rewards in the search, `None` for other cells.
        path: Path of the CSV file.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for line in lines:
        table.writerow(
            [
                line["genotype"]["name"],
                line["reward"],
                rewards[line["decisions"][0]],
                # Of one that failed not everything is known.
                line.get("parameters"),
                line.get("multiply_adds"),
                line.get("epoch"),
                line.get("seconds"),
                line.get("failure"),
            ]
        )
    checkpoints.write_text(text.getvalue(), path)


def main(_):
    run.leave_devices()
    history = list(map(os.path.expanduser, FLAGS.history))
    cells, rewards = best_of(history, FLAGS.top)
    for path in FLAGS.genotypes:
        cells.append(Genotype.load(os.path.expanduser(path)))
        rewards.append(None)
    if not cells:
        raise ValueError("Nothing to train: give --history and --top.")
    policy = InOrderPolicy(
        CandidateSpace([c.to_dict() for c in cells]), FLAGS.seed
    )
    budget = dataclasses.replace(
        BUDGETS[FLAGS.budget], parameters=FLAGS.parameters
    )
    arguments = run.engine_arguments()
    run.run(policy, budget, len(cells), **arguments)
    workdir = arguments["workdir"]
    lines = list(read_lines(os.path.join(workdir, RESULTS)))
    failed = [line for line in lines if line["reward"] is None]
    lines = [line for line in lines if line["reward"] is not None]
    lines.sort(key=lambda line: -line["reward"])
    write_table([*lines, *failed], rewards, os.path.join(workdir, "rerank.csv"))
    if failed:
        print(f"{len(failed)} of {len(cells)} failed; rerank.csv says why.")
    if not lines:
        sys.exit("No child succeeded.")
    path = os.path.join(workdir, "winner.json")
    Genotype.from_dict(lines[0]["genotype"]).save(path)
    print(
        f"{lines[0]['genotype']['name']} reached {lines[0]['reward']:.4f}: "
        f"{path}"
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
