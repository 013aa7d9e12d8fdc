"""The pairs stage: what becomes a pair, what does not, and where everything goes."""

from __future__ import annotations

import collections

import pytest

from alignment.metrics import documented
from alignment.stages import pairs
from data.finance.generator import solution_text
from data.rows import read_rows, write_rows
from data.schema import Completion, PreferencePair, Question, UserError, Verdict
from tests.alignment.stage_made import FINANCE, make_stage, notes, result

RIGHT, WRONG, CUT = "right", "wrong", "cut"
ERRORS = ("slipped_digit", "wrong_fact", "wrong_formula")


def question(number, *, operand_key=None):
    return Question(id=f"q{number}", source="finance", kind="net_margin", language="en", prompt=f"Question {number}?",
                    steps=("6 / 40 = 15%",), answer="15%", operand_key=operand_key or f"k{number}")


def samples(row, kinds, *, errors=ERRORS, start=0):
    """Completions and verdicts; every text is its own unless a kind is given as (kind, text)."""
    found = []
    for number, kind in enumerate(kinds, start=start):
        kind, text = kind if isinstance(kind, tuple) else (kind, f"{kind} {number} of {row.id}")
        found.append((
            Completion(question_id=row.id, sample=number, text=text, finish_reason="length" if kind == CUT else "stop"),
            Verdict(question_id=row.id, sample=number, correct=kind == RIGHT, judge="rule",
                    first_error=None if kind == RIGHT else 0,
                    error_kind=None if kind == RIGHT else errors[number % len(errors)])))
    return found


def made(folder, asked, sampled, *, data=None, human=None, seed=5, **config):
    given, verdicts = folder / "given", folder / "verdicts"
    write_rows(given / "questions.jsonl", asked)
    write_rows(given / "completions.jsonl", [completion for completion, _ in sampled])
    write_rows(verdicts / "verdicts.jsonl", [verdict for _, verdict in sampled])
    stage = make_stage(folder, "pairs", inputs={"completions": given, "verdicts": verdicts}, data=data, seed=seed,
                       human=human, **config)
    pairs.run(stage)
    return stage, [row for side in ("train", "dev")
                   for row in read_rows(stage.output / f"{side}.jsonl", PreferencePair)]


def test_a_pair_is_right_over_wrong_of_the_same_question(tmp_path):
    asked = [question(n) for n in range(4)]
    sampled = [row for one in asked for row in samples(one, [RIGHT, WRONG, RIGHT, WRONG])]
    stage, rows = made(tmp_path, asked, sampled)
    assert len(rows) == 8
    for row in rows:
        assert row.chosen.startswith("right") and row.rejected.startswith("wrong")
        assert row.chosen.endswith(row.question_id) and row.rejected.endswith(row.question_id)
        assert row.prompt == [{"role": "user", "content": f"Question {row.question_id[1:]}?"}]
        assert (row.origin, row.annotator, row.chosen_from, row.weight) == ("rule", "rule", "policy", 1.0)
        assert row.operand_key == f"k{row.question_id[1:]}" and row.error_kind in ERRORS
    assert result(stage)["pairs"] == result(stage)["origin.rule"] == 8
    for name in result(stage):
        documented(name, "pairs")


def test_both_right_samples_are_used(tmp_path):
    asked = [question(0)]
    _, rows = made(tmp_path, asked, samples(asked[0], [RIGHT, RIGHT, WRONG, WRONG]))
    assert len({row.chosen for row in rows}) == 2


def test_questions_with_one_side_only_are_counted(tmp_path):
    asked = [question(n) for n in range(3)]
    sampled = [*samples(asked[0], [RIGHT, RIGHT]), *samples(asked[1], [WRONG, WRONG]),
               *samples(asked[2], [RIGHT, WRONG])]
    stage, rows = made(tmp_path, asked, sampled)
    assert [row.question_id for row in rows] == ["q2"]
    assert result(stage)["dropped.question_without_a_wrong_completion"] == 1
    assert "1 x question without a right completion" in notes(stage)


def test_the_cap_and_the_spread_over_kinds_of_error(tmp_path):
    """One kind is 4 times as common among the samples; among the pairs it is not."""
    asked = [question(n) for n in range(30)]
    errors = ("slipped_digit",) * 5 + ("wrong_fact",)
    sampled = [row for one in asked for row in samples(one, [WRONG] * 6 + [RIGHT], errors=errors)]
    _, rows = made(tmp_path, asked, sampled, max_pairs_per_question=2)
    assert max(collections.Counter(row.question_id for row in rows).values()) == 2
    counted = collections.Counter(row.error_kind for row in rows)
    assert counted["wrong_fact"] == counted["slipped_digit"] == 30


def test_truncated_completions_are_never_chosen(tmp_path):
    """Not even where a verdict calls one right."""
    asked = [question(0), question(1)]
    cut = Completion(question_id="q0", sample=9, text="cut but right", finish_reason="length")
    right = Verdict(question_id="q0", sample=9, correct=True, judge="rule")
    sampled = [*samples(asked[0], [WRONG]), (cut, right), *samples(asked[1], [RIGHT, CUT])]
    _, rows = made(tmp_path, asked, sampled)
    assert [(row.question_id, row.rejected) for row in rows] == [("q1", "cut 1 of q1")]


def test_right_answers_with_sound_steps_come_first(tmp_path):
    asked = [question(0)]
    lucky = (Completion(question_id="q0", sample=0, text="lucky", finish_reason="stop"),
             Verdict(question_id="q0", sample=0, correct=True, judge="rule", first_error=0))
    _, rows = made(tmp_path, asked, [lucky, *samples(asked[0], [RIGHT, WRONG], start=1)], max_pairs_per_question=1)
    assert [row.chosen for row in rows] == ["right 1 of q0"]


@pytest.mark.parametrize(("policy", "chosen"), [
    ("never", {"q0": "policy"}), ("missing", {"q0": "policy", "q1": "gold"}), ("always", {"q0": "gold", "q1": "gold"})])
def test_gold_fallback(tmp_path, policy, chosen):
    asked = [question(0), question(1)]
    sampled = [*samples(asked[0], [RIGHT, WRONG]), *samples(asked[1], [WRONG])]
    stage, rows = made(tmp_path, asked, sampled, gold_fallback=policy)
    assert {row.question_id: row.chosen_from for row in rows} == chosen
    assert all(row.chosen == solution_text(asked[0]) for row in rows if row.chosen_from == "gold")
    assert result(stage)["gold"] == list(chosen.values()).count("gold")


def test_nothing_to_make_a_pair_of(tmp_path):
    asked = [question(0), question(1)]
    sampled = [*samples(asked[0], [RIGHT, RIGHT]), *samples(asked[1], [WRONG])]
    with pytest.raises(UserError, match=r"of 3 completions of 2 questions 2 are right and 1 wrong.*gold_fallback"):
        made(tmp_path, asked, sampled)


def test_equal_texts_make_one_pair(tmp_path):
    asked = [question(0)]
    _, rows = made(tmp_path, asked, samples(asked[0], [(RIGHT, "a"), (RIGHT, "a"), (WRONG, "b"), (WRONG, "b")]))
    assert len(rows) == 1


def human_pair(number, **fields):
    return PreferencePair(**({"id": f"h{number}", "prompt": [{"role": "user", "content": f"Question {number}?"}],
                              "chosen": "good", "rejected": "bad", "origin": "human", "annotator": "ann"} | fields))


def test_human_pairs_join_with_their_weight_and_provenance(tmp_path):
    asked = [question(n) for n in range(4)]
    file = tmp_path / "people.jsonl"
    again = human_pair(78, prompt=human_pair(77).prompt)
    write_rows(file, [human_pair(0), human_pair(77, weight=0.5), again])
    stage, rows = made(tmp_path, asked, [row for one in asked for row in samples(one, [RIGHT, WRONG])], human=str(file),
                       human_weight=2.0, ai_weight=0.25)
    assert {row.weight for row in rows if row.origin == "rule"} == {0.25}
    assert sorted(row.weight for row in rows if row.origin == "human") == [1.0, 2.0]
    assert {row.annotator for row in rows if row.origin == "human"} == {"ann"}
    assert result(stage)["origin.human"] == 2 and result(stage)["dropped.duplicate"] == 1


def test_people_and_verdicts_are_compared_where_they_judged_the_same_answers(tmp_path):
    asked = [question(n) for n in range(3)]
    sampled = [row for one in asked for row in samples(one, [RIGHT, WRONG, WRONG])]
    texts = {(completion.question_id, completion.sample): completion.text for completion, _ in sampled}

    def pair(number, chosen, rejected, strength):
        return PreferencePair(
            id=f"h{number}{chosen}{rejected}", prompt=[{"role": "user", "content": asked[number].prompt}],
            origin="human", annotator="ann", strength=strength, chosen=texts[f"q{number}", chosen],
            rejected=texts[f"q{number}", rejected])

    people = [pair(0, 0, 1, 1.0), pair(0, 2, 0, 0.5), pair(1, 0, 2, 0.0),  # right, wrong, right
              pair(2, 1, 2, 0.5)]  # both wrong: verdicts say nothing of which is better
    write_rows(tmp_path / "human.jsonl", people)
    stage, rows = made(tmp_path, asked, sampled, human=str(tmp_path / "human.jsonl"), human_weight=2.0)
    metrics = result(stage)
    assert (metrics["shared"], metrics["agreement"]) == (3, pytest.approx(2 / 3))
    assert "people and rule prefer the same answer in 2 of 3 shared comparisons" in notes(stage)
    human = [row for row in rows if row.origin == "human"]
    assert metrics["weight.human"] == 2.0 * len(human) and metrics["weight.rule"] == metrics["origin.rule"]
    assert metrics["strength.human"] == pytest.approx(sum(row.strength for row in human) / len(human))
    assert all(documented(name, "pairs") for name in metrics)


def test_human_pairs_may_be_rows_of_trl(tmp_path):
    asked = [question(0)]
    file = tmp_path / "people.jsonl"
    file.write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No.", "origin": "human", "annotator": "ann"}\n')
    _, rows = made(tmp_path, asked, samples(asked[0], [RIGHT, WRONG]), human=str(file))
    assert [(row.prompt[0]["content"], row.chosen) for row in rows if row.origin == "human"] == [("Why?", "So.")]


def test_a_weight_of_0_leaves_pairs_out(tmp_path):
    asked = [question(0)]
    file = tmp_path / "people.jsonl"
    write_rows(file, [human_pair(77)])
    stage, rows = made(tmp_path, asked, samples(asked[0], [RIGHT, WRONG]), human=str(file), ai_weight=0.0)
    assert [row.origin for row in rows] == ["human"]
    assert result(stage)["dropped.weight_0"] == 1


def test_operand_keys_never_cross_the_split(tmp_path):
    """Questions that share operands, and a human pair known only by its prompt, go where their key goes."""
    asked = [question(n, operand_key=f"k{n // 3}") for n in range(60)]
    file = tmp_path / "people.jsonl"
    write_rows(file, [human_pair(n) for n in range(60)])
    stage, rows = made(tmp_path, asked, [row for one in asked for row in samples(one, [RIGHT, WRONG])], human=str(file),
                       dev_fraction=0.25)
    key_of = {f"Question {n}?": f"k{n // 3}" for n in range(60)}
    sides = collections.defaultdict(set)
    for row in rows:
        sides[key_of[row.prompt[0]["content"]]].add(row.split)
    assert all(len(found) == 1 for found in sides.values())
    assert sum(found == {"dev"} for found in sides.values()) == 5  # of 20 keys
    assert result(stage)["dev"] == 5 * 3 * 2 and result(stage)["train"] == 15 * 3 * 2


@pytest.mark.parametrize(("fraction", "dev"), [(0.0, 0), (0.01, 1), (0.5, 5)])
def test_dev_is_there_when_it_is_asked_for(tmp_path, fraction, dev):
    asked = [question(n) for n in range(10)]
    stage, _ = made(tmp_path, asked, [row for one in asked for row in samples(one, [RIGHT, WRONG])],
                    dev_fraction=fraction)
    assert result(stage)["dev"] == dev


def test_the_choice_follows_the_seed(tmp_path):
    asked = [question(n) for n in range(10)]
    sampled = [row for one in asked for row in samples(one, [RIGHT, RIGHT, WRONG, WRONG, WRONG, WRONG])]
    texts = [[(row.chosen, row.rejected, row.split) for row in
              made(tmp_path / str(place), asked, sampled, seed=seed, max_pairs_per_question=1)[1]]
             for place, seed in enumerate((1, 1, 2))]
    assert texts[0] == texts[1] != texts[2]


def test_simulated_pairs_are_in_the_default_and_called_simulated(tmp_path):
    asked = [question(0)]
    stage, rows = made(tmp_path, asked, samples(asked[0], [RIGHT, WRONG]), human="embedded",
                       data=FINANCE | {"languages": ["en"]})
    people = [row for row in rows if row.origin == "simulated"]
    assert len(people) > 50 and {row.language for row in people} == {"en"}
    assert result(stage)["origin.simulated"] == len(people)
    assert result(stage)["dropped.other_language"] > 0


def test_simulated_pairs_stay_out_of_other_data(tmp_path):
    asked = [question(0)]
    stage, rows = made(tmp_path, asked, samples(asked[0], [RIGHT, WRONG]), human="embedded",
                       data=FINANCE | {"source": "tatqa"})
    assert {row.origin for row in rows} == {"rule"} and "simulated" in notes(stage)


def test_verdicts_of_other_completions_are_refused(tmp_path):
    asked = [question(0)]
    right, wrong = samples(asked[0], [RIGHT, WRONG])
    with pytest.raises(UserError, match="row by row"):
        made(tmp_path, asked, [(right[0], wrong[1]), (wrong[0], right[1])])


def test_a_missing_file_of_human_pairs(tmp_path):
    asked = [question(0)]
    with pytest.raises(UserError, match="no such file"):
        made(tmp_path, asked, samples(asked[0], [RIGHT, WRONG]), human=str(tmp_path / "none.jsonl"))
