"""The iterations of a PPO stage in their order: resumed where they were, examined on held-out questions, logged,
watched by alarms, saved, and undone where an alarm says so.

Knows what surrounds an iteration; what one is says alignment/ppo.py, and what is wrong with it alignment/alarms.py.
"""

from __future__ import annotations

import signal
import statistics
import sys
from collections.abc import Callable

from alignment.alarms import AlarmError, Finding, Watch, changed, stopped
from alignment.checkpoints import (
    CHECKPOINTS,
    Termination,
    age,
    begin_checkpoint,
    complete_checkpoints,
    delete_broken,
    delete_undone,
    end_checkpoint,
    latest_checkpoint,
)
from alignment.kinds import Ppo
from alignment.ppo import PpoTrainer
from alignment.ppo_update import NotFinite
from alignment.question_pool import draw, greedy_right
from alignment.rollout import PushError
from alignment.rollout.rows import Prompted
from alignment.stage import Stage
from alignment.stats import Bootstrap, Estimate
from data.schema import Question
from reward import RewardError

FINGERPRINT = "state.sha256"  # in a checkpoint: that of the state


class PpoRun:
    """Trains a stage's policy from wherever its last checkpoint left it."""

    def __init__(self, stage: Stage, trainer: PpoTrainer, *, pool: Prompted, dev: Prompted) -> None:
        config: Ppo = stage.config
        self.stage, self.trainer, self.config, self.state = stage, trainer, config, trainer.state
        self.pool, self.dev, self.group = pool, dev, trainer.group
        coarse = config.precision == "bf16" or stage.rollout.dtype != "float32"
        self.watch = Watch(config, coarse=coarse)
        self.rung = 0  # alarms so far
        self.folder = stage.scratch / CHECKPOINTS
        self.accuracy: Estimate | None = None  # by the last examination
        self._trouble: Exception | None = None  # why the last iteration came to no end

    def train(self) -> Estimate:
        """Runs all iterations; the dev accuracy after the last one.

        SystemExit after SIGTERM, which leaves a checkpoint of the iteration it came in; AlarmError where an alarm ends
        the stage, and then the last checkpoint is one from before.
        """
        config, state = self.config, self.state
        self._resume()
        while True:
            with Termination() as termination:
                while state.iteration < config.num_iterations:
                    step = state.iteration + 1
                    undone = self._log(step, self._attempt(self._iterate))
                    self.stage.progress(state.iteration, config.num_iterations, unit="iteration")
                    asked = self.group.any(termination.asked)  # by all after the same iteration
                    if not undone and (asked or state.iteration % config.save_every == 0):
                        self._save()
                    if asked:
                        sys.exit(128 + signal.SIGTERM)
            if not self._log(state.iteration, self._attempt(self._examine)):
                assert self.accuracy is not None
                return self.accuracy

    def _resume(self) -> None:
        """Brings the state and the watch to where the last checkpoint was written."""
        checkpoint = latest_checkpoint(self.folder)
        self.group.wait()  # all have found the same
        if self.stage.leads:
            delete_broken(self.folder)
            delete_undone(self.folder)
        if checkpoint is not None:
            self.state.load(checkpoint)
        for step, metrics in self.stage.resume_log(checkpoint):
            self._see(step, metrics)
        if checkpoint is None and self.config.rolling:
            self._save()  # what a roll-back leads to before there is another

    def _save(self) -> None:
        """A checkpoint, by the leading process; all go on once it is there."""
        self.trainer.prefetch.settle()
        if self.stage.leads:
            self._write()
        self.group.wait()

    def _write(self) -> None:
        made = begin_checkpoint(self.folder, self.state.iteration, attempt=self.state.rollbacks)
        self.state.save(made)
        self.stage.save_log(made)
        needed: set[int] = set()
        if self.config.rolling:
            (made / FINGERPRINT).write_text(self.state.fingerprint(), encoding="utf-8")
            needed = self.watch.needed(self.state.iteration, self.config.save_every)
        end_checkpoint(made, needed=needed)

    # One iteration -----------------------------------------------------------------------------------------------

    def _iterate(self) -> dict[str, float]:
        """The metrics of an iteration, with those of an examination where one is due."""
        config, state = self.config, self.state
        metrics = {}
        if state.iteration == 0 and config.alarms["accuracy"] != "off":
            metrics["dev_accuracy_before"] = self._examine()["dev_accuracy"]
        try:
            more = config.prefetch and state.iteration + 1 < config.num_iterations
            metrics |= self.trainer.iterate(*self._drawn(state.draw), *([self._drawn(state.draw + 1)] if more else []))
        except RewardError as error:  # the iteration has changed nothing yet, so that all up to it can be kept
            latest = latest_checkpoint(self.folder)
            if latest is None or age(latest) != (state.rollbacks, state.iteration):
                self._save()
            raise RewardError(f"{error}. What was done up to iteration {state.iteration} is kept: the same command "
                              "goes on from there, where code was corrected with accept_code_change="
                              f"{self.stage.name}") from error
        if state.iteration % config.eval_every == 0 and state.iteration < config.num_iterations:
            metrics |= self._examine()
        return metrics

    def _drawn(self, number: int) -> tuple[list[Question], list[list[int]]]:
        """The questions and prompts of a draw, each as often as it has completions."""
        chosen = draw(len(self.pool.questions), self.config.num_prompts, number, self.stage.seed)
        chosen = [index for index in chosen for _ in range(self.config.num_samples)]
        return [self.pool.questions[index] for index in chosen], [self.pool.prompts[index] for index in chosen]

    def _examine(self) -> dict[str, float]:
        """The share of the dev questions whose greedy answer the rule finds right, a truncated one being wrong; and
        what has changed since it was best."""
        state, dev = self.state, self.dev
        metrics = self.trainer.push()
        right = greedy_right(self.trainer.engine, self.trainer.tokenizer, dev, self.config.max_new_tokens)
        keys = [row.operand_key for row in dev.questions]
        self.accuracy = Bootstrap(keys).mean(right)
        metrics["dev_accuracy"] = self.accuracy.value
        comparable = len(state.best_answers) == len(right)  # not where dev_examples has changed
        if comparable:
            lost, gained = changed(state.best_answers, right, keys)
            metrics |= {"dev_lost": float(lost), "dev_gained": float(gained)}
        if not comparable or statistics.fmean(right) > statistics.fmean(state.best_answers):
            state.best_answers = list(right)
        return metrics

    def _attempt(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The metrics of `work`, or what they are where it comes to no end."""
        self._trouble = None
        try:
            return work()
        except NotFinite as error:
            self._trouble = error
            return {f"nonfinite_{error.who}": 1.0}
        except PushError as error:
            self._trouble = error
            return {"push_failed": 1.0}

    # Alarms ------------------------------------------------------------------------------------------------------

    def _log(self, step: int, metrics: dict[str, float]) -> bool:
        """Logs a line and does what the alarms ask for that it sets off; whether they led back to an earlier iteration.
        AlarmError where one ends the stage."""
        self.stage.log(step, **metrics)
        findings = self._see(step, metrics)
        rolling = [finding for finding in findings if self.config.alarms[finding.alarm] == "rollback"]
        for finding in findings:
            if self.config.alarms[finding.alarm] == "stop" or (
                    finding in rolling and self.state.rollbacks == self.config.max_rollbacks):
                why = f" ({self._trouble})" if self._trouble else ""
                raise AlarmError(stopped(finding, self.config) + why) from self._trouble
        if rolling:
            self._roll_back(step, rolling)
        return bool(rolling)

    def _see(self, step: int, metrics: dict[str, float]) -> list[Finding]:
        """Tells the watch of a line, and whoever reads the run what it sets off."""
        findings = self.watch.see(step, metrics)
        self.rung += len(findings)
        for finding in findings:
            self.stage.warn(str(finding))
        if "rollbacks" in metrics:
            factor = self.config.rollback_factor ** metrics["rollbacks"]
            self.stage.warn(f"roll-back {metrics['rollbacks']:.0f} of at most {self.config.max_rollbacks}: on from "
                            f"iteration {step} with other questions and samples, at {factor:g} of the learning rates")
        return findings

    def _roll_back(self, step: int, findings: list[Finding]) -> None:
        """Back to the last checkpoint on the cadence in which no finding saw anything wrong, never beyond where the
        last roll-back led; kept at once as the start of another attempt, which uses none of the draws so far."""
        state = self.state
        used, attempt = step + state.skipped, state.rollbacks + 1
        trusted = max(self.watch.returned_to, min(finding.trusted for finding in findings))
        checkpoint = max((path for path in complete_checkpoints(self.folder) if age(path)[1] <= trusted
                          and age(path)[1] % self.config.save_every == 0), key=lambda path: age(path)[::-1])
        state.load(checkpoint)
        if state.fingerprint() != (checkpoint / FINGERPRINT).read_text(encoding="utf-8"):
            raise RuntimeError(f"{checkpoint}: the state that was loaded is not the one that was saved; its files were "
                               f"changed. Delete {self.folder} to start the stage from its beginning")
        state.rollbacks, state.skipped = attempt, used - state.iteration
        line = {"rollbacks": float(attempt)}
        self.stage.log(state.iteration, **line)
        self._see(state.iteration, line)
        self._save()
        if self.stage.leads:
            delete_undone(self.folder)
