"""The stages `sample` and `ppo` as the controller runs them, on the embedded data and a random model."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.metrics import documented
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.ppo import PpoTrainer
from alignment.ppo_state import PpoState
from alignment.rollout.rows import prompt_questions
from alignment.stage import Stage
from alignment.stages import ppo, sample
from data.chat import render_prompt
from data.finance.generator import questions, solution_text
from data.rows import read_rows
from data.schema import Completion, Question, UserError
from data.tokenizer import build_tokenizer
from reward.model import RewardModel
from reward.rule import verify
from reward.verifiable import RuleReward
from tests.alignment.stage_made import make_stage, result, said


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    texts = [question.prompt + solution_text(question) for question in questions("train", count=60, seed=0)]
    tokenizer = build_tokenizer(texts, vocab_size=320)
    model = new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, seed=0)
    save_policy(model, tokenizer, folder)
    return folder


def test_sample_writes_completions_grouped_by_question(policy: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "sample", inputs={"policy": policy}, num_questions=6, num_samples=3,
                       max_new_tokens=300)
    sample.run(stage)
    asked = read_rows(stage.output / "questions.jsonl", Question)
    given = read_rows(stage.output / "completions.jsonl", Completion)
    assert [(row.question_id, row.sample) for row in given] == [(q.id, k) for q in asked for k in range(3)]
    tokenizer, end = load_tokenizer(policy), load_tokenizer(policy).eos_token_id
    for row in given:
        assert (row.token_ids[-1] == end) == (row.finish_reason == "stop")
        assert row.text == tokenizer.decode([token for token in row.token_ids if token != end])
    assert len({row.token_ids for row in given}) == len(given)
    found = result(stage)
    assert found["completions"] == 18 and found["questions"] == 6
    assert found["truncated"] == sum(row.finish_reason == "length" for row in given) / 18
    assert found["length"] == sum(len(row.token_ids) for row in given) / 18
    assert all(documented(name, "sample") for name in [*found, *said(stage, "metrics")[0]["metrics"]])
    assert said(stage, "progress")[-1]["done"] == 18


def test_one_purpose_gives_one_set_of_questions_and_a_stage_its_own_samples(policy: Path, tmp_path: Path) -> None:
    drawn = {}
    for name, seed, purpose in (("a", 1, "preferences"), ("b", 2, "preferences"), ("c", 1, "other"),
                                ("d", 1, "preferences")):
        stage = make_stage(tmp_path / name, "sample", inputs={"policy": policy}, num_questions=5, num_samples=1,
                           max_new_tokens=4, purpose=purpose, seed=seed)
        sample.run(stage)
        drawn[name] = [(stage.output / file).read_bytes() for file in ("questions.jsonl", "completions.jsonl")]
    assert drawn["a"][0] == drawn["b"][0] and drawn["a"][1] != drawn["b"][1]
    assert drawn["a"][0] != drawn["c"][0]
    assert drawn["a"] == drawn["d"]


def test_questions_that_do_not_fit_the_model_are_dropped_or_refused(policy: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(policy)
    drawn = questions("dev", count=8, seed=0)
    lengths = sorted(len(render_prompt(tokenizer, question)) for question in drawn)
    config = load_policy(policy).config
    config.max_position_embeddings = lengths[4] + 4
    prompted = prompt_questions(tokenizer, config, drawn, max_new_tokens=4)
    assert prompted.dropped == 8 - len(prompted.questions) > 0
    assert prompted.max_length == lengths[4] + 4 and prompted.questions == [
        question for question in drawn if len(render_prompt(tokenizer, question)) <= lengths[4]]
    stage = make_stage(tmp_path / "none", "sample", inputs={"policy": policy}, num_questions=8, num_samples=1,
                       max_new_tokens=4000)
    with pytest.raises(UserError, match="lower max_new_tokens"):
        sample.run(stage)


def settings(**changes: object) -> dict[str, object]:
    return {"num_iterations": 3, "num_prompts": 6, "question_pool": 9, "max_new_tokens": 8, "minibatch_size": 3,
            "critic_warmup": 1, "eval_every": 1, "dev_examples": 4, **changes}


def test_ppo_leaves_a_policy_a_critic_and_documented_metrics(policy: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy}, **settings(num_samples=2))
    ppo.run(stage)
    trained, before = load_policy(stage.output), load_policy(policy)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True))
    assert load_tokenizer(stage.output).get_vocab() == load_tokenizer(policy).get_vocab()
    critic = load_file(stage.output / "critic" / "critic.safetensors")
    assert critic["head.weight"].abs().sum() > 0
    lines = said(stage, "metrics")
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    for line in lines:
        assert all(documented(name, "ppo") for name in line["metrics"])
    assert lines[0]["metrics"]["kl"] == 0 and lines[1]["metrics"]["ratio_first"] == pytest.approx(1, abs=1e-5)
    assert {"dev_accuracy", "reward", "reward_rule", "kl_sequence", "truncated"} <= set(result(stage))
    assert result(stage)["dev_accuracy"]["n"] == 4


def test_ppo_is_reproducible(policy: Path, tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        stage = make_stage(tmp_path / name, "ppo", inputs={"policy": policy}, **settings())
        ppo.run(stage)
        weights.append((stage.output / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != (policy / "model.safetensors").read_bytes()


class Killed(Exception):
    """What a kill is to a test that must live on."""


def finished(stage: Stage, monkeypatch: pytest.MonkeyPatch, *, killed: Sequence[tuple[str, int]] = ()) -> Stage:
    """The stage run to its end, killed on the way before each named method's given call."""
    for name, call in killed:
        calls = itertools.count(1)
        target = PpoTrainer if name == "iterate" else PpoState
        method = getattr(target, name)

        def dies(self: Any, *arguments: Any, method: Any = method, calls: Any = calls, call: int = call) -> Any:
            if next(calls) == call:
                raise Killed
            return method(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(target, name, dies)
            with pytest.raises(Killed):
                ppo.run(stage)
        stage.events.unlink()  # as whoever starts a stage does
    ppo.run(stage)
    return stage


def test_ppo_killed_at_any_iteration_ends_as_if_it_had_not_been(policy: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    RewardModel(load_policy(policy)).save(tmp_path / "reward_model", load_tokenizer(policy))
    inputs = {"policy": policy, "reward_model": tmp_path / "reward_model"}
    config = settings(num_iterations=4, num_samples=2, schedule="linear", optimizer="muon", imitation_steps=1,
                      save_every=1, max_new_tokens=64, reward_weights={"rule": 1.0, "reward_model": 1.0},
                      truncation_reward=0.0, critic_warmup=0)
    whole = finished(make_stage(tmp_path / "whole", "ppo", inputs=inputs, **config), monkeypatch)
    for kills in [[("iterate", 1)], [("iterate", 3)], [("iterate", 4), ("iterate", 1)], [("save", 2), ("iterate", 2)],
                  [("save", 4)]]:
        stage = make_stage(tmp_path / str(kills), "ppo", inputs=inputs, **config)
        finished(stage, monkeypatch, killed=kills)
        for name in ("model.safetensors", "critic/critic.safetensors"):
            assert (stage.output / name).read_bytes() == (whole.output / name).read_bytes(), (kills, name)
        assert untimed(stage) == untimed(whole), kills
        assert result(stage) == result(whole), kills


def untimed(stage: Stage) -> list[tuple[int, dict[str, float]]]:
    """The metrics of each step, without how long they took."""
    return [(line["step"], {name: value for name, value in line["metrics"].items() if not name.startswith("seconds")})
            for line in said(stage, "metrics")]


def test_ppo_asked_to_end_leaves_a_checkpoint(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy}, **settings(save_every=100))
    iterate = PpoTrainer.iterate

    def asked(self: PpoTrainer, *arguments: Any) -> dict[str, float]:
        if self.state.iteration == 1:
            signal.raise_signal(signal.SIGTERM)
        return iterate(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PpoTrainer, "iterate", asked)
        with pytest.raises(SystemExit) as ended:
            ppo.run(stage)
    assert ended.value.code == 143 and not list(stage.output.iterdir())
    assert [path.name for path in complete_checkpoints(stage.scratch / CHECKPOINTS)] == ["checkpoint-2"]
    stage.events.unlink()
    ppo.run(stage)
    assert [line["step"] for line in said(stage, "metrics")] == [1, 2, 3, 3]


def test_ppo_logs_each_part_of_the_reward_and_may_start_the_critic_from_the_reward_model(policy: Path,
                                                                                       tmp_path: Path) -> None:
    RewardModel(load_policy(policy)).save(tmp_path / "reward_model", load_tokenizer(policy))
    stage = make_stage(tmp_path, "ppo", inputs={"policy": policy, "reward_model": tmp_path / "reward_model"},
                       **settings(reward_weights={"rule": 1.0, "reward_model": 0.5}, critic_from="reward_model"))
    ppo.run(stage)
    first = said(stage, "metrics")[0]["metrics"]
    assert first["reward_rule"] == 0 and first["reward_reward_model"] < 0  # a sum of log-probabilities


def test_ppo_says_what_is_missing(policy: Path, tmp_path: Path) -> None:
    for name, changes, message in (("a", {"critic_from": "reward_model"}, "needs the input reward_model"),
                                   ("b", {"reward_weights": {"process_reward": 1.0}}, "names process_reward"),
                                   ("c", {"num_prompts": 10}, "lower it")):
        with pytest.raises(UserError, match=message):
            ppo.run(make_stage(tmp_path / name, "ppo", inputs={"policy": policy}, **settings(**changes)))


def test_the_rule_rewards_right_answers_that_came_to_an_end() -> None:
    question = questions("train", count=1, seed=0)[0]
    right = solution_text(question)
    rows = [Completion(question_id=question.id, sample=0, text=right, finish_reason="stop"),
            Completion(question_id=question.id, sample=1, text=right, finish_reason="length"),
            Completion(question_id=question.id, sample=2, text="Answer: 1234567", finish_reason="stop")]
    assert verify(question, right).correct
    assert RuleReward()([question] * 3, rows).total == [1.0, 0.0, 0.0]
