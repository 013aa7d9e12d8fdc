"""Sampled finance solutions with planted errors, and a model behind a URL that judges them as the rule does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.finance.generator import solution_text
from data.rows import write_rows
from data.schema import Completion, Message
from reward.judge import Request, judged_by_rule
from tests.reward.loopback import Answer, completion, next_tokens
from tests.reward.planted import Planted, finance
from tests.reward.scripted import fields, says


def sampled(folder: Path, *, questions: int = 8) -> list[Planted]:
    """Writes a `sample` artifact: of each question a right solution, one with a planted error, and a truncated one."""
    planted = list(finance(questions, seed=9))
    rows = []
    for each in planted:
        gold = solution_text(each.question)
        rows += [Completion(question_id=each.question.id, sample=0, text=gold, finish_reason="stop"),
                 Completion(question_id=each.question.id, sample=1, text=each.text, finish_reason="stop"),
                 Completion(question_id=each.question.id, sample=2, text=gold[:-2], finish_reason="length")]
    write_rows(folder / "questions.jsonl", [each.question for each in planted])
    write_rows(folder / "completions.jsonl", rows)
    return planted


class Marker:
    """Marks as the exact rule does, seeing no more than a request says."""

    def __init__(self, planted: list[Planted]) -> None:
        self.questions = {each.question.prompt: each.question for each in planted}

    def texts(self, asked: dict[str, str]) -> tuple[str, str]:
        """The replies to a request for an outcome and for a first wrong step."""
        question = self.questions[asked["question"]]
        verdict = judged_by_rule(question, Completion(question_id=question.id, sample=0, text=asked["proposal"],
                                                      finish_reason="stop"))
        return says(correctness="correct" if verdict.correct else "wrong"), says(
            first_incorrect_step=verdict.step or "", correct_prefix=verdict.prefix or "",
            step_correction=verdict.correction or "")

    def __call__(self, number: int, body: dict[str, Any]) -> Answer:
        """A script for the loopback server."""
        messages: list[Message] = body["messages"]
        outcome, process = self.texts(fields(Request(messages)))
        if body.get("logprobs"):
            return Answer(next_tokens({"Yes": 0.8, "No": 0.2} if '"correct"' in outcome else {"No": 0.7, "Yes": 0.1}))
        wants_step = "first_incorrect_step" in body["response_format"]["json_schema"]["schema"]["properties"]
        return Answer(completion(process if wants_step else outcome))
