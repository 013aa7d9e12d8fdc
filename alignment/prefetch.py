"""The next iteration's completions, generated on a thread while this iteration's update runs.

They come from the weights that the engine holds meanwhile, so that each update but the first learns from completions
that are one update old; truncated importance weights correct for it (`importance_cap`). What has been generated is part
of the state: a run that is resumed trains on what it would have trained on.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

from alignment.ppo_state import PpoState
from alignment.rollout import Generation


class Prefetch:
    """At most one draw on its way; the engine is nobody else's until `settle` has returned."""

    def __init__(self, state: PpoState) -> None:
        self.state = state
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._under_way: tuple[int, concurrent.futures.Future[list[Generation]]] | None = None

    def start(self, draw: int, generate: Callable[[], list[Generation]]) -> None:
        """Begins, unless this draw was made before the run was cut short."""
        if draw not in self.state.ahead:
            self._under_way = draw, self._pool.submit(generate)

    def settle(self) -> None:
        """Waits for what is under way and puts it into the state."""
        if self._under_way is not None:
            draw, made = self._under_way
            self._under_way = None
            self.state.ahead[draw] = made.result()

    def take(self, draw: int) -> list[Generation] | None:
        """The completions of a draw, where they were made ahead; those of draws before it, which a roll-back has left
        out, are forgotten."""
        self.settle()
        for old in [made for made in self.state.ahead if made < draw]:
            del self.state.ahead[old]
        return self.state.ahead.get(draw)
