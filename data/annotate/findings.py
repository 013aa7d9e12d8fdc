"""What the ballots come to as training rows: preference pairs, single answers with a label, labelled steps, rewrites.

Every row carries where it comes from. Ids are content ids: the same finding has the same id in every export.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data.annotate.ballots import Ballot, LeftOut, Vote, only, settled
from data.annotate.comparisons import Verdict, compare, pairs_of
from data.annotate.policy import Policy
from data.annotate.records import Candidate
from data.files import Unusable, flat_prompt
from data.schema import Message, PreferencePair, content_id

UNSAID_STRENGTH = 2  # of a rewrite over a candidate: "better"
STEP_STRENGTH = 3  # of a right step over a wrong one: "much"
MAX_STRENGTH = 3
NO_ERROR = -1
NOT_JUDGED = 99


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A pair and its margin in units of reward."""

    pair: PreferencePair
    margin: float


# -------------------------------------------------------------------------------------------------- preference pairs


def findings(ballot: Ballot, policy: Policy, left_out: LeftOut) -> Iterator[Finding]:
    """All pairs of a ballot: between candidates, rewrites over candidates, corrected over wrong steps."""
    if "outcome" in policy.kinds:
        for first, second in pairs_of(ballot.task):
            yield from _compared(ballot, ballot.candidates[first], ballot.candidates[second], policy, left_out)
        if policy.rewrites == "keep":
            for text, votes in rewrites(ballot):
                for candidate in ballot.candidates.values():
                    yield _finding(ballot, votes, text, candidate.text, policy, strengths=[UNSAID_STRENGTH],
                                   chosen_from="human", error_kind=candidate.error_kind)
    if "process" in policy.kinds and ballot.task.kind == "stepwise":
        yield from _corrected(ballot, policy, left_out)


def verdict_on(ballot: Ballot, first: str, second: str, policy: Policy,
               left_out: LeftOut) -> tuple[Verdict, tuple[Vote, ...], list[int]] | None:
    """What the ballot says of two candidates, who says so, and how clearly each."""
    def says(vote: Vote) -> Verdict | None:
        comparison = compare(vote.decision, first, second)
        return comparison.verdict if comparison else None

    found: tuple[Verdict, tuple[Vote, ...]] | None = settled(ballot, says, policy, left_out, what="comparisons")
    if found is None:
        return None
    verdict, votes = found
    return verdict, votes, [each.strength for vote in votes if (each := compare(vote.decision, first, second))]


def _compared(ballot: Ballot, first: Candidate, second: Candidate, policy: Policy,
              left_out: LeftOut) -> Iterator[Finding]:
    found = verdict_on(ballot, first.id, second.id, policy, left_out)
    if found is None:
        return
    verdict, votes, strengths = found
    if verdict == "both_bad":
        left_out["comparisons in which both are bad"] += 1
    elif verdict == "tie" and policy.ties == "drop":
        left_out["ties"] += 1
    else:
        orders = {"first": [(first, second)], "second": [(second, first)], "tie": [(first, second), (second, first)]}
        for chosen, rejected in orders[verdict]:
            yield _finding(ballot, votes, chosen.text, rejected.text, policy, strengths=strengths,
                           weight=0.5 if verdict == "tie" else 1.0, chosen_from=made_by(chosen),
                           error_kind=rejected.error_kind, shown_order=_shown_order(votes, chosen, rejected, policy))


def _corrected(ballot: Ballot, policy: Policy, left_out: LeftOut) -> Iterator[Finding]:
    """The corrected step over the first wrong one, after the right ones.

    A step that is not the last ends its line, with the white space it had; the last one ends the answer.
    """
    found = settled(ballot, first_error, policy, left_out, what="first errors")
    if found is None:
        return
    index, votes = found
    steps = solution(ballot)
    if not 0 <= index < len(steps):
        left_out["solutions without a wrong step"] += 1
        return
    by_text: dict[str, list[Vote]] = {}
    for vote in votes:
        for correction in vote.decision.corrections:
            if correction.step == index:
                by_text.setdefault(correction.text.strip("\n"), []).append(vote)
    if not by_text:
        left_out["wrong steps without a correction"] += 1
    wrong = steps[index].rstrip()
    end = "" if index == len(steps) - 1 else steps[index][len(wrong):] + "\n"
    for text, authors in sorted(by_text.items()):
        tags = {label.tag for vote in authors for label in vote.decision.steps if label.step == index}
        yield _finding(ballot, authors, text + end, wrong + end, policy, strengths=[STEP_STRENGTH],
                       kind="process", prefix="".join(step + "\n" for step in steps[:index]), chosen_from="human",
                       error_kind=only(tags))


def first_error(vote: Vote) -> int | None:
    """The first wrong step, NO_ERROR where all are right, None where no steps were walked."""
    if vote.decision.outcome != "stepped":
        return None
    return NO_ERROR if vote.decision.first_error is None else vote.decision.first_error


def solution(ballot: Ballot) -> tuple[str, ...]:
    """The steps of a stepwise task's one candidate."""
    return ballot.candidates[ballot.task.candidate_ids[0]].steps


def rewrites(ballot: Ballot) -> list[tuple[str, list[Vote]]]:
    """Better answers that annotators wrote, and who did: one person's work, of which no agreement is asked."""
    by_text: dict[str, list[Vote]] = {}
    for vote in ballot.votes:
        if vote.decision.rewrite and vote.decision.rewrite.strip():
            by_text.setdefault(vote.decision.rewrite, []).append(vote)
    return sorted(by_text.items())


def _finding(ballot: Ballot, votes: Sequence[Vote], chosen: str, rejected: str, policy: Policy, *,
             strengths: Sequence[int], **fields: Any) -> Finding:
    """The row; its strength and margin are means over the votes."""
    strength = math.fsum(strengths) / len(strengths)
    margin = math.fsum(policy.margins[each] for each in strengths) / len(strengths)
    prefix = fields.get("prefix", "")
    who = provenance(ballot, votes)
    pair = PreferencePair(
        id=content_id("desk", ballot.prompt.messages, prefix, chosen, rejected, who["origin"], who["annotator"]),
        prompt=ballot.prompt.messages, chosen=chosen, rejected=rejected, strength=strength / MAX_STRENGTH,
        prompt_hash=only(vote.instruction for vote in votes), **who, **fields)
    return Finding(pair, margin)


def _shown_order(votes: Sequence[Vote], chosen: Candidate, rejected: Candidate, policy: Policy) -> str | None:
    if policy.shown_order == "drop" or len(votes) > 1 or not {chosen.id, rejected.id} <= set(votes[0].slots):
        return None
    slots = votes[0].slots
    return "chosen_first" if slots.index(chosen.id) < slots.index(rejected.id) else "rejected_first"


def made_by(candidate: Candidate) -> str:
    """A pair's `chosen_from`."""
    return {"gold": "gold", "human": "human"}.get(candidate.generator_type, "policy")


def provenance(ballot: Ballot, votes: Sequence[Vote]) -> dict[str, Any]:
    """Where a row of any form comes from; several annotators are named in order, with a + between."""
    prompt = ballot.prompt
    return {"origin": votes[0].origin, "annotator": "+".join(sorted({vote.annotator for vote in votes})),
            "question_id": prompt.question_id, "operand_key": prompt.operand_key, "language": prompt.language,
            "question_kind": prompt.question_kind, "split": prompt.split}


def usable(found: Iterable[Finding], left_out: LeftOut) -> list[Finding]:
    """The findings that say something, each once."""
    kept: dict[str, Finding] = {}
    for finding in found:
        pair = finding.pair
        if pair.chosen.strip() == pair.rejected.strip():
            left_out["pairs whose sides are the same text"] += 1
        elif not pair.chosen.strip() or not pair.rejected.strip():
            left_out["pairs with an empty side"] += 1
        elif pair.prefix and not pair.prefix.strip():
            left_out["pairs after empty steps"] += 1
        elif pair.id in kept:
            left_out["pairs that are there already"] += 1
        else:
            kept[pair.id] = finding
    return list(kept.values())


# ---------------------------------------------------------------------------------------------------- other forms


def single_answers(all_ballots: Iterable[Ballot], policy: Policy, left_out: LeftOut) -> list[dict[str, Any]]:
    """TRL's unpaired rows. Both answers of `both_bad` are not good; one that is better than a second answer and worse
    than a third, in whichever tasks, or on which annotators disagree, has no honest label."""
    given: list[tuple[str, dict[str, Any]]] = []
    said: dict[str, dict[str, set[frozenset[bool]]]] = {}  # answer of a source -> task -> what each ballot calls it
    for ballot in all_ballots:
        labels: dict[str, set[bool]] = {}
        voters: dict[str, list[Vote]] = {}
        for text, label, votes in _labelled(ballot, policy, left_out):
            labels.setdefault(text, set()).add(label)
            voters.setdefault(text, []).extend(votes)
        for text, found in labels.items():
            if not text.strip():
                left_out["empty answers"] += 1
                continue
            who = provenance(ballot, voters[text])
            key = content_id("desk answer", ballot.prompt.messages, text, who["origin"], who["annotator"])
            answer = content_id("answer", ballot.prompt.messages, text, who["origin"])
            said.setdefault(answer, {}).setdefault(ballot.task.id, set()).add(frozenset(found))
            given.append((answer, {"prompt": ballot.prompt.messages, "completion": assistant(text),
                                   "label": min(found), "id": key, **who}))
    conflicts = {answer: reason for answer, by_task in said.items() if (reason := _conflict(by_task.values()))}
    left_out.update(conflicts.values())
    rows: dict[str, dict[str, Any]] = {}
    for answer, row in given:
        if answer not in conflicts:
            left_out["answers that are there already"] += row["id"] in rows
            rows.setdefault(row["id"], row)
    return list(rows.values())


def _conflict(by_task: Iterable[set[frozenset[bool]]]) -> str:
    """Why the labels that an answer has from the ballots of each task cannot be one, or nothing."""
    by_task = list(by_task)
    if any(len(ballots) > 1 for ballots in by_task):
        return "answers that annotators call both good and not"
    labels = {label for ballots in by_task for found in ballots for label in found}
    return "answers that are better than one and worse than another" if len(labels) > 1 else ""


def _labelled(ballot: Ballot, policy: Policy, left_out: LeftOut) -> Iterator[tuple[str, bool, Sequence[Vote]]]:
    """(text, whether it is good, who says so)."""
    for first, second in pairs_of(ballot.task):
        found = verdict_on(ballot, first, second, policy, left_out)
        if found is None:
            continue
        verdict, votes, _ = found
        if verdict == "tie":
            left_out["ties"] += 1
        else:
            yield ballot.candidates[first].text, verdict == "first", votes
            yield ballot.candidates[second].text, verdict == "second", votes
    if policy.rewrites == "keep":
        yield from ((text, True, votes) for text, votes in rewrites(ballot))
    if ballot.task.kind == "stepwise":
        left_out["walks through steps, which label no whole answer"] += 1


def labelled_steps(all_ballots: Iterable[Ballot], policy: Policy, left_out: LeftOut) -> list[dict[str, Any]]:
    """TRL's stepwise rows: the steps up to the first that was not judged, or on which no majority agrees.

    Blank lines are no steps here, nor at a step's end; TRL puts the line breaks back.
    """
    rows: dict[str, dict[str, Any]] = {}
    for ballot in all_ballots:
        if ballot.task.kind != "stepwise":
            left_out["tasks without steps"] += 1
            continue
        try:
            prompt = flat_prompt(ballot.prompt.messages)
        except Unusable as reason:
            left_out[f"solutions after a prompt of {reason}"] += 1
            continue
        judged = _step_labels(ballot, policy, left_out)
        if not judged:
            left_out["solutions whose first step has no label"] += 1
            continue
        who = provenance(ballot, [vote for vote in ballot.votes if vote.decision.outcome == "stepped"])
        key = content_id("desk steps", prompt, judged, who["origin"], who["annotator"])
        if key in rows:
            left_out["solutions that are there already"] += 1
        rows[key] = {"prompt": prompt, "completions": [step for step, _ in judged],
                     "labels": [label for _, label in judged], "id": key, **who}
    return list(rows.values())


def _step_labels(ballot: Ballot, policy: Policy, left_out: LeftOut) -> list[tuple[str, bool | float]]:
    """The first steps and their labels: right is true, wrong is false, neutral as the policy says."""
    neutral: Any = {"true": True, "false": False, "half": 0.5, "cut": None}[policy.neutral]
    meaning: dict[int, Any] = {1: True, -1: False, 0: neutral, NOT_JUDGED: None}
    judged: list[tuple[str, bool | float]] = []
    for index, step in enumerate(solution(ballot)):
        if not step.strip():
            continue
        found = settled(ballot, functools.partial(rating_of, index), policy, left_out, what="steps")
        label = None if found is None else meaning[found[0]]
        if label is None:
            break
        judged.append((step.rstrip(), float(label) if policy.neutral == "half" else label))
    return judged


def rating_of(step: int, vote: Vote) -> int | None:
    """A walk's rating of a step, NOT_JUDGED where it has none; None where no steps were walked."""
    if vote.decision.outcome != "stepped":
        return None
    rated = {label.step: label.rating for label in vote.decision.steps}
    rating = rated.get(step)
    return NOT_JUDGED if rating is None else rating


def demonstrations(all_ballots: Iterable[Ballot]) -> list[dict[str, Any]]:
    """TRL's prompt-completion rows of the rewrites, for supervised fine-tuning."""
    rows: dict[str, dict[str, Any]] = {}
    for ballot in all_ballots:
        for text, votes in rewrites(ballot):
            who = provenance(ballot, votes)
            key = content_id("desk rewrite", ballot.prompt.messages, text, who["origin"], who["annotator"])
            rows.setdefault(key, {"prompt": ballot.prompt.messages, "completion": assistant(text), "id": key, **who})
    return list(rows.values())


def assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]

