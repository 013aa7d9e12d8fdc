"""What must agree between models, and what must not be in a training set."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alignment import contracts, leakage
from alignment.kinds import KINDS, Evaluate, Ppo, RewardModel, Sample, Sft, StageConfig
from alignment.plan import PlannedStage
from data.schema import UserError
from tests.alignment.chains import FakeSource
from tests.alignment.fake_stage import VOCABULARY, write_artifact, write_model


def planned(config: StageConfig) -> PlannedStage:
    return PlannedStage(config.kind, KINDS[config.kind], config, dict(config.inputs))


def change(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    write_model(tmp_path / "a")
    write_model(tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_equal_tokenizers_agree(models: tuple[Path, Path]) -> None:
    contracts.check_handoff(*models, where="x")
    change(models[1], "tokenizer_config.json", eos_token={"content": "</s>"}, chat_template="{{ messages }}")
    contracts.check_handoff(*models, where="x")  # a template may be added
    change(models[1], "tokenizer.json", truncation={"max_length": 5}, padding=None)
    contracts.check_handoff(*models, where="x")  # how a batch was padded last is no part of it


@pytest.mark.parametrize(("name", "values", "said"), [
    ("tokenizer_config.json", {"eos_token": "a"}, "end token"),
    ("tokenizer_config.json", {"pad_token": "a"}, "pad token"),
    ("tokenizer.json", {"model": {"vocab": {"b": 0, "a": 1, "</s>": 2}, "merges": []}}, "vocabulary"),
    ("tokenizer.json", {"model": {"vocab": VOCABULARY, "merges": ["a b"]}}, "vocabulary"),
    ("tokenizer.json", {"pre_tokenizer": {"type": "Digits"}}, "vocabulary"),
])
def test_unequal_tokenizers_are_named(models: tuple[Path, Path], name: str, values: dict[str, Any], said: str) -> None:
    change(models[1], name, **values)
    with pytest.raises(UserError, match=f"stage sft: the {said} of .* differ"):
        contracts.check_handoff(*models, where="stage sft")


def test_a_template_that_changes_is_named(models: tuple[Path, Path]) -> None:
    (models[0] / "chat_template.jinja").write_text("{{ messages }}")
    (models[1] / "chat_template.jinja").write_text("{{ messages }}!")
    with pytest.raises(UserError, match="chat template"):
        contracts.check_handoff(*models, where="x")


@pytest.mark.parametrize(("name", "said"), [("config.json", r"no config\.json"),
                                           ("tokenizer.json", r"no tokenizer\.json"),
                                           ("model.safetensors", r"no \*\.safetensors")])
def test_a_model_must_be_whole(models: tuple[Path, Path], name: str, said: str) -> None:
    contracts.check_model(models[0], where="x")
    (models[0] / name).unlink()
    with pytest.raises(UserError, match=said):
        contracts.check_model(models[0], where="x")


def test_a_tokenizer_larger_than_the_embedding_is_refused(models: tuple[Path, Path]) -> None:
    change(models[0], "config.json", vocab_size=2)
    with pytest.raises(UserError, match="has 3 entries, but the model embeds 2"):
        contracts.check_model(models[0], where="x")


def test_a_critic_from_the_reward_model_needs_its_tokenizer(models: tuple[Path, Path]) -> None:
    inputs = dict(zip(("policy", "reward_model"), models, strict=True))
    change(models[1], "tokenizer_config.json", eos_token="a")
    contracts.check_inputs(planned(Ppo(kind="ppo")), inputs)
    with pytest.raises(UserError, match="end token"):
        contracts.check_inputs(planned(Ppo(kind="ppo", critic_from="reward_model")), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_must_have_its_files(tmp_path: Path, kind: str) -> None:
    stage = planned(KINDS[kind].config(kind=kind))
    write_artifact(kind, tmp_path, "w")
    contracts.check_artifact(stage, tmp_path, {})
    for name in contracts.LAYOUT[stage.kind.makes]:
        (tmp_path / name).rename(tmp_path / "away")
        with pytest.raises(UserError, match=name):
            contracts.check_artifact(stage, tmp_path, {})
        (tmp_path / "away").rename(tmp_path / name)


def test_a_reward_models_tokenizer_is_its_parents(models: tuple[Path, Path]) -> None:
    write_artifact("reward_model", models[1], "w")
    stage = planned(RewardModel(kind="reward_model"))
    contracts.check_artifact(stage, models[1], {"model": models[0]})
    change(models[1], "tokenizer_config.json", pad_token="a")
    with pytest.raises(UserError, match="pad token"):
        contracts.check_artifact(stage, models[1], {"model": models[0]})


# Leakage: the fake source's held-out question is "2 + 2?" with operands test-1


def leak(tmp_path: Path, row: dict[str, Any], config: StageConfig, name: str = "questions.jsonl") -> int:
    (tmp_path / name).write_text(json.dumps({"prompt": "other"}) + "\n\n" + json.dumps(row) + "\n")
    evaluation = planned(Evaluate(kind="evaluate", inputs={"sft": "sft"}))
    return leakage.check(evaluation, {"seed": 0}, [(planned(config), tmp_path)])


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "open_source", lambda config: FakeSource([]))


@pytest.mark.parametrize("row", [
    {"operand_key": "test-1", "prompt": "said otherwise"}, {"prompt": " 2  +\n2? "}, {"question": "\uff12 + 2?"},
    {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "2 + 2?"}]},
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"},
                  {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
])
def test_a_leak_is_named_by_file_and_line(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"questions\.jsonl:3"):
        leak(tmp_path, row, Sample(kind="sample"))


def test_what_is_no_leak(tmp_path: Path) -> None:
    leaked = {"operand_key": "test-1"}
    assert leak(tmp_path, {"operand_key": "train-1", "prompt": "2 + 3?"}, Sample(kind="sample")) == 2
    assert leak(tmp_path, leaked, Sample(kind="sample", split="test")) == 0
    assert leak(tmp_path, leaked, Evaluate(kind="evaluate")) == 0


def test_a_stages_own_file_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.jsonl: row 2"):
        leak(tmp_path, {"prompt": "2 + 2?"}, Sft(kind="sft", dataset=str(tmp_path / "mine.jsonl")), "mine.jsonl")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["2 + 3?", "2 + 2?"], "completion": ["5", "4"]}),
                                tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"mine\.parquet: row 2"):
        leak(tmp_path, {}, Sft(kind="sft", dataset=str(tmp_path / "mine.parquet")))
