"""Completions of a policy: `num_samples` for each question, by the rollout engine; or of a model behind a URL.

In: `policy`, unless `model` names one elsewhere. Out: questions.jsonl, and completions.jsonl grouped by question in the
same order; of a model elsewhere replies.jsonl too. A completion's seed comes from its question and number alone. Two
stages with the same `purpose` get the same questions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import cast

from alignment.device import placed
from alignment.group import Group
from alignment.models import load_policy, load_tokenizer
from alignment.preference_kinds import Sample
from alignment.remote import costs, open_replies, origin
from alignment.rollout import Sampling, make_engine
from alignment.rollout.rows import prompt_questions, to_completion
from alignment.rollout.shared import shared_out
from alignment.seeds import derive
from alignment.stage import Stage
from data.rows import write_rows
from data.schema import Completion, Question, Split
from data.sources import open_source
from reward.judge import Request
from reward.replies import FILE

CHUNK = 512  # completions that a process generates between two moves of the bar
Sampled = tuple[Sequence[Question], list[Completion]]  # the questions that have completions, and these


def run(stage: Stage) -> None:
    """Draws the questions, generates, writes both files."""
    config: Sample = stage.config
    drawn = open_source(stage.data).questions(cast(Split, config.split), count=config.num_questions,
                                              seed=derive(stage.root_seed, "questions", config.purpose))
    if len(drawn) < config.num_questions:
        stage.note(f"the source has only {len(drawn)} of the {config.num_questions} questions asked for")
    questions, completions = of_policy(stage, drawn) if config.model is None else of_endpoint(stage, drawn)
    write_rows(stage.output / "questions.jsonl", questions)
    write_rows(stage.output / "completions.jsonl", completions)
    stage.result(questions=len(questions), completions=len(completions),
                 truncated=statistics.fmean(row.finish_reason == "length" for row in completions))


def of_policy(stage: Stage, drawn: Sequence[Question]) -> Sampled:
    """By the rollout engine; questions too long for the model are dropped and counted."""
    config: Sample = stage.config
    tokenizer = load_tokenizer(stage.inputs["policy"])
    model = placed(load_policy(stage.inputs["policy"], dtype=stage.rollout.dtype))
    prompted = prompt_questions(tokenizer, model.config, drawn, max_new_tokens=config.max_new_tokens)
    if prompted.dropped:
        stage.note(f"{prompted.dropped} of {len(drawn)} questions are too long for the model; dropped")
    engine, group = make_engine(stage.inputs["policy"], stage.rollout, max_length=prompted.max_length,
                                model=model, serving=stage.serving), Group.of(stage)
    sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p)
    wanted = [(question, prompt, number) for question, prompt in zip(prompted.questions, prompted.prompts, strict=True)
              for number in range(config.num_samples)]
    chunks = [wanted[start:start + CHUNK] for start in range(0, len(wanted), CHUNK)]
    completions: list[Completion] = []
    started = time.monotonic()
    for start in range(0, len(chunks), group.size):
        some = chunks[start:start + group.size]
        requests = [([prompt for _, prompt, _ in chunk],
                     [stage.derive("sample", question.id, number) for question, _, number in chunk]) for chunk in some]
        for chunk, generations in zip(some, shared_out(engine, group, requests, sampling), strict=True):
            completions += [to_completion(tokenizer, question.id, number, generation)
                            for (question, _, number), generation in zip(chunk, generations, strict=True)]
        stage.progress(len(completions), len(wanted), unit="completion")
    stage.log(len(completions), completions_per_second=len(completions) / (time.monotonic() - started))
    engine.close()
    stage.note(f"{len(completions)} completions of {len(prompted.questions)} questions by the {engine.name} engine")
    stage.result(length=statistics.fmean(len(row.token_ids) for row in completions))
    return prompted.questions, completions


def of_endpoint(stage: Stage, drawn: Sequence[Question]) -> Sampled:
    """By the model at `url`, one request a completion; their tokens are not known, only how many there were."""
    config: Sample = stage.config
    wanted = [(question, number) for question in drawn for number in range(config.num_samples)]
    completions: list[Completion] = []
    with open_replies(stage, temperature=config.temperature, top_p=config.top_p,
                      max_tokens=config.max_new_tokens) as replies:
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start:start + CHUNK]
            said = replies([Request([{"role": "user", "content": question.prompt}],
                                    seed=stage.derive("sample", question.id, number)) for question, number in chunk])
            completions += [Completion(question_id=question.id, sample=number, text=reply.text,
                                       finish_reason="stop" if reply.finished else "length")
                            for (question, number), reply in zip(chunk, said, strict=True)]
            stage.progress(len(completions), len(wanted), unit="completion")
        write_rows(stage.output / FILE, replies.used.values())
        spent = costs(replies, config)
        stage.note(f"{len(completions)} completions of {len(drawn)} questions by {config.model}; {origin(replies)}")
    stage.result(length=spent["completion_tokens"] / len(completions), **spent)
    return drawn, completions
