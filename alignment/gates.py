"""Gates: what must hold of a stage's metrics before the chain goes on.

A condition is `METRIC OPERATOR NUMBER`, for example `accuracy >= 0.7` or, on an interval's end, `accuracy.low > 0.5`.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from data.schema import UserError

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONDITION = re.compile(rf"\s*([A-Za-z_][\w.@/ -]*?)\s*(>=|<=|==|!=|>|<)\s*({_NUMBER})\s*")
ENDS = ("value", "low", "high", "n")


@dataclasses.dataclass(frozen=True)
class Gate:
    """One condition on one stage."""

    metric: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.bound:g}"


@dataclasses.dataclass(frozen=True)
class Closed:
    """A gate that did not hold, with the evidence."""

    stage: str
    gate: Gate
    value: float | None  # None = the stage did not report that metric
    evidence: str

    def __str__(self) -> str:
        return f"gate closed at stage {self.stage}: required {self.gate}, found {self.evidence}"


def parse(condition: str, *, where: str) -> Gate:
    """The gate a condition says; `where` names the key it came from in the error."""
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise UserError(f"{where}: {condition!r} is not a condition. Write METRIC OPERATOR NUMBER, "
                        f"for example 'accuracy >= 0.7'; operators: {' '.join(OPERATORS)}")
    return Gate(metric=match[1], operator=match[2], bound=float(match[3]))


def _find(metric: str, metrics: Mapping[str, Any]) -> tuple[float, str] | None:
    if metric in metrics:
        found = metrics[metric]
        if isinstance(found, Mapping):
            interval = f" (95% interval {found['low']:.4g} to {found['high']:.4g})" if "low" in found else ""
            count = f", n = {found['n']:g}" if "n" in found else ""
            return float(found["value"]), interval + count
        return float(found), ""
    name, _, end = metric.rpartition(".")
    if end in ENDS and isinstance(metrics.get(name), Mapping) and end in metrics[name]:
        return float(metrics[name][end]), ""
    return None


def check(stage: str, conditions: list[str], metrics: Mapping[str, Any]) -> list[Closed]:
    """The gates of `stage` that do not hold on its `metrics`; a metric that is missing or NaN holds nothing."""
    closed = []
    for condition in conditions:
        gate = parse(condition, where=f"{stage}.require")
        found = _find(gate.metric.removeprefix(f"{stage}."), metrics) or _find(gate.metric, metrics)
        if found is None:
            near = difflib.get_close_matches(gate.metric, metrics, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            closed.append(Closed(stage, gate, None, f"no such metric; the stage reports "
                                                    f"{', '.join(sorted(metrics)) or 'none'}{hint}"))
        elif not OPERATORS[gate.operator](found[0], gate.bound):
            closed.append(Closed(stage, gate, found[0], f"{gate.metric} = {found[0]:.4g}{found[1]}"))
    return closed
