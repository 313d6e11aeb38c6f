"""Proximal policy optimisation, as far as a controller needs it."""

import dataclasses

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of the update. The first four are published, the rest is not.

    Args:
        learning_rate: Of the optimizer, Adam.
        entropy_weight: How much a nat of entropy per decision is worth, in
            units of advantage.
        baseline_decay: Weight of the past in the moving average of rewards
            that rewards are compared with.
        batch_size: Architectures per update.
        clip: How far from 1 the ratio of new and old probability of a
            decision still counts.
        epochs: Gradient steps per update, each on the whole batch.
        max_grad_norm: Limit of the global norm of the gradient, or `None`.
        epsilon: Of Adam. As small that rewards may differ by little: what is
            learned from them does not depend on their scale.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), appendix A.2
        - [Proximal Policy Optimization Algorithms](
            https://arxiv.org/abs/1707.06347)
    """

    learning_rate: float = 3.5e-4
    entropy_weight: float = 1e-5
    baseline_decay: float = 0.95
    batch_size: int = 20
    clip: float = 0.2
    epochs: int = 8
    max_grad_norm: float | None = None
    epsilon: float = 1e-12


def loss(log_probs, entropy, old_log_probs, advantages, config):
    """Returns the clipped surrogate loss and its diagnostics.

    Args:
        log_probs: Tensor `(architectures, decisions)`, log-probabilities of
            the decisions now.
        entropy: Tensor of the same shape, entropies now.
        old_log_probs: The log-probabilities with which they were sampled.
        advantages: Tensor `(architectures,)`, rewards minus the baseline.
        config: A `PPOConfig`.

    Returns:
        A scalar, and a dictionary of scalars: `approx_kl` from the old to the
        new policy per decision, `clip_fraction` of the decisions whose ratio
        is out of bounds, and the mean `entropy` of a decision.
    """
    change = log_probs - old_log_probs
    ratio = ops.exp(change)
    clipped = ops.clip(ratio, 1 - config.clip, 1 + config.clip)
    advantages = ops.expand_dims(advantages, -1)
    gain = ops.minimum(ratio * advantages, clipped * advantages)
    mean_entropy = ops.mean(entropy)
    value = -ops.mean(gain) - config.entropy_weight * mean_entropy
    is_outside = ops.abs(ratio - 1) > config.clip
    return value, {
        # Never negative, unlike the mean of the change (Schulman, 2020).
        "approx_kl": ops.mean(ratio - 1 - change),
        "clip_fraction": ops.mean(ops.cast(is_outside, "float32")),
        "entropy": mean_entropy,
    }


def update_baseline(baseline, rewards, config):
    """Returns the moving average after some more rewards.

    Args:
        baseline: Float, the average so far.
        rewards: Array of rewards, in the order in which they came.
        config: A `PPOConfig`.
    """
    for reward in rewards:
        decay = config.baseline_decay
        baseline = decay * baseline + (1 - decay) * float(reward)
    return baseline


def explained_reward(rewards, log_probs):
    """Returns how well the policy's liking foretold the rewards.

    Args:
        rewards: Array `(architectures,)`.
        log_probs: Array `(architectures, decisions)` at sampling.

    Returns:
        The correlation of the two, 0 where one of them does not vary.
    """
    likings = np.asarray(log_probs).sum(1)
    if np.std(rewards) == 0 or np.std(likings) == 0:
        return 0.0
    return float(np.corrcoef(rewards, likings)[0, 1])
