"""What alignment/compare.py does once it knows what is asked: evaluations side by side, paired on shared questions.

Their tables compare where the policies sat the same exam: the same held-out questions, and as many texts and drills.
Reads what runs left and runs nothing.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from alignment import display
from alignment.evidence import OWN_KEYS, chain_seconds, rounded
from alignment.identity import digest
from alignment.policy_quality import passes
from alignment.report import interval, is_estimate, meaning, shown
from alignment.repro import read_manifest
from alignment.run_folder import Run, json_lines, read_run
from alignment.stats import Bootstrap
from alignment.store import write_json
from data.schema import UserError

COLUMNS = ("greedy", "sampled", "pass_at_*", "bits_per_byte", "drills")
TEXTS = ("bits_per_byte", "drills", "cloze")  # measured on the exam's other parts
SETTINGS = ("engine", "num_samples", "temperature", "max_new_tokens")  # how a policy answers
FACTS = ("code", "packages", "exactness", "machine")  # of run.json, beside the config


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one policy got right, question by question, in the order of the exam."""

    greedy: NDArray[np.bool_]  # (Q,)
    sampled: NDArray[np.bool_]  # (Q, N)


@dataclasses.dataclass(frozen=True)
class Sitting:
    """One evaluation. `answers` holds the policies whose answers to all questions were kept."""

    report: dict[str, Any]
    questions: dict[str, dict[str, Any]]  # id -> Question row, in their order
    exam: str
    answers: dict[str, Answers]


@dataclasses.dataclass(frozen=True)
class Told:
    """What a run says of itself and of its policies."""

    folder: Path
    title: str
    about: dict[str, Any]
    facts: dict[str, str]  # name -> hash
    config: dict[str, Any]
    sittings: dict[str, Sitting]  # stage -> its evaluation


def read(place: Path) -> Told:
    """A run that came to its end. Raises UserError for anything else."""
    place = place.expanduser()
    status = read_manifest(place)["status"]
    if status not in ("done", "gate closed"):
        raise UserError(f"{place} is not finished (status {status}); run its command again, which goes on")
    try:
        told = tell(read_run(place if place.is_dir() else place.parent))
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{place} holds what no run leaves ({type(error).__name__}: {reason})") from None
    if not told.sittings:
        raise UserError(f"{place} has no evaluation (status {status}): its recipe has none, until= stopped before it, "
                        "or its artifact was deleted. recipe=evaluate model.path=FOLDER makes one of any model")
    return told


def tell(run: Run) -> Told:
    """What is needed of a run."""
    record = run.record
    about = {"folder": str(run.folder), **{key: record[key] for key in ("recipe", "scale", "status")},
             "seed": record["seeds"]["root"], "seconds": round(chain_seconds(run), 1),
             "gates_closed": [f"{gate['stage']}: {gate['require']}, found {gate['evidence']}"
                              for gate in record["gates"]]}
    facts = {fact: record.get(fact) for fact in FACTS}
    facts["base model"] = (record.get("base_model") or {}).get("identity")
    return Told(run.folder.resolve(), f"{record['recipe']}/{record['name']}", about,
                {fact: digest(value) for fact, value in facts.items()}, dict(yaml.safe_load(run.config) or {}),
                {stage: sitting(run.folder / "stages" / stage, report) for stage, report in run.evaluations.items()})


def sitting(folder: Path, report: dict[str, Any]) -> Sitting:
    """One evaluation, from its artifact."""
    questions = {row["id"]: row for row in json_lines(folder / "questions.jsonl")}
    if not questions:
        raise UserError(f"{folder} has no questions.jsonl, so that nobody knows what its policies were asked")
    sizes = {metric: sorted({row[metric]["n"] for row in report["policies"].values() if metric in row})
             for metric in TEXTS}
    return Sitting(report, questions, exam=digest([list(questions.values()), sizes]),
                   answers=kept_answers(folder / "generations.jsonl", list(questions)))


def kept_answers(path: Path, questions: Sequence[str]) -> dict[str, Answers]:
    """The policies with a greedy answer, and equally many samples, of every question."""
    right: dict[str, dict[str, dict[str, list[bool]]]] = {}  # policy -> mode -> question -> one a completion
    for row in json_lines(path):
        modes = right.setdefault(row["policy"], {"greedy": {}, "sampled": {}})
        modes[row["mode"]].setdefault(row["question_id"], []).append(row["correct"])
    whole = {}
    for policy, modes in right.items():
        table = {mode: [rows.get(question, []) for question in questions] for mode, rows in modes.items()}
        if all(min(map(len, rows)) == max(map(len, rows)) > 0 for rows in table.values()):
            whole[policy] = Answers(np.array(table["greedy"], dtype=bool)[:, 0], np.array(table["sampled"], dtype=bool))
    return whole


def names(runs: Sequence[Told], places: Sequence[Path]) -> list[str]:
    """What each run is called: recipe/name, or as the user named it where that does not tell them apart."""
    folders = [run.folder for run in runs]
    for folder, place in zip(folders, places, strict=True):
        if folders.count(folder) > 1:
            raise UserError(f"{place}: this run is named twice")
    titles = [run.title for run in runs]
    return titles if len(set(titles)) == len(titles) else [str(place) for place in places]


# What is said of them ------------------------------------------------------------------------------------------------


def compared(runs: Mapping[str, Told]) -> dict[str, Any]:
    """All of it, as --json writes it."""
    found = {name if len(run.sittings) == 1 else f"{name}, {stage}": one
             for name, run in runs.items() for stage, one in run.sittings.items()}
    groups: dict[str, dict[str, Sitting]] = {}  # exam -> who sat it
    for name, one in found.items():
        groups.setdefault(one.exam, {})[name] = one
    return {
        "runs": {name: run.about for name, run in runs.items()},
        "exams": [{"number": number, **{key: next(iter(group.values())).report["questions"][key]
                                        for key in ("n", "clusters")},
                   "evaluations": list(group), "settings_differ": settings_differ(list(group.values()))}
                  for number, group in enumerate(groups.values(), start=1)],
        "rows": [{"evaluation": name, "exam": list(groups).index(one.exam) + 1, "policy": policy,
                  "metrics": {metric: row[metric] for metric in chosen(row)}}
                 for name, one in found.items() for policy, row in one.report["policies"].items()],
        "differences": list(differences(found)),
        "config": config_differences({name: run.config for name, run in runs.items()}),
        "also_differ": [fact for fact in next(iter(runs.values())).facts
                        if len({run.facts[fact] for run in runs.values()}) > 1],
    }


def chosen(row: Mapping[str, Any]) -> list[str]:
    """The metrics of a policy that are shown, in the order of `COLUMNS`."""
    return [metric for pattern in COLUMNS for metric in row
            if fnmatch.fnmatchcase(metric, pattern) and is_estimate(row[metric])]


def settings_differ(found: Sequence[Sitting]) -> list[str]:
    """How the policies answered, where that was not the same for all."""
    return [key for key in SETTINGS if len({str(one.report["settings"].get(key)) for one in found}) > 1]


def differences(found: Mapping[str, Sitting]) -> Iterator[dict[str, Any]]:
    """Each evaluation minus the first one before it that asked some of the same questions, on those."""
    order = list(found)
    for place, name in enumerate(order):
        for base in order[:place]:
            shared = [key for key, row in found[base].questions.items() if found[name].questions.get(key) == row]
            if shared:
                yield from ({"policy": policy, "left": name, "right": base, "metrics": metrics}
                            for policy, metrics in paired(found[name], found[base], shared).items())
                break


def paired(later: Sitting, first: Sitting, shared: Sequence[str]) -> dict[str, dict[str, Any]]:
    """policy -> metric -> estimate of later minus first, of the policies of one name, on the questions `shared`."""
    bootstrap = Bootstrap([first.questions[key]["operand_key"] for key in shared],
                          resamples=int(first.report["settings"]["bootstrap"]))
    rows = [[place[key] for key in shared] for place in (
        {key: number for number, key in enumerate(side.questions)} for side in (later, first))]
    said = {}
    for policy in (policy for policy in later.answers if policy in first.answers):
        greedy = [side.answers[policy].greedy[at] for side, at in zip((later, first), rows, strict=True)]
        sampled = [side.answers[policy].sampled[at] for side, at in zip((later, first), rows, strict=True)]
        metrics = {"greedy": bootstrap.difference(*greedy),
                   "sampled": bootstrap.difference(*(samples.mean(1) for samples in sampled))}
        if sampled[0].shape == sampled[1].shape:
            metrics[f"pass_at_{sampled[0].shape[1]}"] = bootstrap.difference(*map(passes, sampled))
        said[policy] = {metric: {end: rounded(value) for end, value in estimate.to_json().items()}
                        for metric, estimate in metrics.items()}
    return said


def config_differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """key -> run -> value, of every key that can change a result and is not the same in all runs.

    A stage that some run lacks is one entry, by its name, and not one for each of its keys.
    """
    stages = {key for config in configs.values() for key, value in config.items()
              if isinstance(value, Mapping) and "kind" in value}
    lacked = {stage for stage in stages if any(stage not in config for config in configs.values())}
    flat = {name: dict(flattened({key: f"a stage ({value['kind']})" if key in lacked else value
                                  for key, value in config.items()})) for name, config in configs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    return {key: {name: values.get(key) for name, values in flat.items()} for key in keys
            if len({str(values.get(key)) for values in flat.values()}) > 1}


def flattened(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all but the keys that cannot change a result."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{before}{key}.")
        elif before or key == "seed" or key not in OWN_KEYS:
            yield f"{before}{key}", value


# On the screen -------------------------------------------------------------------------------------------------------


def run(places: Sequence[Path], out: Path | None) -> None:
    """Prints the tables, and writes them to `out`. Raises UserError."""
    runs = [read(place) for place in places]
    said = compared(dict(zip(names(runs, places), runs, strict=True)))
    if out is not None:
        write_json(out, said)
    for table in (results_table(said), differences_table(said), runs_table(said), config_table(said)):
        if table is not None:
            display.show(table)


def grid(title: str, caption: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table; the columns `right` hold numbers."""
    table = Table(title=title, caption=Text(caption) if caption else None, title_justify="left", caption_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(Text(name), justify="right")
    return table


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that some row has, in the order of `COLUMNS`."""
    known = dict.fromkeys(metric for row in rows for metric in row["metrics"])
    return [metric for pattern in COLUMNS for metric in known if fnmatch.fnmatchcase(metric, pattern)]


def cells(row: Mapping[str, Any], columns: Sequence[str], *, signed: bool = False) -> list[str]:
    """The row's estimates as text; nothing where it lacks a column."""
    said = []
    for column in columns:
        estimate, metric = row.get(column), meaning(f"x.{column}", "evaluate")
        said.append("" if estimate is None else f"{shown(estimate['value'], metric, signed=signed)} "
                                                f"{interval(estimate, metric, signed=signed)}")
    return said


def results_table(said: Mapping[str, Any]) -> Table:
    """Every policy of every evaluation, and whether they compare."""
    columns = metrics_of(said["rows"])
    table = grid("held-out metrics with 95% intervals", verdict(said["exams"]), ["run", "exam", "policy"],
                 [column.replace("_", " ") for column in columns])
    for row in said["rows"]:
        table.add_row(Text(row["evaluation"]), str(row["exam"]), Text(row["policy"]), *cells(row["metrics"], columns))
    return table


def verdict(exams: Sequence[Mapping[str, Any]]) -> str:
    """Which rows compare, in words."""
    return "\n".join([
        "All policies sat the same exam, so that their numbers compare." if len(exams) == 1 else
        "WARNING: not all policies sat the same exam. Compare numbers within an exam, never across exams; paired "
        "differences are on the questions that two exams share.",
        *(f"Exam {exam['number']}: {exam['n']} held-out questions, {exam['clusters']} distinct sets of operands"
          for exam in exams),
        *(f"WARNING: those who sat exam {exam['number']} answered with another {', '.join(exam['settings_differ'])}."
          for exam in exams if exam["settings_differ"])])


def differences_table(said: Mapping[str, Any]) -> Table | None:
    """The paired differences, in points."""
    if not said["differences"]:
        return None
    columns = metrics_of(said["differences"])
    table = grid("paired differences on the same questions, in points, with 95% intervals", "",
                 ["policy", "difference"], ["questions", *(column.replace("_", " ") for column in columns)])
    for row in said["differences"]:
        table.add_row(Text(row["policy"]), Text(f"{row['left']} - {row['right']}"), str(row["metrics"]["greedy"]["n"]),
                      *cells(row["metrics"], columns, signed=True))
    return table


def runs_table(said: Mapping[str, Any]) -> Table:
    """What each run took, its gates, and what differs beside the config."""
    facts = []
    if said["also_differ"]:
        facts.append(f"The runs differ in their {', '.join(said['also_differ'])} (see run.json).")
    if len(said["runs"]) > 1 and not said["config"]:
        facts.append("No config key that can change a result differs.")
    table = grid("runs", "\n".join(facts), ["run", "status", "gates closed"], ["seed", "scale", "time of all stages"])
    for name, row in said["runs"].items():
        table.add_row(Text(name), row["status"], Text("\n".join(row["gates_closed"]) or "none"), str(row["seed"]),
                      row["scale"], display.clock(row["seconds"]))
    return table


def config_table(said: Mapping[str, Any]) -> Table | None:
    """The config keys in which the runs differ."""
    if not said["config"]:
        return None
    table = grid("config keys that differ", "", ["key"], list(said["runs"]))
    for key, values in said["config"].items():
        table.add_row(key, *(Text("" if value is None else str(value)) for value in values.values()))
    return table
