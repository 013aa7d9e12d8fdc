"""What a run shows while it works and when it is done: a bar a stage on a terminal, a line a stage anywhere else."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from alignment.pinning import cuda_visible

# Seconds a stage of the default recipes takes on two cores, to weigh what is still to come before it has begun.
TYPICAL_SECONDS = {"pretrain": 60.0, "sft": 45.0, "sample": 25.0, "judge": 20.0, "pairs": 2.0, "reward_model": 45.0,
                   "process_reward": 45.0, "critic": 400.0, "ppo": 200.0, "grpo": 150.0, "rloo": 150.0, "dpo": 40.0,
                   "evaluate": 60.0}


def clock(seconds: float) -> str:
    """12s, 3:05, 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Display(Protocol):
    """What the controller tells of a run."""

    def planned(self, stages: Mapping[str, float]) -> None:
        """stage -> seconds it is expected to take."""

    def started(self, stage: str) -> None: ...
    def progress(self, stage: str, done: int, total: int, unit: str) -> None: ...
    def ended(self, stage: str, status: str, seconds: float) -> None: ...
    def tick(self) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class Quiet:
    """Says only what `say` is asked to."""

    def planned(self, stages: Mapping[str, float]) -> None: ...
    def started(self, stage: str) -> None: ...
    def progress(self, stage: str, done: int, total: int, unit: str) -> None: ...
    def ended(self, stage: str, status: str, seconds: float) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Lines(Quiet):
    """Where nobody watches: a line on stdout when a stage starts and ends, and one a minute between."""

    EVERY = 60.0

    def __init__(self) -> None:
        self._names: list[str] = []
        self._spoke: dict[str, float] = {}

    def planned(self, stages: Mapping[str, float]) -> None:
        self._names = list(stages)

    def _line(self, stage: str, text: str) -> None:
        place = f"[{self._names.index(stage) + 1}/{len(self._names)}]" if stage in self._names else ""
        print(f"{place} {stage}: {text}", flush=True)

    def started(self, stage: str) -> None:
        self._spoke[stage] = time.monotonic()
        self._line(stage, "running")

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._spoke.get(stage, now) >= self.EVERY:
            self._spoke[stage] = now
            self._line(stage, f"{unit} {done} of {total}")

    def ended(self, stage: str, status: str, seconds: float) -> None:
        self._line(stage, status if status == "reused" else f"{status}, {clock(seconds)}")


class _Remaining(ProgressColumn):
    """A stage's status: what is left while it runs, what it took when it is done."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("status", ""), style=task.fields.get("style", "dim"))


class Bars:
    """On a terminal: one bar a stage and one for the whole, on stderr."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[count]}"),
                   _Remaining())
        self._progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._tasks: dict[str, TaskID] = {}
        self._expected: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._share: dict[str, float] = {}
        self._first = time.monotonic()

    def planned(self, stages: Mapping[str, float]) -> None:
        self._expected = dict(stages)
        for name in stages:
            self._tasks[name] = self._progress.add_task(name, total=1, count="", status="waiting", style="dim")
        self._tasks[""] = self._progress.add_task("[bold]whole chain", total=1, count="", status="", style="bold")
        self._progress.start()

    def started(self, stage: str) -> None:
        self._began[stage] = time.monotonic()
        self._progress.update(self._tasks[stage], status="starting", style="cyan")

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        self._share[stage] = done / max(total, 1)
        self._progress.update(self._tasks[stage], completed=done, total=max(total, 1), count=f"{done}/{total} {unit}s")

    def ended(self, stage: str, status: str, seconds: float) -> None:
        self._done[stage] = seconds if stage in self._began else 0.0
        if stage not in self._began:
            self._expected[stage] = 0.0
        style = {"reused": "dim", "done": "green"}.get(status, "red")
        total = self._progress.tasks[self._tasks[stage]].total
        self._progress.update(self._tasks[stage], completed=total, style=style,
                              status=status if status == "reused" else f"{status} {clock(seconds)}")
        self.tick()

    def remaining(self, stage: str) -> float:
        """Seconds left of a stage: by its own pace once it is under way, before that as expected."""
        if stage in self._done:
            return 0.0
        expected = self._expected[stage]
        if stage not in self._began:
            return expected
        elapsed, share = time.monotonic() - self._began[stage], self._share.get(stage, 0.0)
        return elapsed * (1 - share) / share if share > 0.05 else max(expected - elapsed, 1.0)

    def tick(self) -> None:
        left = {stage: self.remaining(stage) for stage in self._expected}
        for stage in self._began.keys() - self._done.keys():
            self._progress.update(self._tasks[stage], status=f"{clock(left[stage])} left")
        elapsed, ahead = time.monotonic() - self._first, sum(left.values())
        self._progress.update(self._tasks[""], completed=elapsed, total=max(elapsed + ahead, 1e-9),
                              status=f"{clock(elapsed)}, {clock(ahead)} left" if ahead else f"{clock(elapsed)}")

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def make(*, quiet: bool) -> Display:
    """Bars on a terminal, lines elsewhere, neither when quiet."""
    if quiet:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()


# The table at the end --------------------------------------------------------------------------------------------

HEADLINES = ("greedy", "sampled", "accuracy", "best_of_gain", "perplexity", "drills")


def cell(value: Any) -> str:
    """A metric as it is read: shares as percentages, with their 95% interval."""
    if not isinstance(value, Mapping):
        value = {"value": value}
    numbers = [value["value"], *([value["low"], value["high"]] if "low" in value else [])]
    share = all(-1 <= number <= 1 for number in numbers)
    shown = [f"{100 * number:.1f}" if share else f"{number:.2f}" for number in numbers]
    unit = "%" if share else ""
    return f"{shown[0]}{unit}" + (f" [{shown[1]}, {shown[2]}]" if len(shown) == 3 else "")


def table(results: Mapping[str, Any], order: Sequence[str], title: str) -> Table | None:
    """Stages x held-out metrics of one evaluation; its metrics are named `stage.metric`."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in results.items():
        row, _, metric = name.rpartition(".")
        if row:
            rows.setdefault(row, {})[metric] = value
    names = sorted(rows, key=lambda row: (order.index(row) if row in order else len(order), row))
    columns = [metric for metric in HEADLINES if any(metric in row for row in rows.values())]
    if not columns:
        return None
    shown = Table(title=title, title_justify="left")
    shown.add_column("stage")
    for metric in columns:
        shown.add_column(metric.replace("_", " "), justify="right")
    for name in names:
        if any(metric in rows[name] for metric in columns):
            shown.add_row(name, *(cell(rows[name][metric]) if metric in rows[name] else "" for metric in columns))
    return shown


def show(shown: Table) -> None:
    """Prints a table on stdout, wide enough for its columns where nobody watches."""
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def how_to_use(model: Path) -> list[str]:
    """A line to talk to a model's folder and, where vLLM is installed, one to serve it as OpenAI's servers do.

    The server computes in the weights' own number format, which it would not by itself, and answers this machine alone.
    On a CPU it is told how much memory its cache may take: left alone it wants nearly all.
    """
    folder = shlex.quote(str(model))
    lines = [f"talk to it: python -m alignment.chat {folder}"]
    if importlib.util.find_spec("vllm") is not None:
        dtype = json.loads((model / "config.json").read_text(encoding="utf-8")).get("dtype") or "float32"
        lines.append(f"serve it: python -m vllm.entrypoints.openai.api_server --model {folder} --served-model-name "
                     f"{shlex.quote(model.absolute().name)} --dtype {dtype} --host 127.0.0.1"
                     + ("" if cuda_visible() else " --enforce-eager --kv-cache-memory-bytes 1G"))
    return lines
