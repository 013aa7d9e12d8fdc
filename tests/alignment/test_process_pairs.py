"""DPO on whole answers and on single steps: the paper's loss against a hand-computed one, golden tokens, TRL's other
losses, and a reference that is read once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import DPOTrainer

from alignment.models import load_policy, load_tokenizer
from alignment.preference_trainers import PAIRED, UNPAIRED, UnpairedTrainer, precomputes, unpaired
from alignment.preference_trainers import make_trainer as any_trainer
from alignment.stages import dpo, reward_model
from data.preferences import as_explicit
from data.schema import PreferencePair
from tests.alignment import test_reward_model_stage
from tests.alignment.test_dpo import base as base  # a fixture
from tests.alignment.test_dpo import make_stage, make_trainer, pair, told

BETA, ALPHA = 0.3, 0.7
STEP: dict[str, Any] = {"kind": "process", "prefix": "revenue was 46\n", "chosen": "so margin is 12%\n",
                        "rejected": "so margin is 9%\n"}


def mixed() -> list[PreferencePair]:
    """Whole answers and steps by turns."""
    return [pair(number, **(STEP if number % 2 else {})) for number in range(24)]


@torch.no_grad()
def moved(model: Any) -> Any:
    """The model after some training, as it were."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def by_hand(policy: Any, reference: Any, rows: list[dpo.Tokens], *, alpha: float) -> float:
    """-log sigmoid(beta (chosen's log-ratio - rejected's)) + alpha * mean -log p of the chosen tokens, in doubles."""
    ratios: dict[str, list[float]] = {"chosen_ids": [], "rejected_ids": []}
    chosen = []
    for row in rows:
        for side, found in ratios.items():
            ids, start = torch.tensor([row["prompt_ids"] + row[side]]), len(row["prompt_ids"])
            of_each = [model(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
                       .gather(1, ids[0, 1:, None])[start - 1:, 0] for model in (policy, reference)]
            found.append(float(of_each[0].sum() - of_each[1].sum()))
            chosen += of_each[0].tolist() if side == "chosen_ids" else []
    margins = [good - bad for good, bad in zip(*ratios.values(), strict=True)]
    preference = sum(math.log1p(math.exp(-BETA * margin)) for margin in margins) / len(rows)
    return preference + alpha * -sum(chosen) / len(chosen)


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_dpo_with_nll_is_the_hand_computed_loss(base: Path, tmp_path: Path, alpha: float) -> None:
    """On steps and answers together; alpha=0 is plain DPO."""
    losses = {"loss": ["sigmoid", "sft"], "loss_weights": [1.0, alpha]} if alpha else {}
    stage = make_stage(tmp_path, base, mixed(), beta=BETA, **losses)
    _, rows = dpo.read_pairs(stage, load_tokenizer(base), "train")
    trainer = make_trainer(stage, base, rows)
    policy = moved(trainer.model)
    with torch.no_grad():
        loss = trainer.compute_loss(policy, trainer.data_collator(rows[:6]))
        expected = by_hand(policy, load_policy(base), rows[:6], alpha=alpha)
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert abs(expected - math.log(2)) > 0.01


def test_the_first_steps_preference_loss_is_ln_2(base: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, base, mixed(), max_steps=1)
    dpo.run(stage)
    assert told(stage, "metrics")[0]["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_step_continues_the_open_turn_and_does_not_end_it(base: Path, tmp_path: Path) -> None:
    """Golden tokens. TRL's own preparation closes the begun turn, and ends the step: what we replace."""
    tokenizer = load_tokenizer(base)
    rows = [pair(0, **STEP), pair(1, **{**STEP, "chosen": "so 12%", "rejected": "so 9%\n"})]
    stage = make_stage(tmp_path, base, rows + mixed()[:6])
    _, tokens = dpo.read_pairs(stage, tokenizer, "train")
    start = "<user>revenue was 0, so?<assistant>revenue was 46\n"
    assert tokenizer.decode(tokens[0]["prompt_ids"]) == start
    assert tokenizer.decode(tokens[0]["chosen_ids"]) == "so margin is 12%\n"
    assert tokenizer.decode(tokens[0]["rejected_ids"]) == "so margin is 9%\n"
    assert tokenizer.decode(tokens[1]["chosen_ids"]) == "so 12%<eos>"  # the answer's last step
    assert tokenizer.decode(tokens[1]["rejected_ids"]) == "so 9%\n"
    trainer = make_trainer(stage, base, tokens)
    theirs = DPOTrainer._prepare_dataset(trainer, Dataset.from_list([as_explicit(rows[0])]), tokenizer, trainer.args,
                                         "train")
    assert tokenizer.decode(theirs[0]["prompt_ids"] + theirs[0]["chosen_ids"]).count("<eos>") == 2
    reward_stage = test_reward_model_stage.make_stage(tmp_path / "rm", base, rows * 7)
    seen = reward_model.read_pairs(reward_stage, tokenizer, "train")[0]
    assert [seen.prompt, seen.chosen, seen.rejected] == list(tokens[0].values())


def test_the_papers_form_asks_for_the_next_step(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = [pair(0, **STEP), pair(1, **STEP, language="zh"), pair(2)]
    stage = make_stage(tmp_path, base, rows + mixed()[:6], process_form="ask")
    _, tokens = dpo.read_pairs(stage, tokenizer, "train")
    asked = "<user>revenue was 0, so?\n\nrevenue was 46\nWhat is the next step?<assistant>"
    assert tokenizer.decode(tokens[0]["prompt_ids"]) == asked
    assert tokenizer.decode(tokens[0]["chosen_ids"]) == "so margin is 12%<eos>"
    assert tokenizer.decode(tokens[1]["prompt_ids"]).endswith("\n下一步是什么？<assistant>")
    assert tokenizer.decode(tokens[2]["prompt_ids"] + tokens[2]["chosen_ids"]) == (
        "<user>revenue was 2, so?<assistant>the answer is 2<eos>")


@pytest.mark.parametrize("loss", [*PAIRED, *UNPAIRED])
def test_every_loss_of_trl_trains(base: Path, tmp_path: Path, loss: str) -> None:
    smoothing = {"label_smoothing": 0.1} if loss in ("exo_pair", "robust") else {}
    stage = make_stage(tmp_path, base, mixed(), loss=[loss], max_steps=2, **smoothing)
    dpo.run(stage)
    found = told(stage, "result")[0]["metrics"]
    assert abs(found["chosen_logprob_change"]) + abs(found["rejected_logprob_change"]) > 1e-4
    assert all(math.isfinite(row["metrics"]["loss"]) for row in told(stage, "metrics"))


def test_kto_learns_what_is_good_from_single_answers(base: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, base, loss=["kto"], max_steps=20)
    dpo.run(stage)
    found = told(stage, "result")[0]["metrics"]
    assert found["pair_accuracy"]["value"] == 1.0 and found["margin"] > 1
    lines = [row["metrics"] for row in told(stage, "metrics")]
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-5)  # 1 - sigmoid(0): equation 7 at policy = reference


def test_ktos_rows_are_both_sides_each_beside_anothers_answer(base: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, base, loss=["kto"], batch_size=6)
    _, rows = dpo.read_pairs(stage, load_tokenizer(base), "train")
    single = unpaired(rows, size=6, seed=1)
    assert sorted((row["completion_ids"], row["label"]) for row in single) == sorted(
        (row[side], side == "chosen_ids") for row in rows for side in ("chosen_ids", "rejected_ids"))
    blocks = [single[start:start + 6] for start in range(0, len(single), 6)]
    for block in blocks:
        assert [row["KL_completion_ids"] for row in block] == [
            block[place - 1]["completion_ids"] for place in range(len(block))]
    trainer = any_trainer(stage, load_policy(base), load_tokenizer(base), rows)
    assert isinstance(trainer, UnpairedTrainer) and trainer.calculate_KL
    first = next(iter(trainer.get_train_dataloader()))
    in_order = unpaired(rows, size=6, seed=stage.derive("order"))[:6]
    assert first["label"].tolist() == [row["label"] for row in in_order]


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}], ids=["whole", "adapter"])
def test_a_reference_read_before_is_the_one_read_in_each_step(base: Path, tmp_path: Path,
                                                              changes: dict[str, Any]) -> None:
    """Rows of unequal weight, so that some are drawn more than once."""
    losses, made = [], []
    rows = [pair(number, weight=1.0 + number % 3, **(STEP if number % 2 else {})) for number in range(24)]
    for when in ("never", "always"):
        stage = make_stage(tmp_path / when, base, rows, precompute_reference=when, max_steps=6, **changes)
        dpo.run(stage)
        losses.append([row["metrics"]["loss"] for row in told(stage, "metrics")])
        made.append(load_policy(stage.output).lm_head.weight)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert torch.allclose(*made, atol=1e-4)
    assert losses[1][0] == pytest.approx(math.log(2), abs=1e-6)


def test_the_reference_is_read_before_where_that_is_less_work(base: Path, tmp_path: Path) -> None:
    config = make_stage(tmp_path, base, precompute_reference="auto", max_steps=4, batch_size=6).config
    assert precomputes(config, 23) and not precomputes(config, 24)
