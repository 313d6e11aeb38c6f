"""Ray Tune as the engine of a search.

Ray starts the processes, shares out the devices and starts children again
whose process died. What is proposed and learned is decided by the policy, and
what is known is in the `History`; Ray's own records are not needed to go on.
"""

import contextlib
import json
import os
import pathlib
import shutil
import threading
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
# TensorFlow keeps something of every network that it trained, so that processes
# grow. After so many children another one is begun.
CHILDREN_OF_A_PROCESS = 30
METRIC = "reward"
# What a result has of an error that nobody expected, which may be the child's
# own, or that of every other child too.
ERROR = "traceback"
# After how many of them without a success in between a search stops.
MOST_ERRORS = 3
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
        # What is under way, and since when.
        self.trials = {}
        # Proposals and results of errors since the last success.
        self.errors = []
        # The error for which the search cannot go on.
        self.broken = None

    def suggest(self, trial_id):
        begun = self.history.answered + len(self.errors) + len(self.trials)
        if self.broken or begun >= self.limit:
            return Searcher.FINISHED
        proposal = self.history.propose()
        self.trials[trial_id] = (proposal, time.monotonic())
        return self.history.task(proposal)

    def on_trial_complete(self, trial_id, result=None, error=False):
        proposal, begun = self.trials.pop(trial_id)
        # What it wrote before anything happened to its process.
        left = read_child(self.history.folder, self.history.task(proposal))
        if left.get("done"):
            result = left
        elif error or not result:
            result = {
                METRIC: None,
                "failure": "Its process died.",
                **left,
                # With every time it was begun, and with waits in between.
                "seconds": round(time.monotonic() - begun, 2),
            }
        if ERROR in result:
            # Others will tell whose fault it is. Until then it has no result,
            # and is tried again by the next search in this folder.
            self.errors.append((proposal, result))
            if len(self.errors) == MOST_ERRORS:
                self.broken = result[ERROR]
            return
        if "failure" not in result and not self.broken:
            self.blame_children()
        self._answer(proposal, result)

    def blame_children(self):
        """Takes errors for failures of the children that had them."""
        for proposal, result in self.errors:
            self._answer(proposal, result)
        self.errors = []

    def _answer(self, proposal, result):
        self.on_result(self.history.answer(proposal, result))

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


class Trial(tune.Trainable):
    """Lets an evaluator work on one proposal after another.

    An evaluator is called with decisions and a seed, and yields dictionaries
    of what it knows by then. Those with a `"reward"` also say whether it is
    `"done"`. It raises `ChildFailed` for what has no reward.
    """

    def setup(self, config, evaluator, folder, time_limit):
        self.evaluator = evaluator
        self.folder = folder
        self.time_limit = time_limit
        self.children = 0
        self._begin(config)

    def reset_config(self, new_config):
        self._begin(new_config)
        return True

    def step(self):
        # Left by a process that died before Ray heard of it.
        left = read_child(self.folder, self.task)
        if left.get("done"):
            return left
        if self.children > CHILDREN_OF_A_PROCESS:
            # With an error Ray ends this process, and begins the child again.
            raise RuntimeError("This process has trained enough children.")
        try:
            with self._watched():
                self.known.update(next(self.results))
                while METRIC not in self.known:
                    self._leave()
                    self.known.update(next(self.results))
        except ChildFailed as failure:
            self._fail(str(failure))
        except Exception as error:
            reason = traceback.format_exception_only(error)[0]
            self._fail(reason.partition("\n")[0])
            self.known[ERROR] = traceback.format_exc()
            if self.children > 1:
                # Earlier children may have left a process in which nothing
                # works. Ray ends it and begins this one again.
                self._leave(done=False)
                raise
        self.known["seconds"] = self._seconds()
        # Another time it may go without an error.
        if self.known["done"] and ERROR not in self.known:
            self._leave()
        return dict(self.known)

    def _begin(self, task):
        self.children += 1
        self.started = time.monotonic()
        self.task = task
        self.known = {}
        self.results = self.evaluator(task["decisions"], task["seed"])

    def _seconds(self):
        return round(time.monotonic() - self.started, 2)

    def _fail(self, reason):
        self.known.update({METRIC: float("nan"), "failure": reason})
        self.known["done"] = True

    def _leave(self, **changes):
        """Writes what is known, for the case that this process dies."""
        path = child_file(self.folder, self.task["number"])
        # A machine that does not see the folder leaves it to Ray.
        if os.path.isdir(os.path.dirname(path)):
            known = {**self.task, **self.known, **changes}
            checkpoints.write_json(known, path)

    @contextlib.contextmanager
    def _watched(self):
        """Ends this process if the time of its child is over meanwhile."""
        if not self.time_limit:
            yield
            return
        left = self.started + self.time_limit - time.monotonic()
        timer = threading.Timer(left, self._end_process)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            # If it was too late for that, there is nothing behind this.
            timer.join()

    def _end_process(self):
        try:
            self._fail(f"Took longer than {self.time_limit:g} s.")
            self.known["seconds"] = self._seconds()
            self._leave()
        finally:
            # What hangs hears of nothing else. The process that Ray starts in
            # the place of this one finds the result.
            os._exit(1)


def search(
    history,
    evaluator,
    trials,
    address=None,
    concurrent=None,
    cpus=1,
    gpus=0,
    stop_early=False,
    time_limit=None,
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
        time_limit: Seconds after which the process of a child is ended, and
            the child has failed; `None` for no limit.
        on_result: Function that is called with every new line of the history.

    Returns:
        The best line of the history, or `None` if no child succeeded.

    Raises:
        ValueError: If no machine has as many processors or devices.
        RuntimeError: If one child after another raises an error.
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
                tune.with_parameters(
                    Trial,
                    evaluator=evaluator,
                    folder=folder,
                    time_limit=time_limit,
                ),
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
                # Once more, as its first process may have had enough.
                failure_config=tune.FailureConfig(RETRIES + 1),
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
    if proposer.errors and history.best is None:
        proposer.broken = proposer.errors[0][1][ERROR]
    if proposer.broken:
        raise RuntimeError(f"No child can be trained:\n{proposer.broken}")
    if history.answered + len(proposer.errors) < trials:
        # Ray ends as if nothing had happened.
        raise KeyboardInterrupt
    proposer.blame_children()
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
