"""DPO: its first loss, its tokens, its losses by name, and the stage from pairs on disk to a model folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import DPOTrainer

from alignment import preference_trainers
from alignment.kinds import Dpo
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.preference_trainers import DirectPreferenceTrainer
from alignment.stage import Rollout, Stage
from alignment.stages import dpo
from data.chat import completion_ids, render_example, render_prompt
from data.rows import write_rows
from data.schema import PreferencePair, UserError
from data.tokenizer import build_tokenizer

TEXTS = ["revenue was 46 million", "net margin is 12%", "so the answer is 9"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer(TEXTS * 20, vocab_size=300)
    model = new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3)
    save_policy(model, tokenizer, folder)
    return folder


def pair(number: int, **changes: Any) -> PreferencePair:
    values: dict[str, Any] = {
        "id": f"p{number}", "prompt": [{"role": "user", "content": f"revenue was {number}, so?"}],
        "chosen": f"the answer is {number}", "rejected": "net margin is 12% or so", "origin": "rule",
        "annotator": "rule", "operand_key": f"k{number}"}
    return PreferencePair(**(values | changes))


def make_stage(folder: Path, base: Path, pairs: list[PreferencePair] | None = None, **config: Any) -> Stage:
    rows = pairs or [pair(number) for number in range(24)]
    write_rows(folder / "pairs" / "train.jsonl", rows[:-6])
    write_rows(folder / "pairs" / "dev.jsonl", rows[-6:])
    settings = {"max_steps": 8, "batch_size": 6, "learning_rate": 3e-3, "warmup_steps": 0, "log_every": 1,
                "schedule": "constant", "loss": ["sigmoid"], "loss_weights": [1.0]} | config
    return Stage(name="dpo", kind="dpo", config=Dpo(**settings), inputs={"policy": base, "pairs": folder / "pairs"},
                 data={}, rollout=Rollout(), seed=5, root_seed=0, output=folder / "out", scratch=folder / "scratch",
                 events=folder / "events.jsonl")


def told(stage: Stage, kind: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, stage.events.read_text().splitlines()) if row["event"] == kind]


def make_trainer(stage: Stage, base: Path, rows: list[dpo.Tokens]) -> DirectPreferenceTrainer:
    trainer = preference_trainers.make_trainer(stage, load_policy(base), load_tokenizer(base), rows)
    assert isinstance(trainer, DirectPreferenceTrainer)
    return trainer


def test_the_stage_learns_the_preference_and_reports_it(base: Path, tmp_path: Path) -> None:
    """The first loss is ln 2: policy and reference are the same. Then the chosen side pulls ahead, held out too."""
    stage = make_stage(tmp_path, base)
    dpo.run(stage)
    lines = [row["metrics"] for row in told(stage, "metrics")]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["loss"] < 0.6
    assert lines[-1]["margin"] > lines[0]["margin"]
    assert set(lines[0]) == {"loss", "grad_norm", "learning_rate", "pair_accuracy", "margin", "chosen_logprob",
                             "rejected_logprob"}
    result = told(stage, "result")[0]["metrics"]
    assert result["pair_accuracy"]["value"] == 1.0
    assert result["pair_accuracy"]["n"] == result["dev_rows"] == 6
    assert result["rejected_logprob_change"] < 0 < result["margin"]
    trained = load_policy(stage.output)
    assert not torch.equal(trained.lm_head.weight, load_policy(base).lm_head.weight)


def test_logged_log_probabilities_are_the_policys(base: Path, tmp_path: Path) -> None:
    """TRL's sums over the completion equal a plain log_softmax over our tokens, EOS included and prompt excluded."""
    tokenizer, model = load_tokenizer(base), load_policy(base)
    stage = make_stage(tmp_path, base, max_steps=1)
    _, rows = dpo.read_pairs(stage, tokenizer, "train")
    trainer = make_trainer(stage, base, rows[:6])
    trainer.run()
    expected = []
    for row in rows[:6]:
        ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
        logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1).detach()
        own = logprobs.gather(1, ids[0, 1:, None])[len(row["prompt_ids"]) - 1:]
        expected.append(float(own.sum()))
    assert told(stage, "metrics")[0]["metrics"]["chosen_logprob"] == pytest.approx(sum(expected) / 6, abs=1e-3)
    assert dpo.logprobs(model, rows[:6])[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_tokens_are_those_of_chat_rendering_and_of_trl(base: Path, tmp_path: Path) -> None:
    """Golden tokens: prompt with generation prompt, completion, one EOS; TRL's own rendering agrees."""
    tokenizer = load_tokenizer(base)
    stage = make_stage(tmp_path, base)
    pairs, rows = dpo.read_pairs(stage, tokenizer, "train")
    first, row = pairs[0], rows[0]
    text = f"<user>{first.prompt[0]['content']}<assistant>{first.chosen}<eos>"
    assert tokenizer.decode(row["prompt_ids"] + row["chosen_ids"]) == text
    assert row["chosen_ids"].count(tokenizer.eos_token_id) == 1
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == tokenizer.eos_token_id
    assert row["prompt_ids"] + row["chosen_ids"] == render_example(tokenizer, first.prompt, first.chosen)[0]
    trainer = make_trainer(stage, base, rows)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    learnt = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)]
    assert learnt == [each["chosen_ids"] for each in rows[:4]] + [each["rejected_ids"] for each in rows[:4]]
    messages = Dataset.from_list([{
        "prompt": each.prompt, "chosen": [{"role": "assistant", "content": each.chosen}],
        "rejected": [{"role": "assistant", "content": each.rejected}]} for each in pairs])
    theirs = DPOTrainer._prepare_dataset(trainer, messages, tokenizer, trainer.args, "train")
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert list(theirs[name]) == [each[name] for each in rows]


def test_nll_alone_ignores_the_rejected_answers(base: Path, tmp_path: Path) -> None:
    """`loss: [sft]`: other rejected answers of the same length give the same weights, bit for bit."""
    weights = []
    for number, rejected in enumerate(("net margin is 12%", "net margin is 98%")):
        rows = [pair(each, rejected=rejected) for each in range(24)]
        stage = make_stage(tmp_path / str(number), base, rows, loss=["sft"], loss_weights=[1.0], max_steps=3)
        dpo.run(stage)
        weights.append(load_policy(stage.output).lm_head.weight)
        assert told(stage, "result")[0]["metrics"]["chosen_logprob_change"] > 0
    assert torch.equal(*weights)


def test_rows_of_unequal_weight_are_drawn_by_weight() -> None:
    pairs = [pair(0, weight=3.0), pair(1, weight=1.0), pair(2, weight=0.0)]
    rows = [{"prompt_ids": [number], "chosen_ids": [], "rejected_ids": []} for number in range(3)]
    assert dpo.weighted(pairs[:1] * 3, rows, seed=0) == rows
    drawn = [row["prompt_ids"][0] for seed in range(400) for row in dpo.weighted(pairs, rows, seed=seed)]
    assert drawn.count(2) == 0
    assert drawn.count(0) / drawn.count(1) == pytest.approx(3.0, rel=0.25)


@pytest.mark.parametrize(("config", "message"), [
    ({"loss": ["sigmod"]}, "sigmod.*choose from sigmoid"),
    ({"loss": []}, "choose from"),
    ({"loss": ["sigmoid", "sft"]}, "2 losses .* but 1 loss_weights"),
    ({"loss": ["kto", "sft"], "loss_weights": [1.0, 1.0]}, "learns from single answers .* stands alone"),
    ({"loss": ["kto"], "batch_size": 1}, "a micro-batch; let it hold 2 or more"),
    ({"loss": ["exo_pair"]}, "logarithm of label_smoothing; set it above 0"),
    ({"label_smoothing": 0.1}, r"label_smoothing=0.1: none of \['sigmoid'\] reads it; exo_pair, robust"),
    ({"max_length": 16}, "no pair fits max_length=16"),
])
def test_wrong_settings_say_so(base: Path, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dpo.run(make_stage(tmp_path, base, **config))


def test_long_pairs_are_dropped_and_counted(base: Path, tmp_path: Path) -> None:
    rows = [pair(number) for number in range(10)] + [pair(10, rejected="net margin " * 200)]
    stage = make_stage(tmp_path, base, [rows[-1], *rows[:-1]])
    kept, _ = dpo.read_pairs(stage, load_tokenizer(base), "train")
    assert "p10" not in {each.id for each in kept}
    assert "train: 1 of 5 pairs are longer than 256 tokens" in told(stage, "note")[0]["text"]


def test_prompt_and_completion_make_the_example(base: Path) -> None:
    tokenizer, row = load_tokenizer(base), pair(1)
    ids, labels = render_example(tokenizer, row.prompt, row.chosen)
    prompt, completion = render_prompt(tokenizer, row.prompt), completion_ids(tokenizer, row.chosen, True)
    assert (ids, labels) == (prompt + completion, [-100] * len(prompt) + completion)
