"""Replies that were paid for, kept on disk by their requests, so that no request is ever paid for twice.

A reply is a file of its own, there as a whole or not at all, named by a hash of the request and of the settings it was
sent with; the address is not part of it. The folder outlives stages and runs, and several of them may use it at once.

What a stage used is also written down as one file of rows, in the order of use: a later run can replay it without a
network (`recorded`), and then whatever is not in it is an error.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.rows import read_rows, replacing, to_line, to_row
from data.schema import Row, UserError
from reward.judge import Ask, Reply, Request

FILE = "replies.jsonl"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeptReply(Row):
    """A reply on disk; `key` is the hash of its request."""

    key: str
    text: str
    probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: bool = True

    def reply(self) -> Reply:
        return Reply(self.text, self.probabilities, self.prompt_tokens, self.completion_tokens, self.finished)


class Replies:
    """A `Complete` that asks for what it does not have."""

    def __init__(self, ask: Ask | None, folder: Path | None, *, recorded: Mapping[str, KeptReply] | None = None,
                 **settings: Any) -> None:
        """`ask`: None = nothing is asked, all must be in `recorded`. `settings`: what the model is asked with, as far
        as it decides the reply."""
        self._ask, self._folder, self._settings = ask, folder, settings
        self._recorded = recorded or {}
        self.used: dict[str, KeptReply] = {}  # in the order of use
        self.asked = 0  # requests that were sent

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies in the requests' order; equal requests are one. What arrives before an error is kept."""
        keys = [request.key(**self._settings) for request in requests]
        wanted = dict(zip(keys, requests, strict=True))
        found = {key: kept for key in wanted if (kept := self._find(key)) is not None}
        missing = [key for key in wanted if key not in found]
        if missing and self._ask is None:
            first = str(wanted[missing[0]].messages[-1]["content"])
            raise UserError(f"{len(missing)} of {len(wanted)} requests are not among the recorded replies (the first "
                            f"one asks: {first[:120]!r}); record them anew, with the same prompts, model and "
                            "completions")
        if missing and self._ask is not None:
            for place, reply in self._ask([wanted[key] for key in missing]):
                found[missing[place]] = self._keep(missing[place], reply)
                self.asked += 1
        self.used.update((key, found[key]) for key in wanted if key not in self.used)
        return [found[key].reply() for key in keys]

    def _find(self, key: str) -> KeptReply | None:
        known = self.used.get(key) or self._recorded.get(key)
        return known if known is not None or self._folder is None else read_reply_file(self._path(key))

    def _keep(self, key: str, reply: Reply) -> KeptReply:
        kept = KeptReply(key=key, text=reply.text, probabilities=dict(reply.probabilities),
                         prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
                         finished=reply.finished)
        if self._folder is not None:
            with replacing(self._path(key)) as temporary:
                temporary.write_bytes(to_line(kept.to_json()))
        return kept

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key[2:]}.json"


def read_reply_file(path: Path) -> KeptReply | None:
    """The reply; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return to_row(value, KeptReply, where=str(path))
    except (FileNotFoundError, ValueError):  # UserError is one too
        return None


def read_recorded(place: Path) -> dict[str, KeptReply]:
    """The replies of a file that a run has written, or of the folder it is in. Raises UserError."""
    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of recorded replies; name the {FILE} of a judge's artifact")
    return {row.key: row for row in read_rows(path, KeptReply)}
