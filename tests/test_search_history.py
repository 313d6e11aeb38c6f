"""A search that was interrupted has the same past and the same future."""

import json
import os

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
if keras.config.backend() != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
from training.search.decisions import DecisionSpace  # noqa: E402
from training.search.decisions import NASNetSpace  # noqa: E402
from training.search.history import PROPOSALS  # noqa: E402
from training.search.history import RESULTS  # noqa: E402
from training.search.history import History  # noqa: E402
from training.search.history import child_file  # noqa: E402
from training.search.history import read_lines  # noqa: E402
from training.search.policies import POLICIES  # noqa: E402

SPACE = DecisionSpace([(f"digit_{i}", 3) for i in range(5)])


def reward_of(proposal):
    return sum(proposal.decisions) / 10


def work(history, results, workers=3):
    """Answers out of order, as workers of different speed do."""
    rng = np.random.default_rng(history.answered)
    while history.answered < results:
        while len(history.open) < workers:
            history.propose()
        waiting = list(history.open.values())
        proposal = waiting[rng.integers(len(waiting))]
        # Whoever is not first in line is no longer interrupted.
        history.interrupted = [
            p for p in history.interrupted if p is not proposal
        ]
        reward = None if proposal.number % 7 == 0 else reward_of(proposal)
        history.answer(proposal, {"reward": reward, "seconds": 1.0})


def reopen(history):
    """Returns what a new process makes of the folder."""
    history.close()
    policy = type(history.policy)(SPACE)
    return History(policy, history.folder)


def same_state(policy, other, tmp_path):
    for name, each in (("a", policy), ("b", other)):
        each.save(tmp_path / name)
    with (
        np.load(tmp_path / "a/policy.npz") as a,
        np.load(tmp_path / "b/policy.npz") as b,
    ):
        assert sorted(a) == sorted(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("name", list(POLICIES))
class TestResume:
    def test_same_state(self, name, tmp_path):
        history = History(POLICIES[name](SPACE), tmp_path / "search")
        work(history, 50)
        again = reopen(history)
        same_state(history.policy, again.policy, tmp_path)
        assert again.answered == 50
        assert again.failed == history.failed > 0
        assert again.best == json.loads(json.dumps(history.best))

    def test_same_future(self, name, tmp_path):
        history = History(POLICIES[name](SPACE), tmp_path)
        work(history, 30, workers=1)
        again = reopen(history)
        for _ in range(30):
            expected = history.policy.propose(1)[0]
            proposal = again.propose()
            assert proposal == expected
            history.policy.feedback(expected, reward_of(expected))
            again.answer(proposal, {"reward": reward_of(proposal)})


class TestFolder:
    @pytest.fixture
    def history(self, tmp_path):
        history = History(POLICIES["random"](SPACE), tmp_path)
        work(history, 10)
        return history

    def test_interrupted_are_first(self, history):
        left = list(history.open.values())
        assert len(left) == 2
        again = reopen(history)
        assert [again.propose(), again.propose()] == left
        assert again.propose().number == 13

    def test_half_a_line(self, history):
        """The kill came in the middle of a line."""
        for name, kept in ((RESULTS, 9), (PROPOSALS, 11)):
            path = history.folder / name
            text = path.read_text()
            path.write_text(text[:-5])
            assert len(list(read_lines(path))) == kept
            # Whoever reads must not change what somebody writes.
            assert path.read_text() == text[:-5]
        again = reopen(history)
        assert (history.folder / RESULTS).read_text().endswith("}\n")
        assert again.answered == 9
        work(again, 12)
        assert len(set(_numbers(again))) == 12

    def leave(self, history, proposal, **changes):
        """Writes what a child does whose search was killed."""
        path = child_file(history.folder, proposal.number)
        result = {"reward": 0.75, "seconds": 3.0, "done": True}
        with open(path, "w") as file:
            json.dump({**history.task(proposal), **result, **changes}, file)
        return path

    def test_child_that_nobody_heard_of(self, history):
        proposal = next(iter(history.open.values()))
        self.leave(history, proposal)
        again = reopen(history)
        assert again.answered == 11
        assert proposal.number not in again.open
        assert _results(again)[-1]["reward"] == 0.75
        identity = SPACE.identity(proposal.decisions)
        assert again.policy.rewards[identity] == 0.75
        # And only once.
        assert reopen(again).answered == 11

    @pytest.mark.parametrize(
        "changes", [{"decisions": [2] * 5}, {"seed": 99}, {"done": False}]
    )
    def test_what_is_no_result_of_this_search(self, history, changes):
        proposal = next(iter(history.open.values()))
        self.leave(history, proposal, **changes)
        again = reopen(history)
        assert again.answered == 10
        assert again.interrupted[0] == proposal

    def test_children_of_a_removed_history(self, history):
        """Were trained with another budget, perhaps."""
        path = self.leave(history, next(iter(history.open.values())))
        for name in (RESULTS, PROPOSALS):
            os.remove(history.folder / name)
        again = reopen(history)
        assert again.answered == 0
        assert not os.path.exists(path)
        # A new child has a place for its result.
        assert os.path.isdir(os.path.dirname(path))

    def test_lost_results(self, history):
        path = history.folder / RESULTS
        path.write_text("".join(path.read_text().splitlines(True)[:3]))
        with pytest.raises(ValueError, match="has lost results"):
            reopen(history)

    def test_two_at_once(self, history):
        with pytest.raises(ValueError, match="Another process searches in"):
            History(POLICIES["random"](SPACE), history.folder)

    def test_another_machine_rounds_differently(self, history):
        """What was tried counts, not what would be proposed now."""
        path = history.folder / PROPOSALS
        lines = [json.loads(x) for x in path.read_text().splitlines()]
        open_number = next(iter(history.open))
        for line in lines:
            if line["number"] == open_number:
                line["decisions"] = [2, 2, 2, 2, 2]
        path.write_text("".join(json.dumps(x) + "\n" for x in lines))
        again = reopen(history)
        assert again.open[open_number].decisions == (2, 2, 2, 2, 2)
        assert set(again.policy.pending) == {
            SPACE.identity(p.decisions) for p in again.open.values()
        }

    def test_not_a_number_is_a_failure(self, history):
        proposal = history.propose()
        line = history.answer(proposal, {"reward": float("nan")})
        assert line["reward"] is None
        assert history.failed

    def test_line(self, history):
        proposal = history.propose()
        result = {"reward": 0.5, "epoch": 2, "done": True, "parameters": 7}
        line = history.answer(proposal, result)
        assert line == _results(history)[-1]
        assert line.keys() == {
            *("number", "decisions", "seed", "log_prob", "entropy"),
            *("reward", "epoch", "parameters"),
        }
        # Every child has one of its own.
        assert line["seed"] == history.policy.seed + proposal.number

    def test_genotypes_are_kept(self, tmp_path):
        space = NASNetSpace(num_blocks=1)
        policy = POLICIES["controller"](space)
        history = History(policy, tmp_path / "nasnet")
        proposal = history.propose()
        line = history.answer(proposal, {"reward": 0.5})
        expected = space.decode(proposal.decisions)
        assert line["genotype"] == expected.to_dict()
        assert line["log_prob"] == pytest.approx(sum(proposal.log_probs))
        # Uniform over 2 x (2, 2, 13, 13, 2), nearly.
        assert line["log_prob"] == pytest.approx(-2 * np.log(1352), abs=0.5)


def _results(history):
    return list(read_lines(history.folder / RESULTS))


def _numbers(history):
    return [line["number"] for line in _results(history)]
