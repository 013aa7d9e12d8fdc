"""A process reward model from verdicts: whether each step is right, by our trainer around reward/process_model.py.

In: `model`, the folder its trunk starts from (the policy's, as a rule), `completions` and `verdicts`. Out: a process
reward model's folder. A judge says which step is the first wrong one: those before it are right, it is wrong, and those
after it are not learnt from. The loss is the binary cross-entropy of a completion's steps, mean over completions
(Lightman et al. 2023, arXiv:2305.20050, of labels; the rest is ours). Held-out measures are on questions of their own.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainingArguments

import alignment.kinds
from alignment.adapters import adapted, merged_state, save_adapter, trainable
from alignment.models import load_policy, load_tokenizer
from alignment.stage import Stage
from alignment.stats import Bootstrap, auc, calibration
from alignment.trainers import StageTrainer, quiet, training_arguments
from data.chat import completion_ids, render_prompt
from data.rows import read_rows
from data.schema import Completion, Question, UserError, Verdict
from reward.process_model import ProcessRewardModel, number_steps, pad_steps, whole_steps
from reward.steps import find_step

NOT_LEARNT = -1.0
STANDARDISED_ON = 128  # training completions whose steps' scores start with mean 0 and variance 1


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A completion in the trunk's tokens, and whether each of its first steps is right; the others are left out."""

    question: Question
    prompt: list[int]
    completion: list[int]
    numbers: list[int]  # the step of each completion token, from 1; 0 beyond the labelled ones
    right: list[bool]


def run(stage: Stage) -> None:
    """Trains on most questions, measures on the others, leaves the model in `stage.output`."""
    quiet()
    config: alignment.kinds.ProcessReward = stage.config
    tokenizer = load_tokenizer(stage.inputs["model"])
    trunk = adapted(load_policy(stage.inputs["model"]), config, seed=stage.derive("adapter"))
    model = ProcessRewardModel(trunk, features=config.features)
    train, dev = split(labelled(stage, tokenizer), fraction=config.dev_fraction, seed=stage.derive("split"))
    if not train:
        raise UserError(f"{stage.inputs['verdicts'] / 'verdicts.jsonl'}: no verdict tells right steps from wrong ones, "
                        "or none of them fits max_length; judge with the task process, or raise it")
    first = step_logits(model, train[:STANDARDISED_ON])
    model.standardise(torch.tensor([value for values in first for value in values]))
    trainer = StepTrainer(
        model=model, args=TrainingArguments(**training_arguments(stage) | {
            "ddp_find_unused_parameters": config.features == "scalar"}),  # no LM head
        train_dataset=Dataset.from_list([as_row(row) for row in train]), data_collator=collate,
        processing_class=tokenizer, stage=stage)
    trainer.run()
    if stage.leads:
        stage.result(train_rows=len(train), dev_rows=len(dev), parameters=sum(p.numel() for _, p in trainable(model)),
                     **quality(dev, step_logits(model, dev), seed=stage.derive("bootstrap")))
        model.save(stage.output, tokenizer, trunk_state=merged_state(trunk))
        save_adapter(trunk, stage.output / "adapter")


def labelled(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Labelled]:
    """The completions whose verdict says something of their steps; the others are counted in a note by reason."""
    folder = stage.inputs["completions"]
    questions = {question.id: question for question in read_rows(folder / "questions.jsonl", Question)}
    verdicts = {(row.question_id, row.sample): row
                for row in read_rows(stage.inputs["verdicts"] / "verdicts.jsonl", Verdict)}
    dropped: collections.Counter[str] = collections.Counter()
    rows: list[Labelled] = []
    for completion in read_rows(folder / "completions.jsonl", Completion):
        verdict = verdicts.get((completion.question_id, completion.sample))
        right = step_labels(completion, verdict) if verdict else "no readable verdict"
        if isinstance(right, str):
            dropped[right] += 1
            continue
        row = in_tokens(tokenizer, questions[completion.question_id], completion, right)
        if len(row.prompt) + len(row.completion) > stage.config.max_length:
            dropped[f"longer than {stage.config.max_length} tokens"] += 1
        else:
            rows.append(row)
    stage.note(f"{len(rows)} completions with {sum(len(row.right) for row in rows)} labelled steps; left out: "
               + (", ".join(f"{count} x {reason}" for reason, count in dropped.most_common()) or "none"))
    return rows


def step_labels(completion: Completion, verdict: Verdict) -> list[bool] | str:
    """Of the first steps whether they are right, up to the first wrong one; or why that is not known."""
    steps = whole_steps(completion)
    if verdict.correct:
        return [True] * len(steps) if steps and verdict.first_error is None else "right answer by a wrong way"
    if verdict.step is None:
        return "first wrong step not located"
    place = find_step(completion.text, verdict.step, verdict.prefix or "")
    if isinstance(place, str):
        return place
    return [True] * place.index + [False] if place.index < len(steps) else "wrong step is cut off"


def in_tokens(tokenizer: PreTrainedTokenizerBase, question: Question, completion: Completion,
              right: list[bool]) -> Labelled:
    ids = completion_ids(tokenizer, completion.text, completion.finish_reason == "stop")
    return Labelled(question, render_prompt(tokenizer, question), ids,
                    number_steps(tokenizer, ids, whole_steps(completion)[:len(right)]), right)


def split(rows: Sequence[Labelled], *, fraction: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(train, dev): whole groups of one operand key, `fraction` of the groups to dev, in each the order kept."""
    keys = sorted({row.question.operand_key for row in rows})
    random.Random(seed).shuffle(keys)
    held_out = set(keys[:min(round(fraction * len(keys)), max(0, len(keys) - 1))])
    return ([row for row in rows if row.question.operand_key not in held_out],
            [row for row in rows if row.question.operand_key in held_out])


def as_row(row: Labelled) -> dict[str, Any]:
    return {"prompt": row.prompt, "completion": row.completion, "numbers": row.numbers,
            "right": [float(right) for right in row.right]}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """ids and step numbers (B, longest), and labels (B, most steps): 1 right, 0 wrong, NOT_LEARNT of no step."""
    ids, numbers = pad_steps([(row["prompt"], row["completion"], row["numbers"]) for row in rows])
    labels = torch.full((len(rows), max(len(row["right"]) for row in rows)), NOT_LEARNT)
    for place, row in enumerate(rows):
        labels[place, :len(row["right"])] = torch.tensor(row["right"])
    return {"input_ids": ids, "step_numbers": numbers, "right": labels}


def step_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Mean over completions of the mean cross-entropy of their labelled steps; both (B, S), of S steps at most.

    A mean over completions, not over steps: so micro-batches add up to the whole batch.
    """
    learnt = right != NOT_LEARNT
    losses = F.binary_cross_entropy_with_logits(logits, right.clamp_min(0.0), reduction="none") * learnt
    return (losses.sum(dim=1) / learnt.sum(dim=1).clamp_min(1)).mean()


class StepTrainer(StageTrainer):
    """The trainer around a `ProcessRewardModel`."""

    row_tokens = staticmethod(lambda row: 1)
    model: ProcessRewardModel

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False,
                     num_items_in_batch: Tensor | int | None = None) -> Any:
        logits = model(inputs["input_ids"], inputs["step_numbers"])  # (B, S)
        loss = self.part().rows * step_loss(logits, inputs["right"])
        return (loss, {"logits": logits}) if return_outputs else loss


def step_logits(model: ProcessRewardModel, rows: Sequence[Labelled]) -> list[list[float]]:
    """Of each row's labelled steps."""
    return model.step_logits([row.prompt for row in rows], [row.completion for row in rows],
                             [row.numbers for row in rows])


def quality(rows: Sequence[Labelled], logits: Sequence[Sequence[float]], *, seed: int) -> dict[str, Any]:
    """Held-out measures, intervals clustered by question: of steps, and of completions' first wrong steps."""
    if not rows:
        return {}
    steps = [(value, right, row.question.operand_key) for row, values in zip(rows, logits, strict=True)
             for value, right in zip(values, row.right, strict=True)]
    values, rights, keys = (list(part) for part in zip(*steps, strict=True))
    hits = [float((value > 0) == right) for value, right in zip(values, rights, strict=True)]
    probabilities = torch.tensor(values).sigmoid().numpy()
    error, _ = calibration(probabilities, torch.tensor(rights).double().numpy())
    metrics: dict[str, Any] = {
        "step_accuracy": Bootstrap(keys, seed=seed).mean(hits).to_json(),
        "right_steps": sum(rights) / len(rights), "calibration_error": error,
        "log_loss": float(F.binary_cross_entropy_with_logits(torch.tensor(values), torch.tensor(rights).float())),
    }
    if len(set(rights)) == 2:
        metrics["auc"] = auc(values, rights)
    flagged = [next((place for place, value in enumerate(row) if value <= 0), None) for row in logits]
    for name, wanted in (("located", False), ("false_alarms", True)):
        chosen = [(row, place) for row, place in zip(rows, flagged, strict=True) if all(row.right) == wanted]
        if chosen:
            said = [float(place is not None if wanted else place == row.right.index(False)) for row, place in chosen]
            metrics[name] = Bootstrap([row.question.operand_key for row, _ in chosen], seed=seed).mean(said).to_json()
    return metrics
