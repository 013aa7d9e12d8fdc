"""The pretrain and sft stages, from a small source in memory to model folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.kinds import Pretrain, Sft
from alignment.models import load_policy, load_tokenizer
from alignment.stage import Rollout, Stage
from alignment.stages import pretrain, sft
from data.chat import render_example, render_prompt
from data.rows import write_rows
from data.schema import Completion, Document, Question, UserError, Verdict

TINY = {"max_steps": 30, "batch_size": 8, "max_length": 64, "learning_rate": 1e-2, "warmup_steps": 2, "log_every": 10,
        "schedule": "constant", "save_every": 1000}


def question(number: int) -> Question:
    return Question(id=f"q{number}", source="file", kind="copy", language="en", prompt=f"Say {number}.",
                    steps=(f"It is {number}.",), answer=str(number), operand_key=f"k{number}")


class SmallSource:
    """Two-digit numbers; dev is held out."""

    def questions(self, split: str, *, count: int | None, seed: int) -> list[Question]:
        numbers = [number for number in range(10, 60) if (number % 5 == 0) == (split == "dev")]
        return [question(number) for number in numbers][:count]

    def documents(self, name: str, count: int, split: str) -> list[Document]:
        numbers = range(count) if split == "train" else range(7, 7 + count, 3)
        return [Document(id=f"{name}{number}", source=name, segments=((f"{name} {number} is", False),
                                                                      (f" {number}.", True)))
                for number in numbers]

    def domain_documents(self, count: int, *, seed: int, split: str) -> list[Document]:
        return self.documents("profit", count, split)

    def general_documents(self, count: int, *, seed: int, split: str) -> list[Document]:
        return self.documents("weather", count, split)

    def drills(self, count: int, *, seed: int, split: str) -> list[Document]:
        return []

    def problems(self, count: int, *, seed: int, split: str) -> list[Document]:
        return []


@pytest.fixture(autouse=True)
def small_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pretrain, sft):
        monkeypatch.setattr(module, "open_source", lambda config: SmallSource())


def make_stage(folder: Path, kind: str, config: Any, **inputs: Path) -> Stage:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return Stage(name=kind, kind=kind, config=config, inputs=inputs, data={}, rollout=Rollout(), seed=3, root_seed=0,
                 output=folder / "out", scratch=folder / "scratch", events=folder / "events.jsonl")


def told(stage: Stage, kind: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, stage.events.read_text().splitlines()) if row["event"] == kind]


def base_config(**changes: Any) -> Pretrain:
    return Pretrain(**(TINY | {"initial": "random", "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                               "intermediate_size": 48, "vocab_size": 300, "num_domain": 60, "num_general": 30,
                               "num_drills": 0, "num_problems": 0, "optimizer": "muon",
                               "muon_learning_rate": 1e-2} | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "open_source", lambda config: SmallSource())
        stage = make_stage(tmp_path_factory.mktemp("base"), "pretrain", base_config())
        pretrain.run(stage)
    return stage


def test_a_base_model_is_made_from_nothing(base: Stage) -> None:
    model, tokenizer = load_policy(base.output), load_tokenizer(base.output)
    assert model.config.model_type == "qwen3"
    assert model.config.vocab_size == len(tokenizer) <= 300
    result = told(base, "result")[0]["metrics"]
    assert result["parameters"] == model.num_parameters()
    for kind in ("domain", "general"):
        assert result[f"{kind}_loss"] < 0.7 * result[f"{kind}_loss_before"]
    assert "drills_loss" not in result
    assert result["domain_loss_before"] == pytest.approx(torch.tensor(len(tokenizer)).log().item(), abs=0.5)


def test_pre_training_goes_on_from_an_input(base: Stage, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "pretrain", base_config(initial="input", num_general=0, max_steps=20),
                       model=base.output)
    pretrain.run(stage)
    before, after = told(base, "result")[0]["metrics"], told(stage, "result")[0]["metrics"]
    assert after["domain_loss_before"] == pytest.approx(before["domain_loss"], abs=1e-4)
    assert after["domain_loss"] < after["domain_loss_before"]
    assert load_tokenizer(stage.output).get_vocab() == load_tokenizer(base.output).get_vocab()


def test_pre_training_reads_a_file(base: Stage, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"profit {number} is {number}."}) + "\n" for number in range(20)))
    stage = make_stage(tmp_path, "pretrain", base_config(initial="input", dataset=str(path), max_steps=2),
                       model=base.output)
    pretrain.run(stage)
    assert told(stage, "note")[0]["text"].startswith("20 documents")


def test_pre_training_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no input `model`"):
        pretrain.run(make_stage(tmp_path, "pretrain", base_config(initial="input")))
    with pytest.raises(UserError, match="no documents"):
        pretrain.run(make_stage(tmp_path, "pretrain", base_config(num_domain=0, num_general=0)))


def sft_config(**changes: Any) -> Sft:
    return Sft(**(TINY | {"num_examples": 0, "eval_every": 10, "max_steps": 40} | changes))


def test_fine_tuning_keeps_the_best_dev_step(base: Stage, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "sft", sft_config(), model=base.output)
    sft.run(stage)
    result = told(stage, "result")[0]["metrics"]
    losses = {row["step"]: row["metrics"]["dev_loss"] for row in told(stage, "metrics") if "dev_loss" in row["metrics"]}
    assert sorted(losses) == [10, 20, 30, 40][:len(losses)]
    assert result["best_step"] == min(losses, key=lambda step: losses[step])
    assert result["dev_loss"] == pytest.approx(min(losses.values()), abs=1e-5)
    assert (result["train_rows"], result["dev_rows"], result["dev_accuracy"]["n"]) == (40, 10, 10)
    exam = sft.Exam(load_tokenizer(stage.output), SmallSource().questions("dev", count=None, seed=0))
    assert exam.loss(load_policy(stage.output)) == pytest.approx(result["dev_loss"], abs=1e-5)


def test_the_step_can_be_chosen_by_accuracy(base: Stage, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "sft", sft_config(select_by="accuracy", max_steps=20), model=base.output)
    sft.run(stage)
    logged = [row["metrics"] for row in told(stage, "metrics") if "dev_accuracy" in row["metrics"]]
    assert max(row["dev_accuracy"] for row in logged) == told(stage, "result")[0]["metrics"]["dev_accuracy"]["value"]


def test_packed_and_padded_fine_tuning_see_the_same_tokens(base: Stage, tmp_path: Path) -> None:
    """One batch with everything in it: packing changes nothing but the rows, so the step is the same."""
    weights = []
    for packing in (True, False):
        stage = make_stage(tmp_path / str(packing), "sft", sft_config(packing=packing, max_steps=1, batch_size=64,
                                                                      warmup_steps=0, eval_every=1), model=base.output)
        sft.run(stage)
        weights.append(load_policy(stage.output).lm_head.weight)
    assert torch.allclose(*weights, atol=1e-4)
    assert not torch.equal(weights[0], load_policy(base.output).lm_head.weight)


def judged(folder: Path, rows: Sequence[tuple[int, str, bool, str]]) -> dict[str, Path]:
    """Folders of completions and verdicts from (question, text, correct, finish reason)."""
    completions = [Completion(question_id=f"q{number}", sample=sample, text=text, finish_reason=reason)
                   for sample, (number, text, _, reason) in enumerate(rows)]
    verdicts = [Verdict(question_id=f"q{number}", sample=sample, correct=correct, judge="rule")
                for sample, (number, _, correct, _) in enumerate(rows)]
    write_rows(folder / "completions" / "questions.jsonl", [question(number) for number in {row[0] for row in rows}])
    write_rows(folder / "completions" / "completions.jsonl", completions)
    write_rows(folder / "verdicts" / "verdicts.jsonl", verdicts)
    return {"completions": folder / "completions", "verdicts": folder / "verdicts"}


def test_rejection_sampling_takes_distinct_finished_correct_completions(base: Stage, tmp_path: Path) -> None:
    inputs = judged(tmp_path, [(11, "a", True, "stop"), (11, "a", True, "stop"), (11, "b", True, "length"),
                               (12, "c", False, "stop"), (12, "d", True, "stop")])
    stage = make_stage(tmp_path, "sft", sft_config(from_verdicts=True, max_steps=2), model=base.output, **inputs)
    conversations = sft.training_conversations(stage, SmallSource())
    assert [(row[0]["content"], row[1]["content"]) for row in conversations] == [("Say 11.", "a"), ("Say 12.", "d")]
    sft.run(stage)
    assert told(stage, "result")[0]["metrics"]["train_rows"] == 2


def test_fine_tuning_says_what_is_missing(base: Stage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the inputs completions and verdicts"):
        sft.run(make_stage(tmp_path, "sft", sft_config(from_verdicts=True), model=base.output))
    inputs = judged(tmp_path, [(11, "a", False, "stop")])
    with pytest.raises(UserError, match="no completion was judged correct"):
        sft.run(make_stage(tmp_path, "sft", sft_config(from_verdicts=True), model=base.output, **inputs))
    with pytest.raises(UserError, match="all 40 examples are longer than max_length=16"):
        sft.run(make_stage(tmp_path, "sft", sft_config(max_length=16), model=base.output))


def test_fine_tuning_reads_a_file_and_draws_from_it(base: Stage, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {n}.", "completion": f"It is {n}."}) + "\n" for n in range(9)))
    stage = make_stage(tmp_path, "sft", sft_config(dataset=str(path), num_examples=4), model=base.output)
    drawn = sft.training_conversations(stage, SmallSource())
    assert len(drawn) == 4
    assert drawn == sft.training_conversations(stage, SmallSource())
    assert "9 conversations kept" in told(stage, "note")[0]["text"]


def test_only_the_completion_and_its_end_are_learnt(base: Stage) -> None:
    tokenizer = load_tokenizer(base.output)
    ids, labels = render_example(tokenizer, question(11), "It is 11.")
    prompt = render_prompt(tokenizer, question(11))
    assert labels[:len(prompt)] == [-100] * len(prompt)
    assert tokenizer.decode(labels[len(prompt):]) == "It is 11.<eos>"
    assert ids[len(prompt):] == labels[len(prompt):]
