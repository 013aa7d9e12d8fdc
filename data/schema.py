"""The row types every stage exchanges: questions, completions, verdicts, comparisons, preference pairs.

Rows are plain frozen dataclasses that go to JSON and back without loss; the module knows no stage, no model and no
file format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

Split = Literal["train", "dev", "test"]
Language = Literal["en", "zh"]
Message = dict[str, str]  # {"role": ..., "content": ...}
FinishReason = Literal["stop", "length"]


class UserError(ValueError):
    """The user's input is wrong. The message names the file, row, field and value, and the way out."""


def content_id(*parts: object) -> str:
    """A stable 16-hex-digit id of JSON-serialisable parts."""
    return hashlib.sha256(_CANONICAL.encode(parts).encode()).hexdigest()[:16]


_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Row:
    """JSON in and out for the dataclasses below; unknown and missing fields are refused by name."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str = "row") -> Self:
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(value) - set(fields))
        required = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        missing = sorted(required - set(value))
        if unknown or missing:
            raise UserError(f"{where}: {cls.__name__} has unknown fields {unknown} and lacks {missing}; "
                            f"it takes {sorted(fields)}")
        return cls(**value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question(Row):
    """One question with what is needed to check an answer to it.

    `program` is the exact calculation, one expression per step in order, over fact names and `s1`, `s2`, ... (the
    results of earlier steps); it is empty where a source gives none and only the answer can be checked.
    """

    id: str
    source: str  # "finance", "tatqa", "gsm8k", "file"
    kind: str  # e.g. "revenue_growth"
    language: Language
    prompt: str  # the user turn, evidence included
    steps: tuple[str, ...]  # gold worked steps, one line each; () where the source has only answers
    answer: str  # gold final answer as written after the answer marker, e.g. "15%" or "6 million"
    operand_key: str  # content id of the sorted operands: rows that share it are never in two splits
    facts: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> number as written
    program: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "program", tuple(self.program))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Row):
    """One sampled answer. `text` excludes the EOS token; `token_ids` includes it when it was produced."""

    question_id: str
    sample: int  # 0 .. num_samples-1
    text: str
    finish_reason: FinishReason  # "length" = truncated
    token_ids: tuple[int, ...] = ()
    logprob: float | None = None  # sum over the completion's tokens under the policy that sampled it

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", tuple(self.token_ids))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Row):
    """What a judge says of one completion. `correct` is about the final answer alone."""

    question_id: str
    sample: int
    correct: bool
    judge: str  # "rule", or what else judged: "endpoint", "local", ...
    model: str | None = None  # the judge's model, where it is one
    first_error: int | None = None  # index of the first wrong step; None = no wrong step found
    error_kind: str | None = None  # e.g. "slipped_digit"; None where unknown
    steps_correct: tuple[bool, ...] = ()
    prefix: str | None = None  # what stands before the first wrong step, as the judge quotes it
    step: str | None = None  # the first wrong step, as the judge quotes it
    correction: str | None = None  # the right step in place of the first wrong one
    score: float | None = None  # how sure the judge is that it is correct, 0..1
    grades: dict[str, int] = dataclasses.field(default_factory=dict)  # criterion of a rubric -> 1..5
    prompt_hash: str | None = None
    raw: str | None = None  # the judge's replies, as they came

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps_correct", tuple(self.steps_correct))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Row):
    """Which of two completions of one question a judge prefers, having seen them in both orders."""

    question_id: str
    left: int  # `sample` of the one
    right: int  # and of the other
    preferred: Literal["left", "right", "tie"]  # tie: neither, or the two orders disagree
    agreed: bool  # whether the two orders say the same
    judge: str
    strength: float = 1.0  # 0 (barely) .. 1 (on every principle)
    model: str | None = None
    prompt_hash: str | None = None
    raw: str | None = None

    def swap(self) -> Comparison:
        """The same comparison with its sides exchanged."""
        other: dict[str, Literal["left", "right", "tie"]] = {"left": "right", "right": "left", "tie": "tie"}
        return dataclasses.replace(self, left=self.right, right=self.left, preferred=other[self.preferred])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair(Row):
    """chosen over rejected for one prompt, and where that preference came from.

    Of kind `outcome` both sides are whole answers. Of kind `process` they are the next step after `prefix`; a step that
    ends with a line break is not the answer's last, so that nothing teaches a policy to stop after it.
    """

    id: str
    prompt: list[Message]
    chosen: str
    rejected: str
    origin: Literal["human", "ai", "rule", "simulated"]
    annotator: str  # who: annotator id, judge model, or "rule"
    kind: Literal["outcome", "process"] = "outcome"
    prefix: str = ""  # the assistant's text so far, whole lines, which chosen and rejected continue
    strength: float = 1.0  # 0 (barely) .. 1 (clear)
    weight: float = 1.0  # of this row in the loss
    question_id: str | None = None
    operand_key: str | None = None
    language: str | None = None
    question_kind: str | None = None
    error_kind: str | None = None  # what is wrong with the rejected side, where known
    split: Split = "train"
    chosen_from: str = "policy"  # "policy" | "gold" | "human"
    shown_order: Literal["chosen_first", "rejected_first"] | None = None
    model: str | None = None  # the judge's model, where it is one
    prompt_hash: str | None = None
    raw: str | None = None  # the judge's replies, as they came

    def to_json(self) -> dict[str, Any]:
        """Without `prefix` where the whole answer is compared, and without what a judge's model said where none did."""
        return {name: value for name, value in dataclasses.asdict(self).items()
                if value or name not in ("prefix", "model", "raw")}

    def swap(self) -> PreferencePair:
        """The same comparison with the opposite outcome."""
        flipped: dict[str | None, Literal["chosen_first", "rejected_first"] | None] = {
            "chosen_first": "rejected_first", "rejected_first": "chosen_first"}
        order = flipped.get(self.shown_order)
        return dataclasses.replace(self, chosen=self.rejected, rejected=self.chosen, shown_order=order)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document(Row):
    """One text for pre-training, in pieces: `(("46 - 40 =", False), (" 6\\n", True))`.

    The flag says whether the tokens of a piece are trained on; random operands, for example, are noise.
    """

    id: str
    source: str  # "general", "drill", "textbook", "file"
    segments: tuple[tuple[str, bool], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple((text, bool(trained)) for text, trained in self.segments))

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)
