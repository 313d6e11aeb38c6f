"""What a controller costs when hundreds of machines train children.

Run:

    python -m benchmarks.search_scale --workers=500 --children=20000

Workers and children are simulated, on a clock of their own; the policy is real
and proposes for the whole NASNet space. Whatever time it takes passes on that
clock too, and while it thinks, workers wait. Not measured are Ray and the
history on the disk. One child in a hundred fails, one
in twenty takes ten times as long.
"""

import heapq
import resource
import time
import zlib

import numpy as np
from absl import app
from absl import flags

from benchmarks import search_efficiency
from training.search.decisions import NASNetSpace
from training.search.policies import POLICIES

FLAGS = flags.FLAGS
FAILED = 0.01
SLOW = 0.05


def define_flags():
    flags.DEFINE_enum("policy", "controller", list(POLICIES), "What proposes.")
    flags.DEFINE_integer("workers", 500, "Children at the same time.")
    flags.DEFINE_integer("children", 20_000, "Children in all.")
    flags.DEFINE_float("seconds", 600, "That a child takes, on average.")
    flags.DEFINE_string("table", None, "Table to answer from, as .csv.gz.")
    flags.mark_flag_as_required("table")


def simulate(policy, rewards, workers, children, seconds, seed=0):
    """Runs a search on a simulated cluster.

    Args:
        policy: A policy of `training.search.policies`.
        rewards: Array of rewards that children answer from.
        workers: Integer, children at the same time.
        children: Integer, children in all.
        seconds: Float, that an ordinary child takes on average.
        seed: Integer that decides times and failures.

    Yields:
        After every child a dictionary: seconds on the `"clock"`, seconds that
        the policy `"thought"`, and the share of the time that workers were
        `"busy"`.
    """
    rng = np.random.default_rng(seed)
    clock = thought = busy = 0.0
    under_way = []  # (end, order, proposal)
    started = 0

    def think(function, *arguments):
        nonlocal clock, thought
        begin = time.perf_counter()
        result = function(*arguments)
        spent = time.perf_counter() - begin
        clock += spent
        thought += spent
        return result

    def start():
        nonlocal started, busy
        proposal = think(policy.propose, 1)[0]
        duration = seconds * rng.gamma(4) / 4
        duration *= 10 if rng.random() < SLOW else 1
        heapq.heappush(under_way, (clock + duration, started, proposal))
        busy += duration
        started += 1

    for _ in range(min(workers, children)):
        start()
    full = clock  # Until then there was always something to start.
    while under_way:
        end, _, proposal = heapq.heappop(under_way)
        if started == children:
            busy -= max(0, end - full)
        # The head may still be thinking about an earlier one.
        clock = max(clock, end)
        # Something to learn, and endlessly many that are as good.
        key = zlib.crc32(bytes(proposal.decisions[:4])) % len(rewards)
        is_lost = rng.random() < FAILED
        think(policy.feedback, proposal, None if is_lost else rewards[key])
        if started < children:
            start()
            full = clock
        # The end, when there is no more to start, is nobody's fault.
        left = sum(max(0, end - full) for end, *_ in under_way)
        yield {
            "clock": clock,
            "thought": thought,
            "busy": (busy - left) / (full * workers),
        }


def main(_):
    cells = search_efficiency.read_table(FLAGS.table)
    rewards = np.array([validation for validation, _ in cells.values()])
    policy = POLICIES[FLAGS.policy](NASNetSpace())
    states = simulate(
        policy, rewards, FLAGS.workers, FLAGS.children, FLAGS.seconds
    )
    print("children  ms per child  busy    days   memory (MiB)")
    for done, state in enumerate(states, 1):
        if done % (FLAGS.children // 10 or 1) == 0:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{done:8}  {state['thought'] / done * 1000:12.2f}"
                f"  {state['busy']:.4f}  {state['clock'] / 86400:.2f}"
                f"  {memory:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    define_flags()
    app.run(main)
