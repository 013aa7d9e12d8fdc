"""The controller with fake stages: what runs again and what does not, failures, gates, interrupts, contracts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignment import costs, run
from alignment.child import Child
from alignment.controller import Controller
from alignment.prepare import explain
from alignment.store import Artifact, Lock, Store, read_artifact
from data.schema import UserError
from tests.alignment import fake_stage
from tests.alignment.chains import COMMAND, Chain, Recorder

ALL = ["pretrain", "sft", "sample", "judge", "pairs", "reward_model", "ppo", "evaluate"]


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    return Chain(tmp_path, monkeypatch)


def test_a_whole_run_leaves_its_folder(chain: Chain) -> None:
    outcome = chain.run()
    assert outcome.code == 0
    assert outcome.started == ALL
    manifest = outcome.manifest
    assert manifest["status"] == "done"
    assert list(manifest["stages"]) == ALL
    assert {stage["status"] for stage in manifest["stages"].values()} == {"ran"}
    assert {stage["peak_mib"] for stage in manifest["stages"].values()} == {123.4}
    assert len(set(manifest["seeds"]["stages"].values())) == len(ALL)
    for name in ALL:
        artifact = read_artifact((outcome.run_dir / "stages" / name).resolve())
        assert artifact is not None and artifact.identity == manifest["stages"][name]["identity"]
        assert "the log of " + name in (outcome.run_dir / "logs" / f"{name}.log").read_text()
    lines = [json.loads(line) for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"], line["loss"]) for line in lines] == [(name, 1, 1.5) for name in ALL]
    assert "learning_rate" in (outcome.run_dir / "config.yaml").read_text()


def test_a_warning_is_said_at_once_and_kept_with_the_artifact(chain: Chain) -> None:
    warning = "alarm kl, iteration 3: too far"
    first, second = (chain.run("until=sft", sft="warn") for _ in range(2))
    assert f"stage sft: {warning}" in first.said and warning not in second.said
    for outcome in (first, second):  # the second reuses what the first made
        assert outcome.manifest["stages"]["sft"]["notes"] == ["a note", warning]


def test_a_second_run_starts_nothing_and_keeps_the_curves(chain: Chain) -> None:
    first = chain.run()
    metrics = (first.run_dir / "metrics.jsonl").read_text()
    second = chain.run()
    assert second.code == 0
    assert second.started == []
    assert set(second.ends.values()) == {"reused"}
    assert (second.run_dir / "metrics.jsonl").read_text() == metrics
    assert second.manifest["stages"]["ppo"]["output_sha256"] == first.manifest["stages"]["ppo"]["output_sha256"]
    assert second.manifest["stages"]["ppo"]["peak_mib"] == 123.4


def test_a_change_reruns_what_hangs_on_it(chain: Chain) -> None:
    chain.run()
    for override, again in {
        "ppo.learning_rate=1e-4": ["ppo", "evaluate"],
        "ppo.dev_examples=3": [],  # cannot change the result
        "sft.num_examples=7": ALL[1:],
        "pairs.human_weight=0.5": ["pairs", "reward_model", "ppo", "evaluate"],
        "data.kinds=[growth]": ALL,
        "seed=2": ALL,
        "threads=1": ALL,
        "evaluate.bootstrap=500": ["evaluate"],
    }.items():
        outcome = chain.run(override)
        assert outcome.started == again, override


def test_changed_data_bytes_code_or_base_model_rerun(chain: Chain) -> None:
    rows = chain.root / "rows.json"
    rows.write_text("[1]")
    chain.data_files = [rows]
    chain.run("until=sft")
    rows.write_text("[2]")
    assert chain.run("until=sft").started == ["pretrain", "sft"]
    chain.code = {"alignment.stages.any": "2" * 16}
    assert chain.run("until=sft").started == ["pretrain", "sft"]
    fake_stage.write_model(chain.base, weights="other")
    assert chain.run("until=sft").started == ["pretrain", "sft"]
    assert chain.run("until=sft").started == []


def test_a_stale_parent_is_never_reused(chain: Chain) -> None:
    """Back to an old config: every stage is the old one, down to what the children read."""
    old = chain.run(recipe="sft_fin")
    new = chain.run("sft.num_examples=7", recipe="sft_fin")
    back = chain.run(recipe="sft_fin")
    assert new.started == ["sft", "evaluate"] and back.started == []
    for name in ("sft", "evaluate"):
        identities = [outcome.manifest["stages"][name]["identity"] for outcome in (old, new, back)]
        assert identities[0] == identities[2] != identities[1]
        assert (back.run_dir / "stages" / name).resolve().name == f"{name}-{identities[0][:16]}"


def test_recipes_share_what_is_the_same(chain: Chain) -> None:
    chain.run()
    assert chain.run(recipe="grpo_fin").started == ["grpo", "evaluate"]
    assert chain.run(recipe="dpo_fin").started == ["sample", "judge", "pairs", "dpo", "evaluate"]


def test_failures_name_the_stage_and_go_on_later(chain: Chain) -> None:
    failed = chain.run(recipe="sft_fin", sft="fail")
    assert failed.code == 1
    assert "stage sft failed: RuntimeError: it broke" in failed.said and "sft.log" in failed.said
    assert failed.manifest["status"] == "failed"
    assert failed.manifest["stages"]["sft"]["error"] == "RuntimeError: it broke"
    assert failed.started == ["pretrain", "sft"]
    log = (chain.root / "runs" / "sft_fin" / "seed1" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in log] == ["pretrain", "sft"]  # its curve up to the failure
    assert chain.run(recipe="sft_fin", sft="user error").code == 2
    killed = chain.run(recipe="sft_fin", sft="killed")
    assert killed.code == 1 and "SIGKILL" in killed.said
    nothing = chain.run(recipe="sft_fin", sft="nothing")
    assert nothing.code == 1 and "has no config.json" in nothing.said
    assert chain.run(recipe="sft_fin").started == ["sft", "evaluate"]


def test_a_closed_gate_stops_before_what_hangs_on_it(chain: Chain) -> None:
    stopped = chain.run("reward_model.require=['accuracy >= 0.75']")
    assert stopped.code == 1
    assert stopped.started[-1] == "reward_model"
    for part in ("stage reward_model", "accuracy >= 0.75", "accuracy = 0.7", "0.6 to 0.8", "n = 100"):
        assert part in stopped.said
    assert stopped.manifest["status"] == "gate closed"
    assert stopped.manifest["gates"][0]["stage"] == "reward_model"
    again = chain.run("reward_model.require=['accuracy >= 0.75']")
    assert again.code == 1 and again.started == []  # asked of a sealed artifact as well
    warned = chain.run("reward_model.require=['accuracy >= 0.75']", "gates=warn")
    assert warned.code == 0 and warned.started == ["ppo", "evaluate"]
    assert "accuracy >= 0.75" in warned.said and warned.manifest["gates"][0]["stopped"] is False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_child_and_is_resumable(chain: Chain, number: signal.Signals) -> None:
    threading.Thread(target=interrupt_when_begun, args=(chain.root, number), daemon=True).start()
    outcome = chain.run(recipe="sft_fin", sft="sleep")
    assert outcome.code == 130
    assert outcome.manifest["status"] == "interrupted"
    assert outcome.manifest["stages"]["sft"]["status"] == "interrupted"
    assert list((chain.root / "runs/store").glob("sft-*")) == []  # nothing readable
    work = list((chain.root / "runs/store/.work").glob("sft-*"))
    assert (work[0] / "scratch/begun").exists()  # what a stage resumes from
    resumed = chain.run(recipe="sft_fin")
    assert resumed.code == 0 and resumed.started == ["sft", "evaluate"]
    assert list((chain.root / "runs/store/.work").iterdir()) == []


def interrupt_when_begun(root: Path, number: signal.Signals) -> None:
    while not list(root.glob("runs/store/.work/sft-*/scratch/begun")):
        time.sleep(0.02)
    signal.raise_signal(number)


def test_until_only_and_force(chain: Chain) -> None:
    with pytest.raises(UserError, match="stage pretrain has to run first"):
        chain.run("only=sft")
    assert chain.run("until=sft").started == ["pretrain", "sft"]
    assert chain.run("only=sample").started == ["sample"]
    assert chain.run("until=sft", "force=sft").started == ["sft"]
    with pytest.raises(UserError, match="did you mean sft"):
        chain.run("until=stf")


def test_a_run_of_a_part_keeps_the_links_to_the_rest(chain: Chain) -> None:
    whole = chain.run()
    part = chain.run("until=pretrain")
    assert part.run_dir == whole.run_dir
    assert sorted(path.name for path in (part.run_dir / "stages").iterdir()) == sorted(ALL)


def test_from_runs_a_stage_and_what_hangs_on_it_and_nothing_before(chain: Chain) -> None:
    with pytest.raises(UserError, match=r"from=judge: stage pretrain has to run first \(never run\)"):
        chain.run("from=judge")
    chain.run("until=sample")
    assert chain.run("from=judge", "until=pairs").started == ["judge", "pairs"]
    with pytest.raises(UserError, match=r"stage sft has to run first .*num_examples"):
        chain.run("from=judge", "sft.num_examples=7")
    with pytest.raises(UserError, match="only=sft and from=judge: give one of them"):
        chain.run("from=judge", "only=sft")
    with pytest.raises(UserError, match="did you mean judge"):
        chain.run("from=jugde")


def test_a_code_change_can_be_accepted_stage_by_stage_and_is_recorded(chain: Chain) -> None:
    chain.run("until=sample")
    chain.code["alignment.stages.any"] = "2" * 16
    accepting = "accept_code_change='pretrain,sft'"
    assert "accepted: module alignment.stages.any: 11111111 -> 22222222" in explain(chain.prepare(accepting))
    outcome = chain.run(accepting, "until=sample")
    assert outcome.started == ["sample"]
    stages = outcome.manifest["stages"]
    assert stages["sft"]["accepted_code_change"] == ["module alignment.stages.any: 11111111 -> 22222222"]
    assert "accepted_code_change" not in stages["sample"]
    assert "stage sft: reused although its code has changed (1 of its modules)" in outcome.said
    assert chain.run(accepting, "until=sample").started == []
    with pytest.raises(UserError, match=r"differs in code alone .*config.num_examples"):
        chain.run("accept_code_change='pretrain,sft'", "sft.num_examples=7")
    with pytest.raises(UserError, match=r"accept_code_change=judge: .*never run"):
        chain.run("accept_code_change='pretrain,sft,sample,judge'")
    with pytest.raises(UserError, match="one makes it again"):
        chain.run("accept_code_change=pretrain", "force=pretrain")


def test_a_stage_goes_on_with_what_other_code_began_where_the_user_says_so(chain: Chain) -> None:
    chain.run("until=sft", sft="begin and fail")
    began = next(iter(chain.prepare().store.unfinished()))
    chain.code["alignment.stages.any"] = "2" * 16
    with pytest.raises(UserError, match=r"accept_code_change=sft: .* or began, differs in code alone"):
        chain.prepare("accept_code_change=sft", "sft.num_examples=7")
    accepting = ("until=sft", "accept_code_change='pretrain,sft'")
    assert f"goes on from what other code began ({began.name})" in explain(chain.prepare(*accepting))
    assert chain.run(*accepting, sft="begin and fail").ends["sft"] == "failed"
    assert not began.exists() and len(chain.prepare().store.unfinished()) == 1
    assert chain.run(*accepting, sft="killed").ends["sft"] == "failed"  # from now on its own work
    stage = chain.run(*accepting).manifest["stages"]["sft"]
    assert stage["status"] == "ran" and stage["notes"] == [
        "a note", "went on", "code was changed while it was made, and the change accepted: "
                             "module alignment.stages.any: 11111111 -> 22222222"]
    assert chain.run(*accepting).started == [] and chain.prepare().store.unfinished() == []


def test_without_that_word_a_stage_whose_code_changed_starts_anew_and_what_was_begun_stays(chain: Chain) -> None:
    chain.run("until=pretrain", pretrain="begin and fail")
    began = next(iter(chain.prepare().store.unfinished()))
    chain.code["alignment.stages.any"] = "2" * 16
    assert chain.run("until=pretrain").manifest["stages"]["pretrain"]["notes"] == ["a note"]
    assert (began / "scratch/begun").exists()
    chain.code["alignment.stages.any"] = "1" * 16  # the change taken back
    assert chain.run("until=pretrain").manifest["stages"]["pretrain"]["notes"] == ["a note", "went on"]


def test_what_another_run_is_at_is_not_taken_over(chain: Chain) -> None:
    chain.run("until=pretrain", pretrain="begin and fail")
    began = next(iter(chain.prepare().store.unfinished()))
    chain.code["alignment.stages.any"] = "2" * 16
    lock = Lock(chain.prepare().store.lock_path(began.name))
    assert lock.acquire()
    outcome = chain.run("until=pretrain", "accept_code_change=pretrain")
    lock.release()
    assert outcome.code == 2 and "is being worked on by another run" in outcome.said
    assert (began / "scratch/begun").exists() and outcome.started == []


def test_a_sealed_file_that_changed_is_refused(chain: Chain) -> None:
    outcome = chain.run("until=sft")
    (outcome.run_dir / "stages/sft/model.safetensors").write_text("x")
    with pytest.raises(UserError, match=r"model.safetensors is not what was sealed"):
        chain.run()


def test_a_changed_tokenizer_is_refused(chain: Chain) -> None:
    outcome = chain.run(sft="other tokenizer")
    assert outcome.code == 1 and outcome.started == ["pretrain", "sft"]
    assert "stage sft" in outcome.said and "vocabulary" in outcome.said


def test_an_evaluation_question_in_training_stops_the_evaluation(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ROW", json.dumps({"operand_key": "test-1"}) + "\n")
    outcome = chain.run()
    assert outcome.code == 2
    assert "evaluate" not in outcome.started
    assert "questions.jsonl:1" in outcome.said


def test_adopting_a_model(chain: Chain) -> None:
    mine = chain.root / "mine"
    fake_stage.write_model(mine, weights="mine")
    (mine / "manifest.json").write_text("{}")  # as in a sealed artifact: another store's, so not taken over
    outcome = chain.run(f"sft.adopt={mine}", "until=sample")
    assert outcome.started == ["sample"], outcome.said
    assert outcome.manifest["stages"]["sft"]["status"] == "adopted"
    assert b"mine" in (outcome.run_dir / "stages/sft/model.safetensors").read_bytes()
    assert chain.run(f"sft.adopt={mine}", "until=sample").started == []
    (mine / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        chain.run(f"sft.adopt={mine}")


def test_dry_run_says_what_changed(chain: Chain) -> None:
    assert "pretrain: runs\n      never run" in explain(chain.prepare())
    chain.run()
    assert "runs\n" not in explain(chain.prepare())
    text = explain(chain.prepare("ppo.learning_rate=1e-4"))
    assert "reward_model: reused" in text
    assert "ppo: runs\n      config learning_rate: 0.0003 -> 0.0001" in text
    assert "evaluate: runs\n      input ppo: " in text
    chain.code = {"alignment.stages.any": "2" * 16}
    assert "module alignment.stages.any: 11111111 -> 22222222" in explain(chain.prepare())


def test_dry_run_says_what_it_would_cost(chain: Chain) -> None:
    text = explain(chain.prepare())
    assert "2,800 completions of 1,400 questions" in text and "took" not in text and "WARNING" not in text
    chain.run("until=sft")
    text = explain(chain.prepare())
    lines = {line.split()[0]: line for line in text.partition("optimizer steps")[2].splitlines() if line.split()}
    assert "sft" not in lines and "sample" in lines  # only what would run
    again = explain(chain.prepare("force=sft")).partition("optimizer steps")[2].splitlines()
    assert next(line for line in again if line.startswith("  sft")).endswith("took 0s")
    chain.run()
    assert "optimizer steps" not in explain(chain.prepare())


def test_what_does_not_fit_on_the_disk_is_not_begun(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda place: SimpleNamespace(free=3 * 2**20))
    assert "WARNING" in explain(chain.prepare())
    with pytest.raises(UserError, match=r"runs_dir=.* need .* MiB of disk.*3.0 MiB are free; make room"):
        chain.run()
    assert chain.starts.read_text() == "" and not (chain.root / "runs").exists()
    assert chain.run("until=pretrain", "pretrain.save_every=450").code == 0  # what is left out needs no room


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_first_stage(number: signal.Signals, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run, "prepare", lambda config: signal.raise_signal(number))
    assert run.main(["recipe=sft_fin"]) == 130
    assert capsys.readouterr().err == "interrupted\n" and signal.getsignal(signal.SIGTERM) == before


def test_an_interrupt_lets_a_step_come_to_its_end(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that comes while an artifact is sealed, and another while stages are being stopped."""
    seal, stop = Store.seal, Child.stop

    def interrupted(self: Store, **given: Any) -> Artifact:
        if given["stage"] == "sft":
            signal.raise_signal(signal.SIGINT)
        return seal(self, **given)

    def again(self: Child) -> None:
        signal.raise_signal(signal.SIGTERM)
        stop(self)

    monkeypatch.setattr(Store, "seal", interrupted)
    monkeypatch.setattr(Child, "stop", again)
    outcome = chain.run("workers=2", recipe="sft_fin")
    assert outcome.code == 130 and outcome.manifest["status"] == "interrupted"
    assert outcome.manifest["stages"]["sft"]["status"] == "ran"
    monkeypatch.undo()
    assert Chain(chain.root, monkeypatch).run(recipe="sft_fin").started == ["evaluate"]


def test_what_a_kill_left_of_a_sealed_artifacts_work_is_cleared_up(chain: Chain) -> None:
    store, identity = chain.prepare().store, chain.run("until=sft").manifest["stages"]["sft"]["identity"]
    work = store.work("sft", identity)
    (work / "scratch").mkdir(parents=True)
    lock = store.lock("sft", identity)
    assert lock.acquire()  # another run is at it
    assert chain.run("until=sft").started == [] and work.exists()
    lock.release()
    assert chain.run("until=sft").started == [] and not work.exists()


TWICE = """
import sys
from pathlib import Path
import pytest
from tests.alignment.chains import Chain
with pytest.MonkeyPatch.context() as monkeypatch:
    outcome = Chain(Path(sys.argv[1]), monkeypatch).run(f"runs_dir={sys.argv[2]}", "workers=2", recipe="evidence")
print(outcome.code, *outcome.started)
"""


def test_the_same_command_twice_at_once_starts_each_stage_once(chain: Chain, tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", TWICE, str(tmp_path / name), str(tmp_path / "runs")],
                             stdout=subprocess.PIPE, text=True) for name in ("one", "other")]
    (first, *started), (second, *others) = [process.communicate()[0].split() for process in both]
    assert (first, second) == ("0", "0")
    assert sorted([*started, *others]) == sorted(chain.config(recipe="evidence").stages)
    assert list((tmp_path / "runs/store/.work").iterdir()) == []


KILLED = """
import sys
from pathlib import Path
import pytest
from tests.alignment.chains import Chain
with pytest.MonkeyPatch.context() as monkeypatch:
    Chain(Path(sys.argv[1]), monkeypatch).run(recipe="sft_fin", sft="sleep")
"""


def test_a_killed_controller_takes_its_stages_along(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    begun = "runs/store/.work/sft-*/scratch/begun"
    while not list(tmp_path.glob(begun)):
        time.sleep(0.02)
    child = int(next(tmp_path.glob(begun)).read_text())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the stage outlived its controller"
        time.sleep(0.02)


CLINGING = """
import ctypes, os, sys
from tests.alignment import fake_stage
write = fake_stage.write_artifact
def cling(kind, output, weights):
    write(kind, output, weights)
    if kind == "sft":
        (output.parent / "scratch/begun").write_text(str(os.getpid()))
        ctypes.PyDLL(None).sleep(600)  # lets no other thread see that the controller is gone
fake_stage.write_artifact = cling
sys.exit(fake_stage.main())
"""


def test_a_stage_that_outlives_its_controller_keeps_its_lock(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    script = KILLED.replace("\nwith", f"\nfrom tests.alignment import chains"
                                      f"\nchains.COMMAND = (sys.executable, '-c', {CLINGING!r})\nwith")
    process = subprocess.Popen([sys.executable, "-c", script, str(chain.root)])
    begun = "runs/store/.work/sft-*/scratch/begun"
    while not [path for path in chain.root.glob(begun) if path.read_text()]:
        time.sleep(0.02)
    process.kill()
    process.wait()
    clinging = int(next(chain.root.glob(begun)).read_text())
    said = Recorder.say

    def say(self: Recorder, text: str) -> None:
        said(self, text)
        if "stage sft is being made by another run" in text:
            os.kill(clinging, signal.SIGKILL)

    monkeypatch.setattr(Recorder, "say", say)
    try:
        outcome = chain.run(recipe="sft_fin")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(clinging, signal.SIGKILL)
    assert "stage sft is being made by another run; waiting for it" in outcome.said
    assert outcome.code == 0 and outcome.started == ["sft", "evaluate"]


def test_code_that_changes_under_a_run_stops_it(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = chain.prepare()
    chain.code = {"alignment.stages.any": "2" * 16}
    recorder = Recorder()
    assert Controller(prepared, recorder, command=COMMAND).run() == 2
    assert "stage pretrain failed: its code was changed while the chain ran (module alignment.stages.any" in "".join(
        recorder.said)


def test_workers_run_side_by_side(chain: Chain) -> None:
    outcome = chain.run("workers=3", recipe="evidence")
    assert outcome.code == 0
    assert set(outcome.started) == set(outcome.config.stages)
    assert outcome.started.index("evaluate") > outcome.started.index("ppo_rule")
