"""Between a decision as a page posts it, by slots, and as it is kept, by candidate ids; and whether it makes sense.

    decision = from_slots({"outcome": "prefer", "preferred": "a", "strength": 2}, task, slots, texts, tags=tags)
    to_slots(decision, slots)

A slot is a letter, a, b, c, ... in the order of the assignment: the only name of a candidate that a page ever sees.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from data.annotate.records import OUTCOMES, STEP_RATINGS, STRENGTHS, Candidate, Decision, Span, Task, to_record
from data.rows import shown
from data.schema import UserError

LETTERS = string.ascii_lowercase
MAX_TEXT = 100_000  # characters of anything an annotator writes
_TEXTS = ("rewrite", "rationale", "reason")


class Invalid(UserError):
    """A decision that cannot be: `field` is the one to look at."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def from_slots(posted: Mapping[str, Any], task: Task, slots: Sequence[str], candidates: Mapping[str, Candidate], *,
               tags: Collection[str]) -> Decision:
    """The decision by candidate ids, checked; `tags` are the error tags of the task's batch. Raises Invalid."""
    names = dict(zip(LETTERS, slots, strict=False))
    value = dict(posted)
    if value.get("preferred") is not None:
        value["preferred"] = _candidate(value["preferred"], names, "preferred")
    if value.get("ranking") is not None:
        value["ranking"] = [[_candidate(slot, names, "ranking") for slot in _list(group, "ranking")]
                            for group in _list(value["ranking"], "ranking")]
    if value.get("ratings") is not None:
        if not isinstance(value["ratings"], Mapping):
            raise Invalid("ratings", f"is {shown(value['ratings'])}; it must be an object, slot -> aspect -> number")
        value["ratings"] = {_candidate(slot, names, "ratings"): given for slot, given in value["ratings"].items()}
    if value.get("spans") is not None:
        value["spans"] = [_span(span, names) for span in _list(value["spans"], "spans")]
    try:
        decision = to_record(value, Decision, where="decision")
    except UserError as error:
        raise Invalid("decision", str(error)) from error
    check(decision, task, candidates, tags=tags)
    return decision


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise Invalid(field, f"holds {shown(value)}; it must be a list")
    return list(value)


def _candidate(slot: Any, names: Mapping[str, str], field: str) -> str:
    if not isinstance(slot, str) or slot not in names:
        raise Invalid(field, f"{shown(slot)} is none of the slots {', '.join(names)}")
    return names[slot]


def _span(span: Any, names: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(span, Mapping):
        raise Invalid("spans", f"holds {shown(span)}; a span is {{slot, start, end}}")
    return {**{name: value for name, value in span.items() if name != "slot"},
            "candidate_id": _candidate(span.get("slot"), names, "spans")}


def to_slots(decision: Decision, slots: Sequence[str]) -> dict[str, Any]:
    """The decision as a page reads and posts it."""
    letters = dict(zip(slots, LETTERS, strict=False))
    value = decision.to_json()
    value["preferred"] = letters.get(str(decision.preferred))
    value["ranking"] = [[letters[name] for name in group] for group in decision.ranking]
    value["ratings"] = {letters[name]: dict(given) for name, given in sorted(
        decision.ratings.items(), key=lambda item: letters[item[0]])}
    for span in value["spans"]:
        span["slot"] = letters[span.pop("candidate_id")]
    return value


# ----------------------------------------------------------------------------------------------------------- checks


def check(decision: Decision, task: Task, candidates: Mapping[str, Candidate], *, tags: Collection[str]) -> None:
    """Raises Invalid where the decision does not fit the task or contradicts itself."""
    allowed = (*OUTCOMES[task.kind], "skip", "flag")
    if decision.outcome not in allowed:
        raise Invalid("outcome", f"{decision.outcome!r} cannot be decided of a {task.kind} task; choose one of "
                                 f"{', '.join(allowed)}")
    _check_texts(decision, task, candidates)
    _check_tags(decision, tags)
    if not decision.decides:
        if not decision.reason.strip():
            raise Invalid("reason", f"is empty; say why you {decision.outcome} it")
        for name in ("preferred", "ranking", "ratings", "steps", "corrections", "rewrite", "strength"):
            if getattr(decision, name):
                raise Invalid(name, f"a {decision.outcome} decides nothing; leave it out")
    _check_preference(decision)
    _check_ranking(decision, task)
    _check_ratings(decision, task)
    _check_steps(decision, task, candidates)
    _check_spans(decision, task, candidates)


def _check_texts(decision: Decision, task: Task, candidates: Mapping[str, Candidate]) -> None:
    written = [(name, getattr(decision, name) or "") for name in _TEXTS]
    written += [("corrections", each.text) for each in decision.corrections]
    written += [("steps", each.note) for each in decision.steps] + [("spans", each.note) for each in decision.spans]
    for name, text in written:
        if has_half(text):
            raise Invalid(name, "holds half of a surrogate pair, which is no character; delete it")
        if len(text) > MAX_TEXT:
            raise Invalid(name, f"has {len(text)} characters; at most {MAX_TEXT} are kept")
    if decision.rewrite is not None:
        if not decision.rewrite.strip():
            raise Invalid("rewrite", "is empty; write the better answer, or leave it out")
        if decision.rewrite in [candidates[name].text for name in task.candidate_ids]:
            raise Invalid("rewrite", "is one of the answers as it stands; change it, or prefer that answer")


def has_half(text: str) -> bool:
    """Whether there is half of a surrogate pair in it, which no database keeps."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_tags(decision: Decision, tags: Collection[str]) -> None:
    """Raises Invalid for a tag that the batch does not have: of the decision, of a step, of a span."""
    given = [("tags", tag) for tag in decision.tags]
    given += [(name, each.tag) for name in ("steps", "spans") for each in getattr(decision, name) if each.tag]
    for name, tag in given:
        if tag not in tags:
            raise Invalid(name, f"{shown(tag)} is no error tag of this batch; choose from {', '.join(tags) or 'none'}")


def _check_preference(decision: Decision) -> None:
    if decision.outcome == "prefer":
        if decision.preferred is None:
            raise Invalid("preferred", "is missing; say which answer is better")
        if decision.strength not in STRENGTHS or decision.strength == 0:
            raise Invalid("strength", f"is {decision.strength}; 1 is slightly, 2 better, 3 much")
    elif decision.preferred is not None or decision.strength:
        name = "preferred" if decision.preferred is not None else "strength"
        raise Invalid(name, f"goes with the outcome 'prefer' alone, not with {decision.outcome!r}")


def _check_ranking(decision: Decision, task: Task) -> None:
    placed = [name for group in decision.ranking for name in group]
    if decision.outcome == "ranked" and (sorted(placed) != sorted(task.candidate_ids) or not all(decision.ranking)):
        raise Invalid("ranking", "must place every answer once, tied ones in one group")
    if decision.outcome != "ranked" and decision.ranking:
        raise Invalid("ranking", f"goes with the outcome 'ranked' alone, not with {decision.outcome!r}")


def _check_ratings(decision: Decision, task: Task) -> None:
    if decision.outcome != "rated":
        if decision.ratings:
            raise Invalid("ratings", f"go with the outcome 'rated' alone, not with {decision.outcome!r}")
        return
    if set(decision.ratings) != set(task.candidate_ids):
        raise Invalid("ratings", "must rate every answer")
    for given in decision.ratings.values():
        if set(given) != set(task.aspects):
            raise Invalid("ratings", f"must rate each of {', '.join(task.aspects)}")
        if wrong := [number for number in given.values() if not 1 <= number <= task.scale]:
            raise Invalid("ratings", f"{wrong[0]} is not from 1 to {task.scale}")


def _check_steps(decision: Decision, task: Task, candidates: Mapping[str, Candidate]) -> None:
    if decision.outcome != "stepped":
        if decision.steps or decision.corrections or decision.correction_declined:
            raise Invalid("steps", f"go with the outcome 'stepped' alone, not with {decision.outcome!r}")
        return
    steps = candidates[task.candidate_ids[0]].steps
    if [label.step for label in decision.steps] != list(range(len(steps))):
        raise Invalid("steps", f"must label the {len(steps)} steps in order, counted from 0")
    if wrong := [label.rating for label in decision.steps if label.rating not in (*STEP_RATINGS, None)]:
        raise Invalid("steps", f"{wrong[0]} is no rating; -1 is wrong, 0 neither, 1 right, null not judged")
    at = decision.first_error
    if at is None:
        if decision.corrections or decision.correction_declined:
            raise Invalid("corrections", "there is no wrong step to correct")
        if all(label.rating is None for label in decision.steps):
            raise Invalid("steps", "no step is rated; rate them, or skip the task")
        return
    if any(label.rating is not None for label in decision.steps[at + 1:]):
        raise Invalid("steps", f"step {at} is wrong, so the later ones cannot be judged; leave them null")
    if any(label.rating is None for label in decision.steps[:at]):
        raise Invalid("steps", f"step {at} is the first wrong one only if those before it are rated")
    if len(decision.corrections) + decision.correction_declined != 1:
        raise Invalid("corrections", f"write the right step in place of step {at}, or decline to")
    for correction in decision.corrections:
        if correction.step != at:
            raise Invalid("corrections", f"corrects step {correction.step}; the first wrong one is {at}")
        if not correction.text.strip() or correction.text.strip() == steps[at].strip():
            raise Invalid("corrections", "is empty or the step as it stands; write the right step, or decline to")
        if "\n" in correction.text:
            raise Invalid("corrections", "has several lines; a step is one line")


def _check_spans(decision: Decision, task: Task, candidates: Mapping[str, Candidate]) -> None:
    for span in decision.spans:
        _check_span(span, len(candidates[span.candidate_id].text))


def _check_span(span: Span, length: int) -> None:
    if not 0 <= span.start < span.end <= length:
        raise Invalid("spans", f"[{span.start}, {span.end}) is not within the answer's {length} characters")
