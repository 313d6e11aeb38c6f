"""What proposes architectures and learns from their rewards.

All policies are used alike:

    for proposal in policy.propose(20):
        policy.feedback(proposal, reward_of(proposal.decisions))

Rewards may come late, in any order, or as `None` for a trial that failed.
"""

import dataclasses
import json
import os
import tempfile

import keras
import numpy as np
from keras import ops

from training.search import decisions as spaces
from training.search import ppo
from training.search.controller import Controller

STATE_FILE = "policy.npz"
# How often new architectures are looked for, in the place of old ones that turn
# up. Such an old one teaches the policy, at no cost. More often, and a policy
# that has settled learns only what it knows.
LESSONS = 5
# How many are drawn at last, for each that is missing, before old ones are
# proposed again.
PATIENCE = 100


@dataclasses.dataclass(frozen=True)
class Proposal:
    """An architecture to try.

    Args:
        number: Integer, counts the proposals of a policy.
        decisions: Tuple of integers, one for each decision of the space.
        log_probs: Tuple of the log-probabilities with which a controller
            took them, empty for other policies.
    """

    number: int
    decisions: tuple
    log_probs: tuple = ()


class Policy:
    """What all policies have in common.

    Args:
        space: A `DecisionSpace`.
        seed: Integer that decides everything random.
        repeat: Whether an architecture may be proposed again whose reward is
            known. Otherwise the policy answers itself, from its history, and
            proposes another one, unless all that it wants is known.
    """

    def __init__(self, space, seed=0, repeat=False):
        self.space = space
        self.repeat = repeat
        self.seed = int(seed)
        self.rng = np.random.default_rng(seed)
        self.proposed = 0
        # Identity of an architecture -> its last reward.
        self.rewards = {}
        # Identity of an architecture that was proposed -> equal ones that
        # wait for the same reward.
        self.pending = {}
        # The worst and the best reward so far.
        self.lowest = self.highest = None

    def propose(self, count):
        """Returns a list of `count` new `Proposal`s."""
        found = []
        for attempt in range(LESSONS + 1):
            is_last = attempt == LESSONS
            drawn = (count - len(found)) * (PATIENCE if is_last else 1)
            for proposal in self._sample(drawn):
                identity = self.space.identity(proposal.decisions)
                if not self.repeat and identity in self.rewards:
                    if not is_last:
                        self._learn(proposal, self.rewards[identity])
                elif not self.repeat and identity in self.pending:
                    waiting = self.pending[identity]
                    # However long the reward takes.
                    if not is_last and len(waiting) < LESSONS:
                        waiting.append(proposal)
                else:
                    found.append(self._expected(proposal))
                if len(found) == count:
                    return found
        # Everything that it wants is known.
        return found + [
            self._expected(proposal)
            for proposal in self._sample(count - len(found))
        ]

    def feedback(self, proposal, reward):
        """Takes the reward of a proposal.

        Args:
            proposal: What `propose()` returned, perhaps long ago.
            reward: Float, larger is better; `None` if the trial failed. That
                counts as the worst reward so far, or as 1 less where all are
                equal; as the architecture's own if that is known; and it
                teaches nothing as long as there is no reward at all.
        """
        identity = self.space.identity(proposal.decisions)
        if reward is None or not np.isfinite(reward):
            reward = self.rewards.get(identity, self._floor())
            if reward is None:
                self.pending.pop(identity, None)
                return
        elif self.lowest is None:
            self.lowest = self.highest = float(reward)
        else:
            self.lowest = min(self.lowest, float(reward))
            self.highest = max(self.highest, float(reward))
        self.rewards[identity] = reward = float(reward)
        for answered in (proposal, *self.pending.pop(identity, [])):
            self._learn(answered, reward)

    def _floor(self):
        """Returns the reward of a failed trial, `None` without any other.

        Not below the others, if they differ: where they differ by little, one
        that does by much would be all that is learned.
        """
        if self.lowest is None or self.lowest < self.highest:
            return self.lowest
        return self.lowest - 1.0

    def save(self, folder):
        """Writes the whole state of the policy, at once or not at all."""
        os.makedirs(folder, exist_ok=True)
        arrays = dict(self._arrays())
        arrays["state"] = np.array(json.dumps(self._state()))
        with tempfile.NamedTemporaryFile(
            dir=folder, suffix=".npz", delete=False
        ) as file:
            np.savez(file, **arrays)
        os.replace(file.name, os.path.join(folder, STATE_FILE))

    @classmethod
    def restore(cls, folder, space=None):
        """Returns the policy that `save()` wrote.

        Its future is the same as that of the one that was saved.

        Args:
            folder: The folder that it was saved to.
            space: The `DecisionSpace` of the policy. Needed only for one whose
                class is not from `training.search.decisions`.

        Raises:
            ValueError: If the folder has none, or one of another kind or for
                another space.
        """
        path = os.path.join(folder, STATE_FILE)
        if not os.path.exists(path):
            raise ValueError(f"There is no policy in {folder}.")
        with np.load(path, allow_pickle=False) as arrays:
            state = json.loads(str(arrays["state"]))
            if state["policy"] != cls.__name__:
                raise ValueError(
                    f"{path} is a {state['policy']}, not a {cls.__name__}."
                )
            space = _space(state, space, path)
            policy = cls(space, **state["arguments"])
            policy._load(state, arrays)
        return policy

    def _expected(self, proposal):
        """Returns a proposal with its number, from now on under way."""
        self.pending.setdefault(self.space.identity(proposal.decisions), [])
        self.proposed += 1
        return dataclasses.replace(proposal, number=self.proposed)

    def _sample(self, count):
        """Returns a list of `Proposal`s, without numbers."""
        raise NotImplementedError

    def _learn(self, proposal, reward):
        """Learns from a reward."""

    def arguments(self):
        """Returns all arguments but the space, as JSON-compatible values."""
        return {"seed": self.seed, "repeat": self.repeat}

    def _state(self):
        return {
            "policy": type(self).__name__,
            "space_class": type(self.space).__name__,
            "space": self.space.get_config(),
            "arguments": self.arguments(),
            "rng": self.rng.bit_generator.state,
            "proposed": self.proposed,
            "rewards": self.rewards,
            "pending": {
                identity: [dataclasses.astuple(p) for p in waiting]
                for identity, waiting in self.pending.items()
            },
            "lowest": self.lowest,
            "highest": self.highest,
        }

    def _load(self, state, arrays):
        self.rng.bit_generator.state = state["rng"]
        self.proposed = state["proposed"]
        self.rewards = state["rewards"]
        self.pending = {
            identity: [Proposal(*map(_tuple, p)) for p in waiting]
            for identity, waiting in state["pending"].items()
        }
        self.lowest = state["lowest"]
        self.highest = state["highest"]

    def _arrays(self):
        return {}


class RandomPolicy(Policy):
    """Takes every decision at random, the paper's baseline.

    Args:
        space: A `DecisionSpace`.
        seed: Integer that decides everything random.
        repeat: As in `Policy`.
    """

    def _sample(self, count):
        drawn = self.rng.integers(
            self.space.choices, size=(count, len(self.space))
        )
        return [Proposal(0, tuple(map(int, row))) for row in drawn]


class EvolutionPolicy(Policy):
    """Regularised evolution: a good parent, one mutation, the oldest dies.

    Args:
        space: A `DecisionSpace`.
        seed: Integer that decides everything random.
        repeat: As in `Policy`.
        population: Integer, number of architectures alive.
        tournament: Integer, number of architectures of which the best one
            becomes the parent.

    Source:
        - [Regularized Evolution for Image Classifier Architecture Search](
            https://arxiv.org/abs/1802.01548)
    """

    def __init__(
        self, space, seed=0, repeat=False, population=100, tournament=25
    ):
        super().__init__(space, seed, repeat)
        if not 1 <= tournament <= population:
            raise ValueError(
                "`tournament` must be between 1 and `population`. Received: "
                f"tournament={tournament}, population={population}"
            )
        self.population = population
        self.tournament = tournament
        self.alive = []  # (decisions, reward), the oldest first

    def _sample(self, count):
        return [Proposal(0, self._child()) for _ in range(count)]

    def _child(self):
        choices = self.space.choices
        # Until there are enough that were drawn at random.
        if self.proposed < self.population or not self.alive:
            return tuple(map(int, self.rng.integers(choices)))
        drawn = self.rng.choice(
            len(self.alive), min(self.tournament, len(self.alive)), False
        )
        parent = max((self.alive[i] for i in drawn), key=lambda x: x[1])[0]
        changeable = [i for i, n in enumerate(choices) if n > 1]
        if not changeable:
            return parent
        where = int(self.rng.choice(changeable))
        # Another choice than the parent's.
        step = self.rng.integers(1, choices[where])
        value = int((parent[where] + step) % choices[where])
        return (*parent[:where], value, *parent[where + 1 :])

    def _learn(self, proposal, reward):
        self.alive.append((tuple(proposal.decisions), reward))
        self.alive = self.alive[-self.population :]

    def arguments(self):
        return {
            **super().arguments(),
            "population": self.population,
            "tournament": self.tournament,
        }

    def _state(self):
        return {**super()._state(), "alive": self.alive}

    def _load(self, state, arrays):
        super()._load(state, arrays)
        self.alive = [(tuple(d), reward) for d, reward in state["alive"]]


class ControllerPolicy(Policy):
    """A recurrent controller, trained by PPO: the paper's search.

    Args:
        space: A `DecisionSpace`.
        seed: Integer that decides everything random.
        repeat: As in `Policy`.
        units: Size of the controller.
        config: A `ppo.PPOConfig` or its dictionary; `None` for the published
            settings.
    """

    def __init__(self, space, seed=0, repeat=False, units=100, config=None):
        super().__init__(space, seed, repeat)
        if isinstance(config, dict):
            config = ppo.PPOConfig(**config)
        self.config = config or ppo.PPOConfig()
        self.units = units
        self.controller = Controller(space.choices, units, seed=seed)
        self.optimizer = keras.optimizers.Adam(
            self.config.learning_rate,
            epsilon=self.config.epsilon,
            global_clipnorm=self.config.max_grad_norm,
        )
        self.optimizer.build(self.controller.trainable_variables)
        self.baseline = None
        self.waiting = []  # (decisions, log_probs, reward)
        # Of the last update, for logs.
        self.diagnostics = {}
        self._gradient_step = None

    def _sample(self, count):
        drawn, log_probs = self.controller.sample(count, self.rng)
        return [
            Proposal(0, tuple(map(int, row)), tuple(map(float, scores)))
            for row, scores in zip(drawn, log_probs)
        ]

    def _learn(self, proposal, reward):
        self.waiting.append(
            (tuple(proposal.decisions), tuple(proposal.log_probs), reward)
        )
        if len(self.waiting) == self.config.batch_size:
            self._update()

    def _update(self):
        taken, old_log_probs, rewards = map(np.array, zip(*self.waiting))
        self.waiting = []
        if self.baseline is None:
            self.baseline = float(rewards.mean())
        advantages = (rewards - self.baseline).astype("float32")
        explained = ppo.explained_reward(rewards, old_log_probs)
        for _ in range(self.config.epochs):
            values = self._step(
                taken.astype("int32"),
                old_log_probs.astype("float32"),
                advantages,
            )
        self.diagnostics = {
            **{k: float(ops.convert_to_numpy(v)) for k, v in values.items()},
            "baseline": self.baseline,
            "explained_reward": explained,
        }
        self.baseline = ppo.update_baseline(self.baseline, rewards, self.config)

    def _step(self, taken, old_log_probs, advantages):
        """Takes a gradient step, and returns diagnostics from before it."""
        import tensorflow as tf

        if self._gradient_step is None:

            @tf.function(reduce_retracing=True)
            def gradient_step(taken, old_log_probs, advantages):
                variables = self.controller.trainable_variables
                with tf.GradientTape() as tape:
                    log_probs, entropy = self.controller.log_probs(taken)
                    loss, values = ppo.loss(
                        log_probs,
                        entropy,
                        old_log_probs,
                        advantages,
                        self.config,
                    )
                gradients = tape.gradient(loss, [v.value for v in variables])
                gradients = [
                    tf.convert_to_tensor(gradient) for gradient in gradients
                ]
                self.optimizer.apply(gradients, variables)
                return values

            self._gradient_step = gradient_step
        return self._gradient_step(
            *map(tf.convert_to_tensor, (taken, old_log_probs, advantages))
        )

    def arguments(self):
        return {
            **super().arguments(),
            "units": self.units,
            "config": dataclasses.asdict(self.config),
        }

    def _variables(self):
        return [*self.controller.weights, *self.optimizer.variables]

    def _state(self):
        return {
            **super()._state(),
            "baseline": self.baseline,
            "waiting": self.waiting,
            "diagnostics": self.diagnostics,
        }

    def _arrays(self):
        return {
            f"variable_{i}": ops.convert_to_numpy(v)
            for i, v in enumerate(self._variables())
        }

    def _load(self, state, arrays):
        super()._load(state, arrays)
        self.baseline = state["baseline"]
        self.waiting = [tuple(map(_tuple, w)) for w in state["waiting"]]
        self.diagnostics = state["diagnostics"]
        for i, variable in enumerate(self._variables()):
            variable.assign(arrays[f"variable_{i}"])


def _space(state, space, path):
    """Returns the space of a saved policy, which is `space` if it is given."""
    name = state["space_class"]
    if space is None:
        if not hasattr(spaces, name):
            raise ValueError(
                f"`space` must be given for the policy in {path}: its {name} "
                "is not from training.search.decisions."
            )
        return getattr(spaces, name).from_config(state["space"])
    # As the file would hold it, without tuples.
    config = json.loads(json.dumps(space.get_config()))
    if (type(space).__name__, config) != (name, state["space"]):
        raise ValueError(
            f"`space` must be that of the policy in {path}: a {name} of "
            f"{state['space']}. Received: a {type(space).__name__} of {config}"
        )
    return space


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


POLICIES = {
    "controller": ControllerPolicy,
    "random": RandomPolicy,
    "evolution": EvolutionPolicy,
}
