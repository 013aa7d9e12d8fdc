"""A desk's export trains: as a run's file of human pairs through the project's stages, and through TRL's trainers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.data_utils import is_conversational

from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.stages import dpo, pairs, reward_model
from data.annotate.export import export, write_export
from data.annotate.policy import FORMATS, Policy
from data.rows import write_rows
from data.schema import Completion, Question, Verdict
from data.tokenizer import build_tokenizer
from reward.model import RewardModel
from tests.alignment.stage_made import make_stage, result
from tests.data.annotate.desk_made import STEPS, TIE, Desk, busy_desk, prefer, walk

ONE_STEP = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "log_every": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer([*STEPS, "营收 46 亿元", "the answer is 9"] * 20, vocab_size=300)
    model = new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3)
    save_policy(model, tokenizer, folder)
    return folder


def desk() -> Desk:
    """Preferences, ties and corrected steps of two people."""
    made = Desk()
    for number in range(12):
        answers = [f"the answer is {number}", f"答案是 {number + 1}"]
        made.task(f"t{number}", answers, language="zh" if number % 2 else "en")
        for who in ("ann", "bea"):
            made.judge(who, f"t{number}", TIE if number == 5 else prefer(f"t{number}", 0, 1 + number % 3))
        made.task(f"w{number}", STEPS, kind="stepwise", question=f"46 over 40, question {number}?")
        made.judge("ann", f"w{number}", walk(1, -1, None, correction="Growth: 6 / 40 = 15%"))
    return made


def sampled(folder: Path) -> dict[str, Path]:
    """Two questions with a right and a wrong completion each, judged by the rule."""
    asked = [Question(id=f"q{number}", source="finance", kind="net_margin", language="en", prompt=f"Question {number}?",
                      steps=("6 / 40 = 15%",), answer="15%", operand_key=f"q{number}") for number in range(2)]
    given = [(question, sample) for question in asked for sample in range(2)]
    write_rows(folder / "given" / "questions.jsonl", asked)
    write_rows(folder / "given" / "completions.jsonl", [
        Completion(question_id=question.id, sample=sample, text=f"Answer: {15 + sample}%", finish_reason="stop")
        for question, sample in given])
    write_rows(folder / "verdicts" / "verdicts.jsonl", [
        Verdict(question_id=question.id, sample=sample, correct=sample == 0, judge="rule")
        for question, sample in given])
    return {"completions": folder / "given", "verdicts": folder / "verdicts"}


@pytest.mark.parametrize(("form", "ending"), [("trl", ".jsonl"), ("finalign", ".parquet")])
def test_an_export_trains_a_reward_model_and_a_policy(form: str, ending: str, base: Path, tmp_path: Path) -> None:
    """`pairs.human=FILE` beside the rule's pairs, then a step of each stage; people's accuracy has its own line."""
    file = tmp_path / f"human{ending}"
    write_export(file, desk().snapshot(), Policy(format=form, ties="keep"))
    both = make_stage(tmp_path / "both", "pairs", inputs=sampled(tmp_path), human=str(file), dev_fraction=0.3)
    pairs.run(both)
    assert (result(both)["origin.human"], result(both)["origin.rule"]) == (11 + 2 + 12, 2)
    scorer = make_stage(tmp_path / "rm", "reward_model", inputs={"model": base, "pairs": both.output}, **ONE_STEP)
    reward_model.run(scorer)
    assert result(scorer)["train_rows"] == result(both)["train"]
    assert result(scorer)["accuracy.human"]["n"] > 0
    RewardModel.load(scorer.output)
    policy = make_stage(tmp_path / "dpo", "dpo", inputs={"policy": base, "pairs": both.output}, **ONE_STEP)
    dpo.run(policy)
    assert not torch.equal(load_policy(policy.output).lm_head.weight, load_policy(base).lm_head.weight)


def test_the_forms_are_trls() -> None:
    rows = {form: export(busy_desk().snapshot(), Policy(format=form)).rows[0] for form in FORMATS}
    assert all(is_conversational(rows[form]) for form in ("trl", "trl-implicit", "trl-unpaired"))
    assert not is_conversational(rows["trl-stepwise"])  # TRL takes texts alone there
    assert set(rows["trl-stepwise"]) > {"prompt", "completions", "labels"}


@pytest.mark.parametrize(("form", "trainer", "config", "loss"), [
    ("trl", DPOTrainer, DPOConfig, math.log(2)), ("trl-implicit", RewardTrainer, RewardConfig, math.log1p(math.e ** 3)),
    ("trl-unpaired", KTOTrainer, KTOConfig, 0.5)])
def test_trls_trainers_take_the_file(form: str, trainer: Any, config: Any, loss: float, base: Path,
                                     tmp_path: Path) -> None:
    """The first loss is that of a model which prefers nothing yet; the reward trainer's has the margin, 3, in it."""
    policy = Policy(format=form, kinds=("outcome",), margins=(3, 3, 3, 3))
    write_export(tmp_path / "rows.jsonl", desk().snapshot(), policy)
    rows = datasets.Dataset.from_json(str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
    tokenizer = load_tokenizer(base)
    model = load_policy(base)
    if trainer is RewardTrainer:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    made = trainer(model=model, train_dataset=rows, processing_class=tokenizer, args=config(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_steps=1, bf16=False, gradient_checkpointing=False))
    made.train()
    assert made.state.global_step == 1
    assert made.state.log_history[0]["loss"] == pytest.approx(loss, abs=0.05)
