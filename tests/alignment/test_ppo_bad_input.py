"""What PPO cannot work with is refused by name before it draws its first completion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from alignment import question_pool
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.stages import ppo
from data.schema import Question, UserError
from data.tokenizer import build_tokenizer
from reward.model import RewardModel
from tests.alignment.ppo_made import Longer, Numbers, again, planted, ppo_stage, untimed, write_policy
from tests.alignment.stage_made import notes, said


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("taught"))


@pytest.fixture(autouse=True)
def paid_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, Longer())


def test_prompts_longer_than_the_context_are_left_out_and_counted(policy: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    class SomeLong(Numbers):
        def questions(self, split: str, *, count: int | None, seed: int) -> list[Question]:
            drawn = super().questions(split, count=count, seed=seed)
            return [dataclasses.replace(row, prompt=row.prompt * 2000) if row.answer == "3" else row for row in drawn]

    monkeypatch.setattr(question_pool, "open_source", lambda config: SomeLong())
    stage = again(ppo_stage(tmp_path, policy, num_iterations=1))
    assert "a pool of 9 questions, answers only; 1 too long, dropped" in notes(stage)
    assert [step for step, _ in untimed(stage)] == [1, 1]


def test_where_every_prompt_is_too_long_nothing_is_begun(policy: Path, tmp_path: Path) -> None:
    positions = load_policy(policy).config.max_position_embeddings
    stage = ppo_stage(tmp_path, policy, max_new_tokens=positions)
    with pytest.raises(UserError, match=f"none of 10 questions leaves max_new_tokens={positions} within the model's "
                                        f"{positions} positions: lower max_new_tokens, or check the data source"):
        ppo.run(stage)
    assert said(stage, "metrics") == [] and not list(stage.scratch.iterdir())


def test_a_critic_of_another_tokenizer_is_refused_and_a_reward_model_of_one_is_not(policy: Path,
                                                                                   tmp_path: Path) -> None:
    other = build_tokenizer(["quite another text, 987 654 321 of it"] * 9, vocab_size=300)
    model = new_model(other, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, seed=0)
    save_policy(model, other, tmp_path / "other")
    RewardModel(load_policy(tmp_path / "other")).save(tmp_path / "foreign", other)
    RewardModel(load_policy(policy)).save(tmp_path / "own", load_tokenizer(policy))
    for name, critic_from in (("foreign", "policy"), ("own", "reward_model")):
        stage = ppo_stage(tmp_path / f"{name} {critic_from}", policy, num_iterations=1, critic_from=critic_from)
        stage.inputs["reward_model"] = tmp_path / name
        assert again(stage)
    stage = ppo_stage(tmp_path / "refused", policy, critic_from="reward_model")
    stage.inputs["reward_model"] = tmp_path / "foreign"
    with pytest.raises(UserError) as error:
        ppo.run(stage)
    assert str(error.value) == (f"ppo: critic_from=reward_model, but the reward model in {tmp_path / 'foreign'} has "
                                "another tokenizer than the policy; use critic_from=policy")
    assert said(stage, "metrics") == []
