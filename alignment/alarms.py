"""Alarms: what the metrics of a training run say when it goes wrong, each by one rule on what was logged.

Pure functions of a stage's lines of metrics (names as in alignment/metrics.py), so that the same lines set off the same
alarms, also when a resumed stage tells them again. What a stage does about it is its own business. Knows no trainer, no
engine and no checkpoint.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence

from alignment.keys import PATIENCE, Watched
from alignment.stats import sign_test, student_quantile

LEVEL = 0.01  # chance of a false alarm `accuracy` at an evaluation, were nothing forgotten
CONFIDENCE, WINDOW, LEAST = 0.95, 10, 3  # that the reward is up; iterations compared for that at most, and at least
EXACT_GAP, COARSE_GAP = 1e-3, 0.05  # default of gap_limit; in 16 bits means of 0.005 to 0.02 are rounding
STALE, NOTICED = 5.0, 1e-3  # a push did not arrive: the gap is this many times that of equal weights, and at least this
TOLD = ("alarm ", "roll-back ")  # how the sentences about alarms begin

Line = Mapping[str, float]
History = Sequence[Line]  # one line an iteration, from the first; not those that a roll-back undid


class AlarmError(RuntimeError):
    """An alarm ended the stage. The message names it, its numbers and the way out."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """An alarm that has gone off."""

    alarm: str
    iteration: int
    found: str  # the numbers and their limit
    trusted: int  # the last iteration after which nothing was wrong yet

    def __str__(self) -> str:
        return f"alarm {self.alarm}, iteration {self.iteration}: {self.found}"


REMEDIES = {
    "nonfinite": "A lower learning rate starts the stage again; alarms.nonfinite=warn leaves such steps out and",
    "kl": "A higher kl_coefficient, or a lower learning rate, starts the stage again; a larger kl_budget, or "
          "alarms.kl=warn,",
    "accuracy": "Another reward, or a higher kl_coefficient, starts the stage again; alarms.accuracy=warn",
    "length": "Another reward, or a lower learning rate, starts the stage again; a larger length_drift, or "
              "alarms.length=warn,",
    "entropy": "An entropy_coefficient, or a lower learning rate, starts the stage again; a lower entropy_floor, or "
               "alarms.entropy=warn,",
    "truncation": "A larger max_new_tokens, or a lower truncation_reward, starts the stage again; a larger "
                  "truncation_limit, or alarms.truncation=warn,",
    "gap": "Another rollout engine or rollout.dtype starts the stage again; a larger gap_limit, or alarms.gap=warn,",
    "push": "rollout=transformers starts the stage again; alarms.push=warn trains on what other weights drew and",
}  # each followed by "goes on from the last checkpoint"


def stopped(finding: Finding, config: Watched) -> str:
    """What is said to whoever's stage an alarm ends: the alarm, its numbers and the ways out."""
    remedy = REMEDIES[finding.alarm]
    if config.alarms[finding.alarm] == "rollback":
        remedy = f"It went back max_rollbacks={config.max_rollbacks} times already; a larger max_rollbacks"
    return f"{finding}. {remedy} goes on from the last checkpoint"


# The rules -------------------------------------------------------------------------------------------------------


def nonfinite(history: History, config: Watched) -> Finding | None:
    """A loss or a gradient of a step of the iteration was not finite."""
    steps = {who: int(history[-1][f"nonfinite_{who}"]) for who in ("policy", "critic")
             if f"nonfinite_{who}" in history[-1]}
    if not steps:
        return None
    found = ", ".join(f"{count} of the {who}" for who, count in steps.items())
    return Finding("nonfinite", len(history), f"a loss or gradient that is not finite, in this many steps: {found}",
                   len(history) - 1)


def kl(history: History, config: Watched) -> Finding | None:
    """The KL to the reference is over its budget."""
    found = history[-1].get("kl_sequence", 0.0)
    if not found > config.kl_budget:
        return None
    return Finding("kl", len(history), f"the KL to the reference is {found:.3g} nats a completion, over kl_budget="
                                       f"{config.kl_budget:g}", max(0, len(history) - 2))


def accuracy(history: History, config: Watched) -> Finding | None:
    """At an evaluation: the proxy goes up and the held-out check goes down, both surely.

    Against the best evaluation so far, on the same questions: those that are wrong now and were right then are more
    than those that are right now and were wrong then, by a one-sided sign test at `LEVEL` over the number of earlier
    evaluations (of which the best was picked); and the mean reward of the last iterations is above that of as many
    right after that evaluation, by a one-sided t test at `CONFIDENCE`.
    """
    line, earlier = history[-1], evaluations(history)[:-1]
    if "dev_lost" not in line or not earlier:
        return None
    best, then = best_of(earlier)
    lost, gained = round(line["dev_lost"]), round(line["dev_gained"])
    window = min(WINDOW, (len(history) - best) // 2)
    if sign_test(lost, gained) >= LEVEL / len(earlier) or window < LEAST:
        return None
    rewards = [row["reward"] for row in history[best:] if "reward" in row]
    before, after = rewards[:window], rewards[-window:]
    if not surely_above(after, before):
        return None
    return Finding("accuracy", len(history), (
        f"dev_accuracy has gone from {then:.1%} after iteration {best} to {line['dev_accuracy']:.1%} ({lost} sets of "
        f"operands lost, {gained} gained) while the reward has gone from {statistics.fmean(before):.3g} to "
        f"{statistics.fmean(after):.3g} (means of {window} iterations)"), best)


def length(history: History, config: Watched) -> Finding | None:
    """Completions have become much longer or much shorter than they were at first."""
    start, now = at_first(history, "length"), history[-1].get("length", 0.0)
    if not (running(history, "length", lambda value: value > config.length_drift * start)
            or running(history, "length", lambda value: value * config.length_drift < start)):
        return None
    return _patient("length", history, f"completions have {now:.3g} tokens on average and had {start:.3g} at first: "
                                       f"beyond length_drift={config.length_drift:g}")


def entropy(history: History, config: Watched) -> Finding | None:
    """The policy hardly chooses any more."""
    floor = config.entropy_floor * at_first(history, "entropy")
    if not running(history, "entropy", lambda value: value < floor):
        return None
    return _patient("entropy", history, f"the entropy is {history[-1]['entropy']:.3g} nats and was "
                                        f"{at_first(history, 'entropy'):.3g} at first: below entropy_floor="
                                        f"{config.entropy_floor:g} of it")


def truncation(history: History, config: Watched) -> Finding | None:
    """Completions come to no end."""
    if not running(history, "truncated", lambda value: value > config.truncation_limit):
        return None
    return _patient("truncation", history, f"{history[-1]['truncated']:.0%} of the completions were cut off, over "
                                           f"truncation_limit={config.truncation_limit:g}")


def gap(history: History, config: Watched) -> Finding | None:
    """The engine's log-probabilities of the tokens it drew are not the trainer's."""
    found = history[-1].get("logprob_gap_mean", 0.0)
    assert config.gap_limit is not None
    if found <= config.gap_limit or history[-1].get("prefetched"):  # drawn with other weights on purpose
        return None
    return Finding("gap", len(history), f"the engine's and the trainer's log-probabilities differ by {found:.2g} nats "
                                        f"on average, over gap_limit={config.gap_limit:g}", len(history) - 1)


def push(history: History, config: Watched) -> Finding | None:
    """The engine draws with other weights than the policy's.

    It says so itself, or the gap has jumped: while the policy has not moved, engine and trainer surely hold the same
    weights, and what they differ by then is rounding.
    """
    if history[-1].get("push_failed"):
        return Finding("push", len(history), "the engine did not take the policy's weights", len(history) - 1)
    if history[-1].get("prefetched"):
        return None
    still = next((place for place, line in enumerate(history) if line.get("policy_steps")), len(history))
    rounding = max((line.get("logprob_gap_mean", 0.0) for line in history[:still + 1]), default=0.0)
    found = history[-1].get("logprob_gap_mean", 0.0)
    if found <= max(STALE * rounding, NOTICED):
        return None
    return Finding("push", len(history), f"a push did not arrive: the log-probabilities of the engine are {found:.2g} "
                                         f"nats from the policy's, and were {rounding:.2g} while their weights were "
                                         "surely the same", len(history) - 1)


RULES: dict[str, Callable[[History, Watched], Finding | None]] = {
    "nonfinite": nonfinite, "push": push, "gap": gap, "kl": kl, "accuracy": accuracy, "length": length,
    "entropy": entropy, "truncation": truncation}


def running(history: History, name: str, beyond: Callable[[float], bool]) -> bool:
    """Whether a metric was beyond its limit in each of the last `PATIENCE` iterations."""
    values = [line[name] for line in history[-PATIENCE:] if name in line]
    return len(values) == PATIENCE and all(map(beyond, values))


def at_first(history: History, name: str) -> float:
    """The mean of a metric's first `PATIENCE` values; 0 where there is none."""
    values = [line[name] for line in history if name in line][:PATIENCE]
    return statistics.fmean(values) if values else 0.0


def _patient(alarm: str, history: History, found: str) -> Finding:
    """A finding about the last `PATIENCE` iterations, whose completions came from the weights of the ones before."""
    return Finding(alarm, len(history), f"{found}, {PATIENCE} times running", max(0, len(history) - PATIENCE - 1))


# Held-out answers ------------------------------------------------------------------------------------------------


def evaluations(history: History) -> list[tuple[int, float]]:
    """(iteration, dev_accuracy) of each evaluation, that before the first iteration included, as iteration 0."""
    found = [(0, line["dev_accuracy_before"]) for line in history[:1] if "dev_accuracy_before" in line]
    return found + [(place + 1, line["dev_accuracy"]) for place, line in enumerate(history) if "dev_accuracy" in line]


def best_of(found: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """The first of the best evaluations."""
    return max(found, key=lambda evaluation: evaluation[1])


def changed(before: Sequence[float], now: Sequence[float], keys: Sequence[Hashable]) -> tuple[int, int]:
    """(lost, gained): sets of rows with one key that have fewer right now than before, and more."""
    change: dict[Hashable, float] = {}
    for key, then, right in zip(keys, before, now, strict=True):
        change[key] = change.get(key, 0.0) + right - then
    return sum(value < 0 for value in change.values()), sum(value > 0 for value in change.values())


def surely_above(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether the mean of `left` is above that of `right`, two samples of one size, by Student's one-sided t test."""
    size = len(left)
    noise = ((statistics.variance(left) + statistics.variance(right)) / size) ** 0.5
    return statistics.fmean(left) - statistics.fmean(right) > student_quantile(2 * size - 2, CONFIDENCE) * noise


# Over a run ------------------------------------------------------------------------------------------------------


class Watch:
    """Sees every line a stage logs, in order and from the first one on, and says which alarms it sets off."""

    def __init__(self, config: Watched, *, coarse: bool = False) -> None:
        """`coarse`: engine or trainer computes in 16 bits."""
        limit = COARSE_GAP if coarse else EXACT_GAP
        self.config = config if config.gap_limit is not None else dataclasses.replace(config, gap_limit=limit)
        self.history: list[dict[str, float]] = []
        self.returned_to = 0  # the iteration that the last roll-back led to
        self._ringing: set[str] = set()

    def see(self, step: int, line: Line) -> list[Finding]:
        """What the line of an iteration sets off; a second line of one iteration adds to it. An alarm that only warns
        is silent while it goes on. A line of `rollbacks` undoes the iterations after its own."""
        if "rollbacks" in line:
            del self.history[step:]
            self.returned_to = step
            return []
        del self.history[step:]
        if step > len(self.history):
            self.history.append({})
        self.history[-1].update(line)
        rung = [finding for name, rule in RULES.items() if self.config.alarms[name] != "off"
                and (finding := rule(self.history, self.config)) is not None]
        news = [finding for finding in rung
                if finding.alarm not in self._ringing or self.config.alarms[finding.alarm] != "warn"]
        self._ringing = {finding.alarm for finding in rung}
        return news

    def needed(self, done: int, cadence: int) -> set[int]:
        """Of the iterations that are multiples of `cadence`, those whose state a roll-back from after iteration `done`
        may lead to."""
        trusted = max(0, done - PATIENCE, self.returned_to)
        needed = set(range(trusted // cadence * cadence, done + 1, cadence))
        if "accuracy" in self.config.rolling and (found := evaluations(self.history)):
            needed.add(max(best_of(found)[0], self.returned_to) // cadence * cadence)
        return needed
