"""A reward model's scores of a `sample` artifact, and the desk's tasks on the pairs it is least sure of."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from data.annotate.cli import main as annotate
from data.rows import read_rows, write_rows
from data.schema import Completion, Question
from data.tokenizer import build_tokenizer
from reward.model import ModelReward
from reward.score import main
from tests.data.annotate.desk_opened import look
from tests.reward.test_model import make


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorer")
    tokenizer = build_tokenizer(["revenue was 46 million", "net margin is 12%"] * 20, vocab_size=300)
    make("likelihood", vocabulary=len(tokenizer)).save(folder, tokenizer)
    return folder


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Three questions with four completions each."""
    asked = [Question(id=f"q{number}", source="finance", kind="net_margin", language="en", prompt=f"Question {number}?",
                      steps=("6 / 40 = 15%",), answer="15%", operand_key=f"q{number}") for number in range(3)]
    write_rows(tmp_path / "sample" / "questions.jsonl", asked)
    write_rows(tmp_path / "sample" / "completions.jsonl", [
        Completion(question_id=question.id, sample=number, text=f"net margin is {number ** 3}%", finish_reason="stop")
        for question in asked for number in range(4)])
    return tmp_path / "sample"


def test_people_are_asked_about_the_pairs_the_model_is_least_sure_of(model: Path, sample: Path, tmp_path: Path) -> None:
    file, database = tmp_path / "scores.jsonl", tmp_path / "desk.db"
    assert main([str(model), str(sample), str(file)]) == 0
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    questions = read_rows(sample / "questions.jsonl", Question)
    completions = read_rows(sample / "completions.jsonl", Completion)
    expected = ModelReward.load(model)([questions[number // 4] for number in range(12)], completions).total
    assert [row["score"] for row in rows] == pytest.approx(expected) and len(set(expected)) == 12

    assert annotate(["import", str(sample), "--scores", str(file), "--pairing", "uncertain",
                     "--db", str(database)]) == 0
    scores = {(row["question_id"], row["sample"]): row["score"] for row in rows}
    closest = {question: min(itertools.combinations(range(4), 2),
                             key=lambda pair: abs(scores[question, pair[0]] - scores[question, pair[1]]))
               for question in ("q0", "q1", "q2")}
    found = look(database)
    candidates, prompts = found.by_id("candidates"), found.by_id("prompts")
    assert {prompts[task.prompt_id].question_id: tuple(sorted(
        int(candidates[name].sampling["sample"]) for name in task.candidate_ids)) for task in found.tasks} == closest


def test_what_is_no_sample_is_named_and_nothing_is_written(model: Path, sample: Path, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.jsonl"
    assert main([str(model), str(tmp_path), str(out)]) == 2
    assert "questions.jsonl: is not there" in capsys.readouterr().err
    write_rows(sample / "questions.jsonl", [])
    assert main([str(model), str(sample), str(out)]) == 2
    assert "'question_id' is 'q0'" in capsys.readouterr().err
    write_rows(sample / "completions.jsonl", [])
    assert main([str(model), str(sample), str(out)]) == 2
    assert "is empty" in capsys.readouterr().err and not out.exists()
