"""Sampling from a model behind a URL: what is asked, what becomes of it, and that no completion is paid for twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignment.config import load
from alignment.metrics import documented
from alignment.preference_kinds import Sample
from alignment.stage import Stage
from alignment.stages import sample
from data.finance.generator import solution_text
from data.rows import read_rows
from data.schema import Completion, Question, UserError
from reward.replies import FILE, KeptReply
from tests.alignment.stage_made import make_stage, notes, result
from tests.reward.loopback import Answer, completion, serve


def stage_of(folder: Path, url: str | None, **config: Any) -> Stage:
    return make_stage(folder, "sample", inputs={}, **({
        "model": "m-1", "url": url, "num_questions": 3, "num_samples": 2, "max_new_tokens": 40, "temperature": 0.7,
        "top_p": 0.9, "cache": str(folder.parent / "cache"), "tries": 1} | config))


def echo(number: int, body: dict[str, Any]) -> Answer:
    """Says its seed; every other answer is cut off."""
    said = completion(f"seed {body['seed']}")
    return Answer(said.replace('"stop"', '"length"') if body["seed"] % 2 else said)


def test_each_completion_is_a_request_with_a_seed_of_its_own(tmp_path: Path) -> None:
    with serve(echo) as server:
        stage = stage_of(tmp_path / "one", server.url)
        sample.run(stage)
    asked = read_rows(stage.output / "questions.jsonl", Question)
    rows = read_rows(stage.output / "completions.jsonl", Completion)
    assert [(row.question_id, row.sample) for row in rows] == [(one.id, n) for one in asked for n in range(2)]
    assert [row.text for row in rows] == [f"seed {stage.derive('sample', row.question_id, row.sample)}" for row in rows]
    assert {row.finish_reason for row in rows} <= {"stop", "length"}
    assert all((row.finish_reason == "length") == int(row.text.split()[1]) % 2 for row in rows)
    bodies = {body["seed"]: body for body in server.bodies}
    assert len(bodies) == 6
    for body in bodies.values():
        assert body["messages"] in [[{"role": "user", "content": one.prompt}] for one in asked]
        assert (body["temperature"], body["top_p"], body["max_tokens"], body["model"]) == (0.7, 0.9, 40, "m-1")
        assert "response_format" not in body
    found = result(stage)
    assert (found["questions"], found["completions"], found["replies"], found["length"]) == (3, 6, 6, 3.0)
    for name in found:
        documented(name, "sample")


def test_it_is_not_paid_for_twice_and_can_be_replayed(tmp_path: Path) -> None:
    with serve(echo) as server:
        first = stage_of(tmp_path / "one", server.url)
        sample.run(first)
        again = stage_of(tmp_path / "two", server.url)
        sample.run(again)
        assert len(server.bodies) == 6
    replayed = stage_of(tmp_path / "three", None, replay=str(first.output), cache=None)
    sample.run(replayed)
    for name in ("questions.jsonl", "completions.jsonl", FILE):
        assert (first.output / name).read_bytes() == (again.output / name).read_bytes()
        assert (first.output / name).read_bytes() == (replayed.output / name).read_bytes()
    assert len(read_rows(first.output / FILE, KeptReply)) == 6
    assert "0 of 6 replies were asked for now" in notes(replayed)


def test_what_comes_back_is_judged_like_any_other(tmp_path: Path) -> None:
    questions: dict[str, Question] = {}

    def solve(number: int, body: dict[str, Any]) -> Answer:
        return Answer(completion(solution_text(questions[body["messages"][0]["content"]])))

    stage = stage_of(tmp_path / "one", "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="failed 1 times"):
        sample.run(stage)
    with serve(echo) as server:
        sample.run(stage_of(tmp_path / "two", server.url))
    questions |= {one.prompt: one for one in read_rows(tmp_path / "two" / "output" / "questions.jsonl", Question)}
    with serve(solve) as server:
        solved = stage_of(tmp_path / "three", server.url, cache=str(tmp_path / "other"))
        sample.run(solved)
    assert all(row.text == solution_text({one.id: one for one in questions.values()}[row.question_id])
               for row in read_rows(solved.output / "completions.jsonl", Completion))


def test_whose_completions_they_are_is_asked_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"sample\.model=m: needs `url`"):
        load(["recipe=ppo_fin", "sample.model=m"])
    assert "whose completions" in Sample().conflict()
    assert not Sample(inputs={"policy": "sft"}).conflict() and not Sample(model="m", url="https://host/v1").conflict()
