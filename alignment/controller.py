"""The one controller: starts each stage in its own process, follows it, and alone seals what it made.

A single loop looks after all running stages, so nothing here needs a thread or a lock of its own. It imports no
numerical library, and a run in which everything is sealed already starts no process at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment import contracts, gates, leakage, nursery, pinning, unfinished
from alignment.child import STAGE_COMMAND, Child, ended_by, ranks_command, separately
from alignment.display import TYPICAL_SECONDS, Display
from alignment.kinds import Evaluate
from alignment.pinning import CORES
from alignment.plan import BASE
from alignment.prepare import (
    Node,
    Prepared,
    check_allowed,
    check_code,
    check_disk,
    check_machine,
    check_ready,
    expected_seconds,
    needs_network,
    workers,
)
from alignment.record import RunRecord
from alignment.store import LOG, MAKE_ROOM, MANIFEST, REFUSALS, Artifact, Lock, StoreError, write_text
from data.schema import UserError

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
POLL_SECONDS = 0.1
RECORD_SECONDS = 10.0
FULL_BYTES = 2**20  # with less room than this a disk counts as full


@dataclasses.dataclass
class Running:
    """A stage under way and what it has said."""

    node: Node
    child: Child
    lock: Lock
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    peak_mib: float | None = None
    error: tuple[bool, str] | None = None  # (the user's, text)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


class Controller:
    """Runs a prepared chain. `command` starts a stage's process; it is given the kind, and its job on stdin.

    Without one, stages are forked from a process that has their libraries where that can be (alignment/nursery.py).
    """

    def __init__(self, prepared: Prepared, display: Display, *, command: Sequence[str] | None = None) -> None:
        self._prepared, self._display = prepared, display
        self._config, self._store = prepared.config, prepared.store
        self._run_dir = self._config.run_dir
        self._sealed: dict[str, Artifact] = {}
        self._running: dict[str, Running] = {}
        self._waiting: set[str] = set()  # stages another run is making
        self._warm: dict[str, Child] = {}  # the next stage's process, loading its libraries
        self._unsealed_logs: dict[str, list[dict[str, Any]]] = {}  # of stages that did not come to an artifact
        self._exit, self._interrupted = DONE, False
        self._environment = pinning.environment(threads=self._config.root.threads,
                                                portable=self._config.root.portable,
                                                offline=not needs_network(prepared))
        self._nursery = nursery.Nursery(self._environment)
        forked = command is None and nursery.serves()
        self._launch = self._nursery.start if forked else separately(command or STAGE_COMMAND, self._environment)
        self._workers = workers(prepared)
        base = prepared.base_model
        code = {name: sha for node in prepared.nodes for name, sha in node.parts.get("code", {}).items()}
        self.record = RunRecord(
            self._config, stage_seeds={node.name: node.seed for node in prepared.nodes},
            code=dict(sorted(code.items())), data_files=prepared.data_files,
            base_model={"path": base.name, "folder": str(base.path), "identity": base.identity} if base else None)

    # The loop ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Runs to the end, a closed gate, a failure or an interrupt; the exit code. Never leaves a stage running.

        Raises UserError for a sealed artifact that was changed, OSError where the disk is full or read-only.
        """
        check_allowed(self._prepared)
        check_machine(self._prepared)
        check_ready(self._prepared)
        check_disk(self._prepared)
        self._open_run_folder()
        self._display.planned(expected_seconds(self._prepared, TYPICAL_SECONDS))
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._loop()
        except Interrupted:
            self._exit = INTERRUPTED
            for running in self._running.values():
                self.record.stage(running.node.name, status="interrupted")
        except BaseException:
            self._exit = self._exit or FAILED
            raise
        finally:
            for child in self._warm.values():
                child.stop()
            for running in self._running.values():
                running.child.stop()
                running.lock.release()
            self._nursery.close()
            self._display.close()
            try:
                self._close_run_folder()
            except OSError:  # of a full disk: what was wrong before is the news
                if self._exit == DONE:
                    raise
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        if self._exit == INTERRUPTED:
            self._display.say("interrupted; the same command goes on from here")
        return self._exit

    def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
        self._interrupted = True  # the loop looks, so that no step is left half done and no child without a parent

    def _loop(self) -> None:
        written = time.monotonic()
        while True:
            if self._interrupted:
                raise Interrupted
            self._start_ready()
            if not self._running and not (self._waiting and self._exit == DONE):
                return
            self._warm_up()
            time.sleep(POLL_SECONDS)
            for name in list(self._running):
                self._follow(self._running[name])
            self._display.tick()
            if time.monotonic() - written > RECORD_SECONDS:
                self.record.write()
                written = time.monotonic()

    def _start_ready(self) -> None:
        """Reuses what is sealed and starts what is ready, as far as there are workers, until nothing moves."""
        moved = True
        while moved and self._exit == DONE:
            moved = False
            for node in self._prepared.nodes:
                if self._exit != DONE:
                    return
                started = node.name in self._sealed or node.name in self._running
                if not started and all(source in self._sealed or source == BASE
                                       for source in node.stage.inputs.values()):
                    moved |= self._reuse(node) or (len(self._running) < self._workers and self._start(node))

    def _warm_up(self) -> None:
        """Starts the next stage's process ahead of its turn where a core is free for it."""
        if self._warm or not self._running or self._exit != DONE or len(self._running) >= CORES:
            return
        for node in self._prepared.nodes:
            if node.name not in self._sealed and node.name not in self._running and not node.stage.adopted and (
                    node.name in self._prepared.forced
                    or self._store.get(node.stage.config.kind, node.identity) is None):
                self._warm[node.name] = self._spawn(node)
                return

    def _spawn(self, node: Node) -> Child:
        layout = self._prepared.layout_of(node.stage)
        launch = self._launch if layout.world == 1 else separately(ranks_command(layout), self._environment)
        return Child.start(node.stage.config.kind, launch, log=self._log_path(node))

    def _reuse(self, node: Node) -> bool:
        """Takes the sealed artifact of this identity, if there is one and it is not forced away."""
        if node.name in self._prepared.forced:
            return False
        artifact = self._store.get(node.stage.config.kind, node.identity)
        if artifact is None:
            return False
        self._waiting.discard(node.name)
        self._store.tidy(node.stage.config.kind, node.identity)
        self._finish(node, artifact, status="reused")
        return True

    # One stage ---------------------------------------------------------------------------------------------------

    def _inputs(self, node: Node) -> dict[str, Path]:
        base = self._prepared.base_model
        return {role: base.path if base and source == BASE else self._sealed[source].path
                for role, source in node.stage.inputs.items()}

    def _start(self, node: Node) -> bool:
        """Starts a stage, or finds it sealed; False while another run is making the same artifact."""
        kind = node.stage.config.kind
        lock = self._store.lock(kind, node.identity)
        if not lock.acquire():
            lock.release()
            if node.name not in self._waiting:
                self._waiting.add(node.name)
                self._display.say(f"stage {node.name} is being made by another run; waiting for it")
            return False
        self._waiting.discard(node.name)
        if self._store.get(kind, node.identity) is not None and node.name not in self._prepared.forced:
            lock.release()
            return self._reuse(node)
        try:
            return self._begin(node, lock)
        except OSError:
            lock.release()
            raise

    def _begin(self, node: Node, lock: Lock) -> bool:
        """Checks the hand-off and starts the stage's process, or adopts what takes its place."""
        kind = node.stage.config.kind
        work = self._store.work(kind, node.identity)
        shutil.rmtree(work / "output", ignore_errors=True)
        for folder in ("output", "scratch"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        self._display.started(node.name)
        try:
            inputs = self._inputs(node)
            if node.stage.adopted:
                self._adopt(node, lock)
                return True
            check_code(self._prepared, node)
            if node.goes_on is not None:
                unfinished.take_over(self._store, work, node.parts, other=node.goes_on)
            contracts.check_inputs(node.stage, inputs)
            if isinstance(node.stage.config, Evaluate):
                leakage.check(node.stage, self._config.data.source_config(), (
                    (self._prepared.node(name).stage, artifact.path) for name, artifact in self._sealed.items()))
        except UserError as error:
            lock.release()
            self._fail(node, str(error), user=True, seconds=0.0)
            return False
        unfinished.begin(work, node.parts)
        child = self._warm.get(node.name) or self._spawn(node)
        self._running[node.name] = Running(node, child, lock)  # first, so that whatever interrupts ends it
        self._warm.pop(node.name, None)
        child.give(self._job(node, inputs, work), work=work, lock=lock)
        self.record.stage(node.name, kind=kind, identity=node.identity, status="running")
        self.record.write()
        return True

    def _job(self, node: Node, inputs: dict[str, Path], work: Path) -> dict[str, Any]:
        """What alignment.stage.load_job reads."""
        return {"name": node.name, "kind": node.stage.config.kind, "config": dataclasses.asdict(node.stage.config),
                "inputs": {role: str(path) for role, path in inputs.items()},
                "data": self._config.data.source_config(), "rollout": self._prepared.rollout, "seed": node.seed,
                "root_seed": self._config.root.seed,
                "layout": dataclasses.asdict(self._prepared.layout_of(node.stage)),
                "output": str(work / "output"), "scratch": str(work / "scratch"), "events": str(work / "events.jsonl"),
                "kept": str(self._store.kept), "log": str(self._log_path(node))}

    def _log_path(self, node: Node) -> Path:
        return self._run_dir / "logs" / f"{node.name}.log"

    def _adopt(self, node: Node, lock: Lock) -> None:
        """Seals a copy of the folder the user names, a sealed artifact perhaps, as this stage's artifact."""
        folder = Path(str(node.stage.config.adopt)).expanduser()
        contracts.check_artifact(node.stage, folder, {})
        output = self._store.work(node.stage.config.kind, node.identity) / "output"
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = source.relative_to(folder)
            if relative.name not in (MANIFEST, LOG) and not any(part.startswith(".") for part in relative.parts):
                (output / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, output / relative)
        self._seal(node, lock, seconds=0.0, adopted=str(folder.resolve()), notes=[f"adopted from {folder.resolve()}"])

    def _follow(self, running: Running) -> None:
        """Takes in what a stage said, and its end."""
        code = running.child.exit_code()  # asked before reading, so that no last word is lost
        for event in running.child.new_events():
            self._take(running, event)
        if code is None:
            return
        running.child.close()
        del self._running[running.node.name]
        try:
            self._end(running, code)
        finally:
            running.lock.release()

    def _end(self, running: Running, code: int) -> None:
        """Seals what a stage made, or tells why there is nothing to seal."""
        node, seconds = running.node, running.child.seconds
        if code == DONE:
            try:
                output = self._store.work(node.stage.config.kind, node.identity) / "output"
                contracts.check_artifact(node.stage, output, self._inputs(node))
                self._seal(node, running.lock, seconds=seconds, metrics=running.metrics, log=running.log,
                           notes=[*running.notes, *unfinished.notes(output.parent)], peak_mib=running.peak_mib)
                return
            except (UserError, StoreError) as error:
                running.error = (False, str(error))
        self._unsealed_logs[node.name] = running.log
        lost = "the process that stages are forked from was ended; the same command goes on from here"
        user, text = running.error or (False, lost if code == nursery.LOST else f"it {ended_by(code)}")
        if shutil.disk_usage(self._store.root).free < FULL_BYTES:
            text += f". The disk of {self._store.root} is full: {MAKE_ROOM}"
        self._fail(node, text, user=user, seconds=seconds)

    def _take(self, running: Running, event: dict[str, Any]) -> None:
        name = running.node.name
        match event["event"]:
            case "progress":
                self._display.progress(name, event["done"], event["total"], event["unit"])
            case "metrics":
                line = {"stage": name, "step": event["step"], "time": event["time"], **event["metrics"]}
                running.log.append(line)
                with (self._run_dir / LOG).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            case "note" | "warning":
                running.notes.append(event["text"])
                if event["event"] == "warning":
                    self._display.say(f"stage {name}: {event['text']}")
            case "result":
                running.metrics.update(event["metrics"])
            case "peak":
                running.peak_mib = event["mib"]
            case "error":
                running.error = running.error or (event["user"], event["text"])  # the first of several processes

    def _seal(self, node: Node, lock: Lock, *, seconds: float, metrics: dict[str, Any] | None = None,
              notes: list[str] | None = None, log: list[dict[str, Any]] | None = None,
              adopted: str | None = None, peak_mib: float | None = None) -> None:
        artifact = self._store.seal(kind=node.stage.config.kind, identity=node.identity, stage=node.name,
                                    parts=node.parts, seed=node.seed, seconds=seconds, metrics=metrics or {},
                                    notes=notes or [], log=log or [], adopted=adopted, peak_mib=peak_mib)
        lock.release()
        self._finish(node, artifact, status="done")

    def _finish(self, node: Node, artifact: Artifact, *, status: str) -> None:
        """Notes a stage that has its artifact, links it, and asks its gates."""
        self._sealed[node.name] = artifact
        if node.name in self._warm:  # another run made it while this one was getting ready to
            self._warm.pop(node.name).stop()
        self._display.ended(node.name, status, float(artifact.manifest["seconds"]))
        link = self._run_dir / "stages" / node.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # the same command, run twice at once, has just made it
            link.symlink_to(os.path.relpath(artifact.path, link.parent))
        self.record.stage(node.name, kind=node.stage.config.kind, identity=artifact.identity,
                          status="reused" if status == "reused" else "adopted" if node.stage.adopted else "ran",
                          seconds=artifact.manifest["seconds"], peak_mib=artifact.manifest.get("peak_mib"),
                          metrics=artifact.metrics,
                          notes=artifact.manifest["notes"], adopted=artifact.manifest["adopted"],
                          output_sha256=artifact.output_sha256, files=artifact.manifest["files"],
                          artifact=os.path.relpath(artifact.path, self._run_dir))
        accepted = self._prepared.node(node.name).accepted
        if accepted:
            self.record.stage(node.name, accepted_code_change=accepted)
            self._display.say(f"stage {node.name}: reused although its code has changed ({len(accepted)} of its "
                              "modules)")
        self.record.write()
        conditions = [] if node.stage.adopted else node.stage.config.require  # what is adopted reports no metrics
        for gate in gates.check(node.name, conditions, artifact.metrics):
            warn = self._config.root.gates == "warn"
            self.record.content["gates"].append({"stage": gate.stage, "require": str(gate.gate), "value": gate.value,
                                                 "evidence": gate.evidence, "stopped": not warn})
            self._display.say(f"{gate}; {'going on, as gates=warn' if warn else 'gates=warn goes on all the same'} "
                              f"(log: {self._log_path(node)})")
            if not warn:
                self._exit = self._exit or FAILED
                self.record.content["closed"] = gate.stage

    def _fail(self, node: Node, text: str, *, user: bool, seconds: float) -> None:
        self._exit = self._exit or (USER_ERROR if user else FAILED)
        self._display.ended(node.name, "failed", seconds)
        self.record.stage(node.name, kind=node.stage.config.kind, identity=node.identity, status="failed",
                          seconds=round(seconds, 3), error=text)
        log = self._log_path(node)
        self._display.say(f"stage {node.name} failed: {text}" + (f"\n  log: {log}" if log.exists() else ""))

    # The run's folder --------------------------------------------------------------------------------------------

    def _open_run_folder(self) -> None:
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._store.begin()
            write_text(self._run_dir / "config.yaml", self._config.to_yaml())
        except OSError as error:
            way_out = REFUSALS.get(error.errno or 0, "choose another folder with runs_dir=PATH")
            raise UserError(f"{self._run_dir} cannot be written ({error.strerror}); {way_out}") from None
        (self._run_dir / LOG).unlink(missing_ok=True)
        known = set(self._config.stages)  # those that until= and only= leave out keep what they have
        for link in (self._run_dir / "stages").glob("*"):
            if link.is_symlink() and link.name not in known:
                link.unlink(missing_ok=True)

    def _close_run_folder(self) -> None:
        """The last word: metrics of all stages in the chain's order, and the manifest."""
        self._unsealed_logs |= {name: running.log for name, running in self._running.items()}
        logs = [(self._sealed[node.name].path / LOG).read_text(encoding="utf-8") if node.name in self._sealed
                else "".join(json.dumps(line) + "\n" for line in self._unsealed_logs.get(node.name, []))
                for node in self._prepared.nodes]
        write_text(self._run_dir / LOG, "".join(logs))
        status = {DONE: "done", FAILED: "failed", USER_ERROR: "failed", INTERRUPTED: "interrupted"}[self._exit]
        if self.record.content.pop("closed", None):
            status = "gate closed"
        self.record.write(status=status, files=["config.yaml", LOG])

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Results of the evaluation stages that are sealed."""
        return {name: artifact.metrics for name, artifact in self._sealed.items()
                if self._prepared.node(name).stage.kind.makes == "evaluation"}
