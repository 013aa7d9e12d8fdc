"""The updates of one PPO iteration: epochs of minibatches for policy and critic, then self-imitation.

Every loss is a sum over tokens divided by a count of the whole minibatch, so that micro-batches change memory and
nothing else, and so do the processes they are shared out to: gradients are added up before a step. Knows no engine and
no reward.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment import losses
from alignment.experience import Batch
from alignment.group import ONE, Group
from alignment.kinds import Ppo
from alignment.ppo_state import PpoState, Remembered
from alignment.seeds import derive


class NotFinite(FloatingPointError):
    """A loss or a gradient of the policy or the critic, `who`, is not finite."""

    def __init__(self, text: str, *, who: str) -> None:
        super().__init__(text)
        self.who = who


class PpoUpdates:
    """Changes a state by what a batch teaches."""

    def __init__(self, config: Ppo, state: PpoState, *, seed: int, group: Group = ONE) -> None:
        self.config, self.state, self.seed, self.group = config, state, seed, group
        self.left_out: dict[str, float] = {}  # whose steps the iteration has left out, and how many
        self.clip_high = config.clip_range if config.clip_range_high is None else config.clip_range_high

    def update(self, batch: Batch) -> dict[str, float]:
        """Epochs of minibatches; means over the optimizer steps."""
        config, state = self.config, self.state
        warming_up = state.critic is not None and state.iteration < config.critic_warmup
        apart = state.critic is not None and (warming_up or not state.critic.shared)
        policy_done = warming_up
        self._set_rates()
        self.left_out.clear()
        steps: list[dict[str, float]] = []
        for epoch in range(config.num_epochs):
            generator = torch.Generator().manual_seed(derive(self.seed, "order", state.draw, epoch))
            order = torch.randperm(len(batch.prompts), generator=generator).tolist()
            count = math.ceil(len(order) / config.minibatch_size)
            for rows in (order[part::count] for part in range(count)):
                metrics = self._critic_step(batch, rows) if apart else {}
                if not policy_done:
                    metrics |= self._policy_step(batch, rows)
                    policy_done = not metrics["policy_steps"]
                steps.append(metrics)
        found = summary(steps)
        if "nonfinite_policy" in self.left_out:
            found["policy_steps"] -= self.left_out["nonfinite_policy"]
        return found

    def _set_rates(self) -> None:
        """The learning rates of this iteration, from the schedule and the roll-backs so far."""
        left = 1 - self.state.iteration / self.config.num_iterations if self.config.schedule == "linear" else 1.0
        left *= self.config.rollback_factor ** self.state.rollbacks
        for optimizer in self.state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * left

    def _policy_step(self, batch: Batch, rows: Sequence[int]) -> dict[str, float]:
        """One optimizer step of the policy on the clipped surrogate, and of what goes with it: the entropy bonus, the
        KL penalty where it is no part of the reward, the value loss of a critic on the policy's own trunk. No step
        where the policy has already gone further than `max_update_kl`."""
        config, policy, critic = self.config, self.state.policy, self.state.critic
        sums = torch.zeros(6, device=batch.mask.device)  # loss, entropy, clipped, ratio, KL of the update, value loss
        largest = 0.0
        for micro in self.group.mine(batch.micro_batches(rows, config.micro_batch_tokens, policy.base_model)):
            with autocast(self.state.policy, self.config), torch.set_grad_enabled(True):
                states, targets = batch.states(policy.base_model, micro)
                logprobs, entropies = policy_logprobs(policy, states, targets, config, with_entropy=True)
            old, advantages = batch.tokens(batch.old_logprobs, micro), batch.tokens(batch.advantages, micro)
            assert entropies is not None
            surrogate = losses.policy_loss(logprobs, old, advantages, clip_low=config.clip_range,
                                           clip_high=self.clip_high, dual_clip=config.dual_clip)
            if config.importance_cap is not None:
                surrogate = surrogate * losses.truncated_importance(
                    old, batch.tokens(batch.engine_logprobs, micro), config.importance_cap)
            loss, value_loss = surrogate, torch.zeros_like(surrogate)
            if config.entropy_coefficient:
                loss = loss - config.entropy_coefficient * entropies
            if config.advantages == "group" and self.state.kl_coefficient:
                loss = loss + self.state.kl_coefficient * losses.kl_estimate(
                    logprobs, batch.tokens(batch.reference_logprobs, micro), "k3")
            if critic is not None and critic.shared:
                value_loss = self._value_loss(batch, micro, critic(states, batch.trust(micro)))
                loss = loss + config.value_coefficient * value_loss
            self._mean(loss, batch, micro, rows).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                ratio = losses.importance_ratio(logprobs, old)
                stopped = losses.clipped(ratio, advantages, clip_low=config.clip_range, clip_high=self.clip_high)
                moved = losses.kl_estimate(old, logprobs, "k3")
                sums += torch.stack([part.sum() for part in (surrogate, entropies, stopped, ratio, moved, value_loss)])
                largest = max(largest, ratio.max().item())
        self.group.add([sums])
        largest = max(value for [value] in self.group.gather([largest]))
        means = (sums / float(batch.lengths[list(rows)].sum())).tolist()
        metrics = dict(zip(("policy_loss", "entropy", "clip_fraction", "ratio_mean", "update_kl"), means, strict=False))
        metrics |= {"ratio_max": largest, "policy_steps": 1.0}
        if config.max_update_kl is not None and metrics["update_kl"] > config.max_update_kl:
            for optimizer in self.state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            return metrics | {"policy_steps": 0.0}
        metrics["policy_grad_norm"] = self._step(self.state.policy_optimizer, "policy", sums[0])
        if critic is not None and critic.shared and self.state.critic_optimizer is not None:
            metrics["value_loss"] = means[-1]
            metrics["critic_grad_norm"] = self._step(self.state.critic_optimizer, "critic", sums[-1])
        return metrics

    def _critic_step(self, batch: Batch, rows: Sequence[int]) -> dict[str, float]:
        """One optimizer step of the critic alone on the clipped value loss; a shared trunk stays as it is."""
        config, critic, optimizer = self.config, self.state.critic, self.state.critic_optimizer
        assert critic is not None and optimizer is not None
        trunk = self.state.policy.base_model if critic.shared else critic.trunk
        total = torch.zeros((), device=batch.mask.device)
        for micro in self.group.mine(batch.micro_batches(rows, config.micro_batch_tokens, trunk)):
            with autocast(self.state.policy, self.config):
                with torch.set_grad_enabled(not critic.shared):
                    states, _ = batch.states(trunk, micro)
                values = critic(states, batch.trust(micro))
            loss = self._mean(self._value_loss(batch, micro, values), batch, micro, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.group.add([total])
        norm = self._step(optimizer, "critic", total)
        return {"value_loss": total.item(), "critic_grad_norm": norm}

    def _value_loss(self, batch: Batch, micro: Sequence[int], values: Tensor) -> Tensor:
        return losses.value_loss(values, batch.tokens(batch.old_values, micro), batch.tokens(batch.returns, micro),
                                 clip_range=self.config.value_clip_range)

    def _mean(self, values: Tensor, batch: Batch, micro: Sequence[int], rows: Sequence[int]) -> Tensor:
        """What the micro-batch's tokens (N,) add to the mean over the minibatch's `rows`: over their tokens, or over
        the completions' own means."""
        if self.config.normalisation == "sequence":
            share = 1 / (len(rows) * batch.lengths[list(micro)])
            return (values * share.repeat_interleave(batch.lengths[list(micro)])).sum()
        return values.sum() / float(batch.lengths[list(rows)].sum())

    def remember(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], final: Tensor) -> None:
        """Keeps the completions whose score is above the mean of all, and by how much: also of the questions that the
        policy gradient learns nothing from, because all their completions are right."""
        if self.config.imitation_steps:
            gains = (final - final.mean()).tolist()
            self.state.memory += [Remembered(list(prompts[row]), list(completions[row]), gain)
                                  for row, gain in enumerate(gains) if gain > 0]
            del self.state.memory[:-self.config.imitation_memory]

    def imitate(self) -> dict[str, float]:
        """Self-imitation (Oh et al. 2018, arXiv:1806.05531, eq. 2): steps on -log pi(a|s) (R - V(s))+ of remembered
        completions, drawn anew for each step; the mean loss. (R - V)+ is one number a completion, with the batch's mean
        score in the place of V; the critic learns from rollouts alone."""
        config, state = self.config, self.state
        if not state.memory or state.iteration < config.critic_warmup:
            return {}
        drawn = random.Random(derive(self.seed, "imitation", state.draw))
        total = 0.0
        for _ in range(config.imitation_steps):
            chosen = drawn.sample(state.memory, min(config.imitation_batch_size, len(state.memory)))
            batch = Batch.of([row.prompt for row in chosen], [row.completion for row in chosen], state.policy.device)
            gains = torch.tensor([row.gain for row in chosen], device=batch.lengths.device)[:, None] * batch.mask
            loss_sum = torch.zeros((), device=batch.lengths.device)
            for rows in self.group.mine(batch.micro_batches(range(len(chosen)), config.micro_batch_tokens,
                                                             state.policy.base_model)):
                with autocast(self.state.policy, self.config):
                    logprobs, _ = policy_logprobs(state.policy, *batch.states(state.policy.base_model, rows), config)
                loss = -(logprobs * batch.tokens(gains, rows)).sum() / gains.sum()
                loss.backward()  # type: ignore[no-untyped-call]
                loss_sum += loss.detach()
            self.group.add([loss_sum])
            self._step(state.policy_optimizer, "policy", loss_sum)
            total += loss_sum.item()
        return {"imitation_loss": total / config.imitation_steps} if math.isfinite(total) else {}

    def _step(self, optimizer: torch.optim.Optimizer, who: str, loss: Tensor) -> float:
        """Clips the gradient, steps, clears it; its norm before clipping. What is not finite is never taken: NotFinite,
        or, where the alarm but warns, the step is left out."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.group.add_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or math.inf).item()
        if math.isfinite(norm) and math.isfinite(loss.item()):
            optimizer.step()
        elif self.config.alarms["nonfinite"] == "warn":
            self.left_out[f"nonfinite_{who}"] = self.left_out.get(f"nonfinite_{who}", 0.0) + 1
        else:
            raise NotFinite(f"PPO iteration {self.state.iteration}: the {who}'s loss is {loss.item()} and its gradient "
                            f"norm {norm}; lower its learning rate, or look at the reward", who=who)
        optimizer.zero_grad(set_to_none=True)
        return norm


def summary(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of the metrics of an iteration's optimizer steps: means, but for the largest ratio and the number of steps. What
    is not finite was left out of the training, and so it is here."""
    finite = [{name: value for name, value in step.items() if math.isfinite(value)} for step in steps]
    names = dict.fromkeys(name for step in finite for name in step)
    series = {name: [step[name] for step in finite if name in step] for name in names}
    found = {name: sum(values) / len(values) for name, values in series.items()}
    if "ratio_mean" in series:
        found |= {"ratio_max": max(series["ratio_max"]), "ratio_first": series["ratio_mean"][0]}
    if "policy_steps" in series:
        found["policy_steps"] = sum(series["policy_steps"])
    return found


def policy_logprobs(model: PreTrainedModel, states: Tensor, targets: Tensor, config: Ppo, *,
                    with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of `targets` (N,) after the states (N, D), at the temperature they are drawn at; and
    entropies."""
    return losses.token_logprobs(states, model.get_output_embeddings(), targets, with_entropy=with_entropy,
                                 temperature=config.temperature or 1.0)


def autocast(model: PreTrainedModel, config: Ppo) -> torch.autocast:
    return torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16")
