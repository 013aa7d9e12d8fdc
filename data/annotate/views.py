"""What a page may see, as JSON: an assignment without who wrote the answers, what comes after the verdict, progress.

Blind by construction: an answer is named by its slot, and of a candidate nothing is copied but its text, its steps and
whether it ran into the length limit. Before the verdict there is no suggestion (unless the batch shows them, and the
assignment says so), no reference, no gold decision, no sign of a gold or repeated task, and never another's answer,
which an adjudicator alone sees, without names.
"""

from __future__ import annotations

import collections
import json
import statistics
from typing import Any

from sqlalchemy import Connection, case, func, or_, select

from data.annotate.decisions import LETTERS, to_slots
from data.annotate.ledger import ASSIGNMENTS, BATCHES, JUDGMENTS, SUGGESTIONS, TASKS, get, record, records
from data.annotate.records import (
    Annotator,
    Assignment,
    Batch,
    Candidate,
    Guideline,
    Judgment,
    Prompt,
    Suggestion,
    Task,
)
from data.annotate.turns import disputes, says, standing

TEXT_LIMIT = 200_000  # characters of all answers together that the JSON carries; a page fetches longer ones in parts
_RECENT = 100  # judgments that the median time is of


def assignment_view(connection: Connection, row: Any, annotator: Annotator, *, whole: bool = False) -> dict[str, Any]:
    """What the annotator is shown of a row of assignments; `whole` keeps the texts however long they are."""
    lent, task = record(Assignment, row), get(connection, Task, row.task_id)
    batch, prompt = get(connection, Batch, task.batch_id), get(connection, Prompt, task.prompt_id)
    answers = [get(connection, Candidate, name) for name in lent.slots]
    carried = whole or sum(len(answer.text) for answer in answers) <= TEXT_LIMIT
    view: dict[str, Any] = {
        "id": lent.id, "kind": task.kind, "batch": batch.name, "prompt": prompt.messages, "evidence": prompt.evidence,
        "language": prompt.language,
        "slots": [{"slot": letter, "text": answer.text if carried else None, "length": len(answer.text),
                   "truncated": answer.finish_reason == "length"}
                  for letter, answer in zip(LETTERS, answers, strict=False)],
        "steps": list(answers[0].steps) if task.kind == "stepwise" else [],
        "aspects": list(task.aspects), "scale": task.scale, "error_tags": list(batch.error_tags),
        "guideline": task.guideline, "leased_until": lent.leased_until, "opened": lent.opened_at is not None,
        "suggestion": None, "draft": json.loads(row.draft) if row.draft else None, "revises": row.revises}
    if lent.suggestion_shown:
        said = records(connection, Suggestion, SUGGESTIONS.c.task_id == _origin(task))
        view["suggestion"] = _suggestion(said[0], lent.slots, named=False) if said else None
    if annotator.role == "adjudicator":
        view["others"] = [to_slots(each.decision, lent.slots) for each in standing(connection, task.id)]
    return view


def _origin(task: Task) -> str:
    """The task whose suggestions are about these answers: a repeated task has those of its first."""
    return task.repeat_of or task.id


def _suggestion(said: Suggestion, slots: tuple[str, ...], *, named: bool) -> dict[str, Any]:
    view = {"decision": to_slots(said.decision, slots), "confidence": said.confidence}
    return {"judge": said.judge, **view} if named else view


def reveal(connection: Connection, judgment: Judgment) -> dict[str, Any] | None:
    """What the batch lets its annotators see once they have decided; None where it lets them see nothing."""
    task = get(connection, Task, judgment.task_id)
    if not get(connection, Batch, task.batch_id).reveal or not judgment.decision.decides:
        return None
    slots = get(connection, Assignment, str(judgment.assignment_id)).slots
    said = records(connection, Suggestion, SUGGESTIONS.c.task_id == _origin(task))
    gold = None if task.gold is None else {"decision": to_slots(task.gold, slots),
                                           "agrees": says(task.gold) == says(judgment.decision)}
    return {"suggestions": [_suggestion(each, slots, named=True) for each in said],
            "reference": get(connection, Prompt, task.prompt_id).reference, "gold": gold}


def guideline_view(connection: Connection, version: str | None) -> dict[str, Any] | None:
    """A guideline's version, title and Markdown; the newest where no version is named."""
    found = [each for each in records(connection, Guideline) if version in (None, each.version)]
    return None if not found else {"version": found[-1].version, "title": found[-1].title, "text": found[-1].text}


def history_view(connection: Connection, judgment: Judgment) -> dict[str, Any]:
    """One of the annotator's own rows."""
    task = get(connection, Task, judgment.task_id)
    lent = None if judgment.assignment_id is None else get(connection, Assignment, judgment.assignment_id)
    asked = get(connection, Prompt, task.prompt_id).messages[-1]["content"]
    return {"id": judgment.id, "assignment": judgment.assignment_id, "kind": task.kind, "prompt": asked[:200],
            "decision": to_slots(judgment.decision, lent.slots if lent else task.candidate_ids),
            "status": judgment.status, "supersedes": judgment.supersedes, "created_at": judgment.created_at}


def progress(connection: Connection, annotator: Annotator, moment: str) -> dict[str, Any]:
    """Counts of the annotator's own work, and of what is left of each batch; nobody else's decisions."""
    batches = batch_progress(connection, annotator, moment)
    return {"mine": own_progress(connection, annotator, moment, left=sum(batch["left_for_me"] for batch in batches)),
            "batches": batches}


def own_progress(connection: Connection, annotator: Annotator, moment: str, *, left: int | None = None
                 ) -> dict[str, Any]:
    """Counts of the annotator's own work alone: what a page may show beside a task. `left` is counted where it is not
    given."""
    if left is None:
        left = sum(batch["left_for_me"] for batch in batch_progress(connection, annotator, moment))
    a, j, later = ASSIGNMENTS.c, JUDGMENTS.c, JUDGMENTS.alias("later")
    judged = connection.execute(select(func.count()).select_from(ASSIGNMENTS).where(
        a.annotator == annotator.name, a.state.in_(("judged", "surplus")))).scalar_one()
    stands = [j.annotator == annotator.name, j.status != "void",
              ~select(later.c.id).where(later.c.supersedes == j.id).exists()]
    passed = dict(connection.execute(select(j.outcome, func.count()).where(
        *stands, j.outcome.in_(("skip", "flag"))).group_by(j.outcome)).tuples().all())
    today = connection.execute(select(func.count()).select_from(JUDGMENTS).where(
        *stands, j.created_at >= moment[:10])).scalar_one()
    times = connection.execute(select(j.lead_time_ms).where(*stands, j.lead_time_ms.is_not(None)).order_by(
        j.seq.desc()).limit(_RECENT)).scalars().all()
    return {"judged": judged, "skipped": passed.get("skip", 0), "flagged": passed.get("flag", 0), "today": today,
            "left": left, "median_s": statistics.median(times) / 1000 if times else None}


def batch_progress(connection: Connection, annotator: Annotator, moment: str) -> list[dict[str, Any]]:
    """Of each batch: the tasks the annotator has had and will have, how many are done, about how many are left.

    An adjudicator is told of the batch's own tasks, and how many have all their judgments. Annotators are not: that
    count goes up with each of their verdicts but those on gold and repeated tasks.
    """
    t, a = TASKS.c, ASSIGNMENTS.c
    others = select(a.task_id, func.count().label("count")).where(a.role == "annotator", or_(
        a.state == "judged", (a.state == "open") & (a.leased_until > moment) & (a.annotator != annotator.name)
    )).group_by(a.task_id).subquery()
    judged = select(a.task_id, func.count().label("count")).where(
        a.role == "annotator", a.state == "judged").group_by(a.task_id).subquery()
    mine = select(a.task_id, a.state).where(a.annotator == annotator.name).subquery()
    taken, full = func.coalesce(others.c.count, 0), func.coalesce(judged.c.count, 0)
    is_usual, is_open, is_gold = t.min_judgments > 0, mine.c.state == "open", t.is_gold == 1
    is_had = mine.c.state.is_not(None) & ~is_open
    is_free = is_usual & (mine.c.state.is_(None) | is_open) & (taken < t.min_judgments)
    rows = connection.execute(select(
        t.batch_id, _how_many(is_usual).label("tasks"), _how_many(is_usual & (full >= t.min_judgments)).label("done"),
        _how_many(is_free).label("free"), _how_many(is_usual & is_had).label("usual"), _how_many(is_had).label("had"),
        _how_many(is_gold).label("gold"), _how_many(is_open & ~is_usual).label("held")).select_from(TASKS)
        .outerjoin(others, others.c.task_id == t.id).outerjoin(judged, judged.c.task_id == t.id)
        .outerjoin(mine, mine.c.task_id == t.id).group_by(t.batch_id))
    counts = {row.batch_id: row for row in rows}
    settles = annotator.role == "adjudicator"
    unsettled = left_to_settle(connection, annotator, moment) if settles else None
    found = []
    for batch in records(connection, Batch):
        row = counts[batch.id]  # every batch has a task: an import that makes none is refused
        left = left_of(batch, row) if unsettled is None else unsettled[batch.id]
        whole = (row.tasks, row.done) if settles else (int(row.had) + left, int(row.had))
        found.append({"id": batch.id, "name": batch.name, "tasks": whole[0], "done": whole[1], "left_for_me": left})
    return found


def left_to_settle(connection: Connection, adjudicator: Annotator, moment: str) -> collections.Counter[str]:
    """By batch: the tasks that people do not agree on and that are this adjudicator's or nobody's yet."""
    a, t = ASSIGNMENTS.c, TASKS.c
    lent = connection.execute(select(t.batch_id).join(ASSIGNMENTS, a.task_id == t.id).where(
        a.annotator == adjudicator.name, a.state == "open")).scalars()
    return collections.Counter([*lent, *(batch for _, batch in disputes(connection, adjudicator.name, moment))])


def left_of(batch: Batch, row: Any) -> int:
    """How many tasks an annotator will have of a batch still: what to expect in all, gold and repeated ones in their
    shares, less what they have had, of whichever kind; a count of the usual ones alone would tell the others apart.

    At least 1 while there is any: which of the last ones is gold, nobody can tell either.
    """
    if not row.tasks:
        return int(row.gold - row.had)  # nothing but gold
    if not row.free and not row.held:
        return 0
    usual, share = row.usual + row.free, 1 - batch.gold_share - batch.repeat_share
    gold, repeated = (min(most, usual * part / share if share > 0 else most) for most, part in (
        (row.gold, batch.gold_share), (usual, batch.repeat_share)))
    return max(1, round(usual + gold + repeated) - int(row.had))


def _how_many(condition: Any) -> Any:
    """A query's count of the rows that meet a condition."""
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def nothing_left(connection: Connection, annotator: Annotator, moment: str) -> dict[str, Any]:
    """Why there is no next assignment: nothing imported, all done, or all that is left lies with others for now."""
    if connection.execute(select(func.count()).select_from(BATCHES)).scalar_one() == 0:
        return {"reason": "none_imported"}
    a, t = ASSIGNMENTS.c, TASKS.c
    had = select(a.task_id).where(a.annotator == annotator.name, a.state != "open")
    soonest = connection.execute(select(func.min(a.leased_until)).select_from(ASSIGNMENTS).join(
        TASKS, t.id == a.task_id).where(a.state == "open", a.leased_until > moment, t.min_judgments > 0,
                                        t.id.not_in(had))).scalar()
    return {"reason": "done"} if soonest is None else {"reason": "leased", "retry_after_s": 60}
