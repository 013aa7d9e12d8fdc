"""Files into the desk's database: read whole, paired, and added in one transaction with one event, or not at all.

    batch, summary = bring(desk, [path], Plan(policy="random"), Rules())
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data.annotate.database import DEFAULT
from data.annotate.desk import Desk
from data.annotate.intake import EXAMPLE, MEANINGS, Material, read
from data.annotate.ledger import append, find, known
from data.annotate.pairing import PLACES, POLICIES, Made, Plan, tasks
from data.annotate.records import Batch, Candidate, Decision, Guideline, Prompt, StepLabel
from data.finance.errors import ERROR_KINDS
from data.rows import json_lines, read_rows, read_text, shown
from data.schema import Row, UserError, Verdict, content_id

GUIDELINE = Path(__file__).parent / "guideline.md"
ERROR_TAGS = (*ERROR_KINDS, "wrong_reasoning", "unclear", "wrong_language", "other")


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """How a batch is worked; see the options of `import`."""

    name: str | None = None
    guideline: str | None = None  # a file; None = the one that ships
    suggestions: Literal["hidden", "shown"] = "hidden"
    reveal: bool = False
    gold_share: float = 0.1
    repeat_share: float = 0.0
    error_tags: tuple[str, ...] = ERROR_TAGS
    generator: str | None = None  # whoever wrote the answers, where rows do not say
    judge: str | None = None  # whoever made the files' preferences, where rows do not say
    scores: str | None = None
    verdicts: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """All that an import will add, read and paired before a database is touched."""

    material: Material
    batch: Batch  # without a name where the import gives none
    guideline: Guideline
    made: Made


def bring(desk: Desk, places: Sequence[str], plan: Plan, rules: Rules) -> tuple[Batch, Made]:
    """The batch and what was made of the files, committed. Raises UserError; nothing is imported then."""
    ready = prepared(places, plan, rules)
    return add(desk, ready), ready.made


def prepared(places: Sequence[str], plan: Plan, rules: Rules) -> Ready:
    """The files' rows as a batch of tasks. Raises UserError."""
    if not places:
        raise UserError("import: name a file or a folder")
    material = Material()
    for place in places:
        read(place, material, generator=rules.generator)
    if rules.scores is not None:
        add_scores(material, rules.scores)
    right, walked = read_verdicts(material, rules.verdicts) if rules.verdicts is not None else ({}, {})
    guideline = guideline_of(rules)
    batch = batch_of(places, plan, rules, guideline)
    made = tasks(material, plan, batch, right=right, walked=walked, judge=rules.judge)
    if rules.suggestions == "shown" and made.suggestions and any(task.gold is not None for task in made.tasks):
        raise UserError("--suggestions shown: gold tasks would be known by their having none; leave out --gold and the "
                        "rows' `gold`, or keep suggestions hidden")
    return Ready(material, batch, guideline, made)


def guideline_of(rules: Rules) -> Guideline:
    """The guideline's text under its content id. Raises UserError where the file cannot be read."""
    text = read_text(rules.guideline or GUIDELINE)
    if not text.strip():
        raise UserError(f"--guideline {rules.guideline}: is empty; write what makes an answer better")
    head = next(line for line in text.splitlines() if line.strip())
    return Guideline(version=content_id("guideline", text), text=text, title=head.lstrip("# ").strip()[:200])


def batch_of(places: Sequence[str], plan: Plan, rules: Rules, guideline: Guideline) -> Batch:
    """The batch that an import makes: the same files under the same plan are the same one."""
    source = {"files": ", ".join(map(str, places)), "pairing": plan.policy if plan.kind == "pairwise" else plan.kind,
              "seed": str(plan.seed)}
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for place in places for path in files_of(place)]
    return Batch(id=content_id("batch", rules.name, dataclasses.asdict(plan), contents), name=rules.name or "",
                 guideline=guideline.version, suggestions=rules.suggestions, reveal=rules.reveal,
                 error_tags=rules.error_tags, gold_share=rules.gold_share, repeat_share=rules.repeat_share,
                 source=source)


def files_of(place: str) -> list[Path]:
    path = Path(place).expanduser()
    return [path / "questions.jsonl", path / "completions.jsonl"] if path.is_dir() else [path]


def add(desk: Desk, ready: Ready) -> Batch:
    """The batch, all of it added in one transaction; what the database has already is not added again.

    Annotators see a batch's name, which therefore is not the files': those may be called after models.
    """
    used = {name for task in ready.made.tasks for name in task.candidate_ids}
    prompts = {task.prompt_id for task in ready.made.tasks}
    wanted: list[tuple[type[Row], dict[str, Row]]] = [
        (Guideline, {ready.guideline.version: ready.guideline}),
        (Prompt, {name: prompt for name, prompt in ready.material.prompts.items() if name in prompts}),
        (Candidate, {name: answer for name, answer in ready.material.candidates.items() if name in used})]
    with desk.database.writing() as connection:
        if (earlier := find(connection, Batch, ready.batch.id)) is not None:
            raise UserError(f"{ready.batch.source['files']}: is imported already, as the batch {earlier.name!r}; to "
                            "have it judged once more give the new batch a name, --batch NAME")
        name = ready.batch.name or f"batch {len(known(connection, Batch)) + 1}"
        batch = dataclasses.replace(ready.batch, name=name, created_at=desk.now())
        rows: list[Row] = [batch, *ready.made.tasks, *ready.made.suggestions]
        for cls, found in wanted:
            present = known(connection, cls)
            rows += [row for name, row in found.items() if name not in present]
        append(connection, "import", "import", batch.id, rows)
    return batch


# ------------------------------------------------------------------------------------------------ scores and verdicts


def add_scores(material: Material, place: str) -> None:
    """Rows of `question_id`, `sample` and `score` onto the answers of a `sample` artifact."""
    found = 0
    for number, row in json_lines(Path(place).expanduser()):
        where, score = f"{place}:{number}", row.get("score")
        if not isinstance(score, int | float) or isinstance(score, bool):
            raise UserError(f"{where}: field 'score' is {shown(score)}; it must be a number")
        name = material.sampled.get((row.get("question_id"), row.get("sample")))  # type: ignore[arg-type]
        if name is not None:
            material.candidates[name] = dataclasses.replace(material.candidates[name], score=float(score))
            found += 1
    if not found:
        raise UserError(f"--scores {place}: no row has the `question_id` and `sample` of an imported completion; "
                        "scores belong to the folder of a `sample` artifact")


def read_verdicts(material: Material, place: str) -> tuple[dict[str, tuple[str, bool]],
                                                           dict[str, tuple[str, Decision]]]:
    """(answer -> judge and whether it is right, answer -> judge and its walk through the steps) of a `judge`
    artifact's folder or its verdicts.jsonl."""
    path = Path(place).expanduser()
    right: dict[str, tuple[str, bool]] = {}
    walked: dict[str, tuple[str, Decision]] = {}
    for verdict in read_rows(path / "verdicts.jsonl" if path.is_dir() else path, Verdict):
        name = material.sampled.get((verdict.question_id, verdict.sample))
        if name is None:
            continue
        right[name] = verdict.judge, verdict.correct
        walk = walk_of(verdict, len(material.candidates[name].steps))
        if walk is not None:
            walked[name] = verdict.judge, walk
    if not right:
        raise UserError(f"--verdicts {place}: judges none of the imported completions; it belongs to the same `sample` "
                        "artifact")
    return right, walked


def walk_of(verdict: Verdict, count: int) -> Decision | None:
    """A verdict's steps as labels; None where it does not speak of lines, one step each and an answer line, or quote
    the first wrong one."""
    by_steps = bool(verdict.steps_correct) or verdict.step is None
    if by_steps and count not in (len(verdict.steps_correct), len(verdict.steps_correct) + 1):
        return None
    wrong = verdict.first_error
    if (wrong is None) != verdict.correct or (wrong is not None and wrong >= count):
        return None
    labels = tuple(StepLabel(step=at, rating=1 if wrong is None or at < wrong else -1 if at == wrong else None,
                             tag=verdict.error_kind if at == wrong else None) for at in range(count))
    return Decision(outcome="stepped", steps=labels, correction_declined=wrong is not None)


# --------------------------------------------------------------------------------------------------------- command

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `import`, and what a row looks like."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, rows_help()
    parser.add_argument("files", nargs="+", metavar="FILE", help="the folder of a `sample` artifact, or a JSONL, JSON "
                        "or Parquet file of TRL's rows or of this project's preference pairs; several are one batch")
    parser.add_argument("--db", default=DEFAULT, metavar="URL", help="the database, made where there is none: a file's "
                        "path or postgresql://USER@HOST/NAME (default: %(default)s)")
    pairs = parser.add_argument_group("tasks")
    pairs.add_argument("--kind", default="pairwise", choices=("pairwise", "ranking", "rating", "stepwise"),
                       help="what annotators do: compare two answers, rank several, rate them by aspect, or walk "
                            "through the steps of one (default: %(default)s)")
    pairs.add_argument("--pairing", default="all", choices=tuple(POLICIES), help="which two answers are compared: "
                       + "; ".join(f"{name} = {meaning}" for name, meaning in POLICIES.items())
                       + " (default: %(default)s)")
    pairs.add_argument("--per-prompt", type=int, metavar="K", help="tasks of a prompt at most, 0 = no limit (default: "
                       "1, and no limit for all, across-models and stepwise)")
    pairs.add_argument("--size", type=int, default=Plan().size, help=f"answers of a ranking (up to {PLACES}) or "
                       "rating at most (default: %(default)s)")
    pairs.add_argument("--limit", type=int, metavar="N", help="tasks in all; the most uncertain ones where that is "
                       "the pairing, else spread evenly over the prompts")
    pairs.add_argument("--overlap", type=int, default=1, metavar="K", help="people who judge each task (default: "
                                                                           "%(default)s)")
    pairs.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    pairs.add_argument("--aspects", default=",".join(Plan().aspects), help="what a rating is of, by commas (default: "
                                                                            "%(default)s)")
    pairs.add_argument("--scale", type=int, default=Plan().scale, help="a rating's best number, from 2 to 10 "
                                                                        "(default: %(default)s)")
    known_ones = parser.add_argument_group("what is known of the answers")
    known_ones.add_argument("--generator", metavar="NAME", help="who wrote the answers, where rows have no `model` "
                                                                "(kept from annotators)")
    known_ones.add_argument("--scores", metavar="FILE", help="JSONL rows of question_id, sample and score")
    known_ones.add_argument("--verdicts", metavar="FOLDER", help="a `judge` artifact on the same completions: its "
                                                                 "verdicts become suggestions")
    known_ones.add_argument("--judge", metavar="NAME", help="the AI judge that made the file's preferences, where rows "
                                                            "have no `origin`: they become its suggestions")
    batch = parser.add_argument_group("the batch")
    batch.add_argument("--batch", metavar="NAME", help="its name, which annotators see (default: batch 1, ...)")
    batch.add_argument("--guideline", metavar="FILE", help="Markdown that tells what is better (default: the one that "
                                                           "ships)")
    batch.add_argument("--suggestions", default="hidden", choices=("hidden", "shown"), help="whether annotators see an "
                       "AI judge's suggestion before they decide; it is recorded (default: %(default)s)")
    batch.add_argument("--reveal", action="store_true", help="show them the suggestion, the reference and the gold "
                       "decision after the verdict; of a task, the first verdict is then the one that is measured")
    batch.add_argument("--gold", type=int, default=0, metavar="N", help="tasks that are to measure the annotators: the "
                       "exact rule's verdicts say what is right (rows of a file say `gold: true`)")
    batch.add_argument("--gold-share", type=float, default=0.1, help="of each annotator's tasks that are gold (default:"
                                                                     " %(default)s)")
    batch.add_argument("--repeat-share", type=float, default=0.0, help="of each annotator's tasks that are an earlier "
                                                                       "one of theirs again (default: %(default)s)")
    batch.add_argument("--error-tags", default=",".join(ERROR_TAGS), help="by commas (default: %(default)s)")


def rows_help() -> str:
    """What a file of completions looks like."""
    fields = [f"  {name:15}{meaning}" for name, meaning in MEANINGS.items()]
    return "\n".join([
        "A row of completions is one answer to a prompt, a line each; answers to the same prompt are judged together.",
        "`prompt` and `completion` are text, or lists of messages. For example:", "", EXAMPLE, "",
        "A row may say beside:", *fields, "",
        "Or rows of `chosen` and `rejected`, of `completions` and `labels` (steps), or of `messages`."])


LIMITS = {"per_prompt": (0, None), "size": (2, 26), "limit": (1, None), "overlap": (1, 1000), "scale": (2, 10),
          "gold": (0, None), "gold_share": (0, 1), "repeat_share": (0, 1)}


def check_limits(arguments: argparse.Namespace) -> None:
    """Raises UserError for a number that cannot be."""
    for name, (low, high) in LIMITS.items():
        value = getattr(arguments, name)
        if value is not None and not (value >= low and (high is None or value <= high)):
            within = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {within}")
    if arguments.gold_share + arguments.repeat_share > 1:
        raise UserError("--gold-share and --repeat-share: together they must be at most 1")


def listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def run(arguments: argparse.Namespace) -> int:
    """Imports and says what came in. Raises UserError."""
    check_limits(arguments)
    plan = Plan(kind=arguments.kind, policy=arguments.pairing, per_prompt=arguments.per_prompt, size=arguments.size,
                limit=arguments.limit, overlap=arguments.overlap, gold=arguments.gold, scale=arguments.scale,
                aspects=listed(arguments.aspects), seed=arguments.seed)
    if plan.kind == "rating" and not plan.aspects:
        raise UserError("--aspects: name at least one")
    rules = Rules(name=arguments.batch, guideline=arguments.guideline, suggestions=arguments.suggestions,
                  reveal=arguments.reveal, gold_share=arguments.gold_share, repeat_share=arguments.repeat_share,
                  error_tags=listed(arguments.error_tags), generator=arguments.generator, judge=arguments.judge,
                  scores=arguments.scores, verdicts=arguments.verdicts)
    ready = prepared(arguments.files, plan, rules)  # before a database is made
    desk = Desk.open(arguments.db)
    batch = add(desk, ready)
    desk.close()
    print(summary(batch, ready.made, plan))
    print(f"python -m data.annotate serve{'' if arguments.db == DEFAULT else f' --db {arguments.db}'}")
    return 0


def summary(batch: Batch, made: Made, plan: Plan) -> str:
    """What an import made, a line each."""
    gold = sum(task.gold is not None for task in made.tasks)
    people = "1 person" if plan.overlap == 1 else f"{plan.overlap} people"
    lines = [f"{batch.name}: {len(made.tasks)} {plan.kind} tasks for {people} each"
             + (f", {gold} of them gold" if gold else "")]
    if made.suggestions:
        judges = collections.Counter(said.judge for said in made.suggestions)
        lines.append("suggestions: " + ", ".join(f"{count} of {judge}" for judge, count in judges.items()))
    lines += [f"left out: {count} x {reason}" for reason, count in made.left_out.most_common() if count]
    return "\n".join(lines)



COMMANDS = {"import": (add_arguments, run)}
