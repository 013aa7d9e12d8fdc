"""The report of a run: one HTML page that opens offline, runs no script and loads nothing.

    python -m alignment.report runs/ppo_fin/seed1

Made from what a run leaves (run.json, metrics.jsonl, the evaluation's artifact), so that it can be made again at any
time and for a run that failed half-way. Every text from a model or a data set is escaped.
"""

from __future__ import annotations

import datetime
import fnmatch
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from alignment import charts
from alignment.alarms import TOLD
from alignment.charts import Line, Whisker
from alignment.metrics import Metric, documented
from alignment.pair_sources import pair_sources
from alignment.run_folder import Run, read_run
from data.schema import UserError

TEMPLATE = Path(__file__).with_name("report.html.jinja")
COLUMNS = ("greedy", "sampled", "pass_at_*", "truncated", "length", "perplexity", "bits_per_byte", "drills", "cloze")
REWARD_COLUMNS = ("accuracy", "likelihood_accuracy", "length_accuracy", "over_likelihood", "over_length", "auc",
                  "calibration_error", "best_of_mean", "best_of", "best_of_gain", "best_of_likelihood", "oracle")
SAMPLES = 8  # questions shown side by side
TOGETHER = {  # title -> the metrics that share a chart
    "reward": ("reward", "reward_*"), "KL per token": ("kl", "kl_k3"), "loss": ("loss", "dev_loss"),
    "probability ratio": ("ratio_*",), "trainer against sampler": ("logprob_gap_*",), "gradient norm": ("*grad_norm",),
    "log-probability": ("chosen_logprob", "rejected_logprob"), "seconds": ("seconds_*",),
    "held-out questions since the best evaluation": ("dev_lost", "dev_gained"), "steps left out": ("nonfinite_*",)}
Estimate = Mapping[str, Any]


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir`/report.html and returns its path."""
    run = read_run(run_dir)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"shown": shown, "interval": interval, "clock": clock,
                            "percent": charts.percent, "number": charts.number}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        run=run.record, folder=run.folder.name, config=run.config, evaluations=[
            evaluation_section(name, report) for name, report in run.evaluations.items()],
        sources=pair_sources(run), curves=curves(run), samples=samples(run), stages=stages(run),
        provenance=provenance(run.record), started=datetime.datetime.fromtimestamp(
            run.record.get("started", 0), datetime.UTC))
    path = run_dir / "report.html"
    path.write_text(visible(page), encoding="utf-8", errors="backslashreplace")
    return path


# Numbers as text ---------------------------------------------------------------------------------------------------


def shown(value: float | None, metric: Metric, *, signed: bool = False) -> str:
    """A value in its metric's unit: shares as percentages, differences with their sign."""
    if value is None:
        return "–"
    if metric.unit in ("share", "points"):
        return f"{100 * value:+.1f}" if signed or metric.unit == "points" else f"{100 * value:.1f}%"
    text = charts.number(value)
    return f"+{text}" if signed and value > 0 else text


def interval(estimate: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """[low, high]."""
    return f"[{shown(estimate['low'], metric, signed=signed)}, {shown(estimate['high'], metric, signed=signed)}]"


def visible(text: str) -> str:
    """Control characters and text-direction overrides, which could hide what a text says, made visible."""
    return "".join(chr(0x2400 + ord(char)) if ord(char) < 32 and char not in "\n\t"
                   else f"⟨U+{ord(char):04X}⟩" if char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x7f"
                   else char for char in text)


def clock(seconds: float) -> str:
    """12 s, 3 min 5 s, 1 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def meaning(name: str, kind: str = "") -> Metric:
    """The metric, also for a name that a user's own stage made up."""
    try:
        return documented(name, kind)
    except KeyError:
        return Metric("not documented")


# The evaluation ----------------------------------------------------------------------------------------------------


def is_estimate(value: object) -> bool:
    """Whether a part of evaluation.json is a value with its interval, and not one that could not be computed."""
    return (isinstance(value, Mapping) and set(value) == {"value", "low", "high", "n"}
            and None not in (value["value"], value["low"]))


def evaluation_section(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of one evaluation."""
    policies, differences = report["policies"], report["differences"]
    colours = {policy: place for place, policy in enumerate(policies)}
    return {
        "name": name, "questions": report["questions"], "settings": report["settings"],
        "table": table(policies, COLUMNS), "differences": table(differences, COLUMNS),
        "reward_table": table(report["reward_models"], REWARD_COLUMNS),
        "best": [(text, row[metric], meaning(f"x.{metric}", "evaluate"), metric) for text, row in differences.items()
                 for metric in ("greedy", "sampled") if is_estimate(row.get(metric))],
        "accuracy_chart": charts.interval_chart(
            [whisker(policy, label, row[metric], colours[policy], hollow=metric == "sampled")
             for policy, row in policies.items()
             for metric, label in (("greedy", "greedy"), ("sampled", "sampled")) if is_estimate(row.get(metric))],
            title="accuracy of each policy with 95% intervals"),
        "gain_chart": charts.interval_chart(
            [whisker(text, metric, row[metric], 0 if metric == "greedy" else 1) for text, row in differences.items()
             for metric in ("greedy", "sampled") if is_estimate(row.get(metric))],
            title="paired differences with 95% intervals", zero=True, form=points),
        "forgetting": [(title, charts.interval_chart(
            [whisker(policy, metric, row[metric], colours[policy]) for policy, row in policies.items()
             if is_estimate(row.get(metric))], title=title, form=form)) for metric, title, form in (
                 ("drills", "Arithmetic drills right (higher is better)", charts.percent),
                 ("bits_per_byte", "General text, bits per byte (lower is better)", charts.number))],
        "by_kind": heat(policies, "by_kind"), "by_language": heat(policies, "by_language"),
        "reward_models": [reward_section(role, row) for role, row in report["reward_models"].items()],
    }


def points(value: float) -> str:
    """A difference of shares, in points."""
    return f"{100 * value:+.3g}" if value else "0"


def whisker(row: str, series: str, estimate: Estimate, colour: int, *, hollow: bool = False) -> Whisker:
    return Whisker(row=row, series=series, value=estimate["value"], low=estimate["low"], high=estimate["high"],
                   colour=colour, hollow=hollow)


def table(rows: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> dict[str, Any]:
    """Columns in `order` that some row has, then the estimates; the best value of a column is marked."""
    names = list(dict.fromkeys(metric for row in rows.values() for metric, value in row.items() if is_estimate(value)))
    columns = sorted(names, key=lambda metric: next(
        (place for place, column in enumerate(order) if column.rstrip("*") == metric
         or (column.endswith("*") and metric.startswith(column[:-1]))), len(order)))
    metrics = {column: meaning(f"x.{column}", "evaluate") for column in columns}
    best = {}
    for column, metric in metrics.items():
        values = [row[column]["value"] for row in rows.values() if is_estimate(row.get(column))]
        if metric.better != "neither" and len(values) > 1 and len(set(values)) > 1:
            best[column] = max(values) if metric.better == "higher" else min(values)
    return {"columns": metrics, "best": best,
            "rows": {name: {column: row[column] for column in columns if is_estimate(row.get(column))}
                     for name, row in rows.items()}}


def heat(policies: Mapping[str, Mapping[str, Any]], group: str) -> dict[str, Any]:
    """Greedy accuracy by group: rows are groups, columns are policies."""
    labels = list(dict.fromkeys(label for row in policies.values() for label in row.get(group, {})))
    return {"policies": list(policies), "rows": [
        {"label": label, "n": max(int(row[group][label]["greedy"]["n"]) for row in policies.values()),
         "cells": [row[group][label]["greedy"] for row in policies.values()]} for label in labels]}


def reward_section(role: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy by kind of error, calibration and best-of-n of one reward model."""
    curves = [(name, row.get(key, {}), colour) for name, key, colour in (
        (role, "best_of_curve", 0), ("likelihood", "best_of_likelihood_curve", 1))]
    return {
        "role": role, "likelihood_variant": row["likelihood_variant"], "length_variant": row["length_variant"],
        "by_error": charts.interval_chart(
            [whisker(f"{kind} ({int(estimate['n'])})", "accuracy", estimate, 0)
             for kind, estimate in row["by_error"].items() if is_estimate(estimate)],
            title="pairs ranked right by kind of error", width=charts.NARROW),
        "calibration": charts.calibration_chart(row["calibration"], title="calibration"),
        "best_of": charts.line_chart(
            [Line(name, [(int(size), estimate["value"]) for size, estimate in curve.items()], colour)
             for name, curve, colour in curves],
            title="accuracy of the best of n", x_label="n samples", form=charts.percent),
    }


# Curves ------------------------------------------------------------------------------------------------------------


def curves(run: Run) -> list[dict[str, Any]]:
    """For each stage that logged: its charts, those of `TOGETHER` in one."""
    sections = []
    for stage in dict.fromkeys(line["stage"] for line in run.log):
        kind = run.record.get("stages", {}).get(stage, {}).get("kind", "")
        series: dict[str, list[tuple[float, float]]] = {}
        for line in standing([line for line in run.log if line["stage"] == stage]):
            for name, value in line.items():
                if name not in ("stage", "step", "time", "rollbacks") and isinstance(value, int | float):
                    series.setdefault(name, []).append((line["step"], value))
        groups: dict[str, list[str]] = {}
        for name, values in series.items():
            if len(values) > 1:
                groups.setdefault(next((title for title, patterns in TOGETHER.items() for pattern in patterns
                                        if fnmatch.fnmatchcase(name, pattern)), name), []).append(name)
        drawn = [curve_chart(title, names, series, kind) for title, names in groups.items()]
        against = distance_chart(series)
        if drawn:
            sections.append({"stage": stage, "kind": kind, "charts": ([against] if against else []) + drawn})
    return sections


def standing(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A stage's lines without those of iterations that a roll-back undid."""
    found: list[Mapping[str, Any]] = []
    for line in lines:
        if "rollbacks" in line:
            found = [before for before in found if before["step"] <= line["step"]]
        found.append(line)
    return found


def curve_chart(title: str, names: Sequence[str], series: Mapping[str, Sequence[tuple[float, float]]],
                kind: str) -> dict[str, Any]:
    """One or several metrics over steps."""
    metric = meaning(names[0], kind)
    form = charts.percent if metric.unit == "share" else charts.number
    return {"title": title, "unit": "" if metric.unit == "share" else metric.unit,
            "meaning": "; ".join(f"{name}: {meaning(name, kind).meaning}" for name in names),
            "svg": charts.line_chart([Line(name, series[name], place) for place, name in enumerate(names)],
                                     title=title, form=form)}


def distance_chart(series: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any] | None:
    """Reward and held-out accuracy against the distance from the reference, where a stage logged them.

    The distance is the root of the KL (Gao et al. 2023, arXiv:2210.10760, in which reward grows about linearly). An
    iteration's KL is that of the policy before it, which drew its completions; dev_accuracy is that of the policy after
    it, whose KL is the next iteration's.
    """
    distance = {step: math.sqrt(max(0.0, kl)) for step, kl in series.get("kl_sequence", ())}

    def points(name: str, *, after: int = 0) -> list[tuple[float, float]]:
        return [(distance.get(step + after, distance[step]), value) for step, value in series.get(name, ())
                if step in distance]

    drawn = {name: points(name) for name in ("reward", "reward_rule", "reward_reward_model")}
    drawn["dev_accuracy"] = points("dev_accuracy_before") + points("dev_accuracy", after=1)
    lines = [Line(name, sorted(found), place) for place, (name, found) in enumerate(drawn.items()) if len(found) > 1]
    if not lines:
        return None
    return {"title": "reward against KL", "unit": "", "meaning": "what is bought with distance from the reference "
            "policy: where the reward goes on rising and right answers (dev_accuracy, held out) do not, the reward is "
            "being exploited", "svg": charts.line_chart(lines, title="reward against KL",
                                                        x_label="root of the KL to the reference, nats a completion")}


# Samples, stages, provenance ---------------------------------------------------------------------------------------


def samples(run: Run) -> list[dict[str, Any]]:
    """The same questions answered by every policy: some gained by the last comparison, some lost, some neither."""
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for row in run.generations:
        answers.setdefault(row["question_id"], {})[row["policy"]] = row
    pair = next((text.split(" - ") for report in run.evaluations.values()
                 for text in reversed(report["differences"])), None)

    def story(rows: Mapping[str, Mapping[str, Any]]) -> str:
        if pair is None or not all(name in rows for name in pair):
            return "answered"
        left, right = (bool(rows[name]["correct"]) for name in pair)
        return {(True, False): f"{pair[0]} right, {pair[1]} wrong", (False, True): f"{pair[1]} right, {pair[0]} wrong",
                (True, True): "both right", (False, False): "both wrong"}[left, right]

    stories: dict[str, list[dict[str, Any]]] = {}
    for question_id, rows in answers.items():
        if question_id in run.questions:
            stories.setdefault(story(rows), []).append(
                {"question": run.questions[question_id], "answers": list(rows.values())})
    share = max(1, SAMPLES // max(1, len(stories)))
    return [{"story": name, "rows": spread(rows, share)} for name, rows in sorted(
        stories.items(), key=lambda item: "both" in item[0])]


def spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Rows of different languages and kinds first."""
    seen: dict[tuple[str, str], int] = {}
    languages: dict[str, int] = {}
    ranked = []
    for row in rows:
        language, kind = row["question"]["language"], row["question"]["kind"]
        seen[language, kind] = seen.get((language, kind), 0) + 1
        if seen[language, kind] == 1:
            languages[language] = languages.get(language, 0) + 1
        ranked.append((seen[language, kind], languages[language], row))
    return [row for *_, row in sorted(ranked, key=lambda item: item[:2])[:count]]


def stages(run: Run) -> list[dict[str, Any]]:
    """One row a stage: status, seconds, own metrics, notes, gates."""
    found = []
    longest = max((float(stage.get("seconds") or 0) for stage in run.record.get("stages", {}).values()), default=0.0)
    for name, stage in run.record.get("stages", {}).items():
        kind = stage.get("kind", "")
        evaluated = kind == "evaluate"  # its metrics have their own section
        metrics = [] if evaluated else [
            (metric, value if isinstance(value, Mapping) else {"value": value}, meaning(metric, kind))
            for metric, value in (stage.get("metrics") or {}).items()]
        found.append({"name": name, "kind": kind, "status": stage.get("status", "waiting"),
                      "seconds": float(stage.get("seconds") or 0), "share": float(stage.get("seconds") or 0) /
                      longest if longest else 0.0, "identity": stage.get("identity", ""), "metrics": metrics,
                      "alarms": [note for note in stage.get("notes") or [] if note.startswith(TOLD)],
                      "notes": [note for note in stage.get("notes") or [] if not note.startswith(TOLD)],
                      "error": stage.get("error"), "adopted": stage.get("adopted"),
                      "gates": [gate for gate in run.record.get("gates", []) if gate.get("stage") == name]})
    return found


def provenance(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Facts to repeat the run by, in groups."""
    machine, seeds = record.get("machine", {}), record.get("seeds", {})
    return [
        ("machine", [(key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
                     for key, value in machine.items()]),
        ("seeds", [("root", str(seeds.get("root", ""))), *((f"stage {name}", str(seed))
                                                           for name, seed in seeds.get("stages", {}).items())]),
        ("packages", [(name, str(version)) for name, version in record.get("packages", {}).items()]),
        ("exactness", [(name, str(value)) for name, value in (record.get("exactness") or {}).items()]),
        ("data", [(name, str(value)) for name, value in record.get("data", {}).get("config", {}).items()]
         + [(name, str(sha)) for name, sha in record.get("data", {}).get("files", {}).items()]),
        ("code", [(name, str(sha)[:16]) for name, sha in record.get("code", {}).items()]),
    ]


def main(argv: Sequence[str]) -> int:
    """`python -m alignment.report RUN_FOLDER`; exit codes 0 done, 2 not a run's folder."""
    if len(argv) != 1:
        print("usage: python -m alignment.report RUN_FOLDER", file=sys.stderr)
        return 2
    try:
        print(write_report(Path(argv[0])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
