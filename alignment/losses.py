"""The objectives and estimators of policy optimisation, one function each, as published.

Pure functions of tensors: no model, no config, no device. Rows are completions, B of them, padded on the right to T
tokens; `lengths` (B,) says how many tokens of a row are real, and nothing is ever read off a padding id. Functions
without a row structure take tensors of any one shape and return that shape, so that the caller averages once, over a
count it states.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_LOG_RATIO = 20.0  # exp(20) is still finite in 16-bit; beyond it the clip decides anyway


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """(B,) lengths -> (B, width) True at the real tokens."""
    return torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Sum over the True places of `mask`, divided by `count` (default: their number).

    A micro-batch passes the count of the whole minibatch, so that gradients add up to those of one big batch.
    """
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total / (mask.sum() if count is None else count)


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16), episodes ending with the row.

        delta_t = r_t + gamma V(s_t+1) - V(s_t),  A_t = sum_l (gamma lambda)^l delta_t+l,  V after the last token = 0

    lambda = 0 is the one-step error delta_t; lambda = 1 is the discounted return minus V(s_t).
    `rewards`, `values` (B, T) -> advantages and returns A_t + V(s_t), (B, T), 0 outside the rows.
    """
    mask = length_mask(lengths, rewards.shape[1])
    rewards, values = rewards * mask, values * mask  # V of the place after a row's end is 0
    advantages = torch.zeros_like(rewards)
    following = rewards.new_zeros(rewards.shape[0])  # A_t+1
    next_values = rewards.new_zeros(rewards.shape[0])  # V(s_t+1)
    for t in reversed(range(rewards.shape[1])):
        deltas = rewards[:, t] + gamma * next_values - values[:, t]
        following = (deltas + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
        next_values = values[:, t]
    return advantages, advantages + values


def leave_one_out(scores: Tensor) -> Tensor:
    """Scores (questions, completions) less the mean of the question's other completions (Kool et al. 2019, "Buy 4
    REINFORCE samples, get a baseline for free"): a baseline that does not depend on the completion it is for."""
    count = scores.shape[1]
    return (scores - scores.mean(dim=1, keepdim=True)) * (count / (count - 1))


def group_advantages(scores: Tensor, eps: float = 1e-4) -> Tensor:
    """GRPO's advantages (Shao et al. 2024, arXiv:2402.03300, section 4.1.2): scores (questions, completions) less the
    mean of the question's completions, over their deviation (that of a sample; `eps` keeps equal scores at 0)."""
    return (scores - scores.mean(dim=1, keepdim=True)) / (scores.std(dim=1, keepdim=True) + eps)


def process_advantages(scores: Tensor, steps: Tensor, ends: Tensor, eps: float = 1e-4) -> Tensor:
    """GRPO's advantages under process supervision (Shao et al. 2024, arXiv:2402.03300, section 4.1.3), (questions,
    completions, T): the sum over the steps that end at a token or later of each one's reward, less the mean of the
    steps of all the question's completions, over their deviation.

    `steps` holds the rewards where `ends` is True; a `scores` (questions, completions) beside them is section 4.1.2's,
    one for all tokens. Both are divided by the root of the sum of their variances, so that the weights that made them
    keep their say; where one of the two does not vary, the other's share is the paper's own.
    """
    count = ends.sum(dim=(1, 2), keepdim=True)
    mean = (steps * ends).sum(dim=(1, 2), keepdim=True) / count.clamp_min(1)
    centred = (steps - mean) * ends
    variance = centred.square().sum(dim=(1, 2), keepdim=True) / (count - 1).clamp_min(1)
    deviation = (scores.var(dim=1)[:, None, None] + variance).sqrt() + eps
    following = centred.flip(-1).cumsum(-1).flip(-1)
    return (scores - scores.mean(dim=1, keepdim=True))[:, :, None] / deviation + following / deviation


def terminal_rewards(scores: Tensor, penalties: Tensor, lengths: Tensor) -> Tensor:
    """Rewards (B, T): minus the penalty at every real token, plus the row's score (B,) at its last real token."""
    rewards = -penalties * length_mask(lengths, penalties.shape[1])
    rows = torch.arange(len(scores), device=scores.device)
    return rewards.index_put((rows, lengths - 1), scores, accumulate=True)


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Zero mean and unit variance over the True places of the whole batch; 0 elsewhere."""
    kept = values[mask]
    mean, variance = kept.mean(), kept.var(unbiased=False)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + eps), torch.zeros_like(values))


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """pi(a|s) / pi_old(a|s) of each token; the log ratio is held within +-20."""
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float,
                dual_clip: float | None = None) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), negated, per token.

        L = -min(ratio A, clip(ratio, 1 - low, 1 + high) A)

    low = high in the paper; a wider `clip_high` is DAPO's clip-higher (Yu et al. 2025, arXiv:2503.14476, eq. 10).
    `dual_clip` c > 1 bounds the loss at -c A where A < 0 (Ye et al. 2020, arXiv:1912.09729, eq. 5), so that a token
    that became very likely cannot blow the update up.
    """
    ratio = importance_ratio(logprobs, old_logprobs)
    losses = torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)
    return losses


def truncated_importance(old_logprobs: Tensor, engine_logprobs: Tensor, cap: float) -> Tensor:
    """min(pi_old(a|s) / pi_engine(a|s), cap) of each token: the weight that makes tokens which the engine drew count as
    if the trainer's policy had drawn them, bounded against variance (Ionides 2008; Espeholt et al. 2018,
    arXiv:1802.01561, the rho of V-trace)."""
    return importance_ratio(old_logprobs, engine_logprobs).clamp(max=cap)


def clipped(ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """True where the clip of `policy_loss` stops the gradient: the ratio has left the range on the winning side."""
    return ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float | None) -> Tensor:
    """Half the squared error, per token; with `clip_range` the larger of it and that of the value held near the old
    one (PPO2 of OpenAI Baselines; Engstrom et al. 2020, arXiv:2005.12729, section 3)."""
    losses = (values - returns).square()
    if clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        losses = torch.maximum(losses, (near - returns).square())
    return 0.5 * losses


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: str) -> Tensor:
    """KL(pi || reference) estimated at tokens drawn from pi (Schulman 2020, joschu.net/blog/kl-approx.html).

    With x = log reference - log pi: k1 = -x (unbiased, may be negative), k2 = x^2 / 2 (biased, small variance),
    k3 = e^x - 1 - x (unbiased and never negative).
    """
    x = (reference_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return -x
    if estimator == "k2":
        return 0.5 * x.square()
    if estimator == "k3":
        return x.exp() - 1 - x
    raise ValueError(f"no KL estimator is called {estimator!r}; there are k1, k2 and k3")


@torch.no_grad()
def exact_kl(states: Tensor, head: torch.nn.Module, reference_states: Tensor, reference_head: torch.nn.Module, *,
             temperature: float = 1.0, top_k: int | None = None, limit: int = 1 << 25) -> Tensor:
    """KL(pi || reference) of the next token in nats, (N,), from the last hidden states (N, D) of both: no estimate.

    `top_k` sums over pi's likeliest tokens and takes all others as one: never more than the exact value, equal to it
    where the others are nearly impossible. Logits (N, V) live for at most `limit` elements.
    """
    def chunk(some: Tensor, others: Tensor) -> Tensor:
        ours = (head(some).float() / temperature).log_softmax(-1)
        theirs = (reference_head(others).float() / temperature).log_softmax(-1)
        if top_k is None or top_k >= ours.size(-1):
            return (ours.exp() * (ours - theirs)).sum(-1)
        ours, places = ours.topk(top_k, dim=-1)
        theirs = theirs.gather(-1, places)
        rest, reference_rest = ((1 - part.exp().sum(-1)).clamp(min=1e-12) for part in (ours, theirs))
        return (ours.exp() * (ours - theirs)).sum(-1) + rest * (rest / reference_rest).log()

    rows = max(1, limit // head.weight.shape[0])  # type: ignore[index, union-attr, arg-type]
    return torch.cat([chunk(some, others) for some, others in zip(states.split(rows), reference_states.split(rows),
                                                                  strict=True)])


def adapted_coefficient(coefficient: float, kl: float, *, target: float, count: int, horizon: int) -> float:
    """The KL penalty's next weight, after `count` completions whose mean KL was `kl` (Ziegler et al. 2019,
    arXiv:1909.08593, section 2.2): proportional control of its logarithm, the error held within +-20%."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * count / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the True places: 1 = a perfect critic, 0 = a constant one."""
    return 1 - (returns - values)[mask].var(unbiased=False) / returns[mask].var(unbiased=False).clamp_min(1e-12)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats of softmax(logits) over the last dimension."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def token_logprobs(states: Tensor, head: torch.nn.Linear, targets: Tensor, *, temperature: float = 1.0,
                   with_entropy: bool = False, limit: int = 1 << 25) -> tuple[Tensor, Tensor | None]:
    """log softmax(head(states) / temperature) at `targets`, and its entropy where asked for; both (N,).

    `states` (N, D) are last hidden states, each at the token before its target (N,). Logits (N, V) live for at most
    `limit` elements: beyond that the tokens go in chunks, whose logits are computed again in the backward pass.
    """
    rows = max(1, limit // head.out_features)
    if len(states) <= rows:
        return _token_logprobs(states, head, targets, temperature, with_entropy)
    parts = [checkpoint(_token_logprobs, some, head, few, temperature, with_entropy, use_reentrant=False)
             for some, few in zip(states.split(rows), targets.split(rows), strict=True)]
    entropies = torch.cat([part[1] for part in parts]) if with_entropy else None
    return torch.cat([part[0] for part in parts]), entropies


def _token_logprobs(states: Tensor, head: torch.nn.Linear, targets: Tensor, temperature: float,
                    with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    logits = head(states).float()
    if temperature != 1:
        logits = logits / temperature
    return -F.cross_entropy(logits, targets, reduction="none"), entropy(logits) if with_entropy else None
