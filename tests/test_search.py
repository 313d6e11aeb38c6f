"""Policies learn, remember, and come back as they were."""

import itertools

import keras
import numpy as np
import pytest

from keras_nasnet import NASNET_A
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype

tf = pytest.importorskip("tensorflow")
if keras.config.backend() != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
from training.search import ppo  # noqa: E402
from training.search.controller import Controller  # noqa: E402
from training.search.decisions import DecisionSpace  # noqa: E402
from training.search.decisions import NASNetSpace  # noqa: E402
from training.search.policies import LESSONS  # noqa: E402
from training.search.policies import PATIENCE  # noqa: E402
from training.search.policies import POLICIES  # noqa: E402
from training.search.policies import ControllerPolicy  # noqa: E402
from training.search.policies import EvolutionPolicy  # noqa: E402
from training.search.policies import Proposal  # noqa: E402
from training.search.policies import RandomPolicy  # noqa: E402

CHOICES = (3, 2, 5)
SPACE = DecisionSpace([(f"decision_{i}", n) for i, n in enumerate(CHOICES)])


ONE_BLOCK = Block(("conv_3x3", 0), ("identity", 1))


def search(policy, reward, count):
    """Runs a search, and returns all decisions and rewards in order."""
    found = []
    while len(found) < count:
        for proposal in policy.propose(min(20, count - len(found))):
            value = reward(proposal.decisions)
            policy.feedback(proposal, value)
            found.append((proposal.decisions, value))
    return found


class TestSpace:
    def test_widths_of_the_paper(self):
        space = NASNetSpace()
        per_block = [(b, b, 13, 13, 2) for b in range(2, 7)]
        assert space.choices == tuple(itertools.chain(*per_block)) * 2
        assert space.size == pytest.approx(5.23e36, rel=0.01)

    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("num_blocks", [1, 3, 5])
    def test_round_trip(self, num_blocks, tied):
        space = NASNetSpace(
            num_blocks, operations=["identity", "conv_3x3"], tied=tied
        )
        rng = np.random.default_rng(0)
        for _ in range(20):
            values = tuple(map(int, rng.integers(space.choices)))
            genotype = space.decode(values)
            assert space.encode(genotype) == values
            assert (genotype.normal == genotype.reduction) or not tied

    def test_decoded_block(self):
        space = NASNetSpace(1, tied=True)
        genotype = space.decode((1, 0, 12, 4, 1))
        assert genotype.normal.blocks == (
            Block(("sep_conv_7x7", 1), ("avg_pool_3x3", 0), "concat"),
        )

    def test_names_of_one_cell(self):
        space = NASNetSpace(1, tied=True)
        # Left and right swapped: the same sum.
        same = (
            space.identity((1, 0, 12, 4, 0)),
            space.identity((0, 1, 4, 12, 0)),
        )
        assert len(set(same)) == 1
        assert space.identity((1, 0, 12, 4, 1)) not in same

    @pytest.mark.parametrize(
        ("genotype", "message"),
        [
            (NASNET_A, "must put out the states that no block reads"),
            (
                Genotype(*[CellGenotype([ONE_BLOCK])] * 2),
                "must have 5 blocks",
            ),
        ],
    )
    def test_genotype_outside(self, genotype, message):
        with pytest.raises(ValueError, match=message):
            NASNetSpace().encode(genotype)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ((0, 0), "Expected 3 choices, received 2"),
            ((0, 2, 0), "'decision_1' is between 0 and 1. Received: 2"),
        ],
    )
    def test_invalid_choices(self, values, message):
        with pytest.raises(ValueError, match=message):
            SPACE.check(values)


class TestController:
    @pytest.fixture(scope="class")
    def controller(self):
        # Large enough weights that every decision depends on those before.
        return Controller(CHOICES, units=8, init_scale=1.0, seed=3)

    def test_samples_have_the_probability_that_they_say(self, controller):
        rng = np.random.default_rng(0)
        drawn, log_probs = controller.sample(4000, rng)
        again, _ = controller.log_probs(drawn)
        np.testing.assert_allclose(log_probs, again, atol=1e-5)
        everything = np.array(list(itertools.product(*map(range, CHOICES))))
        scores, _ = controller.log_probs(everything)
        expected = np.exp(np.sum(scores, axis=1))
        assert expected.sum() == pytest.approx(1, abs=1e-5)
        assert expected.max() > 3 * expected.min()
        counts = (drawn[:, None] == everything).all(-1).sum(0)
        # Five standard errors.
        error = np.sqrt(expected * (1 - expected) / len(drawn))
        assert (np.abs(counts / len(drawn) - expected) < 5 * error).all()

    def test_against_loops(self, controller):
        embeddings, kernel, recurrent, bias = (
            np.array(w)
            for w in (*controller.embedding.weights, *controller.lstm.weights)
        )
        heads, head_biases = np.array(controller.kernel), controller.bias
        decisions = (2, 1, 4)
        tokens = (0, 1 + 2, 1 + 3 + 1)
        hidden, cell = np.zeros((2, 8))
        for step, (token, choices) in enumerate(zip(tokens, CHOICES)):
            gates = embeddings[token] @ kernel + hidden @ recurrent + bias
            i, f, c, o = np.split(gates, 4)
            sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
            hidden = sigmoid(o) * np.tanh(cell)
            logits = hidden @ heads[step] + head_biases[step]
            p = np.exp(logits[:choices]) / np.exp(logits[:choices]).sum()
            scores, entropies = controller.log_probs(np.array([decisions]))
            assert float(scores[0, step]) == pytest.approx(
                np.log(p[decisions[step]]), abs=1e-5
            )
            assert float(entropies[0, step]) == pytest.approx(
                -(p * np.log(p)).sum(), abs=1e-5
            )

    def test_published_start(self):
        controller = Controller(NASNetSpace().choices)
        assert controller.units == 100
        for weight in controller.trainable_variables:
            if "bias" not in weight.path:
                assert 0.09 < np.abs(weight).max() <= 0.1
        _, entropies = controller.log_probs(np.zeros((1, 50), "int32"))
        # Almost uniform: 84.55 nats.
        assert np.sum(entropies) == pytest.approx(84.55, abs=0.5)


class TestPPO:
    config = ppo.PPOConfig(clip=0.2, entropy_weight=0.01)

    def arrays(self):
        rng = np.random.default_rng(0)
        old = np.log(rng.uniform(0.1, 0.9, (6, 3)))
        new = old + rng.normal(0, 0.3, (6, 3))
        entropy = rng.uniform(0.5, 1, (6, 3))
        return new, entropy, old, rng.normal(size=6)

    def test_loss_against_loops(self):
        new, entropy, old, advantages = self.arrays()
        loss, values = ppo.loss(new, entropy, old, advantages, self.config)
        total, kl, outside = 0, 0, 0
        for i in range(6):
            for j in range(3):
                ratio = np.exp(new[i, j] - old[i, j])
                bounded = min(max(ratio, 0.8), 1.2)
                total += min(ratio * advantages[i], bounded * advantages[i])
                kl += ratio - 1 - np.log(ratio)
                outside += not 0.8 <= ratio <= 1.2
        expected = -total / 18 - 0.01 * entropy.mean()
        assert float(loss) == pytest.approx(expected, rel=1e-6)
        assert float(values["approx_kl"]) == pytest.approx(kl / 18, rel=1e-5)
        assert float(values["clip_fraction"]) == pytest.approx(outside / 18)
        assert 0 < outside < 18

    def test_gradient_against_differences(self):
        controller = Controller(CHOICES, units=4, init_scale=0.5, seed=1)
        drawn, old = controller.sample(5, np.random.default_rng(0))
        old = old + 0.05
        advantages = np.linspace(-1, 1, 5).astype("float32")

        def loss():
            new, entropy = controller.log_probs(drawn)
            return ppo.loss(new, entropy, old, advantages, self.config)[0]

        # Embeddings, the LSTM's kernels and bias, the softmaxes and theirs.
        weights = controller.trainable_variables
        assert len(weights) == 6
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [w.value for w in weights])
        for weight, gradient in zip(weights, gradients):
            gradient = tf.convert_to_tensor(gradient).numpy()
            before = weight.numpy()
            # Where they say most.
            largest = np.argsort(-np.abs(gradient), axis=None)[:3]
            for place in zip(*np.unravel_index(largest, gradient.shape)):
                around = []
                for step in (-1e-2, 1e-2):
                    changed = before.copy()
                    changed[place] += step
                    weight.assign(changed)
                    around.append(float(loss()))
                weight.assign(before)
                slope = (around[1] - around[0]) / 2e-2
                assert abs(slope) > 1e-3, weight.path
                assert gradient[place] == pytest.approx(
                    slope, rel=0.02, abs=1e-4
                ), weight.path

    def test_baseline(self):
        assert ppo.update_baseline(0.5, [1.0, 0.0], self.config) == (
            pytest.approx((0.5 * 0.95 + 0.05) * 0.95)
        )

    def test_explained_reward(self):
        log_probs = np.log([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
        assert ppo.explained_reward([1, 2, 3], log_probs) > 0.9
        assert ppo.explained_reward([1, 1, 1], log_probs) == 0


class TestPolicies:
    @pytest.mark.parametrize("name", list(POLICIES))
    def test_same_seed_same_search(self, name):
        def trajectory(seed):
            policy = POLICIES[name](SPACE, seed=seed, repeat=True)
            return search(policy, sum, 60)

        assert trajectory(0) == trajectory(0)
        assert trajectory(0) != trajectory(1)

    @pytest.mark.parametrize("name", list(POLICIES))
    def test_future_is_the_same_after_saving(self, name, tmp_path):
        policy = POLICIES[name](SPACE, seed=5, repeat=True)
        search(policy, sum, 50)  # an update and a half
        policy.save(tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["policy.npz"]
        restored = POLICIES[name].restore(tmp_path)
        assert search(restored, sum, 60) == search(policy, sum, 60)

    def test_another_policy_in_the_folder(self, tmp_path):
        RandomPolicy(SPACE).save(tmp_path)
        with pytest.raises(ValueError, match="is a RandomPolicy, not a Evol"):
            EvolutionPolicy.restore(tmp_path)
        with pytest.raises(ValueError, match="There is no policy in"):
            EvolutionPolicy.restore(tmp_path / "none")

    @pytest.mark.parametrize("name", list(POLICIES))
    def test_nothing_is_tried_twice(self, name):
        policy = POLICIES[name](SPACE)
        tried = [decisions for decisions, _ in search(policy, sum, 30)]
        assert len(set(tried)) == SPACE.size == 30
        # Then everything is known.
        assert policy.propose(1)[0].decisions in tried

    @pytest.mark.parametrize("failure", [None, float("nan")])
    @pytest.mark.parametrize("name", list(POLICIES))
    def test_failed_trials(self, name, failure):
        policy = POLICIES[name](SPACE)

        def reward(decisions):
            return failure if decisions[0] == 0 else 1.0

        search(policy, reward, 20)
        known = set(policy.rewards.values())
        assert known == {0.0, 1.0}

    @pytest.mark.parametrize(
        "rewards, expected",
        [
            ([0.9, 0.91], 0.9),
            ([-2.0, -3.0], -3.0),
            # Without a difference there would be nothing to learn from it.
            ([0.9], -0.1),
            ([-3.0, -3.0], -4.0),
        ],
    )
    def test_reward_of_a_failure(self, rewards, expected, tmp_path):
        policy = RandomPolicy(SPACE)
        *others, failed = policy.propose(len(rewards) + 1)
        for proposal, reward in zip(others, rewards):
            policy.feedback(proposal, reward)
        policy.save(tmp_path)
        policy = RandomPolicy.restore(tmp_path)
        policy.feedback(failed, None)
        identity = SPACE.identity(failed.decisions)
        assert policy.rewards[identity] == pytest.approx(expected)
        # Failures do not get worse and worse.
        (again,) = policy.propose(1)
        policy.feedback(again, None)
        identity = SPACE.identity(again.decisions)
        assert policy.rewards[identity] == pytest.approx(expected)

    @pytest.mark.parametrize("name", list(POLICIES))
    def test_failure_before_any_reward(self, name):
        policy = POLICIES[name](SPACE)
        for _ in range(3):
            for proposal in policy.propose(20):
                policy.feedback(proposal, None)
        assert policy.rewards == policy.pending == {}
        assert not getattr(policy, "waiting", None)
        assert not getattr(policy, "alive", None)

    def test_failure_of_what_is_known(self):
        policy = RandomPolicy(SPACE)
        first, second = policy.propose(2)
        policy.feedback(first, 0.9)
        policy.feedback(second, 0.1)
        policy.feedback(first, None)
        assert policy.rewards[SPACE.identity(first.decisions)] == 0.9

    @pytest.mark.parametrize("count", [1, 20])
    def test_settled(self, count):
        """What wants only what it knows is not asked again and again."""
        policy = RandomPolicy(SPACE)
        (known,) = policy.propose(1)
        policy.feedback(known, 1.0)
        asked = []

        def sample(count):
            asked.append(count)
            return [known] * count

        policy._sample = sample
        found = policy.propose(count)
        assert [p.decisions for p in found] == [known.decisions] * count
        assert [p.number for p in found] == list(range(2, count + 2))
        assert asked == [count] * LESSONS + [count * PATIENCE, count]
        # Drawn among them, what is new is preferred.
        first, *rest = known.decisions
        other = Proposal(0, ((first + 1) % CHOICES[0], *rest))
        policy._sample = lambda count: [known] * (count - 1) + [other]
        assert policy.propose(1)[0].decisions == other.decisions

    def test_scale_of_rewards(self):
        """Small differences teach as much as large ones."""
        config = {"entropy_weight": 0.0}
        found = []
        for scale in (1e-3, 100):
            policy = ControllerPolicy(SPACE, config=config, repeat=True)
            tried = search(policy, lambda d, s=scale: s * sum(d), 300)
            found.append(np.array([d for d, _ in tried]))
        np.testing.assert_array_equal(*found)
        # It has learned.
        assert found[0][-50:].sum() > 1.1 * found[0][:50].sum()

    def test_evolution_without_a_choice(self):
        policy = EvolutionPolicy(DecisionSpace([("only", 1)]), repeat=True)
        assert search(policy, sum, 300)[-1][0] == (0,)

    def test_seed_of_numpy(self, tmp_path):
        RandomPolicy(SPACE, seed=np.int64(3)).save(tmp_path)
        assert RandomPolicy.restore(tmp_path).seed == 3

    @pytest.mark.parametrize("name", list(POLICIES))
    def test_duplicates_of_what_takes_long(self, name):
        """However often it turns up, its reward does not count for more."""
        policy = POLICIES[name](DecisionSpace([("digit", 2)]))
        slow = [policy.propose(1)[0] for _ in range(7)][0]
        assert set(map(len, policy.pending.values())) == {LESSONS}
        learned = []
        policy._learn = lambda proposal, reward: learned.append(reward)
        policy.feedback(slow, 0.5)
        assert learned == [0.5] * (1 + LESSONS)

    def test_space_of_another_module(self, tmp_path):
        class Letters(DecisionSpace):
            pass

        space = Letters([("letter", 26), ("letter", 26)])
        policy = RandomPolicy(space)
        policy.propose(3)
        policy.save(tmp_path)
        with pytest.raises(ValueError, match="`space` must be given .*Letters"):
            RandomPolicy.restore(tmp_path)
        for other in (
            Letters([("letter", 26)]),
            DecisionSpace(space.decisions),
        ):
            with pytest.raises(ValueError, match="`space` must be that of"):
                RandomPolicy.restore(tmp_path, other)
        restored = RandomPolicy.restore(tmp_path, space)
        assert restored.space is space
        assert restored.propose(5) == policy.propose(5)

    @pytest.mark.parametrize("limit", [None, 1e-3])
    def test_limit_of_the_gradient(self, limit):
        config = ppo.PPOConfig(max_grad_norm=limit, epochs=1)
        policy = ControllerPolicy(SPACE, repeat=True, config=config)
        search(policy, sum, 20)
        # After a single step, Adam's are a tenth of the gradients it was given.
        means = [v for v in policy.optimizer.variables if "momentum" in v.path]
        assert len(means) == 6
        norm = np.sqrt(sum(np.sum(np.square(10 * v.numpy())) for v in means))
        if limit:
            assert norm == pytest.approx(limit, rel=1e-3)
        else:
            assert norm > 0.01

    def test_late_and_out_of_order(self):
        policy = ControllerPolicy(SPACE, repeat=True)
        old = policy.propose(10)
        search(policy, sum, 40)
        used = []
        step = policy._step
        policy._step = lambda *arrays: used.append(arrays) or step(*arrays)
        new = policy.propose(10)
        for proposal in reversed([*old, *new]):
            policy.feedback(proposal, sum(proposal.decisions))
        taken, log_probs, _ = used[0]
        # With the probabilities at the time when they were sampled.
        for row, scores, proposal in zip(
            taken, log_probs, reversed([*old, *new]), strict=True
        ):
            assert tuple(row) == proposal.decisions
            np.testing.assert_allclose(scores, proposal.log_probs, rtol=1e-6)

    @pytest.mark.parametrize("seed", range(2))
    def test_controller_finds_what_random_does_not(self, seed):
        """With the published settings, the defaults."""
        # 65,536 architectures, one of which is best; neighbours tell.
        space = DecisionSpace([(f"digit_{i}", 4) for i in range(8)])
        best = (3, 1, 2, 0, 2, 1, 0, 3)

        def reward(decisions):
            return np.mean([a == b for a, b in zip(decisions, best)])

        learned, random = (
            search(policy(space, seed), reward, 400)
            for policy in (ControllerPolicy, RandomPolicy)
        )
        assert best in {decisions for decisions, _ in learned}
        assert best not in {decisions for decisions, _ in random}
        assert np.mean([value for _, value in learned[-40:]]) > 0.8
        assert np.mean([value for _, value in random[-40:]]) < 0.35

    def test_evolution_finds_the_best(self):
        space = DecisionSpace([(f"digit_{i}", 4) for i in range(6)])
        best = (3, 1, 2, 0, 2, 1)

        def reward(decisions):
            return np.mean([a == b for a, b in zip(decisions, best)])

        policy = EvolutionPolicy(space, population=50, tournament=10)
        assert best in {d for d, _ in search(policy, reward, 600)}

    def test_networks(self):
        space = NASNetSpace(num_blocks=2)
        for proposal in ControllerPolicy(space).propose(3):
            genotype = space.decode(proposal.decisions)
            assert len(genotype.normal.blocks) == 2
            assert len(proposal.log_probs) == len(space) == 20
