"""A stage's model behind a URL, with its replies kept on disk as they come, or replayed; and what they cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.preference_kinds import Remote
from alignment.stage import Stage
from reward.endpoint import Endpoint, Settings
from reward.judge import Ask
from reward.replies import Replies, read_recorded


@contextlib.contextmanager
def open_replies(stage: Stage, *, ask: Any = None, **settings: Any) -> Iterator[Replies]:
    """The replies of the stage's model, asked with these settings (those of `Settings` that decide a reply).

    `ask`: what is asked in place of the URL, made by calling it; it is closed at the end. UserError where the address,
    the key or the recorded replies cannot be used.
    """
    config: Remote = stage.config
    settings = {"model": str(config.model), **settings}
    if config.replay is not None:
        yield Replies(None, None, recorded=read_recorded(Path(config.replay).expanduser()), **settings)
        return
    asked: Ask = ask() if ask is not None else endpoint(config, **settings)
    with contextlib.closing(asked):  # type: ignore[type-var]
        yield Replies(asked, folder(stage), **settings)


def endpoint(config: Remote, **settings: Any) -> Endpoint:
    return Endpoint(Settings(
        url=str(config.url), key_variable=config.key_variable, concurrency=config.concurrency,
        requests_per_minute=config.requests_per_minute, timeout=config.timeout, tries=config.tries, **settings))


def folder(stage: Stage) -> Path | None:
    """Where replies are kept."""
    if stage.config.cache is not None:
        return Path(stage.config.cache).expanduser()
    return stage.kept / "replies" if stage.kept is not None else None


def costs(replies: Replies, config: Remote) -> dict[str, float]:
    """What the replies took that were used, those of earlier runs included."""
    used = replies.used.values()
    read, written = sum(reply.prompt_tokens for reply in used), sum(reply.completion_tokens for reply in used)
    return {"replies": len(used), "requests": replies.asked, "prompt_tokens": read, "completion_tokens": written,
            "cost": (read * config.prompt_price + written * config.completion_price) / 1e6}


def origin(replies: Replies) -> str:
    """Where they came from, for the report."""
    return (f"{replies.asked} of {len(replies.used)} replies were asked for now, the others kept from before")
