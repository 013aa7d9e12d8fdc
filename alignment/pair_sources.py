"""What a run's preference pairs are, by who preferred: people, AI judges, the rule; for its report.

Reads the metrics that the stages `pairs` and `reward_model` gave (alignment/metrics.py says what each means).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from alignment.run_folder import Run

MADE = {"pairs": "origin", "weight": "weight", "strength": "strength"}  # column -> metric of a `pairs` stage
LEARNT = ("accuracy", "margin")  # of a reward model


def pair_sources(run: Run) -> list[dict[str, Any]]:
    """A table for each stage that made pairs: a row an origin, columns of each reward model that learnt from them."""
    stages: Mapping[str, Mapping[str, Any]] = run.record.get("stages", {})
    config = inputs_of(run.config)
    found = []
    for name, made in of_kind(stages, "pairs"):
        models = [(model, metrics) for model, metrics in of_kind(stages, "reward_model")
                  if config.get(model, {}).get("pairs", name) == name]
        origins = [metric.partition(".")[2] for metric in made if metric.startswith("origin.")]
        if origins:
            found.append({
                "stage": name, "models": [model for model, _ in models],
                "agreement": made.get("agreement"), "shared": made.get("shared"),
                "rows": [{
                    "origin": origin, **{column: made.get(f"{metric}.{origin}") for column, metric in MADE.items()},
                    "models": [{metric: known(metrics.get(f"{metric}.{origin}")) for metric in LEARNT}
                               for _, metrics in models]} for origin in origins]})
    return found


def known(value: Any) -> Any:
    """A metric without the numbers that nobody knows, such as the limits of an interval over a single question."""
    if isinstance(value, Mapping):
        return {name: known(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def inputs_of(config: str) -> dict[str, Mapping[str, str]]:
    """stage -> its inputs, of a resolved config; nothing where it is not one, as the report shows any file."""
    try:
        parsed = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    stages = parsed.items() if isinstance(parsed, dict) else ()
    return {name: stage["inputs"] for name, stage in stages
            if isinstance(stage, dict) and isinstance(stage.get("inputs"), dict)}


def of_kind(stages: Mapping[str, Mapping[str, Any]], kind: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(name, metrics) of the stages of a kind that have any."""
    return [(name, stage["metrics"]) for name, stage in stages.items()
            if stage.get("kind") == kind and stage.get("metrics")]
