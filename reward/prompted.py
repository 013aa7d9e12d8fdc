"""A language model as a judge, by the prompts of reward/prompts/: verdicts on solutions, and comparisons of two.

    outcome        the final answer against the reference, as JSON        | one of these three
    outcome_token  the same by the probabilities of Yes and No            |
    outcome_rule   the same by the exact rule, which costs nothing        |
    process        of what is wrong: the first wrong step and what stands before it, quoted, and one corrected step
    rubric         grades from 1 to 5, a criterion each
    pairwise       which of two solutions is better       | asked in both orders; where these disagree it is a tie
    principles     which is better by each principle      |

After FinDAP's judge (Ke et al. 2025, arXiv:2501.04961, section 3.4 and appendix H), whose two prompts are `outcome` and
`process`; the words are ours. A truncated solution is wrong without asking. Knows no engine and no network.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from data.finance.generator import solution_text
from data.schema import Comparison, Completion, Question, Verdict
from reward.judge import Complete, Reply, Request, Unreadable, judged_by_rule, read_reply, schema_of
from reward.prompting import Prompt, read_principles, read_prompt
from reward.steps import find_step

OUTCOMES = ("outcome", "outcome_token", "outcome_rule")
COMPARISONS = ("pairwise", "principles")
TASKS = (*OUTCOMES, "process", "rubric", *COMPARISONS)
SIDES = ["A", "B", "tie"]
YES, NO = "Yes", "No"
OUTCOME = schema_of(correctness=["correct", "wrong"])
PROCESS = schema_of(first_incorrect_step=str, correct_prefix=str, step_correction=str)
PAIRWISE = schema_of(better=SIDES)

Judged = tuple[Question, Completion]
Vote = dict[str, int]  # principle -> 1 for the first side shown, -1 for the second, 0 for neither


class PromptedJudge:
    """Asks `complete`. `unreadable` counts, by task, the replies that were no verdict, and keeps the last of each."""

    def __init__(self, complete: Complete, *, tasks: Sequence[str], name: str, model: str, prompts: Path | None = None,
                 criteria: Path | None = None) -> None:
        """`prompts`: a folder of prompt files to use in place of the shipped ones; `criteria`: a file of principles."""
        self.complete, self.tasks, self.name, self.model = complete, tuple(tasks), name, model
        self.prompts: dict[str, Prompt] = {task: read_prompt(task, prompts) for task in tasks if task != "outcome_rule"}
        self.principles = read_principles(criteria)
        self.asked = 0
        self.unreadable: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}

    # Verdicts --------------------------------------------------------------------------------------------------

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> list[Verdict | None]:
        judged = list(zip(questions, completions, strict=True))
        verdicts = self._outcomes(judged)
        if "process" in self.tasks:
            self._add(judged, verdicts, "process", [place for place, verdict in enumerate(verdicts)
                                                    if verdict is not None and not verdict.correct])
        if "rubric" in self.tasks:
            self._add(judged, verdicts, "rubric", [place for place, found in enumerate(verdicts) if found is not None])
        return verdicts

    def _outcomes(self, judged: Sequence[Judged]) -> list[Verdict | None]:
        task = next(task for task in self.tasks if task in OUTCOMES)
        if task == "outcome_rule":
            return [dataclasses.replace(judged_by_rule(*each), first_error=None, steps_correct=(), correction=None,
                                        prefix=None, step=None, judge=f"rule+{self.name}", model=self.model)
                    for each in judged]
        verdicts: list[Verdict | None] = [
            Verdict(question_id=completion.question_id, sample=completion.sample, correct=False, judge=self.name,
                    model=self.model, error_kind="truncated" if completion.finish_reason == "length" else None)
            for _, completion in judged]
        whole = [place for place, (_, completion) in enumerate(judged) if completion.finish_reason != "length"]
        self._add(judged, verdicts, task, whole)
        return verdicts

    def _add(self, judged: Sequence[Judged], verdicts: list[Verdict | None], task: str, places: Sequence[int]) -> None:
        """Asks for a task at some places and adds what is said to the verdicts there.

        An outcome that cannot be read leaves no verdict; of a first step or grades, the verdict goes without.
        """
        for place, reply in zip(places, self.complete([self._request(task, *judged[place]) for place in places]),
                                strict=True):
            verdict = verdicts[place]
            assert verdict is not None
            try:
                verdicts[place] = self._learnt(task, verdict, judged[place][1], reply)
            except Unreadable as error:
                self._missed(task, error)
                verdicts[place] = None if task in OUTCOMES else self._noted(verdict, task, reply)
        self.asked += len(places)

    def _request(self, task: str, question: Question, completion: Completion) -> Request:
        fields = {"question": question.prompt, "reference": solution_text(question)}
        if task == "rubric":
            return Request(self.prompts[task].messages(**fields, criteria=self._criteria(), answer=completion.text),
                           schema_of(**{principle.name: [1, 2, 3, 4, 5] for principle in self.principles}))
        messages = self.prompts[task].messages(**fields, proposal=completion.text)
        if task == "outcome_token":
            return Request(messages, options=(YES, NO))
        return Request(messages, OUTCOME if task == "outcome" else PROCESS)

    def _learnt(self, task: str, verdict: Verdict, completion: Completion, reply: Reply) -> Verdict:
        """The verdict with what a reply says. Raises Unreadable."""
        changes: dict[str, Any]
        if task == "outcome":
            changes = {"correct": read_reply(reply.text, OUTCOME)["correctness"] == "correct"}
        elif task == "outcome_token":
            score = certainty(reply)
            changes = {"correct": score > 0.5, "score": score}
        elif task == "rubric":
            names = [principle.name for principle in self.principles]
            said = read_reply(reply.text, schema_of(**{name: [1, 2, 3, 4, 5] for name in names}))
            changes = {"grades": {name: said[name] for name in names}}
        else:
            said = read_reply(reply.text, PROCESS)
            step, prefix = said["first_incorrect_step"], said["correct_prefix"]
            place = find_step(completion.text, step, prefix)
            changes = {"step": step, "prefix": prefix, "correction": said["step_correction"],
                       "first_error": None if isinstance(place, str) else place.index}
        return self._noted(dataclasses.replace(verdict, **changes), task, reply)

    def _noted(self, verdict: Verdict, task: str, reply: Reply) -> Verdict:
        """The verdict with the reply as it came, and the prompt that brought it."""
        said = reply.text if reply.text else json.dumps(dict(reply.probabilities))
        raw = {**json.loads(verdict.raw or "{}"), task: said}
        hashes = [*filter(None, [verdict.prompt_hash]), self.prompts[task].sha256]
        return dataclasses.replace(verdict, raw=json.dumps(raw, ensure_ascii=False), prompt_hash="+".join(hashes))

    # Comparisons -----------------------------------------------------------------------------------------------

    def compare(self, questions: Sequence[Question], left: Sequence[Completion],
                right: Sequence[Completion]) -> list[Comparison | None]:
        """Each two completions in both orders. None where a reply of either order could not be read."""
        task = next(task for task in self.tasks if task in COMPARISONS)
        pairs = list(zip(questions, left, right, strict=True))
        requests = [self._comparison(task, question, *sides) for question, one, other in pairs
                    for sides in ((one, other), (other, one))]
        replies = self.complete(requests)
        self.asked += len(requests)
        found: list[Comparison | None] = []
        for place, (question, one, other) in enumerate(pairs):
            both = replies[2 * place:2 * place + 2]
            try:
                votes = [self._vote(task, reply) for reply in both]
            except Unreadable as error:
                self._missed(task, error)
                found.append(None)
                continue
            preferred, strength, agreed = settle(votes, self._weights(task))
            found.append(Comparison(
                question_id=question.id, left=one.sample, right=other.sample, preferred=preferred, strength=strength,
                agreed=agreed, judge=self.name, model=self.model, prompt_hash=self.prompts[task].sha256,
                raw=json.dumps([reply.text for reply in both], ensure_ascii=False)))
        return found

    def _comparison(self, task: str, question: Question, first: Completion, second: Completion) -> Request:
        fields = {"question": question.prompt, "reference": solution_text(question), "solution_a": first.text,
                  "solution_b": second.text}
        if task == "principles":
            return Request(self.prompts[task].messages(**fields, criteria=self._criteria()), self._by_principle())
        return Request(self.prompts[task].messages(**fields), PAIRWISE)

    def _vote(self, task: str, reply: Reply) -> Vote:
        signs = dict(zip(SIDES, (1, -1, 0), strict=True))
        if task == "pairwise":
            return {"better": signs[read_reply(reply.text, PAIRWISE)["better"]]}
        said = read_reply(reply.text, self._by_principle())
        return {principle.name: signs[said[principle.name]] for principle in self.principles}

    def _weights(self, task: str) -> dict[str, float]:
        if task == "pairwise":
            return {"better": 1.0}
        return {principle.name: principle.weight for principle in self.principles}

    def _by_principle(self) -> dict[str, Any]:
        return schema_of(**{principle.name: SIDES for principle in self.principles})

    def _criteria(self) -> str:
        return "\n".join(f"{principle.name}: {principle.text}" for principle in self.principles)

    def _missed(self, task: str, error: Unreadable) -> None:
        self.unreadable[task] += 1
        self.examples[task] = str(error)


def certainty(reply: Reply) -> float:
    """P(Yes) among Yes and No. Raises Unreadable where neither is among the likeliest next tokens."""
    yes, no = (reply.probabilities.get(option, 0.0) for option in (YES, NO))
    if not yes + no > 0:
        raise Unreadable(f"neither {YES} nor {NO} is among the next token's likeliest, {dict(reply.probabilities)}")
    return yes / (yes + no)


def settle(votes: Sequence[Vote], weights: dict[str, float]) -> tuple[Literal["left", "right", "tie"], float, bool]:
    """(what is preferred, how strongly from 0 to 1, whether the orders agree) of the votes in both orders.

    The second vote saw the sides exchanged. A principle counts where the two say the same of it, so that a judge who
    goes by the place of an answer says nothing.
    """
    first, second = votes
    agreed = {name: first[name] == -second[name] for name in weights}
    total = sum(weights[name] * first[name] for name in weights if agreed[name]) / sum(weights.values())
    preferred: Literal["left", "right", "tie"] = "left" if total > 0 else "right" if total < 0 else "tie"
    return preferred, abs(total), all(agreed.values())
