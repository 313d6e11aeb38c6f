"""Ray Tune as the engine of a search.

Ray starts the processes, shares out the devices and starts children again
whose process died. What is proposed and learned is decided by the policy, and
what is known is in the `History`; Ray's own records are not needed to go on.
"""

import json
import os
import pathlib
import shutil
import time
import traceback

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from training import checkpoints
from training.search.child import ChildFailed
from training.search.history import child_file
from training.search.history import read_child

ROOT = pathlib.Path(__file__).parents[2]
# How often a child is begun again whose process died, before it has failed.
RETRIES = 2
METRIC = "reward"
# What a result of a child says if no child can be trained.
BROKEN = "broken"
# ASHA wants a bound; more than any budget has.
MOST_EPOCHS = 1000


class PolicySearcher(Searcher):
    """Offers the proposals of a policy to Ray Tune as trials.

    Args:
        history: A `training.search.history.History`.
        limit: Integer, number of results at which the search ends.
        on_result: Function that is called with every line of the history.
    """

    def __init__(self, history, limit, on_result=lambda line: None):
        super().__init__(metric=METRIC, mode="max")
        self.history = history
        self.limit = limit
        self.on_result = on_result
        self.trials = {}
        # Why the search cannot go on.
        self.broken = None

    def suggest(self, trial_id):
        under_way = len(self.trials) + self.history.answered
        if self.broken or under_way >= self.limit:
            return Searcher.FINISHED
        proposal = self.history.propose()
        self.trials[trial_id] = proposal
        return {
            "number": proposal.number,
            "decisions": list(proposal.decisions),
            "seed": self.history.policy.seed + proposal.number,
        }

    def on_trial_complete(self, trial_id, result=None, error=False):
        proposal = self.trials.pop(trial_id)
        # What it wrote before anything happened to its process.
        left = read_child(self.history.folder, proposal.number)
        if left:
            result = left
        elif error or not result:
            result = {METRIC: None, "failure": "Its process died."}
        if result.get(BROKEN):
            # Nothing is wrong with this child; it is tried again next time.
            self.broken = result[BROKEN]
            return
        line = self.history.answer(
            proposal, {k: result[k] for k in sorted(result) if k in _KEPT}
        )
        self.on_result(line)

    def __getstate__(self):
        # Ray keeps a copy of what it was started with. It is not needed: the
        # history is on the disk at any time.
        return {}

    def save(self, checkpoint_path):
        pathlib.Path(checkpoint_path).write_text(json.dumps(list(self.trials)))

    def restore(self, checkpoint_path):
        raise NotImplementedError(
            "A search goes on from its history: start it again, with the same "
            "folder."
        )


# What a line of the history takes over from a trial.
_KEPT = {
    METRIC,
    "failure",
    "seed",
    "epoch",
    "seconds",
    "parameters",
    "multiply_adds",
}


class Trial(tune.Trainable):
    """Lets an evaluator work on one proposal after another.

    An evaluator is called with decisions and a seed, and yields dictionaries
    with a `"reward"` and whether it is `"done"`; it raises `ChildFailed` for
    what has no reward.
    """

    def setup(self, config, evaluator, folder):
        self.evaluator = evaluator
        self.folder = folder
        self._begin(config)

    def reset_config(self, new_config):
        self._begin(new_config)
        return True

    def step(self):
        # Left by a process that died before Ray heard of it.
        left = read_child(self.folder, self.number)
        if left:
            return left
        try:
            result = next(self.results)
        except ChildFailed as failure:
            result = {
                METRIC: float("nan"),
                "failure": str(failure),
                "done": True,
            }
        except Exception:
            # Not this child's fault: a wrong folder, a missing package. It
            # would be that of every other child too.
            return {
                METRIC: float("nan"),
                BROKEN: traceback.format_exc(),
                "done": True,
            }
        result["seed"] = self.seed
        result["seconds"] = round(time.monotonic() - self.started, 2)
        path = child_file(self.folder, self.number)
        # A machine that does not see the folder leaves it to Ray.
        if result["done"] and os.path.isdir(os.path.dirname(path)):
            checkpoints.write_json(result, path)
        return result

    def _begin(self, config):
        self.started = time.monotonic()
        self.seed = config["seed"]
        self.number = config["number"]
        self.results = self.evaluator(config["decisions"], self.seed)


def search(
    history,
    evaluator,
    trials,
    address=None,
    concurrent=None,
    cpus=1,
    gpus=0,
    stop_early=False,
    on_result=lambda line: None,
):
    """Runs a search, or goes on with it, until it has enough results.

    Args:
        history: A `training.search.history.History`.
        evaluator: As in `Trial`; it is sent to other processes.
        trials: Integer, number of results, with those that are there.
        address: Address of a Ray cluster; `None` for a local one of its own.
        concurrent: Integer, children at the same time; `None` for as many as
            the processors and devices allow.
        cpus: Processors for a child.
        gpus: Devices for a child, which may be a part of one.
        stop_early: Whether to stop children that fall behind others (ASHA).
            They count with the reward that they have reached.
        on_result: Function that is called with every new line of the history.

    Returns:
        The best line of the history, or `None` if no child succeeded.

    Raises:
        ValueError: If no machine has as many processors or devices.
        RuntimeError: If children cannot be trained at all.
        KeyboardInterrupt: If the search was interrupted.
    """
    if history.answered >= trials:
        return history.best
    folder = os.path.abspath(history.folder)
    # Ray's records of a run, of which nothing is needed afterwards.
    storage = os.path.join(folder, "ray")
    shutil.rmtree(storage, ignore_errors=True)
    proposer = PolicySearcher(history, trials, on_result)
    try:
        _connect(address, cpus, gpus)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Trial, evaluator=evaluator, folder=folder),
                {"cpu": cpus, "gpu": gpus},
            ),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                search_alg=proposer,
                scheduler=ASHAScheduler(max_t=MOST_EPOCHS)
                if stop_early
                else None,
                num_samples=-1,
                max_concurrent_trials=concurrent,
                # Starting TensorFlow takes longer than a short epoch.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                # Children are small, and trained again rather than resumed.
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_at_end=False
                ),
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)
    if proposer.broken:
        raise RuntimeError(f"No child can be trained:\n{proposer.broken}")
    if history.answered < trials:
        # Ray ends as if nothing had happened.
        raise KeyboardInterrupt
    return history.best


def _connect(address, cpus, gpus):
    """Starts a cluster for this search alone, or joins one."""
    if address and address.startswith("ray://"):
        raise ValueError(
            "`address` must be that of the cluster's head, such as "
            f"10.0.0.1:6379, for a search that runs on it. Received: {address}"
        )
    # Of Ray, which would write logs of every trial.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # A failed child has no reward.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    # Its newer tables appear even where none are wanted.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    environment = {
        "TF_NUM_INTRAOP_THREADS": str(max(1, int(cpus))),
        "TF_NUM_INTEROP_THREADS": str(max(1, int(cpus))),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Children may share a device.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        # Twice as fast for cells of many small operations.
        "TF_ENABLE_ONEDNN_OPTS": "1",
    }
    runtime = {"env_vars": environment}
    if address:
        # Other machines have no checkout.
        runtime["py_modules"] = [
            str(ROOT / name) for name in ("training", "keras_nasnet")
        ]
    else:
        environment["PYTHONPATH"] = str(ROOT)
    ray.init(
        # "local" never joins a cluster that happens to run here.
        address=address or "local",
        runtime_env=runtime,
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level="error",
        # Results are small, and images are read by the children.
        **({} if address else {"object_store_memory": 100 * 2**20}),
    )
    # Ray would wait for machines that are yet to come.
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        there = max(node["Resources"].get(name, 0) for node in ray.nodes())
        if wanted > there:
            raise ValueError(
                f"A child is to have {wanted:g} {name}s, but no machine has "
                f"more than {there:g}."
            )
