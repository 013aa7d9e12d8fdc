"""The verifiable answer as a reward: 1 for a right final answer, 0 for any other."""

from __future__ import annotations

from collections.abc import Sequence

from data.schema import Completion, Question
from reward import Scores
from reward.rule import verify


class RuleReward:
    """The exact rule. A truncated completion never came to its answer and scores 0."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        right = [float(completion.finish_reason == "stop" and verify(question, completion.text).correct)
                 for question, completion in zip(questions, completions, strict=True)]
        return Scores(total=right, parts={"rule": right})
