"""What a stage that trains through TRL learns from: completions from the engine, what they score, and how likely policy
and reference find them.

In the place of TRL's own generation, which tells an end by padding ids and cannot push weights into vLLM on a CPU.
Rows are right-padded (`Batch`), and a completion is known by its length and its finish reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment import losses
from alignment.adapters import adapter_off
from alignment.experience import Batch
from alignment.group import ONE, Group
from alignment.kinds import Grpo, Rloo
from alignment.ppo_state import Moments
from alignment.rollout import Engine, Generation, Sampling
from alignment.rollout.rows import Prompted, to_completion
from alignment.seeds import derive
from data.schema import UserError
from reward import Reward, Scores
from reward.completion_states import READ_TOKENS
from reward.mixture import Scale

STATE = "rewards.json"  # in a checkpoint


@dataclasses.dataclass(frozen=True)
class Rollout:
    """The B completions of one iteration."""

    batch: Batch  # with the log-probabilities of engine, policy and reference
    final: Tensor  # (B,) what each is paid
    kept: list[int]  # the rows to train on
    metrics: dict[str, float]


class GroupRollouts:
    """Makes a rollout of questions of the pool. A trainer's `Memory`: scales and deviations of scores are kept with its
    checkpoints."""

    def __init__(self, config: Grpo | Rloo, policy: PreTrainedModel, *, reference: PreTrainedModel | None,
                 tokenizer: PreTrainedTokenizerBase, engine: Engine, pool: Prompted, reward: Reward,
                 scales: dict[str, Scale], seed: int, group: Group = ONE) -> None:
        """`reference`: None = the policy with its adapter switched off. `scales`: those the reward fills. The processes
        of a `group` all know the whole rollout and share out what it takes to make it."""
        self.config, self.policy, self.reference, self.engine = config, policy, reference, engine
        self.tokenizer, self.pool, self.seed, self.group = tokenizer, pool, seed, group
        self.reward, self.scales, self.moments = reward, scales, Moments()

    def save(self, folder: Path) -> None:
        if self.group.rank:
            return
        state = {"scales": self.scales, "moments": dataclasses.astuple(self.moments)}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.scales.update({name: (mean, deviation) for name, (mean, deviation) in state["scales"].items()})
        self.moments = Moments(*state["moments"])

    def roll(self, chosen: Sequence[int], iteration: int) -> Rollout:
        """One completion of each of the pool's questions in `chosen`, a question's side by side.

        FloatingPointError for a score that is not finite.
        """
        started = time.perf_counter()
        generations = self._generate(chosen, iteration)
        generated = time.perf_counter()
        scores = self._score(chosen, generations)
        final = self._final(scores, generations)
        if not final.isfinite().all():
            raise FloatingPointError(f"iteration {iteration}: a completion's score is not finite; look at the reward")
        batch = Batch.of([self.pool.prompts[index] for index in chosen],
                         [generation.token_ids for generation in generations], self.policy.device)
        batch.engine_logprobs[batch.mask] = torch.tensor(
            [logprob for generation in generations for logprob in generation.logprobs], device=batch.mask.device)
        self._view(batch)
        kept = self._kept(final, generations)
        metrics = {"reward": final.mean().item(), "trained_on": len(kept) / len(final),
                   **{f"reward_{name}": statistics.fmean(part) for name, part in scores.parts.items()},
                   **divergence(batch, kept), "kl_coefficient": self.config.kl_coefficient,
                   "level_questions": (spread(final, self.config.num_samples) == 0).float().mean().item(),
                   "length": statistics.fmean(map(len, batch.completions)),
                   "truncated": statistics.fmean(generation.finish_reason == "length" for generation in generations),
                   "seconds_generate": generated - started, "seconds_score": time.perf_counter() - generated}
        if scores.spans:
            metrics["process_reward"] = statistics.fmean(paid - total for paid, total in
                                                         zip(scores.paid, scores.total, strict=True))
        return Rollout(batch, final, kept, metrics)

    def _generate(self, chosen: Sequence[int], iteration: int) -> list[Generation]:
        if iteration:
            self.engine.push(self.policy)
        sampling = Sampling(max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature)
        seeds = [derive(self.seed, "rollout", iteration, row, self.pool.questions[index].id)
                 for row, index in enumerate(chosen)]
        return self.engine.generate([self.pool.prompts[index] for index in chosen], sampling, seeds)

    def _score(self, chosen: Sequence[int], generations: Sequence[Generation]) -> Scores:
        questions = [self.pool.questions[index] for index in chosen]
        return self.reward(questions, [
            to_completion(self.tokenizer, question.id, row, generation)
            for row, (question, generation) in enumerate(zip(questions, generations, strict=True))])

    def _final(self, scores: Scores, generations: Sequence[Generation]) -> Tensor:
        """What each completion is paid in all, (B,), normalised where asked for; of one that was cut off, where that is
        the policy, `truncation_reward` in the place of what is paid at its end."""
        deviation = 1.0
        if self.config.reward_normalisation == "running":
            self.moments.add(scores.paid)
            deviation = self.moments.deviation or 1.0
        penalised = self.config.truncation == "penalty"
        return torch.tensor([
            (self.config.truncation_reward if penalised and generation.finish_reason == "length" else total / deviation)
            + (paid - total) / deviation
            for generation, total, paid in zip(generations, scores.total, scores.paid, strict=True)],
            device=self.policy.device)

    def _kept(self, final: Tensor, generations: Sequence[Generation]) -> list[int]:
        """The rows to train on: of the questions whose scores are at least `min_spread` apart, or of all if none is;
        without what was cut off where that is masked."""
        count = self.config.num_samples
        apart = ~(spread(final, count) < self.config.min_spread)  # (questions,)
        rows = apart.repeat_interleave(count).nonzero()[:, 0].tolist() or list(range(len(final)))
        if self.config.truncation == "mask":
            rows = [row for row in rows if generations[row].finish_reason != "length"]
            if not rows:
                raise UserError(f"every completion was cut off at max_new_tokens={self.config.max_new_tokens}, and "
                                "truncation=mask leaves none to train on; raise the limit, or use truncation=penalty")
        return rows

    @torch.no_grad()
    def _view(self, batch: Batch) -> None:
        """Log-probabilities by the policy as it is and by the reference."""
        reference = self.policy if self.reference is None else self.reference
        for rows in self.group.mine(batch.micro_batches(range(len(batch.prompts)), READ_TOKENS,
                                                    self.policy.base_model)):
            batch.fill(batch.old_logprobs, rows, token_logprobs(self.policy, batch, rows, self.config)[0])
            with adapter_off(self.policy) if self.reference is None else contextlib.nullcontext():
                batch.fill(batch.reference_logprobs, rows, token_logprobs(reference, batch, rows, self.config)[0])
        self.group.add([batch.old_logprobs, batch.reference_logprobs])


def token_logprobs(model: PreTrainedModel, batch: Batch, rows: Sequence[int], config: Grpo | Rloo, *,
                   with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (N,) of the rows' tokens at the temperature they are drawn at, and entropies; row by row."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        states, targets = batch.states(model.base_model, rows)
        return losses.token_logprobs(states, model.get_output_embeddings(), targets, with_entropy=with_entropy,
                                     temperature=config.temperature)


def spread(scores: Tensor, count: int) -> Tensor:
    """How far apart the scores of each question's `count` completions lie."""
    groups = scores.view(-1, count)
    return groups.amax(dim=1) - groups.amin(dim=1)


def divergence(batch: Batch, kept: Sequence[int]) -> dict[str, float]:
    """How far, over the rows that are trained on, the policy is from the reference and the engine from the policy."""
    rows, mask = list(kept), batch.mask[list(kept)]
    x = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, "k1")[rows] * mask
    k3 = losses.kl_estimate(batch.old_logprobs, batch.reference_logprobs, "k3")[rows]
    gap = (batch.old_logprobs - batch.engine_logprobs)[rows][mask].abs()
    return {"kl": (x.sum() / mask.sum()).item(), "kl_sequence": x.sum(1).mean().item(),
            "kl_k3": losses.masked_mean(k3, mask).item(),
            "logprob_gap_mean": gap.mean().item(), "logprob_gap_max": gap.max().item()}
