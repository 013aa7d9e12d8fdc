"""The stages `sample` and `ppo` as the controller runs them, on the embedded data and a random model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.metrics import documented
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.rollout.rows import prompt_questions
from alignment.stages import ppo, sample
from data.chat import render_prompt
from data.finance.generator import questions, solution_text
from data.rows import read_rows
from data.schema import Completion, Question, UserError
from data.tokenizer import build_tokenizer
from reward.model import RewardModel
from reward.rule import verify
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
                                   ("b", {"reward_weights": {"judge": 1.0}}, "names judge"),
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
    assert ppo.RuleReward()([question] * 3, rows).total == [1.0, 0.0, 0.0]
