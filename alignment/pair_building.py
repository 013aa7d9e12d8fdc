"""Preference pairs out of verdicts and comparisons, every question or completion left out counted by reason.

    outcome      FinDAP's FAP: a right completion over a wrong one, both the policy's          verdicts
    process      FinDAP's SCP: after the steps that are right, the judge's step over the       verdicts with quotes
                 first wrong one
    naive        the control: the gold solution over whatever the policy said                  no verdict
    comparisons  the completion that the judge prefers over the other one                      comparisons

(Ke et al. 2025, arXiv:2501.04961, section 3.4; where the paper says nothing, of caps, pairing and filters, they are
keys of the stage.) Knows rows and a config, no file and no model.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from alignment.preference_kinds import Pairs
from data.finance.generator import solution_text
from data.schema import Comparison, Completion, PreferencePair, Question, Verdict, content_id
from reward.steps import Place, find_step, is_answer, steps_of

Sampled = tuple[Completion, Verdict]
Dropped = collections.Counter[str]


# Whole answers ---------------------------------------------------------------------------------------------------


def outcome_pairs(questions: Mapping[str, Question], sampled: Mapping[str, list[Sampled]], config: Pairs, *, seed: int,
                  dropped: Dropped) -> list[PreferencePair]:
    """Pairs of every question that allows one, rejected sides spread over the kinds of error."""
    pairs = []
    used: collections.Counter[str] = collections.Counter()  # kinds of error so far
    for question_id, group in sampled.items():
        question = questions[question_id]
        draw = random.Random(f"{seed}/{question_id}")
        right = chosen_texts(group, draw)
        source = "policy"
        if config.gold_fallback == "always" or (config.gold_fallback == "missing" and not right):
            right, source = [solution_text(question)], "gold"
        wrong = rejected_verdicts(group, draw, exclude=set(right), used=used, count=wanted(config, len(right)))
        if not right or not wrong:
            dropped["question without a right completion" if wrong else "question without a wrong completion"] += 1
            continue
        matched = paired(right, wrong, draw, config)
        pairs += [outcome_pair(question, text, rejected, verdict, chosen_from=source)
                  for text, (rejected, verdict) in matched]
    return pairs


def wanted(config: Pairs, right: int) -> int:
    """How many distinct wrong texts a question's pairs can use."""
    cap = config.max_pairs_per_question
    return min(cap, max(1, right)) if config.pairing == "once" else cap


def paired(right: Sequence[str], wrong: Sequence[tuple[str, Verdict]], draw: random.Random,
           config: Pairs) -> list[tuple[str, tuple[str, Verdict]]]:
    """Which right text goes over which wrong one: see the key `pairing`."""
    if config.pairing == "all":
        every = list(itertools.product(right, wrong))
        return draw.sample(every, min(config.max_pairs_per_question, len(every)))
    return [(right[number % len(right)], each) for number, each in enumerate(wrong)]


def chosen_texts(group: Sequence[Sampled], draw: random.Random) -> list[str]:
    """Distinct right and complete texts in random order, those without a wrong step first."""
    right = [(completion.text, verdict.first_error is None) for completion, verdict in group
             if verdict.correct and completion.finish_reason != "length"]
    texts = list(dict.fromkeys(text for text, _ in right))
    draw.shuffle(texts)
    sound = {text for text, is_sound in right if is_sound}
    return sorted(texts, key=lambda text: text not in sound)


def rejected_verdicts(group: Sequence[Sampled], draw: random.Random, *, exclude: set[str],
                      used: collections.Counter[str], count: int) -> list[tuple[str, Verdict]]:
    """Up to `count` distinct wrong texts; each time one of the kind of error that `used` has seen least."""
    by_kind: dict[str, list[tuple[str, Verdict]]] = collections.defaultdict(list)
    seen = set(exclude)
    for completion, verdict in group:
        if not verdict.correct and completion.text not in seen:
            seen.add(completion.text)
            by_kind[verdict.error_kind or "unknown"].append((completion.text, verdict))
    for texts in by_kind.values():
        draw.shuffle(texts)
    picked: list[tuple[str, Verdict]] = []
    while len(picked) < count and any(by_kind.values()):
        kind = min((kind for kind, texts in by_kind.items() if texts), key=lambda kind: (used[kind], kind))
        used[kind] += 1
        picked.append(by_kind[kind].pop())
    return picked


def outcome_pair(question: Question, chosen: str, rejected: str, verdict: Verdict, *,
                 chosen_from: str) -> PreferencePair:
    """One row; `verdict` is the rejected side's."""
    by_rule = verdict.judge.startswith("rule")
    return PreferencePair(
        id=content_id(question.id, chosen, rejected, verdict.judge), prompt=as_prompt(question), chosen=chosen,
        rejected=rejected, origin="rule" if by_rule else "ai",
        annotator=verdict.judge if by_rule else verdict.model or verdict.judge, question_id=question.id,
        operand_key=question.operand_key, language=question.language, question_kind=question.kind,
        error_kind=verdict.error_kind, chosen_from=chosen_from, model=verdict.model, prompt_hash=verdict.prompt_hash,
        raw=verdict.raw)


def naive_pairs(questions: Mapping[str, Question], completions: Mapping[str, list[Completion]], config: Pairs, *,
                seed: int, dropped: Dropped) -> list[PreferencePair]:
    """The gold solution over drawn completions, right or wrong; a truncated one is whole as a rejected side."""
    pairs = []
    for question_id, group in completions.items():
        question = questions[question_id]
        gold = solution_text(question)
        texts = [text for text in dict.fromkeys(completion.text for completion in group) if text != gold]
        random.Random(f"{seed}/naive/{question_id}").shuffle(texts)
        dropped["question with nothing but gold completions"] += not texts
        pairs += [PreferencePair(
            id=content_id(question.id, gold, text, "naive"), prompt=as_prompt(question), chosen=gold, rejected=text,
            origin="rule", annotator="naive", question_id=question.id, operand_key=question.operand_key,
            language=question.language, question_kind=question.kind, chosen_from="gold")
            for text in texts[:config.max_pairs_per_question]]
    return pairs


def compared_pairs(questions: Mapping[str, Question], completions: Mapping[str, list[Completion]],
                   comparisons: Sequence[Comparison], *, dropped: Dropped) -> list[PreferencePair]:
    """The preferred of two completions over the other; a tie says nothing."""
    texts = {(row.question_id, row.sample): row.text for group in completions.values() for row in group}
    pairs = []
    for row in comparisons:
        if row.preferred == "tie":
            dropped["comparison without a preference" if row.agreed else "comparison whose orders disagree"] += 1
            continue
        sides = (row.left, row.right) if row.preferred == "left" else (row.right, row.left)
        chosen, rejected = (texts[row.question_id, sample] for sample in sides)
        question = questions[row.question_id]
        pairs.append(PreferencePair(
            id=content_id(question.id, chosen, rejected, row.judge, "compared"), prompt=as_prompt(question),
            chosen=chosen, rejected=rejected, origin="ai", annotator=row.model or row.judge, strength=row.strength,
            question_id=question.id, operand_key=question.operand_key, language=question.language,
            question_kind=question.kind, model=row.model, prompt_hash=row.prompt_hash, raw=row.raw))
    return pairs


# Steps -----------------------------------------------------------------------------------------------------------


def process_pairs(questions: Mapping[str, Question], sampled: Mapping[str, list[Sampled]], config: Pairs, *, seed: int,
                  dropped: Dropped) -> list[PreferencePair]:
    """The corrected step over the first wrong one, after the steps before it, of wrong completions."""
    pairs = []
    for question_id, group in sampled.items():
        made: dict[tuple[str, str], PreferencePair] = {}
        for completion, verdict in group:
            if not verdict.correct:
                found = process_pair(questions[question_id], completion, verdict, config)
                if isinstance(found, str):
                    dropped[found] += 1
                elif made.setdefault((found.prefix, found.rejected), found) is not found:
                    dropped["same first wrong step"] += 1
        kept = list(made.values())
        random.Random(f"{seed}/process/{question_id}").shuffle(kept)
        dropped["step beyond the cap of a question"] += max(0, len(kept) - config.max_steps_per_question)
        pairs += kept[:config.max_steps_per_question]
    return pairs


def process_pair(question: Question, completion: Completion, verdict: Verdict,
                 config: Pairs) -> PreferencePair | str:
    """One row, or why there is none. Quotes are looked up in the completion: the row's texts are the completion's."""
    if verdict.step is None:
        return "first wrong step not located"
    correction = (verdict.correction or "").strip()
    place = find_step(completion.text, verdict.step, verdict.prefix or "")
    if isinstance(place, str):
        return place
    if why := unfit(place, correction, completion, config):
        return why
    by_rule: Literal["rule", "ai"] = "rule" if verdict.judge == "rule" else "ai"
    chosen = correction + ("" if is_answer(correction) else line_break(place.step))
    return PreferencePair(
        id=content_id(question.id, place.prefix, chosen, place.step, verdict.judge), prompt=as_prompt(question),
        prefix=place.prefix, chosen=chosen, rejected=place.step, kind="process", origin=by_rule,
        annotator="rule" if by_rule == "rule" else verdict.model or verdict.judge, question_id=question.id,
        operand_key=question.operand_key, language=question.language, question_kind=question.kind,
        error_kind=verdict.error_kind, chosen_from="judge", model=verdict.model, prompt_hash=verdict.prompt_hash,
        raw=verdict.raw)


def unfit(place: Place, correction: str, completion: Completion, config: Pairs) -> str:
    """Why a located step and its correction make no pair, or nothing."""
    if not correction:
        return "no correction"
    if len(steps_of(correction)) > 1:
        return "correction of several lines"
    if correction.split() == place.step.split():
        return "correction is the wrong step"
    if is_answer(place.step) and not config.answer_steps:
        return "wrong step is the answer line"
    if completion.finish_reason == "length" and completion.text == place.prefix + place.step:
        return "wrong step is cut off"
    return ""


def line_break(step: str) -> str:
    """How a line of this solution ends: as the step does, or, where it is the last, with one line break."""
    return step[len(step.rstrip()):] if step.endswith("\n") else "\n"


def as_prompt(question: Question) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.prompt}]
