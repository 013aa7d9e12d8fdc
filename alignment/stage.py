"""The child's side of a stage: read the job, run the kind's module, leave an artifact and its metrics.

Run by the controller as `python -m alignment.stage --attached KIND`: it loads the kind's module while an earlier stage
still runs, reads the job file's path from stdin, and ends when the controller does; by alignment/ranks.py, once for
each of several processes, as `python -m alignment.stage --rank KIND JOB.json`. By hand, to look at one stage:
`python -m alignment.stage JOB.json`. A stage module `alignment.stages.<kind>` has one entry
point, `run(stage: Stage) -> None`. It writes its artifact into `stage.output`; the controller alone seals it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import signal
import socket
import stat
import sys
import threading
import time
import traceback
import types
from pathlib import Path
from typing import Any

from alignment.kinds import KINDS, StageConfig
from alignment.layout import ALONE, Layout
from alignment.seeds import derive
from data.schema import UserError

LOST = "by peer"  # of what torch says where another process has gone
UNUSED = ("sklearn", "scipy", "peft", "trio")  # which libraries load where they are there, and no stage needs at its
# start: a quarter of all
EVENTS = "events.jsonl"  # in a checkpoint: the metrics logged before it


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How text is generated (the recipe's `rollout` group)."""

    engine: str = "auto"  # vllm | transformers | server; a run settles auto before it starts
    max_num_seqs: int = 256  # completions generated side by side
    kv_cache_mb: int = 512
    dtype: str = "float32"
    sleep: bool = False
    urls: list[str] = dataclasses.field(default_factory=list)
    servers: int = 1
    tensor_parallel: int = 1
    start_seconds: float = 600.0
    reply_seconds: float = 600.0


@dataclasses.dataclass(frozen=True)
class Serving:
    """Where a stage leaves weights for servers to read, and where those it starts write their log."""

    weights: Path
    log: Path


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage is given.

    `seed` belongs to this stage alone; `data` is the recipe's data-source config; `inputs` maps a role to the folder
    of a sealed artifact; `scratch` survives a restart of the same stage and is deleted on sealing; `kept` outlives
    stages and runs, and may hold nothing that could change a result. Of several processes each runs the whole stage,
    and number 0 alone is heard; what the others write into their `output` is not read.
    """

    name: str
    kind: str
    config: Any  # the kind's dataclass
    inputs: dict[str, Path]
    data: dict[str, Any]
    rollout: Rollout
    seed: int
    root_seed: int  # the recipe's: for draws that stages share by name, such as a purpose's questions
    output: Path
    scratch: Path
    events: Path
    kept: Path | None = None  # None: there is no such folder, and nothing is kept
    layout: Layout = ALONE  # of the stage's processes
    rank: int = 0  # this process's number
    log_file: Path | None = None  # what the stage prints, in the run's folder

    @property
    def leads(self) -> bool:
        """Whether this is the process that is heard."""
        return self.rank == 0

    @property
    def serving(self) -> Serving:
        """Weights pass through the scratch folder; a server's log lies beside the stage's."""
        beside = self.log_file or self.scratch / "stage.log"
        return Serving(self.scratch / "weights", beside.with_suffix(".server.log"))

    def derive(self, *path: str | int) -> int:
        """A seed for a place inside this stage."""
        return derive(self.seed, *path)

    def _event(self, **event: Any) -> None:
        if not self.leads and event["event"] != "error":
            return
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n")

    def progress(self, done: int, total: int, unit: str = "step") -> None:
        """Moves the stage's bar."""
        self._event(event="progress", done=done, total=total, unit=unit)

    def log(self, step: int, **metrics: float) -> None:
        """One line of the run's metrics.jsonl. Every name is documented in alignment/metrics.py."""
        self._event(event="metrics", step=step, metrics=metrics)

    def save_log(self, checkpoint: Path) -> None:
        """Keeps the metrics logged so far with a checkpoint."""
        lines = self.events.read_text(encoding="utf-8").splitlines(keepends=True) if self.events.exists() else []
        logged = [line for line in lines if json.loads(line)["event"] == "metrics"]
        (checkpoint / EVENTS).write_text("".join(logged), encoding="utf-8")

    def resume_log(self, checkpoint: Path | None) -> list[tuple[int, dict[str, float]]]:
        """Logs again what was logged before the checkpoint that the stage goes on from; (step, metrics) of
        each."""
        if checkpoint is None:
            return []
        text = (checkpoint / EVENTS).read_text(encoding="utf-8")
        if self.leads:
            with self.events.open("a", encoding="utf-8") as file:
                file.write(text)
        return [(row["step"], row["metrics"]) for row in map(json.loads, text.splitlines())]

    def note(self, text: str) -> None:
        """A sentence for the report: rows kept and dropped and why, what was chosen and why."""
        self._event(event="note", text=text)

    def warn(self, text: str) -> None:
        """A note that whoever started the run should read now."""
        self._event(event="warning", text=text)

    def result(self, **metrics: float | dict[str, float]) -> None:
        """The stage's own held-out metrics: a number, or {value, low, high, n}. Gates read these."""
        self._event(event="result", metrics=metrics)


def load_job(path: Path, *, rank: int | None = None) -> Stage:
    """The stage a job file describes, as process number `rank` of its layout sees it, or one alone."""
    job = json.loads(path.read_text(encoding="utf-8"))
    config_class: type[StageConfig] = KINDS[job["kind"]].config
    scratch = Path(job["scratch"])
    return Stage(name=job["name"], kind=job["kind"], config=config_class(**job["config"]),
                 inputs={role: Path(folder) for role, folder in job["inputs"].items()}, data=job["data"],
                 rollout=Rollout(**job["rollout"]), seed=job["seed"], root_seed=job["root_seed"],
                 output=scratch / f"process-{rank}" if rank else Path(job["output"]), scratch=scratch,
                 events=Path(job["events"]),
                 kept=Path(job["kept"]) if "kept" in job else None,
                 layout=ALONE if rank is None else Layout(**job["layout"]), rank=rank or 0,
                 log_file=Path(job["log"]) if "log" in job else None)


def receive_job() -> Path:
    """Waits for the job file's path on stdin; from then on this process group ends when stdin does.

    With the path comes a share in the job's lock. Left open, it holds the lock until this process is gone, so that no
    other one makes the same artifact while this one, its controller killed, still lives.
    """
    line = b""
    while not line.endswith(b"\n"):
        part = read_stdin()
        if not part:
            sys.exit(0)  # the controller is gone, or had no need of this process
        line += part
    threading.Thread(target=_end_with_controller, daemon=True).start()
    return Path(os.fsdecode(line.rstrip(b"\n")))


def read_stdin() -> bytes:
    """What has come on stdin, a lock with it; b"" at its end. On another machine stdin is a pipe, and no lock comes."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        return os.read(0, 4096)
    with socket.socket(fileno=os.dup(0)) as stdin:
        return socket.recv_fds(stdin, 4096, 1)[0]


def _end_with_controller() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.killpg(0, signal.SIGKILL)


def peak_mib() -> float:
    """The most memory this process has held so far."""
    units = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MiB: bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units, 1)


def load(kind: str) -> types.ModuleType:
    """The kind's module with its libraries, but for those in UNUSED."""
    with contextlib.ExitStack() as after:
        for name in UNUSED:
            if name not in sys.modules:
                sys.modules[name] = None  # type: ignore[assignment]  # so Python is told that there is no such module
                after.callback(sys.modules.pop, name)
        return importlib.import_module(f"alignment.stages.{kind}")


def work(stage: Stage) -> None:
    """Runs the kind's module, in one process or as one of several."""
    module = load(stage.kind)
    if stage.layout == ALONE:
        module.run(stage)
        return
    group = importlib.import_module("alignment.group")
    group.join()
    module.run(stage)
    group.leave()


def main(argv: list[str]) -> int:
    """Exit codes: 0 done, 1 failed, 2 the user's input is wrong (the last event says what)."""
    if argv[0] == "--attached":
        with contextlib.suppress(ImportError):  # raised again below, where it can be reported
            load(argv[1])
        stage = load_job(receive_job())
    elif argv[0] == "--rank":
        threading.Thread(target=_end_with_controller, daemon=True).start()
        stage = load_job(Path(argv[2]), rank=int(os.environ["RANK"]))
    else:
        stage = load_job(Path(argv[0]))
    stage.output.mkdir(parents=True, exist_ok=True)
    stage.scratch.mkdir(parents=True, exist_ok=True)
    try:
        work(stage)
    except UserError as error:
        stage._event(event="error", user=True, text=str(error))
        traceback.print_exc()
        return 2
    except Exception as error:  # whatever it is, the controller reports it; an interrupt has nothing to report
        if stage.layout == ALONE or LOST not in str(error):  # another process failed first, and that is the news
            stage._event(event="error", user=False, text=f"{type(error).__name__}: {error}")
        raise
    stage._event(event="peak", mib=peak_mib())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
