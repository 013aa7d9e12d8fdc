"""Which answers are judged together: from what was imported to tasks, under a stated plan.

    tasks(material, Plan(kind="pairwise", policy="uncertain", per_prompt=1), batch, right=right)

Every draw is seeded by the plan's seed and the prompt, so that the same files give the same tasks. Knows no database.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from data.annotate.intake import Given, Material
from data.annotate.records import Batch, Candidate, Decision, Suggestion, Task, TaskKind
from data.schema import UserError, content_id

POLICIES = {
    "all": "every two answers of a prompt",
    "random": "--per-prompt of them at random",
    "best-worst": "the best against the worst, by score, or else a right one against a wrong one by --verdicts",
    "across-models": "answers of different models",
    "uncertain": "those whose scores are closest: where a reward model knows least",
}
PLACES = 9  # of a ranking at most: each has a key of its own
DEFAULT_PER_PROMPT = {"all": 0, "random": 1, "best-worst": 1, "across-models": 0, "uncertain": 1}  # 0 = no limit

Pair = tuple[Candidate, Candidate]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How tasks are made; see the options of `import`."""

    kind: TaskKind = "pairwise"
    policy: str = "all"
    per_prompt: int | None = None  # tasks of a prompt; None = the policy's own, 0 = no limit
    size: int = 4  # answers of a ranking or rating
    limit: int | None = None  # tasks in all
    overlap: int = 1
    gold: int = 0  # tasks that are to be gold: an exact rule's verdicts say what is right
    aspects: tuple[str, ...] = ("correctness", "clarity")
    scale: int = 5
    seed: int = 0

    @property
    def most(self) -> int:
        """Tasks of a prompt, 0 = no limit."""
        if self.per_prompt is not None:
            return self.per_prompt
        return DEFAULT_PER_PROMPT[self.policy] if self.kind == "pairwise" else 0 if self.kind == "stepwise" else 1


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """The tasks, what AI judges said of them, and what was left out why."""

    tasks: list[Task]
    suggestions: list[Suggestion]
    left_out: collections.Counter[str]


Judged = Mapping[str, tuple[str, Decision]]  # candidate -> (judge, what it says of the steps of that one answer)


def tasks(material: Material, plan: Plan, batch: Batch, *, right: Mapping[str, tuple[str, bool]],
          walked: Judged, judge: str | None = None) -> Made:
    """`right`: candidate -> (judge, whether its answer is right). `judge` names whoever made preferences that do not
    say. Raises UserError where the plan asks for what the files do not have, or leaves no task."""
    if plan.kind == "ranking" and plan.size > PLACES:
        raise UserError(f"--size {plan.size}: a ranking has {PLACES} places at most, one for each of the keys 1 to "
                        f"{PLACES}; choose {PLACES} or fewer")
    left_out: collections.Counter[str] = collections.Counter(material.notes)
    given = {tuple(sorted(each.candidate_ids)): each for each in material.given}
    made: list[Task] = []
    for prompt_id, names in material.of_prompt.items():
        draw = random.Random(f"{plan.seed}/{prompt_id}")
        answers = distinct([material.candidates[name] for name in names], left_out)
        for group, urgency in MAKERS[plan.kind](answers, plan, draw, given, right, left_out):
            ids = tuple(sorted(each.id for each in group))
            made.append(Task(
                id=content_id(plan.kind, batch.id, prompt_id, ids), kind=plan.kind, prompt_id=prompt_id,
                candidate_ids=ids, batch_id=batch.id, guideline=batch.guideline, scale=plan.scale, priority=urgency,
                aspects=plan.aspects if plan.kind == "rating" else (), min_judgments=plan.overlap))
    if plan.limit is not None and len(made) > plan.limit:
        left_out["task beyond --limit"] += len(made) - plan.limit
        made = spread(made, plan.limit)
    if not made:
        why = ", ".join(f"{count} x {reason}" for reason, count in left_out.most_common()) or "nothing to pair"
        raise UserError(f"no {plan.kind} task can be made ({why}); sample several answers a prompt, choose another "
                        "--pairing or --kind")
    suggestions = list(suggested(made, given, right, walked, left_out, judge=judge))
    return Made(with_gold(made, plan, given, suggestions), suggestions, left_out)


def spread(made: Sequence[Task], limit: int) -> list[Task]:
    """The most urgent tasks, and of equally urgent ones every prompt's first before any prompt's second. Of a round
    that there is no room for, those at even distances."""
    nth: collections.Counter[str] = collections.Counter()
    rounds: dict[tuple[float, int], list[Task]] = {}
    for task in made:
        rounds.setdefault((-task.priority, nth[task.prompt_id]), []).append(task)
        nth[task.prompt_id] += 1
    kept: list[Task] = []
    for _, tasks_of_round in sorted(rounds.items()):
        room = limit - len(kept)
        kept += (tasks_of_round if len(tasks_of_round) <= room else
                 [tasks_of_round[len(tasks_of_round) * place // room] for place in range(room)])
    return kept


def distinct(answers: Iterable[Candidate], left_out: collections.Counter[str]) -> list[Candidate]:
    """The first of each text: two that read the same, but for the space around, cannot be compared."""
    kept: dict[str, Candidate] = {}
    for answer in answers:
        if kept.setdefault(answer.text.strip(), answer) is not answer:
            left_out["answer that reads like another of its prompt"] += 1
    return list(kept.values())


# ------------------------------------------------------------------------------------------------------------ groups

Groups = Iterable[tuple[Sequence[Candidate], float]]  # the answers of a task and its urgency
Known = Mapping[tuple[str, ...], Given]
Right = Mapping[str, tuple[str, bool]]


def _pairs(answers: list[Candidate], plan: Plan, draw: random.Random, given: Known, right: Right,
           left_out: collections.Counter[str]) -> Groups:
    """Pairs under the plan's policy; what the file itself paired stays together under `all`."""
    if len(answers) < 2:
        left_out["prompt with one answer"] += 1
        return []
    every = list(itertools.combinations(answers, 2))
    if plan.policy == "all" and (paired := [pair for pair in every if tuple(sorted(c.id for c in pair)) in given]):
        every = paired
    if plan.policy == "across-models":
        every = [(a, b) for a, b in every if a.generator != b.generator]
        left_out["prompt with answers of one model"] += not every
    if plan.policy in ("uncertain", "best-worst"):
        return _by_score(every, answers, plan, right, left_out)
    if plan.policy == "random" or plan.most:
        every = draw.sample(every, min(plan.most, len(every)) if plan.most else len(every))
    return [(pair, 0.0) for pair in every]


def _by_score(every: list[Pair], answers: list[Candidate], plan: Plan, right: Right,
              left_out: collections.Counter[str]) -> Groups:
    scores = {answer.id: answer.score for answer in answers if answer.score is not None}
    if plan.policy == "best-worst" and not scores:
        scores = {name: float(is_right) for name, (_, is_right) in right.items()}
    lacking = [answer for answer in answers if answer.id not in scores]
    if lacking:
        needs = "a `score` in every row or --scores FILE" + (", or --verdicts" if plan.policy == "best-worst" else "")
        raise UserError(f"--pairing {plan.policy} needs {needs}; there is none for the answer "
                        f"{lacking[0].text[:40]!r} of {lacking[0].generator}")
    gaps = [(abs(scores[a.id] - scores[b.id]), (a, b)) for a, b in every]
    if plan.policy == "best-worst":
        wide = sorted((each for each in gaps if each[0] > 0), key=lambda each: -each[0])
        left_out["prompt with answers of one score"] += not wide
        return [(pair, 0.0) for _, pair in (wide[:plan.most] if plan.most else wide)]
    close = sorted(gaps, key=lambda each: each[0])
    return [(pair, uncertainty(gap)) for gap, pair in (close[:plan.most] if plan.most else close)]


def uncertainty(gap: float) -> float:
    """1 where a Bradley-Terry reward model would toss a coin, towards 0 where it is sure: 2 sigmoid(-gap)."""
    return 2 / (1 + math.exp(min(gap, 700.0)))


def _group(answers: list[Candidate], plan: Plan, draw: random.Random, given: Known, right: Right,
           left_out: collections.Counter[str]) -> Groups:
    """Up to `size` answers of a prompt for one ranking or rating."""
    least = 2 if plan.kind == "ranking" else 1
    if len(answers) < least:
        left_out["prompt with one answer"] += 1
        return []
    return [(draw.sample(answers, min(plan.size, len(answers))), 0.0)]


def _walks(answers: list[Candidate], plan: Plan, draw: random.Random, given: Known, right: Right,
           left_out: collections.Counter[str]) -> Groups:
    """One task an answer."""
    picked = draw.sample(answers, min(plan.most, len(answers))) if plan.most else answers
    return [([answer], 0.0) for answer in picked]


MAKERS: dict[TaskKind, Callable[..., Groups]] = {
    "pairwise": _pairs, "ranking": _group, "rating": _group, "stepwise": _walks}


# -------------------------------------------------------------------------------------------- what is known of them


def suggested(made: Iterable[Task], given: Known, right: Right, walked: Judged, left_out: collections.Counter[str], *,
              judge: str | None) -> Iterable[Suggestion]:
    """What AI judges and rules said of a task, from the files' own preferences and from verdicts."""
    for task in made:
        known = given.get(task.candidate_ids)
        if known is not None and not known.is_gold:
            name = known.judge if known.origin in ("ai", "rule") else judge if known.origin is None else None
            if name is None:
                left_out["preference in the file that no AI judge made (only its answers are taken)"] += 1
            else:
                yield _suggestion(task, name, known.decision)
        decision = _from_verdicts(task, right, walked)
        if decision is not None:
            yield _suggestion(task, *decision)


def _suggestion(task: Task, judge: str, decision: Decision) -> Suggestion:
    return Suggestion(id=content_id("suggestion", task.id, judge), task_id=task.id, judge=judge, decision=decision)


def _from_verdicts(task: Task, right: Right, walked: Judged) -> tuple[str, Decision] | None:
    said = [right.get(name) for name in task.candidate_ids]
    if task.kind == "stepwise":
        return walked.get(task.candidate_ids[0])
    if task.kind != "pairwise" or said[0] is None or said[1] is None:
        return None
    (judge, first), (_, second) = said[0], said[1]
    if first == second:
        return judge, Decision(outcome="tie" if first else "both_bad")
    return judge, Decision(outcome="prefer", preferred=task.candidate_ids[0 if first else 1], strength=2)


def with_gold(made: Sequence[Task], plan: Plan, given: Known, suggestions: list[Suggestion]) -> list[Task]:
    """The tasks, some of them gold: by the file's word, and `plan.gold` by what the exact rule says. A gold task's
    suggestion is taken away from `suggestions`: it would be compared with itself."""
    right = {task.id: given[task.candidate_ids].decision for task in made
             if task.candidate_ids in given and given[task.candidate_ids].is_gold}
    ruled = [said for said in suggestions if said.judge == "rule" and said.task_id not in right
             and (said.decision.outcome == "prefer" or said.decision.steps)]
    if plan.gold > len(ruled):
        raise UserError(f"--gold {plan.gold}: only {len(ruled)} tasks have a clear verdict of the exact rule; give "
                        "--verdicts with the folder of a `judge` artifact made with judge.judge=rule, or ask for fewer")
    for said in random.Random(f"gold/{plan.seed}").sample(ruled, plan.gold):
        right[said.task_id] = said.decision
    suggestions[:] = [said for said in suggestions if said.task_id not in right]
    return [dataclasses.replace(task, gold=right[task.id], min_judgments=0) if task.id in right else task
            for task in made]
