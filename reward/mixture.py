"""A weighted sum of rewards, each part kept for the log."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, MutableMapping, Sequence

from data.schema import Completion, Question, UserError
from reward import Reward, Scores, Span
from reward.checks import checked

Scale = tuple[float, float]  # mean and standard deviation


class WeightedReward:
    """sum of weight x part. A part that is `standardised` is first brought to mean 0 and deviation 1 by the scale of
    the first batch scored, which makes its weight comparable with a part in 0..1; that scale then stays.

    `parts` in the scores are raw, a part's spans included. A part of weight 0 is scored for the log alone. Whatever a
    part returns is held to reward/checks.py.
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float], *,
                 standardised: Collection[str] = (), scales: MutableMapping[str, Scale] | None = None) -> None:
        """`scales` is read and filled in place; keep it with a checkpoint. UserError for a weight without a reward."""
        missing = sorted(name for name, weight in weights.items() if weight and name not in rewards)
        if missing:
            raise UserError(f"reward_weights names {', '.join(missing)}, but there is no such reward here; there is "
                            f"{', '.join(sorted(rewards))}. A reward model is the input `reward_model`")
        self._rewards, self._weights, self._standardised = rewards, weights, frozenset(standardised)
        self.scales: MutableMapping[str, Scale] = {} if scales is None else scales

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        total = [0.0] * len(completions)
        spans: list[list[Span]] = [[] for _ in completions]
        parts: dict[str, list[float]] = {}
        for name, reward in self._rewards.items():
            scores = checked(f"reward {name}", reward(questions, completions), completions)
            parts[name] = scores.paid
            mean, deviation = self._scale(name, scores.total)
            weight = self._weights.get(name, 0.0)
            if weight:
                total = [so_far + weight * (score - mean) / deviation
                         for so_far, score in zip(total, scores.total, strict=True)]
                for collected, found in zip(spans, scores.spans, strict=False):  # of each completion, or none at all
                    collected.extend(Span(start, end, weight * score / deviation) for start, end, score in found)
        return Scores(total=total, parts=parts, spans=spans if any(spans) else [])

    def _scale(self, name: str, scores: Sequence[float]) -> Scale:
        if name not in self._standardised:
            return 0.0, 1.0
        if name not in self.scales:
            self.scales[name] = (statistics.fmean(scores), statistics.pstdev(scores) or 1.0)
        return self.scales[name]
