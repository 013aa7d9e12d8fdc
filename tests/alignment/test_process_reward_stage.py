"""The stage of a process reward model: its labels and loss, that it learns which step is wrong, what PPO is paid."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from alignment.config import load
from alignment.metrics import documented
from alignment.models import load_tokenizer, new_model, save_policy
from alignment.plan import order
from alignment.rewards import make_reward
from alignment.stages import judge, process_reward
from alignment.stages.process_reward import NOT_LEARNT, Labelled, step_labels, step_loss
from data.rows import read_rows, write_rows
from data.schema import Completion, Question, UserError, Verdict
from data.tokenizer import build_tokenizer
from tests.alignment.stage_made import make_stage, notes, result

TEXT = "Change: 46 - 40 = 6\nGrowth: 6 / 40 = 16%\nAnswer: 16%"


def completion(text: str = TEXT, finish_reason: str = "stop") -> Completion:
    return Completion(question_id="q", sample=0, text=text, finish_reason=finish_reason)  # type: ignore[arg-type]


def verdict(**changes: object) -> Verdict:
    return Verdict(**({"question_id": "q", "sample": 0, "correct": False, "judge": "rule",
                       "step": "Growth: 6 / 40 = 16%\n", "prefix": "Change: 46 - 40 = 6\n"} | changes))  # type: ignore


@pytest.mark.parametrize(("said", "labels"), [
    (verdict(), [True, False]), (verdict(step="Change: 46 - 40 = 6", prefix=""), [False]),
    (verdict(correct=True), [True, True, True]),
    (verdict(correct=True, first_error=0), "right answer by a wrong way"),
    (verdict(step=None), "first wrong step not located"),
    (verdict(step="Growth"), "quoted step is not in the solution"),
    (verdict(prefix=""), "quoted prefix is not what stands before the step"),
])
def test_labels_go_up_to_the_first_wrong_step(said: Verdict, labels: object) -> None:
    assert step_labels(completion(), said) == labels


def test_a_step_that_was_cut_off_is_not_learnt_from() -> None:
    told = verdict(step="Answer: 16%", prefix=TEXT.rpartition("\n")[0])
    assert step_labels(completion(finish_reason="length"), told) == "wrong step is cut off"
    assert step_labels(completion(), told) == [True, True, False]


def test_the_loss_is_the_cross_entropy_of_a_completions_steps() -> None:
    logits = torch.tensor([[2.0, -1.0, 9.0], [0.5, 0.0, 0.0]], requires_grad=True)
    right = torch.tensor([[1.0, 0.0, NOT_LEARNT], [0.0, NOT_LEARNT, NOT_LEARNT]])
    loss = step_loss(logits, right)
    first = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert loss.item() == pytest.approx((first + math.log(1 + math.exp(0.5))) / 2, abs=1e-6)
    loss.backward()
    assert logits.grad is not None and logits.grad[0, 2] == logits.grad[1, 1] == 0
    assert logits.grad[0, 0] < 0 < logits.grad[1, 0]  # right steps up, wrong ones down
    whole = step_loss(logits, right)
    parts = [step_loss(logits[row:row + 1], right[row:row + 1]) for row in range(2)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts) / 2)  # micro-batches add up


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer(["good step then bad step\n", "say 1"] * 20, vocab_size=300)
    save_policy(new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3),
                tokenizer, folder)
    return folder


def inputs(folder: Path, base: Path, *, count: int = 40) -> dict[str, Path]:
    """A judge that calls the line `bad step` wrong, on completions that have it in the first, second or no place."""
    questions, completions, verdicts = [], [], []
    for number in range(count):
        questions.append(Question(id=f"q{number}", source="file", kind="k", language="en", prompt=f"say {number}",
                                  steps=(), answer="1", operand_key=f"k{number}"))
        for sample, lines in enumerate((["bad step", "good step"], ["good step", "bad step", "then"],
                                        ["good step", "then"])):
            text, wrong = "\n".join(lines), "bad step" in lines
            completions.append(Completion(question_id=f"q{number}", sample=sample, text=text, finish_reason="stop"))
            prefix = text.partition("bad step")[0] if wrong else None
            verdicts.append(Verdict(question_id=f"q{number}", sample=sample, correct=not wrong, judge="rule",
                                    step="bad step" if wrong else None, prefix=prefix))
    write_rows(folder / "completions" / "questions.jsonl", questions)
    write_rows(folder / "completions" / "completions.jsonl", completions)
    write_rows(folder / "verdicts" / "verdicts.jsonl", verdicts)
    return {"model": base, "completions": folder / "completions", "verdicts": folder / "verdicts"}


SETTINGS = {"max_steps": 30, "batch_size": 16, "learning_rate": 1e-2, "warmup_steps": 0, "log_every": 10,
            "schedule": "constant", "dev_fraction": 0.25}


@pytest.mark.parametrize("features", ["scalar", "likelihood", "regret"])
def test_it_learns_which_step_is_wrong(base: Path, tmp_path: Path, features: str) -> None:
    stage = make_stage(tmp_path, "process_reward", inputs=inputs(tmp_path, base), **SETTINGS, features=features)
    process_reward.run(stage)
    found = result(stage)
    assert found["step_accuracy"]["value"] == 1.0 and found["auc"] == 1.0 and 0 < found["right_steps"] < 1
    assert found["located"]["value"] == 1.0 and found["false_alarms"]["value"] == 0.0
    assert found["located"]["n"] == 20 and found["false_alarms"]["n"] == 10 and found["log_loss"] < 0.2
    assert "120 completions with 200 labelled steps; left out: none" in notes(stage)
    for name in found:
        documented(name, "process_reward")


def test_ppo_is_paid_by_it_step_by_step(base: Path, tmp_path: Path) -> None:
    made = make_stage(tmp_path / "made", "process_reward", inputs=inputs(tmp_path, base), **SETTINGS)
    process_reward.run(made)
    stage = make_stage(tmp_path / "ppo", "ppo", inputs={"policy": base, "process_reward": made.output},
                       reward_weights={"process_reward": 2.0})
    reward = make_reward(stage, load_tokenizer(base), {})
    question = read_rows(tmp_path / "completions" / "questions.jsonl", Question)[0]
    texts = [Completion(question_id="q0", sample=0, text=text, finish_reason="stop")
             for text in ("good step\nthen", "good step\nbad step\nthen")]
    scores = reward([question, question], texts)
    assert scores.total == [0.0, 0.0] and [len(spans) for spans in scores.spans] == [2, 3]
    assert scores.paid[0] == pytest.approx(2.0, abs=0.2) and scores.spans[1][1].score < 0.1 < scores.spans[1][0].score
    assert scores.parts["process_reward"][0] == pytest.approx(1.0, abs=0.1)


def test_it_runs_on_the_rules_verdicts(base: Path, tmp_path: Path) -> None:
    """With an adapter, and none of its questions on both sides of the split."""
    given = inputs(tmp_path, base, count=8)
    rule = make_stage(tmp_path / "judge", "judge", inputs={"completions": given["completions"]})
    judge.run(rule)
    with pytest.raises(UserError, match="no verdict tells right steps from wrong ones"):
        process_reward.run(make_stage(tmp_path / "none", "process_reward", inputs={**given, "verdicts": rule.output},
                                      **SETTINGS))
    stage = make_stage(tmp_path / "lora", "process_reward", inputs=given, **SETTINGS | {"max_steps": 2}, lora_rank=2)
    process_reward.run(stage)
    assert (stage.output / "adapter" / "adapter_config.json").is_file()
    rows = process_reward.labelled(stage, load_tokenizer(base))
    sides = process_reward.split(rows, fraction=0.5, seed=1)
    keys = [{row.question.operand_key for row in side} for side in sides]
    assert not keys[0] & keys[1] and len(keys[0]) == len(keys[1]) == 4 and isinstance(rows[0], Labelled)


def test_what_is_too_long_is_counted(base: Path, tmp_path: Path) -> None:
    stage = make_stage(tmp_path, "process_reward", inputs=inputs(tmp_path, base, count=4), max_length=10)
    rows = process_reward.labelled(stage, load_tokenizer(base))
    assert len(rows) < 12 and "x longer than 10 tokens" in notes(stage)


def test_a_weight_without_its_model_is_found_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"reward_weights\.process_reward: ppo\.inputs\.process_reward is not given"):
        order(load(["recipe=ppo_fin", "+ppo.reward_weights.process_reward=1.0"]).stages)
