"""The evaluate stage on tiny real models, with an engine whose policies are right as often as their names say."""

from __future__ import annotations

import json
import random

import pytest
import torch

from alignment import exam
from alignment.likelihood import likelihoods, runs
from alignment.metrics import documented
from alignment.models import load_policy, new_model, save_policy
from alignment.rollout.engine import Generation
from alignment.stages import evaluate
from data.chat import completion_ids, render_prompt
from data.finance.errors import corrupt
from data.finance.generator import questions, solution_text
from data.rows import read_rows
from data.schema import Document, Question, UserError
from data.tokenizer import build_tokenizer
from reward.model import RewardModel
from tests.alignment.stage_made import make_stage, notes, result

SMALL = {"num_questions": 40, "num_samples": 2, "num_pairs": 20, "best_of": 4, "num_documents": 6, "num_drills": 20,
         "bootstrap": 100}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders by name: `p30` is right in 30% of the cases; and a reward model."""
    root = tmp_path_factory.mktemp("models")
    asked = questions("train", count=60, seed=0)
    tokenizer = build_tokenizer([text for one in asked for text in (one.prompt, solution_text(one))], vocab_size=420)
    for place, name in enumerate(("p30", "p70", "p0")):
        model = new_model(tokenizer, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, seed=place)
        save_policy(model, tokenizer, root / name)
    RewardModel(model, features="likelihood").save(root / "rm", tokenizer)
    return {path.name: path for path in root.iterdir()}, tokenizer


class FakeEngine:
    """Answers with the gold solution or a corrupted one."""

    name = "fake"

    def __init__(self, model, tokenizer, max_length):
        self.tokenizer, self.max_length, self.pushed, self.calls = tokenizer, max_length, [], []
        self.questions = {tuple(render_prompt(tokenizer, one)): one for one in questions("test", count=60, seed=0)}
        self.push(model)

    def push(self, model):
        self.pushed.append(model.name_or_path.rpartition("/")[2])

    def generate(self, prompts, sampling, seeds):
        self.calls.append((self.pushed[-1], len(prompts), sampling.temperature, list(seeds)))
        return [self._one(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _one(self, prompt, seed):
        draw = random.Random(seed)
        question = self.questions[tuple(prompt)]
        right = draw.random() < int(self.pushed[-1][1:]) / 100
        text = solution_text(question) if right else corrupt(question, draw).text
        truncated = draw.random() < 0.05
        ids = completion_ids(self.tokenizer, text, not truncated)
        return Generation(ids, [-0.1] * len(ids), "length" if truncated else "stop")

    def close(self):
        self.closed = True


def fake_engines(monkeypatch, folders):
    """The engines that the stage makes from now on."""
    made = []

    def make_engine(path, rollout, *, max_length, model, group, serving):
        made.append(FakeEngine(model, folders[1], max_length))
        return made[-1]

    monkeypatch.setattr(exam, "make_engine", make_engine)
    return made


@pytest.fixture
def engines(monkeypatch, folders):
    return fake_engines(monkeypatch, folders)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, folders):
    """One whole evaluation of two policies and a reward model."""
    paths = folders[0]
    stage = make_stage(tmp_path_factory.mktemp("stage"), "evaluate", compare=["ppo - sft"], **SMALL,
                       inputs={"sft": paths["p30"], "ppo": paths["p70"], "reward_model": paths["rm"]})
    with pytest.MonkeyPatch.context() as patch:
        engines = fake_engines(patch, folders)
        evaluate.run(stage)
    return stage, json.loads((stage.output / "evaluation.json").read_text()), engines


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_headline_numbers_are_those_of_the_generations(evaluated):
    stage, report, _ = evaluated
    rows = lines(stage.output / "generations.jsonl")
    for policy in ("sft", "ppo"):
        for mode in ("greedy", "sampled"):
            right = [row["correct"] for row in rows if row["policy"] == policy and row["mode"] == mode]
            assert len(right) == 40 * (1 if mode == "greedy" else 2)
            assert report["policies"][policy][mode]["value"] == pytest.approx(sum(right) / len(right))
    gain = report["policies"]["ppo"]["greedy"]["value"] - report["policies"]["sft"]["greedy"]["value"]
    assert gain > 0.1
    assert report["differences"]["ppo - sft"]["greedy"]["value"] == pytest.approx(gain)
    assert result(stage)["ppo - sft.greedy"] == report["differences"]["ppo - sft"]["greedy"]


def test_every_result_is_documented_and_has_its_interval(evaluated):
    stage, _, _ = evaluated
    found = result(stage)
    for name, estimate in found.items():
        documented(name, "evaluate")
        assert estimate["low"] <= estimate["value"] + 1e-9 and estimate["value"] <= estimate["high"] + 1e-9
        assert estimate["n"] > 0
    assert {"sft.greedy", "ppo.pass_at_2", "sft.perplexity", "ppo.drills", "sft.cloze", "ppo - sft.sampled",
            "reward_model.accuracy", "reward_model.best_of_gain"} <= set(found)


def test_groups_add_up(evaluated):
    _, report, _ = evaluated
    for policy in report["policies"].values():
        for group in ("by_kind", "by_language"):
            right = sum(row["greedy"]["value"] * row["greedy"]["n"] for row in policy[group].values())
            assert right == pytest.approx(policy["greedy"]["value"] * 40)
            assert sum(row["greedy"]["n"] for row in policy[group].values()) == 40
        assert sum(policy["errors"].values()) == round(40 * (1 - policy["greedy"]["value"]))
    assert report["policies"]["sft"]["pass_at_k"]["1"]["value"] == pytest.approx(
        report["policies"]["sft"]["sampled"]["value"])


def test_a_truncated_answer_is_wrong(evaluated):
    stage, report, _ = evaluated
    cut = [row for row in lines(stage.output / "generations.jsonl") if row["finish_reason"] == "length"]
    assert cut and not any(row["correct"] for row in cut)
    assert all(row["error_kind"] for row in cut)
    assert report["policies"]["sft"]["truncated"]["value"] == sum(
        row["policy"] == "sft" and row["mode"] == "greedy" for row in cut) / 40


def test_one_engine_serves_all_with_one_call_a_mode_and_common_seeds(evaluated):
    _, _, engines = evaluated
    assert len(engines) == 1 and engines[0].pushed == ["p30", "p70"] and engines[0].closed
    exam_calls = [call for call in engines[0].calls if call[1] in (40, 80)]
    assert [call[:3] for call in exam_calls] == [("p30", 40, 0.0), ("p30", 80, 1.0), ("p70", 40, 0.0), ("p70", 80, 1.0)]
    assert exam_calls[0][3] == exam_calls[2][3] and exam_calls[1][3] == exam_calls[3][3]
    assert len(set(exam_calls[1][3])) == 80


def test_the_reward_model_is_measured_on_the_policys_samples(evaluated):
    stage, report, _ = evaluated
    rows = lines(stage.output / "reward_samples.jsonl")
    assert {row["policy"] for row in rows} == {"sft"} and all("reward_model" in row["scores"] for row in rows)
    found = report["reward_models"]["reward_model"]
    assert found["best_of_mean"]["value"] == pytest.approx(sum(row["correct"] for row in rows) / len(rows))
    assert found["accuracy"]["n"] == 20 and found["best_of"]["n"] == len(rows) / 4
    assert "20 held-out pairs" in notes(stage)
    best = {}
    for row in sorted(rows, key=lambda row: row["scores"]["reward_model"]):
        best[row["question_id"]] = row["correct"]
    picked = sum(best.values()) / len(best)
    assert found["best_of"]["value"] == pytest.approx(picked, abs=0.05)  # ties share


def test_questions_are_held_out_and_the_same_whatever_the_seed(evaluated):
    stage, report, _ = evaluated
    asked = read_rows(stage.output / "questions.jsonl", Question)
    assert asked == questions("test", count=40, seed=0)
    assert report["questions"]["n"] == 40 and report["questions"]["clusters"] == len({q.operand_key for q in asked})


def test_two_reward_models_share_the_samples(tmp_path, folders, engines):
    paths = folders[0]
    stage = make_stage(tmp_path, "evaluate", inputs={"sft": paths["p30"], "reward_a": paths["rm"],
                                                     "reward_b": paths["rm"]}, **SMALL)
    evaluate.run(stage)
    found = result(stage)
    assert found["reward_a.accuracy"] == found["reward_b.accuracy"]
    assert {row["policy"] for row in lines(stage.output / "generations.jsonl")} == {"sft"}


def test_a_policy_that_is_never_right_gives_no_pairs_and_says_so(tmp_path, folders, engines):
    paths = folders[0]
    stage = make_stage(tmp_path, "evaluate", inputs={"sft": paths["p0"], "reward_model": paths["rm"]},
                       **(SMALL | {"num_pairs": 5}))
    evaluate.run(stage)
    assert result(stage)["sft.greedy"]["value"] == 0
    assert not any(name.startswith("reward_model") for name in result(stage))
    assert "0 held-out pairs" in notes(stage) and "reward_model is not measured" in notes(stage)
    json.loads((stage.output / "evaluation.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(("keys", "message"), [
    ({"compare": ["ppo - sft"]}, "'ppo' is none"), ({"compare": ["sft"]}, "POLICY - POLICY"),
    ({"reward_policy": "ppo"}, "reward_policy=ppo is not a policy")])
def test_names_that_are_no_policy(tmp_path, folders, engines, keys, message):
    paths = folders[0]
    stage = make_stage(tmp_path, "evaluate", inputs={"sft": paths["p30"], "reward_model": paths["rm"]}, **SMALL, **keys)
    with pytest.raises(UserError, match=message):
        evaluate.run(stage)
    assert not engines


def test_drills_count_all_results_but_the_first():
    document = Document(id="d", source="drill", segments=(
        (" 1 + 1 =", False), (" 2\n", True), (" 2 + 1 =", False), (" 3\n", True), (" 3 + 1 =", False), (" 4\n", True)))
    assert exam.graded_expressions(document) == [" 2 + 1 =", " 3 + 1 ="]
    assert exam.trained_bytes(document) == 9


# Teacher-forced likelihoods ------------------------------------------------------------------------------------------


@pytest.fixture
def model(folders):
    return load_policy(folders[0]["p30"])


def test_likelihoods_equal_one_row_at_a_time(model):
    generator = random.Random(0)
    rows = []
    for length in (5, 17, 9, 30, 2):
        ids = [generator.randrange(4, 300) for _ in range(length)]
        rows.append((ids, [-100 if generator.random() < 0.5 else token for token in ids]))
    batched = likelihoods(model, rows, max_tokens=64)
    for (ids, labels), found in zip(rows, batched, strict=True):
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = [float(logprobs[place - 1, token]) for place, token in enumerate(labels) if place and token != -100]
        assert found.logprob == pytest.approx(sum(wanted), abs=1e-4) and found.num_tokens == len(wanted)


def test_a_greedy_continuation_is_recognised(model):
    prompt = [5, 6, 7]
    made = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    ids = made[0].tolist()
    wrong = [*ids[:-1], (ids[-1] + 1) % 300]
    labels = [-100] * 3
    assert [found.runs for found in likelihoods(model, [(ids, labels + ids[3:]), (wrong, labels + wrong[3:])])] == [
        (True,), (False,)]


def test_runs_are_told_apart():
    assert runs([False, True, True, False, True], [True, True, True, False, False]) == [True, False]
    assert runs([False, False], [True, True]) == []
