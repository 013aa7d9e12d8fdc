"""Every alarm set off by a run planted to go wrong in its way, and what follows: a warning, an end, a way back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from alignment.alarms import AlarmError
from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.keys import ALARMS
from alignment.ppo import PpoTrainer
from alignment.ppo_run import FINGERPRINT
from alignment.ppo_state import PpoState, Remembered
from alignment.rollout import Generation, PushError, Sampling, TransformersEngine
from alignment.stage import Stage
from alignment.stages import ppo
from tests.alignment.ppo_made import Longer, again, left, planted, ppo_stage, untimed, warnings, write_policy
from tests.alignment.stage_made import result
from tests.alignment.test_ppo import QUESTION, Shorter, make, train


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("taught"))


@pytest.fixture(autouse=True)
def paid_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy: longer completions; the held-out check: right answers."""
    planted(monkeypatch, Longer())


FAST = {"learning_rate": 1e-2, "num_iterations": 9, "max_new_tokens": 5, "truncation_limit": 0.25}
PLANTED = {  # alarm -> (the run that sets it off, when, what it says)
    "kl": ({"learning_rate": 1e-2, "num_iterations": 4, "kl_budget": 5.0}, 2, "over kl_budget=5"),
    "accuracy": ({"learning_rate": 3e-3, "num_iterations": 12, "eval_every": 12, "dev_examples": 10}, 12,
                 "100.0% after iteration 0 to 0.0% (10 sets of operands lost, 0 gained) while the reward has gone"),
    "length": (FAST, 8, "beyond length_drift=1.5"),
    "entropy": (FAST, 9, "below entropy_floor=0.2"),
    "truncation": (FAST, 8, "over truncation_limit=0.25"),
}
BACK_TO = {"kl": 0, "accuracy": 0, "length": 4, "entropy": 5, "truncation": 4}


def only(alarm: str, policy: str) -> dict[str, str]:
    """All alarms off but this one and the two that cannot be."""
    return dict.fromkeys(ALARMS, "off") | {"nonfinite": "stop", "push": "stop", alarm: policy}


def alarmed(folder: Path, policy: Path, alarm: str, does: str, **changes: Any) -> Stage:
    return ppo_stage(folder, policy, **(PLANTED[alarm][0] | {"alarms": only(alarm, does)} | changes))


def weights(stage: Stage) -> bytes:
    return (stage.output / "model.safetensors").read_bytes()


@pytest.mark.parametrize("alarm", PLANTED)
def test_a_warning_is_said_once_and_changes_nothing(policy: Path, tmp_path: Path, alarm: str) -> None:
    _, iteration, text = PLANTED[alarm]
    warned, deaf = (again(alarmed(tmp_path / does, policy, alarm, does)) for does in ("warn", "off"))
    [said] = warnings(warned)
    assert said.startswith(f"alarm {alarm}, iteration {iteration}: ") and text in said
    assert weights(warned) == weights(deaf) and warnings(deaf) == []
    assert (result(warned)["alarms"], result(deaf)["alarms"]) == (1, 0)


@pytest.mark.parametrize("alarm", PLANTED)
def test_a_stop_names_the_alarm_its_numbers_and_the_way_out_which_goes_on_from_there(policy: Path, tmp_path: Path,
                                                                                     alarm: str) -> None:
    _, iteration, text = PLANTED[alarm]
    whole = left(again(alarmed(tmp_path / "whole", policy, alarm, "warn", save_every=2)))
    stage = alarmed(tmp_path / "stopped", policy, alarm, "stop", save_every=2)
    for _ in range(2):  # the same command ends in the same way
        with pytest.raises(AlarmError) as error:
            again(stage)
        said = str(error.value)
        assert said.startswith(f"alarm {alarm}, iteration {iteration}: ") and text in said
        assert f"alarms.{alarm}=warn" in said and said.endswith("goes on from the last checkpoint")
        assert not list(stage.output.iterdir()) and untimed(stage)[-1][0] == iteration
    last = iteration if alarm == "accuracy" else (iteration - 1) // 2 * 2  # that is examined after the last checkpoint
    assert [path.name for path in complete_checkpoints(stage.scratch / CHECKPOINTS)][-1:] == [
        f"checkpoint-{last}"][:last]
    assert left(again(alarmed(tmp_path / "stopped", policy, alarm, "warn", save_every=2))) == whole


@pytest.mark.parametrize("alarm", PLANTED)
def test_a_roll_back_reproduces_the_saved_state_and_goes_on_more_slowly(policy: Path, tmp_path: Path, alarm: str,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    saved: dict[Path, str] = {}
    loaded: list[Path] = []
    save, load = PpoState.save, PpoState.load

    def saving(self: PpoState, folder: Path) -> None:
        save(self, folder)
        saved[folder] = self.fingerprint()

    def loading(self: PpoState, folder: Path) -> None:
        assert self.fingerprint() != saved[folder]
        load(self, folder)
        assert self.fingerprint() == saved[folder] == (folder / FINGERPRINT).read_text()
        loaded.append(folder)

    monkeypatch.setattr(PpoState, "save", saving)
    monkeypatch.setattr(PpoState, "load", loading)
    stage = again(alarmed(tmp_path, policy, alarm, "rollback", rollback_factor=1e-3))
    assert [path.name for path in loaded] == [f"checkpoint-{BACK_TO[alarm]}"]
    iteration, back = PLANTED[alarm][1], BACK_TO[alarm]
    steps = [step for step, _ in untimed(stage)]
    end = stage.config.num_iterations
    finals = [end, end] if alarm == "accuracy" else [end]  # that of the first attempt set it off
    assert steps == [*range(1, iteration + 1), *finals[1:], back, *range(back + 1, end + 1), end]
    assert untimed(stage)[iteration + len(finals) - 1] == (back, {"rollbacks": 1.0})
    assert warnings(stage)[1] == (f"roll-back 1 of at most 3: on from iteration {back} with other questions and "
                                  "samples, at 0.001 of the learning rates")
    assert (result(stage)["rollbacks"], result(stage)["alarms"]) == (1, 1)
    first, second = (dict(untimed(stage)[place][1]) for place in (back, iteration + len(finals)))
    assert first["reward"] != second["reward"] or first["policy_grad_norm"] != second["policy_grad_norm"]  # drawn anew


def test_after_so_many_roll_backs_an_alarm_stops_and_a_larger_number_goes_on(policy: Path, tmp_path: Path) -> None:
    def stage(folder: str, **changes: Any) -> Stage:
        return alarmed(tmp_path / folder, policy, "kl", "rollback", rollback_factor=1.0, save_every=2, **changes)

    with pytest.raises(AlarmError, match=r"kl_budget=5\. It went back max_rollbacks=1 times already; a larger max_"):
        again(stage("a", max_rollbacks=1))
    with pytest.raises(AlarmError, match="It went back max_rollbacks=2 times already"):
        again(stage("a", max_rollbacks=2))
    with pytest.raises(AlarmError, match="max_rollbacks=2"):
        again(stage("b", max_rollbacks=2))
    assert untimed(stage("a")) == untimed(stage("b"))


def test_a_checkpoint_that_was_changed_is_not_rolled_back_to(policy: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    load = PpoState.load

    def loading(self: PpoState, folder: Path) -> None:
        load(self, folder)
        self.policy_optimizer.param_groups[0]["momentum"] += 1e-3

    monkeypatch.setattr(PpoState, "load", loading)
    with pytest.raises(RuntimeError, match="the state that was loaded is not the one that was saved"):
        ppo.run(alarmed(tmp_path, policy, "kl", "rollback"))


def test_nothing_in_the_state_escapes_its_hash() -> None:
    trainer = make(Shorter(), num_prompts=8, minibatch_size=8, max_new_tokens=4, critic_warmup=0, imitation_steps=1)
    train(trainer, 1)
    state = trainer.state
    assert state.memory and state.critic is not None and state.critic_optimizer is not None
    seen = {state.fingerprint()}
    moment = next(iter(state.critic_optimizer.state.values()))["exp_avg_sq"]
    for weight in (state.policy.lm_head.weight, state.critic.head.bias, moment):
        with torch.no_grad():
            weight.view(-1)[-1].add_(1e-6)
        seen.add(state.fingerprint())
    for name, value in (("iteration", 9), ("kl_coefficient", 0.3), ("rollbacks", 2), ("skipped", 1),
                        ("best_answers", [1.0])):
        setattr(state, name, value)
        seen.add(state.fingerprint())
    state.score_moments.add([1.0, 2.0])
    seen.add(state.fingerprint())
    state.reward_scales["rule"] = (0.0, 1.0)
    seen.add(state.fingerprint())
    state.memory[-1] = Remembered(state.memory[-1].prompt, state.memory[-1].completion, 1e-9)
    seen.add(state.fingerprint())
    state.policy_optimizer.param_groups[0]["lr"] *= 0.5
    seen.add(state.fingerprint())
    assert len(seen) == 13 and state.fingerprint() in seen


# What is not finite -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["policy", "critic"])
def broken_gradient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In the fourth draw one weight's gradient is not a number, of the policy or the critic; which of them."""
    iterate = PpoTrainer.iterate

    def broken(self: PpoTrainer, *arguments: Any) -> dict[str, float]:
        if self.state.draw != 3:
            return iterate(self, *arguments)
        model = self.state.policy if request.param == "policy" else self.state.critic
        assert model is not None
        handle = next(model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        try:
            return iterate(self, *arguments)
        finally:
            handle.remove()

    monkeypatch.setattr(PpoTrainer, "iterate", broken)
    return str(request.param)


def test_a_gradient_that_is_not_finite_stops_leaves_out_or_goes_back(policy: Path, tmp_path: Path,
                                                                     broken_gradient: str) -> None:
    def stage(folder: str, does: str) -> Stage:
        return ppo_stage(tmp_path / folder, policy, num_iterations=6, save_every=2, minibatch_size=4,
                         alarms=only("nonfinite", does))

    said = ("alarm nonfinite, iteration 4: a loss or gradient that is not finite, in this many steps: %d of the "
            f"{broken_gradient}")
    with pytest.raises(AlarmError) as error:
        again(stage("stopped", "stop"))
    assert str(error.value).startswith(said % 1) and "alarms.nonfinite=warn leaves such steps out" in str(error.value)
    assert f"PPO iteration 3: the {broken_gradient}'s loss is " in str(error.value)
    warned = again(stage("warned", "warn"))
    assert warnings(warned) == [said % 2]
    lines = dict(untimed(warned))
    assert lines[4][f"nonfinite_{broken_gradient}"] == 2 and all(value == value for value in lines[4].values())
    assert lines[4]["policy_steps"] == (0 if broken_gradient == "policy" else 2)
    for name in ("model", "critic/critic"):
        assert all(value.isfinite().all() for value in load_file(warned.output / f"{name}.safetensors").values())
    assert left(again(stage("stopped", "warn"))) == left(warned)
    back = again(stage("back", "rollback"))
    assert [step for step, _ in untimed(back)] == [1, 2, 3, 4, 2, 3, 4, 5, 6, 6]
    assert warnings(back) == [said % 1, "roll-back 1 of at most 3: on from iteration 2 with other questions and "
                                        "samples, at 0.5 of the learning rates"]
    assert dict(untimed(back)[:2]) == dict(untimed(warned)[:2])


def test_a_roll_back_lowers_every_rate_and_uses_no_draw_twice() -> None:
    trainer = make(Shorter(), num_prompts=4, minibatch_size=4, max_new_tokens=4, schedule="linear", num_iterations=4,
                   learning_rate=0.4, critic_learning_rate=0.8, rollback_factor=0.5)
    trainer.state.iteration, trainer.state.rollbacks = 1, 2
    trainer.updates._set_rates()
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.state.optimizers] == pytest.approx([0.075, 0.15])
    drawn = []
    for trainer.state.iteration, trainer.state.skipped in ((1, 0), (2, 0), (1, 2), (0, 3)):
        drawn.append(trainer._generate([QUESTION] * 4, [[5, 6]] * 4))
    assert drawn[2] == drawn[3] and drawn[0] != drawn[1] != drawn[2] != drawn[0]


# Engine and trainer -----------------------------------------------------------------------------------------------


class Rounding(TransformersEngine):
    """An engine whose log-probabilities are a little off."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        return [Generation(made.token_ids, [logprob - 0.002 for logprob in made.logprobs], made.finish_reason)
                for made in super().generate(prompts, sampling, seeds)]


class Stale(TransformersEngine):
    """An engine that keeps the weights it began with, and says nothing of it."""

    def __init__(self, *arguments: Any, model: PreTrainedModel, **keywords: Any) -> None:
        super().__init__(*arguments, model=copy.deepcopy(model), **keywords)

    def push(self, model: PreTrainedModel) -> None:
        if not hasattr(self, "model"):
            super().push(model)


class Refusing(TransformersEngine):
    """An engine whose third push fails, as vLLM's would."""

    pushes = 0

    def push(self, model: PreTrainedModel) -> None:
        super().push(model)
        self.pushes += 1
        if self.pushes == 3:
            raise PushError("after the push the logprobs differ")


def with_engine(monkeypatch: pytest.MonkeyPatch, engine: type[TransformersEngine]) -> None:
    monkeypatch.setattr(ppo, "make_engine", lambda path, rollout, group, serving, **keywords: engine(path, **keywords))


def test_an_engine_that_disagrees_is_told(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, Rounding)
    stage = ppo_stage(tmp_path / "warned", policy, num_iterations=3)
    assert warnings(again(stage)) == ["alarm gap, iteration 1: the engine's and the trainer's log-probabilities differ "
                                      "by 0.002 nats on average, over gap_limit=0.001"]
    assert result(stage)["logprob_gap_max"] == pytest.approx(0.002, abs=1e-5)  # so that a recipe can gate on it
    for name, changes in (("limit", {"gap_limit": 0.003}), ("off", {"alarms": {"gap": "off"}})):
        assert warnings(again(ppo_stage(tmp_path / name, policy, num_iterations=3, **changes))) == []
    with pytest.raises(AlarmError, match=r"over gap_limit=0\.001\. Another rollout engine or rollout\.dtype"):
        ppo.run(ppo_stage(tmp_path / "stopped", policy, alarms={"gap": "stop"}))


def test_a_push_that_did_not_arrive_is_noticed_with_any_engine(policy: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, Stale)
    stage = ppo_stage(tmp_path / "stopped", policy, alarms={"gap": "off"})
    with pytest.raises(AlarmError, match=r"^alarm push, iteration 2: a push did not arrive: .* rollout=transformers"):
        again(stage)
    warned = again(ppo_stage(tmp_path / "warned", policy, alarms={"gap": "off", "push": "warn", "kl": "off"}))
    assert [text[:25] for text in warnings(warned)] == ["alarm push, iteration 2: "]


def test_a_push_that_the_engine_says_failed_stops_or_warns(policy: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, Refusing)  # pushed when it is made, when the start is examined, and before iteration 2
    with pytest.raises(AlarmError, match=r"^alarm push, iteration 2: the engine did not take the policy's weights\. .* "
                                         r"\(after the push the logprobs differ\)"):
        again(ppo_stage(tmp_path / "stopped", policy))
    warned = again(ppo_stage(tmp_path / "warned", policy, alarms={"push": "warn"}, num_iterations=3))
    assert warnings(warned) == ["alarm push, iteration 2: the engine did not take the policy's weights"]
    assert [line.get("push_failed") for _, line in untimed(warned)] == [None, 1.0, None, None]


def test_a_run_that_is_well_is_the_same_with_and_without_alarms(policy: Path, tmp_path: Path) -> None:
    made = []
    for does in ("warn", "off", "rollback"):
        alarms = dict.fromkeys(PLANTED, does)
        stage = again(ppo_stage(tmp_path / does, policy, num_iterations=4, learning_rate=1e-4, eval_every=1,
                                alarms=alarms))
        assert warnings(stage) == []
        made.append(weights(stage))
    assert made[0] == made[1] == made[2] != (policy / "model.safetensors").read_bytes()
