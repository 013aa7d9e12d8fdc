"""A language model behind a URL as a reward: what it pays, what is no verdict, and a server that is not there."""

from __future__ import annotations

import dataclasses
import functools
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from alignment import remote
from alignment.judge_reward import JudgeReward, filled
from alignment.stage import Stage
from alignment.stages import ppo
from data.finance.generator import questions, solution_text
from data.schema import Completion, Question, UserError
from reward import RewardError
from reward.endpoint import Endpoint
from tests.alignment.stage_made import make_stage, said
from tests.alignment.test_rollout_stages import policy, settings
from tests.reward.loopback import Answer, completion, next_tokens, serve
from tests.reward.scripted import says

__all__ = ["policy"]  # the fixture

ASKED = questions("train", count=2, seed=0)
RIGHT, WRONG = [solution_text(question) for question in ASKED], "2 apples = 3 pears"


def stage_of(folder: Path, url: str, **config: Any) -> Stage:
    return make_stage(folder, "ppo", inputs={"policy": folder}, judge_model="m-1", judge_url=url, **config)


def answers(*texts: str) -> tuple[list[Question], list[Completion]]:
    """Completions of the first question, and one of the second."""
    rows = [Completion(question_id=ASKED[number == len(texts) - 1].id, sample=number, text=text, finish_reason="stop")
            for number, text in enumerate(texts)]
    return [next(question for question in ASKED if question.id == row.question_id) for row in rows], rows


def marks(number: int, body: dict[str, Any]) -> Answer:
    """Right where the reference is repeated."""
    right = WRONG not in body["messages"][-1]["content"]
    if body.get("logprobs"):
        return Answer(next_tokens({"Yes": 0.75, "No": 0.25} if right else {"No": 0.9, "Yes": 0.1}))
    wanted = body["response_format"]["json_schema"]["schema"]["properties"]
    if "correctness" in wanted:
        return Answer(completion(says(correctness="correct" if right else "wrong")))
    return Answer(completion(says(**{name: 4 if right else 1 for name in wanted if name != "justification"})))


@pytest.mark.parametrize(("task", "expected"), [
    ("outcome", [1.0, 0.0, 1.0]), ("outcome_token", [0.75, 0.1, 0.75]), ("rubric", [0.75, 0.0, 0.75])])
def test_a_verdict_is_paid(tmp_path: Path, task: str, expected: list[float]) -> None:
    with serve(marks) as server:
        reward = JudgeReward(stage_of(tmp_path, server.url, judge_task=task))
        scores = reward(*answers(RIGHT[0], WRONG, RIGHT[1]))
    assert scores.total == pytest.approx(expected)
    assert len(server.bodies) == 3


def test_what_is_no_verdict_scores_as_its_questions_others(tmp_path: Path) -> None:
    def some(number: int, body: dict[str, Any]) -> Answer:
        return Answer(completion("hm")) if "mumbled" in json.dumps(body["messages"]) else marks(number, body)

    texts = [RIGHT[0]] * 25 + [WRONG, "mumbled", RIGHT[1]]
    with serve(some) as server:
        reward = JudgeReward(stage_of(tmp_path, server.url))
        scores = reward(*answers(*texts))
        assert scores.total == pytest.approx([1.0] * 25 + [0.0, 25 / 26, 1.0])
        with pytest.raises(RewardError, match=r"the judge \(m-1 at judge_url\): .* replies of m-1 are no verdict"):
            reward(*answers("mumbled", "mumbled 2", RIGHT[1]))


def test_the_mean_of_a_questions_others_or_of_all() -> None:
    assert filled(["a", "a", "b"], [1.0, None, None]) == [1.0, 1.0, 1.0]
    assert filled(["a", "b", "a", "b"], [1.0, 0.5, None, None]) == [1.0, 0.5, 1.0, 0.5]
    assert filled([], []) == []
    with pytest.raises(RewardError, match="no verdict that can be read"):
        filled(["a"], [None])


def test_a_server_that_is_not_there_is_found_before_anything_is_generated(
        policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo, "make_engine", lambda *arguments, **keywords: pytest.fail("too late"))
    monkeypatch.setattr(remote, "Endpoint", functools.partial(Endpoint, sleep=lambda seconds: None))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy}, **settings(
        judge_model="m-1", judge_url=url, reward_weights={"rule": 1.0, "judge": 0.5}))
    with pytest.raises(UserError) as caught:
        ppo.run(stage)
    assert str(caught.value).startswith(f"the judge (m-1 at judge_url): {url}") and "Run the same" in str(caught.value)


def test_ppo_is_paid_by_it_and_a_resumed_run_asks_nothing_twice(policy: Path, tmp_path: Path) -> None:
    asked: list[int] = []
    with serve(marks) as server:
        given = settings(judge_model="m-1", judge_url=server.url, reward_weights={"rule": 1.0, "judge": 0.5},
                         num_iterations=2)
        for name in ("a", "b"):
            stage = make_stage(tmp_path / name, "ppo", inputs={"policy": policy}, **given)
            ppo.run(dataclasses.replace(stage, kept=tmp_path / "kept"))
            asked.append(len(server.bodies))
    assert asked[0] == asked[1] > 0
    assert "reward_judge" in said(stage, "metrics")[0]["metrics"]
    first, again = ((tmp_path / name / "output" / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == again
