"""The judge stage with a model behind a URL: its verdicts, its budget, its replies kept and replayed, killed and begun
again, and the pairs that come of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from alignment.config import load
from alignment.kinds import KINDS
from alignment.metrics import documented
from alignment.preference_kinds import JUDGE_TASKS, Judge, Pairs
from alignment.stage import Stage
from alignment.stages import judge, pairs
from data.rows import read_rows
from data.schema import Comparison, PreferencePair, UserError, Verdict
from reward.judge import Request
from reward.prompted import TASKS
from reward.replies import FILE
from tests.alignment.judged import Marker, sampled
from tests.alignment.stage_made import FINANCE, make_stage, notes, result
from tests.reward.loopback import Answer, Script, completion, serve
from tests.reward.planted import Planted
from tests.reward.scripted import by_merit, fields

ROOT = Path(__file__).parents[2]


def stage_of(folder: Path, given: Path, url: str | None, **config: Any) -> Stage:
    return make_stage(folder, "judge", inputs={"completions": given}, **({
        "judge": "endpoint", "model": "m-1", "url": url, "cache": str(folder / "cache"), "tries": 1} | config))


def judged(folder: Path, given: Path, script: Script, **config: Any) -> tuple[Stage, list[Verdict]]:
    with serve(script) as server:
        stage = stage_of(folder, given, server.url, **config)
        judge.run(stage)
    return stage, read_rows(stage.output / "verdicts.jsonl", Verdict)


def paired(folder: Path, given: Path, verdicts: Path, **config: Any) -> tuple[Stage, list[PreferencePair]]:
    stage = make_stage(folder, "pairs", inputs={"completions": given, "verdicts": verdicts}, human=None, **config)
    pairs.run(stage)
    return stage, [row for side in ("train", "dev") for row in read_rows(stage.output / f"{side}.jsonl",
                                                                         PreferencePair)]


def test_a_model_that_judges_as_the_rule_gives_the_rules_verdicts(tmp_path: Path) -> None:
    given = tmp_path / "given"
    planted = sampled(given)
    stage, verdicts = judged(tmp_path / "model", given, Marker(planted))
    assert [verdict.correct for verdict in verdicts] == [True, False, False] * 8
    assert [verdict.first_error for verdict in verdicts[1::3]] == [each.first_error for each in planted]
    assert {verdict.judge for verdict in verdicts} == {"endpoint"} and {row.model for row in verdicts} == {"m-1"}
    found = result(stage)
    assert (found["replies"], found["requests"], found["prompt_tokens"]) == (32, 32, 7 * 32)  # 16 + 8 + 8
    assert found["accuracy"] == pytest.approx(1 / 3) and "unreadable.outcome" not in found
    for name in found:
        documented(name, "judge")


@pytest.mark.parametrize("tasks", [["outcome_token", "process"], ["outcome_rule", "process"]])
def test_other_ways_to_an_outcome(tmp_path: Path, tasks: list[str]) -> None:
    given = tmp_path / "given"
    planted = sampled(given)
    _, verdicts = judged(tmp_path / "model", given, Marker(planted), tasks=tasks)
    assert [verdict.correct for verdict in verdicts] == [True, False, False] * 8
    assert [verdict.first_error for verdict in verdicts[1::3]] == [each.first_error for each in planted]
    if tasks[0] == "outcome_token":
        assert verdicts[0].score == pytest.approx(0.8) and verdicts[1].score == pytest.approx(0.125)


def test_what_it_cost(tmp_path: Path) -> None:
    given = tmp_path / "given"
    planted = sampled(given, questions=2)
    stage, _ = judged(tmp_path / "model", given, Marker(planted), prompt_price=2.0, completion_price=10.0)
    found = result(stage)
    assert found["cost"] == pytest.approx((found["prompt_tokens"] * 2 + found["completion_tokens"] * 10) / 1e6)
    assert found["cost"] > 0


# What cannot be read ---------------------------------------------------------------------------------------------


def broken(planted: list[Planted]) -> Script:
    """A marker whose replies on these solutions are no verdict."""
    marker = Marker(planted)

    def script(number: int, body: dict[str, Any]) -> Answer:
        proposal = fields(Request(body["messages"]))["proposal"]
        return Answer(completion("?")) if proposal in (planted[2].text, planted[5].text) else marker(number, body)
    return script


def test_a_reply_that_is_no_verdict_is_counted_and_dropped_and_never_a_no(tmp_path: Path) -> None:
    given = tmp_path / "given"
    planted = sampled(given)
    stage, verdicts = judged(tmp_path / "model", given, broken(planted), max_unreadable=0.2)
    assert len(verdicts) == 22 and result(stage)["unreadable.outcome"] == 2
    made, rows = paired(tmp_path / "pairs", given, stage.output)
    assert result(made)["dropped.completion_without_a_readable_verdict"] == 2
    assert not {planted[2].text, planted[5].text} & {row.rejected for row in rows}


def test_too_much_of_it_stops_the_run(tmp_path: Path) -> None:
    given = tmp_path / "given"
    planted = sampled(given)
    with pytest.raises(UserError, match=r"2 replies of m-1 are no verdict \(outcome: .*\), more than max_unreadable="):
        judged(tmp_path / "model", given, broken(planted))
    assert not (tmp_path / "model" / "output" / "verdicts.jsonl").exists()


# Kept, killed, replayed ------------------------------------------------------------------------------------------


def start(folder: Path, given: Path, url: str, **config: Any) -> subprocess.Popen[bytes]:
    """The stage as a process of its own, as the controller runs it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"judge": "endpoint", "model": "m-1", "url": url, "cache": str(folder / "cache"), "tries": 1, **config}
    job = {"name": "judge", "kind": "judge", "config": settings, "inputs": {"completions": str(given)}, "data": FINANCE,
           "rollout": {"engine": "transformers"}, "seed": 5, "root_seed": 1, "kept": str(folder / "kept"),
           **{name: str(folder / name) for name in ("output", "scratch", "events")}}
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return subprocess.Popen([sys.executable, "-m", "alignment.stage", str(path)], cwd=ROOT,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("concurrency", [1, 4])
def test_killed_in_the_middle_it_repeats_no_call_and_gives_the_same_pairs(tmp_path: Path, concurrency: int) -> None:
    """SIGKILL while the server holds some requests back: what it had answered it is never asked again."""
    given = tmp_path / "given"
    marker = Marker(sampled(given))
    held, release = threading.Event(), threading.Event()

    def script(number: int, body: dict[str, Any]) -> Answer:
        if number >= 14 and not release.is_set():
            held.set()
            release.wait(60)
            return Answer("", status=400)  # to a client that is gone
        return marker(number, body)

    with serve(script) as server:
        process = start(tmp_path / "killed", given, server.url, concurrency=concurrency)
        assert held.wait(60)
        kept = lambda: len(list((tmp_path / "killed" / "cache").rglob("*.json")))  # noqa: E731
        while kept() < len(server.answered):  # an answer on its way is kept within moments
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        answered = list(server.answered)
        assert 10 <= len(answered) <= 14 and not (tmp_path / "killed" / "output" / "verdicts.jsonl").exists()
        release.set()
        assert start(tmp_path / "killed", given, server.url, concurrency=concurrency).wait() == 0
        assert len(server.answered) == len(set(server.answered)) == 32
    whole, _ = judged(tmp_path / "whole", given, marker)
    outputs = [tmp_path / "killed" / "output", whole.output]
    for name in ("verdicts.jsonl", FILE):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    made = [paired(tmp_path / f"pairs{place}", given, folder, build=["outcome", "process"])[0].output
            for place, folder in enumerate(outputs)]
    for side in ("train", "dev"):
        assert (made[0] / f"{side}.jsonl").read_bytes() == (made[1] / f"{side}.jsonl").read_bytes() != b""


def test_a_recorded_run_is_replayed_without_a_network(tmp_path: Path) -> None:
    given = tmp_path / "given"
    planted = sampled(given)
    live, _ = judged(tmp_path / "live", given, Marker(planted))
    replayed = stage_of(tmp_path / "replayed", given, None, replay=str(live.output), cache=None, key_variable="NOT_SET")
    judge.run(replayed)
    for name in ("verdicts.jsonl", FILE):
        assert (replayed.output / name).read_bytes() == (live.output / name).read_bytes()
    assert result(replayed)["requests"] == 0 and "0 of 32 replies were asked for now" in notes(replayed)
    with pytest.raises(UserError, match="are not among the recorded replies"):
        judge.run(stage_of(tmp_path / "other", given, None, replay=str(live.output), temperature=1.0))


def test_an_upgrade_pays_for_no_call_again(tmp_path: Path) -> None:
    """Another address, more connections, another scratch: the replies are those kept."""
    given = tmp_path / "given"
    planted = sampled(given)
    cache = str(tmp_path / "cache")
    judged(tmp_path / "one", given, Marker(planted), cache=cache)
    stage, verdicts = judged(tmp_path / "two", given, lambda number, body: Answer("never", status=400), cache=cache,
                             concurrency=3)
    assert result(stage)["requests"] == 0 and len(verdicts) == 24


# Comparisons -----------------------------------------------------------------------------------------------------


def test_comparisons_become_pairs(tmp_path: Path) -> None:
    """Preferred: the longer text. Each two are seen in both orders."""
    given = tmp_path / "given"
    sampled(given)
    answer = by_merit(len)

    def script(number: int, body: dict[str, Any]) -> Answer:
        request = Request(body["messages"], body["response_format"]["json_schema"]["schema"])
        return Answer(completion(answer(fields(request), request)))

    stage, verdicts = judged(tmp_path / "model", given, script, tasks=["principles"])
    comparisons = read_rows(stage.output / "comparisons.jsonl", Comparison)
    assert verdicts == [] and len(comparisons) == 8 and result(stage)["replies"] == 16
    assert result(stage)["agreed"] == 1.0
    _, rows = paired(tmp_path / "pairs", given, stage.output, build=["comparisons"])
    assert rows and all(len(row.chosen) > len(row.rejected) for row in rows)
    assert {(row.origin, row.annotator, row.model, row.strength) for row in rows} == {("ai", "m-1", "m-1", 1.0)}
    rule = make_stage(tmp_path / "rule", "judge", inputs={"completions": given})
    judge.run(rule)
    with pytest.raises(UserError, match="the judge has compared nothing"):
        paired(tmp_path / "none", given, rule.output, build=["comparisons"])


# Config ----------------------------------------------------------------------------------------------------------


def test_the_kinds_tasks_are_those_there_are() -> None:
    assert set(JUDGE_TASKS) == set(TASKS)


@pytest.mark.parametrize(("overrides", "message"), [
    (["judge.judge=endpoint"], "judge.judge=endpoint: say which model it is"),
    (["judge.judge=endpoint", "judge.model=m"], "judge.judge=endpoint: needs `url`"),
    (["judge.judge=local", "judge.model=m"], "judge.judge=local: needs the input `model`"),
    (["judge.judge=endpoint", "judge.tasks=[process]"], "go on from a verdict; add outcome"),
    (["judge.judge=endpoint", "judge.tasks=[outcome,outcome_token]"], "one outcome, and one of pairwise"),
    (["judge.judge=endpoint", "judge.tasks=[vibes]"], "choose some, each once, of outcome"),
    (["judge.judge=endpoint", "judge.tasks=[outcome_rule]"], "asks the model nothing"),
    (["judge.judge=endpoint", "judge.replay=none.jsonl"], "there is no such file"),
    (["judge.prompts=none"], "there is no such file or folder"),
    (["pairs.build=[outcome,outcome]"], "choose some, each once, of outcome, process"),
])
def test_what_does_not_go_together_is_said_before_anything_starts(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(["recipe=ppo_fin", *overrides])


@pytest.mark.parametrize(("asked", "judge_asked"), [
    (["recipe=ppo_fin"], "critic"), (["recipe=grpo_fin"], "critic"), (["recipe=ppo_fin", "judge.judge=rule"], "rule"),
    (["recipe=ppo_fin", "data=gsm8k"], "rule"), (["recipe=findap"], "rule"), (["recipe=evidence"], "rule"),
    (["recipe=findap", "judge.judge=auto"], "critic"), (["recipe=ppo_fin_8b", "model.path=hub/model"], "rule"),
    (["recipe=ppo_fin", "model.path=hub/model"], "rule")])
def test_auto_asks_the_critic_about_what_it_knows_alone(asked: list[str], judge_asked: str) -> None:
    config = load(asked).stages["judge"]
    assert isinstance(config, Judge) and config.judge == judge_asked


def test_ppo_fin_learns_from_answers_steps_and_people() -> None:
    stages = load(["recipe=ppo_fin"]).stages
    assert isinstance(stages["pairs"], Pairs) and stages["pairs"].build == ["outcome", "process"]
    assert stages["pairs"].human == "embedded" and stages["reward_model"].inputs["pairs"] == "pairs"


def test_addresses_keys_and_pace_are_no_part_of_an_identity() -> None:
    fields_of_it = {field.name: field.metadata.get("identity") for field in KINDS["judge"].config.__dataclass_fields__
                    .values()}
    outside = {name for name, identity in fields_of_it.items() if identity is False}
    assert outside == {"require", "max_unreadable", "url", "key_variable", "concurrency", "requests_per_minute",
                       "timeout", "tries", "prompt_price", "completion_price", "cache", "replay"}
