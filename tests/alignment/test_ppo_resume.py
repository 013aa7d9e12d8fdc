"""Killed at every step of a short run, and while saving each of its checkpoints, PPO leaves what it would have left.

The processes are real and so is the SIGKILL: each ends itself the first time that it comes to a place where none before
it has died.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment import ppo_run
from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.ppo import PpoTrainer
from alignment.ppo_state import PpoState
from alignment.ppo_update import PpoUpdates
from alignment.stage import Stage
from alignment.stages import ppo
from data.schema import UserError
from tests.alignment.ppo_made import Longer, again, apart, left, planted, ppo_stage, untimed, warnings, write_policy
from tests.alignment.stage_made import result

COMMON = {"num_iterations": 4, "save_every": 1, "eval_every": 2, "num_epochs": 2, "minibatch_size": 4,
          "temperature": 2.0}
STANDARDISED, PREFETCHED = "everything that changes", "completions made ahead"
RUNS: dict[str, dict[str, Any]] = {
    STANDARDISED: {
        "optimizer": "muon", "schedule": "linear", "critic_warmup": 1, "imitation_steps": 1, "imitation_batch_size": 4,
        "kl_coefficient": 0.05, "kl_target": 0.1, "kl_horizon": 16, "reward_normalisation": "running", "num_samples": 2,
        "group_baseline": True, "learning_rate": 1e-4, "muon_learning_rate": 1e-4},
    "an adapter": {"lora_rank": 2, "learning_rate": 1e-2},
    "a group in the critic's place": {"advantages": "group", "num_samples": 4, "truncation": "mask"},
    PREFETCHED: {"prefetch": True, "importance_cap": 2.0, "learning_rate": 3e-3},
    "roll-backs": {"alarms": {"kl": "rollback", "accuracy": "rollback"}, "kl_budget": 2.0, "learning_rate": 3e-3,
                   "num_iterations": 7, "save_every": 2, "num_epochs": 1, "minibatch_size": 8, "temperature": 1.0},
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("taught"))


def make(folder: Path, policy: Path, run: str) -> Stage:
    return ppo_stage(folder, policy, **(COMMON | RUNS[run]))


def dying(deaths: Path, target: Any, name: str, state_of: Callable[[Any], PpoState]) -> Callable[..., Any]:
    """The method, which the first process to call it in an iteration and an attempt does not survive."""
    method = getattr(target, name)

    def called(self: Any, *arguments: Any, **keywords: Any) -> Any:
        state = state_of(self)
        place = deaths / f"{name} {state.iteration} {state.rollbacks}"
        if not place.exists():
            place.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *arguments, **keywords)

    return called


def live(folder: Path, policy: Path, run: str) -> None:
    """One process's life: with a batch drawn and not yet learnt from, with a checkpoint written but for its marker,
    having gone back but not yet kept that, with the policy half saved, it may end."""
    deaths = folder / "deaths"
    deaths.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        planted(patch, Longer(), standardised=run == STANDARDISED)
        if run == PREFETCHED:
            patch.setattr(ppo, "make_engine", apart)
        patch.setattr(PpoUpdates, "update", dying(deaths, PpoUpdates, "update", lambda self: self.state))
        patch.setattr(PpoState, "fingerprint", dying(deaths, PpoState, "fingerprint", lambda self: self))
        stage = make(folder, policy, run)
        states: list[PpoState] = []
        made = PpoTrainer.__init__

        def noted(self: PpoTrainer, config: Any, state: PpoState, **keywords: Any) -> None:
            states.append(state)
            made(self, config, state, **keywords)

        patch.setattr(PpoTrainer, "__init__", noted)
        for module, name in ((ppo_run, "end_checkpoint"), (ppo_run, "delete_undone"), (ppo, "save_adapter")):
            patch.setattr(module, name, dying(deaths, module, name, lambda self: states[-1]))
        again(stage)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_killed_at_every_step_and_in_every_saving_it_ends_as_if_it_had_not_been(policy: Path, tmp_path: Path, run: str,
                                                                                monkeypatch: pytest.MonkeyPatch
                                                                                ) -> None:
    planted(monkeypatch, Longer(), standardised=run == STANDARDISED)
    if run == PREFETCHED:
        monkeypatch.setattr(ppo, "make_engine", apart)
    whole = left(again(make(tmp_path / "whole", policy, run)))
    assert whole["metrics"][-2][1]["kl_sequence"] != 0
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        process = processes.Process(target=live, args=(tmp_path / "killed", policy, run))
        process.start()
        process.join()
        codes.append(process.exitcode)
    assert codes[-1] == 0
    died = [path.name for path in (tmp_path / "killed" / "deaths").iterdir()]
    assert len(died) == len(codes) - 1
    if run == "roll-backs":  # of iteration 5 to 2, and then of 6 to 4
        assert {f"update {iteration} 0" for iteration in range(5)} <= set(died)
        assert {"end_checkpoint 2 1", "delete_undone 2 1", "update 2 1", "update 5 1", "end_checkpoint 4 1",
                "end_checkpoint 4 2", "delete_undone 4 2", "update 6 2", "save_adapter 7 2"} <= set(died)
    else:
        assert {f"update {iteration} 0" for iteration in range(4)} <= set(died)
        assert {f"end_checkpoint {iteration} 0" for iteration in range(1, 5)} <= set(died)
        assert "save_adapter 4 0" in died
    assert left(make(tmp_path / "killed", policy, run)) == whole


def test_asked_to_end_between_two_checkpoints_it_still_goes_back_to_the_same_one(policy: Path, tmp_path: Path,
                                                                                monkeypatch: pytest.MonkeyPatch
                                                                                ) -> None:
    """The extra checkpoint of a SIGTERM is none that an uninterrupted run would have to go back to."""
    planted(monkeypatch, Longer())
    config = {"alarms": {"kl": "rollback"}, "kl_budget": 5.0, "learning_rate": 3e-3, "num_iterations": 8,
              "save_every": 3, "rollback_factor": 0.1}
    whole = left(again(ppo_stage(tmp_path / "whole", policy, **config)))
    back = [step for step, line in whole["metrics"] if "rollbacks" in line]
    assert back and back[0] > 0
    iterate = PpoTrainer.iterate
    for asked in range(1, 8):
        stage = ppo_stage(tmp_path / str(asked), policy, **config)

        def ends(self: PpoTrainer, *arguments: Any, asked: int = asked) -> dict[str, float]:
            if self.state.draw == asked:
                signal.raise_signal(signal.SIGTERM)
            return iterate(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(PpoTrainer, "iterate", ends)
            with pytest.raises(SystemExit):
                again(stage)
        assert left(again(stage)) == whole, asked


def test_checkpoints_that_may_be_gone_back_to_are_kept_and_the_others_go(policy: Path, tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, Longer())
    kept: dict[str, list[str]] = {}
    for name, alarms in (("none", {}), ("kl", {"kl": "rollback"}), ("accuracy", {"accuracy": "rollback"})):
        stage = ppo_stage(tmp_path / name, policy, num_iterations=8, save_every=2, eval_every=4, dev_examples=10,
                          alarms=alarms, learning_rate=1e-5, kl_budget=50.0)
        again(stage)
        kept[name] = [path.name.partition("-")[2] for path in complete_checkpoints(stage.scratch / CHECKPOINTS)]
    assert kept == {"none": ["6", "8"], "kl": ["4", "6", "8"], "accuracy": ["0", "4", "6", "8"]}


def test_a_checkpoint_of_another_model_or_config_is_refused_by_name(policy: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, Longer())
    stage = ppo_stage(tmp_path, policy, num_iterations=2)
    again(stage)
    for changes, what in (({"critic_layers": 1}, "trunk.layers.1"), ({"lora_rank": 2}, "lora_A"),
                          ({"optimizer": "muon"}, "optimizers differ"),
                          ({"advantages": "group", "num_samples": 2, "truncation": "penalty"}, "number of models")):
        with pytest.raises(UserError) as error:
            again(ppo_stage(tmp_path, policy, num_iterations=2, **changes))
        said = str(error.value)
        assert "checkpoint-2: this checkpoint is of another model or another config" in said and what in said
        assert f"delete {stage.scratch / CHECKPOINTS} to start the stage from its beginning" in said
    again(stage)
    assert [step for step, _ in untimed(stage)] == [1, 2, 2] and warnings(stage) == []
    assert result(stage)["rollbacks"] == 0


def test_held_out_questions_may_change_in_number_between_two_starts(policy: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, Longer())
    again(ppo_stage(tmp_path, policy, num_iterations=2, dev_examples=4))
    stage = again(ppo_stage(tmp_path, policy, num_iterations=4, dev_examples=10))
    assert result(stage)["dev_accuracy"]["n"] == 10 and "dev_lost" not in untimed(stage)[-1][1]
    assert json.loads(json.dumps(untimed(stage))) == [[step, line] for step, line in untimed(stage)]
