"""Runs side by side: who compares with whom, and differences against counting by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from alignment import cli, compare, comparison
from alignment.stats import Bootstrap
from tests.alignment.fake_run import fake_run, write_lines

CONFIG = {"recipe": "ppo_fin", "scale": "full", "seed": 1, "runs_dir": "runs", "quiet": False,
          "data": {"source": "finance"}, "sft": {"kind": "sft", "max_steps": 260},
          "ppo": {"kind": "ppo", "reward_weights": {"rule": 1.0}}, "evaluate": {"kind": "evaluate", "temperature": 1.0}}


def made(folder: Path, *, seed: int = 0, count: int = 120, config: dict[str, Any] | None = None, samples: int = 4,
         **facts: Any) -> Path:
    """A finished run with samples of every question, as chains leave it."""
    fake_run(folder, seed=seed, count=count)
    path = folder / "stages/evaluate/generations.jsonl"
    greedy = [json.loads(line) for line in path.read_text().splitlines()]
    draw = np.random.default_rng(seed)
    write_lines(path, greedy + [row | {"mode": "sampled", "sample": n, "correct": bool(draw.random() < 0.4)}
                                for row in greedy for n in range(samples)])
    edit(folder / "run.json", digest="00", **facts)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG if config is None else config, sort_keys=False))
    return folder


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def evaluation(run: Path) -> Path:
    return run / "stages/evaluate/evaluation.json"


def right(run: Path, policy: str, mode: str, questions: Sequence[str] = ()) -> np.ndarray:
    """(questions, completions) counted from the lines of the artifact; of all questions unless some are named."""
    lines = (run / "stages/evaluate/generations.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if (row["policy"], row["mode"]) == (policy, mode)]
    return np.array([[row["correct"] for row in rows if row["question_id"] == question]
                     for question in questions or sorted({row["question_id"] for row in rows})])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    other = CONFIG | {"seed": 2, "runs_dir": "elsewhere", "quiet": True,
                      "ppo": {"kind": "ppo", "reward_weights": {"rule": 0.5}}}
    return [made(root / "one"), made(root / "two", seed=1, name="seed2", config=other)]


def told(*runs: Path, tmp_path: Path, code: int = 0) -> dict[str, Any]:
    """What --json writes."""
    assert compare.main([*map(str, runs), "--json", str(tmp_path / "out.json")]) == code
    found: dict[str, Any] = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    return found


def test_every_policy_of_every_run_is_a_row_with_its_own_numbers(pair: list[Path], tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    said = told(*pair, tmp_path=tmp_path)
    assert [(row["evaluation"], row["policy"], row["exam"]) for row in said["rows"]] == [
        (run, policy, 1) for run in ("ppo_fin/seed1", "ppo_fin/seed2") for policy in ("base", "pretrain", "sft", "ppo")]
    policies = json.loads(evaluation(pair[1]).read_text())["policies"]
    assert said["rows"][-1]["metrics"] == {metric: policies["ppo"][metric] for metric in (
        "greedy", "sampled", "pass_at_4", "bits_per_byte", "drills")}
    shown = capsys.readouterr().out
    found = policies["ppo"]["greedy"]
    assert f"{100 * found['value']:.1f}% [{100 * found['low']:.1f}%, {100 * found['high']:.1f}%]" in shown
    assert "All policies sat the same exam" in shown and "WARNING" not in shown


def test_differences_are_later_minus_first_on_the_same_questions(pair: list[Path], tmp_path: Path) -> None:
    forth, back = told(*pair, tmp_path=tmp_path), told(*pair[::-1], tmp_path=tmp_path)
    assert [row["policy"] for row in forth["differences"]] == ["base", "pretrain", "sft", "ppo"]
    row, mirrored = forth["differences"][-1], back["differences"][-1]
    assert (row["left"], row["right"]) == ("ppo_fin/seed2", "ppo_fin/seed1") == (mirrored["right"], mirrored["left"])
    first, later = ({mode: right(run, "ppo", mode) for mode in ("greedy", "sampled")} for run in pair)
    wanted = {"greedy": later["greedy"].mean() - first["greedy"].mean(),
              "sampled": later["sampled"].mean() - first["sampled"].mean(),
              "pass_at_4": later["sampled"].any(1).mean() - first["sampled"].any(1).mean()}
    for metric, value in wanted.items():
        assert row["metrics"][metric]["value"] == pytest.approx(value, abs=1e-6)
        assert mirrored["metrics"][metric]["value"] == pytest.approx(-value, abs=1e-6)
        assert row["metrics"][metric]["low"] < value < row["metrics"][metric]["high"]
    assert row["metrics"]["greedy"]["n"] == 120


def test_the_intervals_are_those_of_clusters_of_operands(pair: list[Path], tmp_path: Path) -> None:
    found = told(*pair, tmp_path=tmp_path)["differences"][-1]["metrics"]["sampled"]
    answers = [comparison.read(run).sittings["evaluate"].answers["ppo"].sampled.mean(1) for run in pair[::-1]]
    keys = [json.loads(line)["operand_key"] for line in (
        pair[0] / "stages/evaluate/questions.jsonl").read_text().splitlines()]
    wanted = Bootstrap(keys, resamples=200).difference(*answers)
    assert len(set(keys)) == 60 and (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_runs_that_answered_other_questions_are_not_compared(pair: list[Path], tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    other = made(tmp_path / "run", name="other")
    for path in (other / "stages/evaluate").glob("*s.jsonl"):
        path.write_text(path.read_text().replace('id": "q', 'id": "r'))
    said = told(pair[0], other, pair[1], tmp_path=tmp_path)
    assert [(exam["n"], exam["clusters"], exam["evaluations"]) for exam in said["exams"]] == [
        (120, 60, ["ppo_fin/seed1", "ppo_fin/seed2"]), (120, 60, ["ppo_fin/other"])]
    assert [row["exam"] for row in said["rows"]] == 4 * [1] + 4 * [2] + 4 * [1]
    assert {(row["left"], row["right"]) for row in said["differences"]} == {("ppo_fin/seed2", "ppo_fin/seed1")}
    assert "WARNING: not all policies sat the same exam" in " ".join(capsys.readouterr().out.split())


def test_exams_that_share_questions_are_paired_on_those(pair: list[Path], tmp_path: Path) -> None:
    longer = made(tmp_path / "run", count=240, name="longer", seed=3)  # its operand keys differ beyond the first 60
    path = longer / "stages/evaluate/questions.jsonl"
    lines = (pair[0] / "stages/evaluate/questions.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join([*path.read_text().splitlines(keepends=True)[120:], *lines]))  # the shared ones come last
    said = told(pair[0], longer, tmp_path=tmp_path)
    assert [exam["n"] for exam in said["exams"]] == [120, 240]
    found = said["differences"][-1]["metrics"]
    assert found["greedy"]["n"] == 120
    shared = [f"q{n}" for n in range(120)]
    for mode in ("greedy", "sampled"):
        first, later = (right(run, "ppo", mode, shared) for run in (pair[0], longer))
        assert found[mode]["value"] == pytest.approx(later.mean() - first.mean(), abs=1e-6)


@pytest.mark.parametrize("part", ["answer", "drills"])
def test_an_exam_is_its_questions_with_their_answers_and_its_other_parts(pair: list[Path], tmp_path: Path,
                                                                         part: str) -> None:
    other = made(tmp_path / "run", name="other")
    if part == "answer":
        path = other / "stages/evaluate/questions.jsonl"
        path.write_text(path.read_text().replace('"15%"', '"16%"', 1))
    else:
        report = json.loads(evaluation(other).read_text())
        for row in report["policies"].values():
            row["drills"]["n"] = 10
        evaluation(other).write_text(json.dumps(report))
    assert len(told(pair[0], other, tmp_path=tmp_path)["exams"]) == 2


def test_answering_in_another_way_is_said(pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = made(tmp_path / "run", name="other", samples=2)
    report = json.loads(evaluation(other).read_text())
    edit(evaluation(other), settings=report["settings"] | {"temperature": 0.5, "num_samples": 2})
    said = told(pair[0], other, tmp_path=tmp_path)
    assert said["exams"][0]["settings_differ"] == ["num_samples", "temperature"]
    assert "another num_samples, temperature" in " ".join(capsys.readouterr().out.split())
    assert set(said["differences"][0]["metrics"]) == {"greedy", "sampled"}  # no pass@k of other k


def test_a_policy_whose_answers_were_not_all_kept_has_no_difference(pair: list[Path], tmp_path: Path) -> None:
    other = made(tmp_path / "run", name="other")
    path = other / "stages/evaluate/generations.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))  # the first is base's
    said = told(pair[0], other, tmp_path=tmp_path)
    assert [row["policy"] for row in said["differences"]] == ["pretrain", "sft", "ppo"] and len(said["rows"]) == 8
    path.unlink()
    assert told(pair[0], other, tmp_path=tmp_path)["differences"] == []


def test_the_keys_that_differ_are_those_that_can_change_a_result(pair: list[Path], tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert told(*pair, tmp_path=tmp_path)["config"] == {
        "seed": {"ppo_fin/seed1": 1, "ppo_fin/seed2": 2},
        "ppo.reward_weights.rule": {"ppo_fin/seed1": 1.0, "ppo_fin/seed2": 0.5}}
    assert "ppo.reward_weights.rule" in capsys.readouterr().out
    without = {key: value for key, value in CONFIG.items() if key != "ppo"}
    said = told(pair[0], made(tmp_path / "run", name="sft", config=without), tmp_path=tmp_path)
    assert said["config"] == {"ppo": {"ppo_fin/seed1": "a stage (ppo)", "ppo_fin/sft": None}}
    assert said["also_differ"] == []
    same = told(pair[0], made(tmp_path / "same", name="same", code={"alignment.stats": "00"}), tmp_path=tmp_path)
    assert same["config"] == {} and same["also_differ"] == ["code"]
    assert "No config key that can change a result differs." in " ".join(capsys.readouterr().out.split())


def test_gates_and_seconds_are_told(pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = {"stage": "sft", "require": "dev_accuracy >= 0.2", "evidence": "dev_accuracy = 0.1", "stopped": False}
    said = told(pair[0], made(tmp_path / "run", name="warned", gates=[gate]), tmp_path=tmp_path)
    assert said["runs"]["ppo_fin/warned"]["gates_closed"] == ["sft: dev_accuracy >= 0.2, found dev_accuracy = 0.1"]
    assert [run["seconds"] for run in said["runs"].values()] == [90.0, 90.0]
    assert "1:30" in capsys.readouterr().out


def test_runs_of_one_title_and_several_evaluations_are_told_apart(pair: list[Path], tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    other = made(tmp_path / "[red]run")
    shutil.copytree(other / "stages/evaluate", other / "stages/second")
    stages = json.loads((other / "run.json").read_text())["stages"]
    edit(other / "run.json", stages=stages | {"second": stages["evaluate"]})
    said = told(pair[0], other, tmp_path=tmp_path)
    assert list(dict.fromkeys(row["evaluation"] for row in said["rows"])) == [
        str(pair[0]), f"{other}, evaluate", f"{other}, second"]
    assert "[red]run" in "".join(capsys.readouterr().out.split())


def test_one_run_alone_and_its_run_json(pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(pair[0] / "run.json")]) == 0
    shown = capsys.readouterr().out
    assert "ppo_fin/seed1" in shown and "difference" not in shown and "differ" not in shown


def stage(run: Path) -> Path:
    return run / "stages/evaluate"


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "there is no such file"),
    "a folder that is no run's": (lambda run: (run / "run.json").unlink(), "there is no such file"),
    "a run.json that is no JSON": (lambda run: (run / "run.json").write_text("{"), "cannot be read as JSON"),
    "a run.json of something else": (lambda run: (run / "run.json").write_text("[]"), "is not a run's manifest"),
    "a run.json of another version": (lambda run: edit(run / "run.json", format=9), "this version reads 1"),
    "a run.json of another shape": (lambda run: edit(run / "run.json", seeds=[]), "holds what no run leaves"),
    "a run under way": (lambda run: edit(run / "run.json", status="running"), "is not finished (status running)"),
    "an interrupted run": (lambda run: edit(run / "run.json", status="interrupted"), "run its command again"),
    "no evaluation": (lambda run: shutil.rmtree(stage(run)), "has no evaluation (status done)"),
    "a broken evaluation": (lambda run: evaluation(run).write_text("{"), "holds what no run leaves"),
    "another evaluation": (lambda run: evaluation(run).write_text("{}"), "holds what no run leaves"),
    "no questions": (lambda run: (stage(run) / "questions.jsonl").unlink(), "no questions.jsonl"),
    "other generations": (lambda run: (stage(run) / "generations.jsonl").write_text("{}\n"), "no run leaves"),
    "a broken config": (lambda run: (run / "config.yaml").write_text("a: ["), "holds what no run leaves"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, wanted = BAD[case]
    run = made(tmp_path / "run", name="spoilt")
    spoil(run)
    assert compare.main([str(pair[0]), str(run), "--json", str(tmp_path / "out.json")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and wanted in said.err and said.err.count("\n") == 1 and str(run) in said.err
    assert not (tmp_path / "out.json").exists()


def test_mistakes_on_the_command_line(pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([]) == 2 and compare.main(["--help"]) == 0
    capsys.readouterr()
    assert compare.main([str(pair[0]), str(pair[0] / "run.json")]) == 2
    assert "named twice" in capsys.readouterr().err
    assert compare.main([str(pair[0]), "--json", str(tmp_path / "none" / "out.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
