"""Pairs of answers and of steps: what is made, what is left out and why, and whose word it is."""

from __future__ import annotations

import collections
import json
import random
from typing import Any

import pytest

from alignment.pair_building import Dropped, compared_pairs, naive_pairs, outcome_pairs, process_pairs
from alignment.preference_kinds import Pairs
from data.chat import check_messages
from data.finance.generator import solution_text
from data.preferences import checked
from data.schema import Comparison, Completion, PreferencePair, Question, Verdict
from reward.judge import judged_by_rule
from reward.steps import is_answer, steps_of
from tests.reward.planted import Planted, finance

QUESTION = Question(id="q", source="finance", kind="growth", language="en", prompt="Growth?", operand_key="k",
                    steps=("Change: 46 - 40 = 6", "Growth: 6 / 40 = 15%"), answer="15%")
WRONG = "Change: 46 - 40 = 6\nGrowth: 6 / 40 = 16%\nAnswer: 16%"


def completion(text: str = WRONG, sample: int = 0, finish_reason: Any = "stop") -> Completion:
    return Completion(question_id="q", sample=sample, text=text, finish_reason=finish_reason)


def verdict(sample: int = 0, **changes: Any) -> Verdict:
    return Verdict(**({"question_id": "q", "sample": sample, "correct": False, "judge": "endpoint", "model": "m-1",
                       "step": "Growth: 6 / 40 = 16%", "prefix": "Change: 46 - 40 = 6", "prompt_hash": "h",
                       "correction": "Growth: 6 / 40 = 15%", "raw": '{"process": "..."}'} | changes))


def steps(*sampled: tuple[Completion, Verdict], **config: Any) -> tuple[list[PreferencePair], Dropped]:
    dropped: Dropped = collections.Counter()
    made = process_pairs({"q": QUESTION}, {"q": list(sampled)}, Pairs(**config), seed=1, dropped=dropped)
    return made, +dropped


def test_a_step_pair_is_the_correction_over_the_first_wrong_step_after_what_is_right() -> None:
    [row], dropped = steps((completion(), verdict()))
    assert (row.prefix, row.chosen, row.rejected) == ("Change: 46 - 40 = 6\n", "Growth: 6 / 40 = 15%\n",
                                                      "Growth: 6 / 40 = 16%\n")
    assert row.prompt == [{"role": "user", "content": "Growth?"}] and row.kind == "process" and not dropped
    assert (row.origin, row.annotator, row.model, row.prompt_hash, row.raw) == (
        "ai", "m-1", "m-1", "h", '{"process": "..."}')
    assert (row.question_id, row.operand_key, row.chosen_from) == ("q", "k", "judge")
    checked(row, where="row")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"step": None}, "first wrong step not located"),
    ({"correction": None}, "no correction"), ({"correction": " \n"}, "no correction"),
    ({"step": "Growth: 6 / 40 = 17%"}, "quoted step is not in the solution"),
    ({"prefix": ""}, "quoted prefix is not what stands before the step"),
    ({"correction": "One.\nTwo."}, "correction of several lines"),
    ({"correction": "Growth:  6 / 40 = 16%\n"}, "correction is the wrong step"),
    ({"step": "Answer: 16%", "prefix": WRONG.rpartition("\n")[0], "correction": "Answer: 15%"},
     "wrong step is the answer line"),
])
def test_what_makes_no_step_pair_is_counted(changes: dict[str, Any], reason: str) -> None:
    assert steps((completion(), verdict(**changes))) == ([], {reason: 1})


def test_a_right_solution_has_no_wrong_step() -> None:
    assert steps((completion(), verdict(correct=True))) == ([], {})


def test_a_step_that_was_cut_off_is_no_step() -> None:
    cut = completion("Change: 46 - 40 = 6\nGrowth: 6 / 40 = 1", finish_reason="length")
    told = verdict(step="Growth: 6 / 40 = 1")
    assert steps((cut, told)) == ([], {"wrong step is cut off": 1})
    whole, _ = steps((completion(WRONG + "\nand so on", finish_reason="length"), verdict()))
    assert len(whole) == 1


def test_an_answer_line_is_a_step_where_that_is_wanted_and_ends_the_answer() -> None:
    told = verdict(step="Answer: 16%", prefix=WRONG.rpartition("\n")[0], correction="Answer: 15%")
    [row], _ = steps((completion(), told), answer_steps=True)
    assert (row.chosen, row.rejected) == ("Answer: 15%", "Answer: 16%")  # no line break: nothing follows
    [early], _ = steps((completion(), verdict(correction="Answer: 15%")))
    assert (early.chosen, early.rejected) == ("Answer: 15%", "Growth: 6 / 40 = 16%\n")


def test_a_correction_ends_as_the_lines_of_its_solution_do() -> None:
    spaced = completion("Change: 46 - 40 = 7\n\nGrowth: 7 / 40 = 17.5%\n\nAnswer: 17.5%")
    [row], _ = steps((spaced, verdict(step="Change: 46 - 40 = 7", prefix="", correction="Change: 46 - 40 = 6")))
    assert (row.prefix, row.chosen, row.rejected) == ("", "Change: 46 - 40 = 6\n\n", "Change: 46 - 40 = 7\n\n")
    last = completion("Change: 46 - 40 = 6\nGrowth: 6 / 40 = 16%")
    [row], _ = steps((last, verdict()))
    assert (row.chosen, row.rejected) == ("Growth: 6 / 40 = 15%\n", "Growth: 6 / 40 = 16%")


def test_the_same_first_wrong_step_counts_once_and_the_cap_holds() -> None:
    same = [(completion(WRONG + " " * number, sample=number), verdict(number)) for number in range(3)]
    rows, dropped = steps(*same)
    assert len(rows) == 1 and dropped == {"same first wrong step": 2}
    many = [(completion(WRONG.replace("16%", f"{16 + number}%"), sample=number),
             verdict(number, step=f"Growth: 6 / 40 = {16 + number}%")) for number in range(5)]
    rows, dropped = steps(*many, max_steps_per_question=2)
    assert len(rows) == 2 and dropped == {"step beyond the cap of a question": 3}
    assert steps(*many, max_steps_per_question=2)[0] == rows


def test_the_rule_makes_a_step_pair_of_every_planted_error_but_those_in_the_answer() -> None:
    """In 100% of them chosen is the gold line, rejected the planted one, and the prefix all before it."""
    planted = list(finance(600, seed=3))
    sampled = {str(place): [(Completion(question_id=str(place), sample=0, text=each.text, finish_reason="stop"),
                             judged_by_rule(each.question, Completion(question_id=each.question.id, sample=0,
                                                                      text=each.text, finish_reason="stop")))]
               for place, each in enumerate(planted)}
    asked = {str(place): each.question for place, each in enumerate(planted)}
    dropped: Dropped = collections.Counter()
    rows = process_pairs(asked, sampled, Pairs(answer_steps=True), seed=1, dropped=dropped)
    assert len(rows) == 600 and not +dropped
    for each, row in zip(planted, rows, strict=True):
        gold = steps_of(solution_text(each.question))[each.first_error]
        assert (row.prefix, row.rejected) == (each.prefix, each.step)
        assert row.chosen.rstrip("\n") == gold.rstrip("\n") and row.chosen.endswith("\n") != is_answer(row.chosen)
        assert (row.origin, row.annotator) == ("rule", "rule")
    assert len(process_pairs(asked, sampled, Pairs(), seed=1, dropped=dropped)) == sum(
        not is_answer(each.step) for each in planted)


# Whole answers ---------------------------------------------------------------------------------------------------


def group(right: int, wrong: int) -> list[tuple[Completion, Verdict]]:
    texts = [("right", True)] * right + [("wrong", False)] * wrong
    return [(completion(f"{text} {number}", number), verdict(number, correct=correct, judge="rule", model=None))
            for number, (text, correct) in enumerate(texts)]


@pytest.mark.parametrize(("pairing", "counts"), [("cycle", (2, 3, 3)), ("once", (2, 2, 2)), ("all", (2, 3, 6))])
def test_pairing(pairing: str, counts: tuple[int, int, int]) -> None:
    """(distinct chosen, distinct rejected, pairs) of two right and three wrong answers with a cap of six."""
    config = Pairs(pairing=pairing, max_pairs_per_question=6)
    rows = outcome_pairs({"q": QUESTION}, {"q": group(2, 3)}, config, seed=1, dropped=collections.Counter())
    found = (len({row.chosen for row in rows}), len({row.rejected for row in rows}), len(rows))
    assert found == counts and len({(row.chosen, row.rejected) for row in rows}) == len(rows)
    assert all(row.chosen.startswith("right") and row.rejected.startswith("wrong") for row in rows)


@pytest.mark.parametrize("pairing", ["cycle", "once", "all"])
def test_a_question_with_one_side_only_says_which_is_missing(pairing: str) -> None:
    for right, wrong, missing in ((0, 2, "right"), (2, 0, "wrong")):
        dropped: Dropped = collections.Counter()
        assert not outcome_pairs({"q": QUESTION}, {"q": group(right, wrong)}, Pairs(pairing=pairing), seed=1,
                                 dropped=dropped)
        assert dropped == {f"question without a {missing} completion": 1}


@pytest.mark.parametrize(("judge", "origin", "annotator"), [
    ("rule", "rule", "rule"), ("rule+endpoint", "rule", "rule+endpoint"), ("endpoint", "ai", "m-1"),
    ("local", "ai", "m-1")])
def test_whose_word_it_is(judge: str, origin: str, annotator: str) -> None:
    sampled = [(completion("good", 0), verdict(0, correct=True, judge=judge)),
               (completion(), verdict(0, judge=judge))]
    [row] = outcome_pairs({"q": QUESTION}, {"q": sampled}, Pairs(), seed=1, dropped=collections.Counter())
    assert (row.origin, row.annotator, row.model, row.raw) == (origin, annotator, "m-1", '{"process": "..."}')
    [step], _ = steps(*sampled)
    assert (step.origin, step.annotator) == (("rule", "rule") if judge == "rule" else ("ai", "m-1"))


def test_naive_pairs_look_at_no_verdict() -> None:
    """The gold solution over any sample; one that is the gold solution teaches nothing."""
    gold = solution_text(QUESTION)
    completions = [completion(gold, 0), completion("right too", 1), completion("wrong", 2), completion("wrong", 3)]
    dropped: Dropped = collections.Counter()
    rows = naive_pairs({"q": QUESTION}, {"q": completions}, Pairs(), seed=1, dropped=dropped)
    assert sorted(row.rejected for row in rows) == ["right too", "wrong"] and not +dropped
    assert {(row.chosen, row.chosen_from, row.annotator) for row in rows} == {(gold, "gold", "naive")}
    assert not naive_pairs({"q": QUESTION}, {"q": completions[:1]}, Pairs(), seed=1, dropped=dropped)
    assert dropped == {"question with nothing but gold completions": 1}


def test_comparisons_give_the_preferred_side_and_ties_give_nothing() -> None:
    completions = {"q": [completion("a", 0), completion("b", 1)]}
    base = Comparison(question_id="q", left=0, right=1, preferred="left", agreed=True, judge="endpoint", model="m-1",
                      strength=0.3)
    dropped: Dropped = collections.Counter()
    ties = [Comparison(**(base.to_json() | {"preferred": "tie", "agreed": agreed})) for agreed in (True, False)]
    [row, other] = compared_pairs({"q": QUESTION}, completions, [base, base.swap(), *ties], dropped=dropped)
    assert (row.chosen, row.rejected, row.strength) == ("a", "b", 0.3) == (other.chosen, other.rejected, 0.3)
    assert dropped == {"comparison without a preference": 1, "comparison whose orders disagree": 1}


def test_every_row_can_be_written_and_read(tmp_path: Any) -> None:
    each: Planted = next(iter(finance(1, seed=4)))
    sampled = Completion(question_id=each.question.id, sample=0, text=each.text, finish_reason="stop")
    rows = process_pairs({each.question.id: each.question},
                         {each.question.id: [(sampled, judged_by_rule(each.question, sampled))]},
                         Pairs(answer_steps=True), seed=random.Random(0).randrange(9), dropped=collections.Counter())
    for row in rows:
        check_messages(row.prompt)
        assert PreferencePair.from_json(json.loads(json.dumps(row.to_json()))) == row
