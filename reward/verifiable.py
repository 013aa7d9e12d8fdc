"""What the exact rule can verify, as rewards: the final answer, 1 or 0 at the end, and each step, where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from data.schema import Completion, Question
from reward import Scores, Span
from reward.arithmetic import equations, normalise
from reward.rule import before_answer, verify


class RuleReward:
    """The exact rule. A truncated completion never came to its answer and scores 0."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        right = [float(completion.finish_reason == "stop" and verify(question, completion.text).correct)
                 for question, completion in zip(questions, completions, strict=True)]
        return Scores(total=right, parts={"rule": right})


class StepsReward:
    """The exact rule on each step: of a completion's n equations a right one scores 1/n where its line ends, a wrong
    one 0. So a completion is paid the share of its steps that are right, and writing a right one twice adds nothing to
    a completion without mistakes. A line that was cut off is no step yet.
    """

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        spans = [step_spans(question, completion) for question, completion in zip(questions, completions, strict=True)]
        return Scores(total=[0.0] * len(completions), spans=spans)


def step_spans(question: Question, completion: Completion) -> list[Span]:
    """A span for each equation before the answer: the line it stands on."""
    lines = completion.text.split("\n")
    lines = lines if completion.finish_reason == "stop" else lines[:-1]
    text = "\n".join(lines)
    right = verify(question, text).steps_correct  # of the first equations, where there are very many
    counts = [len(list(equations(line))) for line in before_answer(normalise(text)).split("\n")]
    places = [line for line, count in enumerate(counts) for _ in range(count)]  # of each equation
    starts = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    return [Span(starts[line], starts[line] + len(lines[line]), float(correct) / len(right))
            for line, correct in zip(places, right, strict=False)]
