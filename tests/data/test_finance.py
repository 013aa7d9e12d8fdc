"""The finance questions: splits, balance, exact solutions, wording, errors, textbook."""

from __future__ import annotations

import collections
import random
import re
from fractions import Fraction

import pytest

from data.finance import errors, generator, kinds, textbook, wording
from data.schema import Question

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def train() -> list[Question]:
    return generator.questions("train", count=2000, seed=0)


def test_splits_share_no_operands() -> None:
    keys = {split: {q.operand_key for q in generator.questions(split, count=1200, seed=seed)}
            for split, seed in zip(SPLITS, (0, 1, 0))}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["dev"]
    assert not keys["dev"] & keys["test"]


def test_the_key_sees_values_alone() -> None:
    assert kinds.operand_key(("46", "40")) == kinds.operand_key(("40.0", "46"))
    assert kinds.operand_key(("46", "40")) != kinds.operand_key(("46", "41"))
    assert kinds.operand_key(("5", "40")) != kinds.operand_key(("5%", "40"))


def test_the_key_of_a_row_is_that_of_its_program_operands(train: list[Question]) -> None:
    for question in train[:300]:
        operands = [question.facts[name] for name in kinds.KINDS[question.kind].facts]
        assert question.operand_key == kinds.operand_key(operands)


@pytest.mark.parametrize("name", list(kinds.KINDS))
def test_every_kind_has_enough_operands(name: str) -> None:
    assert len({key for _, key in kinds.operand_space(name)}) >= 800
    assert len(generator.split_operands(name, "test")) >= 180  # for each language, as both share them
    assert len(generator.split_operands(name, "dev")) >= 80


@pytest.mark.parametrize("name", list(kinds.KINDS))
def test_operands_have_two_digits_and_results_few(name: str) -> None:
    kind = kinds.KINDS[name]
    for operands, _ in kinds.operand_space(name)[::7]:
        assert all(kinds.significant(Fraction(operand.rstrip("%"))) in (1, 2) for operand in operands)
        for _, _, _, result in kinds.evaluate(kind.program, dict(zip(kind.facts, operands))):
            assert result > 0
            assert kinds.significant(result) in (1, 2, 3), (operands, result)


def test_questions_are_balanced_distinct_and_use_new_operands_first() -> None:
    found = generator.questions("test", count=16 * 2 * 150, seed=3)
    cells = collections.Counter((q.kind, q.language) for q in found)
    assert set(cells.values()) == {150}
    assert len({q.prompt for q in found}) == len(found) == len({q.id for q in found})
    assert len({(q.kind, q.language, q.operand_key) for q in found}) == len(found)


def test_the_same_seed_gives_the_same_rows_and_a_larger_count_appends() -> None:
    short, long = (generator.questions("train", count=count, seed=5) for count in (100, 300))
    assert long[:100] == short
    assert generator.questions("train", count=100, seed=6) != short


def test_too_many_questions_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="ask for at most about"):
        generator.questions("dev", count=2000, seed=0, kinds=["eps"], languages=["en"])
    with pytest.raises(ValueError, match="unknown"):
        generator.questions("dev", count=1, seed=0, kinds=["growth"])


def test_solutions_are_exact(train: list[Question]) -> None:
    for question in train:
        rows = kinds.evaluate(question.program, question.facts)
        assert len(rows) == len(question.steps)
        for (*_, result), step in zip(rows, question.steps):
            written = re.search(r" = ([\d.]+%?)", step)
            assert written
            assert kinds.value_of(written[1]) == result
        assert question.steps[-1].endswith(f" = {question.answer}")
        last = generator.solution_text(question).split("\n")[-1]
        assert last == f"{wording.ANSWER[question.language]} {question.answer}"


def test_prompts_tell_every_fact_after_a_space(train: list[Question]) -> None:
    for question in train:
        for name, text in question.facts.items():
            assert re.search(rf"(?:^|[ ]){re.escape(text)}(?![\d])", question.prompt), (name, question.prompt)
        assert "{" not in question.prompt
        assert not re.search(r"[^\s\d.]\d", question.prompt)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_kind_has_six_wordings_with_the_same_facts(language: str) -> None:
    assert wording.WORDING[language].keys() == kinds.KINDS.keys()  # type: ignore[index]
    for name, kind in kinds.KINDS.items():
        words = wording.WORDING[language][name]  # type: ignore[index]
        assert len(words.labels) == len(kind.program)
        assert len(set(words.templates)) == 6
        for template in words.templates:
            assert set(re.findall(r"{(\w+)}", template)) - {"c", "m", "noise"} == set(kind.facts), template
    assert sum("{noise}" in t for w in wording.WORDING[language].values() for t in w.templates) >= 4  # type: ignore[index]


def test_answers_carry_their_unit(train: list[Question]) -> None:
    ends = {"en": ("%", "thousand", "million", "billion", " dollars", " times", " units"),
            "zh": ("%", "元", "倍", "件")}
    assert all(q.answer.endswith(ends[q.language]) for q in train)


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", errors.ERROR_KINDS)
def test_each_corruption_has_a_wrong_answer_and_a_wrong_line_where_it_says(train: list[Question], kind: str) -> None:
    made = 0
    for index, question in enumerate(train[:320]):
        gold = generator.solution_text(question).split("\n")
        if kind == "skipped_step" and len(question.program) == 1:
            with pytest.raises(ValueError, match="cannot have the error"):
                errors.corrupt(question, random.Random(index), error_kind=kind)
            continue
        found = errors.corrupt(question, random.Random(index), error_kind=kind)
        lines = found.text.split("\n")
        made += 1
        assert found.error_kind == kind
        assert lines[-1] != gold[-1]
        assert lines[:found.first_error] == gold[:found.first_error]
        assert lines[found.first_error] != gold[found.first_error]
        assert (len(lines) < len(gold)) == (kind == "skipped_step")
    assert made > 200


def test_errors_are_carried_on(train: list[Question]) -> None:
    question = next(q for q in train if q.kind == "after_tax_profit")
    for seed in range(40):
        found = errors.corrupt(question, random.Random(seed), error_kind="slipped_digit")
        lines = found.text.split("\n")
        if found.first_error == 0:
            wrong = re.search(r"= ([\d.]+)", lines[0])
            assert wrong and f": {wrong[1]} ×" in lines[1] and f": {wrong[1]} -" in lines[2]
            return
    pytest.fail("no digit of the first step ever slipped")


def test_corruptions_are_deterministic(train: list[Question]) -> None:
    first, second = ([errors.corrupt(q, random.Random(7)) for q in train[:50]] for _ in range(2))
    assert first == second


# ----------------------------------------------------------------------------------------------------- textbook


def _numbers_of_example(text: str) -> list[str]:
    return re.findall(r"\d[\d.]*%?", text)


@pytest.mark.parametrize("split", SPLITS)
def test_examples_use_operands_of_their_split_alone(split: kinds.Split) -> None:
    examples = 0
    for document in textbook.passages(200, seed=1, split=split):
        for text, trained in document.segments:
            if not trained:
                examples += 1
                key = kinds.operand_key(n.rstrip(".") for n in _numbers_of_example(text))
                assert kinds.split_of(key) == split, text
    assert examples > 200


def test_examples_have_another_form_than_the_chat_solutions() -> None:
    for document in textbook.passages(100, seed=0):
        assert "\n" not in document.text
        assert not re.search(r"Answer:|答案|: \d", document.text)


def test_passages_without_examples_are_plain() -> None:
    found = textbook.passages(50, seed=0, examples=False)
    assert all(trained for document in found for _, trained in document.segments)
    assert not any("=" in document.text for document in found)


def test_passages_are_deterministic_and_append() -> None:
    assert textbook.passages(60, seed=2)[:20] == textbook.passages(20, seed=2)
    assert textbook.passages(20, seed=3) != textbook.passages(20, seed=2)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_cloze_is_what_the_textbook_says(language: kinds.Split) -> None:
    text = "\n".join(document.text for document in textbook.passages(400, seed=0, examples=False))
    cloze = textbook.definition_cloze(language)  # type: ignore[arg-type]
    assert len(cloze) >= len(kinds.KINDS)
    assert all(prefix + answer in text for prefix, answer in cloze)
    assert all("[" not in prefix + answer for prefix, answer in cloze)


def test_no_training_step_is_the_whole_of_a_held_out_question() -> None:
    held_out = {key for name, kind in kinds.KINDS.items() if len(kind.program) == 1
                for split in ("dev", "test") for _, key in generator.split_operands(name, split)}
    assert len(held_out) > 1000
    for name, kind in kinds.KINDS.items():
        for operands, _ in generator.split_operands(name, "train"):
            facts = dict(zip(kind.facts, operands, strict=True))
            for expression, (left, _, right, _) in zip(kind.program, kinds.evaluate(kind.program, facts), strict=True):
                key = kinds.operand_key(generator.step_operands(expression, facts, left, right))
                assert key not in held_out, (name, facts)
