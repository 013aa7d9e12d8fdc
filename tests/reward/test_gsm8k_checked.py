"""GSM8K's sampled solutions: how far the rule reaches, and the first wrong steps that were read by hand."""

from __future__ import annotations

from pathlib import Path

from alignment.stats import wilson
from data.rows import json_lines
from reward.steps import steps_of
from tests.data.real_files import GSM8K_SAMPLES, needs_gsm8k_samples
from tests.reward.gsm8k_samples import CHECKED, COUNT, MODELS, coverage, drawn

DOC = Path(__file__).parents[2] / "docs" / "judges.md"


def checked() -> list[dict[str, object]]:
    return [row for _, row in json_lines(CHECKED)]


def test_the_document_counts_what_was_checked() -> None:
    rows, said = checked(), " ".join(DOC.read_text(encoding="utf-8").split())
    assert len(rows) == COUNT == len({(row["id"], row["model"]) for row in rows})
    assert all(set(row) == {"id", "model", "rule", "read"} for row in rows)  # no text of the data set
    same = sum(row["rule"] == row["read"] for row in rows)
    share = wilson(same, COUNT)
    assert (f"the same line in {same} of {COUNT}, {share.value:.0%} (95%: {share.low:.0%} to {share.high:.0%}, "
            "Wilson)") in said
    later, earlier = (sum(int(str(row["rule"])) > int(str(row["read"])) for row in rows),
                      sum(int(str(row["rule"])) < int(str(row["read"])) for row in rows))
    assert f"In {later} the rule names a later line" in said and f"in {earlier} an earlier one" in said


@needs_gsm8k_samples
def test_what_was_checked_is_what_the_seed_draws_and_the_rule_says() -> None:
    found = [{"id": question.id, "model": MODELS[completion.sample], "rule": len(steps_of(verdict.prefix or ""))}
             for (question, completion, _), verdict in drawn(GSM8K_SAMPLES)]
    assert found == [{name: row[name] for name in ("id", "model", "rule")} for row in checked()]


@needs_gsm8k_samples
def test_the_rules_coverage_is_what_the_document_says() -> None:
    found, said = coverage(GSM8K_SAMPLES), DOC.read_text(encoding="utf-8")
    whole, wrong = found["solutions"], found["wrong"]
    assert found["answers as published"] == whole == 4 * found["questions"]
    for line in (f"| answer found right or wrong as published | {whole:,} of {whole:,} |",
                 f"| an equation read in every step | {found['every step read']:,} of {whole:,} |",
                 f"| question with a program | {found['with a program']:,} of {whole:,} |",
                 f"| wrong | {wrong:,} of {whole:,} |",
                 f"| of the wrong ones, a first wrong step said | {found['first wrong step said']:,} of {wrong:,} |"):
        assert line in said
