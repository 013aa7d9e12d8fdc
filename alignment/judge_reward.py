"""The reward `judge`: what a language model behind a URL says of a completion, by the judge of reward/prompted.py."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import statistics
import weakref
from collections.abc import Sequence

from alignment.judges import open_bench
from alignment.kinds import Rewarded
from alignment.preference_kinds import Judge
from alignment.stage import Stage
from data.schema import Completion, Question, UserError, Verdict
from reward import RewardError, Scores

GRADES = (1, 5)  # of a rubric, worst and best


class JudgeReward:
    """1 for a completion the judge finds right and 0 for a wrong one; how sure it is, by the task outcome_token; or by
    `rubric` its mean grade, brought to 0..1.

    A reply that is no verdict is never taken for a 0: its completion scores what the judge gives the question's others
    on the average, or else the batch's. Too many of them raise RewardError, and so does a judge that does not answer.
    """

    def __init__(self, stage: Stage) -> None:
        """Raises UserError where the judge cannot be had."""
        config: Rewarded = stage.config
        tasks = ["outcome_rule", "rubric"] if config.judge_task == "rubric" else [config.judge_task]
        self._config = Judge(judge="endpoint", model=config.judge_model, url=config.judge_url, tasks=tasks,
                             key_variable=config.judge_key_variable)
        opened = contextlib.ExitStack()
        self._bench = opened.enter_context(open_bench(dataclasses.replace(stage, config=self._config)))
        weakref.finalize(self, opened.close)
        self._rubric = config.judge_task == "rubric"

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        try:
            verdicts = self._bench.judge(questions, completions)
            self._bench.check(self._config, planned=len(completions))
        except UserError as error:
            raise RewardError(f"the judge ({self._config.model} at judge_url): {error}") from error
        found = [self._score(verdict) for verdict in verdicts]
        return Scores(filled([question.id for question in questions], found))

    def _score(self, verdict: Verdict | None) -> float | None:
        if verdict is None or (self._rubric and not verdict.grades):
            return None
        if self._rubric:
            return (statistics.fmean(verdict.grades.values()) - GRADES[0]) / (GRADES[1] - GRADES[0])
        return float(verdict.correct) if verdict.score is None else verdict.score


def filled(keys: Sequence[str], scores: Sequence[float | None]) -> list[float]:
    """The scores, each None replaced by the mean of its key's others, or of all; RewardError where there is none."""
    groups: dict[str, list[float]] = collections.defaultdict(list)
    for key, score in zip(keys, scores, strict=True):
        if score is not None:
            groups[key].append(score)
    known = [score for group in groups.values() for score in group]
    if keys and not known:
        raise RewardError("the judge gave no verdict that can be read; look at its prompts, or take a stronger one")
    return [statistics.fmean(groups.get(key) or known) if score is None else score
            for key, score in zip(keys, scores, strict=True)]
