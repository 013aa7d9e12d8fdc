"""What an export keeps of the judgments, and in which form: every choice stated, none hidden in code.

    Policy(format="trl-implicit", ties="keep", min_judgments=2, min_agreement=0.67)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

from data.annotate.records import Origin
from data.schema import Row, Split, UserError

FORMATS = {
    "finalign": "this project's preference rows, with everything known of where they come from",
    "trl": "TRL's preference rows with an explicit prompt (DPO)",
    "trl-implicit": "TRL's preference rows as two whole conversations, with a `margin` (reward models)",
    "trl-unpaired": "TRL's single answers with a label, good or not (KTO)",
    "trl-stepwise": "TRL's solutions with a label for each step (process reward models)",
}
PAIRED = ("finalign", "trl", "trl-implicit")
ORIGINS: tuple[str, ...] = get_args(Origin)
SPLITS: tuple[str, ...] = get_args(Split)
KINDS = ("outcome", "process")


def option(default: Any, help: str, *, choices: tuple[str, ...] = ()) -> Any:
    """A choice with its meaning; for a tuple `choices` are what it may hold."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Row):
    """The stated policy of an export. `checked` says whether it can be followed."""

    format: str = option("trl", "form of the rows", choices=tuple(FORMATS))
    kinds: tuple[str, ...] = option(KINDS, "outcome = preferences between whole answers and rewrites; process = the "
                                           "corrected step over the first wrong one", choices=KINDS)
    sources: tuple[str, ...] = option(("human",), "whose judgments count; each source is resolved for itself, and what "
                                                  "an AI judge or a rule says is never mixed with people's",
                                      choices=ORIGINS)
    resolution: str = option("adjudicated", "majority = what more than half of the annotators say; adjudicated = an "
                                            "adjudicator's decision where there is one, else the majority; each = "
                                            "every judgment for itself", choices=("majority", "adjudicated", "each"))
    min_judgments: int = option(1, "least number of people's judgments of a task")
    min_agreement: float = option(0.0, "least share of a task's judgments that say what the row says, 0 to 1, to two "
                                       "decimals: 0.67 is two of three; adjudicators are counted among themselves. A "
                                       "rewrite, and the text of a correction, is one person's work and exempt: a "
                                       "correction needs agreement on the first wrong step alone")
    ties: str = option("drop", "keep = a tie becomes two pairs, one each way, at strength 0 and half the weight",
                       choices=("drop", "keep"))
    skips: str = option("drop", "drop = a skip or a flag gives no row, and the others' judgments of the task count; "
                                "veto = a task that anybody has flagged gives none", choices=("drop", "veto"))
    rewrites: str = option("keep", "keep = an answer an annotator wrote is preferred over every candidate; drop = "
                                     "it gives no row, here or in --sft",
                           choices=("keep", "drop"))
    margins: tuple[float, ...] = option((0.0, 1.0, 2.0, 3.0), "the margin, in units of reward, of the strengths no "
                                        "difference, slightly, better, much; over several judgments their mean")
    neutral: str = option("cut", "label of a step that neither helps nor harms: true, false, half (all labels are then "
                                 "numbers), or cut (the solution ends before it)",
                          choices=("true", "false", "half", "cut"))
    gold: str = option("drop", "keep = tasks whose right decision was known give rows too", choices=("drop", "keep"))
    shown_order: str = option("drop", "keep = rows say which side was shown first (resolution=each alone); the file "
                                      "then depends on the order of the sides", choices=("drop", "keep"))
    splits: tuple[str, ...] = option(("train", "dev"), "prompts of these splits; held-out ones are never trained on",
                                     choices=SPLITS)
    batches: tuple[str, ...] = option((), "names of batches; none = all")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))


OPTIONS: dict[str, Any] = {field.name: field for field in dataclasses.fields(Policy)}


def checked(policy: Policy) -> Policy:
    """The policy. Raises UserError naming the option, the value and what it may be."""
    for name, field in OPTIONS.items():
        value, choices = getattr(policy, name), field.metadata["choices"]
        several = isinstance(field.default, tuple)
        wrong = [each for each in (value if several else [value]) if choices and each not in choices]
        if wrong or (several and choices and not value):
            raise UserError(f"--{spelled(name)} {', '.join(map(str, wrong)) or 'nothing'}: choose from "
                            f"{', '.join(choices)}" + (" (one or more)" if several else ""))
    if policy.min_judgments < 1:
        raise UserError(f"--min-judgments {policy.min_judgments}: must be 1 or more")
    if not 0 <= policy.min_agreement <= 1:
        raise UserError(f"--min-agreement {policy.min_agreement}: must be from 0 to 1")
    if len(policy.margins) != 4 or not all(math.isfinite(margin) and margin >= 0 for margin in policy.margins):
        raise UserError(f"--margins {','.join(map(str, policy.margins))}: must be four numbers of 0 or more: for no "
                        "difference, slightly, better, much")
    if conflict := _conflict(policy):
        raise UserError(conflict)
    return policy


def spelled(name: str) -> str:
    """An option as it is written on the command line."""
    return name.replace("_", "-")


def _conflict(policy: Policy) -> str:
    if policy.ties == "keep" and policy.format not in PAIRED:
        return (f"--ties keep: a tie has no honest form in {policy.format}; use --ties drop, or one of the formats "
                f"{', '.join(PAIRED)}")
    if policy.shown_order == "keep" and (policy.resolution != "each" or policy.format not in PAIRED):
        return ("--shown-order keep: only single judgments have one order; use it with --resolution each and one of "
                f"the formats {', '.join(PAIRED)}")
    if policy.format == "trl-stepwise" and "process" not in policy.kinds:
        return "--format trl-stepwise: its rows are of kind process, which --kinds leaves out; add it"
    if policy.format == "trl-unpaired" and "outcome" not in policy.kinds:
        return "--format trl-unpaired: its rows are of kind outcome, which --kinds leaves out; add it"
    return ""

