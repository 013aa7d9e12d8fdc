"""All policies of a recipe on the same held-out questions and texts, and its reward models on a policy's samples.

Inputs: every role that starts with `reward_` is a reward model, every other one a policy. The artifact:

    evaluation.json         {"settings": {...}, "questions": {"n", "clusters", "by_kind", "by_language"},
                             "policies": {name: {metric: {value, low, high, n}, "pass_at_k", "by_kind", "by_language",
                                                 "errors", "seconds"}},
                             "differences": {"a - b": {metric: {...}, "by_kind", "by_language"}},
                             "reward_models": {role: {metric: {...}, "by_error", "calibration", "best_of_curve", ...}}}
    questions.jsonl         the held-out questions (Question rows)
    generations.jsonl       one line a completion: policy, mode (greedy, sampled), question_id, operand_key, sample,
                            text, finish_reason, correct, error_kind
    reward_samples.jsonl    the same for the samples (mode best_of) the reward models were measured on, with the
                            policy's logprob and each reward model's score by role

Metric names are those of alignment/metrics.py. One engine serves all policies, their weights pushed in turn.
"""

from __future__ import annotations

import collections
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from alignment.exam import Exam, Graded, Hall, Mode, Policy, held_out_questions, set_exam, sit
from alignment.group import Group
from alignment.kinds import Evaluate
from alignment.likelihood import LabelledRow, likelihoods
from alignment.policy_quality import Answers, Marking
from alignment.reward_quality import Sampled, draw_pairs, measure
from alignment.rollout.engine import Sampling
from alignment.stage import Stage
from alignment.stats import Estimate
from data.chat import IGNORED, render_prompt
from data.rows import write_rows
from data.schema import Question, UserError
from data.sources import open_source
from reward.model import ModelReward

ROUNDS = 4  # batches of questions sampled at most until there are enough pairs


def run(stage: Stage) -> None:
    """Evaluates every input and writes the artifact described above."""
    config: Evaluate = stage.config
    reward_models = {role: path for role, path in stage.inputs.items() if role.startswith("reward_")}
    policies = {role: path for role, path in stage.inputs.items() if role not in reward_models}
    compare = [compared(stage, text, policies) for text in config.compare]
    if reward_models and config.reward_policy not in policies:
        raise UserError(f"{stage.name}.reward_policy={config.reward_policy} is not a policy of this stage; the reward "
                        f"models ({', '.join(reward_models)}) are measured on its samples. Policies: "
                        f"{', '.join(policies)}")
    source = open_source(stage.data)
    held_out = held_out_questions(stage, source, list(policies.values()), count=config.questions_drawn)
    exam = set_exam(stage, source, held_out.questions[:config.num_questions])
    total, done = len(policies) + 2 * bool(reward_models), 0
    hall = Hall(stage, max_length=held_out.max_length)
    answers: dict[str, Answers] = {}
    seconds: dict[str, float] = {}
    measured: dict[str, Any] = {}
    with (stage.output / "generations.jsonl").open("w", encoding="utf-8") as file:
        for name, path in policies.items():
            start = time.perf_counter()
            policy = hall.admit(name, path)
            answers[name], graded = sit(policy, exam, config, stage)
            write_generations(file, name, graded)
            seconds[name] = time.perf_counter() - start
            stage.progress(done := done + 1, total, "policy")
            if reward_models and name == config.reward_policy:
                measured = measure_reward_models(stage, reward_models, policy, held_out.questions)
                stage.progress(done := done + 2, total, "policy")
            del policy  # before the next is loaded
    report = {
        "settings": {"engine": hall.engine_name, **{key: getattr(config, key) for key in (
            "num_samples", "temperature", "max_new_tokens", "best_of", "reward_policy", "bootstrap")}},
        "questions": about(exam.questions),
        **policy_report(exam_marking(stage, exam), answers, compare, seconds),
        "reward_models": measured,
    }
    hall.close()
    write_rows(stage.output / "questions.jsonl", exam.questions)
    (stage.output / "evaluation.json").write_text(json.dumps(finite(report), ensure_ascii=False, indent=1) + "\n",
                                                  encoding="utf-8")
    stage.result(**headlines(report))


def compared(stage: Stage, text: str, policies: Mapping[str, Path]) -> tuple[str, str]:
    """The two policies that `a - b` names."""
    left, minus, right = (part.strip() for part in text.partition(" - "))
    unknown = [name for name in (left, right) if name not in policies]
    if not minus or unknown:
        raise UserError(f"{stage.name}.compare: {text!r} must be 'POLICY - POLICY'"
                        f"{f', and {unknown[0]!r} is none' if minus else ''}; policies: {', '.join(policies)}")
    return left, right


def exam_marking(stage: Stage, exam: Exam) -> Marking:
    """The resamples all policies share."""
    return Marking(exam.questions, num_texts=len(exam.texts), drills=exam.drill_keys, num_cloze=len(exam.cloze),
                   resamples=stage.config.bootstrap, seed=stage.derive("bootstrap"))


def policy_report(marking: Marking, answers: Mapping[str, Answers], compare: Sequence[tuple[str, str]],
                  seconds: Mapping[str, float]) -> dict[str, Any]:
    """The `policies` and `differences` of evaluation.json."""
    policies = {name: as_json(marking.headline(row)) | marking.detail(row) | {"seconds": round(seconds[name], 2)}
                for name, row in answers.items()}
    differences = {}
    for left, right in compare:
        headline, detail = marking.difference(answers[left], answers[right])
        differences[f"{left} - {right}"] = as_json(headline) | detail
    return {"policies": policies, "differences": differences}


def about(questions: Sequence[Question]) -> dict[str, Any]:
    """What the held-out questions are."""
    return {"n": len(questions), "clusters": len({question.operand_key for question in questions}),
            "by_kind": dict(collections.Counter(question.kind for question in questions)),
            "by_language": dict(collections.Counter(question.language for question in questions))}


def measure_reward_models(stage: Stage, paths: Mapping[str, Path], policy: Policy,
                          questions: Sequence[Question]) -> dict[str, Any]:
    """The `reward_models` of evaluation.json, on one set of samples and pairs for all; writes reward_samples.jsonl."""
    config: Evaluate = stage.config
    groups = sample_for_pairs(stage, policy, questions)
    sampled = as_sampled(policy, groups, Group.of(stage), at_temperature_one=config.temperature == 1)
    pairs = draw_pairs(sampled.correct, seed=stage.derive("pairs"), limit=config.num_pairs)
    stage.note(f"reward models: {len(pairs)} held-out pairs, one a question, from {config.best_of} samples of "
               f"{policy.name} for each of {len(groups)} questions"
               + (f"; {config.num_pairs} were asked for" if len(pairs) < config.num_pairs else ""))
    report: dict[str, Any] = {}
    scores: dict[str, list[float]] = {}
    rows = [row for group in groups for row in group]
    for role, path in paths.items():
        reward = ModelReward.load(path, policy.tokenizer, device=policy.model.device, dtype=stage.rollout.dtype)
        scores[role] = reward([row.question for row in rows], [row.completion for row in rows]).total
        if not pairs:
            stage.note(f"{role} is not measured: no question had both a right and a wrong sample")
            continue
        headline, detail = measure(np.array(scores[role]).reshape(sampled.correct.shape), sampled, pairs,
                                   resamples=config.bootstrap, seed=stage.derive("bootstrap"))
        report[role] = as_json(headline) | detail
    with (stage.output / "reward_samples.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            line = row.to_json(policy=policy.name, mode="best_of") | {
                "logprob": float(sampled.logprob.flat[number]),
                "scores": {role: values[number] for role, values in scores.items()}}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return report


def sample_for_pairs(stage: Stage, policy: Policy, questions: Sequence[Question]) -> list[list[Graded]]:
    """`best_of` samples a question, for as many questions as give `num_pairs` of them one right and one wrong."""
    config: Evaluate = stage.config
    sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
    groups: list[list[Graded]] = []
    usable, wanted = 0, round(1.4 * config.num_pairs)
    for _ in range(ROUNDS):
        batch = questions[len(groups):len(groups) + wanted]
        groups += policy.answer(batch, sampling, num_samples=config.best_of, mode="best_of", stage=stage)
        usable = sum(0 < sum(row.correct for row in group) < len(group) for group in groups)
        if usable >= config.num_pairs or len(groups) == len(questions):
            break
        missing = config.num_pairs - usable
        wanted = math.ceil(1.1 * missing * len(groups) / max(usable, 1))
    return groups


def as_sampled(policy: Policy, groups: Sequence[Sequence[Graded]], group: Group, *,
               at_temperature_one: bool) -> Sampled:
    """The samples as arrays. The engine's log-probabilities are the policy's own at temperature 1 only."""
    rows = [row for group in groups for row in group]
    if at_temperature_one:
        logprobs = [float(row.completion.logprob or 0.0) for row in rows]
    else:
        logprobs = [found.logprob for found in likelihoods(
            policy.model, [completion_row(policy, row) for row in rows], group=group)]
    shape = (len(groups), len(groups[0]))
    return Sampled(
        keys=[group[0].question.operand_key for group in groups],
        correct=np.array([row.correct for row in rows]).reshape(shape),
        logprob=np.array(logprobs).reshape(shape),
        length=np.array([len(row.completion.token_ids) for row in rows], dtype=float).reshape(shape),
        error_kind=np.array([row.error_kind for row in rows], dtype=object).reshape(shape))


def completion_row(policy: Policy, row: Graded) -> LabelledRow:
    """A prompt and its completion, the completion labelled."""
    prompt, completion = render_prompt(policy.tokenizer, row.question), list(row.completion.token_ids)
    return [*prompt, *completion], [IGNORED] * len(prompt) + completion


def write_generations(file: TextIO, policy: str, graded: Mapping[Mode, Sequence[Sequence[Graded]]]) -> None:
    """Lines of generations.jsonl."""
    for mode, groups in graded.items():
        for row in (row for group in groups for row in group):
            file.write(json.dumps(row.to_json(policy=policy, mode=mode), ensure_ascii=False) + "\n")


def headlines(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every estimate of the report by metric name: `sft.greedy`, `ppo - sft.greedy`, `reward_model.accuracy`."""
    return {f"{name}.{metric}": estimate
            for section in ("policies", "differences", "reward_models") for name, row in report[section].items()
            for metric, estimate in row.items()
            if isinstance(estimate, dict) and set(estimate) == {"value", "low", "high", "n"}
            and not math.isnan(estimate["low"])}


def as_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Estimates as JSON objects."""
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def finite(value: Any) -> Any:
    """The value with null for what JSON cannot say (nan)."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
