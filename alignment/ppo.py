"""Proximal policy optimisation with a critic, for language models (Schulman et al. 2017; Ouyang et al. 2022).

One iteration, in order: completions from the engine; their scores; the old, the reference's and the critic's view of
each token, by the trainer's own forward passes, so that the ratio is exactly 1 before the first update; rewards with a
KL penalty at each token and the score at the last; advantages; then epochs of minibatches for policy and critic.

What does not decide anything here: where questions, weights and rewards come from, and where numbers go. A completion
is known by its length and its finish reason, never by a padding id.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment import losses
from alignment.adapters import adapter_off
from alignment.experience import Batch
from alignment.group import ONE, Group
from alignment.kinds import Ppo
from alignment.ppo_state import PpoState
from alignment.ppo_update import PpoUpdates, autocast, policy_logprobs
from alignment.prefetch import Prefetch
from alignment.process import Steps
from alignment.rollout.engine import Engine, Generation, PushError, Sampling
from alignment.rollout.rows import to_completion
from alignment.seeds import derive
from data.schema import Completion, Question, UserError
from reward import Reward, Scores


class PpoTrainer:
    """Runs iterations on a state. The reference never changes; the engine gets the policy's weights each time."""

    def __init__(self, config: Ppo, state: PpoState, *, reference: PreTrainedModel | None, engine: Engine,
                 reward: Reward, tokenizer: PreTrainedTokenizerBase, seed: int, group: Group = ONE) -> None:
        """`reference`: None = the policy with its adapter switched off. The processes of a `group` all know the whole
        batch and share out the passes over it."""
        self.config, self.state, self.engine, self.reward = config, state, engine, reward
        self.reference, self.tokenizer, self.seed, self.group = reference, tokenizer, seed, group
        self.critic_lambda = config.gae_lambda if config.critic_lambda is None else config.critic_lambda
        self.updates = PpoUpdates(config, state, seed=seed, group=group)
        self.prefetch = Prefetch(state)
        if reference is not None:
            reference.eval()
        check_head(state.policy)

    def iterate(self, questions: Sequence[Question], prompts: Sequence[Sequence[int]],
                following: tuple[Sequence[Question], Sequence[Sequence[int]]] | None = None) -> dict[str, float]:
        """One iteration on one completion of each prompt; its metrics (alignment/metrics.py). `questions[i]` is what
        `prompts[i]` renders; repeat it for several completions. `following`: those of the next iteration, to be
        generated meanwhile.

        NotFinite where a loss or a gradient is not finite, PushError where the engine did not take the weights: unless
        the alarm but warns.
        """
        started = time.perf_counter()
        generations, unpushed = self._rollout(questions, prompts, following)
        generated = time.perf_counter()
        scores = self._score(questions, generations)
        final = self._final(scores, generations)  # (B,)
        steps = self._steps(scores, questions, generations)
        paid = final if steps is None else final + steps.rewards.sum(dim=1)  # (B,)
        kept = self._kept(paid, generations)
        batch = Batch.of([prompts[row] for row in kept], [generations[row].token_ids for row in kept],
                         self.state.policy.device)
        batch.engine_logprobs[batch.mask] = torch.tensor(
            [logprob for row in kept for logprob in generations[row].logprobs], device=batch.mask.device)
        self._view(batch)
        if steps is not None:
            batch.step_rewards = steps.rewards[kept][:, :batch.mask.shape[1]]
        cut = [place for place, row in enumerate(kept) if generations[row].finish_reason == "length"]
        metrics = {"reward": paid.mean().item(), "trained_on": len(kept) / len(final),
                   **{f"reward_{name}": statistics.fmean(part) for name, part in scores.parts.items()},
                   **self._credit(batch, self._centred(final, steps)[kept], cut),
                   **rollout_metrics(batch, generations)}
        if steps is not None:
            metrics["process_reward"] = steps.rewards.sum(dim=1).mean().item()
        scored = time.perf_counter()
        metrics |= self.updates.update(batch)
        self.updates.remember(prompts, [generation.token_ids for generation in generations], paid)
        metrics |= self.updates.imitate() | self.updates.left_out | unpushed
        self.state.iteration += 1
        return metrics | {"seconds_generate": generated - started, "seconds_score": scored - generated,
                          "seconds_update": time.perf_counter() - scored}

    def push(self) -> dict[str, float]:
        """Gives the engine the policy's weights; where it does not take them and the alarm but warns, says so."""
        failure = None
        self.prefetch.settle()
        try:
            self.engine.push(self.state.policy)
        except PushError as error:
            failure = error
        if not self.group.any(failure is not None):
            return {}
        if self.config.alarms["push"] != "warn":
            raise failure or PushError("the engine of another process did not take the weights")
        return {"push_failed": 1.0}

    # ------------------------------------------------------------------------------------------------- experience

    def _rollout(self, questions: Sequence[Question], prompts: Sequence[Sequence[int]],
                 following: tuple[Sequence[Question], Sequence[Sequence[int]]] | None
                 ) -> tuple[list[Generation], dict[str, float]]:
        """This iteration's completions, and what there is to be said of the push; begins those of the next."""
        draw, metrics = self.state.draw, {}
        generations = self.prefetch.take(draw)
        if generations is not None:
            metrics["prefetched"] = 1.0
        if draw and (generations is None or following is not None):
            metrics |= self.push()
        if generations is None:
            generations = self._generate(questions, prompts)
        if following is not None:
            self.prefetch.start(draw + 1, lambda: self._generate(*following, draw + 1))
        return generations, metrics

    def _generate(self, questions: Sequence[Question], prompts: Sequence[Sequence[int]],
                  draw: int | None = None) -> list[Generation]:
        draw = self.state.draw if draw is None else draw
        sampling = Sampling(max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature)
        seeds = [derive(self.seed, "rollout", draw, row, question.id)
                 for row, question in enumerate(questions)]
        return self.engine.generate(prompts, sampling, seeds)

    def _score(self, questions: Sequence[Question], generations: Sequence[Generation]) -> Scores:
        return self.reward(questions, self._completions(questions, generations))

    def _completions(self, questions: Sequence[Question], generations: Sequence[Generation]) -> list[Completion]:
        return [to_completion(self.tokenizer, question.id, row, generation)
                for row, (question, generation) in enumerate(zip(questions, generations, strict=True))]

    def _final(self, scores: Scores, generations: Sequence[Generation]) -> Tensor:
        """The score of each completion, (B,), normalised where asked for; `truncation_reward` in its place where it
        was cut off and that is the policy."""
        if self.config.reward_normalisation == "running":
            self.state.score_moments.add(scores.paid)
        deviation = self._deviation()
        penalised = self.config.truncation == "penalty"
        return torch.tensor([self.config.truncation_reward if penalised and generation.finish_reason == "length"
                             else score / deviation
                             for generation, score in zip(generations, scores.total, strict=True)],
                            device=self.state.policy.device, dtype=torch.float32)

    def _deviation(self) -> float:
        """What scores are divided by."""
        return (self.config.reward_normalisation == "running" and self.state.score_moments.deviation) or 1.0

    def _steps(self, scores: Scores, questions: Sequence[Question], generations: Sequence[Generation]) -> Steps | None:
        """What process rewards pay at which token, normalised as the scores are; None where there is none."""
        if not scores.spans:
            return None
        steps = Steps.of(self.tokenizer, self._completions(questions, generations), scores.spans,
                         self.state.policy.device)
        return steps and steps.scaled(1 / self._deviation())

    def _kept(self, final: Tensor, generations: Sequence[Generation]) -> list[int]:
        """The rows to train on: those of the questions whose scores are at least `min_spread` apart, or all if none
        is; without what was cut off where that is masked."""
        groups = final.view(-1, self.config.num_samples)
        spread = groups.amax(dim=1) - groups.amin(dim=1)
        kept = (~(spread < self.config.min_spread)).repeat_interleave(self.config.num_samples).nonzero()[:, 0].tolist()
        rows = kept or list(range(len(final)))
        if self.config.truncation == "mask":
            rows = [row for row in rows if generations[row].finish_reason != "length"]
            if not rows:
                raise UserError(f"PPO iteration {self.state.iteration}: every completion was cut off at "
                                f"max_new_tokens={self.config.max_new_tokens}, and truncation=mask leaves none to "
                                "train on; raise the limit, or use truncation=penalty")
        return rows

    def _centred(self, final: Tensor, steps: Steps | None = None) -> Tensor:
        """Scores (B,) in relation to those of the question's other completions, where asked for; with a group's
        steps the advantage of each token, (B, T)."""
        groups = final.view(-1, self.config.num_samples)
        if self.config.advantages == "group":
            if steps is None:
                return losses.group_advantages(groups).flatten()
            rewards, ends = (part.view(*groups.shape, -1) for part in (steps.rewards, steps.ends))
            return losses.process_advantages(groups, rewards, ends).flatten(0, 1)
        if not self.config.group_baseline:
            return final
        if steps is None:
            return losses.leave_one_out(groups).flatten()
        earned = steps.rewards.sum(dim=1)  # on the way, and paid there
        return losses.leave_one_out((final + earned).view_as(groups)).flatten() - earned

    @torch.no_grad()
    def _view(self, batch: Batch) -> None:
        """Log-probabilities by the policy as it is and by the reference, the KL between them, the critic's values."""
        config, policy, critic = self.config, self.state.policy, self.state.critic
        reference = policy if self.reference is None else self.reference
        for rows in self.group.mine(batch.micro_batches(range(len(batch.prompts)), config.micro_batch_tokens,
                                                    policy.base_model)):
            with autocast(policy, config):
                states, targets = batch.states(policy.base_model, rows)
                logprobs, _ = policy_logprobs(policy, states, targets, config)
                batch.fill(batch.old_logprobs, rows, logprobs)
                with adapter_off(policy) if self.reference is None else contextlib.nullcontext():
                    reference_states, _ = batch.states(reference.base_model, rows)
                reference_logprobs, _ = policy_logprobs(reference, reference_states, targets, config)
                batch.fill(batch.reference_logprobs, rows, reference_logprobs)
                if config.kl_estimator == "exact":
                    kl = losses.exact_kl(states, policy.get_output_embeddings(), reference_states,
                                         reference.get_output_embeddings(), temperature=config.temperature or 1.0,
                                         top_k=config.kl_top_k)
                else:
                    kl = losses.kl_estimate(logprobs, reference_logprobs, config.kl_estimator)
                batch.fill(batch.kl, rows, kl)
                if critic is not None:
                    read = states if critic.shared else batch.states(critic.trunk, rows)[0]
                    batch.fill(batch.old_values, rows, critic(read, batch.trust(rows)))
        self.group.add([batch.old_logprobs, batch.reference_logprobs, batch.kl, batch.old_values])

    def _credit(self, batch: Batch, scores: Tensor, cut: Sequence[int]) -> dict[str, float]:
        """Fills advantages and returns from the scores (B,), or a group's advantages (B, at least T); `cut`: the rows
        that came to no end. Steers the KL."""
        config, state, count = self.config, self.state, int(batch.mask.sum())
        metrics = {"kl_coefficient": state.kl_coefficient}
        if config.advantages == "group":
            batch.advantages = scores.view(len(scores), -1)[:, :batch.mask.shape[1]] * batch.mask
        else:
            if config.truncation == "bootstrap" and cut:
                scores[cut] = config.gamma * self._values_after(batch, cut)
            rewards = losses.terminal_rewards(scores, state.kl_coefficient * batch.kl, batch.lengths)
            if batch.step_rewards is not None:
                rewards = rewards + batch.step_rewards
            advantages, batch.returns = losses.gae(rewards, batch.old_values, batch.lengths, gamma=config.gamma,
                                                   lam=config.gae_lambda)
            if self.critic_lambda != config.gae_lambda:
                _, batch.returns = losses.gae(rewards, batch.old_values, batch.lengths, gamma=config.gamma,
                                              lam=self.critic_lambda)
            batch.advantages = losses.whiten(advantages, batch.mask) if config.whiten_advantages else advantages
            variance = losses.explained_variance(batch.old_values, batch.returns, batch.mask)
            metrics |= {"values": losses.masked_mean(batch.old_values, batch.mask).item(),
                        "explained_variance": variance.item()}
        x = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, "k1") * batch.mask
        k3 = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, "k3")
        metrics |= {"kl": (x.sum() / count).item(), "kl_sequence": x.sum(1).mean().item(),
                    "kl_k3": losses.masked_mean(k3, batch.mask).item()}
        if config.kl_estimator == "exact":
            metrics["kl_exact"] = losses.masked_mean(batch.kl, batch.mask).item()
        if config.kl_target is not None:
            state.kl_coefficient = losses.adapted_coefficient(
                state.kl_coefficient, metrics["kl_sequence"], target=config.kl_target, count=len(batch.prompts),
                horizon=config.kl_horizon)
        return metrics

    @torch.no_grad()
    def _values_after(self, batch: Batch, rows: Sequence[int]) -> Tensor:
        """The critic's value of the state after the rows' last token, (rows,): of one more token, whichever it is."""
        critic = self.state.critic
        assert critic is not None
        longer = Batch.of([batch.prompts[row] for row in rows], [[*batch.completions[row], 0] for row in rows],
                          batch.lengths.device)
        width = longer.mask.shape[1] - 1
        longer.reference_logprobs[:, :width] = batch.reference_logprobs[list(rows), :width]
        trunk = self.state.policy.base_model if critic.shared else critic.trunk
        for micro in self.group.mine(longer.micro_batches(range(len(rows)), self.config.micro_batch_tokens, trunk)):
            with autocast(self.state.policy, self.config):
                longer.fill(longer.old_values, micro, critic(longer.states(trunk, micro)[0], longer.trust(micro)))
        self.group.add([longer.old_values])
        return longer.old_values[torch.arange(len(rows)), longer.lengths - 1]


def rollout_metrics(batch: Batch, generations: Sequence[Generation]) -> dict[str, float]:
    """Lengths and truncation of all that was generated, and how far the engine's log-probabilities are from the
    trainer's for the batch that was made of it."""
    gap = (batch.old_logprobs - batch.engine_logprobs)[batch.mask].abs()
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
