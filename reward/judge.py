"""What a judge is, and what it asks of a language model.

    Judge     (questions, completions) -> verdicts         the exact rule, a prompted model, a trained critic
    Complete  (requests) -> replies                        what a prompted judge is given: it never knows what answers
    Ask       (requests) -> replies as they come           an endpoint or a local engine, behind what keeps replies

None in place of a verdict means that the judge said nothing that can be read: that is counted and left out, and never
taken for "wrong".
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from data.rows import parse_json, shown
from data.schema import Completion, Message, Question, UserError, Verdict
from reward.rule import verify
from reward.steps import quoted

Schema = dict[str, Any]  # JSON schema of an object of strings, whole numbers and enumerations, all required


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to a model: for JSON that fits `schema`, or which of two or more words comes next, or for a text,
    of which `seed` draws one."""

    messages: Sequence[Message]
    schema: Schema | None = None
    options: tuple[str, ...] = ()
    seed: int | None = None

    def key(self, **settings: Any) -> str:
        """A hash of all that decides the reply: this, and the settings (model, temperature, ...) it is sent with."""
        parts = {"messages": list(self.messages), "schema": self.schema, "options": self.options, "seed": self.seed,
                 **settings}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back: a text, or the options' probabilities, and the tokens it took."""

    text: str = ""
    probabilities: Mapping[str, float] = dataclasses.field(default_factory=dict)  # option -> of the next token
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: bool = True  # False: cut off


Complete = Callable[[Sequence[Request]], list[Reply]]
Ask = Callable[[Sequence[Request]], Iterator[tuple[int, Reply]]]  # each reply with its request's number, as they come


class Judge(Protocol):
    """Judges completions of questions; `questions[i]` is what `completions[i]` answers."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> list[Verdict | None]: ...


@runtime_checkable
class ModelJudge(Judge, Protocol):
    """A judge that is a model, which may say what is no verdict: counted by task, with the last of each."""

    model: str
    asked: int  # replies so far
    unreadable: collections.Counter[str]
    examples: dict[str, str]


class RuleJudge:
    """The exact rule, in a judge's words: the first wrong step is quoted, and so is what stands before it."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> list[Verdict | None]:
        return [judged_by_rule(*each) for each in zip(questions, completions, strict=True)]


def judged_by_rule(question: Question, completion: Completion) -> Verdict:
    """The rule's verdict; a truncated completion is wrong whatever it says, because it never came to its end."""
    verdict = dataclasses.replace(verify(question, completion.text), sample=completion.sample)
    if completion.finish_reason == "length":
        kind = verdict.error_kind if verdict.first_error is not None else "truncated"
        verdict = dataclasses.replace(verdict, correct=False, error_kind=kind)
    return verdict if verdict.correct else quoted(question, verdict, completion.text)


class Unreadable(ValueError):
    """A reply that is no verdict."""


def read_reply(text: str, schema: Schema) -> dict[str, Any]:
    """The reply's JSON object, which must fit the schema to the letter. Raises Unreadable."""
    if not text.strip():
        raise Unreadable("the reply is empty: refused, or too long for the model")
    try:
        value = parse_json(text, where="the reply")
    except UserError as error:
        raise Unreadable(str(error)) from error
    wanted = schema["properties"]
    if not isinstance(value, dict) or set(value) != set(wanted):
        raise Unreadable(f"the reply is {shown(value)}, not an object with the fields {sorted(wanted)}")
    for name, rule in wanted.items():
        found = value[name]
        kind = {"string": str, "integer": int}[rule["type"]]
        if not isinstance(found, kind) or isinstance(found, bool):
            raise Unreadable(f"the reply's field {name!r} is {shown(found)}, not of type {rule['type']}")
        if "enum" in rule and found not in rule["enum"]:
            raise Unreadable(f"the reply's field {name!r} is {shown(found)}, none of {rule['enum']}")
    return value


def schema_of(**fields: list[Any] | type[str]) -> Schema:
    """The schema of an object: a field is any text, or one of a list. A justification, which comes first, is added."""
    properties: dict[str, Any] = {"justification": {"type": "string"}}
    for name, choices in fields.items():
        if isinstance(choices, list):
            properties[name] = {"type": "integer" if isinstance(choices[0], int) else "string", "enum": choices}
        else:
            properties[name] = {"type": "string"}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
