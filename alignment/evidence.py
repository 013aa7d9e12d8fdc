"""Published results: the evaluations of one recipe over several seeds, brought together.

    python -m alignment.evidence runs/evidence/seed0 runs/evidence/seed1 ... --out docs/results.json
    python -m alignment.evidence --results docs/results.json --markdown            # the README's tables on stdout
    python -m alignment.evidence --results docs/results.json --readme README.md    # put between the recipe's markers
    python -m alignment.evidence runs/evidence/seed4 --onto docs/results.json --out docs/results.json   # one seed more

A number is the mean over seeds with Student's t interval over seeds, beside each seed's own value and bootstrap
interval. Runs that are not comparable (another recipe, scale, question set, package version) are refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alignment.identity import digest
from alignment.metrics import Metric, documented
from alignment.run_folder import Run, read_run
from alignment.stats import over_seeds
from data.schema import UserError

FACTS = ("recipe", "scale", "packages", "exactness", "settings", "code", "config", "question set", "stages",
         "evaluated")
OWN_KEYS = ("seed", "name", "runs_dir", "workers", "quiet", "dry_run", "until", "only", "from_stage", "force",
            "accept_code_change")  # a run's keys that cannot change what its stages make
SECTIONS = ("policies", "differences", "reward_models")
POLICY_COLUMNS = ("greedy", "sampled", "pass_at_4", "bits_per_byte", "drills")
REWARD_COLUMNS = ("accuracy", "likelihood_accuracy", "length_accuracy", "over_likelihood", "over_length",
                  "calibration_error", "best_of_mean", "best_of", "best_of_gain")


def aggregate(folders: Sequence[Path]) -> dict[str, Any]:
    """The content of results.json."""
    runs = sorted((read_run(folder) for folder in folders), key=seed_of)
    check_comparable(runs)
    reports = [the_evaluation(run) for run in runs]
    first = runs[0].record
    return {
        **{name: facts(runs[0])[name] for name in FACTS}, "seeds": [seed_of(run) for run in runs],
        "questions": reports[0]["questions"], "machines": [run.record["machine"] for run in runs],
        "seconds": {"chain": [round(chain_seconds(run), 1) for run in runs],
                    "stages": {name: [round(float(run.record["stages"][name]["seconds"]), 1) for run in runs]
                               for name in first["stages"]}},
        **{section: {name: {metric: over_runs([report[section][name][metric] for report in reports])
                            for metric in estimates(row)} for name, row in reports[0][section].items()}
           for section in SECTIONS},
    }


def joined(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The results of both, seeds in order. Raises UserError where they are not comparable or share a seed."""
    for name in FACTS:
        if earlier.get(name) != later[name]:
            raise UserError(f"the earlier results and these runs differ in their {name}, so that they cannot be "
                            "brought together")
    seeds = [*earlier["seeds"], *later["seeds"]]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the earlier results and these runs share a seed: {earlier['seeds']} and {later['seeds']}")
    order = sorted(range(len(seeds)), key=seeds.__getitem__)

    def both(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
        return [[*one, *other][place] for place in order]

    seconds = {side: results["seconds"] for side, results in (("one", earlier), ("other", later))}
    return {
        **{name: later[name] for name in FACTS}, "seeds": sorted(seeds), "questions": later["questions"],
        "machines": both(earlier["machines"], later["machines"]),
        "seconds": {"chain": both(seconds["one"]["chain"], seconds["other"]["chain"]),
                    "stages": {name: both(seconds["one"]["stages"][name], taken)
                               for name, taken in seconds["other"]["stages"].items()}},
        **{section: {name: {metric: over_runs(both(earlier[section][name][metric]["seeds"], found["seeds"]))
                            for metric, found in row.items()} for name, row in later[section].items()}
           for section in SECTIONS},
    }


def over_runs(estimates: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """One metric over seeds."""
    rows = [{end: rounded(estimate[end]) for end in ("value", "low", "high")} | {"n": int(estimate["n"])}
            for estimate in estimates]
    whole = over_seeds([round(estimate["value"], 6) for estimate in estimates])
    return {"mean": round(whole.value, 6), "low": rounded(whole.low), "high": rounded(whole.high), "seeds": rows}


def rounded(value: float | None) -> float | None:
    """Six digits after the point; null for nan."""
    return None if value is None or value != value else round(value, 6)


def estimates(row: Mapping[str, Any]) -> list[str]:
    """The metrics of a row of evaluation.json."""
    return [name for name, value in row.items()
            if isinstance(value, Mapping) and set(value) == {"value", "low", "high", "n"}]


def seed_of(run: Run) -> int:
    """The run's root seed."""
    return int(run.record["seeds"]["root"])


def chain_seconds(run: Run) -> float:
    """Seconds of the run's stages, also of those that an earlier run made."""
    return sum(float(stage.get("seconds") or 0) for stage in run.record["stages"].values())


def the_evaluation(run: Run) -> dict[str, Any]:
    """The run's one evaluation."""
    if len(run.evaluations) != 1:
        raise UserError(f"{run.folder} has {len(run.evaluations)} finished evaluations; evidence needs exactly one "
                        f"(status of the run: {run.record.get('status')})")
    return next(iter(run.evaluations.values()))


def facts(run: Run) -> dict[str, Any]:
    """What runs must share to be brought together; long parts as hashes."""
    report, record = the_evaluation(run), run.record
    config = yaml.safe_load(run.config) or {}
    return {"recipe": record["recipe"], "scale": record["scale"], "packages": record["packages"],
            "exactness": record.get("exactness", {}), "settings": report["settings"],
            "code": digest(record.get("code")),
            "config": digest({name: value for name, value in config.items() if name not in OWN_KEYS}),
            "question set": digest(sorted(run.questions)),
            "stages": sorted(record["stages"]), "evaluated": {section: sorted(report[section]) for section in SECTIONS}}


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises UserError where a run is not done, or the runs differ in anything but their seed."""
    if not runs:
        raise UserError("no run is given; name the folders of the runs, for example runs/evidence/seed*")
    seeds = [seed_of(run) for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"two runs have the same root seed ({seeds}); evidence over seeds needs different ones")
    wanted = facts(runs[0])
    for run in runs:
        if run.record.get("status") != "done":
            raise UserError(f"{run.folder} is not done (status {run.record.get('status')})")
        for name, value in facts(run).items():
            if value != wanted[name]:
                raise UserError(f"{run.folder} and {runs[0].folder} differ in their {name}, so that their results "
                                f"cannot be brought together")


# README tables -----------------------------------------------------------------------------------------------------


def markers(recipe: str) -> tuple[str, str]:
    """Between what a README holds the results of a recipe."""
    return f"<!-- {recipe}:begin -->", f"<!-- {recipe}:end -->"


def markdown(results: Mapping[str, Any]) -> str:
    """The README's section: what stands between the markers."""
    questions, seeds = results["questions"], results["seeds"]
    minutes = [seconds / 60 for seconds in results["seconds"]["chain"]]
    engine = results["settings"]["engine"]
    machines = " and ".join(dict.fromkeys(f"{machine['processor']}, {machine['cores']} cores"
                                          for machine in results["machines"]))
    return "\n".join([
        f"Recipe `{results['recipe']}`, {len(seeds)} seeds, {questions['n']} held-out questions "
        f"({questions['clusters']} distinct sets of operands). Mean over seeds with the 95% interval over seeds.", "",
        *policy_table(results), "",
        "Paired differences on the same questions, in points. *every seed*: the number of seeds whose own 95% interval "
        "(bootstrap over sets of operands) lies above 0.", "",
        *difference_table(results), "",
        *reward_table(results),
        f"Measured on {machines}, engine {engine}, "
        f"{min(minutes):.1f} to {max(minutes):.1f} minutes a seed for all stages.",
    ])


def policy_table(results: Mapping[str, Any]) -> list[str]:
    """Policies x metrics."""
    columns = [name for name in POLICY_COLUMNS if any(name in row for row in results["policies"].values())]
    columns += [name for name in next(iter(results["policies"].values())) if name.startswith("pass_at_")
                and name not in columns]
    return grid(["policy", *(column.replace("_", " ") for column in columns)], [
        [f"`{name}`", *(cell(row[column], meaning(column)) if column in row else "" for column in columns)]
        for name, row in results["policies"].items()])


def difference_table(results: Mapping[str, Any]) -> list[str]:
    """Differences: over seeds, the weakest seed, and how many seeds are above 0."""
    rows = []
    for name, row in results["differences"].items():
        line = [f"`{name}`"]
        for metric in ("greedy", "sampled"):
            found = row[metric]
            weakest = min(found["seeds"], key=lambda seed: seed["low"])
            above = sum(seed["low"] > 0 for seed in found["seeds"])
            line += [cell(found, meaning(metric), signed=True),
                     f"{points(weakest['value'])} [{points(weakest['low'])}, {points(weakest['high'])}]",
                     f"{above} of {len(found['seeds'])}"]
        rows.append(line)
    return grid(["difference", "greedy", "weakest seed", "every seed", "sampled", "weakest seed", "every seed"], rows)


def reward_table(results: Mapping[str, Any]) -> list[str]:
    """Metrics x reward models; nothing where there is none."""
    models = results["reward_models"]
    if not models:
        return []
    n = next(iter(models.values()))["accuracy"]["seeds"][0]["n"]
    columns = [name for name in REWARD_COLUMNS if any(name in row for row in models.values())]
    return [f"Reward models on {n} held-out pairs a seed, one a question, both sides sampled from "
            f"`{results['settings']['reward_policy']}`; best of {results['settings']['best_of']}.", "",
            *grid(["metric", *(f"`{name}`" for name in models)], [
                [column.replace("_", " "), *(cell(row[column], meaning(column)) if column in row else ""
                                             for row in models.values())] for column in columns]), ""]


def meaning(column: str) -> Metric:
    return documented(f"x.{column}", "evaluate")


def cell(found: Mapping[str, Any], metric: Metric, *, signed: bool = False) -> str:
    """Mean and interval over seeds."""
    signed = signed or metric.unit == "points"
    share = metric.unit in ("share", "points")

    def form(value: float) -> str:
        return points(value) if signed else f"{100 * value:.1f}" if share else f"{value:.3f}"

    unit = "%" if share and not signed else ""
    if found["low"] is None:
        return f"{form(found['mean'])}{unit}"
    return f"{form(found['mean'])}{unit} [{form(found['low'])}, {form(found['high'])}]"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header),
            *("| " + " | ".join(row) + " |" for row in rows)]


def between_markers(text: str, results: Mapping[str, Any], *, where: str) -> str:
    """The text with what stands between the markers of the results' recipe replaced by their tables."""
    begin, end = markers(results["recipe"])
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"{where} must hold {begin} and, after it, {end}, once each")
    return text[:text.index(begin) + len(begin)] + "\n" + markdown(results) + "\n" + text[text.index(end):]


def command(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m alignment.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs of one recipe, one per seed")
    parser.add_argument("--out", type=Path, help="write results.json here")
    parser.add_argument("--results", type=Path, help="read this results.json instead of runs")
    parser.add_argument("--onto", type=Path, help="add the runs to the seeds of this results.json")
    parser.add_argument("--markdown", action="store_true", help="print the README's tables")
    parser.add_argument("--readme", type=Path, help="put the tables between the recipe's markers in this file")
    asked = parser.parse_args(argv)
    if bool(asked.runs) == bool(asked.results):
        raise UserError("name either the folders of runs or --results, a file that was made of them")
    if asked.onto and not asked.runs:
        raise UserError("--onto: name the folders of the runs to add")
    results = aggregate(asked.runs) if asked.runs else json.loads(asked.results.read_text(encoding="utf-8"))
    if asked.onto:
        results = joined(json.loads(asked.onto.read_text(encoding="utf-8")), results)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if asked.readme:
        text = asked.readme.read_text(encoding="utf-8")
        asked.readme.write_text(between_markers(text, results, where=str(asked.readme)), encoding="utf-8")
    if asked.markdown or not (asked.out or asked.readme):
        print(markdown(results))


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 done, 2 the runs cannot be brought together."""
    try:
        command(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
