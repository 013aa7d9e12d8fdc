"""One preference dataset from verdicts and human annotations, with provenance, weights and splits.

A pair from verdicts is a right completion over a wrong one of the same question. Reads `completions` and `verdicts`
(and a file of human pairs), writes train.jsonl and dev.jsonl; every row left out is counted by reason in a note.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import data.finance
from alignment.kinds import Pairs
from alignment.stage import Stage
from data.finance.generator import solution_text
from data.preferences import read_pairs
from data.rows import read_rows, write_rows
from data.schema import Completion, PreferencePair, Question, UserError, Verdict, content_id

SIMULATED = Path(data.finance.__file__).parent / "simulated_pairs.jsonl"

Sampled = tuple[Completion, Verdict]


def run(stage: Stage) -> None:
    """Builds the dataset and reports what it is made of."""
    config: Pairs = stage.config
    questions, sampled = load(stage.inputs["completions"], stage.inputs["verdicts"])
    dropped: collections.Counter[str] = collections.Counter()
    made = pairs_from_verdicts(questions, sampled, config, seed=stage.derive("pairs"), dropped=dropped)
    people = human_pairs(stage, dropped=dropped)
    same = agreement(people, questions, sampled)
    kept = weighted(made, config.ai_weight, dropped)
    kept += weighted(people, config.human_weight, dropped)
    rows = split(distinct(kept, dropped), fraction=config.dev_fraction, seed=stage.derive("split"))
    if not rows:
        right = sum(verdict.correct for group in sampled.values() for _, verdict in group)
        total = sum(len(group) for group in sampled.values())
        raise UserError(f"stage {stage.name!r} can make no preference pair: of {total} completions of {len(questions)} "
                        f"questions {right} are right and {total - right} wrong, and a pair needs one of each for the "
                        f"same question (left out: {counts(dropped)}); sample more completions or at a higher "
                        f"temperature, or set {stage.name}.gold_fallback=missing to put the gold solution in place of "
                        f"a right sample")
    for side in ("train", "dev"):
        write_rows(stage.output / f"{side}.jsonl", [row for row in rows if row.split == side])
    stage.note(f"{len(rows)} pairs from {len(sampled)} questions"
               + (f"; left out: {counts(dropped)}" if dropped else "; none left out"))
    if same:
        stage.note(f"people and {'/'.join(sorted(judges(sampled)))} prefer the same answer in {sum(same)} of "
                   f"{len(same)} shared comparisons")
    shared = {"shared": len(same), "agreement": sum(same) / len(same)} if same else {}
    stage.result(**summary(rows, dropped), **shared)


def load(completions: Path, verdicts: Path) -> tuple[dict[str, Question], dict[str, list[Sampled]]]:
    """Questions by id, and each question's completions beside their verdicts."""
    questions = {question.id: question for question in read_rows(completions / "questions.jsonl", Question)}
    texts = read_rows(completions / "completions.jsonl", Completion)
    judged = read_rows(verdicts / "verdicts.jsonl", Verdict)
    places = [[(row.question_id, row.sample) for row in rows] for rows in (texts, judged)]
    if places[0] != places[1]:
        raise UserError(f"{verdicts / 'verdicts.jsonl'} does not judge {completions / 'completions.jsonl'} row by row "
                        f"({len(judged)} verdicts, {len(texts)} completions); the `judge` stage must read the same "
                        f"`completions` as the `pairs` stage")
    sampled: dict[str, list[Sampled]] = {question: [] for question in questions}
    for completion, verdict in zip(texts, judged, strict=True):
        sampled[completion.question_id].append((completion, verdict))
    return questions, sampled


def pairs_from_verdicts(questions: dict[str, Question], sampled: dict[str, list[Sampled]], config: Pairs, *, seed: int,
                        dropped: collections.Counter[str]) -> list[PreferencePair]:
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
        wrong = rejected_verdicts(group, draw, exclude=set(right), used=used, count=config.max_pairs_per_question)
        if not right or not wrong:
            dropped["question without a right completion" if wrong else "question without a wrong completion"] += 1
            continue
        for number, (text, verdict) in enumerate(wrong):
            pairs.append(pair(question, right[number % len(right)], text, verdict, chosen_from=source))
    return pairs


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


def pair(question: Question, chosen: str, rejected: str, verdict: Verdict, *, chosen_from: str) -> PreferencePair:
    """One row; `verdict` is the rejected side's."""
    return PreferencePair(
        id=content_id(question.id, chosen, rejected, verdict.judge),
        prompt=[{"role": "user", "content": question.prompt}], chosen=chosen, rejected=rejected,
        origin="rule" if verdict.judge == "rule" else "ai", annotator=verdict.judge, question_id=question.id,
        operand_key=question.operand_key, language=question.language, question_kind=question.kind,
        error_kind=verdict.error_kind, chosen_from=chosen_from, prompt_hash=verdict.prompt_hash)


def human_pairs(stage: Stage, *, dropped: collections.Counter[str]) -> list[PreferencePair]:
    """The pairs people made: the shipped simulated ones (finance questions only), a file's, or none."""
    human = stage.config.human
    if human is None:
        return []
    if human != "embedded":
        path = Path(human).expanduser()
        if not path.is_file():
            raise UserError(f"{stage.name}.human={human}: there is no such file; give an exported file of preference "
                            f"pairs (our rows or TRL's), `embedded` for the shipped simulated ones, or null for none")
        return read_pairs(path)
    if stage.data["source"] != "finance":
        stage.note(f"the shipped simulated human pairs are about finance questions and are left out with "
                   f"data source {stage.data['source']!r}")
        return []
    languages = stage.data["languages"]
    rows = read_rows(SIMULATED, PreferencePair)
    kept = [row for row in rows if row.language is None or row.language in languages]
    if len(kept) < len(rows):
        dropped["other language"] += len(rows) - len(kept)
    return kept


def agreement(people: Iterable[PreferencePair], questions: dict[str, Question],
              sampled: dict[str, list[Sampled]]) -> list[bool]:
    """Of each human pair whose two answers were judged too, one right and one wrong: whether both prefer the same."""
    right = {content_id([{"role": "user", "content": questions[question_id].prompt}], completion.text): verdict.correct
             for question_id, group in sampled.items() for completion, verdict in group}
    sides = [(right.get(content_id(pair.prompt, pair.chosen)), right.get(content_id(pair.prompt, pair.rejected)))
             for pair in people if pair.kind == "outcome"]
    return [bool(chosen) for chosen, rejected in sides if {chosen, rejected} == {True, False}]


def judges(sampled: dict[str, list[Sampled]]) -> set[str]:
    """Who gave the verdicts."""
    return {verdict.judge for group in sampled.values() for _, verdict in group}


def weighted(pairs: Iterable[PreferencePair], weight: float,
             dropped: collections.Counter[str]) -> list[PreferencePair]:
    """The pairs with `weight` on top of their own; those that end at 0 would teach nothing and are dropped."""
    scaled = [dataclasses.replace(row, weight=row.weight * weight) for row in pairs]
    kept = [row for row in scaled if row.weight > 0]
    if len(kept) < len(scaled):
        dropped["weight 0"] += len(scaled) - len(kept)
    return kept


def distinct(pairs: Iterable[PreferencePair], dropped: collections.Counter[str]) -> list[PreferencePair]:
    """The first of each (prompt, prefix, chosen, rejected), without those whose sides are the same text."""
    kept: dict[str, PreferencePair] = {}
    for row in pairs:
        key = content_id(row.prompt, row.prefix, row.chosen, row.rejected)
        if row.chosen == row.rejected:
            dropped["both sides the same"] += 1
        elif key in kept:
            dropped["duplicate"] += 1
        else:
            kept[key] = row
    return list(kept.values())


def split(pairs: Sequence[PreferencePair], *, fraction: float, seed: int) -> list[PreferencePair]:
    """Pairs with their split: whole groups of one operand key (or prompt) go to one side.

    `fraction` of the groups go to dev, at least one where there are two or more and `fraction` is above 0.
    """
    by_question = {str(row.question_id): row.operand_key for row in pairs if row.question_id and row.operand_key}
    by_prompt = {content_id(row.prompt): row.operand_key for row in pairs if row.operand_key}

    def group(row: PreferencePair) -> str:
        prompt = content_id(row.prompt)
        return row.operand_key or by_question.get(str(row.question_id)) or by_prompt.get(prompt) or prompt

    groups = sorted({group(row) for row in pairs})
    random.Random(seed).shuffle(groups)
    count = min(max(1, round(fraction * len(groups))), len(groups) - 1) if fraction > 0 and groups else 0
    dev = set(groups[:count])
    return [dataclasses.replace(row, split="dev" if group(row) in dev else "train") for row in pairs]


def counts(dropped: collections.Counter[str]) -> str:
    """"3 x duplicate, ...", most frequent first."""
    return ", ".join(f"{count} x {reason}" for reason, count in dropped.most_common()) or "nothing"


def summary(rows: Sequence[PreferencePair], dropped: collections.Counter[str]) -> dict[str, float]:
    """The stage's metrics; see alignment/metrics.py."""
    origins = collections.Counter(row.origin for row in rows)
    errors = collections.Counter(row.error_kind or "unknown" for row in rows)
    return {
        "pairs": len(rows),
        "train": sum(row.split == "train" for row in rows),
        "dev": sum(row.split == "dev" for row in rows),
        "questions": len({row.question_id or content_id(row.prompt) for row in rows}),
        "gold": sum(row.chosen_from == "gold" for row in rows),
        **{f"origin.{origin}": count for origin, count in sorted(origins.items())},
        **{f"weight.{origin}": math.fsum(row.weight for row in rows if row.origin == origin)
           for origin in sorted(origins)},
        **{f"strength.{origin}": statistics.fmean(row.strength for row in rows if row.origin == origin)
           for origin in sorted(origins)},
        **{f"error.{kind}": count for kind, count in sorted(errors.items())},
        **{f"dropped.{reason.replace(' ', '_')}": count for reason, count in sorted(dropped.items())},
    }
