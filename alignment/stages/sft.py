"""Supervised fine-tuning on worked solutions, kept at its best step on dev questions.

In: `model`; solutions from the data source, from a file, or (`from_verdicts`) the sampled completions that a judge
found correct, which is rejection-sampling fine-tuning. Out: a model folder. Only the completion, its EOS included, is
trained on. Dev questions come from the source's dev split, never from training data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from alignment.adapters import adapted
from alignment.kinds import Sft
from alignment.likelihood import likelihoods
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.packing import Example, RowCollator, packed_rows, padded_rows
from alignment.rollout import Sampling, TransformersEngine
from alignment.selection import BestWeights
from alignment.sharding import gathered
from alignment.stage import Stage
from alignment.stats import Bootstrap, Estimate
from alignment.trainers import LanguageModelTrainer, quiet, training_arguments
from data.chat import render_conversation, render_example, render_prompt
from data.files import read_conversations
from data.finance.generator import solution_text
from data.rows import read_rows
from data.schema import Completion, Message, Question, UserError, Verdict
from data.sources import Source, open_source
from reward.rule import verify

Conversation = list[Message]  # the assistant's turns are learnt
ROOM = 1.5  # dev completions may be this much longer than the longest gold solution


def run(stage: Stage) -> None:
    """Trains, goes back to the best step, leaves the model folder in `stage.output`."""
    quiet()
    config: Sft = stage.config
    tokenizer = load_tokenizer(stage.inputs["model"])
    model = starting_model(stage)
    source = open_source(stage.data)
    examples = fitting(stage, [render_conversation(tokenizer, each) for each in training_conversations(stage, source)])
    exam = Exam(tokenizer, source.questions("dev", count=config.dev_examples, seed=stage.derive("dev")))
    by_accuracy = config.select_by == "accuracy"
    best = BestWeights(stage, exam.measure if by_accuracy else exam.measure_loss,
                       key="dev_accuracy" if by_accuracy else "dev_loss", higher=by_accuracy,
                       every=config.eval_every, patience=config.patience)
    rows = (packed_rows(examples, max_length=config.max_length, split=False) if config.packing
            else padded_rows(examples, max_length=config.max_length))
    trainer = LanguageModelTrainer(
        model=model, args=SFTConfig(**training_arguments(stage), max_length=None,
                                    dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=rows, data_collator=RowCollator(tokenizer.pad_token_id), processing_class=tokenizer,
        stage=stage, memory=best, callbacks=[best])
    trainer.run()
    best.restore(model)
    model = gathered(model, lambda: starting_model(stage), leads=stage.leads)
    if stage.leads:
        stage.note(f"kept step {best.step} of the {trainer.state.global_step} trained: {best.key} {best.value:.4g} on "
                   f"{len(exam.questions)} dev questions")
        stage.result(train_rows=len(examples), dev_rows=len(exam.questions), best_step=best.step,
                     steps=trainer.state.global_step, parameters=model.num_parameters(only_trainable=True),
                     dev_loss=exam.loss(model), dev_accuracy=exam.accuracy(model).to_json())
        save_policy(model, tokenizer, stage.output, name=stage.name,
                    description=f"Fine-tuned by finalign's stage `{stage.name}` on {len(examples)} worked solutions.")


def starting_model(stage: Stage) -> PreTrainedModel:
    return adapted(load_policy(stage.inputs["model"]), stage.config, seed=stage.derive("adapter"))


def training_conversations(stage: Stage, source: Source) -> list[Conversation]:
    """What to learn from, at most `num_examples`. Raises UserError where nothing is left."""
    config: Sft = stage.config
    if config.from_verdicts:
        found = correct_completions(stage)
    elif config.dataset is not None:
        found, report = read_conversations(config.dataset)
        stage.note(f"{config.dataset}: {report.kept} conversations kept; dropped: {report.dropped or 'none'}")
    else:
        questions = source.questions("train", count=config.num_examples or None, seed=stage.derive("data"))
        found = [conversation(question, solution_text(question)) for question in questions if question.steps]
        if len(found) < len(questions):
            stage.note(f"{len(questions) - len(found)} of {len(questions)} questions have no worked steps; dropped")
    if not found:
        raise UserError(f"{stage.name}: nothing to train on: " + (
            "no completion was judged correct; sample more, or start from a better policy" if config.from_verdicts
            else "the data source has no worked solutions; give `dataset` a file that has"))
    if config.num_examples and len(found) > config.num_examples:
        stage.note(f"{config.num_examples} of {len(found)} drawn (num_examples)")
        found = random.Random(stage.derive("draw")).sample(found, config.num_examples)
    return found


def conversation(question: Question, text: str) -> Conversation:
    return [{"role": "user", "content": question.prompt}, {"role": "assistant", "content": text}]


def correct_completions(stage: Stage) -> list[Conversation]:
    """The distinct completions of input `completions` that input `verdicts` calls correct, truncated ones left out."""
    missing = [role for role in ("completions", "verdicts") if role not in stage.inputs]
    if missing:
        raise UserError(f"{stage.name}: from_verdicts needs the inputs completions and verdicts; name {missing} too")
    folder = stage.inputs["completions"]
    questions = {row.id: row for row in read_rows(folder / "questions.jsonl", Question)}
    judged = {(row.question_id, row.sample): row.correct
              for row in read_rows(stage.inputs["verdicts"] / "verdicts.jsonl", Verdict)}
    sampled = read_rows(folder / "completions.jsonl", Completion)
    right = [row for row in sampled if row.finish_reason == "stop" and judged.get((row.question_id, row.sample))]
    distinct = dict.fromkeys((row.question_id, row.text) for row in right)
    stage.note(f"{len(right)} of {len(sampled)} completions were judged correct, {len(distinct)} of them distinct")
    return [conversation(questions[question], text) for question, text in distinct]


def fitting(stage: Stage, examples: Sequence[Example]) -> list[Example]:
    """The examples that fit a row; the others are counted in a note."""
    limit = stage.config.max_length
    kept = [example for example in examples if len(example[0]) <= limit]
    if len(kept) < len(examples):
        stage.note(f"{len(examples) - len(kept)} of {len(examples)} examples are longer than {limit} tokens; dropped")
    if not kept:
        raise UserError(f"{stage.name}: all {len(examples)} examples are longer than max_length={limit}; raise it")
    return kept


class Exam:
    """The dev questions, by the loss on their gold solutions and by greedy answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> None:
        self.tokenizer, self.questions = tokenizer, list(questions)
        self.prompts = [render_prompt(tokenizer, question) for question in self.questions]
        self.gold = [render_example(tokenizer, question, solution_text(question))
                     for question in self.questions if question.steps]
        longest = max((sum(label != -100 for label in labels) for _, labels in self.gold), default=64)
        self.max_new_tokens = int(ROOM * longest)

    def loss(self, model: PreTrainedModel) -> float:
        """Mean -log p of the gold solutions' tokens, in nats; nan where the source has none."""
        found = likelihoods(model, self.gold)
        tokens = sum(each.num_tokens for each in found)
        return -sum(each.logprob for each in found) / tokens if tokens else float("nan")

    def accuracy(self, model: PreTrainedModel) -> Estimate:
        """Share of questions whose greedy answer the rule finds right; a truncated one is wrong."""
        length = max(map(len, self.prompts)) + self.max_new_tokens
        engine = TransformersEngine(Path(), max_length=length, model=model,  # no start-up, unlike vLLM's
                                    dtype=str(model.dtype).removeprefix("torch."))
        generations = engine.generate(self.prompts, Sampling(max_new_tokens=self.max_new_tokens, temperature=0.0),
                                      seeds=[0] * len(self.prompts))
        texts = [str(self.tokenizer.decode(each.token_ids, skip_special_tokens=True)) for each in generations]
        right = [generation.finish_reason == "stop" and verify(question, text).correct
                 for question, generation, text in zip(self.questions, generations, texts, strict=True)]
        return Bootstrap([question.operand_key for question in self.questions]).mean(right)

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        return {"dev_loss": self.loss(model), "dev_accuracy": self.accuracy(model).value}

    def measure_loss(self, model: PreTrainedModel) -> dict[str, float]:
        return {"dev_loss": self.loss(model)}
