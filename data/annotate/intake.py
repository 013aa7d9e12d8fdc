"""What an import file holds: prompts with their answers, and the preferences or step labels it came with, if any.

    read("runs/ppo_fin/seed1/stages/sample")    a `sample` artifact: questions.jsonl and completions.jsonl
    read("rows.jsonl")                          TRL's rows, or this project's preference pairs

Every row of a file has the same form, which its first row shows. Errors name the file, the line, the field and the way
out. Knows no database and no task.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.annotate.records import Candidate, Decision, Prompt, StepLabel, canonical
from data.chat import check_messages
from data.files import as_messages, conversation
from data.preferences import ORIGINS, from_trl
from data.rows import TABLES, json_lines, parse_json, read_rows, read_table, read_text, shown
from data.schema import Completion, Message, PreferencePair, Question, UserError, content_id

FORMS = {  # what a row of each form has; the first that fits is taken
    "preferences": ("chosen", "rejected"),
    "step labels": ("prompt", "completions", "labels"),
    "prompts with completions": ("prompt", "completion"),
    "conversations": ("messages",),
}
FIELDS: dict[str, type | tuple[type, ...]] = {  # what any row may say beside
    "id": str, "model": str, "generator": str, "score": (int, float), "language": str, "evidence": str,
    "reference": str, "question_id": str, "operand_key": str, "question_kind": str, "finish_reason": str,
    "split": str, "gold": bool}
EXAMPLE = """\
{"prompt": "What is 7 times 8?", "completion": "7 x 8 = 56", "model": "policy-a"}
{"prompt": "What is 7 times 8?", "completion": "It is 54.", "model": "policy-b", "finish_reason": "stop"}"""
MEANINGS = {  # of FIELDS, for whoever writes rows
    "id": "the row's name, once in a file",
    "model": "who wrote the answer, kept from annotators",
    "generator": "the same, where there is no `model`",
    "score": "a reward model's number, for --pairing",
    "language": "en or zh",
    "evidence": "tables and passages in Markdown, pinned beside the answers",
    "reference": "the right answer, shown after the verdict with --reveal",
    "finish_reason": "stop, or length: the answer is shown as cut off",
    "split": "train, dev or test; test rows are not exported unless asked for",
    "question_id": "kept, and exported with the pairs",
    "operand_key": "likewise",
    "question_kind": "likewise",
    "gold": "true: the row's preference or labels are right, and measure the annotators",
}
CHOICES = {"language": ("en", "zh"), "split": ("train", "dev", "test"), "finish_reason": ("stop", "length")}
MAX_CHARACTERS = 20_000_000  # of one answer
STRENGTHS = ((0.34, 1), (0.67, 2), (1.0, 3))  # a pair's strength up to this -> slightly, better, much


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """A decision the file came with, on one or two candidates of a prompt."""

    candidate_ids: tuple[str, ...]
    judge: str
    decision: Decision
    origin: str | None = None  # None where the row does not say who decided
    is_gold: bool = False  # the right decision, by the file's word


@dataclasses.dataclass(slots=True)
class Material:
    """What was read: each prompt's answers in the order of the file, distinct texts of one generator once."""

    prompts: dict[str, Prompt] = dataclasses.field(default_factory=dict)
    candidates: dict[str, Candidate] = dataclasses.field(default_factory=dict)
    of_prompt: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # prompt -> candidates
    given: list[Given] = dataclasses.field(default_factory=list)
    sampled: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict)  # question and sample -> candidate
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, prompt: Prompt, *candidates: Candidate) -> None:
        self.prompts.setdefault(prompt.id, prompt)
        of_prompt = self.of_prompt.setdefault(prompt.id, [])
        for candidate in candidates:
            if candidate.id in self.candidates:
                self.notes["the same answer of the same generator again"] += candidate.id in of_prompt
            else:
                self.candidates[candidate.id] = candidate
            if candidate.id not in of_prompt:
                of_prompt.append(candidate.id)


def read(place: str | Path, material: Material | None = None, *, generator: str | None = None) -> Material:
    """Adds a file or a `sample` artifact's folder to `material`. `generator` names whoever wrote its answers, where
    rows do not. Raises UserError."""
    material = material or Material()
    path = Path(place).expanduser()
    if path.is_dir() and (path / "completions.jsonl").is_file():
        _read_sample(path, material, generator)
    elif path.is_dir():
        raise UserError(f"{path}: is a folder without completions.jsonl and questions.jsonl; give the folder of a "
                        "`sample` artifact (runs/NAME/seed1/stages/sample), or a file of rows")
    else:
        _read_rows(path, material, generator or path.stem)
    return material


# ------------------------------------------------------------------------------------------------- a sample artifact


def _read_sample(folder: Path, material: Material, generator: str | None) -> None:
    config, policy = _manifest(folder)
    name = generator or policy or folder.name
    questions = {question.id: question for question in read_rows(folder / "questions.jsonl", Question)}
    completions = read_rows(folder / "completions.jsonl", Completion)
    if not completions:
        raise UserError(f"{folder / 'completions.jsonl'}: is empty; there is no completion to judge")
    sampling = {key: config[key] for key in ("temperature", "top_p", "max_new_tokens") if key in config}
    split = config.get("split", "train")
    for number, row in enumerate(completions, start=1):
        where = f"{folder / 'completions.jsonl'}:{number}"
        question = questions.get(row.question_id)
        if question is None:
            raise UserError(f"{where}: field 'question_id' is {row.question_id!r}, which questions.jsonl does not "
                            "have; both files must come from one `sample` stage")
        if (row.question_id, row.sample) in material.sampled:
            raise UserError(f"{where}: sample {row.sample} of question {row.question_id!r} stands twice, here or in "
                            "another folder given; delete one of them")
        prompt = _prompt([{"role": "user", "content": question.prompt}], {
            "language": question.language, "question_id": question.id, "operand_key": question.operand_key,
            "question_kind": question.kind, "reference": question.answer, "split": split,
            "evidence": evidence_of(question)},
            source={"file": str(folder), "source": question.source}, where=where)
        candidate = _candidate(prompt, row.text, name, where=where, finish_reason=row.finish_reason,
                               num_tokens=len(row.token_ids) or None,
                               sampling={**sampling, "sample": row.sample, "logprob": row.logprob})
        material.add(prompt, candidate)
        material.sampled[row.question_id, row.sample] = candidate.id


def evidence_of(question: Question) -> str:
    """The tables and passages of a TAT-QA prompt as Markdown, which stand above its question; "" for other sources."""
    if question.source != "tatqa":
        return ""
    written: list[str] = []
    width = 0  # columns of the table that the line before belongs to
    for line in question.prompt.rpartition("\n")[0].split("\n"):
        cells = line.split("|")
        if len(cells) == 1:
            written += ["", line]
        else:
            written += [] if width == len(cells) else ["", *_row(cells), *_row(["---"] * len(cells))]
            written += _row(cells) if width == len(cells) else []
        width = len(cells) if len(cells) > 1 else 0
    return "\n".join(written).strip()


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cell.strip() for cell in cells)} |"]


def _manifest(folder: Path) -> tuple[dict[str, Any], str | None]:
    """(the stage's config, the policy's name) of a sealed artifact; nothing where there is no manifest."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}, None
    parts = parse_json(read_text(path), where=str(path)).get("parts") or {}
    policy = (parts.get("inputs") or {}).get("policy")
    return dict(parts.get("config") or {}), None if policy is None else f"policy-{policy[:12]}"


# -------------------------------------------------------------------------------------------------------------- rows


def _read_rows(path: Path, material: Material, generator: str) -> None:
    if path.is_file() and path.suffix not in TABLES:
        raise UserError(f"{path}: a file of kind {path.suffix!r} cannot be imported; save its rows as one of "
                        f"{', '.join(TABLES)}")
    if path.suffix in (".json", ".parquet"):
        rows = [(f"{path}: row {number}", row) for number, row in enumerate(read_table(path), start=1)]
    else:
        rows = [(f"{path}:{number}", row) for number, row in json_lines(path)]
    if not rows:
        raise UserError(f"{path}: is empty; give a file with at least one row")
    first, form = rows[0][0], form_of(rows[0][1], where=rows[0][0])
    places: dict[str, str] = {}
    for where, row in rows:
        if (own := form_of(row, where=where)) != form:
            raise UserError(f"{where}: is a row of {own}, and {first} is one of {form}; put rows of one form into a "
                            "file, or import two files")
        check_fields(row, where=where)
        if row.get("id") is not None and (earlier := places.setdefault(row["id"], where)) != where:
            raise UserError(f"{where}: field 'id' is {row['id']!r}, which {earlier} has too; delete one of them or "
                            "give it its own id")
        READERS[form](row, material, generator=row.get("model") or row.get("generator") or generator, where=where)


def form_of(row: Mapping[str, Any], *, where: str) -> str:
    """Which of FORMS a row has. Raises UserError that names the nearest field."""
    for form, fields in FORMS.items():
        if all(row.get(name) is not None for name in fields):
            return form
    wanted = "; ".join(f"{' and '.join(f'`{name}`' for name in fields)} ({form})" for form, fields in FORMS.items())
    known = sorted({name for fields in FORMS.values() for name in fields})
    near = [(name, match[0]) for name in row if name not in known
            and (match := difflib.get_close_matches(name, known, n=1))]
    hint = f"; did you mean `{near[0][1]}` by {near[0][0]!r}?" if near else ""
    if nothing := [name for name in known if name in row and row[name] is None]:
        hint += f"; field {nothing[0]!r} is null: fill it in, or delete the row"
    raise UserError(f"{where}: has the fields {sorted(row)}; a row has {wanted}{hint}")


def check_fields(row: Mapping[str, Any], *, where: str) -> None:
    """Raises UserError for a field of the wrong type, or text that no file can hold."""
    for name, kind in FIELDS.items():
        value = row.get(name)
        wrong = value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool))
        if wrong:
            words = {str: "text", bool: "true or false"}.get(kind, "a number")  # type: ignore[arg-type]
            raise UserError(f"{where}: field {name!r} is {shown(value)}; it must be {words}")
        if value is not None and name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{where}: field {name!r} is {shown(value)}; it must be one of {', '.join(CHOICES[name])}")
    score = row.get("score")
    if score is not None and not math.isfinite(score):  # a Parquet file can hold it
        raise UserError(f"{where}: field 'score' is {score}; it must be a finite number, or left out")
    try:
        canonical({name: value for name, value in row.items() if name != "score"}).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: holds half of a surrogate pair, {shown(error.object[error.start])}, which is no "
                        "character; replace it") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: holds what JSON cannot ({error}); replace it with text or a finite number, or leave "
                        "that column out") from error


def _prompt(messages: list[Message], row: Mapping[str, Any], *, source: dict[str, str], where: str) -> Prompt:
    check_messages(messages, where=f"{where}: prompt")
    if not messages[-1]["content"].strip():
        raise UserError(f"{where}: prompt is {shown(messages[-1]['content'])}, without anything that is asked; delete "
                        "the row")
    if messages[-1]["role"] == "assistant":
        raise UserError(f"{where}: prompt ends with the assistant's message; it must end with the user's")
    evidence = row.get("evidence") or ""
    given = {name: row[name] for name in ("language", "question_id", "operand_key", "question_kind", "reference",
                                          "split") if row.get(name) is not None}
    return Prompt(id=content_id("prompt", messages, evidence), messages=messages, evidence=evidence, source=source,
                  **given)


def _candidate(prompt: Prompt, text: str, generator: str, *, where: str, **known: Any) -> Candidate:
    if not text.strip():
        raise UserError(f"{where}: the answer is empty; delete the row")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{where}: the answer has {len(text)} characters; at most {MAX_CHARACTERS} can be judged")
    return Candidate(id=content_id("candidate", prompt.id, text, generator), prompt_id=prompt.id, text=text,
                     generator=generator, steps=steps_of(text),
                     **{name: value for name, value in known.items() if value is not None})


def steps_of(text: str) -> tuple[str, ...]:
    """A line is a step; blank lines stay with the step before, so that the steps joined by line breaks are the text."""
    steps: list[str] = []
    for line in text.split("\n"):
        if steps and (not line.strip() or not steps[0].strip()):
            steps[-1] += "\n" + line
        else:
            steps.append(line)
    return tuple(steps)


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"score": row.get("score"), "finish_reason": row.get("finish_reason")}


def _source(where: str) -> dict[str, str]:
    return {"row": where}


def _read_completion(row: dict[str, Any], material: Material, *, generator: str, where: str) -> None:
    """`prompt` and `completion`, or a conversation that ends with the assistant."""
    messages = conversation(row, where=where)
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: ends without the assistant's answer; add it")
    prompt = _prompt(messages[:-1], row, source=_source(where), where=where)
    material.add(prompt, _candidate(prompt, messages[-1]["content"], generator, where=where, **_known(row)))


def _read_preference(row: dict[str, Any], material: Material, *, generator: str, where: str) -> None:
    """TRL's preference rows and this project's; who wrote the two answers is not in them, so that is `unknown`."""
    named = {name: row[name] for name in row if name != "gold"}
    origin = named.get("origin")
    if origin is not None and origin not in ORIGINS:
        raise UserError(f"{where}: field 'origin' is {shown(origin)}; it must be one of {', '.join(ORIGINS)}")
    pair = from_trl(named, where=where, origin="human", annotator="the file")
    if pair.chosen.strip() == pair.rejected.strip():
        raise UserError(f"{where}: 'chosen' and 'rejected' are {shown(pair.chosen)} and {shown(pair.rejected)}, the "
                        "same but for the space around; delete the row")
    prompt = _prompt(pair.prompt, {**row, **_provenance(pair)}, source=_source(where), where=where)
    sides = [_candidate(prompt, text, f"{generator}, unnamed", where=where, generator_type="unknown", error_kind=kind)
             for text, kind in ((pair.prefix + pair.chosen, None), (pair.prefix + pair.rejected, pair.error_kind))]
    material.add(prompt, *sides)
    strength = next((level for most, level in STRENGTHS if pair.strength <= most), 3)
    decision = Decision(outcome="prefer", preferred=sides[0].id, strength=strength)
    material.given.append(Given(tuple(side.id for side in sides), pair.annotator, decision, origin=origin,
                                is_gold=bool(row.get("gold"))))


def _provenance(pair: PreferencePair) -> dict[str, Any]:
    return {name: getattr(pair, name) for name in ("language", "question_id", "operand_key", "question_kind", "split")}


def _read_steps(row: dict[str, Any], material: Material, *, generator: str, where: str) -> None:
    """TRL's stepwise rows: a solution's steps, each with a label."""
    steps, labels = row["completions"], row["labels"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step for step in steps):
        raise UserError(f"{where}: field 'completions' is {shown(steps)}; it must be a list of steps, each of them "
                        "text and none empty")
    if not isinstance(labels, list) or len(labels) != len(steps) or not all(isinstance(x, bool) for x in labels):
        raise UserError(f"{where}: field 'labels' is {shown(labels)}; it must be true or false for each of the "
                        f"{len(steps)} completions")
    prompt = _prompt(as_messages(row["prompt"], "user", where=f"{where}: prompt"), row, source=_source(where),
                     where=where)
    candidate = _candidate(prompt, "\n".join(steps), generator, where=where, **_known(row))
    candidate = dataclasses.replace(candidate, id=content_id("steps", prompt.id, steps, generator), steps=tuple(steps))
    material.add(prompt, candidate)
    wrong = labels.index(False) if False in labels else len(steps)
    rated = tuple(StepLabel(step=at, rating=1 if at < wrong else -1 if at == wrong else None)
                  for at in range(len(steps)))
    decision = Decision(outcome="stepped", steps=rated, correction_declined=wrong < len(steps))
    material.given.append(Given((candidate.id,), "the file", decision, is_gold=bool(row.get("gold"))))


READERS = {"preferences": _read_preference, "step labels": _read_steps, "prompts with completions": _read_completion,
           "conversations": _read_completion}
