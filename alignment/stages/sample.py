"""Completions of a policy: `num_samples` for each question, by the rollout engine.

In: `policy`. Out: questions.jsonl, and completions.jsonl grouped by question in the same order. A completion's seed
comes from its question and number alone. Two stages with the same `purpose` get the same questions.
"""

from __future__ import annotations

import statistics
import time
from typing import cast

from alignment.device import placed
from alignment.kinds import Sample
from alignment.models import load_policy, load_tokenizer
from alignment.rollout import Sampling, make_engine
from alignment.rollout.rows import prompt_questions, to_completion
from alignment.seeds import derive
from alignment.stage import Stage
from data.rows import write_rows
from data.schema import Completion, Split
from data.sources import open_source

CHUNK = 512  # completions between two moves of the bar


def run(stage: Stage) -> None:
    """Draws the questions, generates, writes both files."""
    config: Sample = stage.config
    tokenizer = load_tokenizer(stage.inputs["policy"])
    model = placed(load_policy(stage.inputs["policy"], dtype=stage.rollout.dtype))
    drawn = open_source(stage.data).questions(cast(Split, config.split), count=config.num_questions,
                                              seed=derive(stage.root_seed, "questions", config.purpose))
    prompted = prompt_questions(tokenizer, model.config, drawn, max_new_tokens=config.max_new_tokens)
    if len(drawn) < config.num_questions:
        stage.note(f"the source has only {len(drawn)} of the {config.num_questions} questions asked for")
    if prompted.dropped:
        stage.note(f"{prompted.dropped} of {len(drawn)} questions are too long for the model; dropped")
    engine = make_engine(stage.inputs["policy"], stage.rollout, max_length=prompted.max_length, model=model)
    sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p)
    wanted = [(question, prompt, number) for question, prompt in zip(prompted.questions, prompted.prompts, strict=True)
              for number in range(config.num_samples)]
    completions: list[Completion] = []
    started = time.monotonic()
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start:start + CHUNK]
        generations = engine.generate([prompt for _, prompt, _ in chunk], sampling,
                                      [stage.derive("sample", question.id, number) for question, _, number in chunk])
        completions += [to_completion(tokenizer, question.id, number, generation)
                        for (question, _, number), generation in zip(chunk, generations, strict=True)]
        stage.progress(len(completions), len(wanted), unit="completion")
    stage.log(len(completions), completions_per_second=len(completions) / (time.monotonic() - started))
    engine.close()
    write_rows(stage.output / "questions.jsonl", prompted.questions)
    write_rows(stage.output / "completions.jsonl", completions)
    stage.note(f"{len(completions)} completions of {len(prompted.questions)} questions by the {engine.name} engine")
    stage.result(questions=len(prompted.questions), completions=len(completions),
                 truncated=statistics.fmean(row.finish_reason == "length" for row in completions),
                 length=statistics.fmean(len(row.token_ids) for row in completions))
