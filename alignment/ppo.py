"""Proximal policy optimisation with a critic, for language models (Schulman et al. 2017; Ouyang et al. 2022).

One iteration, in order: completions from the engine; their scores; the old, the reference's and the critic's view of
each token, by the trainer's own forward passes, so that the ratio is exactly 1 before the first update; rewards with a
KL penalty at each token and the score at the last; advantages; then epochs of minibatches for policy and critic.

What does not decide anything here: where questions, weights and rewards come from, and where numbers go. A completion
is known by its length and its finish reason, never by a padding id. Every loss is a sum over tokens divided by the
token count of the whole minibatch, so that micro-batches change memory and nothing else.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment import losses
from alignment.experience import Batch
from alignment.kinds import Ppo
from alignment.ppo_state import PpoState, Remembered
from alignment.rollout.engine import Engine, Generation, Sampling
from alignment.rollout.rows import to_completion
from alignment.seeds import derive
from data.schema import Question, UserError
from reward import Reward, Scores


class PpoTrainer:
    """Runs iterations on a state. The reference never changes; the engine gets the policy's weights each time."""

    def __init__(self, config: Ppo, state: PpoState, *, reference: PreTrainedModel, engine: Engine, reward: Reward,
                 tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.config, self.state, self.engine, self.reward = config, state, engine, reward
        self.reference, self.tokenizer, self.seed = reference.eval(), tokenizer, seed
        self.clip_high = config.clip_range if config.clip_range_high is None else config.clip_range_high
        check_head(state.policy)

    def iterate(self, questions: Sequence[Question], prompts: Sequence[Sequence[int]]) -> dict[str, float]:
        """One iteration on one completion of each prompt; its metrics (alignment/metrics.py). `questions[i]` is what
        `prompts[i]` renders; repeat it for several completions.

        FloatingPointError where a loss or a gradient is not finite.
        """
        started = time.perf_counter()
        generations = self._generate(questions, prompts)
        generated = time.perf_counter()
        scores = self._score(questions, generations)
        final = self._final(scores, generations)  # (B,)
        kept = self._informative(final)
        batch = Batch.of([prompts[row] for row in kept], [generations[row].token_ids for row in kept],
                         self.state.policy.device)
        self._view(batch)
        metrics = {"reward": final.mean().item(), "trained_on": len(kept) / len(final),
                   **{f"reward_{name}": statistics.fmean(part) for name, part in scores.parts.items()},
                   **self._rewards(batch, self._centred(final)[kept]),
                   **rollout_metrics(batch, generations, kept)}
        scored = time.perf_counter()
        metrics |= self._update(batch)
        self._remember(prompts, generations, final)
        metrics |= self._imitate()
        self.state.iteration += 1
        return metrics | {"seconds_generate": generated - started, "seconds_score": scored - generated,
                          "seconds_update": time.perf_counter() - scored}

    # ------------------------------------------------------------------------------------------------- experience

    def _generate(self, questions: Sequence[Question], prompts: Sequence[Sequence[int]]) -> list[Generation]:
        if self.state.iteration:
            self.engine.push(self.state.policy)
        sampling = Sampling(max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature)
        seeds = [derive(self.seed, "rollout", self.state.iteration, row, question.id)
                 for row, question in enumerate(questions)]
        return self.engine.generate(prompts, sampling, seeds)

    def _score(self, questions: Sequence[Question], generations: Sequence[Generation]) -> Scores:
        completions = [to_completion(self.tokenizer, question.id, row, generation)
                       for row, (question, generation) in enumerate(zip(questions, generations, strict=True))]
        return self.reward(questions, completions)

    @torch.no_grad()
    def _view(self, batch: Batch) -> None:
        """Log-probabilities by the policy as it is and by the reference, and the critic's values."""
        for rows in batch.micro_batches(range(len(batch.prompts)), self.config.micro_batch_tokens):
            with self._autocast():
                for model, target in ((self.state.policy, batch.old_logprobs),
                                      (self.reference, batch.reference_logprobs)):
                    batch.fill(target, rows, self._logprobs(model, batch, rows)[0])
                states, _ = batch.states(self.state.critic.trunk, rows)
                batch.fill(batch.old_values, rows, self.state.critic(states, batch.trust(rows)))

    def _logprobs(self, model: PreTrainedModel, batch: Batch, rows: Sequence[int], *,
                  with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        states, targets = batch.states(model.base_model, rows)
        head = model.get_output_embeddings()
        return losses.token_logprobs(states, head, targets, temperature=self.config.temperature or 1.0,
                                     with_entropy=with_entropy)

    def _final(self, scores: Scores, generations: Sequence[Generation]) -> Tensor:
        """The score of each completion, (B,); `truncation_reward` in its place where it was cut off."""
        return torch.tensor([self.config.truncation_reward if generation.finish_reason == "length" else score
                             for generation, score in zip(generations, scores.total, strict=True)],
                            device=self.state.policy.device, dtype=torch.float32)

    def _informative(self, final: Tensor) -> list[int]:
        """The rows of the questions whose scores are at least `min_spread` apart; all rows if none is."""
        groups = final.view(-1, self.config.num_samples)
        spread = groups.amax(dim=1) - groups.amin(dim=1)
        kept = (~(spread < self.config.min_spread)).repeat_interleave(self.config.num_samples).nonzero()[:, 0].tolist()
        return kept or list(range(len(final)))

    def _centred(self, final: Tensor) -> Tensor:
        """Scores (B,) less their leave-one-out baselines, where asked for."""
        if not self.config.group_baseline:
            return final
        return losses.leave_one_out(final.view(-1, self.config.num_samples)).flatten()

    def _rewards(self, batch: Batch, final: Tensor) -> dict[str, float]:
        """Fills advantages and returns from the scores (B,)."""
        config, count = self.config, int(batch.mask.sum())
        kl = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, config.kl_estimator)
        rewards = losses.terminal_rewards(final, config.kl_coefficient * kl, batch.lengths)
        advantages, batch.returns = losses.gae(rewards, batch.old_values, batch.lengths, gamma=config.gamma,
                                               lam=config.gae_lambda)
        batch.advantages = losses.whiten(advantages, batch.mask) if config.whiten_advantages else advantages
        x = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, "k1") * batch.mask
        k3 = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, "k3")
        variance = losses.explained_variance(batch.old_values, batch.returns, batch.mask)
        return {"kl": (x.sum() / count).item(), "kl_sequence": x.sum(1).mean().item(),
                "kl_k3": losses.masked_mean(k3, batch.mask).item(),
                "values": losses.masked_mean(batch.old_values, batch.mask).item(),
                "explained_variance": variance.item()}

    # ----------------------------------------------------------------------------------------------------- update

    def _update(self, batch: Batch) -> dict[str, float]:
        """Epochs of minibatches; means over the optimizer steps."""
        config, state = self.config, self.state
        warming_up = state.iteration < config.critic_warmup
        self._set_rates()
        steps: list[dict[str, float]] = []
        for epoch in range(config.num_epochs):
            generator = torch.Generator().manual_seed(derive(self.seed, "order", state.iteration, epoch))
            order = torch.randperm(len(batch.prompts), generator=generator).tolist()
            count = math.ceil(len(order) / config.minibatch_size)
            for rows in (order[part::count] for part in range(count)):
                metrics = self._critic_step(batch, rows)
                if not warming_up:
                    metrics |= self._policy_step(batch, rows)
                steps.append(metrics)
        names = dict.fromkeys(name for step in steps for name in step)
        means = {name: sum(step[name] for step in steps) / len(steps) for name in names if name != "ratio_max"}
        if not warming_up:
            means["ratio_max"] = max(step["ratio_max"] for step in steps)
            means["ratio_first"] = steps[0]["ratio_mean"]
        return means

    def _set_rates(self) -> None:
        """The learning rates of this iteration, from the schedule."""
        left = 1 - self.state.iteration / self.config.num_iterations if self.config.schedule == "linear" else 1.0
        for optimizer in (self.state.policy_optimizer, self.state.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * left

    def _policy_step(self, batch: Batch, rows: Sequence[int]) -> dict[str, float]:
        """One optimizer step of the policy on the clipped surrogate, minus the entropy bonus."""
        config, count = self.config, float(batch.lengths[list(rows)].sum())
        sums = torch.zeros(4, device=batch.mask.device)  # loss, entropy, clipped, ratio
        largest = 0.0
        for micro in batch.micro_batches(rows, config.micro_batch_tokens):
            with self._autocast(), torch.set_grad_enabled(True):
                logprobs, entropies = self._logprobs(self.state.policy, batch, micro, with_entropy=True)
            old, advantages = batch.tokens(batch.old_logprobs, micro), batch.tokens(batch.advantages, micro)
            assert entropies is not None
            loss = losses.policy_loss(logprobs, old, advantages, clip_low=config.clip_range, clip_high=self.clip_high,
                                      dual_clip=config.dual_clip).sum() / count
            if config.entropy_coefficient:
                loss = loss - config.entropy_coefficient * entropies.sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                ratio = losses.importance_ratio(logprobs, old)
                stopped = losses.clipped(ratio, advantages, clip_low=config.clip_range, clip_high=self.clip_high)
                sums += torch.stack([loss * count, entropies.sum(), stopped.sum(), ratio.sum()])
                largest = max(largest, ratio.max().item())
        norm = self._step(self.state.policy_optimizer, "policy", sums[0])
        loss_mean, entropy, clip_fraction, ratio_mean = (sums / count).tolist()
        return {"policy_loss": loss_mean, "entropy": entropy, "clip_fraction": clip_fraction,
                "ratio_mean": ratio_mean, "ratio_max": largest, "policy_grad_norm": norm}

    def _critic_step(self, batch: Batch, rows: Sequence[int]) -> dict[str, float]:
        """One optimizer step of the critic on the clipped value loss."""
        config, count = self.config, float(batch.lengths[list(rows)].sum())
        total = torch.zeros((), device=batch.mask.device)
        for micro in batch.micro_batches(rows, config.micro_batch_tokens):
            with self._autocast():
                values = self.state.critic(batch.states(self.state.critic.trunk, micro)[0], batch.trust(micro))
            loss = losses.value_loss(values, batch.tokens(batch.old_values, micro), batch.tokens(batch.returns, micro),
                                     clip_range=config.value_clip_range).sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = self._step(self.state.critic_optimizer, "critic", total)
        return {"value_loss": total.item(), "critic_grad_norm": norm}

    def _remember(self, prompts: Sequence[Sequence[int]], generations: Sequence[Generation], final: Tensor) -> None:
        """Keeps the completions whose score is above the mean of all, and by how much: also of the questions that the
        policy gradient learns nothing from, because all their completions are right."""
        if self.config.imitation_steps:
            gains = (final - final.mean()).tolist()
            self.state.memory += [Remembered(list(prompts[row]), list(generations[row].token_ids), gain)
                                  for row, gain in enumerate(gains) if gain > 0]
            del self.state.memory[:-self.config.imitation_memory]

    def _imitate(self) -> dict[str, float]:
        """Self-imitation (Oh et al. 2018, arXiv:1806.05531, eq. 2): steps on -log pi(a|s) (R - V(s))+ of remembered
        completions, drawn anew for each step; the mean loss. (R - V)+ is one number a completion, with the batch's mean
        score in the place of V; the critic learns from rollouts alone."""
        config, state = self.config, self.state
        if not state.memory or state.iteration < config.critic_warmup:
            return {}
        drawn = random.Random(derive(self.seed, "imitation", state.iteration))
        total = 0.0
        for _ in range(config.imitation_steps):
            chosen = drawn.sample(state.memory, min(config.imitation_batch_size, len(state.memory)))
            batch = Batch.of([row.prompt for row in chosen], [row.completion for row in chosen], state.policy.device)
            gains = torch.tensor([row.gain for row in chosen], device=batch.lengths.device)[:, None] * batch.mask
            loss_sum = torch.zeros((), device=batch.lengths.device)
            for rows in batch.micro_batches(range(len(chosen)), config.micro_batch_tokens):
                with self._autocast():
                    logprobs, _ = self._logprobs(state.policy, batch, rows)
                loss = -(logprobs * batch.tokens(gains, rows)).sum() / gains.sum()
                loss.backward()  # type: ignore[no-untyped-call]
                loss_sum += loss.detach()
            self._step(state.policy_optimizer, "policy", loss_sum)
            total += loss_sum.item()
        return {"imitation_loss": total / config.imitation_steps}

    def _step(self, optimizer: torch.optim.Optimizer, who: str, loss: Tensor) -> float:
        """Clips the gradient, steps, clears it; its norm before clipping."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or math.inf).item()
        if not (math.isfinite(norm) and math.isfinite(loss.item())):
            raise FloatingPointError(f"PPO iteration {self.state.iteration}: the {who}'s loss is {loss.item()} and its "
                                     f"gradient norm {norm}; lower its learning rate, or look at the reward")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.policy.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


def rollout_metrics(batch: Batch, generations: Sequence[Generation], kept: Sequence[int]) -> dict[str, float]:
    """Lengths, truncation, and how far the engine's log-probabilities are from the trainer's for the `kept` ones,
    which are the batch."""
    sampled = torch.tensor([logprob for row in kept for logprob in generations[row].logprobs])
    gap = (batch.old_logprobs[batch.mask].cpu() - sampled).abs()
    return {"length": statistics.fmean(len(generation.token_ids) for generation in generations),
            "truncated": sum(generation.finish_reason == "length" for generation in generations) / len(generations),
            "logprob_gap_mean": gap.mean().item(), "logprob_gap_max": gap.max().item()}


@torch.no_grad()
def check_head(policy: PreTrainedModel) -> None:
    """UserError for a model whose logits are more than its output layer on its last hidden states (soft-capping,
    scaling): the trainer leaves out the logits of prompts by applying that layer itself."""
    vocabulary = policy.config.get_text_config().vocab_size
    ids = (torch.arange(8, device=policy.device) * 7 % vocabulary)[None, :]
    logits = policy(input_ids=ids, use_cache=False).logits.float()
    own = policy.get_output_embeddings()(policy.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
    if not torch.allclose(logits, own, rtol=1e-2, atol=1e-2):
        raise UserError(f"PPO cannot train a model of type {policy.config.model_type!r}: it changes its logits after "
                        "the output layer")
