"""The critic: a model that learns to walk through reference and solution step by step and to say where one goes wrong.

In: `model`; and, to be measured on, `completions` of a policy on held-out questions. Out: a model folder. It learns
from solutions with planted errors, of which the rule says what is true; it is measured on such of held-out questions,
and so is a plain comparison of the texts, line by line, which learns nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig

from alignment.adapters import adapted
from alignment.critic_judge import CriticJudge
from alignment.kinds import Critic
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.packing import Example, RowCollator, packed_rows
from alignment.rollout import TransformersEngine
from alignment.sharding import gathered
from alignment.stage import Stage
from alignment.stats import wilson
from alignment.trainers import LanguageModelTrainer, quiet, training_arguments
from data.chat import render_example
from data.rows import read_rows
from data.schema import Completion, Question, UserError, Verdict
from data.sources import open_source
from reward.judge import RuleJudge
from reward.lessons import lessons
from reward.walk import MAX_TOKENS, asked, compared, walk

Judged = Callable[[Sequence[Question], Sequence[Completion]], list[Verdict | None]]
Answers = tuple[list[Question], list[Completion]]
ON_THE_WAY = 100  # held-out solutions that a point of the learning curve is measured on


def run(stage: Stage) -> None:
    """Trains on walks and leaves the model folder in `stage.output`."""
    quiet()
    config: Critic = stage.config
    tokenizer = load_tokenizer(stage.inputs["model"])
    model = starting_model(stage)
    examples = training_examples(stage, tokenizer)
    rows = packed_rows(examples, max_length=config.max_length, split=False)
    trainer = LanguageModelTrainer(
        model=model, args=SFTConfig(**training_arguments(stage), max_length=None,
                                    dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=rows, data_collator=RowCollator(tokenizer.pad_token_id), processing_class=tokenizer, stage=stage,
        callbacks=[LearningCurve(stage, tokenizer)])
    trainer.run()
    model = gathered(model, lambda: starting_model(stage), leads=stage.leads)
    if stage.leads:
        round_weights(model, config.save_dtype)  # what is measured is what is saved
        stage.note(f"{len(examples)} walks in {len(rows)} rows of at most {config.max_length} tokens; "
                   f"{config.max_steps} steps see {config.max_steps * config.batch_size / len(rows):.2f} passes")
        stage.result(train_rows=len(examples), parameters=model.num_parameters(only_trainable=True),
                     **measured(stage, model, tokenizer))
        save_policy(model, tokenizer, stage.output, name=stage.name, dtype=config.save_dtype,
                    description=f"A critic, trained by finalign's stage `{stage.name}` on {len(examples)} walks.")


def starting_model(stage: Stage) -> PreTrainedModel:
    return adapted(load_policy(stage.inputs["model"]), stage.config, seed=stage.derive("adapter"))


def round_weights(model: PreTrainedModel, dtype: str) -> None:
    """To the nearest number of that type, each kept in the type it has."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))


def training_examples(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Walks in the model's tokens. Raises UserError where none fits."""
    config: Critic = stage.config
    questions, completions = planted(stage, "train", count=config.num_examples)
    verdicts = RuleJudge()(questions, completions)
    walks = [(asked(question, completion.text), walk(question, completion.text, verdict, marks=config.marks))
             for question, completion, verdict in zip(questions, completions, verdicts, strict=True) if verdict]
    found = [render_example(tokenizer, [{"role": "user", "content": text}], said)
             for text, said in walks if text is not None and said is not None]
    kept = [example for example in found if len(example[0]) <= config.max_length]
    if len(kept) < len(questions):
        stage.note(f"{len(questions) - len(kept)} of {len(questions)} solutions are too long, or have no walk; dropped")
    if not kept:
        raise UserError(f"{stage.name}: nothing to learn from: the data source has no solutions with a program of "
                        f"steps, or none that fits max_length={config.max_length}; use data=finance, or raise it")
    return kept


def planted(stage: Stage, split: Any, *, count: int) -> Answers:
    """Solutions of a split's questions, right ones and ones with a planted error."""
    config: Critic = stage.config
    drawn = open_source(stage.data).questions(split, count=count, seed=stage.derive("questions", split))
    usable = [question for question in drawn if question.program]
    made = lessons(usable, random.Random(stage.derive("lessons", split)), reworded=config.reworded)
    return usable, [Completion(question_id=question.id, sample=0, text=text, finish_reason="stop")
                    for question, text in zip(usable, made, strict=True)]


def sampled(stage: Stage) -> Answers:
    """A policy's whole completions of the input `completions`, at most `num_held_out`, the first of each question."""
    folder = stage.inputs["completions"]
    questions = {row.id: row for row in read_rows(folder / "questions.jsonl", Question)}
    first = {row.question_id: row for row in reversed(read_rows(folder / "completions.jsonl", Completion))
             if row.finish_reason != "length"}
    chosen = list(first.values())[:stage.config.num_held_out]
    return [questions[row.question_id] for row in chosen], chosen


class LearningCurve(TrainerCallback):
    """Measures on some held-out solutions while it trains."""

    def __init__(self, stage: Stage, tokenizer: PreTrainedTokenizerBase) -> None:
        self.stage, self.tokenizer = stage, tokenizer
        self.answers = planted(stage, "dev", count=min(ON_THE_WAY, stage.config.num_held_out))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.stage.config.eval_every:
            return
        found = agreement(critic(self.stage, kwargs["model"], self.tokenizer), *self.answers)
        if self.stage.leads:
            self.stage.log(state.global_step, **{name: each["value"] for name, each in found.items()})


def critic(stage: Stage, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> CriticJudge:
    """The model as a judge, as it is now; by the plain engine, which has no start-up."""
    engine = TransformersEngine(stage.inputs["model"], max_length=MAX_TOKENS, model=model,
                                dtype=str(model.dtype).removeprefix("torch."))
    return CriticJudge(engine, tokenizer, max_length=MAX_TOKENS, model=stage.name)


def measured(stage: Stage, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How critic and plain comparison agree with the rule, on planted errors and on a policy's completions."""
    sets = {"planted": planted(stage, "dev", count=stage.config.num_held_out)}
    if "completions" in stage.inputs:
        sets["policy"] = sampled(stage)
    judges: dict[str, Judged] = {"critic": critic(stage, model, tokenizer), "diff": compared}
    return {f"{name}.{metric}.{who}": value for name, answers in sets.items() for who, judge in judges.items()
            for metric, value in agreement(judge, *answers).items()}


def agreement(judge: Judged, questions: Sequence[Question], completions: Sequence[Completion]) -> dict[str, Any]:
    """With the rule's verdicts: on the answer, and of wrong solutions on the first wrong step and the right one for it.

    A solution without a verdict counts as missed on all of these. Intervals are Wilson's, as questions are distinct.
    """
    truth = RuleJudge()(questions, completions)
    given = judge(questions, completions)
    both = [(rule, said) for rule, said in zip(truth, given, strict=True) if rule is not None]
    wrong = [(rule, said) for rule, said in both if not rule.correct and rule.step is not None]
    right = [said for rule, said in both if rule.correct]
    found = [said is not None and (said.prefix, said.step) == (rule.prefix, rule.step) for rule, said in wrong]
    exact = [hit and said is not None and said.correction == rule.correction
             for hit, (rule, said) in zip(found, wrong, strict=True)]
    counts = {"agreed": (sum(said is not None and said.correct == rule.correct for rule, said in both), len(both)),
              "located": (sum(found), len(wrong)), "corrected": (sum(exact), len(wrong)),
              "false_alarms": (sum(said is None or not said.correct for said in right), len(right))}
    return {name: wilson(*pair).to_json() for name, pair in counts.items() if pair[1]}
