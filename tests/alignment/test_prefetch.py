"""The next iteration's completions, made while this one's update runs: those that one update's weights less would have
written, the same on every run, and refused where an engine cannot."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignment import prepare
from alignment.config import load
from alignment.kinds import Ppo
from alignment.ppo import PpoTrainer
from alignment.rollout import Generation, Sampling
from data.schema import UserError
from tests.alignment.ppo_made import Apart
from tests.alignment.test_ppo import QUESTION, Shorter, make, prompts
from tests.alignment.tiny_model import tiny_model

AHEAD = {"prefetch": True, "importance_cap": 2.0, "num_prompts": 16, "critic_warmup": 0}


class Noted(Apart):
    """Notes on which thread it generates, and whether a push comes in between."""

    threads: list[str]
    busy = False

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        self.threads = [*getattr(self, "threads", []), threading.current_thread().name]
        self.busy = True
        made = super().generate(prompts, sampling, seeds)
        self.busy = False
        return made

    def push(self, model: object) -> None:
        assert not self.busy
        super().push(model)  # type: ignore[arg-type]


def trainer_of(**changes: object) -> PpoTrainer:
    policy = tiny_model(vocab=24, eos=[2, 3])
    return make(Shorter(), policy=policy, engine=Noted(Path(), max_length=64, model=policy), **(AHEAD | changes))


def train(trainer: PpoTrainer, iterations: int, *, ahead: bool = True) -> list[dict[str, float]]:
    questions = [QUESTION] * 16, prompts(16)
    found = []
    for iteration in range(iterations):
        line = trainer.iterate(*questions, *([questions] if ahead and iteration + 1 < iterations else []))
        found.append({name: value for name, value in line.items() if not name.startswith("seconds")})
    return found


def test_where_nothing_is_learnt_it_changes_nothing() -> None:
    still = {"learning_rate": 0.0, "critic_learning_rate": 1e-3}
    plain, ahead = train(trainer_of(**still), 3, ahead=False), train(trainer_of(**still), 3)
    assert [line.pop("prefetched", 0.0) for line in ahead] == [0.0, 1.0, 1.0]
    assert ahead == plain


def test_completions_are_one_update_old_and_the_policy_learns_from_them() -> None:
    trainer, twin = trainer_of(), trainer_of()
    weights, generate = [], twin._generate
    history = train(trainer, 12)
    for _ in range(2):
        weights.append(copy.deepcopy(twin.state.policy))
        train(twin, 1, ahead=False)
    twin.engine.push(weights[0])
    assert twin.state.draw == 2
    second = generate([QUESTION] * 16, prompts(16), 1)  # of the first weights, as the trainer's second batch was
    assert history[1]["length"] == sum(len(made.token_ids) for made in second) / 16
    assert history[0]["logprob_gap_mean"] < 1e-5 < 1e-3 < history[1]["logprob_gap_mean"]
    assert history[-1]["length"] < 0.7 * history[0]["length"]
    names = trainer.engine.threads  # type: ignore[attr-defined]
    assert names[0] == "MainThread" and all(name.startswith("ThreadPool") for name in names[1:]) and len(names) == 12


def test_what_has_been_made_ahead_is_part_of_the_state(tmp_path: Path) -> None:
    whole, cut = trainer_of(), trainer_of()
    expected = train(whole, 3)
    questions = [QUESTION] * 16, prompts(16)
    cut.iterate(*questions, questions)
    cut.prefetch.settle()
    cut.state.save(tmp_path)
    resumed = trainer_of()
    resumed.state.load(tmp_path)
    assert resumed.state.fingerprint() == cut.state.fingerprint()
    found = train(resumed, 2)
    assert found == expected[1:]
    assert resumed.state.fingerprint() == whole.state.fingerprint()


def test_a_failure_of_the_engine_ends_the_next_iteration() -> None:
    trainer, questions = trainer_of(), ([QUESTION] * 16, prompts(16))

    def fails(*arguments: object) -> list[Generation]:
        raise UserError("rollout.urls: http://host:1 cannot be reached")

    generate = trainer.engine.generate
    trainer.engine.generate = lambda *arguments: (  # type: ignore[method-assign]
        generate(*arguments) if threading.current_thread() is threading.main_thread() else fails())
    trainer.iterate(*questions, questions)
    with pytest.raises(UserError, match="cannot be reached"):
        trainer.iterate(*questions)


@pytest.mark.parametrize(("overrides", "said"), [
    (["ppo.importance_cap=2"], r"ppo\.prefetch=True: .*; use rollout=server, or leave it out"),
    (["rollout=server"], r"ppo\.prefetch=True: .* importance_cap corrects for that; set it, to 2 for example"),
    (["rollout=server", "ppo.importance_cap=2", "launch.processes=2"],
     r"ppo\.prefetch=True: of 2 processes .*; use launch.processes=1")])
def test_where_it_cannot_be_it_says_so(overrides: list[str], said: str, tmp_path: Path) -> None:
    assert not Ppo().prefetch
    with pytest.raises(UserError, match=said):
        prepare.prepare(load(["recipe=ppo_fin", f"runs_dir={tmp_path}", "ppo.prefetch=true", *overrides]))
