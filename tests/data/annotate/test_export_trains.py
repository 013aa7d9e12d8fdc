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

from alignment.models import load_policy, load_tokenizer
from data.annotate.export import export, write_export
from data.annotate.policy import FORMATS, Policy
from tests.data.annotate.desk_made import STEPS, TIE, Desk, busy_desk, prefer, walk
from tests.data.annotate.trained import small_base, train_on


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"), [*STEPS, "营收 46 亿元", "the answer is 9"])


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


@pytest.mark.parametrize(("form", "ending"), [("trl", ".jsonl"), ("finalign", ".parquet")])
def test_an_export_trains_a_reward_model_and_a_policy(form: str, ending: str, base: Path, tmp_path: Path) -> None:
    """`pairs.human=FILE` beside the rule's pairs, then a step of each stage; people's accuracy has its own line."""
    file = tmp_path / f"human{ending}"
    write_export(file, desk().snapshot(), Policy(format=form, ties="keep"))
    made, scored = train_on(file, base, tmp_path)
    assert (made["origin.human"], made["origin.rule"]) == (11 + 2 + 12, 2)
    assert scored["train_rows"] == made["train"] and scored["accuracy.human"]["n"] > 0


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
