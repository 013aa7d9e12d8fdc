"""Data of one's own in TRL's forms: questions, conversations, documents, hub names, errors with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from data.files import load, local_files, read_conversations, read_documents, read_tables
from data.loading import is_quantity, joined, language_of, split_groups
from data.schema import UserError


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


USER = [{"role": "user", "content": "1 + 2?"}]
REPLY = [{"role": "assistant", "content": "Sum: 1 + 2 = 3\nAnswer: 3"}]


@pytest.mark.parametrize("row", [
    {"prompt": "1 + 2?", "completion": "Sum: 1 + 2 = 3\nAnswer: 3"},
    {"prompt": USER, "completion": REPLY},
    {"messages": USER + REPLY},
    {"prompt": "1 + 2?", "completion": "Sum: 1 + 2 = 3\n#### 3"},
    {"question": "1 + 2?", "answer": "Sum: 1 + 2 = 3\nThe answer is 3."},
    {"prompt": "1 + 2?", "completion": "Sum: 1 + 2 = 3\nAnswer: three", "answer": "3"},
], ids=["texts", "messages in columns", "messages", "hashes", "answer is the solution", "answer column"])
def test_forms_of_a_question(row: dict[str, Any], tmp_path: Path) -> None:
    if row.get("question"):
        row = {"prompt": row["question"], "completion": row["answer"]}
    loaded = load(write(tmp_path / "f.jsonl", row))
    (question,) = loaded.questions["train"]
    assert (question.prompt, question.steps, question.answer) == ("1 + 2?", ("Sum: 1 + 2 = 3",), "3")
    assert (question.source, question.language, question.program) == ("file", "en", ())
    assert loaded.documents["train"][0].text == "1 + 2?\nSum: 1 + 2 = 3"


def test_a_prompt_with_an_answer_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"prompt": "利润是多少？", "answer": 3.5, "kind": "eps"})
    (question,) = load(path).questions["train"]
    assert (question.answer, question.steps, question.language, question.kind) == ("3.5", (), "zh", "eps")


def test_a_system_message_stands_before_the_question(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, *USER, *REPLY]
    (question,) = load(write(tmp_path / "f.jsonl", {"messages": messages})).questions["train"]
    assert question.prompt == "be brief\n\n1 + 2?"


GOOD = {"prompt": "1 + 2?", "answer": "3"}


@pytest.mark.parametrize(("row", "reason"), [
    ({"prompt": "a?", "answer": "yes"}, "the answer is no number"),
    ({"prompt": "a?", "completion": "yes"}, "no answer after an answer marker"),
    ({"prompt": "a?"}, "no answer"), ({"prompt": "  ", "answer": "1"}, "empty prompt"),
    (GOOD, "the same question twice"),
    ({"messages": USER + REPLY + USER + REPLY}, "more than one turn"),
    ({"prompt": "多少？", "answer": "1"}, "language zh not asked for"),
    ({"text": " "}, "empty text"),
])
def test_every_drop_is_counted_with_its_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    report = load(write(tmp_path / "f.jsonl", GOOD, row), languages=["en"]).report
    assert (report.kept, report.dropped) == (1, {reason: 1})


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a?", "completion": 7}, r"f\.jsonl: row 2: field 'completion' is 7; it must be text"),
    ({"prompt": "a?", "answer": {"value": 7}}, r"f\.jsonl: row 2: field 'answer' is {'value': 7}; it must be text"),
    ({"input": "a"}, r"f\.jsonl: row 2: has the columns \['input'\]; give `prompt` and `completion`"),
    ({"messages": [{"from": "human"}]}, r"row 2: messages\[0\] is .*a message is"),
    ({"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "calls tools"),
    ({"text": 7}, "field 'text' is 7"),
])
def test_rows_of_no_known_form_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "f.jsonl", GOOD, row))


def test_files_named_by_split_and_a_split_column_stay(tmp_path: Path) -> None:
    for name, count in (("train", 8), ("validation", 2), ("test", 3)):
        write(tmp_path / f"{name}.jsonl", *({"prompt": f"{name} {n}?", "answer": str(n)} for n in range(count)))
    found = load(tmp_path).questions
    assert {split: len(rows) for split, rows in found.items()} == {"train": 8, "dev": 2, "test": 3}
    assert all(row.prompt.startswith("validation") for row in found["dev"])
    one = write(tmp_path / "all.jsonl", *({"prompt": f"{n}?", "answer": "1", "split": "test" if n < 4 else "train"}
                                          for n in range(24)))
    assert {split: len(rows) for split, rows in load(one).questions.items()} == {"train": 18, "dev": 2, "test": 4}


def test_conversations_keep_all_turns(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"messages": USER + REPLY + USER + REPLY}, {"prompt": "a", "completion": "b"},
                 {"prompt": "a", "completion": " "}, {"messages": USER})
    kept, report = read_conversations(path)
    assert kept == [USER + REPLY + USER + REPLY,
                    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    assert report.dropped == {"no completion": 2}


def test_documents_are_texts_or_conversations_once_each(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"text": "one"}, {"text": "one"}, {"text": ""},
                 {"prompt": "a", "completion": "b"})
    assert [document.segments for document in read_documents(path)] == [(("one", True),), (("a\nb", True),)]
    with pytest.raises(UserError, match="no row can be used"):
        read_documents(write(tmp_path / "g.jsonl", {"text": " "}))


def test_a_missing_file_and_an_unknown_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        local_files(tmp_path / "none.jsonl")

    def nothing(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("Couldn't reach the hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", nothing)
    with pytest.raises(UserError, match=r"owner/name: no such local file, and the hub data set cannot be .*: Couldn't"):
        read_tables("owner/name")


def test_a_hub_data_set_by_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def fake(name: str, config: str | None, *, revision: str | None) -> dict[str, datasets.Dataset]:
        asked.append((name, config, revision))
        return {"train": datasets.Dataset.from_list([GOOD]), "validation": datasets.Dataset.from_list([GOOD])}

    monkeypatch.setattr(datasets, "load_dataset", fake)
    tables = read_tables("owner/name@v1", config="main")
    assert asked == [("owner/name", "main", "v1")]
    assert [(table.name, table.split, table.rows) for table in tables] == [
        ("owner/name@v1[train]", "train", [GOOD]), ("owner/name@v1[validation]", "dev", [GOOD])]
    assert local_files("owner/name") == []


@pytest.mark.parametrize(("text", "fits"), [
    ("72", True), ("$1,200 million", True), ("-4.5%", True), ("6 亿元", True), ("1.5 dollars", True), ("$-3", True),
    ("", False), ("yes", False), ("3 or 4", False), ("1,23", False), ("15 %%", False), ("1/2", False),
])
def test_quantities(text: str, fits: bool) -> None:
    assert is_quantity(text) is fits


def test_languages() -> None:
    assert language_of("What is 营收?") == "zh" and language_of("Net profit (利润) of the whole group in 2019") == "en"


def test_rows_that_share_a_key_through_others_share_the_group() -> None:
    groups = joined([("a", "x"), ("b", "x"), ("b", "y"), ("c", "z")])
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_splits_are_whole_groups_of_the_right_size_and_follow_the_seed() -> None:
    groups = [f"g{n // 2}" for n in range(1000)]
    splits = split_groups(groups, seed=0)
    assert abs(splits.count("test") - 200) <= 2 and abs(splits.count("dev") - 100) <= 2
    assert len({*zip(groups, splits, strict=True)}) == 500
    assert split_groups(groups, seed=0) == splits != split_groups(groups, seed=1)
    assert set(split_groups(["a", "b", "c"], seed=0)) == {"train", "dev", "test"}
    assert split_groups(["a"], seed=0) == ["train"]
