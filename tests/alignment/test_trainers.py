"""Packing isolates examples, labels land where they should, and resumed training equals uninterrupted training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
from trl import SFTConfig

from alignment.checkpoints import MARKER, complete_checkpoints
from alignment.kinds import Sft
from alignment.models import new_model
from alignment.packing import Example, RowCollator, packed_rows, padded_rows
from alignment.selection import BestWeights
from alignment.stage import Rollout, Stage
from alignment.trainers import LanguageModelTrainer, labelled_nll, quiet, training_arguments
from data.schema import UserError
from data.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    quiet()
    return build_tokenizer(["revenue was 46 million", "net margin is 12%"] * 20, vocab_size=300)


def tiny(tokenizer: PreTrainedTokenizerBase, architecture: str = "qwen3") -> PreTrainedModel:
    return new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3,
                     architecture=architecture)


def toy_examples(count: int, *, completion_only: bool, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    examples = []
    for _ in range(count):
        ids = [rng.randrange(5, 250) for _ in range(rng.randint(5, 30))]
        context = rng.randint(1, len(ids) - 1) if completion_only else 0
        examples.append((ids, [-100] * context + ids[context:]))
    return examples


def make_stage(folder: Path, **config: Any) -> Stage:
    settings = {"max_steps": 6, "batch_size": 4, "max_length": 64, "learning_rate": 3e-3, "warmup_steps": 2,
                "log_every": 1, "save_every": 2, "optimizer": "muon"} | config
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return Stage(name="tiny", kind="sft", config=Sft(**settings), inputs={}, data={}, rollout=Rollout(), seed=7,
                 root_seed=0, output=folder / "out", scratch=folder / "scratch", events=folder / "events.jsonl")


def make_trainer(stage: Stage, tokenizer: PreTrainedTokenizerBase, **options: Any) -> LanguageModelTrainer:
    rows = packed_rows(toy_examples(60, completion_only=True), max_length=64, split=False)
    arguments = SFTConfig(**training_arguments(stage), max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    return LanguageModelTrainer(model=options.pop("model", None) or tiny(tokenizer), args=arguments,
                                train_dataset=rows, data_collator=RowCollator(0), processing_class=tokenizer,
                                stage=stage, **options)


def events(stage: Stage, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in stage.events.read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("completion_only", [False, True], ids=["documents", "completions"])
def test_packed_loss_equals_the_loss_of_each_example_alone(tokenizer: PreTrainedTokenizerBase, architecture: str,
                                                           completion_only: bool) -> None:
    model = tiny(tokenizer, architecture)
    examples = toy_examples(40, completion_only=completion_only)
    alone, count_alone = 0.0, 0
    per_token = []
    for ids, labels in examples:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        losses = F.cross_entropy(logits, torch.tensor(labels[1:]), reduction="none").detach()
        per_token += [float(loss) for loss, label in zip(losses, labels[1:], strict=True) if label != -100]
        alone, count_alone = alone + float(losses.sum()), count_alone + sum(label != -100 for label in labels[1:])
    rows = packed_rows(examples, max_length=64, split=False)
    assert len(rows) < len(examples)
    assert max(map(len, rows["seq_lengths"])) > 1
    packed, count = 0.0, 0
    found = []
    for start in range(0, len(rows), 5):
        batch = RowCollator(0)([rows[index] for index in range(start, min(start + 5, len(rows)))])
        total, tokens = labelled_nll(model, batch)
        packed, count = packed + float(total.detach()), count + tokens
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none").detach()
        found += losses[batch["labels"][:, 1:] != -100].tolist()
    assert count == count_alone
    assert abs(packed / count - alone / count) <= 5e-5
    difference = torch.tensor(sorted(found)) - torch.tensor(sorted(per_token))
    assert difference.abs().max() <= 5e-5
    assert difference.abs().mean() <= 5e-6


def test_an_attention_leak_would_be_seen(tokenizer: PreTrainedTokenizerBase) -> None:
    """The control of the test above: without restarting positions the loss is another one."""
    model, rows = tiny(tokenizer), packed_rows(toy_examples(40, completion_only=False), max_length=64, split=False)
    batch = RowCollator(0)([rows[0], rows[1]])
    leaky = dict(batch, position_ids=torch.arange(batch["input_ids"].size(1)).expand_as(batch["input_ids"]))
    right, wrong = labelled_nll(model, batch)[0], labelled_nll(model, leaky)[0]
    assert abs(float(right.detach() - wrong.detach())) > 1e-2


def test_the_collator_never_learns_padding_or_first_tokens() -> None:
    rows = [{"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]},
            {"input_ids": [4, 3], "labels": [-100, 3], "seq_lengths": [2]}]
    batch = RowCollator(0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, -100, 8, 9], [-100, 3, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 1, 2]]


def test_packing_keeps_every_token_and_label() -> None:
    """Long documents go on in the next row, long solutions are cut; nothing else is lost, labels stay beside ids."""
    examples = [*toy_examples(30, completion_only=True), (list(range(5, 155)), list(range(5, 155)))]
    pairs = sorted(pair for ids, labels in examples for pair in zip(ids, labels, strict=True))
    split = packed_rows(examples, max_length=64, split=True)
    assert sorted(pair for row in split for pair in zip(row["input_ids"], row["labels"], strict=True)) == pairs
    cut = packed_rows(examples, max_length=64, split=False)
    assert sum(map(len, cut["input_ids"])) == len(pairs) - (150 - 64)
    assert max(map(len, cut["input_ids"])) <= 64
    assert padded_rows(examples, max_length=64)["seq_lengths"][-1] == [64]


def test_our_loss_equals_trls(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """The head at labelled tokens only against TRL's fused head: loss and gradients."""
    trainer = make_trainer(make_stage(tmp_path), tokenizer)
    assert trainer.plain_head
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    results = []
    for plain in (True, False):
        trainer.plain_head = plain
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(50))
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in trainer.model.parameters()]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_logits_in_chunks_give_the_same_loss(tokenizer: PreTrainedTokenizerBase,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(tokenizer)
    batch = RowCollator(0)(list(packed_rows(toy_examples(10, completion_only=False), max_length=64, split=False)))
    whole, count = labelled_nll(model, batch)
    monkeypatch.setattr("alignment.trainers.LOGITS_LIMIT", 8 * len(tokenizer) * 7)
    parts, same_count = labelled_nll(model, batch)
    assert count == same_count
    assert torch.allclose(whole, parts, rtol=1e-5)


def test_micro_batches_add_up_to_the_batch(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Weights after training agree however the batch is cut, though rows have different numbers of labels."""
    weights = []
    for micro in (4, 1):
        trainer = make_trainer(make_stage(tmp_path / str(micro), micro_batch_size=micro, max_steps=3), tokenizer)
        trainer.run()
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        assert (one - other).abs().max() < 2e-5


def test_a_batch_that_micro_batches_do_not_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size 4 is not a multiple of micro_batch_size 3"):
        training_arguments(make_stage(tmp_path, micro_batch_size=3))


class Killed(Exception):
    pass


def test_resumed_training_equals_uninterrupted_training(tokenizer: PreTrainedTokenizerBase, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while saving step 4: goes on from step 2, ends with the same weights and the same losses, bit for bit.

    60 examples make an epoch of few batches, so the run crosses epochs; the best step on dev is remembered too.
    """
    def trained(folder: Path, *, kill: bool) -> tuple[LanguageModelTrainer, BestWeights, Stage]:
        stage = make_stage(folder, max_steps=9)
        best = BestWeights(stage, lambda model: {"dev_loss": float(model.lm_head.weight.detach().sum())},
                           key="dev_loss", higher=False, every=1, patience=99)
        trainer = make_trainer(stage, tokenizer, memory=best, callbacks=[best])
        if kill:
            save = BestWeights.save

            def dies(self: BestWeights, folder: Path) -> None:
                save(self, folder)
                if folder.name == "checkpoint-4":
                    raise Killed

            monkeypatch.setattr(BestWeights, "save", dies)
            with pytest.raises(Killed):
                trainer.run()
            monkeypatch.undo()
            stage.events.unlink()  # as whoever starts a stage does
            return trained(folder, kill=False)
        trainer.run()
        return trainer, best, stage

    whole, best_whole, stage_whole = trained(tmp_path / "whole", kill=False)
    checkpoints = tmp_path / "resumed" / "scratch" / "checkpoints"
    resumed, best_resumed, stage_resumed = trained(tmp_path / "resumed", kill=True)
    assert all((folder / MARKER).exists() for folder in complete_checkpoints(checkpoints))
    assert resumed.state.global_step == whole.state.global_step == 9
    steps = [row["step"] for row in events(stage_resumed, "metrics") if "loss" in row["metrics"]]
    assert steps == [*range(1, 10)]  # those before the checkpoint too
    losses = [{row["step"]: row["metrics"]["loss"] for row in events(stage, "metrics") if "loss" in row["metrics"]}
              for stage in (stage_whole, stage_resumed)]
    assert losses[0] == losses[1]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (best_whole.step, best_whole.value) == (best_resumed.step, best_resumed.value)
    assert all(torch.equal(value, best_resumed.weights[name]) for name, value in best_whole.weights.items())


def ended(folder: Path, tokenizer: PreTrainedTokenizerBase, *, worse_after: int) -> tuple[Any, ...]:
    """Trains to the end, or goes on from there: steps, best step, weights, losses, configs. The dev loss is 1 / step,
    and 9 more after step `worse_after`."""
    stage = make_stage(folder, max_steps=8, schedule="constant")
    stage.events.unlink(missing_ok=True)
    at = {"step": 0}

    class Step(TrainerCallback):
        def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
            at["step"] = state.global_step

    best = BestWeights(stage, lambda model: {"dev_loss": 1 / at["step"] + (9 if at["step"] > worse_after else 0)},
                       key="dev_loss", higher=False, every=2, patience=1)
    trainer = make_trainer(stage, tokenizer, memory=best, callbacks=[Step(), best])
    trainer.run()
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    best.restore(trainer.model)
    weights += [parameter.detach().clone() for parameter in trainer.model.parameters()]
    losses = [(row["step"], row["metrics"]["loss"]) for row in events(stage, "metrics") if "loss" in row["metrics"]]
    return (trainer.state.global_step, best.step, weights, losses,
            (trainer.model.config.to_dict(), trainer.model.generation_config.to_dict()))


@pytest.mark.parametrize(("worse_after", "last", "best"), [(99, 8, 8), (2, 4, 2)], ids=["all steps", "stopped early"])
def test_training_that_has_ended_is_not_trained_further(tokenizer: PreTrainedTokenizerBase, tmp_path: Path,
                                                        worse_after: int, last: int, best: int) -> None:
    """A kill may come after the last checkpoint, while the stage measures and saves its model."""
    first = ended(tmp_path, tokenizer, worse_after=worse_after)
    again = ended(tmp_path, tokenizer, worse_after=99)
    for steps, best_step, _, losses, _ in (first, again):
        assert (steps, best_step, [step for step, _ in losses]) == (last, best, [*range(1, last + 1)])
    assert all(torch.equal(one, other) for one, other in zip(first[2], again[2], strict=True))
    assert first[3:] == again[3:]


@pytest.mark.parametrize(("asked", "leaves"), [(3, True), (6, False)], ids=["in the middle", "in the last step"])
def test_sigterm_leaves_a_checkpoint_of_its_step_to_go_on_from(tokenizer: PreTrainedTokenizerBase, tmp_path: Path,
                                                               asked: int, leaves: bool) -> None:
    def trained(folder: Path, *, stop: bool) -> LanguageModelTrainer:
        class Stop(TrainerCallback):
            def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
                if stop and state.global_step == asked - 1:
                    signal.raise_signal(signal.SIGTERM)

        trainer = make_trainer(make_stage(folder, save_every=50), tokenizer, callbacks=[Stop()])
        with pytest.raises(SystemExit) if stop and leaves else contextlib.nullcontext():
            trainer.run()
        return trainer

    whole, stopped = trained(tmp_path / "whole", stop=False), trained(tmp_path / "stopped", stop=True)
    kept = complete_checkpoints(tmp_path / "stopped/scratch/checkpoints")
    assert [folder.name for folder in kept] == [f"checkpoint-{asked}"] and stopped.state.global_step == asked
    resumed = trained(tmp_path / "stopped", stop=False)
    assert resumed.state.global_step == 6
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_last_two_checkpoints_are_kept_also_while_a_third_is_written(tokenizer: PreTrainedTokenizerBase,
                                                                         tmp_path: Path) -> None:
    stage = make_stage(tmp_path, max_steps=8)
    kept: list[list[int]] = []

    class Look:
        """A memory: saved last before the marker."""

        def save(self, folder: Path) -> None:
            kept.append([int(path.name.partition("-")[2]) for path in complete_checkpoints(folder.parent)])

        def load(self, folder: Path) -> None:
            raise AssertionError

    make_trainer(stage, tokenizer, memory=Look()).run()
    assert kept == [[], [2], [2, 4], [4, 6]]
    assert sorted(path.name for path in (stage.scratch / "checkpoints").iterdir()) == ["checkpoint-6", "checkpoint-8"]


def test_a_checkpoint_without_its_marker_does_not_count(tmp_path: Path) -> None:
    for step in (2, 10, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step != 10:
            (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]


def test_a_diverged_run_stops_and_says_so(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = tiny(tokenizer)
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        make_trainer(make_stage(tmp_path), tokenizer, model=model).run()


def test_best_weights_stop_after_patience_and_come_back(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 1.0, 2.0, 0.5])
    seen: list[torch.Tensor] = []

    def measure(model: PreTrainedModel) -> dict[str, float]:
        seen.append(model.lm_head.weight.detach().clone())
        return {"dev_loss": next(values)}

    stage = make_stage(tmp_path, max_steps=20, save_every=100)
    best = BestWeights(stage, measure, key="dev_loss", higher=False, every=2, patience=2)
    trainer = make_trainer(stage, tokenizer, memory=best, callbacks=[best])
    trainer.run()
    assert (trainer.state.global_step, best.step, best.value) == (8, 4, 1.0)
    assert not torch.equal(trainer.model.lm_head.weight, seen[1])
    best.restore(trainer.model)
    assert torch.equal(trainer.model.lm_head.weight, seen[1])
    logged = [row for row in events(stage, "metrics") if "dev_loss" in row["metrics"]]
    assert [row["step"] for row in logged] == [2, 4, 6, 8]


def test_a_stage_is_silent_and_tells_its_progress(tokenizer: PreTrainedTokenizerBase, tmp_path: Path,
                                                  capfd: pytest.CaptureFixture[str]) -> None:
    stage = make_stage(tmp_path, max_steps=3)
    make_trainer(stage, tokenizer).run()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert events(stage, "progress")[-1]["done"] == 3
    assert set(events(stage, "metrics")[0]["metrics"]) == {"loss", "grad_norm", "learning_rate"}


def test_config_reaches_the_trainer(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, batch_size=8, micro_batch_size=2, schedule="constant", precision="fp32")
    arguments = SFTConfig(**training_arguments(stage))
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 4)
    assert arguments.lr_scheduler_type == "constant_with_warmup"
    assert not arguments.bf16
    other = dataclasses.replace(stage, seed=8)
    assert training_arguments(stage)["seed"] != training_arguments(other)["seed"]
