"""A desk's snapshot, written down in a few words: what tests of agreement, profiles and export start from."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from data.annotate.records import (
    Annotator,
    Assignment,
    Batch,
    Candidate,
    Correction,
    Decision,
    Judgment,
    Prompt,
    Snapshot,
    StepLabel,
    Suggestion,
    Task,
)


@dataclasses.dataclass
class Desk:
    """Collects rows; `snapshot()` is what they come to. The order of the sides is drawn from `seed`."""

    seed: int = 0
    prompts: list[Prompt] = dataclasses.field(default_factory=list)
    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    annotators: list[Annotator] = dataclasses.field(default_factory=list)
    batches: list[Batch] = dataclasses.field(default_factory=list)
    tasks: list[Task] = dataclasses.field(default_factory=list)
    assignments: list[Assignment] = dataclasses.field(default_factory=list)
    judgments: list[Judgment] = dataclasses.field(default_factory=list)
    suggestions: list[Suggestion] = dataclasses.field(default_factory=list)

    def snapshot(self) -> Snapshot:
        return Snapshot(**{field.name: tuple(getattr(self, field.name)) for field in dataclasses.fields(self)
                           if field.name != "seed"})

    def task(self, name: str, texts: Sequence[str] = ("good", "bad"), *, kind: Any = "pairwise", language: Any = "en",
             batch: str = "first", split: Any = "train", question: str | None = None, candidate: dict[str, Any] | None
             = None, **fields: Any) -> Task:
        """A task whose candidates are `{name}.0`, `{name}.1`, ...; a stepwise one's single candidate has `texts` as
        steps. A repeated task has the candidates of its first."""
        if batch not in {each.id for each in self.batches}:
            self.batches.append(Batch(id=batch, name=batch, guideline="g1"))
        if again := fields.get("repeat_of"):
            first = next(each for each in self.tasks if each.id == again)
            self.tasks.append(dataclasses.replace(first, id=name, repeat_of=again, min_judgments=0))
            return self.tasks[-1]
        self.prompts.append(Prompt(id=f"p-{name}", messages=[{"role": "user", "content": question or f"{name}?"}],
                                   language=language, question_id=f"q-{name}", operand_key=f"k-{name}", split=split))
        given = [("\n".join(texts), tuple(texts))] if kind == "stepwise" else [(text, ()) for text in texts]
        made = [Candidate(id=f"{name}.{place}", prompt_id=f"p-{name}", text=text, steps=steps,
                          **{"generator": f"model-{place}", **(candidate or {})})
                for place, (text, steps) in enumerate(given)]
        self.candidates += made
        self.tasks.append(Task(id=name, kind=kind, prompt_id=f"p-{name}", candidate_ids=tuple(each.id for each in made),
                               batch_id=batch, guideline="g1", **fields))
        return self.tasks[-1]

    def judge(self, name: str, task: str, decision: Decision, *, origin: Any = "human", shown: bool = False,
              first: str | None = None, seconds: float | None = 30.0, imported: bool = False, role: Any = "annotator",
              **fields: Any) -> Judgment:
        """`first` is the candidate in the first slot; drawn where not given."""
        if name not in {each.name for each in self.annotators}:
            self.annotators.append(Annotator(name=name, origin=origin, role=role))
        seq = len(self.judgments) + 1
        slots = list(next(each for each in self.tasks if each.id == task).candidate_ids)
        random.Random(f"{self.seed}/{name}/{task}").shuffle(slots)
        if first is not None:
            slots.sort(key=lambda each: each != first)
        if not imported:
            self.assignments.append(Assignment(
                id=f"a{seq}", task_id=task, annotator=name, slots=tuple(slots), seed=0, created_at="", leased_until="",
                suggestion_shown=shown))
        self.judgments.append(Judgment(
            id=f"j{seq}", seq=seq, task_id=task, annotator=name, decision=decision, role=role, guideline="g1",
            assignment_id=None if imported else f"a{seq}",
            lead_time_ms=None if seconds is None else round(1000 * seconds), **fields))
        return self.judgments[-1]

    def suggest(self, judge: str, task: str, decision: Decision, **fields: Any) -> None:
        self.suggestions.append(Suggestion(id=f"s{len(self.suggestions)}", task_id=task, judge=judge,
                                           decision=decision, **fields))


def prefer(task: str, place: int, strength: int = 2, **fields: Any) -> Decision:
    return Decision(outcome="prefer", preferred=f"{task}.{place}", strength=strength, **fields)


def walk(*ratings: int | None, correction: str | None = None, tag: str | None = None, **fields: Any) -> Decision:
    """A stepped decision; the correction is of the first wrong step."""
    wrong = ratings.index(-1) if -1 in ratings else None
    labels = tuple(StepLabel(step=step, rating=rating, tag=tag if step == wrong else None)
                   for step, rating in enumerate(ratings))
    given = () if correction is None or wrong is None else (Correction(step=wrong, text=correction),)
    return Decision(outcome="stepped", steps=labels, corrections=given, **fields)


TIE, BOTH_BAD = Decision(outcome="tie"), Decision(outcome="both_bad")
SKIP, FLAG = Decision(outcome="skip", reason="unclear"), Decision(outcome="flag", reason="broken")
STEPS = ["Change: 46 - 40 = 6", "Growth: 6 / 46 = 13%", "Answer: 13%"]


def busy_desk(seed: int = 0, *, sides: int = 0) -> Desk:
    """All kinds of task and decision; `sides` draws the order in which they were shown."""
    draw, desk = random.Random(seed), Desk(seed=sides)
    for number in range(24):
        name = f"t{number}"
        kind = ("pairwise", "ranking", "stepwise")[number % 3]
        desk.task(name, STEPS if kind == "stepwise" else ["甲", "b", "c"][:3 if kind == "ranking" else 2], kind=kind)
        ranking = tuple((f"{name}.{place}",) for place in draw.sample(range(3), 3))
        options = {"pairwise": [prefer(name, 0, 1), prefer(name, 1, 3), TIE, BOTH_BAD, SKIP,
                                Decision(outcome="both_bad", rewrite="写得更好")],
                   "ranking": [Decision(outcome="ranked", ranking=ranking), SKIP],
                   "stepwise": [walk(1, -1, None, correction="x"), walk(1, 0, 1), walk(-1, None, None, correction="y")]}
        for who in ("ann", "bea", "cyd"):
            desk.judge(who, name, draw.choice(options[kind]))
        desk.suggest("judge", name, draw.choice(options[kind]))
    return desk
