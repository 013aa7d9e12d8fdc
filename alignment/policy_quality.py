"""How good a policy is: what its answers to the held-out questions and the held-out texts amount to.

Pure NumPy on arrays; knows no model. All policies of an evaluation share one `Marking`, so that differences are paired.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.stats import Bootstrap, Estimate, pass_at_k
from data.schema import Question

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Answers:
    """One policy's, in the order of the questions (Q), samples (N), general texts (T), drills (D), definitions (C)."""

    greedy: NDArray[np.bool_]  # (Q,) right?
    sampled: NDArray[np.bool_]  # (Q, N)
    truncated: NDArray[np.bool_]  # (Q,) greedy answers that hit the length limit
    length: Array  # (Q,) tokens of the greedy answers
    errors: list[str | None]  # (Q,) kind of error of the greedy answers
    text_logprob: Array  # (T,)
    text_tokens: Array  # (T,)
    text_bytes: Array  # (T,)
    drills: NDArray[np.bool_]  # (D,)
    cloze: NDArray[np.bool_]  # (C,); empty where the source has no definitions


class Marking:
    """The resamples every policy is measured on, and the groups of questions."""

    def __init__(self, questions: Sequence[Question], *, num_texts: int, drills: Sequence[Hashable], num_cloze: int,
                 resamples: int, seed: int) -> None:
        """`drills` are the drill expressions, so that one that comes twice is one cluster."""
        self.questions = Bootstrap([question.operand_key for question in questions], resamples=resamples, seed=seed)
        self.texts = Bootstrap(range(num_texts), resamples=resamples, seed=seed)
        self.drills = Bootstrap(drills, resamples=resamples, seed=seed)
        self.cloze = Bootstrap(range(num_cloze), resamples=resamples, seed=seed) if num_cloze else None
        self.groups = {
            "by_kind": np.array([question.kind for question in questions]),
            "by_language": np.array([question.language for question in questions]),
        }

    def headline(self, answers: Answers) -> dict[str, Estimate]:
        """A policy's numbers by metric name (alignment/metrics.py)."""
        nats_per_byte = answers.text_bytes * math.log(2)
        found = {
            "greedy": self.questions.mean(answers.greedy),
            "sampled": self.questions.mean(answers.sampled.mean(1)),
            f"pass_at_{answers.sampled.shape[1]}": self.questions.mean(passes(answers.sampled)),
            "truncated": self.questions.mean(answers.truncated),
            "length": self.questions.ratio(answers.length, np.ones(len(answers.length))),
            "perplexity": self.texts.ratio(-answers.text_logprob, answers.text_tokens, transform=np.exp),
            "bits_per_byte": self.texts.ratio(-answers.text_logprob, nats_per_byte),
            "drills": self.drills.mean(answers.drills),
        }
        return found | ({"cloze": self.cloze.mean(answers.cloze)} if self.cloze else {})

    def detail(self, answers: Answers) -> dict[str, Any]:
        """By group, by k and by kind of error, as JSON."""
        errors = collections.Counter(error or "unknown" for error, right
                                     in zip(answers.errors, answers.greedy.tolist(), strict=True) if not right)
        num_samples = answers.sampled.shape[1]
        return {
            "pass_at_k": {str(k): self.questions.mean(passes(answers.sampled, k)).to_json()
                          for k in range(1, num_samples + 1)},
            "errors": dict(errors.most_common()),
            **{name: self._by_group(name, self.questions.mean,
                                    {"greedy": answers.greedy, "sampled": answers.sampled.mean(1)})
               for name in self.groups},
        }

    def difference(self, left: Answers, right: Answers) -> tuple[dict[str, Estimate], dict[str, Any]]:
        """Left minus right on the same rows: by metric name, and the detail by group as JSON."""
        num_samples = left.sampled.shape[1]
        both = [{"greedy": side.greedy, "sampled": side.sampled.mean(1), f"pass_at_{num_samples}": passes(side.sampled)}
                for side in (left, right)]
        headline = {name: self.questions.difference(both[0][name], both[1][name]) for name in both[0]}
        headline["drills"] = self.drills.difference(left.drills, right.drills)
        detail = {group: self._by_group(group, self.questions.difference,
                                        *({name: side[name] for name in ("greedy", "sampled")} for side in both))
                  for group in self.groups}
        return headline, detail

    def _by_group(self, group: str, measure: Callable[..., Estimate],
                  *sides: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
        """`measure` of the sides' values, for each group and name."""
        labels = self.groups[group]
        return {str(label): {name: measure(*(side[name] for side in sides), where=labels == label).to_json()
                             for name in sides[0]} for label in sorted(set(labels.tolist()))}


def passes(sampled: NDArray[np.bool_], k: int | None = None) -> Array:
    """(Q,) pass@k of each question's N samples; k defaults to N."""
    num_samples = sampled.shape[1]
    table = np.array([pass_at_k(num_samples, correct, k or num_samples) for correct in range(num_samples + 1)])
    values: Array = table[sampled.sum(1)]
    return values
