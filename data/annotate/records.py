"""What the annotator's desk remembers: prompts, candidates, tasks, what was shown to whom and decided; and a snapshot.

Frozen rows as in data/schema.py. What was *shown* (an assignment's slots) is kept apart from what was *decided*, and a
decision names candidates by id, never left or right. Judgments are append-only: a correction supersedes, an undo voids.
People, AI judges and gold items decide in the same form. The module knows no database, no server and no file format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from data.rows import to_row
from data.schema import Language, Message, Row, Split

TaskKind = Literal["pairwise", "ranking", "rating", "stepwise"]
Outcome = Literal["prefer", "tie", "both_bad", "ranked", "rated", "stepped", "skip", "flag"]
Origin = Literal["human", "simulated", "ai", "rule"]
Status = Literal["submitted", "void", "surplus"]
Role = Literal["annotator", "adjudicator"]
OUTCOMES: dict[TaskKind, tuple[Outcome, ...]] = {  # what may be decided of a task, beside skip and flag
    "pairwise": ("prefer", "tie", "both_bad"), "ranking": ("ranked", "both_bad"), "rating": ("rated",),
    "stepwise": ("stepped",)}
STRENGTHS = {0: "no difference", 1: "slightly", 2: "better", 3: "much"}
STEP_RATINGS = (-1, 0, 1)  # wrong, neither helps nor harms, right; a step that was not judged has None

R = TypeVar("R", bound=Row)


# ------------------------------------------------------------------------------------------------ what is judged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Row):
    """What was asked. `id` is the content id of `messages` and `evidence`."""

    id: str
    messages: list[Message]  # ends with the user's
    evidence: str = ""  # Markdown: tables and passages, pinned beside the answers; "" where the prompt holds all
    language: Language | None = None
    question_id: str | None = None
    operand_key: str | None = None
    question_kind: str | None = None
    reference: str | None = None  # the gold answer; never shown before the verdict
    split: Split = "train"
    source: dict[str, str] = dataclasses.field(default_factory=dict)  # e.g. {"file": "rows.jsonl", "row": "7"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Row):
    """One answer to a prompt, and who made it: nothing but `text` and `steps` reaches a page before the verdict."""

    id: str  # content id of prompt, text and generator
    prompt_id: str
    text: str
    generator: str  # model name or identity, "gold", a person's name, ...
    generator_type: Literal["model", "human", "gold", "unknown"] = "model"
    sampling: dict[str, str | float | int | None] = dataclasses.field(default_factory=dict)  # temperature, ...
    finish_reason: str | None = None
    num_tokens: int | None = None
    score: float | None = None  # a reward model's, where the imported rows had one
    error_kind: str | None = None  # what is wrong with it, where the source knew
    steps: tuple[str, ...] = ()  # its lines, blank ones with the line before; joined by line breaks they are the text

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guideline(Row):
    """The Markdown that tells annotators what is better; its version is the content id of its text."""

    version: str
    text: str
    title: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Annotator(Row):
    """Who decides, by pseudonym."""

    name: str
    origin: Origin = "human"
    role: Role = "annotator"
    created_at: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Row):
    """Tasks that were imported together, and the rules they are worked under."""

    id: str
    name: str
    guideline: str  # a guideline's version
    suggestions: Literal["hidden", "shown"] = "hidden"  # of an AI judge, before the first verdict
    reveal: bool = False  # after the verdict: suggestion, reference and the gold decision
    error_tags: tuple[str, ...] = ()
    repeat_share: float = 0.0  # of an annotator's tasks that are one of their own again
    gold_share: float = 0.0  # of an annotator's tasks whose right decision is known
    source: dict[str, str] = dataclasses.field(default_factory=dict)  # what was imported, and how it was paired
    created_at: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "error_tags", tuple(self.error_tags))


# --------------------------------------------------------------------------------------------------- what is decided


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepLabel(Row):
    """The rating of one step, counted from 0."""

    step: int
    rating: int | None  # one of STEP_RATINGS; None = not judged, as all steps after the first wrong one
    tag: str | None = None  # an error tag
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Correction(Row):
    """The right step in place of the first wrong one."""

    step: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span(Row):
    """An erroneous passage of a candidate's text: code points [start, end)."""

    candidate_id: str
    start: int
    end: int
    tag: str | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Row):
    """What somebody decided of a task; which fields count depends on the outcome.

    prefer: `preferred`, `strength` 1..3. tie, both_bad: `strength` 0. ranked: `ranking`. rated: `ratings`. stepped:
    `steps` and at most one correction. skip, flag: `reason`. Rewrites, tags, spans and reasons may stand beside any.
    """

    outcome: Outcome
    preferred: str | None = None  # a candidate id
    strength: int = 0  # see STRENGTHS
    ranking: tuple[tuple[str, ...], ...] = ()  # best first; candidates in one group are tied
    ratings: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)  # candidate -> aspect -> 1..scale
    steps: tuple[StepLabel, ...] = ()  # one for each step, in order
    corrections: tuple[Correction, ...] = ()
    correction_declined: bool = False  # a wrong step was marked and its correction knowingly left out
    rewrite: str | None = None  # a better answer, written by the annotator: preferred over every candidate
    rationale: str = ""
    tags: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    reason: str = ""  # of a skip or flag

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranking", tuple(tuple(group) for group in self.ranking))
        object.__setattr__(self, "tags", tuple(self.tags))
        for name, cls in (("steps", StepLabel), ("corrections", Correction), ("spans", Span)):
            object.__setattr__(self, name, tuple(item if isinstance(item, cls) else cls(**item)
                                                 for item in getattr(self, name)))

    @property
    def first_error(self) -> int | None:
        """The first step rated wrong."""
        return next((label.step for label in self.steps if label.rating == -1), None)

    @property
    def decides(self) -> bool:
        """Whether it says something about the candidates; a skip or a flag does not."""
        return self.outcome not in ("skip", "flag")


# ------------------------------------------------------------------------------------------- tasks and their judgments


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task(Row):
    """A comparison, ranking, rating or walk through steps that `min_judgments` people are asked for."""

    id: str
    kind: TaskKind
    prompt_id: str
    candidate_ids: tuple[str, ...]  # in an order that says nothing: sorted
    batch_id: str
    guideline: str
    aspects: tuple[str, ...] = ()  # of a rating
    scale: int = 5  # of a rating: 1 (worst) .. scale (best)
    min_judgments: int = 1  # 0 = everybody's, as gold and repeated ones
    gold: Decision | None = None  # the right decision, where it is known: the task measures the annotator
    repeat_of: str | None = None  # shown again to those who judged that task: measures their consistency
    priority: float = 0.0  # higher first

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidate_ids", tuple(self.candidate_ids))
        object.__setattr__(self, "aspects", tuple(self.aspects))
        if isinstance(self.gold, Mapping):
            object.__setattr__(self, "gold", Decision(**self.gold))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment(Row):
    """One task lent to one annotator: what was shown, in which order."""

    id: str
    task_id: str
    annotator: str
    slots: tuple[str, ...]  # candidate ids as shown: slot 0 is A, the left or upper one
    seed: int  # that the order was drawn from
    created_at: str
    leased_until: str
    role: Role = "annotator"
    opened_at: str | None = None
    suggestion_shown: bool = False  # before the first verdict
    ui_version: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", tuple(self.slots))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgment(Row):
    """One row of the append-only list. `id` is a UUID that the client made, so that posting twice gives one row.

    `void` takes back what it supersedes and decides nothing. `surplus` came after its lease had gone to somebody else
    who filled the task: kept, not counted.
    """

    id: str
    seq: int  # place in the list, from 1
    task_id: str
    annotator: str
    decision: Decision
    status: Status = "submitted"
    supersedes: str | None = None
    assignment_id: str | None = None  # None for one that was imported
    guideline: str = ""  # the version that was in force
    role: Role = "annotator"  # an adjudicator's decision settles a task
    lead_time_ms: int | None = None
    created_at: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.decision, Mapping):
            object.__setattr__(self, "decision", Decision(**self.decision))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion(Row):
    """An AI judge's decision on a task. Never a judgment: it is compared with them and never counted as one."""

    id: str
    task_id: str
    judge: str  # model or "rule"
    decision: Decision
    confidence: float | None = None
    prompt_hash: str | None = None
    raw: str | None = None
    swap_of: str | None = None  # the same judge's suggestion with the sides the other way round

    def __post_init__(self) -> None:
        if isinstance(self.decision, Mapping):
            object.__setattr__(self, "decision", Decision(**self.decision))


# ---------------------------------------------------------------------------------------------------------- snapshots


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment, each list in the order it was made in; export and agreement depend on it alone."""

    prompts: tuple[Prompt, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    guidelines: tuple[Guideline, ...] = ()
    annotators: tuple[Annotator, ...] = ()
    batches: tuple[Batch, ...] = ()
    tasks: tuple[Task, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    judgments: tuple[Judgment, ...] = ()  # all: superseded, void and surplus ones too
    suggestions: tuple[Suggestion, ...] = ()

    def sha256(self) -> str:
        """The hash of all rows."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    def standing(self) -> list[Judgment]:
        """The judgments that count, in order: submitted and superseded by none. Skips and flags are among them."""
        superseded = {judgment.supersedes for judgment in self.judgments}
        return [judgment for judgment in self.judgments
                if judgment.status == "submitted" and judgment.id not in superseded]

    def unprompted(self) -> list[Judgment]:
        """What was decided before anybody was told the answer: the judgments that stand; but where a batch reveals it
        after the verdict, the first verdict of each assignment, taken back or not."""
        telling = {batch.id for batch in self.batches if batch.reveal}
        told = {task.id for task in self.tasks if task.batch_id in telling}
        first: dict[str, Judgment] = {}
        for judgment in sorted(self.judgments, key=lambda judgment: judgment.seq):
            if judgment.task_id in told and judgment.status != "void" and judgment.decision.decides:
                first.setdefault(judgment.assignment_id or judgment.id, judgment)
        return [*(judgment for judgment in self.standing() if judgment.task_id not in told),
                *(judgment for judgment in first.values() if judgment.status == "submitted")]

    def by_id(self, name: str) -> dict[str, Any]:
        """The rows of one list by what names them, e.g. `snapshot.by_id("tasks")[judgment.task_id]`."""
        key = {"guidelines": "version", "annotators": "name"}.get(name, "id")
        return {getattr(row, key): row for row in getattr(self, name)}


def canonical(value: object) -> str:
    """JSON with sorted keys and no space: the same value, rows in it included, gives the same text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False,
                      default=_fields)


def _fields(row: Any) -> dict[str, Any]:
    """A row inside a value: as `to_json` gives it, without its copies."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


_INNER: dict[type[Row], dict[str, tuple[type[Row], bool]]] = {  # field -> row type inside, whether a list of them
    Decision: {"steps": (StepLabel, True), "corrections": (Correction, True), "spans": (Span, True)},
    Task: {"gold": (Decision, False)},
    Judgment: {"decision": (Decision, False)},
    Suggestion: {"decision": (Decision, False)},
}


def to_record(value: Mapping[str, Any], cls: type[R], *, where: str) -> R:
    """A JSON object as a record, rows inside rows included. Raises UserError naming the field and its type."""
    filled = dict(value)
    for name, (inner, several) in _INNER.get(cls, {}).items():
        given = filled.get(name)
        if several and isinstance(given, Iterable) and all(isinstance(item, Mapping) for item in given):
            filled[name] = [to_record(item, inner, where=f"{where}: {name}[{i}]") for i, item in enumerate(given)]
        elif isinstance(given, Mapping) and not several:
            filled[name] = to_record(given, inner, where=f"{where}: {name}")
    return to_row(filled, cls, where=where)
