"""Any TRL-format data: JSONL, JSON or Parquet files, folders of them, and hub data sets.

    load("questions.jsonl", seed=0)    read_conversations("org/name")    read_documents("corpus.parquet")

Rows may have `prompt` and `completion` (texts or messages), `messages`, `prompt` or `question` and `answer`, or `text`.
Only questions with a numeric answer can be asked and graded; conversations and documents take any row of their form.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.loading import Loaded, LoadReport, by_split, is_quantity, language_of, normal_text, require_rows, resplit
from data.rows import TABLES, read_table, shown, table_files
from data.schema import Document, Message, Question, Split, UserError, content_id

SPLITS: dict[str, Split] = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
                            "eval": "dev", "test": "test"}
MARKER = re.compile(r"(?:####|\b(?:the )?(?:final )?answer(?:\s*:| is:?)|答案\s*[:：是为])\s*", re.IGNORECASE)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w.-]+)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows of one file or one hub split. `split` is what its name says, if it says so."""

    name: str
    split: Split | None
    rows: list[dict[str, Any]]


class Unusable(ValueError):
    """A row that is left out; the message is the reason it is counted under."""


# ---------------------------------------------------------------------------------------------------------- reading


def is_local(place: str | Path) -> bool:
    """Whether a place names a file or folder and no hub data set."""
    path = Path(place).expanduser()
    return path.exists() or path.suffix in TABLES or not HUB_NAME.fullmatch(str(place))


def local_files(place: str | Path) -> list[Path]:
    """The files of a local place, for the identity of what reads them; none for a hub data set."""
    if not is_local(place):
        return []
    files = table_files(place)
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; give a {', '.join(TABLES)} file, a folder of them, or the "
                            "name of a hub data set (owner/name)")
    return files


def _split_of_name(stem: str) -> Split | None:
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word in SPLITS]
    return SPLITS[words[-1]] if words else None


def read_tables(place: str | Path, *, config: str | None = None) -> list[Table]:
    """All rows of a place. With several tables each has the split of its name; a single one is taken whole.

    `config` is the hub data set's configuration, where it has several. A hub name may end in `@revision`.
    """
    if is_local(place):
        files = local_files(place)
        found = [Table(str(path), _split_of_name(path.stem), read_table(path)) for path in files]
    else:
        found = _hub(str(place), config)
    return found if len(found) > 1 else [dataclasses.replace(table, split=None) for table in found]


def _hub(name: str, config: str | None) -> list[Table]:
    import datasets

    repository, _, revision = name.partition("@")
    try:
        loaded = datasets.load_dataset(repository, config, revision=revision or None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: no such local file, and the hub data set cannot be loaded: {reason}; check the name "
                        "and the network, or download a file and give its path") from error
    return [Table(f"{name}[{split}]", _split_of_name(split), rows.to_list()) for split, rows in loaded.items()]


# ------------------------------------------------------------------------------------------------------------ forms


def _messages(value: object, *, where: str) -> list[Message]:
    """A column of messages; other fields of a message are refused rather than lost."""
    found: list[Message] = []
    for index, message in enumerate(value if isinstance(value, list | tuple) else [value]):
        fits = isinstance(message, Mapping) and all(isinstance(message.get(name), str) for name in ("role", "content"))
        if not fits:
            raise UserError(f"{where}[{index}] is {shown(message)}; a message is {{'role': ..., 'content': ...}}, both "
                            "text")
        if message.get("tool_calls"):
            raise UserError(f"{where}[{index}] calls tools, which cannot be trained on here; remove such rows")
        found.append({"role": message["role"], "content": message["content"]})
    return found


def as_messages(value: object, role: str, *, where: str) -> list[Message]:
    """A prompt or completion column: a text is one message of `role`. Raises UserError."""
    if isinstance(value, bool | int | float):
        raise UserError(f"{where} is {shown(value)}; it must be text or a list of messages")
    return [{"role": role, "content": value}] if isinstance(value, str) else _messages(value, where=where)


def _answer(value: object, name: str, *, where: str) -> str | list[Any] | tuple[Any, ...]:
    """A completion; or an `answer`, which may be a number too. Raises UserError for what is neither."""
    if isinstance(value, str | list | tuple):
        return value
    if name == "completion" or isinstance(value, Mapping):
        raise UserError(f"{where}: field {name!r} is {shown(value)}; it must be text or a list of messages")
    return str(value)


def conversation(row: Mapping[str, Any], *, where: str) -> list[Message]:
    """The conversation of a row of any form that has one. Raises UserError that names the columns it lacks."""
    if row.get("messages") is not None:
        return _messages(row["messages"], where=f"{where}: messages")
    prompt = row["prompt"] if row.get("prompt") is not None else row.get("question")
    if prompt is not None:
        messages = as_messages(prompt, "user", where=f"{where}: prompt")
        name = "completion" if row.get("completion") is not None else "answer"
        if (completion := row.get(name)) is not None:
            messages += as_messages(_answer(completion, name, where=where), "assistant", where=f"{where}: {name}")
        return messages
    raise UserError(f"{where}: has the columns {sorted(row)}; give `prompt` and `completion`, `messages`, or `prompt` "
                    "and `answer`")


def flat_prompt(messages: Sequence[Message]) -> str:
    """A system message and one user turn as one text. Raises Unusable for more."""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise Unusable("more than one turn")
    return "\n\n".join(message["content"].strip() for message in messages)


def solution_parts(text: str) -> tuple[tuple[str, ...], str]:
    """(steps, answer) of a worked solution whose last line has an answer marker. Raises Unusable."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    marked = [(index, match) for index, line in enumerate(lines) if (match := MARKER.search(line))]
    if not marked:
        raise Unusable("no answer after an answer marker")
    index, match = marked[-1]
    answer = lines[index][match.end():].strip().removesuffix(".").strip()
    before = lines[index][:match.start()].strip()
    return (*lines[:index], *([before] if before else [])), answer


def to_question(row: Mapping[str, Any], *, where: str) -> Question:
    """A row as a question. Raises Unusable with the reason, or UserError for a row of no known form."""
    messages = conversation(row, where=where)
    if messages and messages[-1]["role"] == "assistant":
        *asked, reply = messages
        text = reply["content"]
    else:
        asked, text = messages, ""
    prompt = flat_prompt(asked)
    if not prompt:
        raise Unusable("empty prompt")
    given = row.get("answer")
    steps: tuple[str, ...] = ()
    if given is not None and row.get("completion") is None and "messages" not in row and "####" not in str(given):
        answer = str(given).strip()
    elif text:
        steps, answer = solution_parts(text)
        answer = str(given).strip() if given is not None and "####" not in str(given) else answer
    else:
        raise Unusable("no answer")
    if not is_quantity(answer):
        raise Unusable("the answer is no number")
    key = content_id("file", normal_text(prompt))
    return Question(id=content_id("file question", prompt), source="file", kind=str(row.get("kind") or "question"),
                    language=row["language"] if row.get("language") in ("en", "zh") else language_of(prompt),
                    prompt=prompt, steps=steps, answer=answer, operand_key=str(row.get("operand_key") or key))


def to_document(row: Mapping[str, Any], *, where: str) -> Document:
    """A row's `text`, or its conversation as running text."""
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise UserError(f"{where}: field 'text' is {shown(text)}; it must be text")
    if text is None:
        text = "\n".join(message["content"] for message in conversation(row, where=where))
    if not text.strip():
        raise Unusable("empty text")
    return Document(id=content_id("file document", text), source="file", segments=((text, True),))


# ------------------------------------------------------------------------------------------------------------ loaders


def read_conversations(place: str | Path) -> tuple[list[list[Message]], LoadReport]:
    """Conversations to train on, each ending with the assistant's turn. Raises UserError where there is none."""
    kept: list[list[Message]] = []
    dropped: collections.Counter[str] = collections.Counter()
    for table in read_tables(place):
        if table.split in ("dev", "test"):
            dropped[f"of the {table.split} split"] += len(table.rows)
            continue
        for number, row in enumerate(table.rows, start=1):
            messages = conversation(row, where=f"{table.name}: row {number}")
            if len(messages) < 2 or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
                dropped["no completion"] += 1
            else:
                kept.append(messages)
    return kept, require_rows(kept, dropped, where=str(place))


def read_documents(place: str | Path) -> list[Document]:
    """Documents to pre-train on; empty ones are left out, repeated ones kept once. UserError where there is none."""
    kept: dict[str, Document] = {}
    dropped: collections.Counter[str] = collections.Counter()
    for table in read_tables(place):
        for number, row in enumerate(table.rows, start=1):
            try:
                document = to_document(row, where=f"{table.name}: row {number}")
            except Unusable as reason:
                dropped[str(reason)] += 1
                continue
            kept.setdefault(document.id, document)
    require_rows(list(kept), dropped, where=str(place))
    return list(kept.values())


def load(place: str | Path, *, seed: int = 0, languages: Sequence[str] = ("en", "zh")) -> Loaded:
    """The questions and texts of a place, split by operand key; published splits (names of files, hub splits, a `split`
    column) stay. Rows with `text` alone are documents; the others' solutions are documents too."""
    questions: list[tuple[Question, Split | None]] = []
    documents: list[tuple[Document, Split | None]] = []
    dropped: collections.Counter[str] = collections.Counter()
    seen: set[str] = set()
    for table in read_tables(place):
        for number, row in enumerate(table.rows, start=1):
            where = f"{table.name}: row {number}"
            split = SPLITS.get(str(row.get("split")), table.split)
            try:
                if row.get("text") is not None and not {"prompt", "messages", "question"} & set(row):
                    documents.append((to_document(row, where=where), split))
                    continue
                question = to_question(row, where=where)
                if question.language not in languages:
                    raise Unusable(f"language {question.language} not asked for")
                if question.id in seen:
                    raise Unusable("the same question twice")
            except Unusable as reason:
                dropped[str(reason)] += 1
                continue
            seen.add(question.id)
            questions.append((question, split))
    kept = [question for question, _ in questions]
    report = require_rows(kept or [document for document, _ in documents], dropped, where=str(place))
    splits = resplit([question.operand_key for question in kept], [split for _, split in questions], seed=seed)
    texts = by_split([document for document, _ in documents],
                     resplit([d.id for d, _ in documents], [split for _, split in documents], seed=seed))
    found = by_split(kept, splits)
    for name, rows in found.items():
        texts[name] += [solution_document(question) for question in rows if question.steps]
    return Loaded(found, texts, dataclasses.replace(report, kept=len(kept) + len(documents)))


def solution_document(question: Question) -> Document:
    """A question and its solution as running text."""
    return Document(id=content_id("file document", question.id), source="file",
                    segments=(("\n".join([question.prompt, *question.steps]), True),))
