"""The language of the embedded critic: what it is asked, what it answers, and what that says.

It is given the reference and a solution, line by line under letters, and walks through both. First come the two last
lines and whether the answer is right; of a wrong one then each step of the reference, the step of the solution in its
place, and whether that is right, up to the first that is not, and the right one for it. A caret stands behind what is
wrong in a line:

    a Change: 46 - 40 = 6 million        z Answer: 15%
    z Answer: 15%                        Z Answer: 10^%
    A Change: 46 - 40 = 4 million        wrong
    Z Answer: 10%                        a Change: 46 - 40 = 6 million
                                         A Change: 46 - 40 = 4^ million
                                         wrong
                                         a Change: 46 - 40 = 6 million

So the answer is compared before any step is (as in FinDAP, whose judge looks for steps in wrong solutions alone), each
line is copied next to the one it is held against, and its letter says which line of the solution is meant. A verdict
hangs on all of two lines; the caret, which may be left out, gives it one sign to hang on. A reference has all of a
question's numbers, so the question is left out. Knows no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import string
from collections.abc import Callable, Sequence

from data.finance.generator import solution_text
from data.schema import Completion, Question, Verdict
from reward.judge import Unreadable
from reward.steps import steps_of

REFERENCE, SOLUTION = string.ascii_lowercase, string.ascii_uppercase
RIGHT, WRONG, NONE = "right", "wrong", "none"  # none: the solution ends before it goes wrong
MARK = "^"  # behind what is wrong
_PIECE = re.compile(r"\s?\d|\s?[^\W\d_]+|\s?[^\w\s]|\s?_")
MOST = len(REFERENCE)  # lines of either that can be told apart
ROOM = 3  # what is asked and the walk together may be so many times what is asked: it copies each line twice at most
MAX_TOKENS = 768  # of both
PROMPT_HASH = hashlib.sha256((__doc__ or "").encode()).hexdigest()[:16]  # the form is what is said above


def lines_of(text: str) -> list[str]:
    """The steps, a line each, with single spaces."""
    return [" ".join(step.split()) for step in steps_of(text)]


def lettered(lines: Sequence[str], letters: str) -> list[str]:
    """Each line after its letter; the last one's is the alphabet's last."""
    return [f"{letters[-1] if place == len(lines) - 1 else letters[place]} {line}" for place, line in enumerate(lines)]


def both(question: Question, text: str) -> tuple[list[str], list[str]] | None:
    """Reference and solution in letters; None where one of them has too many lines or the solution none."""
    reference, solution = lines_of(solution_text(question)), lines_of(text)
    if not solution or max(len(reference), len(solution)) > MOST:
        return None
    return lettered(reference, REFERENCE), lettered(solution, SOLUTION)


def asked(question: Question, text: str) -> str | None:
    """What the critic reads; None where it cannot be asked about such a solution."""
    found = both(question, text)
    return None if found is None else "\n".join([*found[0], *found[1]])


def walk(question: Question, text: str, verdict: Verdict, *, marks: bool = True) -> str | None:
    """What the critic should say where the rule's verdict is this, with carets or without; None where that has no such
    form."""
    shown: Callable[[str, str], str] = marked if marks else lambda line, _: line
    found = both(question, text)
    if found is None:
        return None
    reference, solution = found
    if verdict.correct:
        return "\n".join([reference[-1], solution[-1], RIGHT])
    said = [reference[-1], shown(solution[-1], reference[-1]), WRONG]
    place = len(solution) if verdict.step is None else len(steps_of(verdict.prefix or ""))
    for number in range(min(place, len(solution))):
        said += [reference[min(number, len(reference) - 1)], solution[number], RIGHT]
    if verdict.step is None:
        return "\n".join([*said, NONE])
    right = " ".join((verdict.correction or "").split())
    line = next((line for line in reference if line[2:] == right), None)
    if line is None:
        return None
    gold = reference[min(place, len(reference) - 1)]
    return "\n".join([*said, gold, shown(solution[place], gold), WRONG, line])


def marked(line: str, beside: str) -> str:
    """The line with the mark behind the first digit, word or sign after its label that the other line has not there."""
    (label, colon, rest), other = line.partition(": "), beside.partition(": ")[2]
    pieces = _PIECE.findall(rest)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(pieces, _PIECE.findall(other),
                                                                                strict=False)))
    return f"{label}{colon}{''.join(pieces[:same + 1])}{MARK}{''.join(pieces[same + 1:])}"


def read_walk(reply: str, question: Question, completion: Completion, verdict: Verdict) -> Verdict:
    """The verdict with what a walk says. Raises Unreadable where not even the answer is judged.

    The first wrong step is the line of that letter, to the letter copied or not: what the critic never saw in training
    it cannot copy well, and calls wrong all the same. A walk that loses its way before it, leaves a line out, calls
    right what it has not copied or corrects by what is no line of the reference, leaves the first wrong step unsaid.
    """
    said = reply.split("\n")
    if len(said) < 3 or said[2] not in (RIGHT, WRONG):
        raise Unreadable("the walk does not begin with two last lines and whether the answer is right")
    verdict = dataclasses.replace(verdict, correct=said[2] == RIGHT, raw=reply)
    lines = both(question, completion.text)
    if verdict.correct or lines is None:
        return verdict
    reference, solution = lines
    rounds = (said[start:start + 4] for start in range(3, len(said) - 2, 3))
    for place, (line, (_, copy, judged, *correction)) in enumerate(zip(solution, rounds, strict=False)):
        if judged == WRONG and copy.split(" ")[0] == line[0] and correction and correction[0] in reference:
            steps = steps_of(completion.text)
            return dataclasses.replace(verdict, first_error=place, prefix="".join(steps[:place]), step=steps[place],
                                       correction=correction[0][2:])
        if judged != RIGHT or copy != line:
            break
    return verdict


def compared(questions: Sequence[Question], completions: Sequence[Completion]) -> list[Verdict | None]:
    """Verdicts by a plain comparison of texts, to hold a critic against: a solution is right when its last line is the
    reference's, and of a wrong one the first line that is not the reference's is the first wrong one."""
    return [_compared(*each) for each in zip(questions, completions, strict=True)]


def _compared(question: Question, completion: Completion) -> Verdict:
    reference, steps = lines_of(solution_text(question)), lines_of(completion.text)
    verdict = Verdict(question_id=completion.question_id, sample=completion.sample,
                      correct=reference[-1:] == steps[-1:], judge="diff")
    place = next((place for place, (one, other) in enumerate(zip(reference, steps, strict=False)) if one != other),
                 None)
    if verdict.correct or place is None:
        return verdict
    whole = steps_of(completion.text)
    return dataclasses.replace(verdict, first_error=place, prefix="".join(whole[:place]), step=whole[place],
                               correction=reference[place])
