"""What must agree between models, and what must not be in a training set."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alignment import contracts, leakage
from alignment.kinds import (
    KINDS,
    Evaluate,
    Pairs,
    Ppo,
    Pretrain,
    ProcessReward,
    RewardModel,
    Sample,
    Sft,
    StageConfig,
)
from alignment.plan import PlannedStage
from data.schema import UserError
from data.sources import open_source
from tests.alignment.chains import FakeSource, question
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


# Every edge, broken in one way at a time

BREAKS: dict[str, Callable[[Path], None]] = {
    "vocabulary": lambda folder: change(folder, "tokenizer.json",
                                        model={"vocab": {"b": 0, "a": 1, "</s>": 2}, "merges": []}),
    "chat template": lambda folder: change(folder, "tokenizer_config.json", chat_template="{{ messages }}!"),
    "end token": lambda folder: change(folder, "tokenizer_config.json", eos_token="a"),
    "pad token": lambda folder: change(folder, "tokenizer_config.json", pad_token="a"),
}
DAMAGES: dict[str, Callable[[Path], None]] = {
    "has 4 entries, but the model embeds 3": lambda folder: change(
        folder, "tokenizer.json", added_tokens=[{"content": "c", "id": 3}]),
    "'x', which is no entry of tokenizer.json": lambda folder: change(
        folder, "tokenizer_config.json", eos_token="x"),
    "'y', which is no entry of tokenizer.json": lambda folder: change(
        folder, "tokenizer_config.json", pad_token={"content": "y"}),
    "has no tokenizer.json": lambda folder: (folder / "tokenizer.json").unlink(),
    "has no config.json": lambda folder: (folder / "config.json").unlink(),
}
READS = [(kind, role.replace("*", "x"), what.rstrip("?")) for kind, entry in KINDS.items()
         for role, what in entry.takes.items()]  # every edge
MODEL_READS = [(kind, role, what) for kind, role, what in READS if what in contracts.MODEL_TYPES]
MAKERS = {"model": "sft", "reward_model": "reward_model", "process_reward": "process_reward", "completions": "sample",
          "verdicts": "judge", "pairs": "pairs"}


def model(folder: Path, what: str = "model") -> Path:
    """A model with a chat template."""
    write_artifact(MAKERS[what], folder, "w")
    change(folder, "tokenizer_config.json", chat_template="{{ messages }}")
    return folder


def edges(found: list[tuple[str, str, str]]) -> list[str]:
    return [f"{what} -> {kind}.{role}" for kind, role, what in found]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "role", "what"), MODEL_READS, ids=edges(MODEL_READS))
def test_a_model_that_is_read_must_fit_itself(tmp_path: Path, kind: str, role: str, what: str, damage: str) -> None:
    folder, stage = model(tmp_path / "m", what), planned(KINDS[kind].config(kind=kind))
    contracts.check_inputs(stage, {role: folder})
    DAMAGES[damage](folder)
    with pytest.raises(UserError, match=rf"{kind}\.inputs\.{role}: .*{re.escape(damage)}"):
        contracts.check_inputs(stage, {role: folder})


@pytest.mark.parametrize(("kind", "role", "what"), READS, ids=edges(READS))
def test_what_is_read_must_have_its_files(tmp_path: Path, kind: str, role: str, what: str) -> None:
    stage = planned(KINDS[kind].config(kind=kind))
    for number, name in enumerate(contracts.LAYOUT[what]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_artifact(MAKERS[what], folder, "w")
        contracts.check_inputs(stage, {role: folder})
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"{kind}\.inputs\.{role}: .* has no {re.escape(name)}"):
            contracts.check_inputs(stage, {role: folder})


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("kind", [kind for kind, entry in KINDS.items() if entry.makes in contracts.MODEL_TYPES])
def test_a_model_that_is_made_has_its_parents_tokens(tmp_path: Path, kind: str, broken: str) -> None:
    stage = planned(KINDS[kind].config(kind=kind))
    role = next(role for role in ("model", "policy") if role in stage.kind.takes)
    inputs = {role: model(tmp_path / "parent")}
    made = model(tmp_path / "made", stage.kind.makes)
    contracts.check_artifact(stage, made, inputs)
    BREAKS[broken](made)
    with pytest.raises(UserError, match=f"stage {kind}: the {broken} of .* differ"):
        contracts.check_artifact(stage, made, inputs)


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("turned", [False, True], ids=["the first", "the second"])
def test_the_policies_of_an_evaluation_read_the_same_tokens(tmp_path: Path, broken: str, turned: bool) -> None:
    inputs = {name: model(tmp_path / name) for name in ("base", "sft")}
    inputs["reward_model"] = model(tmp_path / "reward", "reward_model")
    stage = planned(Evaluate(kind="evaluate"))
    BREAKS[broken](inputs["reward_model"])  # it may: it reads texts
    contracts.check_inputs(stage, inputs)
    BREAKS[broken](inputs["base" if turned else "sft"])
    with pytest.raises(UserError, match=rf"evaluate\.inputs: the {broken} of base \(.*\) and sft \(.*\) differ"):
        contracts.check_inputs(stage, inputs)


@pytest.mark.parametrize("silent", ["base", "sft"])
def test_a_policy_may_leave_unsaid_what_another_says(tmp_path: Path, silent: str) -> None:
    inputs = {name: model(tmp_path / name) for name in ("base", "sft")}
    change(inputs[silent], "tokenizer_config.json", chat_template=None, pad_token=None)
    contracts.check_inputs(planned(Evaluate(kind="evaluate")), inputs)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_critic_from_the_reward_model_needs_its_tokenizer(tmp_path: Path, broken: str) -> None:
    inputs = {"policy": model(tmp_path / "policy"), "reward_model": model(tmp_path / "reward", "reward_model")}
    contracts.check_inputs(planned(Ppo(kind="ppo", critic_from="reward_model")), inputs)
    BREAKS[broken](inputs["reward_model"])
    contracts.check_inputs(planned(Ppo(kind="ppo")), inputs)
    with pytest.raises(UserError, match=rf"ppo\.critic_from=reward_model: the {broken} of .* differ"):
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


# Leakage: the fake source's held-out question is "2 + 2?" with operands test-1

LONG = "What is the revenue of Borealis Ltd after a growth of 4%?"


def leaked(config: StageConfig, folder: Path, *, data: Mapping[str, Any] | None = None,
           **inputs: str) -> int:
    """Looks for an evaluation's questions in what one stage trained on."""
    stage = PlannedStage(config.kind, KINDS[config.kind], config, inputs)
    return leakage.check(planned(Evaluate(kind="evaluate")), data or {"seed": 0}, [(stage, folder)])


def leak(tmp_path: Path, row: dict[str, Any], config: StageConfig, name: str = "questions.jsonl") -> int:
    (tmp_path / name).write_text(json.dumps({"prompt": "other"}) + "\n\n" + json.dumps(row) + "\n")
    return leaked(config, tmp_path)


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
    held_out = {"operand_key": "test-1"}
    assert leak(tmp_path, {"operand_key": "train-1", "prompt": "2 + 3?"}, Sample(kind="sample")) == 2
    assert leak(tmp_path, held_out, Sample(kind="sample", split="test")) == 0
    assert leak(tmp_path, held_out, Evaluate(kind="evaluate")) == 0


@pytest.mark.parametrize(("config", "name", "row"), [
    (Sample(kind="sample"), "questions.jsonl", {"operand_key": "test-1"}),
    (Pairs(kind="pairs"), "train.jsonl", {"operand_key": "test-1"}),
    (Pairs(kind="pairs"), "dev.jsonl", {"prompt": [{"role": "user", "content": "2 + 2?"}]}),
    (Sft(kind="sft", dataset="mine.jsonl"), "mine.jsonl", {"prompt": "2 + 2?", "completion": "4"}),
    (Pretrain(kind="pretrain", dataset="mine.jsonl"), "mine.jsonl", {"question": "2 + 2?", "answer": "4"}),
], ids=["sample", "pairs", "pairs held out for the reward model", "a file of sft", "a file of pretrain"])
def test_every_edge_that_rows_can_leak_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: StageConfig,
                                               name: str, row: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    assert leak(tmp_path, {"prompt": "2 + 3?", "completion": "5"}, config, name) == 2
    with pytest.raises(UserError, match=rf"evaluation question is in the training set, .*{re.escape(name)}:"):
        leak(tmp_path, row, config, name)


@pytest.mark.parametrize("learner", [Sft(kind="sft", from_verdicts=True), ProcessReward(kind="process_reward")],
                         ids=["sft", "process_reward"])
def test_completions_of_held_out_questions_may_be_looked_at_and_not_learnt_from(learner: StageConfig,
                                                                                tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text(json.dumps({"operand_key": "test-1"}) + "\n")
    sample, evaluation = Sample(kind="sample", split="test"), planned(Evaluate(kind="evaluate"))
    reader = PlannedStage("learner", KINDS[learner.kind], learner, {"completions": "sample"})
    sealed = [(planned(sample), tmp_path), (reader, tmp_path)]
    assert leakage.check(evaluation, {"seed": 0}, sealed[:1]) == 0
    with pytest.raises(UserError, match=r"questions\.jsonl:1"):
        leakage.check(evaluation, {"seed": 0}, sealed)


def test_a_question_within_a_document_is_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = FakeSource([])
    monkeypatch.setattr(held_out, "questions", lambda *given, **named: [question(), question("test-2", LONG)])
    monkeypatch.setattr(leakage, "open_source", lambda config: held_out)
    config = Pretrain(kind="pretrain", dataset=str(tmp_path / "mine.jsonl"))
    for text in (f"{LONG[:-2]}5%?", LONG[1:], "Is 12 + 2? or 2 + 2? more"):  # a short one may stand there by chance
        assert leak(tmp_path, {"text": text}, config, "mine.jsonl") == 2
    with pytest.raises(UserError, match=r"mine\.jsonl: row 2"):
        leak(tmp_path, {"text": f"Exam. {LONG.upper()} Solve it."}, config, "mine.jsonl")


def test_pretraining_reads_every_table_so_all_are_looked_at(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": f"2 + {2 if name == 'test' else 3}?"}) + "\n")
    assert leaked(Sft(kind="sft", dataset=str(tmp_path)), tmp_path / "none") == 1
    with pytest.raises(UserError, match=r"test\.jsonl: row 1"):
        leaked(Pretrain(kind="pretrain", dataset=str(tmp_path)), tmp_path / "none")


def test_a_source_with_the_same_question_on_both_sides_is_refused(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "open_source", open_source)
    path = tmp_path / "rows.jsonl"
    data = {"source": "file", "path": str(path), "languages": ["en"], "kinds": None, "seed": 0}
    rows = [{"prompt": f"How much is {n} + 1?", "answer": str(n + 1), "split": split}
            for n, split in enumerate(["train", "dev", "test"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert leaked(Sft(kind="sft"), tmp_path, data=data) == 1
    assert leaked(RewardModel(kind="reward_model"), tmp_path, data=data) == 0  # it draws nothing from the source
    rows.append(rows[2] | {"prompt": "how much is  2 + 1?", "split": "train"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"training set, data\.path=.*rows\.jsonl: 'how much is  2 \+ 1\?'"):
        leaked(Sft(kind="sft"), tmp_path, data=data)
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:3], {"text": LONG, "split": "train"},
                                                               {"prompt": LONG, "answer": "4", "split": "test"}]))
    with pytest.raises(UserError, match=r"training set, data\.path=.*'What is the revenue"):
        leaked(Sft(kind="sft"), tmp_path, data=data)


def test_a_stages_own_file_is_looked_at(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["2 + 3?", "2 + 2?"], "completion": ["5", "4"]}),
                                tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"mine\.parquet: row 2"):
        leak(tmp_path, {}, Sft(kind="sft", dataset=str(tmp_path / "mine.parquet")))
