"""The stages `grpo` and `rloo`: TRL's trainers on this project's rollouts, against our own PPO and closed forms."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from alignment import group_trainer, losses
from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.group_rollouts import GroupRollouts, token_logprobs
from alignment.group_trainer import GroupTrainer, trained_on, without_padding
from alignment.kinds import KINDS, Grpo, Ppo, Rloo
from alignment.metrics import documented
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.ppo import PpoTrainer
from alignment.ppo_state import new_state
from alignment.question_pool import draw, question_pool
from alignment.rollout import TransformersEngine
from alignment.rollout.engine import Generation
from alignment.rollout.rows import Prompted
from alignment.stage import Rollout, Stage
from alignment.stages import grpo, rloo
from data.schema import Completion, Question, UserError
from reward import RewardError, Scores
from reward.model import RewardModel
from tests.alignment.stage_made import make_stage, result, said
from tests.alignment.test_ppo import QUESTION, Shorter
from tests.alignment.tiny_model import tiny_model

STAGES: dict[str, Any] = {"grpo": grpo, "rloo": rloo}
TIMES = ("seconds_generate", "seconds_score", "seconds_update")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 24 words, two of which end a completion."""
    words = {"<pad>": 0, "<unk>": 1, "<eos>": 2, "<end>": 3} | {f"w{number}": number for number in range(4, 24)}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")
    folder = tmp_path_factory.mktemp("policy")
    save_policy(tiny_model(vocab=24, eos=[2, 3], width=64), tokenizer, folder)  # heads 32 wide, as vLLM needs
    return folder


def stage_of(kind: str, folder: Path, policy: Path, **changes: Any) -> Stage:
    inputs = {"policy": policy, **changes.pop("inputs", {})}
    settings = {"num_iterations": 3, "num_prompts": 4, "num_samples": 4, "question_pool": 9, "max_new_tokens": 16,
                "minibatch_size": 8, "learning_rate": 3e-3, "eval_every": 1, "dev_examples": 4, "save_every": 100}
    return make_stage(folder, kind, inputs=inputs, **settings | changes)


@pytest.fixture
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short completions are what is wanted."""
    monkeypatch.setattr(group_trainer, "make_reward", lambda *args, **kwargs: Shorter())


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def untimed(stage: Stage) -> list[tuple[int, dict[str, float]]]:
    """The metrics of each step, without how long they took."""
    return [(line["step"], {name: value for name, value in line["metrics"].items() if name not in TIMES})
            for line in said(stage, "metrics")]


@pytest.mark.parametrize("kind", STAGES)
def test_the_policy_learns_to_answer_shortly(kind: str, policy: Path, tmp_path: Path, shorter: None) -> None:
    stage = stage_of(kind, tmp_path, policy, num_iterations=10, num_prompts=16, question_pool=40, minibatch_size=16,
                     learning_rate=6e-3, eval_every=99, dev_examples=1, kl_coefficient=0.0)
    STAGES[kind].run(stage)
    first, *_, last, _ = [line["metrics"] for line in said(stage, "metrics")]
    assert last["length"] < 0.6 * first["length"]
    assert last["reward"] > first["reward"] + 0.25 and last["truncated"] < first["truncated"]


@pytest.mark.parametrize("kind", STAGES)
def test_what_it_leaves_and_says(kind: str, policy: Path, tmp_path: Path, shorter: None,
                                 capfd: pytest.CaptureFixture[str]) -> None:
    stage = stage_of(kind, tmp_path, policy)
    STAGES[kind].run(stage)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert weights(stage.output) != weights(policy)
    assert load_tokenizer(stage.output).get_vocab() == load_tokenizer(policy).get_vocab()
    lines = said(stage, "metrics")
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert all(documented(name, kind) for line in lines for name in line["metrics"])
    first, second = (line["metrics"] for line in lines[:2])
    assert first["kl"] == first["kl_sequence"] == first["kl_k3"] == 0 < second["kl_k3"]
    assert max(first["logprob_gap_max"], second["logprob_gap_max"]) < 1e-5
    assert ["dev_accuracy" in line["metrics"] for line in lines] == [True] * 2 + [False, True]
    assert {"dev_accuracy", "reward", "reward_rule", "kl_sequence", "truncated"} == set(result(stage))
    assert result(stage)["reward"] == pytest.approx(sum(line["metrics"]["reward"] for line in lines[:3]) / 3)
    assert said(stage, "progress")[-1] | {"time": 0} == {"time": 0, "event": "progress", "done": 3, "total": 3,
                                                         "unit": "iteration"}


# Against our own -------------------------------------------------------------------------------------------------


def our_own(stage: Stage, policy: Path) -> PpoTrainer:
    """PPO with the group's advantages and the settings of a GRPO stage."""
    config: Grpo = stage.config
    same = {name: getattr(config, name) for name in (
        "num_iterations", "num_prompts", "num_samples", "max_new_tokens", "minibatch_size", "learning_rate",
        "optimizer", "min_spread", "kl_coefficient", "dual_clip", "importance_cap", "clip_range", "num_epochs",
        "entropy_coefficient")}
    ours = Ppo(**same, advantages="group")
    model, tokenizer = load_policy(policy), load_tokenizer(policy)
    engine = TransformersEngine(policy, max_length=256, model=model)
    return PpoTrainer(ours, new_state(model, None, ours), reference=copy.deepcopy(model), engine=engine,
                      reward=Shorter(), tokenizer=tokenizer, seed=stage.seed)


@pytest.mark.parametrize("changes", [
    {"entropy_coefficient": 0.01}, {"num_epochs": 2, "clip_range": 0.01, "dual_clip": 1.05},
    {"min_spread": 0.5, "micro_batch_size": 4}, {"importance_cap": 1.5, "optimizer": "muon"}],
    ids=["plain", "clipped", "spread", "capped"])
def test_grpo_is_ppo_with_the_groups_advantages(changes: dict[str, Any], policy: Path, tmp_path: Path,
                                                shorter: None) -> None:
    """The same questions, samples, losses and weights, by TRL's trainer and by ours, where a batch is one minibatch."""
    stage = stage_of("grpo", tmp_path, policy, minibatch_size=16, kl_coefficient=0.1, eval_every=99, **changes)
    grpo.run(stage)
    trainer = our_own(stage, policy)
    pool = question_pool(stage, trainer.tokenizer, trainer.state.policy)
    for (step, theirs), _ in zip(untimed(stage), range(3), strict=False):
        chosen = [index for index in draw(9, 4, step - 1, stage.seed) for _ in range(4)]
        ours = trainer.iterate([pool.questions[index] for index in chosen], [pool.prompts[index] for index in chosen])
        for name in ("reward", "length", "kl", "kl_sequence", "kl_k3", "trained_on", "truncated", "logprob_gap_mean"):
            assert theirs[name] == pytest.approx(ours[name], abs=1e-5), (step, name)
        assert theirs["entropy"] == pytest.approx(ours["entropy"], abs=1e-3)
        assert theirs["clip_fraction"] == pytest.approx(ours["clip_fraction"], abs=0.02)
    trained = load_policy(stage.output)
    for one, other in zip(trained.parameters(), trainer.state.policy.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-4)
    start = load_policy(policy)
    assert float((trained.lm_head.weight - start.lm_head.weight).detach().abs().max()) > 5e-3


def outputs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], GroupTrainer]]:
    """What TRL made of each rollout, before rows are left out."""
    found: list[tuple[dict[str, Any], GroupTrainer]] = []
    trainer_class: Any = {"grpo": grpo.GRPOTrainer, "rloo": rloo.RLOOTrainer}[stage.kind]
    made = trainer_class._generate_and_score_completions

    def look(self: Any, inputs: Any) -> Any:
        output = made(self, inputs)
        found.append((dict(output), copy.copy(self)))
        return output

    monkeypatch.setattr(trainer_class, "_generate_and_score_completions", look)
    STAGES[stage.kind].run(stage)
    return found


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_trls_advantages_are_those_of_the_papers(scale: str, policy: Path, tmp_path: Path, shorter: None,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    for output, trainer in outputs(stage_of("grpo", tmp_path, policy, scale_rewards=scale), monkeypatch):
        scores = trainer.rollout.final.view(4, 4)
        deviation = {"group": scores.std(dim=1, keepdim=True), "batch": scores.std(), "none": torch.tensor(1 - 1e-4)}
        expected = (scores - scores.mean(dim=1, keepdim=True)) / (deviation[scale] + 1e-4)
        assert torch.allclose(output["advantages"], expected.flatten(), atol=1e-6)
        if scale == "group":
            assert torch.allclose(output["advantages"], losses.group_advantages(scores).flatten(), atol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
def test_rloos_baseline_is_the_other_completions_and_its_kl_is_in_the_reward(
        whiten: bool, policy: Path, tmp_path: Path, shorter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of("rloo", tmp_path, policy, kl_coefficient=0.5, whiten_advantages=whiten)
    for output, trainer in outputs(stage, monkeypatch):
        batch = trainer.rollout.batch
        kl = ((batch.old_logprobs - batch.reference_logprobs) * batch.mask).sum(1)
        expected = losses.leave_one_out((trainer.rollout.final - 0.5 * kl).view(4, 4)).flatten()
        if whiten:
            expected = (expected - expected.mean()) / (expected.std() + 1e-4)
        assert torch.allclose(output["advantages"], expected, atol=1e-5)


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "vespo"])
def test_at_ratio_one_every_loss_is_minus_the_advantage(loss: str, policy: Path, tmp_path: Path, shorter: None,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaged as its paper says; the two without a ratio in front of the log-probability multiply that instead."""
    changes: dict[str, Any] = {"clip_range_high": 5.0} if loss == "cispo" else {}
    stage = stage_of("grpo", tmp_path, policy, num_iterations=1, minibatch_size=16, loss=loss, kl_coefficient=0.0,
                     **changes)
    [(output, trainer)] = outputs(stage, monkeypatch)
    mask, batch = trainer.rollout.batch.mask, trainer.rollout.batch
    tokens = output["advantages"][:, None] * mask * (batch.old_logprobs if loss in ("cispo", "vespo") else 1)
    sapo = {"sapo": torch.where(output["advantages"] > 0, 2.0, 2 / 1.05)[:, None]}.get(loss, torch.tensor(1.0))
    mean = {"grpo": 16 * mask.sum(1, keepdim=True), "sapo": 16 * mask.sum(1, keepdim=True),
            "dr_grpo": torch.tensor(16 * 16)}.get(loss, mask.sum())
    expected = -(tokens * sapo / mean).sum().item()
    assert said(stage, "metrics")[0]["metrics"]["loss"] == pytest.approx(expected, abs=2e-5)


# Padding, ends and rows ------------------------------------------------------------------------------------------


def test_a_completion_is_known_by_its_length_and_finish_reason_whatever_its_ids(policy: Path) -> None:
    """Padding's own id is written, in the middle and where the limit cuts: it is a token, and no end."""
    model, tokenizer = load_policy(policy), load_tokenizer(policy)

    class Engine:
        name = "given"

        def generate(self, prompts: Any, sampling: Any, seeds: Any) -> list[Generation]:
            return [Generation([5, 0, 6, 0], [-1.0] * 4, "length"), Generation([0, 2], [-1.0] * 2, "stop")]

    pool = Prompted([QUESTION], [[4, 5]], 9, 0)
    for truncation, kept, paid in (("mask", [1], [-0.2, -1 / 15]), ("penalty", [0, 1], [-9.0, -1 / 15])):
        config = Grpo(num_samples=2, num_prompts=1, minibatch_size=2, truncation=truncation, truncation_reward=-9.0)
        rollouts = GroupRollouts(config, model, reference=copy.deepcopy(model), tokenizer=tokenizer,
                                 engine=Engine(), pool=pool, reward=Shorter(), scales={}, seed=1)
        rollout = rollouts.roll([0, 0], 0)
        assert rollout.kept == kept and rollout.final.tolist() == pytest.approx(paid)
        assert rollout.batch.lengths.tolist() == [4, 2] and rollout.metrics["truncated"] == 0.5
        assert rollout.batch.old_logprobs[0].all() and rollout.batch.old_logprobs[1].tolist()[2:] == [0, 0]


def test_trls_rows_lose_their_padding_and_keep_its_id() -> None:
    ids = torch.tensor([[0, 0, 4, 5, 0, 2, 0], [0, 7, 0, 8, 9, 0, 0]])  # prompts of 4 places, completions of 3
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1]]).bool()
    batch = without_padding(ids, real, 3)
    assert batch.prompts == [[4, 5], [7, 0, 8]] and batch.completions == [[0, 2], [9, 0, 0]]
    model = tiny_model(vocab=24)
    alone = model(input_ids=torch.tensor([[7, 0, 8, 9, 0, 0]])).logits[0, 2:5].log_softmax(-1)
    found, entropies = token_logprobs(model, batch, [1], Grpo(), with_entropy=True)
    assert torch.allclose(found, alone[torch.arange(3), torch.tensor([9, 0, 0])], atol=1e-5)
    assert entropies is not None
    assert torch.allclose(entropies, losses.entropy(alone), atol=1e-5)


def test_rows_that_are_left_out_count_for_nothing() -> None:
    output = {"completion_ids": torch.arange(8)[:, None], "advantages": torch.ones(8),
              "num_items_in_batch": torch.tensor(8), "completion_mask": torch.ones(8, 1, dtype=torch.long)}
    cut = trained_on(output, [1, 2, 6], parts=4)
    assert cut["completion_ids"][:, 0].tolist() == [1, 2, 6, 0]
    assert cut["advantages"].tolist() == cut["tool_mask"][:, 0].tolist() == [1, 1, 1, 0]
    assert cut["num_items_in_batch"] == 3
    assert trained_on(output, range(8), parts=4)["completion_ids"][:, 0].tolist() == list(range(8))


def test_nothing_but_cut_off_completions_cannot_be_trained_on(policy: Path, tmp_path: Path, shorter: None) -> None:
    with pytest.raises(UserError, match="every completion was cut off at max_new_tokens=1, and truncation=mask"):
        grpo.run(stage_of("grpo", tmp_path, policy, max_new_tokens=1, truncation="mask", num_prompts=1, num_samples=2,
                          minibatch_size=2))


# Killed, stopped, failed -----------------------------------------------------------------------------------------


class Killed(Exception):
    """What a kill is to a test that must live on."""


def finished(stage: Stage, monkeypatch: pytest.MonkeyPatch, *, killed: Sequence[tuple[str, int]] = ()) -> Stage:
    """The stage run to its end, killed on the way before each named method's given call."""
    for name, call in killed:
        calls, method = itertools.count(1), getattr(GroupRollouts, name)

        def dies(self: Any, *arguments: Any, method: Any = method, calls: Any = calls, call: int = call) -> Any:
            if next(calls) == call:
                raise Killed
            return method(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(GroupRollouts, name, dies)
            with pytest.raises(Killed):
                STAGES[stage.kind].run(stage)
        stage.events.unlink()  # as whoever starts a stage does
    STAGES[stage.kind].run(stage)
    return stage


@pytest.mark.parametrize("kind", [pytest.param("grpo"), pytest.param("rloo", marks=pytest.mark.slow)])
def test_killed_at_any_iteration_it_ends_as_if_it_had_not_been(kind: str, policy: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minibatches of two micro-batches, twice: a kill within an iteration loses that iteration, whole."""
    RewardModel(load_policy(policy)).save(tmp_path / "reward_model", load_tokenizer(policy))
    config: dict[str, Any] = {
        "inputs": {"reward_model": tmp_path / "reward_model"}, "num_iterations": 4, "num_epochs": 2, "save_every": 1,
        "micro_batch_size": 4, "optimizer": "muon", "schedule": "linear", "reward_normalisation": "running",
        "reward_weights": {"rule": 1.0, "reward_model": 1.0}, "truncation_reward": 0.0, "min_spread": 0.3}
    whole = finished(stage_of(kind, tmp_path / "whole", policy, **config), monkeypatch)
    assert len({line["loss"] for _, line in untimed(whole)[:4]}) == 4
    for kills in [[("roll", 3)], [("roll", 4), ("roll", 1)], [("save", 2), ("roll", 2)], [("save", 4)]]:
        stage = finished(stage_of(kind, tmp_path / str(kills), policy, **config), monkeypatch, killed=kills)
        assert weights(stage.output) == weights(whole.output), kills
        assert untimed(stage) == untimed(whole), kills
        assert result(stage) == result(whole), kills


def test_asked_to_end_it_ends_with_its_iteration(policy: Path, tmp_path: Path, shorter: None,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finished(stage_of("grpo", tmp_path / "whole", policy), monkeypatch)
    stage, roll = stage_of("grpo", tmp_path / "asked", policy), GroupRollouts.roll

    def asked(self: GroupRollouts, chosen: Sequence[int], iteration: int) -> Any:
        if iteration == 1:
            signal.raise_signal(signal.SIGTERM)
        return roll(self, chosen, iteration)

    with monkeypatch.context() as patched:
        patched.setattr(GroupRollouts, "roll", asked)
        with pytest.raises(SystemExit) as ended:
            grpo.run(stage)
    assert ended.value.code == 143 and not list(stage.output.iterdir())
    assert [path.name for path in complete_checkpoints(stage.scratch / CHECKPOINTS)] == ["checkpoint-4"]
    stage.events.unlink()
    grpo.run(stage)
    assert weights(stage.output) == weights(whole.output) and untimed(stage) == untimed(whole)


def test_a_reward_that_fails_loses_no_iteration(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        calls = 0

        def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
            self.calls += 1
            if self.calls == 3:
                raise RewardError("rewards.mine: returned a string")
            return Shorter()(questions, completions)

    failing = Failing()
    monkeypatch.setattr(group_trainer, "make_reward", lambda *args, **kwargs: failing)
    stage = stage_of("rloo", tmp_path / "failed", policy)
    with pytest.raises(RewardError, match="returned a string"):
        rloo.run(stage)
    assert [path.name for path in complete_checkpoints(stage.scratch / CHECKPOINTS)] == ["checkpoint-4"]
    stage.events.unlink()
    rloo.run(stage)
    assert [step for step, _ in untimed(stage)] == [1, 2, 3, 3]
    again = stage_of("rloo", tmp_path / "whole", policy)
    rloo.run(again)
    assert weights(stage.output) == weights(again.output)


def test_a_score_that_is_not_finite_is_no_score(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To TRL a nan would be a completion to leave out."""
    def nan(questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        return Scores([float("nan")] * len(completions), {})

    monkeypatch.setattr(group_trainer, "make_reward", lambda *args, **kwargs: nan)
    with pytest.raises(FloatingPointError, match="iteration 0: a completion's score is not finite"):
        grpo.run(stage_of("grpo", tmp_path, policy, truncation_reward=0.0))


# What can be asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "changes", "says"), [
    ("grpo", {"minibatch_size": 7}, "must divide the 256 completions of a rollout batch"),
    ("grpo", {"micro_batch_size": 48}, "micro_batch_size=48: must divide minibatch_size=64"),
    ("rloo", {"temperature": 0.0}, "one and the same"),
    ("grpo", {"importance_level": "sequence"}, "loss=dapo is defined for the ratios of tokens alone"),
    ("grpo", {"loss": "luspo"}, "loss=luspo is defined for the ratios of sequences alone"),
    ("grpo", {"loss": "cispo"}, "it is the largest ratio itself, so 1 or more"),
    ("grpo", {"loss": "vespo", "dual_clip": 3.0}, "leave it out")])
def test_what_does_not_go_together_is_said(kind: str, changes: dict[str, Any], says: str) -> None:
    assert says in KINDS[kind].config(**changes).conflict()
    assert KINDS[kind].config().conflict() == ""


@pytest.mark.parametrize("changes", [
    {"loss": "grpo", "importance_level": "sequence"}, {"loss": "luspo", "importance_level": "sequence"},
    {"kl_corrected": True, "dual_clip": 2.0, "clip_range_high": 0.28}, {"truncation": "mask", "importance_cap": 2.0},
    {"lora_rank": 2, "precision": "bf16", "gradient_checkpointing": True, "weight_decay": 0.1}],
    ids=lambda changes: "-".join(changes))
def test_other_settings_train(changes: dict[str, Any], policy: Path, tmp_path: Path, shorter: None) -> None:
    stage = stage_of("grpo", tmp_path, policy, num_epochs=2, num_iterations=2, **changes)
    grpo.run(stage)
    first, second = [line["metrics"] for line in said(stage, "metrics")][:2]
    assert second["kl_k3"] > 0 and 0 < first["grad_norm"] < 1e3
    assert max(first["logprob_gap_max"], second["logprob_gap_max"]) < (5e-2 if "precision" in changes else 1e-5)
    assert (stage.output / "adapter").exists() == ("lora_rank" in changes)


def test_kinds_say_where_their_numbers_stand() -> None:
    config = Rloo(num_iterations=5, num_prompts=8, num_samples=4, minibatch_size=16, num_epochs=3)
    assert (config.steps_per_iteration, config.max_steps, config.batch_size, config.log_every) == (6, 30, 16, 6)


@pytest.mark.slow
def test_vllm_is_not_imported_by_trl() -> None:
    code = ("import sys, alignment.stages.grpo, trl.import_utils as found; "
            "print('vllm' in sys.modules, found.is_vllm_available())")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parents[2]).stdout
    assert out.split() == ["False", str(importlib.util.find_spec("vllm") is not None)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM wheel on this platform")
@pytest.mark.parametrize("kind", STAGES)
def test_vllm_generates_where_it_is_asked_to(kind: str, policy: Path, tmp_path: Path, shorter: None) -> None:
    """Pushed each iteration, it draws the tokens that the other engine draws from the same seeds."""
    lines = {}
    for engine in ("transformers", "vllm"):
        stage = dataclasses.replace(stage_of(kind, tmp_path / engine, policy),
                                    rollout=Rollout(engine=engine, max_num_seqs=16, kv_cache_mb=32))
        STAGES[kind].run(stage)
        lines[engine] = [line for _, line in untimed(stage)]
    for plain, fast in zip(lines["transformers"], lines["vllm"], strict=True):
        for name in ("length", "reward", "kl", "loss", "truncated", "dev_accuracy"):
            assert fast.get(name, 0) == pytest.approx(plain.get(name, 0), abs=1e-4), name
        assert fast.get("logprob_gap_max", 0) < 1e-4
    assert lines["vllm"][1]["kl_k3"] > 0
