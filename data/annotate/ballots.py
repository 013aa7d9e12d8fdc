"""The judgments of a snapshot that a policy lets count, task by task, and what they come to.

What is left out on the way is counted by reason. Nothing here depends on the order in which judgments arrived or sides
were shown.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from data.annotate.agreement import PEOPLE, both_orders
from data.annotate.policy import Policy
from data.annotate.records import Assignment, Candidate, Decision, Judgment, Origin, Prompt, Role, Snapshot, Task
from data.schema import UserError

T = TypeVar("T")
LeftOut = collections.Counter[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Vote:
    """A decision that counts, and whose it is."""

    annotator: str
    origin: Origin
    decision: Decision
    role: Role = "annotator"
    instruction: str | None = None  # the guideline's version, or the hash of an AI judge's prompt
    slots: tuple[str, ...] = ()  # candidates as shown; () where that is not known


@dataclasses.dataclass(frozen=True, slots=True)
class Ballot:
    """The votes of one source on one task that are settled together, in order of names."""

    task: Task
    prompt: Prompt
    candidates: dict[str, Candidate]
    votes: tuple[Vote, ...]
    peers: tuple[Vote, ...]  # those whose agreement is asked for: with `each` the others' votes too


def ballots(snapshot: Snapshot, policy: Policy, left_out: LeftOut) -> list[Ballot]:
    """The ballots in the order of the tasks, people's before machines'."""
    prompts, candidates = snapshot.by_id("prompts"), snapshot.by_id("candidates")
    people, machines = votes_of_people(snapshot, policy, left_out), votes_of_machines(snapshot, policy)
    vetoed = {judgment.task_id for judgment in snapshot.standing()
              if judgment.decision.outcome == "flag" and policy.skips == "veto"}
    wanted = chosen_batches(snapshot, policy)
    found = []
    for task in snapshot.tasks:
        prompt = prompts[task.prompt_id]
        reason = _unwanted(task, prompt, policy, wanted, vetoed)
        by_source = people.get(task.id, {})
        if reason:
            left_out[reason] += 1
            continue
        if not by_source and not machines.get(task.id):
            left_out["tasks without a judgment that counts"] += 1
        own = {name: candidates[name] for name in task.candidate_ids}
        for _, votes in sorted(by_source.items()):
            found += [Ballot(task, prompt, own, *rest) for rest in split_votes(votes, policy, left_out)]
        found += [Ballot(task, prompt, own, (vote,), (vote,)) for vote in machines.get(task.id, [])]
    return found


def chosen_batches(snapshot: Snapshot, policy: Policy) -> set[str]:
    """Ids of the batches the policy names. Raises UserError for a name that no batch has."""
    names = {batch.name for batch in snapshot.batches}
    unknown = [name for name in policy.batches if name not in names]
    if unknown:
        raise UserError(f"--batches {', '.join(unknown)}: no batch has that name; there are "
                        f"{', '.join(sorted(names)) or 'none'}")
    return {batch.id for batch in snapshot.batches if not policy.batches or batch.name in policy.batches}


def _unwanted(task: Task, prompt: Prompt, policy: Policy, batches: set[str], vetoed: set[str]) -> str:
    """Why a task gives no row, or nothing."""
    if task.batch_id not in batches:
        return "tasks of other batches"
    if task.repeat_of is not None:
        return "tasks that repeat another"
    if task.gold is not None and policy.gold == "drop":
        return "gold tasks"
    if prompt.split not in policy.splits:
        return f"tasks of the {prompt.split} split"
    return "tasks that somebody flagged" if task.id in vetoed else ""


def votes_of_people(snapshot: Snapshot, policy: Policy, left_out: LeftOut) -> dict[str, dict[str, list[Vote]]]:
    """task -> source -> votes. A person has one vote on a task and in a role: the latest that stands."""
    origins = {annotator.name: annotator.origin for annotator in snapshot.annotators}
    assignments: dict[str, Assignment] = snapshot.by_id("assignments")
    standing = {judgment.id for judgment in snapshot.standing()}
    latest: dict[tuple[str, str, str], Judgment] = {}
    for judgment in sorted(snapshot.judgments, key=lambda judgment: judgment.seq):
        source = origins.get(judgment.annotator, "human")
        reason = _uncounted(judgment, judgment.id in standing, source, policy)
        if reason:
            left_out[reason] += 1
        elif source in PEOPLE:
            latest[judgment.task_id, judgment.annotator, judgment.role] = judgment
    votes: dict[str, dict[str, list[Vote]]] = {}
    for _, judgment in sorted(latest.items()):
        shown = assignments.get(judgment.assignment_id or "")
        source = origins.get(judgment.annotator, "human")
        vote = Vote(judgment.annotator, source, judgment.decision, judgment.role, judgment.guideline or None,
                    shown.slots if shown else ())
        votes.setdefault(judgment.task_id, {}).setdefault(source, []).append(vote)
    return votes


def _uncounted(judgment: Judgment, stands: bool, source: str, policy: Policy) -> str:
    """Why a judgment does not count, or nothing."""
    if not stands:
        return ("judgments that came after their task was full" if judgment.status == "surplus" else
                "judgments taken back or corrected")
    if source not in policy.sources:
        return f"judgments by {source} annotators"
    return {"skip": "skipped judgments", "flag": "flagged judgments"}.get(judgment.decision.outcome, "")


def votes_of_machines(snapshot: Snapshot, policy: Policy) -> dict[str, list[Vote]]:
    """task -> one vote of each AI judge or rule that the policy asks for, out of what it said in both orders."""
    origins = {annotator.name: annotator.origin for annotator in snapshot.annotators}
    tasks = snapshot.by_id("tasks")
    said: dict[tuple[str, str, Origin], list[tuple[Decision, str | None]]] = {}
    for each in snapshot.suggestions:
        origin: Origin = "rule" if each.judge == "rule" else "ai"
        said.setdefault((each.task_id, each.judge, origin), []).append((each.decision, each.prompt_hash))
    for judgment in snapshot.standing():
        origin = origins.get(judgment.annotator, "human")
        if origin not in PEOPLE:
            said.setdefault((judgment.task_id, judgment.annotator, origin), []).append(
                (judgment.decision, judgment.guideline or None))
    votes: dict[str, list[Vote]] = {}
    for (task_id, judge, origin), decisions in sorted(said.items()):
        decided = [decision for decision, _ in decisions if decision.decides]
        hashes = {prompt_hash for _, prompt_hash in decisions}
        if decided and origin in policy.sources:
            votes.setdefault(task_id, []).append(Vote(judge, origin, both_orders(tasks[task_id], decided),
                                                      instruction=only(hashes)))
    return votes


def split_votes(votes: Sequence[Vote], policy: Policy,
                left_out: LeftOut) -> list[tuple[tuple[Vote, ...], tuple[Vote, ...]]]:
    """(votes, peers) of each ballot that one source's votes on a task make."""
    annotators = tuple(vote for vote in votes if vote.role == "annotator")
    adjudicators = tuple(vote for vote in votes if vote.role == "adjudicator")
    if adjudicators and policy.resolution == "adjudicated":
        return [(adjudicators, adjudicators)]
    if len(annotators) < policy.min_judgments:
        left_out[f"tasks with fewer than {policy.min_judgments} judgments"] += 1
        return []
    if policy.resolution == "each":
        return [((vote,), annotators) for vote in annotators]
    return [(annotators, annotators)]


def settled(ballot: Ballot, says: Callable[[Vote], T | None], policy: Policy, left_out: LeftOut, *,
            what: str) -> tuple[T, tuple[Vote, ...]] | None:
    """What more than half of the votes say, and the votes that say so; None where too few agree, counted under `what`.

    `says` is None for a vote that says nothing of it.
    """
    by_value: dict[T, list[Vote]] = {}
    for vote in ballot.votes:
        if (value := says(vote)) is not None:
            by_value.setdefault(value, []).append(vote)
    if not by_value:
        return None
    value, votes = max(by_value.items(), key=lambda item: len(item[1]))
    if 2 * len(votes) <= sum(map(len, by_value.values())):
        left_out[f"{what} without a majority"] += 1
        return None
    said = [other for vote in ballot.peers if (other := says(vote)) is not None]
    share = said.count(value) / len(said)
    if max(share, round(share, 2)) < policy.min_agreement:  # 0.67 is two of three
        left_out[f"{what} with agreement below {policy.min_agreement:g}"] += 1
        return None
    return value, tuple(votes)


def only(values: Iterable[T | None]) -> T | None:
    """The one value that all share, else None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
