"""One preference dataset from verdicts, comparisons and human annotations, with provenance, weights and splits.

What pairs are made of what a judge said is in alignment/pair_building.py. Reads `completions` and `verdicts` (and a
file of human pairs), writes train.jsonl and dev.jsonl; every row left out is counted by reason in a note.
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
from alignment.pair_building import (
    Dropped,
    Sampled,
    as_prompt,
    compared_pairs,
    naive_pairs,
    outcome_pairs,
    process_pairs,
)
from alignment.preference_kinds import Pairs
from alignment.stage import Stage
from data.preferences import read_pairs
from data.rows import read_rows, write_rows
from data.schema import Comparison, Completion, PreferencePair, Question, UserError, Verdict, content_id

SIMULATED = Path(data.finance.__file__).parent / "simulated_pairs.jsonl"


@dataclasses.dataclass(frozen=True)
class Material:
    """What pairs are made of: questions by id; by question the completions, and those with a verdict; comparisons."""

    questions: dict[str, Question]
    completions: dict[str, list[Completion]]
    sampled: dict[str, list[Sampled]]
    comparisons: list[Comparison]


def run(stage: Stage) -> None:
    """Builds the dataset and reports what it is made of."""
    config: Pairs = stage.config
    dropped: Dropped = collections.Counter()
    material = load(stage.inputs["completions"], stage.inputs["verdicts"], dropped)
    made = short_enough(build(material, config, seed=stage.derive("pairs"), dropped=dropped), config, dropped)
    people = human_pairs(stage, dropped=dropped)
    same = agreement(people, material)
    kept = weighted(made, config.ai_weight, dropped)
    kept += weighted(people, config.human_weight, dropped)
    rows = split(distinct(kept, dropped), fraction=config.dev_fraction, seed=stage.derive("split"))
    if not rows:
        right = sum(verdict.correct for group in material.sampled.values() for _, verdict in group)
        total = sum(len(group) for group in material.sampled.values())
        raise UserError(f"stage {stage.name!r} can make no preference pair: of {total} completions of "
                        f"{len(material.questions)} questions {right} are right and {total - right} wrong, and a pair "
                        f"needs one of each for the same question (left out: {counts(dropped)}); sample more "
                        f"completions or at a higher temperature, or set {stage.name}.gold_fallback=missing to put the "
                        f"gold solution in place of a right sample")
    for side in ("train", "dev"):
        write_rows(stage.output / f"{side}.jsonl", [row for row in rows if row.split == side])
    stage.note(f"{len(rows)} pairs from {len(material.questions)} questions"
               + (f"; left out: {counts(dropped)}" if dropped else "; none left out"))
    if same:
        stage.note(f"people and {'/'.join(sorted(judges(material.sampled)))} prefer the same answer in {sum(same)} of "
                   f"{len(same)} shared comparisons")
    shared = {"shared": len(same), "agreement": sum(same) / len(same)} if same else {}
    stage.result(**summary(rows, dropped), **shared)


def load(completions: Path, verdicts: Path, dropped: Dropped) -> Material:
    """The rows of both artifacts, each completion beside its verdict; one without, its judge's reply having been no
    verdict, is counted."""
    questions = {question.id: question for question in read_rows(completions / "questions.jsonl", Question)}
    texts = read_rows(completions / "completions.jsonl", Completion)
    judged = read_rows(verdicts / "verdicts.jsonl", Verdict)
    path = verdicts / "comparisons.jsonl"
    comparisons = read_rows(path, Comparison) if path.is_file() else []
    waiting = iter(texts)
    for verdict in judged:
        if not any((row.question_id, row.sample) == (verdict.question_id, verdict.sample) for row in waiting):
            raise UserError(f"{verdicts / 'verdicts.jsonl'} does not judge {completions / 'completions.jsonl'} row by "
                            f"row ({len(judged)} verdicts, {len(texts)} completions); the `judge` stage must read the "
                            "same `completions` as the `pairs` stage")
    found = {(verdict.question_id, verdict.sample): verdict for verdict in judged}
    groups: dict[str, list[Completion]] = {question: [] for question in questions}
    sampled: dict[str, list[Sampled]] = {question: [] for question in questions}
    for row in texts:
        groups[row.question_id].append(row)
        if (row.question_id, row.sample) in found:
            sampled[row.question_id].append((row, found[row.question_id, row.sample]))
    if judged and len(judged) < len(texts):
        dropped["completion without a readable verdict"] += len(texts) - len(judged)
    return Material(questions, groups, sampled, comparisons)


def build(material: Material, config: Pairs, *, seed: int, dropped: Dropped) -> list[PreferencePair]:
    """The pairs of each sort that `build` asks for, in that order. Raises UserError where the judge made no such."""
    pairs: list[PreferencePair] = []
    for sort in config.build:
        if sort == "outcome":
            pairs += outcome_pairs(material.questions, material.sampled, config, seed=seed, dropped=dropped)
        elif sort == "process":
            pairs += process_pairs(material.questions, material.sampled, config, seed=seed, dropped=dropped)
        elif sort == "naive":
            pairs += naive_pairs(material.questions, material.completions, config, seed=seed, dropped=dropped)
        elif not material.comparisons:
            raise UserError("build=comparisons: the judge has compared nothing; set its tasks to [pairwise] or "
                            "[principles]")
        else:
            pairs += compared_pairs(material.questions, material.completions, material.comparisons, dropped=dropped)
    dropped -= collections.Counter()  # zeros
    return pairs


def short_enough(pairs: Sequence[PreferencePair], config: Pairs, dropped: Dropped) -> list[PreferencePair]:
    """Those of at most `max_characters`, prompt, begun answer and longer side together."""
    limit = config.max_characters
    if limit is None:
        return list(pairs)
    kept = [row for row in pairs if sum(len(message["content"]) for message in row.prompt) + len(row.prefix)
            + max(len(row.chosen), len(row.rejected)) <= limit]
    if len(kept) < len(pairs):
        dropped["longer than max_characters"] += len(pairs) - len(kept)
    return kept


def human_pairs(stage: Stage, *, dropped: Dropped) -> list[PreferencePair]:
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


def agreement(people: Iterable[PreferencePair], material: Material) -> list[bool]:
    """Of each human pair whose two answers were judged too, one right and one wrong: whether both prefer the same."""
    right = {content_id(as_prompt(material.questions[question_id]), completion.text): verdict.correct
             for question_id, group in material.sampled.items() for completion, verdict in group}
    sides = [(right.get(content_id(pair.prompt, pair.chosen)), right.get(content_id(pair.prompt, pair.rejected)))
             for pair in people if pair.kind == "outcome"]
    return [bool(chosen) for chosen, rejected in sides if {chosen, rejected} == {True, False}]


def judges(sampled: dict[str, list[Sampled]]) -> set[str]:
    """Who gave the verdicts."""
    return {verdict.judge for group in sampled.values() for _, verdict in group}


def weighted(pairs: Iterable[PreferencePair], weight: float,
             dropped: Dropped) -> list[PreferencePair]:
    """The pairs with `weight` on top of their own; those that end at 0 would teach nothing and are dropped."""
    scaled = [dataclasses.replace(row, weight=row.weight * weight) for row in pairs]
    kept = [row for row in scaled if row.weight > 0]
    if len(kept) < len(scaled):
        dropped["weight 0"] += len(scaled) - len(kept)
    return kept


def distinct(pairs: Iterable[PreferencePair], dropped: Dropped) -> list[PreferencePair]:
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


def counts(dropped: Dropped) -> str:
    """"3 x duplicate, ...", most frequent first."""
    return ", ".join(f"{count} x {reason}" for reason, count in dropped.most_common()) or "nothing"


def summary(rows: Sequence[PreferencePair], dropped: Dropped) -> dict[str, float]:
    """The stage's metrics; see alignment/metrics.py."""
    origins = collections.Counter(row.origin for row in rows)
    errors = collections.Counter(row.error_kind or "unknown" for row in rows)
    return {
        "pairs": len(rows),
        "train": sum(row.split == "train" for row in rows),
        "dev": sum(row.split == "dev" for row in rows),
        "questions": len({row.question_id or content_id(row.prompt) for row in rows}),
        "gold": sum(row.chosen_from == "gold" for row in rows),
        "process": sum(row.kind == "process" for row in rows),
        **{f"origin.{origin}": count for origin, count in sorted(origins.items())},
        **{f"weight.{origin}": math.fsum(row.weight for row in rows if row.origin == origin)
           for origin in sorted(origins)},
        **{f"strength.{origin}": statistics.fmean(row.strength for row in rows if row.origin == origin)
           for origin in sorted(origins)},
        **{f"error.{kind}": count for kind, count in sorted(errors.items())},
        **{f"dropped.{reason.replace(' ', '_')}": count for reason, count in sorted(dropped.items())},
    }
