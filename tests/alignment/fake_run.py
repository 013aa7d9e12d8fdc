"""A run's folder as a chain leaves it, with made-up answers of known accuracy, for tests of report and evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignment.policy_quality import Answers, Marking
from alignment.reward_quality import Sampled, draw_pairs, measure
from data.schema import Question

ACCURACY = {"base": 0.0, "pretrain": 0.02, "sft": 0.42, "ppo": 0.54}
KINDS = ("net_margin", "eps", "net_debt")


def made_up_questions(count: int) -> list[Question]:
    return [Question(id=f"q{n}", source="finance", kind=KINDS[n % 3], language="zh" if n % 2 else "en",
                     prompt=f"Company {n} earns 6 million on 40 million. What is its margin?",
                     steps=("Margin: 6 / 40 = 15%",), answer="15%", operand_key=f"k{n % (count // 2)}")
            for n in range(count)]


def made_up_answers(accuracy: float, generator: np.random.Generator, count: int, num_samples: int) -> Answers:
    greedy = generator.random(count) < accuracy
    return Answers(
        greedy=greedy, sampled=generator.random((count, num_samples)) < 0.9 * accuracy,
        truncated=generator.random(count) < 0.05, length=generator.integers(20, 50, count).astype(float),
        errors=[None if right else "slipped_digit" for right in greedy.tolist()],
        text_logprob=-generator.uniform(40, 60, 30), text_tokens=np.full(30, 30.0), text_bytes=np.full(30, 110.0),
        drills=generator.random(40) < 0.6, cloze=generator.random(20) < accuracy)


def evaluation(questions: list[Question], answers: Mapping[str, Answers], compare: list[tuple[str, str]],
               seed: int) -> dict[str, Any]:
    """An evaluation.json in the shape alignment/stages/evaluate.py writes."""
    marking = Marking(questions, num_texts=30, drills=[n // 8 for n in range(40)], num_cloze=20, resamples=200, seed=0)

    def plain(estimates: Mapping[str, Any]) -> dict[str, Any]:
        return {name: estimate.to_json() for name, estimate in estimates.items()}

    generator = np.random.default_rng(seed)
    correct = generator.random((200, 8)) < 0.4
    kinds = np.where(correct, None, generator.choice(np.array(["slipped_digit", "wrong_fact"]), correct.shape))
    sampled = Sampled(keys=list(range(200)), correct=correct,
                      logprob=generator.normal(size=correct.shape) + correct * 0.5,
                      length=generator.integers(20, 50, correct.shape).astype(float), error_kind=kinds)
    headline, detail = measure(generator.normal(size=correct.shape) + 1.5 * correct, sampled,
                               draw_pairs(correct, seed=0), resamples=200, seed=0)
    differences = {}
    for left, right in compare:
        found, by_group = marking.difference(answers[left], answers[right])
        differences[f"{left} - {right}"] = plain(found) | by_group
    return {
        "settings": {"engine": "transformers", "num_samples": 4, "temperature": 1.0, "max_new_tokens": 96, "best_of": 8,
                     "reward_policy": "sft", "bootstrap": 200},
        "questions": {"n": len(questions), "clusters": len(questions) // 2, "by_kind": {}, "by_language": {}},
        "policies": {name: plain(marking.headline(row)) | marking.detail(row) | {"seconds": 3.0}
                     for name, row in answers.items()},
        "differences": differences,
        "reward_models": {"reward_model": plain(headline) | detail},
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def fake_run(folder: Path, *, seed: int = 0, accuracy: Mapping[str, float] = ACCURACY, count: int = 120,
             text: str = "Margin: 6 / 40 = 15%\nAnswer: 15%", evaluated: bool = True) -> Path:
    """Writes the folder; `text` is what every policy answers."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    questions = made_up_questions(count)
    answers = {name: made_up_answers(share, generator, count, 4) for name, share in accuracy.items()}
    names = list(accuracy)
    stages: dict[str, Any] = {
        name: {"kind": name if name != "base" else "pretrain", "status": "ran", "seconds": 12.5,
               "identity": f"{n:016x}", "metrics": {"dev_loss": 0.5 + n},
               "notes": ["120 rows kept"]} for n, name in enumerate(names)}
    if evaluated:
        stage = folder / "stages" / "evaluate"
        stage.mkdir(parents=True)
        report = evaluation(questions, answers, [("sft", "pretrain"), ("ppo", "sft")], seed)
        (stage / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")
        write_lines(stage / "questions.jsonl", [question.to_json() for question in questions])
        write_lines(stage / "generations.jsonl", [
            {"policy": name, "mode": "greedy", "question_id": question.id, "operand_key": question.operand_key,
             "sample": 0, "text": text, "finish_reason": "stop", "correct": bool(right), "error_kind": error}
            for name, row in answers.items()
            for question, right, error in zip(questions, row.greedy, row.errors, strict=True)])
        stages["evaluate"] = {"kind": "evaluate", "status": "ran", "seconds": 40.0, "identity": "e" * 16, "notes": [],
                              "metrics": {}}
    write_lines(folder / "metrics.jsonl", [
        {"stage": "sft", "step": 20 * n, "time": 0.0, "loss": 2 * math.exp(-n / 5), "dev_loss": 2.1 * math.exp(-n / 6)}
        for n in range(12)] + [
        {"stage": "ppo", "step": n, "time": 0.0, "reward": n / 80 + generator.normal() / 20, "kl_sequence": n / 60,
         "kl": n / 900, "entropy": 1 - n / 100, "reward_rule": n / 90, "reward_reward_model": n / 300,
         "length": 30 + n / 10} for n in range(60)])
    record = {
        "format": 1, "recipe": "ppo_fin", "name": "seed1", "scale": "full", "status": "done",
        "argv": ["recipe=ppo_fin"], "started": 1.7e9, "seconds": 402.0,
        "seeds": {"root": seed, "stages": dict.fromkeys(names, 7)},
        "exactness": {"threads": 1, "isa": "avx2"}, "code": {"alignment.stats": "ab" * 32}, "commit": "c0ffee",
        "packages": {"python": "3.11.2", "torch": "2.13.0"},
        "machine": {"processor": "A Processor", "cores": 2, "memory_gib": 8.0, "isa": ["avx2"], "gpus": []},
        "data": {"config": {"source": "finance"}, "files": {}}, "base_model": {"path": "embedded", "identity": "00"},
        "gates": [], "notes": [], "stages": stages, "files": {}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "config.yaml").write_text("recipe: ppo_fin\n", encoding="utf-8")
    return folder
