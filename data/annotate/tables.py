"""The numbers of a desk as tables in the terminal, and the same numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.annotate.agreement import Agreement, JudgeAgreement, against_judges, agreement
from data.annotate.coefficients import Level, Measure
from data.annotate.profiles import Profile, profiles
from data.annotate.records import Snapshot

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")
GROUPS = {"all": "", "gold": "", "batch": "batch ", "language": "language ", "person": "with others: ", "pair": ""}
OUTCOMES = {"prefer": "prefer", "tie": "tie", "both_bad": "both bad", "ranked": "rank", "rated": "rate",
            "stepped": "walk", "skip": "skip", "flag": "flag"}


def agreement_json(snapshot: Snapshot) -> dict[str, Any]:
    """Everything `show_agreement` prints, unrounded."""
    found = {"agreement": [row.to_json() for row in agreement(snapshot)],
             "judges": [row.to_json() for row in against_judges(snapshot)],
             "annotators": [row.to_json() for row in profiles(snapshot)]}
    plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples as lists, as they are in a file
    return plain


def show_agreement(snapshot: Snapshot, console: Console) -> None:
    """Agreement of people scale by scale, of people with AI judges, and each annotator's measurements."""
    rows, judges, people = agreement(snapshot), against_judges(snapshot), profiles(snapshot)
    if not people:
        console.print("Nothing has been judged yet.", markup=False)
        return
    for scale in dict.fromkeys(row.scale for row in rows):
        console.print(people_table(scale, [row for row in rows if row.scale == scale]))
    if judges:
        console.print(judges_table(judges))
    console.print(profiles_table(people))
    for each in people:
        for flag in each.flags:
            console.print(Text(f"{each.annotator}: {flag}"))


def people_table(scale: str, rows: Sequence[Agreement]) -> Table:
    """One scale's coefficients, a row for each group."""
    levels = [level for level in LEVELS if level in rows[0].alpha]
    return table(f"Agreement: {scale}",
                 ["", "people", "items", "percent", "Cohen", "Fleiss", *(f"alpha ({level})" for level in levels)],
                 [[GROUPS[row.group] + row.name, row.people, row.items, percent(row.percent), number(row.cohen),
                   number(row.fleiss), *(number(row.alpha[level]) for level in levels)] for row in rows])


def judges_table(rows: Sequence[JudgeAgreement]) -> Table:
    """People against AI judges."""
    return table("Agreement with AI judges", ["judge", "people judged with the", "scale", "labels", "percent", "Cohen"],
                 [[row.judge, row.shown, row.scale, row.labels, percent(row.percent), number(row.cohen)]
                  for row in rows])


def profiles_table(rows: Sequence[Profile]) -> Table:
    """One row for each annotator; a share's interval is Wilson's."""
    head = ["annotator", "judgments", "", "shown first", "longer", "seconds", "too quick", "gold", "repeats"]
    return table("Annotators", head, [
        [name_of(row), row.judgments, ", ".join(f"{count} {OUTCOMES[outcome]}" for outcome, count in
                                                row.outcomes.items()),
         percent(row.first_slot), "; ".join(f"{each.language} {percent(each.longer)}" for each in row.lengths) or "n/a",
         "n/a" if row.median_seconds is None else f"{row.median_seconds:.1f}", percent(row.too_quick),
         percent(row.gold), percent(row.repeats)] for row in rows])


def name_of(row: Profile) -> str:
    """An annotator's name, with what is not an ordinary person's said."""
    notes = [*([row.origin] if row.origin != "human" else []), *([row.role] if row.role != "annotator" else [])]
    return row.annotator + (f" ({', '.join(notes)})" if notes else "")


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Names are people's own words: shown as they are, never read as markup."""
    made = Table(title=Text(title), title_justify="left")
    for name in head:
        made.add_column(Text(name), overflow="fold")  # what is too wide goes on in the next line, nothing is cut
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def number(measure: Measure) -> str:
    """0.81 [0.70, 0.90], or why there is none."""
    if measure.value is None:
        return str(measure)
    between = "" if measure.low is None else f" [{measure.low:.2f}, {measure.high:.2f}]"
    return f"{measure.value:.2f}{between}"


def percent(measure: Measure) -> str:
    """81% [70, 90], or why there is none."""
    if measure.value is None:
        return str(measure)
    between = "" if measure.low is None or measure.high is None else (
        f" [{100 * measure.low:.0f}, {100 * measure.high:.0f}]")
    return f"{100 * measure.value:.0f}%{between}"
