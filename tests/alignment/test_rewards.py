"""Rewards in a PPO stage: tried before a rollout, failing on the way without loss, process rewards and exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment import stage as stages
from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.metrics import documented
from alignment.models import load_tokenizer, new_model
from alignment.ppo import PpoTrainer
from alignment.ppo_run import PpoRun
from alignment.rewards import make_reward
from alignment.stages import ppo
from data.chat import completion_ids, render_prompt
from data.finance.generator import questions, solution_text
from data.schema import Completion, UserError
from data.tokenizer import build_tokenizer
from reward import RewardError, Scores
from reward.model import RewardModel
from tests.alignment.stage_made import make_stage, result, said
from tests.alignment.test_rollout_stages import finished, policy, settings, untimed

__all__ = ["policy"]  # the fixture

FIRST = "from reward import Scores, Span\n\ndef f(questions, completions):\n"
STEPS = FIRST + ("    return Scores([len(row.token_ids) / 8 for row in completions], spans=[\n"
                 "        [Span(0, 1, 0.5), Span(len(row.text) // 2, len(row.text), -0.25)] if row.text[1:] else []\n"
                 "        for row in completions])\n")
FAILS = "CALLS = []\n" + STEPS.replace("completions):\n", "completions):\n    CALLS.append(1)\n"
                                                           "    if len(CALLS) == 4:\n        raise KeyError('odd')\n")


def own(folder: Path, text: str, **changes: Any) -> dict[str, Any]:
    """Settings of a stage whose reward is this file's `f`."""
    path = folder / "r.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return settings(**{"rewards": {"mine": f"{path}:f"}, "reward_weights": {"rule": 1.0, "mine": 0.5},
                       "truncation_reward": 0.0, "critic_warmup": 0, **changes})


@pytest.mark.parametrize(("body", "message"), [
    ("    return [row.text[0] for row in completions]\n", "IndexError: string index out of range"),  # of an empty text
    ("    return [1.0]\n", "returned 1 scores for 4 completions"),
    ("    return [row.txt for row in completions]\n", "AttributeError"),
    ("    return [float('nan')] * len(completions)\n", "sample 0"),
    ("    return 'good'\n", "returned 'good'"),
])
def test_a_reward_that_cannot_score_is_found_before_anything_is_generated(
        policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str) -> None:
    monkeypatch.setattr(ppo, "make_engine", lambda *arguments, **keywords: pytest.fail("too late"))
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy}, **own(tmp_path, FIRST + body))
    with pytest.raises(UserError) as caught:
        ppo.run(stage)
    assert str(caught.value).startswith(f"ppo.rewards.mine={tmp_path}/r.py:f") and message in str(caught.value)


def test_a_rehearsal_is_of_whole_cut_off_and_empty_answers(policy: Path, tmp_path: Path) -> None:
    noting = STEPS.replace("completions):\n", "completions):\n    SEEN.extend(completions)\n")
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy}, **own(tmp_path, "SEEN = []\n" + noting))
    tokenizer, asked = load_tokenizer(policy), questions("train", count=2, seed=0)
    reward = make_reward(stage, tokenizer, {}, rehearsal=asked)
    seen: list[Completion] = reward._rewards["mine"]._function.__globals__["SEEN"]  # type: ignore[attr-defined]
    assert [row.finish_reason for row in seen] == ["length", "stop", "stop", "stop"]
    assert [row.text for row in seen] == [solution_text(asked[0]), "", solution_text(asked[1]), ""]
    assert [row.question_id for row in seen] == [asked[0].id] * 2 + [asked[1].id] * 2
    for row in seen:
        ids = row.token_ids[:-1] if row.finish_reason == "stop" else row.token_ids
        assert tokenizer.decode(list(ids)) == row.text


@pytest.mark.parametrize(("done", "save_every"), [(0, 100), (2, 100), (2, 1)])
def test_a_reward_that_fails_on_the_way_loses_nothing(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      done: int, save_every: int) -> None:
    saved: list[int] = []
    save = PpoRun._save
    monkeypatch.setattr(PpoRun, "_save", lambda run: saved.append(run.state.iteration) or save(run))
    config = {"save_every": save_every, "num_iterations": 4, "num_samples": 2, "reward_normalisation": "running"}
    fails = FAILS.replace("== 4", f"== {done + 2}")  # the first call is the rehearsal's
    stage = make_stage(tmp_path / "a", "ppo", inputs={"policy": policy}, **own(tmp_path / "fails", fails, **config))
    with pytest.raises(RewardError) as caught:
        ppo.run(stage)
    assert f"raised KeyError: 'odd' ({tmp_path}/fails/r.py:7), scoring 12 completions; correct it" in str(caught.value)
    assert str(caught.value).endswith(f"What was done up to iteration {done} is kept: the same command goes on from "
                                      "there, where code was corrected with accept_code_change=ppo")
    assert complete_checkpoints(stage.scratch / CHECKPOINTS)[-1].name == f"checkpoint-{done}"
    assert saved == ([1, 2] if save_every == 1 else [done])  # and none written again
    stage.events.unlink()
    fixed = own(tmp_path / "fixed", STEPS, **config)
    ppo.run(make_stage(tmp_path / "a", "ppo", inputs={"policy": policy}, **fixed))
    whole = make_stage(tmp_path / "b", "ppo", inputs={"policy": policy}, **fixed)
    ppo.run(whole)
    for name in ("model.safetensors", "critic/critic.safetensors"):
        assert (stage.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert untimed(stage) == untimed(whole) and result(stage) == result(whole)


def test_the_stages_log_has_the_rewards_own_traceback(policy: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy},
                       **own(tmp_path, FIRST + "    return [1 / len(row.text) for row in completions]\n"))
    job = {"name": stage.name, "kind": stage.kind, "config": vars(stage.config), "data": stage.data, "seed": stage.seed,
           "root_seed": stage.root_seed, "rollout": vars(stage.rollout),
           "inputs": {role: str(folder) for role, folder in stage.inputs.items()},
           **{name: str(getattr(stage, name)) for name in ("output", "scratch", "events")}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert stages.main([str(tmp_path / "job.json")]) == 2
    log = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in log and f'File "{tmp_path}/r.py", line 4, in ' in log
    [error] = said(stage, "error")
    assert error["user"] and f"raised ZeroDivisionError: division by zero ({tmp_path}/r.py:4), with question" in error[
        "text"]


def test_process_rewards_are_logged_apart_and_a_killed_stage_resumes_exactly(
        policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = own(tmp_path, STEPS, num_samples=2, save_every=1, group_baseline=True, max_new_tokens=12,
                 reward_weights={"rule": 1.0, "mine": 0.5, "rule_steps": 0.25})
    whole = finished(make_stage(tmp_path / "whole", "ppo", inputs={"policy": policy}, **config), monkeypatch)
    killed = finished(make_stage(tmp_path / "killed", "ppo", inputs={"policy": policy}, **config), monkeypatch,
                      killed=[("iterate", 3)])
    assert untimed(killed) == untimed(whole)
    assert (killed.output / "model.safetensors").read_bytes() == (whole.output / "model.safetensors").read_bytes()
    lines = [line["metrics"] for line in said(whole, "metrics")][:3]
    for line in lines:
        assert all(documented(name, "ppo") for name in line)
        assert line["reward_rule_steps"] == 0 and line["reward_rule"] == 0
        assert line["process_reward"] == pytest.approx(0.5 * 0.25)  # the weighted spans of texts longer than a letter
        assert line["truncated"] == 1 and line["reward"] == line["process_reward"]  # truncation_reward is 0


def test_a_groups_steps_train_a_policy_without_a_critic(policy: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy},
                       **own(tmp_path, STEPS, num_samples=3, advantages="group"))
    ppo.run(stage)
    assert all(line["metrics"]["process_reward"] > 0 for line in said(stage, "metrics")[:3])
    assert not (stage.output / "critic").exists()


def test_steps_of_the_rule_are_scored_only_where_they_are_named(policy: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(policy)
    parts = []
    for number, weights in enumerate(({"rule": 1.0}, {"rule": 1.0, "rule_steps": 0.0})):
        stage = make_stage(tmp_path / str(number), "ppo", inputs={"policy": policy}, **settings(reward_weights=weights))
        question = questions("train", count=1, seed=0)[0]
        row = Completion(question_id=question.id, sample=0, text="\n".join(question.steps), finish_reason="stop")
        scores = make_reward(stage, tokenizer, {})([question], [row])
        assert scores.total == [0.0] and scores.spans == []
        parts.append(scores.parts)
    assert parts == [{"rule": [0.0]}, {"rule": [0.0], "rule_steps": [pytest.approx(1.0)]}]


def test_a_reward_model_reads_the_text_anew_where_its_tokenizer_is_not_the_policys(
        policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole stage: the reward model's tokenizer has another vocabulary, and so other ids for the same text."""
    tokenizer = build_tokenizer(["profit fell by 9 percent"] * 20, vocab_size=290)
    assert tokenizer.get_vocab() != load_tokenizer(policy).get_vocab()
    trunk = new_model(tokenizer, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32, seed=1)
    model = RewardModel(trunk)
    model.save(tmp_path / "reward_model", tokenizer)
    seen: list[Scores] = []
    score = PpoTrainer._score

    def kept(self: PpoTrainer, *arguments: Any) -> Scores:
        seen.append(score(self, *arguments))
        asked, rows = arguments[0], self._completions(*arguments)
        expected = model.score([render_prompt(tokenizer, question) for question in asked],
                               [completion_ids(tokenizer, row.text, row.finish_reason == "stop") for row in rows])
        assert seen[-1].parts["reward_model"] == pytest.approx(expected.tolist(), abs=1e-3)
        return seen[-1]

    monkeypatch.setattr(PpoTrainer, "_score", kept)
    ppo.run(make_stage(tmp_path, "ppo", inputs={"policy": policy, "reward_model": tmp_path / "reward_model"},
                       **settings(reward_weights={"rule": 0.0, "reward_model": 1.0}, num_iterations=2)))
    assert len(seen) == 2
