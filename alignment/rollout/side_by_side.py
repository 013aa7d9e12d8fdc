"""Generation by several processes of one thread each, where one of several threads would do it.

A decoding step is many small operations: threads share the larger of them, processes share them all. As PyTorch's data
loader forks its workers, they are forked for one call, with the weights as they are then, and end with it. What they
make travels as numbers through a pipe.
"""

from __future__ import annotations

import array
import functools
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from alignment.child import ended_by
from alignment.rollout.engine import Generation
from alignment.rollout.shared import as_generations, as_numbers

Part = TypeVar("Part")
LEAST = 16  # completions that are worth a process


def parts_of(prompts: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
    """The prompts' places, in as many parts as this process has threads and there is work for; like prompts stay
    together. One part where a fork would not do: off Linux, on a GPU, and where another thread may be computing."""
    beside = any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())
    forks = sys.platform == "linux" and device.type == "cpu" and not beside and (
        threading.current_thread() is threading.main_thread())
    count = max(1, min(torch.get_num_threads(), len(prompts) // LEAST)) if forks else 1
    distinct: dict[tuple[int, ...], int] = {}
    numbers = [distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts]
    parts = [[place for place, number in enumerate(numbers) if number % count == part] for part in range(count)]
    return [part for part in parts if part]


def side_by_side(work: Callable[[Part], list[Generation]], parts: Sequence[Part]) -> list[list[Generation]]:
    """`work` of each part: of the first here, of each other one in a process of its own. RuntimeError where one ends
    before it is done."""
    if len(parts) == 1:
        return [work(parts[0])]
    threads = torch.get_num_threads()
    helpers: list[Helper] = []
    try:
        torch.set_num_threads(1)
        for part in parts[1:]:
            helpers.append(Helper(functools.partial(work, part)))
        return [work(parts[0]), *(helper.result() for helper in helpers)]
    finally:
        torch.set_num_threads(threads)
        for helper in helpers:
            helper.end()


class Helper:
    """A forked process that does `work` and tells what came of it."""

    def __init__(self, work: Callable[[], list[Generation]]) -> None:
        self._told, tells = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of any fork beside threads
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._told)
            _do(work, tells)
        os.close(tells)
        self._code: int | None = None

    def result(self) -> list[Generation]:
        with open(self._told, "rb", closefd=False) as file:
            told = array.array("d", file.read())
        self._wait()
        if self._code:
            raise RuntimeError(f"a process that generated {ended_by(self._code)} before it was done; see the log")
        return as_generations(told)

    def end(self) -> None:
        """Ends it, done or not."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self._wait()
        os.close(self._told)

    def _wait(self) -> None:
        self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _do(work: Callable[[], list[Generation]], tells: int) -> None:
    """In the forked process: never returns, and leaves what it shares with the other one as it is."""
    code = 1
    try:
        with open(tells, "wb") as file:
            array.array("d", as_numbers(work())).tofile(file)
        code = 0
    finally:
        if code:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
