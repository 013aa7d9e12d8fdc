"""What can be imported, how it is paired, and what bad files are told; nothing comes in half-way."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from data.annotate.cli import main
from data.annotate.desk import Desk
from data.annotate.importing import ERROR_TAGS, GUIDELINE, walk_of
from data.annotate.intake import EXAMPLE, FIELDS, MEANINGS, evidence_of, read, steps_of
from data.annotate.pairing import Plan, uncertainty
from data.annotate.records import Snapshot
from data.finance.generator import questions, solution_text
from data.preferences import as_explicit, as_implicit
from data.rows import write_rows
from data.schema import Completion, PreferencePair, Question, UserError, Verdict
from reward.rule import verify
from tests.data.annotate.desk_opened import completions, imported, lines

README = Path(__file__).parents[3] / "README.md"
PAIR = PreferencePair(id="x", prompt=[{"role": "user", "content": "Q?"}], chosen="right", rejected="wrong", origin="ai",
                      annotator="judge-7", strength=0.2, language="en", question_id="q1", operand_key="k1")


def brought(folder: Path, rows: list[Any], plan: Plan | None = None, **rules: Any) -> Snapshot:
    desk = Desk.open(str(folder / "a.db"))
    imported(desk, folder, rows, plan=plan, **rules)
    return desk.snapshot()


# --------------------------------------------------------------------------------------------------------- bad files

GOOD = {"prompt": "Q?", "completion": "An answer", "model": "m"}
OTHER = {"prompt": "Q?", "completion": "Another answer", "model": "n"}
BAD: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "wrong field": ([GOOD, {"prompt": "Q?", "completon": "x"}], ("rows.jsonl:2", "did you mean `completion`")),
    "broken JSON on line 7": ([GOOD, OTHER, GOOD, OTHER, GOOD, OTHER, '{"prompt": "Q?", "completion": '],
                              ("rows.jsonl:7", "broken JSON", "repair or delete the line")),
    "a byte order mark inside": ([GOOD, OTHER, "\ufeff" + json.dumps(GOOD)], ("rows.jsonl:3", "broken JSON", "BOM")),
    "mixed formats": ([GOOD, OTHER, {"prompt": "Q?", "chosen": "a", "rejected": "b"}],
                      ("rows.jsonl:3", "preferences", "rows.jsonl:1", "rows of one form")),
    "duplicate ids": ([{**GOOD, "id": "r1"}, {**OTHER, "id": "r1"}], ("rows.jsonl:2", "'r1'", "rows.jsonl:1")),
    "chosen = rejected": ([{"prompt": "Q?", "chosen": "same", "rejected": "same"}],
                          ("rows.jsonl:1", "same text 'same'", "delete the row")),
    "empty": ([], ("rows.jsonl", "is empty")),
    "blank lines alone": (["", "  "], ("rows.jsonl", "is empty")),
    "empty answer": ([GOOD, {"prompt": "Q?", "completion": " \n"}], ("rows.jsonl:2", "empty", "delete the row")),
    "no object": ([GOOD, "[1, 2]"], ("rows.jsonl:2", "not an object")),
    "wrong type": ([{**GOOD, "score": "high"}], ("rows.jsonl:1", "'score'", "a number")),
    "wrong type of text": ([GOOD, {**OTHER, "model": 7}], ("rows.jsonl:2", "'model'", "text")),
    "a boolean for a number": ([{**GOOD, "score": True}], ("rows.jsonl:1", "'score'", "a number")),
    "unknown language": ([{**GOOD, "language": "de"}], ("rows.jsonl:1", "'language'", "en, zh")),
    "half a surrogate pair": (['{"prompt": "Q?", "completion": "\\ud83d"}'], ("rows.jsonl:1", "surrogate")),
    "not a number": (['{"prompt": "Q?", "completion": "x", "score": NaN}'], ("rows.jsonl:1", "NaN")),
    "beyond every number": (['{"prompt": "Q?", "completion": "x", "score": 1e999}'], ("rows.jsonl:1", "1e999", "null")),
    "a completion that is a number": ([GOOD, {**OTHER, "completion": 7}],
                                      ("rows.jsonl:2", "'completion'", "7", "text")),
    "a completion that is an object": ([GOOD, {**OTHER, "completion": {"text": "x"}}],
                                       ("rows.jsonl:2", "'completion'", "'text'", "a list of messages")),
    "a prompt that is a number": ([GOOD, {**OTHER, "prompt": 7}], ("rows.jsonl:2", "prompt is 7", "text")),
    "a prompt that is null": ([GOOD, {**OTHER, "prompt": None}], ("rows.jsonl:2", "'prompt' is null", "fill it in")),
    "an empty step": ([{"prompt": "Q?", "completions": ["a", ""], "labels": [True, False]}],
                      ("rows.jsonl:1", "'completions'", "none empty")),
    "blank prompt": ([GOOD, {**OTHER, "prompt": " \n"}], ("rows.jsonl:2", "prompt", "' \\n'", "delete the row")),
    "chosen = rejected but for space": ([{"prompt": "Q?", "chosen": "same", "rejected": " same\n"}],
                                        ("rows.jsonl:1", "'chosen'", "'rejected'", "space around", "delete the row")),
    "only the same text but for space": ([GOOD, {**GOOD, "completion": "An answer\n"}],
                                         ("no pairwise task", "reads like another")),
    "a field twice": (['{"prompt": "Q?", "prompt": "R?", "completion": "x"}'], ("rows.jsonl:1", "'prompt'", "twice")),
    "prompt without end": ([{"prompt": [{"role": "assistant", "content": "x"}], "completion": "y"}],
                           ("rows.jsonl:1", "prompt", "user")),
    "broken message": ([{"messages": [{"role": "user"}]}], ("rows.jsonl:1", "messages[0]")),
    "conversation without answer": ([{"messages": [{"role": "user", "content": "Q?"}]}],
                                    ("rows.jsonl:1", "the assistant's answer")),
    "labels of another number": ([{"prompt": "Q?", "completions": ["a", "b"], "labels": [True]}],
                                 ("rows.jsonl:1", "'labels'", "each of the 2")),
    "unknown origin": ([{"prompt": "Q?", "chosen": "a", "rejected": "b", "origin": "robot"}],
                       ("rows.jsonl:1", "'origin'", "human, ai, rule")),
    "one answer a prompt": ([GOOD], ("no pairwise task", "prompt with one answer")),
    "only the same text": ([GOOD, {**GOOD, "model": "n"}], ("no pairwise task", "reads like another")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_nothing_comes_in(tmp_path: Path, name: str,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    rows, said = BAD[name]
    database = tmp_path / "a.db"
    imported(Desk.open(str(database)), tmp_path, completions(2))
    before = Desk.open(str(database)).snapshot()
    file = lines(tmp_path / "rows.jsonl", rows)
    assert main(["import", str(file), "--db", str(database)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and [part for part in said if part not in error] == [], error
    assert Desk.open(str(database)).snapshot() == before


def test_a_refused_import_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (rows, _) in BAD.items():
        file = lines(tmp_path / "rows.jsonl", rows)
        assert main(["import", str(file), "--db", str(tmp_path / "a.db")]) == 2, name
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"], name


def test_bytes_that_are_no_utf8_text_are_named(tmp_path: Path) -> None:
    for content, said in ((b"\xff\xfe{\x00", "UTF-16"), (b'{"prompt": "\xe9"}', "not UTF-8")):
        (tmp_path / "rows.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=said):
            read(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="folder of a `sample` artifact"):
        read(tmp_path)


def test_a_file_of_another_kind_is_told_what_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\nQ?,x\n")
    with pytest.raises(UserError, match=r"rows.csv: a file of kind '.csv' cannot be imported; .*\.jsonl.*\.parquet"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(("column", "said"), [({"score": [math.inf]}, "field 'score' is inf"), (
    {"other": [math.nan]}, "holds what JSON cannot"), ({"at": [datetime.date(2026, 1, 1)]}, "holds what JSON cannot")])
def test_a_parquet_file_may_hold_what_json_cannot(tmp_path: Path, column: dict[str, Any], said: str) -> None:
    table = pyarrow.Table.from_pydict({"prompt": ["Q?"], "completion": ["x"], **column})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=f"rows.parquet: row 1: {said}"):
        read(tmp_path / "rows.parquet")


def test_a_file_with_a_byte_order_mark_at_its_start_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\ufeff" + json.dumps(GOOD), encoding="utf-8")
    assert len(read(tmp_path / "rows.jsonl").candidates) == 1


def test_the_same_import_twice_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    first = brought(tmp_path, completions(2))
    with pytest.raises(UserError, match="imported already"):
        brought(tmp_path, completions(2))
    again = brought(tmp_path, completions(2), name="once more")
    assert len(again.tasks) == 2 * len(first.tasks) and again.candidates == first.candidates


@pytest.mark.parametrize("option", ["--overlap=0", "--size=1", "--limit=0", "--gold-share=1.5", "--scale=11",
                                    "--gold=3", "--scores=none.jsonl", "--guideline=none.md", "--pairing=uncertain"])
def test_options_that_cannot_be_followed_are_refused(tmp_path: Path, option: str,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    file = lines(tmp_path / "rows.jsonl", [GOOD, OTHER])
    assert main(["import", str(file), "--db", str(tmp_path / "a.db"), option]) == 2
    assert option.split("=")[0] in capsys.readouterr().err or "none." in option


# --------------------------------------------------------------------------------------------------------------- forms


def test_the_example_of_help_and_readme_can_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    said = capsys.readouterr().out
    assert EXAMPLE in said and EXAMPLE in README.read_text(encoding="utf-8")
    assert set(MEANINGS) == set(FIELDS) and [name for name in FIELDS if f"  {name} " not in said] == []
    snapshot = brought(tmp_path, EXAMPLE.splitlines())
    assert len(snapshot.tasks) == 1 and {each.generator for each in snapshot.candidates} == {"policy-a", "policy-b"}


def test_preferences_keep_the_judge_as_a_suggestion(tmp_path: Path) -> None:
    for number, row in enumerate((PAIR.to_json(), as_explicit(PAIR), as_implicit(PAIR))):
        folder = tmp_path / str(number)
        folder.mkdir()
        snapshot = brought(folder, [row])
        (task,), (said,), (prompt,) = snapshot.tasks, snapshot.suggestions, snapshot.prompts
        texts = {candidate.id: candidate.text for candidate in snapshot.candidates}
        assert said.judge == "judge-7" and said.task_id == task.id and said.decision.strength == 1
        assert texts[str(said.decision.preferred)] == "right" and set(texts.values()) == {"right", "wrong"}
        assert (prompt.question_id, prompt.operand_key, prompt.language) == ("q1", "k1", "en")
        assert snapshot.judgments == () and len({candidate.generator for candidate in snapshot.candidates}) == 1


def test_people_s_preferences_in_a_file_are_no_suggestion(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": "Q?", "chosen": "a", "rejected": "b", "origin": "human", "annotator": "anna"},
                       {"prompt": "R?", "chosen": "a", "rejected": "b"}]
    assert brought(tmp_path, rows).suggestions == ()
    assert [said.judge for said in brought(tmp_path, rows, name="2", judge="gpt").suggestions] == ["gpt"]


def test_step_labels_become_a_walk(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "completions": ["one", "two\nlines", "three"], "labels": [True, False, False]}
    snapshot = brought(tmp_path, [row], Plan(kind="stepwise"), judge="prm")
    assert snapshot.candidates[0].steps == ("one", "two\nlines", "three")
    assert [label.rating for label in snapshot.suggestions[0].decision.steps] == [1, -1, None]


def test_parquet_and_conversations_are_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"},
                          {"role": "assistant", "content": answer}]} for answer in ("a", "b")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    material = read(tmp_path / "rows.parquet")
    assert [candidate.text for candidate in material.candidates.values()] == ["a", "b"]
    assert [len(prompt.messages) for prompt in material.prompts.values()] == [2]


@pytest.mark.parametrize("text", ["a\nb", "a\n\nb\n", "\n\na\n b", "a", "a\r\nb", " \nx"])
def test_steps_joined_are_the_text(text: str) -> None:
    assert "\n".join(steps_of(text)) == text and all(step.strip() for step in steps_of(text))


# ------------------------------------------------------------------------------------------------- a sample artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A `sample` artifact with its manifest, the rule's verdicts, and a reward model's scores."""
    asked = questions("train", count=6, seed=3)
    texts = [[solution_text(question), "1 + 1 = 3\nAnswer: 3", solution_text(question).replace("\n", "\n\n", 1)]
             for question in asked]
    sampled = [Completion(question_id=question.id, sample=number, text=text, finish_reason="stop", token_ids=(1, 2))
               for question, group in zip(asked, texts, strict=True) for number, text in enumerate(group)]
    folder = tmp_path / "sample"
    write_rows(folder / "questions.jsonl", asked)
    write_rows(folder / "completions.jsonl", sampled)
    (folder / "manifest.json").write_text(json.dumps({"parts": {
        "config": {"temperature": 0.7, "split": "dev"}, "inputs": {"policy": "ab" * 32}}}))
    known = {question.id: question for question in asked}
    write_rows(tmp_path / "judge" / "verdicts.jsonl", [verify(known[row.question_id], row.text, sample=row.sample)
                                                       for row in sampled])
    lines(tmp_path / "scores.jsonl", [{"question_id": row.question_id, "sample": row.sample, "score": row.sample * 1.5}
                                      for row in sampled])
    return folder


def command(folder: Path, *options: str) -> Snapshot:
    database = folder.parent / f"{len(list(folder.parent.glob('*.db')))}.db"
    assert main(["import", str(folder), "--db", str(database), *options]) == 0
    return Desk.open(str(database)).snapshot()


def test_a_sample_artifact_comes_with_all_that_is_known(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = command(artifact, "--verdicts", str(artifact.parent / "judge"))
    assert len(snapshot.tasks) == 18 and len(snapshot.prompts) == 6
    candidate, prompt = snapshot.candidates[0], snapshot.prompts[0]
    assert candidate.generator == "policy-abababababab" and candidate.num_tokens == 2
    assert candidate.sampling == {"temperature": 0.7, "sample": 0, "logprob": None}
    assert prompt.split == "dev" and prompt.operand_key and prompt.reference and prompt.language in ("en", "zh")
    outcomes = [said.decision.outcome for said in snapshot.suggestions]
    assert outcomes.count("prefer") == 12 and outcomes.count("tie") == 6
    assert {said.judge for said in snapshot.suggestions} == {"rule"} and "18 of rule" in capsys.readouterr().out
    assert snapshot.batches[0].error_tags == ERROR_TAGS and snapshot.guidelines[0].text == GUIDELINE.read_text()


def test_the_tables_and_passages_of_a_report_are_pinned_beside_the_answers() -> None:
    asked = Question(id="q", source="tatqa", kind="k", language="en", steps=(), answer="1", operand_key="o",
                     prompt="| 2019 | 2018\nRevenue | 5 | 4\nA passage.\nWhat changed?")
    assert evidence_of(asked) == ("|  | 2019 | 2018 |\n| --- | --- | --- |\n| Revenue | 5 | 4 |\n\nA passage.")
    assert evidence_of(dataclasses.replace(asked, source="finance")) == ""


def test_pairing_policies(artifact: Path) -> None:
    scores = ("--scores", str(artifact.parent / "scores.jsonl"))
    counts = {"all": 18, "random": 6, "best-worst": 6, "uncertain": 6}
    for policy, count in counts.items():
        snapshot = command(artifact, "--pairing", policy, *scores)
        by_id = snapshot.by_id("candidates")
        gaps = {abs(by_id[a].score - by_id[b].score) for a, b in (task.candidate_ids for task in snapshot.tasks)}
        assert len(snapshot.tasks) == count, policy
        if policy in ("best-worst", "uncertain"):
            assert gaps == {3.0 if policy == "best-worst" else 1.5}
        if policy == "uncertain":
            assert {task.priority for task in snapshot.tasks} == {uncertainty(1.5)}
    assert len(command(artifact, "--pairing", "random", "--per-prompt", "2").tasks) == 12
    assert command(artifact, "--pairing", "random").tasks == command(artifact, "--pairing", "random").tasks
    with_verdicts = command(artifact, "--pairing", "best-worst", "--verdicts", str(artifact.parent / "judge"))
    assert [said.decision.outcome for said in with_verdicts.suggestions] == ["prefer"] * 6


def test_a_limit_spreads_the_tasks_over_the_prompts(tmp_path: Path) -> None:
    """Four prompts with three pairs each: a task of every prompt comes before a second one of any."""
    rows = [{"prompt": f"Q{n}?", "completion": f"{n}.{side}"} for n in range(4) for side in range(3)]

    def asked(limit: int) -> str:
        folder = tmp_path / str(limit)
        folder.mkdir()
        snapshot = brought(folder, rows, Plan(limit=limit))
        prompts = snapshot.by_id("prompts")
        return "".join(prompts[task.prompt_id].messages[0]["content"][1] for task in snapshot.tasks)

    assert [asked(limit) for limit in (2, 4, 6, 8)] == ["02", "0123", "012302", "01230123"]


def test_a_ranking_has_a_key_for_every_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lines(tmp_path / "rows.jsonl", completions(1, models=tuple("abcdefghijkl")))
    arguments = ["import", str(file), "--db", str(tmp_path / "a.db"), "--kind", "ranking", "--size"]
    assert main([*arguments, "10"]) == 2
    assert "--size 10: a ranking has 9 places at most" in capsys.readouterr().err
    assert main([*arguments, "9"]) == 0


def test_the_most_uncertain_come_first(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{gap}?", "completion": f"{side}", "score": side * gap} for gap in (3.0, 0.1, 1.0)
            for side in (0, 1)]
    snapshot = brought(tmp_path, rows, Plan(policy="uncertain", limit=2))
    asked = snapshot.by_id("prompts")
    assert [asked[task.prompt_id].messages[0]["content"] for task in snapshot.tasks] == ["Q0.1?", "Q1.0?"]
    assert uncertainty(0) == 1 and uncertainty(5) < uncertainty(1) and uncertainty(1e9) >= 0


def test_answers_of_different_models_are_paired_across(tmp_path: Path) -> None:
    rows = [{"prompt": "Q?", "completion": f"{model}{number}", "model": model} for model in "mn" for number in range(3)]
    snapshot = brought(tmp_path, rows, Plan(policy="across-models"))
    by_id = snapshot.by_id("candidates")
    assert len(snapshot.tasks) == 9
    assert all(len({by_id[name].generator for name in task.candidate_ids}) == 2 for task in snapshot.tasks)


def test_rankings_ratings_and_walks_are_made(artifact: Path) -> None:
    ranking = command(artifact, "--kind", "ranking", "--size", "3")
    assert [len(task.candidate_ids) for task in ranking.tasks] == [3] * 6
    rating = command(artifact, "--kind", "rating", "--aspects", "truth, tone", "--scale", "7")
    assert {(task.aspects, task.scale) for task in rating.tasks} == {(("truth", "tone"), 7)}
    walks = command(artifact, "--kind", "stepwise", "--verdicts", str(artifact.parent / "judge"))
    assert len(walks.tasks) == 18 and len(walks.suggestions) >= 12
    by_id = walks.by_id("candidates")
    for said in walks.suggestions:
        task = walks.by_id("tasks")[said.task_id]
        assert len(said.decision.steps) == len(by_id[task.candidate_ids[0]].steps)


def test_gold_tasks_are_taken_from_the_rule(artifact: Path) -> None:
    snapshot = command(artifact, "--gold", "3", "--verdicts", str(artifact.parent / "judge"))
    gold = [task for task in snapshot.tasks if task.gold is not None]
    assert len(gold) == 3 and {task.min_judgments for task in gold} == {0}
    assert len(snapshot.suggestions) == 15
    texts = snapshot.by_id("candidates")
    assert all("1 + 1 = 3" not in texts[task.gold.preferred].text for task in gold if task.gold)


def test_a_verdict_that_does_not_speak_of_lines_gives_no_walk() -> None:
    verdict = Verdict(question_id="q", sample=0, correct=False, judge="rule", first_error=1,
                      steps_correct=(True, False))
    walk = walk_of(verdict, 3)
    assert walk is not None and [label.rating for label in walk.steps] == [1, -1, None]
    assert walk_of(verdict, 5) is None


def test_a_verdict_that_quotes_the_first_wrong_step_gives_a_walk() -> None:
    verdict = Verdict(question_id="q", sample=0, correct=False, judge="critic", first_error=1, prefix="a\n", step="b\n")
    walk = walk_of(verdict, 5)
    assert walk is not None and [label.rating for label in walk.steps] == [1, -1, None, None, None]
    assert walk_of(verdict, 1) is None
    assert walk_of(dataclasses.replace(verdict, first_error=None, prefix=None, step=None), 5) is None
    assert walk_of(Verdict(question_id="q", sample=0, correct=True, judge="critic"), 5) is None


def test_five_megabytes_come_in(tmp_path: Path) -> None:
    snapshot = brought(tmp_path, [{"prompt": "Q?", "completion": letter * 5_000_000} for letter in "ab"])
    assert [len(candidate.text) for candidate in snapshot.candidates] == [5_000_000] * 2
