"""How a stage's keys are declared, those that every stage has, and those of a stage that alarms watch.

Pure declarations, as in alignment/kinds.py, which goes on from here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

ALARMS = {"nonfinite": "stop", "kl": "warn", "accuracy": "warn", "length": "warn", "entropy": "warn",
          "truncation": "warn", "gap": "warn", "push": "stop"}  # alarm -> what it does unless a recipe says otherwise
THRESHOLDS = {"kl": ("kl_budget",), "length": ("length_drift",), "entropy": ("entropy_floor",),
              "truncation": ("truncation_limit",), "accuracy": ("eval_every", "dev_examples")}  # keys of a rule
PATIENCE = 3  # iterations running that must be beyond a limit where a single one may be noise
SENSELESS = {
    ("nonfinite", "off"): "a step that is not finite is never taken; warn leaves it out and says so",
    ("gap", "rollback"): "going back does not change how the engine computes; use warn or stop",
    ("push", "rollback"): "going back does not make a push arrive; use warn or stop",
    ("push", "off"): "an engine that generates with other weights is at least said; use warn"}


def key(default: Any, help: str, *, low: float | None = None, high: float | None = None,
        choices: tuple[Any, ...] = (), identity: bool = True, spelled: str | None = None) -> Any:
    """A config key. `low`/`high` are inclusive limits; `identity=False` marks a key that cannot change the result;
    `spelled` is the user's name for it where that is no name in Python."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "identity": identity, "spelled": spelled}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(kw_only=True)
class StageConfig:
    """Keys every stage has."""

    kind: str = key("", "the kind of stage; set by the recipe's defaults list")
    inputs: dict[str, str] = key({}, "role -> name of the stage that supplies it; `base` is the recipe's base model")
    require: list[str] = key([], "gates: conditions on this stage's metrics, e.g. 'accuracy >= 0.7'", identity=False)
    adopt: str | None = key(None, "seal this existing model or dataset folder as the stage's artifact instead of "
                                  "running the stage")

    def conflict(self) -> str:
        """What is wrong with values that are each right by themselves, or nothing."""
        return ""

    def sometimes_deciding(self) -> dict[str, Any]:
        """What can change the result although its key is marked `identity=False`, the other keys being as they are."""
        return {}


@dataclasses.dataclass(kw_only=True)
class Watched(StageConfig):
    """Keys of every stage that alarms watch: what each does when it goes off, and when (alignment/alarms.py)."""

    alarms: dict[str, str] = key(
        ALARMS, "what an alarm does when it goes off: warn; stop = end the stage, which goes on from its last "
                "checkpoint once a key lets it; rollback = back to the last checkpoint in which it finds nothing "
                "wrong, and on from there with other questions and samples at lower rates; off",
        choices=("warn", "stop", "rollback", "off"), identity=False)
    kl_budget: float = key(10.0, "alarm kl: the KL to the reference is higher, in nats a completion", low=0,
                           identity=False)
    length_drift: float = key(1.5, "alarm length: completions are this many times as long as in the first iterations, "
                                   "or as short, three times running", low=1, identity=False)
    entropy_floor: float = key(0.2, "alarm entropy: a smaller share of the first iterations' entropy is left, three "
                                    "times running", low=0, high=1, identity=False)
    truncation_limit: float = key(0.25, "alarm truncation: a larger share of completions is cut off, three times "
                                        "running", low=0, high=1, identity=False)
    gap_limit: float | None = key(None, "alarm gap: the engine's and the trainer's log-probabilities differ by more on "
                                        "average, in nats; default: 0.001, or 0.05 where either computes in 16 bits",
                                  low=0, identity=False)
    rollback_factor: float = key(0.5, "what a roll-back multiplies all learning rates by", low=0, high=1,
                                 identity=False)
    max_rollbacks: int = key(3, "roll-backs after which an alarm stops the stage instead", low=0, identity=False)

    def __post_init__(self) -> None:
        said = {name: "off" if policy == "False" else policy for name, policy in self.alarms.items()}  # YAML's bare off
        self.alarms = ALARMS | said

    @property
    def rolling(self) -> list[str]:
        """The alarms that roll back."""
        return sorted(name for name, policy in self.alarms.items() if policy == "rollback")

    def conflict(self) -> str:
        for (name, policy), why in SENSELESS.items():
            if self.alarms[name] == policy:
                return f"alarms.{name}={policy}: {why}"
        return super().conflict()

    def sometimes_deciding(self) -> dict[str, Any]:
        """A roll-back changes the weights, and so does all that decides whether, and how far back, it goes."""
        found = super().sometimes_deciding()
        if self.rolling:
            names = [name for alarm in self.rolling for name in THRESHOLDS.get(alarm, ())]
            found |= {"rolling": self.rolling, "patience": PATIENCE} | {name: getattr(self, name) for name in (
                *names, "rollback_factor", "save_every") if hasattr(self, name)}
        return found
