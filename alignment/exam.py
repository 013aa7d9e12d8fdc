"""The exam every policy of an evaluation sits: held-out questions answered by the engine and graded by the rule,
held-out texts, drills and definitions read teacher-forced.

Knows models and the engine; what the answers amount to is said in policy_quality.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignment.device import placed
from alignment.group import Group
from alignment.kinds import Evaluate
from alignment.likelihood import LabelledRow, likelihoods
from alignment.models import load_policy, load_tokenizer
from alignment.policy_quality import Answers
from alignment.rollout import make_engine
from alignment.rollout.engine import Engine, Sampling
from alignment.rollout.rows import Prompted, prompt_questions, to_completion
from alignment.stage import Stage
from data.chat import IGNORED, render_document, render_prompt
from data.finance.textbook import definition_cloze
from data.schema import Completion, Document, Question, UserError, Verdict
from data.sources import Source
from reward.rule import verify

Mode = Literal["greedy", "sampled", "best_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class Graded:
    """One completion and what the rule says of it; a truncated one is wrong, as it never came to its end."""

    question: Question
    completion: Completion
    verdict: Verdict

    @property
    def truncated(self) -> bool:
        return self.completion.finish_reason == "length"

    @property
    def correct(self) -> bool:
        return self.verdict.correct and not self.truncated

    @property
    def error_kind(self) -> str | None:
        """None for a right one and where the rule does not know."""
        if self.correct:
            return None
        return "truncated" if self.truncated and self.verdict.first_error is None else self.verdict.error_kind

    def to_json(self, *, policy: str, mode: Mode) -> dict[str, Any]:
        """A line of generations.jsonl."""
        return {"policy": policy, "mode": mode, "question_id": self.question.id,
                "operand_key": self.question.operand_key, "sample": self.completion.sample,
                "text": self.completion.text, "finish_reason": self.completion.finish_reason,
                "correct": self.correct, "error_kind": self.error_kind}


@dataclasses.dataclass(frozen=True)
class Exam:
    """What every policy is asked. `drill_keys` are the graded expressions of the drills, in order."""

    questions: list[Question]
    texts: list[Document]
    drills: list[Document]
    drill_keys: list[str]
    cloze: list[Document]


def held_out_questions(stage: Stage, source: Source, paths: Sequence[Path], *, count: int) -> Prompted:
    """Held-out questions that every policy has room for: the exam's, and after them others, up to `count` in all, for
    the reward models. What is left out is noted."""
    drawn = source.questions("test", count=stage.config.num_questions, seed=stage.seed)
    more = source.questions("test", count=None, seed=stage.seed) if count > len(drawn) else []
    drawn += more[len(drawn):count]
    if not drawn:
        raise UserError(f"data source {stage.data['source']!r} has no held-out question (split `test`) to evaluate on")
    smallest = min((AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True) for path in paths),
                   key=lambda config: getattr(config.get_text_config(), "max_position_embeddings", math.inf))
    prompted = prompt_questions(load_tokenizer(paths[0]), smallest, drawn, max_new_tokens=stage.config.max_new_tokens)
    if prompted.dropped:
        stage.note(f"{prompted.dropped} of {len(drawn)} held-out questions are too long for the models; dropped")
    return prompted


def set_exam(stage: Stage, source: Source, questions: list[Question]) -> Exam:
    """Draws the held-out texts to go with the questions; the same for every run of a data config."""
    config: Evaluate = stage.config
    drills: list[Document] = []
    keys: list[str] = []
    for document in source.drills(config.num_drills, seed=stage.seed, split="test"):
        if len(keys) >= config.num_drills:
            break
        keys += graded_expressions(document)
        drills.append(document)
    cloze = [Document(id=f"cloze-{language}-{number}", source="cloze", segments=((prefix, False), (answer, True)))
             for language in stage.data["languages"] if stage.data["source"] == "finance"
             for number, (prefix, answer) in enumerate(definition_cloze(language))]
    texts = source.general_documents(config.num_documents, seed=stage.seed, split="test")
    return Exam(questions, texts, drills, keys, cloze)


def graded_expressions(document: Document) -> list[str]:
    """What stands before each result of a drill document, but for the first, which alone shows the unit to be used."""
    return [before for (before, _), (_, trained) in itertools.pairwise(document.segments) if trained][1:]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy in the room: its weights are in the engine."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    prompts: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # question id -> rendered once

    def answer(self, questions: Sequence[Question], sampling: Sampling, *, num_samples: int, mode: Mode,
               stage: Stage) -> list[list[Graded]]:
        """`num_samples` graded answers to each question. The seed of a sample does not depend on the policy, so that
        differences between policies share their noise."""
        for question in questions:
            if question.id not in self.prompts:
                self.prompts[question.id] = render_prompt(self.tokenizer, question)
        prompts = [self.prompts[question.id] for question in questions for _ in range(num_samples)]
        seeds = [stage.derive(mode, question.id, sample) for question in questions for sample in range(num_samples)]
        generations = iter(self.engine.generate(prompts, sampling, seeds))
        graded = []
        for question in questions:
            verdicts: dict[str, Verdict] = {}  # many samples of a question say the same
            group = [to_completion(self.tokenizer, question.id, sample, next(generations))
                     for sample in range(num_samples)]
            for completion in group:
                if completion.text not in verdicts:
                    verdicts[completion.text] = verify(question, completion.text)
            graded.append([Graded(question, completion, verdicts[completion.text]) for completion in group])
        return graded


class Hall:
    """Where policies sit the exam: one engine, made for the first and given the weights of each in turn."""

    def __init__(self, stage: Stage, *, max_length: int) -> None:
        self._stage, self._rollout, self._max_length = stage, stage.rollout, max_length
        self._engine: Engine | None = None

    def admit(self, name: str, path: Path) -> Policy:
        """Loads the policy and puts its weights into the engine."""
        tokenizer = load_tokenizer(path)
        model = placed(load_policy(path, dtype=self._rollout.dtype))
        if self._engine is None:
            self._engine = make_engine(path, self._rollout, max_length=self._max_length, model=model,
                                       group=Group.of(self._stage), serving=self._stage.serving)
        else:
            self._engine.push(model)
        return Policy(name, model, tokenizer, self._engine)

    @property
    def engine_name(self) -> str:
        """The engine that was used."""
        return self._engine.name if self._engine else "none"

    def close(self) -> None:
        """Gives the engine's memory back."""
        if self._engine is not None:
            self._engine.close()


def sit(policy: Policy, exam: Exam, config: Evaluate, stage: Stage) -> tuple[Answers, dict[Mode, list[list[Graded]]]]:
    """One policy's answers: as arrays, and every graded completion by mode and question."""
    limit = config.max_new_tokens
    greedy = policy.answer(exam.questions, Sampling(max_new_tokens=limit, temperature=0.0), num_samples=1,
                           mode="greedy", stage=stage)
    sampled = policy.answer(exam.questions, Sampling(max_new_tokens=limit, temperature=config.temperature),
                            num_samples=config.num_samples, mode="sampled", stage=stage)
    first = [group[0] for group in greedy]
    texts, drills, cloze = (likelihoods(
        policy.model, [document_row(policy.tokenizer, document) for document in documents], group=Group.of(stage))
        for documents in (exam.texts, exam.drills, exam.cloze))
    answers = Answers(
        greedy=np.array([row.correct for row in first]),
        sampled=np.array([[row.correct for row in group] for group in sampled]),
        truncated=np.array([row.truncated for row in first]),
        length=np.array([len(row.completion.token_ids) for row in first], dtype=float),
        errors=[row.error_kind for row in first],
        text_logprob=np.array([row.logprob for row in texts]),
        text_tokens=np.array([row.num_tokens for row in texts], dtype=float),
        text_bytes=np.array([trained_bytes(document) for document in exam.texts], dtype=float),
        drills=np.array([hit for row in drills for hit in row.runs[1:]], dtype=bool),
        cloze=np.array([all(row.runs) for row in cloze], dtype=bool))
    return answers, {"greedy": greedy, "sampled": sampled}


def document_row(tokenizer: PreTrainedTokenizerBase, document: Document) -> LabelledRow:
    """Tokens and labels of a document, its end left out: where a text ends is not what is asked."""
    ids, labels = render_document(tokenizer, document)
    return ids, [IGNORED if label == tokenizer.eos_token_id else label for label in labels]


def trained_bytes(document: Document) -> int:
    """UTF-8 bytes of the pieces whose tokens count."""
    return sum(len(text.encode()) for text, trained in document.segments if trained)
